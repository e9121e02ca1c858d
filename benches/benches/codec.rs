//! The codec's building blocks, the stock crate beside ours.
//!
//! Throughput counts data bytes (for a code: those of the k data shares), as
//! docs/format.md counts a segment.

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use reed_solomon_simd::engine::DefaultEngine;
use reed_solomon_simd::rate::{LowRateDecoder, LowRateEncoder, RateDecoder, RateEncoder};
use strand_benches::{Buffers, random_bytes, report_output};
use strand_codec::{
    Backend, CHUNK_BYTES, ContentKey, Encoder, Level, Opener, PieceHasher, RowPlan, SHARE_BYTES,
    Sealer, SegmentContext, SegmentTree, Shape, prove_slice, verify_slice,
};

const REQUIRED: u8 = 29;
const TOTAL: u8 = 93;
const K: usize = REQUIRED as usize;
const ROWS: usize = (TOTAL - REQUIRED) as usize;
const KIB: usize = 1_024;

/// All recovery shares: the stock encoder, and ours at every level of this CPU. The last length is
/// that of a segment's pieces, beyond all caches.
fn encode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("encode");
    for share_len in [4 * KIB, 16 * KIB, 64 * KIB, 2_260 * KIB] {
        group.throughput(Throughput::Bytes((K * share_len) as u64));
        let data = Buffers::random(1, K, share_len);
        let data = data.slices();
        let mut recovery = Buffers::random(2, ROWS, share_len);

        // Into the caller's buffers, as ours: pieces are stored, not looked at.
        let mut stock =
            LowRateEncoder::new(K, ROWS, share_len, DefaultEngine::new(), None).expect("shape");
        let mut run_stock = |recovery: &mut [&mut [u8]]| {
            data.iter()
                .for_each(|share| stock.add_original_shard(share).expect("share"));
            let result = stock.encode().expect("all shares");
            for (share, row) in recovery.iter_mut().zip(result.recovery_iter()) {
                share.copy_from_slice(row);
            }
        };
        run_stock(&mut recovery.slices_mut());
        let expected = report_output("encode/stock", recovery.slices());
        group.bench_function(BenchmarkId::new("stock", share_len), |bencher| {
            let mut recovery = recovery.slices_mut();
            bencher.iter(|| run_stock(&mut recovery));
        });

        for level in Level::available() {
            let mut encoder = Encoder::with_level(level, REQUIRED, TOTAL).expect("scheme");
            encoder
                .encode_into(&data, &mut recovery.slices_mut())
                .expect("shares");
            assert_eq!(report_output("encode/strand", recovery.slices()), expected);
            let id = BenchmarkId::new(format!("strand {level}"), share_len);
            group.bench_function(id, |bencher| {
                let mut recovery = recovery.slices_mut();
                bencher.iter(|| encoder.encode_into(&data, &mut recovery).expect("shares"));
            });
        }
    }
    group.finish();
}

/// 10, 19, all 29 data shares are missing, three and one: the stock decoder, and ours at every level
/// of this CPU.
fn decode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decode");
    for (missing, share_len) in [
        (19, 4 * KIB),
        (19, 16 * KIB),
        (19, 64 * KIB),
        (10, 64 * KIB),
        (29, 64 * KIB),
        (3, 16 * KIB),
        (1, 64 * KIB),
    ] {
        group.throughput(Throughput::Bytes((K * share_len) as u64));
        let data = Buffers::random(3, K, share_len);
        let data = data.slices();
        let mut recovery = Buffers::random(4, ROWS, share_len);
        let mut encoder = Encoder::new(REQUIRED, TOTAL).expect("scheme");
        encoder
            .encode_into(&data, &mut recovery.slices_mut())
            .expect("shares");
        let all = [data.clone(), recovery.slices()].concat();
        // The last recovery shares stand in for the first data shares: the widest transform.
        let wanted: Vec<u8> = (0..missing).collect();
        let present: Vec<u8> = (missing..REQUIRED).chain(TOTAL - missing..TOTAL).collect();
        let sources: Vec<&[u8]> = present
            .iter()
            .map(|&index| all[usize::from(index)])
            .collect();
        let mut rebuilt = Buffers::random(5, wanted.len(), share_len);
        let id = |name| BenchmarkId::new(name, format!("{missing} missing, {share_len}"));

        let mut stock =
            LowRateDecoder::new(K, ROWS, share_len, DefaultEngine::new(), None).expect("shape");
        let mut run_stock = |rebuilt: &mut [&mut [u8]]| {
            for (&index, source) in present.iter().zip(&sources) {
                match usize::from(index).checked_sub(K) {
                    None => stock.add_original_shard(usize::from(index), source),
                    Some(row) => stock.add_recovery_shard(row, source),
                }
                .expect("share");
            }
            let result = stock.decode().expect("enough shares");
            for (share, (_, row)) in rebuilt.iter_mut().zip(result.restored_original_iter()) {
                share.copy_from_slice(row);
            }
        };
        run_stock(&mut rebuilt.slices_mut());
        assert!(rebuilt.slices() == data[..wanted.len()]);
        group.bench_function(id("stock".to_owned()), |bencher| {
            let mut rebuilt = rebuilt.slices_mut();
            bencher.iter(|| run_stock(&mut rebuilt));
        });

        for level in Level::available() {
            let mut rebuilt = Buffers::random(5, wanted.len(), share_len);
            let plan =
                RowPlan::with_level(level, REQUIRED, TOTAL, &present, &wanted).expect("plan");
            plan.apply(&sources, &mut rebuilt.slices_mut())
                .expect("shares");
            assert!(rebuilt.slices() == data[..wanted.len()]);
            report_output("decode", rebuilt.slices());
            group.bench_function(id(format!("strand {level}")), |bencher| {
                let mut rebuilt = rebuilt.slices_mut();
                bencher.iter(|| plan.apply(&sources, &mut rebuilt).expect("shares"));
            });
        }
    }
    group.finish();
}

/// A scheme with points above 255, whose matrices are wide: the rows of 64 + 191 that lie there, and
/// data shares from them.
fn wide(criterion: &mut Criterion) {
    const REQUIRED: u8 = 64;
    let mut group = criterion.benchmark_group("wide");
    let share_len = 16 * KIB;
    group.throughput(Throughput::Bytes(
        (usize::from(REQUIRED) * share_len) as u64,
    ));
    let data = Buffers::random(11, usize::from(REQUIRED), share_len);
    let data = data.slices();
    let mut recovery = Buffers::random(12, usize::from(255 - REQUIRED), share_len);
    let mut expected = None;
    for level in Level::available() {
        let mut encoder = Encoder::with_level(level, REQUIRED, 255).expect("scheme");
        encoder
            .encode_into(&data, &mut recovery.slices_mut())
            .expect("shares");
        let output = report_output("wide", recovery.slices());
        assert_eq!(*expected.get_or_insert(output), output);
        group.bench_function(BenchmarkId::new("encode 64 + 191", level), |bencher| {
            let mut recovery = recovery.slices_mut();
            bencher.iter(|| encoder.encode_into(&data, &mut recovery).expect("shares"));
        });

        let wanted: Vec<u8> = (0..8).collect();
        let present: Vec<u8> = (8..REQUIRED).chain(247..255).collect();
        let plan = RowPlan::with_level(level, REQUIRED, 255, &present, &wanted).expect("plan");
        let all = [data.clone(), recovery.slices()].concat();
        let sources: Vec<&[u8]> = present
            .iter()
            .map(|&index| all[usize::from(index)])
            .collect();
        let mut rebuilt = Buffers::random(13, wanted.len(), share_len);
        plan.apply(&sources, &mut rebuilt.slices_mut())
            .expect("shares");
        assert!(rebuilt.slices() == data[..wanted.len()]);
        group.bench_function(BenchmarkId::new("8 of 64 missing", level), |bencher| {
            let mut rebuilt = rebuilt.slices_mut();
            bencher.iter(|| plan.apply(&sources, &mut rebuilt).expect("shares"));
        });
    }
    group.finish();
}

/// What a loss pattern and a scheme cost before their first byte.
fn plan(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("plan");
    let wanted: Vec<u8> = (0..19).collect();
    let present: Vec<u8> = (19..REQUIRED).chain(TOTAL - 19..TOTAL).collect();
    for level in Level::available() {
        group.bench_function(BenchmarkId::new("19 of 29 missing", level), |bencher| {
            bencher.iter(|| {
                RowPlan::with_level(level, REQUIRED, TOTAL, &present, &wanted).expect("plan")
            });
        });
        group.bench_function(BenchmarkId::new("encoder 29 + 64", level), |bencher| {
            bencher.iter(|| Encoder::with_level(level, REQUIRED, TOTAL).expect("scheme"));
        });
    }
    group.finish();
}

/// Chunks sealed and opened out of place, full ones and the shorter ones that a segment ends in; and
/// opened in place.
fn seal(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("seal");
    let (key, salt) = (ContentKey::new([1; 32]), [2; 24]);
    let context = SegmentContext {
        object_id: [3; 16],
        part_number: 1,
        segment_index: 0,
    };
    for len in [64, KIB, 4 * KIB, CHUNK_BYTES] {
        group.throughput(Throughput::Bytes(len as u64));
        let (plain, is_last) = (random_bytes(6, len), len < CHUNK_BYTES);
        let mut expected = None;
        for backend in Backend::available(Level::best()) {
            let sealer = Sealer::with_backend(backend, &key, &salt, &context);
            let commitment = sealer.key_commitment();
            let opener = Opener::with_backend(backend, &key, &salt, &commitment, &context)
                .expect("the commitment is the sealer's");
            let mut sealed = vec![0; len + 16];
            sealer.seal_chunk(0, &plain, &mut sealed);
            let output = report_output("seal", [sealed.as_slice()]);
            assert_eq!(*expected.get_or_insert(output), output);
            let id = |what| BenchmarkId::new(format!("{what} {}", backend.name()), len);
            group.bench_function(id("seal"), |bencher| {
                bencher.iter(|| sealer.seal_chunk(0, &plain, &mut sealed));
            });

            let mut opened = vec![0; len];
            let mut open = || opener.open_chunk_into(0, is_last, &sealed, &mut opened);
            open().expect("sealed above");
            group.bench_function(id("open"), |bencher| bencher.iter(&mut open));
            assert!(opened == plain);

            let mut chunk = vec![0; len + 16];
            let mut open = || {
                chunk.copy_from_slice(&sealed);
                let opened = opener.open_chunk(0, is_last, &mut chunk);
                opened.expect("sealed above") == plain
            };
            assert!(open());
            group.bench_function(id("open in place"), |bencher| bencher.iter(&mut open));
        }
    }
    group.finish();
}

fn tree(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("tree");
    let share_count = 4;
    let piece_len = share_count * SHARE_BYTES;
    let shares = Buffers::random(7, usize::from(TOTAL), SHARE_BYTES);
    let shares = shares.slices();

    group.throughput(Throughput::Bytes((usize::from(TOTAL) * SHARE_BYTES) as u64));
    group.bench_function("93 pieces, one share each", |bencher| {
        bencher.iter_batched(
            || vec![PieceHasher::new(piece_len as u64); usize::from(TOTAL)],
            |mut hashers| {
                hashers
                    .iter_mut()
                    .zip(&shares)
                    .for_each(|(hasher, share)| hasher.push_share(share));
                hashers
            },
            criterion::BatchSize::SmallInput,
        );
    });

    let piece = random_bytes(8, 2_316_416);
    let hash_piece = || {
        let mut hasher = PieceHasher::new(piece.len() as u64);
        piece
            .chunks(SHARE_BYTES)
            .for_each(|share| hasher.push_share(share));
        hasher.finish()
    };
    group.throughput(Throughput::Bytes(piece.len() as u64));
    group.bench_function("full piece", |bencher| bencher.iter(hash_piece));
    group.bench_function("full piece, stock", |bencher| {
        bencher.iter(|| blake3::hash(&piece))
    });
    let piece_tree = hash_piece();
    assert_eq!(blake3::hash(&piece), piece_tree.root);
    report_output("full piece", [piece_tree.root.as_slice()]);

    let shape = Shape::new(REQUIRED, TOTAL, 67_174_416).expect("a full segment");
    let roots = vec![piece_tree.root; usize::from(TOTAL)];
    group.throughput(Throughput::Elements(1));
    group.bench_function("segment tree", |bencher| {
        bencher.iter(|| {
            SegmentTree::new(&shape, &roots)
                .expect("93 roots")
                .commitment()
        });
    });

    let leaves = 1_000..1_001_u32;
    let prove = || {
        prove_slice(
            shape.piece_len(),
            &piece_tree.share_hashes,
            leaves.clone(),
            |share| {
                piece
                    .chunks(SHARE_BYTES)
                    .nth(share as usize)
                    .expect("share")
                    .to_vec()
            },
        )
        .expect("leaf of the piece")
    };
    let proof = prove();
    let bytes = &piece[1_000 * KIB..1_001 * KIB];
    group.bench_function("prove a leaf", |bencher| bencher.iter(prove));
    group.bench_function("verify a leaf", |bencher| {
        bencher.iter(|| {
            verify_slice(
                shape.piece_len(),
                &piece_tree.root,
                leaves.clone(),
                &proof,
                bytes,
            )
            .expect("a true proof")
        });
    });
    report_output("proof", proof.iter().map(<[u8; 32]>::as_slice));
    group.finish();
}

criterion_group! {
    name = benches;
    // Half a minute in all; `cargo bench -- --measurement-time 5` for more certainty.
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(800))
        .sample_size(20);
    targets = encode, decode, wide, plan, seal, tree
}
criterion_main!(benches);
