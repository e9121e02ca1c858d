//! The life of objects: put, get, list, replace, delete, and over a restart.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use strand_protocol::pb::satellite_request::Verb;
use strand_protocol::pb::satellite_response::Answer;
use strand_protocol::{Code, LimitAction, pb};

use crate::network::{Client, Network, Refused, run, scheme};

const PLAIN_LEN: u64 = 100_000;
const COMMITMENT: [u8; 32] = [7; 32];

fn refused<T: std::fmt::Debug>(result: Result<T, Refused>) -> Code {
    result.unwrap_err().code
}

/// An object of a full segment in pieces and an inline byte.
async fn put(network: &Network, client: &Client, key: &str) -> Vec<u8> {
    let stream_id = client.begin_object(key).await;
    let limits = client.begin_segment(&stream_id, 0, PLAIN_LEN).await;
    let receipts = network.receipts(client, &limits[..8], COMMITMENT);
    client
        .commit_segment(&stream_id, 0, PLAIN_LEN, COMMITMENT, receipts)
        .await
        .unwrap();
    client.inline_segment(&stream_id, 1, 5).await;
    client
        .commit_object(&stream_id, PLAIN_LEN + 1)
        .await
        .unwrap();
    stream_id
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_is_put_got_listed_and_deleted() {
    let network = Network::start(12, Some(scheme())).await;
    let client = network.client().await;
    client.create_bucket("bucket").await;

    let stream_id = client.begin_object("dir/a").await;
    let limits = client.begin_segment(&stream_id, 0, PLAIN_LEN).await;
    assert!(limits.iter().map(|limit| limit.index).eq(0..10));
    let nodes: BTreeSet<_> = limits.iter().map(|limit| &limit.node_id).collect();
    assert_eq!(nodes.len(), 10, "each piece has a node of its own");
    assert_eq!(refused(client.object("dir/a").await), Code::NotFound);
    let receipts = network.receipts(&client, &limits[..8], COMMITMENT);
    client
        .commit_segment(&stream_id, 0, PLAIN_LEN, COMMITMENT, receipts)
        .await
        .unwrap();
    client.inline_segment(&stream_id, 1, 5).await;
    // Not the sum of the segments.
    assert_eq!(
        refused(client.commit_object(&stream_id, 5).await),
        Code::BadRequest
    );
    let committed = client
        .commit_object(&stream_id, PLAIN_LEN + 1)
        .await
        .unwrap();
    assert!(!committed.replaced);

    let object = client.object("dir/a").await.unwrap();
    assert_eq!(object.stream_id, stream_id);
    assert_eq!((object.plain_len, object.segment_count), (PLAIN_LEN + 1, 2));
    // docs/format.md, section 3, for k = 4: one stripe of round_up(ceil(100,112 / 4), 64).
    assert_eq!(object.piece_bytes, 8 * 16_384 + 8 * 8_704);
    let [stored, inline] = object.segments.as_slice() else {
        panic!("{object:?}")
    };
    assert_eq!(
        (stored.piece_count, &stored.inline_sealed),
        (8, &Vec::new())
    );
    assert_eq!(stored.scheme, Some(scheme().into()));
    assert_eq!(
        (inline.piece_count, &inline.inline_sealed),
        (0, &vec![5; 17])
    );

    let got = client.get_segment("dir/a", &stream_id, 0).await.unwrap();
    assert_eq!(got.segment.as_ref(), Some(stored));
    assert_eq!(got.limits.len(), 8);
    for limit in &got.limits {
        let node = network.node(&limit.node_id);
        assert_eq!(limit.address, node.address.to_string());
        assert_eq!(node.verify(&client, limit).action, LimitAction::Get);
    }
    let got = client.get_segment("dir/a", &stream_id, 1).await.unwrap();
    assert_eq!((got.limits.len(), got.segment.as_ref()), (0, Some(inline)));
    assert_eq!(
        refused(client.get_segment("dir/a", &stream_id, 2).await),
        Code::NotFound
    );
    assert_eq!(
        refused(client.get_segment("dir/a", &[0; 16], 0).await),
        Code::NotFound
    );

    let stat = pb::GetObject {
        bucket: "bucket".to_owned(),
        encrypted_key: b"dir/a".to_vec(),
        header_only: true,
    };
    let Ok(Answer::Object(stat)) = client.ask(Verb::GetObject(stat)).await else {
        panic!()
    };
    assert_eq!(
        stat,
        pb::Object {
            segments: Vec::new(),
            ..object
        }
    );

    let delete = || {
        let encrypted_key = b"dir/a".to_vec();
        Verb::DeleteObject(pb::DeleteObject {
            bucket: "bucket".to_owned(),
            encrypted_key,
        })
    };
    client.ask(delete()).await.unwrap();
    assert_eq!(refused(client.ask(delete()).await), Code::NotFound);
    assert_eq!(refused(client.object("dir/a").await), Code::NotFound);
    wait_for_deletes(&network, &limits[..8]).await;
    network.running.close().await;
}

/// Waits until the nodes were asked to drop exactly these pieces.
async fn wait_for_deletes(network: &Network, limits: &[pb::PieceLimit]) {
    let expected: BTreeSet<_> = limits
        .iter()
        .map(|limit| strand_protocol::Limit::parse(&limit.limit).unwrap())
        .map(|limit| limit.node())
        .collect();
    let started = Instant::now();
    loop {
        let asked: Vec<_> = network
            .nodes
            .iter()
            .filter(|node| !node.deleted().is_empty())
            .collect();
        if asked.len() == limits.len() {
            let asked: BTreeSet<_> = asked.iter().map(|node| node.identity.node_id()).collect();
            assert_eq!(asked, expected);
            return;
        }
        assert!(
            started.elapsed() < Duration::from_secs(20),
            "{} of 8 deletes",
            asked.len()
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_uploads_of_one_key_the_last_commit_wins_whole() {
    let network = Network::start(10, Some(scheme())).await;
    let client = network.client().await;
    let other = network.client().await;
    client.create_bucket("bucket").await;
    let one = client.begin_object("key").await;
    let two = other.begin_object("key").await;
    for (client, stream_id, commitment) in [(&client, &one, [1; 32]), (&other, &two, [2; 32])] {
        let limits = client.begin_segment(stream_id, 0, PLAIN_LEN).await;
        let receipts = network.receipts(client, &limits[..7], commitment);
        client
            .commit_segment(stream_id, 0, PLAIN_LEN, commitment, receipts)
            .await
            .unwrap();
    }
    let (first, second) = tokio::join!(
        client.commit_object(&one, PLAIN_LEN),
        other.commit_object(&two, PLAIN_LEN)
    );
    let (first, second) = (first.unwrap(), second.unwrap());
    assert_ne!(
        first.replaced, second.replaced,
        "one of them found the other's object"
    );
    let (winner, commitment) = if second.replaced {
        (&two, [2; 32])
    } else {
        (&one, [1; 32])
    };
    let object = client.object("key").await.unwrap();
    assert_eq!(object.stream_id, *winner);
    assert_eq!(object.sealed_header[..4], winner[..4]);
    assert_eq!(object.segments.len(), 1);
    assert_eq!(object.segments[0].commitment, commitment);
    // A download of the one that lost is told, and never given a mixture.
    let loser = if second.replaced { &one } else { &two };
    assert_eq!(
        refused(client.get_segment("key", loser, 0).await),
        Code::NotFound
    );
    assert_eq!(
        refused(client.get_segment("key", loser, 0).await),
        Code::NotFound
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_commit_is_answered_as_the_first_time_and_another_refused() {
    let mut network = Network::start(1, None).await;
    let client = network.client().await;
    client.create_bucket("bucket").await;
    let stream_id = client.begin_object("key").await;
    client.inline_segment(&stream_id, 0, 5).await;
    let first = client.commit_object(&stream_id, 1).await.unwrap();
    assert_eq!(client.commit_object(&stream_id, 1).await.unwrap(), first);
    let object = client.object("key").await.unwrap();

    // Also over a restart, and once the object itself is another one.
    for restarts in 0..2 {
        let other = vec![7; 44];
        let refused_header = network
            .client()
            .await
            .commit_object_with(&stream_id, other, 1)
            .await;
        assert_eq!(refused(refused_header), Code::Conflict, "{restarts}");
        let client = network.client().await;
        assert_eq!(
            refused(client.commit_object(&stream_id, 2).await),
            Code::Conflict
        );
        assert_eq!(client.commit_object(&stream_id, 1).await.unwrap(), first);
        if restarts == 0 {
            assert_eq!(client.object("key").await.unwrap(), object);
            client.put_inline("key", 6).await;
            network.running.close().await;
            network.running = run(network.dir.path()).await;
        }
    }
    let newest = network.client().await.object("key").await.unwrap();
    assert_eq!(newest.segments[0].inline_sealed, vec![6; 17]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_missing_is_named() {
    let network = Network::start(1, None).await;
    let client = network.client().await;
    let refusal = client.object("key").await.unwrap_err();
    assert_eq!(
        (refusal.code, refusal.message.as_str()),
        (Code::NotFound, "no bucket bucket")
    );
    client.create_bucket("bucket").await;
    let refusal = client.object("key").await.unwrap_err();
    assert_eq!(
        (refusal.code, refusal.message.as_str()),
        (Code::NotFound, "no such object")
    );
    let begin = pb::BeginObject {
        bucket: "other".to_owned(),
        encrypted_key: b"key".to_vec(),
        expires_ms: 0,
    };
    let refusal = client.ask(Verb::BeginObject(begin)).await.unwrap_err();
    assert_eq!(
        (refusal.code, refusal.message.as_str()),
        (Code::NotFound, "no bucket other")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listing_comes_in_pages() {
    let network = Network::start(1, None).await;
    let client = network.client().await;
    client.create_bucket("bucket").await;
    for key in ["a", "b/1", "b/2", "b/c/3", "d"] {
        client.put_inline(key, 1).await;
    }
    let list = async |prefix: &str, delimiter: bool, limit: u32| {
        let (mut after, mut names, mut pages) = (Vec::new(), Vec::new(), 0);
        loop {
            let list = pb::ListObjects {
                bucket: "bucket".to_owned(),
                prefix: prefix.as_bytes().to_vec(),
                delimiter,
                after,
                limit,
            };
            let answer = client.ask(Verb::ListObjects(list)).await.unwrap();
            let Answer::ObjectList(page) = answer else {
                panic!("{answer:?}")
            };
            pages += 1;
            for entry in page.entries {
                let name = match entry.object {
                    Some(object) => {
                        assert!(object.segments.is_empty() && !object.sealed_header.is_empty());
                        String::from_utf8(object.encrypted_key).unwrap()
                    }
                    None => String::from_utf8(entry.prefix).unwrap(),
                };
                names.push(name);
            }
            if !page.more {
                return (names.join(" "), pages);
            }
            after = names.last().unwrap().clone().into_bytes();
        }
    };
    assert_eq!(
        list("", false, 0).await,
        ("a b/1 b/2 b/c/3 d".to_owned(), 1)
    );
    assert_eq!(
        list("", false, 2).await,
        ("a b/1 b/2 b/c/3 d".to_owned(), 3)
    );
    assert_eq!(list("", true, 0).await, ("a b/ d".to_owned(), 1));
    assert_eq!(list("", true, 1).await, ("a b/ d".to_owned(), 3));
    assert_eq!(list("b/", true, 1).await, ("b/1 b/2 b/c/".to_owned(), 3));
    assert_eq!(list("b/c/", false, 0).await, ("b/c/3".to_owned(), 1));
    assert_eq!(list("x/", false, 0).await, (String::new(), 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_and_nodes_survive_a_restart() {
    let mut network = Network::start(10, Some(scheme())).await;
    let client = network.client().await;
    client.create_bucket("bucket").await;
    let stream_id = put(&network, &client, "key").await;
    let before = client.object("key").await.unwrap();
    // An upload that is under way goes on after the restart, too.
    let open = client.begin_object("other").await;
    client.inline_segment(&open, 0, 1).await;

    network.running.close().await;
    assert_eq!(client.connection.closed().await.code(), Code::Shutdown);
    network.running = run(network.dir.path()).await;
    let client = network.client().await;
    assert_eq!(client.object("key").await.unwrap(), before);
    let got = client.get_segment("key", &stream_id, 0).await.unwrap();
    for limit in &got.limits {
        network.node(&limit.node_id).verify(&client, limit);
    }
    client.commit_object(&open, 1).await.unwrap();
    // Nodes that had checked in shortly before are asked without a new check-in.
    put(&network, &client, "key").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_aborted_upload_is_gone() {
    let network = Network::start(1, None).await;
    let client = network.client().await;
    client.create_bucket("bucket").await;
    let stream_id = client.begin_object("key").await;
    client.inline_segment(&stream_id, 0, 1).await;
    let abort = Verb::AbortObject(pb::AbortObject {
        stream_id: stream_id.clone(),
    });
    client.ask(abort).await.unwrap();
    assert_eq!(
        refused(client.commit_object(&stream_id, 1).await),
        Code::NotFound
    );
    let committed = client.put_inline("key", 1).await;
    let abort = Verb::AbortObject(pb::AbortObject {
        stream_id: committed,
    });
    assert_eq!(refused(client.ask(abort).await), Code::Conflict);
    assert!(client.object("key").await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_project_keeps_its_first_check_value() {
    let network = Network::start(0, None).await;
    let client = network.client().await;
    let set = |byte: u8, replace| {
        let check_value = vec![byte; strand_protocol::CHECK_VALUE_BYTES];
        Verb::SetCheckValue(pb::SetCheckValue {
            check_value,
            replace,
        })
    };
    client.ask(set(1, false)).await.unwrap();
    client.ask(set(1, false)).await.unwrap();
    assert_eq!(refused(client.ask(set(2, false)).await), Code::Conflict);
    client.ask(set(3, true)).await.unwrap();
    let answer = client
        .ask(Verb::GetProject(pb::GetProject {}))
        .await
        .unwrap();
    let Answer::Project(project) = answer else {
        panic!("{answer:?}")
    };
    assert_eq!(project.check_value, [3; strand_protocol::CHECK_VALUE_BYTES]);
    assert_eq!(project.salt, network.invitation.salt);
    assert_eq!(project.project_id, network.invitation.project.as_bytes());
    assert_eq!(project.name, "photos");
}
