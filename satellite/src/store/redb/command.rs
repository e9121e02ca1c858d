//! What each write does in its transaction.
//!
//! **Invariant:** every command reads and decides before its first write, so that a refused one
//! leaves the transaction, which it shares with others, as it was.

use std::ops::Bound;

use strand_protocol::{Position, ProjectId, StreamId};

use super::query;
use super::table::{
    BUCKETS, EXPIRIES, INLINE, NODE_NUMBERS, NODES, OBJECTS, OUTBOX, PENDING_OBJECTS,
    PENDING_SEGMENTS, PROJECTS, Rows, SEGMENTS, WriteTx, bucket_key, bucket_prefix, damaged,
    expiry_key, object_key, object_path_of, segment_key,
};
use crate::core::refusal::Refusal;
use crate::core::row::{
    BucketRow, Committed, Discard, NodeNumber, NodeRow, ObjectRow, PendingObjectRow,
    PendingSegmentRow, ProjectRow, SegmentRow,
};
use crate::core::{object, segment};
use crate::limits;
use crate::store::{ObjectPath, StoreResult, convert};
use strand_protocol::Code;

pub(super) fn create_project(tx: &WriteTx<'_>, project: &ProjectRow) -> StoreResult<()> {
    if tx.count(PROJECTS)? >= limits::PROJECTS_MAX as u64 {
        let message = format!(
            "the satellite has {} projects, its most",
            limits::PROJECTS_MAX
        );
        return Err(Refusal::new(Code::TooLarge, message).into());
    }
    tx.put_message(PROJECTS, project.id.as_ref(), &convert::project_to(project))
}

pub(super) fn set_check_value(
    tx: &WriteTx<'_>,
    id: ProjectId,
    value: Vec<u8>,
    replace: bool,
) -> StoreResult<()> {
    let mut project =
        query::project(tx, id)?.ok_or_else(|| Refusal::not_found("no such project"))?;
    if project.check_value == value {
        return Ok(());
    }
    if !project.check_value.is_empty() && !replace {
        let message = "the project's check value is another one: was the passphrase mistyped?";
        return Err(Refusal::new(Code::Conflict, message).into());
    }
    project.check_value = value;
    tx.put_message(PROJECTS, id.as_ref(), &convert::project_to(&project))
}

pub(super) fn create_bucket(
    tx: &WriteTx<'_>,
    project: ProjectId,
    bucket: &BucketRow,
) -> StoreResult<()> {
    let key = bucket_key(project, &bucket.name);
    if tx.get(BUCKETS, &key)?.is_some() {
        let message = format!("bucket {} exists already", bucket.name);
        return Err(Refusal::new(Code::Conflict, message).into());
    }
    if tx
        .rows(BUCKETS, project.as_ref(), limits::BUCKETS_MAX)?
        .len()
        == limits::BUCKETS_MAX
    {
        let message = format!("the project has {} buckets, its most", limits::BUCKETS_MAX);
        return Err(Refusal::new(Code::TooLarge, message).into());
    }
    tx.put_message(BUCKETS, &key, &convert::bucket_to(bucket))
}

pub(super) fn delete_bucket(tx: &WriteTx<'_>, project: ProjectId, name: &str) -> StoreResult<()> {
    let key = bucket_key(project, name);
    if tx.get(BUCKETS, &key)?.is_none() {
        return Err(no_bucket(name).into());
    }
    if !tx
        .rows(OBJECTS, &bucket_prefix(project, name), 1)?
        .is_empty()
    {
        return Err(Refusal::new(Code::Conflict, format!("bucket {name} is not empty")).into());
    }
    tx.remove(BUCKETS, &key)?;
    Ok(())
}

pub(super) fn begin_object(
    tx: &WriteTx<'_>,
    stream: StreamId,
    upload: &PendingObjectRow,
) -> StoreResult<()> {
    if query::bucket(tx, upload.project, &upload.bucket)?.is_none() {
        return Err(no_bucket(&upload.bucket).into());
    }
    tx.put_message(
        PENDING_OBJECTS,
        stream.as_ref(),
        &convert::upload_to(upload),
    )
}

pub(super) fn begin_segment(
    tx: &WriteTx<'_>,
    stream: StreamId,
    position: Position,
    pending: &PendingSegmentRow,
    discard_ms: u64,
) -> StoreResult<()> {
    let upload = open_upload(tx, stream)?;
    if query::segment(tx, stream, position)?.is_some() {
        return Err(committed_already(position).into());
    }
    let before = query::pending_segment(tx, stream, position)?;
    if before.is_none() {
        let begun = tx
            .rows(
                PENDING_SEGMENTS,
                stream.as_ref(),
                limits::PENDING_SEGMENTS_MAX,
            )?
            .len();
        if begun == limits::PENDING_SEGMENTS_MAX {
            let message = format!("the upload has {begun} segments begun, its most: commit some");
            return Err(Refusal::busy(message).into());
        }
    }
    if let Some(before) = before {
        let pieces = segment::issued_except(&before, &[]);
        queue(tx, segment::discard(&upload, &before, pieces, discard_ms))?;
    }
    let key = segment_key(stream, position);
    tx.put_message(PENDING_SEGMENTS, &key, &convert::pending_to(pending))
}

pub(super) fn change_segment(
    tx: &WriteTx<'_>,
    stream: StreamId,
    position: Position,
    decide: impl Fn(PendingSegmentRow) -> Result<PendingSegmentRow, Refusal>,
) -> StoreResult<()> {
    open_upload(tx, stream)?;
    let pending = query::pending_segment(tx, stream, position)?;
    let changed = decide(pending.ok_or_else(|| not_begun(position))?)?;
    let key = segment_key(stream, position);
    tx.put_message(PENDING_SEGMENTS, &key, &convert::pending_to(&changed))
}

pub(super) fn commit_segment(
    tx: &WriteTx<'_>,
    stream: StreamId,
    position: Position,
    commitment: [u8; 32],
    decide: impl Fn(
        &PendingObjectRow,
        &PendingSegmentRow,
    ) -> Result<(SegmentRow, Option<Discard>), Refusal>,
) -> StoreResult<()> {
    let upload = open_upload(tx, stream)?;
    let Some(pending) = query::pending_segment(tx, stream, position)? else {
        return repeated(tx, stream, position, commitment);
    };
    let (row, leftovers) = decide(&upload, &pending)?;
    let key = segment_key(stream, position);
    tx.remove(PENDING_SEGMENTS, &key)?;
    tx.put_message(SEGMENTS, &key, &convert::segment_to(&row))?;
    queue(tx, leftovers)
}

pub(super) fn inline_segment(
    tx: &WriteTx<'_>,
    stream: StreamId,
    segment: &SegmentRow,
    sealed: &[u8],
) -> StoreResult<()> {
    open_upload(tx, stream)?;
    let position = segment.position;
    if query::segment(tx, stream, position)?.is_some() {
        return repeated(tx, stream, position, segment.commitment);
    }
    if query::pending_segment(tx, stream, position)?.is_some() {
        let message = format!("segment {} was begun with pieces", describe(position));
        return Err(Refusal::new(Code::Conflict, message).into());
    }
    let key = segment_key(stream, position);
    tx.put_message(SEGMENTS, &key, &convert::segment_to(segment))?;
    tx.put(INLINE, &key, sealed)
}

pub(super) fn commit_object(
    tx: &WriteTx<'_>,
    stream: StreamId,
    content_hash: [u8; 32],
    now_ms: u64,
    decide: impl Fn(&PendingObjectRow, &[SegmentRow]) -> Result<ObjectRow, Refusal>,
) -> StoreResult<Committed> {
    let mut upload = query::upload(tx, stream)?.ok_or_else(no_upload)?;
    if let Some(committed) = upload.committed {
        if committed.content_hash != content_hash {
            let message = "the upload was committed with another header or length";
            return Err(Refusal::new(Code::Conflict, message).into());
        }
        return Ok(committed);
    }
    if query::bucket(tx, upload.project, &upload.bucket)?.is_none() {
        return Err(no_bucket(&upload.bucket).into());
    }
    let row = decide(&upload, &query::segments(tx, stream)?)?;
    let begun = query::pending_segments(tx, stream)?;
    let path = ObjectPath {
        project: upload.project,
        bucket: upload.bucket.clone(),
        encrypted_key: upload.encrypted_key.clone(),
    };
    // All is decided; from here on only the disk can fail.
    let has_replaced = delete_object(tx, &path, Some(now_ms))?;
    drop_begun(
        tx,
        stream,
        &upload,
        begun,
        now_ms + limits::LEFTOVER_DELAY_MS,
    )?;
    let key = object_key(&path);
    tx.put_message(OBJECTS, &key, &convert::object_to(&row))?;
    if row.expires_ms != 0 {
        tx.put(EXPIRIES, &expiry_key(row.expires_ms, &key), &[])?;
    }
    let committed = Committed {
        created_ms: row.created_ms,
        has_replaced,
        content_hash,
    };
    upload.committed = Some(committed);
    tx.put_message(
        PENDING_OBJECTS,
        stream.as_ref(),
        &convert::upload_to(&upload),
    )?;
    Ok(committed)
}

pub(super) fn drop_upload(
    tx: &WriteTx<'_>,
    stream: StreamId,
    discard_ms: u64,
) -> StoreResult<bool> {
    let Some(upload) = query::upload(tx, stream)? else {
        return Ok(false);
    };
    if upload.committed.is_none() {
        let begun = query::pending_segments(tx, stream)?;
        drop_begun(tx, stream, &upload, begun, discard_ms)?;
        drop_segments(tx, upload.project, stream, Some(discard_ms))?;
    }
    tx.remove(PENDING_OBJECTS, stream.as_ref())
}

/// `discard_ms`: when its pieces may be deleted; `None` if nodes drop them by themselves.
pub(super) fn delete_object(
    tx: &WriteTx<'_>,
    path: &ObjectPath,
    discard_ms: Option<u64>,
) -> StoreResult<bool> {
    let Some(row) = query::object(tx, path)? else {
        return Ok(false);
    };
    let key = object_key(path);
    drop_segments(tx, path.project, row.stream_id, discard_ms)?;
    if row.expires_ms != 0 {
        tx.remove(EXPIRIES, &expiry_key(row.expires_ms, &key))?;
    }
    tx.remove(OBJECTS, &key)
}

pub(super) fn drop_expired(tx: &WriteTx<'_>, now_ms: u64, count_max: usize) -> StoreResult<usize> {
    let mut expired = Vec::new();
    tx.scan(EXPIRIES, &[], Bound::Unbounded, &mut |key, _| {
        let (expires_ms, object) = key.split_first_chunk().ok_or_else(|| damaged(EXPIRIES))?;
        if u64::from_be_bytes(*expires_ms) > now_ms || expired.len() == count_max {
            return Ok(false);
        }
        expired.push(object_path_of(object).ok_or_else(|| damaged(EXPIRIES))?);
        Ok(true)
    })?;
    for path in &expired {
        delete_object(tx, path, None)?;
    }
    Ok(expired.len())
}

pub(super) fn put_node(tx: &WriteTx<'_>, node: &NodeRow) -> StoreResult<NodeNumber> {
    let known = tx.get(NODE_NUMBERS, node.id.as_ref())?;
    let number = match known {
        Some(bytes) => {
            let bytes = bytes.try_into().map_err(|_| damaged(NODE_NUMBERS))?;
            u32::from_le_bytes(bytes)
        }
        None => {
            if tx.count(NODES)? >= limits::NODES_MAX as u64 {
                let message = format!("the satellite has {} nodes, its most", limits::NODES_MAX);
                return Err(Refusal::new(Code::TooLarge, message).into());
            }
            // Numbers are never reused: nodes are never removed.
            let number = match tx.last_key(NODES)? {
                None => 1,
                Some(key) => {
                    let key = key.try_into().map_err(|_| damaged(NODES))?;
                    u32::from_be_bytes(key) + 1
                }
            };
            tx.put(NODE_NUMBERS, node.id.as_ref(), &number.to_le_bytes())?;
            number
        }
    };
    tx.put_message(NODES, &number.to_be_bytes(), &convert::node_to(node))?;
    Ok(NodeNumber(number))
}

pub(super) fn settle_discards(
    tx: &WriteTx<'_>,
    rows: &[(u64, Option<Discard>)],
) -> StoreResult<()> {
    for (sequence, row) in rows {
        let key = sequence.to_be_bytes();
        match row {
            None => drop(tx.remove(OUTBOX, &key)?),
            Some(row) => tx.put_message(OUTBOX, &key, &convert::discard_to(row))?,
        }
    }
    Ok(())
}

/// The upload, if segments may still be added to it.
fn open_upload(tx: &WriteTx<'_>, stream: StreamId) -> StoreResult<PendingObjectRow> {
    let upload = query::upload(tx, stream)?.filter(|upload| upload.committed.is_none());
    Ok(upload.ok_or_else(no_upload)?)
}

/// A request that was answered before, asked again: `Ok` if it is the same one.
fn repeated(
    tx: &WriteTx<'_>,
    stream: StreamId,
    position: Position,
    commitment: [u8; 32],
) -> StoreResult<()> {
    match query::segment(tx, stream, position)? {
        Some(segment) if segment.commitment == commitment => Ok(()),
        Some(_) => Err(committed_already(position).into()),
        None => Err(not_begun(position).into()),
    }
}

/// Drops segments that were begun and not committed; all their pieces may be stored.
fn drop_begun(
    tx: &WriteTx<'_>,
    stream: StreamId,
    upload: &PendingObjectRow,
    begun: Vec<(Position, PendingSegmentRow)>,
    discard_ms: u64,
) -> StoreResult<()> {
    for (position, pending) in begun {
        let pieces = segment::issued_except(&pending, &[]);
        queue(tx, segment::discard(upload, &pending, pieces, discard_ms))?;
        tx.remove(PENDING_SEGMENTS, &segment_key(stream, position))?;
    }
    Ok(())
}

fn drop_segments(
    tx: &WriteTx<'_>,
    project: ProjectId,
    stream: StreamId,
    discard_ms: Option<u64>,
) -> StoreResult<()> {
    loop {
        // One read gives all segments of an object, but perhaps not of an upload gone astray.
        let segments = query::segments(tx, stream)?;
        if segments.is_empty() {
            return Ok(());
        }
        for segment in segments {
            if let Some(discard_ms) = discard_ms {
                queue(tx, object::discard(project, &segment, discard_ms))?;
            }
            let key = segment_key(stream, segment.position);
            if segment.pieces.is_none() {
                tx.remove(INLINE, &key)?;
            }
            tx.remove(SEGMENTS, &key)?;
        }
    }
}

fn queue(tx: &WriteTx<'_>, discard: Option<Discard>) -> StoreResult<()> {
    let Some(discard) = discard else {
        return Ok(());
    };
    let sequence = match tx.last_key(OUTBOX)? {
        None => 1,
        Some(key) => {
            let key = key.try_into().map_err(|_| damaged(OUTBOX))?;
            u64::from_be_bytes(key) + 1
        }
    };
    tx.put_message(
        OUTBOX,
        &sequence.to_be_bytes(),
        &convert::discard_to(&discard),
    )
}

fn no_bucket(name: &str) -> Refusal {
    Refusal::not_found(format!("no bucket {name}"))
}

fn no_upload() -> Refusal {
    Refusal::not_found("no such upload: it was committed, aborted, or is too old")
}

fn not_begun(position: Position) -> Refusal {
    Refusal::not_found(format!("segment {} was not begun", describe(position)))
}

fn committed_already(position: Position) -> Refusal {
    let message = format!("segment {} is committed already", describe(position));
    Refusal::new(Code::Conflict, message)
}

fn describe(position: Position) -> String {
    format!(
        "{} of part {}",
        position.segment_index, position.part_number
    )
}
