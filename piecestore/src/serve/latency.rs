//! How long requests took, in buckets that a monitoring system can add up over nodes and time.

use std::time::Duration;

use serde::Serialize;

/// The longest time of each bucket but the last, in microseconds: 1, 2 and 5 in every decade from 100 us to 100 s.
pub const BUCKETS_US: [u64; 19] = [
    100,
    200,
    500,
    1_000,
    2_000,
    5_000,
    10_000,
    20_000,
    50_000,
    100_000,
    200_000,
    500_000,
    1_000_000,
    2_000_000,
    5_000_000,
    10_000_000,
    20_000_000,
    50_000_000,
    100_000_000,
];

/// Requests of one kind by how long they took.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Latencies {
    /// How many fell into each of [`BUCKETS_US`]; the last took longer than all of them.
    pub counts: [u64; BUCKETS_US.len() + 1],
    /// All their times together, in microseconds.
    pub sum_us: u64,
}

/// Requests that were answered without an error, from their stream to the last byte handed to QUIC.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct VerbLatencies {
    /// Puts: the body's way in and its sync are part of it.
    pub put: Latencies,
    /// Gets, audits and repairs among them.
    pub get: Latencies,
    /// Deletes.
    pub delete: Latencies,
    /// Pings.
    pub ping: Latencies,
}

impl Latencies {
    /// Counts one request.
    pub fn add(&mut self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = BUCKETS_US.partition_point(|&longest| longest < us);
        self.counts[bucket] += 1;
        self.sum_us = self.sum_us.saturating_add(us);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_falls_into_the_first_bucket_that_holds_it() {
        let mut latencies = Latencies::default();
        for us in [0, 100, 101, 200, 99_999_999, 100_000_000, 100_000_001] {
            latencies.add(Duration::from_micros(us));
        }
        let mut expected = [0; BUCKETS_US.len() + 1];
        (expected[0], expected[1], expected[18], expected[19]) = (2, 2, 2, 1);
        assert_eq!(latencies.counts, expected);
        assert_eq!(latencies.sum_us, 300_000_401);
        latencies.add(Duration::MAX);
        assert_eq!((latencies.counts[19], latencies.sum_us), (2, u64::MAX));
    }
}
