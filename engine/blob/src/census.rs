//! What all blobs together hold: which record of each piece counts, and where the bytes went.
//!
//! Records go straight into the index, which knows no sequences. Where several of them may be one piece's, because their
//! fingerprints agree, they are *contested*: once all blobs are through, [`Census::settle`] reads their sequences and names where they
//! stand, in the footer of a sealed blob or the log of another. Contested records are judged many at a time and in the order of
//! their places, so a store with many deletes costs a few passes over its footers, not one read a tombstone.
//!
//! The highest sequence of a (satellite, piece id) counts; of one record that is there twice, because compaction moved it, the later place.
//! Memory: the index, the same for records that are no pieces, and [`CONTESTANTS_MAX`].

use std::rc::Rc;

use crate::blobs::{Blob, BlobTally};
use crate::disk::Disk;
use crate::error::OpenError;
use crate::footer::FooterEntry;
use crate::header::BlobHeader;
use crate::index::{self, Entry, Fingerprinter, Index, Place};
use crate::record::{Kind, RecordHeader};
use crate::recover;
use crate::space::Space;

/// Contested records that are judged at once: 64 bytes each, so 16 MiB and what one table of the index holds.
const CONTESTANTS_MAX: usize = 1 << 18;

const _: () = assert!(size_of::<Contestant>() <= 64);

/// What all blobs add up to.
pub(crate) struct Census {
    pub(crate) fingerprinter: Fingerprinter,
    /// Every piece record until [`settle`](Self::settle), then those that count.
    pub(crate) index: Index,
    /// Piece records that do not count.
    pub(crate) dead: Index,
    /// Records that may outrank pieces.
    marks: Index,
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
    is_piece: bool,
}

impl Census {
    pub(crate) fn new(fingerprinter: Fingerprinter) -> Self {
        Self {
            fingerprinter,
            index: Index::default(),
            dead: Index::default(),
            marks: Index::default(),
            tallies: Vec::new(),
            accepted: 0,
            tombstones: 0,
            next_sequence: 1,
            space: Space::default(),
        }
    }

    /// Takes a valid record. Its piece counts as live until [`settle`](Self::settle).
    pub(crate) fn accept(&mut self, header: &BlobHeader, place: Place, record: &RecordHeader) {
        let satellite = &header.satellites[usize::from(record.satellite_slot)];
        let body_len = u64::from(record.body_len);
        let tally = &mut self.tallies[place.slot as usize];
        self.accepted += 1;
        self.next_sequence = self.next_sequence.max(record.sequence.saturating_add(1));
        self.space.overhead_bytes += record.record_len() - body_len;
        tally.count_record(record);
        let fingerprint = self.fingerprinter.of(satellite, &record.id);
        let entry = Entry::new(place, record.record_len());
        match record.kind {
            Kind::Piece => {
                self.index.insert(fingerprint, entry);
                tally.count_live(body_len);
                self.space.live_bytes += body_len;
            }
            Kind::Tombstone => {
                self.marks.insert(fingerprint, entry);
                self.tombstones += 1;
            }
            Kind::Trash | Kind::Restore => {}
        }
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
                self.judge(&mut contestants);
                contestants.clear();
            }
        }
        Ok(())
    }

    fn judge(&mut self, contestants: &mut [Contestant]) {
        let piece = |one: &Contestant| (one.fingerprint, one.name);
        contestants.sort_unstable_by_key(|one| (piece(one), one.sequence, one.entry.bits()));
        for records in contestants.chunk_by(|one, other| piece(one) == piece(other)) {
            let Some((_winner, outranked)) = records.split_last() else {
                continue;
            };
            for record in outranked.iter().filter(|record| record.is_piece) {
                self.bury(record);
            }
        }
    }

    fn bury(&mut self, record: &Contestant) {
        if self.index.remove(record.fingerprint, record.entry) {
            let body_len = u64::from(record.body_len);
            self.dead.insert(record.fingerprint, record.entry);
            self.tallies[record.entry.place().slot as usize].count_dead(body_len);
            self.space.live_bytes -= body_len;
            self.space.dead_bytes += body_len;
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
                is_piece: false,
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
        is_piece: record.kind == Kind::Piece,
    })
}
