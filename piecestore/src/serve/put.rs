//! Taking a piece in: admitted whole, buffered whole, checked, made durable, receipted (docs/wire.md, put).
//!
//! ```text
//! limit -> room in memory for all of it -> PutAdmitted -> body -> PutCommit -> root and path lead to the commitment
//!       -> durable -> receipt
//! ```
//!
//! What must stay true: no body byte is taken before the whole piece has its place in the core's write budget; nothing
//! is written before the piece is whole and right, so that an upload which ends early costs no disk I/O and leaves
//! nothing; the receipt is made after the store says durable. A limit is used up by its receipt, not by an attempt.

use bytes::Bytes;
use strand_blob::layout::LONE_BODY_AT;
use strand_blob::{IoBuffer, PutError, share_crc};
use strand_codec::{Hash, PieceHasher, PieceTree, Shape, commitment_of_path};
use strand_protocol::limits::NODE_FRAME_BYTES_MAX;
use strand_protocol::pb::node_response::Answer;
use strand_protocol::permit::{Limit, LimitAction, Receipt};
use strand_protocol::{NodeId, pb};

use super::admission::Transfer;
use super::error::{Failure, VerbError};
use super::frame::{FrameError, read_frame};
use super::pace::Pace;
use super::service::{Service, seconds};
use crate::core::executor::{Clock, Executor, timeout};
use crate::limits::{COMMIT_WAIT, HASH_RUN_BYTES};
use crate::stream::{RecvStream, SendStream, StreamError};

impl<D, E, C> Service<D, E, C>
where
    D: strand_blob::Disk + 'static,
    E: Executor,
    C: Clock,
{
    pub(super) async fn put<S: SendStream, R: RecvStream>(
        &self,
        request: pb::PutRequest,
        peer: NodeId,
        send: &mut S,
        recv: &mut R,
    ) -> Result<(), Failure> {
        let store = self.opened()?;
        let now_ms = self.now_ms();
        let permitted = self
            .permission()
            .check(
                &request.limit,
                peer,
                &[LimitAction::Put, LimitAction::PutRepair],
                now_ms,
            )
            .map_err(VerbError::from)?;
        let limit = &permitted.limit;
        let shape = shape_of(limit)?;
        let piece_len = shape.piece_len();
        if limit.byte_count < piece_len {
            return Err(VerbError::OverByteCount {
                bytes: piece_len,
                byte_count: limit.byte_count,
            }
            .into());
        }
        let mut spend = self
            .permission()
            .spend(limit, 1, 1, now_ms)
            .map_err(VerbError::from)?;
        let transfer = self
            .writes()
            .admit(limit.action, peer, piece_len, self.executor().now())
            .map_err(VerbError::from)?;
        if store.is_read_only() {
            return Err(VerbError::Put(PutError::ReadOnly).into());
        }
        if !store.has_room(piece_len) {
            return Err(VerbError::Full.into());
        }

        recv.expect(piece_len);
        self.answer_more(send, Answer::PutAdmitted(pb::PutAdmitted {}))
            .await?;
        let receiving = async {
            let body = self.body(&shape, recv, &transfer).await?;
            Ok((body, self.commit(recv).await?))
        };
        let ((body, crcs, tree), commit) = transfer.unless_cut(receiving).await?;
        let (commitment, path) = check_commit(&shape, limit, &tree.root, &commit)?;

        let stored = store.put(strand_blob::NewPiece {
            satellite: *limit.satellite.as_bytes(),
            id: *limit.piece_id.as_bytes(),
            created_s: seconds(limit.issued_ms),
            // Rounded up: a piece is kept at least as long as was promised. 0 stays "never".
            expiry_s: seconds(limit.piece_expiry_ms.saturating_add(999)),
            body: vec![body],
            crcs,
            share_hashes: tree.share_hashes,
            root: tree.root,
            path,
            commitment,
        });
        stored.await.map_err(VerbError::from)?;
        spend.settle(1);
        transfer.complete();

        let receipt = Receipt {
            serial: limit.serial,
            node: limit.node,
            piece_id: limit.piece_id,
            index: limit.index,
            piece_len,
            root: tree.root,
            commitment,
            piece_expiry_ms: limit.piece_expiry_ms,
            epoch: limit.epoch,
        }
        .mint(&permitted.receipt_key);
        self.answer(send, Answer::PutReceipt(pb::PutReceipt { receipt }))
            .await
    }

    /// Exactly the piece's bytes in one buffer, hashed share by share as they come, and the CRC of each share.
    async fn body<R: RecvStream>(
        &self,
        shape: &Shape,
        recv: &mut R,
        transfer: &Transfer,
    ) -> Result<(Bytes, Vec<u32>, PieceTree), Failure> {
        let piece_len = usize::try_from(shape.piece_len()).unwrap_or(usize::MAX);
        // Chunks are as small as a datagram and would hold larger buffers alive; the piece gets its own.
        // The store writes the body from here: its place in a group leaves room for headers.
        let mut buffer = IoBuffer::for_overwriting(LONE_BODY_AT + piece_len);
        let body = &mut buffer[LONE_BODY_AT..][..piece_len];
        let mut filled = 0;
        let mut hasher = PieceHasher::new(shape.piece_len());
        let mut crcs = Vec::with_capacity(shape.share_count() as usize);
        let mut share = 0;
        let mut hashed = 0;
        let mut hashed_since_yield = 0;
        let mut pace = Pace::new(self.executor());

        while filled < piece_len {
            let Some(chunk) = pace
                .chunk(recv, piece_len - filled)
                .await
                .map_err(failed_while_reading)?
            else {
                let ended = VerbError::BodyEnded {
                    bytes: filled as u64,
                    piece_len: shape.piece_len(),
                };
                return Err(ended.into());
            };
            body[filled..filled + chunk.len()].copy_from_slice(&chunk);
            filled += chunk.len();
            transfer.add(chunk.len());
            while share < shape.share_count() && filled - hashed >= shape.share_len(share) {
                let share_end = hashed + shape.share_len(share);
                hasher.push_share(&body[hashed..share_end]);
                crcs.push(share_crc(&body[hashed..share_end]));
                hashed_since_yield += share_end - hashed;
                hashed = share_end;
                share += 1;
                if hashed_since_yield >= HASH_RUN_BYTES {
                    hashed_since_yield = 0;
                    self.executor().yield_now().await;
                }
            }
        }
        let body = Bytes::from_owner(buffer).slice(LONE_BODY_AT..LONE_BODY_AT + piece_len);
        Ok((body, crcs, hasher.finish()))
    }

    /// The frame after the body and the end of the stream.
    async fn commit<R: RecvStream>(&self, recv: &mut R) -> Result<pb::PutCommit, Failure> {
        let read = async {
            let commit: pb::PutCommit = read_frame(recv, NODE_FRAME_BYTES_MAX).await?;
            match recv.chunk(1).await {
                Ok(None) => Ok(Ok(commit)),
                Ok(Some(_)) => Ok(Err(VerbError::TrailingBytes)),
                Err(error) => Err(FrameError::Stream(error)),
            }
        };
        match timeout(self.executor(), COMMIT_WAIT, read).await {
            None => Err(failed_while_reading(StreamError::TimedOut)),
            Some(Err(FrameError::Stream(error))) => Err(failed_while_reading(error)),
            Some(Err(error)) => Err(VerbError::Frame(error).into()),
            Some(Ok(commit)) => Ok(commit?),
        }
    }
}

/// The shape a limit speaks of.
pub(super) fn shape_of(limit: &Limit) -> Result<Shape, VerbError> {
    Shape::new(limit.required, limit.total, limit.sealed_len).map_err(VerbError::Shape)
}

/// Whether the root that was computed leads to the commitment that was claimed.
fn check_commit(
    shape: &Shape,
    limit: &Limit,
    root: &Hash,
    commit: &pb::PutCommit,
) -> Result<(Hash, Vec<Hash>), VerbError> {
    let commitment: Hash =
        commit.commitment[..]
            .try_into()
            .map_err(|_| VerbError::CommitmentLength {
                bytes: commit.commitment.len(),
            })?;
    let (path, rest) = commit.path.as_chunks::<32>();
    if !rest.is_empty() || path.len() != shape.path_len() {
        return Err(VerbError::PathLength {
            bytes: commit.path.len(),
            hashes: shape.path_len(),
        });
    }
    let led_to = commitment_of_path(shape, limit.index, root, path)
        .map_err(|_| VerbError::WrongCommitment)?;
    if led_to != commitment {
        return Err(VerbError::WrongCommitment);
    }
    Ok((commitment, path.to_vec()))
}

/// A peer that went away needs no answer; one that is too slow is cut.
fn failed_while_reading(error: StreamError) -> Failure {
    match error {
        StreamError::TimedOut => Failure::Reset(VerbError::Slow),
        error => Failure::Reset(VerbError::Stream(error)),
    }
}
