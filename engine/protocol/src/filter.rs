//! Which pieces a node should hold, in nine bits a piece: the filter of garbage collection.
//!
//! A binary fuse filter with 8-bit slots over keyed 64-bit hashes of piece ids (Graf and Lemire, "Binary fuse filters: fast
//! and smaller than xor filters", 2022). The bytes are those of docs/format.md, section 7; this file
//! reads them, [`mod@build`] makes them. A stock crate was not taken: the bytes outlive releases and
//! come from outside, so their layout and every check on it belong here.
//!
//! What must stay true: a filter contains every id it was made of. Of others it contains 1 in 256,
//! and nobody can choose which: the hash has a random key, new for each filter.

mod build;
#[cfg(test)]
mod tests;

pub use build::BuildError;

use crate::id::{NodeId, PieceId};
use crate::limits::{FILTER_BYTES_MAX, FILTER_PIECES_MAX};

const MAGIC: &[u8; 4] = b"SPF1";
const HEADER_BYTES: usize = 192;
const CHECK_BYTES: usize = 16;
const SEGMENT_LOG_MIN: u8 = 2;
const SEGMENT_LOG_MAX: u8 = 18;

/// What a filter speaks about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FilterScope {
    /// Whose pieces.
    pub satellite: NodeId,
    /// Held by whom.
    pub node: NodeId,
    /// It says nothing of pieces created at that moment or later; milliseconds since 1970.
    pub snapshot_ms: u64,
    /// It says nothing of lower ids.
    pub first_id: PieceId,
    /// It says nothing of higher ids.
    pub last_id: PieceId,
}

impl FilterScope {
    /// Whether the id lies in the range.
    #[must_use]
    pub fn covers(&self, piece_id: &[u8; 32]) -> bool {
        self.first_id.as_bytes() <= piece_id && piece_id <= self.last_id.as_bytes()
    }
}

/// The random key of one filter's hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FilterKey([u8; 32]);

impl FilterKey {
    /// What a filter with this key is made of in an id's place.
    #[must_use]
    pub fn hash(&self, piece_id: &[u8; 32]) -> u64 {
        let hash = blake3::keyed_hash(&self.0, piece_id);
        let (first, _) = hash
            .as_bytes()
            .split_first_chunk()
            .unwrap_or((&[0; 8], &[]));
        u64::from_le_bytes(*first)
    }
}

impl From<[u8; 32]> for FilterKey {
    fn from(key: [u8; 32]) -> Self {
        Self(key)
    }
}

/// Why bytes are not a piece filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FilterError {
    /// Too many bytes.
    #[error("filter of {len} bytes > {FILTER_BYTES_MAX}")]
    TooLong {
        /// Bytes given.
        len: usize,
    },
    /// Too few bytes for what they say, or too many.
    #[error("filter of {len} bytes != {expected}")]
    Length {
        /// Bytes given.
        len: usize,
        /// What the header asks for.
        expected: usize,
    },
    /// Another structure, or a version of another release.
    #[error("not a piece filter of a version known here")]
    Magic,
    /// Damaged.
    #[error("the filter's check does not fit its bytes")]
    Check,
    /// A field with a value that it cannot have.
    #[error("the filter's {field} cannot be so")]
    Field {
        /// Which.
        field: &'static str,
    },
}

/// A checked filter. See the module's head.
#[derive(Clone, PartialEq, Eq)]
pub struct PieceFilter {
    bytes: Vec<u8>,
    scope: FilterScope,
    count: u64,
    key: FilterKey,
    table: Table,
}

/// How a filter's slots are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Table {
    mix: u32,
    segment_log: u8,
    segment_count: u32,
}

impl PieceFilter {
    /// Checks the bytes of a filter and keeps them.
    ///
    /// # Errors
    ///
    /// Anything but the canonical bytes.
    pub fn parse(bytes: Vec<u8>) -> Result<Self, FilterError> {
        let len = bytes.len();
        if len > FILTER_BYTES_MAX {
            return Err(FilterError::TooLong { len });
        }
        if bytes.get(..4) != Some(&MAGIC[..]) {
            return Err(FilterError::Magic);
        }
        let expected = HEADER_BYTES + CHECK_BYTES;
        let mut fields = Fields(&bytes);
        let header = fields
            .header()
            .ok_or(FilterError::Length { len, expected })?;
        let (scope, count, key, table) = header?;
        let expected = expected + table.slot_count();
        if len != expected {
            return Err(FilterError::Length { len, expected });
        }
        if (count == 0) != (table.segment_count == 0) || count > table.slot_count() as u64 {
            return Err(FilterError::Field { field: "count" });
        }
        let (checked, check) = bytes.split_at(len - CHECK_BYTES);
        if check != &check_of(checked)[..] {
            return Err(FilterError::Check);
        }
        Ok(Self {
            scope,
            count,
            key,
            table,
            bytes,
        })
    }

    /// The canonical bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The canonical bytes.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// What it speaks about.
    #[must_use]
    pub fn scope(&self) -> &FilterScope {
        &self.scope
    }

    /// Pieces that it was made of.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Whether the satellite wants the piece: always if it was there when the filter was made, and
    /// if the filter says nothing of its id; else 1 time in 256.
    #[must_use]
    pub fn contains(&self, piece_id: &[u8; 32]) -> bool {
        if !self.scope.covers(piece_id) {
            return true;
        }
        if self.count == 0 {
            return false;
        }
        let hash = self.table.mixed(self.key.hash(piece_id));
        let slots = &self.bytes[HEADER_BYTES..];
        let [a, b, c] = self.table.slots_of(hash);
        slots[a] ^ slots[b] ^ slots[c] == fingerprint(hash)
    }
}

impl std::fmt::Debug for PieceFilter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PieceFilter")
            .field("scope", &self.scope)
            .field("count", &self.count)
            .finish_non_exhaustive()
    }
}

impl Table {
    fn slot_count(self) -> usize {
        match self.segment_count {
            0 => 0,
            count => (count as usize + 2) << self.segment_log,
        }
    }

    /// MurmurHash3's finaliser over the hash and this table's mix.
    fn mixed(self, hash: u64) -> u64 {
        let mut h = hash.wrapping_add(u64::from(self.mix));
        h ^= h >> 33;
        h = h.wrapping_mul(0xff51_afd7_ed55_8ccd);
        h ^= h >> 33;
        h = h.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        h ^ (h >> 33)
    }

    /// Three slots in three consecutive segments, all below `slot_count`: the first lies in one of
    /// the first `segment_count`, and XOR with less than a segment's length stays in its segment.
    fn slots_of(self, hash: u64) -> [usize; 3] {
        let segment = 1_u64 << self.segment_log;
        let range = u128::from(self.segment_count) << self.segment_log;
        let a = ((u128::from(hash) * range) >> 64) as u64;
        let b = (a + segment) ^ ((hash >> 18) & (segment - 1));
        let c = (a + 2 * segment) ^ (hash & (segment - 1));
        [a as usize, b as usize, c as usize]
    }
}

fn fingerprint(hash: u64) -> u8 {
    (hash ^ (hash >> 32)) as u8
}

fn check_of(bytes: &[u8]) -> [u8; CHECK_BYTES] {
    let hash = blake3::derive_key("strand piece filter v1", bytes);
    let mut check = [0; CHECK_BYTES];
    check.copy_from_slice(&hash[..CHECK_BYTES]);
    check
}

/// Takes fields off the front.
struct Fields<'a>(&'a [u8]);

type Header = (FilterScope, u64, FilterKey, Table);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*field)
    }

    /// `None` if there are too few bytes.
    fn header(&mut self) -> Option<Result<Header, FilterError>> {
        self.take::<4>()?;
        let [segment_log, zeros @ ..] = self.take::<4>()?;
        let scope = FilterScope {
            satellite: self.take::<32>()?.into(),
            node: self.take::<32>()?.into(),
            snapshot_ms: u64::from_le_bytes(self.take()?),
            first_id: self.take::<32>()?.into(),
            last_id: self.take::<32>()?.into(),
        };
        let count = u64::from_le_bytes(self.take()?);
        let key = FilterKey(self.take()?);
        let mix = u32::from_le_bytes(self.take()?);
        let segment_count = u32::from_le_bytes(self.take()?);
        let is_segment_log = match segment_count {
            0 => segment_log == 0,
            _ => (SEGMENT_LOG_MIN..=SEGMENT_LOG_MAX).contains(&segment_log),
        };
        let wrong = if zeros != [0; 3] {
            "reserved field"
        } else if !is_segment_log {
            "segment length"
        } else if scope.first_id > scope.last_id {
            "range"
        } else if count > FILTER_PIECES_MAX as u64 {
            "count"
        } else if segment_count as usize > FILTER_BYTES_MAX {
            "segment count"
        } else {
            let table = Table {
                mix,
                segment_log,
                segment_count,
            };
            return Some(Ok((scope, count, key, table)));
        };
        Some(Err(FilterError::Field { field: wrong }))
    }
}
