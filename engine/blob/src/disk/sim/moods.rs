//! What a test draws for each operation, and what becomes of writes that were not synced.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;

use super::{Failure, Op, SECTOR_BYTES, SimDisk, overlay};
use crate::testing::Random;

/// What a test lets happen to any operation.
pub trait Moods {
    /// Whether the operation that begins now fails, and how.
    fn failure(&self, op: Op) -> Option<Failure>;

    /// What the operation waits for before it ends.
    fn wait(&self, op: Op) -> Option<Pin<Box<dyn Future<Output = ()>>>>;
}

impl SimDisk {
    /// From now on each operation asks these; the disk found after a crash or kill does not.
    pub fn set_moods(&self, moods: Rc<dyn Moods>) {
        self.state.borrow_mut().moods = Some(moods);
    }

    /// Has the next crash lose or turn to garbage so many percent of the sectors that no sync covered.
    pub fn tear(&self, percent: u64) {
        self.state.borrow_mut().torn_percent = Some(percent);
    }
}

/// Puts a write's sectors into a file, but for so many percent of them: those are lost, every fourth is garbage.
pub(super) fn tear(
    file: &mut Vec<u8>,
    offset: usize,
    bytes: &[u8],
    percent: u64,
    random: &mut Random,
) {
    for (index, sector) in bytes.chunks(SECTOR_BYTES).enumerate() {
        let offset = offset + index * SECTOR_BYTES;
        if random.below(100) >= percent {
            overlay(file, offset, sector);
        } else if random.below(4) == 0 {
            let mut garbage = vec![0; sector.len()];
            random.fill(&mut garbage);
            overlay(file, offset, &garbage);
        }
    }
}
