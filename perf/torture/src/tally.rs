//! What a run did and what it found.

use std::collections::BTreeMap;

/// Counts by name, and every promise that was broken.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Tally {
    /// How often something was done: `sim_seeds`, `crash_states`, `acked_pieces_checked` ...
    pub counts: BTreeMap<&'static str, u64>,
    /// What must not have happened.
    pub violations: Vec<Violation>,
}

/// A broken promise, and how to see it again.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Violation {
    /// What was seen and what should have been.
    pub what: String,
    /// The arguments of `strand-perf torture` that show it again.
    pub replay: String,
}

impl Tally {
    /// Counts something once more, or `count` times.
    pub fn add(&mut self, name: &'static str, count: u64) {
        *self.counts.entry(name).or_default() += count;
    }

    /// Notes a broken promise.
    pub fn violate(&mut self, what: impl Into<String>, replay: impl Into<String>) {
        self.violations.push(Violation {
            what: what.into(),
            replay: replay.into(),
        });
    }

    /// Adds what another run did and found.
    pub fn merge(&mut self, other: Self) {
        for (name, count) in other.counts {
            self.add(name, count);
        }
        self.violations.extend(other.violations);
    }
}
