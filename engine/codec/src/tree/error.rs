//! Why hashes prove nothing.

/// A proof, or what was given to make one, does not fit its shape or its root.
///
/// From a verifier's call, the peer's fault; from a prover's, the caller's or his disk's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProofError {
    /// No piece has this length.
    #[error("piece length {piece_len} is not within 1 to 4,198,464")]
    PieceLen {
        /// The length given.
        piece_len: u64,
    },
    /// Too few or too many share hashes.
    #[error("{given_count} share hashes given, the piece has {expected_count}")]
    ShareHashCount {
        /// Hashes given.
        given_count: usize,
        /// Hashes of such a piece.
        expected_count: usize,
    },
    /// A piece of one share has no share hashes: its root is the hash of the share.
    #[error("a piece of one share has no share hashes to compute its root from")]
    OneShare,
    /// Too few or too many piece roots.
    #[error("{given_count} piece roots given, the segment has {expected_count}")]
    RootCount {
        /// Roots given.
        given_count: usize,
        /// Pieces of the segment.
        expected_count: usize,
    },
    /// Too few or too many hashes in a path.
    #[error("path of {given_count} hashes, the segment's depth is {expected_count}")]
    PathLen {
        /// Hashes given.
        given_count: usize,
        /// Depth of the segment's tree.
        expected_count: usize,
    },
    /// No piece of the segment has this index.
    #[error("piece index {index} >= {total_count} pieces")]
    IndexOutOfRange {
        /// The index given.
        index: u8,
        /// Pieces of the segment.
        total_count: u8,
    },
    /// An object has at least one segment.
    #[error("object without segments")]
    NoLeaves,
    /// The segments of an object are not in the order of their positions.
    #[error("part {part_number} segment {segment_index} is not after the leaf before it")]
    LeafOrder {
        /// Part of the leaf that is out of order.
        part_number: u32,
        /// Segment of the leaf that is out of order.
        segment_index: u32,
    },
    /// An empty range, or one that ends after the piece.
    #[error("leaves {start}..{end} are not a range within {leaf_count} leaves")]
    LeafRange {
        /// First leaf.
        start: u32,
        /// Leaf after the last.
        end: u32,
        /// Leaves of the piece.
        leaf_count: u32,
    },
    /// Too few or too many hashes in a slice proof.
    #[error("proof of {given_count} hashes, the range needs {expected_count}")]
    ProofLen {
        /// Hashes given.
        given_count: usize,
        /// Hashes the range needs.
        expected_count: usize,
    },
    /// Too few or too many bytes for a range or a share.
    #[error("{given_len} bytes given, {expected_len} expected")]
    ByteCount {
        /// Bytes given.
        given_len: usize,
        /// Bytes expected.
        expected_len: usize,
    },
    /// The bytes are not those of the piece.
    #[error("bytes do not hash to the piece root")]
    Root,
}
