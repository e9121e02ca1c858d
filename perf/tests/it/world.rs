//! A whole network in this process: a satellite, nodes on one executor, and the client as a library.
//!
//! Sockets, disks, identities and the /24 of each node are real; what is missing are only the walls between processes.
//! Nodes are stopped and started again one by one, and everything lies in a folder that can be read when all is stopped.

use std::collections::HashMap;
use std::io::{Cursor, Read, Write};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use piecestore::admin::Board;
use piecestore::core::{Core, CoreOptions, CoreThread, Executor, Gate, Inbox, Outbox, mailbox};
use piecestore::directory::Directory;
use piecestore::hardware::{DiskTurn, TurnPass};
use piecestore::limits::READ_BUDGET_BYTES;
use piecestore::node::{Budgets, Node};
use piecestore::serve::Admission;
use satellite::{GcOptions, RunOptions, Running};
use strand_perf::local::{Layout, Plan, Seat, last_contacts};
use strand_perf::pieces::{Committed, Prober};
use strand_perf::random::RandomBytes;
use strand_protocol::grant::{Grant, Invitation};
use strand_protocol::path::{KdfParams, Names, ObjectKey};
use strand_protocol::permit::SatelliteKeys;
use strand_protocol::{NodeId, Scheme};
use strand_transport::read_secret;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use uplink::error::{DownloadError, UploadError};
use uplink::{
    Cancel, DownloadOptions, DownloadReport, Input, Output, Place, Quiet, Session, UploadOptions,
    UploadReport,
};

use crate::support::{BUCKET, PASSPHRASE, PROGRAM, turn};

/// How long anything may take that should happen soon.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Room for all bodies of a full segment at once: one executor serves what five processes serve in the demo.
const WRITE_BUDGET_BYTES: u64 = 512 << 20;

/// A running network of this process.
pub(crate) struct World {
    pub(crate) layout: Layout,
    pub(crate) invitation: Invitation,
    /// Everything that the project's owner has.
    pub(crate) grant: Grant,
    /// How the satellite collects garbage from its next start on.
    pub(crate) gc: GcOptions,
    runtime: Runtime,
    satellite: Option<Running>,
    asks: Option<Outbox<Ask>>,
    core: Option<CoreThread<()>>,
    /// All nodes lie on one disk, and take turns on it with compaction and scrub.
    disk_turn: DiskTurn,
    _dir: tempfile::TempDir,
    _turn: MutexGuard<'static, ()>,
}

/// What the nodes' core is asked to do; it answers when it is done.
enum Ask {
    Start(Vec<PathBuf>, Sender<()>),
    Stop(Vec<NodeId>, Sender<()>),
}

impl World {
    /// Starts a satellite and its nodes, with a project and a bucket, and returns once every node can be reached.
    pub(crate) fn start(node_count: usize, scheme: Scheme) -> Self {
        let turn = turn();
        // Below the target folder, because the temporary folder is memory on many systems.
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let plan = Plan {
            program: PathBuf::from(PROGRAM),
            dir: dir.path().to_owned(),
            node_count,
            scheme: Some(scheme),
            capacity: "4GB".to_owned(),
        };
        let layout = Layout::set_up(&plan).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let options = RunOptions {
            dir: layout.satellite_dir.clone(),
            scheme: None,
            gc: gc_options(),
        };
        let satellite = runtime.block_on(Running::start(&options)).unwrap();
        let invitation = runtime.block_on(satellite.create_project("test")).unwrap();
        let grant = Grant::from_invitation(&invitation, PASSPHRASE, KdfParams::default()).unwrap();
        piecestore::core::probe().unwrap();
        let (asks, inbox) = mailbox(1);
        let options = CoreOptions {
            index: 0,
            pin: None,
            open_files_max: 64,
            ..CoreOptions::default()
        };
        let disk_turn = DiskTurn::default();
        let turns = disk_turn.clone();
        let core = piecestore::core::start(options, |core| run_nodes(core, inbox, turns)).unwrap();
        let world = Self {
            layout,
            invitation,
            grant,
            gc: gc_options(),
            runtime,
            satellite: Some(satellite),
            asks: Some(asks),
            core: Some(core),
            disk_turn,
            _dir: dir,
            _turn: turn,
        };
        world.start_nodes(0..node_count);
        let session = world.session();
        world
            .block_on(uplink::listing::create_bucket(
                &session,
                BUCKET,
                Names::Sealed,
            ))
            .unwrap();
        world
    }

    /// Runs something on the client's and the satellite's runtime.
    pub(crate) fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// Runs something there for as long as the network lasts.
    pub(crate) fn spawn(
        &self,
        future: impl Future<Output = ()> + Send + 'static,
    ) -> JoinHandle<()> {
        self.runtime.spawn(future)
    }

    /// A client that knows nobody yet.
    pub(crate) fn session(&self) -> Arc<Session> {
        self.block_on(async { Session::open(self.grant.clone()) })
            .unwrap()
    }

    /// The node of this identity.
    pub(crate) fn seat(&self, node_id: NodeId) -> &Seat {
        let is_it = |seat: &&Seat| seat.node_id == node_id;
        self.layout.seats.iter().find(is_it).unwrap()
    }

    /// The number of the node of this identity.
    pub(crate) fn node_number(&self, node_id: NodeId) -> usize {
        let is_it = |seat: &Seat| seat.node_id == node_id;
        self.layout.seats.iter().position(is_it).unwrap()
    }

    /// The keys that the satellite's limits and receipts are made with.
    pub(crate) fn satellite_keys(&self) -> SatelliteKeys {
        let path = self.layout.satellite_dir.join("master.key");
        SatelliteKeys::new(*read_secret::<32>(&path).unwrap())
    }

    /// Starts nodes that do not run and waits until the satellite has reached them.
    pub(crate) fn start_nodes(&self, numbers: impl IntoIterator<Item = usize>) {
        let started_ms = now_ms();
        let seats = numbers.into_iter().map(|number| &self.layout.seats[number]);
        let seats: Vec<&Seat> = seats.collect();
        let dirs = seats.iter().map(|seat| seat.dir.clone()).collect();
        self.ask(|done| Ask::Start(dirs, done));
        let began = Instant::now();
        loop {
            let contacts = last_contacts(Path::new(PROGRAM), &self.layout.satellite_dir).unwrap();
            let is_reached = |seat: &&Seat| {
                let contact_ms = contacts.get(&seat.node_id.to_string());
                contact_ms.is_some_and(|&contact_ms| contact_ms >= started_ms)
            };
            if seats.iter().all(is_reached) {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "the nodes were not reached");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Keeps the nodes from compacting and scrubbing until the pass is dropped: a scrub would take out of service what a test damages.
    pub(crate) fn hold_upkeep(&self) -> TurnPass {
        let began = Instant::now();
        loop {
            if let Some(pass) = self.disk_turn.try_take() {
                return pass;
            }
            assert!(began.elapsed() < PATIENCE, "a node has the disk for itself");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Stops nodes; their sockets are closed on return.
    pub(crate) fn stop_nodes(&self, nodes: impl IntoIterator<Item = NodeId>) {
        let nodes = nodes.into_iter().collect();
        self.ask(|done| Ask::Stop(nodes, done));
    }

    /// Stops everything; the folder stays as long as `self`.
    pub(crate) fn stop(&mut self) {
        drop(self.asks.take());
        if let Some(core) = self.core.take() {
            core.join().unwrap();
        }
        if let Some(satellite) = self.satellite.take() {
            self.runtime.block_on(satellite.close());
        }
    }

    /// Uploads bytes under a key with the real client.
    pub(crate) fn put(
        &self,
        session: &Arc<Session>,
        key: &str,
        bytes: &[u8],
    ) -> Result<UploadReport, UploadError> {
        let reader = Box::new(Cursor::new(bytes.to_vec()));
        let input = Input::reader(reader, Some(bytes.len() as u64), "the test");
        let (options, progress) = (UploadOptions::default(), Arc::new(Quiet));
        let place = place(key);
        let uploading = uplink::upload(session, &place, input, options, progress, Cancel::never());
        self.block_on(uploading)
    }

    /// Downloads a key with the real client. What was handed on is given also if it failed.
    pub(crate) fn get(
        &self,
        session: &Arc<Session>,
        key: &str,
    ) -> (Vec<u8>, Result<DownloadReport, DownloadError>) {
        let target = Shared::default();
        let output = Output::Writer(Box::new(target.clone()), "the test".to_owned());
        let (options, progress) = (DownloadOptions::default(), Arc::new(Quiet));
        let place = place(key);
        let downloading =
            uplink::download(session, &place, output, options, progress, Cancel::never());
        let report = self.block_on(downloading);
        let bytes = std::mem::take(&mut *target.0.lock().unwrap());
        (bytes, report)
    }

    /// A download by a client that knows nobody yet, which must give exactly these bytes.
    pub(crate) fn download_equals(&self, key: &str, bytes: &[u8]) -> DownloadReport {
        let session = self.session();
        let (found, report) = self.get(&session, key);
        self.block_on(session.close());
        let report = report.unwrap_or_else(|error| panic!("{key}: {error}"));
        assert!(found == bytes, "{key}: other bytes came back");
        report
    }

    /// A download that must fail, having handed on nothing that is not of the object.
    pub(crate) fn download_fails(&self, key: &str, bytes: &[u8]) -> DownloadError {
        let session = self.session();
        let (found, report) = self.get(&session, key);
        self.block_on(session.close());
        assert!(bytes.starts_with(&found), "{key}: wrong bytes came back");
        report.expect_err("a download without enough pieces succeeded")
    }

    /// Removes a key with the real client.
    pub(crate) fn remove(&self, session: &Arc<Session>, key: &str) {
        let place = place(key);
        self.block_on(uplink::listing::remove(session, &place))
            .unwrap();
    }

    /// Stops the satellite, does something to its directory, and starts it again.
    pub(crate) fn restart_satellite(&mut self, between: impl FnOnce(&Path)) {
        let satellite = self.satellite.take().unwrap();
        self.runtime.block_on(satellite.close());
        between(&self.layout.satellite_dir);
        let options = RunOptions {
            dir: self.layout.satellite_dir.clone(),
            scheme: None,
            gc: self.gc,
        };
        self.satellite = Some(self.runtime.block_on(Running::start(&options)).unwrap());
    }

    /// Where the pieces of a key are.
    pub(crate) fn committed(&self, key: &str) -> Committed {
        let (prober, committed) = self.committed_for_later(key);
        self.block_on(prober.close());
        committed
    }

    /// Where the pieces of a key are, and the client whom their limits are for.
    pub(crate) fn committed_for_later(&self, key: &str) -> (Prober, Committed) {
        self.block_on(async {
            let prober = self.prober().await;
            let key = ObjectKey::parse(key).unwrap();
            let (encrypted, _) = self.grant.path_key(BUCKET, Names::Sealed, &key).unwrap();
            let committed = prober.committed(BUCKET, &encrypted).await.unwrap();
            (prober, committed)
        })
    }

    /// A client that sees what the satellite says of pieces.
    pub(crate) async fn prober(&self) -> Prober {
        let address = self.layout.satellite_address.to_string();
        let macaroon = self.invitation.macaroon.as_bytes();
        let id = self.layout.satellite_id;
        Prober::dial_satellite(id, &address, self.satellite_keys(), macaroon)
            .await
            .unwrap()
    }

    fn ask(&self, make: impl FnOnce(Sender<()>) -> Ask) {
        let (done, answer) = channel();
        let asks = self.asks.as_ref().unwrap();
        assert!(asks.send(make(done)).is_ok(), "the nodes' core is gone");
        answer.recv_timeout(PATIENCE).unwrap();
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.stop();
        }
    }
}

/// All nodes on this one core, until nobody can ask any more.
async fn run_nodes(core: Core, mut asks: Inbox<Ask>, disk_turn: DiskTurn) {
    let budgets = Budgets {
        writes: Admission::new(WRITE_BUDGET_BYTES),
        reads: Admission::new(READ_BUDGET_BYTES),
    };
    let nodes: Rc<std::cell::RefCell<HashMap<NodeId, Node>>> = Rc::default();
    while let Some(ask) = asks.next().await {
        let gate = Gate::new();
        match ask {
            Ask::Start(dirs, done) => {
                for dir in dirs {
                    let pass = gate.enter().unwrap();
                    let (core, budgets, nodes) = (core.clone(), budgets.clone(), nodes.clone());
                    let turn = disk_turn.clone();
                    core.clone().executor().spawn(async move {
                        let seat = piecestore::node::Seat {
                            directory: Directory::open(&dir).unwrap(),
                            board: Arc::new(Board::default()),
                            is_spinning: false,
                            turn,
                        };
                        let node_id = seat.directory.config().node_id;
                        let node = Node::begin(&core, seat, budgets).unwrap();
                        assert!(node.open().await.unwrap(), "nobody stopped it");
                        nodes.borrow_mut().insert(node_id, node);
                        drop(pass);
                    });
                }
                gate.close().await;
                done.send(()).unwrap();
            }
            Ask::Stop(stopping, done) => {
                let stopping = stopping.into_iter();
                let stopped = stopping.map(|node_id| nodes.borrow_mut().remove(&node_id).unwrap());
                stop_all(&core, stopped.collect()).await;
                done.send(()).unwrap();
            }
        }
    }
    stop_all(&core, nodes.take().into_values().collect()).await;
}

/// Side by side: each waits until its peers have heard of it.
async fn stop_all(core: &Core, nodes: Vec<Node>) {
    let gate = Gate::new();
    for node in nodes {
        let pass = gate.enter().unwrap();
        core.executor().spawn(async move {
            node.stop().await;
            drop(pass);
        });
    }
    gate.close().await;
}

/// Where a download goes: bytes that can still be read when the writer is gone.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Seeded bytes.
pub(crate) fn content(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len);
    RandomBytes::new(seed, len as u64)
        .read_to_end(&mut bytes)
        .unwrap();
    bytes
}

fn place(key: &str) -> Place {
    format!("st://{BUCKET}/{key}").parse().unwrap()
}

pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u64::try_from(since.as_millis()).unwrap()
}

/// Collection only when asked, and of whatever is there: no clock is set back here.
fn gc_options() -> GcOptions {
    GcOptions {
        danger_margin: Duration::ZERO,
        ..GcOptions::default()
    }
}
