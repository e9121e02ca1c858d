//! How slow a body may be.
//!
//! A body arrives in some two thousand chunks, and most of them have to be waited for: a timer for each would cost more
//! than the chunk. [`Pace`] keeps one timer for a whole window and judges the window's progress when it fires.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;

use bytes::Bytes;

use crate::core::executor::Executor;
use crate::limits::{PACE_BYTES_MIN, PACE_WINDOW};
use crate::stream::{RecvStream, StreamError};

/// Reads a body that must keep a minimum pace: [`PACE_BYTES_MIN`] in each [`PACE_WINDOW`].
pub(super) struct Pace<'a, E> {
    executor: &'a E,
    timer: Option<Pin<Box<dyn Future<Output = ()> + 'a>>>,
    window_bytes: u64,
}

impl<'a, E: Executor> Pace<'a, E> {
    /// The first window begins when the first wait does.
    pub(super) fn new(executor: &'a E) -> Self {
        Self {
            executor,
            timer: None,
            window_bytes: 0,
        }
    }

    /// The next chunk; [`StreamError::TimedOut`] if the pace was not kept.
    pub(super) async fn chunk<R: RecvStream>(
        &mut self,
        recv: &mut R,
        max: usize,
    ) -> Result<Option<Bytes>, StreamError> {
        let mut next = pin!(recv.chunk(max));
        let Self {
            executor,
            timer,
            window_bytes,
        } = self;
        let executor: &'a E = executor;
        let chunk = poll_fn(|context| {
            if let Poll::Ready(chunk) = next.as_mut().poll(context) {
                return Poll::Ready(chunk);
            }
            loop {
                let running = timer.get_or_insert_with(|| Box::pin(executor.sleep(PACE_WINDOW)));
                if running.as_mut().poll(context).is_pending() {
                    return Poll::Pending;
                }
                if *window_bytes < PACE_BYTES_MIN {
                    return Poll::Ready(Err(StreamError::TimedOut));
                }
                *window_bytes = 0;
                *timer = None;
            }
        })
        .await?;
        if let Some(chunk) = &chunk {
            *window_bytes += chunk.len() as u64;
        }
        Ok(chunk)
    }
}
