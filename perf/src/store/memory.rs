//! The memory of this process while a store is in use: a thread that looks at `/proc` and keeps the largest sum.
//!
//! All of the process counts, the bench's own bodies included: they stand for the write budget. Watching pauses while
//! a raw loop runs, whose buffers are no part of a node. A node is one process that starts once, the bench opens store
//! after store: what the allocator kept of earlier ones goes back to the system before a part is watched.
#![allow(unsafe_code, reason = "malloc_trim, which std does not have")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::sample::{process_pinned_bytes, process_rss_anon_bytes};

const INTERVAL: Duration = Duration::from_millis(20);

/// Watches until it is dropped.
#[derive(Debug)]
pub(super) struct Watch {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    peak_bytes: AtomicU64,
    is_watching: AtomicBool,
    is_stopped: AtomicBool,
}

impl Watch {
    pub(super) fn start() -> Self {
        let shared = Arc::new(Shared::default());
        let watched = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            while !watched.is_stopped.load(Ordering::Relaxed) {
                if watched.is_watching.load(Ordering::Relaxed) {
                    watched
                        .peak_bytes
                        .fetch_max(used_bytes(), Ordering::Relaxed);
                }
                std::thread::sleep(INTERVAL);
            }
        });
        Self {
            shared,
            thread: Some(thread),
        }
    }

    /// Watches while `work` runs; its result and the largest sum seen in it.
    pub(super) fn during<T>(&self, work: impl FnOnce() -> T) -> (T, u64) {
        give_back();
        self.shared
            .peak_bytes
            .store(used_bytes(), Ordering::Relaxed);
        self.shared.is_watching.store(true, Ordering::Relaxed);
        let output = work();
        self.shared.is_watching.store(false, Ordering::Relaxed);
        (output, self.shared.peak_bytes.load(Ordering::Relaxed))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.is_stopped.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A watcher that panicked has nothing left to say.
            let _ = thread.join();
        }
    }
}

/// Returns the allocator's free memory to the system, where the allocator can.
fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the call takes a number, and the allocator locks what it touches.
    let _has_given = unsafe { libc::malloc_trim(0) };
}

/// Anonymous resident and pinned memory; 0 where `/proc` does not say.
fn used_bytes() -> u64 {
    let pid = std::process::id();
    process_rss_anon_bytes(pid).unwrap_or(0) + process_pinned_bytes(pid).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_in_use_is_seen() {
        let watch = Watch::start();
        let (held, peak) = watch.during(|| {
            let held = vec![1_u8; 8 << 20];
            std::thread::sleep(4 * INTERVAL);
            held
        });
        assert!(peak >= held.len() as u64);
    }
}
