//! Where things live inside a blob: offset arithmetic and nothing else.
//!
//! A blob is two header blocks followed by commit groups, all multiples of [`BLOCK_BYTES`], so every group
//! can be handed to Direct I/O as is; records inside lie at steps of [`STEP_BYTES`]. This module never touches a byte of content:
//! `record` and `group` fill the places in, `recover` decides what a bad one means.
//!
//! The layout is frozen by docs/format.md section 6; `layout_is_frozen` below fails if it drifts.

use std::fmt;

/// Unit of blob length, group alignment and Direct I/O.
pub const BLOCK_BYTES: usize = 4_096;

/// Unit of record alignment.
pub const STEP_BYTES: usize = 64;

/// Bytes of a share, and of a share's slot in the checksum table of a piece.
pub const SHARE_BYTES: usize = 16_384;

/// Bytes of the two copies of the blob header: the offset of the first group.
pub const BLOB_HEADER_BYTES: u64 = 2 * BLOCK_BYTES as u64;

/// Bytes of a group header; the first record follows at once.
pub const GROUP_HEADER_BYTES: usize = 64;

/// Bytes of a record header; a piece's body follows at once.
pub const RECORD_HEADER_BYTES: usize = 88;

/// Where the body begins of a piece that has a group for itself.
///
/// A body whose memory begins as far beyond a multiple of [`BLOCK_BYTES`] is written from where it lies.
pub const LONE_BODY_AT: usize = GROUP_HEADER_BYTES + RECORD_HEADER_BYTES;

/// Longest body of a piece record: 257 shares.
///
/// A segment holds at most min(64, 4 k) MiB, so a piece is 4 MiB and its share of the seals: 4,198,464 bytes = 256 shares and a
/// last one of 4,160.
pub const BODY_BYTES_MAX: u64 = 257 * SHARE_BYTES as u64;

/// Longest path: a tree over at most 255 pieces is 8 deep.
pub const PATH_LEN_MAX: usize = 8;

/// Most satellites that one blob's table, and so one node, knows.
pub const SATELLITES_MAX: usize = 64;

/// Number of a blob file. Rises from 1 and is never used twice in a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlobId(pub u64);

impl fmt::Display for BlobId {
    /// The file's stem: 16 hex digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Shares of a body, the last of which may be short.
#[must_use]
pub fn share_count(body_len: u64) -> u32 {
    u32::try_from(body_len.div_ceil(SHARE_BYTES as u64)).unwrap_or(u32::MAX)
}

/// Bytes of the trailer after a body of `body_len` with a path of `path_len` hashes.
#[must_use]
pub fn trailer_len(body_len: u64, path_len: usize) -> u64 {
    let shares = u64::from(share_count(body_len));
    // CRC of each share; of two or more shares also their chaining values and the root.
    let table = if shares == 1 { 4 } else { shares * 36 + 32 };
    table + 32 * path_len as u64 + 32 + 4
}

/// Bytes of a whole piece record, without the padding to the next step.
#[must_use]
pub fn piece_record_len(body_len: u64, path_len: usize) -> u64 {
    RECORD_HEADER_BYTES as u64 + body_len + trailer_len(body_len, path_len)
}

/// Next multiple of the record step.
#[must_use]
pub fn round_to_step(offset: u64) -> u64 {
    offset.next_multiple_of(STEP_BYTES as u64)
}

/// Next multiple of the block.
#[must_use]
pub fn round_to_block(offset: u64) -> u64 {
    offset.next_multiple_of(BLOCK_BYTES as u64)
}

/// The block that holds `offset`.
#[must_use]
pub fn block_of(offset: u64) -> u64 {
    offset - offset % BLOCK_BYTES as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layout_is_frozen() {
        //= docs/format.md#record
        assert_eq!(trailer_len(576, 7), 4 + 224 + 32 + 4);
        assert_eq!(piece_record_len(576, 7), 88 + 576 + 4 + 224 + 32 + 4);
        assert_eq!(round_to_step(piece_record_len(576, 7)), 960);
        assert_eq!(share_count(2_316_416), 142);
        assert_eq!(trailer_len(2_316_416, 7), 142 * 36 + 32 + 224 + 36);
        assert_eq!(share_count(1), 1);
        assert_eq!(share_count(16_384), 1);
        assert_eq!(share_count(16_385), 2);
        assert_eq!(BlobId(0x1f).to_string(), "000000000000001f");
    }
}
