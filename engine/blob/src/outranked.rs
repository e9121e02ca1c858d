//! Which trash and restore records somebody would be wrong without: what compaction asks of a blob before it moves them.
//!
//! A restore record says that a trash record no longer holds, so it is needed for as long as such a trash record lies elsewhere, in any blob. No
//! list has trash records; those of each sealed blob are read from its footer once, when a restore record is to be moved, and kept beside
//! the blob: 16 bytes each. A blob that cannot be read is taken to have one of every name. So is a checkpoint that is older than the restore
//! record: it may have the piece in its trash.
//!
//! What is found out before a blob's records are moved holds until they are: a trash record that comes later has a higher sequence than any
//! restore record in a sealed blob, and only this blob's own are moved.

use std::collections::HashMap;
use std::rc::Rc;

use crate::blobs::Blob;
use crate::disk::Disk;
use crate::fingerprint::Fingerprints;
use crate::footer::FooterEntry;
use crate::record::{Kind, RecordHeader};
use crate::store::Store;

/// Trash records of a blob: fingerprint of the name, and sequence.
pub(crate) type TrashRecords = Rc<[(u64, u64)]>;

/// What is known of a blob's trash and restore records, and of trash records elsewhere.
pub(crate) struct Outranked {
    /// The newest trash or restore record of each name in the blob: by slot of the satellite and piece id.
    newest: HashMap<(u8, [u8; 32]), u64>,
    /// The oldest trash record elsewhere, for the names of the blob's restore records.
    elsewhere: HashMap<u64, u64, Fingerprints>,
    /// The sequence from which on the checkpoint knows no record.
    next_sequence: u64,
    /// Some blob could not be asked.
    may_lie_elsewhere: bool,
}

impl Outranked {
    /// Whether another trash or restore record of its blob says more.
    pub(crate) fn is_by_neighbour(&self, mark: &RecordHeader) -> bool {
        let newest = self.newest.get(&(mark.satellite_slot, mark.id));
        newest.is_some_and(|&newest| newest > mark.sequence)
    }

    /// Whether a trash record lies elsewhere that would hold without this restore record, or the checkpoint may say the same.
    pub(crate) fn has_trash(&self, fingerprint: u64, restore: &RecordHeader) -> bool {
        let oldest = self.elsewhere.get(&fingerprint);
        let is_in_checkpoint = restore.sequence < self.next_sequence;
        !is_in_checkpoint
            || self.may_lie_elsewhere
            || oldest.is_some_and(|&oldest| oldest < restore.sequence)
    }
}

impl<D: Disk> Store<D> {
    /// Finds out about a blob with these records.
    pub(crate) async fn outranked(
        &self,
        blob: &Blob<D::File>,
        entries: &[FooterEntry],
    ) -> Outranked {
        let mut outranked = Outranked {
            newest: HashMap::new(),
            elsewhere: HashMap::default(),
            next_sequence: self
                .checkpoints
                .borrow()
                .current
                .as_ref()
                .map_or(u64::MAX, |current| current.next_sequence),
            may_lie_elsewhere: false,
        };
        for FooterEntry { record, .. } in entries {
            if !matches!(record.kind, Kind::Trash | Kind::Restore) {
                continue;
            }
            let name = (record.satellite_slot, record.id);
            let newest = outranked.newest.entry(name).or_default();
            *newest = record.sequence.max(*newest);
            if record.kind == Kind::Restore {
                let satellite = blob.satellite_of(record);
                let fingerprint = self.fingerprinter.of(&satellite, &record.id);
                outranked.elsewhere.insert(fingerprint, u64::MAX);
            }
        }
        if outranked.elsewhere.is_empty() {
            return outranked;
        }
        let others: Vec<_> = {
            let blobs = self.blobs.borrow();
            let has_marks = |other: &&Rc<Blob<D::File>>| {
                let tally = other.tally.get();
                other.slot != blob.slot && tally.mark_count > tally.tombstone_count
            };
            blobs.iter().flatten().filter(has_marks).cloned().collect()
        };
        for other in others {
            let Some(trash) = self.trash_records_of(&other).await else {
                outranked.may_lie_elsewhere = true;
                break;
            };
            for (fingerprint, sequence) in trash.iter() {
                if let Some(oldest) = outranked.elsewhere.get_mut(fingerprint) {
                    *oldest = (*oldest).min(*sequence);
                }
            }
        }
        outranked
    }

    /// Bytes that the trash records kept beside blobs take in memory.
    pub(crate) fn trash_record_bytes(&self) -> usize {
        let blobs = self.blobs.borrow();
        let kept = blobs.iter().flatten().map(|blob| {
            let records = blob.trash_records.borrow();
            records.as_ref().map_or(0, |records| records.len())
        });
        kept.sum::<usize>() * size_of::<(u64, u64)>()
    }

    async fn trash_records_of(&self, blob: &Blob<D::File>) -> Option<TrashRecords> {
        if let Some(known) = &*blob.trash_records.borrow() {
            return Some(Rc::clone(known));
        }
        let is_sealed = blob.log.borrow().is_none();
        let entries = self.records_of(blob).await?;
        let trash = entries
            .iter()
            .filter(|entry| entry.record.kind == Kind::Trash);
        let found: TrashRecords = trash
            .map(|FooterEntry { record, .. }| {
                let satellite = blob.satellite_of(record);
                let fingerprint = self.fingerprinter.of(&satellite, &record.id);
                (fingerprint, record.sequence)
            })
            .collect();
        if is_sealed {
            *blob.trash_records.borrow_mut() = Some(Rc::clone(&found));
        }
        Some(found)
    }
}
