//! Check-ins, dial-backs and which nodes are asked.

use strand_protocol::pb::satellite_request::Verb;
use strand_protocol::{Code, Scheme, limits, pb};

use crate::network::{Network, Node, now_ms, scheme};

fn begin(key: &str) -> Verb {
    Verb::BeginObject(pb::BeginObject {
        bucket: "bucket".to_owned(),
        encrypted_key: key.as_bytes().to_vec(),
        expires_ms: 0,
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_few_nodes_are_counted() {
    let mut network = Network::start(6, Some(scheme())).await;
    let client = network.client().await;
    client.create_bucket("bucket").await;
    let refused = client.ask(begin("key")).await.unwrap_err();
    assert_eq!(refused.code, Code::NoNodes);
    assert!(refused.message.contains("7 needed"), "{}", refused.message);
    assert!(refused.message.contains("6 found"), "{}", refused.message);
    // One more is enough to commit, though not for all ten pieces.
    network.add_node(6).await;
    let stream_id = client.begin_object("key").await;
    let limits = client.begin_segment(&stream_id, 0, 100_000).await;
    assert!(
        limits.iter().map(|limit| limit.index).eq(0..7),
        "data indices first"
    );
    let receipts = network.receipts(&client, &limits, [7; 32]);
    client
        .commit_segment(&stream_id, 0, 100_000, [7; 32], receipts)
        .await
        .unwrap();
    client.commit_object(&stream_id, 100_000).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_scheme_follows_the_number_of_networks() {
    let mut network = Network::start(0, None).await;
    let client = network.client().await;
    client.create_bucket("bucket").await;
    let refused = client.ask(begin("key")).await.unwrap_err();
    assert_eq!(refused.code, Code::NoNodes);
    for (node_count, expected) in [(1, "1/1/1/1"), (2, "1/1/2/2"), (5, "2/3/4/5")] {
        while network.nodes.len() < node_count {
            network.add_node(network.nodes.len() as u8).await;
        }
        let answer = client.ask(begin("key")).await.unwrap();
        let pb::satellite_response::Answer::BegunObject(begun) = answer else {
            panic!()
        };
        let expected: Scheme = expected.parse().unwrap();
        assert_eq!(begun.scheme, Some(expected.into()), "{node_count} nodes");
    }
    // A second node in a network adds none.
    network.add_node(4).await;
    let stream_id = client.begin_object("key").await;
    let limits = client.begin_segment(&stream_id, 0, 100_000).await;
    assert_eq!(limits.len(), 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_not_where_it_says_is_not_asked() {
    let network = Network::start(1, None).await;
    let client = network.client().await;
    client.create_bucket("bucket").await;
    let other = &network.nodes[0];
    let mut liar = Node::start(1).await;
    let checked_in = liar
        .check_in(&network.running, |request| {
            request.advertise = other.address.to_string()
        })
        .await;
    assert!(!checked_in.reachable);
    let (wanted, found) = (liar.identity.node_id(), other.identity.node_id());
    assert!(
        checked_in.reason.contains(&format!("is not {wanted}")),
        "{}",
        checked_in.reason
    );
    assert!(
        checked_in.reason.contains(&found.to_string()),
        "{}",
        checked_in.reason
    );
    // Then it tells the truth, but takes no connections any more.
    liar.stop().await;
    let checked_in = liar.check_in(&network.running, |_| {}).await;
    assert!(!checked_in.reachable);
    assert!(
        checked_in.reason.contains("is refusing connections"),
        "{}",
        checked_in.reason
    );
    let answer = client.ask(begin("key")).await.unwrap();
    let pb::satellite_response::Answer::BegunObject(begun) = answer else {
        panic!()
    };
    assert_eq!(begun.scheme.unwrap().total, 1, "one node counts");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_and_misclocked_nodes_are_not_asked() {
    let mut network = Network::start(1, None).await;
    let client = network.client().await;
    client.create_bucket("bucket").await;
    let node = &mut network.nodes[0];
    let ahead = now_ms() + limits::CLOCK_SKEW_MS + 60_000;
    let checked_in = node
        .check_in(&network.running, |request| request.now_ms = ahead)
        .await;
    assert!(checked_in.reachable);
    assert!(
        checked_in.reason.contains("clock is"),
        "{}",
        checked_in.reason
    );
    assert_eq!(
        client.ask(begin("key")).await.unwrap_err().code,
        Code::NoNodes
    );
    node.check_in(&network.running, |request| request.free_bytes = 1_000_000)
        .await;
    assert_eq!(
        client.ask(begin("key")).await.unwrap_err().code,
        Code::NoNodes
    );
    let checked_in = node.check_in(&network.running, |_| {}).await;
    assert_eq!(
        (checked_in.reachable, checked_in.reason.as_str()),
        (true, "")
    );
    client.ask(begin("key")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_names_no_address_is_looked_for_where_it_comes_from() {
    let network = Network::start(0, None).await;
    let mut node = Node::start(1).await;
    let checked_in = node
        .check_in(&network.running, |request| request.advertise.clear())
        .await;
    // A dialling socket answers no dial-back here; a real node dials from where it listens.
    assert!(!checked_in.reachable);
    assert!(
        checked_in.reason.contains(&checked_in.observed),
        "{}",
        checked_in.reason
    );
    assert!(
        checked_in.observed.starts_with("127.0.0.1:"),
        "{}",
        checked_in.observed
    );
}
