//! What goes in comes out: all sizes, all ranges, names, versions.

use uplink::listing::{self, Entry};
use uplink::{ByteRange, Place};

use super::network::Network;
use super::*;

const MIB: usize = 1 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn every_size_comes_back() {
    let network = Network::start(SMALL, 12).await;
    let session = session_with_bucket(&network).await;
    // A segment of this scheme is 16 MiB.
    for len in [
        0,
        1,
        16_383,
        16_384,
        16_385,
        100_000,
        1_000_000,
        3 * MIB + 17,
        16 * MIB,
        16 * MIB + 1,
        33 * MIB,
    ] {
        let bytes = content(len);
        let key = format!("sizes/{len}");
        let up = put(&session, &key, &bytes).await.unwrap();
        assert_eq!((up.bytes, up.replaced_object), (len as u64, false));
        let with_pieces: Vec<_> = up
            .segments
            .iter()
            .filter(|segment| !segment.inline)
            .collect();
        assert!(
            with_pieces
                .iter()
                .all(|segment| segment.pieces_stored == 8 && segment.data_pieces_missing == 0)
        );
        assert_eq!(with_pieces.is_empty(), len <= 16_384);
        let (found, down) = get(&session, &key).await.unwrap();
        assert!(found == bytes, "{len} bytes");
        assert_eq!(down.segments.len(), up.segments.len());
        assert_eq!(down.liars, []);
        for segment in down.segments.iter().filter(|segment| !segment.inline) {
            assert_eq!(
                (segment.pieces_stored, segment.data_pieces_lost),
                (8, 0),
                "{segment:?}"
            );
        }
    }
    assert_eq!(network.upload_count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_give_exactly_their_bytes() {
    let network = Network::start(SMALL, 12).await;
    let session = session_with_bucket(&network).await;
    let len = 16 * MIB as u64 + 70_000;
    let bytes = content(len as usize);
    put(&session, "ranges", &bytes).await.unwrap();
    let segment = 16 * MIB as u64;
    let ranges = [
        (0, 0),
        (0, 16_383),
        (16_383, 16_384),
        (65_535, 65_537),
        (1_000_000, 1_000_999),
        (3_000_000, 3_400_000),
        (segment - 1, segment),
        (segment - 20_000, segment + 20_000),
        (segment, segment + 16_383),
        (len - 1, len - 1),
        (5, len - 6),
    ];
    for (first, last) in ranges {
        let (found, _) = get_range(&session, "ranges", Some(ByteRange::Inclusive(first, last)))
            .await
            .unwrap();
        assert!(
            found == bytes[first as usize..=last as usize],
            "{first}-{last}"
        );
    }
    let (tail, _) = get_range(&session, "ranges", Some(ByteRange::Last(1)))
        .await
        .unwrap();
    assert_eq!(tail, bytes[bytes.len() - 1..]);
    let past = get_range(&session, "ranges", Some(ByteRange::Inclusive(5, len)))
        .await
        .unwrap_err();
    assert_eq!(past.exit(), uplink::Exit::Usage);
    assert!(
        past.to_string().contains(&format!("has {len} bytes")),
        "{past}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_range_touches_the_nodes_that_hold_it_and_no_others() {
    let network = Network::start(SMALL, 12).await;
    let session = session_with_bucket(&network).await;
    let bytes = content(8 * MIB);
    put(&session, "big", &bytes).await.unwrap();
    let gets = || {
        network
            .nodes
            .iter()
            .map(|node| node.get_count.load(std::sync::atomic::Ordering::Relaxed))
            .sum::<usize>()
    };
    let before = gets();
    let (found, report) = get_range(&session, "big", Some(ByteRange::Inclusive(20_000, 20_099)))
        .await
        .unwrap();
    assert!(found == bytes[20_000..20_100]);
    assert!(gets() - before <= 2, "{} nodes were asked", gets() - before);
    assert!(report.segments[0].pieces <= 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_commit_wins_whole() {
    let network = Network::start(SMALL, 12).await;
    let session = session_with_bucket(&network).await;
    put(&session, "key", &content(100_000)).await.unwrap();
    let second = put(&session, "key", &content(90_000)).await.unwrap();
    assert!(second.replaced_object);
    assert!(get(&session, "key").await.unwrap().0 == content(90_000));
    // Two at once: one of them, whole.
    let (one, other) = (content(120_000), content(130_000));
    let (left, right) = tokio::join!(put(&session, "key", &one), put(&session, "key", &other));
    assert!(left.is_ok() && right.is_ok());
    let found = get(&session, "key").await.unwrap().0;
    assert!(found == one || found == other);
}

#[tokio::test(flavor = "multi_thread")]
async fn listings_show_plain_names_of_sealed_and_plain_buckets() {
    let network = Network::start(SMALL, 10).await;
    let session = session_with_bucket(&network).await;
    listing::create_bucket(&session, "plain", strand_protocol::path::Names::Plain)
        .await
        .unwrap();
    // "b/d" is an object and a prefix.
    let keys = ["a", "b/c", "b/d", "b/d/e", "b/d/f", "ä/ö", "z//z"];
    for bucket in ["beach", "plain"] {
        for key in keys {
            let place: Place = format!("st://{bucket}/{key}").parse().unwrap();
            let input = Input::reader(
                Box::new(std::io::Cursor::new(key.as_bytes().to_vec())),
                None,
                "the test",
            );
            let options = UploadOptions::default();
            upload(
                &session,
                &place,
                input,
                options,
                Arc::new(Quiet),
                Cancel::never(),
            )
            .await
            .unwrap();
        }
        let root: Place = format!("st://{bucket}").parse().unwrap();
        let names = |entries: Vec<Entry>| {
            entries
                .iter()
                .map(|entry| entry.key().to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(
            names(listing::list(&session, &root, true).await.unwrap()),
            ["a", "b/c", "b/d", "b/d/e", "b/d/f", "z//z", "ä/ö"]
        );
        assert_eq!(
            names(listing::list(&session, &root, false).await.unwrap()),
            ["a", "b/", "z/", "ä/"]
        );
        let below = root.with_key("b/");
        assert_eq!(
            names(listing::list(&session, &below, false).await.unwrap()),
            ["b/c", "b/d", "b/d/"]
        );
        assert_eq!(
            names(listing::list(&session, &below, true).await.unwrap()),
            ["b/c", "b/d", "b/d/e", "b/d/f"]
        );
        let info = listing::stat(&session, &root.with_key("ä/ö"))
            .await
            .unwrap();
        assert_eq!((info.bytes, info.segments, info.piece_bytes), (5, 1, 0));
        listing::remove(&session, &root.with_key("a"))
            .await
            .unwrap();
        let again = listing::remove(&session, &root.with_key("a"))
            .await
            .unwrap_err();
        assert_eq!(again.exit(), uplink::Exit::NotFound);
        let full = listing::delete_bucket(&session, bucket).await.unwrap_err();
        assert!(full.to_string().contains("is not empty"), "{full}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_prefix_reads_its_own_objects_only() {
    let network = Network::start(SMALL, 10).await;
    let session = session_with_bucket(&network).await;
    put(&session, "mine/shared/cat", &content(50_000))
        .await
        .unwrap();
    put(&session, "mine/private", &content(10)).await.unwrap();
    let operations = strand_protocol::Operations::READ | strand_protocol::Operations::LIST;
    let names = strand_protocol::path::Names::Sealed;
    let narrow = session
        .grant()
        .restrict("beach", names, "mine/shared/", operations, None)
        .unwrap();
    let friend = Session::open(narrow).unwrap();
    assert!(get(&friend, "mine/shared/cat").await.unwrap().0 == content(50_000));
    let entries = listing::list(&friend, &place("mine/shared/"), true)
        .await
        .unwrap();
    assert_eq!(
        entries.iter().map(Entry::key).collect::<Vec<_>>(),
        ["mine/shared/cat"]
    );
    let refused = get(&friend, "mine/private").await.unwrap_err();
    assert_eq!(refused.exit(), uplink::Exit::Denied, "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn eighty_of_ninety_three_with_the_default_scheme() {
    let network = Network::start(Scheme::DEFAULT, 96).await;
    let session = session_with_bucket(&network).await;
    let bytes = content(5 * MIB);
    let up = put(&session, "big", &bytes).await.unwrap();
    let segment = &up.segments[0];
    assert_eq!((segment.pieces, segment.pieces_stored), (93, 80));
    let (found, down) = get(&session, "big").await.unwrap();
    assert!(found == bytes);
    assert_eq!(down.segments[0].pieces_stored, 80);

    // All but 29 of the 80 go: a third lost, a third altered, a third stopped.
    let placements = network.placements(0);
    for (count, (_, node)) in placements.iter().enumerate().take(51) {
        match count % 3 {
            0 => node.set_fault(super::node::Fault::NotFound),
            1 => node.set_fault(super::node::Fault::Altered),
            _ => node.stop().await,
        }
    }
    let (found, down) = get(&session, "big").await.unwrap();
    assert!(found == bytes);
    let segment = &down.segments[0];
    assert_eq!(segment.liars.len(), 17);
    assert!(segment.data_pieces_lost >= 20, "{segment:?}");
    assert!(segment.replaced >= 51 - 29, "{segment:?}");
    // One more, and it cannot be done: a clear answer.
    placements
        .values()
        .last()
        .unwrap()
        .set_fault(super::node::Fault::NotFound);
    let error = get(&session, "big").await.unwrap_err();
    assert!(
        error.to_string().contains("29 pieces are needed"),
        "{error}"
    );
}
