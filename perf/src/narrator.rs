//! Progress on standard error: a line for each step with the time since the start, and on a terminal a clock that runs
//! while a step takes its time.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Tells whoever waits what is going on.
#[derive(Clone, Debug)]
pub struct Narrator {
    started: Instant,
}

impl Default for Narrator {
    fn default() -> Self {
        Self {
            started: Instant::now(),
        }
    }
}

impl Narrator {
    /// Prints a step.
    pub fn line(&self, text: &str) {
        eprintln!("[{:6.1} s] {text}", self.started.elapsed().as_secs_f64());
    }

    /// Prints a step and, on a terminal, runs a clock until the work is done.
    pub fn during<T>(&self, text: &str, work: impl FnOnce() -> T) -> T {
        self.line(text);
        // Draws nothing where standard error is no terminal.
        let clock = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("           {spinner} {elapsed}") {
            clock.set_style(style);
        }
        clock.enable_steady_tick(Duration::from_millis(100));
        let result = work();
        clock.finish_and_clear();
        result
    }
}
