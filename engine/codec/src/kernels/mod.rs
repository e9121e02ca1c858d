//! Byte kernels of the erasure code: products of a matrix over GF(2^8) and rows of bytes.
//!
//! [`Matrix::apply`] multiplies; [`split`] and [`join`] carry a share's symbols into bytes that
//! it can multiply and back (`field` has the reason):
//!
//! ```text
//! split:  for each column (32 low bytes l, 32 high bytes h):  u = l + fold(h), v = h
//! apply:  target[r] = sum over c of coefficient[r][c] * source[c]
//! join:   l = u + fold(v), h = v
//! ```
//!
//! What differs between that and the tiers:
//!
//! 1. A product by a constant is two table look-ups of four bits each (`pshufb`), one affine map
//!    (`gf2p8affineqb`), or, in the scalar tier, eight masked additions. The matrix keeps its
//!    coefficients in the form that its level wants.
//! 2. Target rows go in groups whose sums stay in registers while all source rows pass, so each
//!    source byte is loaded and taken apart once for a group and each target byte written once.
//! 3. Rows are multiples of [`ROW_STEP`] long and in one buffer, so no tier has a tail.
//!
//! **Invariant:** no allocation after [`Matrix::new`], no `Result`, no knowledge of shares or
//! plans. **Invariant:** every tier equals the scalar one on every input. **Boundary:** the only
//! `unsafe` in the crate; a [`Level`] is its safety argument.
#![allow(
    unsafe_code,
    reason = "instructions that only some CPUs have, and loads and stores of vectors"
)]

mod scalar;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod x86_64;

use crate::field::Field;
#[cfg(any(test, target_arch = "x86_64"))]
use crate::field::{FOLD, additive};
use crate::level::{Level, Tier};
use crate::shape::COLUMN_BYTES;

/// Rows of a product are a multiple of this long: the widest vector.
pub(crate) const ROW_STEP: usize = 64;

/// A coefficient as the bytes that the bits of a byte become.
type Images = [u8; 8];

/// A coefficient as two tables of its products: by the low and by the high four bits of a byte.
#[cfg(any(test, target_arch = "x86_64"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(32))]
struct Nibbles {
    low: [u8; 16],
    high: [u8; 16],
}

/// `fold`, as the products of a coefficient.
#[cfg(any(test, target_arch = "x86_64"))]
const FOLD_NIBBLES: Nibbles = nibbles(&FOLD);

/// A coefficient as the 8 by 8 bit matrix of `gf2p8affineqb`.
#[cfg(any(test, target_arch = "x86_64"))]
type Affine = u64;

/// A matrix over GF(2^8), made ready for a level.
pub(crate) struct Matrix {
    level: Level,
    row_count: usize,
    column_count: usize,
    coefficients: Coefficients,
}

/// The coefficients, group by group of target rows; in a group column by column; in a column
/// row by row.
enum Coefficients {
    Images(Vec<Images>),
    #[cfg(target_arch = "x86_64")]
    Nibbles(Vec<Nibbles>),
    #[cfg(target_arch = "x86_64")]
    Affine(Vec<Affine>),
}

impl Matrix {
    /// A matrix of `column_count` columns from its coefficients, row by row.
    ///
    /// # Panics
    ///
    /// If the coefficients do not fill whole rows.
    pub(crate) fn new(level: Level, column_count: usize, coefficients: &[u8]) -> Self {
        assert!(
            column_count > 0 && coefficients.len().is_multiple_of(column_count),
            "rows are whole"
        );
        let row_count = coefficients.len() / column_count;
        let field = Field::new();
        let mut ordered = Vec::with_capacity(coefficients.len());
        for rows in groups(row_count, group_rows_max(level)) {
            for column in 0..column_count {
                let group = rows.clone();
                ordered.extend(group.map(|row| coefficients[row * column_count + column]));
            }
        }
        let images = ordered.into_iter().map(|factor| field.images(factor));
        let coefficients = match level.tier() {
            Tier::Scalar => Coefficients::Images(images.collect()),
            #[cfg(target_arch = "x86_64")]
            Tier::Ssse3 | Tier::Avx2 | Tier::Avx512 => {
                Coefficients::Nibbles(images.map(|images| nibbles(&images)).collect())
            }
            #[cfg(target_arch = "x86_64")]
            Tier::Avx2Gfni | Tier::Avx512Gfni => {
                Coefficients::Affine(images.map(|images| affine(&images)).collect())
            }
        };
        Self {
            level,
            row_count,
            column_count,
            coefficients,
        }
    }

    /// Multiplies the rows in `source`, one for each column of the matrix, and overwrites those
    /// in `target`, one for each row of the matrix. All rows are `row_len` bytes.
    ///
    /// # Panics
    ///
    /// If `row_len` is not a multiple of [`ROW_STEP`] or a buffer is not exactly its rows.
    pub(crate) fn apply(&self, row_len: usize, source: &[u8], target: &mut [u8]) {
        assert!(row_len.is_multiple_of(ROW_STEP), "rows are whole vectors");
        assert_eq!(source.len(), self.column_count * row_len, "source rows");
        assert_eq!(target.len(), self.row_count * row_len, "target rows");
        if row_len == 0 {
            return;
        }
        for rows in groups(self.row_count, group_rows_max(self.level)) {
            let of_group = rows.start * self.column_count..rows.end * self.column_count;
            let target = &mut target[rows.start * row_len..rows.end * row_len];
            match (self.level.tier(), &self.coefficients) {
                (_, Coefficients::Images(all)) => {
                    scalar::multiply(&all[of_group], rows.len(), row_len, source, target);
                }
                #[cfg(target_arch = "x86_64")]
                (tier, Coefficients::Nibbles(all)) => {
                    let all = &all[of_group];
                    match tier {
                        // SAFETY: a `Level` of this tier is made only where the CPU has AVX-512 F
                        // and BW.
                        Tier::Avx512 => unsafe {
                            x86_64::avx512::multiply(all, rows.len(), row_len, source, target);
                        },
                        // SAFETY: a `Level` of this tier is made only where the CPU has AVX2.
                        Tier::Avx2 => unsafe {
                            x86_64::avx2::multiply(all, rows.len(), row_len, source, target);
                        },
                        // SAFETY: a `Level` of this tier is made only where the CPU has SSSE3.
                        Tier::Ssse3 => unsafe {
                            x86_64::ssse3::multiply(all, rows.len(), row_len, source, target);
                        },
                        _ => unreachable!("matrices of other tiers are images or affine"),
                    }
                }
                #[cfg(target_arch = "x86_64")]
                (tier, Coefficients::Affine(all)) => {
                    let all = &all[of_group];
                    match tier {
                        // SAFETY: a `Level` of this tier is made only where the CPU has AVX-512 F,
                        // BW and GFNI.
                        Tier::Avx512Gfni => unsafe {
                            x86_64::avx512_gfni::multiply(all, rows.len(), row_len, source, target);
                        },
                        // SAFETY: a `Level` of this tier is made only where the CPU has AVX2 and
                        // GFNI.
                        Tier::Avx2Gfni => unsafe {
                            x86_64::avx2_gfni::multiply(all, rows.len(), row_len, source, target);
                        },
                        _ => unreachable!("matrices of other tiers are images or nibbles"),
                    }
                }
            }
        }
    }
}

/// Takes a share's columns apart: low bytes folded into the subfield, and high bytes.
///
/// # Panics
///
/// If the lengths are not those of the same whole columns.
pub(crate) fn split(level: Level, share: &[u8], low: &mut [u8], high: &mut [u8]) {
    assert!(share.len().is_multiple_of(COLUMN_BYTES), "whole columns");
    assert_eq!((low.len(), high.len()), (share.len() / 2, share.len() / 2));
    match level.tier() {
        Tier::Scalar => scalar::split(share, low, high),
        #[cfg(target_arch = "x86_64")]
        Tier::Ssse3 => {
            // SAFETY: a `Level` of this tier is made only where the CPU has SSSE3.
            unsafe { x86_64::ssse3::split(share, low, high) }
        }
        #[cfg(target_arch = "x86_64")]
        Tier::Avx2 | Tier::Avx2Gfni | Tier::Avx512 | Tier::Avx512Gfni => {
            // SAFETY: `Level`s of these tiers are made only where the CPU has AVX2.
            unsafe { x86_64::avx2::split(share, low, high) }
        }
    }
}

/// Puts a share's columns together again: the opposite of [`split`].
///
/// # Panics
///
/// If the lengths are not those of the same whole columns.
pub(crate) fn join(level: Level, low: &[u8], high: &[u8], share: &mut [u8]) {
    assert!(share.len().is_multiple_of(COLUMN_BYTES), "whole columns");
    assert_eq!((low.len(), high.len()), (share.len() / 2, share.len() / 2));
    match level.tier() {
        Tier::Scalar => scalar::join(low, high, share),
        #[cfg(target_arch = "x86_64")]
        Tier::Ssse3 => {
            // SAFETY: a `Level` of this tier is made only where the CPU has SSSE3.
            unsafe { x86_64::ssse3::join(low, high, share) }
        }
        #[cfg(target_arch = "x86_64")]
        Tier::Avx2 | Tier::Avx2Gfni | Tier::Avx512 | Tier::Avx512Gfni => {
            // SAFETY: `Level`s of these tiers are made only where the CPU has AVX2.
            unsafe { x86_64::avx2::join(low, high, share) }
        }
    }
}

/// Target rows whose sums a tier keeps in registers.
fn group_rows_max(level: Level) -> usize {
    match level.tier() {
        Tier::Scalar => scalar::GROUP_ROWS_MAX,
        #[cfg(target_arch = "x86_64")]
        Tier::Ssse3 => x86_64::ssse3::GROUP_ROWS_MAX,
        #[cfg(target_arch = "x86_64")]
        Tier::Avx2 => x86_64::avx2::GROUP_ROWS_MAX,
        #[cfg(target_arch = "x86_64")]
        Tier::Avx512 => x86_64::avx512::GROUP_ROWS_MAX,
        #[cfg(target_arch = "x86_64")]
        Tier::Avx2Gfni => x86_64::avx2_gfni::GROUP_ROWS_MAX,
        #[cfg(target_arch = "x86_64")]
        Tier::Avx512Gfni => x86_64::avx512_gfni::GROUP_ROWS_MAX,
    }
}

/// Cuts rows into as few groups as fit, of sizes that differ by one at most.
fn groups(row_count: usize, group_rows_max: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
    let count = row_count.div_ceil(group_rows_max);
    (0..count).map(move |group| group * row_count / count..(group + 1) * row_count / count)
}

#[cfg(any(test, target_arch = "x86_64"))]
const fn nibbles(images: &Images) -> Nibbles {
    let mut tables = Nibbles {
        low: [0; 16],
        high: [0; 16],
    };
    let mut nibble = 0;
    while nibble < 16 {
        tables.low[nibble] = additive(images, nibble as u8);
        tables.high[nibble] = additive(images, (nibble as u8) << 4);
        nibble += 1;
    }
    tables
}

/// The instruction's bit `i` of a product is the parity of the byte and of byte `7 - i` of the
/// matrix, counted from its lowest.
#[cfg(any(test, target_arch = "x86_64"))]
fn affine(images: &Images) -> Affine {
    let mut matrix = [0; 8];
    for (bit, row) in matrix.iter_mut().rev().enumerate() {
        for (from, image) in images.iter().enumerate() {
            *row |= (image >> bit & 1) << from;
        }
    }
    u64::from_le_bytes(matrix)
}
