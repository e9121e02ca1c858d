//! A bidirectional stream in memory, with a bounded queue each way, resets and stops.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

use bytes::Bytes;
use strand_protocol::Code;

use crate::stream::{RecvStream, SendStream, StreamError};

/// Bytes one direction holds, as a transport's window would.
pub(super) const WINDOW_BYTES: usize = 64 << 10;

#[derive(Default)]
struct Pipe {
    queue: VecDeque<Bytes>,
    queued_bytes: usize,
    is_finished: bool,
    reset: Option<Code>,
    stopped: Option<Code>,
    wakers: Vec<Waker>,
}

impl Pipe {
    fn wake(&mut self) {
        self.wakers.drain(..).for_each(Waker::wake);
    }
}

/// The writing end.
pub(super) struct MemorySend(Rc<RefCell<Pipe>>);

/// The reading end.
pub(super) struct MemoryRecv(Rc<RefCell<Pipe>>);

/// One direction.
pub(super) fn pipe() -> (MemorySend, MemoryRecv) {
    let pipe = Rc::new(RefCell::new(Pipe::default()));
    (MemorySend(Rc::clone(&pipe)), MemoryRecv(pipe))
}

impl MemorySend {
    /// The code with which the reader gave up, if it did.
    pub(super) fn stopped(&self) -> Option<Code> {
        self.0.borrow().stopped
    }
}

impl SendStream for MemorySend {
    async fn send(&mut self, bytes: Bytes) -> Result<(), StreamError> {
        let mut rest = bytes;
        poll_fn(|context| {
            let mut pipe = self.0.borrow_mut();
            while !rest.is_empty() {
                if let Some(code) = pipe.stopped {
                    return Poll::Ready(Err(StreamError::Stopped(code.into())));
                }
                if pipe.is_finished || pipe.reset.is_some() {
                    return Poll::Ready(Err(StreamError::Closed));
                }
                let room = WINDOW_BYTES - pipe.queued_bytes;
                if room == 0 {
                    pipe.wakers.push(context.waker().clone());
                    return Poll::Pending;
                }
                let part = rest.split_to(room.min(rest.len()));
                pipe.queued_bytes += part.len();
                pipe.queue.push_back(part);
                pipe.wake();
            }
            Poll::Ready(Ok(()))
        })
        .await
    }

    fn finish(&mut self) {
        let mut pipe = self.0.borrow_mut();
        pipe.is_finished = true;
        pipe.wake();
    }

    fn reset(&mut self, code: Code) {
        let mut pipe = self.0.borrow_mut();
        if !pipe.is_finished {
            pipe.reset.get_or_insert(code);
            pipe.queue.clear();
            pipe.queued_bytes = 0;
            pipe.wake();
        }
    }
}

impl Drop for MemorySend {
    fn drop(&mut self) {
        self.reset(Code::Cancelled);
    }
}

impl RecvStream for MemoryRecv {
    async fn chunk(&mut self, max: usize) -> Result<Option<Bytes>, StreamError> {
        poll_fn(|context| {
            let mut pipe = self.0.borrow_mut();
            if let Some(code) = pipe.reset {
                return Poll::Ready(Err(StreamError::Reset(code.into())));
            }
            if let Some(front) = pipe.queue.front_mut() {
                let chunk = front.split_to(max.min(front.len()));
                if front.is_empty() {
                    pipe.queue.pop_front();
                }
                pipe.queued_bytes -= chunk.len();
                pipe.wake();
                return Poll::Ready(Ok(Some(chunk)));
            }
            if pipe.is_finished {
                return Poll::Ready(Ok(None));
            }
            pipe.wakers.push(context.waker().clone());
            Poll::Pending
        })
        .await
    }

    fn stop(&mut self, code: Code) {
        let mut pipe = self.0.borrow_mut();
        pipe.stopped.get_or_insert(code);
        pipe.queue.clear();
        pipe.queued_bytes = 0;
        pipe.wake();
    }
}

impl Drop for MemoryRecv {
    fn drop(&mut self) {
        self.stop(Code::Cancelled);
    }
}
