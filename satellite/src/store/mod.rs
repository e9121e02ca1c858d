//! The satellite's tables as the domain sees them.
//!
//! A [`MetaStore`] runs each command in one transaction. Where a command needs a decision, the
//! caller brings it as a pure function of the rows read; it may run more than once, so a backend
//! can retry. **Invariant:** a command that answers `Ok` is durable; one that is refused has
//! changed nothing. Schema: docs/format.md, section 7.
//!
//! One backend so far: [`RedbStore`], embedded. `convert` turns rows into the messages of
//! `proto/store.proto` and back, for any backend.

mod collection;
mod convert;
mod redb;
#[cfg(test)]
mod tests;

use std::future::Future;

use strand_protocol::{Position, ProjectId, StreamId};

pub(crate) use self::collection::{
    CollectionStore, Filter, LeftOfSegment, Reports, SegmentPage, Taken,
};
pub(crate) use self::convert::outcome_reported;
pub(crate) use self::redb::RedbStore;
use crate::core::list::ListQuery;
use crate::core::refusal::Refusal;
use crate::core::row::{
    BucketRow, Committed, Discard, NodeNumber, NodeRow, ObjectRow, PendingObjectRow,
    PendingSegmentRow, ProjectRow, SegmentRow,
};

/// Generated from `proto/store.proto`.
#[allow(
    clippy::use_self,
    clippy::allow_attributes_without_reason,
    unreachable_pub,
    reason = "generated code; the .proto file carries the documentation"
)]
pub(crate) mod pb {
    include!(concat!(env!("OUT_DIR"), "/strand.store.v1.rs"));
}

/// The version of docs/format.md, section 7.
pub(crate) const SCHEMA_VERSION: u32 = 1;

/// Why a command failed.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// The decision, or a row that is or is not there: the caller's answer.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Too many commands are waiting.
    #[error("the store is busy")]
    Busy,
    /// A row that does not parse.
    #[error("the store's {table} table has a damaged row")]
    Damaged {
        /// Which table.
        table: &'static str,
    },
    /// Disk or database failed.
    #[error("the store failed: {0}")]
    Backend(String),
}

/// Why a store does not open.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    #[error(
        "{path} was written by a newer satellite (schema {found}, this one knows {SCHEMA_VERSION}): \
         install the newer version"
    )]
    Newer { path: String, found: u32 },
    #[error("{path} belongs to another satellite: its master key is not the one in this directory")]
    Foreign { path: String },
    #[error("{path} is not a satellite's store, or is damaged: {reason}")]
    Damaged { path: String, reason: String },
    #[error("{path} is in use by another process: is this satellite running already?")]
    InUse { path: String },
    #[error("cannot open {path}: {reason}")]
    Io { path: String, reason: String },
}

/// One page of a listing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Page {
    pub(crate) entries: Vec<Entry>,
    pub(crate) has_more: bool,
}

/// A key with its object, or what folds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    Object(Vec<u8>, ObjectRow),
    Prefix(Vec<u8>),
}

/// Rows in the tables, for `status`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) projects: u64,
    pub(crate) buckets: u64,
    pub(crate) objects: u64,
    pub(crate) segments: u64,
    pub(crate) uploads: u64,
    pub(crate) discards: u64,
    pub(crate) lost: u64,
    pub(crate) revived: u64,
}

/// The key of an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ObjectPath {
    pub(crate) project: ProjectId,
    pub(crate) bucket: String,
    pub(crate) encrypted_key: Vec<u8>,
}

pub(crate) type StoreResult<T> = Result<T, StoreError>;

/// See the module's head. All `decide` functions are pure.
pub(crate) trait MetaStore: CollectionStore + Send + Sync + 'static {
    /// Adds a project.
    fn create_project(&self, project: ProjectRow) -> impl Future<Output = StoreResult<()>> + Send;
    fn project(
        &self,
        id: ProjectId,
    ) -> impl Future<Output = StoreResult<Option<ProjectRow>>> + Send;
    /// `CONFLICT` if another value is set, unless `replace`.
    fn set_check_value(
        &self,
        id: ProjectId,
        value: Vec<u8>,
        replace: bool,
    ) -> impl Future<Output = StoreResult<()>> + Send;

    /// `CONFLICT` if there is one of that name.
    fn create_bucket(
        &self,
        project: ProjectId,
        bucket: BucketRow,
    ) -> impl Future<Output = StoreResult<()>> + Send;
    /// `NOT_FOUND`, or `CONFLICT` if it is not empty.
    fn delete_bucket(
        &self,
        project: ProjectId,
        name: String,
    ) -> impl Future<Output = StoreResult<()>> + Send;
    fn bucket(
        &self,
        project: ProjectId,
        name: String,
    ) -> impl Future<Output = StoreResult<Option<BucketRow>>> + Send;
    /// All of them, by name.
    fn buckets(
        &self,
        project: ProjectId,
    ) -> impl Future<Output = StoreResult<Vec<BucketRow>>> + Send;

    /// Begins an upload. `NOT_FOUND` without its bucket.
    fn begin_object(
        &self,
        stream: StreamId,
        upload: PendingObjectRow,
    ) -> impl Future<Output = StoreResult<()>> + Send;
    /// The upload, committed or not.
    fn upload(
        &self,
        stream: StreamId,
    ) -> impl Future<Output = StoreResult<Option<PendingObjectRow>>> + Send;
    /// Begins a segment; one begun before at this position is discarded, after `discard_ms`.
    fn begin_segment(
        &self,
        stream: StreamId,
        position: Position,
        pending: PendingSegmentRow,
        discard_ms: u64,
    ) -> impl Future<Output = StoreResult<()>> + Send;
    fn pending_segment(
        &self,
        stream: StreamId,
        position: Position,
    ) -> impl Future<Output = StoreResult<Option<PendingSegmentRow>>> + Send;
    /// Changes a segment that is begun.
    fn change_segment(
        &self,
        stream: StreamId,
        position: Position,
        decide: impl Fn(PendingSegmentRow) -> Result<PendingSegmentRow, Refusal> + Send + 'static,
    ) -> impl Future<Output = StoreResult<()>> + Send;
    /// Turns a pending segment into a committed one. Already done with the same commitment: `Ok`.
    fn commit_segment(
        &self,
        stream: StreamId,
        position: Position,
        commitment: [u8; 32],
        decide: impl Fn(
            &PendingObjectRow,
            &PendingSegmentRow,
        ) -> Result<(SegmentRow, Option<Discard>), Refusal>
        + Send
        + 'static,
    ) -> impl Future<Output = StoreResult<()>> + Send;
    /// Stores an inline segment. Already done with the same commitment: `Ok`.
    fn inline_segment(
        &self,
        stream: StreamId,
        segment: SegmentRow,
        sealed: Vec<u8>,
    ) -> impl Future<Output = StoreResult<()>> + Send;
    /// Makes the upload's object what its key names; what was there goes whole. Already done with
    /// the same content: as it was answered then; with another: `CONFLICT`.
    fn commit_object(
        &self,
        stream: StreamId,
        content_hash: [u8; 32],
        now_ms: u64,
        decide: impl Fn(&PendingObjectRow, &[SegmentRow]) -> Result<ObjectRow, Refusal> + Send + 'static,
    ) -> impl Future<Output = StoreResult<Committed>> + Send;
    /// Drops an upload; of one that is committed, only the memory of it. `false` if there is none.
    fn drop_upload(
        &self,
        stream: StreamId,
        discard_ms: u64,
    ) -> impl Future<Output = StoreResult<bool>> + Send;
    /// Uploads begun before then, by stream id from `after` on.
    fn uploads_before(
        &self,
        created_ms: u64,
        after: Option<StreamId>,
        count_max: usize,
    ) -> impl Future<Output = StoreResult<(Vec<StreamId>, Option<StreamId>)>> + Send;

    fn object(
        &self,
        path: ObjectPath,
    ) -> impl Future<Output = StoreResult<Option<ObjectRow>>> + Send;
    /// Committed segments of a stream in order, with their bytes if inline, as long as those bytes
    /// are at most `inline_bytes_max` in all.
    fn segments(
        &self,
        stream: StreamId,
        inline_bytes_max: usize,
    ) -> impl Future<Output = StoreResult<Vec<(SegmentRow, Option<Vec<u8>>)>>> + Send;
    fn segment(
        &self,
        stream: StreamId,
        position: Position,
    ) -> impl Future<Output = StoreResult<Option<(SegmentRow, Option<Vec<u8>>)>>> + Send;
    fn list(
        &self,
        project: ProjectId,
        bucket: String,
        query: ListQuery,
    ) -> impl Future<Output = StoreResult<Page>> + Send;
    /// `false` if there is none.
    fn delete_object(
        &self,
        path: ObjectPath,
        discard_ms: u64,
    ) -> impl Future<Output = StoreResult<bool>> + Send;
    /// Drops objects that expired, at most `count_max`; nodes drop their pieces by themselves.
    fn drop_expired(
        &self,
        now_ms: u64,
        count_max: usize,
    ) -> impl Future<Output = StoreResult<usize>> + Send;

    fn nodes(&self) -> impl Future<Output = StoreResult<Vec<(NodeNumber, NodeRow)>>> + Send;
    /// Adds or changes the node of this id.
    fn put_node(&self, node: NodeRow) -> impl Future<Output = StoreResult<NodeNumber>> + Send;

    /// Rows of the delete queue that are due, from a number on, and where to go on.
    fn due_discards(
        &self,
        now_ms: u64,
        from: u64,
        count_max: usize,
    ) -> impl Future<Output = StoreResult<(Vec<(u64, Discard)>, u64)>> + Send;
    /// Removes rows of the delete queue, or puts what remains of them.
    fn settle_discards(
        &self,
        rows: Vec<(u64, Option<Discard>)>,
    ) -> impl Future<Output = StoreResult<()>> + Send;

    fn counts(&self) -> impl Future<Output = StoreResult<Counts>> + Send;
    /// Waits for what is queued, then lets the files go.
    fn close(&self) -> impl Future<Output = ()> + Send;
}
