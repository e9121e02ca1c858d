//! Shares in vectors that hold a whole column: 32 low bytes, then 32 high ones.
//!
//! A factor of the subfield multiplies both halves alike, so nothing is taken apart; only folding
//! needs the high bytes beside the low ones.

use core::arch::x86_64::*;

pub(super) type Vector = __m512i;

/// The exclusive or of three, as a table of three bits.
pub(super) const XOR3: i32 = 0b1001_0110;

/// Defines `read`, `write` and `times_b8` in the module of a tier of whole columns, from
/// `add_fold`, which adds the fold of high bytes, given twice, to a column, and `product_of_b7`.
macro_rules! wide_tier {
    ($features:literal) => {
        use super::wide::{
            Vector, add, fence, load, low_then_high, store, stream, swap, twice_high,
        };

        const PLANES: usize = 1;
        const SPAN: usize = 1;

        /// A column is a line of cache.
        const STREAMS: bool = true;

        /// A share's column, folded.
        ///
        /// # Safety
        ///
        /// Its 64 bytes are readable.
        #[inline]
        #[target_feature(enable = $features)]
        unsafe fn read(column: *const u8, _plane: usize) -> Vector {
            // SAFETY: the caller's bytes.
            let vector = unsafe { load(column) };
            // SAFETY: the caller's bytes.
            add_fold(vector, unsafe { twice_high(column) })
        }

        /// Unfolds a vector into a share's column.
        ///
        /// # Safety
        ///
        /// Its 64 bytes are writable, and begin at a multiple of 64 if it streams.
        #[inline]
        #[target_feature(enable = $features)]
        unsafe fn write<const STREAM: bool>(column: *mut u8, _plane: usize, vector: Vector) {
            let vector = add_fold(vector, swap(vector));
            if STREAM {
                // SAFETY: the caller's bytes, where the caller says.
                unsafe { stream(column, vector) };
            } else {
                // SAFETY: the caller's bytes.
                unsafe { store(column, vector) };
            }
        }

        /// `(u + v b_8) b_8 = b_7 v + (u + v) b_8`.
        #[inline]
        #[target_feature(enable = $features)]
        fn times_b8([column]: [Vector; SPAN]) -> [Vector; SPAN] {
            let swapped = swap(column);
            let low = add_product(zero(), &B7, prepare(swapped));
            [low_then_high(low, add(column, swapped))]
        }
    };
}
pub(super) use wide_tier;

#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn zero() -> Vector {
    _mm512_setzero_si512()
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn add(a: Vector, b: Vector) -> Vector {
    _mm512_xor_si512(a, b)
}

/// High bytes first.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn swap(column: Vector) -> Vector {
    _mm512_shuffle_i64x2::<0b01_00_11_10>(column, column)
}

/// The low bytes of one and the high bytes of another column.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn low_then_high(low: Vector, high: Vector) -> Vector {
    _mm512_mask_blend_epi64(0b1111_0000, low, high)
}

/// A column's high bytes in both halves.
///
/// # Safety
///
/// 64 bytes are readable.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn twice_high(column: *const u8) -> Vector {
    // SAFETY: the second half of the caller's bytes; `loadu` asks nothing of alignment.
    let high = unsafe { _mm256_loadu_si256(column.wrapping_add(32).cast()) };
    _mm512_broadcast_i64x4(high)
}

/// # Safety
///
/// 64 bytes are readable.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn load(bytes: *const u8) -> Vector {
    // SAFETY: the caller's bytes; `loadu` asks nothing of alignment.
    unsafe { _mm512_loadu_si512(bytes.cast()) }
}

/// # Safety
///
/// 64 bytes are writable.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn store(bytes: *mut u8, vector: Vector) {
    // SAFETY: the caller's bytes; `storeu` asks nothing of alignment.
    unsafe { _mm512_storeu_si512(bytes.cast(), vector) }
}

/// Stores without a trip through the caches.
///
/// # Safety
///
/// 64 bytes are writable and begin at a multiple of 64; [`fence`] follows before others read.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn stream(bytes: *mut u8, vector: Vector) {
    // SAFETY: the caller's bytes, aligned as the caller says.
    unsafe { _mm512_stream_si512(bytes.cast(), vector) }
}

/// Orders streamed stores before all that follow.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn fence() {
    _mm_sfence();
}
