//! What is on the other side of a node, for tests: a satellite that permits, segments with pieces, and a client's half of each verb.

use std::rc::Rc;

use bytes::Bytes;
use strand_codec::{Hash, PieceHasher, PieceTree, SHARE_BYTES, SegmentTree, Shape};
use strand_protocol::limits::NODE_FRAME_BYTES_MAX;
use strand_protocol::pb::node_request::Verb;
use strand_protocol::pb::node_response::Answer;
use strand_protocol::permit::{Limit, LimitAction, LimitFields, Receipt, SatelliteKeys};
use strand_protocol::{Code, NodeId, PieceId, ProjectId, Serial, pb};

use super::frame::{FrameError, read_frame, send_frame};
use crate::permission::EpochKeys;
use crate::stream::{RecvStream, SendStream, StreamError};

/// A segment of which one piece's bytes are known.
#[derive(Clone, Debug)]
pub struct Segment {
    /// How it is cut.
    pub shape: Shape,
    /// Which piece is known.
    pub index: u8,
    /// That piece.
    pub body: Bytes,
    /// Its hashes.
    pub tree: Rc<PieceTree>,
    /// From its root up.
    pub path: Vec<Hash>,
    /// Of the segment.
    pub commitment: Hash,
    /// The piece's name.
    pub id: PieceId,
}

/// A satellite's word for one node.
#[derive(Debug)]
pub struct Permits {
    /// Who permits.
    pub satellite: NodeId,
    /// Where.
    pub node: NodeId,
    /// With what.
    pub keys: SatelliteKeys,
    /// By which key of the node.
    pub epoch: u32,
}

/// Why a client has no answer of the kind that it asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The node gave this code, as an answer or as a reset.
    Code(Code),
    /// The stream ended otherwise.
    Lost,
    /// The answer is none that belongs to the request.
    Garbled(&'static str),
}

impl Segment {
    /// A segment whose piece `index` is `body`; all else of it, the id included, is drawn.
    ///
    /// # Panics
    ///
    /// If the body does not have the shape's length.
    #[must_use]
    pub fn draw(shape: Shape, index: u8, body: Bytes, mut random: impl FnMut() -> u64) -> Self {
        assert_eq!(body.len() as u64, shape.piece_len(), "a piece of the shape");
        let mut hasher = PieceHasher::new(shape.piece_len());
        body.chunks(SHARE_BYTES)
            .for_each(|share| hasher.push_share(share));
        let tree = hasher.finish();
        let mut roots: Vec<Hash> = (0..shape.total()).map(|_| drawn(&mut random)).collect();
        roots[usize::from(index)] = tree.root;
        let Ok(segment) = SegmentTree::new(&shape, &roots) else {
            unreachable!("a root for each piece of the shape")
        };
        Self {
            shape,
            index,
            body,
            path: segment.path(index),
            commitment: segment.commitment(),
            tree: Rc::new(tree),
            id: PieceId::from(drawn::<32>(&mut random)),
        }
    }

    /// What a client sends after the body.
    #[must_use]
    pub fn commit(&self) -> pb::PutCommit {
        pb::PutCommit {
            commitment: self.commitment.to_vec(),
            path: self.path.concat(),
        }
    }
}

/// Random bytes of a known count.
pub fn drawn<const N: usize>(mut random: impl FnMut() -> u64) -> [u8; N] {
    let mut bytes = [0; N];
    for chunk in bytes.chunks_mut(8) {
        chunk.copy_from_slice(&random().to_le_bytes()[..chunk.len()]);
    }
    bytes
}

impl Permits {
    /// What the node is given for an epoch.
    #[must_use]
    pub fn epoch_keys(&self, epoch: u32) -> EpochKeys {
        EpochKeys {
            epoch,
            limit_key: self.keys.limit_key(&self.node, epoch),
            receipt_key: self.keys.receipt_key(&self.node, epoch),
        }
    }

    /// What the satellite would permit for that piece, for an hour.
    #[must_use]
    pub fn fields(
        &self,
        action: LimitAction,
        segment: &Segment,
        client: NodeId,
        serial: [u8; 16],
        now_ms: u64,
    ) -> LimitFields {
        LimitFields {
            serial: Serial::from(serial),
            satellite: self.satellite,
            node: self.node,
            piece_id: segment.id,
            action,
            byte_count: segment.shape.piece_len(),
            required: segment.shape.required(),
            total: segment.shape.total(),
            index: segment.index,
            sealed_len: segment.shape.sealed_len(),
            issued_ms: now_ms,
            expires_ms: now_ms + 3_600_000,
            piece_expiry_ms: 0,
            client,
            epoch: self.epoch,
        }
    }

    /// The limit of these fields.
    #[must_use]
    pub fn mint(&self, fields: &LimitFields) -> Vec<u8> {
        Limit::mint(fields, ProjectId::from([5; 16]), &self.keys)
    }
}

/// Stores a piece. Its receipt, verified to be for this piece.
///
/// # Errors
///
/// [`Refusal`].
pub async fn put<S: SendStream, R: RecvStream>(
    send: &mut S,
    recv: &mut R,
    limit: Vec<u8>,
    segment: &Segment,
    key: &EpochKeys,
) -> Result<Receipt, Refusal> {
    ask(send, Verb::Put(pb::PutRequest { limit })).await?;
    match answer(recv).await? {
        Answer::PutAdmitted(pb::PutAdmitted {}) => {}
        _ => return Err(Refusal::Garbled("the put was not admitted")),
    }
    let sent = async {
        send.send(segment.body.clone()).await?;
        send_frame(send, &segment.commit()).await
    };
    if sent.await.is_ok() {
        send.finish();
    }
    let Answer::PutReceipt(pb::PutReceipt { receipt }) = answer(recv).await? else {
        return Err(Refusal::Garbled("no receipt"));
    };
    let receipt = Receipt::parse(&receipt).and_then(|receipt| receipt.verify(&key.receipt_key));
    let receipt = receipt.map_err(|_| Refusal::Garbled("a receipt that nobody made"))?;
    let is_right = receipt.piece_id == segment.id
        && receipt.root == segment.tree.root
        && receipt.commitment == segment.commitment
        && receipt.piece_len == segment.body.len() as u64;
    if is_right {
        Ok(receipt)
    } else {
        Err(Refusal::Garbled("another piece's receipt"))
    }
}

/// Fetches a whole piece: the bytes that came, and whether what came with them fits the segment.
///
/// # Errors
///
/// [`Refusal`].
pub async fn get<S: SendStream, R: RecvStream>(
    send: &mut S,
    recv: &mut R,
    limit: Vec<u8>,
    segment: &Segment,
) -> Result<(Vec<u8>, bool), Refusal> {
    let request = pb::GetRequest {
        limit,
        first_leaf: 0,
        leaf_count: 0,
    };
    ask(send, Verb::Get(request)).await?;
    send.finish();
    let Answer::Get(header) = answer(recv).await? else {
        return Err(Refusal::Garbled("no header"));
    };
    let mut rest = Vec::new();
    while let Some(bytes) = recv.chunk(usize::MAX).await.map_err(Refusal::of)? {
        rest.extend_from_slice(&bytes);
    }
    let hashes = segment.tree.share_hashes.concat();
    let fits = header.root == segment.tree.root
        && header.path == segment.path.concat()
        && rest.starts_with(&hashes);
    let body = rest.get(hashes.len()..).unwrap_or_default().to_vec();
    Ok((body, fits))
}

/// Deletes a piece; whether it was there.
///
/// # Errors
///
/// [`Refusal`].
pub async fn delete<S: SendStream, R: RecvStream>(
    send: &mut S,
    recv: &mut R,
    limit: Vec<u8>,
) -> Result<bool, Refusal> {
    ask(send, Verb::Delete(pb::DeleteRequest { limit })).await?;
    send.finish();
    match answer(recv).await? {
        Answer::Deleted(pb::Deleted { existed }) => Ok(existed),
        _ => Err(Refusal::Garbled("no answer to a delete")),
    }
}

/// Asks who is there.
///
/// # Errors
///
/// [`Refusal`].
pub async fn ping<S: SendStream, R: RecvStream>(
    send: &mut S,
    recv: &mut R,
) -> Result<Vec<u8>, Refusal> {
    ask(send, Verb::Ping(pb::Ping {})).await?;
    send.finish();
    match answer(recv).await? {
        Answer::Pong(pong) => Ok(pong.node_id),
        _ => Err(Refusal::Garbled("no answer to a ping")),
    }
}

async fn ask<S: SendStream>(send: &mut S, verb: Verb) -> Result<(), Refusal> {
    let request = pb::NodeRequest { verb: Some(verb) };
    send_frame(send, &request).await.map_err(Refusal::of)
}

async fn answer<R: RecvStream>(recv: &mut R) -> Result<Answer, Refusal> {
    match read_frame::<pb::NodeResponse, R>(recv, NODE_FRAME_BYTES_MAX).await {
        Ok(pb::NodeResponse {
            answer: Some(Answer::Error(error)),
        }) => Err(Refusal::Code(Code::of_error(&error))),
        Ok(response) => response.answer.ok_or(Refusal::Garbled("an empty answer")),
        Err(FrameError::Stream(error)) => Err(Refusal::of(error)),
        Err(_) => Err(Refusal::Garbled("no frame")),
    }
}

impl Refusal {
    fn of(error: StreamError) -> Self {
        match error {
            StreamError::Reset(code) | StreamError::Stopped(code) => {
                Code::try_from(code).map_or(Self::Garbled("an unknown code"), Self::Code)
            }
            StreamError::Closed | StreamError::TimedOut => Self::Lost,
        }
    }
}
