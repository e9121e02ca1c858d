//! Uploads: read, seal, encode, send, commit; nothing is visible before the last step.
//!
//! - [`plan`]: what to do next with a segment's pieces; pure.
//! - `source`: input to sealed segments.
//! - `stripes`: sealed segment to pieces.
//! - `send`: a piece to a node.
//! - `segment`: drives one segment.
//! - `object`: drives them all, and commits or aborts.

mod object;
pub mod plan;
mod segment;
mod send;
mod source;
mod stripes;

#[cfg(test)]
mod tests;

pub use object::{Input, UploadOptions, UploadReport, upload};
pub use segment::SegmentReport;
