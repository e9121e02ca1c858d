//! What is known of each piece, and so what may be found when it is read.
//!
//! A piece that was acknowledged must be there, bit-exact, until its delete is begun or it expires; one whose delete was acknowledged must be
//! gone. A piece that its satellite no longer wants may be in the trash as soon as a filter without it was handed out, is there for 7 days more,
//! and stays away once it was found to be gone; a piece that is wanted is never in the trash. What a client was not told the end of may be either way, and may still happen while the same process of the node lives. Bytes
//! that are given out are right in any case. A piece that an injected fault *hurt* may be reported damaged or be gone, once that was
//! reported; it still never comes with wrong bytes.

use std::collections::{BTreeMap, BTreeSet};

use piecestore::limits::CHECK_IN_WAIT;
use piecestore::serve::simulated::Segment;
use strand_blob::TRASH_S;

use crate::store::guard::say;

/// The ledger.
#[derive(Default)]
pub(super) struct Ledger {
    pub(super) entries: BTreeMap<u64, Entry>,
    pub(super) next_key: u64,
    acked_count: usize,
    by_id: BTreeMap<[u8; 32], u64>,
    /// What openings said was rotten.
    pub(super) rot_reports: u64,
    /// Whom the store named as lost.
    told: BTreeSet<u64>,
    /// Entries that were dropped.
    pub(super) forgotten: u64,
}

/// One piece.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) segment: Segment,
    /// When it may go by itself; 0 = never.
    pub(super) expiry_ms: u64,
    /// Its first limit was issued then.
    pub(super) issued_ms: u64,
    /// The next filter will not have it.
    pub(super) is_unwanted: bool,
    /// Since when it may be in the trash: a filter without it was handed out.
    trash_from_ms: Option<u64>,
    /// It was found to be gone when its time in the trash was over.
    pub(super) is_over: bool,
    pub(super) state: State,
    /// Something that changes it is under way.
    pub(super) is_busy: bool,
    /// Counts changes begun and ended.
    version: u64,
    /// Puts under way.
    put_count: u32,
    /// The process of the node in which a put that nobody heard of again may still happen; and a delete.
    stale_put: Option<u64>,
    stale_delete: Option<u64>,
    /// How many reports of rot there were when a fault overlapped it first.
    hurt_at: Option<u64>,
    /// That fault may look like a write that a crash cut off, which is dropped without a report (docs/format.md, section 6).
    may_look_torn: bool,
}

/// What the client knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// A receipt says that it is there.
    Acked,
    /// An answer says that it is gone.
    Deleted,
    /// A put or delete was begun, and its answer never came.
    InDoubt,
}

/// What changes a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Put,
    Delete,
}

/// What a read found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Exact,
    WrongBytes,
    Absent,
    Damaged,
}

/// What a reader knew before it read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Before {
    state: State,
    version: u64,
    is_busy: bool,
}

impl Before {
    /// The same knowledge, as if the change that is under way had not begun: for who makes that change.
    pub(super) fn in_version_of(self, now: Self) -> Self {
        Self {
            version: now.version,
            ..self
        }
    }
}

/// Under which circumstances it read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Circumstances {
    /// The satellite's time when the read ended.
    pub(super) now_ms: u64,
    /// Reads failed in this process of the node, so it may take for unreadable what is not.
    pub(super) had_read_faults: bool,
    /// Reads failed while its store was opened, so it may lack what is there, or have what is gone.
    pub(super) is_blurred: bool,
    /// The node knows the time, by which what is in the trash goes.
    pub(super) knows_time: bool,
    /// It was read as of later than anything stays in the trash, so what is there is not in the trash.
    pub(super) is_late: bool,
    /// Writes went astray in files that are there.
    pub(super) is_harmed: bool,
}

/// Clocks of node and ledger agree to the millisecond; expiry is stored in seconds.
const EXPIRY_MARGIN_MS: u64 = 2_000;

/// A node's time lags by as much as the answer to its last check-in was under way.
const TRASH_MARGIN_MS: u64 = CHECK_IN_WAIT.as_millis() as u64 + EXPIRY_MARGIN_MS;

/// How long what is trashed can be had back.
const TRASH_MS: u64 = TRASH_S as u64 * 1_000;

impl Ledger {
    /// Enters a piece that is about to be put.
    pub(super) fn add(&mut self, segment: Segment, expiry_ms: u64, issued_ms: u64) -> u64 {
        let key = self.next_key;
        self.next_key += 1;
        self.by_id.insert(*segment.id.as_bytes(), key);
        let entry = Entry {
            segment,
            expiry_ms,
            issued_ms,
            is_unwanted: false,
            trash_from_ms: None,
            is_over: false,
            state: State::Deleted,
            is_busy: false,
            version: 0,
            put_count: 0,
            stale_put: None,
            stale_delete: None,
            hurt_at: None,
            may_look_torn: false,
        };
        self.entries.insert(key, entry);
        key
    }

    pub(super) fn key_of(&self, id: &[u8; 32]) -> Option<u64> {
        self.by_id.get(id).copied()
    }

    /// Forgets a piece.
    pub(super) fn forget(&mut self, key: u64) {
        if let Some(entry) = self.entries.remove(&key) {
            self.forgotten += 1;
            self.by_id.remove(entry.segment.id.as_bytes());
            self.acked_count -= usize::from(entry.state == State::Acked);
        }
    }

    /// Pieces that are there, as far as is known.
    pub(super) fn acked_count(&self) -> usize {
        self.acked_count
    }

    /// Whether this may be begun now, in that process of the node.
    pub(super) fn may(&self, key: u64, change: Change, boot: u64, now_ms: u64) -> bool {
        let Some(entry) = self.entries.get(&key) else {
            return false;
        };
        let stale = match change {
            Change::Put => entry.stale_delete,
            Change::Delete => entry.stale_put,
        };
        let is_alone = match change {
            Change::Put => !entry.is_unwanted && entry.trash_from_ms.is_none(),
            Change::Delete => entry.put_count == 0,
        };
        !entry.is_busy
            && is_alone
            && stale.is_none_or(|stale| stale < boot)
            && (entry.expiry_ms == 0 || now_ms + 10_000 < entry.expiry_ms)
    }

    /// A change begins. A put of what is there changes nothing.
    pub(super) fn begin(&mut self, key: u64, change: Change) {
        say(|| format!("{change:?} of piece {key} begins"));
        let Some(entry) = self.entries.get_mut(&key) else {
            return;
        };
        entry.put_count += u32::from(change == Change::Put);
        let was_acked = entry.state == State::Acked;
        if change == Change::Delete || entry.state != State::Acked {
            entry.is_busy = true;
            entry.version += 1;
            entry.state = State::InDoubt;
            self.acked_count -= usize::from(was_acked);
        }
    }

    /// It ended: acknowledged, or in doubt for as long as the process lives in which it was begun.
    pub(super) fn end(&mut self, key: u64, change: Change, is_acked: bool, boot: u64) {
        say(|| format!("{change:?} of piece {key} ends, acknowledged: {is_acked}"));
        let Some(entry) = self.entries.get_mut(&key) else {
            return;
        };
        entry.is_busy = false;
        entry.version += 1;
        entry.put_count -= u32::from(change == Change::Put);
        match (change, is_acked) {
            (Change::Put, true) => {
                self.acked_count += usize::from(entry.state != State::Acked);
                entry.state = State::Acked;
            }
            (Change::Delete, true) => entry.state = State::Deleted,
            (Change::Put, false) => entry.stale_put = Some(boot),
            (Change::Delete, false) => entry.stale_delete = Some(boot),
        }
    }

    pub(super) fn before(&self, key: u64) -> Option<Before> {
        let entry = self.entries.get(&key)?;
        Some(Before {
            state: entry.state,
            version: entry.version,
            is_busy: entry.is_busy,
        })
    }

    /// A filter without this piece was handed out.
    pub(super) fn exclude(&mut self, key: u64, now_ms: u64) {
        say(|| format!("a filter lacks piece {key} at {now_ms}"));
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.trash_from_ms.get_or_insert(now_ms);
        }
    }

    /// It was read out of the trash: no later filter lacks it.
    pub(super) fn want_again(&mut self, id: &[u8; 32]) {
        if let Some(key) = self.key_of(id)
            && let Some(entry) = self.entries.get_mut(&key)
        {
            entry.is_unwanted = false;
        }
    }

    /// What was in the trash when the owner's question was answered is back, unless its time was over by then: days may pass in between.
    pub(super) fn restored(&mut self, answered_ms: u64) {
        say(|| format!("the trash is back at {answered_ms}"));
        for entry in self.entries.values_mut() {
            let is_back = |&from_ms: &u64| answered_ms + TRASH_MARGIN_MS < from_ms + TRASH_MS;
            if entry.trash_from_ms.as_ref().is_some_and(is_back) {
                entry.trash_from_ms = None;
            }
        }
    }

    /// Whether it may be in the trash.
    pub(super) fn may_be_trashed(&self, key: u64) -> bool {
        let entry = self.entries.get(&key);
        entry.is_some_and(|entry| entry.trash_from_ms.is_some())
    }

    pub(super) fn was_told(&self, key: u64) -> bool {
        self.told.contains(&key)
    }

    /// A fault overlapped this piece; one that the node cannot tell from a write that was cut off, if it `may_look_torn`.
    pub(super) fn hurt(&mut self, key: u64, may_look_torn: bool) {
        say(|| format!("piece {key} is hurt, may look torn: {may_look_torn}"));
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.hurt_at.get_or_insert(self.rot_reports);
            entry.may_look_torn |= may_look_torn;
        }
    }

    /// Whether it must be there, undamaged.
    pub(super) fn is_firm(&self, key: u64) -> bool {
        let entry = self.entries.get(&key);
        entry.is_some_and(|entry| {
            entry.state == State::Acked
                && !entry.is_busy
                && entry.expiry_ms == 0
                && entry.trash_from_ms.is_none()
                && entry.hurt_at.is_none()
        })
    }

    pub(super) fn id_of(&self, key: u64) -> Option<[u8; 32]> {
        let entry = self.entries.get(&key)?;
        Some(*entry.segment.id.as_bytes())
    }

    pub(super) fn is_hurt(&self, key: u64) -> bool {
        let entry = self.entries.get(&key);
        entry.is_some_and(|entry| entry.hurt_at.is_some())
    }

    /// The store says that it lost a piece.
    pub(super) fn tell(
        &mut self,
        key: u64,
        had_read_faults: bool,
        is_harmed: bool,
    ) -> Result<(), String> {
        say(|| format!("the store says that it lost piece {key}"));
        self.told.insert(key);
        let Some(entry) = self.entries.get(&key) else {
            return Ok(());
        };
        let was_half_written = is_harmed && entry.state != State::Acked;
        if entry.hurt_at.is_some() || had_read_faults || was_half_written {
            self.hurt(key, false);
            return Ok(());
        }
        Err(format!(
            "piece {key} was reported lost, and no fault overlapped it"
        ))
    }

    /// Whether what was found may be. `Ok(true)`: an acknowledged piece was there as it should be.
    pub(super) fn judge(
        &mut self,
        key: u64,
        before: Before,
        found: Found,
        circumstances: Circumstances,
    ) -> Result<bool, String> {
        let Some(entry) = self.entries.get_mut(&key) else {
            return Ok(false);
        };
        let is_steady = !before.is_busy && before.version == entry.version;
        let may_have_expired =
            entry.expiry_ms != 0 && circumstances.now_ms + EXPIRY_MARGIN_MS > entry.expiry_ms;
        let is_reported = self.told.contains(&key)
            || entry.may_look_torn
            || entry
                .hurt_at
                .is_some_and(|before| self.rot_reports > before);
        let is_over = entry
            .trash_from_ms
            .is_some_and(|from_ms| circumstances.now_ms + TRASH_MARGIN_MS > from_ms + TRASH_MS);
        let body_bytes = entry.segment.body.len();
        let said = |what: &str| {
            let state = before.state;
            Err(format!(
                "piece {key} ({body_bytes} bytes, {state:?}): {what}"
            ))
        };
        match found {
            Found::WrongBytes => said("wrong bytes"),
            Found::Exact => {
                let came_back = is_steady && before.state == State::Deleted;
                let is_excused = entry.hurt_at.is_some() || circumstances.is_blurred;
                if came_back && !is_excused {
                    return said("it was deleted and came back");
                }
                if entry.is_over && circumstances.knows_time && !is_excused {
                    return said("it was gone from the trash for good and came back");
                }
                entry.is_over = false;
                Ok(before.state == State::Acked)
            }
            Found::Damaged if entry.hurt_at.is_some() => {
                self.told.insert(key);
                Ok(false)
            }
            Found::Damaged if circumstances.had_read_faults => {
                self.told.insert(key);
                self.hurt(key, false);
                Ok(false)
            }
            // A write that failed may have left half of a piece that nobody was promised, and one that went astray makes it look durable.
            Found::Damaged if before.state != State::Acked && circumstances.is_harmed => Ok(false),
            Found::Damaged => said("damaged, and no fault overlapped it"),
            Found::Absent if !is_steady || before.state != State::Acked || may_have_expired => {
                Ok(false)
            }
            Found::Absent if circumstances.is_blurred => Ok(false),
            // Since it was read it may have been trashed.
            Found::Absent if circumstances.is_late && entry.trash_from_ms.is_some() => Ok(false),
            Found::Absent if is_over => {
                entry.is_over |= circumstances.knows_time;
                Ok(false)
            }
            Found::Absent if entry.hurt_at.is_some() && is_reported => Ok(false),
            Found::Absent if entry.hurt_at.is_some() => said("gone without a report"),
            Found::Absent if entry.trash_from_ms.is_some() => said("gone from the trash too soon"),
            Found::Absent if circumstances.is_late => said("gone, or in the trash"),
            Found::Absent => said("gone"),
        }
    }
}
