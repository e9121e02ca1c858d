//! A satellite and its nodes in this process, on loopback addresses of distinct /24 networks.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use satellite::{GcOptions, RunOptions, Running, SetupOptions};
use strand_codec::{Shape, inline_commitment, sealed_len};
use strand_protocol::pb::satellite_request::Verb;
use strand_protocol::pb::satellite_response::Answer;
use strand_protocol::{
    Code, Invitation, Limit, LimitAction, LimitKey, NodeId, PieceId, Position, Receipt, ReceiptKey,
    Scheme, limits, pb,
};
use strand_transport::{
    Connection, Dialer, Identity, NODE_ALPN, Role, SATELLITE_ALPN, Server, StreamError,
};

/// Room that a node says it has.
const FREE_BYTES: u64 = 1 << 40;

pub(crate) struct Network {
    pub(crate) running: Running,
    pub(crate) invitation: Invitation,
    pub(crate) nodes: Vec<Node>,
    pub(crate) dir: tempfile::TempDir,
}

/// A node: a server that answers pings and deletes, and the keys the satellite gave it.
pub(crate) struct Node {
    pub(crate) identity: Identity,
    pub(crate) address: SocketAddr,
    keys: Vec<(u32, LimitKey, ReceiptKey)>,
    deleted: Arc<Mutex<Vec<PieceId>>>,
    server: Arc<Server>,
}

/// A client with an ephemeral key and a macaroon.
pub(crate) struct Client {
    pub(crate) dialer: Dialer,
    pub(crate) connection: Connection,
    pub(crate) macaroon: Vec<u8>,
}

/// What a request was refused with.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) code: Code,
    pub(crate) message: String,
}

pub(crate) fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_millis() as u64
}

pub(crate) fn scheme() -> Scheme {
    Scheme::new(4, 6, 8, 10).unwrap()
}

impl Network {
    /// A satellite with `node_count` nodes that have checked in, and one project.
    pub(crate) async fn start(node_count: u8, scheme: Option<Scheme>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = SetupOptions {
            dir: dir.path().to_owned(),
            listen: (Ipv4Addr::LOCALHOST, 0).into(),
            advertise: None,
            scheme,
        };
        satellite::setup(&options).unwrap();
        let running = run(dir.path()).await;
        let invitation = running.create_project("photos").await.unwrap();
        let mut network = Self {
            running,
            invitation,
            nodes: Vec::new(),
            dir,
        };
        for number in 0..node_count {
            network.add_node(number).await;
        }
        network
    }

    /// Adds a node in the network 127.0.`number`.0/24.
    pub(crate) async fn add_node(&mut self, number: u8) {
        let mut node = Node::start(number).await;
        let checked_in = node.check_in(&self.running, |_| {}).await;
        assert!(checked_in.reachable, "{}", checked_in.reason);
        self.nodes.push(node);
    }

    pub(crate) fn node(&self, id: &[u8]) -> &Node {
        self.nodes
            .iter()
            .find(|node| node.identity.node_id().as_bytes()[..] == *id)
            .unwrap()
    }

    pub(crate) async fn client(&self) -> Client {
        let dialer = Dialer::new(Identity::generate()).unwrap();
        let address = self.running.advertised_address();
        let connection = dialer
            .dial(self.running.node_id(), address, SATELLITE_ALPN)
            .await
            .unwrap();
        Client {
            dialer,
            connection,
            macaroon: self.invitation.macaroon.as_bytes().to_vec(),
        }
    }

    /// Receipts for these limits, each from the node it names.
    pub(crate) fn receipts(
        &self,
        client: &Client,
        limits: &[pb::PieceLimit],
        commitment: [u8; 32],
    ) -> Vec<Vec<u8>> {
        let receipt = |limit: &pb::PieceLimit| {
            self.node(&limit.node_id)
                .receipt(client, limit, commitment, |_| {})
        };
        limits.iter().map(receipt).collect()
    }
}

pub(crate) async fn run(dir: &std::path::Path) -> Running {
    Running::start(&RunOptions {
        dir: dir.to_owned(),
        scheme: None,
        gc: GcOptions {
            danger_margin: Duration::ZERO,
            ..GcOptions::default()
        },
    })
    .await
    .unwrap()
}

impl Node {
    pub(crate) async fn start(number: u8) -> Self {
        let identity = Identity::generate();
        let bind = SocketAddr::from((Ipv4Addr::new(127, 0, number, 1), 0));
        let server = Server::bind(&identity, bind, NODE_ALPN, Role::NodeServer)
            .await
            .unwrap();
        let server = Arc::new(server);
        let node = Self {
            address: server.local_address().unwrap(),
            identity,
            keys: Vec::new(),
            deleted: Arc::default(),
            server: server.clone(),
        };
        tokio::spawn(serve(server, node.identity.node_id(), node.deleted.clone()));
        node
    }

    /// Checks in, after `change` to what is said.
    pub(crate) async fn check_in(
        &mut self,
        running: &Running,
        change: impl FnOnce(&mut pb::CheckIn),
    ) -> pb::CheckedIn {
        let dialer = Dialer::new(self.identity.clone()).unwrap();
        let address = running.listen_address().to_string();
        let connection = dialer
            .dial(running.node_id(), &address, SATELLITE_ALPN)
            .await
            .unwrap();
        let mut request = pb::CheckIn {
            version: "test".to_owned(),
            advertise: self.address.to_string(),
            capacity_bytes: FREE_BYTES,
            used_bytes: 0,
            free_bytes: FREE_BYTES,
            now_ms: now_ms(),
            started_ms: now_ms(),
            ..pb::CheckIn::default()
        };
        change(&mut request);
        let client = Client {
            dialer,
            connection,
            macaroon: Vec::new(),
        };
        let answer = client.ask(Verb::CheckIn(request)).await.unwrap();
        let Answer::CheckedIn(checked_in) = answer else {
            panic!("{answer:?}")
        };
        let key = |keys: &pb::NodeKeys| {
            let limit = <[u8; 32]>::try_from(keys.limit_key.as_slice()).unwrap();
            let receipt = <[u8; 32]>::try_from(keys.receipt_key.as_slice()).unwrap();
            (keys.epoch, LimitKey::from(limit), ReceiptKey::from(receipt))
        };
        self.keys = checked_in.keys.iter().map(key).collect();
        checked_in
    }

    pub(crate) async fn stop(&self) {
        self.server.close(Code::Shutdown).await;
    }

    /// Pieces that it was asked to delete, with limits it could verify.
    pub(crate) fn deleted(&self) -> Vec<PieceId> {
        self.deleted.lock().unwrap().clone()
    }

    /// Believes a limit as a node would, for this client's connection.
    pub(crate) fn verify(&self, client: &Client, limit: &pb::PieceLimit) -> Limit {
        let unverified = Limit::parse(&limit.limit).unwrap();
        let limit = unverified.verify(&self.key(unverified.epoch()).1).unwrap();
        assert_eq!(limit.node, self.identity.node_id());
        assert_eq!(limit.client, client.dialer.node_id());
        assert!(limit.issued_ms <= now_ms() && limit.expires_ms > now_ms());
        limit
    }

    /// A receipt for a piece that was never sent, after `change` to it. The MAC fits.
    pub(crate) fn receipt(
        &self,
        client: &Client,
        limit: &pb::PieceLimit,
        commitment: [u8; 32],
        change: impl FnOnce(&mut Receipt),
    ) -> Vec<u8> {
        let limit = self.verify(client, limit);
        assert_eq!(limit.action, LimitAction::Put);
        let shape = Shape::new(limit.required, limit.total, limit.sealed_len).unwrap();
        assert_eq!(limit.byte_count, shape.piece_len());
        let mut receipt = Receipt {
            serial: limit.serial,
            node: limit.node,
            piece_id: limit.piece_id,
            index: limit.index,
            piece_len: shape.piece_len(),
            root: [1; 32],
            commitment,
            piece_expiry_ms: limit.piece_expiry_ms,
            epoch: limit.epoch,
        };
        change(&mut receipt);
        receipt.mint(&self.key(receipt.epoch).2)
    }

    /// The key with which it believes limits of an epoch.
    pub(crate) fn limit_key(&self, epoch: u32) -> LimitKey {
        LimitKey::from(*self.key(epoch).1.as_bytes())
    }

    fn key(&self, epoch: u32) -> &(u32, LimitKey, ReceiptKey) {
        self.keys
            .iter()
            .find(|(known, ..)| *known == epoch)
            .unwrap()
    }
}

async fn serve(server: Arc<Server>, id: NodeId, deleted: Arc<Mutex<Vec<PieceId>>>) {
    while let Some(newcomer) = server.accept().await {
        let deleted = deleted.clone();
        tokio::spawn(async move {
            let Ok(connection) = newcomer.connection().await else {
                return;
            };
            while let Ok(mut exchange) = connection.accept_exchange().await {
                let request = exchange.recv.frame(limits::NODE_FRAME_BYTES_MAX).await;
                let Ok(pb::NodeRequest { verb: Some(verb) }) = request else {
                    return;
                };
                let answer = match verb {
                    pb::node_request::Verb::Ping(_) => {
                        let node_id = id.as_bytes().to_vec();
                        let version = "test".to_owned();
                        pb::node_response::Answer::Pong(pb::Pong { version, node_id })
                    }
                    pb::node_request::Verb::Delete(request) => {
                        let limit = Limit::parse(&request.limit).unwrap();
                        assert_eq!(limit.node(), id);
                        // The key is not at hand here; the fields are what is tested.
                        deleted.lock().unwrap().push(piece_of(&request.limit));
                        pb::node_response::Answer::Deleted(pb::Deleted { existed: true })
                    }
                    _ => pb::node_response::Answer::Error(Code::Unsupported.error("a test node")),
                };
                let _ = exchange
                    .send
                    .frame(&pb::NodeResponse {
                        answer: Some(answer),
                    })
                    .await;
                exchange.send.finish();
            }
        });
    }
}

/// The piece id in a limit: field 4, behind 4 bytes of magic, 22 of serial and 38 each of
/// satellite and node.
fn piece_of(limit: &[u8]) -> PieceId {
    let at = 4 + 22 + 38 + 38 + 6;
    PieceId::try_from(&limit[at..at + 32]).unwrap()
}

impl Client {
    pub(crate) async fn ask(&self, verb: Verb) -> Result<Answer, Refused> {
        let request = pb::SatelliteRequest {
            macaroon: self.macaroon.clone(),
            verb: Some(verb),
        };
        let answer = self
            .connection
            .call::<pb::SatelliteResponse>(
                &request,
                limits::SATELLITE_FRAME_BYTES_MAX,
                Duration::from_secs(30),
            )
            .await;
        match answer {
            Ok(answer) => Ok(answer.answer.expect("an answer has something in it")),
            Err(StreamError::Answer { code, message, .. }) => Err(Refused { code, message }),
            Err(other) => panic!("{other}"),
        }
    }

    pub(crate) async fn create_bucket(&self, name: &str) {
        let name_mode = pb::NameMode::Plain.into();
        let create = pb::CreateBucket {
            name: name.to_owned(),
            name_mode,
        };
        self.ask(Verb::CreateBucket(create)).await.unwrap();
    }

    pub(crate) async fn begin_object(&self, key: &str) -> Vec<u8> {
        let begin = pb::BeginObject {
            bucket: "bucket".to_owned(),
            encrypted_key: key.as_bytes().to_vec(),
            expires_ms: 0,
        };
        match self.ask(Verb::BeginObject(begin)).await.unwrap() {
            Answer::BegunObject(begun) => begun.stream_id,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn begin_segment(
        &self,
        stream_id: &[u8],
        segment_index: u32,
        plain_len: u64,
    ) -> Vec<pb::PieceLimit> {
        let begin = pb::BeginSegment {
            stream_id: stream_id.to_vec(),
            position: position(segment_index),
            sealed_len: sealed_len(plain_len),
        };
        self.piece_limits(Verb::BeginSegment(begin)).await.unwrap()
    }

    pub(crate) async fn piece_limits(&self, verb: Verb) -> Result<Vec<pb::PieceLimit>, Refused> {
        match self.ask(verb).await? {
            Answer::PieceLimits(mut limits) => {
                limits.limits.sort_by_key(|limit| limit.index);
                Ok(limits.limits)
            }
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn commit_segment(
        &self,
        stream_id: &[u8],
        segment_index: u32,
        plain_len: u64,
        commitment: [u8; 32],
        receipts: Vec<Vec<u8>>,
    ) -> Result<(), Refused> {
        let commit = pb::CommitSegment {
            stream_id: stream_id.to_vec(),
            position: position(segment_index),
            plain_len,
            sealed_len: sealed_len(plain_len),
            salt: vec![2; 24],
            key_commitment: vec![3; 32],
            commitment: commitment.to_vec(),
            receipts,
        };
        self.ask(Verb::CommitSegment(commit)).await.map(drop)
    }

    pub(crate) async fn inline_segment(&self, stream_id: &[u8], segment_index: u32, plain: u8) {
        let sealed = vec![plain; 17];
        let inline = pb::InlineSegment {
            stream_id: stream_id.to_vec(),
            position: position(segment_index),
            plain_len: 1,
            salt: vec![2; 24],
            key_commitment: vec![3; 32],
            commitment: inline_commitment(&[2; 24], &[3; 32], &sealed).to_vec(),
            sealed,
        };
        self.ask(Verb::InlineSegment(inline)).await.unwrap();
    }

    pub(crate) async fn commit_object(
        &self,
        stream_id: &[u8],
        plain_len: u64,
    ) -> Result<pb::CommittedObject, Refused> {
        let sealed_header = [&stream_id[..4], &[9; 40]].concat();
        self.commit_object_with(stream_id, sealed_header, plain_len)
            .await
    }

    pub(crate) async fn commit_object_with(
        &self,
        stream_id: &[u8],
        sealed_header: Vec<u8>,
        plain_len: u64,
    ) -> Result<pb::CommittedObject, Refused> {
        let commit = pb::CommitObject {
            stream_id: stream_id.to_vec(),
            sealed_header,
            plain_len,
        };
        match self.ask(Verb::CommitObject(commit)).await? {
            Answer::CommittedObject(committed) => Ok(committed),
            other => panic!("{other:?}"),
        }
    }

    /// An object of one inline byte.
    pub(crate) async fn put_inline(&self, key: &str, plain: u8) -> Vec<u8> {
        let stream_id = self.begin_object(key).await;
        self.inline_segment(&stream_id, 0, plain).await;
        self.commit_object(&stream_id, 1).await.unwrap();
        stream_id
    }

    pub(crate) async fn object(&self, key: &str) -> Result<pb::Object, Refused> {
        let get = pb::GetObject {
            bucket: "bucket".to_owned(),
            encrypted_key: key.as_bytes().to_vec(),
            header_only: false,
        };
        match self.ask(Verb::GetObject(get)).await? {
            Answer::Object(object) => Ok(object),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn get_segment(
        &self,
        key: &str,
        stream_id: &[u8],
        segment_index: u32,
    ) -> Result<pb::PieceLimits, Refused> {
        let get = pb::GetSegment {
            bucket: "bucket".to_owned(),
            encrypted_key: key.as_bytes().to_vec(),
            stream_id: stream_id.to_vec(),
            position: position(segment_index),
        };
        match self.ask(Verb::GetSegment(get)).await? {
            Answer::PieceLimits(limits) => Ok(limits),
            other => panic!("{other:?}"),
        }
    }
}

pub(crate) fn position(segment_index: u32) -> u64 {
    Position {
        part_number: 1,
        segment_index,
    }
    .into()
}
