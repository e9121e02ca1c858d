//! Files on the ring: reads and writes at an offset, syncs, opens and unlinks.
//!
//! An operation owns what the kernel looks at (buffer, name, descriptor) and gives it back with
//! its outcome. Whoever stops waiting leaves it behind: it is cancelled if the kernel can, and its
//! memory goes when its completion has come. No more than a fixed number fly; others wait.
//!
//! Each disk has a [`DiskQueue`], which bounds what one disk has in flight: a disk that hangs holds its own share of slots
//! and kernel threads and no more. What was abandoned no longer counts against the ring's slots, and the kernel is given a thread
//! more for each of them, because the thread that has it may never come back.

use std::cell::{Cell, RefCell};
use std::ffi::CString;
use std::future::{Future, poll_fn};
use std::ops::Range;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::pin::Pin;
use std::ptr;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use io_uring::{opcode, squeue, types};
use strand_blob::{Gather, IoBuffer};

use super::turn::{Kind, Ring};
use crate::core::counters::Counters;
use crate::map::FileMap;

/// What to do with a file.
#[derive(Debug)]
pub enum FileOperation {
    /// Fills `buffer[start..end]` from `offset`.
    Read {
        /// The file.
        file: Rc<OwnedFd>,
        /// Where in the file.
        offset: u64,
        /// Where to.
        buffer: IoBuffer,
        /// First byte of the buffer to fill.
        start: usize,
        /// One past the last.
        end: usize,
    },
    /// Writes `bytes[start..end]` at `offset`.
    Write {
        /// The file.
        file: Rc<OwnedFd>,
        /// Where in the file.
        offset: u64,
        /// What.
        bytes: Gather,
        /// First of the bytes to write.
        start: usize,
        /// One past the last.
        end: usize,
        /// What the kernel reads where there are several runs.
        runs: Runs,
        /// Whether it is durable when it completes (`RWF_DSYNC`: as an `fdatasync` of these bytes).
        is_durable: bool,
    },
    /// Makes a file's writes durable.
    Sync {
        /// The file or directory.
        file: Rc<OwnedFd>,
        /// `fdatasync` in place of `fsync`.
        data_only: bool,
    },
    /// Opens a name in a directory; the result is a descriptor.
    Open {
        /// The directory.
        directory: Rc<OwnedFd>,
        /// Name within it.
        name: CString,
        /// `O_` flags; `O_CLOEXEC` is added.
        flags: i32,
        /// Permissions of a file that this makes.
        mode: u32,
    },
    /// Brings pages of a map to memory (`MADV_POPULATE_READ`).
    Populate {
        /// The map, which stays until this is done.
        map: Rc<FileMap>,
        /// Where in the file.
        offset: u64,
        /// Bytes from there.
        len: usize,
    },
    /// Closes a file: on the ring, because a file system may wait for its disk there.
    Close {
        /// The file.
        file: OwnedFd,
    },
    /// What is left of a [`Close`](Self::Close).
    Closed,
    /// Looks at a name in a directory, or with an empty name at the directory's or file's own descriptor (`statx`).
    Status {
        /// The directory, or the file itself.
        file: Rc<OwnedFd>,
        /// Name within it, or nothing.
        name: CString,
        /// The answer.
        found: Box<FileStatus>,
    },
    /// Removes a name from a directory.
    Unlink {
        /// The directory.
        directory: Rc<OwnedFd>,
        /// Name within it.
        name: CString,
    },
}

/// The runs of memory of one write, as the kernel wants them: in an allocation that stays where it is while the operation moves.
#[derive(Default)]
pub struct Runs(Vec<libc::iovec>);

/// A `struct statx` (linux/stat.h), 256 bytes at 8-byte steps.
#[derive(Debug, Default)]
pub struct FileStatus([u64; 32]);

impl FileStatus {
    /// Length in bytes.
    #[must_use]
    pub fn file_len(&self) -> u64 {
        self.0[5]
    }

    /// Which file it is: inode, and major and minor number of its device.
    #[must_use]
    pub fn identity(&self) -> (u64, u64) {
        (self.0[4], self.0[17])
    }
}

/// How an operation went, and what it owned.
#[derive(Debug)]
pub struct FileOutcome {
    /// Bytes, a descriptor, or zero; the error is a positive errno.
    pub result: Result<u32, i32>,
    /// The operation as it was given.
    pub operation: FileOperation,
}

const _: () = assert!(size_of::<FileStatus>() == size_of::<libc::statx>());
const _: () = assert!(std::mem::offset_of!(libc::statx, stx_size) == 5 * 8);
const _: () = assert!(std::mem::offset_of!(libc::statx, stx_ino) == 4 * 8);
const _: () = assert!(std::mem::offset_of!(libc::statx, stx_dev_major) == 17 * 8);

/// What one disk has on the ring. One for each disk of a core.
#[derive(Debug, Default)]
pub struct DiskQueue {
    in_flight_count: Cell<usize>,
    abandoned_count: Cell<usize>,
    waiters: RefCell<Vec<Waker>>,
    is_never_inline: Cell<bool>,
}

/// Operations of one disk in flight: enough for any queue depth that helps, and a quarter of the ring's slots.
pub const DISK_IN_FLIGHT_MAX: usize = 32;

/// File operations in flight.
pub(super) struct Files {
    slots: Vec<Slot>,
    free: Vec<usize>,
    in_flight_max: usize,
    abandoned_count: usize,
    waiters: Vec<Waker>,
}

enum Slot {
    Free,
    InFlight {
        operation: FileOperation,
        queue: Rc<DiskQueue>,
        waker: Option<Waker>,
        is_abandoned: bool,
    },
    Done(FileOutcome),
}

impl Ring {
    /// Does one file operation of a disk. Dropping the future abandons it: see the module's head.
    pub async fn file(&self, disk: &Rc<DiskQueue>, operation: FileOperation) -> FileOutcome {
        let mut operation = Some(operation);
        let slot = poll_fn(|context| {
            self.look(|state| match operation.take() {
                Some(next) if disk.has_room() && state.files.has_room() => {
                    Poll::Ready(state.files.start(next, disk, &mut state.queue))
                }
                next => {
                    operation = next;
                    let waker = context.waker().clone();
                    if disk.has_room() {
                        state.files.waiters.push(waker);
                    } else {
                        disk.waiters.borrow_mut().push(waker);
                    }
                    Poll::Pending
                }
            })
        })
        .await;
        self.wake_flag().notify();
        InFlight {
            ring: self,
            slot,
            is_done: Cell::new(false),
        }
        .await
    }
}

impl DiskQueue {
    /// Operations whose waiters have gone and that the kernel still has.
    #[must_use]
    pub fn abandoned_count(&self) -> usize {
        self.abandoned_count.get()
    }

    /// From now on the kernel does not try an operation before a thread of its own takes it: for file systems whose try waits for the disk, and the
    /// whole core with it.
    pub fn never_inline(&self) {
        self.is_never_inline.set(true);
    }

    fn has_room(&self) -> bool {
        self.in_flight_count.get() < DISK_IN_FLIGHT_MAX
    }
}

impl Ring {
    /// Counts a disk operation whose waiter gave up.
    pub fn count_disk_timeout(&self) {
        self.counters.disk_timeouts.add(1);
    }
}

impl Files {
    pub(super) fn new(in_flight_max: usize) -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            in_flight_max,
            abandoned_count: 0,
            waiters: Vec::new(),
        }
    }

    pub(super) fn in_flight_count(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    fn has_room(&self) -> bool {
        self.in_flight_count() - self.abandoned_count < self.in_flight_max
    }

    /// Operations that the kernel has and nobody waits for.
    pub(super) fn abandoned_count(&self) -> usize {
        self.abandoned_count
    }

    fn start(
        &mut self,
        operation: FileOperation,
        disk: &Rc<DiskQueue>,
        queue: &mut std::collections::VecDeque<squeue::Entry>,
    ) -> usize {
        disk.in_flight_count.set(disk.in_flight_count.get() + 1);
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::Free);
            self.slots.len() - 1
        });
        self.slots[index] = Slot::InFlight {
            operation,
            queue: Rc::clone(disk),
            waker: None,
            is_abandoned: false,
        };
        // The entry points into the operation where it now lies; only names, buffers and lists of runs are
        // pointed to, and those are allocations of their own.
        if let Slot::InFlight { operation, .. } = &mut self.slots[index] {
            let entry = operation.entry().user_data(Kind::File.tag(index));
            queue.push_back(if disk.is_never_inline.get() {
                entry.flags(squeue::Flags::ASYNC)
            } else {
                entry
            });
        }
        index
    }

    pub(super) fn completed(
        &mut self,
        index: usize,
        result: Result<u32, i32>,
        counters: &Counters,
        woken: &mut Vec<Waker>,
    ) {
        let slot = std::mem::replace(&mut self.slots[index], Slot::Free);
        let Slot::InFlight {
            operation,
            queue,
            waker,
            is_abandoned,
        } = slot
        else {
            panic!("file operation {index} completed twice");
        };
        count(&operation, result, counters);
        queue.in_flight_count.set(queue.in_flight_count.get() - 1);
        woken.append(&mut queue.waiters.borrow_mut());
        let operation = match operation {
            FileOperation::Close { file } => after_close(file, result),
            other => other,
        };
        if is_abandoned {
            self.abandoned_count -= 1;
            queue.abandoned_count.set(queue.abandoned_count.get() - 1);
            if let (FileOperation::Open { .. }, Ok(fd)) = (&operation, result) {
                close(fd);
            }
            self.release(index, woken);
            return;
        }
        self.slots[index] = Slot::Done(FileOutcome { result, operation });
        woken.extend(waker);
    }

    /// Frees a slot and wakes those who wait for one; they queue up again in their turn.
    fn release(&mut self, index: usize, woken: &mut Vec<Waker>) {
        self.slots[index] = Slot::Free;
        self.free.push(index);
        woken.append(&mut self.waiters);
    }

    fn poll(&mut self, index: usize, context: &Context<'_>) -> Poll<(FileOutcome, Vec<Waker>)> {
        if let Slot::InFlight { waker, .. } = &mut self.slots[index] {
            *waker = Some(context.waker().clone());
            return Poll::Pending;
        }
        let mut woken = Vec::new();
        let Slot::Done(outcome) = std::mem::replace(&mut self.slots[index], Slot::Free) else {
            panic!("file operation {index} was taken twice");
        };
        self.release(index, &mut woken);
        Poll::Ready((outcome, woken))
    }
}

impl FileOperation {
    /// The buffer of a read.
    ///
    /// # Panics
    ///
    /// For other operations.
    #[must_use]
    pub fn into_buffer(self) -> IoBuffer {
        match self {
            Self::Read { buffer, .. } => buffer,
            other => panic!("{other:?} has no buffer"),
        }
    }

    /// The bytes of a write.
    ///
    /// # Panics
    ///
    /// For other operations.
    #[must_use]
    pub fn into_bytes(self) -> Gather {
        match self {
            Self::Write { bytes, .. } => bytes,
            other => panic!("{other:?} has no bytes"),
        }
    }

    /// The answer of a [`Status`](Self::Status).
    ///
    /// # Panics
    ///
    /// For other operations.
    #[must_use]
    pub fn into_status(self) -> FileStatus {
        match self {
            Self::Status { found, .. } => *found,
            other => panic!("{other:?} has no status"),
        }
    }

    fn entry(&mut self) -> squeue::Entry {
        match self {
            Self::Read {
                file,
                offset,
                buffer,
                start,
                end,
            } => {
                let range = &mut buffer[*start..*end];
                opcode::Read::new(raw(file), range.as_mut_ptr(), range.len() as u32)
                    .offset(*offset)
                    .build()
            }
            Self::Write {
                file,
                offset,
                bytes,
                start,
                end,
                runs,
                is_durable,
            } => {
                let flags = if *is_durable { libc::RWF_DSYNC } else { 0 };
                match runs.fill(bytes, *start..*end) {
                    [run] => opcode::Write::new(raw(file), run.iov_base.cast(), run.iov_len as u32)
                        .offset(*offset)
                        .rw_flags(flags)
                        .build(),
                    many => opcode::Writev::new(raw(file), many.as_ptr(), many.len() as u32)
                        .offset(*offset)
                        .rw_flags(flags)
                        .build(),
                }
            }
            Self::Sync { file, data_only } => {
                let flags = if *data_only {
                    types::FsyncFlags::DATASYNC
                } else {
                    types::FsyncFlags::empty()
                };
                opcode::Fsync::new(raw(file)).flags(flags).build()
            }
            Self::Open {
                directory,
                name,
                flags,
                mode,
            } => opcode::OpenAt::new(raw(directory), name.as_ptr())
                .flags(*flags | libc::O_CLOEXEC)
                .mode(*mode)
                .build(),
            Self::Closed => opcode::Nop::new().build(),
            Self::Close { file } => opcode::Close::new(types::Fd(file.as_raw_fd())).build(),
            Self::Populate { map, offset, len } => {
                let (start, len) = map.pages(*offset, *len).unwrap_or((ptr::null(), 0));
                opcode::Madvise::new(start.cast(), len as i64, libc::MADV_POPULATE_READ).build()
            }
            Self::Status { file, name, found } => {
                opcode::Statx::new(raw(file), name.as_ptr(), found.0.as_mut_ptr().cast())
                    .flags(libc::AT_EMPTY_PATH | libc::AT_SYMLINK_NOFOLLOW)
                    .mask(libc::STATX_SIZE | libc::STATX_INO)
                    .build()
            }
            Self::Unlink { directory, name } => {
                opcode::UnlinkAt::new(raw(directory), name.as_ptr()).build()
            }
        }
    }
}

impl Runs {
    /// The runs of these bytes. They point into what `bytes` owns, so they hold as long as that lives.
    fn fill(&mut self, bytes: &Gather, range: Range<usize>) -> &[libc::iovec] {
        self.0.clear();
        let runs = bytes.within(range);
        let filled = runs.iter().filter(|run| !run.is_empty());
        self.0.extend(filled.map(|run| libc::iovec {
            // The kernel only reads from there.
            iov_base: run.as_ptr().cast_mut().cast(),
            iov_len: run.len(),
        }));
        &self.0
    }
}

impl std::fmt::Debug for Runs {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} runs", self.0.len())
    }
}

/// Waits for one operation; dropped early, leaves it behind.
struct InFlight<'a> {
    ring: &'a Ring,
    slot: usize,
    is_done: Cell<bool>,
}

impl Future for InFlight<'_> {
    type Output = FileOutcome;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<FileOutcome> {
        match self.ring.look(|state| state.files.poll(self.slot, context)) {
            Poll::Ready((outcome, woken)) => {
                self.is_done.set(true);
                for waker in woken {
                    waker.wake();
                }
                Poll::Ready(outcome)
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        if self.is_done.get() {
            return;
        }
        let slot = self.slot;
        let woken = self.ring.with(|state| {
            let mut woken = Vec::new();
            match &mut state.files.slots[slot] {
                Slot::InFlight {
                    queue,
                    waker,
                    is_abandoned,
                    ..
                } => {
                    *waker = None;
                    *is_abandoned = true;
                    queue.abandoned_count.set(queue.abandoned_count.get() + 1);
                    state.files.abandoned_count += 1;
                    // Its slot is another's to use now.
                    woken.append(&mut state.files.waiters);
                    let entry = opcode::AsyncCancel::new(Kind::File.tag(slot))
                        .build()
                        .user_data(Kind::Nobody.tag(0));
                    state.queue.push_back(entry);
                }
                Slot::Done(outcome) => {
                    if let (FileOperation::Open { .. }, Ok(fd)) =
                        (&outcome.operation, outcome.result)
                    {
                        close(fd);
                    }
                    state.files.release(slot, &mut woken);
                }
                Slot::Free => panic!("file operation {slot} was freed while awaited"),
            }
            woken
        });
        for waker in woken {
            waker.wake();
        }
    }
}

fn raw(file: &OwnedFd) -> types::Fd {
    types::Fd(file.as_raw_fd())
}

/// The descriptor is the kernel's to forget once it has closed it; also where that reports an error.
fn after_close(file: OwnedFd, result: Result<u32, i32>) -> FileOperation {
    if result != Err(libc::ECANCELED) {
        let _closed = file.into_raw_fd();
    }
    FileOperation::Closed
}

fn close(fd: u32) {
    // SAFETY: the kernel has just opened this descriptor for us and nobody else was told of it.
    drop(unsafe { OwnedFd::from_raw_fd(fd as RawFd) });
}

fn count(operation: &FileOperation, result: Result<u32, i32>, counters: &Counters) {
    match (operation, result) {
        (FileOperation::Read { .. }, Ok(len)) => {
            counters.disk_reads.add(1);
            counters.disk_bytes_read.add(u64::from(len));
        }
        (FileOperation::Write { is_durable, .. }, Ok(len)) => {
            counters.disk_writes.add(1);
            counters.disk_bytes_written.add(u64::from(len));
            counters.disk_syncs.add(u64::from(*is_durable));
        }
        (FileOperation::Sync { .. }, Ok(_)) => counters.disk_syncs.add(1),
        _ => {}
    }
}
