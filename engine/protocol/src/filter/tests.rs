use proptest::prelude::*;

use super::*;

const KEY: [u8; 32] = [7; 32];

/// The n-th of a series of ids that look random.
fn id(series: u8, number: u64) -> [u8; 32] {
    *blake3::keyed_hash(&[series; 32], &number.to_le_bytes()).as_bytes()
}

fn scope() -> FilterScope {
    FilterScope {
        satellite: [1; 32].into(),
        node: [2; 32].into(),
        snapshot_ms: 1_750_000_000_000,
        first_id: [0; 32].into(),
        last_id: [0xff; 32].into(),
    }
}

fn filter_of(ids: impl IntoIterator<Item = [u8; 32]>, key: [u8; 32]) -> PieceFilter {
    let key = FilterKey::from(key);
    let hashes = ids.into_iter().map(|id| key.hash(&id)).collect();
    PieceFilter::build(scope(), key, hashes).unwrap()
}

/// Bytes of a filter with a check that fits, so that only what it says can be wrong.
fn with_check(mut bytes: Vec<u8>) -> Vec<u8> {
    let at = bytes.len() - CHECK_BYTES;
    let check = check_of(&bytes[..at]);
    bytes[at..].copy_from_slice(&check);
    bytes
}

#[test]
fn a_filter_of_any_size_contains_what_it_was_made_of_and_comes_back() {
    for count in (0..70).chain([100, 255, 1_000, 4_097, 30_000]) {
        for key in 0..4 {
            let filter = filter_of((0..count).map(|number| id(1, number)), [key; 32]);
            let parsed = PieceFilter::parse(filter.as_bytes().to_vec());
            assert_eq!(parsed.as_ref(), Ok(&filter), "{count}");
            assert_eq!(filter.count(), count);
            for number in 0..count {
                assert!(filter.contains(&id(1, number)), "{number} of {count}");
            }
        }
    }
}

/// 300,000 ids that are not in it, for three keys: 1 in 256 is 0.39 %, and 0.45 % is 50 standard
/// deviations more than that.
#[test]
fn few_others_are_contained_and_a_piece_costs_some_nine_bits() {
    const COUNT: u64 = 200_000;
    for key in 0..3 {
        let filter = filter_of((0..COUNT).map(|number| id(1, number)), [key; 32]);
        let asked = 300_000;
        let wrong = (0..asked)
            .filter(|&number| filter.contains(&id(2, number)))
            .count();
        let share = wrong as f64 / asked as f64;
        assert!((0.0033..=0.0045).contains(&share), "{share}");
        let bits = filter.as_bytes().len() as f64 * 8.0 / COUNT as f64;
        assert!(bits <= 9.6, "{bits}");
    }
}

#[test]
fn the_largest_filter_is_within_its_bound_and_one_piece_more_is_refused() {
    let max = FILTER_PIECES_MAX as u64;
    let filter = filter_of((0..max).map(|number| id(1, number)), KEY);
    let len = filter.as_bytes().len();
    assert!(len <= FILTER_BYTES_MAX, "{len}");
    assert!((len * 8) as f64 / (max as f64) < 9.1, "{len}");
    assert!(
        (0..max)
            .step_by(7)
            .all(|number| filter.contains(&id(1, number)))
    );
    let hashes = (0..=max).collect();
    assert_eq!(
        PieceFilter::build(scope(), KEY.into(), hashes),
        Err(BuildError::TooMany {
            count: FILTER_PIECES_MAX + 1
        })
    );
}

#[test]
fn what_one_key_confuses_another_tells_apart() {
    let made_of = |key| filter_of((0..1_000).map(|number| id(1, number)), key);
    let (one, other) = (made_of([1; 32]), made_of([2; 32]));
    let confused: Vec<_> = (0..200_000)
        .map(|number| id(2, number))
        .filter(|id| one.contains(id))
        .collect();
    assert!(confused.len() > 500);
    let still = confused.iter().filter(|id| other.contains(id)).count();
    assert!(still * 50 < confused.len(), "{still} of {}", confused.len());
}

#[test]
fn an_empty_filter_wants_nothing_and_no_filter_speaks_of_ids_outside_its_range() {
    let empty = filter_of([], KEY);
    assert_eq!(empty.as_bytes().len(), HEADER_BYTES + CHECK_BYTES);
    assert!((0..10_000).all(|number| !empty.contains(&id(1, number))));
    let narrow = FilterScope {
        first_id: [0x40; 32].into(),
        last_id: [0x7f; 32].into(),
        ..scope()
    };
    let narrow = PieceFilter::build(narrow, KEY.into(), Vec::new()).unwrap();
    for (byte, is_wanted) in [(0x3f, true), (0x40, false), (0x7f, false), (0x80, true)] {
        assert_eq!(narrow.contains(&[byte; 32]), is_wanted, "{byte:#x}");
    }
}

#[test]
fn equal_ids_count_once() {
    let filter = filter_of([id(1, 1), id(1, 2), id(1, 1)], KEY);
    assert_eq!(filter.count(), 2);
    assert!(filter.contains(&id(1, 1)) && filter.contains(&id(1, 2)));
}

#[test]
fn every_damaged_byte_is_noticed() {
    let bytes = filter_of((0..50).map(|number| id(1, number)), KEY).into_bytes();
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1;
        assert!(PieceFilter::parse(damaged).is_err(), "byte {at}");
    }
    for len in 0..bytes.len() {
        assert!(PieceFilter::parse(bytes[..len].to_vec()).is_err(), "{len}");
    }
    let longer = [&bytes[..], &[0]].concat();
    assert!(PieceFilter::parse(longer).is_err());
}

#[test]
fn values_that_cannot_be_are_refused_though_the_check_fits() {
    let good = filter_of((0..50).map(|number| id(1, number)), KEY).into_bytes();
    assert!(PieceFilter::parse(with_check(good.clone())).is_ok());
    let refused = |at: usize, value: &[u8]| {
        let mut bytes = good.clone();
        bytes[at..at + value.len()].copy_from_slice(value);
        PieceFilter::parse(with_check(bytes)).unwrap_err()
    };
    let field = |field| FilterError::Field { field };
    assert_eq!(refused(3, b"2"), FilterError::Magic);
    assert_eq!(refused(4, &[1]), field("segment length"));
    assert_eq!(refused(4, &[63]), field("segment length"));
    assert_eq!(refused(5, &[1]), field("reserved field"));
    assert_eq!(refused(80, &[[1; 32], [0; 32]].concat()), field("range"));
    assert_eq!(refused(144, &[0; 8]), field("count"));
    assert_eq!(refused(144, &u64::MAX.to_le_bytes()), field("count"));
    assert_eq!(refused(144, &(1_u64 << 20).to_le_bytes()), field("count"));
    assert_eq!(refused(188, &[0xff; 4]), field("segment count"));
    assert_eq!(refused(188, &[0; 4]), field("segment length"));
    assert!(matches!(
        PieceFilter::parse(vec![0; FILTER_BYTES_MAX + 1]),
        Err(FilterError::TooLong { .. })
    ));
}

proptest! {
    #[test]
    fn no_id_is_ever_missed(numbers in proptest::collection::vec(any::<[u8; 32]>(), 0..300), key: [u8; 32]) {
        let filter = filter_of(numbers.iter().copied(), key);
        let parsed = PieceFilter::parse(filter.into_bytes()).unwrap();
        for id in &numbers {
            prop_assert!(parsed.contains(id));
        }
    }

    #[test]
    fn foreign_bytes_never_panic(
        bytes: Vec<u8>,
        log in 0_u8..25,
        count in 0_u64..200,
        segments: u32,
        few in 0_u32..20,
        slots in 0_usize..2_000,
        id: [u8; 32],
    ) {
        prop_assert!(PieceFilter::parse(bytes.clone()).is_err());
        // And some whose check fits, whatever they say.
        for segments in [segments, few] {
            let mut made = filter_of([], KEY).into_bytes();
            made.resize(HEADER_BYTES + slots + CHECK_BYTES, 3);
            made[4] = log;
            made[144..152].copy_from_slice(&count.to_le_bytes());
            made[188..192].copy_from_slice(&segments.to_le_bytes());
            if let Ok(filter) = PieceFilter::parse(with_check(made)) {
                let _ = filter.contains(&id);
            }
        }
    }

    #[test]
    fn whatever_parses_can_be_asked(log in 2_u8..7, segments in 1_u32..20, id: [u8; 32], key: [u8; 32], mix: u32) {
        let mut made = filter_of([], key).into_bytes();
        made.resize(HEADER_BYTES + ((segments as usize + 2) << log) + CHECK_BYTES, 3);
        made[4] = log;
        made[144] = 1;
        made[184..188].copy_from_slice(&mix.to_le_bytes());
        made[188..192].copy_from_slice(&segments.to_le_bytes());
        let filter = PieceFilter::parse(with_check(made)).unwrap();
        let _ = filter.contains(&id);
    }
}
