//! The read path: find a record, confirm that it is the piece asked for, verify what is handed out.
//!
//! Nothing here trusts a byte of the disk: damage is an answer ([`GetError::Corrupt`] names what), never a panic.

use std::ops::Range;
use std::rc::Rc;

use bytes::Bytes;

use crate::blobs::Blob;
use crate::buffer::IoBuffer;
use crate::bug::{self, Bug};
use crate::disk::{Disk, DiskError};
use crate::error::{Damage, GetError};
use crate::fused;
use crate::header::ExpiryClass;
use crate::index::{Entry, Place};
use crate::layout::{self, RECORD_HEADER_BYTES, SHARE_BYTES};
use crate::names::Name;
use crate::piece::Piece;
use crate::record::{Found, Kind, RecordHeader, Trailer};
use crate::states::{Known, State};
use crate::store::Store;

/// A record up to this long is read whole when its piece is looked up, so that it costs one read and not three: a disk has fewer reads
/// to give than bytes.
const WHOLE_READ_BYTES_MAX: u64 = 128 * 1_024;

// A one-share piece's root is computed from its body when it is looked up.
const _: () = assert!(
    (SHARE_BYTES + RECORD_HEADER_BYTES + 4 + 8 * 32 + 36) as u64 * 9 / 8 <= WHOLE_READ_BYTES_MAX
);

/// Times that a piece is looked for which moves meanwhile.
const LOOKUPS_MAX: usize = 8;

/// What is known of one (satellite, piece id).
#[derive(Default)]
pub(crate) struct Lookup {
    /// The piece, if its newest readable record is whole.
    pub(crate) piece: Option<Piece>,
    /// Index entries whose records are certainly this piece's.
    pub(crate) confirmed: Vec<Confirmed>,
    /// Those of them that are damaged.
    damaged: Vec<(Known, Damage)>,
    /// Damage met on the way.
    pub(crate) error: Option<GetError>,
    /// Records that could not be read, and may be this piece's.
    unknown: Vec<(Entry, GetError)>,
}

impl Lookup {
    /// The records that are certainly this piece's.
    pub(crate) fn known(&self) -> Vec<Known> {
        let confirmed = self.confirmed.iter();
        confirmed.map(|confirmed| confirmed.known).collect()
    }
}

/// A record that is certainly this piece's.
#[derive(Clone, Copy)]
pub(crate) struct Confirmed {
    pub(crate) known: Known,
    pub(crate) class: ExpiryClass,
}

/// What is wanted of the records of a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Search {
    /// The newest whole one.
    Piece,
    /// All of them, by their headers alone.
    Records,
}

enum Loaded {
    /// Another piece with the same fingerprint.
    Other,
    /// The piece's, by its header.
    Known(Confirmed),
    Whole(Box<Piece>, Confirmed),
    /// The piece's, but its trailer (or only share) is damaged.
    Damaged(Confirmed, Damage),
    /// Nobody knows whose.
    Unknown(GetError),
    /// Compaction has moved it meanwhile.
    Moved,
}

/// A record that is looked up, and whose it should be.
struct Wanted<'a, F> {
    blob: &'a Blob<F>,
    entry: Entry,
    state: State,
    satellite: &'a [u8; 32],
    id: &'a [u8; 32],
}

impl<F> Wanted<'_, F> {
    /// Whether it is read whole.
    fn is_small(&self) -> bool {
        self.entry.record_len_max() <= WHOLE_READ_BYTES_MAX
    }

    /// The header at the beginning of `bytes`, if it is the piece's; what the record is otherwise.
    fn identify(&self, bytes: &[u8]) -> Result<(RecordHeader, Confirmed), Box<Loaded>> {
        let (blob, place) = (self.blob, self.entry.place());
        let header = match RecordHeader::parse(bytes, &blob.check, blob.id, place.offset) {
            Some(Found::Record(header)) if header.kind == Kind::Piece => header,
            _ => {
                let error = corrupt(blob, place, Damage::RecordHeader);
                return Err(Box::new(Loaded::Unknown(error)));
            }
        };
        let satellites = &blob.header.satellites;
        let satellite = satellites.get(usize::from(header.satellite_slot));
        let is_same = header.id == *self.id || bug::is_planted(Bug::IdUnchecked);
        if !is_same || satellite != Some(self.satellite) {
            return Err(Box::new(Loaded::Other));
        }
        let confirmed = Confirmed {
            known: Known {
                entry: self.entry,
                body_len: u64::from(header.body_len),
                expiry_s: header.expiry_s,
                sequence: header.sequence,
            },
            class: blob.class,
        };
        match self.state {
            State::Damaged(damage) => Err(Box::new(Loaded::Damaged(confirmed, damage))),
            _ => Ok((header, confirmed)),
        }
    }

    /// The piece, from its parts.
    fn assemble(
        &self,
        header: &RecordHeader,
        confirmed: Confirmed,
        trailer: Option<Trailer>,
        body: Option<Bytes>,
    ) -> Loaded {
        let Some(trailer) = trailer else {
            return Loaded::Damaged(confirmed, Damage::Trailer);
        };
        let root = match (trailer.root, &body) {
            (Some(root), _) => root,
            (None, Some(body)) if crc32fast::hash(body) == trailer.crcs[0] => {
                blake3::hash(body).into()
            }
            _ => return Loaded::Damaged(confirmed, Damage::Share(0)),
        };
        let piece = Piece {
            satellite: *self.satellite,
            id: *self.id,
            body_len: u64::from(header.body_len),
            root,
            path: trailer.path,
            commitment: trailer.commitment,
            share_hashes: trailer.share_hashes,
            created_s: header.created_s,
            expiry_s: header.expiry_s,
            trashed_s: match self.state {
                State::Trash(since_s) => Some(since_s),
                _ => None,
            },
            sequence: header.sequence,
            class: self.blob.class,
            place: self.entry.place(),
            crcs: trailer.crcs,
            body,
        };
        Loaded::Whole(Box::new(piece), confirmed)
    }
}

/// Bytes of a blob that were read in whole blocks.
pub(crate) struct Span {
    buffer: IoBuffer,
    skip: usize,
    len: usize,
}

impl Span {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.buffer[self.skip..self.skip + self.len]
    }

    pub(crate) fn into_bytes(self) -> Bytes {
        let range = self.skip..self.skip + self.len;
        Bytes::from_owner(self.buffer).slice(range)
    }
}

impl<D: Disk> Store<D> {
    /// Finds a piece: reads and verifies its header and trailer, and confirms its identity.
    ///
    /// `now_s` is the satellite's time, seconds since 1970: what has expired by it, or was in the trash for 7 days, is not there. A
    /// caller that does not know the time gives 0. A trashed piece that somebody reads comes back: its restore record is
    /// queued, the read does not wait for it, and [`take_revived`](Self::take_revived) names it.
    ///
    /// # Errors
    ///
    /// [`GetError::NotFound`]; [`GetError::Corrupt`] if its record is damaged; [`GetError::Disk`] if the disk fails the read.
    pub async fn piece(
        &self,
        satellite: &[u8; 32],
        id: &[u8; 32],
        now_s: u32,
    ) -> Result<Piece, GetError> {
        let mut lookup = self.look_up(satellite, id, Search::Piece).await;
        if lookup.piece.is_some() {
            self.tell_unknown(&mut lookup, satellite, id).await?;
        }
        if let Some(piece) = lookup.piece {
            if piece.is_gone(now_s) {
                return Err(GetError::NotFound);
            }
            if piece.trashed_s.is_some() {
                self.revive(&piece, now_s);
            }
            return Ok(piece);
        }
        for (known, damage) in &lookup.damaged {
            self.take_out_of_service((*satellite, *id), known, *damage);
        }
        let error = lookup.error.unwrap_or(GetError::NotFound);
        self.note_damage(error);
        Err(error)
    }

    /// Reads shares of a piece, the CRC of each one checked before any byte is handed out.
    ///
    /// # Errors
    ///
    /// [`GetError::Range`] if the piece has no such shares; [`GetError::Corrupt`] naming the first damaged share; [`GetError::Disk`].
    pub async fn read_shares(&self, piece: &Piece, shares: Range<u32>) -> Result<Bytes, GetError> {
        let share_count = piece.share_count();
        if shares.start >= shares.end || shares.end > share_count {
            return Err(GetError::Range {
                start: shares.start,
                end: shares.end,
                share_count,
            });
        }
        let start = u64::from(shares.start) * SHARE_BYTES as u64;
        let end = (u64::from(shares.end) * SHARE_BYTES as u64).min(piece.body_len);
        let Some(blob) = self.blob(piece.place) else {
            return self.read_moved(piece, shares).await;
        };
        let offset = piece.place.offset + RECORD_HEADER_BYTES as u64 + start;
        if piece.body.is_none() {
            let crcs = &piece.crcs[shares.start as usize..shares.end as usize];
            let len = (end - start) as usize;
            if let Some(bytes) = self.copy_resident(&blob, offset, len, crcs) {
                let count = u64::from(shares.end - shares.start);
                self.count(|counters| counters.shares_read += count);
                self.count(|counters| counters.shares_from_memory += count);
                return Ok(bytes);
            }
            let record_len = layout::piece_record_len(piece.body_len, piece.path.len());
            self.note_read(&blob, piece.place, record_len);
        }
        let part = |body: &Bytes| body.slice(start as usize..end as usize);
        let mut known = piece.body.as_ref().map(part);
        let mut is_again = false;
        loop {
            let bytes = match known.take() {
                Some(bytes) => bytes,
                None => match self.read_span(&blob, offset, end - start).await {
                    Ok(span) => span.into_bytes(),
                    Err(_) if self.blob(piece.place).is_none() => {
                        return self.read_moved(piece, shares).await;
                    }
                    Err(error) => return Err(error.into()),
                },
            };
            let Some(share) = piece.first_bad_share(shares.clone(), &bytes) else {
                self.count(|counters| counters.shares_read += u64::from(shares.end - shares.start));
                return Ok(bytes);
            };
            // A disk may have given the bytes of another place: what fails is read once more.
            if is_again || bug::is_planted(Bug::MisreadBelieved) {
                let damage = Damage::Share(share);
                // The other shares are still served until a scrub or compaction comes by: they may be what somebody lacks.
                let name = (piece.satellite, piece.id);
                self.lost.borrow_mut().push(name, damage);
                let error = corrupt(&blob, piece.place, damage);
                self.note_damage(error);
                return Err(error);
            }
            is_again = true;
        }
    }

    /// Reads shares of a piece that compaction has moved since it was looked up.
    async fn read_moved(&self, piece: &Piece, shares: Range<u32>) -> Result<Bytes, GetError> {
        let moved = self.piece(&piece.satellite, &piece.id, 0).await?;
        let is_same = (moved.root, moved.commitment) == (piece.root, piece.commitment);
        if !is_same || self.blob(moved.place).is_none() {
            return Err(GetError::NotFound);
        }
        Box::pin(self.read_shares(&moved, shares)).await
    }

    /// Finds out whose the records are that could not be read, from footers and lists; those of this piece are certain then. They are newer
    /// than a piece that was found, and may be another, put when the disk did not read this one: that piece is none then.
    ///
    /// # Errors
    ///
    /// Why a record could not be read whose blob's list cannot be read either.
    pub(crate) async fn tell_unknown(
        &self,
        lookup: &mut Lookup,
        satellite: &[u8; 32],
        id: &[u8; 32],
    ) -> Result<(), GetError> {
        for (entry, error) in std::mem::take(&mut lookup.unknown) {
            let place = entry.place();
            let Some(blob) = self.blob(place) else {
                continue;
            };
            let records = self.records_of(&blob).await;
            let found = records.as_ref().and_then(|records| {
                let at = records.binary_search_by_key(&place.offset, |entry| entry.offset);
                at.ok().map(|at| &records[at])
            });
            let Some(found) = found else {
                return Err(error);
            };
            if found.record.id == *id && blob.satellite_of(&found.record) == *satellite {
                let (known, class) = (blob.known(found), blob.class);
                lookup.confirmed.push(Confirmed { known, class });
                lookup.piece = None;
            }
        }
        Ok(())
    }

    /// Reads the records that may be this piece, newest first.
    pub(crate) async fn look_up(
        &self,
        satellite: &[u8; 32],
        id: &[u8; 32],
        search: Search,
    ) -> Lookup {
        let fingerprint = self.fingerprinter.of(satellite, id);
        // A piece that compaction moves while it is looked for is looked for again. It moves at most once in the time of a few
        // reads, so the bound is never met.
        for _ in 0..LOOKUPS_MAX {
            let candidates = self.candidates(fingerprint);
            if let Some(lookup) = self.try_candidates(candidates, satellite, id, search).await {
                return lookup;
            }
        }
        Lookup::default()
    }

    /// `None` if one of them was moved meanwhile.
    async fn try_candidates(
        &self,
        candidates: Vec<(Entry, State)>,
        satellite: &[u8; 32],
        id: &[u8; 32],
        search: Search,
    ) -> Option<Lookup> {
        let mut lookup = Lookup::default();
        for (entry, state) in candidates {
            let mut loaded = self.load(entry, state, satellite, id, search).await;
            let is_final =
                matches!(state, State::Damaged(_)) || bug::is_planted(Bug::MisreadBelieved);
            if !is_final && matches!(loaded, Ok(Loaded::Damaged(..) | Loaded::Unknown(_))) {
                // A disk may have given the bytes of another place.
                loaded = self.load(entry, state, satellite, id, search).await;
            }
            match loaded {
                Ok(Loaded::Other) => {}
                Ok(Loaded::Moved) => return None,
                Ok(Loaded::Known(confirmed)) => lookup.confirmed.push(confirmed),
                Ok(Loaded::Whole(piece, confirmed)) => {
                    lookup.confirmed.push(confirmed);
                    lookup.piece.get_or_insert(*piece);
                    if search == Search::Piece {
                        break;
                    }
                }
                Ok(Loaded::Damaged(confirmed, damage)) => {
                    lookup.confirmed.push(confirmed);
                    lookup.damaged.push((confirmed.known, damage));
                    if let Some(blob) = self.blob(entry.place()) {
                        let error = corrupt(&blob, entry.place(), damage);
                        lookup.error.get_or_insert(error);
                    }
                }
                Ok(Loaded::Unknown(error)) => {
                    lookup.unknown.push((entry, error));
                    lookup.error.get_or_insert(error);
                }
                // Its file has gone meanwhile.
                Err(_) if self.blob(entry.place()).is_none() => return None,
                Err(_) if bug::is_planted(Bug::FailedReadIsAbsence) => {}
                Err(error) => {
                    lookup.unknown.push((entry, GetError::Disk(error)));
                    lookup.error.get_or_insert(GetError::Disk(error));
                }
            }
        }
        Some(lookup)
    }

    async fn load(
        &self,
        entry: Entry,
        state: State,
        satellite: &[u8; 32],
        id: &[u8; 32],
        search: Search,
    ) -> Result<Loaded, DiskError> {
        let place = entry.place();
        let Some(blob) = self.blob(place) else {
            return Ok(Loaded::Moved);
        };
        let record = Wanted {
            blob: &blob,
            entry,
            state,
            satellite,
            id,
        };
        if let Some(loaded) = self.load_resident(&record) {
            return Ok(loaded);
        }
        let is_small = record.is_small() && search == Search::Piece;
        let first_len = if is_small {
            entry.record_len_max()
        } else {
            RECORD_HEADER_BYTES as u64
        };
        let first = self.read_span(&blob, place.offset, first_len).await?;
        let (header, confirmed) = match record.identify(first.bytes()) {
            Ok(found) => found,
            Err(loaded) => return Ok(*loaded),
        };
        if search == Search::Records {
            return Ok(Loaded::Known(confirmed));
        }
        let trailer_at = RECORD_HEADER_BYTES as u64 + u64::from(header.body_len);
        if is_small {
            self.note_read(&blob, place, header.record_len());
            let bytes = first.bytes();
            let trailer = header.trailer_of(bytes.get(trailer_at as usize..).unwrap_or_default());
            let has_body = bytes.len() as u64 >= trailer_at;
            let body = has_body.then(|| {
                first
                    .into_bytes()
                    .slice(RECORD_HEADER_BYTES..trailer_at as usize)
            });
            return Ok(record.assemble(&header, confirmed, trailer, body));
        }
        let span = self
            .read_span(&blob, place.offset + trailer_at, header.trailer_len())
            .await?;
        let trailer = header.trailer_of(span.bytes());
        Ok(record.assemble(&header, confirmed, trailer, None))
    }

    /// The same for a record that is in memory. `None` where it is not, or where something is wrong with it, which the disk must say.
    fn load_resident(&self, record: &Wanted<'_, D::File>) -> Option<Loaded> {
        let blob = record.blob;
        let offset = record.entry.place().offset;
        let file_len = blob.sealed_len().filter(|_| self.options.uses_memory)?;
        let len = record
            .entry
            .record_len_max()
            .min(file_len.checked_sub(offset)?);
        let load = |bytes: &[u8]| {
            let (header, confirmed) = match record.identify(bytes) {
                Ok(found) => found,
                Err(loaded) => return *loaded,
            };
            let trailer_at = RECORD_HEADER_BYTES + header.body_len as usize;
            let trailer = header.trailer_of(bytes.get(trailer_at..).unwrap_or_default());
            let body = bytes.get(RECORD_HEADER_BYTES..trailer_at);
            // The root of a one-share piece is that of its body. Of others nobody may want it.
            let body = body
                .filter(|body| body.len() <= SHARE_BYTES)
                .map(Bytes::copy_from_slice);
            record.assemble(&header, confirmed, trailer, body)
        };
        let loaded = self
            .disk
            .look(&blob.file, file_len, offset, len as usize, load)?;
        matches!(loaded, Loaded::Whole(..) | Loaded::Other).then_some(loaded)
    }

    /// Copies shares that are in memory, and checks the copy. `None` where they are not, or one is not what it should be.
    fn copy_resident(
        &self,
        blob: &Blob<D::File>,
        offset: u64,
        len: usize,
        crcs: &[u32],
    ) -> Option<Bytes> {
        let file_len = blob.sealed_len().filter(|_| self.options.uses_memory)?;
        let mut buffer = IoBuffer::for_overwriting(len);
        let copy = |bytes: &[u8]| {
            let mut rest = bytes;
            let shares = buffer[..bytes.len()].chunks_mut(SHARE_BYTES);
            shares.zip(crcs).all(|(share, crc)| {
                let is_right = fused::copy_and_check(rest, share) == *crc;
                rest = &rest[share.len()..];
                is_right
            })
        };
        let is_right = self.disk.look(&blob.file, file_len, offset, len, copy)?;
        (is_right || bug::is_planted(Bug::MemoryUnchecked))
            .then(|| Bytes::from_owner(buffer).slice(..len))
    }

    /// Asks for memory for a record of a sealed blob that was read from the disk, if it was read before.
    fn note_read(&self, blob: &Blob<D::File>, place: Place, record_len: u64) {
        let Some(file_len) = blob.sealed_len().filter(|_| self.options.uses_memory) else {
            return;
        };
        if self.recent.borrow_mut().note(place) {
            // What a lookup looks at: up to an eighth more than the record.
            let len_max = Entry::new(place, record_len).record_len_max();
            let len = len_max.min(file_len.saturating_sub(place.offset));
            self.disk
                .bring_to_memory(&blob.file, file_len, place.offset, len as usize);
        }
    }

    /// Reads `len` bytes at `offset`, in whole blocks; fewer if the file ends before.
    pub(crate) async fn read_span(
        &self,
        blob: &Blob<D::File>,
        offset: u64,
        len: u64,
    ) -> Result<Span, DiskError> {
        let start = layout::block_of(offset);
        let skip = (offset - start) as usize;
        let buffer = IoBuffer::for_overwriting(skip + len as usize);
        let (result, buffer) = self.disk.read(&blob.file, start, buffer).await;
        assert!(result.is_ok() || !bug::is_planted(Bug::FailedReadPanics));
        let available = result?.min(buffer.len()).saturating_sub(skip);
        Ok(Span {
            buffer,
            skip,
            len: available.min(len as usize),
        })
    }

    /// `None` if compaction has removed it.
    pub(crate) fn blob(&self, place: Place) -> Option<Rc<Blob<D::File>>> {
        self.blobs.borrow()[place.slot as usize].clone()
    }

    /// Takes a damaged piece out of service, unless something else happens to it right now.
    fn take_out_of_service(&self, name: Name, known: &Known, damage: Damage) {
        let fingerprint = self.fingerprinter.of(&name.0, &name.1);
        if let Some(_guard) = self.locks.try_lock(fingerprint) {
            self.lose(fingerprint, name, known, damage);
        }
    }

    /// The same for whoever holds the piece's lock. False if it was not in service.
    pub(crate) fn lose(&self, fingerprint: u64, name: Name, known: &Known, damage: Damage) -> bool {
        match self.state_of(fingerprint, known.entry) {
            Some(State::Live | State::Trash(_)) => {}
            _ => return false,
        }
        self.change(fingerprint, known, State::Damaged(damage));
        self.count(|counters| counters.pieces_lost += 1);
        self.lost.borrow_mut().push(name, damage);
        true
    }

    /// Pieces found damaged by reads, scrub and compaction since the last call, satellite and piece id of each; at most 4,096, and
    /// [`lost_overflow`](Self::lost_overflow) counts the others.
    pub fn take_lost(&self) -> Vec<Name> {
        let lost = self.lost.borrow_mut().take();
        lost.into_iter().map(|(name, _)| name).collect()
    }

    /// Damaged pieces that [`take_lost`](Self::take_lost) had no place for since the store was opened.
    #[must_use]
    pub fn lost_overflow(&self) -> u64 {
        self.lost.borrow().overflow_count
    }

    fn note_damage(&self, error: GetError) {
        if matches!(error, GetError::Corrupt { .. }) {
            self.count(|counters| counters.corrupt_reads += 1);
        }
    }
}

fn corrupt<F>(blob: &Blob<F>, place: Place, what: Damage) -> GetError {
    GetError::Corrupt {
        what,
        blob: blob.id,
        offset: place.offset,
    }
}
