//! What a simulated disk was asked to change, and what a crash could have left of it at any point.

use bytes::Bytes;
use std::collections::BTreeMap;

use crate::disk::FileId;
use crate::disk::sim::{SECTOR_BYTES, SimDisk, State, overlay};
use crate::testing::Random;

/// A change of the disk, in the order in which they began or ended.
#[derive(Clone, Debug)]
pub enum DiskEvent {
    /// A file is being made.
    Create {
        /// The file.
        file: FileId,
    },
    /// It is there for good.
    Created {
        /// The file.
        file: FileId,
    },
    /// A write begins.
    Write {
        /// The file.
        file: FileId,
        /// The number by which [`DiskEvent::Synced`] names it.
        number: u64,
        /// Where.
        offset: u64,
        /// What.
        bytes: Bytes,
    },
    /// A sync ended well.
    Synced {
        /// The file.
        file: FileId,
        /// The writes that it covered.
        writes: Vec<u64>,
    },
    /// A file is being removed.
    Remove {
        /// The file.
        file: FileId,
    },
    /// It is gone for good.
    Removed {
        /// The file.
        file: FileId,
    },
}

impl SimDisk {
    /// Notes every change from now on.
    pub fn record(&self) {
        self.state.borrow_mut().events.get_or_insert_default();
    }

    /// Changes noted so far.
    #[must_use]
    pub fn event_count(&self) -> usize {
        self.state.borrow().events.as_ref().map_or(0, Vec::len)
    }

    /// All of them.
    #[must_use]
    pub fn events(&self) -> Vec<DiskEvent> {
        self.state.borrow().events.clone().unwrap_or_default()
    }
}

impl State {
    pub(super) fn note(&mut self, event: impl FnOnce() -> DiskEvent) {
        if let Some(events) = &mut self.events {
            events.push(event());
        }
    }
}

/// A disk after the first so many changes: what is durable, and what a crash decides about.
#[derive(Clone, Debug, Default)]
pub struct DiskImage {
    files: BTreeMap<FileId, Image>,
}

#[derive(Clone, Debug, Default)]
struct Image {
    durable: Vec<u8>,
    unsynced: Vec<(u64, usize, Bytes)>,
    /// Neither its creation nor its removal is under way.
    is_certain: bool,
}

/// What a crash does to the writes that no sync covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// All are lost.
    All,
    /// None is.
    Nothing,
    /// Each is lost, kept or torn into 512-byte sectors, by a seed.
    Some(u64),
}

impl DiskImage {
    /// A disk with these files, all durable.
    #[must_use]
    pub fn new(files: impl IntoIterator<Item = (FileId, Vec<u8>)>) -> Self {
        let files = files.into_iter().map(|(id, durable)| {
            let image = Image {
                durable,
                is_certain: true,
                ..Image::default()
            };
            (id, image)
        });
        Self {
            files: files.collect(),
        }
    }

    /// Goes one change further. Where syncs are not honoured they cover nothing.
    pub fn apply(&mut self, event: &DiskEvent, honours_syncs: bool) {
        match event {
            DiskEvent::Create { file } => {
                self.files.insert(*file, Image::default());
            }
            DiskEvent::Created { file } => {
                if let Some(image) = self.files.get_mut(file) {
                    image.is_certain = true;
                }
            }
            DiskEvent::Write {
                file,
                number,
                offset,
                bytes,
            } => {
                if let Some(image) = self.files.get_mut(file) {
                    let write = (*number, *offset as usize, bytes.clone());
                    image.unsynced.push(write);
                }
            }
            DiskEvent::Synced { file, writes } => {
                let image = self.files.get_mut(file).filter(|_| honours_syncs);
                if let Some(Image {
                    durable, unsynced, ..
                }) = image
                {
                    unsynced.retain(|(number, offset, bytes)| {
                        let is_covered = writes.contains(number);
                        if is_covered {
                            overlay(durable, *offset, bytes);
                        }
                        !is_covered
                    });
                }
            }
            DiskEvent::Remove { file } => {
                if let Some(image) = self.files.get_mut(file) {
                    image.is_certain = false;
                }
            }
            DiskEvent::Removed { file } => {
                self.files.remove(file);
            }
        }
    }

    /// What a crash decides about: writes that no sync covers, and files whose creation or removal is under way.
    #[must_use]
    pub fn undecided(&self) -> usize {
        let files = self.files.values();
        files
            .map(|image| image.unsynced.len() + usize::from(!image.is_certain))
            .sum()
    }

    /// The files as a crash would leave them now.
    #[must_use]
    pub fn after_crash(&self, loss: Loss) -> Vec<(FileId, Vec<u8>)> {
        let mut random = Random::new(match loss {
            Loss::Some(seed) => seed,
            Loss::All | Loss::Nothing => 0,
        });
        let mut files = Vec::new();
        for (&id, image) in &self.files {
            let is_there = match loss {
                _ if image.is_certain => true,
                Loss::All => false,
                Loss::Nothing => true,
                Loss::Some(_) => random.below(2) == 0,
            };
            if is_there {
                files.push((id, image.after_crash(loss, &mut random)));
            }
        }
        files
    }
}

impl Image {
    fn after_crash(&self, loss: Loss, random: &mut Random) -> Vec<u8> {
        let mut found = self.durable.clone();
        let mut longest = found.len();
        for (_, offset, bytes) in &self.unsynced {
            longest = longest.max(offset + bytes.len());
            match loss {
                Loss::All => {}
                Loss::Nothing => overlay(&mut found, *offset, bytes),
                Loss::Some(_) => match random.below(3) {
                    0 => {}
                    1 => overlay(&mut found, *offset, bytes),
                    _ => {
                        for (nth, sector) in bytes.chunks(SECTOR_BYTES).enumerate() {
                            if random.below(2) == 0 {
                                overlay(&mut found, offset + nth * SECTOR_BYTES, sector);
                            }
                        }
                    }
                },
            }
        }
        // The length may have grown over what was lost.
        if matches!(loss, Loss::Some(_)) && random.below(4) == 0 {
            found.resize(longest, 0);
        }
        found
    }
}
