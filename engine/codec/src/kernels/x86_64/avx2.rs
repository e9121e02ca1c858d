//! AVX2: 32 products by look-up at a time, two vectors of a row side by side.

use core::arch::x86_64::*;

use super::with_group_rows;
use crate::kernels::{FOLD_NIBBLES, Nibbles};

/// 4 rows x 2 sums, 4 halves of the source and 2 tables: 14 of 16 registers.
pub(in crate::kernels) const GROUP_ROWS_MAX: usize = 4;

#[target_feature(enable = "avx2")]
pub(in crate::kernels) fn multiply(
    coefficients: &[Nibbles],
    row_count: usize,
    row_len: usize,
    source: &[u8],
    target: &mut [u8],
) {
    with_group_rows!(row_count, group(coefficients, row_len, source, target));
}

#[target_feature(enable = "avx2")]
fn group<const ROWS: usize>(
    coefficients: &[Nibbles],
    row_len: usize,
    source: &[u8],
    target: &mut [u8],
) {
    let (columns, _) = coefficients.as_chunks::<ROWS>();
    for step in 0..row_len / 64 {
        let mut sums = [[_mm256_setzero_si256(); 2]; ROWS];
        for (column, source) in columns.iter().zip(source.chunks_exact(row_len)) {
            let (source, _) = source.as_chunks::<32>();
            let first = Halves::of(load(&source[2 * step]));
            let second = Halves::of(load(&source[2 * step + 1]));
            for (sums, tables) in sums.iter_mut().zip(column) {
                let tables = Tables::of(tables);
                sums[0] = _mm256_xor_si256(sums[0], tables.product(first));
                sums[1] = _mm256_xor_si256(sums[1], tables.product(second));
            }
        }
        for (sums, target) in sums.iter().zip(target.chunks_exact_mut(row_len)) {
            let (target, _) = target.as_chunks_mut::<32>();
            store(&mut target[2 * step], sums[0]);
            store(&mut target[2 * step + 1], sums[1]);
        }
    }
}

#[target_feature(enable = "avx2")]
pub(in crate::kernels) fn split(share: &[u8], low: &mut [u8], high: &mut [u8]) {
    let fold = Tables::of(&FOLD_NIBBLES);
    let (columns, _) = share.as_chunks::<64>();
    let (low, _) = low.as_chunks_mut::<32>();
    let (high, _) = high.as_chunks_mut::<32>();
    for ((column, low), high) in columns.iter().zip(low).zip(high) {
        let (halves, _) = column.as_chunks::<32>();
        let v = load(&halves[1]);
        store(high, v);
        let folded = fold.product(Halves::of(v));
        store(low, _mm256_xor_si256(load(&halves[0]), folded));
    }
}

#[target_feature(enable = "avx2")]
pub(in crate::kernels) fn join(low: &[u8], high: &[u8], share: &mut [u8]) {
    let fold = Tables::of(&FOLD_NIBBLES);
    let (columns, _) = share.as_chunks_mut::<64>();
    let (low, _) = low.as_chunks::<32>();
    let (high, _) = high.as_chunks::<32>();
    for ((column, low), high) in columns.iter_mut().zip(low).zip(high) {
        let (halves, _) = column.as_chunks_mut::<32>();
        let v = load(high);
        store(&mut halves[1], v);
        let folded = fold.product(Halves::of(v));
        store(&mut halves[0], _mm256_xor_si256(load(low), folded));
    }
}

/// Bytes as two indices into tables of 16.
#[derive(Clone, Copy)]
struct Halves {
    low: __m256i,
    high: __m256i,
}

impl Halves {
    #[inline]
    #[target_feature(enable = "avx2")]
    fn of(bytes: __m256i) -> Self {
        let mask = _mm256_set1_epi8(0x0f);
        Self {
            low: _mm256_and_si256(bytes, mask),
            high: _mm256_and_si256(_mm256_srli_epi16::<4>(bytes), mask),
        }
    }
}

/// The tables of one coefficient, in both halves of a vector, as `pshufb` wants them.
#[derive(Clone, Copy)]
struct Tables {
    low: __m256i,
    high: __m256i,
}

impl Tables {
    #[inline]
    #[target_feature(enable = "avx2")]
    fn of(nibbles: &Nibbles) -> Self {
        Self {
            low: broadcast(&nibbles.low),
            high: broadcast(&nibbles.high),
        }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn product(self, halves: Halves) -> __m256i {
        _mm256_xor_si256(
            _mm256_shuffle_epi8(self.low, halves.low),
            _mm256_shuffle_epi8(self.high, halves.high),
        )
    }
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
pub(super) fn load(bytes: &[u8; 32]) -> __m256i {
    // SAFETY: the reference covers 32 readable bytes; `loadu` asks nothing of alignment.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn store(bytes: &mut [u8; 32], vector: __m256i) {
    // SAFETY: the reference covers 32 writable bytes; `storeu` asks nothing of alignment.
    unsafe { _mm256_storeu_si256(bytes.as_mut_ptr().cast(), vector) }
}
