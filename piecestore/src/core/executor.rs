//! What a core's tasks need of their executor, so that the same code runs on glommio and in
//! simulated time.
//!
//! An executor runs its tasks on one thread, in turns: nothing here is `Send`, and a task that
//! works long calls [`Executor::yield_now`]. Timers may fire late under load, never early.

use std::future::Future;
use std::pin::pin;
use std::sync::OnceLock;
use std::task::Poll;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::ring::boot_ms;

/// The time of day. Only expiry and permits look at it; waiting uses [`Executor::now`].
pub trait Clock {
    /// Milliseconds since 1970-01-01 UTC, by a clock that never jumps.
    fn now_ms(&self) -> u64;

    /// Milliseconds since 1970-01-01 UTC, by the machine's clock as it is set now.
    fn wall_ms(&self) -> u64;

    /// Both at once.
    fn moment(&self) -> Moment {
        Moment {
            steady_ms: self.now_ms(),
            wall_ms: self.wall_ms(),
        }
    }
}

/// What our clocks say at one moment, in milliseconds since 1970-01-01 UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// By [`Clock::now_ms`].
    pub steady_ms: u64,
    /// By [`Clock::wall_ms`].
    pub wall_ms: u64,
}

/// The machine's wall clock as it was when the process first asked, and what has passed since, sleep included.
///
/// A wall clock that is set while the node runs changes nothing here. It would otherwise, until the next check-in, be taken for
/// satellite time: set forward by a month, it would let a month's pieces expire.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now_ms(&self) -> u64 {
        static ANCHOR: OnceLock<Anchor> = OnceLock::new();
        let anchor = ANCHOR.get_or_init(|| Anchor {
            wall_ms: wall_ms(),
            boot_ms: boot_ms(),
        });
        anchor.now_ms(boot_ms())
    }

    fn wall_ms(&self) -> u64 {
        wall_ms()
    }
}

/// One moment on both clocks.
#[derive(Clone, Copy, Debug)]
struct Anchor {
    wall_ms: u64,
    boot_ms: u64,
}

impl Anchor {
    fn now_ms(self, boot_ms: u64) -> u64 {
        self.wall_ms + boot_ms.saturating_sub(self.boot_ms)
    }
}

fn wall_ms() -> u64 {
    let since_epoch = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
}

/// One thread's scheduler.
#[expect(async_fn_in_trait, reason = "a core's tasks never leave their thread")]
pub trait Executor: Clone + 'static {
    /// Starts a task. It runs until it ends or the executor does; hold a
    /// [`Pass`](crate::core::Pass) in it so that somebody can wait for it.
    fn spawn(&self, future: impl Future<Output = ()> + 'static);

    /// Waits for at least `duration`.
    async fn sleep(&self, duration: Duration);

    /// Lets every other task that is ready run once.
    async fn yield_now(&self);

    /// The monotonic clock that [`sleep`](Self::sleep) goes by.
    fn now(&self) -> Instant;
}

/// Waits for `future`, at most `limit` long; `None` says that it was too slow and is dropped.
pub async fn timeout<E: Executor, T>(
    executor: &E,
    limit: Duration,
    future: impl Future<Output = T>,
) -> Option<T> {
    let mut future = pin!(future);
    let mut deadline = pin!(executor.sleep(limit));
    std::future::poll_fn(|context| {
        if let Poll::Ready(output) = future.as_mut().poll(context) {
            return Poll::Ready(Some(output));
        }
        deadline.as_mut().poll(context).map(|()| None)
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::simulated::SimExecutor;

    #[test]
    fn time_passes_as_since_the_machine_started_and_begins_at_the_wall_clock() {
        let anchor = Anchor {
            wall_ms: 1_767_225_600_000,
            boot_ms: 5_000,
        };
        assert_eq!(anchor.now_ms(5_000), 1_767_225_600_000);
        assert_eq!(anchor.now_ms(65_000), 1_767_225_660_000);
        assert_eq!(anchor.now_ms(4_000), 1_767_225_600_000);
        let (first, wall) = (SystemClock.now_ms(), wall_ms());
        assert!(wall.abs_diff(first) < 5_000, "{first} is far from {wall}");
        assert!(SystemClock.now_ms() >= first);
    }

    #[test]
    fn timeout_gives_the_output_in_time_and_none_after() {
        let executor = SimExecutor::new(1);
        let inner = executor.clone();
        executor.run(async move {
            let started = inner.now();
            let work = async {
                inner.sleep(Duration::from_secs(3)).await;
                7
            };
            assert_eq!(timeout(&inner, Duration::from_secs(4), work).await, Some(7));
            assert_eq!(inner.now() - started, Duration::from_secs(3));
            let forever = std::future::pending::<()>();
            assert_eq!(timeout(&inner, Duration::from_secs(5), forever).await, None);
            assert_eq!(inner.now() - started, Duration::from_secs(8));
        });
    }
}
