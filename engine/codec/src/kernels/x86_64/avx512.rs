//! AVX-512 without GFNI: 64 products by look-up at a time.
//!
//! Splitting and joining, a small part of the work, are the AVX2 tier's.

use core::arch::x86_64::*;

use super::with_group_rows;
use crate::kernels::Nibbles;

/// 8 sums, 2 halves of the source, tables and products: well within 32 registers; with more rows
/// the coefficients of a group would crowd the source out of a small L1.
pub(in crate::kernels) const GROUP_ROWS_MAX: usize = 8;

/// The exclusive or of three, as a table of three bits.
const XOR3: i32 = 0b1001_0110;

#[target_feature(enable = "avx512f,avx512bw")]
pub(in crate::kernels) fn multiply(
    coefficients: &[Nibbles],
    row_count: usize,
    row_len: usize,
    source: &[u8],
    target: &mut [u8],
) {
    with_group_rows!(row_count, wide group(coefficients, row_len, source, target));
}

#[target_feature(enable = "avx512f,avx512bw")]
fn group<const ROWS: usize>(
    coefficients: &[Nibbles],
    row_len: usize,
    source: &[u8],
    target: &mut [u8],
) {
    let mask = _mm512_set1_epi8(0x0f);
    let (columns, _) = coefficients.as_chunks::<ROWS>();
    for step in 0..row_len / 64 {
        let mut sums = [_mm512_setzero_si512(); ROWS];
        for (column, source) in columns.iter().zip(source.chunks_exact(row_len)) {
            let (source, _) = source.as_chunks::<64>();
            let bytes = load(&source[step]);
            let low = _mm512_and_si512(bytes, mask);
            let high = _mm512_and_si512(_mm512_srli_epi16::<4>(bytes), mask);
            for (sum, tables) in sums.iter_mut().zip(column) {
                let low = _mm512_shuffle_epi8(broadcast(&tables.low), low);
                let high = _mm512_shuffle_epi8(broadcast(&tables.high), high);
                *sum = _mm512_ternarylogic_epi64::<XOR3>(*sum, low, high);
            }
        }
        for (sum, target) in sums.iter().zip(target.chunks_exact_mut(row_len)) {
            let (target, _) = target.as_chunks_mut::<64>();
            store(&mut target[step], *sum);
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn broadcast(bytes: &[u8; 16]) -> __m512i {
    // SAFETY: the reference covers 16 readable bytes; `loadu` asks nothing of alignment.
    let lane = unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) };
    _mm512_broadcast_i32x4(lane)
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn load(bytes: &[u8; 64]) -> __m512i {
    // SAFETY: the reference covers 64 readable bytes; `loadu` asks nothing of alignment.
    unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn store(bytes: &mut [u8; 64], vector: __m512i) {
    // SAFETY: the reference covers 64 writable bytes; `storeu` asks nothing of alignment.
    unsafe { _mm512_storeu_si512(bytes.as_mut_ptr().cast(), vector) }
}
