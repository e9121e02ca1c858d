//! The root over all segments of an object.
//!
//! It lies in the sealed object header, so dropped, reordered, swapped or truncated segments
//! are noticed by whoever can open the header.

use super::domain::{OBJECT_LEAF, OBJECT_NODE};
use super::piece::left_count;
use super::{Hash, ProofError};

/// One segment of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObjectLeaf {
    /// Number of the part.
    pub part_number: u32,
    /// Index of the segment in its part.
    pub segment_index: u32,
    /// Plaintext bytes of the segment.
    pub plain_len: u64,
    /// Segment commitment, or inline commitment.
    pub commitment: Hash,
}

/// Root over all segments of all parts, in order.
///
/// # Errors
///
/// [`ProofError::NoLeaves`] without segments, [`ProofError::LeafOrder`] where (part, segment)
/// does not rise.
pub fn object_root(leaves: &[ObjectLeaf]) -> Result<Hash, ProofError> {
    if leaves.is_empty() {
        return Err(ProofError::NoLeaves);
    }
    if let Some(pair) = leaves
        .windows(2)
        .find(|pair| position(&pair[0]) >= position(&pair[1]))
    {
        let ObjectLeaf {
            part_number,
            segment_index,
            ..
        } = pair[1];
        return Err(ProofError::LeafOrder {
            part_number,
            segment_index,
        });
    }
    Ok(subtree(leaves))
}

fn position(leaf: &ObjectLeaf) -> (u32, u32) {
    (leaf.part_number, leaf.segment_index)
}

fn subtree(leaves: &[ObjectLeaf]) -> Hash {
    if let [leaf] = leaves {
        return OBJECT_LEAF.hash(&[
            &leaf.part_number.to_le_bytes(),
            &leaf.segment_index.to_le_bytes(),
            &leaf.plain_len.to_le_bytes(),
            &leaf.commitment,
        ]);
    }
    let (left, right) = leaves.split_at(left_count(leaves.len()));
    OBJECT_NODE.hash(&[&subtree(left), &subtree(right)])
}
