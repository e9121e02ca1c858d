//! Sealed blobs: the footer says the same as the records, and is not needed to find them.

use std::collections::BTreeMap;

use strand_blob::disk::sim::SimDisk;
use strand_blob::{BlobId, Damage, GetError, StoreOptions, Stored};

use crate::support::{DAY_S, World, check_same, open, piece, small_options};

const FIRST: BlobId = BlobId(1);
const KEYS: std::ops::Range<u64> = 0..10;
const GONE: u64 = 2;

/// Four records a blob.
fn options() -> StoreOptions {
    let mut options = small_options();
    options.blob_records_max = 4;
    options
}

/// Ten pieces, the third of which is deleted: eleven records in three blobs.
fn filled() -> World {
    let world = open(&SimDisk::new(1), options(), 1);
    for key in KEYS {
        assert_eq!(world.put(piece(key, len_of(key))), Ok(Stored::New));
    }
    assert_eq!(world.delete(GONE), Ok(true));
    world
}

fn len_of(key: u64) -> usize {
    [576, 20_000, 64, 16_384][key as usize % 4]
}

/// Every piece but the deleted one is there, and every byte has a use.
fn check_all(world: &World) {
    for key in KEYS {
        if key == GONE {
            assert_eq!(world.piece(key).unwrap_err(), GetError::NotFound);
        } else {
            check_same(world, &piece(key, len_of(key)));
        }
    }
    world.check_space();
}

fn open_files(files: BTreeMap<BlobId, Vec<u8>>) -> World {
    open(&SimDisk::from_files(1, files), options(), 1)
}

#[test]
fn a_full_blob_is_sealed_and_opened_from_its_footer() {
    //= docs/format.md#footer
    //= type=test
    let world = filled();
    assert_eq!(world.store.counters().blobs_sealed, 2);
    check_all(&world);
    let found = world.crash(7);
    let world = open(&found, options(), 2);
    let recovery = &world.recovery;
    assert_eq!((recovery.blobs, recovery.sealed_blobs), (3, 2));
    assert_eq!((recovery.pieces, recovery.tombstones), (9, 1));
    assert_eq!((recovery.torn_bytes, recovery.rotten.len()), (0, 0));
    check_all(&world);
    assert_eq!(world.put(piece(20, 700)), Ok(Stored::New));
    let world = world.reopen(options(), 3);
    check_same(&world, &piece(20, 700));
    check_all(&world);
}

#[test]
fn a_rebuilt_index_finds_what_the_old_one_found() {
    let world = filled();
    let digest = world.store.index_digest();
    // The same seed, so that both have one key for their fingerprints.
    let world = world.reopen(options(), 1);
    assert_eq!(world.store.index_digest(), digest);
    assert_eq!(world.delete(3), Ok(true));
    assert_ne!(world.store.index_digest(), digest);
    let fewer = world.store.index_digest();
    assert_eq!(world.put(piece(3, len_of(3))), Ok(Stored::New));
    assert_ne!(world.store.index_digest(), digest, "it lies elsewhere");
    assert_ne!(world.store.index_digest(), fewer);
}

#[test]
fn a_bad_footer_costs_a_walk_and_nothing_else_and_is_written_anew() {
    let files = filled().disk.files();
    let len = files[&FIRST].len();
    let footer_at = len - 12_288;
    assert_eq!(files[&FIRST][footer_at..footer_at + 4], *b"SFTR");
    let spots = [
        footer_at,
        footer_at + 40,
        footer_at + 5_000,
        footer_at + 8_192 + 33,
        len - 64,
        len - 40,
        len - 1,
    ];
    for at in spots {
        let mut damaged = files.clone();
        damaged.get_mut(&FIRST).unwrap()[at] ^= 1;
        let world = open_files(damaged);
        assert_eq!(world.recovery.sealed_blobs, 1, "byte {at}");
        assert_eq!(world.recovery.rotten, [], "byte {at}");
        assert_eq!(world.recovery.pieces, 9);
        check_all(&world);
        world.executor.run_until_stalled();
        assert_eq!(world.store.counters().blobs_sealed, 1);
        let world = world.reopen(options(), 2);
        assert_eq!(world.recovery.sealed_blobs, 2);
        check_all(&world);
    }
}

#[test]
fn a_seal_that_the_last_run_did_not_get_to_is_caught_up_with() {
    let mut files = filled().disk.files();
    let first = files.get_mut(&FIRST).unwrap();
    first.truncate(first.len() - 12_288);
    let world = open_files(files);
    assert_eq!((world.recovery.blobs, world.recovery.sealed_blobs), (3, 1));
    check_all(&world);
    world.executor.run_until_stalled();
    assert_eq!(world.store.counters().blobs_sealed, 1);
    let world = world.reopen(options(), 2);
    assert_eq!(world.recovery.sealed_blobs, 2);
    check_all(&world);
}

#[test]
fn the_footer_has_a_third_copy_of_the_blob_header() {
    let mut files = filled().disk.files();
    files.get_mut(&FIRST).unwrap()[..8_192].fill(0);
    let world = open_files(files);
    let damage: Vec<Damage> = world.recovery.rotten.iter().map(|rot| rot.damage).collect();
    assert_eq!(damage, [Damage::BlobHeader]);
    check_all(&world);
}

#[test]
fn rot_in_a_sealed_blob_is_found_when_it_is_read() {
    let mut files = filled().disk.files();
    // The first record's header: group header at 8,192, record at 8,256.
    files.get_mut(&FIRST).unwrap()[8_256 + 10] ^= 1;
    let world = open_files(files);
    assert_eq!((world.recovery.pieces, world.recovery.sealed_blobs), (9, 2));
    assert!(matches!(world.piece(0), Err(GetError::Corrupt { .. })));
    check_same(&world, &piece(1, len_of(1)));
}

#[test]
fn a_blob_with_rot_is_not_sealed() {
    let mut files = filled().disk.files();
    let first = files.get_mut(&FIRST).unwrap();
    first.truncate(first.len() - 12_288);
    first[8_256 + 10] ^= 1;
    let world = open_files(files);
    assert_eq!(world.recovery.rotten.len(), 1);
    world.executor.run_until_stalled();
    assert_eq!(world.store.counters().blobs_sealed, 0);
    let world = world.reopen(options(), 2);
    assert_eq!(world.recovery.rotten.len(), 1);
}

#[test]
fn fewer_append_points_put_classes_together_and_seal_what_an_earlier_run_appended_to() {
    let with = |points: u8| {
        let mut options = small_options();
        options.append_points_max = points;
        options.lanes_max = 1;
        options
    };
    let lives_days = [1, 7, 30, 90];
    let put = |world: &World, first: u64| {
        for (key, days) in (first..).zip(lives_days) {
            let mut piece = piece(key, 2_000);
            piece.expiry_s = piece.created_s + days * DAY_S;
            assert_eq!(world.put(piece), Ok(Stored::New));
        }
    };
    for (points, blobs) in [(1, 1), (2, 2), (4, 4)] {
        let world = open(&SimDisk::new(1), with(points), 1);
        put(&world, 0);
        assert_eq!(world.store.counters().blobs_created, blobs, "{points}");
        world.check_space();
    }
    let world = open(&SimDisk::new(1), with(4), 1);
    put(&world, 0);
    let world = world.reopen(with(2), 2);
    put(&world, 10);
    // Classes 1 and 3 go on where they were; 0 and 2 were sealed, because nothing is appended to them any more.
    assert_eq!(world.store.counters().blobs_created, 0);
    assert_eq!(world.store.counters().blobs_sealed, 2);
    for key in (0..4).chain(10..14) {
        assert!(world.piece(key).is_ok(), "{key}");
    }
    world.check_space();
}
