//! The store bench at a tiny size: its keys are there, its numbers are numbers, and nothing stays behind.

use std::process::Command;

use crate::support::{PROGRAM, turn};

/// What the bench measures today.
const KEYS: &[&str] = &[
    "raw_write_gb_per_s",
    "put_2m_vs_raw",
    "put_64k_vs_raw",
    "put_4k_vs_group_raw",
    "put_4k_per_s",
    "put_4k_p99_vs_group",
    "lone_put_vs_fdatasync",
    "get_hot_gb_per_s",
    "get_hot_p99_us",
    "get_cold_vs_raw",
    "index_bytes_per_piece",
    "rebuild_s_per_million",
    "disk_per_piece_576",
    "disk_per_piece_2k",
    "disk_per_piece_64k",
    "rss_over_budget",
];

#[test]
fn a_small_store_bench_measures_every_key_and_leaves_nothing() {
    let _turn = turn();
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let output = Command::new(PROGRAM)
        .args(["store", "--json", "--pieces", "4096", "--dir"])
        .arg(dir.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let figures: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    for key in KEYS {
        let value = figures[key].as_f64();
        assert!(
            value.is_some_and(|value| value > 0.0),
            "{key} is {:?}",
            figures[key]
        );
    }
    // Facts of the format that no machine changes: bodies are stored once, and records cost less than a body.
    for key in ["disk_per_piece_2k", "disk_per_piece_64k"] {
        let ratio = figures[key].as_f64().unwrap();
        assert!((1.0..2.0).contains(&ratio), "{key} is {ratio}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_folder_that_is_not_there_is_one_sentence() {
    let output = Command::new(PROGRAM)
        .args(["store", "--dir", "/nonexistent/folder"])
        .output()
        .unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(said.lines().count(), 1, "{said}");
}
