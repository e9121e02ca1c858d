//! The node against real sockets and disks.

#![allow(clippy::unwrap_used, reason = "a test's helpers fail as its body does")]

mod commands;
mod disk;
mod driver;
mod kills;
mod limits;
mod monitoring;
mod mount;
mod node;
mod opening;
mod plain;
mod scrub;
mod sick;
mod space;
mod storage;
mod trash;
mod vanish;
mod verify;
mod world;
