//! `strand-perf codec`: the engine's byte work against the stock crates, on one pinned core.
//!
//! - [`options`] is what was asked for; [`row`] what a comparison is, and the list of them; [`bench`](mod@bench) runs it.
//! - [`erasure`] has the rows of the erasure code, [`sealing`] that of sealing, [`packets`] that of QUIC's packets, [`segment`] those of whole segments: tree, pipeline and its inverse.
//! - [`shares`] are inputs and outputs; [`figures`] says what came out.
//!
//! What must stay true: both sides of a comparison do the same work on the same bytes, in turns of a few milliseconds,
//! and their outputs are compared before a figure is entered; a figure that was not measured is absent.

mod bench;
mod erasure;
mod figures;
mod options;
mod packets;
mod row;
mod sealing;
mod segment;
mod shares;

pub use bench::run;
pub use figures::Figures;
pub use options::Options;
