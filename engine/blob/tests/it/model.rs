//! The store against a plain map, over months: puts, gets, deletes, collections, restores, scrubs, compactions, expiry, crashes.
//!
//! One operation at a time and time that only goes forward, so the map says exactly what each answer is. A crash comes between two operations
//! or in the middle of a compaction, which must not change what anybody sees. After each step the live pieces are read, bit for bit, those that are
//! gone are asked for, and every byte of the files has a use. Trashed pieces are not looked at, since a read brings them back; their turn comes
//! with the operations and at the end.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use proptest::prelude::*;
use strand_blob::disk::sim::SimDisk;
use strand_blob::{GetError, NewPiece, PutError, StoreOptions, Stored, TRASH_S};

use crate::support::{
    DAY_S, NOW_S, SATELLITE, World, body_of, id_of, open, piece_of, small_options,
};

const KEYS: u64 = 6;

#[derive(Clone, Debug)]
enum Step {
    /// Days that the piece lives; 0 = for ever.
    Put {
        key: u64,
        variant: u64,
        days: u32,
    },
    Get {
        key: u64,
    },
    Delete {
        key: u64,
    },
    Collect {
        keys: Vec<u64>,
    },
    RestoreAll,
    Scrub,
    Compact,
    /// Hours.
    Wait {
        hours: u32,
    },
    Reopen,
    Crash {
        seed: u64,
    },
    /// The power fails after so many polls of a compaction.
    CrashInCompaction {
        polls: u64,
        seed: u64,
    },
}

#[derive(Clone, Copy, Debug)]
struct There {
    variant: u64,
    created_s: u32,
    expiry_s: u32,
    trashed_s: Option<u32>,
}

impl There {
    fn has_expired(&self, now_s: u32) -> bool {
        self.expiry_s != 0 && self.expiry_s < now_s
    }

    fn is_visible(&self, now_s: u32) -> bool {
        let is_over = self
            .trashed_s
            .is_some_and(|since_s| since_s + TRASH_S < now_s);
        !self.has_expired(now_s) && !is_over
    }
}

struct Model {
    options: StoreOptions,
    world: World,
    now_s: u32,
    there: BTreeMap<u64, There>,
    /// Deleted when no reader saw them any more.
    lingering: BTreeSet<u64>,
}

fn bytes_of(key: u64, variant: u64) -> Vec<u8> {
    body_of(key, variant, [700, 20_000][(key + variant) as usize % 2])
}

impl Model {
    fn step(mut self, step: &Step) -> Self {
        let now_s = self.now_s;
        match step {
            Step::Put { key, variant, days } => self.put(*key, *variant, *days),
            Step::Get { key } => {
                let is_visible = self
                    .there
                    .get(key)
                    .is_some_and(|there| there.is_visible(now_s));
                assert_eq!(self.read(*key).is_some(), is_visible, "{key} at {now_s}");
                self.world.executor.run_until_stalled();
                let was_trashed = is_visible && self.there[key].trashed_s.is_some();
                let revived = self.world.store.take_revived();
                assert_eq!(revived.len(), usize::from(was_trashed));
                if let Some(there) = self.there.get_mut(key).filter(|_| was_trashed) {
                    there.trashed_s = None;
                }
            }
            Step::Delete { key } => {
                let id = id_of(*key);
                let delete = |store: Rc<strand_blob::Store<SimDisk>>| async move {
                    store.delete(&SATELLITE, &id, now_s).await
                };
                let existed = self.world.run(delete).unwrap();
                match self.there.remove(key) {
                    Some(there) if there.is_visible(now_s) => assert!(existed),
                    // Gone for readers; whether its bytes are is compaction's business, and a crash may show them again.
                    Some(_) => {
                        self.lingering.insert(*key);
                    }
                    None => assert!(!existed || self.lingering.contains(key)),
                }
            }
            Step::Collect { keys } => {
                let done = self.world.trash(keys, now_s).unwrap();
                let mut trashed = 0;
                let snapshot_s = now_s.max(NOW_S + 1);
                for (_, there) in self.there.iter_mut().filter(|(key, _)| keys.contains(key)) {
                    let is_live = there.is_visible(now_s) && there.trashed_s.is_none();
                    if is_live && there.created_s < snapshot_s {
                        there.trashed_s = Some(snapshot_s);
                        trashed += 1;
                    }
                }
                assert_eq!(done.trashed, trashed);
            }
            Step::RestoreAll => {
                let mut restored = 0;
                for there in self.there.values_mut() {
                    if there.is_visible(now_s) && there.trashed_s.take().is_some() {
                        restored += 1;
                    }
                }
                assert_eq!(self.world.restore_all(now_s), Ok(restored));
            }
            Step::Scrub => {
                for step in self.world.scrub(30_000) {
                    assert_eq!((step.damaged_records, step.damaged_headers), (0, 0));
                }
            }
            Step::Compact => {
                let done = self.world.compact(now_s);
                assert_eq!(done.unwrap_or_default().lost, []);
            }
            Step::Wait { hours } => self.now_s += hours * 3_600,
            Step::Reopen => {
                self.world = self.world.reopen(self.options, u64::from(now_s));
                assert_eq!(self.world.recovery.rotten, []);
            }
            Step::Crash { seed } => {
                self.world = open(&self.world.crash(*seed), self.options, *seed)
            }
            Step::CrashInCompaction { polls, seed } => {
                let store = Rc::clone(&self.world.store);
                self.world.executor.spawn(async move {
                    let _cut_off = store.compact(now_s).await;
                });
                for _ in 0..*polls {
                    self.world.executor.step();
                }
                self.world = open(&self.world.crash(*seed), self.options, *seed);
                assert_eq!(self.world.recovery.rotten, []);
            }
        }
        self.check(step);
        self
    }

    fn put(&mut self, key: u64, variant: u64, days: u32) {
        let now_s = self.now_s;
        let expiry_s = if days == 0 { 0 } else { now_s + days * DAY_S };
        let piece = NewPiece {
            created_s: now_s,
            expiry_s,
            ..piece_of(key, &bytes_of(key, variant))
        };
        let wanted = match self
            .there
            .get_mut(&key)
            .filter(|there| there.is_visible(now_s))
        {
            Some(there) if there.variant == variant => {
                there.trashed_s = None;
                Ok(Stored::Already)
            }
            Some(_) => Err(PutError::Conflict),
            None => {
                let there = There {
                    variant,
                    created_s: now_s,
                    expiry_s,
                    trashed_s: None,
                };
                self.there.insert(key, there);
                Ok(Stored::New)
            }
        };
        assert_eq!(self.world.put(piece), wanted, "piece {key}");
    }

    /// The variant that a reader finds now.
    fn read(&self, key: u64) -> Option<u64> {
        let now_s = self.now_s;
        let read = self.world.run(move |store| async move {
            let piece = store.piece(&SATELLITE, &id_of(key), now_s).await?;
            store.read_shares(&piece, 0..piece.share_count()).await
        });
        match read {
            Ok(bytes) => Some(
                (0..2)
                    .find(|&variant| bytes_of(key, variant) == bytes)
                    .expect("bytes that were never put"),
            ),
            Err(GetError::NotFound) => None,
            Err(error) => panic!("piece {key}: {error}"),
        }
    }

    fn check(&self, step: &Step) {
        for key in 0..KEYS {
            let there = self
                .there
                .get(&key)
                .filter(|there| there.is_visible(self.now_s));
            if there.is_none_or(|there| there.trashed_s.is_none()) {
                let wanted = there.map(|there| there.variant);
                assert_eq!(self.read(key), wanted, "piece {key} after {step:?}");
            }
        }
        self.world.check_space();
        assert_eq!(self.world.store.take_lost(), []);
    }

    /// Everything that can be read is, the trash included.
    fn end(self) {
        for (&key, there) in &self.there {
            let wanted = there.is_visible(self.now_s).then_some(there.variant);
            assert_eq!(self.read(key), wanted, "piece {key} at the end");
        }
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let key = 0..KEYS;
    let days = prop_oneof![3 => Just(0_u32), 1 => 1..40_u32];
    let step = prop_oneof![
        8 => (key.clone(), 0..2_u64, days).prop_map(|(key, variant, days)| Step::Put { key, variant, days }),
        2 => key.clone().prop_map(|key| Step::Get { key }),
        3 => key.clone().prop_map(|key| Step::Delete { key }),
        5 => prop::collection::vec(key, 1..4).prop_map(|keys| Step::Collect { keys }),
        1 => Just(Step::RestoreAll),
        1 => Just(Step::Scrub),
        5 => Just(Step::Compact),
        4 => prop_oneof![1..30_u32, 100..250_u32].prop_map(|hours| Step::Wait { hours }),
        1 => Just(Step::Reopen),
        1 => any::<u64>().prop_map(|seed| Step::Crash { seed }),
        3 => (0..60_u64, any::<u64>()).prop_map(|(polls, seed)| Step::CrashInCompaction { polls, seed }),
    ];
    prop::collection::vec(step, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, max_shrink_iters: 4_096, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_store_is_a_map_with_a_trash(
        steps in steps(),
        fingerprint_bits in prop_oneof![3 => Just(64_u32), 1 => Just(1)],
        blob_records_max in 1..5_u32,
    ) {
        let mut options = small_options();
        options.blob_records_max = blob_records_max;
        options.danger_fingerprint_bits = fingerprint_bits;
        let model = Model {
            options,
            world: open(&SimDisk::new(1), options, 1),
            now_s: NOW_S,
            there: BTreeMap::new(),
            lingering: BTreeSet::new(),
        };
        steps.iter().fold(model, Model::step).end();
    }
}
