//! Which disk a folder is on: whether it spins, and who else uses it.
//!
//! A spinning disk wants few places to append at; and of the nodes of a process that share a disk, whatever its kind, one compacts or
//! scrubs at a time. Both are advice: where the kernel does not say (networks, FUSE, ZFS), the disk is taken for one that does not
//! spin and for another one than any other file system's.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::core::executor::Executor;
use crate::limits::TURN_WAIT;

/// What is known of the disk under a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hardware {
    /// Names of the disks, such as `sda` or `sda+sdb`; `device 0:45` where there is none.
    pub name: String,
    /// Whether any of them spins; `None`: the kernel does not say.
    pub is_spinning: Option<bool>,
}

/// The disks of a process. Clones are the same ones.
#[derive(Clone, Debug, Default)]
pub struct DiskTurns(Arc<Mutex<HashMap<String, DiskTurn>>>);

/// Whose turn it is to work in the background on one disk. Clones are the same disk's.
#[derive(Clone, Debug, Default)]
pub struct DiskTurn(Arc<AtomicBool>);

/// Ends the turn when dropped.
#[derive(Debug)]
pub struct TurnPass(Arc<AtomicBool>);

/// The depth of stacked devices that is looked through: a file system on LVM on encryption on RAID on a partition is 5.
const STACK_MAX: usize = 8;

impl Hardware {
    /// Finds the disk under a folder.
    #[must_use]
    pub fn under(folder: &Path) -> Self {
        let Ok(status) = rustix::fs::stat(folder) else {
            return Self::unknown("unknown".to_owned());
        };
        let (major, minor) = (
            rustix::fs::major(status.st_dev),
            rustix::fs::minor(status.st_dev),
        );
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        Self::find(Path::new("/sys"), Path::new("/"), &mounts, major, minor)
    }

    /// One line for the log.
    #[must_use]
    pub fn line(&self, is_spinning: bool) -> String {
        let kind = match (is_spinning, self.is_spinning) {
            (true, Some(true)) => "a spinning disk: 2 places to append at",
            (true, _) => "taken for a spinning disk, as asked: 2 places to append at",
            (false, Some(true)) => "a spinning disk, taken for one that does not spin, as asked",
            (false, Some(false)) => "a disk that does not spin",
            (false, None) => "a disk of unknown kind, taken for one that does not spin",
        };
        format!("{} is {kind}", self.name)
    }

    fn unknown(name: String) -> Self {
        Self {
            name,
            is_spinning: None,
        }
    }

    fn find(sys: &Path, root: &Path, mounts: &str, major: u32, minor: u32) -> Self {
        let device = device_folder(sys, major, minor).or_else(|| {
            // btrfs and others number their mounts themselves; the mount's source is the device.
            let source = source_of(mounts, major, minor)?;
            let real = root
                .join(source.strip_prefix("/").ok()?)
                .canonicalize()
                .ok()?;
            let name = real.file_name()?;
            [sys.join("class/block").join(name)]
                .into_iter()
                .find_map(|path| path.canonicalize().ok())
        });
        let Some(device) = device else {
            return Self::unknown(format!("device {major}:{minor}"));
        };
        let mut leaves = BTreeSet::new();
        let mut says = Vec::new();
        collect(&device, STACK_MAX, &mut leaves, &mut says);
        Self {
            name: leaves.into_iter().collect::<Vec<_>>().join("+"),
            is_spinning: (!says.is_empty()).then(|| says.contains(&true)),
        }
    }
}

impl DiskTurns {
    /// The turns of a disk.
    #[must_use]
    pub fn of(&self, disk: &Hardware) -> DiskTurn {
        let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        turns.entry(disk.name.clone()).or_default().clone()
    }
}

impl DiskTurn {
    /// Begins a turn, unless another has it.
    #[must_use]
    pub fn try_take(&self) -> Option<TurnPass> {
        let is_free = !self.0.swap(true, Ordering::AcqRel);
        is_free.then(|| TurnPass(Arc::clone(&self.0)))
    }

    /// Begins a turn once nobody else works on the disk in the background, for however long that takes.
    pub(crate) async fn take(&self, executor: &impl Executor) -> TurnPass {
        loop {
            match self.try_take() {
                Some(pass) => return pass,
                None => executor.sleep(TURN_WAIT).await,
            }
        }
    }
}

impl Drop for TurnPass {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

fn device_folder(sys: &Path, major: u32, minor: u32) -> Option<PathBuf> {
    sys.join(format!("dev/block/{major}:{minor}"))
        .canonicalize()
        .ok()
}

/// Where a mount with this device number comes from.
fn source_of(mounts: &str, major: u32, minor: u32) -> Option<PathBuf> {
    let wanted = format!("{major}:{minor}");
    let line = mounts
        .lines()
        .find(|line| line.split(' ').nth(2) == Some(&wanted))?;
    let (_, rest) = line.split_once(" - ")?;
    let source = rest.split(' ').nth(1)?;
    source.starts_with("/dev/").then(|| PathBuf::from(source))
}

/// The whole disks that a device is made of, and what each says of itself.
fn collect(device: &Path, depth: usize, leaves: &mut BTreeSet<String>, says: &mut Vec<bool>) {
    // A partition lies in its disk's folder.
    let is_partition = device.join("partition").exists();
    let Some(disk) = (if is_partition {
        device.parent()
    } else {
        Some(device)
    }) else {
        return;
    };
    let below: Vec<PathBuf> = std::fs::read_dir(disk.join("slaves"))
        .map(|slaves| {
            slaves
                .flatten()
                .filter_map(|slave| slave.path().canonicalize().ok())
                .collect()
        })
        .unwrap_or_default();
    if below.is_empty() || depth == 0 {
        let name = disk.file_name().unwrap_or_default().to_string_lossy();
        leaves.insert(name.into_owned());
        if let Ok(text) = std::fs::read_to_string(disk.join("queue/rotational")) {
            says.push(text.trim() == "1");
        }
        return;
    }
    for device in below {
        collect(&device, depth - 1, leaves, says);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// sda (spins) with partition sda1; nvme0n1 (does not); md0 over sda1 and sdb; dm-0 over md0.
    fn sysfs() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join("sys").join(name);
        for (disk, spins) in [
            ("sda", "1\n"),
            ("sdb", "1\n"),
            ("nvme0n1", "0\n"),
            ("md0", "1\n"),
            ("dm-0", "1\n"),
        ] {
            std::fs::create_dir_all(path(&format!("devices/{disk}/queue"))).unwrap();
            std::fs::create_dir_all(path(&format!("devices/{disk}/slaves"))).unwrap();
            std::fs::write(path(&format!("devices/{disk}/queue/rotational")), spins).unwrap();
        }
        std::fs::create_dir_all(path("devices/sda/sda1")).unwrap();
        std::fs::write(path("devices/sda/sda1/partition"), "1\n").unwrap();
        symlink("../../sda/sda1", path("devices/md0/slaves/sda1")).unwrap();
        symlink("../../sdb", path("devices/md0/slaves/sdb")).unwrap();
        symlink("../../md0", path("devices/dm-0/slaves/md0")).unwrap();
        std::fs::create_dir_all(path("dev/block")).unwrap();
        std::fs::create_dir_all(path("class/block")).unwrap();
        for (number, device) in [
            ("8:1", "sda/sda1"),
            ("259:0", "nvme0n1"),
            ("9:0", "md0"),
            ("253:0", "dm-0"),
        ] {
            symlink(
                format!("../../devices/{device}"),
                path(&format!("dev/block/{number}")),
            )
            .unwrap();
        }
        symlink("../../devices/sda/sda1", path("class/block/sda1")).unwrap();
        std::fs::create_dir_all(root.path().join("dev")).unwrap();
        std::fs::write(root.path().join("dev/sda1"), "").unwrap();
        root
    }

    #[test]
    fn disks_are_found_through_partitions_arrays_and_volumes_with_numbers_of_their_own() {
        let root = sysfs();
        let mounts = "36 25 0:32 / /data rw,relatime shared:1 - btrfs /dev/sda1 rw\n37 25 0:40 / /t rw - tmpfs tmpfs rw\n";
        for (major, minor, name, is_spinning) in [
            (8, 1, "sda", Some(true)),
            (259, 0, "nvme0n1", Some(false)),
            (9, 0, "sda+sdb", Some(true)),
            (253, 0, "sda+sdb", Some(true)),
            (0, 32, "sda", Some(true)),
            (0, 40, "device 0:40", None),
            (0, 99, "device 0:99", None),
        ] {
            let found = Hardware::find(&root.path().join("sys"), root.path(), mounts, major, minor);
            let wanted = Hardware {
                name: name.to_owned(),
                is_spinning,
            };
            assert_eq!(found, wanted, "{major}:{minor}");
        }
    }

    #[test]
    fn one_at_a_time_on_a_disk_and_each_disk_on_its_own() {
        let turns = DiskTurns::default();
        let disk = |name: &str| turns.of(&Hardware::unknown(name.to_owned()));
        let (one, same, other) = (disk("sda"), disk("sda"), disk("sdb"));
        let pass = one.try_take().unwrap();
        assert!(same.try_take().is_none());
        assert!(other.try_take().is_some());
        drop(pass);
        assert!(same.try_take().is_some());
    }

    #[test]
    fn this_machine_has_a_disk() {
        assert!(!Hardware::under(Path::new("/")).name.is_empty());
    }
}
