//! fjall: a batch of its journal a commit, synced. Large values lie apart from the tree, as its documentation advises, and
//! nothing is compressed, because random bytes only cost the attempt.

use std::path::Path;

use anyhow::Result;
use fjall::config::CompressionPolicy;
use fjall::{
    CompressionType, Database, Keyspace, KeyspaceCreateOptions, KvSeparationOptions, PersistMode,
};

use crate::work::Key;

/// From here on its own documentation wants values apart ("large blob use cases"; its default bound is 1 KiB).
const APART_BYTES: usize = 16 << 10;

struct Fjall {
    database: Database,
    pieces: Keyspace,
}

pub(crate) fn open(folder: &Path, body_len: usize) -> Result<Box<dyn crate::Peer>> {
    let database = Database::builder(folder)
        .journal_compression(CompressionType::None)
        .open()?;
    let is_apart = body_len >= APART_BYTES;
    let pieces = database.keyspace("pieces", || {
        let apart =
            is_apart.then(|| KvSeparationOptions::default().compression(CompressionType::None));
        KeyspaceCreateOptions::default()
            .data_block_compression_policy(CompressionPolicy::disabled())
            .with_kv_separation(apart)
    })?;
    Ok(Box::new(Fjall { database, pieces }))
}

impl crate::Peer for Fjall {
    fn put(&mut self, batch: &[(Key, &[u8])]) -> Result<()> {
        let mut commit = self
            .database
            .batch()
            .durability(Some(PersistMode::SyncData));
        for (key, body) in batch {
            commit.insert(&self.pieces, key.as_slice(), *body);
        }
        Ok(commit.commit()?)
    }
}
