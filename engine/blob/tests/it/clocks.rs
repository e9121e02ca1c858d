//! Clocks that jump: the satellite's forward by years and back by hours, the node's own to any time at all, between operations and over
//! reopenings.
//!
//! A piece expires, and leaves the trash, by the satellite's time alone, and is gone for good only if a compaction saw that time. So the
//! model keeps what must be there (`sure`) apart from what some compaction was allowed to drop (`unsure`); the node's own clock is in
//! neither. Mutations that this catches: compaction that drops by the store's own newest time, `self.now_s`, in place of the one that it is
//! given; a reader that asks that time.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use strand_blob::disk::sim::SimDisk;
use strand_blob::testing::Random;
use strand_blob::{GetError, NewPiece, Store, StoreOptions, Stored, TRASH_S};

use crate::support::{
    DAY_S, NOW_S, SATELLITE, World, body_of, collect, id_of, piece_of, read_body, small_options,
};

const KEYS: u64 = 5;
const YEAR_S: u32 = 365 * DAY_S;

#[derive(Clone, Debug)]
enum Step {
    /// Days that the piece lives; 0 = for ever.
    Put {
        key: u64,
        days: u32,
    },
    Get {
        key: u64,
    },
    Delete {
        key: u64,
    },
    Collect {
        key: u64,
    },
    RestoreAll,
    Compact,
    /// A node that does not trust its clock lets nothing expire.
    CompactWithoutTime,
    SatelliteForward {
        hours: u32,
    },
    SatelliteBack {
        hours: u32,
    },
    /// With the node's own clock at this time, and after a crash or in order.
    Reopen {
        own_s: u32,
        crash_seed: Option<u64>,
    },
}

#[derive(Clone, Copy, Debug)]
struct There {
    created_s: u32,
    expiry_s: u32,
    trashed_s: Option<u32>,
}

impl There {
    fn is_visible(&self, now_s: u32) -> bool {
        let has_expired = self.expiry_s != 0 && self.expiry_s < now_s;
        let is_over = |since_s: u32| now_s.saturating_sub(since_s) > TRASH_S;
        !has_expired && !self.trashed_s.is_some_and(is_over)
    }
}

struct Model {
    options: StoreOptions,
    world: World,
    /// The satellite's time.
    now_s: u32,
    sure: BTreeMap<u64, There>,
    unsure: BTreeSet<u64>,
}

fn bytes_of(key: u64) -> Vec<u8> {
    body_of(key, 0, [700, 20_000][key as usize % 2])
}

/// A store whose node believes that it is this late.
fn open_at(disk: &SimDisk, options: StoreOptions, own_s: u32, seed: u64) -> World {
    let executor = strand_blob::testing::Executor::new(seed);
    let on = disk.clone();
    let opened = executor.run(async move {
        let mut random = Random::new(seed);
        let mut fill = |bytes: &mut [u8]| random.fill(bytes);
        Store::open(on, options, own_s, &mut fill).await
    });
    let (store, recovery) = opened.unwrap();
    executor.spawn(std::rc::Rc::clone(&store).run_commits());
    World {
        executor,
        disk: disk.clone(),
        store,
        recovery,
    }
}

impl Model {
    fn step(mut self, step: &Step) -> Self {
        let now_s = self.now_s;
        match *step {
            Step::Put { key, days } => self.put(key, days),
            Step::Get { key } => {
                self.check(key, step);
                self.world.executor.run_until_stalled();
                self.world.store.take_revived();
                if let Some(there) = self.sure.get_mut(&key)
                    && there.is_visible(now_s)
                {
                    there.trashed_s = None;
                }
            }
            Step::Delete { key } => {
                let id = id_of(key);
                let delete = self
                    .world
                    .run(move |store| async move { store.delete(&SATELLITE, &id, now_s).await });
                let is_sure = self.sure.remove(&key).is_some();
                let existed = delete.unwrap();
                assert!(existed || !is_sure, "piece {key} was there");
                self.unsure.remove(&key);
            }
            Step::Collect { key } => {
                let trash = self
                    .world
                    .run(move |store| async move { collect(&store, vec![key], now_s).await });
                let trashed = trash.unwrap().trashed;
                let snapshot_s = now_s.max(NOW_S + 1);
                if let Some(there) = self.sure.get_mut(&key) {
                    let is_taken = there.is_visible(now_s)
                        && there.trashed_s.is_none()
                        && there.created_s < snapshot_s;
                    assert_eq!(trashed, u64::from(is_taken), "{key} at {now_s}: {there:?}");
                    if is_taken {
                        there.trashed_s = Some(snapshot_s);
                    }
                }
            }
            Step::RestoreAll => {
                self.world.restore_all(now_s).unwrap();
                for there in self.sure.values_mut() {
                    if there.is_visible(now_s) {
                        there.trashed_s = None;
                    }
                }
            }
            Step::Compact => self.compact(now_s),
            Step::CompactWithoutTime => self.compact(0),
            Step::SatelliteForward { hours } => {
                self.now_s = now_s.saturating_add(hours * 3_600).min(u32::MAX - YEAR_S);
            }
            Step::SatelliteBack { hours } => self.now_s = now_s - hours * 3_600,
            Step::Reopen { own_s, crash_seed } => {
                let disk = match crash_seed {
                    Some(seed) => self.world.crash(seed),
                    None => {
                        self.world.close();
                        self.world.disk.clone()
                    }
                };
                self.world = open_at(&disk, self.options, own_s, u64::from(own_s));
                assert_eq!(self.world.recovery.rotten, []);
            }
        }
        for key in 0..KEYS {
            let is_trashed = |there: &There| there.trashed_s.is_some();
            if !self.sure.get(&key).is_some_and(is_trashed) && !self.unsure.contains(&key) {
                self.check(key, step);
            }
        }
        self.world.check_space();
        assert_eq!(self.world.store.take_lost(), []);
        self
    }

    fn put(&mut self, key: u64, days: u32) {
        let now_s = self.now_s;
        let expiry_s = if days == 0 { 0 } else { now_s + days * DAY_S };
        let put = self.world.put(NewPiece {
            created_s: now_s,
            expiry_s,
            ..piece_of(key, &bytes_of(key))
        });
        let is_unsure = self.unsure.contains(&key);
        let there = self
            .sure
            .get_mut(&key)
            .filter(|there| there.is_visible(now_s));
        match (put, there) {
            (Ok(Stored::Already), Some(there)) => there.trashed_s = None,
            (Ok(Stored::Already), None) => assert!(is_unsure, "piece {key} was not there"),
            (Ok(Stored::New), there) => {
                assert!(there.is_none(), "piece {key} was lost");
                self.unsure.remove(&key);
                let there = There {
                    created_s: now_s,
                    expiry_s,
                    trashed_s: None,
                };
                self.sure.insert(key, there);
            }
            (Err(error), _) => panic!("piece {key}: {error}"),
        }
    }

    /// By this time the node may drop what has expired, and no more.
    fn compact(&mut self, time_s: u32) {
        for _ in 0..3 {
            if let Some(done) = self.world.compact(time_s) {
                assert_eq!(done.lost, []);
            }
        }
        let droppable = self
            .sure
            .iter()
            .filter(|(_, there)| !there.is_visible(time_s));
        let droppable: Vec<_> = droppable.map(|(&key, _)| key).collect();
        for key in droppable {
            self.sure.remove(&key);
            self.unsure.insert(key);
        }
    }

    fn check(&self, key: u64, step: &Step) {
        let now_s = self.now_s;
        let read = self
            .world
            .run(move |store| async move { read_body(&store, key, now_s).await });
        let there = self.sure.get(&key).filter(|there| there.is_visible(now_s));
        match read {
            Ok(bytes) => {
                assert!(bytes == bytes_of(key), "other bytes for piece {key}");
                let is_known = there.is_some() || self.unsure.contains(&key);
                assert!(is_known, "piece {key} after {step:?} at {now_s}");
            }
            Err(GetError::NotFound) => {
                assert!(
                    there.is_none(),
                    "piece {key} is lost after {step:?} at {now_s}"
                );
            }
            Err(error) => panic!("piece {key}: {error}"),
        }
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let key = 0..KEYS;
    let days = prop_oneof![1 => Just(0_u32), 2 => 1..400_u32];
    let own_s = prop_oneof![
        Just(0_u32),
        NOW_S - 1_000..NOW_S + 1_000,
        Just(NOW_S + 20 * YEAR_S),
        Just(u32::MAX),
    ];
    let forward = prop_oneof![3 => 1..40_u32, 1 => 8_760..5 * 8_760_u32];
    let crash_seed = prop::option::of(any::<u64>());
    let step = prop_oneof![
        8 => (key.clone(), days).prop_map(|(key, days)| Step::Put { key, days }),
        2 => key.clone().prop_map(|key| Step::Get { key }),
        2 => key.clone().prop_map(|key| Step::Delete { key }),
        3 => key.prop_map(|key| Step::Collect { key }),
        1 => Just(Step::RestoreAll),
        3 => Just(Step::Compact),
        2 => Just(Step::CompactWithoutTime),
        2 => forward.prop_map(|hours| Step::SatelliteForward { hours }),
        2 => (1..60_u32).prop_map(|hours| Step::SatelliteBack { hours }),
        3 => (own_s, crash_seed).prop_map(|(own_s, crash_seed)| Step::Reopen { own_s, crash_seed }),
    ];
    prop::collection::vec(step, 1..50)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, max_shrink_iters: 4_096, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_the_clocks_do_nothing_goes_before_its_time_by_the_satellite(
        steps in steps(),
        blob_records_max in 1..5_u32,
        own_s in any::<u32>(),
    ) {
        let options = StoreOptions { blob_records_max, ..small_options() };
        let model = Model {
            options,
            world: open_at(&SimDisk::new(1), options, own_s, 1),
            now_s: NOW_S,
            sure: BTreeMap::new(),
            unsure: BTreeSet::new(),
        };
        steps.iter().fold(model, Model::step);
    }
}
