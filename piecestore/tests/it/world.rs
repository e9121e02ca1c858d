//! A satellite that only checks nodes in, nodes as real processes, and a client.

use std::collections::HashMap;
use std::fmt::Debug;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use strand_codec::{
    Hash, PieceHasher, PieceTree, SHARE_BYTES, SegmentTree, Shape, commitment_of_path,
    root_of_share_hashes, share_hash,
};
use strand_protocol::pb::node_request::Verb;
use strand_protocol::pb::node_response::Answer;
use strand_protocol::pb::{satellite_request, satellite_response};
use strand_protocol::permit::{Limit, LimitAction, LimitFields, Receipt, SatelliteKeys};
use strand_protocol::{Code, NodeId, PieceId, ProjectId, Serial, pb};
use strand_transport::{
    Connection, Dialer, Identity, NODE_ALPN, Role, SATELLITE_ALPN, Server, StreamError,
};

/// The epoch of the satellite's keys.
pub(crate) const EPOCH: u32 = 3;

/// How long anything may take that should happen soon.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Frames of the satellite's and the node's answers.
const FRAME_BYTES_MAX: usize = 4 << 20;

/// Runs a test on a runtime of its own.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    runtime.unwrap().block_on(future)
}

/// Asks until the answer is there.
pub(crate) async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(
            began.elapsed() < PATIENCE,
            "{what}: not within {PATIENCE:?}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub(crate) fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_millis() as u64
}

/// Bytes that differ from call to call.
pub(crate) fn bytes(len: usize) -> Vec<u8> {
    static CALLS: AtomicU64 = AtomicU64::new(0);
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&CALLS.fetch_add(1, Ordering::Relaxed).to_le_bytes());
    seed[8..12].copy_from_slice(&std::process::id().to_le_bytes());
    let mut bytes = vec![0; len];
    blake3::Hasher::new_keyed(&seed)
        .finalize_xof()
        .fill(&mut bytes);
    bytes
}

fn array<const N: usize>() -> [u8; N] {
    bytes(N).try_into().unwrap()
}

/// What the satellite knows of a node.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) check_in: pb::CheckIn,
    pub(crate) reachable: bool,
    pub(crate) count: usize,
}

/// A satellite that gives keys, dials back, and knows nothing else.
pub(crate) struct Satellite {
    pub(crate) id: NodeId,
    pub(crate) address: SocketAddr,
    pub(crate) keys: Arc<SatelliteKeys>,
    seen: Arc<Mutex<HashMap<NodeId, Seen>>>,
    serving: tokio::task::JoinHandle<()>,
}

impl Satellite {
    pub(crate) async fn start() -> Self {
        Self::start_as(&Identity::generate(), "127.0.0.1:0".parse().unwrap()).await
    }

    pub(crate) async fn start_as(identity: &Identity, address: SocketAddr) -> Self {
        let server = Server::bind(identity, address, SATELLITE_ALPN, Role::SatelliteServer).await;
        let server = server.unwrap();
        let address = server.local_address().unwrap();
        let keys = Arc::new(SatelliteKeys::new([7; 32]));
        let seen: Arc<Mutex<HashMap<NodeId, Seen>>> = Arc::default();
        let (their_keys, their_seen) = (Arc::clone(&keys), Arc::clone(&seen));
        let serving = tokio::spawn(async move {
            while let Some(accepting) = server.accept().await {
                let (keys, seen) = (Arc::clone(&their_keys), Arc::clone(&their_seen));
                tokio::spawn(async move {
                    let Ok(connection) = accepting.connection().await else {
                        return;
                    };
                    while check_in(&connection, &keys, &seen).await.is_ok() {}
                });
            }
        });
        Self {
            id: identity.node_id(),
            address,
            keys,
            seen,
            serving,
        }
    }

    pub(crate) fn seen(&self, node: NodeId) -> Option<Seen> {
        self.seen.lock().unwrap().get(&node).cloned()
    }

    /// Waits for a check-in of a process that started later than this.
    pub(crate) async fn reached(&self, node: NodeId, started_after_ms: u64) -> Seen {
        eventually("a check-in with a dial-back", async || {
            self.seen(node)
                .filter(|seen| seen.reachable && seen.check_in.started_ms >= started_after_ms)
        })
        .await
    }

    /// As `setup --satellite` wants it.
    pub(crate) fn to_argument(&self) -> String {
        format!("{}@{}", self.id, self.address)
    }
}

impl Drop for Satellite {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn check_in(
    connection: &Connection,
    keys: &SatelliteKeys,
    seen: &Mutex<HashMap<NodeId, Seen>>,
) -> Result<(), StreamError> {
    let mut exchange = connection.accept_exchange().await?;
    let request: pb::SatelliteRequest = exchange.recv.frame(FRAME_BYTES_MAX).await?;
    let Some(satellite_request::Verb::CheckIn(check_in)) = request.verb else {
        panic!("a node only checks in: {request:?}")
    };
    let node = connection.peer();
    let reason = dial_back(node, &check_in.advertise).await.err();
    let epoch_keys = |epoch| pb::NodeKeys {
        epoch,
        limit_key: keys.limit_key(&node, epoch).as_bytes().to_vec(),
        receipt_key: keys.receipt_key(&node, epoch).as_bytes().to_vec(),
    };
    let answer = pb::CheckedIn {
        now_ms: now_ms(),
        keys: vec![epoch_keys(EPOCH), epoch_keys(EPOCH - 1)],
        reachable: reason.is_none(),
        reason: reason.clone().unwrap_or_default(),
        observed: connection.remote_address().to_string(),
        ..pb::CheckedIn::default()
    };
    let answer = satellite_response::Answer::CheckedIn(answer);
    exchange
        .send
        .frame(&pb::SatelliteResponse {
            answer: Some(answer),
        })
        .await?;
    exchange.send.finish();
    exchange.send.delivered().await?;
    let mut seen = seen.lock().unwrap();
    let count = seen.get(&node).map_or(0, |seen| seen.count) + 1;
    seen.insert(
        node,
        Seen {
            check_in,
            reachable: reason.is_none(),
            count,
        },
    );
    Ok(())
}

async fn dial_back(node: NodeId, address: &str) -> Result<(), String> {
    let dialer = Dialer::new(Identity::generate()).map_err(|error| error.to_string())?;
    let within = Duration::from_secs(2);
    let connection = dialer.dial_within(node, address, NODE_ALPN, within).await;
    let connection = connection.map_err(|error| error.to_string())?;
    let ping = pb::NodeRequest {
        verb: Some(Verb::Ping(pb::Ping {})),
    };
    let answer: pb::NodeResponse = connection
        .call(&ping, FRAME_BYTES_MAX, within)
        .await
        .map_err(|error| error.to_string())?;
    match answer.answer {
        Some(Answer::Pong(pong)) if pong.node_id == node.as_bytes() => Ok(()),
        other => Err(format!("{other:?}")),
    }
}

/// The program under test.
pub(crate) fn piecestore() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_piecestore"));
    command.stdin(Stdio::null()).env_remove("RUST_LOG");
    command
}

/// What a command printed and how it ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs a command to its end.
pub(crate) fn run(arguments: &[&str]) -> Ran {
    let output = piecestore().args(arguments).output().unwrap();
    Ran {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Makes a node's directory; gives its path and its id.
pub(crate) fn set_up(root: &Path, name: &str, satellite: &str, more: &[&str]) -> (PathBuf, NodeId) {
    let dir = root.join(name);
    let path = dir.to_str().unwrap();
    let mut arguments = vec!["setup", "--dir", path, "--satellite", satellite];
    arguments.extend(["--capacity", "1GB", "--listen", "127.0.0.1:0"]);
    arguments.extend(more);
    let ran = run(&arguments);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let node = Identity::load(&dir.join("identity.key")).unwrap().node_id();
    (dir, node)
}

/// Makes the directories of so many nodes.
pub(crate) fn set_up_many(
    root: &Path,
    count: usize,
    satellite: &Satellite,
) -> Vec<(PathBuf, NodeId)> {
    let argument = satellite.to_argument();
    (0..count)
        .map(|index| set_up(root, &format!("node{index}"), &argument, &[]))
        .collect()
}

/// `status --json` of a running node.
pub(crate) fn status(dir: &Path) -> serde_json::Value {
    let ran = run(&["status", "--json", "--dir", dir.to_str().unwrap()]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    serde_json::from_str(&ran.stdout).unwrap()
}

/// A running node process; killed when dropped.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    pub(crate) started_ms: u64,
    pub(crate) serving: Vec<String>,
    /// What was printed before that, of nodes that take their time.
    pub(crate) opening: Vec<String>,
    lines: std::io::Lines<BufReader<ChildStdout>>,
    log: std::thread::JoinHandle<String>,
}

impl Process {
    /// Starts `piecestore run` and waits until every node serves.
    pub(crate) fn start(dirs: &[&Path], more: &[&str]) -> Self {
        Self::start_expecting(dirs.len(), dirs, more)
    }

    /// Starts `piecestore run` and waits until so many nodes serve.
    pub(crate) fn start_expecting(count: usize, dirs: &[&Path], more: &[&str]) -> Self {
        let mut process = Self::begin(dirs, more);
        process.wait_until_serving(count);
        process
    }

    /// Starts `piecestore run`, and waits for nothing.
    pub(crate) fn begin(dirs: &[&Path], more: &[&str]) -> Self {
        Self::begin_as(piecestore(), dirs, more)
    }

    /// As [`begin`](Self::begin), by a command that was prepared.
    pub(crate) fn begin_as(mut command: Command, dirs: &[&Path], more: &[&str]) -> Self {
        let started_ms = now_ms();
        command
            .arg("run")
            .args(more)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        dirs.iter().for_each(|dir| {
            command.arg("--dir").arg(dir);
        });
        let mut child = command.spawn().unwrap();
        let mut stderr = child.stderr.take().unwrap();
        let log = std::thread::spawn(move || {
            let mut log = String::new();
            stderr.read_to_string(&mut log).unwrap();
            log
        });
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self {
            child,
            started_ms,
            serving: Vec::new(),
            opening: Vec::new(),
            lines,
            log,
        }
    }

    /// Waits until so many nodes serve.
    pub(crate) fn wait_until_serving(&mut self, count: usize) {
        while self.serving.len() < count {
            let Some(line) = self.lines.next() else {
                let status = self.child.wait().unwrap();
                let log = std::mem::replace(&mut self.log, std::thread::spawn(String::new));
                let log = log.join().unwrap();
                panic!("ended with {status} instead of serving: {log}");
            };
            let line = line.unwrap();
            if line.starts_with("opening ") {
                self.opening.push(line);
            } else {
                self.serving.push(line);
            }
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// kill -9, and waits.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM, and waits; gives how it ended and what it logged.
    pub(crate) fn stop(mut self) -> (ExitStatus, String) {
        let pid = self.child.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-TERM", &pid])
                .status()
                .unwrap()
                .success()
        );
        let began = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if began.elapsed() > PATIENCE {
                self.child.kill().unwrap();
                panic!("does not stop");
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        let log = std::mem::replace(&mut self.log, std::thread::spawn(String::new));
        (status, log.join().unwrap())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended; either way nothing is left of it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A segment of which one piece's bytes are known.
#[derive(Clone)]
pub(crate) struct Segment {
    pub(crate) shape: Shape,
    pub(crate) index: u8,
    pub(crate) body: Bytes,
    pub(crate) tree: Arc<PieceTree>,
    pub(crate) path: Vec<Hash>,
    pub(crate) commitment: Hash,
    pub(crate) id: PieceId,
}

impl Segment {
    pub(crate) fn new(required: u8, total: u8, plain_len: u64) -> Self {
        let shape = Shape::new(required, total, strand_codec::sealed_len(plain_len)).unwrap();
        let index = bytes(1)[0] % total;
        let body = Bytes::from(bytes(shape.piece_len() as usize));
        let mut hasher = PieceHasher::new(shape.piece_len());
        body.chunks(SHARE_BYTES)
            .for_each(|share| hasher.push_share(share));
        let tree = hasher.finish();
        let mut roots: Vec<Hash> = (0..total).map(|_| array()).collect();
        roots[usize::from(index)] = tree.root;
        let segment = SegmentTree::new(&shape, &roots).unwrap();
        Self {
            shape,
            index,
            body,
            path: segment.path(index),
            commitment: segment.commitment(),
            tree: Arc::new(tree),
            id: PieceId::from(array::<32>()),
        }
    }

    pub(crate) fn commit(&self) -> pb::PutCommit {
        pb::PutCommit {
            commitment: self.commitment.to_vec(),
            path: self.path.concat(),
        }
    }
}

/// Why a request gave nothing.
#[derive(Debug)]
pub(crate) enum Refused {
    Code(Code),
    Broken(#[expect(dead_code, reason = "for the message of a failed test")] StreamError),
}

impl From<StreamError> for Refused {
    fn from(error: StreamError) -> Self {
        match error {
            StreamError::Answer { code, .. } => Self::Code(code),
            error => Self::Broken(error),
        }
    }
}

/// A client with one connection to one node.
#[derive(Clone)]
pub(crate) struct Client {
    dialer: Arc<Dialer>,
    pub(crate) connection: Connection,
    satellite: NodeId,
    keys: Arc<SatelliteKeys>,
}

impl Client {
    pub(crate) async fn connect(satellite: &Satellite, node: NodeId) -> Self {
        let dialer = Dialer::new(Identity::generate()).unwrap();
        let address = satellite.seen(node).unwrap().check_in.advertise;
        let connection = dialer.dial(node, &address, NODE_ALPN).await.unwrap();
        Self {
            dialer: Arc::new(dialer),
            connection,
            satellite: satellite.id,
            keys: Arc::clone(&satellite.keys),
        }
    }

    pub(crate) fn fields(&self, action: LimitAction, segment: &Segment) -> LimitFields {
        let now_ms = now_ms();
        LimitFields {
            serial: Serial::from(array::<16>()),
            satellite: self.satellite,
            node: self.connection.peer(),
            piece_id: segment.id,
            action,
            byte_count: segment.shape.piece_len(),
            required: segment.shape.required(),
            total: segment.shape.total(),
            index: segment.index,
            sealed_len: segment.shape.sealed_len(),
            issued_ms: now_ms,
            expires_ms: now_ms + 3_600_000,
            piece_expiry_ms: 0,
            client: self.dialer.node_id(),
            epoch: EPOCH,
        }
    }

    pub(crate) fn limit(&self, action: LimitAction, segment: &Segment) -> Vec<u8> {
        Limit::mint(
            &self.fields(action, segment),
            ProjectId::from([5; 16]),
            &self.keys,
        )
    }

    /// Asks for room; the exchange goes on with the body.
    pub(crate) async fn admit(
        &self,
        segment: &Segment,
    ) -> Result<strand_transport::Exchange, Refused> {
        let mut exchange = self.connection.open().await?;
        let limit = self.limit(LimitAction::Put, segment);
        let verb = Some(Verb::Put(pb::PutRequest { limit }));
        exchange.send.frame(&pb::NodeRequest { verb }).await?;
        let answer: pb::NodeResponse = exchange.recv.answer(FRAME_BYTES_MAX).await?;
        assert!(
            matches!(answer.answer, Some(Answer::PutAdmitted(_))),
            "{answer:?}"
        );
        Ok(exchange)
    }

    /// Puts a piece and checks the receipt.
    pub(crate) async fn put(&self, segment: &Segment) -> Result<Receipt, Refused> {
        let mut exchange = self.admit(segment).await?;
        exchange.send.bytes(segment.body.clone()).await?;
        exchange.send.frame(&segment.commit()).await?;
        exchange.send.finish();
        let answer: pb::NodeResponse = exchange.recv.answer(FRAME_BYTES_MAX).await?;
        let Some(Answer::PutReceipt(pb::PutReceipt { receipt })) = answer.answer else {
            panic!("{answer:?}")
        };
        let key = self.keys.receipt_key(&self.connection.peer(), EPOCH);
        let receipt = Receipt::parse(&receipt).unwrap().verify(&key).unwrap();
        assert_eq!(
            (receipt.piece_id, receipt.root),
            (segment.id, segment.tree.root)
        );
        assert_eq!(receipt.commitment, segment.commitment);
        Ok(receipt)
    }

    /// Asks for a whole piece; the exchange goes on with its bytes.
    pub(crate) async fn begin_get(
        &self,
        fields: &LimitFields,
    ) -> Result<(pb::GetHeader, strand_transport::Exchange), Refused> {
        let mut exchange = self.connection.open().await?;
        let limit = Limit::mint(fields, ProjectId::from([5; 16]), &self.keys);
        let verb = Verb::Get(pb::GetRequest {
            limit,
            first_leaf: 0,
            leaf_count: 0,
        });
        exchange
            .send
            .frame(&pb::NodeRequest { verb: Some(verb) })
            .await?;
        exchange.send.finish();
        let answer: pb::NodeResponse = exchange.recv.answer(FRAME_BYTES_MAX).await?;
        let Some(Answer::Get(header)) = answer.answer else {
            panic!("{answer:?}")
        };
        Ok((header, exchange))
    }

    /// Gets the whole piece, checked as a client checks it.
    pub(crate) async fn get(&self, segment: &Segment) -> Result<Vec<u8>, Refused> {
        let (header, mut exchange) = self
            .begin_get(&self.fields(LimitAction::Get, segment))
            .await?;
        let root: Hash = header.root.try_into().unwrap();
        let path = header.path.as_chunks::<32>().0;
        let commitment = commitment_of_path(&segment.shape, segment.index, &root, path);
        assert_eq!(commitment, Ok(segment.commitment));
        let piece_len = segment.shape.piece_len();
        let share_count = segment.shape.share_count();
        let mut hashes = vec![root];
        if share_count > 1 {
            let mut bytes = vec![0; 32 * share_count as usize];
            exchange.recv.read_exact(&mut bytes).await?;
            hashes = bytes.as_chunks::<32>().0.to_vec();
            assert_eq!(root_of_share_hashes(piece_len, &hashes), Ok(root));
        }
        let mut body = vec![0; piece_len as usize];
        exchange.recv.read_exact(&mut body).await?;
        for (index, share) in body.chunks(SHARE_BYTES).enumerate() {
            assert_eq!(share_hash(piece_len, index as u32, share), hashes[index]);
        }
        assert!(exchange.recv.chunk(1).await?.is_none());
        Ok(body)
    }

    pub(crate) async fn delete(&self, segment: &Segment) -> Result<bool, Refused> {
        let limit = self.limit(LimitAction::Delete, segment);
        let verb = Some(Verb::Delete(pb::DeleteRequest { limit }));
        let answer: pb::NodeResponse = self
            .connection
            .call(&pb::NodeRequest { verb }, FRAME_BYTES_MAX, PATIENCE)
            .await?;
        let Some(Answer::Deleted(pb::Deleted { existed })) = answer.answer else {
            panic!("{answer:?}")
        };
        Ok(existed)
    }
}

/// The code of something that was refused.
pub(crate) fn code<T: Debug>(result: Result<T, Refused>) -> Code {
    match result {
        Err(Refused::Code(code)) => code,
        other => panic!("not refused: {other:?}"),
    }
}
