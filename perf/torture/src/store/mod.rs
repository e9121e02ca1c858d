//! The piece store alone, on a simulated disk.
//!
//! * [`guard`]: a panic of the store or of a check is a violation with its message, and the run goes on.
//! * [`calls`]: what is asked of a store, and the pieces of it.
//! * [`model`]: the states that each piece may be in, held against what the store says.
//! * [`seeds`]: a long run of batches, crashes and faults from one seed.
//! * [`states`]: every state that a crash could leave of a recorded run.
//! * [`sweep`]: the N-th operation of a scenario fails, for every N.
//! * [`rot`]: every kind of damage to bytes at rest.
//! * [`forged`]: uploads that look like records.

pub(crate) mod calls;
pub mod forged;
pub mod guard;
pub(crate) mod model;
pub mod rot;
pub mod seeds;
pub mod states;
pub mod sweep;
