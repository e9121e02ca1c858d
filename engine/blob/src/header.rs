//! The blob header: whose blob it is, which satellites its records belong to, and the salt of its checks.
//!
//! Both header blocks hold the same bytes and are durable before the first group is written, so a blob that has groups and
//! lost both copies is rot, not a torn creation. Frozen by docs/format.md section 6.

use crate::bytes_at::{array_at, put, u16_at, u64_at};
use crate::check::first_half;
use crate::layout::{BLOCK_BYTES, BlobId, SATELLITES_MAX};

const MAGIC: &[u8; 8] = b"STRNDBLB";
const VERSION: u16 = 1;
const CHECK_AT: usize = 4_080;
const CHECK_CONTEXT: &str = "strand v1 blob header";

const _: () = assert!(96 + 32 * SATELLITES_MAX <= CHECK_AT);

/// How long a blob's pieces live: pieces that expire together lie together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ExpiryClass(u8);

impl ExpiryClass {
    pub(crate) const COUNT: usize = 4;
    const DAY_S: u32 = 86_400;

    /// The class of a piece; `expiry_s` 0 = never.
    pub(crate) fn of(created_s: u32, expiry_s: u32) -> Self {
        if expiry_s == 0 {
            return Self(3);
        }
        match expiry_s.saturating_sub(created_s) {
            life_s if life_s <= Self::DAY_S => Self(0),
            life_s if life_s <= 7 * Self::DAY_S => Self(1),
            life_s if life_s <= 30 * Self::DAY_S => Self(2),
            _ => Self(3),
        }
    }

    /// The class whose blobs take this one's pieces where so many blobs are appended to at a time: never a shorter-lived one.
    pub(crate) fn within(self, append_points: u8) -> Self {
        match append_points {
            0 | 1 => Self(3),
            2 | 3 => Self(self.0 | 1),
            _ => self,
        }
    }

    pub(crate) fn from_byte(byte: u8) -> Option<Self> {
        (usize::from(byte) < Self::COUNT).then_some(Self(byte))
    }

    pub(crate) fn byte(self) -> u8 {
        self.0
    }

    pub(crate) fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// The first two blocks of a blob, parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BlobHeader {
    pub(crate) class: ExpiryClass,
    pub(crate) node_id: [u8; 32],
    pub(crate) blob: BlobId,
    pub(crate) created_s: u64,
    pub(crate) salt: [u8; 32],
    pub(crate) satellites: Vec<[u8; 32]>,
}

/// Why a block is not a header that this release can use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoHeader {
    /// Magic, check or a field is wrong.
    Bad,
    /// A good header of another format version.
    Version(u16),
}

impl BlobHeader {
    /// Fills one block, which must be zero.
    pub(crate) fn encode_into(&self, block: &mut [u8]) {
        assert!(
            self.satellites.len() <= SATELLITES_MAX,
            "a blob's satellite table holds 64"
        );
        put(block, 0, MAGIC);
        put(block, 8, &VERSION.to_le_bytes());
        block[10] = self.class.0;
        block[11] = self.satellites.len() as u8;
        put(block, 16, &self.node_id);
        put(block, 48, &self.blob.0.to_le_bytes());
        put(block, 56, &self.created_s.to_le_bytes());
        put(block, 64, &self.salt);
        for (index, satellite) in self.satellites.iter().enumerate() {
            put(block, 96 + 32 * index, satellite);
        }
        let check = check_of(block);
        put(block, CHECK_AT, &check);
    }

    /// Reads one block of 4,096 bytes.
    pub(crate) fn parse(block: &[u8]) -> Result<Self, NoHeader> {
        if block.len() < BLOCK_BYTES
            || &block[..8] != MAGIC
            || block[CHECK_AT..BLOCK_BYTES] != check_of(block)
        {
            return Err(NoHeader::Bad);
        }
        let version = u16_at(block, 8);
        if version != VERSION {
            return Err(NoHeader::Version(version));
        }
        let class = ExpiryClass::from_byte(block[10]).ok_or(NoHeader::Bad)?;
        let satellite_count = usize::from(block[11]);
        if satellite_count > SATELLITES_MAX {
            return Err(NoHeader::Bad);
        }
        Ok(Self {
            class,
            node_id: array_at(block, 16),
            blob: BlobId(u64_at(block, 48)),
            created_s: u64_at(block, 56),
            salt: array_at(block, 64),
            satellites: (0..satellite_count)
                .map(|index| array_at(block, 96 + 32 * index))
                .collect(),
        })
    }
}

fn check_of(block: &[u8]) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new_derive_key(CHECK_CONTEXT);
    hasher.update(&block[..CHECK_AT]);
    first_half(hasher.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_share_blobs_of_the_longer_lived_one() {
        for (points, wanted) in [
            (1, [3, 3, 3, 3]),
            (2, [1, 1, 3, 3]),
            (3, [1, 1, 3, 3]),
            (4, [0, 1, 2, 3]),
        ] {
            let found = [0, 1, 2, 3].map(|class| ExpiryClass(class).within(points).0);
            assert_eq!(found, wanted, "{points}");
        }
    }

    fn header() -> BlobHeader {
        BlobHeader {
            class: ExpiryClass(2),
            node_id: [1; 32],
            blob: BlobId(7),
            created_s: 1_800_000_000,
            salt: [3; 32],
            satellites: vec![[4; 32], [5; 32]],
        }
    }

    #[test]
    fn header_survives_the_round_trip_and_no_bit_flip() {
        let mut block = vec![0; BLOCK_BYTES];
        header().encode_into(&mut block);
        assert_eq!(BlobHeader::parse(&block), Ok(header()));
        for bit in 0..BLOCK_BYTES * 8 {
            block[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(BlobHeader::parse(&block), Err(NoHeader::Bad), "bit {bit}");
            block[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn a_newer_header_says_so() {
        let mut block = vec![0; BLOCK_BYTES];
        header().encode_into(&mut block);
        block[8] = 2;
        let check = check_of(&block);
        put(&mut block, CHECK_AT, &check);
        assert_eq!(BlobHeader::parse(&block), Err(NoHeader::Version(2)));
    }

    #[test]
    fn classes_split_at_whole_days() {
        let class = |life_s: u32| ExpiryClass::of(1_000, 1_000 + life_s).index();
        assert_eq!(ExpiryClass::of(1_000, 0).index(), 3);
        assert_eq!(
            [class(1), class(86_400), class(86_401), class(604_800)],
            [0, 0, 1, 1]
        );
        assert_eq!(
            [class(604_801), class(2_592_000), class(2_592_001)],
            [2, 2, 3]
        );
        assert_eq!(ExpiryClass::of(1_000, 500).index(), 0);
    }
}
