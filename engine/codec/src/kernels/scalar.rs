//! The portable tier: shifts, masks and exclusive or on words of eight bytes.
//!
//! A product is eight additions: where bit `i` of a byte is set, the factor's image of bit `i`.
//! The masks "bit `i` is set" are made once for a column of a source and serve all target rows.
//! Compilers turn the loops over words into vectors where there are any; nothing depends on a
//! byte's value, so neither does the time.

use std::ops::Range;

use super::Images;
use crate::field::{B7_IMAGES, FOLD};

/// The sums are in memory, so no need for groups.
pub(super) const GROUP_ROWS_MAX: usize = usize::MAX;

/// One bit of each byte of a word.
const ONES: u64 = 0x0101_0101_0101_0101;

/// A column: four words of low bytes and four of high ones.
type Column = [u64; 8];

/// For each bit of a byte: all ones in the bytes that have it.
type Masks<const WORDS: usize> = [[u64; WORDS]; 8];

/// Overwrites the columns `range` of the targets; see [`Matrix`](super::Matrix).
pub(super) fn multiply(
    factors: &[Images],
    is_wide: bool,
    sources: &[&[u8]],
    targets: &mut [&mut [u8]],
    range: Range<usize>,
) {
    for start in range.step_by(64) {
        for target in targets.iter_mut() {
            target[start..start + 64].fill(0);
        }
        let mut factors = factors.chunks_exact(targets.len());
        for source in sources {
            let column = folded(words(&source[start..start + 64]));
            add_products(factors.next(), &column, targets, start);
            if is_wide {
                add_products(factors.next(), &times_b8(&column), targets, start);
            }
        }
        for target in targets.iter_mut() {
            let target = &mut target[start..start + 64];
            put(target, folded(words(target)));
        }
    }
}

fn add_products(
    factors: Option<&[Images]>,
    column: &Column,
    targets: &mut [&mut [u8]],
    start: usize,
) {
    let masks = masks(column);
    for (images, target) in factors.unwrap_or_default().iter().zip(targets) {
        let target = &mut target[start..start + 64];
        let mut sum = words(target);
        add_product(images, &masks, &mut sum);
        put(target, sum);
    }
}

fn words(bytes: &[u8]) -> Column {
    let mut column = [0; 8];
    let (words, _) = bytes.as_chunks::<8>();
    for (word, bytes) in column.iter_mut().zip(words) {
        *word = u64::from_le_bytes(*bytes);
    }
    column
}

fn put(target: &mut [u8], column: Column) {
    let (target, _) = target.as_chunks_mut::<8>();
    for (target, word) in target.iter_mut().zip(column) {
        *target = word.to_le_bytes();
    }
}

fn masks<const WORDS: usize>(words: &[u64; WORDS]) -> Masks<WORDS> {
    let mut masks = [[0; WORDS]; 8];
    for (bit, masks) in masks.iter_mut().enumerate() {
        for (mask, word) in masks.iter_mut().zip(words) {
            *mask = spread(word >> bit & ONES);
        }
    }
    masks
}

/// 1 becomes 255 in each byte: `256 x - x`, where no byte borrows from the next.
fn spread(ones: u64) -> u64 {
    (ones << 8).wrapping_sub(ones)
}

fn add_product<const WORDS: usize>(images: &Images, masks: &Masks<WORDS>, sum: &mut [u64; WORDS]) {
    for (image, masks) in images.iter().zip(masks) {
        let image = u64::from(*image) * ONES;
        for (sum, mask) in sum.iter_mut().zip(masks) {
            *sum ^= mask & image;
        }
    }
}

/// Folds a column, or unfolds it: low bytes plus the fold of the high ones.
fn folded(column: Column) -> Column {
    let [a, b, c, d, high @ ..] = column;
    let mut low = [a, b, c, d];
    add_product(&FOLD, &masks::<4>(&high), &mut low);
    joined(low, high)
}

/// `(u + v b_8) b_8 = b_7 v + (u + v) b_8`.
fn times_b8(column: &Column) -> Column {
    let [a, b, c, d, high @ ..] = *column;
    let mut low = [0; 4];
    add_product(&B7_IMAGES, &masks::<4>(&high), &mut low);
    let [e, f, g, h] = high;
    joined(low, [a ^ e, b ^ f, c ^ g, d ^ h])
}

fn joined(low: [u64; 4], high: [u64; 4]) -> Column {
    let [a, b, c, d] = low;
    let [e, f, g, h] = high;
    [a, b, c, d, e, f, g, h]
}
