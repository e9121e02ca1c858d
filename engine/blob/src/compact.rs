//! Compaction: what is worth keeping of a sealed blob moves to the end of the log, and the blob goes.
//!
//! * A blob without anything worth keeping goes first, then the one with the least, if that is little enough: less than 60 % while the
//!   disk is busy, more while it is quiet and much is dead, or while room runs out ([`Traffic`]).
//! * A piece moves as it is, sequence included, through the ordinary group commit; its old record is forgotten only once the new one is
//!   durable. A crash in between leaves the record twice, which an opening takes for once.
//! * A record that fails a check is reported and not moved.
//! * Pieces whose 7 days in the trash are over stay behind, younger ones move. A tombstone, trash or restore record moves for as long as
//!   somebody would be wrong without it (`is_needed`); where records may lie that nobody could read, always.
//!
//! The owner calls [`Store::compact`] when the disk has time for it. One blob a call; dropping the call is safe at any point.

use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;

use bytes::Bytes;

use crate::ahead::Ahead;
use crate::blobs::{Blob, MARK_BYTES, Survey};
use crate::bug::{self, Bug};
use crate::disk::Disk;
use crate::error::{Damage, PutError};
use crate::footer::{Footer, FooterEntry};
use crate::header::ExpiryClass;
use crate::layout::{RECORD_HEADER_BYTES, SHARE_BYTES};
use crate::marks::{self, Answer, Mark, Order};
use crate::outranked::Outranked;
use crate::queue::Work;
use crate::record::{Found, Kind, RecordHeader, Trailer};
use crate::recover;
use crate::room::COMMIT_OVERHEAD_BYTES;
use crate::states::{self, Known, State};
use crate::store::Store;
use crate::wait::KeyGuard;

/// Bytes and records on the move at a time: as many reads go on while a group is written. Half a group, so that those who wait
/// for their own piece share it.
const MOVING_BYTES_MAX: u64 = 2 << 20;
const MOVES_MAX: usize = 256;

/// Blobs whose marks are counted in one call.
const SURVEYS_MAX: usize = 8;

/// Percent of a blob that may be worth keeping when room runs out: compaction is all that can make some.
const PRESSED_LIVE_PERCENT_MAX: u8 = 90;

/// Room runs out when less than this part of the capacity is left.
const PRESSED_ROOM_PART: u64 = 32;

/// A busy disk with more than this part of its capacity left waits until more is dead: to this share of the usual bound, in percent.
const AMPLE_ROOM_PART: u64 = 8;
const AMPLE_PERCENT: u8 = 67;

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
    /// Tombstones, trash and restore records that were still needed.
    pub moved_marks: u64,
    /// Pieces that had expired.
    pub expired_pieces: u64,
    /// Pieces that failed a check: satellite and piece id. The satellite should hear of them.
    pub lost: Vec<([u8; 32], [u8; 32])>,
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
        self.push_revivals();
        // Here alone, so that no piece dies while its trash record is on its way.
        self.empty_trash(now_s).await;
        let percent_max = self.live_percent_max(traffic);
        self.pay_footers().await;
        self.end_worthless(now_s).await;
        self.survey(percent_max, now_s).await;
        let Some(blob) = self.pick(percent_max, now_s) else {
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
        let outranked = self.outranked(&blob, &footer.entries).await;
        let pieces = footer.entries.iter().filter(|entry| {
            let satellite = blob.satellite_of(&entry.record);
            let fingerprint = self.fingerprinter.of(&satellite, &entry.record.id);
            let state = self.state_of(fingerprint, blob.known(entry).entry);
            matches!(state, Some(State::Live | State::Trash(_)))
                && entry.record.kind == Kind::Piece
                && !states::is_expired(entry.record.expiry_s, now_s)
        });
        let mut ahead = Ahead::new(self, &blob, pieces, self.options.compact_gap_bytes_max);
        let moving = self.move_records(&blob, &footer, &outranked, now_s, &mut ahead, &mut done);
        let moved = moving.await;
        // Also where that failed.
        ahead.finish().await;
        moved?;
        self.remove(&blob, &footer, &mut done).await?;
        Ok(Some(done))
    }

    /// Moves what is worth keeping of a blob; returns once all of it is durable elsewhere.
    async fn move_records(
        &self,
        blob: &Blob<D::File>,
        footer: &Footer,
        outranked: &Outranked,
        now_s: u32,
        ahead: &mut Ahead<'_, D>,
        done: &mut Compaction,
    ) -> Result<(), PutError> {
        let mut moves = Moves::default();
        for entry in &footer.entries {
            let moved = if entry.record.kind == Kind::Piece {
                self.move_piece(blob, entry, now_s, ahead, done).await?
            } else {
                self.move_mark(blob, entry, outranked, done).await?
            };
            if let Some(answer) = moved {
                moves.push(answer, entry.record.record_len());
            }
            moves.settle_until(MOVING_BYTES_MAX, MOVES_MAX).await?;
        }
        moves.settle_until(0, 0).await
    }

    /// Whether so little room is left that all that compaction can win is needed.
    fn is_short_of_room(&self) -> bool {
        self.free_beside_moves() < self.options.capacity_bytes / PRESSED_ROOM_PART
    }

    /// Free bytes, but for what puts leave to compaction on the disk.
    fn free_beside_moves(&self) -> u64 {
        let mut space = self.space();
        space.disk_free_bytes = space
            .disk_free_bytes
            .saturating_sub(self.moving_bytes(space.disk_free_bytes));
        space.free_bytes()
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
        if traffic == Traffic::Busy && self.room_share() > 1.0 {
            return (u16::from(usual) * u16::from(AMPLE_PERCENT) / 100) as u8;
        }
        usual
    }

    /// Room that is left, from 0 where it runs out to 1 where there is as much as compaction needs to wait for blobs that are worth it; more
    /// where there is more.
    #[must_use]
    pub fn room_share(&self) -> f64 {
        let capacity = self.options.capacity_bytes;
        let (low, high) = (capacity / PRESSED_ROOM_PART, capacity / AMPLE_ROOM_PART);
        let free = self.free_beside_moves();
        free.saturating_sub(low) as f64 / (high - low).max(1) as f64
    }

    /// The sealed blob of which least is worth keeping, if that is little enough and there is room for it.
    fn pick(&self, percent_max: u8, now_s: u32) -> Option<Rc<Blob<D::File>>> {
        let blobs = self.blobs.borrow();
        let worth = |blob: &&Rc<Blob<D::File>>| blob.kept_bytes(now_s) + blob.mark_bytes();
        let picked = blobs
            .iter()
            .flatten()
            .filter(|blob| self.is_little(blob, worth(blob), percent_max))
            .min_by_key(worth)?;
        let needed = worth(&picked) + worth(&picked) / 8 + COMMIT_OVERHEAD_BYTES;
        let has_room = self.disk.free_bytes().is_ok_and(|free| free > needed);
        has_room.then(|| Rc::clone(picked))
    }

    /// Whether so many bytes are few enough of a sealed blob to be moved.
    fn is_little(&self, blob: &Blob<D::File>, worth_bytes: u64, percent_max: u8) -> bool {
        let tally = blob.tally.get();
        let all_bytes = tally.piece_bytes + u64::from(tally.mark_count) * MARK_BYTES;
        blob.log.borrow().is_none()
            && !blob.is_given_up.get()
            && worth_bytes < all_bytes
            && worth_bytes * 100 <= all_bytes * u64::from(percent_max)
    }

    /// Counts the tombstones and marks that are still needed in blobs that would be little without them.
    ///
    /// Until it is known, all of them are taken to be, else a blob of tombstones would be written again and again. A count holds until a
    /// blob is removed or a checkpoint written: only then does something go that they outrank.
    async fn survey(&self, percent_max: u8, now_s: u32) {
        let unknown: Vec<_> = {
            let blobs = self.blobs.borrow();
            let is_unknown = |blob: &&Rc<Blob<D::File>>| {
                blob.tally.get().mark_count > 0
                    && self.is_little(blob, blob.kept_bytes(now_s), percent_max)
                    && !self.is_surveyed(blob)
            };
            let unknown = blobs.iter().flatten().filter(is_unknown);
            unknown.take(SURVEYS_MAX).cloned().collect()
        };
        for blob in unknown {
            let Some(entries) = self.records_of(&blob).await else {
                blob.give_up_compacting();
                continue;
            };
            self.count_needed(&blob, &entries).await;
        }
    }

    /// Whether the last count of a blob's needed marks still holds.
    pub(crate) fn is_surveyed(&self, blob: &Blob<D::File>) -> bool {
        blob.survey.get().is_some_and(|survey| {
            survey.removed_count == self.forgetting_count()
                && survey.mark_count == blob.tally.get().mark_count
        })
    }

    /// Counts the tombstones, trash and restore records of a blob that are needed, and keeps the count.
    pub(crate) async fn count_needed(&self, blob: &Blob<D::File>, entries: &[FooterEntry]) -> u32 {
        let (removed_count, mark_count) = (self.forgetting_count(), blob.tally.get().mark_count);
        let outranked = self.outranked(blob, entries).await;
        let is_needed = |entry: &&FooterEntry| {
            let satellite = blob.satellite_of(&entry.record);
            let fingerprint = self.fingerprinter.of(&satellite, &entry.record.id);
            entry.record.kind != Kind::Piece
                && self.is_needed(&entry.record, fingerprint, blob.slot, &outranked)
        };
        let needed_count = entries.iter().filter(is_needed).count() as u32;
        blob.survey.set(Some(Survey {
            removed_count,
            mark_count,
            needed_count,
        }));
        needed_count
    }

    /// Queues a piece's record to be moved, or a tombstone in its place. `None`: there is nothing to move.
    async fn move_piece(
        &self,
        blob: &Blob<D::File>,
        entry: &FooterEntry,
        now_s: u32,
        ahead: &mut Ahead<'_, D>,
        done: &mut Compaction,
    ) -> Result<Option<Answer>, PutError> {
        let record = &entry.record;
        let satellite = blob.satellite_of(record);
        let fingerprint = self.fingerprinter.of(&satellite, &record.id);
        let known = blob.known(entry);
        if self.state_of(fingerprint, known.entry).is_none() {
            return Ok(None);
        }
        let guard = self.locks.lock(fingerprint).await;
        let Some(state) = self.state_of(fingerprint, known.entry) else {
            return Ok(None);
        };
        let mut is_dropped = matches!(state, State::Damaged(_));
        if !is_dropped && states::is_expired(record.expiry_s, now_s) {
            done.expired_pieces += 1;
            is_dropped = true;
        }
        if is_dropped {
            return self.drop_piece(blob, entry, now_s, guard).await;
        }
        let mut bytes = ahead.record(entry).await?;
        let mut checked = check_record(&bytes, blob, entry);
        if checked.is_err() && !bug::is_planted(Bug::MisreadBelieved) {
            // Read once more: what is not moved is gone.
            let span = self.read_span(blob, entry.offset, record.record_len());
            bytes = span.await?.into_bytes();
            checked = check_record(&bytes, blob, entry);
        }
        if let Err(damage) = checked {
            let name = (satellite, record.id);
            self.lose(fingerprint, name, &known, damage);
            done.lost.push(name);
            return self.drop_piece(blob, entry, now_s, guard).await;
        }
        done.moved_pieces += 1;
        done.moved_bytes += known.body_len;
        let rest = bytes.slice(RECORD_HEADER_BYTES..);
        // Where little was put its class may have shared a longer-lived one's group.
        let class = ExpiryClass::of(record.created_s, record.expiry_s);
        self.submit_move(blob, class, record, rest, vec![known], guard)
            .map(Some)
    }

    /// Lets go of a piece that is not moved. A tombstone takes its place if an older record of its name would come back.
    async fn drop_piece(
        &self,
        blob: &Blob<D::File>,
        entry: &FooterEntry,
        now_s: u32,
        guard: KeyGuard,
    ) -> Result<Option<Answer>, PutError> {
        let record = &entry.record;
        let satellite = blob.satellite_of(record);
        let fingerprint = self.fingerprinter.of(&satellite, &record.id);
        let known = blob.known(entry);
        //= docs/format.md#record
        if !self.may_reappear(fingerprint, blob.slot) {
            let _still = self.hold_still().await;
            self.add_replay_cost(1);
            self.change(fingerprint, &known, State::Dead);
            return Ok(None);
        }
        self.check_open()?;
        let mark = Mark {
            kind: Kind::Tombstone,
            satellite,
            id: record.id,
            now_s,
            class: blob.class,
            expiry_s: record.expiry_s,
        };
        Ok(Some(self.submit_mark(
            fingerprint,
            &mark,
            vec![known],
            guard,
        )))
    }

    /// Queues a tombstone, a trash or a restore record to be moved, unless nobody needs it any more.
    async fn move_mark(
        &self,
        blob: &Blob<D::File>,
        entry: &FooterEntry,
        outranked: &Outranked,
        done: &mut Compaction,
    ) -> Result<Option<Answer>, PutError> {
        let record = &entry.record;
        let satellite = blob.satellite_of(record);
        let fingerprint = self.fingerprinter.of(&satellite, &record.id);
        if !self.is_needed(record, fingerprint, blob.slot, outranked) {
            return Ok(None);
        }
        let guard = self.locks.lock(fingerprint).await;
        done.moved_marks += 1;
        done.moved_tombstones += u64::from(record.kind == Kind::Tombstone);
        self.submit_move(blob, blob.class, record, Bytes::new(), Vec::new(), guard)
            .map(Some)
    }

    /// Whether a record that is no piece must outlive its blob.
    ///
    /// A piece in the trash, or a live one, will be moved if it lies in this blob; one that does not count goes with the blob.
    fn is_needed(
        &self,
        record: &RecordHeader,
        fingerprint: u64,
        slot: u32,
        outranked: &Outranked,
    ) -> bool {
        //= docs/format.md#record
        match record.kind {
            Kind::Piece => true,
            Kind::Tombstone => self.may_reappear(fingerprint, slot),
            Kind::Trash | Kind::Restore if self.may_lie_unseen() => true,
            Kind::Trash | Kind::Restore if outranked.is_by_neighbour(record) => false,
            Kind::Trash => {
                self.trash.borrow().candidates(fingerprint).next().is_some()
                    || self.may_reappear(fingerprint, slot)
            }
            Kind::Restore => {
                outranked.has_trash(fingerprint, record)
                    && (!self.index.borrow().candidates(fingerprint).is_empty()
                        || self.is_damaged_elsewhere(fingerprint, slot))
            }
        }
    }

    /// Queues a record as it is, sequence included.
    fn submit_move(
        &self,
        blob: &Blob<D::File>,
        class: ExpiryClass,
        record: &RecordHeader,
        rest: Bytes,
        replaced: Vec<Known>,
        guard: KeyGuard,
    ) -> Result<Answer, PutError> {
        self.check_open()?;
        let satellite = blob.satellite_of(record);
        Ok(self.submit(Order {
            fingerprint: self.fingerprinter.of(&satellite, &record.id),
            satellite,
            class,
            work: Work::Move {
                record: *record,
                rest,
            },
            replaced,
            guard,
        }))
    }
}

/// Lets the next call begin when this one ends, whichever way it ends.
struct Turn<'a>(&'a Cell<bool>);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

/// Records whose commits are not known yet, oldest first.
#[derive(Default)]
struct Moves {
    answers: VecDeque<(Answer, u64)>,
    bytes: u64,
}

impl Moves {
    fn push(&mut self, answer: Answer, bytes: u64) {
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
            marks::settle(answer).await?;
        }
        Ok(())
    }
}

/// Whether a record is what its footer or list says, and every check of it holds.
pub(crate) fn check_record<F>(
    bytes: &[u8],
    blob: &Blob<F>,
    entry: &FooterEntry,
) -> Result<(), Damage> {
    let record = &entry.record;
    let header = RecordHeader::parse(bytes, &blob.check, blob.id, entry.offset);
    if header != Some(Found::Record(*record)) {
        return Err(Damage::RecordHeader);
    }
    if record.kind != Kind::Piece {
        return Ok(());
    }
    let rest = &bytes[RECORD_HEADER_BYTES..];
    let (body, trailer) = rest
        .split_at_checked(record.body_len as usize)
        .ok_or(Damage::Trailer)?;
    let trailer = Trailer::parse(trailer, body.len() as u64, usize::from(record.path_len))
        .ok_or(Damage::Trailer)?;
    for (share, (bytes, crc)) in (0..).zip(body.chunks(SHARE_BYTES).zip(&trailer.crcs)) {
        if crc32fast::hash(bytes) != *crc {
            return Err(Damage::Share(share));
        }
    }
    // The root of a one-share piece is not stored: it is the hash of these very bytes.
    match trailer.root {
        Some(root) if blake3::hash(body) != root => Err(Damage::Root),
        _ => Ok(()),
    }
}
