//! Reading records of a blob before somebody needs them, in the order of their places.
//!
//! Records that lie close together are read at once, with what lies between them; several such reads are on their way while the records of the
//! first are worked on. What is read and held is bounded: [`AHEAD_COUNT`] runs of [`RUN_BYTES_MAX`], or of one record where that is longer.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;

use bytes::Bytes;

use crate::blobs::Blob;
use crate::disk::{Disk, DiskError};
use crate::footer::FooterEntry;
use crate::store::Store;

/// Bytes that are read at once where records are small.
const RUN_BYTES_MAX: u64 = 1 << 20;

/// Runs on their way.
const AHEAD_COUNT: usize = 4;

/// Records of one blob, read ahead.
pub(crate) struct Ahead<'a, D: Disk> {
    store: &'a Store<D>,
    blob: &'a Blob<D::File>,
    /// Not yet asked for, in order.
    runs: VecDeque<Run>,
    reads: VecDeque<Read<'a>>,
    /// What was read last.
    held: Option<(Run, Bytes)>,
}

/// Some bytes of the blob: whole records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    start: u64,
    end: u64,
}

type Bringing<'a> = Pin<Box<dyn Future<Output = Result<Bytes, DiskError>> + 'a>>;

struct Read<'a> {
    run: Run,
    bringing: Bringing<'a>,
    result: Option<Result<Bytes, DiskError>>,
}

impl Run {
    fn of(entry: &FooterEntry) -> Self {
        Self {
            start: entry.offset,
            end: entry.offset + entry.record.record_len(),
        }
    }

    fn contains(self, other: Self) -> bool {
        self.start <= other.start && other.end <= self.end
    }

    /// The bytes of `part`, fewer if the file ends before.
    fn cut(self, bytes: &Bytes, part: Self) -> Bytes {
        let at = |offset: u64| bytes.len().min((offset - self.start) as usize);
        bytes.slice(at(part.start)..at(part.end))
    }
}

impl<'a, D: Disk> Ahead<'a, D> {
    /// `entries` are those that will probably be asked for, in the order of their places. What lies between two of them is read as well if it
    /// is no more than `gap_bytes_max`.
    pub(crate) fn new<'e>(
        store: &'a Store<D>,
        blob: &'a Blob<D::File>,
        entries: impl Iterator<Item = &'e FooterEntry>,
        gap_bytes_max: u64,
    ) -> Self {
        Self {
            store,
            blob,
            runs: join(entries.map(Run::of), gap_bytes_max),
            reads: VecDeque::new(),
            held: None,
        }
    }

    /// The bytes of a record, fewer if the file is shorter. Records are asked for in the order of their places; one that was not announced is
    /// read on its own.
    pub(crate) async fn record(&mut self, entry: &FooterEntry) -> Result<Bytes, DiskError> {
        let wanted = Run::of(entry);
        loop {
            if let Some((run, bytes)) = &self.held
                && run.contains(wanted)
            {
                return Ok(run.cut(bytes, wanted));
            }
            self.begin_reads();
            // Others in between went while they were read.
            if !self
                .reads
                .front()
                .is_some_and(|read| read.run.start <= wanted.start)
            {
                return self.bring(wanted).await;
            }
            let (run, result) = self.next_read().await;
            if run.contains(wanted) {
                self.held = Some((run, result?));
            }
        }
    }

    /// Waits for what is on its way and was not needed: reads that are dropped would be taken for a disk that hangs.
    pub(crate) async fn finish(mut self) {
        self.runs.clear();
        while !self.reads.is_empty() {
            // Nobody needs it, whatever became of it.
            let _ = self.next_read().await;
        }
    }

    fn begin_reads(&mut self) {
        while self.reads.len() < AHEAD_COUNT
            && let Some(run) = self.runs.pop_front()
        {
            self.reads.push_back(Read {
                run,
                bringing: self.bring(run),
                result: None,
            });
        }
    }

    fn bring(&self, run: Run) -> Bringing<'a> {
        let (store, blob) = (self.store, self.blob);
        Box::pin(async move {
            let span = store
                .read_span(blob, run.start, run.end - run.start)
                .await?;
            Ok(span.into_bytes())
        })
    }

    /// The oldest of the reads; the others go on meanwhile.
    ///
    /// # Panics
    ///
    /// If there is none.
    async fn next_read(&mut self) -> (Run, Result<Bytes, DiskError>) {
        poll_fn(|context| {
            for read in &mut self.reads {
                if read.result.is_none()
                    && let Poll::Ready(result) = read.bringing.as_mut().poll(context)
                {
                    read.result = Some(result);
                }
            }
            let first = &mut self.reads[0];
            match first.result.take() {
                Some(result) => {
                    let run = first.run;
                    self.reads.pop_front();
                    Poll::Ready((run, result))
                }
                None => Poll::Pending,
            }
        })
        .await
    }
}

/// Joins runs that follow each other closely, as long as they do not get too long together.
fn join(runs: impl Iterator<Item = Run>, gap_bytes_max: u64) -> VecDeque<Run> {
    let mut joined: VecDeque<Run> = VecDeque::new();
    for run in runs {
        match joined.back_mut() {
            Some(last)
                if run.start - last.end <= gap_bytes_max
                    && run.end - last.start <= RUN_BYTES_MAX =>
            {
                last.end = run.end;
            }
            _ => joined.push_back(run),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(bounds: &[(u64, u64)]) -> Vec<Run> {
        bounds
            .iter()
            .map(|&(start, end)| Run { start, end })
            .collect()
    }

    #[test]
    fn close_runs_are_read_at_once_up_to_a_mebibyte() {
        let apart = runs(&[
            (0, 100),
            (164, 300),
            (400, 500),
            (1 << 19, 1 << 20),
            (1 << 20, 2 << 20),
        ]);
        let joined = |gap_bytes| Vec::from(join(apart.iter().copied(), gap_bytes));
        assert_eq!(
            joined(0),
            runs(&[
                (0, 100),
                (164, 300),
                (400, 500),
                (1 << 19, 1 << 20),
                (1 << 20, 2 << 20)
            ])
        );
        assert_eq!(
            joined(64),
            runs(&[(0, 300), (400, 500), (1 << 19, 1 << 20), (1 << 20, 2 << 20)])
        );
        assert_eq!(joined(1 << 20), runs(&[(0, 1 << 20), (1 << 20, 2 << 20)]));
    }

    #[test]
    fn a_file_that_ends_early_gives_fewer_bytes() {
        let run = Run {
            start: 100,
            end: 200,
        };
        let bytes = Bytes::from_static(&[7; 30]);
        assert_eq!(
            run.cut(
                &bytes,
                Run {
                    start: 110,
                    end: 120
                }
            )
            .len(),
            10
        );
        assert_eq!(
            run.cut(
                &bytes,
                Run {
                    start: 120,
                    end: 150
                }
            )
            .len(),
            10
        );
        assert_eq!(
            run.cut(
                &bytes,
                Run {
                    start: 150,
                    end: 200
                }
            )
            .len(),
            0
        );
    }
}
