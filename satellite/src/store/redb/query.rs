//! Reading rows, in snapshots and in the writer's transaction alike.

use std::ops::Bound;

use strand_protocol::{Position, ProjectId, StreamId, limits as shared};

use super::table::{
    BUCKETS, INLINE, LOST, NODES, OBJECTS, OUTBOX, PENDING_OBJECTS, PENDING_SEGMENTS, PROJECTS,
    REVIVED, ReadTx, Rows, SEGMENTS, bucket_key, bucket_prefix, damaged, decode, encrypted_key_of,
    object_key, position_of, segment_key,
};
use crate::core::list::{ListQuery, Start, Step};
use crate::core::refusal::Refusal;
use crate::core::row::{
    BucketRow, Discard, NodeNumber, NodeRow, ObjectRow, PendingObjectRow, PendingSegmentRow,
    ProjectRow, SegmentRow,
};
use crate::limits;
use crate::store::{Counts, Entry, ObjectPath, Page, StoreResult, convert};

pub(super) fn project(tx: &impl Rows, id: ProjectId) -> StoreResult<Option<ProjectRow>> {
    let row = tx.message(PROJECTS, id.as_ref())?;
    row.map(|row| convert::project_of(id, row).ok_or_else(|| damaged(PROJECTS)))
        .transpose()
}

pub(super) fn bucket(
    tx: &impl Rows,
    project: ProjectId,
    name: &str,
) -> StoreResult<Option<BucketRow>> {
    let row = tx.message(BUCKETS, &bucket_key(project, name))?;
    row.map(|row| convert::bucket_of(name.as_bytes(), row).ok_or_else(|| damaged(BUCKETS)))
        .transpose()
}

pub(super) fn buckets(tx: &impl Rows, project: ProjectId) -> StoreResult<Vec<BucketRow>> {
    let rows = tx.rows(BUCKETS, project.as_ref(), limits::BUCKETS_MAX)?;
    let parse = |(key, value): (Vec<u8>, Vec<u8>)| {
        let name = key.strip_prefix(project.as_ref());
        name.and_then(|name| convert::bucket_of(name, decode(BUCKETS, &value).ok()?))
            .ok_or_else(|| damaged(BUCKETS))
    };
    rows.into_iter().map(parse).collect()
}

pub(super) fn upload(tx: &impl Rows, stream: StreamId) -> StoreResult<Option<PendingObjectRow>> {
    let row = tx.message(PENDING_OBJECTS, stream.as_ref())?;
    row.map(|row| convert::upload_of(row).ok_or_else(|| damaged(PENDING_OBJECTS)))
        .transpose()
}

pub(super) fn pending_segment(
    tx: &impl Rows,
    stream: StreamId,
    position: Position,
) -> StoreResult<Option<PendingSegmentRow>> {
    let row = tx.message(PENDING_SEGMENTS, &segment_key(stream, position))?;
    row.map(|row| convert::pending_of(row).ok_or_else(|| damaged(PENDING_SEGMENTS)))
        .transpose()
}

/// All that are begun and not committed: at most [`limits::PENDING_SEGMENTS_MAX`].
pub(super) fn pending_segments(
    tx: &impl Rows,
    stream: StreamId,
) -> StoreResult<Vec<(Position, PendingSegmentRow)>> {
    let rows = tx.rows(
        PENDING_SEGMENTS,
        stream.as_ref(),
        limits::PENDING_SEGMENTS_MAX,
    )?;
    let parse = |(key, value): (Vec<u8>, Vec<u8>)| {
        let row = convert::pending_of(decode(PENDING_SEGMENTS, &value)?);
        position_of(&key)
            .zip(row)
            .ok_or_else(|| damaged(PENDING_SEGMENTS))
    };
    rows.into_iter().map(parse).collect()
}

pub(super) fn uploads_before(
    tx: &ReadTx,
    created_ms: u64,
    after: Option<StreamId>,
    count_max: usize,
) -> StoreResult<(Vec<StreamId>, Option<StreamId>)> {
    let (mut found, mut last, mut seen) = (Vec::new(), None, 0);
    let after = after.map(<[u8; 16]>::from);
    let lower = after
        .as_ref()
        .map_or(Bound::Unbounded, |after| Bound::Excluded(&after[..]));
    tx.scan(PENDING_OBJECTS, &[], lower, &mut |key, value| {
        let stream = StreamId::try_from(key).map_err(|_| damaged(PENDING_OBJECTS))?;
        let row: crate::store::pb::PendingObject = decode(PENDING_OBJECTS, value)?;
        if row.created_ms < created_ms {
            found.push(stream);
        }
        last = Some(stream);
        seen += 1;
        Ok(seen < count_max)
    })?;
    // Fewer rows than asked for: the end was reached.
    Ok((found, last.filter(|_| seen == count_max)))
}

pub(super) fn object(tx: &impl Rows, path: &ObjectPath) -> StoreResult<Option<ObjectRow>> {
    let row = tx.message(OBJECTS, &object_key(path))?;
    row.map(|row| convert::object_of(row).ok_or_else(|| damaged(OBJECTS)))
        .transpose()
}

/// All committed segments of a stream, and no more of them than any object may have but one.
pub(super) fn segments(tx: &impl Rows, stream: StreamId) -> StoreResult<Vec<SegmentRow>> {
    let rows = tx.rows(SEGMENTS, stream.as_ref(), shared::OBJECT_SEGMENTS_MAX + 1)?;
    rows.into_iter()
        .map(|(key, value)| parse_segment(&key, &value))
        .collect()
}

pub(super) fn segment(
    tx: &impl Rows,
    stream: StreamId,
    position: Position,
) -> StoreResult<Option<SegmentRow>> {
    let key = segment_key(stream, position);
    tx.get(SEGMENTS, &key)?
        .map(|value| parse_segment(&key, &value))
        .transpose()
}

pub(super) fn segments_with_inline(
    tx: &ReadTx,
    stream: StreamId,
    inline_bytes_max: usize,
) -> StoreResult<Vec<(SegmentRow, Option<Vec<u8>>)>> {
    let mut left = inline_bytes_max;
    let with_inline = |segment: SegmentRow| {
        if segment.pieces.is_some() || segment.sealed_len > left as u64 {
            return Ok((segment, None));
        }
        let sealed = inline(tx, stream, segment.position)?;
        left = left.saturating_sub(sealed.len());
        Ok((segment, Some(sealed)))
    };
    segments(tx, stream)?.into_iter().map(with_inline).collect()
}

pub(super) fn segment_with_inline(
    tx: &ReadTx,
    stream: StreamId,
    position: Position,
) -> StoreResult<Option<(SegmentRow, Option<Vec<u8>>)>> {
    let Some(segment) = segment(tx, stream, position)? else {
        return Ok(None);
    };
    let sealed = match segment.pieces {
        Some(_) => None,
        None => Some(inline(tx, stream, position)?),
    };
    Ok(Some((segment, sealed)))
}

fn inline(tx: &impl Rows, stream: StreamId, position: Position) -> StoreResult<Vec<u8>> {
    tx.get(INLINE, &segment_key(stream, position))?
        .ok_or_else(|| damaged(INLINE))
}

pub(super) fn parse_segment(key: &[u8], value: &[u8]) -> StoreResult<SegmentRow> {
    position_of(key)
        .and_then(|position| convert::segment_of(position, decode(SEGMENTS, value).ok()?))
        .ok_or_else(|| damaged(SEGMENTS))
}

pub(super) fn list(
    tx: &ReadTx,
    project: ProjectId,
    bucket: &str,
    query: &ListQuery,
) -> StoreResult<Page> {
    let bucket_prefix = bucket_prefix(project, bucket);
    let prefix = [&bucket_prefix[..], &query.prefix].concat();
    let mut builder = PageBuilder {
        query,
        page: Page::default(),
        bytes: 0,
        last: Vec::new(),
    };
    let mut start = query.start();
    let mut seen = 0;
    loop {
        let lower = match &start {
            Start::At(key) => [&bucket_prefix[..], key].concat(),
            Start::After(key) => [&bucket_prefix[..], key, &super::table::VERSION_0].concat(),
            Start::End => return Ok(builder.page),
        };
        let lower = match &start {
            Start::After(_) => Bound::Excluded(&lower[..]),
            _ => Bound::Included(&lower[..]),
        };
        let mut next = Start::End;
        let mut is_full = false;
        tx.scan(OBJECTS, &prefix, lower, &mut |key, value| {
            seen += 1;
            if seen > limits::LIST_ROWS_MAX {
                return Err(Refusal::busy("too many expired objects are in the way").into());
            }
            let key = encrypted_key_of(key, &bucket_prefix).ok_or_else(|| damaged(OBJECTS))?;
            let row =
                || convert::object_of(decode(OBJECTS, value)?).ok_or_else(|| damaged(OBJECTS));
            match builder.offer(key, row)? {
                Offered::Taken => Ok(true),
                Offered::Folded(start) => {
                    next = start;
                    Ok(false)
                }
                Offered::Full => {
                    is_full = true;
                    Ok(false)
                }
            }
        })?;
        if is_full {
            builder.page.has_more = true;
            return Ok(builder.page);
        }
        start = next;
    }
}

struct PageBuilder<'a> {
    query: &'a ListQuery,
    page: Page,
    bytes: usize,
    /// The bytes of the last entry.
    last: Vec<u8>,
}

enum Offered {
    Taken,
    /// Folded: read on from there.
    Folded(Start),
    /// The page takes no more.
    Full,
}

impl PageBuilder<'_> {
    fn offer(
        &mut self,
        key: &[u8],
        row: impl FnOnce() -> StoreResult<ObjectRow>,
    ) -> StoreResult<Offered> {
        let step = self.query.step(key);
        if step == Step::Skip {
            return Ok(Offered::Taken);
        }
        let row = row()?;
        if row.is_expired(self.query.now_ms) {
            return Ok(Offered::Taken);
        }
        let is_full = self.page.entries.len() >= self.query.entry_count_max
            || self.bytes >= shared::LIST_BYTES_MAX;
        if is_full && !self.query.must_share_page(&self.last, key) {
            return Ok(Offered::Full);
        }
        match step {
            Step::Prefix(prefix, next) => {
                self.bytes += prefix.len() + ENTRY_OVERHEAD_BYTES;
                self.last.clone_from(&prefix);
                self.page.entries.push(Entry::Prefix(prefix));
                Ok(Offered::Folded(next))
            }
            _ => {
                self.bytes += key.len() + row.sealed_header.len() + ENTRY_OVERHEAD_BYTES;
                self.last = key.to_vec();
                self.page.entries.push(Entry::Object(key.to_vec(), row));
                Ok(Offered::Taken)
            }
        }
    }
}

/// An entry's tags, lengths and numbers in the answer, rounded up.
const ENTRY_OVERHEAD_BYTES: usize = 96;

pub(super) fn nodes(tx: &ReadTx) -> StoreResult<Vec<(NodeNumber, NodeRow)>> {
    let parse = |(key, value): (Vec<u8>, Vec<u8>)| {
        let number = <[u8; 4]>::try_from(key.as_slice()).ok();
        let row = convert::node_of(decode(NODES, &value)?);
        let number = number.map(|number| NodeNumber(u32::from_be_bytes(number)));
        number.zip(row).ok_or_else(|| damaged(NODES))
    };
    tx.rows(NODES, &[], limits::NODES_MAX)?
        .into_iter()
        .map(parse)
        .collect()
}

pub(super) fn due_discards(
    tx: &ReadTx,
    now_ms: u64,
    from: u64,
    count_max: usize,
) -> StoreResult<(Vec<(u64, Discard)>, u64)> {
    let (mut found, mut seen, mut next) = (Vec::new(), 0, 0);
    let lower = from.to_be_bytes();
    tx.scan(OUTBOX, &[], Bound::Included(&lower), &mut |key, value| {
        let sequence = key
            .try_into()
            .map(u64::from_be_bytes)
            .map_err(|_| damaged(OUTBOX))?;
        if found.len() == count_max || seen == limits::DISCARDS_SCANNED_MAX {
            next = sequence;
            return Ok(false);
        }
        seen += 1;
        let row = convert::discard_of(decode(OUTBOX, value)?).ok_or_else(|| damaged(OUTBOX))?;
        if row.not_before_ms <= now_ms {
            found.push((sequence, row));
        }
        Ok(true)
    })?;
    Ok((found, next))
}

pub(super) fn counts(tx: &ReadTx) -> StoreResult<Counts> {
    Ok(Counts {
        projects: tx.count(PROJECTS)?,
        buckets: tx.count(BUCKETS)?,
        objects: tx.count(OBJECTS)?,
        segments: tx.count(SEGMENTS)?,
        uploads: tx.count(PENDING_OBJECTS)?,
        discards: tx.count(OUTBOX)?,
        lost: tx.count(LOST)?,
        revived: tx.count(REVIVED)?,
    })
}
