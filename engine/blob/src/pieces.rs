//! Walking over the pieces of a satellite by their names: footers of sealed blobs and lists of open ones, never a body.
//!
//! A walk sees the records that were there when it began, each at most once: what is written meanwhile, moved records among it, is not visited.

use std::rc::Rc;

use crate::blobs::Blob;
use crate::bug::{self, Bug};
use crate::disk::Disk;
use crate::error::PutError;
use crate::footer::FooterEntry;
use crate::header::ExpiryClass;
use crate::index::{Entry, Place};
use crate::marks::{self, Answer, Mark};
use crate::record::{Kind, RecordHeader};
use crate::recover;
use crate::states::{Known, State};
use crate::store::Store;
use crate::wait;

/// Records queued before their commits are waited for.
pub(crate) const BATCH_MAX: usize = 256;

/// Records looked at before others get a turn.
const YIELD_RECORDS: usize = 1_024;

/// A blob to visit, and how many of its records.
pub(crate) struct Stop<F> {
    pub(crate) blob: Rc<Blob<F>>,
    record_count: usize,
}

/// A piece record that was in service when it was found.
pub(crate) struct Found {
    pub(crate) fingerprint: u64,
    pub(crate) satellite: [u8; 32],
    pub(crate) record: RecordHeader,
    pub(crate) known: Known,
    pub(crate) state: State,
    class: ExpiryClass,
}

impl Found {
    pub(crate) fn mark(&self, kind: Kind, now_s: u32) -> Mark {
        Mark {
            kind,
            satellite: self.satellite,
            id: self.record.id,
            now_s,
            class: self.class,
            expiry_s: self.record.expiry_s,
        }
    }
}

impl<F> Blob<F> {
    /// The record of a footer entry of this blob, with what it counts for.
    pub(crate) fn known(&self, entry: &FooterEntry) -> Known {
        let place = Place {
            slot: self.slot,
            offset: entry.offset,
        };
        Known {
            entry: Entry::new(place, entry.record.record_len()),
            body_len: u64::from(entry.record.body_len),
            expiry_s: entry.record.expiry_s,
            sequence: entry.record.sequence,
        }
    }

    /// Whose record it is.
    pub(crate) fn satellite_of(&self, record: &RecordHeader) -> [u8; 32] {
        self.header.satellites[usize::from(record.satellite_slot)]
    }
}

impl<D: Disk> Store<D> {
    /// The blobs as they are now.
    pub(crate) fn stops(&self) -> Vec<Stop<D::File>> {
        let blobs = self.blobs.borrow();
        let stop = |blob: &Rc<Blob<D::File>>| Stop {
            blob: Rc::clone(blob),
            record_count: blob
                .log
                .borrow()
                .as_ref()
                .map_or(usize::MAX, |log| log.entries.len()),
        };
        blobs.iter().flatten().map(stop).collect()
    }

    /// The records of a blob in the order of their places; `None` if it is gone or its footer is not readable, also the second time: a misread costs
    /// nothing.
    pub(crate) async fn records_of(&self, blob: &Blob<D::File>) -> Option<Vec<FooterEntry>> {
        if let Some(log) = &*blob.log.borrow() {
            return Some(log.entries.clone());
        }
        let file_len = blob.tail.get().file_len;
        let read = || recover::read_footer(&self.disk, &blob.file, file_len, &blob.header);
        let footer = match read().await {
            Some(footer) => footer,
            None if bug::is_planted(Bug::MisreadBelieved) => return None,
            None => read().await?,
        };
        Some(footer.entries)
    }

    /// The piece records of a satellite in a blob that are in service; none of a blob that is gone.
    ///
    /// # Errors
    ///
    /// [`PutError::Unlisted`] if its list of records is not readable.
    pub(crate) async fn find(
        &self,
        stop: &Stop<D::File>,
        satellite: &[u8; 32],
    ) -> Result<Vec<Found>, PutError> {
        let mut found = Vec::new();
        if stop.blob.satellite_slot(satellite).is_none() {
            return Ok(found);
        }
        let Some(records) = self.records_of(&stop.blob).await else {
            let slot = self.blobs.borrow().get(stop.blob.slot as usize).cloned();
            let is_there = slot.flatten().is_some_and(|blob| blob.id == stop.blob.id);
            let blob = stop.blob.id;
            return if is_there {
                Err(PutError::Unlisted { blob })
            } else {
                Ok(found)
            };
        };
        for (index, entry) in records.iter().take(stop.record_count).enumerate() {
            if index % YIELD_RECORDS == YIELD_RECORDS - 1 {
                wait::yield_now().await;
            }
            let is_theirs = stop.blob.satellite_of(&entry.record) == *satellite;
            if entry.record.kind != Kind::Piece || !is_theirs {
                continue;
            }
            let fingerprint = self.fingerprinter.of(satellite, &entry.record.id);
            let known = stop.blob.known(entry);
            if let Some(state) = self.state_of(fingerprint, known.entry) {
                found.push(Found {
                    fingerprint,
                    satellite: *satellite,
                    record: entry.record,
                    known,
                    state,
                    class: stop.blob.class,
                });
            }
        }
        Ok(found)
    }

    /// Queues marks, many at a time and boundedly many.
    pub(crate) fn batch(&self) -> Batch<'_, D> {
        Batch {
            store: self,
            answers: Vec::new(),
        }
    }
}

/// Marks on their way.
pub(crate) struct Batch<'a, D: Disk> {
    store: &'a Store<D>,
    answers: Vec<Answer>,
}

impl<D: Disk> Batch<'_, D> {
    /// Queues a mark for a piece, if its state is still as wanted once nothing else happens to it.
    pub(crate) async fn mark(
        &mut self,
        found: &Found,
        mark: &Mark,
        is_wanted: impl Fn(State) -> bool,
    ) -> Result<bool, PutError> {
        let state = || self.store.state_of(found.fingerprint, found.known.entry);
        if !state().is_some_and(&is_wanted) {
            return Ok(false);
        }
        let guard = self.store.locks.lock(found.fingerprint).await;
        if !state().is_some_and(&is_wanted) {
            return Ok(false);
        }
        self.store.check_open()?;
        let known = vec![found.known];
        let answer = self
            .store
            .submit_mark(found.fingerprint, mark, known, guard);
        self.answers.push(answer);
        if self.answers.len() >= BATCH_MAX {
            marks::settle_all(&mut self.answers).await?;
        }
        Ok(true)
    }

    /// Waits until all are durable.
    pub(crate) async fn settle(mut self) -> Result<(), PutError> {
        marks::settle_all(&mut self.answers).await
    }
}
