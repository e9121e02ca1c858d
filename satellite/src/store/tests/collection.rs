//! What garbage collection asks of every backend.

use super::*;
use crate::core::row::{CollectionOutcome, CollectionRow, LostPlacement};

fn reported(node: u32, pieces: impl IntoIterator<Item = u64>) -> (NodeNumber, Reports) {
    let piece = |number: u64| {
        let mut id = [0; 32];
        id[..8].copy_from_slice(&number.to_le_bytes());
        id.into()
    };
    let reports = Reports {
        lost: pieces.into_iter().map(piece).collect(),
        ..Reports::default()
    };
    (NodeNumber(node), reports)
}

#[tokio::test]
async fn reports_are_taken_once_and_as_far_as_there_is_room() {
    let (_dir, store) = store();
    let room = limits::REPORTS_PER_NODE_MAX;
    let (node, reports) = reported(1, 0..room as u64 - 1);
    let taken = store.take_reports(node, reports, 5).await.unwrap();
    assert_eq!((taken.lost, taken.new_lost.len()), (room - 1, room - 1));
    // Two known ones, the last that fits, and two for which there is no room.
    let (node, reports) = reported(1, [1, 2, 1 << 40, 1 << 41, 3]);
    let taken = store.take_reports(node, reports, 6).await.unwrap();
    assert_eq!((taken.lost, taken.new_lost.len()), (3, 1));
    let (node, reports) = reported(2, [1]);
    let taken = store.take_reports(node, reports, 7).await.unwrap();
    assert_eq!((taken.lost, taken.new_lost.len()), (1, 1), "another node");
    let lost = store.lost_pieces().await.unwrap();
    assert_eq!(lost.len(), room + 1);
    let first = lost.iter().find(|one| one.node == NodeNumber(1)).unwrap();
    assert_eq!(first.reported_ms, 5, "a repeat changes nothing");
    let all = lost.iter().map(|one| (one.node, one.piece)).collect();
    store.drop_reports(all, 0).await.unwrap();
    assert_eq!(store.counts().await.unwrap().lost, 0);
}

#[tokio::test]
async fn a_run_replaces_the_filters_of_the_one_before_when_it_is_announced() {
    let (_dir, store) = store();
    let node = NodeNumber(7);
    let filter = |run, part| Filter {
        node,
        run,
        part,
        bytes: vec![run as u8, part as u8],
    };
    let row = |run| CollectionRow {
        run,
        part_count: 2,
        ..CollectionRow::default()
    };
    let filters = vec![filter(10, 0), filter(10, 1)];
    store.put_filters(filters).await.unwrap();
    assert_eq!(store.filter(node, 10, 0).await.unwrap(), None, "not yet");
    store.announce(vec![(node, row(10))]).await.unwrap();
    assert_eq!(store.filter(node, 10, 1).await.unwrap(), Some(vec![10, 1]));
    let outcome = CollectionOutcome {
        run: 10,
        trashed: 3,
        ..CollectionOutcome::default()
    };
    let reports = Reports {
        outcome: Some(outcome),
        ..Reports::default()
    };
    store.take_reports(node, reports, 1).await.unwrap();
    // A run that fails half way leaves the one before as it was.
    store.put_filters(vec![filter(11, 0)]).await.unwrap();
    assert_eq!(store.filter(node, 10, 1).await.unwrap(), Some(vec![10, 1]));
    assert_eq!(store.filter(node, 11, 0).await.unwrap(), None);
    store.put_filters(vec![filter(12, 0)]).await.unwrap();
    store.announce(vec![(node, row(12))]).await.unwrap();
    for run in [10, 11] {
        assert_eq!(store.filter(node, run, 0).await.unwrap(), None);
    }
    assert_eq!(store.filter(node, 12, 0).await.unwrap(), Some(vec![12, 0]));
    let kept = store.collection(node).await.unwrap().unwrap();
    assert_eq!((kept.run, kept.outcome), (12, Some(outcome)));
    assert_eq!(store.collections().await.unwrap(), [(node, kept)]);
}

#[tokio::test]
async fn lost_placements_go_and_the_last_one_stays() {
    let (_dir, store) = with_bucket().await;
    let stream = StreamId::from([1; 16]);
    store.begin_object(stream, upload("a")).await.unwrap();
    store
        .begin_segment(stream, position(0), pending(), 0)
        .await
        .unwrap();
    let row = segment_row(0, 9);
    let decide = move |_: &PendingObjectRow, _: &PendingSegmentRow| Ok((row.clone(), None));
    store
        .commit_segment(stream, position(0), [9; 32], decide)
        .await
        .unwrap();
    let placements = segment_row(0, 9).pieces.unwrap().placements;
    let lost = |range: std::ops::Range<usize>| -> Vec<LostPlacement> {
        let one = |placement: &Placement| LostPlacement {
            stream,
            position: position(0),
            placement: *placement,
            piece: [placement.index; 32].into(),
        };
        placements[range].iter().map(one).collect()
    };
    let left = store.settle_lost(lost(0..3)).await.unwrap();
    assert_eq!((left[0].taken_count, left[0].healthy_count), (3, 5));
    // Settled again it takes nothing more.
    let left = store.settle_lost(lost(0..3)).await.unwrap();
    assert_eq!((left[0].taken_count, left[0].healthy_count), (0, 5));
    let left = store.settle_lost(lost(3..8)).await.unwrap();
    assert_eq!((left[0].taken_count, left[0].healthy_count), (5, 0));
    let (segment, _) = store.segment(stream, position(0)).await.unwrap().unwrap();
    assert_eq!(segment.pieces.unwrap().placements, placements[3..4]);
    // A segment that is gone meanwhile is no error.
    store.drop_upload(stream, 0).await.unwrap();
    assert_eq!(store.settle_lost(lost(0..1)).await.unwrap(), []);
}

#[tokio::test]
async fn all_segments_come_page_by_page_and_open_uploads_are_known() {
    let (_dir, store) = with_bucket().await;
    assert_eq!(store.oldest_open_upload().await.unwrap(), None);
    for stream in 1..=5 {
        let upload = PendingObjectRow {
            created_ms: 1_000 - u64::from(stream),
            ..upload(&format!("key{stream}"))
        };
        put_inline(&store, stream, upload).await;
    }
    assert_eq!(
        store.oldest_open_upload().await.unwrap(),
        None,
        "all are committed"
    );
    for (stream, created_ms) in [(8, 700), (9, 600)] {
        let upload = PendingObjectRow {
            created_ms,
            ..upload("open")
        };
        store
            .begin_object([stream; 16].into(), upload)
            .await
            .unwrap();
    }
    assert_eq!(store.oldest_open_upload().await.unwrap(), Some(600));
    for count_max in [1, 2, 5, 7] {
        let (mut seen, mut after) = (Vec::new(), None);
        loop {
            let (page, next) = store.segments_after(after, count_max).await.unwrap();
            assert!(page.len() <= count_max);
            seen.extend(page.into_iter().map(|(stream, _)| stream));
            match next {
                Some(_) => after = next,
                None => break,
            }
        }
        let expected: Vec<StreamId> = (1..=5).map(|stream| [stream; 16].into()).collect();
        assert_eq!(seen, expected, "{count_max} a page");
    }
}

#[tokio::test]
async fn a_store_of_a_release_without_collection_gets_its_tables() {
    let (dir, store) = with_bucket().await;
    put_inline(&store, 1, upload("key")).await;
    store.close().await;
    drop(store);
    redb::tests::drop_collection_tables(&dir.path().join("meta.redb"));
    let store = open(dir.path(), false);
    assert_eq!(store.counts().await.unwrap().objects, 1);
    assert_eq!(store.lost_pieces().await.unwrap(), []);
    assert_eq!(store.last_run().await.unwrap(), None);
}
