//! The disk without a store: plain loops of system calls over Direct I/O, one thread per operation in flight.
//!
//! Files are prepared as the store's are: new, neither fallocated nor recycled, grown by appending. A write run ends with the
//! one fdatasync that makes all of it durable, within its time. Where Direct I/O is refused the page cache is used, as
//! the store's disk does.
#![allow(
    unsafe_code,
    reason = "posix_fadvise and mincore, which std does not have"
)]

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use strand_blob::IoBuffer;

use crate::random::Random;

/// How a raw run uses the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    /// Operations in flight.
    pub(super) depth: usize,
    /// Bytes of each.
    pub(super) step_bytes: usize,
}

/// What may be the best: depths 1, 4 and 8 at 1 and 4 MiB.
pub(super) const SHAPES: [Shape; 6] = {
    const MIB: usize = 1 << 20;
    [
        Shape {
            depth: 1,
            step_bytes: MIB,
        },
        Shape {
            depth: 4,
            step_bytes: MIB,
        },
        Shape {
            depth: 8,
            step_bytes: MIB,
        },
        Shape {
            depth: 1,
            step_bytes: 4 * MIB,
        },
        Shape {
            depth: 4,
            step_bytes: 4 * MIB,
        },
        Shape {
            depth: 8,
            step_bytes: 4 * MIB,
        },
    ]
};

/// What 64 pieces of 4 KiB are in a plain loop.
const GROUP_BYTES: usize = 256 << 10;

/// What a lone put of 4 KiB appends: two blocks.
const LONE_BYTES: usize = 8 << 10;

/// Writes a new file of about `bytes` and syncs it; bytes per second. The file is gone afterwards.
pub(super) fn write(path: &Path, bytes: u64, shape: Shape) -> Result<f64> {
    apart(|| write_here(path, bytes, shape))
}

fn write_here(path: &Path, bytes: u64, shape: Shape) -> Result<f64> {
    let file = open(path, true).context("cannot make the raw file")?;
    let count = (bytes / shape.step_bytes as u64).max(1) as usize;
    let mut buffers: Vec<_> = (0..shape.depth).map(|_| filled(shape.step_bytes)).collect();
    let next = AtomicUsize::new(0);
    let started = Instant::now();
    side_by_side(&mut buffers, |buffer| {
        while let Some(step) = take(&next, count) {
            file.write_all_at(buffer, (step * shape.step_bytes) as u64)?;
        }
        Ok(())
    })?;
    file.sync_data()?;
    let seconds = started.elapsed().as_secs_f64();
    drop(file);
    fs::remove_file(path)?;
    Ok((count * shape.step_bytes) as f64 / seconds)
}

/// Reads all files of a folder, or about `bytes_max` of them; bytes per second.
pub(super) fn read(folder: &Path, bytes_max: u64, shape: Shape) -> Result<f64> {
    apart(|| read_here(folder, bytes_max, shape))
}

fn read_here(folder: &Path, bytes_max: u64, shape: Shape) -> Result<f64> {
    let mut files = Vec::new();
    let mut steps = Vec::new();
    let mut left = bytes_max;
    for entry in fs::read_dir(folder)? {
        let file = open(&entry?.path(), false)?;
        let len = file.metadata()?.len();
        for offset in (0..len).step_by(shape.step_bytes) {
            if left > 0 {
                steps.push((files.len(), offset));
                left = left.saturating_sub(shape.step_bytes as u64);
            }
        }
        files.push(file);
    }
    let mut buffers: Vec<_> = (0..shape.depth).map(|_| filled(shape.step_bytes)).collect();
    let next = AtomicUsize::new(0);
    let read_bytes = AtomicUsize::new(0);
    let started = Instant::now();
    side_by_side(&mut buffers, |buffer| {
        while let Some(step) = take(&next, steps.len()) {
            let (file, offset) = steps[step];
            // The last step of a file is short; all others come whole from a regular file.
            let count = files[file].read_at(buffer, offset)?;
            read_bytes.fetch_add(count, Ordering::Relaxed);
        }
        Ok(())
    })?;
    Ok(read_bytes.into_inner() as f64 / started.elapsed().as_secs_f64())
}

/// Appends groups of 256 KiB, each followed by an fdatasync; mean seconds for one.
pub(super) fn group_seconds(path: &Path, count: u64, limit: Duration) -> Result<f64> {
    apart(|| group_seconds_here(path, count, limit))
}

fn group_seconds_here(path: &Path, count: u64, limit: Duration) -> Result<f64> {
    let file = open(path, true)?;
    let buffer = filled(GROUP_BYTES);
    let started = Instant::now();
    let mut done = 0;
    while done < count && started.elapsed() < limit {
        file.write_all_at(&buffer, done * GROUP_BYTES as u64)?;
        file.sync_data()?;
        done += 1;
    }
    let seconds = started.elapsed().as_secs_f64();
    drop(file);
    fs::remove_file(path)?;
    Ok(seconds / done as f64)
}

/// Appends two blocks and times the fdatasync after it, without the write; seconds for each.
pub(super) fn sync_seconds(path: &Path, count: u64) -> Result<Vec<f64>> {
    let file = open(path, true)?;
    let buffer = filled(LONE_BYTES);
    let mut seconds = Vec::new();
    for number in 0..count {
        file.write_all_at(&buffer, number * LONE_BYTES as u64)?;
        let started = Instant::now();
        file.sync_data()?;
        seconds.push(started.elapsed().as_secs_f64());
    }
    drop(file);
    fs::remove_file(path)?;
    Ok(seconds)
}

/// Drops the files of a folder from the page cache; bytes that are still there.
pub(super) fn evict(folder: &Path) -> Result<u64> {
    let mut cached_bytes = 0;
    for entry in fs::read_dir(folder)? {
        let file = File::open(entry?.path())?;
        file.sync_data()?;
        // SAFETY: the descriptor is open as long as `file` lives, and the call touches no memory of ours.
        let code =
            unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
        if code != 0 {
            return Err(io::Error::from_raw_os_error(code).into());
        }
        cached_bytes += in_page_cache(&file)?;
    }
    Ok(cached_bytes)
}

/// Waits until what was removed has left the file system's journal, so that the next run does not pay for it.
pub(super) fn settle(folder: &Path) -> Result<()> {
    File::open(folder)?.sync_all()?;
    Ok(())
}

/// Bytes of a file that the page cache holds.
fn in_page_cache(file: &File) -> io::Result<u64> {
    let len = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
    if len == 0 {
        return Ok(0);
    }
    let protection = libc::PROT_READ;
    let null = std::ptr::null_mut();
    // SAFETY: a new mapping at a place of the kernel's choice; no memory of ours is replaced.
    let start = unsafe { libc::mmap(null, len, protection, libc::MAP_SHARED, file.as_raw_fd(), 0) };
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let mut pages = vec![0_u8; len.div_ceil(PAGE_BYTES)];
    // SAFETY: the range was mapped just now, and `pages` has a byte for each of its pages.
    let looked = unsafe { libc::mincore(start, len, pages.as_mut_ptr()) };
    let result = if looked == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    };
    // SAFETY: this is the whole of that mapping, and no reference into it was ever made.
    let unmapped = unsafe { libc::munmap(start, len) };
    assert_eq!(unmapped, 0, "what was mapped can be unmapped");
    result?;
    let present = pages.iter().filter(|page| *page & 1 == 1).count();
    Ok((present * PAGE_BYTES) as u64)
}

/// The unit of `mincore` on the machines that the node runs on. Larger pages only leave entries at 0.
const PAGE_BYTES: usize = 4_096;

/// Opens for Direct I/O, or without where that is refused.
fn open(path: &Path, is_new: bool) -> io::Result<File> {
    let with = |flags| {
        let mut options = OpenOptions::new();
        options.read(true).write(is_new).create(is_new);
        options.custom_flags(flags).open(path)
    };
    match with(libc::O_DIRECT) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => with(0),
        other => other,
    }
}

fn filled(len: usize) -> IoBuffer {
    let mut buffer = IoBuffer::zeroed(len);
    let mut random = Random::new(len as u64, "raw");
    for word in buffer.as_chunks_mut::<8>().0 {
        *word = random.next().to_le_bytes();
    }
    buffer
}

fn take(next: &AtomicUsize, count: usize) -> Option<usize> {
    let taken = next.fetch_add(1, Ordering::Relaxed);
    (taken < count).then_some(taken)
}

/// Runs `work` on a thread of its own.
fn apart<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    #[expect(clippy::expect_used, reason = "a panic goes on as one")]
    std::thread::scope(|scope| scope.spawn(work).join().expect("raw loops do not panic"))
}

fn side_by_side(
    buffers: &mut [IoBuffer],
    work: impl Fn(&mut IoBuffer) -> io::Result<()> + Sync,
) -> Result<()> {
    let work = &work;
    if let [buffer] = buffers {
        return Ok(work(buffer)?);
    }
    std::thread::scope(|scope| {
        let threads: Vec<_> = buffers
            .iter_mut()
            .map(|buffer| scope.spawn(move || work(buffer)))
            .collect();
        for thread in threads {
            #[expect(clippy::expect_used, reason = "a panic goes on as one")]
            thread.join().expect("raw loops do not panic")?;
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eviction_empties_the_page_cache_of_a_folder() {
        // Below the target folder, because the temporary folder is memory on many systems.
        let target = std::env::current_exe().unwrap();
        let dir = tempfile::tempdir_in(target.parent().unwrap()).unwrap();
        let path = dir.path().join("file");
        fs::write(&path, vec![1; 1 << 20]).unwrap();
        let file = File::open(&path).unwrap();
        assert_eq!(in_page_cache(&file).unwrap(), 1 << 20);
        assert_eq!(evict(dir.path()).unwrap(), 0);
    }
}
