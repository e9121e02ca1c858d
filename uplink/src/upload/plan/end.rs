//! How the upload of a segment ends: late pieces are waited for and given up, then it is committed, or fails.

use std::time::Duration;

use super::{Action, Phase, SegmentPlan, State, Ticket, is_open};

/// How far a segment came that could not be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shortfall {
    /// Pieces that at least have to be stored: repair + 1.
    pub needed_count: usize,
    /// Pieces that were admitted or stored.
    pub found_count: usize,
    /// Pieces aimed for.
    pub optimal_count: usize,
}

impl SegmentPlan {
    /// Whether optimal receipts are there: the next segment may begin to send.
    #[must_use]
    pub fn is_settling(&self) -> bool {
        matches!(self.phase, Phase::Settling { .. } | Phase::Over)
    }

    pub(super) fn settle(&mut self, now: Duration) -> Action {
        let took = now.saturating_sub(self.sending_since);
        let grace = (took * self.patience.grace_percent / 100).max(self.patience.grace_min);
        self.phase = Phase::Settling {
            until: now + grace,
            may_replace: true,
        };
        let late_parity =
            self.tickets(|index, slot| index >= self.scheme.required && is_open(slot.state));
        Action::Cancel(self.cancel(late_parity))
    }

    fn cancel(&mut self, tickets: Vec<Ticket>) -> Vec<Ticket> {
        for ticket in &tickets {
            self.slots[usize::from(ticket.index)].state = State::Cancelled;
        }
        self.cancelled_count += u32::try_from(tickets.len()).unwrap_or(u32::MAX);
        tickets
    }

    pub(super) fn poll_settling(
        &mut self,
        now: Duration,
        until: Duration,
        may_replace: bool,
    ) -> Option<Action> {
        if let Some(action) = self.send_admitted(now) {
            return Some(action);
        }
        let late = self.tickets(|index, slot| {
            index < self.scheme.required
                && (is_open(slot.state) || matches!(slot.state, State::Failed(_)))
        });
        if late.is_empty() {
            return Some(self.finish());
        }
        let may_replace = may_replace && self.replace_rounds < self.patience.replace_rounds_max;
        let is_over = now >= until;
        if may_replace && !self.is_replacing {
            let indices: Vec<u8> = late
                .iter()
                .filter(|ticket| {
                    let slot = self.slots[usize::from(ticket.index)];
                    !slot.is_stuck && (is_over || matches!(slot.state, State::Failed(_)))
                })
                .map(|ticket| ticket.index)
                .collect();
            if !indices.is_empty() {
                // One more window, as long as the first one and one piece take: every share is
                // ready to go.
                let piece = self
                    .durations
                    .get(self.durations.len() / 2)
                    .copied()
                    .unwrap_or_default();
                let grace = (now.saturating_sub(self.sending_since) * self.patience.grace_percent
                    / 100)
                    .max(self.patience.grace_min);
                self.phase = Phase::Settling {
                    until: now + grace + piece.min(Duration::from_secs(2)),
                    may_replace: !is_over,
                };
                return Some(self.replace(indices));
            }
        }
        let open = self.tickets(|index, slot| index < self.scheme.required && is_open(slot.state));
        if is_over || open.is_empty() {
            Some(self.finish())
        } else {
            None
        }
    }

    /// Cancels what is still open, then commits. Two calls of `poll`.
    pub(super) fn finish(&mut self) -> Action {
        let open = self.tickets(|_, slot| is_open(slot.state));
        if !open.is_empty() {
            self.phase = Phase::Settling {
                until: Duration::ZERO,
                may_replace: false,
            };
            return Action::Cancel(self.cancel(open));
        }
        self.phase = Phase::Over;
        let mut tickets = self.tickets(|_, slot| slot.state == State::Done);
        // Ascending order is data first: data indices are the lowest.
        tickets.truncate(self.optimal());
        Action::Commit(tickets)
    }

    pub(super) fn fail(&mut self, found_count: usize) -> Action {
        self.phase = Phase::Over;
        Action::Fail(Shortfall {
            needed_count: self.needed(),
            found_count,
            optimal_count: self.optimal(),
        })
    }
}
