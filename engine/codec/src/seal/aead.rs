//! AES-256-GCM by one of two back ends, with 12-byte nonces.
//!
//! `aws-lc-rs` is the default: hand-written assembly for every CPU we meet. `portable` is pure
//! Rust; it is the oracle the default is tested against, and the choice where the assembly is
//! not wanted. Both give the same bytes.
//!
//! Nonces are the callers' to keep unique; only `chunked` calls this. Its chunks have no associated
//! data ([`NO_AAD`]); the published vectors of the mode do, so the back ends take some.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

use super::portable;

/// Bytes of a key.
pub(super) const KEY_BYTES: usize = 32;
/// Bytes of a nonce.
pub(super) const NONCE_BYTES: usize = 12;
/// What chunks have of associated data.
pub(super) const NO_AAD: &[u8] = &[];
/// Bytes of the tag after each chunk.
pub const TAG_BYTES: usize = 16;

/// Who computes AES-256-GCM. The bytes are the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backend {
    /// The assembly of `aws-lc-rs`.
    #[default]
    AwsLc,
    /// Pure Rust: the `aes` and `ghash` crates.
    Portable,
}

/// A tag did not fit. There is no more to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TagMismatch;

/// A key, expanded for its back end. Both wipe it when dropped.
pub(super) enum AeadKey {
    AwsLc(LessSafeKey),
    Portable(Box<portable::Key>),
}

impl AeadKey {
    pub(super) fn new(backend: Backend, key: &[u8; KEY_BYTES]) -> Self {
        match backend {
            Backend::AwsLc => {
                let key = UnboundKey::new(&AES_256_GCM, key).expect("the key has 32 bytes");
                Self::AwsLc(LessSafeKey::new(key))
            }
            Backend::Portable => Self::Portable(Box::new(portable::Key::new(key))),
        }
    }

    /// Seals `plain` into `sealed`, which is [`TAG_BYTES`] longer.
    pub(super) fn seal(
        &self,
        nonce: [u8; NONCE_BYTES],
        aad: &[u8],
        plain: &[u8],
        sealed: &mut [u8],
    ) {
        assert_eq!(sealed.len(), plain.len() + TAG_BYTES);
        let (body, tag) = sealed.split_at_mut(plain.len());
        match self {
            Self::AwsLc(key) => {
                let nonce = Nonce::assume_unique_for_key(nonce);
                key.seal_out_of_place_scatter(nonce, Aad::from(aad), plain, body, &[], tag)
                    .expect("a chunk is far below the limits of the mode");
            }
            Self::Portable(key) => {
                body.copy_from_slice(plain);
                tag.copy_from_slice(&key.seal_in_place(&nonce, aad, body));
            }
        }
    }

    /// Checks the tag at the end of `sealed` and opens what is before it in place.
    ///
    /// On failure all of `sealed` is zeroed.
    pub(super) fn open<'a>(
        &self,
        nonce: [u8; NONCE_BYTES],
        aad: &[u8],
        sealed: &'a mut [u8],
    ) -> Result<&'a mut [u8], TagMismatch> {
        assert!(sealed.len() >= TAG_BYTES);
        let body_len = sealed.len() - TAG_BYTES;
        let (body, tag) = sealed.split_at_mut(body_len);
        let opened = match self {
            Self::AwsLc(key) => key
                .open_in_place_separate_tag(
                    Nonce::assume_unique_for_key(nonce),
                    Aad::from(aad),
                    tag,
                    body,
                )
                .is_ok(),
            Self::Portable(key) => key.open_in_place(&nonce, aad, body, tag),
        };
        if !opened {
            // The back end may have deciphered some of it before it knew.
            sealed.fill(0);
            return Err(TagMismatch);
        }
        Ok(&mut sealed[..body_len])
    }

    /// Checks the tag at the end of `sealed` and opens what is before it into `plain`, which is [`TAG_BYTES`] shorter.
    ///
    /// On failure all of `plain` is zeroed.
    pub(super) fn open_into(
        &self,
        nonce: [u8; NONCE_BYTES],
        aad: &[u8],
        sealed: &[u8],
        plain: &mut [u8],
    ) -> Result<(), TagMismatch> {
        assert_eq!(sealed.len(), plain.len() + TAG_BYTES);
        let (body, tag) = sealed.split_at(plain.len());
        let opened = match self {
            Self::AwsLc(key) => {
                let nonce = Nonce::assume_unique_for_key(nonce);
                key.open_separate_gather(nonce, Aad::from(aad), body, tag, plain)
                    .is_ok()
            }
            Self::Portable(key) => {
                plain.copy_from_slice(body);
                key.open_in_place(&nonce, aad, plain, tag)
            }
        };
        if !opened {
            plain.fill(0);
            return Err(TagMismatch);
        }
        Ok(())
    }
}
