//! The node's part in garbage collection: fetches filters, has the store collect with them, and keeps what the satellite is to be told.
//!
//! [`Reports`] lies between the check-ins and the store: lost and revived pieces on their way to the satellite, bounded and kept until they
//! are taken; which run was announced; how the last one went. [`Collector`] is the task that fills it. What may be trashed is the store's
//! and the filter's decision (docs/wire.md, section 5). Everything here is forgotten when the process ends: a run is repeated then.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::time::Duration;

use futures_lite::future;
use strand_blob::{CollectError, CollectRequest, Collection, Disk, Store, Wanted};
use strand_protocol::limits::{FILTER_PARTS_MAX, REPORTED_PIECES_MAX};
use strand_protocol::{FilterError, NodeId, PieceFilter, pb};

use crate::admin::Board;
use crate::check_in::{CheckInError, Line};
use crate::core::Notify;
use crate::core::executor::{Clock, Executor, timeout};
use crate::limits::{FILTER_WAIT, GC_LOOK_PERIOD, REPORTS_KEPT_MAX};
use crate::permission::Permission;

/// A satellite's newest filters for this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Announced {
    /// Names the run.
    pub run: u64,
    /// How many filters it has.
    pub part_count: u32,
}

/// What goes with check-ins beside the node's own figures.
#[derive(Debug, Default)]
pub struct Reports {
    lost: RefCell<Waiting>,
    revived: RefCell<Waiting>,
    outcome: RefCell<Option<pb::CollectOutcome>>,
    announced: Cell<Option<Announced>>,
    figures: RefCell<CollectionFigures>,
    /// The run that `outcome` is about.
    finished: Cell<Option<u64>>,
    /// There is something that the satellite should hear soon.
    news: Notify,
    /// There is a run that was not there before.
    work: Notify,
    /// The store was opened, and the satellite does not know.
    opened: Notify,
}

/// The last collection since the start, for the owner.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct CollectionFigures {
    /// The satellite's number of the run; 0: none was worked on.
    pub run: u64,
    /// When that was, by our clock, in milliseconds since 1970.
    pub at_ms: u64,
    /// Pieces that the filters were about.
    pub examined: u64,
    /// Of these, those that were put into the trash.
    pub trashed: u64,
    /// Their bodies.
    pub trashed_bytes: u64,
    /// Filters that were refused because they would have trashed too much.
    pub refused_parts: u32,
    /// Pieces that these would have trashed.
    pub would_trash: u64,
    /// Of how many.
    pub would_trash_of: u64,
    /// Why the run was not worked through; empty if it was.
    pub error: String,
}

/// Piece ids that the satellite has not taken yet, oldest first.
#[derive(Debug, Default)]
struct Waiting {
    ids: VecDeque<[u8; 32]>,
    /// How many of the first were sent with the check-in under way.
    sent: usize,
}

impl Waiting {
    /// The first, as many as a check-in names.
    fn send(&mut self) -> Vec<Vec<u8>> {
        self.sent = self.ids.len().min(REPORTED_PIECES_MAX);
        self.ids
            .iter()
            .take(self.sent)
            .map(|id| id.to_vec())
            .collect()
    }

    /// Forgets what was taken; whether more of it should follow soon.
    fn taken(&mut self, count: u32) -> bool {
        let count = usize::try_from(count).unwrap_or(usize::MAX).min(self.sent);
        self.ids.drain(..count);
        // A satellite that has no room asks for no hurry.
        count > 0 && count == self.sent && !self.ids.is_empty()
    }

    /// Whether any is new. Beyond the bound they are dropped: the next scrub finds lost pieces again.
    fn add(&mut self, ids: impl IntoIterator<Item = [u8; 32]>) -> bool {
        let before = self.ids.len();
        let room = REPORTS_KEPT_MAX.saturating_sub(before);
        self.ids.extend(ids.into_iter().take(room));
        self.ids.len() > before
    }
}

impl Reports {
    /// Puts into a check-in what there is to say.
    pub fn fill(&self, check_in: &mut pb::CheckIn) {
        check_in.lost = self.lost.borrow_mut().send();
        check_in.revived = self.revived.borrow_mut().send();
        check_in.collected.clone_from(&self.outcome.borrow());
    }

    /// Takes in the answer to a check-in that was [filled](Self::fill).
    pub fn answered(&self, answer: &pb::CheckedIn) {
        let is_more_lost = self.lost.borrow_mut().taken(answer.lost_taken);
        let is_more_revived = self.revived.borrow_mut().taken(answer.revived_taken);
        if is_more_lost || is_more_revived {
            self.news.notify();
        }
        let announced = answer.filters.as_ref().map(|filters| Announced {
            run: filters.run,
            part_count: filters.part_count,
        });
        self.announced.set(announced);
        if self.due().is_some() {
            self.work.notify();
        }
    }

    /// The store is open: the satellite should have its figures at once.
    pub fn opened(&self) {
        self.opened.notify();
    }

    /// Waits for that; each time that it happened counts once.
    pub async fn until_opened(&self) {
        self.opened.notified().await;
    }

    /// Waits until the satellite should hear something before the next check-in's time.
    pub async fn news(&self) {
        self.news.notified().await;
    }

    /// Hears from the store what was lost of that satellite's pieces, and what came back.
    pub fn hear<D: Disk>(&self, node: NodeId, satellite: NodeId, store: &Store<D>) {
        let ours = |names: Vec<([u8; 32], [u8; 32])>| {
            let is_ours = |name: &([u8; 32], [u8; 32])| name.0 == *satellite.as_bytes();
            names
                .into_iter()
                .filter(is_ours)
                .map(|name| name.1)
                .collect::<Vec<_>>()
        };
        let (lost, revived) = (ours(store.take_lost()), ours(store.take_revived()));
        for id in &revived {
            let piece = strand_protocol::PieceId::from(*id);
            tracing::warn!(%node, %piece, "a piece was read out of the trash; it is back for good, and the satellite will hear of it");
        }
        let is_lost = self.lost.borrow_mut().add(lost);
        let is_revived = self.revived.borrow_mut().add(revived);
        if is_lost || is_revived {
            self.news.notify();
        }
    }

    /// Lost pieces that the satellite has not taken yet.
    #[cfg(any(test, feature = "testing"))]
    #[must_use]
    pub fn lost_waiting(&self) -> Vec<[u8; 32]> {
        self.lost.borrow().ids.iter().copied().collect()
    }

    /// The announced run, unless it is done.
    fn due(&self) -> Option<Announced> {
        let announced = self.announced.get()?;
        (self.finished.get() != Some(announced.run)).then_some(announced)
    }

    /// How the last collection went.
    #[must_use]
    pub fn figures(&self) -> CollectionFigures {
        self.figures.borrow().clone()
    }

    /// A run that cannot be worked on now waits for the next check-in.
    fn postpone(&self, run: u64, at_ms: u64, error: String) {
        self.announced.set(None);
        self.figures.replace(CollectionFigures {
            run,
            at_ms,
            error,
            ..CollectionFigures::default()
        });
    }

    fn finish(&self, outcome: pb::CollectOutcome, at_ms: u64) {
        self.figures.replace(CollectionFigures {
            run: outcome.run,
            at_ms,
            examined: outcome.examined,
            trashed: outcome.trashed,
            trashed_bytes: outcome.trashed_bytes,
            refused_parts: outcome.refused_parts,
            would_trash: outcome.would_trash,
            would_trash_of: outcome.would_trash_of,
            error: String::new(),
        });
        self.finished.set(Some(outcome.run));
        self.outcome.replace(Some(outcome));
        self.news.notify();
    }
}

/// Collects what the satellite announces. See the module's head.
pub struct Collector<'a, D: Disk, L, E> {
    /// This node.
    pub node: NodeId,
    /// Its satellite.
    pub satellite: NodeId,
    /// What is collected in.
    pub store: &'a Store<D>,
    /// The way to the satellite.
    pub line: &'a L,
    /// Knows the satellite's time.
    pub permission: &'a Permission,
    /// Shared with the check-ins.
    pub reports: &'a Reports,
    /// Where the owner asks to have the trash back.
    pub board: &'a Board,
    /// For waiting, and our wall clock.
    pub executor: &'a E,
}

/// Why a part was not worked through.
#[derive(Debug, thiserror::Error)]
enum PartError {
    #[error(transparent)]
    Line(#[from] CheckInError),
    #[error("the clock is too far off the satellite's")]
    Clock,
    #[error("the satellite did not send the filter within {} s", FILTER_WAIT.as_secs())]
    TooSlow,
    #[error("the satellite's filter is no filter: {0}")]
    Filter(#[from] FilterError),
    #[error("the satellite's filter is of satellite {satellite} for node {node}")]
    Other { satellite: NodeId, node: NodeId },
    #[error("the satellite's filter is from the future: {snapshot_s} > {now_s}")]
    Future { snapshot_s: u32, now_s: u32 },
    #[error(transparent)]
    Collect(#[from] CollectError),
}

impl<D: Disk, L: Line, E: Executor + Clock> Collector<'_, D, L, E> {
    /// Collects until it is dropped.
    pub async fn run(&self) {
        loop {
            self.reports.hear(self.node, self.satellite, self.store);
            self.answer_owner().await;
            if let Some(announced) = self.reports.due() {
                self.collect(announced).await;
            }
            let pause = self.executor.sleep(GC_LOOK_PERIOD);
            future::or(pause, self.reports.work.notified()).await;
        }
    }

    /// Brings the trash back if the owner has asked for it.
    async fn answer_owner(&self) {
        let Some(question) = self.board.restore_question() else {
            return;
        };
        let json = match self.satellite_s() {
            None => serde_json::json!({
                "error": "the node does not know the satellite's time well enough: it has not checked in, or this machine's clock is off"
            }),
            Some(now_s) => {
                let restored = self.store.restore_all(self.satellite.as_bytes(), now_s);
                match restored.await {
                    Ok(count) => serde_json::json!({ "restored": count }),
                    Err(error) => serde_json::json!({ "error": error.to_string() }),
                }
            }
        };
        tracing::info!(node = %self.node, answer = %json, "the owner asked for the trash back");
        self.board.show_restored(question, json.to_string());
    }

    async fn collect(&self, announced: Announced) {
        let Announced { run, part_count } = announced;
        let node = self.node;
        let postpone = |why: String| self.reports.postpone(run, self.executor.now_ms(), why);
        if self.store.is_read_only() {
            return postpone("nothing more is written to this disk".to_owned());
        }
        let mut outcome = pb::CollectOutcome {
            run,
            ..Default::default()
        };
        for part in 0..part_count.min(FILTER_PARTS_MAX) {
            match self.part(run, part).await {
                Ok(done) => add(&mut outcome, done),
                Err(PartError::Collect(CollectError::Refused { would_trash, of })) => {
                    tracing::error!(%node, would_trash, of, "the satellite's filter would trash too many of this node's pieces; nothing was trashed, and the satellite will hear of it");
                    outcome.refused_parts += 1;
                    outcome.would_trash += would_trash;
                    outcome.would_trash_of += of;
                }
                Err(error) => {
                    tracing::warn!(%node, %error, "garbage is not collected now; the next check-in tries again");
                    return postpone(error.to_string());
                }
            }
            self.executor.yield_now().await;
        }
        tracing::info!(%node, trashed = outcome.trashed, trashed_bytes = outcome.trashed_bytes, kept = outcome.kept, "collected garbage");
        self.reports.finish(outcome, self.executor.now_ms());
    }

    async fn part(&self, run: u64, part: u32) -> Result<Collection, PartError> {
        // Not worth a filter otherwise. The check-ins tell the owner.
        self.satellite_s().ok_or(PartError::Clock)?;
        let fetching = self.line.fetch_filter(pb::FetchFilter { run, part });
        let bytes = timeout(self.executor, FILTER_WAIT, fetching).await;
        let filter = PieceFilter::parse(bytes.ok_or(PartError::TooSlow)??)?;
        let scope = *filter.scope();
        if (scope.satellite, scope.node) != (self.satellite, self.node) {
            let (satellite, node) = (scope.satellite, scope.node);
            return Err(PartError::Other { satellite, node });
        }
        // Asked for each part, and once it is here: meanwhile a clock may be set or the machine sleep for days, and the trash's days begin now.
        let now_s = self.satellite_s().ok_or(PartError::Clock)?;
        // Rounded down: a piece of the same second is left alone.
        let snapshot_s = u32::try_from(scope.snapshot_ms / 1_000).unwrap_or(u32::MAX);
        if snapshot_s > now_s {
            return Err(PartError::Future { snapshot_s, now_s });
        }
        let request = CollectRequest {
            satellite: scope.satellite.into(),
            first_id: scope.first_id.into(),
            last_id: scope.last_id.into(),
            snapshot_s,
            wanted: &InFilter(filter),
            now_s,
        };
        Ok(self.store.collect(request).await?)
    }

    /// Satellite time in seconds since 1970; `None` while it is not known well enough to trash anything by it.
    fn satellite_s(&self) -> Option<u32> {
        let now_s = self.permission.expiry_time_s(self.executor.now_ms());
        (now_s != 0).then_some(now_s)
    }
}

/// The store asks, the filter answers.
struct InFilter(PieceFilter);

impl Wanted for InFilter {
    fn contains(&self, piece_id: &[u8; 32]) -> bool {
        self.0.contains(piece_id)
    }
}

fn add(outcome: &mut pb::CollectOutcome, done: Collection) {
    outcome.examined += done.examined;
    outcome.kept += done.kept;
    outcome.trashed += done.trashed;
    outcome.trashed_bytes += done.trashed_bytes;
}

/// After a check-in, before the next one that is not due by time.
pub(crate) const NEWS_PAUSE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests;
