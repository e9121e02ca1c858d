//! A core's executor on tokio: the tasks of one thread's `LocalSet`.

use std::future::Future;
use std::time::{Duration, Instant};

use piecestore::core::SystemClock;
use piecestore::core::executor::{Clock, Executor};

/// The `LocalSet` that the current task runs in.
#[derive(Clone, Copy, Debug)]
pub(in crate::node) struct TokioExecutor;

impl Executor for TokioExecutor {
    fn spawn(&self, future: impl Future<Output = ()> + 'static) {
        tokio::task::spawn_local(future);
    }

    async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }

    async fn yield_now(&self) {
        tokio::task::yield_now().await;
    }

    fn now(&self) -> Instant {
        Instant::now()
    }
}

impl Clock for TokioExecutor {
    fn now_ms(&self) -> u64 {
        SystemClock.now_ms()
    }

    fn wall_ms(&self) -> u64 {
        SystemClock.wall_ms()
    }
}
