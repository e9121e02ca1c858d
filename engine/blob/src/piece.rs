//! A piece as it is handed in and as it is found again.
//!
//! The store keeps root, path and commitment for its caller and gives them back bit-exact; it checks lengths and counts, and knows
//! nothing of codes or trees beyond "a one-share piece's root is the hash of its body", which the caller vouches for.

use std::ops::Range;

use bytes::Bytes;

use crate::bug::{self, Bug};
use crate::error::BadPiece;
use crate::header::ExpiryClass;
use crate::index::{Entry, Place};
use crate::layout::{self, BLOCK_BYTES, BODY_BYTES_MAX, LONE_BODY_AT, PATH_LEN_MAX, SHARE_BYTES};
use crate::marks::Mark;
use crate::record::Kind;
use crate::states::{self, Known};

/// Shorter bodies are copied: it costs less than a request of three runs.
const IN_PLACE_BYTES_MIN: usize = 256 << 10;

/// What a share is checked against whenever it is read: CRC-32 (IEEE 802.3, as in zlib).
#[must_use]
pub fn share_crc(share: &[u8]) -> u32 {
    crc32fast::hash(share)
}

/// That of each share of a body.
#[must_use]
pub fn share_crcs(body: &[u8]) -> Vec<u32> {
    body.chunks(SHARE_BYTES).map(share_crc).collect()
}

/// A piece to store, already verified by the caller.
#[derive(Clone, Debug)]
pub struct NewPiece {
    /// Node id of the satellite whose limit allowed it.
    pub satellite: [u8; 32],
    /// Piece id.
    pub id: [u8; 32],
    /// When the limit was issued, seconds since 1970.
    pub created_s: u32,
    /// When the piece expires, seconds since 1970; 0 = never.
    pub expiry_s: u32,
    /// The body, in order, in as many runs as it arrived in.
    pub body: Vec<Bytes>,
    /// CRC-32 of each share ([`share_crc`]), computed when its bytes came: what befalls them later is noticed by whoever reads them.
    pub crcs: Vec<u32>,
    /// Chaining value of each share; empty for a piece of one share.
    pub share_hashes: Vec<[u8; 32]>,
    /// BLAKE3 of the body. Of a one-share piece it is not stored but found from the body again.
    pub root: [u8; 32],
    /// Siblings from the piece's leaf of the segment tree up.
    pub path: Vec<[u8; 32]>,
    /// Segment commitment.
    pub commitment: [u8; 32],
}

impl NewPiece {
    /// Bytes of the body.
    #[must_use]
    pub fn body_len(&self) -> u64 {
        self.body.iter().map(|run| run.len() as u64).sum()
    }

    /// Checks counts and lengths.
    pub(crate) fn check(&self) -> Result<(), BadPiece> {
        let bytes = self.body_len();
        if bytes == 0 || bytes > BODY_BYTES_MAX {
            return Err(BadPiece::BodyLength { bytes });
        }
        let shares = layout::share_count(bytes) as usize;
        if self.crcs.len() != shares {
            return Err(BadPiece::CrcCount {
                found: self.crcs.len(),
                wanted: shares,
            });
        }
        let wanted = if shares == 1 { 0 } else { shares };
        if self.share_hashes.len() != wanted {
            return Err(BadPiece::ShareHashCount {
                found: self.share_hashes.len(),
                wanted,
            });
        }
        if self.path.len() > PATH_LEN_MAX {
            return Err(BadPiece::PathLength {
                found: self.path.len(),
            });
        }
        Ok(())
    }

    /// The body, if it may be written from where it lies: long, in one run, and begun at the right place of a block's memory.
    pub(crate) fn body_in_place(&self) -> Option<&Bytes> {
        let [body] = &self.body[..] else { return None };
        let start = body.as_ptr().addr();
        let is_placed = start % BLOCK_BYTES == LONE_BODY_AT;
        (is_placed && body.len() >= IN_PLACE_BYTES_MIN).then_some(body)
    }
}

/// What a put did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// The piece is durable now.
    New,
    /// The same piece (id, root, commitment) was durable already.
    Already,
}

/// A stored piece: its identity confirmed and its trailer verified, its shares not yet read.
#[derive(Clone, Debug)]
pub struct Piece {
    /// Node id of the satellite.
    pub satellite: [u8; 32],
    /// Piece id.
    pub id: [u8; 32],
    /// Bytes of the body.
    pub body_len: u64,
    /// BLAKE3 of the body.
    pub root: [u8; 32],
    /// Siblings from the piece's leaf of the segment tree up.
    pub path: Vec<[u8; 32]>,
    /// Segment commitment.
    pub commitment: [u8; 32],
    /// Chaining value of each share; empty for a piece of one share.
    pub share_hashes: Vec<[u8; 32]>,
    /// When the limit was issued, seconds since 1970.
    pub created_s: u32,
    /// When the piece expires, seconds since 1970; 0 = never.
    pub expiry_s: u32,
    /// Since when it is in the trash, seconds since 1970; `None`: it is not.
    pub(crate) trashed_s: Option<u32>,
    /// The record's.
    pub(crate) sequence: u64,
    /// Its blob's.
    pub(crate) class: ExpiryClass,
    /// Where the record is.
    pub(crate) place: Place,
    /// CRC-32 of each share.
    pub(crate) crcs: Vec<u32>,
    /// The body, where reading header and trailer brought it along.
    pub(crate) body: Option<Bytes>,
}

impl Piece {
    /// Whether it has expired, or its days in the trash are over, by this time.
    pub(crate) fn is_gone(&self, now_s: u32) -> bool {
        states::is_expired(self.expiry_s, now_s)
            || self
                .trashed_s
                .is_some_and(|since_s| states::is_over(since_s, now_s))
    }

    /// Its record, with what that counts for.
    pub(crate) fn known(&self) -> Known {
        let record_len = layout::piece_record_len(self.body_len, self.path.len());
        Known {
            entry: Entry::new(self.place, record_len),
            body_len: self.body_len,
            expiry_s: self.expiry_s,
            sequence: self.sequence,
        }
    }

    /// A record about this piece.
    pub(crate) fn mark(&self, kind: Kind, now_s: u32) -> Mark {
        Mark {
            kind,
            satellite: self.satellite,
            id: self.id,
            now_s,
            class: self.class,
            expiry_s: self.expiry_s,
        }
    }

    /// Shares of the piece, at least 1.
    #[must_use]
    pub fn share_count(&self) -> u32 {
        layout::share_count(self.body_len)
    }

    /// The first of these shares whose bytes are not what they should be.
    pub(crate) fn first_bad_share(&self, shares: Range<u32>, bytes: &[u8]) -> Option<u32> {
        let mut parts = bytes.chunks(SHARE_BYTES);
        for share in shares {
            let is_last = share + 1 == self.share_count();
            let wanted = if is_last {
                self.body_len as usize - share as usize * SHARE_BYTES
            } else {
                SHARE_BYTES
            };
            let found = parts.next().unwrap_or_default();
            // G3: no byte leaves whose share was not checked.
            let is_right = crc32fast::hash(found) == self.crcs[share as usize]
                || bug::is_planted(Bug::BodyUnchecked);
            if found.len() != wanted || !is_right {
                return Some(share);
            }
        }
        None
    }
}
