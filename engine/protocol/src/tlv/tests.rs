use proptest::prelude::*;

use super::*;

const MAGIC: &[u8; 4] = b"TST1";

fn structure(fields: &[(u16, &[u8])]) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    for (kind, value) in fields {
        push_field(&mut bytes, *kind, value);
    }
    bytes
}

/// A structure of fields 1 (u32) and 5 (text), and 0x8007 if there.
fn read(bytes: &[u8]) -> Result<(u32, String, Option<u64>), TlvError> {
    let mut reader = Reader::new(bytes, MAGIC, 1_000)?;
    let one = reader.required(1)?.u32()?;
    let five = reader.required(5)?.text()?.to_owned();
    let seven = reader
        .optional(OPTIONAL | 7)?
        .map(|field| field.u64())
        .transpose()?;
    reader.finish()?;
    Ok((one, five, seven))
}

const FOUR: &[u8] = &[4, 0, 0, 0];
const EIGHT: &[u8] = &[8, 0, 0, 0, 0, 0, 0, 0];

#[test]
fn a_written_structure_reads_back() {
    let mut writer = Writer::new(MAGIC);
    writer
        .field(1, FOUR)
        .field(5, b"five")
        .field(OPTIONAL | 7, EIGHT);
    assert_eq!(
        writer.as_bytes(),
        structure(&[(1, FOUR), (5, b"five"), (0x8007, EIGHT)])
    );
    assert_eq!(read(&writer.finish()), Ok((4, "five".into(), Some(8))));
}

#[test]
fn the_worked_example_of_a_field_holds() {
    assert_eq!(
        structure(&[(0x8007, &[9])]),
        [b'T', b'S', b'T', b'1', 0x07, 0x80, 1, 0, 0, 0, 9]
    );
}

#[test]
fn unknown_optional_fields_are_skipped_wherever_they_are() {
    for kind in [2, 4, 6, 7, 8, 0x7fff] {
        let kind = OPTIONAL | kind;
        let mut fields: Vec<(u16, &[u8])> = vec![(1, FOUR), (5, b"x"), (kind, EIGHT)];
        fields.sort_by_key(|(kind, _)| kind & !OPTIONAL);
        let seven = (kind == OPTIONAL | 7).then_some(8);
        assert_eq!(
            read(&structure(&fields)),
            Ok((4, "x".into(), seven)),
            "{kind:#x}"
        );
    }
}

#[test]
fn every_way_to_be_wrong_is_refused() {
    let five: (u16, &[u8]) = (5, b"x");
    let cases: [(Vec<u8>, TlvError); 13] = [
        (
            vec![],
            TlvError::Magic {
                found: [0; 4],
                expected: *MAGIC,
            },
        ),
        (
            b"TST2".to_vec(),
            TlvError::Magic {
                found: *b"TST2",
                expected: *MAGIC,
            },
        ),
        (
            structure(&[(5, &[b'a'; 2_000])]),
            TlvError::TooLong {
                len: 2_010,
                max: 1_000,
            },
        ),
        (structure(&[]), TlvError::Missing { kind: 1 }),
        (structure(&[five]), TlvError::Missing { kind: 1 }),
        (structure(&[(1, FOUR)]), TlvError::Missing { kind: 5 }),
        (
            structure(&[(1, FOUR), (1, FOUR), five]),
            TlvError::Disorder { kind: 1 },
        ),
        (structure(&[five, (1, FOUR)]), TlvError::Missing { kind: 1 }),
        (
            structure(&[(1, FOUR), five, (0x8005, b"x")]),
            TlvError::Disorder { kind: 0x8005 },
        ),
        (
            structure(&[(1, FOUR), (3, b""), five]),
            TlvError::Unknown { kind: 3 },
        ),
        (
            structure(&[(1, FOUR), five, (9, b"")]),
            TlvError::Unknown { kind: 9 },
        ),
        (
            structure(&[(1, EIGHT), five]),
            TlvError::Length { kind: 1, len: 8 },
        ),
        (
            structure(&[(1, FOUR), (5, &[0xff])]),
            TlvError::Value { kind: 5 },
        ),
    ];
    for (bytes, error) in cases {
        assert_eq!(read(&bytes), Err(error), "{bytes:02x?}");
    }
}

#[test]
fn a_known_field_with_the_other_optional_bit_is_not_that_field() {
    assert_eq!(
        read(&structure(&[(0x8001, FOUR), (5, b"x")])),
        Err(TlvError::Missing { kind: 1 })
    );
    assert_eq!(
        read(&structure(&[(1, FOUR), (5, b"x"), (7, EIGHT)])),
        Err(TlvError::Unknown { kind: 7 })
    );
}

#[test]
fn every_cut_is_refused_and_so_is_a_trailing_byte() {
    let whole = structure(&[(1, FOUR), (5, b"five"), (0x8007, EIGHT)]);
    let without_seven = structure(&[(1, FOUR), (5, b"five")]).len();
    for len in 0..whole.len() {
        assert_eq!(
            read(&whole[..len]).is_ok(),
            len == without_seven,
            "cut at {len}"
        );
    }
    let mut longer = whole.clone();
    longer.push(0);
    assert_eq!(
        read(&longer),
        Err(TlvError::Truncated {
            offset: whole.len()
        })
    );
}

#[test]
#[should_panic(expected = "out of order")]
fn writing_out_of_order_is_our_own_mistake() {
    Writer::new(MAGIC).field(5, b"").field(1, b"");
}

fn any_field() -> impl Strategy<Value = (u16, Vec<u8>)> {
    let kind = (0u16..9, any::<bool>()).prop_map(
        |(kind, is_optional)| {
            if is_optional { kind | OPTIONAL } else { kind }
        },
    );
    (kind, prop::collection::vec(any::<u8>(), 0..9))
}

proptest! {
    #[test]
    fn foreign_bytes_never_panic(mut bytes: Vec<u8>, with_magic: bool) {
        if with_magic {
            bytes.splice(0..0, *MAGIC);
        }
        let _ = read(&bytes);
        if let Ok(mut fields) = RawFields::new(&bytes, MAGIC, 1_000) {
            while let Ok(Some(_)) = fields.next_field() {}
        }
    }

    /// Near-valid input: valid fields in random order with random types from a small set.
    #[test]
    fn what_is_read_has_one_encoding(fields in prop::collection::vec(any_field(), 0..5)) {
        let fields: Vec<(u16, &[u8])> =
            fields.iter().map(|(kind, value)| (*kind, value.as_slice())).collect();
        let bytes = structure(&fields);
        if let Ok((one, five, seven)) = read(&bytes) {
            let (one, seven) = (one.to_le_bytes(), seven.map(u64::to_le_bytes));
            let mut known: Vec<(u16, &[u8])> = vec![(1, &one), (5, five.as_bytes())];
            known.extend(seven.as_ref().map(|seven| (OPTIONAL | 7, seven.as_slice())));
            let mut kept = fields;
            kept.retain(|field| known.contains(field));
            prop_assert_eq!(structure(&kept), structure(&known));
        }
    }
}
