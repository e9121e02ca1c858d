//! Products of a matrix of symbols and rows of shares.
//!
//! ```text
//! apply:  target[r] = sum over c of coefficient[r][c] * source[c]
//! ```
//!
//! What differs between that and the tiers:
//!
//! 1. The matrix keeps its coefficients in the form that its level wants.
//! 2. Coefficients below 256, as all are of which every point is below 256, multiply low and high
//!    bytes alike. If one is not, the product is *wide*: a coefficient `p + q b_8` is two
//!    factors, `p` of the source and `q` of the source times `b_8`, which is made once.
//! 3. Target rows go in groups whose sums stay in registers while all source rows pass, so each
//!    source byte is loaded, folded and taken apart once for a group and each target byte written
//!    once. If there are several groups they take turns at tiles that stay in L1.

use std::ops::Range;

use super::factor::ALL_IMAGES;
#[cfg(target_arch = "x86_64")]
use super::factor::{ALL_AFFINE, ALL_NIBBLES};
#[cfg(target_arch = "x86_64")]
use super::{Affine, Nibbles, affine, nibbles, x86_64};
use super::{Images, scalar};
use crate::field::Field;
use crate::level::{Level, Tier};
use crate::shape::COLUMN_BYTES;

/// Source bytes of a tile, if there are several groups: half of an L1 of 32 KiB.
const TILE_BYTES: usize = 16 * 1_024;

/// Target rows of a group of a wide product.
const WIDE_ROWS_MAX: usize = 8;

/// A matrix of symbols, made ready for a level.
pub(crate) struct Matrix {
    level: Level,
    row_count: usize,
    column_count: usize,
    is_wide: bool,
    factors: Factors,
}

/// The factors, group by group of target rows; in a group column by column; in a column, or in
/// each half of it if the product is wide, row by row.
enum Factors {
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
    pub(crate) fn new(level: Level, column_count: usize, coefficients: &[u16]) -> Self {
        assert!(
            column_count > 0 && coefficients.len().is_multiple_of(column_count),
            "rows are whole"
        );
        let row_count = coefficients.len() / column_count;
        let is_wide = coefficients.iter().any(|&coefficient| coefficient > 255);
        let mut ordered = Vec::with_capacity(coefficients.len() * (1 + usize::from(is_wide)));
        for rows in groups(row_count, group_rows_max(level, is_wide)) {
            for column in 0..column_count {
                let of_group = rows.clone().map(|row| row * column_count + column);
                let halves = of_group.map(|at| Field::split(coefficients[at]));
                ordered.extend(halves.clone().map(|[low, _]| low));
                if is_wide {
                    ordered.extend(halves.map(|[_, high]| high));
                }
            }
        }
        let ordered = ordered.into_iter();
        let factors = match level.tier() {
            Tier::Scalar => Factors::Images(ALL_IMAGES.of(ordered, |images| *images)),
            #[cfg(target_arch = "x86_64")]
            Tier::Ssse3 | Tier::Avx2 | Tier::Avx512 => {
                Factors::Nibbles(ALL_NIBBLES.of(ordered, nibbles))
            }
            #[cfg(target_arch = "x86_64")]
            Tier::Avx2Gfni | Tier::Avx512Gfni => Factors::Affine(ALL_AFFINE.of(ordered, affine)),
        };
        Self {
            level,
            row_count,
            column_count,
            is_wide,
            factors,
        }
    }

    /// Whether some coefficient lies outside the subfield, which doubles the work.
    #[cfg(test)]
    pub(crate) fn is_wide(&self) -> bool {
        self.is_wide
    }

    /// Multiplies the shares in `sources`, one for each column of the matrix, and overwrites
    /// those in `targets`, one for each row of the matrix.
    ///
    /// # Panics
    ///
    /// If the shares are not as many or not of one length in whole columns.
    pub(crate) fn apply(&self, sources: &[&[u8]], targets: &mut [&mut [u8]]) {
        assert_eq!(sources.len(), self.column_count, "source rows");
        assert_eq!(targets.len(), self.row_count, "target rows");
        let len = sources[0].len();
        assert!(len.is_multiple_of(COLUMN_BYTES), "whole columns");
        assert!(sources.iter().all(|source| source.len() == len));
        assert!(targets.iter().all(|target| target.len() == len));
        let group_rows_max = group_rows_max(self.level, self.is_wide);
        let tile_len = if self.row_count <= group_rows_max {
            len
        } else {
            (TILE_BYTES / sources.len()).next_multiple_of(COLUMN_BYTES)
        };
        let mut start = 0;
        while start < len {
            let range = start..len.min(start + tile_len);
            start = range.end;
            for rows in groups(self.row_count, group_rows_max) {
                self.apply_group(rows, sources, targets, range.clone());
            }
        }
    }

    fn apply_group(
        &self,
        rows: Range<usize>,
        sources: &[&[u8]],
        targets: &mut [&mut [u8]],
        range: Range<usize>,
    ) {
        let is_wide = self.is_wide;
        let per_row = self.column_count * (1 + usize::from(is_wide));
        let of_group = rows.start * per_row..rows.end * per_row;
        let targets = &mut targets[rows];
        match (self.level.tier(), &self.factors) {
            (_, Factors::Images(all)) => {
                scalar::multiply(&all[of_group], is_wide, sources, targets, range);
            }
            #[cfg(target_arch = "x86_64")]
            (tier, Factors::Nibbles(all)) => {
                let all = &all[of_group];
                match tier {
                    // SAFETY: a `Level` of this tier is made only where the CPU has AVX-512 F
                    // and BW.
                    Tier::Avx512 => unsafe {
                        x86_64::avx512::multiply(all, is_wide, sources, targets, range);
                    },
                    // SAFETY: a `Level` of this tier is made only where the CPU has AVX2.
                    Tier::Avx2 => unsafe {
                        x86_64::avx2::multiply(all, is_wide, sources, targets, range);
                    },
                    // SAFETY: a `Level` of this tier is made only where the CPU has SSSE3.
                    Tier::Ssse3 => unsafe {
                        x86_64::ssse3::multiply(all, is_wide, sources, targets, range);
                    },
                    _ => unreachable!("matrices of other tiers are images or affine"),
                }
            }
            #[cfg(target_arch = "x86_64")]
            (tier, Factors::Affine(all)) => {
                let all = &all[of_group];
                match tier {
                    // SAFETY: a `Level` of this tier is made only where the CPU has AVX-512 F,
                    // BW and GFNI.
                    Tier::Avx512Gfni => unsafe {
                        x86_64::avx512_gfni::multiply(all, is_wide, sources, targets, range);
                    },
                    // SAFETY: a `Level` of this tier is made only where the CPU has AVX2 and
                    // GFNI.
                    Tier::Avx2Gfni => unsafe {
                        x86_64::avx2_gfni::multiply(all, is_wide, sources, targets, range);
                    },
                    _ => unreachable!("matrices of other tiers are images or nibbles"),
                }
            }
        }
    }
}

/// Target rows whose sums a tier keeps in registers.
pub(in crate::kernels) fn group_rows_max(level: Level, is_wide: bool) -> usize {
    let row_count = match level.tier() {
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
    };
    if is_wide {
        row_count.min(WIDE_ROWS_MAX)
    } else {
        row_count
    }
}

/// Cuts rows into as few groups as fit, of sizes that differ by one at most.
pub(in crate::kernels) fn groups(
    row_count: usize,
    group_rows_max: usize,
) -> impl Iterator<Item = Range<usize>> {
    let count = row_count.div_ceil(group_rows_max);
    (0..count).map(move |group| group * row_count / count..(group + 1) * row_count / count)
}
