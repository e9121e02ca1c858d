//! A whole node in virtual time: endpoint, verbs, store and upkeep as they are, on a simulated disk, network and clock.
//!
//! One seed decides everything: what clients ask, which faults come when, how tasks interleave, what a crash tears. So a seed that fails
//! fails again, and [`run`] returns a hash of all that happened to prove it. Faults come in episodes ([`Plan`](plan::Plan)), with rates
//! as high as TigerBeetle's VOPR draws them, first in a *safety* phase, in which anything may fail but nothing acknowledged may be lost;
//! then follows a *liveness* phase without faults, in which everything must heal: clients reconnect, verbs succeed, what is dead is
//! compacted away, the node stops with no task left.
//!
//! | file | noun |
//! |---|---|
//! | `plan` | which faults a seed has, and when |
//! | `moods` | faults and delays of the disk |
//! | `host` | the node's process: its start and its ends |
//! | `client` | who asks, over a connection of their own |
//! | `satellite` | who is checked in with, and whose filters are collected with |
//! | `ledger` | what is known of each piece, and what may be found |
//! | `load` | what clients ask, and whether the answers may be |
//! | `harm` | damage that the ledger is told of |
//! | `check` | what must hold at any moment |
//! | `world` | all of them together: the node's lives, and the faults beside them |
//! | `heal` | the liveness phase |
//!
//! Check-ins and filters travel over the same network, by the node's own code. Days pass in a moment when all machines *sleep*: clocks go on
//! and timers do not, so that the trash's 7 days end. At last some bytes rot, and the running node's own scrub has to find them.
//!
//! Not simulated: the satellite's dial-back, several nodes of one process.

mod check;
mod client;
mod harm;
mod heal;
mod host;
mod ledger;
mod load;
mod moods;
mod plan;
mod satellite;
#[cfg(test)]
mod tests;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Duration;

use piecestore::core::simulated::SimExecutor;

use crate::Tally;
use world::World;

/// Of so many seeds one has a long life.
const LONG_EVERY: u64 = 10;

/// How long and how hard a seed is run.
#[derive(Clone, Copy, Debug)]
pub struct NodeOptions {
    /// Virtual time in which anything may fail.
    pub safety: Duration,
    /// Virtual time afterwards in which every verb must succeed.
    pub strict: Duration,
    /// Mean virtual time between two verbs.
    pub gap: Duration,
    /// Mean virtual time between two ends of the node's process.
    pub life: Duration,
    /// Whether writes go astray in every seed, up to a tenth of them in an episode, and not only in every third: what was hit excuses more, so most seeds
    /// are strict. Reads go astray in any case.
    pub writes_go_astray: bool,
    /// What is wrong with the world itself, to prove that it would be noticed.
    pub control: Control,
}

/// A world that breaks what a node may rely on, without owning up to it: a run of it must find violations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Control {
    /// Nothing.
    #[default]
    None,
    /// A crash takes bytes that were synced.
    LosesSynced,
    /// Bytes of a piece rot, and the ledger is not told.
    RotsSecretly,
    /// A restart finds the blobs as they were at the start before.
    TurnsBack,
    /// In the end a task is left that nothing wakes.
    LeavesTask,
    /// Writes go astray, and the ledger is not told.
    MisdirectsSecretly,
    /// Filters lack pieces that are wanted.
    OmitsWanted,
    /// Filters claim to be newer than they are.
    ClaimsLaterMoment,
    /// The owner takes the trash for restored without having asked.
    RestoresNothing,
    /// Ten days pass for the node, and the ledger is not told.
    SleepsSecretly,
    /// What is to rot in the end does not.
    HidesRot,
}

impl Default for NodeOptions {
    fn default() -> Self {
        Self {
            safety: Duration::from_secs(300),
            strict: Duration::from_secs(60),
            gap: Duration::from_millis(75),
            life: Duration::from_secs(50),
            writes_go_astray: false,
            control: Control::None,
        }
    }
}

impl NodeOptions {
    /// What a seed is run with. Every tenth has a long life; those of the others are short, so that what may go wrong is drawn anew more often: each
    /// draws rates and kinds of faults but once.
    #[must_use]
    pub fn of_seed(seed: u64) -> Self {
        let long = Self::default();
        if seed.is_multiple_of(LONG_EVERY) {
            return long;
        }
        Self {
            safety: Duration::from_secs(45),
            strict: Duration::from_secs(10),
            life: Duration::from_secs(20),
            ..long
        }
    }
}

/// Runs one seed: what was done and found, and the hash of all that happened.
///
/// Counts `sim_seeds`, `sim_ms` (virtual, without the hours in which the scrub is waited for), `sim_verbs` (those that ended with an answer), `sim_crashes`, `acked_pieces_checked` and some more.
#[must_use]
pub fn run(seed: u64, options: &NodeOptions) -> (Tally, u64) {
    let executor = SimExecutor::new(seed);
    let world = World::new(seed, *options, &executor);
    let living = Rc::clone(&world);
    let ran = catch_unwind(AssertUnwindSafe(|| {
        executor.run(async move { Box::pin(living.live()).await })
    }));
    let mut tally = world.tally();
    if let Err(panic) = ran {
        let said = panic.downcast_ref::<String>().map(String::as_str);
        let said = said.or_else(|| panic.downcast_ref::<&str>().copied());
        tally.violate(
            format!(
                "panic after {} ms: {}",
                executor.elapsed().as_millis(),
                said.unwrap_or("of another kind")
            ),
            world::replay(seed),
        );
        // Whatever was running is in no state to be dropped.
        std::mem::forget(Rc::clone(&world));
    } else {
        world.end();
    }
    tally.add("sim_seeds", 1);
    let busy_time = world.busy_time.get().unwrap_or_else(|| executor.elapsed());
    tally.add("sim_ms", busy_time.as_millis() as u64);
    (tally, executor.trace_hash())
}
