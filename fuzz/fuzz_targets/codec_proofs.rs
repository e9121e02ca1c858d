//! Proofs, paths, share hashes and lists of segments: no other byte or hash is ever taken.
#![no_main]

#[path = "../bodies/codec.rs"]
#[allow(dead_code, reason = "each target runs one of its bodies")]
mod body;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| body::proofs(bytes));
