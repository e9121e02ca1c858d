//! The codec from outside: whole segments, published vectors, an independent reader, and the level.

#![expect(clippy::unwrap_used, reason = "a helper that fails stops its test")]

mod fuzz;
mod independent;
mod level;
mod segment;
mod segments;
mod vectors;
