//! One battery for all tiers: each against sums of products in the field, and each other.

use super::factor::{affine, nibbles};
use super::matrix::groups;
use super::*;
use crate::field::Field;
use crate::level::Level;

/// Bytes that look random, of a period that no width divides.
fn pattern(seed: usize, len: usize) -> Vec<u8> {
    let bytes: Vec<u8> = (0..251_usize)
        .map(|i| (((i + seed) * (i + 77 * seed + 1) * 40_503) >> 5) as u8)
        .collect();
    (0..len).map(|i| bytes[i % 251]).collect()
}

/// Shares as rows of symbols.
fn symbols(share: &[u8]) -> Vec<u16> {
    let columns = share.chunks(64);
    let of_column = |column: &[u8]| -> Vec<u16> {
        let pairs = column[..32].iter().zip(&column[32..]);
        pairs
            .map(|(&low, &high)| u16::from_le_bytes([low, high]))
            .collect()
    };
    columns.flat_map(of_column).collect()
}

/// The head's formula, symbol by symbol.
fn naive(coefficients: &[u16], sources: &[&[u8]]) -> Vec<Vec<u16>> {
    let field = Field::new();
    let sources: Vec<Vec<u16>> = sources.iter().map(|share| symbols(share)).collect();
    let row = |row: &[u16]| {
        let at = |symbol: usize| {
            let terms = row.iter().zip(&sources);
            let products = terms.map(|(factor, source)| field.mul(*factor, source[symbol]));
            products.fold(0, |sum, product| sum ^ product)
        };
        (0..sources[0].len()).map(at).collect()
    };
    coefficients.chunks(sources.len()).map(row).collect()
}

/// Every level's product of the sources against the formula, into targets `offset` bytes into a
/// buffer whose other bytes stay.
fn check_product(coefficients: &[u16], sources: &[&[u8]], offset: usize) {
    let expected = naive(coefficients, sources);
    let len = sources[0].len();
    for level in Level::available() {
        let matrix = Matrix::new(level, sources.len(), coefficients);
        let mut targets = vec![vec![0x5a; offset + len + 64]; expected.len()];
        let mut slices: Vec<&mut [u8]> = targets
            .iter_mut()
            .map(|target| &mut target[offset..offset + len])
            .collect();
        matrix.apply(sources, &mut slices);
        for (target, expected) in targets.iter().zip(&expected) {
            let (before, rest) = target.split_at(offset);
            let (written, after) = rest.split_at(len);
            let place = (level, coefficients.len(), sources.len(), len, offset);
            assert!(symbols(written) == *expected, "{place:?}");
            let mut others = before.iter().chain(after);
            assert!(others.all(|&byte| byte == 0x5a), "{place:?}");
        }
    }
}

fn check_random_product(row_count: usize, column_count: usize, len: usize, is_wide: bool) {
    let pairs = pattern(row_count + len, 2 * row_count * column_count);
    let mut coefficients: Vec<u16> = pairs
        .chunks(2)
        .map(|pair| u16::from_le_bytes([pair[0], if is_wide { pair[1] } else { 0 }]))
        .collect();
    // Zero and one are among them.
    coefficients[0] = 0;
    let last = coefficients.len() - 1;
    coefficients[last] = 1;
    let sources = pattern(column_count, column_count * len + 3);
    let sources: Vec<&[u8]> = sources[3..].chunks(len).collect();
    check_product(&coefficients, &sources, row_count % 65);
}

#[test]
fn products_are_sums_of_products() {
    // Every width of a group in every tier, and two and three groups.
    for row_count in (1..=27).chain([48, 49, 64]) {
        for column_count in [1, 2, 29] {
            check_random_product(row_count, column_count, 64, false);
            check_random_product(row_count, column_count, 128, true);
        }
    }
    for len in [64, 128, 192, 576, 1_024] {
        check_random_product(5, 7, len, false);
        check_random_product(9, 4, len, true);
        // Two groups and more, and several tiles of each.
        check_random_product(26, 64, len, false);
    }
}

#[test]
fn every_factor_multiplies_every_byte() {
    let share: Vec<u8> = (0..=255).collect();
    for is_wide in [false, true] {
        let factors = (0..=255).map(|factor| factor << (8 * u16::from(is_wide)));
        check_product(&factors.collect::<Vec<u16>>(), &[&share], 0);
    }
}

#[test]
fn nothing_outside_of_the_rows_is_written() {
    for offset in 0..64 {
        let sources = pattern(3, 64 + 3 * 192);
        let sources: Vec<&[u8]> = sources[offset..offset + 3 * 192].chunks(192).collect();
        check_product(&[2, 3, 5, 7, 11, 13], &sources, offset);
        check_product(&[2, 3, 0x500, 7, 11, 0xd0d], &sources, offset);
    }
}

/// The transform's rows are those of the matrix of the same code, at every level, for every shape
/// of its layers and whatever lies around the rows.
#[test]
fn the_transform_is_the_matrix_of_its_points() {
    for (data_count, recovery_count) in [
        (2, 1),
        (2, 254),
        (3, 5),
        (4, 6),
        (5, 3),
        (8, 248),
        (9, 14),
        (16, 14),
        (17, 40),
        (29, 51),
        (29, 64),
        (32, 65),
        (33, 64),
        (57, 70),
        (64, 192),
    ] {
        for (len, offset) in [(64, 0), (128, 1), (192, 64), (1_024 + 64, 31)] {
            check_transform(data_count, recovery_count, len, offset);
        }
    }
}

fn check_transform(data_count: u8, recovery_count: u8, len: usize, offset: usize) {
    let sources = pattern(
        usize::from(recovery_count),
        usize::from(data_count) * len + offset,
    );
    let sources: Vec<&[u8]> = sources[offset..].chunks(len).collect();
    let present: Vec<u8> = (0..data_count).collect();
    let wanted: Vec<u8> = (data_count..=data_count + (recovery_count - 1)).collect();
    let coefficients = crate::rs::lagrange::coefficients(data_count, &present, &wanted);
    let mut expected = vec![vec![0; len]; wanted.len()];
    let mut slices: Vec<&mut [u8]> = expected.iter_mut().map(Vec::as_mut_slice).collect();
    let scalar = Level::available()[0];
    Matrix::new(scalar, sources.len(), &coefficients).apply(&sources, &mut slices);
    for level in Level::available() {
        let Some(mut transform) = Transform::new(level, sources.len(), wanted.len()) else {
            assert_eq!(level, scalar);
            continue;
        };
        // Twice: what one call leaves in the scratch space does not show in the next.
        for _ in 0..2 {
            let mut targets = vec![vec![0x5a; offset + len + 64]; wanted.len()];
            let mut slices: Vec<&mut [u8]> = targets
                .iter_mut()
                .map(|target| &mut target[offset..offset + len])
                .collect();
            transform.encode(&sources, &mut slices);
            let place = (level, data_count, recovery_count, len, offset);
            for (target, expected) in targets.iter().zip(&expected) {
                assert!(target[offset..offset + len] == expected[..], "{place:?}");
                let mut others = target[..offset].iter().chain(&target[offset + len..]);
                assert!(others.all(|&byte| byte == 0x5a), "{place:?}");
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
fn tables_multiply() {
    let field = Field::new();
    for factor in 0..=255 {
        let tables = nibbles(&field.images(factor));
        for byte in 0..=255_u8 {
            let product = tables.low[usize::from(byte & 15)] ^ tables.high[usize::from(byte >> 4)];
            assert_eq!(product, field.mul_bytes(factor, byte));
        }
    }
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
