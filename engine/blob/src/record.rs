//! One record: its header, and the trailer after a piece's body.
//!
//! A header says where it lies (blob id and offset) under a check keyed with the blob's salt, so a
//! misdirected write, a stale block or a body full of forged headers is never taken for a record. Bodies are guarded by a CRC per
//! share and the trailer by its own; what those prove to others is not this crate's business. Frozen by docs/format.md section 6.

use crate::bug::{self, Bug};
use crate::bytes_at::{array_at, put, u32_at, u64_at};
use crate::check::{CHECK_BYTES, KeyedCheck};
use crate::layout::{
    self, BODY_BYTES_MAX, BlobId, PATH_LEN_MAX, RECORD_HEADER_BYTES, SHARE_BYTES, STEP_BYTES,
};
use crate::piece::NewPiece;

const VERSION: u8 = 1;
const CHECK_AT: usize = 72;

const _: () = assert!(CHECK_AT + CHECK_BYTES == RECORD_HEADER_BYTES);

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Piece,
    Tombstone,
    /// The piece below it is in the trash from its `created` on.
    Trash,
    /// The piece below it is back.
    Restore,
}

impl Kind {
    pub(crate) fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Piece,
            2 => Self::Tombstone,
            3 => Self::Trash,
            4 => Self::Restore,
            _ => return None,
        })
    }

    pub(crate) fn byte(self) -> u8 {
        match self {
            Self::Piece => 1,
            Self::Tombstone => 2,
            Self::Trash => 3,
            Self::Restore => 4,
        }
    }
}

/// A record's header without what its place implies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecordHeader {
    pub(crate) kind: Kind,
    pub(crate) path_len: u8,
    pub(crate) satellite_slot: u8,
    pub(crate) body_len: u32,
    pub(crate) id: [u8; 32],
    pub(crate) created_s: u32,
    pub(crate) expiry_s: u32,
    pub(crate) sequence: u64,
}

/// What lies at a place whose check holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Record(RecordHeader),
    /// Ours, but of a version, type or shape that this release does not know.
    Unknown,
}

impl RecordHeader {
    /// Writes the 88 bytes for a record at `offset` of `blob`.
    pub(crate) fn encode_into(
        &self,
        check: &KeyedCheck,
        blob: BlobId,
        offset: u64,
        out: &mut [u8],
    ) {
        out[0] = VERSION;
        out[1] = self.kind.byte();
        out[2] = self.path_len;
        out[3] = self.satellite_slot;
        put(out, 4, &self.body_len.to_le_bytes());
        put(out, 8, &self.id);
        put(out, 40, &blob.0.to_le_bytes());
        put(out, 48, &step_of(offset).to_le_bytes());
        put(out, 52, &self.created_s.to_le_bytes());
        put(out, 56, &self.expiry_s.to_le_bytes());
        put(out, 60, &[0; 4]);
        put(out, 64, &self.sequence.to_le_bytes());
        let check = check.of(&out[..CHECK_AT]);
        put(out, CHECK_AT, &check);
    }

    /// Reads what claims to be a record at `offset` of `blob`; `None` if place or check say otherwise.
    ///
    /// The place is compared first: it costs nothing and rules out nearly all of the 64-byte steps of a search.
    pub(crate) fn parse(
        bytes: &[u8],
        check: &KeyedCheck,
        blob: BlobId,
        offset: u64,
    ) -> Option<Found> {
        let bytes = bytes.get(..RECORD_HEADER_BYTES)?;
        let is_here = u64_at(bytes, 40) == blob.0
            && u64::from(u32_at(bytes, 48)) == offset / STEP_BYTES as u64;
        if !is_here && !bug::is_planted(Bug::PlaceUnchecked) {
            return None;
        }
        if bytes[CHECK_AT..] != check.of(&bytes[..CHECK_AT]) {
            return None;
        }
        Some(Self::known(bytes).map_or(Found::Unknown, Found::Record))
    }

    fn known(bytes: &[u8]) -> Option<Self> {
        let kind = Kind::from_byte(bytes[1])?;
        let record = Self {
            kind,
            path_len: bytes[2],
            satellite_slot: bytes[3],
            body_len: u32_at(bytes, 4),
            id: array_at(bytes, 8),
            created_s: u32_at(bytes, 52),
            expiry_s: u32_at(bytes, 56),
            sequence: u64_at(bytes, 64),
        };
        (bytes[0] == VERSION && u32_at(bytes, 60) == 0 && record.is_shaped()).then_some(record)
    }

    /// Whether its lengths are such as its kind may have.
    pub(crate) fn is_shaped(&self) -> bool {
        if self.kind == Kind::Piece {
            usize::from(self.path_len) <= PATH_LEN_MAX
                && self.body_len > 0
                && u64::from(self.body_len) <= BODY_BYTES_MAX
        } else {
            self.path_len == 0 && self.body_len == 0
        }
    }

    /// Its trailer, from the bytes that begin with it.
    pub(crate) fn trailer_of(&self, bytes: &[u8]) -> Option<Trailer> {
        Trailer::parse(bytes, u64::from(self.body_len), usize::from(self.path_len))
    }

    /// Bytes of the trailer; 0 for a record that is no piece.
    pub(crate) fn trailer_len(&self) -> u64 {
        match self.kind {
            Kind::Piece => {
                layout::trailer_len(u64::from(self.body_len), usize::from(self.path_len))
            }
            _ => 0,
        }
    }

    /// Bytes of the whole record, without padding.
    pub(crate) fn record_len(&self) -> u64 {
        RECORD_HEADER_BYTES as u64 + u64::from(self.body_len) + self.trailer_len()
    }
}

/// `offset / 64`, which a header keeps in 4 bytes.
///
/// # Panics
///
/// If a blob grew beyond 256 GiB; blobs are closed long before.
pub(crate) fn step_of(offset: u64) -> u32 {
    assert!(
        offset.is_multiple_of(STEP_BYTES as u64),
        "records lie at 64-byte steps"
    );
    u32::try_from(offset / STEP_BYTES as u64)
        .unwrap_or_else(|_| panic!("offset {offset} is beyond a blob"))
}

/// What follows a piece's body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Trailer {
    pub(crate) crcs: Vec<u32>,
    /// Empty for a one-share piece.
    pub(crate) share_hashes: Vec<[u8; 32]>,
    /// Absent for a one-share piece.
    pub(crate) root: Option<[u8; 32]>,
    pub(crate) path: Vec<[u8; 32]>,
    pub(crate) commitment: [u8; 32],
}

impl Trailer {
    /// Reads a trailer of exactly the length that body and path call for; `None` if its CRC fails.
    pub(crate) fn parse(bytes: &[u8], body_len: u64, path_len: usize) -> Option<Self> {
        let len = layout::trailer_len(body_len, path_len) as usize;
        let bytes = bytes.get(..len)?;
        let is_right = crc32fast::hash(&bytes[..len - 4]) == u32_at(bytes, len - 4);
        if !is_right && !bug::is_planted(Bug::TrailerUnchecked) {
            return None;
        }
        let shares = layout::share_count(body_len) as usize;
        let mut at = 0;
        let mut crcs = Vec::with_capacity(shares);
        let mut share_hashes = Vec::new();
        let mut root = None;
        if shares == 1 {
            crcs.push(u32_at(bytes, at));
            at += 4;
        } else {
            share_hashes.reserve_exact(shares);
            for _ in 0..shares {
                crcs.push(u32_at(bytes, at));
                share_hashes.push(array_at(bytes, at + 4));
                at += 36;
            }
            root = Some(array_at(bytes, at));
            at += 32;
        }
        let path = (0..path_len)
            .map(|step| array_at(bytes, at + 32 * step))
            .collect();
        at += 32 * path_len;
        Some(Self {
            crcs,
            share_hashes,
            root,
            path,
            commitment: array_at(bytes, at),
        })
    }
}

/// Copies a piece's body and writes its trailer; `out` is exactly both together.
pub(crate) fn encode_body_and_trailer(piece: &NewPiece, out: &mut [u8]) {
    let mut rest = out;
    for run in &piece.body {
        let (target, later) = rest.split_at_mut(run.len());
        target.copy_from_slice(run);
        rest = later;
    }
    encode_trailer(piece, rest);
}

/// Writes a piece's trailer; `trailer` is exactly that long.
pub(crate) fn encode_trailer(piece: &NewPiece, trailer: &mut [u8]) {
    let mut at = 0;
    for (index, crc) in piece.crcs.iter().enumerate() {
        put(trailer, at, &crc.to_le_bytes());
        at += 4;
        if let Some(hash) = piece.share_hashes.get(index) {
            put(trailer, at, hash);
            at += 32;
        }
    }
    if piece.body_len() as usize > SHARE_BYTES {
        put(trailer, at, &piece.root);
        at += 32;
    }
    for hash in &piece.path {
        put(trailer, at, hash);
        at += 32;
    }
    put(trailer, at, &piece.commitment);
    at += 32;
    let crc = crc32fast::hash(&trailer[..at]);
    put(trailer, at, &crc.to_le_bytes());
    assert_eq!(
        at + 4,
        trailer.len(),
        "trailer length and trailer fields disagree"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHECK: [u8; 32] = [9; 32];

    fn header() -> RecordHeader {
        RecordHeader {
            kind: Kind::Piece,
            path_len: 7,
            satellite_slot: 1,
            body_len: 576,
            id: [2; 32],
            created_s: 3,
            expiry_s: 4,
            sequence: 5,
        }
    }

    #[test]
    fn no_bit_flip_and_no_other_place_passes_for_the_record() {
        let check = KeyedCheck::new(CHECK);
        let mut bytes = [0; RECORD_HEADER_BYTES];
        header().encode_into(&check, BlobId(6), 128, &mut bytes);
        assert_eq!(
            RecordHeader::parse(&bytes, &check, BlobId(6), 128),
            Some(Found::Record(header()))
        );
        assert_eq!(RecordHeader::parse(&bytes, &check, BlobId(6), 192), None);
        assert_eq!(RecordHeader::parse(&bytes, &check, BlobId(7), 128), None);
        assert_eq!(
            RecordHeader::parse(&bytes, &KeyedCheck::new([8; 32]), BlobId(6), 128),
            None
        );
        for bit in 0..RECORD_HEADER_BYTES * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(
                RecordHeader::parse(&bytes, &check, BlobId(6), 128),
                None,
                "bit {bit}"
            );
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        for len in 0..RECORD_HEADER_BYTES {
            assert_eq!(
                RecordHeader::parse(&bytes[..len], &check, BlobId(6), 128),
                None
            );
        }
    }

    #[test]
    fn records_of_later_kinds_are_unknown_not_torn() {
        //= docs/format.md#footer-checkpoint
        let check = KeyedCheck::new(CHECK);
        for (at, value) in [(0, 2), (1, 0), (1, 5), (1, 15), (2, 9), (60, 1)] {
            let mut bytes = [0; RECORD_HEADER_BYTES];
            header().encode_into(&check, BlobId(6), 128, &mut bytes);
            bytes[at] = value;
            let sum = check.of(&bytes[..CHECK_AT]);
            put(&mut bytes, CHECK_AT, &sum);
            assert_eq!(
                RecordHeader::parse(&bytes, &check, BlobId(6), 128),
                Some(Found::Unknown),
                "byte {at}"
            );
        }
    }
}
