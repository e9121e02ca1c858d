//! What a run measures, in which order: fill and open again, bulk against the raw disk, small puts against plain syncs,
//! compaction, peers.
//!
//! Each part has a folder of its own, removed before the next begins. Raw and ours take turns; a ratio is the median
//! of the rounds' ratios, so that a disk that changes its pace changes both sides of each.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use piecestore::limits::WRITE_BUDGET_BYTES;
use strand_blob::StoreOptions;

use super::drive::{
    CAPACITY_BYTES, Filled, Load, NODE_ID, Run, Session, checkpoint_folder, on_core,
};
use super::figures::Figures;
use super::memory::Watch;
use super::options::{Options, Part};
use super::plan::{BULK_MAX, FULL_PIECE_BYTES, Plan, ROUNDS, ROUNDS_MIN, RUN_MAX, SMALL_MAX};
use super::raw::{self, SHAPES, Shape};
use super::used::sealed_bytes_per_piece_byte;
use super::work::Work;
use crate::folder;
use crate::narrator::Narrator;
use crate::units::human_bytes;

/// Callers of the small puts.
pub(super) const CALLERS: usize = 64;

/// Callers that put full pieces: what a core's write budget holds.
const FULL_PUT_CALLERS: usize = 20;

/// Callers that get full pieces: well within a core's read budget.
const FULL_GET_CALLERS: usize = 8;

const KIB: usize = 1 << 10;

/// Memory of a core beside its write budget and the index.
const CORE_BYTES: u64 = 32 << 20;

/// Pieces compared after the store was opened again.
const COMPARED_PIECES: u64 = 1_000;

pub(super) struct Bench {
    pub(super) plan: Plan,
    pub(super) folder: PathBuf,
    pub(super) figures: Figures,
    pub(super) narrator: Narrator,
    watch: Watch,
    pub(super) now_s: u32,
    /// Since the peers were built.
    pub(super) started: Instant,
    /// Known after the bulk runs.
    pub(super) put_64k_per_s: f64,
}

/// What each round of a comparison found.
#[derive(Default)]
pub(super) struct Rounds(pub(super) Vec<f64>);

/// Measures; the data is gone on return.
///
/// # Errors
///
/// If the machine or the disk cannot do it, there is no room, or a store answers wrong.
pub fn run(options: &Options) -> Result<Figures> {
    piecestore::core::probe()?;
    ensure!(
        !options.has(Part::Compaction) || options.has(Part::Bulk),
        "compaction cannot be measured without bulk: add it to --only"
    );
    let plan = Plan::new(options.pieces);
    let program = std::env::current_exe()?;
    let needed_bytes = plan.room_needed();
    let folder = folder::make_for("store", options.dir.as_deref(), &program, needed_bytes)?;
    let removed = Removed(folder.clone());
    folder::leave_on_signals(folder.clone())?;
    let narrator = Narrator::default();
    narrator.line(&format!(
        "{} pieces in {}, at most {}",
        plan.pieces,
        folder.display(),
        human_bytes(needed_bytes)
    ));
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let peers_program = options.find_peers(&narrator);
    let mut bench = Bench {
        plan,
        folder,
        figures: Figures::default(),
        narrator,
        watch: Watch::start(),
        now_s: u32::try_from(now.as_secs())?,
        started: Instant::now(),
        put_64k_per_s: 0.0,
    };
    if options.has(Part::Fill) {
        bench.fill_and_open_again()?;
        bench.fill_2k()?;
    }
    if options.has(Part::Bulk) {
        bench.bulk()?;
    }
    if options.has(Part::Small) {
        bench.small()?;
    }
    if options.has(Part::Compaction) {
        bench.compaction()?;
    }
    if let Some(program) = peers_program {
        bench.peers(&program)?;
    }
    let seconds = bench.started.elapsed().as_secs_f64();
    bench.narrator.line(&format!("done in {seconds:.0} s"));
    drop(removed);
    Ok(bench.figures)
}

impl Bench {
    /// Pieces of 576 bytes: their place on disk, the index at its worst, and opening from the footers.
    fn fill_and_open_again(&mut self) -> Result<()> {
        let count = self.plan.pieces;
        self.narrator.line("put 576 B pieces, 64 callers");
        let folder = self.new_folder("fill")?;
        let work = Arc::new(Work::new(576, self.now_s));
        let load = Load {
            limit: self.plan.fill_max(),
            ..load(CALLERS, count)
        };
        let filled = self.fill("disk_per_piece_576", &folder, &work, load)?;
        let put = filled.run;
        self.figures.set_pieces(put.count);
        self.figures
            .set("index_bytes_per_piece", filled.peaks.bytes_per_piece);

        self.narrator.line(&format!(
            "{} pieces at {:.0} a second; open again",
            put.count,
            put.per_second()
        ));
        // The rebuilding store writes a checkpoint when it is closed, which the next one starts from.
        let ways = [
            ("rebuild_s_per_million", true),
            ("start_s_per_million", false),
        ];
        for (key, ignores_checkpoint) in ways {
            let mut options = options(count);
            options.ignores_checkpoint = ignores_checkpoint;
            let seconds = self.open_again(&folder, &work, options, put.count, filled.digest)?;
            self.figures.set(key, seconds * 1e6 / put.count as f64);
        }
        self.remove(&folder)
    }

    /// Opens a store out of the page cache and holds its index against the one that wrote it; seconds until it was open.
    fn open_again(
        &mut self,
        folder: &Path,
        work: &Arc<Work>,
        options: StoreOptions,
        pieces: u64,
        digest: u64,
    ) -> Result<f64> {
        raw::evict(folder)?;
        raw::evict(&checkpoint_folder(folder))?;
        let (folder, work) = (folder.to_owned(), Arc::clone(work));
        let opening = move || {
            on_core(move |core| async move {
                let started = Instant::now();
                let opening = Session::open(core, &folder, options, work.now_s());
                let session = Box::pin(opening).await?;
                let seconds = started.elapsed().as_secs_f64();
                let counters = session.counters();
                ensure!(
                    (counters.pieces, session.index_digest()) == (pieces, digest),
                    "another index than the one before: {} pieces of {pieces}",
                    counters.pieces
                );
                session.compare(&work, pieces, COMPARED_PIECES).await?;
                session.close().await?;
                Ok((seconds, counters.index_bytes))
            })
        };
        let opened = self.watched("open", opening, |(_, index_bytes)| *index_bytes)?;
        Ok(opened.0)
    }

    fn fill_2k(&mut self) -> Result<()> {
        self.narrator.line("put 2 KiB pieces, 64 callers");
        let folder = self.new_folder("fill")?;
        let work = Arc::new(Work::new(2 * KIB, self.now_s));
        let load = load(CALLERS, self.plan.pieces_2k);
        self.fill("disk_per_piece_2k", &folder, &work, load)?;
        self.remove(&folder)
    }

    /// Full pieces and 64 KiB pieces against the raw disk.
    fn bulk(&mut self) -> Result<()> {
        let write_shape = self.calibrate_write()?;
        let mut read_shape = None;
        let full = Arc::new(Work::new(FULL_PIECE_BYTES, self.now_s));
        let middle = Arc::new(Work::new(64 * KIB, self.now_s));
        let (mut raw_writes, mut put_full, mut put_middle) = <(Rounds, Rounds, Rounds)>::default();
        let (mut raw_reads, mut cold) = <(Rounds, Rounds)>::default();
        let (mut hot, mut hot_p99_us, mut hot_cpu_s) = <(Rounds, Rounds, Rounds)>::default();
        let (mut put_64k_per_s, mut map_vs_ring) = <(Rounds, Rounds)>::default();
        for _ in self.rounds("bulk", BULK_MAX) {
            let bytes = self.plan.bulk_bytes;
            let raw_write = raw::write(&self.folder.join("raw"), bytes, write_shape)?;
            raw::settle(&self.folder)?;
            raw_writes.0.push(raw_write);

            let folder = self.new_folder("full")?;
            let count = (bytes / FULL_PIECE_BYTES as u64).max(1);
            let put_load = load(FULL_PUT_CALLERS, count);
            let put = self.put(&folder, &full, put_load)?.run;
            put_full.0.push(put.bandwidth(&full) / raw_write);

            let shape = match read_shape {
                Some(shape) => shape,
                None => *read_shape.insert(self.calibrate_read(&folder)?),
            };
            evict(&folder)?;
            let raw_read = raw::read(&folder, u64::MAX, shape)?;
            raw_reads.0.push(raw_read);
            evict(&folder)?;
            let got = self.get_cold(&folder, &full, put.count)?;
            cold.0.push(got.bandwidth(&full) / raw_read);
            self.remove(&folder)?;

            let folder = self.new_folder("middle")?;
            let count = bytes / middle.body_len() as u64;
            let filling = load(CALLERS, count);
            let filled = self.fill("disk_per_piece_64k", &folder, &middle, filling)?;
            let put = filled.run;
            put_middle.0.push(put.bandwidth(&middle) / raw_write);
            put_64k_per_s.0.push(put.per_second());
            let by_ring = self.get_hot(&folder, &middle, put.count, false)?;
            let got = self.get_hot(&folder, &middle, put.count, true)?;
            let ring_cpu_s = by_ring.cpu_seconds_per_gb(&middle);
            map_vs_ring
                .0
                .push(got.cpu_seconds_per_gb(&middle) / ring_cpu_s);
            hot.0.push(got.bandwidth(&middle) / 1e9);
            hot_p99_us.0.push(got.p99_us());
            hot_cpu_s.0.push(got.cpu_seconds_per_gb(&middle));
            self.remove(&folder)?;
        }
        self.put_64k_per_s = put_64k_per_s.median();
        let figures = &mut self.figures;
        figures.set("raw_write_gb_per_s", raw_writes.median() / 1e9);
        figures.set("raw_read_gb_per_s", raw_reads.median() / 1e9);
        figures.set("put_2m_vs_raw", put_full.median());
        figures.set("put_64k_vs_raw", put_middle.median());
        figures.set("get_cold_vs_raw", cold.median());
        figures.set("get_hot_gb_per_s", hot.median());
        figures.set("get_hot_p99_us", hot_p99_us.median());
        figures.set("get_hot_cpu_s_per_gb", hot_cpu_s.median());
        figures.set("map_vs_ring_cpu", map_vs_ring.median());
        Ok(())
    }

    /// Pieces of 4 KiB against a plain loop of groups, and alone against a lone sync.
    fn small(&mut self) -> Result<()> {
        let work = Arc::new(Work::mixed(4 * KIB, self.now_s));
        let (mut group_seconds, mut sync_seconds) = <(Rounds, Rounds)>::default();
        let (mut rates, mut against_raw, mut p99, mut lone) =
            <(Rounds, Rounds, Rounds, Rounds)>::default();
        for _ in self.rounds("4 KiB", SMALL_MAX) {
            let raw_file = self.folder.join("raw");
            let group = raw::group_seconds(&raw_file, self.plan.groups, RUN_MAX)?;
            raw::settle(&self.folder)?;
            group_seconds.0.push(group);
            let folder = self.new_folder("small")?;
            let put_load = Load {
                is_timed: true,
                ..load(CALLERS, self.plan.groups * CALLERS as u64)
            };
            let put = self.put(&folder, &work, put_load)?.run;
            rates.0.push(put.per_second());
            against_raw
                .0
                .push(put.per_second() * group / CALLERS as f64);
            p99.0.push(put.p99_us() / (group * 1e6));
            self.remove(&folder)?;

            let sync = Rounds(raw::sync_seconds(&raw_file, self.plan.lone_count)?).median();
            raw::settle(&self.folder)?;
            sync_seconds.0.push(sync);
            let folder = self.new_folder("lone")?;
            let put_load = Load {
                is_timed: true,
                ..load(1, self.plan.lone_count)
            };
            let put = self.put(&folder, &work, put_load)?.run;
            lone.0.push(put.median_us() / (sync * 1e6));
            self.remove(&folder)?;
        }
        let figures = &mut self.figures;
        figures.set("group_raw_us", group_seconds.median() * 1e6);
        figures.set("fdatasync_us", sync_seconds.median() * 1e6);
        figures.set("put_4k_per_s", rates.median());
        figures.set("put_4k_vs_group_raw", against_raw.median());
        figures.set("put_4k_p99_vs_group", p99.median());
        figures.set("lone_put_vs_fdatasync", lone.median());
        Ok(())
    }

    /// Counts rounds, each said, until there were enough or they have taken too long.
    fn rounds(&self, what: &'static str, limit: Duration) -> impl Iterator<Item = usize> + use<> {
        let (narrator, started) = (self.narrator.clone(), Instant::now());
        (1..=ROUNDS)
            .take_while(move |&round| round <= ROUNDS_MIN || started.elapsed() < limit)
            .inspect(move |round| narrator.line(&format!("{what} round {round} of {ROUNDS}")))
    }

    /// The best shape to write with; cuts the bulk runs to what this disk does in a few seconds.
    fn calibrate_write(&mut self) -> Result<Shape> {
        self.narrator.line("which raw writes are fastest?");
        let mut rates = Vec::new();
        for shape in SHAPES {
            let bytes = self.plan.calibration_bytes;
            rates.push((raw::write(&self.folder.join("raw"), bytes, shape)?, shape));
            raw::settle(&self.folder)?;
        }
        let (rate, shape) = best(rates)?;
        self.plan.cut_to(rate);
        self.say_shape("writes", rate, shape);
        Ok(shape)
    }

    fn calibrate_read(&self, folder: &Path) -> Result<Shape> {
        let mut rates = Vec::new();
        for shape in SHAPES {
            evict(folder)?;
            rates.push((
                raw::read(folder, self.plan.calibration_bytes, shape)?,
                shape,
            ));
        }
        let (rate, shape) = best(rates)?;
        self.say_shape("reads", rate, shape);
        Ok(shape)
    }

    fn say_shape(&self, what: &str, rate: f64, shape: Shape) {
        self.narrator.line(&format!(
            "raw {what}: {:.2} GB/s, {} at a time of {}",
            rate / 1e9,
            shape.depth,
            human_bytes(shape.step_bytes as u64)
        ));
    }

    /// Puts into a new store, and enters what its sealed blobs take on disk, if any were sealed, where that is worst.
    fn fill(
        &mut self,
        key: &'static str,
        folder: &Path,
        work: &Arc<Work>,
        load: Load,
    ) -> Result<Filled> {
        let filled = self.put(folder, work, load)?;
        let piece_bytes = filled.run.count * work.body_len() as u64;
        if let Some(ratio) = sealed_bytes_per_piece_byte(folder, piece_bytes)? {
            self.figures.set_max(key, ratio);
        }
        Ok(filled)
    }

    /// Opens a new store, puts, closes it.
    pub(super) fn put(&mut self, folder: &Path, work: &Arc<Work>, load: Load) -> Result<Filled> {
        self.put_with(folder, work, load, options(load.count))
    }

    /// [`put`](Self::put) into a store with these options.
    pub(super) fn put_with(
        &mut self,
        folder: &Path,
        work: &Arc<Work>,
        load: Load,
        options: StoreOptions,
    ) -> Result<Filled> {
        let (folder, work) = (folder.to_owned(), Arc::clone(work));
        let putting = move || {
            on_core(move |core| async move {
                let opening = Session::open(core, &folder, options, work.now_s());
                let session = Box::pin(opening).await?;
                // Below a blob's records the index's least size is all that would be seen.
                let look_from = (load.count / 2).min(1 << 16);
                let (run, peaks) = session.put(&work, 0, load, look_from).await?;
                let digest = session.index_digest();
                let counters = session.close().await?;
                ensure!(
                    counters.pieces_stored == run.count,
                    "{} of {} puts stored a piece",
                    counters.pieces_stored,
                    run.count
                );
                Ok(Filled { run, peaks, digest })
            })
        };
        self.watched("put", putting, |filled| filled.peaks.bytes)
    }

    /// Each piece once, in random order.
    fn get_cold(&mut self, folder: &Path, work: &Arc<Work>, pieces: u64) -> Result<Run> {
        let mut order: Vec<u64> = (0..pieces).collect();
        crate::random::Random::new(pieces, "cold").shuffle(&mut order);
        let (folder, work) = (folder.to_owned(), Arc::clone(work));
        let getting = move || {
            on_core(move |core| async move {
                let opening = Session::open(core, &folder, options(u64::MAX), work.now_s());
                let session = Box::pin(opening).await?;
                let index_bytes = session.counters().index_bytes;
                let getting = load(FULL_GET_CALLERS, pieces);
                let run = session
                    .get(&work, getting, move |number| order[number as usize])
                    .await?;
                session.close().await?;
                Ok((run, index_bytes))
            })
        };
        let (run, _) = self.watched("get, cold", getting, |(_, index_bytes)| *index_bytes)?;
        Ok(run)
    }

    /// Pieces at random out of a set that was read before; one caller, as one core has one. What a caller gets is a copy of its own.
    fn get_hot(
        &mut self,
        folder: &Path,
        work: &Arc<Work>,
        pieces: u64,
        uses_memory: bool,
    ) -> Result<Run> {
        let hot_count = (self.plan.hot_bytes / work.body_len() as u64).clamp(1, pieces);
        let (folder, work) = (folder.to_owned(), Arc::clone(work));
        let getting = move || {
            on_core(move |core| async move {
                let mut options = options(u64::MAX);
                options.uses_memory = uses_memory;
                let opening = Session::open(core, &folder, options, work.now_s());
                let session = Box::pin(opening).await?;
                let index_bytes = session.counters().index_bytes;
                // By the ring everything comes from the disk, however often it is read.
                if uses_memory {
                    session.warm(&work, hot_count).await?;
                }
                let getting = Load {
                    is_timed: true,
                    ..load(1, hot_count)
                };
                let at_random = move |number| {
                    let mut random = crate::random::Random::new(number, "hot");
                    random.below(hot_count as usize) as u64
                };
                let run = session.get(&work, getting, at_random).await?;
                session.close().await?;
                Ok((run, index_bytes))
            })
        };
        let (run, _) = self.watched("get, hot", getting, |(_, index_bytes)| *index_bytes)?;
        Ok(run)
    }

    /// Runs a part that uses a store, and enters its memory over what it may have, where that is worst.
    pub(super) fn watched<T>(
        &mut self,
        part: &str,
        work: impl FnOnce() -> Result<T>,
        index_bytes: impl FnOnce(&T) -> u64,
    ) -> Result<T> {
        let (output, peak_bytes) = self.watch.during(work);
        let output = output?;
        let allowed = WRITE_BUDGET_BYTES + CORE_BYTES + index_bytes(&output);
        let share = peak_bytes as f64 / allowed as f64;
        if self
            .figures
            .value("rss_over_budget")
            .is_none_or(|worst| worst < share)
        {
            self.figures.set("rss_over_budget", share);
            let (peak, allowed) = (human_bytes(peak_bytes), human_bytes(allowed));
            self.narrator
                .line(&format!("most memory yet ({part}): {peak} of {allowed}"));
        }
        Ok(output)
    }

    pub(super) fn new_folder(&self, name: &str) -> Result<PathBuf> {
        let path = self.folder.join(name);
        fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(path)
    }

    pub(super) fn remove(&self, folder: &Path) -> Result<()> {
        fs::remove_dir_all(folder)?;
        let checkpoints = checkpoint_folder(folder);
        if checkpoints.is_dir() {
            fs::remove_dir_all(checkpoints)?;
        }
        raw::settle(&self.folder)
    }
}

impl Rounds {
    pub(super) fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_unstable_by(f64::total_cmp);
        sorted[sorted.len() / 2]
    }
}

impl Run {
    /// Body bytes per second.
    fn bandwidth(&self, work: &Work) -> f64 {
        self.per_second() * work.body_len() as f64
    }

    /// Processor time of this process over a billion body bytes.
    fn cpu_seconds_per_gb(&self, work: &Work) -> f64 {
        self.cpu_seconds / (self.count as f64 * work.body_len() as f64 / 1e9)
    }
}

/// Removes the bench's folder on every way out.
struct Removed(PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("cannot remove {}: {error}", self.0.display());
        }
    }
}

/// Options of a store on a disk without bounds that so many pieces are put into.
fn options(count: u64) -> StoreOptions {
    let mut options = StoreOptions::new(NODE_ID, CAPACITY_BYTES);
    options.blob_records_max = Plan::blob_records_max(count);
    options
}

pub(super) fn load(callers: usize, count: u64) -> Load {
    Load {
        callers,
        count,
        limit: RUN_MAX,
        is_timed: false,
        per_second: None,
    }
}

fn best(rates: Vec<(f64, Shape)>) -> Result<(f64, Shape)> {
    rates
        .into_iter()
        .max_by(|left, right| left.0.total_cmp(&right.0))
        .context("no shape was tried")
}

/// Drops a folder from the page cache and makes sure that it is gone.
fn evict(folder: &Path) -> Result<()> {
    let cached_bytes = raw::evict(folder)?;
    ensure!(
        cached_bytes == 0,
        "{cached_bytes} bytes stay in the page cache: nothing here can be read cold"
    );
    Ok(())
}
