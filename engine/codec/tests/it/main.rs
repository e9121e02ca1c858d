//! The codec from outside: whole segments, published vectors, and an independent reader.

#![expect(clippy::unwrap_used, reason = "a helper that fails stops its test")]

mod independent;
mod segment;
mod segments;
mod vectors;
