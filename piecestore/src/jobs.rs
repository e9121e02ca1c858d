//! Work on a store that its owner asks for: by a command on a stopped node's directory, or of a running node through its admin socket.
//!
//! A running node has at most one job. Asking again while it runs joins it; whoever asked may go away, and the job goes on.
//! Names in the JSON are read by scripts; they are added to, not changed.

use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use strand_blob::{Disk, PutError, Store};

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

/// A job of a running node, as its socket tells of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobFigures {
    /// Which one since the start of the process; 0: none yet.
    pub job: u64,
    /// Whether it has not ended.
    pub running: bool,
    /// How it failed; empty if it did not.
    pub error: String,
    /// What it has done so far.
    pub compact: CompactFigures,
}

/// Where the socket's thread leaves a job for the node's core, and the core what became of it.
#[derive(Debug, Default)]
pub struct JobBoard(Mutex<Posted>);

#[derive(Debug, Default)]
struct Posted {
    is_new: bool,
    figures: JobFigures,
}

impl JobBoard {
    /// Asks for a compaction of everything, or joins the one that runs.
    pub fn ask(&self) -> JobFigures {
        self.with(|posted| {
            if !posted.figures.running {
                posted.figures = JobFigures {
                    job: posted.figures.job + 1,
                    running: true,
                    ..JobFigures::default()
                };
                posted.is_new = true;
            }
            posted.figures.clone()
        })
    }

    /// What became of it.
    #[must_use]
    pub fn figures(&self) -> JobFigures {
        self.with(|posted| posted.figures.clone())
    }

    /// Whether there is a job to begin. The core's side.
    pub fn take(&self) -> bool {
        self.with(|posted| std::mem::take(&mut posted.is_new))
    }

    /// Says how far it is. The core's side.
    pub fn report(&self, figures: CompactFigures) {
        self.with(|posted| posted.figures.compact = figures);
    }

    /// Says that it has ended. The core's side.
    pub fn end(&self, error: String) {
        self.with(|posted| {
            posted.figures.running = false;
            posted.figures.error = error;
        });
    }

    fn with<T>(&self, look: impl FnOnce(&mut Posted) -> T) -> T {
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
        assert!(!board.take());
        let first = board.ask();
        assert_eq!((first.job, first.running), (1, true));
        assert!(board.take());
        assert_eq!(board.ask().job, 1);
        assert!(!board.take(), "begun twice");
        let done = CompactFigures {
            blobs_removed: 3,
            ..CompactFigures::default()
        };
        board.report(done);
        board.end(String::new());
        let figures = board.figures();
        assert_eq!((figures.running, figures.compact), (false, done));
        assert_eq!(board.ask().job, 2);
        assert!(board.take());
    }
}
