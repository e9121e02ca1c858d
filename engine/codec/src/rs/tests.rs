//! The code against its definition, and the rules of its callers.

use proptest::prelude::*;
use reed_solomon_simd::engine::DefaultEngine;
use reed_solomon_simd::rate::{LowRateDecoder, LowRateEncoder, RateDecoder, RateEncoder};

use super::*;
use crate::level::Level;
use crate::shape::ShapeError;

/// Required and total counts of every scheme, and the edges of what is allowed.
const SCHEMES: &[(u8, u8)] = &[
    (29, 93),
    (16, 30),
    (4, 10),
    (2, 5),
    (1, 3),
    (1, 2),
    (1, 1),
    (5, 5),
    (64, 255),
    (33, 97),
];

fn random_bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new()
        .update(&seed.to_le_bytes())
        .finalize_xof()
        .fill(&mut bytes);
    bytes
}

/// All shares of a stripe with random data.
fn stripe(required: u8, total: u8, share_len: usize, seed: u64) -> Vec<Vec<u8>> {
    let data_seeds = (0..u64::from(required)).map(|index| seed * 1_000 + index);
    let data: Vec<Vec<u8>> = data_seeds
        .map(|seed| random_bytes(seed, share_len))
        .collect();
    let recovery = encode(&mut Encoder::new(required, total).unwrap(), &data);
    data.into_iter().chain(recovery).collect()
}

fn encode(encoder: &mut Encoder, data: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let recovery_count = usize::from(encoder.total() - encoder.required());
    // Not zeros: every byte is to be overwritten.
    let mut recovery = vec![vec![0xa5; data[0].len()]; recovery_count];
    let data: Vec<&[u8]> = data.iter().map(Vec::as_slice).collect();
    let mut targets: Vec<&mut [u8]> = recovery.iter_mut().map(Vec::as_mut_slice).collect();
    encoder.encode_into(&data, &mut targets).unwrap();
    recovery
}

/// The recovery shares by the stock encoder.
fn stock_encode(data: &[&[u8]], recovery_count: usize) -> Vec<Vec<u8>> {
    let engine = DefaultEngine::new();
    let share_len = data[0].len();
    let encoder = LowRateEncoder::new(data.len(), recovery_count, share_len, engine, None);
    let mut encoder = encoder.unwrap();
    for share in data {
        encoder.add_original_shard(share).unwrap();
    }
    let result = encoder.encode().unwrap();
    result.recovery_iter().map(<[u8]>::to_vec).collect()
}

/// The recovery shares at every level, written `offset` bytes into a line of cache, are those
/// expected.
fn check_encode(data: &[&[u8]], expected: &[Vec<u8>], offset: usize) {
    let (required, share_len) = (data.len() as u8, data[0].len());
    let total = required + expected.len() as u8;
    for level in Level::available() {
        let mut encoder = Encoder::with_level(level, required, total).unwrap();
        assert_eq!(encoder.level(), level);
        // Not zeros: every byte is to be overwritten, and none around.
        let room = share_len.next_multiple_of(64) + 192;
        let mut buffer = vec![0xa5; expected.len() * room + 64];
        let start = buffer.as_ptr().align_offset(64);
        let rows = buffer[start..].chunks_exact_mut(room).take(expected.len());
        let mut targets: Vec<&mut [u8]> = rows
            .map(|row| &mut row[64 + offset..][..share_len])
            .collect();
        encoder.encode_into(data, &mut targets).unwrap();
        let place = (level, required, total, share_len, offset);
        let rows = buffer[start..].chunks_exact(room).zip(expected);
        for (index, (row, expected)) in rows.enumerate() {
            let (before, rest) = row.split_at(64 + offset);
            let (share, after) = rest.split_at(share_len);
            assert!(share == expected, "row {index}, {place:?}");
            assert!(
                before.iter().chain(after).all(|&byte| byte == 0xa5),
                "{place:?}"
            );
        }
    }
}

/// Rebuilds every share that is not in `present` at every level, and compares.
fn check_rebuild(required: u8, total: u8, shares: &[Vec<u8>], present: &[u8]) {
    let wanted: Vec<u8> = (0..total)
        .filter(|index| !present.contains(index))
        .rev()
        .collect();
    let sources: Vec<&[u8]> = present
        .iter()
        .map(|&i| shares[usize::from(i)].as_slice())
        .collect();
    for level in Level::available() {
        let plan = RowPlan::with_level(level, required, total, present, &wanted).unwrap();
        // Not zeros: every byte is to be overwritten.
        let mut rebuilt = vec![vec![0x5a; shares[0].len()]; wanted.len()];
        let mut targets: Vec<&mut [u8]> = rebuilt.iter_mut().map(Vec::as_mut_slice).collect();
        plan.apply(&sources, &mut targets).unwrap();
        for (&index, share) in wanted.iter().zip(&rebuilt) {
            assert!(
                *share == shares[usize::from(index)],
                "{level}: share {index} from {present:?}"
            );
        }
    }
}

/// The data shares that are not in `present`, in order, by the stock decoder.
fn stock_rebuild(required: u8, total: u8, sources: &[&[u8]], present: &[u8]) -> Vec<Vec<u8>> {
    let mut decoder = LowRateDecoder::new(
        usize::from(required),
        usize::from(total - required),
        sources[0].len(),
        DefaultEngine::new(),
        None,
    )
    .unwrap();
    for (&index, source) in present.iter().zip(sources) {
        match index.checked_sub(required) {
            None => decoder.add_original_shard(usize::from(index), source),
            Some(row) => decoder.add_recovery_shard(usize::from(row), source),
        }
        .unwrap();
    }
    let result = decoder.decode().unwrap();
    let rows = result.restored_original_iter();
    rows.map(|(_, row)| row.to_vec()).collect()
}

/// Like [`check_rebuild`], of shares that no encoder made, against the stock decoder.
fn check_against_stock(required: u8, total: u8, present: &[u8], share_len: usize, seed: u64) {
    let sources = random_bytes(seed, present.len() * share_len);
    let sources: Vec<&[u8]> = sources.chunks(share_len).collect();
    let wanted: Vec<u8> = (0..required)
        .filter(|index| !present.contains(index))
        .collect();
    if wanted.is_empty() {
        return;
    }
    let expected = stock_rebuild(required, total, &sources, present);
    for level in Level::available() {
        let plan = RowPlan::with_level(level, required, total, present, &wanted).unwrap();
        let mut rebuilt = vec![vec![0x5a; share_len]; wanted.len()];
        let mut targets: Vec<&mut [u8]> = rebuilt.iter_mut().map(Vec::as_mut_slice).collect();
        plan.apply(&sources, &mut targets).unwrap();
        assert!(
            rebuilt == expected,
            "{level}: {required} of {total} from {present:?}, {share_len} bytes"
        );
    }
}

/// `count` of the indices below `total`, ascending, by a seed.
fn seeded_subset(total: u8, count: u8, seed: u64) -> Vec<u8> {
    let keys = random_bytes(seed, 4 * usize::from(total));
    let mut indices: Vec<u8> = (0..total).collect();
    indices.sort_by_key(|&index| keys[4 * usize::from(index)..][..4].to_vec());
    indices.truncate(usize::from(count));
    indices.sort_unstable();
    indices
}

/// The head's definition: a polynomial through the data and the known zeros, read off at the
/// points after them.
#[test]
fn recovery_shares_are_values_of_the_polynomial() {
    let field = naive::Field::new();
    for &(required, total) in SCHEMES {
        let shares = stripe(required, total, 64, 1);
        let point_count = usize::from(required).next_power_of_two();
        let symbol = |share: &[u8], s: usize| u16::from_le_bytes([share[s], share[32 + s]]);
        for s in [0, 1, 31] {
            let mut values = vec![0; point_count];
            for (value, share) in values.iter_mut().zip(&shares[..usize::from(required)]) {
                *value = symbol(share, s);
            }
            let last = total - required;
            for r in [0, 1, last / 2, last.saturating_sub(1)]
                .into_iter()
                .filter(|&r| r < last)
            {
                let expected = field.interpolate(&values, (point_count + usize::from(r)) as u16);
                let share = &shares[usize::from(required + r)];
                assert_eq!(
                    symbol(share, s),
                    expected,
                    "{required}/{total}, row {r}, symbol {s}"
                );
            }
        }
    }
}

#[test]
fn a_row_depends_on_its_index_and_not_on_the_total() {
    for required in [1, 2, 4, 16, 29, 32, 33, 64] {
        let full = stripe(required, 255, 128, 2);
        for total in [required, required + 1, required + 31, 2 * required + 7, 128] {
            if total < required {
                continue;
            }
            let shares = stripe(required, total, 128, 2);
            assert!(
                full[..usize::from(total)] == shares[..],
                "{required}/{total}"
            );
        }
    }
}

/// Every required count with every total.
#[test]
fn every_shape_encodes_as_the_stock_encoder_does() {
    for required in 1..=64_u8 {
        let bytes = random_bytes(u64::from(required), usize::from(required) * 64);
        let data: Vec<&[u8]> = bytes.chunks(64).collect();
        // A row does not depend on the total.
        let all = stock_encode(&data, usize::from(255 - required));
        for count in 0..=all.len() {
            check_encode(&data, &all[..count], count % 64);
        }
    }
}

#[test]
fn every_length_encodes_as_the_stock_encoder_does() {
    let bytes = random_bytes(9, 64 * 5 * 1_024);
    for (required, recovery_count) in [(2, 3), (4, 6), (7, 9), (16, 14), (29, 64), (40, 215)] {
        for share_len in (64..=3 * 1_024).step_by(64).chain([5 * 1_024]) {
            // Sources at odd addresses, of all places in a line.
            let start = share_len / 64 % 64;
            let data: Vec<&[u8]> = bytes[start..]
                .chunks_exact(share_len)
                .take(required)
                .collect();
            let expected = stock_encode(&data, recovery_count);
            check_encode(&data, &expected, 0);
            check_encode(&data, &expected, 1 + share_len / 64 % 63);
        }
    }
}

/// From some length on, shares that lie well are written past the caches.
#[test]
fn long_shares_encode_as_the_stock_encoder_does() {
    let share_len = 1_024 * 1_024 + 64;
    let bytes = random_bytes(10, 9 * share_len);
    let data: Vec<&[u8]> = bytes.chunks(share_len).collect();
    let expected = stock_encode(&data, 5);
    for offset in [0, 32] {
        check_encode(&data, &expected, offset);
    }
}

#[test]
fn one_data_share_is_copied() {
    for total in [1, 2, 3, 255] {
        let shares = stripe(1, total, 192, 3);
        assert!(shares.iter().all(|share| *share == shares[0]));
    }
}

#[test]
fn any_range_of_columns_gives_the_same_bytes() {
    let share_len = 16_384 + 8_192 + 64;
    let shares = stripe(29, 93, share_len, 4);
    let mut encoder = Encoder::new(29, 93).unwrap();
    // One encoder through lengths that shrink and grow its work space.
    for range in [
        0..64,
        64..4_160,
        0..share_len,
        4_096..4_096 + 8_192,
        20_480..share_len,
        0..0,
    ] {
        let data: Vec<Vec<u8>> = shares[..29]
            .iter()
            .map(|share| share[range.clone()].to_vec())
            .collect();
        let recovery = encode(&mut encoder, &data);
        for (share, row) in shares[29..].iter().zip(&recovery) {
            assert!(share[range.clone()] == row[..], "{range:?}");
        }
    }
}

#[test]
fn rebuilding_does_not_depend_on_the_tile() {
    // Several tiles and a column.
    let shares = stripe(4, 10, 2 * 64 * 1_024 + 64, 5);
    check_rebuild(4, 10, &shares, &[1, 5, 8, 9]);
    let shares = stripe(29, 93, 64 * 1_024 + 64, 5);
    check_rebuild(29, 93, &shares, &(64..93).collect::<Vec<u8>>());
}

/// Every required count there is, with few recovery shares, some, and as many as there can be:
/// random patterns, the lowest and the highest.
#[test]
fn every_required_count_rebuilds_as_the_stock_decoder_does() {
    for required in 1..=64_u8 {
        for total in [required + 1, 93.max(required + 20), 255] {
            let seed = u64::from(required) * 256 + u64::from(total);
            let highest = (total - required..total).collect();
            let without_first = (1..=required).collect();
            let random = seeded_subset(total, required, seed);
            for present in [highest, without_first, random] {
                check_against_stock(required, total, &present, 128, seed);
            }
        }
    }
}

#[test]
fn every_length_rebuilds_as_the_stock_decoder_does() {
    for share_len in (64..=5 * 1_024).step_by(64) {
        let seed = share_len as u64;
        check_against_stock(29, 93, &seeded_subset(93, 29, seed), share_len, seed);
    }
    // Where coefficients are outside of GF(2^8).
    for share_len in (64..=1_024).step_by(64) {
        let highest: Vec<u8> = (255 - 40..255).collect();
        check_against_stock(40, 255, &highest, share_len, 1);
    }
}

/// Groups of rows take turns at tiles whose length depends on the number of sources; tiles and a
/// bit.
#[test]
fn tiles_of_every_length_meet_without_a_seam() {
    for required in [2, 7, 29, 64_u8] {
        for wanted in [1, required / 2, required] {
            let present: Vec<u8> = (wanted..required + wanted).collect();
            let tile_len = (16 * 1_024 / usize::from(required)).next_multiple_of(64);
            for share_len in [tile_len - 64, tile_len, tile_len + 64, 2 * tile_len + 192] {
                check_against_stock(required, 255, &present, share_len, 2);
            }
        }
    }
}

#[test]
fn threads_share_a_plan() {
    let shares = stripe(4, 10, 4_096, 8);
    let plan = RowPlan::new(4, 10, &[1, 5, 8, 9], &[0, 2, 3]).unwrap();
    let sources: Vec<&[u8]> = [1, 5, 8, 9].iter().map(|&i| shares[i].as_slice()).collect();
    std::thread::scope(|scope| {
        for columns in [0..1_024, 1_024..4_096] {
            let (plan, sources, shares) = (&plan, &sources, &shares);
            scope.spawn(move || {
                let sources: Vec<&[u8]> = sources.iter().map(|s| &s[columns.clone()]).collect();
                let mut rebuilt = vec![vec![0; columns.len()]; 3];
                let mut targets: Vec<&mut [u8]> =
                    rebuilt.iter_mut().map(Vec::as_mut_slice).collect();
                plan.apply(&sources, &mut targets).unwrap();
                for (share, index) in rebuilt.iter().zip([0, 2, 3]) {
                    assert!(share[..] == shares[index][columns.clone()]);
                }
            });
        }
    });
}

#[test]
fn every_subset_of_small_schemes_rebuilds() {
    for &(required, total) in SCHEMES.iter().filter(|scheme| scheme.1 <= 10) {
        let shares = stripe(required, total, 64, 6);
        for set in 0_u32..1 << total {
            if set.count_ones() == u32::from(required) {
                let present: Vec<u8> = (0..total).filter(|index| set >> index & 1 == 1).collect();
                check_rebuild(required, total, &shares, &present);
            }
        }
    }
}

/// `count` of the indices below `total`, ascending.
fn subset(total: u8, count: u8) -> impl Strategy<Value = Vec<u8>> {
    proptest::sample::subsequence((0..total).collect::<Vec<u8>>(), usize::from(count))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(96) })]

    #[test]
    fn any_required_shares_give_the_others(
        (required, total, present) in proptest::sample::select(SCHEMES)
            .prop_flat_map(|(required, total)| (Just(required), Just(total), subset(total, required))),
        column_count in 1..40_usize,
        seed in 0..1_000_000_u64,
    ) {
        let shares = stripe(required, total, column_count * 64, seed);
        check_rebuild(required, total, &shares, &present);
    }

    #[test]
    fn any_stripe_encodes_as_the_stock_encoder_does(
        (required, recovery_count) in (2..=64_usize)
            .prop_flat_map(|required| (Just(required), 1..=255 - required)),
        column_count in 1..24_usize,
        offsets in (0..64_usize, 0..64_usize),
        seed in 0..1_000_000_u64,
    ) {
        let share_len = column_count * 64;
        let bytes = random_bytes(seed, required * share_len + 64);
        let data: Vec<&[u8]> = bytes[offsets.0..].chunks_exact(share_len).take(required).collect();
        check_encode(&data, &stock_encode(&data, recovery_count), offsets.1);
    }
}

#[test]
fn counts_out_of_range_are_refused() {
    let required = |required| CodeError::Shape(ShapeError::RequiredCount { required });
    let total = |required, total| CodeError::Shape(ShapeError::TotalCount { required, total });
    assert_eq!(Encoder::new(0, 5).unwrap_err(), required(0));
    assert_eq!(Encoder::new(65, 93).unwrap_err(), required(65));
    assert_eq!(Encoder::new(5, 4).unwrap_err(), total(5, 4));
    assert_eq!(RowPlan::new(0, 5, &[], &[]).unwrap_err(), required(0));
    assert_eq!(
        RowPlan::new(5, 4, &[0, 1, 2, 3, 4], &[]).unwrap_err(),
        total(5, 4)
    );
    assert!(Encoder::new(64, 255).is_ok());
}

#[test]
fn indices_that_make_no_plan_are_refused() {
    let refused = |present: &[u8], wanted: &[u8]| RowPlan::new(3, 6, present, wanted).unwrap_err();
    assert_eq!(
        refused(&[0, 1], &[]),
        CodeError::ShareCount {
            given_count: 2,
            required_count: 3
        }
    );
    assert_eq!(
        refused(&[0, 1, 2, 3], &[]),
        CodeError::ShareCount {
            given_count: 4,
            required_count: 3
        }
    );
    assert_eq!(
        refused(&[0, 4, 3], &[]),
        CodeError::IndexOrder {
            index: 3,
            previous: 4
        }
    );
    assert_eq!(
        refused(&[0, 4, 4], &[]),
        CodeError::IndexOrder {
            index: 4,
            previous: 4
        }
    );
    assert_eq!(
        refused(&[0, 4, 6], &[]),
        CodeError::IndexOutOfRange {
            index: 6,
            total_count: 6
        }
    );
    assert_eq!(
        refused(&[0, 4, 5], &[3, 6]),
        CodeError::IndexOutOfRange {
            index: 6,
            total_count: 6
        }
    );
    assert_eq!(
        refused(&[0, 4, 5], &[1, 0]),
        CodeError::WantedPresent { index: 0 }
    );
    assert_eq!(
        refused(&[0, 4, 5], &[1, 2, 1]),
        CodeError::WantedTwice { index: 1 }
    );
}

#[test]
fn slices_that_do_not_fit_are_refused_and_nothing_is_written() {
    let mut encoder = Encoder::new(2, 4).unwrap();
    let plan = RowPlan::new(2, 4, &[1, 3], &[0]).unwrap();
    let (one, two) = (vec![1; 64], vec![1; 128]);
    let mut out = vec![vec![7; 64]; 3];
    let [a, b, c] = &mut out[..] else {
        unreachable!()
    };
    let odd = &one[..63];

    let few = CodeError::ShareCount {
        given_count: 1,
        required_count: 2,
    };
    assert_eq!(encoder.encode_into(&[&one], &mut [a, b]), Err(few));
    assert_eq!(plan.apply(&[&one], &mut [a]), Err(few));
    let targets = |given_count, expected_count| {
        Err(CodeError::TargetCount {
            given_count,
            expected_count,
        })
    };
    assert_eq!(
        encoder.encode_into(&[&one, &one], &mut [a, b, c]),
        targets(3, 2)
    );
    assert_eq!(plan.apply(&[&one, &one], &mut []), targets(0, 1));
    let differ = |len, expected_len| Err(CodeError::ShareLen { len, expected_len });
    assert_eq!(
        encoder.encode_into(&[&one, &two], &mut [a, b]),
        differ(128, 64)
    );
    assert_eq!(
        encoder.encode_into(&[&two, &two], &mut [a, b]),
        differ(64, 128)
    );
    assert_eq!(plan.apply(&[&one, &two], &mut [a]), differ(128, 64));
    assert_eq!(plan.apply(&[&two, &two], &mut [a]), differ(64, 128));
    let columns = Err(CodeError::ColumnLen { len: 63 });
    assert_eq!(
        encoder.encode_into(&[odd, odd], &mut [&mut a[..63], &mut b[..63]]),
        columns
    );
    assert_eq!(plan.apply(&[odd, odd], &mut [&mut a[..63]]), columns);
    assert!(out.iter().flatten().all(|&byte| byte == 7));
}

#[test]
fn without_recovery_shares_arguments_are_checked_all_the_same() {
    let mut encoder = Encoder::new(2, 2).unwrap();
    let share = [1; 64];
    assert_eq!(encoder.encode_into(&[&share, &share], &mut []), Ok(()));
    assert_eq!(
        encoder.encode_into(&[&share], &mut []),
        Err(CodeError::ShareCount {
            given_count: 1,
            required_count: 2
        })
    );
    let plan = RowPlan::new(2, 2, &[0, 1], &[]).unwrap();
    assert_eq!(plan.apply(&[&share, &share], &mut []), Ok(()));
}

#[test]
fn coders_move_between_threads() {
    fn is_send<T: Send>() {}
    is_send::<Encoder>();
    is_send::<RowPlan>();
    is_send::<crate::Sealer>();
    is_send::<crate::Opener>();
}

/// Change detector: recovery bytes of every scheme over a seeded stripe.
#[test]
fn format_is_frozen() {
    let mut hasher = blake3::Hasher::new();
    for &(required, total) in SCHEMES {
        for share in &stripe(required, total, 576, 7)[usize::from(required)..] {
            hasher.update(share);
        }
    }
    assert_eq!(hasher.finalize().to_string(), FROZEN);
}

const FROZEN: &str = "98b8a1219e90c078a35584d7bec2721ee464ccff63bc64b74901abdc474404cf";
