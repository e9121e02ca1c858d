//! Group commit: many acks a sync, one write a group, and no ack before its sync.

use std::cell::Cell;
use std::rc::Rc;

use strand_blob::Stored;
use strand_blob::disk::sim::Op;

use crate::independent;
use crate::support::{World, check_same, open, piece, small_options};

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

#[test]
fn records_that_would_just_spill_into_another_block_wait() {
    let mut options = small_options();
    options.lanes_max = 1;
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
