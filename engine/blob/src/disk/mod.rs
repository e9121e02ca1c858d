//! What the store asks of a disk: two flat sets of numbered files, and nothing else.
//!
//! The store never names a path, a descriptor or a ring. A real implementation lives with the node; the simulated one is
//! `sim`, beside this trait, and both are held to the contract written here. Reads may be short at
//! the end of the file; writes are whole or an error; [`Disk::sync`] covers the writes that *ended* before it began.

use crate::buffer::IoBuffer;
use crate::gather::Gather;
use crate::layout::BlobId;
use crate::poison::WriteOperation;

#[cfg(any(test, feature = "testing"))]
pub mod sim;

/// Why a disk operation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DiskError {
    /// No room (ENOSPC, EDQUOT). Ordinary: the node is full; reads go on.
    #[error("no space left on the disk")]
    NoSpace,
    /// A write ended early and the rest could not be written, without another error.
    #[error("short write: {written} bytes written < {wanted}")]
    ShortWrite {
        /// Bytes that reached the file.
        written: u64,
        /// Bytes asked for.
        wanted: u64,
    },
    /// The file is not there.
    #[error("no such file")]
    NotFound,
    /// The operating system said no.
    #[error("i/o error {errno}")]
    Io {
        /// The positive errno.
        errno: i32,
    },
}

impl DiskError {
    /// Whether a *write* that failed so leaves the disk usable. Anything else poisons the store.
    #[must_use]
    pub fn is_harmless_to_write(self) -> bool {
        matches!(self, Self::NoSpace | Self::ShortWrite { .. })
    }
}

/// A durable write that failed, and in which of its steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailedWrite {
    /// [`WriteOperation::Write`] or [`WriteOperation::Sync`].
    pub operation: WriteOperation,
    /// The disk's answer.
    pub error: DiskError,
}

/// Names a file: blobs and checkpoints are numbered apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FileId {
    /// A blob.
    Blob(BlobId),
    /// A checkpoint.
    Checkpoint(u64),
}

impl From<BlobId> for FileId {
    fn from(blob: BlobId) -> Self {
        Self::Blob(blob)
    }
}

/// The blob files of one disk, and the checkpoints beside them. Single-threaded; futures need not be `Send`.
#[expect(
    async_fn_in_trait,
    reason = "one executor per core: no Send bound is wanted"
)]
pub trait Disk: 'static {
    /// A handle to one open file; cheap to clone.
    type File: Clone + 'static;

    /// All blob files and their lengths in bytes, in any order.
    async fn list(&self) -> Result<Vec<(BlobId, u64)>, DiskError>;

    /// The numbers of all checkpoints, in any order. None where there is no place for them; then making one fails.
    async fn list_checkpoints(&self) -> Result<Vec<u64>, DiskError>;

    /// Makes a new, empty file. Its directory entry is durable when this returns. An existing one is an error.
    async fn create(&self, id: impl Into<FileId>) -> Result<Self::File, DiskError>;

    /// Opens an existing file for reading and writing. What an earlier sync failed to make durable, and no later one will, is not read from
    /// memory afterwards: the opening store would believe it.
    async fn open(&self, id: impl Into<FileId>) -> Result<Self::File, DiskError>;

    /// Fills the whole buffer from `offset` (a multiple of 4,096); the count is short only at the end of the file.
    async fn read(
        &self,
        file: &Self::File,
        offset: u64,
        buffer: IoBuffer,
    ) -> (Result<usize, DiskError>, IoBuffer);

    /// Calls `look` with bytes of a file that is `file_len` long and is not written any more, if they are in memory already. `None`
    /// where that would wait for the disk, and on a disk that keeps nothing in memory.
    ///
    /// The bytes may be another process's work in the moment they are looked at: what is believed of them is copied, then checked.
    fn look<T>(
        &self,
        _file: &Self::File,
        _file_len: u64,
        _offset: u64,
        _len: usize,
        _look: impl FnOnce(&[u8]) -> T,
    ) -> Option<T> {
        None
    }

    /// Asks that bytes of such a file come into memory, for [`look`](Self::look). Returns at once; nothing may come of it.
    fn bring_to_memory(&self, _file: &Self::File, _file_len: u64, _offset: u64, _len: usize) {}

    /// Writes the first `len` bytes at `offset` (both multiples of 4,096): all of them, or an error. May grow the file.
    async fn write(
        &self,
        file: &Self::File,
        offset: u64,
        buffer: IoBuffer,
        len: usize,
    ) -> (Result<(), DiskError>, IoBuffer);

    /// Writes all of `bytes` at `offset` (a multiple of 4,096), or fails, and returns once they, and the file's length over them, are
    /// durable; says nothing of other writes. Several may be under way in one file.
    ///
    /// A disk that can do both in one request is asked once.
    async fn write_durably(
        &self,
        file: &Self::File,
        offset: u64,
        bytes: Gather,
    ) -> Result<(), FailedWrite>;

    /// Makes durable every write that ended before this began, and the file's length (fdatasync).
    async fn sync(&self, file: &Self::File) -> Result<(), DiskError>;

    /// The length of a file if its name still leads to it; `None` if the name leads to another file or to none, because another program
    /// removed or replaced it. What was written to it is then gone once it is closed.
    async fn named_len(&self, file: &Self::File) -> Result<Option<u64>, DiskError>;

    /// Removes a file. Its absence is durable when this returns.
    async fn remove(&self, id: impl Into<FileId>) -> Result<(), DiskError>;

    /// Bytes that can still be written. Cheap: asked before every put.
    fn free_bytes(&self) -> Result<u64, DiskError>;
}
