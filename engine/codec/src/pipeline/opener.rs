//! Sealed bytes in order to plaintext, wherever they were cut.

use std::fmt;
use std::ops::Range;

use super::chunk_lens;
use crate::seal::{OpenError, Opener};
use crate::shape::SEALED_CHUNK_BYTES;

/// Opens a run of a segment's chunks from its sealed bytes, which come in order and in parts of any length.
///
/// Chunks that are whole in a part are read from there; one that is not is put together in a buffer that is made once.
pub struct ChunkOpener {
    opener: Opener,
    /// Of the whole segment: it says which chunk is the last, and how long that is.
    sealed_len: u64,
    /// Chunks that are still to come.
    chunks: Range<u64>,
    /// The front of the next chunk, if a part ended in it.
    across: Box<[u8; SEALED_CHUNK_BYTES]>,
    held: usize,
}

impl ChunkOpener {
    /// An opener of `chunks`, in a segment of `sealed_len` sealed bytes.
    ///
    /// Lengths that no segment has are not looked for here: a chunk of such a segment does not open.
    pub fn new(opener: Opener, sealed_len: u64, chunks: Range<u64>) -> Self {
        Self {
            opener,
            sealed_len,
            chunks,
            across: Box::new([0; SEALED_CHUNK_BYTES]),
            held: 0,
        }
    }

    /// Chunks that are not opened yet.
    pub fn chunks(&self) -> Range<u64> {
        self.chunks.clone()
    }

    /// Plaintext bytes that the next `sealed_count` sealed bytes give.
    pub fn plain_count(&self, sealed_count: usize) -> usize {
        let whole = self.whole(sealed_count);
        whole.map(|(_, plain_len, _, _)| plain_len).sum()
    }

    /// Opens the chunks that end in `sealed`, the next bytes, into `plain`.
    ///
    /// # Errors
    ///
    /// [`OpenError`] if a chunk is not what was sealed; all of `plain` is zeroed then, and the opener where it was before.
    ///
    /// # Panics
    ///
    /// If `plain` is not [`plain_count`](Self::plain_count) bytes long, or there are more bytes than the chunks have.
    pub fn open(&mut self, sealed: &[u8], plain: &mut [u8]) -> Result<(), OpenError> {
        let expected_count = self.plain_count(sealed.len());
        assert_eq!(plain.len(), expected_count, "plaintext of the next bytes");
        match self.open_whole(sealed, plain) {
            Ok(rest) => {
                // It begins a chunk that ends in the next part; of a chunk longer than a part some was held before.
                let held = self.held + rest.len();
                self.across[self.held..held].copy_from_slice(rest);
                self.held = held;
                Ok(())
            }
            Err(error) => {
                plain.fill(0);
                Err(error)
            }
        }
    }

    /// Opens the chunks that end in `sealed` and returns what is left of it.
    fn open_whole<'a>(
        &mut self,
        sealed: &'a [u8],
        plain: &mut [u8],
    ) -> Result<&'a [u8], OpenError> {
        let (mut rest, mut plain, mut held) = (sealed, plain, self.held);
        let mut next = self.chunks.start;
        for (chunk, plain_len, chunk_len, is_last) in self.whole(sealed.len()) {
            let (target, plain_rest) = plain.split_at_mut(plain_len);
            plain = plain_rest;
            let (source, sealed_rest) = rest.split_at(chunk_len - held);
            rest = sealed_rest;
            let whole = if held == 0 {
                source
            } else {
                let across = &mut self.across[..chunk_len];
                across[held..].copy_from_slice(source);
                held = 0;
                across
            };
            self.opener.open_chunk_into(chunk, is_last, whole, target)?;
            next = chunk + 1;
        }
        assert!(
            rest.is_empty() || next < self.chunks.end,
            "{} bytes after the last chunk",
            rest.len()
        );
        if next > self.chunks.start {
            (self.chunks.start, self.held) = (next, 0);
        }
        Ok(rest)
    }

    /// Of each chunk that is whole with so many further bytes: its index, its plaintext and sealed length, and whether it is the segment's last.
    fn whole(
        &self,
        sealed_count: usize,
    ) -> impl Iterator<Item = (u64, usize, usize, bool)> + use<> {
        let sealed_len = self.sealed_len;
        let mut left = self.held + sealed_count;
        self.chunks.clone().map_while(move |chunk| {
            let (plain_len, chunk_len, is_last) = chunk_lens(sealed_len, chunk);
            left = left.checked_sub(chunk_len)?;
            // A chunk beyond the end of the segment is never whole.
            (chunk_len > 0).then_some((chunk, plain_len, chunk_len, is_last))
        })
    }
}

impl fmt::Debug for ChunkOpener {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ChunkOpener")
            .field("chunks", &self.chunks)
            .field("held", &self.held)
            .finish_non_exhaustive()
    }
}
