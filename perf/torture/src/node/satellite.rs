//! The satellite, as far as a node sees it: it answers check-ins, no longer wants some pieces, and hands out filters without them.
//!
//! The node's own code dials it over the simulated network, so whatever the weather does happens to check-ins and filters as well: they are
//! lost, late and repeated. On top of that the satellite is in a bad mood in some episodes: it refuses, does not answer, answers
//! too late, announces an earlier run once more. It keeps its word in any case: a filter has every piece that is wanted and was issued before the
//! filter's moment.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use piecestore::core::Counters;
use piecestore::core::executor::{Clock, Executor};
use piecestore::core::simulated::SimExecutor;
use piecestore::limits::CONNECTION_BUDGET_BYTES_MIN;
use piecestore::permission::EpochKeys;
use piecestore::quic::simulated::SimNetwork;
use piecestore::quic::simulated_security::SimIdentity;
use piecestore::quic::{Driver, Endpoint, Handler, QuicRecv, QuicSend};
use piecestore::serve::{read_frame, send_frame, simulated};
use piecestore::stream::{Request, SendStream};
use strand_protocol::limits::SATELLITE_FRAME_BYTES_MAX;
use strand_protocol::pb::satellite_request::Verb;
use strand_protocol::pb::satellite_response::Answer;
use strand_protocol::{Code, FilterKey, FilterScope, NodeId, PieceFilter, PieceId, pb};
use strand_transport::SATELLITE_ALPN;

use super::Control;
use super::host::NODE;
use super::ledger::State;
use super::world::World;

/// Runs that are still handed out; an earlier one only if the satellite is in a bad mood.
const RUNS_KEPT: usize = 3;

/// Pieces that are unwanted at once, at most.
const UNWANTED_MAX: u64 = 6;

/// How long the owner waits for the trash.
const RESTORE_WAIT: Duration = Duration::from_secs(60);

/// See the module's head.
pub(super) struct Satellite {
    _driver: Driver<SimExecutor>,
    _endpoint: Endpoint<SimExecutor>,
    executor: SimExecutor,
    /// Newest last.
    runs: RefCell<Vec<Run>>,
    last_run: Cell<u64>,
    /// Pieces that the node said it lost.
    lost: RefCell<BTreeSet<[u8; 32]>>,
}

/// A set of filters.
struct Run {
    number: u64,
    parts: Vec<Vec<u8>>,
    /// Pieces that no part has, though they were issued before.
    excluded: Vec<u64>,
}

impl Satellite {
    /// Begins to answer at `listen`.
    pub(super) fn begin(
        world: &Rc<World>,
        executor: &SimExecutor,
        network: &SimNetwork,
        listen: SocketAddr,
    ) -> Self {
        let executor = executor.process();
        let driver = Driver::new(
            executor.clone(),
            network.host(true),
            Rc::new(Counters::default()),
            CONNECTION_BUDGET_BYTES_MIN,
        );
        let running = driver.clone();
        executor.spawn(async move { running.run().await });
        let answering = Rc::downgrade(world);
        let handler: Handler = Rc::new(move |request| {
            let world = answering.upgrade();
            Box::pin(async move {
                if let Some(world) = world {
                    world.answer_node(request).await;
                }
            })
        });
        let identity = SimIdentity::new(world.permits.satellite, executor.random());
        let identity = identity.serving(SATELLITE_ALPN);
        let endpoint = match driver.add_node(&identity, listen, handler) {
            Ok(endpoint) => endpoint,
            Err(error) => panic!("the satellite has an address: {error}"),
        };
        Self {
            _driver: driver,
            _endpoint: endpoint,
            executor,
            runs: RefCell::default(),
            last_run: Cell::default(),
            lost: RefCell::default(),
        }
    }

    /// Whether the node said that it lost this piece.
    pub(super) fn has_heard_of(&self, id: &[u8; 32]) -> bool {
        self.lost.borrow().contains(id)
    }

    /// Drops what is left of it.
    pub(super) fn die(&self) {
        self.executor.end_process();
    }
}

impl World {
    fn sky(&self) -> Option<Rc<Satellite>> {
        self.satellite.borrow().clone()
    }

    /// One request of the node.
    async fn answer_node(self: Rc<Self>, request: Request<QuicSend, QuicRecv>) {
        let Request {
            peer,
            mut send,
            mut recv,
        } = request;
        if peer != NodeId::from(NODE) {
            return self.violate(format!("{peer} asks the satellite"));
        }
        let frame = read_frame(&mut recv, SATELLITE_FRAME_BYTES_MAX).await;
        let Ok(pb::SatelliteRequest {
            verb: Some(verb), ..
        }) = frame
        else {
            return;
        };
        let answer = self.answer(verb);
        let mood = self.episode.get().satellite_permille;
        let answer = if self.below(1000) < mood {
            match self.below(3) {
                0 => Answer::Error(Code::Busy.error("come back later")),
                // It knows nothing more of it.
                1 => return,
                _ => {
                    self.pause(1_000, 45_000).await;
                    answer
                }
            }
        } else {
            answer
        };
        let response = pb::SatelliteResponse {
            answer: Some(answer),
        };
        if send_frame(&mut send, &response).await.is_ok() {
            send.finish();
        }
    }

    fn answer(&self, verb: Verb) -> Answer {
        match verb {
            Verb::CheckIn(check_in) => Answer::CheckedIn(self.check_in(&check_in)),
            Verb::FetchFilter(fetch) => match self.hand_out(&fetch) {
                Some(filter) => Answer::FilterPart(pb::FilterPart { filter }),
                None => Answer::Error(Code::NotFound.error("there is a newer run")),
            },
            _ => Answer::Error(Code::Internal.error("not simulated")),
        }
    }

    fn check_in(&self, check_in: &pb::CheckIn) -> pb::CheckedIn {
        self.count("sim_check_ins", 1);
        // The ledger hears of what is lost before the satellite does.
        self.look();
        let Some(satellite) = self.sky() else {
            return pb::CheckedIn::default();
        };
        // It has not always room for all of them.
        let taken = |ids: &[Vec<u8>]| {
            let few = self.below(4) == 0;
            if few { ids.len() / 2 } else { ids.len() }
        };
        let (lost_taken, revived_taken) = (taken(&check_in.lost), taken(&check_in.revived));
        let ids = |ids: &[Vec<u8>], count: usize| -> Vec<[u8; 32]> {
            let ids = ids.iter().take(count);
            ids.filter_map(|id| id[..].try_into().ok()).collect()
        };
        for id in ids(&check_in.lost, lost_taken) {
            satellite.lost.borrow_mut().insert(id);
            let untold = {
                let ledger = self.ledger.borrow();
                ledger.key_of(&id).filter(|&key| !ledger.was_told(key))
            };
            if let Some(key) = untold {
                self.violate(format!(
                    "the satellite hears that piece {key} is lost, and the store did not say so"
                ));
            } else {
                self.count("sim_lost_heard", 1);
            }
        }
        for id in ids(&check_in.revived, revived_taken) {
            self.count("sim_revived", 1);
            self.ledger.borrow_mut().want_again(&id);
        }
        if let Some(outcome) = &check_in.collected {
            self.take_outcome(&satellite, outcome);
        }
        let EpochKeys { epoch, .. } = self.key;
        let keys = pb::NodeKeys {
            epoch,
            limit_key: self
                .permits
                .keys
                .limit_key(&self.permits.node, epoch)
                .as_bytes()
                .to_vec(),
            receipt_key: self.key.receipt_key.as_bytes().to_vec(),
        };
        let mood = self.episode.get().satellite_permille;
        let runs = satellite.runs.borrow();
        let announced = if self.below(1000) < mood {
            runs.first()
        } else {
            runs.last()
        };
        pb::CheckedIn {
            now_ms: self.executor.now_ms(),
            keys: vec![keys],
            reachable: true,
            observed: self.listen.to_string(),
            lost_taken: lost_taken as u32,
            revived_taken: revived_taken as u32,
            filters: announced.map(|run| pb::FilterRun {
                run: run.number,
                part_count: run.parts.len() as u32,
            }),
            ..pb::CheckedIn::default()
        }
    }

    fn take_outcome(&self, satellite: &Satellite, outcome: &pb::CollectOutcome) {
        if outcome.run > satellite.last_run.get() {
            self.violate(format!("run {} was never announced", outcome.run));
        }
        if outcome.kept + outcome.trashed != outcome.examined {
            self.violate(format!("pieces are missing in {outcome:?}"));
        }
        let runs = satellite.runs.borrow();
        let run = runs.iter().find(|run| run.number == outcome.run);
        // What the ledger has forgotten may be back, if it was hurt, and nobody wants it.
        let forgotten = self.ledger.borrow().forgotten;
        if let Some(run) = run
            && outcome.trashed > run.excluded.len() as u64 + forgotten
            && self.options.control == Control::None
        {
            let count = run.excluded.len();
            self.violate(format!("{count} pieces were unwanted, and {outcome:?}"));
        }
        self.count("sim_outcomes", 1);
    }

    /// A part of a run: from now on what it lacks may be in the trash.
    fn hand_out(&self, fetch: &pb::FetchFilter) -> Option<Vec<u8>> {
        let satellite = self.sky()?;
        let runs = satellite.runs.borrow();
        let run = runs.iter().find(|run| run.number == fetch.run)?;
        let part = run.parts.get(fetch.part as usize)?.clone();
        let now_ms = self.executor.now_ms();
        let mut ledger = self.ledger.borrow_mut();
        for &key in &run.excluded {
            ledger.exclude(key, now_ms);
        }
        self.count("sim_filters", 1);
        Some(part)
    }

    /// New runs, and the owner's wishes, one after another.
    pub(super) async fn tend(self: Rc<Self>) {
        while self.is_loading.get() {
            self.pause(5_000, 40_000).await;
            // What is withdrawn in the end stays so.
            if !self.is_loading.get() {
                return;
            }
            if self.below(4) == 0 {
                self.withdraw();
                self.restore().await;
            } else {
                self.make_run();
            }
        }
    }

    /// Some pieces are unwanted from now on, and there is a filter without them.
    fn make_run(&self) {
        let Some(satellite) = self.sky() else {
            return;
        };
        let control = self.options.control;
        let snapshot_ms = self.executor.now_ms() - self.below(15_000);
        let mut ledger = self.ledger.borrow_mut();
        for _ in 0..self.below(UNWANTED_MAX + 1) {
            let from = self.below(ledger.next_key.max(1));
            let Some((_, entry)) = ledger.entries.range_mut(from..).next() else {
                continue;
            };
            if entry.state == State::Acked && entry.expiry_ms == 0 && entry.issued_ms < snapshot_ms
            {
                entry.is_unwanted = true;
            }
        }
        let (mut wanted, mut excluded) = (Vec::new(), Vec::new());
        for (&key, entry) in &ledger.entries {
            if entry.issued_ms >= snapshot_ms {
                continue;
            }
            if entry.is_unwanted {
                excluded.push(key);
            } else if control != Control::OmitsWanted || key % 16 != 0 {
                wanted.push(*entry.segment.id.as_bytes());
            }
        }
        drop(ledger);
        // The control claims to have looked later than it did.
        let claimed_ms = match control {
            Control::ClaimsLaterMoment => self.executor.now_ms(),
            _ => snapshot_ms,
        };
        let part_count = 1 + self.below(3) as u8;
        let part = |index: u8| {
            let first = |index: u8| (u32::from(index) * 256 / u32::from(part_count)) as u8;
            let (mut first_id, mut last_id) = ([0; 32], [0xff; 32]);
            first_id[0] = first(index);
            last_id[0] = if index + 1 == part_count {
                0xff
            } else {
                first(index + 1) - 1
            };
            let scope = FilterScope {
                satellite: self.permits.satellite,
                node: self.permits.node,
                snapshot_ms: claimed_ms,
                first_id: PieceId::from(first_id),
                last_id: PieceId::from(last_id),
            };
            let mut random = self.random.borrow_mut();
            let key = FilterKey::from(simulated::drawn(|| random.next()));
            let hashes = wanted.iter().filter(|id| scope.covers(id));
            let hashes = hashes.map(|id| key.hash(id)).collect();
            match PieceFilter::build(scope, key, hashes) {
                Ok(filter) => filter.into_bytes(),
                Err(error) => panic!("a small filter can be built: {error}"),
            }
        };
        let parts = (0..part_count).map(part).collect();
        let number = satellite.last_run.get() + 1;
        satellite.last_run.set(number);
        let mut runs = satellite.runs.borrow_mut();
        if runs.len() == RUNS_KEPT {
            runs.remove(0);
        }
        runs.push(Run {
            number,
            parts,
            excluded,
        });
        self.count("sim_runs", 1);
    }

    /// No filter is handed out any more, and all that is there is wanted.
    pub(super) fn withdraw(&self) {
        if let Some(satellite) = self.sky() {
            satellite.runs.borrow_mut().clear();
        }
        let mut ledger = self.ledger.borrow_mut();
        for entry in ledger.entries.values_mut() {
            entry.is_unwanted = false;
        }
    }

    /// The owner asks to have the trash back; whether it is, as far as it can be: a write that went astray may have hit a blob's list of records, and
    /// then the answer has to say so.
    pub(super) async fn restore(&self) -> bool {
        let Some(host) = self.running() else {
            return false;
        };
        if self.options.control == Control::RestoresNothing {
            self.ledger.borrow_mut().restored(self.executor.now_ms());
            return true;
        }
        let (boot, begun) = (self.boot.get(), self.executor.elapsed());
        let question = host.board.ask_restore();
        let answer = loop {
            self.executor.sleep(Duration::from_secs(1)).await;
            if self.boot.get() != boot || self.executor.elapsed() > begun + RESTORE_WAIT {
                return false;
            }
            if let Some(answer) = host.board.restored(question) {
                break answer;
            }
        };
        self.look();
        let excuses = self.excuses();
        if answer.contains("the list of what is in") && self.has_harmed_files() {
            return true;
        }
        if answer.contains("error") || excuses.faults.reads > 0 || excuses.is_blurred {
            return false;
        }
        self.count("sim_restores", 1);
        let answered_ms = self.executor.now_ms();
        self.ledger.borrow_mut().restored(answered_ms);
        true
    }
}
