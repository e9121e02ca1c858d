//! The storage node: one process, many nodes, one executor a core.

pub mod core;
pub mod disk;
pub mod quic;
pub mod ring;
pub mod stream;

pub mod admin;
pub mod budget;
pub mod check_in;
pub mod cli;
pub mod config;
pub mod directory;
pub mod gc;
pub mod limits;
pub mod node;
pub mod offline;
pub mod permission;
pub mod process;
pub mod serials;
pub mod serve;
pub mod space;
pub mod status;
mod upkeep;
pub mod verify;

pub use cli::cli_main;
