//! The processor time of a process, to the nanosecond: `/proc` counts in hundredths of a second, in which a core copies
//! 80 MB.
#![allow(unsafe_code, reason = "clock_gettime, which std does not have")]

use std::io;

/// User and system time of all threads of this process, ended ones included.
pub(crate) fn process_seconds() -> io::Result<f64> {
    seconds_by(libc::CLOCK_PROCESS_CPUTIME_ID)
}

/// The same of another process of this user.
pub(crate) fn process_seconds_of(pid: u32) -> io::Result<f64> {
    let mut clock = 0;
    // SAFETY: the call writes one clock id to the address of one, which lives on this stack.
    let code = unsafe { libc::clock_getcpuclockid(pid.cast_signed(), &raw mut clock) };
    if code != 0 {
        return Err(io::Error::from_raw_os_error(code));
    }
    seconds_by(clock)
}

fn seconds_by(clock: libc::clockid_t) -> io::Result<f64> {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the call writes one `timespec` to the address of one, which lives on this stack.
    let code = unsafe { libc::clock_gettime(clock, &raw mut time) };
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
        let after = process_seconds().unwrap();
        assert!(after > before);
        assert!(process_seconds_of(std::process::id()).unwrap() >= after);
    }

    #[test]
    fn a_process_that_is_not_there_has_no_time() {
        // Above the kernel's limit of 2^22, and below 2^28, from where on a clock's number has no room for it.
        assert!(process_seconds_of(1 << 23).is_err());
    }
}
