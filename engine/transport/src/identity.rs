//! Identities: the Ed25519 key pair that makes a program a *node*, and the files that keep it.
//!
//! A key file is written once and never again: [`Identity::create`] refuses an existing path, the
//! mode is 0600 from the moment the file exists, and both the file and its directory are synced
//! before the call returns. [`write_secret`] and [`read_secret`] do the same for other secrets of
//! a program's directory. The file's bytes are frozen by docs/format.md, section 1.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;
use strand_protocol::NodeId;
use zeroize::Zeroizing;

use crate::tls;

/// The longest key file that is read. A PKCS#8 v2 document of an Ed25519 key pair has 83 bytes.
const KEY_FILE_BYTES_MAX: u64 = 1_024;

/// An Ed25519 key pair and the node id it stands for. Cloning shares the key.
#[derive(Clone)]
pub struct Identity {
    node_id: NodeId,
    certified: Arc<CertifiedKey>,
    pkcs8: Arc<Zeroizing<Vec<u8>>>,
}

/// Why a key or secret file could not be made or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// The path exists. Keys are never overwritten.
    #[error("{} exists already and is never overwritten", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// There is no such file.
    #[error("{} does not exist", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// Others may read the file.
    #[error(
        "{} can be read by others (mode {mode:04o}): run `chmod 600 {}`",
        path.display(), path.display()
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The bytes are not the PKCS#8 v2 document of an Ed25519 key pair.
    #[error("{} is not an Ed25519 key pair in PKCS#8 v2 form: it is damaged or foreign", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// A secret file of another length than asked for.
    #[error("{} has {found} bytes, not {expected}: it is damaged or foreign", path.display())]
    Length {
        /// The file.
        path: PathBuf,
        /// Bytes found.
        found: u64,
        /// Bytes wanted.
        expected: u64,
    },
    /// The file system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl Identity {
    /// A new key pair, in memory only.
    ///
    /// # Panics
    ///
    /// If the operating system has no randomness to give.
    pub fn generate() -> Self {
        let pair = Ed25519KeyPair::generate().expect("the operating system gives randomness");
        let document = pair.to_pkcs8().expect("a fresh key pair has an encoding");
        Self::from_pkcs8(document.as_ref()).expect("a fresh key pair parses")
    }

    /// Makes a new key pair and stores it at `path` (mode 0600), durable on return.
    ///
    /// # Errors
    ///
    /// [`IdentityError::Exists`] if there is anything at `path`; nothing is overwritten.
    pub fn create(path: &Path) -> Result<Self, IdentityError> {
        let identity = Self::generate();
        write_secret(path, &identity.pkcs8)?;
        Ok(identity)
    }

    /// Reads the key pair at `path`.
    ///
    /// # Errors
    ///
    /// If the file is missing, damaged, or readable by others.
    pub fn load(path: &Path) -> Result<Self, IdentityError> {
        let bytes = read_file(path, KEY_FILE_BYTES_MAX)?;
        Self::from_pkcs8(&bytes).ok_or_else(|| IdentityError::Damaged {
            path: path.to_owned(),
        })
    }

    /// The node id: what others call the holder of this key.
    pub fn node_id(&self) -> NodeId {
        self.node_id
    }

    /// The key as rustls presents it: the raw public key and its signer.
    pub(crate) fn certified(&self) -> Arc<CertifiedKey> {
        self.certified.clone()
    }

    /// `None` unless `bytes` are exactly one PKCS#8 v2 document of an Ed25519 pair.
    fn from_pkcs8(bytes: &[u8]) -> Option<Self> {
        let pair = Ed25519KeyPair::from_pkcs8(bytes).ok()?;
        // One encoding: what we would write for this pair, and nothing behind it.
        if pair.to_pkcs8().ok()?.as_ref() != bytes {
            return None;
        }
        let public_key = <[u8; 32]>::try_from(pair.public_key().as_ref()).ok()?;
        let signer =
            rustls::crypto::aws_lc_rs::sign::any_eddsa_type(&PrivatePkcs8KeyDer::from(bytes))
                .ok()?;
        let spki = CertificateDer::from(tls::spki_of_public_key(&public_key).to_vec());
        Some(Self {
            node_id: NodeId::of_public_key(&public_key),
            certified: Arc::new(CertifiedKey::new(vec![spki], signer)),
            pkcs8: Arc::new(Zeroizing::new(bytes.to_vec())),
        })
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity")
            .field("node_id", &self.node_id)
            .finish_non_exhaustive()
    }
}

/// Writes a new file of mode 0600 and syncs it and its directory.
///
/// # Errors
///
/// [`IdentityError::Exists`] if there is anything at `path`; nothing is overwritten.
pub fn write_secret(path: &Path, bytes: &[u8]) -> Result<(), IdentityError> {
    let failed = |source| IdentityError::Io {
        path: path.to_owned(),
        source,
    };
    let mut file = match OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
    {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            return Err(IdentityError::Exists {
                path: path.to_owned(),
            });
        }
        Err(error) => return Err(failed(error)),
    };
    let written = file
        .write_all(bytes)
        .and_then(|()| file.sync_all())
        .and_then(|()| {
            let directory = path
                .parent()
                .filter(|parent| !parent.as_os_str().is_empty());
            File::open(directory.unwrap_or_else(|| Path::new(".")))?.sync_all()
        });
    written.map_err(|error| {
        // Ours since `create_new`: a half-written key helps nobody and would block the next try.
        let _ = std::fs::remove_file(path);
        failed(error)
    })
}

/// Reads a secret of exactly `N` bytes.
///
/// # Errors
///
/// If the file is missing, of another length, or readable by others.
pub fn read_secret<const N: usize>(path: &Path) -> Result<Zeroizing<[u8; N]>, IdentityError> {
    let bytes = read_file(path, N as u64)?;
    match <[u8; N]>::try_from(bytes.as_slice()) {
        Ok(secret) => Ok(Zeroizing::new(secret)),
        Err(_) => Err(IdentityError::Length {
            path: path.to_owned(),
            found: bytes.len() as u64,
            expected: N as u64,
        }),
    }
}

/// At most `bytes_max + 1` bytes of the file, so that a longer one is seen to be longer.
fn read_file(path: &Path, bytes_max: u64) -> Result<Zeroizing<Vec<u8>>, IdentityError> {
    let failed = |source| IdentityError::Io {
        path: path.to_owned(),
        source,
    };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(IdentityError::Missing {
                path: path.to_owned(),
            });
        }
        Err(error) => return Err(failed(error)),
    };
    let mode = file.metadata().map_err(failed)?.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(IdentityError::Exposed {
            path: path.to_owned(),
            mode,
        });
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(bytes_max as usize + 1));
    file.take(bytes_max + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_created_key_loads_as_the_same_node() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("identity.key");
        let created = Identity::create(&path).unwrap();
        let loaded = Identity::load(&path).unwrap();
        assert_eq!(created.node_id(), loaded.node_id());
        assert_ne!(created.node_id(), Identity::generate().node_id());
    }

    #[test]
    fn a_key_file_is_private_and_never_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("identity.key");
        Identity::create(&path).unwrap();
        let before = std::fs::read(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        assert!(matches!(
            Identity::create(&path),
            Err(IdentityError::Exists { .. })
        ));
        assert_eq!(std::fs::read(&path).unwrap(), before);
        // PKCS#8 v2 (version 1 in the encoding) of RFC 8410: 83 bytes with the public key.
        assert_eq!(before.len(), 83);
        assert_eq!(before[..5], [0x30, 0x51, 0x02, 0x01, 0x01]);
    }

    #[test]
    fn an_exposed_key_file_is_refused_with_the_remedy() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("identity.key");
        Identity::create(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let error = Identity::load(&path).unwrap_err();
        assert!(matches!(error, IdentityError::Exposed { mode: 0o640, .. }));
        assert!(error.to_string().contains("chmod 600"), "{error}");
    }

    #[test]
    fn damaged_key_files_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("identity.key");
        Identity::create(&path).unwrap();
        let good = std::fs::read(&path).unwrap();
        let mut longer = good.clone();
        longer.push(0);
        let mut other_public_key = good.clone();
        *other_public_key.last_mut().unwrap() ^= 1;
        for bytes in [
            Vec::new(),
            good[..82].to_vec(),
            longer,
            other_public_key,
            vec![0; 4_096],
        ] {
            std::fs::write(&path, &bytes).unwrap();
            assert!(matches!(
                Identity::load(&path),
                Err(IdentityError::Damaged { .. })
            ));
        }
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(
            Identity::load(&path),
            Err(IdentityError::Missing { .. })
        ));
    }

    #[test]
    fn secrets_have_their_exact_length() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("master.key");
        write_secret(&path, &[7; 32]).unwrap();
        assert_eq!(*read_secret::<32>(&path).unwrap(), [7; 32]);
        assert!(matches!(
            read_secret::<31>(&path),
            Err(IdentityError::Length { .. })
        ));
        assert!(matches!(
            read_secret::<33>(&path),
            Err(IdentityError::Length { found: 32, .. })
        ));
    }
}
