//! `piecestore verify`: reads everything that a stopped node has, and says what is wrong and what it costs.
//!
//! Holds the directory's lock, so no node starts meanwhile, and writes nothing: it may be interrupted at any moment.
//! Names in the JSON are read by scripts; they are added to, not changed.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use futures_lite::future::block_on;
use serde::Serialize;
use strand_blob::verify::{Finding, PieceName, Progress, RootHash, Verdict};
use strand_blob::{DiskError, verify};
use strand_codec::{PieceHasher, SHARE_BYTES};
use strand_protocol::limits::PIECE_BYTES_MAX;
use strand_protocol::{NodeId, PieceId};

use crate::directory::{Directory, DirectoryError};
use crate::meter::Meter;
use crate::offline::OfflineDisk;
use crate::space::with_separators;
use crate::status::human_bytes;

/// Bytes of one read: enough to keep a spinning disk at its speed.
const READ_AHEAD_BYTES: usize = 4 << 20;

/// What was found, for scripts.
#[derive(Debug, Serialize)]
pub struct VerifyReport {
    /// Text form.
    pub node_id: String,
    /// Where its files are.
    pub directory: String,
    /// Whether nothing is wrong.
    pub ok: bool,
    /// Blob files.
    pub blobs: u64,
    /// Those of them with a good footer.
    pub sealed_blobs: u64,
    /// All blob files together.
    pub file_bytes: u64,
    /// Bytes that were read from the disk.
    pub read_bytes: u64,
    /// Commit groups.
    pub groups: u64,
    /// Records of all kinds.
    pub records: u64,
    /// Pieces that can be read whole, trashed ones included.
    pub pieces: u64,
    /// Those of them that are in the trash.
    pub trashed_pieces: u64,
    /// Bytes of their bodies.
    pub piece_bytes: u64,
    /// What a crash left unfinished: no fault.
    pub torn_bytes: u64,
    /// Pieces that cannot be read any more.
    pub lost_pieces: u64,
    /// Bytes of their bodies.
    pub lost_bytes: u64,
    /// Damaged bytes of which nobody knows what they held.
    pub unknown_bytes: u64,
    /// Which pieces are lost.
    pub lost: Vec<LostPiece>,
    /// What is wrong and where.
    pub faults: Vec<FaultFigures>,
}

/// One lost piece.
#[derive(Debug, Serialize)]
pub struct LostPiece {
    /// Node id of the satellite, text form.
    pub satellite: String,
    /// Text form.
    pub piece_id: String,
    /// Of its body.
    pub bytes: u64,
}

/// One fault.
#[derive(Debug, Serialize)]
pub struct FaultFigures {
    /// The file's stem.
    pub blob: String,
    /// Where in the file.
    pub offset: u64,
    /// How far, as far as known.
    pub len: u64,
    /// A sentence.
    pub fault: String,
    /// Whose bytes, where known.
    pub satellite: Option<String>,
    /// Whose bytes, where known.
    pub piece_id: Option<String>,
    /// Whether that piece is lost by it.
    pub lost: bool,
}

/// Why a directory was not verified. Each message is one sentence.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// A node runs on it.
    #[error("node in {0} is running, and what changes cannot be verified: stop it first")]
    Running(PathBuf),
    /// Its directory.
    #[error(transparent)]
    Directory(DirectoryError),
    /// Its blobs.
    #[error("cannot read the blobs in {path}: {error}")]
    Disk {
        /// The node's directory.
        path: PathBuf,
        /// The disk's answer.
        error: DiskError,
    },
}

/// Reads everything. Progress goes to standard error.
pub fn check(path: &Path) -> Result<VerifyReport, VerifyError> {
    let directory = Directory::inspect(path).map_err(|error| match error {
        DirectoryError::Locked(path) => VerifyError::Running(path),
        error => VerifyError::Directory(error),
    })?;
    let node_id = directory.config().node_id;
    let disk = OfflineDisk::new(&directory.blobs(), READ_AHEAD_BYTES);
    let read_bytes = disk.bytes_read();
    let mut meter = Meter::new();
    let mut key = [0; 32];
    crate::node::fill_random(&mut key);
    let verdict = block_on(verify::verify_content(
        &disk,
        *node_id.as_bytes(),
        key,
        Some(&mut PieceRoots::default()),
        &mut |now| {
            meter.show(|| said(now));
        },
    ));
    meter.end("verified");
    let verdict = verdict.map_err(|error| VerifyError::Disk {
        path: path.to_owned(),
        error,
    })?;
    Ok(VerifyReport::new(node_id, path, &verdict, read_bytes.get()))
}

/// The roots of pieces, share by share.
#[derive(Default)]
struct PieceRoots {
    hasher: Option<PieceHasher>,
    missing_bytes: u64,
}

impl RootHash for PieceRoots {
    fn begin(&mut self, body_len: u64) {
        let is_piece = (1..=PIECE_BYTES_MAX).contains(&body_len);
        self.hasher = is_piece.then(|| PieceHasher::new(body_len));
        self.missing_bytes = body_len;
    }

    fn share(&mut self, share: &[u8]) {
        // A share that the file ends in is a fault already, and nobody asks for a root then.
        let wanted = self.missing_bytes.min(SHARE_BYTES as u64);
        match &mut self.hasher {
            Some(hasher) if share.len() as u64 == wanted => hasher.push_share(share),
            _ => self.hasher = None,
        }
        self.missing_bytes -= wanted;
    }

    fn root(&mut self) -> [u8; 32] {
        self.hasher
            .take()
            .map_or([0; 32], |hasher| hasher.finish().root)
    }
}

fn said(now: &Progress) -> String {
    format!(
        "verifying: {} of {}, blob {}, {} faults",
        human_bytes(now.bytes_done),
        human_bytes(now.bytes_total),
        now.blob,
        now.findings
    )
}

impl VerifyReport {
    fn new(node_id: NodeId, path: &Path, verdict: &Verdict, read_bytes: u64) -> Self {
        let lost: Vec<LostPiece> = verdict.lost().iter().map(LostPiece::new).collect();
        Self {
            node_id: node_id.to_string(),
            directory: path.display().to_string(),
            ok: verdict.is_good(),
            blobs: verdict.blobs,
            sealed_blobs: verdict.sealed_blobs,
            file_bytes: verdict.file_bytes,
            read_bytes,
            groups: verdict.groups,
            records: verdict.records,
            pieces: verdict.pieces,
            trashed_pieces: verdict.trashed_pieces,
            piece_bytes: verdict.piece_bytes,
            torn_bytes: verdict.torn_bytes,
            lost_pieces: lost.len() as u64,
            lost_bytes: lost.iter().map(|piece| piece.bytes).sum(),
            unknown_bytes: verdict.unknown_bytes,
            lost,
            faults: verdict.findings.iter().map(FaultFigures::new).collect(),
        }
    }

    /// Lines for people: faults first, the sum at the end.
    #[must_use]
    pub fn for_people(&self) -> String {
        let mut out = String::new();
        // Writing to a String cannot fail.
        for fault in &self.faults {
            let _ = write!(
                out,
                "blob {}, offset {}, {} bytes: {}",
                fault.blob, fault.offset, fault.len, fault.fault
            );
            if let (Some(satellite), Some(piece)) = (&fault.satellite, &fault.piece_id) {
                let end = if fault.lost {
                    "is lost"
                } else {
                    "was deleted, replaced, or has a good copy"
                };
                let _ = write!(out, "; piece {piece} of satellite {satellite} {end}");
            }
            out.push('\n');
        }
        let _ = writeln!(
            out,
            "read {} of {} blobs ({} sealed): {} records, {} pieces with {} are good",
            human_bytes(self.read_bytes),
            self.blobs,
            self.sealed_blobs,
            with_separators(self.records),
            with_separators(self.pieces),
            human_bytes(self.piece_bytes),
        );
        if self.torn_bytes > 0 {
            let _ = writeln!(
                out,
                "a crash left {} unfinished; nothing of it was acknowledged",
                human_bytes(self.torn_bytes)
            );
        }
        let _ = if self.ok {
            writeln!(out, "nothing is wrong")
        } else {
            writeln!(
                out,
                "{} faults: {} pieces with {} bytes are lost, and {} bytes of which nobody knows what they held",
                self.faults.len(),
                with_separators(self.lost_pieces),
                with_separators(self.lost_bytes),
                with_separators(self.unknown_bytes),
            )
        };
        out
    }
}

impl LostPiece {
    fn new(piece: &PieceName) -> Self {
        Self {
            satellite: NodeId::from(piece.satellite).to_string(),
            piece_id: PieceId::from(piece.id).to_string(),
            bytes: piece.body_len,
        }
    }
}

impl FaultFigures {
    fn new(finding: &Finding) -> Self {
        let piece = finding.piece.as_ref();
        Self {
            blob: finding.blob.to_string(),
            offset: finding.offset,
            len: finding.len,
            fault: finding.fault.to_string(),
            satellite: piece.map(|piece| NodeId::from(piece.satellite).to_string()),
            piece_id: piece.map(|piece| PieceId::from(piece.id).to_string()),
            lost: finding.is_lost,
        }
    }
}
