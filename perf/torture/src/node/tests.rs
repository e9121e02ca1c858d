use super::*;

use std::process::Command;

/// Short enough for a debug build, long enough for some ends of the process.
fn short(control: Control) -> NodeOptions {
    NodeOptions {
        safety: Duration::from_secs(40),
        strict: Duration::from_secs(15),
        life: Duration::from_secs(10),
        writes_go_astray: true,
        control,
        ..NodeOptions::default()
    }
}

#[test]
fn forty_seeds_lose_nothing_and_heal() {
    let mut all = Tally::default();
    for seed in 0..40 {
        let (tally, _) = run(seed, &short(Control::None));
        all.merge(tally);
    }
    assert!(all.violations.is_empty(), "{:#?}", all.violations);
    // It did what it says: verbs, ends of the process, checks.
    let least = [
        ("sim_seeds", 40),
        ("sim_verbs", 40 * 300),
        ("sim_crashes", 15),
        ("sim_kills", 8),
        ("sim_stops", 5),
        ("rotted", 5),
        ("acked_pieces_checked", 2_000),
        ("sim_check_ins", 20 * 4),
        ("sim_filters", 50),
        ("sim_outcomes", 50),
        ("sim_restores", 20),
        ("sim_revived", 3),
        ("sim_sleeps", 2),
        ("sim_misdirected", 10),
        ("sim_scrub_found", 15),
    ];
    for (name, count) in least {
        let found = all.counts.get(name).copied().unwrap_or_default();
        assert!(
            found >= count,
            "{name}: {found} < {count}, {:?}",
            all.counts
        );
    }
}

/// Names the seed for [`prints_a_hash_for_another_process`].
const SEED_VARIABLE: &str = "STRAND_TORTURE_HASH_OF";

#[test]
fn one_seed_is_one_run_in_any_process() {
    let (_, first) = run(3, &short(Control::None));
    let (_, again) = run(3, &short(Control::None));
    let (_, other) = run(4, &short(Control::None));
    assert_eq!(first, again);
    assert_ne!(first, other);
    let Ok(program) = std::env::current_exe() else {
        panic!("a test knows its own program");
    };
    let output = Command::new(program)
        .args([
            "node::tests::prints_a_hash_for_another_process",
            "--exact",
            "--nocapture",
        ])
        .env(SEED_VARIABLE, "3")
        .output();
    let Ok(output) = output else {
        panic!("the test's own program starts");
    };
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains(&format!("hash {first:016x}")), "{said}");
}

#[test]
fn prints_a_hash_for_another_process() {
    let seed = std::env::var(SEED_VARIABLE).ok();
    if let Some(seed) = seed.and_then(|seed| seed.parse().ok()) {
        let (_, hash) = run(seed, &short(Control::None));
        println!("hash {hash:016x}");
    }
}

/// Whether one of a few seeds finds this.
fn finds(control: Control, wanted: &str) -> bool {
    (0..12).any(|seed| {
        let (tally, _) = run(seed, &short(control));
        let mut violations = tally.violations.iter();
        violations.any(|violation| violation.what.contains(wanted))
    })
}

#[test]
fn a_crash_that_takes_what_was_synced_is_noticed() {
    assert!(finds(Control::LosesSynced, "gone"));
}

#[test]
fn rot_that_nobody_owns_up_to_is_noticed() {
    assert!(finds(Control::RotsSecretly, "no fault overlapped it"));
}

#[test]
fn a_disk_that_turns_back_in_time_is_noticed() {
    assert!(finds(Control::TurnsBack, "gone"));
}

#[test]
fn a_task_that_is_left_is_noticed() {
    assert!(finds(Control::LeavesTask, "1 tasks"));
}

#[test]
fn writes_that_go_astray_unnoticed_are_noticed() {
    assert!(finds(Control::MisdirectsSecretly, "no fault overlapped it"));
}

#[test]
fn a_filter_that_lacks_what_is_wanted_is_noticed() {
    assert!(finds(Control::OmitsWanted, "in the trash"));
}

#[test]
fn a_filter_that_claims_a_later_moment_is_noticed() {
    assert!(finds(Control::ClaimsLaterMoment, "in the trash"));
}

#[test]
fn a_trash_that_does_not_come_back_is_noticed() {
    assert!(finds(Control::RestoresNothing, "in the trash"));
}

#[test]
fn a_trash_that_is_emptied_too_soon_is_noticed() {
    assert!(finds(Control::SleepsSecretly, "too soon"));
}

#[test]
fn damage_that_the_scrub_does_not_find_is_noticed() {
    assert!(finds(
        Control::HidesRot,
        "the satellite heard nothing of it"
    ));
}
