//! Shapes that a stranger gives: what is taken adds up.
#![no_main]

#[path = "../bodies/codec.rs"]
#[allow(dead_code, reason = "each target runs one of its bodies")]
mod body;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| body::shape(bytes));
