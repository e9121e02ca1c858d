//! Limits and receipts that are not what they were made for, between a real satellite and real nodes.
//!
//! A client of its own speaks the wire's messages, because the real one never says such things. Nodes and satellite have
//! tests of each refusal; here every limit and receipt is a genuine one that the other side has made.

use std::time::Duration;

use bytes::Bytes;
use strand_codec::{PieceHasher, SegmentTree, Shape, sealed_len};
use strand_protocol::limits::{NODE_FRAME_BYTES_MAX, SATELLITE_FRAME_BYTES_MAX};
use strand_protocol::path::{Names, ObjectKey};
use strand_protocol::pb::{
    self, node_request, node_response, satellite_request, satellite_response,
};
use strand_protocol::{Code, NodeId, Position, Scheme};
use strand_transport::{Connection, Dialer, Identity, NODE_ALPN, SATELLITE_ALPN, StreamError};

use crate::support::BUCKET;
use crate::world::{World, content};

/// Eight pieces are committed.
const SCHEME: Scheme = Scheme {
    required: 4,
    repair: 6,
    optimal: 8,
    total: 10,
};

/// Of a segment; pieces of one share and a bit.
const PLAIN_LEN: u64 = 100_000;

/// How long a peer may take for one answer.
const ANSWER_PATIENCE: Duration = Duration::from_secs(10);

/// Goal: a limit is good for one piece, at one node, for one client and one deed. Method: genuine limits of a running
/// satellite are used in every other way, at the real nodes; none of it spoils the right use.
#[test]
fn a_limit_is_good_for_what_it_was_issued_for_and_nothing_else() {
    let world = World::start(10, SCHEME);
    world.block_on(async {
        let client = Client::dial(&world).await;
        let stream_id = client.begin_object("object").await;
        let limits = client.begin_segment(&stream_id, 0).await;
        let segment = Segment::new(1);
        let put = async |limit: &[u8], index| client.put(limit, &limits[0], &segment, index).await;

        // At another node, over another client's connection, for another verb.
        let refused = client.put(&limits[0].limit, &limits[1], &segment, 0).await;
        assert_eq!(refused, Err(Code::BadLimit), "another node");
        let other = Client::dial(&world).await;
        let refused = other.put(&limits[0].limit, &limits[0], &segment, 0).await;
        assert_eq!(refused, Err(Code::BadLimit), "another client");
        assert_eq!(client.get(&limits[0]).await, Err(Code::Denied), "get");
        assert_eq!(client.delete(&limits[0]).await, Err(Code::Denied), "delete");

        // Altered in any one bit, cut short at any length, or with something after its end.
        let genuine = &limits[0].limit;
        for at in 0..genuine.len() {
            let mut altered = genuine.clone();
            altered[at] ^= 1 << (at % 8);
            let refused = put(&altered, 0).await.unwrap_err();
            // Bytes of the epoch name keys that do not exist.
            let is_right = matches!(refused, Code::BadLimit | Code::StaleLimit);
            assert!(is_right, "byte {at}: {refused:?}");
            assert_eq!(
                put(&genuine[..at], 0).await,
                Err(Code::BadLimit),
                "{at} bytes"
            );
        }
        let longer = [&genuine[..], &[0]].concat();
        assert_eq!(put(&longer, 0).await, Err(Code::BadLimit), "a byte more");

        // With another piece's bytes, or not all of them, the attempt fails, and the limit stays good.
        assert_eq!(put(genuine, 1).await, Err(Code::BadPiece), "another piece");
        let short = segment.bodies[0].slice(..segment.bodies[0].len() - 64);
        let refused = client.send(genuine, &limits[0], short, None).await;
        assert_eq!(refused, Err(Code::BadPiece), "a body cut short");
        let receipt = put(genuine, 0).await.unwrap();
        assert_eq!(put(genuine, 0).await, Err(Code::BadLimit), "used up");
        let mut receipts = vec![receipt];
        receipts.extend(client.put_all(&limits[1..8], &segment).await);
        client
            .commit_segment(&stream_id, 0, &segment, &receipts)
            .await
            .unwrap();
        client.commit_object(&stream_id, PLAIN_LEN).await.unwrap();

        // A limit to get pays for the bytes once, at its node, and for nothing but getting.
        let gets = client.get_segment("object", &stream_id).await;
        let put = client.put(&gets[0].limit, &gets[0], &segment, 0).await;
        assert_eq!(put, Err(Code::Denied), "put");
        let elsewhere = pb::PieceLimit {
            limit: gets[0].limit.clone(),
            ..gets[1].clone()
        };
        assert_eq!(client.get(&elsewhere).await, Err(Code::BadLimit));
        for (index, limit) in gets.iter().enumerate() {
            let body = client.get(limit).await.unwrap();
            assert!(body == segment.bodies[index], "piece {index}");
            assert_eq!(client.get(limit).await, Err(Code::BadLimit), "{index}");
        }
    });
    // What was committed is no object of this project's passphrase: the real client says so.
    let error = world.download_fails("object", b"");
    assert_eq!(error.exit(), uplink::Exit::Denied, "{error}");
}

/// Goal: a segment is committed with the receipts of its own pieces and no others. Method: genuine receipts of real nodes
/// for another segment, another upload, an earlier beginning of the same segment, and damaged ones, are presented to the
/// satellite; then the right ones.
#[test]
fn a_segment_is_committed_with_its_own_receipts_and_no_others() {
    let world = World::start(10, SCHEME);
    world.block_on(async {
        let client = Client::dial(&world).await;
        let (mine, theirs) = (Segment::new(1), Segment::new(2));
        let stream_id = client.begin_object("object").await;
        let stored = async |stream_id: &[u8], segment_index, segment: &Segment| {
            let limits = client.begin_segment(stream_id, segment_index).await;
            client.put_all(&limits[..8], segment).await
        };
        // Of the same content, so that roots and commitment fit.
        let other_stream_id = client.begin_object("other").await;
        let of_other_upload = stored(&other_stream_id, 0, &mine).await;
        let of_other_segment = stored(&stream_id, 1, &mine).await;
        let of_earlier_beginning = stored(&stream_id, 0, &mine).await;
        let of_other_content = stored(&stream_id, 2, &theirs).await;
        let good = stored(&stream_id, 0, &mine).await;
        let refuses = async |what: &str, receipts: &[Vec<u8>]| {
            let refused = client.commit_segment(&stream_id, 0, &mine, receipts).await;
            assert_eq!(refused, Err(Code::BadReceipt), "{what}");
        };

        refuses("another upload's", &of_other_upload).await;
        refuses("another segment's", &of_other_segment).await;
        refuses("of an earlier beginning", &of_earlier_beginning).await;
        refuses("of another content", &of_other_content).await;
        for at in 0..good.len() {
            let with = |receipt: &[u8]| {
                let mut receipts = good.clone();
                receipts[at] = receipt.to_vec();
                receipts
            };
            refuses("one of another upload", &with(&of_other_upload[at])).await;
            refuses("one of another segment", &with(&of_other_segment[at])).await;
            refuses("one of before", &with(&of_earlier_beginning[at])).await;
            refuses("one twice", &with(&good[(at + 1) % good.len()])).await;
            refuses("one cut short", &with(&good[at][..good[at].len() - 1])).await;
        }
        for at in 0..good[0].len() {
            let mut altered = good.clone();
            altered[0][at] ^= 1 << (at % 8);
            refuses("altered", &altered).await;
        }
        refuses("too few", &good[..6]).await;
        let nine = [&good[..], &good[..1]].concat();
        refuses("one too many", &nine).await;
        // The right receipts for another content than the nodes have checked.
        let refused = client.commit_segment(&stream_id, 0, &theirs, &good).await;
        assert_eq!(refused, Err(Code::BadReceipt), "another commitment");
        let refused = client
            .commit_segment(&other_stream_id, 0, &mine, &good)
            .await;
        assert_eq!(refused, Err(Code::BadReceipt), "to another upload");

        // None of it spoilt what is right; once it is committed it stays so.
        client
            .commit_segment(&stream_id, 0, &mine, &good)
            .await
            .unwrap();
        let again = client.commit_segment(&stream_id, 0, &mine, &good).await;
        assert_eq!(again, Ok(()), "the answer was lost");
        let refused = client
            .commit_segment(&stream_id, 0, &theirs, &of_other_content)
            .await;
        assert_eq!(refused, Err(Code::Conflict), "committed already");
        client.commit_object(&stream_id, PLAIN_LEN).await.unwrap();
        let gets = client.get_segment("object", &stream_id).await;
        assert_eq!(gets.len(), 8);
        for (index, limit) in gets.iter().enumerate() {
            assert!(client.get(limit).await.unwrap() == mine.bodies[index]);
        }
    });
}

/// Pieces that lead to one commitment. Nodes cannot know whether the code made them.
struct Segment {
    bodies: Vec<Bytes>,
    tree: SegmentTree,
}

impl Segment {
    fn new(seed: u64) -> Self {
        let shape = Shape::new(4, 10, sealed_len(PLAIN_LEN)).unwrap();
        let piece_len = usize::try_from(shape.piece_len()).unwrap();
        let bytes = Bytes::from(content(seed, 10 * piece_len));
        let bodies: Vec<Bytes> = (0..10)
            .map(|index| bytes.slice(index * piece_len..(index + 1) * piece_len))
            .collect();
        let root = |body: &Bytes| {
            let mut hasher = PieceHasher::new(shape.piece_len());
            let mut rest = &body[..];
            for share in 0..shape.share_count() {
                hasher.push_share(rest.split_off(..shape.share_len(share)).unwrap());
            }
            hasher.finish().root
        };
        let roots: Vec<_> = bodies.iter().map(root).collect();
        Self {
            tree: SegmentTree::new(&shape, &roots).unwrap(),
            bodies,
        }
    }

    fn commit(&self, index: u8) -> pb::PutCommit {
        pb::PutCommit {
            commitment: self.tree.commitment().to_vec(),
            path: self.tree.path(index).concat(),
        }
    }
}

/// A client that may say anything.
struct Client {
    dialer: Dialer,
    satellite: Connection,
    macaroon: Vec<u8>,
    keys: Vec<(String, Vec<u8>)>,
}

impl Client {
    async fn dial(world: &World) -> Self {
        let dialer = Dialer::new(Identity::generate()).unwrap();
        let address = world.layout.satellite_address.to_string();
        let satellite = dialer.dial(world.layout.satellite_id, &address, SATELLITE_ALPN);
        let encrypt = |name: &str| {
            let key = ObjectKey::parse(name).unwrap();
            let path = world.grant.path_key(BUCKET, Names::Sealed, &key);
            (name.to_owned(), path.unwrap().0)
        };
        Self {
            satellite: satellite.await.unwrap(),
            dialer,
            macaroon: world.invitation.macaroon.as_bytes().to_vec(),
            keys: ["object", "other"].map(encrypt).to_vec(),
        }
    }

    /// Puts the piece of this index with a limit, at the node that `place` names.
    async fn put(
        &self,
        limit: &[u8],
        place: &pb::PieceLimit,
        segment: &Segment,
        index: u8,
    ) -> Result<Vec<u8>, Code> {
        let body = segment.bodies[usize::from(index)].clone();
        let commit = segment.commit(index);
        self.send(limit, place, body, Some(commit)).await
    }

    /// Puts a body, and what should follow it.
    async fn send(
        &self,
        limit: &[u8],
        place: &pb::PieceLimit,
        body: Bytes,
        commit: Option<pb::PutCommit>,
    ) -> Result<Vec<u8>, Code> {
        let send = async {
            let mut exchange = self.node(place).await.open().await?;
            let limit = limit.to_vec();
            let verb = Some(node_request::Verb::Put(pb::PutRequest { limit }));
            exchange.send.frame(&pb::NodeRequest { verb }).await?;
            let admitted: pb::NodeResponse = exchange.recv.answer(NODE_FRAME_BYTES_MAX).await?;
            let is_admitted =
                matches!(admitted.answer, Some(node_response::Answer::PutAdmitted(_)));
            assert!(is_admitted, "{admitted:?}");
            exchange.send.bytes(body).await?;
            if let Some(commit) = commit {
                exchange.send.frame(&commit).await?;
            }
            exchange.send.finish();
            let receipt: pb::NodeResponse = exchange.recv.answer(NODE_FRAME_BYTES_MAX).await?;
            Ok(receipt.answer)
        };
        match within_patience(send).await? {
            Some(node_response::Answer::PutReceipt(put)) => Ok(put.receipt),
            other => panic!("{other:?}"),
        }
    }

    /// Puts each limit's own piece.
    async fn put_all(&self, limits: &[pb::PieceLimit], segment: &Segment) -> Vec<Vec<u8>> {
        let mut receipts = Vec::new();
        for limit in limits {
            let index = u8::try_from(limit.index).unwrap();
            let receipt = self.put(&limit.limit, limit, segment, index).await;
            receipts.push(receipt.unwrap());
        }
        receipts
    }

    /// The bytes of a piece, which are not checked.
    async fn get(&self, limit: &pb::PieceLimit) -> Result<Vec<u8>, Code> {
        let get = async {
            let mut exchange = self.node(limit).await.open().await?;
            let verb = Some(node_request::Verb::Get(pb::GetRequest {
                limit: limit.limit.clone(),
                first_leaf: 0,
                leaf_count: 0,
            }));
            exchange.send.frame(&pb::NodeRequest { verb }).await?;
            exchange.send.finish();
            let answer: pb::NodeResponse = exchange.recv.answer(NODE_FRAME_BYTES_MAX).await?;
            assert!(matches!(answer.answer, Some(node_response::Answer::Get(_))));
            let mut bytes = Vec::new();
            while let Some(chunk) = exchange.recv.chunk(usize::MAX).await? {
                bytes.extend_from_slice(&chunk);
            }
            Ok(bytes)
        };
        let mut bytes = within_patience(get).await?;
        let shape = Shape::new(4, 10, sealed_len(PLAIN_LEN)).unwrap();
        let body_start = bytes.len() - usize::try_from(shape.piece_len()).unwrap();
        Ok(bytes.split_off(body_start))
    }

    async fn delete(&self, limit: &pb::PieceLimit) -> Result<(), Code> {
        let verb = Some(node_request::Verb::Delete(pb::DeleteRequest {
            limit: limit.limit.clone(),
        }));
        let node = self.node(limit).await;
        let request = pb::NodeRequest { verb };
        let answer = node.call::<pb::NodeResponse>(&request, NODE_FRAME_BYTES_MAX, ANSWER_PATIENCE);
        within_patience(answer).await.map(drop)
    }

    async fn node(&self, place: &pb::PieceLimit) -> Connection {
        let node_id = NodeId::try_from(place.node_id.as_slice()).unwrap();
        self.dialer
            .dial(node_id, &place.address, NODE_ALPN)
            .await
            .unwrap()
    }

    async fn ask(&self, verb: satellite_request::Verb) -> Result<satellite_response::Answer, Code> {
        let request = pb::SatelliteRequest {
            macaroon: self.macaroon.clone(),
            verb: Some(verb),
        };
        let answer = self.satellite.call::<pb::SatelliteResponse>(
            &request,
            SATELLITE_FRAME_BYTES_MAX,
            ANSWER_PATIENCE,
        );
        Ok(within_patience(answer).await?.answer.unwrap())
    }

    async fn begin_object(&self, name: &str) -> Vec<u8> {
        let begin = pb::BeginObject {
            bucket: BUCKET.to_owned(),
            encrypted_key: self.encrypted_key(name),
            expires_ms: 0,
        };
        match self.ask(satellite_request::Verb::BeginObject(begin)).await {
            Ok(satellite_response::Answer::BegunObject(begun)) => begun.stream_id,
            other => panic!("{other:?}"),
        }
    }

    /// Limits for all pieces, by index.
    async fn begin_segment(&self, stream_id: &[u8], segment_index: u32) -> Vec<pb::PieceLimit> {
        let begin = pb::BeginSegment {
            stream_id: stream_id.to_vec(),
            position: position(segment_index),
            sealed_len: sealed_len(PLAIN_LEN),
        };
        self.limits(satellite_request::Verb::BeginSegment(begin))
            .await
    }

    async fn get_segment(&self, name: &str, stream_id: &[u8]) -> Vec<pb::PieceLimit> {
        let get = pb::GetSegment {
            bucket: BUCKET.to_owned(),
            encrypted_key: self.encrypted_key(name),
            stream_id: stream_id.to_vec(),
            position: position(0),
        };
        self.limits(satellite_request::Verb::GetSegment(get)).await
    }

    async fn limits(&self, verb: satellite_request::Verb) -> Vec<pb::PieceLimit> {
        match self.ask(verb).await {
            Ok(satellite_response::Answer::PieceLimits(mut limits)) => {
                limits.limits.sort_unstable_by_key(|limit| limit.index);
                limits.limits
            }
            other => panic!("{other:?}"),
        }
    }

    async fn commit_segment(
        &self,
        stream_id: &[u8],
        segment_index: u32,
        segment: &Segment,
        receipts: &[Vec<u8>],
    ) -> Result<(), Code> {
        let commit = pb::CommitSegment {
            stream_id: stream_id.to_vec(),
            position: position(segment_index),
            plain_len: PLAIN_LEN,
            sealed_len: sealed_len(PLAIN_LEN),
            salt: vec![2; 24],
            key_commitment: vec![3; 32],
            commitment: segment.tree.commitment().to_vec(),
            receipts: receipts.to_vec(),
        };
        self.ask(satellite_request::Verb::CommitSegment(commit))
            .await
            .map(drop)
    }

    async fn commit_object(&self, stream_id: &[u8], plain_len: u64) -> Result<(), Code> {
        let commit = pb::CommitObject {
            stream_id: stream_id.to_vec(),
            sealed_header: vec![9; 44],
            plain_len,
        };
        self.ask(satellite_request::Verb::CommitObject(commit))
            .await
            .map(drop)
    }

    fn encrypted_key(&self, name: &str) -> Vec<u8> {
        let found = self.keys.iter().find(|key| key.0 == name);
        found.unwrap().1.clone()
    }
}

/// What a peer answered, or the code it refused with; anything else ends the test.
async fn within_patience<T>(
    answer: impl Future<Output = Result<T, StreamError>>,
) -> Result<T, Code> {
    match tokio::time::timeout(ANSWER_PATIENCE, answer).await.unwrap() {
        Ok(answer) => Ok(answer),
        Err(StreamError::Answer { code, .. }) => Err(code),
        Err(other) => panic!("{other}"),
    }
}

fn position(segment_index: u32) -> u64 {
    Position {
        part_number: 1,
        segment_index,
    }
    .into()
}
