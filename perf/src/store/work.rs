//! The pieces of a bench: a few bodies, and any number of ids that are put with them.
//!
//! Bodies repeat because making them must cost nothing while a store is measured; ids, satellites and expiries do
//! not. The pool stands for the memory of a node's write budget and is not larger. What a store does not check (share
//! hashes of longer pieces, path, commitment) is random; what it checks is right.

use std::io::Read;

use bytes::Bytes;
use strand_blob::layout::LONE_BODY_AT;
use strand_blob::{IoBuffer, NewPiece};

use crate::random::{Random, RandomBytes};

const SHARE_BYTES: usize = strand_blob::layout::SHARE_BYTES;

/// Depth of a segment tree over 93 pieces.
const PATH_LEN: usize = 7;

/// Bodies of a pool: not more than 48 MiB, nor more than 256.
const POOL_BYTES_MAX: usize = 48 << 20;
const POOL_COUNT_MAX: usize = 256;

const DAY_S: u32 = 86_400;

/// Never, a day, a week, a month, a year: every class of blobs.
const LIVES_S: [u32; 5] = [0, DAY_S, 7 * DAY_S, 30 * DAY_S, 365 * DAY_S];

/// All pieces of one bench.
#[derive(Debug)]
pub(crate) struct Work {
    bodies: Vec<Body>,
    path: Vec<[u8; 32]>,
    commitment: [u8; 32],
    is_mixed: bool,
    now_s: u32,
}

#[derive(Debug)]
struct Body {
    bytes: Bytes,
    crcs: Vec<u32>,
    share_hashes: Vec<[u8; 32]>,
    root: [u8; 32],
}

impl Work {
    /// Pieces of one satellite that never expire.
    pub(crate) fn new(body_len: usize, now_s: u32) -> Self {
        let count = (POOL_BYTES_MAX / body_len).clamp(1, POOL_COUNT_MAX);
        let mut random = Random::new(body_len as u64, "hashes");
        let bodies = (0..count as u64)
            .map(|number| Body::new(number, body_len, &mut random))
            .collect();
        Self {
            bodies,
            path: (0..PATH_LEN).map(|_| hash(&mut random)).collect(),
            commitment: hash(&mut random),
            is_mixed: false,
            now_s,
        }
    }

    /// The same from two satellites with five expiries.
    pub(crate) fn mixed(body_len: usize, now_s: u32) -> Self {
        Self {
            is_mixed: true,
            ..Self::new(body_len, now_s)
        }
    }

    pub(crate) fn now_s(&self) -> u32 {
        self.now_s
    }

    pub(crate) fn body_len(&self) -> usize {
        self.bodies[0].bytes.len()
    }

    pub(crate) fn piece(&self, number: u64) -> NewPiece {
        let body = &self.bodies[self.body_index(number)];
        let life_s = if self.is_mixed {
            LIVES_S[(number % LIVES_S.len() as u64) as usize]
        } else {
            0
        };
        NewPiece {
            satellite: self.satellite(number),
            id: id(number),
            created_s: self.now_s,
            expiry_s: if life_s == 0 { 0 } else { self.now_s + life_s },
            body: vec![body.bytes.clone()],
            crcs: body.crcs.clone(),
            share_hashes: body.share_hashes.clone(),
            root: body.root,
            path: self.path.clone(),
            commitment: self.commitment,
        }
    }

    /// What finds the piece again.
    pub(crate) fn key(&self, number: u64) -> ([u8; 32], [u8; 32]) {
        (self.satellite(number), id(number))
    }

    pub(crate) fn body(&self, number: u64) -> &[u8] {
        &self.bodies[self.body_index(number)].bytes
    }

    fn satellite(&self, number: u64) -> [u8; 32] {
        let is_second = self.is_mixed && number % 2 == 1;
        [if is_second { 2 } else { 1 }; 32]
    }

    fn body_index(&self, number: u64) -> usize {
        (number % self.bodies.len() as u64) as usize
    }
}

impl Body {
    fn new(number: u64, len: usize, random: &mut Random) -> Self {
        // As a node takes bodies in.
        let mut buffer = IoBuffer::zeroed(LONE_BODY_AT + len);
        let bytes = &mut buffer[LONE_BODY_AT..][..len];
        #[expect(clippy::expect_used, reason = "the generator never fails")]
        RandomBytes::new(number, len as u64)
            .read_exact(bytes)
            .expect("as many bytes as were announced");
        let share_count = len.div_ceil(SHARE_BYTES);
        let share_hashes = if share_count == 1 {
            Vec::new()
        } else {
            (0..share_count).map(|_| hash(random)).collect()
        };
        Self {
            root: blake3::hash(bytes).into(),
            crcs: strand_blob::share_crcs(bytes),
            share_hashes,
            bytes: Bytes::from_owner(buffer).slice(LONE_BODY_AT..LONE_BODY_AT + len),
        }
    }
}

fn id(number: u64) -> [u8; 32] {
    hash(&mut Random::new(number, "piece"))
}

fn hash(random: &mut Random) -> [u8; 32] {
    let mut bytes = [0; 32];
    for word in bytes.as_chunks_mut::<8>().0 {
        *word = random.next().to_le_bytes();
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_differ_in_id_and_the_same_number_is_the_same_piece() {
        let work = Work::mixed(600, 1_000);
        let (first, second) = (work.piece(0), work.piece(1));
        assert_ne!(first.id, second.id);
        assert_ne!(first.satellite, second.satellite);
        assert_eq!(work.key(1), (second.satellite, second.id));
        assert_eq!(work.body(1), &second.body[0][..]);
        assert_eq!((first.expiry_s, second.expiry_s), (0, 1_000 + DAY_S));
    }
}
