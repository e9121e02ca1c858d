//! What a store needs when nobody asks anything of it: compaction and scrub, now and then and never at full speed.
//!
//! After each compacted blob the task rests as long as the work took, so that at most half of the disk's time goes into it, and the less the
//! nearer room runs out. A disk onto which next to nothing is put is tidied further than a busy one.
//!
//! While there is nothing to compact the scrub reads on, paced so that it gets around in
//! 30 days and takes at most a twentieth of the disk's time. Its cursor is not kept: each start goes on at a blob drawn at random, so every blob
//! has its turn however often a node restarts, and no file must be written for it. Nodes of one process take turns on a disk, with both.
//!
//! Pieces expire by the satellite's time, known from a check-in: a node whose own clock is far
//! off drops nothing.

use std::time::{Duration, Instant};

use futures_lite::future;
use strand_blob::{Disk, PutError, ScrubCursor, ScrubStep, Store, Traffic};
use strand_protocol::{NodeId, PieceId};

use crate::core::executor::{Clock, Executor};
use crate::hardware::DiskTurn;
use crate::limits::{
    OPEN_BLOBS_LOOK_PERIOD, SCRUB_PASS, SCRUB_REST_FACTOR, SCRUB_REST_MAX, SCRUB_STEP_BYTES,
    TURN_WAIT, UPKEEP_FAILED_PAUSE, UPKEEP_PAUSE,
};
use crate::permission::Permission;

/// Pieces that come in at this rate at most leave the disk quiet.
const QUIET_BYTES_PER_S: u64 = 1 << 20;

/// Time over which the rate is taken.
const LOOK_PERIOD: Duration = Duration::from_secs(1);

/// Lets others run, however quick a compaction was.
const PAUSE_MIN: Duration = Duration::from_millis(10);

/// When to compact, and when to rest.
#[derive(Debug)]
pub struct Upkeep {
    node: NodeId,
    traffic: Traffic,
    looked_at: Instant,
    stored_bytes: u64,
    /// The last look found nothing to compact.
    is_idle: bool,
}

/// Everything that the module's head names, and a look at the open blobs now and then, until dropped or the store takes no more writes.
/// `random` says where the scrub begins.
pub(crate) async fn run<D: Disk, E: Executor + Clock>(
    node: NodeId,
    store: &Store<D>,
    permission: &Permission,
    executor: &E,
    turn: &DiskTurn,
    random: u64,
) {
    let tidying = tidy(node, store, permission, executor, turn, random);
    future::or(tidying, watch_open_blobs(node, store, executor)).await;
}

/// Names the blobs that another program took away. Their pieces go the way of all lost pieces.
async fn watch_open_blobs<D: Disk>(node: NodeId, store: &Store<D>, executor: &impl Executor) {
    loop {
        executor.sleep(OPEN_BLOBS_LOOK_PERIOD).await;
        for gone in store.check_open_blobs().await {
            tracing::error!(%node, blob = %gone.blob, lost_pieces = gone.lost_pieces, "another program removed, replaced or shortened a blob that was written to; find out which one it is");
        }
    }
}

/// Compacts whenever it is worth it and scrubs beside that, unless another node of the process does so on the same disk, until dropped
/// or the store takes no more writes. `random` says where the scrub begins.
async fn tidy<D: Disk, E: Executor + Clock>(
    node: NodeId,
    store: &Store<D>,
    permission: &Permission,
    executor: &E,
    turn: &DiskTurn,
    random: u64,
) {
    let mut upkeep = Upkeep::new(node, executor.now());
    let mut scrub = Scrub::new(store, executor, random);
    loop {
        let Some(pass) = turn.try_take() else {
            executor.sleep(TURN_WAIT).await;
            continue;
        };
        let now_s = permission.expiry_time_s(executor.now_ms());
        let Some(pause) = upkeep.work(store, now_s, executor).await else {
            return;
        };
        drop(pass);
        let end = executor.now() + pause;
        if upkeep.is_idle {
            scrub.until(end, node, store, executor, turn).await;
        }
        executor
            .sleep(end.saturating_duration_since(executor.now()))
            .await;
    }
}

impl Upkeep {
    /// Takes the disk for busy until it has seen otherwise.
    #[must_use]
    pub fn new(node: NodeId, now: Instant) -> Self {
        Self {
            node,
            traffic: Traffic::Busy,
            looked_at: now,
            stored_bytes: 0,
            is_idle: false,
        }
    }

    /// Compacts one blob, if one is worth it; how long to rest afterwards, or `None` once the store takes no more writes.
    ///
    /// `expiry_s` is the satellite's time, by which pieces expire.
    pub async fn work<D: Disk, E: Executor + Clock>(
        &mut self,
        store: &Store<D>,
        expiry_s: u32,
        executor: &E,
    ) -> Option<Duration> {
        let node = self.node;
        let begun = executor.now();
        let traffic = self.look(begun, store.counters().piece_bytes_stored);
        self.is_idle = false;
        let pause = match store.compact_in(traffic, expiry_s).await {
            Ok(Some(done)) => {
                tracing::info!(%node, removed_bytes = done.removed_bytes, moved_bytes = done.moved_bytes, "compacted a blob");
                for &(satellite, id) in &done.lost {
                    tell_lost(node, satellite, id, "it was to be moved");
                }
                let worked = executor.now().saturating_duration_since(begun);
                // Without room every put would wait for this.
                worked.mul_f64(store.room_share().min(1.0))
            }
            Ok(None) => {
                self.is_idle = true;
                UPKEEP_PAUSE
            }
            Err(PutError::Closed | PutError::ReadOnly) => return None,
            Err(error) => {
                tracing::warn!(%node, %error, "cannot compact now");
                UPKEEP_FAILED_PAUSE
            }
        };
        Some(pause.max(PAUSE_MIN))
    }

    /// What the disk has to do, by the bodies stored so far.
    fn look(&mut self, now: Instant, stored_bytes: u64) -> Traffic {
        let period = now.saturating_duration_since(self.looked_at);
        if period >= LOOK_PERIOD {
            let quiet_bytes = QUIET_BYTES_PER_S as f64 * period.as_secs_f64();
            let is_quiet = (stored_bytes - self.stored_bytes) as f64 <= quiet_bytes;
            self.traffic = if is_quiet {
                Traffic::Quiet
            } else {
                Traffic::Busy
            };
            (self.looked_at, self.stored_bytes) = (now, stored_bytes);
        }
        self.traffic
    }
}

/// Says in the log what a step of a scrub found.
pub(crate) fn tell_damage(node: NodeId, step: &ScrubStep) {
    if step.damaged_records + step.damaged_headers > 0 {
        tracing::warn!(%node, records = step.damaged_records, headers = step.damaged_headers, "the scrub found damage");
    }
    if let Some(error) = step.unreadable {
        tracing::error!(%node, blob = %step.blob, %error, "the scrub passes a blob that cannot be read; check the disk (dmesg, smartctl)");
    }
    for lost in &step.lost {
        tell_lost(node, lost.satellite, lost.id, "the scrub read it");
    }
}

fn tell_lost(node: NodeId, satellite: [u8; 32], id: [u8; 32], when: &str) {
    let (satellite, id) = (NodeId::from(satellite), PieceId::from(id));
    tracing::error!(%node, %satellite, piece = %id, when, "a piece is damaged; it is lost to this node");
}

/// A scrub that goes round and round.
struct Scrub {
    cursor: ScrubCursor,
    /// When the next step may come.
    next: Instant,
    pass_began: Instant,
}

impl Scrub {
    fn new<D: Disk>(store: &Store<D>, executor: &impl Executor, random: u64) -> Self {
        Self {
            cursor: store.scrub_cursor(random),
            next: executor.now(),
            pass_began: executor.now(),
        }
    }

    /// Says that the last blob was reached, unless that was soon done: a store with little in it, or nothing, is read again and again.
    fn end_pass(&mut self, now: Instant, node: NodeId) {
        let took = now.saturating_duration_since(self.pass_began);
        self.pass_began = now;
        if took >= PASS_TOLD_MIN {
            let days = took.as_secs() / 86_400;
            tracing::info!(%node, "the scrub has come to the last blob after {days} days and begins again with the first");
        }
    }

    /// Scrubs until `end`, or until the next step would come after it. Each step is a turn of its own.
    async fn until<D: Disk, E: Executor + Clock>(
        &mut self,
        end: Instant,
        node: NodeId,
        store: &Store<D>,
        executor: &E,
        turn: &DiskTurn,
    ) {
        while self.next < end {
            executor
                .sleep(self.next.saturating_duration_since(executor.now()))
                .await;
            let Some(_pass) = turn.try_take() else {
                self.next = executor.now() + TURN_WAIT;
                continue;
            };
            let begun = executor.now();
            let read_bytes = match store.scrub_step(self.cursor, SCRUB_STEP_BYTES).await {
                Some(step) => {
                    self.cursor = step.next;
                    tell_damage(node, &step);
                    if step.unreadable.is_some() {
                        // If it is the disk, each blob may cost it the time of a request that it does not answer.
                        self.next = executor.now() + SCRUB_REST_MAX;
                        break;
                    }
                    step.bytes_read
                }
                None => {
                    self.end_pass(begun, node);
                    self.cursor = ScrubCursor::default();
                    0
                }
            };
            let took = executor.now().saturating_duration_since(begun);
            self.next = executor.now() + rest(read_bytes, store.space().file_bytes, took);
        }
    }
}

/// How long a scrub rests after a step, to get around a store of so many bytes in 30 days and not to be in anybody's way.
fn rest(read_bytes: u64, file_bytes: u64, took: Duration) -> Duration {
    let share = read_bytes as f64 / file_bytes.max(1) as f64;
    let paced = SCRUB_PASS.mul_f64(share.min(1.0)).saturating_sub(took);
    let gentle = took * SCRUB_REST_FACTOR;
    // An empty store, or the end of a pass, must not make a busy loop.
    paced.min(SCRUB_REST_MAX).max(gentle).max(REST_MIN)
}

/// A pass of the scrub that took less is not worth a line in the log.
const PASS_TOLD_MIN: Duration = Duration::from_secs(86_400);

/// The shortest rest of the scrub: 4 MiB a second are 10 TB in 30 days.
const REST_MIN: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use bytes::Bytes;
    use strand_blob::disk::sim::SimDisk;
    use strand_blob::{NewPiece, StoreOptions};

    use super::*;
    use crate::core::simulated::SimExecutor;
    use crate::permission::EpochKeys;

    const NODE: [u8; 32] = [2; 32];
    const SATELLITE: [u8; 32] = [1; 32];

    async fn store(disk: SimDisk, executor: &SimExecutor) -> Rc<Store<SimDisk>> {
        let mut options = StoreOptions::new(NODE, 1 << 30);
        options.blob_records_max = 4;
        let opened = Store::open(disk, options, 0, &mut |bytes: &mut [u8]| bytes.fill(7)).await;
        let (store, _) = opened.unwrap();
        executor.spawn(Rc::clone(&store).run_commits());
        store
    }

    fn piece(key: u8, expiry_s: u32) -> NewPiece {
        let body = vec![key; 9_000];
        NewPiece {
            satellite: SATELLITE,
            id: [key; 32],
            created_s: 0,
            expiry_s,
            root: blake3_of(&body),
            crcs: strand_blob::share_crcs(&body),
            body: vec![Bytes::from(body)],
            share_hashes: Vec::new(),
            path: Vec::new(),
            commitment: [0; 32],
        }
    }

    fn blake3_of(body: &[u8]) -> [u8; 32] {
        let mut hasher = strand_codec::PieceHasher::new(body.len() as u64);
        hasher.push_share(body);
        hasher.finish().root
    }

    fn permission(executor: &SimExecutor, satellite_ahead_ms: u64) -> Rc<Permission> {
        let permission = Permission::new(NodeId::from(SATELLITE), NodeId::from(NODE));
        let keys = EpochKeys {
            epoch: 1,
            limit_key: [1; 32].into(),
            receipt_key: [1; 32].into(),
        };
        let now_ms = executor.now_ms();
        permission.update(vec![keys], now_ms + satellite_ahead_ms, executor.moment());
        permission
    }

    /// Lets it run beside the test.
    fn begin(executor: &SimExecutor, store: &Rc<Store<SimDisk>>, random: u64) {
        let (store, waiting) = (Rc::clone(store), executor.clone());
        let permission = permission(executor, 0);
        executor.spawn(async move {
            let (node, turn) = (NodeId::from(NODE), DiskTurn::default());
            run(node, &store, &permission, &waiting, &turn, random).await;
        });
    }

    #[test]
    fn dead_blobs_leave_the_disk_by_themselves() {
        let executor = SimExecutor::new(1);
        let inner = executor.clone();
        executor.run(async move {
            let disk = SimDisk::new(1);
            let store = store(disk.clone(), &inner).await;
            for key in 0..9 {
                store.put(piece(key, 0)).await.unwrap();
            }
            for key in 0..4 {
                assert_eq!(store.delete(&SATELLITE, &[key; 32], 0).await, Ok(true));
            }
            begin(&inner, &store, 0);
            inner.sleep(UPKEEP_PAUSE).await;
            assert_eq!(store.counters().blobs_removed, 1);
            assert_eq!(store.space().dead_bytes, 0);
            for key in 4..9 {
                assert!(store.piece(&SATELLITE, &[key; 32], 0).await.is_ok());
            }
        });
    }

    #[test]
    fn a_disk_is_quiet_once_next_to_nothing_was_put_for_a_second() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut upkeep = Upkeep::new(NodeId::from(NODE), start);
        assert_eq!(upkeep.look(start, 0), Traffic::Busy, "not known yet");
        assert_eq!(upkeep.look(after(2), 3 << 20), Traffic::Busy);
        assert_eq!(upkeep.look(after(4), 5 << 20), Traffic::Quiet);
        assert_eq!(upkeep.look(after(4), 50 << 20), Traffic::Quiet, "too soon");
        assert_eq!(upkeep.look(after(5), 50 << 20), Traffic::Busy);
    }

    #[test]
    fn damage_is_found_by_itself_within_the_pass() {
        let executor = SimExecutor::new(1);
        let inner = executor.clone();
        executor.run(async move {
            let disk = SimDisk::new(1);
            let store = store(disk.clone(), &inner).await;
            for key in 0..9 {
                store.put(piece(key, 0)).await.unwrap();
            }
            disk.edit(strand_blob::BlobId(1), |bytes| bytes[9_000] ^= 1);
            begin(&inner, &store, 5);
            inner.sleep(SCRUB_REST_MAX * 8).await;
            assert_eq!(store.take_lost(), [(SATELLITE, [0; 32])]);
            assert_eq!(store.counters().pieces_lost, 1);
        });
    }

    #[test]
    fn a_blob_that_cannot_be_read_does_not_stop_the_scrub() {
        let executor = SimExecutor::new(1);
        let inner = executor.clone();
        executor.run(async move {
            let disk = SimDisk::new(1);
            let store = store(disk.clone(), &inner).await;
            for key in 0..9 {
                store.put(piece(key, 0)).await.unwrap();
            }
            disk.fail_reads(strand_blob::BlobId(1));
            disk.edit(strand_blob::BlobId(2), |bytes| bytes[9_000] ^= 1);
            let turn = DiskTurn::default();
            let mut scrub = Scrub::new(&store, &inner, 0);
            let end = inner.now() + SCRUB_REST_MAX / 2;
            let node = NodeId::from(NODE);
            scrub.until(end, node, &store, &inner, &turn).await;
            assert_eq!(scrub.cursor.blob, strand_blob::BlobId(2), "passed it");
            assert!(scrub.next > end, "and rests");
            let end = end + SCRUB_REST_MAX * 4;
            scrub.until(end, node, &store, &inner, &turn).await;
            assert_eq!(store.take_lost(), [(SATELLITE, [4; 32])]);
        });
    }

    #[test]
    fn a_scrub_takes_thirty_days_and_a_twentieth_of_the_time_at_most() {
        let ms = Duration::from_millis;
        let (step, terabyte) = (SCRUB_STEP_BYTES, 1_000_000_000_000);
        // 4 MiB of a terabyte: 10.87 s.
        let rest_s = rest(step, terabyte, ms(40)).as_secs_f64();
        assert!((rest_s - (30.0 * 86_400.0 * step as f64 / terabyte as f64 - 0.04)).abs() < 0.01);
        assert_eq!(rest(step, 100 * terabyte, ms(400)), ms(7_600));
        assert_eq!(rest(step, step, ms(40)), SCRUB_REST_MAX);
        assert_eq!(rest(0, 0, ms(0)), REST_MIN);
    }

    #[test]
    fn pieces_expire_by_satellite_time_and_only_if_it_is_near_ours() {
        let executor = SimExecutor::new(1);
        let inner = executor.clone();
        executor.run(async move {
            let now_ms = inner.now_ms();
            let near = permission(&inner, 60_000);
            assert_eq!(
                u64::from(near.expiry_time_s(now_ms)),
                (now_ms + 60_000) / 1000
            );
            let far = permission(&inner, 601_000);
            assert_eq!(far.expiry_time_s(now_ms), 0);
            let unknown = Permission::new(NodeId::from(SATELLITE), NodeId::from(NODE));
            assert_eq!(unknown.expiry_time_s(now_ms), 0);
        });
    }
}
