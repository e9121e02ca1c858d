//! What rows hold comes out as plaintext: whole segments and ranges, from any rows.

use std::sync::Arc;

use strand_codec::{
    ContentKey, Encoder, LEAF_BYTES, SALT_BYTES, Sealer, SegmentContext, sealed_len,
};

use super::*;
use crate::buffers::BufferStore;

const REQUIRED: u8 = 4;
const TOTAL: u8 = 10;
/// Seven batches and a piece of one.
const PLAIN_LEN: usize = 7 * 8 * 4 * 16_384 + 70_001;

struct World {
    shape: Shape,
    plain: Vec<u8>,
    pieces: Vec<Vec<u8>>,
    sealed: Vec<u8>,
    key_commitment: [u8; 32],
}

const CONTEXT: SegmentContext = SegmentContext {
    object_id: [1; 16],
    part_number: 1,
    segment_index: 0,
};
const SALT: [u8; SALT_BYTES] = [2; SALT_BYTES];

impl World {
    fn new(plain_len: usize) -> Self {
        let plain: Vec<u8> = (0..plain_len).map(|at| ((at * at) >> 9) as u8).collect();
        let sealer = Sealer::new(&ContentKey::new([3; 32]), &SALT, &CONTEXT);
        let mut sealed = vec![0; sealed_len(plain_len as u64) as usize];
        sealer.seal_into(&plain, &mut sealed);
        let shape = Shape::new(REQUIRED, TOTAL, sealed.len() as u64).unwrap();
        let mut pieces = vec![Vec::new(); usize::from(TOTAL)];
        let mut padded = sealed.clone();
        padded.resize(shape.piece_len() as usize * usize::from(REQUIRED), 0);
        let mut encoder = Encoder::new(REQUIRED, TOTAL).unwrap();
        let mut rest = &padded[..];
        for stripe in 0..shape.share_count() {
            let share_len = shape.share_len(stripe);
            let (of_stripe, later) = rest.split_at(share_len * usize::from(REQUIRED));
            rest = later;
            let data: Vec<&[u8]> = of_stripe.chunks_exact(share_len).collect();
            let mut recovery = vec![vec![0; share_len]; usize::from(TOTAL - REQUIRED)];
            let mut targets: Vec<&mut [u8]> = recovery.iter_mut().map(|row| &mut row[..]).collect();
            encoder.encode_into(&data, &mut targets).unwrap();
            let shares = data.into_iter().chain(recovery.iter().map(|row| &row[..]));
            for (piece, share) in pieces.iter_mut().zip(shares) {
                piece.extend_from_slice(share);
            }
        }
        Self {
            shape,
            plain,
            pieces,
            sealed,
            key_commitment: sealer.key_commitment(),
        }
    }

    fn opener(&self) -> Opener {
        let key = ContentKey::new([3; 32]);
        Opener::new(&key, &SALT, &self.key_commitment, &CONTEXT).unwrap()
    }

    /// The leaves of a piece that hold these columns, and nothing else of it.
    fn row(&self, index: u8, columns: &Range<u64>) -> Row {
        let leaf = LEAF_BYTES as u64;
        let start = columns.start / leaf * leaf;
        let end = (columns.end.div_ceil(leaf) * leaf).min(self.shape.piece_len());
        let mut bytes = Arc::new(BufferStore::default()).lend((end - start) as usize);
        let piece = &self.pieces[usize::from(index)];
        bytes.copy_from_slice(&piece[start as usize..end as usize]);
        Row { start, bytes }
    }

    /// The rows that hold the extent, each its own columns.
    fn direct_rows(&self, extent: &Extent) -> BTreeMap<u8, Row> {
        let columns = extent.columns(&self.shape).into_iter();
        let rows = columns.map(|(index, columns)| (index, self.row(index, &columns)));
        rows.collect()
    }

    /// All columns of the extent, of these pieces.
    fn rows_of(&self, extent: &Extent, present: &[u8]) -> BTreeMap<u8, Row> {
        let columns = extent.columns(&self.shape);
        let start = columns.values().map(|range| range.start).min().unwrap();
        let end = columns.values().map(|range| range.end).max().unwrap();
        let rows = present.iter();
        rows.map(|&index| (index, self.row(index, &(start..end))))
            .collect()
    }

    fn check(&self, extent: &Extent, rows: BTreeMap<u8, Row>) {
        let needed: Vec<u8> = extent.columns(&self.shape).into_keys().collect();
        let mut plans = PlanCache::new(1);
        let source = SealedBytes::new(self.shape, rows, &needed, &mut plans).unwrap();
        let (mut target, mut told) = (Vec::new(), 0);
        let tell = |count| told += count;
        let count = write_plain(&source, self.opener(), extent, &mut target, tell).unwrap();
        let wanted = extent.plain.start as usize..extent.plain.end as usize;
        assert!(target == self.plain[wanted], "{extent:?}");
        assert_eq!((count, told), (target.len() as u64, target.len() as u64));
    }
}

/// Ranges whose ends lie in the first, the last and some other chunk, share, stripe and batch.
fn extents(world: &World) -> Vec<Extent> {
    let len = world.plain.len() as u64;
    let ranges = [
        0..len,
        0..1,
        16_383..16_385,
        70_000..70_000 + 16_384,
        65_000..66_000,
        300_000..900_000,
        500_001..len,
        len - 1..len,
        len.saturating_sub(90_000)..len - 1,
    ];
    let inside = ranges
        .into_iter()
        .filter(|range| range.start < range.end && range.end <= len);
    inside
        .map(|range| Extent::new(range, world.shape.sealed_len()))
        .collect()
}

const PATTERNS: [&[u8]; 5] = [
    &[0, 1, 2, 3],
    &[0, 1, 2, 9],
    &[0, 2, 5, 6],
    &[6, 7, 8, 9],
    // More than are needed.
    &[1, 2, 4, 5, 8],
];

#[test]
fn ranges_and_whole_segments_come_out_of_any_rows() {
    for plain_len in [16_385, 100_000, PLAIN_LEN] {
        let world = World::new(plain_len);
        for extent in extents(&world) {
            world.check(&extent, world.direct_rows(&extent));
            for present in PATTERNS {
                world.check(&extent, world.rows_of(&extent, present));
            }
        }
    }
}

#[test]
fn chunks_of_inline_segments_are_opened_and_damaged_ones_are_not() {
    let world = World::new(16_384);
    for range in [0..16_384, 0..1, 100..16_384, 16_383..16_384] {
        let extent = Extent::new(range.clone(), world.sealed.len() as u64);
        let mut target = Vec::new();
        write_inline(&world.sealed, world.opener(), &extent, &mut target).unwrap();
        assert!(target == world.plain[range.start as usize..range.end as usize]);
    }
    let extent = Extent::new(0..16_384, world.sealed.len() as u64);
    for at in [0, 16_399, 16_400, 16_415] {
        let mut damaged = world.sealed.clone();
        damaged[at] ^= 1;
        let mut target = Vec::new();
        let refused = write_inline(&damaged, world.opener(), &extent, &mut target);
        assert!(matches!(refused, Err(DecodeError::Content(_))));
        assert!(target.is_empty());
    }
}

#[test]
fn a_damaged_segment_ends_at_its_first_bad_batch_with_or_without_threads() {
    let mut world = World::new(PLAIN_LEN);
    // In the third batch of stripes.
    let at = 2 * 8 * 16_384 + 5;
    world.pieces[1][at] ^= 1;
    let extent = Extent::new(0..PLAIN_LEN as u64, world.shape.sealed_len());
    for present in [&[0, 1, 2, 3], &[1, 7, 8, 9]] {
        let needed: Vec<u8> = (0..REQUIRED).collect();
        let rows = world.rows_of(&extent, present);
        let source = SealedBytes::new(world.shape, rows, &needed, &mut PlanCache::new(1)).unwrap();
        let mut target = Vec::new();
        let refused = write_plain(&source, world.opener(), &extent, &mut target, |_| ());
        assert!(matches!(refused, Err(DecodeError::Content(_))));
        // Two batches of 32 shares, but for the chunk that ends in the third.
        assert!(target == world.plain[..2 * 32 * 16_384 / 16_400 * 16_384]);
    }
}
