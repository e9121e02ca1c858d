//! What the demo found out, as a table for people and as one JSON object for programs.
//!
//! Rates count user bytes; MB is 10^6 and GB 10^9 bytes. What does not exist (a rate per GB of nothing) is null.

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use crate::units::human_bytes;

/// One transfer, measured from before the client's start to after its end.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Phase {
    /// Wall-clock time.
    pub seconds: f64,
    /// CPU seconds of the client.
    pub client_cpu_seconds: f64,
    /// CPU seconds of all node processes.
    pub node_cpu_seconds: f64,
    /// CPU seconds during which the machine was busy, whoever made it so.
    pub machine_cpu_seconds: f64,
    /// Largest resident memory of the client.
    pub client_peak_rss_bytes: u64,
}

impl Phase {
    /// User bytes per second.
    pub fn bytes_per_second(&self, bytes: u64) -> f64 {
        if self.seconds > 0.0 {
            bytes as f64 / self.seconds
        } else {
            0.0
        }
    }
}

/// Everything the demo says at its end.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Whether both downloads were the file, byte for byte, and the counters hold.
    pub verified: bool,
    /// User bytes.
    pub bytes: u64,
    /// Nodes in the network.
    pub nodes: usize,
    /// The segments' scheme, `required/repair/optimal/total`; empty if nothing was erasure-coded.
    pub scheme: String,
    /// Segments that have pieces.
    pub coded_segments: usize,
    /// Segments stored inline.
    pub inline_segments: usize,
    /// Committed pieces.
    pub pieces: u64,
    /// Their bytes.
    pub piece_bytes: u64,
    /// What the nodes' folders occupy on disk after the upload.
    pub disk_bytes_used: u64,
    /// The transfers.
    pub up: Phase,
    /// Download before the damage.
    pub down: Phase,
    /// Download after the damage.
    pub damaged: Phase,
    /// Largest sum over the node processes.
    pub node_peak_rss_anon_bytes: u64,
    /// Largest single node process.
    pub node_process_peak_rss_anon_bytes: u64,
    /// Largest resident memory of the satellite.
    pub satellite_peak_rss_bytes: u64,
    /// Pieces stopped, deleted and altered, over all segments.
    pub damaged_pieces: DamagedPieces,
    /// Data pieces lost, least over the segments.
    pub data_pieces_lost: usize,
    /// Altered pieces whose node the client named, least over the segments.
    pub liars_named: usize,
    /// Pieces that the damaged download replaced, by its own account.
    pub replaced: u64,
    /// The seed of content and damage.
    pub seed: u64,
    /// The nodes' counters.
    pub counters: Path,
}

/// Damage by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DamagedPieces {
    /// In the stopped process.
    pub stopped: usize,
    /// Deleted by their nodes.
    pub deleted: usize,
    /// Altered on disk.
    pub altered: usize,
}

/// The path the bytes took, from the nodes' counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Path {
    /// Share of received datagrams that came by multishot receives.
    pub multishot_share: Option<f64>,
    /// Datagrams received by nodes.
    pub datagrams_received: u64,
    /// Mean datagrams of a GSO train, during the healthy download.
    pub gso_train_mean: Option<f64>,
    /// Mean datagrams of a send, single datagrams such as acks included, during the healthy download.
    pub send_datagrams_mean: Option<f64>,
    /// Bytes written through the rings.
    pub ring_write_bytes: u64,
    /// Body bytes of all pieces stored, those dropped later included.
    pub piece_bytes_stored: u64,
    /// Puts acknowledged.
    pub acks: u64,
    /// Pieces stored.
    pub pieces_stored: u64,
    /// Acks that left before their fdatasync.
    pub acks_before_sync: u64,
    /// Syncs of the stores.
    pub syncs: u64,
}

#[derive(Serialize)]
struct Json<'a> {
    verified: bool,
    size_bytes: u64,
    nodes: usize,
    scheme: &'a str,
    segments: usize,
    inline_segments: usize,
    pieces: u64,
    piece_bytes: u64,
    expansion: Option<f64>,
    disk_bytes_used: u64,
    upload_seconds: f64,
    download_seconds: f64,
    download_damaged_seconds: f64,
    upload_bytes_per_s: f64,
    download_bytes_per_s: f64,
    download_damaged_bytes_per_s: f64,
    client_cpu_s_per_gb_up: Option<f64>,
    client_cpu_s_per_gb_down: Option<f64>,
    client_cpu_s_per_gb_down_damaged: Option<f64>,
    node_cpu_s_per_gb_up: Option<f64>,
    node_cpu_s_per_gb_down: Option<f64>,
    node_cpu_s_per_gb_down_damaged: Option<f64>,
    machine_cpu_s_per_gb_up: Option<f64>,
    machine_cpu_s_per_gb_down: Option<f64>,
    machine_cpu_s_per_gb_down_damaged: Option<f64>,
    client_peak_rss_bytes: u64,
    node_peak_rss_anon_bytes: u64,
    satellite_peak_rss_bytes: u64,
    data_pieces_lost: usize,
    liars_named: usize,
    pieces_stopped: usize,
    pieces_deleted: usize,
    pieces_altered: usize,
    replaced: u64,
    seed: u64,
    #[serde(flatten)]
    counters: Path,
}

impl Report {
    /// Committed piece bytes per user byte; none at 0 bytes.
    pub fn expansion(&self) -> Option<f64> {
        (self.bytes > 0).then(|| self.piece_bytes as f64 / self.bytes as f64)
    }

    /// The client's largest resident memory over all transfers.
    pub fn client_peak_rss_bytes(&self) -> u64 {
        [self.up, self.down, self.damaged]
            .iter()
            .map(|phase| phase.client_peak_rss_bytes)
            .max()
            .unwrap_or(0)
    }

    /// One JSON object.
    pub fn to_json(&self) -> serde_json::Value {
        let per_gb =
            |cpu_seconds: f64| (self.bytes > 0).then(|| cpu_seconds * 1e9 / self.bytes as f64);
        let json = Json {
            verified: self.verified,
            size_bytes: self.bytes,
            nodes: self.nodes,
            scheme: &self.scheme,
            segments: self.coded_segments + self.inline_segments,
            inline_segments: self.inline_segments,
            pieces: self.pieces,
            piece_bytes: self.piece_bytes,
            expansion: self.expansion(),
            disk_bytes_used: self.disk_bytes_used,
            upload_seconds: self.up.seconds,
            download_seconds: self.down.seconds,
            download_damaged_seconds: self.damaged.seconds,
            upload_bytes_per_s: self.up.bytes_per_second(self.bytes),
            download_bytes_per_s: self.down.bytes_per_second(self.bytes),
            download_damaged_bytes_per_s: self.damaged.bytes_per_second(self.bytes),
            client_cpu_s_per_gb_up: per_gb(self.up.client_cpu_seconds),
            client_cpu_s_per_gb_down: per_gb(self.down.client_cpu_seconds),
            client_cpu_s_per_gb_down_damaged: per_gb(self.damaged.client_cpu_seconds),
            node_cpu_s_per_gb_up: per_gb(self.up.node_cpu_seconds),
            node_cpu_s_per_gb_down: per_gb(self.down.node_cpu_seconds),
            node_cpu_s_per_gb_down_damaged: per_gb(self.damaged.node_cpu_seconds),
            machine_cpu_s_per_gb_up: per_gb(self.up.machine_cpu_seconds),
            machine_cpu_s_per_gb_down: per_gb(self.down.machine_cpu_seconds),
            machine_cpu_s_per_gb_down_damaged: per_gb(self.damaged.machine_cpu_seconds),
            client_peak_rss_bytes: self.client_peak_rss_bytes(),
            node_peak_rss_anon_bytes: self.node_peak_rss_anon_bytes,
            satellite_peak_rss_bytes: self.satellite_peak_rss_bytes,
            data_pieces_lost: self.data_pieces_lost,
            liars_named: self.liars_named,
            pieces_stopped: self.damaged_pieces.stopped,
            pieces_deleted: self.damaged_pieces.deleted,
            pieces_altered: self.damaged_pieces.altered,
            replaced: self.replaced,
            seed: self.seed,
            counters: self.counters,
        };
        serde_json::to_value(json).expect("numbers and strings have a JSON form")
    }

    /// The last line of a demo that went well.
    pub fn verdict(&self) -> String {
        let size = human_bytes(self.bytes);
        if self.coded_segments == 0 {
            return format!("VERIFIED: {size} came back byte for byte");
        }
        let DamagedPieces {
            stopped,
            deleted,
            altered,
        } = self.damaged_pieces;
        format!(
            "VERIFIED: {size} came back byte for byte, healthy and with {} of {} pieces gone",
            stopped + deleted + altered,
            self.pieces
        )
    }

    /// Two short tables: the transfers, then what was stored and damaged.
    pub fn to_table(&self) -> String {
        let mut transfers = Table::new();
        transfers.load_style(presets::NOTHING);
        transfers.set_header(["", "up", "down healthy", "down damaged"]);
        let phases = [self.up, self.down, self.damaged];
        let mut row = |name: &str, value: &dyn Fn(&Phase) -> String| {
            let mut cells = vec![name.to_owned()];
            cells.extend(phases.iter().map(value));
            transfers.add_row(cells);
        };
        let per_gb = |cpu_seconds: f64| {
            if self.bytes == 0 {
                "-".to_owned()
            } else {
                format!("{:.2}", cpu_seconds * 1e9 / self.bytes as f64)
            }
        };
        row("seconds", &|phase| format!("{:.2}", phase.seconds));
        row("MB/s", &|phase| {
            format!("{:.1}", phase.bytes_per_second(self.bytes) / 1e6)
        });
        row("CPU-s/GB, client", &|phase| {
            per_gb(phase.client_cpu_seconds)
        });
        row("CPU-s/GB, nodes", &|phase| per_gb(phase.node_cpu_seconds));
        row("CPU-s/GB, whole machine", &|phase| {
            per_gb(phase.machine_cpu_seconds)
        });
        row("peak memory, client", &|phase| {
            human_bytes(phase.client_peak_rss_bytes)
        });
        for column in 1..=3 {
            if let Some(column) = transfers.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }

        let mut facts = Table::new();
        facts.load_style(presets::NOTHING);
        for (name, value) in self.facts() {
            facts.add_row([name.to_owned(), value]);
        }
        let lines: Vec<String> = transfers
            .lines()
            .chain(facts.lines())
            .map(|line| line.trim_end().to_owned())
            .collect();
        lines.join("\n")
    }

    fn facts(&self) -> Vec<(&'static str, String)> {
        let mut facts = vec![("file", human_bytes(self.bytes))];
        if self.coded_segments == 0 {
            facts.push(("stored", "inline, nothing to damage".to_owned()));
        } else {
            let inline = if self.inline_segments > 0 {
                format!(", {} more inline", self.inline_segments)
            } else {
                String::new()
            };
            facts.push((
                "stored",
                format!(
                    "{} pieces of {} segments ({}){inline}, {}",
                    self.pieces,
                    self.coded_segments,
                    self.scheme,
                    human_bytes(self.piece_bytes)
                ),
            ));
        }
        facts.push((
            "expansion",
            self.expansion()
                .map_or_else(|| "-".to_owned(), |x| format!("{x:.3}")),
        ));
        facts.push(("disk used by nodes", human_bytes(self.disk_bytes_used)));
        facts.push((
            "peak memory, nodes",
            format!(
                "{} anonymous in all, {} in one process",
                human_bytes(self.node_peak_rss_anon_bytes),
                human_bytes(self.node_process_peak_rss_anon_bytes)
            ),
        ));
        facts.push((
            "peak memory, satellite",
            human_bytes(self.satellite_peak_rss_bytes),
        ));
        if self.coded_segments > 0 {
            let DamagedPieces {
                stopped,
                deleted,
                altered,
            } = self.damaged_pieces;
            facts.push((
                "damage",
                format!(
                    "{} of {} pieces: {stopped} stopped, {deleted} deleted, {altered} altered (seed {})",
                    stopped + deleted + altered,
                    self.pieces,
                    self.seed
                ),
            ));
            facts.push((
                "data pieces lost",
                format!("{} (least over segments)", self.data_pieces_lost),
            ));
            facts.push((
                "liars named",
                format!("{} (least over segments)", self.liars_named),
            ));
        } else {
            facts.push(("seed", self.seed.to_string()));
        }
        let counters = &self.counters;
        let or_dash = |value: Option<f64>, text: &dyn Fn(f64) -> String| {
            value.map_or_else(|| "-".to_owned(), text)
        };
        facts.push((
            "nodes' path",
            format!(
                "{} by multishot receive, {} datagrams a GSO train, {} acks of {} pieces, {} before sync",
                or_dash(counters.multishot_share, &|share| format!("{:.2} %", share * 100.0)),
                or_dash(counters.gso_train_mean, &|mean| format!("{mean:.1}")),
                counters.acks,
                counters.pieces_stored,
                counters.acks_before_sync
            ),
        ));
        facts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The keys that docs and scripts rely on.
    const KEYS: &[&str] = &[
        "verified",
        "upload_bytes_per_s",
        "download_bytes_per_s",
        "download_damaged_bytes_per_s",
        "client_cpu_s_per_gb_up",
        "client_cpu_s_per_gb_down",
        "node_cpu_s_per_gb_up",
        "node_cpu_s_per_gb_down",
        "machine_cpu_s_per_gb_up",
        "client_peak_rss_bytes",
        "node_peak_rss_anon_bytes",
        "expansion",
        "disk_bytes_used",
        "data_pieces_lost",
        "liars_named",
        "seed",
        "multishot_share",
        "gso_train_mean",
        "ring_write_bytes",
        "piece_bytes",
        "acks",
        "pieces_stored",
        "acks_before_sync",
        "replaced",
    ];

    fn report(bytes: u64) -> Report {
        let phase = Phase {
            seconds: 2.0,
            client_cpu_seconds: 1.0,
            node_cpu_seconds: 3.0,
            machine_cpu_seconds: 4.5,
            client_peak_rss_bytes: 100 << 20,
        };
        Report {
            verified: true,
            bytes,
            nodes: 110,
            scheme: "29/52/80/93".to_owned(),
            coded_segments: usize::from(bytes > 16_384),
            inline_segments: usize::from(bytes <= 16_384),
            pieces: if bytes > 16_384 { 80 } else { 0 },
            piece_bytes: if bytes > 16_384 { bytes * 80 / 29 } else { 0 },
            disk_bytes_used: 1 << 30,
            up: phase,
            down: phase,
            damaged: Phase {
                client_peak_rss_bytes: 300 << 20,
                ..phase
            },
            node_peak_rss_anon_bytes: 500 << 20,
            node_process_peak_rss_anon_bytes: 110 << 20,
            satellite_peak_rss_bytes: 30 << 20,
            damaged_pieces: DamagedPieces {
                stopped: 16,
                deleted: 17,
                altered: 18,
            },
            data_pieces_lost: 17,
            liars_named: 18,
            replaced: 51,
            seed: 7,
            counters: Path::default(),
        }
    }

    #[test]
    fn the_json_has_every_promised_key() {
        let json = report(1_000_000).to_json();
        for key in KEYS {
            assert!(json.get(key).is_some(), "{key}");
        }
        assert_eq!(json["upload_bytes_per_s"], 500_000.0);
        assert_eq!(json["node_cpu_s_per_gb_up"], 3_000.0);
        assert_eq!(json["client_peak_rss_bytes"], 300 << 20);
    }

    #[test]
    fn zero_bytes_have_no_expansion() {
        let report = report(0);
        let json = report.to_json();
        assert!(json["expansion"].is_null());
        assert!(json["client_cpu_s_per_gb_up"].is_null());
        assert_eq!(json["upload_bytes_per_s"], 0.0);
        assert!(report.to_table().contains("inline, nothing to damage"));
        assert_eq!(report.verdict(), "VERIFIED: 0 B came back byte for byte");
    }

    #[test]
    fn the_table_names_what_was_damaged() {
        let table = report(1_000_000).to_table();
        assert!(
            table.contains("51 of 80 pieces: 16 stopped, 17 deleted, 18 altered (seed 7)"),
            "{table}"
        );
        assert!(!table.contains("inline"), "{table}");
    }
}
