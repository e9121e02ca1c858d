//! Files on the ring: reads and writes at an offset, syncs, opens and unlinks.
//!
//! An operation owns what the kernel looks at (buffer, name, descriptor) and gives it back with
//! its outcome. Whoever stops waiting leaves it behind: it is cancelled if the kernel can, and its
//! memory goes when its completion has come. No more than a fixed number fly; others wait.
//!
//! Each disk has a [`DiskQueue`], which bounds what one disk has in flight: a disk that hangs holds its own share of slots
//! and kernel threads and no more. What was abandoned no longer counts against the ring's slots, and the kernel is given a thread
//! more for each of them, because the thread that has it may never come back.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::pin::Pin;
use std::ptr;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use io_uring::{opcode, squeue, types};

use super::turn::{Kind, Ring};
use crate::core::counters::Counters;
use crate::file_operation::{DiskQueue, FileOperation, FileOutcome, count};

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
            let entry = entry_of(operation).user_data(Kind::File.tag(index));
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

/// The entry of an operation. It points into what the operation owns.
fn entry_of(operation: &mut FileOperation) -> squeue::Entry {
    match operation {
        FileOperation::Read {
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
        FileOperation::Write {
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
        FileOperation::Sync { file, data_only } => {
            let flags = if *data_only {
                types::FsyncFlags::DATASYNC
            } else {
                types::FsyncFlags::empty()
            };
            opcode::Fsync::new(raw(file)).flags(flags).build()
        }
        FileOperation::Open {
            directory,
            name,
            flags,
            mode,
        } => opcode::OpenAt::new(raw(directory), name.as_ptr())
            .flags(*flags | libc::O_CLOEXEC)
            .mode(*mode)
            .build(),
        FileOperation::Closed => opcode::Nop::new().build(),
        FileOperation::Close { file } => opcode::Close::new(types::Fd(file.as_raw_fd())).build(),
        FileOperation::Populate { map, offset, len } => {
            let (start, len) = map.pages(*offset, *len).unwrap_or((ptr::null(), 0));
            opcode::Madvise::new(start.cast(), len as i64, libc::MADV_POPULATE_READ).build()
        }
        FileOperation::Status { file, name, found } => {
            opcode::Statx::new(raw(file), name.as_ptr(), found.0.as_mut_ptr().cast())
                .flags(libc::AT_EMPTY_PATH | libc::AT_SYMLINK_NOFOLLOW)
                .mask(libc::STATX_SIZE | libc::STATX_INO)
                .build()
        }
        FileOperation::Unlink { directory, name } => {
            opcode::UnlinkAt::new(raw(directory), name.as_ptr()).build()
        }
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
