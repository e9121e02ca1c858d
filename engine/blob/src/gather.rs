//! What one request writes: whole blocks that were laid out, and between two runs of them, if at all, blocks that stay where they lie.
//!
//! A long body that came in at the right place of its memory is written from there: copying 2 MiB costs about as much memory traffic as
//! the disk's own, and took a fifth of its bandwidth.

use std::ops::Range;

use bytes::Bytes;

use crate::buffer::IoBuffer;
use crate::layout::BLOCK_BYTES;

/// Runs of whole blocks at addresses that Direct I/O takes, in their order.
#[derive(Debug)]
pub struct Gather {
    head: IoBuffer,
    rest: Option<(Bytes, IoBuffer)>,
}

impl Gather {
    /// Blocks of somebody else between two of ours.
    ///
    /// # Panics
    ///
    /// If `middle` is not made of whole blocks, or lies elsewhere than at a block's address.
    pub(crate) fn around(head: IoBuffer, middle: Bytes, tail: IoBuffer) -> Self {
        let is_aligned = middle.as_ptr().addr().is_multiple_of(BLOCK_BYTES);
        assert!(
            is_aligned && middle.len().is_multiple_of(BLOCK_BYTES),
            "the middle of a gather is made of blocks"
        );
        let rest = Some((middle, tail));
        Self { head, rest }
    }

    /// Bytes of all runs: a multiple of 4,096, never 0.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a gather is never empty")]
    pub fn len(&self) -> usize {
        self.runs().iter().map(|run| run.len()).sum()
    }

    /// All runs; some may be empty.
    #[must_use]
    pub fn runs(&self) -> [&[u8]; 3] {
        match &self.rest {
            Some((middle, tail)) => [&self.head, middle, tail],
            None => [&self.head, &[], &[]],
        }
    }

    /// The runs that the bytes `range` of the whole lie in, cut to it; some may be empty.
    #[must_use]
    pub fn within(&self, range: Range<usize>) -> [&[u8]; 3] {
        let mut before = 0;
        self.runs().map(|run| {
            let start = range.start.saturating_sub(before).min(run.len());
            let end = range.end.saturating_sub(before).min(run.len());
            before += run.len();
            &run[start..end.max(start)]
        })
    }

    /// What was laid out first; all of it, unless there is a middle.
    #[must_use]
    pub fn into_head(self) -> IoBuffer {
        self.head
    }
}

impl From<IoBuffer> for Gather {
    fn from(buffer: IoBuffer) -> Self {
        Self {
            head: buffer,
            rest: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks(byte: u8, count: usize) -> IoBuffer {
        let mut buffer = IoBuffer::zeroed(count * BLOCK_BYTES);
        buffer.fill(byte);
        buffer
    }

    #[test]
    fn runs_are_cut_where_the_range_is() {
        let middle = Bytes::from_owner(blocks(2, 3));
        let gather = Gather::around(blocks(1, 1), middle, blocks(3, 2));
        assert_eq!(gather.len(), 6 * BLOCK_BYTES);
        let whole = gather.runs().concat();
        for start in (0..=6).map(|block| block * BLOCK_BYTES) {
            for end in (start..=6 * BLOCK_BYTES).step_by(BLOCK_BYTES) {
                assert_eq!(gather.within(start..end).concat(), whole[start..end]);
            }
        }
    }

    #[test]
    #[should_panic(expected = "made of blocks")]
    fn a_middle_at_another_address_is_refused() {
        let middle = Bytes::from_owner(blocks(2, 3)).slice(8..8 + BLOCK_BYTES);
        let _ = Gather::around(blocks(1, 1), middle, blocks(3, 1));
    }
}
