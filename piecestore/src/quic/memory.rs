//! The memory of a core's connections: what each may pin, and who goes when it is short.
//!
//! A connection begins *narrow*: windows of some tens of KiB, enough for requests and short pieces. The first long
//! body that is admitted on it makes it *wide*, if there is memory; a peer that never gets that far pins little,
//! however many connections it opens. Credit that QUIC has given cannot be taken back, so a wide connection stays
//! wide until it ends. A connection on which no admitted body is on its way is *quiet*, whatever else it asks; when memory
//! is short, the one that has been quiet for longest is closed for another, wide ones first.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Instant;

use super::timer::ConnectionNumber;
use crate::budget::{Budget, BudgetUse, Reservation};
use crate::limits::{NARROW_CONNECTION_BYTES, QUIET_MIN, WIDE_CONNECTION_BYTES};

/// See the module's head.
#[derive(Debug)]
pub(super) struct ConnectionMemory {
    budget: Rc<Budget>,
    /// Longest first.
    quiet_wide: RefCell<BTreeSet<Quiet>>,
    quiet_narrow: RefCell<BTreeSet<Quiet>>,
}

/// Since when which connection has had no body.
type Quiet = (Instant, ConnectionNumber);

/// What one accepted connection has of it. Given back when dropped.
#[derive(Debug)]
pub(super) struct Share {
    memory: Rc<ConnectionMemory>,
    number: ConnectionNumber,
    narrow: RefCell<Option<Reservation>>,
    /// Beyond that.
    wide: RefCell<Option<Reservation>>,
    body_count: Cell<usize>,
    quiet_since: Cell<Option<Instant>>,
}

impl ConnectionMemory {
    pub(super) fn new(budget: Rc<Budget>) -> Rc<Self> {
        Rc::new(Self {
            budget,
            quiet_wide: RefCell::default(),
            quiet_narrow: RefCell::default(),
        })
    }

    /// What is pinned at most, and the bound.
    pub(super) fn usage(&self) -> BudgetUse {
        self.budget.usage()
    }

    /// Takes what a narrow connection needs.
    pub(super) fn admit(&self) -> Option<Reservation> {
        self.budget.try_reserve(NARROW_CONNECTION_BYTES).ok()
    }

    /// Makes that the share of a connection, which is quiet from `now` on.
    pub(super) fn share(
        self: &Rc<Self>,
        number: ConnectionNumber,
        narrow: Reservation,
        now: Instant,
    ) -> Share {
        let share = Share {
            memory: Rc::clone(self),
            number,
            narrow: RefCell::new(Some(narrow)),
            wide: RefCell::default(),
            body_count: Cell::new(0),
            quiet_since: Cell::default(),
        };
        share.set_quiet(Some(now));
        share
    }

    /// The connection that should go for another to be admitted. None that was not quiet for [`QUIET_MIN`].
    pub(super) fn dispensable(&self, now: Instant) -> Option<ConnectionNumber> {
        self.dispensable_wide(now)
            .or_else(|| longest(&self.quiet_narrow, now))
    }

    /// The connection that should go for another to become wide.
    pub(super) fn dispensable_wide(&self, now: Instant) -> Option<ConnectionNumber> {
        longest(&self.quiet_wide, now)
    }
}

fn longest(quiet: &RefCell<BTreeSet<Quiet>>, now: Instant) -> Option<ConnectionNumber> {
    let (since, number) = *quiet.borrow().first()?;
    (now.saturating_duration_since(since) >= QUIET_MIN).then_some(number)
}

impl Share {
    /// Has an admitted body more.
    pub(super) fn begin_body(&self) {
        self.body_count.set(self.body_count.get() + 1);
        self.set_quiet(None);
    }

    /// Has one less.
    pub(super) fn end_body(&self, now: Instant) {
        self.body_count.set(self.body_count.get() - 1);
        if self.body_count.get() == 0 && self.narrow.borrow().is_some() {
            self.set_quiet(Some(now));
        }
    }

    /// Takes what a wide connection needs. `None`: it is wide already, `Some(false)`: there is not enough.
    pub(super) fn widen(&self) -> Option<bool> {
        let mut wide = self.wide.borrow_mut();
        if wide.is_some() {
            return None;
        }
        let beyond = WIDE_CONNECTION_BYTES - NARROW_CONNECTION_BYTES;
        *wide = self.memory.budget.try_reserve(beyond).ok();
        Some(wide.is_some())
    }

    /// Gives all back: the connection is being closed, and had no request.
    pub(super) fn retire(&self) {
        self.set_quiet(None);
        self.narrow.take();
        self.wide.take();
    }

    fn set_quiet(&self, since: Option<Instant>) {
        // Wide only while it has a body, so it is in the list that it was put into.
        let list = match *self.wide.borrow() {
            Some(_) => &self.memory.quiet_wide,
            None => &self.memory.quiet_narrow,
        };
        let mut list = list.borrow_mut();
        if let Some(before) = self.quiet_since.replace(since) {
            list.remove(&(before, self.number));
        }
        if let Some(since) = since {
            list.insert((since, self.number));
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.set_quiet(None);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_longest_quiet_goes_first_and_wide_before_narrow() {
        let budget = Budget::new(WIDE_CONNECTION_BYTES + 3 * NARROW_CONNECTION_BYTES);
        let memory = ConnectionMemory::new(Rc::clone(&budget));
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let share = |number, seconds| {
            let narrow = memory.admit().unwrap();
            memory.share(ConnectionNumber(number), narrow, at(seconds))
        };
        let (first, second, third) = (share(1, 0), share(2, 1), share(3, 2));
        let quiet_min = QUIET_MIN.as_secs();
        assert_eq!(memory.dispensable(at(quiet_min - 1)), None);
        assert_eq!(memory.dispensable(at(quiet_min)), Some(ConnectionNumber(1)));

        // A body, and then as quiet as before, but from later on.
        first.begin_body();
        assert_eq!(
            memory.dispensable(at(quiet_min + 1)),
            Some(ConnectionNumber(2))
        );
        first.end_body(at(3));
        third.begin_body();
        assert_eq!(third.widen(), Some(true));
        assert_eq!(third.widen(), None);
        second.begin_body();
        assert_eq!(second.widen(), Some(false), "there is room for one");
        second.end_body(at(4));
        assert_eq!(memory.dispensable_wide(at(100)), None);
        third.end_body(at(5));
        assert_eq!(
            memory.dispensable(at(quiet_min + 4)),
            Some(ConnectionNumber(1))
        );
        assert_eq!(
            memory.dispensable(at(quiet_min + 5)),
            Some(ConnectionNumber(3))
        );
        third.retire();
        assert_eq!(memory.dispensable_wide(at(100)), None);
        assert_eq!(memory.usage().bytes_used, 2 * NARROW_CONNECTION_BYTES);
        drop((first, second, third));
        assert_eq!(memory.dispensable(at(100)), None);
        assert_eq!(budget.usage().bytes_used, 0);
    }
}
