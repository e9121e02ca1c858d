//! The satellite's time, and whether anything may expire by it.
//!
//! Two clocks have to agree: the satellite's, and one of this machine. Ours is read in two ways. The *steady* one is the machine's clock as
//! it was when the process started, and what has passed since; nobody can set it. The *wall* clock is the machine's as it is set now.
//!
//! * The satellite agrees with the steady clock: its time is trusted, whatever the wall clock is set to meanwhile.
//! * It agrees with the wall clock alone: our clock was wrong at the start and was corrected, or both were set to the same wrong time, as
//!   happens where they are one machine. If the satellite's clock has not jumped against the steady one since the first check-in, it is ours
//!   that was set, and its time is trusted. If it has, it is trusted after [`CLOCK_TRUST_WAIT`] of agreement.
//! * It agrees with neither: it is not trusted.
//!
//! Judged at each check-in, by what it brings. This module reads no clock.

use crate::core::executor::Moment;
use crate::limits::{CLOCK_OFFSET_MAX, CLOCK_TRUST_WAIT};

/// See the module's head.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SatelliteTime {
    /// Satellite time minus the steady clock.
    offset_ms: i64,
    /// Satellite time minus the clock that counts as ours.
    skew_ms: i64,
    agreement: Agreement,
    has_checked_in: bool,
    /// Against the steady clock, since the first check-in or since it was trusted last.
    has_jumped: bool,
    /// Since when the wall clock agrees without a jump, by the steady one.
    agrees_since_ms: Option<u64>,
}

/// Which of our clocks the satellite's agrees with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Agreement {
    #[default]
    None,
    Steady,
    Wall,
}

impl SatelliteTime {
    /// Takes in what a check-in says, and when.
    pub(crate) fn learn(&mut self, satellite_ms: u64, moment: Moment) {
        let offset_ms = difference(satellite_ms, moment.steady_ms);
        let wall_offset_ms = difference(satellite_ms, moment.wall_ms);
        if self.has_checked_in && !is_near(offset_ms.saturating_sub(self.offset_ms)) {
            self.has_jumped = true;
            self.agrees_since_ms = None;
        }
        self.has_checked_in = true;
        self.offset_ms = offset_ms;
        self.agrees_since_ms =
            is_near(wall_offset_ms).then(|| self.agrees_since_ms.unwrap_or(moment.steady_ms));
        let agrees_ms = self
            .agrees_since_ms
            .map(|since_ms| moment.steady_ms.saturating_sub(since_ms));
        let agrees_long = |ms| u128::from(ms) >= CLOCK_TRUST_WAIT.as_millis();
        self.agreement = if is_near(offset_ms) {
            Agreement::Steady
        } else if agrees_ms.is_some_and(|ms| !self.has_jumped || agrees_long(ms)) {
            Agreement::Wall
        } else {
            Agreement::None
        };
        self.has_jumped &= self.agreement == Agreement::None;
        self.skew_ms = match self.agreement {
            Agreement::Wall => wall_offset_ms,
            _ => offset_ms,
        };
    }

    /// Satellite time when the steady clock says that.
    pub(crate) fn at(&self, steady_ms: u64) -> u64 {
        steady_ms.saturating_add_signed(self.offset_ms)
    }

    /// Whether things may expire by it.
    pub(crate) fn is_trusted(&self) -> bool {
        self.agreement != Agreement::None
    }

    /// Satellite time minus ours, at the last check-in.
    pub(crate) fn skew_ms(&self) -> i64 {
        self.skew_ms
    }

    /// What we take for our own time.
    pub(crate) fn own_ms(&self, moment: Moment) -> u64 {
        match self.agreement {
            Agreement::Wall => moment.wall_ms,
            _ => moment.steady_ms,
        }
    }
}

fn difference(one_ms: u64, other_ms: u64) -> i64 {
    let difference = i128::from(one_ms) - i128::from(other_ms);
    // Beyond that one of them is nonsense, and they do not agree.
    i64::try_from(difference).unwrap_or(if difference > 0 { i64::MAX } else { i64::MIN })
}

fn is_near(difference_ms: i64) -> bool {
    u128::from(difference_ms.unsigned_abs()) <= CLOCK_OFFSET_MAX.as_millis()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: i64 = 1_767_225_600_000;
    const MINUTE_MS: i64 = 60_000;
    const DAY_MS: i64 = 1_440 * MINUTE_MS;
    const YEAR_MS: i64 = 365 * DAY_MS;

    /// A world in which the true time is known to the test alone.
    struct World {
        time: SatelliteTime,
        now_ms: i64,
        /// How far each clock is off.
        satellite_ms: i64,
        steady_ms: i64,
        wall_ms: i64,
    }

    impl World {
        /// A node that was started with its clock so far off, and has checked in.
        fn started(own_ms: i64) -> Self {
            let mut world = Self {
                time: SatelliteTime::default(),
                now_ms: NOW_MS,
                satellite_ms: 0,
                steady_ms: own_ms,
                wall_ms: own_ms,
            };
            assert!(!world.time.is_trusted(), "before the first check-in");
            world.check_in_after(0);
            world
        }

        fn moment(&self) -> Moment {
            Moment {
                steady_ms: (self.now_ms + self.steady_ms) as u64,
                wall_ms: (self.now_ms + self.wall_ms) as u64,
            }
        }

        /// Checks in so much later; whether the time is trusted then.
        fn check_in_after(&mut self, ms: i64) -> bool {
            self.now_ms += ms;
            let satellite_ms = (self.now_ms + self.satellite_ms) as u64;
            let moment = self.moment();
            self.time.learn(satellite_ms, moment);
            assert_eq!(self.time.at(moment.steady_ms), satellite_ms);
            self.time.is_trusted()
        }

        /// Checks in every minute of that time, and is trusted at none of them.
        fn distrusts_for(&mut self, ms: i64) {
            for _ in 0..ms / MINUTE_MS {
                assert!(!self.check_in_after(MINUTE_MS));
            }
        }
    }

    #[test]
    fn a_clock_that_is_off_at_the_start_counts_again_once_it_is_corrected() {
        for off_ms in [-YEAR_MS, -11 * MINUTE_MS, 11 * MINUTE_MS, YEAR_MS] {
            let mut world = World::started(off_ms);
            world.distrusts_for(60 * MINUTE_MS);
            assert_eq!(world.time.skew_ms(), -off_ms);
            assert_eq!(
                world.time.own_ms(world.moment()) as i64,
                world.now_ms + off_ms
            );
            world.wall_ms = 2_000;
            assert!(world.check_in_after(MINUTE_MS));
            assert_eq!(world.time.skew_ms(), -2_000);
            assert_eq!(
                world.time.own_ms(world.moment()) as i64,
                world.now_ms + 2_000
            );
            // And not any more when it is set wrong again.
            world.wall_ms = off_ms;
            world.distrusts_for(10 * MINUTE_MS);
        }
    }

    #[test]
    fn a_right_clock_that_is_set_wrong_later_changes_nothing() {
        for off_ms in [-YEAR_MS, YEAR_MS] {
            let mut world = World::started(3_000);
            world.wall_ms = off_ms;
            for _ in 0..2_000 {
                assert!(world.check_in_after(MINUTE_MS));
                assert_eq!(world.time.skew_ms(), -3_000);
            }
        }
    }

    #[test]
    fn a_satellite_that_jumps_is_not_trusted_until_it_is_back() {
        for off_ms in [-YEAR_MS, YEAR_MS] {
            let mut world = World::started(0);
            assert!(world.check_in_after(MINUTE_MS));
            world.satellite_ms = off_ms;
            world.distrusts_for(2 * DAY_MS);
            world.satellite_ms = 0;
            assert!(world.check_in_after(MINUTE_MS));
        }
    }

    #[test]
    fn clocks_that_jump_together_are_believed_after_a_day() {
        for off_ms in [-YEAR_MS, YEAR_MS] {
            let mut world = World::started(0);
            (world.satellite_ms, world.wall_ms) = (off_ms, off_ms);
            world.distrusts_for(DAY_MS);
            // They disagreed for a moment: the day begins again.
            world.wall_ms = 0;
            world.distrusts_for(MINUTE_MS);
            world.wall_ms = off_ms;
            world.distrusts_for(DAY_MS);
            assert!(world.check_in_after(MINUTE_MS));
        }
    }

    #[test]
    fn clocks_at_the_ends_of_time_do_not_agree() {
        for (satellite_ms, own_ms) in [(u64::MAX, 0), (0, u64::MAX)] {
            let mut time = SatelliteTime::default();
            let moment = Moment {
                steady_ms: own_ms,
                wall_ms: own_ms,
            };
            time.learn(satellite_ms, moment);
            assert!(!time.is_trusted());
        }
    }
}
