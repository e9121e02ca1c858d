use proptest::prelude::*;

use super::*;
use crate::id::ProjectId;
use crate::limits::{CAVEATS_MAX, MACAROON_BYTES_MAX};
use crate::path::{Names, RootKey, encrypt_key, encrypt_prefix};
use crate::tlv::{TlvError, push_field};

const SECRET: &[u8; 32] = &[0x42; 32];
const NOW: u64 = 1_700_000_000_000;

fn root() -> Macaroon {
    Macaroon::mint(SECRET, ProjectId::from([1; 16]), [2; 16])
}

fn with(caveats: &[Caveat]) -> Macaroon {
    caveats.iter().fold(root(), |macaroon, caveat| {
        macaroon.attenuate(caveat).unwrap()
    })
}

fn action<'a>(operation: Operation, bucket: Option<&'a str>, key: Option<&'a [u8]>) -> Action<'a> {
    Action {
        operation,
        bucket,
        key,
        expires_ms: None,
    }
}

fn sealed(prefix: &str) -> Vec<u8> {
    encrypt_prefix(
        &RootKey::from([7; 32]).bucket_key("aaa", 0),
        Names::Sealed,
        prefix,
    )
    .unwrap()
    .0
}

fn sealed_key(key: &str) -> Vec<u8> {
    encrypt_key(
        &RootKey::from([7; 32]).bucket_key("aaa", 0),
        Names::Sealed,
        &key.parse().unwrap(),
    )
    .unwrap()
    .0
}

fn check(caveats: &[Caveat], action: &Action<'_>, expected: Result<(), Denied>) {
    assert_eq!(
        with(caveats).authorize(SECRET, action, NOW),
        expected,
        "{caveats:?} {action:?}"
    );
}

#[test]
fn a_root_macaroon_allows_everything_in_its_project() {
    for operation in [
        Operation::Read,
        Operation::Write,
        Operation::List,
        Operation::Delete,
        Operation::Any,
    ] {
        check(&[], &action(operation, None, None), Ok(()));
        check(&[], &action(operation, Some("aaa"), Some(b"key")), Ok(()));
    }
    assert_eq!(
        (root().project(), root().key_id()),
        (ProjectId::from([1; 16]), [2; 16])
    );
}

#[test]
fn another_secret_or_project_is_forged() {
    let action = action(Operation::Any, None, None);
    assert_eq!(
        root().authorize(&[0x43; 32], &action, NOW),
        Err(Denied::Forged)
    );
    let other = Macaroon::mint(&[0x43; 32], ProjectId::from([1; 16]), [2; 16]);
    assert_eq!(other.authorize(SECRET, &action, NOW), Err(Denied::Forged));
}

#[test]
fn operations_are_a_set() {
    let read_list = [Caveat::Operations(Operations::READ | Operations::LIST)];
    let at = |operation| action(operation, Some("aaa"), Some(b""));
    check(&read_list, &at(Operation::Read), Ok(()));
    check(&read_list, &at(Operation::List), Ok(()));
    check(&read_list, &at(Operation::Any), Ok(()));
    check(&read_list, &at(Operation::Write), Err(Denied::Operation));
    check(&read_list, &at(Operation::Delete), Err(Denied::Operation));
    let none = [
        Caveat::Operations(Operations::READ),
        Caveat::Operations(Operations::LIST),
    ];
    check(&none, &at(Operation::Read), Err(Denied::Operation));
    check(&none, &at(Operation::Any), Ok(()));
    assert_eq!(Operations::from_bits(16), None);
    assert_eq!(Operations::from_bits(15), Some(Operations::ALL));
}

#[test]
fn times_are_inclusive() {
    let any = action(Operation::Any, None, None);
    check(&[Caveat::NotBefore(NOW)], &any, Ok(()));
    check(&[Caveat::NotBefore(NOW + 1)], &any, Err(Denied::NotYet));
    check(&[Caveat::NotAfter(NOW)], &any, Ok(()));
    check(&[Caveat::NotAfter(NOW - 1)], &any, Err(Denied::Expired));
}

#[test]
fn bucket_caveats_refuse_other_buckets_and_the_project_as_a_whole() {
    let buckets = [Caveat::Buckets(vec!["bbb".into(), "aaa".into()])];
    check(
        &buckets,
        &action(Operation::Write, Some("aaa"), None),
        Ok(()),
    );
    check(
        &buckets,
        &action(Operation::Read, Some("bbb"), Some(b"x")),
        Ok(()),
    );
    check(
        &buckets,
        &action(Operation::Read, Some("ccc"), Some(b"x")),
        Err(Denied::Bucket),
    );
    check(
        &buckets,
        &action(Operation::Any, Some("ccc"), None),
        Err(Denied::Bucket),
    );
    check(
        &buckets,
        &action(Operation::List, None, None),
        Err(Denied::Bucket),
    );
    check(&buckets, &action(Operation::Any, None, None), Ok(()));
}

#[test]
fn prefix_caveats_cover_what_lies_below_whole_components() {
    let caveat = [Caveat::Prefixes(vec![("aaa".into(), sealed("a/b/"))])];
    let read = |key: &str| sealed_key(key);
    for key in ["a/b/c", "a/b/", "a/b/c/d"] {
        check(
            &caveat,
            &action(Operation::Read, Some("aaa"), Some(&read(key))),
            Ok(()),
        );
        check(
            &caveat,
            &action(Operation::Read, Some("bbb"), Some(&read(key))),
            Err(Denied::Bucket),
        );
    }
    // One object is shared by its own components.
    check(
        &caveat,
        &action(Operation::Read, Some("aaa"), Some(&read("a/b"))),
        Ok(()),
    );
    for key in ["a/bc", "a/c", "a", "b", "a/bb/c"] {
        check(
            &caveat,
            &action(Operation::Read, Some("aaa"), Some(&read(key))),
            Err(Denied::Prefix),
        );
    }
    check(
        &caveat,
        &action(Operation::List, Some("aaa"), Some(&sealed("a/b/"))),
        Ok(()),
    );
    check(
        &caveat,
        &action(Operation::List, Some("aaa"), Some(&sealed("a/b/c/"))),
        Ok(()),
    );
    check(
        &caveat,
        &action(Operation::List, Some("aaa"), Some(&sealed("a/"))),
        Err(Denied::Prefix),
    );
    check(
        &caveat,
        &action(Operation::List, Some("aaa"), Some(b"")),
        Err(Denied::Prefix),
    );
    // The bucket as a whole: not to delete it, but to ask about it.
    check(
        &caveat,
        &action(Operation::Delete, Some("aaa"), None),
        Err(Denied::Prefix),
    );
    check(&caveat, &action(Operation::Any, Some("aaa"), None), Ok(()));
    check(
        &caveat,
        &action(Operation::Any, Some("bbb"), None),
        Err(Denied::Bucket),
    );
    check(&caveat, &action(Operation::Any, None, None), Ok(()));
    check(
        &caveat,
        &action(Operation::List, None, None),
        Err(Denied::Bucket),
    );
}

#[test]
fn prefixes_of_plain_names_end_at_a_slash() {
    let caveat = [Caveat::Prefixes(vec![("aaa".into(), b"a/b/".to_vec())])];
    check(
        &caveat,
        &action(Operation::Read, Some("aaa"), Some(b"a/b/c")),
        Ok(()),
    );
    check(
        &caveat,
        &action(Operation::Read, Some("aaa"), Some(b"a/bc")),
        Err(Denied::Prefix),
    );
    check(
        &caveat,
        &action(Operation::Read, Some("aaa"), Some(b"a/b")),
        Err(Denied::Prefix),
    );
    let whole = [Caveat::Prefixes(vec![("aaa".into(), Vec::new())])];
    check(
        &whole,
        &action(Operation::Delete, Some("aaa"), None),
        Ok(()),
    );
    for half in [b"a/b".to_vec(), sealed("a/")[..10].to_vec(), vec![0x80; 20]] {
        let caveat = Caveat::Prefixes(vec![("aaa".into(), half)]);
        assert_eq!(
            root().attenuate(&caveat).err(),
            Some(TlvError::Value { kind: 6 }.into()),
            "{caveat:?}"
        );
    }
}

#[test]
fn object_ttl_concerns_written_objects_only() {
    let caveat = [Caveat::MaxObjectTtl(1_000)];
    let write = |expires_ms| Action {
        expires_ms,
        ..action(Operation::Write, Some("aaa"), Some(b"x"))
    };
    check(&caveat, &write(Some(NOW + 1_000)), Ok(()));
    check(&caveat, &write(Some(0)), Ok(()));
    check(&caveat, &write(Some(NOW + 1_001)), Err(Denied::ObjectTtl));
    check(&caveat, &write(None), Err(Denied::ObjectTtl));
    check(
        &caveat,
        &action(Operation::Read, Some("aaa"), Some(b"x")),
        Ok(()),
    );
    check(
        &caveat,
        &action(Operation::Write, Some("aaa"), None),
        Ok(()),
    );
    check(
        &[Caveat::MaxObjectTtl(u64::MAX)],
        &write(Some(u64::MAX)),
        Ok(()),
    );
}

#[test]
fn every_flipped_bit_is_refused() {
    let macaroon = with(&[
        Caveat::Operations(Operations::ALL),
        Caveat::Buckets(vec!["aaa".into()]),
        Caveat::Prefixes(vec![("aaa".into(), sealed("a/"))]),
        Caveat::NotAfter(u64::MAX),
        Caveat::Nonce([3; 16]),
    ]);
    let action = action(Operation::Any, None, None);
    assert_eq!(macaroon.authorize(SECRET, &action, NOW), Ok(()));
    for position in 0..8 * macaroon.as_bytes().len() {
        let mut altered = macaroon.as_bytes().to_vec();
        altered[position / 8] ^= 1 << (position % 8);
        if let Ok(parsed) = Macaroon::parse(&altered) {
            assert_eq!(
                parsed.authorize(SECRET, &action, NOW),
                Err(Denied::Forged),
                "bit {position}"
            );
        }
    }
}

#[test]
fn caveats_can_be_neither_dropped_nor_swapped_nor_moved() {
    let (one, two) = (Caveat::NotAfter(NOW), Caveat::Operations(Operations::READ));
    let both = with(&[one.clone(), two.clone()]);
    let field = |caveat: &Caveat| {
        let (kind, value) = caveat.encode().unwrap();
        let mut bytes = Vec::new();
        push_field(&mut bytes, kind, &value);
        bytes
    };
    let (one, two) = (field(&one), field(&two));
    let (head, tail) = (
        &root().as_bytes()[..4 + 38].to_vec(),
        &both.as_bytes()[both.as_bytes().len() - 38..],
    );
    assert_eq!([head, &one[..], &two, tail].concat(), both.as_bytes());
    for caveats in [
        [&one[..], &[]],
        [&two, &[]],
        [&two, &one],
        [&one, &one],
        [&[], &[]],
    ] {
        let forged = Macaroon::parse(&[head, caveats[0], caveats[1], tail].concat()).unwrap();
        let any = action(Operation::Any, None, None);
        assert_eq!(forged.authorize(SECRET, &any, NOW), Err(Denied::Forged));
    }
}

type RawField<'a> = (u16, &'a [u8]);

fn raw(fields: &[RawField<'_>]) -> Result<Macaroon, MacaroonError> {
    let mut bytes = b"SMC1".to_vec();
    for (kind, value) in fields {
        push_field(&mut bytes, *kind, value);
    }
    Macaroon::parse(&bytes)
}

#[test]
fn anything_but_the_one_encoding_is_refused() {
    let id: RawField<'_> = (1, &[0; 32]);
    let tail: RawField<'_> = (127, &[0; 32]);
    assert!(raw(&[id, tail]).is_ok());
    assert!(
        raw(&[id, (8, &[0; 16]), (8, &[0; 16]), tail]).is_ok(),
        "types may repeat"
    );
    let structure = |error| Err(MacaroonError::Structure(error));
    let cases: [(&[RawField<'_>], TlvError); 22] = [
        (&[], TlvError::Missing { kind: 1 }),
        (&[tail], TlvError::Missing { kind: 1 }),
        (&[id], TlvError::Missing { kind: 127 }),
        (
            &[(1, &[0; 31]), tail],
            TlvError::Length { kind: 1, len: 31 },
        ),
        (
            &[id, (127, &[0; 31])],
            TlvError::Length { kind: 127, len: 31 },
        ),
        (&[id, id, tail], TlvError::Unknown { kind: 1 }),
        (&[id, tail, tail], TlvError::Disorder { kind: 127 }),
        (
            &[id, tail, (0x8009, b"")],
            TlvError::Disorder { kind: 0x8009 },
        ),
        // Unknown caveats deny, whatever they say about being optional.
        (&[id, (9, b""), tail], TlvError::Unknown { kind: 9 }),
        (
            &[id, (0x8009, b""), tail],
            TlvError::Unknown { kind: 0x8009 },
        ),
        (
            &[id, (0x8002, &[1]), tail],
            TlvError::Unknown { kind: 0x8002 },
        ),
        (&[id, (2, &[16]), tail], TlvError::Value { kind: 2 }),
        (
            &[id, (2, &[1, 0]), tail],
            TlvError::Length { kind: 2, len: 2 },
        ),
        (
            &[id, (4, &[0; 7]), tail],
            TlvError::Length { kind: 4, len: 7 },
        ),
        (&[id, (5, b""), tail], TlvError::Value { kind: 5 }),
        (
            &[id, (5, b"\x03bbb\x03aaa"), tail],
            TlvError::Value { kind: 5 },
        ),
        (
            &[id, (5, b"\x03aaa\x03aaa"), tail],
            TlvError::Value { kind: 5 },
        ),
        (
            &[id, (5, b"\x03aaa\x04bbb"), tail],
            TlvError::Value { kind: 5 },
        ),
        (&[id, (5, b"\x03AAA"), tail], TlvError::Value { kind: 5 }),
        (&[id, (6, b""), tail], TlvError::Value { kind: 6 }),
        (
            &[id, (6, b"\x03aaa\x01\x00x"), tail],
            TlvError::Value { kind: 6 },
        ),
        (
            &[id, (6, b"\x03aaa\x02\x00b/\x03aaa\x02\x00a/"), tail],
            TlvError::Value { kind: 6 },
        ),
    ];
    for (fields, error) in cases {
        assert_eq!(raw(fields), structure(error), "{fields:02x?}");
    }
}

#[test]
fn lists_are_written_in_order_and_without_repeats() {
    let one = with(&[Caveat::Buckets(vec![
        "bbb".into(),
        "aaa".into(),
        "bbb".into(),
    ])]);
    let two = with(&[Caveat::Buckets(vec!["aaa".into(), "bbb".into()])]);
    assert_eq!(one.as_bytes(), two.as_bytes());
    assert_eq!(one.caveats(), two.caveats());
}

#[test]
fn counts_and_lengths_are_bounded() {
    let full = (0..CAVEATS_MAX).fold(root(), |macaroon, _| {
        macaroon.attenuate(&Caveat::NotAfter(1)).unwrap()
    });
    assert_eq!(Macaroon::parse(full.as_bytes()), Ok(full.clone()));
    assert_eq!(
        full.attenuate(&Caveat::NotAfter(1)),
        Err(MacaroonError::TooManyCaveats)
    );
    let mut more = full.as_bytes().to_vec();
    let mut field = Vec::new();
    push_field(&mut field, 4, &[0; 8]);
    more.splice(42..42, field);
    assert_eq!(Macaroon::parse(&more), Err(MacaroonError::TooManyCaveats));

    let big = Caveat::Prefixes(
        (b'a'..=b'd')
            .map(|c| (format!("aa{}", char::from(c)), sealed(&"x/".repeat(205))))
            .collect(),
    );
    let one = root().attenuate(&big).unwrap();
    let len = one.as_bytes().len() * 2 - root().as_bytes().len();
    assert!(len > MACAROON_BYTES_MAX);
    assert_eq!(one.attenuate(&big), Err(MacaroonError::TooLong { len }));
    let long = vec![0; MACAROON_BYTES_MAX + 1];
    let error = TlvError::TooLong {
        len: long.len(),
        max: MACAROON_BYTES_MAX,
    };
    assert_eq!(Macaroon::parse(&long), Err(error.into()));
}

#[test]
fn the_tail_is_not_printed() {
    let text = format!("{:?}", with(&[Caveat::NotAfter(5)]));
    assert!(
        text.contains("NotAfter(5)") && text.contains("<secret>"),
        "{text}"
    );
}

fn any_bucket() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["aaa", "bbb", "ccc"]).prop_map(str::to_owned)
}

fn any_path() -> impl Strategy<Value = Vec<u8>> {
    prop::sample::select(vec!["", "a/", "a/b/", "a/b/c/", "b/", "ab/"])
        .prop_flat_map(|path| prop::sample::select(vec![sealed(path), path.as_bytes().to_vec()]))
}

/// Times lie in 0..20, so that they meet.
fn any_caveat() -> impl Strategy<Value = Caveat> {
    prop_oneof![
        (0u8..16).prop_map(|bits| Caveat::Operations(Operations::from_bits(bits).unwrap())),
        (0u64..20).prop_map(Caveat::NotBefore),
        (0u64..20).prop_map(Caveat::NotAfter),
        prop::collection::vec(any_bucket(), 1..4).prop_map(Caveat::Buckets),
        prop::collection::vec((any_bucket(), any_path()), 1..4).prop_map(Caveat::Prefixes),
        (0u64..20).prop_map(Caveat::MaxObjectTtl),
        any::<[u8; 16]>().prop_map(Caveat::Nonce),
    ]
}

type OwnedAction = (Operation, Option<String>, Option<Vec<u8>>, Option<u64>);

fn any_action() -> impl Strategy<Value = OwnedAction> {
    use Operation::{Any, Delete, List, Read, Write};
    let operation = prop::sample::select(vec![Read, Write, List, Delete, Any]);
    (
        operation,
        prop::option::of(any_bucket()),
        prop::option::of(any_path()),
        prop::option::of(0u64..40),
    )
}

fn is_allowed(macaroon: &Macaroon, action: &OwnedAction, now_ms: u64) -> bool {
    let (operation, bucket, key, expires_ms) = action;
    let action = Action {
        operation: *operation,
        bucket: bucket.as_deref(),
        key: key.as_deref(),
        expires_ms: *expires_ms,
    };
    macaroon.authorize(SECRET, &action, now_ms).is_ok()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Attenuation never widens: what the narrowed macaroon allows, the wide one allows, and so
    /// does the caveat alone.
    #[test]
    fn authority_is_the_intersection_of_all_caveats(
        caveats in prop::collection::vec(any_caveat(), 0..4), more in any_caveat(), action in any_action(), now_ms in 0u64..20,
    ) {
        let wide = with(&caveats);
        let narrow = wide.attenuate(&more).unwrap();
        let alone = root().attenuate(&more).unwrap();
        let expected = is_allowed(&wide, &action, now_ms) && is_allowed(&alone, &action, now_ms);
        prop_assert_eq!(is_allowed(&narrow, &action, now_ms), expected);
    }

    #[test]
    fn there_is_one_encoding(caveats in prop::collection::vec(any_caveat(), 0..6)) {
        let macaroon = with(&caveats);
        let parsed = Macaroon::parse(macaroon.as_bytes()).unwrap();
        prop_assert_eq!(parsed.as_bytes(), macaroon.as_bytes());
        prop_assert_eq!(parsed.caveats(), macaroon.caveats());
        let again = with(parsed.caveats());
        prop_assert_eq!(again.as_bytes(), macaroon.as_bytes());
    }

    /// Whatever is changed, cut or put in: never accepted.
    #[test]
    fn no_mutation_is_accepted(
        caveats in prop::collection::vec(any_caveat(), 0..4),
        start: prop::sample::Index, cut in 0usize..8, put in prop::collection::vec(any::<u8>(), 0..8),
    ) {
        let macaroon = with(&caveats);
        let mut bytes = macaroon.as_bytes().to_vec();
        let start = start.index(bytes.len() + 1);
        let end = (start + cut).min(bytes.len());
        bytes.splice(start..end, put);
        prop_assume!(bytes != macaroon.as_bytes());
        if let Ok(parsed) = Macaroon::parse(&bytes) {
            prop_assert_eq!(parsed.as_bytes(), bytes.as_slice());
            let any = action(Operation::Any, None, None);
            prop_assert_eq!(parsed.authorize(SECRET, &any, 0), Err(Denied::Forged));
        }
    }

    #[test]
    fn foreign_bytes_never_panic(bytes: Vec<u8>) {
        let _ = Macaroon::parse(&bytes);
        let _ = Macaroon::parse(&[b"SMC1", bytes.as_slice()].concat());
        let _ = raw(&[(1, &[0; 32]), (5, &bytes), (127, &[0; 32])]);
        let _ = raw(&[(1, &[0; 32]), (6, &bytes), (127, &[0; 32])]);
    }
}
