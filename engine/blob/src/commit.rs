//! Group commit without a timer: while one group is on its way, everything queued waits for the next one.
//!
//! One task runs [`Store::run_commits`]. It takes what is queued for one expiry class, lays it out as one group, writes it, syncs, and
//! only then enters the records into the index and answers. What must stay true: **an ack leaves after the sync that
//! covers it ended** (counted when it does not), a place in a blob is written once, and no sync is repeated.

use std::rc::Rc;

use bytes::Bytes;

use crate::blobs::{Blob, BlobLog, Tail};
use crate::buffer::IoBuffer;
use crate::bug;
use crate::disk::{Disk, DiskError};
use crate::error::PutError;
use crate::footer::FooterEntry;
use crate::group::{GroupHeader, GroupPlan};
use crate::header::{BlobHeader, ExpiryClass};
use crate::index::{BLOBS_MAX, Entry, Place};
use crate::layout::{
    BLOB_HEADER_BYTES, BLOCK_BYTES, BlobId, GROUP_HEADER_BYTES, RECORD_HEADER_BYTES,
};
use crate::piece::NewPiece;
use crate::poison::WriteOperation;
use crate::record::{self, Kind, RecordHeader};
use crate::states::{Known, State};
use crate::store::Store;
use crate::wait::{KeyGuard, Sender};

/// A record on its way to disk.
pub(crate) struct Item {
    pub(crate) fingerprint: u64,
    pub(crate) satellite: [u8; 32],
    pub(crate) class: ExpiryClass,
    pub(crate) work: Work,
    /// Records of the same piece that this one outranks, or says something of.
    pub(crate) replaced: Vec<Known>,
    /// Bytes promised to it.
    pub(crate) reserved_bytes: u64,
    pub(crate) done: Sender<Result<(), PutError>>,
    /// Keeps other operations on this piece waiting until this one is answered, even if its caller went away.
    pub(crate) guard: KeyGuard,
}

/// What the record says.
pub(crate) enum Work {
    Put(NewPiece),
    /// A tombstone, a trash or a restore record: `kind` says which.
    Mark {
        kind: Kind,
        id: [u8; 32],
        created_s: u32,
        expiry_s: u32,
    },
    /// A record that compaction takes elsewhere: as it is, sequence included, but for what its place implies.
    Move {
        record: RecordHeader,
        /// Body and trailer, checked.
        rest: Bytes,
    },
}

/// A record that was laid out: all that is needed once it is durable. Its body is in the group's buffer by now.
struct Placed {
    fingerprint: u64,
    entry: Entry,
    footer_entry: FooterEntry,
    is_moved: bool,
    body_len: u64,
    /// Record header and trailer.
    overhead_bytes: u64,
    replaced: Vec<Known>,
    reserved_bytes: u64,
    done: Sender<Result<(), PutError>>,
    guard: Option<KeyGuard>,
}

/// What is taken off the queue at once.
struct Batch {
    class: ExpiryClass,
    items: Vec<Item>,
    plan: GroupPlan,
}

impl Item {
    fn header(&self, satellite_slot: u8, sequence: u64) -> RecordHeader {
        match &self.work {
            Work::Put(piece) => RecordHeader {
                kind: Kind::Piece,
                path_len: piece.path.len() as u8,
                satellite_slot,
                body_len: piece.body_len() as u32,
                id: piece.id,
                created_s: piece.created_s,
                expiry_s: piece.expiry_s,
                sequence,
            },
            &Work::Mark {
                kind,
                id,
                created_s,
                expiry_s,
            } => RecordHeader {
                kind,
                path_len: 0,
                satellite_slot,
                body_len: 0,
                id,
                created_s,
                expiry_s,
                sequence,
            },
            Work::Move { record, .. } => RecordHeader {
                satellite_slot,
                ..*record
            },
        }
    }

    pub(crate) fn record_len(&self) -> u64 {
        self.header(0, 0).record_len()
    }
}

impl<D: Disk> Store<D> {
    /// Runs group commits until [`close`](Self::close); the owner spawns it once on its executor.
    ///
    /// # Panics
    ///
    /// If it is started twice.
    pub async fn run_commits(self: Rc<Self>) {
        assert!(!self.is_running.replace(true), "one committer a store");
        self.seal_leftovers().await;
        loop {
            if let Some(batch) = self.next_batch() {
                self.commit(batch).await;
            } else if self.is_closing.get() {
                break;
            } else {
                self.work.take().await;
            }
        }
        self.attest_all().await;
        self.stopped.set();
    }

    fn next_batch(&self) -> Option<Batch> {
        let mut queue = self.queue.borrow_mut();
        let class = queue.front()?.class;
        let mut plan = GroupPlan::new();
        let mut items = Vec::new();
        let mut others = std::collections::VecDeque::new();
        while let Some(item) = queue.pop_front() {
            let is_full = plan.record_count() > 0
                && (plan.group_len() >= self.options.group_bytes_max as u64
                    || plan.record_count() >= self.options.blob_records_max);
            if is_full || item.class != class {
                others.push_back(item);
            } else {
                plan.push(item.record_len());
                items.push(item);
            }
        }
        *queue = others;
        Some(Batch { class, items, plan })
    }

    async fn commit(&self, batch: Batch) {
        if self.is_read_only() {
            return self.refuse(batch.items, PutError::ReadOnly);
        }
        let blob = match self.blob_for(&batch).await {
            Ok(blob) => blob,
            Err(error) => return self.refuse(batch.items, error),
        };
        let (buffer, mut placed) = self.lay_out(&blob, batch);
        if bug::is_planted("index-before-data") {
            self.publish(&mut placed);
        }
        let number = match self.append(&blob, buffer, &placed).await {
            Ok(number) => number,
            Err(error) => return self.answer_all(placed, Err(error)),
        };
        if bug::is_planted("ack-before-sync") {
            self.publish(&mut placed);
            self.acknowledge(&blob, number, placed);
            // The bug's point: whatever the sync says comes too late.
            let _too_late = self.sync(&blob, number).await;
            return;
        }
        match self.sync(&blob, number).await {
            Ok(()) => {
                self.publish(&mut placed);
                self.acknowledge(&blob, number, placed);
            }
            Err(error) => self.answer_all(placed, Err(error)),
        }
    }

    /// Gives each record its sequence and place, and fills the group's buffer.
    fn lay_out(&self, blob: &Blob<D::File>, batch: Batch) -> (IoBuffer, Vec<Placed>) {
        let tail = blob.tail.get();
        let group_len = batch.plan.group_len();
        let mut buffer = IoBuffer::for_overwriting(group_len as usize);
        let header = GroupHeader {
            record_count: batch.plan.record_count(),
            number: tail.last_number + 1,
            durable_number: tail.synced_number,
            group_len,
        };
        header.encode_into(&blob.check, blob.id, tail.append_at, &mut buffer);
        let mut plan = GroupPlan::new();
        let placed = batch
            .items
            .into_iter()
            .map(|item| self.place(blob, item, &mut plan, &mut buffer))
            .collect();
        assert_eq!(
            plan.group_len(),
            group_len,
            "a group's plan and its records disagree"
        );
        buffer.zero_from(plan.end() as usize);
        (buffer, placed)
    }

    fn place(
        &self,
        blob: &Blob<D::File>,
        item: Item,
        plan: &mut GroupPlan,
        buffer: &mut IoBuffer,
    ) -> Placed {
        #[expect(
            clippy::expect_used,
            reason = "blob_for chose a blob whose table has every satellite of the batch"
        )]
        let satellite_slot = blob
            .satellite_slot(&item.satellite)
            .expect("a blob that knows the satellite");
        let is_moved = matches!(item.work, Work::Move { .. });
        let sequence = self.next_sequence.get();
        if !is_moved {
            self.next_sequence.set(sequence + 1);
        }
        let header = item.header(satellite_slot, sequence);
        let record_len = header.record_len();
        let before = plan.end();
        let at = plan.push(record_len);
        buffer[before as usize..at as usize].fill(0);
        let offset = blob.tail.get().append_at + at;
        let (head, rest) =
            buffer[at as usize..][..record_len as usize].split_at_mut(RECORD_HEADER_BYTES);
        header.encode_into(&blob.check, blob.id, offset, head);
        match &item.work {
            Work::Put(piece) => record::encode_body_and_trailer(piece, rest),
            Work::Move { rest: moved, .. } => rest.copy_from_slice(moved),
            Work::Mark { .. } => {}
        }
        let place = Place {
            slot: blob.slot,
            offset,
        };
        Placed {
            fingerprint: item.fingerprint,
            entry: Entry::new(place, record_len),
            footer_entry: FooterEntry {
                offset,
                record: header,
            },
            is_moved,
            body_len: u64::from(header.body_len),
            overhead_bytes: record_len - u64::from(header.body_len),
            replaced: item.replaced,
            reserved_bytes: item.reserved_bytes,
            done: item.done,
            guard: Some(item.guard),
        }
    }

    /// Writes a group at the end of the blob; returns its number.
    async fn append(
        &self,
        blob: &Blob<D::File>,
        buffer: IoBuffer,
        placed: &[Placed],
    ) -> Result<u64, PutError> {
        let before = blob.tail.get();
        let (offset, number, len) = (before.append_at, before.last_number + 1, buffer.len());
        // Whatever becomes of the write, neither its place nor its number is used again.
        blob.update_tail(|tail| {
            tail.append_at += len as u64;
            tail.last_number = number;
        });
        let (result, buffer) = self.disk.write(&blob.file, offset, buffer, len).await;
        drop(buffer);
        if let Err(error) = result {
            self.has_failed_writes.set(true);
            return Err(self.write_failed(blob.id, WriteOperation::Write, error));
        }
        blob.update_tail(|tail| {
            tail.file_len = offset + len as u64;
            tail.attested_number = before.synced_number;
            if !placed.is_empty() {
                tail.last_full_number = number;
            }
        });
        if let Some(log) = &mut *blob.log.borrow_mut() {
            log.entries
                .extend(placed.iter().map(|record| record.footer_entry));
            log.group_count += 1;
            log.skipped_bytes += offset - before.file_len;
        }
        for record in placed {
            blob.count_record(&record.footer_entry.record);
        }
        let body_bytes: u64 = placed.iter().map(|record| record.body_len).sum();
        let record_overheads: u64 = placed.iter().map(|record| record.overhead_bytes).sum();
        let overhead_bytes = record_overheads + GROUP_HEADER_BYTES as u64;
        self.count(|counters| {
            counters.groups += 1;
            counters.bytes_written += len as u64;
            counters.piece_bytes_written += body_bytes;
        });
        self.account(|space| {
            space.file_bytes += offset + len as u64 - before.file_len;
            space.skipped_bytes += offset - before.file_len;
            // Dead until durable: `publish` brings them to life.
            space.dead_bytes += body_bytes;
            space.overhead_bytes += overhead_bytes;
            space.padding_bytes += len as u64 - body_bytes - overhead_bytes;
        });
        Ok(number)
    }

    async fn sync(&self, blob: &Blob<D::File>, number: u64) -> Result<(), PutError> {
        if let Err(error) = self.disk.sync(&blob.file).await {
            self.poison.set(blob.id, WriteOperation::Sync, error);
            return Err(PutError::ReadOnly);
        }
        self.count(|counters| counters.syncs += 1);
        blob.update_tail(|tail| tail.synced_number = tail.synced_number.max(number));
        Ok(())
    }

    /// Makes records visible, and lets the next operation on each piece begin. A second call does nothing.
    fn publish(&self, placed: &mut [Placed]) {
        for record in placed {
            let Some(_guard) = record.guard.take() else {
                continue;
            };
            let fingerprint = record.fingerprint;
            let header = &record.footer_entry.record;
            let mut state = State::Live;
            for replaced in &record.replaced {
                let to = match header.kind {
                    Kind::Piece | Kind::Tombstone => State::Dead,
                    Kind::Trash => State::Trash(header.created_s),
                    Kind::Restore => State::Live,
                };
                let from = self.change(fingerprint, replaced, to);
                if record.is_moved {
                    self.revivals
                        .follow(fingerprint, replaced.entry, record.entry);
                    // Its 7 days may have ended on the way.
                    state = from.unwrap_or(State::Dead);
                }
            }
            if header.kind == Kind::Piece {
                let known = Known {
                    entry: record.entry,
                    body_len: record.body_len,
                    expiry_s: header.expiry_s,
                };
                self.put_in(fingerprint, &known, state);
            }
        }
    }

    fn acknowledge(&self, blob: &Blob<D::File>, number: u64, placed: Vec<Placed>) {
        let is_early = number > blob.tail.get().synced_number;
        for record in &placed {
            if record.is_moved {
                self.count(|counters| {
                    counters.records_moved += 1;
                    counters.moved_bytes += record.body_len;
                });
                continue;
            }
            self.count(|counters| {
                counters.acks += 1;
                counters.acks_before_sync += u64::from(is_early);
                match record.footer_entry.record.kind {
                    Kind::Piece => {
                        counters.pieces_stored += 1;
                        counters.piece_bytes_stored += record.body_len;
                    }
                    Kind::Tombstone => counters.tombstones += 1,
                    Kind::Trash => counters.pieces_trashed += 1,
                    Kind::Restore => counters.pieces_restored += 1,
                }
            });
        }
        self.answer_all(placed, Ok(()));
    }

    fn answer_all(&self, placed: Vec<Placed>, result: Result<(), PutError>) {
        for record in placed {
            self.account(|space| space.reserved_bytes -= record.reserved_bytes);
            record.done.send(result);
        }
    }

    pub(crate) fn refuse(&self, items: impl IntoIterator<Item = Item>, error: PutError) {
        for item in items {
            self.account(|space| space.reserved_bytes -= item.reserved_bytes);
            item.done.send(Err(error));
        }
    }

    /// The blob that takes this batch: the open one of its class, or a new one.
    async fn blob_for(&self, batch: &Batch) -> Result<Rc<Blob<D::File>>, PutError> {
        let group_len = batch.plan.group_len();
        let open = self.open_blobs.borrow()[batch.class.index()].clone();
        if let Some(blob) = open {
            let tail = blob.tail.get();
            let record_count = batch.items.len();
            let footer_len = blob.footer_len(record_count);
            let fits = tail.append_at + group_len + footer_len <= self.options.blob_bytes_max
                && blob.has_places(record_count, self.options.blob_records_max);
            let knows_all = batch
                .items
                .iter()
                .all(|item| blob.satellite_slot(&item.satellite).is_some());
            if (fits || tail.last_number == 0) && knows_all {
                return Ok(blob);
            }
            self.open_blobs.borrow_mut()[batch.class.index()] = None;
            self.seal(&blob).await;
            if self.is_read_only() {
                return Err(PutError::ReadOnly);
            }
        }
        let blob = self.create_blob(batch.class).await?;
        self.open_blobs.borrow_mut()[batch.class.index()] = Some(Rc::clone(&blob));
        Ok(blob)
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
        let len = buffer.len();
        if let (Err(error), _) = self.disk.write(&file, 0, buffer, len).await {
            return Err(self.write_failed(id, WriteOperation::Write, error));
        }
        // The header is durable before any group: a blob with groups and no header is rot.
        if let Err(error) = self.disk.sync(&file).await {
            self.poison.set(id, WriteOperation::Sync, error);
            return Err(PutError::ReadOnly);
        }
        self.count(|counters| {
            counters.blobs_created += 1;
            counters.syncs += 1;
            counters.bytes_written += BLOB_HEADER_BYTES;
        });
        self.account(|space| {
            space.file_bytes += BLOB_HEADER_BYTES;
            space.header_bytes += BLOB_HEADER_BYTES;
        });
        let mut blobs = self.blobs.borrow_mut();
        let log = Some(BlobLog::default());
        let blob = Rc::new(Blob::new(
            blobs.len() as u32,
            header,
            file,
            Tail::new(),
            log,
        ));
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
    async fn seal_leftovers(&self) {
        let leftovers: Vec<_> = {
            let blobs = self.blobs.borrow();
            let open = self.open_blobs.borrow();
            let is_open =
                |blob: &Blob<D::File>| open.iter().flatten().any(|open| open.id == blob.id);
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
    /// the next opening.
    async fn seal(&self, blob: &Blob<D::File>) {
        let Some(footer) = blob.footer().filter(|_| !self.is_read_only()) else {
            return self.attest(blob).await;
        };
        let tail = blob.tail.get();
        let buffer = footer.encode(&blob.check, &blob.header);
        let len = buffer.len();
        // Nothing is ever appended after a footer, whether it was written well or not.
        blob.update_tail(|tail| tail.append_at += len as u64);
        let (result, buffer) = self
            .disk
            .write(&blob.file, footer.offset, buffer, len)
            .await;
        drop(buffer);
        if let Err(error) = result {
            self.has_failed_writes.set(true);
            self.write_failed(blob.id, WriteOperation::Write, error);
            return;
        }
        blob.update_tail(|tail| tail.file_len = footer.offset + len as u64);
        self.count(|counters| counters.bytes_written += len as u64);
        self.account(|space| {
            space.file_bytes += footer.offset + len as u64 - tail.file_len;
            space.skipped_bytes += footer.offset - tail.file_len;
            space.header_bytes += len as u64;
        });
        if let Err(error) = self.disk.sync(&blob.file).await {
            self.poison.set(blob.id, WriteOperation::Sync, error);
            return;
        }
        self.count(|counters| {
            counters.syncs += 1;
            counters.blobs_sealed += 1;
        });
        blob.update_tail(|tail| tail.attested_number = tail.last_number);
        *blob.log.borrow_mut() = None;
    }

    async fn attest_all(&self) {
        let open = self.open_blobs.borrow().clone();
        for blob in open.into_iter().flatten() {
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
        let mut buffer = IoBuffer::zeroed(BLOCK_BYTES);
        let header = GroupHeader {
            record_count: 0,
            number: tail.last_number + 1,
            durable_number: tail.synced_number,
            group_len: BLOCK_BYTES as u64,
        };
        header.encode_into(&blob.check, blob.id, tail.append_at, &mut buffer);
        if let Ok(number) = self.append(blob, buffer, &[]).await {
            // A failure has poisoned the store, and there is nobody to tell.
            let _is_poisoned = self.sync(blob, number).await.is_err();
        }
    }

    /// Poisons, unless the disk is merely full; says what to answer.
    pub(crate) fn write_failed(
        &self,
        blob: BlobId,
        operation: WriteOperation,
        error: DiskError,
    ) -> PutError {
        if !error.is_harmless_to_write() {
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
