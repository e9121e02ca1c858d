//! One blob: its file, what its header says, how far it is written and durable, and whether it is sealed.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use crate::check::KeyedCheck;
use crate::footer::{self, BLOB_RECORDS_MAX, Footer, FooterEntry};
use crate::group::GroupHeader;
use crate::header::{BlobHeader, ExpiryClass};
use crate::layout::{BLOB_HEADER_BYTES, BlobId};
use crate::record::{Kind, RecordHeader};

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
    pub(crate) tally: Cell<BlobTally>,
    /// Compaction could not work on it, and does not try again before the next opening.
    pub(crate) is_given_up: Cell<bool>,
}

/// A group's number and place in its blob, taken before it is written. Whatever becomes of the write, neither is used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) number: u64,
    pub(crate) offset: u64,
    /// Bytes of the group.
    pub(crate) len: u64,
    /// Highest group of the blob that was durable then.
    pub(crate) durable_number: u64,
}

impl Claim {
    pub(crate) fn group_header(&self, record_count: u32) -> GroupHeader {
        GroupHeader {
            record_count,
            number: self.number,
            durable_number: self.durable_number,
            group_len: self.len,
        }
    }
}

/// What of a blob is worth keeping.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct BlobTally {
    /// Pieces that the index knows here.
    pub(crate) live_count: u32,
    /// Their bodies.
    pub(crate) live_bytes: u64,
    /// Bodies of all pieces that were written here.
    pub(crate) piece_bytes: u64,
    /// Records that are no pieces.
    pub(crate) tombstone_count: u32,
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
        }
    }

    /// Takes the place of the next group.
    pub(crate) fn claim(&self, len: u64) -> Claim {
        let tail = self.tail.get();
        let claim = Claim {
            number: tail.last_number + 1,
            offset: tail.append_at,
            len,
            durable_number: tail.synced_number,
        };
        self.update_tail(|tail| {
            tail.append_at += len;
            tail.last_number = claim.number;
        });
        claim
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
            tally.tombstone_count += 1;
        }
        self.tally.set(tally);
    }

    /// Counts a piece that the index knows here from now on.
    pub(crate) fn count_live(&self, body_len: u64) {
        let mut tally = self.tally.get();
        tally.live_count += 1;
        tally.live_bytes += body_len;
        self.tally.set(tally);
    }

    /// Counts a piece that the index no longer knows here.
    pub(crate) fn count_dead(&self, body_len: u64) {
        let mut tally = self.tally.get();
        tally.live_count -= 1;
        tally.live_bytes -= body_len;
        self.tally.set(tally);
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
