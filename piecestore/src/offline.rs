//! A node's blob files read by a command while no node runs: plain reads, nothing ever written.
//!
//! Files are opened read-only and for direct I/O where the file system has it: a check must see what lies on the disk,
//! not what the page cache remembers, and must not push out what others have cached there. Not a mapping: a mapped file
//! that somebody shortens, or a block that cannot be read, would kill the process with a signal.
//! Everything that would write is an error here; a sync is nothing, because nobody is told that anything is durable.

use std::cell::{Cell, RefCell};
use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use strand_blob::{BlobId, Disk, DiskError, FailedWrite, FileId, Gather, IoBuffer, WriteOperation};

use crate::directory::CHECKPOINTS_FOLDER;
use crate::disk::{end_direct, io_error};
use crate::file_names::{file_name, parse_blob_name, parse_checkpoint_name};

/// The blob files in one folder and the checkpoints in the one beside it, to be read.
#[derive(Debug)]
pub struct OfflineDisk {
    path: PathBuf,
    checkpoints: PathBuf,
    read_ahead_bytes: usize,
    bytes_read: Rc<Cell<u64>>,
}

/// An open blob file and the stretch of it that was read last.
#[derive(Clone, Debug)]
pub struct OfflineFile {
    file: Rc<File>,
    ahead: Rc<RefCell<Ahead>>,
}

#[derive(Debug, Default)]
struct Ahead {
    start: u64,
    filled: usize,
    buffer: Option<IoBuffer>,
}

/// What the files of a folder take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FilesOnDisk {
    /// Blob files.
    pub count: u64,
    /// Their lengths.
    pub bytes: u64,
    /// What the file system has given them: `st_blocks` x 512.
    pub allocated_bytes: u64,
}

impl OfflineDisk {
    /// The files in a folder. With `read_ahead_bytes` they are read in runs of so many: right for who reads everything,
    /// wrong for who skips. 0: no more is read than asked for.
    #[must_use]
    pub fn new(path: &Path, read_ahead_bytes: usize) -> Self {
        Self {
            path: path.to_owned(),
            checkpoints: path.with_file_name(CHECKPOINTS_FOLDER),
            read_ahead_bytes,
            bytes_read: Rc::default(),
        }
    }

    /// Counts the bytes that were read; goes on counting.
    #[must_use]
    pub fn bytes_read(&self) -> Rc<Cell<u64>> {
        Rc::clone(&self.bytes_read)
    }

    fn read_now(&self, file: &File, offset: u64, bytes: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < bytes.len() {
            match file.read_at(&mut bytes[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(count) => {
                    filled += count;
                    // Direct I/O goes on at a block's start only; a part of one is the end of the file.
                    if !filled.is_multiple_of(strand_blob::layout::BLOCK_BYTES) {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Direct I/O is refused only now: the page cache must do.
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) && end_direct(file) => {}
                Err(error) => return Err(error),
            }
        }
        self.bytes_read.set(self.bytes_read.get() + filled as u64);
        Ok(filled)
    }
}

impl Ahead {
    /// Copies what it has from `offset` on, if it has all that is wanted or all up to the end of the file.
    fn copy_to(&self, offset: u64, bytes: &mut [u8]) -> Option<usize> {
        let buffer = self.buffer.as_ref()?;
        let from = usize::try_from(offset.checked_sub(self.start)?).ok()?;
        let have = buffer[..self.filled].get(from..)?;
        let is_end = self.filled < buffer.len();
        if have.len() < bytes.len() && !is_end {
            return None;
        }
        let count = have.len().min(bytes.len());
        bytes[..count].copy_from_slice(&have[..count]);
        Some(count)
    }
}

impl Disk for OfflineDisk {
    type File = OfflineFile;

    async fn list(&self) -> Result<Vec<(BlobId, u64)>, DiskError> {
        let mut blobs = Vec::new();
        each_blob(&self.path, |id, metadata| blobs.push((id, metadata.len())))
            .map_err(|error| io_error(&error))?;
        Ok(blobs)
    }

    async fn list_checkpoints(&self) -> Result<Vec<u64>, DiskError> {
        let mut numbers = Vec::new();
        let listed = each_file(&self.checkpoints, parse_checkpoint_name, |number, _| {
            numbers.push(number);
        });
        match listed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error(&error)),
            _ => Ok(numbers),
        }
    }

    async fn open(&self, id: impl Into<FileId>) -> Result<OfflineFile, DiskError> {
        let id = id.into();
        let folder = match id {
            FileId::Blob(_) => &self.path,
            FileId::Checkpoint(_) => &self.checkpoints,
        };
        let path = folder.join(OsStr::from_bytes(file_name(id).as_bytes()));
        let open = |flags| {
            OpenOptions::new()
                .read(true)
                .custom_flags(flags)
                .open(&path)
        };
        let file = match open(libc::O_DIRECT) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => open(0),
            other => other,
        };
        Ok(OfflineFile {
            file: Rc::new(file.map_err(|error| io_error(&error))?),
            ahead: Rc::default(),
        })
    }

    async fn read(
        &self,
        file: &OfflineFile,
        offset: u64,
        mut buffer: IoBuffer,
    ) -> (Result<usize, DiskError>, IoBuffer) {
        let mut ahead = file.ahead.borrow_mut();
        if buffer.len() < self.read_ahead_bytes {
            if let Some(count) = ahead.copy_to(offset, &mut buffer) {
                return (Ok(count), buffer);
            }
            let mut run = ahead
                .buffer
                .take()
                .unwrap_or_else(|| IoBuffer::zeroed(self.read_ahead_bytes));
            // A run that fails is forgotten: what was asked for is then read alone, so that the bad block can be found.
            if let Ok(filled) = self.read_now(&file.file, offset, &mut run) {
                *ahead = Ahead {
                    start: offset,
                    filled,
                    buffer: Some(run),
                };
                if let Some(count) = ahead.copy_to(offset, &mut buffer) {
                    return (Ok(count), buffer);
                }
            }
        }
        let result = self.read_now(&file.file, offset, &mut buffer);
        (result.map_err(|error| io_error(&error)), buffer)
    }

    /// Nobody writes through this disk, so nobody needs to know.
    async fn named_len(&self, file: &OfflineFile) -> Result<Option<u64>, DiskError> {
        let metadata = file.file.metadata().map_err(|error| io_error(&error))?;
        Ok(Some(metadata.len()))
    }

    async fn create(&self, _: impl Into<FileId>) -> Result<OfflineFile, DiskError> {
        Err(READ_ONLY)
    }

    async fn write(
        &self,
        _: &OfflineFile,
        _: u64,
        buffer: IoBuffer,
        _: usize,
    ) -> (Result<(), DiskError>, IoBuffer) {
        (Err(READ_ONLY), buffer)
    }

    async fn write_durably(&self, _: &OfflineFile, _: u64, _: Gather) -> Result<(), FailedWrite> {
        let (operation, error) = (WriteOperation::Write, READ_ONLY);
        Err(FailedWrite { operation, error })
    }

    async fn sync(&self, _: &OfflineFile) -> Result<(), DiskError> {
        Ok(())
    }

    async fn remove(&self, _: impl Into<FileId>) -> Result<(), DiskError> {
        Err(READ_ONLY)
    }

    fn free_bytes(&self) -> Result<u64, DiskError> {
        crate::directory::file_system_bytes(&self.path)
            .map(|(free, _)| free)
            .map_err(|error| io_error(&error))
    }
}

const READ_ONLY: DiskError = DiskError::Io { errno: libc::EROFS };

/// What the blob files of a folder take on the disk. Files that go away meanwhile are passed over.
pub fn files_on_disk(blobs: &Path) -> io::Result<FilesOnDisk> {
    let mut files = FilesOnDisk::default();
    each_blob(blobs, |_, metadata| {
        files.count += 1;
        files.bytes += metadata.len();
        files.allocated_bytes += metadata.blocks() * 512;
    })?;
    Ok(files)
}

fn each_blob(folder: &Path, each: impl FnMut(BlobId, &std::fs::Metadata)) -> io::Result<()> {
    each_file(folder, parse_blob_name, each)
}

fn each_file<T>(
    folder: &Path,
    parse_name: impl Fn(&str) -> Option<T>,
    mut each: impl FnMut(T, &std::fs::Metadata),
) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let Some(id) = entry.file_name().to_str().and_then(&parse_name) else {
            continue;
        };
        match entry.metadata() {
            Ok(metadata) => each(id, &metadata),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use futures_lite::future::block_on;

    use super::*;

    #[test]
    fn with_and_without_read_ahead_the_same_bytes_are_read_also_at_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let content: Vec<u8> = (0..100_000_u32).map(|at| (at % 251) as u8).collect();
        std::fs::write(folder.path().join("0000000000000001.blob"), &content).unwrap();
        for read_ahead_bytes in [0, 32_768, 1 << 20] {
            let disk = OfflineDisk::new(folder.path(), read_ahead_bytes);
            assert_eq!(block_on(disk.list()), Ok(vec![(BlobId(1), 100_000)]));
            let file = block_on(disk.open(BlobId(1))).unwrap();
            for offset in (0..110_592).step_by(4_096).chain([0, 40_960]) {
                let wanted = content.get(offset..).unwrap_or_default();
                let wanted = &wanted[..wanted.len().min(8_192)];
                let buffer = IoBuffer::zeroed(8_192);
                let (count, buffer) = block_on(disk.read(&file, offset as u64, buffer));
                assert_eq!(count, Ok(wanted.len()), "{offset}");
                assert!(buffer[..wanted.len()] == *wanted, "{offset}");
            }
        }
    }

    #[test]
    fn nothing_can_be_written_through_it() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("0000000000000001.blob"), [7; 4_096]).unwrap();
        let disk = OfflineDisk::new(folder.path(), 0);
        assert!(block_on(disk.create(BlobId(2))).is_err());
        let file = block_on(disk.open(BlobId(1))).unwrap();
        let (written, _) = block_on(disk.write(&file, 0, IoBuffer::zeroed(4_096), 4_096));
        assert_eq!(written, Err(READ_ONLY));
        assert_eq!(block_on(disk.remove(BlobId(1))), Err(READ_ONLY));
        assert_eq!(files_on_disk(folder.path()).unwrap().count, 1);
    }
}
