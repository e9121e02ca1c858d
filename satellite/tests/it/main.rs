//! The satellite over real QUIC, with nodes that answer pings and mint receipts as real ones do.

#![allow(clippy::unwrap_used, reason = "a test's helpers fail as its tests do")]

mod cli;
mod collect;
mod life;
mod network;
mod nodes;
mod receipts;
