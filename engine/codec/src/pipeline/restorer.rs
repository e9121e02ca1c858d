//! From shares back to plaintext.

use std::ops::Range;
use std::sync::Arc;

use super::filler::{StripeFiller, check_count};
use super::opener::ChunkOpener;
use super::sealed_of;
use crate::level::Level;
use crate::rs::{CodeError, RowPlan};
use crate::seal::{OpenError, Opener};
use crate::shape::{CHUNK_BYTES, SEALED_CHUNK_BYTES, Shape};
use crate::tree::{Hash, share_hash};

/// Why a stripe was not restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// A share is not what its piece's tree says: whoever sent it lies, or its disk does.
    #[error("share {stripe} of piece {index} has another hash")]
    Share {
        /// The stripe.
        stripe: u32,
        /// Index of the piece.
        index: u8,
    },
    /// The stripe cannot be coded: the caller's bookkeeping.
    #[error(transparent)]
    Code(#[from] CodeError),
    /// The sealed bytes do not open.
    #[error(transparent)]
    Open(#[from] OpenError),
}

/// Restores the plaintext of one segment from any `k` pieces: for each stripe in order [`fill`](Self::fill), then [`open`](Self::open).
#[derive(Debug)]
pub struct SegmentRestorer {
    shape: Shape,
    filler: StripeFiller,
    opener: ChunkOpener,
    stripe: u32,
}

impl SegmentRestorer {
    /// A restorer at the start of a segment. `present` are the indices of the `k` pieces to be given, ascending.
    ///
    /// # Errors
    ///
    /// [`CodeError`] if they are not that.
    pub fn new(shape: &Shape, opener: Opener, present: &[u8]) -> Result<Self, CodeError> {
        Self::with_level(Level::of_process()?, shape, opener, present)
    }

    /// [`SegmentRestorer::new`] at a level of the caller's choice.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn with_level(
        level: Level,
        shape: &Shape,
        opener: Opener,
        present: &[u8],
    ) -> Result<Self, CodeError> {
        let missing: Vec<u8> = (0..shape.required())
            .filter(|index| !present.contains(index))
            .collect();
        let plan = RowPlan::with_level(level, shape.required(), shape.total(), present, &missing)?;
        let chunks = 0..shape.sealed_len().div_ceil(SEALED_CHUNK_BYTES as u64);
        Ok(Self {
            shape: *shape,
            filler: StripeFiller::new(shape, Arc::new(plan))?,
            opener: ChunkOpener::new(opener, shape.sealed_len(), chunks),
            stripe: 0,
        })
    }

    /// The stripe in work; the number of stripes once all are done.
    pub fn stripe(&self) -> u32 {
        self.stripe
    }

    /// Checks the shares of the stripe in work and computes its missing data shares.
    ///
    /// `data` are the data shares back to back, those that are present at their places; `recovery` the present recovery shares in the order of
    /// their indices, `hashes` the share hashes of all present pieces in that order (of pieces of one share their roots).
    ///
    /// # Errors
    ///
    /// [`RestoreError::Share`] names the first share that is not what it should be, [`RestoreError::Code`] what does not fit in number or
    /// length; `data` is as before then.
    ///
    /// # Panics
    ///
    /// If all stripes are done.
    pub fn fill(
        &self,
        data: &mut [u8],
        recovery: &[&[u8]],
        hashes: &[Hash],
    ) -> Result<(), RestoreError> {
        let stripe = self.stripe;
        let (required, share_len) = self.filler.check(stripe, data, recovery)?;
        check_count(hashes.len(), required)?;
        if let Some(share) = recovery.iter().find(|share| share.len() != share_len) {
            return Err(CodeError::ShareLen {
                len: share.len(),
                expected_len: share_len,
            }
            .into());
        }
        let mut recovery_left = recovery.iter().copied();
        for (&index, hash) in self.filler.present().iter().zip(hashes) {
            let start = usize::from(index) * share_len;
            let share = match data.get(start..start + share_len) {
                Some(share) => share,
                None => recovery_left.next().unwrap_or_default(),
            };
            if share_hash(self.shape.piece_len(), stripe, share) != *hash {
                return Err(RestoreError::Share { stripe, index });
            }
        }
        Ok(self.filler.fill(stripe, 0..share_len, data, recovery)?)
    }

    /// Plaintext that [`open`](Self::open) gives for a stripe: that of the chunks that end in it.
    ///
    /// # Panics
    ///
    /// If the segment has no such stripe.
    pub fn plain_range(&self, stripe: u32) -> Range<u64> {
        let sealed = sealed_of(&self.shape, stripe);
        let ends_before = |end: u64| {
            if end == self.shape.sealed_len() {
                self.shape.plain_len()
            } else {
                end / SEALED_CHUNK_BYTES as u64 * CHUNK_BYTES as u64
            }
        };
        ends_before(sealed.start)..ends_before(sealed.end)
    }

    /// Opens the chunks that end in the stripe in work into `plain`; the next stripe is in work then.
    ///
    /// `data` are its data shares back to back, as [`fill`](Self::fill) left them.
    ///
    /// # Errors
    ///
    /// [`RestoreError::Open`] if a chunk is not what was sealed; all of `plain` is zeroed then. [`RestoreError::Code`] if `data` is not as long as
    /// the stripe's data shares.
    ///
    /// # Panics
    ///
    /// If `plain` is not as long as [`plain_range`](Self::plain_range).
    pub fn open(&mut self, data: &[u8], plain: &mut [u8]) -> Result<(), RestoreError> {
        let expected_len = self.shape.share_len(self.stripe) * usize::from(self.shape.required());
        if data.len() != expected_len {
            let len = data.len();
            return Err(CodeError::ShareLen { len, expected_len }.into());
        }
        let sealed = sealed_of(&self.shape, self.stripe);
        let sealed = &data[..(sealed.end - sealed.start) as usize];
        self.opener.open(sealed, plain)?;
        self.stripe += 1;
        Ok(())
    }
}
