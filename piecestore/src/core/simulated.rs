//! A deterministic executor in virtual time, for tests.
//!
//! Ready tasks run one at a time in an order drawn from the seed; when none is ready the clock
//! jumps to the next timer. A test in which nothing is ready and no timer is set would wait for
//! ever, so that is a panic, and so is a clock that stands still for millions of turns. Tasks belong to
//! processes: [`SimExecutor::process`] begins one, [`SimExecutor::end_process`] kills it with all its tasks. What happened, and when,
//! goes into a hash ([`SimExecutor::trace_hash`]): two runs of one seed that differ in it are not the same run.
//!
//! Not simulated: preemption, timers firing late, other threads.

use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use crate::core::executor::{Clock, Executor};

/// Wall clock at virtual time zero: 2026-01-01.
const EPOCH_MS: u64 = 1_767_225_600_000;

/// Turns within one moment after which the clock is taken to stand still.
const TURNS_A_MOMENT_MAX: u64 = 10_000_000;

/// See the module's head. Clones are the same process of the same executor.
#[derive(Clone)]
pub struct SimExecutor {
    state: Rc<State>,
    process: u64,
    /// The machine's clock was ahead by so much when the process began.
    ahead_ms: i64,
}

type Task = Pin<Box<dyn Future<Output = ()>>>;

struct State {
    start: Instant,
    /// The machine's clock was set forward by so much.
    wall_ahead_ms: Cell<i64>,
    /// Time that no timer saw, since all machines slept.
    slept_ms: Cell<u64>,
    elapsed: Cell<Duration>,
    random: Cell<u64>,
    next_process: Cell<u64>,
    next_task: Cell<u64>,
    tasks: RefCell<Tasks>,
    ready: Arc<Mutex<Vec<Arc<TaskWaker>>>>,
    next_timer: Cell<u64>,
    /// When, which timer, and its slot.
    timers: RefCell<BinaryHeap<Reverse<(Duration, u64, usize)>>>,
    alarms: RefCell<Alarms>,
    trace: Cell<u64>,
    /// Turns since the clock last moved.
    turns: Cell<u64>,
}

/// Tasks by slot; slots are used again.
#[derive(Default)]
struct Tasks {
    slots: Vec<Option<Slot>>,
    free: Vec<usize>,
}

struct Slot {
    process: u64,
    /// `None` while it runs.
    task: Option<Task>,
    waker: Arc<TaskWaker>,
}

/// What timers set off, by slot; slots are used again.
#[derive(Default)]
struct Alarms {
    slots: Vec<Option<(u64, Alarm)>>,
    free: Vec<usize>,
}

enum Alarm {
    /// Somebody sleeps.
    Wake(Option<Waker>),
    /// This is to be done.
    Call(Box<dyn FnOnce()>),
}

struct TaskWaker {
    slot: usize,
    /// Names the task for good.
    task: u64,
    is_ready: AtomicBool,
    ready: Arc<Mutex<Vec<Arc<Self>>>>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.is_ready.swap(true, Ordering::Relaxed) {
            let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
            ready.push(Arc::clone(self));
        }
    }
}

impl SimExecutor {
    /// An executor whose choices follow from `seed`, and a first process on it.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let state = State {
            start: Instant::now(),
            wall_ahead_ms: Cell::new(0),
            slept_ms: Cell::new(0),
            elapsed: Cell::new(Duration::ZERO),
            random: Cell::new(seed),
            next_process: Cell::new(1),
            next_task: Cell::new(0),
            tasks: RefCell::default(),
            ready: Arc::default(),
            next_timer: Cell::new(0),
            timers: RefCell::default(),
            alarms: RefCell::default(),
            trace: Cell::new(seed),
            turns: Cell::new(0),
        };
        Self {
            state: Rc::new(state),
            process: 0,
            ahead_ms: 0,
        }
    }

    /// The next number of the seed's sequence (splitmix64).
    #[must_use]
    pub fn random(&self) -> u64 {
        let state = self.state.random.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.state.random.set(state);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Sets the machine's clock to so much after what it would be; before, if negative.
    pub fn set_wall_ahead_ms(&self, ms: i64) {
        self.state.wall_ahead_ms.set(ms);
    }

    /// All machines sleep for so long: the time of day goes on, by every clock, and no timer does.
    pub fn sleep_machines(&self, time: Duration) {
        let slept_ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX / 4);
        self.state
            .slept_ms
            .set(self.state.slept_ms.get() + slept_ms);
        self.note(slept_ms);
    }

    /// Virtual time since the start.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.state.elapsed.get()
    }

    /// A process that begins now. Its steady clock begins at the machine's clock as it is set.
    #[must_use]
    pub fn process(&self) -> Self {
        let process = self.state.next_process.get();
        self.state.next_process.set(process + 1);
        Self {
            state: Rc::clone(&self.state),
            process,
            ahead_ms: self.state.wall_ahead_ms.get(),
        }
    }

    /// Drops all tasks of this process, where they are. Not to be called by one of them.
    pub fn end_process(&self) {
        // What a task drops may begin another.
        while let Some(task) = self.take_task() {
            drop(task);
        }
    }

    /// Tasks of this process that have not ended.
    #[must_use]
    pub fn task_count(&self) -> usize {
        let tasks = self.state.tasks.borrow();
        let slots = tasks.slots.iter().flatten();
        slots.filter(|slot| slot.process == self.process).count()
    }

    /// Adds something that happened to the trace.
    pub fn note(&self, what: u64) {
        let mixed = (self.state.trace.get() ^ what).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.state.trace.set(mixed ^ (mixed >> 29));
    }

    /// What happened so far: each turn of a task, each jump of the clock, and what was [noted](Self::note).
    #[must_use]
    pub fn trace_hash(&self) -> u64 {
        self.state.trace.get()
    }

    /// Runs until `future` is done; tasks that are left stay where they are.
    ///
    /// # Panics
    ///
    /// If every task waits and no timer is set, or the clock stands still.
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

    /// Takes one task of this process out of the table.
    fn take_task(&self) -> Option<Slot> {
        let mut tasks = self.state.tasks.borrow_mut();
        let mut slots = tasks.slots.iter_mut();
        let at = slots.position(|slot| {
            slot.as_ref()
                .is_some_and(|slot| slot.process == self.process)
        })?;
        tasks.free.push(at);
        tasks.slots[at].take()
    }

    /// Polls one ready task, if there is any.
    fn run_one(&self) -> bool {
        let state = &self.state;
        let waker = {
            let mut ready = state.ready.lock().unwrap_or_else(PoisonError::into_inner);
            if ready.is_empty() {
                return false;
            }
            let index = self.random() % ready.len() as u64;
            ready.swap_remove(index as usize)
        };
        waker.is_ready.store(false, Ordering::Relaxed);
        // The task is out of the table while it runs, so that it may spawn others.
        let Some(mut task) = state.tasks.borrow_mut().of(&waker).and_then(Option::take) else {
            return true;
        };
        self.note(waker.task);
        state.turns.set(state.turns.get() + 1);
        assert!(
            state.turns.get() < TURNS_A_MOMENT_MAX,
            "the clock stands still: tasks run and run, and none sleeps"
        );
        let context_waker = Waker::from(Arc::clone(&waker));
        let mut context = Context::from_waker(&context_waker);
        let polled = catch_unwind(AssertUnwindSafe(|| task.as_mut().poll(&mut context)));
        match polled {
            Ok(Poll::Pending) => {
                if let Some(place) = state.tasks.borrow_mut().of(&waker) {
                    *place = Some(task);
                }
            }
            Ok(Poll::Ready(())) => {
                state.tasks.borrow_mut().end(&waker);
            }
            Err(panic) => {
                // What it holds is in no state to be dropped.
                std::mem::forget(task);
                resume_unwind(panic);
            }
        }
        true
    }

    /// Jumps to the next timer and fires it.
    fn advance(&self) -> bool {
        let Some(Reverse((at, timer, slot))) = self.state.timers.borrow_mut().pop() else {
            return false;
        };
        let alarm = self.state.alarms.borrow_mut().take(slot, timer);
        // A timer whose sleeper was dropped moves no clock.
        if let Some(alarm) = alarm {
            if at > self.state.elapsed.get() {
                self.state.turns.set(0);
            }
            self.state.elapsed.set(at);
            self.note(at.as_nanos() as u64);
            match alarm {
                Alarm::Wake(Some(waker)) => waker.wake(),
                Alarm::Wake(None) => {}
                Alarm::Call(call) => call(),
            }
        }
        true
    }

    /// Does something after a while. Belongs to no process.
    pub fn after(&self, delay: Duration, call: impl FnOnce() + 'static) {
        self.set_alarm(delay, Alarm::Call(Box::new(call)));
    }

    fn set_alarm(&self, delay: Duration, alarm: Alarm) -> (usize, u64) {
        let state = &self.state;
        let timer = state.next_timer.get();
        state.next_timer.set(timer + 1);
        let slot = state.alarms.borrow_mut().put(timer, alarm);
        let at = state.elapsed.get() + delay;
        state.timers.borrow_mut().push(Reverse((at, timer, slot)));
        (slot, timer)
    }
}

impl Alarms {
    fn put(&mut self, timer: u64, alarm: Alarm) -> usize {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.slots[slot] = Some((timer, alarm));
        slot
    }

    /// Takes an alarm out, unless it was before.
    fn take(&mut self, slot: usize, timer: u64) -> Option<Alarm> {
        let (_, alarm) = self.slots[slot].take_if(|(known, _)| *known == timer)?;
        self.free.push(slot);
        Some(alarm)
    }
}

impl Tasks {
    /// The task's place, while there is such a task.
    fn of(&mut self, waker: &TaskWaker) -> Option<&mut Option<Task>> {
        let slot = self.slots.get_mut(waker.slot)?.as_mut()?;
        (slot.waker.task == waker.task).then_some(&mut slot.task)
    }

    fn end(&mut self, waker: &TaskWaker) {
        if self.of(waker).is_some() {
            self.slots[waker.slot] = None;
            self.free.push(waker.slot);
        }
    }
}

impl Executor for SimExecutor {
    fn spawn(&self, future: impl Future<Output = ()> + 'static) {
        let task = self.state.next_task.get();
        self.state.next_task.set(task + 1);
        let mut tasks = self.state.tasks.borrow_mut();
        let slot = tasks.free.pop().unwrap_or_else(|| {
            tasks.slots.push(None);
            tasks.slots.len() - 1
        });
        let waker = Arc::new(TaskWaker {
            slot,
            task,
            is_ready: AtomicBool::new(false),
            ready: Arc::clone(&self.state.ready),
        });
        waker.wake_by_ref();
        tasks.slots[slot] = Some(Slot {
            process: self.process,
            task: Some(Box::pin(future)),
            waker,
        });
    }

    async fn sleep(&self, duration: Duration) {
        let (slot, timer) = self.set_alarm(duration, Alarm::Wake(None));
        let sleeper = Sleeper {
            state: self.state.clone(),
            slot,
            timer,
        };
        poll_fn(|context| {
            let mut alarms = sleeper.state.alarms.borrow_mut();
            match &mut alarms.slots[slot] {
                Some((known, Alarm::Wake(waker))) if *known == timer => {
                    match waker {
                        Some(waker) => waker.clone_from(context.waker()),
                        None => *waker = Some(context.waker().clone()),
                    }
                    Poll::Pending
                }
                _ => Poll::Ready(()),
            }
        })
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
        self.state.start + self.state.elapsed.get()
    }
}

impl Clock for SimExecutor {
    fn now_ms(&self) -> u64 {
        let elapsed_ms = u64::try_from(self.state.elapsed.get().as_millis());
        let true_ms = EPOCH_MS + self.state.slept_ms.get() + elapsed_ms.unwrap_or(u64::MAX / 4);
        true_ms.saturating_add_signed(self.ahead_ms)
    }

    fn wall_ms(&self) -> u64 {
        let ahead_ms = self.state.wall_ahead_ms.get() - self.ahead_ms;
        self.now_ms().saturating_add_signed(ahead_ms)
    }
}

/// Forgets a timer whose sleeper is gone.
struct Sleeper {
    state: Rc<State>,
    slot: usize,
    timer: u64,
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let alarm = self.state.alarms.borrow_mut().take(self.slot, self.timer);
        drop(alarm);
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
            let alarms = inner.state.alarms.borrow().slots.iter().flatten().count();
            assert_eq!(alarms, 0);
            assert!(inner.advance());
            assert_eq!(inner.elapsed(), Duration::from_secs(1));
        });
    }

    #[test]
    fn the_trace_is_the_same_for_one_seed_and_another_for_another() {
        let trace_of = |seed| {
            let executor = SimExecutor::new(seed);
            let inner = executor.clone();
            executor.run(async move {
                for ms in 0..10 {
                    let sleeper = inner.clone();
                    inner.spawn(async move { sleeper.sleep(Duration::from_millis(ms / 2)).await });
                }
                inner.sleep(Duration::from_millis(20)).await;
                inner.trace_hash()
            })
        };
        assert_eq!(trace_of(5), trace_of(5));
        assert_ne!(trace_of(5), trace_of(6));
    }

    #[test]
    fn a_process_ends_with_all_its_tasks_and_no_other() {
        let executor = SimExecutor::new(9);
        let inner = executor.clone();
        executor.run(async move {
            let (one, other) = (inner.process(), inner.process());
            let ran = Rc::new(Cell::new(0));
            for (process, amount) in [(&one, 1), (&other, 10), (&one, 1), (&other, 10)] {
                let (sleeper, ran) = (process.clone(), Rc::clone(&ran));
                process.spawn(async move {
                    sleeper.sleep(Duration::from_secs(1)).await;
                    ran.set(ran.get() + amount);
                });
            }
            inner.yield_now().await;
            one.end_process();
            assert_eq!((one.task_count(), other.task_count()), (0, 2));
            inner.sleep(Duration::from_secs(2)).await;
            assert_eq!((ran.get(), other.task_count()), (20, 0));
        });
    }

    #[test]
    fn a_process_keeps_the_clock_that_it_began_with() {
        let executor = SimExecutor::new(9);
        let before = executor.process();
        executor.set_wall_ahead_ms(5_000);
        let after = executor.process();
        assert_eq!(after.now_ms(), before.now_ms() + 5_000);
        assert_eq!(after.wall_ms(), before.wall_ms());
        executor.set_wall_ahead_ms(-7_000);
        assert_eq!(after.wall_ms() + 12_000, after.now_ms());
        let (now, now_ms) = (before.now(), before.now_ms());
        executor.sleep_machines(Duration::from_secs(3));
        assert_eq!((before.now(), before.now_ms()), (now, now_ms + 3_000));
        assert_eq!(after.wall_ms() + 7_000, before.now_ms());
    }

    #[test]
    #[should_panic(expected = "every task waits")]
    fn a_deadlock_is_a_panic() {
        SimExecutor::new(8).run(std::future::pending::<()>());
    }
}
