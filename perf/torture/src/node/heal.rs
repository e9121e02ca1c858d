//! The liveness phase: no fault comes any more, and everything must be as it should.

use std::rc::Rc;
use std::time::Duration;

use piecestore::core::executor::Executor;
use strand_protocol::limits::CONNECT_TIMEOUT;

use super::Control;
use super::plan::Episode;
use super::world::{HEAL_WAIT, World};

/// How long the node is then left alone, to tidy up.
const IDLE: Duration = Duration::from_secs(20);

impl World {
    /// No fault comes any more: everything must be as it should, and soon.
    pub(super) async fn heal(self: &Rc<Self>) {
        self.enter(Episode::calm());
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
        if !self.until_connected().await {
            return self.violate("a client does not connect again");
        }
        self.is_strict.set(true);
        let clients = self.clients.borrow().clone();
        for client in &clients {
            let key = self.new_piece(false);
            let is_well = self.ping(client).await
                && self.put(client, key).await
                && self.get(client, key).await
                && self.put(client, key).await
                && self.delete(client, key).await;
            let kept = self.new_piece(false);
            if !is_well || !self.put(client, kept).await {
                self.violate("a verb failed though nothing is wrong any more");
            }
        }
        self.executor.sleep(self.options.strict).await;
        self.is_loading.set(false);
        self.check_all().await;
        self.executor.sleep(IDLE).await;
        self.check_tidy().await;
        self.check_all().await;
        self.check_end().await;
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
        if let Some(store) = self.store() {
            self.check_knowledge(&store).await;
        }
    }
}
