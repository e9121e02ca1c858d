//! A long run from one seed: batches of concurrent calls, crashes, kills, reopenings, and the faults that the seed draws.
//!
//! What a seed may inject is its *weather*, so that most checks are strict in most runs: clear (crashes alone), failing writes and syncs, failing
//! and misdirected reads, misdirected writes and rot, a disk with little room, and all of it. A run ends when everything has healed.

use strand_blob::disk::sim::{Failure, Fault, Harm, Op as DiskOp, SimDisk};
use strand_blob::testing::Random;
use strand_blob::testing::world::{DAY_S, small_options};
use strand_blob::{FileId, StoreOptions, Traffic};

use crate::store::calls::{Call, KEYS, Op, expiry_of};
use crate::store::guard::guarded;
use crate::store::model::Model;
use crate::tally::Tally;

/// Steps of a run.
const STEPS: u64 = 14;

/// What a run may meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Weather {
    Clear,
    /// No faults but crashes, and small blobs in which much is deleted, trashed and compacted.
    Churn,
    FailingWrites,
    FailingReads,
    Rot,
    Tight,
    All,
}

impl Weather {
    fn of(seed: u64) -> Self {
        match seed % 8 {
            0 | 1 => Self::Clear,
            2 => Self::Churn,
            3 => Self::FailingWrites,
            4 => Self::FailingReads,
            5 => Self::Rot,
            6 => Self::Tight,
            _ => Self::All,
        }
    }

    fn has(self, other: Self) -> bool {
        self == other || self == Self::All
    }
}

/// Runs one seed.
#[must_use]
pub fn run(seed: u64) -> Tally {
    let mut tally = Tally::default();
    tally.add("store_seeds", 1);
    match guarded(|| run_seed(seed)) {
        Ok(model) => {
            let counts = model.counts;
            tally.add("acked_pieces_checked", counts.acked_pieces_checked);
            tally.add("store_operations", counts.operations);
            tally.add("store_crashes", counts.crashes);
            tally.add("store_openings", counts.openings);
            tally.add("damage_told", counts.damage_told);
        }
        Err(what) => tally.violate(what, format!("--what store --seed {seed}")),
    }
    tally
}

fn options_of(weather: Weather, random: &mut Random) -> StoreOptions {
    let mut options = small_options();
    options.blob_records_max = [2, 4, 12, 32_768][random.below(4) as usize];
    // Where all fingerprints are one, nobody knows whose a damaged header was.
    let is_clear = matches!(
        weather,
        Weather::Clear | Weather::Churn | Weather::FailingWrites
    );
    options.danger_fingerprint_bits = if is_clear && random.below(3) == 0 {
        1
    } else {
        64
    };
    if weather == Weather::Churn {
        options.blob_records_max = 2 + random.below(3) as u32;
    }
    options.lanes_max = 1 + random.below(2) as u8;
    options.append_points_max = [4, 4, 2, 1][random.below(4) as usize];
    options.uses_memory = random.below(4) > 0;
    options
}

fn run_seed(seed: u64) -> Model {
    let mut random = Random::new(seed);
    let weather = Weather::of(seed);
    let options = options_of(weather, &mut random);
    let disk = SimDisk::new(random.next());
    if options.uses_memory {
        disk.use_memory();
    }
    let mut model = Model::new(options, disk, random.next());
    for _ in 0..STEPS {
        inject(&mut model, weather, &mut random);
        let calls = calls(&model, weather, &mut random);
        match random.below(10) {
            0..6 => model.batch(&calls),
            6..9 => {
                let (polls, is_kill) = (random.below(160), random.below(2) == 0);
                model.cut(&calls, polls, random.next(), is_kill);
            }
            _ => {
                model.batch(&calls);
                model.reopen(random.next(), true);
                model.look();
            }
        }
        if random.below(3) == 0 {
            model.now_s += random.below(u64::from(3 * DAY_S)) as u32;
        }
        // A store that writes nothing more is not worth more steps.
        let is_over = model
            .world
            .as_ref()
            .is_none_or(|world| world.store.is_read_only());
        if is_over && random.below(2) == 0 {
            model.fall(random.next(), random.below(2) == 0);
            model.look();
        }
    }
    model.recover_fully(random.next());
    model
}

fn inject(model: &mut Model, weather: Weather, random: &mut Random) {
    if random.below(3) > 0 {
        return;
    }
    let nth = 1 + random.below(40);
    let is_sticky = random.below(4) == 0;
    if weather.has(Weather::FailingWrites) && random.below(2) == 0 {
        let failure = [
            Failure::Eio,
            Failure::NoSpace,
            Failure::Short,
            Failure::Interrupted,
            Failure::Cancelled,
        ][random.below(5) as usize];
        let ops: &[DiskOp] = [
            &[DiskOp::Write][..],
            &[DiskOp::Sync],
            &[DiskOp::Write, DiskOp::Sync],
            &[DiskOp::Create, DiskOp::Remove],
        ][random.below(4) as usize];
        model.arm(Fault {
            ops,
            nth: 1 + random.below(12),
            failure,
            is_sticky,
        });
    }
    if weather.has(Weather::FailingReads) && random.below(2) == 0 {
        let failure = [Failure::Eio, Failure::Misdirected][random.below(2) as usize];
        model.arm(Fault {
            ops: &[DiskOp::Read],
            nth,
            failure,
            is_sticky: is_sticky && failure == Failure::Eio,
        });
    }
    if weather.has(Weather::Rot) && random.below(2) == 0 {
        if random.below(3) == 0 {
            // No error is told: the store is none the wiser, and so nothing is excused but what was hit.
            model.was_harmed = true;
            model.disk.inject(Fault {
                ops: &[DiskOp::Write],
                nth: 1 + random.below(8),
                failure: Failure::Misdirected,
                is_sticky: false,
            });
        } else {
            decay(model, random);
        }
    }
    if weather.has(Weather::Tight) && random.below(2) == 0 {
        model.is_tight = true;
        let room = [0, 20_000, 100_000, 17 << 20, (16 << 20) + 200_000][random.below(5) as usize];
        model.disk.set_free_bytes(room);
    }
}

/// Some bytes of some file are not what they were.
fn decay(model: &mut Model, random: &mut Random) {
    let files: Vec<(FileId, u64)> = model
        .disk
        .all_files()
        .into_iter()
        .map(|(id, bytes)| (id, bytes.len() as u64))
        .filter(|&(_, len)| len > 0)
        .collect();
    if files.is_empty() {
        return;
    }
    let (file, file_len) = files[random.below(files.len() as u64) as usize];
    let at = random.below(file_len);
    let (offset, len) = match random.below(4) {
        0 | 1 => (at, 1),
        2 => (at / 512 * 512, 512),
        _ => (at / 4_096 * 4_096, 4_096),
    };
    let len = len.min(file_len - offset);
    let fill = [0, 0xff, random.next() as u8][random.below(3) as usize];
    model.disk.edit(file, |bytes| {
        for byte in bytes.iter_mut().skip(offset as usize).take(len as usize) {
            *byte = if len == 1 { *byte ^ (fill | 1) } else { fill };
        }
    });
    model.taint(Harm { file, offset, len });
}

/// Calls on distinct keys.
fn calls(model: &Model, weather: Weather, random: &mut Random) -> Vec<Call> {
    let mut keys: Vec<u64> = (0..KEYS).collect();
    let count = 1 + random.below(8);
    let calls = (0..count).map(|_| {
        let key = keys.swap_remove(random.below(keys.len() as u64) as usize);
        let expiry_s = expiry_of(key);
        let is_churning = weather == Weather::Churn && random.below(2) == 0;
        let op = match random.below(20) {
            0..5 if is_churning => Op::Delete,
            5..8 if is_churning => Op::Trash,
            8..14 if is_churning => Op::Compact(Traffic::Quiet),
            14 | 15 if is_churning => Op::DropCompaction {
                polls: random.below(80),
            },
            0..8 if expiry_s != 0 && expiry_s <= model.now_s + DAY_S => Op::Get,
            0..8 => Op::Put {
                variant: random.below(2),
            },
            8..11 => Op::Delete,
            11 => Op::Get,
            12..14 => Op::Trash,
            14 => Op::RestoreAll,
            15 => Op::Scrub,
            16 | 17 => Op::Compact(Traffic::Busy),
            18 => Op::Compact(Traffic::Quiet),
            _ => Op::Checkpoint,
        };
        Call {
            key,
            op,
            is_doubled: random.below(4) == 0,
        }
    });
    calls.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seeds that found something once.
    const FOUND: [u64; 5] = [549, 804, 1_422, 4_307, 5_551];

    #[test]
    fn no_seed_breaks_a_promise() {
        let mut tally = Tally::default();
        for seed in (0..64).chain(FOUND) {
            tally.merge(run(seed));
        }
        assert!(tally.violations.is_empty(), "{:#?}", tally.violations);
        assert!(
            tally.counts["acked_pieces_checked"] > 2_000,
            "{:?}",
            tally.counts
        );
        assert!(tally.counts["damage_told"] > 10, "{:?}", tally.counts);
    }
}
