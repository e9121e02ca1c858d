//! The footer of a sealed blob: where its records are, so that nobody has to read the blob to know.
//!
//! A footer is written once, after the last group was durable, and nothing follows it. Its hash is keyed with the blob's
//! salt, so a body that ends a torn blob is never taken for one. Frozen by docs/format.md section 6.

use crate::buffer::IoBuffer;
use crate::bug::{self, Bug};
use crate::bytes_at::{array_at, put, u32_at, u64_at};
use crate::check::KeyedCheck;
use crate::header::BlobHeader;
use crate::layout::{self, BLOB_HEADER_BYTES, BLOCK_BYTES, BlobId, RECORD_HEADER_BYTES};
use crate::record::{Kind, RecordHeader, step_of};

/// Most records of a blob: bounds the footer, and the memory that an open blob takes for it.
pub(crate) const BLOB_RECORDS_MAX: u32 = 32_768;

/// Bytes of an entry.
pub(crate) const ENTRY_BYTES: usize = 56;

/// Bytes at the end of a footer that tell where it begins.
const END_BYTES: usize = 64;

/// Where the entries begin: after the footer's own block and the copy of the blob header.
const ENTRIES_AT: usize = 2 * BLOCK_BYTES;

const MAGIC: &[u8; 4] = b"SFTR";
const END_MAGIC: &[u8; 4] = b"SFTE";
const HASH_BYTES: usize = 32;

/// Longest footer.
const FOOTER_BYTES_MAX: u64 = len_of(BLOB_RECORDS_MAX as usize);

/// Bytes of a footer of so many entries.
pub(crate) const fn len_of(entry_count: usize) -> u64 {
    (ENTRIES_AT + entry_count * ENTRY_BYTES + END_BYTES).next_multiple_of(BLOCK_BYTES) as u64
}

/// A record and where it lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FooterEntry {
    pub(crate) offset: u64,
    pub(crate) record: RecordHeader,
}

/// What a sealed blob says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Footer {
    /// Where the footer begins, hence where the groups end.
    pub(crate) offset: u64,
    /// Valid groups.
    pub(crate) group_count: u32,
    /// The highest group number; all groups are durable.
    pub(crate) last_number: u64,
    /// Bytes between the blob's header and its footer that belong to no valid group.
    pub(crate) skipped_bytes: u64,
    /// In the order of their offsets.
    pub(crate) entries: Vec<FooterEntry>,
}

/// Where a footer would be, from a blob's last block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FooterEnd {
    pub(crate) offset: u64,
    pub(crate) len: u64,
}

impl FooterEnd {
    /// Reads the last block of a blob of `file_len` bytes. Says where to look, and nothing that may be believed yet.
    pub(crate) fn parse(last_block: &[u8], blob: BlobId, file_len: u64) -> Option<Self> {
        let at = last_block.len().checked_sub(END_BYTES)?;
        let end = &last_block[at..];
        let found = Self {
            offset: u64_at(end, 16),
            len: u64_at(end, 24),
        };
        let is_ours = &end[..4] == END_MAGIC && u64_at(end, 8) == blob.0;
        let is_placed = found.offset >= BLOB_HEADER_BYTES
            && found.offset.is_multiple_of(BLOCK_BYTES as u64)
            && found.len.is_multiple_of(BLOCK_BYTES as u64)
            && (ENTRIES_AT as u64..=FOOTER_BYTES_MAX).contains(&found.len)
            && found.offset.checked_add(found.len) == Some(file_len);
        (is_ours && is_placed).then_some(found)
    }

    /// Where the copy of the blob header lies.
    pub(crate) fn header_offset(&self) -> u64 {
        self.offset + BLOCK_BYTES as u64
    }
}

impl Footer {
    /// The footer's bytes, whole blocks.
    pub(crate) fn encode(&self, check: &KeyedCheck, header: &BlobHeader) -> IoBuffer {
        let entries_len = self.entries.len() * ENTRY_BYTES;
        let len = len_of(self.entries.len()) as usize;
        let mut bytes = IoBuffer::zeroed(len);
        put(&mut bytes, 0, MAGIC);
        put(&mut bytes, 8, &header.blob.0.to_le_bytes());
        put(&mut bytes, 16, &self.offset.to_le_bytes());
        put(&mut bytes, 24, &(len as u64).to_le_bytes());
        put(&mut bytes, 32, &(self.entries.len() as u32).to_le_bytes());
        put(&mut bytes, 36, &self.group_count.to_le_bytes());
        put(&mut bytes, 40, &self.last_number.to_le_bytes());
        put(&mut bytes, 48, &self.skipped_bytes.to_le_bytes());
        header.encode_into(&mut bytes[BLOCK_BYTES..ENTRIES_AT]);
        let (entries, _) = bytes[ENTRIES_AT..].split_at_mut(entries_len);
        for (entry, out) in self
            .entries
            .iter()
            .zip(entries.chunks_exact_mut(ENTRY_BYTES))
        {
            entry.encode_into(out);
        }
        let end_at = len - END_BYTES;
        put(&mut bytes, end_at, END_MAGIC);
        put(&mut bytes, end_at + 8, &header.blob.0.to_le_bytes());
        put(&mut bytes, end_at + 16, &self.offset.to_le_bytes());
        put(&mut bytes, end_at + 24, &(len as u64).to_le_bytes());
        let hash = check.whole(&bytes[..len - HASH_BYTES]);
        put(&mut bytes, len - HASH_BYTES, &hash);
        bytes
    }

    /// Reads a whole footer; `None` if anything about it is wrong.
    pub(crate) fn parse(bytes: &[u8], check: &KeyedCheck, header: &BlobHeader) -> Option<Self> {
        if bytes.len() < ENTRIES_AT + END_BYTES {
            return None;
        }
        let (content, hash) = bytes.split_at(bytes.len() - HASH_BYTES);
        let is_ours = &content[..4] == MAGIC
            && u64_at(content, 8) == header.blob.0
            && u64_at(content, 24) == bytes.len() as u64;
        let is_whole = *hash == check.whole(content) || bug::is_planted(Bug::FooterUnchecked);
        if !is_ours || !is_whole {
            return None;
        }
        let offset = u64_at(content, 16);
        let count = u32_at(content, 32) as usize;
        let entries = content.get(ENTRIES_AT..ENTRIES_AT + count.checked_mul(ENTRY_BYTES)?)?;
        let mut previous_end = BLOB_HEADER_BYTES;
        let entries = entries
            .chunks_exact(ENTRY_BYTES)
            .map(|bytes| {
                let entry = FooterEntry::parse(bytes)?;
                let end = entry.offset + entry.record.record_len();
                let is_placed = entry.offset >= previous_end && end <= offset;
                previous_end = end;
                let is_known = usize::from(entry.record.satellite_slot) < header.satellites.len();
                (is_placed && is_known).then_some(entry)
            })
            .collect::<Option<Vec<_>>>()?;
        Some(Self {
            offset,
            group_count: u32_at(content, 36),
            last_number: u64_at(content, 40),
            skipped_bytes: u64_at(content, 48),
            entries,
        })
    }
}

impl FooterEntry {
    pub(crate) fn encode_into(&self, out: &mut [u8]) {
        let record = &self.record;
        put(out, 0, &record.id);
        put(out, 32, &step_of(self.offset).to_le_bytes());
        // At most 23 bits of length.
        let kind_and_path = record.kind.byte() << 4 | record.path_len;
        put(out, 36, &record.body_len.to_le_bytes());
        out[39] = kind_and_path;
        put(out, 40, &record.created_s.to_le_bytes());
        put(out, 44, &record.expiry_s.to_le_bytes());
        put(out, 48, &record.sequence.to_le_bytes());
        // At most 56 bits of sequence: one a microsecond for two thousand years.
        out[55] = record.satellite_slot;
    }

    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let kind = Kind::from_byte(bytes[39] >> 4)?;
        let record = RecordHeader {
            kind,
            path_len: bytes[39] & 15,
            satellite_slot: bytes[55],
            body_len: u32_at(bytes, 36) & 0x00ff_ffff,
            id: array_at(bytes, 0),
            created_s: u32_at(bytes, 40),
            expiry_s: u32_at(bytes, 44),
            sequence: u64_at(bytes, 48) & 0x00ff_ffff_ffff_ffff,
        };
        let offset = u64::from(u32_at(bytes, 32)) * layout::STEP_BYTES as u64;
        record.is_shaped().then_some(Self { offset, record })
    }
}

const _: () = assert!(layout::BODY_BYTES_MAX < 1 << 24);
const _: () = assert!(layout::PATH_LEN_MAX < 16);
const _: () = assert!(RECORD_HEADER_BYTES > ENTRY_BYTES);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::header::ExpiryClass;

    fn header() -> BlobHeader {
        BlobHeader {
            class: ExpiryClass::of(0, 0),
            node_id: [1; 32],
            blob: BlobId(7),
            created_s: 1_800_000_000,
            salt: [3; 32],
            satellites: vec![[4; 32], [5; 32]],
        }
    }

    fn footer() -> Footer {
        let record = |kind, path_len, body_len, sequence| RecordHeader {
            kind,
            path_len,
            satellite_slot: 1,
            body_len,
            id: [sequence as u8; 32],
            created_s: 1_800_000_000,
            expiry_s: 1_900_000_000,
            sequence,
        };
        let piece = FooterEntry {
            offset: 8_256,
            record: record(Kind::Piece, 7, 576, 1),
        };
        let tombstone = FooterEntry {
            offset: 12_352,
            record: record(Kind::Tombstone, 0, 0, 2),
        };
        Footer {
            offset: 16_384,
            group_count: 2,
            last_number: 2,
            skipped_bytes: 0,
            entries: vec![piece, tombstone],
        }
    }

    #[test]
    fn a_footer_is_found_from_the_end_and_reads_as_written() {
        let check = KeyedCheck::new([3; 32]);
        let bytes = footer().encode(&check, &header());
        assert_eq!(bytes.len(), 12_288);
        let file_len = 16_384 + bytes.len() as u64;
        let last = &bytes[bytes.len() - BLOCK_BYTES..];
        let end = FooterEnd::parse(last, BlobId(7), file_len).unwrap();
        assert_eq!((end.offset, end.len), (16_384, 12_288));
        assert_eq!(FooterEnd::parse(last, BlobId(8), file_len), None);
        assert_eq!(FooterEnd::parse(last, BlobId(7), file_len + 4_096), None);
        assert_eq!(
            BlobHeader::parse(&bytes[4_096..8_192]).unwrap().salt,
            [3; 32]
        );
        assert_eq!(Footer::parse(&bytes, &check, &header()), Some(footer()));
    }

    #[test]
    fn any_flipped_bit_and_any_other_salt_make_it_no_footer() {
        let check = KeyedCheck::new([3; 32]);
        let mut bytes = footer().encode(&check, &header());
        assert_eq!(
            Footer::parse(&bytes, &KeyedCheck::new([4; 32]), &header()),
            None
        );
        for byte in 0..bytes.len() {
            bytes[byte] ^= 1 << (byte % 8);
            assert_eq!(
                Footer::parse(&bytes, &check, &header()),
                None,
                "byte {byte}"
            );
            bytes[byte] ^= 1 << (byte % 8);
        }
        assert_eq!(Footer::parse(&bytes[..4_096], &check, &header()), None);
    }
}
