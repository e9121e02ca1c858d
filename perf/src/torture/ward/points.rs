//! Points at which a process that stores can be killed: just before and just after each kind of thing that a store asks of a disk.
//!
//! A point is called `OPERATION-before` or `OPERATION-after`; before is when the disk is about to be asked, after when it has answered and the
//! store does not know yet. Groups of records are told apart by what goes on beside them.

use std::str::FromStr;

use strand_blob::FileId;

/// What is asked of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    Create,
    /// Blocks, of which these are the first bytes.
    Write([u8; 4]),
    Sync,
    Remove,
}

/// What upkeep does at the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Phase {
    #[default]
    Rest,
    Compaction,
    Collection,
    Restoring,
}

/// Operations at which there are points.
pub(crate) const OPERATIONS: [&str; 14] = [
    "write-group",
    "write-group-in-compaction",
    "write-group-in-collection",
    "write-group-in-restoring",
    "write-footer",
    "create-blob",
    "write-header",
    "remove-blob",
    "create-checkpoint",
    "write-checkpoint",
    "sync-checkpoint",
    "remove-checkpoint",
    "sync-blob-in-opening",
    "sync-checkpoint-in-opening",
];

/// One of them, and how often it is passed before the process ends there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Point {
    operation: &'static str,
    is_after: bool,
    passes: u64,
}

impl Point {
    /// The point of a number below twice the number of [`OPERATIONS`].
    pub(crate) fn numbered(number: usize, passes: u64) -> Self {
        Self {
            operation: OPERATIONS[number / 2 % OPERATIONS.len()],
            is_after: number % 2 == 1,
            passes,
        }
    }

    /// As the process is told: the name, a colon, and how often it is passed.
    pub(crate) fn argument(&self) -> String {
        format!("{}:{}", self.name(), self.passes)
    }

    pub(crate) fn name(&self) -> String {
        let moment = if self.is_after { "after" } else { "before" };
        format!("{}-{moment}", self.operation)
    }

    /// How often this operation may be passed in a life that is not much longer than the others.
    pub(crate) fn passes_max(number: usize) -> usize {
        match OPERATIONS[number / 2 % OPERATIONS.len()] {
            "write-group" => 200,
            "write-group-in-compaction" | "write-group-in-collection" => 8,
            "create-blob" | "write-header" | "write-footer" => 8,
            "sync-blob-in-opening" | "sync-checkpoint-in-opening" => 1,
            _ => 3,
        }
    }

    /// Whether the operation has it; how often it is passed first.
    pub(crate) fn passes_at(&self, operation: &str, is_after: bool) -> Option<u64> {
        (operation == self.operation && is_after == self.is_after).then_some(self.passes)
    }
}

impl FromStr for Point {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.rsplit_once(':').and_then(|(name, passes)| {
            let (operation, moment) = name.rsplit_once('-')?;
            Some(Self {
                operation: OPERATIONS.into_iter().find(|known| *known == operation)?,
                is_after: ["before", "after"]
                    .iter()
                    .position(|word| *word == moment)?
                    == 1,
                passes: passes.parse().ok()?,
            })
        });
        parsed.ok_or_else(|| format!("`{text}` is no point: OPERATION-before:N or -after:N"))
    }
}

/// What an operation is called; `None` if there is no point at it.
pub(crate) fn operation(
    asked: Asked,
    file: FileId,
    phase: Phase,
    is_opening: bool,
) -> Option<&'static str> {
    let is_blob = matches!(file, FileId::Blob(_));
    Some(match asked {
        Asked::Create if is_blob => "create-blob",
        Asked::Create => "create-checkpoint",
        Asked::Remove if is_blob => "remove-blob",
        Asked::Remove => "remove-checkpoint",
        Asked::Sync if is_opening && is_blob => "sync-blob-in-opening",
        Asked::Sync if is_opening => "sync-checkpoint-in-opening",
        Asked::Sync if is_blob => return None,
        Asked::Sync => "sync-checkpoint",
        Asked::Write(_) if !is_blob => "write-checkpoint",
        Asked::Write([b'S', b'F', b'T', b'R']) => "write-footer",
        Asked::Write([b'S', b'G', b'R', b'P']) => match phase {
            Phase::Rest => "write-group",
            Phase::Compaction => "write-group-in-compaction",
            Phase::Collection => "write-group-in-collection",
            Phase::Restoring => "write-group-in-restoring",
        },
        Asked::Write(_) => "write-header",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_point_has_a_name_of_its_own_that_leads_back_to_it() {
        let mut names = Vec::new();
        for number in 0..2 * OPERATIONS.len() {
            let point = Point::numbered(number, 7);
            let read: Point = point.argument().parse().unwrap();
            assert_eq!(read.argument(), point.argument());
            assert!(!names.contains(&point.name()));
            names.push(point.name());
        }
        for wrong in [
            "",
            "write-group",
            "write-group-before",
            "write-group-amid:1",
        ] {
            assert!(wrong.parse::<Point>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_asked_of_a_disk_has_the_name_of_a_point() {
        let blob = FileId::Blob(strand_blob::BlobId(3));
        let group = Asked::Write(*b"SGRP");
        let named = |phase| operation(group, blob, phase, false).unwrap();
        assert_eq!(named(Phase::Rest), "write-group");
        assert_eq!(named(Phase::Collection), "write-group-in-collection");
        for asked in [Asked::Create, group, Asked::Sync, Asked::Remove] {
            for file in [blob, FileId::Checkpoint(1)] {
                let name = operation(asked, file, Phase::Rest, true).unwrap();
                assert!(OPERATIONS.contains(&name), "{name}");
            }
        }
    }
}
