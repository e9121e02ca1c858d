//! The keyed check of groups and records: what makes uploaded bytes unable to pass for ours.
//!
//! The key is the blob's salt, which never leaves the node. Frozen by docs/format.md section 6.

use crate::bug::{self, Bug};

/// Bytes of a check.
pub(crate) const CHECK_BYTES: usize = 16;

/// A blob's salt, used as the key of its checks.
#[derive(Clone, Copy)]
pub(crate) struct KeyedCheck {
    salt: [u8; 32],
}

impl KeyedCheck {
    pub(crate) fn new(salt: [u8; 32]) -> Self {
        if bug::is_planted(Bug::CheckUnkeyed) {
            return Self { salt: [0; 32] };
        }
        Self { salt }
    }

    /// First 16 bytes of the BLAKE3 keyed hash of `bytes`.
    pub(crate) fn of(&self, bytes: &[u8]) -> [u8; CHECK_BYTES] {
        first_half(blake3::keyed_hash(&self.salt, bytes))
    }

    /// The whole BLAKE3 keyed hash of `bytes`.
    pub(crate) fn whole(&self, bytes: &[u8]) -> [u8; 32] {
        blake3::keyed_hash(&self.salt, bytes).into()
    }
}

impl std::fmt::Debug for KeyedCheck {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KeyedCheck(..)")
    }
}

/// First 16 bytes of a hash.
pub(crate) fn first_half(hash: blake3::Hash) -> [u8; CHECK_BYTES] {
    let (half, _) = hash.as_bytes().split_at(CHECK_BYTES);
    let mut check = [0; CHECK_BYTES];
    check.copy_from_slice(half);
    check
}
