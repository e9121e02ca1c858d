//! Faults and delays of the simulated disk: what the episode says, drawn for each operation.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use piecestore::core::executor::Executor;
use piecestore::core::simulated::SimExecutor;
use strand_blob::disk::sim::{Failure, Moods, Op};

use super::plan::Episode;

/// See the module's head.
pub(super) struct DiskMoods {
    executor: SimExecutor,
    episode: Cell<Episode>,
    hangs_until: Cell<Duration>,
    /// A write or sync will fail for good.
    is_armed: Cell<bool>,
    /// The store is being opened: fewer reads fail, or no opening would ever end.
    is_opening: Cell<bool>,
    boot: Cell<Faults>,
}

/// What went wrong since the node's process began.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Faults {
    /// Reads, and whatever else leaves the store usable.
    pub(super) reads: u64,
    /// Of those, while the store was being opened.
    pub(super) opening_reads: u64,
    /// Writes that failed for want of room or ended early.
    pub(super) writes: u64,
    /// Failures after which the store takes nothing more: at most one.
    pub(super) poisonings: u64,
}

impl DiskMoods {
    pub(super) fn new(executor: SimExecutor) -> Self {
        Self {
            executor,
            episode: Cell::new(Episode::calm()),
            hangs_until: Cell::default(),
            is_armed: Cell::default(),
            is_opening: Cell::default(),
            boot: Cell::default(),
        }
    }

    /// From now on faults are this episode's.
    pub(super) fn enter(&self, episode: Episode) {
        self.episode.set(episode);
        self.is_armed.set(episode.is_poisonous);
        let hang = episode.hang.unwrap_or_default();
        self.hangs_until.set(self.executor.elapsed() + hang);
    }

    /// A process of the node begins: with another chance to be poisoned.
    pub(super) fn begin_boot(&self) {
        self.boot.take();
        self.is_opening.set(true);
    }

    pub(super) fn end_opening(&self) {
        self.is_opening.set(false);
    }

    pub(super) fn faults(&self) -> Faults {
        self.boot.get()
    }

    fn count(&self, update: impl FnOnce(&mut Faults)) {
        let mut faults = self.boot.get();
        update(&mut faults);
        self.boot.set(faults);
    }

    fn happens(&self, permille: u64) -> bool {
        permille > 0 && self.executor.random() % 1000 < permille
    }
}

impl Moods for DiskMoods {
    fn failure(&self, op: Op) -> Option<Failure> {
        let episode = self.episode.get();
        let is_opening = self.is_opening.get();
        match op {
            Op::Read | Op::List | Op::Open | Op::Status => {
                let part = if is_opening { 20 } else { 1 };
                let failure = if self.happens(episode.read_permille / part) {
                    Failure::Eio
                } else if op == Op::Read && self.happens(episode.lost_read_permille / part) {
                    Failure::Misdirected
                } else {
                    return None;
                };
                self.count(|faults| {
                    faults.reads += 1;
                    faults.opening_reads += u64::from(is_opening);
                });
                Some(failure)
            }
            Op::Create | Op::Write | Op::Sync | Op::Remove => {
                let may_poison = self.is_armed.get() && self.boot.get().poisonings == 0;
                if may_poison && self.happens(100) {
                    self.is_armed.set(false);
                    self.count(|faults| faults.poisonings += 1);
                    return Some(Failure::Eio);
                }
                if op == Op::Write && self.happens(episode.lost_write_permille) {
                    return Some(Failure::Misdirected);
                }
                // Only a write may fail without consequences.
                if op != Op::Write || !self.happens(episode.write_permille) {
                    return None;
                }
                self.count(|faults| faults.writes += 1);
                let failures = [Failure::Short, Failure::NoSpace];
                Some(failures[self.executor.random() as usize % 2])
            }
        }
    }

    fn wait(&self, op: Op) -> Option<Pin<Box<dyn Future<Output = ()>>>> {
        let episode = self.episode.get();
        let most_us = match op {
            Op::Read | Op::List | Op::Open | Op::Status => episode.read_us,
            Op::Create | Op::Write | Op::Sync | Op::Remove => episode.write_us,
        };
        let drawn = Duration::from_micros(self.executor.random() % (most_us + 1));
        let hang = self
            .hangs_until
            .get()
            .saturating_sub(self.executor.elapsed());
        let executor = self.executor.clone();
        Some(Box::pin(async move { executor.sleep(drawn + hang).await }))
    }
}
