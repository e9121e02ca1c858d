//! What a caveat says, and its one encoding.

use std::ops::BitOr;

use super::authority::Operation;
use crate::limits::ENCRYPTED_KEY_BYTES_MAX;
use crate::path::{Names, check_bucket_name, check_encrypted_prefix, first_component_len};
use crate::tlv::{Field, TlvError, push_bytes8, push_bytes16};

const OPERATIONS: u16 = 2;
const NOT_BEFORE: u16 = 3;
const NOT_AFTER: u16 = 4;
const BUCKETS: u16 = 5;
const PREFIXES: u16 = 6;
const MAX_OBJECT_TTL: u16 = 7;
const NONCE: u16 = 8;

/// A set of operations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Operations(u8);

impl Operations {
    /// None: a macaroon that may only say that it exists.
    pub const NONE: Self = Self(0);
    /// Get objects and segments.
    pub const READ: Self = Self(1);
    /// Make buckets and objects.
    pub const WRITE: Self = Self(2);
    /// List buckets and objects.
    pub const LIST: Self = Self(4);
    /// Delete buckets and objects.
    pub const DELETE: Self = Self(8);
    /// All of them.
    pub const ALL: Self = Self(15);

    /// The set with these bits, if all of them are known.
    pub fn from_bits(bits: u8) -> Option<Self> {
        (bits & !Self::ALL.0 == 0).then_some(Self(bits))
    }

    /// As docs/format.md writes it: 1 read, 2 write, 4 list, 8 delete.
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// Whether this operation is in the set. [`Operation::Any`] is in every set.
    pub const fn contains(self, operation: Operation) -> bool {
        let bit = match operation {
            Operation::Any => return true,
            Operation::Read => Self::READ,
            Operation::Write => Self::WRITE,
            Operation::List => Self::LIST,
            Operation::Delete => Self::DELETE,
        };
        self.0 & bit.0 != 0
    }
}

impl BitOr for Operations {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// One narrowing of a macaroon. Authority is what all caveats allow.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Caveat {
    /// Only these operations.
    Operations(Operations),
    /// Not before this time, milliseconds since 1970.
    NotBefore(u64),
    /// Not after this time, milliseconds since 1970.
    NotAfter(u64),
    /// Only these buckets. At least one; written in ascending order.
    Buckets(Vec<String>),
    /// Only below one of these (bucket, encrypted prefix). At least one; written in ascending
    /// order. A prefix is whole encrypted components; an empty one is the whole bucket. With sealed
    /// names, an object whose whole key is the prefix's components is covered too: that is how one
    /// object is shared.
    Prefixes(Vec<(String, Vec<u8>)>),
    /// Objects must expire at most so many milliseconds after they are written.
    MaxObjectTtl(u64),
    /// Says nothing: makes two macaroons differ, so that one of them can be revoked.
    Nonce([u8; 16]),
}

impl Caveat {
    /// Type and value. Lists are sorted and freed of repeats, so there is one encoding.
    pub(crate) fn encode(&self) -> Result<(u16, Vec<u8>), TlvError> {
        let (kind, value) = match self {
            Self::Operations(operations) => (OPERATIONS, vec![operations.bits()]),
            Self::NotBefore(ms) => (NOT_BEFORE, ms.to_le_bytes().to_vec()),
            Self::NotAfter(ms) => (NOT_AFTER, ms.to_le_bytes().to_vec()),
            Self::Buckets(buckets) => (BUCKETS, encode_buckets(buckets)?),
            Self::Prefixes(prefixes) => (PREFIXES, encode_prefixes(prefixes)?),
            Self::MaxObjectTtl(ms) => (MAX_OBJECT_TTL, ms.to_le_bytes().to_vec()),
            Self::Nonce(nonce) => (NONCE, nonce.to_vec()),
        };
        Ok((kind, value))
    }

    /// Reads a caveat field.
    pub(crate) fn decode(field: Field<'_>) -> Result<Self, TlvError> {
        Ok(match field.kind {
            OPERATIONS => Self::Operations(
                Operations::from_bits(field.u8()?).ok_or_else(|| field.bad_value())?,
            ),
            NOT_BEFORE => Self::NotBefore(field.u64()?),
            NOT_AFTER => Self::NotAfter(field.u64()?),
            BUCKETS => Self::Buckets(decode_buckets(field)?),
            PREFIXES => Self::Prefixes(decode_prefixes(field)?),
            MAX_OBJECT_TTL => Self::MaxObjectTtl(field.u64()?),
            NONCE => Self::Nonce(*field.array()?),
            kind => return Err(TlvError::Unknown { kind }),
        })
    }
}

fn encode_buckets(buckets: &[String]) -> Result<Vec<u8>, TlvError> {
    let bad_value = TlvError::Value { kind: BUCKETS };
    let mut sorted: Vec<&String> = buckets.iter().collect();
    sorted.sort();
    sorted.dedup();
    let mut value = Vec::new();
    for bucket in &sorted {
        check_bucket_name(bucket).map_err(|_| bad_value)?;
        push_bytes8(&mut value, bucket.as_bytes());
    }
    if sorted.is_empty() {
        Err(bad_value)
    } else {
        Ok(value)
    }
}

fn decode_buckets(field: Field<'_>) -> Result<Vec<String>, TlvError> {
    let mut items = field.items();
    let mut buckets: Vec<String> = Vec::new();
    while !items.is_empty() {
        let bucket = items.bytes8()?;
        let bucket = items.text(bucket)?.to_owned();
        let is_ascending = buckets.last().is_none_or(|last| *last < bucket);
        if !is_ascending || check_bucket_name(&bucket).is_err() {
            return Err(field.bad_value());
        }
        buckets.push(bucket);
    }
    if buckets.is_empty() {
        Err(field.bad_value())
    } else {
        Ok(buckets)
    }
}

fn encode_prefixes(prefixes: &[(String, Vec<u8>)]) -> Result<Vec<u8>, TlvError> {
    let bad_value = TlvError::Value { kind: PREFIXES };
    let mut sorted: Vec<&(String, Vec<u8>)> = prefixes.iter().collect();
    sorted.sort();
    sorted.dedup();
    let mut value = Vec::new();
    for (bucket, prefix) in &sorted {
        check_bucket_name(bucket).map_err(|_| bad_value)?;
        if !is_whole_components(prefix) {
            return Err(bad_value);
        }
        push_bytes8(&mut value, bucket.as_bytes());
        push_bytes16(&mut value, prefix);
    }
    if sorted.is_empty() {
        Err(bad_value)
    } else {
        Ok(value)
    }
}

fn decode_prefixes(field: Field<'_>) -> Result<Vec<(String, Vec<u8>)>, TlvError> {
    let mut items = field.items();
    let mut prefixes: Vec<(String, Vec<u8>)> = Vec::new();
    while !items.is_empty() {
        let bucket = items.bytes8()?;
        let entry = (items.text(bucket)?.to_owned(), items.bytes16()?.to_vec());
        let is_ascending = prefixes.last().is_none_or(|last| *last < entry);
        if !is_ascending || check_bucket_name(&entry.0).is_err() || !is_whole_components(&entry.1) {
            return Err(field.bad_value());
        }
        prefixes.push(entry);
    }
    if prefixes.is_empty() {
        Err(field.bad_value())
    } else {
        Ok(prefixes)
    }
}

/// Whether these are whole components in one mode or the other: a token does not know its buckets'
/// modes.
fn is_whole_components(prefix: &[u8]) -> bool {
    let is_sealed = || {
        let mut rest = prefix;
        while !rest.is_empty() {
            match first_component_len(Names::Sealed, rest) {
                Ok(len) => rest = &rest[len..],
                Err(_) => return false,
            }
        }
        true
    };
    prefix.len() <= ENCRYPTED_KEY_BYTES_MAX
        && (is_sealed() || check_encrypted_prefix(Names::Plain, prefix).is_ok())
}
