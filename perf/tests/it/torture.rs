//! The torture at a small size: it proves something, kills a real process, says what it did, and replays what it is told to.

use std::process::Command;

use crate::support::{PROGRAM, turn};

fn run(arguments: &[&str]) -> (serde_json::Value, Option<i32>) {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let output = Command::new(PROGRAM)
        .args(["torture", "--json", "--dir"])
        .arg(dir.path())
        .args(arguments)
        .output()
        .unwrap();
    assert_eq!(
        std::fs::read_dir(dir.path()).unwrap().count(),
        0,
        "left behind"
    );
    let said = serde_json::from_slice(&output.stdout);
    let said = said.unwrap_or_else(|error| panic!("{error}: {output:?}"));
    (said, output.status.code())
}

#[test]
fn a_short_torture_kills_and_simulates_and_finds_nothing() {
    let _turn = turn();
    let what = [
        "--what",
        "sim,store,states,kill",
        "--seed",
        "0",
        "--kills",
        "4",
    ];
    let (said, code) = run(&what);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(said["violations"], serde_json::json!([]));
    assert_eq!(
        (&said["kills"], &said["lost_pieces"]),
        (&4.into(), &0.into())
    );
    assert_eq!(said["sim_seeds"], 1);
    for (key, least) in [
        ("crash_states", 100),
        ("acked_pieces_checked", 1_000),
        ("speedup_over_real_time", 1),
    ] {
        assert!(said[key].as_u64() >= Some(least), "{key}: {said}");
    }
    assert!(said.get("planted_bugs").is_none(), "not asked for");
}

#[test]
fn one_scenario_of_the_sweep_is_run_whole() {
    let _turn = turn();
    let (said, code) = run(&["--what", "sweep", "--scenario", "put"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said["io_fault_points"].as_u64() > Some(20), "{said}");
    assert!(said.get("sim_seeds").is_none());
}

/// Whether this process may have mounts of its own; says so if not.
fn may_mount() -> bool {
    let mut command = Command::new("unshare");
    let tried = command.args(["--mount", "true"]).status();
    let may = tried.is_ok_and(|status| status.success());
    if !may {
        eprintln!("SKIPPED: file systems of a test's own take root");
    }
    may
}

#[test]
fn file_systems_of_its_own_lose_nothing_when_power_goes_room_ends_or_the_disk_is_sick() {
    if !may_mount() {
        return;
    }
    let _turn = turn();
    let sizes = ["--cuts", "1", "--rounds", "1", "--truncations", "3"];
    let what = ["--what", "power,full,fuse", "--systems", "ext4"];
    let (said, code) = run(&[what.as_slice(), &sizes].concat());
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(said["violations"], serde_json::json!([]));
    assert!(
        said["acked_pieces_checked"].as_u64() > Some(1_000),
        "{said}"
    );
    // Not every kernel that lets root mount has loop devices and FUSE; what was not done has no count.
    for key in ["power_cuts_ext4", "full_rounds", "truncations"] {
        match said.get(key) {
            Some(count) => assert!(count.as_u64() > Some(0), "{key}: {said}"),
            None => eprintln!("SKIPPED: no {key} here"),
        }
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains("strand-torture-"), "left behind: {mounts}");
}
