//! Uploads: begin, place pieces, commit.

use std::collections::BTreeSet;

use strand_codec::{INLINE_BYTES_MAX, Shape, ShapeError};
use strand_protocol::pb::satellite_response::Answer;
use strand_protocol::{
    Code, LimitAction, Position, Receipt, Scheme, Serial, StreamId, check_encrypted_key,
    limits as shared, pb,
};

use super::authorize::{ProjectAccess, UploadAccess};
use super::{Peer, bad_key, bucket, fixed};
use crate::clock;
use crate::core::draw;
use crate::core::object::{self, ObjectOffer};
use crate::core::order::{self, Issuer};
use crate::core::placement::{self, Candidate};
use crate::core::refusal::Refusal;
use crate::core::row::{Issued, NodeNumber, PendingObjectRow, PendingSegmentRow};
use crate::core::segment::{self, InlineOffer, Offer};
use crate::limits;
use crate::state::Satellite;
use crate::store::MetaStore;

pub(super) async fn begin_object<S: MetaStore>(
    satellite: &Satellite<S>,
    access: &ProjectAccess,
    request: pb::BeginObject,
    now_ms: u64,
) -> Result<Answer, Refusal> {
    let bucket = bucket::find(satellite, access, &request.bucket).await?;
    check_encrypted_key(bucket.names, &request.encrypted_key).map_err(bad_key)?;
    if request.expires_ms != 0 && request.expires_ms <= now_ms {
        return Err(Refusal::bad_request(
            "the object would have expired already",
        ));
    }
    let scheme = scheme(satellite, now_ms)?;
    let stream_id = StreamId::from(clock::random_bytes());
    let upload = PendingObjectRow {
        project: access.id(),
        bucket: request.bucket,
        encrypted_key: request.encrypted_key,
        scheme,
        created_ms: now_ms,
        expires_ms: request.expires_ms,
        committed: None,
    };
    satellite.store.begin_object(stream_id, upload).await?;
    let stream_id = stream_id.as_bytes().to_vec();
    Ok(Answer::BegunObject(pb::BegunObject {
        stream_id,
        scheme: Some(scheme.into()),
    }))
}

pub(super) async fn begin_segment<S: MetaStore>(
    satellite: &Satellite<S>,
    access: &UploadAccess,
    peer: &Peer,
    request: &pb::BeginSegment,
    now_ms: u64,
) -> Result<Answer, Refusal> {
    let upload = access.upload();
    let position = position(request.position)?;
    let shape = shape(upload.scheme, request.sealed_len)?;
    if shape.plain_len() <= INLINE_BYTES_MAX {
        let message = format!("a segment of {} bytes is stored inline", shape.plain_len());
        return Err(Refusal::bad_request(message));
    }
    let (secret, placed, issued) = {
        let mut random = clock::random_source();
        let candidates = satellite.nodes.candidates(shape.piece_len(), now_ms);
        let placed = placement::place_segment(upload.scheme, &candidates, &mut random)?;
        let issued = issue(&placed, &mut random);
        (draw::bytes(&mut random), placed, issued)
    };
    let pending = PendingSegmentRow {
        secret,
        sealed_len: shape.sealed_len(),
        issued: issued.clone(),
    };
    let discard_ms = now_ms + limits::LEFTOVER_DELAY_MS;
    satellite
        .store
        .begin_segment(access.stream(), position, pending, discard_ms)
        .await?;
    Ok(put_limits(
        satellite,
        access,
        peer,
        shape,
        &secret,
        (&placed, &issued),
        now_ms,
    ))
}

pub(super) async fn replace_pieces<S: MetaStore>(
    satellite: &Satellite<S>,
    access: &UploadAccess,
    peer: &Peer,
    request: &pb::ReplacePieces,
    now_ms: u64,
) -> Result<Answer, Refusal> {
    let upload = access.upload();
    let position = position(request.position)?;
    let indices = indices(&request.indices, upload.scheme)?;
    let pending = satellite
        .store
        .pending_segment(access.stream(), position)
        .await?;
    let pending = pending.ok_or_else(|| Refusal::not_found("the segment was not begun"))?;
    let issues_max = usize::from(upload.scheme.total) * limits::ISSUES_PER_INDEX_MAX;
    if pending.issued.len() + indices.len() > issues_max {
        let message = format!("{} nodes were tried for this segment", pending.issued.len());
        return Err(Refusal::new(Code::NoNodes, message));
    }
    let shape = shape(upload.scheme, pending.sealed_len)?;
    let (placed, issued) = {
        let mut random = clock::random_source();
        let used = pending.issued.iter().map(|issued| issued.node).collect();
        let is_kept = |issued: &&Issued| !issued.is_replaced && !indices.contains(&issued.index);
        let kept = pending
            .issued
            .iter()
            .filter(is_kept)
            .map(|issued| issued.node);
        let domains = satellite.nodes.domains(kept);
        let candidates = satellite.nodes.candidates(shape.piece_len(), now_ms);
        let placed = placement::replace_pieces(&indices, candidates, &used, &domains, &mut random)?;
        let issued = issue(&placed, &mut random);
        (placed, issued)
    };
    let added = issued.clone();
    let decide = move |pending| add_issues(pending, &added);
    satellite
        .store
        .change_segment(access.stream(), position, decide)
        .await?;
    let secret = pending.secret;
    Ok(put_limits(
        satellite,
        access,
        peer,
        shape,
        &secret,
        (&placed, &issued),
        now_ms,
    ))
}

pub(super) async fn commit_segment<S: MetaStore>(
    satellite: &Satellite<S>,
    access: &UploadAccess,
    request: &pb::CommitSegment,
    now_ms: u64,
) -> Result<Answer, Refusal> {
    let offer = Offer {
        position: position(request.position)?,
        plain_len: request.plain_len,
        sealed_len: request.sealed_len,
        salt: fixed("salt", &request.salt)?,
        key_commitment: fixed("key_commitment", &request.key_commitment)?,
        commitment: fixed("commitment", &request.commitment)?,
        receipts: verify_receipts(satellite, &request.receipts, now_ms)?,
    };
    let (position, commitment) = (offer.position, offer.commitment);
    let discard_ms = now_ms + limits::LEFTOVER_DELAY_MS;
    let decide = move |upload: &PendingObjectRow, pending: &PendingSegmentRow| {
        let (row, leftovers) = segment::commit(upload, pending, &offer)?;
        Ok((
            row,
            segment::discard(upload, pending, leftovers, discard_ms),
        ))
    };
    satellite
        .store
        .commit_segment(access.stream(), position, commitment, decide)
        .await?;
    Ok(Answer::Done(pb::Done {}))
}

pub(super) async fn inline_segment<S: MetaStore>(
    satellite: &Satellite<S>,
    access: &UploadAccess,
    request: pb::InlineSegment,
) -> Result<Answer, Refusal> {
    let offer = InlineOffer {
        position: position(request.position)?,
        plain_len: request.plain_len,
        salt: fixed("salt", &request.salt)?,
        key_commitment: fixed("key_commitment", &request.key_commitment)?,
        commitment: fixed("commitment", &request.commitment)?,
        sealed: request.sealed,
    };
    let row = segment::commit_inline(&offer)?;
    satellite
        .store
        .inline_segment(access.stream(), row, offer.sealed)
        .await?;
    Ok(Answer::Done(pb::Done {}))
}

pub(super) async fn commit_object<S: MetaStore>(
    satellite: &Satellite<S>,
    access: &UploadAccess,
    request: pb::CommitObject,
    now_ms: u64,
) -> Result<Answer, Refusal> {
    let header_len = request.sealed_header.len();
    if header_len > shared::SEALED_HEADER_BYTES_MAX {
        let most = shared::SEALED_HEADER_BYTES_MAX;
        let message = format!("the sealed header has {header_len} bytes > {most}");
        return Err(Refusal::new(Code::TooLarge, message));
    }
    if header_len <= shared::SIV_BYTES {
        return Err(Refusal::bad_request("the sealed header is missing"));
    }
    let pb::CommitObject {
        sealed_header,
        plain_len,
        ..
    } = request;
    let offer = ObjectOffer {
        stream_id: access.stream(),
        sealed_header,
        plain_len,
    };
    let content_hash = offer.content_hash();
    let decide = move |upload: &PendingObjectRow, segments: &[_]| {
        object::commit(upload, segments, &offer, now_ms).map_err(Refusal::from)
    };
    let committed = satellite
        .store
        .commit_object(access.stream(), content_hash, now_ms, decide)
        .await?;
    Ok(Answer::CommittedObject(pb::CommittedObject {
        created_ms: committed.created_ms,
        replaced: committed.has_replaced,
    }))
}

pub(super) async fn abort_object<S: MetaStore>(
    satellite: &Satellite<S>,
    access: &UploadAccess,
    now_ms: u64,
) -> Result<Answer, Refusal> {
    if access.upload().committed.is_some() {
        return Err(Refusal::new(
            Code::Conflict,
            "the upload is committed: delete its object",
        ));
    }
    let discard_ms = now_ms + limits::LEFTOVER_DELAY_MS;
    satellite
        .store
        .drop_upload(access.stream(), discard_ms)
        .await?;
    Ok(Answer::Done(pb::Done {}))
}

/// The scheme of a new upload, if there are nodes enough for it now.
fn scheme<S: MetaStore>(satellite: &Satellite<S>, now_ms: u64) -> Result<Scheme, Refusal> {
    let domain_count = placement::domain_count(&satellite.nodes.candidates(0, now_ms));
    let scheme = satellite
        .scheme
        .or_else(|| Scheme::for_domains(domain_count));
    let scheme = scheme.ok_or_else(|| placement::too_few(1, domain_count))?;
    let needed = usize::from(placement::commit_count_min(scheme));
    if domain_count < needed {
        return Err(placement::too_few(needed, domain_count));
    }
    Ok(scheme)
}

fn position(number: u64) -> Result<Position, Refusal> {
    let position = Position::from(number);
    let is_good = (1..=shared::PART_NUMBER_MAX).contains(&position.part_number)
        && (position.segment_index as usize) < shared::OBJECT_SEGMENTS_MAX;
    if is_good {
        Ok(position)
    } else {
        let message = format!(
            "no object has a segment {} of part {}",
            position.segment_index, position.part_number
        );
        Err(Refusal::new(Code::TooLarge, message))
    }
}

fn shape(scheme: Scheme, sealed_len: u64) -> Result<Shape, Refusal> {
    Shape::new(scheme.required, scheme.total, sealed_len).map_err(|error| {
        let code = match error {
            ShapeError::SegmentTooLong { .. } => Code::TooLarge,
            _ => Code::BadRequest,
        };
        Refusal::new(code, error.to_string())
    })
}

/// Distinct indices of the scheme, at least one.
fn indices(numbers: &[u32], scheme: Scheme) -> Result<BTreeSet<u8>, Refusal> {
    let mut indices = BTreeSet::new();
    for number in numbers {
        let index = u8::try_from(*number)
            .ok()
            .filter(|index| *index < scheme.total);
        let index = index.ok_or_else(|| {
            Refusal::bad_request(format!("index {number} is not below {}", scheme.total))
        })?;
        if !indices.insert(index) {
            return Err(Refusal::bad_request(format!("index {index} occurs twice")));
        }
    }
    if indices.is_empty() {
        return Err(Refusal::bad_request("no index to replace"));
    }
    Ok(indices)
}

fn issue(placed: &[(u8, Candidate)], random: draw::Random<'_>) -> Vec<Issued> {
    let mut issued = Vec::with_capacity(placed.len());
    for (index, node) in placed {
        let serial = Serial::from(draw::bytes(random));
        issued.push(Issued {
            index: *index,
            node: node.number,
            serial,
            is_replaced: false,
        });
    }
    issued
}

/// The segment with further issues, which replace those before of the same indices.
fn add_issues(
    mut pending: PendingSegmentRow,
    added: &[Issued],
) -> Result<PendingSegmentRow, Refusal> {
    let used: BTreeSet<NodeNumber> = pending.issued.iter().map(|issued| issued.node).collect();
    if added.iter().any(|issued| used.contains(&issued.node)) {
        return Err(Refusal::busy(
            "another request is replacing pieces of this segment",
        ));
    }
    for before in &mut pending.issued {
        before.is_replaced |= added.iter().any(|issued| issued.index == before.index);
    }
    pending.issued.extend_from_slice(added);
    Ok(pending)
}

/// Put limits for nodes that were just chosen.
fn put_limits<S: MetaStore>(
    satellite: &Satellite<S>,
    access: &UploadAccess,
    peer: &Peer,
    shape: Shape,
    secret: &[u8; 32],
    (placed, issued): (&[(u8, Candidate)], &[Issued]),
    now_ms: u64,
) -> Answer {
    satellite
        .nodes
        .promise(issued.iter().map(|issued| issued.node), shape.piece_len());
    let issuer = Issuer {
        keys: &satellite.keys,
        satellite: satellite.id,
        project: access.upload().project,
        client: peer.id,
        shape,
        secret,
        piece_expiry_ms: access.upload().expires_ms,
        now_ms,
    };
    let limit = |((index, node), issued): (&(u8, Candidate), &Issued)| pb::PieceLimit {
        index: (*index).into(),
        node_id: node.id.as_bytes().to_vec(),
        address: node.address.clone(),
        limit: issuer.limit(LimitAction::Put, node.id, *index, issued.serial),
    };
    let limits = placed.iter().zip(issued).map(limit).collect();
    Answer::PieceLimits(pb::PieceLimits {
        limits,
        segment: None,
    })
}

/// Receipts whose MACs are right, with their nodes' numbers.
fn verify_receipts<S: MetaStore>(
    satellite: &Satellite<S>,
    receipts: &[Vec<u8>],
    now_ms: u64,
) -> Result<Vec<(NodeNumber, Receipt)>, Refusal> {
    let bad = |at: usize, reason: &dyn std::fmt::Display| {
        Refusal::new(Code::BadReceipt, format!("receipt {at}: {reason}"))
    };
    if receipts.len() > usize::from(u8::MAX) {
        let message = format!("{} receipts > 255", receipts.len());
        return Err(Refusal::new(Code::BadReceipt, message));
    }
    let epochs = order::epochs(now_ms);
    let mut verified = Vec::with_capacity(receipts.len());
    for (at, bytes) in receipts.iter().enumerate() {
        let receipt = Receipt::parse(bytes).map_err(|error| bad(at, &error))?;
        let node = receipt.node();
        let number = satellite
            .nodes
            .number(&node)
            .ok_or_else(|| bad(at, &"its node is not known here"))?;
        if !epochs.contains(&receipt.epoch()) {
            return Err(bad(at, &"its key epoch is over"));
        }
        let key = satellite.keys.receipt_key(&node, receipt.epoch());
        verified.push((
            number,
            receipt.verify(&key).map_err(|error| bad(at, &error))?,
        ));
    }
    Ok(verified)
}
