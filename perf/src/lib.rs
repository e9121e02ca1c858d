//! Strand on one machine, whole: a local network of real processes, the demo on it, and what it measures.
//!
//! - [`local`] starts a satellite and nodes as processes; [`part`] is one such process; [`ground`] checks the disk first.
//! - [`draw`] decides which pieces are damaged; [`damage`] does it; [`pieces`] learns where they are.
//! - [`sample`] and [`counters`] measure; [`report`] says it.
//! - [`demo`] puts it together, in a [`folder`] of its own, and a [`narrator`] says how far it is.
//!
//! [`store`] measures a piece store on this machine's disk against what the disk can do.
//!
//! [`node`] measures what a core of a node moves between network and disk. [`torture`] proves that it loses nothing. [`codec`] measures what happens to bytes before and after: the erasure code.
//!
//! The tests in `tests/it` use the same network.

pub mod codec;
pub mod content;
pub mod counters;
mod cpu;
pub mod damage;
pub mod demo;
pub mod draw;
pub mod folder;
pub mod ground;
pub mod local;
pub mod narrator;
pub mod node;
pub mod part;
pub mod pieces;
mod pinned;
pub mod random;
pub mod report;
pub mod rewrite;
pub mod sample;
pub mod store;
pub mod torture;
pub mod units;
