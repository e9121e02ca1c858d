//! What this process has used, read from /proc: no unsafe code for two numbers at the end of a
//! transfer.

use std::fs;

/// The kernel's clock ticks per second in /proc, a constant of its interface (USER_HZ) on Linux.
const TICKS_PER_SECOND: f64 = 100.0;

/// CPU seconds of all threads so far, in steps of 10 ms; `None` where there is no /proc.
pub(super) fn cpu_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The name in parentheses may hold anything; fields are counted after it. utime and stime are
    // fields 14 and 15, from 1.
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_ascii_whitespace().skip(14 - 3);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / TICKS_PER_SECOND)
}

/// Most memory that was resident at once, in bytes.
pub(super) fn peak_rss_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kib: u64 = line.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_has_used_something() {
        assert!(peak_rss_bytes().is_some_and(|bytes| bytes > 100_000));
        assert!(cpu_seconds().is_some_and(|seconds| seconds >= 0.0));
    }
}
