//! Uploads that look like the store's own bytes: records, tombstones, groups and a footer, at the places where they will lie.
//!
//! The attacker knows the format, the place, and every key but the blob's salt: they guess zeros, the node's and the satellite's ids, what the blob's header
//! would give if it were public, and the salt of another blob. The upload is intact, or the real headers around it have rotted, or the file was
//! cut so that it ends with the upload. None of it may become a record. The control knows the salt, and must succeed.

use std::collections::BTreeMap;

use bytes::Bytes;
use strand_blob::disk::sim::SimDisk;
use strand_blob::inspect::{self, StoredRecord};
use strand_blob::testing::world::{
    NODE, NOW_S, SATELLITE, World, body_of, id_of, open, piece_of, small_options,
};
use strand_blob::{BlobId, FileId, GetError, NewPiece, PutError, StoreOptions};

use crate::store::calls::key_of;
use crate::store::guard::guarded;
use crate::tally::Tally;

const BLOB: BlobId = BlobId(1);
const BLOCK_BYTES: usize = 4_096;
const STEP_BYTES: u64 = 64;
const RECORD_HEADER_BYTES: usize = 88;
const UPLOAD_BYTES: usize = 100_000;

/// Pieces before and after the upload, and the upload.
const BEFORE: u64 = 1;
const UPLOAD: u64 = 2;
const AFTER: u64 = 3;
/// The piece that forged records are about, and which is nowhere.
const GHOST: u64 = 77;
const GHOST_BODY: &[u8] = b"never stored";

/// Uploads with every key that an attacker could guess.
#[must_use]
pub fn run(seed: u64) -> Tally {
    let mut tally = Tally::default();
    let replay = format!("--what rot --seed {seed}");
    match guarded(|| {
        let field = Field::new(seed);
        let mut guesses = vec![[0; 32], NODE, SATELLITE, [0xff; 32], id_of(UPLOAD)];
        guesses.push(blake3::derive_key("strand v1 blob header", &NODE));
        guesses.push(field.other_salt);
        guesses
            .into_iter()
            .map(|guess| field.attack(guess, Outcome::Nothing))
            .sum::<u64>()
    }) {
        Ok(count) => tally.add("forged_openings", count),
        Err(what) => tally.violate(format!("forged records: {what}"), replay),
    }
    tally
}

/// What an attack is expected to bring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Nothing,
    /// The key was right: somewhere the ghost is seen.
    #[cfg(test)]
    Ghost,
}

/// A store that an upload of a known length can be put into, and where it will lie.
struct Field {
    seed: u64,
    record: StoredRecord,
    #[cfg(test)]
    salt: [u8; 32],
    other_salt: [u8; 32],
}

fn options() -> StoreOptions {
    let mut options = small_options();
    options.blob_bytes_max = 1 << 20;
    options.ignores_checkpoint = true;
    options
}

/// A piece whose body is one run, as it was uploaded.
fn uploaded(body: &[u8]) -> NewPiece {
    NewPiece {
        body: vec![Bytes::copy_from_slice(body)],
        ..piece_of(UPLOAD, body)
    }
}

fn filled(seed: u64, body: &[u8]) -> World {
    let world = open(&SimDisk::new(seed), options(), seed);
    let pieces = [
        piece_of(BEFORE, &body_of(BEFORE, 0, 700)),
        uploaded(body),
        piece_of(AFTER, &body_of(AFTER, 0, 700)),
    ];
    for piece in pieces {
        let stored = world.put(piece);
        assert!(stored.is_ok(), "{stored:?}");
    }
    world.close();
    world
}

fn salt_in(blob: &[u8]) -> [u8; 32] {
    std::array::from_fn(|at| blob[64 + at])
}

impl Field {
    fn new(seed: u64) -> Self {
        let world = filled(seed, &vec![0; UPLOAD_BYTES]);
        let files = world.disk.files();
        let records = inspect::records(&files[&BLOB]).unwrap_or_default();
        let record = records
            .into_iter()
            .find(|record| key_of(&record.id) == UPLOAD);
        let other = filled(seed + 1, &[1]);
        Self {
            seed,
            record: record.unwrap_or_else(|| panic!("the upload is not where it was put")),
            #[cfg(test)]
            salt: salt_in(&files[&BLOB]),
            other_salt: salt_in(&other.disk.files()[&BLOB]),
        }
    }

    /// A body full of what the key makes at every place.
    fn body(&self, key: &[u8; 32], blob_header: &[u8]) -> Vec<u8> {
        let mut body = vec![0x5b; UPLOAD_BYTES];
        let start = self.record.body_offset;
        let mut at = start.next_multiple_of(BLOCK_BYTES as u64);
        let end = start + UPLOAD_BYTES as u64;
        let mut write = |at: u64, bytes: &[u8]| {
            let from = (at - start) as usize;
            body[from..from + bytes.len()].copy_from_slice(bytes);
        };
        let footer_len = 3 * BLOCK_BYTES as u64;
        while at + BLOCK_BYTES as u64 <= end - footer_len {
            // A group of two records: the ghost, and a tombstone for a piece that is there.
            write(at, &group(key, at, 2));
            let first = at + STEP_BYTES;
            let ghost = ghost_record(key, first);
            write(first, &ghost);
            let second = (first + ghost.len() as u64).next_multiple_of(STEP_BYTES);
            write(
                second,
                &record_header(key, second, 2, &id_of(BEFORE), 0, 1 << 40),
            );
            at += BLOCK_BYTES as u64;
        }
        let ghost_at = start.next_multiple_of(BLOCK_BYTES as u64) + STEP_BYTES;
        write(at, &footer(key, at, ghost_at, blob_header));
        body
    }

    /// Uploads it, and opens the blob in every state of decay; how many.
    fn attack(&self, key: [u8; 32], outcome: Outcome) -> u64 {
        let sample = filled(self.seed, &vec![0; UPLOAD_BYTES]);
        let header = sample.disk.files()[&BLOB][..BLOCK_BYTES].to_vec();
        let body = self.body(&key, &header);
        let world = filled(self.seed, &body);
        let whole = world.disk.files().remove(&BLOB).unwrap_or_default();
        let at = self.record.offset as usize;
        assert_eq!(
            whole[self.record.body_offset as usize..][..UPLOAD_BYTES],
            body,
            "it lies elsewhere"
        );
        let block = at / BLOCK_BYTES * BLOCK_BYTES;
        let footer_end = (self.record.body_offset as usize).next_multiple_of(BLOCK_BYTES);
        let footer_end = footer_end + (UPLOAD_BYTES / BLOCK_BYTES - 1) * BLOCK_BYTES;
        let lost: [(&str, std::ops::Range<usize>, usize); 7] = [
            ("nothing", 0..0, whole.len()),
            (
                "the record header",
                at..at + RECORD_HEADER_BYTES,
                whole.len(),
            ),
            ("the group header", block..block + 64, whole.len()),
            ("both headers", block..at + RECORD_HEADER_BYTES, whole.len()),
            ("the first block", block..block + BLOCK_BYTES, whole.len()),
            ("what follows", 0..0, footer_end),
            (
                "both headers and what follows",
                block..at + RECORD_HEADER_BYTES,
                footer_end,
            ),
        ];
        let mut ghosts = 0;
        let count = lost.len() as u64;
        for (name, range, len) in lost {
            let mut bytes = whole.clone();
            bytes[range.clone()].fill(0xee);
            bytes.truncate(len);
            let is_gone = !range.is_empty() || len < whole.len();
            ghosts += u64::from(self.opened(bytes, &body, is_gone, name, outcome));
        }
        assert_eq!(
            ghosts == 0,
            outcome == Outcome::Nothing,
            "key {key:x?}: the ghost was seen {ghosts} times"
        );
        count
    }

    /// Whether the ghost is there, or the piece before the upload is not.
    fn opened(
        &self,
        bytes: Vec<u8>,
        body: &[u8],
        is_gone: bool,
        name: &str,
        outcome: Outcome,
    ) -> bool {
        let is_cut = name.contains("follows");
        let files = BTreeMap::from([(FileId::Blob(BLOB), bytes)]);
        let world = open(&SimDisk::from_all_files(1, files), options(), 1);
        let is_haunted = !matches!(world.body(GHOST), Err(GetError::NotFound))
            || world.body(BEFORE) != Ok(body_of(BEFORE, 0, 700));
        if outcome == Outcome::Nothing {
            assert!(!is_haunted, "{name} is lost: a forged record is one");
            assert!(
                world.recovery.tombstones == 0 && world.recovery.sealed_blobs == 0,
                "{name}: {:?}",
                world.recovery
            );
            if !is_cut {
                assert_eq!(
                    world.body(AFTER),
                    Ok(body_of(AFTER, 0, 700)),
                    "{name} is lost"
                );
            }
            match world.body(UPLOAD) {
                Ok(found) => assert!(found == body, "{name}: other bytes than were uploaded"),
                Err(GetError::NotFound | GetError::Corrupt { .. }) if is_gone => {}
                Err(error) => panic!("{name} is lost: the upload: {error}"),
            }
            let ghost = piece_of(GHOST, GHOST_BODY);
            let is_new = world.put(ghost);
            assert!(
                !matches!(is_new, Err(PutError::Conflict)),
                "{name}: {is_new:?}"
            );
        }
        is_haunted
    }
}

/// The first 16 bytes of the keyed hash.
fn check(key: &[u8; 32], bytes: &[u8]) -> [u8; 16] {
    let hash = blake3::keyed_hash(key, bytes);
    std::array::from_fn(|at| hash.as_bytes()[at])
}

fn group(key: &[u8; 32], offset: u64, record_count: u32) -> Vec<u8> {
    let mut bytes = b"SGRP".to_vec();
    bytes.extend(record_count.to_le_bytes());
    for word in [1 << 30, (1 << 30) - 1, BLOB.0, offset, BLOCK_BYTES as u64] {
        bytes.extend(u64::to_le_bytes(word));
    }
    bytes.extend(check(key, &bytes));
    bytes
}

fn record_header(
    key: &[u8; 32],
    offset: u64,
    kind: u8,
    id: &[u8; 32],
    body_len: u32,
    sequence: u64,
) -> Vec<u8> {
    let mut bytes = vec![1, kind, 0, 0];
    bytes.extend(body_len.to_le_bytes());
    bytes.extend(id);
    bytes.extend(BLOB.0.to_le_bytes());
    bytes.extend(((offset / STEP_BYTES) as u32).to_le_bytes());
    bytes.extend(NOW_S.to_le_bytes());
    bytes.extend([0; 8]);
    bytes.extend(sequence.to_le_bytes());
    bytes.extend(check(key, &bytes));
    assert_eq!(bytes.len(), RECORD_HEADER_BYTES);
    bytes
}

/// A whole record of one share, without a path.
fn ghost_record(key: &[u8; 32], offset: u64) -> Vec<u8> {
    let mut bytes = record_header(
        key,
        offset,
        1,
        &id_of(GHOST),
        GHOST_BODY.len() as u32,
        1 << 40,
    );
    bytes.extend(GHOST_BODY);
    let mut trailer = strand_blob::share_crc(GHOST_BODY).to_le_bytes().to_vec();
    trailer.extend([7; 32]);
    trailer.extend(strand_blob::share_crc(&trailer).to_le_bytes());
    bytes.extend(trailer);
    bytes
}

/// A footer that names the ghost.
fn footer(key: &[u8; 32], offset: u64, ghost_at: u64, blob_header: &[u8]) -> Vec<u8> {
    let len = 3 * BLOCK_BYTES;
    let mut bytes = vec![0; len];
    let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
    put(0, b"SFTR");
    put(8, &BLOB.0.to_le_bytes());
    put(16, &offset.to_le_bytes());
    put(24, &(len as u64).to_le_bytes());
    put(32, &1_u32.to_le_bytes());
    put(36, &1_u32.to_le_bytes());
    put(40, &1_u64.to_le_bytes());
    put(BLOCK_BYTES, blob_header);
    let entry = 2 * BLOCK_BYTES;
    put(entry, &id_of(GHOST));
    put(entry + 32, &((ghost_at / STEP_BYTES) as u32).to_le_bytes());
    put(entry + 36, &(GHOST_BODY.len() as u32).to_le_bytes());
    put(entry + 39, &[1 << 4]);
    put(entry + 40, &NOW_S.to_le_bytes());
    put(entry + 48, &5_u64.to_le_bytes());
    let end = len - 64;
    put(end, b"SFTE");
    put(end + 8, &BLOB.0.to_le_bytes());
    put(end + 16, &offset.to_le_bytes());
    put(end + 24, &(len as u64).to_le_bytes());
    let hash = blake3::keyed_hash(key, &bytes[..len - 32]);
    bytes[len - 32..].copy_from_slice(hash.as_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_upload_becomes_a_record() {
        let tally = run(4);
        assert!(tally.violations.is_empty(), "{:#?}", tally.violations);
        assert!(tally.counts["forged_openings"] >= 49);
    }

    /// The forged bytes are right but for the key: who knows the salt has their records.
    #[test]
    fn who_knows_the_salt_forges_what_they_like() {
        let field = Field::new(4);
        field.attack(field.salt, Outcome::Ghost);
    }
}
