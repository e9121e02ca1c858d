//! What garbage collection needs of the tables, beside [`MetaStore`](super::MetaStore).

use std::future::Future;

use strand_protocol::{PieceId, Position, Scheme, StreamId};

use super::StoreResult;
use crate::core::row::{
    CollectionOutcome, CollectionRow, CollectionRun, LostPlacement, NodeNumber, Reported,
    SegmentRow,
};

/// One filter of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Filter {
    pub(crate) node: NodeNumber,
    pub(crate) run: u64,
    pub(crate) part: u32,
    pub(crate) bytes: Vec<u8>,
}

/// What a node reports beside itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reports {
    pub(crate) lost: Vec<PieceId>,
    pub(crate) revived: Vec<PieceId>,
    pub(crate) outcome: Option<CollectionOutcome>,
}

impl Reports {
    pub(crate) fn is_empty(&self) -> bool {
        self.lost.is_empty() && self.revived.is_empty() && self.outcome.is_none()
    }
}

/// How much of a node's reports was taken in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Taken {
    /// How many of the first lost pieces.
    pub(crate) lost: usize,
    /// How many of the first revived pieces.
    pub(crate) revived: usize,
    /// Lost pieces not heard of before.
    pub(crate) new_lost: Vec<PieceId>,
    /// Revived pieces not heard of before.
    pub(crate) new_revived: Vec<PieceId>,
}

/// What is left of a segment after lost pieces were taken out of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LeftOfSegment {
    pub(crate) stream: StreamId,
    pub(crate) position: Position,
    pub(crate) scheme: Scheme,
    pub(crate) taken_count: usize,
    /// Pieces that no report says are lost.
    pub(crate) healthy_count: usize,
}

/// Segments, and the place behind which to go on; `None` at the end.
pub(crate) type SegmentPage = (Vec<(StreamId, SegmentRow)>, Option<(StreamId, Position)>);

/// See the module's head.
pub(crate) trait CollectionStore {
    /// When the oldest upload began that is not committed; `None` if there is none.
    fn oldest_open_upload(&self) -> impl Future<Output = StoreResult<Option<u64>>> + Send;
    /// Committed segments of all streams in the order of their keys, behind a place.
    fn segments_after(
        &self,
        after: Option<(StreamId, Position)>,
        count_max: usize,
    ) -> impl Future<Output = StoreResult<SegmentPage>> + Send;

    /// Stores filters; nobody hears of them before [`announce`](Self::announce).
    fn put_filters(&self, filters: Vec<Filter>) -> impl Future<Output = StoreResult<()>> + Send;
    /// Makes these runs their nodes' newest, and drops the filters of others. Outcomes stay.
    fn announce(
        &self,
        rows: Vec<(NodeNumber, CollectionRow)>,
    ) -> impl Future<Output = StoreResult<()>> + Send;
    fn collection(
        &self,
        node: NodeNumber,
    ) -> impl Future<Output = StoreResult<Option<CollectionRow>>> + Send;
    fn collections(
        &self,
    ) -> impl Future<Output = StoreResult<Vec<(NodeNumber, CollectionRow)>>> + Send;
    fn filter(
        &self,
        node: NodeNumber,
        run: u64,
        part: u32,
    ) -> impl Future<Output = StoreResult<Option<Vec<u8>>>> + Send;

    /// Remembers a node's reports, as far as there is room for them. Repeats change nothing.
    fn take_reports(
        &self,
        node: NodeNumber,
        reports: Reports,
        now_ms: u64,
    ) -> impl Future<Output = StoreResult<Taken>> + Send;
    /// All lost pieces that are reported and not settled.
    fn lost_pieces(&self) -> impl Future<Output = StoreResult<Vec<Reported>>> + Send;
    /// Takes lost pieces out of their segments, and their reports away. A segment's last placement
    /// stays: without any it would read as an inline one.
    fn settle_lost(
        &self,
        lost: Vec<LostPlacement>,
    ) -> impl Future<Output = StoreResult<Vec<LeftOfSegment>>> + Send;
    /// Forgets lost pieces that are in no segment, and revived ones reported before then.
    fn drop_reports(
        &self,
        lost: Vec<(NodeNumber, PieceId)>,
        revived_before_ms: u64,
    ) -> impl Future<Output = StoreResult<()>> + Send;

    /// The last complete walk.
    fn last_run(&self) -> impl Future<Output = StoreResult<Option<CollectionRun>>> + Send;
    fn put_run(&self, run: CollectionRun) -> impl Future<Output = StoreResult<()>> + Send;
}
