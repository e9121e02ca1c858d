//! `strand-perf store`: the piece store on the node's own executor, ring and Direct I/O, against plain loops of
//! system calls on the same file system in the same run.
//!
//! - [`options`] is what was asked for; [`bench`](mod@bench) decides what is done, and in which order; [`plan`] how much of it.
//! - [`drive`] runs a store on a core and lets callers put and get; [`work`] makes the pieces.
//! - [`churn`] lets pieces come and go, for [`compaction`]; [`peers`] are other stores at the same work.
//! - [`raw`] is the disk without a store; [`used`] what pieces take on it; [`memory`] watches this process; [`figures`] says what came out.
//!
//! What must stay true: every write that is counted was durable when it was counted, ours and the raw one's; nothing
//! is measured while something else of this process runs; a figure that was not measured is absent.

mod bench;
mod churn;
mod compaction;
pub(crate) mod drive;
mod figures;
mod memory;
mod options;
mod peers;
mod plan;
mod raw;
mod used;
pub(crate) mod work;

pub use bench::run;
pub use figures::Figures;
pub use options::Options;
