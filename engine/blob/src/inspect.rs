//! Looking at a blob file from outside a store: which records lie where.
//!
//! For tools and harnesses, not for the data path: it is synchronous, reads through a closure, reports what is valid and
//! passes over what is not. The one function that changes bytes is [`danger_recompute_checksums`], which lets a harness alter a stored
//! piece so that the node serves it in good faith.

use std::collections::HashMap;
use std::ops::Range;

use crate::buffer::IoBuffer;
use crate::bytes_at::put;
use crate::check::KeyedCheck;
use crate::fingerprint::{Fingerprinter, Fingerprints};
use crate::group::GroupHeader;
use crate::header::{BlobHeader, NoHeader};
use crate::layout::{
    self, BLOB_HEADER_BYTES, BLOCK_BYTES, BlobId, GROUP_HEADER_BYTES, RECORD_HEADER_BYTES,
    SHARE_BYTES, STEP_BYTES,
};
use crate::record::{Found, Kind, RecordHeader};

/// Why a file cannot be inspected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InspectError<E> {
    /// Neither copy of the blob header is valid.
    #[error("no valid blob header")]
    NoHeader,
    /// The blob was written by a newer release.
    #[error("format version {version} > 1")]
    NewerVersion {
        /// Its version.
        version: u16,
    },
    /// The closure failed to read.
    #[error("{0}")]
    Read(E),
}

/// A record whose check holds; of a piece, the header only: body and trailer may be damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoredRecord {
    /// What it says.
    pub kind: RecordKind,
    /// Node id of the satellite.
    pub satellite: [u8; 32],
    /// Piece id.
    pub id: [u8; 32],
    /// Of two records of a piece, in whichever blobs, the higher sequence counts.
    pub sequence: u64,
    /// Offset of the record in the file.
    pub offset: u64,
    /// Offset of the body in the file.
    pub body_offset: u64,
    /// Bytes of the body. The trailer follows at once.
    pub body_len: u64,
    /// Bytes of the trailer, its own CRC (the last 4) included.
    pub trailer_len: u64,
    /// When the limit was issued, or the deletion, trashing or restoring was; seconds since 1970.
    pub created_s: u32,
    /// When the piece expires, seconds since 1970; 0 = never.
    pub expiry_s: u32,
}

/// What a record says. Only a piece has body and trailer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RecordKind {
    /// Here is a piece.
    Piece,
    /// The piece is gone.
    Tombstone,
    /// The piece is in the trash since the record's `created_s`.
    Trash,
    /// The piece is back from the trash.
    Restore,
}

impl StoredRecord {
    /// Whether this is a piece.
    #[must_use]
    pub fn is_piece(&self) -> bool {
        self.kind == RecordKind::Piece
    }

    /// Whether it decides what is there: a piece or a tombstone, no record of the trash.
    #[must_use]
    pub fn is_base(&self) -> bool {
        matches!(self.kind, RecordKind::Piece | RecordKind::Tombstone)
    }

    /// Shares of the piece.
    #[must_use]
    pub fn share_count(&self) -> u32 {
        layout::share_count(self.body_len)
    }

    /// Where a share lies in the file.
    #[must_use]
    pub fn share_range(&self, share: u32) -> Range<u64> {
        let start = (u64::from(share) * SHARE_BYTES as u64).min(self.body_len);
        let end = (start + SHARE_BYTES as u64).min(self.body_len);
        self.body_offset + start..self.body_offset + end
    }

    /// Where body and trailer lie in the file: what [`danger_recompute_checksums`] wants.
    #[must_use]
    pub fn body_and_trailer(&self) -> Range<u64> {
        self.body_offset..self.body_offset + self.body_len + self.trailer_len
    }

    /// Where the checksum table lies: per share a CRC-32 and, of two shares or more, its chaining value.
    #[must_use]
    pub fn checksum_table_offset(&self) -> u64 {
        self.body_offset + self.body_len
    }

    /// Where the trailer's own CRC lies.
    #[must_use]
    pub fn trailer_checksum_offset(&self) -> u64 {
        self.body_and_trailer().end - 4
    }
}

/// Recomputes the CRC of each share and of the trailer after a harness changed body bytes.
///
/// The chaining values, root and path stay, so a reader that verifies shares still finds the change; the node does not.
///
/// # Panics
///
/// If the slice is not as long as [`StoredRecord::body_and_trailer`].
pub fn danger_recompute_checksums(record: &StoredRecord, body_and_trailer: &mut [u8]) {
    assert_eq!(
        body_and_trailer.len() as u64,
        record.body_len + record.trailer_len
    );
    let (body, trailer) = body_and_trailer.split_at_mut(record.body_len as usize);
    let slot_bytes = if body.len() > SHARE_BYTES { 36 } else { 4 };
    for (index, share) in body.chunks(SHARE_BYTES).enumerate() {
        put(
            trailer,
            index * slot_bytes,
            &crc32fast::hash(share).to_le_bytes(),
        );
    }
    let crc_at = trailer.len() - 4;
    let crc = crc32fast::hash(&trailer[..crc_at]);
    put(trailer, crc_at, &crc.to_le_bytes());
}

/// The pieces of a blob in memory that no other record *of this blob* outranks, trashed ones included, in the order of their offsets.
///
/// # Errors
///
/// If the bytes have no valid blob header of version 1.
pub fn pieces(blob: &[u8]) -> Result<Vec<StoredRecord>, InspectError<std::convert::Infallible>> {
    let mut records = records(blob)?;
    records.retain(StoredRecord::is_base);
    let fingerprinter = Fingerprinter::new([0; 32], 64);
    let name = |record: &StoredRecord| fingerprinter.wide(&record.satellite, &record.id);
    let mut highest: HashMap<u128, u64, Fingerprints> = HashMap::default();
    for record in &records {
        let sequence = highest.entry(name(record)).or_default();
        *sequence = (*sequence).max(record.sequence);
    }
    records
        .retain(|record| record.is_piece() && highest.get(&name(record)) == Some(&record.sequence));
    Ok(records)
}

/// All valid records of a blob in memory.
///
/// # Errors
///
/// If the bytes have no valid blob header of version 1.
pub fn records(blob: &[u8]) -> Result<Vec<StoredRecord>, InspectError<std::convert::Infallible>> {
    records_with(blob.len() as u64, |offset, bytes| {
        let from = offset as usize;
        bytes.copy_from_slice(&blob[from..from + bytes.len()]);
        Ok(())
    })
}

/// All valid records of a blob file of `len` bytes, read by a closure that fills a slice from an offset, always within
/// the file.
///
/// # Errors
///
/// If the file has no valid blob header of version 1, or the closure fails.
pub fn records_with<E>(
    len: u64,
    read_at: impl FnMut(u64, &mut [u8]) -> Result<(), E>,
) -> Result<Vec<StoredRecord>, InspectError<E>> {
    let mut walk = Walk {
        len,
        read_at,
        found: Vec::new(),
    };
    let header = walk.header()?;
    let check = KeyedCheck::new(header.salt);
    let mut at = BLOB_HEADER_BYTES;
    while at < len {
        let mut bytes = [0; GROUP_HEADER_BYTES];
        walk.read(at, &mut bytes)?;
        match GroupHeader::parse(&bytes, &check, header.blob, at) {
            Some(group) => {
                walk.group(&header, &check, at, &group)?;
                at += group.group_len;
            }
            None => at += BLOCK_BYTES as u64,
        }
    }
    Ok(walk.found)
}

struct Walk<R> {
    len: u64,
    read_at: R,
    found: Vec<StoredRecord>,
}

impl<E, R: FnMut(u64, &mut [u8]) -> Result<(), E>> Walk<R> {
    fn header(&mut self) -> Result<BlobHeader, InspectError<E>> {
        for offset in [0, BLOCK_BYTES as u64] {
            let mut block = IoBuffer::zeroed(BLOCK_BYTES);
            self.read(offset, &mut block)?;
            match BlobHeader::parse(&block) {
                Ok(header) => return Ok(header),
                Err(NoHeader::Version(version)) => {
                    return Err(InspectError::NewerVersion { version });
                }
                Err(NoHeader::Bad) => {}
            }
        }
        Err(InspectError::NoHeader)
    }

    fn group(
        &mut self,
        header: &BlobHeader,
        check: &KeyedCheck,
        offset: u64,
        group: &GroupHeader,
    ) -> Result<(), InspectError<E>> {
        let end = (offset + group.group_len).min(self.len);
        let mut at = offset + GROUP_HEADER_BYTES as u64;
        let mut rest = group.record_count;
        while rest > 0 && at < end {
            let mut bytes = [0; RECORD_HEADER_BYTES];
            self.read(at, &mut bytes)?;
            match RecordHeader::parse(&bytes, check, header.blob, at) {
                Some(Found::Record(record)) => {
                    rest -= 1;
                    self.note(header, at, &record, end);
                    at = layout::round_to_step(at + record.record_len());
                }
                _ => at += STEP_BYTES as u64,
            }
        }
        Ok(())
    }

    fn note(&mut self, blob: &BlobHeader, offset: u64, record: &RecordHeader, end: u64) {
        let satellite = blob.satellites.get(usize::from(record.satellite_slot));
        let Some(&satellite) = satellite.filter(|_| offset + record.record_len() <= end) else {
            return;
        };
        self.found.push(StoredRecord {
            kind: match record.kind {
                Kind::Piece => RecordKind::Piece,
                Kind::Tombstone => RecordKind::Tombstone,
                Kind::Trash => RecordKind::Trash,
                Kind::Restore => RecordKind::Restore,
            },
            satellite,
            id: record.id,
            sequence: record.sequence,
            offset,
            body_offset: offset + RECORD_HEADER_BYTES as u64,
            body_len: u64::from(record.body_len),
            trailer_len: record.trailer_len(),
            created_s: record.created_s,
            expiry_s: record.expiry_s,
        });
    }

    /// Fills a slice; what lies past the end of the file is zero.
    fn read(&mut self, offset: u64, bytes: &mut [u8]) -> Result<(), InspectError<E>> {
        let present = self.len.saturating_sub(offset).min(bytes.len() as u64) as usize;
        if present > 0 {
            (self.read_at)(offset, &mut bytes[..present]).map_err(InspectError::Read)?;
        }
        Ok(())
    }
}

/// The blob id that a file's header claims, which its name must repeat.
///
/// # Errors
///
/// As for [`records`].
pub fn blob_id(blob: &[u8]) -> Result<BlobId, InspectError<std::convert::Infallible>> {
    let mut walk = Walk {
        len: blob.len() as u64,
        read_at: |offset: u64, bytes: &mut [u8]| {
            let from = offset as usize;
            bytes.copy_from_slice(&blob[from..from + bytes.len()]);
            Ok(())
        },
        found: Vec::new(),
    };
    walk.header().map(|header| header.blob)
}
