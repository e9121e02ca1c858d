//! Checkpoints: what an opening with one finds is what an opening without finds, and nothing about one prevents a start.

use std::collections::BTreeMap;
use std::rc::Rc;

use strand_blob::disk::sim::{ALL_OPS, Failure, Fault, Op, SimDisk};
use strand_blob::inspect;
use strand_blob::testing::Knowledge;
use strand_blob::{
    BlobId, Damage, FileId, GetError, OpenError, PutError, Recovery, StoreOptions, Stored,
};

use crate::rebuild::check_naive;
use crate::support::{
    NOW_S, World, check_same, id_of, open, piece, rebuilt, small_options, try_open,
};

/// Four records a blob.
pub(crate) fn options() -> StoreOptions {
    let mut options = small_options();
    options.blob_records_max = 4;
    options
}

pub(crate) fn checkpoint(world: &World) -> bool {
    world.run(|store| async move { store.checkpoint().await.unwrap() })
}

fn compact_all(world: &World) {
    while world.run(|store| async move { store.compact(NOW_S).await.unwrap().is_some() }) {}
}

/// Opens with what is there, and asserts that it is known what the blobs alone would tell.
pub(crate) fn reopened(disk: &SimDisk, options: StoreOptions) -> World {
    let wanted = rebuilt(disk, options);
    let world = open(disk, options, 7);
    assert_eq!(Knowledge::of(&world.store), wanted);
    world.check_space();
    world
}

/// Closes in order and opens again, with the same assertion.
fn reopened_in_order(world: World) -> World {
    world.close();
    let world = reopened(&world.disk, options());
    assert_eq!(world.recovery.records_read, 0);
    world
}

/// Sealed and open blobs, deleted and replaced pieces, a checkpoint; then more of all that, if wanted.
pub(crate) fn filled(goes_on: bool) -> World {
    let world = open(&SimDisk::new(1), options(), 1);
    for key in 0..14 {
        assert_eq!(world.put(piece(key, 5_000)), Ok(Stored::New));
    }
    for key in [1, 2, 9] {
        assert_eq!(world.delete(key), Ok(true));
    }
    assert_eq!(world.put(piece(2, 100)), Ok(Stored::New));
    assert!(checkpoint(&world));
    if goes_on {
        for key in [0, 2, 3, 12] {
            assert_eq!(world.delete(key), Ok(true));
        }
        for key in 20..27 {
            assert_eq!(world.put(piece(key, 5_000)), Ok(Stored::New));
        }
        assert_eq!(world.put(piece(9, 700)), Ok(Stored::New));
        compact_all(&world);
    }
    world
}

#[test]
fn an_opening_with_a_checkpoint_reads_no_blob() {
    //= docs/format.md#checkpoint
    let world = filled(false);
    world.close();
    let disk = SimDisk::from_all_files(1, world.disk.all_files());
    let world = reopened(&disk, options());
    assert_eq!(world.recovery.checkpoint, Some(2), "that of the end");
    assert_eq!(world.recovery.records_read, 0);
    let fresh = SimDisk::from_all_files(1, disk.all_files());
    let world = open(&fresh, options(), 2);
    assert_eq!(fresh.count(Op::Read), 2, "the checkpoint, and its end");
    assert_eq!(world.recovery.pieces, 12);
    check_same(&world, &piece(2, 100));
    // Nothing was written, so nothing is to be written.
    world.close();
    assert_eq!(fresh.count(Op::Write), 0);
}

#[test]
fn what_was_written_since_is_read_and_nothing_else() {
    for seed in 0..20 {
        let world = filled(true);
        let removed = world.store.counters().blobs_removed;
        assert!(removed > 0);
        let disk = world.crash(seed);
        let world = reopened(&disk, options());
        check_naive(&world);
        assert_eq!(world.recovery.checkpoint, Some(1));
        assert_eq!(
            world.recovery.rotten,
            [],
            "{removed} blobs were removed in order"
        );
        let Recovery { records_read, .. } = world.recovery;
        assert!((5..20).contains(&records_read), "{records_read} records");
        for key in [0, 2, 3, 12, 1] {
            assert_eq!(world.body(key), Err(GetError::NotFound));
        }
        check_same(&world, &piece(9, 700));
        // The next one knows all that, and the old one goes.
        let world = world.reopen(options(), 3);
        assert_eq!(
            (world.recovery.checkpoint, world.recovery.records_read),
            (Some(2), 0)
        );
        check_naive(&world);
        let is_checkpoint = |id: &FileId| matches!(id, FileId::Checkpoint(_));
        let ids: Vec<_> = world.disk.all_files().into_keys().collect();
        assert_eq!(
            ids.into_iter().filter(is_checkpoint).collect::<Vec<_>>(),
            [FileId::Checkpoint(2)]
        );
    }
}

#[test]
fn no_damage_to_a_checkpoint_prevents_an_opening() {
    let world = filled(true);
    let files = world.crash(3).all_files();
    let newest = FileId::Checkpoint(1);
    let bytes = files[&newest].clone();
    let wanted = rebuilt(&SimDisk::from_all_files(1, files.clone()), options());
    let check = |damaged: Vec<u8>, what: String| {
        let mut files = files.clone();
        files.insert(newest, damaged);
        let world = open(&SimDisk::from_all_files(1, files), options(), 7);
        assert_eq!(Knowledge::of(&world.store), wanted, "{what}");
        world.recovery
    };
    let mut parts = 0;
    for at in (0..bytes.len()).step_by(4_096) {
        let is_part = &bytes[at..at + 4] == b"SCKP";
        parts += usize::from(is_part);
        let is_note = is_part && bytes[at + 6] == 8;
        let spots = if is_part { 0..72 } else { 0..0 };
        for spot in spots.chain([100, 1_000]).map(|spot| at + spot) {
            let mut damaged = bytes.clone();
            damaged[spot] ^= 1 << (spot % 8);
            let recovery = check(damaged, format!("byte {spot}"));
            if is_part && !is_note && spot < at + 72 && spot - at != 28 {
                let is_content = spot >= at + 64;
                assert!(recovery.checkpoint.is_none(), "byte {spot}, {is_content}");
            }
        }
    }
    assert!(parts >= 6, "{parts} parts: all kinds but rot");
    for len in (0..bytes.len()).step_by(512) {
        check(bytes[..len].to_vec(), format!("{len} bytes"));
    }
}

#[test]
fn a_lost_or_shortened_blob_is_reported_and_costs_only_its_pieces() {
    let world = filled(false);
    world.close();
    let files = world.disk.all_files();
    let sealed = FileId::Blob(BlobId(2));
    for keeps in [None, Some(4_096)] {
        let mut files = files.clone();
        let whole = files.remove(&sealed).unwrap();
        if let Some(len) = keeps {
            files.insert(sealed, whole[..len].to_vec());
        }
        let kept_len = keeps.unwrap_or_default() as u64;
        let disk = SimDisk::from_all_files(1, files);
        let world = reopened(&disk, options());
        assert_eq!(world.recovery.checkpoint, None);
        let missing = world
            .recovery
            .rotten
            .iter()
            .find(|rot| rot.damage == Damage::Missing);
        let missing = missing.unwrap();
        assert_eq!(
            (missing.blob, missing.offset, missing.len),
            (BlobId(2), kept_len, whole.len() as u64 - kept_len)
        );
        assert_eq!(world.body(5), Err(GetError::NotFound));
        check_same(&world, &piece(8, 5_000));
        // Said once; then the store goes on without.
        let world = world.reopen(options(), 2);
        assert!(
            world
                .recovery
                .rotten
                .iter()
                .all(|rot| rot.damage != Damage::Missing)
        );
        check_same(&world, &piece(8, 5_000));
    }
}

#[test]
fn a_folder_without_any_of_its_blobs_is_not_opened() {
    let world = filled(false);
    world.close();
    let count = world.disk.files().len() as u64;
    let mut files = world.disk.all_files();
    files.retain(|id, _| matches!(id, FileId::Checkpoint(_)));
    let disk = SimDisk::from_all_files(1, files.clone());
    let refused = try_open(&disk, options(), 2).err();
    assert_eq!(refused, Some(OpenError::NoBlobs { count }));
    assert_eq!(disk.all_files(), files, "nothing was changed");
    let mut options = options();
    options.ignores_checkpoint = true;
    let world = open(&disk, options, 2);
    assert_eq!(world.put(piece(1, 100)), Ok(Stored::New));
}

#[test]
fn checkpoints_come_by_themselves_before_an_opening_would_take_long() {
    let mut options = options();
    options.blob_records_max = 1;
    let world = open(&SimDisk::new(1), options, 1);
    for key in 0..150 {
        assert_eq!(world.put(piece(key, 100)), Ok(Stored::New));
    }
    // Beginning a blob counts for 4,096 records, and 2^18 of them are left to an opening.
    assert_eq!(world.store.counters().checkpoints, 2);
    let disk = world.crash(1);
    let world = reopened(&disk, options);
    assert!(world.recovery.checkpoint.is_some());
    assert!(
        (10..50).contains(&world.recovery.records_read),
        "{:?}",
        world.recovery
    );
}

#[test]
fn a_checkpoint_that_cannot_be_written_costs_nothing() {
    for failure in [Failure::Eio, Failure::NoSpace, Failure::Short] {
        for nth in 1..8 {
            let world = filled(true);
            world.disk.inject(Fault {
                ops: ALL_OPS,
                nth,
                failure,
                is_sticky: false,
            });
            let written = world.run(|store| async move { store.checkpoint().await });
            world.disk.heal();
            assert!(!world.store.is_read_only());
            assert_eq!(world.put(piece(40, 100)), Ok(Stored::New));
            assert_eq!(world.delete(11), Ok(true));
            let disk = world.crash(nth);
            let world = reopened(&disk, options());
            assert!(
                world.recovery.checkpoint.is_some(),
                "{written:?}: an older one is there"
            );
            assert_eq!(world.recovery.rotten, []);
            check_same(&world, &piece(40, 100));
            assert_eq!(world.body(11), Err(GetError::NotFound));
        }
    }
}

#[test]
fn a_note_that_cannot_be_written_costs_the_checkpoint_and_not_the_removal() {
    for (nth, failure) in [
        (1, Failure::NoSpace),
        (1, Failure::Short),
        (2, Failure::Eio),
    ] {
        let world = filled(false);
        for key in 4..8 {
            assert_eq!(world.delete(key), Ok(true));
        }
        let ops = if nth == 1 { &[Op::Write] } else { &[Op::Sync] };
        world.disk.inject(Fault {
            ops,
            nth: 1,
            failure,
            is_sticky: false,
        });
        let done = world.run(|store| async move { store.compact(NOW_S).await.unwrap() });
        assert!(done.is_some_and(|done| done.removed_bytes > 0));
        world.disk.heal();
        let world = reopened(&world.crash(nth), options());
        assert_eq!(
            (world.recovery.checkpoint, world.recovery.rotten.len()),
            (None, 0)
        );
    }
}

/// Compaction right after a checkpoint, cut off after every number of polls.
#[test]
fn a_crash_at_any_moment_of_a_compaction_leaves_a_checkpoint_that_holds() {
    let mut used = 0;
    for polls in 0..120 {
        let world = filled(false);
        for key in [4, 5, 7, 10, 11] {
            assert_eq!(world.delete(key), Ok(true));
        }
        let store = Rc::clone(&world.store);
        world.executor.spawn(async move {
            while store.compact(NOW_S).await.is_ok_and(|done| done.is_some()) {}
        });
        for _ in 0..polls {
            world.executor.step();
        }
        let world = reopened(&world.crash(polls), options());
        assert_eq!(world.recovery.rotten, [], "after {polls} polls");
        used += usize::from(world.recovery.checkpoint.is_some());
        check_same(&world, &piece(6, 5_000));
    }
    assert_eq!(used, 120);
}

#[test]
fn gets_go_on_while_a_checkpoint_is_written_and_puts_wait() {
    let world = filled(false);
    world.disk.hold(Op::Sync);
    for work in 0..2 {
        let store = Rc::clone(&world.store);
        world.executor.spawn(async move {
            if work == 0 {
                assert_eq!(store.checkpoint().await, Ok(true));
            } else {
                assert_eq!(store.put(piece(50, 100)).await, Ok(Stored::New));
            }
        });
        world.executor.run_until_stalled();
    }
    check_same(&world, &piece(4, 5_000));
    assert_eq!(world.body(50), Err(GetError::NotFound));
    world.disk.release(Op::Sync);
    world.executor.run_until_stalled();
    check_same(&world, &piece(50, 100));
}

#[test]
fn rot_is_reported_by_every_opening_though_no_blob_is_read() {
    let world = open(&SimDisk::new(1), small_options(), 1);
    for key in 0..3 {
        assert_eq!(world.put(piece(key, 5_000)), Ok(Stored::New));
    }
    world.close();
    let mut files = world.disk.files();
    // A group header in the middle.
    let second = strand_blob::inspect::records(&files[&BlobId(1)]).unwrap()[1].offset;
    files.get_mut(&BlobId(1)).unwrap()[second as usize / 4_096 * 4_096] ^= 1;
    let world = open(&SimDisk::from_files(1, files), small_options(), 2);
    let rotten = world.recovery.rotten.clone();
    assert_eq!(rotten.len(), 1);
    let world = world.reopen(small_options(), 3);
    assert!(world.recovery.checkpoint.is_some());
    assert_eq!(world.recovery.rotten, rotten);
    assert_eq!(world.recovery.records_read, 0);
    assert_eq!(
        Knowledge::of(&world.store),
        rebuilt(&world.disk, small_options())
    );
}

#[test]
fn a_delete_that_could_not_read_the_piece_holds_through_a_clean_end() {
    let world = filled(false);
    world.disk.inject(Fault {
        ops: &[Op::Read],
        nth: 1,
        failure: Failure::Eio,
        is_sticky: false,
    });
    assert_eq!(
        world.delete(4),
        Ok(true),
        "its blob's footer says whose it is"
    );
    assert_eq!(world.body(4), Err(GetError::NotFound));
    let disk = world.disk.clone();
    world.close();
    let world = reopened(&disk, options());
    assert_eq!(world.body(4), Err(GetError::NotFound));
}

#[test]
fn a_delete_that_can_read_neither_the_piece_nor_its_footer_fails() {
    let world = filled(false);
    world.disk.inject(Fault {
        ops: &[Op::Read],
        nth: 1,
        failure: Failure::Eio,
        is_sticky: true,
    });
    assert!(matches!(world.delete(4), Err(PutError::Disk(_))));
    world.disk.heal();
    check_same(&world, &piece(4, 5_000));
    assert_eq!(world.delete(4), Ok(true));
}

/// Pieces trashed before and after the checkpoint, some restored, some moved or removed since.
fn trashed(keys: impl IntoIterator<Item = u64>) -> World {
    let world = filled(false);
    assert_eq!(world.trash(&[4, 6, 8, 11], NOW_S + 1).unwrap().trashed, 4);
    assert!(checkpoint(&world));
    for key in keys {
        match key {
            6 => assert_eq!(world.put(piece(6, 5_000)), Ok(Stored::Already)),
            8 => assert_eq!(world.delete(8), Ok(true)),
            3 => assert_eq!(world.trash(&[3], NOW_S + 5).unwrap().trashed, 1),
            other => assert_eq!(world.delete(other), Ok(true)),
        }
    }
    world
}

#[test]
fn trashed_pieces_that_were_moved_since_are_still_in_the_trash() {
    for seed in 0..20 {
        let world = trashed([5, 7, 10, 0, 12]);
        compact_all(&world);
        assert!(world.store.counters().moved_bytes > 0);
        let world = reopened(&world.crash(seed), options());
        check_naive(&world);
        assert_eq!(world.recovery.checkpoint, Some(2));
        assert_eq!(
            (world.recovery.trashed, world.store.counters().trashed),
            (4, 4)
        );
        assert_eq!(world.restore_all(NOW_S + 9), Ok(4));
        check_same(&world, &piece(4, 5_000));
        let world = world.reopen(options(), 3);
        assert_eq!(world.recovery.trashed, 0);
        check_naive(&world);
    }
}

/// The same, cut off after every number of polls, with pieces that came back, died or went into the trash since.
#[test]
fn a_crash_at_any_moment_keeps_what_was_trashed_and_restored_since() {
    for polls in 0..150 {
        let world = trashed([5, 7, 6, 3, 8, 10]);
        let store = Rc::clone(&world.store);
        world.executor.spawn(async move {
            while store.compact(NOW_S).await.is_ok_and(|done| done.is_some()) {}
        });
        for _ in 0..polls {
            world.executor.step();
        }
        let world = reopened(&world.crash(polls), options());
        assert_eq!(world.recovery.checkpoint, Some(2), "after {polls} polls");
        assert_eq!(world.recovery.trashed, 3, "after {polls} polls");
        check_same(&world, &piece(6, 5_000));
    }
}

#[test]
fn a_checkpoint_knows_damaged_pieces_as_if_nobody_had_looked() {
    let world = filled(false);
    assert_eq!(world.trash(&[4, 6], NOW_S + 1).unwrap().trashed, 2);
    let ids = [id_of(4), id_of(5)];
    for (id, bytes) in world.disk.files() {
        for record in inspect::records(&bytes).unwrap() {
            if record.is_piece() && ids.contains(&record.id) {
                let at = (record.body_offset + record.body_len + record.trailer_len - 1) as usize;
                world.disk.edit(id, |bytes| bytes[at] ^= 1);
            }
        }
    }
    for key in [4, 5] {
        assert!(matches!(world.body(key), Err(GetError::Corrupt { .. })));
    }
    assert_eq!(world.store.counters().damaged, 2);
    let world = reopened_in_order(world);
    assert_eq!(world.recovery.trashed, 2);
    assert!(matches!(world.body(5), Err(GetError::Corrupt { .. })));
    // Let go by compaction, and that is known too.
    for key in [7, 6] {
        assert_eq!(world.delete(key), Ok(true));
    }
    assert_eq!(
        world
            .scrub(1 << 20)
            .iter()
            .map(|step| step.lost.len())
            .sum::<usize>(),
        1
    );
    compact_all(&world);
    let world = reopened_in_order(world);
    assert_eq!(world.recovery.trashed, 0);
    assert_eq!(world.body(5), Err(GetError::NotFound));
}

#[test]
fn what_outlived_its_days_in_the_trash_is_gone_with_a_checkpoint_too() {
    let late_s = NOW_S + 8 * 86_400;
    let world = filled(false);
    assert_eq!(world.trash(&[4], NOW_S + 1).unwrap().trashed, 1);
    assert!(checkpoint(&world));
    let world = world.reopen(options(), 2);
    assert_eq!(world.recovery.trashed, 1);
    world.compact(late_s);
    assert_eq!(world.store.counters().trashed, 0);
    let world = world.reopen(options(), 2);
    assert!(world.recovery.checkpoint.is_some());
    assert_eq!(world.recovery.trashed, 0);
    world.check_space();
    assert_eq!(world.restore_all(late_s), Ok(0));
    assert_eq!(world.body(4), Err(GetError::NotFound));
}

#[test]
fn the_checkpoint_of_an_older_state_is_as_good() {
    let world = filled(false);
    let old: BTreeMap<FileId, Vec<u8>> = world.disk.all_files();
    let old = old[&FileId::Checkpoint(1)].clone();
    for key in 60..70 {
        assert_eq!(world.put(piece(key, 900)), Ok(Stored::New));
    }
    for key in [60, 61, 4, 13] {
        assert_eq!(world.delete(key), Ok(true));
    }
    assert!(checkpoint(&world));
    let mut files = world.crash(1).all_files();
    files.insert(FileId::Checkpoint(1), old);
    files.get_mut(&FileId::Checkpoint(2)).unwrap()[70] ^= 1;
    let world = reopened(&SimDisk::from_all_files(1, files), options());
    assert_eq!(world.recovery.checkpoint, Some(1));
    assert!(world.recovery.records_read >= 14);
    assert_eq!(world.body(4), Err(GetError::NotFound));
    // Before anything is written, the damaged one and whatever else lies there is removed.
    world.put(piece(80, 100)).unwrap();
    let ids = world.disk.all_files().into_keys();
    let others: Vec<_> = ids.filter(|id| *id == FileId::Checkpoint(2)).collect();
    assert_eq!(others, []);
}
