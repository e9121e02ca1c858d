//! A second reader of the satellite's store: docs/format.md section 7 and `satellite/proto/store.proto`, with redb alone.
//!
//! It reads what it needs to find an object's pieces and panics at whatever does not fit.

use std::collections::BTreeMap;
use std::path::Path;

use redb::{Database, ReadableDatabase, TableDefinition};

/// One row of `segments`, and its sealed bytes if it is inline.
pub(crate) struct StoredSegment {
    pub(crate) part_number: u32,
    pub(crate) segment_index: u32,
    pub(crate) plain_len: u64,
    pub(crate) sealed_len: u64,
    pub(crate) salt: [u8; 24],
    pub(crate) key_commitment: [u8; 32],
    pub(crate) commitment: [u8; 32],
    pub(crate) place: Place,
}

/// Where a segment's sealed bytes are.
pub(crate) enum Place {
    Inline(Vec<u8>),
    Pieces {
        required: usize,
        total: usize,
        secret: [u8; 32],
        /// Piece index and node id.
        placements: Vec<(u8, [u8; 32])>,
    },
}

/// The tables of a satellite that does not run.
pub(crate) struct Store(BTreeMap<&'static str, BTreeMap<Vec<u8>, Vec<u8>>>);

impl Store {
    pub(crate) fn read(path: &Path) -> Self {
        let database = Database::open(path).unwrap();
        let transaction = database.begin_read().unwrap();
        let table = |name: &'static str| {
            let table = TableDefinition::<&[u8], &[u8]>::new(name);
            let rows = transaction.open_table(table).unwrap();
            let row = |row: Result<(redb::AccessGuard<'_, &[u8]>, _), _>| {
                let (key, value): (_, redb::AccessGuard<'_, &[u8]>) = row.unwrap();
                (key.value().to_vec(), value.value().to_vec())
            };
            let rows = rows.range::<&[u8]>(..).unwrap().map(row).collect();
            (name, rows)
        };
        let names = ["meta", "projects", "objects", "segments", "inline", "nodes"];
        let store = Self(names.into_iter().map(table).collect());
        assert_eq!(store.row("meta", b"schema version"), 1_u32.to_le_bytes());
        store
    }

    /// Project id and salt of the only project.
    pub(crate) fn project(&self) -> ([u8; 16], [u8; 32]) {
        let mut rows = self.0["projects"].iter();
        let (id, row) = rows.next().unwrap();
        assert!(rows.next().is_none(), "one project");
        (fixed(id), fixed(bytes(&fields(row), 2)))
    }

    /// Stream id and sealed header of an object.
    pub(crate) fn object(
        &self,
        project: &[u8; 16],
        bucket: &str,
        encrypted_key: &[u8],
    ) -> ([u8; 16], Vec<u8>) {
        let bucket_len = [u8::try_from(bucket.len()).unwrap()];
        let version = 0_u64.to_be_bytes();
        let name = bucket.as_bytes();
        let key = [&project[..], &bucket_len, name, encrypted_key, &version].concat();
        let row = fields(self.row("objects", &key));
        (fixed(bytes(&row, 1)), bytes(&row, 2).to_vec())
    }

    /// The segments of a stream, in order.
    pub(crate) fn segments(&self, stream_id: &[u8; 16]) -> Vec<StoredSegment> {
        let rows = self.0["segments"].iter();
        let of_stream = rows.filter(|(key, _)| key.starts_with(stream_id));
        of_stream.map(|(key, row)| self.segment(key, row)).collect()
    }

    fn segment(&self, key: &[u8], row: &[u8]) -> StoredSegment {
        let row = fields(row);
        // Big-endian: part number << 32 | segment index.
        let [part_number, segment_index] =
            [16, 20].map(|at| u32::from_be_bytes(fixed(&key[at..at + 4])));
        let place = match row.iter().find(|field| field.0 == 6) {
            None => Place::Inline(self.row("inline", key).to_vec()),
            Some((_, scheme)) => {
                let scheme = fields(scheme.bytes());
                let placements = row.iter().filter(|field| field.0 == 8);
                Place::Pieces {
                    required: usize::try_from(number(&scheme, 1)).unwrap(),
                    total: usize::try_from(number(&scheme, 4)).unwrap(),
                    secret: fixed(bytes(&row, 7)),
                    placements: placements
                        .map(|(_, placement)| self.placement(placement.bytes()))
                        .collect(),
                }
            }
        };
        StoredSegment {
            part_number,
            segment_index,
            plain_len: number(&row, 1),
            sealed_len: number(&row, 2),
            salt: fixed(bytes(&row, 3)),
            key_commitment: fixed(bytes(&row, 4)),
            commitment: fixed(bytes(&row, 5)),
            place,
        }
    }

    fn placement(&self, row: &[u8]) -> (u8, [u8; 32]) {
        let row = fields(row);
        let node_number = u32::try_from(number(&row, 2)).unwrap();
        let node = fields(self.row("nodes", &node_number.to_be_bytes()));
        (
            u8::try_from(number(&row, 1)).unwrap(),
            fixed(bytes(&node, 1)),
        )
    }

    fn row(&self, table: &str, key: &[u8]) -> &[u8] {
        &self.0[table][key]
    }
}

/// A protobuf field: a varint, or a run of bytes.
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl<'a> Value<'a> {
    fn bytes(&self) -> &'a [u8] {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Number(number) => panic!("bytes expected, not {number}"),
        }
    }
}

/// The fields of a message, in the order of the bytes. The store uses wire types 0 and 2 only.
fn fields(mut rest: &[u8]) -> Vec<(u64, Value<'_>)> {
    let mut found = Vec::new();
    while !rest.is_empty() {
        let tag = varint(&mut rest);
        let value = varint(&mut rest);
        let value = match tag & 7 {
            0 => Value::Number(value),
            2 => Value::Bytes(rest.split_off(..usize::try_from(value).unwrap()).unwrap()),
            other => panic!("wire type {other}"),
        };
        found.push((tag >> 3, value));
    }
    found
}

fn varint(rest: &mut &[u8]) -> u64 {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let byte = *rest.split_off_first().unwrap();
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return number;
        }
    }
    panic!("a varint of more than ten bytes");
}

/// Zero if it is absent, as protobuf has it.
fn number(fields: &[(u64, Value<'_>)], field: u64) -> u64 {
    match fields.iter().find(|(number, _)| *number == field) {
        None => 0,
        Some((_, Value::Number(number))) => *number,
        Some(_) => panic!("field {field} is no number"),
    }
}

fn bytes<'a>(fields: &[(u64, Value<'a>)], field: u64) -> &'a [u8] {
    let found = fields.iter().find(|(number, _)| *number == field);
    found
        .unwrap_or_else(|| panic!("no field {field}"))
        .1
        .bytes()
}

fn fixed<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.try_into().unwrap()
}
