//! Aligned runs of memory that Direct I/O can read into and write from, used again and again.
//!
//! What stays true: address and length are multiples of [`BLOCK_BYTES`], every byte was initialised (zero at its
//! birth), and one value owns the memory. An operation in flight owns its buffer and hands it back with the result, so
//! the kernel never writes into memory that someone else can see.
//!
//! A thread keeps what its buffers leave behind, up to [`KEPT_BYTES_MAX`]: fresh memory costs a page fault and
//! a page of zeros for every 4 KiB, a seventh of a node's time while it takes pieces in. Oldest memory goes first.
//!
//! One of the crate's two modules with `unsafe`. Nothing here is on disk, so nothing here is frozen.
#![allow(
    unsafe_code,
    reason = "owns an aligned allocation, which safe std collections cannot"
)]

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::mem;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use crate::layout::BLOCK_BYTES;

/// Bytes that a thread keeps for its next buffers.
pub const KEPT_BYTES_MAX: usize = 12 << 20;

/// How many runs of memory these are at most: a bound for the search among them.
const KEPT_COUNT_MAX: usize = 128;

thread_local! {
    static KEPT: RefCell<Kept> = const { RefCell::new(Kept { memory: VecDeque::new(), bytes: 0 }) };
}

/// Memory of a multiple of 4,096 bytes at a multiple of 4,096.
pub struct IoBuffer {
    memory: Memory,
    /// Bytes in use: a multiple of 4,096 and at most the memory's.
    len: usize,
}

/// An aligned allocation, all of it initialised.
struct Memory {
    start: NonNull<u8>,
    /// A multiple of 4,096. 0 after it was moved out: then nothing is owned.
    capacity: usize,
}

/// Memory without a user, oldest first.
struct Kept {
    memory: VecDeque<Memory>,
    bytes: usize,
}

impl IoBuffer {
    /// `len` bytes, rounded up to whole blocks (at least one), all zero.
    ///
    /// # Panics
    ///
    /// If `len` exceeds `isize::MAX` less a block. Aborts if memory is out, as `Vec` does.
    #[must_use]
    pub fn zeroed(len: usize) -> Self {
        let len = blocks(len);
        Self {
            memory: Memory::zeroed(len),
            len,
        }
    }

    /// `len` bytes, rounded up to whole blocks (at least one), that hold whatever an earlier buffer of this
    /// thread held: for who overwrites all that is looked at afterwards.
    ///
    /// Builds with debug assertions fill them with `0xA5`, so that tests see who does not.
    ///
    /// # Panics
    ///
    /// As [`zeroed`](Self::zeroed).
    #[must_use]
    pub fn for_overwriting(len: usize) -> Self {
        let len = blocks(len);
        let kept = KEPT.try_with(|kept| kept.borrow_mut().take(len));
        let memory = kept.ok().flatten().unwrap_or_else(|| Memory::zeroed(len));
        let mut buffer = Self { memory, len };
        if cfg!(debug_assertions) {
            buffer.fill(0xA5);
        }
        buffer
    }

    /// First byte, for a ring or a system call. Valid for [`len`](Self::len) bytes while `self` lives unmoved or moved:
    /// the allocation stays where it is.
    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        self.memory.start.as_ptr()
    }

    /// Bytes in the buffer: a multiple of 4,096, never 0.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a buffer is never empty")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Zeroes everything from `from` on, so that no old bytes follow what is written.
    ///
    /// # Panics
    ///
    /// If `from` is beyond the end.
    pub fn zero_from(&mut self, from: usize) {
        self[from..].fill(0);
    }
}

fn blocks(len: usize) -> usize {
    len.max(1).next_multiple_of(BLOCK_BYTES)
}

impl Memory {
    fn zeroed(capacity: usize) -> Self {
        let layout = Self::layout(capacity);
        // SAFETY: `layout` has a non-zero size: `blocks` gives at least one block.
        let start = unsafe { alloc_zeroed(layout) };
        let Some(start) = NonNull::new(start) else {
            handle_alloc_error(layout)
        };
        Self { start, capacity }
    }

    #[expect(
        clippy::expect_used,
        reason = "documented panic: no caller can use such a length"
    )]
    fn layout(capacity: usize) -> Layout {
        Layout::from_size_align(capacity, BLOCK_BYTES).expect("a buffer length fits in isize")
    }

    /// Moves the memory out; what is left owns nothing.
    fn take(&mut self) -> Self {
        Self {
            start: self.start,
            capacity: mem::take(&mut self.capacity),
        }
    }
}

impl Kept {
    /// Memory for `len` bytes, of up to twice that, the latest first: it is most likely in the cache.
    fn take(&mut self, len: usize) -> Option<Memory> {
        let fits = |memory: &Memory| (len..=2 * len).contains(&memory.capacity);
        let at = self.memory.iter().rposition(fits)?;
        let memory = self.memory.remove(at)?;
        self.bytes -= memory.capacity;
        Some(memory)
    }

    fn keep(&mut self, memory: Memory) {
        self.bytes += memory.capacity;
        self.memory.push_back(memory);
        while self.bytes > KEPT_BYTES_MAX || self.memory.len() > KEPT_COUNT_MAX {
            let Some(oldest) = self.memory.pop_front() else {
                break;
            };
            self.bytes -= oldest.capacity;
        }
    }
}

impl Drop for IoBuffer {
    fn drop(&mut self) {
        let memory = self.memory.take();
        // Fails while a thread ends; its memory is freed then.
        let _is_kept = KEPT.try_with(|kept| kept.borrow_mut().keep(memory));
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if self.capacity > 0 {
            // SAFETY: `zeroed` allocated `start` with exactly this layout; whoever moved it out left 0 behind.
            unsafe { dealloc(self.start.as_ptr(), Self::layout(self.capacity)) }
        }
    }
}

impl Deref for IoBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the memory holds `len` initialised bytes or more from `start`, and `&self` forbids writes meanwhile.
        unsafe { std::slice::from_raw_parts(self.memory.start.as_ptr(), self.len) }
    }
}

impl DerefMut for IoBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: the memory holds `len` initialised bytes or more from `start`, and `&mut self` makes this the only access.
        unsafe { std::slice::from_raw_parts_mut(self.memory.start.as_ptr(), self.len) }
    }
}

impl AsRef<[u8]> for IoBuffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

// SAFETY: a `Memory` owns its allocation alone, as `Box<[u8]>` does; it is kept by whichever thread drops its user.
unsafe impl Send for Memory {}

// SAFETY: `&Memory` gives access to no byte; through an `IoBuffer` all writes need `&mut`.
unsafe impl Sync for Memory {}

impl fmt::Debug for IoBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IoBuffer")
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_zeroed_and_whole_blocks() {
        for wanted in [0, 1, 4_095, 4_096, 4_097, 1 << 20] {
            let mut buffer = IoBuffer::zeroed(wanted);
            assert_eq!(buffer.as_mut_ptr() as usize % BLOCK_BYTES, 0);
            assert_eq!(buffer.len() % BLOCK_BYTES, 0);
            assert!(buffer.len() >= wanted.max(1));
            assert!(buffer.iter().all(|&byte| byte == 0));
        }
    }

    #[test]
    fn memory_is_used_again_for_what_fits_it() {
        let mut first = IoBuffer::zeroed(100_000);
        let start = first.as_mut_ptr();
        first.fill(7);
        drop(first);
        let mut small = IoBuffer::for_overwriting(40_000);
        assert_ne!(small.as_mut_ptr(), start, "more than twice what is needed");
        let mut second = IoBuffer::for_overwriting(90_000);
        assert_eq!(second.as_mut_ptr(), start);
        assert_eq!(second.len(), 90_112);
        assert!(second.iter().all(|&byte| byte == 0xA5), "old bytes show");
    }

    #[test]
    fn a_thread_keeps_no_more_than_it_may() {
        let held: Vec<_> = (0..40).map(|_| IoBuffer::zeroed(1 << 20)).collect();
        drop(held);
        KEPT.with_borrow(|kept| assert_eq!((kept.bytes, kept.memory.len()), (12 << 20, 12)));
        let held: Vec<_> = (0..500).map(|_| IoBuffer::zeroed(1)).collect();
        drop(held);
        KEPT.with_borrow(|kept| {
            assert_eq!(kept.memory.len(), KEPT_COUNT_MAX);
            let bytes: usize = kept.memory.iter().map(|memory| memory.capacity).sum();
            assert_eq!(kept.bytes, bytes);
        });
    }

    #[test]
    fn zero_from_clears_the_tail_only() {
        let mut buffer = IoBuffer::zeroed(1);
        buffer.fill(7);
        buffer.zero_from(100);
        assert!(buffer[..100].iter().all(|&byte| byte == 7));
        assert!(buffer[100..].iter().all(|&byte| byte == 0));
    }
}
