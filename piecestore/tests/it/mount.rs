//! A file system of its own for a test; only root can have one.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A mount; gone when dropped.
#[derive(Debug)]
pub(crate) struct Mount {
    path: PathBuf,
}

impl Mount {
    /// Mounts an empty file system that lives in memory. `None`, and a line that says so, without the right to.
    pub(crate) fn new(kind: &str, path: &Path) -> Option<Self> {
        Self::with(kind, path, &["-t", kind, kind])
    }

    /// The same with a tmpfs of so many MiB.
    pub(crate) fn sized(mebibytes: u32, path: &Path) -> Option<Self> {
        let size = format!("size={mebibytes}m");
        Self::with("tmpfs", path, &["-t", "tmpfs", "-o", &size, "tmpfs"])
    }

    /// Mounts an ext4 that lies in a file beside `path`.
    pub(crate) fn ext4(mebibytes: u64, path: &Path) -> Option<Self> {
        let image = path.with_extension("image");
        let file = std::fs::File::create(&image).unwrap();
        file.set_len(mebibytes << 20).unwrap();
        let image = image.to_str().unwrap();
        // Without it mounting fails, which is said.
        let _ = Command::new("mkfs.ext4").args(["-q", "-F", image]).output();
        let options = "loop,errors=remount-ro";
        Self::with("ext4 on a loop device", path, &["-o", options, image])
    }

    /// The file system takes itself for broken, and becomes read-only under whoever writes to it.
    pub(crate) fn abort(&self) {
        self.change("mount", &["-o", "remount,abort"]);
    }

    fn with(kind: &str, path: &Path, arguments: &[&str]) -> Option<Self> {
        let mounted = Command::new("mount").args(arguments).arg(path).output();
        match mounted {
            Ok(output) if output.status.success() => Some(Self {
                path: path.to_owned(),
            }),
            _ => {
                // Not `println`, which the harness hides where a test passes.
                let line = format!("skipped: mounting {kind} needs root and a kernel that has it");
                let _ = writeln!(std::io::stderr(), "{line}");
                None
            }
        }
    }

    /// Takes it from the tree; what is open in it stays open.
    pub(crate) fn detach(&self) {
        self.change("umount", &["-l"]);
    }

    pub(crate) fn make_read_only(&self) {
        self.change("mount", &["-o", "remount,ro"]);
    }

    pub(crate) fn make_writable(&self) {
        self.change("mount", &["-o", "remount,rw"]);
    }

    fn change(&self, program: &str, arguments: &[&str]) {
        let output = Command::new(program)
            .args(arguments)
            .arg(&self.path)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // It may be detached.
        let _ = Command::new("umount").arg("-l").arg(&self.path).output();
    }
}
