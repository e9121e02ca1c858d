//! What answers say of the states of pieces, and which answers are wrong in these states.
//!
//! An answer that was cut off leaves both the state before and the one after; so does an error, which must have a cause.

use strand_blob::{FileId, PutError, Stored};

use crate::store::calls::{Answer, Call, Op};
use crate::store::model::{Model, State, There, is_visible, live};

impl Model {
    /// An error that the store may answer now.
    fn excuse_put(&self, call: &Call, error: PutError) {
        let is_excused = match error {
            PutError::Full => self.is_tight || self.is_troubled,
            PutError::ReadOnly | PutError::Disk(_) => self.is_troubled,
            PutError::Unlisted { blob } => {
                self.is_troubled || self.harmed.contains(&FileId::Blob(blob))
            }
            _ => false,
        };
        assert!(is_excused, "{call:?}: {error}, though nothing is wrong");
    }

    pub(super) fn learn(&mut self, calls: &[Call], answers: &[Vec<Option<Answer>>]) {
        let has = |wanted: fn(&Op) -> bool| calls.iter().any(|call| wanted(&call.op));
        let is_compacting = has(|op| matches!(op, Op::Compact(_) | Op::DropCompaction { .. }));
        let is_restoring = has(|op| matches!(op, Op::RestoreAll));
        self.has_dropped |= has(|op| matches!(op, Op::DropCompaction { .. }));
        // What a scrub found damaged may have been stored in this very batch.
        for (call, answers) in calls.iter().zip(answers) {
            if matches!(
                call.op,
                Op::RestoreAll
                    | Op::Scrub
                    | Op::Compact(_)
                    | Op::DropCompaction { .. }
                    | Op::Checkpoint
            ) {
                self.learn_of_store(call, answers);
            }
        }
        for (call, answers) in calls.iter().zip(answers) {
            match call.op {
                Op::Put { variant } => self.learn_put(call, variant, answers),
                Op::Delete => self.learn_delete(call, answers),
                Op::Get => self.learn_get(call, answers),
                Op::Trash => {
                    self.learn_trash(call, answers, is_compacting, is_restoring);
                }
                Op::RestoreAll
                | Op::Scrub
                | Op::Compact(_)
                | Op::DropCompaction { .. }
                | Op::Checkpoint => {}
            }
        }
        for known in self.pieces.iter_mut().filter(|_| is_restoring) {
            for state in known.states.clone().into_iter().flatten() {
                known.allow(live(state.variant));
            }
        }
        self.doubt();
    }

    fn learn_put(&mut self, call: &Call, variant: u64, answers: &[Option<Answer>]) {
        let (key, now_s) = (call.key, self.now_s);
        let known = self.pieces[key as usize].clone();
        let is_free = known
            .states
            .iter()
            .any(|&state| !is_visible(key, state, now_s));
        // It is stored anew where a deletion or trashing failed, which the next opening may find.
        let is_doubted = known
            .later
            .iter()
            .any(|state| state.is_none_or(|there| there.trashed_s.is_some()));
        let has = |wanted: bool| {
            let mut states = known.states.iter();
            states.any(|&state| {
                let is_variant = state.is_some_and(|there| there.variant == variant);
                is_visible(key, state, now_s) && is_variant == wanted
            })
        };
        let is_unsure = known.is_tainted || self.is_blurred;
        let (mut news, mut agains) = (0, 0);
        for answer in answers.iter().flatten() {
            match answer {
                Answer::Put(Ok(Stored::New)) => {
                    // A copy that a bad read took out of service is replaced.
                    let is_allowed =
                        is_free || is_doubted || is_unsure || self.is_troubled || self.was_torn;
                    assert!(is_allowed, "{call:?}: stored anew, in {known:?}");
                    news += 1;
                }
                Answer::Put(Ok(Stored::Already)) => {
                    let is_allowed = has(true) || call.is_doubled || is_unsure;
                    assert!(
                        is_allowed,
                        "{call:?}: acked as stored before it was, in {known:?}"
                    );
                    agains += 1;
                }
                Answer::Put(Err(PutError::Conflict)) => {
                    assert!(has(false) || is_unsure, "{call:?}: conflict, in {known:?}");
                }
                Answer::Put(Err(error)) => self.excuse_put(call, *error),
                other => panic!("{call:?} answered {other:?}"),
            }
        }
        // Who cannot read the first copy writes another one.
        assert!(
            news <= 1 || is_unsure || self.is_troubled,
            "{call:?}: stored twice"
        );
        let is_blurred = self.is_blurred;
        let known = &mut self.pieces[key as usize];
        let is_behind = !known.firm.is_empty();
        if news > 0 && (!(is_free || is_doubted) || is_behind) && !is_unsure {
            known.allow(live(variant));
            known.firm = vec![live(variant)];
        } else if news > 0 || (agains > 0 && !is_unsure && !is_behind) {
            known.settle(live(variant));
        } else if agains > 0 {
            // What it saw may be outranked by what it did not see.
            known.is_tainted |= is_blurred;
            known.allow(live(variant));
        } else if is_free || has(true) || is_unsure || self.fails_reads {
            // Who cannot read the other one writes this one.
            let is_refused = answers
                .iter()
                .all(|answer| matches!(answer, Some(Answer::Put(Err(PutError::Conflict)))));
            if !is_refused {
                known.allow(live(variant));
                if is_behind {
                    known.firm.push(live(variant));
                }
            }
        }
    }

    fn learn_delete(&mut self, call: &Call, answers: &[Option<Answer>]) {
        let (key, now_s) = (call.key, self.now_s);
        let known = self.pieces[key as usize].clone();
        let (mut is_done, mut was_found) = (false, false);
        // One that is over may be there or not.
        let is_lingering = |state: State| state.is_some() && !is_visible(key, state, now_s);
        for answer in answers.iter().flatten() {
            match answer {
                Answer::Delete(Ok(existed)) => {
                    is_done = true;
                    was_found |= existed;
                    let is_allowed = known.is_tainted
                        || self.is_blurred
                        || call.is_doubled
                        || (*existed && known.lingers)
                        || known
                            .states
                            .iter()
                            .any(|&state| is_lingering(state) || state.is_some() == *existed);
                    assert!(is_allowed, "{call:?}: existed is {existed}, in {known:?}");
                }
                Answer::Delete(Err(error)) => self.excuse_put(call, *error),
                other => panic!("{call:?} answered {other:?}"),
            }
        }
        if is_done {
            let lingers = known.lingers || known.states.iter().any(|&state| is_lingering(state));
            let after = &mut self.pieces[key as usize];
            after.settle(None);
            // Who finds nothing writes nothing: what a fault has hit before, perhaps its tombstone, is as it was.
            after.is_tainted = known.is_tainted && !was_found;
            after.lingers = lingers && !was_found;
        } else {
            let known = &mut self.pieces[key as usize];
            known.allow(None);
            if !known.firm.is_empty() {
                known.firm.push(None);
            }
        }
    }

    fn learn_get(&mut self, call: &Call, answers: &[Option<Answer>]) {
        for answer in answers {
            match answer {
                Some(Answer::Get(found)) => self.see(call.key, *found, self.now_s),
                Some(other) => panic!("{call:?} answered {other:?}"),
                None => {}
            }
        }
        // Who reads a trashed piece brings it back.
        let known = &mut self.pieces[call.key as usize];
        for state in known.states.clone().into_iter().flatten() {
            known.allow(live(state.variant));
        }
    }

    fn learn_trash(
        &mut self,
        call: &Call,
        answers: &[Option<Answer>],
        is_compacting: bool,
        is_restoring: bool,
    ) {
        let (key, now_s) = (call.key, self.now_s);
        let mut trashed = 0;
        let mut is_certain = true;
        for answer in answers {
            match answer {
                Some(Answer::Trash(Ok(count))) => trashed += count,
                Some(Answer::Trash(Err(error))) => {
                    assert!(self.is_troubled || self.is_tight, "{call:?}: {error}");
                    is_certain = false;
                }
                Some(other) => panic!("{call:?} answered {other:?}"),
                None => is_certain = false,
            }
        }
        // A blob whose list cannot be read is left out.
        let is_unsure = self.is_troubled || self.is_blurred || self.was_harmed;
        let known = &mut self.pieces[key as usize];
        let mut after = Vec::new();
        for &state in &known.states {
            let Some(there) = state.filter(|_| {
                is_visible(key, state, now_s)
                    && state.is_some_and(|there| there.trashed_s.is_none())
            }) else {
                after.push(state);
                // Brought back and trashed again, all in this batch.
                if let Some(there) = state.filter(|_| is_restoring && trashed > 0) {
                    after.push(Some(There {
                        trashed_s: Some(now_s + 1),
                        ..there
                    }));
                }
                continue;
            };
            let in_trash = Some(There {
                trashed_s: Some(now_s + 1),
                ..there
            });
            if trashed > 0 || !is_certain {
                after.push(in_trash);
            }
            if trashed == 0 || !is_certain || is_restoring {
                after.push(state);
            }
        }
        let was_certain = known.states.len() == 1 && is_certain && !call.is_doubled;
        let was_live = was_certain && after != known.states;
        let is_live = matches!(
            known.states[..],
            [Some(There {
                trashed_s: None,
                ..
            })]
        ) && is_visible(key, known.states[0], now_s);
        if was_certain && is_live && !is_unsure && !known.is_tainted {
            assert!(
                was_live || is_compacting,
                "{call:?}: left, though nothing moved it"
            );
        }
        after.dedup();
        // It may be in the trash then, and not what the next opening would have found before.
        let is_moved = trashed > 0 || !is_certain;
        if is_moved && !std::mem::take(&mut known.firm).is_empty() {
            known.later.extend(&after);
        }
        known.states = after;
    }

    fn learn_of_store(&mut self, call: &Call, answers: &[Option<Answer>]) {
        for answer in answers.iter().flatten() {
            match answer {
                Answer::RestoreAll(Ok(_)) => {}
                Answer::RestoreAll(Err(error)) | Answer::Compact(Err(error)) => {
                    self.excuse_put(call, *error);
                }
                Answer::Checkpoint(Ok(is_written)) => {
                    let is_unsure = self.is_blurred || self.has_dropped;
                    let may_decline =
                        self.is_troubled || self.is_tight || self.was_harmed || is_unsure;
                    assert!(*is_written || may_decline, "no checkpoint was written");
                }
                Answer::Checkpoint(Err(error)) => self.excuse_put(call, *error),
                Answer::Scrub(lost) | Answer::Compact(Ok(lost)) => self.take_lost(lost),
                other => panic!("{call:?} answered {other:?}"),
            }
        }
    }
}
