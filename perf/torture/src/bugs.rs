//! The planted bugs, and the proofs that notice them.
//!
//! A hunt runs in a process of its own with `STRAND_BUG=name`, in a build that has the feature `planted-bugs`: the proofs run one
//! after another, those first that are made for the bug's guarantee, until one finds a violation. A hunt without a bug must find none.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use strand_blob::bug::{BUGS, Bug, PlantedBug};

use crate::store::{forged, rot, seeds, states, sweep};
use crate::tally::Tally;

/// What is said of a bug in the list.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct Listed {
    /// What `STRAND_BUG` calls it.
    pub name: &'static str,
    /// The guarantee that it breaks.
    pub guarantee: &'static str,
    /// What it does.
    pub what: &'static str,
}

/// What came of a hunt.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Hunt {
    /// The bug.
    pub name: String,
    /// Whether a proof noticed it.
    pub is_caught: bool,
    /// Which one.
    pub proof: Option<String>,
    /// What it said.
    pub violation: Option<String>,
    /// Milliseconds that it took.
    pub took_ms: u64,
}

impl Hunt {
    /// Notes what a proof found; whether that was anything.
    fn note(&mut self, proof: &str, tally: &Tally) -> bool {
        if let Some(violation) = tally.violations.first() {
            self.is_caught = true;
            self.proof = Some(proof.to_owned());
            self.violation = Some(violation.what.clone());
        }
        self.is_caught
    }
}

/// What came of all hunts.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Hunts {
    /// Bugs that were planted.
    pub planted: u64,
    /// Those that a proof noticed.
    pub caught: u64,
    /// Names of the others, and why.
    pub uncaught: Vec<String>,
    /// The slowest hunt.
    pub slowest_ms: u64,
    /// Its bug.
    pub slowest: &'static str,
    /// What the hunt for no bug found: nothing, or the proofs are wrong.
    pub control: Vec<String>,
}

/// How long a hunt may take before the bug counts as unnoticed.
const HUNT_TIMEOUT: Duration = Duration::from_secs(20);

/// How long the binary may take to build.
const BUILD_TIMEOUT: Duration = Duration::from_secs(900);

/// All bugs.
#[must_use]
pub fn list() -> Vec<Listed> {
    let listed = BUGS.iter().map(|planted| Listed {
        name: planted.name,
        guarantee: planted.guarantee,
        what: planted.what,
    });
    listed.collect()
}

/// Says so if `STRAND_BUG` names no bug, or this build has none.
///
/// # Errors
///
/// In these cases.
pub fn check_picked() -> anyhow::Result<()> {
    let picked = std::env::var("STRAND_BUG").unwrap_or_default();
    ensure!(
        picked.is_empty() || cfg!(feature = "planted-bugs"),
        "STRAND_BUG is set and this build has no bugs: build it with --features planted-bugs"
    );
    let is_known = BUGS.iter().any(|planted| planted.name == picked);
    ensure!(
        picked.is_empty() || is_known,
        "STRAND_BUG={picked}: there is no such bug; `bugs` lists them"
    );
    Ok(())
}

/// A proof, run for a while: the `nth` part of it.
type Proof = (&'static str, fn(u64) -> Tally);

const STATES: Proof = ("states", |nth| states::run(nth, states::Syncs::Honoured));
const SEEDS: Proof = ("store", seeds::run);
const CLEAR: Proof = ("store, crashes alone", |nth| {
    seeds::run(8 * (nth / 3) + nth % 3)
});
const ROT: Proof = ("rot", |nth| rot::run_until_violated(nth, 40));
const FORGED: Proof = ("forged", forged::run);
const SWEEP: Proof = ("sweep", |nth| sweep::run(23, nth));
const FULL: Proof = ("sweep of a full disk", |nth| {
    sweep::run_one("full disk", 23, nth)
});
const READS: Proof = ("sweep of reads", |nth| sweep::run_one("get", 7, nth));
const FINAL: Proof = ("failed syncs", sweep::finality);
const BOUND: Proof = ("bound", |_| states::bound());
const KILLED: Proof = ("killed", states::killed);
const MISREAD: Proof = ("misread", states::misread);
const DROPPED: Proof = ("dropped", states::dropped);
const CHURN: Proof = ("store, much deleted", |nth| seeds::run(8 * nth + 2));
const FAILING: Proof = ("store, failing writes", |nth| seeds::run(8 * nth + 3));
const ROTTING: Proof = ("store, rot", |nth| seeds::run(8 * nth + 5));
const TIGHT: Proof = ("store, little room", |nth| seeds::run(8 * nth + 6));

const ALL: [Proof; 10] = [
    FORGED, KILLED, DROPPED, MISREAD, FINAL, BOUND, SEEDS, STATES, ROT, SWEEP,
];

/// Where to look first.
fn proofs(bug: &PlantedBug) -> Vec<Proof> {
    let first = match bug.bug {
        Bug::AckBeforeSync
        | Bug::IndexBeforeData
        | Bug::LastWaiterDropped
        | Bug::BlobHeaderNotSynced
        | Bug::TornTrusted
        | Bug::TornTakenForDurable
        | Bug::CheckpointMidGroup
        | Bug::CheckpointRewritten
        | Bug::UnlinkBeforeSync
        | Bug::RemovalNotNoted => vec![STATES],
        Bug::OpeningDoesNotSync => vec![KILLED],
        Bug::FailedSyncRetried | Bug::FailedSyncForgiven => vec![FINAL],
        Bug::ShortWriteIgnored | Bug::ReservationLeaks => vec![FAILING],
        Bug::FullDiskPoisons => vec![TIGHT],
        Bug::NoRoomForTombstones => vec![FULL],
        Bug::NoCheckpointByItself => vec![BOUND],
        Bug::CheckUnkeyed => vec![FORGED],
        Bug::FailedReadIsAbsence | Bug::FailedReadPanics => vec![READS],
        Bug::StopsAtBadRecord | Bug::StopsAtBadGroup => vec![ROT, ROTTING],
        Bug::BodyUnchecked
        | Bug::MemoryUnchecked
        | Bug::TrailerUnchecked
        | Bug::PlaceUnchecked
        | Bug::RotTakenForTorn
        | Bug::FooterUnchecked
        | Bug::CheckpointUnchecked
        | Bug::ScrubSkipsBodies => vec![ROT],
        Bug::DroppedRemovalForgotten => vec![DROPPED],
        Bug::MisreadBelieved => vec![MISREAD],
        Bug::TombstoneDroppedEarly | Bug::MovedRecordRenumbered => vec![CHURN],
        Bug::IdUnchecked
        | Bug::CheckpointForgetsDead
        | Bug::SequenceRestarts
        | Bug::TrashShort
        | Bug::ConflictOverwrites => vec![CLEAR, CHURN],
    };
    let is_other = |proof: &Proof| first.iter().all(|other| other.0 != proof.0);
    let rest = ALL.into_iter().filter(is_other);
    first.iter().copied().chain(rest).collect()
}

/// Looks for a bug, or for none with the name `none`, for at most so many seconds.
///
/// # Errors
///
/// If there is no such bug, if `STRAND_BUG` names another one, or if this build has none.
pub fn hunt(name: &str, seconds_max: u64) -> anyhow::Result<Hunt> {
    let begun = Instant::now();
    let is_control = name == "none";
    let bug = BUGS.iter().find(|planted| planted.name == name);
    ensure!(
        bug.is_some() || is_control,
        "there is no bug {name:?}; `bugs` lists them"
    );
    ensure!(
        cfg!(feature = "planted-bugs"),
        "this build has no bugs: build it with --features planted-bugs"
    );
    let picked = std::env::var("STRAND_BUG").unwrap_or_default();
    let wanted = if is_control { "" } else { name };
    ensure!(
        picked == wanted,
        "STRAND_BUG is {picked:?}: set it to {wanted:?}"
    );
    let mut hunt = Hunt {
        name: name.to_owned(),
        is_caught: false,
        proof: None,
        violation: None,
        took_ms: 0,
    };
    let proofs = bug.map_or_else(|| ALL.to_vec(), proofs);
    let is_late = |share| begun.elapsed() > Duration::from_secs(seconds_max) / share;
    // The likely one runs for half of the time before the others have their turn.
    let (proof, run) = proofs[0];
    for nth in 0.. {
        if is_control || is_late(2) || hunt.note(proof, &run(nth)) {
            break;
        }
    }
    'hunt: for nth in 0.. {
        for (proof, run) in &proofs {
            if hunt.is_caught || is_late(1) || hunt.note(proof, &run(nth)) {
                break 'hunt;
            }
        }
    }
    hunt.took_ms = begun.elapsed().as_millis() as u64;
    Ok(hunt)
}

/// Builds this crate's binary with the bugs in a target folder of its own, and hunts each of them in a process of its own.
///
/// # Errors
///
/// If the binary cannot be built or started.
pub fn build_and_hunt_all(workspace: &Path) -> anyhow::Result<Hunts> {
    let target = workspace.join("target").join("torture");
    let mut build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    build
        .args(["build", "--quiet", "--locked", "-p", "strand-torture"])
        .args(["--no-default-features", "--features", "planted-bugs"])
        .arg("--target-dir")
        .arg(&target)
        .current_dir(workspace)
        .env_remove("STRAND_BUG")
        .stdin(Stdio::null());
    let built =
        finish(build, BUILD_TIMEOUT).context("building the binary with the planted bugs")?;
    ensure!(built.0, "the binary with the planted bugs was not built");
    hunt_all(&target.join("debug").join("strand-torture"))
}

/// Hunts each bug with this binary, one after another, and none at last.
///
/// # Errors
///
/// If it cannot be started.
pub fn hunt_all(binary: &Path) -> anyhow::Result<Hunts> {
    let mut hunts = Hunts::default();
    for planted in BUGS {
        hunts.planted += 1;
        let begun = Instant::now();
        let mut command = Command::new(binary);
        command
            .args(["hunt", planted.name])
            .env("STRAND_BUG", planted.name);
        let (is_caught, said) = finish(command, HUNT_TIMEOUT + Duration::from_secs(20))?;
        let took_ms = begun.elapsed().as_millis() as u64;
        if took_ms > hunts.slowest_ms {
            (hunts.slowest_ms, hunts.slowest) = (took_ms, planted.name);
        }
        if is_caught {
            hunts.caught += 1;
        } else {
            hunts
                .uncaught
                .push(format!("{}: {}", planted.name, said.trim()));
        }
    }
    let mut control = Command::new(binary);
    control
        .args(["hunt", "none", "--seconds", "5"])
        .env_remove("STRAND_BUG");
    let (is_caught, said) = finish(control, HUNT_TIMEOUT)?;
    if is_caught {
        hunts.control.push(said);
    }
    Ok(hunts)
}

/// Runs a program for so long at most; whether it ended well, and what it said.
fn finish(mut command: Command, timeout: Duration) -> anyhow::Result<(bool, String)> {
    let begun = Instant::now();
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .context("starting it")?;
    let pipe = child.stdout.take();
    let said = std::thread::spawn(move || {
        let mut said = String::new();
        if let Some(mut pipe) = pipe {
            // What is no text is of no use.
            let _is_text = std::io::Read::read_to_string(&mut pipe, &mut said);
        }
        said
    });
    loop {
        if let Some(status) = child.try_wait()? {
            let Ok(said) = said.join() else {
                bail!("nobody read what it said")
            };
            return Ok((status.success(), said));
        }
        if begun.elapsed() > timeout {
            child.kill()?;
            child.wait()?;
            return Ok((false, format!("not done after {} s", timeout.as_secs())));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hunt_without_bugs_says_what_to_build() {
        let error = hunt("no-such-bug", 1).unwrap_err().to_string();
        assert!(error.contains("no-such-bug"), "{error}");
        if !cfg!(feature = "planted-bugs") {
            let error = hunt("ack-before-sync", 1).unwrap_err().to_string();
            assert!(error.contains("--features planted-bugs"), "{error}");
        }
    }

    #[test]
    fn at_least_two_dozen_bugs_are_planted() {
        assert!(list().len() >= 24);
    }
}
