//! Giving a piece out: whole with its share hashes first, or a run of leaves with its proof (docs/wire.md, get).
//!
//! An audit is a get of one leaf, a repair a get of the whole; the node cannot tell them apart and need not.
//!
//! What must stay true: no byte leaves whose CRC was not checked (the store does that); as long as nothing was sent, a
//! failure is an answer with a code, afterwards it is a reset with that code; memory held per get is at most
//! [`READ_HELD_BYTES_MAX`], reserved in the core's read budget before anything is read.

use std::ops::Range;

use bytes::Bytes;
use futures_lite::future;
use strand_blob::Piece;
use strand_codec::{LEAF_BYTES, SHARE_BYTES, Shape, cut_shares, prove_slice};
use strand_protocol::pb::node_response::Answer;
use strand_protocol::permit::LimitAction;
use strand_protocol::{NodeId, pb};

use super::admission::Transfer;
use super::error::{Failure, VerbError};
use super::put::shape_of;
use super::service::Service;
use crate::core::executor::{Clock, Executor};
use crate::limits::{READ_HELD_BYTES_MAX, READ_RUN_SHARES};
use crate::permission::Spend;
use crate::stream::SendStream;

/// What is to be sent of a piece.
struct Part {
    piece: Piece,
    /// Of its bytes.
    range: Range<u64>,
    /// What goes before them.
    proof: Vec<u8>,
}

/// Shares to read, and where in the first the answer begins and ends.
struct Run {
    shares: Range<u32>,
    bytes: Range<u64>,
}

impl<D, E, C> Service<D, E, C>
where
    D: strand_blob::Disk + 'static,
    E: Executor,
    C: Clock,
{
    pub(super) async fn get<S: SendStream>(
        &self,
        request: pb::GetRequest,
        peer: NodeId,
        send: &mut S,
    ) -> Result<(), Failure> {
        let store = self.opened()?;
        let now_ms = self.now_ms();
        let allowed = [
            LimitAction::Get,
            LimitAction::GetAudit,
            LimitAction::GetRepair,
        ];
        let limit = self
            .permission()
            .check(&request.limit, peer, &allowed, now_ms)
            .map_err(VerbError::from)?
            .limit;
        let shape = shape_of(&limit)?;
        let leaves = leaf_range(&shape, &request)?;
        let range = byte_range(&shape, leaves.as_ref());
        let bytes = range.end - range.start;
        if limit.byte_count < bytes {
            return Err(VerbError::OverByteCount {
                bytes,
                byte_count: limit.byte_count,
            }
            .into());
        }
        let spend = self
            .permission()
            .spend(&limit, bytes, limit.byte_count, now_ms)
            .map_err(VerbError::from)?;
        // A range holds its two edge shares besides the runs.
        let held = (bytes + 2 * SHARE_BYTES as u64).min(READ_HELD_BYTES_MAX);
        let transfer = self
            .reads()
            .admit(limit.action, peer, held, self.executor().now())
            .map_err(VerbError::from)?;

        let expiry_time_s = self.permission().expiry_time_s(now_ms);
        let piece = store
            .piece(
                limit.satellite.as_bytes(),
                limit.piece_id.as_bytes(),
                expiry_time_s,
            )
            .await
            .map_err(VerbError::from)?;
        if piece.body_len != shape.piece_len() {
            return Err(VerbError::OtherShape {
                piece_len: shape.piece_len(),
                body_len: piece.body_len,
            }
            .into());
        }
        let proof = match leaves {
            Some(leaves) => self.slice_proof(&shape, &piece, leaves).await?,
            None => piece.share_hashes.concat(),
        };
        let part = Part {
            piece,
            range,
            proof,
        };
        let sending = self.send_part(&shape, part, spend, &transfer, send);
        transfer.unless_cut(sending).await?;
        transfer.complete();
        Ok(())
    }

    /// Header, proof (or share hashes), bytes: one run is read while the one before it leaves.
    async fn send_part<S: SendStream>(
        &self,
        shape: &Shape,
        part: Part,
        mut spend: Spend,
        transfer: &Transfer,
        send: &mut S,
    ) -> Result<(), Failure> {
        let Part {
            piece,
            range,
            proof,
        } = part;
        let piece = &piece;
        let range_bytes = range.end - range.start;
        let mut runs = runs(shape, range);
        let Some(first) = runs.next() else {
            return Err(VerbError::EmptyRange.into());
        };
        let mut current = self.read_run(shape, piece, &first).await?;

        send.announce(range_bytes);
        let header = pb::GetHeader {
            root: piece.root.to_vec(),
            path: piece.path.concat(),
        };
        self.answer_more(send, Answer::Get(header)).await?;
        if !proof.is_empty() {
            self.send_bytes(send, Bytes::from(proof)).await?;
        }
        loop {
            let length = current.len() as u64;
            transfer.add(current.len());
            let Some(run) = runs.next() else {
                self.send_bytes(send, current).await?;
                spend.settle(length);
                break;
            };
            let (sent, read) = future::zip(
                self.send_bytes(send, current),
                self.read_run(shape, piece, &run),
            )
            .await;
            sent?;
            spend.settle(length);
            current = read.map_err(Failure::Reset)?;
        }
        send.finish();
        Ok(())
    }

    /// The hashes of docs/format.md section 4's slice proof, one after another.
    async fn slice_proof(
        &self,
        shape: &Shape,
        piece: &Piece,
        leaves: Range<u32>,
    ) -> Result<Vec<u8>, VerbError> {
        let mut cut = Vec::with_capacity(2);
        for share in cut_shares(shape.piece_len(), leaves.clone()).map_err(VerbError::Proof)? {
            let shares = self.opened()?.read_shares(piece, share..share + 1);
            cut.push((share, shares.await?));
        }
        let bytes_of = |wanted| {
            cut.iter()
                .find(|(share, _)| *share == wanted)
                .map_or_else(Vec::new, |(_, bytes)| bytes.to_vec())
        };
        let hashes = prove_slice(shape.piece_len(), &piece.share_hashes, leaves, bytes_of)
            .map_err(VerbError::Proof)?;
        Ok(hashes.concat())
    }

    async fn read_run(&self, shape: &Shape, piece: &Piece, run: &Run) -> Result<Bytes, VerbError> {
        let shares = self.opened()?.read_shares(piece, run.shares.clone());
        let bytes = shares.await?;
        let base = shape.share_offset(run.shares.start);
        let cut = |offset: u64| usize::try_from(offset - base).unwrap_or(usize::MAX);
        Ok(bytes.slice(cut(run.bytes.start)..cut(run.bytes.end)))
    }
}

/// The leaves asked for; `None` is the whole piece.
fn leaf_range(shape: &Shape, request: &pb::GetRequest) -> Result<Option<Range<u32>>, VerbError> {
    if request.leaf_count == 0 {
        return if request.first_leaf == 0 {
            Ok(None)
        } else {
            Err(VerbError::EmptyRange)
        };
    }
    let end = request
        .first_leaf
        .checked_add(request.leaf_count)
        .filter(|&end| end <= shape.leaf_count());
    match end {
        Some(end) => Ok(Some(request.first_leaf..end)),
        None => Err(VerbError::LeafRange {
            first_leaf: request.first_leaf,
            leaf_count: request.leaf_count,
            piece_leaf_count: shape.leaf_count(),
        }),
    }
}

fn byte_range(shape: &Shape, leaves: Option<&Range<u32>>) -> Range<u64> {
    match leaves {
        None => 0..shape.piece_len(),
        Some(leaves) => {
            let leaf_bytes = LEAF_BYTES as u64;
            u64::from(leaves.start) * leaf_bytes
                ..(u64::from(leaves.end) * leaf_bytes).min(shape.piece_len())
        }
    }
}

/// Cuts a range of a piece's bytes into reads.
fn runs(shape: &Shape, range: Range<u64>) -> impl Iterator<Item = Run> + use<> {
    let share_bytes = SHARE_BYTES as u64;
    let run_bytes = u64::from(READ_RUN_SHARES) * share_bytes;
    let share_count = shape.share_count();
    let mut start = range.start;
    std::iter::from_fn(move || {
        if start >= range.end {
            return None;
        }
        let first_share = start / share_bytes;
        let end = (first_share * share_bytes + run_bytes).min(range.end);
        let last_share = end.div_ceil(share_bytes).min(u64::from(share_count));
        let run = Run {
            shares: u32::try_from(first_share).unwrap_or(u32::MAX)
                ..u32::try_from(last_share).unwrap_or(u32::MAX),
            bytes: start..end,
        };
        start = end;
        Some(run)
    })
}
