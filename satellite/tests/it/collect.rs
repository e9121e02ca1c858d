//! Garbage collection as nodes and an operator see it.

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;
use strand_protocol::pb::satellite_request::Verb;
use strand_protocol::pb::satellite_response::Answer;
use strand_protocol::{Code, PieceFilter, PieceId, pb};
use strand_transport::{Dialer, SATELLITE_ALPN};

use crate::network::{Client, Network, Refused, now_ms, scheme};

const PLAIN_LEN: u64 = 100_000;
const COMMITMENT: [u8; 32] = [7; 32];

/// `satellite gc`, which waits until the filters are there.
async fn gc(network: &Network, options: &[&str]) -> Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_satellite"));
    command.arg("gc").args(options).arg("--json").arg("--dir");
    command.arg(network.dir.path());
    let output = tokio::task::spawn_blocking(move || command.output().unwrap());
    let output = output.await.unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Commits a segment of an upload at 8 nodes; the limits of all 10.
async fn put_segment(
    network: &Network,
    client: &Client,
    stream_id: &[u8],
    segment_index: u32,
) -> Vec<pb::PieceLimit> {
    let limits = client
        .begin_segment(stream_id, segment_index, PLAIN_LEN)
        .await;
    let receipts = network.receipts(client, &limits[..8], COMMITMENT);
    client
        .commit_segment(stream_id, segment_index, PLAIN_LEN, COMMITMENT, receipts)
        .await
        .unwrap();
    limits
}

async fn put(network: &Network, client: &Client, key: &str) -> Vec<pb::PieceLimit> {
    let stream_id = client.begin_object(key).await;
    let limits = put_segment(network, client, &stream_id, 0).await;
    client.commit_object(&stream_id, PLAIN_LEN).await.unwrap();
    limits
}

fn piece_id(network: &Network, client: &Client, limit: &pb::PieceLimit) -> PieceId {
    network.node(&limit.node_id).verify(client, limit).piece_id
}

/// Which of the network's nodes this is.
fn number(network: &Network, limit: &pb::PieceLimit) -> usize {
    let nodes = network.nodes.iter();
    let mut ids = nodes.map(|node| node.identity.node_id());
    ids.position(|id| id.as_bytes()[..] == limit.node_id)
        .unwrap()
}

/// Asks as a node.
async fn ask_as(network: &Network, node: usize, verb: Verb) -> Result<Answer, Refused> {
    let dialer = Dialer::new(network.nodes[node].identity.clone()).unwrap();
    let address = network.running.listen_address().to_string();
    let connection = dialer
        .dial(network.running.node_id(), &address, SATELLITE_ALPN)
        .await
        .unwrap();
    let client = Client {
        dialer,
        connection,
        macaroon: Vec::new(),
    };
    client.ask(verb).await
}

async fn fetch(
    network: &Network,
    node: usize,
    run: u64,
    part: u32,
) -> Result<PieceFilter, Refused> {
    let verb = Verb::FetchFilter(pb::FetchFilter { run, part });
    match ask_as(network, node, verb).await? {
        Answer::FilterPart(part) => Ok(PieceFilter::parse(part.filter).unwrap()),
        other => panic!("{other:?}"),
    }
}

/// Checks in and fetches what is announced, which is one filter.
async fn newest(network: &mut Network, node: usize) -> PieceFilter {
    let checked_in = network.nodes[node].check_in(&network.running, |_| {}).await;
    let filters = checked_in.filters.unwrap();
    assert_eq!(filters.part_count, 1);
    fetch(network, node, filters.run, 0).await.unwrap()
}

/// Goal: each node gets a filter of what it should hold, no more (but for 1 in 256) and never less.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_is_told_what_it_should_hold() {
    let mut network = Network::start(12, Some(scheme())).await;
    let client = network.client().await;
    client.create_bucket("bucket").await;
    let kept = put(&network, &client, "kept").await;
    put(&network, &client, "deleted").await;
    let checked_in = network.nodes[0].check_in(&network.running, |_| {}).await;
    assert_eq!(checked_in.filters, None, "nothing was collected yet");
    let delete = pb::DeleteObject {
        bucket: "bucket".to_owned(),
        encrypted_key: b"deleted".to_vec(),
    };
    client.ask(Verb::DeleteObject(delete)).await.unwrap();

    let before_ms = now_ms();
    let done = gc(&network, &[]).await;
    let last = &done["last"];
    assert_eq!(
        (&last["segments"], &last["pieces"], &last["nodes"]),
        (&1.into(), &8.into(), &12.into())
    );
    let mut contained = 0;
    for node in 0..12 {
        let filter = newest(&mut network, node).await;
        let scope = filter.scope();
        assert_eq!(scope.node, network.nodes[node].identity.node_id());
        assert_eq!(scope.satellite, network.running.node_id());
        assert!((before_ms..=now_ms()).contains(&scope.snapshot_ms));
        contained += filter.count();
        let here = |limit: &&pb::PieceLimit| number(&network, limit) == node;
        for limit in kept[..8].iter().filter(here) {
            let id = piece_id(&network, &client, limit);
            assert!(filter.contains(id.as_bytes()));
        }
    }
    assert_eq!(
        contained, 8,
        "what was deleted and what was left over is in none"
    );
    network.running.close().await;
}

/// The rule of docs/wire.md, section 5: whatever an upload may still commit was created after the snapshot.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_upload_holds_the_snapshot_back() {
    let mut network = Network::start(12, Some(scheme())).await;
    let client = network.client().await;
    client.create_bucket("bucket").await;
    let stream_id = client.begin_object("open").await;
    let begun = client.begin_segment(&stream_id, 0, PLAIN_LEN).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    gc(&network, &[]).await;
    let node = number(&network, &begun[0]);
    let filter = newest(&mut network, node).await;
    let issued_ms = |limit: &pb::PieceLimit| {
        network
            .node(&limit.node_id)
            .verify(&client, limit)
            .issued_ms
    };
    let earliest_ms = begun.iter().map(issued_ms).min().unwrap();
    assert!(filter.scope().snapshot_ms <= earliest_ms);
    // Committed now, the next snapshot is later and the pieces are in the filters.
    let receipts = network.receipts(&client, &begun[..8], COMMITMENT);
    client
        .commit_segment(&stream_id, 0, PLAIN_LEN, COMMITMENT, receipts)
        .await
        .unwrap();
    client.commit_object(&stream_id, PLAIN_LEN).await.unwrap();
    gc(&network, &[]).await;
    let filter = newest(&mut network, node).await;
    assert!(filter.scope().snapshot_ms > earliest_ms);
    let id = piece_id(&network, &client, &begun[0]);
    assert!(filter.contains(id.as_bytes()));
    assert_eq!(filter.count(), 1);
    network.running.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn filters_are_for_their_node_and_of_the_newest_run_only() {
    let mut network = Network::start(2, None).await;
    let refused = fetch(&network, 0, 1, 0).await.unwrap_err();
    assert_eq!(refused.code, Code::NotFound);
    gc(&network, &[]).await;
    let first = network.nodes[0].check_in(&network.running, |_| {}).await;
    let first = first.filters.unwrap();
    let mine = fetch(&network, 0, first.run, 0).await.unwrap();
    let other = fetch(&network, 1, first.run, 0).await.unwrap();
    assert_ne!(mine.scope().node, other.scope().node);
    let refused = fetch(&network, 0, first.run, 1).await.unwrap_err();
    assert_eq!(refused.code, Code::NotFound);
    gc(&network, &[]).await;
    let refused = fetch(&network, 0, first.run, 0).await.unwrap_err();
    assert_eq!(refused.code, Code::NotFound, "an older run");
    let second = network.nodes[0].check_in(&network.running, |_| {}).await;
    assert!(second.filters.unwrap().run > first.run);
    // A client is no node.
    let client = network.client().await;
    let verb = Verb::FetchFilter(pb::FetchFilter {
        run: first.run,
        part: 0,
    });
    assert_eq!(client.ask(verb).await.unwrap_err().code, Code::NotFound);
    network.running.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_piece_is_taken_out_of_its_segment() {
    let mut network = Network::start(12, Some(scheme())).await;
    let client = network.client().await;
    client.create_bucket("bucket").await;
    let stream_id = client.begin_object("key").await;
    let limits = put_segment(&network, &client, &stream_id, 0).await;
    client.commit_object(&stream_id, PLAIN_LEN).await.unwrap();
    let placed = async || {
        let got = client.get_segment("key", &stream_id, 0).await.unwrap();
        let mut indices: Vec<u32> = got.limits.iter().map(|limit| limit.index).collect();
        indices.sort_unstable();
        indices
    };
    assert_eq!(placed().await.len(), 8);
    let id = piece_id(&network, &client, &limits[2]);
    let liar = number(&network, &limits[3]);
    let loser = number(&network, &limits[2]);
    // Nobody's word counts about another's pieces; an unknown id is remembered and hurts nobody.
    for (node, id) in [(liar, id), (loser, id), (loser, [9; 32].into())] {
        let lost = vec![id.as_bytes().to_vec()];
        let report = |request: &mut pb::CheckIn| request.lost = lost;
        let checked_in = network.nodes[node].check_in(&network.running, report).await;
        assert_eq!(checked_in.lost_taken, 1);
    }
    assert_eq!(placed().await.len(), 8, "the next walk does it");
    let done = gc(&network, &[]).await;
    assert_eq!(done["last"]["lost_pieces_taken_out"], 1);
    assert_eq!(done["last"]["pieces"], 7);
    assert_eq!(placed().await, [0, 1, 3, 4, 5, 6, 7]);
    let filter = newest(&mut network, loser).await;
    assert_eq!(filter.count(), 0, "it is not asked to keep what it lost");
    // What is in no segment is forgotten once the snapshot has passed it.
    assert_eq!(gc(&network, &[]).await["lost_pieces_waiting"], 0);
    network.running.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_segments_last_placement_stays() {
    let mut network = Network::start(1, None).await;
    let client = network.client().await;
    client.create_bucket("bucket").await;
    let stream_id = client.begin_object("key").await;
    let limits = client.begin_segment(&stream_id, 0, PLAIN_LEN).await;
    let receipts = network.receipts(&client, &limits, COMMITMENT);
    client
        .commit_segment(&stream_id, 0, PLAIN_LEN, COMMITMENT, receipts)
        .await
        .unwrap();
    client.commit_object(&stream_id, PLAIN_LEN).await.unwrap();
    let lost = vec![piece_id(&network, &client, &limits[0]).as_bytes().to_vec()];
    let report = |request: &mut pb::CheckIn| request.lost = lost;
    network.nodes[0].check_in(&network.running, report).await;
    let done = gc(&network, &[]).await;
    assert_eq!(done["last"]["lost_pieces_taken_out"], 1);
    assert_eq!(done["lost_pieces_waiting"], 0);
    let got = client.get_segment("key", &stream_id, 0).await.unwrap();
    assert_eq!(got.segment.unwrap().piece_count, 1);
    network.running.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revived_pieces_and_outcomes_are_shown_and_counted_once() {
    let mut network = Network::start(2, None).await;
    let done = gc(&network, &[]).await;
    assert_eq!(done["nodes"][0]["done"], false);
    let run = network.nodes[0].check_in(&network.running, |_| {}).await;
    let run = run.filters.unwrap().run;
    for _ in 0..3 {
        let report = |request: &mut pb::CheckIn| {
            request.revived = vec![vec![1; 32], vec![2; 32]];
            request.collected = Some(pb::CollectOutcome {
                run,
                examined: 300,
                kept: 300,
                refused_parts: 1,
                would_trash: 200,
                would_trash_of: 300,
                ..pb::CollectOutcome::default()
            });
        };
        let checked_in = network.nodes[0].check_in(&network.running, report).await;
        assert_eq!(checked_in.revived_taken, 2);
    }
    let shown = gc(&network, &["--last"]).await;
    assert_eq!(shown["last"]["run"], run, "--last runs nothing");
    assert_eq!(shown["revived_pieces"], 2);
    let node = &shown["nodes"][0];
    assert_eq!(
        (
            &node["done"],
            &node["refused_filters"],
            &node["would_trash"]
        ),
        (&true.into(), &1.into(), &200.into())
    );
    assert_eq!(shown["nodes"][1]["done"], false);
    // Not a piece id.
    let report = |request: &mut pb::CheckIn| request.lost = vec![vec![1; 31]];
    let verb = |change: &dyn Fn(&mut pb::CheckIn)| {
        let mut request = pb::CheckIn {
            advertise: network.nodes[0].address.to_string(),
            now_ms: now_ms(),
            ..pb::CheckIn::default()
        };
        change(&mut request);
        Verb::CheckIn(request)
    };
    let refused = ask_as(&network, 0, verb(&report)).await.unwrap_err();
    assert_eq!(refused.code, Code::BadRequest);
    let many = |request: &mut pb::CheckIn| request.lost = vec![vec![1; 32]; 1_025];
    let refused = ask_as(&network, 0, verb(&many)).await.unwrap_err();
    assert_eq!(refused.code, Code::TooLarge);
    network.running.close().await;
}

/// Reports of a node that cannot be reached where it says it is take no room.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_cannot_fill_the_tables() {
    let mut network = Network::start(1, None).await;
    network.nodes[0].stop().await;
    let began = Instant::now();
    let report = |request: &mut pb::CheckIn| {
        request.advertise = "127.0.0.1:9".to_owned();
        request.lost = vec![vec![1; 32]];
    };
    let checked_in = network.nodes[0].check_in(&network.running, report).await;
    assert!(!checked_in.reachable);
    assert_eq!(checked_in.lost_taken, 0);
    assert_eq!(gc(&network, &[]).await["lost_pieces_waiting"], 0);
    assert!(began.elapsed() < Duration::from_secs(30));
    network.running.close().await;
}
