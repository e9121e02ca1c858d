//! Reproducible randomness: one seed decides the demo's file and its damage.
//!
//! SplitMix64 (Steele, Lea, Flood 2014), because its whole definition is three lines: a printed seed means the same
//! bytes in every release. Nothing here is fit for keys.

use std::io::{self, Read};

/// A stream of 64-bit numbers that a seed decides.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Numbers for `purpose`: different purposes of one seed are unrelated.
    pub fn new(seed: u64, purpose: &str) -> Self {
        // FNV-1a over the purpose, then one step to spread it.
        let mixed = purpose
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325 ^ seed, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
            });
        let mut random = Self(mixed);
        random.0 = random.next().wrapping_add(seed);
        random
    }

    /// The next number.
    #[expect(
        clippy::should_implement_trait,
        reason = "a generator that never ends needs no Option"
    )]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`. The bias of the multiplication is below 2^-32 for every bound used here.
    ///
    /// # Panics
    ///
    /// If `bound` is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        assert!(bound > 0, "nothing lies below 0");
        ((u128::from(self.next()) * bound as u128) >> 64) as usize
    }

    /// Fisher-Yates.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

/// `len` pseudo-random bytes as a reader, so that files and comparisons stream.
#[derive(Debug)]
pub struct RandomBytes {
    random: Random,
    remaining: u64,
    word: [u8; 8],
    word_used: usize,
}

impl RandomBytes {
    /// The content that `seed` stands for. A shorter file is a prefix of a longer one.
    pub fn new(seed: u64, len: u64) -> Self {
        Self {
            random: Random::new(seed, "content"),
            remaining: len,
            word: [0; 8],
            word_used: 8,
        }
    }
}

impl Read for RandomBytes {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        let len =
            usize::try_from(self.remaining).map_or(target.len(), |left| left.min(target.len()));
        let (head, tail) = {
            let target = &mut target[..len];
            let split = (8 - self.word_used).min(target.len());
            target.split_at_mut(split)
        };
        head.copy_from_slice(&self.word[self.word_used..self.word_used + head.len()]);
        self.word_used += head.len();
        let mut words = tail.chunks_exact_mut(8);
        for word in &mut words {
            word.copy_from_slice(&self.random.next().to_le_bytes());
        }
        let rest = words.into_remainder();
        if !rest.is_empty() {
            self.word = self.random.next().to_le_bytes();
            rest.copy_from_slice(&self.word[..rest.len()]);
            self.word_used = rest.len();
        }
        self.remaining -= len as u64;
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_means_the_same_numbers_in_every_release() {
        let mut random = Random::new(7, "content");
        let mut again = Random::new(7, "content");
        let mut other = Random::new(7, "damage");
        let first = random.next();
        assert_eq!(first, again.next());
        assert_ne!(first, other.next());
        assert_eq!(first, FIRST_OF_SEED_7);
    }

    const FIRST_OF_SEED_7: u64 = 16_619_555_713_876_743_945;

    #[test]
    fn content_does_not_depend_on_how_it_is_read() {
        let mut whole = Vec::new();
        RandomBytes::new(3, 1_000).read_to_end(&mut whole).unwrap();
        assert_eq!(whole.len(), 1_000);
        let mut reader = RandomBytes::new(3, 1_000);
        let mut pieces = Vec::new();
        for len in [1, 7, 8, 9, 3, 13, 100].iter().cycle() {
            let mut piece = vec![0; *len];
            let count = reader.read(&mut piece).unwrap();
            if count == 0 {
                break;
            }
            pieces.extend_from_slice(&piece[..count]);
        }
        assert_eq!(whole, pieces);
    }

    #[test]
    fn below_reaches_every_number_and_no_other() {
        let mut random = Random::new(1, "test");
        let mut seen = [0_u32; 7];
        for _ in 0..7_000 {
            seen[random.below(7)] += 1;
        }
        assert!(
            seen.iter().all(|&count| (800..1_200).contains(&count)),
            "{seen:?}"
        );
    }

    #[test]
    fn a_shuffle_keeps_every_item() {
        let mut items: Vec<u32> = (0..80).collect();
        Random::new(1, "test").shuffle(&mut items);
        assert_ne!(items, (0..80).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..80).collect::<Vec<_>>());
    }
}
