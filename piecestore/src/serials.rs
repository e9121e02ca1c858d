//! Which limits were used, and how far.
//!
//! A serial is remembered until its limit expires, because after that the limit is refused for its age. Serials lie in
//! buckets by the minute of that expiry (which the satellite's MAC covers, so a client cannot choose the bucket), and a
//! bucket is dropped whole. The set is bounded; it lives in memory only, which is why a node refuses limits that were
//! issued before it started.

use std::collections::{BTreeMap, HashMap};

use strand_protocol::Serial;

/// A bucket goes this long after its minute, so that a satellite clock stepped back a little revives nothing.
const MARGIN_MINUTES: u64 = 10;

/// Used serials of one node.
#[derive(Debug)]
pub struct Serials {
    by_minute: BTreeMap<u64, HashMap<Serial, Amounts>>,
    count: usize,
    count_max: usize,
}

/// What became of a serial's total.
#[derive(Clone, Copy, Debug, Default)]
struct Amounts {
    /// Used for good.
    settled: u64,
    /// Held by requests that run.
    held: u64,
}

/// Why a serial cannot be used (further).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SerialError {
    /// The limit was used already, or pays for less than what is asked.
    #[error("limit used before: {settled} spent + {cost} asked > {total}")]
    Used {
        /// Already spent.
        settled: u64,
        /// Asked for now.
        cost: u64,
        /// All that the limit allows.
        total: u64,
    },
    /// Another request is using the limit, and may yet give it back.
    #[error("limit in use by another request")]
    InUse,
    /// Too many limits are in use at once.
    #[error("too many limits remembered: {count} = {count_max}")]
    Full {
        /// Serials remembered.
        count: usize,
        /// The bound.
        count_max: usize,
    },
}

impl Serials {
    /// An empty set of at most `count_max` serials.
    #[must_use]
    pub fn new(count_max: usize) -> Self {
        Self {
            by_minute: BTreeMap::new(),
            count: 0,
            count_max,
        }
    }

    /// How many are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether none is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Holds `cost` of the `total` that a serial allows, until [`settle`](Self::settle) and
    /// [`give_back`](Self::give_back) have accounted for all of it.
    pub fn hold(
        &mut self,
        serial: Serial,
        expires_ms: u64,
        cost: u64,
        total: u64,
    ) -> Result<(), SerialError> {
        let minute = minute(expires_ms);
        let known = self
            .by_minute
            .get(&minute)
            .and_then(|bucket| bucket.get(&serial))
            .copied();
        let Amounts { settled, held } = known.unwrap_or_default();
        if cost == 0 || settled.saturating_add(cost) > total {
            return Err(SerialError::Used {
                settled,
                cost,
                total,
            });
        }
        if settled.saturating_add(held).saturating_add(cost) > total {
            return Err(SerialError::InUse);
        }
        if known.is_none() {
            if self.count >= self.count_max {
                return Err(SerialError::Full {
                    count: self.count,
                    count_max: self.count_max,
                });
            }
            self.count += 1;
        }
        let amounts = Amounts {
            settled,
            held: held + cost,
        };
        self.by_minute
            .entry(minute)
            .or_default()
            .insert(serial, amounts);
        Ok(())
    }

    /// Uses held amounts for good.
    pub fn settle(&mut self, serial: Serial, expires_ms: u64, cost: u64) {
        // The bucket may be gone: the limit expired while the request ran.
        let bucket = self.by_minute.get_mut(&minute(expires_ms));
        let Some(amounts) = bucket.and_then(|bucket| bucket.get_mut(&serial)) else {
            return;
        };
        amounts.held = amounts.held.saturating_sub(cost);
        amounts.settled = amounts.settled.saturating_add(cost);
    }

    /// Gives back what was held for nothing. A serial of which nothing is used is forgotten.
    pub fn give_back(&mut self, serial: Serial, expires_ms: u64, cost: u64) {
        let minute = minute(expires_ms);
        let Some(bucket) = self.by_minute.get_mut(&minute) else {
            return;
        };
        let Some(amounts) = bucket.get_mut(&serial) else {
            return;
        };
        amounts.held = amounts.held.saturating_sub(cost);
        if amounts.held == 0 && amounts.settled == 0 {
            bucket.remove(&serial);
            self.count -= 1;
            if bucket.is_empty() {
                self.by_minute.remove(&minute);
            }
        }
    }

    /// Forgets the serials of limits that expired some time before `now_ms`.
    pub fn drop_expired(&mut self, now_ms: u64) {
        let keep_from = minute(now_ms).saturating_sub(MARGIN_MINUTES);
        while let Some(entry) = self.by_minute.first_entry() {
            if *entry.key() >= keep_from {
                return;
            }
            self.count -= entry.remove().len();
        }
    }
}

fn minute(ms: u64) -> u64 {
    ms / 60_000
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE_MS: u64 = 60_000;

    fn serial(n: u8) -> Serial {
        Serial::from([n; 16])
    }

    #[test]
    fn a_serial_is_used_once_unless_given_back() {
        let mut serials = Serials::new(10);
        assert_eq!(serials.hold(serial(1), MINUTE_MS, 1, 1), Ok(()));
        assert_eq!(
            serials.hold(serial(1), MINUTE_MS, 1, 1),
            Err(SerialError::InUse)
        );
        serials.give_back(serial(1), MINUTE_MS, 1);
        assert!(serials.is_empty());
        assert_eq!(serials.hold(serial(1), MINUTE_MS, 1, 1), Ok(()));
        serials.settle(serial(1), MINUTE_MS, 1);
        let used = Err(SerialError::Used {
            settled: 1,
            cost: 1,
            total: 1,
        });
        assert_eq!(serials.hold(serial(1), MINUTE_MS, 1, 1), used);
        serials.give_back(serial(1), MINUTE_MS, 0);
        assert_eq!(serials.hold(serial(1), MINUTE_MS, 1, 1), used);
    }

    #[test]
    fn a_serial_pays_in_parts_up_to_its_total() {
        let mut serials = Serials::new(10);
        assert_eq!(serials.hold(serial(1), MINUTE_MS, 600, 1000), Ok(()));
        assert_eq!(
            serials.hold(serial(1), MINUTE_MS, 401, 1000),
            Err(SerialError::InUse)
        );
        assert_eq!(serials.hold(serial(1), MINUTE_MS, 400, 1000), Ok(()));
        serials.settle(serial(1), MINUTE_MS, 500);
        serials.give_back(serial(1), MINUTE_MS, 100);
        assert_eq!(serials.hold(serial(1), MINUTE_MS, 100, 1000), Ok(()));
        let used = Err(SerialError::Used {
            settled: 500,
            cost: 501,
            total: 1000,
        });
        assert_eq!(serials.hold(serial(1), MINUTE_MS, 501, 1000), used);
        assert_eq!(serials.len(), 1);
        assert!(
            serials
                .hold(serial(2), MINUTE_MS, u64::MAX, u64::MAX - 1)
                .is_err()
        );
        assert!(
            serials.hold(serial(2), MINUTE_MS, 0, 0).is_err(),
            "nothing is not a use"
        );
    }

    #[test]
    fn a_full_set_refuses_new_serials_and_keeps_the_old() {
        let mut serials = Serials::new(2);
        serials.hold(serial(1), MINUTE_MS, 1, 2).unwrap();
        serials.hold(serial(2), MINUTE_MS, 1, 2).unwrap();
        let full = Err(SerialError::Full {
            count: 2,
            count_max: 2,
        });
        assert_eq!(serials.hold(serial(3), MINUTE_MS, 1, 2), full);
        assert_eq!(serials.hold(serial(1), MINUTE_MS, 1, 2), Ok(()));
    }

    #[test]
    fn expiry_makes_room_and_never_forgets_early() {
        let mut serials = Serials::new(2);
        serials.hold(serial(1), 5 * MINUTE_MS, 1, 1).unwrap();
        serials.hold(serial(2), 50 * MINUTE_MS, 1, 1).unwrap();
        serials.drop_expired(15 * MINUTE_MS + MINUTE_MS - 1);
        assert_eq!(serials.len(), 2, "within the margin");
        serials.drop_expired(16 * MINUTE_MS);
        assert_eq!(serials.len(), 1);
        assert!(
            serials.hold(serial(2), 50 * MINUTE_MS, 1, 1).is_err(),
            "not expired: in use"
        );
        serials.settle(serial(1), 5 * MINUTE_MS, 1);
        serials.give_back(serial(1), 5 * MINUTE_MS, 1);
        assert_eq!(serials.len(), 1, "what was dropped changes nothing");
    }
}
