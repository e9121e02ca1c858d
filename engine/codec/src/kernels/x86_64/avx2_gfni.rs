//! AVX2 with GFNI: 32 products by one instruction each, two vectors of a row side by side.
//!
//! Splitting and joining are the AVX2 tier's.

use core::arch::x86_64::*;

use super::avx2::{load, store};
use super::with_group_rows;
use crate::kernels::Affine;

/// 4 rows x 2 sums, 2 of the source, a matrix and products: within 16 registers.
pub(in crate::kernels) const GROUP_ROWS_MAX: usize = 4;

#[target_feature(enable = "avx2,gfni")]
pub(in crate::kernels) fn multiply(
    coefficients: &[Affine],
    row_count: usize,
    row_len: usize,
    source: &[u8],
    target: &mut [u8],
) {
    with_group_rows!(row_count, group(coefficients, row_len, source, target));
}

#[target_feature(enable = "avx2,gfni")]
fn group<const ROWS: usize>(
    coefficients: &[Affine],
    row_len: usize,
    source: &[u8],
    target: &mut [u8],
) {
    let (columns, _) = coefficients.as_chunks::<ROWS>();
    for step in 0..row_len / 64 {
        let mut sums = [[_mm256_setzero_si256(); 2]; ROWS];
        for (column, source) in columns.iter().zip(source.chunks_exact(row_len)) {
            let (source, _) = source.as_chunks::<32>();
            let first = load(&source[2 * step]);
            let second = load(&source[2 * step + 1]);
            for (sums, matrix) in sums.iter_mut().zip(column) {
                let matrix = _mm256_set1_epi64x(matrix.cast_signed());
                let product = _mm256_gf2p8affine_epi64_epi8::<0>(first, matrix);
                sums[0] = _mm256_xor_si256(sums[0], product);
                let product = _mm256_gf2p8affine_epi64_epi8::<0>(second, matrix);
                sums[1] = _mm256_xor_si256(sums[1], product);
            }
        }
        for (sums, target) in sums.iter().zip(target.chunks_exact_mut(row_len)) {
            let (target, _) = target.as_chunks_mut::<32>();
            store(&mut target[2 * step], sums[0]);
            store(&mut target[2 * step + 1], sums[1]);
        }
    }
}
