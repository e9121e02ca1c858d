//! Shares of one length, each where it would lie in a real program: at lines of cache, and at page offsets that differ.
//!
//! Shares that all begin at one page offset compete for the same cache sets, on both sides of a comparison.

/// Line of cache.
const LINE_BYTES: usize = 64;

/// Lines of a page.
const PAGE_LINES: usize = 64;

pub(super) struct Shares {
    rows: Vec<Row>,
    len: usize,
}

struct Row {
    bytes: Vec<u8>,
    start: usize,
}

impl Shares {
    /// `count` random shares of `len` bytes.
    pub(super) fn random(seed: u64, count: usize, len: usize) -> Self {
        let rows = (0..count).map(|index| {
            let mut hasher = blake3::Hasher::new();
            hasher
                .update(&seed.to_le_bytes())
                .update(&index.to_le_bytes());
            let mut bytes = vec![0; len + (PAGE_LINES + 1) * LINE_BYTES];
            // 37 is odd, so 64 shares in a row begin at 64 offsets from their allocation.
            let start = bytes.as_ptr().align_offset(LINE_BYTES);
            let start = start + index * 37 % PAGE_LINES * LINE_BYTES;
            // The share alone: what it holds must not depend on where the allocation lies.
            hasher.finalize_xof().fill(&mut bytes[start..][..len]);
            Row { bytes, start }
        });
        Self {
            rows: rows.collect(),
            len,
        }
    }

    pub(super) fn byte_count(&self) -> usize {
        self.rows.len() * self.len
    }

    pub(super) fn slices(&self) -> Vec<&[u8]> {
        let rows = self.rows.iter();
        rows.map(|row| &row.bytes[row.start..][..self.len])
            .collect()
    }

    pub(super) fn slices_mut(&mut self) -> Vec<&mut [u8]> {
        let rows = self.rows.iter_mut();
        rows.map(|row| &mut row.bytes[row.start..][..self.len])
            .collect()
    }

    pub(super) fn hash(&self) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        for share in self.slices() {
            hasher.update(share);
        }
        hasher.finalize()
    }
}
