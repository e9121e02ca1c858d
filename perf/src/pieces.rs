//! Where an object's pieces are and whether they are there, asked as any client would: with a macaroon, over the wire.
//!
//! `GetSegment` answers the limits of all committed pieces of a segment; each names its node and, inside the limit, the
//! piece id. The one thing that no client has is the satellite's master key: with it this module believes a limit only if
//! its MAC is right, and mints the limits with which `damage` deletes. No error of a node is forgiven.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use strand_codec::{Shape, commitment_of_path, share_hash};
use strand_protocol::limits::{NODE_FRAME_BYTES_MAX, SATELLITE_FRAME_BYTES_MAX};
use strand_protocol::pb::{self, satellite_request::Verb, satellite_response::Answer};
use strand_protocol::permit::{Limit, LimitAction, LimitFields, SatelliteKeys};
use strand_protocol::{NodeId, PieceId, ProjectId, Serial};
use strand_transport::{Connection, Dialer, Identity, NODE_ALPN, SATELLITE_ALPN};

use crate::local::Network;

/// How long a peer may take for one answer.
const ANSWER_PATIENCE: Duration = Duration::from_secs(10);

/// A committed piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommittedPiece {
    /// Its index in the segment.
    pub index: u8,
    /// Who holds it.
    pub node_id: NodeId,
    /// Where that node listens.
    pub address: String,
    /// The piece's name there.
    pub piece_id: PieceId,
    /// Permission to read it, for the key of the prober that asked: as received.
    pub limit_bytes: Vec<u8>,
    /// What it says, its MAC checked.
    pub limit: Limit,
    /// The project that its ticket names.
    pub project: ProjectId,
}

/// A segment that has pieces.
#[derive(Clone, Debug)]
pub struct CommittedSegment {
    /// Part number and segment index.
    pub position: u64,
    /// Pieces that restore it.
    pub required: u8,
    /// Pieces in all, the ones that were never stored included.
    pub total: u8,
    /// All four counts, as text.
    pub scheme: String,
    /// Length of the sealed bytes.
    pub sealed_len: u64,
    /// The segment's commitment.
    pub commitment: [u8; 32],
    /// Its committed pieces.
    pub pieces: Vec<CommittedPiece>,
}

/// What the satellite knows about an object.
#[derive(Clone, Debug)]
pub struct Committed {
    /// User bytes.
    pub plain_len: u64,
    /// Bytes of all committed pieces.
    pub piece_bytes: u64,
    /// Segments that are stored inline.
    pub inline_segments: usize,
    /// The others.
    pub segments: Vec<CommittedSegment>,
}

/// A client of its own, with a fresh key and a macaroon.
pub struct Prober {
    dialer: Dialer,
    satellite: Connection,
    macaroon: Vec<u8>,
    keys: SatelliteKeys,
}

impl Prober {
    /// Dials the satellite of a local network.
    pub async fn dial(network: &Network, macaroon: &[u8]) -> Result<Self> {
        let address = network.satellite_address().to_string();
        let keys = network.satellite_keys()?;
        Self::dial_satellite(network.satellite_id(), &address, keys, macaroon).await
    }

    /// Dials any satellite whose master key is at hand.
    pub async fn dial_satellite(
        satellite_id: NodeId,
        address: &str,
        keys: SatelliteKeys,
        macaroon: &[u8],
    ) -> Result<Self> {
        let dialer = Dialer::new(Identity::generate())?;
        let satellite = dialer.dial(satellite_id, address, SATELLITE_ALPN).await?;
        Ok(Self {
            dialer,
            satellite,
            macaroon: macaroon.to_vec(),
            keys,
        })
    }

    /// Says goodbye to everyone.
    pub async fn close(self) {
        self.dialer.close().await;
    }

    /// Asks the satellite for the object's segments and for the pieces of each.
    pub async fn committed(&self, bucket: &str, encrypted_key: &[u8]) -> Result<Committed> {
        let get_object = Verb::GetObject(pb::GetObject {
            bucket: bucket.to_owned(),
            encrypted_key: encrypted_key.to_vec(),
            header_only: false,
        });
        let Answer::Object(object) = self.ask(get_object).await? else {
            bail!("the satellite answered get object with something else");
        };
        let mut segments = Vec::new();
        let mut inline_segments = 0;
        for segment in &object.segments {
            if segment.piece_count == 0 {
                inline_segments += 1;
                continue;
            }
            let get_segment = Verb::GetSegment(pb::GetSegment {
                bucket: bucket.to_owned(),
                encrypted_key: encrypted_key.to_vec(),
                stream_id: object.stream_id.clone(),
                position: segment.position,
            });
            let Answer::PieceLimits(limits) = self.ask(get_segment).await? else {
                bail!("the satellite answered get segment with something else");
            };
            segments.push(self.committed_segment(segment, limits)?);
        }
        Ok(Committed {
            plain_len: object.plain_len,
            piece_bytes: object.piece_bytes,
            inline_segments,
            segments,
        })
    }

    /// Reads every piece of a segment from its node and checks all of it against the commitment.
    pub async fn read_all_pieces(&self, segment: &CommittedSegment) -> Result<()> {
        for piece in &segment.pieces {
            self.read_piece(segment, piece).await.with_context(|| {
                format!(
                    "piece {} of segment {:x} at {}",
                    piece.index, segment.position, piece.address
                )
            })?;
        }
        Ok(())
    }

    /// Has a node delete a piece, with a limit minted for it; whether the node had it.
    pub async fn delete_piece(&self, piece: &CommittedPiece) -> Result<bool> {
        use strand_protocol::pb::{node_request, node_response};
        let mut serial = [0; 16];
        getrandom::fill(&mut serial).context("no random bytes")?;
        let fields = LimitFields {
            serial: Serial::from(serial),
            action: LimitAction::Delete,
            byte_count: 0,
            client: self.dialer.node_id(),
            ..*piece.limit
        };
        let limit = Limit::mint(&fields, piece.project, &self.keys);
        let verb = node_request::Verb::Delete(pb::DeleteRequest { limit });
        let node = self
            .dialer
            .dial(piece.node_id, &piece.address, NODE_ALPN)
            .await?;
        let response: pb::NodeResponse = node
            .call(
                &pb::NodeRequest { verb: Some(verb) },
                NODE_FRAME_BYTES_MAX,
                ANSWER_PATIENCE,
            )
            .await
            .with_context(|| format!("cannot delete a piece at {}", piece.address))?;
        match response.answer {
            Some(node_response::Answer::Deleted(deleted)) => Ok(deleted.existed),
            _ => bail!("the node answered delete with something else"),
        }
    }

    fn committed_segment(
        &self,
        segment: &pb::Segment,
        limits: pb::PieceLimits,
    ) -> Result<CommittedSegment> {
        let scheme = segment
            .scheme
            .context("a segment with pieces has no scheme")?;
        ensure!(
            limits.limits.len() == segment.piece_count as usize,
            "{} limits for {} pieces",
            limits.limits.len(),
            segment.piece_count
        );
        let pieces = limits
            .limits
            .into_iter()
            .map(|limit| {
                let node_id: [u8; 32] = limit
                    .node_id
                    .as_slice()
                    .try_into()
                    .context("a node id of another length")?;
                let node_id = NodeId::from(node_id);
                let unverified = Limit::parse(&limit.limit).context("a limit does not parse")?;
                let key = self.keys.limit_key(&node_id, unverified.epoch());
                let fields = unverified.verify(&key).context("a limit is not genuine")?;
                let project = unverified.open_ticket(&self.keys.ticket_key())?;
                Ok(CommittedPiece {
                    index: u8::try_from(limit.index)?,
                    node_id,
                    address: limit.address,
                    piece_id: fields.piece_id,
                    limit: fields,
                    project,
                    limit_bytes: limit.limit,
                })
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(CommittedSegment {
            position: segment.position,
            required: u8::try_from(scheme.required)?,
            total: u8::try_from(scheme.total)?,
            scheme: format!(
                "{}/{}/{}/{}",
                scheme.required, scheme.repair, scheme.optimal, scheme.total
            ),
            sealed_len: segment.sealed_len,
            commitment: segment
                .commitment
                .as_slice()
                .try_into()
                .context("a commitment of another length")?,
            pieces,
        })
    }

    async fn read_piece(&self, segment: &CommittedSegment, piece: &CommittedPiece) -> Result<()> {
        let node = self
            .dialer
            .dial(piece.node_id, &piece.address, NODE_ALPN)
            .await?;
        let read = tokio::time::timeout(ANSWER_PATIENCE, check_piece(&node, segment, piece)).await;
        read.context("the node took too long")?
    }

    async fn ask(&self, verb: Verb) -> Result<Answer> {
        let request = pb::SatelliteRequest {
            macaroon: self.macaroon.clone(),
            verb: Some(verb),
        };
        let response: pb::SatelliteResponse = self
            .satellite
            .call(&request, SATELLITE_FRAME_BYTES_MAX, ANSWER_PATIENCE)
            .await?;
        response.answer.context("the satellite answered nothing")
    }
}

/// A whole-piece get: header, share hashes, body; docs/wire.md section 2.
async fn check_piece(
    node: &Connection,
    segment: &CommittedSegment,
    piece: &CommittedPiece,
) -> Result<()> {
    use strand_protocol::pb::{node_request, node_response};
    let shape = Shape::new(segment.required, segment.total, segment.sealed_len)?;
    let mut exchange = node.open().await?;
    let get = pb::GetRequest {
        limit: piece.limit_bytes.clone(),
        first_leaf: 0,
        leaf_count: 0,
    };
    let request = pb::NodeRequest {
        verb: Some(node_request::Verb::Get(get)),
    };
    exchange.send.frame(&request).await?;
    exchange.send.finish();
    let response: pb::NodeResponse = exchange.recv.answer(NODE_FRAME_BYTES_MAX).await?;
    let Some(node_response::Answer::Get(header)) = response.answer else {
        bail!("the node answered get with something else");
    };
    let root: [u8; 32] = header
        .root
        .as_slice()
        .try_into()
        .context("a root of another length")?;
    let (path, rest) = header.path.as_chunks::<32>();
    ensure!(rest.is_empty(), "a path of another length");
    let commitment = commitment_of_path(&shape, piece.index, &root, path)?;
    ensure!(
        commitment == segment.commitment,
        "root and path lead to another commitment"
    );

    let mut hashes = vec![
        [0; 32];
        if shape.share_count() > 1 {
            shape.share_count() as usize
        } else {
            0
        }
    ];
    exchange.recv.read_exact(hashes.as_flattened_mut()).await?;
    if !hashes.is_empty() {
        let hashed = strand_codec::root_of_share_hashes(shape.piece_len(), &hashes)?;
        ensure!(hashed == root, "the share hashes lead to another root");
    }
    for share in 0..shape.share_count() {
        let mut bytes = vec![0; shape.share_len(share)];
        exchange.recv.read_exact(&mut bytes).await?;
        let expected = hashes.get(share as usize).unwrap_or(&root);
        ensure!(
            share_hash(shape.piece_len(), share, &bytes) == *expected,
            "share {share} is not what was stored"
        );
    }
    Ok(())
}
