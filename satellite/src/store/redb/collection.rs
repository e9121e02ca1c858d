//! What garbage collection reads and writes.

use std::collections::BTreeMap;
use std::ops::Bound;

use strand_protocol::{PieceId, Position, StreamId};

use super::table::{
    COLLECTIONS, FILTERS, LOST, META, PENDING_OBJECTS, REVIVED, ReadTx, Rows, SEGMENTS, Table,
    WriteTx, damaged, decode, filter_key, node_key, report_key, report_of, segment_key,
    segment_place_of,
};
use super::{LAST_RUN_KEY, RedbStore, query};
use crate::core::row::{CollectionRow, CollectionRun, LostPlacement, NodeNumber, Reported};
use crate::limits;
use crate::store::{
    CollectionStore, Filter, LeftOfSegment, Reports, SegmentPage, StoreResult, Taken, convert, pb,
};

impl CollectionStore for RedbStore {
    async fn oldest_open_upload(&self) -> StoreResult<Option<u64>> {
        self.read(oldest_open_upload).await
    }

    async fn segments_after(
        &self,
        after: Option<(StreamId, Position)>,
        count_max: usize,
    ) -> StoreResult<SegmentPage> {
        self.read(move |tx| segments_after(tx, after, count_max))
            .await
    }

    async fn put_filters(&self, filters: Vec<Filter>) -> StoreResult<()> {
        self.write(move |tx| {
            for filter in &filters {
                let key = filter_key(filter.node, filter.run, filter.part);
                tx.put(FILTERS, &key, &filter.bytes)?;
            }
            Ok(())
        })
        .await
    }

    async fn announce(&self, rows: Vec<(NodeNumber, CollectionRow)>) -> StoreResult<()> {
        self.write(move |tx| {
            rows.iter()
                .try_for_each(|(node, row)| announce(tx, *node, row))
        })
        .await
    }

    async fn collection(&self, node: NodeNumber) -> StoreResult<Option<CollectionRow>> {
        self.read(move |tx| collection(tx, node)).await
    }

    async fn collections(&self) -> StoreResult<Vec<(NodeNumber, CollectionRow)>> {
        self.read(|tx| {
            let parse = |(key, value): (Vec<u8>, Vec<u8>)| {
                let number = <[u8; 4]>::try_from(key).map_err(|_| damaged(COLLECTIONS))?;
                let row = convert::collection_of(decode(COLLECTIONS, &value)?);
                Ok((NodeNumber(u32::from_be_bytes(number)), row))
            };
            let rows = tx.rows(COLLECTIONS, &[], limits::NODES_MAX)?;
            rows.into_iter().map(parse).collect()
        })
        .await
    }

    async fn filter(&self, node: NodeNumber, run: u64, part: u32) -> StoreResult<Option<Vec<u8>>> {
        self.read(move |tx| {
            // Filters that were not announced, or no longer are, do not count.
            match collection(tx, node)? {
                Some(row) if row.run == run => tx.get(FILTERS, &filter_key(node, run, part)),
                _ => Ok(None),
            }
        })
        .await
    }

    async fn take_reports(
        &self,
        node: NodeNumber,
        reports: Reports,
        now_ms: u64,
    ) -> StoreResult<Taken> {
        self.write(move |tx| take_reports(tx, node, &reports, now_ms))
            .await
    }

    async fn lost_pieces(&self) -> StoreResult<Vec<Reported>> {
        self.read(|tx| reported(tx, LOST, limits::REPORTS_MAX))
            .await
    }

    async fn settle_lost(&self, lost: Vec<LostPlacement>) -> StoreResult<Vec<LeftOfSegment>> {
        self.write(move |tx| settle_lost(tx, &lost)).await
    }

    async fn drop_reports(
        &self,
        lost: Vec<(NodeNumber, PieceId)>,
        revived_before_ms: u64,
    ) -> StoreResult<()> {
        self.write(move |tx| {
            let revived = reported(tx, REVIVED, limits::REPORTS_MAX)?;
            for (node, piece) in lost {
                tx.remove(LOST, &report_key(node, piece))?;
            }
            let is_old = |report: &&Reported| report.reported_ms < revived_before_ms;
            for old in revived.iter().filter(is_old) {
                tx.remove(REVIVED, &report_key(old.node, old.piece))?;
            }
            Ok(())
        })
        .await
    }

    async fn last_run(&self) -> StoreResult<Option<CollectionRun>> {
        self.read(|tx| Ok(tx.message(META, LAST_RUN_KEY)?.map(convert::run_of)))
            .await
    }

    async fn put_run(&self, run: CollectionRun) -> StoreResult<()> {
        self.write(move |tx| tx.put_message(META, LAST_RUN_KEY, &convert::run_to(&run)))
            .await
    }
}

fn oldest_open_upload(tx: &ReadTx) -> StoreResult<Option<u64>> {
    let mut oldest: Option<u64> = None;
    tx.scan(PENDING_OBJECTS, &[], Bound::Unbounded, &mut |_, value| {
        let row: pb::PendingObject = decode(PENDING_OBJECTS, value)?;
        if row.committed_ms == 0 {
            oldest = Some(oldest.map_or(row.created_ms, |oldest| oldest.min(row.created_ms)));
        }
        Ok(true)
    })?;
    Ok(oldest)
}

fn segments_after(
    tx: &ReadTx,
    after: Option<(StreamId, Position)>,
    count_max: usize,
) -> StoreResult<SegmentPage> {
    let (mut found, mut last) = (Vec::new(), None);
    let after = after.map(|(stream, position)| segment_key(stream, position));
    let lower = after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
    tx.scan(SEGMENTS, &[], lower, &mut |key, value| {
        let place = segment_place_of(key).ok_or_else(|| damaged(SEGMENTS))?;
        found.push((place.0, query::parse_segment(key, value)?));
        last = Some(place);
        Ok(found.len() < count_max)
    })?;
    // Fewer rows than asked for: the end was reached.
    let next = last.filter(|_| found.len() == count_max);
    Ok((found, next))
}

fn collection(tx: &impl Rows, node: NodeNumber) -> StoreResult<Option<CollectionRow>> {
    let row = tx.message(COLLECTIONS, &node_key(node))?;
    Ok(row.map(convert::collection_of))
}

fn announce(tx: &WriteTx<'_>, node: NodeNumber, row: &CollectionRow) -> StoreResult<()> {
    let outcome = collection(tx, node)?.and_then(|before| before.outcome);
    let mut old = Vec::new();
    let prefix = node_key(node);
    tx.scan(FILTERS, &prefix, Bound::Included(&prefix), &mut |key, _| {
        if key[4..12] != row.run.to_be_bytes() {
            old.push(key.to_vec());
        }
        Ok(true)
    })?;
    for key in old {
        tx.remove(FILTERS, &key)?;
    }
    let row = CollectionRow {
        outcome,
        ..row.clone()
    };
    tx.put_message(COLLECTIONS, &node_key(node), &convert::collection_to(&row))
}

fn take_reports(
    tx: &WriteTx<'_>,
    node: NodeNumber,
    reports: &Reports,
    now_ms: u64,
) -> StoreResult<Taken> {
    let (lost, new_lost) = take(tx, LOST, node, &reports.lost, now_ms)?;
    let (revived, new_revived) = take(tx, REVIVED, node, &reports.revived, now_ms)?;
    if let Some(outcome) = reports.outcome {
        let mut row = collection(tx, node)?.unwrap_or_default();
        row.outcome = Some(outcome);
        tx.put_message(COLLECTIONS, &node_key(node), &convert::collection_to(&row))?;
    }
    Ok(Taken {
        lost,
        revived,
        new_lost,
        new_revived,
    })
}

/// Puts reports as far as there is room: how many of the first ones are remembered now, and which
/// of them were not before.
fn take(
    tx: &WriteTx<'_>,
    table: Table,
    node: NodeNumber,
    pieces: &[PieceId],
    now_ms: u64,
) -> StoreResult<(usize, Vec<PieceId>)> {
    if pieces.is_empty() {
        return Ok((0, Vec::new()));
    }
    let of_node = tx.rows(table, &node_key(node), limits::REPORTS_PER_NODE_MAX)?;
    let room_of_node = limits::REPORTS_PER_NODE_MAX - of_node.len();
    let room = limits::REPORTS_MAX.saturating_sub(tx.count(table)? as usize);
    let room = room.min(room_of_node);
    let mut new = Vec::new();
    for (at, piece) in pieces.iter().enumerate() {
        let key = report_key(node, *piece);
        if tx.get(table, &key)?.is_some() {
            continue;
        }
        if new.len() == room {
            return Ok((at, new));
        }
        tx.put(table, &key, &now_ms.to_le_bytes())?;
        new.push(*piece);
    }
    Ok((pieces.len(), new))
}

fn reported(tx: &impl Rows, table: Table, count_max: usize) -> StoreResult<Vec<Reported>> {
    let parse = |(key, value): (Vec<u8>, Vec<u8>)| {
        let (node, piece) = report_of(&key)?;
        let reported_ms = u64::from_le_bytes(value.try_into().ok()?);
        Some(Reported {
            node,
            piece,
            reported_ms,
        })
    };
    let rows = tx.rows(table, &[], count_max)?;
    rows.into_iter()
        .map(|row| parse(row).ok_or_else(|| damaged(table)))
        .collect()
}

fn settle_lost(tx: &WriteTx<'_>, lost: &[LostPlacement]) -> StoreResult<Vec<LeftOfSegment>> {
    let mut by_segment: BTreeMap<_, Vec<&LostPlacement>> = BTreeMap::new();
    for one in lost {
        let place = (one.stream, u64::from(one.position));
        by_segment.entry(place).or_default().push(one);
    }
    let mut left = Vec::new();
    for ((stream, position), lost) in by_segment {
        let position = Position::from(position);
        // Gone since: so is the question.
        if let Some(mut segment) = query::segment(tx, stream, position)?
            && let Some(pieces) = &mut segment.pieces
        {
            let before = pieces.placements.clone();
            let is_lost = |placement| lost.iter().any(|one| one.placement == placement);
            pieces.placements.retain(|placement| !is_lost(*placement));
            let healthy_count = pieces.placements.len();
            if pieces.placements.is_empty() {
                pieces.placements.extend(before.first());
            }
            left.push(LeftOfSegment {
                stream,
                position,
                scheme: pieces.scheme,
                taken_count: before.len() - healthy_count,
                healthy_count,
            });
            let key = segment_key(stream, position);
            tx.put_message(SEGMENTS, &key, &convert::segment_to(&segment))?;
        }
        for one in lost {
            tx.remove(LOST, &report_key(one.placement.node, one.piece))?;
        }
    }
    Ok(left)
}
