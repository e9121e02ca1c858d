//! The index that an opening builds is the one that a naive reading of all records gives.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use strand_blob::disk::sim::SimDisk;
use strand_blob::inspect::{self, StoredRecord};
use strand_blob::testing::Knowledge;
use strand_blob::{BlobId, PutError, StoreOptions, Stored};

use crate::support::{NOW_S, World, open, piece, small_options};

type Places = BTreeSet<(BlobId, u64)>;

/// Which piece records count and which do not, by the rule alone: the highest sequence of a piece, and of one that is
/// there twice the later place.
fn naive(files: &BTreeMap<BlobId, Vec<u8>>) -> (Places, Places) {
    let mut newest: BTreeMap<_, (u64, BlobId, u64, bool)> = BTreeMap::new();
    let mut all = Places::new();
    for (&blob, bytes) in files {
        for StoredRecord {
            satellite,
            id,
            sequence,
            offset,
            is_tombstone,
            ..
        } in inspect::records(bytes).unwrap()
        {
            let found = (sequence, blob, offset, is_tombstone);
            let newest = newest.entry((satellite, id)).or_insert(found);
            *newest = found.max(*newest);
            if !is_tombstone {
                all.insert((blob, offset));
            }
        }
    }
    let pieces = newest.into_values().filter(|newest| !newest.3);
    let live: Places = pieces.map(|(_, blob, offset, _)| (blob, offset)).collect();
    let dead = all.difference(&live).copied().collect();
    (live, dead)
}

pub(crate) fn check_naive(world: &World) {
    let found = Knowledge::of(&world.store);
    let (live, dead) = naive(&world.disk.files());
    assert_eq!(found.live, live);
    assert_eq!(found.dead, dead);
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Put(u64),
    Delete(u64),
    Compact,
    Reopen,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        6 => (0..40_u64).prop_map(Op::Put),
        5 => (0..40_u64).prop_map(Op::Delete),
        1 => Just(Op::Compact),
        1 => Just(Op::Reopen),
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
