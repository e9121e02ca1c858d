//! From an input to sealed segments: reads, seals chunk by chunk, and keeps no plaintext but one
//! buffer.
//!
//! A segment is read whole, or to the end of the input, before anything is asked of the satellite:
//! only then is its length known, also from a pipe. Runs on a blocking thread.

use std::io::{self, Read};
use std::sync::Arc;

use bytes::Bytes;
use strand_codec::{
    CHUNK_BYTES, ContentKey, INLINE_BYTES_MAX, SALT_BYTES, Sealer, SegmentContext, Shape,
    segment_bytes_max,
};
use strand_protocol::{Position, Scheme};

use crate::buffers::{Buffer, BufferStore};
use crate::limits::READ_BYTES;

const TAG_BYTES: usize = strand_codec::TAG_BYTES;

/// The one part that an upload has.
pub(super) const PART_NUMBER: u32 = 1;

/// A segment ready to be cut into pieces, or to be stored inline.
pub(super) struct SealedSegment {
    pub(super) position: Position,
    pub(super) plain_len: u64,
    pub(super) sealed_len: u64,
    pub(super) salt: [u8; SALT_BYTES],
    pub(super) key_commitment: [u8; 32],
    pub(super) body: Body,
}

pub(super) enum Body {
    /// The sealed bytes.
    Inline(Bytes),
    /// The sealed bytes and the zeros that fill the last stripe: all data shares are slices of it.
    Pieces { shape: Shape, padded: Bytes },
}

/// Cuts an input into sealed segments.
pub(super) struct SegmentReader {
    input: Box<dyn Read + Send>,
    content_key: ContentKey,
    object_id: [u8; 16],
    scheme: Scheme,
    segment_bytes: u64,
    /// What the input is expected to hold still; only a hint for how much memory to set aside.
    expected_bytes: Option<u64>,
    next_index: u32,
    is_at_end: bool,
    buffer: Vec<u8>,
    /// Sealed segments go back to it when all their pieces are sent.
    store: Arc<BufferStore>,
}

impl SegmentReader {
    pub(super) fn new(
        input: Box<dyn Read + Send>,
        expected_bytes: Option<u64>,
        content_key: ContentKey,
        object_id: [u8; 16],
        scheme: Scheme,
    ) -> Self {
        Self {
            input,
            content_key,
            object_id,
            scheme,
            segment_bytes: segment_bytes_max(scheme.required),
            expected_bytes,
            next_index: 0,
            is_at_end: false,
            buffer: vec![0; READ_BYTES],
            store: Arc::default(),
        }
    }

    pub(super) fn segment_bytes(&self) -> u64 {
        self.segment_bytes
    }

    /// The next segment; `None` after the last. An empty input has one empty segment.
    pub(super) fn next(&mut self) -> io::Result<Option<SealedSegment>> {
        if self.is_at_end {
            return Ok(None);
        }
        let mut filled = self.fill()?;
        if filled == 0 && self.next_index > 0 {
            return Ok(None);
        }
        let position = Position {
            part_number: PART_NUMBER,
            segment_index: self.next_index,
        };
        let mut salt = [0; SALT_BYTES];
        getrandom::fill(&mut salt).map_err(io::Error::other)?;
        let context = SegmentContext {
            object_id: self.object_id,
            part_number: position.part_number,
            segment_index: position.segment_index,
        };
        let sealer = Sealer::new(&self.content_key, &salt, &context);
        let mut sealed = Growing::new(self.store.lend(self.capacity()));
        let mut plain_len = 0;
        loop {
            let (chunks, rest) = self.buffer[..filled].as_chunks::<CHUNK_BYTES>();
            for chunk in chunks {
                sealed.push_chunk(&sealer, chunk);
            }
            plain_len += filled as u64;
            // Reads are whole but at the end of the input, and segments are whole reads: a rest is
            // the segment's last chunk.
            if self.is_at_end || plain_len == self.segment_bytes {
                sealed.push_chunk(&sealer, rest);
                break;
            }
            filled = self.fill()?;
        }
        self.next_index += 1;
        self.expected_bytes = self
            .expected_bytes
            .map(|expected| expected.saturating_sub(plain_len));
        let sealed_len = sealed.len as u64;
        let key_commitment = sealer.key_commitment();
        let body = if plain_len <= INLINE_BYTES_MAX {
            Body::Inline(sealed.finish(sealed_len as usize))
        } else {
            let shape = Shape::new(self.scheme.required, self.scheme.total, sealed_len)
                .map_err(io::Error::other)?;
            // piece_len is at most 4.2 MB and k at most 64.
            let padded_len = shape.piece_len() as usize * usize::from(self.scheme.required);
            let padded = sealed.finish(padded_len);
            Body::Pieces { shape, padded }
        };
        Ok(Some(SealedSegment {
            position,
            plain_len,
            sealed_len,
            salt,
            key_commitment,
            body,
        }))
    }

    /// Fills the buffer, less only at the end of the input.
    fn fill(&mut self) -> io::Result<usize> {
        let mut filled = 0;
        while filled < self.buffer.len() && !self.is_at_end {
            match self.input.read(&mut self.buffer[filled..]) {
                Ok(0) => self.is_at_end = true,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    /// Room for the sealed segment and the zeros after it, so that it need not move. Pages that are
    /// never touched cost nothing.
    fn capacity(&self) -> usize {
        let expected = self
            .expected_bytes
            .map_or(self.segment_bytes, |bytes| bytes.min(self.segment_bytes));
        let sealed = strand_codec::sealed_len(expected) as usize;
        sealed + usize::from(self.scheme.required) * 64 + CHUNK_BYTES
    }
}

/// Sealed bytes in a buffer that has room for all of them.
struct Growing {
    buffer: Buffer,
    len: usize,
    chunk_index: u64,
}

impl Growing {
    fn new(buffer: Buffer) -> Self {
        Self {
            buffer,
            len: 0,
            chunk_index: 0,
        }
    }

    fn push_chunk(&mut self, sealer: &Sealer, plain: &[u8]) {
        let end = self.len + plain.len() + TAG_BYTES;
        // A file that grew since its length was asked for.
        self.buffer.reserve(end);
        sealer.seal_chunk(self.chunk_index, plain, &mut self.buffer[self.len..end]);
        self.len = end;
        self.chunk_index += 1;
    }

    /// The sealed bytes, followed by zeros up to this length.
    fn finish(mut self, len: usize) -> Bytes {
        self.buffer.reserve(len);
        // The buffer may hold what an earlier segment left in it.
        self.buffer[self.len..len].fill(0);
        Bytes::from_owner(self.buffer).slice(..len)
    }
}

#[cfg(test)]
mod tests {
    use strand_codec::Opener;

    use super::*;

    /// Gives at most 7,001 bytes at a time, as a pipe may.
    struct Drip(io::Cursor<Vec<u8>>);

    impl Read for Drip {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let len = buffer.len().min(7_001);
            self.0.read(&mut buffer[..len])
        }
    }

    const SCHEME: Scheme = Scheme {
        required: 1,
        repair: 1,
        optimal: 2,
        total: 2,
    };
    const SEGMENT: usize = 4 << 20;

    /// Segments of an input of `len` bytes must open to it, with the lengths of the format.
    fn check(len: usize, lengths: &[usize]) {
        let input: Vec<u8> = (0..len).map(|at| (at % 251) as u8).collect();
        let key = || ContentKey::new([7; 32]);
        let source = Box::new(Drip(io::Cursor::new(input.clone())));
        let mut reader = SegmentReader::new(source, None, key(), [1; 16], SCHEME);
        assert_eq!(reader.segment_bytes(), SEGMENT as u64);
        let mut plain = Vec::new();
        let mut found = Vec::new();
        while let Some(segment) = reader.next().unwrap() {
            let context = SegmentContext {
                object_id: [1; 16],
                part_number: 1,
                segment_index: found.len() as u32,
            };
            assert_eq!(segment.position.segment_index, found.len() as u32);
            assert_eq!(
                segment.sealed_len,
                strand_codec::sealed_len(segment.plain_len)
            );
            let sealed = match segment.body {
                Body::Inline(sealed) => {
                    assert!(segment.plain_len <= INLINE_BYTES_MAX);
                    sealed
                }
                Body::Pieces { shape, padded } => {
                    assert_eq!(
                        padded.len() as u64,
                        shape.piece_len() * u64::from(SCHEME.required)
                    );
                    assert!(
                        padded[segment.sealed_len as usize..]
                            .iter()
                            .all(|byte| *byte == 0)
                    );
                    padded.slice(..segment.sealed_len as usize)
                }
            };
            let opener =
                Opener::new(&key(), &segment.salt, &segment.key_commitment, &context).unwrap();
            opener.open_into(&sealed, &mut plain).unwrap();
            found.push(segment.plain_len as usize);
        }
        assert_eq!(found, lengths, "lengths of the segments of {len} bytes");
        assert!(plain == input, "{len} bytes come back");
        assert!(reader.next().unwrap().is_none());
    }

    #[test]
    fn segments_have_the_lengths_of_the_format() {
        check(0, &[0]);
        check(1, &[1]);
        check(16_383, &[16_383]);
        check(16_384, &[16_384]);
        check(16_385, &[16_385]);
        check(READ_BYTES, &[READ_BYTES]);
        check(SEGMENT - 1, &[SEGMENT - 1]);
        check(SEGMENT, &[SEGMENT]);
        check(SEGMENT + 1, &[SEGMENT, 1]);
        check(2 * SEGMENT, &[SEGMENT, SEGMENT]);
        check(2 * SEGMENT + 20_000, &[SEGMENT, SEGMENT, 20_000]);
    }

    #[test]
    fn a_failing_input_is_an_error() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::from(io::ErrorKind::ConnectionReset))
            }
        }
        let mut reader = SegmentReader::new(
            Box::new(Broken),
            Some(10),
            ContentKey::new([7; 32]),
            [1; 16],
            SCHEME,
        );
        assert_eq!(
            reader.next().err().map(|error| error.kind()),
            Some(io::ErrorKind::ConnectionReset)
        );
    }
}
