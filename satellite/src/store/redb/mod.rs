//! The embedded store. This folder alone names redb.
//!
//! Reads take snapshots on tokio's blocking threads; writes go through [`writer`]'s one thread.
//! - `table`: tables, keys, typed rows. - `command`: what each write does in its transaction.
//! - `collection`: what garbage collection reads and writes.

mod collection;
mod command;
mod query;
mod table;
mod writer;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use redb::{
    CommitError, Database, DatabaseError, ReadableDatabase, StorageError, TableError,
    TransactionError,
};
use strand_protocol::{Position, ProjectId, StreamId};

use self::table::{ALL, META, ReadTx, Rows, WriteTx};
use self::writer::Writer;
use super::{
    Counts, MetaStore, ObjectPath, OpenError, Page, SCHEMA_VERSION, StoreError, StoreResult,
};
use crate::core::list::ListQuery;
use crate::core::refusal::Refusal;
use crate::core::row::{
    BucketRow, Committed, Discard, NodeNumber, NodeRow, ObjectRow, PendingObjectRow,
    PendingSegmentRow, ProjectRow, SegmentRow,
};

/// See the module's head.
pub(crate) struct RedbStore {
    /// `None` once closed.
    database: Mutex<Option<Arc<Database>>>,
    writer: Writer,
}

impl RedbStore {
    /// Opens the store at `path`, or makes it if `create`. `master_check` ties it to the master
    /// key of its directory.
    pub(crate) fn open(
        path: &Path,
        master_check: &[u8; 32],
        create: bool,
    ) -> Result<Self, OpenError> {
        let name = || path.display().to_string();
        let io = |error: std::io::Error| OpenError::Io {
            path: name(),
            reason: error.to_string(),
        };
        let mut builder = Database::builder();
        builder.set_cache_size(CACHE_BYTES);
        let opened = if create {
            builder.create(path)
        } else {
            builder.open(path)
        };
        let database = opened.map_err(|error| match error {
            DatabaseError::DatabaseAlreadyOpen => OpenError::InUse { path: name() },
            DatabaseError::Storage(StorageError::Io(error))
                if error.kind() != std::io::ErrorKind::InvalidData =>
            {
                io(error)
            }
            other => OpenError::Damaged {
                path: name(),
                reason: other.to_string(),
            },
        })?;
        if create {
            Self::initialise(&database, master_check).map_err(|error| OpenError::Io {
                path: name(),
                reason: error.to_string(),
            })?;
        }
        Self::check(&database, master_check, &name())?;
        Self::add_tables(&database).map_err(|error| OpenError::Io {
            path: name(),
            reason: error.to_string(),
        })?;
        let database = Arc::new(database);
        let writer = Writer::start(database.clone()).map_err(io)?;
        Ok(Self {
            database: Mutex::new(Some(database)),
            writer,
        })
    }

    fn initialise(database: &Database, master_check: &[u8; 32]) -> StoreResult<()> {
        let transaction = database.begin_write()?;
        for (table, _) in ALL {
            transaction.open_table(table)?;
        }
        let tx = WriteTx::new(&transaction);
        if tx.get(META, SCHEMA_KEY)?.is_some() {
            // A set-up that was interrupted, repeated.
            return Ok(());
        }
        tx.put(META, SCHEMA_KEY, &SCHEMA_VERSION.to_le_bytes())?;
        tx.put(META, MASTER_CHECK_KEY, master_check)?;
        transaction.commit()?;
        Ok(())
    }

    /// Makes the tables that a release before this one did not have.
    fn add_tables(database: &Database) -> StoreResult<()> {
        let known = database.begin_read()?.list_tables()?.count();
        if known >= ALL.len() {
            return Ok(());
        }
        let transaction = database.begin_write()?;
        for (table, _) in ALL {
            transaction.open_table(table)?;
        }
        transaction.commit()?;
        Ok(())
    }

    fn check(database: &Database, master_check: &[u8; 32], path: &str) -> Result<(), OpenError> {
        let read = |key: &[u8]| {
            let tx = ReadTx::new(database.begin_read()?);
            tx.get(META, key)
        };
        let damaged = |reason: String| OpenError::Damaged {
            path: path.to_owned(),
            reason,
        };
        let version = read(SCHEMA_KEY).map_err(|error| damaged(error.to_string()))?;
        let version = version.as_deref().and_then(|bytes| bytes.try_into().ok());
        let version = version.map(u32::from_le_bytes);
        let version = version.ok_or_else(|| damaged("it has no schema version".to_owned()))?;
        if version > SCHEMA_VERSION {
            return Err(OpenError::Newer {
                path: path.to_owned(),
                found: version,
            });
        }
        if version < SCHEMA_VERSION {
            return Err(damaged(format!("it has schema version {version}")));
        }
        let check = read(MASTER_CHECK_KEY).map_err(|error| damaged(error.to_string()))?;
        if check.as_deref() != Some(master_check) {
            return Err(OpenError::Foreign {
                path: path.to_owned(),
            });
        }
        Ok(())
    }

    /// Runs `query` on a snapshot, on a thread that may block.
    async fn read<T: Send + 'static>(
        &self,
        query: impl FnOnce(&ReadTx) -> StoreResult<T> + Send + 'static,
    ) -> StoreResult<T> {
        let database = self
            .database
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let database = database.ok_or_else(|| StoreError::Backend("it is closed".to_owned()))?;
        let run = move || query(&ReadTx::new(database.begin_read()?));
        tokio::task::spawn_blocking(run)
            .await
            .unwrap_or_else(|error| Err(StoreError::Backend(error.to_string())))
    }

    async fn write<T: Send + 'static>(
        &self,
        command: impl FnOnce(&WriteTx<'_>) -> StoreResult<T> + Send + 'static,
    ) -> StoreResult<T> {
        self.writer.write(command).await
    }
}

impl MetaStore for RedbStore {
    async fn create_project(&self, project: ProjectRow) -> StoreResult<()> {
        self.write(move |tx| command::create_project(tx, &project))
            .await
    }

    async fn project(&self, id: ProjectId) -> StoreResult<Option<ProjectRow>> {
        self.read(move |tx| query::project(tx, id)).await
    }

    async fn set_check_value(
        &self,
        id: ProjectId,
        value: Vec<u8>,
        replace: bool,
    ) -> StoreResult<()> {
        self.write(move |tx| command::set_check_value(tx, id, value, replace))
            .await
    }

    async fn create_bucket(&self, project: ProjectId, bucket: BucketRow) -> StoreResult<()> {
        self.write(move |tx| command::create_bucket(tx, project, &bucket))
            .await
    }

    async fn delete_bucket(&self, project: ProjectId, name: String) -> StoreResult<()> {
        self.write(move |tx| command::delete_bucket(tx, project, &name))
            .await
    }

    async fn bucket(&self, project: ProjectId, name: String) -> StoreResult<Option<BucketRow>> {
        self.read(move |tx| query::bucket(tx, project, &name)).await
    }

    async fn buckets(&self, project: ProjectId) -> StoreResult<Vec<BucketRow>> {
        self.read(move |tx| query::buckets(tx, project)).await
    }

    async fn begin_object(&self, stream: StreamId, upload: PendingObjectRow) -> StoreResult<()> {
        self.write(move |tx| command::begin_object(tx, stream, &upload))
            .await
    }

    async fn upload(&self, stream: StreamId) -> StoreResult<Option<PendingObjectRow>> {
        self.read(move |tx| query::upload(tx, stream)).await
    }

    async fn begin_segment(
        &self,
        stream: StreamId,
        position: Position,
        pending: PendingSegmentRow,
        discard_ms: u64,
    ) -> StoreResult<()> {
        self.write(move |tx| command::begin_segment(tx, stream, position, &pending, discard_ms))
            .await
    }

    async fn pending_segment(
        &self,
        stream: StreamId,
        position: Position,
    ) -> StoreResult<Option<PendingSegmentRow>> {
        self.read(move |tx| query::pending_segment(tx, stream, position))
            .await
    }

    async fn change_segment(
        &self,
        stream: StreamId,
        position: Position,
        decide: impl Fn(PendingSegmentRow) -> Result<PendingSegmentRow, Refusal> + Send + 'static,
    ) -> StoreResult<()> {
        self.write(move |tx| command::change_segment(tx, stream, position, decide))
            .await
    }

    async fn commit_segment(
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
    ) -> StoreResult<()> {
        self.write(move |tx| command::commit_segment(tx, stream, position, commitment, decide))
            .await
    }

    async fn inline_segment(
        &self,
        stream: StreamId,
        segment: SegmentRow,
        sealed: Vec<u8>,
    ) -> StoreResult<()> {
        self.write(move |tx| command::inline_segment(tx, stream, &segment, &sealed))
            .await
    }

    async fn commit_object(
        &self,
        stream: StreamId,
        content_hash: [u8; 32],
        now_ms: u64,
        decide: impl Fn(&PendingObjectRow, &[SegmentRow]) -> Result<ObjectRow, Refusal> + Send + 'static,
    ) -> StoreResult<Committed> {
        self.write(move |tx| command::commit_object(tx, stream, content_hash, now_ms, decide))
            .await
    }

    async fn drop_upload(&self, stream: StreamId, discard_ms: u64) -> StoreResult<bool> {
        self.write(move |tx| command::drop_upload(tx, stream, discard_ms))
            .await
    }

    async fn uploads_before(
        &self,
        created_ms: u64,
        after: Option<StreamId>,
        count_max: usize,
    ) -> StoreResult<(Vec<StreamId>, Option<StreamId>)> {
        self.read(move |tx| query::uploads_before(tx, created_ms, after, count_max))
            .await
    }

    async fn object(&self, path: ObjectPath) -> StoreResult<Option<ObjectRow>> {
        self.read(move |tx| query::object(tx, &path)).await
    }

    async fn segments(
        &self,
        stream: StreamId,
        inline_bytes_max: usize,
    ) -> StoreResult<Vec<(SegmentRow, Option<Vec<u8>>)>> {
        self.read(move |tx| query::segments_with_inline(tx, stream, inline_bytes_max))
            .await
    }

    async fn segment(
        &self,
        stream: StreamId,
        position: Position,
    ) -> StoreResult<Option<(SegmentRow, Option<Vec<u8>>)>> {
        self.read(move |tx| query::segment_with_inline(tx, stream, position))
            .await
    }

    async fn list(&self, project: ProjectId, bucket: String, list: ListQuery) -> StoreResult<Page> {
        self.read(move |tx| query::list(tx, project, &bucket, &list))
            .await
    }

    async fn delete_object(&self, path: ObjectPath, discard_ms: u64) -> StoreResult<bool> {
        self.write(move |tx| command::delete_object(tx, &path, Some(discard_ms)))
            .await
    }

    async fn drop_expired(&self, now_ms: u64, count_max: usize) -> StoreResult<usize> {
        self.write(move |tx| command::drop_expired(tx, now_ms, count_max))
            .await
    }

    async fn nodes(&self) -> StoreResult<Vec<(NodeNumber, NodeRow)>> {
        self.read(query::nodes).await
    }

    async fn put_node(&self, node: NodeRow) -> StoreResult<NodeNumber> {
        self.write(move |tx| command::put_node(tx, &node)).await
    }

    async fn due_discards(
        &self,
        now_ms: u64,
        from: u64,
        count_max: usize,
    ) -> StoreResult<(Vec<(u64, Discard)>, u64)> {
        self.read(move |tx| query::due_discards(tx, now_ms, from, count_max))
            .await
    }

    async fn settle_discards(&self, rows: Vec<(u64, Option<Discard>)>) -> StoreResult<()> {
        self.write(move |tx| command::settle_discards(tx, &rows))
            .await
    }

    async fn counts(&self) -> StoreResult<Counts> {
        self.read(query::counts).await
    }

    async fn close(&self) {
        // Blocks for the last commit only.
        self.writer.close();
        drop(
            self.database
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take(),
        );
    }
}

impl Drop for RedbStore {
    fn drop(&mut self) {
        self.writer.close();
    }
}

macro_rules! backend_errors {
    ($($error:ident)*) => {$(
        impl From<$error> for StoreError {
            fn from(error: $error) -> Self {
                Self::Backend(error.to_string())
            }
        }
    )*};
}

backend_errors! { StorageError TableError TransactionError CommitError }

/// Pages kept in memory; redb's own default is a gigabyte.
const CACHE_BYTES: usize = 128 << 20;

const SCHEMA_KEY: &[u8] = b"schema version";
const MASTER_CHECK_KEY: &[u8] = b"master key check";
const LAST_RUN_KEY: &[u8] = b"last collection";

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Makes the store look as if a release had written it that knew nothing of these tables.
    pub(in crate::store) fn drop_collection_tables(path: &Path) {
        let database = Database::open(path).unwrap();
        let transaction = database.begin_write().unwrap();
        for table in [
            table::FILTERS,
            table::COLLECTIONS,
            table::LOST,
            table::REVIVED,
        ] {
            assert!(transaction.delete_table(table).unwrap());
        }
        transaction.commit().unwrap();
    }

    /// Makes the store look as if another release had written it.
    pub(in crate::store) fn set_schema_version(path: &Path, version: u32) {
        let database = Database::open(path).unwrap();
        let transaction = database.begin_write().unwrap();
        WriteTx::new(&transaction)
            .put(META, SCHEMA_KEY, &version.to_le_bytes())
            .unwrap();
        transaction.commit().unwrap();
    }
}
