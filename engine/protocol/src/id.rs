//! Identifiers: fixed byte strings with a text form each (docs/format.md, section 1).
//!
//! Random identifiers are made by whoever owns the randomness; the two that are hashes are made
//! here. The text form of a node id is also its TLS server name, so it is one DNS label of 56
//! lower-case characters with a check in it.

use std::fmt;
use std::str::FromStr;

use crate::tlv::text::{BASE32, HEX};

/// Length of [`NodeId`]'s text form: 35 bytes in base32, 56 x 5 = 35 x 8 bits.
pub const NODE_ID_TEXT_LEN: usize = 56;

const NODE_ID_CHECK_BYTES: usize = 3;

/// Why bytes or text are not an identifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdError {
    /// Too many or too few bytes or characters.
    #[error("identifier of length {len} != {expected}")]
    Length {
        /// Bytes or characters given.
        len: usize,
        /// Bytes or characters that it must have.
        expected: usize,
    },
    /// A character outside the alphabet (lower-case base32 or lower-case hex).
    #[error("identifier has a character at {position} that it cannot have")]
    Character {
        /// Where, counted in bytes from 0.
        position: usize,
    },
    /// The check of a node id does not fit: mistyped or damaged.
    #[error("node id is mistyped: its last characters do not fit the others")]
    Check,
}

macro_rules! identifiers {
    ($($(#[$doc:meta])* $name:ident($len:literal);)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; $len]);

        impl $name {
            /// Length in bytes.
            pub const BYTES: usize = $len;

            /// The bytes as they are stored and sent.
            pub const fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }
        }

        impl From<[u8; $len]> for $name {
            fn from(bytes: [u8; $len]) -> Self {
                Self(bytes)
            }
        }

        impl From<$name> for [u8; $len] {
            fn from(id: $name) -> Self {
                id.0
            }
        }

        impl TryFrom<&[u8]> for $name {
            type Error = IdError;

            fn try_from(bytes: &[u8]) -> Result<Self, IdError> {
                let error = IdError::Length { len: bytes.len(), expected: $len };
                bytes.try_into().map(Self).map_err(|_| error)
            }
        }

        impl AsRef<[u8]> for $name {
            fn as_ref(&self) -> &[u8] {
                &self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }
    )*};
}

identifiers! {
    /// Who a node or a satellite is: a hash of its public key.
    NodeId(32);
    /// One project of one satellite. Random, by the satellite.
    ProjectId(16);
    /// One upload's content, wherever it is copied or moved to. Random, by the client.
    ObjectId(16);
    /// One upload in the satellite's tables. Random, by the satellite.
    StreamId(16);
    /// One piece at one node. Nodes cannot tell which pieces belong together.
    PieceId(32);
    /// One limit. Random, by the satellite.
    Serial(16);
}

macro_rules! hex_text {
    ($($name:ident)*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&HEX.encode(&self.0))
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                let expected = 2 * Self::BYTES;
                if text.len() != expected {
                    return Err(IdError::Length { len: text.len(), expected });
                }
                let bytes = HEX
                    .decode(text.as_bytes())
                    .map_err(|error| IdError::Character { position: error.position })?;
                Self::try_from(bytes.as_slice())
            }
        }
    )*};
}

hex_text! { ProjectId ObjectId StreamId PieceId Serial }

impl NodeId {
    /// The id of whoever holds the private half of this Ed25519 key.
    pub fn of_public_key(ed25519: &[u8; 32]) -> Self {
        Self(blake3::derive_key("strand node id v1", ed25519))
    }

    fn check(&self) -> [u8; NODE_ID_CHECK_BYTES] {
        let hash = blake3::derive_key("strand node id text v1", &self.0);
        [hash[0], hash[1], hash[2]]
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = [0; Self::BYTES + NODE_ID_CHECK_BYTES];
        bytes[..Self::BYTES].copy_from_slice(&self.0);
        bytes[Self::BYTES..].copy_from_slice(&self.check());
        f.write_str(&BASE32.encode(&bytes))
    }
}

impl FromStr for NodeId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        if text.len() != NODE_ID_TEXT_LEN {
            return Err(IdError::Length {
                len: text.len(),
                expected: NODE_ID_TEXT_LEN,
            });
        }
        let bytes = BASE32
            .decode(text.as_bytes())
            .map_err(|error| IdError::Character {
                position: error.position,
            })?;
        let (id, check) = bytes.split_at(Self::BYTES);
        let id = Self::try_from(id)?;
        if check == id.check() {
            Ok(id)
        } else {
            Err(IdError::Check)
        }
    }
}

/// The id under which `node` stores piece `index` of the segment with this secret.
///
/// A keyed hash, so that nodes which compare notes cannot tell which of their pieces belong to one
/// segment.
pub fn piece_id(segment_secret: &[u8; 32], node: &NodeId, index: u8) -> PieceId {
    let mut hasher = blake3::Hasher::new_keyed(segment_secret);
    hasher.update(&node.0).update(&[index]);
    PieceId(*hasher.finalize().as_bytes())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn text_of_a_node_id_is_one_dns_label_and_comes_back() {
        let id = NodeId::of_public_key(&[7; 32]);
        let text = id.to_string();
        assert_eq!(text.len(), NODE_ID_TEXT_LEN);
        assert!(
            text.bytes()
                .all(|byte| byte.is_ascii_lowercase() || (b'2'..=b'7').contains(&byte))
        );
        assert_eq!(text.parse::<NodeId>(), Ok(id));
    }

    #[test]
    fn every_mistyped_character_of_a_node_id_is_noticed() {
        let text = NodeId::of_public_key(&[7; 32]).to_string();
        for position in 0..text.len() {
            for replacement in "abcdefghijklmnopqrstuvwxyz234567ABC019-. ".chars() {
                let mut typed: Vec<char> = text.chars().collect();
                if typed[position] == replacement {
                    continue;
                }
                typed[position] = replacement;
                let typed: String = typed.into_iter().collect();
                assert!(typed.parse::<NodeId>().is_err(), "{typed}");
            }
        }
        assert_eq!(
            text[1..].parse::<NodeId>(),
            Err(IdError::Length {
                len: 55,
                expected: 56
            })
        );
        assert!(text.to_uppercase().parse::<NodeId>().is_err());
    }

    #[test]
    fn piece_ids_differ_by_secret_node_and_index() {
        let (one, two) = (NodeId::from([1; 32]), NodeId::from([2; 32]));
        let id = piece_id(&[3; 32], &one, 4);
        assert_ne!(id, piece_id(&[4; 32], &one, 4));
        assert_ne!(id, piece_id(&[3; 32], &two, 4));
        assert_ne!(id, piece_id(&[3; 32], &one, 5));
    }

    #[test]
    fn wrong_lengths_are_named() {
        assert_eq!(
            ProjectId::try_from(&[0u8; 15][..]),
            Err(IdError::Length {
                len: 15,
                expected: 16
            })
        );
        assert_eq!(
            "00".parse::<Serial>(),
            Err(IdError::Length {
                len: 2,
                expected: 32
            })
        );
        assert_eq!(
            "zz".repeat(16).parse::<Serial>(),
            Err(IdError::Character { position: 0 })
        );
    }

    proptest! {
        #[test]
        fn text_forms_come_back(bytes: [u8; 32], short: [u8; 16]) {
            let node = NodeId::from(bytes);
            prop_assert_eq!(node.to_string().parse::<NodeId>(), Ok(node));
            let piece = PieceId::from(bytes);
            prop_assert_eq!(piece.to_string().parse::<PieceId>(), Ok(piece));
            let project = ProjectId::from(short);
            prop_assert_eq!(project.to_string().parse::<ProjectId>(), Ok(project));
        }

        #[test]
        fn foreign_text_never_panics(text in ".{0,80}") {
            let _ = text.parse::<NodeId>();
            let _ = text.parse::<PieceId>();
        }
    }
}
