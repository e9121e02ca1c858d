//! What a test draws for each operation, and what becomes of writes that were not synced.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;

use super::{Failure, Op, SECTOR_BYTES, SimDisk, Write, overlay};
use crate::disk::FileId;
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

    /// Bytes of all blobs, as reads see them.
    #[must_use]
    pub fn blob_bytes(&self) -> u64 {
        let state = self.state.borrow();
        let files = state.files.iter();
        let blobs = files.filter(|(id, file)| matches!(id, FileId::Blob(_)) && file.has_name());
        blobs.map(|(_, file)| file.cached.len() as u64).sum()
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

/// Takes a place that newer bytes were made durable at out of older writes that ended and were never synced: no disk puts what it was given
/// before over what it was given, and made durable, afterwards.
pub(super) fn supersede(older: &mut Vec<Write>, offset: usize, len: usize) {
    let end = offset + len;
    for write in std::mem::take(older) {
        let write_end = write.offset + write.bytes.len();
        if !write.has_ended || write_end <= offset || end <= write.offset {
            older.push(write);
            continue;
        }
        let mut keep = |from: usize, to: usize| {
            if from < to {
                older.push(Write {
                    number: write.number,
                    offset: from,
                    bytes: write.bytes[from - write.offset..to - write.offset].to_vec(),
                    has_ended: true,
                    is_forsaken: write.is_forsaken,
                });
            }
        };
        keep(write.offset, offset);
        keep(end, write_end);
    }
}
