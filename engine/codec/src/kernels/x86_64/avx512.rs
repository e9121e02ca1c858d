//! AVX-512 without GFNI: 64 products by look-up at a time.

use core::arch::x86_64::*;

use super::matrix::{matrix_tier, with_eight_rows, with_many_rows, with_rows, with_six_rows};
use super::transform::transform_tier;
use super::wide::{XOR3, wide_tier, zero};
use crate::kernels::{B7_NIBBLES as B7, FOLD_NIBBLES, Nibbles};

/// 24 sums, the mask, two halves of the source, tables and products: within 32 registers.
pub(in crate::kernels) const GROUP_ROWS_MAX: usize = 24;

type Factor = Nibbles;

wide_tier!("avx512f,avx512bw");
matrix_tier!("avx512f,avx512bw", with_many_rows, with_eight_rows);
transform_tier!("avx512f,avx512bw");

/// Bytes as two indices into tables of 16.
#[derive(Clone, Copy)]
struct Halves {
    low: __m512i,
    high: __m512i,
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn prepare(bytes: Vector) -> Halves {
    let mask = _mm512_set1_epi8(0x0f);
    Halves {
        low: _mm512_and_si512(bytes, mask),
        high: _mm512_and_si512(_mm512_srli_epi16::<4>(bytes), mask),
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn add_product(sum: Vector, factor: &Factor, source: Halves) -> Vector {
    let low = _mm512_shuffle_epi8(_mm512_broadcast_i32x4(table(&factor.low)), source.low);
    let high = _mm512_shuffle_epi8(_mm512_broadcast_i32x4(table(&factor.high)), source.high);
    _mm512_ternarylogic_epi64::<XOR3>(sum, low, high)
}

/// Adds the fold of high bytes, given in both halves, to the low half.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn add_fold(column: Vector, twice_high: Vector) -> Vector {
    const LOW_LANES: u16 = 0x00ff;
    let low = _mm512_maskz_broadcast_i32x4(LOW_LANES, table(&FOLD_NIBBLES.low));
    let high = _mm512_maskz_broadcast_i32x4(LOW_LANES, table(&FOLD_NIBBLES.high));
    let halves = prepare(twice_high);
    let low = _mm512_shuffle_epi8(low, halves.low);
    let high = _mm512_shuffle_epi8(high, halves.high);
    _mm512_ternarylogic_epi64::<XOR3>(column, low, high)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn table(bytes: &[u8; 16]) -> __m128i {
    // SAFETY: the reference covers 16 readable bytes; `loadu` asks nothing of alignment.
    unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
}
