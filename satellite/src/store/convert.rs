//! Rows to stored messages and back. A message that is not a row is damage: `None`.

use strand_protocol::path::Names;
use strand_protocol::{Position, ProjectId, Scheme};

use super::pb;
use crate::core::address::Domain;
use crate::core::row::{
    BucketRow, CollectionOutcome, CollectionRow, CollectionRun, Committed, Discard, Issued,
    MacaroonSecret, NodeNumber, NodeRow, ObjectRow, PendingObjectRow, PendingSegmentRow, Pieces,
    Placement, ProjectRow, SegmentRow,
};

pub(super) fn project_to(row: &ProjectRow) -> pb::Project {
    let secret = |secret: &MacaroonSecret| pb::MacaroonSecret {
        key_id: secret.key_id.to_vec(),
        secret: secret.secret.to_vec(),
    };
    pb::Project {
        name: row.name.clone(),
        salt: row.salt.to_vec(),
        secrets: row.secrets.iter().map(secret).collect(),
        check_value: row.check_value.clone(),
        created_ms: row.created_ms,
    }
}

pub(super) fn project_of(id: ProjectId, row: pb::Project) -> Option<ProjectRow> {
    let secret = |secret: pb::MacaroonSecret| {
        Some(MacaroonSecret {
            key_id: array(&secret.key_id)?,
            secret: array(&secret.secret)?,
        })
    };
    Some(ProjectRow {
        id,
        name: row.name,
        salt: array(&row.salt)?,
        secrets: row.secrets.into_iter().map(secret).collect::<Option<_>>()?,
        check_value: row.check_value,
        created_ms: row.created_ms,
    })
}

pub(super) fn bucket_to(row: &BucketRow) -> pb::Bucket {
    pb::Bucket {
        names_plain: row.names == Names::Plain,
        created_ms: row.created_ms,
    }
}

pub(super) fn bucket_of(name: &[u8], row: pb::Bucket) -> Option<BucketRow> {
    Some(BucketRow {
        name: String::from_utf8(name.to_vec()).ok()?,
        names: if row.names_plain {
            Names::Plain
        } else {
            Names::Sealed
        },
        created_ms: row.created_ms,
    })
}

pub(super) fn object_to(row: &ObjectRow) -> pb::Object {
    pb::Object {
        stream_id: row.stream_id.as_bytes().to_vec(),
        sealed_header: row.sealed_header.clone(),
        plain_len: row.plain_len,
        piece_bytes: row.piece_bytes,
        segment_count: row.segment_count,
        created_ms: row.created_ms,
        expires_ms: row.expires_ms,
    }
}

pub(super) fn object_of(row: pb::Object) -> Option<ObjectRow> {
    Some(ObjectRow {
        stream_id: row.stream_id.as_slice().try_into().ok()?,
        sealed_header: row.sealed_header,
        plain_len: row.plain_len,
        piece_bytes: row.piece_bytes,
        segment_count: row.segment_count,
        created_ms: row.created_ms,
        expires_ms: row.expires_ms,
    })
}

pub(super) fn segment_to(row: &SegmentRow) -> pb::Segment {
    let (scheme, secret, placements) = match &row.pieces {
        None => (None, Vec::new(), Vec::new()),
        Some(pieces) => (
            Some(scheme_to(pieces.scheme)),
            pieces.secret.to_vec(),
            pieces.placements.iter().map(placement_to).collect(),
        ),
    };
    pb::Segment {
        plain_len: row.plain_len,
        sealed_len: row.sealed_len,
        salt: row.salt.to_vec(),
        key_commitment: row.key_commitment.to_vec(),
        commitment: row.commitment.to_vec(),
        scheme,
        secret,
        placements,
    }
}

pub(super) fn segment_of(position: Position, row: pb::Segment) -> Option<SegmentRow> {
    let pieces = match row.scheme {
        None => None,
        Some(scheme) => Some(Pieces {
            scheme: scheme_of(scheme)?,
            secret: array(&row.secret)?,
            placements: row
                .placements
                .into_iter()
                .map(placement_of)
                .collect::<Option<_>>()?,
        }),
    };
    Some(SegmentRow {
        position,
        plain_len: row.plain_len,
        sealed_len: row.sealed_len,
        salt: array(&row.salt)?,
        key_commitment: array(&row.key_commitment)?,
        commitment: array(&row.commitment)?,
        pieces,
    })
}

pub(super) fn upload_to(row: &PendingObjectRow) -> pb::PendingObject {
    pb::PendingObject {
        project_id: row.project.as_bytes().to_vec(),
        bucket: row.bucket.clone(),
        encrypted_key: row.encrypted_key.clone(),
        scheme: Some(scheme_to(row.scheme)),
        created_ms: row.created_ms,
        expires_ms: row.expires_ms,
        committed_ms: row.committed.map_or(0, |committed| committed.created_ms),
        has_replaced: row
            .committed
            .is_some_and(|committed| committed.has_replaced),
        committed_hash: row
            .committed
            .map_or_else(Vec::new, |committed| committed.content_hash.to_vec()),
    }
}

pub(super) fn upload_of(row: pb::PendingObject) -> Option<PendingObjectRow> {
    let committed = match row.committed_ms {
        0 => None,
        created_ms => Some(Committed {
            created_ms,
            has_replaced: row.has_replaced,
            content_hash: array(&row.committed_hash)?,
        }),
    };
    Some(PendingObjectRow {
        project: row.project_id.as_slice().try_into().ok()?,
        bucket: row.bucket,
        encrypted_key: row.encrypted_key,
        scheme: scheme_of(row.scheme?)?,
        created_ms: row.created_ms,
        expires_ms: row.expires_ms,
        committed,
    })
}

pub(super) fn pending_to(row: &PendingSegmentRow) -> pb::PendingSegment {
    let issued = |issued: &Issued| pb::Issued {
        index: issued.index.into(),
        node_number: issued.node.0,
        serial: issued.serial.as_bytes().to_vec(),
        is_replaced: issued.is_replaced,
    };
    pb::PendingSegment {
        secret: row.secret.to_vec(),
        sealed_len: row.sealed_len,
        issued: row.issued.iter().map(issued).collect(),
    }
}

pub(super) fn pending_of(row: pb::PendingSegment) -> Option<PendingSegmentRow> {
    let issued = |issued: pb::Issued| {
        Some(Issued {
            index: issued.index.try_into().ok()?,
            node: NodeNumber(issued.node_number),
            serial: issued.serial.as_slice().try_into().ok()?,
            is_replaced: issued.is_replaced,
        })
    };
    Some(PendingSegmentRow {
        secret: array(&row.secret)?,
        sealed_len: row.sealed_len,
        issued: row.issued.into_iter().map(issued).collect::<Option<_>>()?,
    })
}

pub(super) fn node_to(row: &NodeRow) -> pb::Node {
    pb::Node {
        node_id: row.id.as_bytes().to_vec(),
        address: row.address.clone(),
        domain: row.domain.to_bytes(),
        capacity_bytes: row.capacity_bytes,
        used_bytes: row.used_bytes,
        free_bytes: row.free_bytes,
        version: row.version.clone(),
        first_contact_ms: row.first_contact_ms,
        last_contact_ms: row.last_contact_ms,
        skew_ms: row.skew_ms,
        is_reachable: row.is_reachable,
    }
}

pub(super) fn node_of(row: pb::Node) -> Option<NodeRow> {
    Some(NodeRow {
        id: row.node_id.as_slice().try_into().ok()?,
        address: row.address,
        domain: Domain::from_bytes(&row.domain)?,
        capacity_bytes: row.capacity_bytes,
        used_bytes: row.used_bytes,
        free_bytes: row.free_bytes,
        version: row.version,
        first_contact_ms: row.first_contact_ms,
        last_contact_ms: row.last_contact_ms,
        skew_ms: row.skew_ms,
        is_reachable: row.is_reachable,
    })
}

pub(super) fn discard_to(row: &Discard) -> pb::Discard {
    pb::Discard {
        project_id: row.project.as_bytes().to_vec(),
        secret: row.secret.to_vec(),
        required: row.required.into(),
        total: row.total.into(),
        sealed_len: row.sealed_len,
        pieces: row.pieces.iter().map(placement_to).collect(),
        try_count: row.try_count,
        not_before_ms: row.not_before_ms,
    }
}

pub(super) fn discard_of(row: pb::Discard) -> Option<Discard> {
    Some(Discard {
        project: row.project_id.as_slice().try_into().ok()?,
        secret: array(&row.secret)?,
        required: row.required.try_into().ok()?,
        total: row.total.try_into().ok()?,
        sealed_len: row.sealed_len,
        pieces: row
            .pieces
            .into_iter()
            .map(placement_of)
            .collect::<Option<_>>()?,
        try_count: row.try_count,
        not_before_ms: row.not_before_ms,
    })
}

/// The same fields, wherever an outcome is.
macro_rules! outcome_fields {
    ($target:path, $outcome:expr, $reported_ms:expr) => {{
        type Target = $target;
        Target {
            run: $outcome.run,
            examined: $outcome.examined,
            kept: $outcome.kept,
            trashed: $outcome.trashed,
            trashed_bytes: $outcome.trashed_bytes,
            refused_parts: $outcome.refused_parts,
            would_trash: $outcome.would_trash,
            would_trash_of: $outcome.would_trash_of,
            reported_ms: $reported_ms,
        }
    }};
}

/// What a node says in a check-in.
pub(crate) fn outcome_reported(
    outcome: &strand_protocol::pb::CollectOutcome,
    reported_ms: u64,
) -> CollectionOutcome {
    outcome_fields!(CollectionOutcome, outcome, reported_ms)
}

fn outcome_to(outcome: &CollectionOutcome) -> pb::CollectionOutcome {
    outcome_fields!(pb::CollectionOutcome, outcome, outcome.reported_ms)
}

fn outcome_of(outcome: &pb::CollectionOutcome) -> CollectionOutcome {
    outcome_fields!(CollectionOutcome, outcome, outcome.reported_ms)
}

pub(super) fn collection_to(row: &CollectionRow) -> pb::Collection {
    pb::Collection {
        run: row.run,
        part_count: row.part_count,
        snapshot_ms: row.snapshot_ms,
        piece_count: row.piece_count,
        outcome: row.outcome.as_ref().map(outcome_to),
    }
}

pub(super) fn collection_of(row: pb::Collection) -> CollectionRow {
    CollectionRow {
        run: row.run,
        part_count: row.part_count,
        snapshot_ms: row.snapshot_ms,
        piece_count: row.piece_count,
        outcome: row.outcome.as_ref().map(outcome_of),
    }
}

pub(super) fn run_to(row: &CollectionRun) -> pb::CollectionRun {
    pb::CollectionRun {
        run: row.run,
        snapshot_ms: row.snapshot_ms,
        ended_ms: row.ended_ms,
        segment_count: row.segment_count,
        piece_count: row.piece_count,
        node_count: row.node_count,
        lost_count: row.lost_count,
    }
}

pub(super) fn run_of(row: pb::CollectionRun) -> CollectionRun {
    CollectionRun {
        run: row.run,
        snapshot_ms: row.snapshot_ms,
        ended_ms: row.ended_ms,
        segment_count: row.segment_count,
        piece_count: row.piece_count,
        node_count: row.node_count,
        lost_count: row.lost_count,
    }
}

fn placement_to(placement: &Placement) -> pb::Placement {
    pb::Placement {
        index: placement.index.into(),
        node_number: placement.node.0,
    }
}

fn placement_of(placement: pb::Placement) -> Option<Placement> {
    let index = placement.index.try_into().ok()?;
    Some(Placement {
        index,
        node: NodeNumber(placement.node_number),
    })
}

fn scheme_to(scheme: Scheme) -> pb::Scheme {
    pb::Scheme {
        required: scheme.required.into(),
        repair: scheme.repair.into(),
        optimal: scheme.optimal.into(),
        total: scheme.total.into(),
    }
}

fn scheme_of(scheme: pb::Scheme) -> Option<Scheme> {
    let count = |count: u32| u8::try_from(count).ok();
    Scheme::new(
        count(scheme.required)?,
        count(scheme.repair)?,
        count(scheme.optimal)?,
        count(scheme.total)?,
    )
    .ok()
}

fn array<const N: usize>(bytes: &[u8]) -> Option<[u8; N]> {
    bytes.try_into().ok()
}
