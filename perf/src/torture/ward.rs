//! The process that is killed: a store on a real disk, with callers, compaction, scrub and checkpoints, until somebody ends it.
//!
//! It says on its standard output, a line each and at once, what was acknowledged: `put N`, and `deleting N` before and `deleted N` after.
//! Which pieces it puts follows from their numbers alone, so that whoever reads the lines knows what must be there.

use std::cell::Cell;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use piecestore::core::executor::Executor;
use strand_blob::{StoreOptions, Traffic};

use crate::store::drive::{Load, NODE_ID, Session, on_core};
use crate::store::work::Work;

/// Callers side by side.
const CALLERS: usize = 8;

/// Longest life without a kill.
const LIFE_MAX: Duration = Duration::from_secs(30);

/// Rest between two rounds of upkeep.
const UPKEEP_REST: Duration = Duration::from_millis(3);

/// The moment that every run takes for now.
pub(super) const NOW_S: u32 = 1_800_000_000;

/// Pieces of two lengths, several satellites and expiries.
pub(super) struct Pieces {
    short: Arc<Work>,
    long: Arc<Work>,
}

impl Pieces {
    pub(super) fn new() -> Self {
        Self {
            short: Arc::new(Work::mixed(4_096, NOW_S)),
            long: Arc::new(Work::mixed(65_536, NOW_S)),
        }
    }

    /// Every ninth piece is long.
    pub(super) fn of(&self, number: u64) -> &Arc<Work> {
        if number.is_multiple_of(9) {
            &self.long
        } else {
            &self.short
        }
    }
}

/// Small blobs, so that they are sealed, compacted and removed all the time.
pub(super) fn options() -> StoreOptions {
    let mut options = StoreOptions::new(NODE_ID, 64 << 30);
    options.blob_bytes_max = 4 << 20;
    options
}

/// Runs it: arguments are the folder and the number of the first piece.
///
/// # Errors
///
/// If it cannot store.
pub fn ward_main(arguments: &[OsString]) -> Result<()> {
    let [folder, first] = arguments else {
        anyhow::bail!("a ward needs a folder and a number");
    };
    let folder = PathBuf::from(folder);
    let first = first.to_str().and_then(|text| text.parse().ok());
    let first: u64 = first.context("the second argument is no number")?;
    store_on(&folder, first)
}

fn store_on(folder: &Path, first: u64) -> Result<()> {
    let folder = folder.to_owned();
    on_core(move |core| async move {
        let session = Box::pin(Session::open(core, &folder, options(), NOW_S)).await?;
        println!("open");
        let is_over = Rc::new(Cell::new(false));
        session
            .executor()
            .spawn(upkeep(&session, Rc::clone(&is_over)));
        let (store, pieces) = (Rc::clone(session.store()), Rc::new(Pieces::new()));
        let load = Load {
            callers: CALLERS,
            count: u64::MAX,
            limit: LIFE_MAX,
            is_timed: false,
            per_second: None,
        };
        let operation = move |number| {
            let (store, number) = (Rc::clone(&store), first + number);
            let work = Arc::clone(pieces.of(number));
            async move {
                store.put(work.piece(number)).await?;
                println!("put {number}");
                if number.is_multiple_of(2) {
                    let (satellite, id) = work.key(number);
                    println!("deleting {number}");
                    store.delete(&satellite, &id, NOW_S).await?;
                    println!("deleted {number}");
                }
                Ok(())
            }
        };
        session.side_by_side(load, operation).await?;
        is_over.set(true);
        session.close().await?;
        Ok(())
    })
}

/// Compaction, scrub and checkpoints, in turn and without end.
fn upkeep(session: &Session, is_over: Rc<Cell<bool>>) -> impl Future<Output = ()> + use<> {
    let (store, executor) = (Rc::clone(session.store()), session.executor());
    async move {
        let mut cursor = store.scrub_cursor(0);
        while !is_over.get() {
            // What fails here fails for a caller as well, who says so.
            let _compacted = store.compact_in(Traffic::Quiet, NOW_S).await.is_ok();
            cursor = match store.scrub_step(cursor, 1 << 20).await {
                Some(step) => step.next,
                None => store.scrub_cursor(0),
            };
            let _written = store.checkpoint().await.is_ok();
            executor.sleep(UPKEEP_REST).await;
        }
    }
}
