//! A blob goes, and the books follow: after a compaction, and where nothing was ever stored in it.

use std::rc::Rc;

use crate::blobs::Blob;
use crate::bug::{self, Bug};
use crate::compact::Compaction;
use crate::disk::{Disk, DiskError};
use crate::error::PutError;
use crate::footer::Footer;
use crate::layout::{BLOB_HEADER_BYTES, GROUP_HEADER_BYTES};
use crate::poison::WriteOperation;
use crate::record::Kind;
use crate::store::Store;

impl<D: Disk> Store<D> {
    /// Removes a blob from which everything was moved.
    pub(crate) async fn remove(
        &self,
        blob: &Rc<Blob<D::File>>,
        footer: &Footer,
        done: &mut Compaction,
    ) -> Result<(), PutError> {
        let tally = blob.tally.get();
        assert_eq!(
            (tally.live_count, tally.trash_count),
            (0, 0),
            "a piece of {} was not moved",
            blob.id
        );
        let _still = self.hold_still().await;
        // G6: everything worth keeping is durable elsewhere by now.
        self.remove_file(blob).await?;
        let (mut body_bytes, mut record_bytes) = (0, 0);
        for entry in &footer.entries {
            let record = &entry.record;
            record_bytes += record.record_len();
            body_bytes += u64::from(record.body_len);
            if record.kind == Kind::Piece {
                let fingerprint = self
                    .fingerprinter
                    .of(&blob.satellite_of(record), &record.id);
                let entry = blob.known(entry).entry;
                self.dead.borrow_mut().remove(fingerprint, entry);
            }
        }
        let file_len = blob.tail.get().file_len;
        let group_bytes = u64::from(footer.group_count) * GROUP_HEADER_BYTES as u64;
        let used_bytes = record_bytes + group_bytes + footer.skipped_bytes;
        self.account(|space| {
            space.dead_bytes -= body_bytes;
            space.overhead_bytes -= record_bytes - body_bytes + group_bytes;
            space.padding_bytes -= (footer.offset - BLOB_HEADER_BYTES).saturating_sub(used_bytes);
            space.skipped_bytes -= footer.skipped_bytes;
            space.header_bytes -= BLOB_HEADER_BYTES + (file_len - footer.offset);
        });
        done.removed_bytes = file_len;
        Ok(())
    }

    /// Removes a blob in which nothing was ever stored: what is left of its groups takes room that nobody else would give back. Where that fails
    /// the store is read-only, or the blob is found at the next opening.
    pub(crate) async fn discard(&self, blob: &Rc<Blob<D::File>>) {
        let _still = self.hold_still().await;
        if self.remove_file(blob).await.is_ok() {
            let file_len = blob.tail.get().file_len;
            self.account(|space| space.header_bytes -= file_len);
        }
    }

    /// Removes a blob's file, while the store is held still.
    async fn remove_file(&self, blob: &Rc<Blob<D::File>>) -> Result<(), PutError> {
        self.add_replay_cost(1);
        if let Err(error) = self.note_removal(blob.id).await {
            return Err(self.write_failed(blob.id, WriteOperation::Remove, error));
        }
        let removal = Removal::begin(self, blob);
        match self.disk.remove(blob.id).await {
            // A call that was dropped may have removed it.
            Ok(()) | Err(DiskError::NotFound) => removal.end(),
            Err(error) => {
                blob.give_up_compacting();
                return Err(self.write_failed(blob.id, WriteOperation::Remove, error));
            }
        }
        let file_len = blob.tail.get().file_len;
        self.account(|space| space.file_bytes -= file_len);
        self.count(|counters| {
            counters.blobs_removed += 1;
            counters.removed_bytes += file_len;
        });
        Ok(())
    }
}

/// A blob whose file is being removed. Until that has [ended](Self::end) nobody knows whether the file will be there.
struct Removal<'a, D: Disk> {
    store: &'a Store<D>,
    blob: &'a Rc<Blob<D::File>>,
    is_over: bool,
}

impl<'a, D: Disk> Removal<'a, D> {
    /// Before its file goes: who reads the blob now and fails knows why.
    fn begin(store: &'a Store<D>, blob: &'a Rc<Blob<D::File>>) -> Self {
        store.blobs.borrow_mut()[blob.slot as usize] = None;
        Self {
            store,
            blob,
            is_over: false,
        }
    }

    fn end(mut self) {
        self.is_over = true;
    }
}

impl<D: Disk> Drop for Removal<'_, D> {
    fn drop(&mut self) {
        if self.is_over || bug::is_planted(Bug::DroppedRemovalForgotten) {
            return;
        }
        let slot = self.blob.slot as usize;
        self.store.blobs.borrow_mut()[slot] = Some(Rc::clone(self.blob));
        // An opening would take the records of a blob that a checkpoint lacks for new ones, and a blob that it names and is gone for lost.
        self.store.is_index_behind.set(true);
    }
}
