use proptest::prelude::*;

use super::*;
use crate::id::{ProjectId, Serial};
use crate::limits::{LIMIT_BYTES, RECEIPT_BYTES};
use crate::tlv::{RawFields, push_field};

fn keys() -> SatelliteKeys {
    SatelliteKeys::new([0x11; 32])
}

fn fields() -> LimitFields {
    LimitFields {
        serial: Serial::from([1; 16]),
        satellite: NodeId::from([2; 32]),
        node: NodeId::from([3; 32]),
        piece_id: [4; 32].into(),
        action: LimitAction::Put,
        byte_count: 2_316_416,
        required: 29,
        total: 93,
        index: 92,
        sealed_len: 67_174_416,
        issued_ms: 1_700_000_000_000,
        expires_ms: 1_700_003_600_000,
        piece_expiry_ms: 0,
        client: NodeId::from([5; 32]),
        epoch: 6,
    }
}

fn project() -> ProjectId {
    ProjectId::from([7; 16])
}

fn limit() -> Vec<u8> {
    Limit::mint(&fields(), project(), &keys())
}

fn limit_key() -> LimitKey {
    keys().limit_key(&fields().node, fields().epoch)
}

fn receipt() -> Receipt {
    Receipt {
        serial: [1; 16].into(),
        node: [3; 32].into(),
        piece_id: [4; 32].into(),
        index: 92,
        piece_len: 2_316_416,
        root: [8; 32],
        commitment: [9; 32],
        piece_expiry_ms: 0,
        epoch: 6,
    }
}

fn receipt_key() -> ReceiptKey {
    keys().receipt_key(&receipt().node, receipt().epoch)
}

#[test]
fn a_limit_verifies_under_its_node_and_epoch_only() {
    let bytes = limit();
    assert_eq!(bytes.len(), LIMIT_BYTES);
    let parsed = Limit::parse(&bytes).unwrap();
    assert_eq!(
        (parsed.satellite(), parsed.node(), parsed.epoch()),
        (fields().satellite, fields().node, 6)
    );
    let limit = parsed.verify(&limit_key()).unwrap();
    assert_eq!(*limit, fields());
    assert_eq!(parsed.open_ticket(&keys().ticket_key()), Ok(project()));

    let node = fields().node;
    let wrong = [
        keys().limit_key(&node, 5),
        keys().limit_key(&NodeId::from([4; 32]), 6),
        SatelliteKeys::new([0x12; 32]).limit_key(&node, 6),
        LimitKey::from(*keys().receipt_key(&node, 6).as_bytes()),
        LimitKey::from([0; 32]),
    ];
    for key in wrong {
        assert_eq!(parsed.verify(&key), Err(PermitError::Mac));
    }
    let other_ticket_key = SatelliteKeys::new([0x12; 32]).ticket_key();
    assert_eq!(
        parsed.open_ticket(&other_ticket_key),
        Err(PermitError::Ticket)
    );
}

#[test]
fn every_flipped_bit_of_a_limit_is_refused() {
    let bytes = limit();
    for position in 0..8 * bytes.len() {
        let mut altered = bytes.clone();
        altered[position / 8] ^= 1 << (position % 8);
        let verified = Limit::parse(&altered).and_then(|limit| limit.verify(&limit_key()));
        assert!(verified.is_err(), "bit {position}");
    }
    for len in 0..bytes.len() {
        assert!(Limit::parse(&bytes[..len]).is_err());
    }
}

/// The node has the limit key, so it can make a MAC for any fields. It must not be able to make a
/// ticket for them.
#[test]
fn a_node_that_alters_a_limit_gets_no_ticket_for_it() {
    let bytes = limit();
    let mac_field = 6 + 32;
    let covered = bytes.len() - mac_field;
    let ticket_field = covered - mac_field;
    for position in 0..covered {
        let mut altered = bytes[..covered].to_vec();
        altered[position] ^= 1;
        let mac = blake3::keyed_hash(limit_key().as_bytes(), &altered);
        push_field(&mut altered, 15, mac.as_bytes());
        let Ok(parsed) = Limit::parse(&altered) else {
            continue;
        };
        assert!(parsed.verify(&limit_key()).is_ok(), "byte {position}");
        assert_eq!(
            parsed.open_ticket(&keys().ticket_key()),
            Err(PermitError::Ticket),
            "byte {position}"
        );
    }
    assert!(bytes[ticket_field..].starts_with(&[14, 0, 32, 0, 0, 0]));
}

#[test]
fn a_ticket_does_not_fit_another_limit() {
    let other = LimitFields {
        serial: Serial::from([0x21; 16]),
        ..fields()
    };
    let (one, two) = (limit(), Limit::mint(&other, project(), &keys()));
    let end = one.len() - 38;
    let mut mixed = two[..end - 38].to_vec();
    mixed.extend_from_slice(&one[end - 38..end]);
    let mac = blake3::keyed_hash(limit_key().as_bytes(), &mixed);
    push_field(&mut mixed, 15, mac.as_bytes());
    let parsed = Limit::parse(&mixed).unwrap();
    assert!(parsed.verify(&limit_key()).is_ok());
    assert_eq!(
        parsed.open_ticket(&keys().ticket_key()),
        Err(PermitError::Ticket)
    );
}

#[test]
fn nothing_can_be_added_to_a_limit_or_receipt() {
    let receipt = receipt().mint(&receipt_key());
    for kind in [0x8010, 0xffff, 0x10, 0x0f, 0x8001] {
        let (mut limit, mut receipt) = (limit(), receipt.clone());
        push_field(&mut limit, kind, b"");
        push_field(&mut receipt, kind, b"");
        assert!(
            matches!(Limit::parse(&limit), Err(PermitError::Structure(_))),
            "{kind:#x}"
        );
        assert!(
            matches!(Receipt::parse(&receipt), Err(PermitError::Structure(_))),
            "{kind:#x}"
        );
    }
    // Before the MAC a field is covered by it.
    let limit = limit();
    let at = limit.len() - 2 * 38;
    let mut inserted = limit[..at].to_vec();
    push_field(&mut inserted, 0x800d, &[0; 32]);
    inserted.extend_from_slice(&limit[at..]);
    assert_eq!(
        Limit::parse(&inserted).unwrap().verify(&limit_key()),
        Err(PermitError::Mac)
    );
}

/// A satellite of a later release may use the reserved payment anchor; nodes of this one serve the
/// limit.
#[test]
fn a_reserved_field_under_the_mac_is_skipped() {
    let limit = limit();
    let at = limit.len() - 2 * 38;
    let mut with_anchor = limit[..at].to_vec();
    push_field(&mut with_anchor, 0x800d, &[0; 32]);
    let ticket = crate::cipher::siv_seal(
        keys().ticket_key().as_bytes(),
        &[&with_anchor],
        project().as_bytes(),
    );
    push_field(&mut with_anchor, 14, &ticket);
    let mac = blake3::keyed_hash(limit_key().as_bytes(), &with_anchor);
    push_field(&mut with_anchor, 15, mac.as_bytes());
    let parsed = Limit::parse(&with_anchor).unwrap();
    assert_eq!(*parsed.verify(&limit_key()).unwrap(), fields());
    assert_eq!(parsed.open_ticket(&keys().ticket_key()), Ok(project()));
}

#[test]
fn impossible_shapes_and_actions_are_refused() {
    let at = |bytes: &[u8], kind| {
        let mut raw = RawFields::new(bytes, b"SLM1", 1_024).unwrap();
        loop {
            let field = raw.next_field().unwrap().unwrap();
            if field.kind == kind {
                return field.offset + 6;
            }
        }
    };
    let bytes = limit();
    let shape = at(&bytes, 7);
    let altered = |offset: usize, value: &[u8]| {
        let mut altered = bytes.clone();
        altered[offset..offset + value.len()].copy_from_slice(value);
        Limit::parse(&altered).err()
    };
    let cases: [(usize, &[u8]); 6] = [
        (0, &[0]),
        (0, &[65]),
        (0, &[94]),
        (2, &[93]),
        (3, &[0; 8]),
        (3, &67_174_417u64.to_le_bytes()),
    ];
    for (offset, value) in cases {
        assert_eq!(
            altered(shape + offset, value),
            Some(PermitError::Shape),
            "{offset} {value:?}"
        );
    }
    for action in [0, 7, 255] {
        assert_eq!(
            altered(at(&bytes, 5), &[action]),
            Some(PermitError::Action { action })
        );
    }
    for action in 1..=6 {
        assert_eq!(LimitAction::try_from(action).unwrap() as u8, action);
    }
    let none = Receipt {
        piece_len: 0,
        ..receipt()
    }
    .mint(&receipt_key());
    assert_eq!(Receipt::parse(&none).err(), Some(PermitError::Shape));
}

#[test]
fn a_receipt_verifies_under_its_node_and_epoch_only() {
    let bytes = receipt().mint(&receipt_key());
    assert_eq!(bytes.len(), RECEIPT_BYTES);
    let parsed = Receipt::parse(&bytes).unwrap();
    assert_eq!(
        (parsed.node(), parsed.epoch(), parsed.serial()),
        (receipt().node, 6, receipt().serial)
    );
    assert_eq!(parsed.verify(&receipt_key()), Ok(receipt()));
    let node = receipt().node;
    let wrong = [
        keys().receipt_key(&node, 7),
        keys().receipt_key(&NodeId::from([4; 32]), 6),
        ReceiptKey::from(*keys().limit_key(&node, 6).as_bytes()),
    ];
    for key in wrong {
        assert_eq!(parsed.verify(&key), Err(PermitError::Mac));
    }
}

#[test]
fn every_flipped_bit_of_a_receipt_is_refused() {
    let bytes = receipt().mint(&receipt_key());
    for position in 0..8 * bytes.len() {
        let mut altered = bytes.clone();
        altered[position / 8] ^= 1 << (position % 8);
        let verified = Receipt::parse(&altered).and_then(|receipt| receipt.verify(&receipt_key()));
        assert!(verified.is_err(), "bit {position}");
    }
    for len in 0..bytes.len() {
        assert!(Receipt::parse(&bytes[..len]).is_err());
    }
}

#[test]
fn keys_are_not_printed() {
    assert_eq!(
        format!("{:?} {:?}", keys(), limit_key()),
        "SatelliteKeys { master: MasterKey(<secret>), ticket: TicketKey(<secret>) } LimitKey(<secret>)"
    );
}

prop_compose! {
    fn any_fields()(
        serial: [u8; 16], satellite: [u8; 32], node: [u8; 32], piece_id: [u8; 32], client: [u8; 32],
        action in 1u8..=6, required in 1u8..=64, more in 0u8..=191, sealed_len in 1u64..=67_174_416,
        numbers: [u64; 4], epoch: u32, index: prop::sample::Index,
    ) -> LimitFields {
        let total = required + more;
        LimitFields {
            serial: serial.into(), satellite: satellite.into(), node: node.into(), piece_id: piece_id.into(),
            action: action.try_into().unwrap(), byte_count: numbers[0], required, total,
            index: u8::try_from(index.index(total.into())).unwrap(), sealed_len,
            issued_ms: numbers[1], expires_ms: numbers[2], piece_expiry_ms: numbers[3], client: client.into(), epoch,
        }
    }
}

proptest! {
    #[test]
    fn every_limit_comes_back(fields in any_fields(), project: [u8; 16]) {
        let bytes = Limit::mint(&fields, project.into(), &keys());
        let parsed = Limit::parse(&bytes).unwrap();
        prop_assert_eq!(*parsed.verify(&keys().limit_key(&fields.node, fields.epoch)).unwrap(), fields);
        prop_assert_eq!(parsed.open_ticket(&keys().ticket_key()), Ok(project.into()));
    }

    #[test]
    fn foreign_bytes_never_panic(bytes: Vec<u8>) {
        for magic in [&b""[..], b"SLM1", b"SRC1"] {
            let bytes = [magic, &bytes].concat();
            let _ = Limit::parse(&bytes);
            let _ = Receipt::parse(&bytes);
        }
    }
}
