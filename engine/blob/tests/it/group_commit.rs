//! Group commit: many acks a sync, one write a group, and no ack before its sync.

use std::cell::Cell;
use std::rc::Rc;

use bytes::Bytes;
use strand_blob::disk::sim::Op;
use strand_blob::layout::LONE_BODY_AT;
use strand_blob::{IoBuffer, NewPiece, Stored};

use crate::independent;
use crate::support::{DAY_S, NOW_S, World, check_same, open, piece, small_options};

fn put_all_at_once(world: &World, keys: std::ops::Range<u64>, len: usize) {
    let acked = Rc::new(Cell::new(0));
    for key in keys.clone() {
        let (store, acked) = (Rc::clone(&world.store), Rc::clone(&acked));
        world.executor.spawn(async move {
            assert_eq!(store.put(piece(key, len)).await, Ok(Stored::New));
            acked.set(acked.get() + 1);
        });
    }
    world.executor.run_until_stalled();
    assert_eq!(acked.get(), keys.end - keys.start);
}

#[test]
fn concurrent_puts_share_a_group_and_its_sync() {
    let world = World::new(1);
    put_all_at_once(&world, 0..64, 600);
    let counters = world.store.counters();
    assert_eq!(
        (counters.acks, counters.pieces_stored, counters.pieces),
        (64, 64, 64)
    );
    // One sync for the new blob's header, then a group or a few for all 64.
    assert!(counters.groups <= 4 && counters.syncs <= 5, "{counters:?}");
    assert_eq!(counters.acks_before_sync, 0);
    assert_eq!(
        (counters.piece_bytes_stored, counters.piece_bytes_written),
        (64 * 600, 64 * 600)
    );
    assert_eq!(world.disk.count(Op::Sync), counters.syncs);
    assert_eq!(
        world.disk.count(Op::Write),
        counters.groups + counters.blobs_created
    );
    let files = world.disk.files();
    assert_eq!(
        files.values().map(|blob| blob.len() as u64).sum::<u64>(),
        counters.bytes_written
    );
    for key in 0..64 {
        check_same(&world, &piece(key, 600));
    }
}

#[test]
fn a_group_stops_at_its_bound_and_long_pieces_still_fit() {
    let mut options = small_options();
    options.blob_bytes_max = 64 << 20;
    let world = World::new(1).reopen(options, 2);
    put_all_at_once(&world, 0..6, 300_000);
    // Each record alone is longer than the bound of 64 KiB, so each comes alone.
    assert_eq!(world.store.counters().groups, 6);
    world.close();
    // The class has two lanes, each with a blob.
    let files = world.disk.files();
    assert_eq!(files.len(), 2);
    let counts: Vec<_> = files
        .values()
        .map(|bytes| independent::read_blob(bytes).pieces.len())
        .collect();
    assert_eq!(counts, [3, 3]);
    let world = open(&world.disk, options, 3);
    for key in 0..6 {
        check_same(&world, &piece(key, 300_000));
    }
}

#[test]
fn both_lanes_go_on_after_reopening_and_one_is_enough_on_demand() {
    for (lanes_max, files) in [(2, 2), (1, 1)] {
        let mut options = small_options();
        options.blob_bytes_max = 64 << 20;
        options.lanes_max = lanes_max;
        let mut world = World::new(1).reopen(options, 2);
        for round in 0..3 {
            put_all_at_once(&world, round * 6..round * 6 + 6, 30_000);
            world = world.reopen(options, round);
            assert_eq!(world.disk.files().len(), files, "{lanes_max} lanes");
            assert_eq!(world.store.counters().blobs_sealed, 0);
        }
        for key in 0..18 {
            check_same(&world, &piece(key, 30_000));
        }
    }
}

/// Puts pieces while no write ends, then lets them go.
fn put_behind(world: &World, pieces: Vec<NewPiece>) {
    world.disk.hold(Op::Write);
    for piece in pieces {
        let store = Rc::clone(&world.store);
        let put = async move { assert_eq!(store.put(piece).await, Ok(Stored::New)) };
        world.executor.spawn(put);
        world.executor.run_until_stalled();
    }
    world.disk.release(Op::Write);
    world.executor.run_until_stalled();
}

/// Four pieces of each of the four expiry classes, in turn.
fn pieces_of_all_classes(first_key: u64, len: usize) -> Vec<NewPiece> {
    let lives_s = [DAY_S, 7 * DAY_S, 30 * DAY_S, 0];
    (0..16)
        .map(|number| {
            let life_s = lives_s[number as usize % 4];
            let expiry_s = if life_s == 0 { 0 } else { NOW_S + life_s };
            NewPiece {
                expiry_s,
                ..piece(first_key + number, len)
            }
        })
        .collect()
}

#[test]
fn classes_in_which_little_waits_share_a_group_and_the_longest_lived_ones_blob() {
    let world = World::new(1);
    for piece in pieces_of_all_classes(100, 60) {
        let store = Rc::clone(&world.store);
        let put = async move { assert_eq!(store.put(piece).await, Ok(Stored::New)) };
        world.executor.spawn(put);
    }
    world.executor.run_until_stalled();
    let counters = world.store.counters();
    // All at once, or the first one alone and all others behind it.
    assert!(counters.acks == 16 && counters.groups <= 2, "{counters:?}");
    let blobs = world.disk.files();
    let classes: Vec<u8> = blobs.values().map(|bytes| bytes[10]).collect();
    assert!(classes.contains(&3) && classes.len() <= 2, "{classes:?}");
    for piece in pieces_of_all_classes(100, 60) {
        check_same(&world, &piece);
    }
}

#[test]
fn classes_in_which_enough_waits_have_blobs_of_their_own() {
    let world = World::new(1);
    put_behind(&world, pieces_of_all_classes(100, 8_000));
    let blobs = world.disk.files();
    let mut classes: Vec<u8> = blobs.values().map(|bytes| bytes[10]).collect();
    classes.sort_unstable();
    classes.dedup();
    assert_eq!(classes, [0, 1, 2, 3]);
    for piece in pieces_of_all_classes(100, 8_000) {
        check_same(&world, &piece);
    }
}

#[test]
fn a_body_that_is_written_from_where_it_lies_makes_the_same_bytes() {
    for (seed, len) in [262_144, 300_000, 1_000_003, 2_316_416, 4_198_464]
        .into_iter()
        .enumerate()
    {
        let mut options = small_options();
        options.blob_bytes_max = 8 << 20;
        let files = [false, true].map(|is_in_place| {
            let world = World::new(seed as u64).reopen(options, 2);
            let mut new = piece(1, len);
            if is_in_place {
                let mut buffer = IoBuffer::zeroed(LONE_BODY_AT + len);
                buffer[LONE_BODY_AT..][..len].copy_from_slice(&new.body.concat());
                let body = Bytes::from_owner(buffer).slice(LONE_BODY_AT..LONE_BODY_AT + len);
                new.body = vec![body];
            }
            assert_eq!(world.put(new), Ok(Stored::New));
            check_same(&world, &piece(1, len));
            world.close();
            world.disk.files()
        });
        assert!(files[0] == files[1], "{len} bytes");
    }
}

#[test]
fn records_that_would_just_spill_into_another_block_wait() {
    let mut options = small_options();
    options.lanes_max = 1;
    options.ahead_bytes = 0;
    let world = World::new(1).reopen(options, 2);
    put_all_at_once(&world, 0..1, 576);
    world.disk.hold(Op::Write);
    for keys in [1..2, 2..66] {
        for key in keys {
            let store = Rc::clone(&world.store);
            let put = async move { assert_eq!(store.put(piece(key, 576)).await, Ok(Stored::New)) };
            world.executor.spawn(put);
        }
        world.executor.run_until_stalled();
    }
    world.disk.release(Op::Write);
    world.executor.run_until_stalled();
    // A record takes 960 bytes: 64 of them and the group's header are 15 blocks and 64 bytes.
    let lens: Vec<_> = world.disk.files().values().map(Vec::len).collect();
    assert_eq!(lens, [8_192 + (1 + 1 + 15 + 1) * 4_096]);
    assert_eq!(world.store.counters().acks, 66);
}

#[test]
fn every_store_that_closed_is_plain_to_an_independent_reader() {
    let mut world = World::new(1);
    for round in 0..6 {
        put_all_at_once(&world, round * 20..round * 20 + 20, 3_000);
        assert_eq!(world.delete(round * 20), Ok(true));
        world = world.reopen(small_options(), round);
    }
    world.close();
    let blobs: Vec<_> = world
        .disk
        .files()
        .values()
        .map(|bytes| independent::read_blob(bytes))
        .collect();
    assert!(blobs.len() > 1);
    let mut found: Vec<_> = independent::live_pieces(&blobs)
        .into_iter()
        .map(|piece| piece.id)
        .collect();
    found.sort_unstable();
    let mut wanted: Vec<_> = (0..120)
        .filter(|key| key % 20 != 0)
        .map(crate::support::id_of)
        .collect();
    wanted.sort_unstable();
    assert_eq!(found, wanted);
}

#[test]
fn closing_twice_or_without_work_writes_nothing_more() {
    let world = World::new(1);
    put_all_at_once(&world, 0..3, 600);
    let mut world = world.reopen(small_options(), 2);
    let before = world.disk.files();
    for seed in 3..6 {
        world = world.reopen(small_options(), seed);
    }
    assert_eq!(before, world.disk.files());
}
