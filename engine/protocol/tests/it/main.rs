//! The crate against docs/format.md: an independent reader written with stock crates only, and
//! frozen bytes.
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, outside #[test] functions"
)]

mod agreement;
mod fuzz;
mod golden;
mod independent;
