//! The store's structures from any bytes, for fuzzing: their checks are made right first, so that what lies behind them is reached.
//!
//! Each function panics if a structure is taken that it should not be, and nowhere else.

use crate::bytes_at::put;
use crate::check::KeyedCheck;
use crate::footer::{Footer, FooterEnd};
use crate::header::BlobHeader;
use crate::layout::{BLOB_HEADER_BYTES, BLOCK_BYTES, BlobId, RECORD_HEADER_BYTES};
use crate::record::{Found, RecordHeader};

const SALT: [u8; 32] = [7; 32];
const BLOB: BlobId = BlobId(1);
const OFFSET: u64 = BLOB_HEADER_BYTES + 64;
const CHECK_AT: usize = 72;

/// A record header and what follows it. What is taken is written as it was read.
pub fn record(bytes: &[u8]) {
    let check = KeyedCheck::new(SALT);
    assert_eq!(
        RecordHeader::parse(bytes, &check, BLOB, OFFSET),
        None,
        "a check was guessed"
    );
    let mut whole = bytes.to_vec();
    whole.resize(bytes.len().max(RECORD_HEADER_BYTES), 0);
    put(&mut whole, 40, &BLOB.0.to_le_bytes());
    put(&mut whole, 48, &((OFFSET / 64) as u32).to_le_bytes());
    let sum = check.of(&whole[..CHECK_AT]);
    put(&mut whole, CHECK_AT, &sum);
    let (header, rest) = whole.split_at(RECORD_HEADER_BYTES);
    let found = RecordHeader::parse(header, &check, BLOB, OFFSET);
    let Some(Found::Record(record)) = found else {
        assert_eq!(found, Some(Found::Unknown), "its check and place are right");
        return;
    };
    let mut again = [0; RECORD_HEADER_BYTES];
    record.encode_into(&check, BLOB, OFFSET, &mut again);
    assert_eq!(again, header, "two encodings of one record");
    if let Some(trailer) = record.trailer_of(rest) {
        assert_eq!(trailer.path.len(), usize::from(record.path_len));
    }
}

/// A footer: its entries, and as the last block of a file.
pub fn footer(bytes: &[u8]) {
    let check = KeyedCheck::new(SALT);
    let header = BlobHeader {
        class: crate::header::ExpiryClass::of(0, 0),
        node_id: [1; 32],
        blob: BLOB,
        created_s: 0,
        salt: SALT,
        satellites: vec![[2; 32], [3; 32]],
    };
    let file_len = BLOB_HEADER_BYTES + bytes.len() as u64;
    let _any = FooterEnd::parse(bytes, BLOB, file_len);
    assert_eq!(
        Footer::parse(bytes, &check, &header),
        None,
        "a hash was guessed"
    );
    let len = bytes
        .len()
        .max(3 * BLOCK_BYTES)
        .next_multiple_of(BLOCK_BYTES);
    let mut whole = bytes.to_vec();
    whole.resize(len, 0);
    put(&mut whole, 0, b"SFTR");
    put(&mut whole, 8, &BLOB.0.to_le_bytes());
    put(&mut whole, 24, &(len as u64).to_le_bytes());
    let hash = check.whole(&whole[..len - 32]);
    put(&mut whole, len - 32, &hash);
    let Some(footer) = Footer::parse(&whole, &check, &header) else {
        return;
    };
    let mut end = BLOB_HEADER_BYTES;
    for entry in &footer.entries {
        assert!(entry.offset >= end, "two records at one place");
        end = entry.offset + entry.record.record_len();
        assert!(usize::from(entry.record.satellite_slot) < header.satellites.len());
    }
    assert!(
        end <= footer.offset.max(BLOB_HEADER_BYTES),
        "records behind the footer"
    );
}

/// The bytes of a checkpoint with the hash of each of its parts made right.
#[must_use]
pub fn checkpoint(bytes: &[u8]) -> Vec<u8> {
    let mut whole = bytes.to_vec();
    crate::parts::make_right(&mut whole);
    whole
}
