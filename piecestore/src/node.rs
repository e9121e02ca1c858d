//! One node on its core: a directory, its store, its endpoint, its check-ins.
//!
//! Everything here belongs to one core and lives in [`Node`]; a dead disk or a refused address costs its own node and
//! no other. A node is in the network from [`Node::begin`] on, and says that it is busy until [`Node::open`] has its index.
//! [`Node::stop`] refuses new requests, lets those begun end, and closes what was opened, in the opposite order.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use futures_lite::future;
use strand_blob::{OpenError, StoreOptions};

use crate::admin::Board;
use crate::contact::Contact;
use crate::core::executor::{Clock, Executor};
use crate::core::{Core, CoreExecutor, Notify};
use crate::directory::{CheckpointsError, Directory};
use crate::disk::CoreDisk;
use crate::hardware::DiskTurn;
use crate::jobs::{JobKind, JobOpening, compact_all};
use crate::limits::{SPINNING_APPEND_POINTS, SPINNING_GAP_BYTES_MAX};
use crate::quic::BindError;
use crate::scrub::scrub_running;
use crate::serve::Admission;
use crate::serving::{Serving, ServingOptions};
use crate::status::{
    CounterFigures, DiskFigures, OpeningFigures, SpaceFigures, Status, disk_trouble,
};
use crate::watch::DiskState;

/// A running node.
pub struct Node {
    directory: Directory,
    board: Arc<Board>,
    serving: Serving<CoreDisk<CoreExecutor>, CoreExecutor>,
    budgets: Budgets,
    contact: Contact,
    is_spinning: bool,
    stop_job: Rc<Notify>,
    turn: DiskTurn,
    has_said_trouble: Cell<bool>,
    disk: CoreDisk<CoreExecutor>,
    disk_state: Cell<DiskState>,
}

/// What a node is made of before it has a core.
#[derive(Debug)]
pub struct Seat {
    /// Open and locked.
    pub directory: Directory,
    /// Where its status is asked for.
    pub board: Arc<Board>,
    /// Whether its disk spins, or is to be taken for one that does.
    pub is_spinning: bool,
    /// For work in the background on its disk.
    pub turn: DiskTurn,
}

/// The memory that all nodes of a core share.
#[derive(Clone, Debug)]
pub struct Budgets {
    /// For bodies coming in.
    pub writes: Rc<Admission>,
    /// For bodies going out.
    pub reads: Rc<Admission>,
}

/// Why a node does not run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// Its disk cannot be used at all.
    #[error("cannot open the blobs: {0}")]
    Disk(std::io::Error),
    /// Its checkpoints cannot be told what happens to the store.
    #[error(transparent)]
    Checkpoints(#[from] CheckpointsError),
    /// Its store cannot be opened.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// Its address cannot be bound.
    #[error(transparent)]
    Bind(#[from] BindError),
}

impl Node {
    /// Binds the socket, and begins to check in and to answer; that it is busy, as long as [`open`](Self::open) has not ended.
    pub fn begin(core: &Core, seat: Seat, budgets: Budgets) -> Result<Self, NodeError> {
        let Seat {
            directory,
            board,
            is_spinning,
            turn,
        } = seat;
        let config = directory.config();
        let node_id = config.node_id;

        // By the descriptor that was opened under the lock, not by the path: a disk that was unmounted meanwhile is
        // not replaced by what lies under it.
        let folder = directory.open_blobs().map_err(NodeError::Disk)?;
        let mut disk = core
            .disk_in(&directory.blobs(), folder)
            .map_err(NodeError::Disk)?;
        match directory.open_checkpoints()? {
            Some(folder) => disk = disk.with_checkpoints(folder),
            None => {
                tracing::warn!(node = %node_id, "no folder for checkpoints can be made: every start reads all blobs");
            }
        }
        let options = ServingOptions {
            satellite: config.satellite.id,
            writes: Rc::clone(&budgets.writes),
            reads: Rc::clone(&budgets.reads),
            turn: turn.clone(),
        };
        let serving = Serving::begin(
            core.driver(),
            core.executor(),
            directory.identity(),
            config.listen,
            options,
        )?;
        let contact = Contact::new(config.clone(), Arc::clone(&board));
        let node = Self {
            directory,
            board,
            serving,
            budgets,
            contact,
            is_spinning,
            stop_job: Rc::default(),
            turn,
            has_said_trouble: Cell::new(false),
            disk,
            disk_state: Cell::default(),
        };
        node.contact.begin_check_ins(&node.serving, random_byte);
        Ok(node)
    }

    /// Recovers the store, and begins to serve and to look after it. False: the node was told to stop meanwhile.
    pub async fn open(&self) -> Result<bool, NodeError> {
        let config = self.directory.config();
        let node_id = config.node_id;
        let mut options = StoreOptions::new(*node_id.as_bytes(), config.capacity.bytes());
        if self.is_spinning {
            options.append_points_max = SPINNING_APPEND_POINTS;
            options.lanes_max = 1;
            options.compact_gap_bytes_max = SPINNING_GAP_BYTES_MAX;
        }
        let disk = self.disk.clone();
        let opened = self.serving.open(disk, options, &mut fill_random).await?;
        let Some((store, recovery)) = opened else {
            return Ok(false);
        };
        for rot in &recovery.rotten {
            tracing::error!(node = %node_id, ?rot, "found damaged at start; what it held is lost to this node");
        }
        tracing::debug!(node = %node_id, ?recovery, "store recovered");
        self.contact.begin_collecting(&self.serving, store);
        Ok(true)
    }

    /// Ends [`open`](Self::open) early. Nothing was written, and nobody was promised anything.
    pub fn stop_opening(&self) {
        self.serving.stop_opening();
    }

    /// Answers the admin socket, if it has asked.
    pub fn answer_admin(&self, core: &Core, core_index: usize) {
        // Later the collector does that.
        if self.serving.service().store().is_none()
            && let Some(question) = self.board.restore_question()
        {
            let json = serde_json::json!({ "error": self.opening_sentence() });
            self.board.show_restored(question, json.to_string());
        }
        let Some(question) = self.board.question() else {
            return;
        };
        let status = self.status(core, core_index);
        let json = serde_json::to_string(&status)
            .unwrap_or_else(|error| format!("{{\"error\":\"{error}\"}}"));
        self.board.show(question, json);
    }

    /// Begins what the owner asked for through the admin socket.
    pub fn begin_job(&self, core: &Core) {
        // It waits until the store is open.
        let Some(store) = self.serving.service().store().cloned() else {
            self.board.jobs.delay(|| JobOpening {
                bytes_done: self.serving.opening().bytes_done(),
                sentence: OpeningFigures::how_far(self.serving.opening()),
            });
            return;
        };
        let Some(kind) = self.board.jobs.take() else {
            return;
        };
        let Some(pass) = self.serving.tasks().enter() else {
            self.board.jobs.end("the node is stopping".to_owned());
            return;
        };
        let (executor, service) = (core.executor(), Rc::clone(self.serving.service()));
        let (board, turn) = (Arc::clone(&self.board), self.turn.clone());
        let stop = Rc::clone(&self.stop_job);
        let node_id = self.serving.endpoint().node_id();
        executor.spawn(async move {
            let _pass = pass;
            let work = async {
                let failed = match kind {
                    JobKind::Compact => {
                        let _turn = turn.take(&executor).await;
                        let now_s = service.permission().expiry_time_s(executor.now_ms());
                        let each = |figures: &_| board.jobs.report(*figures);
                        let done = compact_all(&store, now_s, each).await;
                        done.err().map(|error| error.to_string())
                    }
                    JobKind::Scrub => {
                        let done = scrub_running(node_id, &store, &board.jobs, &turn, &executor);
                        done.await.err().map(|error| error.to_string())
                    }
                };
                failed.unwrap_or_default()
            };
            let stopped = async {
                stop.notified().await;
                "the node is stopping".to_owned()
            };
            board.jobs.end(future::or(work, stopped).await);
        });
    }

    /// Says in the log when the disk's state changes, and once why nothing more is stored.
    pub fn watch_disk(&self) {
        let state = self.disk.state();
        if self.disk_state.replace(state) != state {
            let node = self.directory.config().node_id;
            if state == DiskState::Fine {
                tracing::info!(%node, "the disk is as it should be again");
            } else {
                tracing::error!(%node, "{}", state.sentence());
            }
        }
        if let Some(cause) = self
            .serving
            .service()
            .store()
            .and_then(|store| store.poison_cause())
            && !self.has_said_trouble.replace(true)
        {
            let node = self.directory.config().node_id;
            tracing::error!(%node, "{}", disk_trouble(&cause));
        }
    }

    /// The line that says that the node serves, or that it does not yet.
    #[must_use]
    pub fn line(&self) -> String {
        let (node, address) = (
            self.serving.endpoint().node_id(),
            self.serving.endpoint().local_addr(),
        );
        let directory = self.directory.path().display();
        let Some(store) = self.serving.service().store() else {
            let sentence = self.opening_sentence();
            return format!("opening {node} on {address}, {directory}: {sentence}");
        };
        let space = store.space();
        format!(
            "serving {node} on {address}, {directory}: {} pieces, {} used of {}",
            store.counters().pieces,
            crate::status::human_bytes(space.file_bytes),
            crate::status::human_bytes(space.capacity_bytes),
        )
    }

    fn opening_sentence(&self) -> String {
        OpeningFigures::new(self.serving.opening(), false).sentence
    }

    /// From now on new requests are refused.
    pub fn drain(&self) {
        self.serving.service().drain();
    }

    /// Requests running now.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.serving.service().in_flight()
    }

    /// Closes connections, check-ins and the store. What was acked is durable already; what was not is dropped.
    pub async fn stop(&self) {
        self.contact.stop();
        self.stop_job.notify();
        self.serving.stop().await;
        // The next start removes it if this fails.
        let _ = std::fs::remove_file(self.directory.path().join(crate::admin::SOCKET_FILE));
    }

    fn status(&self, core: &Core, core_index: usize) -> Status {
        let config = self.directory.config();
        let store = self.serving.service().store();
        let poison_cause = store.and_then(|store| store.poison_cause());
        let read_only = store.is_some_and(|store| store.is_read_only());
        let share_bytes = strand_codec::SHARE_BYTES as u64;
        let has_room = store.is_none_or(|store| store.has_room(share_bytes));
        let permission = self.serving.service().permission();
        let now_ms = core.executor().now_ms();
        Status {
            version: env!("CARGO_PKG_VERSION"),
            node_id: config.node_id.to_string(),
            satellite: config.satellite.to_string(),
            directory: self.directory.path().display().to_string(),
            listen: self.serving.endpoint().local_addr().to_string(),
            advertise: config
                .advertise
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
            process_id: std::process::id(),
            core_index,
            io: core.io().to_string(),
            started_ms: self.serving.started_ms(),
            uptime_s: now_ms.saturating_sub(self.serving.started_ms()) / 1000,
            standing: self.contact.standing(),
            clock_offset_ms: permission.clock_offset_ms(),
            serials: permission.serial_count(),
            collection: self.contact.reports().figures(),
            opening: OpeningFigures::new(self.serving.opening(), store.is_some()),
            read_only,
            read_only_reason: poison_cause.as_ref().map(disk_trouble).unwrap_or_default(),
            disk: DiskFigures::new(self.disk.state(), read_only, has_room),
            space: store.map_or_else(
                || SpaceFigures::unopened(config.capacity.bytes(), self.serving.opening()),
                |store| store.space().into(),
            ),
            requests: self.serving.service().counters(),
            write_budget: self.budgets.writes.usage(),
            read_budget: self.budgets.reads.usage(),
            connection_budget: core.driver().connection_budget(),
            counters: CounterFigures::new(
                &store.map(|store| store.counters()).unwrap_or_default(),
                core.counters(),
            ),
        }
    }
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node")
            .field("directory", &self.directory.path())
            .finish_non_exhaustive()
    }
}

#[expect(
    clippy::expect_used,
    reason = "salts cannot be made without the system's random source"
)]
pub(crate) fn fill_random(bytes: &mut [u8]) {
    getrandom::fill(bytes).expect("the system has a random source");
}

fn random_byte() -> u8 {
    let mut byte = [0];
    fill_random(&mut byte);
    byte[0]
}
