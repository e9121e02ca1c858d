//! Room: what may still be promised of the disk and of what the operator allows, and what puts leave to deletes and compaction.

use crate::bug::{self, Bug};
use crate::disk::{Disk, DiskError};
use crate::error::PutError;
use crate::footer;
use crate::layout::{self, BLOB_HEADER_BYTES, BLOCK_BYTES, PATH_LEN_MAX};
use crate::store::{Store, StoreOptions};

/// 131,072 tombstones of 128 bytes, or 4,096 that each come alone in a group.
const TOMBSTONE_RESERVE_BYTES_MAX: u64 = 16 << 20;

/// What a put may cost beyond its record: a group's header and padding, a new blob's headers and footer, the group that attests
/// the old blob.
pub(crate) const COMMIT_OVERHEAD_BYTES: u64 =
    BLOB_HEADER_BYTES + footer::len_of(1) + 2 * BLOCK_BYTES as u64;

/// No more than this part of a disk is left for moving a blob.
const DISK_PART: u64 = 4;

/// Bytes that must be left.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Spare {
    /// Of what the operator allows.
    pub(crate) capacity_bytes: u64,
    /// Of the disk.
    pub(crate) disk_bytes: u64,
}

impl StoreOptions {
    /// Room that puts leave free, of the capacity and of the disk, so that a full node can still delete.
    pub(crate) fn tombstone_reserve_bytes(&self) -> u64 {
        if bug::is_planted(Bug::NoRoomForTombstones) {
            return 0;
        }
        (self.capacity_bytes / 64).min(TOMBSTONE_RESERVE_BYTES_MAX)
    }
}

impl<D: Disk> Store<D> {
    /// What puts leave.
    pub(crate) fn put_spare(&self) -> Result<Spare, DiskError> {
        if bug::is_planted(Bug::NoRoomForTombstones) {
            return Ok(Spare::default());
        }
        let capacity_bytes = self.options.tombstone_reserve_bytes();
        let moving_bytes = self.moving_bytes(self.disk.free_bytes()?);
        Ok(Spare {
            capacity_bytes,
            disk_bytes: capacity_bytes + moving_bytes,
        })
    }

    /// Of a disk with so much free, what puts leave besides: as much as the fullest blob, since moving one is what makes room on a full disk. Where
    /// the disk is small for its blobs, a quarter of what the store could have of it.
    pub(crate) fn moving_bytes(&self, free_bytes: u64) -> u64 {
        let ours = self.space.get().file_bytes.saturating_add(free_bytes);
        self.options.blob_bytes_max.min(ours / DISK_PART)
    }

    /// Whether a piece of this body length would be taken now.
    #[must_use]
    pub fn has_room(&self, body_len: u64) -> bool {
        let record_len =
            layout::round_to_step(layout::piece_record_len(body_len.max(1), PATH_LEN_MAX));
        let check = |spare| self.check_room(record_len + COMMIT_OVERHEAD_BYTES, spare);
        self.check_open().is_ok() && self.put_spare().is_ok_and(|spare| check(spare).is_ok())
    }

    /// Bytes that puts may still take: the lesser of what capacity and disk allow, less what they leave to deletes and compaction. 0 where nothing
    /// is taken.
    #[must_use]
    pub fn room_bytes(&self) -> u64 {
        if self.check_open().is_err() {
            return 0;
        }
        let room = self.put_spare().and_then(|spare| self.room_beside(spare));
        room.unwrap_or_default()
    }

    pub(crate) fn check_room(&self, bytes: u64, spare: Spare) -> Result<(), PutError> {
        // G8: room is promised before a byte is taken, and some of it is never promised to puts.
        if self.room_beside(spare)? < bytes {
            return Err(PutError::Full);
        }
        Ok(())
    }

    /// Bytes that can be promised if so many are left.
    fn room_beside(&self, spare: Spare) -> Result<u64, DiskError> {
        let space = self.space.get();
        let footers: u64 = self
            .open_blobs
            .borrow()
            .iter()
            .flatten()
            .flatten()
            .map(|blob| blob.footer_len(1))
            .sum();
        let promised = space.reserved_bytes + footers;
        let allowed = self
            .options
            .capacity_bytes
            .saturating_sub(space.file_bytes + promised + spare.capacity_bytes);
        let on_disk = self
            .disk
            .free_bytes()?
            .saturating_sub(promised + spare.disk_bytes);
        Ok(allowed.min(on_disk))
    }

    pub(crate) fn reserve_any(&self, bytes: u64) {
        self.account(|space| space.reserved_bytes += bytes);
    }
}
