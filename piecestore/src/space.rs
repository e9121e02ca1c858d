//! `piecestore space`: where a node's disk space went, to the byte.
//!
//! live + trash + dead + overhead + padding + headers and footers + skipped = blob files: the store's own equation, asked of the
//! running node, or worked out anew from the blobs where none runs. Names in the JSON are read by scripts; they are added
//! to, not changed.

use std::fmt::Write;
use std::path::Path;

use futures_lite::future::block_on;
use serde::Serialize;
use strand_blob::{OpenError, Store, StoreOptions};

use crate::admin::{AskError, ask_status};
use crate::config::{Config, ConfigError};
use crate::directory::{Directory, DirectoryError, blobs_of};
use crate::offline::{FilesOnDisk, OfflineDisk, files_on_disk};
use crate::status::{SpaceFigures, human_bytes};

/// A node's space at one moment.
#[derive(Debug, Serialize)]
pub struct SpaceReport {
    /// Text form.
    pub node_id: String,
    /// Where its files are.
    pub directory: String,
    /// Whether the figures are a running node's.
    pub running: bool,
    /// The equation.
    #[serde(flatten)]
    pub space: SpaceFigures,
    /// The seven parts together: equal to `file_bytes`, or something is wrong with this program.
    pub sum_bytes: u64,
    /// Blob files in the folder.
    pub file_count: u64,
    /// Their lengths as the file system says; of a running node some writes later than `file_bytes`.
    pub listed_bytes: u64,
    /// What the file system has given them: `st_blocks` x 512.
    pub allocated_bytes: u64,
}

/// Why the space of a node is not known. Each message is one sentence.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpaceError {
    /// Its settings.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Its directory.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The running node.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// The running node's answer.
    #[error("the node cannot say where its space is: {0}")]
    Answer(String),
    /// Its store.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// Its folder of blobs.
    #[error("cannot list the blobs: {0}")]
    List(std::io::Error),
}

/// Asks the running node, or reads the blobs of one that does not run, under the directory's lock.
pub fn measure(path: &Path) -> Result<SpaceReport, SpaceError> {
    let config = Config::load(path)?;
    match ask_status(path) {
        Ok(json) => {
            let space = parse_answer(&json).map_err(SpaceError::Answer)?;
            report(path, &config, true, space)
        }
        Err(AskError::NotRunning(_)) => {
            let directory = Directory::inspect(path)?;
            let options = StoreOptions::new(*config.node_id.as_bytes(), config.capacity.bytes());
            let disk = OfflineDisk::new(&directory.blobs(), 0);
            // The index's key and the salts are never used: nothing is looked up or written here.
            let (store, _) = block_on(Store::open(disk, options, 0, &mut |bytes| bytes.fill(0)))?;
            report(path, &config, false, store.space().into())
        }
        Err(error) => Err(error.into()),
    }
}

fn parse_answer(json: &str) -> Result<SpaceFigures, String> {
    let status: serde_json::Value =
        serde_json::from_str(json).map_err(|error| error.to_string())?;
    if let Some(error) = status.get("error").and_then(serde_json::Value::as_str) {
        return Err(error.to_owned());
    }
    let space = status.get("space").cloned().unwrap_or_default();
    serde_json::from_value(space).map_err(|error| error.to_string())
}

fn report(
    path: &Path,
    config: &Config,
    running: bool,
    space: SpaceFigures,
) -> Result<SpaceReport, SpaceError> {
    let FilesOnDisk {
        count,
        bytes,
        allocated_bytes,
    } = files_on_disk(&blobs_of(path)).map_err(SpaceError::List)?;
    Ok(SpaceReport {
        node_id: config.node_id.to_string(),
        directory: path.display().to_string(),
        running,
        space,
        sum_bytes: parts(&space).iter().map(|(_, bytes, _)| bytes).sum(),
        file_count: count,
        listed_bytes: bytes,
        allocated_bytes,
    })
}

fn parts(space: &SpaceFigures) -> [(&'static str, u64, &'static str); 7] {
    [
        ("live", space.live_bytes, "pieces that can be read"),
        (
            "trash",
            space.trash_bytes,
            "unwanted pieces, kept for 7 days",
        ),
        (
            "dead",
            space.dead_bytes,
            "pieces deleted, replaced or damaged",
        ),
        (
            "overhead",
            space.overhead_bytes,
            "headers and checksums of records, tombstones",
        ),
        ("padding", space.padding_bytes, "up to the next 64 or 4096"),
        (
            "headers and footers",
            space.header_bytes,
            "of the blob files",
        ),
        (
            "skipped",
            space.skipped_bytes,
            "torn, damaged, unwritten, or zeros written ahead",
        ),
    ]
}

impl SpaceReport {
    /// Whether the parts are the whole.
    #[must_use]
    pub fn adds_up(&self) -> bool {
        self.sum_bytes == self.space.file_bytes
    }

    /// A short table, with the sums.
    #[must_use]
    pub fn for_people(&self) -> String {
        let space = &self.space;
        let mut out = String::new();
        let mut line = |sign: char, name: &str, bytes: u64, note: &str| {
            let (exact, human) = (with_separators(bytes), human_bytes(bytes));
            let row = format!("{sign} {name:<20}{exact:>23}  {human:>8}  {note}");
            // Writing to a String cannot fail.
            let _ = writeln!(out, "{}", row.trim_end());
        };
        for (index, (name, bytes, note)) in parts(space).into_iter().enumerate() {
            line(if index == 0 { ' ' } else { '+' }, name, bytes, note);
        }
        let files = match self.file_count {
            1 => "1 file".to_owned(),
            count => format!("{count} files"),
        };
        line('=', "blob files", self.sum_bytes, &files);
        if !self.adds_up() {
            line(
                '!',
                "but the files have",
                space.file_bytes,
                "please report this",
            );
        }
        line(
            ' ',
            "on the disk",
            self.allocated_bytes,
            "blocks given to the files",
        );
        line(
            ' ',
            "capacity",
            space.capacity_bytes,
            "offered in node.toml",
        );
        line('-', "blob files", space.file_bytes, "");
        line(
            '-',
            "reserved",
            space.reserved_bytes,
            "for writes under way",
        );
        let left = space
            .capacity_bytes
            .saturating_sub(space.file_bytes + space.reserved_bytes);
        line('=', "left of it", left, "");
        line(' ', "free on the disk", space.disk_free_bytes, "");
        line(
            ' ',
            "free for pieces",
            space.free_bytes,
            "the lesser of both",
        );
        out
    }
}

/// Digits in groups of three.
pub(crate) fn with_separators(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_come_in_threes() {
        for (number, text) in [
            (0, "0"),
            (999, "999"),
            (1_000, "1,000"),
            (1_234_567, "1,234,567"),
            (u64::MAX, "18,446,744,073,709,551,615"),
        ] {
            assert_eq!(with_separators(number), text);
        }
    }

    #[test]
    fn a_sum_that_is_off_is_said_in_the_table() {
        let mut report = SpaceReport {
            node_id: String::new(),
            directory: String::new(),
            running: false,
            space: SpaceFigures {
                live_bytes: 1_000,
                header_bytes: 24,
                file_bytes: 1_024,
                ..SpaceFigures::default()
            },
            sum_bytes: 1_024,
            file_count: 1,
            listed_bytes: 1_024,
            allocated_bytes: 4_096,
        };
        assert!(report.adds_up());
        assert!(!report.for_people().contains("but the files"));
        report.space.file_bytes += 1;
        let text = report.for_people();
        assert!(text.contains("! but the files have"), "{text}");
        assert!(text.contains("1,025"), "{text}");
    }
}
