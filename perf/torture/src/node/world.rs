//! All of them together: the node's lives, one after another, and the faults beside them.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use piecestore::core::executor::Executor;
use piecestore::core::simulated::SimExecutor;
use piecestore::permission::EpochKeys;
use piecestore::quic::simulated::SimNetwork;
use piecestore::serve::simulated::Permits;
use strand_blob::disk::sim::SimDisk;
use strand_blob::testing::Random;
use strand_blob::{FileId, Store};
use strand_protocol::NodeId;
use strand_protocol::permit::SatelliteKeys;

use super::client::Client;
use super::harm::Harms;
use super::host::{Host, NODE, Outcome, SATELLITE, SATELLITE_ADDRESS, Start};
use super::ledger::Ledger;
use super::moods::DiskMoods;
use super::plan::{Episode, FAIR, Plan};
use super::satellite::Satellite;
use super::{Control, NodeOptions};
use crate::Tally;
use crate::store::guard::say;

const EPOCH: u32 = 7;

/// Clients, each with a connection.
const CLIENTS: u8 = 4;

/// Violations of one seed that are told; one is enough to fail, and a lost piece is found missing again and again.
const VIOLATIONS_MAX: usize = 20;

/// How long healing may take once faults have ended.
pub(super) const HEAL_WAIT: Duration = Duration::from_secs(60);

/// A disk's files.
type Files = Vec<(FileId, Vec<u8>)>;

/// See the module's head.
pub(super) struct World {
    pub(super) seed: u64,
    pub(super) options: NodeOptions,
    pub(super) executor: SimExecutor,
    pub(super) network: SimNetwork,
    pub(super) listen: SocketAddr,
    pub(super) permits: Rc<Permits>,
    pub(super) key: EpochKeys,
    pub(super) plan: Plan,
    pub(super) random: RefCell<Random>,
    pub(super) moods: Rc<DiskMoods>,
    pub(super) host: RefCell<Option<Rc<Host>>>,
    pub(super) disk: RefCell<SimDisk>,
    pub(super) clients: RefCell<Vec<Rc<Client>>>,
    pub(super) satellite: RefCell<Option<Rc<Satellite>>>,
    pub(super) ledger: RefCell<Ledger>,
    pub(super) harms: RefCell<Harms>,
    /// Pieces that this process of the node said it lost.
    pub(super) heard: RefCell<BTreeSet<[u8; 32]>>,
    pub(super) episode: Cell<Episode>,
    pub(super) tally: RefCell<Tally>,
    /// Processes of the node so far.
    pub(super) boot: Cell<u64>,
    pub(super) in_flight: Cell<usize>,
    pub(super) is_safety: Cell<bool>,
    pub(super) is_loading: Cell<bool>,
    /// Virtual time until nobody asked anything of the node any more.
    pub(super) busy_time: Cell<Option<Duration>>,
    /// For [`Control::SleepsSecretly`]: time that the ledger does not know of.
    pub(super) slept_secretly: Cell<Duration>,
    /// Nothing is wrong any more, so each verb must succeed.
    pub(super) is_strict: Cell<bool>,
    /// A piece that the load keeps its hands off.
    pub(super) reserved: Cell<Option<u64>>,
    /// The disk has next to no room, or had so in this process of the node.
    pub(super) is_full: Cell<bool>,
    pub(super) was_full: Cell<bool>,
    /// The files as they were found at a start, for [`Control::TurnsBack`].
    pub(super) earlier: RefCell<Option<Files>>,
}

/// The arguments that run a seed again.
pub(super) fn replay(seed: u64) -> String {
    format!("--what sim --seed {seed}")
}

impl World {
    pub(super) fn new(seed: u64, options: NodeOptions, executor: &SimExecutor) -> Rc<Self> {
        let mut random = Random::new(seed ^ 0x5eed_0f4a_11c0_ffee);
        let permits = Rc::new(Permits {
            satellite: NodeId::from(SATELLITE),
            node: NodeId::from(NODE),
            keys: SatelliteKeys::new([9; 32]),
            epoch: EPOCH,
        });
        let disk = SimDisk::new(random.next());
        if random.below(2) == 0 {
            disk.use_memory();
        }
        let writes_go_astray = options.writes_go_astray || seed % 3 == 2;
        Rc::new(Self {
            seed,
            options,
            executor: executor.clone(),
            network: SimNetwork::new(executor.clone(), FAIR),
            listen: SocketAddr::from(([10, 0, 0, 1], 7_000)),
            key: permits.epoch_keys(EPOCH),
            permits,
            plan: Plan::draw(&mut random),
            random: RefCell::new(random),
            moods: Rc::new(DiskMoods::new(executor.clone(), writes_go_astray)),
            host: RefCell::default(),
            disk: RefCell::new(disk),
            clients: RefCell::default(),
            satellite: RefCell::default(),
            ledger: RefCell::default(),
            harms: RefCell::default(),
            heard: RefCell::default(),
            episode: Cell::new(Episode::calm()),
            tally: RefCell::default(),
            boot: Cell::default(),
            in_flight: Cell::default(),
            is_safety: Cell::new(true),
            is_loading: Cell::new(true),
            busy_time: Cell::default(),
            slept_secretly: Cell::default(),
            is_strict: Cell::default(),
            reserved: Cell::default(),
            is_full: Cell::default(),
            was_full: Cell::default(),
            earlier: RefCell::default(),
        })
    }

    pub(super) fn tally(&self) -> Tally {
        self.tally.borrow().clone()
    }

    /// Drops all that runs.
    pub(super) fn end(&self) {
        if let Some(host) = self.host.take() {
            host.die();
        }
        for client in self.clients.take() {
            client.die();
        }
        if let Some(satellite) = self.satellite.take() {
            satellite.die();
        }
        self.executor.end_process();
    }

    /// Both phases.
    pub(super) async fn live(self: Rc<Self>) {
        let satellite = Satellite::begin(&self, &self.executor, &self.network, SATELLITE_ADDRESS);
        self.satellite.replace(Some(Rc::new(satellite)));
        for number in 0..CLIENTS {
            let client = Client::begin(&self.executor, &self.network, number, self.listen);
            self.clients.borrow_mut().push(client);
        }
        self.start();
        let (loading, raining, watching) = (Rc::clone(&self), Rc::clone(&self), Rc::clone(&self));
        let tending = Rc::clone(&self);
        self.executor.spawn(async move { tending.tend().await });
        self.executor.spawn(async move { loading.load().await });
        self.executor.spawn(async move { raining.rain().await });
        self.executor.spawn(async move { watching.watch().await });
        while self.executor.elapsed() < self.options.safety {
            self.live_once().await;
            self.end_host().await;
            self.pause(0, 3_000).await;
            self.start();
        }
        self.is_safety.set(false);
        self.heal().await;
    }

    pub(super) fn below(&self, bound: u64) -> u64 {
        self.random.borrow_mut().below(bound)
    }

    pub(super) async fn pause(&self, least_ms: u64, most_ms: u64) {
        let ms = least_ms + self.below(most_ms - least_ms + 1);
        self.executor.sleep(Duration::from_millis(ms)).await;
    }

    pub(super) fn violate(&self, what: impl Into<String>) {
        self.count("violations_seen", 1);
        if self.tally.borrow().violations.len() >= VIOLATIONS_MAX {
            return;
        }
        let at_ms = self.executor.elapsed().as_millis();
        let what = format!("at {at_ms} ms, start {}: {}", self.boot.get(), what.into());
        self.tally.borrow_mut().violate(what, replay(self.seed));
    }

    pub(super) fn count(&self, name: &'static str, count: u64) {
        self.tally.borrow_mut().add(name, count);
    }

    pub(super) fn running(&self) -> Option<Rc<Host>> {
        self.host.borrow().clone()
    }

    pub(super) fn store(&self) -> Option<Rc<Store<SimDisk>>> {
        self.running()?.store().cloned()
    }

    /// Begins a process of the node on the disk as it is.
    pub(super) fn start(self: &Rc<Self>) {
        self.turn_back();
        self.boot.set(self.boot.get() + 1);
        self.moods.begin_boot();
        self.heard.take();
        self.was_full.set(self.is_full.get());
        let disk = self.disk.borrow().clone();
        disk.set_moods(Rc::clone(&self.moods) as _);
        let identity_seed = if self.plan.keeps_reset_key {
            self.seed
        } else {
            self.random.borrow_mut().next()
        };
        let start = Start {
            world: &self.executor,
            network: &self.network,
            disk,
            listen: self.listen,
            permits: Rc::clone(&self.permits),
            identity_seed,
        };
        let world = Rc::clone(self);
        let host = Host::begin(start, move |host| world.opened(host));
        self.host.replace(Some(host));
    }

    /// For the control: the files of an earlier start instead of those that are there.
    pub(super) fn turn_back(&self) {
        if self.options.control != Control::TurnsBack {
            return;
        }
        let now: Files = self.disk.borrow().all_files().into_iter().collect();
        let earlier = self.earlier.replace(Some(now));
        if let Some(earlier) = earlier
            && self.boot.get() % 2 == 1
        {
            self.disk
                .replace(SimDisk::from_all_files(self.seed, earlier));
        }
    }

    /// The opening of the store has ended.
    pub(super) fn opened(&self, host: &Host) {
        self.moods.end_opening();
        let faults = self.moods.faults();
        host.is_blurred.set(faults.opening_reads > 0);
        match &*host.outcome.borrow() {
            Outcome::Opened(recovery) => {
                say(|| format!("opened: {recovery:?}"));
                self.ledger.borrow_mut().rot_reports += recovery.rotten.len() as u64;
                self.count("sim_starts", 1);
            }
            Outcome::Failed(error) if faults.opening_reads == 0 => {
                self.violate(format!("the node does not start: {error}"));
            }
            Outcome::Failed(_) | Outcome::Opening => {}
        }
    }

    /// Waits for the store; whether it was opened in time.
    pub(super) async fn until_opened(&self, limit: Duration) -> bool {
        let deadline = self.executor.elapsed() + limit;
        while self.executor.elapsed() < deadline {
            let Some(host) = self.running() else {
                return false;
            };
            match *host.outcome.borrow() {
                Outcome::Opened(_) => return true,
                Outcome::Failed(_) => return false,
                Outcome::Opening => {}
            }
            self.executor.sleep(Duration::from_millis(100)).await;
        }
        false
    }

    /// A process's life: until its time is over, its store could not be opened, or its owner notices that it is read-only.
    pub(super) async fn live_once(&self) {
        let life_ms = self.below(2 * self.options.life.as_millis() as u64);
        let end = self.executor.elapsed() + Duration::from_millis(life_ms);
        if !self.until_opened(HEAL_WAIT).await {
            return;
        }
        self.check_some(40).await;
        while self.executor.elapsed() < end {
            self.pause(500, 1_500).await;
            if self.store().is_some_and(|store| store.is_read_only()) {
                return self.pause(1_000, 8_000).await;
            }
        }
    }

    /// Ends the node's process, one way or another.
    pub(super) async fn end_host(&self) {
        // What this process knows goes with it.
        self.look();
        let Some(host) = self.host.take() else {
            return;
        };
        let is_calm = !self.is_safety.get();
        say(|| {
            format!(
                "process {} ends at {:?}",
                self.boot.get(),
                self.executor.elapsed()
            )
        });
        match self.below(10) {
            0..2 => {
                if let Err(what) = host.stop(&self.executor).await
                    && is_calm
                {
                    self.violate(what);
                }
                self.count("sim_stops", 1);
                host.die();
            }
            2..5 => {
                let seed = self.random.borrow_mut().next();
                self.disk.replace(host.disk.kill(seed));
                host.die();
                self.count("sim_kills", 1);
            }
            _ => {
                if let Some(percent) = self.plan.torn_percent {
                    host.disk.tear(percent);
                }
                let seed = self.random.borrow_mut().next();
                let found = host.disk.crash(seed);
                self.lose_synced(&found);
                self.disk.replace(found);
                host.die();
                self.count("sim_crashes", 1);
            }
        }
    }

    /// For the control: the end of the newest blob goes.
    pub(super) fn lose_synced(&self, disk: &SimDisk) {
        if self.options.control != Control::LosesSynced {
            return;
        }
        if let Some((&blob, _)) = disk.files().last_key_value() {
            disk.edit(blob, |bytes| {
                let len = bytes.len().saturating_sub(16 << 10) / 4_096 * 4_096;
                bytes.truncate(len);
            });
        }
    }

    /// Faults, episode after episode, until they end.
    pub(super) async fn rain(&self) {
        while self.is_safety.get() {
            let episode = self.plan.episode(&mut self.random.borrow_mut());
            self.enter(episode);
            self.executor.sleep(episode.length).await;
        }
    }

    pub(super) fn enter(&self, episode: Episode) {
        self.episode.set(episode);
        self.moods.enter(episode);
        self.network.set_weather(episode.weather);
        self.is_full.set(episode.room_bytes.is_some());
        self.was_full.set(self.was_full.get() || self.is_full.get());
        let room_bytes = episode.room_bytes.unwrap_or(1 << 40);
        self.disk.borrow().set_free_bytes(room_bytes);
        if let Some(ms) = episode.wall_ahead_ms {
            say(|| format!("the clock is {ms} ms ahead"));
            self.executor.set_wall_ahead_ms(ms);
        }
        if let Some(time) = episode.sleep {
            self.count("sim_sleeps", 1);
            say(|| format!("all machines sleep for {} s", time.as_secs()));
            self.executor.sleep_machines(time);
        }
        if episode.has_rot || self.options.control == Control::RotsSecretly {
            self.rot(|_, _| true);
        }
    }
}
