//! Whether this machine has the io_uring we need, asked before anything is started.

use std::io;

use io_uring::{IoUring, Probe, opcode};

/// Why there is no ring to be had. The text is one sentence for the user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unsupported {
    /// The kernel was built without it, or is older than 5.1.
    #[error("this kernel does not have io_uring (Linux 6.0 or later does)")]
    Missing,
    /// Forbidden by `kernel.io_uring_disabled` or a container's system call filter.
    #[error(
        "io_uring is blocked here (sysctl kernel.io_uring_disabled or the container's seccomp \
         profile: see docs/containers.md)"
    )]
    Blocked,
    /// Multishot receives came with Linux 6.0.
    #[error("io_uring is used from Linux 6.0 on and this is {major}.{minor}")]
    TooOld {
        /// First number of the release.
        major: u32,
        /// Second number of the release.
        minor: u32,
    },
    /// An operation is filtered out.
    #[error("io_uring operation {code} is needed and this kernel does not allow it")]
    Operation {
        /// The kernel's number of the operation.
        code: u8,
    },
    /// The kernel would not give memory for a ring: locked memory is used up, mostly.
    #[error("an io_uring could not be made: errno {errno}; is the locked-memory limit used up?")]
    Refused {
        /// The positive errno.
        errno: i32,
    },
}

/// Oldest kernel with all we use.
const RELEASE_MIN: (u32, u32) = (6, 0);

/// Makes a small ring and asks it what it can do.
///
/// # Errors
///
/// [`Unsupported`].
pub fn probe() -> Result<(), Unsupported> {
    let (major, minor) = release();
    if (major, minor) < RELEASE_MIN {
        return Err(Unsupported::TooOld { major, minor });
    }
    let ring = IoUring::new(8).map_err(|error| classify(&error))?;
    let mut probe = Probe::new();
    ring.submitter()
        .register_probe(&mut probe)
        .map_err(|error| classify(&error))?;
    let needed = [
        opcode::RecvMsgMulti::CODE,
        opcode::SendMsg::CODE,
        opcode::Read::CODE,
        opcode::Write::CODE,
        opcode::Fsync::CODE,
        opcode::OpenAt::CODE,
        opcode::UnlinkAt::CODE,
        opcode::Statx::CODE,
        opcode::AsyncCancel::CODE,
    ];
    match needed.into_iter().find(|&code| !probe.is_supported(code)) {
        Some(code) => Err(Unsupported::Operation { code }),
        None => Ok(()),
    }
}

/// Lifts the soft limit of locked memory to the hard one and gives what then holds, in bytes.
#[must_use]
pub fn raise_memory_lock_limit() -> u64 {
    raise_limit(libc::RLIMIT_MEMLOCK)
}

/// Raises the limit of open files as far as the user may; gives what it is then.
#[must_use]
pub fn raise_open_files_limit() -> u64 {
    raise_limit(libc::RLIMIT_NOFILE)
}

/// Milliseconds since the machine started, those it slept included. Nobody can set this clock.
#[must_use]
pub fn boot_ms() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a valid place for the answer.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) };
    assert_eq!(result, 0, "Linux has had this clock since 2.6.39");
    time.tv_sec as u64 * 1_000 + time.tv_nsec as u64 / 1_000_000
}

fn raise_limit(resource: libc::__rlimit_resource_t) -> u64 {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` is a valid place for the answer.
    if unsafe { libc::getrlimit(resource, &raw mut limit) } != 0 {
        return 0;
    }
    if limit.rlim_cur < limit.rlim_max {
        let raised = libc::rlimit {
            rlim_cur: limit.rlim_max,
            rlim_max: limit.rlim_max,
        };
        // SAFETY: `raised` is a valid value to read.
        if unsafe { libc::setrlimit(resource, &raw const raised) } == 0 {
            return raised.rlim_cur;
        }
    }
    limit.rlim_cur
}

fn classify(error: &io::Error) -> Unsupported {
    match error.raw_os_error() {
        Some(libc::ENOSYS) => Unsupported::Missing,
        Some(libc::EPERM | libc::EACCES) => Unsupported::Blocked,
        Some(errno) => Unsupported::Refused { errno },
        None => Unsupported::Missing,
    }
}

/// The running kernel's first two numbers; zeros where they cannot be read.
fn release() -> (u32, u32) {
    // SAFETY: `utsname` is arrays of bytes, for which zero is a value.
    let mut name: libc::utsname = unsafe { std::mem::zeroed() };
    // SAFETY: `name` is a valid place for the answer.
    if unsafe { libc::uname(&raw mut name) } != 0 {
        return (0, 0);
    }
    let text: Vec<u8> = name
        .release
        .iter()
        .map(|&byte| byte as u8)
        .take_while(|&byte| byte != 0)
        .collect();
    parse_release(&String::from_utf8_lossy(&text))
}

fn parse_release(text: &str) -> (u32, u32) {
    let mut numbers = text
        .split(|character: char| !character.is_ascii_digit())
        .map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_read_by_their_first_two_numbers() {
        assert_eq!(parse_release("6.18.44-fc-v595"), (6, 18));
        assert_eq!(parse_release("5.15.0"), (5, 15));
        assert_eq!(parse_release("10.2-rc1"), (10, 2));
        assert_eq!(parse_release("odd"), (0, 0));
    }

    #[test]
    fn refusals_say_their_cause_in_one_sentence() {
        let message = |errno| classify(&io::Error::from_raw_os_error(errno)).to_string();
        assert!(message(libc::ENOSYS).contains("does not have"));
        assert!(message(libc::EPERM).contains("blocked"));
        assert!(message(libc::ENOMEM).contains("errno 12"));
        assert!(!message(libc::ENOSYS).contains('\n'));
    }
}
