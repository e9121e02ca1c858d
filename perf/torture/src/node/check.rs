//! What must hold at any moment, and what is read past the verbs.

use std::time::Duration;

use piecestore::core::executor::{Clock, Executor};
use piecestore::serve::simulated::{Permits, Segment};
use strand_blob::disk::sim::SimDisk;
use strand_blob::testing::{Knowledge, Random};
use strand_blob::{GetError, ScrubCursor, Store, TRASH_S, Traffic};
use strand_protocol::NodeId;

use super::host::{NODE, store_options};
use super::ledger::{Before, Circumstances, Found};
use super::moods::Faults;
use super::world::World;
use crate::store::guard::say;

/// Upkeep looks once a second, rests while it compacts, and knows the time to the second.
const EXPIRED_WAIT: Duration = Duration::from_secs(5);

/// What explains an answer that is no success.
#[derive(Clone, Copy)]
pub(super) struct Excuses {
    pub(super) boot: u64,
    pub(super) faults: Faults,
    pub(super) is_blurred: bool,
    pub(super) knows_time: bool,
    pub(super) was_full: bool,
}

impl World {
    /// What must hold at any moment, and what the store says by itself.
    pub(super) async fn watch(&self) {
        while self.busy_time.get().is_none() {
            self.executor.sleep(Duration::from_secs(1)).await;
            self.look();
        }
    }

    pub(super) fn look(&self) {
        self.take_harms();
        let Some(store) = self.store() else {
            return;
        };
        let space = store.space();
        if !space.adds_up() {
            self.violate(format!("space does not add up: {space:?}"));
        }
        let Some(host) = self.running() else {
            return;
        };
        let had_read_faults = self.moods.faults().reads > 0;
        let reports = host.reports();
        reports.hear(NodeId::from(NODE), self.permits.satellite, &store);
        for id in reports.lost_waiting() {
            if !self.heard.borrow_mut().insert(id) {
                continue;
            }
            self.count("told_lost", 1);
            let key = self.ledger.borrow().key_of(&id);
            if let Some(key) = key {
                let is_harmed = self.has_harmed_files();
                let told = self
                    .ledger
                    .borrow_mut()
                    .tell(key, had_read_faults, is_harmed);
                told.unwrap_or_else(|what| self.violate(what));
            }
        }
    }

    pub(super) fn excuses(&self) -> Excuses {
        Excuses {
            boot: self.boot.get(),
            faults: self.moods.faults(),
            is_blurred: self.running().is_some_and(|host| host.is_blurred.get()),
            knows_time: self.running().is_some_and(|host| host.expiry_time_s() > 0),
            was_full: self.was_full.get(),
        }
    }

    /// What may be found now by who began when `before` were the excuses.
    fn circumstances(&self, before: Excuses, is_late: bool) -> Circumstances {
        let now = self.excuses();
        Circumstances {
            now_ms: self.executor.now_ms() - self.slept_secretly.get().as_millis() as u64,
            had_read_faults: before.faults.reads + now.faults.reads > 0,
            is_blurred: before.is_blurred || now.is_blurred,
            knows_time: before.knows_time && now.knows_time,
            is_late,
            is_harmed: false,
        }
    }

    /// Reads pieces past the verbs: the newest, and as many of the others.
    pub(super) async fn check_some(&self, count: usize) {
        let keys: Vec<u64> = self.ledger.borrow().entries.keys().copied().collect();
        let newest = keys.iter().rev().take(count).copied();
        let others = (0..count)
            .filter(|_| !keys.is_empty())
            .map(|_| keys[self.below(keys.len() as u64) as usize]);
        let chosen: Vec<u64> = newest.chain(others).collect();
        self.check(&chosen).await;
    }

    /// Reads these pieces past the verbs.
    pub(super) async fn check(&self, keys: &[u64]) {
        for &key in keys {
            let (Some(host), Some(store)) = (self.running(), self.store()) else {
                return;
            };
            let known = {
                let ledger = self.ledger.borrow();
                let entry = ledger.entries.get(&key);
                let entry = entry.map(|entry| (entry.segment.clone(), entry.expiry_ms != 0));
                ledger.before(key).zip(entry)
            };
            let Some((before, (segment, expires))) = known else {
                continue;
            };
            let excuses = self.excuses();
            // Who reads what is in the trash brings it back; later than it can be there, what is wanted is still read.
            let may_be_trashed = self.ledger.borrow().may_be_trashed(key);
            if may_be_trashed && !self.is_strict.get() && self.below(8) > 0 {
                continue;
            }
            let is_late = !may_be_trashed && !expires;
            let now_s = if is_late {
                (self.executor.now_ms() / 1000) as u32 + TRASH_S + 3_600
            } else {
                host.expiry_time_s()
            };
            let read = read(&store, &segment, &self.permits, now_s).await;
            match read {
                Ok(found) => self.judge(key, before, found, excuses, is_late),
                Err(error) => {
                    if self.moods.faults().reads == 0 {
                        self.violate(format!("piece {key}: {error}, and no fault was injected"));
                    }
                }
            }
        }
    }

    pub(super) fn judge(
        &self,
        key: u64,
        before: Before,
        found: Found,
        excuses: Excuses,
        is_late: bool,
    ) {
        let mut circumstances = self.circumstances(excuses, is_late);
        circumstances.is_harmed = found == Found::Damaged && self.has_harmed_files();
        say(|| format!("piece {key} is found: {found:?}"));
        // What the store knows of damage, the ledger hears first.
        if found != Found::Exact {
            self.look();
        }
        let judged = self
            .ledger
            .borrow_mut()
            .judge(key, before, found, circumstances);
        match judged {
            Ok(is_check) => self.count("acked_pieces_checked", u64::from(is_check)),
            Err(what) => self.violate(what),
        }
    }

    /// Reads all pieces that cannot be in the trash.
    pub(super) async fn check_wanted(&self) {
        let wanted: Vec<u64> = {
            let ledger = self.ledger.borrow();
            let keys = ledger.entries.keys().copied();
            keys.filter(|&key| !ledger.may_be_trashed(key)).collect()
        };
        self.check(&wanted).await;
    }

    pub(super) async fn check_all(&self) {
        let keys: Vec<u64> = self.ledger.borrow().entries.keys().copied().collect();
        self.check(&keys).await;
    }

    /// Whether a piece expired so lately that no upkeep may have looked since.
    fn has_just_expired(&self) -> bool {
        let now_ms = self.executor.now_ms();
        let since_ms = now_ms - EXPIRED_WAIT.as_millis() as u64;
        let entries = &self.ledger.borrow().entries;
        let mut expiries = entries.values().map(|entry| entry.expiry_ms);
        expiries.any(|expiry_ms| (since_ms..now_ms + 1_000).contains(&expiry_ms))
    }

    /// A node that was left alone has compacted and scrubbed what there was.
    pub(super) async fn check_tidy(&self) {
        while self.has_just_expired() {
            self.executor.sleep(EXPIRED_WAIT).await;
        }
        let (Some(host), Some(store)) = (self.running(), self.store()) else {
            return self.violate("the node is gone");
        };
        match store.compact_in(Traffic::Quiet, host.expiry_time_s()).await {
            Ok(None) => {}
            Ok(Some(_)) => self.violate("a blob was left that is worth compacting"),
            Err(error) => self.violate(format!("cannot compact: {error}")),
        }
        let mut cursor = ScrubCursor::default();
        while let Some(step) = store.scrub_step(cursor, 4 << 20).await {
            if let Some(error) = step.unreadable {
                self.violate(format!("blob {} cannot be scrubbed: {error}", step.blob));
            }
            cursor = step.next;
        }
        self.look();
        let space = store.space();
        // A write that went astray may have made a file longer.
        let found = host.disk.blob_bytes();
        let is_long = !self.has_harmed_files() && space.file_bytes != found;
        if is_long || space.reserved_bytes != 0 {
            self.violate(format!("the files have {found} bytes: {space:?}"));
        }
    }

    /// The index is a cache: whoever reads the blobs anew knows the same.
    pub(super) async fn check_knowledge(&self, store: &Store<SimDisk>) {
        // Of one moment: a collection may go on while the other store is opened.
        let (files, found) = (self.disk.borrow().all_files(), Knowledge::of(store));
        let mut options = store_options();
        options.ignores_checkpoint = true;
        let disk = SimDisk::from_all_files(self.seed, files);
        let mut random = Random::new(self.seed);
        let mut fill = |bytes: &mut [u8]| random.fill(bytes);
        let opened = Box::pin(Store::open(disk, options, 0, &mut fill)).await;
        let has_rot = self.tally.borrow().counts.contains_key("rotted") || self.has_harmed_files();
        let now_s = (self.executor.now_ms() / 1000) as u32;
        let is_over = |&(_, _, since_s): &(_, _, u32)| now_s.saturating_sub(since_s) > TRASH_S;
        match opened {
            Ok((rebuilt, _)) => {
                // What a compaction took out of the trash is in it again for who reads the blobs (docs/reliability.md).
                let wanted = Knowledge::of(&rebuilt);
                let is_same = if wanted.trash.iter().any(is_over) {
                    found.live == wanted.live && found.blobs == wanted.blobs
                } else {
                    found == wanted
                };
                if !has_rot && !is_same {
                    say(|| format!("the store knows {found:?}, a rebuild {wanted:?}"));
                    self.violate("the index is another one when it is rebuilt");
                }
            }
            Err(error) => self.violate(format!("the index cannot be rebuilt: {error}")),
        }
    }
}

/// Reads a whole piece from the store.
async fn read(
    store: &Store<SimDisk>,
    segment: &Segment,
    permits: &Permits,
    now_s: u32,
) -> Result<Found, GetError> {
    let (satellite, id) = (permits.satellite.as_bytes(), segment.id.as_bytes());
    let reading = async {
        let piece = store.piece(satellite, id, now_s).await?;
        let bytes = store.read_shares(&piece, 0..piece.share_count()).await?;
        Ok((piece, bytes))
    };
    match reading.await {
        Ok((piece, bytes)) => {
            let is_exact = bytes == segment.body
                && piece.root == segment.tree.root
                && piece.path == segment.path
                && piece.commitment == segment.commitment
                && piece.share_hashes == segment.tree.share_hashes;
            Ok(if is_exact {
                Found::Exact
            } else {
                Found::WrongBytes
            })
        }
        Err(GetError::NotFound) => Ok(Found::Absent),
        Err(GetError::Corrupt { .. }) => Ok(Found::Damaged),
        Err(error) => Err(error),
    }
}
