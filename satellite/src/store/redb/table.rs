//! Tables, keys, and typed access to them inside one transaction.

use std::ops::Bound;

use prost::Message;
use redb::{
    ReadTransaction, ReadableTable, ReadableTableMetadata, TableDefinition, WriteTransaction,
};
use strand_protocol::{PieceId, Position, ProjectId, StreamId};

use crate::core::row::NodeNumber;
use crate::store::{ObjectPath, StoreError, StoreResult};

/// All keys and values are bytes: docs/format.md, section 7.
pub(super) type Table = TableDefinition<'static, &'static [u8], &'static [u8]>;

pub(super) const META: Table = Table::new("meta");
pub(super) const PROJECTS: Table = Table::new("projects");
pub(super) const BUCKETS: Table = Table::new("buckets");
pub(super) const OBJECTS: Table = Table::new("objects");
pub(super) const EXPIRIES: Table = Table::new("expiries");
pub(super) const SEGMENTS: Table = Table::new("segments");
pub(super) const INLINE: Table = Table::new("inline");
pub(super) const PENDING_OBJECTS: Table = Table::new("pending objects");
pub(super) const PENDING_SEGMENTS: Table = Table::new("pending segments");
pub(super) const NODES: Table = Table::new("nodes");
pub(super) const NODE_NUMBERS: Table = Table::new("node numbers");
pub(super) const OUTBOX: Table = Table::new("outbox");

pub(super) const FILTERS: Table = Table::new("filters");
pub(super) const COLLECTIONS: Table = Table::new("collections");
pub(super) const LOST: Table = Table::new("lost pieces");
pub(super) const REVIVED: Table = Table::new("revived pieces");

pub(super) const ALL: [(Table, &str); 16] = [
    (META, "meta"),
    (PROJECTS, "projects"),
    (BUCKETS, "buckets"),
    (OBJECTS, "objects"),
    (EXPIRIES, "expiries"),
    (SEGMENTS, "segments"),
    (INLINE, "inline"),
    (PENDING_OBJECTS, "pending objects"),
    (PENDING_SEGMENTS, "pending segments"),
    (NODES, "nodes"),
    (NODE_NUMBERS, "node numbers"),
    (OUTBOX, "outbox"),
    (FILTERS, "filters"),
    (COLLECTIONS, "collections"),
    (LOST, "lost pieces"),
    (REVIVED, "revived pieces"),
];

/// A row's bytes.
pub(super) type RowBytes = (Vec<u8>, Vec<u8>);

/// Is given a row's key and value; says whether to go on.
pub(super) type Visit<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> StoreResult<bool>;

/// Reading, alike in read and write transactions.
pub(super) trait Rows {
    fn get(&self, table: Table, key: &[u8]) -> StoreResult<Option<Vec<u8>>>;
    /// Rows with keys from `lower` on that begin with `prefix`, while `visit` says so.
    fn scan(
        &self,
        table: Table,
        prefix: &[u8],
        lower: Bound<&[u8]>,
        visit: Visit<'_>,
    ) -> StoreResult<()>;
    fn count(&self, table: Table) -> StoreResult<u64>;

    /// The message at a key.
    fn message<M: Message + Default>(&self, table: Table, key: &[u8]) -> StoreResult<Option<M>> {
        self.get(table, key)?
            .map(|bytes| decode(table, &bytes))
            .transpose()
    }

    /// All rows with a prefix, at most `count_max`.
    fn rows(&self, table: Table, prefix: &[u8], count_max: usize) -> StoreResult<Vec<RowBytes>> {
        let mut rows = Vec::new();
        self.scan(table, prefix, Bound::Included(prefix), &mut |key, value| {
            if rows.len() < count_max {
                rows.push((key.to_vec(), value.to_vec()));
            }
            Ok(rows.len() < count_max)
        })?;
        Ok(rows)
    }
}

/// The writer's transaction.
pub(super) struct WriteTx<'a>(&'a WriteTransaction);

/// A snapshot.
pub(super) struct ReadTx(ReadTransaction);

impl<'a> WriteTx<'a> {
    pub(super) fn new(transaction: &'a WriteTransaction) -> Self {
        Self(transaction)
    }

    pub(super) fn put(&self, table: Table, key: &[u8], value: &[u8]) -> StoreResult<()> {
        self.0.open_table(table)?.insert(key, value)?;
        Ok(())
    }

    pub(super) fn put_message(
        &self,
        table: Table,
        key: &[u8],
        message: &impl Message,
    ) -> StoreResult<()> {
        self.put(table, key, &message.encode_to_vec())
    }

    pub(super) fn remove(&self, table: Table, key: &[u8]) -> StoreResult<bool> {
        Ok(self.0.open_table(table)?.remove(key)?.is_some())
    }

    /// The highest key of a table of 8- or 4-byte numbers.
    pub(super) fn last_key(&self, table: Table) -> StoreResult<Option<Vec<u8>>> {
        let table = self.0.open_table(table)?;
        Ok(table.last()?.map(|(key, _)| key.value().to_vec()))
    }
}

impl ReadTx {
    pub(super) fn new(transaction: ReadTransaction) -> Self {
        Self(transaction)
    }
}

impl Rows for WriteTx<'_> {
    fn get(&self, table: Table, key: &[u8]) -> StoreResult<Option<Vec<u8>>> {
        Ok(self
            .0
            .open_table(table)?
            .get(key)?
            .map(|value| value.value().to_vec()))
    }

    fn scan(
        &self,
        table: Table,
        prefix: &[u8],
        lower: Bound<&[u8]>,
        visit: Visit<'_>,
    ) -> StoreResult<()> {
        scan(&self.0.open_table(table)?, prefix, lower, visit)
    }

    fn count(&self, table: Table) -> StoreResult<u64> {
        Ok(self.0.open_table(table)?.len()?)
    }
}

impl Rows for ReadTx {
    fn get(&self, table: Table, key: &[u8]) -> StoreResult<Option<Vec<u8>>> {
        Ok(self
            .0
            .open_table(table)?
            .get(key)?
            .map(|value| value.value().to_vec()))
    }

    fn scan(
        &self,
        table: Table,
        prefix: &[u8],
        lower: Bound<&[u8]>,
        visit: Visit<'_>,
    ) -> StoreResult<()> {
        scan(&self.0.open_table(table)?, prefix, lower, visit)
    }

    fn count(&self, table: Table) -> StoreResult<u64> {
        Ok(self.0.open_table(table)?.len()?)
    }
}

fn scan(
    table: &impl ReadableTable<&'static [u8], &'static [u8]>,
    prefix: &[u8],
    lower: Bound<&[u8]>,
    visit: Visit<'_>,
) -> StoreResult<()> {
    for row in table.range::<&[u8]>((lower, Bound::Unbounded))? {
        let (key, value) = row?;
        if !key.value().starts_with(prefix) || !visit(key.value(), value.value())? {
            break;
        }
    }
    Ok(())
}

pub(super) fn decode<M: Message + Default>(table: Table, bytes: &[u8]) -> StoreResult<M> {
    M::decode(bytes).map_err(|_| damaged(table))
}

pub(super) fn damaged(table: Table) -> StoreError {
    let is_it = |(known, _): &&(Table, &str)| table_name(*known) == table_name(table);
    let name = ALL.iter().find(is_it).map_or("unknown", |(_, name)| name);
    StoreError::Damaged { table: name }
}

fn table_name(table: Table) -> String {
    redb::TableHandle::name(&table).to_owned()
}

pub(super) fn bucket_key(project: ProjectId, bucket: &str) -> Vec<u8> {
    [project.as_ref(), bucket.as_bytes()].concat()
}

/// What the keys of a bucket's objects begin with.
pub(super) fn bucket_prefix(project: ProjectId, bucket: &str) -> Vec<u8> {
    // Bucket names have at most 63 bytes: checked where they enter.
    [project.as_ref(), &[bucket.len() as u8], bucket.as_bytes()].concat()
}

pub(super) fn object_key(path: &ObjectPath) -> Vec<u8> {
    let prefix = bucket_prefix(path.project, &path.bucket);
    [&prefix[..], &path.encrypted_key, &VERSION_0].concat()
}

/// The encrypted key in an object's table key, which has this prefix.
pub(super) fn encrypted_key_of<'a>(key: &'a [u8], prefix: &[u8]) -> Option<&'a [u8]> {
    key.strip_prefix(prefix)?.strip_suffix(&VERSION_0)
}

/// The parts of an object's table key.
pub(super) fn object_path_of(key: &[u8]) -> Option<ObjectPath> {
    let (project, rest) = key.split_first_chunk::<16>()?;
    let (len, rest) = rest.split_first()?;
    let (bucket, rest) = rest.split_at_checked(usize::from(*len))?;
    Some(ObjectPath {
        project: (*project).into(),
        bucket: std::str::from_utf8(bucket).ok()?.to_owned(),
        encrypted_key: rest.strip_suffix(&VERSION_0)?.to_vec(),
    })
}

pub(super) fn expiry_key(expires_ms: u64, object_key: &[u8]) -> Vec<u8> {
    [&expires_ms.to_be_bytes()[..], object_key].concat()
}

pub(super) fn segment_key(stream: StreamId, position: Position) -> Vec<u8> {
    [stream.as_ref(), &u64::from(position).to_be_bytes()].concat()
}

/// The position in a segment's table key.
pub(super) fn position_of(key: &[u8]) -> Option<Position> {
    let (_, position) = key.split_last_chunk::<8>()?;
    Some(u64::from_be_bytes(*position).into())
}

/// The parts of a segment's table key.
pub(super) fn segment_place_of(key: &[u8]) -> Option<(StreamId, Position)> {
    let (stream, position) = key.split_first_chunk::<16>()?;
    let position = u64::from_be_bytes(position.try_into().ok()?);
    Some(((*stream).into(), position.into()))
}

pub(super) fn node_key(node: NodeNumber) -> [u8; 4] {
    node.0.to_be_bytes()
}

pub(super) fn filter_key(node: NodeNumber, run: u64, part: u32) -> Vec<u8> {
    [&node_key(node)[..], &run.to_be_bytes(), &part.to_be_bytes()].concat()
}

pub(super) fn report_key(node: NodeNumber, piece: PieceId) -> Vec<u8> {
    [&node_key(node)[..], piece.as_ref()].concat()
}

/// The parts of a report's table key.
pub(super) fn report_of(key: &[u8]) -> Option<(NodeNumber, PieceId)> {
    let (node, piece) = key.split_first_chunk::<4>()?;
    let piece = PieceId::try_from(piece).ok()?;
    Some((NodeNumber(u32::from_be_bytes(*node)), piece))
}

/// Versions of an object, big-endian; 0 until versioning exists.
pub(super) const VERSION_0: [u8; 8] = [0; 8];
