//! One open blob: its file, what its header says, and how far it is written and durable.

use std::cell::Cell;
use std::rc::Rc;

use crate::check::KeyedCheck;
use crate::header::{BlobHeader, ExpiryClass};
use crate::layout::{BLOB_HEADER_BYTES, BlobId};

/// The blob that takes the next group, per expiry class.
pub(crate) type OpenBlobs<F> = [Option<Rc<Blob<F>>>; ExpiryClass::COUNT];

/// An open blob.
#[derive(Debug)]
pub(crate) struct Blob<F> {
    pub(crate) id: BlobId,
    /// Position in the store's list.
    pub(crate) slot: u32,
    pub(crate) class: ExpiryClass,
    pub(crate) satellites: Vec<[u8; 32]>,
    pub(crate) check: KeyedCheck,
    pub(crate) file: F,
    pub(crate) tail: Cell<Tail>,
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
    pub(crate) fn new(slot: u32, header: BlobHeader, file: F, tail: Tail) -> Self {
        let check = KeyedCheck::new(header.salt);
        let BlobHeader {
            class,
            blob: id,
            satellites,
            ..
        } = header;
        Self {
            id,
            slot,
            class,
            satellites,
            check,
            file,
            tail: Cell::new(tail),
        }
    }

    /// The satellite's slot in this blob's table.
    pub(crate) fn satellite_slot(&self, satellite: &[u8; 32]) -> Option<u8> {
        self.satellites
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
