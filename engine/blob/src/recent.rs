//! Which records were read lately: what is read a second time is worth memory.
//!
//! A small table of tags that forgets: eight places for each of 4,096 buckets, the oldest going first. A tag may be another record's, which
//! costs some memory of the page cache.

use crate::index::Place;

const BUCKET_COUNT: usize = 4_096;
const BUCKET_LEN: usize = 8;

/// Tags of the records read last, 64 KiB once there are any.
#[derive(Debug, Default)]
pub(crate) struct RecentReads {
    /// Latest first; 0: none. Empty until the first read.
    buckets: Vec<[u16; BUCKET_LEN]>,
}

impl RecentReads {
    /// Notes a read; whether the same record was read lately.
    pub(crate) fn note(&mut self, place: Place) -> bool {
        if self.buckets.is_empty() {
            self.buckets = vec![[0; BUCKET_LEN]; BUCKET_COUNT];
        }
        let hash = mix(u64::from(place.slot) << 32 ^ place.offset);
        let tag = (hash >> 48) as u16 | 1;
        let bucket = &mut self.buckets[hash as usize % BUCKET_COUNT];
        let known = bucket.iter().position(|&other| other == tag);
        let last = known.unwrap_or(BUCKET_LEN - 1);
        bucket.copy_within(..last, 1);
        bucket[0] = tag;
        known.is_some()
    }
}

/// The finalizer of SplitMix64 (Steele, Lea and Flood, 2014).
fn mix(value: u64) -> u64 {
    let mut mixed = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(number: u64) -> Place {
        Place {
            slot: (number % 7) as u32,
            offset: 64 * number,
        }
    }

    #[test]
    fn a_second_read_is_known_and_old_ones_are_forgotten() {
        let mut recent = RecentReads::default();
        let count = 16_000;
        let known = (0..count)
            .filter(|&number| recent.note(place(number)))
            .count();
        assert!(known < 40, "{known} strangers were taken for known");
        let known = (0..count)
            .filter(|&number| recent.note(place(number)))
            .count();
        assert!(known > 15_000, "only {known} of {count} are known again");
        for number in count..count + 200_000 {
            recent.note(place(number));
        }
        let known = (0..count)
            .filter(|&number| recent.note(place(number)))
            .count();
        assert!(known < 200, "{known} are known for ever");
    }
}
