use std::rc::Rc;

use bytes::Bytes;
use strand_blob::disk::sim::SimDisk;
use strand_blob::{GetError, NewPiece, StoreOptions};
use strand_protocol::{FilterKey, FilterScope};

use super::*;
use crate::core::simulated::SimExecutor;
use crate::permission::EpochKeys;

mod guards;

const NODE: [u8; 32] = [2; 32];
const SATELLITE: [u8; 32] = [1; 32];
const RUN: u64 = 77;

/// A satellite that has these filters, and remembers which parts were fetched.
struct Filters {
    parts: RefCell<Vec<Vec<u8>>>,
    fetched: RefCell<Vec<u32>>,
    /// Does not answer.
    hangs: Cell<bool>,
    /// All machines sleep for so long before it answers.
    sleeps: RefCell<Option<(SimExecutor, Duration)>>,
}

impl Line for Filters {
    async fn check_in(&self, _: pb::CheckIn) -> Result<pb::CheckedIn, CheckInError> {
        Err(CheckInError::Nonsense)
    }

    async fn fetch_filter(&self, fetch: pb::FetchFilter) -> Result<Vec<u8>, CheckInError> {
        assert_eq!(fetch.run, RUN);
        self.fetched.borrow_mut().push(fetch.part);
        if self.hangs.get() {
            future::pending::<()>().await;
        }
        if let Some((executor, time)) = self.sleeps.take() {
            executor.sleep_machines(time);
        }
        let parts = self.parts.borrow();
        let part = parts.get(fetch.part as usize).cloned();
        part.ok_or_else(|| CheckInError::Refused("no such filter".to_owned()))
    }
}

/// A filter of pieces with these keys, for ids that begin with `first` to `last`.
fn filter(
    now_ms: u64,
    range: (u8, u8),
    keys: &[u8],
    change: impl FnOnce(&mut FilterScope),
) -> Vec<u8> {
    let ids: Vec<_> = keys.iter().map(|&byte| [byte; 32]).collect();
    filter_of(now_ms, range, &ids, change)
}

/// The same of pieces with these ids.
fn filter_of(
    now_ms: u64,
    range: (u8, u8),
    ids: &[[u8; 32]],
    change: impl FnOnce(&mut FilterScope),
) -> Vec<u8> {
    let mut first_id = [0; 32];
    let mut last_id = [0xff; 32];
    (first_id[0], last_id[0]) = range;
    let mut scope = FilterScope {
        satellite: SATELLITE.into(),
        node: NODE.into(),
        snapshot_ms: now_ms - 1_000,
        first_id: first_id.into(),
        last_id: last_id.into(),
    };
    change(&mut scope);
    let key = FilterKey::from([9; 32]);
    let hashes = ids.iter().map(|id| key.hash(id)).collect();
    PieceFilter::build(scope, key, hashes).unwrap().into_bytes()
}

fn new_piece(key: u8, created_s: u32) -> NewPiece {
    let body = vec![key; 1_024];
    let mut hasher = strand_codec::PieceHasher::new(body.len() as u64);
    hasher.push_share(&body);
    NewPiece {
        satellite: SATELLITE,
        id: [key; 32],
        created_s,
        expiry_s: 0,
        root: hasher.finish().root,
        crcs: strand_blob::share_crcs(&body),
        body: vec![Bytes::from(body)],
        share_hashes: Vec::new(),
        path: Vec::new(),
        commitment: [0; 32],
    }
}

/// A node with pieces of keys 0 to `pieces`, a collector, and what it has to say.
struct World {
    executor: SimExecutor,
    disk: SimDisk,
    store: Rc<Store<SimDisk>>,
    permission: Rc<Permission>,
    reports: Reports,
    board: Board,
    line: Filters,
}

impl World {
    async fn new(executor: &SimExecutor, pieces: u8, satellite_ahead_ms: u64) -> Self {
        let options = StoreOptions::new(NODE, 1 << 30);
        let mut salt = |bytes: &mut [u8]| bytes.fill(7);
        let disk = SimDisk::new(1);
        let opened = Store::open(disk.clone(), options, 0, &mut salt);
        let (store, _) = opened.await.unwrap();
        executor.spawn(Rc::clone(&store).run_commits());
        for key in 0..pieces {
            store.put(new_piece(key, 5)).await.unwrap();
        }
        let permission = Permission::new(SATELLITE.into(), NODE.into());
        let keys = EpochKeys {
            epoch: 1,
            limit_key: [1; 32].into(),
            receipt_key: [1; 32].into(),
        };
        let now_ms = executor.now_ms();
        permission.update(vec![keys], now_ms + satellite_ahead_ms, executor.moment());
        Self {
            executor: executor.clone(),
            disk,
            store,
            permission,
            reports: Reports::default(),
            board: Board::default(),
            line: Filters {
                parts: RefCell::default(),
                fetched: RefCell::default(),
                hangs: Cell::default(),
                sleeps: RefCell::default(),
            },
        }
    }

    /// Announces filters and lets the collector run for some virtual time; what it says then.
    async fn collect(&self, parts: Vec<Vec<u8>>) -> pb::CheckIn {
        let part_count = parts.len() as u32;
        self.line.parts.replace(parts);
        self.line.fetched.take();
        self.reports.answered(&pb::CheckedIn {
            filters: Some(pb::FilterRun {
                run: RUN,
                part_count,
            }),
            ..pb::CheckedIn::default()
        });
        self.work().await;
        let mut check_in = pb::CheckIn::default();
        self.reports.fill(&mut check_in);
        check_in
    }

    async fn work(&self) {
        self.work_for(5 * GC_LOOK_PERIOD).await;
    }

    async fn work_for(&self, time: Duration) {
        let collector = Collector {
            node: NODE.into(),
            satellite: SATELLITE.into(),
            store: &*self.store,
            line: &self.line,
            permission: &self.permission,
            reports: &self.reports,
            board: &self.board,
            executor: &self.executor,
        };
        let over = timeout(&self.executor, time, collector.run());
        assert_eq!(over.await, None, "it runs until it is dropped");
    }

    /// What the owner is told who asks for the trash.
    async fn owner_restores(&self) -> String {
        assert_eq!(self.board.restore_question(), None);
        let question = self.board.ask_restore();
        self.work().await;
        self.board.restored(question).unwrap()
    }

    /// Reads a piece at some time, by the satellite's clock, as a get would.
    async fn read(&self, satellite: [u8; 32], key: u8, now_s: u64) -> Result<(), GetError> {
        let now_s = u32::try_from(now_s).unwrap();
        let found = self.store.piece(&satellite, &[key; 32], now_s).await;
        found.map(drop)
    }

    fn trashed(&self) -> u64 {
        self.store.counters().trashed
    }
}

/// Runs a test in virtual time.
fn with_world<F: Future<Output = ()> + 'static>(
    pieces: u8,
    satellite_ahead_ms: u64,
    test: impl FnOnce(World) -> F + 'static,
) {
    let executor = SimExecutor::new(1);
    let inner = executor.clone();
    executor.run(async move {
        let world = World::new(&inner, pieces, satellite_ahead_ms).await;
        test(world).await;
    });
}

#[test]
fn what_no_part_contains_is_trashed_and_said() {
    with_world(60, 0, |world| async move {
        let now_ms = world.executor.now_ms();
        let low: Vec<u8> = (0..20).collect();
        let high: Vec<u8> = (40..60).collect();
        // Key 25 and others between may be contained by mistake: 1 in 256 each, and this key's are known.
        let parts = vec![
            filter(now_ms, (0, 29), &low, |_| {}),
            filter(now_ms, (30, 255), &high, |_| {}),
        ];
        let said = world.collect(parts.clone()).await.collected.unwrap();
        let wrong = [0, 1].map(|part| {
            let filter = PieceFilter::parse(parts[part].clone()).unwrap();
            let garbage = 20 + 10 * part as u8..30 + 10 * part as u8;
            garbage.filter(|&key| filter.contains(&[key; 32])).count() as u64
        });
        let garbage = 20 - wrong.iter().sum::<u64>();
        assert_eq!(
            (
                said.run,
                said.examined,
                said.kept,
                said.trashed,
                said.refused_parts
            ),
            (RUN, 60, 60 - garbage, garbage, 0)
        );
        assert_eq!(said.trashed_bytes, garbage * 1_024);
        let figures = world.reports.figures();
        assert_eq!((figures.run, figures.examined), (RUN, 60));
        assert_eq!((figures.trashed, figures.error.as_str()), (garbage, ""));
        assert!(figures.at_ms >= now_ms);
        assert_eq!(world.trashed(), garbage);
        assert_eq!(world.line.fetched.take(), [0, 1]);
        // Announced again with every check-in, done once.
        let again = world.collect(parts).await;
        assert_eq!(again.collected, Some(said), "repeated with every check-in");
        assert_eq!(world.line.fetched.take(), [0; 0]);
    });
}

#[test]
fn pieces_of_the_snapshots_second_and_later_stay() {
    with_world(0, 0, |world| async move {
        let now_ms = world.executor.now_ms();
        let snapshot_s = u32::try_from(now_ms / 1_000 - 1).unwrap();
        for (key, created_s) in [(1, snapshot_s - 1), (2, snapshot_s), (3, snapshot_s + 1)] {
            world.store.put(new_piece(key, created_s)).await.unwrap();
        }
        // Late in its second: that is not rounded up.
        let late =
            |scope: &mut FilterScope| scope.snapshot_ms = u64::from(snapshot_s) * 1_000 + 999;
        let said = world
            .collect(vec![filter(now_ms, (0, 255), &[], late)])
            .await;
        assert_eq!(said.collected.unwrap().trashed, 1);
        assert_eq!(world.store.counters().pieces, 2);
    });
}

#[test]
fn a_filter_that_would_trash_too_much_is_refused_and_said() {
    with_world(120, 0, |world| async move {
        let now_ms = world.executor.now_ms();
        let said = world
            .collect(vec![filter(now_ms, (0, 255), &[], |_| {})])
            .await;
        let said = said.collected.unwrap();
        assert_eq!((said.trashed, said.refused_parts), (0, 1));
        assert_eq!((said.would_trash, said.would_trash_of), (120, 120));
        let figures = world.reports.figures();
        assert_eq!((figures.refused_parts, figures.would_trash), (1, 120));
        assert_eq!(world.store.counters().pieces, 120);
    });
}

#[test]
fn a_filter_for_somebody_else_of_the_future_or_damaged_changes_nothing() {
    with_world(10, 0, |world| async move {
        let now_ms = world.executor.now_ms();
        let mut damaged = filter(now_ms, (0, 255), &[], |_| {});
        damaged[100] ^= 1;
        let bad = [
            (
                filter(now_ms, (0, 255), &[], |scope| scope.node = [3; 32].into()),
                "is of satellite",
            ),
            (
                filter(now_ms, (0, 255), &[], |scope| {
                    scope.satellite = [3; 32].into()
                }),
                "is of satellite",
            ),
            (
                filter(now_ms, (0, 255), &[], |scope| {
                    scope.snapshot_ms = now_ms + 3_600_000
                }),
                "from the future",
            ),
            (damaged, "is no filter"),
            (Vec::new(), "is no filter"),
        ];
        for (bad, why) in bad {
            let said = world.collect(vec![bad]).await;
            assert_eq!(said.collected, None, "it is not done");
            let error = world.reports.figures().error;
            assert!(error.contains(why), "{error}");
            assert_eq!(world.line.fetched.take(), [0], "once for each announcement");
            assert_eq!(world.store.counters().pieces, 10);
        }
    });
}

#[test]
fn a_node_whose_clock_is_far_off_collects_nothing() {
    with_world(10, 601_000, |world| async move {
        let now_ms = world.executor.now_ms();
        let parts = vec![filter(now_ms, (0, 255), &[], |_| {})];
        let said = world.collect(parts.clone()).await;
        assert_eq!(said.collected, None);
        assert_eq!(world.line.fetched.take(), [0; 0]);
        assert_eq!(world.store.counters().pieces, 10);
        // Set right, the same run is worked through.
        let keys = EpochKeys {
            epoch: 1,
            limit_key: [1; 32].into(),
            receipt_key: [1; 32].into(),
        };
        let now_ms = world.executor.now_ms();
        let moment = world.executor.moment();
        world.permission.update(vec![keys], now_ms, moment);
        assert_eq!(world.collect(parts).await.collected.unwrap().trashed, 10);
    });
}

#[test]
fn what_is_read_out_of_the_trash_comes_back_and_is_said_until_it_is_taken() {
    with_world(10, 0, |world| async move {
        let now_ms = world.executor.now_ms();
        world
            .collect(vec![filter(now_ms, (0, 255), &[], |_| {})])
            .await;
        assert_eq!(world.store.counters().pieces, 0);
        for key in [3, 4] {
            assert_eq!(world.read(SATELLITE, key, now_ms / 1_000).await, Ok(()));
        }
        world.work().await;
        let said = || {
            let mut check_in = pb::CheckIn::default();
            world.reports.fill(&mut check_in);
            check_in.revived
        };
        let mut first = said();
        first.sort();
        assert_eq!(first, [vec![3; 32], vec![4; 32]]);
        assert_eq!(said().len(), 2, "not taken yet");
        let answer = |revived_taken| pb::CheckedIn {
            revived_taken,
            ..pb::CheckedIn::default()
        };
        world.reports.answered(&answer(1));
        assert_eq!(said().len(), 1);
        world.reports.answered(&answer(9));
        assert_eq!(said().len(), 0);
        // The owner wants the others back too.
        assert_eq!(world.owner_restores().await, r#"{"restored":8}"#);
        assert_eq!(world.store.counters().pieces, 10);
    });
}

#[test]
fn reports_are_bounded_and_sent_in_steps() {
    let reports = Reports::default();
    let id = |number: usize| {
        let mut id = [0; 32];
        id[..8].copy_from_slice(&number.to_le_bytes());
        id
    };
    assert!(
        reports
            .lost
            .borrow_mut()
            .add((0..REPORTS_KEPT_MAX + 5).map(id))
    );
    assert!(!reports.lost.borrow_mut().add([id(1)]), "full");
    let mut seen = 0;
    loop {
        let mut check_in = pb::CheckIn::default();
        reports.fill(&mut check_in);
        if check_in.lost.is_empty() {
            break;
        }
        assert!(check_in.lost.len() <= REPORTED_PIECES_MAX);
        assert_eq!(check_in.lost[0], id(seen));
        // More than was sent is a lie that must not lose what was never sent.
        reports.answered(&pb::CheckedIn {
            lost_taken: u32::MAX,
            ..pb::CheckedIn::default()
        });
        seen += check_in.lost.len();
    }
    assert_eq!(seen, REPORTS_KEPT_MAX);
}
