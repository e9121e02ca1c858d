//! SSSE3: 16 products by look-up at a time.

use core::arch::x86_64::*;

use super::matrix::{matrix_tier, with_rows};
use super::planes::planes_tier;
use super::transform::transform_tier;
use crate::kernels::{B7_NIBBLES as B7, FOLD_NIBBLES as FOLD, Nibbles};

/// 4 rows x 2 sums, 4 halves of the source and 2 tables: 14 of 16 registers.
pub(in crate::kernels) const GROUP_ROWS_MAX: usize = 4;

type Vector = __m128i;
type Factor = Nibbles;

const PLANES: usize = 4;

planes_tier!("ssse3");
matrix_tier!("ssse3", with_rows, with_rows);
transform_tier!("ssse3");

/// Bytes as two indices into tables of 16.
#[derive(Clone, Copy)]
struct Halves {
    low: __m128i,
    high: __m128i,
}

#[inline]
#[target_feature(enable = "ssse3")]
fn prepare(bytes: Vector) -> Halves {
    let mask = _mm_set1_epi8(0x0f);
    Halves {
        low: _mm_and_si128(bytes, mask),
        high: _mm_and_si128(_mm_srli_epi16::<4>(bytes), mask),
    }
}

#[inline]
#[target_feature(enable = "ssse3")]
fn add_product(sum: Vector, factor: &Factor, source: Halves) -> Vector {
    let low = _mm_shuffle_epi8(table(&factor.low), source.low);
    let high = _mm_shuffle_epi8(table(&factor.high), source.high);
    add(sum, add(low, high))
}

#[inline]
#[target_feature(enable = "ssse3")]
fn table(bytes: &[u8; 16]) -> __m128i {
    // SAFETY: the reference covers 16 readable bytes; `loadu` asks nothing of alignment.
    unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "ssse3")]
fn zero() -> Vector {
    _mm_setzero_si128()
}

#[inline]
#[target_feature(enable = "ssse3")]
fn add(a: Vector, b: Vector) -> Vector {
    _mm_xor_si128(a, b)
}

/// # Safety
///
/// 16 bytes are readable.
#[inline]
#[target_feature(enable = "ssse3")]
unsafe fn load(bytes: *const u8) -> Vector {
    // SAFETY: the caller's bytes; `loadu` asks nothing of alignment.
    unsafe { _mm_loadu_si128(bytes.cast()) }
}

/// # Safety
///
/// 16 bytes are writable.
#[inline]
#[target_feature(enable = "ssse3")]
unsafe fn store(bytes: *mut u8, vector: Vector) {
    // SAFETY: the caller's bytes; `storeu` asks nothing of alignment.
    unsafe { _mm_storeu_si128(bytes.cast(), vector) }
}
