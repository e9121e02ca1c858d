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
        let mounted = Command::new("mount")
            .args(["-t", kind, kind])
            .arg(path)
            .output();
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
