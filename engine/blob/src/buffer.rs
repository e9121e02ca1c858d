//! One aligned, zeroed run of memory that Direct I/O can read into and write from.
//!
//! What stays true: the address and the length are multiples of [`BLOCK_BYTES`], every byte was
//! initialised (zero at birth), and one value owns the memory. An operation in flight owns its buffer and hands
//! it back with the result, so the kernel never writes into memory that someone else can see.
//!
//! This is the crate's only `unsafe`. Nothing here is on disk, so nothing here is frozen.
#![allow(
    unsafe_code,
    reason = "owns an aligned allocation, which safe std collections cannot"
)]

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use crate::layout::BLOCK_BYTES;

/// Memory of a multiple of 4,096 bytes at a multiple of 4,096, zeroed at birth.
pub struct IoBuffer {
    start: NonNull<u8>,
    len: usize,
}

impl IoBuffer {
    /// Allocates `len` bytes, rounded up to whole blocks (at least one), all zero.
    ///
    /// # Panics
    ///
    /// If `len` exceeds `isize::MAX` less a block. Aborts if memory is out, as `Vec` does.
    #[must_use]
    pub fn zeroed(len: usize) -> Self {
        let layout = Self::layout(len.max(1).next_multiple_of(BLOCK_BYTES));
        // SAFETY: `layout` has a non-zero size: at least one block, by the line above.
        let start = unsafe { alloc_zeroed(layout) };
        let Some(start) = NonNull::new(start) else {
            handle_alloc_error(layout)
        };
        Self {
            start,
            len: layout.size(),
        }
    }

    /// First byte, for a ring or a system call. Valid for [`len`](Self::len) bytes while `self` lives unmoved or moved:
    /// the allocation stays where it is.
    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        self.start.as_ptr()
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

    #[expect(
        clippy::expect_used,
        reason = "documented panic: no caller can use such a length"
    )]
    fn layout(len: usize) -> Layout {
        Layout::from_size_align(len, BLOCK_BYTES).expect("a buffer length fits in isize")
    }
}

impl Deref for IoBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `zeroed` allocated `len` initialised bytes at `start`, and `&self` forbids writes meanwhile.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for IoBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: `zeroed` allocated `len` initialised bytes at `start`, and `&mut self` makes this the only access.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl AsRef<[u8]> for IoBuffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Drop for IoBuffer {
    fn drop(&mut self) {
        // SAFETY: `zeroed` allocated `start` with exactly this layout, and drop runs once.
        unsafe { dealloc(self.start.as_ptr(), Self::layout(self.len)) }
    }
}

// SAFETY: an `IoBuffer` owns its memory alone, as `Box<[u8]>` does; no thread-bound state is attached.
unsafe impl Send for IoBuffer {}

// SAFETY: `&IoBuffer` gives only `&[u8]`; all writes need `&mut`.
unsafe impl Sync for IoBuffer {}

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
    fn zero_from_clears_the_tail_only() {
        let mut buffer = IoBuffer::zeroed(1);
        buffer.fill(7);
        buffer.zero_from(100);
        assert!(buffer[..100].iter().all(|&byte| byte == 7));
        assert!(buffer[100..].iter().all(|&byte| byte == 0));
    }
}
