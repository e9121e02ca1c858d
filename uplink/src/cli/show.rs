//! What people and programs see: a progress bar, units, times, one JSON object.

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::progress::Progress;

use super::args::Options;

/// A bar on standard error if that is a terminal; notes in any case, unless quiet.
pub(super) struct Bar {
    bar: ProgressBar,
    is_quiet: bool,
}

impl Bar {
    pub(super) fn new(options: &Options, name: &str) -> Self {
        let is_visible = !options.is_quiet && std::io::stderr().is_terminal();
        let target = if is_visible {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(None, target);
        bar.set_prefix(name.to_owned());
        Self {
            bar,
            is_quiet: options.is_quiet,
        }
    }

    pub(super) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

impl Progress for Bar {
    fn begin(&self, total_bytes: Option<u64>) {
        let template = match total_bytes {
            Some(_) => {
                "{prefix} {wide_bar} {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec} {eta}"
            }
            None => "{prefix} {spinner} {decimal_bytes} {decimal_bytes_per_sec} {elapsed}",
        };
        // The templates are ours; should one be wrong, the default bar does.
        if let Ok(style) = ProgressStyle::with_template(template) {
            self.bar.set_style(style);
        }
        match total_bytes {
            Some(total_bytes) => self.bar.set_length(total_bytes),
            None => self.bar.enable_steady_tick(Duration::from_millis(200)),
        }
    }

    fn advance(&self, bytes: u64) {
        self.bar.inc(bytes);
    }

    fn note(&self, text: &str) {
        if !self.is_quiet {
            self.bar.suspend(|| eprintln!("uplink: {text}"));
        }
    }
}

pub(super) fn print_json(value: &serde_json::Value) {
    // A reader that went away needs no JSON.
    let _ = writeln!(std::io::stdout(), "{value}");
}

/// `1.3 GB`; whole bytes below 1,000.
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if count < 1_000 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1_000.0;
    let mut unit = 0;
    // 999,950 would round to 1000.0.
    while value >= 999.95 && unit + 1 < UNITS.len() {
        value /= 1_000.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// `2024-02-29 13:05:00` in UTC.
pub(super) fn time(ms_since_1970: u64) -> String {
    let seconds = ms_since_1970 / 1_000;
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = date_of(days);
    format!(
        "{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}",
        second / 3_600,
        second / 60 % 60,
        second % 60
    )
}

/// Year, month, day of a day since 1970-01-01. Howard Hinnant, "chrono-compatible low-level date
/// algorithms", civil_from_days.
fn date_of(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_one_decimal_and_no_thousands() {
        for (count, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1_000, "1.0 kB"),
            (999_949, "999.9 kB"),
            (999_950, "1.0 MB"),
            (268_435_456, "268.4 MB"),
            (u64::MAX, "18.4 EB"),
        ] {
            assert_eq!(bytes(count), text);
        }
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00:00"),
            (951_782_399, "2000-02-28 23:59:59"),
            (951_782_400, "2000-02-29 00:00:00"),
            (1_709_211_900, "2024-02-29 13:05:00"),
            (4_107_542_400, "2100-03-01 00:00:00"),
        ] {
            assert_eq!(time(seconds * 1_000), text);
        }
    }
}
