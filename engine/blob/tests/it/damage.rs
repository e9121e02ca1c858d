//! Bytes that changed behind the store's back: named, never served, never a panic, and never at the cost of other pieces.

use std::collections::BTreeMap;

use strand_blob::disk::sim::SimDisk;
use strand_blob::inspect::{self, StoredRecord};
use strand_blob::{BlobId, Damage, GetError, OpenError, PutError, Stored};

use crate::support::{
    World, body_of, check_same, id_of, open, piece, piece_of, small_options, try_open,
};

const BLOB: BlobId = BlobId(1);

/// One blob with a group for each of these pieces.
fn filled(lens: &[usize]) -> World {
    let world = World::new(1);
    for (key, &len) in lens.iter().enumerate() {
        world.put(piece(key as u64, len)).unwrap();
    }
    world
}

fn bytes_of(world: &World) -> Vec<u8> {
    world.disk.files().remove(&BLOB).unwrap()
}

fn open_bytes(bytes: Vec<u8>) -> World {
    open(
        &SimDisk::from_files(1, BTreeMap::from([(BLOB, bytes)])),
        small_options(),
        1,
    )
}

fn records_of(bytes: &[u8]) -> Vec<StoredRecord> {
    inspect::pieces(bytes).unwrap()
}

/// Every piece is there bit-exact or not at all; returns the keys that are there.
fn check_pieces(world: &World, lens: &[usize]) -> Vec<u64> {
    let keys = 0..lens.len() as u64;
    keys.filter(|&key| match world.body(key) {
        Ok(body) => {
            assert_eq!(body, body_of(key, 0, lens[key as usize]));
            true
        }
        Err(GetError::NotFound | GetError::Corrupt { .. }) => false,
        Err(error) => panic!("{error}"),
    })
    .collect()
}

#[test]
fn a_torn_tail_is_dropped_without_a_report() {
    //= docs/format.md#record
    //= type=test
    let lens = [576, 20_000, 576];
    let whole = bytes_of(&filled(&lens));
    let last = records_of(&whole)[2];
    // Any byte of the last group, which no later one calls durable: its header, a record header, body, trailer.
    for at in [
        last.offset - 60,
        last.offset + 5,
        last.body_offset + 9,
        last.checksum_table_offset() + 1,
    ] {
        let mut bytes = whole.clone();
        bytes[at as usize] ^= 0x40;
        let world = open_bytes(bytes);
        assert_eq!(world.recovery.rotten, []);
        let survivors = check_pieces(&world, &lens);
        if at == last.offset - 60 {
            // Only the group header is bad: the record proves itself.
            assert_eq!(survivors, [0, 1, 2]);
        } else {
            assert_eq!(
                (survivors, world.recovery.torn_bytes > 0),
                (vec![0, 1], true)
            );
        }
        world.check_space();
        // Life goes on behind it, and it does not turn into rot by that.
        assert_eq!(world.put(piece(7, 3_000)), Ok(Stored::New));
        assert_eq!(world.put(piece(8, 3_000)), Ok(Stored::New));
        let world = world.reopen(small_options(), 3);
        assert_eq!(world.recovery.rotten, []);
        check_same(&world, &piece(7, 3_000));
        world.check_space();
    }
}

#[test]
fn rot_of_durable_records_is_reported_and_costs_only_them() {
    let lens = [576, 20_000, 700, 40_000, 64];
    let world = filled(&lens);
    world.close();
    let whole = bytes_of(&world);
    for (index, record) in records_of(&whole).iter().enumerate() {
        for at in record.offset..record.body_offset {
            let mut bytes = whole.clone();
            bytes[at as usize] ^= 1 << (at % 8);
            let world = open_bytes(bytes);
            let [rot] = world.recovery.rotten[..] else {
                panic!("{:?}", world.recovery)
            };
            assert_eq!(
                (rot.blob, rot.offset, rot.damage),
                (BLOB, record.offset, Damage::RecordHeader)
            );
            assert_eq!(world.recovery.torn_bytes, 0);
            let survivors = check_pieces(&world, &lens);
            assert_eq!(survivors.len(), lens.len() - 1);
            assert!(!survivors.contains(&(index as u64)));
            world.check_space();
        }
    }
}

#[test]
fn a_lost_group_header_is_reported_and_its_records_are_found() {
    let lens = [576, 20_000, 700];
    let world = filled(&lens);
    world.close();
    let whole = bytes_of(&world);
    for record in records_of(&whole) {
        let group_at = record.offset - 64;
        for at in group_at..record.offset {
            let mut bytes = whole.clone();
            bytes[at as usize] ^= 0x10;
            let world = open_bytes(bytes);
            let [rot] = world.recovery.rotten[..] else {
                panic!("{:?}", world.recovery)
            };
            assert_eq!((rot.offset, rot.damage), (group_at, Damage::Group));
            assert_eq!(check_pieces(&world, &lens), [0, 1, 2]);
            world.check_space();
        }
    }
}

/// The last write went over the two groups before it: what is left of it says that they were there.
#[test]
fn a_group_that_went_astray_vouches_for_those_that_it_hit() {
    let lens = [20_000, 700, 576];
    let world = filled(&lens);
    let whole = bytes_of(&world);
    let [first, second, third] = records_of(&whole)[..] else {
        panic!("three pieces")
    };
    let group_of = |record: &StoredRecord| (record.offset - 64) as usize;
    let (second_at, third_at) = (group_of(&second), group_of(&third));
    let hit_at = group_of(&first) + 4_096;
    let mut bytes = whole[..third_at].to_vec();
    bytes[hit_at..].fill(0);
    bytes[hit_at..hit_at + 4_096].copy_from_slice(&whole[third_at..third_at + 4_096]);
    let mut world = open_bytes(bytes);
    for _ in 0..2 {
        let [rot] = world.recovery.rotten[..] else {
            panic!("{:?}", world.recovery)
        };
        let gap = (second_at as u64, Damage::Group);
        assert_eq!((rot.offset, rot.damage), gap);
        assert_eq!(world.recovery.torn_bytes, 0);
        let found = world.body(0);
        assert!(matches!(found, Err(GetError::Corrupt { .. })), "{found:?}");
        assert_eq!(world.body(1), Err(GetError::NotFound));
        // A group that is written now takes neither its place nor its number.
        world.put(piece(7, 576)).unwrap();
        let records = records_of(&bytes_of(&world));
        assert!(records.last().unwrap().offset >= third.offset + 4_096);
        world.check_space();
        world = world.reopen(small_options(), 1);
    }
}

/// What is left of a torn group is served, but nobody is told "already stored" because of it: if it rots, no opening misses it.
#[test]
fn nothing_is_acknowledged_because_of_what_is_left_of_a_torn_group() {
    let lens = [576, 20_000, 576];
    let whole = bytes_of(&filled(&lens));
    let last = records_of(&whole)[2];
    let mut bytes = whole.clone();
    bytes[last.offset as usize - 60] ^= 0x40;
    let world = open_bytes(bytes);
    check_same(&world, &piece(2, 576));
    assert_eq!(world.put(piece(2, 576)), Ok(Stored::New));
    assert_eq!(world.put(piece(2, 576)), Ok(Stored::Already));
    world.disk.edit(BLOB, |bytes| {
        bytes[last.offset as usize..last.offset as usize + 900].fill(0);
    });
    let world = world.reopen(small_options(), 2);
    assert_eq!(world.recovery.rotten, []);
    check_same(&world, &piece(2, 576));
    world.check_space();
}

#[test]
fn damaged_bodies_and_trailers_are_found_when_read() {
    let lens = [576, 40_000, 200_000];
    let world = filled(&lens);
    world.close();
    let whole = bytes_of(&world);
    for (key, record) in records_of(&whole).iter().enumerate() {
        let world = open_bytes(whole.clone());
        let found = world.piece(key as u64).unwrap();
        for share in 0..record.share_count() {
            let at = record.share_range(share).start as usize + 33;
            let damaged = open_bytes(whole.clone());
            damaged.disk.edit(BLOB, |bytes| bytes[at] ^= 4);
            let found = found.clone();
            let read = damaged.run(|store| async move {
                let piece = store.piece(&found.satellite, &found.id, 0).await?;
                store.read_shares(&piece, 0..piece.share_count()).await
            });
            let offset = record.offset;
            assert_eq!(
                read,
                Err(GetError::Corrupt {
                    what: Damage::Share(share),
                    blob: BLOB,
                    offset
                })
            );
            assert_eq!(damaged.store.counters().corrupt_reads, 1);
            // The other shares are still served.
            if let Some(other) = (0..record.share_count()).find(|&other| other != share) {
                let piece = damaged.piece(key as u64).unwrap();
                let bytes = damaged
                    .run(|store| async move { store.read_shares(&piece, other..other + 1).await });
                assert_eq!(bytes.unwrap(), whole[range(record.share_range(other))]);
            }
        }
        for at in record.checksum_table_offset()..record.body_and_trailer().end {
            let damaged = open_bytes(whole.clone());
            damaged.disk.edit(BLOB, |bytes| bytes[at as usize] ^= 0x80);
            let offset = record.offset;
            let error = GetError::Corrupt {
                what: Damage::Trailer,
                blob: BLOB,
                offset,
            };
            assert_eq!(damaged.piece(key as u64).unwrap_err(), error, "byte {at}");
            // A copy that is known damaged is replaced by a new put.
            if at % 64 == 0 {
                assert_eq!(damaged.put(piece(key as u64, lens[key])), Ok(Stored::New));
                check_same(&damaged, &piece(key as u64, lens[key]));
                damaged.check_space();
                check_same(
                    &damaged.reopen(small_options(), 2),
                    &piece(key as u64, lens[key]),
                );
            }
        }
    }
}

fn range(range: std::ops::Range<u64>) -> std::ops::Range<usize> {
    range.start as usize..range.end as usize
}

#[test]
fn every_truncation_opens_with_the_pieces_before_it() {
    let lens = [576, 9_000, 64, 17_000];
    let world = filled(&lens);
    world.close();
    let whole = bytes_of(&world);
    let records = records_of(&whole);
    for len in 0..=whole.len() {
        // Every length near a structure, every 61st elsewhere.
        let is_near = records.iter().any(|record| {
            [
                record.offset - 64,
                record.body_offset,
                record.checksum_table_offset(),
                record.body_and_trailer().end,
            ]
            .iter()
            .any(|&edge| edge.abs_diff(len as u64) < 100)
        });
        if !is_near && len % 61 != 0 && len % 4_096 > 1 {
            continue;
        }
        let world = open_bytes(whole[..len].to_vec());
        let survivors = check_pieces(&world, &lens);
        let whole_pieces = records
            .iter()
            .filter(|record| record.body_and_trailer().end <= len as u64);
        assert_eq!(
            survivors.len(),
            if len < 4_096 { 0 } else { whole_pieces.count() },
            "{len} bytes"
        );
        assert!(
            world
                .recovery
                .rotten
                .iter()
                .all(|rot| rot.damage != Damage::Blob)
        );
        world.check_space();
    }
}

/// Someone uploads what looks like groups and records, then the real headers before them are lost, so that the search
/// goes through the body. Only bytes made with the blob's salt, at their own place, count.
#[test]
fn records_inside_a_body_never_become_records() {
    let world = World::new(1);
    world.put(piece(1, 576)).unwrap();
    let stolen = bytes_of(&world)[8_192..12_288].to_vec();
    let mut body = Vec::new();
    for step in 0..1_500_u64 {
        // A stolen record header with its place corrected, which breaks the check; and stolen groups as they are.
        let mut forged = stolen[64..128].to_vec();
        forged[48..52].copy_from_slice(&(192 + step as u32).to_le_bytes());
        body.extend_from_slice(if step % 3 == 0 {
            &stolen[..64]
        } else {
            &forged
        });
        if step % 100 == 0 {
            body.extend_from_slice(&stolen);
        }
    }
    body.truncate(90_000);
    assert_eq!(world.put(piece_of(2, &body)), Ok(Stored::New));
    assert_eq!(world.put(piece(3, 576)), Ok(Stored::New));
    world.close();
    let whole = bytes_of(&world);
    let record = records_of(&whole)[1];
    assert_eq!(record.id, id_of(2));
    for lost in [
        record.offset - 64..record.offset,
        record.offset..record.body_offset,
        record.offset - 64..record.body_offset,
    ] {
        let mut bytes = whole.clone();
        bytes[range(lost.clone())].fill(0xee);
        let world = open_bytes(bytes);
        let is_found = lost.end == record.offset;
        assert_eq!(world.recovery.pieces, if is_found { 3 } else { 2 });
        check_same(&world, &piece(1, 576));
        check_same(&world, &piece(3, 576));
        assert_eq!(world.body(2).is_ok(), is_found);
        world.check_space();
    }
}

#[test]
fn blocks_that_moved_are_not_taken_for_what_should_be_there() {
    let lens = [3_000, 3_001, 3_002, 3_003];
    let world = filled(&lens);
    world.close();
    let whole = bytes_of(&world);
    for (first, second) in [(2, 3), (2, 5), (4, 3)] {
        let mut bytes = whole.clone();
        let (one, other) = (first * 4_096, second * 4_096);
        for at in 0..4_096 {
            bytes.swap(one + at, other + at);
        }
        let world = open_bytes(bytes);
        assert_eq!(check_pieces(&world, &lens).len(), 2);
        assert!(!world.recovery.rotten.is_empty());
        world.check_space();
    }
}

#[test]
fn zeroed_blocks_never_panic_and_cost_only_what_lay_there() {
    let lens = [576, 20_000, 700, 40_000, 64];
    let world = filled(&lens);
    world.close();
    let whole = bytes_of(&world);
    let records = records_of(&whole);
    for block in (8_192..whole.len()).step_by(4_096) {
        let mut bytes = whole.clone();
        bytes[block..block + 4_096].fill(0);
        let world = open_bytes(bytes);
        let survivors = check_pieces(&world, &lens);
        let untouched: Vec<u64> = (0..lens.len() as u64)
            .filter(|&key| {
                let record = &records[key as usize];
                record.body_and_trailer().end <= block as u64
                    || record.offset >= block as u64 + 4_096
            })
            .collect();
        assert_eq!(survivors, untouched, "block {}", block / 4_096);
        world.check_space();
    }
}

#[test]
fn one_copy_of_the_blob_header_is_enough_and_none_is_rot() {
    let lens = [576, 20_000];
    let world = filled(&lens);
    world.close();
    let whole = bytes_of(&world);
    for copy in [0, 4_096] {
        let mut bytes = whole.clone();
        bytes[copy + 70] ^= 1;
        let world = open_bytes(bytes);
        assert_eq!(check_pieces(&world, &lens), [0, 1]);
        let [rot] = world.recovery.rotten[..] else {
            panic!("{:?}", world.recovery)
        };
        assert_eq!((rot.offset, rot.damage), (copy as u64, Damage::BlobHeader));
        // Not the place for new pieces.
        assert_eq!(world.put(piece(5, 100)), Ok(Stored::New));
        assert_eq!(world.disk.files().len(), 2);
        world.check_space();
    }
    let mut bytes = whole.clone();
    bytes[70] ^= 1;
    bytes[4_166] ^= 1;
    let world = open_bytes(bytes);
    assert_eq!((world.recovery.blobs, world.recovery.pieces), (0, 0));
    assert_eq!(world.recovery.rotten[0].damage, Damage::Blob);
    assert_eq!(world.put(piece(5, 100)), Ok(Stored::New));
    assert_eq!(
        world.disk.files().keys().copied().collect::<Vec<_>>(),
        [BLOB, BlobId(2)],
        "ids are not reused"
    );
    world.check_space();
}

#[test]
fn a_torn_creation_is_left_alone_and_its_id_not_reused() {
    for len in [0, 1, 4_096, 8_192] {
        let world = open_bytes(vec![0; len]);
        assert_eq!(
            (world.recovery.torn_blobs, world.recovery.rotten.len()),
            (1, 0)
        );
        assert_eq!(world.put(piece(1, 100)), Ok(Stored::New));
        let files = world.disk.files();
        assert_eq!((files.len(), files[&BLOB].len()), (2, len));
        world.check_space();
    }
}

#[test]
fn foreign_and_newer_blobs_are_refused() {
    let world = filled(&[576]);
    world.close();
    let mut other = small_options();
    other.node_id = [9; 32];
    assert_eq!(
        try_open(&world.disk, other, 1).err(),
        Some(OpenError::ForeignBlob { blob: BLOB })
    );
    world.disk.edit(BLOB, |bytes| {
        for copy in [0, 4_096] {
            bytes[copy + 8] = 2;
            let check = blake3::derive_key("strand v1 blob header", &bytes[copy..copy + 4_080]);
            bytes[copy + 4_080..copy + 4_096].copy_from_slice(&check[..16]);
        }
    });
    let newer = OpenError::NewerVersion {
        blob: BLOB,
        version: 2,
    };
    let mut options = small_options();
    options.ignores_checkpoint = true;
    assert_eq!(try_open(&world.disk, options, 1).err(), Some(newer));
}

#[test]
fn a_blob_under_another_name_is_not_read() {
    let world = filled(&[576]);
    world.close();
    let bytes = bytes_of(&world);
    let disk = SimDisk::from_files(1, BTreeMap::from([(BlobId(3), bytes)]));
    let world = open(&disk, small_options(), 1);
    assert_eq!(
        (world.recovery.pieces, world.recovery.rotten[0].damage),
        (0, Damage::Blob)
    );
}

/// What the whole-system harness does to a piece: the store serves it in good faith, since only the CRCs were
/// made to fit; who checks the share hashes is not deceived.
#[test]
fn an_altered_share_with_new_checksums_is_served_in_good_faith() {
    for len in [576, 40_000] {
        let world = filled(&[100, len, 100]);
        world.close();
        let mut bytes = bytes_of(&world);
        let record = records_of(&bytes)[1];
        bytes[record.body_offset as usize + 17] ^= 0xff;
        inspect::danger_recompute_checksums(&record, &mut bytes[range(record.body_and_trailer())]);
        let world = open_bytes(bytes);
        assert_eq!(world.recovery.rotten, []);
        let new = piece(1, len);
        let mut wanted = new.body.concat();
        wanted[17] ^= 0xff;
        assert_eq!(world.body(1).unwrap(), wanted);
        let found = world.piece(1).unwrap();
        assert_eq!(
            (found.share_hashes, found.commitment),
            (new.share_hashes, new.commitment)
        );
        // A one-share piece's root is its body's hash, so it changes with the body; a longer one's is stored.
        assert_eq!(found.root == new.root, len > 16_384);
        assert_eq!(
            world.put(piece(1, len)),
            if len > 16_384 {
                Ok(Stored::Already)
            } else {
                Err(PutError::Conflict)
            }
        );
        check_same(&world, &piece(0, 100));
        check_same(&world, &piece(2, 100));
    }
}
