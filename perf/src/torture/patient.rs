//! The process that stores on a sick disk: it does what it is told on its standard input, a line each, and says what came of it.
//!
//! `put FIRST COUNT` and `get FIRST COUNT` take the pieces one after another by number; `watch FIRST COUNT` gets them again and again until the next
//! line; `scrub` checks every record; `begin put FIRST COUNT` (or get) goes on beside what comes next, until `join`. Each answer is a line of JSON.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::OsString;
use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use piecestore::core::executor::{Executor, timeout};
use piecestore::core::{CoreExecutor, Gate};
use piecestore::disk::CoreDisk;
use serde::{Deserialize, Serialize};
use strand_blob::{GetError, Store, StoreOptions};

use super::ward::NOW_S;
use crate::store::drive::{NODE_ID, Session, on_core};
use crate::store::work::Work;

/// Bytes of each piece: two shares, so that its body is read apart from its header.
const BODY_BYTES: usize = 20_000;

/// Pieces that may be put: no two have the same body.
pub(super) const PIECES_MAX: u64 = 256;

/// How often the next line is looked for.
const LOOK_PERIOD: Duration = Duration::from_millis(1);

/// How long `join` waits.
const JOIN_MAX: Duration = Duration::from_secs(30);

/// Without a line for so long nobody is there any more.
const SILENCE_MAX: Duration = Duration::from_secs(120);

/// What came of a line.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Answer {
    /// Pieces put or gotten, or records checked.
    pub(super) ok: u64,
    /// Those that failed.
    pub(super) failed: Vec<Failed>,
    /// Those that were gotten and are not what was put.
    pub(super) wrong: Vec<u64>,
    /// Whether the store takes nothing any more until it is opened again.
    pub(super) is_read_only: bool,
    /// Shares read so far, and those of them that came from memory.
    pub(super) shares_read: u64,
    pub(super) shares_from_memory: u64,
}

/// A piece that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Failed {
    pub(super) number: u64,
    /// The blob that the error names.
    pub(super) blob: Option<u64>,
    pub(super) what: String,
}

/// Small blobs that are filled one after another.
fn options() -> StoreOptions {
    let mut options = StoreOptions::new(NODE_ID, 1 << 30);
    options.blob_bytes_max = 256 << 10;
    options.group_bytes_max = 128 << 10;
    options.append_points_max = 1;
    options.lanes_max = 1;
    options
}

/// Pieces as this process puts them.
pub(super) fn work() -> Work {
    Work::new(BODY_BYTES, NOW_S)
}

/// Runs it: the argument is the folder.
///
/// # Errors
///
/// If it cannot open its store, or is told what it does not know.
pub fn patient_main(arguments: &[OsString]) -> Result<()> {
    let [folder] = arguments else {
        anyhow::bail!("a patient needs a folder");
    };
    let folder = PathBuf::from(folder);
    let (sender, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    on_core(move |core| async move {
        let session = Box::pin(Session::open(core, &folder, options(), NOW_S)).await?;
        let patient = Patient {
            store: Rc::clone(session.store()),
            executor: session.executor(),
            work: Rc::new(work()),
        };
        say(&patient.answer())?;
        Box::pin(patient.obey(&told)).await?;
        session.store().close().await;
        Ok(())
    })
}

/// A store and what is asked of it. Clones are the same.
#[derive(Clone)]
struct Patient {
    store: Rc<Store<CoreDisk<CoreExecutor>>>,
    executor: CoreExecutor,
    work: Rc<Work>,
}

impl Patient {
    async fn obey(&self, told: &Receiver<String>) -> Result<()> {
        let mut beside: Option<(Gate, Rc<RefCell<Answer>>)> = None;
        let mut waited = Duration::ZERO;
        loop {
            let line = match told.try_recv() {
                Ok(line) => line,
                Err(TryRecvError::Disconnected) => return Ok(()),
                Err(TryRecvError::Empty) => {
                    ensure!(waited < SILENCE_MAX, "nobody says anything");
                    self.executor.sleep(LOOK_PERIOD).await;
                    waited += LOOK_PERIOD;
                    continue;
                }
            };
            waited = Duration::ZERO;
            let mut words: Vec<&str> = line.split(' ').collect();
            if words.first() == Some(&"begin") {
                let (patient, line) = (self.clone(), words.split_off(1).join(" "));
                let (gate, answer) = (Gate::new(), Rc::new(RefCell::default()));
                let pass = gate.enter().context("the gate is open")?;
                beside = Some((gate, Rc::clone(&answer)));
                self.executor.spawn(async move {
                    let done = patient.take(&line).await.unwrap_or_default();
                    answer.replace(done);
                    drop(pass);
                });
                say(&self.answer())?;
                continue;
            }
            let answer = match words[0] {
                "join" => {
                    let (gate, answer) = beside.take().context("nothing was begun")?;
                    let ended = timeout(&self.executor, JOIN_MAX, gate.close()).await;
                    ensure!(ended.is_some(), "what was begun does not end");
                    answer.take()
                }
                "watch" => self.watch(&line, told).await?,
                "scrub" => self.scrub().await,
                "status" => self.answer(),
                _ => self.take(&line).await?,
            };
            say(&answer)?;
        }
    }

    fn answer(&self) -> Answer {
        let counters = self.store.counters();
        Answer {
            is_read_only: self.store.is_read_only(),
            shares_read: counters.shares_read,
            shares_from_memory: counters.shares_from_memory,
            ..Answer::default()
        }
    }

    /// `put` or `get`.
    async fn take(&self, line: &str) -> Result<Answer> {
        let (what, range) = parse(line)?;
        let mut answer = Answer::default();
        for number in range {
            match what {
                "put" => self.put(number, &mut answer).await,
                "get" => self.get(number, &mut answer).await,
                _ => anyhow::bail!("`{line}` is nothing that can be done"),
            }
        }
        Ok(Answer {
            ok: answer.ok,
            failed: answer.failed,
            wrong: answer.wrong,
            ..self.answer()
        })
    }

    async fn put(&self, number: u64, answer: &mut Answer) {
        match self.store.put(self.work.piece(number)).await {
            Ok(_) => answer.ok += 1,
            Err(error) => answer.failed.push(Failed {
                number,
                blob: None,
                what: error.to_string(),
            }),
        }
    }

    async fn get(&self, number: u64, answer: &mut Answer) {
        let (satellite, id) = self.work.key(number);
        let read = match self.store.piece(&satellite, &id, NOW_S).await {
            Ok(piece) => {
                let shares = 0..piece.share_count();
                self.store.read_shares(&piece, shares).await
            }
            Err(error) => Err(error),
        };
        match read {
            Ok(bytes) if bytes == self.work.body(number) => answer.ok += 1,
            Ok(_) => answer.wrong.push(number),
            Err(error) => answer.failed.push(Failed {
                number,
                blob: match error {
                    GetError::Corrupt { blob, .. } => Some(blob.0),
                    _ => None,
                },
                what: error.to_string(),
            }),
        }
    }

    /// Gets them until the next line, which it takes.
    async fn watch(&self, line: &str, told: &Receiver<String>) -> Result<Answer> {
        let (_, range) = parse(line)?;
        let mut answer = Answer::default();
        let mut failed = HashMap::new();
        loop {
            for number in range.clone() {
                self.get(number, &mut answer).await;
                for piece in answer.failed.drain(..) {
                    failed.insert(piece.number, piece);
                }
                match told.try_recv() {
                    Err(TryRecvError::Empty) => {}
                    _ => {
                        answer.failed = failed.into_values().collect();
                        let (ok, failed, wrong) = (answer.ok, answer.failed, answer.wrong);
                        return Ok(Answer {
                            ok,
                            failed,
                            wrong,
                            ..self.answer()
                        });
                    }
                }
            }
            // What comes from memory waits for nothing.
            self.executor.yield_now().await;
        }
    }

    /// All records; those that failed are the pieces it takes out of service.
    async fn scrub(&self) -> Answer {
        let names: HashMap<_, _> = (0..PIECES_MAX)
            .map(|number| (self.work.key(number), number))
            .collect();
        let mut answer = self.answer();
        let mut cursor = self.store.scrub_cursor(0);
        while let Some(step) = self.store.scrub_step(cursor, 1 << 20).await {
            cursor = step.next;
            answer.ok += step.records;
            for lost in step.lost {
                answer.failed.push(Failed {
                    number: names[&(lost.satellite, lost.id)],
                    blob: Some(step.blob.0),
                    what: lost.damage.to_string(),
                });
            }
        }
        answer
    }
}

/// What a line asks for, and of which pieces.
fn parse(line: &str) -> Result<(&str, std::ops::Range<u64>)> {
    let words: Vec<&str> = line.split(' ').collect();
    let &[what, first, count] = words.as_slice() else {
        anyhow::bail!("`{line}` is not something FIRST COUNT");
    };
    let (first, count): (u64, u64) = (first.parse()?, count.parse()?);
    let end = first.checked_add(count).filter(|&end| end <= PIECES_MAX);
    let end = end.with_context(|| format!("`{line}` names pieces beyond {PIECES_MAX}"))?;
    Ok((what, first..end))
}

fn say(answer: &Answer) -> Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, answer)?;
    out.write_all(b"\n")?;
    out.flush()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_pieces_that_differ() {
        assert_eq!(parse("put 3 4").unwrap(), ("put", 3..7));
        assert_eq!(parse("get 0 256").unwrap(), ("get", 0..256));
        for bad in ["put", "put 1", "put 1 256", "put x 1", "put 1 2 3"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        let work = work();
        for number in 1..PIECES_MAX {
            assert_ne!(work.body(0), work.body(number));
        }
    }
}
