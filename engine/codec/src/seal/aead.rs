//! AES-256-GCM by one of three back ends, with 12-byte nonces.
//!
//! `aws-lc-rs` is hand-written assembly for every CPU we meet. It handles two blocks in a vector only
//! where there is AVX-512; on the CPUs that have VAES without it our own kernel does. `portable` is
//! pure Rust; it is the oracle the others are tested against, and the choice where the assembly is not
//! wanted. All give the same bytes.
//!
//! Nonces are the callers' to keep unique; only `chunked` calls this. Its chunks have no associated
//! data ([`NO_AAD`]); the published vectors of the mode do, so the back ends take some.

use std::sync::OnceLock;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

#[cfg(target_arch = "x86_64")]
use subtle::ConstantTimeEq;

use super::portable;
#[cfg(target_arch = "x86_64")]
use crate::kernels::vaes::{self, Vaes};
use crate::level::Level;

/// Bytes of a key.
pub(super) const KEY_BYTES: usize = 32;
/// Bytes of a nonce.
pub(super) const NONCE_BYTES: usize = 12;
/// What chunks have of associated data.
pub(super) const NO_AAD: &[u8] = &[];
/// Bytes of the tag after each chunk.
pub const TAG_BYTES: usize = 16;

/// Who computes AES-256-GCM. The bytes are the same.
///
/// The default is the fastest one at the level of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// The assembly of `aws-lc-rs`.
    AwsLc,
    /// Pure Rust: the `aes` and `ghash` crates.
    Portable,
    /// Our kernel for VAES and VPCLMULQDQ.
    #[cfg(target_arch = "x86_64")]
    Vaes(Vaes),
}

impl Backend {
    /// All that a level runs on this CPU.
    pub fn available(level: Level) -> Vec<Self> {
        let mut available = vec![Self::AwsLc, Self::Portable];
        #[cfg(target_arch = "x86_64")]
        available.extend(Vaes::at(level).map(Self::Vaes));
        #[cfg(not(target_arch = "x86_64"))]
        let _ = level;
        available
    }

    /// The fastest at a level.
    pub fn at(level: Level) -> Self {
        let mut available = Self::available(level).into_iter();
        let own = available.find(|backend| !matches!(backend, Self::AwsLc | Self::Portable));
        own.filter(|_| !is_wide_in_aws_lc()).unwrap_or(Self::AwsLc)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::AwsLc => "aws-lc",
            Self::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Self::Vaes(_) => "vaes",
        }
    }
}

impl Default for Backend {
    /// At the level of this process. A level that there is not is the programs' to refuse at their start.
    fn default() -> Self {
        static BACKEND: OnceLock<Backend> = OnceLock::new();
        *BACKEND.get_or_init(|| Level::of_process().map_or(Self::AwsLc, Self::at))
    }
}

/// Whether the assembly of `aws-lc-rs` uses vectors of four blocks on this CPU.
fn is_wide_in_aws_lc() -> bool {
    #[cfg(target_arch = "x86_64")]
    let is_wide = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl");
    #[cfg(not(target_arch = "x86_64"))]
    let is_wide = false;
    is_wide
}

/// A tag did not fit. There is no more to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TagMismatch;

/// A key, expanded for its back end. All wipe it when dropped.
pub(super) enum AeadKey {
    AwsLc(LessSafeKey),
    Portable(Box<portable::Key>),
    #[cfg(target_arch = "x86_64")]
    Vaes(Box<vaes::Key<{ vaes::ROUND_KEYS_256 }>>),
}

impl AeadKey {
    pub(super) fn new(backend: Backend, key: &[u8; KEY_BYTES]) -> Self {
        match backend {
            Backend::AwsLc => {
                let key = UnboundKey::new(&AES_256_GCM, key).expect("the key has 32 bytes");
                Self::AwsLc(LessSafeKey::new(key))
            }
            Backend::Portable => Self::Portable(Box::new(portable::Key::new(key))),
            #[cfg(target_arch = "x86_64")]
            Backend::Vaes(vaes) => {
                let rounds = vaes::Rounds::of_256(vaes, key);
                Self::Vaes(Box::new(vaes::Key::new(rounds)))
            }
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
            #[cfg(target_arch = "x86_64")]
            Self::Vaes(key) => tag.copy_from_slice(&key.seal(&nonce, aad, plain, body)),
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
            #[cfg(target_arch = "x86_64")]
            Self::Vaes(key) => fits(&key.open_in_place(&nonce, aad, body), tag),
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
            #[cfg(target_arch = "x86_64")]
            Self::Vaes(key) => fits(&key.open(&nonce, aad, body, plain), tag),
        };
        if !opened {
            plain.fill(0);
            return Err(TagMismatch);
        }
        Ok(())
    }
}

/// Whether a tag is the one that it should be, in constant time.
#[cfg(target_arch = "x86_64")]
fn fits(wanted: &[u8; TAG_BYTES], tag: &[u8]) -> bool {
    wanted[..].ct_eq(tag).into()
}
