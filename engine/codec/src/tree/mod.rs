//! What pieces, segments and objects are committed to: BLAKE3 trees and proofs over them.
//!
//! From the bottom up: a *leaf* is one BLAKE3 chunk of 1 KiB of a piece; a *share* is a subtree
//! of 16 leaves (`piece`); the *piece root* is the plain BLAKE3 hash of the piece; the *segment
//! commitment* binds all piece roots of a segment with its shape (`segment`); the *object root*
//! binds all segment commitments of an object (`object`). `slice` proves a range of leaves
//! against a piece root. `lockstep` hashes all pieces of a segment at once, in the lanes of vectors (`lanes`), and `slice` the leaves of a share.
//!
//! What must stay true: every shape is derived from lengths the verifier knows, never from what
//! a prover sends, and a proof with a hash too few or too many is refused. Hashes of different
//! meaning are computed in different BLAKE3 modes or contexts, so that none passes for another.
//!
//! Frozen by docs/format.md section 4.

mod domain;
mod error;
mod lanes;
mod lockstep;
mod object;
mod piece;
mod segment;
mod slice;
#[cfg(test)]
mod tests;

pub use error::ProofError;
pub use lockstep::LockstepHasher;
pub use object::{ObjectLeaf, object_root};
pub use piece::{PieceHasher, PieceTree, root_of_share_hashes, share_hash};
pub use segment::{SegmentTree, commitment_of_path, inline_commitment};
pub use slice::{cut_shares, prove_slice, slice_proof_len, verify_slice};

/// A BLAKE3 hash or chaining value.
pub type Hash = [u8; 32];
