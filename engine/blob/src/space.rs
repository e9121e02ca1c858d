//! Where the bytes of the blobs went: an equation that must add up.
//!
//! `live + trash + dead + overhead + padding + headers + skipped = files`, and the tests hold the sum against the files themselves.

/// Bytes of a store, by use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// What the operator allows.
    pub capacity_bytes: u64,
    /// What the disk can still take, as last asked.
    pub disk_free_bytes: u64,
    /// Bodies of pieces that can be read, those included that have expired and were not yet compacted away: nobody counts them,
    /// since that would take the expiry of each piece in memory.
    pub live_bytes: u64,
    /// Bodies of trashed pieces, those included whose 7 days are over until the next compaction looks.
    pub trash_bytes: u64,
    /// Bodies of pieces that were deleted, replaced, or are damaged and out of service.
    pub dead_bytes: u64,
    /// Record headers, trailers, tombstones and group headers.
    pub overhead_bytes: u64,
    /// Zeros after records, up to the next step or block.
    pub padding_bytes: u64,
    /// Blob headers and footers.
    pub header_bytes: u64,
    /// Torn, rotten or never written stretches, and zeros written ahead of small groups.
    pub skipped_bytes: u64,
    /// All blob files together.
    pub file_bytes: u64,
    /// Promised to pieces and tombstones that are being written.
    pub reserved_bytes: u64,
}

impl Space {
    /// Whether every byte of the files is accounted for.
    #[must_use]
    pub fn adds_up(&self) -> bool {
        self.live_bytes
            + self.trash_bytes
            + self.dead_bytes
            + self.overhead_bytes
            + self.padding_bytes
            + self.header_bytes
            + self.skipped_bytes
            == self.file_bytes
    }

    /// Adds the bytes of another blob.
    pub(crate) fn add(&mut self, other: &Self) {
        self.live_bytes += other.live_bytes;
        self.trash_bytes += other.trash_bytes;
        self.dead_bytes += other.dead_bytes;
        self.overhead_bytes += other.overhead_bytes;
        self.padding_bytes += other.padding_bytes;
        self.header_bytes += other.header_bytes;
        self.skipped_bytes += other.skipped_bytes;
        self.file_bytes += other.file_bytes;
    }

    /// Bytes that pieces may still take: the lesser of what capacity and disk allow.
    #[must_use]
    pub fn free_bytes(&self) -> u64 {
        let used = self.file_bytes + self.reserved_bytes;
        self.capacity_bytes
            .saturating_sub(used)
            .min(self.disk_free_bytes.saturating_sub(self.reserved_bytes))
    }
}
