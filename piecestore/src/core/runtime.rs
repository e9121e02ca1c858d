//! What a core runs on: glommio and io_uring, or tokio and plain system calls where io_uring is missing or forbidden.
//!
//! The same code runs on both. [`settle`] decides, before anything is started; `STRAND_IO` (`auto`, `uring`, `plain`) decides where no
//! option does, so that every test can run on either.

use std::future::Future;
use std::time::{Duration, Instant};

use crate::core::executor::{Clock, Executor, SystemClock};
use crate::core::glommio::Glommio;
use crate::core::tokio::{self, Tokio};
use crate::limits::CONNECTION_BUDGET_BYTES;
use crate::ring;

/// The variable of the environment that says what to run on.
pub const IO_VARIABLE: &str = "STRAND_IO";

/// What somebody wants a core to run on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum IoChoice {
    /// io_uring where it can be had.
    #[default]
    Auto,
    /// io_uring, or nothing.
    Uring,
    /// Plain system calls.
    Plain,
}

/// What a core runs on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Io {
    /// glommio and a ring of ours.
    #[default]
    Uring,
    /// tokio, system calls, and threads for files.
    Plain,
}

/// Why this machine cannot run a node with io_uring. The text is the sentence to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unsupported {
    /// See [`ring::Unsupported`].
    #[error("{0}")]
    Ring(#[from] ring::Unsupported),
    /// The memory-lock limit is below what the executor needs.
    #[error(
        "io_uring needs a locked-memory limit of 512 KiB and has {limit_bytes} bytes: \
         raise it with `ulimit -l` or LimitMEMLOCK="
    )]
    MemoryLock {
        /// The limit found.
        limit_bytes: u64,
    },
}

/// Why a core did not start or did not end well.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CoreError {
    /// The executor could not be made.
    #[error("executor did not start: {0}")]
    Executor(String),
    /// The ring could not be made.
    #[error("io_uring did not start: {0}")]
    Ring(#[source] std::io::Error),
}

/// Which thread a core runs on.
#[derive(Clone, Copy, Debug)]
pub struct CoreOptions {
    /// Number of the core within the process; it names the thread.
    pub index: usize,
    /// CPU to stay on; `None` leaves it to the kernel.
    pub pin: Option<usize>,
    /// Blob files that its disks keep open, as far as they can do with so few.
    pub open_files_max: usize,
    /// Memory that its connections may pin outside admitted pieces.
    pub connection_bytes_max: u64,
    /// What it runs on.
    pub io: Io,
}

impl Default for CoreOptions {
    fn default() -> Self {
        Self {
            index: 0,
            pin: None,
            open_files_max: 256,
            connection_bytes_max: CONNECTION_BUDGET_BYTES,
            io: match IoChoice::of_environment() {
                Ok(IoChoice::Plain) => Io::Plain,
                _ => Io::Uring,
            },
        }
    }
}

impl std::fmt::Display for Io {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Uring => "io_uring",
            Self::Plain => "plain",
        })
    }
}

impl IoChoice {
    /// What [`IO_VARIABLE`] says; `Auto` if it says nothing.
    ///
    /// # Errors
    ///
    /// What may be said, if it says something else.
    pub fn of_environment() -> Result<Self, String> {
        let Some(said) = std::env::var_os(IO_VARIABLE).filter(|said| !said.is_empty()) else {
            return Ok(Self::Auto);
        };
        let said = said.to_string_lossy();
        <Self as clap::ValueEnum>::from_str(&said, true)
            .map_err(|_| format!("'{said}' is none of auto, uring, plain"))
    }
}

/// What was decided to run on, and why it is not io_uring, if it is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settled {
    /// For [`CoreOptions`].
    pub io: Io,
    /// Why there is no io_uring, where it was not asked to be left alone.
    pub reason: Option<Unsupported>,
}

/// Decides what to run on.
///
/// # Errors
///
/// [`Unsupported`], if io_uring was insisted on.
pub fn settle(choice: IoChoice) -> Result<Settled, Unsupported> {
    let probed = match choice {
        IoChoice::Plain => None,
        IoChoice::Uring | IoChoice::Auto => Some(super::glommio::probe()),
    };
    let (io, reason) = match probed {
        Some(Ok(())) => (Io::Uring, None),
        Some(Err(reason)) if choice == IoChoice::Uring => return Err(reason),
        Some(Err(reason)) => (Io::Plain, Some(reason)),
        None => (Io::Plain, None),
    };
    Ok(Settled { io, reason })
}

impl Settled {
    /// Says in the log what is lost, if anything is: `strand-perf node --row uring` measures it.
    pub fn say_what_is_lost(self) {
        const COST: &str =
            "nothing is less safe, but a gigabyte takes up to twice the processor time";
        match (self.io, self.reason) {
            (Io::Uring, _) => {}
            (Io::Plain, None) => tracing::info!("plain system calls, as asked for: {COST}"),
            (Io::Plain, Some(reason)) => {
                tracing::warn!("no io_uring: {reason}. Plain system calls in its place: {COST}");
            }
        }
    }
}

/// The executor of the current thread. Valid in its tasks only.
#[derive(Clone, Copy, Debug)]
pub enum CoreExecutor {
    /// See [`Io::Uring`].
    Glommio(Glommio),
    /// See [`Io::Plain`].
    Tokio(Tokio),
}

/// A running core's thread.
#[derive(Debug)]
pub struct CoreThread<T: Send + 'static>(Thread<T>);

#[derive(Debug)]
enum Thread<T: Send + 'static> {
    Glommio(super::glommio::Thread<T>),
    Tokio(tokio::Thread<T>),
}

/// Starts a thread with an executor on it and runs `make`'s future to its end.
///
/// [`start`](crate::core::start) does this for a whole core.
///
/// # Errors
///
/// If the thread or the executor cannot be made.
pub fn spawn_core<T, F>(
    options: CoreOptions,
    make: impl FnOnce(CoreExecutor) -> F + Send + 'static,
) -> Result<CoreThread<T>, CoreError>
where
    T: Send + 'static,
    F: Future<Output = Result<T, CoreError>> + 'static,
{
    Ok(CoreThread(match options.io {
        Io::Uring => {
            let make = |executor| make(CoreExecutor::Glommio(executor));
            Thread::Glommio(super::glommio::spawn_core(options, make)?)
        }
        Io::Plain => {
            let make = |executor| make(CoreExecutor::Tokio(executor));
            Thread::Tokio(tokio::spawn_core(options, make)?)
        }
    }))
}

impl<T: Send + 'static> CoreThread<T> {
    /// Waits for the core's end and gives what its future returned.
    ///
    /// # Errors
    ///
    /// If the executor could not be made or a task panicked.
    pub fn join(self) -> Result<T, CoreError> {
        match self.0 {
            Thread::Glommio(thread) => thread
                .join()
                .map_err(|error| CoreError::Executor(error.to_string()))?,
            Thread::Tokio(thread) => thread
                .join()
                .map_err(|_| CoreError::Executor("a task panicked".to_owned()))?,
        }
    }
}

impl Executor for CoreExecutor {
    fn spawn(&self, future: impl Future<Output = ()> + 'static) {
        match self {
            Self::Glommio(executor) => executor.spawn(future),
            Self::Tokio(executor) => executor.spawn(future),
        }
    }

    async fn sleep(&self, duration: Duration) {
        match self {
            Self::Glommio(executor) => executor.sleep(duration).await,
            Self::Tokio(executor) => executor.sleep(duration).await,
        }
    }

    async fn yield_now(&self) {
        match self {
            Self::Glommio(executor) => executor.yield_now().await,
            Self::Tokio(executor) => executor.yield_now().await,
        }
    }

    fn now(&self) -> Instant {
        Instant::now()
    }
}

impl Clock for CoreExecutor {
    fn now_ms(&self) -> u64 {
        SystemClock.now_ms()
    }

    fn wall_ms(&self) -> u64 {
        SystemClock.wall_ms()
    }
}
