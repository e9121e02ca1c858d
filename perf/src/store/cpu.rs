//! The processor time of this process, to the nanosecond: `/proc` counts in hundredths of a second, in which a core copies
//! 80 MB.
#![allow(unsafe_code, reason = "clock_gettime, which std does not have")]

use std::io;

/// User and system time of all threads, ended ones included.
pub(super) fn process_seconds() -> io::Result<f64> {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the call writes one `timespec` to the address of one, which lives on this stack.
    let code = unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    if code != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(time.tv_sec as f64 + time.tv_nsec as f64 / 1e9)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_takes_processor_time() {
        let before = process_seconds().unwrap();
        let sum = (0..20_000_000_u64).fold(0, |sum: u64, n| std::hint::black_box(sum ^ n));
        std::hint::black_box(sum);
        assert!(process_seconds().unwrap() > before);
    }
}
