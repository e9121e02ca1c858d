//! The verbs over in-memory streams, the simulated disk and virtual time.

mod delete;
mod dispatch;
mod get;
mod memory;
mod put;
mod world;
