//! Says on standard error how far a command has come: one line that is written over on a terminal, a line now and then in a log.

use std::io::{IsTerminal, Write as _};
use std::time::{Duration, Instant};

/// How often progress is said to a terminal, and to a log.
const TERMINAL_PERIOD: Duration = Duration::from_millis(500);
const LOG_PERIOD: Duration = Duration::from_secs(30);

/// See the module's head.
pub(crate) struct Meter {
    is_terminal: bool,
    began: Instant,
    shown: Instant,
    has_line: bool,
}

impl Meter {
    pub(crate) fn new() -> Self {
        Self {
            is_terminal: std::io::stderr().is_terminal(),
            began: Instant::now(),
            shown: Instant::now(),
            has_line: false,
        }
    }

    /// Says a line now.
    pub(crate) fn show_at_once(&mut self, line: &str) {
        self.shown = Instant::now();
        self.say(line);
    }

    /// Says a line, if the last one is old enough.
    pub(crate) fn show(&mut self, line: impl FnOnce() -> String) {
        let period = if self.is_terminal {
            TERMINAL_PERIOD
        } else {
            LOG_PERIOD
        };
        if self.shown.elapsed() >= period {
            self.shown = Instant::now();
            self.say(&line());
        }
    }

    /// The last line: what was done, and in how many seconds; gives those.
    pub(crate) fn end(&mut self, what: &str) -> f64 {
        let seconds = self.began.elapsed().as_secs_f64();
        self.say(&format!("{what} in {seconds:.1} s"));
        if self.has_line {
            let _ = writeln!(std::io::stderr());
        }
        seconds
    }

    /// If nobody reads it, the work goes on all the same.
    fn say(&mut self, line: &str) {
        let mut error = std::io::stderr();
        let _ = if self.is_terminal {
            self.has_line = true;
            write!(error, "\r\x1b[K{line}").and_then(|()| error.flush())
        } else {
            writeln!(error, "{line}")
        };
    }
}
