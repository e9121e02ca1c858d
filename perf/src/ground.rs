//! Whether the ground holds: a folder on a real disk with room, and enough file descriptors.
//!
//! A network whose blobs lie in memory would report speeds that no disk has. This module only looks; it never creates
//! anything but the folder it is asked for.

#![allow(unsafe_code, reason = "statfs and rlimits have no safe form in std")]

use std::ffi::CString;
use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// File descriptors that one process of a local network may need: 22 nodes with a socket, a lock, an admin socket and
/// some open blobs each, the rings, and room to breathe.
pub const DESCRIPTORS_NEEDED: u64 = 1_024;

const TMPFS_MAGIC: i64 = 0x0102_1994;
const RAMFS_MAGIC: i64 = 0x8584_58f6;
const OVERLAY_MAGIC: i64 = 0x794c_7630;

/// Why a network cannot stand here.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GroundError {
    /// The folder's file system keeps its files in memory.
    #[error("{} is on {kind}, which is memory: name a folder on a disk with --dir", .path.display())]
    NotADisk {
        /// The folder.
        path: PathBuf,
        /// Name of the file system.
        kind: &'static str,
    },
    /// Not enough room.
    #[error(
        "{} has {free_bytes} bytes free < {needed_bytes} needed: name a folder with room with --dir",
        .path.display()
    )]
    NoRoom {
        /// The folder.
        path: PathBuf,
        /// What an unprivileged user may still write there.
        free_bytes: u64,
        /// What the network will write.
        needed_bytes: u64,
    },
    /// The hard limit of open files is too low.
    #[error(
        "at most {allowed} open files allowed < {DESCRIPTORS_NEEDED} needed: raise `ulimit -Hn`"
    )]
    Descriptors {
        /// The hard limit.
        allowed: u64,
    },
    /// The folder could not be made or looked at.
    #[error("{}: {error}", .path.display())]
    Io {
        /// The folder.
        path: PathBuf,
        /// What the system said; part of the message.
        error: io::Error,
    },
}

/// Makes sure that `path`, which exists, is on a disk with room for `needed_bytes`.
pub fn check_disk(path: &Path, needed_bytes: u64) -> Result<(), GroundError> {
    let at = |error| GroundError::Io {
        path: path.to_owned(),
        error,
    };
    let stat = statfs(path).map_err(at)?;
    if let Some(kind) = memory_file_system(stat.magic) {
        return Err(GroundError::NotADisk {
            path: path.to_owned(),
            kind,
        });
    }
    // Files written to an overlay land in its upper folder; inside a container that folder is often not visible, and
    // then nothing can be said against it.
    if stat.magic == OVERLAY_MAGIC
        && let Ok(mounts) = fs::read_to_string("/proc/self/mountinfo")
        && let Some(upper) = overlay_upper(&mounts, &fs::canonicalize(path).map_err(at)?)
        && let Ok(upper_stat) = statfs(&upper)
        && let Some(kind) = memory_file_system(upper_stat.magic)
    {
        return Err(GroundError::NotADisk {
            path: path.to_owned(),
            kind,
        });
    }
    if stat.free_bytes < needed_bytes {
        let free_bytes = stat.free_bytes;
        return Err(GroundError::NoRoom {
            path: path.to_owned(),
            free_bytes,
            needed_bytes,
        });
    }
    Ok(())
}

/// Raises the soft limit of open files to [`DESCRIPTORS_NEEDED`] for this process and its children.
pub fn raise_descriptors() -> Result<(), GroundError> {
    let at = |error| GroundError::Io {
        path: PathBuf::from("RLIMIT_NOFILE"),
        error,
    };
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` is a live, writable rlimit on this stack.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } != 0 {
        return Err(at(io::Error::last_os_error()));
    }
    if limit.rlim_max < DESCRIPTORS_NEEDED {
        return Err(GroundError::Descriptors {
            allowed: limit.rlim_max,
        });
    }
    if limit.rlim_cur >= DESCRIPTORS_NEEDED {
        return Ok(());
    }
    limit.rlim_cur = DESCRIPTORS_NEEDED;
    // SAFETY: `limit` is a live rlimit on this stack, and the call only reads it.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) } != 0 {
        return Err(at(io::Error::last_os_error()));
    }
    Ok(())
}

/// Bytes that the files below `path` occupy on disk (`st_blocks` x 512).
pub fn disk_bytes_used(path: &Path) -> io::Result<u64> {
    use std::os::unix::fs::MetadataExt;
    let mut used = 0;
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let metadata = match entry.metadata() {
            Ok(metadata) => metadata,
            // Nodes remove files while this walks.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        if metadata.is_dir() {
            used += disk_bytes_used(&entry.path())?;
        } else {
            used += metadata.blocks() * 512;
        }
    }
    Ok(used)
}

/// What the file system of a path has free, for anybody.
pub(crate) fn free_bytes(path: &Path) -> io::Result<u64> {
    Ok(statfs(path)?.free_bytes)
}

struct FileSystem {
    magic: i64,
    free_bytes: u64,
}

fn statfs(path: &Path) -> io::Result<FileSystem> {
    let path = CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)?;
    let mut stat = MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: `path` ends in NUL by construction, and `stat` is writable memory of the size the call fills.
    if unsafe { libc::statfs(path.as_ptr(), stat.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, so it has filled the whole structure.
    let stat = unsafe { stat.assume_init() };
    #[allow(
        clippy::unnecessary_cast,
        reason = "the fields' types differ between C libraries"
    )]
    let system = FileSystem {
        magic: stat.f_type as i64 & 0xffff_ffff,
        free_bytes: stat.f_bavail as u64 * stat.f_bsize as u64,
    };
    Ok(system)
}

fn memory_file_system(magic: i64) -> Option<&'static str> {
    match magic {
        TMPFS_MAGIC => Some("tmpfs"),
        RAMFS_MAGIC => Some("ramfs"),
        _ => None,
    }
}

/// The upper folder of the overlay that `path` lies on: the longest mount point that is a prefix of it.
fn overlay_upper(mountinfo: &str, path: &Path) -> Option<PathBuf> {
    let mut best: Option<(usize, &str)> = None;
    for line in mountinfo.lines() {
        let Some((mount, system)) = line.split_once(" - ") else {
            continue;
        };
        let Some(point) = mount.split_ascii_whitespace().nth(4) else {
            continue;
        };
        if path.starts_with(point) && best.is_none_or(|(len, _)| point.len() >= len) {
            best = Some((point.len(), system));
        }
    }
    let options = best?
        .1
        .strip_prefix("overlay ")?
        .split_ascii_whitespace()
        .last()?;
    options
        .split(',')
        .find_map(|option| option.strip_prefix("upperdir="))
        .map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn memory_is_not_a_disk() {
        // /dev/shm is a tmpfs wherever it is mounted; where it is not, /proc/self is no memory file system either.
        if statfs(Path::new("/dev/shm")).is_ok_and(|stat| stat.magic == TMPFS_MAGIC) {
            let error = check_disk(Path::new("/dev/shm"), 0).unwrap_err();
            assert_eq!(
                error.to_string(),
                "/dev/shm is on tmpfs, which is memory: name a folder on a disk with --dir"
            );
        }
        assert_eq!(memory_file_system(RAMFS_MAGIC), Some("ramfs"));
        assert_eq!(memory_file_system(0xef53), None);
    }

    #[test]
    fn too_little_room_is_refused_with_both_numbers() {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let error = check_disk(here, u64::MAX).unwrap_err();
        assert!(
            matches!(
                error,
                GroundError::NoRoom {
                    needed_bytes: u64::MAX,
                    ..
                }
            ),
            "{error}"
        );
    }

    #[test]
    fn the_upper_folder_is_that_of_the_innermost_mount() {
        let mounts = "1 0 0:1 / / rw - overlay overlay rw,lowerdir=/l,upperdir=/ram/up,workdir=/w\n\
                      2 1 8:1 / /data rw - ext4 /dev/sda rw\n";
        assert_eq!(
            overlay_upper(mounts, Path::new("/tmp/x")),
            Some(PathBuf::from("/ram/up"))
        );
        assert_eq!(overlay_upper(mounts, Path::new("/data/x")), None);
    }

    #[test]
    fn disk_use_counts_blocks() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("inner")).unwrap();
        let file = fs::File::create(dir.path().join("inner/a")).unwrap();
        (&file).write_all(&[1; 10_000]).unwrap();
        // Blocks are counted once they are allocated, which a sync forces.
        file.sync_all().unwrap();
        let used = disk_bytes_used(dir.path()).unwrap();
        assert!(used >= 8_192, "{used}");
    }
}
