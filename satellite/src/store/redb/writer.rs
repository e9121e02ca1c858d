//! One thread writes: it takes the commands that wait, runs them one after another in one
//! transaction, makes that durable, then answers them all.
//!
//! redb has a single writer and a durable commit costs a sync or two, so commands that arrive
//! while one commit runs share the next one. A refused command has written nothing (commands
//! decide before they write), so it does not disturb the others; a failing database aborts all.

use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use redb::{Database, Durability};
use tokio::sync::oneshot;

use super::table::WriteTx;
use crate::limits;
use crate::store::{StoreError, StoreResult};

/// Runs in the writer's transaction; says how it went once that is committed.
type Command = Box<dyn FnOnce(&WriteTx<'_>) -> Ran + Send>;

struct Ran {
    /// A failure of the database, after which the transaction must not be committed.
    failed: Option<StoreError>,
    /// Called with the outcome of the commit.
    answer: Box<dyn FnOnce(Result<(), StoreError>) + Send>,
}

/// The way to the writer thread.
pub(super) struct Writer {
    /// Taken when closing: the thread ends when nobody can send any more.
    commands: Mutex<Option<SyncSender<Command>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Writer {
    pub(super) fn start(database: Arc<Database>) -> std::io::Result<Self> {
        let (sender, receiver) = sync_channel(limits::WRITES_WAITING_MAX);
        let thread = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || run(&database, &receiver))?;
        Ok(Self {
            commands: Mutex::new(Some(sender)),
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Runs `command` in a durable transaction, perhaps together with others.
    pub(super) async fn write<T: Send + 'static>(
        &self,
        command: impl FnOnce(&WriteTx<'_>) -> StoreResult<T> + Send + 'static,
    ) -> StoreResult<T> {
        let (sender, receiver) = oneshot::channel();
        let command: Command = Box::new(move |tx| {
            let result = command(tx);
            let failed = match &result {
                Err(error @ (StoreError::Backend(_) | StoreError::Damaged { .. })) => {
                    Some(error.clone())
                }
                _ => None,
            };
            let answer = Box::new(move |committed: Result<(), StoreError>| {
                // Nobody waits for it any more: the request was cancelled, the write stands.
                let _ = sender.send(result.and_then(|value| committed.map(|()| value)));
            });
            Ran { failed, answer }
        });
        {
            let commands = self.commands.lock().unwrap_or_else(PoisonError::into_inner);
            let commands = commands.as_ref().ok_or_else(closed)?;
            commands.try_send(command).map_err(|error| match error {
                TrySendError::Full(_) => StoreError::Busy,
                TrySendError::Disconnected(_) => closed(),
            })?;
        }
        receiver.await.unwrap_or_else(|_| Err(closed()))
    }

    /// Lets the thread finish what waits, and waits for it.
    pub(super) fn close(&self) {
        drop(
            self.commands
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take(),
        );
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread {
            // It panicked only if redb did, which was reported then.
            let _ = thread.join();
        }
    }
}

fn closed() -> StoreError {
    StoreError::Backend("it is closed".to_owned())
}

fn run(database: &Database, commands: &Receiver<Command>) {
    while let Ok(first) = commands.recv() {
        let more = std::iter::from_fn(|| commands.try_recv().ok());
        let batch: Vec<Command> = std::iter::once(first)
            .chain(more)
            .take(limits::WRITES_PER_COMMIT_MAX)
            .collect();
        run_batch(database, batch);
    }
}

fn run_batch(database: &Database, batch: Vec<Command>) {
    let mut answers = Vec::with_capacity(batch.len());
    let outcome = (|| {
        let mut transaction = database.begin_write()?;
        transaction
            .set_durability(Durability::Immediate)
            .map_err(|error| StoreError::Backend(error.to_string()))?;
        for command in batch {
            let ran = command(&WriteTx::new(&transaction));
            answers.push(ran.answer);
            if let Some(error) = ran.failed {
                // Dropping the transaction aborts it.
                return Err(error);
            }
        }
        transaction.commit()?;
        Ok(())
    })();
    if let Err(error) = &outcome {
        tracing::error!(%error, "a transaction of the store failed");
    }
    for answer in answers {
        answer(outcome.clone());
    }
    // Commands after the one that failed were dropped unanswered; their callers see that.
}
