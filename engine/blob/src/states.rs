//! What becomes of a piece record: live, in the trash, damaged, dead. Every change goes through here, with all that it counts for.
//!
//! Each piece record that a reader could meet stands in exactly one of four lists: the index (live), the trash, the damaged, or
//! the dead ones that do not count. Trash and damage have lists of their own and no bit in the index's entries: few pieces are in them, more must
//! be known of each than a bit, and a live piece stays at its 12 bytes. Bytes of a body are in one term of `Space` by its state.
//!
//! A checkpoint takes a damaged record for what it was before, as a rebuild does: the next opening gives it another chance. So
//! damage may be noted at any time; every other change outside the committer waits at `hold_still`.

use crate::bug::{self, Bug};
use crate::disk::Disk;
use crate::error::Damage;
use crate::index::Entry;
use crate::space::Space;
use crate::store::Store;

/// How long a trashed piece can be restored, in seconds of satellite time: 7 days (docs/format.md, *trash*).
pub const TRASH_S: u32 = 7 * 86_400;

/// What a piece record is to readers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Live,
    /// Since when, seconds since 1970.
    Trash(u32),
    /// Out of service: what failed its check.
    Damaged(Damage),
    /// Outranked, or gone without a record. Kept in mind for as long as its bytes are there.
    Dead,
}

/// A trashed piece.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Trashed {
    pub(crate) since_s: u32,
    pub(crate) body_len: u32,
    /// The record's: it knows it again in another place.
    pub(crate) sequence: u64,
}

/// A piece out of service.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hurt {
    pub(crate) damage: Damage,
    /// Since when it was in the trash before; `None`: it was live.
    pub(crate) trashed_s: Option<u32>,
    pub(crate) body_len: u32,
    pub(crate) expiry_s: u32,
    pub(crate) sequence: u64,
}

impl Hurt {
    /// What it was before.
    pub(crate) fn before(&self) -> State {
        self.trashed_s.map_or(State::Live, State::Trash)
    }
}

/// A piece record with what its state counts for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Known {
    pub(crate) entry: Entry,
    pub(crate) body_len: u64,
    /// Seconds since 1970, 0 = never.
    pub(crate) expiry_s: u32,
    pub(crate) sequence: u64,
}

impl Known {
    pub(crate) fn trashed(&self, since_s: u32) -> Trashed {
        Trashed {
            since_s,
            body_len: self.body_len as u32,
            sequence: self.sequence,
        }
    }
}

impl Space {
    /// Takes a body that counts as dead for what its state says.
    pub(crate) fn enter(&mut self, state: State, body_len: u64) {
        if let Some(term) = self.term_of(state) {
            *term += body_len;
            self.dead_bytes -= body_len;
        }
    }

    /// Counts a body as dead from now on.
    pub(crate) fn leave(&mut self, state: State, body_len: u64) {
        if let Some(term) = self.term_of(state) {
            *term -= body_len;
            self.dead_bytes += body_len;
        }
    }

    fn term_of(&mut self, state: State) -> Option<&mut u64> {
        match state {
            State::Live => Some(&mut self.live_bytes),
            State::Trash(_) => Some(&mut self.trash_bytes),
            State::Damaged(_) | State::Dead => None,
        }
    }
}

/// Whether a piece trashed at `since_s` is gone by now.
pub(crate) fn is_over(since_s: u32, now_s: u32) -> bool {
    now_s.saturating_sub(since_s) > TRASH_S
}

/// Whether a piece has expired by now.
pub(crate) fn is_expired(expiry_s: u32, now_s: u32) -> bool {
    expiry_s != 0 && expiry_s < now_s
}

impl<D: Disk> Store<D> {
    /// The state of a record; `None` if it is dead or was never seen.
    pub(crate) fn state_of(&self, fingerprint: u64, entry: Entry) -> Option<State> {
        if self.index.borrow().contains(fingerprint, entry) {
            return Some(State::Live);
        }
        if let Some(trashed) = self.trash.borrow().of(fingerprint, entry) {
            return Some(State::Trash(trashed.since_s));
        }
        let hurt = self.damaged.borrow().of(fingerprint, entry);
        hurt.map(|hurt| State::Damaged(hurt.damage))
    }

    /// All records that may be the piece, those in service first, the newest first.
    pub(crate) fn candidates(&self, fingerprint: u64) -> Vec<(Entry, State)> {
        let live = self.index.borrow().candidates(fingerprint);
        let mut candidates: Vec<_> = live.into_iter().map(|entry| (entry, State::Live)).collect();
        for (entry, trashed) in self.trash.borrow().candidates(fingerprint) {
            candidates.push((entry, State::Trash(trashed.since_s)));
        }
        for (entry, hurt) in self.damaged.borrow().candidates(fingerprint) {
            candidates.push((entry, State::Damaged(hurt.damage)));
        }
        candidates
    }

    /// Changes the state of a record; returns what it was, `None` if it was dead and stays so.
    pub(crate) fn change(&self, fingerprint: u64, known: &Known, to: State) -> Option<State> {
        let before = self.damaged.borrow().of(fingerprint, known.entry);
        let from = self.take_out(fingerprint, known)?;
        if let State::Damaged(damage) = to {
            let trashed_s = match from {
                State::Trash(since_s) => Some(since_s),
                _ => before.and_then(|hurt| hurt.trashed_s),
            };
            let hurt = Hurt {
                damage,
                trashed_s,
                body_len: known.body_len as u32,
                expiry_s: known.expiry_s,
                sequence: known.sequence,
            };
            self.damaged
                .borrow_mut()
                .insert(fingerprint, known.entry, hurt);
        } else {
            self.put_in(fingerprint, known, to);
        }
        Some(from)
    }

    /// Gives a record that is in no list its state, which is not damaged. Its body is counted as dead until now.
    pub(crate) fn put_in(&self, fingerprint: u64, known: &Known, state: State) {
        let (entry, body_len) = (known.entry, known.body_len);
        match state {
            State::Live => self.index.borrow_mut().insert(fingerprint, entry),
            State::Trash(since_s) => {
                let trashed = known.trashed(since_s);
                self.trash.borrow_mut().insert(fingerprint, entry, trashed);
            }
            State::Damaged(_) | State::Dead => self.dead.borrow_mut().insert(fingerprint, entry),
        }
        if let Some(blob) = self.blob(entry.place()) {
            blob.enter(state, body_len, known.expiry_s);
        }
        self.account(|space| space.enter(state, body_len));
    }

    /// Takes a record out of its list, and counts its body as dead.
    fn take_out(&self, fingerprint: u64, known: &Known) -> Option<State> {
        let (entry, body_len) = (known.entry, known.body_len);
        let state = self.state_of(fingerprint, entry)?;
        match state {
            State::Live => {
                self.index.borrow_mut().remove(fingerprint, entry);
            }
            State::Trash(_) => {
                self.trash.borrow_mut().remove(fingerprint, entry);
            }
            State::Damaged(_) => {
                self.damaged.borrow_mut().remove(fingerprint, entry);
            }
            State::Dead => {}
        }
        if let Some(blob) = self.blob(entry.place()) {
            blob.leave(state, body_len, known.expiry_s);
        }
        self.account(|space| space.leave(state, body_len));
        Some(state)
    }

    /// Lets trashed pieces die whose 7 days are over. Cheap enough for every compaction: one walk over the trash.
    pub(crate) async fn empty_trash(&self, now_s: u32) {
        let now_s = if bug::is_planted(Bug::TrashShort) {
            now_s + 6 * 86_400
        } else {
            now_s
        };
        let over = || -> Vec<_> {
            let trash = self.trash.borrow();
            let is_over = |trashed: &(u64, Entry, Trashed)| is_over(trashed.2.since_s, now_s);
            trash.iter().filter(is_over).collect()
        };
        if over().is_empty() {
            return;
        }
        let _still = self.hold_still().await;
        self.add_replay_cost(1);
        for (fingerprint, entry, trashed) in over() {
            let known = Known {
                entry,
                body_len: u64::from(trashed.body_len),
                expiry_s: 0,
                sequence: trashed.sequence,
            };
            self.change(fingerprint, &known, State::Dead);
        }
    }

    /// Whether a record of this name that does not count, or is damaged, lies in another blob than this one, or may lie anywhere unseen.
    pub(crate) fn may_reappear(&self, fingerprint: u64, slot: u32) -> bool {
        if bug::is_planted(Bug::TombstoneDroppedEarly) {
            return false;
        }
        let is_elsewhere = |entry: Entry| entry.place().slot != slot;
        let dead = self.dead.borrow().candidates(fingerprint);
        self.may_lie_unseen()
            || dead.into_iter().any(is_elsewhere)
            || self.is_damaged_elsewhere(fingerprint, slot)
    }

    pub(crate) fn is_damaged_elsewhere(&self, fingerprint: u64, slot: u32) -> bool {
        let damaged = self.damaged.borrow();
        damaged
            .candidates(fingerprint)
            .any(|(entry, _)| entry.place().slot != slot)
    }

    /// Records may be on disk that no list has.
    pub(crate) fn may_lie_unseen(&self) -> bool {
        self.has_rot || self.has_failed_writes.get()
    }
}
