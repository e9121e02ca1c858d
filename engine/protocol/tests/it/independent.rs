//! A second implementation of docs/format.md, sections 1, 2 and 5, with stock crates only and
//! nothing of ours: what somebody would write who has the documents and a damaged network, and
//! wants their file back.
//!
//! Self-contained, so that tests of other crates can include it by path. It needs `aes-siv`,
//! `argon2`, `blake3`, `hkdf` and `sha2`. It opens and derives; it panics on anything unexpected.
#![allow(
    dead_code,
    reason = "each test that includes this file uses a part of it"
)]

use aes_siv::KeyInit;
use aes_siv::siv::Aes256Siv;

/// `BLAKE3("strand node id v1"; ed25519 public key)`.
pub(crate) fn node_id(public_key: &[u8; 32]) -> [u8; 32] {
    blake3::derive_key("strand node id v1", public_key)
}

/// BLAKE3 keyed hash, key = segment secret, input = node id, piece index.
pub(crate) fn piece_id(segment_secret: &[u8; 32], node: &[u8; 32], index: u8) -> [u8; 32] {
    let mut input = node.to_vec();
    input.push(index);
    *blake3::keyed_hash(segment_secret, &input).as_bytes()
}

/// Lower-case base32 without padding, bit by bit.
pub(crate) fn base32(bytes: &[u8]) -> String {
    let bits: Vec<u8> = bytes
        .iter()
        .flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1))
        .collect();
    let symbol = |chunk: &[u8]| {
        let value = (0..5).fold(0, |value, i| {
            value << 1 | chunk.get(i).copied().unwrap_or(0)
        });
        char::from(b"abcdefghijklmnopqrstuvwxyz234567"[usize::from(value)])
    };
    bits.chunks(5).map(symbol).collect()
}

/// Text form of a node id.
pub(crate) fn node_id_text(id: &[u8; 32]) -> String {
    let check = blake3::derive_key("strand node id text v1", id);
    base32(&[&id[..], &check[..3]].concat())
}

/// *text* of section 5, without its prefix.
pub(crate) fn token_text(bytes: &[u8]) -> String {
    let check = blake3::derive_key("strand text v1", bytes);
    base32(&[bytes, &check[..4]].concat())
}

/// HKDF-Expand with SHA-256.
pub(crate) fn hkdf(prk: &[u8], info: &[u8], len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    hkdf::Hkdf::<sha2::Sha256>::from_prk(prk)
        .expect("a PRK of 32 bytes")
        .expand(info, &mut out)
        .expect("a short output");
    out
}

fn siv(key: &[u8]) -> Aes256Siv {
    Aes256Siv::new_from_slice(key).expect("a key of 64 bytes")
}

/// AES-SIV, sealing.
pub(crate) fn siv_seal(key: &[u8], associated: &[&[u8]], plain: &[u8]) -> Vec<u8> {
    siv(key)
        .encrypt(associated, plain)
        .expect("few associated strings")
}

/// AES-SIV, opening.
pub(crate) fn siv_open(key: &[u8], associated: &[&[u8]], sealed: &[u8]) -> Option<Vec<u8>> {
    siv(key).decrypt(associated, sealed).ok()
}

/// Argon2id, t = 3, m = 65,536 KiB, p = 4, version 0x13.
pub(crate) fn root_key(passphrase: &str, project_salt: &[u8; 32]) -> Vec<u8> {
    let params = argon2::Params::new(65_536, 3, 4, Some(32)).expect("good parameters");
    let mut key = vec![0; 32];
    argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params)
        .hash_password_into(passphrase.as_bytes(), project_salt, &mut key)
        .expect("a passphrase and a salt");
    key
}

/// Check value of a root key.
pub(crate) fn check_value(root_key: &[u8], project: &[u8; 16]) -> Vec<u8> {
    siv_seal(
        &hkdf(root_key, b"strand v1 check", 64),
        &[project],
        b"strand passphrase check v1",
    )
}

/// `HKDF(root key; "strand v1 bucket" || u32(epoch) || bucket name; 32)`.
pub(crate) fn bucket_key(root_key: &[u8], bucket: &str, epoch: u32) -> Vec<u8> {
    hkdf(
        root_key,
        &[
            b"strand v1 bucket",
            &epoch.to_le_bytes()[..],
            bucket.as_bytes(),
        ]
        .concat(),
        32,
    )
}

fn child_key(parent: &[u8], component: &[u8]) -> Vec<u8> {
    hkdf(parent, &[b"strand v1 child", component].concat(), 32)
}

/// Key of the last component of an object key, below a bucket's (or a prefix's) key.
pub(crate) fn path_key(from: &[u8], object_key: &str) -> Vec<u8> {
    object_key.split('/').fold(from.to_vec(), |key, component| {
        child_key(&key, component.as_bytes())
    })
}

/// Encrypted key in a bucket with sealed names.
pub(crate) fn encrypted_key(from: &[u8], object_key: &str) -> Vec<u8> {
    let (mut key, mut encrypted) = (from.to_vec(), Vec::new());
    for component in object_key.split('/') {
        let sealed = siv_seal(
            &hkdf(&key, b"strand v1 name", 64),
            &[],
            component.as_bytes(),
        );
        let len = u16::try_from(sealed.len()).expect("a short component");
        encrypted.extend_from_slice(&len.to_le_bytes());
        encrypted.extend_from_slice(&sealed);
        key = child_key(&key, component.as_bytes());
    }
    encrypted
}

/// The object key that an encrypted key stands for.
pub(crate) fn decrypted_key(from: &[u8], mut encrypted: &[u8]) -> String {
    let (mut key, mut components) = (from.to_vec(), Vec::new());
    while !encrypted.is_empty() {
        let len = usize::from(u16::from_le_bytes([encrypted[0], encrypted[1]]));
        let component = siv_open(
            &hkdf(&key, b"strand v1 name", 64),
            &[],
            &encrypted[2..2 + len],
        )
        .expect("our key");
        key = child_key(&key, &component);
        components.push(String::from_utf8(component).expect("UTF-8"));
        encrypted = &encrypted[2 + len..];
    }
    components.join("/")
}

/// Fields of a TLV structure, in the order of the bytes. Checks the magic and nothing else.
pub(crate) fn tlv_fields<'a>(magic: &[u8; 4], bytes: &'a [u8]) -> Vec<(u16, &'a [u8])> {
    let mut rest = bytes.strip_prefix(magic).expect("the magic");
    let mut fields = Vec::new();
    while !rest.is_empty() {
        let kind = u16::from_le_bytes([rest[0], rest[1]]);
        let len = u32::from_le_bytes([rest[2], rest[3], rest[4], rest[5]]) as usize;
        fields.push((kind, &rest[6..6 + len]));
        rest = &rest[6 + len..];
    }
    fields
}

/// The bytes of a TLV structure.
pub(crate) fn tlv(magic: &[u8; 4], fields: &[(u16, &[u8])]) -> Vec<u8> {
    let mut bytes = magic.to_vec();
    for (kind, value) in fields {
        bytes.extend_from_slice(&kind.to_le_bytes());
        bytes.extend_from_slice(
            &u32::try_from(value.len())
                .expect("a short value")
                .to_le_bytes(),
        );
        bytes.extend_from_slice(value);
    }
    bytes
}

/// What a header says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) object_id: [u8; 16],
    pub(crate) content_key: [u8; 32],
    pub(crate) object_root: [u8; 32],
    /// Number, plaintext bytes, segments.
    pub(crate) parts: Vec<(u32, u64, u32)>,
    pub(crate) segment_bytes: u64,
    pub(crate) metadata: Vec<(String, Vec<u8>)>,
    pub(crate) modified_ms: Option<u64>,
}

/// Opens a sealed object header with the path key of the object.
pub(crate) fn open_header(
    path_key: &[u8],
    project: &[u8; 16],
    bucket: &str,
    encrypted_key: &[u8],
    sealed: &[u8],
) -> Option<Header> {
    let key = hkdf(path_key, b"strand v1 header", 64);
    let associated: [&[u8]; 4] = [
        b"strand object header v1",
        project,
        bucket.as_bytes(),
        encrypted_key,
    ];
    let bytes = siv_open(&key, &associated, sealed)?;
    let fields = tlv_fields(b"SOH1", &bytes);
    let field = |kind| {
        fields
            .iter()
            .find(|field| field.0 == kind)
            .map(|field| field.1)
    };
    let number = |bytes: &[u8]| {
        bytes
            .iter()
            .rev()
            .fold(0u64, |number, byte| number << 8 | u64::from(*byte))
    };
    let small = |bytes: &[u8]| u32::try_from(number(bytes)).expect("four bytes");
    let part = |row: &[u8]| (small(&row[..4]), number(&row[4..12]), small(&row[12..16]));
    let mut metadata = Vec::new();
    let mut rest = field(0x8006).unwrap_or_default();
    while !rest.is_empty() {
        let (key, after) = rest[2..].split_at(small(&rest[..2]) as usize);
        let (value, after) = after[4..].split_at(small(&after[..4]) as usize);
        metadata.push((
            String::from_utf8(key.to_vec()).expect("UTF-8"),
            value.to_vec(),
        ));
        rest = after;
    }
    Some(Header {
        object_id: field(1)?.try_into().expect("16 bytes"),
        content_key: field(2)?.try_into().expect("32 bytes"),
        object_root: field(3)?.try_into().expect("32 bytes"),
        parts: field(4)?.chunks(16).map(part).collect(),
        segment_bytes: number(field(5)?),
        metadata,
        modified_ms: field(0x8007).map(number),
    })
}

/// Whether a piece filter contains an id: the formulas of docs/format.md, section 7, on the bytes at the document's offsets.
pub(crate) fn filter_contains(filter: &[u8], id: &[u8; 32]) -> bool {
    let number = |at: usize, len: usize| {
        let bytes = filter[at..at + len].iter().rev();
        bytes.fold(0_u64, |number, byte| number << 8 | u64::from(*byte))
    };
    let key: [u8; 32] = filter[152..184].try_into().unwrap();
    let (mix, count) = (number(184, 4), number(188, 4));
    let segment = 1_u64 << filter[4];
    let hash = blake3::keyed_hash(&key, id);
    let first: [u8; 8] = hash.as_bytes()[..8].try_into().unwrap();
    let x = u64::from_le_bytes(first).wrapping_add(mix);
    let h = x ^ (x >> 33);
    let h = h.wrapping_mul(0xff51afd7ed558ccd);
    let h = h ^ (h >> 33);
    let h = h.wrapping_mul(0xc4ceb9fe1a85ec53);
    let h = h ^ (h >> 33);
    let a = ((h as u128 * (count * segment) as u128) >> 64) as u64;
    let b = (a + segment) ^ ((h >> 18) % segment);
    let c = (a + 2 * segment) ^ (h % segment);
    let slot = |at: u64| filter[192 + at as usize];
    slot(a) ^ slot(b) ^ slot(c) == (h ^ (h >> 32)) as u8
}
