//! Damage that the ledger is told of: bytes that rot, and writes that go astray.
//!
//! Whatever record such bytes overlap, its piece is *hurt*. A write that goes astray hits two places: the one where it went, and the one that
//! it should have reached. What lies there is read off what was meant to be on the disk, which knows of a write once it has ended; so each
//! harm is looked at again for a while. A blob of which both headers were hit is lost with all that is in it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use strand_blob::disk::sim::Harm;
use strand_blob::{BlobId, FileId, inspect};

use super::Control;
use super::world::World;
use crate::store::guard::say;

/// More than a group and its header: a record so far after another is in a later group, which says that the other is durable.
const GROUP_BYTES_MAX: u64 = 80 << 10;

/// Both copies of a blob's header.
const HEADERS_BYTES: u64 = 8_192;

/// Longer than any write takes, however long the disk hangs.
const WRITE_WAIT: Duration = Duration::from_secs(60);

/// What was hit so far.
#[derive(Default)]
pub(super) struct Harms {
    /// When, and what: of writes that may not have ended.
    fresh: Vec<(Duration, Harm)>,
    /// Blobs of whose headers a copy was hit, and which.
    hit_headers: BTreeMap<BlobId, [bool; 2]>,
    /// Both were.
    doomed: BTreeSet<BlobId>,
    /// Where anything was hit.
    files: BTreeSet<FileId>,
}

impl World {
    /// Hears of writes that went astray.
    pub(super) fn take_harms(&self) {
        let disk = self.disk.borrow().clone();
        let now = self.executor.elapsed();
        let news = disk.take_harms();
        let mut harms = self.harms.borrow_mut();
        self.count("sim_misdirected", news.len() as u64 / 2);
        if self.options.control == Control::MisdirectsSecretly {
            return;
        }
        harms.fresh.extend(news.into_iter().map(|harm| (now, harm)));
        let fresh = harms.fresh.clone();
        harms.fresh.retain(|(at, _)| *at + WRITE_WAIT > now);
        drop(harms);
        if fresh.is_empty() && self.harms.borrow().doomed.is_empty() {
            return;
        }
        let mut records = BTreeMap::new();
        for (_, harm) in fresh {
            self.hurt_what_lies_in(harm, &mut records);
        }
        for blob in self.harms.borrow().doomed.clone() {
            for record in self.records_of(blob, &mut records) {
                self.hurt(record, true);
            }
        }
    }

    fn hurt_what_lies_in(
        &self,
        harm: Harm,
        records: &mut BTreeMap<BlobId, Vec<inspect::StoredRecord>>,
    ) {
        say(|| format!("a write went astray: {harm:?}"));
        self.harms.borrow_mut().files.insert(harm.file);
        let FileId::Blob(blob) = harm.file else {
            return;
        };
        let (start, end) = (harm.offset, harm.offset + harm.len);
        if start < HEADERS_BYTES {
            let mut harms = self.harms.borrow_mut();
            let hit = harms.hit_headers.entry(blob).or_default();
            hit[0] |= start < HEADERS_BYTES / 2;
            hit[1] |= end > HEADERS_BYTES / 2;
            if *hit == [true; 2] {
                harms.doomed.insert(blob);
            }
        }
        let found = self.records_of(blob, records);
        let last = found.iter().map(|record| record.offset).max();
        for record in found {
            let record_end = record.body_and_trailer().end.max(record.body_offset);
            if record.offset < end && start < record_end {
                let is_attested = last >= Some(record.offset + GROUP_BYTES_MAX);
                self.hurt(record, !is_attested);
            }
        }
    }

    fn records_of(
        &self,
        blob: BlobId,
        known: &mut BTreeMap<BlobId, Vec<inspect::StoredRecord>>,
    ) -> Vec<inspect::StoredRecord> {
        let read = || {
            let meant = self.disk.borrow().meant(blob).unwrap_or_default();
            inspect::records(&meant).unwrap_or_default()
        };
        known.entry(blob).or_insert_with(read).clone()
    }

    fn hurt(&self, record: inspect::StoredRecord, may_look_torn: bool) {
        let mut ledger = self.ledger.borrow_mut();
        if let Some(key) = ledger.key_of(&record.id) {
            ledger.hurt(key, may_look_torn);
        }
    }

    /// Whether a file that is there has bytes of a write that went astray.
    pub(super) fn has_harmed_files(&self) -> bool {
        let disk = self.disk.borrow();
        let harms = self.harms.borrow();
        harms.files.iter().any(|&file| disk.meant(file).is_some())
    }

    /// Changes some bytes of a stored piece that `may` be chosen; which one, if the ledger knows it.
    pub(super) fn rot(&self, may: impl Fn(BlobId, &inspect::StoredRecord) -> bool) -> Option<u64> {
        let disk = self.disk.borrow().clone();
        let files: Vec<_> = disk.files().into_iter().collect();
        if files.is_empty() {
            return None;
        }
        let first = self.below(files.len() as u64) as usize;
        let (blob, record, last) = (0..files.len()).find_map(|nth| {
            let (blob, bytes) = &files[(first + nth) % files.len()];
            let mut records = inspect::records(bytes).ok()?;
            let last = records.iter().map(|record| record.offset).max();
            records.retain(|record| record.is_piece() && may(*blob, record));
            let count = records.len() as u64;
            (count > 0).then(|| (*blob, records[self.below(count) as usize], last))
        })?;
        let end = record.body_and_trailer().end;
        let from = record.offset + self.below(end - record.offset);
        let len = (1 + self.below(64)).min(end - from);
        // The control only says that it did so.
        let hides = self.options.control == Control::HidesRot && self.is_strict.get();
        disk.edit(blob, |bytes| {
            for at in (from..from + len).filter(|_| !hides) {
                if let Some(byte) = bytes.get_mut(at as usize) {
                    *byte ^= 0x55;
                }
            }
        });
        self.count("rotted", 1);
        let mut ledger = self.ledger.borrow_mut();
        let key = ledger.key_of(&record.id)?;
        if self.options.control != Control::RotsSecretly {
            let is_attested = last >= Some(record.offset + GROUP_BYTES_MAX);
            ledger.hurt(key, !is_attested);
        }
        Some(key)
    }
}
