//! End-to-end tests of the real programs as processes, and the house rules.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on fails there, also in its helpers"
)]

mod bad_input;
mod crash;
mod demo;
mod garbage;
mod independent;
mod level;
mod liars;
mod node;
mod one_process;
mod permits;
mod stop;
mod store;
mod support;
mod survivors;
mod tidy;
mod torture;
mod transfer;
mod world;
