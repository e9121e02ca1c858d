//! One battery for all tiers: each against sums of products in the field, and each other.

use super::*;
use crate::field::fold;

/// Bytes that look random, of a period that no width divides.
fn pattern(seed: usize, len: usize) -> Vec<u8> {
    let bytes: Vec<u8> = (0..251_usize)
        .map(|i| (((i + seed) * (i + 77 * seed + 1) * 40_503) >> 5) as u8)
        .collect();
    (0..len).map(|i| bytes[i % 251]).collect()
}

/// The head's formula, byte by byte.
fn naive(coefficients: &[u8], row_len: usize, source: &[u8]) -> Vec<u8> {
    let field = Field::new();
    let column_count = source.len() / row_len;
    let mut target = Vec::new();
    for row in coefficients.chunks(column_count) {
        for byte in 0..row_len {
            let terms = row.iter().zip(source.chunks(row_len));
            let products = terms.map(|(factor, row)| field.mul_bytes(*factor, row[byte]));
            target.push(products.fold(0, |sum, product| sum ^ product));
        }
    }
    target
}

fn check_product(row_count: usize, column_count: usize, row_len: usize) {
    // Zero and one are among the coefficients.
    let mut coefficients = pattern(row_count, row_count * column_count);
    coefficients[0] = 0;
    let last = coefficients.len() - 1;
    coefficients[last] = 1;
    let source = pattern(column_count, column_count * row_len);
    let expected = naive(&coefficients, row_len, &source);
    for level in Level::available() {
        let matrix = Matrix::new(level, column_count, &coefficients);
        let mut target = vec![0x5a; row_count * row_len];
        matrix.apply(row_len, &source, &mut target);
        assert!(
            target == expected,
            "{level}, {row_count} x {column_count}, {row_len} bytes"
        );
    }
}

#[test]
fn products_are_sums_of_products() {
    // Every width of a group in every tier, and two and three groups.
    for row_count in (1..=19).chain([24, 29, 64]) {
        for column_count in [1, 2, 3, 29] {
            check_product(row_count, column_count, 64);
        }
    }
    for row_len in [64, 128, 192, 256, 576, 1_024] {
        check_product(5, 7, row_len);
        check_product(9, 4, row_len);
    }
    check_product(128, 128, 64);
}

#[test]
fn every_coefficient_multiplies_every_byte() {
    let source: Vec<u8> = (0..=255).collect();
    let coefficients: Vec<u8> = (0..=255).collect();
    let expected = naive(&coefficients, 256, &source);
    for level in Level::available() {
        let mut target = vec![0; 256 * 256];
        Matrix::new(level, 1, &coefficients).apply(256, &source, &mut target);
        assert!(target == expected, "{level}");
    }
}

#[test]
fn nothing_is_read_or_written_outside_of_the_rows() {
    for offset in 0..64 {
        let source = pattern(3, 64 + 3 * 192);
        let source = &source[offset..offset + 3 * 192];
        let coefficients = [2, 3, 5, 7, 11, 13];
        let expected = naive(&coefficients, 192, source);
        for level in Level::available() {
            let mut target = vec![0x5a; 64 + 2 * 192];
            let rows = offset..offset + 2 * 192;
            Matrix::new(level, 3, &coefficients).apply(192, source, &mut target[rows.clone()]);
            assert!(target[rows.clone()] == expected, "{level}, offset {offset}");
            assert!(target[..rows.start].iter().all(|&byte| byte == 0x5a));
            assert!(target[rows.end..].iter().all(|&byte| byte == 0x5a));
        }
    }
}

#[test]
fn shares_split_and_join() {
    for column_count in 0..20 {
        for offset in [0, 1, 31, 32, 63] {
            let bytes = pattern(column_count, offset + column_count * 64);
            let share = &bytes[offset..];
            for level in Level::available() {
                let mut low = vec![0x5a; share.len() / 2];
                let mut high = low.clone();
                split(level, share, &mut low, &mut high);
                for (i, (low, high)) in low.iter().zip(&high).enumerate() {
                    let symbol = i / 32 * 64 + i % 32;
                    assert_eq!(*high, share[symbol + 32], "{level}");
                    assert_eq!(*low, share[symbol] ^ fold(*high), "{level}");
                }
                let mut joined = vec![0x5a; offset + share.len()];
                join(level, &low, &high, &mut joined[offset..]);
                assert!(joined[offset..] == *share, "{level}");
                assert!(joined[..offset].iter().all(|&byte| byte == 0x5a));
            }
        }
    }
}

/// The instruction from its manual, so that its matrices are checked on every machine: bit `i`
/// of each byte becomes the parity of `matrix.byte[7 - i] & byte`, the constant being zero.
#[test]
fn affine_matrices_multiply() {
    let field = Field::new();
    for factor in 0..=255 {
        let matrix = affine(&field.images(factor)).to_le_bytes();
        for byte in 0..=255 {
            let parity = |bit: usize| ((matrix[7 - bit] & byte).count_ones() & 1) as u8;
            let product = (0..8).fold(0, |product, bit| product | parity(bit) << bit);
            assert_eq!(product, field.mul_bytes(factor, byte));
        }
    }
    // The manual's identity.
    assert_eq!(affine(&field.images(1)), 0x0102_0408_1020_4080);
}

#[test]
fn groups_cover_all_rows_evenly() {
    for row_count in 0..130 {
        for group_rows_max in [1, 4, 8, usize::MAX] {
            let mut end = 0;
            for group in groups(row_count, group_rows_max) {
                assert_eq!(group.start, end);
                assert!((1..=group_rows_max).contains(&group.len()));
                end = group.end;
            }
            assert_eq!(end, row_count);
        }
    }
}
