//! File systems of a trial's own: made in an image, mounted through a loop device where only the trial sees them.
//!
//! A trial runs in a thread with a mount namespace of its own ([`apart`]), which its children inherit. Whatever is mounted there goes when the last
//! of them ends, also if that is by a signal, and whoever removes the trial's folder from outside meets empty folders.

#![allow(unsafe_code, reason = "unshare has no safe form in std")]

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

/// Until a device that gets no more requests is taken to be at rest.
const REST: Duration = Duration::from_millis(20);

/// How long a device may take to come to rest.
const REST_MAX: Duration = Duration::from_secs(20);

/// Copies that are begun until one is of a single moment.
const COPIES_MAX: usize = 5;

/// The most that a folder in memory takes.
const MEMORY_OPTIONS: &str = "size=3g";

/// A file system that an image can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum System {
    Ext4,
    Xfs,
    Btrfs,
}

impl System {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
        }
    }

    /// The least that its `mkfs` takes.
    pub(super) fn image_bytes_min(self) -> u64 {
        match self {
            Self::Ext4 => 256 << 20,
            Self::Xfs | Self::Btrfs => 320 << 20,
        }
    }

    /// What makes one, with nothing left for later (ext4 would go on writing its tables for minutes) and no room set aside for root.
    fn maker(self) -> (&'static str, &'static [&'static str]) {
        match self {
            Self::Ext4 => (
                "mkfs.ext4",
                &[
                    "-q",
                    "-m",
                    "0",
                    "-E",
                    "lazy_itable_init=0,lazy_journal_init=0",
                ],
            ),
            Self::Xfs => ("mkfs.xfs", &["-q"]),
            Self::Btrfs => ("mkfs.btrfs", &["-q"]),
        }
    }

    /// Puts off commits of its own, where it can be told, and lets a copy be mounted beside the image.
    fn mount_options(self) -> &'static str {
        match self {
            Self::Ext4 | Self::Btrfs => "loop,commit=300",
            Self::Xfs => "loop,nouuid",
        }
    }
}

/// A mounted image; unmounted when this goes.
#[derive(Debug)]
pub(super) struct Mounted {
    image: PathBuf,
    path: PathBuf,
}

/// What a device has been asked to change so far.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Writes(Vec<u64>);

impl Mounted {
    /// A new file system of so many bytes, in `ground`; `None`, with the reason, where this machine cannot make one.
    pub(super) fn make(
        ground: &Path,
        system: System,
        bytes: u64,
    ) -> Result<std::result::Result<Self, String>> {
        fs::create_dir_all(ground)?;
        let image = ground.join("disk.img");
        if let Err(reason) = format(&image, system, bytes)? {
            return Ok(Err(reason));
        }
        // Not every kernel knows every file system, and not every machine lets root mount an image.
        let mounted = Self::mount(&image, &ground.join("disk"), system);
        Ok(mounted.map_err(|error| format!("{error:#}")))
    }

    pub(super) fn mount(image: &Path, path: &Path, system: System) -> Result<Self> {
        fs::create_dir_all(path)?;
        let mut command = Command::new("mount");
        command.args(["-t", system.name(), "-o", system.mount_options()]);
        command.arg(image).arg(path);
        finish(command)?;
        Ok(Self {
            image: image.to_owned(),
            path: path.to_owned(),
        })
    }

    /// Where it is mounted.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Copies the image as it is at one moment: nothing may have been written to it from before the copy until after it.
    ///
    /// # Errors
    ///
    /// If it never comes to rest.
    pub(super) fn copy_to(&self, copy: &Path) -> Result<()> {
        for _ in 0..COPIES_MAX {
            let before = self.at_rest()?;
            self::copy(&self.image, copy)?;
            if self.at_rest()? == before {
                return Ok(());
            }
        }
        anyhow::bail!("{} is written all the time", self.image.display())
    }

    fn at_rest(&self) -> Result<Writes> {
        let begun = Instant::now();
        let device = self.device()?;
        let mut last = None;
        while begun.elapsed() < REST_MAX {
            let (writes, in_flight) = device_writes(&fs::read_to_string(&device)?)?;
            if in_flight == 0 && last.as_ref() == Some(&writes) {
                return Ok(writes);
            }
            last = (in_flight == 0).then_some(writes);
            std::thread::sleep(REST);
        }
        anyhow::bail!("{} does not come to rest", self.image.display())
    }

    /// The counters of its loop device.
    fn device(&self) -> Result<PathBuf> {
        let mounts = fs::read_to_string("/proc/thread-self/mountinfo")?;
        let source = source_of(&mounts, &self.path).context("the image is not mounted")?;
        let name = source.rsplit('/').next().unwrap_or_default();
        Ok(PathBuf::from(format!("/sys/block/{name}/stat")))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        unmount(&self.path);
    }
}

/// A folder in memory; unmounted, and gone, when this goes.
#[derive(Debug)]
pub(super) struct Memory {
    path: PathBuf,
}

impl Memory {
    /// In the new folder `path`.
    pub(super) fn mount(path: &Path) -> Result<Self> {
        fs::create_dir_all(path)?;
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", MEMORY_OPTIONS, "tmpfs"]);
        command.arg(path);
        finish(command)?;
        Ok(Self {
            path: path.to_owned(),
        })
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        unmount(&self.path);
    }
}

/// Makes an image of so many bytes with a file system; the reason, where this machine has not what makes one.
pub(super) fn format(
    image: &Path,
    system: System,
    bytes: u64,
) -> Result<std::result::Result<(), String>> {
    let (maker, arguments) = system.maker();
    let mut command = Command::new(maker);
    if command.arg("-V").output().is_err() {
        return Ok(Err(format!("{maker} is not installed")));
    }
    fs::File::create(image)?.set_len(bytes)?;
    let mut make = Command::new(maker);
    make.args(arguments).arg(image);
    finish(make)?;
    Ok(Ok(()))
}

/// Copies an image, holes and all.
pub(super) fn copy(image: &Path, copy: &Path) -> Result<()> {
    let mut copying = Command::new("cp");
    copying.args(["--reflink=auto", "--sparse=always"]);
    copying.arg(image).arg(copy);
    finish(copying)
}

/// Unmounts; what is still in use goes once it no longer is.
pub(super) fn unmount(path: &Path) {
    let mut command = Command::new("umount");
    command.arg(path);
    if finish(command).is_ok() {
        return;
    }
    let mut command = Command::new("umount");
    command.arg("-l").arg(path);
    if let Err(error) = finish(command) {
        eprintln!("cannot unmount {}: {error:#}", path.display());
    }
}

/// What is mounted at `path`, by the kernel's list of mounts.
fn source_of<'a>(mounts: &'a str, path: &Path) -> Option<&'a str> {
    let path = path.to_str()?;
    let mut lines = mounts.lines().rev();
    let line = lines.find(|line| line.split(' ').nth(4) == Some(path))?;
    line.split_once(" - ")?.1.split(' ').nth(1)
}

/// Writes, discards and flushes of a block device by its `stat` file, and requests on their way.
fn device_writes(stat: &str) -> Result<(Writes, u64)> {
    let counts = stat.split_ascii_whitespace().map(str::parse);
    let counts: Vec<u64> = counts.collect::<Result<_, _>>()?;
    let count = |at: usize| counts.get(at).copied().unwrap_or_default();
    ensure!(counts.len() > 8, "`{stat}` are no counters of a device");
    Ok((Writes([4, 6, 11, 15].map(count).to_vec()), count(8)))
}

/// Why this process may not mount, if it may not.
pub(super) fn refusal() -> Option<String> {
    apart(|| Ok(())).err().map(|error| format!("{error:#}"))
}

/// Runs `work` in a thread that has a list of mounts of its own.
///
/// # Errors
///
/// If the kernel refuses it one, or `work` fails.
pub(super) fn apart<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let ran = std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // SAFETY: takes a number and touches no memory; the thread, which is ours, gets a list of mounts and a working folder of its own.
            if unsafe { libc::unshare(libc::CLONE_NEWNS) } != 0 {
                return Err(io::Error::last_os_error())
                    .context("no mounts of our own (that takes root)");
            }
            let mut command = Command::new("mount");
            command.args(["--make-rprivate", "/"]);
            finish(command)?;
            work()
        });
        thread.join()
    });
    ran.unwrap_or_else(|_| Err(anyhow::anyhow!("a trial ended with a panic of its own")))
}

/// Runs a command to its end, which must be good.
pub(super) fn finish(mut command: Command) -> Result<()> {
    let name = format!("{:?}", command.get_program());
    let output = command
        .output()
        .with_context(|| format!("cannot run {name}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{name} failed: {}", said.trim());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_found_by_its_path_alone() {
        let mounts = "22 1 8:1 / / rw - ext4 /dev/vda rw\n\
            90 22 7:3 / /a/disk rw shared:1 - xfs /dev/loop3 rw\n\
            91 22 7:4 / /a/disk2 rw - xfs /dev/loop4 rw\n";
        assert_eq!(source_of(mounts, Path::new("/a/disk")), Some("/dev/loop3"));
        assert_eq!(source_of(mounts, Path::new("/a/dis")), None);
    }

    #[test]
    fn a_device_that_was_written_or_flushed_is_not_as_it_was() {
        let stat = "1 2 3 4 5 6 7 8 0 10 11 12 13 14 15 16 17\n";
        let (before, in_flight) = device_writes(stat).unwrap();
        assert_eq!(in_flight, 0);
        let read = device_writes(&stat.replacen("1 2 3", "9 9 9", 1)).unwrap();
        assert_eq!(read.0, before);
        let written = device_writes(&stat.replacen(" 5 ", " 6 ", 1)).unwrap();
        assert_ne!(written.0, before);
        assert!(device_writes("1 2").is_err());
    }
}
