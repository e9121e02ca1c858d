//! A flag that one task waits for and anything on the same thread may raise.
//!
//! Raising it twice before the waiter runs counts once. It wakes one waiter: the task that called
//! [`Notify::notified`] last.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::task::{Poll, Waker};

/// See the module's head.
#[derive(Debug, Default)]
pub struct Notify {
    raised: Cell<bool>,
    waiter: RefCell<Option<Waker>>,
}

impl Notify {
    /// A lowered flag.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Raises the flag and wakes its waiter.
    pub fn notify(&self) {
        if self.raised.replace(true) {
            return;
        }
        let waiter = self.waiter.borrow_mut().take();
        if let Some(waker) = waiter {
            waker.wake();
        }
    }

    /// Waits until the flag is raised, and lowers it.
    pub async fn notified(&self) {
        poll_fn(|context| {
            if self.raised.replace(false) {
                return Poll::Ready(());
            }
            let mut waiter = self.waiter.borrow_mut();
            match &mut *waiter {
                Some(waker) => waker.clone_from(context.waker()),
                None => *waiter = Some(context.waker().clone()),
            }
            Poll::Pending
        })
        .await;
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;
    use std::time::Duration;

    use super::*;
    use crate::core::executor::Executor;
    use crate::core::simulated::SimExecutor;

    #[test]
    fn raising_twice_counts_once_and_is_not_lost_before_the_wait() {
        let executor = SimExecutor::new(2);
        let inner = executor.clone();
        executor.run(async move {
            let flag = Rc::new(Notify::new());
            flag.notify();
            flag.notify();
            flag.notified().await;
            let raiser = flag.clone();
            let sleeper = inner.clone();
            let started = inner.now();
            inner.spawn(async move {
                sleeper.sleep(Duration::from_millis(5)).await;
                raiser.notify();
            });
            flag.notified().await;
            assert_eq!(inner.now() - started, Duration::from_millis(5));
        });
    }
}
