//! SSSE3: 16 products by look-up at a time, two vectors of a row side by side.

use core::arch::x86_64::*;

use super::with_group_rows;
use crate::kernels::{FOLD_NIBBLES, Nibbles};

/// 4 rows x 2 sums, 4 halves of the source and 2 tables: 14 of 16 registers.
pub(in crate::kernels) const GROUP_ROWS_MAX: usize = 4;

#[target_feature(enable = "ssse3")]
pub(in crate::kernels) fn multiply(
    coefficients: &[Nibbles],
    row_count: usize,
    row_len: usize,
    source: &[u8],
    target: &mut [u8],
) {
    with_group_rows!(row_count, group(coefficients, row_len, source, target));
}

#[target_feature(enable = "ssse3")]
fn group<const ROWS: usize>(
    coefficients: &[Nibbles],
    row_len: usize,
    source: &[u8],
    target: &mut [u8],
) {
    let (columns, _) = coefficients.as_chunks::<ROWS>();
    for step in 0..row_len / 32 {
        let mut sums = [[_mm_setzero_si128(); 2]; ROWS];
        for (column, source) in columns.iter().zip(source.chunks_exact(row_len)) {
            let (source, _) = source.as_chunks::<16>();
            let first = Halves::of(load(&source[2 * step]));
            let second = Halves::of(load(&source[2 * step + 1]));
            for (sums, tables) in sums.iter_mut().zip(column) {
                let tables = Tables::of(tables);
                sums[0] = _mm_xor_si128(sums[0], tables.product(first));
                sums[1] = _mm_xor_si128(sums[1], tables.product(second));
            }
        }
        for (sums, target) in sums.iter().zip(target.chunks_exact_mut(row_len)) {
            let (target, _) = target.as_chunks_mut::<16>();
            store(&mut target[2 * step], sums[0]);
            store(&mut target[2 * step + 1], sums[1]);
        }
    }
}

#[target_feature(enable = "ssse3")]
pub(in crate::kernels) fn split(share: &[u8], low: &mut [u8], high: &mut [u8]) {
    let fold = Tables::of(&FOLD_NIBBLES);
    let (columns, _) = share.as_chunks::<64>();
    let (low, _) = low.as_chunks_mut::<16>();
    let (high, _) = high.as_chunks_mut::<16>();
    let targets = low.chunks_exact_mut(2).zip(high.chunks_exact_mut(2));
    for (column, (low, high)) in columns.iter().zip(targets) {
        let (quarters, _) = column.as_chunks::<16>();
        for half in 0..2 {
            let v = load(&quarters[2 + half]);
            store(&mut high[half], v);
            let folded = fold.product(Halves::of(v));
            store(&mut low[half], _mm_xor_si128(load(&quarters[half]), folded));
        }
    }
}

#[target_feature(enable = "ssse3")]
pub(in crate::kernels) fn join(low: &[u8], high: &[u8], share: &mut [u8]) {
    let fold = Tables::of(&FOLD_NIBBLES);
    let (columns, _) = share.as_chunks_mut::<64>();
    let (low, _) = low.as_chunks::<16>();
    let (high, _) = high.as_chunks::<16>();
    let sources = low.chunks_exact(2).zip(high.chunks_exact(2));
    for (column, (low, high)) in columns.iter_mut().zip(sources) {
        let (quarters, _) = column.as_chunks_mut::<16>();
        for half in 0..2 {
            let v = load(&high[half]);
            store(&mut quarters[2 + half], v);
            let folded = fold.product(Halves::of(v));
            store(&mut quarters[half], _mm_xor_si128(load(&low[half]), folded));
        }
    }
}

/// Bytes as two indices into tables of 16.
#[derive(Clone, Copy)]
struct Halves {
    low: __m128i,
    high: __m128i,
}

impl Halves {
    #[inline]
    #[target_feature(enable = "ssse3")]
    fn of(bytes: __m128i) -> Self {
        let mask = _mm_set1_epi8(0x0f);
        Self {
            low: _mm_and_si128(bytes, mask),
            high: _mm_and_si128(_mm_srli_epi16::<4>(bytes), mask),
        }
    }
}

/// The tables of one coefficient.
#[derive(Clone, Copy)]
struct Tables {
    low: __m128i,
    high: __m128i,
}

impl Tables {
    #[inline]
    #[target_feature(enable = "ssse3")]
    fn of(nibbles: &Nibbles) -> Self {
        Self {
            low: load(&nibbles.low),
            high: load(&nibbles.high),
        }
    }

    #[inline]
    #[target_feature(enable = "ssse3")]
    fn product(self, halves: Halves) -> __m128i {
        _mm_xor_si128(
            _mm_shuffle_epi8(self.low, halves.low),
            _mm_shuffle_epi8(self.high, halves.high),
        )
    }
}

#[inline]
#[target_feature(enable = "ssse3")]
fn load(bytes: &[u8; 16]) -> __m128i {
    // SAFETY: the reference covers 16 readable bytes; `loadu` asks nothing of alignment.
    unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "ssse3")]
fn store(bytes: &mut [u8; 16], vector: __m128i) {
    // SAFETY: the reference covers 16 writable bytes; `storeu` asks nothing of alignment.
    unsafe { _mm_storeu_si128(bytes.as_mut_ptr().cast(), vector) }
}
