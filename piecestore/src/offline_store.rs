//! The commands that change a node's store: `compact` and `rebuild-index`, on the directory of a node that does not run.
//!
//! They hold the directory's lock and use the store as a node would, ring and all, so what holds for a node holds for them: they may be
//! interrupted at any moment, kill -9 included. `compact` asks a running node to do the work itself.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use serde::Serialize;
use strand_blob::{OpenError, PutError, Store, StoreOptions};

use crate::admin::{AskError, ask_job, begin_job};
use crate::core::{
    self, Core, CoreError, CoreExecutor, CoreOptions, Executor, IoChoice, Unsupported,
};
use crate::directory::{CheckpointsError, Directory, DirectoryError};
use crate::disk::CoreDisk;
use crate::jobs::{CompactFigures, JobFigures, JobKind, JobOpening, compact_all};
use crate::limits::{JOB_BEGIN_WAIT, OPENING_PROGRESS_WAIT};
use crate::meter::Meter;
use crate::space::with_separators;
use crate::status::human_bytes;

/// How often a running node is asked how far it is.
const ASK_PERIOD: Duration = Duration::from_millis(300);

/// What `compact` did.
#[derive(Debug, Serialize)]
pub struct CompactReport {
    /// Text form.
    pub node_id: String,
    /// Where its files are.
    pub directory: String,
    /// Whether the node itself did it.
    pub running: bool,
    /// What was done.
    #[serde(flatten)]
    pub figures: CompactFigures,
    /// How long it took.
    pub seconds: f64,
}

/// What `rebuild-index` found.
#[derive(Debug, Serialize)]
pub struct RebuildReport {
    /// Text form.
    pub node_id: String,
    /// Where its files are.
    pub directory: String,
    /// Files of a checkpoint that were removed.
    pub checkpoint_files_removed: u64,
    /// Pieces in the index.
    pub pieces: u64,
    /// Stretches of blobs that were found damaged.
    pub damaged: u64,
    /// How long it took.
    pub seconds: f64,
}

/// Why a store was not worked on. Each message is one sentence.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OfflineError {
    /// What the kernel lacks.
    #[error(transparent)]
    Unsupported(#[from] Unsupported),
    /// Its directory.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// A core to work on.
    #[error(transparent)]
    Core(#[from] CoreError),
    /// The operating system said no.
    #[error("cannot {what} {path}: {error}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// How it failed.
        error: std::io::Error,
    },
    /// Its store cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Its store failed.
    #[error("cannot compact: {0}; what was done is kept, and the command can be run again")]
    Compact(PutError),
    /// The running node.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// Its checkpoints cannot be told what is done.
    #[error(transparent)]
    Checkpoints(#[from] CheckpointsError),
    /// The running node's job failed.
    #[error("the running node cannot {what}: {error}")]
    Job {
        /// The command.
        what: &'static str,
        /// Why.
        error: String,
    },
    /// The running node does something else.
    #[error(
        "the running node is busy with `piecestore {0}`, and does one such job at a time: try again when that has ended"
    )]
    Busy(&'static str),
    /// The node does not look at what it is asked to do.
    #[error(
        "the node does not begin to {0}: it is still starting, or could not be started, as its log says; try again once it serves"
    )]
    NotBegun(&'static str),
    /// The node would, if its store were ever open.
    #[error(
        "the node does not begin to {what}: its store is not open and makes no progress ({how_far}); see its log, and try again once it serves"
    )]
    NotOpened {
        /// The command.
        what: &'static str,
        /// How far the opening is.
        how_far: String,
    },
    /// The node that began it has ended, or has done it and begun something else.
    #[error(
        "how the running node's {0} ended is not known, because it was restarted or does another job now: run the command again"
    )]
    Forgotten(&'static str),
}

/// Compacts everything that is worth it, now. Progress goes to standard error.
pub fn compact(path: &Path) -> Result<CompactReport, OfflineError> {
    let config = crate::config::Config::load(path).map_err(DirectoryError::from)?;
    let mut meter = Meter::new();
    let what = JobKind::Compact;
    let (running, figures) = match begin_job(path, what) {
        Ok(begun) => {
            let job = wait_for_job(path, what, &begun, &mut meter, |job| said(&job.compact))?;
            if !job.error.is_empty() {
                let (what, error) = (what.verb(), job.error);
                return Err(OfflineError::Job { what, error });
            }
            (true, job.compact)
        }
        Err(AskError::NotRunning(_)) => {
            let figures = with_store(path, move |store, _| async move {
                // Satellite time is not known here: nothing expires.
                let mut meter = Meter::new();
                compact_all(&store, 0, |figures| meter.show(|| said(figures))).await
            })?;
            (false, figures.map_err(OfflineError::Compact)?)
        }
        Err(error) => return Err(error.into()),
    };
    let seconds = meter.end("compacted");
    Ok(CompactReport {
        node_id: config.node_id.to_string(),
        directory: path.display().to_string(),
        running,
        figures,
        seconds,
    })
}

/// Throws away what was remembered of the blobs and reads them anew. Progress goes to standard error.
pub fn rebuild_index(path: &Path) -> Result<RebuildReport, OfflineError> {
    let config = crate::config::Config::load(path).map_err(DirectoryError::from)?;
    let mut meter = Meter::new();
    let (removed, (pieces, damaged)) = {
        let directory = Directory::open(path)?;
        let removed = remove_checkpoints(path)?;
        let counts = run_in(directory, |store, damaged| async move {
            (store.counters().pieces, damaged)
        })?;
        (removed, counts)
    };
    let seconds = meter.end("rebuilt the index");
    Ok(RebuildReport {
        node_id: config.node_id.to_string(),
        directory: path.display().to_string(),
        checkpoint_files_removed: removed,
        pieces,
        damaged,
        seconds,
    })
}

/// Removes the folder `checkpoint/` of a locked directory, which only ever repeats what the blobs say; gives how many files it had.
pub fn remove_checkpoints(directory: &Path) -> Result<u64, OfflineError> {
    let folder = directory.join("checkpoint");
    let failed = |error| OfflineError::Io {
        what: "remove",
        path: folder.clone(),
        error,
    };
    let mut removed = 0;
    match std::fs::read_dir(&folder) {
        Ok(entries) => {
            for entry in entries {
                std::fs::remove_file(entry.map_err(failed)?.path()).map_err(failed)?;
                removed += 1;
            }
            crate::directory::sync_folder(&folder).map_err(failed)?;
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    Ok(removed)
}

pub(crate) type OfflineStore = Rc<Store<CoreDisk<CoreExecutor>>>;

/// Opens the store of a directory, under its lock, works with it on a core of its own, and closes it.
pub(crate) fn with_store<T: Send + 'static, F: Future<Output = T> + 'static>(
    path: &Path,
    work: impl FnOnce(OfflineStore, u64) -> F + Send + 'static,
) -> Result<T, OfflineError> {
    run_in(Directory::open(path)?, work)
}

/// As [`with_store`]; `work` is also given how much was found damaged.
fn run_in<T: Send + 'static, F: Future<Output = T> + 'static>(
    directory: Directory,
    work: impl FnOnce(OfflineStore, u64) -> F + Send + 'static,
) -> Result<T, OfflineError> {
    let options = CoreOptions {
        io: core::settle(IoChoice::of_environment().unwrap_or_default())?.io,
        open_files_max: crate::limits::open_files_max(crate::ring::raise_open_files_limit(), 1, 1),
        ..CoreOptions::default()
    };
    let path = directory.blobs();
    let result = core::start(options, move |core| async move {
        work_in(&core, &directory, work).await
    })?
    .join()?;
    result.map_err(|error| match error {
        WorkError::Disk(error) => OfflineError::Io {
            what: "open",
            path,
            error,
        },
        WorkError::Checkpoints(error) => error.into(),
        WorkError::Open(error) => error.into(),
    })
}

enum WorkError {
    Disk(std::io::Error),
    Checkpoints(CheckpointsError),
    Open(OpenError),
}

async fn work_in<T, F: Future<Output = T>>(
    core: &Core,
    directory: &Directory,
    work: impl FnOnce(OfflineStore, u64) -> F,
) -> Result<T, WorkError> {
    let config = directory.config();
    let folder = directory.open_blobs().map_err(WorkError::Disk)?;
    let disk = core
        .disk_in(&directory.blobs(), folder)
        .map_err(WorkError::Disk)?;
    // One that is there must hear of what is done, or the next start would miss blobs.
    let checkpoints = directory
        .open_checkpoints()
        .map_err(WorkError::Checkpoints)?;
    let disk = match checkpoints {
        Some(folder) => disk.with_checkpoints(folder),
        None => disk,
    };
    let options = StoreOptions::new(*config.node_id.as_bytes(), config.capacity.bytes());
    let (store, recovery) = Store::open(disk, options, 0, &mut crate::node::fill_random)
        .await
        .map_err(WorkError::Open)?;
    let committing = Rc::clone(&store);
    core.executor()
        .spawn(async move { committing.run_commits().await });
    // The committer begins before the store may be closed.
    core.executor().yield_now().await;
    let output = work(Rc::clone(&store), recovery.rotten.len() as u64).await;
    store.close().await;
    Ok(output)
}

/// How long to wait for a job to begin: for as long as the opening that it waits for makes progress.
struct Patience {
    bytes_done: Option<u64>,
    since: Instant,
}

impl Patience {
    fn new(now: Instant) -> Self {
        Self {
            bytes_done: None,
            since: now,
        }
    }

    /// Whether nothing has changed for too long.
    fn is_over(&mut self, opening: Option<&JobOpening>, now: Instant) -> bool {
        let bytes_done = opening.map(|opening| opening.bytes_done);
        if bytes_done != self.bytes_done {
            self.bytes_done = bytes_done;
            self.since = now;
        }
        let wait = if opening.is_some() {
            OPENING_PROGRESS_WAIT
        } else {
            JOB_BEGIN_WAIT
        };
        now.duration_since(self.since) > wait
    }
}

/// Waits until a running node has ended the job that it was asked for.
pub(crate) fn wait_for_job(
    path: &Path,
    kind: JobKind,
    begun: &JobFigures,
    meter: &mut Meter,
    said: impl Fn(&JobFigures) -> String,
) -> Result<JobFigures, OfflineError> {
    if begun.kind != kind {
        return Err(OfflineError::Busy(begun.kind.verb()));
    }
    let mut patience = Patience::new(Instant::now());
    let mut has_said_why = false;
    loop {
        let asked = Instant::now();
        let job = ask_job(path)?;
        if (job.job, job.kind) != (begun.job, kind) {
            return Err(OfflineError::Forgotten(kind.verb()));
        }
        if !job.running {
            return Ok(job);
        }
        if job.waiting && patience.is_over(job.opening.as_ref(), Instant::now()) {
            let what = kind.verb();
            return Err(match job.opening {
                Some(JobOpening {
                    sentence: how_far, ..
                }) => OfflineError::NotOpened { what, how_far },
                None => OfflineError::NotBegun(what),
            });
        }
        if let Some(opening) = &job.opening {
            let line = format!("waiting for the node: {}", opening.sentence);
            if std::mem::replace(&mut has_said_why, true) {
                meter.show(|| line);
            } else {
                meter.show_at_once(&line);
            }
        } else {
            meter.show(|| said(&job));
        }
        std::thread::sleep(ASK_PERIOD.saturating_sub(asked.elapsed()));
    }
}

fn said(figures: &CompactFigures) -> String {
    format!(
        "compacting: {} blobs with {} removed, {} of pieces moved",
        figures.blobs_removed,
        human_bytes(figures.removed_bytes),
        human_bytes(figures.moved_bytes)
    )
}

impl CompactReport {
    /// Lines for people.
    #[must_use]
    pub fn for_people(&self) -> String {
        let figures = &self.figures;
        let mut out = String::new();
        // Writing to a String cannot fail.
        let _ = if figures.blobs_removed == 0 {
            writeln!(out, "nothing is worth compacting")
        } else {
            let freed = figures.removed_bytes.saturating_sub(figures.moved_bytes);
            writeln!(
                out,
                "removed {} blobs with {}, of which {} pieces with {} were kept: some {} more free",
                with_separators(figures.blobs_removed),
                human_bytes(figures.removed_bytes),
                with_separators(figures.moved_pieces),
                human_bytes(figures.moved_bytes),
                human_bytes(freed),
            )
        };
        if figures.lost_pieces > 0 {
            let _ = writeln!(
                out,
                "{} pieces are damaged and lost",
                with_separators(figures.lost_pieces)
            );
        }
        out
    }
}

impl RebuildReport {
    /// Lines for people.
    #[must_use]
    pub fn for_people(&self) -> String {
        let mut out = format!(
            "the index has {} pieces, read from the blobs in {:.1} s\n",
            with_separators(self.pieces),
            self.seconds
        );
        if self.damaged > 0 {
            let _ = writeln!(
                out,
                "{} stretches are damaged; `piecestore verify` names what they cost",
                self.damaged
            );
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_waits_for_as_long_as_the_opening_makes_progress() {
        let began = Instant::now();
        let at_s = |s: u64| began + Duration::from_secs(s);
        let mut patience = Patience::new(began);
        let mut is_over = |s: u64, bytes_done: Option<u64>| {
            let opening = bytes_done.map(|bytes_done| JobOpening {
                bytes_done,
                ..JobOpening::default()
            });
            patience.is_over(opening.as_ref(), at_s(s))
        };
        assert!(!is_over(9, None));
        // Hours, a little every nine seconds.
        for step in 1..1_000 {
            assert!(!is_over(9 + 9 * step, Some(step)), "{step}");
        }
        // It begins again, where a checkpoint does not hold.
        assert!(!is_over(9_010, Some(0)));
        assert!(!is_over(9_070, Some(0)), "60 s");
        assert!(is_over(9_071, Some(0)));
        // Open, and begun within the usual time, or not at all.
        assert!(!is_over(9_072, None));
        assert!(is_over(9_083, None));
    }
}
