//! AVX-512 with GFNI: 64 products by one instruction each.
//!
//! Splitting and joining are the AVX2 tier's.

use core::arch::x86_64::*;

use super::avx512::{load, store};
use super::with_group_rows;
use crate::kernels::Affine;

/// 8 sums and a source: eight independent chains hide the instruction's latency.
pub(in crate::kernels) const GROUP_ROWS_MAX: usize = 8;

#[target_feature(enable = "avx512f,avx512bw,gfni")]
pub(in crate::kernels) fn multiply(
    coefficients: &[Affine],
    row_count: usize,
    row_len: usize,
    source: &[u8],
    target: &mut [u8],
) {
    with_group_rows!(row_count, wide group(coefficients, row_len, source, target));
}

#[target_feature(enable = "avx512f,avx512bw,gfni")]
fn group<const ROWS: usize>(
    coefficients: &[Affine],
    row_len: usize,
    source: &[u8],
    target: &mut [u8],
) {
    let (columns, _) = coefficients.as_chunks::<ROWS>();
    for step in 0..row_len / 64 {
        let mut sums = [_mm512_setzero_si512(); ROWS];
        for (column, source) in columns.iter().zip(source.chunks_exact(row_len)) {
            let (source, _) = source.as_chunks::<64>();
            let bytes = load(&source[step]);
            for (sum, matrix) in sums.iter_mut().zip(column) {
                let matrix = _mm512_set1_epi64(matrix.cast_signed());
                let product = _mm512_gf2p8affine_epi64_epi8::<0>(bytes, matrix);
                *sum = _mm512_xor_si512(*sum, product);
            }
        }
        for (sum, target) in sums.iter().zip(target.chunks_exact_mut(row_len)) {
            let (target, _) = target.as_chunks_mut::<64>();
            store(&mut target[step], *sum);
        }
    }
}
