//! Where plaintext goes: a file that appears under its name only when it is whole, or a pipe.
//!
//! A file is written beside its final name, synced, and renamed over it. Until then nothing of that
//! name changes, and whatever goes wrong, also an interrupt, removes it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use crate::error::DownloadError;

/// The target of a download.
pub enum Output {
    /// A file. What is there is replaced when the download is whole; pipes and devices are written
    /// to as they are.
    File(PathBuf),
    /// The process's standard output: bytes come as they are checked.
    Stdout,
    /// Anything that can be written. The name is for messages.
    Writer(Box<dyn Write + Send>, String),
}

impl std::fmt::Debug for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Stdout => f.write_str("Stdout"),
            Self::Writer(_, name) => f.debug_tuple("Writer").field(name).finish(),
        }
    }
}

/// An opened target.
pub(super) struct Sink {
    writer: Box<dyn Write + Send>,
    /// Set for a file that is renamed at the end.
    file: Option<(File, Arc<Temporary>)>,
    /// What was written so far, on its way to the disk.
    syncing: Option<JoinHandle<io::Result<()>>>,
    name: String,
}

/// A file that is removed unless it was renamed.
#[derive(Debug)]
pub(super) struct Temporary {
    path: PathBuf,
    target: PathBuf,
    is_armed: AtomicBool,
}

impl Sink {
    pub(super) fn open(output: Output) -> Result<Self, DownloadError> {
        match output {
            Output::Stdout => Ok(Self {
                writer: Box::new(io::stdout()),
                file: None,
                syncing: None,
                name: "standard output".to_owned(),
            }),
            Output::Writer(writer, name) => Ok(Self {
                writer,
                file: None,
                syncing: None,
                name,
            }),
            Output::File(path) => {
                let name = path.display().to_string();
                Self::open_file(&path).map_err(|source| DownloadError::Output {
                    output: name,
                    source,
                })
            }
        }
    }

    fn open_file(path: &Path) -> io::Result<Self> {
        let name = path.display().to_string();
        // Follows symbolic links, so that the file they point to is replaced, not the link.
        let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        match fs::metadata(&target) {
            Ok(metadata) if metadata.is_dir() => {
                return Err(io::Error::from(io::ErrorKind::IsADirectory));
            }
            Ok(metadata) if !metadata.is_file() => {
                let file = OpenOptions::new().write(true).open(&target)?;
                return Ok(Self {
                    writer: Box::new(file),
                    file: None,
                    syncing: None,
                    name,
                });
            }
            _ => {}
        }
        let file_name = target.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        let mut hidden = std::ffi::OsString::from(".");
        // A name may have 255 bytes; what is added has 26.
        let kept: String = file_name.to_string_lossy().chars().take(50).collect();
        hidden.push(format!("{kept}.{:016x}.part", u64::from_le_bytes(random)));
        let temporary = target.with_file_name(hidden);
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&temporary)?;
        let guard = Temporary {
            path: temporary,
            target,
            is_armed: AtomicBool::new(true),
        };
        let writer = Box::new(file.try_clone()?);
        Ok(Self {
            writer,
            file: Some((file, Arc::new(guard))),
            syncing: None,
            name,
        })
    }

    /// What has to be removed if the download is given up while a thread still writes.
    pub(super) fn temporary(&self) -> Option<Arc<Temporary>> {
        self.file.as_ref().map(|(_, temporary)| temporary.clone())
    }

    pub(super) fn error(&self, source: io::Error) -> DownloadError {
        DownloadError::Output {
            output: self.name.clone(),
            source,
        }
    }

    /// Begins to bring to the disk what was written, so that [`finish`](Self::finish) has little left
    /// to wait for. Does nothing while the last such beginning is not through.
    pub(super) fn begin_sync(&mut self) -> io::Result<()> {
        let Some((file, _)) = &self.file else {
            return Ok(());
        };
        if self
            .syncing
            .as_ref()
            .is_some_and(|task| !task.is_finished())
        {
            return Ok(());
        }
        let file = file.try_clone()?;
        self.end_sync()?;
        self.syncing = Some(thread::spawn(move || file.sync_data()));
        Ok(())
    }

    /// The outcome of the last [`begin_sync`](Self::begin_sync): the kernel tells of a failed write
    /// once only.
    fn end_sync(&mut self) -> io::Result<()> {
        match self.syncing.take().map(JoinHandle::join) {
            None => Ok(()),
            Some(Ok(result)) => result,
            Some(Err(_)) => Err(io::Error::other("the syncing thread stopped")),
        }
    }

    /// Makes everything durable and gives the file its name.
    pub(super) fn finish(mut self) -> Result<(), DownloadError> {
        let mut finish = || {
            self.writer.flush()?;
            self.end_sync()?;
            let Some((file, temporary)) = &self.file else {
                return Ok(());
            };
            file.sync_all()?;
            temporary.keep()
        };
        finish().map_err(|source| self.error(source))
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writer.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

impl Temporary {
    /// Removes the file, unless it has its name already.
    pub(super) fn remove(&self) {
        if self.is_armed.swap(false, Ordering::SeqCst) {
            // Nothing better can be done about a file that cannot be removed.
            let _ = fs::remove_file(&self.path);
        }
    }

    fn keep(&self) -> io::Result<()> {
        if !self.is_armed.load(Ordering::SeqCst) {
            return Err(io::Error::from(io::ErrorKind::Interrupted));
        }
        fs::rename(&self.path, &self.target)?;
        self.is_armed.store(false, Ordering::SeqCst);
        let directory = self
            .target
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty());
        // The name is durable once its directory is; some file systems cannot sync one.
        if let Ok(directory) = File::open(directory.unwrap_or_else(|| Path::new("."))) {
            let _ = directory.sync_all();
        }
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        self.remove();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_appears_only_when_finished_and_replaces_the_old_one_whole() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, b"old").unwrap();
        let mut sink = Sink::open(Output::File(path.clone())).unwrap();
        sink.write_all(b"n").unwrap();
        sink.begin_sync().unwrap();
        sink.write_all(b"ew").unwrap();
        sink.begin_sync().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"old");
        sink.finish().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(names(directory.path()), ["file"]);
    }

    #[test]
    fn a_dropped_or_interrupted_file_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let mut sink = Sink::open(Output::File(path.clone())).unwrap();
        sink.write_all(b"half").unwrap();
        drop(sink);
        assert_eq!(names(directory.path()), [""; 0]);

        let sink = Sink::open(Output::File(path)).unwrap();
        sink.temporary().unwrap().remove();
        assert!(sink.finish().is_err());
        assert_eq!(names(directory.path()), [""; 0]);
    }

    #[test]
    fn a_full_disk_is_an_error_that_names_the_file() {
        let mut sink = Sink::open(Output::File("/dev/full".into())).unwrap();
        let error = sink.write_all(b"x").unwrap_err();
        let error = sink.error(error);
        assert_eq!(error.exit(), crate::error::Exit::Disk);
        assert!(
            error.to_string().starts_with("cannot write /dev/full: "),
            "{error}"
        );
    }

    #[test]
    fn a_directory_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        assert!(Sink::open(Output::File(directory.path().to_owned())).is_err());
    }
}
