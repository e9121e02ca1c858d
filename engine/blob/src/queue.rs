//! What waits to be written, and what of it goes down together.
//!
//! Pieces that expire together lie together, so each expiry class has a queue and blobs of its own. But a sync costs the same however little it
//! covers. So a class has a group to itself once enough waits in it; classes in which little waits share one group, in a blob of the
//! longest-lived among them, and compaction takes their pieces apart again. A class that has records on their way waits for them, unless enough has come
//! together meanwhile to be worth a request of its own: then copying goes on while the disk works.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::blobs::LANES_MAX;
use crate::error::PutError;
use crate::group::GroupPlan;
use crate::header::ExpiryClass;
use crate::layout::BLOCK_BYTES;
use crate::piece::NewPiece;
use crate::record::{Kind, RecordHeader};
use crate::states::Known;
use crate::store::StoreOptions;
use crate::wait::{KeyGuard, Sender};

/// A record on its way to disk.
pub(crate) struct Item {
    pub(crate) fingerprint: u64,
    pub(crate) satellite: [u8; 32],
    pub(crate) class: ExpiryClass,
    pub(crate) work: Work,
    /// Records of the same piece that this one outranks, or says something of.
    pub(crate) replaced: Vec<Known>,
    /// Bytes promised to it.
    pub(crate) reserved_bytes: u64,
    pub(crate) done: Sender<Result<(), PutError>>,
    /// Keeps other operations on this piece waiting until this one is answered, even if its caller went away.
    pub(crate) guard: KeyGuard,
}

/// What the record says.
pub(crate) enum Work {
    Put(NewPiece),
    /// A tombstone, a trash or a restore record: `kind` says which.
    Mark {
        kind: Kind,
        id: [u8; 32],
        created_s: u32,
        expiry_s: u32,
    },
    /// A record that compaction takes elsewhere: as it is, sequence included, but for what its place implies.
    Move {
        record: RecordHeader,
        /// Body and trailer, checked.
        rest: Bytes,
    },
}

/// What goes into one group.
pub(crate) struct Batch {
    /// That of the blob that takes it: none of its records lives longer.
    pub(crate) class: ExpiryClass,
    /// Which of the class's open blobs takes it.
    pub(crate) lane: usize,
    /// The classes whose records it holds.
    pub(crate) classes: ClassSet,
    pub(crate) items: Vec<Item>,
    pub(crate) plan: GroupPlan,
}

/// A set of expiry classes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ClassSet([bool; ExpiryClass::COUNT]);

/// What is on its way to disk.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct InFlight {
    /// Per class and lane of the blobs that are written.
    pub(crate) lanes: [[bool; LANES_MAX]; ExpiryClass::COUNT],
    /// The classes of the records.
    pub(crate) classes: ClassSet,
}

/// All that waits, per expiry class.
#[derive(Default)]
pub(crate) struct Queues {
    list: [Queue; ExpiryClass::COUNT],
    /// The class whose turn is next.
    next_class: usize,
}

#[derive(Default)]
struct Queue {
    items: VecDeque<Item>,
    /// Their records.
    bytes: u64,
}

/// This part of the longest group is enough to be worth a request of its own.
const ENOUGH_PARTS: u64 = 4;

/// A group of fewer records is never shortened: the one left out waits for a whole group more.
const SPILL_RECORDS_MIN: usize = 32;

/// Nor is a group of longer records, or one that fills more of its last block.
const SPILL_RECORD_BYTES_MAX: u64 = BLOCK_BYTES as u64;
const SPILL_BYTES_MAX: u64 = BLOCK_BYTES as u64 / 4;

impl ClassSet {
    pub(crate) fn insert(&mut self, class: usize) {
        self.0[class] = true;
    }

    pub(crate) fn extend(&mut self, other: Self) {
        for (class, is_in) in other.0.into_iter().enumerate() {
            self.0[class] |= is_in;
        }
    }

    fn has(self, class: usize) -> bool {
        self.0[class]
    }
}

impl InFlight {
    fn free_lane(&self, class: usize, options: &StoreOptions) -> Option<usize> {
        let lane_count = usize::from(options.lanes_max).clamp(1, LANES_MAX);
        (0..lane_count).find(|&lane| !self.lanes[class][lane])
    }
}

impl Queues {
    pub(crate) fn push(&mut self, item: Item) {
        let queue = &mut self.list[item.class.index()];
        queue.bytes += item.record_len();
        queue.items.push_back(item);
    }

    /// Takes everything, to refuse it.
    pub(crate) fn take_all(&mut self) -> Vec<Item> {
        let queues = self.list.iter_mut();
        let taken = queues.map(std::mem::take).flat_map(|queue| queue.items);
        taken.collect()
    }

    /// What is to be written now beside what is on its way; `None` if that is to be waited for.
    pub(crate) fn next_batch(
        &mut self,
        in_flight: &InFlight,
        options: &StoreOptions,
    ) -> Option<Batch> {
        let enough_bytes = (options.group_bytes_max as u64 / ENOUGH_PARTS).max(1);
        let can_go = |class: usize| {
            let has_some = self.list[class].bytes > 0;
            has_some && in_flight.free_lane(class, options).is_some()
        };
        let is_little = |class: usize| can_go(class) && self.list[class].bytes < enough_bytes;
        let little: Vec<usize> = (0..ExpiryClass::COUNT)
            .filter(|&class| is_little(class))
            .collect();
        let little_bytes: u64 = little.iter().map(|&class| self.list[class].bytes).sum();
        let turns =
            (0..ExpiryClass::COUNT).map(|turn| (self.next_class + turn) % ExpiryClass::COUNT);
        let class = turns.filter(|&class| can_go(class)).find(|&class| {
            !is_little(class) || !in_flight.classes.has(class) || little_bytes >= enough_bytes
        })?;
        self.next_class = (class + 1) % ExpiryClass::COUNT;
        let sources = if is_little(class) {
            little
        } else {
            vec![class]
        };
        // The last one is the longest-lived.
        let longest = *sources.last()?;
        let class = self.list[longest].items.front()?.class;
        let lane = in_flight.free_lane(longest, options)?;
        let (items, plan) = self.take_group(&sources, options);
        let mut classes = ClassSet::default();
        for item in &items {
            classes.insert(item.class.index());
        }
        Some(Batch {
            class,
            lane,
            classes,
            items,
            plan,
        })
    }

    /// Takes what fits into one group, from these classes in turn.
    fn take_group(&mut self, sources: &[usize], options: &StoreOptions) -> (Vec<Item>, GroupPlan) {
        let mut plan = GroupPlan::new();
        let mut items: Vec<Item> = Vec::new();
        'group: for &source in sources {
            while let Some(item) = self.pop(source) {
                let mut longer = plan;
                longer.push(item.record_len());
                let is_full = longer.group_len() > options.group_bytes_max as u64
                    || longer.record_count() > options.blob_records_max;
                if is_full && !items.is_empty() {
                    self.push_front(item);
                    break 'group;
                }
                plan = longer;
                items.push(item);
            }
        }
        // Many small records that just spill into another block: the last one goes with the next group.
        if items.len() >= SPILL_RECORDS_MIN
            && let Some(last) = items.pop()
        {
            let mut shorter = GroupPlan::new();
            for item in &items {
                shorter.push(item.record_len());
            }
            let is_spill = last.record_len() <= SPILL_RECORD_BYTES_MAX
                && plan.end() % BLOCK_BYTES as u64 <= SPILL_BYTES_MAX
                && shorter.group_len() < plan.group_len();
            if is_spill {
                plan = shorter;
                self.push_front(last);
            } else {
                items.push(last);
            }
        }
        (items, plan)
    }

    fn pop(&mut self, class: usize) -> Option<Item> {
        let queue = &mut self.list[class];
        let item = queue.items.pop_front()?;
        queue.bytes -= item.record_len();
        Some(item)
    }

    fn push_front(&mut self, item: Item) {
        let queue = &mut self.list[item.class.index()];
        queue.bytes += item.record_len();
        queue.items.push_front(item);
    }
}
