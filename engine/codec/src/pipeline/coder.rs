//! Recovery shares and hashes of sealed stripes.

use std::fmt;
use std::ops::Range;

use super::{ROWS_MAX, step_columns};
use crate::level::Level;
use crate::rs::{CodeError, Encoder};
use crate::shape::Shape;
use crate::tree::{LockstepHasher, PieceTree};

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

    /// Codes and hashes the next columns of the stripe in work; returns which.
    ///
    /// `data` are the stripe's data shares back to back, `recovery` room for its recovery shares back to back. The stripe is done
    /// when the range ends where a share does ([`Shape::share_len`]).
    ///
    /// # Errors
    ///
    /// [`CodeError::ShareLen`] if `data` or `recovery` has not the length of the stripe's shares; nothing is written then.
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
        for (len, count) in [(data.len(), required), (recovery.len(), total - required)] {
            if len != count * share_len {
                return Err(CodeError::ShareLen {
                    len,
                    expected_len: count * share_len,
                });
            }
        }
        let columns = self.done..share_len.min(self.done + step_columns(total));
        let mut rows: [&[u8]; ROWS_MAX] = [&[]; ROWS_MAX];
        for (row, share) in rows.iter_mut().zip(data.chunks_exact(share_len)) {
            *row = &share[columns.clone()];
        }
        let mut targets: [&mut [u8]; ROWS_MAX] = std::array::from_fn(|_| Default::default());
        for (target, share) in targets.iter_mut().zip(recovery.chunks_exact_mut(share_len)) {
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
