//! What becomes of a piece record: live, in the trash, damaged, dead. Every change goes through here, with all that it counts for.
//!
//! Each piece record that a reader could meet stands in exactly one of four lists: the index (live), the trash, the damaged, or
//! the dead ones that do not count. Trash and damage have lists of their own and no bit in the index's entries: few pieces are in them, more must
//! be known of each than a bit, and a live piece stays at its 12 bytes. Bytes of a body are in one term of [`Space`](crate::Space) by its state.

use crate::disk::Disk;
use crate::error::Damage;
use crate::index::Entry;
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
}

/// A piece record with what its state counts for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Known {
    pub(crate) entry: Entry,
    pub(crate) body_len: u64,
    /// Seconds since 1970, 0 = never.
    pub(crate) expiry_s: u32,
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
        let damage = self.damaged.borrow().of(fingerprint, entry);
        damage.map(State::Damaged)
    }

    /// All records that may be the piece, those in service first, the newest first.
    pub(crate) fn candidates(&self, fingerprint: u64) -> Vec<(Entry, State)> {
        let live = self.index.borrow().candidates(fingerprint);
        let mut candidates: Vec<_> = live.into_iter().map(|entry| (entry, State::Live)).collect();
        for (entry, trashed) in self.trash.borrow().candidates(fingerprint) {
            candidates.push((entry, State::Trash(trashed.since_s)));
        }
        for (entry, damage) in self.damaged.borrow().candidates(fingerprint) {
            candidates.push((entry, State::Damaged(damage)));
        }
        candidates
    }

    /// Changes the state of a record; returns what it was, `None` if it was dead and stays so.
    pub(crate) fn change(&self, fingerprint: u64, known: &Known, to: State) -> Option<State> {
        let from = self.take_out(fingerprint, known)?;
        self.put_in(fingerprint, known, to);
        Some(from)
    }

    /// Gives a record that is in no list its state. Its body is counted as dead until now.
    pub(crate) fn put_in(&self, fingerprint: u64, known: &Known, state: State) {
        let (entry, body_len) = (known.entry, known.body_len);
        match state {
            State::Live => self.index.borrow_mut().insert(fingerprint, entry),
            State::Trash(since_s) => {
                let trashed = Trashed {
                    since_s,
                    body_len: body_len as u32,
                };
                self.trash.borrow_mut().insert(fingerprint, entry, trashed);
            }
            State::Damaged(damage) => self.damaged.borrow_mut().insert(fingerprint, entry, damage),
            State::Dead => self.dead.borrow_mut().insert(fingerprint, entry),
        }
        if let Some(blob) = self.blob(entry.place()) {
            blob.enter(state, body_len, known.expiry_s);
        }
        self.account(|space| match state {
            State::Live => {
                space.dead_bytes -= body_len;
                space.live_bytes += body_len;
            }
            State::Trash(_) => {
                space.dead_bytes -= body_len;
                space.trash_bytes += body_len;
            }
            State::Damaged(_) | State::Dead => {}
        });
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
        self.account(|space| match state {
            State::Live => {
                space.live_bytes -= body_len;
                space.dead_bytes += body_len;
            }
            State::Trash(_) => {
                space.trash_bytes -= body_len;
                space.dead_bytes += body_len;
            }
            State::Damaged(_) | State::Dead => {}
        });
        Some(state)
    }

    /// Lets trashed pieces die whose 7 days are over. Cheap enough for every compaction: one walk over the trash.
    pub(crate) fn empty_trash(&self, now_s: u32) {
        let over: Vec<_> = {
            let trash = self.trash.borrow();
            let is_over = |trashed: &(u64, Entry, Trashed)| is_over(trashed.2.since_s, now_s);
            trash.iter().filter(is_over).collect()
        };
        for (fingerprint, entry, trashed) in over {
            let known = Known {
                entry,
                body_len: u64::from(trashed.body_len),
                expiry_s: 0,
            };
            self.change(fingerprint, &known, State::Dead);
        }
    }

    /// Whether a record of this name that does not count, or is damaged, lies in another blob than this one, or may lie anywhere unseen.
    pub(crate) fn may_reappear(&self, fingerprint: u64, slot: u32) -> bool {
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
