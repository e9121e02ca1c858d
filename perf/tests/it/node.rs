//! `strand-perf node`, shortened: both sides of every row do the same work, and what is read is what was put.

use std::process::Command;

use serde_json::Value;

use crate::support::{PROGRAM, turn};

/// Of each row: its name, and the key of its ratio.
const ROWS: &[(&str, &str)] = &[
    ("ingest", "ingest_vs_tokio_cpu"),
    ("serve", "serve_vs_tokio_cpu"),
    ("small_put", "small_put_vs_tokio"),
    ("ingest_jumbo", "ingest_jumbo_vs_tokio_cpu"),
    ("uring", "uring_vs_plain_cpu"),
    ("way_in", "way_in_vs_tokio_cpu"),
    ("way_out", "way_out_vs_tokio_cpu"),
    ("baseline", "baseline_vs_quinn_bulk"),
];

#[test]
fn every_row_is_measured_on_both_sides() {
    let _turn = turn();
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let output = Command::new(PROGRAM)
        .args([
            "node",
            "--rounds",
            "1",
            "--requests",
            "20",
            "--json",
            "--dir",
        ])
        .arg(dir.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let figures: Value = serde_json::from_slice(&output.stdout).unwrap();
    for (row, ratio) in ROWS {
        let keys = [
            "cpu_s_per_gb",
            "machine_s_per_gb",
            "load_s_per_gb",
            "p99_us",
        ];
        let sides = ["", "_peer"].map(|side| keys.map(|key| format!("{row}{side}_{key}")));
        for key in sides.concat().iter().map(String::as_str).chain([*ratio]) {
            let value = figures[key].as_f64();
            // The machine's time comes in hundredths of a second, of which so short a turn may take none.
            let is_measured = value.is_some_and(|value| value > 0.0 || key.contains("machine"));
            assert!(is_measured, "{key}: {value:?}");
        }
    }
    for (key, least) in [
        ("idle_connections", 20.0),
        ("idle_bytes_per_conn", 0.0),
        ("idle_p99_ratio", 0.001),
        ("slow_goodput_ratio", 0.1),
        ("slow_senders_admitted", 1.0),
        ("slow_churn_begun", 1.0),
        ("slow_initials_begun", 10.0),
        ("amplification", 0.001),
    ] {
        let value = figures[key].as_f64();
        assert!(
            value.is_some_and(|value| value >= least),
            "{key}: {value:?}"
        );
    }
    for key in ["idle_connections_closed", "slow_churn_failed"] {
        assert_eq!(figures[key], 0.0, "{key}");
    }
    let left = std::fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(left, 0, "the bench leaves nothing behind");
}

#[test]
fn a_row_that_is_not_there_is_an_error() {
    let output = Command::new(PROGRAM)
        .args(["node", "--row", "swallow"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("no row begins with"), "{said}");
}
