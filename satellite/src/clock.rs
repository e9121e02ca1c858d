//! The wall clock and the operating system's randomness: what `core` takes as arguments.

use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Random bytes, fetched from the system in blocks: a segment draws some hundreds of numbers.
pub(crate) fn random_source() -> impl FnMut(&mut [u8]) + Send {
    let mut block = [0; 1_024];
    let mut used = block.len();
    move |bytes: &mut [u8]| {
        for chunk in bytes.chunks_mut(block.len()) {
            if used + chunk.len() > block.len() {
                getrandom::fill(&mut block).expect("the operating system gives randomness");
                used = 0;
            }
            chunk.copy_from_slice(&block[used..used + chunk.len()]);
            used += chunk.len();
        }
    }
}

/// `N` random bytes.
pub(crate) fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the operating system gives randomness");
    bytes
}
