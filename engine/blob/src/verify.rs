//! Reading everything: every header, share checksum, trailer and footer of every blob, and what damage would cost.
//!
//! The slow truth beside `recover`, which believes footers and durable groups and leaves their bodies for later. Nothing is
//! written and nothing is believed: a footer must agree with the records, and each record with its checksums. What a crash
//! left unfinished is counted as torn and is no fault (docs/format.md, *durable, torn, rotten*).
//!
//! Takes some 100 bytes of memory for each record. Whoever wants the truth about the disk brings a [`Disk`] without a cache.

use std::collections::HashMap;

use crate::buffer::IoBuffer;
use crate::check::KeyedCheck;
use crate::disk::{Disk, DiskError};
use crate::error::Damage;
use crate::footer::{Footer, FooterEnd, FooterEntry};
use crate::group::GroupHeader;
use crate::header::{BlobHeader, NoHeader};
use crate::index::{Fingerprinter, Fingerprints};
use crate::layout::{self, BLOB_HEADER_BYTES, BLOCK_BYTES, BlobId, GROUP_HEADER_BYTES, STEP_BYTES};
use crate::record::{Kind, RecordHeader};
use crate::scan::{self, Group, Scanner};

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
    let mut seen = Seen {
        fingerprinter: Fingerprinter::new(key, 64),
        latest: HashMap::default(),
        sequences: Vec::new(),
        verdict: Verdict {
            blobs: files.len() as u64,
            file_bytes: files.iter().map(|(_, len)| len).sum(),
            ..Verdict::default()
        },
    };
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

/// What all blobs together hold.
struct Seen {
    fingerprinter: Fingerprinter,
    latest: HashMap<u128, Latest, Fingerprints>,
    sequences: Vec<Sequence>,
    verdict: Verdict,
}

/// The newest record of a piece so far.
struct Latest {
    sequence: u64,
    body_len: u32,
    is_piece: bool,
    /// Whether one record of this sequence passes all checks.
    is_intact: bool,
    /// The newest trash or restore record: its sequence, and whether it is a trash record.
    mark: (u64, bool),
}

/// Who uses a sequence, and where. Ordered by the sequence first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Sequence {
    sequence: u64,
    /// Half of the piece's fingerprint.
    piece: u64,
    blob: u64,
    offset: u64,
}

impl Seen {
    fn find(&mut self, blob: BlobId, offset: u64, len: u64, fault: Fault) {
        self.verdict.findings.push(Finding {
            blob,
            offset,
            len,
            fault,
            piece: None,
            is_lost: false,
            sequence: 0,
        });
    }

    /// A fault in a record whose header is known.
    fn find_in(&mut self, header: &BlobHeader, offset: u64, record: &RecordHeader, fault: Fault) {
        let satellite = header.satellites.get(usize::from(record.satellite_slot));
        let piece = satellite.map(|satellite| PieceName {
            satellite: *satellite,
            id: record.id,
            body_len: u64::from(record.body_len),
        });
        self.verdict.findings.push(Finding {
            blob: header.blob,
            offset,
            len: record.record_len(),
            fault,
            piece,
            is_lost: false,
            sequence: record.sequence,
        });
    }

    fn accept(&mut self, header: &BlobHeader, offset: u64, record: &RecordHeader, is_intact: bool) {
        let Some(satellite) = header.satellites.get(usize::from(record.satellite_slot)) else {
            return;
        };
        let wide = self.fingerprinter.wide(satellite, &record.id);
        self.sequences.push(Sequence {
            sequence: record.sequence,
            piece: wide as u64,
            blob: header.blob.0,
            offset,
        });
        let latest = self.latest.entry(wide).or_insert(Latest {
            sequence: 0,
            body_len: 0,
            is_piece: false,
            is_intact: false,
            mark: (0, false),
        });
        if matches!(record.kind, Kind::Trash | Kind::Restore) {
            let mark = (record.sequence, record.kind == Kind::Trash);
            latest.mark = latest.mark.max(mark);
            return;
        }
        let found = Latest {
            sequence: record.sequence,
            body_len: record.body_len,
            is_piece: record.kind == Kind::Piece,
            is_intact,
            mark: latest.mark,
        };
        if found.sequence > latest.sequence {
            *latest = found;
        } else if found.sequence == latest.sequence {
            // One record twice, moved by compaction: one good copy is enough.
            latest.is_intact |= found.is_intact;
        }
    }

    fn settle(mut self) -> Verdict {
        self.sequences.sort_unstable();
        for pair in self.sequences.windows(2) {
            let [first, second] = pair else { continue };
            if first.sequence == second.sequence && first.piece != second.piece {
                self.verdict.findings.push(Finding {
                    blob: BlobId(second.blob),
                    offset: second.offset,
                    len: 0,
                    fault: Fault::SequenceTwice(second.sequence),
                    piece: None,
                    is_lost: false,
                    sequence: 0,
                });
            }
        }
        for latest in self.latest.values() {
            if latest.is_piece && latest.is_intact {
                self.verdict.pieces += 1;
                let (mark, is_trash) = latest.mark;
                self.verdict.trashed_pieces += u64::from(is_trash && mark > latest.sequence);
                self.verdict.piece_bytes += u64::from(latest.body_len);
            }
        }
        for finding in &mut self.verdict.findings {
            let Some(piece) = finding.piece else { continue };
            let wide = self.fingerprinter.wide(&piece.satellite, &piece.id);
            finding.is_lost = self.latest.get(&wide).is_some_and(|latest| {
                latest.is_piece && !latest.is_intact && latest.sequence == finding.sequence
            });
        }
        self.verdict
            .findings
            .sort_by_key(|finding| (finding.blob, finding.offset));
        self.verdict
    }
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
    let walk = Walk {
        scanner,
        header: &header,
        is_sealed: footer.is_some(),
        has_footer: footer.is_some(),
        end: BLOB_HEADER_BYTES,
        group_count: 0,
        last_number: 0,
        records: Vec::new(),
        seen,
        hash,
        report,
    };
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

/// The reading of one blob.
struct Walk<'a, D: Disk> {
    scanner: Scanner<'a, D>,
    header: &'a BlobHeader,
    /// Then all its groups are durable.
    is_sealed: bool,
    /// Then records that cannot be read are known all the same.
    has_footer: bool,
    /// Where the last valid group claims to end.
    end: u64,
    group_count: u32,
    last_number: u64,
    records: Vec<FooterEntry>,
    seen: &'a mut Seen,
    hash: Option<&'a mut (dyn RootHash + 'static)>,
    report: &'a mut dyn FnMut(u64, usize),
}

impl<D: Disk> Walk<'_, D> {
    /// Gives the count of valid groups, the highest number and the records. `bad_footer` is where a footer should be.
    async fn run(mut self, bad_footer: Option<FooterEnd>) -> (u32, u64, Vec<FooterEntry>) {
        let mut previous: Option<Group> = None;
        let mut at = BLOB_HEADER_BYTES;
        while at < self.scanner.len {
            let Some(header) = self.scanner.group_header(at).await else {
                at += BLOCK_BYTES as u64;
                continue;
            };
            self.group_count += 1;
            self.last_number = self.last_number.max(header.number);
            self.settle(previous.take(), at, Some(header)).await;
            previous = Some(self.scanner.walk(at, header).await);
            self.end = at.saturating_add(header.group_len);
            at = self.end;
        }
        let mut len = self.scanner.len;
        if let Some(footer) = bad_footer.filter(|footer| footer.offset >= self.end) {
            let fault = Fault::Footer;
            self.seen
                .find(self.header.blob, footer.offset, footer.len, fault);
            // Its end is written with it, after a sync of all groups.
            self.is_sealed = true;
            len = footer.offset;
        }
        self.settle(previous, len, None).await;
        self.seen.verdict.groups += u64::from(self.group_count);
        if self.scanner.has_unreadable_blocks {
            self.seen.find(self.header.blob, 0, 0, Fault::Unreadable);
        }
        (self.group_count, self.last_number, self.records)
    }

    /// Judges a group and the gap after it, now that what follows is known: the rules of `recover`.
    async fn settle(&mut self, group: Option<Group>, gap_end: u64, next: Option<GroupHeader>) {
        let number = group.as_ref().map_or(0, |group| group.header.number);
        if let Some(group) = group {
            let is_durable = self.is_sealed
                || next.is_some_and(|next| next.number > number && next.durable_number >= number);
            self.settle_group(group, is_durable).await;
        }
        let is_rotten =
            next.is_some_and(|next| next.number > number + 1 && next.durable_number > number);
        self.settle_gap(self.end.min(gap_end), gap_end, is_rotten)
            .await;
        (self.report)(gap_end, self.seen.verdict.findings.len());
    }

    async fn settle_group(&mut self, group: Group, is_durable: bool) {
        for (offset, record) in &group.records {
            let faults = self.check(*offset, record).await;
            if !faults.is_empty() && !is_durable {
                self.seen.verdict.torn_bytes += record.record_len();
                continue;
            }
            self.take(*offset, record, &faults);
            (self.report)(*offset, self.seen.verdict.findings.len());
        }
        for stretch in &group.damage {
            // What the footer says was there is named when it is held against the records.
            if self.has_footer && stretch.damage == Damage::RecordHeader {
                continue;
            }
            if is_durable {
                let fault = Fault::Damaged(stretch.damage);
                self.seen
                    .find(self.header.blob, stretch.offset, stretch.len, fault);
                if !self.has_footer {
                    self.seen.verdict.unknown_bytes += stretch.len;
                }
            } else {
                self.seen.verdict.torn_bytes += stretch.len;
            }
        }
    }

    /// Looks for records where no valid group is.
    async fn settle_gap(&mut self, start: u64, end: u64, is_rotten: bool) {
        if start >= end {
            return;
        }
        let mut missing = end - start;
        let mut at = self.scanner.next_record(start, end).await;
        while at < end {
            let mut next = at + STEP_BYTES as u64;
            if let Some(Ok(record)) = self.scanner.record_header(at, end).await {
                let faults = self.check(at, &record).await;
                if faults.is_empty() || is_rotten {
                    self.take(at, &record, &faults);
                }
                if faults.is_empty() {
                    next = layout::round_to_step(at + record.record_len());
                    missing = missing.saturating_sub(next - at);
                }
            }
            at = self.scanner.next_record(next, end).await;
        }
        if is_rotten {
            let fault = Fault::Damaged(Damage::Group);
            self.seen.find(self.header.blob, start, end - start, fault);
            if !self.has_footer {
                self.seen.verdict.unknown_bytes +=
                    missing.saturating_sub(GROUP_HEADER_BYTES as u64);
            }
        } else {
            self.seen.verdict.torn_bytes += missing;
        }
    }

    /// All that is wrong with a record whose header is good.
    async fn check(&mut self, offset: u64, record: &RecordHeader) -> Vec<Fault> {
        let mut faults = Vec::new();
        let hash = &mut self.hash;
        if let Some(hash) = hash {
            hash.begin(u64::from(record.body_len));
        }
        let mut look = |share, bytes: &[u8], is_good: bool| {
            if !is_good {
                faults.push(Fault::Damaged(Damage::Share(share)));
            }
            if let Some(hash) = hash {
                hash.share(bytes);
            }
        };
        match self.scanner.each_share(offset, record, &mut look).await {
            Err(damage) => faults.push(Fault::Damaged(damage)),
            Ok(Some(root)) if faults.is_empty() => {
                let found = self.hash.as_mut().map(|hash| hash.root());
                if found.is_some_and(|found| found != root) {
                    faults.push(Fault::Root);
                }
            }
            Ok(_) => {}
        }
        faults
    }

    fn take(&mut self, offset: u64, record: &RecordHeader, faults: &[Fault]) {
        for fault in faults {
            self.seen.find_in(self.header, offset, record, *fault);
        }
        self.seen
            .accept(self.header, offset, record, faults.is_empty());
        self.seen.verdict.records += 1;
        self.records.push(FooterEntry {
            offset,
            record: *record,
        });
    }
}
