//! The executor of a core, on glommio: the only module that names that crate.
//!
//! glommio schedules tasks and timers and sleeps in its own io_uring; every byte moves through
//! ours (`ring`), whose completions wake it through an eventfd ([`Glommio::bridge`]). Of glommio's
//! I/O only that one read is used: its UDP has no GSO or GRO, its direct files misjudge fresh ones.
//! glommio panics or exits where io_uring is missing, so [`probe`] comes first.
//!
//! A trap of glommio 0.9: if its preemption timer fires between polling for I/O and running the
//! first task (the thread lost its CPU meanwhile), the run loop takes "ran nothing" for "nothing
//! to run" and sleeps *with tasks ready*, until the next event; on a busy machine that is
//! minutes apart. So whoever yields leaves a short timer behind ([`YIELD_GUARD`]), which ends
//! such a sleep, and each core has a heartbeat for tasks that were woken otherwise.

use std::future::{Future, poll_fn};
use std::os::fd::{BorrowedFd, FromRawFd, IntoRawFd};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use glommio::io::BufferedFile;
use glommio::{ExecutorJoinHandle, LocalExecutorBuilder, Placement};

use crate::core::executor::Executor;
use crate::core::gate::Pass;
use crate::core::notify::Notify;
use crate::core::runtime::{CoreError, CoreOptions, Unsupported};
use crate::ring;

/// Memory glommio registers in each of its three rings, for buffers that we do not use; its least.
///
/// Kernels count it three times against the memory-lock limit: 192 KiB an executor.
const IO_MEMORY_BYTES: usize = 64 << 10;
/// Entries of each of glommio's rings. We keep a handful of operations in them.
const RING_DEPTH: usize = 32;
/// How often a busy executor looks at its timers and at wakes from other threads. glommio's own
/// 100 ms would let every time-out of a busy node be late by that.
const PREEMPT_INTERVAL: Duration = Duration::from_millis(10);
/// Longest sleep with a yielding task ready: see the module's head.
const YIELD_GUARD: Duration = Duration::from_micros(50);
/// Longest sleep with any other task ready: see the module's head. 40 wakes a second of an idle
/// core are some 0.05 % of its time.
const HEARTBEAT: Duration = Duration::from_millis(25);
/// What glommio asks of `RLIMIT_MEMLOCK` before it starts.
const MEMLOCK_BYTES_MIN: u64 = 512 << 10;

/// A thread with an executor on it.
pub(crate) type Thread<T> = ExecutorJoinHandle<Result<T, CoreError>>;

/// The executor of the current thread. Valid in its tasks only.
#[derive(Clone, Copy, Debug)]
pub struct Glommio(());

/// Checks that io_uring and the limits it needs are there.
///
/// # Errors
///
/// [`Unsupported`]; its text is one sentence for the user.
pub fn probe() -> Result<(), Unsupported> {
    let limit_bytes = ring::raise_memory_lock_limit();
    if limit_bytes < MEMLOCK_BYTES_MIN {
        return Err(Unsupported::MemoryLock { limit_bytes });
    }
    Ok(ring::probe()?)
}

/// Starts a thread with an executor on it and runs `make`'s future to its end.
pub(crate) fn spawn_core<T, F>(
    options: CoreOptions,
    make: impl FnOnce(Glommio) -> F + Send + 'static,
) -> Result<Thread<T>, CoreError>
where
    T: Send + 'static,
    F: Future<Output = Result<T, CoreError>> + 'static,
{
    let placement = options.pin.map_or(Placement::Unbound, Placement::Fixed);
    LocalExecutorBuilder::new(placement)
        .name(&format!("core{}", options.index))
        .io_memory(IO_MEMORY_BYTES)
        .ring_depth(RING_DEPTH)
        .preempt_timer(PREEMPT_INTERVAL)
        .spawn(move || make(Glommio(())))
        .map_err(|error| CoreError::Executor(error.to_string()))
}

impl Glommio {
    /// Wakes the executor now and then until the core closes: see the module's head.
    pub(crate) async fn beat(self, is_closing: impl Fn() -> bool) {
        while !is_closing() {
            self.sleep(HEARTBEAT).await;
        }
    }

    /// Raises `wake` whenever `eventfd` is signalled, until `is_closing` says so after a signal.
    pub(crate) fn bridge(
        self,
        eventfd: BorrowedFd<'_>,
        wake: Rc<Notify>,
        pass: Pass,
        is_closing: impl Fn() -> bool + 'static,
    ) -> std::io::Result<()> {
        let raw_fd = eventfd.try_clone_to_owned()?.into_raw_fd();
        self.spawn(async move {
            let _pass = pass;
            #[allow(unsafe_code, reason = "glommio takes foreign descriptors no other way")]
            // SAFETY: `raw_fd` was given up by the owned clone above; only this file holds it.
            let file = unsafe { BufferedFile::from_raw_fd(raw_fd) };
            while !is_closing() {
                // Completes when the eventfd is signalled; the count read does not matter.
                if let Err(error) = file.read_at(0, 8).await {
                    tracing::error!(%error, "eventfd of the ring cannot be read");
                    break;
                }
                wake.notify();
            }
            if let Err(error) = file.close().await {
                tracing::warn!(%error, "eventfd of the ring was not closed");
            }
        });
        Ok(())
    }
}

impl Executor for Glommio {
    fn spawn(&self, future: impl Future<Output = ()> + 'static) {
        glommio::spawn_local(future).detach();
    }

    async fn sleep(&self, duration: Duration) {
        glommio::timer::sleep(duration).await;
    }

    async fn yield_now(&self) {
        let mut guard = pin!(glommio::timer::sleep(YIELD_GUARD));
        let mut has_yielded = false;
        poll_fn(|context| {
            if std::mem::replace(&mut has_yielded, true) {
                return Poll::Ready(());
            }
            // Sets the timer; dropping it afterwards takes it back.
            let _ = guard.as_mut().poll(context);
            context.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }

    fn now(&self) -> Instant {
        Instant::now()
    }
}
