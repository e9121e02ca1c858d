//! A whole segment, 29 + 64: its pieces hashed side by side, and the way from plaintext to hashed pieces and back in one pass.
//!
//! The peer of the first is the `blake3` crate on whole pieces. The others have none outside: they are compared with the same parts called one after
//! another over the whole segment, as a program would that does not know of caches.

use anyhow::{Context, Result};
use strand_codec::{
    Backend, CHUNK_BYTES, ContentKey, Encoder, Hash, Level, LockstepHasher, Opener, PieceHasher,
    RowPlan, SALT_BYTES, SEALED_CHUNK_BYTES, SHARE_BYTES, Sealer, SegmentContext, SegmentRestorer,
    SegmentWriter, Shape, StripeCoder, sealed_len, share_hash,
};

use super::row::Contest;
use super::shares::Shares;

const REQUIRED: u8 = 29;
const TOTAL: u8 = 93;
const K: usize = REQUIRED as usize;
const N: usize = TOTAL as usize;
const PLAIN_BYTES: usize = 64 << 20;

/// Every byte of the salt.
pub(super) const SALT: u8 = 2;

/// Columns that are hashed at a time, as in the pipeline.
const TILE_BYTES: usize = 2 << 10;

/// Length of the pieces that are only hashed: so short that a turn is short.
const PIECE_BYTES: usize = 8 * SHARE_BYTES;

/// Pieces that are there for the way back are some of so many.
const STORED: u8 = 80;

/// Both sides of a row seal by the back end that the level picks.
pub(super) fn sealer(level: Level) -> Sealer {
    Sealer::with_backend(Backend::at(level), &key(), &[SALT; SALT_BYTES], &context())
}

fn opener(level: Level) -> Result<Opener> {
    let commitment = sealer(level).key_commitment();
    Ok(Opener::with_backend(
        Backend::at(level),
        &key(),
        &[SALT; SALT_BYTES],
        &commitment,
        &context(),
    )?)
}

pub(super) fn key() -> ContentKey {
    ContentKey::new([1; 32])
}

pub(super) fn context() -> SegmentContext {
    SegmentContext {
        object_id: [3; 16],
        part_number: 1,
        segment_index: 0,
    }
}

fn hash_of(roots: &[Hash]) -> blake3::Hash {
    blake3::hash(roots.as_flattened())
}

/// All pieces, tile by tile.
pub(super) fn tree() -> Result<Box<dyn Contest>> {
    Ok(Box::new(Tree {
        pieces: Shares::random(8, N, PIECE_BYTES),
        roots: Default::default(),
    }))
}

struct Tree {
    pieces: Shares,
    /// Ours and the crate's.
    roots: [Vec<Hash>; 2],
}

impl Contest for Tree {
    fn user_bytes(&self) -> usize {
        self.pieces.byte_count()
    }

    fn ours(&mut self, repeats: u32) -> Result<()> {
        let pieces = self.pieces.slices();
        for _ in 0..repeats {
            let mut hasher = LockstepHasher::new(N, PIECE_BYTES as u64);
            for start in (0..PIECE_BYTES).step_by(TILE_BYTES) {
                let mut columns: [&[u8]; N] = [&[]; N];
                for (column, piece) in columns.iter_mut().zip(&pieces) {
                    *column = &piece[start..start + TILE_BYTES];
                }
                hasher.push(&columns);
            }
            self.roots[0] = hasher.finish().iter().map(|tree| tree.root).collect();
        }
        Ok(())
    }

    fn peer(&mut self, repeats: u32) -> Result<()> {
        for _ in 0..repeats {
            let pieces = self.pieces.slices();
            self.roots[1] = pieces
                .iter()
                .map(|piece| blake3::hash(piece).into())
                .collect();
        }
        Ok(())
    }

    fn outputs(&self) -> [blake3::Hash; 2] {
        self.roots.each_ref().map(|roots| hash_of(roots))
    }
}

/// Plaintext to hashed pieces; the sink uses one buffer again and again.
pub(super) fn pipeline(level: Level) -> Result<Box<dyn Contest>> {
    let shape = Shape::new(REQUIRED, TOTAL, sealed_len(PLAIN_BYTES as u64))?;
    let plain = Shares::random(9, 1, PLAIN_BYTES);
    Ok(Box::new(Pipeline {
        level,
        shape,
        plain,
        sealed: vec![0; shape.piece_len() as usize * K],
        data: vec![0; SHARE_BYTES * K],
        recovery: vec![0; StripeCoder::recovery_len(&shape, 0)],
        roots: Default::default(),
    }))
}

struct Pipeline {
    level: Level,
    shape: Shape,
    plain: Shares,
    /// Of the parts.
    sealed: Vec<u8>,
    data: Vec<u8>,
    recovery: Vec<u8>,
    roots: [Vec<Hash>; 2],
}

impl Contest for Pipeline {
    fn user_bytes(&self) -> usize {
        PLAIN_BYTES
    }

    fn ours(&mut self, repeats: u32) -> Result<()> {
        let plain = self.plain.slices()[0];
        for _ in 0..repeats {
            let mut writer =
                SegmentWriter::with_level(self.level, &self.shape, sealer(self.level))?;
            for stripe in 0..self.shape.share_count() {
                let share_len = self.shape.share_len(stripe);
                let range = writer.plain_range(stripe);
                let data = &mut self.data[..share_len * K];
                let recovery = &mut self.recovery[..StripeCoder::recovery_len(&self.shape, stripe)];
                writer.seal(&plain[range.start as usize..range.end as usize], data);
                while writer.stripe() == stripe {
                    writer.step(data, recovery)?;
                }
            }
            self.roots[0] = writer.finish().iter().map(|tree| tree.root).collect();
        }
        Ok(())
    }

    fn peer(&mut self, repeats: u32) -> Result<()> {
        let plain = self.plain.slices()[0];
        for _ in 0..repeats {
            let (sealed, padding) = self.sealed.split_at_mut(self.shape.sealed_len() as usize);
            sealer(self.level).seal_into(plain, sealed);
            padding.fill(0);
            let mut encoder = Encoder::with_level(self.level, REQUIRED, TOTAL)?;
            let mut hashers = vec![PieceHasher::new(self.shape.piece_len()); N];
            for stripe in 0..self.shape.share_count() {
                let share_len = self.shape.share_len(stripe);
                let start = self.shape.share_offset(stripe) as usize * K;
                let data: Vec<&[u8]> = self.sealed[start..][..share_len * K]
                    .chunks_exact(share_len)
                    .collect();
                let recovery = &mut self.recovery[..share_len * (N - K)];
                let mut rows: Vec<&mut [u8]> = recovery.chunks_exact_mut(share_len).collect();
                encoder.encode_into(&data, &mut rows)?;
                let shares = data.into_iter().chain(rows.iter().map(|row| &**row));
                for (hasher, share) in hashers.iter_mut().zip(shares) {
                    hasher.push_share(share);
                }
            }
            let trees = hashers.into_iter().map(PieceHasher::finish);
            self.roots[1] = trees.map(|tree| tree.root).collect();
        }
        Ok(())
    }

    fn outputs(&self) -> [blake3::Hash; 2] {
        self.roots.each_ref().map(|roots| hash_of(roots))
    }
}

/// Any 29 of 80 pieces to plaintext: verified, filled, opened.
pub(super) fn inverse(level: Level) -> Result<Box<dyn Contest>> {
    let shape = Shape::new(REQUIRED, TOTAL, sealed_len(PLAIN_BYTES as u64))?;
    let plain = Shares::random(10, 1, PLAIN_BYTES);
    let mut sealed = vec![0; shape.piece_len() as usize * K];
    sealer(level).seal_into(
        plain.slices()[0],
        &mut sealed[..shape.sealed_len() as usize],
    );
    // 31 and 80 have no common factor: the indices are spread, and the same each time.
    let mut present: Vec<u8> = (0..u16::from(REQUIRED))
        .map(|number| (number * 31 % u16::from(STORED)) as u8)
        .collect();
    present.sort_unstable();
    let missing: Vec<u8> = (0..REQUIRED)
        .filter(|index| !present.contains(index))
        .collect();
    let recovery_count = present.iter().filter(|&&index| index >= REQUIRED).count();
    let mut recovery = vec![0; shape.piece_len() as usize * recovery_count];
    let mut hashes = Vec::new();
    let mut encoder = Encoder::with_level(level, REQUIRED, TOTAL)?;
    for stripe in 0..shape.share_count() {
        let share_len = shape.share_len(stripe);
        let start = shape.share_offset(stripe) as usize;
        let data: Vec<&[u8]> = sealed[start * K..][..share_len * K]
            .chunks_exact(share_len)
            .collect();
        let mut all = vec![vec![0; share_len]; N - K];
        let mut rows: Vec<&mut [u8]> = all.iter_mut().map(|row| &mut row[..]).collect();
        encoder.encode_into(&data, &mut rows)?;
        let kept = &mut recovery[start * recovery_count..][..share_len * recovery_count];
        let mut kept = kept.chunks_exact_mut(share_len);
        for &index in &present {
            let share = match usize::from(index).checked_sub(K) {
                None => data[usize::from(index)],
                Some(row) => {
                    let place = kept.next().context("a place for each recovery share")?;
                    place.copy_from_slice(&all[row]);
                    &all[row]
                }
            };
            hashes.push(share_hash(shape.piece_len(), stripe, share));
        }
    }
    Ok(Box::new(Inverse {
        level,
        shape,
        plan: RowPlan::with_level(level, REQUIRED, TOTAL, &present, &missing)?,
        present,
        sealed,
        recovery,
        recovery_count,
        hashes,
        plain: [vec![0; PLAIN_BYTES], vec![0; PLAIN_BYTES]],
    }))
}

struct Inverse {
    level: Level,
    shape: Shape,
    plan: RowPlan,
    present: Vec<u8>,
    /// Data shares, present ones at their places.
    sealed: Vec<u8>,
    /// Present recovery shares, stripe by stripe.
    recovery: Vec<u8>,
    recovery_count: usize,
    /// Share hashes of the present pieces, stripe by stripe.
    hashes: Vec<Hash>,
    plain: [Vec<u8>; 2],
}

impl Contest for Inverse {
    fn user_bytes(&self) -> usize {
        PLAIN_BYTES
    }

    fn ours(&mut self, repeats: u32) -> Result<()> {
        for _ in 0..repeats {
            let (level, shape) = (self.level, &self.shape);
            let opener = opener(level)?;
            let mut restorer = SegmentRestorer::with_level(level, shape, opener, &self.present)?;
            for stripe in 0..shape.share_count() {
                let share_len = shape.share_len(stripe);
                let start = shape.share_offset(stripe) as usize;
                let data = &mut self.sealed[start * K..][..share_len * K];
                let recovery = &self.recovery[start * self.recovery_count..];
                let recovery = recovery[..share_len * self.recovery_count].chunks_exact(share_len);
                let recovery: Vec<&[u8]> = recovery.collect();
                let hashes = &self.hashes[stripe as usize * K..][..K];
                restorer.fill(data, &recovery, hashes)?;
                let range = restorer.plain_range(stripe);
                let plain = &mut self.plain[0][range.start as usize..range.end as usize];
                restorer.open(data, plain)?;
            }
        }
        Ok(())
    }

    fn peer(&mut self, repeats: u32) -> Result<()> {
        for _ in 0..repeats {
            let shape = &self.shape;
            for stripe in 0..shape.share_count() {
                let share_len = shape.share_len(stripe);
                let start = shape.share_offset(stripe) as usize;
                let data = &mut self.sealed[start * K..][..share_len * K];
                let recovery = &self.recovery[start * self.recovery_count..];
                let recovery = recovery[..share_len * self.recovery_count].chunks_exact(share_len);
                let (mut present, mut wanted) = (Vec::new(), Vec::new());
                for (index, share) in (0u8..).zip(data.chunks_exact_mut(share_len)) {
                    if self.present.contains(&index) {
                        present.push(&*share);
                    } else {
                        wanted.push(share);
                    }
                }
                present.extend(recovery);
                for (share, hash) in present.iter().zip(&self.hashes[stripe as usize * K..]) {
                    anyhow::ensure!(share_hash(shape.piece_len(), stripe, share) == *hash);
                }
                self.plan.apply(&present, &mut wanted)?;
            }
            let opener = opener(self.level)?;
            let sealed = self.sealed[..shape.sealed_len() as usize].chunks(SEALED_CHUNK_BYTES);
            let count = sealed.len();
            for (index, sealed) in sealed.enumerate() {
                let start = index * CHUNK_BYTES;
                let plain = &mut self.plain[1][start..PLAIN_BYTES.min(start + CHUNK_BYTES)];
                opener.open_chunk_into(index as u64, index + 1 == count, sealed, plain)?;
            }
        }
        Ok(())
    }

    fn outputs(&self) -> [blake3::Hash; 2] {
        self.plain.each_ref().map(|plain| blake3::hash(plain))
    }
}
