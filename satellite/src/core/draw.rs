//! Fair draws from random bytes that the caller brings.

/// A source of random bytes.
pub(crate) type Random<'a> = &'a mut dyn FnMut(&mut [u8]);

/// A number below `bound`, each with the same chance.
///
/// # Panics
///
/// If `bound` is 0.
pub(crate) fn below(random: Random<'_>, bound: usize) -> usize {
    assert!(bound > 0, "nothing to draw from");
    let bound = bound as u64;
    // Of the 2^64 values, the last incomplete run of `bound` would favour small results.
    let fair = u64::MAX - u64::MAX % bound;
    loop {
        let mut bytes = [0; 8];
        random(&mut bytes);
        let value = u64::from_le_bytes(bytes);
        if value < fair {
            return (value % bound) as usize;
        }
    }
}

/// Puts the items into a random order, all orders alike.
pub(crate) fn shuffle<T>(random: Random<'_>, items: &mut [T]) {
    for last in (1..items.len()).rev() {
        items.swap(last, below(random, last + 1));
    }
}

/// Random bytes of any length.
pub(crate) fn bytes<const N: usize>(random: Random<'_>) -> [u8; N] {
    let mut bytes = [0; N];
    random(&mut bytes);
    bytes
}

/// A source that gives the same bytes for the same seed (splitmix64): for tests.
#[cfg(test)]
pub(crate) fn seeded(mut state: u64) -> impl FnMut(&mut [u8]) {
    move |bytes| {
        for chunk in bytes.chunks_mut(8) {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = state;
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            mixed ^= mixed >> 31;
            chunk.copy_from_slice(&mixed.to_le_bytes()[..chunk.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_below_the_bound_comes_about_equally_often() {
        let mut random = seeded(1);
        let mut counts = [0_u32; 7];
        for _ in 0..7_000 {
            counts[below(&mut random, 7)] += 1;
        }
        assert!(
            counts.iter().all(|count| (850..1_150).contains(count)),
            "{counts:?}"
        );
    }

    #[test]
    fn a_shuffle_keeps_every_item() {
        let mut random = seeded(2);
        let mut items: Vec<u8> = (0..93).collect();
        shuffle(&mut random, &mut items);
        assert!(!items.is_sorted());
        items.sort_unstable();
        assert!(items.into_iter().eq(0..93));
    }
}
