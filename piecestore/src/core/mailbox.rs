//! How other threads reach a core: owned values in a bounded queue.
//!
//! Stop signals, status questions and the like travel here; the data path never crosses cores. A
//! full mailbox refuses at once, so that a stuck core cannot make others grow.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

/// The sending end; clones send to the same inbox.
#[derive(Debug)]
pub struct Outbox<T>(Arc<Mutex<Queue<T>>>);

/// The receiving end, for one task.
#[derive(Debug)]
pub struct Inbox<T>(Arc<Mutex<Queue<T>>>);

/// A value that was not taken; it comes back.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejected<T> {
    /// As many values wait as the mailbox holds.
    #[error("mailbox is full")]
    Full(T),
    /// The receiver is gone.
    #[error("nobody reads this mailbox any more")]
    Gone(T),
}

#[derive(Debug)]
struct Queue<T> {
    values: VecDeque<T>,
    capacity: usize,
    outbox_count: usize,
    has_inbox: bool,
    waiter: Option<Waker>,
}

/// A mailbox for at most `capacity` waiting values.
#[must_use]
pub fn mailbox<T: Send>(capacity: usize) -> (Outbox<T>, Inbox<T>) {
    let queue = Arc::new(Mutex::new(Queue {
        values: VecDeque::new(),
        capacity,
        outbox_count: 1,
        has_inbox: true,
        waiter: None,
    }));
    (Outbox(queue.clone()), Inbox(queue))
}

/// No user code runs under the lock, so a poisoned one guards nothing half done.
fn lock<T>(queue: &Mutex<Queue<T>>) -> MutexGuard<'_, Queue<T>> {
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T: Send> Outbox<T> {
    /// Leaves a value for the inbox.
    ///
    /// # Errors
    ///
    /// The value comes back if the mailbox is full or its receiver gone.
    pub fn send(&self, value: T) -> Result<(), Rejected<T>> {
        let mut queue = lock(&self.0);
        if !queue.has_inbox {
            return Err(Rejected::Gone(value));
        }
        if queue.values.len() >= queue.capacity {
            return Err(Rejected::Full(value));
        }
        queue.values.push_back(value);
        let waiter = queue.waiter.take();
        drop(queue);
        if let Some(waker) = waiter {
            waker.wake();
        }
        Ok(())
    }
}

impl<T> Clone for Outbox<T> {
    fn clone(&self) -> Self {
        lock(&self.0).outbox_count += 1;
        Self(self.0.clone())
    }
}

impl<T> Drop for Outbox<T> {
    fn drop(&mut self) {
        let mut queue = lock(&self.0);
        queue.outbox_count -= 1;
        let waiter = if queue.outbox_count == 0 {
            queue.waiter.take()
        } else {
            None
        };
        drop(queue);
        if let Some(waker) = waiter {
            waker.wake();
        }
    }
}

impl<T> Inbox<T> {
    /// The next value; `None` once every outbox is gone and nothing waits.
    pub async fn next(&mut self) -> Option<T> {
        poll_fn(|context| {
            let mut queue = lock(&self.0);
            if let Some(value) = queue.values.pop_front() {
                return Poll::Ready(Some(value));
            }
            if queue.outbox_count == 0 {
                return Poll::Ready(None);
            }
            queue.waiter = Some(context.waker().clone());
            Poll::Pending
        })
        .await
    }
}

impl<T> Drop for Inbox<T> {
    fn drop(&mut self) {
        let mut queue = lock(&self.0);
        queue.has_inbox = false;
        // What nobody will read is dropped here, outside the lock.
        let values = std::mem::take(&mut queue.values);
        drop(queue);
        drop(values);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::simulated::SimExecutor;

    #[test]
    fn values_arrive_in_order_from_another_thread_until_all_outboxes_are_gone() {
        let (outbox, mut inbox) = mailbox(1000);
        let sender = std::thread::spawn(move || {
            for value in 0..500 {
                outbox.clone().send(value).unwrap();
            }
        });
        sender.join().unwrap();
        SimExecutor::new(4).run(async move {
            for value in 0..500 {
                assert_eq!(inbox.next().await, Some(value));
            }
            assert_eq!(inbox.next().await, None);
        });
    }

    #[test]
    fn a_full_or_unread_mailbox_gives_the_value_back() {
        let (outbox, inbox) = mailbox(1);
        outbox.send(1).unwrap();
        assert_eq!(outbox.send(2), Err(Rejected::Full(2)));
        drop(inbox);
        assert_eq!(outbox.send(3), Err(Rejected::Gone(3)));
    }
}
