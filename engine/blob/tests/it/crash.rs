//! Crashes against a model: whatever was acked is there, bit-exact, and whatever was deleted stays away.
//!
//! Steps are batches of concurrent operations on distinct pieces, some of them issued twice at once. A batch runs to its end, or
//! the power fails, or the process is killed, after a few polls. The model keeps for each piece the states it may be in: one, unless an operation on
//! it was cut off. What a read finds after a crash is then the only state, also through later crashes.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use proptest::prelude::*;
use strand_blob::disk::sim::SimDisk;
use strand_blob::testing::{Knowledge, Random};
use strand_blob::{
    BlobId, CollectError, Damage, FileId, GetError, NewPiece, PutError, ScrubCursor, Store,
    StoreOptions, Stored,
};

use crate::support::{
    DAY_S, NOW_S, SATELLITE, World, body_of, collect, id_of, open, piece_of, read_body, rebuilt,
    small_options,
};

const KEYS: u64 = 8;
const LENGTHS: [usize; 6] = [1, 576, 4_000, 16_384, 16_385, 50_000];

#[derive(Clone, Copy, Debug)]
enum Op {
    Put {
        variant: u64,
    },
    Delete,
    Get,
    /// A collection that wants all but this piece.
    Trash,
    /// Brings all pieces back, whatever the key is.
    RestoreAll,
    /// Scrubs one blob, whatever the key is.
    Scrub,
    /// Compacts one blob, whatever the key is.
    Compact,
    /// Writes a checkpoint, whatever the key is.
    Checkpoint,
}

#[derive(Clone, Copy, Debug)]
struct Call {
    key: u64,
    op: Op,
    is_doubled: bool,
}

#[derive(Clone, Debug)]
enum Step {
    Run(Vec<Call>),
    Crash {
        calls: Vec<Call>,
        polls: u64,
        seed: u64,
        /// Only the process dies: the system keeps what was written, and may lose it in a later crash.
        is_kill: bool,
        meddling: Meddling,
    },
    Reopen,
}

/// What happens to the checkpoints before the next opening.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Meddling {
    None,
    /// Those that an earlier opening found are put back.
    Older,
    Flip(usize),
    Cut(usize),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Answer {
    Put(Result<Stored, PutError>),
    Delete(Result<bool, PutError>),
    /// The variant that was read.
    Get(Option<u64>),
    Compact(Result<(), PutError>),
    Checkpoint(Result<bool, PutError>),
    /// How many pieces went into the trash.
    Trash(Result<u64, CollectError>),
    RestoreAll(Result<(), PutError>),
    Scrub,
}

/// `None`: not there. `Some`: there, with the body of that variant, and whether in the trash.
type State = Option<(u64, bool)>;

/// When all that was trashed is over.
const LATE_S: u32 = NOW_S + 8 * DAY_S;

struct Model {
    options: StoreOptions,
    world: World,
    states: BTreeMap<u64, Vec<State>>,
    /// The checkpoints that the last opening found.
    older: Files,
}

type Files = BTreeMap<FileId, Vec<u8>>;

fn checkpoints_of(disk: &SimDisk) -> Files {
    let mut files = disk.all_files();
    files.retain(|id, _| matches!(id, FileId::Checkpoint(_)));
    files
}

/// Opens a disk, and asserts that the same is known as without a checkpoint.
fn reopened(disk: &SimDisk, options: StoreOptions, seed: u64) -> World {
    let wanted = rebuilt(disk, options);
    let world = open(disk, options, seed);
    assert_eq!(Knowledge::of(&world.store), wanted, "{:?}", world.recovery);
    world
}

fn meddle(disk: SimDisk, meddling: Meddling, older: &Files) -> SimDisk {
    let mut files = disk.all_files();
    let checkpoints = checkpoints_of(&disk);
    let newest = checkpoints.keys().next_back();
    match (meddling, newest) {
        (Meddling::None, _) | (_, None) => return disk,
        (Meddling::Older, _) => {
            files.retain(|id, _| !checkpoints.contains_key(id));
            files.extend(older.clone());
        }
        (Meddling::Flip(at), Some(id)) => {
            if let Some(file) = files.get_mut(id).filter(|file| !file.is_empty()) {
                let at = at % file.len();
                file[at] ^= 0x10;
            }
        }
        (Meddling::Cut(at), Some(id)) => {
            if let Some(file) = files.get_mut(id) {
                file.truncate(at % (file.len() + 1));
            }
        }
    }
    SimDisk::from_all_files(1, files)
}

fn variant_piece(key: u64, variant: u64) -> NewPiece {
    let len = LENGTHS[(key + variant) as usize % LENGTHS.len()];
    let mut piece = piece_of(key, &body_of(key, variant, len));
    // Two expiry classes, so that several blobs are open.
    piece.expiry_s = [0, LATE_S + DAY_S, LATE_S + 5 * DAY_S][key as usize % 3];
    piece
}

/// The variant that is found at this time.
async fn read_variant(store: &Store<SimDisk>, key: u64, now_s: u32) -> Option<u64> {
    match read_body(store, key, now_s).await {
        Ok(body) => {
            let is_whole = |&variant: &u64| variant_piece(key, variant).body.concat() == body;
            Some((0..2).find(is_whole).expect("bytes that were never put"))
        }
        Err(GetError::NotFound) => None,
        Err(error) => panic!("piece {key}: {error}"),
    }
}

async fn perform(store: Rc<Store<SimDisk>>, call: Call) -> Answer {
    match call.op {
        Op::Put { variant } => Answer::Put(store.put(variant_piece(call.key, variant)).await),
        Op::Delete => Answer::Delete(store.delete(&SATELLITE, &id_of(call.key), NOW_S).await),
        Op::Get => Answer::Get(read_variant(&store, call.key, NOW_S).await),
        Op::Trash => {
            let collection = collect(&store, vec![call.key], NOW_S + 1).await;
            Answer::Trash(collection.map(|done| done.trashed))
        }
        Op::RestoreAll => {
            Answer::RestoreAll(store.restore_all(&SATELLITE, NOW_S).await.map(|_| ()))
        }
        Op::Scrub => {
            let cursor = ScrubCursor {
                blob: BlobId(call.key),
                offset: 0,
            };
            let step = store.scrub_step(cursor, 1 << 20).await;
            assert!(step.is_none_or(|step| step.lost.is_empty()));
            Answer::Scrub
        }
        Op::Compact => Answer::Compact(store.compact(NOW_S).await.map(|done| {
            assert_eq!(done.unwrap_or_default().lost, [], "nothing was damaged");
        })),
        Op::Checkpoint => Answer::Checkpoint(store.checkpoint().await),
    }
}

impl Model {
    fn new(options: StoreOptions, seed: u64) -> Self {
        let disk = SimDisk::new(seed);
        disk.use_memory();
        let world = open(&disk, options, seed);
        Self {
            options,
            world,
            states: (0..KEYS).map(|key| (key, vec![None])).collect(),
            older: Files::new(),
        }
    }

    fn step(mut self, step: &Step) -> Self {
        match step {
            Step::Run(calls) => {
                let answers = self.start(calls);
                self.world.executor.run_until_stalled();
                assert_eq!(
                    answers.borrow().iter().flatten().count(),
                    answers.borrow().len(),
                    "stuck"
                );
                self.learn(calls, &answers.borrow());
                self.world.check_space();
                self.look()
            }
            Step::Crash {
                calls,
                polls,
                seed,
                is_kill,
                meddling,
            } => {
                let answers = self.start(calls);
                for _ in 0..*polls {
                    self.world.executor.step();
                }
                assert_eq!(self.world.store.counters().acks_before_sync, 0);
                self.learn(calls, &answers.borrow());
                let Self {
                    options,
                    world,
                    states,
                    older,
                } = self;
                let found = if *is_kill {
                    world.kill(*seed)
                } else {
                    world.crash(*seed)
                };
                let found = meddle(found, *meddling, &older);
                let mut older = checkpoints_of(&found);
                // Without the note of the last removal no blob at all looks like a disk that is not there: that is refused until
                // somebody says that it is right.
                let mut opening = options;
                opening.ignores_checkpoint =
                    *meddling != Meddling::None && found.files().is_empty();
                let world = reopened(&found, opening, *seed);
                let mut rotten = world.recovery.rotten.clone();
                if *meddling != Meddling::None {
                    // A note of what was removed may be gone with it.
                    rotten.retain(|rot| rot.damage != Damage::Missing);
                }
                assert_eq!(rotten, [], "a crash is no rot");
                if world.recovery.checkpoint.is_none() {
                    older.clear();
                }
                Self {
                    options,
                    world,
                    states,
                    older,
                }
                .look()
            }
            Step::Reopen => {
                let Self {
                    options,
                    world,
                    states,
                    older,
                } = self;
                world.close();
                let world = reopened(&world.disk, options, 11);
                assert_eq!(world.recovery.records_read, 0, "it ended in order");
                assert_eq!(
                    (world.recovery.rotten.len(), world.store.is_read_only()),
                    (0, false)
                );
                Self {
                    options,
                    world,
                    states,
                    older,
                }
                .look()
            }
        }
    }

    /// Issues calls, doubled ones twice; the answers appear in the order of the calls.
    fn start(&self, calls: &[Call]) -> Rc<RefCell<Vec<Option<Answer>>>> {
        let answers = Rc::new(RefCell::new(vec![None; calls.len() * 2]));
        for (index, &call) in calls.iter().enumerate() {
            for copy in 0..2 {
                let slot = index * 2 + copy;
                if copy == 1 && !call.is_doubled {
                    answers.borrow_mut()[slot] = Some(Answer::Get(None));
                    continue;
                }
                let (store, answers) = (Rc::clone(&self.world.store), Rc::clone(&answers));
                self.world.executor.spawn(async move {
                    let answer = perform(store, call).await;
                    answers.borrow_mut()[slot] = Some(answer);
                });
            }
        }
        answers
    }

    fn learn(&mut self, calls: &[Call], answers: &[Option<Answer>]) {
        let is_compacting = calls.iter().any(|call| matches!(call.op, Op::Compact));
        let is_restoring = calls.iter().any(|call| matches!(call.op, Op::RestoreAll));
        for (call, answers) in calls.iter().zip(answers.chunks(2)) {
            let states = self.states.get_mut(&call.key).unwrap();
            let copies = if call.is_doubled { 2 } else { 1 };
            check_answers(call, &answers[..copies], states);
            let is_answered = answers[..copies].iter().any(Option::is_some);
            match (call.op, is_answered) {
                (Op::Put { variant }, true) if states == &[None] => {
                    *states = vec![Some((variant, false))];
                }
                (Op::Put { variant }, false) if states == &[None] => {
                    states.push(Some((variant, false)));
                }
                (Op::Put { variant }, is_done) if states == &[Some((variant, true))] => {
                    states.push(Some((variant, false)));
                    if is_done {
                        states.remove(0);
                    }
                }
                (Op::Get, _) => {
                    if let Some((variant, true)) = states[0] {
                        states.push(Some((variant, false)));
                    }
                }
                (Op::Delete, true) => *states = vec![None],
                (Op::Delete, false) if states[0].is_some() => states.push(None),
                (Op::Trash, is_done) => {
                    if let Some((variant, false)) = states[0] {
                        let trashed = answers.iter().flatten().map(|answer| match answer {
                            Answer::Trash(Ok(trashed)) => *trashed,
                            _ => 0,
                        });
                        states.push(Some((variant, true)));
                        match trashed.sum() {
                            0 if is_done && !call.is_doubled => {
                                assert!(is_compacting, "left though nothing moved it");
                                states.pop();
                            }
                            // What compaction moves may be left for the next time.
                            0 => {}
                            1 => {
                                states.remove(0);
                            }
                            // Restored in between.
                            2 if call.is_doubled && is_restoring => {
                                states.remove(0);
                            }
                            more => panic!("trashed {more} times"),
                        }
                    }
                }
                _ => {}
            }
        }
        for states in self.states.values_mut().filter(|_| is_restoring) {
            if let Some(&Some((variant, _))) =
                states.iter().find(|state| matches!(state, Some((_, true))))
            {
                states.push(Some((variant, false)));
            }
        }
    }

    /// Reads every piece, first when all trash is over; what is found is the state from now on. What can only be in the trash stays there;
    /// what may not be there at all is read, and live then.
    fn look(mut self) -> Self {
        // A restore record that had to wait for another piece with the same fingerprint is queued by the next operation: here, and not later.
        self.world.store.take_revived();
        self.world.executor.run_until_stalled();
        for (&key, states) in &mut self.states {
            let late = self
                .world
                .run(|store| async move { read_variant(&store, key, LATE_S).await });
            states.retain(|state| match state {
                Some((variant, false)) => late == Some(*variant),
                _ => late.is_none(),
            });
            if states.len() > 1 {
                let now = self
                    .world
                    .run(|store| async move { read_variant(&store, key, NOW_S).await });
                states.retain(|state| state.map(|(variant, _)| variant) == now);
                states.truncate(1);
                if let [Some((_, is_trashed))] = &mut states[..] {
                    *is_trashed = false;
                }
            }
            assert_eq!(states.len(), 1, "piece {key} is {late:?} in the end");
        }
        self.world.executor.run_until_stalled();
        self.world.check_space();
        self
    }
}

/// Before a batch the model knows each piece's one state, so it knows the answers.
fn check_answers(call: &Call, answers: &[Option<Answer>], states: &[State]) {
    let &[state] = states else {
        panic!("the model is certain before a batch")
    };
    let mut news = 0;
    for answer in answers.iter().flatten() {
        match (call.op, answer, state) {
            (Op::Put { .. }, Answer::Put(Ok(Stored::New)), None) => news += 1,
            (Op::Put { .. }, Answer::Put(Ok(Stored::Already)), None) => {
                assert!(call.is_doubled, "{call:?}: acked as stored before it was");
            }
            (Op::Put { variant }, Answer::Put(Ok(Stored::Already)), Some((there, _))) => {
                assert_eq!(variant, there)
            }
            (Op::Put { variant }, Answer::Put(Err(PutError::Conflict)), Some((there, _))) => {
                assert_ne!(variant, there)
            }
            (Op::Delete, Answer::Delete(Ok(existed)), _) => {
                assert!(
                    *existed == state.is_some() || call.is_doubled,
                    "{call:?} {state:?}"
                );
            }
            (Op::Get, Answer::Get(found), _) => {
                assert_eq!(*found, state.map(|(variant, _)| variant));
            }
            (Op::Trash, Answer::Trash(Ok(_)), _)
            | (Op::RestoreAll, Answer::RestoreAll(Ok(())), _)
            | (Op::Scrub, Answer::Scrub, _) => {}
            (Op::Compact, Answer::Compact(Ok(())), _) => {}
            (Op::Checkpoint, Answer::Checkpoint(Ok(true)), _) => {}
            _ => panic!("{call:?} in state {state:?}: {answer:?}"),
        }
    }
    assert!(news <= 1, "{call:?}: stored twice");
}

fn calls() -> impl Strategy<Value = Vec<Call>> {
    let op = prop_oneof![
        5 => (0..2_u64).prop_map(|variant| Op::Put { variant }),
        2 => Just(Op::Delete),
        2 => Just(Op::Get),
        2 => Just(Op::Checkpoint),
        3 => Just(Op::Trash),
        1 => Just(Op::RestoreAll),
        1 => Just(Op::Scrub),
        3 => Just(Op::Compact),
    ];
    let call = (0..KEYS, op, prop::bool::weighted(0.3));
    prop::collection::vec(call, 1..7).prop_map(|calls| {
        let one_a_key: BTreeMap<u64, Call> = calls
            .into_iter()
            .map(|(key, op, is_doubled)| {
                (
                    key,
                    Call {
                        key,
                        op,
                        is_doubled,
                    },
                )
            })
            .collect();
        one_a_key.into_values().collect()
    })
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let meddling = prop_oneof![
        4 => Just(Meddling::None),
        1 => Just(Meddling::Older),
        1 => any::<usize>().prop_map(Meddling::Flip),
        1 => any::<usize>().prop_map(Meddling::Cut),
    ];
    let step = prop_oneof![
        4 => calls().prop_map(Step::Run),
        5 => (calls(), 0..140_u64, any::<u64>(), any::<bool>(), meddling).prop_map(
            |(calls, polls, seed, is_kill, meddling)| Step::Crash { calls, polls, seed, is_kill, meddling }
        ),
        1 => Just(Step::Reopen),
    ];
    prop::collection::vec(step, 1..14)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 384, max_shrink_iters: 4_096, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn acked_pieces_survive_every_crash(
        steps in steps(),
        seed: u64,
        fingerprint_bits in prop_oneof![Just(64_u32), Just(1)],
        blob_records_max in 1..6_u32,
    ) {
        let mut options = small_options();
        options.blob_records_max = blob_records_max;
        options.danger_fingerprint_bits = fingerprint_bits;
        let model = steps.iter().fold(Model::new(options, seed), Model::step);
        prop_assert_eq!(model.world.store.counters().acks_before_sync, 0);
    }
}

/// The power fails after every possible number of polls of one small upload, under several seeds of the loss.
///
/// The planted bugs `ack-before-sync` and `index-before-data` fail here.
#[test]
fn a_crash_at_any_moment_of_concurrent_puts_keeps_what_was_acked() {
    let calls: Vec<Call> = (0..4)
        .map(|key| Call {
            key,
            op: Op::Put { variant: key % 2 },
            is_doubled: key < 3,
        })
        .collect();
    for polls in 0..150 {
        for seed in 0..6 {
            Model::new(small_options(), seed).step(&Step::Crash {
                calls: calls.clone(),
                polls,
                seed,
                is_kill: false,
                meddling: Meddling::None,
            });
        }
    }
}

/// The process dies after the write and before the sync; the next one finds the piece and may acknowledge it, but
/// then it must be durable: the store syncs what it finds before it trusts it.
#[test]
fn what_a_killed_process_left_is_durable_once_it_was_seen() {
    use strand_blob::disk::sim::Op::Sync;
    for seed in 0..50 {
        let world = World::new(seed);
        world.put(variant_piece(0, 0)).unwrap();
        world.disk.hold(Sync);
        let store = Rc::clone(&world.store);
        world.executor.spawn(async move {
            let _cut_off = store.put(variant_piece(3, 0)).await;
        });
        world.executor.run_until_stalled();
        let world = open(&world.kill(seed), small_options(), seed);
        assert_eq!(world.put(variant_piece(3, 0)), Ok(Stored::Already));
        let world = open(&world.crash(seed), small_options(), seed);
        assert_eq!(
            world.body(3),
            Ok(variant_piece(3, 0).body.concat()),
            "seed {seed}"
        );
    }
}

/// While a piece is on its way nobody sees it, and nobody is told that it is there already.
///
/// The planted bug `index-before-data` fails here.
#[test]
fn a_piece_is_neither_visible_nor_acked_again_before_its_sync() {
    use strand_blob::disk::sim::Op::Sync;
    let world = World::new(1);
    world.put(variant_piece(0, 0)).unwrap();
    world.disk.hold(Sync);
    let answers = Rc::new(RefCell::new(Vec::new()));
    for _ in 0..2 {
        let (store, answers) = (Rc::clone(&world.store), Rc::clone(&answers));
        world.executor.spawn(async move {
            let answer = store.put(variant_piece(3, 0)).await;
            answers.borrow_mut().push(answer);
        });
    }
    world.executor.run_until_stalled();
    assert_eq!(*answers.borrow(), [], "acked while the sync was held");
    assert_eq!(world.body(3), Err(GetError::NotFound));
    world.disk.release(Sync);
    world.executor.run_until_stalled();
    let answers = answers.borrow();
    assert_eq!(answers.len(), 2);
    assert!(answers.contains(&Ok(Stored::New)) && answers.contains(&Ok(Stored::Already)));
    assert_eq!(world.body(3), Ok(variant_piece(3, 0).body.concat()));
}

/// A caller that goes away leaves neither a lock nor a half-stored piece behind.
#[test]
fn a_put_whose_caller_went_away_is_finished() {
    use std::future::Future;
    use std::task::{Context, Waker};
    use strand_blob::disk::sim::Op::Write;
    let world = World::new(1);
    world.put(variant_piece(0, 0)).unwrap();
    world.disk.hold(Write);
    let store = Rc::clone(&world.store);
    let mut put = Box::pin(async move { store.put(variant_piece(3, 0)).await });
    let mut context = Context::from_waker(Waker::noop());
    assert!(put.as_mut().poll(&mut context).is_pending());
    world.executor.run_until_stalled();
    drop(put);
    world.disk.release(Write);
    world.executor.run_until_stalled();
    assert_eq!(world.put(variant_piece(3, 0)), Ok(Stored::Already));
    assert_eq!(world.delete(3), Ok(true));
    world.check_space();
}

#[test]
fn the_simulated_disk_drops_what_was_not_synced() {
    use strand_blob::{BlobId, Disk, IoBuffer};
    let mut kept = [0; 2];
    for seed in 0..64 {
        let world = World::new(seed);
        let disk = world.disk.clone();
        world.executor.run(async move {
            let file = disk.create(BlobId(1)).await.unwrap();
            for (block, is_synced) in [(0_u64, true), (1, false)] {
                let mut buffer = IoBuffer::zeroed(4_096);
                Random::new(block).fill(&mut buffer);
                disk.write(&file, block * 4_096, buffer, 4_096)
                    .await
                    .0
                    .unwrap();
                if is_synced {
                    disk.sync(&file).await.unwrap();
                }
            }
        });
        let before = world.disk.files().remove(&BlobId(1)).unwrap();
        let after = world.crash(seed).files().remove(&BlobId(1)).unwrap();
        assert_eq!(before[..4_096], after[..4_096], "synced bytes are kept");
        kept[usize::from(after == before)] += 1;
    }
    assert!(
        kept[0] > 20 && kept[1] > 5,
        "unsynced bytes: {} lost or torn, {} kept",
        kept[0],
        kept[1]
    );
}
