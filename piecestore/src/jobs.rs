//! Work on a store that its owner asks for: by a command on a stopped node's directory, or of a running node through its admin socket.
//!
//! A running node has at most one job. Asking again while it runs joins it; whoever asked may go away, and the job goes on.
//! Names in the JSON are read by scripts; they are added to, not changed.

use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use strand_blob::{Disk, PutError, Store};

use crate::scrub::ScrubFigures;

/// What a compaction of everything has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompactFigures {
    /// Blob files that went.
    pub blobs_removed: u64,
    /// Their bytes.
    pub removed_bytes: u64,
    /// Pieces that were moved out of them.
    pub moved_pieces: u64,
    /// Their bodies.
    pub moved_bytes: u64,
    /// Pieces that had expired.
    pub expired_pieces: u64,
    /// Pieces that were found damaged; they are lost to this node.
    pub lost_pieces: u64,
}

/// What a running node can be asked to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JobKind {
    /// Compacts everything that is worth it.
    #[default]
    Compact,
    /// Reads everything once.
    Scrub,
}

/// A job of a running node, as its socket tells of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobFigures {
    /// Which one since the start of the process; 0: none yet.
    pub job: u64,
    /// What it is.
    #[serde(default)]
    pub kind: JobKind,
    /// Whether it has not ended.
    pub running: bool,
    /// Whether the node has not begun with it.
    #[serde(default)]
    pub waiting: bool,
    /// What the node opens first; none once its store is open.
    #[serde(default)]
    pub opening: Option<JobOpening>,
    /// How it failed; empty if it did not.
    pub error: String,
    /// What a compaction has done so far.
    pub compact: CompactFigures,
    /// What a scrub has done so far.
    #[serde(default)]
    pub scrub: ScrubFigures,
}

/// How far the opening is that a job waits for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobOpening {
    /// Bytes of blobs that were read, or need not be: for as long as they change it makes progress.
    pub bytes_done: u64,
    /// What that means.
    pub sentence: String,
}

/// Where the socket's thread leaves a job for the node's core, and the core what became of it.
#[derive(Debug, Default)]
pub struct JobBoard(Mutex<JobFigures>);

impl JobKind {
    /// The question that asks for it, which is the command's name too.
    #[must_use]
    pub fn verb(self) -> &'static str {
        match self {
            Self::Compact => "compact",
            Self::Scrub => "scrub",
        }
    }
}

impl JobBoard {
    /// Asks for a job; the one that runs, if one does, of whatever kind it is.
    pub fn ask(&self, kind: JobKind) -> JobFigures {
        self.with(|figures| {
            if !figures.running {
                *figures = JobFigures {
                    job: figures.job + 1,
                    kind,
                    running: true,
                    waiting: true,
                    ..JobFigures::default()
                };
            }
            figures.clone()
        })
    }

    /// What became of it.
    #[must_use]
    pub fn figures(&self) -> JobFigures {
        self.with(|figures| figures.clone())
    }

    /// The job to begin, if there is one. The core's side.
    pub fn take(&self) -> Option<JobKind> {
        self.with(|figures| {
            figures.opening = None;
            std::mem::take(&mut figures.waiting).then_some(figures.kind)
        })
    }

    /// Says what a job waits for, if one does. The core's side.
    pub fn delay(&self, opening: impl FnOnce() -> JobOpening) {
        self.with(|figures| {
            if figures.waiting {
                figures.opening = Some(opening());
            }
        });
    }

    /// Says how far a compaction is. The core's side.
    pub fn report(&self, done: CompactFigures) {
        self.with(|figures| figures.compact = done);
    }

    /// Says how far a scrub is. The core's side.
    pub fn report_scrub(&self, done: ScrubFigures) {
        self.with(|figures| figures.scrub = done);
    }

    /// Says that it has ended. The core's side.
    pub fn end(&self, error: String) {
        self.with(|figures| {
            figures.running = false;
            figures.waiting = false;
            figures.opening = None;
            figures.error = error;
        });
    }

    fn with<T>(&self, look: impl FnOnce(&mut JobFigures) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Compacts until no blob is worth it; tells `each` after every blob. Dropping the call is safe at any point.
///
/// # Errors
///
/// The store's, at the first blob that fails.
pub async fn compact_all<D: Disk>(
    store: &Store<D>,
    now_s: u32,
    mut each: impl FnMut(&CompactFigures),
) -> Result<CompactFigures, PutError> {
    let mut figures = CompactFigures::default();
    while let Some(done) = store.compact(now_s).await? {
        figures.blobs_removed += u64::from(done.removed_bytes > 0);
        figures.removed_bytes += done.removed_bytes;
        figures.moved_pieces += done.moved_pieces;
        figures.moved_bytes += done.moved_bytes;
        figures.expired_pieces += done.expired_pieces;
        figures.lost_pieces += done.lost.len() as u64;
        each(&figures);
    }
    Ok(figures)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_job_at_a_time_and_asking_again_joins_it() {
        let board = JobBoard::default();
        assert_eq!(board.take(), None);
        let first = board.ask(JobKind::Compact);
        assert_eq!((first.job, first.running, first.waiting), (1, true, true));
        board.delay(JobOpening::default);
        assert_eq!(board.figures().opening, Some(JobOpening::default()));
        assert_eq!(board.take(), Some(JobKind::Compact));
        let joined = board.ask(JobKind::Scrub);
        assert_eq!((joined.job, joined.kind), (1, JobKind::Compact));
        assert_eq!((joined.waiting, joined.opening), (false, None));
        board.delay(JobOpening::default);
        assert_eq!(board.figures().opening, None, "it waits for nothing");
        assert_eq!(board.take(), None, "begun twice");
        let done = CompactFigures {
            blobs_removed: 3,
            ..CompactFigures::default()
        };
        board.report(done);
        board.end(String::new());
        let figures = board.figures();
        assert_eq!((figures.running, figures.compact), (false, done));
        assert_eq!(board.ask(JobKind::Scrub).job, 2);
        assert_eq!(board.take(), Some(JobKind::Scrub));
    }
}
