//! The index that an opening builds is the one that a naive reading of all records gives.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use strand_blob::disk::sim::SimDisk;
use strand_blob::inspect::{self, RecordKind, StoredRecord};
use strand_blob::testing::Knowledge;
use strand_blob::{BlobId, PutError, StoreOptions, Stored};

use crate::support::{NOW_S, World, open, piece, small_options};

type Places = BTreeSet<(BlobId, u64)>;

/// Since when which piece records are in the trash.
type Trashed = BTreeSet<(BlobId, u64, u32)>;

/// Which piece records count, which are in the trash, and which do not count, by the rule alone: the piece or tombstone of the highest
/// sequence, and of one that is there twice the later place; and above it the highest trash or restore record.
fn naive(files: &BTreeMap<BlobId, Vec<u8>>) -> (Places, Trashed, Places) {
    let mut names: BTreeMap<_, Vec<(u64, BlobId, StoredRecord)>> = BTreeMap::new();
    for (&blob, bytes) in files {
        for record in inspect::records(bytes).unwrap() {
            let records = names.entry((record.satellite, record.id)).or_default();
            records.push((record.sequence, blob, record));
        }
    }
    let (mut live, mut trash, mut dead) = (Places::new(), Trashed::new(), Places::new());
    for mut records in names.into_values() {
        records.sort_by_key(|(sequence, blob, record)| (*sequence, *blob, record.offset));
        let is_mark = |kind| matches!(kind, RecordKind::Trash | RecordKind::Restore);
        let base = records
            .iter()
            .rposition(|(_, _, record)| !is_mark(record.kind));
        for (at, (_, blob, record)) in records.iter().enumerate() {
            let place = (*blob, record.offset);
            if !record.is_piece() {
                continue;
            }
            if base != Some(at) {
                dead.insert(place);
                continue;
            }
            let mark = records[at + 1..].last().map(|(_, _, mark)| mark);
            match mark.filter(|mark| mark.kind == RecordKind::Trash) {
                Some(mark) => trash.insert((place.0, place.1, mark.created_s)),
                None => live.insert(place),
            };
        }
    }
    (live, trash, dead)
}

pub(crate) fn check_naive(world: &World) {
    let found = Knowledge::of(&world.store);
    let (live, trash, dead) = naive(&world.disk.files());
    assert_eq!(found.live, live);
    assert_eq!(found.trash, trash);
    assert_eq!(found.dead, dead);
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Put(u64),
    Delete(u64),
    /// Later with each key.
    Trash(u64),
    RestoreAll,
    Compact,
    Checkpoint,
    Reopen,
    Crash(u64),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        6 => (0..40_u64).prop_map(Op::Put),
        5 => (0..40_u64).prop_map(Op::Delete),
        3 => (0..40_u64).prop_map(Op::Trash),
        1 => Just(Op::RestoreAll),
        2 => Just(Op::Compact),
        1 => Just(Op::Checkpoint),
        1 => Just(Op::Reopen),
        1 => (0..9_u64).prop_map(Op::Crash),
    ];
    prop::collection::vec(op, 1..160)
}

fn perform(world: World, options: StoreOptions, op: Op) -> World {
    match op {
        Op::Put(key) => {
            let len = [100, 900, 20_000][key as usize % 3];
            let stored: Result<Stored, PutError> = world.put(piece(key, len));
            assert!(stored.is_ok());
        }
        Op::Delete(key) => assert!(world.delete(key).is_ok()),
        Op::Trash(key) => assert!(world.trash(&[key], NOW_S + key as u32).is_ok()),
        Op::RestoreAll => assert!(world.restore_all(NOW_S + 100).is_ok()),
        Op::Checkpoint => {
            let done = world.run(|store| async move { store.checkpoint().await });
            assert_eq!(done, Ok(true));
        }
        Op::Crash(seed) => {
            let world = open(&world.crash(seed), options, seed);
            check_naive(&world);
            return world;
        }
        Op::Compact => {
            let done = world.run(|store| async move { store.compact(NOW_S).await });
            assert!(done.is_ok());
        }
        Op::Reopen => {
            let world = world.reopen(options, 3);
            check_naive(&world);
            return world;
        }
    }
    world
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_opening_finds_what_a_naive_reading_finds(
        ops in ops(),
        fingerprint_bits in prop_oneof![Just(64_u32), Just(3), Just(1)],
        blob_records_max in 2..12_u32,
    ) {
        let mut options = small_options();
        options.blob_records_max = blob_records_max;
        options.danger_fingerprint_bits = fingerprint_bits;
        let world = open(&SimDisk::new(1), options, 1);
        let world = ops.iter().fold(world, |world, &op| perform(world, options, op));
        check_naive(&world);
        let found = world.crash(5);
        check_naive(&open(&found, options, 2));
    }
}
