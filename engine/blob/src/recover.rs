//! Opening a directory: what a checkpoint knows is believed, the rest read from the blobs, and damage sorted into torn and rotten.
//!
//! * A blob that the checkpoint knows is read from where the checkpoint ends, a file that it does not know whole. If a blob contradicts
//!   the checkpoint, or lacks what it knows, everything is read anew without it.
//! * Each blob is synced *before* it is read, so whatever is found is durable and may be acknowledged again.
//! * A group is known durable if the next valid group after it says so. Bad bytes of such a group are **rotten**: reported and left
//!   where they are. Other bad bytes are **torn**: a write that never was acked; counted and forgotten.
//! * Records of a group that is not known durable count only if all their CRCs hold; those of one that is torn are *loose*: nothing is
//!   acknowledged because they are there, and another copy is kept in their stead.
//! * After a bad group header every following block is tried for the next group, and every 64-byte step up to there for records;
//!   after a bad record header every following step of the group. The keyed checks make that safe.
//! * Which of several records for one piece counts, and whether it is in the trash, is found out last, in `census`.
//!
//! Nothing is written here, and no disk byte makes it panic. Rules: docs/format.md section 6.

use std::rc::Rc;

use crate::aside::Aside;
use crate::blobs::{Blob, BlobLog, BlobTally, Content, OpenBlobs, Seal, Tail};
use crate::buffer::IoBuffer;
use crate::bug::{self, Bug};
use crate::census::Census;
use crate::check::KeyedCheck;
use crate::checkpoint::{BLOB_COST, Checkpoint, Checkpoints};
use crate::disk::{Disk, DiskError};
use crate::doubted::Doubted;
use crate::error::{Damage, OpenError};
use crate::fingerprint::Fingerprinter;
use crate::footer::{Footer, FooterEnd, FooterEntry};
use crate::header::{BlobHeader, NoHeader};
use crate::index::{Entry, Index, Place};
use crate::known::KnownBlob;
use crate::layout::{BLOB_HEADER_BYTES, BLOCK_BYTES, BlobId, GROUP_HEADER_BYTES};
use crate::poison::{Poison, WriteOperation};
use crate::progress::OpenProgress;
pub use crate::recovery::{Recovery, Rot};
use crate::scan::{self, Scanner};
use crate::space::Space;
use crate::states::Trashed;
use crate::store::StoreOptions;
use crate::walk::BlobScan;

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
    /// Makes the fingerprints of both indexes.
    pub(crate) fingerprinter: Fingerprinter,
    pub(crate) checkpoints: Checkpoints<F>,
    /// What was read, in records.
    pub(crate) replay_cost: u64,
    /// Records may be there that were not seen.
    pub(crate) has_unreadable_blocks: bool,
    pub(crate) doubted: Doubted,
    pub(crate) space: Space,
    pub(crate) report: Recovery,
}

/// A directory being opened.
pub(crate) struct Opening<'a, D: Disk> {
    disk: &'a D,
    options: &'a StoreOptions,
    pub(crate) census: Census,
    poison: &'a Poison,
    progress: &'a OpenProgress,
    /// Bytes of the files that were gone through.
    bytes_done: u64,
    /// What was read, in records.
    replay_cost: u64,
    blobs: Vec<Rc<Blob<D::File>>>,
    open_blobs: OpenBlobs<D::File>,
    pub(crate) has_unreadable_blocks: bool,
    pub(crate) report: Recovery,
}

/// A blob as far as it is known, and the file that may hold more.
struct Begun<F> {
    header: BlobHeader,
    /// Both copies of the header are good.
    is_whole: bool,
    file: F,
    /// Bytes of the file.
    len: u64,
    tail: Tail,
    log: BlobLog,
}

pub(crate) async fn recover<D: Disk>(
    disk: &D,
    options: &StoreOptions,
    fingerprinter: Fingerprinter,
    progress: &OpenProgress,
) -> Result<Recovered<D::File>, OpenError> {
    let mut files = disk.list().await?;
    files.sort_unstable();
    progress.begin(files.iter().map(|(_, len)| len).sum());
    let mut numbers = disk.list_checkpoints().await?;
    numbers.sort_unstable();
    let poison = Poison::default();
    let mut lost = Vec::new();
    // G5: a checkpoint that does not hold is passed over, and the blobs are read.
    if !options.ignores_checkpoint
        && let Some(checkpoint) = newest_checkpoint(disk, options, &numbers).await
    {
        lost = checkpoint.lost(&files);
        if files.is_empty() && !lost.is_empty() {
            let count = lost.len() as u64;
            return Err(OpenError::NoBlobs { count });
        }
        if numbers.last() != Some(&checkpoint.current.number) {
            // A later one was there: what is missing may have been removed in its time.
            lost.clear();
        }
        if checkpoint.lost(&files).is_empty() {
            let opening = Opening::new(disk, options, &poison, progress, fingerprinter);
            // Whatever is wrong, the blobs know better.
            if let Ok(recovered) = opening.run_from(checkpoint, &files, &numbers).await {
                return Ok(Recovered {
                    poison,
                    ..recovered
                });
            }
        }
    }
    let mut opening = Opening::new(disk, options, &poison, progress, fingerprinter);
    for &(id, len) in &files {
        opening.read_file(id, len).await?;
        opening.pass(len);
    }
    let next_blob = blob_after(&files);
    let mut recovered = opening
        .finish(next_blob, Checkpoints::new(&numbers, None))
        .await?;
    recovered.report.rotten.extend(lost);
    Ok(Recovered {
        poison,
        ..recovered
    })
}

/// The first blob id that none of these files has.
fn blob_after(files: &[(BlobId, u64)]) -> u64 {
    files.last().map_or(1, |(id, _)| id.0.saturating_add(1))
}

/// The checkpoint of the highest number that is whole.
async fn newest_checkpoint<D: Disk>(
    disk: &D,
    options: &StoreOptions,
    numbers: &[u64],
) -> Option<Checkpoint<D::File>> {
    for &number in numbers.iter().rev() {
        let checkpoint = Checkpoint::read(disk, options, number).await;
        if checkpoint.is_some() {
            return checkpoint;
        }
    }
    None
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

impl<'a, D: Disk> Opening<'a, D> {
    fn new(
        disk: &'a D,
        options: &'a StoreOptions,
        poison: &'a Poison,
        progress: &'a OpenProgress,
        fingerprinter: Fingerprinter,
    ) -> Self {
        progress.reach(0);
        Self {
            disk,
            options,
            census: Census::new(fingerprinter),
            poison,
            progress,
            bytes_done: 0,
            replay_cost: 0,
            blobs: Vec::new(),
            open_blobs: OpenBlobs::<D::File>::default(),
            has_unreadable_blocks: false,
            report: Recovery::default(),
        }
    }

    /// Begins with what a checkpoint knows, and reads what it does not.
    async fn run_from(
        mut self,
        checkpoint: Checkpoint<D::File>,
        files: &[(BlobId, u64)],
        numbers: &[u64],
    ) -> Result<Recovered<D::File>, OpenError> {
        let bits = self.options.danger_fingerprint_bits;
        self.census = Census::new(Fingerprinter::new(checkpoint.key, bits));
        self.census
            .begin_with(checkpoint.current.next_sequence, checkpoint.trash);
        self.report.checkpoint = Some(checkpoint.current.number);
        self.report.rotten = checkpoint.rotten;
        let slot_count = checkpoint.blobs.last().map_or(0, |last| last.slot + 1);
        let mut slots = vec![None; slot_count as usize];
        let mut known = checkpoint.blobs.into_iter().peekable();
        for &(id, len) in files {
            while known.next_if(|known| known.header.blob < id).is_some() {}
            match known.next_if(|known| known.header.blob == id) {
                Some(known) => {
                    slots[known.slot as usize] = Some(self.blobs.len() as u32);
                    self.take_known(known, len).await?;
                }
                None => self.read_file(id, len).await?,
            }
            self.pass(len);
        }
        let relocate = |entry: Entry| {
            let slot = slots.get(entry.place().slot as usize).copied().flatten()?;
            Some(entry.in_slot(slot))
        };
        self.census
            .absorb(checkpoint.index, checkpoint.dead, relocate);
        let next_blob = blob_after(files).max(checkpoint.current.next_blob);
        self.finish(
            next_blob,
            Checkpoints::new(numbers, Some(checkpoint.current)),
        )
        .await
    }

    /// A file is gone through.
    fn pass(&mut self, len: u64) {
        self.bytes_done += len;
        self.progress.reach(self.bytes_done);
    }

    /// The file that is gone through is so far.
    pub(crate) fn reach(&self, offset: u64) {
        self.progress.reach(self.bytes_done + offset);
    }

    /// Takes a checkpoint's word for a blob, and reads what was appended since.
    async fn take_known(&mut self, known: KnownBlob, len: u64) -> Result<(), OpenError> {
        self.census.space.add(&known.space());
        self.census.tallies.push(known.tally);
        self.census.tombstones += u64::from(known.tally.tombstone_count);
        let (header, tail) = (known.header, known.tail);
        let id = header.blob;
        match known.content {
            Content::Sealed(_) if len != tail.file_len => Err(OpenError::Unsteady { blob: id }),
            Content::Sealed(seal) => {
                let file = self.disk.open(id).await?;
                self.add_sealed(header, file, tail, seal);
                Ok(())
            }
            Content::Open(log) if len == tail.file_len => {
                let file = self.disk.open(id).await?;
                let is_whole = !log.has_rot;
                self.add_open(header, is_whole, file, tail, log);
                Ok(())
            }
            Content::Open(log) => {
                self.census.space.file_bytes += len - tail.file_len;
                let begun = Begun {
                    file: self.open_durably(id).await?,
                    is_whole: !log.has_rot,
                    header,
                    len,
                    tail,
                    log,
                };
                self.read_on(begun).await
            }
        }
    }

    /// Judges the records, and puts together what was found.
    async fn finish(
        mut self,
        next_blob: u64,
        checkpoints: Checkpoints<D::File>,
    ) -> Result<Recovered<D::File>, OpenError> {
        self.census.settle(self.disk, &self.blobs).await?;
        for (blob, tally) in self.blobs.iter().zip(&self.census.tallies) {
            blob.tally.set(*tally);
        }
        let satellites = self.blobs.last().map(|blob| blob.header.satellites.clone());
        self.report.pieces = self.census.index.len() as u64;
        self.report.trashed = self.census.trash.len() as u64;
        self.report.tombstones = self.census.tombstones;
        self.report.records_read = self.census.accepted;
        Ok(Recovered {
            index: self.census.index,
            dead: self.census.dead,
            trash: self.census.trash,
            blobs: self.blobs,
            open_blobs: self.open_blobs,
            satellites: satellites.unwrap_or_default(),
            next_blob,
            next_sequence: if bug::is_planted(Bug::SequenceRestarts) {
                1
            } else {
                self.census.next_sequence
            },
            poison: Poison::default(),
            fingerprinter: self.census.fingerprinter,
            checkpoints,
            replay_cost: self.replay_cost + self.census.accepted,
            has_unreadable_blocks: self.has_unreadable_blocks,
            doubted: if self.has_unreadable_blocks {
                Doubted::new(true)
            } else {
                self.census.doubted
            },
            space: self.census.space,
            report: self.report,
        })
    }

    /// Reads a blob of which nothing is known.
    async fn read_file(&mut self, id: BlobId, len: u64) -> Result<(), OpenError> {
        self.census.space.file_bytes += len;
        let file = self.open_durably(id).await?;
        let Some((header, is_whole)) = self.read_header(&file, id, len).await? else {
            return Ok(());
        };
        self.census.tallies.push(BlobTally::default());
        let begun = Begun {
            header,
            is_whole,
            file,
            len,
            tail: Tail::new(),
            log: BlobLog::default(),
        };
        self.read_on(begun).await
    }

    /// Opens a file, and makes durable what will be read.
    async fn open_durably(&mut self, id: BlobId) -> Result<D::File, OpenError> {
        let file = self.disk.open(id).await?;
        //= docs/format.md#record
        if !bug::is_planted(Bug::OpeningDoesNotSync)
            && let Err(error) = self.disk.sync(&file).await
        {
            self.poison.set(id, WriteOperation::Sync, error);
        }
        Ok(file)
    }

    /// Reads what a blob holds beyond what is known of it.
    async fn read_on(&mut self, begun: Begun<D::File>) -> Result<(), OpenError> {
        self.replay_cost += BLOB_COST;
        let footer = read_footer(self.disk, &begun.file, begun.len, &begun.header).await;
        if let Some(footer) = footer {
            return self.take_footer(begun, &footer);
        }
        let Begun {
            header,
            is_whole,
            file,
            len,
            tail,
            mut log,
        } = begun;
        let before = (
            self.report.groups,
            self.census.space.skipped_bytes,
            self.report.rotten.len(),
        );
        // Up to where the next group goes nothing was ever written.
        self.census.space.skipped_bytes += len.min(tail.append_at).saturating_sub(tail.file_len);
        let slot = self.blobs.len() as u32;
        let satellite_count = header.satellites.len();
        let scan = BlobScan {
            scanner: Scanner::new(
                self.disk,
                &file,
                header.blob,
                header.salt,
                satellite_count,
                len,
            ),
            opening: self,
            slot,
            header: &header,
            end: tail.append_at,
            base_number: tail.last_number,
            entries: Vec::new(),
        };
        let (tail, entries) = scan.run(tail).await;
        log.entries.extend(entries);
        log.group_count += (self.report.groups - before.0) as u32;
        log.skipped_bytes += self.census.space.skipped_bytes - before.1;
        log.has_rot |= !is_whole || self.report.rotten.len() > before.2;
        self.add_open(header, is_whole, file, tail, log);
        Ok(())
    }

    /// Takes a sealed blob's word for what is in it.
    fn take_footer(&mut self, begun: Begun<D::File>, footer: &Footer) -> Result<(), OpenError> {
        let Begun {
            header,
            file,
            len,
            tail: before,
            log,
            ..
        } = begun;
        let blob = header.blob;
        let is_known = |entry: &FooterEntry| entry.offset < before.append_at;
        let (known, new) = footer
            .entries
            .split_at(footer.entries.partition_point(is_known));
        let group_count = footer.group_count.checked_sub(log.group_count);
        let skipped_bytes = footer.skipped_bytes.checked_sub(log.skipped_bytes);
        let (Some(group_count), Some(skipped_bytes)) = (group_count, skipped_bytes) else {
            return Err(OpenError::Unsteady { blob });
        };
        if known.len() != log.entries.len() {
            return Err(OpenError::Unsteady { blob });
        }
        let slot = self.blobs.len() as u32;
        let mut record_bytes = 0;
        for FooterEntry { offset, record } in new {
            let place = Place {
                slot,
                offset: *offset,
            };
            self.census.accept(&header, place, record);
            record_bytes += record.record_len();
        }
        self.report.groups += u64::from(group_count);
        let header_bytes = u64::from(group_count) * GROUP_HEADER_BYTES as u64;
        let used_bytes = record_bytes + header_bytes + skipped_bytes;
        let space = &mut self.census.space;
        space.overhead_bytes += header_bytes;
        space.skipped_bytes += skipped_bytes;
        space.padding_bytes += footer
            .offset
            .saturating_sub(before.file_len)
            .saturating_sub(used_bytes);
        space.header_bytes += len - footer.offset;
        let tail = Tail {
            append_at: len,
            file_len: len,
            last_number: footer.last_number,
            last_full_number: footer.last_number,
            synced_number: footer.last_number,
            attested_number: footer.last_number,
        };
        self.add_sealed(header, file, tail, Seal::of(footer));
        Ok(())
    }

    fn add_sealed(&mut self, header: BlobHeader, file: D::File, tail: Tail, seal: Seal) {
        self.report.sealed_blobs += 1;
        self.add(header, file, tail, Content::Sealed(seal));
    }

    fn add_open(
        &mut self,
        header: BlobHeader,
        is_whole: bool,
        file: D::File,
        tail: Tail,
        log: BlobLog,
    ) {
        let class = header.class.index();
        let has_places = log.entries.len() < self.options.blob_records_max as usize;
        let blob = self.add(header, file, tail, Content::Open(log));
        // The newest blobs of a class go on growing, if their headers are whole and they have room for more than a block.
        let has_room =
            tail.append_at + BLOCK_BYTES as u64 + blob.footer_len(1) <= self.options.blob_bytes_max;
        if is_whole && has_room && has_places {
            self.open_blobs[class].rotate_right(1);
            self.open_blobs[class][0] = Some(blob);
        }
    }

    fn add(
        &mut self,
        header: BlobHeader,
        file: D::File,
        tail: Tail,
        content: Content,
    ) -> Rc<Blob<D::File>> {
        self.report.blobs += 1;
        let slot = self.blobs.len() as u32;
        let blob = Rc::new(Blob::new(slot, header, file, tail, content));
        self.blobs.push(Rc::clone(&blob));
        blob
    }

    /// Reads both copies of the header. `None`: nothing in this file can be read; the reason is in the report.
    async fn read_header(
        &mut self,
        file: &D::File,
        id: BlobId,
        len: u64,
    ) -> Result<Option<(BlobHeader, bool)>, OpenError> {
        let mut found = None;
        let mut bad_offset = None;
        let mut read_error: Option<DiskError> = None;
        for offset in [0, BLOCK_BYTES as u64] {
            let parsed = match scan::read_block(self.disk, file, offset).await {
                Ok(block) => BlobHeader::parse(&block),
                Err(error) => {
                    self.has_unreadable_blocks = true;
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
            && let Some(end) = footer_end(self.disk, file, id, len).await
            && let Ok(block) = scan::read_block(self.disk, file, end.header_offset()).await
        {
            found = BlobHeader::parse(&block)
                .ok()
                .filter(|header| header.blob == id);
        }
        let Some(header) = found else {
            if let Some(error) = read_error {
                return Err(error.into());
            }
            self.census.space.skipped_bytes += len;
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
        if header.node_id != self.options.node_id {
            return Err(OpenError::ForeignBlob { blob: id });
        }
        self.census.space.header_bytes += len.min(BLOB_HEADER_BYTES);
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
}
