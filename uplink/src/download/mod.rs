//! Downloads: find, fetch, check, decode, open; a file appears under its name only when it is
//! whole.
//!
//! - [`hedge`]: which pieces to fetch next, who is slow, lying or dead; pure.
//! - `fetch`: one piece from one node, checked.
//! - `segment`: drives one segment's fetch.
//! - `decode`: pieces to plaintext.
//! - `object`: opens the header, verifies the list of segments, drives them all.
//! - `output`: where plaintext goes.

mod decode;
mod fetch;
pub mod hedge;
mod object;
mod output;
mod segment;

#[cfg(test)]
mod tests;

pub(crate) use object::open_header_of;
pub use object::{ByteRange, DownloadOptions, DownloadReport, download};
pub use output::Output;
pub use segment::{Liar, SegmentReport};
