//! What the satellite decides, as pure functions: rows, `now` and random bytes in; rows or a
//! refusal out.
//!
//! **Invariant:** no I/O, no clock, no randomness of its own. The store runs these inside its
//! transactions, so they may be called again when a transaction is retried.

pub(crate) mod address;
pub(crate) mod collect;
pub(crate) mod draw;
pub(crate) mod list;
pub(crate) mod object;
pub(crate) mod order;
pub(crate) mod placement;
pub(crate) mod refusal;
pub(crate) mod row;
pub(crate) mod segment;
