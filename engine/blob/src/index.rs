//! Where the pieces are.

/// A record's place: which of the store's open blobs, and where in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) slot: u32,
    pub(crate) offset: u64,
}
