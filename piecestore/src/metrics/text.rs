//! From the nodes' status to the text.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::Value;

use crate::core::CoreCounters;
use crate::serve::BUCKETS_US;

/// One figure of each node.
struct Figure {
    name: &'static str,
    kind: Kind,
    help: &'static str,
    /// Where it stands in the status.
    at: &'static str,
}

#[derive(Clone, Copy)]
enum Kind {
    Counter,
    Gauge,
}

const fn counter(name: &'static str, at: &'static str, help: &'static str) -> Figure {
    Figure {
        name,
        kind: Kind::Counter,
        help,
        at,
    }
}

const fn gauge(name: &'static str, at: &'static str, help: &'static str) -> Figure {
    Figure {
        name,
        kind: Kind::Gauge,
        help,
        at,
    }
}

/// The space equation: the bytes of all blob files are the sum of these.
const SPACE_PARTS: [&str; 7] = [
    "live", "trash", "dead", "overhead", "padding", "header", "skipped",
];

const STATES: [&str; 6] = ["fine", "full", "failed", "read-only", "hangs", "detached"];

const VERBS: [(&str, &str); 4] = [
    ("put", "puts"),
    ("get", "gets"),
    ("delete", "deletes"),
    ("ping", "pings"),
];

const FIGURES: &[Figure] = &[
    gauge("uptime_seconds", "/uptime_s", "Since the process started."),
    gauge(
        "reachable",
        "/standing/reachable",
        "1 if the satellite's dial-back reached the node at its last check-in, 0 if not; absent while that is unknown.",
    ),
    gauge(
        "store_open",
        "/opening/is_open",
        "1 once the index is there; until then requests for pieces are answered as busy.",
    ),
    gauge(
        "read_only",
        "/read_only",
        "1 if nothing more is stored until the disk was checked and the node started again.",
    ),
    gauge(
        "capacity_bytes",
        "/space/capacity_bytes",
        "Offered by the owner.",
    ),
    gauge("free_bytes", "/space/free_bytes", "Left for pieces."),
    gauge(
        "disk_free_bytes",
        "/space/disk_free_bytes",
        "Left on the disk.",
    ),
    gauge(
        "file_bytes",
        "/space/file_bytes",
        "All blob files: the sum of space_bytes over its parts.",
    ),
    gauge(
        "reserved_bytes",
        "/space/reserved_bytes",
        "Promised to what is being written.",
    ),
    gauge("pieces", "/counters/pieces", "Pieces held."),
    gauge(
        "trashed_pieces",
        "/counters/trashed",
        "Pieces in the trash.",
    ),
    gauge(
        "damaged_pieces",
        "/counters/damaged",
        "Damaged pieces, out of service.",
    ),
    counter(
        "pieces_stored_total",
        "/counters/pieces_stored",
        "Pieces stored anew.",
    ),
    counter(
        "piece_bytes_stored_total",
        "/counters/piece_bytes_stored",
        "Their bodies.",
    ),
    counter(
        "tombstones_total",
        "/counters/tombstones",
        "Deletes made durable.",
    ),
    counter("acks_total", "/counters/acks", "Durable answers."),
    counter(
        "acks_again_total",
        "/counters/acks_again",
        "Puts of what was there already.",
    ),
    counter(
        "acks_before_sync_total",
        "/counters/acks_before_sync",
        "Answers given before what they promise was durable. Must stay 0.",
    ),
    counter("groups_total", "/counters/groups", "Commit groups written."),
    counter("syncs_total", "/counters/syncs", "Syncs of blobs."),
    counter(
        "store_written_bytes_total",
        "/counters/bytes_written",
        "Bytes written by the store.",
    ),
    counter(
        "shares_read_total",
        "/counters/shares_read",
        "Shares read and checked.",
    ),
    counter(
        "corrupt_reads_total",
        "/counters/corrupt_reads",
        "Reads that met damage.",
    ),
    gauge(
        "requests_in_flight",
        "/requests/in_flight",
        "Requests running.",
    ),
];

/// Memory for bodies on their way in and out and for connections, of each core: name, kind, where it stands in the budget, help.
const BUDGET_FIGURES: [(&str, Kind, &str, &str); 4] = [
    (
        "core_budget_used_bytes",
        Kind::Gauge,
        "bytes_used",
        "Memory for bodies on their way, in use.",
    ),
    (
        "core_budget_limit_bytes",
        Kind::Gauge,
        "bytes_max",
        "Memory for bodies on their way, at most.",
    ),
    (
        "core_budget_refused_total",
        Kind::Counter,
        "refused",
        "Requests that found it full and were told that the node is busy.",
    ),
    (
        "core_budget_cut_total",
        Kind::Counter,
        "cut",
        "Slow bodies that were cut off because others found it full.",
    ),
];

/// The text for the nodes of a process: each one's directory and status, `None` if its core did not answer.
#[must_use]
pub fn render(nodes: &[(String, Option<Value>)]) -> String {
    let mut text = Text(String::new());
    text.family("up", Kind::Gauge, "1 if the node's core answered.");
    for (directory, status) in nodes {
        let labels = [("directory", &**directory)];
        text.sample("up", &labels, u64::from(status.is_some()));
    }
    let statuses: Vec<&Value> = nodes
        .iter()
        .filter_map(|(_, status)| status.as_ref())
        .collect();
    text.nodes(&statuses);
    text.cores(&statuses);
    text.0
}

struct Text(String);

impl Text {
    fn nodes(&mut self, statuses: &[&Value]) {
        self.family("node_info", Kind::Gauge, "What a node is; always 1.");
        for status in statuses {
            let text = |at| {
                status
                    .pointer(at)
                    .and_then(Value::as_str)
                    .unwrap_or_default()
            };
            let labels = [
                ("node", node(status)),
                ("version", text("/version")),
                ("satellite", text("/satellite")),
                ("directory", text("/directory")),
                ("io", text("/io")),
                ("core", &*core(status)),
            ];
            self.sample("node_info", &labels, 1);
        }
        for figure in FIGURES {
            self.family(figure.name, figure.kind, figure.help);
            for status in statuses {
                if let Some(value) = status.pointer(figure.at).and_then(number) {
                    self.sample(figure.name, &[("node", node(status))], value);
                }
            }
        }
        self.family(
            "space_bytes",
            Kind::Gauge,
            "Where the bytes of the blob files are.",
        );
        for status in statuses {
            for part in SPACE_PARTS {
                let at = format!("/space/{part}_bytes");
                let value = status.pointer(&at).and_then(number).unwrap_or_default();
                self.sample(
                    "space_bytes",
                    &[("node", node(status)), ("part", part)],
                    value,
                );
            }
        }
        self.family(
            "disk_state",
            Kind::Gauge,
            "1 for the state that the disk is in.",
        );
        for status in statuses {
            let now = status.pointer("/disk/state").and_then(Value::as_str);
            for state in STATES {
                let labels = [("node", node(status)), ("state", state)];
                self.sample("disk_state", &labels, u64::from(now == Some(state)));
            }
        }
        self.requests(statuses);
    }

    fn requests(&mut self, statuses: &[&Value]) {
        self.family(
            "requests_total",
            Kind::Counter,
            "Requests, whatever became of them.",
        );
        for status in statuses {
            for (verb, count) in VERBS {
                let at = format!("/requests/{count}");
                let value = status.pointer(&at).and_then(number).unwrap_or_default();
                self.sample(
                    "requests_total",
                    &[("node", node(status)), ("verb", verb)],
                    value,
                );
            }
        }
        self.family(
            "request_errors_total",
            Kind::Counter,
            "Requests that failed, by the code that the peer was given.",
        );
        for status in statuses {
            let errors = status
                .pointer("/requests/errors")
                .and_then(Value::as_object);
            for (code, count) in errors.into_iter().flatten() {
                let labels = [("node", node(status)), ("code", code)];
                let count = number(count).unwrap_or_default();
                self.sample("request_errors_total", &labels, count);
            }
        }
        let name = "request_duration_seconds";
        self.head(
            name,
            "histogram",
            "Requests answered without an error, from their stream to the last byte of the answer.",
        );
        for status in statuses {
            for (verb, _) in VERBS {
                self.histogram(name, status, verb);
            }
        }
    }

    fn histogram(&mut self, name: &str, status: &Value, verb: &str) {
        let Some(latencies) = status.pointer(&format!("/requests/latency/{verb}")) else {
            return;
        };
        let count_of = |bucket: usize| latencies["counts"][bucket].as_u64().unwrap_or_default();
        let mut sum = 0;
        for (bucket, longest_us) in BUCKETS_US.iter().enumerate() {
            sum += count_of(bucket);
            let longest = seconds(*longest_us);
            let labels = [("node", node(status)), ("verb", verb), ("le", &longest)];
            self.sample(&format!("{name}_bucket"), &labels, sum);
        }
        sum += count_of(BUCKETS_US.len());
        let labels = [("node", node(status)), ("verb", verb), ("le", "+Inf")];
        self.sample(&format!("{name}_bucket"), &labels, sum);
        let sum_us = latencies["sum_us"].as_u64().unwrap_or_default();
        self.sample(&format!("{name}_sum"), &labels[..2], seconds(sum_us));
        self.sample(&format!("{name}_count"), &labels[..2], sum);
    }

    /// What the nodes of a core share, once for each core.
    fn cores(&mut self, statuses: &[&Value]) {
        let cores: BTreeMap<String, &Value> = statuses
            .iter()
            .map(|status| (core(status), *status))
            .collect();
        for (name, help) in CoreCounters::NAMES {
            let metric = format!("core_{name}_total");
            self.family(&metric, Kind::Counter, help.trim());
            for (core, status) in &cores {
                let at = format!("/counters/{name}");
                let value = status.pointer(&at).and_then(number).unwrap_or_default();
                self.sample(&metric, &[("core", core)], value);
            }
        }
        for (name, kind, at, help) in BUDGET_FIGURES {
            self.family(name, kind, help);
            for (core, status) in &cores {
                for budget in ["write", "read", "connection"] {
                    let value = status.pointer(&format!("/{budget}_budget/{at}"));
                    let labels = [("core", &**core), ("budget", budget)];
                    self.sample(name, &labels, value.and_then(number).unwrap_or_default());
                }
            }
        }
    }

    fn family(&mut self, name: &str, kind: Kind, help: &str) {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        self.head(name, kind, help);
    }

    // Writing to a String cannot fail.
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let help = help.replace('\\', r"\\").replace('\n', r"\n");
        let _ = write!(
            self.0,
            "# HELP strand_{name} {help}\n# TYPE strand_{name} {kind}\n"
        );
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        let labels: Vec<String> = labels
            .iter()
            .map(|(label, value)| format!("{label}=\"{}\"", escape(value)))
            .collect();
        let _ = writeln!(self.0, "strand_{name}{{{}}} {value}", labels.join(","));
    }
}

fn node(status: &Value) -> &str {
    status["node_id"].as_str().unwrap_or_default()
}

fn core(status: &Value) -> String {
    status["core_index"].to_string()
}

/// Numbers, and truth as 1.
fn number(value: &Value) -> Option<u64> {
    value.as_bool().map(u64::from).or_else(|| value.as_u64())
}

fn seconds(us: u64) -> String {
    (us as f64 / 1e6).to_string()
}

fn escape(value: &str) -> String {
    value
        .replace('\\', r"\\")
        .replace('"', "\\\"")
        .replace('\n', r"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sample_follows_its_own_head_and_labels_are_escaped() {
        let status = serde_json::json!({
            "node_id": "abc", "core_index": 1, "directory": "/a \"b\"\\c", "uptime_s": 7,
            "standing": {"reachable": null}, "opening": {"is_open": true},
            "requests": {"puts": 3, "errors": {"BUSY": 2}, "latency": {"put": {
                "counts": [0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2], "sum_us": 200_000_150,
            }}},
            "space": {"live_bytes": 5}, "counters": {"bytes_sent": 9}, "disk": {"state": "full"},
            "write_budget": {"bytes_used": 4, "bytes_max": 8},
        });
        let nodes = [
            ("/a \"b\"\\c".to_owned(), Some(status)),
            ("/d".to_owned(), None),
        ];
        let text = render(&nodes);
        for line in [
            r#"strand_up{directory="/a \"b\"\\c"} 1"#,
            r#"strand_up{directory="/d"} 0"#,
            r#"strand_uptime_seconds{node="abc"} 7"#,
            r#"strand_store_open{node="abc"} 1"#,
            r#"strand_space_bytes{node="abc",part="live"} 5"#,
            r#"strand_disk_state{node="abc",state="full"} 1"#,
            r#"strand_disk_state{node="abc",state="fine"} 0"#,
            r#"strand_requests_total{node="abc",verb="put"} 3"#,
            r#"strand_request_errors_total{node="abc",code="BUSY"} 2"#,
            r#"strand_request_duration_seconds_bucket{node="abc",verb="put",le="0.0001"} 0"#,
            r#"strand_request_duration_seconds_bucket{node="abc",verb="put",le="100"} 1"#,
            r#"strand_request_duration_seconds_bucket{node="abc",verb="put",le="+Inf"} 3"#,
            r#"strand_request_duration_seconds_sum{node="abc",verb="put"} 200.00015"#,
            r#"strand_request_duration_seconds_count{node="abc",verb="put"} 3"#,
            r#"strand_core_bytes_sent_total{core="1"} 9"#,
            r#"strand_core_budget_limit_bytes{core="1",budget="write"} 8"#,
        ] {
            assert!(text.lines().any(|other| other == line), "{line}\n{text}");
        }
        assert!(!text.contains("strand_reachable{"), "it is unknown\n{text}");
        let mut family = "";
        let mut seen = std::collections::HashSet::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                family = rest.split(' ').next().unwrap();
                assert!(seen.insert(family), "{family} has two heads");
            } else if !line.starts_with('#') {
                assert!(line.starts_with(family), "{line} under {family}");
            }
        }
    }
}
