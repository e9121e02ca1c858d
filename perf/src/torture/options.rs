//! What `strand-perf torture` may be told.

use std::path::PathBuf;

use super::image::System;

/// `strand-perf torture`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Minutes until no further seed is begun; the fixed proofs take one or two (from 5 minutes on they are done in full and take some twelve), the first build of the planted bugs as much
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub minutes: u64,
    /// Seeds of `sim` and `store`, each, at most
    #[arg(long)]
    pub seeds: Option<u64>,
    /// The first seed; alone, the only one: to see a violation again
    #[arg(long)]
    pub seed: Option<u64>,
    /// Only these proofs
    #[arg(long, value_delimiter = ',', value_enum)]
    pub(super) what: Vec<What>,
    /// Only this scenario of the sweep, and each operation of it
    #[arg(long)]
    pub scenario: Option<String>,
    /// Recorded runs of which every state that a crash could leave is tried, some seven hundred each [default: 3, from 5 minutes on 16]
    #[arg(long)]
    pub states: Option<u64>,
    /// How often a process that stores is killed [default: 12, from 5 minutes on 100, and more while there is time]
    #[arg(long)]
    pub kills: Option<u64>,
    /// Power cuts on each file system [default: 3, from 5 minutes on 20, and more while there is time]
    #[arg(long)]
    pub cuts: Option<u64>,
    /// Power cuts amid writes, made from the log of a device, on each file system; takes /dev/fuse [default: 4, from 5 minutes on 40, and more while there is time]
    #[arg(long)]
    pub cuts_by_log: Option<u64>,
    /// File systems of the power cuts and of the full disk
    #[arg(long, value_delimiter = ',', value_enum, default_values_t = [System::Ext4, System::Xfs])]
    pub(super) systems: Vec<System>,
    /// How often a small file system is filled, on the file systems in turn [default: 3, from 5 minutes on 50]
    #[arg(long)]
    pub rounds: Option<u64>,
    /// How often a file is cut short under the map of a process that reads it [default: 24, from 5 minutes on 1,000]
    #[arg(long)]
    pub truncations: Option<u64>,
    /// An existing folder on the disk for what is killed; it is used through a fresh folder in it
    #[arg(long)]
    pub dir: Option<PathBuf>,
    /// Print one JSON object in place of a table
    #[arg(long)]
    pub json: bool,
}

/// How much of the fixed proofs is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sizes {
    /// Seeds whose crash states are all tried, some seven hundred each.
    pub(super) state_seeds: u64,
    /// One operation of so many fails, over all scenarios and failures.
    pub(super) sweep_every: u64,
    /// Of the cheaply made kinds of damage one of so many is tried.
    pub(super) rot_every: u64,
    pub(super) kills: u64,
    pub(super) cuts: u64,
    pub(super) cuts_by_log: u64,
    pub(super) rounds: u64,
    pub(super) truncations: u64,
}

impl Sizes {
    /// More than a thousand crash states and points of failure within a minute.
    const SHORT: Self = Self {
        state_seeds: 3,
        sweep_every: 7,
        rot_every: 4,
        kills: 12,
        cuts: 3,
        cuts_by_log: 4,
        rounds: 3,
        truncations: 24,
    };

    /// Every point of failure, every damage, more than ten thousand crash states.
    const WHOLE: Self = Self {
        state_seeds: 16,
        sweep_every: 1,
        rot_every: 1,
        kills: 100,
        cuts: 20,
        cuts_by_log: 40,
        rounds: 50,
        truncations: 1_000,
    };

    /// Minutes from which on there is time for all of it.
    const WHOLE_FROM_MINUTES: u64 = 5;
}

/// A kind of proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum What {
    /// Whole nodes in virtual time: faults of disk, network and clock, then everything must heal
    Sim,
    /// The store alone from seeds: concurrent operations, crashes, faults
    Store,
    /// Every state that a crash could leave of recorded runs
    States,
    /// A fault at every operation of the disk
    Sweep,
    /// Damage to bytes at rest, and forged records
    Rot,
    /// A real process on a real disk, killed again and again
    Kill,
    /// A file system of its own, of which a copy is made at a random moment, at rest and amid writes; takes root
    Power,
    /// A small file system of its own that is filled, by the store and by somebody else; takes root
    Full,
    /// A FUSE file system of its own that fails on command: reads, syncs, space, hangs, truncation under a map; takes root
    Fuse,
    /// Bugs planted on purpose: each must be noticed
    Bugs,
}

impl Options {
    pub(super) fn does(&self, what: What) -> bool {
        self.what.is_empty() || self.what.contains(&what)
    }

    pub(super) fn sizes(&self) -> Sizes {
        let usual = if self.minutes < Sizes::WHOLE_FROM_MINUTES {
            Sizes::SHORT
        } else {
            Sizes::WHOLE
        };
        Sizes {
            state_seeds: self.states.unwrap_or(usual.state_seeds),
            kills: self.kills.unwrap_or(usual.kills),
            cuts: self.cuts.unwrap_or(usual.cuts),
            cuts_by_log: self.cuts_by_log.unwrap_or(usual.cuts_by_log),
            rounds: self.rounds.unwrap_or(usual.rounds),
            truncations: self.truncations.unwrap_or(usual.truncations),
            ..usual
        }
    }

    /// Seeds to run of what runs from seeds.
    pub(super) fn seed_count(&self) -> u64 {
        let unlimited = if self.seed.is_some() { 1 } else { u64::MAX };
        self.seeds.unwrap_or(unlimited)
    }
}
