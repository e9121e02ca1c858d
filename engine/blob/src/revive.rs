//! Bringing trashed pieces back: one that is read, and all of a satellite's.
//!
//! A read of a trashed piece is the sign that a filter was wrong. The read is served at once; the restore record goes into the commit queue
//! as soon as nothing else happens to the piece, at the latest with the next operation of the store. The name is handed on once the record
//! is durable. What finds no place among [`REVIVALS_MAX`] is left to the next read.

use std::cell::RefCell;

use crate::disk::Disk;
use crate::error::PutError;
use crate::index::Entry;
use crate::marks::{Answer, Mark};
use crate::names::{Name, Names};
use crate::piece::Piece;
use crate::pieces::BATCH_MAX;
use crate::record::Kind;
use crate::states::{self, Known, State};
use crate::store::Store;

/// Restore records of reads that wait to be queued, and as many that wait to be durable.
const REVIVALS_MAX: usize = 256;

/// Trashed pieces that were read.
#[derive(Default)]
pub(crate) struct Revivals {
    waiting: RefCell<Vec<Waiting>>,
    begun: RefCell<Vec<(Name, Answer)>>,
    done: RefCell<Names<()>>,
}

struct Waiting {
    fingerprint: u64,
    known: Known,
    mark: Mark,
}

impl Revivals {
    /// A record has moved.
    pub(crate) fn follow(&self, fingerprint: u64, from: Entry, to: Entry) {
        for waiting in self.waiting.borrow_mut().iter_mut() {
            if waiting.fingerprint == fingerprint && waiting.known.entry == from {
                waiting.known.entry = to;
            }
        }
    }
}

impl<D: Disk> Store<D> {
    /// Brings back a trashed piece that was just read.
    pub(crate) fn revive(&self, piece: &Piece, now_s: u32) {
        let known = piece.known();
        let fingerprint = self.fingerprinter.of(&piece.satellite, &piece.id);
        {
            let mut waiting = self.revivals.waiting.borrow_mut();
            let is_known = waiting.iter().any(|other| other.known.entry == known.entry);
            if !is_known && waiting.len() < REVIVALS_MAX {
                waiting.push(Waiting {
                    fingerprint,
                    known,
                    mark: piece.mark(Kind::Restore, now_s),
                });
            }
        }
        self.push_revivals();
    }

    /// Queues the restore records that wait, and notes which have become durable.
    pub(crate) fn push_revivals(&self) {
        let begun = self.revivals.begun.take();
        for (name, answer) in begun {
            match answer.try_receive() {
                Ok(Some(Ok(()))) => self.revivals.done.borrow_mut().push(name, ()),
                // The next read tries again.
                Ok(_) => {}
                Err(answer) => self.revivals.begun.borrow_mut().push((name, answer)),
            }
        }
        let is_open = self.check_open().is_ok();
        for waiting in self.revivals.waiting.take() {
            let Waiting {
                fingerprint, known, ..
            } = waiting;
            let Some(State::Trash(_)) = self.state_of(fingerprint, known.entry) else {
                continue;
            };
            if !is_open {
                continue;
            }
            let has_place = self.revivals.begun.borrow().len() < REVIVALS_MAX;
            let guard = has_place
                .then(|| self.locks.try_lock(fingerprint))
                .flatten();
            let Some(guard) = guard else {
                self.revivals.waiting.borrow_mut().push(waiting);
                continue;
            };
            let name = (waiting.mark.satellite, waiting.mark.id);
            let answer = self.submit_mark(fingerprint, &waiting.mark, vec![known], guard);
            self.revivals.begun.borrow_mut().push((name, answer));
        }
    }

    /// Pieces that were read out of the trash since the last call and are durably back, satellite and piece id of each; at most
    /// 4,096 are kept.
    pub fn take_revived(&self) -> Vec<Name> {
        self.push_revivals();
        let done = self.revivals.done.borrow_mut().take();
        done.into_iter().map(|(name, ())| name).collect()
    }

    /// Brings back all pieces of a satellite that are in the trash; returns how many, once that is durable.
    ///
    /// `now_s` is the satellite's time: pieces whose 7 days are over, and those that have expired, stay away. Runs beside everything else; dropping it is safe at any point,
    /// and calling it again goes on.
    ///
    /// # Errors
    ///
    /// As for a delete; [`PutError::Unlisted`] if some blob does not tell what is in it, after the pieces of all others are back.
    pub async fn restore_all(&self, satellite: &[u8; 32], now_s: u32) -> Result<u64, PutError> {
        let mut restored = 0;
        let mut unlisted = Ok(());
        // What compaction moves during a walk may be missed by it.
        for _ in 0..WALKS_MAX {
            let moved_before = self.counters().records_moved;
            let mut batch = self.batch();
            unlisted = Ok(());
            for stop in self.stops() {
                let records = self.find(&stop, satellite).await.unwrap_or_else(|error| {
                    unlisted = Err(error);
                    Vec::new()
                });
                for found in records {
                    let is_wanted = |state| match state {
                        State::Trash(since_s) => {
                            !states::is_over(since_s, now_s)
                                && !states::is_expired(found.record.expiry_s, now_s)
                        }
                        _ => false,
                    };
                    let mark = found.mark(Kind::Restore, now_s);
                    if batch.mark(&found, &mark, is_wanted).await? {
                        restored += 1;
                    }
                }
            }
            batch.settle().await?;
            if self.counters().records_moved == moved_before {
                break;
            }
        }
        unlisted.map(|()| restored)
    }
}

/// Walks over the store for one restoring.
const WALKS_MAX: usize = 8;

const _: () = assert!(BATCH_MAX <= REVIVALS_MAX);
