//! What a node says of itself through its admin socket: the JSON of `piecestore status --json`.
//!
//! Names here are read by scripts; they are added to, not changed.

use std::fmt::Write;

use serde::{Deserialize, Serialize};
use strand_blob::{DiskError, OpenProgress, PoisonCause, Space, StoreCounters, WriteOperation};

use crate::budget::BudgetUse;
use crate::check_in::Standing;
use crate::core::CoreCounters;
use crate::gc::CollectionFigures;
use crate::serve::{AdmissionUse, RequestCounters};
use crate::watch::DiskState;

/// One node at one moment.
#[derive(Debug, Serialize)]
pub struct Status {
    /// Of the program.
    pub version: &'static str,
    /// Text form.
    pub node_id: String,
    /// `NODEID@HOST:PORT`.
    pub satellite: String,
    /// Where its files are.
    pub directory: String,
    /// Where its socket is bound.
    pub listen: String,
    /// As set by the owner; empty: as the satellite sees it.
    pub advertise: String,
    /// The process that serves it. Core counters are shared by the nodes of one core.
    pub process_id: u32,
    /// The core within the process.
    pub core_index: usize,
    /// What that core moves bytes with: `io_uring`, or `plain` system calls.
    #[serde(default)]
    pub io: String,
    /// Process start, milliseconds since 1970.
    pub started_ms: u64,
    /// Seconds since then.
    pub uptime_s: u64,
    /// Its satellite's view.
    pub standing: Standing,
    /// Satellite time minus ours.
    pub clock_offset_ms: i64,
    /// Limits remembered as used.
    pub serials: usize,
    /// How the last collection of garbage went.
    pub collection: CollectionFigures,
    /// Whether its store is open, and how far that is.
    pub opening: OpeningFigures,
    /// Whether the disk failed a write: nothing more is stored until a restart.
    pub read_only: bool,
    /// Why, and what to do; empty if it is not.
    pub read_only_reason: String,
    /// How its disk is.
    pub disk: DiskFigures,
    /// Where its bytes are.
    pub space: SpaceFigures,
    /// What was asked of it.
    pub requests: RequestCounters,
    /// Memory for bodies coming in, shared by the core's nodes.
    pub write_budget: AdmissionUse,
    /// Memory for bodies going out, shared by the core's nodes.
    pub read_budget: AdmissionUse,
    /// Memory that connections may pin beside those, shared by the core's nodes.
    pub connection_budget: BudgetUse,
    /// The store's and the core's counts, since the start.
    pub counters: CounterFigures,
}

/// How far the opening of a node's store is. Until it is open all other figures of the store but its files' bytes are 0.
#[derive(Clone, Debug, Serialize)]
pub struct OpeningFigures {
    /// Whether it is open.
    pub is_open: bool,
    /// Bytes of blobs that were read, or need not be.
    pub bytes_done: u64,
    /// Bytes of all blobs.
    pub bytes_total: u64,
    /// The first of the second.
    pub percent: u32,
    /// What that means; empty once it is open.
    pub sentence: String,
}

impl OpeningFigures {
    /// What an opening says of itself.
    #[must_use]
    pub fn new(progress: &OpenProgress, is_open: bool) -> Self {
        let sentence = if is_open {
            String::new()
        } else {
            let how_far = Self::how_far(progress);
            format!("{how_far}; until then requests for pieces are answered as busy")
        };
        Self {
            is_open,
            bytes_done: progress.bytes_done(),
            bytes_total: progress.bytes_total(),
            percent: progress.percent(),
            sentence,
        }
    }

    /// How far an opening is that has not ended.
    pub(crate) fn how_far(progress: &OpenProgress) -> String {
        let (percent, total) = (progress.percent(), human_bytes(progress.bytes_total()));
        format!("the index is being rebuilt, {percent} % of {total} read")
    }
}

/// How a node's disk is.
#[derive(Clone, Debug, Serialize)]
pub struct DiskFigures {
    /// `fine`, `full`, `failed` (a write or sync failed; see `read_only_reason`), `read-only`, `hangs` or `detached`.
    pub state: &'static str,
    /// What is wrong and what to do; empty if nothing is.
    pub sentence: String,
}

impl DiskFigures {
    /// The most telling of what is known.
    #[must_use]
    pub fn new(state: DiskState, has_failed: bool, has_room: bool) -> Self {
        let (state, sentence) = match (state, has_failed, has_room) {
            (DiskState::Fine, false, true) => ("fine", ""),
            (DiskState::Fine, false, false) => (
                "full",
                "the disk or the capacity offered is used up: no new pieces are taken; pieces are still served and deleted",
            ),
            // Its own sentence is in `read_only_reason`.
            (DiskState::Fine, true, _) => ("failed", ""),
            (state, ..) => (state.word(), state.sentence()),
        };
        Self {
            state,
            sentence: sentence.to_owned(),
        }
    }
}

/// [`Space`] in JSON.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct SpaceFigures {
    /// Offered by the owner.
    pub capacity_bytes: u64,
    /// Left for pieces.
    pub free_bytes: u64,
    /// Left on the disk.
    pub disk_free_bytes: u64,
    /// All blob files together: the sum of the seven below.
    pub file_bytes: u64,
    /// Bodies of pieces that can be read.
    pub live_bytes: u64,
    /// Bodies of trashed pieces, which can be restored for seven days.
    #[serde(default)]
    pub trash_bytes: u64,
    /// Bodies of deleted or damaged pieces.
    pub dead_bytes: u64,
    /// Record headers, trailers, tombstones, group headers.
    pub overhead_bytes: u64,
    /// Zeros up to the next step or block.
    pub padding_bytes: u64,
    /// Blob headers.
    pub header_bytes: u64,
    /// Torn, rotten or never written.
    pub skipped_bytes: u64,
    /// Promised to what is being written.
    pub reserved_bytes: u64,
}

/// [`StoreCounters`] and [`CoreCounters`] in one flat object.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct CounterFigures {
    /// Pieces held now.
    pub pieces: u64,
    /// Pieces in the trash now.
    pub trashed: u64,
    /// Damaged pieces out of service now.
    pub damaged: u64,
    /// Pieces stored anew.
    pub pieces_stored: u64,
    /// Their bodies.
    pub piece_bytes_stored: u64,
    /// Tombstones made durable.
    pub tombstones: u64,
    /// Durable answers.
    pub acks: u64,
    /// Puts of what was there already.
    pub acks_again: u64,
    /// Must stay 0.
    pub acks_before_sync: u64,
    /// Commit groups written.
    pub groups: u64,
    /// Syncs.
    pub syncs: u64,
    /// Bytes written by the store.
    pub bytes_written: u64,
    /// Bodies among them.
    pub piece_bytes_written: u64,
    /// Shares read and checked.
    pub shares_read: u64,
    /// Reads that met damage.
    pub corrupt_reads: u64,
    /// Blobs created.
    pub blobs_created: u64,
    /// Shared by the core's nodes.
    #[serde(flatten)]
    pub core: CoreCounters,
}

impl SpaceFigures {
    /// What is known of a store that is not open.
    #[must_use]
    pub fn unopened(capacity_bytes: u64, progress: &OpenProgress) -> Self {
        Self {
            capacity_bytes,
            file_bytes: progress.bytes_total(),
            ..Self::default()
        }
    }
}

impl From<Space> for SpaceFigures {
    fn from(space: Space) -> Self {
        Self {
            capacity_bytes: space.capacity_bytes,
            free_bytes: space.free_bytes(),
            disk_free_bytes: space.disk_free_bytes,
            file_bytes: space.file_bytes,
            live_bytes: space.live_bytes,
            trash_bytes: space.trash_bytes,
            dead_bytes: space.dead_bytes,
            overhead_bytes: space.overhead_bytes,
            padding_bytes: space.padding_bytes,
            header_bytes: space.header_bytes,
            skipped_bytes: space.skipped_bytes,
            reserved_bytes: space.reserved_bytes,
        }
    }
}

impl CounterFigures {
    /// A node's counts beside its core's.
    #[must_use]
    pub fn new(store: &StoreCounters, core: CoreCounters) -> Self {
        Self {
            pieces: store.pieces,
            trashed: store.trashed,
            damaged: store.damaged,
            pieces_stored: store.pieces_stored,
            piece_bytes_stored: store.piece_bytes_stored,
            tombstones: store.tombstones,
            acks: store.acks,
            acks_again: store.acks_again,
            acks_before_sync: store.acks_before_sync,
            groups: store.groups,
            syncs: store.syncs,
            bytes_written: store.bytes_written,
            piece_bytes_written: store.piece_bytes_written,
            shares_read: store.shares_read,
            corrupt_reads: store.corrupt_reads,
            blobs_created: store.blobs_created,
            core,
        }
    }
}

/// A number of bytes for people: three digits and a unit.
#[must_use]
pub fn human_bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1000.0;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let decimals = if value < 9.995 {
        2
    } else {
        usize::from(value < 99.95)
    };
    format!("{value:.decimals$} {}", UNITS[unit])
}

/// Why a node stores nothing more, and what to do: one sentence.
#[must_use]
pub fn disk_trouble(cause: &PoisonCause) -> String {
    let what = match cause.operation {
        WriteOperation::Create => "could not make",
        WriteOperation::Write => "could not write",
        WriteOperation::Sync => "could not sync",
        WriteOperation::Remove => "could not remove",
    };
    let blob = cause.blob;
    let next = "pieces are still served, and nothing more is stored until the disk is checked and the node started again";
    match cause.error {
        DiskError::Io { errno: libc::EROFS } => format!(
            "{what} blob {blob}: the disk is mounted read-only, as the kernel does after errors (see dmesg); {next}"
        ),
        DiskError::Io {
            errno: libc::ETIMEDOUT,
        } => format!("{what} blob {blob}: the disk does not answer; {next}"),
        DiskError::Io { errno } => {
            let error = std::io::Error::from_raw_os_error(errno);
            format!("{what} blob {blob}: {error}; {next}")
        }
        error => format!("{what} blob {blob}: {error}; {next}"),
    }
}

/// A status, as its JSON, in a few lines for people.
#[must_use]
pub fn for_people(status: &serde_json::Value) -> String {
    let text = |pointer: &str| {
        status
            .pointer(pointer)
            .and_then(|value| value.as_str())
            .unwrap_or("")
            .to_owned()
    };
    let number = |pointer: &str| {
        status
            .pointer(pointer)
            .and_then(serde_json::Value::as_u64)
            .unwrap_or(0)
    };
    let mut out = String::new();
    let mut line = |name: &str, value: String| {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{name:<11}{value}");
    };
    line("node", text("/node_id"));
    line("directory", text("/directory"));
    line("satellite", text("/satellite"));
    line("listens on", text("/listen"));
    if text("/io") == "plain" {
        line(
            "speed",
            "no io_uring: a gigabyte takes up to twice the processor time (the log says why)"
                .to_owned(),
        );
    }
    let reason = text("/standing/reason");
    line(
        "reachable",
        match status
            .pointer("/standing/reachable")
            .and_then(serde_json::Value::as_bool)
        {
            Some(true) => format!("yes, seen at {}", text("/standing/observed")),
            Some(false) => format!("no: {reason}"),
            None if reason.is_empty() => "not known yet".to_owned(),
            None => format!("not known yet: {reason}"),
        },
    );
    let advice = status.pointer("/standing/advice");
    let advice = advice.and_then(serde_json::Value::as_array);
    for (number, sentence) in advice.into_iter().flatten().enumerate() {
        let name = if number == 0 { "  to check" } else { "" };
        line(name, sentence.as_str().unwrap_or_default().to_owned());
    }
    let opening = text("/opening/sentence");
    if !opening.is_empty() {
        line("index", opening);
    }
    line(
        "space",
        format!(
            "{} used of {}, {} free",
            human_bytes(number("/space/file_bytes")),
            human_bytes(number("/space/capacity_bytes")),
            human_bytes(number("/space/free_bytes"))
        ),
    );
    line(
        "pieces",
        format!(
            "{}, {} of content",
            number("/counters/pieces"),
            human_bytes(number("/space/live_bytes"))
        ),
    );
    line(
        "requests",
        format!(
            "{} puts, {} gets, {} deletes since the start, {} running",
            number("/requests/puts"),
            number("/requests/gets"),
            number("/requests/deletes"),
            number("/requests/in_flight")
        ),
    );
    if number("/collection/run") > 0 {
        let now_ms = number("/started_ms") + 1000 * number("/uptime_s");
        let minutes = now_ms.saturating_sub(number("/collection/at_ms")) / 60_000;
        let error = text("/collection/error");
        let mut said = if error.is_empty() {
            format!(
                "collected {minutes} min ago: {} of {} pieces went into the trash, {}",
                number("/collection/trashed"),
                number("/collection/examined"),
                human_bytes(number("/collection/trashed_bytes"))
            )
        } else {
            format!("not collected {minutes} min ago, tried again: {error}")
        };
        if number("/collection/refused_parts") > 0 {
            // Writing to a String cannot fail.
            let _ = write!(
                said,
                "; {} filters were refused, which would have trashed {} of {} pieces",
                number("/collection/refused_parts"),
                number("/collection/would_trash"),
                number("/collection/would_trash_of")
            );
        }
        line("garbage", said);
    }
    if status
        .pointer("/read_only")
        .and_then(serde_json::Value::as_bool)
        == Some(true)
    {
        let reason = text("/read_only_reason");
        line("disk", reason);
    }
    let sentence = text("/disk/sentence");
    if !sentence.is_empty() {
        line("disk", sentence);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_for_people_have_three_digits() {
        for (bytes, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.00 kB"),
            (9_994, "9.99 kB"),
            (9_996, "10.0 kB"),
            (99_960, "100 kB"),
            (999_499, "999 kB"),
            (999_500, "1.00 MB"),
            (2_000_000_000_000, "2.00 TB"),
            (u64::MAX, "18.4 EB"),
        ] {
            assert_eq!(human_bytes(bytes), text);
        }
    }

    #[test]
    fn a_nodes_status_for_people_says_what_to_check() {
        let status = serde_json::json!({
            "node_id": "abc",
            "standing": {"reachable": false, "reason": "time-out", "advice": ["the router", "the firewall"]},
            "space": {"file_bytes": 1500, "capacity_bytes": 2_000_000, "free_bytes": 1_998_500},
        });
        let text = for_people(&status);
        assert!(!text.contains("garbage"), "{text}");
        assert!(
            text.contains(
                "reachable  no: time-out\n  to check the router\n           the firewall\n"
            ),
            "{text}"
        );
        assert!(text.contains("1.50 kB used of 2.00 MB"), "{text}");
    }

    #[test]
    fn a_nodes_status_for_people_says_how_garbage_was_collected() {
        let said = |collection: serde_json::Value| {
            let status = serde_json::json!({
                "started_ms": 1_000_000, "uptime_s": 600, "collection": collection,
            });
            let text = for_people(&status);
            let line = text.lines().find(|line| line.starts_with("garbage"));
            line.unwrap_or_default().to_owned()
        };
        assert_eq!(
            said(serde_json::json!({
                "run": 7, "at_ms": 1_420_000, "examined": 90, "trashed": 2, "trashed_bytes": 1500,
            })),
            "garbage    collected 3 min ago: 2 of 90 pieces went into the trash, 1.50 kB"
        );
        assert!(
            said(serde_json::json!({
                "run": 7, "at_ms": 1_420_000, "refused_parts": 1, "would_trash": 120, "would_trash_of": 130,
            }))
            .ends_with("; 1 filters were refused, which would have trashed 120 of 130 pieces")
        );
        assert_eq!(
            said(serde_json::json!({"run": 7, "at_ms": 1_600_000, "error": "no answer"})),
            "garbage    not collected 0 min ago, tried again: no answer"
        );
    }
}
