//! Proof that the store loses nothing.
//!
//! Each folder is one kind of proof and fills a [`Tally`]: `store` has the piece store alone on a simulated disk (crash states, a fault at every
//! operation, rot, forged records), `node` a whole node in virtual time. What must stay true everywhere: a piece that was
//! acknowledged is bit-exact, or it is reported damaged *and* a fault that was injected overlaps it.

pub mod bugs;
#[cfg(feature = "node")]
pub mod node;
pub mod store;
pub mod tally;

pub use tally::{Tally, Violation};
