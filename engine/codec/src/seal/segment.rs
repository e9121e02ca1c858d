//! Sealing of segments: chunked-encryption under the content key, bound to the segment's place.
//!
//! The context names object id, part number and segment index, never the location, so copies
//! and moves keep the sealed bytes. Salt and key commitment lie in the segment's metadata; the
//! sealed bytes are the chunks alone, and chunk `i` begins at `16,400 i`.

use std::fmt;

use zeroize::{Zeroize, ZeroizeOnDrop};

use super::aead::Backend;
use super::chunked::{KEY_COMMITMENT_BYTES, MessageKey, OpenError, SALT_BYTES};

/// The random key of one object's content. Wiped when dropped.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct ContentKey([u8; 32]);

impl ContentKey {
    /// Takes 32 uniformly random bytes as a key.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The key's bytes, for the object header.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for ContentKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("ContentKey(..)")
    }
}

/// Which segment of which object: bytes sealed for one open for no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentContext {
    /// The object's id.
    pub object_id: [u8; 16],
    /// Number of the part.
    pub part_number: u32,
    /// Index of the segment in its part.
    pub segment_index: u32,
}

const CONTEXT_PREFIX: &[u8; 17] = b"strand v1 segment";

impl SegmentContext {
    fn to_bytes(self) -> [u8; CONTEXT_PREFIX.len() + 24] {
        let mut bytes = [0; CONTEXT_PREFIX.len() + 24];
        bytes[..17].copy_from_slice(CONTEXT_PREFIX);
        bytes[17..33].copy_from_slice(&self.object_id);
        bytes[33..37].copy_from_slice(&self.part_number.to_le_bytes());
        bytes[37..].copy_from_slice(&self.segment_index.to_le_bytes());
        bytes
    }
}

/// Seals one segment.
pub struct Sealer(MessageKey);

impl Sealer {
    /// A sealer for one segment. `salt` must be fresh random bytes.
    pub fn new(key: &ContentKey, salt: &[u8; SALT_BYTES], context: &SegmentContext) -> Self {
        Self::with_backend(Backend::default(), key, salt, context)
    }

    /// As [`Sealer::new`], with a choice of back end.
    pub fn with_backend(
        backend: Backend,
        key: &ContentKey,
        salt: &[u8; SALT_BYTES],
        context: &SegmentContext,
    ) -> Self {
        Self(MessageKey::derive(
            backend,
            key.as_bytes(),
            salt,
            &context.to_bytes(),
        ))
    }

    /// For the segment's metadata. Public.
    pub fn key_commitment(&self) -> [u8; KEY_COMMITMENT_BYTES] {
        self.0.key_commitment()
    }

    /// Seals the whole segment.
    ///
    /// # Panics
    ///
    /// If `sealed` is not exactly `sealed_len(plain.len())` long.
    pub fn seal_into(&self, plain: &[u8], sealed: &mut [u8]) {
        self.0.seal_chunks(plain, sealed);
    }

    /// Seals one chunk into `sealed`, which is 16 bytes longer than `plain`.
    ///
    /// Every chunk is `CHUNK_BYTES` long but the last, which is shorter and perhaps empty: the
    /// caller cuts. Each index is to be sealed once.
    ///
    /// # Panics
    ///
    /// If `plain` is longer than a chunk or `sealed` has another length than said.
    pub fn seal_chunk(&self, chunk_index: u64, plain: &[u8], sealed: &mut [u8]) {
        self.0.seal_chunk(chunk_index, plain, sealed);
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Sealer(..)")
    }
}

/// Opens one segment.
pub struct Opener(MessageKey);

impl Opener {
    /// An opener for one segment; checks the key commitment in constant time.
    ///
    /// # Errors
    ///
    /// [`OpenError::KeyCommitment`] if key, salt or context are not the segment's.
    pub fn new(
        key: &ContentKey,
        salt: &[u8; SALT_BYTES],
        key_commitment: &[u8; KEY_COMMITMENT_BYTES],
        context: &SegmentContext,
    ) -> Result<Self, OpenError> {
        Self::with_backend(Backend::default(), key, salt, key_commitment, context)
    }

    /// As [`Opener::new`], with a choice of back end.
    ///
    /// # Errors
    ///
    /// As [`Opener::new`].
    pub fn with_backend(
        backend: Backend,
        key: &ContentKey,
        salt: &[u8; SALT_BYTES],
        key_commitment: &[u8; KEY_COMMITMENT_BYTES],
        context: &SegmentContext,
    ) -> Result<Self, OpenError> {
        let key = MessageKey::derive(backend, key.as_bytes(), salt, &context.to_bytes());
        key.check(key_commitment)?;
        Ok(Self(key))
    }

    /// Opens one chunk in place and returns its plaintext, the front of `sealed`.
    ///
    /// `is_last` says that this is the segment's last chunk, which must be short; the others
    /// must be full. It has to follow from the segment's length, not from what arrived.
    ///
    /// # Errors
    ///
    /// [`OpenError::ChunkLen`] or [`OpenError::Authentication`]; all of `sealed` is zeroed then.
    pub fn open_chunk<'a>(
        &self,
        chunk_index: u64,
        is_last: bool,
        sealed: &'a mut [u8],
    ) -> Result<&'a [u8], OpenError> {
        self.0
            .open_chunk(chunk_index, is_last, sealed)
            .map(|plain| &*plain)
    }

    /// Opens one chunk into `plain`, which is 16 bytes shorter than `sealed`; `is_last` as in [`Opener::open_chunk`].
    ///
    /// # Errors
    ///
    /// As [`Opener::open_chunk`]; all of `plain` is zeroed then.
    ///
    /// # Panics
    ///
    /// If `plain` has another length than said.
    pub fn open_chunk_into(
        &self,
        chunk_index: u64,
        is_last: bool,
        sealed: &[u8],
        plain: &mut [u8],
    ) -> Result<(), OpenError> {
        self.0.open_chunk_into(chunk_index, is_last, sealed, plain)
    }

    /// Opens the whole segment and appends its plaintext to `plain`.
    ///
    /// # Errors
    ///
    /// [`OpenError::MessageLen`] or [`OpenError::Authentication`]; `plain` is as before then.
    pub fn open_into(&self, sealed: &[u8], plain: &mut Vec<u8>) -> Result<(), OpenError> {
        self.0.open_chunks(sealed, plain)
    }
}

impl fmt::Debug for Opener {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Opener(..)")
    }
}
