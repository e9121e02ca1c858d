//! AVX2 with GFNI: 32 products by one instruction.

use core::arch::x86_64::*;

use super::avx2::{add, load, store, zero};
use super::matrix::{matrix_tier, with_rows, with_six_rows};
use super::planes::planes_tier;
use super::transform::transform_tier;
use crate::kernels::{Affine, B7_AFFINE as B7, FOLD_AFFINE as FOLD};

/// 6 rows x 2 sums, 2 of the source, a matrix and a product: 16 registers.
pub(in crate::kernels) const GROUP_ROWS_MAX: usize = 6;

type Vector = __m256i;
type Factor = Affine;

const PLANES: usize = 2;

planes_tier!("avx2,gfni");
matrix_tier!("avx2,gfni", with_six_rows, with_six_rows);
transform_tier!("avx2,gfni");

#[inline]
#[target_feature(enable = "avx2,gfni")]
fn prepare(bytes: Vector) -> Vector {
    bytes
}

#[inline]
#[target_feature(enable = "avx2,gfni")]
fn add_product(sum: Vector, factor: &Factor, source: Vector) -> Vector {
    let matrix = _mm256_set1_epi64x(factor.cast_signed());
    add(sum, _mm256_gf2p8affine_epi64_epi8::<0>(source, matrix))
}
