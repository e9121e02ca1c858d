//! A network in this process: a satellite and nodes over real QUIC, pieces in memory, faults on demand.
//!
//! They keep the rules of docs/wire.md that a client can break (a limit is used once, an index is committed once, with the receipt of the
//! node that holds it last, bodies fit their commitment) and answer as the real ones would. What they do not have: macaroon checks, MACs, disks.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use strand_codec::{PieceHasher, PieceTree, Shape, commitment_of_path, prove_slice};
use strand_protocol::limits::{NODE_FRAME_BYTES_MAX, SATELLITE_FRAME_BYTES_MAX};
use strand_protocol::path::{Names, first_component_len};
use strand_protocol::pb::node_request::Verb as NodeVerb;
use strand_protocol::pb::node_response::Answer as NodeAnswer;
use strand_protocol::pb::satellite_request::Verb;
use strand_protocol::pb::satellite_response::Answer;
use strand_protocol::{
    Code, Invitation, Macaroon, NodeId, ProjectId, Receipt, SatelliteKeys, Scheme, pb,
};
use strand_transport::{Exchange, Identity, NODE_ALPN, Role, SATELLITE_ALPN, Server};

/// What a node does wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Fault {
    #[default]
    None,
    /// Answers every put with BUSY.
    Busy,
    /// Has lost its pieces.
    NotFound,
    /// Serves true hashes and a body with one bit changed.
    Altered,
    /// Serves another piece of the same length in place of the right one, complete with its own root and path.
    Swapped,
    /// Ends the stream in the middle of the body.
    Truncated,
    /// Sends the header, some bytes, and then nothing.
    Stalls,
    /// Accepts connections and never answers.
    Silent,
    /// Admits a put and takes the whole body, but never acknowledges it.
    NoReceipt,
    /// Acknowledges with bytes that are no receipt.
    BadReceipt,
    /// Breaks off in the middle of a put.
    Breaks,
    /// Refuses the first limit of each get as stale.
    StaleOnce,
    /// Serves share hashes that fit nothing.
    WrongHashes,
}

#[derive(Clone)]
struct Piece {
    bytes: Bytes,
    root: [u8; 32],
    path: Vec<u8>,
    tree: Arc<PieceTree>,
}

/// A node. Pieces are its disk.
pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) address: SocketAddr,
    fault: Mutex<Fault>,
    pieces: Mutex<HashMap<[u8; 32], Piece>>,
    used: Mutex<HashSet<[u8; 16]>>,
    stale_left: AtomicU32,
    pub(crate) get_count: AtomicUsize,
    server: Arc<Server>,
}

/// What a limit says here: the client handles it as bytes.
struct Permit {
    serial: [u8; 16],
    piece_id: [u8; 32],
    shape: Shape,
    index: u8,
}

impl Permit {
    fn encode(
        serial: [u8; 16],
        piece_id: [u8; 32],
        scheme: Scheme,
        sealed_len: u64,
        index: u8,
    ) -> Vec<u8> {
        let mut bytes = serial.to_vec();
        bytes.extend_from_slice(&piece_id);
        bytes.extend_from_slice(&[scheme.required, scheme.total, index]);
        bytes.extend_from_slice(&sealed_len.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Self {
        let sealed_len = u64::from_le_bytes(bytes[51..59].try_into().unwrap());
        Self {
            serial: bytes[..16].try_into().unwrap(),
            piece_id: bytes[16..48].try_into().unwrap(),
            shape: Shape::new(bytes[48], bytes[49], sealed_len).unwrap(),
            index: bytes[50],
        }
    }
}

impl Node {
    async fn start() -> Arc<Self> {
        let identity = Identity::generate();
        let address = "127.0.0.1:0".parse().unwrap();
        let server = Server::bind(&identity, address, NODE_ALPN, Role::NodeServer)
            .await
            .unwrap();
        let node = Arc::new(Self {
            id: identity.node_id(),
            address: server.local_address().unwrap(),
            fault: Mutex::default(),
            pieces: Mutex::default(),
            used: Mutex::default(),
            stale_left: AtomicU32::new(1),
            get_count: AtomicUsize::new(0),
            server: Arc::new(server),
        });
        let serving = node.clone();
        tokio::spawn(async move {
            while let Some(accepting) = serving.server.accept().await {
                let node = serving.clone();
                tokio::spawn(async move {
                    let Ok(connection) = accepting.connection().await else {
                        return;
                    };
                    while let Ok(exchange) = connection.accept_exchange().await {
                        let node = node.clone();
                        tokio::spawn(async move { node.serve(exchange).await });
                    }
                });
            }
        });
        node
    }

    pub(crate) fn fault(&self) -> Fault {
        *self.fault.lock().unwrap()
    }

    pub(crate) fn set_fault(&self, fault: Fault) {
        *self.fault.lock().unwrap() = fault;
    }

    /// Nobody answers at its address any more.
    pub(crate) async fn stop(&self) {
        self.server.close(Code::Shutdown).await;
    }

    async fn serve(&self, mut exchange: Exchange) {
        let fault = self.fault();
        if fault == Fault::Silent {
            tokio::time::sleep(Duration::from_secs(60)).await;
            return;
        }
        let Ok(request) = exchange
            .recv
            .frame::<pb::NodeRequest>(NODE_FRAME_BYTES_MAX)
            .await
        else {
            return;
        };
        // A client that goes away ends the exchange; that is no fault of the node's.
        let _ = match request.verb.unwrap() {
            NodeVerb::Put(put) => {
                self.put(&mut exchange, Permit::decode(&put.limit), fault)
                    .await
            }
            NodeVerb::Get(get) => self.get(&mut exchange, &get, fault).await,
            verb => panic!("the client does not send {verb:?}"),
        };
    }

    async fn put(
        &self,
        exchange: &mut Exchange,
        permit: Permit,
        fault: Fault,
    ) -> Result<(), strand_transport::StreamError> {
        if fault == Fault::Busy {
            return refuse(exchange, Code::Busy).await;
        }
        assert!(
            !self.used.lock().unwrap().contains(&permit.serial),
            "a limit is used once"
        );
        answer(exchange, NodeAnswer::PutAdmitted(pb::PutAdmitted {})).await?;
        let mut bytes = vec![0; permit.shape.piece_len() as usize];
        if fault == Fault::Breaks {
            let half = bytes.len() / 2;
            exchange.recv.read_exact(&mut bytes[..half]).await?;
            exchange.reset(Code::Internal);
            return Ok(());
        }
        exchange.recv.read_exact(&mut bytes).await?;
        let commit: pb::PutCommit = exchange.recv.frame(NODE_FRAME_BYTES_MAX).await?;
        if fault == Fault::NoReceipt {
            tokio::time::sleep(Duration::from_secs(60)).await;
            return Ok(());
        }
        let tree = hash_piece(&permit.shape, &bytes);
        let (path, _) = commit.path.as_chunks::<32>();
        let commitment = commitment_of_path(&permit.shape, permit.index, &tree.root, path).unwrap();
        assert_eq!(
            commitment.to_vec(),
            commit.commitment,
            "root and path lead to the commitment"
        );
        let root = tree.root;
        let piece = Piece {
            bytes: Bytes::from(bytes),
            root,
            path: commit.path,
            tree: Arc::new(tree),
        };
        self.pieces.lock().unwrap().insert(permit.piece_id, piece);
        self.used.lock().unwrap().insert(permit.serial);
        let receipt = if fault == Fault::BadReceipt {
            b"received, trust me".to_vec()
        } else {
            let receipt = Receipt {
                serial: permit.serial.into(),
                node: self.id,
                piece_id: permit.piece_id.into(),
                index: permit.index,
                piece_len: permit.shape.piece_len(),
                root,
                commitment,
                piece_expiry_ms: 0,
                epoch: 1,
            };
            receipt.mint(&keys().receipt_key(&self.id, 1))
        };
        answer(exchange, NodeAnswer::PutReceipt(pb::PutReceipt { receipt })).await?;
        exchange.send.finish();
        let _ = exchange.send.delivered().await;
        Ok(())
    }

    async fn get(
        &self,
        exchange: &mut Exchange,
        get: &pb::GetRequest,
        fault: Fault,
    ) -> Result<(), strand_transport::StreamError> {
        let permit = Permit::decode(&get.limit);
        self.get_count.fetch_add(1, Ordering::Relaxed);
        assert!(
            self.used.lock().unwrap().insert(permit.serial),
            "a limit is used once"
        );
        if fault == Fault::StaleOnce && self.stale_left.swap(0, Ordering::Relaxed) > 0 {
            return refuse(exchange, Code::StaleLimit).await;
        }
        let found = self.pieces.lock().unwrap().get(&permit.piece_id).cloned();
        let Some(mut piece) = found.filter(|_| fault != Fault::NotFound) else {
            return refuse(exchange, Code::NotFound).await;
        };
        if fault == Fault::Swapped {
            let other: Vec<u8> = piece.bytes.iter().rev().copied().collect();
            let tree = hash_piece(&permit.shape, &other);
            piece = Piece {
                bytes: other.into(),
                root: tree.root,
                path: piece.path,
                tree: Arc::new(tree),
            };
        }
        let header = pb::GetHeader {
            root: piece.root.to_vec(),
            path: piece.path.clone(),
        };
        answer(exchange, NodeAnswer::Get(header)).await?;
        let piece_len = permit.shape.piece_len();
        let (hashes, mut body) = if get.leaf_count == 0 {
            (piece.tree.share_hashes.clone(), piece.bytes.to_vec())
        } else {
            let leaves = get.first_leaf..get.first_leaf + get.leaf_count;
            let share = |share: u32| {
                let start = permit.shape.share_offset(share) as usize;
                piece.bytes[start..start + permit.shape.share_len(share)].to_vec()
            };
            let proof =
                prove_slice(piece_len, &piece.tree.share_hashes, leaves.clone(), share).unwrap();
            let end = (leaves.end as usize * 1_024).min(piece_len as usize);
            (
                proof,
                piece.bytes[leaves.start as usize * 1_024..end].to_vec(),
            )
        };
        let mut hashes = hashes.concat();
        match fault {
            Fault::Altered => {
                let at = body.len() * 2 / 3;
                body[at] ^= 0x10;
            }
            Fault::WrongHashes => hashes.iter_mut().for_each(|byte| *byte ^= 1),
            Fault::Truncated => body.truncate(body.len() / 2),
            Fault::Stalls => {
                body.truncate(body.len() / 3);
                exchange.send.bytes(hashes.into()).await?;
                exchange.send.bytes(body.into()).await?;
                tokio::time::sleep(Duration::from_secs(60)).await;
                return Ok(());
            }
            _ => {}
        }
        exchange.send.bytes(hashes.into()).await?;
        exchange.send.bytes(body.into()).await?;
        exchange.send.finish();
        let _ = exchange.send.delivered().await;
        Ok(())
    }
}

fn hash_piece(shape: &Shape, bytes: &[u8]) -> PieceTree {
    let mut hasher = PieceHasher::new(shape.piece_len());
    for share in 0..shape.share_count() {
        let start = shape.share_offset(share) as usize;
        hasher.push_share(&bytes[start..start + shape.share_len(share)]);
    }
    hasher.finish()
}

async fn answer(
    exchange: &mut Exchange,
    answer: NodeAnswer,
) -> Result<(), strand_transport::StreamError> {
    exchange
        .send
        .frame(&pb::NodeResponse {
            answer: Some(answer),
        })
        .await
}

async fn refuse(exchange: &mut Exchange, code: Code) -> Result<(), strand_transport::StreamError> {
    answer(
        exchange,
        NodeAnswer::Error(code.error("as the test wants it")),
    )
    .await?;
    exchange.send.finish();
    let _ = exchange.send.delivered().await;
    Ok(())
}

/// A committed or pending segment.
#[derive(Clone, Default)]
struct Segment {
    message: pb::Segment,
    /// By index: serial, piece id, number of the node.
    issued: BTreeMap<u8, ([u8; 16], [u8; 32], usize)>,
    committed: BTreeSet<u8>,
    used_nodes: BTreeSet<usize>,
}

#[derive(Clone, Default)]
struct Object {
    message: pb::Object,
    segments: BTreeMap<u64, Segment>,
    bucket: String,
}

#[derive(Default)]
struct Tables {
    check_value: Vec<u8>,
    buckets: BTreeMap<String, i32>,
    uploads: HashMap<Vec<u8>, Object>,
    objects: BTreeMap<(String, Vec<u8>), Object>,
    abort_count: usize,
    next_node: usize,
}

/// The satellite and its nodes.
pub(crate) struct Network {
    pub(crate) nodes: Vec<Arc<Node>>,
    scheme: Scheme,
    tables: Mutex<Tables>,
    invitation: Mutex<Option<Invitation>>,
    server: Arc<Server>,
    /// Changes what GetObject answers, to play a satellite that lies.
    pub(crate) tamper: Mutex<Option<fn(&mut pb::Object)>>,
}

type Refused = pb::Error;

impl Network {
    pub(crate) async fn start(scheme: Scheme, node_count: usize) -> Arc<Self> {
        let identity = Identity::generate();
        let address = "127.0.0.1:0".parse().unwrap();
        let server = Server::bind(&identity, address, SATELLITE_ALPN, Role::SatelliteServer)
            .await
            .unwrap();
        let project = ProjectId::from([7; 16]);
        let invitation = Invitation {
            address: server.local_address().unwrap().to_string(),
            satellite: identity.node_id(),
            macaroon: Macaroon::mint(&[1; 32], project, [2; 16]),
            salt: [3; 32],
            project,
            project_name: "beach".to_owned(),
        };
        let mut nodes = Vec::new();
        for _ in 0..node_count {
            nodes.push(Node::start().await);
        }
        let network = Arc::new(Self {
            nodes,
            scheme,
            tables: Mutex::default(),
            invitation: Mutex::new(Some(invitation)),
            server: Arc::new(server),
            tamper: Mutex::new(None),
        });
        let serving = network.clone();
        tokio::spawn(async move {
            while let Some(accepting) = serving.server.accept().await {
                let network = serving.clone();
                tokio::spawn(async move {
                    let Ok(connection) = accepting.connection().await else {
                        return;
                    };
                    while let Ok(exchange) = connection.accept_exchange().await {
                        let network = network.clone();
                        tokio::spawn(async move { network.serve(exchange).await });
                    }
                });
            }
        });
        network
    }

    pub(crate) fn invitation(&self) -> Invitation {
        self.invitation.lock().unwrap().clone().unwrap()
    }

    pub(crate) async fn stop_satellite(&self) {
        self.server.close(Code::Shutdown).await;
    }

    pub(crate) fn object_count(&self) -> usize {
        self.tables.lock().unwrap().objects.len()
    }

    pub(crate) fn upload_count(&self) -> usize {
        self.tables.lock().unwrap().uploads.len()
    }

    pub(crate) fn abort_count(&self) -> usize {
        self.tables.lock().unwrap().abort_count
    }

    /// Which node holds which committed piece of a segment of the only object: by index.
    pub(crate) fn placements(&self, position: usize) -> BTreeMap<u8, Arc<Node>> {
        let tables = self.tables.lock().unwrap();
        let object = tables.objects.values().next().unwrap();
        let segment = object.segments.values().nth(position).unwrap();
        segment
            .committed
            .iter()
            .map(|index| (*index, self.nodes[segment.issued[index].2].clone()))
            .collect()
    }

    async fn serve(&self, mut exchange: Exchange) {
        let Ok(request) = exchange
            .recv
            .frame::<pb::SatelliteRequest>(SATELLITE_FRAME_BYTES_MAX)
            .await
        else {
            return;
        };
        let answer = match self.decide(request.verb.unwrap()) {
            Ok(answer) => answer,
            Err(error) => Answer::Error(error),
        };
        let response = pb::SatelliteResponse {
            answer: Some(answer),
        };
        if exchange.send.frame(&response).await.is_ok() {
            exchange.send.finish();
            let _ = exchange.send.delivered().await;
        }
    }

    fn decide(&self, verb: Verb) -> Result<Answer, Refused> {
        let mut tables = self.tables.lock().unwrap();
        let tables = &mut *tables;
        match verb {
            Verb::GetProject(_) => {
                let invitation = self.invitation();
                Ok(Answer::Project(pb::Project {
                    project_id: invitation.project.as_bytes().to_vec(),
                    name: invitation.project_name.clone(),
                    salt: invitation.salt.to_vec(),
                    check_value: tables.check_value.clone(),
                }))
            }
            Verb::SetCheckValue(set) => {
                if !tables.check_value.is_empty()
                    && tables.check_value != set.check_value
                    && !set.replace
                {
                    return Err(Code::Conflict.error("another check value is set"));
                }
                tables.check_value = set.check_value;
                Ok(Answer::Done(pb::Done {}))
            }
            Verb::CreateBucket(create) => {
                if tables.buckets.contains_key(&create.name) {
                    return Err(Code::Conflict.error("exists"));
                }
                tables.buckets.insert(create.name, create.name_mode);
                Ok(Answer::Done(pb::Done {}))
            }
            Verb::DeleteBucket(delete) => {
                if tables
                    .objects
                    .keys()
                    .any(|(bucket, _)| *bucket == delete.name)
                {
                    return Err(Code::Conflict.error("not empty"));
                }
                let removed = tables.buckets.remove(&delete.name);
                removed
                    .map(|_| Answer::Done(pb::Done {}))
                    .ok_or_else(|| Code::NotFound.error("no such bucket"))
            }
            Verb::ListBuckets(_) => {
                let buckets = tables
                    .buckets
                    .iter()
                    .map(|(name, mode)| bucket(name, *mode))
                    .collect();
                Ok(Answer::Buckets(pb::Buckets { buckets }))
            }
            Verb::GetBucket(get) => {
                let mode = tables
                    .buckets
                    .get(&get.name)
                    .ok_or_else(|| Code::NotFound.error("no such bucket"))?;
                Ok(Answer::Bucket(bucket(&get.name, *mode)))
            }
            Verb::BeginObject(begin) => {
                if !tables.buckets.contains_key(&begin.bucket) {
                    return Err(Code::NotFound.error("no such bucket"));
                }
                let stream_id = random::<16>().to_vec();
                let message = pb::Object {
                    encrypted_key: begin.encrypted_key,
                    stream_id: stream_id.clone(),
                    expires_ms: begin.expires_ms,
                    created_ms: 1_700_000_000_000,
                    ..pb::Object::default()
                };
                let object = Object {
                    message,
                    bucket: begin.bucket,
                    ..Object::default()
                };
                tables.uploads.insert(stream_id.clone(), object);
                Ok(Answer::BegunObject(pb::BegunObject {
                    stream_id,
                    scheme: Some(self.scheme.into()),
                }))
            }
            Verb::BeginSegment(begin) => self.begin_segment(tables, &begin),
            Verb::ReplacePieces(replace) => self.replace_pieces(tables, &replace),
            Verb::CommitSegment(commit) => self.commit_segment(tables, commit),
            Verb::InlineSegment(inline) => {
                let upload = upload(tables, &inline.stream_id)?;
                let message = pb::Segment {
                    position: inline.position,
                    plain_len: inline.plain_len,
                    sealed_len: inline.sealed.len() as u64,
                    salt: inline.salt,
                    key_commitment: inline.key_commitment,
                    commitment: inline.commitment,
                    inline_sealed: inline.sealed,
                    ..pb::Segment::default()
                };
                upload.segments.insert(
                    inline.position,
                    Segment {
                        message,
                        ..Segment::default()
                    },
                );
                Ok(Answer::Done(pb::Done {}))
            }
            Verb::CommitObject(commit) => {
                let mut object = tables
                    .uploads
                    .remove(&commit.stream_id)
                    .ok_or_else(|| Code::NotFound.error("no such upload"))?;
                object.message.sealed_header = commit.sealed_header;
                object.message.plain_len = commit.plain_len;
                object.message.segment_count = object.segments.len() as u32;
                let listed = object
                    .segments
                    .values()
                    .map(|segment| segment.message.clone());
                object.message.segments = listed.collect();
                let key = (object.bucket.clone(), object.message.encrypted_key.clone());
                let replaced = tables.objects.insert(key, object).is_some();
                Ok(Answer::CommittedObject(pb::CommittedObject {
                    created_ms: 1_700_000_000_000,
                    replaced,
                }))
            }
            Verb::AbortObject(abort) => {
                tables.abort_count += 1;
                tables.uploads.remove(&abort.stream_id);
                Ok(Answer::Done(pb::Done {}))
            }
            Verb::GetObject(get) => {
                let mut message = object(tables, &get.bucket, &get.encrypted_key)?
                    .message
                    .clone();
                if get.header_only {
                    message.segments.clear();
                }
                if let Some(tamper) = *self.tamper.lock().unwrap() {
                    tamper(&mut message);
                }
                Ok(Answer::Object(message))
            }
            Verb::GetSegment(get) => {
                let object = object(tables, &get.bucket, &get.encrypted_key)?;
                let segment = object
                    .segments
                    .get(&get.position)
                    .ok_or_else(|| Code::NotFound.error("no such segment"))?;
                let limits = segment.committed.iter().map(|index| {
                    let (_, piece_id, node) = segment.issued[index];
                    self.limit(*index, node, random(), piece_id, segment.message.sealed_len)
                });
                let limits = limits.collect();
                Ok(Answer::PieceLimits(pb::PieceLimits {
                    limits,
                    segment: Some(segment.message.clone()),
                }))
            }
            Verb::ListObjects(list) => Ok(Answer::ObjectList(list_objects(tables, &list))),
            Verb::DeleteObject(delete) => {
                let removed = tables
                    .objects
                    .remove(&(delete.bucket, delete.encrypted_key));
                removed
                    .map(|_| Answer::Done(pb::Done {}))
                    .ok_or_else(|| Code::NotFound.error("no such object"))
            }
            verb => panic!("the client does not send {verb:?}"),
        }
    }

    fn limit(
        &self,
        index: u8,
        node: usize,
        serial: [u8; 16],
        piece_id: [u8; 32],
        sealed_len: u64,
    ) -> pb::PieceLimit {
        pb::PieceLimit {
            index: index.into(),
            node_id: self.nodes[node].id.as_bytes().to_vec(),
            address: self.nodes[node].address.to_string(),
            limit: Permit::encode(serial, piece_id, self.scheme, sealed_len, index),
        }
    }

    fn begin_segment(
        &self,
        tables: &mut Tables,
        begin: &pb::BeginSegment,
    ) -> Result<Answer, Refused> {
        let least = usize::from(self.scheme.optimal.min(self.scheme.repair + 1));
        if self.nodes.len() < least {
            let message = format!("{least} nodes needed, {} found", self.nodes.len());
            return Err(Code::NoNodes.error(message));
        }
        tables.next_node += 1;
        let first = tables.next_node;
        let message = pb::Segment {
            position: begin.position,
            sealed_len: begin.sealed_len,
            scheme: Some(self.scheme.into()),
            ..pb::Segment::default()
        };
        let mut segment = Segment {
            message,
            ..Segment::default()
        };
        let mut limits = Vec::new();
        // With fewer nodes than indices, data comes first.
        for index in (0..self.scheme.total).take(self.nodes.len()) {
            // Another order each time: indices are not tied to nodes.
            let node = (first * 5 + usize::from(index)) % self.nodes.len();
            let (serial, piece_id) = (random(), random());
            segment.issued.insert(index, (serial, piece_id, node));
            segment.used_nodes.insert(node);
            limits.push(self.limit(index, node, serial, piece_id, begin.sealed_len));
        }
        upload(tables, &begin.stream_id)?
            .segments
            .insert(begin.position, segment);
        Ok(Answer::PieceLimits(pb::PieceLimits {
            limits,
            segment: None,
        }))
    }

    fn replace_pieces(
        &self,
        tables: &mut Tables,
        replace: &pb::ReplacePieces,
    ) -> Result<Answer, Refused> {
        let upload = upload(tables, &replace.stream_id)?;
        let segment = upload.segments.get_mut(&replace.position).unwrap();
        let mut limits = Vec::new();
        for index in &replace.indices {
            let Some(node) = (0..self.nodes.len()).find(|node| !segment.used_nodes.contains(node))
            else {
                break;
            };
            let index = *index as u8;
            let (serial, piece_id) = (random(), random());
            segment.issued.insert(index, (serial, piece_id, node));
            segment.used_nodes.insert(node);
            limits.push(self.limit(index, node, serial, piece_id, segment.message.sealed_len));
        }
        if limits.is_empty() {
            return Err(Code::NoNodes.error("1 more node needed, 0 found"));
        }
        Ok(Answer::PieceLimits(pb::PieceLimits {
            limits,
            segment: None,
        }))
    }

    fn commit_segment(
        &self,
        tables: &mut Tables,
        commit: pb::CommitSegment,
    ) -> Result<Answer, Refused> {
        let scheme = self.scheme;
        let upload = upload(tables, &commit.stream_id)?;
        let segment = upload.segments.get_mut(&commit.position).unwrap();
        let count = commit.receipts.len();
        assert!(
            count == usize::from(scheme.optimal)
                || (count > usize::from(scheme.repair) && count < usize::from(scheme.optimal)),
            "{count} receipts"
        );
        let mut last = None;
        for bytes in &commit.receipts {
            let receipt = Receipt::parse(bytes).unwrap();
            let receipt = receipt
                .verify(&keys().receipt_key(&receipt.node(), receipt.epoch()))
                .unwrap();
            let (serial, piece_id, node) = segment.issued[&receipt.index];
            if *receipt.serial.as_bytes() != serial {
                return Err(Code::BadReceipt.error("a receipt of a replaced or foreign serial"));
            }
            assert_eq!(
                (receipt.node, *receipt.piece_id.as_bytes()),
                (self.nodes[node].id, piece_id)
            );
            assert!(last < Some(receipt.index), "each index once, data first");
            assert_eq!(
                receipt.commitment[..],
                commit.commitment[..],
                "one commitment"
            );
            last = Some(receipt.index);
            segment.committed.insert(receipt.index);
        }
        assert_eq!(segment.message.sealed_len, commit.sealed_len);
        segment.message.plain_len = commit.plain_len;
        segment.message.salt = commit.salt;
        segment.message.key_commitment = commit.key_commitment;
        segment.message.commitment = commit.commitment;
        segment.message.piece_count = count as u32;
        let shape = Shape::new(scheme.required, scheme.total, commit.sealed_len).unwrap();
        upload.message.piece_bytes += count as u64 * shape.piece_len();
        Ok(Answer::Done(pb::Done {}))
    }
}

fn bucket(name: &str, name_mode: i32) -> pb::Bucket {
    pb::Bucket {
        name: name.to_owned(),
        name_mode,
        created_ms: 1_700_000_000_000,
    }
}

fn upload<'a>(tables: &'a mut Tables, stream_id: &[u8]) -> Result<&'a mut Object, Refused> {
    tables
        .uploads
        .get_mut(stream_id)
        .ok_or_else(|| Code::NotFound.error("no such upload"))
}

fn object<'a>(tables: &'a Tables, bucket: &str, key: &[u8]) -> Result<&'a Object, Refused> {
    tables
        .objects
        .get(&(bucket.to_owned(), key.to_vec()))
        .ok_or_else(|| Code::NotFound.error("no such object"))
}

/// Two entries a page, so that paging is tried; an object and a prefix of the same bytes share one.
fn list_objects(tables: &Tables, list: &pb::ListObjects) -> pb::ObjectList {
    const PAGE: usize = 2;
    let is_plain = tables.buckets[&list.bucket] == i32::from(pb::NameMode::Plain);
    let names = if is_plain {
        Names::Plain
    } else {
        Names::Sealed
    };
    let mut entries: BTreeMap<(Vec<u8>, bool), pb::ListEntry> = BTreeMap::new();
    for ((bucket, key), object) in &tables.objects {
        let Some(rest) = key
            .strip_prefix(&list.prefix[..])
            .filter(|_| *bucket == list.bucket)
        else {
            continue;
        };
        if rest.is_empty() && !is_plain {
            continue;
        }
        let first = if rest.is_empty() {
            0
        } else {
            first_component_len(names, rest).unwrap()
        };
        let is_folded =
            list.delimiter && (first < rest.len() || (is_plain && rest.ends_with(b"/")));
        if is_folded {
            let prefix = key[..list.prefix.len() + first].to_vec();
            let entry = pb::ListEntry {
                object: None,
                prefix: prefix.clone(),
            };
            entries.insert((prefix, true), entry);
        } else {
            let message = pb::Object {
                segments: Vec::new(),
                ..object.message.clone()
            };
            let entry = pb::ListEntry {
                object: Some(message),
                prefix: Vec::new(),
            };
            entries.insert((key.clone(), false), entry);
        }
    }
    let rest: Vec<_> = entries
        .into_iter()
        .filter(|((key, _), _)| *key > list.after)
        .collect();
    let mut count = PAGE.min(rest.len());
    while count < rest.len() && rest[count].0.0 == rest[count - 1].0.0 {
        count += 1;
    }
    let more = rest.len() > count;
    pb::ObjectList {
        entries: rest
            .into_iter()
            .take(count)
            .map(|(_, entry)| entry)
            .collect(),
        more,
    }
}

fn keys() -> SatelliteKeys {
    SatelliteKeys::new([5; 32])
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).unwrap();
    bytes
}
