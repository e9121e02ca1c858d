//! One file of a simulated disk: what is durable, what reads see, and what a crash makes of the difference.

use std::rc::Rc;

use bytes::Bytes;

use super::{SECTOR_BYTES, moods};
use crate::testing::Random;

/// What a file takes at least once it grows.
const GROWTH_BYTES: usize = 128 << 10;

/// The bytes are shared until they differ: of what a crash finds, most was not written to since the start.
#[derive(Default)]
pub(super) struct File {
    /// What was meant to be there: what the store wrote, wherever it went.
    pub(super) meant: Rc<Vec<u8>>,
    /// What a crash keeps.
    pub(super) durable: Rc<Vec<u8>>,
    /// What reads see.
    pub(super) cached: Rc<Vec<u8>>,
    /// Writes that a crash decides about, oldest first.
    pub(super) unsynced: Vec<Write>,
    pub(super) is_created: bool,
    pub(super) is_being_removed: bool,
    /// Its name is gone, and it is still open.
    pub(super) is_unlinked: bool,
}

pub(super) struct Write {
    pub(super) number: u64,
    pub(super) offset: usize,
    /// Where it should have gone.
    pub(super) meant_offset: usize,
    pub(super) bytes: Bytes,
    pub(super) has_ended: bool,
    /// Covered by a sync that failed: no later one makes it durable.
    pub(super) is_forsaken: bool,
}

impl File {
    pub(super) fn has_name(&self) -> bool {
        self.is_created && !self.is_unlinked
    }

    /// What a failed sync covered is no more in memory.
    pub(super) fn forget_failed(&mut self) {
        let Some(last) = self.unsynced.iter().rfind(|write| write.is_forsaken) else {
            return;
        };
        let (number, len) = (last.number, self.cached.len());
        self.unsynced.retain(|write| !write.is_forsaken);
        self.cached = Rc::clone(&self.durable);
        for write in self.unsynced.iter().filter(|write| write.has_ended) {
            overlay(Rc::make_mut(&mut self.cached), write.offset, &write.bytes);
        }
        // The file is as long as before, and a later sync makes that durable.
        let start = self.cached.len();
        if start < len {
            let zeros = vec![0; len - start];
            overlay(Rc::make_mut(&mut self.cached), start, &zeros);
            self.unsynced.push(Write {
                number,
                offset: start,
                meant_offset: start,
                bytes: zeros.into(),
                has_ended: true,
                is_forsaken: false,
            });
        }
    }

    pub(super) fn after_crash(
        &self,
        torn_percent: Option<u64>,
        random: &mut Random,
    ) -> Rc<Vec<u8>> {
        if self.unsynced.is_empty() {
            return Rc::clone(&self.durable);
        }
        let mut found = self.durable.to_vec();
        for write in &self.unsynced {
            if let Some(percent) = torn_percent {
                moods::tear(&mut found, write.offset, &write.bytes, percent, random);
                continue;
            }
            match random.below(4) {
                0 => {}
                1 => overlay(&mut found, write.offset, &write.bytes),
                _ => tear(&mut found, write, random),
            }
        }
        let longest = self
            .unsynced
            .iter()
            .map(|write| write.offset + write.bytes.len())
            .max()
            .unwrap_or_default();
        if longest > found.len() && random.below(4) == 0 {
            found.resize(longest, 0);
        }
        Rc::new(found)
    }
}

fn tear(found: &mut Vec<u8>, write: &Write, random: &mut Random) {
    for (index, sector) in write.bytes.chunks(SECTOR_BYTES).enumerate() {
        let offset = write.offset + index * SECTOR_BYTES;
        match random.below(16) {
            0..8 => overlay(found, offset, sector),
            8 => {
                let garbage: Vec<u8> = sector.iter().map(|_| random.next() as u8).collect();
                overlay(found, offset, &garbage);
            }
            _ => {}
        }
    }
}

/// Puts bytes into a file, growing it with zeros.
pub(super) fn overlay(file: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    if bytes.is_empty() {
        return;
    }
    let end = offset + bytes.len();
    if file.capacity() < end {
        // Files grow write by write: most of them never again beyond this.
        file.reserve_exact((2 * end).max(GROWTH_BYTES) - file.len());
    }
    if file.len() < offset {
        file.resize(offset, 0);
    }
    let over = bytes.len().min(file.len() - offset);
    file[offset..offset + over].copy_from_slice(&bytes[..over]);
    file.extend_from_slice(&bytes[over..]);
}
