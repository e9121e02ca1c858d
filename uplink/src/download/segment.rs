//! One segment's way back: does what [`FetchPlan`] decides, and hands over checked rows.
//!
//! A small range is first asked of the very data pieces that hold it. When one of them fails or is
//! late, and always for whole segments, the same columns of any `required` pieces are fetched
//! instead, hedged, and the missing rows are computed from them.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use strand_codec::{Hash, LEAF_BYTES, PlanCache, Shape};
use strand_protocol::pb::satellite_request::Verb;
use strand_protocol::{NodeId, Position, pb};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use super::decode::{Extent, SealedBytes};
use super::fetch::{FetchError, Row, Source, Wanted, fetch_piece};
use super::hedge::{Candidate, Fault, FetchPlan, HedgePatience, NodeBook, Standing, Step};
use crate::buffers::BufferStore;
use crate::error::{CallError, DownloadError};
use crate::limits::{LIMIT_REFRESHES_MAX, PLANS_MAX};
use crate::progress::Progress;
use crate::session::{Repeat, Session, answer_of};

/// A node that served bytes which do not fit the commitment.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Liar {
    /// Its node id.
    pub node: String,
    /// The piece's index.
    pub index: u8,
    /// The segment's number.
    pub segment: u32,
}

/// How a segment came back.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct SegmentReport {
    /// Its number.
    pub segment: u32,
    /// Plaintext bytes wanted of it.
    pub bytes: u64,
    /// Whether the satellite kept it, without pieces.
    pub inline: bool,
    /// Pieces it was restored from.
    pub pieces: u32,
    /// Pieces the satellite knows of.
    pub pieces_stored: u32,
    /// Length of a piece.
    pub piece_bytes: u64,
    /// Pieces started in the place of failed or late ones.
    pub replaced: u32,
    /// Streams cancelled because enough others were whole.
    pub cancelled: u32,
    /// Data pieces that could not be had and were computed.
    pub data_pieces_lost: u32,
    /// Pieces whose nodes were unreachable, silent or broke off.
    pub gone: u32,
    /// Pieces whose nodes no longer have them, or found them damaged.
    pub missing: u32,
    /// Nodes that lied.
    pub liars: Vec<Liar>,
}

/// A segment that has pieces.
#[derive(Clone, Debug)]
pub(super) struct PieceSegment {
    pub(super) number: u32,
    pub(super) position: Position,
    pub(super) shape: Shape,
    pub(super) commitment: Hash,
}

/// What all segments of a download share.
pub(super) struct Context {
    pub(super) session: Arc<Session>,
    pub(super) bucket: String,
    pub(super) encrypted_key: Vec<u8>,
    pub(super) stream_id: Vec<u8>,
    pub(super) patience: HedgePatience,
    pub(super) store: Arc<BufferStore>,
    pub(super) progress: Arc<dyn Progress>,
}

/// What a download learns on its way, segment by segment.
pub(super) struct Learned {
    pub(super) nodes: NodeBook,
    pub(super) first_byte: Option<Duration>,
    pub(super) plans: PlanCache,
}

impl Learned {
    pub(super) fn new() -> Self {
        Self {
            nodes: NodeBook::default(),
            first_byte: None,
            plans: PlanCache::new(PLANS_MAX),
        }
    }
}

type Sources = BTreeMap<u8, Source>;

/// Fetches the rows that an extent of the segment needs.
pub(super) async fn fetch_segment(
    context: &Context,
    segment: &PieceSegment,
    extent: &Extent,
    learned: &mut Learned,
) -> Result<(SealedBytes, SegmentReport), DownloadError> {
    let mut report = SegmentReport {
        segment: segment.number,
        bytes: extent.plain.end - extent.plain.start,
        piece_bytes: segment.shape.piece_len(),
        ..SegmentReport::default()
    };
    let columns = extent.columns(&segment.shape);
    let needed: Vec<u8> = columns.keys().copied().collect();
    let sources = fetch_sources(context, segment).await?;
    report.pieces_stored = sources.len() as u32;
    let mut fetch = Fetch {
        context,
        segment,
        learned,
        report,
        sources,
    };
    let rows = match fetch.directly(&columns).await {
        Some(rows) => rows,
        None => fetch.any(&columns).await?,
    };
    let report = fetch.report;
    let sealed = SealedBytes::new(segment.shape, rows, &needed, &mut learned.plans);
    let sealed = sealed.map_err(|error| DownloadError::Unopenable {
        segment: segment.number,
        reason: error.to_string(),
    })?;
    Ok((sealed, report))
}

/// Fresh limits for all stored pieces.
async fn fetch_sources(context: &Context, segment: &PieceSegment) -> Result<Sources, CallError> {
    let verb = Verb::GetSegment(pb::GetSegment {
        bucket: context.bucket.clone(),
        encrypted_key: context.encrypted_key.clone(),
        stream_id: context.stream_id.clone(),
        position: u64::from(segment.position),
    });
    let limits = answer_of!(
        context.session.call(verb, Repeat::Harmless).await,
        PieceLimits,
        "GetSegment"
    )?;
    let mut sources = BTreeMap::new();
    for limit in limits.limits {
        let index = u8::try_from(limit.index)
            .ok()
            .filter(|index| *index < segment.shape.total());
        let node = NodeId::try_from(limit.node_id.as_slice()).ok();
        let (Some(index), Some(node)) = (index, node) else {
            return Err(CallError::BadAnswer {
                verb: "GetSegment",
                what: "a limit names no index or node",
            });
        };
        sources.insert(
            index,
            Source {
                node,
                address: limit.address,
                limit: limit.limit,
            },
        );
    }
    Ok(sources)
}

struct Fetch<'a> {
    context: &'a Context,
    segment: &'a PieceSegment,
    learned: &'a mut Learned,
    report: SegmentReport,
    sources: Sources,
}

struct OpenFetch {
    abort: AbortHandle,
    seen_bytes: Arc<AtomicU64>,
    counted_bytes: u64,
    /// Which fetch of the limits it works under.
    limits_generation: u32,
}

type Fetched = (u8, Result<Row, FetchError>);

impl Fetch<'_> {
    /// The data pieces that hold the extent, each its own range. `None` if that does not work out,
    /// or would not be less work.
    async fn directly(&mut self, columns: &BTreeMap<u8, Range<u64>>) -> Option<BTreeMap<u8, Row>> {
        if columns.len() >= usize::from(self.segment.shape.required()) {
            return None;
        }
        let is_hopeful = |index: &u8| {
            self.sources.get(index).is_some_and(|source| {
                self.learned.nodes.standing(&source.node) <= Standing::Unknown
            })
        };
        if !columns.keys().all(is_hopeful) {
            return None;
        }
        let mut tasks = JoinSet::new();
        let seen_bytes = Arc::new(AtomicU64::new(0));
        for (index, range) in columns {
            self.spawn(&mut tasks, *index, leaves_of(range), seen_bytes.clone());
        }
        let mut rows = BTreeMap::new();
        let patience = self.context.patience.first_byte_blind;
        let mut quiet_until = Instant::now() + patience;
        let mut counted_bytes = 0;
        while rows.len() < columns.len() {
            tokio::select! {
                Some(fetched) = tasks.join_next() => {
                    let (index, outcome) = fetched.ok()?;
                    match outcome {
                        Ok(row) => {
                            self.learned.nodes.handle_good(self.sources.get(&index)?.node);
                            rows.insert(index, row);
                        }
                        Err(FetchError::Bad(fault, reason)) => {
                            self.note(index, fault, &reason);
                            return None;
                        }
                        Err(FetchError::StaleLimit(_)) => return None,
                    }
                }
                () = tokio::time::sleep(TICK) => {}
            }
            let seen = seen_bytes.load(Ordering::Relaxed);
            if seen > counted_bytes {
                counted_bytes = seen;
                quiet_until = Instant::now() + patience;
            }
            if rows.len() < columns.len() && Instant::now() >= quiet_until {
                for index in columns.keys().filter(|index| !rows.contains_key(index)) {
                    if let Some(source) = self.sources.get(index) {
                        self.learned.nodes.handle_late(source.node);
                    }
                }
                return None;
            }
        }
        self.report.pieces = rows.len() as u32;
        Some(rows)
    }

    /// The same columns of any `required` pieces.
    async fn any(
        &mut self,
        columns: &BTreeMap<u8, Range<u64>>,
    ) -> Result<BTreeMap<u8, Row>, DownloadError> {
        let shape = self.segment.shape;
        let is_whole = columns.len() >= usize::from(shape.required());
        let start = columns.values().map(|range| range.start).min().unwrap_or(0);
        let end = columns.values().map(|range| range.end).max().unwrap_or(0);
        let leaves = leaves_of(&(start..end));
        if !is_whole {
            // The limits were used for the direct attempt.
            self.sources = fetch_sources(self.context, self.segment).await?;
        }
        let candidates: Vec<Candidate> = self
            .sources
            .iter()
            .map(|(index, source)| Candidate {
                index: *index,
                standing: self.learned.nodes.standing(&source.node),
            })
            .collect();
        let first_byte = self.learned.first_byte;
        let plan = FetchPlan::new(
            shape.required(),
            &candidates,
            first_byte,
            self.context.patience,
        );
        Racing {
            leaves,
            plan,
            begun: Instant::now(),
            tasks: JoinSet::new(),
            open: HashMap::new(),
            rows: BTreeMap::new(),
            limits_generation: 0,
            fetch: self,
        }
        .run()
        .await
    }

    fn spawn(
        &self,
        tasks: &mut JoinSet<Fetched>,
        index: u8,
        leaves: Range<u32>,
        seen_bytes: Arc<AtomicU64>,
    ) -> Option<AbortHandle> {
        let source = self.sources.get(&index)?.clone();
        let session = self.context.session.clone();
        let store = self.context.store.clone();
        let wanted = Wanted {
            shape: self.segment.shape,
            commitment: self.segment.commitment,
            leaves,
        };
        Some(tasks.spawn(async move {
            (
                index,
                fetch_piece(&session, &source, index, &wanted, &seen_bytes, &store).await,
            )
        }))
    }

    /// Writes a fault into the books.
    fn note(&mut self, index: u8, fault: Fault, reason: &str) {
        let Some(source) = self.sources.get(&index) else {
            return;
        };
        let node = source.node;
        tracing::debug!(segment = self.segment.number, index, %node, ?fault, reason, "piece did not come");
        self.learned.nodes.handle_bad(node, fault);
        match fault {
            Fault::Lied => {
                self.context.progress.note(&format!(
                    "segment {}: node {node} served an altered piece {index} ({reason})",
                    self.segment.number
                ));
                self.report.liars.push(Liar {
                    node: node.to_string(),
                    index,
                    segment: self.segment.number,
                });
            }
            Fault::Gone | Fault::Refused => self.report.gone += 1,
            Fault::Missing | Fault::Damaged => self.report.missing += 1,
        }
    }
}

/// A hedged fetch under way.
struct Racing<'a, 'b> {
    fetch: &'a mut Fetch<'b>,
    leaves: Range<u32>,
    plan: FetchPlan,
    begun: Instant,
    tasks: JoinSet<Fetched>,
    open: HashMap<u8, OpenFetch>,
    rows: BTreeMap<u8, Row>,
    limits_generation: u32,
}

impl Racing<'_, '_> {
    async fn run(mut self) -> Result<BTreeMap<u8, Row>, DownloadError> {
        loop {
            self.count_progress();
            let now = self.begun.elapsed();
            while let Some(step) = self.plan.poll(now) {
                match step {
                    Step::Start(index) => self.start(index),
                    Step::Finish => return Ok(self.finish(now)),
                    Step::Fail(shortage) => {
                        self.close_books(now);
                        let report = &self.fetch.report;
                        let late_count = self.plan.late(now).len();
                        return Err(DownloadError::NotEnoughPieces {
                            segment: self.fetch.segment.number,
                            required_count: shortage.required_count,
                            good_count: shortage.good_count,
                            stored_count: shortage.stored_count,
                            gone_count: report.gone as usize + late_count,
                            missing_count: report.missing as usize,
                            liar_count: report.liars.len(),
                            pending_count: self.plan.active().len() - late_count,
                        });
                    }
                }
            }
            tokio::select! {
                Some(fetched) = self.tasks.join_next() => {
                    // A task of ours is never aborted before the end, and does not panic.
                    if let Ok((index, outcome)) = fetched {
                        self.handle(index, outcome).await?;
                    }
                }
                () = tokio::time::sleep(TICK) => {}
            }
        }
    }

    fn start(&mut self, index: u8) {
        let seen_bytes = Arc::new(AtomicU64::new(0));
        let abort = self.fetch.spawn(
            &mut self.tasks,
            index,
            self.leaves.clone(),
            seen_bytes.clone(),
        );
        if let Some(abort) = abort {
            let limits_generation = self.limits_generation;
            self.open.insert(
                index,
                OpenFetch {
                    abort,
                    seen_bytes,
                    counted_bytes: 0,
                    limits_generation,
                },
            );
        }
    }

    async fn handle(
        &mut self,
        index: u8,
        outcome: Result<Row, FetchError>,
    ) -> Result<(), DownloadError> {
        let open = self.open.remove(&index);
        let now = self.begun.elapsed();
        match outcome {
            Ok(row) => {
                if open.is_some_and(|open| {
                    open.seen_bytes.load(Ordering::Relaxed) > open.counted_bytes
                }) {
                    self.plan.handle_progress(now, index);
                }
                self.rows.insert(index, row);
                self.plan.handle_good(now, index);
                if let Some(source) = self.fetch.sources.get(&index) {
                    self.fetch.learned.nodes.handle_good(source.node);
                }
            }
            Err(FetchError::Bad(fault, reason)) => {
                self.plan.handle_bad(now, index, fault);
                self.fetch.note(index, fault, &reason);
            }
            Err(FetchError::StaleLimit(reason)) => {
                let used = open.map_or(self.limits_generation, |open| open.limits_generation);
                if used == self.limits_generation && self.limits_generation < LIMIT_REFRESHES_MAX {
                    let fresh = fetch_sources(self.fetch.context, self.fetch.segment).await?;
                    self.fetch.sources = fresh;
                    self.limits_generation += 1;
                }
                if used < self.limits_generation && self.fetch.sources.contains_key(&index) {
                    self.plan.handle_again(index);
                } else {
                    self.plan.handle_bad(now, index, Fault::Refused);
                    self.fetch.note(index, Fault::Refused, &reason);
                }
            }
        }
        Ok(())
    }

    fn count_progress(&mut self) {
        let now = self.begun.elapsed();
        for (index, open) in &mut self.open {
            let seen_bytes = open.seen_bytes.load(Ordering::Relaxed);
            if seen_bytes > open.counted_bytes {
                open.counted_bytes = seen_bytes;
                self.plan.handle_progress(now, *index);
            }
        }
    }

    fn finish(mut self, now: Duration) -> BTreeMap<u8, Row> {
        self.close_books(now);
        self.fetch.report.pieces = self.rows.len() as u32;
        self.rows
    }

    fn close_books(&mut self, now: Duration) {
        for index in self.plan.late(now) {
            if let Some(source) = self.fetch.sources.get(&index) {
                self.fetch.learned.nodes.handle_late(source.node);
            }
        }
        self.fetch.learned.first_byte = self.plan.first_byte_median();
        self.fetch.report.replaced = self.plan.replaced_count() as u32;
        self.fetch.report.cancelled = self.plan.active().len() as u32;
        self.fetch.report.data_pieces_lost = self.plan.lost_data(now).len() as u32;
        for open in self.open.values() {
            open.abort.abort();
        }
    }
}

/// The leaves that cover these bytes of a piece.
fn leaves_of(columns: &Range<u64>) -> Range<u32> {
    let leaf = LEAF_BYTES as u64;
    // A piece has at most 4,100 leaves.
    (columns.start / leaf) as u32..columns.end.div_ceil(leaf) as u32
}

/// How often progress is looked at.
const TICK: Duration = Duration::from_millis(20);
