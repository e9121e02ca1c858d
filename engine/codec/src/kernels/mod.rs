//! Byte kernels: products of a matrix and shares, the transform, and a cipher.
//!
//! Those of the erasure code work on shares as they are and in the field of bytes (`field` has the reason). What comes
//! in is folded, what goes out unfolded, in registers:
//!
//! ```text
//! for each column (32 low bytes l, 32 high bytes h) of a source:   u = l + fold(h), v = h
//! ..
//! for each column of a target:                                     l = u + fold(v), h = v
//! ```
//!
//! `vaes` is AES-256-GCM for CPUs that have wide instructions for it and no AVX-512.
//!
//! [`Matrix`] makes any rows from any others, [`Transform`] all recovery rows from data rows in a
//! seventh of the products. A product by a constant is two table look-ups of four bits each
//! (`pshufb`), one affine map (`gf2p8affineqb`) or, in the scalar tier, eight masked additions.
//!
//! **Invariant:** no allocation but in `new`, no `Result`, no knowledge of plans.
//! **Invariant:** every tier equals the scalar one on every input. **Boundary:** the only
//! `unsafe` in the crate; a [`Level`] is its safety argument.
//!
//! [`Level`]: crate::level::Level
#![allow(
    unsafe_code,
    reason = "instructions that only some CPUs have, and loads and stores of vectors"
)]

mod factor;
mod matrix;
mod scalar;
#[cfg(test)]
mod tests;
mod transform;
#[cfg(target_arch = "x86_64")]
mod x86_64;

pub(crate) use matrix::Matrix;
pub(crate) use transform::{POINTS_MAX, Transform};
#[cfg(target_arch = "x86_64")]
pub(crate) use x86_64::vaes;

use factor::Images;
#[cfg(target_arch = "x86_64")]
use factor::{Affine, B7_AFFINE, B7_NIBBLES, FOLD_AFFINE, FOLD_NIBBLES, Nibbles, affine, nibbles};
