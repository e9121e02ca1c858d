//! A second reader of blobs, written from docs/format.md section 6 with blake3 and crc32fast alone.
//!
//! It shares no code with the store, so the two agree only if both follow the document. Self-contained: other crates' tests include
//! it with `#[path]`. It reads whole, undamaged blobs and panics at the first byte that the document does not allow.
#![allow(
    dead_code,
    reason = "not every crate that includes this file uses all of it"
)]

/// A piece record as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RawPiece {
    pub(crate) satellite: [u8; 32],
    pub(crate) id: [u8; 32],
    pub(crate) created_s: u32,
    pub(crate) expiry_s: u32,
    pub(crate) sequence: u64,
    pub(crate) body: Vec<u8>,
    /// Chaining value of each share; empty for a one-share piece.
    pub(crate) share_hashes: Vec<[u8; 32]>,
    pub(crate) root: [u8; 32],
    pub(crate) path: Vec<[u8; 32]>,
    pub(crate) commitment: [u8; 32],
}

/// A trash or restore record as stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RawMark {
    pub(crate) satellite: [u8; 32],
    pub(crate) id: [u8; 32],
    pub(crate) is_trash: bool,
    pub(crate) created_s: u32,
    pub(crate) expiry_s: u32,
    pub(crate) sequence: u64,
}

/// A blob, taken apart.
#[derive(Clone, Debug)]
pub(crate) struct RawBlob {
    pub(crate) node_id: [u8; 32],
    pub(crate) blob_id: u64,
    pub(crate) class: u8,
    pub(crate) created_s: u64,
    /// All piece records, outranked ones as well, in the order of their places.
    pub(crate) pieces: Vec<RawPiece>,
    /// Tombstones: satellite, piece id, sequence.
    pub(crate) tombstones: Vec<([u8; 32], [u8; 32], u64)>,
    /// Trash and restore records.
    pub(crate) marks: Vec<RawMark>,
    pub(crate) group_count: u64,
    /// Bytes of zeros that no group overwrote.
    pub(crate) ahead_bytes: u64,
    /// What the footer has to say of each record, were there one: the 56 bytes of its entry.
    pub(crate) entries: Vec<[u8; 56]>,
    pub(crate) is_sealed: bool,
}

/// The pieces that are live over several blobs: those that count and are not in the trash.
pub(crate) fn live_pieces(blobs: &[RawBlob]) -> Vec<RawPiece> {
    let pieces = counting_pieces(blobs).into_iter();
    pieces
        .filter(|piece| trashed_since(blobs, piece).is_none())
        .collect()
}

/// Since when a piece that counts is in the trash: the highest trash or restore record above it decides.
pub(crate) fn trashed_since(blobs: &[RawBlob], piece: &RawPiece) -> Option<u32> {
    let marks = blobs.iter().flat_map(|blob| &blob.marks);
    let mark = marks
        .filter(|mark| (mark.satellite, mark.id) == (piece.satellite, piece.id))
        .filter(|mark| mark.sequence > piece.sequence)
        .max_by_key(|mark| mark.sequence)?;
    mark.is_trash.then_some(mark.created_s)
}

/// The pieces that count over several blobs: of each (satellite, id) the record of the highest sequence, unless it is
/// a tombstone.
pub(crate) fn counting_pieces(blobs: &[RawBlob]) -> Vec<RawPiece> {
    let pieces = blobs.iter().flat_map(|blob| &blob.pieces);
    let is_live = |piece: &&RawPiece| {
        let name = (piece.satellite, piece.id);
        let newer_piece = blobs
            .iter()
            .flat_map(|blob| &blob.pieces)
            .any(|other| (other.satellite, other.id) == name && other.sequence > piece.sequence);
        let newer_tombstone = blobs
            .iter()
            .flat_map(|blob| &blob.tombstones)
            .any(|&(satellite, id, sequence)| (satellite, id) == name && sequence > piece.sequence);
        !newer_piece && !newer_tombstone
    };
    pieces.filter(is_live).cloned().collect()
}

/// Reads a whole, undamaged blob file.
pub(crate) fn read_blob(blob: &[u8]) -> RawBlob {
    assert_eq!(blob.len() % 4_096, 0, "a blob is whole blocks");
    let header = &blob[..4_096];
    assert_eq!(
        header,
        &blob[4_096..8_192],
        "blocks 0 and 1 both hold the header"
    );
    assert_eq!(&header[..8], b"STRNDBLB");
    assert_eq!(header[8..10], [1, 0], "format version");
    assert!(header[10] <= 3, "expiry class");
    let satellite_count = usize::from(header[11]);
    assert_eq!(header[12..16], [0; 4]);
    let blob_id = u64_of(&header[48..56]);
    let salt: [u8; 32] = hash_of(&header[64..96]);
    let satellites: Vec<[u8; 32]> = (0..satellite_count)
        .map(|slot| hash_of(&header[96 + 32 * slot..][..32]))
        .collect();
    assert!(
        header[96 + 32 * satellite_count..4_080]
            .iter()
            .all(|&byte| byte == 0),
        "zero-filled"
    );
    let check = blake3::derive_key("strand v1 blob header", &header[..4_080]);
    assert_eq!(header[4_080..], check[..16]);

    let mut raw = RawBlob {
        node_id: hash_of(&header[16..48]),
        blob_id,
        class: header[10],
        created_s: u64_of(&header[56..64]),
        pieces: Vec::new(),
        tombstones: Vec::new(),
        marks: Vec::new(),
        group_count: 0,
        ahead_bytes: 0,
        entries: Vec::new(),
        is_sealed: false,
    };
    let keyed = |bytes: &[u8]| blake3::keyed_hash(&salt, bytes).as_bytes()[..16].to_vec();
    let mut at = 8_192;
    while at < blob.len() {
        let group = &blob[at..];
        if &group[..4] == b"SFTR" {
            read_footer(&mut raw, header, &salt, group, at);
            break;
        }
        if group[..4_096].iter().all(|&byte| byte == 0) {
            // Written ahead, and never overwritten.
            raw.ahead_bytes += 4_096;
            at += 4_096;
            continue;
        }
        assert_eq!(&group[..4], b"SGRP");
        let number = u64_of(&group[8..16]);
        assert_eq!(
            number,
            raw.group_count + 1,
            "group numbers rise by one from 1"
        );
        assert!(
            u64_of(&group[16..24]) < number,
            "a group cannot know itself durable"
        );
        assert_eq!(u64_of(&group[24..32]), blob_id);
        assert_eq!(u64_of(&group[32..40]), at as u64);
        let len = u64_of(&group[40..48]) as usize;
        assert_eq!(len % 4_096, 0);
        assert_eq!(group[48..64], keyed(&group[..48]));
        let group = &group[..len];
        let mut end: usize = 64;
        for _ in 0..u32_of(&group[4..8]) {
            let start = end.next_multiple_of(64);
            assert!(
                group[end..start].iter().all(|&byte| byte == 0),
                "padding to the next step is zero"
            );
            end = start + read_record(&mut raw, &satellites, &keyed, &group[start..], at + start);
        }
        assert!(
            group[end..].iter().all(|&byte| byte == 0),
            "what follows the last record is zero"
        );
        raw.group_count = number;
        at += len;
    }
    raw
}

/// Checks that a footer repeats what the records before it say.
fn read_footer(raw: &mut RawBlob, header: &[u8], salt: &[u8; 32], footer: &[u8], offset: usize) {
    let len = u64_of(&footer[24..32]) as usize;
    assert_eq!(len, footer.len(), "nothing follows a footer");
    assert_eq!(len % 4_096, 0);
    assert_eq!(footer[4..8], [0; 4]);
    assert_eq!(u64_of(&footer[8..16]), raw.blob_id);
    assert_eq!(u64_of(&footer[16..24]), offset as u64);
    assert_eq!(u32_of(&footer[32..36]) as usize, raw.entries.len());
    assert_eq!(u64::from(u32_of(&footer[36..40])), raw.group_count);
    assert_eq!(u64_of(&footer[40..48]), raw.group_count);
    assert_eq!(
        u64_of(&footer[48..56]),
        raw.ahead_bytes,
        "an undamaged blob has no other gaps"
    );
    assert!(footer[56..4_096].iter().all(|&byte| byte == 0));
    assert_eq!(
        &footer[4_096..8_192],
        header,
        "the third copy of the blob header"
    );
    let entries_end = 8_192 + 56 * raw.entries.len();
    assert_eq!(footer[8_192..entries_end], *raw.entries.as_flattened());
    let end = len - 64;
    assert!(footer[entries_end..end].iter().all(|&byte| byte == 0));
    assert_eq!(&footer[end..end + 8], b"SFTE\0\0\0\0");
    assert_eq!(u64_of(&footer[end + 8..end + 16]), raw.blob_id);
    assert_eq!(u64_of(&footer[end + 16..end + 24]), offset as u64);
    assert_eq!(u64_of(&footer[end + 24..end + 32]), len as u64);
    let hash = blake3::keyed_hash(salt, &footer[..len - 32]);
    assert_eq!(footer[len - 32..], *hash.as_bytes());
    raw.is_sealed = true;
}

/// Reads one record; returns its length.
fn read_record(
    raw: &mut RawBlob,
    satellites: &[[u8; 32]],
    keyed: &dyn Fn(&[u8]) -> Vec<u8>,
    record: &[u8],
    offset: usize,
) -> usize {
    assert_eq!(record[72..88], keyed(&record[..72]));
    assert_eq!(record[0], 1, "record version");
    let path_len = usize::from(record[2]);
    let satellite = satellites[usize::from(record[3])];
    let body_len = u32_of(&record[4..8]) as usize;
    let id = hash_of(&record[8..40]);
    assert_eq!(u64_of(&record[40..48]), raw.blob_id);
    assert_eq!(u32_of(&record[48..52]) as usize * 64, offset);
    assert_eq!(record[60..64], [0; 4], "flags");
    let sequence = u64_of(&record[64..72]);
    let mut entry = [0; 56];
    entry[..32].copy_from_slice(&id);
    entry[32..36].copy_from_slice(&record[48..52]);
    entry[36..39].copy_from_slice(&record[4..7]);
    entry[39] = record[1] << 4 | record[2];
    entry[40..48].copy_from_slice(&record[52..60]);
    entry[48..55].copy_from_slice(&record[64..71]);
    entry[55] = record[3];
    raw.entries.push(entry);
    match record[1] {
        1 => {}
        2 => {
            assert_eq!((path_len, body_len), (0, 0));
            raw.tombstones.push((satellite, id, sequence));
            return 88;
        }
        3 | 4 => {
            assert_eq!((path_len, body_len), (0, 0));
            raw.marks.push(RawMark {
                satellite,
                id,
                is_trash: record[1] == 3,
                created_s: u32_of(&record[52..56]),
                expiry_s: u32_of(&record[56..60]),
                sequence,
            });
            return 88;
        }
        other => panic!("record type {other}"),
    }
    let body = &record[88..88 + body_len];
    let trailer = &record[88 + body_len..];
    let shares: Vec<&[u8]> = body.chunks(16_384).collect();
    let mut share_hashes = Vec::new();
    let mut at = 0;
    for share in &shares {
        assert_eq!(
            u32_of(&trailer[at..at + 4]),
            crc32fast::hash(share),
            "CRC of a share"
        );
        at += 4;
        if shares.len() > 1 {
            share_hashes.push(hash_of(&trailer[at..at + 32]));
            at += 32;
        }
    }
    let mut root = *blake3::hash(body).as_bytes();
    if shares.len() > 1 {
        root = hash_of(&trailer[at..at + 32]);
        at += 32;
    }
    let path = (0..path_len)
        .map(|step| hash_of(&trailer[at + 32 * step..][..32]))
        .collect();
    at += 32 * path_len;
    let commitment = hash_of(&trailer[at..at + 32]);
    at += 32;
    assert_eq!(
        u32_of(&trailer[at..at + 4]),
        crc32fast::hash(&trailer[..at]),
        "CRC of the trailer"
    );
    raw.pieces.push(RawPiece {
        satellite,
        id,
        created_s: u32_of(&record[52..56]),
        expiry_s: u32_of(&record[56..60]),
        sequence,
        body: body.to_vec(),
        share_hashes,
        root,
        path,
        commitment,
    });
    88 + body_len + at + 4
}

fn u32_of(bytes: &[u8]) -> u32 {
    u32::from_le_bytes(bytes.try_into().expect("4 bytes"))
}

fn u64_of(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().expect("8 bytes"))
}

fn hash_of(bytes: &[u8]) -> [u8; 32] {
    bytes.try_into().expect("32 bytes")
}
