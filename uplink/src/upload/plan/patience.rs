//! How long an upload waits for what.

use std::time::Duration;

/// How long to wait for what. One place, so that tests can shrink it.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// How long nodes have to admit a piece before the segment goes on without them.
    pub admission: Duration,
    /// Least time that late data indices get once optimal receipts are there.
    pub grace_min: Duration,
    /// The same as a share of the time the segment took so far, in percent.
    pub grace_percent: u32,
    /// A piece is slow when it takes this many times the median of those that are done...
    pub slow_factor: u32,
    /// ...and at least this long.
    pub slow_min: Duration,
    /// How long pieces beyond optimal wait for their turn. Below the 10 s after which a node takes
    /// back the room it granted.
    pub spare_hold: Duration,
    /// Rounds of new nodes for one segment.
    pub replace_rounds_max: u32,
    /// No piece moved for so long: settle with what is there.
    pub stall: Duration,
}

const _: () = assert!(4 < strand_protocol::limits::ADMISSION_TIMEOUT.as_secs());

impl Default for Patience {
    fn default() -> Self {
        Self {
            admission: Duration::from_millis(3_500),
            grace_min: Duration::from_millis(200),
            grace_percent: 15,
            slow_factor: 2,
            slow_min: Duration::from_millis(1_000),
            spare_hold: Duration::from_secs(4),
            replace_rounds_max: 4,
            stall: Duration::from_secs(30),
        }
    }
}
