//! `piecestore scrub`: reads everything that a node has stored, once and now, and takes out of service what is damaged.
//!
//! A running node does it itself, as a job: it names what it lost in its log, and its satellite hears of it as of every lost piece. Of a
//! stopped node the command opens the store under the directory's lock, as the node would; what it finds is printed and not kept, because
//! a damaged piece has another chance at every start. Either way nothing of what is stored changes, and it may be interrupted at any moment.
//! Names in the JSON are read by scripts; they are added to, not changed.

use std::fmt::Write as _;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use strand_blob::{BlobId, Disk, DiskError, ScrubCursor, ScrubStep, Store};
use strand_protocol::{NodeId, PieceId};

use crate::admin::{AskError, begin_job};
use crate::config::Config;
use crate::core::executor::Executor;
use crate::directory::DirectoryError;
use crate::hardware::DiskTurn;
use crate::jobs::{JobBoard, JobFigures, JobKind};
use crate::limits::{
    SCRUB_GROWTH_BYTES_MAX, SCRUB_JOB_REST_PART, SCRUB_LOST_NAMED_MAX, SCRUB_STEP_BYTES,
    SCRUB_UNREADABLE_BLOBS_MAX,
};
use crate::meter::Meter;
use crate::offline_store::{OfflineError, wait_for_job, with_store};
use crate::space::with_separators;
use crate::status::human_bytes;

/// How far a scrub of everything is, and what it found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ScrubFigures {
    /// Bytes of the blob files when it began.
    pub total_bytes: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Records checked.
    pub records: u64,
    /// Records that failed; those among them that nobody needs any more, or that were known to be damaged, are no loss.
    pub damaged_records: u64,
    /// Copies of blob headers, and footers, that failed.
    pub damaged_headers: u64,
    /// Blobs of which the disk read nothing, nor of others at that time. They were passed.
    pub unreadable_blobs: u64,
    /// Pieces that are lost to this node since this scrub read them.
    pub lost_pieces: u64,
    /// Pieces that are out of service as damaged, whoever found them.
    pub damaged_pieces: u64,
    /// Stretches that were found damaged when a stopped node's store was opened.
    pub damaged_stretches: u64,
}

/// A scrub that begins with the first blob and ends with the last one.
#[derive(Debug)]
pub struct ScrubPass<'a, D: Disk> {
    store: &'a Store<D>,
    cursor: ScrubCursor,
    figures: ScrubFigures,
    read_bytes_max: u64,
    /// Blobs that could not be read since one was.
    unreadable_run: u32,
}

/// Why a scrub ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ScrubError {
    /// A disk that does not answer is not asked for every blob.
    #[error(
        "the disk reads nothing of {count} blobs in a row, the last of them blob {blob}: {error}"
    )]
    Unreadable {
        /// How many.
        count: u32,
        /// The last of them.
        blob: BlobId,
        /// What it said of the last one.
        error: DiskError,
    },
}

/// What `scrub` found.
#[derive(Debug, Serialize)]
pub struct ScrubReport {
    /// Text form.
    pub node_id: String,
    /// Where its files are.
    pub directory: String,
    /// Whether the node itself did it.
    pub running: bool,
    /// Whether everything was read and nothing that is needed is damaged.
    pub ok: bool,
    /// Why it ended early; empty if it did not.
    pub error: String,
    /// What was read and found.
    #[serde(flatten)]
    pub figures: ScrubFigures,
    /// Which pieces a stopped node has lost, at most 65,536 of them; a running node names them in its log.
    pub lost: Vec<LostPiece>,
    /// Which blobs of a stopped node could not be read, at most 65,536 of them; a running node names them in its log.
    pub unreadable: Vec<UnreadableBlob>,
    /// How long it took.
    pub seconds: f64,
}

/// One blob that could not be read.
#[derive(Debug, Serialize)]
pub struct UnreadableBlob {
    /// Its number, as its file's name has it.
    pub blob: String,
    /// What the disk said.
    pub error: String,
}

/// One lost piece.
#[derive(Debug, Serialize)]
pub struct LostPiece {
    /// Node id of the satellite, text form.
    pub satellite: String,
    /// Text form.
    pub piece_id: String,
    /// What failed its check.
    pub damage: String,
}

impl<'a, D: Disk> ScrubPass<'a, D> {
    /// A scrub of everything that the store has now.
    #[must_use]
    pub fn new(store: &'a Store<D>) -> Self {
        let total_bytes = store.space().file_bytes;
        let figures = ScrubFigures {
            total_bytes,
            damaged_pieces: store.counters().damaged,
            ..ScrubFigures::default()
        };
        Self {
            store,
            cursor: ScrubCursor::default(),
            figures,
            read_bytes_max: total_bytes + SCRUB_GROWTH_BYTES_MAX,
            unreadable_run: 0,
        }
    }

    /// Reads on for one step; `None` once everything has been read. Dropping the call is safe.
    ///
    /// # Errors
    ///
    /// If the disk read nothing of so many blobs in a row that it is the disk that is out of order. That is the end of the pass.
    pub async fn step(&mut self) -> Result<Option<ScrubStep>, ScrubError> {
        // Blobs are read in the order in which they were made: by then everything that was there at the beginning has been read,
        // and what puts go on adding was checked as it came.
        if self.figures.read_bytes > self.read_bytes_max {
            return Ok(None);
        }
        let step = self.store.scrub_step(self.cursor, SCRUB_STEP_BYTES).await;
        let figures = &mut self.figures;
        figures.damaged_pieces = self.store.counters().damaged;
        let Some(step) = step else {
            return Ok(None);
        };
        self.cursor = step.next;
        figures.read_bytes += step.bytes_read;
        figures.records += step.records;
        figures.damaged_records += step.damaged_records;
        figures.damaged_headers += step.damaged_headers;
        figures.lost_pieces += step.lost.len() as u64;
        let Some(error) = step.unreadable else {
            self.unreadable_run = 0;
            return Ok(Some(step));
        };
        figures.unreadable_blobs += 1;
        self.unreadable_run += 1;
        if self.unreadable_run == SCRUB_UNREADABLE_BLOBS_MAX {
            return Err(ScrubError::Unreadable {
                count: self.unreadable_run,
                blob: step.blob,
                error,
            });
        }
        Ok(Some(step))
    }

    /// What was read and found so far.
    #[must_use]
    pub fn figures(&self) -> ScrubFigures {
        self.figures
    }
}

impl ScrubFigures {
    /// Whether no piece was found damaged, and nothing without which pieces could not be checked.
    #[must_use]
    pub fn is_good(&self) -> bool {
        let damaged = self.damaged_pieces + self.damaged_headers + self.damaged_stretches;
        self.lost_pieces + damaged + self.unreadable_blobs == 0
    }
}

/// What the scrub of a stopped node's store gives.
struct Found {
    figures: ScrubFigures,
    lost: Vec<LostPiece>,
    unreadable: Vec<UnreadableBlob>,
    error: String,
}

/// Reads everything once. Progress goes to standard error.
pub fn scrub(path: &Path) -> Result<ScrubReport, OfflineError> {
    let config = Config::load(path).map_err(DirectoryError::from)?;
    let mut meter = Meter::new();
    let (running, found) = match begin_job(path, JobKind::Scrub) {
        Ok(begun) => {
            let said = |job: &JobFigures| said(&job.scrub);
            let job = wait_for_job(path, JobKind::Scrub, &begun, &mut meter, said)?;
            let found = Found {
                figures: job.scrub,
                lost: Vec::new(),
                unreadable: Vec::new(),
                error: job.error,
            };
            (true, found)
        }
        Err(AskError::NotRunning(_)) => (false, with_store(path, scrub_stopped)?),
        Err(error) => return Err(error.into()),
    };
    let seconds = meter.end(if found.error.is_empty() {
        "scrubbed"
    } else {
        "the scrub ended early,"
    });
    Ok(ScrubReport {
        node_id: config.node_id.to_string(),
        directory: path.display().to_string(),
        running,
        ok: found.error.is_empty() && found.figures.is_good(),
        error: found.error,
        figures: found.figures,
        lost: found.lost,
        unreadable: found.unreadable,
        seconds,
    })
}

/// A running node's job: each step is a turn of its own. What is lost the collector takes to the satellite, as ever.
pub(crate) async fn scrub_running<D: Disk, E: Executor>(
    node: NodeId,
    store: &Store<D>,
    board: &JobBoard,
    turn: &DiskTurn,
    executor: &E,
) -> Result<(), ScrubError> {
    let mut pass = ScrubPass::new(store);
    loop {
        let turn = turn.take(executor).await;
        let begun = executor.now();
        let step = pass.step().await;
        board.report_scrub(pass.figures());
        let Some(step) = step? else {
            return Ok(());
        };
        crate::upkeep::tell_damage(node, &step);
        drop(turn);
        let took = executor.now().saturating_duration_since(begun);
        executor
            .sleep((took / SCRUB_JOB_REST_PART).max(REST_MIN))
            .await;
    }
}

/// Lets others run, however quick a step was.
const REST_MIN: Duration = Duration::from_millis(1);

async fn scrub_stopped<D: Disk>(store: Rc<Store<D>>, damaged_stretches: u64) -> Found {
    let mut meter = Meter::new();
    let mut pass = ScrubPass::new(&store);
    let (mut lost, mut unreadable) = (Vec::new(), Vec::new());
    let error = loop {
        match pass.step().await {
            Ok(Some(step)) => {
                let room = SCRUB_LOST_NAMED_MAX - lost.len();
                lost.extend(step.lost.iter().take(room).map(LostPiece::new));
                if let Some(error) = step.unreadable {
                    let blob = UnreadableBlob {
                        blob: step.blob.to_string(),
                        error: error.to_string(),
                    };
                    if unreadable.len() < SCRUB_LOST_NAMED_MAX {
                        unreadable.push(blob);
                    }
                }
                meter.show(|| said(&pass.figures()));
            }
            Ok(None) => break String::new(),
            Err(error) => break error.to_string(),
        }
    };
    let figures = ScrubFigures {
        damaged_stretches,
        ..pass.figures()
    };
    Found {
        figures,
        lost,
        unreadable,
        error,
    }
}

fn said(figures: &ScrubFigures) -> String {
    format!(
        "scrubbing: {} of {}, {} pieces damaged",
        human_bytes(figures.read_bytes),
        human_bytes(figures.total_bytes.max(figures.read_bytes)),
        with_separators(figures.damaged_pieces)
    )
}

impl ScrubReport {
    /// Lines for people: what is lost, the sums, and what to do.
    #[must_use]
    pub fn for_people(&self) -> String {
        let mut out = String::new();
        let (figures, dir) = (&self.figures, &self.directory);
        // Writing to a String cannot fail.
        for piece in &self.lost {
            let LostPiece {
                satellite,
                piece_id,
                damage,
            } = piece;
            let _ = writeln!(
                out,
                "piece {piece_id} of satellite {satellite} is lost: {damage} is damaged"
            );
        }
        for UnreadableBlob { blob, error } in &self.unreadable {
            let _ = writeln!(out, "blob {blob} cannot be read: {error}");
        }
        let unnamed = figures.lost_pieces - self.lost.len() as u64;
        if !self.running && unnamed > 0 {
            let _ = writeln!(out, "{} more are lost", with_separators(unnamed));
        }
        let _ = writeln!(
            out,
            "read {}: {} records, {} of them damaged",
            human_bytes(figures.read_bytes),
            with_separators(figures.records),
            with_separators(figures.damaged_records),
        );
        if figures.damaged_headers + figures.damaged_stretches > 0 {
            let _ = writeln!(
                out,
                "{} blob headers or footers and {} stretches of blobs are damaged, and what depends on them was not checked: stop the \
                 node and run `piecestore verify --dir {dir}`, which names what they cost",
                with_separators(figures.damaged_headers),
                with_separators(figures.damaged_stretches),
            );
        }
        if figures.unreadable_blobs > 0 {
            let _ = writeln!(
                out,
                "{} blobs cannot be read at all and were passed; what is in them is not known to be lost: check the disk (dmesg, smartctl) and \
                 scrub again",
                with_separators(figures.unreadable_blobs)
            );
        }
        if figures.lost_pieces + figures.damaged_pieces > 0 {
            let _ = writeln!(
                out,
                "{} pieces were found damaged, and {} are out of service in all: {}",
                with_separators(figures.lost_pieces),
                with_separators(figures.damaged_pieces),
                self.advice()
            );
        }
        if !self.error.is_empty() {
            let _ = writeln!(
                out,
                "the scrub ended early: {}; check the disk (dmesg, smartctl) and run it again",
                self.error
            );
        } else if self.ok {
            let _ = writeln!(out, "no piece is damaged");
        }
        out
    }

    fn advice(&self) -> String {
        let dir = &self.directory;
        if self.running {
            "the node's log names them, and the satellite hears of them at the next check-in; check the disk (dmesg, smartctl) before it \
             loses more"
                .to_owned()
        } else {
            format!(
                "check the disk (dmesg, smartctl), start the node with `piecestore run --dir {dir}`, and scrub it again, because only a \
                 running node tells the satellite"
            )
        }
    }
}

impl LostPiece {
    fn new(piece: &strand_blob::LostPiece) -> Self {
        Self {
            satellite: NodeId::from(piece.satellite).to_string(),
            piece_id: PieceId::from(piece.id).to_string(),
            damage: piece.damage.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use bytes::Bytes;
    use strand_blob::disk::sim::SimDisk;
    use strand_blob::{NewPiece, StoreOptions};

    use super::*;
    use crate::core::simulated::SimExecutor;

    const NODE: [u8; 32] = [2; 32];

    /// Each piece is a blob of its own.
    async fn store(executor: &SimExecutor, pieces: u8) -> Rc<Store<SimDisk>> {
        store_and_disk(executor, pieces).await.1
    }

    async fn store_and_disk(executor: &SimExecutor, pieces: u8) -> (SimDisk, Rc<Store<SimDisk>>) {
        let mut options = StoreOptions::new(NODE, 1 << 30);
        options.blob_records_max = 1;
        // All of a blob is read.
        options.ahead_bytes = 0;
        let disk = SimDisk::new(1);
        let opened = Store::open(disk.clone(), options, 0, &mut |bytes: &mut [u8]| {
            bytes.fill(7)
        })
        .await;
        let (store, _) = opened.unwrap();
        executor.spawn(Rc::clone(&store).run_commits());
        for key in 0..pieces {
            store.put(piece(key)).await.unwrap();
        }
        (disk, store)
    }

    fn piece(key: u8) -> NewPiece {
        let body = vec![key; 9_000];
        let mut hasher = strand_codec::PieceHasher::new(body.len() as u64);
        hasher.push_share(&body);
        NewPiece {
            satellite: [1; 32],
            id: [key; 32],
            created_s: 0,
            expiry_s: 0,
            root: hasher.finish().root,
            crcs: strand_blob::share_crcs(&body),
            body: vec![Bytes::from(body)],
            share_hashes: Vec::new(),
            path: Vec::new(),
            commitment: [0; 32],
        }
    }

    #[test]
    fn a_scrub_ends_though_puts_go_on_as_fast_as_it_reads() {
        let executor = SimExecutor::new(1);
        let inner = executor.clone();
        executor.run(async move {
            let store = store(&inner, 5).await;
            let mut pass = ScrubPass::new(&store);
            pass.read_bytes_max = pass.figures.total_bytes;
            let mut key = 5;
            while pass.step().await.unwrap().is_some() {
                store.put(piece(key)).await.unwrap();
                key += 1;
                assert!(key < 20, "runs after the puts for ever");
            }
            assert!(pass.figures().records >= 5);
            assert!(pass.figures().is_good());
        });
    }

    #[test]
    fn a_scrub_passes_blobs_that_cannot_be_read_but_not_many_in_a_row() {
        let executor = SimExecutor::new(1);
        let inner = executor.clone();
        executor.run(async move {
            // Of a sealed blob that cannot be read nobody knows where its records lie. The ninth is not sealed.
            let (disk, store) = store_and_disk(&inner, 9).await;
            for blob in [1, 2, 4, 5] {
                disk.fail_reads(BlobId(blob));
            }
            let mut pass = ScrubPass::new(&store);
            while pass.step().await.unwrap().is_some() {}
            let figures = pass.figures();
            assert_eq!((figures.unreadable_blobs, figures.records), (4, 5));
            assert_eq!(figures.damaged_pieces, 0);
            assert!(!figures.is_good());
            disk.fail_reads(BlobId(3));
            let mut pass = ScrubPass::new(&store);
            assert!(pass.step().await.unwrap().is_some());
            assert!(pass.step().await.unwrap().is_some());
            let ended = pass.step().await.unwrap_err();
            let error = DiskError::Io { errno: 5 };
            let blob = BlobId(3);
            assert_eq!(
                ended,
                ScrubError::Unreadable {
                    count: 3,
                    blob,
                    error
                }
            );
        });
    }

    #[test]
    fn a_running_scrub_waits_for_its_turn_and_gives_it_away_after_each_step() {
        let executor = SimExecutor::new(1);
        let inner = executor.clone();
        executor.run(async move {
            let store = store(&inner, 8).await;
            let (board, turn) = (Rc::new(JobBoard::default()), DiskTurn::default());
            let job = board.ask(JobKind::Scrub);
            let held = turn.try_take().unwrap();
            let (working, theirs) = (Rc::clone(&store), Rc::clone(&board));
            let (their_turn, waiting) = (turn.clone(), inner.clone());
            inner.spawn(async move {
                let node = NodeId::from(NODE);
                let done = scrub_running(node, &working, &theirs, &their_turn, &waiting).await;
                theirs.end(
                    done.err()
                        .map(|error| error.to_string())
                        .unwrap_or_default(),
                );
            });
            inner.sleep(Duration::from_secs(10)).await;
            assert_eq!(board.figures().scrub, ScrubFigures::default(), "no turn");
            drop(held);
            let reads = RefCell::new(Vec::new());
            while board.figures().running {
                // Whenever the turn is free, how far the job is.
                if turn.try_take().is_some() {
                    reads.borrow_mut().push(board.figures().scrub.read_bytes);
                }
                inner.sleep(Duration::from_micros(100)).await;
            }
            let mut reads = reads.take();
            reads.dedup();
            assert!(reads.len() > 8, "not between any two steps: {reads:?}");
            let figures = board.figures();
            assert_eq!((figures.job, figures.error.as_str()), (job.job, ""));
            assert!(figures.scrub.records >= 8 && figures.scrub.is_good());
        });
    }
}
