//! Nodes and satellites that fail: exact bytes or a clear error, and never half an object.

use std::time::{Duration, Instant};

use uplink::error::{DownloadError, UploadError};
use uplink::{ByteRange, Exit, cancel_pair};

use super::network::Network;
use super::node::Fault;
use super::*;

const LEN: usize = 2_000_000;

/// An object of one segment, eight pieces; the network and who holds what.
async fn stored() -> (Arc<Network>, Arc<Session>, Vec<u8>) {
    let network = Network::start(SMALL, 12).await;
    let session = session_with_bucket(&network).await;
    let bytes = content(LEN);
    put(&session, "object", &bytes).await.unwrap();
    (network, session, bytes)
}

/// Four of eight nodes fail in this way, three of them holding data: the object comes back.
async fn check_download(fault: Fault) -> DownloadReport {
    let (network, session, bytes) = stored().await;
    let placements = network.placements(0);
    let parity = *placements.keys().last().unwrap();
    for index in [0, 1, 3, parity] {
        placements[&index].set_fault(fault);
    }
    let begun = Instant::now();
    let (found, report) = get(&session, "object").await.unwrap();
    assert!(found == bytes, "{fault:?}");
    assert!(
        begun.elapsed() < Duration::from_secs(8),
        "{fault:?} took {:?}",
        begun.elapsed()
    );
    assert_eq!(report.segments[0].data_pieces_lost, 3, "{fault:?}");
    assert!(report.segments[0].replaced >= 3, "{fault:?}");
    // A range that lies in a lost piece.
    let (range, _) = get_range(&session, "object", Some(ByteRange::Inclusive(100, 40_000)))
        .await
        .unwrap();
    assert!(range == bytes[100..=40_000], "{fault:?}");
    report
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_pieces_are_replaced() {
    let report = check_download(Fault::NotFound).await;
    assert_eq!(
        (report.liars.len(), report.segments[0].missing >= 3),
        (0, true)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn altered_pieces_are_noticed_and_their_nodes_named() {
    let report = check_download(Fault::Altered).await;
    let mut indices: Vec<_> = report.liars.iter().map(|liar| liar.index).collect();
    indices.sort_unstable();
    assert!(indices.starts_with(&[0, 1, 3]), "{indices:?}");
    assert!(report.liars.iter().all(|liar| liar.node.len() == 56));
}

#[tokio::test(flavor = "multi_thread")]
async fn swapped_pieces_are_noticed() {
    assert!(check_download(Fault::Swapped).await.liars.len() >= 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_share_hashes_are_noticed() {
    assert!(check_download(Fault::WrongHashes).await.liars.len() >= 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn truncated_pieces_are_replaced() {
    check_download(Fault::Truncated).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_stop_in_the_middle_are_replaced() {
    assert!(check_download(Fault::Stalls).await.segments[0].cancelled >= 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_say_nothing_are_replaced() {
    check_download(Fault::Silent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stale_limits_are_fetched_anew() {
    let (network, session, bytes) = stored().await;
    for node in &network.nodes {
        node.set_fault(Fault::StaleOnce);
    }
    let (found, report) = get(&session, "object").await.unwrap();
    assert!(found == bytes);
    assert_eq!(report.segments[0].data_pieces_lost, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn too_few_good_pieces_are_a_clear_error() {
    let (network, session, _) = stored().await;
    let placements = network.placements(0);
    for (count, node) in placements.values().enumerate().take(5) {
        node.set_fault(if count % 2 == 0 {
            Fault::NotFound
        } else {
            Fault::Altered
        });
    }
    let directory = tempfile::tempdir().unwrap();
    let target = directory.path().join("object");
    let output = Output::File(target);
    let failed = download(
        &session,
        &place("object"),
        output,
        DownloadOptions::default(),
        Arc::new(Quiet),
        Cancel::never(),
    )
    .await
    .unwrap_err();
    assert_eq!(failed.exit(), Exit::Damaged);
    assert!(
        matches!(
            failed,
            DownloadError::NotEnoughPieces {
                required_count: 4,
                stored_count: 8,
                ..
            }
        ),
        "{failed}"
    );
    assert_eq!(
        std::fs::read_dir(directory.path()).unwrap().count(),
        0,
        "nothing is left behind"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_are_down_are_a_matter_of_nodes_not_of_data() {
    let (network, session, _) = stored().await;
    for node in network.placements(0).values().take(5) {
        node.stop().await;
    }
    let begun = Instant::now();
    let failed = get(&session, "object").await.unwrap_err();
    assert_eq!(failed.exit(), Exit::Nodes, "{failed}");
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "{:?}",
        begun.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_satellite_cannot_alter_cut_or_swap_an_object() {
    let network = Network::start(SMALL, 12).await;
    let session = session_with_bucket(&network).await;
    // Two segments with pieces and an inline one.
    let bytes = content((32 << 20) + 5);
    put(&session, "object", &bytes).await.unwrap();
    let tampers: [fn(&mut strand_protocol::pb::Object); 7] = [
        |object| object.segments.swap(0, 1),
        |object| {
            object.segments.pop();
        },
        |object| object.segments[0].commitment[0] ^= 1,
        |object| object.segments[1].plain_len -= 1,
        |object| object.plain_len -= 1,
        |object| object.sealed_header[20] ^= 1,
        |object| object.segments[2].inline_sealed[2] ^= 1,
    ];
    for (number, tamper) in tampers.into_iter().enumerate() {
        *network.tamper.lock().unwrap() = Some(tamper);
        let failed = get(&session, "object").await.unwrap_err();
        let expected = if number == 5 {
            Exit::Denied
        } else {
            Exit::Damaged
        };
        assert_eq!(failed.exit(), expected, "{number}: {failed}");
    }
    // A wrong salt does not open; nothing is written for it.
    *network.tamper.lock().unwrap() = Some(|object| object.segments[0].salt[0] ^= 1);
    assert_eq!(
        get(&session, "object").await.unwrap_err().exit(),
        Exit::Damaged
    );
    *network.tamper.lock().unwrap() = None;
    assert!(get(&session, "object").await.unwrap().0 == bytes);
}

/// Uploads while nodes fail in this way; what was stored comes back.
async fn check_upload(fault: Fault, failing_count: usize) -> UploadReport {
    let network = Network::start(SMALL, 14).await;
    let session = session_with_bucket(&network).await;
    for node in network.nodes.iter().skip(3).take(failing_count) {
        node.set_fault(fault);
    }
    let bytes = content(LEN);
    let begun = Instant::now();
    let report = put(&session, "object", &bytes).await.unwrap();
    assert!(
        begun.elapsed() < Duration::from_secs(9),
        "{fault:?} took {:?}",
        begun.elapsed()
    );
    assert!(
        get(&session, "object").await.unwrap().0 == bytes,
        "{fault:?}"
    );
    report
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_survives_nodes_that_break_off() {
    let report = check_upload(Fault::Breaks, 4).await;
    assert_eq!(report.segments[0].pieces_stored, 8);
    assert_eq!(report.segments[0].data_pieces_missing, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_survives_nodes_that_never_acknowledge() {
    let report = check_upload(Fault::NoReceipt, 3).await;
    assert_eq!(report.segments[0].pieces_stored, 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_survives_nodes_whose_receipts_are_none() {
    let report = check_upload(Fault::BadReceipt, 3).await;
    assert_eq!(report.segments[0].pieces_stored, 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn fewer_nodes_than_pieces_do() {
    let network = Network::start(SMALL, 9).await;
    let session = session_with_bucket(&network).await;
    let bytes = content(LEN);
    let report = put(&session, "object", &bytes).await.unwrap();
    assert_eq!(report.segments[0].pieces_stored, 8);
    assert!(get(&session, "object").await.unwrap().0 == bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_survives_silent_nodes() {
    let report = check_upload(Fault::Silent, 4).await;
    assert_eq!(report.segments[0].pieces_stored, 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_waits_for_busy_nodes() {
    let network = Network::start(SMALL, 10).await;
    let session = session_with_bucket(&network).await;
    for node in network.nodes.iter().take(4) {
        node.set_fault(Fault::Busy);
    }
    let freeing = network.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(700)).await;
        for node in &freeing.nodes {
            node.set_fault(Fault::None);
        }
    });
    let report = put(&session, "object", &content(LEN)).await.unwrap();
    assert!(report.segments[0].retreats > 0);
    assert_eq!(report.segments[0].pieces_stored, 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn repair_plus_one_nodes_are_enough_and_one_fewer_is_not() {
    let network = Network::start(SMALL, 10).await;
    let session = session_with_bucket(&network).await;
    for node in network.nodes.iter().take(3) {
        node.stop().await;
    }
    let report = put(&session, "weak", &content(LEN)).await.unwrap();
    assert_eq!(report.segments[0].pieces_stored, 7);

    network.nodes[5].stop().await;
    let begun = Instant::now();
    let failed = put(&session, "object", &content(LEN)).await.unwrap_err();
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(failed.exit(), Exit::Nodes);
    let is_counted = matches!(
        failed,
        UploadError::NotEnoughNodes {
            needed_count: 7,
            found_count: 6,
            optimal_count: 8,
            ..
        }
    );
    assert!(is_counted, "{failed}");
    assert_eq!(
        (network.object_count(), network.upload_count()),
        (1, 0),
        "nothing visible, nothing pending"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_satellite_without_nodes_says_how_many() {
    let network = Network::start(SMALL, 6).await;
    let session = session_with_bucket(&network).await;
    let failed = put(&session, "object", &content(LEN)).await.unwrap_err();
    assert_eq!(failed.exit(), Exit::Nodes);
    assert!(
        failed.to_string().contains("7 nodes needed, 6 found"),
        "{failed}"
    );
    assert_eq!((network.object_count(), network.abort_count()), (0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_upload_is_aborted() {
    /// Gives a little, then waits for ever, as a pipe may.
    struct Waits(usize);
    impl std::io::Read for Waits {
        fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
            if self.0 == 0 {
                std::thread::sleep(Duration::from_secs(2));
                return Ok(0);
            }
            self.0 -= 1;
            bytes.fill(7);
            Ok(bytes.len())
        }
    }
    let network = Network::start(SMALL, 12).await;
    let session = session_with_bucket(&network).await;
    let (canceller, cancel) = cancel_pair();
    let input = Input::reader(Box::new(Waits(80)), None, "the test");
    let begun = Instant::now();
    let interrupt = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        canceller.cancel();
    };
    let place = place("object");
    let uploading = upload(
        &session,
        &place,
        input,
        UploadOptions::default(),
        Arc::new(Quiet),
        cancel,
    );
    let (failed, ()) = tokio::join!(uploading, interrupt);
    assert_eq!(failed.unwrap_err().exit(), Exit::Interrupted);
    assert!(
        begun.elapsed() < Duration::from_millis(1_900),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(
        (
            network.object_count(),
            network.upload_count(),
            network.abort_count()
        ),
        (0, 0, 1)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreadable_input_leaves_nothing() {
    struct Broken;
    impl std::io::Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::Error::from(std::io::ErrorKind::ConnectionReset))
        }
    }
    let network = Network::start(SMALL, 12).await;
    let session = session_with_bucket(&network).await;
    let input = Input::reader(Box::new(Broken), None, "the pipe");
    let options = UploadOptions::default();
    let failed = upload(
        &session,
        &place("x"),
        input,
        options,
        Arc::new(Quiet),
        Cancel::never(),
    )
    .await
    .unwrap_err();
    assert_eq!(failed.exit(), Exit::Disk);
    assert!(
        failed.to_string().starts_with("cannot read the pipe: "),
        "{failed}"
    );
    assert_eq!((network.object_count(), network.upload_count()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_passphrase_does_not_open_what_is_there() {
    let network = Network::start(SMALL, 10).await;
    let session = session_with_bucket(&network).await;
    // Plain names, so that the key is found and only the header stays shut.
    uplink::listing::create_bucket(&session, "plain", strand_protocol::path::Names::Plain)
        .await
        .unwrap();
    let place: Place = "st://plain/object".parse().unwrap();
    let input = Input::reader(
        Box::new(std::io::Cursor::new(b"hello".to_vec())),
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
    let other = Grant::from_invitation(
        &network.invitation(),
        "some other passphrase",
        KdfParams::default(),
    )
    .unwrap();
    let other = Session::open(other).unwrap();
    let output = Output::Writer(Box::new(Shared::default()), "the test".to_owned());
    let failed = download(
        &other,
        &place,
        output,
        DownloadOptions::default(),
        Arc::new(Quiet),
        Cancel::never(),
    )
    .await
    .unwrap_err();
    assert_eq!(failed.exit(), Exit::Denied);
    assert!(
        failed.to_string().contains("another passphrase"),
        "{failed}"
    );
}
