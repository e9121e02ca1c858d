//! The ring itself and the task that turns it.
//!
//! A turn hands over what has been queued, lets the kernel run what it deferred, and reaps all
//! completions: at most one entry into the kernel, none if there is nothing to do. While turns
//! bring anything the eventfd is switched off and the task only yields; then it switches the
//! eventfd on, looks once more, and sleeps. Completions only change state and wake tasks: no
//! user code runs inside a turn.
//!
//! `SINGLE_ISSUER` and `DEFER_TASKRUN` (6.1) make the kernel finish operations only when we
//! enter, in one batch; the eventfd is signalled when the first of them waits. Where they are
//! missing, `COOP_TASKRUN` is the next best.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::rc::Rc;
use std::task::Waker;
use std::time::Duration;

use io_uring::{IoUring, cqueue, squeue};

use super::buffer::ProvidedBuffers;
use super::datagram::Datagrams;
use super::file::Files;
use crate::core::counters::Counters;
use crate::core::executor::{Executor, timeout};
use crate::core::notify::Notify;

/// `IORING_ENTER_GETEVENTS`, which the crate keeps to itself: also runs deferred work.
const ENTER_GETEVENTS: u32 = 1;
/// Longest wait for operations in flight when the ring closes.
const CLOSE_WAIT: Duration = Duration::from_secs(10);

/// Sizes of a ring. All of it together is memory that kernels from 6.13 on count as locked.
#[derive(Clone, Copy, Debug)]
pub struct RingOptions {
    /// Submission entries handed over at once; more wait for the next entry into the kernel.
    pub submission_count: u32,
    /// Completions the kernel can post between two turns without allocating.
    pub completion_count: u32,
    /// Receive buffers of 66 KB for all sockets; a power of two.
    pub receive_buffer_count: u16,
    /// Sends in flight; each owns up to 64 KiB.
    pub sends_max: usize,
    /// Disk operations in flight; more wait.
    pub files_max: usize,
    /// Threads the kernel may use for operations that block (`fsync`, writes that extend), beside one for each that was
    /// abandoned. They are started as needed: more than one disk may have in flight, so that one that hangs leaves some.
    pub worker_count: u32,
}

impl Default for RingOptions {
    fn default() -> Self {
        Self {
            submission_count: 256,
            completion_count: 1_024,
            receive_buffer_count: 64,
            sends_max: 32,
            files_max: 128,
            worker_count: 48,
        }
    }
}

/// See the module's head.
pub struct Ring {
    /// Dropped by hand: leaked whole if anything is still in flight.
    state: ManuallyDrop<RefCell<State>>,
    eventfd: OwnedFd,
    wake: Rc<Notify>,
    is_closing: Cell<bool>,
    pub(super) counters: Rc<Counters>,
}

pub(super) struct State {
    uring: IoUring,
    pub(super) queue: VecDeque<squeue::Entry>,
    pub(super) buffers: ProvidedBuffers,
    pub(super) datagrams: Datagrams,
    pub(super) files: Files,
    worker_count: u32,
    worker_count_set: u32,
    /// As if the kernel's flag for deferred work stayed raised.
    #[cfg(test)]
    pub(super) danger_flag_stays: bool,
}

/// What a completion belongs to: the high half of its `user_data`, an index being the low half.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Kind {
    Receive = 1,
    Send = 2,
    File = 3,
    /// Cancellations; nobody waits for them.
    Nobody = 4,
}

impl Kind {
    pub(super) fn tag(self, index: usize) -> u64 {
        (u64::from(self as u32) << 32) | index as u64
    }

    fn of(tag: u64) -> (Option<Self>, usize) {
        let kind = match (tag >> 32) as u32 {
            1 => Some(Self::Receive),
            2 => Some(Self::Send),
            3 => Some(Self::File),
            4 => Some(Self::Nobody),
            _ => None,
        };
        (kind, (tag & u64::from(u32::MAX)) as usize)
    }
}

impl Ring {
    /// Makes a ring for the current thread and registers its eventfd and receive buffers.
    ///
    /// # Errors
    ///
    /// What the kernel says: see [`probe`](super::probe()) for a clearer text.
    pub fn new(options: RingOptions, counters: Rc<Counters>) -> io::Result<Rc<Self>> {
        let uring = build(&options)?;
        let eventfd = new_eventfd()?;
        uring.submitter().register_eventfd(eventfd.as_raw_fd())?;
        let mut workers = [options.worker_count, options.worker_count];
        uring.submitter().register_iowq_max_workers(&mut workers)?;
        let buffers = ProvidedBuffers::register(&uring.submitter(), options.receive_buffer_count)?;
        let mut state = State {
            uring,
            queue: VecDeque::new(),
            buffers,
            datagrams: Datagrams::new(options.sends_max),
            files: Files::new(options.files_max),
            worker_count: options.worker_count,
            worker_count_set: options.worker_count,
            #[cfg(test)]
            danger_flag_stays: false,
        };
        state.uring.completion().disable_eventfd();
        Ok(Rc::new(Self {
            state: ManuallyDrop::new(RefCell::new(state)),
            eventfd,
            wake: Rc::default(),
            is_closing: Cell::new(false),
            counters,
        }))
    }

    /// Signalled by the kernel when the turning task sleeps and something completes.
    #[must_use]
    pub fn eventfd(&self) -> BorrowedFd<'_> {
        self.eventfd.as_fd()
    }

    /// The flag to raise when [`eventfd`](Self::eventfd) is signalled.
    #[must_use]
    pub fn wake_flag(&self) -> Rc<Notify> {
        self.wake.clone()
    }

    /// Whether [`close`](Self::close) was called.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        self.is_closing.get()
    }

    /// Turns the ring until it is closed and nothing is in flight. One task per ring.
    pub async fn run<E: Executor>(&self, executor: &E) {
        let mut closed_at = None;
        loop {
            if self.turn() > 0 {
                executor.yield_now().await;
                continue;
            }
            if self.is_closing.get() {
                let now = executor.now();
                let is_overdue = now - *closed_at.get_or_insert(now) > CLOSE_WAIT;
                if self.state.borrow().in_flight_count() == 0 || is_overdue {
                    break;
                }
            }
            self.switch_eventfd(true);
            // What came before the switch is here, what comes after it is signalled. The kernel's flag for deferred work does not count: it
            // may be raised after the work was done, and then stays until there is more (io_req_local_work_add sets it last).
            if !self.has_events() || self.turn() == 0 {
                if self.is_closing.get() {
                    let _ = timeout(executor, CLOSE_WAIT / 10, self.wake.notified()).await;
                } else {
                    self.wake.notified().await;
                }
            }
            self.switch_eventfd(false);
        }
    }

    /// Cancels receives and ends [`run`](Self::run) once what is in flight has completed.
    pub fn close(&self) {
        if self.is_closing.replace(true) {
            return;
        }
        self.state.borrow_mut().cancel_receives();
        self.wake.notify();
        // Ends the eventfd's reader.
        let one = 1u64.to_ne_bytes();
        // SAFETY: the eventfd is open and the 8 bytes are readable.
        let written = unsafe { libc::write(self.eventfd.as_raw_fd(), one.as_ptr().cast(), 8) };
        assert_eq!(written, 8, "an eventfd takes a count of one");
    }

    /// Changes the state and sees to it that a turn follows.
    pub(super) fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let output = change(&mut self.state.borrow_mut());
        self.wake.notify();
        output
    }

    /// Looks at or changes the state where nothing needs to be submitted.
    pub(super) fn look<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.state.borrow_mut())
    }

    /// One turn; gives how many entries were submitted and completions reaped.
    fn turn(&self) -> usize {
        let mut woken = Vec::new();
        let (moved, arrivals) = {
            let state = &mut *self.state.borrow_mut();
            let moved = state.turn(&self.counters, &mut woken);
            (moved, state.datagrams.take_alarm())
        };
        for waker in woken {
            waker.wake();
        }
        if let Some(arrivals) = arrivals {
            arrivals.notify();
        }
        moved
    }

    fn has_events(&self) -> bool {
        let state = &mut *self.state.borrow_mut();
        // The switch must be visible to the kernel before we look.
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        state.has_deferred() || !state.queue.is_empty() || !state.uring.completion().is_empty()
    }

    fn switch_eventfd(&self, is_on: bool) {
        let state = &mut *self.state.borrow_mut();
        let completion = state.uring.completion();
        if is_on {
            completion.enable_eventfd()
        } else {
            completion.disable_eventfd()
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        if self.state.borrow().in_flight_count() > 0 {
            // The kernel may still write into our buffers: they must outlive us.
            tracing::warn!("ring dropped with operations in flight; its memory is given up");
            return;
        }
        // SAFETY: dropped once, here, and not used afterwards.
        unsafe { ManuallyDrop::drop(&mut self.state) };
    }
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Ring")
            .field("is_closing", &self.is_closing)
            .finish_non_exhaustive()
    }
}

impl State {
    fn turn(&mut self, counters: &Counters, woken: &mut Vec<Waker>) -> usize {
        let mut moved = 0;
        self.arm_receives(counters);
        self.replace_workers();
        loop {
            moved += self.fill_submissions();
            if !self.enter(counters) {
                break;
            }
            moved += self.reap(counters, woken);
            if self.queue.is_empty() {
                break;
            }
        }
        moved
    }

    /// Sees to it that operations which may never end do not use up the kernel's threads.
    fn replace_workers(&mut self) {
        let wanted = self.worker_count + self.files.abandoned_count() as u32;
        if wanted == self.worker_count_set {
            return;
        }
        self.worker_count_set = wanted;
        let mut workers = [wanted, wanted];
        if let Err(error) = self
            .uring
            .submitter()
            .register_iowq_max_workers(&mut workers)
        {
            tracing::warn!(%error, "the kernel gives this core no more threads for its disks");
        }
    }

    /// Moves queued entries into the submission ring, as many as fit.
    fn fill_submissions(&mut self) -> usize {
        let mut submission = self.uring.submission();
        let mut moved = 0;
        while let Some(entry) = self.queue.front() {
            // SAFETY: whoever queued the entry keeps the memory it points to until its completion:
            // sends and files in their slots, receives in the registered buffers.
            if unsafe { submission.push(entry) }.is_err() {
                break;
            }
            self.queue.pop_front();
            moved += 1;
        }
        moved
    }

    /// Enters the kernel if there is a reason to. `false`: nothing was handed over or waits.
    fn enter(&mut self, counters: &Counters) -> bool {
        let to_submit = self.uring.submission().len();
        if to_submit == 0 && !self.has_deferred() {
            return !self.uring.completion().is_empty();
        }
        counters.ring_enters.add(1);
        let submitter = self.uring.submitter();
        // SAFETY: no signal mask is passed, and the entries were vouched for when pushed.
        let entered = unsafe {
            submitter.enter::<libc::sigset_t>(to_submit as u32, 0, ENTER_GETEVENTS, None)
        };
        match entered.map_err(|error| error.raw_os_error()) {
            Ok(_) => true,
            // Interrupted, or out of completion room or memory for a moment: reap, then try again.
            Err(Some(libc::EINTR | libc::EBUSY | libc::EAGAIN | libc::ENOMEM)) => true,
            Err(errno) => panic!("io_uring_enter refused its arguments: errno {errno:?}"),
        }
    }

    /// Whether the kernel says that it has work which waits for us to enter.
    fn has_deferred(&mut self) -> bool {
        #[cfg(test)]
        if self.danger_flag_stays {
            return true;
        }
        let submission = self.uring.submission();
        submission.taskrun() || submission.cq_overflow()
    }

    fn reap(&mut self, counters: &Counters, woken: &mut Vec<Waker>) -> usize {
        let mut reaped = 0;
        let Self {
            uring,
            queue,
            buffers,
            datagrams,
            files,
            ..
        } = self;
        for completion in uring.completion() {
            reaped += 1;
            let (kind, index) = Kind::of(completion.user_data());
            let result = outcome(&completion);
            match kind {
                Some(Kind::Receive) => {
                    let flags = completion.flags();
                    datagrams.received(index, result, flags, buffers, counters);
                }
                Some(Kind::Send) => {
                    if let Some(entry) = datagrams.sent(index, result, counters) {
                        queue.push_back(entry);
                    }
                }
                Some(Kind::File) => files.completed(index, result, counters, woken),
                Some(Kind::Nobody) => {}
                None => panic!(
                    "completion {:#x} was never submitted",
                    completion.user_data()
                ),
            }
        }
        reaped
    }

    fn in_flight_count(&self) -> usize {
        self.datagrams.in_flight_count() + self.files.in_flight_count() + self.queue.len()
    }
}

/// A completion's result, the error being a positive errno.
fn outcome(completion: &cqueue::Entry) -> Result<u32, i32> {
    let result = completion.result();
    u32::try_from(result).map_err(|_| -result)
}

fn build(options: &RingOptions) -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    builder
        .setup_cqsize(options.completion_count)
        .setup_submit_all();
    let deferred = builder
        .clone()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .build(options.submission_count);
    match deferred {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => builder
            .setup_coop_taskrun()
            .setup_taskrun_flag()
            .build(options.submission_count),
        other => other,
    }
}

fn new_eventfd() -> io::Result<OwnedFd> {
    // Blocking on purpose: a ring's read of a non-blocking eventfd ends at once with EAGAIN.
    // SAFETY: takes two integers.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just opened, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
