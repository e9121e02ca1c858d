//! The satellite: keeps metadata and hands out short-lived permission. It never sees a key, a
//! name or a byte of content.
//!
//! - `core/`: pure decisions: placement, commits, listings, limits. No I/O, no clock, no chance.
//! - `store/`: the tables behind the `MetaStore` trait; `store/redb/` alone names redb.
//! - `api/`: requests over QUIC: one authorisation function, handlers by noun.
//! - `checkin`, `nodes`: nodes as they report themselves, believed after a dial-back.
//! - `outbox`: the delete queue. - `gc`: filters of what nodes should hold, lost pieces.
//! - `admin`: the local socket behind the command line.
//! - `config`: the directory. - `run`: all of it together. - `cli`: the command line.
//!
//! **Invariant:** an answer that says a change was made is sent after the change is durable.
//! **Invariant:** every handler takes an access value that only the authorisation function makes.

mod admin;
mod api;
mod checkin;
mod cli;
mod clock;
mod config;
mod core;
mod gc;
mod limits;
mod nodes;
mod outbox;
mod run;
mod state;
mod store;

pub use cli::cli_main;
pub use config::{DirectoryError, SetupOptions, setup};
pub use gc::GcOptions;
pub use run::{CreateProjectError, RunError, RunOptions, Running};
