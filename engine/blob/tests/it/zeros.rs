//! Zeros written ahead of small groups: what they save, what they must not cost, and that they are not there when they must not be.

use strand_blob::disk::sim::{Failure, Fault, Op, SimDisk};
use strand_blob::{BlobId, PutError, StoreOptions, Stored};

use crate::checkpoint::{checkpoint, reopened};
use crate::support::{NOW_S, World, check_same, open, piece, small_options};

const AHEAD_BYTES: u64 = 32 << 10;

fn options() -> StoreOptions {
    let mut options = small_options();
    options.ahead_bytes = AHEAD_BYTES;
    options
}

fn opened() -> World {
    open(&SimDisk::new(1), options(), 1)
}

fn len_of(world: &World, blob: u64) -> u64 {
    world.disk.files()[&BlobId(blob)].len() as u64
}

fn put(world: &World, keys: std::ops::Range<u64>, len: usize) {
    for key in keys {
        assert_eq!(world.put(piece(key, len)), Ok(Stored::New));
        world.check_space();
    }
}

#[test]
fn eight_of_nine_small_groups_leave_the_file_as_long_as_it_was() {
    let world = opened();
    let lens: Vec<_> = (0..18)
        .map(|key| {
            put(&world, key..key + 1, 500);
            len_of(&world, 1)
        })
        .collect();
    // Blob header, groups of a block, and eight blocks ahead.
    let first = 8_192 + 4_096 + AHEAD_BYTES;
    let second = first + 4_096 + AHEAD_BYTES;
    assert_eq!(lens, [[first; 9], [second; 9]].concat());
    assert_eq!(
        world.store.counters().bytes_written,
        8_192 + 18 * 4_096 + 2 * AHEAD_BYTES
    );
    let world = open(&world.crash(3), options(), 2);
    assert_eq!(
        (world.recovery.torn_bytes, world.recovery.rotten.len()),
        (0, 0)
    );
    for key in 0..18 {
        check_same(&world, &piece(key, 500));
    }
}

#[test]
fn long_groups_write_none_ahead_and_go_over_those_that_are_there() {
    let world = opened();
    put(&world, 0..1, 20_000);
    assert_eq!(len_of(&world, 1), 8_192 + 24_576);
    put(&world, 1..2, 500);
    put(&world, 2..3, 50_000);
    assert_eq!(len_of(&world, 1), 8_192 + 24_576 + 4_096 + 53_248);
    let world = open(&world.crash(3), options(), 2);
    for (key, len) in [(0, 20_000), (1, 500), (2, 50_000)] {
        check_same(&world, &piece(key, len));
    }
}

/// A blob that is as long as a checkpoint says is not read again: what lies in zeros that were there before would be lost.
#[test]
fn what_comes_after_a_checkpoint_is_found_though_there_was_room_ahead() {
    let world = opened();
    put(&world, 0..2, 500);
    let before = len_of(&world, 1);
    assert!(checkpoint(&world));
    put(&world, 2..3, 500);
    assert!(len_of(&world, 1) > before, "the file must be longer now");
    let world = reopened(&world.crash(5), options());
    assert_eq!(world.recovery.records_read, 1);
    for key in 0..3 {
        check_same(&world, &piece(key, 500));
    }
    // The same over a clean end.
    world.close();
    let world = reopened(&world.disk, options());
    put(&world, 3..4, 500);
    let world = reopened(&world.crash(6), options());
    for key in 0..4 {
        check_same(&world, &piece(key, 500));
    }
}

#[test]
fn a_footer_goes_behind_the_zeros_and_the_books_stay_right() {
    let mut options = options();
    options.blob_records_max = 3;
    let world = open(&SimDisk::new(1), options, 1);
    put(&world, 0..7, 500);
    assert_eq!(world.store.counters().blobs_sealed, 2);
    assert_eq!(len_of(&world, 1), 8_192 + 4_096 + AHEAD_BYTES + 12_288);
    for key in 0..3 {
        assert_eq!(world.delete(key), Ok(true));
    }
    while world.compact(NOW_S).is_some() {
        world.check_space();
    }
    let world = reopened(&world.crash(4), options);
    for key in 3..7 {
        check_same(&world, &piece(key, 500));
    }
}

#[test]
fn a_write_that_found_no_room_leaves_zeros_and_the_next_goes_behind_it() {
    let world = opened();
    put(&world, 0..1, 500);
    world.disk.inject(Fault {
        ops: &[Op::Write],
        nth: 1,
        failure: Failure::NoSpace,
        is_sticky: false,
    });
    assert_eq!(world.put(piece(1, 500)), Err(PutError::Full));
    world.check_space();
    put(&world, 2..9, 500);
    let world = open(&world.crash(8), options(), 2);
    world.check_space();
    for key in [0, 2, 8] {
        check_same(&world, &piece(key, 500));
    }
}

#[test]
fn none_are_written_where_room_runs_out() {
    let mut options = options();
    options.capacity_bytes = 4 << 20;
    let world = open(&SimDisk::new(1), options, 1);
    put(&world, 0..1, 500);
    assert_eq!(len_of(&world, 1), 8_192 + 4_096 + AHEAD_BYTES);
    let mut key = 1;
    while world.store.space().free_bytes() >= 2 << 20 {
        put(&world, key..key + 1, 60_000);
        key += 1;
    }
    let before = world.store.space().file_bytes;
    put(&world, key..key + 1, 500);
    let grown = world.store.space().file_bytes - before;
    assert!(grown <= 4_096 + 8_192 + 12_288, "{grown}");
}
