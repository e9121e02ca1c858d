//! File operations as system calls, each on a thread of a pool for as long as it takes.
//!
//! As on the ring: an operation owns what the kernel looks at, whoever stops waiting leaves it behind, and its memory goes when the call has
//! returned; a disk has so many in flight and no more. A thread that a disk never lets go stays where it is.
#![allow(unsafe_code, reason = "an operation goes to a thread and comes back")]

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io::IoSlice;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};

use rustix::fs::{AtFlags, Mode, OFlags, fdatasync, fsync, openat, statat, unlinkat};
use rustix::io::{Errno, ReadWriteFlags, pread, pwritev, pwritev2};
use strand_blob::Gather;

use crate::core::counters::Counters;
use crate::core::executor::Executor;
use crate::core::tokio::Tokio;
use crate::file_operation::{DiskQueue, FileOperation, FileOutcome, FileStatus, count};

/// Does file operations of a core's disks.
#[derive(Debug)]
pub struct Pool {
    executor: Tokio,
    counters: Rc<Counters>,
}

impl Pool {
    /// Threads are started as operations come.
    #[must_use]
    pub fn new(executor: Tokio, counters: Rc<Counters>) -> Rc<Self> {
        Rc::new(Self { executor, counters })
    }

    /// Does one file operation of a disk. Dropping the future abandons it: see the module's head.
    pub async fn file(&self, disk: &Rc<DiskQueue>, operation: FileOperation) -> FileOutcome {
        poll_fn(|context| {
            if disk.has_room() {
                return Poll::Ready(());
            }
            disk.waiters.borrow_mut().push(context.waker().clone());
            Poll::Pending
        })
        .await;
        disk.in_flight_count.set(disk.in_flight_count.get() + 1);
        let slot = Rc::<Slot>::default();
        let (queue, counters) = (Rc::clone(disk), Rc::clone(&self.counters));
        let (carried, filled) = (Carried::new(operation), Rc::clone(&slot));
        self.executor.spawn(async move {
            let work = move || {
                let mut carried = carried;
                let result = carried.operation().perform();
                (carried, result)
            };
            let Some((carried, result)) = Tokio::apart(work).await else {
                // It panicked, or the process ends: its waiter's time runs out.
                return;
            };
            let operation = carried.bring_back();
            count(&operation, result, &counters);
            queue.in_flight_count.set(queue.in_flight_count.get() - 1);
            for waker in queue.waiters.take() {
                waker.wake();
            }
            filled.fill(&queue, FileOutcome { result, operation });
        });
        Waiting {
            slot,
            disk,
            is_done: false,
        }
        .await
    }

    /// Counts a disk operation whose waiter gave up.
    pub fn count_disk_timeout(&self) {
        self.counters.disk_timeouts.add(1);
    }
}

/// An operation on its way to a thread and back.
///
/// Descriptors in it are counted by its core's thread, so it is dropped there or not at all.
struct Carried(ManuallyDrop<FileOperation>);

// SAFETY: the thread that it goes to only looks at what the operation points to, and clones and drops none of its counted pointers;
// its core's thread changes nothing of it until it is back.
unsafe impl Send for Carried {}

impl Carried {
    fn new(operation: FileOperation) -> Self {
        Self(ManuallyDrop::new(operation))
    }

    fn operation(&mut self) -> &mut FileOperation {
        &mut self.0
    }

    /// On its core's thread.
    fn bring_back(self) -> FileOperation {
        ManuallyDrop::into_inner(self.0)
    }
}

/// Where an outcome is left.
#[derive(Default)]
struct Slot {
    outcome: RefCell<Option<FileOutcome>>,
    waker: RefCell<Option<Waker>>,
    is_abandoned: Cell<bool>,
}

impl Slot {
    fn fill(&self, queue: &DiskQueue, outcome: FileOutcome) {
        if self.is_abandoned.get() {
            queue.abandoned_count.set(queue.abandoned_count.get() - 1);
            return forget(&outcome);
        }
        *self.outcome.borrow_mut() = Some(outcome);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// Waits for one operation; dropped early, leaves it behind.
struct Waiting<'a> {
    slot: Rc<Slot>,
    disk: &'a Rc<DiskQueue>,
    is_done: bool,
}

impl Future for Waiting<'_> {
    type Output = FileOutcome;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<FileOutcome> {
        let outcome = self.slot.outcome.take();
        if let Some(outcome) = outcome {
            self.is_done = true;
            return Poll::Ready(outcome);
        }
        *self.slot.waker.borrow_mut() = Some(context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.is_done {
            return;
        }
        if let Some(outcome) = self.slot.outcome.take() {
            return forget(&outcome);
        }
        self.slot.is_abandoned.set(true);
        let abandoned_count = self.disk.abandoned_count.get() + 1;
        self.disk.abandoned_count.set(abandoned_count);
    }
}

/// Closes what an operation opened for nobody.
fn forget(outcome: &FileOutcome) {
    if let (FileOperation::Open { .. }, Ok(fd)) = (&outcome.operation, outcome.result) {
        // SAFETY: the operation opened this descriptor, and nobody else was told of it.
        drop(unsafe { OwnedFd::from_raw_fd(fd as RawFd) });
    }
}

impl FileOperation {
    /// Does it, and waits for it. Bytes, a descriptor, or zero; the error is a positive errno.
    fn perform(&mut self) -> Result<u32, i32> {
        self.try_perform().map_err(Errno::raw_os_error)
    }

    fn try_perform(&mut self) -> rustix::io::Result<u32> {
        match self {
            Self::Read {
                file,
                offset,
                buffer,
                start,
                end,
            } => pread(&**file, &mut buffer[*start..*end], *offset).map(|len| len as u32),
            Self::Write {
                file,
                offset,
                bytes,
                start,
                end,
                is_durable,
                ..
            } => write(file, *offset, bytes, *start, *end, *is_durable),
            Self::Sync { file, data_only } => {
                let sync = if *data_only { fdatasync } else { fsync };
                sync(file.as_fd()).map(|()| 0)
            }
            Self::Open {
                directory,
                name,
                flags,
                mode,
            } => {
                let flags = OFlags::from_bits_retain(*flags as u32) | OFlags::CLOEXEC;
                let opened = openat(&**directory, &**name, flags, Mode::from_raw_mode(*mode))?;
                Ok(opened.into_raw_fd() as u32)
            }
            Self::Populate { map, offset, len } => map
                .populate(*offset, *len)
                .map(|()| 0)
                .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::INVAL)),
            Self::Close { .. } => {
                drop(std::mem::replace(self, Self::Closed));
                Ok(0)
            }
            Self::Closed => Ok(0),
            Self::Status { file, name, found } => {
                let flags = AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW;
                let status = statat(&**file, &**name, flags)?;
                **found = FileStatus::new(status.st_size as u64, status.st_ino, status.st_dev);
                Ok(0)
            }
            Self::Unlink { directory, name } => {
                unlinkat(&**directory, &**name, AtFlags::empty()).map(|()| 0)
            }
        }
    }
}

/// Whether this kernel and file system took a write that is durable by itself so far (`RWF_DSYNC`, Linux 4.7).
static HAS_DURABLE_WRITES: AtomicBool = AtomicBool::new(true);

fn write(
    file: &OwnedFd,
    offset: u64,
    bytes: &Gather,
    start: usize,
    end: usize,
    is_durable: bool,
) -> rustix::io::Result<u32> {
    let within = bytes.within(start..end);
    let filled = within.iter().filter(|run| !run.is_empty());
    let runs: Vec<IoSlice<'_>> = filled.map(|run| IoSlice::new(run)).collect();
    if !is_durable {
        return pwritev(file, &runs, offset).map(|len| len as u32);
    }
    if HAS_DURABLE_WRITES.load(Ordering::Relaxed) {
        match pwritev2(file, &runs, offset, ReadWriteFlags::DSYNC) {
            Err(Errno::NOSYS | Errno::OPNOTSUPP) => {
                HAS_DURABLE_WRITES.store(false, Ordering::Relaxed);
            }
            other => return other.map(|len| len as u32),
        }
    }
    let len = pwritev(file, &runs, offset)?;
    fdatasync(file)?;
    Ok(len as u32)
}
