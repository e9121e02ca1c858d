//! AES-256-GCM from the `aes` and `ghash` crates (NIST SP 800-38D), 12-byte nonces.
//!
//! ```text
//! H      = AES(0^16)                       the hash key
//! J      = nonce || u32be(1)               the first counter block
//! body   = plain XOR AES(J + 1) || AES(J + 2) || ..
//! tag    = GHASH(H; aad || 0.. || body || 0.. || u64be(bits of aad) || u64be(bits of body)) XOR AES(J)
//! ```
//!
//! `0..` are zeros up to a whole block. The counter is the last four bytes; 2^32 blocks are never reached by a chunk. Both crates
//! use the CPU's instructions where it has them and are constant-time where it has not. Keys
//! are wiped by the crates' own `Drop` (feature `zeroize`).

use aes::Aes256;
use aes::cipher::{BlockCipherEncrypt, KeyInit};
use ghash::GHash;
use ghash::universal_hash::UniversalHash;
use subtle::ConstantTimeEq;
use zeroize::Zeroize;

use super::aead::{KEY_BYTES, NONCE_BYTES, TAG_BYTES};

const BLOCK_BYTES: usize = 16;
/// Counter blocks enciphered in one call: several times what any back end does at once.
const BATCH_BLOCKS: usize = 64;

/// An expanded key.
pub(super) struct Key {
    cipher: Aes256,
    hash: GHash,
}

impl Key {
    pub(super) fn new(key: &[u8; KEY_BYTES]) -> Self {
        let cipher = Aes256::new(key.into());
        let mut hash_key = aes::Block::default();
        cipher.encrypt_block(&mut hash_key);
        let hash = GHash::new(&hash_key);
        hash_key.zeroize();
        Self { cipher, hash }
    }

    /// Enciphers `body` in place and returns its tag.
    pub(super) fn seal_in_place(
        &self,
        nonce: &[u8; NONCE_BYTES],
        aad: &[u8],
        body: &mut [u8],
    ) -> [u8; TAG_BYTES] {
        self.apply_keystream(nonce, body);
        self.tag(nonce, aad, body)
    }

    /// Deciphers `body` in place if `tag` fits; else leaves it as it is and returns false.
    pub(super) fn open_in_place(
        &self,
        nonce: &[u8; NONCE_BYTES],
        aad: &[u8],
        body: &mut [u8],
        tag: &[u8],
    ) -> bool {
        let fits = bool::from(self.tag(nonce, aad, body).ct_eq(tag));
        if fits {
            self.apply_keystream(nonce, body);
        }
        fits
    }

    fn tag(&self, nonce: &[u8; NONCE_BYTES], aad: &[u8], body: &[u8]) -> [u8; TAG_BYTES] {
        let mut hash = self.hash.clone();
        hash.update_padded(aad);
        hash.update_padded(body);
        let mut lengths = ghash::Block::default();
        lengths[..8].copy_from_slice(&(aad.len() as u64 * 8).to_be_bytes());
        lengths[8..].copy_from_slice(&(body.len() as u64 * 8).to_be_bytes());
        hash.update(&[lengths]);

        let mut tag = counter_block(nonce, 1);
        self.cipher.encrypt_block(&mut tag);
        for (byte, hash_byte) in tag.iter_mut().zip(hash.finalize()) {
            *byte ^= hash_byte;
        }
        tag.into()
    }

    fn apply_keystream(&self, nonce: &[u8; NONCE_BYTES], body: &mut [u8]) {
        let mut keystream = [aes::Block::default(); BATCH_BLOCKS];
        let mut counter = 2;
        for batch in body.chunks_mut(BATCH_BLOCKS * BLOCK_BYTES) {
            let blocks = &mut keystream[..batch.len().div_ceil(BLOCK_BYTES)];
            for block in &mut *blocks {
                *block = counter_block(nonce, counter);
                counter += 1;
            }
            self.cipher.encrypt_blocks(blocks);
            for (bytes, block) in batch.chunks_mut(BLOCK_BYTES).zip(&*blocks) {
                for (byte, key_byte) in bytes.iter_mut().zip(block) {
                    *byte ^= key_byte;
                }
            }
        }
        keystream
            .iter_mut()
            .for_each(|block| block.as_mut_slice().zeroize());
    }
}

fn counter_block(nonce: &[u8; NONCE_BYTES], counter: u32) -> aes::Block {
    let mut block = aes::Block::default();
    block[..NONCE_BYTES].copy_from_slice(nonce);
    block[NONCE_BYTES..].copy_from_slice(&counter.to_be_bytes());
    block
}
