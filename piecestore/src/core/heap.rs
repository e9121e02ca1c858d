//! One habit of the C library's allocator, changed: long runs of memory go back to the system when they are freed.
//!
//! After the first of them was freed glibc takes later ones from its heap, which it rarely gives back: buffers of pieces, 2 MiB each, then held
//! half as much memory again as was in use. What a thread wants to use again it keeps itself (`strand_blob::buffer`).
#![allow(unsafe_code, reason = "mallopt, which std does not have")]

/// Runs of this length and longer are mapped on their own.
#[cfg(target_env = "gnu")]
const MAPPED_BYTES_MIN: libc::c_int = 1 << 20;

/// For the whole process. Nothing changes where the C library is another.
pub(super) fn give_long_runs_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the call takes numbers, and the allocator locks what it changes.
    let _is_taken = unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_BYTES_MIN) };
}
