//! Checkpoints: what the store knows, written to a file now and then, so that the next opening need not read the blobs.
//!
//! * A checkpoint is a cache. Nothing acked depends on it, so a failure to write one is not final; a bad or missing one costs a
//!   rebuild. Opening with one is in `recover`.
//! * It is written between two groups: all that was written is durable then, and nothing changes what is known meanwhile. The committer
//!   does it itself, so puts wait and gets go on; compaction's changes outside the committer wait at [`Store::hold_still`].
//! * Before compaction removes a blob that the checkpoint names, a note of it is appended and synced; so a blob that is missing without
//!   one was lost.
//! * Before anything is written, all checkpoints but the one that was opened with are removed: they do not know what comes.
//!
//! Cost: 12 bytes a piece record, 32 if it is in the trash, and 56 for each record of a blob that is not sealed, at the speed of the disk. Frozen by docs/format.md section 6.

use std::rc::Rc;

use crate::aside::Aside;
use crate::blobs::{Blob, BlobTally};
use crate::bug::{self, Bug};
use crate::bytes_at::{array_at, put, u32_at, u64_at};
use crate::disk::{Disk, DiskError, FileId};
use crate::error::{Damage, PutError};
use crate::expiry::Columns;
use crate::footer::ENTRY_BYTES;
use crate::index::{self, Entry, Index, TABLES};
use crate::known::{
    self, BLOB_BYTES, KnownBlob, ROT_BYTES, SATELLITE_BYTES, TABLE_ENTRY_BYTES, TRASHED_BYTES,
};
use crate::layout::BlobId;
use crate::parts::{PART_BYTES_MAX, PartKind, PartReader, PartWriter};
use crate::poison::WriteOperation;
use crate::recover::Rot;
use crate::states::{Hurt, State, Trashed};
use crate::store::{Store, StoreOptions};
use crate::wait::{KeyGuard, Sender, oneshot};

//= docs/format.md#checkpoint
/// G10: what may be left to an opening to read again, in records: a second or so, and some seconds on a spinning disk.
///
/// A store of more than a million records may leave it a quarter of them, so that checkpoints cost at most 48 bytes a record written.
const REPLAY_COST_MIN: u64 = 1 << 18;

fn is_much(replay_cost: u64, record_count: u64) -> bool {
    replay_cost >= REPLAY_COST_MIN && replay_cost >= record_count / 4
}

/// What reading the headers and footer of a blob counts for, in records: a spinning disk reads some thousand footer entries in
/// the time of a few seeks.
pub(crate) const BLOB_COST: u64 = 4_096;

/// What is kept in tables, and the length of an item.
const TABLE_KINDS: [(PartKind, usize); 3] = [
    (PartKind::Index, TABLE_ENTRY_BYTES),
    (PartKind::Dead, TABLE_ENTRY_BYTES),
    (PartKind::Trash, TRASHED_BYTES),
];

const HEAD_BYTES: usize = 96;
const END_BYTES: usize = 24;
const REMOVED_BYTES: usize = 8;

/// The checkpoint files of a store.
pub(crate) struct Checkpoints<F> {
    /// The one that the next opening would use.
    pub(crate) current: Option<Current<F>>,
    /// Others that lie there.
    pub(crate) others: Vec<u64>,
    pub(crate) next_number: u64,
}

/// The newest whole checkpoint.
pub(crate) struct Current<F> {
    pub(crate) number: u64,
    pub(crate) file: F,
    /// Where the next note goes.
    pub(crate) end: u64,
    /// It names no blob from here on.
    pub(crate) next_blob: u64,
    /// It knows no record from this sequence on.
    pub(crate) next_sequence: u64,
}

/// Asks for a checkpoint; true once it is written.
pub(crate) type Wanted = Sender<Result<bool, PutError>>;

/// A checkpoint that was read.
pub(crate) struct Checkpoint<F> {
    pub(crate) current: Current<F>,
    pub(crate) key: [u8; 32],
    /// Places are in the slots of `blobs`.
    pub(crate) index: Index,
    pub(crate) dead: Index,
    pub(crate) trash: Aside<Trashed>,
    /// Ids rising.
    pub(crate) blobs: Vec<KnownBlob>,
    pub(crate) rotten: Vec<Rot>,
    /// Blobs that compaction removed since.
    pub(crate) removed: Vec<BlobId>,
}

impl<D: Disk> Store<D> {
    /// Writes a checkpoint as soon as no group is on its way. False: none was written, because after a failed
    /// write or read an opening has to look first at what the blobs really hold.
    ///
    /// The store writes them by itself when it is closed, and often enough that an opening has little to read again.
    ///
    /// # Errors
    ///
    /// [`PutError::Full`], [`PutError::ReadOnly`], [`PutError::Closed`], or what the disk said. The store goes on as before.
    pub async fn checkpoint(&self) -> Result<bool, PutError> {
        self.check_open()?;
        let (wanted, answer) = oneshot();
        self.wanted_checkpoints.borrow_mut().push(wanted);
        self.work.set();
        answer.receive().await.unwrap_or(Err(PutError::Closed))
    }

    /// Keeps what is known as it is, until the guard is dropped.
    pub(crate) async fn hold_still(&self) -> KeyGuard {
        self.stillness.lock(0).await
    }

    /// Notes that an opening would have so much more to read, in records.
    pub(crate) fn add_replay_cost(&self, cost: u64) {
        self.replay_cost
            .set(self.replay_cost.get().saturating_add(cost));
    }

    /// Removes the checkpoints that do not know what this store will write.
    pub(crate) async fn drop_old_checkpoints(&self) {
        if let Err(error) = self.remove_others().await {
            // They would be believed by a later opening.
            let number = BlobId(self.next_blob.get());
            self.poison.set(number, WriteOperation::Remove, error);
        }
    }

    /// Whether somebody asked for a checkpoint, or an opening would have much to read.
    pub(crate) fn is_checkpoint_due(&self) -> bool {
        let cost = self.replay_cost.get();
        // Counting the records is a pass over the index's tables, and this is asked after every group.
        let record_count = || self.index.borrow().len() + self.dead.borrow().len();
        (cost >= REPLAY_COST_MIN
            && is_much(cost, record_count() as u64)
            && !bug::is_planted(Bug::NoCheckpointByItself))
            || !self.wanted_checkpoints.borrow().is_empty()
    }

    /// Writes a checkpoint. For the committer, while no group is on its way.
    pub(crate) async fn checkpoint_now(&self) {
        let wanted = self.wanted_checkpoints.take();
        self.write_and_answer(wanted).await;
    }

    /// The last thing a committer does.
    pub(crate) async fn checkpoint_at_close(&self) {
        if self.replay_cost.get() > 0 || self.is_checkpoint_due() {
            self.checkpoint_now().await;
        }
    }

    async fn write_and_answer(&self, wanted: Vec<Wanted>) {
        let result = self.write_checkpoint().await;
        // Also after a failure: the next try comes when as much again was written.
        self.replay_cost.set(0);
        for wanted in wanted {
            wanted.send(result);
        }
    }

    async fn write_checkpoint(&self) -> Result<bool, PutError> {
        if self.is_read_only() {
            return Err(PutError::ReadOnly);
        }
        let _still = self.hold_still().await;
        if self.has_failed_writes.get() || self.is_index_behind.get() {
            return Ok(false);
        }
        self.check_checkpoint_room()?;
        if bug::is_planted(Bug::CheckpointRewritten) {
            self.forget_current();
            let _is_gone = self.remove_others().await;
        }
        self.leave_zeros();
        let number = {
            let mut checkpoints = self.checkpoints.borrow_mut();
            checkpoints.next_number += 1;
            checkpoints.next_number - 1
        };
        let id = FileId::Checkpoint(number);
        let file = self.disk.create(id).await.map_err(full_or_disk)?;
        let written = match self.write_parts(&file, number).await {
            Ok(end) => self.disk.sync(&file).await.map(|()| end),
            Err(error) => Err(error),
        };
        let end = match written {
            Ok(end) => end,
            Err(error) => {
                // It is not whole, and the next one is named otherwise: nothing is lost if it stays.
                if self.disk.remove(id).await.is_err() {
                    self.checkpoints.borrow_mut().others.push(number);
                }
                return Err(full_or_disk(error));
            }
        };
        {
            let mut checkpoints = self.checkpoints.borrow_mut();
            let current = Current {
                number,
                file,
                end,
                next_blob: self.next_blob.get(),
                next_sequence: self.next_sequence.get(),
            };
            if let Some(before) = checkpoints.current.replace(current) {
                checkpoints.others.push(before.number);
            }
        }
        self.count(|counters| counters.checkpoints += 1);
        // Any that stays is removed with the next one, or before an opening writes.
        let _may_stay = self.remove_others().await;
        Ok(true)
    }

    fn check_checkpoint_room(&self) -> Result<(), PutError> {
        let hurt = self.damaged.borrow().len();
        let entries = self.index.borrow().len() + self.dead.borrow().len() + hurt;
        let trashed = self.trash.borrow().len() + hurt;
        let blobs = self.blobs.borrow();
        let of_blob = |blob: &Rc<Blob<D::File>>| {
            let satellites = blob.header.satellites.len() * SATELLITE_BYTES;
            let log = blob.log.borrow();
            let records = log.as_ref().map_or(0, |log| log.entries.len());
            BLOB_BYTES + satellites + records * ENTRY_BYTES
        };
        let blobs: usize = blobs.iter().flatten().map(of_blob).sum();
        let content = entries * TABLE_ENTRY_BYTES + trashed * TRASHED_BYTES + blobs;
        // The last part of each kind, and a little for the headers of the others.
        let wanted = (content + content / 64 + PART_BYTES_MAX) as u64;
        let spare = self.options.tombstone_reserve_bytes() + self.space().reserved_bytes;
        if self.disk.free_bytes()? < wanted + spare {
            return Err(PutError::Full);
        }
        Ok(())
    }

    async fn write_parts(&self, file: &D::File, number: u64) -> Result<u64, DiskError> {
        let mut writer = PartWriter::new(&self.disk, file, number, 0);
        let blobs: Vec<_> = self.blobs.borrow().iter().flatten().cloned().collect();
        let rotten = self.lasting_rot(&blobs);
        let head = self.head(blobs.len(), rotten.len());
        writer.items(PartKind::Head, HEAD_BYTES, &head).await?;
        let mut counts = [0; END_BYTES];
        for (nth, (kind, item_len)) in TABLE_KINDS.into_iter().enumerate() {
            let mut all_count = 0;
            for table in 0..TABLES {
                let items = self.items_of(kind, table);
                let count = (items.len() / item_len) as u32;
                all_count += u64::from(count);
                writer.items(kind, 4, &count.to_le_bytes()).await?;
                writer.items(kind, item_len, &items).await?;
            }
            put(&mut counts, 8 * nth, &all_count.to_le_bytes());
        }
        let tallies = self.tallies_before_damage(&blobs);
        for (blob, tally) in blobs.iter().zip(&tallies) {
            let (fixed, satellites, records) = known::encode_blob(blob, tally);
            let kind = PartKind::Blobs;
            writer.items(kind, BLOB_BYTES, &fixed).await?;
            writer.items(kind, SATELLITE_BYTES, &satellites).await?;
            writer.items(kind, ENTRY_BYTES, &records).await?;
        }
        for rot in &rotten {
            let bytes = known::encode_rot(rot);
            writer.items(PartKind::Rotten, ROT_BYTES, &bytes).await?;
        }
        writer.items(PartKind::End, END_BYTES, &counts).await?;
        writer.flush().await
    }

    /// A table of an index or of the trash. Damaged pieces are what they were before, so it does not matter when damage is found.
    fn items_of(&self, kind: PartKind, table: usize) -> Vec<u8> {
        let damaged = self.damaged.borrow();
        match kind {
            PartKind::Index => {
                let hurt = damaged
                    .of_table(table)
                    .filter(|(_, _, hurt)| hurt.before() == State::Live);
                let hurt = hurt.map(|(fingerprint, entry, _)| (index::tag_of(fingerprint), entry));
                known::encode_entries(self.index.borrow().entries_of(table).chain(hurt))
            }
            PartKind::Trash => {
                let trashed = |(fingerprint, entry, hurt): (u64, Entry, Hurt)| {
                    let trashed = Trashed {
                        since_s: hurt.trashed_s?,
                        body_len: hurt.body_len,
                        sequence: hurt.sequence,
                    };
                    Some((fingerprint, entry, trashed))
                };
                let hurt = damaged.of_table(table).filter_map(trashed);
                known::encode_trash(self.trash.borrow().of_table(table).chain(hurt))
            }
            _ if bug::is_planted(Bug::CheckpointForgetsDead) => Vec::new(),
            _ => known::encode_entries(self.dead.borrow().entries_of(table)),
        }
    }

    /// What the blobs' tallies would be if no damage had been found.
    pub(crate) fn tallies_before_damage(&self, blobs: &[Rc<Blob<D::File>>]) -> Vec<BlobTally> {
        let mut tallies: Vec<_> = blobs.iter().map(|blob| blob.tally.get()).collect();
        for (_, entry, hurt) in self.damaged.borrow().iter() {
            let slot = entry.place().slot;
            if let Ok(at) = blobs.binary_search_by_key(&slot, |blob| blob.slot) {
                let columns = Columns::of(&blobs[at].header);
                let body_len = u64::from(hurt.body_len);
                tallies[at].enter(columns, hurt.before(), body_len, hurt.expiry_s);
            }
        }
        tallies
    }

    /// The rot that every opening should report, though it may not read those blobs.
    fn lasting_rot(&self, blobs: &[Rc<Blob<D::File>>]) -> Vec<Rot> {
        let is_open = |id: BlobId| {
            blobs
                .iter()
                .any(|blob| blob.id == id && blob.log.borrow().is_some())
        };
        let rotten = self.rotten.iter();
        rotten
            .filter(|rot| is_open(rot.blob) && known::damage_number(rot.damage).is_some())
            .copied()
            .collect()
    }

    fn head(&self, blob_count: usize, rot_count: usize) -> [u8; HEAD_BYTES] {
        let mut head = [0; HEAD_BYTES];
        put(&mut head, 0, &self.options.node_id);
        put(&mut head, 32, &self.fingerprinter.key());
        put(
            &mut head,
            64,
            &self.options.danger_fingerprint_bits.to_le_bytes(),
        );
        put(&mut head, 68, &(blob_count as u32).to_le_bytes());
        put(&mut head, 72, &(rot_count as u32).to_le_bytes());
        put(&mut head, 80, &self.next_blob.get().to_le_bytes());
        put(&mut head, 88, &self.next_sequence.get().to_le_bytes());
        head
    }

    /// Makes it known that a blob is about to be removed. If that cannot be written, the checkpoint goes instead.
    ///
    /// # Errors
    ///
    /// If neither worked; then the blob has to stay.
    pub(crate) async fn note_removal(&self, blob: BlobId) -> Result<(), DiskError> {
        if bug::is_planted(Bug::RemovalNotNoted) {
            return Ok(());
        }
        self.remove_others().await?;
        let Some((number, file, end)) = self.noting_place(blob) else {
            return Ok(());
        };
        let mut writer = PartWriter::new(&self.disk, &file, number, end);
        let item = blob.0.to_le_bytes();
        let noted = async {
            writer
                .items(PartKind::Removed, REMOVED_BYTES, &item)
                .await?;
            let end = writer.flush().await?;
            self.disk.sync(&file).await?;
            Ok::<_, DiskError>(end)
        };
        match noted.await {
            Ok(end) => {
                if let Some(current) = &mut self.checkpoints.borrow_mut().current {
                    current.end = end;
                }
                Ok(())
            }
            Err(_) => {
                self.forget_current();
                self.remove_others().await
            }
        }
    }

    /// Takes the current checkpoint for one to be removed.
    fn forget_current(&self) {
        let mut checkpoints = self.checkpoints.borrow_mut();
        if let Some(current) = checkpoints.current.take() {
            checkpoints.others.push(current.number);
        }
    }

    fn noting_place(&self, blob: BlobId) -> Option<(u64, D::File, u64)> {
        let checkpoints = self.checkpoints.borrow();
        let current = checkpoints.current.as_ref()?;
        (blob.0 < current.next_blob).then(|| (current.number, current.file.clone(), current.end))
    }

    /// Removes all checkpoints but the current one; an error if one is still there.
    async fn remove_others(&self) -> Result<(), DiskError> {
        let others = std::mem::take(&mut self.checkpoints.borrow_mut().others);
        let mut result = Ok(());
        for number in others {
            match self.disk.remove(FileId::Checkpoint(number)).await {
                Ok(()) | Err(DiskError::NotFound) => {}
                Err(error) => {
                    self.checkpoints.borrow_mut().others.push(number);
                    result = Err(error);
                }
            }
        }
        result
    }
}

fn full_or_disk(error: DiskError) -> PutError {
    if error == DiskError::NoSpace {
        PutError::Full
    } else {
        PutError::Disk(error)
    }
}

impl<F> Checkpoints<F> {
    /// What to know of the files of these numbers, one of which was opened with.
    pub(crate) fn new(numbers: &[u64], current: Option<Current<F>>) -> Self {
        let used = current.as_ref().map(|current| current.number);
        Self {
            others: numbers
                .iter()
                .copied()
                .filter(|&number| Some(number) != used)
                .collect(),
            next_number: numbers
                .iter()
                .max()
                .map_or(1, |last| last.saturating_add(1)),
            current,
        }
    }
}

impl<F> Checkpoint<F> {
    /// Reads a checkpoint; `None` if it is not whole, or not of this node.
    pub(crate) async fn read<D: Disk<File = F>>(
        disk: &D,
        options: &StoreOptions,
        number: u64,
    ) -> Option<Self> {
        let file = disk.open(FileId::Checkpoint(number)).await.ok()?;
        // What a killed process left may not be durable yet, and notes will be appended.
        disk.sync(&file).await.ok()?;
        let mut reader = PartReader::new(disk, &file, number);
        let head: [u8; HEAD_BYTES] = array_at(reader.item(PartKind::Head, HEAD_BYTES).await?, 0);
        let is_ours =
            head[..32] == options.node_id && u32_at(&head, 64) == options.danger_fingerprint_bits;
        if !is_ours {
            return None;
        }
        let index = known::read_index(&mut reader, PartKind::Index).await?;
        let dead = known::read_index(&mut reader, PartKind::Dead).await?;
        let trash = known::read_trash(&mut reader).await?;
        let blobs = known::read_blobs(&mut reader, options, u32_at(&head, 68)).await?;
        let mut rotten = Vec::new();
        for _ in 0..u32_at(&head, 72) {
            rotten.push(known::parse_rot(
                reader.item(PartKind::Rotten, ROT_BYTES).await?,
            )?);
        }
        let counts = reader.item(PartKind::End, END_BYTES).await?;
        let found = [index.len(), dead.len(), trash.len()].map(|count| count as u64);
        if found != [0, 8, 16].map(|at| u64_at(counts, at)) {
            return None;
        }
        let mut removed = Vec::new();
        let mut end = reader.offset();
        while let Some(item) = reader.item(PartKind::Removed, REMOVED_BYTES).await {
            removed.push(BlobId(u64_at(item, 0)));
            end = reader.offset();
        }
        Some(Self {
            key: array_at(&head, 32),
            current: Current {
                number,
                end,
                next_blob: u64_at(&head, 80),
                next_sequence: u64_at(&head, 88),
                file,
            },
            index,
            dead,
            trash,
            blobs,
            rotten,
            removed,
        })
    }

    /// What of its blobs should be there and is not, given the files that are: blob, and how much of it is left.
    pub(crate) fn lost(&self, files: &[(BlobId, u64)]) -> Vec<Rot> {
        let known = self.blobs.iter().filter_map(|known| {
            let (blob, wanted_len) = (known.header.blob, known.tail.file_len);
            let at = files.binary_search_by_key(&blob, |&(id, _)| id);
            let is_removed = at.is_err() && self.removed.contains(&blob);
            let len = at.map_or(0, |at| files[at].1);
            (len < wanted_len && !is_removed).then(|| Rot {
                blob,
                offset: len,
                len: wanted_len - len,
                damage: Damage::Missing,
            })
        });
        known.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_opening_reads_a_quarter_of_the_records_again_or_what_takes_a_second() {
        let least = REPLAY_COST_MIN;
        for (cost, records, wanted) in [
            (least - 1, 0, false),
            (least, 0, true),
            (least, 4 * least + 3, true),
            (least, 4 * least + 4, false),
            (24_999_999, 100_000_000, false),
            (25_000_000, 100_000_000, true),
        ] {
            assert_eq!(is_much(cost, records), wanted, "{cost} of {records}");
        }
    }
}
