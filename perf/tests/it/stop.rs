//! Nodes that fall silent in mid-download.

use std::time::{Duration, Instant};

use strand_perf::content::first_difference;
use strand_perf::part::Running;

use crate::support::{BUCKET, TestNetwork, runtime};

/// Goal: a node that stops answering is replaced, and the download says so. Method: the process that holds most data
/// pieces is stopped (SIGSTOP: its sockets stay open and silent) as soon as the first bytes of the file arrive.
#[test]
fn a_process_stopped_in_mid_download_is_replaced() {
    let mut test = TestNetwork::start(10);
    let file = test.file("source", 21, 160 << 20);
    test.upload(&file);
    let process = process_with_most_data(&test);

    let target = test.network.work_dir().join("target");
    let arguments = [
        "--json",
        "cp",
        &format!("st://{BUCKET}/source"),
        target.to_str().unwrap(),
    ];
    let download = Running::start("uplink cp", test.client(&arguments)).unwrap();
    wait_for_bytes(&test);
    let part = test.network.process(process).unwrap();
    part.signal(libc::SIGSTOP).unwrap();
    let finished = download.finish().unwrap();
    test.network
        .process(process)
        .unwrap()
        .signal(libc::SIGCONT)
        .unwrap();

    assert!(finished.is_success(), "{}", finished.stderr);
    assert_eq!(first_difference(&file, &target).unwrap(), None);
    let json: serde_json::Value = serde_json::from_slice(&finished.stdout).unwrap();
    assert!(json["replaced"].as_u64().unwrap() > 0, "{json:#}");
}

/// The process whose nodes hold most data pieces of the last segments.
fn process_with_most_data(test: &TestNetwork) -> usize {
    let (_, committed) = runtime().block_on(test.committed("source"));
    let mut data_pieces = [0; 5];
    for segment in committed.segments.iter().rev().take(5) {
        for piece in segment
            .pieces
            .iter()
            .filter(|piece| piece.index < segment.required)
        {
            let node = test.network.node_number(&piece.node_id).unwrap();
            data_pieces[test.network.seats()[node].process] += 1;
        }
    }
    (0..5).max_by_key(|&process| data_pieces[process]).unwrap()
}

/// Returns once the download's temporary file, whatever its name, has bytes.
fn wait_for_bytes(test: &TestNetwork) {
    let started = Instant::now();
    let arrived = || {
        std::fs::read_dir(test.network.work_dir())
            .unwrap()
            .filter_map(Result::ok)
            .filter(|entry| entry.file_name() != "source")
            .any(|entry| entry.metadata().is_ok_and(|metadata| metadata.len() > 0))
    };
    while !arrived() {
        assert!(
            started.elapsed() < Duration::from_secs(30),
            "the download writes nothing"
        );
        std::thread::sleep(Duration::from_millis(1));
    }
}
