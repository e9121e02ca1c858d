//! Row plans that were made before.

use std::sync::Arc;

use super::{CodeError, RowPlan};

/// Row plans by what is present and wanted: the last ones that were asked for.
///
/// Who reads segment after segment from the same nodes meets the same pattern of losses again and again. A plan takes at most some 128 KiB, the
/// default scheme's 17.
#[derive(Debug)]
pub struct PlanCache {
    plan_count_max: usize,
    /// The last one that was asked for is last.
    plans: Vec<Arc<RowPlan>>,
}

impl PlanCache {
    /// A cache of at most `plan_count_max` plans, and of one at least.
    pub fn new(plan_count_max: usize) -> Self {
        Self {
            plan_count_max: plan_count_max.max(1),
            plans: Vec::new(),
        }
    }

    /// The plan that [`RowPlan::new`] makes of these arguments.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn plan(
        &mut self,
        required: u8,
        total: u8,
        present: &[u8],
        wanted: &[u8],
    ) -> Result<Arc<RowPlan>, CodeError> {
        // A plan is the same for every total; whether it is one for this total is not.
        RowPlan::check(required, total, present, wanted)?;
        // As many are present as required.
        let is_it = |plan: &Arc<RowPlan>| plan.present() == present && plan.wanted() == wanted;
        let plan = match self.plans.iter().position(is_it) {
            Some(at) => self.plans.remove(at),
            None => Arc::new(RowPlan::new(required, total, present, wanted)?),
        };
        while self.plans.len() >= self.plan_count_max {
            self.plans.remove(0);
        }
        self.plans.push(plan.clone());
        Ok(plan)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::ShapeError;

    #[test]
    fn a_plan_is_made_once_as_long_as_it_is_asked_for() {
        let mut cache = PlanCache::new(2);
        let first = cache.plan(2, 5, &[0, 3], &[1]).unwrap();
        let again = cache.plan(2, 9, &[0, 3], &[1]).unwrap();
        assert!(Arc::ptr_eq(&first, &again));
        // Of the same shares another one; then a third, for which the second has to go and not the first.
        let second = cache.plan(2, 5, &[0, 3], &[4, 1]).unwrap();
        assert_eq!(second.wanted(), [4, 1]);
        assert!(Arc::ptr_eq(
            &first,
            &cache.plan(2, 5, &[0, 3], &[1]).unwrap()
        ));
        let third = cache.plan(2, 5, &[1, 3], &[0]).unwrap();
        assert_eq!((third.present(), third.wanted()), (&[1, 3][..], &[0][..]));
        assert_eq!(cache.plans.len(), 2);
        assert!(Arc::ptr_eq(
            &first,
            &cache.plan(2, 5, &[0, 3], &[1]).unwrap()
        ));
        assert!(!Arc::ptr_eq(
            &second,
            &cache.plan(2, 5, &[0, 3], &[4, 1]).unwrap()
        ));
    }

    #[test]
    fn a_cached_plan_is_refused_where_a_new_one_would_be() {
        let mut cache = PlanCache::new(2);
        cache.plan(2, 5, &[0, 4], &[1]).unwrap();
        let out_of_range = CodeError::IndexOutOfRange {
            index: 4,
            total_count: 4,
        };
        let refused = cache.plan(2, 4, &[0, 4], &[1]);
        assert_eq!(refused.err(), Some(out_of_range));
        let count = CodeError::ShareCount {
            given_count: 2,
            required_count: 3,
        };
        assert_eq!(cache.plan(3, 5, &[0, 4], &[1]).err(), Some(count));
        let shape = ShapeError::TotalCount {
            required: 2,
            total: 1,
        };
        assert_eq!(
            cache.plan(2, 1, &[0, 4], &[1]).err(),
            Some(CodeError::Shape(shape))
        );
    }
}
