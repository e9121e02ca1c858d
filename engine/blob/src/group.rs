//! The commit group: what is written at once and made durable by one sync.
//!
//! A group's header says how far the blob was known durable when it was written; that is how a later reader tells a
//! torn tail from rot. A group may hold no record: it then only attests the groups before it. Frozen by docs/format.md section 6.

use crate::bytes_at::{put, u32_at, u64_at};
use crate::check::{CHECK_BYTES, KeyedCheck};
use crate::layout::{self, BLOCK_BYTES, BlobId, GROUP_HEADER_BYTES};

const MAGIC: &[u8; 4] = b"SGRP";
const CHECK_AT: usize = 48;

const _: () = assert!(CHECK_AT + CHECK_BYTES == GROUP_HEADER_BYTES);

/// A group's header without what its place implies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GroupHeader {
    pub(crate) record_count: u32,
    pub(crate) number: u64,
    /// Highest group of the blob known durable when this one was written; 0 = none.
    pub(crate) durable_number: u64,
    /// Bytes of the whole group, a multiple of the block.
    pub(crate) group_len: u64,
}

impl GroupHeader {
    pub(crate) fn encode_into(
        &self,
        check: &KeyedCheck,
        blob: BlobId,
        offset: u64,
        out: &mut [u8],
    ) {
        put(out, 0, MAGIC);
        put(out, 4, &self.record_count.to_le_bytes());
        put(out, 8, &self.number.to_le_bytes());
        put(out, 16, &self.durable_number.to_le_bytes());
        put(out, 24, &blob.0.to_le_bytes());
        put(out, 32, &offset.to_le_bytes());
        put(out, 40, &self.group_len.to_le_bytes());
        let check = check.of(&out[..CHECK_AT]);
        put(out, CHECK_AT, &check);
    }

    /// Reads what claims to be a group header at `offset` of `blob`.
    pub(crate) fn parse(
        bytes: &[u8],
        check: &KeyedCheck,
        blob: BlobId,
        offset: u64,
    ) -> Option<Self> {
        let (place, header) = Self::parse_anywhere(bytes, check, blob)?;
        (place == offset).then_some(header)
    }

    /// Reads what claims to be a group header of `blob`, wherever it was found, and the offset that it names as its own.
    pub(crate) fn parse_anywhere(
        bytes: &[u8],
        check: &KeyedCheck,
        blob: BlobId,
    ) -> Option<(u64, Self)> {
        let bytes = bytes.get(..GROUP_HEADER_BYTES)?;
        if &bytes[..4] != MAGIC || u64_at(bytes, 24) != blob.0 {
            return None;
        }
        if bytes[CHECK_AT..] != check.of(&bytes[..CHECK_AT]) {
            return None;
        }
        let place = u64_at(bytes, 32);
        let group_len = u64_at(bytes, 40);
        let is_shaped = group_len > 0 && group_len.is_multiple_of(BLOCK_BYTES as u64);
        let header = Self {
            record_count: u32_at(bytes, 4),
            number: u64_at(bytes, 8),
            durable_number: u64_at(bytes, 16),
            group_len,
        };
        (is_shaped && place.checked_add(group_len).is_some()).then_some((place, header))
    }
}

/// Lengths of a group while records are added to it: where each one goes, before any byte is written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GroupPlan {
    end: u64,
    record_count: u32,
}

impl GroupPlan {
    pub(crate) fn new() -> Self {
        Self {
            end: GROUP_HEADER_BYTES as u64,
            record_count: 0,
        }
    }

    /// Adds a record; returns its offset in the group.
    pub(crate) fn push(&mut self, record_len: u64) -> u64 {
        let at = layout::round_to_step(self.end);
        self.end = at + record_len;
        self.record_count += 1;
        at
    }

    /// Where the last record ends.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// Bytes of the group so far, padded to whole blocks.
    pub(crate) fn group_len(&self) -> u64 {
        layout::round_to_block(self.end)
    }

    pub(crate) fn record_count(&self) -> u32 {
        self.record_count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_header_stands_at_its_place_only() {
        let check = KeyedCheck::new([1; 32]);
        let header = GroupHeader {
            record_count: 2,
            number: 3,
            durable_number: 2,
            group_len: 8_192,
        };
        let mut bytes = [0; GROUP_HEADER_BYTES];
        header.encode_into(&check, BlobId(4), 12_288, &mut bytes);
        assert_eq!(
            GroupHeader::parse(&bytes, &check, BlobId(4), 12_288),
            Some(header)
        );
        assert_eq!(GroupHeader::parse(&bytes, &check, BlobId(4), 16_384), None);
        assert_eq!(GroupHeader::parse(&bytes, &check, BlobId(5), 12_288), None);
        for bit in 0..GROUP_HEADER_BYTES * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(
                GroupHeader::parse(&bytes, &check, BlobId(4), 12_288),
                None,
                "bit {bit}"
            );
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn records_follow_at_steps_and_groups_end_at_blocks() {
        //= docs/format.md#commit-group
        let mut plan = GroupPlan::new();
        assert_eq!(plan.group_len(), 4_096);
        assert_eq!(plan.push(928), 64);
        assert_eq!(plan.push(88), 1_024);
        assert_eq!(plan.push(4_000), 1_152);
        assert_eq!(plan.group_len(), 8_192);
        assert_eq!(plan.record_count(), 3);
    }
}
