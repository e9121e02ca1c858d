//! Where the pieces are: fingerprint to place, in 16 partitions whatever the core count.
//!
//! The index is a cache of the blobs and is rebuilt from them. It keys by a keyed 64-bit fingerprint, so nobody who chooses piece ids can
//! aim for collisions; identity is always confirmed by the record, and records whose fingerprints collide stand side by side.
//!
//! A partition is 64 sorted hash tables that grow alone and by a fifth at a time, so that growing costs neither a pause nor a second copy of
//! the index: a piece takes 12 bytes and its part of the gaps, 13.6 to 16.9 in all from some ten thousand pieces on (`a_piece_takes_few_bytes_at_every_size`).

use crate::layout::STEP_BYTES;
use crate::record::step_of;

/// A record's place: which of the store's blobs, and where in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Position in the store's list of blobs, not a blob id.
    pub(crate) slot: u32,
    pub(crate) offset: u64,
}

/// Place and length class of a record in 8 bytes: slot (24 bits), offset / 64 (32), class (8).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Entry(u64);

impl Entry {
    /// No entry: nothing lies at the start of a blob but its header.
    pub(crate) const NONE: Self = Self(0);

    /// Above all entries.
    pub(crate) const LAST: Self = Self(u64::MAX);
}

/// Most blobs of one store: what an entry's slot can say.
pub(crate) const BLOBS_MAX: u32 = 1 << 24;

impl Entry {
    pub(crate) fn new(place: Place, record_len: u64) -> Self {
        assert!(
            place.slot < BLOBS_MAX,
            "more blobs than an index entry can name"
        );
        let class = length_class(record_len);
        Self(u64::from(place.slot) << 40 | u64::from(step_of(place.offset)) << 8 | u64::from(class))
    }

    pub(crate) fn place(self) -> Place {
        Place {
            slot: (self.0 >> 40) as u32,
            offset: (self.0 >> 8 & 0xffff_ffff) * STEP_BYTES as u64,
        }
    }

    /// The same record in another slot.
    pub(crate) fn in_slot(self, slot: u32) -> Self {
        assert!(slot < BLOBS_MAX, "more blobs than an index entry can name");
        Self(u64::from(slot) << 40 | self.0 & ((1 << 40) - 1))
    }

    /// The entry as a number, in the order of places.
    pub(crate) fn bits(self) -> u64 {
        self.0
    }

    /// The inverse of [`bits`](Self::bits); `None` for what is no entry.
    pub(crate) fn from_bits(bits: u64) -> Option<Self> {
        let entry = Self(bits);
        (entry.place().offset > 0).then_some(entry)
    }

    /// Upper bound of the record's length, less than an eighth above it.
    pub(crate) fn record_len_max(self) -> u64 {
        length_of_class(self.0 as u8)
    }
}

/// Length in 64-byte steps as three bits of mantissa and an exponent, rounded up.
fn length_class(len: u64) -> u8 {
    let steps = len.div_ceil(STEP_BYTES as u64);
    if steps < 8 {
        return steps as u8;
    }
    let mut exponent = steps.ilog2() - 3;
    let mut mantissa = steps.div_ceil(1 << exponent);
    if mantissa == 16 {
        (exponent, mantissa) = (exponent + 1, 8);
    }
    u8::try_from(8 * (exponent + 1) + mantissa as u32 - 8).unwrap_or(u8::MAX)
}

fn length_of_class(class: u8) -> u64 {
    let class = u64::from(class);
    let steps = if class < 8 {
        class
    } else {
        (8 + class % 8) << (class / 8 - 1)
    };
    steps * STEP_BYTES as u64
}

/// Partitions of an index.
const PARTITION_COUNT: usize = 16;

/// Tables of a partition.
const TABLE_COUNT: usize = 64;

/// Tables of an index.
pub(crate) const TABLES: usize = PARTITION_COUNT * TABLE_COUNT;

/// Bits of a fingerprint that name partition and table: the top ones.
const TABLE_BITS: u32 = TABLES.ilog2();

/// Fingerprint to entries.
#[derive(Debug)]
pub(crate) struct Index {
    partitions: [Partition; PARTITION_COUNT],
}

#[derive(Debug)]
struct Partition {
    tables: Box<[Table; TABLE_COUNT]>,
}

/// Entries in the order of their tags, with gaps: linear probing where an entry's home is the place that its tag would have if tags were spread
/// evenly, and every run is kept sorted (Amble and Knuth, "Ordered hash tables", 1974). Growing needs the tags alone.
#[derive(Debug, Default)]
struct Table {
    tags: Box<[u32]>,
    /// [`Entry::NONE`] where there is none.
    entries: Box<[Entry]>,
    /// Places that are homes; those behind them take what the last runs have too much.
    home_count: u32,
    len: u32,
}

/// Places of a table behind its homes.
const SPILL_COUNT: usize = 24;

/// The fewest homes of a table that has any.
const HOMES_MIN: u32 = 8;

impl Default for Index {
    fn default() -> Self {
        let partition = |_| Partition {
            tables: Box::new(std::array::from_fn(|_| Table::default())),
        };
        Self {
            partitions: std::array::from_fn(partition),
        }
    }
}

impl Index {
    /// Entries in the index.
    pub(crate) fn len(&self) -> usize {
        self.tables().map(|table| table.len as usize).sum()
    }

    /// Bytes that the index takes in memory.
    pub(crate) fn memory_bytes(&self) -> usize {
        let places: usize = self.tables().map(|table| table.tags.len()).sum();
        size_of::<Self>()
            + PARTITION_COUNT * TABLE_COUNT * size_of::<Table>()
            + places * (size_of::<u32>() + size_of::<Entry>())
    }

    /// All records that may be the piece, newest first.
    pub(crate) fn candidates(&self, fingerprint: u64) -> Vec<Entry> {
        let (table, tag) = place_of(fingerprint);
        let table = &self.partitions[table / TABLE_COUNT].tables[table % TABLE_COUNT];
        table.entries[table.run(tag)].to_vec()
    }

    pub(crate) fn contains(&self, fingerprint: u64, entry: Entry) -> bool {
        let (table, tag) = place_of(fingerprint);
        let table = &self.partitions[table / TABLE_COUNT].tables[table % TABLE_COUNT];
        table.entries[table.run(tag)].contains(&entry)
    }

    pub(crate) fn insert(&mut self, fingerprint: u64, entry: Entry) {
        let (table, tag) = place_of(fingerprint);
        self.table(table).insert(tag, entry);
    }

    /// Removes one entry; false if it is not there.
    pub(crate) fn remove(&mut self, fingerprint: u64, entry: Entry) -> bool {
        let (table, tag) = place_of(fingerprint);
        self.table(table).remove(tag, entry)
    }

    /// A table's entries with their tags, in the order of the tags.
    pub(crate) fn entries_of(&self, table: usize) -> impl Iterator<Item = (u32, Entry)> + '_ {
        let table = &self.partitions[table / TABLE_COUNT].tables[table % TABLE_COUNT];
        let places = table
            .tags
            .iter()
            .copied()
            .zip(table.entries.iter().copied());
        places.filter(|&(_, entry)| entry != Entry::NONE)
    }

    /// Adds entries with their tags to a table, in one go.
    pub(crate) fn extend_table(&mut self, table: usize, entries: Vec<(u32, Entry)>) {
        let mut all: Vec<_> = self.entries_of(table).collect();
        all.extend(entries);
        all.sort_by_key(|&(tag, _)| tag);
        *self.table(table) = Table::of(&all);
    }

    /// Takes over another index, each entry in the place that it is given, or not at all. Needs no second copy of either.
    pub(crate) fn absorb(&mut self, mut other: Self, relocate: impl Fn(Entry) -> Option<Entry>) {
        for table in 0..TABLES {
            let entries = other.entries_of(table);
            let moved = entries.filter_map(|(tag, entry)| Some((tag, relocate(entry)?)));
            let moved: Vec<_> = moved.collect();
            *other.table(table) = Table::default();
            self.extend_table(table, moved);
        }
    }

    /// All entries, each with what the index keeps of its fingerprint.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, Entry)> + '_ {
        (0..TABLES).flat_map(|table| {
            let entries = self.entries_of(table);
            entries.map(move |(tag, entry)| ((table as u64) << 32 | u64::from(tag), entry))
        })
    }

    fn tables(&self) -> impl Iterator<Item = &Table> {
        let partitions = self.partitions.iter();
        partitions.flat_map(|partition| partition.tables.iter())
    }

    fn table(&mut self, table: usize) -> &mut Table {
        &mut self.partitions[table / TABLE_COUNT].tables[table % TABLE_COUNT]
    }
}

/// Table and tag: the top 10 bits of a fingerprint and the 32 after them.
fn place_of(fingerprint: u64) -> (usize, u32) {
    let table = fingerprint >> (64 - TABLE_BITS);
    (table as usize, (fingerprint >> (32 - TABLE_BITS)) as u32)
}

/// What a table keeps of a fingerprint.
pub(crate) fn tag_of(fingerprint: u64) -> u32 {
    place_of(fingerprint).1
}

/// A fingerprint of this table and tag.
pub(crate) fn fingerprint_of(table: usize, tag: u32) -> u64 {
    (table as u64) << (64 - TABLE_BITS) | u64::from(tag) << (32 - TABLE_BITS)
}

/// The highest fingerprint of a table.
pub(crate) fn last_fingerprint_of(table: usize) -> u64 {
    fingerprint_of(table, 0) | u64::MAX >> TABLE_BITS
}

impl Table {
    /// A table of these entries, which are in the order of their tags, with the room that growing leaves on average.
    fn of(entries: &[(u32, Entry)]) -> Self {
        let (tags, packed): (Vec<_>, Vec<_>) = entries.iter().copied().unzip();
        let packed = Self {
            tags: tags.into(),
            entries: packed.into(),
            home_count: 0,
            len: entries.len() as u32,
        };
        if packed.len == 0 {
            return Self::default();
        }
        packed.spread_over((packed.len + packed.len.div_ceil(4)).max(HOMES_MIN))
    }

    /// The places of a tag's entries.
    fn run(&self, tag: u32) -> std::ops::Range<usize> {
        let start = self.lower_bound(tag);
        let count = (start..self.tags.len())
            .take_while(|&at| self.entries[at] != Entry::NONE && self.tags[at] == tag)
            .count();
        start..start + count
    }

    /// The first place from the tag's home on that is free or has no smaller tag.
    fn lower_bound(&self, tag: u32) -> usize {
        let mut at = self.home(tag);
        while at < self.tags.len() && self.entries[at] != Entry::NONE && self.tags[at] < tag {
            at += 1;
        }
        at
    }

    fn home(&self, tag: u32) -> usize {
        ((u64::from(tag) * u64::from(self.home_count)) >> 32) as usize
    }

    /// Adds an entry before those of its tag.
    fn insert(&mut self, tag: u32, entry: Entry) {
        // At most 7/8 full.
        if (self.len + 1) * 8 > self.home_count * 7 {
            self.grow();
        }
        while !self.try_insert(tag, entry) {
            self.grow();
        }
        self.len += 1;
    }

    /// False if the run at the end has no room to move up.
    fn try_insert(&mut self, tag: u32, entry: Entry) -> bool {
        let at = self.lower_bound(tag);
        let Some(free) = self.entries[at..]
            .iter()
            .position(|&other| other == Entry::NONE)
        else {
            return false;
        };
        let free = at + free;
        self.tags.copy_within(at..free, at + 1);
        self.entries.copy_within(at..free, at + 1);
        self.tags[at] = tag;
        self.entries[at] = entry;
        true
    }

    fn remove(&mut self, tag: u32, entry: Entry) -> bool {
        let Some(at) = self.run(tag).find(|&at| self.entries[at] == entry) else {
            return false;
        };
        // What follows moves down, unless it is at home.
        let mut end = at + 1;
        while end < self.tags.len()
            && self.entries[end] != Entry::NONE
            && self.home(self.tags[end]) < end
        {
            end += 1;
        }
        self.tags.copy_within(at + 1..end, at);
        self.entries.copy_within(at + 1..end, at);
        self.entries[end - 1] = Entry::NONE;
        self.len -= 1;
        true
    }

    /// Makes the table a fifth longer, and its end as long as the last run needs.
    fn grow(&mut self) {
        *self = self.spread_over((self.home_count + self.home_count.div_ceil(5)).max(HOMES_MIN));
    }

    /// The same entries in a table of so many homes.
    fn spread_over(&self, home_count: u32) -> Self {
        let mut spill_count = SPILL_COUNT.min(home_count as usize);
        loop {
            match self.spread(home_count, spill_count) {
                Some(spread) => break spread,
                None => spill_count *= 2,
            }
        }
    }

    /// The same entries in a table of other lengths; `None` if no place would be left at its end.
    fn spread(&self, home_count: u32, spill_count: usize) -> Option<Self> {
        let place_count = home_count as usize + spill_count;
        let mut spread = Self {
            tags: vec![0; place_count].into(),
            entries: vec![Entry::NONE; place_count].into(),
            home_count,
            len: self.len,
        };
        let mut free = 0;
        for (&tag, &entry) in self.tags.iter().zip(&self.entries) {
            if entry == Entry::NONE {
                continue;
            }
            let at = spread.home(tag).max(free);
            free = at + 1;
            if free >= place_count {
                return None;
            }
            spread.tags[at] = tag;
            spread.entries[at] = entry;
        }
        Some(spread)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn length_classes_bound_the_length_within_an_eighth() {
        for len in (1..5_000_000).step_by(61) {
            let bound = length_of_class(length_class(len));
            assert!(bound >= len, "{len} > {bound}");
            assert!(bound - len < len / 8 + 64, "{len} << {bound}");
        }
    }

    #[test]
    fn entries_keep_their_place() {
        for (slot, offset) in [(0, 8_256), (BLOBS_MAX - 1, 64 * u64::from(u32::MAX))] {
            let entry = Entry::new(Place { slot, offset }, 928);
            assert_eq!(entry.place(), Place { slot, offset });
            assert_eq!(entry.record_len_max(), 960);
        }
    }

    #[test]
    fn colliding_fingerprints_stand_side_by_side() {
        let mut index = Index::default();
        let entries: Vec<_> = (1..5)
            .map(|n| {
                Entry::new(
                    Place {
                        slot: n,
                        offset: 64,
                    },
                    88,
                )
            })
            .collect();
        for &entry in &entries {
            index.insert(7 << 40, entry);
        }
        assert_eq!(index.len(), 4);
        assert_eq!(index.candidates(7 << 40).len(), 4);
        assert_eq!(index.candidates(7 << 40)[0], entries[3]);
        assert!(index.candidates(8 << 40).is_empty());
        for (removed, &entry) in entries.iter().enumerate() {
            assert!(index.remove(7 << 40, entry));
            assert!(!index.remove(7 << 40, entry));
            assert_eq!(index.candidates(7 << 40).len(), 3 - removed);
        }
        assert_eq!(index.len(), 0);
    }

    #[test]
    fn the_index_agrees_with_a_list() {
        // Three tables and few tags, among them the last one, so that runs are long, collide and spill.
        let mut state = 1_u64;
        let mut random = move || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            state >> 33
        };
        let mut index = Index::default();
        let mut list: Vec<(u64, Entry)> = Vec::new();
        for step in 0..40_000_u64 {
            let tag = [random() % 4_000, u64::MAX - random() % 50][usize::from(step % 3 == 0)];
            let fingerprint = (random() % 3) << 62 | (tag << 22 & ((1 << 54) - 1));
            if random() % 5 < 3 || list.is_empty() {
                let place = Place {
                    slot: 1,
                    offset: 64 * (step + 1),
                };
                let entry = Entry::new(place, 88);
                index.insert(fingerprint, entry);
                list.push((fingerprint, entry));
            } else {
                let (fingerprint, entry) = list.swap_remove(random() as usize % list.len());
                assert!(index.remove(fingerprint, entry));
                assert!(!index.remove(fingerprint, entry));
            }
        }
        assert_eq!(index.len(), list.len());
        for &(fingerprint, _) in &list {
            let mut wanted: Vec<_> = list
                .iter()
                .filter(|other| other.0 == fingerprint)
                .map(|other| other.1)
                .collect();
            let mut found = index.candidates(fingerprint);
            wanted.sort_unstable_by_key(|entry| entry.0);
            found.sort_unstable_by_key(|entry| entry.0);
            assert_eq!(found, wanted);
        }
    }

    #[test]
    fn a_table_filled_in_one_go_holds_what_single_inserts_would() {
        for count in [0_u32, 1, 7, 8, 9, 100, 5_000] {
            let mut single = Index::default();
            let mut whole = Index::default();
            let entry_of = |n: u32| {
                let place = Place {
                    slot: n % 5,
                    offset: 64 * u64::from(n + 1),
                };
                // Many equal tags, and the last one.
                let tag = [n.wrapping_mul(0x9e37_79b9) >> 8 << 8, u32::MAX]
                    [usize::from(n.is_multiple_of(9))];
                (tag, Entry::new(place, 928))
            };
            let before = count / 3;
            for n in 0..count {
                let (tag, entry) = entry_of(n);
                single.insert(fingerprint_of(1_023, tag), entry);
                if n < before {
                    whole.insert(fingerprint_of(1_023, tag), entry);
                }
            }
            whole.extend_table(1_023, (before..count).map(entry_of).collect());
            assert_eq!(whole.len(), count as usize);
            let sorted = |index: &Index| {
                let mut all: Vec<_> = index.entries_of(1_023).map(|(tag, e)| (tag, e.0)).collect();
                assert!(all.is_sorted_by_key(|one| one.0));
                all.sort_unstable();
                all
            };
            assert_eq!(sorted(&whole), sorted(&single));
            for n in 0..count {
                let (tag, entry) = entry_of(n);
                assert!(whole.remove(fingerprint_of(1_023, tag), entry));
            }
        }
        for (table, tag) in [(0, 0), (1_023, u32::MAX), (512, 77)] {
            assert_eq!(place_of(fingerprint_of(table, tag)), (table, tag));
        }
    }

    #[test]
    fn a_piece_takes_few_bytes_at_every_size() {
        let mut index = Index::default();
        let mut worst = (0, 0.0);
        for n in 1..=400_000_u64 {
            let place = Place {
                slot: 1,
                offset: 64 * n,
            };
            let name = blake3::hash(&n.to_le_bytes());
            let fingerprint = u64::from_le_bytes(name.as_bytes()[..8].try_into().unwrap());
            index.insert(fingerprint, Entry::new(place, 928));
            if n >= 50_000 && n % 1_000 == 0 {
                let bytes = index.memory_bytes() as f64 / n as f64;
                if bytes > worst.1 {
                    worst = (n, bytes);
                }
            }
        }
        assert!(worst.1 <= 24.0, "{worst:?}");
    }
}
