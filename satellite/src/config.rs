//! A satellite's directory: settings, keys, store.
//!
//! `satellite.json` is written last and names the identity, so a directory without it was never
//! finished (setting up again goes on where it stopped) and one with another key beside it is not
//! whole. All of it is private to its owner.

use std::fs::{self, File};
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use strand_protocol::{NodeId, SatelliteKeys, Scheme};
use strand_transport::{Identity, IdentityError, read_secret, write_secret};

use crate::clock;
use crate::store::{OpenError, RedbStore};

/// The version of `satellite.json` that this program writes.
const VERSION: u32 = 1;

/// What `setup` is told.
#[derive(Clone, Debug)]
pub struct SetupOptions {
    /// Where the directory is made.
    pub dir: PathBuf,
    /// The UDP address to listen on; port 0 = any, a new one at each start.
    pub listen: SocketAddr,
    /// `host:port` under which nodes and clients reach it; `None` = found out.
    pub advertise: Option<String>,
    /// For every upload, in place of the one that the number of networks gives.
    pub scheme: Option<Scheme>,
}

/// Why a directory cannot be made or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DirectoryError {
    /// There is a satellite already.
    #[error("{} holds a satellite already", dir.display())]
    Exists {
        /// The directory.
        dir: PathBuf,
    },
    /// No settings file.
    #[error(
        "{} is not a satellite's directory: run `satellite setup --dir {}` first",
        dir.display(), dir.display()
    )]
    Missing {
        /// The directory.
        dir: PathBuf,
    },
    /// Written by a later release.
    #[error(
        "{} was written by a newer satellite (version {found}, this one knows {VERSION}): install \
         the newer version",
        path.display()
    )]
    Newer {
        /// The settings file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// The settings file does not parse.
    #[error("{} is damaged: {reason}", path.display())]
    Damaged {
        /// The settings file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The identity is not the one named in the settings.
    #[error("{} holds the key of {found}, not of {expected}, whose directory this is", path.display())]
    OtherIdentity {
        /// The key file.
        path: PathBuf,
        /// Whom the settings name.
        expected: Box<NodeId>,
        /// Whose key it is.
        found: Box<NodeId>,
    },
    /// An address that nobody can use.
    #[error("--advertise must be HOST:PORT, not '{advertise}'")]
    Advertise {
        /// As given.
        advertise: String,
    },
    /// A key file.
    #[error(transparent)]
    Key(#[from] IdentityError),
    /// The metadata store.
    #[error("{0}")]
    Store(String),
    /// The file system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// `satellite.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    version: u32,
    node_id: String,
    listen: SocketAddr,
    advertise: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    scheme: Option<String>,
}

/// An opened directory, its store still closed.
pub(crate) struct Directory {
    pub(crate) path: PathBuf,
    pub(crate) identity: Identity,
    pub(crate) keys: SatelliteKeys,
    pub(crate) listen: SocketAddr,
    pub(crate) advertise: String,
    pub(crate) scheme: Option<Scheme>,
    master_check: [u8; 32],
}

/// Makes a satellite's directory. Returns its node id and the address it will advertise.
///
/// # Errors
///
/// If there is a satellite in it already, or the file system refuses.
pub fn setup(options: &SetupOptions) -> Result<(NodeId, String), DirectoryError> {
    let dir = &options.dir;
    let advertise = match &options.advertise {
        Some(advertise) => check_address(advertise)?,
        None => default_advertise(options.listen),
    };
    let io = |source| DirectoryError::Io {
        path: dir.clone(),
        source,
    };
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(io)?;
    let path = settings_path(dir);
    if path.exists() {
        return Err(DirectoryError::Exists { dir: dir.clone() });
    }
    let identity = match Identity::create(&identity_path(dir)) {
        Err(IdentityError::Exists { path }) => Identity::load(&path)?,
        created => created?,
    };
    match write_secret(&master_path(dir), &clock::random_bytes::<32>()) {
        Ok(()) | Err(IdentityError::Exists { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    let master = read_secret::<32>(&master_path(dir))?;
    // The store holds the secrets of all macaroons: it is private before it has any.
    let store = store_path(dir);
    let private = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(&store);
    private.map_err(|source| DirectoryError::Io {
        path: store,
        source,
    })?;
    RedbStore::open(&store_path(dir), &master_check(&master), true).map_err(store_error)?;
    let settings = Settings {
        version: VERSION,
        node_id: identity.node_id().to_string(),
        listen: options.listen,
        advertise: advertise.clone(),
        scheme: options.scheme.map(|scheme| scheme.to_string()),
    };
    write_settings(&path, &settings).map_err(|source| DirectoryError::Io { path, source })?;
    Ok((identity.node_id(), advertise))
}

impl Directory {
    /// Reads settings and keys.
    pub(crate) fn open(dir: &Path) -> Result<Self, DirectoryError> {
        let settings = read_settings(dir)?;
        let path = settings_path(dir);
        let damaged = |reason: String| DirectoryError::Damaged {
            path: path.clone(),
            reason,
        };
        let expected: NodeId = settings
            .node_id
            .parse()
            .map_err(|error| damaged(format!("node_id: {error}")))?;
        let scheme = match &settings.scheme {
            None => None,
            Some(scheme) => Some(
                scheme
                    .parse()
                    .map_err(|error| damaged(format!("scheme: {error}")))?,
            ),
        };
        let identity = Identity::load(&identity_path(dir))?;
        let found = identity.node_id();
        if found != expected {
            return Err(DirectoryError::OtherIdentity {
                path: identity_path(dir),
                expected: Box::new(expected),
                found: Box::new(found),
            });
        }
        let master = read_secret::<32>(&master_path(dir))?;
        Ok(Self {
            path: dir.to_owned(),
            identity,
            keys: SatelliteKeys::new(*master),
            listen: settings.listen,
            advertise: settings.advertise,
            scheme,
            master_check: master_check(&master),
        })
    }

    /// Opens the metadata store. `OpenError::InUse` while another process has it.
    pub(crate) fn open_store(&self) -> Result<RedbStore, OpenError> {
        RedbStore::open(&store_path(&self.path), &self.master_check, false)
    }

    /// Bytes of the metadata store.
    pub(crate) fn store_bytes(&self) -> u64 {
        fs::metadata(store_path(&self.path)).map_or(0, |metadata| metadata.len())
    }
}

/// The admin socket of the running process.
pub(crate) fn socket_path(dir: &Path) -> PathBuf {
    dir.join("admin.sock")
}

fn settings_path(dir: &Path) -> PathBuf {
    dir.join("satellite.json")
}

fn identity_path(dir: &Path) -> PathBuf {
    dir.join("identity.key")
}

fn master_path(dir: &Path) -> PathBuf {
    dir.join("master.key")
}

fn store_path(dir: &Path) -> PathBuf {
    dir.join("meta.redb")
}

/// Ties a store to its master key without giving anything of the key away.
fn master_check(master: &[u8; 32]) -> [u8; 32] {
    blake3::derive_key("strand v1 master key check", master)
}

pub(crate) fn store_error(error: OpenError) -> DirectoryError {
    DirectoryError::Store(error.to_string())
}

fn read_settings(dir: &Path) -> Result<Settings, DirectoryError> {
    let path = settings_path(dir);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(DirectoryError::Missing {
                dir: dir.to_owned(),
            });
        }
        Err(source) if source.kind() == io::ErrorKind::InvalidData => {
            return Err(DirectoryError::Damaged {
                path,
                reason: source.to_string(),
            });
        }
        Err(source) => return Err(DirectoryError::Io { path, source }),
    };
    /// Of any version, later ones included.
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    let damaged = |error: serde_json::Error| DirectoryError::Damaged {
        path: path.clone(),
        reason: error.to_string(),
    };
    let Versioned { version } = serde_json::from_str(&text).map_err(damaged)?;
    if version > VERSION {
        return Err(DirectoryError::Newer {
            path,
            found: version,
        });
    }
    serde_json::from_str(&text).map_err(damaged)
}

/// All of it or nothing, durable: a new file takes its place by a rename.
fn write_settings(path: &Path, settings: &Settings) -> io::Result<()> {
    let mut text = serde_json::to_vec_pretty(settings)?;
    text.push(b'\n');
    let new = path.with_extension("json.new");
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)?;
    file.write_all(&text)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    match path.parent() {
        Some(dir) => File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

/// `host:port` with something on both sides.
fn check_address(advertise: &str) -> Result<String, DirectoryError> {
    let is_good = advertise.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty()
            && port.parse::<u16>().is_ok()
            && (!host.contains(':') || (host.starts_with('[') && host.ends_with(']')))
            && advertise.len() <= strand_protocol::limits::ADDRESS_BYTES_MAX
    });
    if is_good {
        Ok(advertise.to_owned())
    } else {
        Err(DirectoryError::Advertise {
            advertise: advertise.to_owned(),
        })
    }
}

/// The address listened on, or the one this machine would use to reach the internet.
fn default_advertise(listen: SocketAddr) -> String {
    if !listen.ip().is_unspecified() {
        return listen.to_string();
    }
    // Connecting a UDP socket asks the routing table and sends nothing. 192.0.2.1 is an address
    // for documentation (RFC 5737).
    let routed = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))
        .and_then(|socket| {
            socket
                .connect((Ipv4Addr::new(192, 0, 2, 1), 9))
                .map(|()| socket)
        })
        .and_then(|socket| socket.local_addr());
    let ip = routed.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |address| address.ip());
    SocketAddr::new(ip, listen.port()).to_string()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn options(dir: &Path) -> SetupOptions {
        SetupOptions {
            dir: dir.to_owned(),
            listen: "127.0.0.1:7777".parse().unwrap(),
            advertise: None,
            scheme: Some(Scheme::DEFAULT),
        }
    }

    fn open_error(dir: &Path) -> String {
        Directory::open(dir).map(drop).unwrap_err().to_string()
    }

    #[test]
    fn a_set_up_directory_opens_as_it_was_set_up() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("satellite");
        let (id, advertise) = setup(&options(&dir)).unwrap();
        assert_eq!(advertise, "127.0.0.1:7777");
        let opened = Directory::open(&dir).unwrap();
        assert_eq!(opened.identity.node_id(), id);
        assert_eq!(opened.scheme, Some(Scheme::DEFAULT));
        opened.open_store().unwrap();
        for path in [identity_path(&dir), master_path(&dir), store_path(&dir)] {
            let mode = fs::metadata(&path).unwrap().mode() & 0o7777;
            assert_eq!(mode, 0o600, "{}", path.display());
        }
        assert!(matches!(
            setup(&options(&dir)),
            Err(DirectoryError::Exists { .. })
        ));
    }

    #[test]
    fn an_interrupted_setup_goes_on_with_the_same_keys() {
        let dir = tempfile::tempdir().unwrap();
        let (id, _) = setup(&options(dir.path())).unwrap();
        let master = fs::read(master_path(dir.path())).unwrap();
        fs::remove_file(settings_path(dir.path())).unwrap();
        let (again, _) = setup(&options(dir.path())).unwrap();
        assert_eq!(again, id);
        assert_eq!(fs::read(master_path(dir.path())).unwrap(), master);
    }

    #[test]
    fn foreign_newer_and_damaged_directories_are_refused_in_a_sentence() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path();
        assert!(open_error(path).contains("satellite setup --dir"));
        setup(&options(path)).unwrap();
        let settings = fs::read_to_string(settings_path(path)).unwrap();
        fs::write(
            settings_path(path),
            settings.replace("\"version\": 1", "\"version\": 2, \"more\": 3"),
        )
        .unwrap();
        assert!(
            open_error(path).contains("newer satellite (version 2"),
            "{}",
            open_error(path)
        );
        fs::write(settings_path(path), "{").unwrap();
        assert!(
            open_error(path).contains("is damaged"),
            "{}",
            open_error(path)
        );
        fs::write(settings_path(path), settings).unwrap();
        let key = fs::read(identity_path(path)).unwrap();
        fs::remove_file(identity_path(path)).unwrap();
        let other = Identity::create(&identity_path(path)).unwrap();
        assert!(open_error(path).contains(&other.node_id().to_string()));
        fs::write(identity_path(path), key).unwrap();
        // Another satellite's master key beside this one's store.
        fs::remove_file(master_path(path)).unwrap();
        write_secret(&master_path(path), &[1; 32]).unwrap();
        let opened = Directory::open(path).unwrap();
        let error = opened.open_store().map(drop).unwrap_err();
        assert!(error.to_string().contains("another satellite"), "{error}");
    }

    #[test]
    fn a_file_that_is_no_store_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        setup(&options(dir.path())).unwrap();
        fs::write(store_path(dir.path()), vec![7; 10_000]).unwrap();
        let error = Directory::open(dir.path())
            .unwrap()
            .open_store()
            .map(drop)
            .unwrap_err();
        assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
    }

    #[test]
    fn a_store_is_opened_once_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        setup(&options(dir.path())).unwrap();
        let directory = Directory::open(dir.path()).unwrap();
        let first = directory.open_store().unwrap();
        assert!(matches!(
            directory.open_store(),
            Err(OpenError::InUse { .. })
        ));
        drop(first);
        directory.open_store().unwrap();
    }

    #[test]
    fn advertised_addresses_have_a_host_and_a_port() {
        for good in ["example.org:7777", "127.0.0.1:0", "[::1]:7777"] {
            assert!(check_address(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "example.org",
            ":7777",
            "a:b",
            "::1",
            "::1:7777",
            "host:70000",
        ] {
            assert!(check_address(bad).is_err(), "{bad}");
        }
    }
}
