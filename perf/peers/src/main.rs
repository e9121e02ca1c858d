//! `strand-peers`: other stores do what Strand's piece store does when small pieces are put, each as its makers advise.
//!
//! A writer puts 64 pieces under random keys of 32 bytes and makes them durable together, again and again; nothing
//! counts that was not durable. It prints one JSON object: puts a second for each peer, or what went wrong with it.
//! What is compared here is never a dependency of Strand itself: this crate is no member of the workspace.

mod file;
mod fjall;
mod redb;
mod sqlite;
mod work;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use work::Work;

/// Pieces of a durable commit.
const BATCH: usize = 64;

/// Makes the batches of one peer durable.
trait Peer {
    /// Puts these pieces; returns once all of them are durable.
    fn put(&mut self, batch: &[(work::Key, &[u8])]) -> Result<()>;
}

type Open = fn(&Path, usize) -> Result<Box<dyn Peer>>;

const PEERS: [(&str, Open); 4] = [
    ("fjall", fjall::open),
    ("redb", redb::open),
    ("sqlite", sqlite::open),
    ("files", file::open),
];

struct Arguments {
    dir: PathBuf,
    body_len: usize,
    limit: Duration,
    bytes_max: u64,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse()?;
    let mut rates = serde_json::Map::new();
    for (name, open) in PEERS {
        let folder = arguments.dir.join(name);
        fs::create_dir(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let ran = run(&folder, open, &arguments);
        fs::remove_dir_all(&folder)?;
        // What was removed leaves the journal before the next one begins.
        fs::File::open(&arguments.dir)?.sync_all()?;
        let value = match ran {
            Ok(per_second) => per_second.into(),
            Err(error) => format!("{error:#}").into(),
        };
        rates.insert(name.to_owned(), value);
    }
    println!("{}", serde_json::Value::Object(rates));
    Ok(())
}

/// Durable puts a second.
fn run(folder: &Path, open: Open, arguments: &Arguments) -> Result<f64> {
    let mut work = Work::new(arguments.body_len);
    let mut peer = open(folder, arguments.body_len)?;
    let batch_bytes = (BATCH * arguments.body_len) as u64;
    let started = Instant::now();
    let mut batches = 0;
    while started.elapsed() < arguments.limit && (batches + 1) * batch_bytes <= arguments.bytes_max
    {
        peer.put(&work.batch(BATCH))?;
        batches += 1;
    }
    let seconds = started.elapsed().as_secs_f64();
    if batches == 0 {
        bail!("not one batch of {batch_bytes} bytes was allowed");
    }
    Ok((batches * BATCH as u64) as f64 / seconds)
}

impl Arguments {
    fn parse() -> Result<Self> {
        let given: Vec<String> = std::env::args().skip(1).collect();
        let [dir, body_len, seconds, bytes_max] = given.as_slice() else {
            bail!("usage: strand-peers FOLDER BODY_BYTES SECONDS MOST_BYTES");
        };
        let body_len: usize = body_len.parse().context("BODY_BYTES is no number")?;
        let seconds: f64 = seconds.parse().context("SECONDS is no number")?;
        if !(1..=16 << 20).contains(&body_len) {
            bail!("BODY_BYTES is {body_len}: from 1 to 16777216 are understood");
        }
        Ok(Self {
            dir: dir.into(),
            body_len,
            limit: Duration::try_from_secs_f64(seconds).context("SECONDS is no time")?,
            bytes_max: bytes_max.parse().context("MOST_BYTES is no number")?,
        })
    }
}
