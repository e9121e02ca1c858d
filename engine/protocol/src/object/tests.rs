use proptest::prelude::*;

use super::*;
use crate::path::{Names, ObjectKey, RootKey, encrypt_key};

fn header() -> ObjectHeader {
    ObjectHeader {
        object_id: [1; 16].into(),
        content_key: [2; 32],
        object_root: [3; 32],
        parts: vec![PartEntry {
            number: 1,
            plain_len: 67_108_865,
            segment_count: 2,
        }],
        segment_bytes: 67_108_864,
        metadata: vec![
            ("content-type".into(), b"text/plain".to_vec()),
            ("owner".into(), vec![0xff, 0]),
        ],
        modified_ms: Some(1_700_000_000_000),
    }
}

fn place() -> (PathKey, Vec<u8>) {
    let bucket = RootKey::from([7; 32]).bucket_key("photos", 0);
    let (encrypted, key) =
        encrypt_key(&bucket, Names::Sealed, &ObjectKey::parse("a/b").unwrap()).unwrap();
    (key, encrypted)
}

#[test]
fn a_header_opens_where_it_was_sealed_and_nowhere_else() {
    let (key, encrypted_key) = place();
    let project = ProjectId::from([9; 16]);
    let home = Location {
        project,
        bucket: "photos",
        encrypted_key: &encrypted_key,
    };
    let sealed = seal_header(&key, &home, &header()).unwrap();
    assert_eq!(sealed.len(), header().encode().unwrap().len() + 16);
    assert_eq!(open_header(&key, &home, &sealed), Ok(header()));

    let mut moved = encrypted_key.clone();
    moved.insert(0, b's');
    let elsewhere = [
        Location {
            project: [8; 16].into(),
            ..home
        },
        Location {
            bucket: "photo",
            ..home
        },
        Location {
            bucket: "photo",
            encrypted_key: &moved,
            ..home
        },
        Location {
            encrypted_key: &encrypted_key[..encrypted_key.len() - 1],
            ..home
        },
        Location {
            encrypted_key: &[],
            ..home
        },
    ];
    for location in elsewhere {
        assert_eq!(
            open_header(&key, &location, &sealed),
            Err(HeaderError::Sealed),
            "{location:?}"
        );
    }
    for other in [key.child(b"c"), PathKey::from([0; 32])] {
        assert_eq!(
            open_header(&other, &home, &sealed),
            Err(HeaderError::Sealed)
        );
    }
}

#[test]
fn a_move_reseals_the_same_header() {
    let (key, encrypted_key) = place();
    let bucket = RootKey::from([7; 32]).bucket_key("attic", 0);
    let (moved_to, new_key) =
        encrypt_key(&bucket, Names::Sealed, &ObjectKey::parse("z").unwrap()).unwrap();
    let project = ProjectId::from([9; 16]);
    let old = Location {
        project,
        bucket: "photos",
        encrypted_key: &encrypted_key,
    };
    let new = Location {
        project,
        bucket: "attic",
        encrypted_key: &moved_to,
    };
    let sealed = seal_header(&key, &old, &header()).unwrap();
    let resealed = seal_header(&new_key, &new, &open_header(&key, &old, &sealed).unwrap()).unwrap();
    assert_eq!(open_header(&new_key, &new, &resealed), Ok(header()));
    assert_eq!(
        open_header(&new_key, &old, &resealed),
        Err(HeaderError::Sealed)
    );
}

#[test]
fn every_flipped_bit_and_every_cut_is_refused() {
    let (key, encrypted_key) = place();
    let home = Location {
        project: [9; 16].into(),
        bucket: "photos",
        encrypted_key: &encrypted_key,
    };
    let sealed = seal_header(&key, &home, &header()).unwrap();
    for position in 0..sealed.len() {
        let mut altered = sealed.clone();
        altered[position] ^= 1 << (position % 8);
        assert_eq!(open_header(&key, &home, &altered), Err(HeaderError::Sealed));
        assert_eq!(
            open_header(&key, &home, &sealed[..position]),
            Err(HeaderError::Sealed)
        );
    }
    let long = vec![0; SEALED_HEADER_BYTES_MAX + 1];
    assert_eq!(open_header(&key, &home, &long), Err(HeaderError::Sealed));
}

fn part(number: u32, plain_len: u64, segment_count: u32) -> PartEntry {
    PartEntry {
        number,
        plain_len,
        segment_count,
    }
}

fn with_parts(parts: &[PartEntry]) -> ObjectHeader {
    let mut header = header();
    header.parts = parts.to_vec();
    header
}

#[test]
fn part_tables_follow_from_lengths() {
    let full = 67_108_864;
    let good: &[&[PartEntry]] = &[
        &[part(1, 0, 1)],
        &[part(1, 1, 1)],
        &[part(1, full, 1)],
        &[part(1, full + 1, 2)],
        &[part(1, 3 * full, 3)],
        &[part(1, 5, 1), part(7, 0, 1), part(10_000, full + 1, 2)],
    ];
    for parts in good {
        let header = with_parts(parts);
        assert_eq!(
            ObjectHeader::decode(&header.encode().unwrap()).as_ref(),
            Ok(&header)
        );
        assert_eq!(
            header.plain_len(),
            parts.iter().map(|part| part.plain_len).sum::<u64>()
        );
    }
    let bad: &[&[PartEntry]] = &[
        &[],
        &[part(0, 1, 1)],
        &[part(10_001, 1, 1)],
        &[part(1, 0, 0)],
        &[part(1, 1, 2)],
        &[part(1, full + 1, 1)],
        &[part(2, 1, 1), part(1, 1, 1)],
        &[part(1, 1, 1), part(1, 1, 1)],
        &[part(1, u64::MAX, u32::MAX)],
        &[part(1, 1 << 57, 1 << 31), part(2, u64::MAX - 5, 1)],
    ];
    for parts in bad {
        let header = with_parts(parts);
        assert_eq!(header.encode().err(), Some(HeaderError::Parts), "{parts:?}");
        assert_eq!(
            ObjectHeader::decode(&foreign(parts, full)).err(),
            Some(HeaderError::Parts),
            "{parts:?}"
        );
    }
    for segment_bytes in [0, full + 1, u64::MAX] {
        assert_eq!(
            ObjectHeader::decode(&foreign(&[part(1, 1, 1)], segment_bytes)).err(),
            Some(HeaderError::Parts)
        );
    }
}

/// A header that our own writer would refuse.
fn foreign(parts: &[PartEntry], segment_bytes: u64) -> Vec<u8> {
    let row = |part: &PartEntry| {
        [
            &part.number.to_le_bytes()[..],
            &part.plain_len.to_le_bytes(),
            &part.segment_count.to_le_bytes(),
        ]
        .concat()
    };
    let table: Vec<u8> = parts.iter().flat_map(row).collect();
    let mut writer = Writer::new(MAGIC);
    writer
        .field(1, &[1; 16])
        .field(2, &[2; 32])
        .field(3, &[3; 32])
        .field(4, &table);
    writer.field(5, &segment_bytes.to_le_bytes());
    writer.finish()
}

#[test]
fn the_largest_part_table_fits() {
    let parts = (1..=PART_NUMBER_MAX)
        .map(|number| part(number, 5 << 20, 1))
        .collect();
    let metadata = vec![(String::new(), vec![0; METADATA_BYTES_MAX - 6])];
    let mut header = header();
    (header.parts, header.metadata) = (parts, metadata);
    let bytes = header.encode().unwrap();
    assert!(bytes.len() < OBJECT_HEADER_BYTES_MAX);
    assert_eq!(ObjectHeader::decode(&bytes), Ok(header));
}

#[test]
fn metadata_is_bounded_and_ascending() {
    let with = |metadata: &[(&str, usize)]| {
        let metadata = metadata
            .iter()
            .map(|(key, len)| ((*key).to_owned(), vec![1; *len]))
            .collect();
        let mut header = header();
        header.metadata = metadata;
        header
    };
    for metadata in [
        &[][..],
        &[("", 0)],
        &[("", 2_042)],
        &[("a", 0), ("b", 2_048 - 14)],
    ] {
        let header = with(metadata);
        assert_eq!(ObjectHeader::decode(&header.encode().unwrap()), Ok(header));
    }
    for metadata in [
        &[("", 2_043)][..],
        &[("a", 1), ("a", 2)],
        &[("b", 0), ("a", 0)],
    ] {
        assert_eq!(with(metadata).encode().err(), Some(HeaderError::Metadata));
    }
    let mut bytes = foreign(&[part(1, 1, 1)], 1);
    crate::tlv::push_field(&mut bytes, 0x8006, &[]);
    assert_eq!(
        ObjectHeader::decode(&bytes).err(),
        Some(HeaderError::Metadata)
    );
}

#[test]
fn secrets_are_not_printed() {
    let text = format!("{:?}", header());
    assert!(text.contains("content_key: <secret>"), "{text}");
    assert!(!text.contains("2, 2, 2"), "{text}");
}

proptest! {
    #[test]
    fn foreign_bytes_never_panic(bytes: Vec<u8>) {
        let _ = ObjectHeader::decode(&bytes);
        let _ = ObjectHeader::decode(&[MAGIC, bytes.as_slice()].concat());
    }

    /// A reader accepts one encoding: what it reads from altered bytes writes back to those bytes,
    /// or had an unknown optional field.
    #[test]
    fn what_is_read_is_written_back(position: prop::sample::Index, to: u8) {
        let mut bytes = header().encode().unwrap().to_vec();
        let position = position.index(bytes.len());
        bytes[position] = to;
        if let Ok(read) = ObjectHeader::decode(&bytes) {
            let written = read.encode().unwrap();
            prop_assert!(*written == bytes || written.len() < bytes.len());
        }
    }
}
