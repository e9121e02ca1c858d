//! The tiers of x86-64.
//!
//! Each file is one instruction set: its vectors, loads and stores, the sum of a vector and a
//! product, and how a share's column lies in vectors. The loops around them are those of the
//! macros in `matrix` and `transform`, the same for all tiers. `vaes` is of another kind: it seals.

mod ahead;
mod matrix;
mod planes;
mod transform;
mod wide;

pub(super) mod avx2;
pub(super) mod avx2_gfni;
pub(super) mod avx512;
pub(super) mod avx512_gfni;
pub(super) mod ssse3;
pub(crate) mod vaes;
