//! Disks that fail: what is acked stays acked, a failed sync ends all writing, a full disk does not end reading.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use strand_blob::disk::sim::{ALL_OPS, Failure, Fault, Op, SimDisk};
use strand_blob::{
    BlobId, DiskError, GetError, NewPiece, PoisonCause, PutError, Stored, WriteOperation,
};

use crate::support::{
    NOW_S, SATELLITE, World, check_same, id_of, open, piece, read_body, small_options, try_open,
};

const fn once(ops: &'static [Op], nth: u64, failure: Failure) -> Fault {
    Fault {
        ops,
        nth,
        failure,
        is_sticky: false,
    }
}

#[test]
fn a_failed_sync_poisons_until_the_store_is_opened_again() {
    let world = World::new(1);
    world.put(piece(1, 576)).unwrap();
    world.disk.inject(once(&[Op::Sync], 1, Failure::Eio));
    let syncs = world.disk.count(Op::Sync);
    assert_eq!(world.put(piece(2, 576)), Err(PutError::ReadOnly));
    // Everything is well again with the disk; the store must not believe it.
    assert!(world.store.is_read_only());
    let error = DiskError::Io { errno: 5 };
    let cause = PoisonCause::clone(&world.store.poison_cause().unwrap());
    assert_eq!(
        (cause.blob, cause.operation, cause.error),
        (BlobId(1), WriteOperation::Sync, error)
    );
    assert_eq!(world.put(piece(3, 576)), Err(PutError::ReadOnly));
    assert_eq!(world.delete(1), Err(PutError::ReadOnly));
    assert!(!world.store.has_room(1));
    assert_eq!(world.piece(2).unwrap_err(), GetError::NotFound);
    check_same(&world, &piece(1, 576));
    world.close();
    assert_eq!(
        world.disk.count(Op::Sync),
        syncs + 1,
        "a failed sync is never repeated, nor followed by another"
    );
    for seed in 0..20 {
        let world = open(&world.disk.crash(seed), small_options(), seed);
        check_same(&world, &piece(1, 576));
        assert!(matches!(
            world.put(piece(2, 576)),
            Ok(Stored::New | Stored::Already)
        ));
        check_same(&world, &piece(2, 576));
    }
}

#[test]
fn a_sync_that_fails_at_the_opening_leaves_a_store_that_reads() {
    let world = World::new(1);
    world.put(piece(1, 576)).unwrap();
    world.close();
    world.disk.inject(once(&[Op::Sync], 1, Failure::Eio));
    let mut options = small_options();
    options.ignores_checkpoint = true;
    let world = open(&world.disk, options, 2);
    assert!(world.store.is_read_only());
    check_same(&world, &piece(1, 576));
    assert_eq!(world.put(piece(2, 576)), Err(PutError::ReadOnly));
    world.close();
    assert!(!open(&world.disk, small_options(), 3).store.is_read_only());
}

/// Blocks that cannot be read at the opening cost the records in them, until they can be read again.
#[test]
fn unreadable_blocks_cost_only_what_lies_there() {
    let mut options = small_options();
    options.blob_bytes_max = 1 << 20;
    let world = World::new(1).reopen(options, 2);
    for key in 0..3 {
        world.put(piece(key, 100_000)).unwrap();
    }
    world.close();
    // Of the opening's reads the two of the blob header come first, then windows; a window that
    // fails is read again block by block.
    for nth in 3..=6 {
        let disk = SimDisk::from_files(nth, world.disk.files());
        disk.inject(once(&[Op::Read], nth, Failure::Eio));
        disk.inject(once(&[Op::Read], nth + 1, Failure::Eio));
        let world = open(&disk, options, nth);
        disk.heal();
        assert!(world.recovery.pieces >= 2, "{:?}", world.recovery);
        for key in 0..3 {
            match world.body(key) {
                Ok(body) => assert_eq!(body, piece(key, 100_000).body.concat()),
                // Deleting what was not seen must hold when it can be seen again.
                Err(error) => {
                    assert_eq!(
                        (error, world.recovery.rotten.len()),
                        (GetError::NotFound, 1)
                    );
                    assert_eq!(world.delete(key), Ok(false));
                    let world = world.reopen(options, 9);
                    assert_eq!(world.body(key), Err(GetError::NotFound));
                    break;
                }
            }
        }
    }
}

/// A tombstone in blocks that the opening could not read outranks nothing that was acknowledged since, also once they can be read again.
#[test]
fn a_piece_put_again_while_its_tombstone_cannot_be_read_stays() {
    let mut options = small_options();
    options.ignores_checkpoint = true;
    let world = World::new(1).reopen(options, 2);
    for key in 0..3 {
        world.put(piece(key, 10_000)).unwrap();
        assert_eq!(world.delete(key), Ok(true));
    }
    world.close();
    let mut came_back = 0;
    let files = world.disk.files();
    let (&blob, bytes) = files.last_key_value().unwrap();
    for block in (0..bytes.len() as u64).step_by(4_096) {
        let disk = SimDisk::from_files(block, files.clone());
        disk.fail_reads_of(blob, block..block + 4_096);
        let again = open(&disk, options, block);
        disk.heal();
        let is_back: Vec<bool> = (0..3).map(|key| again.body(key).is_ok()).collect();
        came_back += is_back.iter().filter(|is_back| **is_back).count();
        for key in 0..3 {
            assert_eq!(again.put(piece(key, 10_000)), Ok(Stored::New));
        }
        let again = again.reopen(options, block);
        for key in 0..3 {
            check_same(&again, &piece(key, 10_000));
        }
    }
    assert!(came_back > 0, "no tombstone lay in an unreadable block");
}

/// A piece that was put while the disk did not read an older one of the same id outranks that one, also while the disk does not read the newer.
#[test]
fn an_older_piece_is_not_given_out_for_a_newer_one_that_cannot_be_read() {
    let mut options = small_options();
    options.blob_records_max = 1;
    let world = World::new(1).reopen(options, 2);
    let newest = |world: &World| *world.disk.files().last_key_value().unwrap().0;
    world.put(piece(0, 10_000)).unwrap();
    let older = newest(&world);
    // Seals the blob: its list is on the disk only.
    world.put(piece(1, 576)).unwrap();
    world.disk.fail_reads(older);
    assert_eq!(world.put(piece(0, 9_000)), Ok(Stored::New));
    let newer = newest(&world);
    assert_ne!(newer, older);

    world.disk.heal();
    world.disk.fail_reads(newer);
    let error = world.piece(0).unwrap_err();
    assert!(matches!(error, GetError::Disk(_)), "{error}");
    // Nor does a put believe it.
    assert_eq!(world.put(piece(0, 10_000)), Ok(Stored::New));
    check_same(&world, &piece(0, 10_000));
    assert_eq!(world.put(piece(0, 9_000)), Err(PutError::Conflict));
    world.disk.heal();
    let world = world.reopen(options, 3);
    check_same(&world, &piece(0, 10_000));
}

#[test]
fn a_failed_write_poisons_unless_the_disk_is_full_or_the_write_short() {
    let short = PutError::Disk(DiskError::ShortWrite {
        written: 0,
        wanted: 0,
    });
    for (failure, answer) in [
        (Failure::Eio, PutError::ReadOnly),
        (Failure::NoSpace, PutError::Full),
        (Failure::Short, short),
    ] {
        let world = World::new(1);
        world.put(piece(1, 576)).unwrap();
        world.disk.inject(once(&[Op::Write], 1, failure));
        let refused = world.put(piece(2, 576)).unwrap_err();
        assert_eq!(
            std::mem::discriminant(&refused),
            std::mem::discriminant(&answer),
            "{failure:?}"
        );
        assert_eq!(world.store.is_read_only(), failure == Failure::Eio);
        check_same(&world, &piece(1, 576));
        assert_eq!(world.piece(2).unwrap_err(), GetError::NotFound);
        if failure != Failure::Eio {
            assert_eq!(world.put(piece(2, 576)), Ok(Stored::New));
            world.check_space();
            let world = world.reopen(small_options(), 2);
            assert_eq!(
                world.recovery.rotten,
                [],
                "what a failed write left is torn, not rotten"
            );
            check_same(&world, &piece(2, 576));
            world.check_space();
        }
    }
}

/// A write that fails may have left a whole record. Deleting that piece must outrank it, although the index lacks it.
#[test]
fn a_piece_deleted_after_its_put_failed_does_not_come_back() {
    for seed in 0..200 {
        let world = World::new(seed);
        world.put(piece(1, 100)).unwrap();
        world.disk.inject(once(&[Op::Write], 1, Failure::NoSpace));
        assert_eq!(world.put(piece(2, 100)), Err(PutError::Full));
        assert_eq!(world.delete(2), Ok(false));
        let world = world.reopen(small_options(), seed);
        assert_eq!(
            world.piece(2).unwrap_err(),
            GetError::NotFound,
            "seed {seed}"
        );
    }
}

/// The same the other way round: a deletion or trashing that failed must not take what was acknowledged afterwards.
#[test]
fn a_piece_put_again_after_its_deletion_or_trashing_failed_stays() {
    for seed in 0..50 {
        let world = World::new(seed);
        world.put(piece(1, 100)).unwrap();
        world.put(piece(2, 100)).unwrap();
        world.disk.inject(once(&[Op::Write], 1, Failure::NoSpace));
        assert_eq!(world.delete(1), Err(PutError::Full));
        world.disk.inject(once(&[Op::Write], 1, Failure::NoSpace));
        assert!(world.trash(&[2], NOW_S).is_err());
        for key in [1, 2] {
            let stored = world.put(piece(key, 100));
            assert_eq!(stored, Ok(Stored::New), "seed {seed}");
            let again = world.put(piece(key, 100));
            assert_eq!(again, Ok(Stored::Already), "seed {seed}");
        }
        let world = open(&world.kill(seed), small_options(), seed);
        for key in [1, 2] {
            check_same(&world, &piece(key, 100));
        }
        assert_eq!(world.store.counters().trashed, 0, "seed {seed}");
    }
}

#[test]
fn a_full_disk_refuses_puts_but_reads_and_deletes() {
    let mut options = small_options();
    options.capacity_bytes = 8 << 20;
    let world = World::new(1).reopen(options, 2);
    for key in 0..5 {
        world.put(piece(key, 20_000)).unwrap();
    }
    // The reserve for tombstones is 128 KiB here; what is left after it does not hold a piece.
    world.disk.set_free_bytes((128 << 10) + 30_000);
    assert!(!world.store.has_room(20_000));
    assert_eq!(world.put(piece(9, 20_000)), Err(PutError::Full));
    assert_eq!(
        world.disk.count(Op::Create),
        1,
        "refused before anything is written"
    );
    for key in 0..5 {
        check_same(&world, &piece(key, 20_000));
        assert_eq!(world.delete(key), Ok(true));
    }
    // The disk lied about its room.
    let world = world.reopen(options, 3);
    world.disk.set_free_bytes(1 << 30);
    world.disk.inject(Fault {
        ops: &[Op::Write],
        nth: 1,
        failure: Failure::NoSpace,
        is_sticky: true,
    });
    assert_eq!(world.put(piece(9, 20_000)), Err(PutError::Full));
    assert!(!world.store.is_read_only());
    world.disk.heal();
    assert_eq!(world.put(piece(9, 20_000)), Ok(Stored::New));
    check_same(&world, &piece(9, 20_000));
    world.check_space();
}

#[test]
fn the_capacity_bounds_the_files() {
    let mut options = small_options();
    options.capacity_bytes = 1 << 20;
    let world = World::new(1).reopen(options, 2);
    let mut stored = 0;
    loop {
        let has_room = world.store.has_room(10_000);
        match world.put(piece(stored, 10_000)) {
            Ok(_) => stored += 1,
            Err(error) => {
                assert_eq!(error, PutError::Full);
                break;
            }
        }
        assert!(has_room);
    }
    assert!(!world.store.has_room(10_000));
    assert!((70..100).contains(&stored), "{stored} pieces");
    assert!(world.store.space().file_bytes <= options.capacity_bytes);
    assert_eq!(world.delete(0), Ok(true));
    world.check_space();
}

#[test]
fn a_read_that_fails_costs_that_read_only() {
    let world = World::new(1);
    world.put(piece(1, 200_000)).unwrap();
    let found = world.piece(1).unwrap();
    for nth in 1..=3 {
        world.disk.inject(once(&[Op::Read], nth, Failure::Eio));
        let found = found.clone();
        let shares = world.run(|store| async move {
            let first = store
                .piece(&SATELLITE, &id_of(1), 0)
                .await
                .map(|piece| piece.share_count());
            let shares = store
                .read_shares(&found, 0..13)
                .await
                .map(|bytes| bytes.len());
            (first, shares)
        });
        let eio = GetError::Disk(DiskError::Io { errno: 5 });
        // A lookup reads header and trailer, then come the shares.
        let wanted = if nth == 3 {
            (Ok(13), Err(eio))
        } else {
            (Err(eio), Ok(200_000))
        };
        assert_eq!(shares, wanted);
        assert!(!world.store.is_read_only());
    }
    check_same(&world, &piece(1, 200_000));
}

/// What a scenario was told, by piece: true = acked as stored, false = acked as deleted. Absent: cut off or failed.
type Told = Rc<RefCell<BTreeMap<u64, bool>>>;

fn sized(key: u64) -> NewPiece {
    piece(key, [100, 5_000, 20_000, 70_000][key as usize % 4])
}

/// Runs puts side by side, deletes some, puts more, closes. Never panics, whatever the disk does.
fn run_scenario(disk: &SimDisk, seed: u64, keys: std::ops::Range<u64>, told: &Told) {
    let Ok(world) = try_open(disk, small_options(), seed) else {
        return;
    };
    for key in keys.clone() {
        let (store, told) = (Rc::clone(&world.store), Rc::clone(told));
        world.executor.spawn(async move {
            if store.put(sized(key)).await.is_ok() {
                told.borrow_mut().insert(key, true);
            }
            let _may_fail = read_body(&store, key, NOW_S).await;
            if key % 3 == 0 {
                told.borrow_mut().remove(&key);
                if store
                    .delete(&SATELLITE, &id_of(key), crate::support::NOW_S)
                    .await
                    .is_ok()
                {
                    told.borrow_mut().insert(key, false);
                }
            }
        });
    }
    world.executor.run_until_stalled();
    world.close();
    assert_eq!(world.store.counters().acks_before_sync, 0);
}

fn check_told(disk: &SimDisk, seed: u64, told: &Told, keys: std::ops::Range<u64>) {
    let world = open(disk, small_options(), seed);
    assert_eq!(world.recovery.rotten, []);
    for key in keys {
        match (told.borrow().get(&key), world.body(key)) {
            (Some(true) | None, Ok(body)) => assert_eq!(body, sized(key).body.concat()),
            (Some(false) | None, Err(GetError::NotFound)) => {}
            (told, found) => panic!(
                "piece {key}: told {told:?}, found {:?}",
                found.map(|body| body.len())
            ),
        }
    }
    world.check_space();
}

/// Each operation of the scenario fails in turn: EIO, ENOSPC or short, once or from then on. Then the power goes, too.
#[test]
fn whichever_operation_fails_acks_hold() {
    let prepared = {
        let world = World::new(5);
        for key in 20..30 {
            world.put(sized(key)).unwrap();
        }
        world.close();
        world.disk.files()
    };
    for (files, keys) in [(BTreeMap::new(), 0..8), (prepared, 18..26)] {
        let kept: Vec<u64> = if files.is_empty() {
            vec![]
        } else {
            (26..30).collect()
        };
        let disk = SimDisk::from_files(7, files.clone());
        run_scenario(&disk, 7, keys.clone(), &Told::default());
        let op_count = disk.op_count();
        assert!(op_count > 20, "{op_count}");
        for nth in 1..=op_count {
            for failure in [Failure::Eio, Failure::NoSpace, Failure::Short] {
                for is_sticky in [false, true] {
                    let disk = SimDisk::from_files(7, files.clone());
                    disk.inject(Fault {
                        ops: ALL_OPS,
                        nth,
                        failure,
                        is_sticky,
                    });
                    let told = Told::default();
                    run_scenario(&disk, 7, keys.clone(), &told);
                    told.borrow_mut()
                        .extend(kept.iter().map(|&key| (key, true)));
                    let found = disk.crash(nth);
                    check_told(&found, nth, &told, keys.start..30);
                    // What the first opening served must hold through the next crash as well.
                    let told_again = Told::default();
                    run_scenario(&found, nth, keys.clone(), &told_again);
                    told_again
                        .borrow_mut()
                        .extend(kept.iter().map(|&key| (key, true)));
                    check_told(&found.crash(nth + 1), nth, &told_again, keys.start..30);
                }
            }
        }
    }
}

#[test]
fn one_misread_costs_nothing() {
    // Read whole, in two parts, and in several shares.
    for len in [900, 20_000, 100_000] {
        for nth in 1..6 {
            let world = World::new(nth);
            world.put(piece(1, len)).unwrap();
            world.put(piece(2, len)).unwrap();
            world
                .disk
                .inject(once(&[Op::Read], nth, Failure::Misdirected));
            check_same(&world, &piece(1, len));
            check_same(&world, &piece(2, len));
            assert_eq!(world.store.take_lost(), [], "{len} bytes, read {nth}");
        }
    }
}

#[test]
fn compaction_that_misreads_once_drops_nothing() {
    for nth in 1..8 {
        let mut options = small_options();
        options.blob_records_max = 4;
        let world = open(&SimDisk::new(nth), options, nth);
        for key in 0..8 {
            world.put(piece(key, 20_000)).unwrap();
        }
        for key in [0, 1, 2] {
            assert_eq!(world.delete(key), Ok(true));
        }
        world
            .disk
            .inject(once(&[Op::Read], nth, Failure::Misdirected));
        while let Some(done) = world.compact(NOW_S) {
            assert_eq!(done.lost, [], "read {nth}");
        }
        world.disk.heal();
        for key in 3..8 {
            check_same(&world, &piece(key, 20_000));
        }
    }
}

/// A sealed blob is asked for its list of records.
#[test]
fn one_misread_keeps_nothing_in_the_trash_and_a_blob_that_lists_nothing_is_told() {
    let trashed = || {
        let mut options = small_options();
        options.blob_records_max = 4;
        let world = open(&SimDisk::new(1), options, 1);
        for key in 0..9 {
            world.put(piece(key, 20_000)).unwrap();
        }
        assert_eq!(world.trash(&[1, 6], NOW_S).unwrap().trashed, 2);
        assert!(world.store.counters().blobs_sealed >= 2);
        world
    };
    for failure in [Failure::Misdirected, Failure::Eio] {
        for nth in 1..8 {
            let world = trashed();
            world.disk.inject(once(&[Op::Read], nth, failure));
            assert_eq!(world.restore_all(NOW_S), Ok(2), "{failure:?} of read {nth}");
        }
    }
    let world = trashed();
    let (&blob, _) = world.disk.files().first_key_value().unwrap();
    world.disk.fail_reads(blob);
    assert_eq!(world.restore_all(NOW_S), Err(PutError::Unlisted { blob }));
    world.disk.heal();
    assert_eq!(world.restore_all(NOW_S), Ok(1), "the other one was back");
}
