//! Whole segments: all pieces hashed side by side, and the way from plaintext to hashed pieces and back.
//!
//! Throughput counts bytes of plaintext, or of what is hashed.

use std::sync::Arc;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use strand_benches::{Buffers, random_bytes, report_output};
use strand_codec::{
    CHUNK_BYTES, ChunkOpener, ContentKey, Hash, LEAF_BYTES, Level, LockstepHasher, Opener,
    PieceTree, PlanCache, RowPlan, SHARE_BYTES, Sealer, SegmentContext, SegmentRestorer,
    SegmentWriter, Shape, StripeCoder, StripeFiller, sealed_len,
};

const REQUIRED: u8 = 29;
const TOTAL: u8 = 93;
const K: usize = REQUIRED as usize;
const N: usize = TOTAL as usize;
const SALT: [u8; 24] = [2; 24];

/// Two full stripes and a short one.
const PLAIN_BYTES: usize = 2 * K * CHUNK_BYTES + 100_000;

fn sealer() -> Sealer {
    Sealer::new(&ContentKey::new([1; 32]), &SALT, &context())
}

fn opener() -> Opener {
    let key = ContentKey::new([1; 32]);
    Opener::new(&key, &SALT, &sealer().key_commitment(), &context())
        .expect("the commitment is the sealer's")
}

fn context() -> SegmentContext {
    SegmentContext {
        object_id: [3; 16],
        part_number: 1,
        segment_index: 0,
    }
}

fn shape() -> Shape {
    Shape::new(REQUIRED, TOTAL, sealed_len(PLAIN_BYTES as u64)).expect("a segment")
}

/// 93 pieces of two shares, so many columns at a time; short of 16 KiB a piece alone does not fill the lanes of a vector.
fn lockstep(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("lockstep");
    let piece_len = 2 * SHARE_BYTES;
    group.throughput(Throughput::Bytes((N * piece_len) as u64));
    let pieces = Buffers::random(1, N, piece_len);
    let pieces = pieces.slices();
    let mut expected = None;
    for columns in [LEAF_BYTES, 2 * LEAF_BYTES, SHARE_BYTES] {
        let run = || {
            let mut hasher = LockstepHasher::new(N, piece_len as u64);
            for start in (0..piece_len).step_by(columns) {
                let mut tile: [&[u8]; N] = [&[]; N];
                for (tile, piece) in tile.iter_mut().zip(&pieces) {
                    *tile = &piece[start..start + columns];
                }
                hasher.push(&tile);
            }
            hasher.finish()
        };
        let roots: Vec<Hash> = run().iter().map(|tree| tree.root).collect();
        let output = report_output("lockstep", roots.iter().map(<[u8; 32]>::as_slice));
        assert_eq!(*expected.get_or_insert(output), output);
        group.bench_function(BenchmarkId::new("93 pieces", columns), |bencher| {
            bencher.iter(run);
        });
    }
    group.finish();
}

/// Data shares and recovery shares of every stripe, and the trees of all pieces.
struct Written {
    data: Vec<Vec<u8>>,
    recovery: Vec<Vec<u8>>,
    trees: Vec<PieceTree>,
}

impl Written {
    fn new(shape: &Shape) -> Self {
        let stripes = 0..shape.share_count();
        let data = stripes.clone().map(|stripe| K * shape.share_len(stripe));
        let recovery = stripes.map(|stripe| StripeCoder::recovery_len(shape, stripe));
        Self {
            data: data.map(|len| vec![0; len]).collect(),
            recovery: recovery.map(|len| vec![0; len]).collect(),
            trees: Vec::new(),
        }
    }

    fn write(&mut self, level: Level, shape: &Shape, plain: &[u8]) {
        let mut writer = SegmentWriter::with_level(level, shape, sealer()).expect("a segment");
        for (data, recovery) in self.data.iter_mut().zip(&mut self.recovery) {
            let stripe = writer.stripe();
            let range = writer.plain_range(stripe);
            writer.seal(&plain[range.start as usize..range.end as usize], data);
            while writer.stripe() == stripe {
                writer.step(data, recovery).expect("buffers of the stripe");
            }
        }
        self.trees = writer.finish();
    }

    fn share(&self, shape: &Shape, stripe: u32, index: u8) -> &[u8] {
        let share_len = shape.share_len(stripe);
        if index >= shape.required() {
            let range = StripeCoder::recovery_range(shape, stripe, index);
            return &self.recovery[stripe as usize][range];
        }
        &self.data[stripe as usize][usize::from(index) * share_len..][..share_len]
    }
}

/// There and back at every level.
fn pipeline(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pipeline");
    group.throughput(Throughput::Bytes(PLAIN_BYTES as u64));
    let (shape, plain) = (shape(), random_bytes(2, PLAIN_BYTES));
    // Nineteen data shares are missing, as of 29 pieces of 80 at random.
    let present: Vec<u8> = (0..10).chain(REQUIRED..REQUIRED + 19).collect();
    let mut expected = None;
    for level in Level::available() {
        let mut written = Written::new(&shape);
        written.write(level, &shape, &plain);
        let roots = written.trees.iter().map(|tree| tree.root.as_slice());
        let output = report_output("pipeline", roots);
        assert_eq!(*expected.get_or_insert(output), output);
        group.bench_function(BenchmarkId::new("seal, encode, hash", level), |bencher| {
            bencher.iter(|| written.write(level, &shape, &plain));
        });

        let mut data = written.data.clone();
        let mut restored = vec![0; PLAIN_BYTES];
        let mut restore = || {
            let restorer = SegmentRestorer::with_level(level, &shape, opener(), &present);
            let mut restorer = restorer.expect("pieces of the segment");
            for (stripe, data) in (0..).zip(&mut data) {
                let of_recovery = present[10..].iter();
                let recovery: Vec<&[u8]> = of_recovery
                    .map(|&index| written.share(&shape, stripe, index))
                    .collect();
                let of_present = present.iter();
                let hashes: Vec<Hash> = of_present
                    .map(|&index| written.trees[usize::from(index)].share_hashes[stripe as usize])
                    .collect();
                restorer
                    .fill(data, &recovery, &hashes)
                    .expect("honest shares");
                let range = restorer.plain_range(stripe);
                let plain = &mut restored[range.start as usize..range.end as usize];
                restorer.open(data, plain).expect("what was sealed");
            }
        };
        restore();
        group.bench_function(BenchmarkId::new("check, fill, open", level), |bencher| {
            bencher.iter(&mut restore);
        });
        assert!(restored == plain);
        report_output("inverse", [restored.as_slice()]);
    }
    group.finish();
}

/// The halves of the way back, as a download uses them.
fn halves(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("halves");
    let (shape, plain) = (shape(), random_bytes(2, PLAIN_BYTES));
    let mut written = Written::new(&shape);
    written.write(Level::best(), &shape, &plain);
    let present: Vec<u8> = (0..10).chain(REQUIRED..REQUIRED + 19).collect();
    let wanted: Vec<u8> = (10..REQUIRED).collect();
    let of_recovery = present[10..].iter();
    let recovery: Vec<&[u8]> = of_recovery
        .map(|&index| written.share(&shape, 0, index))
        .collect();
    group.throughput(Throughput::Bytes((K * SHARE_BYTES) as u64));
    for level in Level::available() {
        let plan = RowPlan::with_level(level, REQUIRED, TOTAL, &present, &wanted).expect("a plan");
        let filler = StripeFiller::new(&shape, Arc::new(plan)).expect("data shares");
        let mut data = written.data[0].clone();
        data[10 * SHARE_BYTES..].fill(0);
        let mut fill = || filler.fill(0, 0..SHARE_BYTES, &mut data, &recovery);
        fill().expect("shares of the stripe");
        group.bench_function(BenchmarkId::new("fill 19 of 29", level), |bencher| {
            bencher.iter(&mut fill);
        });
        assert!(data == written.data[0]);
        report_output("fill", [data.as_slice()]);
    }

    let mut opened = vec![0; PLAIN_BYTES];
    let mut open = || {
        let chunk_count = shape.plain_len() / CHUNK_BYTES as u64 + 1;
        let mut opener = ChunkOpener::new(opener(), shape.sealed_len(), 0..chunk_count);
        let (mut left, mut start) = (shape.sealed_len() as usize, 0);
        for data in &written.data {
            let sealed = &data[..data.len().min(left)];
            left -= sealed.len();
            let count = opener.plain_count(sealed.len());
            opener
                .open(sealed, &mut opened[start..start + count])
                .expect("what was sealed");
            start += count;
        }
    };
    open();
    group.throughput(Throughput::Bytes(PLAIN_BYTES as u64));
    group.bench_function("open", |bencher| bencher.iter(&mut open));
    assert!(opened == plain);
    report_output("open", [opened.as_slice()]);

    let mut plans = PlanCache::new(16);
    group.throughput(Throughput::Elements(1));
    group.bench_function("a plan that was made before", |bencher| {
        bencher.iter(|| {
            plans
                .plan(REQUIRED, TOTAL, &present, &wanted)
                .expect("a plan")
        });
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(800))
        .sample_size(20);
    targets = lockstep, pipeline, halves
}
criterion_main!(benches);
