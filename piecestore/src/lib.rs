//! The storage node: one process, many nodes, one executor a core.

pub mod core;
pub mod disk;
pub mod file_operation;
pub mod open_files;
pub mod plain;
pub mod quic;
pub mod ring;
pub mod stream;

pub mod admin;
pub mod budget;
pub mod check_in;
pub mod cli;
pub mod config;
pub mod contact;
pub mod directory;
mod file_names;
pub mod gc;
pub mod hardware;
pub mod jobs;
pub mod limits;
pub mod map;
mod meter;
pub mod metrics;
pub mod move_dir;
pub mod node;
pub mod offline;
pub mod offline_store;
pub mod permission;
pub mod process;
mod reach;
mod satellite_time;
pub mod scrub;
pub mod serials;
pub mod serve;
mod service_manager;
pub mod serving;
pub mod space;
pub mod status;
pub mod upkeep;
pub mod verify;
pub mod watch;

pub use cli::cli_main;
