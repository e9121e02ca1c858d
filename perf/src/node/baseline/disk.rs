//! Blob files through a pool of threads that block: one system call each, direct, with the durable vectored writes of the node's own disk.
//!
//! It opens what it is asked to and keeps it open, retries nothing, and watches over nothing: a bench's folder is its own.

use std::fs::{File, OpenOptions, remove_file};
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use piecestore::map::FileMap;
use rustix::io::{Errno, ReadWriteFlags, pwritev2};
use strand_blob::{BlobId, Disk, DiskError, FailedWrite, FileId, Gather, IoBuffer, WriteOperation};

/// The files in one folder. Clones are the same disk.
#[derive(Clone, Debug)]
pub(in crate::node) struct PoolDisk {
    folder: PathBuf,
}

/// An open file, and the map that it is read through once somebody asked for that.
#[derive(Clone, Debug)]
pub(in crate::node) struct PoolFile(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    file: File,
    path: PathBuf,
    map: OnceLock<FileMap>,
}

impl PoolDisk {
    /// The files in an existing folder, in which there are none yet.
    pub(in crate::node) fn new(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
        }
    }

    fn path(&self, id: FileId) -> PathBuf {
        self.folder.join(match id {
            FileId::Blob(BlobId(number)) => format!("{number}.blob"),
            FileId::Checkpoint(number) => format!("{number}.checkpoint"),
        })
    }

    async fn open_with(&self, id: FileId, is_new: bool) -> Result<PoolFile, DiskError> {
        let (path, folder) = (self.path(id), self.folder.clone());
        apart(move || {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create_new(is_new);
            let file = options.custom_flags(libc::O_DIRECT).open(&path)?;
            if is_new {
                File::open(folder)?.sync_all()?;
            }
            let map = OnceLock::new();
            Ok(PoolFile(Arc::new(Inner { file, path, map })))
        })
        .await
    }
}

impl Disk for PoolDisk {
    type File = PoolFile;

    async fn list(&self) -> Result<Vec<(BlobId, u64)>, DiskError> {
        Ok(Vec::new())
    }

    async fn list_checkpoints(&self) -> Result<Vec<u64>, DiskError> {
        Ok(Vec::new())
    }

    async fn create(&self, id: impl Into<FileId>) -> Result<PoolFile, DiskError> {
        self.open_with(id.into(), true).await
    }

    async fn open(&self, id: impl Into<FileId>) -> Result<PoolFile, DiskError> {
        self.open_with(id.into(), false).await
    }

    async fn read(
        &self,
        file: &PoolFile,
        offset: u64,
        mut buffer: IoBuffer,
    ) -> (Result<usize, DiskError>, IoBuffer) {
        let file = file.clone();
        let len = buffer.len();
        let read = apart(move || {
            let read = file.0.file.read_at(&mut buffer, offset);
            Ok((read, buffer))
        });
        match read.await {
            Ok((read, buffer)) => (read.map_err(|error| disk_error(&error)), buffer),
            Err(error) => (Err(error), IoBuffer::zeroed(len)),
        }
    }

    fn look<T>(
        &self,
        file: &PoolFile,
        file_len: u64,
        offset: u64,
        len: usize,
        look: impl FnOnce(&[u8]) -> T,
    ) -> Option<T> {
        let map = file.0.map.get().filter(|map| map.len() == file_len)?;
        map.look(offset, len, look)
    }

    fn bring_to_memory(&self, file: &PoolFile, file_len: u64, offset: u64, len: usize) {
        let file = file.clone();
        tokio::task::spawn_blocking(move || {
            if file.0.map.get().is_none()
                && let Ok(map) = FileMap::new(file.0.file.as_fd(), file_len)
            {
                let _ = file.0.map.set(map);
            }
            let Some(map) = file.0.map.get() else {
                return;
            };
            // Nothing may come of it.
            let _ = map.populate(offset, len);
        });
    }

    async fn write(
        &self,
        file: &PoolFile,
        offset: u64,
        buffer: IoBuffer,
        len: usize,
    ) -> (Result<(), DiskError>, IoBuffer) {
        let file = file.clone();
        let buffer_len = buffer.len();
        let written = apart(move || {
            let written = file.0.file.write_all_at(&buffer[..len], offset);
            Ok((written, buffer))
        });
        match written.await {
            Ok((written, buffer)) => (written.map_err(|error| disk_error(&error)), buffer),
            Err(error) => (Err(error), IoBuffer::zeroed(buffer_len)),
        }
    }

    async fn write_durably(
        &self,
        file: &PoolFile,
        offset: u64,
        bytes: Gather,
    ) -> Result<(), FailedWrite> {
        let file = file.clone();
        let written = apart(move || write_all(file.0.file.as_fd(), offset, &bytes));
        written.await.map_err(|error| FailedWrite {
            operation: WriteOperation::Write,
            error,
        })
    }

    async fn sync(&self, file: &PoolFile) -> Result<(), DiskError> {
        let file = file.clone();
        apart(move || file.0.file.sync_data()).await
    }

    async fn named_len(&self, file: &PoolFile) -> Result<Option<u64>, DiskError> {
        let file = file.clone();
        apart(move || Ok(Some(std::fs::metadata(&file.0.path)?.len()))).await
    }

    async fn remove(&self, id: impl Into<FileId>) -> Result<(), DiskError> {
        let (path, folder) = (self.path(id.into()), self.folder.clone());
        apart(move || {
            remove_file(path)?;
            File::open(folder)?.sync_all()
        })
        .await
    }

    fn free_bytes(&self) -> Result<u64, DiskError> {
        // Room was checked before the bench began.
        Ok(1 << 50)
    }
}

/// Each request returns once what it wrote is durable.
fn write_all(file: BorrowedFd<'_>, offset: u64, bytes: &Gather) -> io::Result<()> {
    let mut written = 0;
    while written < bytes.len() {
        let runs = bytes.within(written..bytes.len()).map(IoSlice::new);
        let at = offset + written as u64;
        match pwritev2(file, &runs, at, ReadWriteFlags::DSYNC) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => written += count,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Does what blocks on a thread of the pool.
async fn apart<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, DiskError> {
    let done = tokio::task::spawn_blocking(work).await;
    let done = done.map_err(|_| DiskError::Io { errno: libc::EIO })?;
    done.map_err(|error| disk_error(&error))
}

fn disk_error(error: &io::Error) -> DiskError {
    match error.raw_os_error() {
        Some(libc::ENOSPC) => DiskError::NoSpace,
        Some(libc::ENOENT) => DiskError::NotFound,
        errno => DiskError::Io {
            errno: errno.unwrap_or(libc::EIO),
        },
    }
}
