//! What can be asked of a file, whoever does it, and the queue that bounds what one disk has in flight.
//!
//! An operation owns what the kernel looks at (buffer, name, descriptor) until it is done, and gives it back with its outcome.
//! `ring` and `plain` do them.

use std::cell::{Cell, RefCell};
use std::ffi::CString;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::task::Waker;

use strand_blob::{Gather, IoBuffer};

use crate::core::counters::Counters;
use crate::map::FileMap;

/// What to do with a file.
#[derive(Debug)]
pub enum FileOperation {
    /// Fills `buffer[start..end]` from `offset`.
    Read {
        /// The file.
        file: Rc<OwnedFd>,
        /// Where in the file.
        offset: u64,
        /// Where to.
        buffer: IoBuffer,
        /// First byte of the buffer to fill.
        start: usize,
        /// One past the last.
        end: usize,
    },
    /// Writes `bytes[start..end]` at `offset`.
    Write {
        /// The file.
        file: Rc<OwnedFd>,
        /// Where in the file.
        offset: u64,
        /// What.
        bytes: Gather,
        /// First of the bytes to write.
        start: usize,
        /// One past the last.
        end: usize,
        /// What the kernel reads where there are several runs.
        runs: Runs,
        /// Whether it is durable when it completes (`RWF_DSYNC`: as an `fdatasync` of these bytes).
        is_durable: bool,
    },
    /// Makes a file's writes durable.
    Sync {
        /// The file or directory.
        file: Rc<OwnedFd>,
        /// `fdatasync` in place of `fsync`.
        data_only: bool,
    },
    /// Opens a name in a directory; the result is a descriptor.
    Open {
        /// The directory.
        directory: Rc<OwnedFd>,
        /// Name within it.
        name: CString,
        /// `O_` flags; `O_CLOEXEC` is added.
        flags: i32,
        /// Permissions of a file that this makes.
        mode: u32,
    },
    /// Brings pages of a map to memory (`MADV_POPULATE_READ`).
    Populate {
        /// The map, which stays until this is done.
        map: Rc<FileMap>,
        /// Where in the file.
        offset: u64,
        /// Bytes from there.
        len: usize,
    },
    /// Closes a file: on the ring, because a file system may wait for its disk there.
    Close {
        /// The file.
        file: OwnedFd,
    },
    /// What is left of a [`Close`](Self::Close).
    Closed,
    /// Looks at a name in a directory, or with an empty name at the directory's or file's own descriptor (`statx`).
    Status {
        /// The directory, or the file itself.
        file: Rc<OwnedFd>,
        /// Name within it, or nothing.
        name: CString,
        /// The answer.
        found: Box<FileStatus>,
    },
    /// Removes a name from a directory.
    Unlink {
        /// The directory.
        directory: Rc<OwnedFd>,
        /// Name within it.
        name: CString,
    },
}

/// The runs of memory of one write, as the kernel wants them: in an allocation that stays where it is while the operation moves.
#[derive(Default)]
pub struct Runs(Vec<libc::iovec>);

/// A `struct statx` (linux/stat.h), 256 bytes at 8-byte steps.
#[derive(Debug, Default)]
pub struct FileStatus(pub(crate) [u64; 32]);

impl FileStatus {
    /// As one would read it.
    pub(crate) fn new(len: u64, inode: u64, device: u64) -> Self {
        let mut fields = [0; 32];
        (fields[5], fields[4], fields[17]) = (len, inode, device);
        Self(fields)
    }

    /// Length in bytes.
    #[must_use]
    pub fn file_len(&self) -> u64 {
        self.0[5]
    }

    /// Which file it is: inode, and major and minor number of its device.
    #[must_use]
    pub fn identity(&self) -> (u64, u64) {
        (self.0[4], self.0[17])
    }
}

/// How an operation went, and what it owned.
#[derive(Debug)]
pub struct FileOutcome {
    /// Bytes, a descriptor, or zero; the error is a positive errno.
    pub result: Result<u32, i32>,
    /// The operation as it was given.
    pub operation: FileOperation,
}

const _: () = assert!(size_of::<FileStatus>() == size_of::<libc::statx>());
const _: () = assert!(std::mem::offset_of!(libc::statx, stx_size) == 5 * 8);
const _: () = assert!(std::mem::offset_of!(libc::statx, stx_ino) == 4 * 8);
const _: () = assert!(std::mem::offset_of!(libc::statx, stx_dev_major) == 17 * 8);

/// What one disk has in flight. One for each disk of a core.
#[derive(Debug, Default)]
pub struct DiskQueue {
    pub(crate) in_flight_count: Cell<usize>,
    pub(crate) abandoned_count: Cell<usize>,
    pub(crate) waiters: RefCell<Vec<Waker>>,
    pub(crate) is_never_inline: Cell<bool>,
}

/// Operations of one disk in flight: enough for any queue depth that helps, and a quarter of a ring's slots.
pub const DISK_IN_FLIGHT_MAX: usize = 32;

impl DiskQueue {
    /// Operations whose waiters have gone and that the kernel still has.
    #[must_use]
    pub fn abandoned_count(&self) -> usize {
        self.abandoned_count.get()
    }

    /// From now on the kernel does not try an operation before a thread of its own takes it: for file systems whose try waits for the disk, and the
    /// whole core with it.
    pub fn never_inline(&self) {
        self.is_never_inline.set(true);
    }

    pub(crate) fn has_room(&self) -> bool {
        self.in_flight_count.get() < DISK_IN_FLIGHT_MAX
    }
}

impl FileOperation {
    /// The buffer of a read.
    ///
    /// # Panics
    ///
    /// For other operations.
    #[must_use]
    pub fn into_buffer(self) -> IoBuffer {
        match self {
            Self::Read { buffer, .. } => buffer,
            other => panic!("{other:?} has no buffer"),
        }
    }

    /// The bytes of a write.
    ///
    /// # Panics
    ///
    /// For other operations.
    #[must_use]
    pub fn into_bytes(self) -> Gather {
        match self {
            Self::Write { bytes, .. } => bytes,
            other => panic!("{other:?} has no bytes"),
        }
    }

    /// The answer of a [`Status`](Self::Status).
    ///
    /// # Panics
    ///
    /// For other operations.
    #[must_use]
    pub fn into_status(self) -> FileStatus {
        match self {
            Self::Status { found, .. } => *found,
            other => panic!("{other:?} has no status"),
        }
    }
}

impl Runs {
    /// The runs of these bytes. They point into what `bytes` owns, so they hold as long as that lives.
    pub(crate) fn fill(&mut self, bytes: &Gather, range: Range<usize>) -> &[libc::iovec] {
        self.0.clear();
        let runs = bytes.within(range);
        let filled = runs.iter().filter(|run| !run.is_empty());
        self.0.extend(filled.map(|run| libc::iovec {
            // The kernel only reads from there.
            iov_base: run.as_ptr().cast_mut().cast(),
            iov_len: run.len(),
        }));
        &self.0
    }
}

impl std::fmt::Debug for Runs {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} runs", self.0.len())
    }
}

/// Counts an operation that was done.
pub(crate) fn count(operation: &FileOperation, result: Result<u32, i32>, counters: &Counters) {
    match (operation, result) {
        (FileOperation::Read { .. }, Ok(len)) => {
            counters.disk_reads.add(1);
            counters.disk_bytes_read.add(u64::from(len));
        }
        (FileOperation::Write { is_durable, .. }, Ok(len)) => {
            counters.disk_writes.add(1);
            counters.disk_bytes_written.add(u64::from(len));
            counters.disk_syncs.add(u64::from(*is_durable));
        }
        (FileOperation::Sync { .. }, Ok(_)) => counters.disk_syncs.add(1),
        _ => {}
    }
}
