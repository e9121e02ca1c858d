//! One blob: its file, what its header says, how far it is written and durable, and whether it is sealed.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use crate::check::KeyedCheck;
use crate::expiry::{Columns, Expiries};
use crate::footer::{self, BLOB_RECORDS_MAX, Footer, FooterEntry};
use crate::group::GroupHeader;
use crate::header::{BlobHeader, ExpiryClass};
use crate::layout::{BLOB_HEADER_BYTES, BlobId, RECORD_HEADER_BYTES};
use crate::outranked::TrashRecords;
use crate::record::{Kind, RecordHeader};
use crate::states::{self, State};

/// Blobs of one class that take groups side by side; see [`StoreOptions::lanes_max`](crate::StoreOptions::lanes_max).
pub(crate) const LANES_MAX: usize = 2;

/// The blobs that take the next groups, per expiry class.
pub(crate) type OpenBlobs<F> = [[Option<Rc<Blob<F>>>; LANES_MAX]; ExpiryClass::COUNT];

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
    /// What the footer said; `None` until it is written.
    pub(crate) seal: Cell<Option<Seal>>,
    /// It was begun by this process: what its log lacks was never durable.
    pub(crate) is_new: Cell<bool>,
    /// It ended, and its footer found no room; see `owed`.
    pub(crate) owes_footer: Cell<bool>,
    pub(crate) tally: Cell<BlobTally>,
    /// Compaction could not work on it, and does not try again before the next opening.
    pub(crate) is_given_up: Cell<bool>,
    pub(crate) survey: Cell<Option<Survey>>,
    /// Its trash records, once somebody asked and it was sealed.
    pub(crate) trash_records: RefCell<Option<TrashRecords>>,
    /// Another program removed, replaced or shortened its file while it was open; see `displaced`.
    pub(crate) is_displaced: Cell<bool>,
}

/// A group's number and place in its blob, taken before it is written. Whatever becomes of the write, neither is used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) number: u64,
    pub(crate) offset: u64,
    /// Bytes of the group.
    pub(crate) len: u64,
    /// Zeros written behind it, for the next groups to overwrite.
    pub(crate) ahead_len: u64,
    /// Highest group of the blob that was durable then.
    pub(crate) durable_number: u64,
}

impl Claim {
    /// Bytes of the request that writes it.
    pub(crate) fn written_len(&self) -> u64 {
        self.len + self.ahead_len
    }

    pub(crate) fn group_header(&self, record_count: u32) -> GroupHeader {
        GroupHeader {
            record_count,
            number: self.number,
            durable_number: self.durable_number,
            group_len: self.len,
        }
    }
}

/// How many of a blob's tombstones, trash and restore records are needed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Survey {
    /// Blobs that had been removed, and checkpoints written, when it was made.
    pub(crate) removed_count: u64,
    /// How many there were then. Those that came later are taken to be needed.
    pub(crate) mark_count: u32,
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
    pub(crate) expiries: Expiries,
    /// Pieces here that are in the trash.
    pub(crate) trash_count: u32,
    /// Their bodies.
    pub(crate) trash_bytes: u64,
    /// Bodies of all pieces that were written here.
    pub(crate) piece_bytes: u64,
    /// Records that are no pieces: tombstones, trash and restore records.
    pub(crate) mark_count: u32,
    /// Tombstones among them.
    pub(crate) tombstone_count: u32,
    /// When the last of its pieces expires, seconds since 1970; [`u32::MAX`] if one never does, 0 if there is none.
    pub(crate) expiry_s: u32,
}

impl BlobTally {
    /// Counts a record.
    pub(crate) fn count_record(&mut self, record: &RecordHeader) {
        if record.kind == Kind::Piece {
            let expiry_s = if record.expiry_s == 0 {
                u32::MAX
            } else {
                record.expiry_s
            };
            self.expiry_s = self.expiry_s.max(expiry_s);
            self.piece_bytes += u64::from(record.body_len);
        } else {
            self.mark_count += 1;
            self.tombstone_count += u32::from(record.kind == Kind::Tombstone);
        }
    }

    /// Counts a piece that is in this state from now on.
    pub(crate) fn enter(&mut self, columns: Columns, state: State, body_len: u64, expiry_s: u32) {
        match state {
            State::Live => {
                self.live_count += 1;
                self.live_bytes += body_len;
                self.expiries.add(columns, expiry_s, body_len);
            }
            State::Trash(_) => {
                self.trash_count += 1;
                self.trash_bytes += body_len;
            }
            State::Damaged(_) | State::Dead => {}
        }
    }

    /// Counts a piece that is no longer in this state.
    pub(crate) fn leave(&mut self, columns: Columns, state: State, body_len: u64, expiry_s: u32) {
        match state {
            State::Live => {
                self.live_count -= 1;
                self.live_bytes -= body_len;
                self.expiries.subtract(columns, expiry_s, body_len);
            }
            State::Trash(_) => {
                self.trash_count -= 1;
                self.trash_bytes -= body_len;
            }
            State::Damaged(_) | State::Dead => {}
        }
    }
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

/// What the footer of a sealed blob says of it as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seal {
    /// Where the footer begins.
    pub(crate) footer_offset: u64,
    /// Valid groups.
    pub(crate) group_count: u32,
    /// Bytes that belong to no valid group.
    pub(crate) skipped_bytes: u64,
    /// All records, without padding.
    pub(crate) record_bytes: u64,
}

impl Seal {
    pub(crate) fn of(footer: &Footer) -> Self {
        let records = footer.entries.iter();
        Self {
            footer_offset: footer.offset,
            group_count: footer.group_count,
            skipped_bytes: footer.skipped_bytes,
            record_bytes: records.map(|entry| entry.record.record_len()).sum(),
        }
    }
}

/// What is known of a blob's records.
#[derive(Clone, Debug)]
pub(crate) enum Content {
    /// It has no footer.
    Open(BlobLog),
    /// It has one.
    Sealed(Seal),
}

/// Where a blob ends and what of it is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tail {
    /// Where the next group goes: a block past everything written or claimed so far, but for zeros written ahead.
    pub(crate) append_at: u64,
    /// Bytes of the file, as far as known. What lies between the two is zeros written ahead if the file is longer, else failed to be
    /// written.
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

    /// Where a footer would go: nothing may follow it in the file.
    pub(crate) fn end(&self) -> u64 {
        self.append_at.max(self.file_len)
    }

    /// Whether a reader could take rot in the last records for a torn tail, because no group after them says that
    /// they were durable.
    pub(crate) fn needs_attesting(&self) -> bool {
        self.last_full_number > self.attested_number && self.synced_number >= self.last_full_number
    }
}

impl<F> Blob<F> {
    pub(crate) fn new(
        slot: u32,
        header: BlobHeader,
        file: F,
        tail: Tail,
        content: Content,
    ) -> Self {
        let (log, seal) = match content {
            Content::Open(log) => (Some(log), None),
            Content::Sealed(seal) => (None, Some(seal)),
        };
        Self {
            id: header.blob,
            slot,
            class: header.class,
            check: KeyedCheck::new(header.salt),
            header,
            file,
            tail: Cell::new(tail),
            log: RefCell::new(log),
            seal: Cell::new(seal),
            is_new: Cell::new(false),
            owes_footer: Cell::new(false),
            tally: Cell::default(),
            is_given_up: Cell::new(false),
            survey: Cell::new(None),
            trash_records: RefCell::new(None),
            is_displaced: Cell::new(false),
        }
    }

    /// Takes the place of the next group, and of zeros behind it.
    pub(crate) fn claim(&self, len: u64, ahead_len: u64) -> Claim {
        let tail = self.tail.get();
        let claim = Claim {
            number: tail.last_number + 1,
            offset: tail.append_at,
            len,
            ahead_len,
            durable_number: tail.synced_number,
        };
        self.update_tail(|tail| {
            tail.append_at += len;
            tail.last_number = claim.number;
        });
        claim
    }

    /// Its length, once it is sealed and is not written any more.
    pub(crate) fn sealed_len(&self) -> Option<u64> {
        self.log
            .borrow()
            .is_none()
            .then(|| self.tail.get().file_len)
    }

    pub(crate) fn give_up_compacting(&self) {
        self.is_given_up.set(true);
    }

    /// Counts a record that was written here.
    pub(crate) fn count_record(&self, record: &RecordHeader) {
        self.update_tally(|tally| tally.count_record(record));
    }

    /// Counts a piece that is in this state from now on.
    pub(crate) fn enter(&self, state: State, body_len: u64, expiry_s: u32) {
        let columns = Columns::of(&self.header);
        self.update_tally(|tally| tally.enter(columns, state, body_len, expiry_s));
    }

    /// Counts a piece that is no longer in this state.
    pub(crate) fn leave(&self, state: State, body_len: u64, expiry_s: u32) {
        let columns = Columns::of(&self.header);
        self.update_tally(|tally| tally.leave(columns, state, body_len, expiry_s));
    }

    fn update_tally(&self, update: impl FnOnce(&mut BlobTally)) {
        let mut tally = self.tally.get();
        update(&mut tally);
        self.tally.set(tally);
    }

    /// Ends its growing: from now on its footer says what is in it.
    pub(crate) fn mark_sealed(&self, footer: &Footer) {
        self.seal.set(Some(Seal::of(footer)));
        *self.log.borrow_mut() = None;
    }

    /// Bodies worth keeping by now: trashed ones, and live ones but for those that have certainly expired.
    pub(crate) fn kept_bytes(&self, now_s: u32) -> u64 {
        let tally = self.tally.get();
        let is_over = states::is_expired(tally.expiry_s, now_s);
        let expired_bytes = if is_over {
            tally.live_bytes
        } else {
            tally
                .expiries
                .expired_bytes(Columns::of(&self.header), now_s)
        };
        tally.live_bytes - expired_bytes + tally.trash_bytes
    }

    /// Bytes of the tombstones, trash and restore records that are needed, as far as known.
    pub(crate) fn mark_bytes(&self) -> u64 {
        let mark_count = self.tally.get().mark_count;
        let needed_count = self.survey.get().map_or(mark_count, |survey| {
            survey.needed_count + (mark_count - survey.mark_count)
        });
        u64::from(needed_count) * MARK_BYTES
    }

    /// Whether nothing was ever stored in it, since all its groups failed to be written.
    pub(crate) fn is_void(&self) -> bool {
        let log = self.log.borrow();
        let is_empty = log
            .as_ref()
            .is_some_and(|log| log.entries.is_empty() && log.group_count == 0);
        is_empty && self.is_new.get()
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
            offset: tail.end(),
            group_count: log.group_count,
            last_number: tail.last_number,
            skipped_bytes: log.skipped_bytes + (tail.end() - tail.file_len),
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
