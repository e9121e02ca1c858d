//! From plaintext to shares.

use std::fmt;
use std::ops::Range;

use super::coder::StripeCoder;
use super::{chunk_lens, chunks_from, sealed_of};
use crate::level::Level;
use crate::rs::CodeError;
use crate::seal::Sealer;
use crate::shape::{CHUNK_BYTES, SEALED_CHUNK_BYTES, Shape};
use crate::tree::PieceTree;

/// Makes the shares of one segment: for each stripe in order [`seal`](Self::seal) once, then [`step`](Self::step) until its columns are done.
pub struct SegmentWriter {
    shape: Shape,
    sealer: Sealer,
    coder: StripeCoder,
    /// The chunk that lies across two stripes, sealed, and what of it is still to come.
    across: Box<[u8; SEALED_CHUNK_BYTES]>,
    left: Range<usize>,
}

impl SegmentWriter {
    /// A writer at the start of a segment.
    ///
    /// # Errors
    ///
    /// [`CodeError::Level`] if `STRAND_LEVEL` is wrong.
    pub fn new(shape: &Shape, sealer: Sealer) -> Result<Self, CodeError> {
        Self::with_level(Level::of_process()?, shape, sealer)
    }

    /// [`SegmentWriter::new`] at a level of the caller's choice.
    ///
    /// # Errors
    ///
    /// None that a shape can cause.
    pub fn with_level(level: Level, shape: &Shape, sealer: Sealer) -> Result<Self, CodeError> {
        Ok(Self {
            shape: *shape,
            sealer,
            coder: StripeCoder::with_level(level, shape)?,
            across: Box::new([0; SEALED_CHUNK_BYTES]),
            left: 0..0,
        })
    }

    /// The stripe in work; the number of stripes once all are done.
    pub fn stripe(&self) -> u32 {
        self.coder.stripe()
    }

    /// Plaintext that [`seal`](Self::seal) takes for a stripe: the chunks that begin in it.
    ///
    /// # Panics
    ///
    /// If the segment has no such stripe.
    pub fn plain_range(&self, stripe: u32) -> Range<u64> {
        let chunks = chunks_from(&sealed_of(&self.shape, stripe));
        let plain_at = |chunk: u64| (chunk * CHUNK_BYTES as u64).min(self.shape.plain_len());
        plain_at(chunks.start)..plain_at(chunks.end)
    }

    /// Seals the plaintext of the stripe in work into its data shares, which lie back to back.
    ///
    /// To be called once for each stripe, before its first step.
    ///
    /// # Panics
    ///
    /// If `plain` is not as long as [`plain_range`](Self::plain_range), or `data` not as long as the stripe's data shares.
    pub fn seal(&mut self, plain: &[u8], data: &mut [u8]) {
        let stripe = self.stripe();
        let range = self.plain_range(stripe);
        assert_eq!(
            plain.len() as u64,
            range.end - range.start,
            "plaintext of stripe {stripe}"
        );
        let stripe_len = self.shape.share_len(stripe) * usize::from(self.shape.required());
        assert_eq!(data.len(), stripe_len, "data shares of stripe {stripe}");
        let sealed = sealed_of(&self.shape, stripe);
        let (data, padding) = data.split_at_mut((sealed.end - sealed.start) as usize);
        padding.fill(0);
        let mut filled = self.left.len();
        data[..filled].copy_from_slice(&self.across[self.left.clone()]);
        self.left = 0..0;
        let mut plain = plain;
        for chunk in chunks_from(&sealed) {
            let (plain_len, sealed_len, _) = chunk_lens(self.shape.sealed_len(), chunk);
            let (of_chunk, rest) = plain.split_at(plain_len);
            plain = rest;
            let room = &mut data[filled..];
            if sealed_len <= room.len() {
                self.sealer
                    .seal_chunk(chunk, of_chunk, &mut room[..sealed_len]);
            } else {
                // The last one that begins here goes on in the next stripe.
                let across = &mut self.across[..sealed_len];
                self.sealer.seal_chunk(chunk, of_chunk, across);
                room.copy_from_slice(&across[..room.len()]);
                self.left = room.len()..sealed_len;
            }
            filled += sealed_len;
        }
    }

    /// As [`StripeCoder::step`].
    ///
    /// # Errors
    ///
    /// As there.
    ///
    /// # Panics
    ///
    /// As there.
    pub fn step(&mut self, data: &[u8], recovery: &mut [u8]) -> Result<Range<usize>, CodeError> {
        self.coder.step(data, recovery)
    }

    /// The trees of all pieces, in index order.
    ///
    /// # Panics
    ///
    /// If stripes are missing.
    pub fn finish(self) -> Vec<PieceTree> {
        self.coder.finish()
    }
}

impl fmt::Debug for SegmentWriter {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("SegmentWriter")
            .field("coder", &self.coder)
            .finish_non_exhaustive()
    }
}
