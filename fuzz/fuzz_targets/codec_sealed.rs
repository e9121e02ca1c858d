//! Sealed messages: only honest ones open, with every back end alike, and nothing else is released.
#![no_main]

#[path = "../bodies/codec.rs"]
#[allow(dead_code, reason = "each target runs one of its bodies")]
mod body;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| body::sealed(bytes));
