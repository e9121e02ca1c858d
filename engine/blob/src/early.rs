//! Open blobs that end before they are full, because nothing in them is worth keeping.
//!
//! Only sealed blobs are compacted. Where deletes are all that comes, the blob with their tombstones would stay until it is full, long after
//! all that they outrank is gone. So compaction looks at the open blobs too, and has the committer, who alone ends blobs, seal those of which
//! it would keep nothing. One with a single record that is needed is left alone: moved, that record would only begin the next such blob.

use std::rc::Rc;

use crate::blobs::Blob;
use crate::disk::Disk;
use crate::layout::BLOB_HEADER_BYTES;
use crate::store::Store;
use crate::wait::{Sender, oneshot};

/// Bytes in a blob that are worth two footers and headers and their syncs: 4 MiB, as much as 1,000 tombstones that came alone.
const ENDED_EARLY_BYTES_MIN: u64 = 4 << 20;

/// Of small blobs this part is worth it.
const ENDED_EARLY_PART: u64 = 16;

/// Asks for an open blob to be sealed.
pub(crate) struct WantedSeal<F> {
    blob: Rc<Blob<F>>,
    /// Its records when it was looked at.
    record_count: usize,
    /// Told when the committer has seen to it.
    done: Sender<()>,
}

impl<D: Disk> Store<D> {
    /// Has those open blobs sealed of which compaction would keep nothing.
    pub(crate) async fn end_worthless(&self, now_s: u32) {
        let open = self.open_blobs.borrow().clone();
        for blob in open.into_iter().flatten().flatten() {
            if !self.may_be_worthless(&blob, now_s) {
                continue;
            }
            let Some(entries) = self.records_of(&blob).await else {
                continue;
            };
            let needed_count = self.count_needed(&blob, &entries).await;
            if needed_count > 0 || self.check_open().is_err() {
                continue;
            }
            self.have_sealed(blob, entries.len()).await;
        }
    }

    /// Has the committer seal a blob of so many records, and waits until it has seen to it.
    pub(crate) async fn have_sealed(&self, blob: Rc<Blob<D::File>>, record_count: usize) {
        let (done, answer) = oneshot();
        self.wanted_seals.borrow_mut().push(WantedSeal {
            blob,
            record_count,
            done,
        });
        self.work.set();
        // Nobody answers once the store is closed.
        let _ = answer.receive().await;
    }

    /// Whether an open blob holds enough, and nothing but dead pieces and marks of which none is known to be needed.
    fn may_be_worthless(&self, blob: &Blob<D::File>, now_s: u32) -> bool {
        let enough_bytes =
            ENDED_EARLY_BYTES_MIN.min(self.options.blob_bytes_max / ENDED_EARLY_PART);
        let is_whole = blob.log.borrow().as_ref().is_some_and(|log| !log.has_rot);
        let is_known = self.is_surveyed(blob) && blob.mark_bytes() > 0;
        is_whole
            && blob.tail.get().append_at - BLOB_HEADER_BYTES >= enough_bytes
            && blob.kept_bytes(now_s) == 0
            && !is_known
            && !blob.is_displaced.get()
    }

    /// Seals what was asked for, unless something was or is being added to it. For the committer.
    pub(crate) async fn seal_wanted(&self, is_in_flight: impl Fn(&Blob<D::File>) -> bool) {
        for wanted in self.wanted_seals.take() {
            let WantedSeal {
                blob,
                record_count,
                done,
            } = wanted;
            let log_len = blob.log.borrow().as_ref().map(|log| log.entries.len());
            if log_len == Some(record_count) && !is_in_flight(&blob) {
                self.end_growth(&blob).await;
            }
            done.send(());
        }
    }

    async fn end_growth(&self, blob: &Rc<Blob<D::File>>) {
        for open in self.open_blobs.borrow_mut().iter_mut().flatten() {
            if open.as_ref().is_some_and(|open| Rc::ptr_eq(open, blob)) {
                *open = None;
            }
        }
        self.seal(blob).await;
    }
}
