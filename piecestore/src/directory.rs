//! A node's directory: made once, then opened by one process at a time.
//!
//! What must stay true: an identity is never overwritten; a directory is served only under the identity it was set up
//! with; two processes never serve one directory (the lock is the kernel's, so it ends with the process however that
//! ends); blobs are served only from a folder that says whose it is, because an empty one may be what lies under a disk that is not
//! mounted; a directory that was moved away is never served again. The blobs inside are the store's.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use strand_protocol::NodeId;
use strand_transport::{Identity, IdentityError};

use crate::config::{Capacity, Config, ConfigError, HostPort, SatelliteAddress};

/// The identity's file.
pub(crate) const IDENTITY_FILE: &str = "identity.key";

/// The file whose lock says that a process serves the directory.
pub(crate) const LOCK_FILE: &str = "lock";

/// The folder of the store.
const BLOBS_FOLDER: &str = "blobs";

/// Where checkpoints lie, beside the blobs.
pub(crate) const CHECKPOINTS_FOLDER: &str = "checkpoint";

/// Says in the folder of the store whose blobs these are: node id in text form and a newline (docs/format.md section 6).
pub(crate) const MARKER_FILE: &str = ".strand-node";

/// Says in a directory that its node lives elsewhere now (docs/format.md section 6).
pub(crate) const MOVED_FILE: &str = "moved-to";

/// Says in a directory that it is a copy under way (docs/format.md section 6).
pub(crate) const MOVING_FILE: &str = "moving";

/// A directory that this process has locked.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    config: Config,
    identity: Identity,
    /// The store's folder, opened while the lock was taken.
    blobs: File,
    /// Held open for its lock.
    _lock: File,
}

/// A directory that this process has locked to look at it.
#[derive(Debug)]
pub struct Inspected {
    blobs: PathBuf,
    config: Config,
    /// Held open for its lock.
    _lock: File,
}

/// What the owner chooses at setup.
#[derive(Clone, Debug)]
pub struct Choices {
    /// Whom to work for.
    pub satellite: SatelliteAddress,
    /// How much to offer.
    pub capacity: Capacity,
    /// Where to listen.
    pub listen: SocketAddr,
    /// How others reach it.
    pub advertise: Option<HostPort>,
}

/// Why a directory is not served, or not set up. Each message is one sentence and says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DirectoryError {
    /// Its settings.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The identity is gone.
    #[error(
        "{0} has no {IDENTITY_FILE}: restore it from a backup, because without it the pieces in this directory are lost"
    )]
    NoIdentity(PathBuf),
    /// The identity cannot be read or written.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Settings of one node beside the key of another.
    #[error(
        "{path} belongs to node {configured}, but its {IDENTITY_FILE} is that of node {found}: put the right key back"
    )]
    OtherNode {
        /// The directory.
        path: PathBuf,
        /// By its settings.
        configured: NodeId,
        /// By its key.
        found: NodeId,
    },
    /// The folder of the store is gone.
    #[error(
        "{0} has no {BLOBS_FOLDER} folder: mount the disk that it is on, or restore it; nothing was changed"
    )]
    NoBlobs(PathBuf),
    /// The folder of the store is an empty one that is not the node's.
    #[error(
        "{0}/{BLOBS_FOLDER} is empty and has no {MARKER_FILE}: the disk with the blobs is not mounted; mount it, nothing was changed"
    )]
    NotMounted(PathBuf),
    /// The folder of the store is another node's.
    #[error(
        "{path}/{BLOBS_FOLDER} holds the blobs of another node ({found}), not of {node_id}: mount the right disk; nothing was changed"
    )]
    OtherBlobs {
        /// The directory.
        path: PathBuf,
        /// Its node.
        node_id: NodeId,
        /// What the folder says.
        found: String,
    },
    /// The node lives elsewhere now.
    #[error("the node of {path} was moved to {to}: use that directory; nothing was changed")]
    Moved {
        /// The directory.
        path: PathBuf,
        /// Where the node is.
        to: String,
    },
    /// A copy that is not complete.
    #[error("{0} is an unfinished copy of another directory: run that `piecestore move-dir` again")]
    Moving(PathBuf),
    /// A node cannot serve what it cannot write.
    #[error(
        "{0} is on a disk that is mounted read-only, as the kernel does after errors (see dmesg): check it and mount it writable"
    )]
    ReadOnly(PathBuf),
    /// Another process serves it.
    #[error("{0} is in use by another process; stop that one first")]
    Locked(PathBuf),
    /// Set up before.
    #[error(
        "{path} is set up already, for node {node_id}; `piecestore run --dir {path}` starts it"
    )]
    AlreadySetUp {
        /// The directory.
        path: PathBuf,
        /// Its node.
        node_id: NodeId,
    },
    /// The operating system said no.
    #[error("cannot {what} {path}: {error}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// How it failed.
        error: io::Error,
    },
}

/// A folder of checkpoints that is there and cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot open the checkpoints in {path}: {error}; give this user the right to that folder, or remove it, which costs one start that \
     reads all blobs"
)]
pub struct CheckpointsError {
    /// The folder.
    pub path: PathBuf,
    /// How it failed.
    pub error: io::Error,
}

impl Directory {
    /// Makes a directory into a node's: identity, settings, an empty store.
    ///
    /// A setup that was interrupted is taken up again: the identity that it made is kept.
    pub fn set_up(path: &Path, choices: Choices) -> Result<Config, DirectoryError> {
        match Config::load(path) {
            Ok(config) => {
                return Err(DirectoryError::AlreadySetUp {
                    path: path.to_owned(),
                    node_id: config.node_id,
                });
            }
            Err(ConfigError::Missing(_)) => {}
            Err(error) => return Err(error.into()),
        }
        if path.join(MOVING_FILE).exists() {
            return Err(DirectoryError::Moving(path.to_owned()));
        }
        make_folder(path)?;
        let _lock = lock(path)?;
        make_folder(&path.join(BLOBS_FOLDER))?;
        let key_path = path.join(IDENTITY_FILE);
        let key_exists = key_path
            .try_exists()
            .map_err(|error| failed("look for", &key_path, error))?;
        let identity = if key_exists {
            Identity::load(&key_path)?
        } else {
            Identity::create(&key_path)?
        };
        let Choices {
            satellite,
            capacity,
            listen,
            advertise,
        } = choices;
        let config = Config {
            node_id: identity.node_id(),
            satellite,
            capacity,
            listen,
            advertise,
            spinning: None,
        };
        if read_marker(path, config.node_id)?.is_none() {
            write_marker(path, config.node_id)?;
        }
        config.create(path)?;
        Ok(config)
    }

    /// Opens a directory to serve it.
    pub fn open(path: &Path) -> Result<Self, DirectoryError> {
        let config = Config::load(path)?;
        let lock = lock(path)?;
        if let Some(to) = moved_to(path)? {
            let path = path.to_owned();
            return Err(DirectoryError::Moved { path, to });
        }
        let key_path = path.join(IDENTITY_FILE);
        if !key_path
            .try_exists()
            .map_err(|error| failed("look for", &key_path, error))?
        {
            return Err(DirectoryError::NoIdentity(path.to_owned()));
        }
        let identity = Identity::load(&key_path)?;
        if identity.node_id() != config.node_id {
            return Err(DirectoryError::OtherNode {
                path: path.to_owned(),
                configured: config.node_id,
                found: identity.node_id(),
            });
        }
        if !has_marker(path, config.node_id)? {
            write_marker(path, config.node_id)?;
        }
        let blobs = blobs_of(path);
        let blobs = File::open(&blobs).map_err(|error| failed("open", &blobs, error))?;
        Ok(Self {
            path: path.to_owned(),
            config,
            identity,
            blobs,
            _lock: lock,
        })
    }

    /// Locks a directory that no process serves, to look at it and change nothing. Works on a read-only file system.
    pub fn inspect(path: &Path) -> Result<Inspected, DirectoryError> {
        let config = Config::load(path)?;
        let lock_path = path.join(LOCK_FILE);
        let lock = File::open(&lock_path).map_err(|error| failed("open", &lock_path, error))?;
        take_lock(path, &lock)?;
        has_marker(path, config.node_id)?;
        Ok(Inspected {
            blobs: blobs_of(path),
            config,
            _lock: lock,
        })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its settings.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Its node's key.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The store's folder, for people.
    #[must_use]
    pub fn blobs(&self) -> PathBuf {
        blobs_of(&self.path)
    }

    /// The folder of the checkpoints, made if it is not there. `None` if nothing is there and none can be made, as on a full disk: who
    /// lacks one lacks nothing but time.
    ///
    /// One that is there must be opened: a checkpoint in it that hears nothing of what is done now would take blobs that compaction has
    /// removed for lost ones.
    pub fn open_checkpoints(&self) -> Result<Option<OwnedFd>, CheckpointsError> {
        let path = self.path.join(CHECKPOINTS_FOLDER);
        let open = || -> io::Result<Option<OwnedFd>> {
            match std::fs::create_dir(&path) {
                Ok(()) => File::open(&self.path)?.sync_all()?,
                Err(error) => match std::fs::symlink_metadata(&path) {
                    Ok(_) => {}
                    Err(missing) if missing.kind() == io::ErrorKind::NotFound => {
                        tracing::debug!(path = %path.display(), %error, "not made");
                        return Ok(None);
                    }
                    Err(error) => return Err(error),
                },
            }
            let mut options = OpenOptions::new();
            options.read(true).custom_flags(libc::O_DIRECTORY);
            Ok(Some(options.open(&path)?.into()))
        };
        open().map_err(|error| CheckpointsError {
            path: path.clone(),
            error,
        })
    }

    /// The store's folder as it was when the directory was opened, wherever its path leads now.
    pub fn open_blobs(&self) -> io::Result<OwnedFd> {
        Ok(self.blobs.try_clone()?.into())
    }
}

impl Inspected {
    /// Its settings.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The store's folder.
    #[must_use]
    pub fn blobs(&self) -> PathBuf {
        self.blobs.clone()
    }
}

/// The store's folder in a node's directory.
#[must_use]
pub fn blobs_of(directory: &Path) -> PathBuf {
    directory.join(BLOBS_FOLDER)
}

/// Whether the folder of the store says that it is the node's. One with blobs and without a word is from before there were markers.
///
/// A folder that is not there is never made anew, and an empty one without a word never used: it may be on a disk that is not mounted.
pub(crate) fn has_marker(directory: &Path, node_id: NodeId) -> Result<bool, DirectoryError> {
    let blobs = blobs_of(directory);
    if !blobs.is_dir() {
        return Err(DirectoryError::NoBlobs(directory.to_owned()));
    }
    if read_marker(directory, node_id)?.is_some() {
        return Ok(true);
    }
    let files = crate::offline::files_on_disk(&blobs);
    match files.map_err(|error| failed("list", &blobs, error))?.count {
        0 => Err(DirectoryError::NotMounted(directory.to_owned())),
        _ => Ok(false),
    }
}

fn read_marker(directory: &Path, node_id: NodeId) -> Result<Option<()>, DirectoryError> {
    let path = blobs_of(directory).join(MARKER_FILE);
    match std::fs::read_to_string(&path) {
        Ok(text) if text.trim_end() == node_id.to_string() => Ok(Some(())),
        Ok(text) => Err(DirectoryError::OtherBlobs {
            path: directory.to_owned(),
            node_id,
            found: text.trim_end().chars().take(80).collect(),
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("read", &path, error)),
    }
}

fn write_marker(directory: &Path, node_id: NodeId) -> Result<(), DirectoryError> {
    let path = blobs_of(directory).join(MARKER_FILE);
    write_whole(&path, format!("{node_id}\n").as_bytes()).map_err(|error| match error.kind() {
        io::ErrorKind::ReadOnlyFilesystem => DirectoryError::ReadOnly(directory.to_owned()),
        _ => failed("write", &path, error),
    })
}

/// Where the node of a directory was moved to, if it was.
pub(crate) fn moved_to(directory: &Path) -> Result<Option<String>, DirectoryError> {
    let path = directory.join(MOVED_FILE);
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text.trim_end().to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("read", &path, error)),
    }
}

/// Writes a small file whole or not at all, and durably.
pub(crate) fn write_whole(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut draft = path.as_os_str().to_owned();
    draft.push(".draft");
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&draft)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(&draft, path)?;
    sync_folder(path.parent().unwrap_or(path))
}

/// Makes the names in a folder durable.
pub(crate) fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// The free and total bytes of the file system under a path, for advice at setup. One that does not count has room.
pub fn file_system_bytes(path: &Path) -> io::Result<(u64, u64)> {
    let figures = rustix::fs::statvfs(path)?;
    if figures.f_blocks == 0 {
        return Ok((u64::MAX / 2, u64::MAX / 2));
    }
    Ok((
        figures.f_bavail * figures.f_frsize,
        figures.f_blocks * figures.f_frsize,
    ))
}

pub(crate) fn make_folder(path: &Path) -> Result<(), DirectoryError> {
    match DirBuilder::new().mode(0o700).recursive(true).create(path) {
        Ok(()) => Ok(()),
        Err(error) => Err(failed("create", path, error)),
    }
}

pub(crate) fn lock(directory: &Path) -> Result<File, DirectoryError> {
    let path = directory.join(LOCK_FILE);
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(|error| match error.kind() {
            io::ErrorKind::ReadOnlyFilesystem => DirectoryError::ReadOnly(directory.to_owned()),
            _ => failed("open", &path, error),
        })?;
    take_lock(directory, &file)?;
    Ok(file)
}

fn take_lock(directory: &Path, file: &File) -> Result<(), DirectoryError> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(DirectoryError::Locked(directory.to_owned())),
        Err(TryLockError::Error(error)) => Err(failed("lock", &directory.join(LOCK_FILE), error)),
    }
}

pub(crate) fn failed(what: &'static str, path: &Path, error: io::Error) -> DirectoryError {
    DirectoryError::Io {
        what,
        path: path.to_owned(),
        error,
    }
}

#[cfg(test)]
mod tests;
