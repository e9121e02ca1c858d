//! How far the opening of a store is.
//!
//! Whoever opens keeps one and looks at it meanwhile; the opening writes it and asks nothing of it.

use std::cell::Cell;

/// Bytes of blob files that an opening is done with. Both figures are 0 until the blobs were counted.
#[derive(Debug, Default)]
pub struct OpenProgress {
    bytes_done: Cell<u64>,
    bytes_total: Cell<u64>,
}

impl OpenProgress {
    /// Bytes of blobs that were read, or need not be. It begins again from 0 where a checkpoint turns out not to hold.
    #[must_use]
    pub fn bytes_done(&self) -> u64 {
        self.bytes_done.get()
    }

    /// Bytes of all blobs.
    #[must_use]
    pub fn bytes_total(&self) -> u64 {
        self.bytes_total.get()
    }

    /// The first of the second, in percent, rounded down.
    #[must_use]
    pub fn percent(&self) -> u32 {
        let (done, total) = (self.bytes_done.get(), self.bytes_total.get());
        let percent = u128::from(done) * 100 / u128::from(total.max(1));
        u32::try_from(percent.min(100)).unwrap_or(100)
    }

    pub(crate) fn begin(&self, bytes_total: u64) {
        self.bytes_done.set(0);
        self.bytes_total.set(bytes_total);
    }

    pub(crate) fn reach(&self, bytes_done: u64) {
        self.bytes_done.set(bytes_done);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percents_are_rounded_down_and_never_more_than_a_hundred() {
        let progress = OpenProgress::default();
        assert_eq!(progress.percent(), 0);
        progress.begin(1_000);
        progress.reach(379);
        assert_eq!(progress.percent(), 37);
        // A file that grew since it was listed.
        progress.reach(1_001);
        assert_eq!(progress.percent(), 100);
        progress.begin(u64::MAX);
        assert_eq!((progress.bytes_done(), progress.percent()), (0, 0));
    }
}
