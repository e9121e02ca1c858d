//! BLAKE3 in `derive_key` mode, with the context hashed once.

use std::sync::LazyLock;

use blake3::Hasher;
use blake3::hazmat::{ContextKey, HasherExt, hash_derive_key_context};

use super::Hash;

/// One meaning a hash can have.
pub(super) struct Domain(LazyLock<ContextKey>);

pub(super) static SEGMENT_LEAF: Domain = Domain(LazyLock::new(|| {
    hash_derive_key_context("strand v1 segment leaf")
}));
pub(super) static SEGMENT_NODE: Domain = Domain(LazyLock::new(|| {
    hash_derive_key_context("strand v1 segment node")
}));
pub(super) static SEGMENT: Domain = Domain(LazyLock::new(|| {
    hash_derive_key_context("strand v1 segment")
}));
pub(super) static INLINE: Domain = Domain(LazyLock::new(|| {
    hash_derive_key_context("strand v1 inline")
}));
pub(super) static OBJECT_LEAF: Domain = Domain(LazyLock::new(|| {
    hash_derive_key_context("strand v1 object leaf")
}));
pub(super) static OBJECT_NODE: Domain = Domain(LazyLock::new(|| {
    hash_derive_key_context("strand v1 object node")
}));

impl Domain {
    /// Hash of the concatenated inputs.
    pub(super) fn hash(&self, inputs: &[&[u8]]) -> Hash {
        let mut hasher = Hasher::new_from_context_key(&self.0);
        for input in inputs {
            hasher.update(input);
        }
        hasher.finalize().into()
    }
}
