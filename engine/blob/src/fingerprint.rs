//! Fingerprints: what the index and its likes know a piece by.
//!
//! Keyed, so that nobody who chooses piece ids can aim for collisions; identity is always confirmed by the record.

use std::hash::{BuildHasherDefault, Hasher};

/// A hash table whose keys are hashes already.
pub(crate) type Fingerprints = BuildHasherDefault<PassThrough>;

/// Hands the low 64 bits of an integer key on as its hash.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PassThrough(u64);

impl Hasher for PassThrough {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(byte);
        }
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }

    fn write_u128(&mut self, value: u128) {
        self.0 = value as u64;
    }
}

/// Makes fingerprints with a key that lives as long as the index.
#[derive(Clone, Copy)]
pub(crate) struct Fingerprinter {
    key: [u8; 32],
    mask: u64,
}

impl Fingerprinter {
    /// `bits` is 64, but in tests that want collisions.
    pub(crate) fn new(key: [u8; 32], bits: u32) -> Self {
        Self {
            key,
            mask: u64::MAX.checked_shr(64 - bits.min(64)).unwrap_or(0),
        }
    }

    /// 128 bits, of which the index keeps the low 64. Two pieces of a node share all 128 by no chance worth counting.
    pub(crate) fn wide(&self, satellite: &[u8; 32], id: &[u8; 32]) -> u128 {
        let mut name = [0; 64];
        name[..32].copy_from_slice(satellite);
        name[32..].copy_from_slice(id);
        let hash = blake3::keyed_hash(&self.key, &name);
        hash.as_bytes()
            .iter()
            .take(16)
            .rev()
            .fold(0, |wide, &byte| wide << 8 | u128::from(byte))
    }

    pub(crate) fn key(&self) -> [u8; 32] {
        self.key
    }

    pub(crate) fn of(&self, satellite: &[u8; 32], id: &[u8; 32]) -> u64 {
        self.narrow(self.wide(satellite, id))
    }

    pub(crate) fn narrow(&self, wide: u128) -> u64 {
        wide as u64 & self.mask
    }
}

impl std::fmt::Debug for Fingerprinter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Fingerprinter(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_depend_on_key_satellite_and_id() {
        let one = Fingerprinter::new([1; 32], 64).of(&[2; 32], &[3; 32]);
        assert_ne!(one, Fingerprinter::new([4; 32], 64).of(&[2; 32], &[3; 32]));
        assert_ne!(one, Fingerprinter::new([1; 32], 64).of(&[3; 32], &[3; 32]));
        assert_ne!(one, Fingerprinter::new([1; 32], 64).of(&[2; 32], &[2; 32]));
    }
}
