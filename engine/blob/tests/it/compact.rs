//! Compaction: what is dead leaves the disk, what lives moves bit-exact, what was deleted stays away.

use std::rc::Rc;

use strand_blob::disk::sim::{Failure, Fault, Op, SimDisk};
use strand_blob::testing::yield_now;
use strand_blob::{
    BlobId, Compaction, GetError, NewPiece, PutError, StoreOptions, Stored, Traffic,
};

use crate::support::{DAY_S, NOW_S, World, check_same, id_of, open, piece, small_options};

/// Four records a blob.
fn options() -> StoreOptions {
    let mut options = small_options();
    options.blob_records_max = 4;
    options
}

/// Compacts until there is nothing to do; what was done in all.
fn compact_all(world: &World) -> Vec<Compaction> {
    let mut done = Vec::new();
    while let Some(one) = world.compact(NOW_S) {
        done.push(one);
        assert!(done.len() < 100, "compaction loops");
        world.check_space();
    }
    done
}

fn filled(keys: std::ops::Range<u64>) -> World {
    let world = open(&SimDisk::new(1), options(), 1);
    for key in keys {
        assert_eq!(world.put(piece(key, 20_000)), Ok(Stored::New));
    }
    world
}

fn check_only(world: &World, keys: std::ops::Range<u64>, is_there: impl Fn(u64) -> bool) {
    for key in keys {
        if is_there(key) {
            check_same(world, &piece(key, 20_000));
        } else {
            assert_eq!(world.piece(key).unwrap_err(), GetError::NotFound, "{key}");
        }
    }
    world.check_space();
}

#[test]
fn a_dead_blob_goes_without_a_byte_moved() {
    let world = filled(0..9);
    for key in 0..4 {
        assert_eq!(world.delete(key), Ok(true));
    }
    let before = world.store.space();
    let done = world.compact(NOW_S).unwrap();
    assert_eq!((done.moved_pieces, done.moved_tombstones), (0, 0));
    let after = world.store.space();
    assert_eq!(before.file_bytes - after.file_bytes, done.removed_bytes);
    assert_eq!((before.dead_bytes, after.dead_bytes), (80_000, 0));
    assert!(!world.disk.files().contains_key(&BlobId(1)));
    check_only(&world, 0..9, |key| key >= 4);
    let world = world.reopen(options(), 2);
    check_only(&world, 0..9, |key| key >= 4);
}

/// A blob that ended on a disk without room for its footer gives its room back all the same, once there is some, and no file is left of blobs
/// that could not begin.
#[test]
fn a_blob_whose_footer_found_no_room_is_compacted_once_there_is_some() {
    for seed in 0..50 {
        let world = filled(0..4);
        // Room for part of a footer, or for none of it.
        world.disk.set_free_bytes(512 * (seed % 20));
        for _ in 0..3 {
            assert_eq!(world.delete(0), Err(PutError::Full));
            assert_eq!(
                world.disk.files().len(),
                1,
                "files of blobs that hold nothing"
            );
        }
        assert!(!world.store.is_read_only());
        assert_eq!(world.compact(NOW_S), None);
        for key in 0..4 {
            check_same(&world, &piece(key, 20_000));
        }
        let world = if seed % 2 == 0 {
            world
        } else {
            open(&world.crash(seed), options(), 2)
        };
        world.disk.set_free_bytes(1 << 30);
        for key in 0..4 {
            assert_eq!(world.delete(key), Ok(true));
        }
        compact_all(&world);
        assert!(!world.disk.files().contains_key(&BlobId(1)), "{seed}");
        assert_eq!(world.store.space().dead_bytes, 0);
        let world = open(&world.crash(seed), options(), 2);
        check_only(&world, 0..4, |_| false);
    }
}

/// A blob of which every group failed to be written is nobody's: its file goes, with what was left of the groups.
#[test]
fn a_blob_in_which_nothing_could_be_stored_leaves_no_file() {
    let world = open(&SimDisk::new(1), options(), 1);
    // Its header goes down, and nothing else.
    world.disk.inject(Fault {
        ops: &[Op::Write],
        nth: 2,
        failure: Failure::NoSpace,
        is_sticky: true,
    });
    for key in 0..40 {
        assert_eq!(world.put(piece(key, 20_000)), Err(PutError::Full));
    }
    world.disk.heal();
    assert_eq!(world.put(piece(50, 20_000)), Ok(Stored::New));
    assert_eq!(world.disk.files().len(), 1);
    check_only(&world, 0..51, |key| key == 50);
    let world = open(&world.crash(5), options(), 2);
    check_only(&world, 0..51, |key| key == 50);
}

/// Puts stop while there is room to move the fullest blob that is worth it: else a disk that they filled would stay full whatever is deleted.
#[test]
fn a_disk_that_puts_filled_is_compacted_whatever_was_deleted() {
    let mut options = options();
    options.capacity_bytes = 1 << 20;
    options.blob_bytes_max = 128 << 10;
    for seed in 0..20 {
        let world = open(&SimDisk::new(seed), options, seed);
        // What the operator allows is more than there is.
        world.disk.set_free_bytes(700 << 10);
        let mut count = 0;
        while world.put(piece(count, 20_000)).is_ok() {
            count += 1;
            assert!(world.store.space().file_bytes < 700 << 10);
        }
        assert!(count > 12 && world.store.room_bytes() < 40_000);
        let is_there = |key: u64| !(key + seed).is_multiple_of(4);
        for key in (0..count).filter(|&key| !is_there(key)) {
            assert_eq!(world.delete(key), Ok(true));
        }
        let before = world.store.space();
        let done = world.run(async |store| store.compact_in(Traffic::Quiet, NOW_S).await);
        assert!(matches!(done, Ok(Some(_))), "{seed}: {done:?}");
        assert!(world.store.space().file_bytes < before.file_bytes);
        check_only(&world, 0..count, is_there);
    }
}

#[test]
fn live_pieces_move_bit_exact_and_deleted_ones_stay_away() {
    let world = filled(0..12);
    let is_there = |key: u64| key % 4 == 3 || key >= 8;
    for key in (0..12).filter(|&key| !is_there(key)) {
        assert_eq!(world.delete(key), Ok(true));
    }
    let done = compact_all(&world);
    let moved: u64 = done.iter().map(|one| one.moved_pieces).sum();
    assert_eq!(moved, 2);
    assert_eq!(world.store.space().dead_bytes, 0);
    check_only(&world, 0..12, is_there);
    // Nothing more is to be had, today and after a crash.
    assert_eq!(world.compact(NOW_S), None);
    let world = open(&world.crash(5), options(), 2);
    check_only(&world, 0..12, is_there);
    assert_eq!(world.compact(NOW_S), None);
}

#[test]
fn a_tombstone_moves_while_what_it_outranks_is_elsewhere() {
    // The piece's blob stays, being mostly alive; the tombstone's blob goes.
    let world = filled(0..4);
    assert_eq!(world.delete(0), Ok(true));
    for key in 10..13 {
        assert_eq!(world.put(piece(key, 20_000)), Ok(Stored::New));
    }
    for key in 10..13 {
        assert_eq!(world.delete(key), Ok(true));
    }
    // Seals the blob of those three tombstones.
    for key in 20..22 {
        assert_eq!(world.put(piece(key, 20_000)), Ok(Stored::New));
    }
    let done = world.compact(NOW_S).unwrap();
    assert_eq!((done.moved_pieces, done.moved_tombstones), (0, 1));
    assert!(!world.disk.files().contains_key(&BlobId(2)));
    assert!(world.disk.files().contains_key(&BlobId(1)));
    let world = open(&world.crash(9), options(), 2);
    assert_eq!(world.piece(0).unwrap_err(), GetError::NotFound);
    check_only(&world, 1..4, |_| true);
}

#[test]
fn a_tombstone_is_dropped_once_nothing_is_left_that_it_outranks() {
    let world = filled(0..40);
    for key in 0..40 {
        assert_eq!(world.delete(key), Ok(true));
    }
    compact_all(&world);
    let world = world.reopen(options(), 2);
    check_only(&world, 0..40, |_| false);
    assert_eq!(world.store.space().dead_bytes, 0);
    assert!(world.recovery.tombstones <= 40);
}

/// Some pieces that fill one blob and begin another; how many.
fn fill_more_than_one_blob(world: &World) -> u64 {
    let mut key = 0;
    while world.store.counters().blobs_created < 2 {
        assert_eq!(world.put(piece(key, 20_000)), Ok(Stored::New));
        key += 1;
    }
    key
}

#[test]
fn an_open_blob_of_which_nothing_is_worth_keeping_goes_before_it_is_full() {
    let world = open(&SimDisk::new(1), small_options(), 1);
    let count = fill_more_than_one_blob(&world);
    for key in 0..count {
        assert_eq!(world.delete(key), Ok(true));
    }
    let done = compact_all(&world);
    assert_eq!(done.len(), 2);
    assert_eq!(world.disk.files(), Default::default());
    let counters = world.store.counters();
    assert_eq!((counters.blobs_created, counters.records_moved), (2, 0));
    check_only(&world, 0..count, |_| false);
    // The next record finds a blob.
    assert_eq!(world.put(piece(0, 20_000)), Ok(Stored::New));
    let world = open(&world.crash(3), small_options(), 2);
    check_only(&world, 0..count, |key| key == 0);
    assert_eq!(world.recovery.tombstones, 0);
}

#[test]
fn an_open_blob_with_one_tombstone_that_is_needed_grows_on() {
    let world = open(&SimDisk::new(1), small_options(), 1);
    let count = fill_more_than_one_blob(&world);
    // Its record stays in a blob that is mostly alive; the others' lie beside their tombstones.
    assert_eq!(world.delete(0), Ok(true));
    assert_eq!(world.delete(count - 1), Ok(true));
    for key in 100..104 {
        assert_eq!(world.put(piece(key, 20_000)), Ok(Stored::New));
        assert_eq!(world.delete(key), Ok(true));
    }
    let sealed = world.store.counters().blobs_sealed;
    for _ in 0..3 {
        assert_eq!(world.compact(NOW_S), None);
    }
    assert_eq!(world.store.counters().blobs_sealed, sealed);
    let world = open(&world.crash(3), small_options(), 2);
    check_only(&world, 0..count, |key| key != 0 && key != count - 1);
    // Once the first blob goes, it goes too.
    for key in 1..count - 1 {
        assert_eq!(world.delete(key), Ok(true));
    }
    compact_all(&world);
    assert_eq!(world.disk.files(), Default::default());
}

#[test]
fn an_open_blob_with_little_in_it_is_not_ended_for_that() {
    let world = open(&SimDisk::new(1), small_options(), 1);
    assert_eq!(world.put(piece(0, 1_000)), Ok(Stored::New));
    assert_eq!(world.delete(0), Ok(true));
    assert_eq!(world.compact(NOW_S), None);
    assert_eq!(world.store.counters().blobs_sealed, 0);
    // Nor while a single piece in it lives, however much is dead.
    assert_eq!(world.put(piece(1, 1_000)), Ok(Stored::New));
    for key in 2..6 {
        assert_eq!(world.put(piece(key, 20_000)), Ok(Stored::New));
        assert_eq!(world.delete(key), Ok(true));
    }
    assert_eq!(world.compact(NOW_S), None);
    assert_eq!(world.store.counters().blobs_sealed, 0);
}

#[test]
fn a_record_that_comes_while_an_open_blob_is_looked_at_is_kept() {
    let mut grown = 0;
    for seed in 0..60 {
        let world = open(&SimDisk::new(seed), small_options(), seed);
        for key in 0..4 {
            assert_eq!(world.put(piece(key, 20_000)), Ok(Stored::New));
            assert_eq!(world.delete(key), Ok(true));
        }
        // Before, while and after the committer is asked, as the executor has it.
        for key in 10..13 {
            let store = Rc::clone(&world.store);
            world.executor.spawn(async move {
                for _ in 0..key - 10 {
                    yield_now().await;
                }
                assert_eq!(store.put(piece(key, 20_000)).await, Ok(Stored::New));
            });
        }
        compact_all(&world);
        world.executor.run_until_stalled();
        check_only(&world, 10..13, |_| true);
        grown += u32::from(world.disk.files().contains_key(&BlobId(1)));
        let world = open(&world.crash(seed), small_options(), seed);
        check_only(&world, 0..13, |key| key >= 10);
    }
    assert!(
        (1..60).contains(&grown),
        "both ways are tried: {grown} of 60"
    );
}

#[test]
fn expired_pieces_are_dropped_unread() {
    let world = open(&SimDisk::new(1), options(), 1);
    let expiring = |key| NewPiece {
        expiry_s: NOW_S + DAY_S / 2,
        ..piece(key, 20_000)
    };
    for key in 0..5 {
        assert_eq!(world.put(expiring(key)), Ok(Stored::New));
    }
    assert_eq!(world.compact(NOW_S + DAY_S / 2), None);
    let done = world.compact(NOW_S + DAY_S / 2 + 1).unwrap();
    assert_eq!((done.expired_pieces, done.moved_pieces), (4, 0));
    assert_eq!(world.piece(0).unwrap_err(), GetError::NotFound);
    check_same(&world, &expiring(4));
    world.check_space();
}

#[test]
fn a_damaged_piece_is_reported_and_does_not_stop_the_others() {
    let world = filled(0..5);
    for key in 0..2 {
        assert_eq!(world.delete(key), Ok(true));
    }
    let mut files = world.disk.files();
    let records = strand_blob::inspect::records(&files[&BlobId(1)]).unwrap();
    let spot = records[2].body_offset as usize + 17_000;
    files.get_mut(&BlobId(1)).unwrap()[spot] ^= 1;
    let mut options = options();
    options.compact_live_percent_max = 90;
    let world = open(&SimDisk::from_files(1, files), options, 2);
    let done = world.compact(NOW_S).unwrap();
    assert_eq!(done.lost, [(crate::support::SATELLITE, id_of(2))]);
    assert_eq!(done.moved_pieces, 1);
    assert_eq!(world.piece(2).unwrap_err(), GetError::NotFound);
    check_only(&world, 3..5, |_| true);
}

#[test]
fn a_reader_that_found_a_piece_before_it_moved_still_reads_it() {
    let world = filled(0..5);
    for key in 0..3 {
        assert_eq!(world.delete(key), Ok(true));
    }
    let found = world.piece(3).unwrap();
    assert_eq!(world.compact(NOW_S).unwrap().moved_pieces, 1);
    let body = world
        .run(|store: Rc<_>| async move { store.read_shares(&found, 0..found.share_count()).await });
    assert_eq!(body.unwrap(), piece(3, 20_000).body.concat());
}

#[test]
fn mostly_live_blobs_are_left_alone() {
    let world = filled(0..9);
    assert_eq!(world.delete(1), Ok(true));
    assert_eq!(world.compact(NOW_S), None);
    assert_eq!(world.store.counters().records_moved, 0);
}

/// Pieces that one call moved; none if there was nothing to do.
fn moved_in(world: &World, traffic: Traffic) -> Option<u64> {
    let done =
        world.run(move |store| async move { store.compact_in(traffic, NOW_S).await.unwrap() });
    done.map(|done| done.moved_pieces)
}

#[test]
fn a_quiet_disk_is_tidied_further_than_a_busy_one_until_little_is_dead() {
    let world = filled(0..48);
    assert_eq!(world.delete(0), Ok(true));
    // One of 48 is little, however much of its blob that is.
    assert_eq!(moved_in(&world, Traffic::Quiet), None);
    assert_eq!(world.delete(5), Ok(true));
    assert_eq!(moved_in(&world, Traffic::Busy), None);
    assert_eq!(moved_in(&world, Traffic::Quiet), Some(3));
    while let Some(moved) = moved_in(&world, Traffic::Quiet) {
        assert_eq!(moved, 0, "tombstones that nobody needs any more");
    }
    check_only(&world, 0..48, |key| key != 0 && key != 5);
}

#[test]
fn a_busy_disk_with_ample_room_waits_until_more_is_dead() {
    // Of four pieces two are kept: half of the blob, which is worth it only where room is less than ample.
    for (capacity_bytes, free_bytes, moved) in
        [(1 << 30, 900 << 20, None), (4 << 20, 400 << 10, Some(2))]
    {
        let mut options = options();
        options.capacity_bytes = capacity_bytes;
        let world = open(&SimDisk::new(1), options, 1);
        let mut key = 0;
        while key < 9 || (key < 200 && world.store.space().free_bytes() > free_bytes) {
            assert_eq!(world.put(piece(key, 20_000)), Ok(Stored::New));
            key += 1;
        }
        for key in 0..2 {
            assert_eq!(world.delete(key), Ok(true));
        }
        assert_eq!(moved_in(&world, Traffic::Busy), moved, "{capacity_bytes}");
    }
}

#[test]
fn compaction_goes_further_when_room_runs_out() {
    let mut options = options();
    options.capacity_bytes = 4 << 20;
    let world = open(&SimDisk::new(1), options, 1);
    let mut key = 0;
    while world.put(piece(key, 20_000)) == Ok(Stored::New) {
        key += 1;
    }
    assert_eq!(moved_in(&world, Traffic::Busy), None, "nothing is dead");
    assert_eq!(world.delete(0), Ok(true));
    assert_eq!(moved_in(&world, Traffic::Busy), Some(3));
    let taken = (key..key + 8).take_while(|&new| world.put(piece(new, 20_000)).is_ok());
    assert!(taken.count() > 0, "what was freed can be used");
}

#[test]
fn small_stores_have_small_blobs() {
    let blob_bytes_max = |capacity_bytes| StoreOptions::new([1; 32], capacity_bytes).blob_bytes_max;
    assert_eq!(blob_bytes_max(1 << 30), 64 << 20);
    assert_eq!(blob_bytes_max(8 << 30), 128 << 20);
    assert_eq!(blob_bytes_max(2 << 40), 1 << 30);
}

/// A crash left a piece twice: where it was, and in the group that was to move it, of which the header is torn. The copy that an opening would miss
/// is the one that counts, and compaction may not let go of it.
#[test]
fn the_copy_that_a_torn_group_left_is_not_the_one_that_counts() {
    let world = filled(0..4);
    for key in 0..3 {
        assert_eq!(world.delete(key), Ok(true));
    }
    let mut files = world.disk.files();
    let moved = world.compact(NOW_S).unwrap();
    assert_eq!(moved.moved_pieces, 1);
    let after = world.disk.files();
    let (to, bytes) = after
        .iter()
        .find(|(_, bytes)| {
            let pieces = strand_blob::inspect::pieces(bytes).unwrap();
            pieces.iter().any(|piece| piece.id == id_of(3))
        })
        .unwrap();
    let record = *strand_blob::inspect::pieces(bytes)
        .unwrap()
        .iter()
        .find(|piece| piece.id == id_of(3))
        .unwrap();
    let mut bytes = bytes.clone();
    // Its group's header, and all that came after it.
    let group_at = record.offset as usize / 4_096 * 4_096;
    bytes[group_at] ^= 1;
    bytes.truncate((record.body_and_trailer().end as usize).next_multiple_of(4_096));
    files.insert(*to, bytes);
    let world = open(&SimDisk::from_files(1, files), options(), 2);
    world
        .disk
        .edit(*to, |bytes| bytes[record.body_offset as usize] ^= 1);
    check_same(&world, &piece(3, 20_000));
    compact_all(&world);
    check_same(&world.reopen(options(), 3), &piece(3, 20_000));
}
