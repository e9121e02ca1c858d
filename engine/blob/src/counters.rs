//! What the store has done since it was opened, in plain cells.

/// Counts since the store was opened, but for what it holds now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoreCounters {
    /// Pieces held now.
    pub pieces: u64,
    /// Pieces in the trash now.
    pub trashed: u64,
    /// Damaged pieces out of service now.
    pub damaged: u64,
    /// Bytes that the index takes in memory: trash, dead records, and the trash records that compaction keeps in mind included.
    pub index_bytes: u64,
    /// Pieces stored anew: puts answered [`Stored::New`](crate::Stored::New).
    pub pieces_stored: u64,
    /// Body bytes of those pieces.
    pub piece_bytes_stored: u64,
    /// Tombstones made durable.
    pub tombstones: u64,
    /// Trash records made durable.
    pub pieces_trashed: u64,
    /// Restore records made durable.
    pub pieces_restored: u64,
    /// Puts and deletes answered as durable, each after the sync that covers it.
    pub acks: u64,
    /// Puts answered [`Stored::Already`](crate::Stored::Already).
    pub acks_again: u64,
    /// Acks of a record whose group was above the blob's highest synced one at that moment. Stays 0.
    pub acks_before_sync: u64,
    /// Groups written.
    pub groups: u64,
    /// Syncs that ended well.
    pub syncs: u64,
    /// Bytes of groups and blob headers written.
    pub bytes_written: u64,
    /// Body bytes written, acked or not.
    pub piece_bytes_written: u64,
    /// Records that compaction moved.
    pub records_moved: u64,
    /// Their body bytes.
    pub moved_bytes: u64,
    /// Blobs that compaction removed.
    pub blobs_removed: u64,
    /// Bytes of their files.
    pub removed_bytes: u64,
    /// Pieces found damaged by reads, scrub and compaction.
    pub pieces_lost: u64,
    /// Shares read and verified.
    pub shares_read: u64,
    /// Those of them that came from memory, without asking the disk.
    pub shares_from_memory: u64,
    /// Reads that met damage.
    pub corrupt_reads: u64,
    /// Blobs created.
    pub blobs_created: u64,
    /// Blobs that got their footers.
    pub blobs_sealed: u64,
    /// Checkpoints written.
    pub checkpoints: u64,
}
