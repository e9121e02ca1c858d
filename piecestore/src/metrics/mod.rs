//! A process's figures for Prometheus, in its text format (version 0.0.4).
//!
//! They are those of `piecestore status --json`, asked of each node when somebody scrapes. Names follow Prometheus' rules: base units, `_total`
//! for what only grows. They are read by dashboards: they are added to, not changed.

mod listener;
mod text;

pub use listener::{bind, serve};
pub use text::render;
