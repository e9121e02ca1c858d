//! One pass from plaintext to hashed pieces, and one back.
//!
//! A segment goes through stripe by stripe, and a stripe by columns few enough that all its rows lie in a core's own cache: what
//! was sealed is coded and hashed before it leaves. Buffers are the caller's; the work of one call stays below some 256 KiB of rows,
//! so that an executor gets its turn. Nothing allocates but `new` and `finish`.
//!
//! `coder` makes recovery shares and hashes, `writer` puts sealing in front of it. On the way back `filler` computes what is missing and `opener` opens,
//! for callers that have checked their shares; `restorer` checks as well.

mod coder;
mod filler;
mod opener;
mod restorer;
#[cfg(test)]
mod tests;
mod writer;

pub use coder::StripeCoder;
pub use filler::StripeFiller;
pub use opener::ChunkOpener;
pub use restorer::{RestoreError, SegmentRestorer};
pub use writer::SegmentWriter;

use std::ops::Range;

use crate::seal::TAG_BYTES;
use crate::shape::{LEAF_BYTES, SEALED_CHUNK_BYTES, Shape};

/// Bytes of all rows that one call works on, about.
const STEP_BYTES: usize = 256 * 1_024;

/// Most rows of a stripe.
const ROWS_MAX: usize = 255;

/// Columns of a step: whole leaves, at least one.
fn step_columns(row_count: usize) -> usize {
    (STEP_BYTES / row_count / LEAF_BYTES).max(1) * LEAF_BYTES
}

/// Sealed bytes that a stripe holds.
fn sealed_of(shape: &Shape, stripe: u32) -> Range<u64> {
    let last = shape.required() - 1;
    shape.sealed_range(stripe, 0).start..shape.sealed_range(stripe, last).end
}

/// Chunks that begin in a range of sealed bytes.
fn chunks_from(sealed: &Range<u64>) -> Range<u64> {
    let bytes = SEALED_CHUNK_BYTES as u64;
    sealed.start.div_ceil(bytes)..sealed.end.div_ceil(bytes)
}

/// Plaintext and sealed length of a chunk of a segment that has so many sealed bytes; and whether it is the last one.
///
/// Of lengths that no segment has the last chunk is full, or shorter than a tag.
fn chunk_lens(sealed_len: u64, chunk: u64) -> (usize, usize, bool) {
    let left = sealed_len.saturating_sub(chunk.saturating_mul(SEALED_CHUNK_BYTES as u64));
    let chunk_len = left.min(SEALED_CHUNK_BYTES as u64);
    let plain_len = chunk_len.saturating_sub(TAG_BYTES as u64);
    (plain_len as usize, chunk_len as usize, chunk_len == left)
}
