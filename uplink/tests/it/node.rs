//! A node of the network in this process: pieces in memory, faults on demand.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use strand_codec::{PieceHasher, PieceTree, Shape, commitment_of_path, prove_slice};
use strand_protocol::limits::NODE_FRAME_BYTES_MAX;
use strand_protocol::pb::node_request::Verb;
use strand_protocol::pb::node_response::Answer;
use strand_protocol::{Code, NodeId, Receipt, SatelliteKeys, Scheme, pb};
use strand_transport::{Exchange, Identity, NODE_ALPN, Role, Server};

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
    /// Serves another piece of the same length in place of the right one, complete with its own
    /// root and path.
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
pub(super) struct Permit {
    serial: [u8; 16],
    piece_id: [u8; 32],
    shape: Shape,
    index: u8,
}

impl Permit {
    pub(super) fn encode(
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
    pub(super) async fn start() -> Arc<Self> {
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
            Verb::Put(put) => {
                self.put(&mut exchange, Permit::decode(&put.limit), fault)
                    .await
            }
            Verb::Get(get) => self.get(&mut exchange, &get, fault).await,
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
        answer(exchange, Answer::PutAdmitted(pb::PutAdmitted {})).await?;
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
        answer(exchange, Answer::PutReceipt(pb::PutReceipt { receipt })).await?;
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
        answer(exchange, Answer::Get(header)).await?;
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
    answer: Answer,
) -> Result<(), strand_transport::StreamError> {
    exchange
        .send
        .frame(&pb::NodeResponse {
            answer: Some(answer),
        })
        .await
}

async fn refuse(exchange: &mut Exchange, code: Code) -> Result<(), strand_transport::StreamError> {
    answer(exchange, Answer::Error(code.error("as the test wants it"))).await?;
    exchange.send.finish();
    let _ = exchange.send.delivered().await;
    Ok(())
}

/// The keys of the satellite, which gives its nodes theirs.
pub(super) fn keys() -> SatelliteKeys {
    SatelliteKeys::new([5; 32])
}
