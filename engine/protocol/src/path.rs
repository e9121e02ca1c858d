//! The path cipher: what names become before the satellite sees them (docs/format.md, section 2).
//!
//! A key is split at every `/`; each component is sealed with AES-SIV under its parent's key, so
//! equal names under one parent are equal, which listing needs, and equal names under different
//! parents are unrelated. Whoever has the key of a component can open what lies below it and
//! nothing else. A bucket says at its creation whether names are sealed or plain; keys are derived
//! along the components all the same.
//!
//! There is one canonical form of a key: its bytes. Nothing is trimmed, folded or normalised.

use std::fmt;
use std::str::FromStr;

pub use crate::passphrase::{KdfParams, PassphraseError, RootKey};

use crate::cipher::{expand, secret_keys, siv_open, siv_seal};
use crate::limits::{
    BUCKET_NAME_BYTES_MAX, BUCKET_NAME_BYTES_MIN, ENCRYPTED_KEY_BYTES_MAX, OBJECT_KEY_BYTES_MAX,
    SEALED_COMPONENT_OVERHEAD_BYTES, SIV_BYTES,
};
use crate::pb;

/// What a bucket's satellite sees of its names. Chosen when the bucket is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Names {
    /// Each component sealed.
    #[default]
    Sealed,
    /// The key itself: S3 listing order.
    Plain,
}

/// Why a name is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// A key of no bytes.
    #[error("object key is empty")]
    Empty,
    /// U+0000 in a key.
    #[error("object key has U+0000 at byte {position}")]
    Nul {
        /// Byte position.
        position: usize,
    },
    /// The key itself is over its limit.
    #[error(
        "object key of {len} bytes is too long: at most {OBJECT_KEY_BYTES_MAX} bytes, \
         and at most {ENCRYPTED_KEY_BYTES_MAX} bytes encrypted, whichever is met first"
    )]
    TooLong {
        /// Bytes of the key.
        len: usize,
    },
    /// The key is not over its limit, but it has so many components that its encrypted form is.
    #[error(
        "object key of {len} bytes takes {encrypted_len} bytes encrypted and is too long: \
         at most {OBJECT_KEY_BYTES_MAX} bytes, \
         and at most {ENCRYPTED_KEY_BYTES_MAX} bytes encrypted, whichever is met first"
    )]
    EncryptedTooLong {
        /// Bytes of the key.
        len: usize,
        /// Bytes that it takes encrypted.
        encrypted_len: usize,
    },
    /// A prefix that ends inside a component.
    #[error("prefix must be empty or end with a slash")]
    PrefixNotWhole,
    /// Encrypted bytes that are no list of components, or plain ones that are no key.
    #[error("encrypted key is malformed")]
    Malformed,
    /// The key at hand does not open these bytes.
    #[error("encrypted key does not open with the key at hand")]
    Sealed,
    /// Not a bucket name.
    #[error(
        "bucket name must have {BUCKET_NAME_BYTES_MIN} to {BUCKET_NAME_BYTES_MAX} \
         characters of a-z, 0-9, '-' and '.', \
         the first and the last a letter or digit"
    )]
    BucketName,
}

/// The name of an object as its user gives it: 1 to 1,280 bytes of UTF-8 without U+0000.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey(String);

impl ObjectKey {
    /// Checks the rules; changes nothing.
    ///
    /// # Errors
    ///
    /// [`KeyError::Empty`], [`KeyError::Nul`], [`KeyError::TooLong`].
    pub fn parse(key: &str) -> Result<Self, KeyError> {
        if key.is_empty() {
            return Err(KeyError::Empty);
        }
        check_plain(key)?;
        Ok(Self(key.to_owned()))
    }

    /// The key as given.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What lies between the slashes; components may be empty.
    pub fn components(&self) -> impl Iterator<Item = &str> {
        self.0.split('/')
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ObjectKey {
    type Err = KeyError;

    fn from_str(key: &str) -> Result<Self, KeyError> {
        Self::parse(key)
    }
}

secret_keys! {
    /// The key of a bucket or of one component of a path. Opens everything below it.
    PathKey(32);
}

impl PathKey {
    /// The key of the component `component` below this one.
    pub fn child(&self, component: &[u8]) -> Self {
        Self::from(expand(&self.0, &[b"strand v1 child", component]))
    }

    /// `SIV(name key; ; component)`.
    fn seal_name(&self, component: &[u8]) -> Vec<u8> {
        let key = expand(&self.0, &[b"strand v1 name"]);
        siv_seal(&key, &[], component)
    }

    fn open_name(&self, sealed: &[u8]) -> Result<String, KeyError> {
        let key = expand(&self.0, &[b"strand v1 name"]);
        let name = siv_open(&key, &[], sealed).ok_or(KeyError::Sealed)?;
        // The satellite cannot forge a name; a holder of the parent's key can seal bytes that are
        // no component.
        let name = str::from_utf8(&name).map_err(|_| KeyError::Malformed)?;
        if name.contains(['/', '\0']) {
            Err(KeyError::Malformed)
        } else {
            Ok(name.to_owned())
        }
    }

    /// The key that seals the header of the object whose last component has this key.
    pub(crate) fn header_key(&self) -> zeroize::Zeroizing<[u8; 64]> {
        expand(&self.0, &[b"strand v1 header"])
    }
}

/// The encrypted form of a key, and the key of its last component, under which its header is
/// sealed.
///
/// `bucket` may be the key of a prefix, and `key` what lies below it: then so is the answer.
///
/// # Errors
///
/// [`KeyError::EncryptedTooLong`].
pub fn encrypt_key(
    bucket: &PathKey,
    names: Names,
    key: &ObjectKey,
) -> Result<(Vec<u8>, PathKey), KeyError> {
    encrypt_components(bucket, names, key.as_str(), Some(key.as_str()))
}

/// The encrypted form of a prefix, and the key of its last component; of nothing for "".
///
/// # Errors
///
/// [`KeyError::PrefixNotWhole`] for a prefix that is neither empty nor ends with a slash, and the
/// errors of a key.
pub fn encrypt_prefix(
    bucket: &PathKey,
    names: Names,
    plain_prefix: &str,
) -> Result<(Vec<u8>, PathKey), KeyError> {
    let components = prefix_components(plain_prefix)?;
    encrypt_components(bucket, names, plain_prefix, components)
}

/// The plain key below the prefix that `from` is the key of; with a bucket's key, the whole plain
/// key.
///
/// # Errors
///
/// [`KeyError::Sealed`] if `from` is another prefix's key; [`KeyError::Malformed`].
pub fn decrypt_key(from: &PathKey, names: Names, encrypted: &[u8]) -> Result<String, KeyError> {
    match names {
        Names::Plain => plain_text(encrypted).map(str::to_owned),
        Names::Sealed => decrypt_components(from, encrypted),
    }
}

/// The plain prefix below the prefix that `from` is the key of, with its slash at the end: what a
/// folded list entry shows.
///
/// # Errors
///
/// As [`decrypt_key`]; [`KeyError::PrefixNotWhole`] for plain bytes without the slash.
pub fn decrypt_prefix(from: &PathKey, names: Names, encrypted: &[u8]) -> Result<String, KeyError> {
    match names {
        Names::Plain => {
            let prefix = plain_text(encrypted)?;
            prefix_components(prefix)?;
            Ok(prefix.to_owned())
        }
        Names::Sealed if encrypted.is_empty() => Ok(String::new()),
        Names::Sealed => decrypt_components(from, encrypted).map(|key| key + "/"),
    }
}

/// Length of the first component of `rest`, with its separator if one follows: what a listing with
/// a delimiter folds.
///
/// If that is all of `rest`, and it does not end with a plain name's separator, the entry is an
/// object and not a prefix.
///
/// # Errors
///
/// [`KeyError::Malformed`] if `rest` does not begin with a whole component.
pub fn first_component_len(names: Names, rest: &[u8]) -> Result<usize, KeyError> {
    match names {
        Names::Plain => Ok(rest
            .iter()
            .position(|byte| *byte == b'/')
            .map_or(rest.len(), |slash| slash + 1)),
        Names::Sealed => {
            let (len, after) = rest.split_first_chunk().ok_or(KeyError::Malformed)?;
            let len = usize::from(u16::from_le_bytes(*len));
            if len < SIV_BYTES || len > after.len() {
                return Err(KeyError::Malformed);
            }
            Ok(2 + len)
        }
    }
}

/// Whether these bytes can be the encrypted key of an object. What a satellite can check without a
/// key.
///
/// # Errors
///
/// [`KeyError::Empty`], [`KeyError::EncryptedTooLong`], [`KeyError::TooLong`], [`KeyError::Nul`],
/// [`KeyError::Malformed`].
pub fn check_encrypted_key(names: Names, encrypted: &[u8]) -> Result<(), KeyError> {
    if encrypted.is_empty() {
        return Err(KeyError::Empty);
    }
    check_encrypted(names, encrypted)
}

/// Whether these bytes can be an encrypted prefix: whole components, or nothing.
///
/// # Errors
///
/// As [`check_encrypted_key`], and [`KeyError::PrefixNotWhole`].
pub fn check_encrypted_prefix(names: Names, encrypted: &[u8]) -> Result<(), KeyError> {
    check_encrypted(names, encrypted)?;
    if names == Names::Plain {
        prefix_components(plain_text(encrypted)?).map(drop)
    } else {
        Ok(())
    }
}

/// Whether this can be the name of a bucket.
///
/// # Errors
///
/// [`KeyError::BucketName`].
pub fn check_bucket_name(name: &str) -> Result<(), KeyError> {
    let is_inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let (Some(first), Some(last)) = (name.bytes().next(), name.bytes().last()) else {
        return Err(KeyError::BucketName);
    };
    let is_good = (BUCKET_NAME_BYTES_MIN..=BUCKET_NAME_BYTES_MAX).contains(&name.len())
        && name
            .bytes()
            .all(|byte| is_inner(byte) || byte == b'-' || byte == b'.')
        && is_inner(first)
        && is_inner(last);
    if is_good {
        Ok(())
    } else {
        Err(KeyError::BucketName)
    }
}

/// A prefix without its last slash, which is its components with slashes between them; `None` for
/// no components.
pub(crate) fn prefix_components(plain_prefix: &str) -> Result<Option<&str>, KeyError> {
    check_plain(plain_prefix)?;
    if plain_prefix.is_empty() {
        return Ok(None);
    }
    plain_prefix
        .strip_suffix('/')
        .map(Some)
        .ok_or(KeyError::PrefixNotWhole)
}

/// Whether this is the encrypted form of this prefix, as far as lengths tell.
pub(crate) fn fits_prefix(names: Names, plain_prefix: &str, encrypted: &[u8]) -> bool {
    let Ok(components) = prefix_components(plain_prefix) else {
        return false;
    };
    if names == Names::Plain {
        return plain_prefix.as_bytes() == encrypted;
    }
    let mut rest = encrypted;
    for component in components
        .iter()
        .flat_map(|components| components.split('/'))
    {
        let expected = SEALED_COMPONENT_OVERHEAD_BYTES + component.len();
        if first_component_len(names, rest) != Ok(expected) {
            return false;
        }
        rest = &rest[expected..];
    }
    rest.is_empty()
}

fn encrypt_components(
    from: &PathKey,
    names: Names,
    plain: &str,
    components: Option<&str>,
) -> Result<(Vec<u8>, PathKey), KeyError> {
    let mut key = from.clone();
    let mut sealed = Vec::new();
    for component in components
        .iter()
        .flat_map(|components| components.split('/'))
    {
        if names == Names::Sealed {
            crate::tlv::push_bytes16(&mut sealed, &key.seal_name(component.as_bytes()));
        }
        key = key.child(component.as_bytes());
    }
    let encrypted = match names {
        Names::Sealed => sealed,
        Names::Plain => plain.as_bytes().to_vec(),
    };
    check_encrypted_len(plain.len(), encrypted.len())?;
    Ok((encrypted, key))
}

/// # Errors
///
/// [`KeyError::EncryptedTooLong`].
pub(crate) fn check_encrypted_len(len: usize, encrypted_len: usize) -> Result<(), KeyError> {
    if encrypted_len > ENCRYPTED_KEY_BYTES_MAX {
        return Err(KeyError::EncryptedTooLong { len, encrypted_len });
    }
    Ok(())
}

fn decrypt_components(from: &PathKey, encrypted: &[u8]) -> Result<String, KeyError> {
    if encrypted.is_empty() || encrypted.len() > ENCRYPTED_KEY_BYTES_MAX {
        return Err(KeyError::Malformed);
    }
    let (mut key, mut rest, mut plain) = (from.clone(), encrypted, String::new());
    while !rest.is_empty() {
        let len = first_component_len(Names::Sealed, rest)?;
        let component = key.open_name(&rest[2..len])?;
        key = key.child(component.as_bytes());
        if rest.len() < encrypted.len() {
            plain.push('/');
        }
        plain.push_str(&component);
        rest = &rest[len..];
    }
    Ok(plain)
}

fn check_encrypted(names: Names, encrypted: &[u8]) -> Result<(), KeyError> {
    match names {
        Names::Plain => plain_text(encrypted).map(drop),
        Names::Sealed => {
            check_encrypted_len(0, encrypted.len())?;
            let mut rest = encrypted;
            while !rest.is_empty() {
                rest = &rest[first_component_len(names, rest)?..];
            }
            Ok(())
        }
    }
}

fn plain_text(bytes: &[u8]) -> Result<&str, KeyError> {
    let text = str::from_utf8(bytes).map_err(|_| KeyError::Malformed)?;
    check_plain(text)?;
    Ok(text)
}

fn check_plain(text: &str) -> Result<(), KeyError> {
    if text.len() > OBJECT_KEY_BYTES_MAX {
        return Err(KeyError::TooLong { len: text.len() });
    }
    match text.find('\0') {
        Some(position) => Err(KeyError::Nul { position }),
        None => Ok(()),
    }
}

impl From<pb::NameMode> for Names {
    fn from(mode: pb::NameMode) -> Self {
        match mode {
            pb::NameMode::Sealed => Self::Sealed,
            pb::NameMode::Plain => Self::Plain,
        }
    }
}

impl From<Names> for pb::NameMode {
    fn from(names: Names) -> Self {
        match names {
            Names::Sealed => Self::Sealed,
            Names::Plain => Self::Plain,
        }
    }
}

#[cfg(test)]
mod tests;
