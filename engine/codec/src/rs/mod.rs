//! The erasure code of a stripe: recovery shares from data shares, and back.
//!
//! # The code
//!
//! Symbols are elements of GF(2^16), two bytes of a share each; symbol `s` of all shares of a
//! stripe forms one codeword, so columns are independent. The field's elements are numbered as
//! points `w_0, w_1, ..` by the crate's Cantor basis. With `m` the power of two at or above `k`,
//! the `k` data symbols followed by `m - k` zeros are the values at `w_0 .. w_(m-1)` of exactly
//! one polynomial of degree below `m`; recovery share `r` is its value at `w_(m+r)`. Any `k`
//! of the `n` values and the `m - k` known zeros are `m` values of that polynomial, hence fix
//! it: any `k` shares give all others. For `k = 29` the polynomial has 32 points, three of them
//! known zeros. For `k = 1` it is a constant, and every share a copy.
//!
//! A recovery share thus depends on the data, on `k` and on its own index, and not on `n`.
//!
//! # Always the `LowRate` form
//!
//! `reed-solomon-simd` has two codes, low and high rate, with data and recovery at different
//! points. Its front door and its `DefaultRate` choose between them by comparing the counts, so
//! adding one recovery share could change the bytes of all others. We name
//! [`LowRateEncoder`] and [`LowRateDecoder`] and never the chooser: the code is defined for all
//! `1 <= k <= 64`, `k <= n <= 255`, a piece made for one `n` stays right for any other, and
//! public software can always restore the data.
//!
//! # Who does the work
//!
//! All of it is ours, in GF(2^8) as long as the points are below 256 (`field`), and reads and
//! writes the caller's shares. [`Encoder`] makes all recovery shares by the transform of
//! `kernels`; at the level `scalar` it is the crate's own encoder. [`RowPlan`] makes any shares
//! from any `k`: `lagrange` finds what each present share contributes to each wanted one, and
//! `kernels` multiplies. The crate's encoder and decoder are the oracles of the tests. Both take
//! any range of columns, so callers may cut as they like without changing a byte.
//!
//! A plan stays a matrix however many rows it makes. The stock decoder's transforms go there and
//! back over 128 points for 29 of 80, some 600 pairs of rows with a product each, and multiply
//! all rows before and after: more work than the 551 products of 19 rows, and no less memory.
//!
//! Frozen by docs/format.md section 3, "Recovery shares".
//!
//! [`LowRateEncoder`]: reed_solomon_simd::rate::LowRateEncoder
//! [`LowRateDecoder`]: reed_solomon_simd::rate::LowRateDecoder

mod encode;
mod error;
pub(crate) mod lagrange;
#[cfg(test)]
pub(crate) mod naive;
mod plans;
mod rows;
#[cfg(test)]
mod tests;

pub use encode::Encoder;
pub use error::CodeError;
pub use plans::PlanCache;
pub use rows::RowPlan;
