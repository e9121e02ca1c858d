//! AVX-512 with GFNI: 64 products by one instruction.

use core::arch::x86_64::*;

use super::matrix::{matrix_tier, with_eight_rows, with_many_rows, with_rows, with_six_rows};
use super::transform::transform_tier;
use super::wide::{wide_tier, zero};
use crate::kernels::{Affine, B7_AFFINE as B7, FOLD_AFFINE};

/// 24 sums, a source, a matrix and products: within 32 registers.
pub(in crate::kernels) const GROUP_ROWS_MAX: usize = 24;

type Factor = Affine;

wide_tier!("avx512f,avx512bw,gfni");
matrix_tier!("avx512f,avx512bw,gfni", with_many_rows, with_eight_rows);
transform_tier!("avx512f,avx512bw,gfni");

#[inline]
#[target_feature(enable = "avx512f,avx512bw,gfni")]
fn prepare(bytes: Vector) -> Vector {
    bytes
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,gfni")]
fn add_product(sum: Vector, factor: &Factor, source: Vector) -> Vector {
    let matrix = _mm512_set1_epi64(factor.cast_signed());
    add(sum, _mm512_gf2p8affine_epi64_epi8::<0>(source, matrix))
}

/// Adds the fold of high bytes, given in both halves, to the low half.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,gfni")]
fn add_fold(column: Vector, twice_high: Vector) -> Vector {
    const FOLD: i64 = FOLD_AFFINE.cast_signed();
    let matrix = _mm512_set_epi64(0, 0, 0, 0, FOLD, FOLD, FOLD, FOLD);
    add(
        column,
        _mm512_gf2p8affine_epi64_epi8::<0>(twice_high, matrix),
    )
}
