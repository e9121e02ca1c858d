//! C2SP chunked-encryption v1 with AES-256-GCM ("Cobblestone-256", c2sp.org/chunked-encryption).
//!
//! ```text
//! key (32) || base nonce (12) || key commitment (32) = HKDF-Expand-SHA-512(
//!     input key; "c2sp.org/chunked-encryption@v1+AEAD_AES_256_GCM" || 0x00 || salt || context; 76)
//! chunk i = AES-256-GCM(key; base nonce XOR i; plaintext bytes 16,384 i .. 16,384 (i + 1))
//! message = salt (24) || key commitment (32) || chunk 0 || chunk 1 || ..
//! ```
//!
//! The last chunk is always shorter than 16,384 bytes, perhaps empty, so that there is one right
//! cut for each length and a message that was truncated between chunks ends in a full one.
//! [`seal`] and [`open`] handle whole messages; segments keep the 56 bytes in front of the chunks
//! elsewhere and use [`MessageKey`] by way of `Sealer` and `Opener`.

use hkdf::Hkdf;
use sha2::Sha512;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::aead::{AeadKey, Backend, KEY_BYTES, NO_AAD, NONCE_BYTES, TAG_BYTES};
use crate::shape::{CHUNK_BYTES, SEALED_CHUNK_BYTES, plain_len, sealed_len};

/// Bytes of an input key.
pub const INPUT_KEY_BYTES: usize = 32;
/// Bytes of a salt.
pub const SALT_BYTES: usize = 24;
/// Bytes of a key commitment.
pub const KEY_COMMITMENT_BYTES: usize = 32;
/// Bytes in front of a whole message's chunks: salt and key commitment.
pub const HEADER_BYTES: usize = SALT_BYTES + KEY_COMMITMENT_BYTES;
/// Most chunks of a message.
pub const CHUNK_COUNT_MAX: u64 = 1 << 38;

const INFO_PREFIX: &[u8] = b"c2sp.org/chunked-encryption@v1+AEAD_AES_256_GCM\0";

/// Why sealed bytes were not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The input key is not 32 bytes long.
    #[error("key length {len} != 32")]
    KeyLen {
        /// The length given.
        len: usize,
    },
    /// Key, salt or context are not those the bytes were sealed with.
    #[error("key commitment does not fit key, salt and context")]
    KeyCommitment,
    /// Too short for salt and commitment, or a length no plaintext seals to: truncated.
    #[error("no plaintext seals to {len} bytes")]
    MessageLen {
        /// The length given.
        len: u64,
    },
    /// The last chunk is shorter than the others and at least a tag; the others are full.
    #[error("sealed chunk of {len} bytes, last: {is_last}")]
    ChunkLen {
        /// The length given.
        len: usize,
        /// Whether this was to be the last chunk.
        is_last: bool,
    },
    /// More chunks than the construction allows.
    #[error("chunk index {index} >= 2^38")]
    ChunkIndex {
        /// The index given.
        index: u64,
    },
    /// A chunk is not what was sealed at this place.
    #[error("chunk failed authentication")]
    Authentication,
}

/// What one (input key, salt, context) gives: the key for a message's chunks.
pub struct MessageKey {
    key: AeadKey,
    base_nonce: [u8; NONCE_BYTES],
    key_commitment: [u8; KEY_COMMITMENT_BYTES],
}

impl MessageKey {
    /// Derives the key for one message.
    ///
    /// To seal, `salt` must be random and never used before under `input_key`.
    pub fn derive(
        backend: Backend,
        input_key: &[u8; INPUT_KEY_BYTES],
        salt: &[u8; SALT_BYTES],
        context: &[u8],
    ) -> Self {
        // HMAC fills a key up with zeros to its block of 128 bytes, so 32 bytes and 32 bytes
        // followed by 32 zeros are the same key; the crate wants at least the hash's 64.
        let mut prk = Zeroizing::new([0; 64]);
        prk[..INPUT_KEY_BYTES].copy_from_slice(input_key);
        let hkdf = Hkdf::<Sha512>::from_prk(&*prk).expect("64 bytes are SHA-512's output");
        let mut okm = Zeroizing::new([0; KEY_BYTES + NONCE_BYTES + KEY_COMMITMENT_BYTES]);
        hkdf.expand_multi_info(&[INFO_PREFIX, salt, context], &mut *okm)
            .expect("76 bytes are below 255 blocks");
        let (key, rest) = okm.split_first_chunk().expect("76 >= 32");
        let (base_nonce, rest) = rest.split_first_chunk().expect("44 >= 12");
        let key_commitment = rest.first_chunk().expect("32 >= 32");
        Self {
            key: AeadKey::new(backend, key),
            base_nonce: *base_nonce,
            key_commitment: *key_commitment,
        }
    }

    /// Proves to a reader that he has the one key this message was sealed with. Public.
    pub fn key_commitment(&self) -> [u8; KEY_COMMITMENT_BYTES] {
        self.key_commitment
    }

    /// Whether `key_commitment` is this key's, in constant time.
    pub fn check(&self, key_commitment: &[u8; KEY_COMMITMENT_BYTES]) -> Result<(), OpenError> {
        if bool::from(self.key_commitment.ct_eq(key_commitment)) {
            Ok(())
        } else {
            Err(OpenError::KeyCommitment)
        }
    }

    /// Seals chunk `index` into `sealed`, which is [`TAG_BYTES`] longer than `plain`.
    ///
    /// Each chunk is to be sealed once: the nonce is its index.
    ///
    /// # Panics
    ///
    /// If `plain` is longer than a chunk, if `sealed` has another length than said, or at chunk
    /// 2^38.
    pub fn seal_chunk(&self, index: u64, plain: &[u8], sealed: &mut [u8]) {
        assert!(
            plain.len() <= CHUNK_BYTES,
            "chunk of {} bytes > {CHUNK_BYTES}",
            plain.len()
        );
        assert!(index < CHUNK_COUNT_MAX, "chunk index {index} >= 2^38");
        self.key.seal(self.nonce(index), NO_AAD, plain, sealed);
    }

    /// Opens chunk `index` in place and returns its plaintext, the front of `sealed`.
    ///
    /// # Errors
    ///
    /// [`OpenError::ChunkLen`], [`OpenError::ChunkIndex`] or [`OpenError::Authentication`]; all
    /// of `sealed` is zeroed then.
    pub fn open_chunk<'a>(
        &self,
        index: u64,
        is_last: bool,
        sealed: &'a mut [u8],
    ) -> Result<&'a mut [u8], OpenError> {
        if let Err(error) = check_chunk(index, is_last, sealed.len()) {
            sealed.fill(0);
            return Err(error);
        }
        self.key
            .open(self.nonce(index), NO_AAD, sealed)
            .map_err(|_| OpenError::Authentication)
    }

    /// Opens chunk `index` into `plain`, which is [`TAG_BYTES`] shorter than `sealed`.
    ///
    /// # Errors
    ///
    /// As [`MessageKey::open_chunk`]; all of `plain` is zeroed then.
    ///
    /// # Panics
    ///
    /// If `plain` has another length than said.
    pub fn open_chunk_into(
        &self,
        index: u64,
        is_last: bool,
        sealed: &[u8],
        plain: &mut [u8],
    ) -> Result<(), OpenError> {
        if let Err(error) = check_chunk(index, is_last, sealed.len()) {
            plain.fill(0);
            return Err(error);
        }
        self.key
            .open_into(self.nonce(index), NO_AAD, sealed, plain)
            .map_err(|_| OpenError::Authentication)
    }

    /// Seals all chunks of a message.
    ///
    /// # Panics
    ///
    /// If `sealed` is not exactly [`sealed_len`] of `plain` long.
    pub fn seal_chunks(&self, plain: &[u8], sealed: &mut [u8]) {
        assert_eq!(
            sealed.len() as u64,
            sealed_len(plain.len() as u64),
            "length of sealed"
        );
        // Chunks by number, since the last one may be empty.
        for (index, sealed) in sealed.chunks_mut(SEALED_CHUNK_BYTES).enumerate() {
            let start = index * CHUNK_BYTES;
            let end = (start + CHUNK_BYTES).min(plain.len());
            self.seal_chunk(index as u64, &plain[start..end], sealed);
        }
    }

    /// Opens all chunks of a message and appends their plaintext to `plain`.
    ///
    /// # Errors
    ///
    /// [`OpenError::MessageLen`] or [`OpenError::Authentication`]; `plain` is as before then.
    pub fn open_chunks(&self, sealed: &[u8], plain: &mut Vec<u8>) -> Result<(), OpenError> {
        let len = sealed.len() as u64;
        let Ok(plain_len) = plain_len(len) else {
            return Err(OpenError::MessageLen { len });
        };
        let before = plain.len();
        // Room for the last chunk's tag, which lies there until the chunk is opened.
        plain.reserve(plain_len as usize + TAG_BYTES);
        let chunk_count = sealed.len() / SEALED_CHUNK_BYTES + 1;
        for (index, sealed) in sealed.chunks(SEALED_CHUNK_BYTES).enumerate() {
            let start = plain.len();
            plain.extend_from_slice(sealed);
            let is_last = index + 1 == chunk_count;
            if let Err(error) = self.open_chunk(index as u64, is_last, &mut plain[start..]) {
                plain[before..].fill(0);
                plain.truncate(before);
                return Err(error);
            }
            plain.truncate(start + sealed.len() - TAG_BYTES);
        }
        Ok(())
    }

    /// Base nonce XOR index, both as 12 big-endian bytes.
    fn nonce(&self, index: u64) -> [u8; NONCE_BYTES] {
        let mut nonce = self.base_nonce;
        for (byte, index_byte) in nonce[NONCE_BYTES - 8..].iter_mut().zip(index.to_be_bytes()) {
            *byte ^= index_byte;
        }
        nonce
    }
}

/// Seals a whole message: salt, key commitment, chunks.
///
/// `salt` must be random and never used before under `input_key`.
pub fn seal(
    backend: Backend,
    input_key: &[u8; INPUT_KEY_BYTES],
    salt: &[u8; SALT_BYTES],
    context: &[u8],
    plain: &[u8],
) -> Vec<u8> {
    let key = MessageKey::derive(backend, input_key, salt, context);
    let mut message = vec![0; HEADER_BYTES + sealed_len(plain.len() as u64) as usize];
    let (header, chunks) = message.split_at_mut(HEADER_BYTES);
    header[..SALT_BYTES].copy_from_slice(salt);
    header[SALT_BYTES..].copy_from_slice(&key.key_commitment());
    key.seal_chunks(plain, chunks);
    message
}

/// Opens a whole message.
///
/// # Errors
///
/// [`OpenError`]; nothing of the message is released then.
pub fn open(
    backend: Backend,
    input_key: &[u8],
    context: &[u8],
    message: &[u8],
) -> Result<Vec<u8>, OpenError> {
    let Ok(input_key) = input_key.try_into() else {
        return Err(OpenError::KeyLen {
            len: input_key.len(),
        });
    };
    let too_short = OpenError::MessageLen {
        len: message.len() as u64,
    };
    let (salt, rest) = message.split_first_chunk().ok_or(too_short)?;
    let (key_commitment, chunks) = rest.split_first_chunk().ok_or(too_short)?;
    let key = MessageKey::derive(backend, input_key, salt, context);
    key.check(key_commitment)?;
    let mut plain = Vec::new();
    key.open_chunks(chunks, &mut plain)?;
    Ok(plain)
}

fn check_chunk(index: u64, is_last: bool, len: usize) -> Result<(), OpenError> {
    let len_fits = if is_last {
        (TAG_BYTES..SEALED_CHUNK_BYTES).contains(&len)
    } else {
        len == SEALED_CHUNK_BYTES
    };
    if !len_fits {
        return Err(OpenError::ChunkLen { len, is_last });
    }
    if index >= CHUNK_COUNT_MAX {
        return Err(OpenError::ChunkIndex { index });
    }
    Ok(())
}
