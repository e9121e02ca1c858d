//! A network in this process: a satellite and nodes over real QUIC, pieces in memory, faults on
//! demand.
//!
//! They keep the rules of docs/wire.md that a client can break (a limit is used once, an index is
//! committed once, with the receipt of the node that holds it last, bodies fit their commitment)
//! and answer as the real ones would. What they do not have: macaroon checks, limits' MACs, disks.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};

use strand_codec::Shape;
use strand_protocol::limits::SATELLITE_FRAME_BYTES_MAX;
use strand_protocol::path::{Names, first_component_len};
use strand_protocol::pb::satellite_request::Verb;
use strand_protocol::pb::satellite_response::Answer;
use strand_protocol::{Code, Invitation, Macaroon, ProjectId, Receipt, Scheme, pb};
use strand_transport::{Exchange, Identity, Role, SATELLITE_ALPN, Server};

use super::node::{Node, Permit, keys};

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

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).unwrap();
    bytes
}
