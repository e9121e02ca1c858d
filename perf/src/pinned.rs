//! Threads that stay on one core.
#![allow(
    unsafe_code,
    reason = "the affinity of a thread, which std does not have"
)]

use std::io;
use std::mem::size_of;

/// Keeps this thread, and those it starts, on the last core that it may use, and says which; interrupts prefer the first.
pub(crate) fn pin() -> io::Result<usize> {
    let core = *allowed()?.last().ok_or_else(no_core)?;
    pin_to(core)?;
    Ok(core)
}

/// The cores that this thread may use, in ascending order.
pub(crate) fn allowed() -> io::Result<Vec<usize>> {
    // SAFETY: a `cpu_set_t` is plain bits, of which none set is a value.
    let mut allowed: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    let len = size_of::<libc::cpu_set_t>();
    // SAFETY: the call writes at most `len` bytes to a set that long, which lives on this stack.
    if unsafe { libc::sched_getaffinity(0, len, &raw mut allowed) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: every index is below the set's size.
    let is_allowed = |core: &usize| unsafe { libc::CPU_ISSET(*core, &allowed) };
    Ok((0..libc::CPU_SETSIZE as usize).filter(is_allowed).collect())
}

/// Keeps this thread, and those it starts, on one core.
pub(crate) fn pin_to(core: usize) -> io::Result<()> {
    if core >= libc::CPU_SETSIZE as usize {
        return Err(no_core());
    }
    let len = size_of::<libc::cpu_set_t>();
    // SAFETY: a `cpu_set_t` is plain bits, of which none set is a value.
    let mut one: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the core was just compared with the set's size.
    unsafe { libc::CPU_SET(core, &mut one) };
    // SAFETY: the call reads `len` bytes of a set that long.
    if unsafe { libc::sched_setaffinity(0, len, &raw const one) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn no_core() -> io::Error {
    io::Error::other("no such core is allowed")
}

/// What the CPU calls itself.
pub(crate) fn name() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = info.lines().find(|line| line.starts_with("model name"));
    let name = line.and_then(|line| line.split(": ").nth(1));
    name.unwrap_or(std::env::consts::ARCH).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pinned_thread_stays() {
        // On a thread of its own: a pin is for good.
        let pins = std::thread::spawn(|| [pin().unwrap(), pin().unwrap()]);
        let [first, second] = pins.join().unwrap();
        assert_eq!(first, second);
        assert!(allowed().unwrap().contains(&first));
        assert!(pin_to(usize::MAX).is_err());
        assert!(!name().is_empty());
    }
}
