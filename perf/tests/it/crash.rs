//! kill -9 of node processes while uploads run: whatever was acknowledged is there after a restart.

use strand_perf::part::Running;

use crate::support::{BUCKET, TestNetwork};

/// Goal: no acked piece is lost. Method: uploads one after another while one node process at a time is killed in their
/// middle and started again; then every piece of every committed object is read from its node, all bytes checked
/// against the segment's commitment, and every object is downloaded.
#[test]
fn kill_9_during_uploads_loses_no_acked_piece() {
    let mut test = TestNetwork::start(10);
    let file = test.file("source", 11, 24 << 20);
    let mut committed = Vec::new();
    for round in 0..4_usize {
        let key = format!("round-{round}");
        let place = format!("st://{BUCKET}/{key}");
        let upload = Running::start(
            "uplink cp",
            test.client(&["cp", file.to_str().unwrap(), &place]),
        )
        .unwrap();
        test.wait_for_writes((4 + round as u64) << 20);
        test.network.kill_process(round % 5).unwrap();
        let uploaded = upload.finish().unwrap();
        test.network.start_process(round % 5).unwrap();
        test.network.wait_for_nodes().unwrap();
        // Two of ten nodes are gone: eight is what the scheme stores, so that the upload may still end well.
        // If it does not, nothing of it may be visible.
        if uploaded.is_success() {
            committed.push(key);
        } else {
            assert!(!test.is_listed(&key), "{}", uploaded.stderr);
        }
    }
    assert!(
        !committed.is_empty(),
        "no upload survived the loss of two nodes of ten"
    );

    // Once more, everything at once.
    for process in 0..5 {
        test.network.kill_process(process).unwrap();
    }
    for process in 0..5 {
        test.network.start_process(process).unwrap();
    }
    test.network.wait_for_nodes().unwrap();
    for key in &committed {
        // At least repair + 1 pieces of each of two segments.
        assert!(test.every_piece_is_there(key) >= 2 * 7);
        test.download_equals(&format!("st://{BUCKET}/{key}"), &file);
    }
}
