//! The demo's own claims: it verifies, and its counters prove the path that the bytes took.

use std::process::Command;

use serde_json::Value;
use strand_perf::part;

use crate::support::{PROGRAM, turn};

fn demo(arguments: &[&str]) -> Value {
    let _turn = turn();
    let mut command = Command::new(PROGRAM);
    command
        .args(["demo", "--json", "--dir", env!("CARGO_TARGET_TMPDIR")])
        .args(arguments);
    let finished = part::run("strand-perf demo", command).unwrap();
    assert!(
        finished.is_success(),
        "{arguments:?}: {}{}",
        String::from_utf8_lossy(&finished.stdout),
        finished.stderr
    );
    let json: Value = serde_json::from_slice(&finished.stdout).unwrap();
    assert_eq!(json["verified"], true);
    json
}

fn number(json: &Value, key: &str) -> f64 {
    json[key]
        .as_f64()
        .unwrap_or_else(|| panic!("{key} is {}", json[key]))
}

/// Goal: the data path is the one that the design names. Method: the full network of 110 nodes, a file of one full segment,
/// so that pieces are long enough for trains; the counters of all node cores.
#[test]
fn the_counters_prove_the_path() {
    let json = demo(&["--size", "64MiB", "--seed", "1"]);
    assert!(number(&json, "multishot_share") >= 0.99, "{json:#}");
    assert!(number(&json, "gso_train_mean") >= 8.0, "{json:#}");
    assert!(
        number(&json, "ring_write_bytes") >= number(&json, "piece_bytes_stored"),
        "{json:#}"
    );
    assert!(
        number(&json, "piece_bytes_stored") >= number(&json, "piece_bytes"),
        "{json:#}"
    );
    assert_eq!(json["acks"], json["pieces_stored"], "{json:#}");
    assert!(
        number(&json, "pieces_stored") >= number(&json, "pieces"),
        "{json:#}"
    );
    assert_eq!(json["acks_before_sync"], 0, "{json:#}");

    assert_eq!(json["pieces"], 80, "{json:#}");
    let damaged =
        ["pieces_stopped", "pieces_deleted", "pieces_altered"].map(|key| number(&json, key));
    assert_eq!(damaged.iter().sum::<f64>(), 51.0, "{json:#}");
    assert!(number(&json, "data_pieces_lost") >= 10.0, "{json:#}");
    assert!(number(&json, "liars_named") >= 8.0, "{json:#}");
    assert!(number(&json, "replaced") > 0.0, "{json:#}");
    assert!(number(&json, "expansion") <= 2.85, "{json:#}");
}

#[test]
fn nothing_at_all_is_verified_too() {
    let json = demo(&["--size", "0", "--nodes", "5", "--seed", "1"]);
    assert!(json["expansion"].is_null(), "{json:#}");
    assert_eq!(
        (&json["pieces"], &json["inline_segments"]),
        (&0.into(), &1.into()),
        "{json:#}"
    );
}

#[test]
fn a_small_network_with_a_scheme_of_its_own_verifies() {
    let json = demo(&[
        "--size", "5MB", "--nodes", "10", "--scheme", "4/6/8/10", "--seed", "2",
    ]);
    assert_eq!(json["scheme"], "4/6/8/10");
    assert_eq!(json["pieces"], 8, "{json:#}");
    let damaged =
        ["pieces_stopped", "pieces_deleted", "pieces_altered"].map(|key| number(&json, key));
    assert_eq!(damaged.iter().sum::<f64>(), 4.0, "{json:#}");
}

/// An honest failure: a demo that cannot start says why, begins its last line with FAILED and exits with 1.
#[test]
fn a_demo_without_ground_fails_in_one_line() {
    let mut command = Command::new(PROGRAM);
    command.args(["demo", "--size", "1", "--dir", "/nonexistent"]);
    let finished = part::run("strand-perf demo", command).unwrap();
    assert_eq!(finished.ended.code, Some(1));
    let stdout = String::from_utf8(finished.stdout).unwrap();
    assert_eq!(
        stdout.lines().last(),
        Some("FAILED: /nonexistent: No such file or directory (os error 2)")
    );
}
