//! What all blobs together hold: which record of each piece counts, and where the bytes went.
//!
//! Records go straight into the index, which knows no sequences. Where several of them may be one piece's, because their
//! fingerprints agree, they are *contested*: once all blobs are through, [`Census::settle`] reads their sequences and names where they
//! stand, in the footer of a sealed blob or the log of another. Contested records are judged many at a time and in the order of
//! their places, so a store with many deletes costs a few passes over its footers, not one read a tombstone.
//!
//! Of a (satellite, piece id) the piece or tombstone of the highest sequence counts; of one record that is there twice, because compaction
//! moved it, the later place, but none that is *loose*, left of a torn group: if it rots, the next opening does not miss it, and the other may be
//! gone by then. The highest trash or restore record above a piece says whether it is in the trash.
//!
//! What a checkpoint knows is the beginning. It has judged all sequences below its own: a trash or restore record that is
//! older and was moved since says nothing new, and a trashed piece that was moved is known again by its sequence.
//! Memory: the index, the same for records that are no pieces, the trash, and [`CONTESTANTS_MAX`].

use std::collections::BTreeSet;
use std::rc::Rc;

use crate::aside::Aside;
use crate::blobs::{Blob, BlobTally};
use crate::disk::Disk;
use crate::doubted::Doubted;
use crate::error::OpenError;
use crate::expiry::Columns;
use crate::fingerprint::Fingerprinter;
use crate::footer::FooterEntry;
use crate::header::BlobHeader;
use crate::index::{self, Entry, Index, Place};
use crate::record::{Kind, RecordHeader};
use crate::recover;
use crate::space::Space;
use crate::states::{Known, State, Trashed};

/// Contested records that are judged at once: 64 bytes each, so 16 MiB and what one table of the index holds.
const CONTESTANTS_MAX: usize = 1 << 18;

const _: () = assert!(size_of::<Contestant>() <= 64);

/// What all blobs add up to.
pub(crate) struct Census {
    pub(crate) fingerprinter: Fingerprinter,
    /// Every piece record until [`settle`](Self::settle), then those that count and are not in the trash.
    pub(crate) index: Index,
    /// Piece records that do not count.
    pub(crate) dead: Index,
    /// Piece records that are in the trash.
    pub(crate) trash: Aside<Trashed>,
    /// What the checkpoint has in the trash, by the places that it knew.
    known_trash: Aside<Trashed>,
    /// The checkpoint has judged all sequences below.
    judged_below: u64,
    /// Records that may outrank pieces, or say something of them.
    marks: Index,
    /// Bits of the entries of loose records: of some torn groups, those that crashes cut.
    loose: BTreeSet<u64>,
    /// Whose records are loose: nothing is acknowledged because of them.
    pub(crate) doubted: Doubted,
    /// By slot.
    pub(crate) tallies: Vec<BlobTally>,
    /// Records that were accepted.
    pub(crate) accepted: u64,
    /// Tombstones among them.
    pub(crate) tombstones: u64,
    pub(crate) next_sequence: u64,
    pub(crate) space: Space,
}

/// A record that may be outranked, or may outrank.
struct Contestant {
    /// What the index knows it by.
    fingerprint: u64,
    entry: Entry,
    /// Whose it is. This and what follows is read where it stands.
    name: u128,
    sequence: u64,
    body_len: u32,
    created_s: u32,
    expiry_s: u32,
    kind: Kind,
}

impl Contestant {
    fn known(&self) -> Known {
        Known {
            entry: self.entry,
            body_len: u64::from(self.body_len),
            expiry_s: self.expiry_s,
            sequence: self.sequence,
        }
    }
}

impl Census {
    pub(crate) fn new(fingerprinter: Fingerprinter) -> Self {
        Self {
            fingerprinter,
            index: Index::default(),
            dead: Index::default(),
            trash: Aside::default(),
            known_trash: Aside::default(),
            judged_below: 0,
            marks: Index::default(),
            loose: BTreeSet::new(),
            doubted: Doubted::default(),
            tallies: Vec::new(),
            accepted: 0,
            tombstones: 0,
            next_sequence: 1,
            space: Space::default(),
        }
    }

    /// Begins with what a checkpoint has judged; before any record is accepted.
    pub(crate) fn begin_with(&mut self, next_sequence: u64, trash: Aside<Trashed>) {
        self.next_sequence = next_sequence;
        self.judged_below = next_sequence;
        self.known_trash = trash;
    }

    /// Takes over the lists of a checkpoint, each entry in the place that it is given, or not at all.
    pub(crate) fn absorb(
        &mut self,
        index: Index,
        dead: Index,
        relocate: impl Fn(Entry) -> Option<Entry>,
    ) {
        self.index.absorb(index, &relocate);
        self.dead.absorb(dead, &relocate);
        for (fingerprint, entry, trashed) in std::mem::take(&mut self.known_trash).iter() {
            if let Some(entry) = relocate(entry) {
                self.index.insert(fingerprint, entry);
                self.trash.insert(fingerprint, entry, trashed);
            }
        }
    }

    /// Takes a valid record. Its piece counts until [`settle`](Self::settle).
    pub(crate) fn accept(&mut self, header: &BlobHeader, place: Place, record: &RecordHeader) {
        let satellite = &header.satellites[usize::from(record.satellite_slot)];
        let body_len = u64::from(record.body_len);
        self.accepted += 1;
        self.next_sequence = self.next_sequence.max(record.sequence.saturating_add(1));
        self.space.overhead_bytes += record.record_len() - body_len;
        self.tallies[place.slot as usize].count_record(record);
        let fingerprint = self.fingerprinter.of(satellite, &record.id);
        let entry = Entry::new(place, record.record_len());
        if record.kind != Kind::Piece {
            self.marks.insert(fingerprint, entry);
            self.tombstones += u64::from(record.kind == Kind::Tombstone);
            return;
        }
        self.index.insert(fingerprint, entry);
        self.space.dead_bytes += body_len;
        let known = Known {
            entry,
            body_len,
            expiry_s: record.expiry_s,
            sequence: record.sequence,
        };
        let before = self.known_trash.candidates(fingerprint);
        let mut same = before.filter(|(_, trashed)| trashed.sequence == record.sequence);
        let state = same
            .next()
            .map_or(State::Live, |(_, trashed)| State::Trash(trashed.since_s));
        drop(same);
        self.enter(header, fingerprint, &known, state);
    }

    /// As [`accept`](Self::accept), of what is left of a torn group.
    pub(crate) fn accept_loose(
        &mut self,
        header: &BlobHeader,
        place: Place,
        record: &RecordHeader,
    ) {
        self.accept(header, place, record);
        self.loose
            .insert(Entry::new(place, record.record_len()).bits());
        let satellite = header.satellites[usize::from(record.satellite_slot)];
        self.doubted.insert((satellite, record.id));
    }

    /// Gives a piece record its state. Its body is counted as dead until now.
    fn enter(&mut self, header: &BlobHeader, fingerprint: u64, known: &Known, state: State) {
        if let State::Trash(since_s) = state {
            let trashed = known.trashed(since_s);
            self.trash.insert(fingerprint, known.entry, trashed);
        }
        let tally = &mut self.tallies[known.entry.place().slot as usize];
        tally.enter(Columns::of(header), state, known.body_len, known.expiry_s);
        self.space.enter(state, known.body_len);
    }

    /// Takes its state from a piece record, and counts its body as dead.
    fn leave(&mut self, header: &BlobHeader, fingerprint: u64, known: &Known) {
        let trashed = self.trash.remove(fingerprint, known.entry);
        let state = trashed.map_or(State::Live, |trashed| State::Trash(trashed.since_s));
        let tally = &mut self.tallies[known.entry.place().slot as usize];
        tally.leave(Columns::of(header), state, known.body_len, known.expiry_s);
        self.space.leave(state, known.body_len);
    }

    /// Finds out which of the contested records count.
    ///
    /// # Errors
    ///
    /// [`OpenError::Unsteady`] if a record is not found where it was.
    pub(crate) async fn settle<D: Disk>(
        &mut self,
        disk: &D,
        blobs: &[Rc<Blob<D::File>>],
    ) -> Result<(), OpenError> {
        let marks = std::mem::take(&mut self.marks);
        let mut contestants = Vec::new();
        for table in 0..index::TABLES {
            contested(&self.index, &marks, table, &mut contestants);
            if contestants.len() >= CONTESTANTS_MAX || table + 1 == index::TABLES {
                read_contestants(disk, blobs, self.fingerprinter, &mut contestants).await?;
                self.judge(blobs, &mut contestants);
                contestants.clear();
            }
        }
        for (fingerprint, entry, _) in self.trash.iter() {
            self.index.remove(fingerprint, entry);
        }
        Ok(())
    }

    fn judge<F>(&mut self, blobs: &[Rc<Blob<F>>], contestants: &mut [Contestant]) {
        let piece = |one: &Contestant| (one.fingerprint, one.name);
        contestants.sort_unstable_by_key(|one| {
            let bits = one.entry.bits();
            (piece(one), one.sequence, !self.loose.contains(&bits), bits)
        });
        for records in contestants.chunk_by(|one, other| piece(one) == piece(other)) {
            //= docs/format.md#record
            let is_base =
                |record: &Contestant| matches!(record.kind, Kind::Piece | Kind::Tombstone);
            let Some(at) = records.iter().rposition(is_base) else {
                continue;
            };
            let header = |record: &Contestant| &blobs[record.entry.place().slot as usize].header;
            let pieces = records[..at].iter();
            for record in pieces.filter(|record| record.kind == Kind::Piece) {
                self.bury(header(record), record);
            }
            let base = &records[at];
            let mark = records[at + 1..].last();
            let news = mark.filter(|mark| mark.sequence >= self.judged_below);
            if let Some(mark) = news.filter(|_| base.kind == Kind::Piece) {
                let fingerprint = self.fingerprinter.narrow(base.name);
                let state = match mark.kind {
                    Kind::Trash => State::Trash(mark.created_s),
                    _ => State::Live,
                };
                self.leave(header(base), fingerprint, &base.known());
                self.enter(header(base), fingerprint, &base.known(), state);
            }
        }
    }

    fn bury(&mut self, header: &BlobHeader, record: &Contestant) {
        if self.index.remove(record.fingerprint, record.entry) {
            self.dead.insert(record.fingerprint, record.entry);
            let fingerprint = self.fingerprinter.narrow(record.name);
            self.leave(header, fingerprint, &record.known());
        }
    }
}

/// Adds a table's records whose fingerprints agree with another's.
fn contested(index: &Index, marks: &Index, table: usize, contestants: &mut Vec<Contestant>) {
    let pieces: Vec<_> = index.entries_of(table).collect();
    let marks: Vec<_> = marks.entries_of(table).collect();
    let mut marks = &marks[..];
    for run in pieces.chunk_by(|one, other| one.0 == other.0) {
        let tag = run[0].0;
        marks = &marks[marks.partition_point(|mark| mark.0 < tag)..];
        let outranking = &marks[..marks.partition_point(|mark| mark.0 == tag)];
        if run.len() + outranking.len() > 1 {
            let entries = run.iter().chain(outranking);
            contestants.extend(entries.map(|&(_, entry)| Contestant {
                fingerprint: index::fingerprint_of(table, tag),
                entry,
                name: 0,
                sequence: 0,
                body_len: 0,
                created_s: 0,
                expiry_s: 0,
                kind: Kind::Piece,
            }));
        }
    }
}

/// Reads what the contested records say, blob by blob.
async fn read_contestants<D: Disk>(
    disk: &D,
    blobs: &[Rc<Blob<D::File>>],
    fingerprinter: Fingerprinter,
    contestants: &mut [Contestant],
) -> Result<(), OpenError> {
    contestants.sort_unstable_by_key(|one| one.entry.bits());
    let slot = |one: &Contestant| one.entry.place().slot;
    for records in contestants.chunk_by_mut(|one, other| slot(one) == slot(other)) {
        let blob = &blobs[slot(&records[0]) as usize];
        let is_sealed = blob.log.borrow().is_none();
        let footer = if is_sealed {
            recover::read_footer(disk, &blob.file, blob.tail.get().file_len, &blob.header).await
        } else {
            None
        };
        let log = blob.log.borrow();
        let entries = match (&footer, &*log) {
            (Some(footer), _) => &footer.entries,
            (None, Some(log)) => &log.entries,
            (None, None) => return Err(OpenError::Unsteady { blob: blob.id }),
        };
        for record in records {
            let found = find(entries, record.entry, &blob.header, fingerprinter);
            *record = found
                .map(|found| Contestant {
                    fingerprint: record.fingerprint,
                    ..found
                })
                .ok_or(OpenError::Unsteady { blob: blob.id })?;
        }
    }
    Ok(())
}

fn find(
    entries: &[FooterEntry],
    entry: Entry,
    header: &BlobHeader,
    fingerprinter: Fingerprinter,
) -> Option<Contestant> {
    let offset = entry.place().offset;
    let at = entries
        .binary_search_by_key(&offset, |entry| entry.offset)
        .ok()?;
    let record = &entries[at].record;
    let satellite = header.satellites.get(usize::from(record.satellite_slot))?;
    Some(Contestant {
        fingerprint: 0,
        entry,
        name: fingerprinter.wide(satellite, &record.id),
        sequence: record.sequence,
        body_len: record.body_len,
        created_s: record.created_s,
        expiry_s: record.expiry_s,
        kind: record.kind,
    })
}
