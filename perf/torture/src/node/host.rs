//! The node's process: its start, and its three ends.

use std::cell::{Cell, RefCell};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use piecestore::admin::Board;
use piecestore::config::Config;
use piecestore::contact::Contact;
use piecestore::core::Counters;
use piecestore::core::executor::{Clock, Executor, timeout};
use piecestore::core::simulated::SimExecutor;
use piecestore::gc::Reports;
use piecestore::hardware::DiskTurn;
use piecestore::limits::CONNECTION_BUDGET_BYTES_MIN;
use piecestore::quic::Driver;
use piecestore::quic::simulated::{SimDatagram, SimNetwork};
use piecestore::quic::simulated_security::SimIdentity;
use piecestore::serve::Admission;
use piecestore::serve::simulated::Permits;
use piecestore::serving::{Serving, ServingOptions};
use strand_blob::disk::sim::SimDisk;
use strand_blob::testing::Random;
use strand_blob::{OpenError, Recovery, Store, StoreOptions};
use strand_protocol::NodeId;

/// Who the node is.
pub(super) const NODE: [u8; 32] = [2; 32];

/// Whom it works for, and where that answers.
pub(super) const SATELLITE: [u8; 32] = [1; 32];
pub(super) const SATELLITE_ADDRESS: SocketAddr =
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 2, 1)), 7_777);

/// What its owner lets it use.
const CAPACITY_BYTES: u64 = 256 << 20;

/// How long an orderly stop may take.
const STOP_WAIT: Duration = Duration::from_secs(60);

/// A running process of the node.
pub(super) struct Host {
    executor: SimExecutor,
    datagram: Rc<SimDatagram>,
    driver: Driver<SimExecutor>,
    serving: Serving<SimDisk, SimExecutor>,
    contact: Contact,
    /// Where the owner asks to have the trash back.
    pub(super) board: Arc<Board>,
    pub(super) disk: SimDisk,
    pub(super) outcome: RefCell<Outcome>,
    /// Reads failed while it was opened: it may know less than there is.
    pub(super) is_blurred: Cell<bool>,
}

/// How the opening of the store went.
#[derive(Debug)]
pub(super) enum Outcome {
    /// It goes on.
    Opening,
    Opened(Recovery),
    Failed(OpenError),
}

/// What a process of the node is begun with.
pub(super) struct Start<'a> {
    pub(super) world: &'a SimExecutor,
    pub(super) network: &'a SimNetwork,
    pub(super) disk: SimDisk,
    pub(super) listen: SocketAddr,
    pub(super) permits: Rc<Permits>,
    /// Of the endpoint's keys.
    pub(super) identity_seed: u64,
}

/// A store so small that blobs fill and die within minutes.
pub(super) fn store_options() -> StoreOptions {
    let mut options = StoreOptions::new(NODE, CAPACITY_BYTES);
    options.blob_bytes_max = 256 << 10;
    options.blob_records_max = 48;
    options.group_bytes_max = 64 << 10;
    options
}

/// What the owner of the node wrote down.
fn config(listen: SocketAddr) -> Config {
    let text = format!("{}@{SATELLITE_ADDRESS}", NodeId::from(SATELLITE));
    let (Ok(satellite), Ok(capacity)) = (text.parse(), CAPACITY_BYTES.to_string().parse()) else {
        unreachable!("{text} is an address")
    };
    Config {
        node_id: NodeId::from(NODE),
        satellite,
        capacity,
        listen,
        advertise: None,
        spinning: None,
    }
}

impl Host {
    /// Begins a process, which opens the store and calls `opened` when that has ended, however it did.
    pub(super) fn begin(start: Start<'_>, opened: impl FnOnce(&Self) + 'static) -> Rc<Self> {
        let executor = start.world.process();
        let datagram = start.network.host(true);
        let driver = Driver::new(
            executor.clone(),
            datagram.clone(),
            Rc::new(Counters::default()),
            CONNECTION_BUDGET_BYTES_MIN,
        );
        let running = driver.clone();
        executor.spawn(async move { running.run().await });
        let identity = SimIdentity::new(NodeId::from(NODE), start.identity_seed);
        let options = ServingOptions {
            satellite: start.permits.satellite,
            writes: Admission::new(4 << 20),
            reads: Admission::new(4 << 20),
            turn: DiskTurn::default(),
        };
        let serving = Serving::begin(&driver, executor.clone(), &identity, start.listen, options);
        let serving = match serving {
            Ok(serving) => serving,
            Err(error) => panic!("the node's address is free again: {error}"),
        };
        let board = Arc::new(Board::default());
        let host = Rc::new(Self {
            executor: executor.clone(),
            datagram,
            driver,
            serving,
            contact: Contact::new(config(start.listen), Arc::clone(&board)),
            board,
            disk: start.disk,
            outcome: RefCell::new(Outcome::Opening),
            is_blurred: Cell::new(false),
        });
        let drawn = executor.clone();
        let random = move || drawn.random() as u8;
        host.contact.begin_check_ins(&host.serving, random);
        let opening = Rc::clone(&host);
        let mut random = Random::new(executor.random());
        executor.spawn(async move {
            let disk = opening.disk.clone();
            let mut fill = |bytes: &mut [u8]| random.fill(bytes);
            let outcome = opening.serving.open(disk, store_options(), &mut fill).await;
            let outcome = match outcome {
                Ok(Some((store, recovery))) => {
                    opening.contact.begin_collecting(&opening.serving, store);
                    Outcome::Opened(recovery)
                }
                Ok(None) => return,
                Err(error) => Outcome::Failed(error),
            };
            *opening.outcome.borrow_mut() = outcome;
            opened(&opening);
        });
        host
    }

    /// What it has to tell its satellite.
    pub(super) fn reports(&self) -> &Reports {
        self.contact.reports()
    }

    /// Whether it has checked in, and knows the satellite's time.
    pub(super) fn has_checked_in(&self) -> bool {
        self.contact.standing().last_success_ms > 0 && self.expiry_time_s() > 0
    }

    /// Its store, once that is open.
    pub(super) fn store(&self) -> Option<&Rc<Store<SimDisk>>> {
        self.serving.service().store()
    }

    /// By what time pieces expire, as it knows it.
    pub(super) fn expiry_time_s(&self) -> u32 {
        let permission = self.serving.service().permission();
        permission.expiry_time_s(self.executor.now_ms())
    }

    /// Ends the process where it stands.
    pub(super) fn die(&self) {
        self.executor.end_process();
        self.datagram.die();
    }

    /// Leaves a task behind that ends never.
    pub(super) fn leave_task(&self) {
        self.executor.spawn(std::future::pending());
    }

    /// Stops the node as its owner does. What was wrong with that, if anything.
    pub(super) async fn stop(&self, world: &SimExecutor) -> Result<(), String> {
        let stopping = async {
            self.contact.stop();
            self.serving.stop().await;
            self.driver.close().await;
        };
        if timeout(world, STOP_WAIT, stopping).await.is_none() {
            return Err(format!(
                "the node did not stop in {} s",
                STOP_WAIT.as_secs()
            ));
        }
        // Who was just told to end does so now.
        world.sleep(Duration::from_secs(2)).await;
        let service = self.serving.service();
        let (tasks, requests) = (self.executor.task_count(), service.in_flight());
        if tasks + requests > 0 {
            return Err(format!(
                "a stopped node has {tasks} tasks and {requests} requests left"
            ));
        }
        Ok(())
    }
}
