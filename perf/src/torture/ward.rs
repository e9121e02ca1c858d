//! The process that is killed: a store on a real disk, with callers, compaction, collection, scrub and checkpoints, until somebody ends it.
//!
//! It says on its standard output, a line each and at once, what was acknowledged: `put N`, and `deleting N` before and `deleted N` after.
//! Which pieces it puts follows from their numbers alone, so that whoever reads the lines knows what must be there.

mod disk;
mod points;

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use clap::Parser;
use piecestore::core::executor::Executor;
use strand_blob::{CollectRequest, StoreOptions, Traffic, Wanted};

pub(super) use self::disk::Lie;
use self::disk::{Shared, WardDisk};
use self::points::Phase;
pub(super) use self::points::{OPERATIONS, Point};
use crate::store::drive::{Load, NODE_ID, Session, disk_in, on_core};
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

/// What a ward is told.
#[derive(Debug, Parser)]
#[command(no_binary_name = true)]
struct WardOptions {
    /// Where its blobs are
    folder: PathBuf,
    /// The number of its first piece
    first: u64,
    /// Where it ends itself, as if it were killed there
    #[arg(long)]
    point: Option<Point>,
    /// What its disk says that is not so
    #[arg(long, value_enum)]
    lie: Option<Lie>,
}

/// Runs it.
///
/// # Errors
///
/// If it cannot store.
pub fn ward_main(arguments: &[OsString]) -> Result<()> {
    let options = WardOptions::try_parse_from(arguments)?;
    on_core(move |core| async move {
        let disk = disk_in(&core, &options.folder)?;
        let (disk, shared) = WardDisk::new(disk, core.executor(), options.point, options.lie);
        let session = Box::pin(Session::open_on(core, disk, self::options(), NOW_S)).await?;
        println!("open");
        shared.is_open.set(true);
        let is_over = Rc::new(Cell::new(false));
        let unwanted = Rc::<Unwanted>::default();
        let upkeep = Upkeep {
            shared,
            unwanted: Rc::clone(&unwanted),
            is_over: Rc::clone(&is_over),
        };
        session.executor().spawn(upkeep.run(&session));
        let (store, pieces) = (Rc::clone(session.store()), Rc::new(Pieces::new()));
        let load = Load {
            callers: CALLERS,
            count: u64::MAX,
            limit: LIFE_MAX,
            is_timed: false,
            per_second: None,
        };
        let first = options.first;
        let operation = move |number| {
            let (store, number) = (Rc::clone(&store), first + number);
            let work = Arc::clone(pieces.of(number));
            let unwanted = Rc::clone(&unwanted);
            async move {
                store.put(work.piece(number)).await?;
                println!("put {number}");
                let (satellite, id) = work.key(number);
                if number.is_multiple_of(2) {
                    println!("deleting {number}");
                    store.delete(&satellite, &id, NOW_S).await?;
                    println!("deleted {number}");
                } else if number % UNWANTED_EVERY == 1 {
                    unwanted.add(satellite, id);
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

/// Pieces that are to be collected: one of so many, out of those that are not deleted.
const UNWANTED_EVERY: u64 = 32;

/// They can still be read afterwards, out of the trash.
#[derive(Default)]
struct Unwanted {
    satellite: Cell<[u8; 32]>,
    ids: RefCell<BTreeSet<[u8; 32]>>,
}

impl Unwanted {
    fn add(&self, satellite: [u8; 32], id: [u8; 32]) {
        self.satellite.set(satellite);
        self.ids.borrow_mut().insert(id);
    }
}

impl Wanted for Unwanted {
    fn contains(&self, piece_id: &[u8; 32]) -> bool {
        !self.ids.borrow().contains(piece_id)
    }
}

/// Rounds of upkeep between two in which all that was collected is brought back.
const RESTORE_EVERY: u64 = 8;

/// Compaction, collection, scrub and checkpoints, in turn and without end.
struct Upkeep {
    shared: Rc<Shared>,
    unwanted: Rc<Unwanted>,
    is_over: Rc<Cell<bool>>,
}

impl Upkeep {
    fn run(self, session: &Session<WardDisk>) -> impl Future<Output = ()> + use<> {
        let (store, executor) = (Rc::clone(session.store()), session.executor());
        async move {
            let phase = &self.shared.phase;
            let mut cursor = store.scrub_cursor(0);
            let mut round = 0;
            while !self.is_over.get() {
                // What fails here fails for a caller as well, who says so.
                phase.set(Phase::Compaction);
                let _compacted = store.compact_in(Traffic::Quiet, NOW_S).await.is_ok();
                phase.set(Phase::Collection);
                let request = CollectRequest {
                    satellite: self.unwanted.satellite.get(),
                    first_id: [0; 32],
                    last_id: [0xff; 32],
                    snapshot_s: NOW_S + 1,
                    wanted: &*self.unwanted,
                    now_s: NOW_S + 1,
                };
                if store.collect(request).await.is_ok() {
                    self.unwanted.ids.take();
                }
                round += 1;
                if round % RESTORE_EVERY == 0 {
                    phase.set(Phase::Restoring);
                    let satellite = self.unwanted.satellite.get();
                    let _restored = store.restore_all(&satellite, NOW_S + 1).await.is_ok();
                }
                phase.set(Phase::Rest);
                cursor = match store.scrub_step(cursor, 1 << 20).await {
                    Some(step) => step.next,
                    None => store.scrub_cursor(0),
                };
                let _written = store.checkpoint().await.is_ok();
                executor.sleep(UPKEEP_REST).await;
            }
        }
    }
}
