//! Which blob files are open: all disks of a core share so many descriptors, and the least recently used is closed first.
//!
//! A node of 22 TB has 22,000 blobs and a process may have 1,024 files open, so a [`BlobFile`] is a name that is opened when it is
//! needed. What must stay true:
//!
//! * A file with an operation in flight is never closed: whoever works with it holds a clone of its descriptor.
//! * **A file that was written and not yet synced is never closed.** The kernel reports a write that failed after it was taken (a
//!   failed writeback) once to each descriptor that was open then; a sync through one that was opened later could say that all is well.
//!   A file whose sync failed stays as it is, so that nothing ever asks a fresh descriptor.
//!
//! The bound gives way where all files are in either state: reads in flight are bounded by [`DISK_IN_FLIGHT_MAX`] a disk, files being
//! written by the append points of a store.
//!
//! [`DISK_IN_FLIGHT_MAX`]: crate::file_operation::DISK_IN_FLIGHT_MAX

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::{Rc, Weak};

use strand_blob::FileId;

use crate::file_operation::DiskQueue;
use crate::map::FileMap;

/// The open files of a core.
#[derive(Debug)]
pub struct OpenFiles {
    bound: usize,
    open_count: Cell<usize>,
    last_use: Cell<u64>,
    /// Open files without unsynced writes, by their last use.
    clean: RefCell<BTreeMap<u64, Weak<Inner>>>,
    /// Taken from their files; closing may wait for a disk, so whoever has the ring does it.
    to_close: RefCell<Vec<(OwnedFd, Rc<DiskQueue>)>>,
}

/// A blob's file, open or not. Clones are the same file.
#[derive(Clone, Debug)]
pub struct BlobFile(Rc<Inner>);

#[derive(Debug)]
struct Inner {
    id: FileId,
    table: Rc<OpenFiles>,
    queue: Rc<DiskQueue>,
    state: RefCell<State>,
    map: RefCell<Option<Rc<FileMap>>>,
}

#[derive(Debug, Default)]
struct State {
    descriptor: Option<Rc<OwnedFd>>,
    /// Its key in `clean`; 0: it is not there.
    used: u64,
    /// Writes begun so far.
    writes_begun: u64,
    /// Those of them that ended well and wait for a sync, or had one.
    writes_ended: u64,
    /// Those of them that had ended when the last good sync began.
    writes_synced: u64,
    /// Writes that were durable when they ended.
    durable_writes: u64,
}

/// Says of a sync, once it is done well, which writes it covered.
#[derive(Clone, Copy, Debug)]
pub struct SyncMark(u64);

impl OpenFiles {
    /// At most so many open files, as far as the module's head allows.
    #[must_use]
    pub fn new(bound: usize) -> Rc<Self> {
        Rc::new(Self {
            bound: bound.max(1),
            open_count: Cell::new(0),
            last_use: Cell::new(0),
            clean: RefCell::default(),
            to_close: RefCell::default(),
        })
    }

    /// Files open now.
    #[must_use]
    pub fn open_count(&self) -> usize {
        self.open_count.get()
    }

    /// Descriptors that are nobody's any more, each with the queue of its disk. The caller closes them.
    #[must_use]
    pub fn take_closable(&self) -> Vec<(OwnedFd, Rc<DiskQueue>)> {
        self.to_close.take()
    }

    /// Closes files that nobody uses, the least recently used first, until so many are left; gives whether any was closed.
    pub fn close_down_to(&self, count: usize) -> bool {
        let before = self.open_count.get();
        let mut passed = 0;
        while self.open_count.get() > count {
            let next = self
                .clean
                .borrow()
                .range(passed + 1..)
                .next()
                .map(|(used, file)| (*used, file.upgrade()));
            let Some((used, file)) = next else { break };
            passed = used;
            if let Some(file) = file {
                file.close_if_idle();
            }
        }
        self.open_count.get() < before
    }

    fn keep_bound(&self) {
        self.close_down_to(self.bound);
    }

    fn stamp(&self) -> u64 {
        self.last_use.set(self.last_use.get() + 1);
        self.last_use.get()
    }
}

impl BlobFile {
    /// A file that is not open yet.
    #[must_use]
    pub fn new(id: FileId, table: &Rc<OpenFiles>, queue: &Rc<DiskQueue>) -> Self {
        Self(Rc::new(Inner {
            id,
            table: Rc::clone(table),
            queue: Rc::clone(queue),
            state: RefCell::default(),
            map: RefCell::default(),
        }))
    }

    /// Which blob.
    #[must_use]
    pub fn id(&self) -> FileId {
        self.0.id
    }

    /// Its descriptor, if it is open; it is the most recently used from now on, and stays open for as long as the clone is kept.
    #[must_use]
    pub fn descriptor(&self) -> Option<Rc<OwnedFd>> {
        let descriptor = self.0.state.borrow().descriptor.clone()?;
        self.0.touch();
        Some(descriptor)
    }

    /// Its map, if it has one that holds; needs no descriptor.
    #[must_use]
    pub fn map(&self) -> Option<Rc<FileMap>> {
        let map = self.0.map.borrow().clone()?;
        if map.is_broken() {
            self.0.map.take();
            return None;
        }
        Some(map)
    }

    /// Keeps a map of it, until it breaks or the file is dropped.
    pub fn set_map(&self, map: &Rc<FileMap>) {
        *self.0.map.borrow_mut() = Some(Rc::clone(map));
    }

    /// Takes a descriptor that was just opened; where another came first, gives that one.
    #[must_use]
    pub fn adopt(&self, opened: OwnedFd) -> Rc<OwnedFd> {
        let table = &self.0.table;
        if let Some(descriptor) = self.descriptor() {
            table
                .to_close
                .borrow_mut()
                .push((opened, Rc::clone(&self.0.queue)));
            return descriptor;
        }
        let descriptor = Rc::new(opened);
        self.0.state.borrow_mut().descriptor = Some(Rc::clone(&descriptor));
        table.open_count.set(table.open_count.get() + 1);
        self.0.touch();
        table.keep_bound();
        descriptor
    }

    /// Keeps the file open until a sync that begins after the write ended is done well.
    pub fn begin_write(&self) {
        let mut state = self.0.state.borrow_mut();
        state.writes_begun += 1;
        let used = std::mem::take(&mut state.used);
        drop(state);
        self.0.table.clean.borrow_mut().remove(&used);
    }

    /// After a write that was done well and is not durable. One that failed leaves the file open for good.
    pub fn end_write(&self) {
        self.0.state.borrow_mut().writes_ended += 1;
    }

    /// After a write that was done well and is durable.
    pub fn end_durable_write(&self) {
        self.0.state.borrow_mut().durable_writes += 1;
        self.0.touch();
        self.0.table.keep_bound();
    }

    /// Before a sync.
    #[must_use]
    pub fn begin_sync(&self) -> SyncMark {
        SyncMark(self.0.state.borrow().writes_ended)
    }

    /// After a sync that was done well.
    pub fn end_sync(&self, mark: SyncMark) {
        let mut state = self.0.state.borrow_mut();
        state.writes_synced = state.writes_synced.max(mark.0);
        drop(state);
        self.0.touch();
        self.0.table.keep_bound();
    }

    /// Whether the file is open.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.0.state.borrow().descriptor.is_some()
    }
}

impl Inner {
    /// Makes it the most recently used.
    fn touch(self: &Rc<Self>) {
        let mut state = self.state.borrow_mut();
        let is_clean = state.writes_synced + state.durable_writes == state.writes_begun;
        if state.descriptor.is_none()
            || !is_clean
            || (state.used != 0 && state.used == self.table.last_use.get())
        {
            return;
        }
        let used = self.table.stamp();
        let mut clean = self.table.clean.borrow_mut();
        clean.remove(&std::mem::replace(&mut state.used, used));
        clean.insert(used, Rc::downgrade(self));
    }

    /// Closes it unless somebody holds its descriptor. Its writes are synced: it lies in `clean`.
    fn close_if_idle(&self) {
        let mut state = self.state.borrow_mut();
        let is_idle = state
            .descriptor
            .as_ref()
            .is_some_and(|descriptor| Rc::strong_count(descriptor) == 1);
        if is_idle {
            self.table
                .clean
                .borrow_mut()
                .remove(&std::mem::take(&mut state.used));
            self.give_up(state.descriptor.take());
        }
    }

    fn give_up(&self, descriptor: Option<Rc<OwnedFd>>) {
        let Some(descriptor) = descriptor else { return };
        self.table.open_count.set(self.table.open_count.get() - 1);
        // An operation that was abandoned may still hold it: then it goes with that one.
        if let Ok(descriptor) = Rc::try_unwrap(descriptor) {
            self.table
                .to_close
                .borrow_mut()
                .push((descriptor, Rc::clone(&self.queue)));
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let state = std::mem::take(self.state.get_mut());
        self.table.clean.borrow_mut().remove(&state.used);
        self.give_up(state.descriptor);
    }
}

/// For tests and logs: whose descriptor it is, if it is open.
impl BlobFile {
    /// Looks at the descriptor without using it.
    pub fn look<T>(&self, look: impl FnOnce(BorrowedFd<'_>) -> T) -> Option<T> {
        self.0
            .state
            .borrow()
            .descriptor
            .as_ref()
            .map(|descriptor| look(descriptor.as_fd()))
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    fn descriptor() -> OwnedFd {
        File::open("/dev/null").unwrap().into()
    }

    /// What a file of the model is: open or not, with writes that no sync has covered, held by operations.
    #[derive(Default)]
    struct Model {
        held: Vec<Rc<OwnedFd>>,
        has_writes: bool,
        mark: Option<(SyncMark, bool)>,
    }

    /// Random operations on 12 files with room for 3, held against what must be open.
    #[test]
    fn the_bound_holds_and_no_file_is_closed_that_must_stay() {
        let table = OpenFiles::new(3);
        let queue = Rc::new(DiskQueue::default());
        let files: Vec<_> = (0..12)
            .map(|id| BlobFile::new(FileId::Checkpoint(id), &table, &queue))
            .collect();
        let mut models: Vec<Model> = files.iter().map(|_| Model::default()).collect();
        let mut random = 88_172_645_463_325_252_u64;
        for step in 0..20_000 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let at = (random >> 8) as usize % files.len();
            let (file, model) = (&files[at], &mut models[at]);
            let was_open = file.is_open();
            match random % 8 {
                // An operation begins.
                0..=2 => {
                    let held = file
                        .descriptor()
                        .unwrap_or_else(|| file.adopt(descriptor()));
                    if random % 8 == 2 {
                        file.begin_write();
                        file.end_write();
                        model.has_writes = true;
                        model.mark = None;
                    }
                    model.held.push(held);
                }
                3..=5 => drop(model.held.pop()),
                6 => model.mark = was_open.then(|| (file.begin_sync(), model.has_writes)),
                _ => {
                    if let Some((mark, covers)) = model.mark.take() {
                        file.end_sync(mark);
                        model.has_writes &= !covers;
                    }
                }
            }
            let _closed = table.take_closable();
            let mut must_stay = 0;
            for (file, model) in files.iter().zip(&models) {
                if model.has_writes || !model.held.is_empty() {
                    assert!(file.is_open(), "step {step}: {:?} was closed", file.id());
                    must_stay += 1;
                }
            }
            let open = files.iter().filter(|file| file.is_open()).count();
            assert_eq!(open, table.open_count());
            table.close_down_to(3);
            let open = files.iter().filter(|file| file.is_open()).count();
            assert!(
                open <= 3.max(must_stay),
                "step {step}: {open} open, {must_stay} must be"
            );
            let _closed = table.take_closable();
        }
        drop(models);
        drop(files);
        assert_eq!((table.open_count(), table.clean.borrow().len()), (0, 0));
    }

    #[test]
    fn the_least_recently_used_is_closed_first() {
        let table = OpenFiles::new(2);
        let queue = Rc::new(DiskQueue::default());
        let files: Vec<_> = (0..3)
            .map(|id| BlobFile::new(FileId::Checkpoint(id), &table, &queue))
            .collect();
        let open = || files.iter().map(BlobFile::is_open).collect::<Vec<_>>();
        drop(files[0].adopt(descriptor()));
        drop(files[1].adopt(descriptor()));
        drop(files[0].descriptor());
        drop(files[2].adopt(descriptor()));
        assert_eq!(open(), [true, false, true]);
        assert_eq!(table.take_closable().len(), 1);
    }

    #[test]
    fn a_durable_write_needs_no_sync_and_a_failed_one_keeps_its_file_open() {
        let table = OpenFiles::new(1);
        let queue = Rc::new(DiskQueue::default());
        let file = BlobFile::new(FileId::Checkpoint(1), &table, &queue);
        drop(file.adopt(descriptor()));
        file.begin_write();
        file.begin_write();
        file.end_durable_write();
        table.close_down_to(0);
        assert!(file.is_open(), "one is under way");
        file.end_durable_write();
        table.close_down_to(0);
        assert!(!file.is_open());
        drop(file.adopt(descriptor()));
        file.begin_write();
        let mark = file.begin_sync();
        file.end_sync(mark);
        table.close_down_to(0);
        assert!(file.is_open(), "a write has failed");
    }

    #[test]
    fn a_sync_covers_the_writes_before_it_and_not_those_that_came_meanwhile() {
        let table = OpenFiles::new(1);
        let queue = Rc::new(DiskQueue::default());
        let file = BlobFile::new(FileId::Checkpoint(1), &table, &queue);
        drop(file.adopt(descriptor()));
        file.begin_write();
        file.end_write();
        let mark = file.begin_sync();
        file.begin_write();
        file.end_sync(mark);
        table.close_down_to(0);
        assert!(file.is_open(), "a write has not been synced");
        file.end_write();
        let mark = file.begin_sync();
        file.end_sync(mark);
        table.close_down_to(0);
        assert!(!file.is_open());
    }
}
