//! Sealed bytes that come in parts: they open as the whole does, and damage is noticed wherever they are cut.
#![no_main]

#[path = "../bodies/codec.rs"]
#[allow(dead_code, reason = "each target runs one of its bodies")]
mod body;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| body::parts(bytes));
