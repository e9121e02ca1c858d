//! One segment's way to its nodes: does what [`SegmentPlan`] decides.
//!
//! Owns the streams, the producer of the pieces and the talk with the satellite about limits. Ends
//! with a committed segment, or with nothing left behind at nodes but what the satellite deletes
//! with the upload.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use strand_codec::{Hash, Shape};
use strand_protocol::pb::satellite_request::Verb;
use strand_protocol::{Code, NodeId, Position, Scheme, pb};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use super::plan::{Action, Patience, Refusal, SegmentPlan, Ticket};
use super::send::{Event, Target, send_piece};
use super::source::SealedSegment;
use super::stripes::Stripes;
use crate::buffers::BufferStore;
use crate::error::{CallError, UploadError};
use crate::limits::{
    RETREAT_PAUSE_MAX, RETREAT_PAUSE_MIN, RETREAT_TIMEOUT, SAME_NODES_RETREATS_MAX,
};
use crate::progress::Progress;
use crate::session::{Repeat, Session, answer_of, jittered};

/// What all segments of an upload share.
pub(super) struct Context {
    pub(super) session: Arc<Session>,
    pub(super) stream_id: Vec<u8>,
    pub(super) scheme: Scheme,
    pub(super) patience: Patience,
    pub(super) store: Arc<BufferStore>,
    pub(super) progress: Arc<dyn Progress>,
}

/// The order of segments: bodies of the next one are sent when this one has optimal receipts.
///
/// Nodes buffer whole pieces; asking for room for two segments at once would make them refuse half
/// of both.
pub(super) struct Turn {
    pub(super) wait: oneshot::Receiver<()>,
    pub(super) next: Option<oneshot::Sender<()>>,
    /// A segment's place in memory.
    pub(super) permit: Option<OwnedSemaphorePermit>,
}

/// How a segment was stored.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct SegmentReport {
    /// Its number.
    pub segment: u32,
    /// Plaintext bytes.
    pub bytes: u64,
    /// Whether the satellite keeps it, without pieces.
    pub inline: bool,
    /// Pieces that were asked for.
    pub pieces: u32,
    /// Pieces committed.
    pub pieces_stored: u32,
    /// Bytes of all committed pieces.
    pub piece_bytes: u64,
    /// Data pieces that are not among them.
    pub data_pieces_missing: u32,
    /// Indices that were given to another node.
    pub replaced: u32,
    /// Streams cancelled because enough others were done.
    pub cancelled: u32,
    /// Times that nodes were too busy and the segment was asked for anew.
    pub retreats: u32,
}

impl Turn {
    fn pass(&mut self) {
        if let Some(next) = self.next.take() {
            // Nobody waits after the last segment.
            let _ = next.send(());
        }
        self.permit = None;
    }
}

/// Stores a segment that has pieces, and commits it.
pub(super) async fn upload_pieces(
    context: Arc<Context>,
    segment: SealedSegment,
    shape: Shape,
    padded: Bytes,
    mut turn: Turn,
) -> Result<(Hash, SegmentReport), UploadError> {
    let position = segment.position;
    let mut targets = begin(&context, position, segment.sealed_len).await?;
    warm(&context.session, &targets);
    // An error means that the segment before failed: this one will be dropped as well.
    let _ = (&mut turn.wait).await;
    tracing::debug!(
        segment = position.segment_index,
        nodes = targets.len(),
        "asking nodes"
    );
    let making = Making::start(shape, padded, context.store.clone());
    let mut report = SegmentReport {
        segment: position.segment_index,
        bytes: segment.plain_len,
        pieces: shape.total().into(),
        ..SegmentReport::default()
    };
    let begun = Instant::now();
    let mut pause = RETREAT_PAUSE_MIN;
    let mut reported = 0;
    let stored = loop {
        let may_retreat = begun.elapsed() < RETREAT_TIMEOUT;
        let mut attempt = Attempt::new(&context, &making.stripes, position, targets, may_retreat);
        let tried = attempt
            .run(&making, &mut turn, &mut report, &mut reported)
            .await?;
        if let Some(stored) = tried {
            break stored;
        }
        report.retreats += 1;
        // Nobody has used these limits up; nodes that stay busy are not asked for ever.
        targets = std::mem::take(&mut attempt.targets);
        drop(attempt);
        tokio::time::sleep(jittered(pause)).await;
        pause = (pause * 2).min(RETREAT_PAUSE_MAX);
        if report.retreats > SAME_NODES_RETREATS_MAX {
            targets = begin(&context, position, segment.sealed_len).await?;
        }
    };
    let commitment = stored.commitment;
    report.pieces_stored = stored.receipts.len() as u32;
    report.piece_bytes = stored.receipts.len() as u64 * shape.piece_len();
    report.data_pieces_missing = u32::from(shape.required()) - stored.data_count;
    // Frees the segment's memory before the satellite is waited for.
    drop(making);
    let verb = Verb::CommitSegment(pb::CommitSegment {
        stream_id: context.stream_id.clone(),
        position: u64::from(position),
        plain_len: segment.plain_len,
        sealed_len: segment.sealed_len,
        salt: segment.salt.to_vec(),
        key_commitment: segment.key_commitment.to_vec(),
        commitment: commitment.to_vec(),
        receipts: stored.receipts,
    });
    answer_of!(
        context.session.call(verb, Repeat::Harmless).await,
        Done,
        "CommitSegment"
    )?;
    context.progress.advance(segment.plain_len - reported);
    Ok((commitment, report))
}

/// Asks for limits for all pieces; asked again, the earlier ones are void.
async fn begin(
    context: &Context,
    position: Position,
    sealed_len: u64,
) -> Result<BTreeMap<u8, Target>, UploadError> {
    let verb = Verb::BeginSegment(pb::BeginSegment {
        stream_id: context.stream_id.clone(),
        position: u64::from(position),
        sealed_len,
    });
    let limits = answer_of!(
        context.session.call(verb, Repeat::Harmless).await,
        PieceLimits,
        "BeginSegment"
    )?;
    let targets = targets_of(limits.limits)?;
    // Fewer than all where the satellite has no more nodes; whether they are enough is for the plan
    // to say.
    match targets.last_key_value() {
        Some((index, _)) if *index < context.scheme.total => Ok(targets),
        _ => Err(UploadError::Unusable(
            "limits came for no piece of the segment".to_owned(),
        )),
    }
}

fn targets_of(limits: Vec<pb::PieceLimit>) -> Result<BTreeMap<u8, Target>, UploadError> {
    let mut targets = BTreeMap::new();
    for limit in limits {
        let index = u8::try_from(limit.index);
        let node = NodeId::try_from(limit.node_id.as_slice());
        let (Ok(index), Ok(node)) = (index, node) else {
            return Err(UploadError::Unusable(
                "a limit names no index or node".to_owned(),
            ));
        };
        targets.insert(
            index,
            Target {
                node,
                address: limit.address,
                limit: limit.limit,
            },
        );
    }
    Ok(targets)
}

/// Connects to all nodes while the segment waits for its turn.
fn warm(session: &Arc<Session>, targets: &BTreeMap<u8, Target>) {
    for target in targets.values() {
        let (session, node, address) = (session.clone(), target.node, target.address.clone());
        tokio::spawn(async move {
            // Whether it works is seen when the piece is sent.
            let _ = session.nodes().connect(node, &address).await;
        });
    }
}

/// The pieces being made on a blocking thread; dropped, it stops.
struct Making {
    stripes: Arc<Stripes>,
    failure: tokio::sync::watch::Receiver<Option<String>>,
}

impl Making {
    fn start(shape: Shape, padded: Bytes, store: Arc<BufferStore>) -> Self {
        let stripes = Stripes::new(shape, padded);
        let (sender, failure) = tokio::sync::watch::channel(None);
        let producer = stripes.clone();
        tokio::task::spawn_blocking(move || {
            if let Err(error) = producer.produce(&store) {
                sender.send_replace(Some(error));
            }
        });
        Self { stripes, failure }
    }

    /// Returns if making the pieces failed, else never.
    async fn failed(&self) -> UploadError {
        let mut failure = self.failure.clone();
        let error = failure
            .wait_for(Option::is_some)
            .await
            .ok()
            .and_then(|failure| failure.clone());
        match error {
            Some(error) => UploadError::Unusable(error),
            // The producer is done.
            None => std::future::pending().await,
        }
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        self.stripes.cancel();
    }
}

/// What a segment is committed with.
struct Stored {
    commitment: Hash,
    receipts: Vec<Vec<u8>>,
    data_count: u32,
}

/// One try to store all pieces of a segment; dropped, all its streams are reset.
struct Attempt<'a> {
    context: &'a Context,
    stripes: Arc<Stripes>,
    position: Position,
    plan: SegmentPlan,
    /// Who has each index now.
    targets: BTreeMap<u8, Target>,
    start: Instant,
    sends: JoinSet<()>,
    open: HashMap<u8, OpenSend>,
    events: (mpsc::UnboundedSender<Event>, mpsc::UnboundedReceiver<Event>),
    granted: (
        mpsc::UnboundedSender<Granted>,
        mpsc::UnboundedReceiver<Granted>,
    ),
    receipts: HashMap<Ticket, Vec<u8>>,
    last_failure: Option<String>,
    is_settled: bool,
    seen_sent_bytes: u64,
}

struct OpenSend {
    go: Option<oneshot::Sender<()>>,
    abort: AbortHandle,
}

type Granted = Result<BTreeMap<u8, Target>, UploadError>;

impl<'a> Attempt<'a> {
    fn new(
        context: &'a Context,
        stripes: &Arc<Stripes>,
        position: Position,
        targets: BTreeMap<u8, Target>,
        may_retreat: bool,
    ) -> Self {
        let offered: Vec<u8> = targets.keys().copied().collect();
        Self {
            context,
            stripes: stripes.clone(),
            position,
            plan: SegmentPlan::new(context.scheme, context.patience, &offered, may_retreat),
            targets,
            start: Instant::now(),
            sends: JoinSet::new(),
            open: HashMap::new(),
            events: mpsc::unbounded_channel(),
            granted: mpsc::unbounded_channel(),
            receipts: HashMap::new(),
            last_failure: None,
            is_settled: false,
            seen_sent_bytes: 0,
        }
    }

    /// `None` if nodes were too busy and the segment has to be asked for anew.
    async fn run(
        &mut self,
        making: &Making,
        turn: &mut Turn,
        report: &mut SegmentReport,
        reported: &mut u64,
    ) -> Result<Option<Stored>, UploadError> {
        for (index, target) in self.targets.clone() {
            self.send(
                Ticket {
                    index,
                    generation: 0,
                },
                target,
            );
        }
        loop {
            self.count_progress(report.bytes, reported);
            let now = self.start.elapsed();
            while let Some(action) = self.plan.poll(now) {
                match action {
                    Action::Send(tickets) => self.release(&tickets),
                    Action::Cancel(tickets) => self.cancel(&tickets),
                    Action::Replace(indices) => self.replace(indices),
                    Action::Retreat { admitted_count } => {
                        tracing::debug!(admitted_count, "nodes are busy, asking again");
                        self.sends.abort_all();
                        return Ok(None);
                    }
                    Action::Commit(tickets) => {
                        turn.pass();
                        let (replaced, cancelled) = self.plan.counts();
                        report.replaced += replaced;
                        report.cancelled += cancelled;
                        return self.stored(&tickets).await.map(Some);
                    }
                    Action::Fail(shortfall) => {
                        let last = self.last_failure.take();
                        return Err(UploadError::NotEnoughNodes {
                            segment: self.position.segment_index,
                            needed_count: shortfall.needed_count,
                            optimal_count: shortfall.optimal_count,
                            found_count: shortfall.found_count,
                            last: last.map_or_else(String::new, |last| {
                                format!(" (last refusal: {last})")
                            }),
                        });
                    }
                }
            }
            if self.plan.is_settling() {
                if !self.is_settled {
                    self.is_settled = true;
                    tracing::debug!(
                        segment = self.position.segment_index,
                        ?now,
                        "optimal receipts"
                    );
                }
                // Only data pieces are still on their way: the memory of the others is the next
                // segment's.
                self.stripes.drop_recovery();
                turn.pass();
            }
            let wait = self.plan.next_deadline(now).saturating_sub(now).min(TICK);
            tokio::select! {
                Some(event) = self.events.1.recv() => self.handle(event),
                Some(granted) = self.granted.1.recv() => self.handle_granted(granted)?,
                error = making.failed() => return Err(error),
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    fn handle(&mut self, event: Event) {
        let now = self.start.elapsed();
        match event {
            Event::Admitted(ticket) => self.plan.handle_admitted(now, ticket),
            Event::Receipt(ticket, receipt) => {
                self.receipts.insert(ticket, receipt);
                self.plan.handle_receipt(now, ticket);
            }
            Event::Failed(ticket, refusal, reason) => {
                tracing::debug!(index = ticket.index, %reason, "piece not taken");
                if refusal == Refusal::Gone || self.last_failure.is_none() {
                    self.last_failure = Some(reason);
                }
                self.plan.handle_failed(ticket, refusal);
            }
        }
    }

    fn handle_granted(&mut self, granted: Granted) -> Result<(), UploadError> {
        let now = self.start.elapsed();
        let mut targets = granted?;
        let indices: Vec<u8> = targets.keys().copied().collect();
        for ticket in self.plan.handle_replaced(now, &indices) {
            self.cancel(&[ticket]);
            if let Some(target) = targets.remove(&ticket.index) {
                self.targets.insert(ticket.index, target.clone());
                self.send(ticket, target);
            }
        }
        Ok(())
    }

    fn send(&mut self, ticket: Ticket, target: Target) {
        let (go, went) = oneshot::channel();
        let task = send_piece(
            self.context.session.clone(),
            target,
            ticket,
            self.stripes.clone(),
            self.context.patience.admission,
            went,
            self.events.0.clone(),
        );
        let abort = self.sends.spawn(task);
        self.open.insert(
            ticket.index,
            OpenSend {
                go: Some(go),
                abort,
            },
        );
    }

    fn release(&mut self, tickets: &[Ticket]) {
        let (segment, after) = (self.position.segment_index, self.start.elapsed());
        tracing::debug!(segment, ?after, count = tickets.len(), "sending bodies");
        for ticket in tickets {
            if let Some(go) = self
                .open
                .get_mut(&ticket.index)
                .and_then(|open| open.go.take())
            {
                // If the send has ended meanwhile, its event says so.
                let _ = go.send(());
            }
        }
    }

    fn cancel(&mut self, tickets: &[Ticket]) {
        for ticket in tickets {
            if let Some(open) = self.open.remove(&ticket.index) {
                open.abort.abort();
            }
        }
    }

    /// Asks for new nodes in a task of its own, so that receipts are heard meanwhile.
    fn replace(&mut self, indices: Vec<u8>) {
        tracing::debug!(?indices, "asking for other nodes");
        let session = self.context.session.clone();
        let answer = self.granted.0.clone();
        let verb = Verb::ReplacePieces(pb::ReplacePieces {
            stream_id: self.context.stream_id.clone(),
            position: u64::from(self.position),
            indices: indices.iter().map(|index| u32::from(*index)).collect(),
        });
        self.sends.spawn(async move {
            let limits = answer_of!(
                session.call(verb, Repeat::Harmless).await,
                PieceLimits,
                "ReplacePieces"
            );
            let granted = match limits {
                Ok(limits) => targets_of(limits.limits),
                // No further nodes: the pieces stay where they are.
                Err(error) if has_no_nodes(&error) => Ok(BTreeMap::new()),
                Err(error) => Err(error.into()),
            };
            let _ = answer.send(granted);
        });
    }

    fn count_progress(&mut self, plain_len: u64, reported: &mut u64) {
        let sent_bytes = self.stripes.sent_bytes.load(Ordering::Relaxed);
        if sent_bytes > self.seen_sent_bytes {
            self.seen_sent_bytes = sent_bytes;
            self.plan.handle_progress(self.start.elapsed());
        }
        // Nine tenths are shown while bodies go out, the last one at the commit.
        let aim =
            self.stripes.shape().piece_len() * u64::from(self.context.scheme.optimal) * 10 / 9;
        let shown = (u128::from(sent_bytes.min(aim * 9 / 10)) * u128::from(plain_len)
            / u128::from(aim)) as u64;
        if shown > *reported {
            self.context.progress.advance(shown - *reported);
            *reported = shown;
        }
    }

    async fn stored(&mut self, tickets: &[Ticket]) -> Result<Stored, UploadError> {
        let required = self.context.scheme.required;
        let receipts: Option<Vec<_>> = tickets
            .iter()
            .map(|ticket| self.receipts.remove(ticket))
            .collect();
        // The plan counts an index as done only for a receipt that was put in the map before.
        let receipts =
            receipts.ok_or_else(|| UploadError::Unusable("a receipt is missing".to_owned()))?;
        let tree = self.stripes.tree().await;
        let tree =
            tree.ok_or_else(|| UploadError::Unusable("the segment has no tree".to_owned()))?;
        Ok(Stored {
            commitment: tree.commitment(),
            receipts,
            data_count: tickets
                .iter()
                .filter(|ticket| ticket.index < required)
                .count() as u32,
        })
    }
}

fn has_no_nodes(error: &CallError) -> bool {
    error.code() == Some(Code::NoNodes)
}

/// How often sent bytes are looked at, at least.
const TICK: Duration = Duration::from_millis(100);
