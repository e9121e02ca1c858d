//! The executor of a core where io_uring is not to be had: tokio on one thread, and its pool for what waits.
//!
//! The only module of this program that names that crate; `plain` builds on the little that is exported here.

use std::future::Future;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use ::tokio::io::Interest;
use ::tokio::net::UdpSocket;
use ::tokio::runtime::Builder;
use ::tokio::task::LocalSet;

use crate::core::executor::Executor;
use crate::core::runtime::{CoreError, CoreOptions};

/// Threads for what waits. A disk has 32 operations in flight, and what hangs keeps its thread: so many disks of a core may hang.
const THREADS_MAX: usize = 512;

/// How long an idle one is kept.
const THREAD_KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Longest wait for threads when the core ends.
const CLOSE_WAIT: Duration = Duration::from_secs(10);

/// The executor of the current thread. Valid in its tasks only.
#[derive(Clone, Copy, Debug)]
pub struct Tokio(());

/// A socket that can be waited for.
pub(crate) struct WatchedSocket(UdpSocket);

/// A thread with an executor on it.
pub(super) type Thread<T> = std::thread::JoinHandle<Result<T, CoreError>>;

/// Starts a thread with an executor on it and runs `make`'s future to its end.
pub(super) fn spawn_core<T, F>(
    options: CoreOptions,
    make: impl FnOnce(Tokio) -> F + Send + 'static,
) -> Result<Thread<T>, CoreError>
where
    T: Send + 'static,
    F: Future<Output = Result<T, CoreError>> + 'static,
{
    let failed = |error: io::Error| CoreError::Executor(error.to_string());
    std::thread::Builder::new()
        .name(format!("core{}", options.index))
        .spawn(move || {
            if let Some(cpu) = options.pin {
                pin_to(cpu).map_err(failed)?;
            }
            let runtime = Builder::new_current_thread()
                .enable_io()
                .enable_time()
                .max_blocking_threads(THREADS_MAX)
                .thread_keep_alive(THREAD_KEEP_ALIVE)
                .build()
                .map_err(failed)?;
            let output = LocalSet::new().block_on(&runtime, make(Tokio::current()));
            runtime.shutdown_timeout(CLOSE_WAIT);
            output
        })
        .map_err(failed)
}

fn pin_to(cpu: usize) -> io::Result<()> {
    let mut set = rustix::thread::CpuSet::new();
    set.set(cpu);
    Ok(rustix::thread::sched_setaffinity(None, &set)?)
}

impl Tokio {
    /// That of the `LocalSet` in which the current task runs.
    #[must_use]
    pub const fn current() -> Self {
        Self(())
    }

    /// Does what waits on a thread of the pool. `None`: it panicked, or the core ends.
    pub(crate) async fn apart<T: Send + 'static>(
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        ::tokio::task::spawn_blocking(work).await.ok()
    }
}

impl WatchedSocket {
    /// Watches a socket, from a task of the executor.
    pub(crate) fn new(socket: std::net::UdpSocket) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        UdpSocket::from_std(socket).map(Self)
    }

    /// Waits until there is something to read.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        self.0.readable().await
    }

    /// Waits until there is room to write.
    pub(crate) async fn writable(&self) -> io::Result<()> {
        self.0.writable().await
    }

    /// Reads; `WouldBlock` makes [`readable`](Self::readable) wait anew.
    pub(crate) fn try_read<T>(
        &self,
        read: impl FnOnce(BorrowedFd<'_>) -> io::Result<T>,
    ) -> io::Result<T> {
        self.0.try_io(Interest::READABLE, || read(self.0.as_fd()))
    }

    /// Writes; `WouldBlock` makes [`writable`](Self::writable) wait anew.
    pub(crate) fn try_write<T>(
        &self,
        write: impl FnOnce(BorrowedFd<'_>) -> io::Result<T>,
    ) -> io::Result<T> {
        self.0.try_io(Interest::WRITABLE, || write(self.0.as_fd()))
    }
}

impl Executor for Tokio {
    fn spawn(&self, future: impl Future<Output = ()> + 'static) {
        ::tokio::task::spawn_local(future);
    }

    async fn sleep(&self, duration: Duration) {
        ::tokio::time::sleep(duration).await;
    }

    async fn yield_now(&self) {
        ::tokio::task::yield_now().await;
    }

    fn now(&self) -> Instant {
        Instant::now()
    }
}
