//! How blobs begin and end: the blob that takes the next group, its header, its footer, and the group that only attests.
//!
//! A blob's header is durable before its first group is written, and its footer is written once all its groups are down. What must
//! stay true: nothing is ever appended after a footer, whether it was written well or not.

use std::rc::Rc;

use crate::blobs::{Blob, BlobLog, Content, Tail};
use crate::buffer::IoBuffer;
use crate::bug::{self, Bug};
use crate::checkpoint::BLOB_COST;
use crate::disk::{Disk, DiskError, FailedWrite};
use crate::error::PutError;
use crate::header::{BlobHeader, ExpiryClass};
use crate::index::BLOBS_MAX;
use crate::layout::{BLOB_HEADER_BYTES, BLOCK_BYTES, BlobId};
use crate::poison::WriteOperation;
use crate::queue::Batch;
use crate::store::Store;

impl<D: Disk> Store<D> {
    /// The blob that takes this batch: the open one of its lane, or a new one.
    pub(crate) async fn blob_for(&self, batch: &Batch) -> Result<Rc<Blob<D::File>>, PutError> {
        let (class, lane) = (batch.class.index(), batch.lane);
        let open = self.open_blobs.borrow()[class][lane].clone();
        if let Some(blob) = open {
            if self.has_room_for(&blob, batch) {
                return Ok(blob);
            }
            self.open_blobs.borrow_mut()[class][lane] = None;
            self.seal(&blob).await;
            if self.is_read_only() {
                return Err(PutError::ReadOnly);
            }
        }
        let blob = self.create_blob(batch.class).await?;
        self.open_blobs.borrow_mut()[class][lane] = Some(Rc::clone(&blob));
        Ok(blob)
    }

    fn has_room_for(&self, blob: &Blob<D::File>, batch: &Batch) -> bool {
        let tail = blob.tail.get();
        let record_count = batch.items.len();
        let end = tail.file_len.max(tail.append_at + batch.plan.group_len())
            + blob.footer_len(record_count);
        let fits = end <= self.options.blob_bytes_max
            && blob.has_places(record_count, self.options.blob_records_max);
        let knows_all = batch
            .items
            .iter()
            .all(|item| blob.satellite_slot(&item.satellite).is_some());
        (fits || tail.last_number == 0) && knows_all
    }

    async fn create_blob(&self, class: ExpiryClass) -> Result<Rc<Blob<D::File>>, PutError> {
        if self.blobs.borrow().len() >= BLOBS_MAX as usize {
            return Err(PutError::Full);
        }
        let id = BlobId(self.next_blob.get());
        self.next_blob.set(id.0 + 1);
        let header = self.new_header(id, class);
        let file = match self.disk.create(id).await {
            Ok(file) => file,
            Err(error) => return Err(self.write_failed(id, WriteOperation::Create, error)),
        };
        let mut buffer = IoBuffer::zeroed(BLOB_HEADER_BYTES as usize);
        let (first, second) = buffer.split_at_mut(BLOCK_BYTES);
        header.encode_into(first);
        header.encode_into(second);
        // The header is durable before any group: a blob with groups and no header is rot.
        let written = if bug::is_planted(Bug::BlobHeaderNotSynced) {
            let len = buffer.len();
            let (written, _) = self.disk.write(&file, 0, buffer, len).await;
            WriteOperation::Write.check(written)
        } else {
            self.disk.write_durably(&file, 0, buffer.into()).await
        };
        if let Err(FailedWrite { operation, error }) = written {
            let failed = self.write_failed(id, operation, error);
            // Else a full disk gets one more such file with each try.
            if !self.is_read_only()
                && let Err(error) = self.disk.remove(id).await
            {
                return Err(self.write_failed(id, WriteOperation::Remove, error));
            }
            return Err(failed);
        }
        self.count(|counters| {
            counters.blobs_created += 1;
            counters.syncs += 1;
            counters.bytes_written += BLOB_HEADER_BYTES;
        });
        self.add_replay_cost(BLOB_COST);
        self.account(|space| {
            space.file_bytes += BLOB_HEADER_BYTES;
            space.header_bytes += BLOB_HEADER_BYTES;
        });
        let mut blobs = self.blobs.borrow_mut();
        let blob = Rc::new(Blob::new(
            blobs.len() as u32,
            header,
            file,
            Tail::new(),
            Content::Open(BlobLog::default()),
        ));
        blob.is_new.set(true);
        blobs.push(Some(Rc::clone(&blob)));
        Ok(blob)
    }

    fn new_header(&self, id: BlobId, class: ExpiryClass) -> BlobHeader {
        BlobHeader {
            class,
            node_id: self.options.node_id,
            blob: id,
            created_s: u64::from(self.now_s.get()),
            salt: self.salts.of(id),
            satellites: self.satellites.borrow().clone(),
        }
    }

    /// Seals the blobs that neither grow nor have a footer: the last run ended before it was written.
    pub(crate) async fn seal_leftovers(&self) {
        let leftovers: Vec<_> = {
            let blobs = self.blobs.borrow();
            let open = self.open_blobs.borrow();
            let is_open = |blob: &Blob<D::File>| {
                open.iter()
                    .flatten()
                    .flatten()
                    .any(|open| open.id == blob.id)
            };
            let is_leftover =
                |blob: &&Rc<Blob<D::File>>| !is_open(blob) && blob.log.borrow().is_some();
            blobs
                .iter()
                .flatten()
                .filter(is_leftover)
                .cloned()
                .collect()
        };
        for blob in leftovers {
            self.seal(&blob).await;
        }
    }

    /// Ends a blob with its footer. Where that is not possible the blob stays as it is, is only attested, and is read whole at
    /// the next opening. Where there is no room for the footer, it is owed.
    pub(crate) async fn seal(&self, blob: &Rc<Blob<D::File>>) {
        // Part of a footer may be where a group would attest.
        let has_owed = blob.owes_footer.take();
        if self.find_displaced(blob).await {
            return;
        }
        if blob.is_void() && !self.is_read_only() {
            return self.discard(blob).await;
        }
        let Some(footer) = blob.footer().filter(|_| !self.is_read_only()) else {
            if !has_owed {
                self.attest(blob).await;
            }
            return;
        };
        let tail = blob.tail.get();
        let buffer = footer.encode(&blob.check, &blob.header);
        let len = buffer.len();
        // Nothing is ever appended after a footer, whether it was written well or not.
        blob.update_tail(|tail| tail.append_at = footer.offset + len as u64);
        let result = self
            .disk
            .write_durably(&blob.file, footer.offset, buffer.into())
            .await;
        if let Err(FailedWrite {
            operation: WriteOperation::Write,
            error,
        }) = result
        {
            self.has_failed_writes.set(true);
            self.write_failed(blob.id, WriteOperation::Write, error);
            if !self.is_read_only() {
                blob.update_tail(|now| now.append_at = tail.append_at);
                blob.owes_footer.set(true);
            }
            return;
        }
        blob.update_tail(|tail| tail.file_len = footer.offset + len as u64);
        self.count(|counters| counters.bytes_written += len as u64);
        self.account(|space| {
            space.file_bytes += footer.offset + len as u64 - tail.file_len;
            space.skipped_bytes += footer.offset - tail.file_len;
            space.header_bytes += len as u64;
        });
        if let Err(FailedWrite { operation, error }) = result {
            self.poison.set(blob.id, operation, error);
            return;
        }
        self.count(|counters| {
            counters.syncs += 1;
            counters.blobs_sealed += 1;
        });
        if blob.is_displaced.get() {
            return;
        }
        blob.update_tail(|tail| tail.attested_number = tail.last_number);
        blob.mark_sealed(&footer);
        self.add_replay_cost(1);
    }

    pub(crate) async fn attest_all(&self) {
        let open = self.open_blobs.borrow().clone();
        for blob in open.into_iter().flatten().flatten() {
            self.attest(&blob).await;
        }
    }

    /// Ends a blob with an empty group that says its last records were durable, so that later damage to them is known as rot.
    ///
    /// Without it nothing is lost but that knowledge, so a failure only poisons.
    async fn attest(&self, blob: &Blob<D::File>) {
        let tail = blob.tail.get();
        if self.is_read_only() || !tail.needs_attesting() {
            return;
        }
        let claim = blob.claim(BLOCK_BYTES as u64, 0);
        let mut buffer = IoBuffer::zeroed(BLOCK_BYTES);
        let header = claim.group_header(0);
        header.encode_into(&blob.check, blob.id, claim.offset, &mut buffer);
        let writing = self
            .disk
            .write_durably(&blob.file, claim.offset, buffer.into());
        let written = writing.await;
        // A failure has poisoned the store, and there is nobody to tell.
        let _is_poisoned = self.settle_group(blob, &claim, &[], written).is_err();
    }

    /// Poisons, unless the disk is merely full; says what to answer.
    pub(crate) fn write_failed(
        &self,
        blob: BlobId,
        operation: WriteOperation,
        error: DiskError,
    ) -> PutError {
        let is_write = operation != WriteOperation::Sync;
        // G7: a failed sync is final, whatever its error.
        let is_harmless = error.is_harmless_to_write() && !bug::is_planted(Bug::FullDiskPoisons);
        if !(is_write && is_harmless || bug::is_planted(Bug::FailedSyncForgiven)) {
            self.poison.set(blob, operation, error);
            return PutError::ReadOnly;
        }
        if error == DiskError::NoSpace {
            PutError::Full
        } else {
            PutError::Disk(error)
        }
    }
}
