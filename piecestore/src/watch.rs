//! What a node must know of its disk without ever waiting for it.
//!
//! `statvfs` and `stat` block for as long as a disk hangs, so they are a thread's of their own, one for each disk: it looks once a
//! second and writes down what it saw. The core reads that: how much is free, whether the folder is still what its path leads to, whether
//! the file system was made read-only, and how long ago the disk last answered. Bytes written since the last look are taken off what
//! was free then, so that a look a second old never promises room that is gone.

use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{StatVfsMountFlags, fstat, fstatvfs, stat};

use crate::disk::OPERATION_TIMEOUT;

/// How often a disk is looked at.
const LOOK_PERIOD: Duration = Duration::from_secs(1);

/// How a disk was when it was looked at last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DiskState {
    /// As it should be.
    #[default]
    Fine,
    /// The folder's path leads to another folder, or to none: the disk was unmounted or replaced.
    Detached,
    /// The file system is mounted read-only.
    ReadOnly,
    /// No answer within [`OPERATION_TIMEOUT`].
    Hangs,
}

/// Looks at a disk until dropped.
pub struct DiskWatch {
    shared: Arc<Shared>,
}

struct Shared {
    path: PathBuf,
    folder: OwnedFd,
    began: Instant,
    /// What would be free had nothing been written since the start; what was written is taken off.
    free_at_start_bytes: AtomicU64,
    written_bytes: AtomicU64,
    state: AtomicU8,
    looked_ms: AtomicU64,
    failed: AtomicBool,
    is_over: Mutex<bool>,
    over: Condvar,
}

impl DiskState {
    /// One word for scripts.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Fine => "fine",
            Self::Detached => "detached",
            Self::ReadOnly => "read-only",
            Self::Hangs => "hangs",
        }
    }

    /// What is wrong and what to do, in one sentence; empty if nothing is.
    #[must_use]
    pub fn sentence(self) -> &'static str {
        match self {
            Self::Fine => "",
            Self::Detached => {
                "the disk was unmounted or replaced while the node runs: nothing new is stored; mount it again and start the node again"
            }
            Self::ReadOnly => {
                "the disk is mounted read-only, as the kernel does after errors (see dmesg): pieces are still served, and nothing is stored until it is checked, mounted writable, and the node started again"
            }
            Self::Hangs => {
                "the disk does not answer: its requests fail and nothing new is stored until it does; check its cable and the kernel's log (dmesg)"
            }
        }
    }
}

impl DiskWatch {
    /// Looks once, then from a thread of its own.
    ///
    /// # Errors
    ///
    /// If the thread cannot be started or the descriptor not be copied.
    pub fn start(path: &Path, folder: &OwnedFd) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            path: path.to_owned(),
            folder: folder.try_clone()?,
            began: Instant::now(),
            free_at_start_bytes: AtomicU64::new(0),
            written_bytes: AtomicU64::new(0),
            state: AtomicU8::new(0),
            looked_ms: AtomicU64::new(0),
            failed: AtomicBool::new(false),
            is_over: Mutex::new(false),
            over: Condvar::new(),
        });
        shared.look();
        let looking = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("disk".to_owned())
            .stack_size(128 << 10)
            .spawn(move || looking.run())?;
        Ok(Self { shared })
    }

    /// Counts what was written, until the next look sees it.
    pub fn wrote(&self, bytes: u64) {
        self.shared
            .written_bytes
            .fetch_add(bytes, Ordering::Relaxed);
    }

    /// How the disk is.
    #[must_use]
    pub fn state(&self) -> DiskState {
        let since = self.shared.began.elapsed().as_millis() as u64;
        let age_ms = since.saturating_sub(self.shared.looked_ms.load(Ordering::Acquire));
        if u128::from(age_ms) > (OPERATION_TIMEOUT + LOOK_PERIOD).as_millis() {
            return DiskState::Hangs;
        }
        match self.shared.state.load(Ordering::Acquire) {
            1 => DiskState::Detached,
            2 => DiskState::ReadOnly,
            _ => DiskState::Fine,
        }
    }

    /// Bytes that can still be written; none where nothing should be. `None`: the disk could not say.
    #[must_use]
    pub fn free_bytes(&self) -> Option<u64> {
        match self.state() {
            DiskState::Hangs => None,
            DiskState::Detached => Some(0),
            _ if self.shared.failed.load(Ordering::Acquire) => None,
            _ => {
                let written = self.shared.written_bytes.load(Ordering::Relaxed);
                let free = self.shared.free_at_start_bytes.load(Ordering::Acquire);
                Some(free.saturating_sub(written))
            }
        }
    }
}

impl Shared {
    fn run(&self) {
        let mut is_over = self.is_over.lock().unwrap_or_else(PoisonError::into_inner);
        while !*is_over {
            is_over = self
                .over
                .wait_timeout(is_over, LOOK_PERIOD)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
            if *is_over {
                return;
            }
            drop(is_over);
            self.look();
            is_over = self.is_over.lock().unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn look(&self) {
        let before = self.written_bytes.load(Ordering::Relaxed);
        let figures = fstatvfs(&self.folder);
        let mut state = 0;
        match figures {
            Ok(figures) => {
                // A file system without blocks (ramfs, some FUSE) does not count: there is room until it says so.
                let free = if figures.f_blocks == 0 {
                    u64::MAX / 4
                } else {
                    figures.f_bavail * figures.f_frsize
                };
                self.free_at_start_bytes
                    .store(free.saturating_add(before), Ordering::Release);
                if figures.f_flag.contains(StatVfsMountFlags::RDONLY) {
                    state = 2;
                }
                self.failed.store(false, Ordering::Release);
            }
            Err(_) => self.failed.store(true, Ordering::Release),
        }
        if !is_folder_at(&self.path, self.folder.as_fd()) {
            state = 1;
        }
        self.state.store(state, Ordering::Release);
        self.looked_ms
            .store(self.began.elapsed().as_millis() as u64, Ordering::Release);
    }
}

/// Whether a path leads to the folder that was opened.
fn is_folder_at(path: &Path, folder: impl AsFd) -> bool {
    match (stat(path), fstat(folder)) {
        (Ok(there), Ok(ours)) => (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino),
        // Nobody but the node's own user may be able to look; then nothing is known against it.
        (Err(rustix::io::Errno::ACCESS), Ok(_)) => true,
        _ => false,
    }
}

impl Drop for DiskWatch {
    /// Does not wait for the thread: its disk may hang.
    fn drop(&mut self) {
        *self
            .shared
            .is_over
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = true;
        self.shared.over.notify_all();
    }
}

impl fmt::Debug for DiskWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiskWatch")
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    fn watch(path: &Path) -> DiskWatch {
        DiskWatch::start(path, &OwnedFd::from(File::open(path).unwrap())).unwrap()
    }

    fn eventually(watch: &DiskWatch, state: DiskState) {
        let began = Instant::now();
        while watch.state() != state {
            assert!(
                began.elapsed() < Duration::from_secs(10),
                "{:?} is not {state:?}",
                watch.state()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    #[test]
    fn a_folder_that_is_another_one_than_was_opened_is_noticed_and_promises_no_room() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("blobs");
        std::fs::create_dir(&path).unwrap();
        let watch = watch(&path);
        assert_eq!(watch.state(), DiskState::Fine);
        assert!(watch.free_bytes().unwrap() > 0);
        std::fs::rename(&path, root.path().join("gone")).unwrap();
        eventually(&watch, DiskState::Detached);
        std::fs::create_dir(&path).unwrap();
        std::thread::sleep(LOOK_PERIOD + Duration::from_millis(300));
        assert_eq!(
            (watch.state(), watch.free_bytes()),
            (DiskState::Detached, Some(0))
        );
        std::fs::remove_dir(&path).unwrap();
        std::fs::rename(root.path().join("gone"), &path).unwrap();
        eventually(&watch, DiskState::Fine);
    }

    #[test]
    fn what_was_written_since_the_last_look_is_not_free() {
        let root = tempfile::tempdir().unwrap();
        let watch = watch(root.path());
        let free = watch.free_bytes().unwrap();
        watch.wrote(free / 2);
        assert!(watch.free_bytes().unwrap() <= free - free / 2);
        watch.wrote(free);
        assert_eq!(watch.free_bytes(), Some(0));
    }
}
