//! Recovery shares and hashes of sealed stripes.

use std::fmt;
use std::ops::Range;

use super::{ROWS_MAX, step_columns};
use crate::level::Level;
use crate::rs::{CodeError, Encoder};
use crate::shape::Shape;
use crate::tree::{LockstepHasher, PieceTree};

/// Bytes between two recovery shares of a stripe.
///
/// Full shares back to back are 16 KiB apart: the same columns of all of them fall into one set of the L1, which holds 8 or 12 lines, and coding 64
/// rows took twice as long. Five lines more and 64 rows use all 64 sets; one line more would do for that, but then a store to a row meets the next
/// load of its neighbour at the same place of a page, which CPUs take for a dependency.
const GAP_BYTES: usize = 320;

/// Codes and hashes one segment's stripes, in order, some columns at a time.
pub struct StripeCoder {
    shape: Shape,
    encoder: Encoder,
    hasher: LockstepHasher,
    stripe: u32,
    /// Columns of the stripe that are done.
    done: usize,
}

impl StripeCoder {
    /// A coder at the start of a segment, at the level of the process.
    ///
    /// # Errors
    ///
    /// [`CodeError::Level`] if `STRAND_LEVEL` is wrong.
    pub fn new(shape: &Shape) -> Result<Self, CodeError> {
        Self::with_level(Level::of_process()?, shape)
    }

    /// [`StripeCoder::new`] at a level of the caller's choice.
    ///
    /// # Errors
    ///
    /// None that a shape can cause.
    pub fn with_level(level: Level, shape: &Shape) -> Result<Self, CodeError> {
        Ok(Self {
            shape: *shape,
            encoder: Encoder::with_level(level, shape.required(), shape.total())?,
            hasher: LockstepHasher::new(usize::from(shape.total()), shape.piece_len()),
            stripe: 0,
            done: 0,
        })
    }

    /// The stripe in work; the number of stripes once all are done.
    pub fn stripe(&self) -> u32 {
        self.stripe
    }

    /// Length of a buffer for the recovery shares of a stripe: a little more than theirs.
    ///
    /// # Panics
    ///
    /// If the segment has no such stripe.
    pub fn recovery_len(shape: &Shape, stripe: u32) -> usize {
        usize::from(shape.total() - shape.required()) * (shape.share_len(stripe) + GAP_BYTES)
    }

    /// Where the share of piece `index` lies in such a buffer.
    ///
    /// # Panics
    ///
    /// If the segment has no such stripe, or `index` is not that of a recovery share.
    pub fn recovery_range(shape: &Shape, stripe: u32, index: u8) -> Range<usize> {
        assert!(
            (shape.required()..shape.total()).contains(&index),
            "share {index} is no recovery share"
        );
        let share_len = shape.share_len(stripe);
        let start = usize::from(index - shape.required()) * (share_len + GAP_BYTES);
        start..start + share_len
    }

    /// Codes and hashes the next columns of the stripe in work; returns which.
    ///
    /// `data` are the stripe's data shares back to back, `recovery` room for its recovery shares, each of which is written at its
    /// [`recovery_range`](Self::recovery_range). The stripe is done when the range ends where a share does ([`Shape::share_len`]).
    ///
    /// # Errors
    ///
    /// [`CodeError::ShareLen`] if `data` is not as long as the stripe's data shares or `recovery` not
    /// [`recovery_len`](Self::recovery_len); nothing is written then.
    ///
    /// # Panics
    ///
    /// If all stripes are done.
    pub fn step(&mut self, data: &[u8], recovery: &mut [u8]) -> Result<Range<usize>, CodeError> {
        let (required, total) = (
            usize::from(self.shape.required()),
            usize::from(self.shape.total()),
        );
        let share_len = self.shape.share_len(self.stripe);
        let recovery_len = Self::recovery_len(&self.shape, self.stripe);
        for (len, expected_len) in [
            (data.len(), required * share_len),
            (recovery.len(), recovery_len),
        ] {
            if len != expected_len {
                return Err(CodeError::ShareLen { len, expected_len });
            }
        }
        let columns = self.done..share_len.min(self.done + step_columns(total));
        let mut rows: [&[u8]; ROWS_MAX] = [&[]; ROWS_MAX];
        for (row, share) in rows.iter_mut().zip(data.chunks_exact(share_len)) {
            *row = &share[columns.clone()];
        }
        let mut targets: [&mut [u8]; ROWS_MAX] = std::array::from_fn(|_| Default::default());
        for (target, share) in targets
            .iter_mut()
            .zip(recovery.chunks_exact_mut(share_len + GAP_BYTES))
        {
            *target = &mut share[columns.clone()];
        }
        let targets = &mut targets[..total - required];
        self.encoder.encode_into(&rows[..required], targets)?;
        for (row, target) in rows[required..].iter_mut().zip(targets) {
            *row = target;
        }
        self.hasher.push(&rows[..total]);
        self.done = columns.end;
        if self.done == share_len {
            (self.stripe, self.done) = (self.stripe + 1, 0);
        }
        Ok(columns)
    }

    /// The trees of all pieces, in index order.
    ///
    /// # Panics
    ///
    /// If stripes are missing.
    pub fn finish(self) -> Vec<PieceTree> {
        self.hasher.finish()
    }
}

impl fmt::Debug for StripeCoder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("StripeCoder")
            .field("shape", &self.shape)
            .field("stripe", &self.stripe)
            .field("done", &self.done)
            .finish_non_exhaustive()
    }
}
