//! Planted bugs: faults switched on by name, to prove that the tests would notice them.
//!
//! Only with the feature `planted-bugs`, which no crate enables; without it [`is_planted`] is constant and the faulty branches
//! are not in the program. With it `STRAND_BUG` names one of [`BUGS`], read once; a name that is not among them is a panic. `strand-torture`
//! has to notice each of them, and the tests of this crate the first two.

/// A bug that can be switched on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is described in `BUGS`")]
pub enum Bug {
    AckBeforeSync,
    IndexBeforeData,
    ShortWriteIgnored,
    LastWaiterDropped,
    BlobHeaderNotSynced,
    OpeningDoesNotSync,
    StopsAtBadRecord,
    StopsAtBadGroup,
    TornTrusted,
    BodyUnchecked,
    MemoryUnchecked,
    TrailerUnchecked,
    PlaceUnchecked,
    CheckUnkeyed,
    IdUnchecked,
    RotTakenForTorn,
    TornTakenForDurable,
    FooterUnchecked,
    CheckpointUnchecked,
    CheckpointForgetsDead,
    CheckpointMidGroup,
    CheckpointRewritten,
    RemovalNotNoted,
    DroppedRemovalForgotten,
    MisreadBelieved,
    UnlinkBeforeSync,
    TombstoneDroppedEarly,
    MovedRecordRenumbered,
    SequenceRestarts,
    TrashShort,
    FailedSyncRetried,
    FailedSyncForgiven,
    NoRoomForTombstones,
    ReservationLeaks,
    FullDiskPoisons,
    FailedReadIsAbsence,
    FailedReadPanics,
    NoCheckpointByItself,
    ScrubSkipsBodies,
    ConflictOverwrites,
}

/// What is said of a bug.
#[derive(Clone, Copy, Debug)]
pub struct PlantedBug {
    /// The bug.
    pub bug: Bug,
    /// What `STRAND_BUG` calls it.
    pub name: &'static str,
    /// The guarantee that it breaks, `G1` to `G10`.
    pub guarantee: &'static str,
    /// What it does, in a line.
    pub what: &'static str,
}

const fn planted(
    bug: Bug,
    name: &'static str,
    guarantee: &'static str,
    what: &'static str,
) -> PlantedBug {
    PlantedBug {
        bug,
        name,
        guarantee,
        what,
    }
}

/// All of them.
pub const BUGS: &[PlantedBug] = &[
    planted(
        Bug::AckBeforeSync,
        "ack-before-sync",
        "G1",
        "puts and deletes are answered once the group is written, before the sync that covers it",
    ),
    planted(
        Bug::IndexBeforeData,
        "index-before-data",
        "G1",
        "a piece enters the index before its group is written, so that it is served, and acknowledged again, while a crash can still take it away",
    ),
    planted(
        Bug::ShortWriteIgnored,
        "short-write-ignored",
        "G1",
        "a group that was written in part is taken for written",
    ),
    planted(
        Bug::LastWaiterDropped,
        "last-waiter-dropped",
        "G1",
        "the last of several callers in a group is forgotten",
    ),
    planted(
        Bug::BlobHeaderNotSynced,
        "blob-header-not-synced",
        "G1",
        "a blob's header is written and not made durable before its groups",
    ),
    planted(
        Bug::OpeningDoesNotSync,
        "opening-does-not-sync",
        "G1",
        "what a killed process left is believed, and acknowledged again, without a sync",
    ),
    planted(
        Bug::StopsAtBadRecord,
        "stops-at-bad-record",
        "G4",
        "an opening reads no further in a group than to its first bad record",
    ),
    planted(
        Bug::StopsAtBadGroup,
        "stops-at-bad-group",
        "G2",
        "an opening reads no further in a blob than to its first bad group",
    ),
    planted(
        Bug::TornTrusted,
        "torn-trusted",
        "G3",
        "records of a group that nothing calls durable count without a look at their bodies",
    ),
    planted(
        Bug::BodyUnchecked,
        "body-unchecked",
        "G3",
        "shares are handed out without a look at their checksums",
    ),
    planted(
        Bug::MemoryUnchecked,
        "memory-unchecked",
        "G3",
        "shares that are in memory are handed out without a look at their checksums",
    ),
    planted(
        Bug::TrailerUnchecked,
        "trailer-unchecked",
        "G3",
        "a trailer's checksum is not looked at",
    ),
    planted(
        Bug::PlaceUnchecked,
        "place-unchecked",
        "G3",
        "a record counts wherever in whichever blob it lies",
    ),
    planted(
        Bug::CheckUnkeyed,
        "check-unkeyed",
        "G3",
        "the checks of headers are made with a key that everybody knows",
    ),
    planted(
        Bug::IdUnchecked,
        "id-unchecked",
        "G3",
        "a record is taken for the piece's by its fingerprint alone",
    ),
    planted(
        Bug::RotTakenForTorn,
        "rot-taken-for-torn",
        "G4",
        "damage to what was durable is not reported",
    ),
    planted(
        Bug::TornTakenForDurable,
        "torn-taken-for-durable",
        "G4",
        "the group after a torn one says that the torn one was durable",
    ),
    planted(
        Bug::FooterUnchecked,
        "footer-unchecked",
        "G5",
        "a footer is believed without its hash",
    ),
    planted(
        Bug::CheckpointUnchecked,
        "checkpoint-unchecked",
        "G5",
        "a part of a checkpoint is believed without its hash",
    ),
    planted(
        Bug::CheckpointForgetsDead,
        "checkpoint-forgets-dead",
        "G5",
        "a checkpoint lacks the records that do not count",
    ),
    planted(
        Bug::CheckpointMidGroup,
        "checkpoint-mid-group",
        "G5",
        "a checkpoint is written while groups are on their way",
    ),
    planted(
        Bug::CheckpointRewritten,
        "checkpoint-rewritten",
        "G10",
        "the only checkpoint goes before the next one is durable: a live structure is truncated and written again",
    ),
    planted(
        Bug::RemovalNotNoted,
        "removal-not-noted",
        "G6",
        "a blob that the checkpoint names is removed without a note of it",
    ),
    planted(
        Bug::MisreadBelieved,
        "misread-believed",
        "G2",
        "bytes that were read only once are taken for torn or damaged",
    ),
    planted(
        Bug::DroppedRemovalForgotten,
        "dropped-removal-forgotten",
        "G6",
        "a checkpoint lacks a blob whose removal was begun and dropped",
    ),
    planted(
        Bug::UnlinkBeforeSync,
        "unlink-before-sync",
        "G6",
        "compaction removes the old copy before the new one is durable",
    ),
    planted(
        Bug::TombstoneDroppedEarly,
        "tombstone-dropped-early",
        "G6",
        "compaction drops tombstones that still outrank something",
    ),
    planted(
        Bug::MovedRecordRenumbered,
        "moved-record-renumbered",
        "G6",
        "a record that compaction moves gets a new sequence",
    ),
    planted(
        Bug::SequenceRestarts,
        "sequence-restarts",
        "G6",
        "an opening numbers records from 1 again",
    ),
    planted(
        Bug::TrashShort,
        "trash-short",
        "G6",
        "the trash is emptied after one day instead of seven",
    ),
    planted(
        Bug::FailedSyncRetried,
        "failed-sync-retried",
        "G7",
        "a sync that failed is tried again, and the second answer believed",
    ),
    planted(
        Bug::FailedSyncForgiven,
        "failed-sync-forgiven",
        "G7",
        "a failed sync fails its group and the store goes on",
    ),
    planted(
        Bug::NoRoomForTombstones,
        "no-room-for-tombstones",
        "G8",
        "puts may take the room that deletes need on a full disk",
    ),
    planted(
        Bug::ReservationLeaks,
        "reservation-leaks",
        "G8",
        "what a put promised itself is not given back when it fails",
    ),
    planted(
        Bug::FullDiskPoisons,
        "full-disk-poisons",
        "G8",
        "a full disk ends all writing",
    ),
    planted(
        Bug::FailedReadIsAbsence,
        "failed-read-is-absence",
        "G9",
        "a piece whose record cannot be read is said not to be there",
    ),
    planted(
        Bug::FailedReadPanics,
        "failed-read-panics",
        "G9",
        "a failed read takes the process down",
    ),
    planted(
        Bug::NoCheckpointByItself,
        "no-checkpoint-by-itself",
        "G10",
        "checkpoints are written only when somebody asks",
    ),
    planted(
        Bug::ScrubSkipsBodies,
        "scrub-skips-bodies",
        "G3",
        "a scrub looks at headers and trailers only",
    ),
    planted(
        Bug::ConflictOverwrites,
        "conflict-overwrites",
        "G6",
        "another piece under a stored piece's id replaces it",
    ),
];

/// Whether the bug is switched on.
///
/// # Panics
///
/// If `STRAND_BUG` names no bug.
#[cfg(feature = "planted-bugs")]
pub(crate) fn is_planted(bug: Bug) -> bool {
    static PICKED: std::sync::OnceLock<Option<Bug>> = std::sync::OnceLock::new();
    let picked = PICKED.get_or_init(|| {
        let name = std::env::var("STRAND_BUG")
            .ok()
            .filter(|name| !name.is_empty())?;
        let found = BUGS.iter().find(|planted| planted.name == name);
        let found = found.unwrap_or_else(|| panic!("STRAND_BUG={name}: there is no such bug"));
        Some(found.bug)
    });
    *picked == Some(bug)
}

/// Whether the bug is switched on: never.
#[cfg(not(feature = "planted-bugs"))]
pub(crate) const fn is_planted(_bug: Bug) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_guarantee_has_a_bug_and_every_name_one() {
        for number in 1..=10 {
            let guarantee = format!("G{number}");
            let breaks = |planted: &&PlantedBug| planted.guarantee == guarantee;
            assert!(BUGS.iter().any(|planted| breaks(&planted)), "{guarantee}");
        }
        for (nth, planted) in BUGS.iter().enumerate() {
            let others = &BUGS[nth + 1..];
            assert!(others.iter().all(|other| other.name != planted.name));
            assert!(others.iter().all(|other| other.bug != planted.bug));
        }
    }
}
