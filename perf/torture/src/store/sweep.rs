//! The N-th operation of a scenario fails, for every N, in every way, once and from then on.
//!
//! A scenario prepares a store without faults and then does one thing to it: that part is what fails. Afterwards the disk heals, the power is
//! cut, and everything that was acknowledged must be there; the store must take and lose pieces again. The checks are those of the model: no
//! panic, no acknowledgement that does not hold, no error for a piece that the failed operation has nothing to do with once the disk is well.

use strand_blob::disk::sim::{ALL_OPS, Failure, Fault, Op as DiskOp, SimDisk};
use strand_blob::testing::world::{DAY_S, NOW_S, open, piece, small_options};
use strand_blob::{PutError, StoreOptions, Stored, Traffic};

use crate::store::calls::{KEYS, Op, ask};
use crate::store::guard::guarded;
use crate::store::model::{Known, Model};
use crate::tally::Tally;

/// Small pieces that fill a disk: with the others they need most of the room for tombstones.
const FILLERS: std::ops::Range<u64> = 300..314;

/// What is done while operations fail.
struct Scenario {
    name: &'static str,
    options: fn() -> StoreOptions,
    prepare: fn(&mut Model),
    act: fn(&mut Model),
}

const FAILURES: [Failure; 5] = [
    Failure::Eio,
    Failure::NoSpace,
    Failure::Short,
    Failure::Interrupted,
    Failure::Cancelled,
];

fn few_records() -> StoreOptions {
    let mut options = small_options();
    options.blob_records_max = 3;
    options
}

fn little_room() -> StoreOptions {
    let mut options = small_options();
    options.capacity_bytes = 8 << 20;
    options
}

fn ignoring() -> StoreOptions {
    let mut options = few_records();
    options.ignores_checkpoint = true;
    options
}

fn put(model: &mut Model, keys: std::ops::Range<u64>) {
    let calls: Vec<_> = keys
        .map(|key| ask(key, Op::Put { variant: key % 2 }))
        .collect();
    model.batch(&calls);
}

fn delete(model: &mut Model, keys: impl IntoIterator<Item = u64>) {
    let calls: Vec<_> = keys.into_iter().map(|key| ask(key, Op::Delete)).collect();
    model.batch(&calls);
}

fn trash(model: &mut Model, keys: impl IntoIterator<Item = u64>) {
    for key in keys {
        model.batch(&[ask(key, Op::Trash)]);
    }
}

fn some_of_all(model: &mut Model) {
    put(model, 0..12);
    delete(model, [1, 5, 8]);
    trash(model, [2, 6]);
    model.batch(&[ask(0, Op::Checkpoint)]);
    put(model, 12..14);
}

const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "put",
        options: small_options,
        prepare: |model| put(model, 0..4),
        act: |model| put(model, 2..9),
    },
    Scenario {
        name: "delete",
        options: small_options,
        prepare: |model| put(model, 0..8),
        act: |model| delete(model, 0..10),
    },
    Scenario {
        name: "get",
        options: small_options,
        prepare: |model| put(model, 0..8),
        act: |model| {
            let calls: Vec<_> = (0..10).map(|key| ask(key, Op::Get)).collect();
            model.batch(&calls);
        },
    },
    Scenario {
        name: "seal",
        options: few_records,
        prepare: |model| put(model, 0..2),
        act: |model| (2..8).for_each(|key| put(model, key..key + 1)),
    },
    Scenario {
        name: "checkpoint",
        options: few_records,
        prepare: |model| {
            put(model, 0..8);
            delete(model, [3]);
        },
        act: |model| {
            model.batch(&[ask(0, Op::Checkpoint)]);
            put(model, 8..10);
            model.batch(&[ask(0, Op::Checkpoint)]);
        },
    },
    Scenario {
        name: "compact",
        options: few_records,
        prepare: |model| {
            some_of_all(model);
            delete(model, [0, 3, 4, 9]);
        },
        act: |model| {
            for _ in 0..3 {
                model.batch(&[ask(0, Op::Compact(Traffic::Quiet))]);
            }
        },
    },
    Scenario {
        name: "collect",
        options: few_records,
        prepare: |model| put(model, 0..8),
        act: |model| trash(model, [0, 4, 7]),
    },
    Scenario {
        name: "restore",
        options: few_records,
        prepare: some_of_all,
        act: |model| model.batch(&[ask(0, Op::RestoreAll)]),
    },
    Scenario {
        name: "revive",
        options: few_records,
        prepare: some_of_all,
        act: |model| model.batch(&[ask(2, Op::Get), ask(6, Op::Put { variant: 0 })]),
    },
    Scenario {
        name: "scrub",
        options: few_records,
        prepare: some_of_all,
        act: |model| model.batch(&[ask(0, Op::Scrub)]),
    },
    Scenario {
        name: "rebuild",
        options: ignoring,
        prepare: some_of_all,
        act: |model| {
            model.reopen(7, false);
            put(model, 13..16);
            delete(model, [0]);
        },
    },
    Scenario {
        name: "reopen",
        options: few_records,
        prepare: some_of_all,
        act: |model| {
            model.reopen(7, false);
            put(model, 14..16);
        },
    },
    Scenario {
        name: "close",
        options: few_records,
        prepare: |model| put(model, 0..5),
        act: |model| {
            delete(model, [0]);
            model.reopen(9, false);
        },
    },
    Scenario {
        name: "expiry",
        options: few_records,
        prepare: |model| {
            put(model, 0..8);
            model.now_s += 30 * DAY_S;
        },
        act: |model| {
            model.batch(&[ask(0, Op::Compact(Traffic::Quiet))]);
            model.batch(&[ask(0, Op::Compact(Traffic::Quiet))]);
        },
    },
    Scenario {
        name: "full disk",
        options: little_room,
        prepare: |model| {
            put(model, 0..12);
            if let Some(world) = &model.world {
                FILLERS.for_each(|key| assert_eq!(world.put(piece(key, 100)), Ok(Stored::New)));
            }
        },
        act: |model| {
            // Puts stop where the room of tombstones begins, and deletes go on.
            model.is_tight = true;
            model.disk.set_free_bytes(128 << 10);
            put(model, 12..16);
            fill_and_delete(model);
        },
    },
];

/// On a full disk that does what it says every delete must be done, however many pieces somebody tried to store before.
fn fill_and_delete(model: &mut Model) {
    let was_troubled = model.is_troubled;
    if let Some(world) = &model.world {
        let is_refused = (100..200).any(|key| world.put(piece(key, 4_000)).is_err());
        assert!(is_refused, "a full disk takes pieces");
    }
    if let Some(world) = &model.world {
        for key in FILLERS {
            let deleted = world.delete(key);
            assert!(
                deleted == Ok(true) || was_troubled,
                "filler {key}: {deleted:?}, on a full disk"
            );
        }
    }
    for key in 0..12 {
        delete(model, [key]);
        let is_done = model.pieces[key as usize].states == [None];
        assert!(
            is_done || was_troubled,
            "piece {key} could not be deleted from a full disk"
        );
    }
}

/// A sync that failed is final: who was waiting for it hears of it, nobody is acknowledged afterwards, and nothing is synced again.
#[must_use]
pub fn finality(seed: u64) -> Tally {
    let mut tally = Tally::default();
    for (nth, failure) in (1..8).flat_map(|nth| FAILURES.map(|failure| (nth, failure))) {
        tally.add("failed_syncs", 1);
        let outcome = guarded(|| {
            let world = open(&SimDisk::new(seed), few_records(), seed);
            assert_eq!(world.put(piece(0, 100)), Ok(Stored::New));
            world.disk.inject(Fault {
                ops: &[DiskOp::Sync],
                nth,
                failure,
                is_sticky: false,
            });
            let answers: Vec<_> = (1..10).map(|key| world.put(piece(key, 100))).collect();
            let failed = answers.iter().position(Result::is_err);
            let Some(failed) = failed else {
                panic!("a sync failed, and everything was acknowledged: {answers:?}")
            };
            assert!(
                world.store.is_read_only(),
                "a sync failed, and the store goes on: {answers:?}"
            );
            let is_final = answers[failed..]
                .iter()
                .all(|answer| *answer == Err(PutError::ReadOnly));
            assert!(is_final, "a sync failed: {answers:?}");
            let syncs = world.disk.count(DiskOp::Sync);
            world.close();
            assert_eq!(
                world.disk.count(DiskOp::Sync),
                syncs,
                "a sync came after one that failed"
            );
            let world = open(&world.crash(seed + nth), few_records(), seed);
            for key in 0..=failed as u64 {
                let is_acked = key == 0 || answers[key as usize - 1].is_ok();
                assert!(
                    !is_acked || world.body(key).is_ok(),
                    "piece {key} was acknowledged"
                );
            }
        });
        if let Err(what) = outcome {
            tally.violate(format!("sync {nth}, {failure:?}: {what}"), "--what sweep");
        }
    }
    tally
}

/// The names of all scenarios.
pub fn names() -> impl Iterator<Item = &'static str> {
    SCENARIOS.iter().map(|scenario| scenario.name)
}

/// A store that was prepared, and what is in it.
struct Prepared {
    files: Vec<(strand_blob::FileId, Vec<u8>)>,
    pieces: Vec<Known>,
    now_s: u32,
}

/// Lets every N-th operation of all scenarios fail where N leaves `first` when divided by `every`.
#[must_use]
pub fn run(every: u64, first: u64) -> Tally {
    let mut tally = Tally::default();
    for scenario in SCENARIOS {
        tally.merge(run_scenario(scenario, every, first));
    }
    tally.merge(finality(first));
    tally
}

/// The same for one of them.
#[must_use]
pub fn run_one(name: &str, every: u64, first: u64) -> Tally {
    let mut tally = Tally::default();
    for scenario in SCENARIOS.iter().filter(|scenario| scenario.name == name) {
        tally.merge(run_scenario(scenario, every, first));
    }
    tally
}

fn run_scenario(scenario: &Scenario, every: u64, first: u64) -> Tally {
    let mut tally = Tally::default();
    let replay = format!("--what sweep --scenario \"{}\"", scenario.name);
    tally.add("sweep_scenarios", 1);
    let control = guarded(|| {
        let prepared = prepare(scenario);
        let count = attempt(scenario, &prepared, None);
        (prepared, count)
    });
    let (prepared, count) = match control {
        Ok(control) => control,
        Err(what) => {
            tally.violate(
                format!("{}, without a fault: {what}", scenario.name),
                replay,
            );
            return tally;
        }
    };
    let every = every.max(1);
    for nth in (1..=count).filter(|nth| nth % every == first % every) {
        for failure in FAILURES {
            for is_sticky in [false, true] {
                tally.add("io_fault_points", 1);
                let fault = Fault {
                    ops: ALL_OPS,
                    nth,
                    failure,
                    is_sticky,
                };
                if let Err(what) = guarded(|| attempt(scenario, &prepared, Some(fault))) {
                    let how = if is_sticky { "from there on" } else { "once" };
                    let at = format!(
                        "{}, operation {nth} of {count}, {failure:?} {how}: {what}",
                        scenario.name
                    );
                    tally.violate(at, &replay);
                }
            }
        }
    }
    tally
}

fn prepare(scenario: &Scenario) -> Prepared {
    let mut model = Model::new((scenario.options)(), SimDisk::new(5), 5);
    (scenario.prepare)(&mut model);
    let now_s = model.now_s;
    model.reopen(6, true);
    model.look();
    model.reopen(6, true);
    Prepared {
        files: model.disk.all_files().into_iter().collect(),
        pieces: model.pieces,
        now_s: now_s.max(NOW_S),
    }
}

/// Acts, with or without a fault; how many operations that took.
fn attempt(scenario: &Scenario, prepared: &Prepared, fault: Option<Fault>) -> u64 {
    let disk = SimDisk::from_all_files(7, prepared.files.clone());
    let pieces = prepared.pieces.clone();
    let mut model = Model::resume((scenario.options)(), disk, 7, pieces, prepared.now_s);
    let before = model.disk.op_count();
    if let Some(fault) = fault {
        model.arm(fault);
    }
    (scenario.act)(&mut model);
    let count = model.disk.op_count() - before;
    let seed = fault.map_or(0, |fault| fault.nth);
    model.fall(seed, seed.is_multiple_of(3));
    model.look();
    // What the first opening served holds through the next crash as well, and the store takes and loses pieces.
    let last = KEYS - 1;
    model.batch(&[ask(last, Op::Delete)]);
    model.batch(&[ask(last, Op::Put { variant: 1 }), ask(1, Op::Delete)]);
    model.fall(seed + 1, false);
    model.look();
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whichever_operation_of_whichever_scenario_fails_acks_hold() {
        let tally = run(7, 3);
        assert!(tally.violations.is_empty(), "{:#?}", tally.violations);
        assert!(
            tally.counts["sweep_scenarios"] >= 12 && tally.counts["io_fault_points"] >= 500,
            "{:?}",
            tally.counts
        );
    }
}
