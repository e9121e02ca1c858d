//! Inputs and output hashes that all micro-benchmarks share.
//!
//! A benchmark has a seeded input, so that its output is known, and prints the output's hash
//! beside its speed: code that is fast because it is wrong shows. `cargo bench -p
//! strand-benches` measures; `cargo test` runs every benchmark once and so keeps them honest.

/// Bytes that look random and depend on the seed only.
pub fn random_bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new()
        .update(&seed.to_le_bytes())
        .finalize_xof()
        .fill(&mut bytes);
    bytes
}

/// Equally long buffers at changing page offsets, as network and disk leave them.
///
/// Buffers that all begin at one page offset compete for the same cache sets, which no real
/// caller does.
pub struct Buffers {
    bytes: Vec<u8>,
    starts: Vec<usize>,
    len: usize,
}

impl Buffers {
    /// `count` random buffers of `len` bytes each.
    pub fn random(seed: u64, count: usize, len: usize) -> Self {
        const PAGE_BYTES: usize = 4_096;
        // 37 is odd, so 64 buffers in a row begin at 64 offsets.
        let starts: Vec<usize> = (0..count)
            .map(|i| i * (len + PAGE_BYTES) + i * 37 % 64 * 64)
            .collect();
        Self {
            bytes: random_bytes(seed, count * (len + PAGE_BYTES)),
            starts,
            len,
        }
    }

    /// All buffers, to read.
    pub fn slices(&self) -> Vec<&[u8]> {
        self.starts
            .iter()
            .map(|&start| &self.bytes[start..start + self.len])
            .collect()
    }

    /// All buffers, to write.
    pub fn slices_mut(&mut self) -> Vec<&mut [u8]> {
        let mut rest = self.bytes.as_mut_slice();
        let mut end = 0;
        let mut slices = Vec::with_capacity(self.starts.len());
        for &start in &self.starts {
            let (slice, after) = rest[start - end..].split_at_mut(self.len);
            slices.push(slice);
            rest = after;
            end = start + self.len;
        }
        slices
    }
}

/// Prints the hash of an output under its benchmark's name and returns it.
pub fn report_output<'a>(name: &str, output: impl IntoIterator<Item = &'a [u8]>) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    output.into_iter().for_each(|bytes| {
        hasher.update(bytes);
    });
    let hash = hasher.finalize();
    println!("output of {name}: {}", &hash.to_hex()[..16]);
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_do_not_overlap_and_begin_at_many_page_offsets() {
        let mut buffers = Buffers::random(1, 93, 16_384);
        for (i, slice) in buffers.slices_mut().into_iter().enumerate() {
            slice.fill(i as u8);
        }
        let mut offsets = Vec::new();
        for (i, slice) in buffers.slices().into_iter().enumerate() {
            assert!(slice.len() == 16_384 && slice.iter().all(|&byte| byte == i as u8));
            offsets.push(slice.as_ptr() as usize % 4_096);
        }
        offsets.sort_unstable();
        offsets.dedup();
        assert!(offsets.len() >= 60, "{} page offsets", offsets.len());
    }
}
