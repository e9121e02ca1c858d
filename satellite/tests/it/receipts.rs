//! Receipts that are not what was issued, and replaced pieces.

use std::collections::BTreeSet;

use strand_protocol::pb::satellite_request::Verb;
use strand_protocol::{Code, Receipt, pb};

use crate::network::{Client, Network, position, scheme};

const PLAIN_LEN: u64 = 100_000;
const COMMITMENT: [u8; 32] = [7; 32];

/// A segment begun, with all that a liar can get hold of.
struct Begun {
    network: Network,
    client: Client,
    stream_id: Vec<u8>,
    limits: Vec<pb::PieceLimit>,
    /// Of another segment of the same upload, receipts committed already.
    used: Vec<Vec<u8>>,
}

async fn begin() -> Begun {
    let network = Network::start(14, Some(scheme())).await;
    let client = network.client().await;
    client.create_bucket("bucket").await;
    let stream_id = client.begin_object("key").await;
    let limits = client.begin_segment(&stream_id, 0, PLAIN_LEN).await;
    let used = network.receipts(&client, &limits[..8], COMMITMENT);
    client
        .commit_segment(&stream_id, 0, PLAIN_LEN, COMMITMENT, used.clone())
        .await
        .unwrap();
    let limits = client.begin_segment(&stream_id, 1, PLAIN_LEN).await;
    Begun {
        network,
        client,
        stream_id,
        limits,
        used,
    }
}

impl Begun {
    fn good(&self) -> Vec<Vec<u8>> {
        self.network
            .receipts(&self.client, &self.limits[..8], COMMITMENT)
    }

    /// A receipt for the limit at `at`, changed, from the node that the limit names.
    fn changed(&self, at: usize, change: impl FnOnce(&mut Receipt)) -> Vec<u8> {
        let limit = &self.limits[at];
        self.network
            .node(&limit.node_id)
            .receipt(&self.client, limit, COMMITMENT, change)
    }

    async fn commit(&self, receipts: Vec<Vec<u8>>) -> Result<(), String> {
        let commit =
            self.client
                .commit_segment(&self.stream_id, 1, PLAIN_LEN, COMMITMENT, receipts);
        match commit.await {
            Ok(()) => Ok(()),
            Err(refused) => {
                assert_eq!(refused.code, Code::BadReceipt, "{}", refused.message);
                Err(refused.message)
            }
        }
    }

    /// The good receipts with the one at `at` exchanged.
    async fn commit_with(&self, at: usize, receipt: Vec<u8>) -> String {
        let mut receipts = self.good();
        receipts[at] = receipt;
        self.commit(receipts).await.unwrap_err()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_wrong_receipt_is_refused_by_name_and_the_right_ones_still_count() {
    let begun = begin().await;
    let say = |message: String, words: &str| {
        assert!(message.contains(words), "'{words}' is not in '{message}'");
    };
    say(begun.commit_with(3, b"garbage".to_vec()).await, "receipt 3");
    let mut altered = begun.changed(2, |_| {});
    *altered.last_mut().unwrap() ^= 1;
    say(
        begun.commit_with(2, altered).await,
        "receipt 2: permit has a wrong MAC",
    );
    // Replayed: from the segment before, where index and node may even fit.
    say(
        begun.commit_with(0, begun.used[0].clone()).await,
        "was not issued for this segment",
    );
    // Another node, honest about itself, claims the serial.
    let other = begun.limits[9].clone();
    let stolen = begun.network.node(&other.node_id);
    let serial = strand_protocol::Limit::parse(&begun.limits[4].limit).unwrap();
    let serial = serial
        .verify(&begun_key(&begun, 4))
        .map(|limit| limit.serial)
        .unwrap();
    let stolen = stolen.receipt(&begun.client, &other, COMMITMENT, |receipt| {
        receipt.serial = serial;
        receipt.index = 4;
    });
    say(begun.commit_with(4, stolen).await, "issued to another node");
    let wrong_index = begun.changed(1, |receipt| receipt.index = 5);
    say(
        begun.commit_with(1, wrong_index).await,
        "is for index 5, its serial for 1",
    );
    let wrong_piece = begun.changed(1, |receipt| receipt.piece_id = [0; 32].into());
    say(begun.commit_with(1, wrong_piece).await, "another piece");
    let wrong_commitment = begun.changed(6, |receipt| receipt.commitment = [8; 32]);
    say(
        begun.commit_with(6, wrong_commitment).await,
        "receipt 6 carries another commitment",
    );
    let wrong_length = begun.changed(7, |receipt| receipt.piece_len += 64);
    say(
        begun.commit_with(7, wrong_length).await,
        "receipt 7: piece_len",
    );
    let wrong_expiry = begun.changed(7, |receipt| receipt.piece_expiry_ms = 1);
    say(begun.commit_with(7, wrong_expiry).await, "piece expiry 1");
    say(
        begun.commit_with(5, begun.changed(4, |_| {})).await,
        "index 4 occurs twice",
    );
    let few = begun.good()[..6].to_vec();
    say(
        begun.commit(few).await.unwrap_err(),
        "6 receipts < 7 needed",
    );
    let mut many = begun.good();
    many.push(begun.changed(8, |_| {}));
    say(begun.commit(many).await.unwrap_err(), "9 receipts > 8");
    let mut backwards = begun.good();
    backwards.reverse();
    say(
        begun.commit(backwards).await.unwrap_err(),
        "data indices come first",
    );
    // None of this spoilt the segment; and the object is not there yet.
    assert_eq!(
        begun.client.object("key").await.unwrap_err().code,
        Code::NotFound
    );
    begun.commit(begun.good()).await.unwrap();
    begun
        .client
        .commit_object(&begun.stream_id, 2 * PLAIN_LEN)
        .await
        .unwrap();
    assert_eq!(begun.client.object("key").await.unwrap().segments.len(), 2);
}

fn begun_key(begun: &Begun, at: usize) -> strand_protocol::LimitKey {
    let limit = &begun.limits[at];
    let unverified = strand_protocol::Limit::parse(&limit.limit).unwrap();
    begun
        .network
        .node(&limit.node_id)
        .limit_key(unverified.epoch())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replaced_piece_goes_to_a_new_node_and_its_old_receipt_is_void() {
    let begun = begin().await;
    let replace = |indices: Vec<u32>| {
        Verb::ReplacePieces(pb::ReplacePieces {
            stream_id: begun.stream_id.clone(),
            position: position(1),
            indices,
        })
    };
    let replaced = begun
        .client
        .piece_limits(replace(vec![6, 2]))
        .await
        .unwrap();
    assert!(replaced.iter().map(|limit| limit.index).eq([2, 6]));
    let used: BTreeSet<_> = begun
        .limits
        .iter()
        .map(|limit| limit.node_id.clone())
        .collect();
    assert!(replaced.iter().all(|limit| !used.contains(&limit.node_id)));
    let message = begun.commit(begun.good()).await.unwrap_err();
    assert!(
        message.contains("receipt 2: its piece was given to another node"),
        "{message}"
    );

    // Two nodes of fourteen are left; then none.
    let again = begun
        .client
        .piece_limits(replace(vec![9, 7, 5]))
        .await
        .unwrap();
    assert!(
        again.iter().map(|limit| limit.index).eq([5, 7]),
        "fewer nodes than pieces"
    );
    let refused = begun
        .client
        .piece_limits(replace(vec![9]))
        .await
        .unwrap_err();
    assert_eq!(refused.code, Code::NoNodes);
    for indices in [vec![], vec![10], vec![1, 1]] {
        let refused = begun
            .client
            .piece_limits(replace(indices))
            .await
            .unwrap_err();
        assert_eq!(refused.code, Code::BadRequest);
    }

    let mut receipts = begun.good();
    for limit in replaced.iter().chain(&again) {
        let node = begun.network.node(&limit.node_id);
        receipts[limit.index as usize] = node.receipt(&begun.client, limit, COMMITMENT, |_| {});
    }
    begun.commit(receipts).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn segments_that_cannot_be_are_not_begun() {
    let network = Network::start(10, Some(scheme())).await;
    let client = network.client().await;
    client.create_bucket("bucket").await;
    let stream_id = client.begin_object("key").await;
    let begin = async |position: u64, sealed_len: u64| {
        let stream_id = stream_id.clone();
        let begin = pb::BeginSegment {
            stream_id,
            position,
            sealed_len,
        };
        client
            .piece_limits(Verb::BeginSegment(begin))
            .await
            .map(|limits| limits.len())
    };
    let code = |result: Result<usize, crate::network::Refused>| result.unwrap_err().code;
    // No plaintext seals to so many bytes; 16 KiB are stored inline; 16 MiB are the most for k = 4.
    assert_eq!(code(begin(position(0), 16_401).await), Code::BadRequest);
    assert_eq!(code(begin(position(0), 16_416).await), Code::BadRequest);
    assert_eq!(
        code(begin(position(0), (16 << 20) + 16 * 1_026).await),
        Code::TooLarge
    );
    assert_eq!(code(begin(0, 100_112).await), Code::TooLarge);
    assert_eq!(
        code(begin(position(1 << 20), 100_112).await),
        Code::TooLarge
    );
    assert_eq!(begin(position(0), 16_417).await.unwrap(), 10);
}
