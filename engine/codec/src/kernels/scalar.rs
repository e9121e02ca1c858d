//! The portable tier: shifts, masks and exclusive or on words of eight bytes.
//!
//! A product is eight additions: where bit `i` of a byte is set, the coefficient's image of bit
//! `i`. The masks "bit `i` is set" are made once for a piece of a source row and serve all target
//! rows. Compilers turn the loops over words into vectors where there are any; nothing depends
//! on a byte's value, so neither does the time.

use super::{Images, ROW_STEP};
use crate::field::FOLD;

/// The sums are in memory, so no need for groups.
pub(super) const GROUP_ROWS_MAX: usize = usize::MAX;

/// One bit of each byte of a word.
const ONES: u64 = 0x0101_0101_0101_0101;

const WORDS: usize = ROW_STEP / 8;

pub(super) fn multiply(
    coefficients: &[Images],
    row_count: usize,
    row_len: usize,
    source: &[u8],
    target: &mut [u8],
) {
    for start in (0..row_len).step_by(ROW_STEP) {
        let step = start..start + ROW_STEP;
        for target in target.chunks_exact_mut(row_len) {
            target[step.clone()].fill(0);
        }
        let columns = coefficients.chunks_exact(row_count);
        for (column, source) in columns.zip(source.chunks_exact(row_len)) {
            let masks = masks(&source[step.clone()]);
            for (images, target) in column.iter().zip(target.chunks_exact_mut(row_len)) {
                add_product(images, &masks, &mut target[step.clone()]);
            }
        }
    }
}

/// For each bit: all ones in the bytes that have it.
fn masks(bytes: &[u8]) -> [[u64; WORDS]; 8] {
    let mut masks = [[0; WORDS]; 8];
    let (words, _) = bytes.as_chunks::<8>();
    for (bit, masks) in masks.iter_mut().enumerate() {
        for (mask, word) in masks.iter_mut().zip(words) {
            *mask = spread(u64::from_le_bytes(*word) >> bit & ONES);
        }
    }
    masks
}

/// 1 becomes 255 in each byte: `256 x - x`, where no byte borrows from the next.
fn spread(ones: u64) -> u64 {
    (ones << 8).wrapping_sub(ones)
}

fn add_product(images: &Images, masks: &[[u64; WORDS]; 8], target: &mut [u8]) {
    let mut sum = [0; WORDS];
    for (image, masks) in images.iter().zip(masks) {
        let image = u64::from(*image) * ONES;
        for (sum, mask) in sum.iter_mut().zip(masks) {
            *sum ^= mask & image;
        }
    }
    let (target, _) = target.as_chunks_mut::<8>();
    for (target, sum) in target.iter_mut().zip(sum) {
        *target = (u64::from_le_bytes(*target) ^ sum).to_le_bytes();
    }
}

pub(super) fn split(share: &[u8], low: &mut [u8], high: &mut [u8]) {
    let (columns, _) = share.as_chunks::<64>();
    let halves = low.chunks_exact_mut(32).zip(high.chunks_exact_mut(32));
    for (column, (low, high)) in columns.iter().zip(halves) {
        high.copy_from_slice(&column[32..]);
        folded(&column[..32], high, low);
    }
}

pub(super) fn join(low: &[u8], high: &[u8], share: &mut [u8]) {
    let (columns, _) = share.as_chunks_mut::<64>();
    let halves = low.chunks_exact(32).zip(high.chunks_exact(32));
    for (column, (low, high)) in columns.iter_mut().zip(halves) {
        column[32..].copy_from_slice(high);
        folded(low, high, &mut column[..32]);
    }
}

/// `target = low + fold(high)`.
fn folded(low: &[u8], high: &[u8], target: &mut [u8]) {
    let (low, _) = low.as_chunks::<8>();
    let (high, _) = high.as_chunks::<8>();
    let (target, _) = target.as_chunks_mut::<8>();
    for ((low, high), target) in low.iter().zip(high).zip(target) {
        let high = u64::from_le_bytes(*high);
        let mut sum = u64::from_le_bytes(*low);
        for (bit, image) in FOLD.into_iter().enumerate() {
            sum ^= spread(high >> bit & ONES) & (u64::from(image) * ONES);
        }
        *target = sum.to_le_bytes();
    }
}
