//! What uploads ask of every backend: segments begun and committed, objects that win and lose, what is dropped and what expires.

use super::*;

#[tokio::test]
async fn a_segment_is_begun_committed_once_and_remembered_for_repeats() {
    let (_dir, store) = with_bucket().await;
    let stream = StreamId::from([1; 16]);
    let begin = || store.begin_segment(stream, position(0), pending(), 50);
    assert_eq!(code(begin().await), Code::NotFound);
    store.begin_object(stream, upload("a")).await.unwrap();
    assert_eq!(
        code(commit_segment(&store, stream, 0, 3).await),
        Code::NotFound
    );
    begin().await.unwrap();
    commit_segment(&store, stream, 0, 3).await.unwrap();
    // The answer was lost: the same commit again is fine, another is not.
    commit_segment(&store, stream, 0, 3).await.unwrap();
    assert_eq!(
        code(commit_segment(&store, stream, 0, 4).await),
        Code::Conflict
    );
    assert_eq!(code(begin().await), Code::Conflict);
    let queued = discards(&store).await;
    assert_eq!(queued.len(), 1);
    let left: Vec<_> = queued[0].pieces.iter().map(|piece| piece.index).collect();
    assert_eq!((left, queued[0].not_before_ms), (vec![8, 9], 60));
}

#[tokio::test]
async fn beginning_a_segment_again_discards_what_was_issued() {
    let (_dir, store) = with_bucket().await;
    let stream = StreamId::from([1; 16]);
    store.begin_object(stream, upload("a")).await.unwrap();
    store
        .begin_segment(stream, position(0), pending(), 50)
        .await
        .unwrap();
    store
        .begin_segment(stream, position(0), pending(), 50)
        .await
        .unwrap();
    let queued = discards(&store).await;
    assert_eq!(queued.len(), 1);
    assert_eq!(queued[0].pieces.len(), 10);
}

#[tokio::test]
async fn an_upload_has_a_bounded_number_of_segments_begun() {
    let (_dir, store) = with_bucket().await;
    let stream = StreamId::from([1; 16]);
    store.begin_object(stream, upload("a")).await.unwrap();
    let begin = |segment_index| store.begin_segment(stream, position(segment_index), pending(), 50);
    let most = u32::try_from(limits::PENDING_SEGMENTS_MAX).unwrap();
    for segment_index in 0..most {
        begin(segment_index).await.unwrap();
    }
    assert_eq!(code(begin(most).await), Code::Busy);
    // One that is begun may be begun again, and one that is committed makes room.
    begin(0).await.unwrap();
    commit_segment(&store, stream, 0, 3).await.unwrap();
    begin(most).await.unwrap();
}

#[tokio::test]
async fn a_refused_command_changes_nothing() {
    let (_dir, store) = with_bucket().await;
    let stream = StreamId::from([1; 16]);
    store.begin_object(stream, upload("a")).await.unwrap();
    store
        .begin_segment(stream, position(0), pending(), 50)
        .await
        .unwrap();
    let before = store.counts().await.unwrap();
    let refuse =
        |_: &PendingObjectRow, _: &PendingSegmentRow| Err(Refusal::new(Code::BadReceipt, "no"));
    let refused = store
        .commit_segment(stream, position(0), [3; 32], refuse)
        .await;
    assert_eq!(code(refused), Code::BadReceipt);
    let refused = store
        .change_segment(stream, position(0), |_| Err(Refusal::busy("no")))
        .await;
    assert_eq!(code(refused), Code::Busy);
    assert_eq!(
        code(commit(&store, stream, 0, 1_000).await),
        Code::BadRequest
    );
    assert_eq!(store.counts().await.unwrap(), before);
    let begun = store.pending_segment(stream, position(0)).await.unwrap();
    assert_eq!(begun, Some(pending()));
}

#[tokio::test]
async fn the_last_commit_wins_whole_and_the_loser_is_discarded() {
    let (_dir, store) = with_bucket().await;
    let (one, two) = (StreamId::from([1; 16]), StreamId::from([2; 16]));
    for stream in [one, two] {
        store.begin_object(stream, upload("a")).await.unwrap();
        put_segment(&store, stream, 0).await;
        put_segment(&store, stream, 1).await;
    }
    let first = commit(&store, one, 200_000, 1_000).await.unwrap();
    assert_eq!(
        first,
        Committed {
            created_ms: 1_000,
            has_replaced: false,
            content_hash: offer(one, 200_000).content_hash(),
        }
    );
    let leftovers = discards(&store).await.len();
    let second = commit(&store, two, 200_000, 2_000).await.unwrap();
    assert_eq!(
        second,
        Committed {
            created_ms: 2_000,
            has_replaced: true,
            content_hash: offer(two, 200_000).content_hash(),
        }
    );
    // A repeat is answered as the first time, also when it is not the newest any more.
    assert_eq!(commit(&store, one, 200_000, 3_000).await.unwrap(), first);
    // With another length or header it is not a repeat, and changes nothing.
    let other_header = ObjectOffer {
        sealed_header: vec![2; 20],
        ..offer(one, 200_000)
    };
    for other in [offer(one, 200_001), other_header] {
        let refused = commit_offer(&store, other, 3_000).await;
        assert_eq!(code(refused), Code::Conflict);
    }
    let row = store.object(path("a")).await.unwrap().unwrap();
    assert_eq!(row.stream_id, two);
    assert!(store.segments(one, 0).await.unwrap().is_empty());
    assert_eq!(store.segments(two, 0).await.unwrap().len(), 2);
    let queued = discards(&store).await;
    assert_eq!(queued.len(), leftovers + 2);
    assert!(queued[leftovers..].iter().all(|row| row.pieces.len() == 8));
    // Nothing more can be added to a committed upload.
    let late = store.begin_segment(two, position(2), pending(), 0).await;
    assert_eq!(code(late), Code::NotFound);
}

#[tokio::test]
async fn segments_begun_and_not_committed_are_dropped_with_the_commit() {
    let (_dir, store) = with_bucket().await;
    let stream = StreamId::from([1; 16]);
    store.begin_object(stream, upload("a")).await.unwrap();
    store
        .inline_segment(stream, inline_row(0, 1), vec![8; 17])
        .await
        .unwrap();
    store
        .begin_segment(stream, position(1), pending(), 50)
        .await
        .unwrap();
    commit(&store, stream, 1, 1_000).await.unwrap();
    assert_eq!(
        store.pending_segment(stream, position(1)).await.unwrap(),
        None
    );
    assert_eq!(discards(&store).await[0].pieces.len(), 10);
}

#[tokio::test]
async fn a_dropped_upload_leaves_nothing_but_discards() {
    let (_dir, store) = with_bucket().await;
    let empty = store.counts().await.unwrap();
    let stream = StreamId::from([1; 16]);
    store.begin_object(stream, upload("a")).await.unwrap();
    put_segment(&store, stream, 0).await;
    store
        .inline_segment(stream, inline_row(1, 1), vec![8; 17])
        .await
        .unwrap();
    store
        .begin_segment(stream, position(2), pending(), 50)
        .await
        .unwrap();
    assert!(store.drop_upload(stream, 70).await.unwrap());
    assert!(!store.drop_upload(stream, 70).await.unwrap());
    let after = store.counts().await.unwrap();
    // Leftovers of the committed segment, its pieces, and the begun segment's.
    assert_eq!(
        after,
        Counts {
            discards: 3,
            ..empty
        }
    );
    assert_eq!(
        discards(&store)
            .await
            .iter()
            .map(|row| row.pieces.len())
            .sum::<usize>(),
        20
    );
}

#[tokio::test]
async fn dropping_a_committed_upload_keeps_its_object() {
    let (_dir, store) = with_bucket().await;
    put_inline(&store, 1, upload("a")).await;
    assert!(store.drop_upload([1; 16].into(), 0).await.unwrap());
    assert_eq!(keys(&store).await, [b"a"]);
    assert_eq!(store.segments([1; 16].into(), 100).await.unwrap().len(), 1);
    assert!(discards(&store).await.is_empty());
}

#[tokio::test]
async fn stale_uploads_are_found_in_steps_and_fresh_ones_are_not() {
    let (_dir, store) = with_bucket().await;
    for stream in 1..=7 {
        let created_ms = if stream % 2 == 0 { 200 } else { 100 };
        let upload = PendingObjectRow {
            created_ms,
            ..upload("a")
        };
        store
            .begin_object([stream; 16].into(), upload)
            .await
            .unwrap();
    }
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let (step, next) = store.uploads_before(150, after, 3).await.unwrap();
        found.extend(step);
        match next {
            Some(_) => after = next,
            None => break,
        }
    }
    let expected: Vec<StreamId> = [1, 3, 5, 7].map(|stream| [stream; 16].into()).to_vec();
    assert_eq!(found, expected);
}

#[tokio::test]
async fn expired_objects_go_without_asking_nodes() {
    let (_dir, store) = with_bucket().await;
    for (stream, expires_ms) in [(1, 2_000), (2, 3_000), (3, 0), (4, 5_000)] {
        let key = format!("key{stream}");
        put_inline(
            &store,
            stream,
            PendingObjectRow {
                expires_ms,
                ..upload(&key)
            },
        )
        .await;
    }
    // Overwritten by one that lives longer.
    put_inline(
        &store,
        5,
        PendingObjectRow {
            expires_ms: 9_000,
            ..upload("key1")
        },
    )
    .await;
    assert_eq!(store.drop_expired(4_000, 10).await.unwrap(), 1);
    assert_eq!(keys(&store).await, [b"key1", b"key3", b"key4"]);
    assert_eq!(store.drop_expired(u64::MAX, 1).await.unwrap(), 1);
    assert_eq!(store.drop_expired(u64::MAX, 10).await.unwrap(), 1);
    assert_eq!(keys(&store).await, [b"key3"]);
    assert!(discards(&store).await.is_empty());
}
