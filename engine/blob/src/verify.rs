//! Reading everything: every header, share checksum, trailer and footer of every blob, and what damage would cost.
//!
//! The slow truth beside `recover`, which believes footers and durable groups and leaves their bodies for later. Nothing is
//! written and nothing is believed: a footer must agree with the records, and each record with its checksums. What a crash
//! left unfinished is counted as torn and is no fault (docs/format.md, *durable, torn, rotten*).
//!
//! Takes 28 to 35 bytes of memory for each record (`seen`), and what one blob's records take (`walk`). Whoever wants the truth about the
//! disk brings a [`Disk`] without a cache.

mod seen;
mod walk;

use crate::buffer::IoBuffer;
use crate::check::KeyedCheck;
use crate::disk::{Disk, DiskError};
use crate::error::Damage;
use crate::fingerprint::Fingerprinter;
use crate::footer::{Footer, FooterEnd, FooterEntry};
use crate::header::{BlobHeader, NoHeader};
use crate::layout::{BLOB_HEADER_BYTES, BLOCK_BYTES, BlobId};
use crate::record::Kind;
use crate::scan::{self, Scanner};
use crate::verify::seen::Seen;
use crate::verify::walk::Walk;

/// What is wrong at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// Bytes that were durable once fail their check.
    #[error("{0} is damaged")]
    Damaged(Damage),
    /// The blob belongs to another node: the store does not open.
    #[error("the blob belongs to another node")]
    ForeignBlob,
    /// The blob was written by a newer release: the store does not open.
    #[error("format version {0} > 1")]
    NewerVersion(u16),
    /// The checksums hold, and the content is not what the piece's root stands for: it was changed before or after them together.
    #[error("the content is not that of the piece's root")]
    Root,
    /// There is a footer, and it fails its check. The store does without.
    #[error("the footer is damaged")]
    Footer,
    /// The footer names a record that is not there, or is another one.
    #[error("the footer's record is not there")]
    RecordMissing,
    /// A record is there that the footer does not name: the store does not find it.
    #[error("the footer lacks this record")]
    RecordNotInFooter,
    /// The footer's counts are not those of the groups.
    #[error("the footer's counts are wrong")]
    FooterCounts,
    /// Two records of different pieces have one sequence.
    #[error("sequence {0} is used twice")]
    SequenceTwice(u64),
    /// The disk could not read some block of this blob.
    #[error("the disk cannot read some of its blocks")]
    Unreadable,
}

/// A piece by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PieceName {
    /// Node id of the satellite.
    pub satellite: [u8; 32],
    /// Piece id.
    pub id: [u8; 32],
    /// Bytes of its body.
    pub body_len: u64,
}

/// A fault, where it is, and what it costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// The blob.
    pub blob: BlobId,
    /// Where it begins.
    pub offset: u64,
    /// How far it reaches, as far as known; 0 where that means nothing.
    pub len: u64,
    /// What is wrong.
    pub fault: Fault,
    /// Whose bytes these are, where that can still be known.
    pub piece: Option<PieceName>,
    /// Whether that piece cannot be read any more. False for one that was deleted or replaced, or has a good copy.
    pub is_lost: bool,
    sequence: u64,
}

/// What reading everything found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Verdict {
    /// Blob files.
    pub blobs: u64,
    /// Those of them with a good footer.
    pub sealed_blobs: u64,
    /// Bytes of all blob files.
    pub file_bytes: u64,
    /// Valid groups.
    pub groups: u64,
    /// Records whose header is good, of any kind.
    pub records: u64,
    /// Pieces that can be read whole, trashed ones included.
    pub pieces: u64,
    /// Those of them that are in the trash, however long.
    pub trashed_pieces: u64,
    /// Bytes of the bodies of all.
    pub piece_bytes: u64,
    /// Bytes that a crash left unfinished; nothing in them was acked.
    pub torn_bytes: u64,
    /// Durable bytes of which nobody can say any more which pieces they held.
    pub unknown_bytes: u64,
    /// What is wrong, in the order of blobs and offsets.
    pub findings: Vec<Finding>,
}

impl Verdict {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.findings.is_empty()
    }

    /// The pieces that cannot be read any more, each once.
    #[must_use]
    pub fn lost(&self) -> Vec<PieceName> {
        let lost = self.findings.iter().filter(|finding| finding.is_lost);
        let mut lost: Vec<_> = lost.filter_map(|finding| finding.piece).collect();
        lost.sort_unstable();
        lost.dedup();
        lost
    }
}

/// How far the reading has come.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// The blob being read.
    pub blob: BlobId,
    /// Bytes of blob files passed.
    pub bytes_done: u64,
    /// Bytes of all blob files.
    pub bytes_total: u64,
    /// Faults so far.
    pub findings: usize,
}

/// The hash that gives a piece its root. The store does not know it; whoever does brings it.
pub trait RootHash {
    /// A body of so many bytes follows.
    fn begin(&mut self, body_len: u64);
    /// Its next share.
    fn share(&mut self, share: &[u8]);
    /// Its root, after the last share.
    fn root(&mut self) -> [u8; 32];
}

/// Reads every blob of the disk from front to end, checksums alone: see [`verify_content`].
///
/// # Errors
///
/// As there.
pub async fn verify<D: Disk>(
    disk: &D,
    node_id: [u8; 32],
    key: [u8; 32],
    progress: &mut dyn FnMut(&Progress),
) -> Result<Verdict, DiskError> {
    verify_content(disk, node_id, key, None, progress).await
}

/// Reads every blob of the disk from front to end; with `hash`, also holds the bodies of several shares against their roots. (The root of
/// a piece of one share is not stored: its checksum is all there is.) `key` is random, for the memory of what was seen.
///
/// # Errors
///
/// If the blobs cannot be listed or one cannot be opened. All other trouble is in the verdict.
pub async fn verify_content<D: Disk>(
    disk: &D,
    node_id: [u8; 32],
    key: [u8; 32],
    hash: Option<&mut (dyn RootHash + 'static)>,
    progress: &mut dyn FnMut(&Progress),
) -> Result<Verdict, DiskError> {
    let mut hash = hash;
    let mut files = disk.list().await?;
    files.sort_unstable();
    let verdict = Verdict {
        blobs: files.len() as u64,
        file_bytes: files.iter().map(|(_, len)| len).sum(),
        ..Verdict::default()
    };
    let mut seen = Seen::new(Fingerprinter::new(key, 64), verdict);
    let mut bytes_before = 0;
    for &(id, len) in &files {
        let bytes_total = seen.verdict.file_bytes;
        let bytes_done = bytes_before;
        let mut report = |at: u64, findings: usize| {
            progress(&Progress {
                blob: id,
                bytes_done: bytes_done + at.min(len),
                bytes_total,
                findings,
            });
        };
        // Lent anew for each blob.
        let hash = hash.as_deref_mut();
        verify_blob(disk, node_id, (id, len), &mut seen, hash, &mut report).await?;
        bytes_before += len;
    }
    Ok(seen.settle())
}

async fn verify_blob<D: Disk>(
    disk: &D,
    node_id: [u8; 32],
    (id, len): (BlobId, u64),
    seen: &mut Seen,
    hash: Option<&mut (dyn RootHash + 'static)>,
    report: &mut dyn FnMut(u64, usize),
) -> Result<(), DiskError> {
    let file = disk.open(id).await?;
    let end = footer_end(disk, &file, id, len).await;
    let Some(header) = blob_header(disk, &file, id, len, end, seen).await else {
        return Ok(());
    };
    if header.node_id != node_id {
        seen.find(id, 0, len, Fault::ForeignBlob);
        return Ok(());
    }
    let footer = match end {
        Some(end) => read_footer(disk, &file, &header, end).await,
        None => None,
    };
    let scanner = Scanner::new(
        disk,
        &file,
        id,
        header.salt,
        header.satellites.len(),
        footer.as_ref().map_or(len, |footer| footer.offset),
    );
    let walk = Walk::new(scanner, &header, footer.is_some(), seen, hash, report);
    let (group_count, last_number, records) =
        walk.run(footer.is_none().then_some(end).flatten()).await;
    if let Some(footer) = footer {
        seen.verdict.sealed_blobs += 1;
        if (footer.group_count, footer.last_number) != (group_count, last_number) {
            seen.find(id, footer.offset, len - footer.offset, Fault::FooterCounts);
        }
        compare(&header, &footer.entries, &records, seen);
    }
    Ok(())
}

/// Holds a footer against the records that were found. Both are in the order of their offsets.
fn compare(header: &BlobHeader, entries: &[FooterEntry], records: &[FooterEntry], seen: &mut Seen) {
    let (mut entries, mut records) = (entries.iter().peekable(), records.iter().peekable());
    loop {
        match (entries.peek(), records.peek()) {
            (Some(entry), record) if record.is_none_or(|record| entry.offset <= record.offset) => {
                if Some(entry) == record {
                    records.next();
                } else {
                    seen.find_in(header, entry.offset, &entry.record, Fault::RecordMissing);
                    let is_intact = entry.record.kind != Kind::Piece;
                    seen.accept(header, entry.offset, &entry.record, is_intact);
                }
                entries.next();
            }
            (_, Some(record)) => {
                seen.find_in(
                    header,
                    record.offset,
                    &record.record,
                    Fault::RecordNotInFooter,
                );
                records.next();
            }
            (_, None) => return,
        }
    }
}

/// Both copies of the header and the footer's; `None` if no blob can be read here, which is then a finding unless torn.
async fn blob_header<D: Disk>(
    disk: &D,
    file: &D::File,
    id: BlobId,
    len: u64,
    end: Option<FooterEnd>,
    seen: &mut Seen,
) -> Option<BlobHeader> {
    let mut found: Option<BlobHeader> = None;
    let mut bad_offsets = Vec::new();
    let footer_copy = end.map(|end| end.header_offset());
    for offset in [Some(0), Some(BLOCK_BYTES as u64), footer_copy]
        .into_iter()
        .flatten()
    {
        let block = scan::read_block(disk, file, offset).await;
        match block.map_or(Err(NoHeader::Bad), |block| BlobHeader::parse(&block)) {
            Ok(header) if header.blob == id => found = found.or(Some(header)),
            Err(NoHeader::Version(version)) => {
                seen.find(id, offset, len, Fault::NewerVersion(version));
                return None;
            }
            _ => bad_offsets.push(offset),
        }
    }
    if found.is_none() {
        if len > BLOB_HEADER_BYTES {
            seen.find(id, 0, len, Fault::Damaged(Damage::Blob));
            seen.verdict.unknown_bytes += len - BLOB_HEADER_BYTES;
        } else {
            seen.verdict.torn_bytes += len;
        }
        return None;
    }
    if len > BLOB_HEADER_BYTES {
        // The copy in the footer is covered by the footer's own check.
        for offset in bad_offsets.into_iter().filter(|&at| at < BLOB_HEADER_BYTES) {
            let fault = Fault::Damaged(Damage::BlobHeader);
            seen.find(id, offset, BLOCK_BYTES as u64, fault);
        }
    }
    found
}

async fn footer_end<D: Disk>(disk: &D, file: &D::File, id: BlobId, len: u64) -> Option<FooterEnd> {
    let last = len.checked_sub(BLOCK_BYTES as u64)?;
    if last < BLOB_HEADER_BYTES || !len.is_multiple_of(BLOCK_BYTES as u64) {
        return None;
    }
    let block = scan::read_block(disk, file, last).await.ok()?;
    FooterEnd::parse(&block, id, len)
}

async fn read_footer<D: Disk>(
    disk: &D,
    file: &D::File,
    header: &BlobHeader,
    end: FooterEnd,
) -> Option<Footer> {
    let buffer = IoBuffer::for_overwriting(end.len as usize);
    let (read, buffer) = disk.read(file, end.offset, buffer).await;
    if read.ok()? as u64 != end.len {
        return None;
    }
    let footer = Footer::parse(&buffer, &KeyedCheck::new(header.salt), header)?;
    (footer.offset == end.offset).then_some(footer)
}
