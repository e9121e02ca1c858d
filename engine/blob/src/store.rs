//! The store: what a node calls. Opening, admission, and the order in which operations on one piece happen.
//!
//! Operations on one piece take turns; on different pieces they run side by side. A put or delete whose caller goes away while it is
//! queued is still finished. Committing is in `commit`, reading in `read`, opening in `recover`.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use crate::aside::Aside;
use crate::blobs::{OpenBlobs, Slots};
use crate::bug::{self, Bug};
use crate::checkpoint::{Checkpoints, Wanted};
use crate::counters::StoreCounters;
use crate::disk::Disk;
use crate::displaced::Displaced;
use crate::doubted::Doubted;
use crate::early::WantedSeal;
use crate::error::{Damage, GetError, OpenError, PutError};
use crate::fingerprint::Fingerprinter;
use crate::footer::{BLOB_RECORDS_MAX, FooterEntry};
use crate::header::ExpiryClass;
use crate::index::Index;
use crate::layout::{self, BLOCK_BYTES, BlobId, GROUP_HEADER_BYTES, SATELLITES_MAX};
use crate::marks::{self, Mark, Order};
use crate::names::Names;
use crate::piece::{NewPiece, Stored};
use crate::poison::{Poison, PoisonCause};
use crate::progress::OpenProgress;
use crate::queue::{Item, Queues, Work};
use crate::read::Search;
use crate::recent::RecentReads;
use crate::record::Kind;
use crate::recover::{self, Recovery, Rot};
use crate::revive::Revivals;
use crate::room::COMMIT_OVERHEAD_BYTES;
use crate::space::Space;
use crate::states::{Hurt, Trashed};
use crate::wait::{Event, KeyLocks};

/// How a store behaves. Nothing of it is on disk.
#[derive(Clone, Copy, Debug)]
pub struct StoreOptions {
    /// Whose directory this is.
    pub node_id: [u8; 32],
    /// Most bytes that the blob files may take together. Tombstones may exceed it: a full node can still delete.
    pub capacity_bytes: u64,
    /// A blob that would grow beyond this is closed and another one begun. A blob takes at least one group.
    pub blob_bytes_max: u64,
    /// A commit group takes no further record that would make it longer than this.
    pub group_bytes_max: usize,
    /// Zeros written behind a small group, for the next small ones to overwrite; 0 for none.
    pub ahead_bytes: u64,
    /// Blobs of one expiry class that may take groups at the same time: 1 or 2. The second is used while much waits; on a disk that seeks
    /// one is better.
    pub lanes_max: u8,
    /// A sealed blob of which at most this share, in percent, is worth keeping is compacted.
    pub compact_live_percent_max: u8,
    /// The same while the disk is quiet and much of it is dead.
    pub quiet_live_percent_max: u8,
    /// Dead bytes between two pieces that compaction reads rather than begin another read: few, or many on a disk that seeks.
    pub compact_gap_bytes_max: u64,
    /// A blob of so many records takes no more; at most 32,768, which bounds the memory that an open blob takes.
    pub blob_records_max: u32,
    /// Read everything anew, as if there were no checkpoint. It is then removed before anything is written.
    pub ignores_checkpoint: bool,
    /// Blobs that are appended to at a time: 4, one for each expiry class; 2 where a disk's head would have to go from one to
    /// the other, or 1. Pieces of several classes then share blobs, of the class of those that live longest.
    pub append_points_max: u8,
    /// Serve bodies of sealed blobs from memory where they are, and bring there what is read repeatedly.
    pub uses_memory: bool,
    /// Bits of the index's fingerprints: 64. Fewer only to make them collide in a test.
    pub danger_fingerprint_bits: u32,
}

impl StoreOptions {
    /// Blobs of a 64th of the capacity, from 64 MiB to 1 GiB, or 32,768 records; groups of 2 MiB.
    ///
    /// Small stores get small blobs because a blob is dead, moved and given back as a whole.
    #[must_use]
    pub fn new(node_id: [u8; 32], capacity_bytes: u64) -> Self {
        Self {
            node_id,
            capacity_bytes,
            ahead_bytes: 64 << 10,
            blob_bytes_max: (capacity_bytes / 64).clamp(64 << 20, 1 << 30),
            blob_records_max: BLOB_RECORDS_MAX,
            compact_live_percent_max: 60,
            quiet_live_percent_max: 85,
            compact_gap_bytes_max: 32 << 10,
            lanes_max: 2,
            group_bytes_max: 2 << 20,
            ignores_checkpoint: false,
            append_points_max: ExpiryClass::COUNT as u8,
            uses_memory: true,
            danger_fingerprint_bits: 64,
        }
    }
}

/// Where new blobs get their salts from: one secret drawn when the store is opened.
#[derive(Clone, Copy)]
pub(crate) struct Salts {
    seed: [u8; 32],
}

impl Salts {
    pub(crate) fn of(&self, blob: BlobId) -> [u8; 32] {
        blake3::keyed_hash(&self.seed, &blob.0.to_le_bytes()).into()
    }
}

/// One node's pieces on one disk.
pub struct Store<D: Disk> {
    pub(crate) disk: D,
    pub(crate) options: StoreOptions,
    pub(crate) fingerprinter: Fingerprinter,
    pub(crate) salts: Salts,
    pub(crate) index: RefCell<Index>,
    /// Piece records on disk that no longer count. A tombstone is needed for as long as one of them is there.
    pub(crate) dead: RefCell<Index>,
    /// Trashed pieces. None of them is in `index`.
    pub(crate) trash: RefCell<Aside<Trashed>>,
    /// Pieces out of service, with what failed its check. None of them is in `index`.
    pub(crate) damaged: RefCell<Aside<Hurt>>,
    /// Pieces that the next opening may find deleted or in the trash, by a record whose write failed.
    pub(crate) doubted: RefCell<Doubted>,
    pub(crate) revivals: Revivals,
    pub(crate) lost: RefCell<Names<Damage>>,
    /// The records of the sealed blob that is being scrubbed.
    pub(crate) scrubbed: RefCell<Option<(BlobId, Rc<Vec<FooterEntry>>)>>,
    /// By slot. `None`: the blob was removed; slots are not used again.
    pub(crate) blobs: RefCell<Slots<D::File>>,
    /// The blob that takes the next group, per expiry class.
    pub(crate) open_blobs: RefCell<OpenBlobs<D::File>>,
    /// The table of the next blob; holds the tables of all others.
    pub(crate) satellites: RefCell<Vec<[u8; 32]>>,
    /// Blobs that were found displaced and whose pieces are not yet out of service.
    pub(crate) displaced: RefCell<Displaced<D::File>>,
    pub(crate) next_blob: Cell<u64>,
    pub(crate) next_sequence: Cell<u64>,
    pub(crate) now_s: Cell<u32>,
    pub(crate) locks: Rc<KeyLocks>,
    /// What waits to be written, per expiry class.
    pub(crate) queues: RefCell<Queues>,
    pub(crate) work: Event,
    pub(crate) is_running: Cell<bool>,
    pub(crate) is_closing: Cell<bool>,
    pub(crate) is_compacting: Cell<bool>,
    pub(crate) stopped: Event,
    pub(crate) poison: Poison,
    /// A failed write, or a block that could not be read, may hold records that the index lacks: see [`Store::delete`].
    pub(crate) has_failed_writes: Cell<bool>,
    /// A record was written that may outrank one that could not be read: the index may name what does not count. Or nobody knows whether a
    /// blob that was to be removed is there. An opening finds out.
    pub(crate) is_index_behind: Cell<bool>,
    /// Records may lie where the opening found rot.
    pub(crate) has_rot: bool,
    /// What the opening found damaged.
    pub(crate) rotten: Vec<Rot>,
    pub(crate) checkpoints: RefCell<Checkpoints<D::File>>,
    pub(crate) wanted_checkpoints: RefCell<Vec<Wanted>>,
    pub(crate) wanted_seals: RefCell<Vec<WantedSeal<D::File>>>,
    /// What an opening would read again: records, and what blobs count for.
    pub(crate) replay_cost: Cell<u64>,
    /// Its one lock is held while what is known must not change, or changes outside the committer.
    pub(crate) stillness: Rc<KeyLocks>,
    pub(crate) recent: RefCell<RecentReads>,
    pub(crate) space: Cell<Space>,
    counters: Cell<StoreCounters>,
}

impl<D: Disk> Store<D> {
    /// Opens the directory: with the newest checkpoint and what was written since, or from the blobs alone.
    ///
    /// Of the blobs that no checkpoint knows it reads the footer, or every record header and the bodies of those records that no later
    /// group calls durable. Needs no more memory than the index, as much again for tombstones alone, and 32 MiB. `random` is asked for 64 bytes: salts of new blobs, and the key of the index.
    ///
    /// # Errors
    ///
    /// If the disk cannot be read, a blob is another node's or a newer release's, or no blob of the checkpoint is there. Other damage
    /// is no error but reported.
    pub async fn open(
        disk: D,
        options: StoreOptions,
        now_s: u32,
        random: &mut dyn FnMut(&mut [u8]),
    ) -> Result<(Rc<Self>, Recovery), OpenError> {
        Self::open_watched(disk, options, now_s, random, &OpenProgress::default()).await
    }

    /// Opens as [`open`](Self::open), and says meanwhile how far it is. It may be dropped at any point: it writes nothing.
    ///
    /// # Errors
    ///
    /// Those of [`open`](Self::open).
    pub async fn open_watched(
        disk: D,
        options: StoreOptions,
        now_s: u32,
        random: &mut dyn FnMut(&mut [u8]),
        progress: &OpenProgress,
    ) -> Result<(Rc<Self>, Recovery), OpenError> {
        let mut salts = Salts { seed: [0; 32] };
        random(&mut salts.seed);
        let mut key = [0; 32];
        random(&mut key);
        let fingerprinter = Fingerprinter::new(key, options.danger_fingerprint_bits);
        let recovered = recover::recover(&disk, &options, fingerprinter, progress).await?;
        let mut open_blobs = recovered.open_blobs;
        // What an earlier run appended to with more classes or lanes takes nothing more; the committer seals it.
        for lanes in &mut open_blobs {
            for (lane, blob) in lanes.iter_mut().enumerate() {
                let class = blob.as_ref().map(|blob| blob.class);
                let stays = class.is_some_and(|class| {
                    class.within(options.append_points_max) == class
                        && lane < usize::from(options.lanes_max.max(1))
                });
                if !stays {
                    *blob = None;
                }
            }
        }
        let store = Self {
            disk,
            options,
            fingerprinter: recovered.fingerprinter,
            salts,
            index: RefCell::new(recovered.index),
            dead: RefCell::new(recovered.dead),
            open_blobs: RefCell::new(open_blobs),
            trash: RefCell::new(recovered.trash),
            damaged: RefCell::default(),
            doubted: RefCell::new(recovered.doubted),
            revivals: Revivals::default(),
            lost: RefCell::default(),
            scrubbed: RefCell::default(),
            blobs: RefCell::new(recovered.blobs.into_iter().map(Some).collect()),
            displaced: RefCell::default(),
            satellites: RefCell::new(recovered.satellites),
            next_blob: Cell::new(recovered.next_blob),
            next_sequence: Cell::new(recovered.next_sequence),
            now_s: Cell::new(now_s),
            locks: Rc::default(),
            queues: RefCell::default(),
            work: Event::default(),
            is_running: Cell::new(false),
            is_closing: Cell::new(false),
            is_compacting: Cell::new(false),
            stopped: Event::default(),
            poison: recovered.poison,
            has_failed_writes: Cell::new(recovered.has_unreadable_blocks),
            is_index_behind: Cell::new(false),
            has_rot: !recovered.report.rotten.is_empty(),
            rotten: recovered.report.rotten.clone(),
            checkpoints: RefCell::new(recovered.checkpoints),
            wanted_checkpoints: RefCell::default(),
            wanted_seals: RefCell::default(),
            replay_cost: Cell::new(recovered.replay_cost),
            stillness: Rc::default(),
            recent: RefCell::default(),
            space: Cell::new(Space {
                capacity_bytes: options.capacity_bytes,
                ..recovered.space
            }),
            counters: Cell::default(),
        };
        Ok((Rc::new(store), recovered.report))
    }

    /// Refuses new puts and deletes, finishes what is queued, attests the last groups, writes a checkpoint, and ends
    /// [`run_commits`](Self::run_commits). Reads go on.
    ///
    /// Trashed pieces that were read come back if nothing else happens to them at this moment; else, and when they are read later, they stay in
    /// the trash until the next read.
    pub async fn close(&self) {
        if !self.is_closing.get() {
            self.push_revivals();
        }
        self.is_closing.set(true);
        self.work.set();
        if self.is_running.get() {
            self.stopped.wait().await;
        } else {
            let waiting = self.queues.borrow_mut().take_all();
            self.refuse(waiting, PutError::Closed);
            self.wanted_checkpoints.take();
            self.wanted_seals.take();
        }
    }

    /// Stores a piece; returns once it is durable.
    ///
    /// Never overwrites: the same id with the same root and commitment is [`Stored::Already`]; if it was in the trash it is
    /// restored first. A stored copy that turns out to be damaged is replaced by the new one, and so is one that
    /// has expired or outlived its days in the trash by the time at which the new one was made, or one whose deletion or trashing
    /// failed: the next opening may find that record. So is every copy after an opening that met blocks which it could not read.
    ///
    /// # Errors
    ///
    /// [`PutError::Conflict`] if another piece has this id; [`PutError::Full`]; [`PutError::ReadOnly`] after a failed write or
    /// sync, also if it is this one's; then nobody knows whether the piece is there until the store is opened again.
    pub async fn put(&self, piece: NewPiece) -> Result<Stored, PutError> {
        self.check_open()?;
        piece.check().map_err(PutError::BadPiece)?;
        let fingerprint = self.fingerprinter.of(&piece.satellite, &piece.id);
        let guard = self.locks.lock(fingerprint).await;
        let mut lookup = self
            .look_up(&piece.satellite, &piece.id, Search::Piece)
            .await;
        // Where it cannot be told, an opening finds out.
        let unread = self
            .tell_unknown(&mut lookup, &piece.satellite, &piece.id)
            .await
            .err();
        let is_behind = unread.is_some();
        let replaced = lookup.known();
        // One that has expired, or whose time in the trash is over, is there no more.
        if let Some(stored) = lookup
            .piece
            .filter(|stored| !stored.is_gone(piece.created_s))
            .filter(|stored| stored.root == piece.root || !bug::is_planted(Bug::ConflictOverwrites))
        {
            if stored.root != piece.root || stored.commitment != piece.commitment {
                // What was not read may be newer: this piece itself, or a tombstone.
                return Err(match unread {
                    Some(GetError::Disk(error)) => error.into(),
                    _ => PutError::Conflict,
                });
            }
            let name = (piece.satellite, piece.id);
            if !is_behind && !self.doubted.borrow().contains(&name) {
                if stored.trashed_s.is_some() {
                    self.check_open()?;
                    let mark = stored.mark(Kind::Restore, piece.created_s);
                    marks::settle(self.submit_mark(fingerprint, &mark, replaced, guard)).await?;
                }
                self.count(|counters| counters.acks_again += 1);
                return Ok(Stored::Already);
            }
        }
        self.check_open()?;
        self.admit_satellite(&piece.satellite)?;
        let record_len = layout::piece_record_len(piece.body_len(), piece.path.len());
        self.check_room(
            layout::round_to_step(record_len) + COMMIT_OVERHEAD_BYTES,
            self.put_spare()?,
        )?;
        self.now_s.set(self.now_s.get().max(piece.created_s));
        if is_behind {
            self.is_index_behind.set(true);
        }
        let answer = self.submit(Order {
            fingerprint,
            satellite: piece.satellite,
            class: ExpiryClass::of(piece.created_s, piece.expiry_s),
            replaced,
            work: Work::Put(piece),
            guard,
        });
        marks::settle(answer).await.map(|()| Stored::New)
    }

    /// Removes a piece, from the trash as well; returns once that is durable. False: there was none.
    ///
    /// After a write failed, an absent piece gets its tombstone all the same: the failed group may hold a record
    /// that the next opening would find. So does one that is absent only because of what is left of a torn group.
    ///
    /// # Errors
    ///
    /// [`PutError::Full`] only if the disk itself is full; [`PutError::ReadOnly`] as for a put; [`PutError::Disk`] if the
    /// disk reads neither a record that may be the piece's nor its blob's list of records.
    pub async fn delete(
        &self,
        satellite: &[u8; 32],
        id: &[u8; 32],
        now_s: u32,
    ) -> Result<bool, PutError> {
        self.check_open()?;
        let fingerprint = self.fingerprinter.of(satellite, id);
        let guard = self.locks.lock(fingerprint).await;
        let mut lookup = self.look_up(satellite, id, Search::Records).await;
        let is_behind = match self.tell_unknown(&mut lookup, satellite, id).await {
            Ok(()) => false,
            // The disk may read it the next time: it would be there again.
            Err(GetError::Disk(error)) => return Err(error.into()),
            Err(_) => true,
        };
        let newest = lookup.confirmed.first().copied();
        let is_known = self.satellites.borrow().contains(satellite);
        let is_sure = lookup.error.is_none()
            && !self.has_failed_writes.get()
            && !self.doubted.borrow().contains(&(*satellite, *id));
        if newest.is_none() && (!is_known || is_sure) {
            return Ok(false);
        }
        self.check_open()?;
        let mark = Mark {
            kind: Kind::Tombstone,
            satellite: *satellite,
            id: *id,
            now_s,
            class: newest.map_or_else(|| ExpiryClass::of(0, 0), |newest| newest.class),
            expiry_s: newest.map_or(0, |newest| newest.known.expiry_s),
        };
        if is_behind {
            self.is_index_behind.set(true);
        }
        let answer = self.submit_mark(fingerprint, &mark, lookup.known(), guard);
        marks::settle(answer).await.map(|()| newest.is_some())
    }

    /// Whether a failed write or sync made the store read-only.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.poison.cause().is_some()
    }

    /// What made the store read-only, if anything did.
    #[must_use]
    pub fn poison_cause(&self) -> Option<PoisonCause> {
        self.poison.cause()
    }

    /// Where the bytes went.
    #[must_use]
    pub fn space(&self) -> Space {
        Space {
            disk_free_bytes: self.disk.free_bytes().unwrap_or_default(),
            ..self.space.get()
        }
    }

    /// What was done since the store was opened.
    #[must_use]
    pub fn counters(&self) -> StoreCounters {
        StoreCounters {
            pieces: self.index.borrow().len() as u64,
            trashed: self.trash.borrow().len() as u64,
            damaged: self.damaged.borrow().len() as u64,
            index_bytes: (self.index.borrow().memory_bytes()
                + self.dead.borrow().memory_bytes()
                + self.trash.borrow().memory_bytes()
                + self.damaged.borrow().memory_bytes()
                + self.trash_record_bytes()) as u64,
            ..self.counters.get()
        }
    }

    /// Changes when something goes that tombstones and other marks may outrank: a blob, or a checkpoint for a newer one.
    pub(crate) fn forgetting_count(&self) -> u64 {
        let counters = self.counters.get();
        counters.blobs_removed + counters.checkpoints
    }

    /// A sum over the index: which record of which blob is found for which fingerprint.
    ///
    /// Two openings of one directory agree in it, but for a chance of 2^-64, only if their indexes find the same; both
    /// must have been given the same random bytes. Costs a pass over the index.
    #[must_use]
    pub fn index_digest(&self) -> u64 {
        let index = self.index.borrow();
        index.iter().fold(0, |sum: u64, (fingerprint, entry)| {
            let place = entry.place();
            let blob = self.blob(place).map_or(0, |blob| blob.id.0);
            let words = [fingerprint, blob, place.offset, entry.record_len_max()];
            let mixed = words.iter().fold(0, |state, word| mix(state ^ word));
            sum.wrapping_add(mixed)
        })
    }

    pub(crate) fn check_open(&self) -> Result<(), PutError> {
        if self.is_closing.get() {
            return Err(PutError::Closed);
        }
        if self.is_read_only() {
            Err(PutError::ReadOnly)
        } else {
            Ok(())
        }
    }

    /// Makes sure that the next blob's table has the satellite.
    fn admit_satellite(&self, satellite: &[u8; 32]) -> Result<(), PutError> {
        let mut satellites = self.satellites.borrow_mut();
        if satellites.contains(satellite) {
            return Ok(());
        }
        if satellites.len() >= SATELLITES_MAX {
            return Err(PutError::TooManySatellites);
        }
        satellites.push(*satellite);
        Ok(())
    }

    pub(crate) fn enqueue(&self, mut item: Item) {
        item.class = item.class.within(self.options.append_points_max);
        self.queues.borrow_mut().push(item);
        self.work.set();
    }

    pub(crate) fn account(&self, update: impl FnOnce(&mut Space)) {
        let mut space = self.space.get();
        update(&mut space);
        self.space.set(space);
    }

    pub(crate) fn count(&self, update: impl FnOnce(&mut StoreCounters)) {
        let mut counters = self.counters.get();
        update(&mut counters);
        self.counters.set(counters);
    }
}

impl<D: Disk> std::fmt::Debug for Store<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store")
            .field("counters", &self.counters())
            .field("space", &self.space.get())
            .finish_non_exhaustive()
    }
}

/// A step of SplitMix64 (Steele, Lea, Flood 2014): spreads a word over all bits.
fn mix(word: u64) -> u64 {
    let mut z = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

const _: () = assert!(GROUP_HEADER_BYTES < BLOCK_BYTES);
