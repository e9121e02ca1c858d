//! The few ways in which futures of one thread wait for each other: nothing but cells and wakers.
//!
//! No time, no fairness beyond what is said, no `Send`. Dropping a waiting future is always allowed.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

use crate::fingerprint::Fingerprints;

/// Sends one value to one receiver. Dropping it unsent tells the receiver so.
pub(crate) struct Sender<T> {
    shared: Rc<Shared<T>>,
}

/// Waits for one value.
pub(crate) struct Receiver<T> {
    shared: Rc<Shared<T>>,
}

struct Shared<T> {
    value: Cell<Option<T>>,
    is_closed: Cell<bool>,
    waker: Cell<Option<Waker>>,
}

/// A sender and its receiver.
pub(crate) fn oneshot<T>() -> (Sender<T>, Receiver<T>) {
    let shared = Rc::new(Shared {
        value: Cell::new(None),
        is_closed: Cell::new(false),
        waker: Cell::new(None),
    });
    (
        Sender {
            shared: Rc::clone(&shared),
        },
        Receiver { shared },
    )
}

impl<T> Sender<T> {
    pub(crate) fn send(self, value: T) {
        self.shared.value.set(Some(value));
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.shared.is_closed.set(true);
        if let Some(waker) = self.shared.waker.take() {
            waker.wake();
        }
    }
}

impl<T> Receiver<T> {
    /// The value, if the sender is done; the receiver itself if not.
    pub(crate) fn try_receive(self) -> Result<Option<T>, Self> {
        if self.shared.is_closed.get() {
            Ok(self.shared.value.take())
        } else {
            Err(self)
        }
    }

    /// The value, or `None` if the sender went away without one.
    pub(crate) async fn receive(self) -> Option<T> {
        poll_fn(|context| {
            if self.shared.is_closed.get() {
                return Poll::Ready(self.shared.value.take());
            }
            self.shared.waker.set(Some(context.waker().clone()));
            Poll::Pending
        })
        .await
    }
}

/// A flag that one or more tasks sleep on; setting it wakes them all.
#[derive(Debug, Default)]
pub(crate) struct Event {
    is_set: Cell<bool>,
    wakers: RefCell<Vec<Waker>>,
}

impl Event {
    pub(crate) fn set(&self) {
        self.is_set.set(true);
        for waker in self.wakers.take() {
            waker.wake();
        }
    }

    /// Waits until the flag is set, and leaves it set.
    pub(crate) async fn wait(&self) {
        poll_fn(|context| {
            if self.is_set.get() {
                return Poll::Ready(());
            }
            let mut wakers = self.wakers.borrow_mut();
            if !wakers.iter().any(|known| known.will_wake(context.waker())) {
                wakers.push(context.waker().clone());
            }
            Poll::Pending
        })
        .await;
    }

    /// Waits until the flag is set, and clears it: for one waiter.
    pub(crate) async fn take(&self) {
        self.wait().await;
        self.is_set.set(false);
    }
}

/// Lets every task that is ready run once.
#[cfg_attr(
    not(any(test, feature = "testing")),
    expect(unreachable_pub, reason = "public with the feature `testing`")
)]
pub async fn yield_now() {
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

/// One lock a fingerprint: what happens to one piece happens in turn.
///
/// Two pieces with one fingerprint only wait for each other needlessly. Whoever is woken first gets the lock; nothing starves
/// as long as locks are held for one commit.
#[derive(Debug, Default)]
pub(crate) struct KeyLocks {
    held: RefCell<HashMap<u64, Vec<Waker>, Fingerprints>>,
}

impl KeyLocks {
    /// The lock, if nobody holds it.
    pub(crate) fn try_lock(self: &Rc<Self>, fingerprint: u64) -> Option<KeyGuard> {
        let mut held = self.held.borrow_mut();
        if held.contains_key(&fingerprint) {
            return None;
        }
        held.insert(fingerprint, Vec::new());
        Some(KeyGuard {
            locks: Rc::clone(self),
            fingerprint,
        })
    }

    pub(crate) async fn lock(self: &Rc<Self>, fingerprint: u64) -> KeyGuard {
        poll_fn(|context| {
            let mut held = self.held.borrow_mut();
            if let Some(waiting) = held.get_mut(&fingerprint) {
                waiting.push(context.waker().clone());
                return Poll::Pending;
            }
            held.insert(fingerprint, Vec::new());
            Poll::Ready(())
        })
        .await;
        KeyGuard {
            locks: Rc::clone(self),
            fingerprint,
        }
    }
}

/// Holds a lock until dropped.
#[derive(Debug)]
pub(crate) struct KeyGuard {
    locks: Rc<KeyLocks>,
    fingerprint: u64,
}

impl Drop for KeyGuard {
    fn drop(&mut self) {
        let waiting = self.locks.held.borrow_mut().remove(&self.fingerprint);
        for waker in waiting.into_iter().flatten() {
            waker.wake();
        }
    }
}
