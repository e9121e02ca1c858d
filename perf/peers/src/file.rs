//! One file a piece: written and synced, 64 side by side, then one sync of the folder for all their names.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use anyhow::{Context, Result};

use crate::BATCH;
use crate::work::Key;

struct Files {
    folder: File,
    /// Each thread's next piece.
    threads: Vec<Sender<(Key, Vec<u8>)>>,
    written: Receiver<io::Result<()>>,
}

pub(crate) fn open(folder: &Path, _body_len: usize) -> Result<Box<dyn crate::Peer>> {
    let (answer, written) = channel();
    let threads = (0..BATCH)
        .map(|_| {
            let (sender, pieces) = channel::<(Key, Vec<u8>)>();
            let (folder, answer) = (folder.to_owned(), answer.clone());
            thread::spawn(move || {
                for (key, body) in pieces {
                    if answer.send(write(&folder, &key, &body)).is_err() {
                        return;
                    }
                }
            });
            sender
        })
        .collect();
    Ok(Box::new(Files {
        folder: File::open(folder)?,
        threads,
        written,
    }))
}

fn write(folder: &Path, key: &Key, body: &[u8]) -> io::Result<()> {
    let mut file = File::create_new(path(folder, key))?;
    file.write_all(body)?;
    file.sync_data()
}

fn path(folder: &Path, key: &Key) -> PathBuf {
    let mut name = String::with_capacity(2 * key.len());
    for byte in key {
        name.push_str(&format!("{byte:02x}"));
    }
    folder.join(name)
}

impl crate::Peer for Files {
    fn put(&mut self, batch: &[(Key, &[u8])]) -> Result<()> {
        for ((key, body), thread) in batch.iter().zip(&self.threads) {
            thread
                .send((*key, body.to_vec()))
                .context("a writer ended")?;
        }
        for _ in batch {
            self.written.recv().context("all writers ended")??;
        }
        Ok(self.folder.sync_all()?)
    }
}
