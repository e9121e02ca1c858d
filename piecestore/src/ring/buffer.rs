//! The buffers the kernel receives datagrams into: one ring of them for all sockets of a core.
//!
//! A multishot receive takes a free buffer by itself and names it in its completion. A long train
//! is handed on in the memory that the kernel filled, and other memory is provided in its place; a
//! short one, which would hold many times its length alive, is copied. Memory that was handed on comes back once
//! all of its datagrams were read. Plain buffers, each used whole: incremental consumption
//! (`IOU_PBUF_RING_INC`) breaks multishot recvmsg. One buffer holds the largest GRO train with
//! its address and control messages.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use bytes::BytesMut;
use io_uring::Submitter;
use io_uring::types::BufRingEntry;

use super::message::RECEIVE_HEADER_BYTES;

/// Largest UDP payload, hence the largest GRO train.
const TRAIN_BYTES_MAX: usize = 65_535;
/// Length of a buffer: train and header, in whole cache lines.
pub(super) const BUFFER_BYTES: usize =
    (RECEIVE_HEADER_BYTES + TRAIN_BYTES_MAX).next_multiple_of(64);
/// A train of so many bytes is handed on as it lies: it holds at most twice its length.
const HANDED_ON_BYTES_MIN: usize = BUFFER_BYTES / 2;
/// Handed on and waited for at most; what is out longer is not used again.
const LENT_MAX: usize = 64;
/// Of those, looked at for one that is free again, in turn.
const LENT_LOOKED_AT: usize = 4;
/// The group under which receives find these buffers.
pub(super) const BUFFER_GROUP: u16 = 0;

const PAGE_BYTES: usize = 4_096;

/// See the module's head.
pub(super) struct ProvidedBuffers {
    entries: NonNull<BufRingEntry>,
    /// By id; empty, with room for [`BUFFER_BYTES`], of which the kernel fills those that are provided.
    memory: Vec<BytesMut>,
    /// Ends of buffers that were handed on: through them the memory can be had back.
    lent: VecDeque<BytesMut>,
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
        let mut buffers = Self {
            entries: entries.cast(),
            memory: (0..count).map(|_| room()).collect(),
            lent: VecDeque::new(),
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
        assert!(len <= BUFFER_BYTES, "buffer {id} of {len} bytes");
        let start = self.memory[usize::from(id)].as_ptr();
        // SAFETY: the memory has room for [`BUFFER_BYTES`], of which the kernel has filled `len`; it does not write
        // again before `provide(id)`, for which `&mut self` is needed.
        unsafe { std::slice::from_raw_parts(start, len) }
    }

    /// Those bytes of such a buffer, which is provided again.
    pub(super) fn take(&mut self, id: u16, bytes: Range<usize>) -> BytesMut {
        let taken = if bytes.len() < HANDED_ON_BYTES_MIN {
            BytesMut::from(&self.filled(id, bytes.end)[bytes])
        } else {
            let other = self.free_room();
            let mut whole = std::mem::replace(&mut self.memory[usize::from(id)], other);
            assert!(bytes.end <= whole.capacity(), "buffer {id} of {bytes:?}");
            // SAFETY: the kernel has filled the buffer up to there.
            unsafe { whole.set_len(bytes.end) };
            self.lent.push_back(whole.split_off(bytes.end));
            if self.lent.len() > LENT_MAX {
                self.lent.pop_front();
            }
            whole.split_off(bytes.start)
        };
        self.provide(id);
        taken
    }

    /// Memory that was handed on and is free again, or new one.
    fn free_room(&mut self) -> BytesMut {
        for _ in 0..LENT_LOOKED_AT.min(self.lent.len()) {
            let Some(mut lent) = self.lent.pop_front() else {
                break;
            };
            if lent.try_reclaim(BUFFER_BYTES) {
                return lent;
            }
            // It is looked at again when the others were.
            self.lent.push_back(lent);
        }
        room()
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
        let memory = &mut self.memory[usize::from(id)];
        assert!(
            memory.is_empty() && memory.capacity() >= BUFFER_BYTES,
            "buffer {id} has no room"
        );
        entry.set_addr(memory.spare_capacity_mut().as_mut_ptr() as u64);
        entry.set_len(BUFFER_BYTES as u32);
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
}

impl Drop for ProvidedBuffers {
    fn drop(&mut self) {
        // SAFETY: allocated in `register` with this layout; the ring was closed with nothing in
        // flight, so the kernel holds no address of it or of the buffers (see `Ring`).
        unsafe {
            dealloc(
                self.entries.as_ptr().cast(),
                Self::entries_layout(self.count),
            )
        };
    }
}

/// Memory of a buffer; the kernel touches it only as it is used.
fn room() -> BytesMut {
    BytesMut::with_capacity(BUFFER_BYTES)
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
