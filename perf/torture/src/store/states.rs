//! Every state in which a crash could leave a recorded run, opened and held against what had been acknowledged by then.
//!
//! A run without faults is recorded: writes, syncs, creations, removals, and after how many of these each call was begun and answered. A
//! crash may come after any of them. What no sync covered is then lost, kept, or both in any mixture and torn at 512 bytes: [`LOSSES`]
//! states for each point at which something is undecided. Each is opened: what was acknowledged is there, bit-exact, what was deleted is not, the
//! index is what the blobs alone say, no rot is reported, and a checkpoint that was there is used. The control ignores all syncs, and must fail.

use std::cell::RefCell;
use std::rc::Rc;

use strand_blob::disk::sim::{DiskImage, Failure, Fault, Loss, Op as DiskOp, SimDisk};
use strand_blob::testing::world::{
    DAY_S, NOW_S, World, check_same, open, piece, rebuilt, small_options,
};
use strand_blob::testing::{Knowledge, Random, yield_now};
use strand_blob::{FileId, GetError, NewPiece, PutError, StoreOptions, Stored, Traffic};

use crate::store::calls::{Answer, Call, KEYS, Op, ask, perform, read_variant};
use crate::store::guard::guarded;
use crate::tally::Tally;

/// States tried at a point at which something is undecided: nothing lost, all lost, and mixtures.
const LOSSES: u64 = 7;

/// Blobs of one record each, more than what calls for a checkpoint.
const MANY_BLOBS: u64 = 100;

/// Reads of an opening, and some more.
pub const MISREADS: u64 = 10;

/// Pieces that such an opening finds.
const MISREAD_PIECES: u64 = 12;

/// Steps of a compaction, and some more.
pub const DROPS: u64 = 60;

/// Violations after which a run of states is not worth going on.
const ENOUGH: usize = 3;

/// Whether the recorded disk keeps its word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Syncs {
    /// What a sync covered is durable.
    Honoured,
    /// Nothing is before the crash: the control, which must find violations.
    Ignored,
}

/// A call, and after how many changes of the disk it was begun and answered well.
#[derive(Clone, Copy, Debug)]
struct Told {
    call: Call,
    begun: usize,
    answered: Option<usize>,
}

/// A recorded run.
struct Recording {
    options: StoreOptions,
    disk: SimDisk,
    told: Vec<Told>,
    /// After how many changes the first checkpoint was acknowledged.
    checkpointed: Option<usize>,
}

/// Tries all states of the run that this seed makes.
#[must_use]
pub fn run(seed: u64, syncs: Syncs) -> Tally {
    let mut tally = Tally::default();
    let replay = format!("--what states --seed {seed}");
    let recording = match guarded(|| record(seed)) {
        Ok(recording) => recording,
        Err(what) => {
            tally.violate(what, replay);
            return tally;
        }
    };
    let events = recording.disk.events();
    let mut image = DiskImage::default();
    for (count, event) in (1..).zip(&events) {
        image.apply(event, syncs == Syncs::Honoured);
        let undecided = image.undecided();
        let losses = match undecided {
            0 => 1,
            _ => LOSSES,
        };
        for nth in 0..losses {
            let loss = match nth {
                0 => Loss::Nothing,
                1 => Loss::All,
                _ => Loss::Some(seed << 32 | (count as u64) << 8 | nth),
            };
            let files = image.after_crash(loss);
            tally.add("crash_states", 1);
            match guarded(|| recording.check(files, count, nth % 3 == 2)) {
                Ok(checked) => tally.add("acked_pieces_checked", checked),
                Err(what) => {
                    let at = format!(
                        "after {count} of {} changes, {loss:?}: {what}",
                        events.len()
                    );
                    tally.violate(at, &replay);
                    if tally.violations.len() >= ENOUGH {
                        return tally;
                    }
                }
            }
        }
    }
    tally
}

/// Batches of calls; of each batch all are under way at once, so that groups of several classes and lanes are, too.
fn record(seed: u64) -> Recording {
    let mut random = Random::new(seed);
    let mut options = small_options();
    options.blob_records_max = [3, 6, 32_768][random.below(3) as usize];
    options.lanes_max = 1 + random.below(2) as u8;
    let disk = SimDisk::new(random.next());
    disk.record();
    let world = open(&disk, options, seed);
    let told = Rc::new(RefCell::new(Vec::new()));
    let mut checkpointed = None;
    for batch in 0..12 {
        let mut keys: Vec<u64> = (0..KEYS).collect();
        for _ in 0..3 + random.below(5) {
            let key = keys.swap_remove(random.below(keys.len() as u64) as usize);
            let op = match random.below(10) {
                0..6 => Op::Put {
                    variant: random.below(2),
                },
                6..8 => Op::Delete,
                _ => Op::Compact(Traffic::Busy),
            };
            let call = Call {
                key,
                op,
                is_doubled: false,
            };
            spawn(&world, &told, call);
        }
        if batch % 4 == 0 {
            // A checkpoint that is asked for while groups are on their way.
            let (store, polls) = (Rc::clone(&world.store), random.below(12));
            world.executor.spawn(async move {
                for _ in 0..polls {
                    yield_now().await;
                }
                assert_eq!(store.checkpoint().await, Ok(true), "a checkpoint");
            });
        }
        world.executor.run_until_stalled();
        if batch % 4 == 2 {
            let written = world.run(|store| async move { store.checkpoint().await });
            assert_eq!(written, Ok(true), "a checkpoint");
            checkpointed.get_or_insert_with(|| disk.event_count());
        }
    }
    world.close();
    world.executor.abandon();
    let told = told.borrow().clone();
    Recording {
        options,
        disk,
        told,
        checkpointed,
    }
}

fn spawn(world: &World, told: &Rc<RefCell<Vec<Told>>>, call: Call) {
    let (store, disk, told) = (Rc::clone(&world.store), world.disk.clone(), Rc::clone(told));
    let slot = {
        let mut told = told.borrow_mut();
        told.push(Told {
            call,
            begun: disk.event_count(),
            answered: None,
        });
        told.len() - 1
    };
    world.executor.spawn(async move {
        let answer = perform(store, call, NOW_S).await;
        let is_done = match answer {
            Answer::Put(Ok(Stored::New | Stored::Already)) | Answer::Delete(Ok(_)) => true,
            Answer::Put(Err(PutError::Conflict)) | Answer::Compact(Ok(_)) => false,
            other => panic!("{call:?} answered {other:?}, though nothing is wrong"),
        };
        told.borrow_mut()[slot].answered = is_done.then(|| disk.event_count());
    });
}

impl Recording {
    /// The variants that a key may be read as after a crash at this point.
    fn allowed(&self, key: u64, count: usize) -> Vec<Option<u64>> {
        let mut allowed = vec![None];
        for told in self.told.iter().filter(|told| told.call.key == key) {
            let state = match told.call.op {
                Op::Put { variant } => Some(variant),
                Op::Delete => None,
                _ => continue,
            };
            match told.answered {
                Some(answered) if answered <= count => allowed = vec![state],
                Some(_) if told.begun <= count => allowed.push(state),
                _ => {}
            }
        }
        allowed
    }

    /// Pieces of every class are appended to what was found, and the power is cut again: what a crash tore must not look rotten by that.
    fn go_on(&self, world: World, count: usize) {
        let news = [0, 3, 20, 300].map(|days| NewPiece {
            expiry_s: if days == 0 { 0 } else { NOW_S + days * DAY_S },
            ..piece(u64::from(1_000 + days), 700)
        });
        for new in &news {
            assert_eq!(world.put(new.clone()), Ok(Stored::New), "after a crash");
        }
        let mut options = self.options;
        options.ignores_checkpoint = true;
        let world = open(&world.crash(count as u64), options, 3);
        assert_eq!(
            world.recovery.rotten,
            [],
            "torn bytes are rotten by what was written after them"
        );
        for new in &news {
            check_same(&world, new);
        }
        for key in 0..KEYS {
            let read = world.run(|store| async move { read_variant(&store, key, NOW_S).await });
            let variant = read.map_or_else(
                |error| {
                    assert_eq!(error, GetError::NotFound, "piece {key}");
                    None
                },
                Some,
            );
            assert!(
                self.allowed(key, count).contains(&variant),
                "piece {key} is {variant:?} in the end"
            );
        }
    }

    /// Opens a state; how many acknowledged pieces it had.
    fn check(&self, files: Vec<(FileId, Vec<u8>)>, count: usize, goes_on: bool) -> u64 {
        let disk = SimDisk::from_all_files(count as u64, files);
        let wanted = rebuilt(&disk, self.options);
        let world = open(&disk, self.options, count as u64);
        assert_eq!(world.recovery.rotten, [], "a crash is no rot");
        assert_eq!(Knowledge::of(&world.store), wanted, "the index is no cache");
        let has_checkpoint = self.checkpointed.is_some_and(|since| since <= count);
        let is_used = world.recovery.checkpoint.is_some() || !has_checkpoint;
        assert!(
            is_used,
            "a checkpoint was there, and the blobs were read all the same"
        );
        let mut checked = 0;
        for key in 0..KEYS {
            let read = world.run(|store| async move { read_variant(&store, key, NOW_S).await });
            let found = match read {
                Ok(variant) => Some(variant),
                Err(GetError::NotFound) => None,
                Err(error) => panic!("piece {key}: {error}"),
            };
            let allowed = self.allowed(key, count);
            assert!(
                allowed.contains(&found),
                "piece {key} is {found:?}, and not of {allowed:?}"
            );
            checked += u64::from(allowed.iter().all(Option::is_some));
        }
        world.check_space();
        if goes_on {
            self.go_on(world, count);
        }
        checked
    }
}

/// What an opening reads again is bounded: after many blobs and no checkpoint that anybody asked for, one is there and most blobs are not read.
#[must_use]
pub fn bound() -> Tally {
    let mut tally = Tally::default();
    tally.add("recovery_bounds", 1);
    let outcome = guarded(|| {
        let mut options = small_options();
        options.blob_records_max = 1;
        options.append_points_max = 1;
        let world = open(&SimDisk::new(1), options, 1);
        for key in 0..MANY_BLOBS {
            let stored = world.put(piece(key, 100));
            assert_eq!(stored, Ok(Stored::New), "piece {key}");
        }
        let world = open(&world.kill(1), options, 2);
        let read = world.recovery.records_read;
        assert!(
            read < MANY_BLOBS / 2,
            "{read} of {MANY_BLOBS} records were read again"
        );
    });
    if let Err(what) = outcome {
        tally.violate(format!("the bound of a recovery: {what}"), "--what states");
    }
    tally
}

/// Counts a proof, and notes what it panics with.
fn prove(counted: &'static str, name: &str, seed: u64, proof: impl FnOnce()) -> Tally {
    let mut tally = Tally::default();
    tally.add(counted, 1);
    if let Err(what) = guarded(proof) {
        let replay = format!("--what states --seed {seed}");
        tally.violate(format!("{name}: {what}"), replay);
    }
    tally
}

/// A process is killed between write and sync; the next one finds the piece, acknowledges it again, and loses the power.
#[must_use]
pub fn killed(seed: u64) -> Tally {
    prove("kills_before_sync", "a kill before the sync", seed, || {
        let world = open(&SimDisk::new(seed), small_options(), seed);
        assert_eq!(world.put(piece(1, 576)), Ok(Stored::New));
        world.disk.hold(DiskOp::Sync);
        let store = Rc::clone(&world.store);
        world.executor.spawn(async move {
            let _cut_off = store.put(piece(2, 900)).await;
        });
        world.executor.run_until_stalled();
        let world = open(&world.kill(seed), small_options(), seed);
        assert_eq!(
            world.put(piece(2, 900)),
            Ok(Stored::Already),
            "it was written"
        );
        let world = open(&world.crash(seed), small_options(), seed);
        check_same(&world, &piece(2, 900));
    })
}

/// A compaction is dropped, as it is when a node stops: after so many of its steps that over [`DROPS`] seeds every one of them is the last.
#[must_use]
pub fn dropped(seed: u64) -> Tally {
    prove("dropped_compactions", "a dropped compaction", seed, || {
        let mut options = small_options();
        options.blob_records_max = 4;
        let world = open(&SimDisk::new(seed), options, seed);
        for key in 0..12 {
            assert_eq!(world.put(piece(key, 900)), Ok(Stored::New));
        }
        for key in 0..8 {
            assert_eq!(world.delete(key), Ok(true));
        }
        let polls = seed % DROPS;
        let call = ask(0, Op::DropCompaction { polls });
        world.run(move |store| perform(store, call, NOW_S));
        let world = world.reopen(options, seed);
        for key in 0..12 {
            if key < 8 {
                let found = world.piece(key).map(|piece| piece.root);
                assert_eq!(found, Err(GetError::NotFound), "piece {key} was deleted");
            } else {
                check_same(&world, &piece(key, 900));
            }
        }
        world.check_space();
        let found = Knowledge::of(&world.store);
        let wanted = rebuilt(&world.disk, options);
        assert_eq!(found, wanted, "the index is no cache");
    })
}

/// One read of an opening, another one with each seed, gives the bytes of another place: what was acknowledged is there all the same, and is still
/// there after an orderly stop.
#[must_use]
pub fn misread(seed: u64) -> Tally {
    prove("misread_openings", "an opening that misreads", seed, || {
        let options = small_options();
        let world = open(&SimDisk::new(seed), options, seed);
        for key in 0..MISREAD_PIECES {
            assert_eq!(world.put(piece(key, 3_000)), Ok(Stored::New));
        }
        let disk = world.kill(seed);
        disk.inject(Fault {
            ops: &[DiskOp::Read],
            nth: 1 + seed % MISREADS,
            failure: Failure::Misdirected,
            is_sticky: false,
        });
        let world = open(&disk, options, seed);
        disk.heal();
        let check = |world: &World| {
            for key in 0..MISREAD_PIECES {
                check_same(world, &piece(key, 3_000));
            }
        };
        check(&world);
        check(&world.reopen(options, seed));
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_that_a_crash_could_leave_has_what_was_acked() {
        let mut tally = Tally::default();
        for seed in 0..3 {
            tally.merge(run(seed, Syncs::Honoured));
        }
        assert!(tally.violations.is_empty(), "{:#?}", tally.violations);
        assert!(tally.counts["crash_states"] >= 1_000, "{:?}", tally.counts);
    }

    #[test]
    fn what_an_opening_reads_again_is_bounded_and_what_it_finds_is_durable() {
        let mut tally = bound();
        (0..20).for_each(|seed| tally.merge(killed(seed)));
        (0..DROPS).for_each(|seed| tally.merge(dropped(seed)));
        (0..8 * MISREADS).for_each(|seed| tally.merge(misread(seed)));
        assert!(tally.violations.is_empty(), "{:#?}", tally.violations);
    }

    #[test]
    fn a_disk_that_ignores_syncs_is_noticed() {
        for seed in 0..3 {
            let tally = run(seed, Syncs::Ignored);
            assert_eq!(
                tally.violations.len(),
                ENOUGH,
                "seed {seed}: {:?}",
                tally.counts
            );
        }
    }
}
