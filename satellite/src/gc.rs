//! Garbage collection: a walk over all segments that ends in a filter for every node.
//!
//! Each run walks the segments once to count each node's pieces and to take lost ones out, and then
//! as often as it takes to hold no more than [`GC_PIECES_MAX`](limits::GC_PIECES_MAX) hashes in
//! memory. Which pieces a filter may speak of is decided before the walk (`core/collect.rs`,
//! docs/wire.md section 5), so nothing that goes on beside it can be missed. Filters are announced
//! when all are there: a run that fails announces nothing.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use strand_protocol::{
    BuildError, Code, FilterKey, FilterScope, NodeId, PieceFilter, PieceId, Position, StreamId,
    limits as shared, pb, piece_id,
};
use tokio::sync::Notify;

use crate::clock;
use crate::core::collect::{self, Part, Sizes};
use crate::core::refusal::Refusal;
use crate::core::row::{
    CollectionOutcome, CollectionRow, CollectionRun, LostPlacement, NodeNumber, Pieces, SegmentRow,
};
use crate::limits;
use crate::state::Satellite;
use crate::store::{
    Filter, LeftOfSegment, MetaStore, Reports, StoreError, Taken, outcome_reported,
};

/// How garbage is collected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GcOptions {
    /// From the begin of one run to that of the next.
    pub period: Duration,
    /// How far a satellite's clock may be set back without a wanted piece being trashed. For tests
    /// alone it is ever less than [`MARGIN`](Self::MARGIN).
    pub danger_margin: Duration,
    /// How many pieces a filter is made for, about; a node with more gets several. [`PART_PIECES`](Self::PART_PIECES) at most.
    pub part_pieces: u64,
}

impl GcOptions {
    /// The margin of docs/wire.md, section 5.
    pub const MARGIN: Duration = Duration::from_secs(3_600);
    /// Three quarters of what a filter may hold.
    pub const PART_PIECES: u64 = collect::PART_PIECES;
    /// Once a day.
    pub const PERIOD: Duration = Duration::from_secs(24 * 3_600);
}

impl Default for GcOptions {
    fn default() -> Self {
        Self {
            period: Self::PERIOD,
            danger_margin: Self::MARGIN,
            part_pieces: Self::PART_PIECES,
        }
    }
}

/// Why a run failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GcError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("no filter can be made for node {node}: {error}")]
    Build { node: NodeId, error: BuildError },
    #[error("the task that makes filters died")]
    Died,
}

/// Who asks for runs, and how they went.
#[derive(Default)]
pub(crate) struct Gc {
    wake: Notify,
    state: Mutex<GcState>,
}

/// Runs since the start, by number from 1.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct GcState {
    pub(crate) begun: u64,
    pub(crate) ended: u64,
    /// Why the last run failed.
    pub(crate) error: Option<String>,
}

impl Gc {
    /// Asks for a run from now on; returns its number.
    pub(crate) fn request(&self) -> u64 {
        let number = self.state().begun + 1;
        self.wake.notify_one();
        number
    }

    pub(crate) fn state(&self) -> GcState {
        self.lock().clone()
    }

    fn begin(&self) {
        self.lock().begun += 1;
    }

    fn end(&self, error: Option<String>) {
        let mut state = self.lock();
        state.ended = state.begun;
        state.error = error;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, GcState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs when it is time or when asked, until the task is aborted.
pub(crate) async fn run<S: MetaStore>(satellite: Arc<Satellite<S>>, options: GcOptions) {
    let mut pause = limits::GC_FIRST_DELAY;
    loop {
        if let Ok(Some(last)) = satellite.store.last_run().await {
            let since = Duration::from_millis(clock::now_ms().saturating_sub(last.run));
            pause = pause.max(options.period.saturating_sub(since));
        }
        // Woken or in time: both are a reason to run.
        let _ = tokio::time::timeout(pause, satellite.gc.wake.notified()).await;
        satellite.gc.begin();
        let error = match collect(&satellite, options).await {
            Ok(run) => {
                tracing::info!(
                    segments = run.segment_count,
                    pieces = run.piece_count,
                    nodes = run.node_count,
                    lost = run.lost_count,
                    "garbage collection: filters are ready for the nodes"
                );
                None
            }
            Err(error) => {
                tracing::warn!(%error, "garbage collection failed; it is tried again later");
                Some(error.to_string())
            }
        };
        satellite.gc.end(error);
        pause = limits::GC_RETRY;
    }
}

/// One run.
pub(crate) async fn collect<S: MetaStore>(
    satellite: &Satellite<S>,
    options: GcOptions,
) -> Result<CollectionRun, GcError> {
    let store = &satellite.store;
    let margin_ms = u64::try_from(options.danger_margin.as_millis()).unwrap_or(u64::MAX);
    let sizes = Sizes {
        part_pieces: options.part_pieces,
        pass_pieces: limits::GC_PIECES_MAX,
    };
    // The order of these two is what makes the snapshot safe: an upload that is not in the store by
    // the second began after the first.
    let began_ms = clock::now_ms();
    let oldest_ms = store.oldest_open_upload().await?;
    let last = store.last_run().await?.unwrap_or_default();
    let run = CollectionRun {
        run: began_ms.max(last.run + 1),
        snapshot_ms: collect::snapshot_ms(began_ms, oldest_ms, margin_ms),
        ..CollectionRun::default()
    };
    let nodes: BTreeMap<NodeNumber, NodeId> = satellite
        .nodes
        .all()
        .into_iter()
        .map(|(number, row)| (number, row.id))
        .collect();
    let (mut run, counts) = count(satellite, run, &nodes).await?;
    for pass in collect::passes(&nodes, &counts, sizes) {
        let filled = fill(satellite, &pass).await?;
        store_filters(satellite, &run, filled).await?;
    }
    let rows = nodes.keys().map(|&node| {
        let piece_count = counts.get(&node).copied().unwrap_or(0);
        let row = CollectionRow {
            run: run.run,
            part_count: sizes.part_count(piece_count),
            snapshot_ms: run.snapshot_ms,
            piece_count,
            outcome: None,
        };
        (node, row)
    });
    let rows: Vec<_> = rows.collect();
    for rows in rows.chunks(limits::GC_NODES_PER_STEP) {
        patiently(|| store.announce(rows.to_vec())).await?;
    }
    run.node_count = nodes.len() as u32;
    run.ended_ms = clock::now_ms();
    patiently(|| store.put_run(run)).await?;
    Ok(run)
}

/// A walk over all segments, which rests between its steps.
struct Walk<'a, S> {
    store: &'a S,
    after: Option<(StreamId, Position)>,
    is_over: bool,
    rest: Duration,
}

impl<'a, S: MetaStore> Walk<'a, S> {
    fn new(store: &'a S) -> Self {
        Self {
            store,
            after: None,
            is_over: false,
            rest: Duration::ZERO,
        }
    }

    /// The next segments; `None` after the last.
    async fn step(&mut self) -> Result<Option<Vec<(StreamId, SegmentRow)>>, StoreError> {
        if self.is_over {
            return Ok(None);
        }
        tokio::time::sleep(self.rest).await;
        let began = tokio::time::Instant::now();
        let step = self
            .store
            .segments_after(self.after, limits::GC_SEGMENTS_PER_STEP);
        let (segments, next) = step.await?;
        self.rest = collect::rest(segments.len(), began.elapsed());
        self.is_over = next.is_none();
        self.after = next;
        Ok(Some(segments))
    }
}

/// The first walk: counts pieces, and takes lost ones out of their segments.
async fn count<S: MetaStore>(
    satellite: &Satellite<S>,
    mut run: CollectionRun,
    nodes: &BTreeMap<NodeNumber, NodeId>,
) -> Result<(CollectionRun, BTreeMap<NodeNumber, u64>), GcError> {
    let store = &satellite.store;
    let lost = store.lost_pieces().await?;
    let mut wanted: HashMap<NodeNumber, HashSet<PieceId>> = HashMap::new();
    for report in &lost {
        wanted.entry(report.node).or_default().insert(report.piece);
    }
    let mut counts: BTreeMap<NodeNumber, u64> = BTreeMap::new();
    let mut walk = Walk::new(store);
    while let Some(segments) = walk.step().await? {
        let mut found = Vec::new();
        for (stream, segment) in &segments {
            run.segment_count += 1;
            let Some(pieces) = &segment.pieces else {
                continue;
            };
            let lost = lost_of(*stream, segment.position, pieces, nodes, &mut wanted);
            for placement in &pieces.placements {
                if !lost.iter().any(|lost| lost.placement == *placement) {
                    *counts.entry(placement.node).or_default() += 1;
                    run.piece_count += 1;
                }
            }
            found.extend(lost);
        }
        if !found.is_empty() {
            for left in patiently(|| store.settle_lost(found.clone())).await? {
                run.lost_count += left.taken_count as u64;
                log_left(&left);
            }
        }
    }
    // In no segment, and too old to come into one.
    let is_over = |report: &&crate::core::row::Reported| {
        let is_unmatched = wanted
            .get(&report.node)
            .is_some_and(|pieces| pieces.contains(&report.piece));
        is_unmatched && report.reported_ms < run.snapshot_ms
    };
    let over: Vec<_> = lost
        .iter()
        .filter(is_over)
        .map(|report| (report.node, report.piece))
        .collect();
    let revived_before_ms = clock::now_ms().saturating_sub(limits::REVIVED_SHOWN_MS);
    patiently(|| store.drop_reports(over.clone(), revived_before_ms)).await?;
    Ok((run, counts))
}

/// A segment's placements whose nodes have reported them lost; they are no longer wanted then.
fn lost_of(
    stream: StreamId,
    position: Position,
    pieces: &Pieces,
    nodes: &BTreeMap<NodeNumber, NodeId>,
    wanted: &mut HashMap<NodeNumber, HashSet<PieceId>>,
) -> Vec<LostPlacement> {
    let mut found = Vec::new();
    for &placement in &pieces.placements {
        let (Some(reported), Some(id)) =
            (wanted.get_mut(&placement.node), nodes.get(&placement.node))
        else {
            continue;
        };
        let piece = piece_id(&pieces.secret, id, placement.index);
        if reported.remove(&piece) {
            found.push(LostPlacement {
                stream,
                position,
                placement,
                piece,
            });
        }
    }
    found
}

/// Says how a segment stands that lost pieces.
fn log_left(left: &LeftOfSegment) {
    let &LeftOfSegment {
        stream,
        position,
        scheme,
        taken_count,
        healthy_count,
    } = left;
    let (part, segment) = (position.part_number, position.segment_index);
    if healthy_count < scheme.required.into() {
        tracing::error!(%stream, part, segment, taken_count, healthy_count, %scheme, "a segment has fewer pieces left than it needs");
    } else if healthy_count <= scheme.repair.into() {
        tracing::warn!(%stream, part, segment, taken_count, healthy_count, %scheme, "a segment needs repair");
    } else {
        tracing::info!(%stream, part, segment, taken_count, healthy_count, "lost pieces were taken out of a segment");
    }
}

/// A part with the hashes of its pieces.
struct Filled {
    part: Part,
    key: FilterKey,
    hashes: Vec<u64>,
}

/// One more walk: hashes the pieces of these parts.
async fn fill<S: MetaStore>(
    satellite: &Satellite<S>,
    parts: &[Part],
) -> Result<Vec<Filled>, GcError> {
    let filled = |part: &Part| Filled {
        part: *part,
        key: clock::random_bytes::<32>().into(),
        hashes: Vec::with_capacity(part.piece_count as usize),
    };
    let mut filled: Vec<Filled> = parts.iter().map(filled).collect();
    // By node and part, as `filled` is sorted.
    let places: BTreeMap<(NodeNumber, u32), usize> = filled
        .iter()
        .enumerate()
        .map(|(at, filled)| ((filled.part.node, filled.part.part), at))
        .collect();
    let known: BTreeMap<NodeNumber, Part> = parts.iter().map(|part| (part.node, *part)).collect();
    let mut walk = Walk::new(&satellite.store);
    while let Some(segments) = walk.step().await? {
        for (_, segment) in &segments {
            let SegmentRow {
                pieces: Some(pieces),
                ..
            } = segment
            else {
                continue;
            };
            for placement in &pieces.placements {
                let Some(node) = known.get(&placement.node) else {
                    continue;
                };
                let piece = piece_id(&pieces.secret, &node.id, placement.index);
                let part = collect::part_of(piece, node.part_count);
                if let Some(&at) = places.get(&(placement.node, part)) {
                    let filled = &mut filled[at];
                    filled.hashes.push(filled.key.hash(piece.as_bytes()));
                }
            }
        }
    }
    Ok(filled)
}

/// Makes filters and stores them, some at a time.
async fn store_filters<S: MetaStore>(
    satellite: &Satellite<S>,
    run: &CollectionRun,
    filled: Vec<Filled>,
) -> Result<(), GcError> {
    let mut waiting: Vec<Filter> = Vec::new();
    let mut bytes = 0;
    for filled in filled {
        let filter = build(satellite.id, *run, filled).await?;
        bytes += filter.bytes.len();
        waiting.push(filter);
        if bytes >= limits::GC_BYTES_PER_STEP {
            patiently(|| satellite.store.put_filters(waiting.clone())).await?;
            waiting.clear();
            bytes = 0;
        }
    }
    patiently(|| satellite.store.put_filters(waiting.clone())).await?;
    Ok(())
}

/// Makes one filter, on a thread that may be busy for long.
async fn build(satellite: NodeId, run: CollectionRun, filled: Filled) -> Result<Filter, GcError> {
    let make = move || {
        let Filled { part, key, hashes } = filled;
        let (first_id, last_id) = collect::range(part.part, part.part_count);
        let scope = FilterScope {
            satellite,
            node: part.id,
            snapshot_ms: run.snapshot_ms,
            first_id,
            last_id,
        };
        let filter = PieceFilter::build(scope, key, hashes).map_err(|error| GcError::Build {
            node: part.id,
            error,
        })?;
        Ok(Filter {
            node: part.node,
            run: run.run,
            part: part.part,
            bytes: filter.into_bytes(),
        })
    };
    tokio::task::spawn_blocking(make)
        .await
        .unwrap_or(Err(GcError::Died))
}

/// Repeats a command of the store while the store is busy: nobody waits for it but us.
async fn patiently<T, F: Future<Output = Result<T, StoreError>>>(
    command: impl Fn() -> F,
) -> Result<T, StoreError> {
    for _ in 0..limits::GC_TRIES_MAX {
        match command().await {
            Err(StoreError::Busy) => tokio::time::sleep(shared::BACKOFF_MAX).await,
            answered => return answered,
        }
    }
    command().await
}

/// What a check-in says and is told of collection.
#[derive(Debug, Default)]
pub(crate) struct Told {
    pub(crate) lost_taken: u32,
    pub(crate) revived_taken: u32,
    pub(crate) filters: Option<pb::FilterRun>,
}

/// Takes a node's reports in. `is_known`: it was reached where it says it is; nobody else's word
/// takes room in the store.
pub(crate) async fn report<S: MetaStore>(
    satellite: &Satellite<S>,
    id: NodeId,
    number: NodeNumber,
    request: &pb::CheckIn,
    is_known: bool,
    now_ms: u64,
) -> Result<Told, Refusal> {
    if request.lost.len().max(request.revived.len()) > shared::REPORTED_PIECES_MAX {
        let most = shared::REPORTED_PIECES_MAX;
        let message = format!("more than {most} pieces are reported at once");
        return Err(Refusal::new(Code::TooLarge, message));
    }
    if !is_known {
        return Ok(Told::default());
    }
    let collection = satellite.store.collection(number).await?;
    let before = collection.as_ref().and_then(|row| row.outcome);
    let outcome = request
        .collected
        .as_ref()
        .map(|outcome| outcome_reported(outcome, now_ms))
        .filter(|outcome| before.is_none_or(|before| before.run != outcome.run));
    let reports = Reports {
        lost: pieces("lost", &request.lost)?,
        revived: pieces("revived", &request.revived)?,
        outcome,
    };
    let taken = if reports.is_empty() {
        Taken::default()
    } else {
        satellite
            .store
            .take_reports(number, reports, now_ms)
            .await?
    };
    log_reports(id, &taken, outcome.as_ref());
    let filters = collection.filter(|row| row.run != 0);
    Ok(Told {
        lost_taken: taken.lost as u32,
        revived_taken: taken.revived as u32,
        filters: filters.map(|row| pb::FilterRun {
            run: row.run,
            part_count: row.part_count,
        }),
    })
}

fn log_reports(node: NodeId, taken: &Taken, outcome: Option<&CollectionOutcome>) {
    for piece in taken.new_revived.iter().take(LOGGED_MAX) {
        tracing::error!(%node, %piece, "garbage collection had trashed a piece that somebody reads; the node brought it back");
    }
    for piece in taken.new_lost.iter().take(LOGGED_MAX) {
        tracing::warn!(%node, %piece, "a node has lost a piece");
    }
    for (what, pieces) in [("revived", &taken.new_revived), ("lost", &taken.new_lost)] {
        if pieces.len() > LOGGED_MAX {
            let more = pieces.len() - LOGGED_MAX;
            tracing::warn!(%node, more, what, "and more pieces were reported");
        }
    }
    let Some(outcome) = outcome else { return };
    if outcome.refused_parts > 0 {
        let (would, of) = (outcome.would_trash, outcome.would_trash_of);
        tracing::error!(%node, would, of, "a node refused to trash so many of its pieces: is the satellite's store a restored, older one?");
    }
    tracing::info!(%node, trashed = outcome.trashed, bytes = outcome.trashed_bytes, kept = outcome.kept, "a node has collected garbage");
}

/// Pieces of one check-in that the log names.
const LOGGED_MAX: usize = 8;

fn pieces(name: &str, ids: &[Vec<u8>]) -> Result<Vec<PieceId>, Refusal> {
    let piece = |id: &Vec<u8>| {
        PieceId::try_from(id.as_slice())
            .map_err(|error| Refusal::bad_request(format!("{name} piece: {error}")))
    };
    ids.iter().map(piece).collect()
}

/// One filter for the node that asks.
pub(crate) async fn fetch<S: MetaStore>(
    satellite: &Satellite<S>,
    id: NodeId,
    request: &pb::FetchFilter,
) -> Result<pb::FilterPart, Refusal> {
    let gone = || Refusal::not_found("no such filter for this node: check in again");
    let number = satellite.nodes.number(&id).ok_or_else(gone)?;
    let Ok(_turn) = satellite.filter_fetches.try_acquire() else {
        return Err(Refusal::busy("too many nodes are fetching filters"));
    };
    let filter = satellite
        .store
        .filter(number, request.run, request.part)
        .await?;
    let filter = filter.ok_or_else(gone)?;
    Ok(pb::FilterPart { filter })
}
