//! What is compared: a list of rows, each two ways to the same bytes.

use anyhow::Result;
use strand_codec::Level;

use super::{erasure, packets, sealing, segment};

/// One comparison.
pub(super) struct Row {
    /// What the keys of its figures begin with.
    pub(super) name: &'static str,
    /// Whom ours is compared with, as keys name it.
    pub(super) peer: &'static str,
    /// Makes its inputs.
    pub(super) prepare: fn(Level) -> Result<Box<dyn Contest>>,
}

/// Inputs and outputs of a row, and the work of both sides.
pub(super) trait Contest {
    /// Bytes of user data that one repetition works on.
    fn user_bytes(&self) -> usize;

    /// Does our work so many times.
    fn ours(&mut self, repeats: u32) -> Result<()>;

    /// Does the peer's work so many times.
    fn peer(&mut self, repeats: u32) -> Result<()>;

    /// Hashes of what each side wrote last, ours first.
    fn outputs(&self) -> [blake3::Hash; 2];
}

/// All rows, in the order of the run.
pub(super) const ROWS: &[Row] = &[
    Row {
        name: "encode_4k",
        peer: "stock",
        prepare: |level| erasure::encode(level, 4 * erasure::KIB),
    },
    Row {
        name: "encode_16k",
        peer: "stock",
        prepare: |level| erasure::encode(level, 16 * erasure::KIB),
    },
    Row {
        name: "encode_segment",
        peer: "stock",
        prepare: |level| erasure::encode(level, erasure::SEGMENT_SHARE_BYTES),
    },
    Row {
        name: "decode_4k",
        peer: "stock",
        prepare: |level| erasure::rows(level, 19, 4 * erasure::KIB),
    },
    Row {
        name: "decode_64k",
        peer: "stock",
        prepare: |level| erasure::rows(level, 19, 64 * erasure::KIB),
    },
    Row {
        name: "rows_3",
        peer: "stock",
        prepare: |level| erasure::rows(level, 3, 16 * erasure::KIB),
    },
    Row {
        name: "seal",
        peer: "aws_lc",
        prepare: sealing::chunks,
    },
    Row {
        name: "packet",
        peer: "aws_lc",
        prepare: packets::packets,
    },
    Row {
        name: "tree",
        peer: "blake3",
        prepare: |_| segment::tree(),
    },
    Row {
        name: "pipeline",
        peer: "parts",
        prepare: segment::pipeline,
    },
    Row {
        name: "inverse",
        peer: "parts",
        prepare: segment::inverse,
    },
];
