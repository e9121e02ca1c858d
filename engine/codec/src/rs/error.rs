//! What a caller of the erasure code can get wrong.

use crate::level::LevelError;
use crate::shape::{COLUMN_BYTES, ShapeError};

/// Why a stripe was not coded. All of these are the caller's bookkeeping; nothing was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CodeError {
    /// The counts are not those of a scheme.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// `STRAND_LEVEL` asks for what this CPU does not run: the fault of whoever set it.
    #[error(transparent)]
    Level(#[from] LevelError),
    /// The number of data or present shares is not the required count.
    #[error("{given_count} shares given, {required_count} required")]
    ShareCount {
        /// Shares given.
        given_count: usize,
        /// Shares required, `k`.
        required_count: u8,
    },
    /// The number of shares to write is not the number planned.
    #[error("{given_count} shares to write given, {expected_count} expected")]
    TargetCount {
        /// Shares given.
        given_count: usize,
        /// Shares expected.
        expected_count: usize,
    },
    /// The shares of one call differ in length.
    #[error("share length {len} != {expected_len} of the first share")]
    ShareLen {
        /// Length of the share that differs.
        len: usize,
        /// Length of the first share.
        expected_len: usize,
    },
    /// The code works on whole columns.
    #[error("share length {len} is not a multiple of 64")]
    ColumnLen {
        /// The length given.
        len: usize,
    },
    /// An index no share of this scheme has.
    #[error("share index {index} >= {total_count} shares")]
    IndexOutOfRange {
        /// The index given.
        index: u8,
        /// All shares, `n`.
        total_count: u8,
    },
    /// Present indices rise strictly; this one does not.
    #[error("share index {index} does not follow {previous}")]
    IndexOrder {
        /// The index given.
        index: u8,
        /// The index before it.
        previous: u8,
    },
    /// A share that is present need not be rebuilt.
    #[error("wanted index {index} is present")]
    WantedPresent {
        /// The index given.
        index: u8,
    },
    /// A share is wanted once.
    #[error("wanted index {index} given twice")]
    WantedTwice {
        /// The index given.
        index: u8,
    },
}

/// All shares have one length, a multiple of a column; returns it (0 if there are none).
pub(super) fn check_lens(mut lens: impl Iterator<Item = usize>) -> Result<usize, CodeError> {
    let expected_len = lens.next().unwrap_or(0);
    if !expected_len.is_multiple_of(COLUMN_BYTES) {
        return Err(CodeError::ColumnLen { len: expected_len });
    }
    match lens.find(|&len| len != expected_len) {
        Some(len) => Err(CodeError::ShareLen { len, expected_len }),
        None => Ok(expected_len),
    }
}
