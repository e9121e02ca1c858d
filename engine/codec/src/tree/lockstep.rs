//! All pieces of a segment hashed side by side, columns of them at a time.
//!
//! One piece alone fills the lanes of a vector with 16 leaves in a row, which is a share; a pipeline whose work space is to stay in
//! a cache has fewer columns at hand, but the same leaf of all pieces. So here lanes are pieces, in leaves as in the nodes above.

use super::lanes::{LANES, Lanes, PAIR_BYTES};
use super::piece::{SHARE_LEAVES, merge_root, share_count, subtree_hash};
use super::{Hash, PieceTree};
use crate::shape::LEAF_BYTES;

/// Hashes equally long pieces in lockstep.
///
/// Allocates all its memory when it is made: for `n` pieces of `s` shares some `64 n (s + 16)` bytes.
#[derive(Clone, Debug)]
pub struct LockstepHasher {
    lanes: Lanes,
    piece_count: usize,
    piece_len: u64,
    pushed_len: u64,
    /// Chaining values of the current share's leaves, piece by piece.
    leaves: Vec<Hash>,
    /// Chaining values of shares, piece by piece; of pieces of one share their roots.
    shares: Vec<Hash>,
    /// Room for the nodes of two levels.
    levels: [Vec<Hash>; 2],
}

impl LockstepHasher {
    /// A hasher for `piece_count` pieces of `piece_len` bytes each.
    ///
    /// # Panics
    ///
    /// If no piece has this length. [`Shape::piece_len`](crate::Shape::piece_len) is always one.
    pub fn new(piece_count: usize, piece_len: u64) -> Self {
        let share_count = share_count(piece_len);
        let leaf_count = SHARE_LEAVES as usize;
        let level = vec![[0; 32]; piece_count * share_count.max(leaf_count).div_ceil(2)];
        Self {
            lanes: Lanes::detect(),
            piece_count,
            piece_len,
            pushed_len: 0,
            leaves: vec![[0; 32]; piece_count * leaf_count],
            shares: vec![[0; 32]; piece_count * share_count],
            levels: [level.clone(), level],
        }
    }

    /// Adds the next columns of every piece, in index order.
    ///
    /// # Panics
    ///
    /// If there is not one slice for each piece, they differ in length, go beyond the piece, or are no multiple of 1,024 bytes
    /// without being the last.
    pub fn push(&mut self, columns: &[&[u8]]) {
        assert_eq!(columns.len(), self.piece_count, "columns of every piece");
        let len = columns.first().map_or(0, |column| column.len());
        assert!(
            columns.iter().all(|column| column.len() == len),
            "one length"
        );
        let end = self.pushed_len + len as u64;
        let is_whole = len.is_multiple_of(LEAF_BYTES) || end == self.piece_len;
        assert!(
            is_whole && end <= self.piece_len,
            "{len} bytes after {} of {}",
            self.pushed_len,
            self.piece_len
        );
        for start in (0..len).step_by(LEAF_BYTES) {
            self.push_leaf(columns, start, LEAF_BYTES.min(len - start));
        }
    }

    /// The trees of all pieces, in index order.
    ///
    /// # Panics
    ///
    /// If bytes are missing.
    pub fn finish(mut self) -> Vec<PieceTree> {
        assert_eq!(
            self.pushed_len, self.piece_len,
            "bytes pushed of the pieces"
        );
        let share_count = share_count(self.piece_len);
        if share_count == 1 {
            let trees = self.shares.into_iter().map(|root| PieceTree {
                root,
                share_hashes: Vec::new(),
            });
            return trees.collect();
        }
        let tops = merge(self.lanes, &self.shares, &mut self.levels, share_count, 2);
        let roots: Vec<Hash> = tops[..2 * self.piece_count]
            .chunks_exact(2)
            .map(merge_root)
            .collect();
        let shares = self.shares.chunks_exact(share_count);
        let trees = roots.into_iter().zip(shares);
        trees
            .map(|(root, share_hashes)| PieceTree {
                root,
                share_hashes: share_hashes.to_vec(),
            })
            .collect()
    }

    /// The leaf of every piece that begins at `start` of the columns.
    fn push_leaf(&mut self, columns: &[&[u8]], start: usize, len: usize) {
        let leaf = self.pushed_len / LEAF_BYTES as u64;
        let in_share = (leaf % u64::from(SHARE_LEAVES)) as usize;
        let share_start = self.pushed_len - (in_share * LEAF_BYTES) as u64;
        let share_len =
            (self.piece_len - share_start).min((SHARE_LEAVES as usize * LEAF_BYTES) as u64);
        let leaf_count = share_len.div_ceil(LEAF_BYTES as u64) as usize;
        let mut hashes = [[0; 32]; LANES];
        for (batch, columns) in columns.chunks(LANES).enumerate() {
            let count = columns.len();
            if len == LEAF_BYTES && self.piece_len > LEAF_BYTES as u64 {
                let mut leaves = [&[0; LEAF_BYTES]; LANES];
                for (leaf, column) in leaves.iter_mut().zip(columns) {
                    *leaf = column[start..].first_chunk().expect("a leaf was left");
                }
                let filled = self.lanes.filled(count);
                let repeated = leaves[0];
                leaves[count..filled].fill(repeated);
                self.lanes
                    .leaves(leaf, &leaves[..filled], &mut hashes[..filled]);
            } else {
                for (hash, column) in hashes.iter_mut().zip(columns) {
                    let bytes = &column[start..start + len];
                    *hash = if self.piece_len <= LEAF_BYTES as u64 {
                        blake3::hash(bytes).into()
                    } else {
                        subtree_hash(self.pushed_len, bytes)
                    };
                }
            }
            for (piece, hash) in (batch * LANES..).zip(&hashes[..count]) {
                self.leaves[piece * leaf_count + in_share] = *hash;
            }
        }
        self.pushed_len += len as u64;
        if in_share + 1 == leaf_count {
            self.end_share((leaf / u64::from(SHARE_LEAVES)) as usize, leaf_count);
        }
    }

    fn end_share(&mut self, share: usize, leaf_count: usize) {
        let share_count = share_count(self.piece_len);
        // The node above a piece's only share is its root.
        let is_root = share_count == 1 && leaf_count > 1;
        let width = if is_root { 2 } else { 1 };
        let leaves = &self.leaves[..self.piece_count * leaf_count];
        let tops = merge(self.lanes, leaves, &mut self.levels, leaf_count, width);
        let shares = self.shares.iter_mut().skip(share).step_by(share_count);
        for (hash, top) in shares.zip(tops.chunks_exact(width)) {
            *hash = if is_root { merge_root(top) } else { top[0] };
        }
    }
}

/// Merges `count` hashes of every piece, pair by pair and level by level, until each has `width`, and returns these in front.
///
/// An odd last one goes up as it is: that is the tree whose left subtrees are as large as they can be (section 2.1 of the paper).
fn merge<'a>(
    lanes: Lanes,
    hashes: &'a [Hash],
    levels: &'a mut [Vec<Hash>; 2],
    mut count: usize,
    width: usize,
) -> &'a [Hash] {
    if count <= width {
        return hashes;
    }
    let [mut from, mut to] = levels.each_mut();
    let piece_count = hashes.len() / count;
    merge_level(lanes, hashes, count, from);
    count = count.div_ceil(2);
    while count > width {
        merge_level(lanes, &from[..piece_count * count], count, to);
        count = count.div_ceil(2);
        (from, to) = (to, from);
    }
    from
}

/// One level up: `count` hashes of every piece become half as many.
fn merge_level(lanes: Lanes, source: &[Hash], count: usize, target: &mut [Hash]) {
    let above = count.div_ceil(2);
    let mut pairs = [&[0; PAIR_BYTES]; LANES];
    let mut hashes = [[0; 32]; LANES];
    let mut places = [0; LANES];
    let mut held = 0;
    let piece_count = source.len() / count;
    for piece in 0..piece_count {
        let row = source[piece * count..][..count].as_flattened();
        for pair in 0..count / 2 {
            pairs[held] = row[pair * PAIR_BYTES..].first_chunk().expect("two hashes");
            places[held] = piece * above + pair;
            held += 1;
            let is_last = piece + 1 == piece_count && pair + 1 == count / 2;
            if held == LANES || is_last {
                lanes.parents(&pairs[..held], &mut hashes[..held]);
                for (&place, hash) in places.iter().zip(&hashes[..held]) {
                    target[place] = *hash;
                }
                held = 0;
            }
        }
        if count % 2 == 1 {
            target[piece * above + above - 1] = source[piece * count + count - 1];
        }
    }
}
