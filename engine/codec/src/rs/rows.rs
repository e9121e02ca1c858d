//! Missing shares from present shares.
//!
//! A plan is a matrix: what each present share contributes to each wanted one. Applying it is
//! a product of that matrix and the shares (`kernels`), which reads and writes the caller's
//! shares and keeps nothing, so threads may share a plan.

use std::fmt;

use super::error::{CodeError, check_lens};
use super::lagrange;
use crate::kernels::Matrix;
use crate::level::Level;
use crate::shape::check_counts;

/// Rebuilds shares, data or recovery ones, for one pattern of present and wanted indices.
///
/// Making one costs some microseconds and at most 32 bytes for each pair of a present and a
/// wanted share (twice that if an index is so high that its point is above 255: only for 33 and
/// more required of more than 224 shares). Whoever meets a pattern again keeps the plan, or a
/// [`PlanCache`](super::PlanCache).
pub struct RowPlan {
    required: u8,
    present: Vec<u8>,
    wanted: Vec<u8>,
    level: Level,
    /// `None` if nothing is wanted.
    matrix: Option<Matrix>,
}

impl RowPlan {
    /// A plan that makes the `wanted` shares from the `present` shares, at the level of the
    /// process.
    ///
    /// `present` are exactly `required` indices below `total`, ascending; `wanted` are distinct
    /// indices below `total` that are not present, in any order: data shares for a reader,
    /// any for a repair.
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
        Self::check(required, total, present, wanted)?;
        let matrix = (!wanted.is_empty()).then(|| {
            let coefficients = lagrange::coefficients(required, present, wanted);
            Matrix::new(level, present.len(), &coefficients)
        });
        Ok(Self {
            required,
            present: present.to_vec(),
            wanted: wanted.to_vec(),
            level,
            matrix,
        })
    }

    /// The rules of [`RowPlan::new`].
    pub(super) fn check(
        required: u8,
        total: u8,
        present: &[u8],
        wanted: &[u8],
    ) -> Result<(), CodeError> {
        check_counts(required, total)?;
        check_present(required, total, present)?;
        check_wanted(total, present, wanted)
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
        check_lens(lens.chain(wanted.iter().map(|share| share.len())))?;
        if let Some(matrix) = &self.matrix {
            matrix.apply(present, wanted);
        }
        Ok(())
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

fn check_wanted(total: u8, present: &[u8], wanted: &[u8]) -> Result<(), CodeError> {
    for (position, &index) in wanted.iter().enumerate() {
        if index >= total {
            return Err(CodeError::IndexOutOfRange {
                index,
                total_count: total,
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
                let is_wide = point - usize::from(required) > 255;
                let matrix = plan.matrix.unwrap();
                assert_eq!(matrix.is_wide(), is_wide, "{required}, {index}");
            }
        }
    }
}
