//! Scrubbing: reading what is stored before somebody needs it, and taking what is damaged out of service.
//!
//! Blobs are read in the order of their ids and places, in long sequential reads. Each record must be what footer or list say, at its
//! place, with its header's check, its trailer's CRC, the CRC of every share and the root over all of them; the chaining values of the shares
//! are guarded by the trailer's CRC alone. What fails is read once more before it is believed. Damage to what nobody would read is counted
//! and no loss. The caller keeps the cursor and decides when the next step comes; nothing is written.
//!
//! A record whose own read fails is damaged if the disk reads a header of this blob or of another one at that time. Else it is the disk that
//! is out of order: the blob is called unreadable, its pieces stay in service, and the cursor goes on behind it.

use std::rc::Rc;

use crate::blobs::Blob;
use crate::bug::{self, Bug};
use crate::compact::check_record;
use crate::disk::{Disk, DiskError};
use crate::error::Damage;
use crate::footer::FooterEntry;
use crate::header::BlobHeader;
use crate::layout::{BLOB_HEADER_BYTES, BLOCK_BYTES, BlobId};
use crate::record::Kind;
use crate::scan;
use crate::store::Store;
use crate::wait;

/// Bytes read at once, but for a record that is longer.
const RUN_BYTES_MAX: u64 = 1 << 20;

/// Records that cannot be read in one step: a disk may try each of them for seconds.
const UNREADABLE_RECORDS_MAX: u32 = 16;

/// Where a scrub goes on. Good for as long as the store's directory is, over restarts too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ScrubCursor {
    /// The blob, or if it is gone the next one.
    pub blob: BlobId,
    /// The first record at or after this offset.
    pub offset: u64,
}

impl Default for ScrubCursor {
    /// The beginning of the first blob.
    fn default() -> Self {
        Self {
            blob: BlobId(0),
            offset: 0,
        }
    }
}

/// A piece that was found damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LostPiece {
    /// Node id of the satellite.
    pub satellite: [u8; 32],
    /// Piece id.
    pub id: [u8; 32],
    /// What failed its check first.
    pub damage: Damage,
}

/// What one step of a scrub did.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ScrubStep {
    /// What was read.
    pub blob: BlobId,
    /// Where to go on.
    pub next: ScrubCursor,
    /// Bytes read.
    pub bytes_read: u64,
    /// Records checked.
    pub records: u64,
    /// Records that failed, pieces that nobody would read included.
    pub damaged_records: u64,
    /// Copies of blob headers, and footers, that failed. The store does without.
    pub damaged_headers: u64,
    /// Pieces that are out of service since this step.
    pub lost: Vec<LostPiece>,
    /// The disk reads nothing of the blob, nor of others: its answer. What was not checked stays in service, and the scrub goes on with the
    /// next blob. A caller that sees this again and again should let the disk rest.
    pub unreadable: Option<DiskError>,
}

/// How far a run of records was checked.
enum Ran {
    /// To its end.
    Whole,
    /// So many records of it, because too many of them could not be read.
    Part(usize),
    /// The blob was removed meanwhile.
    Gone,
}

impl<D: Disk> Store<D> {
    /// The beginning of one of the blobs, which `random` chooses: where to begin if nobody knows how far the last scrub came.
    #[must_use]
    pub fn scrub_cursor(&self, random: u64) -> ScrubCursor {
        let blobs = self.blobs.borrow();
        let count = blobs.iter().flatten().count() as u64;
        let nth = random.checked_rem(count).unwrap_or_default();
        let blob = blobs.iter().flatten().nth(nth as usize);
        ScrubCursor {
            blob: blob.map_or(BlobId(0), |blob| blob.id),
            offset: 0,
        }
    }

    /// Checks the records from the cursor on, in one blob at most; `None` once there is no further blob.
    ///
    /// Reads at most `bytes_max` bytes of records, but always one record; a step that begins a blob also reads its two header blocks, and one
    /// of a sealed blob its footer, which is kept for the next step. Runs beside everything else; dropping it is safe. Every step gets on,
    /// whatever the disk does.
    pub async fn scrub_step(&self, cursor: ScrubCursor, bytes_max: u64) -> Option<ScrubStep> {
        self.push_revivals();
        let Some(blob) = self.blob_from(cursor.blob) else {
            self.scrubbed.borrow_mut().take();
            return None;
        };
        let offset = if blob.id == cursor.blob {
            cursor.offset
        } else {
            0
        };
        let mut step = ScrubStep {
            blob: blob.id,
            next: ScrubCursor {
                blob: BlobId(blob.id.0 + 1),
                offset: 0,
            },
            bytes_read: 0,
            records: 0,
            damaged_records: 0,
            damaged_headers: 0,
            lost: Vec::new(),
            unreadable: None,
        };
        // A blob without a group may be one whose creation a crash cut short.
        if offset == 0 && blob.tail.get().file_len > BLOB_HEADER_BYTES {
            step.damaged_headers += self.bad_header_copies(&blob).await;
            step.bytes_read += 2 * BLOCK_BYTES as u64;
        }
        let Some(entries) = self.scrub_list(&blob).await else {
            // Removed meanwhile, or it lost its footer; the next opening reads it whole.
            if self.is_there(&blob) {
                step.damaged_headers += 1;
                step.unreadable = self.header_error(&blob).await;
            }
            return Some(step);
        };
        let go_on_at = |offset| ScrubCursor {
            blob: blob.id,
            offset,
        };
        let mut at = entries.partition_point(|entry| entry.offset < offset);
        let mut bytes_left = bytes_max;
        while at < entries.len() {
            let run = run_of(&entries[at..], bytes_left.min(RUN_BYTES_MAX));
            let run_bytes = end_of(&run[run.len() - 1]) - run[0].offset;
            if step.records > 0 && run_bytes > bytes_left {
                step.next = go_on_at(run[0].offset);
                break;
            }
            match self.scrub_run(&blob, run, &mut step).await {
                Ok(Ran::Whole) => at += run.len(),
                Ok(Ran::Part(count)) => {
                    if let Some(entry) = entries.get(at + count) {
                        step.next = go_on_at(entry.offset);
                    }
                    break;
                }
                Ok(Ran::Gone) => break,
                Err(error) => {
                    step.unreadable = Some(error);
                    break;
                }
            }
            bytes_left = bytes_left.saturating_sub(run_bytes);
            wait::yield_now().await;
        }
        Some(step)
    }

    /// Checks neighbouring records with one read, and those that fail with one each.
    ///
    /// # Errors
    ///
    /// If a record cannot be read and the disk reads nothing else either.
    async fn scrub_run(
        &self,
        blob: &Blob<D::File>,
        run: &[FooterEntry],
        step: &mut ScrubStep,
    ) -> Result<Ran, DiskError> {
        let start = run[0].offset;
        let len = end_of(&run[run.len() - 1]) - start;
        let span = self.read_span(blob, start, len).await;
        step.bytes_read += len;
        let mut unreadable_count = 0;
        for (index, entry) in run.iter().enumerate() {
            let from = (entry.offset - start) as usize;
            let is_good = span.as_ref().is_ok_and(|span| {
                let record = span.bytes().get(from..).unwrap_or_default();
                let len = record.len().min(entry.record.record_len() as usize);
                match check_record(&record[..len], blob, entry) {
                    Err(Damage::Share(_) | Damage::Root) => bug::is_planted(Bug::ScrubSkipsBodies),
                    checked => checked.is_ok(),
                }
            });
            if is_good {
                step.records += 1;
                continue;
            }
            if !self.is_there(blob) {
                return Ok(Ran::Gone);
            }
            let checked = self.check_again(blob, entry).await;
            if !self.is_there(blob) {
                return Ok(Ran::Gone);
            }
            step.records += 1;
            if let Err(damage) = checked? {
                self.found_damage(blob, entry, damage, step).await;
                unreadable_count += u32::from(damage == Damage::Unreadable);
                if unreadable_count == UNREADABLE_RECORDS_MAX {
                    return Ok(Ran::Part(index + 1));
                }
            }
        }
        Ok(Ran::Whole)
    }

    /// Reads one record on its own.
    async fn check_again(
        &self,
        blob: &Blob<D::File>,
        entry: &FooterEntry,
    ) -> Result<Result<(), Damage>, DiskError> {
        let len = entry.record.record_len();
        match self.read_span(blob, entry.offset, len).await {
            Ok(span) => Ok(check_record(span.bytes(), blob, entry)),
            Err(_) if self.reads_something(blob).await => Ok(Err(Damage::Unreadable)),
            Err(error) => Err(error),
        }
    }

    /// Whether the disk reads a header of this blob, or of the first or last of the others.
    async fn reads_something(&self, blob: &Blob<D::File>) -> bool {
        if self.header_error(blob).await.is_none() {
            return true;
        }
        let others = {
            let blobs = self.blobs.borrow();
            let mut others = blobs
                .iter()
                .flatten()
                .filter(|other| other.slot != blob.slot);
            [others.next().cloned(), others.next_back().cloned()]
        };
        for other in others.into_iter().flatten() {
            if self.header_error(&other).await.is_none() {
                return true;
            }
        }
        false
    }

    /// Why the disk reads neither header block of a blob; `None` if it reads one.
    async fn header_error(&self, blob: &Blob<D::File>) -> Option<DiskError> {
        let mut failed = None;
        for offset in HEADER_OFFSETS {
            match scan::read_block(&self.disk, &blob.file, offset).await {
                Ok(_) => return None,
                Err(error) => failed = Some(error),
            }
        }
        failed
    }

    async fn found_damage(
        &self,
        blob: &Blob<D::File>,
        entry: &FooterEntry,
        damage: Damage,
        step: &mut ScrubStep,
    ) {
        step.damaged_records += 1;
        if entry.record.kind != Kind::Piece {
            // Footer or list still say what it said, and compaction writes that anew.
            return;
        }
        let (satellite, id) = (blob.satellite_of(&entry.record), entry.record.id);
        let fingerprint = self.fingerprinter.of(&satellite, &id);
        let _guard = self.locks.lock(fingerprint).await;
        if self.lose(fingerprint, (satellite, id), &blob.known(entry), damage) {
            step.lost.push(LostPiece {
                satellite,
                id,
                damage,
            });
        }
    }

    /// The first blob with this id or a higher one.
    fn blob_from(&self, id: BlobId) -> Option<Rc<Blob<D::File>>> {
        let blobs = self.blobs.borrow();
        let from = blobs.iter().flatten().find(|blob| blob.id >= id);
        from.cloned()
    }

    fn is_there(&self, blob: &Blob<D::File>) -> bool {
        self.blobs.borrow()[blob.slot as usize].is_some()
    }

    /// The records of a blob; those of a sealed one are kept for the next step.
    async fn scrub_list(&self, blob: &Blob<D::File>) -> Option<Rc<Vec<FooterEntry>>> {
        if let Some((id, entries)) = &*self.scrubbed.borrow()
            && *id == blob.id
        {
            return Some(Rc::clone(entries));
        }
        let is_sealed = blob.log.borrow().is_none();
        let entries = Rc::new(self.records_of(blob).await?);
        if is_sealed {
            *self.scrubbed.borrow_mut() = Some((blob.id, Rc::clone(&entries)));
        }
        Some(entries)
    }

    /// Header blocks that are not what they should be, or cannot be read. None of a blob that was removed meanwhile.
    async fn bad_header_copies(&self, blob: &Blob<D::File>) -> u64 {
        let mut bad = 0;
        for offset in HEADER_OFFSETS {
            let block = scan::read_block(&self.disk, &blob.file, offset).await;
            let is_good = block.is_ok_and(|block| {
                let header = BlobHeader::parse(&block);
                header.as_ref() == Ok(&blob.header)
            });
            bad += u64::from(!is_good);
        }
        if self.is_there(blob) { bad } else { 0 }
    }
}

/// Where the copies of a blob header lie.
const HEADER_OFFSETS: [u64; 2] = [0, BLOCK_BYTES as u64];

/// As many of the first entries as lie within so many bytes, at least one.
fn run_of(entries: &[FooterEntry], bytes_max: u64) -> &[FooterEntry] {
    let start = entries[0].offset;
    let fitting = entries.partition_point(|entry| end_of(entry) - start <= bytes_max);
    &entries[..fitting.max(1)]
}

fn end_of(entry: &FooterEntry) -> u64 {
    entry.offset + entry.record.record_len()
}
