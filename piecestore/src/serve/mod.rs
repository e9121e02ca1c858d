//! What a node answers: one verb per file.
//!
//! A request arrives as a stream; [`Service::handle`] reads its first frame, hands it to its verb, and turns every
//! failure into one frame of docs/wire.md's registry, or into a reset where an answer has begun. Verbs see the seams
//! (`stream`, the store over its `Disk`, `Executor`, `Clock`) and nothing of rings or QUIC, so they run as they are
//! over memory and the simulated disk.

mod admission;
mod delete;
mod error;
mod frame;
mod get;
mod latency;
mod pace;
mod ping;
mod put;
mod service;
#[cfg(any(test, feature = "testing"))]
pub mod simulated;

#[cfg(test)]
mod tests;

pub use admission::{Admission, AdmissionUse};
pub use error::{Failure, VerbError};
pub use frame::{FrameError, read_frame, send_frame};
pub use latency::{BUCKETS_US, Latencies, VerbLatencies};
pub use service::{RequestCounters, Service, ServiceOptions, VerbCounts};
