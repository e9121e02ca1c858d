//! When a blob's live bytes expire: a histogram of sixteen columns, so that compaction can count what is gone without a look at the records.
//!
//! Columns are fixed spans of time from the blob's creation on, as wide as its expiry class needs; a column counts as expired once its whole
//! span is over, so the count is never above the truth. That is why [`Space`](crate::Space) has no expired bytes: this is not exact,
//! and what is exact would need the expiry of each piece in memory.

use crate::header::ExpiryClass;

const COLUMNS: usize = 16;

const HOUR_S: u64 = 3_600;

/// Width of a column by expiry class: 4 hours, 1 day, 3 days, 60 days.
const WIDTHS_S: [u64; ExpiryClass::COUNT] = [4 * HOUR_S, 24 * HOUR_S, 72 * HOUR_S, 1_440 * HOUR_S];

/// Live bytes of a blob by when they expire. What never does is in none of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Expiries {
    bytes: [u64; COLUMNS],
}

/// A blob's columns.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Columns {
    created_s: u64,
    width_s: u64,
}

impl Columns {
    pub(crate) fn new(created_s: u64, class: ExpiryClass) -> Self {
        Self {
            created_s,
            width_s: WIDTHS_S[class.index()],
        }
    }

    /// `None` beyond the last column.
    fn of(&self, expiry_s: u32) -> Option<usize> {
        let column = u64::from(expiry_s).saturating_sub(self.created_s) / self.width_s;
        usize::try_from(column).ok().filter(|&at| at < COLUMNS)
    }
}

impl Expiries {
    pub(crate) fn add(&mut self, columns: Columns, expiry_s: u32, bytes: u64) {
        if let Some(at) = columns.of(expiry_s).filter(|_| expiry_s != 0) {
            self.bytes[at] += bytes;
        }
    }

    pub(crate) fn subtract(&mut self, columns: Columns, expiry_s: u32, bytes: u64) {
        if let Some(at) = columns.of(expiry_s).filter(|_| expiry_s != 0) {
            self.bytes[at] -= bytes;
        }
    }

    /// Bytes that have certainly expired by `now_s`.
    pub(crate) fn expired_bytes(&self, columns: Columns, now_s: u32) -> u64 {
        let since_s = u64::from(now_s).saturating_sub(columns.created_s);
        let over = usize::try_from(since_s / columns.width_s).unwrap_or(COLUMNS);
        self.bytes.iter().take(over).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expired_bytes_are_never_above_the_truth_and_catch_up_within_a_column() {
        for (class, life_s) in [(0, 86_400_u32), (1, 7 * 86_400), (2, 30 * 86_400)] {
            let class = ExpiryClass::from_byte(class).unwrap();
            let created_s = 1_800_000_000_u32;
            let columns = Columns::new(u64::from(created_s), class);
            let expiries: Vec<u32> = (0..50)
                .map(|step| created_s + step * (life_s / 50))
                .collect();
            let mut histogram = Expiries::default();
            for &expiry_s in &expiries {
                histogram.add(columns, expiry_s, 1);
            }
            histogram.add(columns, 0, 1);
            for now_s in (created_s..created_s + 2 * life_s).step_by(life_s as usize / 97) {
                let found = histogram.expired_bytes(columns, now_s);
                let truth = |now_s| expiries.iter().filter(|&&at| at < now_s).count() as u64;
                assert!(found <= truth(now_s), "{now_s}: {found}");
                assert!(
                    found >= truth(now_s - columns.width_s as u32),
                    "{now_s}: {found}"
                );
            }
            for &expiry_s in &expiries {
                histogram.subtract(columns, expiry_s, 1);
            }
            assert_eq!(histogram, Expiries::default());
        }
    }
}
