//! `piecestore scrub`: reads everything that a node has stored, once and now, and takes out of service what is damaged.
//!
//! A running node does it itself, as a job: it names what it lost in its log, and its satellite hears of it as of every lost piece. Of a
//! stopped node the command opens the store under the directory's lock, as the node would; what it finds is printed and not kept, because
//! a damaged piece has another chance at every start. Either way nothing of what is stored changes, and it may be interrupted at any moment.
//! Names in the JSON are read by scripts; they are added to, not changed.

use std::fmt::Write as _;
use std::path::Path;

use serde::{Deserialize, Serialize};
use strand_blob::{Disk, DiskError, ScrubCursor, ScrubStep, Store};
use strand_protocol::{NodeId, PieceId};

use crate::admin::{AskError, begin_job};
use crate::config::Config;
use crate::directory::DirectoryError;
use crate::jobs::{JobFigures, JobKind};
use crate::limits::{SCRUB_GROWTH_BYTES_MAX, SCRUB_LOST_NAMED_MAX, SCRUB_STEP_BYTES};
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
    /// How long it took.
    pub seconds: f64,
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
        }
    }

    /// Reads on for one step; `None` once everything has been read. Dropping the call is safe.
    ///
    /// # Errors
    ///
    /// If the disk reads nothing of a blob. The next call would try the same one again.
    pub async fn step(&mut self) -> Result<Option<ScrubStep>, DiskError> {
        // Blobs are read in the order in which they were made: by then everything that was there at the beginning has been read,
        // and what puts go on adding was checked as it came.
        if self.figures.read_bytes > self.read_bytes_max {
            return Ok(None);
        }
        let step = self.store.scrub_step(self.cursor, SCRUB_STEP_BYTES).await?;
        let figures = &mut self.figures;
        if let Some(step) = &step {
            self.cursor = step.next;
            figures.read_bytes += step.bytes_read;
            figures.records += step.records;
            figures.damaged_records += step.damaged_records;
            figures.damaged_headers += step.damaged_headers;
            figures.lost_pieces += step.lost.len() as u64;
        }
        figures.damaged_pieces = self.store.counters().damaged;
        Ok(step)
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
        self.lost_pieces + self.damaged_pieces + self.damaged_headers + self.damaged_stretches == 0
    }
}

/// What the scrub of a stopped node's store gives.
struct Found {
    figures: ScrubFigures,
    lost: Vec<LostPiece>,
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
        seconds,
    })
}

async fn scrub_stopped<D: Disk>(store: std::rc::Rc<Store<D>>, damaged_stretches: u64) -> Found {
    let mut meter = Meter::new();
    let mut pass = ScrubPass::new(&store);
    let mut lost = Vec::new();
    let error = loop {
        match pass.step().await {
            Ok(Some(step)) => {
                let room = SCRUB_LOST_NAMED_MAX - lost.len();
                lost.extend(step.lost.iter().take(room).map(LostPiece::new));
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
                "piece {piece_id} of satellite {satellite} is lost: {damage}"
            );
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
