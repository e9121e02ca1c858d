//! Frozen bytes of every structure. A change here is a change of format: a new version, a reader
//! for this one, and a golden file of each.
//!
//! Both directions: what we write is the file, and what we read from the file is the sample.

use crate::independent;
use strand_protocol::{
    FilterKey, FilterScope, Grant, Invitation, Limit, Location, Macaroon, Names, NodeId,
    ObjectHeader, ObjectKey, PathKey, PieceFilter, Receipt, RootKey, decrypt_key, encrypt_key,
    open_header, seal_header,
};

/// One of everything, with fixed values.
pub(crate) mod sample {
    use strand_protocol::{
        Caveat, Grant, Invitation, KdfParams, LimitAction, LimitFields, Macaroon, Names, NodeId,
        ObjectHeader, Operations, PartEntry, ProjectId, Receipt, RootKey, SatelliteKeys,
        encrypt_prefix, piece_id,
    };

    pub(crate) const PASSPHRASE: &str = "Sand am Strand, früh um 5";
    pub(crate) const SALT: [u8; 32] = counted(0x40);
    pub(crate) const KEY_ID: [u8; 16] = counted(0x60);
    pub(crate) const MACAROON_SECRET: [u8; 32] = counted(0x80);
    pub(crate) const MASTER: [u8; 32] = counted(0xa0);
    pub(crate) const NOW: u64 = 1_750_000_000_000;

    /// `first`, `first + 1`, ..
    const fn counted<const N: usize>(first: u8) -> [u8; N] {
        let mut bytes = [0; N];
        let mut i = 0;
        while i < N {
            bytes[i] = first.wrapping_add(i as u8);
            i += 1;
        }
        bytes
    }

    pub(crate) fn node() -> NodeId {
        NodeId::of_public_key(&counted(0x01))
    }

    pub(crate) fn satellite() -> NodeId {
        NodeId::of_public_key(&counted(0x21))
    }

    pub(crate) fn project() -> ProjectId {
        counted(0x50).into()
    }

    pub(crate) fn keys() -> SatelliteKeys {
        SatelliteKeys::new(MASTER)
    }

    pub(crate) fn root_key() -> RootKey {
        RootKey::derive(PASSPHRASE, &SALT, KdfParams::DEFAULT).unwrap()
    }

    /// One caveat of each kind.
    pub(crate) fn macaroon() -> Macaroon {
        let bucket = RootKey::from([0x33; 32]).bucket_key("photos", 0);
        let (prefix, _) = encrypt_prefix(&bucket, Names::Sealed, "2024/").unwrap();
        [
            Caveat::Operations(Operations::READ | Operations::LIST),
            Caveat::NotBefore(NOW),
            Caveat::NotAfter(NOW + 86_400_000),
            Caveat::Buckets(vec!["photos".into(), "archive".into()]),
            Caveat::Prefixes(vec![
                ("photos".into(), prefix),
                ("archive".into(), b"old/".to_vec()),
            ]),
            Caveat::MaxObjectTtl(3_600_000),
            Caveat::Nonce(counted(0xc0)),
        ]
        .iter()
        .fold(
            Macaroon::mint(&MACAROON_SECRET, project(), KEY_ID),
            |macaroon, caveat| macaroon.attenuate(caveat).unwrap(),
        )
    }

    pub(crate) fn invitation() -> Invitation {
        Invitation {
            address: "satellite.example:7777".into(),
            satellite: satellite(),
            macaroon: Macaroon::mint(&MACAROON_SECRET, project(), KEY_ID),
            salt: SALT,
            project: project(),
            project_name: "Urlaub".into(),
        }
    }

    pub(crate) fn grant() -> Grant {
        Grant::from_invitation(&invitation(), PASSPHRASE, KdfParams::DEFAULT).unwrap()
    }

    pub(crate) fn restricted_grant() -> Grant {
        grant()
            .restrict(
                "photos",
                Names::Sealed,
                "2024/beach/",
                Operations::READ,
                Some(NOW),
            )
            .unwrap()
    }

    pub(crate) fn limit_fields() -> LimitFields {
        LimitFields {
            serial: counted(0x70).into(),
            satellite: satellite(),
            node: node(),
            piece_id: piece_id(&counted(0xe0), &node(), 92),
            action: LimitAction::Put,
            byte_count: 2_316_416,
            required: 29,
            total: 93,
            index: 92,
            sealed_len: 67_174_416,
            issued_ms: NOW,
            expires_ms: NOW + 3_600_000,
            piece_expiry_ms: NOW + 86_400_000,
            client: NodeId::of_public_key(&counted(0x11)),
            epoch: 3,
        }
    }

    pub(crate) fn receipt() -> Receipt {
        let limit = limit_fields();
        Receipt {
            serial: limit.serial,
            node: limit.node,
            piece_id: limit.piece_id,
            index: 92,
            piece_len: 2_316_416,
            root: counted(0x90),
            commitment: counted(0xb0),
            piece_expiry_ms: 0,
            epoch: 3,
        }
    }

    pub(crate) fn header() -> ObjectHeader {
        ObjectHeader {
            object_id: counted(0x12).into(),
            content_key: counted(0x34),
            object_root: counted(0x56),
            parts: vec![PartEntry {
                number: 1,
                plain_len: 67_108_865,
                segment_count: 2,
            }],
            segment_bytes: 67_108_864,
            metadata: vec![
                ("content-type".into(), b"image/jpeg".to_vec()),
                ("x".into(), vec![0xff]),
            ],
            modified_ms: Some(NOW),
        }
    }
}

macro_rules! golden {
    ($name:literal) => {
        include_str!(concat!("../golden/", $name)).trim()
    };
}

fn hex(bytes: &[u8]) -> String {
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let lines: Vec<&str> = digits
        .as_bytes()
        .chunks(64)
        .map(|line| str::from_utf8(line).unwrap())
        .collect();
    lines.join("\n")
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex
        .bytes()
        .filter(|byte| !byte.is_ascii_whitespace())
        .collect();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

fn check(written: &str, golden: &str) {
    assert_eq!(
        written, golden,
        "the format drifted; written now:\n{written}\n"
    );
}

#[test]
fn node_id_text_is_frozen() {
    check(&sample::node().to_string(), golden!("node_id.txt"));
    assert_eq!(golden!("node_id.txt").parse(), Ok(sample::node()));
    assert_eq!(
        golden!("node_id.txt").parse::<NodeId>().unwrap().as_bytes()[..],
        bytes(golden!("node_id.hex"))
    );
}

#[test]
fn root_key_is_frozen() {
    check(&hex(sample::root_key().as_bytes()), golden!("root_key.hex"));
}

#[test]
fn check_value_is_frozen() {
    let check_value = RootKey::from([0x33; 32]).check_value(sample::project());
    check(&hex(&check_value), golden!("check_value.hex"));
    let frozen = bytes(golden!("check_value.hex"));
    assert!(RootKey::from([0x33; 32]).verify_check_value(sample::project(), &frozen));
}

#[test]
fn encrypted_key_is_frozen() {
    let bucket = RootKey::from([0x33; 32]).bucket_key("photos", 0);
    let key = ObjectKey::parse("2024//Strand bei Nacht.jpg").unwrap();
    let (encrypted, path_key) = encrypt_key(&bucket, Names::Sealed, &key).unwrap();
    check(&hex(&encrypted), golden!("encrypted_key.hex"));
    check(&hex(path_key.as_bytes()), golden!("path_key.hex"));
    let theirs = independent::bucket_key(&[0x33; 32], "photos", 0);
    assert_eq!(
        independent::decrypted_key(&theirs, &bytes(golden!("encrypted_key.hex"))),
        key.as_str()
    );
    let read = decrypt_key(&bucket, Names::Sealed, &bytes(golden!("encrypted_key.hex")));
    assert_eq!(read.as_deref(), Ok(key.as_str()));
}

#[test]
fn macaroon_is_frozen() {
    check(&hex(sample::macaroon().as_bytes()), golden!("macaroon.hex"));
    assert_eq!(
        Macaroon::parse(&bytes(golden!("macaroon.hex"))),
        Ok(sample::macaroon())
    );
}

#[test]
fn invitation_text_is_frozen() {
    check(&sample::invitation().to_text(), golden!("invitation.txt"));
    assert_eq!(
        Invitation::from_text(golden!("invitation.txt")),
        Ok(sample::invitation())
    );
}

#[test]
fn grant_texts_are_frozen() {
    check(&sample::grant().to_text(), golden!("grant.txt"));
    check(
        &sample::restricted_grant().to_text(),
        golden!("restricted_grant.txt"),
    );
    assert_eq!(Grant::from_text(golden!("grant.txt")), Ok(sample::grant()));
    assert_eq!(
        Grant::from_text(golden!("restricted_grant.txt")),
        Ok(sample::restricted_grant())
    );
}

#[test]
fn limit_is_frozen() {
    let fields = sample::limit_fields();
    check(
        &hex(&Limit::mint(&fields, sample::project(), &sample::keys())),
        golden!("limit.hex"),
    );
    let frozen = bytes(golden!("limit.hex"));
    let parsed = Limit::parse(&frozen).unwrap();
    let key = sample::keys().limit_key(&fields.node, fields.epoch);
    assert_eq!(parsed.verify(&key).map(|limit| *limit), Ok(fields));
    assert_eq!(
        parsed.open_ticket(&sample::keys().ticket_key()),
        Ok(sample::project())
    );
}

#[test]
fn receipt_is_frozen() {
    let receipt = sample::receipt();
    let key = sample::keys().receipt_key(&receipt.node, receipt.epoch);
    check(&hex(&receipt.mint(&key)), golden!("receipt.hex"));
    assert_eq!(
        Receipt::parse(&bytes(golden!("receipt.hex"))).and_then(|parsed| parsed.verify(&key)),
        Ok(receipt)
    );
}

#[test]
fn object_header_is_frozen() {
    let header = sample::header();
    check(
        &hex(&header.encode().unwrap()),
        golden!("object_header.hex"),
    );
    assert_eq!(
        ObjectHeader::decode(&bytes(golden!("object_header.hex"))).as_ref(),
        Ok(&header)
    );
    let key = PathKey::from([0x44; 32]);
    let location = Location {
        project: sample::project(),
        bucket: "photos",
        encrypted_key: b"encrypted",
    };
    check(
        &hex(&seal_header(&key, &location, &header).unwrap()),
        golden!("sealed_header.hex"),
    );
    let frozen = bytes(golden!("sealed_header.hex"));
    let project = sample::project();
    let theirs = independent::open_header(
        &[0x44; 32],
        project.as_bytes(),
        "photos",
        b"encrypted",
        &frozen,
    )
    .unwrap();
    assert_eq!(
        (theirs.content_key, theirs.modified_ms),
        (header.content_key, header.modified_ms)
    );
    assert_eq!(open_header(&key, &location, &frozen), Ok(header));
}

/// 40 pieces, the satellite and the node of the other samples.
#[test]
fn piece_filter_is_frozen() {
    let scope = FilterScope {
        satellite: sample::satellite(),
        node: sample::node(),
        snapshot_ms: sample::NOW,
        first_id: [0; 32].into(),
        last_id: [0x7f; 32].into(),
    };
    let key = FilterKey::from([0x5f; 32]);
    let ids = || (0..40).map(|byte: u8| [3 * byte; 32]);
    let hashes = ids().map(|id| key.hash(&id)).collect();
    let filter = PieceFilter::build(scope, key, hashes).unwrap();
    check(&hex(filter.as_bytes()), golden!("piece_filter.hex"));
    let frozen = bytes(golden!("piece_filter.hex"));
    assert_eq!(PieceFilter::parse(frozen.clone()), Ok(filter.clone()));
    for id in ids() {
        assert!(independent::filter_contains(&frozen, &id));
    }
    let mut contained = 0;
    for byte in 0..0x7f {
        let id = [byte; 32];
        let is_contained = independent::filter_contains(&frozen, &id);
        assert_eq!(filter.contains(&id), is_contained, "{byte}");
        contained += usize::from(is_contained);
    }
    assert!((40..44).contains(&contained), "{contained}");
}
