//! Memory promised before it is used.
//!
//! A core has one budget for bodies that come in and one for bodies that go out, shared by all its nodes. A
//! reservation is made whole or refused at once, and given back when it is dropped, however the request ended. This
//! module counts; it allocates nothing.

use std::cell::Cell;
use std::rc::Rc;

/// A bound on bytes held, and who has them.
#[derive(Debug)]
pub struct Budget {
    bytes_max: u64,
    bytes_used: Cell<u64>,
    bytes_peak: Cell<u64>,
    refused: Cell<u64>,
}

/// Bytes of a [`Budget`], given back when dropped.
#[derive(Debug)]
pub struct Reservation {
    budget: Rc<Budget>,
    bytes: u64,
}

/// The budget has no room for that many bytes now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no room in memory: {bytes} wanted > {bytes_free} free of {bytes_max}")]
pub struct NoRoom {
    /// Bytes asked for.
    pub bytes: u64,
    /// Bytes nobody had reserved.
    pub bytes_free: u64,
    /// The whole budget.
    pub bytes_max: u64,
}

/// A budget's figures at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct BudgetUse {
    /// The bound.
    pub bytes_max: u64,
    /// Reserved now.
    pub bytes_used: u64,
    /// The most ever reserved.
    pub bytes_peak: u64,
    /// Reservations refused.
    pub refused: u64,
}

impl Budget {
    /// A budget of `bytes_max` bytes, all free.
    #[must_use]
    pub fn new(bytes_max: u64) -> Rc<Self> {
        Rc::new(Self {
            bytes_max,
            bytes_used: Cell::new(0),
            bytes_peak: Cell::new(0),
            refused: Cell::new(0),
        })
    }

    /// Takes `bytes`, or says at once that they are not there.
    pub fn try_reserve(self: &Rc<Self>, bytes: u64) -> Result<Reservation, NoRoom> {
        let bytes_free = self.bytes_max - self.bytes_used.get();
        if bytes > bytes_free {
            return Err(self.refuse(bytes, bytes_free));
        }
        let bytes_used = self.bytes_used.get() + bytes;
        self.bytes_used.set(bytes_used);
        self.bytes_peak.set(self.bytes_peak.get().max(bytes_used));
        Ok(Reservation {
            budget: Rc::clone(self),
            bytes,
        })
    }

    /// Counts a refusal, for a reason of the caller's: `bytes_free` is what it would give.
    pub(crate) fn refuse(&self, bytes: u64, bytes_free: u64) -> NoRoom {
        self.refused.set(self.refused.get() + 1);
        NoRoom {
            bytes,
            bytes_free,
            bytes_max: self.bytes_max,
        }
    }

    /// The figures now.
    #[must_use]
    pub fn usage(&self) -> BudgetUse {
        BudgetUse {
            bytes_max: self.bytes_max,
            bytes_used: self.bytes_used.get(),
            bytes_peak: self.bytes_peak.get(),
            refused: self.refused.get(),
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let bytes_used = self.budget.bytes_used.get();
        assert!(
            bytes_used >= self.bytes,
            "a reservation was given back twice"
        );
        self.budget.bytes_used.set(bytes_used - self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reservation_is_whole_or_refused_and_comes_back() {
        let budget = Budget::new(100);
        let first = budget.try_reserve(60).unwrap();
        assert_eq!(
            budget.try_reserve(41).unwrap_err(),
            NoRoom {
                bytes: 41,
                bytes_free: 40,
                bytes_max: 100
            }
        );
        let second = budget.try_reserve(40).unwrap();
        drop(first);
        assert_eq!(budget.usage().bytes_used, 40);
        drop(second);
        assert_eq!(
            budget.usage(),
            BudgetUse {
                bytes_max: 100,
                bytes_used: 0,
                bytes_peak: 100,
                refused: 1
            }
        );
    }

    #[test]
    fn more_than_the_whole_budget_never_fits() {
        let budget = Budget::new(100);
        assert!(budget.try_reserve(101).is_err());
        assert!(budget.try_reserve(u64::MAX).is_err());
        assert!(budget.try_reserve(100).is_ok());
    }
}
