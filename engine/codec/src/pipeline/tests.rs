//! The pipeline against its parts: whole segments sealed, coded and hashed one step after another.

use std::sync::Arc;

use super::*;
use crate::rs::{CodeError, Encoder, RowPlan};
use crate::seal::{ContentKey, Opener, Sealer, SegmentContext};
use crate::shape::sealed_len;
use crate::tree::{PieceHasher, PieceTree};

const SALT: [u8; 24] = [3; 24];
const CONTEXT: SegmentContext = SegmentContext {
    object_id: [1; 16],
    part_number: 1,
    segment_index: 2,
};

fn key() -> ContentKey {
    ContentKey::new([9; 32])
}

fn sealer() -> Sealer {
    Sealer::new(&key(), &SALT, &CONTEXT)
}

fn opener() -> Opener {
    let commitment = sealer().key_commitment();
    Opener::new(&key(), &SALT, &commitment, &CONTEXT).unwrap()
}

/// Schemes and plaintext lengths: chunks longer than stripes, many stripes, short last ones, one share.
fn cases() -> Vec<(Shape, Vec<u8>)> {
    let mut cases = Vec::new();
    for (required, total) in [(1, 1), (1, 3), (2, 2), (2, 5), (4, 10), (29, 93), (64, 254)] {
        for len in [16_385_usize, 49_152, 100_000, 479_232, 1_500_001] {
            let plain: Vec<u8> = (0..len).map(|at| ((at * at) >> 7) as u8).collect();
            let shape = Shape::new(required, total, sealed_len(len as u64)).unwrap();
            cases.push((shape, plain));
        }
    }
    cases
}

/// All pieces of a segment, and their trees.
fn write(shape: &Shape, plain: &[u8]) -> (Vec<Vec<u8>>, Vec<PieceTree>) {
    let mut writer = SegmentWriter::new(shape, sealer()).unwrap();
    let mut pieces = vec![Vec::new(); usize::from(shape.total())];
    for stripe in 0..shape.share_count() {
        assert_eq!(writer.stripe(), stripe);
        let share_len = shape.share_len(stripe);
        let (required, total) = (usize::from(shape.required()), usize::from(shape.total()));
        // What lay there before must not matter.
        let mut data = vec![0xa5; required * share_len];
        let mut recovery = vec![0xa5; StripeCoder::recovery_len(shape, stripe)];
        let range = writer.plain_range(stripe);
        writer.seal(&plain[range.start as usize..range.end as usize], &mut data);
        let mut done = 0;
        while done < share_len {
            let columns = writer.step(&data, &mut recovery).unwrap();
            assert_eq!(columns.start, done);
            assert!(columns.len() * total <= STEP_BYTES.max(LEAF_BYTES * total));
            done = columns.end;
        }
        let of_recovery = (shape.required()..shape.total())
            .map(|index| &recovery[StripeCoder::recovery_range(shape, stripe, index)]);
        let shares = data.chunks_exact(share_len).chain(of_recovery);
        for (piece, share) in pieces.iter_mut().zip(shares) {
            piece.extend_from_slice(share);
        }
    }
    assert_eq!(writer.stripe(), shape.share_count());
    (pieces, writer.finish())
}

#[test]
fn the_pipeline_makes_what_its_parts_make() {
    for (shape, plain) in cases() {
        let (pieces, trees) = write(&shape, &plain);
        let mut sealed = vec![0; shape.sealed_len() as usize];
        sealer().seal_into(&plain, &mut sealed);
        let required = usize::from(shape.required());
        sealed.resize(shape.piece_len() as usize * required, 0);
        let mut hashers = vec![PieceHasher::new(shape.piece_len()); pieces.len()];
        for stripe in 0..shape.share_count() {
            let (start, share_len) = (shape.share_offset(stripe) as usize, shape.share_len(stripe));
            let data: Vec<&[u8]> = sealed[start * required..][..share_len * required]
                .chunks_exact(share_len)
                .collect();
            let mut recovery = vec![vec![0; share_len]; pieces.len() - required];
            let mut targets: Vec<&mut [u8]> = recovery.iter_mut().map(|row| &mut row[..]).collect();
            let mut encoder = Encoder::new(shape.required(), shape.total()).unwrap();
            encoder.encode_into(&data, &mut targets).unwrap();
            let shares = data.into_iter().chain(recovery.iter().map(|row| &row[..]));
            for ((share, piece), hasher) in shares.zip(&pieces).zip(&mut hashers) {
                assert!(
                    piece[start..start + share_len] == *share,
                    "{shape:?}, stripe {stripe}"
                );
                hasher.push_share(share);
            }
        }
        let expected: Vec<PieceTree> = hashers.into_iter().map(PieceHasher::finish).collect();
        assert!(trees == expected, "{shape:?}");
    }
}

/// Indices of `k` pieces: the first ones, the last ones, and some of both.
fn patterns(shape: &Shape) -> Vec<Vec<u8>> {
    let (required, total) = (shape.required(), shape.total());
    let mixed = (0..total)
        .filter(|index| index % 3 != 1)
        .take(usize::from(required));
    let mixed: Vec<u8> = mixed.collect();
    let mut patterns = vec![(0..required).collect(), (total - required..total).collect()];
    if mixed.len() == usize::from(required) {
        patterns.push(mixed);
    }
    patterns
}

/// Share hashes of pieces, of those of one share their roots.
fn hash_of(tree: &PieceTree, stripe: u32) -> crate::tree::Hash {
    tree.share_hashes
        .get(stripe as usize)
        .copied()
        .unwrap_or(tree.root)
}

/// What a restorer is given for a stripe.
struct Given<'a> {
    data: Vec<u8>,
    recovery: Vec<&'a [u8]>,
    hashes: Vec<crate::tree::Hash>,
}

fn given<'a>(
    shape: &Shape,
    pieces: &'a [Vec<u8>],
    trees: &[PieceTree],
    present: &[u8],
    stripe: u32,
) -> Given<'a> {
    let (start, share_len) = (shape.share_offset(stripe) as usize, shape.share_len(stripe));
    let required = usize::from(shape.required());
    let mut data = vec![0xa5; required * share_len];
    let mut recovery = Vec::new();
    for &index in present {
        let share = &pieces[usize::from(index)][start..start + share_len];
        match data.chunks_exact_mut(share_len).nth(usize::from(index)) {
            Some(place) => place.copy_from_slice(share),
            None => recovery.push(share),
        }
    }
    let of_present = present
        .iter()
        .map(|&index| hash_of(&trees[usize::from(index)], stripe));
    Given {
        data,
        recovery,
        hashes: of_present.collect(),
    }
}

#[test]
fn any_k_pieces_give_the_plaintext_back() {
    for (shape, plain) in cases() {
        let (pieces, trees) = write(&shape, &plain);
        for present in patterns(&shape) {
            let mut restorer = SegmentRestorer::new(&shape, opener(), &present).unwrap();
            let mut restored = vec![0xa5; plain.len()];
            for stripe in 0..shape.share_count() {
                let mut given = given(&shape, &pieces, &trees, &present, stripe);
                restorer
                    .fill(&mut given.data, &given.recovery, &given.hashes)
                    .unwrap();
                let range = restorer.plain_range(stripe);
                let target = &mut restored[range.start as usize..range.end as usize];
                restorer.open(&given.data, target).unwrap();
            }
            assert!(restored == plain, "{shape:?} from {present:?}");
        }
    }
}

#[test]
fn a_share_that_is_not_what_its_tree_says_is_named_before_it_is_used() {
    let (shape, plain) = cases()
        .into_iter()
        .find(|(shape, _)| shape.total() == 10)
        .unwrap();
    let (pieces, trees) = write(&shape, &plain);
    let present = [0, 3, 5, 9];
    for (nth, index) in present.into_iter().enumerate() {
        let mut altered = pieces.clone();
        altered[usize::from(index)][77] ^= 1;
        let restorer = SegmentRestorer::new(&shape, opener(), &present).unwrap();
        let mut wrong = given(&shape, &altered, &trees, &present, 0);
        let before = wrong.data.clone();
        let refused = restorer.fill(&mut wrong.data, &wrong.recovery, &wrong.hashes);
        assert_eq!(refused, Err(RestoreError::Share { stripe: 0, index }));
        assert!(wrong.data == before, "piece {nth}");
    }
}

#[test]
fn sealed_bytes_that_do_not_open_release_nothing() {
    let (shape, plain) = cases()
        .into_iter()
        .find(|(shape, _)| shape.total() == 10)
        .unwrap();
    let (pieces, trees) = write(&shape, &plain);
    let present = [0, 1, 2, 3];
    let mut restorer = SegmentRestorer::new(&shape, opener(), &present).unwrap();
    let mut given = given(&shape, &pieces, &trees, &present, 0);
    given.data[5_000] ^= 1;
    let range = restorer.plain_range(0);
    let mut target = vec![7; (range.end - range.start) as usize];
    let refused = restorer.open(&given.data, &mut target);
    assert_eq!(
        refused,
        Err(RestoreError::Open(crate::OpenError::Authentication))
    );
    assert!(target.iter().all(|byte| *byte == 0));
    assert_eq!(restorer.stripe(), 0);
}

#[test]
fn buffers_that_do_not_fit_are_refused() {
    let (shape, plain) = cases()
        .into_iter()
        .find(|(shape, _)| shape.total() == 10)
        .unwrap();
    let (pieces, trees) = write(&shape, &plain);
    let mut coder = StripeCoder::new(&shape).unwrap();
    let share_len = shape.share_len(0);
    let data = vec![0; 4 * share_len];
    let expected_len = StripeCoder::recovery_len(&shape, 0);
    let len = expected_len - 64;
    let refused = coder.step(&data, &mut vec![0; len]);
    let error = CodeError::ShareLen { len, expected_len };
    assert_eq!(refused, Err(error));
    let present = [0, 3, 5, 9];
    let restorer = SegmentRestorer::new(&shape, opener(), &present).unwrap();
    let mut given = given(&shape, &pieces, &trees, &present, 0);
    let short = &given.recovery[..1];
    assert!(
        restorer
            .fill(&mut given.data, short, &given.hashes)
            .is_err()
    );
    assert!(
        restorer
            .fill(&mut given.data, &given.recovery, &given.hashes[..3])
            .is_err()
    );
    let mut less = given.data[..given.data.len() - 64].to_vec();
    assert!(
        restorer
            .fill(&mut less, &given.recovery, &given.hashes)
            .is_err()
    );
}

/// Sealed bytes of a plaintext, all in a row.
fn sealed(plain: &[u8]) -> Vec<u8> {
    let mut sealed = vec![0; sealed_len(plain.len() as u64) as usize];
    sealer().seal_into(plain, &mut sealed);
    sealed
}

#[test]
fn chunks_open_wherever_the_sealed_bytes_are_cut() {
    let plain: Vec<u8> = (0..100_000_u32).map(|at| (at % 251) as u8).collect();
    let sealed = sealed(&plain);
    for (first, end) in [(0, 7), (0, 1), (2, 5), (6, 7)] {
        let bytes = sealed.len().min(end * SEALED_CHUNK_BYTES);
        let run = &sealed[first * SEALED_CHUNK_BYTES..bytes];
        let expected = &plain[first * 16_384..plain.len().min(end * 16_384)];
        for part_len in [1_000, 16_399, 16_400, 16_401, 40_000, 1_000_000] {
            let chunks = first as u64..end as u64;
            let mut opener = ChunkOpener::new(opener(), sealed.len() as u64, chunks);
            let mut opened = Vec::new();
            for part in run.chunks(part_len) {
                let start = opened.len();
                opened.resize(start + opener.plain_count(part.len()), 0xa5);
                opener.open(part, &mut opened[start..]).unwrap();
            }
            assert!(opened == expected, "{first}..{end} by {part_len}");
            assert!(opener.chunks().is_empty());
        }
    }
}

#[test]
fn a_chunk_that_does_not_open_leaves_the_opener_where_it_was() {
    let plain = vec![7; 50_000];
    let sealed = sealed(&plain);
    let mut opener = ChunkOpener::new(opener(), sealed.len() as u64, 0..4);
    let mut first = vec![1; opener.plain_count(20_000)];
    opener.open(&sealed[..20_000], &mut first).unwrap();
    let mut damaged = sealed[20_000..].to_vec();
    damaged[20_000] ^= 1;
    let mut rest = vec![1; opener.plain_count(damaged.len())];
    let refused = opener.open(&damaged, &mut rest);
    assert_eq!(refused, Err(crate::OpenError::Authentication));
    assert!(rest.iter().all(|byte| *byte == 0));
    assert_eq!(opener.chunks(), 1..4);
    opener.open(&sealed[20_000..], &mut rest).unwrap();
    assert!([first, rest].concat() == plain);
}

/// Lengths that no plaintext seals to, and chunks beyond the end.
#[test]
fn what_no_segment_has_does_not_open() {
    let sealed = sealed(&[7; 20_000]);
    for sealed_len in [0, 5, 15, SEALED_CHUNK_BYTES, SEALED_CHUNK_BYTES + 15] {
        let chunks = 0..sealed_len.div_ceil(SEALED_CHUNK_BYTES) as u64 + 1;
        let mut opener = ChunkOpener::new(opener(), sealed_len as u64, chunks);
        let mut plain = vec![1; opener.plain_count(sealed_len)];
        let opened = opener.open(&sealed[..sealed_len], &mut plain);
        assert!(opened.is_err() || !opener.chunks().is_empty());
        assert!(plain.iter().all(|byte| *byte == 0));
    }
}

#[test]
fn a_filler_computes_the_columns_it_is_asked_for_and_no_others() {
    let (shape, plain) = cases()
        .into_iter()
        .find(|(shape, plain)| shape.total() == 10 && plain.len() == 100_000)
        .unwrap();
    let (pieces, _) = write(&shape, &plain);
    let plan = RowPlan::new(4, 10, &[1, 5, 8, 9], &[2, 0]).unwrap();
    let filler = StripeFiller::new(&shape, Arc::new(plan)).unwrap();
    for stripe in (0..shape.share_count()).rev() {
        let (start, share_len) = (shape.share_offset(stripe) as usize, shape.share_len(stripe));
        for columns in [0..share_len, 64..192, 0..0, share_len - 64..share_len] {
            let mut data = vec![0xa5; 4 * share_len];
            data[share_len..][columns.clone()]
                .copy_from_slice(&pieces[1][start..][columns.clone()]);
            let recovery = [5, 8, 9].map(|index: usize| &pieces[index][start..][columns.clone()]);
            filler
                .fill(stripe, columns.clone(), &mut data, &recovery)
                .unwrap();
            for (index, share) in data.chunks_exact(share_len).enumerate() {
                let is_there = index < 3;
                for (column, &byte) in share.iter().enumerate() {
                    let is_filled = is_there && columns.contains(&column);
                    let expected = if is_filled {
                        pieces[index][start + column]
                    } else {
                        0xa5
                    };
                    assert_eq!(byte, expected, "share {index}, column {column}");
                }
            }
            let refused = filler.fill(stripe, columns.clone(), &mut data, &recovery[..2]);
            let error = CodeError::TargetCount {
                given_count: 2,
                expected_count: 3,
            };
            assert_eq!(refused, Err(error));
        }
    }
}

#[test]
fn plans_that_do_not_make_data_shares_of_the_segment_are_refused() {
    let shape = Shape::new(2, 5, sealed_len(50_000)).unwrap();
    let filler = |required, present: &[u8], wanted: &[u8]| {
        let plan = RowPlan::new(required, 5, present, wanted).unwrap();
        StripeFiller::new(&shape, Arc::new(plan)).map(|filler| filler.present().to_vec())
    };
    let out_of_range = CodeError::IndexOutOfRange {
        index: 4,
        total_count: 2,
    };
    assert_eq!(filler(2, &[0, 3], &[1]), Ok(vec![0, 3]));
    assert_eq!(filler(2, &[0, 3], &[1, 4]), Err(out_of_range));
    let count = CodeError::ShareCount {
        given_count: 3,
        required_count: 2,
    };
    assert_eq!(filler(3, &[0, 1, 3], &[2]), Err(count));
}
