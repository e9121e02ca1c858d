//! The pieces: random keys, and bodies out of a pool as large as the one that Strand's own bench uses.

/// What a piece is put under.
pub(crate) type Key = [u8; 32];

/// Bodies of a pool: not more than 48 MiB, nor more than 256.
const POOL_BYTES_MAX: usize = 48 << 20;
const POOL_COUNT_MAX: usize = 256;

/// An endless supply.
pub(crate) struct Work {
    bodies: Vec<Vec<u8>>,
    random: Random,
    next: usize,
}

/// SplitMix64 (Steele, Lea, Flood 2014).
struct Random(u64);

impl Work {
    pub(crate) fn new(body_len: usize) -> Self {
        let count = (POOL_BYTES_MAX / body_len).clamp(1, POOL_COUNT_MAX);
        let mut random = Random(body_len as u64);
        let bodies = (0..count).map(|_| random.bytes(body_len)).collect();
        Self {
            bodies,
            random,
            next: 0,
        }
    }

    pub(crate) fn batch(&mut self, count: usize) -> Vec<(Key, &[u8])> {
        let first = self.next;
        self.next += count;
        (first..self.next)
            .map(|number| {
                let mut key = [0; 32];
                key.copy_from_slice(&self.random.bytes(32));
                let body = &self.bodies[number % self.bodies.len()];
                (key, body.as_slice())
            })
            .collect()
    }
}

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        for word in bytes.chunks_mut(8) {
            word.copy_from_slice(&self.next().to_le_bytes()[..word.len()]);
        }
        bytes
    }
}
