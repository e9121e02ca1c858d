//! A deterministic executor in virtual time, for tests.
//!
//! Ready tasks run one at a time in an order drawn from the seed; when none is ready the clock
//! jumps to the next timer. A test in which nothing is ready and no timer is set would wait for
//! ever, so that is a panic. Not simulated: preemption, timers firing late, other threads.

use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use crate::core::executor::{Clock, Executor};

/// Wall clock at virtual time zero: 2026-01-01.
const EPOCH_MS: u64 = 1_767_225_600_000;

/// See the module's head. Clones are the same executor.
#[derive(Clone)]
pub struct SimExecutor(Rc<State>);

type Task = Pin<Box<dyn Future<Output = ()>>>;

struct State {
    start: Instant,
    /// The machine's clock was set forward by so much.
    wall_ahead_ms: Cell<u64>,
    elapsed: Cell<Duration>,
    random: Cell<u64>,
    next_task: Cell<u64>,
    tasks: RefCell<BTreeMap<u64, Task>>,
    ready: Arc<Mutex<Vec<u64>>>,
    next_timer: Cell<u64>,
    timers: RefCell<BinaryHeap<Reverse<(Duration, u64)>>>,
    sleepers: RefCell<BTreeMap<u64, Option<Waker>>>,
}

struct TaskWaker {
    task: u64,
    ready: Arc<Mutex<Vec<u64>>>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        if !ready.contains(&self.task) {
            ready.push(self.task);
        }
    }
}

impl SimExecutor {
    /// An executor whose choices follow from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(Rc::new(State {
            start: Instant::now(),
            wall_ahead_ms: Cell::new(0),
            elapsed: Cell::new(Duration::ZERO),
            random: Cell::new(seed),
            next_task: Cell::new(0),
            tasks: RefCell::default(),
            ready: Arc::default(),
            next_timer: Cell::new(0),
            timers: RefCell::default(),
            sleepers: RefCell::default(),
        }))
    }

    /// The next number of the seed's sequence (splitmix64).
    #[must_use]
    pub fn random(&self) -> u64 {
        let state = self.0.random.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.0.random.set(state);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Sets the machine's clock to so much after what it would be.
    pub fn set_wall_ahead_ms(&self, ms: u64) {
        self.0.wall_ahead_ms.set(ms);
    }

    /// Virtual time since the start.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.0.elapsed.get()
    }

    /// Runs until `future` is done; tasks that are left stay where they are.
    ///
    /// # Panics
    ///
    /// If every task waits and no timer is set.
    pub fn run<T: 'static>(&self, future: impl Future<Output = T> + 'static) -> T {
        let output = Rc::new(RefCell::new(None));
        let slot = output.clone();
        self.spawn(async move {
            let value = future.await;
            *slot.borrow_mut() = Some(value);
        });
        loop {
            if let Some(value) = output.borrow_mut().take() {
                return value;
            }
            if !self.run_one() && !self.advance() {
                panic!("every task waits and no timer is set");
            }
        }
    }

    /// Polls one ready task, if there is any.
    fn run_one(&self) -> bool {
        let id = {
            let mut ready = self.0.ready.lock().unwrap_or_else(PoisonError::into_inner);
            if ready.is_empty() {
                return false;
            }
            let index = self.random() % ready.len() as u64;
            ready.swap_remove(index as usize)
        };
        // The task is out of the table while it runs, so that it may spawn others.
        let Some(mut task) = self.0.tasks.borrow_mut().remove(&id) else {
            return true;
        };
        let waker = Waker::from(Arc::new(TaskWaker {
            task: id,
            ready: self.0.ready.clone(),
        }));
        if task
            .as_mut()
            .poll(&mut Context::from_waker(&waker))
            .is_pending()
        {
            self.0.tasks.borrow_mut().insert(id, task);
        }
        true
    }

    /// Jumps to the next timer and fires it.
    fn advance(&self) -> bool {
        let Some(Reverse((at, timer))) = self.0.timers.borrow_mut().pop() else {
            return false;
        };
        let sleeper = self.0.sleepers.borrow_mut().remove(&timer);
        // A timer whose sleeper was dropped moves no clock.
        if let Some(waker) = sleeper {
            self.0.elapsed.set(at);
            if let Some(waker) = waker {
                waker.wake();
            }
        }
        true
    }
}

impl Executor for SimExecutor {
    fn spawn(&self, future: impl Future<Output = ()> + 'static) {
        let id = self.0.next_task.get();
        self.0.next_task.set(id + 1);
        self.0.tasks.borrow_mut().insert(id, Box::pin(future));
        self.0
            .ready
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(id);
    }

    async fn sleep(&self, duration: Duration) {
        let timer = self.0.next_timer.get();
        self.0.next_timer.set(timer + 1);
        self.0
            .timers
            .borrow_mut()
            .push(Reverse((self.0.elapsed.get() + duration, timer)));
        self.0.sleepers.borrow_mut().insert(timer, None);
        let _guard = Sleeper {
            state: self.0.clone(),
            timer,
        };
        poll_fn(
            |context| match self.0.sleepers.borrow_mut().get_mut(&timer) {
                Some(waker) => {
                    *waker = Some(context.waker().clone());
                    Poll::Pending
                }
                None => Poll::Ready(()),
            },
        )
        .await;
    }

    async fn yield_now(&self) {
        let mut has_yielded = false;
        poll_fn(|context| {
            if std::mem::replace(&mut has_yielded, true) {
                return Poll::Ready(());
            }
            context.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }

    fn now(&self) -> Instant {
        self.0.start + self.0.elapsed.get()
    }
}

impl Clock for SimExecutor {
    fn now_ms(&self) -> u64 {
        EPOCH_MS + u64::try_from(self.0.elapsed.get().as_millis()).unwrap_or(u64::MAX)
    }

    fn wall_ms(&self) -> u64 {
        self.now_ms() + self.0.wall_ahead_ms.get()
    }
}

/// Forgets a timer whose sleeper is gone.
struct Sleeper {
    state: Rc<State>,
    timer: u64,
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        self.state.sleepers.borrow_mut().remove(&self.timer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::executor::timeout;

    /// The order in which ten tasks of equal deadline run.
    fn order_of(seed: u64) -> Vec<u32> {
        let executor = SimExecutor::new(seed);
        let inner = executor.clone();
        executor.run(async move {
            let order = Rc::new(RefCell::new(Vec::new()));
            for task in 0..10 {
                let order = order.clone();
                inner.spawn(async move { order.borrow_mut().push(task) });
            }
            inner.sleep(Duration::from_secs(1)).await;
            order.take()
        })
    }

    #[test]
    fn the_seed_decides_the_order_and_nothing_else_does() {
        assert_eq!(order_of(5), order_of(5));
        assert_ne!(order_of(5), order_of(6));
    }

    #[test]
    fn a_dropped_sleeper_leaves_no_timer_that_moves_the_clock() {
        let executor = SimExecutor::new(7);
        let inner = executor.clone();
        executor.run(async move {
            let short = inner.sleep(Duration::from_secs(1));
            assert_eq!(
                timeout(&inner, Duration::from_secs(9), short).await,
                Some(())
            );
            assert_eq!(inner.0.sleepers.borrow().len(), 0);
            assert!(inner.advance());
            assert_eq!(inner.elapsed(), Duration::from_secs(1));
        });
    }

    #[test]
    #[should_panic(expected = "every task waits")]
    fn a_deadlock_is_a_panic() {
        SimExecutor::new(8).run(std::future::pending::<()>());
    }
}
