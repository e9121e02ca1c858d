//! Invitations `SIN1` and access grants `SGR1`: one printable string each (docs/format.md, section
//! 5).
//!
//! The satellite prints an *invitation*: where it is, who it is, a root macaroon, the project's
//! salt. A client turns it with a passphrase into a *grant*: macaroon and keys, all it takes to use
//! the project or a part of it. A grant is narrowed offline: a macaroon with more caveats, and the
//! key of a prefix instead of the root key. Both are secrets.

use std::fmt;

use crate::id::{NodeId, ProjectId};
use crate::limits::{ADDRESS_BYTES_MAX, PROJECT_NAME_BYTES_MAX, STRUCTURE_BYTES_MAX};
use crate::macaroon::{Caveat, Macaroon, MacaroonError, Operations};
use crate::passphrase::{KdfParams, PassphraseError, RootKey};
use crate::path::{
    KeyError, Names, ObjectKey, PathKey, check_bucket_name, check_encrypted_len, encrypt_key,
    encrypt_prefix, fits_prefix, prefix_components,
};
use crate::tlv::text::{self, TextError};
use crate::tlv::{Field, Reader, TlvError, Writer, push_bytes8, push_bytes16};

const INVITATION_MAGIC: &[u8; 4] = b"SIN1";
const INVITATION_PREFIX: &str = "strand-invite1-";
const GRANT_MAGIC: &[u8; 4] = b"SGR1";
const GRANT_PREFIX: &str = "strand-grant1-";

const ADDRESS: u16 = 1;
const SATELLITE: u16 = 2;
const MACAROON: u16 = 3;
const SALT: u16 = 4;
const PROJECT: u16 = 5;
const PROJECT_NAME: u16 = 6;
const KDF: u16 = 6;
const KEYS: u16 = 7;
const ROOT: u16 = 8;

/// The epoch of path keys until they are rotated.
const EPOCH: u32 = 0;

/// Why text is no invitation or no grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// Another text, or a damaged one.
    #[error("{kind} {error}")]
    Text {
        /// "invitation" or "access grant".
        kind: &'static str,
        /// What is wrong with the text.
        error: TextError,
    },
    /// The check fits and the bytes are no such structure.
    #[error("{kind} {error}")]
    Structure {
        /// "invitation" or "access grant".
        kind: &'static str,
        /// What is wrong with the bytes.
        error: TlvError,
    },
    /// The macaroon in it is none.
    #[error("{kind} has a bad macaroon: {error}")]
    Macaroon {
        /// "invitation" or "access grant".
        kind: &'static str,
        /// What is wrong with the macaroon.
        error: MacaroonError,
    },
    /// Fields that do not belong together.
    #[error("{kind} has a macaroon of another project")]
    Project {
        /// "invitation" or "access grant".
        kind: &'static str,
    },
    /// Key derivation parameters out of bounds.
    #[error("access grant: {0}")]
    Kdf(PassphraseError),
    /// A grant that opens nothing.
    #[error("access grant has no key")]
    NoKey,
}

/// Why a grant gives no key, or cannot be narrowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GrantError {
    /// The passphrase, or the key derivation parameters.
    #[error(transparent)]
    Passphrase(#[from] PassphraseError),
    /// The name.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The caveats do not fit the macaroon.
    #[error(transparent)]
    Macaroon(#[from] MacaroonError),
    /// No key of this grant is above that name.
    #[error("access grant does not cover this bucket and key")]
    NotCovered,
    /// The key at hand was made for a bucket whose names are sealed (or plain), and the bucket's
    /// are not.
    #[error("access grant was made for a bucket with another name mode")]
    NameMode,
}

/// What a project's creator hands to its first client.
#[derive(Clone, PartialEq, Eq)]
pub struct Invitation {
    /// `host:port` of the satellite.
    pub address: String,
    /// Who must answer there.
    pub satellite: NodeId,
    /// Root macaroon of the project.
    pub macaroon: Macaroon,
    /// Salt of the project's root key.
    pub salt: [u8; 32],
    /// Project.
    pub project: ProjectId,
    /// Its name, for people.
    pub project_name: String,
}

/// The key of one prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantKey {
    /// Bucket.
    pub bucket: String,
    /// "" or ends with a slash.
    pub plain_prefix: String,
    /// The same as the satellite sees it.
    pub encrypted_prefix: Vec<u8>,
    /// Key of the prefix's last component; of the bucket for "".
    pub key: PathKey,
    /// Epoch of the bucket key that it derives from.
    pub epoch: u32,
}

/// All it takes to use a project, or a part of it.
#[derive(Clone, PartialEq, Eq)]
pub struct Grant {
    /// `host:port` of the satellite.
    pub address: String,
    /// Who must answer there.
    pub satellite: NodeId,
    /// What the satellite allows.
    pub macaroon: Macaroon,
    /// Salt of the project's root key.
    pub salt: [u8; 32],
    /// Project.
    pub project: ProjectId,
    /// How the root key was derived.
    pub params: KdfParams,
    /// Keys of prefixes.
    pub keys: Vec<GrantKey>,
    /// Opens everything; a narrowed grant has none.
    pub root: Option<RootKey>,
}

impl Invitation {
    /// `strand-invite1-` and the text of docs/format.md.
    ///
    /// # Panics
    ///
    /// If an address or a name is over its limit, or the macaroon is of another project: its
    /// maker's mistake.
    pub fn to_text(&self) -> String {
        assert!(
            is_address(&self.address) && is_project_name(&self.project_name),
            "{self:?}"
        );
        assert_eq!(self.macaroon.project(), self.project);
        let mut writer = Writer::new(INVITATION_MAGIC);
        writer
            .field(ADDRESS, self.address.as_bytes())
            .field(SATELLITE, self.satellite.as_bytes())
            .field(MACAROON, self.macaroon.as_bytes())
            .field(SALT, &self.salt)
            .field(PROJECT, self.project.as_bytes())
            .field(PROJECT_NAME, self.project_name.as_bytes());
        let bytes = zeroize::Zeroizing::new(writer.finish());
        text::encode(INVITATION_PREFIX, &bytes)
    }

    /// Reads a printed invitation. White space around it is ignored.
    ///
    /// # Errors
    ///
    /// A [`TokenError`] that says what is wrong.
    pub fn from_text(text: &str) -> Result<Self, TokenError> {
        let kind = "invitation";
        let bytes = text::decode(INVITATION_PREFIX, text)
            .map_err(|error| TokenError::Text { kind, error })?;
        let structure = |error| TokenError::Structure { kind, error };
        let mut reader =
            Reader::new(&bytes, INVITATION_MAGIC, STRUCTURE_BYTES_MAX).map_err(structure)?;
        let head = Head::read(&mut reader, kind)?;
        let name = reader.required(PROJECT_NAME).map_err(structure)?;
        let project_name = name.text().map_err(structure)?.to_owned();
        if !is_project_name(&project_name) {
            return Err(structure(name.bad_value()));
        }
        reader.finish().map_err(structure)?;
        let Head {
            address,
            satellite,
            macaroon,
            salt,
            project,
        } = head;
        Ok(Self {
            address,
            satellite,
            macaroon,
            salt,
            project,
            project_name,
        })
    }
}

impl Grant {
    /// The first grant of whoever knows the passphrase. Takes some tenths of a second.
    ///
    /// # Errors
    ///
    /// [`GrantError::Passphrase`].
    pub fn from_invitation(
        invitation: &Invitation,
        passphrase: &str,
        params: KdfParams,
    ) -> Result<Self, GrantError> {
        let root = RootKey::derive(passphrase, &invitation.salt, params)?;
        Ok(Self {
            address: invitation.address.clone(),
            satellite: invitation.satellite,
            macaroon: invitation.macaroon.clone(),
            salt: invitation.salt,
            project: invitation.project,
            params,
            keys: Vec::new(),
            root: Some(root),
        })
    }

    /// The encrypted form of an object's key, and the key of its last component. The longest prefix
    /// that fits is used.
    ///
    /// # Errors
    ///
    /// [`GrantError::NotCovered`], [`GrantError::NameMode`], [`GrantError::Key`].
    pub fn path_key(
        &self,
        bucket: &str,
        names: Names,
        key: &ObjectKey,
    ) -> Result<(Vec<u8>, PathKey), GrantError> {
        let start = self.start(bucket, names, key.as_str())?;
        let rest = start.rest(key.as_str());
        // An object named as the prefix itself, slash included, has one more component, which is
        // empty.
        let (encrypted, path_key) = if rest.is_empty() {
            start.below_empty(names)?
        } else {
            encrypt_key(&start.key, names, &ObjectKey::parse(rest)?)?
        };
        start
            .join(encrypted, key.as_str().len())
            .map(|encrypted| (encrypted, path_key))
    }

    /// The encrypted form of a prefix ("" or ending with a slash), and the key that opens what lies
    /// below it.
    ///
    /// # Errors
    ///
    /// As [`Grant::path_key`].
    pub fn list_prefix(
        &self,
        bucket: &str,
        names: Names,
        plain_prefix: &str,
    ) -> Result<(Vec<u8>, PathKey), GrantError> {
        prefix_components(plain_prefix)?;
        let start = self.start(bucket, names, plain_prefix)?;
        let (encrypted, path_key) = encrypt_prefix(&start.key, names, start.rest(plain_prefix))?;
        start
            .join(encrypted, plain_prefix.len())
            .map(|encrypted| (encrypted, path_key))
    }

    /// A grant for one prefix ("" for a whole bucket) and these operations, perhaps with an end.
    /// Made without the satellite.
    ///
    /// Revoking it later does not take back the keys of objects that its holder has read.
    ///
    /// # Errors
    ///
    /// As [`Grant::path_key`], and [`GrantError::Macaroon`] if the macaroon is full.
    pub fn restrict(
        &self,
        bucket: &str,
        names: Names,
        plain_prefix: &str,
        operations: Operations,
        not_after_ms: Option<u64>,
    ) -> Result<Self, GrantError> {
        let epoch = self.start(bucket, names, plain_prefix)?.epoch;
        let (encrypted_prefix, key) = self.list_prefix(bucket, names, plain_prefix)?;
        let place = if plain_prefix.is_empty() {
            Caveat::Buckets(vec![bucket.to_owned()])
        } else {
            Caveat::Prefixes(vec![(bucket.to_owned(), encrypted_prefix.clone())])
        };
        let mut macaroon = self
            .macaroon
            .attenuate(&place)?
            .attenuate(&Caveat::Operations(operations))?;
        if let Some(ms) = not_after_ms {
            macaroon = macaroon.attenuate(&Caveat::NotAfter(ms))?;
        }
        let key = GrantKey {
            bucket: bucket.to_owned(),
            plain_prefix: plain_prefix.to_owned(),
            encrypted_prefix,
            key,
            epoch,
        };
        Ok(Self {
            address: self.address.clone(),
            satellite: self.satellite,
            macaroon,
            salt: self.salt,
            project: self.project,
            params: self.params,
            keys: vec![key],
            root: None,
        })
    }

    /// `strand-grant1-` and the text of docs/format.md.
    ///
    /// # Panics
    ///
    /// If an address or a key's bucket is over its limit, or the macaroon is of another project:
    /// its maker's mistake.
    pub fn to_text(&self) -> String {
        assert!(is_address(&self.address), "{self:?}");
        assert_eq!(self.macaroon.project(), self.project);
        let KdfParams {
            passes,
            memory_kib,
            lanes,
        } = self.params;
        let params = [passes, memory_kib, lanes].map(u32::to_le_bytes).concat();
        let mut keys = zeroize::Zeroizing::new(Vec::new());
        for key in &self.keys {
            push_bytes8(&mut keys, key.bucket.as_bytes());
            push_bytes16(&mut keys, key.plain_prefix.as_bytes());
            push_bytes16(&mut keys, &key.encrypted_prefix);
            keys.extend_from_slice(key.key.as_bytes());
            keys.extend_from_slice(&key.epoch.to_le_bytes());
        }
        let mut writer = Writer::new(GRANT_MAGIC);
        writer
            .field(ADDRESS, self.address.as_bytes())
            .field(SATELLITE, self.satellite.as_bytes())
            .field(MACAROON, self.macaroon.as_bytes())
            .field(SALT, &self.salt)
            .field(PROJECT, self.project.as_bytes())
            .field(KDF, &params)
            .field(KEYS, &keys);
        if let Some(root) = &self.root {
            writer.field(ROOT, root.as_bytes());
        }
        let bytes = zeroize::Zeroizing::new(writer.finish());
        text::encode(GRANT_PREFIX, &bytes)
    }

    /// Reads a printed grant. White space around it is ignored.
    ///
    /// # Errors
    ///
    /// A [`TokenError`] that says what is wrong.
    pub fn from_text(text: &str) -> Result<Self, TokenError> {
        let kind = "access grant";
        let bytes =
            text::decode(GRANT_PREFIX, text).map_err(|error| TokenError::Text { kind, error })?;
        let structure = |error| TokenError::Structure { kind, error };
        let mut reader =
            Reader::new(&bytes, GRANT_MAGIC, STRUCTURE_BYTES_MAX).map_err(structure)?;
        let Head {
            address,
            satellite,
            macaroon,
            salt,
            project,
        } = Head::read(&mut reader, kind)?;
        let params = reader
            .required(KDF)
            .and_then(decode_params)
            .map_err(structure)?;
        params.check().map_err(TokenError::Kdf)?;
        let keys = reader
            .required(KEYS)
            .and_then(decode_keys)
            .map_err(structure)?;
        let root = reader.optional(ROOT).map_err(structure)?;
        let root = root
            .map(|field| field.array().map(|bytes| RootKey::from(*bytes)))
            .transpose();
        let root = root.map_err(structure)?;
        reader.finish().map_err(structure)?;
        if keys.is_empty() && root.is_none() {
            return Err(TokenError::NoKey);
        }
        Ok(Self {
            address,
            satellite,
            macaroon,
            salt,
            project,
            params,
            keys,
            root,
        })
    }

    /// The longest prefix that is above this name and that we have a key of.
    fn start(&self, bucket: &str, names: Names, plain: &str) -> Result<Start, GrantError> {
        check_bucket_name(bucket)?;
        let above = self
            .keys
            .iter()
            .filter(|key| key.bucket == bucket && plain.starts_with(&key.plain_prefix));
        if let Some(key) = above.max_by_key(|key| key.plain_prefix.len()) {
            if !fits_prefix(names, &key.plain_prefix, &key.encrypted_prefix) {
                return Err(GrantError::NameMode);
            }
            return Ok(Start {
                plain_len: key.plain_prefix.len(),
                encrypted: key.encrypted_prefix.clone(),
                key: key.key.clone(),
                epoch: key.epoch,
            });
        }
        let root = self.root.as_ref().ok_or(GrantError::NotCovered)?;
        let key = root.bucket_key(bucket, EPOCH);
        Ok(Start {
            plain_len: 0,
            encrypted: Vec::new(),
            key,
            epoch: EPOCH,
        })
    }
}

/// Where the walk down a path begins.
struct Start {
    plain_len: usize,
    encrypted: Vec<u8>,
    key: PathKey,
    epoch: u32,
}

impl Start {
    fn rest<'a>(&self, plain: &'a str) -> &'a str {
        &plain[self.plain_len..]
    }

    /// One empty component below this prefix; below a bucket there is no such key.
    fn below_empty(&self, names: Names) -> Result<(Vec<u8>, PathKey), GrantError> {
        if self.plain_len == 0 {
            return Err(KeyError::Empty.into());
        }
        // The component's encrypted form is that of the prefix "/" below; a plain name adds no
        // byte.
        let (encrypted, key) = encrypt_prefix(&self.key, names, "/")?;
        let encrypted = if names == Names::Plain {
            Vec::new()
        } else {
            encrypted
        };
        Ok((encrypted, key))
    }

    fn join(self, below: Vec<u8>, plain_len: usize) -> Result<Vec<u8>, GrantError> {
        let mut encrypted = self.encrypted;
        encrypted.extend_from_slice(&below);
        check_encrypted_len(plain_len, encrypted.len())?;
        Ok(encrypted)
    }
}

/// The fields that invitation and grant begin with.
struct Head {
    address: String,
    satellite: NodeId,
    macaroon: Macaroon,
    salt: [u8; 32],
    project: ProjectId,
}

impl Head {
    fn read(reader: &mut Reader<'_>, kind: &'static str) -> Result<Self, TokenError> {
        let structure = |error| TokenError::Structure { kind, error };
        let mut field = |number| reader.required(number).map_err(structure);
        let address = field(ADDRESS)?;
        let satellite = field(SATELLITE)?.array::<32>().map_err(structure)?;
        let macaroon = field(MACAROON)?.value;
        let salt = *field(SALT)?.array::<32>().map_err(structure)?;
        let project = ProjectId::from(*field(PROJECT)?.array::<16>().map_err(structure)?);
        let text = address.text().map_err(structure)?;
        if !is_address(text) {
            return Err(structure(address.bad_value()));
        }
        let macaroon =
            Macaroon::parse(macaroon).map_err(|error| TokenError::Macaroon { kind, error })?;
        if macaroon.project() != project {
            return Err(TokenError::Project { kind });
        }
        Ok(Self {
            address: text.to_owned(),
            satellite: (*satellite).into(),
            macaroon,
            salt,
            project,
        })
    }
}

fn decode_params(field: Field<'_>) -> Result<KdfParams, TlvError> {
    field.array::<12>()?;
    let mut items = field.items();
    Ok(KdfParams {
        passes: items.u32()?,
        memory_kib: items.u32()?,
        lanes: items.u32()?,
    })
}

fn decode_keys(field: Field<'_>) -> Result<Vec<GrantKey>, TlvError> {
    let mut items = field.items();
    let mut keys = Vec::new();
    while !items.is_empty() {
        let bucket = items.bytes8()?;
        let plain_prefix = items.bytes16()?;
        let key = GrantKey {
            bucket: items.text(bucket)?.to_owned(),
            plain_prefix: items.text(plain_prefix)?.to_owned(),
            encrypted_prefix: items.bytes16()?.to_vec(),
            key: PathKey::from(*items.array::<32>()?),
            epoch: items.u32()?,
        };
        let fits = |names| fits_prefix(names, &key.plain_prefix, &key.encrypted_prefix);
        if check_bucket_name(&key.bucket).is_err() || !(fits(Names::Sealed) || fits(Names::Plain)) {
            return Err(field.bad_value());
        }
        keys.push(key);
    }
    Ok(keys)
}

/// `host:port`, without a say about the host.
fn is_address(address: &str) -> bool {
    let Some((host, port)) = address.rsplit_once(':') else {
        return false;
    };
    let is_port = port.bytes().all(|byte| byte.is_ascii_digit())
        && port.parse::<u16>().is_ok_and(|port| port != 0);
    let is_host = !host.is_empty() && host.chars().all(|c| c.is_ascii_graphic());
    is_port && is_host && address.len() <= ADDRESS_BYTES_MAX
}

fn is_project_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= PROJECT_NAME_BYTES_MAX && !name.chars().any(char::is_control)
}

impl fmt::Debug for Invitation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Invitation")
            .field("address", &self.address)
            .field("satellite", &self.satellite)
            .field("project", &self.project)
            .field("project_name", &self.project_name)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grant")
            .field("address", &self.address)
            .field("satellite", &self.satellite)
            .field("project", &self.project)
            .field("keys", &self.keys)
            .field("root", &self.root)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
