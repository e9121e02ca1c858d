//! All of them together, phase after phase.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use piecestore::core::executor::{Clock, Executor};
use piecestore::core::simulated::SimExecutor;
use piecestore::permission::EpochKeys;
use piecestore::quic::simulated::SimNetwork;
use piecestore::serve::simulated::{self, Permits, Refusal, Segment};
use strand_blob::disk::sim::SimDisk;
use strand_blob::inspect;
use strand_blob::testing::{Knowledge, Random};
use strand_blob::{FileId, GetError, ScrubCursor, Store, Traffic};
use strand_codec::Shape;
use strand_protocol::limits::CONNECT_TIMEOUT;
use strand_protocol::permit::{LimitAction, SatelliteKeys};
use strand_protocol::{Code, NodeId};

use super::client::Client;
use super::host::{Host, NODE, Outcome, Start, store_options};
use super::ledger::{Change, Circumstances, Found, Ledger, State};
use super::moods::{DiskMoods, Faults};
use super::plan::{Episode, FAIR, Plan};
use super::{Control, NodeOptions};
use crate::Tally;

const EPOCH: u32 = 7;

/// Clients, each with a connection.
const CLIENTS: u8 = 4;

/// Verbs under way at most.
const IN_FLIGHT_MAX: usize = 32;

/// Pieces that are kept, about.
const PIECES: usize = 120;

/// Pieces that the ledger remembers, gone ones among them.
const ENTRIES_MAX: usize = 400;

/// How long healing may take once faults have ended.
const HEAL_WAIT: Duration = Duration::from_secs(60);

/// How long verbs then go on, all of which must succeed.
const STRICT: Duration = Duration::from_secs(60);

/// How long the node is then left alone, to tidy up.
const IDLE: Duration = Duration::from_secs(20);

/// More than a group and its header: a record so far after another is in a later group, which says that the other is durable.
const GROUP_BYTES_MAX: u64 = 80 << 10;

/// See the module's head.
pub(super) struct World {
    seed: u64,
    options: NodeOptions,
    executor: SimExecutor,
    network: SimNetwork,
    listen: SocketAddr,
    permits: Rc<Permits>,
    key: EpochKeys,
    plan: Plan,
    random: RefCell<Random>,
    moods: Rc<DiskMoods>,
    host: RefCell<Option<Rc<Host>>>,
    disk: RefCell<SimDisk>,
    clients: RefCell<Vec<Rc<Client>>>,
    ledger: RefCell<Ledger>,
    tally: RefCell<Tally>,
    /// Processes of the node so far.
    boot: Cell<u64>,
    in_flight: Cell<usize>,
    is_safety: Cell<bool>,
    is_loading: Cell<bool>,
    /// Nothing is wrong any more, so each verb must succeed.
    is_strict: Cell<bool>,
    /// The disk has next to no room, or had so in this process of the node.
    is_full: Cell<bool>,
    was_full: Cell<bool>,
    /// The files as they were found at a start, for [`Control::TurnsBack`].
    earlier: RefCell<Option<Vec<(FileId, Vec<u8>)>>>,
}

/// What explains an answer that is no success.
#[derive(Clone, Copy)]
struct Excuses {
    boot: u64,
    faults: Faults,
    is_blurred: bool,
    was_full: bool,
}

/// The arguments that run a seed again.
pub(super) fn replay(seed: u64) -> String {
    format!("--what sim --seed {seed}")
}

impl World {
    pub(super) fn new(seed: u64, options: NodeOptions, executor: &SimExecutor) -> Rc<Self> {
        let mut random = Random::new(seed ^ 0x5eed_0f4a_11c0_ffee);
        let permits = Rc::new(Permits {
            satellite: NodeId::from([1; 32]),
            node: NodeId::from(NODE),
            keys: SatelliteKeys::new([9; 32]),
            epoch: EPOCH,
        });
        let disk = SimDisk::new(random.next());
        if random.below(2) == 0 {
            disk.use_memory();
        }
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
            moods: Rc::new(DiskMoods::new(executor.clone())),
            host: RefCell::default(),
            disk: RefCell::new(disk),
            clients: RefCell::default(),
            ledger: RefCell::default(),
            tally: RefCell::default(),
            boot: Cell::default(),
            in_flight: Cell::default(),
            is_safety: Cell::new(true),
            is_loading: Cell::new(true),
            is_strict: Cell::default(),
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
        self.executor.end_process();
    }

    /// Both phases.
    pub(super) async fn live(self: Rc<Self>) {
        for number in 0..CLIENTS {
            let client = Client::begin(&self.executor, &self.network, number, self.listen);
            self.clients.borrow_mut().push(client);
        }
        self.start();
        let (loading, raining, watching) = (Rc::clone(&self), Rc::clone(&self), Rc::clone(&self));
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

    fn below(&self, bound: u64) -> u64 {
        self.random.borrow_mut().below(bound)
    }

    async fn pause(&self, least_ms: u64, most_ms: u64) {
        let ms = least_ms + self.below(most_ms - least_ms + 1);
        self.executor.sleep(Duration::from_millis(ms)).await;
    }

    fn violate(&self, what: impl Into<String>) {
        let at_ms = self.executor.elapsed().as_millis();
        let what = format!("at {at_ms} ms, start {}: {}", self.boot.get(), what.into());
        self.tally.borrow_mut().violate(what, replay(self.seed));
    }

    fn count(&self, name: &'static str, count: u64) {
        self.tally.borrow_mut().add(name, count);
    }

    fn running(&self) -> Option<Rc<Host>> {
        self.host.borrow().clone()
    }

    fn store(&self) -> Option<Rc<Store<SimDisk>>> {
        self.running()?.store().cloned()
    }

    /// Begins a process of the node on the disk as it is.
    fn start(self: &Rc<Self>) {
        self.turn_back();
        self.boot.set(self.boot.get() + 1);
        self.moods.begin_boot();
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
    fn turn_back(&self) {
        if self.options.control != Control::TurnsBack {
            return;
        }
        let now: Vec<_> = self.disk.borrow().all_files().into_iter().collect();
        let earlier = self.earlier.replace(Some(now));
        if let Some(earlier) = earlier
            && self.boot.get() % 2 == 1
        {
            self.disk
                .replace(SimDisk::from_all_files(self.seed, earlier));
        }
    }

    /// The opening of the store has ended.
    fn opened(&self, host: &Host) {
        self.moods.end_opening();
        let faults = self.moods.faults();
        host.is_blurred.set(faults.opening_reads > 0);
        match &*host.outcome.borrow() {
            Outcome::Opened(recovery) => {
                self.ledger.borrow_mut().rot_reports += recovery.rotten.len() as u64;
                self.count("starts", 1);
            }
            Outcome::Failed(error) if faults.opening_reads == 0 => {
                self.violate(format!("the node does not start: {error}"));
            }
            Outcome::Failed(_) | Outcome::Opening => {}
        }
    }

    /// Waits for the store; whether it was opened in time.
    async fn until_opened(&self, limit: Duration) -> bool {
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
    async fn live_once(&self) {
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
    async fn end_host(&self) {
        let Some(host) = self.host.take() else {
            return;
        };
        let is_calm = !self.is_safety.get();
        match self.below(10) {
            0..2 => {
                if let Err(what) = host.stop(&self.executor).await
                    && is_calm
                {
                    self.violate(what);
                }
                self.count("stops", 1);
                host.die();
            }
            2..5 => {
                let seed = self.random.borrow_mut().next();
                self.disk.replace(host.disk.kill(seed));
                host.die();
                self.count("kills", 1);
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
                self.count("crashes", 1);
            }
        }
    }

    /// For the control: the end of the newest blob goes.
    fn lose_synced(&self, disk: &SimDisk) {
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
    async fn rain(&self) {
        while self.is_safety.get() {
            let episode = self.plan.episode(&mut self.random.borrow_mut());
            self.enter(episode);
            self.executor.sleep(episode.length).await;
        }
    }

    fn enter(&self, episode: Episode) {
        self.moods.enter(episode);
        self.network.set_weather(episode.weather);
        self.is_full.set(episode.room_bytes.is_some());
        self.was_full.set(self.was_full.get() || self.is_full.get());
        let room_bytes = episode.room_bytes.unwrap_or(1 << 40);
        self.disk.borrow().set_free_bytes(room_bytes);
        if let Some(ms) = episode.wall_ahead_ms {
            self.executor.set_wall_ahead_ms(ms);
        }
        if episode.has_rot || self.options.control == Control::RotsSecretly {
            self.rot();
        }
    }

    /// Changes some bytes of a stored piece.
    fn rot(&self) {
        let disk = self.disk.borrow().clone();
        let files: Vec<_> = disk.files().into_iter().collect();
        if files.is_empty() {
            return;
        }
        let (blob, bytes) = &files[self.below(files.len() as u64) as usize];
        let Ok(mut records) = inspect::records(bytes) else {
            return;
        };
        let last = records.iter().map(|record| record.offset).max();
        records.retain(|record| record.is_piece());
        if records.is_empty() {
            return;
        }
        let record = records[self.below(records.len() as u64) as usize];
        let end = record.body_and_trailer().end;
        let from = record.offset + self.below(end - record.offset);
        let len = (1 + self.below(64)).min(end - from);
        disk.edit(*blob, |bytes| {
            for at in from..from + len {
                if let Some(byte) = bytes.get_mut(at as usize) {
                    *byte ^= 0x55;
                }
            }
        });
        self.count("rotted", 1);
        let mut ledger = self.ledger.borrow_mut();
        if let Some(key) = ledger.key_of(&record.id)
            && self.options.control != Control::RotsSecretly
        {
            let is_attested = last >= Some(record.offset + GROUP_BYTES_MAX);
            ledger.hurt(key, !is_attested);
        }
    }

    /// What must hold at any moment, and what the store says by itself.
    async fn watch(&self) {
        loop {
            self.executor.sleep(Duration::from_secs(1)).await;
            self.look();
        }
    }

    fn look(&self) {
        let Some(store) = self.store() else {
            return;
        };
        let space = store.space();
        if !space.adds_up() {
            self.violate(format!("space does not add up: {space:?}"));
        }
        let had_read_faults = self.moods.faults().reads > 0;
        for (_, id) in store.take_lost() {
            self.count("told_lost", 1);
            let key = self.ledger.borrow().key_of(&id);
            if let Some(key) = key {
                let told = self.ledger.borrow_mut().tell(key, had_read_faults);
                told.unwrap_or_else(|what| self.violate(what));
            }
        }
    }

    fn excuses(&self) -> Excuses {
        Excuses {
            boot: self.boot.get(),
            faults: self.moods.faults(),
            is_blurred: self.running().is_some_and(|host| host.is_blurred.get()),
            was_full: self.was_full.get(),
        }
    }

    /// What may be found now by who began when `before` were the excuses.
    fn circumstances(&self, before: Excuses) -> Circumstances {
        let now = self.excuses();
        Circumstances {
            now_ms: self.executor.now_ms(),
            had_read_faults: before.faults.reads + now.faults.reads > 0,
            is_blurred: before.is_blurred || now.is_blurred,
        }
    }

    /// Reads pieces past the verbs: the newest, and as many of the others.
    async fn check_some(&self, count: usize) {
        let keys: Vec<u64> = self.ledger.borrow().entries.keys().copied().collect();
        let newest = keys.iter().rev().take(count).copied();
        let others = (0..count)
            .filter(|_| !keys.is_empty())
            .map(|_| keys[self.below(keys.len() as u64) as usize]);
        let chosen: Vec<u64> = newest.chain(others).collect();
        self.check(&chosen).await;
    }

    /// Reads these pieces past the verbs.
    async fn check(&self, keys: &[u64]) {
        for &key in keys {
            let (Some(host), Some(store)) = (self.running(), self.store()) else {
                return;
            };
            let known = {
                let ledger = self.ledger.borrow();
                let segment = ledger.entries.get(&key).map(|entry| entry.segment.clone());
                ledger.before(key).zip(segment)
            };
            let Some((before, segment)) = known else {
                continue;
            };
            let excuses = self.excuses();
            let read = read(&store, &segment, &self.permits, host.expiry_time_s()).await;
            match read {
                Ok(found) => self.judge(key, before, found, excuses),
                Err(error) => {
                    if self.moods.faults().reads == 0 {
                        self.violate(format!("piece {key}: {error}, and no fault was injected"));
                    }
                }
            }
        }
    }

    fn judge(&self, key: u64, before: super::ledger::Before, found: Found, excuses: Excuses) {
        let circumstances = self.circumstances(excuses);
        let judged = self
            .ledger
            .borrow_mut()
            .judge(key, before, found, circumstances);
        match judged {
            Ok(is_check) => self.count("acked_pieces_checked", u64::from(is_check)),
            Err(what) => self.violate(what),
        }
    }

    /// Verbs, one after another and side by side.
    async fn load(self: Rc<Self>) {
        let gap_us = self.options.gap.as_micros() as u64;
        while self.is_loading.get() {
            let pause_us = self.below(2 * gap_us);
            self.executor.sleep(Duration::from_micros(pause_us)).await;
            if self.in_flight.get() >= IN_FLIGHT_MAX {
                continue;
            }
            let Some(client) = self.some_client() else {
                continue;
            };
            self.in_flight.set(self.in_flight.get() + 1);
            let asking = Rc::clone(&self);
            self.executor.spawn(async move {
                asking.ask_something(&client).await;
                asking.in_flight.set(asking.in_flight.get() - 1);
            });
        }
    }

    fn some_client(&self) -> Option<Rc<Client>> {
        let clients = self.clients.borrow();
        let first = self.below(clients.len() as u64) as usize;
        let mut order = clients.iter().cycle().skip(first).take(clients.len());
        order.find(|client| client.is_connected()).cloned()
    }

    async fn ask_something(&self, client: &Client) {
        let acked_count = self.ledger.borrow().acked_count();
        let chance = self.below(100);
        let now_ms = self.executor.now_ms();
        if chance < 4 {
            self.ping(client).await;
        } else if chance < 45 {
            if let Some(key) = self.some_key() {
                self.get(client, key).await;
            }
        } else if chance < 55 || (chance < 90 && acked_count > PIECES) {
            let key = self.some_key();
            let may = |key: &u64| {
                let ledger = self.ledger.borrow();
                ledger.may(*key, Change::Delete, self.boot.get(), now_ms)
            };
            if let Some(key) = key.filter(may) {
                self.delete(client, key).await;
            }
        } else if chance < 65 {
            let key = self.some_key();
            let may = |key: &u64| {
                let ledger = self.ledger.borrow();
                ledger.may(*key, Change::Put, self.boot.get(), now_ms)
            };
            if let Some(key) = key.filter(may) {
                self.put(client, key).await;
            }
        } else {
            let key = self.new_piece(true);
            self.put(client, key).await;
        }
    }

    /// Some piece; what nobody needs to remember is forgotten on the way.
    fn some_key(&self) -> Option<u64> {
        let mut ledger = self.ledger.borrow_mut();
        let now_ms = self.executor.now_ms();
        if ledger.entries.len() > ENTRIES_MAX {
            let gone = ledger.entries.iter().find(|(_, entry)| {
                let is_over = entry.expiry_ms != 0 && entry.expiry_ms + 60_000 < now_ms;
                !entry.is_busy && (entry.state == State::Deleted || is_over)
            });
            if let Some(key) = gone.map(|(&key, _)| key) {
                ledger.forget(key);
            }
        }
        let from = self.below(ledger.next_key.max(1));
        let mut entries = ledger.entries.range(from..);
        entries.next().map(|(&key, _)| key)
    }

    fn new_piece(&self, may_expire: bool) -> u64 {
        let random = &mut *self.random.borrow_mut();
        let most = [2_000, 2_000, 8_000, 40_000]
            [random.below(4).min(random.below(4)).min(random.below(4)) as usize];
        let required = 1 + random.below(2) as u8;
        let plain_len = (1 + random.below(most)) * u64::from(required);
        let total = required + 1 + random.below(3) as u8;
        let Ok(shape) = Shape::new(required, total, strand_codec::sealed_len(plain_len)) else {
            unreachable!("a small segment")
        };
        let mut body = vec![0; shape.piece_len() as usize];
        random.fill(&mut body);
        let index = random.below(u64::from(total)) as u8;
        let segment = Segment::draw(shape, index, Bytes::from(body), || random.next());
        let expires = may_expire && random.below(8) == 0;
        let expiry_ms = if expires {
            self.executor.now_ms() + 20_000 + random.below(100_000)
        } else {
            0
        };
        self.ledger.borrow_mut().add(segment, expiry_ms)
    }

    /// The limit for a verb on a piece, and the piece.
    fn permit(&self, action: LimitAction, key: u64, client: NodeId) -> Option<(Vec<u8>, Segment)> {
        let ledger = self.ledger.borrow();
        let entry = ledger.entries.get(&key)?;
        let mut random = self.random.borrow_mut();
        let serial = simulated::drawn(|| random.next());
        let now_ms = self.executor.now_ms();
        let mut fields = self
            .permits
            .fields(action, &entry.segment, client, serial, now_ms);
        fields.piece_expiry_ms = entry.expiry_ms;
        Some((self.permits.mint(&fields), entry.segment.clone()))
    }

    /// Notes how a verb ended; whether it was a success.
    fn ended<T>(&self, verb: &str, key: u64, answer: &Result<T, Refusal>, before: Excuses) -> bool {
        let now = self.excuses();
        let faults = |of: fn(Faults) -> u64| of(before.faults) + of(now.faults) > 0;
        let code = match answer {
            Ok(_) => 0,
            Err(Refusal::Code(code)) => u64::from(u32::from(*code)),
            Err(Refusal::Lost) => 1_000,
            Err(Refusal::Garbled(_)) => 1_001,
        };
        self.executor.note(key << 16 | code);
        if code < 1_000 {
            self.count("verbs", 1);
        }
        let is_explained = match answer {
            Ok(_) | Err(Refusal::Lost) => true,
            Err(Refusal::Garbled(_)) => false,
            Err(Refusal::Code(code)) => match code {
                Code::Busy
                | Code::StaleLimit
                | Code::Shutdown
                | Code::Cancelled
                | Code::Timeout => true,
                Code::Full => before.was_full || now.was_full || faults(|faults| faults.writes),
                Code::ReadOnly => faults(|faults| faults.poisonings) || before.boot != now.boot,
                Code::Internal => {
                    let all = |faults: Faults| faults.reads + faults.writes + faults.poisonings;
                    faults(all) || before.was_full || before.boot != now.boot
                }
                // The ledger judges those.
                Code::NotFound | Code::Corrupt => verb == "get",
                _ => false,
            },
        };
        let is_judged = matches!(answer, Err(Refusal::Code(Code::NotFound | Code::Corrupt)));
        let is_too_weak = self.is_strict.get() && answer.is_err() && !is_judged;
        if !is_explained || (is_too_weak && !self.ledger.borrow().is_hurt(key)) {
            let said = answer.as_ref().err();
            self.violate(format!("a {verb} of piece {key} ended with {said:?}"));
        }
        answer.is_ok()
    }

    async fn ping(&self, client: &Client) -> bool {
        let before = self.excuses();
        let answer = client
            .ask(|mut send, mut recv| async move { simulated::ping(&mut send, &mut recv).await })
            .await;
        if answer.as_ref().is_ok_and(|id| *id != NODE) {
            self.violate("somebody else answered a ping");
        }
        self.ended("ping", 0, &answer, before)
    }

    async fn put(&self, client: &Client, key: u64) -> bool {
        let before = self.excuses();
        let Some((limit, segment)) = self.permit(LimitAction::Put, key, client.id) else {
            return false;
        };
        self.ledger.borrow_mut().begin(key, Change::Put);
        let epoch_key = self.key.clone();
        let asking = |mut send, mut recv| async move {
            simulated::put(&mut send, &mut recv, limit, &segment, &epoch_key).await
        };
        let answer = client.ask(asking).await;
        let is_acked = answer.is_ok();
        let boot = self.boot.get();
        self.ledger
            .borrow_mut()
            .end(key, Change::Put, is_acked, boot);
        self.ended("put", key, &answer, before)
    }

    async fn delete(&self, client: &Client, key: u64) -> bool {
        let excuses = self.excuses();
        let Some((limit, _)) = self.permit(LimitAction::Delete, key, client.id) else {
            return false;
        };
        let before = self.ledger.borrow().before(key);
        self.ledger.borrow_mut().begin(key, Change::Delete);
        let asking = |mut send, mut recv| async move {
            simulated::delete(&mut send, &mut recv, limit).await
        };
        let answer = client.ask(asking).await;
        // A piece that was acknowledged was there to be deleted.
        if let (Ok(false), Some(before)) = (&answer, before) {
            let version = self.ledger.borrow().before(key).unwrap_or(before);
            let before = before.in_version_of(version);
            self.judge(key, before, Found::Absent, excuses);
        }
        let (is_acked, boot) = (answer.is_ok(), self.boot.get());
        self.ledger
            .borrow_mut()
            .end(key, Change::Delete, is_acked, boot);
        self.ended("delete", key, &answer, excuses)
    }

    async fn get(&self, client: &Client, key: u64) -> bool {
        let excuses = self.excuses();
        let before = self.ledger.borrow().before(key);
        let permitted = self.permit(LimitAction::Get, key, client.id);
        let (Some(before), Some((limit, segment))) = (before, permitted) else {
            return false;
        };
        let body = segment.body.clone();
        let asking = |mut send, mut recv| async move {
            simulated::get(&mut send, &mut recv, limit, &segment).await
        };
        let answer = client.ask(asking).await;
        let found = match &answer {
            Ok((bytes, fits)) if *fits && *bytes == body => Some(Found::Exact),
            Ok(_) => Some(Found::WrongBytes),
            Err(Refusal::Code(Code::NotFound)) => Some(Found::Absent),
            Err(Refusal::Code(Code::Corrupt)) => Some(Found::Damaged),
            Err(_) => None,
        };
        if let Some(found) = found {
            self.judge(key, before, found, excuses);
        }
        self.ended("get", key, &answer, excuses)
    }

    /// No fault comes any more: everything must be as it should, and soon.
    async fn heal(self: &Rc<Self>) {
        self.enter(Episode::calm());
        // What was begun ends; the disk is at rest.
        self.executor.sleep(Duration::from_secs(10)).await;
        let is_well = self.until_opened(HEAL_WAIT).await
            && self.running().is_some_and(|host| !host.is_blurred.get())
            && self.store().is_some_and(|store| !store.is_read_only());
        if !is_well {
            // A store that was poisoned or could not be read well is opened again.
            self.end_host().await;
            self.enter(Episode::calm());
            self.start();
            if !self.until_opened(HEAL_WAIT).await {
                return self.violate("the node does not start again");
            }
        }
        if !self.until_connected().await {
            return self.violate("a client does not connect again");
        }
        self.is_strict.set(true);
        let clients = self.clients.borrow().clone();
        for client in &clients {
            let key = self.new_piece(false);
            let is_well = self.ping(client).await
                && self.put(client, key).await
                && self.get(client, key).await
                && self.put(client, key).await
                && self.delete(client, key).await;
            let kept = self.new_piece(false);
            if !is_well || !self.put(client, kept).await {
                self.violate("a verb failed though nothing is wrong any more");
            }
        }
        self.executor.sleep(STRICT).await;
        self.is_loading.set(false);
        self.check_all().await;
        self.executor.sleep(IDLE).await;
        self.check_tidy().await;
        self.check_all().await;
        self.check_end().await;
    }

    async fn until_connected(&self) -> bool {
        let clients = self.clients.borrow().clone();
        let deadline = self.executor.elapsed() + HEAL_WAIT;
        while !clients.iter().all(|client| client.is_connected()) {
            if self.executor.elapsed() > deadline {
                return false;
            }
            self.executor.sleep(Duration::from_secs(1)).await;
        }
        // A connection to an earlier process may not have been noticed to be gone.
        self.executor.sleep(Duration::from_secs(35)).await;
        clients.iter().all(|client| client.is_connected())
    }

    async fn check_all(&self) {
        let keys: Vec<u64> = self.ledger.borrow().entries.keys().copied().collect();
        self.check(&keys).await;
    }

    /// A node that was left alone has compacted and scrubbed what there was.
    async fn check_tidy(&self) {
        let (Some(host), Some(store)) = (self.running(), self.store()) else {
            return self.violate("the node is gone");
        };
        match store.compact_in(Traffic::Quiet, host.expiry_time_s()).await {
            Ok(None) => {}
            Ok(Some(_)) => self.violate("a blob was left that is worth compacting"),
            Err(error) => self.violate(format!("cannot compact: {error}")),
        }
        let mut cursor = ScrubCursor::default();
        while let Some(step) = store.scrub_step(cursor, 4 << 20).await {
            if let Some(error) = step.unreadable {
                self.violate(format!("blob {} cannot be scrubbed: {error}", step.blob));
            }
            cursor = step.next;
        }
        self.look();
        let space = store.space();
        if space.file_bytes != host.disk.blob_bytes() || space.reserved_bytes != 0 {
            let found = host.disk.blob_bytes();
            self.violate(format!("the files have {found} bytes: {space:?}"));
        }
    }

    /// An orderly end leaves nothing behind, and another start finds everything.
    async fn check_end(self: &Rc<Self>) {
        let Some(host) = self.host.take() else {
            return;
        };
        if self.options.control == Control::LeavesTask {
            host.leave_task();
        }
        if let Err(what) = host.stop(&self.executor).await {
            self.violate(what);
        }
        host.die();
        let clients = self.clients.borrow().clone();
        for client in &clients {
            client.leave().await;
        }
        self.executor.sleep(CONNECT_TIMEOUT).await;
        let left: usize = clients.iter().map(|client| client.task_count()).sum();
        if left > 0 {
            self.violate(format!("clients that left have {left} tasks"));
        }
        self.start();
        if !self.until_opened(HEAL_WAIT).await {
            return self.violate("the node does not start after an orderly stop");
        }
        self.check_all().await;
        if let Some(store) = self.store() {
            self.check_knowledge(&store).await;
        }
    }

    /// The index is a cache: whoever reads the blobs anew knows the same.
    async fn check_knowledge(&self, store: &Store<SimDisk>) {
        let files = self.disk.borrow().all_files();
        let mut options = store_options();
        options.ignores_checkpoint = true;
        let disk = SimDisk::from_all_files(self.seed, files);
        let mut random = Random::new(self.seed);
        let mut fill = |bytes: &mut [u8]| random.fill(bytes);
        let opened = Box::pin(Store::open(disk, options, 0, &mut fill)).await;
        let has_rot = self.tally.borrow().counts.contains_key("rotted");
        match opened {
            Ok((rebuilt, _)) => {
                if !has_rot && Knowledge::of(store) != Knowledge::of(&rebuilt) {
                    self.violate("the index is another one when it is rebuilt");
                }
            }
            Err(error) => self.violate(format!("the index cannot be rebuilt: {error}")),
        }
    }
}

/// Reads a whole piece from the store.
async fn read(
    store: &Store<SimDisk>,
    segment: &Segment,
    permits: &Permits,
    now_s: u32,
) -> Result<Found, GetError> {
    let (satellite, id) = (permits.satellite.as_bytes(), segment.id.as_bytes());
    let reading = async {
        let piece = store.piece(satellite, id, now_s).await?;
        let bytes = store.read_shares(&piece, 0..piece.share_count()).await?;
        Ok((piece, bytes))
    };
    match reading.await {
        Ok((piece, bytes)) => {
            let is_exact = bytes == segment.body
                && piece.root == segment.tree.root
                && piece.path == segment.path
                && piece.commitment == segment.commitment
                && piece.share_hashes == segment.tree.share_hashes;
            Ok(if is_exact {
                Found::Exact
            } else {
                Found::WrongBytes
            })
        }
        Err(GetError::NotFound) => Ok(Found::Absent),
        Err(GetError::Corrupt { .. }) => Ok(Found::Damaged),
        Err(error) => Err(error),
    }
}
