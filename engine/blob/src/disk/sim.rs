//! The simulated disk: a directory of blob files that loses, tears and fails by a seed.
//!
//! # Fault model
//!
//! * **Time.** Each operation takes a seeded number of polls, so operations of different tasks overlap and end in any order.
//! * **Crash** ([`SimDisk::crash`]). What a sync that ended well covered is kept, bit-exact. Each write that no such sync covered
//!   (ended or still in flight) is independently dropped, kept whole, or torn: every 512-byte sector of it is kept, lost (what was
//!   there before stays, zeros past the old end) or, rarely, turned to garbage. [`SimDisk::tear`] has so many percent of all sectors lost or
//!   turned instead. So unsynced writes may also appear reordered. The file's length
//!   may grow over lost writes or not. A file whose creation had not returned is there (empty) or not; the same for a removal.
//! * **Kill** ([`SimDisk::kill`]). The process dies, the machine does not: a write in flight is finished, cut short or dropped;
//!   nothing else changes, so what was not synced is still there, and still not durable.
//! * **Failing sync.** Nothing it covered is made durable, *and no later sync covers it either*, though reads still see
//!   it: what kernels do. A store that retries a sync and acks loses the data in the next crash. Who opens the file anew does not see it.
//! * **Failing write.** A seeded prefix of it may have reached the file, and counts as an unsynced write.
//! * **Moods** ([`SimDisk::set_moods`]). What the test draws for each operation: a failure, and how long it takes on the test's clock.
//! * **Injected errors** ([`SimDisk::inject`]). The n-th operation from now of the given kinds fails with EIO, ENOSPC or a short
//!   write; once, or from then on.
//! * **Unreadable** ([`SimDisk::fail_reads`], [`SimDisk::fail_reads_of`]). Every read of a file, or of some of its bytes, fails with EIO.
//! * **Full disk** ([`SimDisk::set_free_bytes`]). Writes that would grow the files beyond it fail with ENOSPC.
//! * **Misdirected** ([`Failure::Misdirected`]). A read gives the bytes of another place of the file; a write goes to another block of it, and the
//!   place that was meant stays as it was. Both succeed. [`SimDisk::take_harms`] says what was hit.
//! * **Record** ([`SimDisk::record`]). Every write, sync, creation and removal is noted, for [`DiskImage`] to build the states that a crash
//!   could have left at any point.
//! * **Rot** ([`SimDisk::edit`]). The test changes bytes behind the store's back, durably.
//! * **Unlinked file** ([`SimDisk::unlink`]). Its name is gone; who has it open reads and writes it as before, until a crash or kill.
//!
//! Not modelled: data that becomes durable without a sync while the machine runs (a crash decides that).

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;

use bytes::Bytes;

use crate::buffer::IoBuffer;
use crate::disk::{Disk, DiskError, FailedWrite, FileId};
use crate::gather::Gather;
use crate::layout::{BLOCK_BYTES, BlobId};
use crate::poison::WriteOperation;
use crate::testing::{Random, yield_now};
use crate::wait::Event;

mod fault;
mod file;
mod log;
mod moods;

use file::{File, Write, overlay};

pub use fault::{ALL_OPS, Failure, Fault, Harm, Op};
pub use log::{DiskEvent, DiskImage, Loss};
pub use moods::Moods;

const SECTOR_BYTES: usize = 512;

/// A disk in memory. Clones share it.
#[derive(Clone)]
pub struct SimDisk {
    state: Rc<RefCell<State>>,
}

/// An open file of a [`SimDisk`].
#[derive(Clone, Copy, Debug)]
pub struct SimFile {
    id: FileId,
}

struct State {
    files: BTreeMap<FileId, File>,
    random: Random,
    faults: Vec<Fault>,
    unreadable: Vec<(FileId, Range<u64>)>,
    free_bytes: u64,
    delay_max: u64,
    op_count: u64,
    counts: [u64; ALL_OPS.len()],
    next_write: u64,
    held: Vec<(Op, Rc<Event>)>,
    is_dead: bool,
    has_memory: bool,
    /// Operations that an injected error has met.
    fired: u64,
    harms: Vec<Harm>,
    events: Option<Vec<DiskEvent>>,
    moods: Option<Rc<dyn Moods>>,
    /// Sectors of a hundred that a crash takes of what was not synced.
    torn_percent: Option<u64>,
}

impl SimDisk {
    /// An empty disk with room for everything.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self::from_files(seed, BTreeMap::new())
    }

    /// A disk with these blobs, all durable, and no checkpoint.
    #[must_use]
    pub fn from_files(seed: u64, files: BTreeMap<BlobId, Vec<u8>>) -> Self {
        let files = files.into_iter().map(|(id, bytes)| (id.into(), bytes));
        Self::from_all_files(seed, files)
    }

    /// A disk with these files, all durable.
    #[must_use]
    pub fn from_all_files(seed: u64, files: impl IntoIterator<Item = (FileId, Vec<u8>)>) -> Self {
        let files = files.into_iter();
        Self::from_shared(seed, files.map(|(id, bytes)| (id, Rc::new(bytes))))
    }

    fn from_shared(seed: u64, files: impl IntoIterator<Item = (FileId, Rc<Vec<u8>>)>) -> Self {
        let files = files
            .into_iter()
            .map(|(id, bytes)| {
                (
                    id,
                    File {
                        meant: Rc::clone(&bytes),
                        durable: Rc::clone(&bytes),
                        cached: bytes,
                        is_created: true,
                        ..File::default()
                    },
                )
            })
            .collect();
        let state = State {
            files,
            random: Random::new(seed),
            faults: Vec::new(),
            unreadable: Vec::new(),
            free_bytes: 1 << 40,
            delay_max: 3,
            op_count: 0,
            counts: [0; ALL_OPS.len()],
            next_write: 0,
            held: Vec::new(),
            is_dead: false,
            has_memory: false,
            fired: 0,
            harms: Vec::new(),
            events: None,
            moods: None,
            torn_percent: None,
        };
        Self {
            state: Rc::new(RefCell::new(state)),
        }
    }

    /// Stops this disk for ever (its operations never end) and returns it as it would be found after a power cut.
    #[must_use]
    pub fn crash(&self, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let mut state = self.state.borrow_mut();
        state.is_dead = true;
        let torn_percent = state.torn_percent;
        let mut files = BTreeMap::new();
        for (&id, file) in state.files.iter().filter(|(_, file)| !file.is_unlinked) {
            let is_certain = file.is_created && !file.is_being_removed;
            if is_certain || random.below(2) == 0 {
                files.insert(id, file.after_crash(torn_percent, &mut random));
            }
        }
        let (free_bytes, has_memory) = (state.free_bytes, state.has_memory);
        drop(state);
        let disk = Self::from_shared(random.next(), files);
        disk.set_free_bytes(free_bytes);
        disk.state.borrow_mut().has_memory = has_memory;
        disk
    }

    /// Stops this disk for ever and returns it as another process would find it: no power was cut, so unsynced writes are seen,
    /// and a later crash can still take them.
    #[must_use]
    pub fn kill(&self, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let mut state = self.state.borrow_mut();
        state.is_dead = true;
        let mut files = std::mem::take(&mut state.files);
        files.retain(|_, file| !file.is_unlinked);
        files.retain(|_, file| (file.is_created && !file.is_being_removed) || random.below(2) == 0);
        for file in files.values_mut() {
            (file.is_created, file.is_being_removed) = (true, false);
            file.forget_failed();
            let File {
                meant,
                cached,
                unsynced,
                ..
            } = file;
            unsynced.retain_mut(|write| {
                if !write.has_ended {
                    let sectors = (write.bytes.len() / SECTOR_BYTES) as u64;
                    // All, none, or some of it.
                    let kept = [sectors, 0, random.below(sectors + 1)][random.below(3) as usize];
                    write.bytes.truncate(kept as usize * SECTOR_BYTES);
                    write.has_ended = true;
                    overlay(Rc::make_mut(cached), write.offset, &write.bytes);
                    overlay(Rc::make_mut(meant), write.meant_offset, &write.bytes);
                }
                !write.bytes.is_empty()
            });
        }
        let disk = Self::new(random.next());
        {
            let mut found = disk.state.borrow_mut();
            (found.files, found.free_bytes) = (files, state.free_bytes);
            found.next_write = state.next_write;
            found.has_memory = state.has_memory;
        }
        disk
    }

    /// What reads see of the blobs now, file by file.
    #[must_use]
    pub fn files(&self) -> BTreeMap<BlobId, Vec<u8>> {
        let files = self.all_files().into_iter();
        files
            .filter_map(|(id, bytes)| match id {
                FileId::Blob(id) => Some((id, bytes)),
                FileId::Checkpoint(_) => None,
            })
            .collect()
    }

    /// What reads see now, file by file.
    #[must_use]
    pub fn all_files(&self) -> BTreeMap<FileId, Vec<u8>> {
        let state = self.state.borrow();
        state
            .files
            .iter()
            .filter(|(_, file)| file.has_name())
            .map(|(&id, file)| (id, file.cached.to_vec()))
            .collect()
    }

    /// Changes a file behind the store's back: durably, and in what reads see.
    ///
    /// # Panics
    ///
    /// If there is no such file.
    pub fn edit(&self, id: impl Into<FileId>, edit: impl Fn(&mut Vec<u8>)) {
        let id = id.into();
        let mut state = self.state.borrow_mut();
        let file = state
            .files
            .get_mut(&id)
            .unwrap_or_else(|| panic!("no {id:?} to edit"));
        edit(Rc::make_mut(&mut file.durable));
        edit(Rc::make_mut(&mut file.cached));
    }

    /// Takes a file's name away behind the store's back.
    ///
    /// # Panics
    ///
    /// If there is no such file.
    pub fn unlink(&self, id: impl Into<FileId>) {
        let id = id.into();
        let mut state = self.state.borrow_mut();
        let file = state
            .files
            .get_mut(&id)
            .unwrap_or_else(|| panic!("no {id:?} to unlink"));
        file.is_unlinked = true;
    }

    /// Arms an error.
    pub fn inject(&self, fault: Fault) {
        self.state.borrow_mut().faults.push(fault);
    }

    /// Lets every read of this file fail.
    pub fn fail_reads(&self, id: impl Into<FileId>) {
        self.fail_reads_of(id, 0..u64::MAX);
    }

    /// Lets every read of some of these bytes fail.
    pub fn fail_reads_of(&self, id: impl Into<FileId>, bytes: Range<u64>) {
        self.state.borrow_mut().unreadable.push((id.into(), bytes));
    }

    /// Takes from memory what a failed sync covered, as [`Disk::open`] does for a file.
    pub fn forget_failed(&self) {
        let mut state = self.state.borrow_mut();
        state.files.values_mut().for_each(File::forget_failed);
    }

    /// Disarms all errors.
    pub fn heal(&self) {
        let mut state = self.state.borrow_mut();
        state.faults.clear();
        state.unreadable.clear();
    }

    /// Sets how much the files may still grow.
    pub fn set_free_bytes(&self, bytes: u64) {
        self.state.borrow_mut().free_bytes = bytes;
    }

    /// Lets no operation of this kind end until [`release`](Self::release).
    pub fn hold(&self, op: Op) {
        self.state
            .borrow_mut()
            .held
            .push((op, Rc::new(Event::default())));
    }

    /// Lets operations of this kind end again.
    pub fn release(&self, op: Op) {
        let mut released = Vec::new();
        self.state.borrow_mut().held.retain(|(held, event)| {
            if *held == op {
                released.push(Rc::clone(event));
            }
            *held != op
        });
        for event in released {
            event.set();
        }
    }

    /// Lets every other look, drawn from the seed, find its bytes in memory. Without this none does.
    pub fn use_memory(&self) {
        self.state.borrow_mut().has_memory = true;
    }

    /// Operations begun so far.
    #[must_use]
    pub fn op_count(&self) -> u64 {
        self.state.borrow().op_count
    }

    /// Operations of one kind begun so far.
    #[must_use]
    pub fn count(&self, op: Op) -> u64 {
        self.state.borrow().counts[op as usize]
    }

    /// Begins an operation: draws its delay and decides whether it fails.
    fn begin(&self, op: Op) -> (u64, Option<Failure>) {
        let mut state = self.state.borrow_mut();
        state.op_count += 1;
        state.counts[op as usize] += 1;
        let mut failure = None;
        state.faults.retain_mut(|fault| {
            if !fault.ops.contains(&op) {
                return true;
            }
            fault.nth = fault.nth.saturating_sub(1);
            if fault.nth == 0 {
                failure = Some(fault.failure);
            }
            fault.nth > 0 || fault.is_sticky
        });
        state.fired += u64::from(failure.is_some());
        let delay_max = state.delay_max;
        let polls = state.random.below(delay_max + 1);
        let moods = state.moods.clone();
        drop(state);
        let drawn = moods.and_then(|moods| moods.failure(op));
        (polls, failure.or(drawn))
    }

    async fn pass_time(&self, op: Op, polls: u64) {
        for _ in 0..polls {
            yield_now().await;
        }
        let moods = self.state.borrow().moods.clone();
        if let Some(wait) = moods.and_then(|moods| moods.wait(op)) {
            wait.await;
        }
        loop {
            let held = {
                let state = self.state.borrow();
                if state.is_dead {
                    None
                } else if let Some((_, event)) = state.held.iter().find(|(held, _)| *held == op) {
                    Some(Rc::clone(event))
                } else {
                    return;
                }
            };
            match held {
                Some(event) => event.wait().await,
                None => std::future::pending().await,
            }
        }
    }

    async fn simple(&self, op: Op) -> Result<(), DiskError> {
        let (polls, failure) = self.begin(op);
        self.pass_time(op, polls).await;
        failure
            .filter(|&failure| failure != Failure::Misdirected)
            .map_or(Ok(()), |failure| Err(failure.error(0, 0)))
    }

    /// Writes; the number of the write, under which it waits to be synced.
    async fn write_here(
        &self,
        id: FileId,
        offset: u64,
        bytes: Bytes,
    ) -> (Result<(), DiskError>, u64) {
        let len = bytes.len();
        assert!(
            offset.is_multiple_of(BLOCK_BYTES as u64),
            "writes begin at blocks"
        );
        assert!(len.is_multiple_of(BLOCK_BYTES), "writes are whole blocks");
        let (polls, failure) = self.begin(Op::Write);
        let is_lost = failure == Some(Failure::Misdirected);
        let target = if is_lost {
            self.misdirect(id, offset, len)
        } else {
            offset
        };
        let number = self.begin_write(id, target, offset, bytes.clone());
        self.pass_time(Op::Write, polls).await;
        let written = match failure.filter(|_| !is_lost) {
            None => len,
            Some(_) => {
                let sector_count = (len / SECTOR_BYTES) as u64;
                let sectors = self.state.borrow_mut().random.below(sector_count);
                sectors as usize * SECTOR_BYTES
            }
        };
        if let Some(file) = self.state.borrow_mut().files.get_mut(&id) {
            let meant = Rc::make_mut(&mut file.meant);
            overlay(meant, offset as usize, &bytes[..written]);
        }
        let result = self.end_write(id, number, written);
        let failed = failure
            .filter(|_| !is_lost)
            .map(|failure| failure.error(written as u64, len as u64));
        (failed.map_or(result, Err), number)
    }

    /// Makes writes durable, those that it `covers` when it begins.
    async fn sync_writes(
        &self,
        id: FileId,
        covers: impl Fn(&Write) -> bool,
    ) -> Result<(), DiskError> {
        let (polls, failure) = self.begin(Op::Sync);
        let failure = failure.filter(|&failure| failure != Failure::Misdirected);
        let covered: Vec<u64> = {
            let state = self.state.borrow();
            let file = state.files.get(&id).ok_or(DiskError::NotFound)?;
            let covered = file
                .unsynced
                .iter()
                .filter(|write| covers(write) && !write.is_forsaken);
            covered.map(|write| write.number).collect()
        };
        self.pass_time(Op::Sync, polls).await;
        let mut state = self.state.borrow_mut();
        let Some(file) = state.files.get_mut(&id) else {
            return Err(DiskError::NotFound);
        };
        let File {
            durable, unsynced, ..
        } = file;
        if let Some(failure) = failure {
            for write in unsynced
                .iter_mut()
                .filter(|write| covered.contains(&write.number))
            {
                write.is_forsaken = true;
            }
            return Err(failure.error(0, 0));
        }
        unsynced.retain(|write| {
            let is_covered = covered.contains(&write.number);
            if is_covered {
                overlay(Rc::make_mut(durable), write.offset, &write.bytes);
            }
            !is_covered
        });
        state.note(|| DiskEvent::Synced {
            file: id,
            writes: covered,
        });
        Ok(())
    }

    fn begin_write(&self, id: FileId, offset: u64, meant_offset: u64, bytes: Bytes) -> u64 {
        let mut state = self.state.borrow_mut();
        let number = state.next_write;
        state.next_write += 1;
        state.note(|| DiskEvent::Write {
            file: id,
            number,
            offset,
            bytes: bytes.clone(),
        });
        if let Some(file) = state.files.get_mut(&id) {
            file.unsynced.push(Write {
                number,
                offset: offset as usize,
                meant_offset: meant_offset as usize,
                bytes,
                has_ended: false,
                is_forsaken: false,
            });
        }
        number
    }

    /// Ends a write with its first `written` bytes in the file.
    fn end_write(&self, id: FileId, number: u64, written: usize) -> Result<(), DiskError> {
        let mut state = self.state.borrow_mut();
        let free_bytes = state.free_bytes;
        let file = state.files.get_mut(&id).ok_or(DiskError::NotFound)?;
        let Some(at) = file
            .unsynced
            .iter()
            .position(|write| write.number == number)
        else {
            return Err(DiskError::NotFound);
        };
        let write = &mut file.unsynced[at];
        let end = write.offset + written;
        let growth = end.saturating_sub(file.cached.len()) as u64;
        if growth > free_bytes {
            let fitting = (written as u64 - growth.min(written as u64) + free_bytes) as usize
                / SECTOR_BYTES
                * SECTOR_BYTES;
            write.bytes.truncate(fitting.min(written));
            write.has_ended = true;
            let (offset, bytes) = (write.offset, write.bytes.clone());
            overlay(Rc::make_mut(&mut file.cached), offset, &bytes);
            state.free_bytes = 0;
            return Err(DiskError::NoSpace);
        }
        write.bytes.truncate(written);
        write.has_ended = true;
        overlay(Rc::make_mut(&mut file.cached), write.offset, &write.bytes);
        state.free_bytes -= growth;
        Ok(())
    }
}

impl Disk for SimDisk {
    type File = SimFile;

    async fn list(&self) -> Result<Vec<(BlobId, u64)>, DiskError> {
        self.simple(Op::List).await?;
        let state = self.state.borrow();
        let files = state.files.iter().filter(|(_, file)| file.has_name());
        Ok(files
            .filter_map(|(&id, file)| match id {
                FileId::Blob(id) => Some((id, file.cached.len() as u64)),
                FileId::Checkpoint(_) => None,
            })
            .collect())
    }

    async fn list_checkpoints(&self) -> Result<Vec<u64>, DiskError> {
        self.simple(Op::List).await?;
        let state = self.state.borrow();
        let files = state.files.iter().filter(|(_, file)| file.has_name());
        Ok(files
            .filter_map(|(&id, _)| match id {
                FileId::Checkpoint(number) => Some(number),
                FileId::Blob(_) => None,
            })
            .collect())
    }

    async fn create(&self, id: impl Into<FileId>) -> Result<SimFile, DiskError> {
        let id = id.into();
        let is_new = !self.state.borrow().files.contains_key(&id);
        if is_new {
            let mut state = self.state.borrow_mut();
            state.files.insert(id, File::default());
            state.note(|| DiskEvent::Create { file: id });
        }
        let result = self.simple(Op::Create).await;
        let mut state = self.state.borrow_mut();
        match result {
            Ok(()) if is_new => {
                if let Some(file) = state.files.get_mut(&id) {
                    file.is_created = true;
                }
                state.note(|| DiskEvent::Created { file: id });
                Ok(SimFile { id })
            }
            Ok(()) => Err(DiskError::Io { errno: 17 }),
            Err(error) => {
                if is_new {
                    state.files.remove(&id);
                }
                Err(error)
            }
        }
    }

    async fn open(&self, id: impl Into<FileId>) -> Result<SimFile, DiskError> {
        let id = id.into();
        self.simple(Op::Open).await?;
        let mut state = self.state.borrow_mut();
        let file = state.files.get_mut(&id).filter(|file| file.has_name());
        let file = file.ok_or(DiskError::NotFound)?;
        file.forget_failed();
        Ok(SimFile { id })
    }

    async fn read(
        &self,
        file: &SimFile,
        offset: u64,
        mut buffer: IoBuffer,
    ) -> (Result<usize, DiskError>, IoBuffer) {
        assert!(
            offset.is_multiple_of(BLOCK_BYTES as u64),
            "reads begin at blocks"
        );
        let (polls, failure) = self.begin(Op::Read);
        let is_lost = failure == Some(Failure::Misdirected);
        self.pass_time(Op::Read, polls).await;
        if let Some(failure) = failure.filter(|_| !is_lost) {
            return (Err(failure.error(0, 0)), buffer);
        }
        let offset = if is_lost {
            self.another_block(file.id, offset)
        } else {
            offset
        };
        let state = self.state.borrow();
        let end = offset + buffer.len() as u64;
        let is_bad = |(id, bytes): &(FileId, Range<u64>)| {
            *id == file.id && bytes.start < end && offset < bytes.end
        };
        if state.unreadable.iter().any(is_bad) {
            return (Err(Failure::Eio.error(0, 0)), buffer);
        }
        let Some(file) = state.files.get(&file.id) else {
            return (Err(DiskError::NotFound), buffer);
        };
        let rest = file.cached.get(offset as usize..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        (Ok(count), buffer)
    }

    fn look<T>(
        &self,
        file: &SimFile,
        file_len: u64,
        offset: u64,
        len: usize,
        look: impl FnOnce(&[u8]) -> T,
    ) -> Option<T> {
        let bytes = {
            let state = &mut *self.state.borrow_mut();
            if !state.has_memory || state.is_dead || state.random.below(2) == 0 {
                return None;
            }
            let cached = &state.files.get(&file.id)?.cached;
            let start = offset as usize;
            (cached.len() as u64 >= file_len)
                .then(|| cached.get(start..start + len))??
                .to_vec()
        };
        Some(look(&bytes))
    }

    async fn write(
        &self,
        file: &SimFile,
        offset: u64,
        buffer: IoBuffer,
        len: usize,
    ) -> (Result<(), DiskError>, IoBuffer) {
        let bytes = Bytes::copy_from_slice(&buffer[..len]);
        let (result, _) = self.write_here(file.id, offset, bytes).await;
        (result, buffer)
    }

    /// Makes durable what it wrote and nothing else.
    async fn write_durably(
        &self,
        file: &SimFile,
        offset: u64,
        bytes: Gather,
    ) -> Result<(), FailedWrite> {
        let bytes = Bytes::from(bytes.runs().concat());
        let (written, number) = self.write_here(file.id, offset, bytes).await;
        match written {
            Ok(()) => {
                let synced = self.sync_writes(file.id, |write| write.number == number);
                WriteOperation::Sync.check(synced.await)
            }
            Err(_) => WriteOperation::Write.check(written),
        }
    }

    async fn sync(&self, file: &SimFile) -> Result<(), DiskError> {
        self.sync_writes(file.id, |write| write.has_ended).await
    }

    async fn named_len(&self, file: &SimFile) -> Result<Option<u64>, DiskError> {
        self.simple(Op::Status).await?;
        let state = self.state.borrow();
        let named = state.files.get(&file.id).filter(|file| file.has_name());
        Ok(named.map(|file| file.cached.len() as u64))
    }

    async fn remove(&self, id: impl Into<FileId>) -> Result<(), DiskError> {
        let id = id.into();
        if let Some(file) = self.state.borrow_mut().files.get_mut(&id) {
            file.is_being_removed = true;
        }
        self.state
            .borrow_mut()
            .note(|| DiskEvent::Remove { file: id });
        self.simple(Op::Remove).await?;
        let mut state = self.state.borrow_mut();
        if state.files.get(&id).is_some_and(|file| file.is_unlinked) {
            return Err(DiskError::NotFound);
        }
        state.note(|| DiskEvent::Removed { file: id });
        state
            .files
            .remove(&id)
            .map(|_| ())
            .ok_or(DiskError::NotFound)
    }

    fn free_bytes(&self) -> Result<u64, DiskError> {
        Ok(self.state.borrow().free_bytes)
    }
}
