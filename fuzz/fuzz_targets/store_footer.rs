//! Footers with their hash made right: what is taken names records that follow each other.
#![no_main]

#[path = "../bodies/store.rs"]
#[allow(dead_code, reason = "each target runs one of its bodies")]
mod body;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| body::footer(bytes));
