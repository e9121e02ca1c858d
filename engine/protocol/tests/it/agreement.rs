//! The crate and the independent reader agree about every structure.

use proptest::prelude::*;
use strand_protocol::{
    Caveat, Limit, Location, Macaroon, Names, NodeId, ObjectHeader, ObjectKey, Operations,
    PartEntry, RootKey, encrypt_key, piece_id, seal_header,
};

use crate::golden::sample;
use crate::independent;

#[test]
fn identifiers_agree() {
    let id = NodeId::of_public_key(&[1; 32]);
    assert_eq!(id.as_bytes(), &independent::node_id(&[1; 32]));
    assert_eq!(id.to_string(), independent::node_id_text(id.as_bytes()));
    for index in [0, 92, 255] {
        assert_eq!(
            piece_id(&[2; 32], &id, index).as_bytes(),
            &independent::piece_id(&[2; 32], id.as_bytes(), index)
        );
    }
}

#[test]
fn root_key_and_check_value_agree() {
    let ours = sample::root_key();
    let theirs = independent::root_key(sample::PASSPHRASE, &sample::SALT);
    assert_eq!(ours.as_bytes().as_slice(), theirs);
    assert_eq!(
        ours.check_value(sample::project()),
        independent::check_value(&theirs, sample::project().as_bytes())
    );
}

/// RFC 9106, section 5.3: the variant and version that both of us call are the RFC's Argon2id.
#[test]
fn argon2id_is_that_of_the_rfc() {
    let params = argon2::ParamsBuilder::new()
        .m_cost(32)
        .t_cost(3)
        .p_cost(4)
        .data(argon2::AssociatedData::new(&[4; 12]).unwrap())
        .build()
        .unwrap();
    let argon2 = argon2::Argon2::new_with_secret(
        &[3; 8],
        argon2::Algorithm::Argon2id,
        argon2::Version::V0x13,
        params,
    )
    .unwrap();
    let mut tag = [0; 32];
    argon2
        .hash_password_into(&[1; 32], &[2; 16], &mut tag)
        .unwrap();
    assert_eq!(
        tag,
        [
            0x0d, 0x64, 0x0d, 0xf5, 0x8d, 0x78, 0x76, 0x6c, 0x08, 0xc0, 0x37, 0xa3, 0x4a, 0x8b,
            0x53, 0xc9, 0xd0, 0x1e, 0xf0, 0x45, 0x2d, 0x75, 0xb6, 0x5e, 0xb5, 0x25, 0x20, 0xe9,
            0x6b, 0x01, 0xe6, 0x59
        ]
    );
}

/// S2V counts its strings, so a reader must pass none where docs/format.md lists none.
#[test]
fn no_associated_data_is_not_one_empty_string() {
    let key = [9; 64];
    assert_ne!(
        independent::siv_seal(&key, &[], b"name"),
        independent::siv_seal(&key, &[b""], b"name")
    );
    let sealed = independent::siv_seal(&key, &[], b"name");
    assert_eq!(
        independent::siv_open(&key, &[], &sealed).as_deref(),
        Some(&b"name"[..])
    );
    assert_eq!(independent::siv_open(&key, &[b""], &sealed), None);
}

fn check_key(root: [u8; 32], bucket: &str, epoch: u32, name: &str) {
    let ours = RootKey::from(root).bucket_key(bucket, epoch);
    let theirs = independent::bucket_key(&root, bucket, epoch);
    assert_eq!(ours.as_bytes().as_slice(), theirs);
    let (encrypted, path_key) =
        encrypt_key(&ours, Names::Sealed, &ObjectKey::parse(name).unwrap()).unwrap();
    assert_eq!(encrypted, independent::encrypted_key(&theirs, name));
    assert_eq!(
        path_key.as_bytes().as_slice(),
        independent::path_key(&theirs, name)
    );
    assert_eq!(independent::decrypted_key(&theirs, &encrypted), name);
}

#[test]
fn encrypted_keys_agree() {
    for name in ["a", "a/b/c", "/", "//", "a/", "../ä", &"k".repeat(1_280)] {
        check_key([3; 32], "photos", 0, name);
        check_key([3; 32], "photos", 7, name);
    }
}

fn check_header(header: &ObjectHeader, name: &str) {
    let root = [3; 32];
    let bucket = RootKey::from(root).bucket_key("photos", 0);
    let (encrypted, path_key) =
        encrypt_key(&bucket, Names::Sealed, &ObjectKey::parse(name).unwrap()).unwrap();
    let location = Location {
        project: sample::project(),
        bucket: "photos",
        encrypted_key: &encrypted,
    };
    let sealed = seal_header(&path_key, &location, header).unwrap();
    let their_path_key = independent::path_key(&independent::bucket_key(&root, "photos", 0), name);
    let project = sample::project();
    let opened = independent::open_header(
        &their_path_key,
        project.as_bytes(),
        "photos",
        &encrypted,
        &sealed,
    );
    let expected = independent::Header {
        object_id: *header.object_id.as_bytes(),
        content_key: header.content_key,
        object_root: header.object_root,
        parts: header
            .parts
            .iter()
            .map(|part| (part.number, part.plain_len, part.segment_count))
            .collect(),
        segment_bytes: header.segment_bytes,
        metadata: header.metadata.clone(),
        modified_ms: header.modified_ms,
    };
    assert_eq!(opened, Some(expected));
    assert_eq!(
        independent::open_header(&their_path_key, &[0; 16], "photos", &encrypted, &sealed),
        None
    );
}

#[test]
fn sealed_headers_agree() {
    check_header(&sample::header(), "some/key");
    let parts = vec![
        PartEntry {
            number: 2,
            plain_len: 0,
            segment_count: 1,
        },
        PartEntry {
            number: 9,
            plain_len: 5_000,
            segment_count: 5,
        },
    ];
    let mut bare = sample::header();
    bare.parts = parts;
    bare.segment_bytes = 1_000;
    bare.metadata = Vec::new();
    bare.modified_ms = None;
    check_header(&bare, "/");
}

fn hmac(key: &[u8], message: &[u8]) -> Vec<u8> {
    use hmac::{KeyInit, Mac};
    let mut mac = hmac::Hmac::<sha2::Sha256>::new_from_slice(key).unwrap();
    mac.update(message);
    mac.finalize().into_bytes().to_vec()
}

#[test]
fn macaroons_agree() {
    let bytes = sample::macaroon().as_bytes().to_vec();
    let fields = independent::tlv_fields(b"SMC1", &bytes);
    let kinds: Vec<u16> = fields.iter().map(|field| field.0).collect();
    assert_eq!(kinds, [1, 2, 3, 4, 5, 6, 7, 8, 127]);
    let identifier = [sample::project().as_bytes(), &sample::KEY_ID[..]].concat();
    assert_eq!(fields[0].1, identifier);
    assert_eq!(fields[1].1, [1 | 4]);
    assert_eq!(fields[4].1, b"\x07archive\x06photos");
    let mut tail = hmac(
        &sample::MACAROON_SECRET,
        &[b"strand v1 macaroon", &identifier[..]].concat(),
    );
    for (kind, value) in &fields[1..fields.len() - 1] {
        tail = hmac(&tail, &independent::tlv(b"____", &[(*kind, value)])[4..]);
    }
    assert_eq!(fields.last().unwrap().1, tail);
}

#[test]
fn limits_and_receipts_agree() {
    let fields = sample::limit_fields();
    let shape = [&[29, 93, 92][..], &67_174_416u64.to_le_bytes()].concat();
    let mut bytes = independent::tlv(
        b"SLM1",
        &[
            (1, fields.serial.as_bytes()),
            (2, fields.satellite.as_bytes()),
            (3, fields.node.as_bytes()),
            (4, fields.piece_id.as_bytes()),
            (5, &[1]),
            (6, &2_316_416u64.to_le_bytes()),
            (7, &shape),
            (8, &fields.issued_ms.to_le_bytes()),
            (9, &fields.expires_ms.to_le_bytes()),
            (10, &fields.piece_expiry_ms.to_le_bytes()),
            (11, fields.client.as_bytes()),
            (12, &fields.epoch.to_le_bytes()),
        ],
    );
    let append = |bytes: &mut Vec<u8>, kind, value: &[u8]| {
        let field = independent::tlv(b"____", &[(kind, value)]);
        bytes.extend_from_slice(&field[4..]);
    };
    let node_info = |purpose: &str| {
        [
            purpose.as_bytes(),
            fields.node.as_bytes(),
            &fields.epoch.to_le_bytes(),
        ]
        .concat()
    };
    let ticket_key = independent::hkdf(&sample::MASTER, b"strand v1 ticket", 64);
    let ticket = independent::siv_seal(&ticket_key, &[&bytes], sample::project().as_bytes());
    append(&mut bytes, 14, &ticket);
    let limit_key = independent::hkdf(&sample::MASTER, &node_info("strand v1 limit"), 32);
    let mac = blake3::keyed_hash(limit_key.as_slice().try_into().unwrap(), &bytes);
    append(&mut bytes, 15, mac.as_bytes());
    assert_eq!(
        Limit::mint(&fields, sample::project(), &sample::keys()),
        bytes
    );

    let receipt = sample::receipt();
    let mut bytes = independent::tlv(
        b"SRC1",
        &[
            (1, receipt.serial.as_bytes()),
            (2, receipt.node.as_bytes()),
            (3, receipt.piece_id.as_bytes()),
            (4, &[92]),
            (5, &2_316_416u64.to_le_bytes()),
            (6, &receipt.root),
            (7, &receipt.commitment),
            (8, &0u64.to_le_bytes()),
            (9, &receipt.epoch.to_le_bytes()),
        ],
    );
    let receipt_key = independent::hkdf(&sample::MASTER, &node_info("strand v1 receipt"), 32);
    let mac = blake3::keyed_hash(receipt_key.as_slice().try_into().unwrap(), &bytes);
    append(&mut bytes, 15, mac.as_bytes());
    assert_eq!(
        receipt.mint(&sample::keys().receipt_key(&receipt.node, receipt.epoch)),
        bytes
    );
}

#[test]
fn grant_and_invitation_texts_agree() {
    let invitation = sample::invitation();
    let bytes = independent::tlv(
        b"SIN1",
        &[
            (1, invitation.address.as_bytes()),
            (2, invitation.satellite.as_bytes()),
            (3, invitation.macaroon.as_bytes()),
            (4, &sample::SALT),
            (5, sample::project().as_bytes()),
            (6, invitation.project_name.as_bytes()),
        ],
    );
    assert_eq!(
        invitation.to_text(),
        format!("strand-invite1-{}", independent::token_text(&bytes))
    );

    let grant = sample::restricted_grant();
    let key = &grant.keys[0];
    let params = [3u32, 65_536, 4].map(u32::to_le_bytes).concat();
    let bucket_key = independent::bucket_key(sample::root_key().as_bytes(), "photos", 0);
    let encrypted = independent::encrypted_key(&bucket_key, "2024/beach");
    let encrypted_len = u16::try_from(encrypted.len()).unwrap().to_le_bytes();
    let row = [
        &b"\x06photos\x0b\x002024/beach/"[..],
        &encrypted_len,
        &encrypted,
        &independent::path_key(&bucket_key, "2024/beach"),
        &[0; 4],
    ]
    .concat();
    assert_eq!(key.encrypted_prefix, encrypted);
    let bytes = independent::tlv(
        b"SGR1",
        &[
            (1, grant.address.as_bytes()),
            (2, grant.satellite.as_bytes()),
            (3, grant.macaroon.as_bytes()),
            (4, &sample::SALT),
            (5, sample::project().as_bytes()),
            (6, &params),
            (7, &row),
        ],
    );
    assert_eq!(
        grant.to_text(),
        format!("strand-grant1-{}", independent::token_text(&bytes))
    );
}

#[test]
fn an_attenuated_macaroon_is_what_the_chain_says() {
    let root = Macaroon::mint(&sample::MACAROON_SECRET, sample::project(), sample::KEY_ID);
    let narrow = root
        .attenuate(&Caveat::Operations(Operations::READ))
        .unwrap();
    let tail = |macaroon: &Macaroon| macaroon.as_bytes()[macaroon.as_bytes().len() - 32..].to_vec();
    assert_eq!(tail(&narrow), hmac(&tail(&root), &[2, 0, 1, 0, 0, 0, 1]));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn encrypted_keys_agree_for_all_names(root: [u8; 32], epoch: u32, name in "[^\u{0}]{1,40}", slashes in "[ab/]{1,20}") {
        check_key(root, "photos", epoch, &name);
        check_key(root, "photos", epoch, &slashes);
    }

    #[test]
    fn sealed_headers_agree_for_all_fields(
        object_id: [u8; 16], content_key: [u8; 32], object_root: [u8; 32], segment_bytes in 1u64..=67_108_864,
        segments in 0u64..1_000, rest: prop::sample::Index, modified_ms: Option<u64>,
        metadata in prop::collection::btree_map(".{0,10}", any::<[u8; 9]>(), 0..9),
    ) {
        let rest = rest.index(usize::try_from(segment_bytes).unwrap()) as u64 + 1;
        let (plain_len, count) = if segments == 0 { (0, 1) } else { ((segments - 1) * segment_bytes + rest, segments) };
        let parts = vec![PartEntry { number: 1, plain_len, segment_count: u32::try_from(count).unwrap() }];
        let metadata = metadata.into_iter().map(|(key, value)| (key, value.to_vec())).collect();
        let header = ObjectHeader {
            object_id: object_id.into(), content_key, object_root, parts, segment_bytes, metadata, modified_ms,
        };
        check_header(&header, "a/b");
    }
}
