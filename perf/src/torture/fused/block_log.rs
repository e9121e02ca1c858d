//! A disk that keeps a log: an image seen through a FUSE file system of one file, which notes every write and flush in the order in which they arrive.
//!
//! A loop device over that file passes on what a file system asks of its device: writes, and flushes as syncs. From the log any moment can be
//! made again, with what a device may have done by then to the writes that no flush covered: kept, lost, or kept in part ([`Fate`]). Each entry has
//! how much a witness, the output of the process that stores, held when it arrived: what was said by then must be on the disk by then.
//!
//! The server is a thread of the process that makes the trial, and touches nothing that lies on the logged disk, or it would wait for itself.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, ensure};
use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, Filesystem, FopenFlags, Generation,
    INodeNo, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyOpen,
    ReplyWrite, Request, WriteFlags,
};

use super::{BELIEVED, attributes, lock, read_at};
use crate::random::Random;

/// The one file.
const NAME: &str = "disk.img";
const NODE: INodeNo = INodeNo(2);

/// What a device writes whole, whatever happens.
const SECTOR_BYTES: usize = 512;

/// Most that a log holds before somebody takes it.
const LOG_BYTES_MAX: u64 = 1 << 30;

/// A request of the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::torture) enum Asked {
    Write { offset: u64, bytes: Vec<u8> },
    Flush,
}

/// A request, and what the witness held when it arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::torture) struct Entry {
    pub(in crate::torture) asked: Asked,
    pub(in crate::torture) witness_len: u64,
}

/// What became of writes that no flush covered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::torture) enum Fate {
    /// They were all written.
    Kept,
    /// None was.
    Lost,
    /// Each was, or was not.
    Some,
    /// Sectors of each were.
    Torn,
}

/// What was noted since somebody took it.
#[derive(Debug, Default)]
struct Log {
    entries: Vec<Entry>,
    bytes: u64,
    witness: Option<File>,
}

impl Log {
    fn note(&mut self, asked: Asked) -> io::Result<()> {
        if let Asked::Write { bytes, .. } = &asked {
            self.bytes += bytes.len() as u64;
        }
        if self.bytes > LOG_BYTES_MAX {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        let witness_len = match &self.witness {
            Some(witness) => witness.metadata()?.len(),
            None => 0,
        };
        self.entries.push(Entry { asked, witness_len });
        Ok(())
    }
}

/// A mounted log; unmounted when this goes.
pub(in crate::torture) struct LoggedDisk {
    log: Arc<Mutex<Log>>,
    mount: PathBuf,
    session: Option<BackgroundSession>,
}

impl LoggedDisk {
    /// Shows `image` in the new folder `mount`.
    pub(in crate::torture) fn mount(image: &Path, mount: &Path) -> Result<Self> {
        fs::create_dir_all(mount)?;
        let mut options = fs::OpenOptions::new();
        let file = options.read(true).write(true).open(image)?;
        let log = Arc::<Mutex<Log>>::default();
        let server = Server {
            log: Arc::clone(&log),
            file,
            folder: File::open(mount)?,
        };
        let mut config = Config::default();
        // One thread: the log's order is the order in which requests are answered.
        config.n_threads = Some(1);
        let session = fuser::spawn_mount(server, mount, &config);
        let session = session.context("cannot mount a FUSE file system")?;
        Ok(Self {
            log,
            mount: mount.to_owned(),
            session: Some(session),
        })
    }

    /// The file that a loop device takes.
    pub(in crate::torture) fn image(&self) -> PathBuf {
        self.mount.join(NAME)
    }

    /// Takes what was noted, and goes on noting.
    ///
    /// # Errors
    ///
    /// If there was more than a log holds.
    pub(in crate::torture) fn take(&self) -> Result<Vec<Entry>> {
        let mut log = lock(&self.log);
        ensure!(
            log.bytes <= LOG_BYTES_MAX,
            "more than {LOG_BYTES_MAX} bytes were written to a logged disk at once"
        );
        log.bytes = 0;
        Ok(std::mem::take(&mut log.entries))
    }

    /// From now on each entry has the length of this file.
    pub(in crate::torture) fn watch(&self, witness: &Path) -> Result<()> {
        lock(&self.log).witness = Some(File::open(witness)?);
        Ok(())
    }
}

impl Drop for LoggedDisk {
    fn drop(&mut self) {
        crate::torture::image::unmount(&self.mount);
        drop(self.session.take());
    }
}

/// Where the last flush of a log ends: what is before it is on the disk.
pub(in crate::torture) fn flushed_count(entries: &[Entry]) -> usize {
    let last = entries
        .iter()
        .rposition(|entry| entry.asked == Asked::Flush);
    last.map_or(0, |at| at + 1)
}

/// Does all of it to an image.
pub(in crate::torture) fn apply(entries: &[Entry], image: &File) -> io::Result<()> {
    for entry in entries {
        if let Asked::Write { offset, bytes } = &entry.asked {
            image.write_all_at(bytes, *offset)?;
        }
    }
    Ok(())
}

/// Does to an image what is left of writes that met this fate; how many of them are not there, or not whole.
pub(in crate::torture) fn apply_in_part(
    entries: &[Entry],
    fate: Fate,
    random: &mut Random,
    image: &File,
) -> io::Result<u64> {
    let mut missing_count = 0;
    for entry in entries {
        let Asked::Write { offset, bytes } = &entry.asked else {
            continue;
        };
        let step = match fate {
            Fate::Torn => SECTOR_BYTES,
            _ => bytes.len().max(1),
        };
        let mut is_whole = true;
        for (at, part) in bytes.chunks(step).enumerate() {
            let is_kept = match fate {
                Fate::Kept => true,
                Fate::Lost => false,
                Fate::Some | Fate::Torn => random.below(2) == 0,
            };
            if is_kept {
                image.write_all_at(part, offset + (at * step) as u64)?;
            }
            is_whole &= is_kept;
        }
        missing_count += u64::from(!is_whole);
    }
    Ok(missing_count)
}

/// Answers the kernel.
struct Server {
    log: Arc<Mutex<Log>>,
    file: File,
    /// What was at the mount before.
    folder: File,
}

impl Server {
    fn attributes(&self, node: INodeNo) -> io::Result<FileAttr> {
        match node {
            INodeNo::ROOT => Ok(attributes(node.0, &self.folder.metadata()?)),
            NODE => Ok(attributes(node.0, &self.file.metadata()?)),
            _ => Err(io::Error::from_raw_os_error(libc::ENOENT)),
        }
    }

    /// Nothing is written that is not noted.
    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        lock(&self.log).note(Asked::Write {
            offset,
            bytes: bytes.to_vec(),
        })?;
        self.file.write_all_at(bytes, offset)
    }
}

impl Filesystem for Server {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if parent != INodeNo::ROOT || name != NAME {
            return reply.error(Errno::ENOENT);
        }
        match self.attributes(NODE) {
            Ok(attributes) => reply.entry(&BELIEVED, &attributes, Generation(0)),
            Err(error) => reply.error(error.into()),
        }
    }

    fn getattr(&self, _: &Request, node: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        match self.attributes(node) {
            Ok(attributes) => reply.attr(&BELIEVED, &attributes),
            Err(error) => reply.error(error.into()),
        }
    }

    fn open(&self, _: &Request, _node: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE);
    }

    fn read(
        &self,
        _: &Request,
        _node: INodeNo,
        _handle: FileHandle,
        offset: u64,
        len: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match read_at(&self.file, offset, len as usize) {
            Ok(bytes) => reply.data(&bytes),
            Err(error) => reply.error(error.into()),
        }
    }

    fn write(
        &self,
        _: &Request,
        _node: INodeNo,
        _handle: FileHandle,
        offset: u64,
        bytes: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match Self::write(self, offset, bytes) {
            Ok(()) => reply.written(bytes.len() as u32),
            Err(error) => reply.error(error.into()),
        }
    }

    fn flush(
        &self,
        _: &Request,
        _node: INodeNo,
        _handle: FileHandle,
        _owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    fn fsync(
        &self,
        _: &Request,
        _node: INodeNo,
        _handle: FileHandle,
        _data_only: bool,
        reply: ReplyEmpty,
    ) {
        match lock(&self.log).note(Asked::Flush) {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(error.into()),
        }
    }

    fn fallocate(
        &self,
        _: &Request,
        _node: INodeNo,
        _handle: FileHandle,
        _offset: u64,
        _len: u64,
        _mode: i32,
        reply: ReplyEmpty,
    ) {
        // Whoever discards or zeroes a range then writes zeros, or leaves it.
        reply.error(Errno::EOPNOTSUPP);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(offset: u64, bytes: Vec<u8>) -> Entry {
        Entry {
            asked: Asked::Write { offset, bytes },
            witness_len: 0,
        }
    }

    fn flush() -> Entry {
        Entry {
            asked: Asked::Flush,
            witness_len: 0,
        }
    }

    #[test]
    fn what_lies_before_a_flush_is_flushed() {
        let entries = [write(0, vec![1]), flush(), write(0, vec![2])];
        assert_eq!(flushed_count(&entries), 2);
        assert_eq!(flushed_count(&entries[..1]), 0);
        assert_eq!(flushed_count(&entries[2..]), 0);
    }

    #[test]
    fn a_log_notes_what_the_witness_held() {
        let witness = tempfile::NamedTempFile::new().unwrap();
        let mut log = Log::default();
        log.note(Asked::Flush).unwrap();
        log.witness = Some(File::open(witness.path()).unwrap());
        fs::write(witness.path(), "put 1\n").unwrap();
        log.note(Asked::Flush).unwrap();
        let lens = log.entries.iter().map(|entry| entry.witness_len);
        assert_eq!(lens.collect::<Vec<_>>(), [0, 6]);
        log.bytes = LOG_BYTES_MAX;
        assert!(log.note(write(0, vec![1]).asked).is_err());
    }

    #[test]
    fn a_fate_keeps_loses_or_tears_writes_by_sectors() {
        let entries: Vec<_> = (0..64)
            .map(|at| write(at * 1_024, vec![7; 1_024]))
            .collect();
        let left = |fate| {
            let image = tempfile::tempfile().unwrap();
            image.set_len(64 << 10).unwrap();
            let mut random = Random::new(1, "fates");
            let missing = apply_in_part(&entries, fate, &mut random, &image).unwrap();
            let bytes = read_at(&image, 0, 64 << 10).unwrap();
            let sectors: Vec<_> = bytes.chunks(SECTOR_BYTES).map(|sector| sector[0]).collect();
            let pairs = sectors.chunks(2);
            let (mut whole, mut torn) = (0, 0);
            for pair in pairs {
                whole += u64::from(pair == [7, 7]);
                torn += u64::from(pair[0] != pair[1]);
            }
            assert_eq!(missing, 64 - whole);
            (whole, torn)
        };
        assert_eq!(left(Fate::Kept), (64, 0));
        assert_eq!(left(Fate::Lost), (0, 0));
        let (whole, torn) = left(Fate::Some);
        assert!((10..54).contains(&whole) && torn == 0, "{whole} and {torn}");
        let (whole, torn) = left(Fate::Torn);
        assert!(whole > 2 && torn > 10, "{whole} and {torn}");
    }
}
