//! Byte buffers that go back to a store when dropped.
//!
//! A full segment needs some 150 MB of recovery shares or 70 MB of pieces. Fresh memory of that
//! size costs a page fault for every 4 KiB each time; a buffer that was used before costs nothing.
//! A store grows to what was in use at once and no further.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};

/// Buffers not in use.
#[derive(Debug, Default)]
pub(crate) struct BufferStore {
    free: Mutex<Vec<Vec<u8>>>,
}

/// A buffer in use. Its content is whatever it held before: who borrows it overwrites all of it.
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    store: Arc<BufferStore>,
}

impl BufferStore {
    pub(crate) fn lend(self: &Arc<Self>, len: usize) -> Buffer {
        let spare = self
            .free
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop();
        let bytes = match spare {
            Some(mut bytes) if bytes.capacity() >= len => {
                // Zeros are written only beyond what it held before.
                bytes.resize(len, 0);
                bytes
            }
            // Zeroed pages come from the kernel as they are touched; nothing is written here.
            _ => vec![0; len],
        };
        Buffer {
            bytes,
            store: self.clone(),
        }
    }

    #[cfg(test)]
    pub(crate) fn free_count(&self) -> usize {
        self.free
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .len()
    }
}

impl Buffer {
    /// Makes it at least so long.
    pub(crate) fn reserve(&mut self, len: usize) {
        if self.bytes.len() < len {
            self.bytes.resize(len, 0);
        }
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        self.store
            .free
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(bytes);
    }
}
