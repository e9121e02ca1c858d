//! A made-up slice proof never verifies against an honest root, whatever its shape.
#![no_main]

use libfuzzer_sys::fuzz_target;
use strand_codec::{LEAF_BYTES, verify_slice};

const PIECE_BYTES: u64 = 40_000;

fuzz_target!(|input: (u16, u16, Vec<[u8; 32]>, Vec<u8>)| {
    let (first, count, proof, bytes) = input;
    let first = u32::from(first) % 64;
    let leaves = first..first + u32::from(count) % 64;
    let piece: Vec<u8> = (0..PIECE_BYTES).map(|position| (position % 251) as u8).collect();
    let root = root_of(&piece);
    let accepted = verify_slice(PIECE_BYTES, &root, leaves.clone(), &proof, &bytes).is_ok();
    if accepted {
        let start = leaves.start as usize * LEAF_BYTES;
        let end = (leaves.end as usize * LEAF_BYTES).min(piece.len());
        assert_eq!(bytes, piece[start..end], "other bytes were accepted");
    }
});

fn root_of(piece: &[u8]) -> [u8; 32] {
    let mut hasher = strand_codec::PieceHasher::new(piece.len() as u64);
    for share in piece.chunks(strand_codec::SHARE_BYTES) {
        hasher.push_share(share);
    }
    hasher.finish().root
}
