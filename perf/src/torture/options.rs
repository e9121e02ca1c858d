//! What `strand-perf torture` may be told.

use std::path::PathBuf;

use super::image::System;

/// `strand-perf torture`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Minutes until no further seed is begun; the fixed proofs take some two, and the first build of the planted bugs more
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
    /// How often a process that stores is killed
    #[arg(long, default_value_t = 12)]
    pub kills: u64,
    /// Power cuts on each file system
    #[arg(long, default_value_t = 3)]
    pub cuts: u64,
    /// File systems of the power cuts and of the full disk
    #[arg(long, value_delimiter = ',', value_enum, default_values_t = [System::Ext4, System::Xfs])]
    pub(super) systems: Vec<System>,
    /// How often a small file system is filled, on the file systems in turn
    #[arg(long, default_value_t = 3)]
    pub rounds: u64,
    /// How often a file is cut short under the map of a process that reads it
    #[arg(long, default_value_t = 24)]
    pub truncations: u64,
    /// An existing folder on the disk for what is killed; it is used through a fresh folder in it
    #[arg(long)]
    pub dir: Option<PathBuf>,
    /// Print one JSON object in place of a table
    #[arg(long)]
    pub json: bool,
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
    /// A file system of its own, of which a copy is made at a random moment; takes root
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

    /// Seeds to run of what runs from seeds.
    pub(super) fn seed_count(&self) -> u64 {
        let unlimited = if self.seed.is_some() { 1 } else { u64::MAX };
        self.seeds.unwrap_or(unlimited)
    }
}
