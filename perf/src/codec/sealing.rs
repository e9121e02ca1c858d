//! Sealing, 16 KiB chunks, against `aws-lc-rs` called without anything of ours.
//!
//! Both sides seal the same chunks out of place under one key, one call for each chunk. The peer derives key and nonces itself, from docs/format.md
//! section 3, so that equal outputs say something.

use anyhow::{Result, anyhow, ensure};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA512, KeyType, Prk};
use strand_codec::{CHUNK_BYTES, Level, SALT_BYTES, SEALED_CHUNK_BYTES, Sealer, TAG_BYTES};

use super::row::Contest;
use super::segment;
use super::shares::Shares;

/// Chunks of a repetition: plaintext and sealed bytes stay in a core's own cache.
const CHUNK_COUNT: usize = 16;

/// What the derivation gives: key, base nonce, commitment.
const DERIVED_BYTES: usize = 32 + 12 + 32;

/// Chunks of plaintext to sealed chunks.
pub(super) fn chunks(level: Level) -> Result<Box<dyn Contest>> {
    let (key, base_nonce) = derived()?;
    Ok(Box::new(Chunks {
        plain: Shares::random(11, CHUNK_COUNT, CHUNK_BYTES),
        sealed: [12, 13].map(|seed| Shares::random(seed, CHUNK_COUNT, SEALED_CHUNK_BYTES)),
        sealer: segment::sealer(level),
        key,
        base_nonce,
    }))
}

struct Chunks {
    plain: Shares,
    /// Ours and the peer's.
    sealed: [Shares; 2],
    sealer: Sealer,
    key: LessSafeKey,
    base_nonce: [u8; 12],
}

impl Contest for Chunks {
    fn user_bytes(&self) -> usize {
        self.plain.byte_count()
    }

    fn ours(&mut self, repeats: u32) -> Result<()> {
        let plain = self.plain.slices();
        let mut sealed = self.sealed[0].slices_mut();
        for _ in 0..repeats {
            for ((index, plain), sealed) in (0..).zip(&plain).zip(&mut sealed) {
                self.sealer.seal_chunk(index, plain, sealed);
            }
        }
        Ok(())
    }

    fn peer(&mut self, repeats: u32) -> Result<()> {
        let plain = self.plain.slices();
        let mut sealed = self.sealed[1].slices_mut();
        for _ in 0..repeats {
            for ((index, plain), sealed) in (0..).zip(&plain).zip(&mut sealed) {
                let nonce = nonce(self.base_nonce, index);
                let (body, tag) = sealed.split_at_mut(CHUNK_BYTES);
                ensure!(tag.len() == TAG_BYTES);
                self.key
                    .seal_out_of_place_scatter(nonce, Aad::empty(), plain, body, &[], tag)
                    .map_err(|_| anyhow!("aws-lc-rs did not seal a chunk"))?;
            }
        }
        Ok(())
    }

    fn outputs(&self) -> [blake3::Hash; 2] {
        self.sealed.each_ref().map(Shares::hash)
    }
}

/// Base nonce XOR index.
fn nonce(base: [u8; 12], index: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&index.to_be_bytes());
    for (byte, base) in bytes.iter_mut().zip(base) {
        *byte ^= base;
    }
    Nonce::assume_unique_for_key(bytes)
}

struct Derived;

impl KeyType for Derived {
    fn len(&self) -> usize {
        DERIVED_BYTES
    }
}

/// Key and base nonce of the segment, by the peer's own HKDF.
fn derived() -> Result<(LessSafeKey, [u8; 12])> {
    let context = segment::context();
    let place = [
        b"strand v1 segment",
        &context.object_id[..],
        &context.part_number.to_le_bytes(),
        &context.segment_index.to_le_bytes(),
    ]
    .concat();
    let prefix: &[u8] = b"c2sp.org/chunked-encryption@v1+AEAD_AES_256_GCM\0";
    let info = [prefix, &[segment::SALT; SALT_BYTES], &place];
    let mut derived = [0; DERIVED_BYTES];
    Prk::new_less_safe(HKDF_SHA512, segment::key().as_bytes())
        .expand(&info, Derived)
        .and_then(|expanded| expanded.fill(&mut derived))
        .map_err(|_| anyhow!("aws-lc-rs did not derive a key"))?;
    let key = UnboundKey::new(&AES_256_GCM, &derived[..32]);
    let key = key.map_err(|_| anyhow!("aws-lc-rs did not take a key"))?;
    let mut base_nonce = [0; 12];
    base_nonce.copy_from_slice(&derived[32..44]);
    Ok((LessSafeKey::new(key), base_nonce))
}
