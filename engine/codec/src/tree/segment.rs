//! The commitment to all pieces of a segment.
//!
//! A complete binary tree over the n piece roots in index order, filled up with zero leaves to
//! the next power of two, and on top a hash that binds the segment's shape. The leaf binds the
//! piece's index, so a path proves that a piece is *this* piece of the segment.

use super::domain::{INLINE, SEGMENT, SEGMENT_LEAF, SEGMENT_NODE};
use super::{Hash, ProofError};
use crate::shape::Shape;

/// All nodes of a segment's tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentTree {
    shape: Shape,
    /// Node 1 is the root, nodes 2 i and 2 i + 1 are the children of i; node 0 is unused.
    nodes: Vec<Hash>,
}

impl SegmentTree {
    /// The tree over all piece roots, in index order.
    ///
    /// # Errors
    ///
    /// [`ProofError::RootCount`] if there is not one root for each of the shape's pieces.
    pub fn new(shape: &Shape, roots: &[Hash]) -> Result<Self, ProofError> {
        let total_count = usize::from(shape.total());
        if roots.len() != total_count {
            return Err(ProofError::RootCount {
                given_count: roots.len(),
                expected_count: total_count,
            });
        }
        let leaf_count = 1 << shape.path_len();
        let mut nodes = vec![[0; 32]; 2 * leaf_count];
        for (index, root) in roots.iter().enumerate() {
            nodes[leaf_count + index] = leaf(index as u8, root);
        }
        for parent in (1..leaf_count).rev() {
            nodes[parent] = node(&nodes[2 * parent], &nodes[2 * parent + 1]);
        }
        Ok(Self {
            shape: *shape,
            nodes,
        })
    }

    /// The 32 bytes that stand for the whole segment.
    pub fn commitment(&self) -> Hash {
        commitment(&self.shape, &self.nodes[1])
    }

    /// The siblings from the leaf of piece `index` up, [`Shape::path_len`] hashes.
    ///
    /// # Panics
    ///
    /// If the segment has no such piece.
    pub fn path(&self, index: u8) -> Vec<Hash> {
        assert!(
            index < self.shape.total(),
            "piece {index} >= {} pieces",
            self.shape.total()
        );
        let mut position = self.nodes.len() / 2 + usize::from(index);
        let mut path = Vec::with_capacity(self.shape.path_len());
        while position > 1 {
            path.push(self.nodes[position ^ 1]);
            position /= 2;
        }
        path
    }
}

/// The commitment that a piece root and its path lead to. Compare it with the one you know.
///
/// # Errors
///
/// [`ProofError::IndexOutOfRange`] or [`ProofError::PathLen`] if index or path do not fit the
/// shape.
pub fn commitment_of_path(
    shape: &Shape,
    index: u8,
    root: &Hash,
    path: &[Hash],
) -> Result<Hash, ProofError> {
    if index >= shape.total() {
        return Err(ProofError::IndexOutOfRange {
            index,
            total_count: shape.total(),
        });
    }
    if path.len() != shape.path_len() {
        return Err(ProofError::PathLen {
            given_count: path.len(),
            expected_count: shape.path_len(),
        });
    }
    let mut hash = leaf(index, root);
    for (level, sibling) in path.iter().enumerate() {
        let is_left = index >> level & 1 == 0;
        hash = if is_left {
            node(&hash, sibling)
        } else {
            node(sibling, &hash)
        };
    }
    Ok(commitment(shape, &hash))
}

/// Commitment of a segment that is stored inline.
pub fn inline_commitment(salt: &[u8; 24], key_commitment: &[u8; 32], sealed: &[u8]) -> Hash {
    INLINE.hash(&[salt, key_commitment, sealed])
}

fn leaf(index: u8, root: &Hash) -> Hash {
    SEGMENT_LEAF.hash(&[&[index], root])
}

fn node(left: &Hash, right: &Hash) -> Hash {
    SEGMENT_NODE.hash(&[left, right])
}

fn commitment(shape: &Shape, tree_root: &Hash) -> Hash {
    let counts = [shape.required(), shape.total()];
    SEGMENT.hash(&[&counts, &shape.sealed_len().to_le_bytes(), tree_root])
}
