//! The macaroon itself: identifier, caveats, tail.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::authority::{Action, Denied, check_caveat};
use super::caveat::Caveat;
use crate::cipher::is_equal;
use crate::id::ProjectId;
use crate::limits::{CAVEATS_MAX, MACAROON_BYTES_MAX};
use crate::tlv::{FIELD_HEAD_BYTES, Field, RawFields, TlvError, push_field};

const MAGIC: &[u8; 4] = b"SMC1";

const IDENTIFIER: u16 = 1;
const TAIL: u16 = 127;
const TAIL_FIELD_BYTES: usize = FIELD_HEAD_BYTES + 32;

/// Why a macaroon is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MacaroonError {
    /// Not the structure, or a caveat that is not known.
    #[error("macaroon {0}")]
    Structure(#[from] TlvError),
    /// Too many caveats.
    #[error("macaroon of more than {CAVEATS_MAX} caveats")]
    TooManyCaveats,
    /// Too long with this caveat.
    #[error("macaroon of {len} bytes > {MACAROON_BYTES_MAX}")]
    TooLong {
        /// Bytes it would have.
        len: usize,
    },
}

/// A bearer token: whoever has the bytes may do what all of its caveats allow.
///
/// Holds the exact bytes; parsed caveats beside them. Zeroed when dropped.
#[derive(Clone)]
pub struct Macaroon {
    bytes: Zeroizing<Vec<u8>>,
    project: ProjectId,
    key_id: [u8; 16],
    caveats: Vec<Caveat>,
}

impl Macaroon {
    /// The root macaroon of a project under one of its secrets: allows everything.
    pub fn mint(secret: &[u8; 32], project: ProjectId, key_id: [u8; 16]) -> Self {
        let mut identifier = [0; 32];
        identifier[..16].copy_from_slice(project.as_bytes());
        identifier[16..].copy_from_slice(&key_id);
        let mut bytes = Zeroizing::new(MAGIC.to_vec());
        push_field(&mut bytes, IDENTIFIER, &identifier);
        push_field(&mut bytes, TAIL, &*first_tail(secret, &identifier));
        Self {
            bytes,
            project,
            key_id,
            caveats: Vec::new(),
        }
    }

    /// A macaroon that allows what this one allows and the caveat too. Needs no secret.
    ///
    /// # Errors
    ///
    /// [`MacaroonError::Structure`] for a caveat with values that no reader accepts (a bad bucket
    /// name, an empty list, half a component), [`MacaroonError::TooManyCaveats`],
    /// [`MacaroonError::TooLong`].
    pub fn attenuate(&self, caveat: &Caveat) -> Result<Self, MacaroonError> {
        if self.caveats.len() == CAVEATS_MAX {
            return Err(MacaroonError::TooManyCaveats);
        }
        let (kind, value) = caveat.encode()?;
        let len = self.bytes.len() + FIELD_HEAD_BYTES + value.len();
        if len > MACAROON_BYTES_MAX {
            return Err(MacaroonError::TooLong { len });
        }
        let (head, tail) = self.bytes.split_at(self.bytes.len() - TAIL_FIELD_BYTES);
        let mut bytes = Zeroizing::new(Vec::with_capacity(len));
        bytes.extend_from_slice(head);
        push_field(&mut bytes, kind, &value);
        let encoded = &bytes[head.len()..];
        let field = Field {
            kind,
            value: &encoded[FIELD_HEAD_BYTES..],
            offset: head.len(),
            encoded,
        };
        let mut caveats = self.caveats.clone();
        caveats.push(Caveat::decode(field)?);
        let tail = next_tail(&tail[FIELD_HEAD_BYTES..], encoded);
        push_field(&mut bytes, TAIL, &*tail);
        Ok(Self {
            bytes,
            project: self.project,
            key_id: self.key_id,
            caveats,
        })
    }

    /// Reads a macaroon. Whether it is genuine, only [`Macaroon::authorize`] says.
    ///
    /// # Errors
    ///
    /// A [`MacaroonError`] for anything but the one encoding: bytes after the tail, unknown
    /// caveats, fields out of place.
    pub fn parse(bytes: &[u8]) -> Result<Self, MacaroonError> {
        let mut fields = RawFields::new(bytes, MAGIC, MACAROON_BYTES_MAX)?;
        let mut next = || fields.next_field();
        let identifier = next()?
            .filter(|field| field.kind == IDENTIFIER)
            .ok_or(TlvError::Missing { kind: IDENTIFIER })?;
        let identifier = identifier.array::<32>()?;
        let mut caveats = Vec::new();
        loop {
            let field = next()?.ok_or(TlvError::Missing { kind: TAIL })?;
            if field.kind == TAIL {
                field.array::<32>()?;
                break;
            }
            if caveats.len() == CAVEATS_MAX {
                return Err(MacaroonError::TooManyCaveats);
            }
            caveats.push(Caveat::decode(field)?);
        }
        if let Some(field) = next()? {
            return Err(TlvError::Disorder { kind: field.kind }.into());
        }
        let (mut project, mut key_id) = ([0; 16], [0; 16]);
        project.copy_from_slice(&identifier[..16]);
        key_id.copy_from_slice(&identifier[16..]);
        Ok(Self {
            bytes: Zeroizing::new(bytes.to_vec()),
            project: project.into(),
            key_id,
            caveats,
        })
    }

    /// The token as it is sent.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whose project.
    pub fn project(&self) -> ProjectId {
        self.project
    }

    /// Which of the project's secrets made it.
    pub fn key_id(&self) -> [u8; 16] {
        self.key_id
    }

    /// What narrows it, in the order it was added.
    pub fn caveats(&self) -> &[Caveat] {
        &self.caveats
    }

    /// Whether the token is genuine and every caveat allows the action at this time.
    ///
    /// `secret` is the one of [`Macaroon::project`] and [`Macaroon::key_id`]. `now_ms` is
    /// milliseconds since 1970.
    ///
    /// # Errors
    ///
    /// [`Denied::Forged`] if the chain does not end in the tail (compared in constant time); else
    /// the first caveat that refuses.
    pub fn authorize(
        &self,
        secret: &[u8; 32],
        action: &Action<'_>,
        now_ms: u64,
    ) -> Result<(), Denied> {
        if !self.is_genuine(secret) {
            return Err(Denied::Forged);
        }
        self.caveats
            .iter()
            .try_for_each(|caveat| check_caveat(caveat, action, now_ms))
    }

    fn is_genuine(&self, secret: &[u8; 32]) -> bool {
        let head = MAGIC.len() + FIELD_HEAD_BYTES;
        let (identifier, rest) = self.bytes[head..].split_at(32);
        let (caveats, tail) = rest.split_at(rest.len() - TAIL_FIELD_BYTES);
        let mut expected = first_tail(secret, identifier);
        let mut caveats = caveats;
        while let Some((field_head, _)) = caveats.split_first_chunk::<FIELD_HEAD_BYTES>() {
            let [_, _, len @ ..] = *field_head;
            // `parse` and `attenuate` let whole fields in only, of at most 16 KiB together.
            let (encoded, rest) =
                caveats.split_at(FIELD_HEAD_BYTES + u32::from_le_bytes(len) as usize);
            expected = next_tail(&*expected, encoded);
            caveats = rest;
        }
        is_equal(&*expected, &tail[FIELD_HEAD_BYTES..])
    }
}

impl PartialEq for Macaroon {
    fn eq(&self, other: &Self) -> bool {
        is_equal(&self.bytes, &other.bytes)
    }
}

impl Eq for Macaroon {}

impl fmt::Debug for Macaroon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Macaroon")
            .field("project", &self.project)
            .field("caveats", &self.caveats)
            .field("tail", &format_args!("<secret>"))
            .finish_non_exhaustive()
    }
}

fn first_tail(secret: &[u8; 32], identifier: &[u8]) -> Zeroizing<[u8; 32]> {
    hmac(secret, &[b"strand v1 macaroon", identifier])
}

fn next_tail(tail: &[u8], encoded: &[u8]) -> Zeroizing<[u8; 32]> {
    hmac(tail, &[encoded])
}

fn hmac(key: &[u8], message: &[&[u8]]) -> Zeroizing<[u8; 32]> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key)
        .unwrap_or_else(|_| panic!("HMAC takes keys of any length"));
    for part in message {
        mac.update(part);
    }
    Zeroizing::new(mac.finalize().into_bytes().into())
}
