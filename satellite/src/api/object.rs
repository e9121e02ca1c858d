//! Objects that are there: get, get a segment's limits, delete.

use strand_codec::Shape;
use strand_protocol::pb::satellite_response::Answer;
use strand_protocol::{Code, LimitAction, Position, limits as shared, pb};

use super::Peer;
use super::authorize::ProjectAccess;
use crate::clock;
use crate::core::order::Issuer;
use crate::core::refusal::Refusal;
use crate::core::row::{ObjectRow, Pieces, SegmentRow};
use crate::state::Satellite;
use crate::store::{MetaStore, ObjectPath};

/// How often an object is read again that was replaced while we read it.
const READS_MAX: usize = 4;

pub(super) async fn get<S: MetaStore>(
    satellite: &Satellite<S>,
    access: &ProjectAccess,
    request: pb::GetObject,
    now_ms: u64,
) -> Result<Answer, Refusal> {
    let path = path(access, request.bucket, request.encrypted_key);
    for _ in 0..READS_MAX {
        let row = find(satellite, &path, now_ms).await?;
        if request.header_only {
            return Ok(Answer::Object(message(path.encrypted_key, row, Vec::new())));
        }
        let segments = satellite
            .store
            .segments(row.stream_id, inline_bytes_max(&row))
            .await?;
        // Two snapshots: the object may have been replaced in between, its segments gone.
        if segments.len() == row.segment_count as usize {
            let segments = segments
                .into_iter()
                .map(|(row, sealed)| segment_message(row, sealed))
                .collect();
            return Ok(Answer::Object(message(path.encrypted_key, row, segments)));
        }
    }
    Err(Refusal::busy("the object is being replaced"))
}

pub(super) async fn get_segment<S: MetaStore>(
    satellite: &Satellite<S>,
    access: &ProjectAccess,
    peer: &Peer,
    request: pb::GetSegment,
    now_ms: u64,
) -> Result<Answer, Refusal> {
    let path = path(access, request.bucket, request.encrypted_key);
    let row = find(satellite, &path, now_ms).await?;
    if row.stream_id.as_bytes()[..] != request.stream_id {
        return Err(Refusal::not_found("the object was replaced: get it again"));
    }
    let position = Position::from(request.position);
    let segment = satellite.store.segment(row.stream_id, position).await?;
    let (segment, sealed) = segment.ok_or_else(|| {
        let Position {
            part_number,
            segment_index,
        } = position;
        Refusal::not_found(format!(
            "the object has no segment {segment_index} of part {part_number}"
        ))
    })?;
    let limits = match &segment.pieces {
        None => Vec::new(),
        Some(pieces) => get_limits(satellite, access, peer, &segment, pieces, now_ms)?,
    };
    Ok(Answer::PieceLimits(pb::PieceLimits {
        limits,
        segment: Some(segment_message(segment, sealed)),
    }))
}

pub(super) async fn delete<S: MetaStore>(
    satellite: &Satellite<S>,
    access: &ProjectAccess,
    request: pb::DeleteObject,
    now_ms: u64,
) -> Result<Answer, Refusal> {
    let path = path(access, request.bucket, request.encrypted_key);
    if satellite.store.delete_object(path, now_ms).await? {
        Ok(Answer::Done(pb::Done {}))
    } else {
        Err(no_object())
    }
}

/// An object in an answer.
pub(super) fn message(
    encrypted_key: Vec<u8>,
    row: ObjectRow,
    segments: Vec<pb::Segment>,
) -> pb::Object {
    pb::Object {
        encrypted_key,
        stream_id: row.stream_id.as_bytes().to_vec(),
        sealed_header: row.sealed_header,
        plain_len: row.plain_len,
        piece_bytes: row.piece_bytes,
        segment_count: row.segment_count,
        created_ms: row.created_ms,
        expires_ms: row.expires_ms,
        segments,
    }
}

fn path(access: &ProjectAccess, bucket: String, encrypted_key: Vec<u8>) -> ObjectPath {
    ObjectPath {
        project: access.id(),
        bucket,
        encrypted_key,
    }
}

async fn find<S: MetaStore>(
    satellite: &Satellite<S>,
    path: &ObjectPath,
    now_ms: u64,
) -> Result<ObjectRow, Refusal> {
    if let Some(row) = satellite.store.object(path.clone()).await? {
        return if row.is_expired(now_ms) {
            Err(no_object())
        } else {
            Ok(row)
        };
    }
    // Which of the two is missing, since the caller may do something about a bucket.
    match satellite
        .store
        .bucket(path.project, path.bucket.clone())
        .await?
    {
        Some(_) => Err(no_object()),
        None => Err(Refusal::not_found(format!("no bucket {}", path.bucket))),
    }
}

fn no_object() -> Refusal {
    Refusal::not_found("no such object")
}

/// What an answer has room for beside everything else in it.
fn inline_bytes_max(row: &ObjectRow) -> usize {
    let used = row.sealed_header.len()
        + row.segment_count as usize * shared::SEGMENT_MESSAGE_BYTES_MAX
        + shared::ENCRYPTED_KEY_BYTES_MAX
        + 16_384;
    // Never less than one: asserted in protocol.
    shared::SATELLITE_FRAME_BYTES_MAX
        .saturating_sub(used)
        .max(shared::INLINE_SEALED_BYTES_MAX)
}

fn segment_message(row: SegmentRow, sealed: Option<Vec<u8>>) -> pb::Segment {
    pb::Segment {
        position: row.position.into(),
        plain_len: row.plain_len,
        sealed_len: row.sealed_len,
        salt: row.salt.to_vec(),
        key_commitment: row.key_commitment.to_vec(),
        commitment: row.commitment.to_vec(),
        scheme: row.pieces.as_ref().map(|pieces| pieces.scheme.into()),
        inline_sealed: sealed.unwrap_or_default(),
        piece_count: row
            .pieces
            .map_or(0, |pieces| pieces.placements.len() as u32),
    }
}

/// A get limit for every piece that is stored.
fn get_limits<S: MetaStore>(
    satellite: &Satellite<S>,
    access: &ProjectAccess,
    peer: &Peer,
    segment: &SegmentRow,
    pieces: &Pieces,
    now_ms: u64,
) -> Result<Vec<pb::PieceLimit>, Refusal> {
    let shape = Shape::new(
        pieces.scheme.required,
        pieces.scheme.total,
        segment.sealed_len,
    )
    .map_err(|error| Refusal::new(Code::Internal, format!("segment row: {error}")))?;
    let issuer = Issuer {
        keys: &satellite.keys,
        satellite: satellite.id,
        project: access.id(),
        client: peer.id,
        shape,
        secret: &pieces.secret,
        piece_expiry_ms: 0,
        now_ms,
    };
    let mut random = clock::random_source();
    let mut serial = || {
        let mut serial = [0; 16];
        random(&mut serial);
        serial.into()
    };
    let mut limits = Vec::with_capacity(pieces.placements.len());
    for placement in &pieces.placements {
        // Nodes are never forgotten, so every placement has one.
        let Some((node, address)) = satellite.nodes.locate(placement.node) else {
            continue;
        };
        limits.push(pb::PieceLimit {
            index: placement.index.into(),
            node_id: node.as_bytes().to_vec(),
            address,
            limit: issuer.limit(LimitAction::Get, node, placement.index, serial()),
        });
    }
    Ok(limits)
}
