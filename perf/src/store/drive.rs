//! A store as a node has it (one core, its ring, Direct I/O), and callers that use it side by side.
//!
//! Each caller is a task that waits for its own answer before it asks again. The first error ends a run.

use std::cell::{Cell, RefCell};
use std::fs;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use piecestore::core::executor::Executor;
use piecestore::core::{Core, CoreExecutor, CoreOptions, Gate, start};
use piecestore::disk::CoreDisk;
use strand_blob::{Disk, Store, StoreCounters, StoreOptions};

use super::work::Work;
use crate::cpu;
use crate::random::Random;

/// The node that the bench's folders belong to.
pub(crate) const NODE_ID: [u8; 32] = [9; 32];

/// More than any disk: room is checked before the bench starts.
pub(crate) const CAPACITY_BYTES: u64 = 1 << 50;

/// Reading until all of it comes from memory: passes, and the longest one.
const WARM_PASSES_MAX: usize = 8;
const WARM_PASS_MAX: Duration = Duration::from_secs(4);

/// Pieces between two looks at the index.
const LOOK_PIECES: u64 = 256;

/// An open store on its core.
pub(crate) struct Session<D: Disk = CoreDisk<CoreExecutor>> {
    core: Core,
    store: Rc<Store<D>>,
}

/// How callers use a store.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) callers: usize,
    /// Operations of all callers together.
    pub(crate) count: u64,
    /// No operation begins later than this.
    pub(crate) limit: Duration,
    /// Whether the time of each operation is kept.
    pub(crate) is_timed: bool,
    /// Operations begin at this pace, or as fast as the callers come.
    pub(crate) per_second: Option<f64>,
}

/// What the callers did.
#[derive(Debug, Default)]
pub(crate) struct Run {
    pub(crate) count: u64,
    /// From the first question to the last answer.
    pub(crate) seconds: f64,
    /// Of this process, all its threads.
    pub(crate) cpu_seconds: f64,
    /// Of each operation, if asked for.
    pub(crate) latencies_us: Vec<f32>,
}

/// The index at its largest, and at its worst.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct IndexPeaks {
    pub(crate) bytes: u64,
    pub(crate) bytes_per_piece: f64,
}

/// What a new store was filled with.
#[derive(Debug)]
pub(crate) struct Filled {
    pub(crate) run: Run,
    pub(crate) peaks: IndexPeaks,
    /// Of the index at the end.
    pub(crate) digest: u64,
}

struct Shared {
    next: Cell<u64>,
    failed: RefCell<Option<anyhow::Error>>,
    latencies_us: RefCell<Vec<f32>>,
}

/// Where the checkpoints of the store in `folder` are: beside it.
pub(crate) fn checkpoint_folder(folder: &Path) -> PathBuf {
    folder.with_extension("checkpoint")
}

/// Runs `main` on a core of its own, which is closed afterwards.
pub(crate) fn on_core<T, F, Fut>(main: F) -> Result<T>
where
    T: Send + 'static,
    F: FnOnce(Core) -> Fut + Send + 'static,
    Fut: Future<Output = Result<T>> + 'static,
{
    start(CoreOptions::default(), main)?.join()?
}

/// The disk of a store in a folder, which may be new.
pub(crate) fn disk_in(core: &Core, folder: &Path) -> Result<CoreDisk<CoreExecutor>> {
    let checkpoints = checkpoint_folder(folder);
    fs::create_dir_all(&checkpoints)?;
    let checkpoints = fs::File::open(checkpoints)?.into();
    Ok(core.disk(folder)?.with_checkpoints(checkpoints))
}

impl Session {
    /// Opens the folder, which may be new.
    pub(crate) async fn open(
        core: Core,
        folder: &Path,
        options: StoreOptions,
        now_s: u32,
    ) -> Result<Self> {
        let disk = disk_in(&core, folder)?;
        Self::open_on(core, disk, options, now_s).await
    }
}

impl<D: Disk> Session<D> {
    /// Opens the store on a disk.
    pub(crate) async fn open_on(
        core: Core,
        disk: D,
        options: StoreOptions,
        now_s: u32,
    ) -> Result<Self> {
        // The same at every opening: digests of indexes can be compared only if their fingerprints have one key.
        let mut random = Random::new(0, "store");
        let mut fill_random = |bytes: &mut [u8]| {
            for byte in bytes {
                *byte = random.next() as u8;
            }
        };
        let (store, recovery) = Store::open(disk, options, now_s, &mut fill_random)
            .await
            .context("cannot open the store")?;
        ensure!(
            recovery.rotten.is_empty(),
            "damaged before it was used: {:?}",
            recovery.rotten
        );
        let committer = Rc::clone(&store);
        core.executor().spawn(committer.run_commits());
        Ok(Self { core, store })
    }

    pub(crate) fn store(&self) -> &Rc<Store<D>> {
        &self.store
    }

    pub(crate) fn executor(&self) -> CoreExecutor {
        self.core.executor()
    }

    pub(crate) fn index_digest(&self) -> u64 {
        self.store.index_digest()
    }

    pub(crate) fn counters(&self) -> StoreCounters {
        self.store.counters()
    }

    /// Puts the pieces `first..first + load.count`; looks at the index once it holds `look_from` pieces.
    pub(crate) async fn put(
        &self,
        work: &Arc<Work>,
        first: u64,
        load: Load,
        look_from: u64,
    ) -> Result<(Run, IndexPeaks)> {
        let peaks = Rc::new(Cell::new(IndexPeaks::default()));
        let (store, work, seen) = (Rc::clone(&self.store), Arc::clone(work), Rc::clone(&peaks));
        let look = move |store: &Store<D>| {
            let counters = store.counters();
            let mut peaks = seen.get();
            peaks.bytes = peaks.bytes.max(counters.index_bytes);
            if counters.pieces >= look_from.max(1) {
                let now = counters.index_bytes as f64 / counters.pieces as f64;
                peaks.bytes_per_piece = peaks.bytes_per_piece.max(now);
            }
            seen.set(peaks);
        };
        let run = self
            .side_by_side(load, move |number| {
                let (store, look) = (Rc::clone(&store), look.clone());
                let piece = work.piece(first + number);
                async move {
                    store.put(piece).await?;
                    if number.is_multiple_of(LOOK_PIECES) {
                        look(&store);
                    }
                    Ok(())
                }
            })
            .await?;
        Ok((run, peaks.get()))
    }

    /// Gets pieces whole and verified; `number_of` says which piece an operation takes.
    pub(crate) async fn get(
        &self,
        work: &Arc<Work>,
        load: Load,
        number_of: impl Fn(u64) -> u64 + 'static,
    ) -> Result<Run> {
        let store = Rc::clone(&self.store);
        let (work, body_len) = (Arc::clone(work), work.body_len());
        self.side_by_side(load, move |number| {
            let store = Rc::clone(&store);
            let (satellite, id) = work.key(number_of(number));
            async move {
                let piece = store.piece(&satellite, &id, 0).await?;
                let bytes = store.read_shares(&piece, 0..piece.share_count()).await?;
                ensure!(bytes.len() == body_len, "a piece has another length");
                Ok(())
            }
        })
        .await
    }

    /// Reads the first pieces again and again, until they come from memory or will not.
    pub(crate) async fn warm(&self, work: &Arc<Work>, count: u64) -> Result<()> {
        for _ in 0..WARM_PASSES_MAX {
            let before = self.counters();
            let load = Load {
                callers: 1,
                count,
                limit: WARM_PASS_MAX,
                per_second: None,
                is_timed: false,
            };
            self.get(work, load, |number| number).await?;
            let after = self.counters();
            let from_memory = after.shares_from_memory - before.shares_from_memory;
            if from_memory * 200 >= (after.shares_read - before.shares_read) * 199 {
                break;
            }
        }
        Ok(())
    }

    /// Compares `count` pieces out of the first `total`, spread evenly, with what was put.
    pub(crate) async fn compare(&self, work: &Arc<Work>, total: u64, count: u64) -> Result<()> {
        for number in (0..total).step_by((total / count).max(1) as usize) {
            let (satellite, id) = work.key(number);
            let piece = self.store.piece(&satellite, &id, 0).await?;
            let bytes = self
                .store
                .read_shares(&piece, 0..piece.share_count())
                .await?;
            ensure!(
                bytes == work.body(number),
                "piece {number} is not what was put"
            );
        }
        Ok(())
    }

    /// Ends the store; its last counters.
    pub(crate) async fn close(self) -> Result<StoreCounters> {
        self.store.close().await;
        let counters = self.store.counters();
        ensure!(
            counters.acks_before_sync == 0 && counters.corrupt_reads == 0,
            "the store did wrong: {counters:?}"
        );
        Ok(counters)
    }

    /// Runs the operations of a load.
    pub(crate) async fn side_by_side<F, Fut>(&self, load: Load, operation: F) -> Result<Run>
    where
        F: Fn(u64) -> Fut + 'static,
        Fut: Future<Output = Result<()>> + 'static,
    {
        let shared = Rc::new(Shared {
            next: Cell::new(0),
            failed: RefCell::new(None),
            latencies_us: RefCell::default(),
        });
        let operation = Rc::new(operation);
        let gate = Gate::new();
        let started = Instant::now();
        let cpu_before = cpu::process_seconds()?;
        for _ in 0..load.callers {
            let pass = gate.enter().context("the gate is open")?;
            let (shared, operation) = (Rc::clone(&shared), Rc::clone(&operation));
            let executor = self.core.executor();
            self.core.executor().spawn(async move {
                let _pass = pass;
                while let Some(number) = shared.take(load, started) {
                    if let Some(per_second) = load.per_second {
                        let due = Duration::from_secs_f64(number as f64 / per_second);
                        executor.sleep(due.saturating_sub(started.elapsed())).await;
                    }
                    let asked = Instant::now();
                    if let Err(error) = operation(number).await {
                        shared.failed.borrow_mut().get_or_insert(error);
                    } else if load.is_timed {
                        let latency_us = asked.elapsed().as_secs_f32() * 1e6;
                        shared.latencies_us.borrow_mut().push(latency_us);
                    }
                }
            });
        }
        gate.close().await;
        let seconds = started.elapsed().as_secs_f64();
        if let Some(error) = shared.failed.take() {
            return Err(error);
        }
        Ok(Run {
            count: shared.next.get(),
            seconds,
            cpu_seconds: cpu::process_seconds()? - cpu_before,
            latencies_us: shared.latencies_us.take(),
        })
    }
}

impl Shared {
    fn take(&self, load: Load, started: Instant) -> Option<u64> {
        let number = self.next.get();
        let is_over = number >= load.count || started.elapsed() > load.limit;
        if is_over || self.failed.borrow().is_some() {
            return None;
        }
        self.next.set(number + 1);
        Some(number)
    }
}

impl Run {
    pub(crate) fn per_second(&self) -> f64 {
        self.count as f64 / self.seconds
    }

    /// The latency that 99 of 100 operations did not exceed.
    pub(crate) fn p99_us(&self) -> f64 {
        quantile(&self.latencies_us, 0.99)
    }

    pub(crate) fn median_us(&self) -> f64 {
        quantile(&self.latencies_us, 0.5)
    }
}

/// The nearest value with `share` of all values at or below it; 0 of none.
pub(crate) fn quantile(values: &[f32], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f32::total_cmp);
    let at = (sorted.len() as f64 * share).ceil() as usize;
    f64::from(sorted.get(at.saturating_sub(1)).copied().unwrap_or(0.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_were_seen() {
        let values: Vec<f32> = (1..=200).rev().map(|value| value as f32).collect();
        assert_eq!(quantile(&values, 0.99), 198.0);
        assert_eq!(quantile(&values, 0.5), 100.0);
        assert_eq!(quantile(&[3.0], 0.99), 3.0);
        assert_eq!(quantile(&[], 0.99), 0.0);
    }
}
