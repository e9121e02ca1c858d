//! What to do next with the pieces of one segment while it is uploaded: decisions only.
//!
//! The driver in `segment.rs` owns streams, nodes and clocks; it tells this machine what happened
//! (`handle_*`) and does what [`SegmentPlan::poll`] asks for. Time is a [`Duration`] since the
//! segment's limits arrived, so every run can be replayed.
//!
//! What must stay true, whatever the events and their order:
//! - a commit names each index once, only indices whose receipt arrived from the node that last
//!   held them, between repair + 1 and optimal many, data indices first;
//! - bodies are sent only once at least *optimal* pieces are admitted, or when waiting cannot bring
//!   more and at least repair + 1 are: a segment never sits on half of its room;
//! - after [`Action::Commit`], [`Action::Fail`] or [`Action::Retreat`] nothing more is asked for.
//!
//! Names: an index's *generation* counts the nodes it was given; events of an older generation are
//! ignored.

use std::time::Duration;

use strand_protocol::scheme::Scheme;

pub use end::Shortfall;
pub use patience::Patience;

mod end;
mod patience;

/// Rounds of new nodes before any body is sent.
const ADMISSION_ROUNDS_MAX: u32 = 2;

/// Why a node did not take a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It has no room now; it may have in a moment.
    Busy,
    /// It cannot be reached, broke off, or refused for good.
    Gone,
}

/// One index in the hands of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket {
    /// The piece's index.
    pub index: u8,
    /// Which of the nodes this index was given to, from 0.
    pub generation: u16,
}

/// What the driver has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send the bodies of these pieces.
    Send(Vec<Ticket>),
    /// Reset these streams: nobody waits for them any more.
    Cancel(Vec<Ticket>),
    /// Ask the satellite for new nodes; the old streams go on until it has answered.
    Replace(Vec<u8>),
    /// Reset everything, back off, and ask for the segment's limits anew.
    Retreat {
        /// Pieces that were admitted when it was given up.
        admitted_count: usize,
    },
    /// The segment stands: commit the receipts of these indices, in this order.
    Commit(Vec<Ticket>),
    /// Too few nodes took their piece.
    Fail(Shortfall),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Asked,
    Admitted,
    Sending {
        since: Duration,
    },
    /// New nodes were asked for. What the old one does in the meantime counts only if none is
    /// granted.
    Replacing {
        is_alive: bool,
        is_finished: bool,
        since: Duration,
    },
    Done,
    Failed(Refusal),
    Cancelled,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    generation: u16,
    state: State,
    /// No further node was to be had for it: not asked for again.
    is_stuck: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Asking,
    Sending,
    /// Optimal receipts are there; late data indices have until then.
    Settling {
        until: Duration,
        may_replace: bool,
    },
    Over,
}

/// The upload of one segment.
#[derive(Clone, Debug)]
pub struct SegmentPlan {
    scheme: Scheme,
    patience: Patience,
    slots: Vec<Slot>,
    phase: Phase,
    admission_until: Duration,
    optimal_admitted_at: Option<Duration>,
    sending_since: Duration,
    /// How long each finished piece took, ascending.
    durations: Vec<Duration>,
    most_done_at: Option<Duration>,
    last_progress: Duration,
    replace_rounds: u32,
    is_replacing: bool,
    may_retreat: bool,
    replaced_count: u32,
    cancelled_count: u32,
}

impl SegmentPlan {
    /// A plan for a segment whose `offered` pieces are asked for at time 0: all, or fewer where the
    /// satellite has no more nodes. `may_retreat` is false on the last try.
    #[must_use]
    pub fn new(scheme: Scheme, patience: Patience, offered: &[u8], may_retreat: bool) -> Self {
        let slot = |index: u8| {
            let is_offered = offered.contains(&index);
            Slot {
                generation: 0,
                state: if is_offered {
                    State::Asked
                } else {
                    State::Failed(Refusal::Gone)
                },
                is_stuck: !is_offered,
            }
        };
        Self {
            scheme,
            patience,
            slots: (0..scheme.total).map(slot).collect(),
            phase: Phase::Asking,
            admission_until: patience.admission,
            optimal_admitted_at: None,
            sending_since: Duration::ZERO,
            durations: Vec::new(),
            most_done_at: None,
            last_progress: Duration::ZERO,
            replace_rounds: 0,
            is_replacing: false,
            may_retreat,
            replaced_count: 0,
            cancelled_count: 0,
        }
    }

    /// The node admitted the piece.
    pub fn handle_admitted(&mut self, now: Duration, ticket: Ticket) {
        if let Some(slot) = self.current(ticket)
            && slot.state == State::Asked
        {
            slot.state = State::Admitted;
            self.last_progress = now;
        }
    }

    /// The node's receipt arrived: the piece is durable.
    pub fn handle_receipt(&mut self, now: Duration, ticket: Ticket) {
        let Some(slot) = self.current(ticket) else {
            return;
        };
        match slot.state {
            State::Sending { since } => {
                slot.state = State::Done;
                let took = now.saturating_sub(since);
                let at = self.durations.partition_point(|other| *other <= took);
                self.durations.insert(at, took);
                if self.durations.len() >= (self.optimal() * 3).div_ceil(4) {
                    self.most_done_at.get_or_insert(now);
                }
                self.last_progress = now;
            }
            State::Replacing { since, .. } => {
                slot.state = State::Replacing {
                    is_alive: false,
                    is_finished: true,
                    since,
                };
            }
            _ => {}
        }
    }

    /// The node did not take the piece, or broke off.
    pub fn handle_failed(&mut self, ticket: Ticket, refusal: Refusal) {
        let Some(slot) = self.current(ticket) else {
            return;
        };
        match slot.state {
            State::Asked | State::Admitted | State::Sending { .. } => {
                slot.state = State::Failed(refusal)
            }
            State::Replacing {
                is_finished: false,
                since,
                ..
            } => {
                slot.state = State::Replacing {
                    is_alive: false,
                    is_finished: false,
                    since,
                };
            }
            _ => {}
        }
    }

    /// Some piece moved forward, without being finished.
    pub fn handle_progress(&mut self, now: Duration) {
        self.last_progress = self.last_progress.max(now);
    }

    /// The satellite's answer to [`Action::Replace`]: indices that have a new node. The rest keep
    /// the old one, if it lives. Returns the new tickets; the driver drops the old streams of
    /// these.
    pub fn handle_replaced(&mut self, now: Duration, granted: &[u8]) -> Vec<Ticket> {
        self.is_replacing = false;
        let mut tickets = Vec::new();
        if self.phase == Phase::Over {
            return tickets;
        }
        for (index, slot) in (0u8..).zip(&mut self.slots) {
            let State::Replacing {
                is_alive,
                is_finished,
                since,
            } = slot.state
            else {
                continue;
            };
            if granted.contains(&index) {
                slot.generation += 1;
                slot.state = State::Asked;
                self.replaced_count += 1;
                tickets.push(Ticket {
                    index,
                    generation: slot.generation,
                });
                continue;
            }
            slot.is_stuck = true;
            slot.state = match (is_finished, is_alive) {
                (true, _) => State::Done,
                (false, true) => State::Sending { since },
                (false, false) => State::Failed(Refusal::Gone),
            };
        }
        if !tickets.is_empty() {
            self.last_progress = now;
        }
        tickets
    }

    /// What to do now; call again until it says `None`, then at the next event or at
    /// [`Self::next_deadline`].
    pub fn poll(&mut self, now: Duration) -> Option<Action> {
        match self.phase {
            Phase::Asking => self.poll_asking(now),
            Phase::Sending => self.poll_sending(now),
            Phase::Settling { until, may_replace } => self.poll_settling(now, until, may_replace),
            Phase::Over => None,
        }
    }

    /// When `poll` may say something new though nothing happened.
    #[must_use]
    pub fn next_deadline(&self, now: Duration) -> Duration {
        let stall = self.last_progress + self.patience.stall;
        let next = match self.phase {
            Phase::Over => return Duration::MAX,
            Phase::Settling { until, .. } => until,
            _ if self.is_replacing => now + Duration::from_secs(1),
            Phase::Asking => match self.optimal_admitted_at {
                Some(since) if linger_until(since) > now => linger_until(since),
                _ => self.admission_until,
            },
            Phase::Sending => {
                let slow_after = self.slow_after();
                let sending = self.slots.iter().filter_map(|slot| match slot.state {
                    State::Sending { since } if !slot.is_stuck => Some(since),
                    _ => None,
                });
                let has_spares = self.slots.iter().any(|slot| slot.state == State::Admitted);
                let stall = if has_spares && self.spares_due() > now {
                    stall.min(self.spares_due())
                } else {
                    stall
                };
                match slow_after {
                    Some(slow_after) => sending
                        .map(|since| since + slow_after)
                        .filter(|at| *at > now)
                        .chain([stall])
                        .min()
                        .unwrap_or(stall),
                    None => stall,
                }
            }
        };
        next.min(stall).max(now + Duration::from_millis(1))
    }

    /// Indices that were given to another node, and streams that were cancelled.
    #[must_use]
    pub fn counts(&self) -> (u32, u32) {
        (self.replaced_count, self.cancelled_count)
    }

    fn current(&mut self, ticket: Ticket) -> Option<&mut Slot> {
        if self.phase == Phase::Over {
            return None;
        }
        let slot = self.slots.get_mut(usize::from(ticket.index))?;
        (slot.generation == ticket.generation).then_some(slot)
    }

    fn count(&self, matches: impl Fn(&State) -> bool) -> usize {
        self.slots
            .iter()
            .filter(|slot| matches(&slot.state))
            .count()
    }

    fn tickets(&self, matches: impl Fn(u8, &Slot) -> bool) -> Vec<Ticket> {
        (0u8..)
            .zip(&self.slots)
            .filter(|(index, slot)| matches(*index, slot))
            .map(|(index, slot)| Ticket {
                index,
                generation: slot.generation,
            })
            .collect()
    }

    fn is_data(&self, index: u8) -> bool {
        index < self.scheme.required
    }

    fn optimal(&self) -> usize {
        usize::from(self.scheme.optimal)
    }

    /// The least number of pieces a segment may be committed with. Where repair = optimal, all of
    /// optimal.
    fn needed(&self) -> usize {
        (usize::from(self.scheme.repair) + 1).min(self.optimal())
    }

    /// From when on a piece counts as slow; `None` until enough are done to compare with.
    fn slow_after(&self) -> Option<Duration> {
        let median_at = self.optimal() / 2;
        let median = *self.durations.get(median_at)?;
        Some((median * self.patience.slow_factor).max(self.patience.slow_min))
    }

    fn poll_asking(&mut self, now: Duration) -> Option<Action> {
        let admitted_count = self.count(|state| *state == State::Admitted);
        if admitted_count >= self.optimal() {
            let since = *self.optimal_admitted_at.get_or_insert(now);
            let waits_for_data = !self
                .tickets(|index, slot| slot.state == State::Asked && self.is_data(index))
                .is_empty();
            if waits_for_data && now < linger_until(since) {
                return None;
            }
            return Some(self.begin_sending(now));
        }
        if self.is_replacing {
            // The answer decides; the satellite's own time-out bounds the wait.
            return None;
        }
        let is_late = now >= self.admission_until;
        let asked_count = if is_late {
            0
        } else {
            self.count(|state| *state == State::Asked)
        };
        if admitted_count + asked_count >= self.optimal() {
            return None;
        }
        // A node that is gone is replaced, while the others hold their room: one exchange with the
        // satellite. Where nodes are merely busy, other segments wait for room as well, and holding
        // some would be how two of them block each other.
        let busy_count = self.count(|state| *state == State::Failed(Refusal::Busy));
        let gone = self.tickets(|_, slot| {
            !slot.is_stuck
                && (slot.state == State::Failed(Refusal::Gone)
                    || (is_late && slot.state == State::Asked))
        });
        let missing_count = self.optimal() - admitted_count - asked_count;
        let is_enough = gone.len() >= missing_count || busy_count == 0;
        if self.replace_rounds < ADMISSION_ROUNDS_MAX && !gone.is_empty() && is_enough {
            self.admission_until = now + self.patience.admission / 2;
            return Some(self.replace(gone.iter().map(|ticket| ticket.index).collect()));
        }
        if busy_count > 0 && self.may_retreat {
            self.phase = Phase::Over;
            return Some(Action::Retreat { admitted_count });
        }
        if asked_count > 0 {
            return None;
        }
        if admitted_count >= self.needed() {
            // Waiting cannot bring more, and repair + 1 are enough: repair does the rest.
            return Some(self.begin_sending(now));
        }
        Some(self.fail(admitted_count))
    }

    fn begin_sending(&mut self, now: Duration) -> Action {
        self.phase = Phase::Sending;
        self.sending_since = now;
        self.last_progress = now;
        // Whoever calls this has seen admitted pieces.
        self.send_admitted(now).unwrap_or(Action::Send(Vec::new()))
    }

    fn mark_sending(&mut self, now: Duration, tickets: &[Ticket]) {
        for ticket in tickets {
            self.slots[usize::from(ticket.index)].state = State::Sending { since: now };
        }
    }

    fn replace(&mut self, indices: Vec<u8>) -> Action {
        self.is_replacing = true;
        self.replace_rounds += 1;
        for index in &indices {
            let slot = &mut self.slots[usize::from(*index)];
            let (is_alive, since) = match slot.state {
                State::Sending { since } => (true, since),
                _ => (false, Duration::ZERO),
            };
            slot.state = State::Replacing {
                is_alive,
                is_finished: false,
                since,
            };
        }
        Action::Replace(indices)
    }

    /// Admitted pieces whose turn has come: data at once, parity as far as optimal could not be
    /// reached without it.
    ///
    /// The others are spares. Where all goes well their bodies would be a sixth of all bytes sent
    /// for nothing, so they wait admitted until most others are done, or for
    /// [`Patience::spare_hold`]; then they race the rest.
    fn send_admitted(&mut self, now: Duration) -> Option<Action> {
        let slow_after = self.slow_after();
        let is_going = |slot: &&Slot| match slot.state {
            State::Done => true,
            State::Sending { since } => slow_after.is_none_or(|after| now < since + after),
            _ => false,
        };
        let going_count = self.slots.iter().filter(is_going).count();
        let is_data =
            |index: u8, slot: &Slot| slot.state == State::Admitted && index < self.scheme.required;
        let mut tickets = self.tickets(is_data);
        if self.phase == Phase::Sending {
            let is_release = now >= self.spares_due();
            let missing_count = self.optimal().saturating_sub(going_count + tickets.len());
            let parity = self.tickets(|index, slot| {
                slot.state == State::Admitted && index >= self.scheme.required
            });
            tickets.extend(parity.into_iter().take(if is_release {
                usize::MAX
            } else {
                missing_count
            }));
        }
        if tickets.is_empty() {
            return None;
        }
        self.mark_sending(now, &tickets);
        Some(Action::Send(tickets))
    }

    /// When spares join the race: an eighth of the usual time after three quarters of optimal are
    /// done, so that those whose receipts are on the way come first.
    fn spares_due(&self) -> Duration {
        let held = self.sending_since + self.patience.spare_hold;
        let median = self
            .durations
            .get(self.durations.len() / 2)
            .copied()
            .unwrap_or_default();
        let soon = self
            .most_done_at
            .map_or(held, |at| at + (median / 8).max(Duration::from_millis(20)));
        held.min(soon)
    }

    fn poll_sending(&mut self, now: Duration) -> Option<Action> {
        if let Some(action) = self.send_admitted(now) {
            return Some(action);
        }
        let done_count = self.count(|state| *state == State::Done);
        if done_count >= self.optimal() {
            return Some(self.settle(now));
        }
        let is_stalled = now >= self.last_progress + self.patience.stall;
        if !self.is_replacing
            && self.replace_rounds < self.patience.replace_rounds_max
            && !is_stalled
        {
            let indices = self.worth_replacing(now, done_count);
            if !indices.is_empty() {
                return Some(self.replace(indices));
            }
        }
        let open_count = self.count(|state| {
            matches!(
                state,
                State::Asked | State::Sending { .. } | State::Replacing { .. }
            )
        });
        if open_count > 0 && !is_stalled {
            return None;
        }
        if done_count >= self.needed() {
            return Some(self.finish());
        }
        Some(self.fail(done_count))
    }

    /// Failed and slow data indices, and as many of the parity ones as are needed to reach optimal.
    fn worth_replacing(&self, now: Duration, done_count: usize) -> Vec<u8> {
        let slow_after = self.slow_after();
        let is_lost = |slot: &Slot| {
            !slot.is_stuck
                && match slot.state {
                    State::Failed(_) => true,
                    State::Sending { since } => {
                        slow_after.is_some_and(|after| now >= since + after)
                    }
                    // Admission of a replacement has the time of a first admission.
                    _ => false,
                }
        };
        let lost = self.tickets(|_, slot| is_lost(slot));
        let open_count = self.count(|state| {
            matches!(
                state,
                State::Asked | State::Admitted | State::Sending { .. } | State::Replacing { .. }
            )
        });
        let slow_count = lost
            .iter()
            .filter(|ticket| {
                matches!(
                    self.slots[usize::from(ticket.index)].state,
                    State::Sending { .. }
                )
            })
            .count();
        let reachable_count = done_count + open_count - slow_count;
        let missing_count = self.optimal().saturating_sub(reachable_count);
        let (data, parity): (Vec<_>, Vec<_>) = lost
            .into_iter()
            .partition(|ticket| self.is_data(ticket.index));
        let parity_count = missing_count.saturating_sub(data.len());
        data.into_iter()
            .chain(parity.into_iter().take(parity_count))
            .map(|ticket| ticket.index)
            .collect()
    }
}

/// How long data pieces are still waited for when optimal pieces are admitted: a quarter longer than
/// that took. Begun without them, they would be sent on top of the others.
fn linger_until(since: Duration) -> Duration {
    since + (since / 4).clamp(Duration::from_millis(20), Duration::from_millis(500))
}

fn is_open(state: State) -> bool {
    matches!(
        state,
        State::Asked | State::Admitted | State::Sending { .. } | State::Replacing { .. }
    )
}
