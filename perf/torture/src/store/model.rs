//! The states that each piece may be in, held against what the store says.
//!
//! A piece has one state, or several where an operation on it was cut off or failed; what is read then is the state from now on. What must stay
//! true, whatever is injected: no byte is served that was not stored, what was acknowledged is there, what was deleted stays away,
//! every byte of the files has a use. Errors are allowed only while a fault is armed (`is_troubled`), and damage only to pieces
//! that an injected fault overlapped (`is_tainted`).

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use strand_blob::disk::sim::{Fault, Harm, Op as DiskOp, SimDisk};
use strand_blob::testing::Knowledge;
use strand_blob::testing::world::{DAY_S, NOW_S, World, rebuilt, try_open};
use strand_blob::{BlobId, FileId, GetError, Name, StoreOptions, TRASH_S, inspect};

use crate::store::calls::{Answer, Call, KEYS, Op, expiry_of, key_of, perform, read_variant};
use crate::store::guard::say;

mod learn;

const HEADERS_BYTES: u64 = 8_192;

/// A piece that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct There {
    pub(crate) variant: u64,
    pub(crate) trashed_s: Option<u32>,
}

/// `None`: not there.
pub(crate) type State = Option<There>;

/// What is known of a key.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) states: Vec<State>,
    /// States in which the next opening may find it, since a write failed: until then a read says what is served, not what is on disk.
    later: Vec<State>,
    /// The states in one of which the next opening must find it. Until then its older copies may be served as well, which could not be read when the
    /// newest one was written: whichever the disk reads at the moment. Empty: all of its copies are known to the store.
    firm: Vec<State>,
    /// An injected fault overlapped a record of it: it may be damaged, which must be said.
    pub(crate) is_tainted: bool,
    /// It was over when it was deleted, so no tombstone was written: a later deletion may find its record once more.
    lingers: bool,
}

/// What a run did.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    /// Reads of a piece that must be there.
    pub(crate) acked_pieces_checked: u64,
    pub(crate) operations: u64,
    pub(crate) crashes: u64,
    pub(crate) openings: u64,
    /// Reads that found damage where it was injected.
    pub(crate) damage_told: u64,
}

/// A store and what is known of it.
pub(crate) struct Model {
    pub(crate) options: StoreOptions,
    pub(crate) disk: SimDisk,
    /// `None` while it does not open, which a fault must have caused.
    pub(crate) world: Option<World>,
    pub(crate) pieces: Vec<Known>,
    pub(crate) now_s: u32,
    pub(crate) counts: Counts,
    /// Errors are armed, or were since the opening.
    pub(crate) is_troubled: bool,
    /// Reads are among what may fail, or go astray.
    fails_reads: bool,
    /// The opening met errors: what it did not find may be there.
    is_blurred: bool,
    /// The opening found torn groups: what is left of them is not acknowledged again, but stored anew.
    was_torn: bool,
    /// A compaction was dropped since the opening, maybe amid the removal of a blob: nobody knows how that ended.
    has_dropped: bool,
    /// The disk has little room, or had since the opening.
    pub(crate) is_tight: bool,
    /// Bytes at rest were changed since the opening, or in a file that was there then: rot is reported, and files are as long as they are.
    pub(crate) was_harmed: bool,
    /// The files in which they were.
    harmed: BTreeSet<FileId>,
    /// Blobs of whose headers a copy was hit, and which; and those of which both were.
    hit_headers: BTreeMap<BlobId, [bool; 2]>,
    doomed: BTreeSet<BlobId>,
}

/// By call and copy; `None` as long as there is none.
type Answers = Rc<RefCell<Vec<Vec<Option<Answer>>>>>;

fn live(variant: u64) -> State {
    Some(There {
        variant,
        trashed_s: None,
    })
}

fn is_visible(key: u64, state: State, now_s: u32) -> bool {
    let Some(there) = state else { return false };
    let expiry_s = expiry_of(key);
    let is_over = |since_s: u32| now_s.saturating_sub(since_s) > TRASH_S;
    let has_expired = expiry_s != 0 && expiry_s < now_s;
    !has_expired && !there.trashed_s.is_some_and(is_over)
}

impl Known {
    fn nothing() -> Self {
        Self {
            states: vec![None],
            later: Vec::new(),
            firm: Vec::new(),
            is_tainted: false,
            lingers: false,
        }
    }

    fn allow(&mut self, state: State) {
        if !self.states.contains(&state) {
            self.states.push(state);
        }
    }

    fn settle(&mut self, state: State) {
        self.states = vec![state];
        self.later.clear();
        self.firm.clear();
        self.is_tainted = false;
        self.lingers = false;
    }

    /// Nobody knows which of its states is on disk.
    fn doubt(&mut self) {
        if self.states.len() > 1 {
            self.later.extend(&self.states);
        }
    }

    /// Keeps the states that a reader could have seen so; false if there is none.
    fn narrow(&mut self, fits: impl Fn(State) -> bool) -> bool {
        if !self.firm.is_empty() {
            let mut all = self.states.iter().chain(&self.firm);
            return all.any(|&state| fits(state));
        }
        let fitting: Vec<State> = self
            .states
            .iter()
            .copied()
            .filter(|&state| fits(state))
            .collect();
        if fitting.is_empty() {
            return false;
        }
        self.states = fitting;
        true
    }
}

impl Model {
    /// A new store on an empty disk.
    pub(crate) fn new(options: StoreOptions, disk: SimDisk, seed: u64) -> Self {
        let pieces = (0..KEYS).map(|_| Known::nothing()).collect();
        Self::resume(options, disk, seed, pieces, NOW_S)
    }

    /// A store on a disk on which these pieces are.
    pub(crate) fn resume(
        options: StoreOptions,
        disk: SimDisk,
        seed: u64,
        pieces: Vec<Known>,
        now_s: u32,
    ) -> Self {
        let mut model = Self {
            options,
            disk,
            world: None,
            pieces,
            now_s,
            counts: Counts::default(),
            is_troubled: false,
            fails_reads: false,
            is_blurred: false,
            was_torn: false,
            has_dropped: false,
            is_tight: false,
            was_harmed: false,
            harmed: BTreeSet::new(),
            hit_headers: BTreeMap::new(),
            doomed: BTreeSet::new(),
        };
        model.open(seed);
        model
    }

    /// Opens the disk, and holds what is known then against the blobs alone.
    pub(crate) fn open(&mut self, seed: u64) {
        self.disk.forget_failed();
        // What lay in a file that is gone is no excuse any more.
        let disk = &self.disk;
        self.harmed.retain(|&file| disk.meant(file).is_some());
        self.was_harmed = !self.harmed.is_empty();
        self.has_dropped = false;
        let fired = self.disk.fired();
        let wanted =
            (!self.is_troubled && !self.was_harmed).then(|| rebuilt(&self.disk, self.options));
        self.counts.openings += 1;
        for known in &mut self.pieces {
            for state in std::mem::take(&mut known.later) {
                known.allow(state);
            }
            if !known.firm.is_empty() {
                known.states = std::mem::take(&mut known.firm);
            }
        }
        let opened = try_open(&self.disk, self.options, seed);
        self.is_blurred = self.disk.fired() > fired;
        match opened {
            Ok(world) => {
                if !self.was_harmed && !self.is_blurred {
                    assert_eq!(world.recovery.rotten, [], "nothing was damaged");
                }
                if let Some(wanted) = wanted {
                    self.check_knowledge(&Knowledge::of(&world.store), &wanted);
                }
                self.was_torn = world.recovery.torn_bytes > 0;
                self.world = Some(world);
            }
            Err(error) => {
                assert!(self.is_blurred, "the store does not open: {error}");
                self.world = None;
            }
        }
    }

    /// The index is a cache: with a checkpoint the same is known as from the blobs alone. But what a compaction took out of the trash after
    /// seven days is in it again for who reads the blobs, until the next compaction.
    fn check_knowledge(&self, found: &Knowledge, wanted: &Knowledge) {
        let now_s = self.now_s;
        let is_over =
            |&(_, _, since_s): &(BlobId, u64, u32)| now_s.saturating_sub(since_s) > TRASH_S;
        let is_same = if wanted.trash.iter().any(is_over) {
            found.live == wanted.live && found.blobs == wanted.blobs
        } else {
            found == wanted
        };
        assert!(
            is_same,
            "an opening knows {found:?}, and the blobs say {wanted:?}"
        );
    }

    /// Lets errors come.
    pub(crate) fn arm(&mut self, fault: Fault) {
        say(|| format!("arm {fault:?}"));
        self.fails_reads |= fault.ops.contains(&DiskOp::Read);
        self.disk.inject(fault);
        self.is_troubled = true;
    }

    /// Closes in order and opens again.
    pub(crate) fn reopen(&mut self, seed: u64, heals: bool) {
        say(|| format!("reopen, heals: {heals}"));
        self.doom();
        if let Some(world) = self.world.take() {
            world.close();
            world.executor.abandon();
        }
        self.take_harms();
        if heals {
            self.disk.heal();
            self.disk.set_free_bytes(1 << 40);
            self.is_troubled = false;
            self.fails_reads = false;
            self.is_tight = false;
        }
        self.open(seed);
    }

    /// Cuts the power or kills the process, and opens what is found. All errors are gone then.
    pub(crate) fn fall(&mut self, seed: u64, is_kill: bool) {
        say(|| if is_kill { "kill" } else { "crash" }.to_owned());
        self.take_harms();
        self.doom();
        let found = if is_kill {
            self.disk.kill(seed)
        } else {
            self.disk.crash(seed)
        };
        if let Some(world) = self.world.take() {
            assert_eq!(world.store.counters().acks_before_sync, 0);
            world.executor.abandon();
        }
        self.disk = found;
        self.is_troubled = false;
        self.fails_reads = false;
        self.disk.set_free_bytes(1 << 40);
        self.is_tight = false;
        self.counts.crashes += 1;
        self.open(seed);
    }

    /// Asks, lets everything come to rest, and looks at all pieces.
    pub(crate) fn batch(&mut self, calls: &[Call]) {
        let Some(answers) = self.start(calls) else {
            return;
        };
        if let Some(world) = &self.world {
            world.executor.run_until_stalled();
        }
        let harms = self.take_harms();
        self.hear();
        let answers = answers.borrow();
        say(|| format!("{}: {calls:?}\n  -> {answers:?}", self.now_s));
        let is_stuck = answers.iter().flatten().any(Option::is_none);
        assert!(!is_stuck, "stuck: {calls:?} answered {answers:?}");
        self.learn(calls, &answers);
        drop(answers);
        // What was acknowledged meanwhile was hit all the same.
        harms.into_iter().for_each(|harm| self.taint(harm));
        self.now_s += 2;
        self.look();
    }

    /// Asks, and after so many polls the power fails or the process dies.
    pub(crate) fn cut(&mut self, calls: &[Call], polls: u64, seed: u64, is_kill: bool) {
        let answers = self.start(calls);
        if let (Some(world), Some(answers)) = (&self.world, answers) {
            for _ in 0..polls {
                world.executor.step();
            }
            let harms = self.take_harms();
            self.hear();
            let answers = answers.borrow();
            say(|| format!("{}: {calls:?}, {polls} polls\n  -> {answers:?}", self.now_s));
            self.learn(calls, &answers);
            harms.into_iter().for_each(|harm| self.taint(harm));
        }
        self.now_s += 2;
        self.fall(seed, is_kill);
        self.look();
    }

    fn start(&mut self, calls: &[Call]) -> Option<Answers> {
        let world = self.world.as_ref()?;
        let copies = |call: &Call| if call.is_doubled { 2 } else { 1 };
        let empty: Vec<Vec<Option<Answer>>> =
            calls.iter().map(|call| vec![None; copies(call)]).collect();
        let answers = Rc::new(RefCell::new(empty));
        for (index, &call) in calls.iter().enumerate() {
            for copy in 0..copies(&call) {
                let (store, answers) = (Rc::clone(&world.store), Rc::clone(&answers));
                let now_s = self.now_s;
                self.counts.operations += 1;
                world.executor.spawn(async move {
                    let answer = perform(store, call, now_s).await;
                    answers.borrow_mut()[index][copy] = Some(answer);
                });
            }
        }
        Some(answers)
    }

    /// Pieces that the store calls damaged: a fault must have overlapped them.
    fn take_lost(&mut self, lost: &[Name]) {
        for (_, id) in lost {
            let key = key_of(id);
            let known = &mut self.pieces[key as usize];
            let is_excused = known.is_tainted || self.fails_reads || self.is_blurred;
            assert!(
                is_excused,
                "piece {key} is called damaged, and nothing damaged it"
            );
            known.is_tainted = true;
            self.counts.damage_told += 1;
        }
    }

    /// What a read said.
    fn see(&mut self, key: u64, found: Result<u64, GetError>, at_s: u32) {
        let is_unsure = self.is_blurred;
        let fails_reads = self.fails_reads;
        let known = &mut self.pieces[key as usize];
        let is_acked = known
            .states
            .iter()
            .all(|&state| is_visible(key, state, at_s));
        let before = known.states.clone();
        match found {
            Ok(variant) => {
                if is_acked && !known.is_tainted {
                    self.counts.acked_pieces_checked += 1;
                }
                let fits = |state: State| {
                    is_visible(key, state, at_s)
                        && state.is_some_and(|there| there.variant == variant)
                };
                let is_right = known.is_tainted || is_unsure || known.narrow(fits);
                assert!(
                    is_right,
                    "piece {key}, variant {variant}, is there in {before:?}"
                );
            }
            Err(GetError::NotFound) => {
                let fits = |state| !is_visible(key, state, at_s);
                let is_right = known.is_tainted || is_unsure || known.narrow(fits);
                assert!(is_right, "piece {key} is lost: it should be {before:?}");
            }
            Err(error @ GetError::Corrupt { .. }) => {
                let is_excused = known.is_tainted || is_unsure || fails_reads;
                assert!(
                    is_excused,
                    "piece {key}: {error}, though nothing damaged it"
                );
                self.counts.damage_told += 1;
            }
            Err(error) => {
                assert!(fails_reads, "piece {key}: {error}, though no disk fails");
            }
        }
    }

    fn read(&mut self, key: u64, at_s: u32) -> Option<Result<u64, GetError>> {
        let world = self.world.as_ref()?;
        Some(world.run(|store| async move { read_variant(&store, key, at_s).await }))
    }

    /// Reads every piece, first when all trash is over, which brings none of it back; then those that may be in several states.
    pub(crate) fn look(&mut self) {
        self.rest();
        for key in 0..KEYS {
            let late_s = self.now_s + 8 * DAY_S;
            if let Some(found) = self.read(key, late_s) {
                self.see(key, found, late_s);
            }
            if self.pieces[key as usize].states.len() > 1
                && let Some(found) = self.read(key, self.now_s)
            {
                self.see(key, found, self.now_s);
                if let Ok(variant) = found {
                    self.pieces[key as usize].allow(live(variant));
                }
            }
        }
        self.doubt();
        self.rest();
        self.check_space();
    }

    fn doubt(&mut self) {
        if self.is_troubled || self.is_tight {
            self.pieces.iter_mut().for_each(Known::doubt);
        }
    }

    /// Lets restore records that had to wait go down, and hears of damage.
    fn rest(&mut self) {
        let Some(world) = &self.world else { return };
        world.store.take_revived();
        world.executor.run_until_stalled();
        // A restore record may have gone astray.
        self.take_harms();
        self.hear();
    }

    /// Hears of damage, before an answer tells that the damaged copy was replaced.
    fn hear(&mut self) {
        let lost = self.world.as_ref().map(|world| world.store.take_lost());
        self.take_lost(&lost.unwrap_or_default());
    }

    fn check_space(&self) {
        let Some(world) = &self.world else { return };
        let space = world.store.space();
        assert!(space.adds_up(), "bytes without a use: {space:?}");
        assert_eq!(space.reserved_bytes, 0, "promised to nobody: {space:?}");
        if !self.is_troubled && !self.is_tight && !self.was_harmed {
            world.check_space();
        }
    }

    /// Pieces of which a record lies here are tainted. Of a blob header both copies must be hit to matter.
    pub(crate) fn taint(&mut self, harm: Harm) {
        say(|| format!("harm {harm:?}"));
        self.was_harmed = true;
        self.harmed.insert(harm.file);
        let FileId::Blob(blob) = harm.file else {
            return;
        };
        let (start, end) = (harm.offset, harm.offset + harm.len);
        if start < HEADERS_BYTES {
            let hit = self.hit_headers.entry(blob).or_default();
            hit[0] |= start < HEADERS_BYTES / 2;
            hit[1] |= end > HEADERS_BYTES / 2;
            if *hit == [true; 2] {
                self.doomed.insert(blob);
                self.doom();
            }
        }
        for record in self.records(blob) {
            let record_end = record.body_and_trailer().end.max(record.body_offset);
            if record.offset < end && start < record_end {
                self.pieces[key_of(&record.id) as usize].is_tainted = true;
            }
        }
    }

    fn records(&self, blob: BlobId) -> Vec<inspect::StoredRecord> {
        let meant = self.disk.meant(blob).unwrap_or_default();
        inspect::records(&meant).unwrap_or_default()
    }

    /// All that lies in a blob without a header is lost with it.
    fn doom(&mut self) {
        for blob in self.doomed.clone() {
            for record in self.records(blob) {
                self.pieces[key_of(&record.id) as usize].is_tainted = true;
            }
        }
    }

    /// Taints what misdirected writes have hit.
    fn take_harms(&mut self) -> Vec<Harm> {
        let harms = self.disk.take_harms();
        for &harm in &harms {
            self.taint(harm);
        }
        harms
    }

    /// Everything heals: each piece can be deleted and stored again, compaction ends, and nothing is missing afterwards.
    pub(crate) fn recover_fully(&mut self, seed: u64) {
        self.reopen(seed, true);
        for key in 0..KEYS {
            self.batch(&[Call {
                key,
                op: Op::Delete,
                is_doubled: false,
            }]);
            let is_expired = expiry_of(key) != 0 && expiry_of(key) < self.now_s;
            if !is_expired {
                self.batch(&[Call {
                    key,
                    op: Op::Put { variant: key % 2 },
                    is_doubled: false,
                }]);
            }
            let known = &self.pieces[key as usize];
            let is_right = known.states.len() == 1 && known.states[0].is_some() != is_expired;
            assert!(
                is_right && (is_expired || !known.is_tainted),
                "piece {key} did not heal: {known:?}"
            );
        }
        self.reopen(seed ^ 1, true);
        self.look();
    }
}
