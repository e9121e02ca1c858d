//! The delete queue: asks nodes to drop pieces that no segment has any more.
//!
//! Best effort. A row is tried [`DISCARD_TRIES_MAX`](limits::DISCARD_TRIES_MAX) times with
//! growing pauses, then forgotten: garbage collection at the nodes is the truth. A round takes a
//! bounded number of rows, talks to a bounded number of nodes at once over one connection each,
//! and then settles all of its rows in one command.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use strand_codec::Shape;
use strand_protocol::{Code, LimitAction, Serial, limits as shared, pb};
use strand_transport::{Connection, NODE_ALPN};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::clock;
use crate::core::order::Issuer;
use crate::core::row::{Discard, NodeNumber};
use crate::limits;
use crate::state::Satellite;
use crate::store::{MetaStore, StoreError};

/// A piece in a round: which of the round's rows, and the piece's index in its segment.
type Piece = (usize, u8);

/// Works the queue until the task is aborted.
pub(crate) async fn run<S: MetaStore>(satellite: Arc<Satellite<S>>) {
    let mut from = 0;
    loop {
        match round(&satellite, from).await {
            // Rows are left behind the ones just taken.
            Ok(next) if next != 0 => from = next,
            Ok(_) => {
                from = 0;
                tokio::time::sleep(limits::DISCARD_INTERVAL).await;
            }
            Err(error) => {
                tracing::warn!(%error, "the delete queue cannot be read");
                tokio::time::sleep(limits::DISCARD_INTERVAL).await;
            }
        }
    }
}

/// One round from a row on. Returns where the next one begins, 0 for the start.
pub(crate) async fn round<S: MetaStore>(
    satellite: &Arc<Satellite<S>>,
    from: u64,
) -> Result<u64, StoreError> {
    let now_ms = clock::now_ms();
    let (rows, next) = satellite
        .store
        .due_discards(now_ms, from, limits::DISCARDS_PER_ROUND)
        .await?;
    if rows.is_empty() {
        return Ok(next);
    }
    let mut by_node: BTreeMap<NodeNumber, Vec<Piece>> = BTreeMap::new();
    for (at, (_, row)) in rows.iter().enumerate() {
        for piece in &row.pieces {
            by_node
                .entry(piece.node)
                .or_default()
                .push((at, piece.index));
        }
    }
    let rows = Arc::new(rows);
    let turns = Arc::new(Semaphore::new(limits::DISCARD_NODES_MAX));
    let mut tasks = JoinSet::new();
    for (node, pieces) in by_node {
        let (satellite, rows, turns) = (satellite.clone(), rows.clone(), turns.clone());
        tasks.spawn(async move {
            let _turn = turns.acquire().await;
            let dropped = drop_at_node(&satellite, node, &rows, pieces, now_ms).await;
            (node, dropped)
        });
    }
    let mut dropped = BTreeSet::new();
    while let Some(done) = tasks.join_next().await {
        if let Ok((node, pieces)) = done {
            dropped.extend(pieces.into_iter().map(|piece| (node, piece)));
        }
    }
    let settled = rows.iter().enumerate().map(|(at, (sequence, row))| {
        let is_left = |node, index| !dropped.contains(&(node, (at, index)));
        (*sequence, remaining(row, is_left, now_ms))
    });
    satellite.store.settle_discards(settled.collect()).await?;
    Ok(next)
}

/// What is left of a row; `None` if nothing, or if it was tried often enough.
fn remaining(
    row: &Discard,
    is_left: impl Fn(NodeNumber, u8) -> bool,
    now_ms: u64,
) -> Option<Discard> {
    let mut row = row.clone();
    row.pieces.retain(|piece| is_left(piece.node, piece.index));
    row.try_count += 1;
    if row.pieces.is_empty() || row.try_count >= limits::DISCARD_TRIES_MAX {
        return None;
    }
    let pause_ms = limits::DISCARD_BACKOFF_MIN_MS << (row.try_count - 1);
    row.not_before_ms = now_ms + pause_ms.min(limits::DISCARD_BACKOFF_MAX_MS);
    Some(row)
}

/// Deletes pieces at one node; returns those that are gone.
async fn drop_at_node<S: MetaStore>(
    satellite: &Satellite<S>,
    node: NodeNumber,
    rows: &[(u64, Discard)],
    pieces: Vec<Piece>,
    now_ms: u64,
) -> Vec<Piece> {
    let Some((id, address)) = satellite.nodes.locate(node) else {
        return pieces;
    };
    let dialled = satellite.dialer.dial(id, &address, NODE_ALPN).await;
    let connection = match dialled {
        Ok(connection) => connection,
        Err(error) => {
            tracing::debug!(node = %id, %error, "deletes must wait");
            return Vec::new();
        }
    };
    let mut random = clock::random_source();
    let mut tasks = JoinSet::new();
    let mut gone = Vec::new();
    for piece in pieces {
        let (at, index) = piece;
        let row = &rows[at].1;
        let Ok(shape) = Shape::new(row.required, row.total, row.sealed_len) else {
            // No node can hold a piece of no shape.
            gone.push(piece);
            continue;
        };
        let issuer = Issuer {
            keys: &satellite.keys,
            satellite: satellite.id,
            project: row.project,
            client: satellite.id,
            shape,
            secret: &row.secret,
            piece_expiry_ms: 0,
            now_ms,
        };
        let mut serial = [0; 16];
        random(&mut serial);
        let limit = issuer.limit(LimitAction::Delete, id, index, Serial::from(serial));
        if tasks.len() == limits::DISCARDS_PER_NODE_MAX {
            collect(tasks.join_next().await, &mut gone);
        }
        let connection = connection.clone();
        tasks.spawn(async move { delete(&connection, limit).await.then_some(piece) });
    }
    while let Some(done) = tasks.join_next().await {
        collect(Some(done), &mut gone);
    }
    connection.close(Code::Ok);
    gone
}

fn collect(done: Option<Result<Option<Piece>, tokio::task::JoinError>>, gone: &mut Vec<Piece>) {
    if let Some(Ok(Some(piece))) = done {
        gone.push(piece);
    }
}

/// Whether the node no longer has the piece.
async fn delete(connection: &Connection, limit: Vec<u8>) -> bool {
    let verb = pb::node_request::Verb::Delete(pb::DeleteRequest { limit });
    let request = pb::NodeRequest { verb: Some(verb) };
    let answer = connection
        .call::<pb::NodeResponse>(
            &request,
            shared::NODE_FRAME_BYTES_MAX,
            shared::NODE_REQUEST_TIMEOUT,
        )
        .await;
    match answer {
        Ok(answer) => matches!(answer.answer, Some(pb::node_response::Answer::Deleted(_))),
        Err(error) => error.code() == Code::NotFound,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::row::Placement;

    fn row(count: u8) -> Discard {
        let piece = |index: u8| Placement {
            index,
            node: NodeNumber(index.into()),
        };
        Discard {
            project: [1; 16].into(),
            secret: [2; 32],
            required: 4,
            total: 10,
            sealed_len: 100_112,
            pieces: (0..count).map(piece).collect(),
            try_count: 0,
            not_before_ms: 0,
        }
    }

    #[test]
    fn what_failed_is_tried_again_with_growing_pauses_and_then_forgotten() {
        let mut left = row(3);
        let mut pauses = Vec::new();
        while let Some(next) = remaining(&left, |_, index| index > 0, 1_000) {
            assert_eq!(next.pieces.len(), 2);
            pauses.push((next.not_before_ms - 1_000) / 60_000);
            left = next;
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60]);
        assert_eq!(remaining(&row(3), |_, _| false, 1_000), None);
    }
}
