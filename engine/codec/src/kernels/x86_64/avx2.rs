//! AVX2: 32 products by look-up at a time.

use core::arch::x86_64::*;

use super::matrix::{matrix_tier, with_rows};
use super::planes::planes_tier;
use super::transform::transform_tier;
use crate::kernels::{B7_NIBBLES as B7, FOLD_NIBBLES as FOLD, Nibbles};

/// 4 rows x 2 sums, 4 halves of the source and 2 tables: 14 of 16 registers.
pub(in crate::kernels) const GROUP_ROWS_MAX: usize = 4;

type Vector = __m256i;
type Factor = Nibbles;

const PLANES: usize = 2;

planes_tier!("avx2");
matrix_tier!("avx2", with_rows, with_rows);
transform_tier!("avx2");

/// Bytes as two indices into tables of 16.
#[derive(Clone, Copy)]
struct Halves {
    low: __m256i,
    high: __m256i,
}

#[inline]
#[target_feature(enable = "avx2")]
fn prepare(bytes: Vector) -> Halves {
    let mask = _mm256_set1_epi8(0x0f);
    Halves {
        low: _mm256_and_si256(bytes, mask),
        high: _mm256_and_si256(_mm256_srli_epi16::<4>(bytes), mask),
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn add_product(sum: Vector, factor: &Factor, source: Halves) -> Vector {
    let low = _mm256_shuffle_epi8(broadcast(&factor.low), source.low);
    let high = _mm256_shuffle_epi8(broadcast(&factor.high), source.high);
    add(sum, add(low, high))
}

#[inline]
#[target_feature(enable = "avx2")]
fn broadcast(bytes: &[u8; 16]) -> __m256i {
    // SAFETY: the reference covers 16 readable bytes; `loadu` asks nothing of alignment.
    let lane = unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) };
    _mm256_broadcastsi128_si256(lane)
}

#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn zero() -> Vector {
    _mm256_setzero_si256()
}

#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn add(a: Vector, b: Vector) -> Vector {
    _mm256_xor_si256(a, b)
}

/// # Safety
///
/// 32 bytes are readable.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) unsafe fn load(bytes: *const u8) -> Vector {
    // SAFETY: the caller's bytes; `loadu` asks nothing of alignment.
    unsafe { _mm256_loadu_si256(bytes.cast()) }
}

/// # Safety
///
/// 32 bytes are writable.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) unsafe fn store(bytes: *mut u8, vector: Vector) {
    // SAFETY: the caller's bytes; `storeu` asks nothing of alignment.
    unsafe { _mm256_storeu_si256(bytes.cast(), vector) }
}
