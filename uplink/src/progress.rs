//! How a transfer tells its caller how far it is.
//!
//! Counts are plaintext bytes of the object. An upload counts a byte when enough of its segment's
//! pieces are on their way to durable, and all of a segment only when it is committed; a download
//! counts bytes that were checked, opened and written.

/// Hears how far a transfer is. Calls come from several tasks and must return at once.
pub trait Progress: Send + Sync {
    /// The transfer begins; the length is known unless it comes from a pipe.
    fn begin(&self, total_bytes: Option<u64>);
    /// So many more bytes are done.
    fn advance(&self, bytes: u64);
    /// Something worth a line for a person: a retry, a liar, a slow node.
    fn note(&self, text: &str);
}

/// Says nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quiet;

impl Progress for Quiet {
    fn begin(&self, _total_bytes: Option<u64>) {}
    fn advance(&self, _bytes: u64) {}
    fn note(&self, _text: &str) {}
}
