//! Where the pieces are: fingerprint to place, in 16 partitions whatever the core count.
//!
//! The index is a cache of the blobs and is rebuilt from them. It keys by a keyed 64-bit fingerprint, so nobody who chooses piece ids can
//! aim for collisions; identity is always confirmed by the record, and records whose fingerprints collide stand side
//! by side in an overflow list. An entry is 8 bytes and its key 8; with the table's growth (7/8 to 7/16 full) a piece costs 19 to 39.

use std::collections::{HashMap, hash_map};
use std::hash::{BuildHasherDefault, Hasher};

use crate::layout::STEP_BYTES;
use crate::record::step_of;

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

/// A record's place: which of the store's blobs, and where in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Position in the store's list of blobs, not a blob id.
    pub(crate) slot: u32,
    pub(crate) offset: u64,
}

/// Place and length class of a record in 8 bytes: slot (24 bits), offset / 64 (32), class (8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry(u64);

/// Most blobs of one store: what an entry's slot can say.
pub(crate) const BLOBS_MAX: u32 = 1 << 24;

impl Entry {
    pub(crate) fn new(place: Place, record_len: u64) -> Self {
        assert!(
            place.slot < BLOBS_MAX,
            "more blobs than an index entry can name"
        );
        let class = length_class(record_len);
        Self(u64::from(place.slot) << 40 | u64::from(step_of(place.offset)) << 8 | u64::from(class))
    }

    pub(crate) fn place(self) -> Place {
        Place {
            slot: (self.0 >> 40) as u32,
            offset: (self.0 >> 8 & 0xffff_ffff) * STEP_BYTES as u64,
        }
    }

    /// Upper bound of the record's length, less than an eighth above it.
    pub(crate) fn record_len_max(self) -> u64 {
        length_of_class(self.0 as u8)
    }
}

/// Length in 64-byte steps as three bits of mantissa and an exponent, rounded up.
fn length_class(len: u64) -> u8 {
    let steps = len.div_ceil(STEP_BYTES as u64);
    if steps < 8 {
        return steps as u8;
    }
    let mut exponent = steps.ilog2() - 3;
    let mut mantissa = steps.div_ceil(1 << exponent);
    if mantissa == 16 {
        (exponent, mantissa) = (exponent + 1, 8);
    }
    u8::try_from(8 * (exponent + 1) + mantissa as u32 - 8).unwrap_or(u8::MAX)
}

fn length_of_class(class: u8) -> u64 {
    let class = u64::from(class);
    let steps = if class < 8 {
        class
    } else {
        (8 + class % 8) << (class / 8 - 1)
    };
    steps * STEP_BYTES as u64
}

const PARTITION_COUNT: usize = 16;

/// Fingerprint to entries.
#[derive(Debug, Default)]
pub(crate) struct Index {
    partitions: [HashMap<u64, Entry, Fingerprints>; PARTITION_COUNT],
    /// Further entries of a fingerprint that a partition holds already. Nearly always empty.
    overflow: Vec<(u64, Entry)>,
}

impl Index {
    /// Entries in the index.
    pub(crate) fn len(&self) -> usize {
        self.partitions.iter().map(HashMap::len).sum::<usize>() + self.overflow.len()
    }

    /// All records that may be the piece, newest first.
    pub(crate) fn candidates(&self, fingerprint: u64) -> Vec<Entry> {
        let Some(&first) = self.partitions[partition_of(fingerprint)].get(&fingerprint) else {
            return Vec::new();
        };
        let others = self
            .overflow
            .iter()
            .rev()
            .filter(|(other, _)| *other == fingerprint)
            .map(|&(_, entry)| entry);
        others.chain([first]).collect()
    }

    pub(crate) fn insert(&mut self, fingerprint: u64, entry: Entry) {
        match self.partitions[partition_of(fingerprint)].entry(fingerprint) {
            hash_map::Entry::Occupied(_) => self.overflow.push((fingerprint, entry)),
            hash_map::Entry::Vacant(free) => {
                free.insert(entry);
            }
        }
    }

    /// Removes one entry; false if it is not there.
    pub(crate) fn remove(&mut self, fingerprint: u64, entry: Entry) -> bool {
        if let Some(at) = self
            .overflow
            .iter()
            .position(|&other| other == (fingerprint, entry))
        {
            self.overflow.remove(at);
            return true;
        }
        let partition = &mut self.partitions[partition_of(fingerprint)];
        if partition.get(&fingerprint) != Some(&entry) {
            return false;
        }
        partition.remove(&fingerprint);
        if let Some(at) = self
            .overflow
            .iter()
            .position(|&(other, _)| other == fingerprint)
        {
            let (_, moved) = self.overflow.remove(at);
            partition.insert(fingerprint, moved);
        }
        true
    }
}

/// Bits that the table itself uses neither for its buckets (the low ones) nor for its tags (the top seven).
fn partition_of(fingerprint: u64) -> usize {
    (fingerprint >> 40) as usize % PARTITION_COUNT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn length_classes_bound_the_length_within_an_eighth() {
        for len in (1..5_000_000).step_by(61) {
            let bound = length_of_class(length_class(len));
            assert!(bound >= len, "{len} > {bound}");
            assert!(bound - len < len / 8 + 64, "{len} << {bound}");
        }
    }

    #[test]
    fn entries_keep_their_place() {
        for (slot, offset) in [(0, 8_256), (BLOBS_MAX - 1, 64 * u64::from(u32::MAX))] {
            let entry = Entry::new(Place { slot, offset }, 928);
            assert_eq!(entry.place(), Place { slot, offset });
            assert_eq!(entry.record_len_max(), 960);
        }
    }

    #[test]
    fn colliding_fingerprints_stand_side_by_side() {
        let mut index = Index::default();
        let entries: Vec<_> = (1..5)
            .map(|n| {
                Entry::new(
                    Place {
                        slot: n,
                        offset: 64,
                    },
                    88,
                )
            })
            .collect();
        for &entry in &entries {
            index.insert(7, entry);
        }
        assert_eq!(index.len(), 4);
        assert_eq!(index.candidates(7).len(), 4);
        assert_eq!(index.candidates(7)[0], entries[3]);
        assert!(index.candidates(8).is_empty());
        for (removed, &entry) in entries.iter().enumerate() {
            assert!(index.remove(7, entry));
            assert!(!index.remove(7, entry));
            assert_eq!(index.candidates(7).len(), 3 - removed);
        }
        assert_eq!(index.len(), 0);
    }

    #[test]
    fn fingerprints_depend_on_key_satellite_and_id() {
        let one = Fingerprinter::new([1; 32], 64).of(&[2; 32], &[3; 32]);
        assert_ne!(one, Fingerprinter::new([4; 32], 64).of(&[2; 32], &[3; 32]));
        assert_ne!(one, Fingerprinter::new([1; 32], 64).of(&[3; 32], &[3; 32]));
        assert_ne!(one, Fingerprinter::new([1; 32], 64).of(&[2; 32], &[2; 32]));
    }
}
