//! A second reader of docs/format.md sections 3 and 4, from stock crates only.
//!
//! Goal: data can be restored with public software and the document alone. Method: every formula
//! is written down again from the document, with `reed-solomon-simd`, `blake3`, `aes-gcm`, `hkdf`
//! and `sha2`, and nothing of ours. It is slow, allocates freely, and stops the test by a panic
//! at whatever does not fit.
//!
//! The file stands alone: tests of other crates include it by `#[path]`.

#![allow(
    dead_code,
    reason = "each test binary that includes this file uses a part of it"
)]

use aes_gcm::aead::{Aead, KeyInit};
use aes_gcm::{Aes256Gcm, Nonce};
use reed_solomon_simd::engine::NoSimd;
use reed_solomon_simd::rate::{LowRateDecoder, LowRateEncoder, RateDecoder, RateEncoder};

/// A segment's metadata, as the satellite and the object header keep it.
#[derive(Clone, Debug)]
pub(crate) struct SegmentFacts {
    pub(crate) required: usize,
    pub(crate) total: usize,
    pub(crate) sealed_len: usize,
    pub(crate) content_key: [u8; 32],
    pub(crate) salt: [u8; 24],
    pub(crate) key_commitment: [u8; 32],
    pub(crate) object_id: [u8; 16],
    pub(crate) part_number: u32,
    pub(crate) segment_index: u32,
}

const SHARE: usize = 16_384;
const SEALED_CHUNK: usize = 16_400;

/// `sealed_len = plain_len + 16 x (floor(plain_len / 16,384) + 1)`
pub(crate) fn sealed_len(plain_len: usize) -> usize {
    plain_len + 16 * (plain_len / 16_384 + 1)
}

/// Share lengths of a piece, stripe by stripe.
pub(crate) fn share_lens(required: usize, sealed_len: usize) -> Vec<usize> {
    let mut lens = vec![SHARE; sealed_len / (SHARE * required)];
    let rest = sealed_len % (SHARE * required);
    if rest > 0 {
        lens.push(rest.div_ceil(required).div_ceil(64) * 64);
    }
    lens
}

pub(crate) fn piece_len(required: usize, sealed_len: usize) -> usize {
    share_lens(required, sealed_len).iter().sum()
}

/// The plaintext from exactly `required` pieces of any indices.
pub(crate) fn restore(facts: &SegmentFacts, pieces: &[(usize, &[u8])]) -> Vec<u8> {
    open(facts, &sealed_bytes(facts, pieces))
}

/// The sealed bytes from exactly `required` pieces of any indices.
pub(crate) fn sealed_bytes(facts: &SegmentFacts, pieces: &[(usize, &[u8])]) -> Vec<u8> {
    assert_eq!(pieces.len(), facts.required);
    try_sealed_bytes(facts, pieces).unwrap()
}

/// The sealed bytes from any pieces, or what the decoder says if they are too few.
pub(crate) fn try_sealed_bytes(
    facts: &SegmentFacts,
    pieces: &[(usize, &[u8])],
) -> Result<Vec<u8>, reed_solomon_simd::Error> {
    let (k, n) = (facts.required, facts.total);
    let lens = share_lens(k, facts.sealed_len);
    let mut sealed = Vec::new();
    let mut offset = 0;
    for len in lens {
        let mut data: Vec<Option<Vec<u8>>> = vec![None; k];
        for &(index, piece) in pieces.iter().filter(|piece| piece.0 < k) {
            data[index] = Some(piece[offset..offset + len].to_vec());
        }
        if data.iter().any(Option::is_none) {
            let mut decoder = LowRateDecoder::new(k, n - k, len, NoSimd::new(), None)?;
            for &(index, piece) in pieces {
                let share = &piece[offset..offset + len];
                if index < k {
                    decoder.add_original_shard(index, share)?;
                } else {
                    decoder.add_recovery_shard(index - k, share)?;
                }
            }
            for (index, share) in decoder.decode()?.restored_original_iter() {
                data[index] = Some(share.to_vec());
            }
        }
        data.iter()
            .for_each(|share| sealed.extend(share.as_ref().unwrap()));
        offset += len;
    }
    let padding = sealed.split_off(facts.sealed_len);
    assert!(
        padding.iter().all(|&byte| byte == 0),
        "shares are filled up with zeros"
    );
    Ok(sealed)
}

/// All pieces of a segment from its sealed bytes.
pub(crate) fn all_pieces(facts: &SegmentFacts, sealed: &[u8]) -> Vec<Vec<u8>> {
    let (k, n) = (facts.required, facts.total);
    assert_eq!(sealed.len(), facts.sealed_len);
    let mut pieces = vec![Vec::new(); n];
    let mut rest = sealed;
    for len in share_lens(k, sealed.len()) {
        let (stripe, after) = rest.split_at(rest.len().min(k * len));
        rest = after;
        let mut padded = stripe.to_vec();
        padded.resize(k * len, 0);
        for (index, share) in padded.chunks(len).enumerate() {
            pieces[index].extend_from_slice(share);
        }
        if n > k {
            let mut encoder = LowRateEncoder::new(k, n - k, len, NoSimd::new(), None).unwrap();
            padded
                .chunks(len)
                .for_each(|share| encoder.add_original_shard(share).unwrap());
            for (row, share) in encoder.encode().unwrap().recovery_iter().enumerate() {
                pieces[k + row].extend_from_slice(share);
            }
        }
    }
    assert!(rest.is_empty());
    pieces
}

/// Opens sealed bytes; key, salt and context must be those of the key commitment.
pub(crate) fn open(facts: &SegmentFacts, sealed: &[u8]) -> Vec<u8> {
    let mut context = b"strand v1 segment".to_vec();
    context.extend(facts.object_id);
    context.extend(facts.part_number.to_le_bytes());
    context.extend(facts.segment_index.to_le_bytes());
    let mut info = b"c2sp.org/chunked-encryption@v1+AEAD_AES_256_GCM\0".to_vec();
    info.extend(facts.salt);
    info.extend(context);

    // The crate asks for a key of the hash's length; HMAC fills shorter ones up with zeros.
    let mut prk = facts.content_key.to_vec();
    prk.resize(64, 0);
    let mut okm = [0; 76];
    hkdf::Hkdf::<sha2::Sha512>::from_prk(&prk)
        .unwrap()
        .expand(&info, &mut okm)
        .unwrap();
    let (key, base_nonce, commitment) = (&okm[..32], &okm[32..44], &okm[44..]);
    assert_eq!(commitment, facts.key_commitment, "key commitment");

    let cipher = Aes256Gcm::new_from_slice(key).unwrap();
    let mut plain = Vec::new();
    let chunk_count = sealed.len() / SEALED_CHUNK + 1;
    assert!(
        sealed.len() % SEALED_CHUNK >= 16,
        "the last chunk is shorter than the others"
    );
    for (index, chunk) in sealed.chunks(SEALED_CHUNK).enumerate() {
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&(index as u64).to_be_bytes());
        nonce
            .iter_mut()
            .zip(base_nonce)
            .for_each(|(byte, base)| *byte ^= base);
        let opened = cipher
            .decrypt(&Nonce::from(nonce), chunk)
            .expect("chunk opens");
        assert_eq!(opened.len() < 16_384, index + 1 == chunk_count);
        plain.extend(opened);
    }
    plain
}

/// The segment commitment over all pieces in index order.
pub(crate) fn segment_commitment(facts: &SegmentFacts, pieces: &[Vec<u8>]) -> [u8; 32] {
    assert_eq!(pieces.len(), facts.total);
    let leaf = |(index, piece): (usize, &Vec<u8>)| {
        let mut input = vec![index as u8];
        input.extend(blake3::hash(piece).as_bytes());
        blake3::derive_key("strand v1 segment leaf", &input)
    };
    let mut level: Vec<[u8; 32]> = pieces.iter().enumerate().map(leaf).collect();
    while !level.len().is_power_of_two() {
        level.push([0; 32]);
    }
    while level.len() > 1 {
        let node =
            |pair: &[[u8; 32]]| blake3::derive_key("strand v1 segment node", pair.as_flattened());
        level = level.chunks(2).map(node).collect();
    }
    let mut input = vec![facts.required as u8, facts.total as u8];
    input.extend((facts.sealed_len as u64).to_le_bytes());
    input.extend(level[0]);
    blake3::derive_key("strand v1 segment", &input)
}

/// Commitment of a segment that is stored inline.
pub(crate) fn inline_commitment(facts: &SegmentFacts, sealed: &[u8]) -> [u8; 32] {
    let input = [&facts.salt[..], &facts.key_commitment, sealed].concat();
    blake3::derive_key("strand v1 inline", &input)
}

/// One segment of an object: part number, segment index, plaintext bytes, commitment.
pub(crate) type ObjectLeaf = (u32, u32, u64, [u8; 32]);

/// The object root over all segments, in order.
pub(crate) fn object_root(leaves: &[ObjectLeaf]) -> [u8; 32] {
    if let [(part_number, segment_index, plain_len, commitment)] = leaves {
        let mut input = part_number.to_le_bytes().to_vec();
        input.extend(segment_index.to_le_bytes());
        input.extend(plain_len.to_le_bytes());
        input.extend(commitment);
        return blake3::derive_key("strand v1 object leaf", &input);
    }
    let mut left = 1;
    while 2 * left < leaves.len() {
        left *= 2;
    }
    let children = [object_root(&leaves[..left]), object_root(&leaves[left..])];
    blake3::derive_key("strand v1 object node", children.as_flattened())
}
