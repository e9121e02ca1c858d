//! Group commit without a timer: while a group is being written, what is queued for its classes waits for the next one.
//!
//! One task runs [`Store::run_commits`]. It takes what should go down together (`queue`), has it laid out as one group (`lay_out`) and written
//! durably, and only then enters the records into the index and answers. Several groups are on their way at once, each in a blob of its own: one
//! for a class, and a second (its second *lane*) if what waits is worth a request. What must stay true: **an ack leaves after the sync that covers
//! it ended** (counted when it does not), a blob has one group on its way at most, a place in it is
//! written once (but for zeros `ahead`), and no sync is repeated.
//!
//! Which blob takes a group, and how blobs begin and end, is in `seal`.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;

use crate::blobs::{Blob, Claim};
use crate::buffer::IoBuffer;
use crate::bug::{self, Bug};
use crate::disk::{Disk, DiskError, FailedWrite};
use crate::error::PutError;
use crate::gather::Gather;
use crate::lay_out::Placed;
use crate::layout::GROUP_HEADER_BYTES;
use crate::poison::WriteOperation;
use crate::queue::{Batch, ClassSet, InFlight, Item, Work};
use crate::record::Kind;
use crate::states::{Known, State};
use crate::store::Store;
use crate::wait::yield_now;

/// Bytes of groups on their way, after which no further one is begun; each group is copied from its pieces' bodies.
const FLIGHT_BYTES_MAX: u64 = 8 << 20;

/// A group on its way to disk.
struct Flight<'a, F> {
    class: usize,
    lane: usize,
    /// The classes of its records.
    classes: ClassSet,
    blob: Rc<Blob<F>>,
    claim: Claim,
    placed: Vec<Placed>,
    writing: Pin<Box<dyn Future<Output = Result<(), FailedWrite>> + 'a>>,
}

/// All groups on their way.
struct Flights<'a, F> {
    list: Vec<Flight<'a, F>>,
}

impl<'a, F> Flights<'a, F> {
    fn new() -> Self {
        Self { list: Vec::new() }
    }

    fn is_full(&self) -> bool {
        let bytes: u64 = self
            .list
            .iter()
            .map(|flight| flight.claim.written_len())
            .sum();
        bytes >= FLIGHT_BYTES_MAX
    }

    fn has(&self, blob: &Blob<F>) -> bool {
        self.list.iter().any(|flight| flight.blob.slot == blob.slot)
    }

    fn in_flight(&self) -> InFlight {
        let mut all = InFlight::default();
        for flight in &self.list {
            all.lanes[flight.class][flight.lane] = true;
            all.classes.extend(flight.classes);
        }
        all
    }

    /// Waits until one more group is down, or `other` is there.
    async fn landed_or(
        &mut self,
        other: impl Future<Output = ()>,
    ) -> Option<(Flight<'a, F>, Result<(), FailedWrite>)> {
        let mut other = pin!(other);
        poll_fn(|context| {
            for at in 0..self.list.len() {
                if let Poll::Ready(outcome) = self.list[at].writing.as_mut().poll(context) {
                    return Poll::Ready(Some((self.list.remove(at), outcome)));
                }
            }
            other.as_mut().poll(context).map(|()| None)
        })
        .await
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
        self.drop_old_checkpoints().await;
        self.seal_leftovers().await;
        let store: &Self = &self;
        let mut flights = Flights::new();
        loop {
            // A checkpoint waits until nothing is on its way, and keeps what is queued waiting.
            if store.is_checkpoint_due()
                && (flights.list.is_empty() || bug::is_planted(Bug::CheckpointMidGroup))
            {
                store.checkpoint_now().await;
            }
            store.seal_wanted(|blob| flights.has(blob)).await;
            while !store.is_checkpoint_due()
                && let Some(batch) = store.next_batch(&flights)
            {
                store.launch(batch, &mut flights).await;
            }
            if !flights.list.is_empty() {
                if let Some((flight, outcome)) = flights.landed_or(store.work.take()).await {
                    store.retire(flight, outcome);
                    // Who was answered may have more: it goes into one group.
                    yield_now().await;
                }
            } else if store.is_checkpoint_due() {
                continue;
            } else if store.is_closing.get() {
                break;
            } else {
                store.work.take().await;
            }
        }
        self.wanted_seals.take();
        self.attest_all().await;
        self.checkpoint_at_close().await;
        self.stopped.set();
    }

    fn next_batch(&self, flights: &Flights<'_, D::File>) -> Option<Batch> {
        if flights.is_full() {
            return None;
        }
        let in_flight = flights.in_flight();
        self.queues
            .borrow_mut()
            .next_batch(&in_flight, &self.options)
    }

    /// Starts writing a group.
    async fn launch<'a>(&'a self, batch: Batch, flights: &mut Flights<'a, D::File>) {
        if self.is_read_only() {
            return self.refuse(batch.items, PutError::ReadOnly);
        }
        let blob = match self.blob_for(&batch).await {
            Ok(blob) => blob,
            Err(error) => return self.refuse(batch.items, error),
        };
        let (class, lane, classes) = (batch.class.index(), batch.lane, batch.classes);
        let claim = self.claim_for(&blob, &batch);
        let is_hasty = bug::is_planted(Bug::AckBeforeSync)
            || bug::is_planted(Bug::UnlinkBeforeSync)
                && batch
                    .items
                    .iter()
                    .all(|item| matches!(item.work, Work::Move { .. }));
        let (bytes, mut placed) = self.lay_out(&blob, &claim, batch);
        if bug::is_planted(Bug::IndexBeforeData) {
            self.publish(&mut placed);
        }
        let (file, offset) = (blob.file.clone(), claim.offset);
        let writing =
            Box::pin(async move { self.write_group(&file, offset, bytes, is_hasty).await });
        flights.list.push(Flight {
            class,
            lane,
            classes,
            blob,
            claim,
            placed,
            writing,
        });
    }

    async fn write_group(
        &self,
        file: &D::File,
        offset: u64,
        bytes: Gather,
        is_hasty: bool,
    ) -> Result<(), FailedWrite> {
        if is_hasty {
            let mut buffer = IoBuffer::zeroed(bytes.len());
            buffer.copy_from_slice(&bytes.runs().concat());
            let len = buffer.len();
            let (written, _) = self.disk.write(file, offset, buffer, len).await;
            return WriteOperation::Write.check(written);
        }
        let written = self.disk.write_durably(file, offset, bytes).await;
        match written {
            Err(FailedWrite {
                operation: WriteOperation::Sync,
                ..
            }) if bug::is_planted(Bug::FailedSyncRetried) => {
                WriteOperation::Sync.check(self.disk.sync(file).await)
            }
            Err(FailedWrite {
                error: DiskError::ShortWrite { .. },
                ..
            }) if bug::is_planted(Bug::ShortWriteIgnored) => Ok(()),
            written => written,
        }
    }

    /// Answers a group that is down.
    fn retire(&self, flight: Flight<'_, D::File>, outcome: Result<(), FailedWrite>) {
        let Flight {
            blob,
            claim,
            mut placed,
            ..
        } = flight;
        if blob.is_displaced.get() && outcome.is_ok() {
            // Nobody finds it there after a restart, or only by luck.
            self.has_failed_writes.set(true);
            self.doubt(&blob, &placed);
            return self.answer_all(placed, Err(PutError::Disk(DiskError::NotFound)));
        }
        // G1: nothing is visible or answered before its group is settled as durable.
        match self.settle_group(&blob, &claim, &placed, outcome) {
            Ok(()) => {
                self.publish(&mut placed);
                if bug::is_planted(Bug::LastWaiterDropped) && placed.len() > 1 {
                    placed.pop();
                }
                self.acknowledge(&blob, &claim, placed);
            }
            Err(error) => {
                self.doubt(&blob, &placed);
                self.answer_all(placed, Err(error));
            }
        }
    }

    /// Notes the pieces that the next opening may find deleted or in the trash, though nobody was told so.
    fn doubt(&self, blob: &Blob<D::File>, placed: &[Placed]) {
        let mut doubted = self.doubted.borrow_mut();
        for record in placed.iter().map(|placed| &placed.footer_entry.record) {
            if matches!(record.kind, Kind::Tombstone | Kind::Trash) {
                doubted.insert((blob.satellite_of(record), record.id));
            }
        }
    }

    /// Enters into the books of a blob what became of one of its groups.
    pub(crate) fn settle_group(
        &self,
        blob: &Blob<D::File>,
        claim: &Claim,
        placed: &[Placed],
        outcome: Result<(), FailedWrite>,
    ) -> Result<(), PutError> {
        if let Err(FailedWrite {
            operation: WriteOperation::Write,
            error,
        }) = outcome
        {
            self.has_failed_writes.set(true);
            // Of what was written in part nobody knows what a crash leaves: nothing goes there again.
            let end = claim.offset + claim.written_len();
            blob.update_tail(|tail| tail.append_at = tail.append_at.max(end));
            return Err(self.write_failed(blob.id, WriteOperation::Write, error));
        }
        let tail = blob.tail.get();
        let file_len = tail.file_len.max(claim.offset + claim.written_len());
        let grown_bytes = file_len - tail.file_len;
        blob.update_tail(|tail| {
            tail.file_len = file_len;
            tail.attested_number = claim.durable_number;
            if !placed.is_empty() {
                tail.last_full_number = claim.number;
            }
        });
        if let Some(log) = &mut *blob.log.borrow_mut() {
            log.entries
                .extend(placed.iter().map(|record| record.footer_entry));
            log.group_count += 1;
            // What was written ahead is skipped until a group is written over it.
            log.skipped_bytes = log.skipped_bytes + grown_bytes - claim.len;
        }
        for record in placed {
            blob.count_record(&record.footer_entry.record);
        }
        self.add_replay_cost(1 + placed.len() as u64);
        let body_bytes: u64 = placed.iter().map(|record| record.body_len).sum();
        let record_overheads: u64 = placed.iter().map(|record| record.overhead_bytes).sum();
        let overhead_bytes = record_overheads + GROUP_HEADER_BYTES as u64;
        self.count(|counters| {
            counters.groups += 1;
            counters.bytes_written += claim.written_len();
            counters.piece_bytes_written += body_bytes;
        });
        self.account(|space| {
            space.file_bytes += grown_bytes;
            space.skipped_bytes = space.skipped_bytes + grown_bytes - claim.len;
            // Dead until durable: `publish` brings them to life.
            space.dead_bytes += body_bytes;
            space.overhead_bytes += overhead_bytes;
            space.padding_bytes += claim.len - body_bytes - overhead_bytes;
        });
        if let Err(FailedWrite { operation, error }) = outcome {
            return Err(self.write_failed(blob.id, operation, error));
        }
        if bug::is_planted(Bug::AckBeforeSync) {
            return Ok(());
        }
        self.count(|counters| counters.syncs += 1);
        blob.update_tail(|tail| tail.synced_number = claim.number);
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
                    sequence: header.sequence,
                };
                self.put_in(fingerprint, &known, state);
            }
        }
    }

    fn acknowledge(&self, blob: &Blob<D::File>, claim: &Claim, placed: Vec<Placed>) {
        let is_early = claim.number > blob.tail.get().synced_number;
        for record in &placed {
            if record.is_moved {
                self.count(|counters| {
                    counters.records_moved += 1;
                    counters.moved_bytes += record.body_len;
                });
                continue;
            }
            let header = &record.footer_entry.record;
            if matches!(header.kind, Kind::Piece | Kind::Tombstone) {
                let name = (blob.satellite_of(header), header.id);
                self.doubted.borrow_mut().remove(&name);
            }
            self.count(|counters| {
                counters.acks += 1;
                counters.acks_before_sync += u64::from(is_early);
                match header.kind {
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
            if result.is_ok() || !bug::is_planted(Bug::ReservationLeaks) {
                self.account(|space| space.reserved_bytes -= record.reserved_bytes);
            }
            record.done.send(result);
        }
    }

    pub(crate) fn refuse(&self, items: impl IntoIterator<Item = Item>, error: PutError) {
        for item in items {
            self.account(|space| space.reserved_bytes -= item.reserved_bytes);
            item.done.send(Err(error));
        }
    }
}
