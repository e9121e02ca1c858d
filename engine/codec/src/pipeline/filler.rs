//! The missing data shares of a stripe, at their places.

use std::ops::Range;
use std::sync::Arc;

use super::ROWS_MAX;
use crate::rs::{CodeError, RowPlan};
use crate::shape::Shape;

/// Computes data shares of a segment's stripes from any `k` shares, in any order of stripes; threads may share one.
#[derive(Clone, Debug)]
pub struct StripeFiller {
    shape: Shape,
    plan: Arc<RowPlan>,
    /// How many of the plan's present shares are data shares: the first ones.
    present_data: usize,
}

impl StripeFiller {
    /// A filler that does what `plan` says.
    ///
    /// # Errors
    ///
    /// [`CodeError::ShareCount`] if the plan is for another number of data shares, [`CodeError::IndexOutOfRange`] if it makes recovery shares.
    pub fn new(shape: &Shape, plan: Arc<RowPlan>) -> Result<Self, CodeError> {
        let required = shape.required();
        if plan.present().len() != usize::from(required) {
            return Err(CodeError::ShareCount {
                given_count: plan.present().len(),
                required_count: required,
            });
        }
        if let Some(&index) = plan.wanted().iter().find(|&&index| index >= required) {
            return Err(CodeError::IndexOutOfRange {
                index,
                total_count: required,
            });
        }
        Ok(Self {
            shape: *shape,
            present_data: plan.present().partition_point(|&index| index < required),
            plan,
        })
    }

    /// Indices of the present shares; those that are data shares come first.
    pub fn present(&self) -> &[u8] {
        self.plan.present()
    }

    /// Computes some columns of the data shares that the plan makes.
    ///
    /// `data` has room for the data shares of the stripe back to back, and the present ones at their places as far as the columns go; `recovery` are
    /// these columns of the present recovery shares, in the order of their indices.
    ///
    /// # Errors
    ///
    /// [`CodeError`] if counts or lengths do not fit; nothing is written then.
    ///
    /// # Panics
    ///
    /// If the segment has no such stripe, or its shares no such columns.
    pub fn fill(
        &self,
        stripe: u32,
        columns: Range<usize>,
        data: &mut [u8],
        recovery: &[&[u8]],
    ) -> Result<(), CodeError> {
        let (required, share_len) = self.check(stripe, data, recovery)?;
        let mut present: [&[u8]; ROWS_MAX] = [&[]; ROWS_MAX];
        let mut rows: [&mut [u8]; ROWS_MAX] = std::array::from_fn(|_| Default::default());
        let mut next_present = 0;
        for (index, share) in (0u8..).zip(data.chunks_exact_mut(share_len)) {
            let share = &mut share[columns.clone()];
            if self.present()[..self.present_data].contains(&index) {
                present[next_present] = share;
                next_present += 1;
            } else {
                rows[usize::from(index)] = share;
            }
        }
        present[next_present..required].copy_from_slice(recovery);
        let mut wanted: [&mut [u8]; ROWS_MAX] = std::array::from_fn(|_| Default::default());
        for (target, &index) in wanted.iter_mut().zip(self.plan.wanted()) {
            *target = std::mem::take(&mut rows[usize::from(index)]);
        }
        let wanted = &mut wanted[..self.plan.wanted().len()];
        self.plan.apply(&present[..required], wanted)
    }

    /// Counts and lengths of a stripe's shares, the present recovery shares among them; returns the number of data shares and the length of a share.
    pub(super) fn check(
        &self,
        stripe: u32,
        data: &[u8],
        recovery: &[&[u8]],
    ) -> Result<(usize, usize), CodeError> {
        let required = usize::from(self.shape.required());
        let share_len = self.shape.share_len(stripe);
        check_count(recovery.len(), required - self.present_data)?;
        if data.len() != required * share_len {
            return Err(CodeError::ShareLen {
                len: data.len(),
                expected_len: required * share_len,
            });
        }
        Ok((required, share_len))
    }
}

/// As many shares or hashes as there have to be.
pub(super) fn check_count(given_count: usize, expected_count: usize) -> Result<(), CodeError> {
    if given_count == expected_count {
        return Ok(());
    }
    Err(CodeError::TargetCount {
        given_count,
        expected_count,
    })
}
