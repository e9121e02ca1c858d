//! `strand-perf torture`: everything that proves that the store loses nothing, for as long as one likes.
//!
//! Two threads work side by side until the time is over. One runs whole nodes in virtual time (`sim`). The other goes through the fixed
//! proofs once (crash states, a fault at every operation, damage at rest, kills of a real process on a real disk, power cuts, planted bugs) and
//! then runs the store from one seed after another. All but `kill` and `power` is decided by seeds: a violation names the arguments that show it again.

mod full;
mod fuse;
mod fused;
mod image;
mod kill;
mod logged;
mod options;
mod outcome;
mod patient;
mod power;
mod ward;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::ValueEnum;
use strand_torture::node::{self, NodeOptions};
use strand_torture::store::{forged, rot, seeds, states, sweep};
use strand_torture::{Tally, bugs};

use crate::folder;
use crate::narrator::Narrator;

pub use options::Options;
use options::{Sizes, What};
pub use outcome::Outcome;
pub use patient::patient_main;
pub use ward::ward_main;

/// Time between two lines of progress.
const TELL_PERIOD: Duration = Duration::from_secs(15);

/// Seeds of the store between two further rounds of crash states, kills or cuts.
const ROUND_SEEDS: u64 = 50;

/// Kills and cuts of such a round.
const ROUND_KILLS: u64 = 20;
const ROUND_CUTS: u64 = 4;
const ROUND_CUTS_BY_LOG: u64 = 20;

/// What file systems of our own take.
const FUSE_DEVICE: &str = "/dev/fuse";

/// Room that kills need.
const ROOM_BYTES: u64 = 4 << 30;

/// A run.
struct Torture<'a> {
    options: &'a Options,
    narrator: Narrator,
    deadline: Instant,
    /// Seeds of nodes that were taken so far: both threads do.
    nodes_taken: AtomicU64,
}

/// Runs what was asked for.
///
/// # Errors
///
/// If something cannot be run at all. What was violated is in the outcome.
pub fn run(options: &Options) -> Result<Outcome> {
    bugs::check_picked()?;
    if let Some(wanted) = &options.scenario {
        ensure!(
            options.does(What::Sweep) && sweep::names().any(|name| name == wanted),
            "there is no scenario `{wanted}` of the sweep (--what sweep); there are {}",
            sweep::names().collect::<Vec<_>>().join(", ")
        );
    }
    let torture = Torture {
        options,
        narrator: Narrator::default(),
        deadline: Instant::now() + Duration::from_secs(60 * options.minutes),
        nodes_taken: AtomicU64::new(0),
    };
    let (simulated, proved) = std::thread::scope(|scope| {
        let simulating = scope.spawn(|| torture.simulate());
        let proved = torture.prove();
        (simulating.join(), proved)
    });
    let Ok(simulated) = simulated else {
        anyhow::bail!("the simulation ended with a panic of its own");
    };
    let mut outcome = proved?;
    outcome.simulated(simulated.tally, simulated.seconds);
    let violations = &outcome.tally.violations;
    torture.narrator.line(&match violations.len() {
        0 => "done: nothing was violated".to_owned(),
        count => format!("done: {count} VIOLATIONS"),
    });
    Ok(outcome)
}

/// Whole nodes in virtual time.
struct Simulated {
    tally: Tally,
    seconds: f64,
}

impl Torture<'_> {
    fn is_over(&self) -> bool {
        Instant::now() >= self.deadline
    }

    /// The seeds to run, and whether there is time for one more of them.
    fn seeds(&self) -> impl Iterator<Item = u64> {
        let first = self.options.seed.unwrap_or_default();
        let count = self.options.seed_count();
        (first..first.saturating_add(count))
            .take_while(move |&seed| seed == first || !self.is_over())
    }

    /// The next node's seed, if it is wanted and there is time for it.
    fn next_node(&self) -> Option<u64> {
        if !self.options.does(What::Sim) {
            return None;
        }
        let number = self.nodes_taken.fetch_add(1, Ordering::Relaxed);
        let first = self.options.seed.unwrap_or_default();
        let is_wanted = number < self.options.seed_count() && (number == 0 || !self.is_over());
        is_wanted.then(|| first.saturating_add(number))
    }

    /// Notes what a proof found, and says each violation at once.
    fn take(&self, tally: &mut Tally, found: Tally) {
        for violation in &found.violations {
            let (what, replay) = (&violation.what, &violation.replay);
            self.narrator.line(&format!(
                "VIOLATION: {what}\n           again: strand-perf torture {replay}"
            ));
        }
        tally.merge(found);
    }

    fn simulate(&self) -> Simulated {
        let mut tally = Tally::default();
        let begun = Instant::now();
        let mut told = Instant::now();
        while let Some(seed) = self.next_node() {
            self.take(&mut tally, node::run(seed, &NodeOptions::of_seed(seed)).0);
            if told.elapsed() > TELL_PERIOD {
                told = Instant::now();
                let count = |name| tally.counts.get(name).copied().unwrap_or_default();
                self.narrator.line(&format!(
                    "{} nodes simulated, {} hours, {} pieces checked",
                    self.nodes_taken.load(Ordering::Relaxed),
                    count("sim_ms") / 3_600_000,
                    count("acked_pieces_checked"),
                ));
            }
        }
        Simulated {
            tally,
            seconds: begun.elapsed().as_secs_f64(),
        }
    }

    /// The fixed proofs, then the store from seeds, and between them more of what is drawn from seeds, until the time is over.
    fn prove(&self) -> Result<Outcome> {
        let mut outcome = Outcome::default();
        let tally = &mut outcome.tally;
        let (sizes, first) = (self.options.sizes(), self.options.seed.unwrap_or_default());
        if self.options.does(What::States) {
            self.narrator.line("every state that a crash could leave");
            let count = if self.options.seed.is_some() {
                1
            } else {
                sizes.state_seeds
            };
            for seed in first..first + count {
                self.take(tally, states::run(seed, states::Syncs::Honoured));
            }
        }
        if self.options.does(What::Sweep) {
            self.narrator.line("a fault at every operation");
            let found = match &self.options.scenario {
                Some(name) => sweep::run_one(name, 1, 0),
                None => sweep::run(sizes.sweep_every, first),
            };
            self.take(tally, found);
        }
        if self.options.does(What::Rot) {
            self.narrator
                .line("damage to bytes at rest, and forged records");
            self.take(tally, rot::run_thinned(first, sizes.rot_every));
            self.take(tally, forged::run(first));
        }
        if self.options.does(What::Kill) {
            self.narrator
                .line("kills of a process that stores, on this disk");
            self.kill(tally, first, sizes.kills)?;
        }
        for what in [What::Power, What::Full, What::Fuse] {
            self.prove_apart(tally, what, first, sizes)?;
        }
        if self.options.does(What::Bugs) {
            self.narrator
                .line("planted bugs: building a program with them");
            let workspace = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
            let hunts = bugs::build_and_hunt_all(&workspace)?;
            self.narrator.line(&format!(
                "{} of {} planted bugs caught, the slowest in {:.1} s",
                hunts.caught,
                hunts.planted,
                hunts.slowest_ms as f64 / 1e3
            ));
            outcome.hunted(&hunts);
        }
        let tally = &mut outcome.tally;
        if self.options.does(What::Store) {
            self.narrator
                .line("the store, from one seed after another, and nodes beside it");
            for seed in self.seeds() {
                self.take(tally, seeds::run(seed));
                if let Some(seed) = self.next_node() {
                    let found = node::run(seed, &NodeOptions::of_seed(seed)).0;
                    tally.add("sim_violations", found.violations.len() as u64);
                    self.take(tally, found);
                }
                if (seed - first) % ROUND_SEEDS == ROUND_SEEDS - 1 && !self.is_over() {
                    self.go_on((seed - first) / ROUND_SEEDS, tally)?;
                }
            }
        }
        Ok(outcome)
    }

    /// What takes root: file systems of its own.
    fn prove_apart(&self, tally: &mut Tally, what: What, seed: u64, sizes: Sizes) -> Result<()> {
        let (narrator, systems) = (&self.narrator, &self.options.systems);
        if !self.options.does(what) {
            return Ok(());
        }
        let name = what.to_possible_value();
        let name = name.as_ref().map_or("", |name| name.get_name());
        let mut refusal = image::refusal();
        if what == What::Fuse && !Path::new(FUSE_DEVICE).exists() {
            refusal = Some("there is no /dev/fuse".to_owned());
        }
        if let Some(reason) = refusal {
            narrator.line(&format!("NOT DONE: {name}: {reason}"));
            return Ok(());
        }
        let prove = |folder: &Path, program: &Path| match what {
            What::Power => {
                narrator.line("power cuts on file systems of their own");
                let mut cuts = (sizes.cuts, sizes.cuts_by_log);
                if cuts.1 > 0 && !Path::new(FUSE_DEVICE).exists() {
                    narrator.line("NO POWER CUTS AMID WRITES: there is no /dev/fuse");
                    cuts.1 = 0;
                }
                power::run(folder, program, seed, cuts, systems, narrator)
            }
            What::Full => {
                narrator.line("a small file system that is full");
                full::run(folder, seed, sizes.rounds, systems, narrator)
            }
            _ => {
                narrator.line("a disk that fails on command");
                fuse::run(folder, program, seed, sizes.truncations)
            }
        };
        let found = self.in_folder(|folder, program| image::apart(|| prove(folder, program)))?;
        self.take(tally, found);
        Ok(())
    }

    /// More of what the fixed proofs drew from their first seeds.
    fn go_on(&self, round: u64, tally: &mut Tally) -> Result<()> {
        let (sizes, first) = (self.options.sizes(), self.options.seed.unwrap_or_default());
        let seed = first + sizes.state_seeds + round;
        match round % 3 {
            0 if self.options.does(What::Kill) => self.kill(tally, seed, ROUND_KILLS)?,
            1 => {
                let sizes = Sizes {
                    cuts: ROUND_CUTS,
                    cuts_by_log: ROUND_CUTS_BY_LOG,
                    ..sizes
                };
                self.prove_apart(tally, What::Power, seed, sizes)?;
            }
            _ if self.options.does(What::States) => {
                self.take(tally, states::run(seed, states::Syncs::Honoured));
            }
            _ => {}
        }
        Ok(())
    }

    fn kill(&self, tally: &mut Tally, seed: u64, kills: u64) -> Result<()> {
        let found = self.in_folder(|folder, program| kill::run(folder, program, seed, kills))?;
        self.take(tally, found);
        Ok(())
    }

    /// Gives real processes a fresh folder, and removes it.
    fn in_folder(&self, work: impl FnOnce(&Path, &Path) -> Result<Tally>) -> Result<Tally> {
        let program = std::env::current_exe()?;
        let dir = self.options.dir.as_deref();
        let folder = folder::make_for("torture", dir, &program, ROOM_BYTES)?;
        folder::leave_on_signals(folder.clone())?;
        let found = work(&folder, &program);
        folder::remove(&folder, true);
        found
    }
}
