//! The items of a checkpoint: tables of the index, trash, blobs and rot, as bytes and back.
//!
//! What is read was checked by its part; anything that does not fit all the same makes the checkpoint one that is not whole.
//! Frozen by docs/format.md section 6.

use crate::aside::Aside;
use crate::blobs::{Blob, BlobLog, BlobTally, Content, Seal, Tail};
use crate::bytes_at::{array_at, put, u16_at, u32_at, u64_at};
use crate::disk::Disk;
use crate::error::Damage;
use crate::expiry::{COLUMNS, Expiries};
use crate::footer::{BLOB_RECORDS_MAX, ENTRY_BYTES, FooterEntry};
use crate::header::{BlobHeader, ExpiryClass};
use crate::index::{BLOBS_MAX, Entry, Index, TABLES};
use crate::layout::{BLOB_HEADER_BYTES, BLOCK_BYTES, BlobId, GROUP_HEADER_BYTES, SATELLITES_MAX};
use crate::parts::{PartKind, PartReader};
use crate::recover::Rot;
use crate::space::Space;
use crate::states::Trashed;
use crate::store::StoreOptions;

pub(crate) const BLOB_BYTES: usize = 304;
pub(crate) const SATELLITE_BYTES: usize = 32;
pub(crate) const TABLE_ENTRY_BYTES: usize = 12;
pub(crate) const TRASHED_BYTES: usize = 32;
pub(crate) const ROT_BYTES: usize = 32;

const IS_SEALED: u8 = 1;
const HAS_ROT: u8 = 2;

/// What a checkpoint says of a blob.
#[derive(Clone, Debug)]
pub(crate) struct KnownBlob {
    pub(crate) header: BlobHeader,
    pub(crate) slot: u32,
    pub(crate) tail: Tail,
    pub(crate) tally: BlobTally,
    pub(crate) content: Content,
}

impl KnownBlob {
    /// Where its bytes went.
    pub(crate) fn space(&self) -> Space {
        let (file_bytes, tally) = (self.tail.file_len, &self.tally);
        let (footer_bytes, group_count, skipped_bytes, record_bytes) = match &self.content {
            Content::Sealed(seal) => (
                file_bytes.saturating_sub(seal.footer_offset),
                seal.group_count,
                seal.skipped_bytes,
                seal.record_bytes,
            ),
            Content::Open(log) => {
                let records = log.entries.iter();
                let record_bytes = records.map(|entry| entry.record.record_len()).sum();
                (0, log.group_count, log.skipped_bytes, record_bytes)
            }
        };
        let group_bytes = u64::from(group_count) * GROUP_HEADER_BYTES as u64;
        let header_bytes = footer_bytes + file_bytes.min(BLOB_HEADER_BYTES);
        let used_bytes = header_bytes + group_bytes + record_bytes + skipped_bytes;
        Space {
            live_bytes: tally.live_bytes,
            trash_bytes: tally.trash_bytes,
            dead_bytes: tally
                .piece_bytes
                .saturating_sub(tally.live_bytes + tally.trash_bytes),
            overhead_bytes: group_bytes + record_bytes.saturating_sub(tally.piece_bytes),
            padding_bytes: file_bytes.saturating_sub(used_bytes),
            header_bytes,
            skipped_bytes,
            file_bytes,
            ..Space::default()
        }
    }
}

/// Entries of one table.
pub(crate) fn encode_entries(entries: impl Iterator<Item = (u32, Entry)>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (tag, entry) in entries {
        bytes.extend_from_slice(&tag.to_le_bytes());
        bytes.extend_from_slice(&entry.bits().to_le_bytes());
    }
    bytes
}

/// Trashed pieces of one table.
pub(crate) fn encode_trash(trash: impl Iterator<Item = (u64, Entry, Trashed)>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (fingerprint, entry, trashed) in trash {
        bytes.extend_from_slice(&fingerprint.to_le_bytes());
        bytes.extend_from_slice(&entry.bits().to_le_bytes());
        bytes.extend_from_slice(&trashed.sequence.to_le_bytes());
        bytes.extend_from_slice(&trashed.since_s.to_le_bytes());
        bytes.extend_from_slice(&trashed.body_len.to_le_bytes());
    }
    bytes
}

/// All trashed pieces.
pub(crate) async fn read_trash<D: Disk>(reader: &mut PartReader<'_, D>) -> Option<Aside<Trashed>> {
    let mut trash = Aside::default();
    for _ in 0..TABLES {
        for _ in 0..u32_at(reader.item(PartKind::Trash, 4).await?, 0) {
            let item = reader.item(PartKind::Trash, TRASHED_BYTES).await?;
            let trashed = Trashed {
                sequence: u64_at(item, 16),
                since_s: u32_at(item, 24),
                body_len: u32_at(item, 28),
            };
            trash.insert(u64_at(item, 0), Entry::from_bits(u64_at(item, 8))?, trashed);
        }
    }
    Some(trash)
}

/// All tables of an index.
pub(crate) async fn read_index<D: Disk>(
    reader: &mut PartReader<'_, D>,
    kind: PartKind,
) -> Option<Index> {
    let mut index = Index::default();
    for table in 0..TABLES {
        let count = u32_at(reader.item(kind, 4).await?, 0) as usize;
        let mut entries = Vec::new();
        while entries.len() < count {
            let rest = count - entries.len();
            let items = reader.items(kind, TABLE_ENTRY_BYTES, rest).await?;
            for item in items.chunks_exact(TABLE_ENTRY_BYTES) {
                entries.push((u32_at(item, 0), Entry::from_bits(u64_at(item, 4))?));
            }
        }
        index.extend_table(table, entries);
    }
    Some(index)
}

/// A blob's fixed part, its satellites and its records.
pub(crate) fn encode_blob<F>(
    blob: &Blob<F>,
    tally: &BlobTally,
) -> ([u8; BLOB_BYTES], Vec<u8>, Vec<u8>) {
    let (header, tail) = (&blob.header, blob.tail.get());
    let log = blob.log.borrow();
    let records = log.as_ref().map_or(&[][..], |log| &log.entries);
    let seal = blob.seal.get();
    let flags = match &*log {
        None => IS_SEALED,
        Some(log) if log.has_rot => HAS_ROT,
        Some(_) => 0,
    };
    let counts = match (&*log, seal) {
        (Some(log), _) => (
            log.group_count,
            log.skipped_bytes,
            0,
            log.entries.len() as u64,
        ),
        (None, Some(seal)) => (
            seal.group_count,
            seal.skipped_bytes,
            seal.record_bytes,
            seal.footer_offset,
        ),
        (None, None) => unreachable!("a blob without a log has a seal"),
    };
    let mut bytes = [0; BLOB_BYTES];
    let mut at = 0;
    let mut add = |field: &[u8]| {
        put(&mut bytes, at, field);
        at += field.len();
    };
    add(&header.blob.0.to_le_bytes());
    add(&header.created_s.to_le_bytes());
    add(&header.salt);
    add(&tail.append_at.to_le_bytes());
    add(&tail.file_len.to_le_bytes());
    add(&tail.last_number.to_le_bytes());
    add(&tail.last_full_number.to_le_bytes());
    add(&tail.synced_number.to_le_bytes());
    add(&tail.attested_number.to_le_bytes());
    add(&tally.live_count.to_le_bytes());
    add(&tally.mark_count.to_le_bytes());
    add(&tally.live_bytes.to_le_bytes());
    add(&tally.piece_bytes.to_le_bytes());
    add(&tally.expiry_s.to_le_bytes());
    add(&blob.slot.to_le_bytes());
    add(&[header.class.byte(), flags]);
    add(&(header.satellites.len() as u16).to_le_bytes());
    add(&counts.0.to_le_bytes());
    add(&counts.1.to_le_bytes());
    add(&counts.2.to_le_bytes());
    add(&counts.3.to_le_bytes());
    add(&tally.tombstone_count.to_le_bytes());
    add(&tally.trash_count.to_le_bytes());
    add(&tally.trash_bytes.to_le_bytes());
    for column in tally.expiries.bytes {
        add(&column.to_le_bytes());
    }
    assert_eq!(at, BLOB_BYTES, "a blob's fields and their length disagree");
    let mut entries = vec![0; records.len() * ENTRY_BYTES];
    for (record, out) in records.iter().zip(entries.chunks_exact_mut(ENTRY_BYTES)) {
        record.encode_into(out);
    }
    (bytes, header.satellites.concat(), entries)
}

/// The blobs, ids and slots rising.
pub(crate) async fn read_blobs<D: Disk>(
    reader: &mut PartReader<'_, D>,
    options: &StoreOptions,
    count: u32,
) -> Option<Vec<KnownBlob>> {
    let mut blobs: Vec<KnownBlob> = Vec::new();
    for _ in 0..count {
        let fixed: [u8; BLOB_BYTES] = array_at(reader.item(PartKind::Blobs, BLOB_BYTES).await?, 0);
        let mut known = parse_blob(&fixed, options)?;
        for _ in 0..u16_at(&fixed, 130) {
            let satellite = reader.item(PartKind::Blobs, SATELLITE_BYTES).await?;
            known.header.satellites.push(array_at(satellite, 0));
        }
        if let Content::Open(log) = &mut known.content {
            for _ in 0..u64_at(&fixed, 152) {
                let entry = FooterEntry::parse(reader.item(PartKind::Blobs, ENTRY_BYTES).await?)?;
                log.entries.push(entry);
            }
        }
        let is_next = blobs
            .last()
            .is_none_or(|last| last.header.blob < known.header.blob && last.slot < known.slot);
        if !is_next {
            return None;
        }
        blobs.push(known);
    }
    Some(blobs)
}

fn parse_blob(bytes: &[u8; BLOB_BYTES], options: &StoreOptions) -> Option<KnownBlob> {
    let flags = bytes[129];
    let content = if flags & IS_SEALED != 0 {
        Content::Sealed(Seal {
            footer_offset: u64_at(bytes, 152),
            group_count: u32_at(bytes, 132),
            skipped_bytes: u64_at(bytes, 136),
            record_bytes: u64_at(bytes, 144),
        })
    } else {
        Content::Open(BlobLog {
            entries: Vec::new(),
            group_count: u32_at(bytes, 132),
            skipped_bytes: u64_at(bytes, 136),
            has_rot: flags & HAS_ROT != 0,
        })
    };
    let header = BlobHeader {
        class: ExpiryClass::from_byte(bytes[128])?,
        node_id: options.node_id,
        blob: BlobId(u64_at(bytes, 0)),
        created_s: u64_at(bytes, 8),
        salt: array_at(bytes, 16),
        satellites: Vec::new(),
    };
    let tail = Tail {
        append_at: u64_at(bytes, 48),
        file_len: u64_at(bytes, 56),
        last_number: u64_at(bytes, 64),
        last_full_number: u64_at(bytes, 72),
        synced_number: u64_at(bytes, 80),
        attested_number: u64_at(bytes, 88),
    };
    let tally = BlobTally {
        live_count: u32_at(bytes, 96),
        mark_count: u32_at(bytes, 100),
        live_bytes: u64_at(bytes, 104),
        piece_bytes: u64_at(bytes, 112),
        expiry_s: u32_at(bytes, 120),
        tombstone_count: u32_at(bytes, 160),
        trash_count: u32_at(bytes, 164),
        trash_bytes: u64_at(bytes, 168),
        expiries: Expiries {
            bytes: std::array::from_fn(|column| u64_at(bytes, 176 + 8 * column)),
        },
    };
    let slot = u32_at(bytes, 124);
    let is_placed = tail.append_at.is_multiple_of(BLOCK_BYTES as u64)
        && tail.append_at >= BLOB_HEADER_BYTES.max(tail.file_len)
        && usize::from(u16_at(bytes, 130)) <= SATELLITES_MAX
        && slot < BLOBS_MAX;
    is_placed.then_some(KnownBlob {
        header,
        slot,
        tail,
        tally,
        content,
    })
}

/// A number for each damage that a blob may keep, and the share.
pub(crate) fn damage_number(damage: Damage) -> Option<(u32, u32)> {
    Some(match damage {
        Damage::Blob => (1, 0),
        Damage::BlobHeader => (2, 0),
        Damage::Group => (3, 0),
        Damage::RecordHeader => (4, 0),
        Damage::UnknownRecord => (5, 0),
        Damage::Trailer => (6, 0),
        Damage::Share(share) => (7, share),
        // Said once by the opening that noticed, or of a piece that is given another chance.
        Damage::Missing | Damage::Root | Damage::Unreadable => return None,
    })
}

/// A rotten stretch.
pub(crate) fn encode_rot(rot: &Rot) -> [u8; ROT_BYTES] {
    let (damage, share) = damage_number(rot.damage).unwrap_or_default();
    let mut bytes = [0; ROT_BYTES];
    put(&mut bytes, 0, &rot.blob.0.to_le_bytes());
    put(&mut bytes, 8, &rot.offset.to_le_bytes());
    put(&mut bytes, 16, &rot.len.to_le_bytes());
    put(&mut bytes, 24, &damage.to_le_bytes());
    put(&mut bytes, 28, &share.to_le_bytes());
    bytes
}

/// The inverse of [`encode_rot`].
pub(crate) fn parse_rot(bytes: &[u8]) -> Option<Rot> {
    Some(Rot {
        blob: BlobId(u64_at(bytes, 0)),
        offset: u64_at(bytes, 8),
        len: u64_at(bytes, 16),
        damage: match u32_at(bytes, 24) {
            1 => Damage::Blob,
            2 => Damage::BlobHeader,
            3 => Damage::Group,
            4 => Damage::RecordHeader,
            5 => Damage::UnknownRecord,
            6 => Damage::Trailer,
            7 => Damage::Share(u32_at(bytes, 28)),
            _ => return None,
        },
    })
}

const _: () = assert!(BLOB_BYTES == 176 + 8 * COLUMNS);
const _: () = assert!(BLOB_RECORDS_MAX as usize * ENTRY_BYTES < 2 << 20);
