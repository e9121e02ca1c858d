//! The storage node: one process, many nodes, one executor a core.

pub mod core;
pub mod disk;
pub mod quic;
pub mod ring;
pub mod stream;

pub mod budget;
pub mod limits;
pub mod permission;
pub mod serials;
pub mod serve;
