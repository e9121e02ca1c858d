//! One piece, or a range of it, from one node: every byte is checked against the segment's
//! commitment before it counts.
//!
//! The order of the checks is that of docs/wire.md section 2, get: root and path against the
//! commitment, share hashes against the root, each share against its hash. All lengths come from
//! the segment's shape, never from the node. How long to wait is the caller's business.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use strand_codec::{
    Hash, LEAF_BYTES, Shape, commitment_of_path, root_of_share_hashes, share_hash, slice_proof_len,
    verify_slice,
};
use strand_protocol::limits::NODE_FRAME_BYTES_MAX;
use strand_protocol::pb::{node_request, node_response};
use strand_protocol::{Code, NodeId, pb};
use strand_transport::{RecvHalf, StreamError};

use super::hedge::Fault;
use crate::buffers::{Buffer, BufferStore};
use crate::session::Session;

/// Where a piece is, and the permission to read it.
#[derive(Clone, Debug)]
pub(super) struct Source {
    pub(super) node: NodeId,
    pub(super) address: String,
    pub(super) limit: Vec<u8>,
}

/// What is wanted of a segment's pieces.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) shape: Shape,
    pub(super) commitment: Hash,
    /// In leaves of the piece; all of them for the whole piece.
    pub(super) leaves: Range<u32>,
}

/// Checked bytes of a piece.
pub(super) struct Row {
    /// Offset in the piece.
    pub(super) start: u64,
    pub(super) bytes: Buffer,
}

/// Why there are none.
#[derive(Debug)]
pub(super) enum FetchError {
    /// The piece does not come from this node.
    Bad(Fault, String),
    /// The node wants a fresh limit.
    StaleLimit(String),
}

impl Wanted {
    fn is_whole(&self) -> bool {
        self.leaves == (0..self.shape.leaf_count())
    }

    /// The bytes of the piece that the leaves cover.
    pub(super) fn columns(&self) -> Range<u64> {
        let leaf = LEAF_BYTES as u64;
        u64::from(self.leaves.start) * leaf
            ..(u64::from(self.leaves.end) * leaf).min(self.shape.piece_len())
    }
}

/// Fetches and checks. `seen_bytes` counts what arrived, so that the caller sees who moves.
pub(super) async fn fetch_piece(
    session: &Session,
    source: &Source,
    index: u8,
    wanted: &Wanted,
    seen_bytes: &AtomicU64,
    store: &Arc<BufferStore>,
) -> Result<Row, FetchError> {
    let connection = session
        .nodes()
        .connect(source.node, &source.address)
        .await
        .map_err(|error| FetchError::Bad(Fault::Gone, error.reason))?;
    let mut exchange = connection.open().await?;
    let (first_leaf, leaf_count) = if wanted.is_whole() {
        (0, 0)
    } else {
        (wanted.leaves.start, wanted.leaves.end - wanted.leaves.start)
    };
    let get = pb::GetRequest {
        limit: source.limit.clone(),
        first_leaf,
        leaf_count,
    };
    let request = pb::NodeRequest {
        verb: Some(node_request::Verb::Get(get)),
    };
    // Its answer, if there is one, says more than our failure to send.
    let sent = exchange.send.frame(&request).await;
    exchange.send.finish();
    let answer: pb::NodeResponse = match exchange.recv.answer(NODE_FRAME_BYTES_MAX).await {
        Ok(answer) => answer,
        Err(error) => return Err(sent.err().unwrap_or(error).into()),
    };
    let Some(node_response::Answer::Get(header)) = answer.answer else {
        return Err(lied("it answered get with something else"));
    };
    seen_bytes.fetch_add(1, Ordering::Relaxed);
    let root = check_header(&header, index, wanted)?;
    let mut bytes = store.lend((wanted.columns().end - wanted.columns().start) as usize);
    if wanted.is_whole() {
        receive_whole(
            &mut exchange.recv,
            &wanted.shape,
            &root,
            &mut bytes,
            seen_bytes,
        )
        .await?;
    } else {
        receive_slice(&mut exchange.recv, wanted, &root, &mut bytes, seen_bytes).await?;
    }
    Ok(Row {
        start: wanted.columns().start,
        bytes,
    })
}

/// The piece's root, once its path leads to the commitment.
fn check_header(header: &pb::GetHeader, index: u8, wanted: &Wanted) -> Result<Hash, FetchError> {
    let root: Hash = header
        .root
        .as_slice()
        .try_into()
        .map_err(|_| lied("its root is no hash"))?;
    let (path, rest) = header.path.as_chunks::<32>();
    if !rest.is_empty() || path.len() != wanted.shape.path_len() {
        return Err(lied("its path has the wrong length"));
    }
    match commitment_of_path(&wanted.shape, index, &root, path) {
        Ok(commitment) if commitment == wanted.commitment => Ok(root),
        _ => Err(lied("its root is not part of the segment")),
    }
}

async fn receive_whole(
    recv: &mut RecvHalf,
    shape: &Shape,
    root: &Hash,
    bytes: &mut [u8],
    seen_bytes: &AtomicU64,
) -> Result<(), FetchError> {
    let share_count = shape.share_count();
    let hashes = if share_count == 1 {
        vec![*root]
    } else {
        let mut hashes = vec![[0; 32]; share_count as usize];
        recv.read_exact(hashes.as_flattened_mut()).await?;
        seen_bytes.fetch_add(32 * u64::from(share_count), Ordering::Relaxed);
        if root_of_share_hashes(shape.piece_len(), &hashes).ok() != Some(*root) {
            return Err(lied("its share hashes do not fit its root"));
        }
        hashes
    };
    for (share, hash) in (0..share_count).zip(&hashes) {
        let start = shape.share_offset(share) as usize;
        let target = &mut bytes[start..start + shape.share_len(share)];
        recv.read_exact(target).await?;
        if share_hash(shape.piece_len(), share, target) != *hash {
            return Err(FetchError::Bad(
                Fault::Lied,
                format!("share {share} does not fit its hash"),
            ));
        }
        seen_bytes.fetch_add(target.len() as u64, Ordering::Relaxed);
    }
    Ok(())
}

async fn receive_slice(
    recv: &mut RecvHalf,
    wanted: &Wanted,
    root: &Hash,
    bytes: &mut [u8],
    seen_bytes: &AtomicU64,
) -> Result<(), FetchError> {
    let piece_len = wanted.shape.piece_len();
    let proof_len = slice_proof_len(piece_len, wanted.leaves.clone())
        .map_err(|error| FetchError::Bad(Fault::Refused, error.to_string()))?;
    let mut proof = vec![[0; 32]; proof_len];
    recv.read_exact(proof.as_flattened_mut()).await?;
    seen_bytes.fetch_add(32 * proof_len as u64, Ordering::Relaxed);
    for part in bytes.chunks_mut(strand_codec::SHARE_BYTES) {
        recv.read_exact(part).await?;
        seen_bytes.fetch_add(part.len() as u64, Ordering::Relaxed);
    }
    verify_slice(piece_len, root, wanted.leaves.clone(), &proof, bytes)
        .map_err(|_| lied("the bytes of the range do not fit its root"))
}

fn lied(what: &str) -> FetchError {
    FetchError::Bad(Fault::Lied, what.to_owned())
}

impl From<StreamError> for FetchError {
    fn from(error: StreamError) -> Self {
        let reason = error.to_string();
        let fault = match error {
            StreamError::Frame(_) => Fault::Lied,
            // It broke its own protocol; that it meant to lie cannot be shown.
            StreamError::Ended => Fault::Damaged,
            StreamError::Lost(_)
            | StreamError::TimedOut
            | StreamError::Closed(_)
            | StreamError::Misused => Fault::Gone,
            StreamError::Answer { code, .. }
            | StreamError::Reset(code)
            | StreamError::Stopped(code) => match code {
                Code::NotFound => Fault::Missing,
                Code::Corrupt | Code::Internal | Code::ReadOnly => Fault::Damaged,
                Code::BadLimit | Code::StaleLimit => return Self::StaleLimit(reason),
                _ => Fault::Refused,
            },
            _ => Fault::Gone,
        };
        Self::Bad(fault, reason)
    }
}
