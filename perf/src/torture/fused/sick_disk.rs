//! A disk that is sick on command: a folder seen through a FUSE file system of our own, whose reads, writes and syncs fail or wait as it is told.
//!
//! Everything is passed on to files in a folder of the real disk. Nothing is synced there: what a failed sync means is for whoever sees it fail, and
//! nobody cuts the power here. The server is a thread of the process that commands the faults, never of the one that stores.

mod server;

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use anyhow::{Context, Result};
use fuser::{BackgroundSession, Config};

use self::server::Server;
use super::lock;

/// No hang is longer, whatever becomes of whoever should end it.
pub(in crate::torture) const HANG_MAX: Duration = Duration::from_secs(30);

/// What the disk does wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::torture) enum Fault {
    /// Reads of this range of the file fail.
    Read {
        name: String,
        range: Range<u64>,
        errno: i32,
    },
    /// Syncs fail, and writes that are to be durable when they return.
    Sync(i32),
    /// Writes fail.
    Write(i32),
    /// Reads wait until the fault is over.
    HangReads,
    /// Writes and syncs wait until the fault is over.
    HangWrites,
}

/// A request, as far as faults look at it.
#[derive(Clone, Copy, Debug)]
enum Asked<'a> {
    Read(&'a str, u64, u64),
    Write,
    DurableWrite,
    Sync,
}

impl Fault {
    /// The error of such a request, if it fails.
    fn errno_of(&self, asked: Asked<'_>) -> Option<i32> {
        match (self, asked) {
            (Self::Read { name, range, errno }, Asked::Read(asked, offset, len)) => {
                let is_hit = name == asked && offset < range.end && range.start < offset + len;
                is_hit.then_some(*errno)
            }
            (Self::Sync(errno), Asked::DurableWrite | Asked::Sync)
            | (Self::Write(errno), Asked::Write | Asked::DurableWrite) => Some(*errno),
            _ => None,
        }
    }

    fn hangs(&self, asked: Asked<'_>) -> bool {
        match self {
            Self::HangReads => matches!(asked, Asked::Read(..)),
            Self::HangWrites => !matches!(asked, Asked::Read(..)),
            _ => false,
        }
    }
}

/// What is wrong at the moment.
#[derive(Debug, Default)]
struct Health {
    fault: Mutex<Option<Fault>>,
    changed: Condvar,
    /// Requests that met a fault.
    hits: AtomicU64,
}

impl Health {
    /// The error of a request, if it meets one.
    fn meet(&self, asked: Asked<'_>) -> Option<i32> {
        let fault = lock(&self.fault);
        let errno = fault.as_ref().and_then(|fault| fault.errno_of(asked));
        if errno.is_some() {
            self.hits.fetch_add(1, Ordering::Relaxed);
        }
        errno
    }

    fn hangs(&self, asked: Asked<'_>) -> bool {
        let fault = lock(&self.fault);
        let hangs = fault.as_ref().is_some_and(|fault| fault.hangs(asked));
        if hangs {
            self.hits.fetch_add(1, Ordering::Relaxed);
        }
        hangs
    }

    fn wait_until_over(&self) {
        let fault = lock(&self.fault);
        let is_wrong = |fault: &mut Option<Fault>| fault.is_some();
        let _over = self.changed.wait_timeout_while(fault, HANG_MAX, is_wrong);
    }
}

/// A mounted sick disk; unmounted when this goes.
pub(in crate::torture) struct SickDisk {
    health: Arc<Health>,
    mount: PathBuf,
    behind: PathBuf,
    session: Option<BackgroundSession>,
}

impl SickDisk {
    /// Shows the new folder `behind` at the new folder `mount`.
    pub(in crate::torture) fn mount(behind: &Path, mount: &Path) -> Result<Self> {
        fs::create_dir_all(behind)?;
        fs::create_dir_all(mount)?;
        let health = Arc::new(Health::default());
        let server = Server::new(Arc::clone(&health), behind);
        let mut config = Config::default();
        config.n_threads = Some(1);
        let session = fuser::spawn_mount(server, mount, &config);
        let session = session.context("cannot mount a FUSE file system")?;
        Ok(Self {
            health,
            mount: mount.to_owned(),
            behind: behind.to_owned(),
            session: Some(session),
        })
    }

    /// Where it is mounted.
    pub(in crate::torture) fn path(&self) -> &Path {
        &self.mount
    }

    /// The folder behind it, which is never sick.
    pub(in crate::torture) fn behind(&self) -> &Path {
        &self.behind
    }

    /// From now on this is wrong, or nothing.
    pub(in crate::torture) fn set(&self, fault: Option<Fault>) {
        *lock(&self.health.fault) = fault;
        self.health.changed.notify_all();
    }

    /// Requests that met a fault so far.
    pub(in crate::torture) fn hits(&self) -> u64 {
        self.health.hits.load(Ordering::Relaxed)
    }
}

impl Drop for SickDisk {
    fn drop(&mut self) {
        // Whoever hangs goes on, and fails if nobody answers any more.
        self.set(None);
        crate::torture::image::unmount(&self.mount);
        drop(self.session.take());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_meets_what_it_names_and_nothing_else() {
        let read = Fault::Read {
            name: "a".to_owned(),
            range: 100..200,
            errno: libc::EIO,
        };
        for (asked, errno) in [
            (Asked::Read("a", 199, 1), Some(libc::EIO)),
            (Asked::Read("a", 0, 101), Some(libc::EIO)),
            (Asked::Read("a", 0, 100), None),
            (Asked::Read("a", 200, 9), None),
            (Asked::Read("b", 100, 9), None),
            (Asked::DurableWrite, None),
        ] {
            assert_eq!(read.errno_of(asked), errno, "{asked:?}");
        }
        let sync = Fault::Sync(libc::EIO);
        assert_eq!(sync.errno_of(Asked::Write), None);
        assert_eq!(sync.errno_of(Asked::DurableWrite), Some(libc::EIO));
        assert_eq!(sync.errno_of(Asked::Sync), Some(libc::EIO));
        let full = Fault::Write(libc::ENOSPC);
        assert_eq!(full.errno_of(Asked::Sync), None);
        assert_eq!(full.errno_of(Asked::DurableWrite), Some(libc::ENOSPC));
        assert!(Fault::HangReads.hangs(Asked::Read("a", 0, 1)));
        assert!(!Fault::HangReads.hangs(Asked::Sync));
        assert!(Fault::HangWrites.hangs(Asked::Sync));
    }
}
