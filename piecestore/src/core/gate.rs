//! A gate counts the background tasks of a component, so that its `close` can wait for them.
//!
//! A task enters before it starts and keeps its [`Pass`] for as long as it runs. Once the gate is
//! closing nobody enters any more; `close` returns when the last pass is gone.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

/// See the module's head. Clones are the same gate.
#[derive(Clone, Debug, Default)]
pub struct Gate(Rc<State>);

/// Proof of having entered; leaving is dropping it.
#[derive(Debug)]
pub struct Pass(Rc<State>);

#[derive(Debug, Default)]
struct State {
    inside_count: Cell<usize>,
    is_closing: Cell<bool>,
    closers: RefCell<Vec<Waker>>,
}

impl Gate {
    /// An open gate with nobody inside.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Enters, unless the gate is closing.
    #[must_use]
    pub fn enter(&self) -> Option<Pass> {
        if self.0.is_closing.get() {
            return None;
        }
        self.0.inside_count.set(self.0.inside_count.get() + 1);
        Some(Pass(self.0.clone()))
    }

    /// How many are inside.
    #[must_use]
    pub fn inside_count(&self) -> usize {
        self.0.inside_count.get()
    }

    /// Whether [`close`](Self::close) has been called.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        self.0.is_closing.get()
    }

    /// Lets nobody in any more, without waiting.
    pub fn begin_close(&self) {
        self.0.is_closing.set(true);
    }

    /// Lets nobody in any more and waits until everybody has left. May be called again.
    pub async fn close(&self) {
        self.begin_close();
        poll_fn(|context| {
            if self.0.inside_count.get() == 0 {
                return Poll::Ready(());
            }
            self.0.closers.borrow_mut().push(context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let inside_count = self.0.inside_count.get() - 1;
        self.0.inside_count.set(inside_count);
        if inside_count == 0 {
            for waker in self.0.closers.take() {
                waker.wake();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::core::executor::Executor;
    use crate::core::simulated::SimExecutor;

    #[test]
    fn close_waits_for_the_last_pass_and_admits_nobody() {
        let executor = SimExecutor::new(3);
        let inner = executor.clone();
        executor.run(async move {
            let gate = Gate::new();
            let started = inner.now();
            for seconds in [1, 3, 2] {
                let pass = gate.enter().unwrap();
                let sleeper = inner.clone();
                inner.spawn(async move {
                    sleeper.sleep(Duration::from_secs(seconds)).await;
                    drop(pass);
                });
            }
            assert_eq!(gate.inside_count(), 3);
            gate.close().await;
            assert_eq!(inner.now() - started, Duration::from_secs(3));
            assert!(gate.enter().is_none());
            gate.close().await;
        });
    }
}
