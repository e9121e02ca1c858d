//! The buffers the kernel receives datagrams into: one ring of them for all sockets of a core.
//!
//! A multishot receive takes a free buffer by itself and names it in its completion; we read it
//! and provide it again. Plain buffers, each used whole: incremental consumption
//! (`IOU_PBUF_RING_INC`) breaks multishot recvmsg. One buffer holds the largest GRO train with
//! its address and control messages.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::Submitter;
use io_uring::types::BufRingEntry;

use super::message::RECEIVE_HEADER_BYTES;

/// Largest UDP payload, hence the largest GRO train.
const TRAIN_BYTES_MAX: usize = 65_535;
/// Distance between buffers; a multiple of the cache line that holds train and header.
pub(super) const BUFFER_STRIDE: usize =
    (RECEIVE_HEADER_BYTES + TRAIN_BYTES_MAX).next_multiple_of(64);
/// The group under which receives find these buffers.
pub(super) const BUFFER_GROUP: u16 = 0;

const PAGE_BYTES: usize = 4_096;

/// See the module's head.
pub(super) struct ProvidedBuffers {
    entries: NonNull<BufRingEntry>,
    memory: NonNull<u8>,
    count: u16,
    tail: u16,
    free_count: u16,
}

impl ProvidedBuffers {
    /// Allocates `count` buffers (a power of two), registers them and provides them all.
    ///
    /// The memory is touched only as buffers are used. Kernels that count the ring against the
    /// memory-lock limit count 16 bytes a buffer; the buffers themselves are not locked.
    pub(super) fn register(submitter: &Submitter<'_>, count: u16) -> io::Result<Self> {
        assert!(
            count.is_power_of_two(),
            "buffer count {count} is no power of two"
        );
        let entries = allocate(Self::entries_layout(count));
        let memory = allocate(Self::memory_layout(count));
        let mut buffers = Self {
            entries: entries.cast(),
            memory,
            count,
            tail: 0,
            free_count: 0,
        };
        // SAFETY: the entries are page-aligned, hold `count` of them, and live as long as the ring
        // they are registered with: `Ring` drops the ring first, and leaks both if anything flies.
        unsafe {
            submitter.register_buf_ring_with_flags(
                buffers.entries.as_ptr() as u64,
                count,
                BUFFER_GROUP,
                0,
            )
        }?;
        for id in 0..count {
            buffers.provide(id);
        }
        Ok(buffers)
    }

    /// Buffers the kernel may still fill.
    pub(super) fn free_count(&self) -> u16 {
        self.free_count
    }

    pub(super) fn count(&self) -> u16 {
        self.count
    }

    /// Records that the kernel has filled a buffer and handed it to us.
    pub(super) fn taken(&mut self) {
        self.free_count -= 1;
    }

    /// The first `len` bytes of a buffer that a completion named and that was not provided since.
    pub(super) fn filled(&self, id: u16, len: usize) -> &[u8] {
        assert!(
            id < self.count && len <= BUFFER_STRIDE,
            "buffer {id} of {len} bytes"
        );
        // SAFETY: `id` was asserted to name one of the `count` buffers of the allocation.
        let start = unsafe { self.memory.as_ptr().add(usize::from(id) * BUFFER_STRIDE) };
        // SAFETY: asserted to lie within that buffer, which was zeroed at birth and which the
        // kernel does not write again before `provide(id)`, for which `&mut self` is needed.
        unsafe { std::slice::from_raw_parts(start, len) }
    }

    /// Gives a buffer to the kernel to be filled.
    pub(super) fn provide(&mut self, id: u16) {
        assert!(id < self.count, "buffer {id} of {}", self.count);
        let index = usize::from(self.tail & (self.count - 1));
        // SAFETY: the index is masked to the ring, which holds `count` entries.
        let entry = unsafe { self.entries.as_ptr().add(index) };
        // SAFETY: entries were zeroed at birth, which is a value; the kernel reads them only before
        // the tail, which is moved past this one below.
        let entry = unsafe { &mut *entry };
        let address = self.memory.as_ptr() as u64 + (usize::from(id) * BUFFER_STRIDE) as u64;
        entry.set_addr(address);
        entry.set_len(BUFFER_STRIDE as u32);
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
        self.free_count += 1;
        // SAFETY: the pointer is to the first entry of a registered ring, as `tail` demands.
        let tail = unsafe { BufRingEntry::tail(self.entries.as_ptr()) };
        // SAFETY: `tail` points at an aligned u16 within our allocation that the kernel only reads.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        // Release: the kernel sees the entry before it sees the tail.
        tail.store(self.tail, Ordering::Release);
    }

    fn entries_layout(count: u16) -> Layout {
        layout(usize::from(count) * size_of::<BufRingEntry>())
    }

    fn memory_layout(count: u16) -> Layout {
        layout(usize::from(count) * BUFFER_STRIDE)
    }
}

impl Drop for ProvidedBuffers {
    fn drop(&mut self) {
        // SAFETY: allocated in `register` with this layout; the ring was closed with nothing in
        // flight, so the kernel holds no address of it (see `Ring`).
        unsafe { dealloc(self.memory.as_ptr(), Self::memory_layout(self.count)) };
        // SAFETY: as above.
        unsafe {
            dealloc(
                self.entries.as_ptr().cast(),
                Self::entries_layout(self.count),
            )
        };
    }
}

#[expect(
    clippy::expect_used,
    reason = "sizes are products of our own constants"
)]
fn layout(bytes: usize) -> Layout {
    Layout::from_size_align(bytes, PAGE_BYTES).expect("a few megabytes fit in isize")
}

fn allocate(layout: Layout) -> NonNull<u8> {
    // SAFETY: the layout is not empty: `count` is a power of two, so at least one.
    let start = unsafe { alloc_zeroed(layout) };
    NonNull::new(start).unwrap_or_else(|| handle_alloc_error(layout))
}
