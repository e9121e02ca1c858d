//! The hash of a piece, and of its shares.
//!
//! The piece root is plain BLAKE3 of the piece. A full share is 16 BLAKE3 chunks, so in a piece
//! of several shares each share is one subtree at its chunk offset (a last, short one is the
//! right edge), and share hashes are these subtrees' chaining values. A piece of one share has
//! none: its root is the hash of the share.

use blake3::Hasher;
use blake3::hazmat::{HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};

use super::{Hash, ProofError};
use crate::shape::{LEAF_BYTES, PIECE_BYTES_MAX, SHARE_BYTES};

/// Leaves of a full share.
pub(super) const SHARE_LEAVES: u32 = (SHARE_BYTES / LEAF_BYTES) as u32;

/// Root and share hashes of one piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PieceTree {
    /// BLAKE3 hash of the piece.
    pub root: Hash,
    /// Chaining value of each share, in order; empty for a piece of one share.
    pub share_hashes: Vec<Hash>,
}

/// Hashes a piece share by share.
#[derive(Clone, Debug)]
pub struct PieceHasher {
    piece_len: u64,
    pushed_len: u64,
    /// Chaining values so far; for a piece of one share, its root.
    hashes: Vec<Hash>,
}

impl PieceHasher {
    /// A hasher for a piece of `piece_len` bytes.
    ///
    /// # Panics
    ///
    /// If no piece has this length. [`Shape::piece_len`](crate::Shape::piece_len) is always one.
    pub fn new(piece_len: u64) -> Self {
        let share_count = share_count(piece_len);
        Self {
            piece_len,
            pushed_len: 0,
            hashes: Vec::with_capacity(share_count),
        }
    }

    /// Adds the next share, in order.
    ///
    /// # Panics
    ///
    /// If `share` has not the length of the piece's next share, or there is none.
    pub fn push_share(&mut self, share: &[u8]) {
        let hash = share_hash(self.piece_len, self.hashes.len() as u32, share);
        self.hashes.push(hash);
        self.pushed_len += share.len() as u64;
    }

    /// Root and share hashes.
    ///
    /// # Panics
    ///
    /// If shares are missing.
    pub fn finish(self) -> PieceTree {
        assert_eq!(self.pushed_len, self.piece_len, "bytes pushed of the piece");
        if let [root] = self.hashes[..] {
            return PieceTree {
                root,
                share_hashes: Vec::new(),
            };
        }
        PieceTree {
            root: merge_root(&self.hashes),
            share_hashes: self.hashes,
        }
    }
}

/// Hash of one share, to compare with `share_hashes[share]`, or with the root of a piece of one
/// share.
///
/// # Panics
///
/// If no piece is `piece_len` long, or share number `share` of such a piece has not the length
/// of `bytes`. [`Shape::share_len`](crate::Shape::share_len) says how many bytes to read.
pub fn share_hash(piece_len: u64, share: u32, bytes: &[u8]) -> Hash {
    let share_count = share_count(piece_len);
    assert!(
        (share as usize) < share_count,
        "share {share} >= {share_count} shares"
    );
    let offset = u64::from(share) * SHARE_BYTES as u64;
    let expected_len = (piece_len - offset).min(SHARE_BYTES as u64);
    assert_eq!(bytes.len() as u64, expected_len, "bytes of share {share}");
    if share_count == 1 {
        return blake3::hash(bytes).into();
    }
    subtree_hash(offset, bytes)
}

/// Root of a piece from its share hashes.
///
/// # Errors
///
/// [`ProofError::ShareHashCount`] if their number does not follow from `piece_len`;
/// [`ProofError::OneShare`] for a piece of one share, which has none.
pub fn root_of_share_hashes(piece_len: u64, share_hashes: &[Hash]) -> Result<Hash, ProofError> {
    check_share_hashes(piece_len, share_hashes)?;
    if share_hashes.is_empty() {
        return Err(ProofError::OneShare);
    }
    Ok(merge_root(share_hashes))
}

/// Shares of a piece.
pub(super) fn try_share_count(piece_len: u64) -> Result<usize, ProofError> {
    if piece_len == 0 || piece_len > PIECE_BYTES_MAX {
        return Err(ProofError::PieceLen { piece_len });
    }
    Ok(piece_len.div_ceil(SHARE_BYTES as u64) as usize)
}

pub(super) fn check_share_hashes(piece_len: u64, share_hashes: &[Hash]) -> Result<(), ProofError> {
    let share_count = try_share_count(piece_len)?;
    let expected_count = if share_count == 1 { 0 } else { share_count };
    if share_hashes.len() != expected_count {
        return Err(ProofError::ShareHashCount {
            given_count: share_hashes.len(),
            expected_count,
        });
    }
    Ok(())
}

/// Chaining value of the subtree at `offset` of a piece.
pub(super) fn subtree_hash(offset: u64, bytes: &[u8]) -> Hash {
    Hasher::new()
        .set_input_offset(offset)
        .update(bytes)
        .finalize_non_root()
}

/// Chaining value of a run of subtrees: all of one power of two of leaves but the last, which
/// may be shorter, and starting at a multiple of the run's own size rounded up to a power of two.
pub(super) fn merge_run(hashes: &[Hash]) -> Hash {
    match hashes {
        [] => unreachable!("a subtree has at least one leaf"),
        [hash] => *hash,
        _ => {
            let (left, right) = hashes.split_at(left_count(hashes.len()));
            merge_subtrees_non_root(&merge_run(left), &merge_run(right), Mode::Hash)
        }
    }
}

/// The root above two or more share hashes.
pub(super) fn merge_root(hashes: &[Hash]) -> Hash {
    let (left, right) = hashes.split_at(left_count(hashes.len()));
    merge_subtrees_root(&merge_run(left), &merge_run(right), Mode::Hash).into()
}

/// Members of the left subtree: the largest power of two below `count`, which is at least 2.
pub(super) fn left_count(count: usize) -> usize {
    assert!(count >= 2, "a subtree of {count} has no children");
    count.div_ceil(2).next_power_of_two()
}

pub(super) fn share_count(piece_len: u64) -> usize {
    match try_share_count(piece_len) {
        Ok(count) => count,
        Err(error) => panic!("{error}"),
    }
}
