//! What the fuzz targets of the codec do with their bytes. The codec's own tests do the same with the seeds, and with much that is near to them.
//!
//! The first bytes say what is tried, the rest is content; what is missing counts as zero. Nothing that a stranger says makes the codec panic or
//! take what is not so, and every level makes what the stock crates make.

use reed_solomon_simd::engine::NoSimd;
use reed_solomon_simd::rate::{LowRateEncoder, RateEncoder};
use strand_codec::chunked::{self, HEADER_BYTES, MessageKey};
use strand_codec::{
    Backend, CHUNK_BYTES, ChunkOpener, ContentKey, Encoder, Hash, LEAF_BYTES, Level,
    LockstepHasher, ObjectLeaf, Opener, PIECE_BYTES_MAX, PieceHasher, PieceTree, RestoreError,
    RowPlan, SALT_BYTES, SEALED_CHUNK_BYTES, SHARE_BYTES, Sealer, SegmentContext, SegmentRestorer,
    SegmentTree, SegmentWriter, Shape, StripeCoder, commitment_of_path, cut_shares,
    inline_commitment, object_root, plain_len, prove_slice, root_of_share_hashes, sealed_len,
    share_hash, slice_proof_len, verify_slice,
};

const SALT: [u8; SALT_BYTES] = [5; SALT_BYTES];
const CONTEXT: SegmentContext = SegmentContext {
    object_id: [1; 16],
    part_number: 2,
    segment_index: 3,
};

/// The bytes of a target, front to back.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn byte(&mut self) -> u8 {
        self.0.split_off_first().copied().unwrap_or(0)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::from(u16::from_le_bytes([self.byte(), self.byte()])) % end.max(1)
    }

    fn number(&mut self) -> u64 {
        u64::from_le_bytes(std::array::from_fn(|_| self.byte()))
    }

    /// So many bytes: the rest again and again.
    fn content(&self, len: usize) -> Vec<u8> {
        let rest = if self.0.is_empty() { &[0xa7] } else { self.0 };
        rest.iter().copied().cycle().take(len).collect()
    }

    /// Distinct ones of `from`, ascending.
    fn some_of(&mut self, mut from: Vec<u8>, count: usize) -> Vec<u8> {
        let mut chosen: Vec<u8> = (0..count)
            .map(|_| from.remove(self.below(from.len())))
            .collect();
        chosen.sort_unstable();
        chosen
    }
}

/// Three numbers as a stranger gives them: what is taken as a shape adds up.
pub(crate) fn shape(bytes: &[u8]) {
    let mut input = Input(bytes);
    let (required, total, len) = (input.byte(), input.byte(), input.number());
    let near = len % (sealed_len(strand_codec::segment_bytes_max(64)) + 2);
    for sealed in [len, near] {
        let Ok(shape) = Shape::new(required, total, sealed) else {
            continue;
        };
        assert!((1..=64).contains(&required) && total >= required);
        assert_eq!(plain_len(sealed), Ok(shape.plain_len()));
        assert_eq!(sealed_len(shape.plain_len()), sealed);
        assert!(shape.piece_len() <= PIECE_BYTES_MAX);
        assert!(shape.piece_len() * u64::from(required) >= sealed);
        let lens = (0..shape.share_count()).map(|share| shape.share_len(share) as u64);
        assert_eq!(lens.sum::<u64>(), shape.piece_len());
        let offset = input.number() % sealed;
        let cell = shape.cell(offset);
        let held = shape.sealed_range(cell.stripe, cell.index);
        assert!(held.contains(&offset) && held.start + cell.offset as u64 == offset);
    }
}

/// A message as a stranger gives it, and an honest one that he altered.
pub(crate) fn sealed(bytes: &[u8]) {
    check_message(bytes);
    let mut input = Input(bytes);
    let plain = input.content(input.0.len().min(3) * 9_000 + usize::from(bytes.len() as u8));
    let seal = |backend| chunked::seal(backend, &[9; 32], &SALT, b"place", &plain);
    let honest = seal(Backend::Portable);
    for backend in Backend::available(Level::best()) {
        assert!(honest == seal(backend), "{}", backend.name());
    }
    let mut altered = honest.clone();
    for _ in 0..4 {
        let at = input.below(altered.len());
        match input.byte() % 6 {
            0 => break,
            1 => altered[at] ^= input.byte(),
            2 => altered.truncate(at),
            3 => altered.extend_from_slice(input.0),
            4 => {
                altered.drain(at..(at + SEALED_CHUNK_BYTES).min(altered.len()));
            }
            _ => altered.rotate_left(at),
        }
        if altered.is_empty() {
            break;
        }
    }
    assert_eq!(check_message(&altered), altered == honest);
}

/// It opens with all back ends or with none, whole and chunk by chunk, and only if sealing makes it. Returns whether it opens.
fn check_message(message: &[u8]) -> bool {
    let opened = chunked::open(Backend::Portable, &[9; 32], b"place", message);
    for backend in Backend::available(Level::best()) {
        let also = chunked::open(backend, &[9; 32], b"place", message);
        assert_eq!(also, opened, "{}", backend.name());
    }
    let Some((header, sealed)) = message.split_at_checked(HEADER_BYTES) else {
        return false;
    };
    let (salt, _) = header
        .split_first_chunk()
        .expect("a header begins with a salt");
    let key = MessageKey::derive(Backend::default(), &[9; 32], salt, b"place");
    if let Ok(plain) = &opened {
        let again = chunked::seal(Backend::default(), &[9; 32], salt, b"place", plain);
        assert!(again == message, "two messages open to the same");
    }
    let chunk_count = sealed.chunks(SEALED_CHUNK_BYTES).len();
    for (index, chunk) in sealed.chunks(SEALED_CHUNK_BYTES).enumerate() {
        let mut chunk = chunk.to_vec();
        let is_last = index + 1 == chunk_count;
        if key.open_chunk(index as u64, is_last, &mut chunk).is_err() {
            assert!(opened.is_err() && chunk.iter().all(|byte| *byte == 0));
        }
    }
    opened.is_ok()
}

/// Sealed bytes of a segment that come in parts open as the whole does.
pub(crate) fn parts(bytes: &[u8]) {
    let mut input = Input(bytes);
    let plain_len = input.below(40_000) + 10_000 * usize::from(input.byte() % 5);
    let plain = input.content(plain_len);
    let key = ContentKey::new([9; 32]);
    let sealer = Sealer::new(&key, &SALT, &CONTEXT);
    let mut sealed = vec![0; sealed_len(plain.len() as u64) as usize];
    sealer.seal_into(&plain, &mut sealed);
    let opener = Opener::new(&key, &SALT, &sealer.key_commitment(), &CONTEXT);
    let claimed_len = sealed.len() as u64 + u64::from(input.byte() / 255) * input.number() % 20_000;
    let count = sealed.len().div_ceil(SEALED_CHUNK_BYTES);
    let first = input.below(count);
    let damage = input.below(4 * sealed.len());
    if let Some(byte) = sealed.get_mut(damage) {
        *byte ^= 1;
    }
    let is_bad = |chunk: usize| {
        damage < sealed.len() && damage / SEALED_CHUNK_BYTES == chunk
            || claimed_len != sealed.len() as u64 && chunk + 1 == count
    };
    let chunks = first as u64..count as u64;
    let mut opener = ChunkOpener::new(opener.expect("its own key"), claimed_len, chunks);
    let (mut rest, mut opened) = (&sealed[first * SEALED_CHUNK_BYTES..], Vec::new());
    while !rest.is_empty() {
        let (part, later) = rest.split_at((1 + input.below(40_000)).min(rest.len()));
        rest = later;
        let start = opened.len();
        opened.resize(start + opener.plain_count(part.len()), 1);
        if opener.open(part, &mut opened[start..]).is_err() {
            assert!(opened[start..].iter().all(|byte| *byte == 0), "released");
            assert!((first..count).any(is_bad), "honest chunks were refused");
            return;
        }
    }
    let end = opener.chunks().start as usize;
    assert!(
        !(first..end).any(is_bad),
        "a chunk was taken that is not so"
    );
    assert!(opened == plain[first * CHUNK_BYTES..plain.len().min(end * CHUNK_BYTES)]);
    assert!(opener.chunks().is_empty() || (first..count).any(is_bad));
}

/// Proofs as a prover without a conscience gives them: another byte of the piece is never taken.
pub(crate) fn proofs(bytes: &[u8]) {
    let mut input = Input(bytes);
    let piece_len = 1 + input.below(4 * SHARE_BYTES);
    let piece = input.content(piece_len);
    let tree = tree_of(&piece);
    assert_eq!(tree.root, *blake3::hash(&piece).as_bytes());
    let piece_len = match input.byte() {
        0 => input.number(),
        _ => piece.len() as u64,
    };
    let leaf_count = piece.len().div_ceil(LEAF_BYTES) as u32;
    let first = input.below(leaf_count as usize + 1) as u32;
    let leaves = first..first.saturating_add(input.below(leaf_count as usize + 2) as u32);
    let share = |share: u32| {
        let share = piece.chunks(SHARE_BYTES).nth(share as usize);
        share.unwrap_or_default().to_vec()
    };
    let proved = prove_slice(piece_len, &tree.share_hashes, leaves.clone(), share);
    assert_eq!(
        cut_shares(piece_len, leaves.clone()).is_ok(),
        slice_proof_len(piece_len, leaves.clone()).is_ok()
    );
    let start = piece.len().min(leaves.start as usize * LEAF_BYTES);
    let end = piece.len().min(leaves.end as usize * LEAF_BYTES).max(start);
    let told = &piece[start..end];
    if piece_len == piece.len() as u64 {
        let is_range = leaves.start < leaves.end && leaves.end <= leaf_count;
        assert_eq!(proved.is_ok(), is_range);
    }
    let mut proof = proved.unwrap_or_default();
    let mut slice = told.to_vec();
    let honest_proof = proof.clone();
    for _ in 0..3 {
        let at = input.below(1 << 16);
        match input.byte() % 8 {
            1 if !slice.is_empty() => {
                let at = at % slice.len();
                slice[at] ^= input.byte();
            }
            2 => slice.truncate(at),
            3 => slice.push(input.byte()),
            4 if !proof.is_empty() => {
                let at = at % proof.len();
                proof[at][at % 32] ^= input.byte();
            }
            5 => proof.truncate(at % (proof.len() + 1)),
            6 => proof.push([input.byte(); 32]),
            7 if proof.len() > 1 => {
                let at = at % (proof.len() - 1);
                proof.swap(at, at + 1);
            }
            _ => {}
        }
    }
    let taken = verify_slice(piece_len, &tree.root, leaves.clone(), &proof, &slice).is_ok();
    if piece_len == piece.len() as u64 {
        let is_range = leaves.start < leaves.end && leaves.end <= leaf_count;
        assert!(!taken || slice == told, "other bytes were taken");
        let is_honest = slice == told && proof == honest_proof;
        assert_eq!(taken, is_range && is_honest);
    }
    check_hashes(&mut input, piece_len, &tree);
}

/// Share hashes, paths and lists of segments that a stranger gives.
fn check_hashes(input: &mut Input, piece_len: u64, tree: &PieceTree) {
    let mut hashes = tree.share_hashes.clone();
    hashes.resize(input.below(300), [input.byte(); 32]);
    if let Ok(root) = root_of_share_hashes(piece_len, &hashes) {
        let is_theirs = hashes == tree.share_hashes;
        assert!(
            root != tree.root || is_theirs,
            "other share hashes were taken"
        );
    }
    let (required, total) = (input.byte(), input.byte());
    let Ok(shape) = Shape::new(required, total, sealed_len(input.number() % 60_000_000)) else {
        return;
    };
    let roots: Vec<Hash> = (0..total).map(|index| [index ^ input.byte(); 32]).collect();
    let segment = SegmentTree::new(&shape, &roots).expect("a root for each piece");
    let index = input.byte();
    let other = [input.byte(); 32];
    if index < total {
        let path = segment.path(index);
        let root = &roots[usize::from(index)];
        let found = commitment_of_path(&shape, index, root, &path);
        assert_eq!(found, Ok(segment.commitment()));
        let found = commitment_of_path(&shape, index, &other, &path);
        assert_eq!(found == Ok(segment.commitment()), other == *root);
    }
    let strange = vec![other; input.below(20)];
    let found = commitment_of_path(&shape, index, &other, &strange);
    assert!(found != Ok(segment.commitment()) || strange.is_empty());
    let leaves: Vec<ObjectLeaf> = (0..input.below(9))
        .map(|_| ObjectLeaf {
            part_number: input.byte().into(),
            segment_index: input.byte().into(),
            plain_len: input.number(),
            commitment: other,
        })
        .collect();
    let in_order = leaves
        .is_sorted_by(|a, b| (a.part_number, a.segment_index) < (b.part_number, b.segment_index));
    assert_eq!(object_root(&leaves).is_ok(), in_order && !leaves.is_empty());
    let inline = inline_commitment(&SALT, &other, input.0);
    assert_ne!(
        inline,
        inline_commitment(&SALT, &other, &[input.0, &[0]].concat())
    );
}

fn tree_of(piece: &[u8]) -> PieceTree {
    let mut hasher = PieceHasher::new(piece.len() as u64);
    piece
        .chunks(SHARE_BYTES)
        .for_each(|share| hasher.push_share(share));
    hasher.finish()
}

/// Every level against the stock crate; and plans that a caller without a conscience asks for.
pub(crate) fn code(bytes: &[u8]) {
    let mut input = Input(bytes);
    let (required, total) = (1 + input.byte() % 64, input.byte());
    check_plan(&mut input, required, total);
    let total = total.max(required);
    let (k, n) = (usize::from(required), usize::from(total));
    let share_len = 64 * (1 + usize::from(input.byte() % 6));
    let present = input.some_of((0..total).collect(), k);
    let absent: Vec<u8> = (0..total)
        .filter(|index| !present.contains(index))
        .collect();
    let wanted_count = input.below(absent.len() + 1);
    let wanted = input.some_of(absent, wanted_count);
    let data = input.content(k * share_len);
    let data: Vec<&[u8]> = data.chunks_exact(share_len).collect();
    let mut shares: Vec<Vec<u8>> = data.iter().map(|share| share.to_vec()).collect();
    shares.extend(stock(&data, n - k));
    let sources: Vec<&[u8]> = present
        .iter()
        .map(|&index| &shares[usize::from(index)][..])
        .collect();
    for level in Level::available() {
        let mut recovery = vec![vec![0x5a; share_len]; n - k];
        let mut targets: Vec<&mut [u8]> = recovery.iter_mut().map(|share| &mut share[..]).collect();
        let mut encoder = Encoder::with_level(level, required, total).expect("a scheme");
        encoder.encode_into(&data, &mut targets).expect("shares");
        assert!(
            recovery == shares[k..],
            "{level} encodes {required} of {total}"
        );
        let plan = RowPlan::with_level(level, required, total, &present, &wanted).expect("a plan");
        let mut rebuilt = vec![vec![0x5a; share_len]; wanted.len()];
        let mut targets: Vec<&mut [u8]> = rebuilt.iter_mut().map(|share| &mut share[..]).collect();
        plan.apply(&sources, &mut targets).expect("shares");
        for (share, &index) in rebuilt.iter().zip(&wanted) {
            let expected = &shares[usize::from(index)];
            assert!(
                share == expected,
                "{level}: {index} of {required} of {total} from {present:?}"
            );
        }
    }
}

/// The stock crate's recovery shares, by its portable engine.
fn stock(data: &[&[u8]], recovery_count: usize) -> Vec<Vec<u8>> {
    if recovery_count == 0 {
        return Vec::new();
    }
    let (k, share_len) = (data.len(), data[0].len());
    let encoder = LowRateEncoder::new(k, recovery_count, share_len, NoSimd::new(), None);
    let mut encoder = encoder.expect("a code");
    data.iter()
        .for_each(|share| encoder.add_original_shard(share).expect("a share"));
    let result = encoder.encode().expect("all shares");
    result.recovery_iter().map(<[u8]>::to_vec).collect()
}

/// A plan is made if and only if its indices are what they have to be.
fn check_plan(input: &mut Input, required: u8, total: u8) {
    let count = match input.byte() {
        0 => input.below(80),
        _ => usize::from(required),
    };
    let present = (0..count).scan(0u8, |index, _| {
        let step = input.byte() % 8;
        *index = index.wrapping_add(step);
        Some(*index)
    });
    let present: Vec<u8> = present.collect();
    let wanted: Vec<u8> = (0..input.below(4)).map(|_| input.byte()).collect();
    let in_range = |indices: &[u8]| indices.iter().all(|&index| index < total);
    let mut distinct = wanted.clone();
    distinct.sort_unstable();
    distinct.dedup();
    let is_plan = total >= required
        && present.len() == usize::from(required)
        && present.is_sorted_by(|a, b| a < b)
        && in_range(&present)
        && in_range(&wanted)
        && distinct.len() == wanted.len()
        && !wanted.iter().any(|index| present.contains(index));
    let made = RowPlan::new(required, total, &present, &wanted);
    assert_eq!(
        made.is_ok(),
        is_plan,
        "{required} of {total}: {wanted:?} from {present:?}"
    );
    if let Ok(plan) = made {
        // Shares of other numbers and lengths are refused.
        let share_len = 64 * input.below(3) + input.below(2);
        let share = input.content(share_len);
        let sources = vec![&share[..]; input.below(2 * plan.present().len() + 1)];
        let mut targets = vec![vec![0; share.len() + input.below(2)]; wanted.len()];
        let mut targets: Vec<&mut [u8]> = targets.iter_mut().map(|share| &mut share[..]).collect();
        let is_whole = sources.len() == plan.present().len()
            && share.len().is_multiple_of(64)
            && targets.iter().all(|target| target.len() == share.len());
        assert_eq!(plan.apply(&sources, &mut targets).is_ok(), is_whole);
    }
}

/// A segment through the pipeline and back, at every level; its pieces are hashed as the `blake3` crate does, and a share that was altered is named.
pub(crate) fn segment(bytes: &[u8]) {
    let mut input = Input(bytes);
    let required = 1 + input.byte() % 64;
    let total = required.saturating_add(input.byte() % 40);
    let plain_len = 16_385 + input.below(1 << 16) + 40_000 * usize::from(input.byte() % 4);
    let Ok(shape) = Shape::new(required, total, sealed_len(plain_len as u64)) else {
        return;
    };
    let present = input.some_of((0..total).collect(), usize::from(required));
    let damage = (input.byte() % 2 == 1).then(|| {
        let index = present[input.below(present.len())];
        (index, input.number() % shape.piece_len())
    });
    let plain = input.content(plain_len);
    let mut first = None;
    for level in Level::available() {
        let (pieces, trees) = write(level, &shape, &plain);
        for (piece, tree) in pieces.iter().zip(&trees) {
            assert_eq!(tree.root, *blake3::hash(piece).as_bytes());
        }
        let (expected_pieces, expected_trees) =
            first.get_or_insert_with(|| (pieces.clone(), trees.clone()));
        assert!(
            pieces == *expected_pieces && trees == *expected_trees,
            "{level}"
        );
        restore(level, &shape, &plain, &present, &pieces, &trees, damage);
    }
}

fn key() -> (ContentKey, Sealer) {
    let key = ContentKey::new([9; 32]);
    let sealer = Sealer::new(&key, &SALT, &CONTEXT);
    (key, sealer)
}

fn write(level: Level, shape: &Shape, plain: &[u8]) -> (Vec<Vec<u8>>, Vec<PieceTree>) {
    let mut writer = SegmentWriter::with_level(level, shape, key().1).expect("a shape");
    let (k, n) = (usize::from(shape.required()), usize::from(shape.total()));
    let mut pieces = vec![Vec::new(); n];
    let mut hasher = LockstepHasher::new(n, shape.piece_len());
    for stripe in 0..shape.share_count() {
        let share_len = shape.share_len(stripe);
        let mut data = vec![1; k * share_len];
        let mut recovery = vec![1; StripeCoder::recovery_len(shape, stripe)];
        let range = writer.plain_range(stripe);
        writer.seal(&plain[range.start as usize..range.end as usize], &mut data);
        while writer.stripe() == stripe {
            writer
                .step(&data, &mut recovery)
                .expect("buffers of a stripe");
        }
        let of_recovery = (shape.required()..shape.total())
            .map(|index| &recovery[StripeCoder::recovery_range(shape, stripe, index)]);
        let shares = data.chunks_exact(share_len).chain(of_recovery);
        let shares: Vec<&[u8]> = shares.collect();
        for (piece, share) in pieces.iter_mut().zip(&shares) {
            piece.extend_from_slice(share);
        }
        hasher.push(&shares);
    }
    let trees = writer.finish();
    assert!(trees == hasher.finish());
    (pieces, trees)
}

fn restore(
    level: Level,
    shape: &Shape,
    plain: &[u8],
    present: &[u8],
    pieces: &[Vec<u8>],
    trees: &[PieceTree],
    damage: Option<(u8, u64)>,
) {
    let (key, sealer) = key();
    let opener = Opener::new(&key, &SALT, &sealer.key_commitment(), &CONTEXT).expect("its own key");
    let mut restorer = SegmentRestorer::with_level(level, shape, opener, present).expect("pieces");
    for stripe in 0..shape.share_count() {
        let (start, share_len) = (shape.share_offset(stripe), shape.share_len(stripe));
        let mut data = vec![1; usize::from(shape.required()) * share_len];
        let (mut recovery, mut hashes, mut is_damaged) = (Vec::new(), Vec::new(), None);
        for &index in present {
            let mut share = pieces[usize::from(index)][start as usize..][..share_len].to_vec();
            hashes.push(share_hash(shape.piece_len(), stripe, &share));
            let of_tree = trees[usize::from(index)].share_hashes.get(stripe as usize);
            assert_eq!(
                hashes.last(),
                Some(of_tree.unwrap_or_else(|| &trees[usize::from(index)].root))
            );
            if let Some((altered, at)) = damage
                && altered == index
                && let Some(byte) = at
                    .checked_sub(start)
                    .and_then(|at| share.get_mut(at as usize))
            {
                *byte ^= 0x40;
                is_damaged = Some(RestoreError::Share { stripe, index });
            }
            match data.chunks_exact_mut(share_len).nth(usize::from(index)) {
                Some(place) => place.copy_from_slice(&share),
                None => recovery.push(share),
            }
        }
        let recovery: Vec<&[u8]> = recovery.iter().map(|share| &share[..]).collect();
        let filled = restorer.fill(&mut data, &recovery, &hashes);
        assert_eq!(filled.err(), is_damaged);
        if is_damaged.is_some() {
            return;
        }
        let range = restorer.plain_range(stripe);
        let mut opened = vec![1; (range.end - range.start) as usize];
        restorer.open(&data, &mut opened).expect("what was sealed");
        assert!(opened == plain[range.start as usize..range.end as usize]);
    }
    assert!(damage.is_none(), "an altered share was taken");
}
