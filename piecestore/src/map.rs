//! Sealed blobs as memory: what the page cache holds of them is read without a request to the disk.
//!
//! A map is only looked at where the kernel says that every page of the range is in memory (`mincore`), so that a look does not wait
//! for a disk, which may hang. A page that leaves between question and look costs one wait. What lies under a map can
//! still go: another process truncates the file, or the disk fails. The kernel then raises `SIGBUS`. The handler here puts a page of
//! zeros in the place of the one that is missing and marks the map as broken; the look's result is thrown away and the map is never
//! used again. A `SIGBUS` anywhere else goes to whoever handled it before.
#![allow(
    unsafe_code,
    reason = "maps files, asks for residency, and handles a signal"
)]

use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use memmap2::{Mmap, MmapOptions};

/// Maps of a process at a time; a file beyond that is read through the ring.
pub const MAPS_MAX: usize = 2_048;

/// Pages asked about at once.
const PAGES_AT_ONCE: usize = 64;

/// A file mapped for reading.
#[derive(Debug)]
pub struct FileMap {
    map: Mmap,
    guard: &'static Guard,
}

/// A mapped range that the signal handler knows.
#[derive(Debug)]
struct Guard {
    /// 0: nobody's. 1: being given away.
    start: AtomicUsize,
    end: AtomicUsize,
    is_broken: AtomicBool,
}

/// What the handler looks at: nothing in it is ever freed.
static GUARDS: [Guard; MAPS_MAX] = [const {
    Guard {
        start: AtomicUsize::new(0),
        end: AtomicUsize::new(0),
        is_broken: AtomicBool::new(false),
    }
}; MAPS_MAX];

static PAGE_BYTES: AtomicUsize = AtomicUsize::new(4_096);

/// Who handled the signal before; set once, before our handler can run.
static PREVIOUS: OnceLock<libc::sigaction> = OnceLock::new();

impl FileMap {
    /// Maps the first `len` bytes of a file that nobody is going to change.
    ///
    /// # Errors
    ///
    /// If the file cannot be mapped, is shorter than `len`, or [`MAPS_MAX`] maps exist.
    pub fn new(file: BorrowedFd<'_>, len: u64) -> io::Result<Self> {
        install_handler()?;
        let file = File::from(file.try_clone_to_owned()?);
        let len = usize::try_from(len).map_err(io::Error::other)?;
        if file.metadata()?.len() < len as u64 || len == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // SAFETY: the map is read-only and private to this value. Bytes that change or go while it is looked at are allowed for: a
        // look copies and checks them before anybody believes them, and missing pages are dealt with by the handler.
        let map = unsafe { MmapOptions::new().len(len).map(&file)? };
        let guard = Guard::take(map.as_ptr() as usize, len).ok_or(io::ErrorKind::QuotaExceeded)?;
        Ok(Self { map, guard })
    }

    /// Bytes of the file that are mapped.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a map is never empty")]
    pub fn len(&self) -> u64 {
        self.map.len() as u64
    }

    /// Calls `look` with `len` bytes at `offset`; `None` if they are not all in memory, not in the file, or went while they
    /// were looked at.
    pub fn look<T>(&self, offset: u64, len: usize, look: impl FnOnce(&[u8]) -> T) -> Option<T> {
        let start = usize::try_from(offset).ok()?;
        let bytes = self.map.get(start..start.checked_add(len)?)?;
        if self.is_broken() || !is_resident(bytes) {
            return None;
        }
        let output = look(bytes);
        (!self.is_broken()).then_some(output)
    }

    /// Where a range lies, in whole pages, for a request that brings it to memory; `None` if the file is not so long.
    #[must_use]
    pub fn pages(&self, offset: u64, len: usize) -> Option<(*const u8, usize)> {
        let start = usize::try_from(offset).ok()?;
        let bytes = self.map.get(start..start.checked_add(len)?)?;
        Some(whole_pages(bytes))
    }

    /// Brings a range to memory, and waits for it.
    ///
    /// # Errors
    ///
    /// If the file is not so long, or its disk fails.
    pub fn populate(&self, offset: u64, len: usize) -> io::Result<()> {
        let (start, len) = self
            .pages(offset, len)
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        let start = start.cast_mut().cast();
        // SAFETY: whole pages of this map, which is read-only: the call reads them and changes nothing.
        let done = unsafe { libc::madvise(start, len, libc::MADV_POPULATE_READ) };
        if done == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }

    /// Whether a page went from under it.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.guard.is_broken.load(Ordering::Acquire)
    }
}

impl Drop for FileMap {
    fn drop(&mut self) {
        // Before the range is unmapped: it may be somebody else's right after.
        self.guard.start.store(0, Ordering::Release);
    }
}

impl Guard {
    fn take(start: usize, len: usize) -> Option<&'static Self> {
        let is_taken = |guard: &&Self| {
            let swapped = guard
                .start
                .compare_exchange(0, 1, Ordering::AcqRel, Ordering::Relaxed);
            swapped.is_ok()
        };
        let guard = GUARDS.iter().find(is_taken)?;
        guard.is_broken.store(false, Ordering::Relaxed);
        guard.end.store(start + len, Ordering::Relaxed);
        guard.start.store(start, Ordering::Release);
        Some(guard)
    }
}

/// The pages that bytes lie in: the first one's address, and bytes from there on.
fn whole_pages(bytes: &[u8]) -> (*const u8, usize) {
    let page_bytes = PAGE_BYTES.load(Ordering::Relaxed);
    let skip = bytes.as_ptr() as usize % page_bytes;
    (
        bytes.as_ptr().wrapping_sub(skip),
        (skip + bytes.len()).next_multiple_of(page_bytes),
    )
}

fn is_resident(bytes: &[u8]) -> bool {
    let page_bytes = PAGE_BYTES.load(Ordering::Relaxed);
    let (mut page, mut left) = whole_pages(bytes);
    while left > 0 {
        let len = left.min(PAGES_AT_ONCE * page_bytes);
        let mut states = [0_u8; PAGES_AT_ONCE];
        // SAFETY: `bytes` is a part of a live map, so these are mapped pages; `states` has a byte for each of them.
        let asked = unsafe { libc::mincore(page as *mut libc::c_void, len, states.as_mut_ptr()) };
        let page_count = len / page_bytes;
        if asked != 0 || states[..page_count].iter().any(|state| state & 1 == 0) {
            return false;
        }
        page = page.wrapping_add(len);
        left -= len;
    }
    true
}

fn install_handler() -> io::Result<()> {
    static INSTALLED: OnceLock<Result<(), i32>> = OnceLock::new();
    let install = || {
        // SAFETY: asks for a number.
        let page_bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        PAGE_BYTES.store(
            usize::try_from(page_bytes).unwrap_or(4_096),
            Ordering::Relaxed,
        );
        let last_error = || io::Error::last_os_error().raw_os_error().unwrap_or(0);
        // SAFETY: all zeros is a valid `sigaction`.
        let mut previous: libc::sigaction = unsafe { std::mem::zeroed() };
        let mut ours = previous;
        // SAFETY: the call writes only the structure that it is given.
        if unsafe { libc::sigaction(libc::SIGBUS, ptr::null(), &mut previous) } != 0 {
            return Err(last_error());
        }
        PREVIOUS.get_or_init(|| previous);
        ours.sa_sigaction = handle as *const () as usize;
        // The alternate stack, which std gives its threads, is kept for what std handles: an overflow of the ordinary one.
        ours.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        // SAFETY: the call writes only the set that it is given.
        unsafe { libc::sigemptyset(&mut ours.sa_mask) };
        // SAFETY: the call reads only the structure that it is given, and the handler does nothing that a signal handler may not:
        // atomics, `mmap`, and the previous handler.
        if unsafe { libc::sigaction(libc::SIGBUS, &ours, ptr::null_mut()) } != 0 {
            return Err(last_error());
        }
        Ok(())
    };
    INSTALLED
        .get_or_init(install)
        .map_err(io::Error::from_raw_os_error)
}

/// Puts zeros where a mapped page is missing.
extern "C" fn handle(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid `info` to a handler with `SA_SIGINFO`.
    let info_ref = unsafe { &*info };
    // SAFETY: the kernel fills in the address of what raised `SIGBUS`, for which alone this handler is installed.
    let address = unsafe { info_ref.si_addr() } as usize;
    for guard in &GUARDS {
        let start = guard.start.load(Ordering::Acquire);
        let end = guard.end.load(Ordering::Relaxed);
        let page_bytes = PAGE_BYTES.load(Ordering::Relaxed);
        if start <= 1 || address < start || address >= end.next_multiple_of(page_bytes) {
            continue;
        }
        guard.is_broken.store(true, Ordering::Release);
        let page = address / page_bytes * page_bytes;
        // SAFETY: the page lies in a map of ours that is still there, since a look into it faulted; what replaces it is readable.
        let replaced = unsafe {
            libc::mmap(
                page as *mut libc::c_void,
                page_bytes,
                libc::PROT_READ,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED,
                -1,
                0,
            )
        };
        if replaced != libc::MAP_FAILED {
            return;
        }
    }
    pass_on(signal, info, context);
}

/// Not ours: does what would have been done without us.
fn pass_on(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let Some(previous) = PREVIOUS.get() else {
        return;
    };
    match previous.sa_sigaction {
        libc::SIG_DFL | libc::SIG_IGN => {
            // SAFETY: restores what was there; the faulting instruction runs again and meets it.
            unsafe { libc::sigaction(signal, previous, ptr::null_mut()) };
        }
        handler if previous.sa_flags & libc::SA_SIGINFO != 0 => {
            type Handler = extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void);
            // SAFETY: registered with `SA_SIGINFO`, so it is a function of this type.
            let handler = unsafe { std::mem::transmute::<usize, Handler>(handler) };
            handler(signal, info, context);
        }
        handler => {
            // SAFETY: registered without `SA_SIGINFO`, so it is a function of this type.
            let handler = unsafe { std::mem::transmute::<usize, extern "C" fn(i32)>(handler) };
            handler(signal);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsFd;

    use super::*;

    fn file_of(len: usize) -> File {
        let mut file = tempfile::tempfile().unwrap();
        let bytes: Vec<u8> = (0..len).map(|at| (at / 100) as u8).collect();
        file.write_all(&bytes).unwrap();
        file.sync_all().unwrap();
        file
    }

    #[test]
    fn resident_bytes_are_seen_and_others_are_not() {
        let file = file_of(1 << 20);
        let map = FileMap::new(file.as_fd(), 1 << 20).unwrap();
        assert_eq!(
            map.look(99_999, 3, <[u8]>::to_vec),
            Some(vec![231, 232, 232])
        );
        assert_eq!(map.look((1 << 20) - 1, 2, |_| ()), None);
        assert_eq!(map.look(u64::MAX, 2, |_| ()), None);
        drop(map);
        // SAFETY: takes numbers only.
        let code = unsafe {
            libc::posix_fadvise(
                std::os::fd::AsRawFd::as_raw_fd(&file),
                0,
                0,
                libc::POSIX_FADV_DONTNEED,
            )
        };
        assert_eq!(code, 0);
        let map = FileMap::new(file.as_fd(), 1 << 20).unwrap();
        let is_evicted = map.look(0, 1 << 20, |_| ()).is_none();
        // A temporary folder that is memory evicts nothing.
        let is_tmpfs = rustix::fs::fstatfs(&file).unwrap().f_type == 0x0102_1994;
        assert!(is_evicted || is_tmpfs);
    }

    #[test]
    fn a_file_that_is_cut_short_costs_its_map_and_nothing_else() {
        let (cut, whole) = (file_of(40_960), file_of(8_192));
        let map = FileMap::new(cut.as_fd(), 40_960).unwrap();
        let other = FileMap::new(whole.as_fd(), 8_192).unwrap();
        let sum = |bytes: &[u8]| bytes.iter().map(|&byte| u64::from(byte)).sum::<u64>();
        assert!(map.look(0, 40_960, sum).is_some());
        let looked = map.look(0, 40_960, |bytes| {
            // Gone between the question and the look.
            cut.set_len(4_096).unwrap();
            sum(bytes)
        });
        assert_eq!((looked, map.is_broken()), (None, true));
        assert_eq!(
            map.look(0, 100, sum),
            None,
            "a broken map is not used again"
        );
        assert!(other.look(0, 8_192, sum).is_some());
    }

    #[test]
    fn a_file_shorter_than_announced_is_not_mapped() {
        let file = file_of(4_096);
        assert!(FileMap::new(file.as_fd(), 4_097).is_err());
        assert!(FileMap::new(file.as_fd(), 0).is_err());
    }
}
