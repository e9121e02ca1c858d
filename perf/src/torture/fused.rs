//! FUSE file systems of our own: a disk that is sick on command, and one that keeps a log.

mod block_log;
mod sick_disk;

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use fuser::{FileAttr, FileType, INodeNo};

pub(super) use self::block_log::{
    Asked, Entry, Fate, LoggedDisk, apply, apply_in_part, flushed_count,
};
pub(super) use self::sick_disk::{Fault, HANG_MAX, SickDisk};

/// How long the kernel may believe what it was told of a file.
const BELIEVED: Duration = Duration::from_secs(1);

/// Of a file's blocks, as the kernel hears.
const BLOCK_BYTES: u32 = 4_096;

/// Bytes at a place of a file; fewer where it ends.
fn read_at(file: &File, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    let mut filled = 0;
    while filled < len {
        match file.read_at(&mut bytes[filled..], offset + filled as u64)? {
            0 => break,
            count => filled += count,
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

fn kind_of(known: &Metadata) -> FileType {
    if known.is_dir() {
        FileType::Directory
    } else {
        FileType::RegularFile
    }
}

/// What the kernel hears of a file.
fn attributes(number: u64, known: &Metadata) -> FileAttr {
    let at = SystemTime::UNIX_EPOCH;
    FileAttr {
        ino: INodeNo(number),
        size: known.len(),
        blocks: known.blocks(),
        atime: at,
        mtime: at,
        ctime: at,
        crtime: at,
        kind: kind_of(known),
        perm: (known.mode() & 0o7777) as u16,
        nlink: known.nlink() as u32,
        uid: known.uid(),
        gid: known.gid(),
        rdev: 0,
        blksize: BLOCK_BYTES,
        flags: 0,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
