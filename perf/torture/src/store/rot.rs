//! Every kind of damage to bytes at rest: it is told, no wrong byte is served, and it costs what it hit and nothing else.
//!
//! A store with a sealed blob, open ones, deleted and trashed pieces is closed and damaged: every byte of its headers flipped, bits of bodies,
//! pages zeroed and swapped, files cut at every length, every byte of its checkpoint. Each is opened, from the blobs alone and with the
//! checkpoint, and read whole. What must stay true: no record is known at a place where none was written, a piece that the damage did not touch is
//! bit-exact, one that it touched is bit-exact or called damaged, and the damage is told by the opening, a read or a scrub.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use strand_blob::disk::sim::SimDisk;
use strand_blob::inspect::{self, StoredRecord};
use strand_blob::testing::world::{NOW_S, SATELLITE, World, id_of, open, rebuilt, small_options};
use strand_blob::testing::{Knowledge, Random};
use strand_blob::{BlobId, Damage, FileId, GetError, ScrubCursor, StoreOptions, Traffic};

use crate::store::calls::{KEYS, Op, ask, key_of, read_variant};
use crate::store::guard::guarded;
use crate::store::model::Model;
use crate::tally::Tally;

const BLOCK_BYTES: u64 = 4_096;
const GROUP_HEADER_BYTES: u64 = 64;
const RECORD_HEADER_BYTES: u64 = 88;

/// Body bits that are flipped.
const BODY_BITS: u64 = 10_000;

/// A store at rest, and what is in it.
struct Base {
    options: StoreOptions,
    files: BTreeMap<FileId, Vec<u8>>,
    records: BTreeMap<BlobId, Vec<StoredRecord>>,
    /// What a reader finds of each key.
    wanted: Vec<Option<u64>>,
    /// Places of all piece records.
    places: BTreeSet<(BlobId, u64)>,
    sealed: BTreeSet<BlobId>,
}

/// A kind of damage: what is damaged, the seed, and of how many spots one is tried.
type Part = fn(&Base, u64, u64, &mut Tally);

/// Bytes of a file that were changed.
#[derive(Clone, Debug)]
struct Hit {
    blob: BlobId,
    range: Range<u64>,
}

fn hit(blob: BlobId, start: u64, len: u64) -> Hit {
    Hit {
        blob,
        range: start..start + len,
    }
}

fn end_of(record: &StoredRecord) -> u64 {
    record.body_and_trailer().end
}

/// Tries all damage, of the cheaply made kinds one of so many; `seed` draws what is sampled.
#[must_use]
pub fn run_thinned(seed: u64, every: u64) -> Tally {
    run_parts(seed, every, false)
}

/// The same, no further than to the first violation.
#[must_use]
pub fn run_until_violated(seed: u64, every: u64) -> Tally {
    run_parts(seed, every, true)
}

fn run_parts(seed: u64, every: u64, stops_early: bool) -> Tally {
    let mut tally = Tally::default();
    let replay = format!("--what rot --seed {seed}");
    let base = match guarded(Base::new) {
        Ok(base) => base,
        Err(what) => {
            tally.violate(format!("preparing a store to damage: {what}"), replay);
            return tally;
        }
    };
    let parts: [(&str, Part); 7] = [
        ("scrubbed bodies", scrubbed_bodies),
        ("bodies", bodies),
        ("headers", headers),
        ("footers", footers),
        ("checkpoint", checkpoint),
        ("pages", pages),
        ("truncations", truncations),
    ];
    for (name, part) in parts {
        if stops_early && !tally.violations.is_empty() {
            break;
        }
        let told = guarded(|| {
            let mut tally = Tally::default();
            part(&base, seed, every.max(1), &mut tally);
            tally
        });
        match told {
            Ok(done) => tally.merge(done),
            Err(what) => tally.violate(format!("{name}: {what}"), &replay),
        }
    }
    tally
}

impl Base {
    fn new() -> Self {
        let mut options = small_options();
        options.blob_records_max = 7;
        options.lanes_max = 1;
        let mut model = Model::new(options, SimDisk::new(3), 3);
        // Groups of one record and of several; a long body in the blob that is sealed, for reads from memory.
        for keys in [
            vec![0, 4],
            vec![2],
            vec![3, 7, 8, 9],
            vec![10, 12],
            vec![14],
        ] {
            let calls: Vec<_> = keys
                .into_iter()
                .map(|key| ask(key, Op::Put { variant: 0 }))
                .collect();
            model.batch(&calls);
        }
        model.batch(&[ask(9, Op::Delete), ask(3, Op::Delete)]);
        model.batch(&[ask(14, Op::Trash)]);
        model.batch(&[
            ask(0, Op::Compact(Traffic::Busy)),
            ask(11, Op::Put { variant: 1 }),
        ]);
        model.reopen(4, true);
        model.batch(&[
            ask(15, Op::Put { variant: 1 }),
            ask(1, Op::Put { variant: 0 }),
        ]);
        model.reopen(5, true);
        let files = model.disk.all_files();
        let mut records = BTreeMap::new();
        for (blob, bytes) in model.disk.files() {
            let found = inspect::records(&bytes).unwrap_or_else(|error| panic!("{blob}: {error}"));
            records.insert(blob, found);
        }
        let known = rebuilt(&model.disk, options);
        let states = model
            .pieces
            .iter()
            .map(|known| known.states[0].map(|there| there.variant));
        let trashed = known.trash.iter().map(|&(blob, offset, _)| (blob, offset));
        Self {
            options,
            files,
            records,
            wanted: states.collect(),
            places: known
                .live
                .iter()
                .chain(&known.dead)
                .copied()
                .chain(trashed)
                .collect(),
            sealed: known
                .blobs
                .iter()
                .filter(|(_, is_sealed)| *is_sealed)
                .map(|(id, _)| *id)
                .collect(),
        }
    }

    fn blob(&self, blob: BlobId) -> &[u8] {
        &self.files[&FileId::Blob(blob)]
    }

    /// Opens the files with this blob changed, without a checkpoint or with it.
    fn open(&self, edits: &[(BlobId, Vec<u8>)], has_checkpoint: bool) -> World {
        let mut files = self.files.clone();
        for (blob, bytes) in edits {
            files.insert(FileId::Blob(*blob), bytes.clone());
        }
        let mut options = self.options;
        options.ignores_checkpoint = !has_checkpoint;
        open(&SimDisk::from_all_files(1, files), options, 1)
    }

    fn edited(&self, blob: BlobId, edit: impl FnOnce(&mut Vec<u8>)) -> Vec<(BlobId, Vec<u8>)> {
        let mut bytes = self.blob(blob).to_vec();
        edit(&mut bytes);
        vec![(blob, bytes)]
    }

    /// Keys of which a record was hit.
    fn touched(&self, hits: &[Hit]) -> BTreeSet<u64> {
        let mut keys = BTreeSet::new();
        for hit in hits {
            let records = self.records.get(&hit.blob).into_iter().flatten();
            let is_hit = |record: &&StoredRecord| {
                record.offset < hit.range.end && hit.range.start < end_of(record)
            };
            keys.extend(records.filter(is_hit).map(|record| key_of(&record.id)));
        }
        keys
    }

    /// Holds an opened store against what was in it; whether the damage was told.
    fn check(&self, world: &World, hits: &[Hit]) -> bool {
        let known = Knowledge::of(&world.store);
        let trashed = known.trash.iter().map(|&(blob, offset, _)| (blob, offset));
        for place in known.live.iter().chain(&known.dead).copied().chain(trashed) {
            assert!(
                self.places.contains(&place),
                "{hits:?}: a record at {place:?}, where none was written"
            );
        }
        let touched = self.touched(hits);
        // Who reads the blobs alone takes the last group for torn where the group that attests it is gone as well.
        let is_last = |hit: &Hit| {
            let records = &self.records[&hit.blob];
            records.iter().all(|record| record.offset < hit.range.end)
        };
        let is_torn = world.recovery.torn_bytes > 0 && hits.len() > 1 && hits.iter().any(is_last);
        let mut is_told = !world.recovery.rotten.is_empty() || is_torn;
        for key in 0..KEYS {
            let read = world.run(|store| async move { read_variant(&store, key, NOW_S).await });
            let wanted = self.wanted[key as usize];
            let is_exact = match read {
                Ok(variant) => Some(variant) == wanted,
                Err(GetError::NotFound) => wanted.is_none(),
                Err(GetError::Corrupt { .. }) => {
                    is_told = true;
                    false
                }
                Err(error) => panic!("{hits:?}: piece {key}: {error}"),
            };
            assert!(
                is_exact || touched.contains(&key),
                "{hits:?} cost piece {key}: {read:?}, not {wanted:?}"
            );
            let is_excused = is_exact || is_told || wanted.is_none();
            assert!(
                is_excused,
                "{hits:?}: piece {key} is {read:?}, and nobody said why: {:?}",
                world.recovery
            );
        }
        world.executor.run_until_stalled();
        assert!(
            world.store.space().adds_up(),
            "{hits:?}: {:?}",
            world.store.space()
        );
        is_told
    }

    /// The same, and the damage must be told, by a scrub at the latest.
    fn check_told(&self, world: &World, hits: &[Hit]) {
        if !self.check(world, hits) {
            let (damaged, _) = scrub(world);
            assert!(damaged > 0, "{hits:?}: nobody noticed");
        }
    }
}

/// Damaged records and headers that a scrub finds, and the keys that it takes out of service.
fn scrub(world: &World) -> (u64, Vec<u64>) {
    world.run(|store| async move {
        let (mut damaged, mut keys) = (0, Vec::new());
        let mut cursor = ScrubCursor::default();
        while let Some(step) = store.scrub_step(cursor, 1 << 20).await {
            cursor = step.next;
            damaged += step.damaged_records + step.damaged_headers;
            keys.extend(step.lost.iter().map(|lost| key_of(&lost.id)));
        }
        (damaged, keys)
    })
}

fn flipped(at: u64, bit: u64) -> impl FnOnce(&mut Vec<u8>) {
    move |bytes| bytes[at as usize] ^= 1 << (bit % 8)
}

/// Every byte of blob, group and record headers and of trailers.
fn headers(base: &Base, seed: u64, every: u64, tally: &mut Tally) {
    let mut nth = seed;
    for (&blob, records) in &base.records {
        let mut spots: Vec<u64> = Vec::new();
        let mut group_headers = BTreeSet::new();
        for copy in [0, BLOCK_BYTES] {
            // Zeros, for the most part.
            let zeros = (256..4_080).filter(|at| at % 16 == seed % 16);
            spots.extend(
                (0..256)
                    .chain(zeros)
                    .chain(4_080..4_096)
                    .map(|at| copy + at),
            );
        }
        for record in records {
            if record.offset % BLOCK_BYTES == GROUP_HEADER_BYTES {
                group_headers.extend(record.offset - GROUP_HEADER_BYTES..record.offset);
            }
            spots.extend(record.offset..record.offset + RECORD_HEADER_BYTES);
            spots.extend(record.checksum_table_offset()..end_of(record));
        }
        spots.extend(&group_headers);
        for at in spots {
            nth += 1;
            if !nth.is_multiple_of(every) {
                continue;
            }
            let edits = base.edited(blob, flipped(at, nth));
            let hits = [hit(blob, at, 1)];
            for has_checkpoint in [false, true] {
                let world = base.open(&edits, has_checkpoint);
                // Of a group nobody needs the header once a footer or a checkpoint names its records.
                let is_unread = has_checkpoint || base.sealed.contains(&blob);
                if group_headers.contains(&at) && is_unread {
                    base.check(&world, &hits);
                } else {
                    base.check_told(&world, &hits);
                }
            }
            tally.add("rot_header_bytes", 1);
        }
    }
}

/// Every byte of the footers.
fn footers(base: &Base, seed: u64, every: u64, tally: &mut Tally) {
    for &blob in &base.sealed {
        let bytes = base.blob(blob);
        let len = bytes.len() as u64;
        // Its last 64 bytes say where it begins.
        let place = bytes
            .last_chunk::<48>()
            .and_then(|end| end.first_chunk::<8>());
        let footer_at = place.map_or(len, |place| u64::from_le_bytes(*place));
        for at in (footer_at..len).filter(|at| at % (3 * every) == seed % (3 * every)) {
            let edits = base.edited(blob, flipped(at, at));
            let world = base.open(&edits, false);
            base.check_told_footer(&world, hit(blob, at, 1));
            tally.add("rot_footer_bytes", 1);
        }
    }
}

impl Base {
    /// A blob that has lost its footer is read whole, and grows no more.
    fn check_told_footer(&self, world: &World, hit: Hit) {
        let wanted = self.sealed.len() as u64;
        assert!(
            world.recovery.sealed_blobs < wanted,
            "{hit:?}: the footer was believed"
        );
        self.check(world, &[hit]);
    }
}

/// Bits of bodies: read whole and by share, from the disk and from memory.
fn bodies(base: &Base, seed: u64, every: u64, tally: &mut Tally) {
    let mut random = Random::new(seed);
    let pieces: Vec<(BlobId, StoredRecord)> = base.live_records();
    let world = base.open(&[], true);
    world.disk.use_memory();
    for nth in 0..BODY_BITS / every {
        // Every other one in a long body, which stays in service when a share of it is damaged.
        let (blob, record) = pieces[random.below(pieces.len() as u64) as usize];
        let at = record.body_offset + random.below(record.body_len);
        let key = key_of(&record.id);
        tally.add("rot_body_bits", 1);
        let bit = random.below(8);
        if record.share_count() > 1 {
            let share = ((at - record.body_offset) / 16_384) as u32;
            let flip = move |bytes: &mut Vec<u8>| bytes[at as usize] ^= 1 << bit;
            world.disk.edit(blob, flip);
            let other = (share + 1) % record.share_count();
            let (bad, good) = world.run(|store| async move {
                let piece = store.piece(&SATELLITE, &id_of(key), NOW_S).await;
                let piece = piece.unwrap_or_else(|error| panic!("piece {key}: {error}"));
                let bad = store.read_shares(&piece, share..share + 1).await;
                (bad, store.read_shares(&piece, other..other + 1).await)
            });
            world.disk.edit(blob, flip);
            assert!(
                matches!(bad, Err(GetError::Corrupt { what: Damage::Share(found), .. }) if found == share),
                "piece {key}, byte {at}: share {share} was served"
            );
            let range = record.share_range(other);
            let wanted = &base.blob(blob)[range.start as usize..range.end as usize];
            assert!(
                good.is_ok_and(|good| good == wanted),
                "piece {key}: share {other} is not served"
            );
            world.store.take_lost();
        } else {
            let edits = base.edited(blob, flipped(at, bit));
            let world = base.open(&edits, nth % 2 == 0);
            base.check_told(&world, &[hit(blob, at, 1)]);
        }
    }
}

impl Base {
    /// Records that a reader may meet.
    fn live_records(&self) -> Vec<(BlobId, StoredRecord)> {
        let of_blob = |(&blob, records): (&BlobId, &Vec<StoredRecord>)| {
            let is_live = |record: &&StoredRecord| {
                let is_there = self.wanted[key_of(&record.id) as usize].is_some();
                record.is_piece() && is_there
            };
            let live: Vec<_> = records
                .iter()
                .filter(is_live)
                .map(|record| (blob, *record))
                .collect();
            live
        };
        self.records.iter().flat_map(of_blob).collect()
    }
}

/// What nobody reads a scrub finds.
fn scrubbed_bodies(base: &Base, seed: u64, every: u64, tally: &mut Tally) {
    let mut random = Random::new(seed ^ 1);
    for (blob, record) in base.live_records() {
        for _ in 0..20_u64.div_ceil(every) {
            let at = record.body_offset + random.below(record.body_len);
            let world = base.open(&base.edited(blob, flipped(at, at)), true);
            let key = key_of(&record.id);
            let (damaged, keys) = scrub(&world);
            assert_eq!((damaged, keys), (1, vec![key]), "piece {key}, byte {at}");
            tally.add("rot_scrubs", 1);
        }
    }
}

/// Every byte of the checkpoint: it is passed over, or what is known stays the same.
fn checkpoint(base: &Base, seed: u64, every: u64, tally: &mut Tally) {
    let wanted = Knowledge::of(&base.open(&[], false).store);
    let ids = base
        .files
        .keys()
        .filter(|id| matches!(id, FileId::Checkpoint(_)));
    for &id in ids {
        let len = base.files[&id].len() as u64;
        let step = 5 * every;
        for at in (0..len).filter(|at| at % step == seed % step || at % BLOCK_BYTES < 64) {
            let mut files = base.files.clone();
            if let Some(bytes) = files.get_mut(&id) {
                bytes[at as usize] ^= 1 << (at % 8);
            }
            let world = open(&SimDisk::from_all_files(1, files), base.options, 1);
            assert_eq!(Knowledge::of(&world.store), wanted, "checkpoint, byte {at}");
            tally.add("rot_checkpoint_bytes", 1);
        }
    }
}

/// Pages that are zero, and pages that stand in each other's place.
fn pages(base: &Base, seed: u64, every: u64, tally: &mut Tally) {
    let mut random = Random::new(seed ^ 2);
    let all: Vec<(BlobId, u64)> = base
        .records
        .keys()
        .flat_map(|&blob| {
            let len = base.blob(blob).len() as u64;
            (0..len / BLOCK_BYTES).map(move |page| (blob, page * BLOCK_BYTES))
        })
        .collect();
    let page_of =
        |(blob, at): (BlobId, u64)| base.blob(blob)[at as usize..][..BLOCK_BYTES as usize].to_vec();
    for &(blob, at) in &all {
        let edits = base.edited(blob, |bytes| {
            bytes[at as usize..][..BLOCK_BYTES as usize].fill(0)
        });
        for has_checkpoint in [false, true] {
            base.check(
                &base.open(&edits, has_checkpoint),
                &[hit(blob, at, BLOCK_BYTES)],
            );
        }
        tally.add("rot_pages", 1);
    }
    for nth in 0..all.len() as u64 * 4 / every {
        let one = all[nth as usize % all.len()];
        // A neighbour, any page, or a copy of one where the other was.
        let other = if nth % 2 == 0 {
            all[(nth as usize + 1) % all.len()]
        } else {
            all[random.below(all.len() as u64) as usize]
        };
        let mut bytes: BTreeMap<BlobId, Vec<u8>> = BTreeMap::new();
        let mut place = |(blob, at): (BlobId, u64), page: &[u8]| {
            let bytes = bytes
                .entry(blob)
                .or_insert_with(|| base.blob(blob).to_vec());
            bytes[at as usize..][..page.len()].copy_from_slice(page);
        };
        place(one, &page_of(other));
        let mut hits = vec![hit(one.0, one.1, BLOCK_BYTES)];
        if nth % 3 > 0 {
            place(other, &page_of(one));
            hits.push(hit(other.0, other.1, BLOCK_BYTES));
        }
        // Both copies of a blob's header gone is a case of its own.
        let headers = hits
            .iter()
            .filter(|hit| hit.range.start < 2 * BLOCK_BYTES)
            .count();
        if headers > 1 {
            continue;
        }
        let edits: Vec<_> = bytes.into_iter().collect();
        base.check(&base.open(&edits, nth % 4 == 3), &hits);
        tally.add("rot_pages", 1);
    }
}

/// Files that end early: what lies before the end is there.
fn truncations(base: &Base, seed: u64, every: u64, tally: &mut Tally) {
    for (&blob, records) in &base.records {
        let len = base.blob(blob).len() as u64;
        let edges: BTreeSet<u64> = records
            .iter()
            .flat_map(|record| [record.offset, record.body_offset, end_of(record)])
            .chain((0..len).step_by(BLOCK_BYTES as usize))
            .flat_map(|edge| [edge.saturating_sub(1), edge, edge + 1])
            .collect();
        let step = 97 * every;
        let lens = (0..len).filter(|at| at % step == seed % step || edges.contains(at));
        for cut in lens {
            let edits = base.edited(blob, |bytes| bytes.truncate(cut as usize));
            for has_checkpoint in [false, true] {
                if !has_checkpoint && cut % 3 != 0 && !edges.contains(&cut) {
                    continue;
                }
                let world = base.open(&edits, has_checkpoint);
                // Without its header nothing in a blob can be read.
                let start = if cut < BLOCK_BYTES { 0 } else { cut };
                base.check_cut(&world, hit(blob, start, len - start), has_checkpoint);
                tally.add("rot_truncations", 1);
            }
        }
    }
}

impl Base {
    /// Who reads the blobs alone cannot tell a file that was cut from one that was never longer; a checkpoint knows.
    fn check_cut(&self, world: &World, hit: Hit, has_checkpoint: bool) {
        let touched = self.touched(std::slice::from_ref(&hit));
        for key in 0..KEYS {
            let read = world.run(|store| async move { read_variant(&store, key, NOW_S).await });
            let wanted = self.wanted[key as usize];
            let is_exact = read.ok() == wanted && !matches!(read, Err(GetError::Disk(_)));
            assert!(
                is_exact || touched.contains(&key),
                "{hit:?} cost piece {key}: {read:?}, not {wanted:?}"
            );
        }
        let is_told = !world.recovery.rotten.is_empty();
        assert!(
            is_told || !has_checkpoint,
            "{hit:?}: what was cut off is not missed"
        );
        assert!(
            world.store.space().adds_up(),
            "{hit:?}: {:?}",
            world.store.space()
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_is_told_and_costs_what_it_hit() {
        let tally = run_thinned(3, 12);
        assert!(tally.violations.is_empty(), "{:#?}", tally.violations);
        for (name, least) in [
            ("rot_body_bits", 800),
            ("rot_header_bytes", 150),
            ("rot_footer_bytes", 100),
            ("rot_checkpoint_bytes", 500),
            ("rot_pages", 100),
            ("rot_truncations", 300),
            ("rot_scrubs", 10),
        ] {
            let count = tally.counts.get(name).copied().unwrap_or_default();
            assert!(count >= least, "{name}: {count}");
        }
    }
}
