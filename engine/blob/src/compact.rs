//! Compaction: what is worth keeping of a sealed blob moves to the end of the log, and the blob goes.
//!
//! * A blob without anything worth keeping goes first, then the one with the least, if that is little enough: less than 60 % while the
//!   disk is busy, more while it is quiet and much is dead, or while room runs out ([`Traffic`]).
//! * A piece moves as it is, sequence included, through the ordinary group commit; its old record is forgotten only once the new one is
//!   durable. A crash in between leaves the record twice, which an opening takes for once.
//! * A record that fails a check is reported and not moved.
//! * A tombstone moves for as long as a record that it outranks lies in another blob; where records may lie that nobody could read, always.
//!
//! The owner calls [`Store::compact`] when the disk has time for it. One blob a call; dropping the call is safe at any point.

use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;

use bytes::Bytes;

use crate::blobs::Blob;
use crate::commit::{Item, Replaced, Work};
use crate::disk::Disk;
use crate::error::PutError;
use crate::footer::{Footer, FooterEntry};
use crate::index::{Entry, Place};
use crate::layout::{
    self, BLOB_HEADER_BYTES, GROUP_HEADER_BYTES, RECORD_HEADER_BYTES, SHARE_BYTES,
};
use crate::poison::WriteOperation;
use crate::record::{Found, Kind, RecordHeader, Trailer};
use crate::recover;
use crate::store::{COMMIT_OVERHEAD_BYTES, Store};
use crate::wait::{Receiver, oneshot};

/// Bytes read at once where records are small.
const WINDOW_BYTES: u64 = 1 << 20;

/// Bytes and records on the move at a time: as many reads go on while a group is written. Half a group, so that those who wait
/// for their own piece share it.
const MOVING_BYTES_MAX: u64 = 2 << 20;
const MOVES_MAX: usize = 256;

/// Percent of a blob that may be worth keeping when room runs out: compaction is all that can make some.
const PRESSED_LIVE_PERCENT_MAX: u8 = 90;

/// Room runs out when less than this part of the capacity is left.
const PRESSED_ROOM_PART: u64 = 16;

/// A quiet disk is tidied until less than this part of all bodies is dead.
const QUIET_DEAD_PART: u64 = 32;

/// What the disk has to do besides compaction. Who compacts late moves less, but leaves more of the disk to the dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Traffic {
    /// Pieces come in: only blobs of which little is worth keeping are compacted.
    Busy,
    /// Next to nothing comes in: compaction goes on until little is dead.
    Quiet,
}

/// What one call of [`Store::compact`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Compaction {
    /// Bytes of the file that was removed.
    pub removed_bytes: u64,
    /// Pieces that were moved.
    pub moved_pieces: u64,
    /// Bodies of these pieces.
    pub moved_bytes: u64,
    /// Tombstones that were still needed.
    pub moved_tombstones: u64,
    /// Pieces that had expired.
    pub expired_pieces: u64,
    /// Pieces that failed a check: satellite and piece id. The satellite should hear of them.
    pub lost: Vec<([u8; 32], [u8; 32])>,
}

/// Bytes of the blob that were read last.
struct Window {
    start: u64,
    bytes: Bytes,
}

impl<D: Disk> Store<D> {
    /// Compacts the blob that needs it most; `None` if none does, or while another call is at it.
    ///
    /// `now_s` is the satellite's time, seconds since 1970: pieces that have expired by it are dropped.
    ///
    /// # Errors
    ///
    /// [`PutError::Full`] if what has to be moved finds no room; [`PutError::ReadOnly`]; [`PutError::Closed`]; a failed read.
    pub async fn compact(&self, now_s: u32) -> Result<Option<Compaction>, PutError> {
        self.compact_in(Traffic::Busy, now_s).await
    }

    /// [`compact`](Self::compact), which is meant for a busy disk, by what there is to do besides.
    ///
    /// # Errors
    ///
    /// As for [`compact`](Self::compact).
    pub async fn compact_in(
        &self,
        traffic: Traffic,
        now_s: u32,
    ) -> Result<Option<Compaction>, PutError> {
        self.check_open()?;
        if self.is_compacting.replace(true) {
            return Ok(None);
        }
        let _turn = Turn(&self.is_compacting);
        let Some(blob) = self.pick(traffic, now_s) else {
            return Ok(None);
        };
        let tail = blob.tail.get();
        let footer =
            recover::read_footer(&self.disk, &blob.file, tail.file_len, &blob.header).await;
        let Some(footer) = footer else {
            // It was good when the blob was opened or sealed. The next opening reads the blob whole and reports.
            blob.give_up_compacting();
            return Ok(Some(Compaction::default()));
        };
        let mut done = Compaction::default();
        let mut window = None;
        let mut moves = Moves::default();
        for entry in &footer.entries {
            let moved = if entry.record.kind == Kind::Piece {
                self.move_piece(&blob, entry, now_s, &footer, &mut window, &mut done)
                    .await?
            } else {
                self.move_tombstone(&blob, entry, &mut done).await?
            };
            if let Some(answer) = moved {
                moves.push(answer, entry.record.record_len());
            }
            moves.settle_until(MOVING_BYTES_MAX, MOVES_MAX).await?;
        }
        moves.settle_until(0, 0).await?;
        self.remove(&blob, &footer, &mut done).await?;
        Ok(Some(done))
    }

    /// Whether so little room is left that compaction should not rest.
    #[must_use]
    pub fn is_short_of_room(&self) -> bool {
        self.space().free_bytes() < self.options.capacity_bytes / PRESSED_ROOM_PART
    }

    /// How much of a blob may be worth keeping if it is to be compacted now, in percent.
    ///
    /// With uniform deletes and one bound of p for all times, 1 / (1 - p) bytes are written for each that is put, and
    /// 1 - (1 - p) / ln(1 / p) of all bodies are dead: 2.5 and 22 % at 60, 4 and 13 % at 75. Two bounds are better than any
    /// one: what has stayed dead until the disk is quiet is dead in blobs that have lost more.
    fn live_percent_max(&self, traffic: Traffic) -> u8 {
        let space = self.space();
        let usual = self.options.compact_live_percent_max;
        if self.is_short_of_room() {
            return usual.max(PRESSED_LIVE_PERCENT_MAX);
        }
        let is_much_dead =
            space.dead_bytes > (space.live_bytes + space.dead_bytes) / QUIET_DEAD_PART;
        if traffic == Traffic::Quiet && is_much_dead {
            return usual.max(self.options.quiet_live_percent_max);
        }
        usual
    }

    /// The sealed blob of which least is worth keeping, if that is little enough and there is room for it.
    fn pick(&self, traffic: Traffic, now_s: u32) -> Option<Rc<Blob<D::File>>> {
        let blobs = self.blobs.borrow();
        let sealed = blobs
            .iter()
            .flatten()
            .filter(|blob| blob.log.borrow().is_none());
        let tombstone_len = layout::round_to_step(RECORD_HEADER_BYTES as u64);
        let worth = |blob: &&Rc<Blob<D::File>>| {
            let tally = blob.tally.get();
            let is_expired = tally.expiry_s < now_s;
            let live_bytes = if is_expired { 0 } else { tally.live_bytes };
            live_bytes + u64::from(tally.tombstone_count) * tombstone_len
        };
        // Only dead bodies count as a gain: a blob of tombstones would be written again and again.
        let percent_max = u64::from(self.live_percent_max(traffic));
        let is_little = |blob: &&Rc<Blob<D::File>>| {
            let tally = blob.tally.get();
            let all_bytes = tally.piece_bytes + u64::from(tally.tombstone_count) * tombstone_len;
            !blob.is_given_up.get()
                && worth(blob) < all_bytes
                && worth(blob) * 100 <= all_bytes * percent_max
        };
        let picked = sealed.filter(is_little).min_by_key(worth)?;
        let needed = worth(&picked) + worth(&picked) / 8 + COMMIT_OVERHEAD_BYTES;
        let has_room = self.disk.free_bytes().is_ok_and(|free| free > needed);
        has_room.then(|| Rc::clone(picked))
    }

    /// Queues a piece's record to be moved. `None`: there is nothing to move.
    async fn move_piece(
        &self,
        blob: &Blob<D::File>,
        entry: &FooterEntry,
        now_s: u32,
        footer: &Footer,
        window: &mut Option<Window>,
        done: &mut Compaction,
    ) -> Result<Option<Moving>, PutError> {
        let record = &entry.record;
        let satellite = blob.header.satellites[usize::from(record.satellite_slot)];
        let fingerprint = self.fingerprinter.of(&satellite, &record.id);
        let place = Place {
            slot: blob.slot,
            offset: entry.offset,
        };
        let old = Entry::new(place, record.record_len());
        let is_live = || self.index.borrow().candidates(fingerprint).contains(&old);
        if !is_live() {
            return Ok(None);
        }
        let guard = self.locks.lock(fingerprint).await;
        if !is_live() {
            return Ok(None);
        }
        let body_len = u64::from(record.body_len);
        if record.expiry_s != 0 && record.expiry_s < now_s {
            self.forget(blob, fingerprint, old, body_len).await;
            done.expired_pieces += 1;
            return Ok(None);
        }
        let bytes = self.record_bytes(blob, entry, footer, window).await?;
        if !is_whole(&bytes, blob, entry) {
            self.forget(blob, fingerprint, old, body_len).await;
            self.count(|counters| counters.pieces_lost += 1);
            done.lost.push((satellite, record.id));
            return Ok(None);
        }
        self.check_open()?;
        let reserved_bytes = layout::round_to_step(record.record_len()) + COMMIT_OVERHEAD_BYTES;
        self.reserve_any(reserved_bytes);
        let (sender, answer) = oneshot();
        self.enqueue(Item {
            fingerprint,
            satellite,
            class: blob.class,
            work: Work::Move {
                record: *record,
                rest: bytes.slice(RECORD_HEADER_BYTES..),
            },
            replaced: vec![Replaced {
                entry: old,
                body_len,
            }],
            reserved_bytes,
            done: sender,
            guard,
        });
        done.moved_pieces += 1;
        done.moved_bytes += body_len;
        Ok(Some(answer))
    }

    /// Queues a tombstone to be moved, unless nothing is left that it outranks.
    async fn move_tombstone(
        &self,
        blob: &Blob<D::File>,
        entry: &FooterEntry,
        done: &mut Compaction,
    ) -> Result<Option<Moving>, PutError> {
        let record = &entry.record;
        let satellite = blob.header.satellites[usize::from(record.satellite_slot)];
        let fingerprint = self.fingerprinter.of(&satellite, &record.id);
        let may_lie_unseen = self.has_rot || self.has_failed_writes.get();
        let is_needed = may_lie_unseen
            || self
                .dead
                .borrow()
                .candidates(fingerprint)
                .iter()
                .any(|dead| dead.place().slot != blob.slot);
        if !is_needed {
            return Ok(None);
        }
        let guard = self.locks.lock(fingerprint).await;
        self.check_open()?;
        let reserved_bytes =
            layout::round_to_step(RECORD_HEADER_BYTES as u64) + COMMIT_OVERHEAD_BYTES;
        self.reserve_any(reserved_bytes);
        let (sender, answer) = oneshot();
        self.enqueue(Item {
            fingerprint,
            satellite,
            class: blob.class,
            work: Work::Move {
                record: *record,
                rest: Bytes::new(),
            },
            replaced: Vec::new(),
            reserved_bytes,
            done: sender,
            guard,
        });
        done.moved_tombstones += 1;
        Ok(Some(answer))
    }

    /// Takes a piece that will not move out of the index.
    async fn forget(&self, blob: &Blob<D::File>, fingerprint: u64, entry: Entry, body_len: u64) {
        let _still = self.hold_still().await;
        self.add_replay_cost(1);
        if self.index.borrow_mut().remove(fingerprint, entry) {
            self.dead.borrow_mut().insert(fingerprint, entry);
            blob.count_dead(body_len);
            self.account(|space| {
                space.live_bytes -= body_len;
                space.dead_bytes += body_len;
            });
        }
    }

    /// The bytes of a record, fewer if the file is shorter; small records are read many at once.
    async fn record_bytes(
        &self,
        blob: &Blob<D::File>,
        entry: &FooterEntry,
        footer: &Footer,
        window: &mut Option<Window>,
    ) -> Result<Bytes, PutError> {
        let (start, len) = (entry.offset, entry.record.record_len());
        if let Some(held) = window.as_ref()
            && start >= held.start
            && start + len <= held.start + held.bytes.len() as u64
        {
            let from = (start - held.start) as usize;
            return Ok(held.bytes.slice(from..from + len as usize));
        }
        let read_len = len.max(WINDOW_BYTES.min(footer.offset - start));
        let bytes = self.read_span(blob, start, read_len).await?.into_bytes();
        let record = bytes.slice(..bytes.len().min(len as usize));
        *window = Some(Window { start, bytes });
        Ok(record)
    }

    /// Removes a blob from which everything was moved.
    async fn remove(
        &self,
        blob: &Blob<D::File>,
        footer: &Footer,
        done: &mut Compaction,
    ) -> Result<(), PutError> {
        let tally = blob.tally.get();
        assert_eq!(
            (tally.live_count, tally.live_bytes),
            (0, 0),
            "a piece of {} was not moved",
            blob.id
        );
        let _still = self.hold_still().await;
        if let Err(error) = self.note_removal(blob.id).await {
            return Err(self.write_failed(blob.id, WriteOperation::Remove, error));
        }
        self.add_replay_cost(1);
        if let Err(error) = self.disk.remove(blob.id).await {
            blob.give_up_compacting();
            return Err(self.write_failed(blob.id, WriteOperation::Remove, error));
        }
        self.blobs.borrow_mut()[blob.slot as usize] = None;
        let (mut body_bytes, mut record_bytes) = (0, 0);
        for FooterEntry { offset, record } in &footer.entries {
            record_bytes += record.record_len();
            body_bytes += u64::from(record.body_len);
            if record.kind == Kind::Piece {
                let satellite = &blob.header.satellites[usize::from(record.satellite_slot)];
                let place = Place {
                    slot: blob.slot,
                    offset: *offset,
                };
                let entry = Entry::new(place, record.record_len());
                let fingerprint = self.fingerprinter.of(satellite, &record.id);
                self.dead.borrow_mut().remove(fingerprint, entry);
            }
        }
        let file_len = blob.tail.get().file_len;
        let group_bytes = u64::from(footer.group_count) * GROUP_HEADER_BYTES as u64;
        let used_bytes = record_bytes + group_bytes + footer.skipped_bytes;
        self.account(|space| {
            space.file_bytes -= file_len;
            space.dead_bytes -= body_bytes;
            space.overhead_bytes -= record_bytes - body_bytes + group_bytes;
            space.padding_bytes -= (footer.offset - BLOB_HEADER_BYTES).saturating_sub(used_bytes);
            space.skipped_bytes -= footer.skipped_bytes;
            space.header_bytes -= BLOB_HEADER_BYTES + (file_len - footer.offset);
        });
        self.count(|counters| {
            counters.blobs_removed += 1;
            counters.removed_bytes += file_len;
        });
        done.removed_bytes = file_len;
        Ok(())
    }
}

/// Lets the next call begin when this one ends, whichever way it ends.
struct Turn<'a>(&'a Cell<bool>);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

type Moving = Receiver<Result<(), PutError>>;

/// Records whose commits are not known yet, oldest first.
#[derive(Default)]
struct Moves {
    answers: VecDeque<(Moving, u64)>,
    bytes: u64,
}

impl Moves {
    fn push(&mut self, answer: Moving, bytes: u64) {
        self.answers.push_back((answer, bytes));
        self.bytes += bytes;
    }

    /// Waits until no more than so many bytes and records are on the move.
    async fn settle_until(&mut self, bytes_max: u64, count_max: usize) -> Result<(), PutError> {
        while self.bytes > bytes_max || self.answers.len() > count_max {
            let Some((answer, bytes)) = self.answers.pop_front() else {
                break;
            };
            self.bytes -= bytes;
            answer.receive().await.unwrap_or(Err(PutError::Closed))?;
        }
        Ok(())
    }
}

/// Whether a record is what the footer says, and every check of it holds.
fn is_whole<F>(bytes: &[u8], blob: &Blob<F>, entry: &FooterEntry) -> bool {
    let record = &entry.record;
    if bytes.len() as u64 != record.record_len() {
        return false;
    }
    let header = RecordHeader::parse(bytes, &blob.check, blob.id, entry.offset);
    if header != Some(Found::Record(*record)) {
        return false;
    }
    let (body, trailer) = bytes[RECORD_HEADER_BYTES..].split_at(record.body_len as usize);
    let body_len = u64::from(record.body_len);
    let Some(trailer) = Trailer::parse(trailer, body_len, usize::from(record.path_len)) else {
        return false;
    };
    let mut shares = body.chunks(SHARE_BYTES).zip(&trailer.crcs);
    shares.all(|(share, crc)| crc32fast::hash(share) == *crc)
}
