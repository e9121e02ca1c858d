//! Whole segments: any `required` pieces give the bytes back, to us and to the independent reader.

use proptest::prelude::*;
use strand_codec::{inline_commitment, object_root, plain_len, segment_bytes_max};

use crate::independent;
use crate::segment::{Segment, random_bytes};

const SCHEMES: &[(u8, u8)] = &[
    (29, 93),
    (16, 30),
    (4, 10),
    (2, 5),
    (1, 3),
    (1, 2),
    (1, 1),
    (5, 5),
];

/// Plaintext lengths on both sides of every place where a formula takes a step: chunks, shares
/// of the last stripe, full stripes.
fn boundary_lens(required: u8) -> Vec<usize> {
    let k = usize::from(required);
    let sealed = [
        64 * k,
        128 * k,
        4_096 * k,
        16_320 * k,
        16_384 * k,
        16_448 * k,
        2 * 16_384 * k,
    ]
    .into_iter()
    .flat_map(|len| [len - 1, len, len + 1])
    // The next length that a plaintext can seal to.
    .map(|len| (len..).find_map(|len| plain_len(len as u64).ok()).unwrap() as usize);
    let plain = [16_384, 16_385, 32_767, 32_768, 32_769, 100_000];
    let mut lens: Vec<usize> = [0, 1].into_iter().chain(sealed).chain(plain).collect();
    lens.sort_unstable();
    lens.dedup();
    lens
}

/// The last indices (all recovery where possible), the first, and a mix.
fn some_subsets(required: u8, total: u8) -> Vec<Vec<u8>> {
    let last = (total - required..total).collect();
    let first = (0..required).collect();
    let spread = u32::from(total) * 1_000 / u32::from(required);
    let mix = (0..u32::from(required))
        .map(|i| (i * spread / 1_000) as u8)
        .collect();
    vec![last, first, mix]
}

fn check_independent(segment: &Segment, plain: &[u8], present: &[u8]) {
    let facts = segment.facts();
    let pieces: Vec<(usize, &[u8])> = present
        .iter()
        .map(|&index| {
            (
                usize::from(index),
                segment.pieces[usize::from(index)].as_slice(),
            )
        })
        .collect();
    assert!(
        independent::restore(&facts, &pieces) == plain,
        "restored by the independent reader"
    );
    let all = independent::all_pieces(&facts, &independent::sealed_bytes(&facts, &pieces));
    assert!(all == segment.pieces, "pieces are those of the document");
    assert_eq!(
        independent::segment_commitment(&facts, &all),
        segment.tree.commitment()
    );
}

#[test]
fn every_boundary_of_every_scheme_comes_back() {
    for &(required, total) in SCHEMES {
        for len in boundary_lens(required) {
            let plain = random_bytes(len as u64, len);
            let segment = Segment::new(required, total, &plain, len as u64);
            for present in some_subsets(required, total) {
                assert!(
                    segment.download(&present) == plain,
                    "{required}/{total}, {len} bytes"
                );
            }
        }
    }
}

#[test]
fn the_independent_reader_reads_what_we_write() {
    for &(required, total) in SCHEMES {
        for len in boundary_lens(required).into_iter().step_by(3) {
            let plain = random_bytes(len as u64, len);
            let segment = Segment::new(required, total, &plain, 77);
            for present in some_subsets(required, total) {
                check_independent(&segment, &plain, &present);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(48) })]

    #[test]
    fn any_29_of_93_give_the_bytes_back(
        // Mostly around a boundary, now and then anywhere up to three stripes.
        len in prop_oneof![
            3 => (prop::sample::select(boundary_lens(29)), 0..130_usize).prop_map(|(len, add)| len + add),
            1 => 0..1_400_000_usize,
        ],
        present in prop::sample::subsequence((0..93).collect::<Vec<u8>>(), 29),
        seed in 0..1_000_u64,
    ) {
        let plain = random_bytes(seed, len);
        let segment = Segment::new(29, 93, &plain, seed);
        prop_assert!(segment.download(&present) == plain);
    }

    #[test]
    fn any_required_pieces_of_any_scheme_give_the_bytes_back(
        (required, total, present) in prop::sample::select(SCHEMES).prop_flat_map(|(required, total)| {
            let all: Vec<u8> = (0..total).collect();
            (Just(required), Just(total), prop::sample::subsequence(all, usize::from(required)))
        }),
        len in 0..600_000_usize,
        seed in 0..1_000_u64,
    ) {
        let plain = random_bytes(seed, len);
        let segment = Segment::new(required, total, &plain, seed);
        prop_assert!(segment.download(&present) == plain);
    }
}

/// Goal: sizes of the format's table up to three segments, at full length. Method: an object of
/// three full segments, each with another 29 of its 93 pieces; the last also by the independent
/// reader.
#[test]
fn three_full_segments_come_back() {
    let segment_bytes = segment_bytes_max(29) as usize;
    let subsets = some_subsets(29, 93);
    let mut leaves = Vec::new();
    for (index, present) in subsets.iter().enumerate() {
        let plain = random_bytes(index as u64, segment_bytes);
        let segment = Segment::new(29, 93, &plain, index as u64);
        assert_eq!(segment.shape.piece_len(), 2_316_416);
        assert!(segment.download(present) == plain);
        if index == 2 {
            check_independent(&segment, &plain, present);
        }
        leaves.push((
            1,
            index as u32,
            plain.len() as u64,
            segment.tree.commitment(),
        ));
    }
    check_object_root(&leaves);
}

#[test]
fn a_segment_and_one_byte_have_one_object_root() {
    let tail = Segment::new(29, 93, &[9], 5);
    let facts = tail.facts();
    let inline = inline_commitment(&tail.salt, &tail.key_commitment, &tail.sealed);
    assert_eq!(independent::inline_commitment(&facts, &tail.sealed), inline);
    assert_eq!(independent::open(&facts, &tail.sealed), [9]);
    check_object_root(&[(1, 0, 67_108_864, [1; 32]), (1, 1, 1, inline)]);
}

fn check_object_root(leaves: &[independent::ObjectLeaf]) {
    let ours: Vec<strand_codec::ObjectLeaf> = leaves
        .iter()
        .map(
            |&(part_number, segment_index, plain_len, commitment)| strand_codec::ObjectLeaf {
                part_number,
                segment_index,
                plain_len,
                commitment,
            },
        )
        .collect();
    assert_eq!(object_root(&ours), Ok(independent::object_root(leaves)));
}

#[test]
fn the_independent_formulas_are_the_worked_examples() {
    for (plain, sealed, share_lens) in [
        (16_385, 16_417, vec![576]),
        (100_000, 100_112, vec![3_456]),
        (
            67_108_864,
            67_174_416,
            [vec![16_384; 141], vec![6_272]].concat(),
        ),
    ] {
        assert_eq!(independent::sealed_len(plain), sealed);
        assert_eq!(independent::share_lens(29, sealed), share_lens);
    }
    assert_eq!(independent::piece_len(29, 67_174_416), 2_316_416);
}

/// Change detector: everything a segment turns into, for every scheme and boundary.
#[test]
fn format_is_frozen() {
    let mut hasher = blake3::Hasher::new();
    for &(required, total) in SCHEMES {
        for len in boundary_lens(required) {
            let segment = Segment::new(required, total, &random_bytes(1, len), 42);
            hasher
                .update(&segment.key_commitment)
                .update(&segment.sealed);
            hasher.update(&segment.tree.commitment());
        }
    }
    assert_eq!(hasher.finalize().to_string(), FROZEN);
}

const FROZEN: &str = "74e7a1c950fb488451a235640d70df0d1d7f154b1f72ba1925ff2fb2cec46881";
