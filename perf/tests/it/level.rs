//! `STRAND_LEVEL` in every program: a level that is not there is said at once, before anything is done.

use std::process::{Command, Output};

use strand_codec::{LEVEL_VARIABLE, Level};

/// Each program with a command that does something, and what it says first in a complaint.
fn programs(dir: &str) -> Vec<(Vec<&str>, &'static str)> {
    vec![
        (
            vec!["part", "piecestore", "status", "--dir", dir],
            "error: ",
        ),
        (
            vec!["part", "satellite", "status", "--dir", dir],
            "satellite: ",
        ),
        (vec!["part", "uplink", "access", "list"], "uplink: "),
        (
            vec!["codec", "--seconds", "0", "--only", "seal"],
            "strand-perf: ",
        ),
        (vec!["store", "--dir", dir], "strand-perf: "),
        (vec!["torture", "--what", "rot"], "strand-perf: "),
        (vec!["demo", "--size", "0"], "strand-perf: "),
    ]
}

fn run(arguments: &[&str], level: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_strand-perf"));
    command
        .args(arguments)
        .env(LEVEL_VARIABLE, level)
        .output()
        .unwrap()
}

#[test]
fn every_program_refuses_a_level_that_is_not_there() {
    let dir = tempfile::tempdir().unwrap();
    let made = dir.path().join("made");
    let known = [
        "scalar",
        "ssse3",
        "avx2",
        "avx512",
        "avx2-gfni",
        "avx512-gfni",
    ];
    let mut wrong = vec!["", "AVX2", "best"];
    wrong.extend(
        known
            .into_iter()
            .find(|name| name.parse::<Level>().is_err()),
    );
    for level in wrong {
        let reason = level.parse::<Level>().unwrap_err();
        for (arguments, speaker) in programs(made.to_str().unwrap()) {
            let output = run(&arguments, level);
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
            assert_eq!(said, format!("{speaker}{LEVEL_VARIABLE}: {reason}\n"));
            assert!(output.stdout.is_empty() && !made.exists(), "{arguments:?}");
        }
    }
}

#[test]
fn a_program_works_at_the_level_of_its_environment() {
    for level in Level::available() {
        let arguments = ["codec", "--seconds", "0", "--only", "rows_3", "--json"];
        let output = run(&arguments, level.name());
        assert!(output.status.success(), "{output:?}");
        let figures: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(figures["level"], level.name());
    }
}
