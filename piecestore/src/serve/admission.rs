//! Who has room for bodies on their way when there is not enough, and who loses it.
//!
//! Two of these to a core, one for bodies that come in and one for those that go out, over its budgets. Audits and repairs may use all
//! of a budget, since nothing else keeps pieces alive; all others all but an eighth. Once somebody was too slow, those of whom no whole body
//! is known have half of it together for [`CONTEST_TIME`]: whoever comes only to hold room, with however many connections, finds it taken by
//! others of his kind. When room is refused, the transfer that lags furthest behind [`SCARCE_BYTES_PER_S`] loses its own.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Instant;

use strand_protocol::NodeId;
use strand_protocol::permit::LimitAction;

use super::error::{Failure, VerbError};
use crate::budget::{Budget, BudgetUse, NoRoom, Reservation};
use crate::limits::{CONTEST_TIME, PROVEN_PEERS_MAX, SCARCE_BYTES_PER_S, SCARCE_GRACE};

/// See the module's head.
#[derive(Debug)]
pub struct Admission {
    budget: Rc<Budget>,
    /// By the order in which they came.
    transfers: RefCell<BTreeMap<u64, Rc<Progress>>>,
    next: Cell<u64>,
    /// Reserved for those of whom no whole body is known.
    unproven_bytes: Cell<u64>,
    /// Peers whose last body was whole, the latest last.
    proven: RefCell<VecDeque<NodeId>>,
    cut: Cell<u64>,
    last_cut: Cell<Option<Instant>>,
}

/// A body on its way: its room, given back when dropped.
#[derive(Debug)]
pub(super) struct Transfer {
    admission: Rc<Admission>,
    number: u64,
    progress: Rc<Progress>,
    _room: Reservation,
}

#[derive(Debug)]
struct Progress {
    peer: NodeId,
    bytes: u64,
    class: Class,
    began: Instant,
    moved_bytes: Cell<u64>,
    is_cut: Cell<bool>,
    waiter: RefCell<Option<Waker>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    /// An audit or a repair.
    Upkeep,
    Proven,
    Unproven,
}

/// An admission's figures at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct AdmissionUse {
    /// Of the memory.
    #[serde(flatten)]
    pub budget: BudgetUse,
    /// Transfers that lost their room to others, because they were slow.
    pub cut: u64,
}

impl Admission {
    /// Nobody has any of `bytes_max`.
    #[must_use]
    pub fn new(bytes_max: u64) -> Rc<Self> {
        Rc::new(Self {
            budget: Budget::new(bytes_max),
            transfers: RefCell::default(),
            next: Cell::new(0),
            unproven_bytes: Cell::new(0),
            proven: RefCell::default(),
            cut: Cell::new(0),
            last_cut: Cell::default(),
        })
    }

    /// Room for a body of so many bytes, or the word that there is none; then a slow one loses its own.
    pub(super) fn admit(
        self: &Rc<Self>,
        action: LimitAction,
        peer: NodeId,
        bytes: u64,
        now: Instant,
    ) -> Result<Transfer, NoRoom> {
        let class = match action {
            LimitAction::GetAudit | LimitAction::GetRepair | LimitAction::PutRepair => {
                Class::Upkeep
            }
            _ if self.proven.borrow().contains(&peer) => Class::Proven,
            _ => Class::Unproven,
        };
        let room = self
            .reserve(class, bytes, now)
            .inspect_err(|_| self.cut_slowest(class, now))?;
        let progress = Rc::new(Progress {
            peer,
            bytes,
            class,
            began: now,
            moved_bytes: Cell::new(0),
            is_cut: Cell::new(false),
            waiter: RefCell::default(),
        });
        if class == Class::Unproven {
            self.unproven_bytes.set(self.unproven_bytes.get() + bytes);
        }
        let number = self.next.get();
        self.next.set(number + 1);
        let listed = Rc::clone(&progress);
        self.transfers.borrow_mut().insert(number, listed);
        Ok(Transfer {
            admission: Rc::clone(self),
            number,
            progress,
            _room: room,
        })
    }

    /// What is in use.
    #[must_use]
    pub fn usage(&self) -> AdmissionUse {
        AdmissionUse {
            budget: self.budget.usage(),
            cut: self.cut.get(),
        }
    }

    fn reserve(&self, class: Class, bytes: u64, now: Instant) -> Result<Reservation, NoRoom> {
        let BudgetUse {
            bytes_max,
            bytes_used,
            ..
        } = self.budget.usage();
        let of_clients = (bytes_max - bytes_max / 8).saturating_sub(bytes_used);
        let of_unproven = (bytes_max / 2).saturating_sub(self.unproven_bytes.get());
        let bytes_free = match class {
            Class::Upkeep => u64::MAX,
            Class::Proven => of_clients,
            Class::Unproven if self.is_contested(now) => of_clients.min(of_unproven),
            Class::Unproven => of_clients,
        };
        if bytes > bytes_free {
            return Err(self.budget.refuse(bytes, bytes_free));
        }
        self.budget.try_reserve(bytes)
    }

    fn is_contested(&self, now: Instant) -> bool {
        let last_cut = self.last_cut.get();
        last_cut.is_some_and(|at| now.saturating_duration_since(at) < CONTEST_TIME)
    }

    /// Takes room from the one that lags furthest behind. One that `class` would not gain by keeps it.
    fn cut_slowest(&self, class: Class, now: Instant) {
        let is_of_use = |progress: &&Rc<Progress>| {
            class != Class::Unproven
                || progress.class == Class::Unproven
                || self.unproven_bytes.get() < self.budget.usage().bytes_max / 2
        };
        let transfers = self.transfers.borrow();
        let slowest = transfers
            .values()
            .filter(is_of_use)
            .map(|progress| (progress.lag_bytes(now), progress))
            .max_by_key(|(lag_bytes, _)| *lag_bytes);
        let Some((1.., slowest)) = slowest else {
            return;
        };
        slowest.is_cut.set(true);
        self.cut.set(self.cut.get() + 1);
        self.last_cut.set(Some(now));
        self.proven
            .borrow_mut()
            .retain(|peer| *peer != slowest.peer);
        let waiter = slowest.waiter.take();
        if let Some(waiter) = waiter {
            waiter.wake();
        }
    }

    fn prove(&self, peer: NodeId) {
        let mut proven = self.proven.borrow_mut();
        if proven.back() == Some(&peer) {
            return;
        }
        proven.retain(|known| *known != peer);
        proven.push_back(peer);
        if proven.len() > PROVEN_PEERS_MAX {
            proven.pop_front();
        }
    }
}

impl Transfer {
    /// Does `work`, unless the room is taken away meanwhile. Afterwards nobody takes it any more.
    pub(super) async fn unless_cut<T>(
        &self,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let mut work = pin!(work);
        let progress = &self.progress;
        poll_fn(|context| {
            if let Poll::Ready(done) = work.as_mut().poll(context) {
                self.leave_list();
                return Poll::Ready(done);
            }
            if progress.is_cut.get() {
                return Poll::Ready(Err(Failure::Reset(VerbError::Slow)));
            }
            let mut waiter = progress.waiter.borrow_mut();
            match &mut *waiter {
                Some(waker) => waker.clone_from(context.waker()),
                None => *waiter = Some(context.waker().clone()),
            }
            Poll::Pending
        })
        .await
    }

    /// So many bytes more have come, or go next.
    pub(super) fn add(&self, bytes: usize) {
        let moved_bytes = &self.progress.moved_bytes;
        moved_bytes.set(moved_bytes.get() + bytes as u64);
    }

    /// All went well: the peer is known by that.
    pub(super) fn complete(&self) {
        self.leave_list();
        self.admission.prove(self.progress.peer);
    }

    fn leave_list(&self) {
        self.admission.transfers.borrow_mut().remove(&self.number);
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        self.leave_list();
        if self.progress.class == Class::Unproven {
            let unproven_bytes = &self.admission.unproven_bytes;
            unproven_bytes.set(unproven_bytes.get() - self.progress.bytes);
        }
    }
}

impl Progress {
    /// Bytes that it should have moved by now, beyond those that it has; nothing once it is cut.
    fn lag_bytes(&self, now: Instant) -> u64 {
        if self.is_cut.get() {
            return 0;
        }
        let time = now
            .saturating_duration_since(self.began)
            .saturating_sub(SCARCE_GRACE);
        let due_bytes = time.as_secs_f64() * SCARCE_BYTES_PER_S as f64;
        (due_bytes as u64).saturating_sub(self.moved_bytes.get())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const MIB: u64 = 1 << 20;

    fn peer(number: u8) -> NodeId {
        NodeId::from([number; 32])
    }

    #[test]
    fn strangers_have_half_those_that_are_known_most_and_audits_all() {
        let admission = Admission::new(8 * MIB);
        let now = Instant::now();
        admission.last_cut.set(Some(now));
        let admit = |action, number| admission.admit(action, peer(number), MIB, now);
        let mut strangers: Vec<_> = (0..4)
            .map(|number| admit(LimitAction::Put, number).unwrap())
            .collect();
        assert_eq!(admit(LimitAction::Get, 9).unwrap_err().bytes_free, 0);
        strangers.pop().unwrap().complete();
        let known: Vec<_> = (0..4)
            .map(|_| admit(LimitAction::Put, 3).unwrap())
            .collect();
        assert_eq!(admit(LimitAction::Put, 3).unwrap_err().bytes_free, 0);
        let repair = admit(LimitAction::PutRepair, 8).unwrap();
        assert!(admit(LimitAction::GetAudit, 8).is_err(), "all is taken");
        assert_eq!(admission.usage().cut, 0, "nobody was slow");
        drop((strangers, known, repair));
        assert_eq!(admission.usage().budget.bytes_used, 0);
        assert_eq!(admission.unproven_bytes.get(), 0);
    }

    #[test]
    fn the_slowest_loses_its_room_when_another_wants_it() {
        let admission = Admission::new(8 * MIB);
        let start = Instant::now();
        let admit = |number, now| admission.admit(LimitAction::Put, peer(number), MIB, now);
        let transfers: Vec<_> = (0..7).map(|number| admit(number, start).unwrap()).collect();
        let later = start + SCARCE_GRACE + Duration::from_secs(10);
        let kept_up = 10 * SCARCE_BYTES_PER_S as usize;
        for (transfer, missing) in transfers.iter().zip([0, 20_000, 10_000, 0, 0, 0, 0]) {
            transfer.add(kept_up - missing);
        }
        // Known by a body before: loses that with the room.
        admission.prove(peer(1));
        let cut = || -> Vec<bool> {
            transfers
                .iter()
                .map(|transfer| transfer.progress.is_cut.get())
                .collect()
        };
        assert!(admit(9, start + SCARCE_GRACE).is_err());
        assert_eq!(cut(), [false; 7], "all have some time");
        assert!(admit(9, later).is_err());
        assert_eq!(cut()[..4], [false, true, false, false]);
        assert!(admission.proven.borrow().is_empty());
        assert!(admit(9, later).is_err());
        assert_eq!(cut()[..4], [false, true, true, false]);
        assert!(admit(9, later).is_err());
        assert_eq!(admission.usage().cut, 2, "the others keep up");
        drop(transfers);
        assert!(admit(9, later).is_ok());
    }

    #[test]
    fn what_is_complete_is_not_cut() {
        let admission = Admission::new(2 * MIB);
        let start = Instant::now();
        let transfer = admission
            .admit(LimitAction::Put, peer(1), MIB, start)
            .unwrap();
        transfer.complete();
        let later = start + Duration::from_secs(3_600);
        assert!(
            admission
                .admit(LimitAction::Put, peer(2), MIB, later)
                .is_err()
        );
        assert_eq!(admission.usage().cut, 0);
    }
}
