//! What all blobs together hold: which record of each piece counts, whether it is whole, and who uses which sequence.
//!
//! A row of 28 bytes for each record, in 1,024 lists by the fingerprint of its name; a list grows by a quarter, so that growing never takes much.
//! Two names share a fingerprint of 64 bits by a chance of one in a million with 6 million records; the verdict then counts one piece too
//! few. Another run has another key.

use crate::fingerprint::Fingerprinter;
use crate::header::BlobHeader;
use crate::layout::{BODY_BYTES_MAX, BlobId, STEP_BYTES};
use crate::record::{Kind, RecordHeader, step_of};
use crate::verify::{Fault, Finding, PieceName, Verdict};

const LIST_COUNT: usize = 1_024;

/// Sequences are looked through in so many parts, so that what is sorted by them is small.
const SEQUENCE_PARTS: u64 = 64;

pub(super) struct Seen {
    fingerprinter: Fingerprinter,
    lists: Vec<Vec<Row>>,
    /// The blobs that rows name, by the order in which they were read.
    blobs: Vec<BlobId>,
    last_sequence: u64,
    pub(super) verdict: Verdict,
}

/// A record. In the order of names, and of one name's sequences.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Row {
    /// High and low half: nothing here is longer than 4 bytes, so that a row has no gaps.
    fingerprint: [u32; 2],
    sequence: [u32; 2],
    /// Position in `blobs`.
    blob: u32,
    step: u32,
    /// Length of the body, and above it the kind and whether the record passes all checks.
    body: u32,
}

const _: () = assert!(size_of::<Row>() == 28);

const BODY_MASK: u32 = (1 << 24) - 1;
const IS_INTACT: u32 = 1 << 31;
const KIND_AT: u32 = 24;

const _: () = assert!(BODY_BYTES_MAX <= BODY_MASK as u64);

impl Row {
    fn fingerprint(&self) -> u64 {
        join(self.fingerprint)
    }

    fn sequence(&self) -> u64 {
        join(self.sequence)
    }

    fn is(&self, kind: Kind) -> bool {
        self.body >> KIND_AT & 0x7f == kind as u32
    }

    fn is_mark(&self) -> bool {
        self.is(Kind::Trash) || self.is(Kind::Restore)
    }
}

fn split(word: u64) -> [u32; 2] {
    [(word >> 32) as u32, word as u32]
}

fn join([high, low]: [u32; 2]) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

fn list_of(fingerprint: u64) -> usize {
    (fingerprint >> 54) as usize
}

const _: () = assert!(LIST_COUNT == 1 << (64 - 54));

/// What counts of a name.
struct Latest {
    sequence: u64,
    body_len: u64,
    is_piece: bool,
    /// Whether one record of this sequence passes all checks.
    is_intact: bool,
    is_trashed: bool,
}

impl Latest {
    /// By all rows of a name, in their order; `None` if none is a piece or a tombstone.
    fn of(rows: &[Row]) -> Option<Self> {
        let base = rows.iter().rfind(|row| !row.is_mark())?;
        let sequence = base.sequence();
        // One record twice, moved by compaction: one good copy is enough.
        let mut copies = rows
            .iter()
            .filter(|row| !row.is_mark() && row.sequence() == sequence);
        let mark = rows.iter().rfind(|row| row.is_mark());
        Some(Self {
            sequence,
            body_len: u64::from(base.body & BODY_MASK),
            is_piece: base.is(Kind::Piece),
            is_intact: copies.any(|row| row.body & IS_INTACT != 0),
            is_trashed: mark.is_some_and(|mark| mark.is(Kind::Trash) && mark.sequence() > sequence),
        })
    }
}

impl Seen {
    pub(super) fn new(fingerprinter: Fingerprinter, verdict: Verdict) -> Self {
        Self {
            fingerprinter,
            lists: vec![Vec::new(); LIST_COUNT],
            blobs: Vec::new(),
            last_sequence: 0,
            verdict,
        }
    }

    pub(super) fn find(&mut self, blob: BlobId, offset: u64, len: u64, fault: Fault) {
        self.verdict.findings.push(Finding {
            blob,
            offset,
            len,
            fault,
            piece: None,
            is_lost: false,
            sequence: 0,
        });
    }

    /// A fault in a record whose header is known.
    pub(super) fn find_in(
        &mut self,
        header: &BlobHeader,
        offset: u64,
        record: &RecordHeader,
        fault: Fault,
    ) {
        let satellite = header.satellites.get(usize::from(record.satellite_slot));
        let piece = satellite.map(|satellite| PieceName {
            satellite: *satellite,
            id: record.id,
            body_len: u64::from(record.body_len),
        });
        self.verdict.findings.push(Finding {
            blob: header.blob,
            offset,
            len: record.record_len(),
            fault,
            piece,
            is_lost: false,
            sequence: record.sequence,
        });
    }

    pub(super) fn accept(
        &mut self,
        header: &BlobHeader,
        offset: u64,
        record: &RecordHeader,
        is_intact: bool,
    ) {
        let Some(satellite) = header.satellites.get(usize::from(record.satellite_slot)) else {
            return;
        };
        if self.blobs.last() != Some(&header.blob) {
            self.blobs.push(header.blob);
        }
        self.last_sequence = self.last_sequence.max(record.sequence);
        let fingerprint = self.fingerprinter.of(satellite, &record.id);
        let list = &mut self.lists[list_of(fingerprint)];
        if list.len() == list.capacity() {
            list.reserve_exact(list.len() / 4 + 4);
        }
        list.push(Row {
            fingerprint: split(fingerprint),
            sequence: split(record.sequence),
            blob: (self.blobs.len() - 1) as u32,
            step: step_of(offset),
            body: (record.body_len & BODY_MASK)
                | (record.kind as u32) << KIND_AT
                | if is_intact { IS_INTACT } else { 0 },
        });
    }

    pub(super) fn settle(mut self) -> Verdict {
        for list in &mut self.lists {
            list.sort_unstable();
        }
        self.find_shared_sequences();
        let verdict = &mut self.verdict;
        for list in &self.lists {
            for rows in list.chunk_by(|one, other| one.fingerprint == other.fingerprint) {
                if let Some(latest) = Latest::of(rows)
                    && latest.is_piece
                    && latest.is_intact
                {
                    verdict.pieces += 1;
                    verdict.trashed_pieces += u64::from(latest.is_trashed);
                    verdict.piece_bytes += latest.body_len;
                }
            }
        }
        for finding in &mut verdict.findings {
            let Some(piece) = finding.piece else { continue };
            let fingerprint = self.fingerprinter.of(&piece.satellite, &piece.id);
            let list = &self.lists[list_of(fingerprint)];
            let start = list.partition_point(|row| row.fingerprint() < fingerprint);
            let count = list[start..].partition_point(|row| row.fingerprint() == fingerprint);
            finding.is_lost = Latest::of(&list[start..start + count]).is_some_and(|latest| {
                latest.is_piece && !latest.is_intact && latest.sequence == finding.sequence
            });
        }
        verdict
            .findings
            .sort_by_key(|finding| (finding.blob, finding.offset));
        self.verdict
    }

    /// Names the sequences that records of several names have.
    fn find_shared_sequences(&mut self) {
        let part_len = self.last_sequence / SEQUENCE_PARTS + 1;
        for part in 0..SEQUENCE_PARTS {
            let rows = self.lists.iter().flatten();
            let rows = rows.filter(|row| row.sequence() / part_len == part);
            let mut rows: Vec<_> = rows
                .map(|row| (row.sequence, row.fingerprint, row.blob, row.step))
                .collect();
            rows.sort_unstable();
            for pair in rows.windows(2) {
                let [first, second] = pair else { continue };
                if first.0 == second.0 && first.1 != second.1 {
                    let blob = self.blobs[second.2 as usize];
                    let offset = u64::from(second.3) * STEP_BYTES as u64;
                    let fault = Fault::SequenceTwice(join(second.0));
                    self.find(blob, offset, 0, fault);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::header::ExpiryClass;

    fn header() -> BlobHeader {
        BlobHeader {
            class: ExpiryClass::of(0, 0),
            node_id: [1; 32],
            blob: BlobId(7),
            created_s: 0,
            salt: [2; 32],
            satellites: vec![[3; 32]],
        }
    }

    fn record(key: u64, sequence: u64, kind: Kind) -> RecordHeader {
        let mut id = [0; 32];
        id[..8].copy_from_slice(&key.to_le_bytes());
        RecordHeader {
            kind,
            path_len: 0,
            satellite_slot: 0,
            body_len: if kind == Kind::Piece { 1_000 } else { 0 },
            id,
            created_s: 0,
            expiry_s: 0,
            sequence,
        }
    }

    fn seen() -> Seen {
        Seen::new(Fingerprinter::new([4; 32], 64), Verdict::default())
    }

    #[test]
    fn a_record_takes_few_bytes_of_memory() {
        let mut seen = seen();
        for key in 0..200_000 {
            seen.accept(
                &header(),
                64 * (key + 200),
                &record(key, key + 1, Kind::Piece),
                true,
            );
        }
        let places: usize = seen.lists.iter().map(Vec::capacity).sum();
        let bytes = (places * size_of::<Row>()) as f64 / 200_000.0;
        assert!(bytes <= 36.0, "{bytes}");
        let verdict = seen.settle();
        assert_eq!(
            (verdict.pieces, verdict.piece_bytes),
            (200_000, 200_000_000)
        );
        assert_eq!(verdict.findings, []);
    }

    #[test]
    fn the_highest_sequence_counts_with_its_mark_and_one_good_copy() {
        use Kind::{Piece, Restore, Tombstone, Trash};
        // What is there, and then how many pieces count and how many of them are trashed.
        type Case<'a> = (&'a [(u64, Kind, bool)], (u64, u64));
        let cases: [Case<'_>; 8] = [
            (&[(1, Piece, true), (2, Tombstone, true)], (0, 0)),
            (&[(3, Piece, true), (2, Tombstone, true)], (1, 0)),
            (&[(1, Piece, true), (2, Trash, true)], (1, 1)),
            (
                &[(1, Piece, true), (2, Trash, true), (3, Restore, true)],
                (1, 0),
            ),
            (&[(4, Piece, true), (2, Trash, true)], (1, 0)),
            (&[(1, Piece, false), (1, Piece, true)], (1, 0)),
            (&[(1, Piece, true), (5, Piece, false)], (0, 0)),
            (&[(2, Trash, true)], (0, 0)),
        ];
        for (records, wanted) in cases {
            let mut seen = seen();
            for (at, &(sequence, kind, is_intact)) in records.iter().enumerate() {
                let offset = 64 * (at as u64 + 200);
                seen.accept(&header(), offset, &record(9, sequence, kind), is_intact);
            }
            let verdict = seen.settle();
            assert_eq!(
                (verdict.pieces, verdict.trashed_pieces),
                wanted,
                "{records:?}"
            );
        }
    }

    #[test]
    fn a_sequence_of_two_names_is_found_wherever_it_lies() {
        for sequence in [0, 1, 63, 64, 5_000, u64::MAX] {
            let mut seen = seen();
            for (key, offset) in [(1, 12_800), (2, 64_000)] {
                seen.accept(&header(), offset, &record(key, sequence, Kind::Piece), true);
            }
            seen.accept(
                &header(),
                9_600,
                &record(3, sequence / 2 + 7, Kind::Piece),
                true,
            );
            let verdict = seen.settle();
            let [finding] = &verdict.findings[..] else {
                panic!("{:?}", verdict.findings);
            };
            assert_eq!(finding.fault, Fault::SequenceTwice(sequence));
            assert_eq!(finding.blob, BlobId(7));
            assert!([12_800, 64_000].contains(&finding.offset));
        }
    }
}
