//! What a segment's bytes become, and back: shapes, sealing, erasure code, piece tree.
//!
//! The order of an upload is the order of the modules: [`Sealer`] turns plaintext into sealed
//! bytes, [`Shape`] says how these are cut into stripes and shares, [`Encoder`] computes the
//! recovery shares of a stripe, [`PieceHasher`] and [`SegmentTree`] commit to all pieces.
//! A download runs backwards: [`commitment_of_path`], [`share_hash`] or [`verify_slice`] name
//! a liar before his bytes are used, [`RowPlan`] rebuilds missing shares, [`Opener`] opens the
//! chunks. [`SegmentWriter`] and [`SegmentRestorer`] do it all in one pass, some columns at a time.
//!
//! **Invariant:** pure. No I/O, no clock, no randomness, no threads, no global state beyond
//! lazily computed constants and the [`Level`] of the process. Every input that can come from a
//! peer is answered with a typed error; panics are kept for the caller's own bookkeeping and are
//! listed at each function.
//!
//! **Invariant:** `unsafe` in `kernels` only.
//!
//! Beside all that, `packet` protects QUIC's packets with the kernel of sealing.
//!
//! It leaves to others: where pieces are stored, who may read them, object headers and names
//! (`strand-protocol`), and every choice of salts and keys, which are arguments.
//!
//! Everything computed here is frozen by docs/format.md sections 3 and 4; the
//! `format_is_frozen` tests fail if a byte of it drifts.

#![deny(unsafe_code)]
#![warn(missing_docs)]

mod field;
mod kernels;
mod level;
#[cfg(target_arch = "x86_64")]
mod packet;
mod pipeline;
mod rs;
mod seal;
mod shape;
mod tree;

pub use level::{LEVEL_VARIABLE, Level, LevelError};
#[cfg(target_arch = "x86_64")]
pub use packet::{HeaderKey, PACKET_TAG_BYTES, PacketKey};
pub use pipeline::{
    ChunkOpener, RestoreError, SegmentRestorer, SegmentWriter, StripeCoder, StripeFiller,
};
pub use rs::{CodeError, Encoder, PlanCache, RowPlan};
#[cfg(target_arch = "x86_64")]
pub use seal::Vaes;
pub use seal::{
    Backend, ContentKey, KEY_COMMITMENT_BYTES, OpenError, Opener, SALT_BYTES, Sealer,
    SegmentContext, TAG_BYTES, chunked,
};
pub use shape::{
    CHUNK_BYTES, Cell, INLINE_BYTES_MAX, LEAF_BYTES, PIECE_BYTES_MAX, REQUIRED_MAX,
    SEALED_CHUNK_BYTES, SHARE_BYTES, Shape, ShapeError, plain_len, sealed_len, segment_bytes_max,
};
pub use tree::{
    Hash, LockstepHasher, ObjectLeaf, PieceHasher, PieceTree, ProofError, SegmentTree,
    commitment_of_path, cut_shares, inline_commitment, object_root, prove_slice,
    root_of_share_hashes, share_hash, slice_proof_len, verify_slice,
};
