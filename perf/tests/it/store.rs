//! The store bench at a tiny size: its keys are there, its numbers are numbers, and nothing stays behind.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use strand_perf::part::Running;

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
    "start_s_per_million",
    "disk_per_piece_576",
    "disk_per_piece_2k",
    "disk_per_piece_64k",
    "rss_over_budget",
    "get_hot_cpu_s_per_gb",
    "compaction_p99_ratio",
    "reclaimed_share",
    "write_amplification",
    "compaction_load_kept",
    "best_peer_4k_ratio",
    "best_peer_64k_ratio",
];

/// Speaks for peers that the bench would build for minutes: a slow one and a fast one.
const PEERS: &str = "#!/bin/sh\necho '{\"slow\": 10, \"fast\": 1000}'\n";

#[test]
fn a_small_store_bench_measures_every_key_and_leaves_nothing() {
    let _turn = turn();
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let tools = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let peers = tools.path().join("peers");
    fs::write(&peers, PEERS).unwrap();
    fs::set_permissions(&peers, fs::Permissions::from_mode(0o755)).unwrap();
    let output = Command::new(PROGRAM)
        .args(["store", "--json", "--pieces", "4096", "--dir"])
        .arg(dir.path())
        .arg("--peers")
        .arg(&peers)
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
    let ratio = |key: &str| figures[key].as_f64().unwrap();
    assert!(ratio("reclaimed_share") <= 1.0 && ratio("write_amplification") >= 1.0);
    assert!(said.contains("fast 1000, slow 10; best fast"), "{said}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_store_bench_that_is_stopped_leaves_nothing() {
    let _turn = turn();
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut command = Command::new(PROGRAM);
    command
        .args(["store", "--no-peers", "--pieces", "1M", "--dir"])
        .arg(dir.path());
    let mut bench = Running::start("strand-perf store", command).unwrap();
    // Its first store has files: the watch for signals was there before.
    let started = Instant::now();
    while files_below(dir.path()) == 0 {
        assert!(
            started.elapsed() < Duration::from_secs(60),
            "nothing is put"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    bench.part().signal(libc::SIGINT).unwrap();
    let finished = bench.finish().unwrap();
    assert_eq!(finished.ended.code, Some(130), "{}", finished.stderr);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

/// Files in all folders below; one that goes meanwhile does not matter.
fn files_below(folder: &Path) -> usize {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.path() {
            path if path.is_dir() => files_below(&path),
            _ => 1,
        })
        .sum()
}

#[test]
fn a_number_of_pieces_is_read_as_people_write_it() {
    let ask = |pieces: &str| {
        let output = Command::new(PROGRAM)
            .args(["store", "--dir", "/nonexistent/folder", "--pieces", pieces])
            .output()
            .unwrap();
        String::from_utf8(output.stderr).unwrap()
    };
    for good in ["64", "20000", "500k", "10M"] {
        assert!(ask(good).contains("/nonexistent/folder"), "{good}");
    }
    for bad in ["0", "63", "101M", "1.5M", "M", "10G", ""] {
        assert!(
            ask(bad).contains("is not a number from 64 to 100M"),
            "{bad}"
        );
    }
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
