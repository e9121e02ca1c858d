//! What a store found when it was opened.

use crate::error::Damage;
use crate::layout::BlobId;

/// What opening a directory found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recovery {
    /// Blobs with a valid header.
    pub blobs: u64,
    /// Blob files whose creation never ended; left alone.
    pub torn_blobs: u64,
    /// Valid groups.
    pub groups: u64,
    /// Pieces in the index.
    pub pieces: u64,
    /// Valid tombstones.
    pub tombstones: u64,
    /// Bytes that a crash left unfinished; nothing in them was acked.
    pub torn_bytes: u64,
    /// Damage to bytes that were durable once. Quarantined; the satellite should hear of it.
    pub rotten: Vec<Rot>,
}

/// Damage to bytes that were durable once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rot {
    /// The blob.
    pub blob: BlobId,
    /// Where the damage begins.
    pub offset: u64,
    /// How far it reaches, as far as known.
    pub len: u64,
    /// What failed its check.
    pub damage: Damage,
}
