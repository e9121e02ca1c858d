//! Proofs that a range of leaves belongs to a piece.
//!
//! ```text
//! visit(subtree):
//!     no leaf of the range in it:  its chaining value is the proof's next hash
//!     only leaves of the range:    nothing, the verifier hashes the bytes
//!     else:                        visit(left), visit(right)
//! ```
//!
//! beginning at the piece's root. A leaf is 1,024 bytes of the piece, the last one perhaps fewer.
//! The walk follows from `(piece_len, range)` alone, and both sides run it: the verifier takes
//! no shape from the prover, and there is one proof of one length for each range.
//!
//! A proof binds bytes to a root and a place, not to the piece's length: subtrees it does not
//! enter may have any. The length is bound by the segment commitment, from which the verifier
//! has it.

use std::ops::Range;

use blake3::hazmat::{Mode, merge_subtrees_non_root, merge_subtrees_root};

use super::lanes::Lanes;
use super::piece::{
    SHARE_LEAVES, check_share_hashes, left_count, merge_run, subtree_hash, try_share_count,
};
use super::{Hash, ProofError};
use crate::shape::{LEAF_BYTES, SHARE_BYTES};

/// Shares of which a range holds some leaves and not others; at most two, ascending.
///
/// [`prove_slice`] asks for the bytes of exactly these, once each and in this order.
///
/// # Errors
///
/// [`ProofError::PieceLen`] or [`ProofError::LeafRange`].
pub fn cut_shares(piece_len: u64, leaves: Range<u32>) -> Result<Vec<u32>, ProofError> {
    let leaf_count = check_range(piece_len, &leaves)?;
    let mut shares = Vec::with_capacity(2);
    let starts_inside = !leaves.start.is_multiple_of(SHARE_LEAVES);
    let ends_inside = !leaves.end.is_multiple_of(SHARE_LEAVES) && leaves.end != leaf_count;
    if starts_inside {
        shares.push(leaves.start / SHARE_LEAVES);
    }
    if ends_inside && shares.last() != Some(&(leaves.end / SHARE_LEAVES)) {
        shares.push(leaves.end / SHARE_LEAVES);
    }
    Ok(shares)
}

/// The hashes that prove `leaves` against the piece's root, in the order of the walk.
///
/// `share_hashes` are the piece's (none for a piece of one share); `share_bytes` reads the
/// whole of a share that the range cuts, see [`cut_shares`]. Bytes read are not checked here: a
/// damaged share gives a proof that fails.
///
/// # Errors
///
/// [`ProofError`] if the arguments do not fit the piece; [`ProofError::ByteCount`] if
/// `share_bytes` returns fewer or more bytes than the share has.
pub fn prove_slice(
    piece_len: u64,
    share_hashes: &[Hash],
    leaves: Range<u32>,
    mut share_bytes: impl FnMut(u32) -> Vec<u8>,
) -> Result<Vec<Hash>, ProofError> {
    check_share_hashes(piece_len, share_hashes)?;
    let outside = outside_subtrees(piece_len, &leaves)?;
    let mut proof = Vec::with_capacity(outside.len());
    let mut cut: Option<CutShare> = None;
    for subtree in outside {
        let share = subtree.first / SHARE_LEAVES;
        if subtree.is_shares(piece_len) && !share_hashes.is_empty() {
            let share_end = subtree.end().div_ceil(SHARE_LEAVES);
            proof.push(merge_run(&share_hashes[share as usize..share_end as usize]));
            continue;
        }
        let hashes = match &cut {
            Some(cut) if cut.share == share => cut,
            _ => {
                let bytes = share_bytes(share);
                let share_start = u64::from(share) * SHARE_BYTES as u64;
                let expected_len = (piece_len - share_start).min(SHARE_BYTES as u64) as usize;
                if bytes.len() != expected_len {
                    return Err(ProofError::ByteCount {
                        given_len: bytes.len(),
                        expected_len,
                    });
                }
                cut.insert(CutShare::new(share, &bytes, &leaves))
            }
        };
        let start = (subtree.first % SHARE_LEAVES) as usize;
        proof.push(merge_run(
            &hashes.leaves[start..start + subtree.count as usize],
        ));
    }
    Ok(proof)
}

/// Chaining values of a share's leaves, of those that a proof names at least.
struct CutShare {
    share: u32,
    leaves: [Hash; SHARE_LEAVES as usize],
}

impl CutShare {
    /// Those outside of the range `inside`, all in one go: in vectors a leaf alone takes as long as many do.
    fn new(share: u32, bytes: &[u8], inside: &Range<u32>) -> Self {
        let mut leaves = [[0; 32]; SHARE_LEAVES as usize];
        let (whole, last) = bytes.as_chunks::<LEAF_BYTES>();
        let first = share * SHARE_LEAVES;
        let is_outside = |leaf: &usize| !inside.contains(&(first + *leaf as u32));
        let start = (0..whole.len()).find(is_outside).unwrap_or(0);
        let end = (0..whole.len())
            .rfind(is_outside)
            .map_or(0, |leaf| leaf + 1);
        let lanes = Lanes::detect();
        let count = lanes.filled(end - start).min(whole.len());
        // Filled up by what comes before, as far as there is something, and by what comes after.
        let start = start.min(whole.len() - count);
        let run: [&[u8; LEAF_BYTES]; SHARE_LEAVES as usize] =
            std::array::from_fn(|leaf| whole.get(leaf).unwrap_or(&[0; LEAF_BYTES]));
        lanes.run(
            u64::from(first) + start as u64,
            &run[start..start + count],
            &mut leaves[start..start + count],
        );
        if !last.is_empty() {
            leaves[whole.len()] = subtree_hash(leaf_offset(first + whole.len() as u32), last);
        }
        Self { share, leaves }
    }
}

/// Number of hashes in the proof of `leaves`.
///
/// # Errors
///
/// [`ProofError::PieceLen`] or [`ProofError::LeafRange`].
pub fn slice_proof_len(piece_len: u64, leaves: Range<u32>) -> Result<usize, ProofError> {
    Ok(outside_subtrees(piece_len, &leaves)?.len())
}

/// Checks that `bytes` are exactly the given leaves of the piece with this root.
///
/// # Errors
///
/// [`ProofError::ProofLen`] or [`ProofError::ByteCount`] if the peer sent too few or too many,
/// [`ProofError::Root`] if bytes or proof are not the piece's; [`ProofError::LeafRange`] or
/// [`ProofError::PieceLen`] if the caller asks for what is not there.
pub fn verify_slice(
    piece_len: u64,
    root: &Hash,
    leaves: Range<u32>,
    proof: &[Hash],
    bytes: &[u8],
) -> Result<(), ProofError> {
    //= docs/format.md#4-piece-tree-and-commitments
    // The walk's shape comes from `piece_len`, which the caller derived; the proof only fills it.
    let expected_count = slice_proof_len(piece_len, leaves.clone())?;
    if proof.len() != expected_count {
        return Err(ProofError::ProofLen {
            given_count: proof.len(),
            expected_count,
        });
    }
    let start = leaf_offset(leaves.start);
    let expected_len = (leaf_offset(leaves.end).min(piece_len) - start) as usize;
    if bytes.len() != expected_len {
        return Err(ProofError::ByteCount {
            given_len: bytes.len(),
            expected_len,
        });
    }
    let whole = Subtree::whole(piece_len);
    let computed: Hash = if whole.count == 1 || whole.is_inside(&leaves) {
        blake3::hash(bytes).into()
    } else {
        let mut verifier = Verifier {
            leaves,
            proof: proof.iter(),
            bytes,
            start,
        };
        let (left, right) = whole.children();
        let (left, right) = (verifier.hash(left), verifier.hash(right));
        merge_subtrees_root(&left, &right, Mode::Hash).into()
    };
    if computed == *root {
        Ok(())
    } else {
        Err(ProofError::Root)
    }
}

/// The second walk: chaining values from proof and bytes.
struct Verifier<'a> {
    leaves: Range<u32>,
    proof: std::slice::Iter<'a, Hash>,
    bytes: &'a [u8],
    /// Offset of `bytes` in the piece.
    start: u64,
}

impl Verifier<'_> {
    fn hash(&mut self, subtree: Subtree) -> Hash {
        if subtree.is_outside(&self.leaves) {
            return *self.proof.next().expect("the proof's length was checked");
        }
        if subtree.is_inside(&self.leaves) {
            let offset = leaf_offset(subtree.first);
            let start = (offset - self.start) as usize;
            let end = (start + subtree.count as usize * LEAF_BYTES).min(self.bytes.len());
            return subtree_hash(offset, &self.bytes[start..end]);
        }
        let (left, right) = subtree.children();
        let (left, right) = (self.hash(left), self.hash(right));
        merge_subtrees_non_root(&left, &right, Mode::Hash)
    }
}

/// A node of the piece's BLAKE3 tree, by the leaves below it.
#[derive(Clone, Copy, Debug)]
struct Subtree {
    first: u32,
    count: u32,
}

impl Subtree {
    fn whole(piece_len: u64) -> Self {
        Self {
            first: 0,
            count: leaf_count(piece_len),
        }
    }

    fn end(self) -> u32 {
        self.first + self.count
    }

    fn is_outside(self, leaves: &Range<u32>) -> bool {
        self.end() <= leaves.start || leaves.end <= self.first
    }

    fn is_inside(self, leaves: &Range<u32>) -> bool {
        leaves.start <= self.first && self.end() <= leaves.end
    }

    /// Whether it is made of whole shares.
    fn is_shares(self, piece_len: u64) -> bool {
        self.first.is_multiple_of(SHARE_LEAVES)
            && (self.count.is_multiple_of(SHARE_LEAVES) || self.end() == leaf_count(piece_len))
    }

    fn children(self) -> (Self, Self) {
        let left_count = left_count(self.count as usize) as u32;
        let left = Self {
            first: self.first,
            count: left_count,
        };
        let right = Self {
            first: self.first + left_count,
            count: self.count - left_count,
        };
        (left, right)
    }
}

/// The subtrees that contribute to the proof, in its order.
fn outside_subtrees(piece_len: u64, leaves: &Range<u32>) -> Result<Vec<Subtree>, ProofError> {
    check_range(piece_len, leaves)?;
    let mut outside = Vec::new();
    let mut stack = vec![Subtree::whole(piece_len)];
    while let Some(subtree) = stack.pop() {
        if subtree.is_outside(leaves) {
            outside.push(subtree);
        } else if !subtree.is_inside(leaves) {
            let (left, right) = subtree.children();
            stack.extend([right, left]);
        }
    }
    Ok(outside)
}

fn check_range(piece_len: u64, leaves: &Range<u32>) -> Result<u32, ProofError> {
    try_share_count(piece_len)?;
    let leaf_count = leaf_count(piece_len);
    if leaves.start >= leaves.end || leaves.end > leaf_count {
        return Err(ProofError::LeafRange {
            start: leaves.start,
            end: leaves.end,
            leaf_count,
        });
    }
    Ok(leaf_count)
}

fn leaf_count(piece_len: u64) -> u32 {
    piece_len.div_ceil(LEAF_BYTES as u64) as u32
}

fn leaf_offset(leaf: u32) -> u64 {
    u64::from(leaf) * LEAF_BYTES as u64
}
