//! Sealing: plaintext to sealed bytes and back.
//!
//! [`chunked`] is C2SP chunked-encryption v1 with AES-256-GCM: a fresh key per salt, chunks of
//! 16 KiB that open alone, and no way to reorder, truncate, splice or swap them unnoticed.
//! [`Sealer`] and [`Opener`] use it for segments, with the object id, part number and segment
//! index as context. `aead` is AES-256-GCM itself, by one of three back ends.
//!
//! What must stay true: nothing of a chunk is released before its tag was checked, and what
//! failed is zeroed; a salt is never used twice under one content key (the caller draws it);
//! no branch or table index depends on a secret; keys are wiped when dropped.
//!
//! Frozen by docs/format.md section 3, "Sealing".

mod aead;
pub mod chunked;
mod portable;
mod segment;
#[cfg(test)]
mod tests;

#[cfg(target_arch = "x86_64")]
pub use crate::kernels::vaes::Vaes;
pub use aead::{Backend, TAG_BYTES};
pub use chunked::{KEY_COMMITMENT_BYTES, OpenError, SALT_BYTES};
pub use segment::{ContentKey, Opener, Sealer, SegmentContext};
