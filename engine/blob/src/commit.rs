//! Group commit without a timer: while a class's group is on its way, everything queued for it waits for the next one.
//!
//! One task runs [`Store::run_commits`]. It takes what is queued for one expiry class, lays it out as one group and has it written durably,
//! and only then enters the records into the index and answers. Groups of several classes are on their way at once. A class that has a
//! group on its way gets a second one, in another blob (its second *lane*), only if what waits is worth a request of its own, so that
//! copying and checking go on while the disk works. What must stay true: **an ack leaves after the sync that covers it ended** (counted when it
//! does not), a blob has one group on its way at most, a place in it is written once, and no sync is repeated.
//!
//! Which blob takes a group, and how blobs begin and end, is in `seal`.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;

use bytes::Bytes;

use crate::blobs::{Blob, Claim, LANES_MAX};
use crate::buffer::IoBuffer;
use crate::bug;
use crate::disk::{Disk, DiskError, FailedWrite};
use crate::error::PutError;
use crate::footer::FooterEntry;
use crate::group::GroupPlan;
use crate::header::ExpiryClass;
use crate::index::{Entry, Place};
use crate::layout::{BLOCK_BYTES, GROUP_HEADER_BYTES, RECORD_HEADER_BYTES};
use crate::piece::NewPiece;
use crate::poison::WriteOperation;
use crate::record::{self, Kind, RecordHeader};
use crate::states::{Known, State};
use crate::store::{Store, StoreOptions};
use crate::wait::{KeyGuard, Sender, yield_now};

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
pub(crate) struct Placed {
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

/// What is taken off a queue at once.
pub(crate) struct Batch {
    pub(crate) class: ExpiryClass,
    /// Which of the class's open blobs takes it.
    pub(crate) lane: usize,
    pub(crate) items: Vec<Item>,
    pub(crate) plan: GroupPlan,
}

/// What waits for a group of one expiry class.
#[derive(Default)]
pub(crate) struct Queue {
    items: VecDeque<Item>,
    /// Their records.
    bytes: u64,
}

/// A class that has a group on its way begins another once this part of the longest group waits: enough to be worth a request of its own.
const EAGER_PARTS: u64 = 4;

/// Bytes of groups on their way, after which no further one is begun; each group is copied from its pieces' bodies.
const FLIGHT_BYTES_MAX: u64 = 8 << 20;

/// A group on its way to disk.
struct Flight<'a, F> {
    class: usize,
    lane: usize,
    blob: Rc<Blob<F>>,
    claim: Claim,
    placed: Vec<Placed>,
    writing: Pin<Box<dyn Future<Output = Result<(), FailedWrite>> + 'a>>,
}

/// All groups on their way.
struct Flights<'a, F> {
    list: Vec<Flight<'a, F>>,
    /// The class whose turn is next.
    next_class: usize,
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

impl Queue {
    pub(crate) fn push(&mut self, item: Item) {
        self.bytes += item.record_len();
        self.items.push_back(item);
    }

    /// Takes everything, to refuse it.
    pub(crate) fn take_all(&mut self) -> VecDeque<Item> {
        self.bytes = 0;
        std::mem::take(&mut self.items)
    }

    /// Takes what fits into one group.
    fn take_batch(&mut self, lane: usize, options: &StoreOptions) -> Batch {
        let mut plan = GroupPlan::new();
        let mut items: Vec<Item> = Vec::new();
        while let Some(item) = self.items.pop_front() {
            let mut longer = plan;
            longer.push(item.record_len());
            let is_full = longer.group_len() > options.group_bytes_max as u64
                || longer.record_count() > options.blob_records_max;
            if is_full && !items.is_empty() {
                self.items.push_front(item);
                break;
            }
            plan = longer;
            items.push(item);
        }
        // Many small records that just spill into another block: the last one goes with the next group.
        if items.len() >= SPILL_RECORDS_MIN
            && let Some(last) = items.pop()
        {
            let mut shorter = GroupPlan::new();
            for item in &items {
                shorter.push(item.record_len());
            }
            let is_spill = last.record_len() <= SPILL_RECORD_BYTES_MAX
                && plan.end() % BLOCK_BYTES as u64 <= SPILL_BYTES_MAX
                && shorter.group_len() < plan.group_len();
            if is_spill {
                plan = shorter;
                self.items.push_front(last);
            } else {
                items.push(last);
            }
        }
        let taken: u64 = items.iter().map(Item::record_len).sum();
        self.bytes -= taken;
        Batch {
            class: items[0].class,
            lane,
            items,
            plan,
        }
    }
}

/// A group of fewer records is never shortened: the one left out waits for a whole group more.
const SPILL_RECORDS_MIN: usize = 32;

/// Nor is a group of longer records, or one that fills more of its last block.
const SPILL_RECORD_BYTES_MAX: u64 = BLOCK_BYTES as u64;
const SPILL_BYTES_MAX: u64 = BLOCK_BYTES as u64 / 4;

impl<'a, F> Flights<'a, F> {
    fn new() -> Self {
        Self {
            list: Vec::new(),
            next_class: 0,
        }
    }

    fn is_full(&self) -> bool {
        let bytes: u64 = self.list.iter().map(|flight| flight.claim.len).sum();
        bytes >= FLIGHT_BYTES_MAX
    }

    fn has_lane(&self, class: usize, lane: usize) -> bool {
        self.list
            .iter()
            .any(|flight| (flight.class, flight.lane) == (class, lane))
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
            if store.is_checkpoint_due() && flights.list.is_empty() {
                store.checkpoint_now().await;
            }
            while !store.is_checkpoint_due()
                && let Some(batch) = store.next_batch(&mut flights)
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
        self.attest_all().await;
        self.checkpoint_at_close().await;
        self.stopped.set();
    }

    /// What is queued for the next class in turn that may have a group written now.
    fn next_batch(&self, flights: &mut Flights<'_, D::File>) -> Option<Batch> {
        if flights.is_full() {
            return None;
        }
        let mut queues = self.queues.borrow_mut();
        let class_count = queues.len();
        let lane_count = self.options.lanes_max.clamp(1, LANES_MAX as u8) as usize;
        let eager_bytes = (self.options.group_bytes_max as u64 / EAGER_PARTS).max(1);
        let free_lane = |class: usize| {
            let lane = (0..lane_count).find(|&lane| !flights.has_lane(class, lane))?;
            let is_busy = (0..lane_count).any(|lane| flights.has_lane(class, lane));
            let bytes_min = if is_busy { eager_bytes } else { 1 };
            (queues[class].bytes >= bytes_min).then_some((class, lane))
        };
        let (class, lane) = (0..class_count)
            .map(|turn| (flights.next_class + turn) % class_count)
            .find_map(free_lane)?;
        flights.next_class = (class + 1) % class_count;
        Some(queues[class].take_batch(lane, &self.options))
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
        let (class, lane) = (batch.class.index(), batch.lane);
        let claim = blob.claim(batch.plan.group_len());
        let (buffer, mut placed) = self.lay_out(&blob, &claim, batch);
        if bug::is_planted("index-before-data") {
            self.publish(&mut placed);
        }
        let (file, offset) = (blob.file.clone(), claim.offset);
        let writing = Box::pin(async move { self.write_group(&file, offset, buffer).await });
        flights.list.push(Flight {
            class,
            lane,
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
        buffer: IoBuffer,
    ) -> Result<(), FailedWrite> {
        let len = buffer.len();
        if bug::is_planted("ack-before-sync") {
            let (written, _) = self.disk.write(file, offset, buffer, len).await;
            return WriteOperation::Write.check(written);
        }
        self.disk.write_durably(file, offset, buffer, len).await.0
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
            return self.answer_all(placed, Err(PutError::Disk(DiskError::NotFound)));
        }
        // G1: nothing is visible or answered before its group is settled as durable.
        match self.settle_group(&blob, &claim, &placed, outcome) {
            Ok(()) => {
                self.publish(&mut placed);
                self.acknowledge(&blob, &claim, placed);
            }
            Err(error) => self.answer_all(placed, Err(error)),
        }
    }

    /// Gives each record its sequence and place, and fills the group's buffer.
    fn lay_out(
        &self,
        blob: &Blob<D::File>,
        claim: &Claim,
        batch: Batch,
    ) -> (IoBuffer, Vec<Placed>) {
        let mut buffer = IoBuffer::for_overwriting(claim.len as usize);
        let header = claim.group_header(batch.plan.record_count());
        header.encode_into(&blob.check, blob.id, claim.offset, &mut buffer);
        let mut plan = GroupPlan::new();
        let placed = batch
            .items
            .into_iter()
            .map(|item| self.place(blob, claim, item, &mut plan, &mut buffer))
            .collect();
        assert_eq!(
            plan.group_len(),
            claim.len,
            "a group's plan and its records disagree"
        );
        buffer.zero_from(plan.end() as usize);
        (buffer, placed)
    }

    fn place(
        &self,
        blob: &Blob<D::File>,
        claim: &Claim,
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
        let offset = claim.offset + at;
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
            return Err(self.write_failed(blob.id, WriteOperation::Write, error));
        }
        let grown_bytes = claim.offset + claim.len - blob.tail.get().file_len;
        let skipped_bytes = grown_bytes - claim.len;
        blob.update_tail(|tail| {
            tail.file_len += grown_bytes;
            tail.attested_number = claim.durable_number;
            if !placed.is_empty() {
                tail.last_full_number = claim.number;
            }
        });
        if let Some(log) = &mut *blob.log.borrow_mut() {
            log.entries
                .extend(placed.iter().map(|record| record.footer_entry));
            log.group_count += 1;
            log.skipped_bytes += skipped_bytes;
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
            counters.bytes_written += claim.len;
            counters.piece_bytes_written += body_bytes;
        });
        self.account(|space| {
            space.file_bytes += grown_bytes;
            space.skipped_bytes += skipped_bytes;
            // Dead until durable: `publish` brings them to life.
            space.dead_bytes += body_bytes;
            space.overhead_bytes += overhead_bytes;
            space.padding_bytes += claim.len - body_bytes - overhead_bytes;
        });
        if let Err(FailedWrite { operation, error }) = outcome {
            return Err(self.write_failed(blob.id, operation, error));
        }
        if bug::is_planted("ack-before-sync") {
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
}
