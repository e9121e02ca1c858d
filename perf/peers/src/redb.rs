//! redb: one transaction a commit, durable at once.

use std::path::Path;

use anyhow::Result;
use redb::{Database, Durability, TableDefinition};

use crate::work::Key;

const PIECES: TableDefinition<'_, &Key, &[u8]> = TableDefinition::new("pieces");

struct Redb(Database);

pub(crate) fn open(folder: &Path, _body_len: usize) -> Result<Box<dyn crate::Peer>> {
    let database = Database::create(folder.join("pieces.redb"))?;
    Ok(Box::new(Redb(database)))
}

impl crate::Peer for Redb {
    fn put(&mut self, batch: &[(Key, &[u8])]) -> Result<()> {
        let mut transaction = self.0.begin_write()?;
        transaction.set_durability(Durability::Immediate)?;
        let mut table = transaction.open_table(PIECES)?;
        for (key, body) in batch {
            table.insert(key, *body)?;
        }
        drop(table);
        Ok(transaction.commit()?)
    }
}
