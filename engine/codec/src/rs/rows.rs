//! Missing data shares from present shares.
//!
//! A plan is a matrix: what each present share contributes to each wanted one. Applying it is
//! a product of that matrix and the shares, one tile of columns at a time: split the present
//! shares into bytes of GF(2^8), multiply, join the wanted ones (`kernels`). The tile lives on
//! the stack, so a plan has no work space and threads may share it.

use std::fmt;

use super::error::{CodeError, check_lens};
use super::lagrange;
use crate::field::Field;
use crate::kernels::{self, Matrix};
use crate::level::Level;
use crate::shape::{COLUMN_BYTES, check_counts};

/// Stack that a tile's present and wanted rows share.
///
/// Present rows are read once for every few wanted ones, so they should stay in L1 or close by
/// in L2. Any other value gives the same bytes.
const TILE_BYTES: usize = 64 * 1_024;

/// Tiles are whole columns, and both halves of them whole vectors.
const TILE_STEP: usize = 2 * kernels::ROW_STEP;

const _: () = assert!(TILE_STEP.is_multiple_of(COLUMN_BYTES));
// 64 present rows, and at most as many wanted ones, fit in.
const _: () = assert!(TILE_BYTES >= 128 * TILE_STEP);

/// Rebuilds data shares for one pattern of present and wanted indices.
///
/// Making one costs some microseconds and at most 32 bytes for each pair of a present and a
/// wanted share (four times that if a present index is so high that its point is above 255:
/// only for 33 and more required of more than 224 shares); applying it keeps nothing and needs
/// 64 KiB of stack.
pub struct RowPlan {
    required: u8,
    present: Vec<u8>,
    wanted: Vec<u8>,
    level: Level,
    /// `None` if nothing is wanted.
    product: Option<Product>,
}

struct Product {
    matrix: Matrix,
    /// Rows of the matrix for each wanted share, and columns for each present one: 1 if all
    /// coefficients are in GF(2^8), which then multiply both halves of a share alike; 2 if the
    /// halves mix.
    rows_per_share: usize,
}

impl RowPlan {
    /// A plan that makes the `wanted` data shares from the `present` shares, at the level of
    /// the process.
    ///
    /// `present` are exactly `required` indices below `total`, ascending; `wanted` are distinct
    /// data indices (below `required`) that are not present, in any order.
    ///
    /// # Errors
    ///
    /// [`CodeError`] names the first index or count that breaks these rules, or says that
    /// `STRAND_LEVEL` is wrong.
    pub fn new(required: u8, total: u8, present: &[u8], wanted: &[u8]) -> Result<Self, CodeError> {
        Self::with_level(Level::of_process()?, required, total, present, wanted)
    }

    /// [`RowPlan::new`] at a level of the caller's choice. The bytes are the same at every level.
    ///
    /// # Errors
    ///
    /// [`CodeError`] names the first index or count that breaks the rules.
    pub fn with_level(
        level: Level,
        required: u8,
        total: u8,
        present: &[u8],
        wanted: &[u8],
    ) -> Result<Self, CodeError> {
        check_counts(required, total)?;
        check_present(required, total, present)?;
        check_wanted(required, present, wanted)?;
        let product = (!wanted.is_empty()).then(|| Product::new(level, required, present, wanted));
        Ok(Self {
            required,
            present: present.to_vec(),
            wanted: wanted.to_vec(),
            level,
            product,
        })
    }

    /// Indices of the shares to give to [`RowPlan::apply`], in order.
    pub fn present(&self) -> &[u8] {
        &self.present
    }

    /// Indices of the shares that [`RowPlan::apply`] writes, in order.
    pub fn wanted(&self) -> &[u8] {
        &self.wanted
    }

    /// The level it works at.
    pub fn level(&self) -> Level {
        self.level
    }

    /// Rebuilds the wanted shares of any range of columns.
    ///
    /// `present` are the shares (or the same columns of them) in the order of the plan's present
    /// indices, `wanted` those to overwrite in the order of its wanted indices; all have one
    /// length, a multiple of 64.
    ///
    /// The code finds no errors: wrong bytes in give wrong bytes out. Verify shares first.
    ///
    /// # Errors
    ///
    /// [`CodeError`] if counts or lengths do not fit; nothing is written then.
    pub fn apply(&self, present: &[&[u8]], wanted: &mut [&mut [u8]]) -> Result<(), CodeError> {
        if present.len() != self.present.len() {
            return Err(CodeError::ShareCount {
                given_count: present.len(),
                required_count: self.required,
            });
        }
        if wanted.len() != self.wanted.len() {
            return Err(CodeError::TargetCount {
                given_count: wanted.len(),
                expected_count: self.wanted.len(),
            });
        }
        let lens = present.iter().map(|share| share.len());
        let share_len = check_lens(lens.chain(wanted.iter().map(|share| share.len())))?;
        if let Some(product) = &self.product {
            product.apply(self.level, share_len, present, wanted);
        }
        Ok(())
    }
}

/// The rows of a tile, where a vector of theirs never straddles two cache lines.
#[repr(align(64))]
struct Tile([u8; TILE_BYTES]);

impl Product {
    fn new(level: Level, required: u8, present: &[u8], wanted: &[u8]) -> Self {
        let factors = lagrange::coefficients(required, present, wanted);
        let narrow: Result<Vec<u8>, _> = factors.iter().map(|&factor| factor.try_into()).collect();
        if let Ok(coefficients) = narrow {
            return Self {
                matrix: Matrix::new(level, present.len(), &coefficients),
                rows_per_share: 1,
            };
        }
        let field = Field::new();
        let mut coefficients = Vec::with_capacity(4 * factors.len());
        for factors in factors.chunks_exact(present.len()) {
            for half in [0, 1] {
                let rows = factors
                    .iter()
                    .map(|&factor| field.split_factor(factor)[half]);
                coefficients.extend(rows.flatten());
            }
        }
        Self {
            matrix: Matrix::new(level, 2 * present.len(), &coefficients),
            rows_per_share: 2,
        }
    }

    fn apply(&self, level: Level, share_len: usize, present: &[&[u8]], wanted: &mut [&mut [u8]]) {
        let mut tile = Tile([0; TILE_BYTES]);
        let tile_len = TILE_BYTES / (present.len() + wanted.len()) / TILE_STEP * TILE_STEP;
        for start in (0..share_len).step_by(tile_len) {
            let columns = start..(start + tile_len).min(share_len);
            let len = columns.len();
            // What lies behind a row's columns, if anything, is multiplied and not read.
            let row_len = len.next_multiple_of(TILE_STEP);
            let (sources, rest) = tile.0.split_at_mut(present.len() * row_len);
            let targets = &mut rest[..wanted.len() * row_len];
            for (share, row) in present.iter().zip(sources.chunks_exact_mut(row_len)) {
                let (low, high) = row.split_at_mut(row_len / 2);
                let (low, high) = (&mut low[..len / 2], &mut high[..len / 2]);
                kernels::split(level, &share[columns.clone()], low, high);
            }
            self.matrix
                .apply(row_len / self.rows_per_share, sources, targets);
            for (share, row) in wanted.iter_mut().zip(targets.chunks_exact(row_len)) {
                let (low, high) = row.split_at(row_len / 2);
                let (low, high) = (&low[..len / 2], &high[..len / 2]);
                kernels::join(level, low, high, &mut share[columns.clone()]);
            }
        }
    }
}

fn check_present(required: u8, total: u8, present: &[u8]) -> Result<(), CodeError> {
    if present.len() != usize::from(required) {
        return Err(CodeError::ShareCount {
            given_count: present.len(),
            required_count: required,
        });
    }
    if let Some(pair) = present.windows(2).find(|pair| pair[0] >= pair[1]) {
        return Err(CodeError::IndexOrder {
            index: pair[1],
            previous: pair[0],
        });
    }
    match present.last() {
        Some(&index) if index >= total => Err(CodeError::IndexOutOfRange {
            index,
            total_count: total,
        }),
        _ => Ok(()),
    }
}

fn check_wanted(required: u8, present: &[u8], wanted: &[u8]) -> Result<(), CodeError> {
    for (position, &index) in wanted.iter().enumerate() {
        if index >= required {
            return Err(CodeError::WantedNotData {
                index,
                required_count: required,
            });
        }
        if present.binary_search(&index).is_ok() {
            return Err(CodeError::WantedPresent { index });
        }
        if wanted[..position].contains(&index) {
            return Err(CodeError::WantedTwice { index });
        }
    }
    Ok(())
}

impl fmt::Debug for RowPlan {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "RowPlan({:?} from {:?})",
            self.wanted, self.present
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Which of the two forms a plan takes; that both are right is for the battery in `rs`.
    #[test]
    fn halves_mix_only_where_a_point_is_above_255() {
        let level = Level::best();
        for required in 1..=64_u8 {
            // The present shares are the last data shares and one recovery share, whose point is
            // the power of two at or above `required`, plus its row.
            for index in required..=254 {
                let mut present: Vec<u8> = (1..required).collect();
                present.push(index);
                let plan = RowPlan::with_level(level, required, 255, &present, &[0]).unwrap();
                let point = usize::from(required).next_power_of_two() + usize::from(index);
                let expected = 1 + usize::from(point - usize::from(required) > 255);
                let product = plan.product.unwrap();
                assert_eq!(product.rows_per_share, expected, "{required}, {index}");
            }
        }
    }
}
