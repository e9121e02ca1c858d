//! BLAKE3 of many equally long inputs at once, one in each lane of a vector.
//!
//! The crate does the same inside one long input; across inputs it has no documented way, so this names its `platform` module, which may
//! change between its releases: the workspace pins the release, and tests compare with the documented functions.

use blake3::IncrementCounter;
use blake3::platform::Platform;

use super::Hash;
use crate::shape::LEAF_BYTES;

/// Inputs of one call: the widest vector has so many lanes.
pub(super) const LANES: usize = 16;

/// The BLAKE3 paper's table 1: the initial value, which is that of SHA-256.
const INITIAL_VALUE: [u32; 8] = [
    0x6a09_e667,
    0xbb67_ae85,
    0x3c6e_f372,
    0xa54f_f53a,
    0x510e_527f,
    0x9b05_688c,
    0x1f83_d9ab,
    0x5be0_cd19,
];

/// The flags of the paper's table 3.
const CHUNK_START: u8 = 1;
const CHUNK_END: u8 = 2;
const PARENT: u8 = 4;

/// Of all blocks of a leaf that is not its piece's only one, of its first and of its last.
const LEAF_FLAGS: [u8; 3] = [0, CHUNK_START, CHUNK_END];

/// Bytes of two hashes.
pub(super) const PAIR_BYTES: usize = 64;

/// What this CPU does best.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lanes(Platform);

impl Lanes {
    pub(super) fn detect() -> Self {
        Self(Platform::detect())
    }

    /// How many inputs to give if there are `count`: short of a vector they are hashed in halves and quarters of it, which takes as long as
    /// whole ones do, so that more than half a vector is better filled up.
    pub(super) fn filled(self, count: usize) -> usize {
        let degree = self.0.simd_degree();
        if 2 * (count % degree) > degree {
            count.next_multiple_of(degree)
        } else {
            count
        }
    }

    /// Chaining values of leaves, all of them number `leaf` of their piece and none of them its only one.
    ///
    /// # Panics
    ///
    /// If there is not one hash for each leaf.
    pub(super) fn leaves(self, leaf: u64, leaves: &[&[u8; LEAF_BYTES]], out: &mut [Hash]) {
        self.hash(leaves, leaf, IncrementCounter::No, LEAF_FLAGS, out);
    }

    /// Chaining values of leaves in a row, the first of them number `first_leaf` of their piece.
    ///
    /// # Panics
    ///
    /// If there is not one hash for each leaf.
    pub(super) fn run(self, first_leaf: u64, leaves: &[&[u8; LEAF_BYTES]], out: &mut [Hash]) {
        self.hash(leaves, first_leaf, IncrementCounter::Yes, LEAF_FLAGS, out);
    }

    /// Chaining values of the nodes above pairs of chaining values.
    ///
    /// # Panics
    ///
    /// If there is not one hash for each pair.
    pub(super) fn parents(self, pairs: &[&[u8; PAIR_BYTES]], out: &mut [Hash]) {
        self.hash(pairs, 0, IncrementCounter::No, [PARENT, 0, 0], out);
    }

    fn hash<const N: usize>(
        self,
        inputs: &[&[u8; N]],
        counter: u64,
        increment: IncrementCounter,
        [flags, first, last]: [u8; 3],
        out: &mut [Hash],
    ) {
        assert_eq!(inputs.len(), out.len(), "hashes");
        self.0.hash_many(
            inputs,
            &INITIAL_VALUE,
            counter,
            increment,
            flags,
            first,
            last,
            out.as_flattened_mut(),
        );
    }
}
