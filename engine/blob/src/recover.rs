//! Opening a directory: the index is rebuilt from the blobs, and damage is sorted into torn and rotten.
//!
//! * Each blob is synced *before* it is read, so whatever is found is durable and may be acknowledged again.
//! * A group is known durable if the next valid group after it says so. Bad bytes of such a group are **rotten**: reported and left
//!   where they are. Other bad bytes are **torn**: a write that never was acked; counted and forgotten.
//! * Records of a group that is not known durable count only if all their CRCs hold.
//! * After a bad group header every following block is tried for the next group, and every 64-byte step up to there for records;
//!   after a bad record header every following step of the group. The keyed checks make that safe.
//! * Of several records for one piece the highest sequence counts; a tombstone outranks every lower one. The highest trash or restore
//!   record above it says whether the piece is in the trash.
//!
//! Nothing is written here, and no disk byte makes it panic. Rules: docs/format.md section 6.

use std::collections::HashMap;
use std::collections::hash_map::Entry::{Occupied, Vacant};
use std::rc::Rc;

use crate::blobs::{Blob, BlobLog, OpenBlobs, Tail};
use crate::buffer::IoBuffer;
use crate::check::KeyedCheck;
use crate::disk::{Disk, DiskError};
use crate::error::{Damage, OpenError};
use crate::footer::{Footer, FooterEnd, FooterEntry};
use crate::group::GroupHeader;
use crate::header::{BlobHeader, NoHeader};
use crate::index::{Aside, Entry, Fingerprinter, Fingerprints, Index, Place};
use crate::layout::{self, BLOB_HEADER_BYTES, BLOCK_BYTES, BlobId, GROUP_HEADER_BYTES, STEP_BYTES};
use crate::poison::{Poison, WriteOperation};
use crate::record::{Kind, RecordHeader};
use crate::scan::{self, Group, Scanner, Stretch};
use crate::space::Space;
use crate::states::{State, Trashed};
use crate::store::StoreOptions;

/// What opening a directory found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recovery {
    /// Blobs with a valid header.
    pub blobs: u64,
    /// Blob files whose creation never ended; left alone.
    pub torn_blobs: u64,
    /// Those of them whose records were read from their footers.
    pub sealed_blobs: u64,
    /// Valid groups.
    pub groups: u64,
    /// Pieces in the index.
    pub pieces: u64,
    /// Pieces in the trash, those whose 7 days are over among them.
    pub trashed: u64,
    /// Valid tombstones.
    pub tombstones: u64,
    /// Bytes that a crash left unfinished; nothing in them was acked.
    pub torn_bytes: u64,
    /// Damage to bytes that were durable once. Quarantined; the satellite should hear of it.
    pub rotten: Vec<Rot>,
}

/// Damage to bytes that were durable once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rot {
    /// The blob.
    pub blob: BlobId,
    /// Where the damage begins.
    pub offset: u64,
    /// How far it reaches, as far as known.
    pub len: u64,
    /// What failed its check.
    pub damage: Damage,
}

/// All that a store is made of.
pub(crate) struct Recovered<F> {
    pub(crate) index: Index,
    pub(crate) dead: Index,
    pub(crate) trash: Aside<Trashed>,
    pub(crate) blobs: Vec<Rc<Blob<F>>>,
    pub(crate) open_blobs: OpenBlobs<F>,
    pub(crate) satellites: Vec<[u8; 32]>,
    pub(crate) next_blob: u64,
    pub(crate) next_sequence: u64,
    pub(crate) poison: Poison,
    /// Records may be there that were not seen.
    pub(crate) has_unreadable_blocks: bool,
    pub(crate) space: Space,
    pub(crate) report: Recovery,
}

/// The newest record of a piece so far.
struct Latest {
    sequence: u64,
    /// `None`: a tombstone, or nothing yet but a mark.
    entry: Option<Entry>,
    body_len: u32,
    expiry_s: u32,
    mark: Mark,
}

/// The newest trash or restore record of a piece so far.
#[derive(Clone, Copy, Default)]
struct Mark {
    /// 0: there is none.
    sequence: u64,
    /// `None`: a restore record.
    trashed_s: Option<u32>,
}

/// What all blobs together add up to.
struct Tally {
    fingerprinter: Fingerprinter,
    latest: HashMap<u128, Latest, Fingerprints>,
    dead: Index,
    next_sequence: u64,
    body_bytes: u64,
    has_unreadable_blocks: bool,
    space: Space,
    report: Recovery,
}

pub(crate) async fn recover<D: Disk>(
    disk: &D,
    options: &StoreOptions,
    fingerprinter: Fingerprinter,
) -> Result<Recovered<D::File>, OpenError> {
    let mut files = disk.list().await?;
    files.sort_unstable();
    let mut tally = Tally {
        fingerprinter,
        latest: HashMap::default(),
        dead: Index::default(),
        next_sequence: 1,
        body_bytes: 0,
        has_unreadable_blocks: false,
        space: Space::default(),
        report: Recovery::default(),
    };
    let poison = Poison::default();
    let mut blobs = Vec::new();
    let mut open_blobs = OpenBlobs::<D::File>::default();
    let next_blob = files.last().map_or(1, |(id, _)| id.0.saturating_add(1));
    for (id, len) in files {
        tally.space.file_bytes += len;
        let file = disk.open(id).await?;
        //= docs/format.md#record
        if let Err(error) = disk.sync(&file).await {
            poison.set(id, WriteOperation::Sync, error);
        }
        let Some((header, is_whole)) = tally.read_header(disk, &file, id, len, options).await?
        else {
            continue;
        };
        let slot = blobs.len() as u32;
        let class = header.class.index();
        if let Some(footer) = read_footer(disk, &file, len, &header).await {
            let tail = tally.take_footer(slot, &header, &footer, len);
            let blob = Rc::new(Blob::new(slot, header, file, tail, None));
            for entry in &footer.entries {
                blob.count_record(&entry.record);
            }
            blobs.push(blob);
            open_blobs[class] = None;
            continue;
        }
        let before = (
            tally.report.groups,
            tally.space.skipped_bytes,
            tally.report.rotten.len(),
        );
        let satellites = &header.satellites;
        let scanner = Scanner::new(disk, &file, id, header.salt, satellites.len(), len);
        let scan = BlobScan {
            tally: &mut tally,
            scanner,
            slot,
            satellites,
            end: BLOB_HEADER_BYTES,
            entries: Vec::new(),
        };
        let (tail, entries) = scan.run().await;
        let log = BlobLog {
            entries,
            group_count: (tally.report.groups - before.0) as u32,
            skipped_bytes: tally.space.skipped_bytes - before.1,
            has_rot: !is_whole || tally.report.rotten.len() > before.2,
        };
        let has_places = log.entries.len() < options.blob_records_max as usize;
        let records: Vec<_> = log.entries.iter().map(|entry| entry.record).collect();
        let blob = Rc::new(Blob::new(slot, header, file, tail, Some(log)));
        for record in &records {
            blob.count_record(record);
        }
        // The newest blob of a class goes on growing, if its header is whole and it has room for more than a block.
        let has_room =
            tail.append_at + BLOCK_BYTES as u64 + blob.footer_len(1) <= options.blob_bytes_max;
        open_blobs[class] = (is_whole && has_room && has_places).then(|| Rc::clone(&blob));
        blobs.push(blob);
    }
    let satellites = blobs
        .last()
        .map(|blob| blob.header.satellites.clone())
        .unwrap_or_default();
    let (index, trash) = tally.index(&blobs);
    tally.report.pieces = index.len() as u64;
    tally.report.trashed = trash.len() as u64;
    Ok(Recovered {
        index,
        dead: tally.dead,
        trash,
        blobs,
        open_blobs,
        satellites,
        next_blob,
        next_sequence: tally.next_sequence,
        poison,
        has_unreadable_blocks: tally.has_unreadable_blocks,
        space: tally.space,
        report: tally.report,
    })
}

/// The footer at the end of a blob; `None` if there is none that can be believed.
pub(crate) async fn read_footer<D: Disk>(
    disk: &D,
    file: &D::File,
    len: u64,
    header: &BlobHeader,
) -> Option<Footer> {
    let end = footer_end(disk, file, header.blob, len).await?;
    let buffer = IoBuffer::for_overwriting(end.len as usize);
    let (read, buffer) = disk.read(file, end.offset, buffer).await;
    if read.ok()? as u64 != end.len {
        return None;
    }
    let footer = Footer::parse(&buffer, &KeyedCheck::new(header.salt), header)?;
    (footer.offset == end.offset).then_some(footer)
}

/// Where a footer would be.
async fn footer_end<D: Disk>(disk: &D, file: &D::File, id: BlobId, len: u64) -> Option<FooterEnd> {
    let last = len.checked_sub(BLOCK_BYTES as u64)?;
    if last < BLOB_HEADER_BYTES || !len.is_multiple_of(BLOCK_BYTES as u64) {
        return None;
    }
    let block = scan::read_block(disk, file, last).await.ok()?;
    FooterEnd::parse(&block, id, len)
}

impl Tally {
    /// Reads both copies of the header. `None`: nothing in this file can be read; the reason is in the report.
    async fn read_header<D: Disk>(
        &mut self,
        disk: &D,
        file: &D::File,
        id: BlobId,
        len: u64,
        options: &StoreOptions,
    ) -> Result<Option<(BlobHeader, bool)>, OpenError> {
        let mut found = None;
        let mut bad_offset = None;
        let mut read_error: Option<DiskError> = None;
        for offset in [0, BLOCK_BYTES as u64] {
            let parsed = match scan::read_block(disk, file, offset).await {
                Ok(block) => BlobHeader::parse(&block),
                Err(error) => {
                    read_error = Some(error);
                    Err(NoHeader::Bad)
                }
            };
            match parsed {
                Ok(header) if header.blob == id => found = found.or(Some(header)),
                Err(NoHeader::Version(version)) => {
                    return Err(OpenError::NewerVersion { blob: id, version });
                }
                _ => bad_offset = Some(offset),
            }
        }
        if found.is_none()
            && let Some(end) = footer_end(disk, file, id, len).await
            && let Ok(block) = scan::read_block(disk, file, end.header_offset()).await
        {
            found = BlobHeader::parse(&block)
                .ok()
                .filter(|header| header.blob == id);
        }
        let Some(header) = found else {
            if let Some(error) = read_error {
                return Err(error.into());
            }
            self.space.skipped_bytes += len;
            if len > BLOB_HEADER_BYTES {
                self.report.rotten.push(Rot {
                    blob: id,
                    offset: 0,
                    len,
                    damage: Damage::Blob,
                });
            } else {
                self.report.torn_blobs += 1;
                self.report.torn_bytes += len;
            }
            return Ok(None);
        };
        if header.node_id != options.node_id {
            return Err(OpenError::ForeignBlob { blob: id });
        }
        self.report.blobs += 1;
        self.space.header_bytes += len.min(BLOB_HEADER_BYTES);
        if let Some(offset) = bad_offset.filter(|_| len > BLOB_HEADER_BYTES) {
            let damage = Damage::BlobHeader;
            self.report.rotten.push(Rot {
                blob: id,
                offset,
                len: BLOCK_BYTES as u64,
                damage,
            });
        }
        Ok(Some((header, bad_offset.is_none())))
    }

    /// Takes a sealed blob's word for what is in it.
    fn take_footer(&mut self, slot: u32, header: &BlobHeader, footer: &Footer, len: u64) -> Tail {
        self.report.sealed_blobs += 1;
        self.report.groups += u64::from(footer.group_count);
        let mut record_bytes = 0;
        for FooterEntry { offset, record } in &footer.entries {
            let satellite = &header.satellites[usize::from(record.satellite_slot)];
            let place = Place {
                slot,
                offset: *offset,
            };
            self.accept(satellite, place, record);
            record_bytes += record.record_len();
        }
        let header_bytes = u64::from(footer.group_count) * GROUP_HEADER_BYTES as u64;
        let used_bytes = record_bytes + header_bytes + footer.skipped_bytes;
        self.space.overhead_bytes += header_bytes;
        self.space.skipped_bytes += footer.skipped_bytes;
        self.space.padding_bytes += (footer.offset - BLOB_HEADER_BYTES).saturating_sub(used_bytes);
        self.space.header_bytes += len - footer.offset;
        Tail {
            append_at: len,
            file_len: len,
            last_number: footer.last_number,
            last_full_number: footer.last_number,
            synced_number: footer.last_number,
            attested_number: footer.last_number,
        }
    }

    fn accept(&mut self, satellite: &[u8; 32], place: Place, record: &RecordHeader) {
        self.next_sequence = self.next_sequence.max(record.sequence.saturating_add(1));
        self.body_bytes += u64::from(record.body_len);
        self.space.overhead_bytes += record.record_len() - u64::from(record.body_len);
        let entry = match record.kind {
            Kind::Piece => Some(Entry::new(place, record.record_len())),
            Kind::Tombstone => {
                self.report.tombstones += 1;
                None
            }
            Kind::Trash | Kind::Restore => None,
        };
        let mut latest = Latest {
            sequence: record.sequence,
            entry,
            body_len: record.body_len,
            expiry_s: record.expiry_s,
            mark: Mark::default(),
        };
        if matches!(record.kind, Kind::Trash | Kind::Restore) {
            latest.mark = Mark {
                sequence: record.sequence,
                trashed_s: (record.kind == Kind::Trash).then_some(record.created_s),
            };
            latest.sequence = 0;
        }
        let wide = self.fingerprinter.wide(satellite, &record.id);
        let outranked = match self.latest.entry(wide) {
            Occupied(mut known) => {
                let known = known.get_mut();
                if known.mark.sequence >= latest.mark.sequence {
                    latest.mark = known.mark;
                } else {
                    known.mark = latest.mark;
                }
                // Equal: one record twice, moved by compaction; the newer blob's stays.
                if latest.sequence >= known.sequence {
                    std::mem::replace(known, latest)
                } else {
                    latest
                }
            }
            Vacant(unknown) => {
                unknown.insert(latest);
                return;
            }
        };
        if let Some(entry) = outranked.entry {
            self.dead.insert(self.fingerprinter.narrow(wide), entry);
        }
    }

    fn index<F>(&mut self, blobs: &[Rc<Blob<F>>]) -> (Index, Aside<Trashed>) {
        let mut index = Index::default();
        let mut trash = Aside::default();
        for (wide, latest) in std::mem::take(&mut self.latest) {
            let Some(entry) = latest.entry else { continue };
            let fingerprint = self.fingerprinter.narrow(wide);
            let body_len = u64::from(latest.body_len);
            let mark = latest.mark;
            //= docs/format.md#record
            let trashed_s = mark.trashed_s.filter(|_| mark.sequence > latest.sequence);
            let state = trashed_s.map_or(State::Live, State::Trash);
            if let Some(since_s) = trashed_s {
                let trashed = Trashed {
                    since_s,
                    body_len: latest.body_len,
                };
                trash.insert(fingerprint, entry, trashed);
                self.space.trash_bytes += body_len;
            } else {
                index.insert(fingerprint, entry);
                self.space.live_bytes += body_len;
            }
            blobs[entry.place().slot as usize].enter(state, body_len, latest.expiry_s);
        }
        self.space.dead_bytes = self.body_bytes - self.space.live_bytes - self.space.trash_bytes;
        (index, trash)
    }
}

/// The walk over one blob.
struct BlobScan<'a, D: Disk> {
    tally: &'a mut Tally,
    scanner: Scanner<'a, D>,
    slot: u32,
    satellites: &'a [[u8; 32]],
    /// Where the last valid group claims to end.
    end: u64,
    /// The records that were accepted.
    entries: Vec<FooterEntry>,
}

impl<D: Disk> BlobScan<'_, D> {
    async fn run(mut self) -> (Tail, Vec<FooterEntry>) {
        let mut previous: Option<Group> = None;
        let mut tail = Tail::new();
        let mut at = BLOB_HEADER_BYTES;
        while at < self.scanner.len {
            //= docs/format.md#record
            let Some(header) = self.scanner.group_header(at).await else {
                at += BLOCK_BYTES as u64;
                continue;
            };
            self.tally.report.groups += 1;
            tail.last_number = tail.last_number.max(header.number);
            tail.attested_number = tail.attested_number.max(header.durable_number);
            if header.record_count > 0 {
                tail.last_full_number = header.number;
            }
            self.settle(previous.take(), at, Some(header)).await;
            previous = Some(self.scanner.walk(at, header).await);
            self.end = at + header.group_len;
            at = self.end;
        }
        let len = self.scanner.len;
        let last = previous.as_ref().map(|group| group.header);
        let is_whole = self.settle(previous, len, None).await;
        tail.file_len = len;
        tail.append_at = layout::round_to_block(len.max(self.end));
        // A torn group is never called durable: the next group must not turn it into rot.
        tail.synced_number = match last {
            Some(header) if is_whole => header.number,
            Some(header) => header.durable_number.min(header.number.saturating_sub(1)),
            None => 0,
        };
        self.tally.has_unreadable_blocks |= self.scanner.has_unreadable_blocks;
        (tail, self.entries)
    }

    /// Decides about a group and the gap after it, now that the next valid group, or that there is none, is known.
    /// Returns whether the group was whole.
    async fn settle(
        &mut self,
        group: Option<Group>,
        gap_end: u64,
        next: Option<GroupHeader>,
    ) -> bool {
        let number = group.as_ref().map_or(0, |group| group.header.number);
        let mut is_whole = true;
        if let Some(group) = group {
            let is_durable =
                next.is_some_and(|next| next.number > number && next.durable_number >= number);
            is_whole = self.settle_group(group, is_durable).await;
        }
        // Groups whose own headers are bad leave a gap in the numbers; were the first of them durable?
        let is_rotten =
            next.is_some_and(|next| next.number > number + 1 && next.durable_number > number);
        self.settle_gap(self.end.min(gap_end), gap_end, is_rotten)
            .await;
        is_whole
    }

    async fn settle_group(&mut self, group: Group, is_durable: bool) -> bool {
        let mut is_whole = group.damage.is_empty();
        let mut exact_len = GROUP_HEADER_BYTES as u64;
        let mut stepped_len = exact_len;
        for (offset, record) in &group.records {
            if !is_durable && self.scanner.check_body(*offset, record).await.is_err() {
                self.tally.report.torn_bytes += record.record_len();
                is_whole = false;
                continue;
            }
            self.accept(*offset, record);
            exact_len += record.record_len();
            stepped_len += layout::round_to_step(record.record_len());
        }
        for stretch in &group.damage {
            self.note(*stretch, is_durable);
        }
        let used_len = if is_whole {
            group.present_len
        } else {
            stepped_len.min(group.present_len)
        };
        let space = &mut self.tally.space;
        space.overhead_bytes += GROUP_HEADER_BYTES as u64;
        space.padding_bytes += used_len - exact_len;
        space.skipped_bytes += group.present_len - used_len;
        is_whole
    }

    /// Looks for records where no valid group is.
    async fn settle_gap(&mut self, start: u64, end: u64, is_rotten: bool) {
        if start >= end {
            return;
        }
        self.note(
            Stretch {
                offset: start,
                len: end - start,
                damage: Damage::Group,
            },
            is_rotten,
        );
        self.tally.space.skipped_bytes += end - start;
        let mut at = self.scanner.next_record(start, end).await;
        while at < end {
            let mut next = at + STEP_BYTES as u64;
            if let Some(Ok(record)) = self.scanner.record_header(at, end).await {
                let len = record.record_len();
                match self.scanner.check_body(at, &record).await {
                    Ok(()) => {
                        self.accept(at, &record);
                        self.tally.space.skipped_bytes -= len;
                        next = layout::round_to_step(at + len);
                    }
                    Err(damage) if is_rotten => self.note(
                        Stretch {
                            offset: at,
                            len,
                            damage,
                        },
                        true,
                    ),
                    Err(_) => {}
                }
            }
            at = self.scanner.next_record(next, end).await;
        }
    }

    fn accept(&mut self, offset: u64, record: &RecordHeader) {
        let satellite = &self.satellites[usize::from(record.satellite_slot)];
        self.entries.push(FooterEntry {
            offset,
            record: *record,
        });
        self.tally.accept(
            satellite,
            Place {
                slot: self.slot,
                offset,
            },
            record,
        );
    }

    fn note(&mut self, stretch: Stretch, is_rotten: bool) {
        let Stretch {
            offset,
            len,
            damage,
        } = stretch;
        if is_rotten {
            self.tally.report.rotten.push(Rot {
                blob: self.scanner.blob,
                offset,
                len,
                damage,
            });
        } else {
            self.tally.report.torn_bytes += len;
        }
    }
}
