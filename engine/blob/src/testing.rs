//! A seeded single-threaded executor and random numbers, for tests of this crate and of those who use it.
//!
//! The executor polls its ready tasks in an order drawn from the seed, so a test sees other interleavings with
//! each seed and the same one again with the same. It knows no time: a task that nothing wakes is stuck, and that is reported.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Wake, Waker};

pub mod structures;
pub mod world;

pub use crate::wait::yield_now;

use crate::blobs::BlobTally;
use crate::disk::Disk;
use crate::index::{self, Index};
use crate::layout::BlobId;
use crate::space::Space;
use crate::store::Store;

/// What a store knows, in terms that do not depend on how it came to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Knowledge {
    /// Blob and offset of every piece record that counts.
    pub live: BTreeSet<(BlobId, u64)>,
    /// Those of every piece record that does not.
    pub dead: BTreeSet<(BlobId, u64)>,
    /// Those of every piece in the trash, and since when it is there.
    pub trash: BTreeSet<(BlobId, u64, u32)>,
    /// Per blob: whether it is sealed.
    pub blobs: Vec<(BlobId, bool)>,
    /// Per blob: what is counted of its records.
    tallies: Vec<BlobTally>,
    /// Where the bytes went. Reservations and the disk's room are left out, and skipped bytes are counted as padding: where a crash cut a
    /// group's padding off and the blob went on, who reads it again takes for padding what was counted as skipped.
    pub space: Space,
}

impl Knowledge {
    /// What this store knows now.
    ///
    /// # Panics
    ///
    /// If an entry of its index points into a blob that is not there.
    #[must_use]
    pub fn of<D: Disk>(store: &Store<D>) -> Self {
        let blobs = store.blobs.borrow();
        let place_of = |entry: index::Entry| {
            let place = entry.place();
            let blob = blobs.get(place.slot as usize).and_then(Option::as_ref);
            let blob = blob.unwrap_or_else(|| panic!("{place:?} is in no blob"));
            (blob.id, place.offset)
        };
        let places = |index: &Index| {
            let entries = (0..index::TABLES).flat_map(|table| index.entries_of(table));
            entries.map(|(_, entry)| place_of(entry)).collect()
        };
        let facts = blobs.iter().flatten().map(|blob| {
            let is_sealed = blob.log.borrow().is_none();
            assert_eq!(is_sealed, blob.seal.get().is_some());
            (blob.id, is_sealed)
        });
        let trash = store.trash.borrow();
        let trashed = trash
            .iter()
            .map(|(_, entry, trashed)| {
                let (blob, offset) = place_of(entry);
                (blob, offset, trashed.since_s)
            })
            .collect();
        let tallies = blobs.iter().flatten().map(|blob| blob.tally.get());
        let space = store.space();
        Self {
            live: places(&store.index.borrow()),
            dead: places(&store.dead.borrow()),
            trash: trashed,
            blobs: facts.collect(),
            tallies: tallies.collect(),
            space: Space {
                reserved_bytes: 0,
                disk_free_bytes: 0,
                padding_bytes: space.padding_bytes + space.skipped_bytes,
                skipped_bytes: 0,
                ..space
            },
        }
    }
}

/// SplitMix64: small, seeded, good enough to draw faults with.
#[derive(Clone, Debug)]
pub struct Random {
    state: u64,
}

impl Random {
    /// A generator for this seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// The next 64 bits.
    #[expect(
        clippy::should_implement_trait,
        reason = "a generator has no end, so it is no iterator"
    )]
    pub fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`; 0 if `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next().checked_rem(bound).unwrap_or_default()
    }

    /// Fills a slice.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let word = self.next().to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }
}

type Task = Pin<Box<dyn Future<Output = ()>>>;

/// Runs tasks in seeded order. Clones share the tasks.
#[derive(Clone)]
pub struct Executor {
    tasks: Rc<RefCell<Vec<Option<Task>>>>,
    random: Rc<RefCell<Random>>,
    ready: Arc<Mutex<Vec<usize>>>,
}

struct TaskWaker {
    task: usize,
    ready: Arc<Mutex<Vec<usize>>>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        if !ready.contains(&self.task) {
            ready.push(self.task);
        }
    }
}

impl Executor {
    /// An executor without tasks.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            tasks: Rc::default(),
            random: Rc::new(RefCell::new(Random::new(seed))),
            ready: Arc::default(),
        }
    }

    /// Adds a task.
    pub fn spawn(&self, future: impl Future<Output = ()> + 'static) {
        let mut tasks = self.tasks.borrow_mut();
        tasks.push(Some(Box::pin(future)));
        self.ready
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(tasks.len() - 1);
    }

    /// Polls one ready task; false if none is ready.
    pub fn step(&self) -> bool {
        let task = {
            let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
            if ready.is_empty() {
                return false;
            }
            let at = self.random.borrow_mut().below(ready.len() as u64) as usize;
            ready.swap_remove(at)
        };
        let Some(mut future) = self.tasks.borrow_mut().get_mut(task).and_then(Option::take) else {
            return true;
        };
        let waker = Waker::from(Arc::new(TaskWaker {
            task,
            ready: Arc::clone(&self.ready),
        }));
        if future
            .as_mut()
            .poll(&mut Context::from_waker(&waker))
            .is_pending()
        {
            self.tasks.borrow_mut()[task] = Some(future);
        }
        true
    }

    /// Polls until nothing is ready.
    pub fn run_until_stalled(&self) {
        while self.step() {}
    }

    /// Runs until this future ends, with the other tasks beside it.
    ///
    /// # Panics
    ///
    /// If nothing is ready any more and the future has not ended.
    pub fn run<T: 'static>(&self, future: impl Future<Output = T> + 'static) -> T {
        let result = Rc::new(RefCell::new(None));
        let slot = Rc::clone(&result);
        self.spawn(async move {
            let value = future.await;
            *slot.borrow_mut() = Some(value);
        });
        loop {
            if let Some(value) = result.borrow_mut().take() {
                return value;
            }
            assert!(
                self.step(),
                "stuck: no task is ready and the future has not ended"
            );
        }
    }

    /// Drops all tasks, as a crash would.
    pub fn abandon(&self) {
        let tasks = self.tasks.take();
        drop(tasks);
    }
}
