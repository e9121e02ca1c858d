//! The liveness phase: no fault comes any more, and everything must be as it should.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use piecestore::core::executor::Executor;
use piecestore::limits::{CHECK_IN_WAIT, SCRUB_REST_MAX, UPKEEP_PAUSE};
use strand_blob::{BlobId, inspect};
use strand_protocol::limits::{CHECK_IN_INTERVAL, CONNECT_TIMEOUT};

use super::Control;
use super::plan::Episode;
use super::world::{HEAL_WAIT, World};

/// How long the node is then left alone, to tidy up.
const IDLE: Duration = Duration::from_secs(20);

impl World {
    /// No fault comes any more: everything must be as it should, and soon.
    pub(super) async fn heal(self: &Rc<Self>) {
        self.enter(Episode::calm());
        // The owner sets the machine's clock right.
        self.executor.set_wall_ahead_ms(0);
        // What was begun ends; the disk is at rest.
        self.executor.sleep(Duration::from_secs(10)).await;
        let is_well = self.until_opened(HEAL_WAIT).await
            && self.running().is_some_and(|host| !host.is_blurred.get())
            && self.store().is_some_and(|store| !store.is_read_only());
        if !is_well {
            // A store that was poisoned or could not be read well is opened again.
            self.end_host().await;
            self.enter(Episode::calm());
            self.start();
            if !self.until_opened(HEAL_WAIT).await {
                return self.violate("the node does not start again");
            }
        }
        if !self.until_checked_in().await {
            return self.violate("the node does not check in again");
        }
        if !self.until_connected().await {
            return self.violate("a client does not connect again");
        }
        self.is_strict.set(true);
        let clients = self.clients.borrow().clone();
        for client in &clients {
            let key = self.new_piece(false);
            self.reserved.set(Some(key));
            let is_well = self.ping(client).await
                && self.put(client, key).await
                && self.get(client, key).await
                && self.put(client, key).await
                && self.delete(client, key).await;
            self.reserved.take();
            let kept = self.new_piece(false);
            if !is_well || !self.put(client, kept).await {
                self.violate("a verb failed though nothing is wrong any more");
            }
        }
        self.executor.sleep(self.options.strict).await;
        self.is_loading.set(false);
        // Whoever asked or restored has an answer.
        self.executor.sleep(IDLE).await;
        // What is wanted was never in the trash, so it is there before anything is brought back.
        self.check_wanted().await;
        self.withdraw();
        if self.options.control == Control::SleepsSecretly {
            let time = Duration::from_secs(10 * 86_400);
            self.executor.sleep_machines(time);
            self.slept_secretly.set(time);
            self.executor.sleep(CHECK_IN_INTERVAL).await;
        }
        if !self.restore().await {
            self.violate("the owner does not get the trash back");
        }
        self.check_all().await;
        self.executor.sleep(IDLE).await;
        self.check_tidy().await;
        self.check_all().await;
        self.check_end().await;
        self.busy_time.set(Some(self.executor.elapsed()));
        self.check_scrub().await;
    }

    /// A check-in that failed again and again is tried once a minute.
    async fn until_checked_in(&self) -> bool {
        let deadline = self.executor.elapsed() + CHECK_IN_INTERVAL + 2 * CHECK_IN_WAIT;
        while self.executor.elapsed() < deadline {
            if self.running().is_some_and(|host| host.has_checked_in()) {
                return true;
            }
            self.executor.sleep(Duration::from_secs(1)).await;
        }
        false
    }

    /// Bytes rot while the node is left alone: its own scrub finds them within its time, and its satellite hears of it.
    async fn check_scrub(&self) {
        let (Some(store), Some(satellite)) = (self.store(), self.satellite.borrow().clone()) else {
            return self.violate("the node is gone");
        };
        let newest = self.newest_records();
        let key = self.rot(|blob, record| {
            let ledger = self.ledger.borrow();
            let key = ledger.key_of(&record.id);
            let place = (record.sequence, blob, record.offset);
            key.is_some_and(|key| ledger.is_firm(key)) && newest.get(&record.id) == Some(&place)
        });
        let Some(key) = key else {
            return;
        };
        let Some(id) = self.ledger.borrow().id_of(key) else {
            return;
        };
        let steps = self.disk.borrow().files().len() as u32 + 2;
        let bound = steps * (SCRUB_REST_MAX + UPKEEP_PAUSE) + CHECK_IN_INTERVAL + CHECK_IN_WAIT;
        let begun = self.executor.elapsed();
        while !satellite.has_heard_of(&id) {
            if self.executor.elapsed() > begun + bound {
                let s = bound.as_secs();
                let known = store.counters().damaged;
                return self.violate(format!(
                    "piece {key} rotted, and the satellite heard nothing of it in {s} s; the store knows of {known}"
                ));
            }
            self.executor.sleep(Duration::from_secs(10)).await;
        }
        self.count("sim_scrub_found", 1);
        self.check(&[key]).await;
    }

    /// The record of each piece that counts: the highest sequence, and of one that compaction moved the later place.
    fn newest_records(&self) -> BTreeMap<[u8; 32], (u64, BlobId, u64)> {
        let mut newest = BTreeMap::new();
        for (blob, bytes) in self.disk.borrow().files() {
            for record in inspect::records(&bytes).unwrap_or_default() {
                let place = (record.sequence, blob, record.offset);
                let known = newest.entry(record.id).or_insert(place);
                *known = place.max(*known);
            }
        }
        newest
    }

    pub(super) async fn until_connected(&self) -> bool {
        let clients = self.clients.borrow().clone();
        let deadline = self.executor.elapsed() + HEAL_WAIT;
        while !clients.iter().all(|client| client.is_connected()) {
            if self.executor.elapsed() > deadline {
                return false;
            }
            self.executor.sleep(Duration::from_secs(1)).await;
        }
        // A connection to an earlier process may not have been noticed to be gone.
        self.executor.sleep(Duration::from_secs(35)).await;
        clients.iter().all(|client| client.is_connected())
    }

    /// An orderly end leaves nothing behind, and another start finds everything.
    pub(super) async fn check_end(self: &Rc<Self>) {
        let Some(host) = self.host.take() else {
            return;
        };
        if self.options.control == Control::LeavesTask {
            host.leave_task();
        }
        if let Err(what) = host.stop(&self.executor).await {
            self.violate(what);
        }
        host.die();
        let clients = self.clients.borrow().clone();
        for client in &clients {
            client.leave().await;
        }
        self.executor.sleep(CONNECT_TIMEOUT).await;
        let left: usize = clients.iter().map(|client| client.task_count()).sum();
        if left > 0 {
            self.violate(format!("clients that left have {left} tasks"));
        }
        self.start();
        if !self.until_opened(HEAL_WAIT).await {
            return self.violate("the node does not start after an orderly stop");
        }
        self.check_all().await;
        // What was read out of the trash is on its way back.
        self.executor.sleep(Duration::from_secs(10)).await;
        if let Some(store) = self.store() {
            self.check_knowledge(&store).await;
        }
    }
}
