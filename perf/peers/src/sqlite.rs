//! SQLite: one transaction a commit, into a write-ahead log that is synced with each.

use std::path::Path;

use anyhow::{Result, ensure};
use rusqlite::{Connection, params};

use crate::work::Key;

/// Bodies from here on get pages of 16 KiB, which its own measurements of large blobs favour.
const LARGE_BYTES: usize = 16 << 10;

struct Sqlite(Connection);

pub(crate) fn open(folder: &Path, body_len: usize) -> Result<Box<dyn crate::Peer>> {
    let connection = Connection::open(folder.join("pieces.sqlite"))?;
    if body_len >= LARGE_BYTES {
        connection.pragma_update(None, "page_size", 16_384)?;
    }
    let mode: String = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
    ensure!(mode == "wal", "the journal's mode is {mode}");
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.execute("CREATE TABLE pieces (id BLOB PRIMARY KEY, body BLOB)", [])?;
    Ok(Box::new(Sqlite(connection)))
}

impl crate::Peer for Sqlite {
    fn put(&mut self, batch: &[(Key, &[u8])]) -> Result<()> {
        let transaction = self.0.transaction()?;
        let mut insert = transaction.prepare_cached("INSERT INTO pieces VALUES (?1, ?2)")?;
        for (key, body) in batch {
            insert.execute(params![key.as_slice(), body])?;
        }
        drop(insert);
        Ok(transaction.commit()?)
    }
}
