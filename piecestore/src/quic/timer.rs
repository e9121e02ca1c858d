//! Which connection's clock runs out first.
//!
//! quinn-proto moves a connection's deadline with almost every packet, mostly to later. An entry
//! is therefore only added when the deadline comes *earlier* than the one already queued; when an
//! entry falls due the driver looks at the connection's real deadline and queues that.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Instant;

/// Names a connection of a driver for good: numbers are not reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ConnectionNumber(pub(super) u64);

/// See the module's head.
#[derive(Debug, Default)]
pub(super) struct Timers(BinaryHeap<Reverse<(Instant, ConnectionNumber)>>);

/// A connection's place in the queue.
#[derive(Debug, Default)]
pub(super) struct Alarm {
    queued: Option<Instant>,
}

impl Timers {
    /// Sees to it that `number` comes up at `deadline` or before.
    pub(super) fn set(&mut self, number: ConnectionNumber, alarm: &mut Alarm, deadline: Instant) {
        if alarm.queued.is_none_or(|queued| deadline < queued) {
            alarm.queued = Some(deadline);
            self.0.push(Reverse((deadline, number)));
        }
    }

    /// The next moment at which [`pop_due`](Self::pop_due) may give something.
    pub(super) fn next(&self) -> Option<Instant> {
        self.0.peek().map(|Reverse((at, _))| *at)
    }

    /// Takes out one entry that is due by `now`. Its connection may be gone, or the entry stale:
    /// ask [`Alarm::is_due`].
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<(Instant, ConnectionNumber)> {
        if self.next()? > now {
            return None;
        }
        self.0.pop().map(|Reverse(entry)| entry)
    }
}

impl Alarm {
    /// Whether the entry that came up for `at` is the connection's current one; it is used up.
    pub(super) fn is_due(&mut self, at: Instant) -> bool {
        let is_current = self.queued == Some(at);
        if is_current {
            self.queued = None;
        }
        is_current
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn only_earlier_deadlines_are_queued_and_stale_entries_are_known() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut timers = Timers::default();
        let mut alarm = Alarm::default();
        let number = ConnectionNumber(7);
        for ms in [50, 60, 40, 70, 45] {
            timers.set(number, &mut alarm, at(ms));
        }
        assert_eq!(timers.next(), Some(at(40)));
        assert_eq!(timers.pop_due(at(39)), None);
        let (due, found) = timers.pop_due(at(100)).unwrap();
        assert_eq!((due, found), (at(40), number));
        assert!(alarm.is_due(due));
        // The first entry, for 50 ms, is still in the queue and means nothing any more.
        let (stale, _) = timers.pop_due(at(100)).unwrap();
        assert_eq!(stale, at(50));
        assert!(!alarm.is_due(stale));
        assert_eq!(timers.pop_due(at(100)), None);
    }
}
