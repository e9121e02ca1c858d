//! From shares back to plaintext.

use std::fmt;
use std::ops::Range;

use super::{ROWS_MAX, chunk_lens, sealed_of};
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
pub struct SegmentRestorer {
    shape: Shape,
    opener: Opener,
    plan: RowPlan,
    stripe: u32,
    /// The chunk that lies across two stripes, and how much of it was there.
    across: Box<[u8; SEALED_CHUNK_BYTES]>,
    held: usize,
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
        Ok(Self {
            shape: *shape,
            opener,
            plan: RowPlan::with_level(level, shape.required(), shape.total(), present, &missing)?,
            stripe: 0,
            across: Box::new([0; SEALED_CHUNK_BYTES]),
            held: 0,
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
        let (required, share_len) = (
            usize::from(self.shape.required()),
            self.shape.share_len(self.stripe),
        );
        let present_data = self
            .plan
            .present()
            .partition_point(|&index| usize::from(index) < required);
        for (given_count, expected_count) in [
            (recovery.len(), required - present_data),
            (hashes.len(), required),
        ] {
            if given_count != expected_count {
                return Err(CodeError::TargetCount {
                    given_count,
                    expected_count,
                }
                .into());
            }
        }
        let lens = recovery.iter().map(|share| (share.len(), share_len));
        for (len, expected_len) in lens.chain([(data.len(), required * share_len)]) {
            if len != expected_len {
                return Err(CodeError::ShareLen { len, expected_len }.into());
            }
        }
        let mut present: [&[u8]; ROWS_MAX] = [&[]; ROWS_MAX];
        let mut wanted: [&mut [u8]; ROWS_MAX] = std::array::from_fn(|_| Default::default());
        let (mut next_present, mut next_wanted) = (0, 0);
        for (index, share) in (0u8..).zip(data.chunks_exact_mut(share_len)) {
            if self.plan.present()[..present_data].contains(&index) {
                present[next_present] = share;
                next_present += 1;
            } else {
                wanted[next_wanted] = share;
                next_wanted += 1;
            }
        }
        present[next_present..required].copy_from_slice(recovery);
        for ((share, hash), &index) in present.iter().zip(hashes).zip(self.plan.present()) {
            if share_hash(self.shape.piece_len(), self.stripe, share) != *hash {
                let stripe = self.stripe;
                return Err(RestoreError::Share { stripe, index });
            }
        }
        self.apply(&present[..required], &mut wanted[..next_wanted])?;
        Ok(())
    }

    fn apply(&self, present: &[&[u8]], wanted: &mut [&mut [u8]]) -> Result<(), CodeError> {
        if wanted.is_empty() {
            return Ok(());
        }
        self.plan.apply(present, wanted)
    }

    /// Plaintext that [`open`](Self::open) gives for a stripe: that of the chunks that end in it.
    ///
    /// # Panics
    ///
    /// If the segment has no such stripe.
    pub fn plain_range(&self, stripe: u32) -> Range<u64> {
        let chunks = self.chunks_of(stripe);
        let plain_at = |chunk: u64| (chunk * CHUNK_BYTES as u64).min(self.shape.plain_len());
        plain_at(chunks.start)..plain_at(chunks.end)
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
        let range = self.plain_range(self.stripe);
        assert_eq!(
            plain.len() as u64,
            range.end - range.start,
            "plaintext of stripe {}",
            self.stripe
        );
        let expected_len = self.shape.share_len(self.stripe) * usize::from(self.shape.required());
        if data.len() != expected_len {
            let len = data.len();
            return Err(CodeError::ShareLen { len, expected_len }.into());
        }
        let opened = self.open_chunks(data, plain);
        match opened {
            Ok(()) => self.stripe += 1,
            Err(_) => plain.fill(0),
        }
        Ok(opened?)
    }

    fn open_chunks(&mut self, data: &[u8], plain: &mut [u8]) -> Result<(), OpenError> {
        let sealed = sealed_of(&self.shape, self.stripe);
        let mut data = &data[..(sealed.end - sealed.start) as usize];
        let mut plain = plain;
        for chunk in self.chunks_of(self.stripe) {
            let (plain_len, sealed_len, is_last) = chunk_lens(&self.shape, chunk);
            let (target, rest) = plain.split_at_mut(plain_len);
            plain = rest;
            let (source, rest) = data.split_at(sealed_len - self.held);
            data = rest;
            if self.held == 0 {
                self.opener
                    .open_chunk_into(chunk, is_last, source, target)?;
            } else {
                let across = &mut self.across[..sealed_len];
                across[self.held..].copy_from_slice(source);
                self.opener
                    .open_chunk_into(chunk, is_last, across, target)?;
                self.held = 0;
            }
        }
        // What is left begins a chunk that ends in the next stripe; of a chunk longer than a stripe a part was held before.
        self.across[self.held..self.held + data.len()].copy_from_slice(data);
        self.held += data.len();
        Ok(())
    }

    /// Chunks that end in a stripe.
    fn chunks_of(&self, stripe: u32) -> Range<u64> {
        let sealed = sealed_of(&self.shape, stripe);
        let ends_before = |end: u64| {
            if end == self.shape.sealed_len() {
                end.div_ceil(SEALED_CHUNK_BYTES as u64)
            } else {
                end / SEALED_CHUNK_BYTES as u64
            }
        };
        ends_before(sealed.start)..ends_before(sealed.end)
    }
}

impl fmt::Debug for SegmentRestorer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("SegmentRestorer")
            .field("shape", &self.shape)
            .field("stripe", &self.stripe)
            .field("plan", &self.plan)
            .finish_non_exhaustive()
    }
}
