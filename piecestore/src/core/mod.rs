//! A core: one executor and what it owns.
//!
//! [`executor`] names what tasks need of an executor, [`glommio`] is the real one and the only
//! module that names that crate, `simulated` the one tests run in virtual time. [`state`] puts a
//! core together; [`notify`], [`gate`] and [`mod@mailbox`] are how its tasks, and other threads, talk.

pub mod counters;
pub mod executor;
pub mod gate;
pub mod glommio;
mod heap;
pub mod mailbox;
pub mod notify;
#[cfg(any(test, feature = "testing"))]
pub mod simulated;
pub mod state;

pub use self::glommio::{
    CoreError, CoreOptions, CoreThread, Glommio as CoreExecutor, Unsupported, probe,
};
pub use counters::{CoreCounters, Counters};
pub use executor::{Clock, Executor, SystemClock, timeout};
pub use gate::{Gate, Pass};
pub use mailbox::{Inbox, Outbox, Rejected, mailbox};
pub use notify::Notify;
pub use state::{Core, start};
