//! A core: one executor and what it owns.
//!
//! [`executor`] names what tasks need of an executor. [`glommio`] and [`mod@tokio`] are the real ones, and the only
//! modules that name those crates; [`runtime`] decides between them; `simulated` is the one tests run in virtual time. [`state`] puts a
//! core together; [`notify`], [`gate`] and [`mod@mailbox`] are how its tasks, and other threads, talk.

pub mod counters;
pub mod executor;
pub mod gate;
pub mod glommio;
mod heap;
pub mod mailbox;
pub mod notify;
pub mod runtime;
#[cfg(any(test, feature = "testing"))]
pub mod simulated;
pub mod state;
pub mod tokio;

pub use self::glommio::probe;
pub use counters::{CoreCounters, Counters};
pub use executor::{Clock, Executor, SystemClock, timeout};
pub use gate::{Gate, Pass};
pub use mailbox::{Inbox, Outbox, Rejected, mailbox};
pub use notify::Notify;
pub use runtime::{
    CoreError, CoreExecutor, CoreOptions, CoreThread, IO_VARIABLE, Io, IoChoice, Settled,
    Unsupported, settle,
};
pub use state::{Core, start};
