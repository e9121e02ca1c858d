//! Trees and proofs against their definitions, and against liars.

use proptest::prelude::*;

use super::*;
use crate::shape::{LEAF_BYTES, PIECE_BYTES_MAX, SHARE_BYTES, Shape};

/// Lengths around leaves, shares and powers of two of shares.
fn boundary_lens() -> Vec<usize> {
    let units = [
        LEAF_BYTES,
        15 * LEAF_BYTES,
        SHARE_BYTES,
        SHARE_BYTES + LEAF_BYTES,
    ];
    let multiples = [2, 3, 4, 5, 7, 8, 9, 16, 17].map(|count| count * SHARE_BYTES);
    let around = |len: usize| [len - 64, len - 1, len, len + 1, len + 64, len + 576];
    [64, 128, 576]
        .into_iter()
        .chain(units.into_iter().chain(multiples).flat_map(around))
        .collect()
}

fn piece(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new()
        .update(&(len as u64).to_le_bytes())
        .finalize_xof()
        .fill(&mut bytes);
    bytes
}

fn tree_of(piece: &[u8]) -> PieceTree {
    let mut hasher = PieceHasher::new(piece.len() as u64);
    piece
        .chunks(SHARE_BYTES)
        .for_each(|share| hasher.push_share(share));
    hasher.finish()
}

#[test]
fn piece_root_is_the_plain_hash_of_the_piece() {
    for len in boundary_lens() {
        let piece = piece(len);
        let tree = tree_of(&piece);
        assert_eq!(tree.root, *blake3::hash(&piece).as_bytes(), "{len}");
        let share_count = len.div_ceil(SHARE_BYTES);
        for (share, bytes) in piece.chunks(SHARE_BYTES).enumerate() {
            let expected = if share_count == 1 {
                tree.root
            } else {
                tree.share_hashes[share]
            };
            assert_eq!(share_hash(len as u64, share as u32, bytes), expected);
        }
        let from_shares = root_of_share_hashes(len as u64, &tree.share_hashes);
        if share_count == 1 {
            assert!(tree.share_hashes.is_empty());
            assert_eq!(from_shares, Err(ProofError::OneShare));
        } else {
            assert_eq!(from_shares, Ok(tree.root));
        }
    }
}

#[test]
fn pieces_in_lockstep_have_the_trees_that_they_have_alone() {
    for len in boundary_lens() {
        for (piece_count, step) in [(1, 1), (5, 3), (17, 4), (33, 16)] {
            let whole = piece(len + 64 * piece_count);
            let pieces: Vec<&[u8]> = (0..piece_count)
                .map(|index| &whole[64 * index..][..len])
                .collect();
            let mut hasher = LockstepHasher::new(piece_count, len as u64);
            let step_len = step * LEAF_BYTES;
            for start in (0..len).step_by(step_len) {
                let end = len.min(start + step_len);
                let columns: Vec<&[u8]> = pieces.iter().map(|piece| &piece[start..end]).collect();
                hasher.push(&columns);
            }
            let trees = hasher.finish();
            assert_eq!(trees.len(), piece_count);
            for (tree, piece) in trees.iter().zip(&pieces) {
                assert_eq!(
                    *tree,
                    tree_of(piece),
                    "{len} bytes, {step} leaves at a time"
                );
            }
        }
    }
}

#[test]
#[should_panic(expected = "1000 bytes after 0 of 4096")]
fn columns_in_lockstep_end_where_leaves_do() {
    LockstepHasher::new(2, 4096).push(&[&[0; 1000], &[0; 1000]]);
}

#[test]
#[should_panic(expected = "bytes pushed of the pieces")]
fn pieces_in_lockstep_are_hashed_whole() {
    let mut hasher = LockstepHasher::new(1, 4096);
    hasher.push(&[&[0; 1024]]);
    let _ = hasher.finish();
}

#[test]
fn share_hashes_of_another_count_are_refused() {
    let tree = tree_of(&piece(3 * SHARE_BYTES));
    let refused = |piece_len, hashes: &[Hash], expected_count| {
        let error = ProofError::ShareHashCount {
            given_count: hashes.len(),
            expected_count,
        };
        assert_eq!(root_of_share_hashes(piece_len, hashes), Err(error));
    };
    let piece_len = 3 * SHARE_BYTES as u64;
    refused(piece_len, &tree.share_hashes[..2], 3);
    refused(
        piece_len,
        &[tree.share_hashes.clone(), vec![[0; 32]]].concat(),
        3,
    );
    refused(piece_len + 64, &tree.share_hashes, 4);
    refused(576, &tree.share_hashes[..1], 0);
    for piece_len in [0, PIECE_BYTES_MAX + 1, u64::MAX] {
        let error = Err(ProofError::PieceLen { piece_len });
        assert_eq!(root_of_share_hashes(piece_len, &tree.share_hashes), error);
    }
}

#[test]
fn swapped_shares_are_noticed() {
    let piece = piece(4 * SHARE_BYTES + 640);
    let tree = tree_of(&piece);
    let len = piece.len() as u64;
    let share = |i: usize| &piece[i * SHARE_BYTES..(i + 1) * SHARE_BYTES];
    // The same bytes at another place have another chaining value, even if both are shares.
    assert_ne!(share_hash(len, 1, share(0)), tree.share_hashes[0]);
    assert_ne!(share_hash(len, 1, share(0)), tree.share_hashes[1]);
    let mut swapped = tree.share_hashes.clone();
    swapped.swap(0, 1);
    assert_ne!(root_of_share_hashes(len, &swapped), Ok(tree.root));
    // One share alone as a piece is a root, which no chaining value equals.
    assert_ne!(
        share_hash(SHARE_BYTES as u64, 0, share(0)),
        tree.share_hashes[0]
    );
}

#[test]
#[should_panic(expected = "bytes pushed of the piece")]
fn an_unfinished_piece_has_no_root() {
    let mut hasher = PieceHasher::new(2 * SHARE_BYTES as u64);
    hasher.push_share(&[0; SHARE_BYTES]);
    hasher.finish();
}

#[test]
#[should_panic(expected = "bytes of share 1")]
fn a_share_of_wrong_length_is_not_pushed() {
    let mut hasher = PieceHasher::new(SHARE_BYTES as u64 + 64);
    hasher.push_share(&[0; SHARE_BYTES]);
    hasher.push_share(&[0; 128]);
}

// --- segments -----------------------------------------------------------------------------

fn roots(total: u8) -> Vec<Hash> {
    (0..total)
        .map(|index| *blake3::hash(&[index]).as_bytes())
        .collect()
}

/// docs/format.md section 4, with nothing shared with the code under test.
fn naive_commitment(shape: &Shape, roots: &[Hash]) -> Hash {
    let mut level: Vec<Hash> = roots
        .iter()
        .enumerate()
        .map(|(i, root)| {
            blake3::derive_key("strand v1 segment leaf", &[&[i as u8][..], root].concat())
        })
        .collect();
    level.resize(roots.len().next_power_of_two(), [0; 32]);
    while level.len() > 1 {
        let node = |pair: &[Hash]| blake3::derive_key("strand v1 segment node", &pair.concat());
        level = level.chunks(2).map(node).collect();
    }
    let mut input = vec![shape.required(), shape.total()];
    input.extend(shape.sealed_len().to_le_bytes());
    input.extend(level[0]);
    blake3::derive_key("strand v1 segment", &input)
}

#[test]
fn every_path_leads_to_the_commitment() {
    for total in [1, 2, 3, 4, 5, 10, 30, 63, 64, 65, 93, 128, 129, 255] {
        let shape = Shape::new(1, total, 16_417).unwrap();
        let roots = roots(total);
        let tree = SegmentTree::new(&shape, &roots).unwrap();
        assert_eq!(tree.commitment(), naive_commitment(&shape, &roots));
        for index in 0..total {
            let path = tree.path(index);
            assert_eq!(path.len(), shape.path_len());
            let root = &roots[usize::from(index)];
            let reached = commitment_of_path(&shape, index, root, &path);
            assert_eq!(reached, Ok(tree.commitment()), "{index} of {total}");
        }
    }
}

#[test]
fn the_commitment_binds_shape_index_root_and_path() {
    let shape = Shape::new(29, 93, 100_112).unwrap();
    let roots = roots(93);
    let tree = SegmentTree::new(&shape, &roots).unwrap();
    let (root, path) = (roots[40], tree.path(40));
    let differs = |shape: &Shape, index, root: &Hash, path: &[Hash]| {
        assert_ne!(
            commitment_of_path(shape, index, root, path).unwrap(),
            tree.commitment()
        );
    };
    for other in (0..93).filter(|&index| index != 40) {
        differs(&shape, other, &root, &path);
        differs(&shape, 40, &roots[usize::from(other)], &path);
    }
    for (required, total, sealed_len) in [(28, 93, 100_112), (29, 94, 100_112), (29, 93, 100_113)] {
        differs(
            &Shape::new(required, total, sealed_len).unwrap(),
            40,
            &root,
            &path,
        );
    }
    for level in 0..path.len() {
        let mut damaged = path.clone();
        damaged[level][31] ^= 1;
        differs(&shape, 40, &root, &damaged);
        let mut swapped = path.clone();
        swapped.swap(level, (level + 1) % 7);
        differs(&shape, 40, &root, &swapped);
    }
}

#[test]
fn paths_of_another_depth_are_refused() {
    let shape = Shape::new(29, 93, 100_112).unwrap();
    let tree = SegmentTree::new(&shape, &roots(93)).unwrap();
    let (root, path) = (roots(93)[3], tree.path(3));
    for given_count in [0, 1, 6] {
        let error = ProofError::PathLen {
            given_count,
            expected_count: 7,
        };
        assert_eq!(
            commitment_of_path(&shape, 3, &root, &path[..given_count]),
            Err(error)
        );
    }
    let long = [path.clone(), vec![[0; 32]]].concat();
    let error = ProofError::PathLen {
        given_count: 8,
        expected_count: 7,
    };
    assert_eq!(commitment_of_path(&shape, 3, &root, &long), Err(error));
    // Indices of zero leaves are not pieces, though their paths exist.
    for index in [93, 127, 128, 255] {
        let error = ProofError::IndexOutOfRange {
            index,
            total_count: 93,
        };
        assert_eq!(commitment_of_path(&shape, index, &root, &path), Err(error));
    }
    // An inner node does not pass for a leaf one level up.
    let sibling = path[0];
    let shorter = Shape::new(29, 64, 100_112).unwrap();
    assert_ne!(
        commitment_of_path(&shorter, 1, &sibling, &path[1..]),
        Ok(tree.commitment())
    );
}

#[test]
fn a_tree_needs_one_root_for_each_piece() {
    let shape = Shape::new(2, 5, 16_417).unwrap();
    for given_count in [0, 4, 6] {
        let error = ProofError::RootCount {
            given_count,
            expected_count: 5,
        };
        let built = SegmentTree::new(&shape, &roots(given_count as u8));
        assert_eq!(built, Err(error));
    }
}

#[test]
fn inline_commitment_binds_all_it_names() {
    let sealed = [5; 40];
    let base = inline_commitment(&[1; 24], &[2; 32], &sealed);
    let input = [&[1; 24][..], &[2; 32], &sealed].concat();
    assert_eq!(base, blake3::derive_key("strand v1 inline", &input));
    assert_ne!(base, inline_commitment(&[0; 24], &[2; 32], &sealed));
    assert_ne!(base, inline_commitment(&[1; 24], &[0; 32], &sealed));
    assert_ne!(base, inline_commitment(&[1; 24], &[2; 32], &sealed[1..]));
}

// --- objects ------------------------------------------------------------------------------

fn object_leaves(count: u32) -> Vec<ObjectLeaf> {
    let leaf = |i: u32| ObjectLeaf {
        part_number: 1 + i / 3,
        segment_index: i % 3,
        plain_len: 1_000 + u64::from(i),
        commitment: [i as u8; 32],
    };
    (0..count).map(leaf).collect()
}

fn naive_object_root(leaves: &[ObjectLeaf]) -> Hash {
    if leaves.len() == 1 {
        let mut input = Vec::new();
        input.extend(leaves[0].part_number.to_le_bytes());
        input.extend(leaves[0].segment_index.to_le_bytes());
        input.extend(leaves[0].plain_len.to_le_bytes());
        input.extend(leaves[0].commitment);
        return blake3::derive_key("strand v1 object leaf", &input);
    }
    let mut left = 1;
    while left * 2 < leaves.len() {
        left *= 2;
    }
    let children = [
        naive_object_root(&leaves[..left]),
        naive_object_root(&leaves[left..]),
    ];
    blake3::derive_key("strand v1 object node", &children.concat())
}

#[test]
fn object_root_is_that_of_the_format() {
    for count in (1..20).chain([31, 32, 33, 64, 100]) {
        let leaves = object_leaves(count);
        assert_eq!(
            object_root(&leaves),
            Ok(naive_object_root(&leaves)),
            "{count}"
        );
    }
}

#[test]
fn object_root_binds_every_field_and_the_count() {
    let leaves = object_leaves(7);
    let root = object_root(&leaves).unwrap();
    assert_ne!(object_root(&leaves[..6]).unwrap(), root);
    assert_ne!(object_root(&leaves[1..]).unwrap(), root);
    let changes: [fn(&mut ObjectLeaf); 3] = [
        |leaf| leaf.plain_len += 1,
        |leaf| leaf.commitment[0] ^= 1,
        |leaf| (leaf.part_number, leaf.segment_index) = (100, 0),
    ];
    for change in changes {
        let mut changed = leaves.clone();
        change(&mut changed[6]);
        assert_ne!(object_root(&changed).unwrap(), root);
    }
}

#[test]
fn objects_without_segments_or_out_of_order_are_refused() {
    assert_eq!(object_root(&[]), Err(ProofError::NoLeaves));
    let mut leaves = object_leaves(7);
    leaves.swap(2, 3);
    let error = ProofError::LeafOrder {
        part_number: 1,
        segment_index: 2,
    };
    assert_eq!(object_root(&leaves), Err(error));
    let repeated = [object_leaves(1), object_leaves(1)].concat();
    let error = ProofError::LeafOrder {
        part_number: 1,
        segment_index: 0,
    };
    assert_eq!(object_root(&repeated), Err(error));
}

// --- slices -------------------------------------------------------------------------------

fn leaf_count(piece: &[u8]) -> u32 {
    piece.len().div_ceil(LEAF_BYTES) as u32
}

fn bytes_of(piece: &[u8], leaves: std::ops::Range<u32>) -> &[u8] {
    let end = (leaves.end as usize * LEAF_BYTES).min(piece.len());
    &piece[leaves.start as usize * LEAF_BYTES..end]
}

/// Proves, counts what was read, verifies.
fn check_slice(piece: &[u8], tree: &PieceTree, leaves: std::ops::Range<u32>) -> Vec<Hash> {
    let len = piece.len() as u64;
    let mut read = Vec::new();
    let proof = prove_slice(len, &tree.share_hashes, leaves.clone(), |share| {
        read.push(share);
        piece
            .chunks(SHARE_BYTES)
            .nth(share as usize)
            .unwrap()
            .to_vec()
    })
    .unwrap();
    assert_eq!(
        read,
        cut_shares(len, leaves.clone()).unwrap(),
        "{leaves:?} of {len}"
    );
    assert_eq!(proof.len(), slice_proof_len(len, leaves.clone()).unwrap());
    let bytes = bytes_of(piece, leaves.clone());
    assert_eq!(verify_slice(len, &tree.root, leaves, &proof, bytes), Ok(()));
    proof
}

#[test]
fn every_range_of_short_pieces_is_provable() {
    for len in [
        64,
        1_024,
        1_088,
        5 * 1_024,
        SHARE_BYTES,
        SHARE_BYTES + 64,
        3 * SHARE_BYTES + 7_000,
    ] {
        let piece = piece(len);
        let tree = tree_of(&piece);
        for start in 0..leaf_count(&piece) {
            for end in start + 1..=leaf_count(&piece) {
                check_slice(&piece, &tree, start..end);
            }
        }
    }
}

#[test]
fn a_leaf_of_a_full_piece_needs_twelve_hashes() {
    let piece = piece(2_316_416);
    let tree = tree_of(&piece);
    assert_eq!(leaf_count(&piece), 2_263);
    // 2,263 leaves are 12 levels; those at the right edge have fewer.
    assert_eq!(check_slice(&piece, &tree, 0..1).len(), 12);
    assert_eq!(check_slice(&piece, &tree, 1_000..1_001).len(), 12);
    assert!(check_slice(&piece, &tree, 2_262..2_263).len() < 12);
    assert!(check_slice(&piece, &tree, 0..2_263).is_empty());
    // Whole shares need no bytes read.
    assert!(cut_shares(2_316_416, 16..160).unwrap().is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    #[test]
    fn slices_prove_their_bytes_and_nothing_else(
        len in prop_oneof![
            (1..600_usize).prop_map(|columns| columns * 64),
            prop::sample::select(boundary_lens()),
        ],
        ends in any::<[prop::sample::Index; 2]>(),
        damage in any::<prop::sample::Index>(),
    ) {
        let piece = piece(len);
        let tree = tree_of(&piece);
        let ends = ends.map(|end| end.index(leaf_count(&piece) as usize) as u32);
        let leaves = ends[0].min(ends[1])..ends[0].max(ends[1]) + 1;
        let proof = check_slice(&piece, &tree, leaves.clone());
        let bytes = bytes_of(&piece, leaves.clone()).to_vec();
        let len = len as u64;

        let mut damaged = bytes.clone();
        damaged[damage.index(bytes.len())] ^= 1;
        let verified = verify_slice(len, &tree.root, leaves.clone(), &proof, &damaged);
        prop_assert_eq!(verified, Err(ProofError::Root));
        for position in 0..proof.len() {
            let mut damaged = proof.clone();
            damaged[position][damage.index(32)] ^= 1;
            let verified = verify_slice(len, &tree.root, leaves.clone(), &damaged, &bytes);
            prop_assert_eq!(verified, Err(ProofError::Root));
        }
        //= docs/format.md#4-piece-tree-and-commitments
        //= type=test
        let expected_count = proof.len();
        let longer = [proof.clone(), vec![[0; 32]]].concat();
        let error = ProofError::ProofLen { given_count: expected_count + 1, expected_count };
        let verified = verify_slice(len, &tree.root, leaves.clone(), &longer, &bytes);
        prop_assert_eq!(verified, Err(error));
        if let Some((_, shorter)) = proof.split_last() {
            let error = ProofError::ProofLen { given_count: expected_count - 1, expected_count };
            let verified = verify_slice(len, &tree.root, leaves.clone(), shorter, &bytes);
            prop_assert_eq!(verified, Err(error));
        }
        // The right bytes as another range of the same size.
        if leaves.end < leaf_count(&piece) {
            let moved = leaves.start + 1..leaves.end + 1;
            prop_assert!(verify_slice(len, &tree.root, moved, &proof, &bytes).is_err());
        }
    }
}

#[test]
fn ranges_and_bytes_that_do_not_fit_are_refused() {
    let piece = piece(2 * SHARE_BYTES + 576);
    let tree = tree_of(&piece);
    let len = piece.len() as u64;
    let none = |_| unreachable!("nothing is read for a refused range");
    for (start, end) in [(0, 0), (5, 5), (7, 6), (0, 34), (33, 34), (u32::MAX, 0)] {
        let error = ProofError::LeafRange {
            start,
            end,
            leaf_count: 33,
        };
        assert_eq!(slice_proof_len(len, start..end), Err(error));
        assert_eq!(cut_shares(len, start..end), Err(error));
        assert_eq!(
            prove_slice(len, &tree.share_hashes, start..end, none),
            Err(error)
        );
        assert_eq!(
            verify_slice(len, &tree.root, start..end, &[], &[]),
            Err(error)
        );
    }
    for piece_len in [0, PIECE_BYTES_MAX + 1, u64::MAX] {
        let error = ProofError::PieceLen { piece_len };
        assert_eq!(slice_proof_len(piece_len, 0..1), Err(error));
        assert_eq!(
            verify_slice(piece_len, &tree.root, 0..1, &[], &[]),
            Err(error)
        );
        assert_eq!(
            prove_slice(piece_len, &tree.share_hashes, 0..1, none),
            Err(error)
        );
    }
    let error = ProofError::ShareHashCount {
        given_count: 2,
        expected_count: 3,
    };
    assert_eq!(
        prove_slice(len, &tree.share_hashes[..2], 0..1, none),
        Err(error)
    );
    let error = ProofError::ByteCount {
        given_len: 100,
        expected_len: 16_384,
    };
    let proved = prove_slice(len, &tree.share_hashes, 0..1, |_| vec![0; 100]);
    assert_eq!(proved, Err(error));

    let proof = check_slice(&piece, &tree, 30..33);
    let bytes = bytes_of(&piece, 30..33);
    assert_eq!(bytes.len(), 2 * 1_024 + 576);
    for given_len in [0, 1, bytes.len() - 1] {
        let error = ProofError::ByteCount {
            given_len,
            expected_len: bytes.len(),
        };
        let verified = verify_slice(len, &tree.root, 30..33, &proof, &bytes[..given_len]);
        assert_eq!(verified, Err(error));
    }
}

/// Change detector: roots, share hashes, proofs and commitments of seeded pieces.
#[test]
fn format_is_frozen() {
    let mut hasher = blake3::Hasher::new();
    for len in boundary_lens() {
        let piece = piece(len);
        let tree = tree_of(&piece);
        hasher
            .update(&tree.root)
            .update(tree.share_hashes.as_flattened());
        let middle = leaf_count(&piece) / 2;
        hasher.update(check_slice(&piece, &tree, middle..middle + 1).as_flattened());
    }
    for (required, total) in [(29, 93), (16, 30), (4, 10), (2, 5), (1, 3), (1, 2), (1, 1)] {
        let shape = Shape::new(required, total, 100_112).unwrap();
        let tree = SegmentTree::new(&shape, &roots(total)).unwrap();
        hasher
            .update(&tree.commitment())
            .update(tree.path(total / 2).as_flattened());
    }
    hasher.update(&inline_commitment(&[1; 24], &[2; 32], &[3; 100]));
    for count in 1..10 {
        hasher.update(&object_root(&object_leaves(count)).unwrap());
    }
    assert_eq!(hasher.finalize().to_string(), FROZEN);
}

const FROZEN: &str = "282aececf06c9df61408ca47ac9e14a7b05b30e8e64af8ec6a47733894ab6d12";
