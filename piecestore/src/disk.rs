//! A node's blob files through its core's ring, or the threads in its place: the real [`Disk`].
//!
//! Files are opened for direct I/O, so that what the store wrote is what the disk got and the
//! page cache holds nothing twice; a file system that refuses (`EINVAL`, when a file is opened or
//! when it is first read or written: tmpfs, ramfs, some FUSE, ZFS and overlays) is used through the
//! page cache, said once. Names are looked up in the folder's descriptor, never by its path, so a
//! disk that is unmounted under a node is never replaced by what lies under its mount point.
//! Names are made durable by syncing the folder.
//! What stays true: a write is whole or an error; nothing retries a failed sync; an operation
//! that takes longer than [`OPERATION_TIMEOUT`] is an error to its caller, while its memory
//! stays with the kernel until it comes back; while any such operation is out, reads fail at once, so
//! that a disk that hangs costs each request little and the other disks of the core nothing.
//! What files are called is `file_names`, which are open `open_files`; what is known of the disk without asking it is `watch`.

use std::cell::Cell;
use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use rustix::fs::{Advice, OFlags, fadvise, fcntl_getfl, fcntl_setfl, fstatfs};
use strand_blob::{BlobId, Disk, DiskError, FailedWrite, FileId, Gather, IoBuffer, WriteOperation};

use crate::core::executor::{Executor, timeout};
use crate::file_names::{file_name, list_blobs, list_checkpoints};
use crate::file_operation::{DiskQueue, FileOperation, FileOutcome, FileStatus, Runs};
use crate::map::FileMap;
use crate::open_files::{BlobFile, OpenFiles};
use crate::plain::Pool;
use crate::ring::Ring;
use crate::watch::{DiskState, DiskWatch};

/// A hung disk costs its requests within this time (design: 10 s), never the process.
pub const OPERATION_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the names in a folder may take to read: 22,000 files of a slow disk, each looked at on its own.
const LIST_TIMEOUT: Duration = Duration::from_secs(600);

/// What `statfs` calls FUSE. It takes operations that must not wait and lets them wait for its server all the same.
const FUSE: rustix::fs::FsWord = 0x6573_5546;

/// How often something is looked at that no completion announces.
const POLL_PERIOD: Duration = Duration::from_millis(5);

/// Who does what is asked of files. Clones are the same.
#[derive(Clone)]
pub enum FileIo {
    /// The core's ring.
    Ring(Rc<Ring>),
    /// Threads.
    Pool(Rc<Pool>),
}

impl FileIo {
    /// Does one operation. Dropping the future abandons it: its memory goes when the kernel is done with it.
    pub async fn perform(&self, queue: &Rc<DiskQueue>, operation: FileOperation) -> FileOutcome {
        match self {
            Self::Ring(ring) => ring.file(queue, operation).await,
            Self::Pool(pool) => pool.file(queue, operation).await,
        }
    }

    fn count_disk_timeout(&self) {
        match self {
            Self::Ring(ring) => ring.count_disk_timeout(),
            Self::Pool(pool) => pool.count_disk_timeout(),
        }
    }

    /// Ends a ring; threads end with their core.
    pub(crate) fn close(&self) {
        if let Self::Ring(ring) = self {
            ring.close();
        }
    }
}

/// The blob files in one folder, and the checkpoints in another. Clones are the same disk.
#[derive(Clone)]
pub struct CoreDisk<E> {
    file_io: FileIo,
    executor: E,
    path: PathBuf,
    directory: Rc<OwnedFd>,
    checkpoints: Option<Rc<OwnedFd>>,
    files: Rc<OpenFiles>,
    queue: Rc<DiskQueue>,
    watch: Rc<DiskWatch>,
    /// Whether direct I/O was refused here once.
    is_buffered: Rc<Cell<bool>>,
    is_populating: Rc<Cell<bool>>,
}

impl<E: Executor> CoreDisk<E> {
    /// The files in an existing folder.
    ///
    /// # Errors
    ///
    /// If the folder cannot be opened.
    pub fn open(
        file_io: FileIo,
        executor: E,
        files: &Rc<OpenFiles>,
        path: &Path,
    ) -> std::io::Result<Self> {
        let folder = OwnedFd::from(File::open(path)?);
        Self::in_folder(file_io, executor, files, path, folder)
    }

    /// The files in a folder that is open already; its path is only looked at to see whether it still leads there.
    ///
    /// # Errors
    ///
    /// If the disk cannot say what file system it has, or the thread that watches it cannot be started.
    pub fn in_folder(
        file_io: FileIo,
        executor: E,
        files: &Rc<OpenFiles>,
        path: &Path,
        folder: OwnedFd,
    ) -> std::io::Result<Self> {
        let queue = Rc::<DiskQueue>::default();
        if fstatfs(&folder)?.f_type == FUSE {
            queue.never_inline();
        }
        Ok(Self {
            file_io,
            executor,
            path: path.to_owned(),
            files: Rc::clone(files),
            queue,
            watch: Rc::new(DiskWatch::start(path, &folder)?),
            directory: Rc::new(folder),
            checkpoints: None,
            is_buffered: Rc::default(),
            is_populating: Rc::default(),
        })
    }

    /// How the disk is, as far as is known without asking it.
    #[must_use]
    pub fn state(&self) -> DiskState {
        if self.queue.abandoned_count() > 0 {
            DiskState::Hangs
        } else {
            self.watch.state()
        }
    }

    /// Keeps checkpoints in this folder; without one there are none.
    #[must_use]
    pub fn with_checkpoints(mut self, folder: OwnedFd) -> Self {
        self.checkpoints = Some(Rc::new(folder));
        self
    }

    /// The folder of a file.
    fn folder_of(&self, id: FileId) -> Result<Rc<OwnedFd>, DiskError> {
        match id {
            FileId::Blob(_) => Ok(self.directory.clone()),
            FileId::Checkpoint(_) => self.checkpoints.clone().ok_or(DiskError::NotFound),
        }
    }

    async fn perform(&self, operation: FileOperation) -> Option<FileOutcome> {
        self.close_files();
        // A write in the queue of a disk that hangs waits its time: its store is closed for writing if it fails.
        let is_read = matches!(
            operation,
            FileOperation::Read { .. } | FileOperation::Status { .. }
        );
        if is_read && self.queue.abandoned_count() > 0 {
            return None;
        }
        let outcome = self.file_io.perform(&self.queue, operation);
        let outcome = timeout(&self.executor, OPERATION_TIMEOUT, outcome).await;
        if outcome.is_none() {
            self.file_io.count_disk_timeout();
            tracing::error!(directory = %self.path.display(), "disk did not answer");
        }
        outcome
    }

    /// Closes what the table of open files has given up. Nobody waits for it.
    fn close_files(&self) {
        for (file, queue) in self.files.take_closable() {
            let file_io = self.file_io.clone();
            self.executor.spawn(async move {
                file_io.perform(&queue, FileOperation::Close { file }).await;
            });
        }
    }

    /// A file's descriptor; opens it where it is not open.
    async fn descriptor(&self, file: &BlobFile) -> Result<Rc<OwnedFd>, DiskError> {
        match file.descriptor() {
            Some(descriptor) => Ok(descriptor),
            None => Ok(file.adopt(self.open_file(file.id(), 0).await?)),
        }
    }

    async fn populate(
        &self,
        file: &BlobFile,
        file_len: u64,
        offset: u64,
        len: usize,
    ) -> Result<(), DiskError> {
        let map = match file.map().filter(|map| map.len() == file_len) {
            Some(map) => map,
            None => {
                let descriptor = self.descriptor(file).await?;
                let map = FileMap::new(descriptor.as_fd(), file_len);
                let map = Rc::new(map.map_err(|error| io_error(&error))?);
                file.set_map(&map);
                map
            }
        };
        self.perform_plainly(FileOperation::Populate { map, offset, len })
            .await
            .map(drop)
    }

    /// For operations that own nothing anybody wants back.
    async fn perform_plainly(&self, operation: FileOperation) -> Result<u32, DiskError> {
        match self.perform(operation).await {
            Some(outcome) => outcome.result.map_err(disk_error),
            None => Err(DiskError::Io {
                errno: libc::ETIMEDOUT,
            }),
        }
    }

    /// Where the process has too many files open, others are closed first; where none can be, waits until one can.
    async fn open_file(&self, id: FileId, flags: i32) -> Result<OwnedFd, DiskError> {
        let began = self.executor.now();
        loop {
            let result = self.try_open_file(id, flags).await;
            let is_full = matches!(
                result,
                Err(DiskError::Io {
                    errno: libc::EMFILE | libc::ENFILE
                })
            );
            if !is_full || self.executor.now() - began > OPERATION_TIMEOUT {
                return result;
            }
            self.files.close_down_to(self.files.open_count() / 2);
            self.close_files();
            self.executor.sleep(POLL_PERIOD).await;
        }
    }

    async fn try_open_file(&self, id: FileId, flags: i32) -> Result<OwnedFd, DiskError> {
        let folder = self.folder_of(id)?;
        let open = |flags| {
            self.perform_plainly(FileOperation::Open {
                directory: folder.clone(),
                name: file_name(id),
                flags: libc::O_RDWR | flags,
                mode: 0o600,
            })
        };
        let fd = if self.is_buffered.get() {
            open(flags).await?
        } else {
            match open(flags | libc::O_DIRECT).await {
                Err(DiskError::Io {
                    errno: libc::EINVAL,
                }) => {
                    self.use_page_cache();
                    // A file system may make the file before it refuses the flag.
                    open(flags & !libc::O_EXCL).await?
                }
                other => other?,
            }
        };
        #[allow(unsafe_code, reason = "the ring opens files as numbers")]
        // SAFETY: the ring has just opened this descriptor for us; nobody else holds it.
        Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
    }

    /// From now on files are opened without direct I/O.
    fn use_page_cache(&self) {
        if !self.is_buffered.replace(true) {
            let directory = self.path.display();
            tracing::warn!(%directory, "no direct I/O here: using the page cache");
        }
    }

    /// Whether an operation that was refused with `EINVAL` should be tried again, through the page cache: once.
    ///
    /// Some file systems take the flag at `open` and refuse later, or want longer blocks than ours.
    fn tries_again(&self, file: &OwnedFd, was_refused: &mut bool) -> bool {
        if std::mem::replace(was_refused, true) {
            return false;
        }
        if end_direct(file) {
            self.use_page_cache();
        }
        // Also where another operation has ended it meanwhile.
        self.is_buffered.get()
    }

    /// Writes all of it, or fails; `is_durable`: each request returns once what it wrote is durable.
    async fn write_all(
        &self,
        file: &Rc<OwnedFd>,
        offset: u64,
        bytes: Gather,
        len: usize,
        is_durable: bool,
    ) -> (Result<(), DiskError>, Option<Gather>) {
        let (mut bytes, mut written) = (bytes, 0);
        let (mut is_stuck, mut was_refused) = (false, false);
        self.watch.wrote(len as u64);
        while written < len {
            let operation = FileOperation::Write {
                file: Rc::clone(file),
                offset: offset + written as u64,
                bytes,
                start: written,
                end: len,
                runs: Runs::default(),
                is_durable,
            };
            let Some(outcome) = self.perform(operation).await else {
                let errno = libc::ETIMEDOUT;
                return (Err(DiskError::Io { errno }), None);
            };
            bytes = outcome.operation.into_bytes();
            match outcome.result {
                // Direct I/O goes on at a block's start only; a torn block is written again.
                Ok(count) => {
                    let whole = count as usize / BLOCK_BYTES * BLOCK_BYTES;
                    if whole == 0 && std::mem::replace(&mut is_stuck, true) {
                        let (written, wanted) = (written as u64, len as u64);
                        return (Err(DiskError::ShortWrite { written, wanted }), Some(bytes));
                    }
                    written += whole;
                }
                Err(libc::EINTR | libc::EAGAIN) => self.executor.yield_now().await,
                Err(libc::EINVAL) if self.tries_again(file, &mut was_refused) => {}
                Err(errno) => return (Err(disk_error(errno)), Some(bytes)),
            }
        }
        (Ok(()), Some(bytes))
    }

    async fn status(&self, file: Rc<OwnedFd>, name: CString) -> Result<FileStatus, DiskError> {
        let found = Box::default();
        let operation = FileOperation::Status { file, name, found };
        let Some(outcome) = self.perform(operation).await else {
            let errno = libc::ETIMEDOUT;
            return Err(DiskError::Io { errno });
        };
        outcome.result.map_err(disk_error)?;
        Ok(outcome.operation.into_status())
    }

    async fn sync_folder_of(&self, id: FileId) -> Result<(), DiskError> {
        let file = self.folder_of(id)?;
        self.perform_plainly(FileOperation::Sync {
            file,
            data_only: false,
        })
        .await
        .map(drop)
    }
}

impl<E: Executor> Disk for CoreDisk<E> {
    type File = BlobFile;

    /// Reads the folder without the ring: once, before a node serves, and in a thread, which a disk may keep for good.
    async fn list(&self) -> Result<Vec<(BlobId, u64)>, DiskError> {
        let folder = self
            .directory
            .try_clone()
            .map_err(|error| io_error(&error))?;
        let (sender, answer) = std::sync::mpsc::channel();
        std::thread::Builder::new()
            .name("list".to_owned())
            .stack_size(256 << 10)
            // Nobody listens any more where this took too long.
            .spawn(move || drop(sender.send(list_blobs(&folder))))
            .map_err(|error| io_error(&error))?;
        let began = self.executor.now();
        while self.executor.now() - began < LIST_TIMEOUT {
            match answer.try_recv() {
                Ok(listed) => return listed,
                Err(std::sync::mpsc::TryRecvError::Empty) => {}
                Err(std::sync::mpsc::TryRecvError::Disconnected) => break,
            }
            self.executor.sleep(POLL_PERIOD).await;
        }
        Err(DiskError::Io {
            errno: libc::ETIMEDOUT,
        })
    }

    /// Reads the folder without the ring: once, before a node serves.
    async fn list_checkpoints(&self) -> Result<Vec<u64>, DiskError> {
        self.checkpoints
            .as_ref()
            .map_or(Ok(Vec::new()), list_checkpoints)
    }

    async fn create(&self, id: impl Into<FileId>) -> Result<Self::File, DiskError> {
        let id = id.into();
        let opened = self.open_file(id, libc::O_CREAT | libc::O_EXCL).await?;
        let file = BlobFile::new(id, &self.files, &self.queue);
        let _held = file.adopt(opened);
        self.sync_folder_of(id).await?;
        Ok(file)
    }

    /// Opens the file, to know that it is there; it may be closed and opened again at any time.
    async fn open(&self, id: impl Into<FileId>) -> Result<Self::File, DiskError> {
        let id = id.into();
        let file = BlobFile::new(id, &self.files, &self.queue);
        let opened = self.open_file(id, 0).await?;
        if self.is_buffered.get() {
            // Pages that a failed sync of an earlier process left are clean to the kernel and not on the disk: the store must not read them.
            // Elsewhere nothing is in memory, and a file system without this advice has none to forget.
            let _not_all_know_it = fadvise(&opened, 0, None, Advice::DontNeed);
        }
        let _held = file.adopt(opened);
        Ok(file)
    }

    async fn read(
        &self,
        file: &Self::File,
        offset: u64,
        buffer: IoBuffer,
    ) -> (Result<usize, DiskError>, IoBuffer) {
        let end = buffer.len();
        let (mut buffer, mut filled) = (buffer, 0);
        let mut was_refused = false;
        let descriptor = match self.descriptor(file).await {
            Ok(descriptor) => descriptor,
            Err(error) => return (Err(error), buffer),
        };
        while filled < end {
            let operation = FileOperation::Read {
                file: Rc::clone(&descriptor),
                offset: offset + filled as u64,
                buffer,
                start: filled,
                end,
            };
            let Some(outcome) = self.perform(operation).await else {
                let errno = libc::ETIMEDOUT;
                return (Err(DiskError::Io { errno }), IoBuffer::zeroed(end));
            };
            buffer = outcome.operation.into_buffer();
            match outcome.result {
                Ok(0) => break,
                Ok(len) => {
                    filled += len as usize;
                    // Direct reads come in whole blocks but for the file's last one.
                    // Buffered ones may be short anywhere.
                    if !filled.is_multiple_of(BLOCK_BYTES) && !self.is_buffered.get() {
                        break;
                    }
                }
                Err(libc::EINTR | libc::EAGAIN) => self.executor.yield_now().await,
                Err(libc::EINVAL) if self.tries_again(&descriptor, &mut was_refused) => {}
                Err(errno) => return (Err(disk_error(errno)), buffer),
            }
        }
        (Ok(filled), buffer)
    }

    fn look<T>(
        &self,
        file: &Self::File,
        file_len: u64,
        offset: u64,
        len: usize,
        look: impl FnOnce(&[u8]) -> T,
    ) -> Option<T> {
        let map = file.map().filter(|map| map.len() == file_len)?;
        map.look(offset, len, look)
    }

    /// One range at a time; others asked for meanwhile are left to their next read.
    fn bring_to_memory(&self, file: &Self::File, file_len: u64, offset: u64, len: usize) {
        if self.is_populating.replace(true) {
            return;
        }
        let (disk, file) = (self.clone(), file.clone());
        self.executor.spawn(async move {
            if let Err(error) = disk.populate(&file, file_len, offset, len).await {
                tracing::debug!(%error, "cannot bring a record to memory");
            }
            disk.is_populating.set(false);
        });
    }

    async fn write(
        &self,
        file: &Self::File,
        offset: u64,
        buffer: IoBuffer,
        len: usize,
    ) -> (Result<(), DiskError>, IoBuffer) {
        let descriptor = match self.descriptor(file).await {
            Ok(descriptor) => descriptor,
            Err(error) => return (Err(error), buffer),
        };
        let buffer_len = buffer.len();
        file.begin_write();
        let (result, bytes) = self
            .write_all(&descriptor, offset, buffer.into(), len, false)
            .await;
        if result.is_ok() {
            file.end_write();
        }
        let buffer = bytes.map_or_else(|| IoBuffer::zeroed(buffer_len), Gather::into_head);
        (result, buffer)
    }

    /// One request: write and sync with `RWF_DSYNC`. Through the page cache two, because a lack of space may there show at the sync
    /// only, when bytes that were written are lost already.
    async fn write_durably(
        &self,
        file: &Self::File,
        offset: u64,
        bytes: Gather,
    ) -> Result<(), FailedWrite> {
        let failed = |operation| move |error| FailedWrite { operation, error };
        let is_direct = !self.is_buffered.get();
        let descriptor = match self.descriptor(file).await {
            Ok(descriptor) => descriptor,
            Err(error) => return Err(failed(WriteOperation::Write)(error)),
        };
        let len = bytes.len();
        file.begin_write();
        let written = self.write_all(&descriptor, offset, bytes, len, is_direct);
        match written.await.0 {
            Ok(()) if is_direct && !self.is_buffered.get() => {
                file.end_durable_write();
                Ok(())
            }
            Ok(()) => {
                file.end_write();
                self.sync(file).await.map_err(failed(WriteOperation::Sync))
            }
            Err(error) => Err(failed(WriteOperation::Write)(error)),
        }
    }

    async fn sync(&self, file: &Self::File) -> Result<(), DiskError> {
        let descriptor = self.descriptor(file).await?;
        let mark = file.begin_sync();
        self.perform_plainly(FileOperation::Sync {
            file: descriptor,
            data_only: true,
        })
        .await?;
        file.end_sync(mark);
        Ok(())
    }

    async fn named_len(&self, file: &Self::File) -> Result<Option<u64>, DiskError> {
        let there = match self
            .status(self.folder_of(file.id())?, file_name(file.id()))
            .await
        {
            Ok(there) => there,
            Err(DiskError::NotFound) => return Ok(None),
            Err(error) => return Err(error),
        };
        // A file that is not open is whatever its name leads to.
        if let Some(descriptor) = file.descriptor()
            && self
                .status(descriptor, CString::default())
                .await?
                .identity()
                != there.identity()
        {
            return Ok(None);
        }
        Ok(Some(there.file_len()))
    }

    async fn remove(&self, id: impl Into<FileId>) -> Result<(), DiskError> {
        let id = id.into();
        let (directory, name) = (self.folder_of(id)?, file_name(id));
        self.perform_plainly(FileOperation::Unlink { directory, name })
            .await?;
        self.sync_folder_of(id).await
    }

    fn free_bytes(&self) -> Result<u64, DiskError> {
        self.watch.free_bytes().ok_or(DiskError::Io {
            errno: libc::ETIMEDOUT,
        })
    }
}

impl<E> std::fmt::Debug for CoreDisk<E> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("CoreDisk")
            .field("path", &self.path)
            .field("directory", &self.directory.as_raw_fd())
            .finish_non_exhaustive()
    }
}

/// Unit of direct I/O: offsets, lengths and addresses are multiples of it.
const BLOCK_BYTES: usize = 4_096;

fn disk_error(errno: i32) -> DiskError {
    match errno {
        libc::ENOSPC | libc::EDQUOT => DiskError::NoSpace,
        libc::ENOENT => DiskError::NotFound,
        errno => DiskError::Io { errno },
    }
}

pub(crate) fn errno_error(errno: rustix::io::Errno) -> DiskError {
    disk_error(errno.raw_os_error())
}

/// Ends direct I/O on an open file; false if there was none.
pub(crate) fn end_direct(file: impl AsFd) -> bool {
    let Ok(flags) = fcntl_getfl(&file) else {
        return false;
    };
    flags.contains(OFlags::DIRECT) && fcntl_setfl(&file, flags - OFlags::DIRECT).is_ok()
}

pub(crate) fn io_error(error: &std::io::Error) -> DiskError {
    disk_error(error.raw_os_error().unwrap_or(libc::EIO))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_say_what_the_store_must_know() {
        assert_eq!(disk_error(libc::EDQUOT), DiskError::NoSpace);
        assert_eq!(disk_error(libc::ENOENT), DiskError::NotFound);
        assert_eq!(disk_error(libc::EIO), DiskError::Io { errno: libc::EIO });
    }
}
