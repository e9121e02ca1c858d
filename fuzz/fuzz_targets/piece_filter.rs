//! Piece filters as a node receives them: what is taken is canonical and answers any question, and no wanted piece is ever missing from one.
#![no_main]

#[path = "../bodies/piece_filter.rs"]
mod body;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| body::run(bytes));
