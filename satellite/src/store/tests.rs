//! What every backend must do. Each test runs on a new store; a backend is added in `stores`.

mod collection;
mod upload;

use std::path::Path;

use strand_protocol::{Code, Names, Position, ProjectId, Scheme, StreamId};

use super::*;
use crate::core::address::Domain;
use crate::core::object::{self, ObjectOffer};
use crate::core::row::{Issued, MacaroonSecret, Pieces, Placement};
use crate::core::segment;
use crate::limits;

const CHECK: [u8; 32] = [9; 32];

fn open(dir: &Path, create: bool) -> RedbStore {
    RedbStore::open(&dir.join("meta.redb"), &CHECK, create).unwrap()
}

fn store() -> (tempfile::TempDir, RedbStore) {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), true);
    (dir, store)
}

fn project_id() -> ProjectId {
    [1; 16].into()
}

fn project() -> ProjectRow {
    ProjectRow {
        id: project_id(),
        name: "photos".to_owned(),
        salt: [2; 32],
        secrets: vec![MacaroonSecret {
            key_id: [3; 16],
            secret: [4; 32],
        }],
        check_value: Vec::new(),
        created_ms: 5,
    }
}

fn bucket() -> BucketRow {
    BucketRow {
        name: "bucket".to_owned(),
        names: Names::Plain,
        created_ms: 6,
    }
}

fn path(key: &str) -> ObjectPath {
    ObjectPath {
        project: project_id(),
        bucket: "bucket".to_owned(),
        encrypted_key: key.as_bytes().to_vec(),
    }
}

fn upload(key: &str) -> PendingObjectRow {
    PendingObjectRow {
        project: project_id(),
        bucket: "bucket".to_owned(),
        encrypted_key: key.as_bytes().to_vec(),
        scheme: Scheme::new(4, 6, 8, 10).unwrap(),
        created_ms: 100,
        expires_ms: 0,
        committed: None,
    }
}

fn position(segment_index: u32) -> Position {
    Position {
        part_number: 1,
        segment_index,
    }
}

fn pending() -> PendingSegmentRow {
    let issued = |index: u8| Issued {
        index,
        node: NodeNumber(u32::from(index) + 1),
        serial: [index; 16].into(),
        is_replaced: false,
    };
    PendingSegmentRow {
        secret: [7; 32],
        sealed_len: strand_codec::sealed_len(100_000),
        issued: (0..10).map(issued).collect(),
    }
}

fn segment_row(segment_index: u32, commitment: u8) -> SegmentRow {
    let placement = |index: u8| Placement {
        index,
        node: NodeNumber(u32::from(index) + 1),
    };
    let pieces = Pieces {
        scheme: Scheme::new(4, 6, 8, 10).unwrap(),
        secret: [7; 32],
        placements: (0..8).map(placement).collect(),
    };
    SegmentRow {
        position: position(segment_index),
        plain_len: 100_000,
        sealed_len: strand_codec::sealed_len(100_000),
        salt: [1; 24],
        key_commitment: [2; 32],
        commitment: [commitment; 32],
        pieces: Some(pieces),
    }
}

fn inline_row(segment_index: u32, plain_len: u64) -> SegmentRow {
    SegmentRow {
        plain_len,
        sealed_len: strand_codec::sealed_len(plain_len),
        pieces: None,
        ..segment_row(segment_index, 3)
    }
}

fn code<T: std::fmt::Debug>(result: StoreResult<T>) -> Code {
    match result.unwrap_err() {
        StoreError::Refused(refusal) => refusal.code,
        other => panic!("{other}"),
    }
}

async fn with_bucket() -> (tempfile::TempDir, RedbStore) {
    let (dir, store) = store();
    store.create_project(project()).await.unwrap();
    store.create_bucket(project_id(), bucket()).await.unwrap();
    (dir, store)
}

/// Uploads an object of one inline segment and returns how its commit went.
async fn put_inline(store: &RedbStore, stream: u8, upload: PendingObjectRow) -> Committed {
    let stream = StreamId::from([stream; 16]);
    store.begin_object(stream, upload).await.unwrap();
    store
        .inline_segment(stream, inline_row(0, 1), vec![8; 17])
        .await
        .unwrap();
    commit(store, stream, 1, 1_000).await.unwrap()
}

async fn commit(
    store: &RedbStore,
    stream_id: StreamId,
    plain_len: u64,
    now_ms: u64,
) -> StoreResult<Committed> {
    commit_offer(store, offer(stream_id, plain_len), now_ms).await
}

fn offer(stream_id: StreamId, plain_len: u64) -> ObjectOffer {
    ObjectOffer {
        stream_id,
        sealed_header: vec![1; 20],
        plain_len,
    }
}

async fn commit_offer(
    store: &RedbStore,
    offer: ObjectOffer,
    now_ms: u64,
) -> StoreResult<Committed> {
    let (stream_id, content_hash) = (offer.stream_id, offer.content_hash());
    let decide = move |upload: &PendingObjectRow, segments: &[SegmentRow]| {
        object::commit(upload, segments, &offer, now_ms).map_err(Refusal::from)
    };
    store
        .commit_object(stream_id, content_hash, now_ms, decide)
        .await
}

/// Begins and commits segment `segment_index`; two pieces are left over.
async fn put_segment(store: &RedbStore, stream: StreamId, segment_index: u32) {
    let at = position(segment_index);
    store
        .begin_segment(stream, at, pending(), 50)
        .await
        .unwrap();
    commit_segment(store, stream, segment_index, 3)
        .await
        .unwrap();
}

async fn commit_segment(
    store: &RedbStore,
    stream: StreamId,
    segment_index: u32,
    commitment: u8,
) -> StoreResult<()> {
    let row = segment_row(segment_index, commitment);
    let decide = move |upload: &PendingObjectRow, pending: &PendingSegmentRow| {
        let kept = &row.pieces.as_ref().unwrap().placements;
        let leftovers = segment::issued_except(pending, kept);
        Ok((
            row.clone(),
            segment::discard(upload, pending, leftovers, 60),
        ))
    };
    store
        .commit_segment(stream, position(segment_index), [commitment; 32], decide)
        .await
}

async fn discards(store: &RedbStore) -> Vec<Discard> {
    let (rows, _) = store.due_discards(u64::MAX, 0, 1_000).await.unwrap();
    rows.into_iter().map(|(_, row)| row).collect()
}

async fn keys(store: &RedbStore) -> Vec<Vec<u8>> {
    let query = ListQuery {
        names: Names::Plain,
        prefix: Vec::new(),
        has_delimiter: false,
        after: Vec::new(),
        entry_count_max: 1_000,
        now_ms: 0,
    };
    let page = store
        .list(project_id(), "bucket".to_owned(), query)
        .await
        .unwrap();
    let key = |entry| match entry {
        Entry::Object(key, _) => key,
        Entry::Prefix(prefix) => panic!("{prefix:?}"),
    };
    page.entries.into_iter().map(key).collect()
}

#[tokio::test]
async fn rows_survive_closing_and_opening() {
    let (dir, store) = with_bucket().await;
    let stream = StreamId::from([1; 16]);
    store.begin_object(stream, upload("a")).await.unwrap();
    put_segment(&store, stream, 0).await;
    store
        .inline_segment(stream, inline_row(1, 1), vec![8; 17])
        .await
        .unwrap();
    commit(&store, stream, 100_001, 1_000).await.unwrap();
    store
        .begin_object([2; 16].into(), upload("b"))
        .await
        .unwrap();
    store
        .begin_segment([2; 16].into(), position(0), pending(), 0)
        .await
        .unwrap();
    let before = store.counts().await.unwrap();
    store.close().await;
    assert!(matches!(store.counts().await, Err(StoreError::Backend(_))));
    assert!(matches!(
        store.create_project(project()).await,
        Err(StoreError::Backend(_))
    ));
    drop(store);

    let store = open(dir.path(), false);
    assert_eq!(store.counts().await.unwrap(), before);
    assert_eq!(store.project(project_id()).await.unwrap(), Some(project()));
    assert_eq!(store.buckets(project_id()).await.unwrap(), [bucket()]);
    let row = store.object(path("a")).await.unwrap().unwrap();
    assert_eq!(
        (row.stream_id, row.plain_len, row.segment_count),
        (stream, 100_001, 2)
    );
    let segments = store.segments(stream, 1_000).await.unwrap();
    assert_eq!(segments[0], (segment_row(0, 3), None));
    assert_eq!(segments[1], (inline_row(1, 1), Some(vec![8; 17])));
    assert_eq!(
        store.upload([2; 16].into()).await.unwrap(),
        Some(upload("b"))
    );
    let begun = store
        .pending_segment([2; 16].into(), position(0))
        .await
        .unwrap();
    assert_eq!(begun, Some(pending()));
}

#[tokio::test]
async fn a_newer_schema_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path(), true));
    super::redb::tests::set_schema_version(&dir.path().join("meta.redb"), SCHEMA_VERSION + 1);
    let error = RedbStore::open(&dir.path().join("meta.redb"), &CHECK, false)
        .map(drop)
        .unwrap_err();
    assert!(
        matches!(error, OpenError::Newer { found: 2, .. }),
        "{error}"
    );
    assert!(error.to_string().contains("newer satellite"), "{error}");
}

#[tokio::test]
async fn the_check_value_is_set_once_unless_replaced() {
    let (_dir, store) = with_bucket().await;
    store
        .set_check_value(project_id(), vec![1], false)
        .await
        .unwrap();
    store
        .set_check_value(project_id(), vec![1], false)
        .await
        .unwrap();
    assert_eq!(
        code(store.set_check_value(project_id(), vec![2], false).await),
        Code::Conflict
    );
    store
        .set_check_value(project_id(), vec![2], true)
        .await
        .unwrap();
    let row = store.project(project_id()).await.unwrap().unwrap();
    assert_eq!(row.check_value, [2]);
    let other = store.set_check_value([9; 16].into(), vec![2], true).await;
    assert_eq!(code(other), Code::NotFound);
}

#[tokio::test]
async fn buckets_are_unique_and_deleted_only_when_empty() {
    let (_dir, store) = with_bucket().await;
    assert_eq!(
        code(store.create_bucket(project_id(), bucket()).await),
        Code::Conflict
    );
    // Another project may use the name.
    store.create_bucket([8; 16].into(), bucket()).await.unwrap();
    put_inline(&store, 1, upload("a")).await;
    let delete = || store.delete_bucket(project_id(), "bucket".to_owned());
    assert_eq!(code(delete().await), Code::Conflict);
    assert!(store.delete_object(path("a"), 0).await.unwrap());
    delete().await.unwrap();
    assert_eq!(code(delete().await), Code::NotFound);
    assert_eq!(
        code(store.begin_object([1; 16].into(), upload("a")).await),
        Code::NotFound
    );
}

#[tokio::test]
async fn a_listing_skips_what_is_below_and_what_has_expired() {
    let (_dir, store) = with_bucket().await;
    let mut stream = 0;
    for key in ["a/1", "a/2", "a/3", "b", "c/1", "d"] {
        stream += 1;
        let expires_ms = if key == "b" { 500 } else { 0 };
        put_inline(
            &store,
            stream,
            PendingObjectRow {
                expires_ms,
                ..upload(key)
            },
        )
        .await;
    }
    // A neighbour whose name continues ours must not be seen.
    let neighbour = BucketRow {
        name: "bucket2".to_owned(),
        ..bucket()
    };
    store.create_bucket(project_id(), neighbour).await.unwrap();
    let other = PendingObjectRow {
        bucket: "bucket2".to_owned(),
        ..upload("x")
    };
    put_inline(&store, 100, other).await;
    let query = |after: &str, entry_count_max| ListQuery {
        names: Names::Plain,
        prefix: Vec::new(),
        has_delimiter: true,
        after: after.as_bytes().to_vec(),
        entry_count_max,
        now_ms: 1_000,
    };
    let list = async |after: &str, count| {
        let page = store
            .list(project_id(), "bucket".to_owned(), query(after, count))
            .await
            .unwrap();
        let name = |entry| match entry {
            Entry::Object(key, _) => String::from_utf8(key).unwrap(),
            Entry::Prefix(prefix) => String::from_utf8(prefix).unwrap(),
        };
        (
            page.entries.into_iter().map(name).collect::<Vec<_>>(),
            page.has_more,
        )
    };
    assert_eq!(
        list("", 10).await,
        (vec!["a/".into(), "c/".into(), "d".into()], false)
    );
    assert_eq!(list("", 1).await, (vec!["a/".into()], true));
    assert_eq!(list("a/", 1).await, (vec!["c/".into()], true));
    assert_eq!(list("c/", 1).await, (vec!["d".into()], false));
    assert_eq!(list("d", 1).await, (vec![], false));
}

#[tokio::test]
async fn nodes_keep_their_numbers() {
    let (_dir, store) = store();
    let node = |id: u8, free_bytes| NodeRow {
        id: [id; 32].into(),
        address: "127.0.0.1:1".to_owned(),
        domain: Domain::V4([127, 0, 0]),
        capacity_bytes: 10,
        used_bytes: 1,
        free_bytes,
        version: "1".to_owned(),
        first_contact_ms: 1,
        last_contact_ms: 2,
        skew_ms: -3,
        is_reachable: true,
    };
    assert_eq!(store.put_node(node(1, 5)).await.unwrap(), NodeNumber(1));
    assert_eq!(store.put_node(node(2, 5)).await.unwrap(), NodeNumber(2));
    assert_eq!(store.put_node(node(1, 6)).await.unwrap(), NodeNumber(1));
    let nodes = store.nodes().await.unwrap();
    assert_eq!(
        nodes,
        [(NodeNumber(1), node(1, 6)), (NodeNumber(2), node(2, 5))]
    );
}

#[tokio::test]
async fn the_delete_queue_gives_what_is_due_and_keeps_what_remains() {
    let (_dir, store) = with_bucket().await;
    let stream = StreamId::from([1; 16]);
    store.begin_object(stream, upload("a")).await.unwrap();
    for segment_index in 0..3 {
        put_segment(&store, stream, segment_index).await;
    }
    assert!(store.due_discards(59, 0, 10).await.unwrap().0.is_empty());
    let (rows, next) = store.due_discards(60, 0, 2).await.unwrap();
    assert_eq!(rows.len(), 2);
    assert_eq!(store.due_discards(60, next, 2).await.unwrap().0.len(), 1);
    let (first, second) = (rows[0].0, rows[1].0);
    let rest = Discard {
        not_before_ms: 500,
        pieces: Vec::new(),
        ..rows[1].1.clone()
    };
    store
        .settle_discards(vec![(first, None), (second, Some(rest.clone()))])
        .await
        .unwrap();
    let (rows, next) = store.due_discards(600, 0, 10).await.unwrap();
    assert_eq!(next, 0);
    assert_eq!(rows.len(), 2);
    assert_eq!(rows[0], (second, rest));
}

#[tokio::test]
async fn many_writers_share_commits_and_none_is_lost() {
    let (_dir, store) = with_bucket().await;
    let store = std::sync::Arc::new(store);
    let mut tasks = tokio::task::JoinSet::new();
    for stream in 0..200_u8 {
        let store = store.clone();
        tasks.spawn(
            async move { put_inline(&store, stream, upload(&format!("{stream:03}"))).await },
        );
    }
    assert_eq!(tasks.join_all().await.len(), 200);
    assert_eq!(keys(&store).await.len(), 200);
}
