//! A segment made with the crate, stripe by stripe as an upload makes it.

use strand_codec::{
    ContentKey, Encoder, Hash, Opener, PieceHasher, PieceTree, RowPlan, Sealer, SegmentContext,
    SegmentTree, Shape, commitment_of_path, sealed_len, share_hash,
};

use crate::independent::SegmentFacts;

/// Bytes that look random and depend on the seed only.
pub(crate) fn random_bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new()
        .update(&seed.to_le_bytes())
        .finalize_xof()
        .fill(&mut bytes);
    bytes
}

/// All there is of one segment.
pub(crate) struct Segment {
    pub(crate) shape: Shape,
    pub(crate) key: ContentKey,
    pub(crate) salt: [u8; 24],
    pub(crate) context: SegmentContext,
    pub(crate) key_commitment: [u8; 32],
    pub(crate) sealed: Vec<u8>,
    pub(crate) pieces: Vec<Vec<u8>>,
    pub(crate) trees: Vec<PieceTree>,
    pub(crate) tree: SegmentTree,
}

impl Segment {
    pub(crate) fn new(required: u8, total: u8, plain: &[u8], seed: u64) -> Self {
        let key = ContentKey::new(random_bytes(seed ^ 1 << 60, 32).try_into().unwrap());
        let salt: [u8; 24] = random_bytes(seed ^ 2 << 60, 24).try_into().unwrap();
        let context = SegmentContext {
            object_id: random_bytes(seed ^ 3 << 60, 16).try_into().unwrap(),
            part_number: 1 + seed as u32,
            segment_index: 2 + seed as u32,
        };
        let sealer = Sealer::new(&key, &salt, &context);
        let mut sealed = vec![0; sealed_len(plain.len() as u64) as usize];
        sealer.seal_into(plain, &mut sealed);
        let shape = Shape::new(required, total, sealed.len() as u64).unwrap();

        let mut encoder = Encoder::new(required, total).unwrap();
        let mut hashers = vec![PieceHasher::new(shape.piece_len()); usize::from(total)];
        let mut pieces = vec![Vec::with_capacity(shape.piece_len() as usize); usize::from(total)];
        for stripe in 0..shape.share_count() {
            let shares = stripe_shares(&shape, &mut encoder, &sealed, stripe);
            for ((piece, hasher), share) in pieces.iter_mut().zip(&mut hashers).zip(&shares) {
                piece.extend_from_slice(share);
                hasher.push_share(share);
            }
        }
        let trees: Vec<PieceTree> = hashers.into_iter().map(PieceHasher::finish).collect();
        let roots: Vec<Hash> = trees.iter().map(|tree| tree.root).collect();
        let tree = SegmentTree::new(&shape, &roots).unwrap();
        let key_commitment = sealer.key_commitment();
        Self {
            shape,
            key,
            salt,
            context,
            key_commitment,
            sealed,
            pieces,
            trees,
            tree,
        }
    }

    pub(crate) fn facts(&self) -> SegmentFacts {
        SegmentFacts {
            required: usize::from(self.shape.required()),
            total: usize::from(self.shape.total()),
            sealed_len: self.sealed.len(),
            content_key: *self.key.as_bytes(),
            salt: self.salt,
            key_commitment: self.key_commitment,
            object_id: self.context.object_id,
            part_number: self.context.part_number,
            segment_index: self.context.segment_index,
        }
    }

    /// As a download does it: verify path, share hashes and shares, rebuild, open.
    pub(crate) fn download(&self, present: &[u8]) -> Vec<u8> {
        let shape = &self.shape;
        for &index in present {
            let (piece, tree) = (
                &self.pieces[usize::from(index)],
                &self.trees[usize::from(index)],
            );
            let path = self.tree.path(index);
            let reached = commitment_of_path(shape, index, &tree.root, &path);
            assert_eq!(reached, Ok(self.tree.commitment()));
            for share in 0..shape.share_count() {
                let start = shape.share_offset(share) as usize;
                let bytes = &piece[start..start + shape.share_len(share)];
                let hash = share_hash(shape.piece_len(), share, bytes);
                assert_eq!(
                    hash,
                    *tree.share_hashes.get(share as usize).unwrap_or(&tree.root)
                );
            }
        }
        let required = shape.required();
        let wanted: Vec<u8> = (0..required)
            .filter(|index| !present.contains(index))
            .collect();
        let plan = RowPlan::new(required, shape.total(), present, &wanted).unwrap();
        let sources: Vec<&[u8]> = present
            .iter()
            .map(|&index| self.pieces[usize::from(index)].as_slice())
            .collect();
        let mut rebuilt = vec![vec![0; shape.piece_len() as usize]; wanted.len()];
        let mut targets: Vec<&mut [u8]> = rebuilt.iter_mut().map(Vec::as_mut_slice).collect();
        plan.apply(&sources, &mut targets).unwrap();

        let data = |index: u8| match wanted.binary_search(&index) {
            Ok(position) => &rebuilt[position],
            Err(_) => &self.pieces[usize::from(index)],
        };
        let mut sealed = Vec::with_capacity(self.sealed.len());
        for stripe in 0..shape.share_count() {
            let start = shape.share_offset(stripe) as usize;
            for index in 0..required {
                let range = shape.sealed_range(stripe, index);
                let len = (range.end - range.start) as usize;
                sealed.extend_from_slice(&data(index)[start..start + len]);
            }
        }
        let opener = Opener::new(&self.key, &self.salt, &self.key_commitment, &self.context);
        let mut plain = Vec::new();
        opener.unwrap().open_into(&sealed, &mut plain).unwrap();
        plain
    }
}

/// All shares of one stripe: data shares cut from the sealed bytes, then recovery shares.
fn stripe_shares(shape: &Shape, encoder: &mut Encoder, sealed: &[u8], stripe: u32) -> Vec<Vec<u8>> {
    let share_len = shape.share_len(stripe);
    let mut shares = vec![vec![0; share_len]; usize::from(shape.total())];
    let (data, recovery) = shares.split_at_mut(usize::from(shape.required()));
    for (index, share) in data.iter_mut().enumerate() {
        let range = shape.sealed_range(stripe, index as u8);
        let bytes = &sealed[range.start as usize..range.end as usize];
        share[..bytes.len()].copy_from_slice(bytes);
    }
    let data: Vec<&[u8]> = data.iter().map(Vec::as_slice).collect();
    let mut recovery: Vec<&mut [u8]> = recovery.iter_mut().map(Vec::as_mut_slice).collect();
    encoder.encode_into(&data, &mut recovery).unwrap();
    shares
}
