//! Copying and checking bytes in one pass from memory: what is copied is checked while it is in the first cache, and what comes next is
//! fetched meanwhile.
//!
//! A copy and a CRC of their own would each wait for memory; two passes over a body take 1.5 times as long as this one.
//! This is one of the crate's two modules with `unsafe`: an instruction that touches nothing. Nothing here is on disk.
#![allow(
    unsafe_code,
    reason = "the instruction that fetches memory ahead has no safe form"
)]

/// Bytes that are copied, then checked.
const PART_BYTES: usize = 1_024;

/// How far ahead of them memory is fetched. Both were the best of several on a Xeon of 2019.
const AHEAD_BYTES: usize = 4_096;

/// Unit in which memory is fetched.
#[cfg(target_arch = "x86_64")]
const LINE_BYTES: usize = 64;

/// Fills `target` with the first bytes of `source`; the CRC-32 of what is in `target` then. What of `source` is longer is fetched ahead.
///
/// # Panics
///
/// If `source` is shorter than `target`.
pub(crate) fn copy_and_check(source: &[u8], target: &mut [u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    let mut rest = source;
    for part in target.chunks_mut(PART_BYTES) {
        fetch(rest.get(AHEAD_BYTES..).unwrap_or_default());
        let (now, later) = rest.split_at(part.len());
        part.copy_from_slice(now);
        // Of the copy: another process may be changing what a map shows.
        hasher.update(part);
        rest = later;
    }
    hasher.finalize()
}

/// Asks for the first part of `bytes` to come into the cache.
fn fetch(bytes: &[u8]) {
    #[cfg(target_arch = "x86_64")]
    for line in bytes[..bytes.len().min(PART_BYTES)].chunks(LINE_BYTES) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: the address is that of a slice's byte, and the instruction neither reads nor faults. Every x86-64 has it.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = bytes;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_and_checks_what_two_passes_would() {
        let source: Vec<u8> = (0..70_000_u32).map(|at| (at * 7 % 251) as u8).collect();
        for len in [0, 1, 63, 1_023, 1_024, 1_025, 16_384, 65_536, 70_000] {
            let mut target = vec![0; len];
            let crc = copy_and_check(&source, &mut target);
            assert!(target == source[..len], "{len}");
            assert_eq!(crc, crc32fast::hash(&source[..len]), "{len}");
        }
    }
}
