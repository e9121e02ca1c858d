//! When a checkpoint is written, what waits for it meanwhile, and when it is tried again.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use strand_blob::disk::sim::SimDisk;
use strand_blob::testing::Knowledge;
use strand_blob::{BlobId, FileId, NewPiece, StoreOptions, Stored};

use crate::checkpoint::{checkpoint, filled, options, reopened};
use crate::support::{NOW_S, World, open, piece, rebuilt};

/// What compaction does to what is known, each by itself.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Change {
    EmptiesTrash,
    DropsExpired,
    RemovesBlob,
}

/// Places of all piece records that a store knows, each as often as it knows it.
fn known_places(knowledge: &Knowledge) -> Vec<(BlobId, u64)> {
    let trash = knowledge
        .trash
        .iter()
        .map(|&(blob, offset, _)| (blob, offset));
    let listed = knowledge.live.iter().chain(&knowledge.dead).copied();
    let mut places: Vec<_> = listed.chain(trash).collect();
    places.sort_unstable();
    places
}

#[test]
fn what_compaction_changes_waits_until_a_checkpoint_under_way_is_written() {
    let late_s = NOW_S + 9 * 86_400;
    let changes = [
        Change::EmptiesTrash,
        Change::DropsExpired,
        Change::RemovesBlob,
    ];
    for (change, polls) in changes
        .into_iter()
        .flat_map(|change| (0..60).map(move |polls| (change, polls)))
    {
        let world = filled(false);
        let keys = match change {
            Change::EmptiesTrash => 10..11,
            Change::DropsExpired => 30..35,
            Change::RemovesBlob => 4..8,
        };
        for key in keys.clone() {
            match change {
                Change::EmptiesTrash => {
                    assert_eq!(world.trash(&[key], NOW_S + 1).unwrap().trashed, 1);
                }
                Change::DropsExpired => {
                    let short = NewPiece {
                        expiry_s: NOW_S + 86_400,
                        ..piece(key, 900)
                    };
                    assert_eq!(world.put(short), Ok(Stored::New));
                }
                Change::RemovesBlob => assert_eq!(world.delete(key), Ok(true)),
            }
        }
        let is_written = Rc::new(Cell::new(false));
        let (store, told) = (Rc::clone(&world.store), Rc::clone(&is_written));
        world.executor.spawn(async move {
            assert_eq!(store.checkpoint().await, Ok(true));
            told.set(true);
        });
        for _ in 0..polls {
            world.executor.step();
        }
        let store = Rc::clone(&world.store);
        world.executor.spawn(async move {
            while store.compact(late_s).await.is_ok_and(|done| done.is_some()) {}
        });
        if change == Change::RemovesBlob {
            world.executor.run_until_stalled();
        }
        // Before what waited has gone on.
        while !is_written.get() {
            world.executor.step();
        }
        let disk = world.crash(polls);
        let wanted = rebuilt(&disk, options());
        let world = open(&disk, options(), 7);
        let said = format!("{change:?} after {polls} polls");
        assert_eq!(world.recovery.rotten, [], "{said}");
        assert!(world.recovery.checkpoint.is_some(), "{said}");
        let found = Knowledge::of(&world.store);
        assert_eq!(known_places(&found), known_places(&wanted), "{said}");
        // A tally that does not fit the lists would fall below nothing.
        for key in (0..14).chain(keys) {
            world.delete(key).unwrap();
        }
        while world.compact(late_s).is_some() {
            world.check_space();
        }
        assert_eq!(world.store.counters().pieces, 0, "{said}");
    }
}

#[test]
fn a_compaction_that_is_dropped_brings_nothing_back() {
    let mut dropped_count = 0;
    for polls in 0..120 {
        let world = filled(true);
        for key in 4..8 {
            assert_eq!(world.delete(key), Ok(true));
        }
        let is_over = world.run(move |store| async move {
            let mut compaction = pin!(store.compact(NOW_S));
            let mut left = polls;
            let outcome = poll_fn(|context| match left {
                0 => Poll::Ready(None),
                _ => {
                    left -= 1;
                    compaction.as_mut().poll(context).map(Some)
                }
            });
            outcome.await.is_some()
        });
        dropped_count += usize::from(!is_over);
        world.check_space();
        world.close();
        let wanted = rebuilt(&world.disk, options());
        let world = open(&world.disk, options(), polls);
        let said = format!("dropped after {polls} polls");
        assert_eq!(world.recovery.rotten, [], "{said}");
        let found = Knowledge::of(&world.store);
        assert_eq!(known_places(&found), known_places(&wanted), "{said}");
        for key in 4..8 {
            assert!(world.piece(key).is_err(), "{said}: {key} came back");
        }
        world.check_space();
        if is_over {
            break;
        }
    }
    assert!((3..100).contains(&dropped_count), "{dropped_count}");
}

#[test]
fn a_checkpoint_is_durable_before_the_last_one_goes() {
    for seed in 0..30 {
        let world = filled(false);
        assert_eq!(world.put(piece(60, 900)), Ok(Stored::New));
        assert!(checkpoint(&world));
        let world = reopened(&world.crash(seed), options());
        assert_eq!(world.recovery.checkpoint, Some(2), "seed {seed}");
        assert_eq!(world.recovery.records_read, 0);
    }
}

#[test]
fn a_checkpoint_without_room_is_tried_again_only_once_as_much_was_written_again() {
    let options = StoreOptions {
        blob_records_max: 1,
        ..options()
    };
    let world = open(&SimDisk::new(1), options, 1);
    let created = |world: &World| {
        let is_checkpoint = |id: &FileId| matches!(id, FileId::Checkpoint(_));
        world
            .disk
            .all_files()
            .into_keys()
            .filter(is_checkpoint)
            .count()
    };
    for key in 0..70 {
        // Enough for a piece and what is kept free for tombstones, and not for a checkpoint besides.
        world.disk.set_free_bytes((16 << 20) + (1 << 19));
        assert_eq!(world.put(piece(key, 100)), Ok(Stored::New), "{key}");
    }
    assert_eq!(
        (world.store.counters().checkpoints, created(&world)),
        (0, 0)
    );
    world.disk.set_free_bytes(1 << 30);
    for key in 70..120 {
        assert_eq!(world.put(piece(key, 100)), Ok(Stored::New));
    }
    assert_eq!(world.store.counters().checkpoints, 0, "too soon");
    for key in 120..135 {
        assert_eq!(world.put(piece(key, 100)), Ok(Stored::New));
    }
    assert_eq!(world.store.counters().checkpoints, 1);
}
