//! What the opening of a directory found, for whoever opened it.

use crate::error::Damage;
use crate::layout::BlobId;

/// What opening a directory found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recovery {
    /// The number of the checkpoint that was used; then groups and torn bytes are counted only where blobs were read.
    pub checkpoint: Option<u64>,
    /// Records that were read from blobs.
    pub records_read: u64,
    /// Blobs with a valid header.
    pub blobs: u64,
    /// Blob files whose creation never ended; left alone.
    pub torn_blobs: u64,
    /// Those of them whose records are known from their footers.
    pub sealed_blobs: u64,
    /// Valid groups.
    pub groups: u64,
    /// Pieces in the index.
    pub pieces: u64,
    /// Pieces in the trash, those whose 7 days are over among them.
    pub trashed: u64,
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
