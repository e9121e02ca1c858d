//! One blob: its file, what its header says, how far it is written and durable, and whether it is sealed.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use crate::check::KeyedCheck;
use crate::expiry::{Columns, Expiries};
use crate::footer::{self, BLOB_RECORDS_MAX, Footer, FooterEntry};
use crate::header::{BlobHeader, ExpiryClass};
use crate::layout::{BLOB_HEADER_BYTES, BlobId, RECORD_HEADER_BYTES};
use crate::record::{Kind, RecordHeader};
use crate::states::{self, State};

/// The blob that takes the next group, per expiry class.
pub(crate) type OpenBlobs<F> = [Option<Rc<Blob<F>>>; ExpiryClass::COUNT];

/// All blobs of a store, by slot; `None` where one was removed.
pub(crate) type Slots<F> = Vec<Option<Rc<Blob<F>>>>;

/// A blob.
#[derive(Debug)]
pub(crate) struct Blob<F> {
    pub(crate) id: BlobId,
    /// Position in the store's list.
    pub(crate) slot: u32,
    pub(crate) class: ExpiryClass,
    pub(crate) header: BlobHeader,
    pub(crate) check: KeyedCheck,
    pub(crate) file: F,
    pub(crate) tail: Cell<Tail>,
    /// What the footer will say; `None` once it is written.
    pub(crate) log: RefCell<Option<BlobLog>>,
    pub(crate) tally: Cell<BlobTally>,
    /// Compaction could not work on it, and does not try again before the next opening.
    pub(crate) is_given_up: Cell<bool>,
    pub(crate) survey: Cell<Option<Survey>>,
}

/// How many of a blob's tombstones, trash and restore records are needed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Survey {
    /// Blobs that had been removed when it was made.
    pub(crate) removed_count: u64,
    pub(crate) needed_count: u32,
}

/// Bytes of a record that is no piece, padding included.
pub(crate) const MARK_BYTES: u64 = 128;

const _: () = assert!(
    RECORD_HEADER_BYTES as u64 <= MARK_BYTES && MARK_BYTES - (RECORD_HEADER_BYTES as u64) < 64
);

/// What of a blob is worth keeping.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct BlobTally {
    /// Pieces that the index knows here.
    pub(crate) live_count: u32,
    /// Their bodies.
    pub(crate) live_bytes: u64,
    /// When the live bodies expire.
    expiries: Expiries,
    /// Pieces here that are in the trash.
    pub(crate) trash_count: u32,
    /// Their bodies.
    pub(crate) trash_bytes: u64,
    /// Bodies of all pieces that were written here.
    pub(crate) piece_bytes: u64,
    /// Records that are no pieces: tombstones, trash and restore records.
    pub(crate) mark_count: u32,
    /// When the last of its pieces expires, seconds since 1970; [`u32::MAX`] if one never does, 0 if there is none.
    pub(crate) expiry_s: u32,
}

/// What was written to a blob that is not sealed.
#[derive(Clone, Debug, Default)]
pub(crate) struct BlobLog {
    /// Its records, in the order of their places.
    pub(crate) entries: Vec<FooterEntry>,
    /// Its valid groups.
    pub(crate) group_count: u32,
    /// Bytes that belong to no valid group.
    pub(crate) skipped_bytes: u64,
    /// Something in it was durable once and is not readable now. Such a blob is not sealed, so that every opening reports it.
    pub(crate) has_rot: bool,
}

/// Where a blob ends and what of it is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tail {
    /// Where the next group goes: a block past everything written or claimed so far.
    pub(crate) append_at: u64,
    /// Bytes of the file, as far as known; the rest up to `append_at` failed to be written.
    pub(crate) file_len: u64,
    /// Number of the last group written, well or not.
    pub(crate) last_number: u64,
    /// Number of the last group that has records and was written well.
    pub(crate) last_full_number: u64,
    /// Highest group covered by a sync that ended.
    pub(crate) synced_number: u64,
    /// Highest group that a later group on disk calls durable.
    pub(crate) attested_number: u64,
}

impl Tail {
    pub(crate) fn new() -> Self {
        Self {
            append_at: BLOB_HEADER_BYTES,
            file_len: BLOB_HEADER_BYTES,
            last_number: 0,
            last_full_number: 0,
            synced_number: 0,
            attested_number: 0,
        }
    }

    /// Whether a reader could take rot in the last records for a torn tail, because no group after them says that
    /// they were durable.
    pub(crate) fn needs_attesting(&self) -> bool {
        self.last_full_number > self.attested_number && self.synced_number >= self.last_full_number
    }
}

impl<F> Blob<F> {
    /// `log` is `None` for a sealed blob.
    pub(crate) fn new(
        slot: u32,
        header: BlobHeader,
        file: F,
        tail: Tail,
        log: Option<BlobLog>,
    ) -> Self {
        Self {
            id: header.blob,
            slot,
            class: header.class,
            check: KeyedCheck::new(header.salt),
            header,
            file,
            tail: Cell::new(tail),
            log: RefCell::new(log),
            tally: Cell::default(),
            is_given_up: Cell::new(false),
            survey: Cell::new(None),
        }
    }

    pub(crate) fn give_up_compacting(&self) {
        self.is_given_up.set(true);
    }

    /// Counts a record that was written or found here.
    pub(crate) fn count_record(&self, record: &RecordHeader) {
        let mut tally = self.tally.get();
        if record.kind == Kind::Piece {
            let expiry_s = if record.expiry_s == 0 {
                u32::MAX
            } else {
                record.expiry_s
            };
            tally.expiry_s = tally.expiry_s.max(expiry_s);
            tally.piece_bytes += u64::from(record.body_len);
        } else {
            tally.mark_count += 1;
        }
        self.tally.set(tally);
    }

    fn columns(&self) -> Columns {
        Columns::new(self.header.created_s, self.class)
    }

    /// Counts a piece that is in this state from now on.
    pub(crate) fn enter(&self, state: State, body_len: u64, expiry_s: u32) {
        let mut tally = self.tally.get();
        match state {
            State::Live => {
                tally.live_count += 1;
                tally.live_bytes += body_len;
                tally.expiries.add(self.columns(), expiry_s, body_len);
            }
            State::Trash(_) => {
                tally.trash_count += 1;
                tally.trash_bytes += body_len;
            }
            State::Damaged(_) | State::Dead => {}
        }
        self.tally.set(tally);
    }

    /// Counts a piece that is no longer in this state.
    pub(crate) fn leave(&self, state: State, body_len: u64, expiry_s: u32) {
        let mut tally = self.tally.get();
        match state {
            State::Live => {
                tally.live_count -= 1;
                tally.live_bytes -= body_len;
                tally.expiries.subtract(self.columns(), expiry_s, body_len);
            }
            State::Trash(_) => {
                tally.trash_count -= 1;
                tally.trash_bytes -= body_len;
            }
            State::Damaged(_) | State::Dead => {}
        }
        self.tally.set(tally);
    }

    /// Bodies worth keeping by now: trashed ones, and live ones but for those that have certainly expired.
    pub(crate) fn kept_bytes(&self, now_s: u32) -> u64 {
        let tally = self.tally.get();
        let is_over = states::is_expired(tally.expiry_s, now_s);
        let expired_bytes = if is_over {
            tally.live_bytes
        } else {
            tally.expiries.expired_bytes(self.columns(), now_s)
        };
        tally.live_bytes - expired_bytes + tally.trash_bytes
    }

    /// Bytes of the tombstones, trash and restore records that are needed, as far as known.
    pub(crate) fn mark_bytes(&self) -> u64 {
        let mark_count = self.tally.get().mark_count;
        let needed_count = self
            .survey
            .get()
            .map_or(mark_count, |survey| survey.needed_count);
        u64::from(needed_count) * MARK_BYTES
    }

    /// The footer that would seal it now; `None` where it has one, where something in it is not durable or not readable, and
    /// where it is empty.
    pub(crate) fn footer(&self) -> Option<Footer> {
        let tail = self.tail.get();
        let log = self.log.borrow();
        let log = log.as_ref().filter(|log| {
            !log.has_rot && (1..=BLOB_RECORDS_MAX as usize).contains(&log.entries.len())
        })?;
        (tail.synced_number >= tail.last_full_number).then(|| Footer {
            offset: tail.append_at,
            group_count: log.group_count,
            last_number: tail.last_number,
            skipped_bytes: log.skipped_bytes + (tail.append_at - tail.file_len),
            entries: log.entries.clone(),
        })
    }

    /// Bytes that its footer would take with so many records more; 0 once it is written.
    pub(crate) fn footer_len(&self, more_count: usize) -> u64 {
        let log = self.log.borrow();
        log.as_ref()
            .map_or(0, |log| footer::len_of(log.entries.len() + more_count))
    }

    /// Whether it may take so many records more.
    pub(crate) fn has_places(&self, more_count: usize, records_max: u32) -> bool {
        let log = self.log.borrow();
        log.as_ref()
            .is_some_and(|log| log.entries.len() + more_count <= records_max as usize)
    }

    /// The satellite's slot in this blob's table.
    pub(crate) fn satellite_slot(&self, satellite: &[u8; 32]) -> Option<u8> {
        self.header
            .satellites
            .iter()
            .position(|known| known == satellite)
            .and_then(|at| u8::try_from(at).ok())
    }

    pub(crate) fn update_tail(&self, update: impl FnOnce(&mut Tail)) {
        let mut tail = self.tail.get();
        update(&mut tail);
        self.tail.set(tail);
    }
}
