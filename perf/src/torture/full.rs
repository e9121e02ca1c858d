//! A disk that is full: a small file system is filled until puts are refused, by the limit that its owner set, by the end of the disk, and by
//! somebody else's bytes.
//!
//! A full disk is ordinary. Nothing acknowledged is lost, reads go on, deletes and compaction work and give room back, and puts are taken again without
//! a restart. While another file eats what room is left, writes that are on their way meet the end of it: that is a refusal as well, never the end of
//! writing. The room that a node keeps for deletes is somebody else's then, so deletes may be refused too, until a little is free.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use piecestore::core::CoreExecutor;
use piecestore::core::executor::Executor;
use piecestore::disk::CoreDisk;
use strand_blob::{PutError, Store, StoreOptions, Traffic};
use strand_torture::Tally;

use super::image::{Mounted, System};
use super::kill::{Known, compare, wrong_with};
use super::power::make_folders;
use super::ward::{NOW_S, Pieces};
use crate::ground;
use crate::narrator::Narrator;
use crate::random::Random;
use crate::store::drive::{Load, Session, on_core};

/// What the store may take of an image.
const CAPACITY_BYTES: u64 = 96 << 20;

/// Rounds between two openings.
const ROUNDS_AN_OPENING: u64 = 2;

/// Callers side by side.
const CALLERS: usize = 64;

/// Refusals after which a disk is full.
const REFUSALS: u64 = 64;

/// How long anything here may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Between two tries of what is refused.
const REST: Duration = Duration::from_millis(20);

/// What somebody else leaves: less than puts need, enough for deletes and compaction.
const LEFT_BYTES: u64 = 10 << 20;

/// What somebody else leaves when it is the store that fills the disk: not enough for the limit.
const ROOM_BYTES: u64 = 24 << 20;

/// Percent of all bytes in sealed blobs that compaction leaves dead on a quiet disk, at most.
const DEAD_PERCENT_MAX: u64 = 15;

/// The last bytes of a sealed blob, and how they begin (docs/format.md, section 6).
const FOOTER_END_BYTES: i64 = 64;
const FOOTER_END_MAGIC: &[u8] = b"SFTE";

/// How much somebody else writes at once.
const BITE_BYTES: usize = 1 << 20;

type Ledger = BTreeMap<u64, Known>;

/// What is known across openings.
#[derive(Debug, Default)]
struct Past {
    ledger: Ledger,
    next: u64,
    tally: Tally,
}

/// A store that is being filled.
struct Filling {
    store: Rc<Store<CoreDisk<CoreExecutor>>>,
    pieces: Pieces,
    ledger: RefCell<Ledger>,
    next: Cell<u64>,
    random: RefCell<Random>,
    tally: RefCell<Tally>,
    folder: PathBuf,
    /// Blobs that may grow side by side.
    growing_max: usize,
    /// What shows a violation again.
    replay: String,
}

/// Ends a run of callers that has no further use.
#[derive(Debug, thiserror::Error)]
#[error("enough")]
struct Enough;

/// Fills so often, on the file systems in turn.
pub(super) fn run(
    folder: &Path,
    seed: u64,
    rounds: u64,
    systems: &[System],
    narrator: &Narrator,
) -> Result<Tally> {
    let mut tally = Tally::default();
    for (at, &system) in systems.iter().enumerate() {
        let share = share_of(rounds, at, systems.len());
        let name = system.name();
        let ground = folder.join(format!("full-{name}"));
        match Mounted::make(&ground, system, system.image_bytes_min())? {
            Ok(disk) => tally.merge(fill_on(&disk, seed, share, system)?),
            Err(reason) => narrator.line(&format!("NO FULL DISK on {name}: {reason}")),
        }
        fs::remove_file(ground.join("disk.img"))?;
    }
    Ok(tally)
}

/// How many of all rounds the file system number `at` gets.
fn share_of(rounds: u64, at: usize, count: usize) -> u64 {
    (rounds + at as u64) / count as u64
}

fn fill_on(disk: &Mounted, seed: u64, rounds: u64, system: System) -> Result<Tally> {
    let store = disk.path().join("blobs");
    make_folders(disk.path(), &store)?;
    let foreign = disk.path().join("foreign");
    let replay = format!("--what full --systems {} --seed {seed}", system.name());
    let mut past = Past::default();
    let mut done = 0;
    while done < rounds && past.tally.violations.is_empty() {
        let count = ROUNDS_AN_OPENING.min(rounds - done);
        let (store_again, foreign, replay_again) = (store.clone(), foreign.clone(), replay.clone());
        let random = Random::new(seed + done, "full");
        let is_narrow = (seed + done / ROUNDS_AN_OPENING).is_multiple_of(2);
        past = on_core(move |core| async move {
            let options = options(is_narrow);
            let growing_max = usize::from(options.append_points_max * options.lanes_max);
            let session = Session::open(core, &store_again, options, NOW_S);
            let session = Box::pin(session).await?;
            let filling = Rc::new(Filling {
                store: Rc::clone(session.store()),
                pieces: Pieces::new(),
                ledger: RefCell::new(past.ledger),
                next: Cell::new(past.next),
                random: RefCell::new(random),
                tally: RefCell::new(past.tally),
                folder: store_again,
                growing_max,
                replay: replay_again,
            });
            for _ in 0..count {
                if let Err(error) = Box::pin(round(&session, &filling, &foreign)).await {
                    filling.violate(&format!("{error:#}"));
                    break;
                }
                filling.tally.borrow_mut().add("full_rounds", 1);
            }
            session.close().await?;
            Ok(filling.into_past())
        })?;
        done += count;
        let wanted = past.ledger.iter().map(|(&number, &known)| (number, known));
        let when = format!("opened again after {done} rounds on {}", system.name());
        compare(&store, wanted.collect(), &when, &replay, &mut past.tally);
        past.ledger.retain(|_, known| *known == Known::Stored);
    }
    Ok(past.tally)
}

/// Small blobs, so that many are compacted; one that grows at a time, or as many as there can be.
fn options(is_narrow: bool) -> StoreOptions {
    let mut options = super::ward::options();
    options.capacity_bytes = CAPACITY_BYTES;
    if is_narrow {
        (options.append_points_max, options.lanes_max) = (1, 1);
    }
    options
}

/// Full by the limit, emptied, full by what the disk has, emptied, full by somebody else, emptied.
async fn round(session: &Session, filling: &Rc<Filling>, foreign: &Path) -> Result<()> {
    filling.wait_for_room(session).await?;
    filling.fill(session).await.context("up to the limit")?;
    let space = filling.store.space();
    ensure!(
        space.file_bytes <= CAPACITY_BYTES && space.disk_free_bytes > LEFT_BYTES,
        "the limit was not what refused puts: {space:?}"
    );
    filling.read_all().await;
    filling.make_room(session, 2).await?;

    filling.take_room(session, foreign).await?;
    filling
        .fill(session)
        .await
        .context("up to the disk's end")?;
    let space = filling.store.space();
    ensure!(
        space.free_bytes() < CAPACITY_BYTES - space.file_bytes,
        "the disk was not what refused puts: {space:?}"
    );
    filling
        .make_room(session, 2)
        .await
        .context("where the disk is full")?;
    fs::remove_file(foreign)?;

    let eater = Eater::start(foreign.to_owned());
    filling.fill(session).await.context("beside another file")?;
    eater.finish()?;
    filling.read_all().await;
    // Not a byte is left: whatever is asked for is done or refused, and nothing else.
    filling.delete_some(session, 64, 8).await?;
    filling.compact().await?;

    let eaten = fs::OpenOptions::new().write(true).open(foreign)?;
    let shorter = eaten.metadata()?.len().saturating_sub(LEFT_BYTES);
    eaten.set_len(shorter)?;
    eaten.sync_all()?;
    filling.wait_for_deletes(session).await?;
    filling
        .make_room(session, 2)
        .await
        .context("where little is free")?;
    fs::remove_file(foreign)?;
    filling.wait_for_puts(session).await?;
    filling.read_all().await;
    filling.make_room(session, 4).await?;
    filling.check()
}

impl Filling {
    fn into_past(self: Rc<Self>) -> Past {
        Past {
            ledger: self.ledger.take(),
            next: self.next.get(),
            tally: self.tally.take(),
        }
    }

    fn violate(&self, what: &str) {
        self.tally
            .borrow_mut()
            .violate(format!("disk full: {what}"), &self.replay);
    }

    /// Says what must be true at any time.
    fn check(&self) -> Result<()> {
        let space = self.store.space();
        ensure!(space.adds_up(), "space does not add up: {space:?}");
        let cause = self.store.poison_cause();
        ensure!(cause.is_none(), "the end of writing: {cause:?}");
        ensure!(self.tally.borrow().violations.is_empty(), "see above");
        Ok(())
    }

    /// Three of four pieces are long, so that a disk is filled in little time.
    fn next_number(&self) -> u64 {
        let next = self.next.get();
        self.next.set(next + 1);
        9 * next + u64::from(next.is_multiple_of(4))
    }

    /// Puts pieces until [`REFUSALS`], and reads others beside.
    async fn fill(self: &Rc<Self>, session: &Session) -> Result<()> {
        let (filling, refused) = (Rc::clone(self), Rc::new(Cell::new(0)));
        let count = Rc::clone(&refused);
        let operation = move |_| {
            let (filling, refused) = (Rc::clone(&filling), Rc::clone(&count));
            async move {
                if !filling.put().await? {
                    refused.set(refused.get() + 1);
                    ensure!(refused.get() < REFUSALS, Enough);
                }
                filling.read_one().await;
                Ok(())
            }
        };
        side_by_side(session, u64::MAX, operation).await?;
        ensure!(
            refused.get() >= REFUSALS,
            "puts are taken for {PATIENCE:?} without end: {:?}",
            self.store.space()
        );
        self.check()
    }

    /// Whether the next piece was taken.
    async fn put(&self) -> Result<bool> {
        let number = self.next_number();
        match self.store.put(self.pieces.of(number).piece(number)).await {
            Ok(_) => {
                self.ledger.borrow_mut().insert(number, Known::Stored);
                Ok(true)
            }
            Err(PutError::Full) => Ok(false),
            Err(error) => anyhow::bail!("put {number}: {error}"),
        }
    }

    /// Whether the delete was taken.
    async fn delete(&self, number: u64) -> Result<bool> {
        let (satellite, id) = self.pieces.of(number).key(number);
        self.ledger.borrow_mut().insert(number, Known::Deleting);
        match self.store.delete(&satellite, &id, NOW_S).await {
            Ok(_) => {
                self.ledger.borrow_mut().insert(number, Known::Deleted);
                Ok(true)
            }
            Err(PutError::Full) => Ok(false),
            Err(error) => anyhow::bail!("delete {number}: {error}"),
        }
    }

    async fn read_one(&self) {
        let from = self.random.borrow_mut().below(9 * self.next.get() as usize) as u64;
        let picked = self.ledger.borrow().range(from..).next().map(copied);
        if let Some((number, Known::Stored)) = picked {
            self.compare_one(number, Known::Stored).await;
        }
    }

    /// Compares all that was acknowledged.
    async fn read_all(&self) {
        let all: Vec<_> = self.ledger.borrow().iter().map(copied).collect();
        for (number, known) in all {
            self.compare_one(number, known).await;
        }
    }

    async fn compare_one(&self, number: u64, known: Known) {
        let wrong = wrong_with(&self.store, &self.pieces, number, known).await;
        // It may have been deleted meanwhile.
        let is_still = self.ledger.borrow().get(&number) == Some(&known);
        let mut tally = self.tally.borrow_mut();
        tally.add("acked_pieces_checked", u64::from(known == Known::Stored));
        if let Some(what) = wrong.filter(|_| is_still) {
            tally.add("lost_pieces", 1);
            tally.violate(format!("disk full: {what}"), &self.replay);
        }
    }

    /// Deletes all but one in `keep` and compacts: all that is dead must come back, but for what compaction leaves on purpose.
    async fn make_room(self: &Rc<Self>, session: &Session, keep: usize) -> Result<()> {
        self.delete_some(session, u64::MAX, keep).await?;
        let begun = Instant::now();
        loop {
            self.compact().await?;
            let Err(what) = self.check_tidy() else {
                return self.check();
            };
            ensure!(begun.elapsed() < PATIENCE, what);
            // A node notices within a second or two what others gave back.
            session.executor().sleep(REST).await;
        }
    }

    /// Whether no more is dead than what lies in blobs that still grow, of which there are only so many, and a little of the others.
    fn check_tidy(&self) -> Result<()> {
        let (mut growing_count, mut growing_bytes) = (0, 0);
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            let len = fs::metadata(&path)?.len();
            if !is_sealed(&path)? {
                growing_count += 1;
                growing_bytes += len;
            }
        }
        let space = self.store.space();
        let elsewhere_bytes = space.dead_bytes.saturating_sub(growing_bytes);
        let all_bytes = space.live_bytes + space.dead_bytes + space.overhead_bytes;
        ensure!(
            growing_count <= self.growing_max
                && elsewhere_bytes * 100 <= all_bytes * DEAD_PERCENT_MAX,
            "what was deleted is not given back: {growing_count} blobs of {growing_bytes} bytes have no footer where {} may grow: {space:?}",
            self.growing_max
        );
        Ok(())
    }

    /// Deletes at most `count`, all but one in `keep`; where a delete is refused it stays unknown.
    async fn delete_some(
        self: &Rc<Self>,
        session: &Session,
        count: u64,
        keep: usize,
    ) -> Result<()> {
        let mut numbers: Vec<u64> = self
            .ledger
            .borrow()
            .iter()
            .filter(is_there)
            .map(|(&number, _)| number)
            .collect();
        self.random.borrow_mut().shuffle(&mut numbers);
        numbers.truncate(numbers.len() - numbers.len() / keep);
        numbers.truncate(usize::try_from(count).unwrap_or(usize::MAX));
        let (filling, numbers) = (Rc::clone(self), Rc::new(numbers));
        let count = numbers.len() as u64;
        let operation = move |at: u64| {
            let (filling, numbers) = (Rc::clone(&filling), Rc::clone(&numbers));
            async move { filling.delete(numbers[at as usize]).await.map(drop) }
        };
        side_by_side(session, count, operation).await?;
        self.check()
    }

    /// Compacts until there is nothing to win.
    async fn compact(&self) -> Result<()> {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            match self.store.compact_in(Traffic::Quiet, NOW_S).await {
                Ok(Some(done)) => ensure!(
                    done.lost.is_empty(),
                    "compaction lost {} pieces",
                    done.lost.len()
                ),
                Ok(None) | Err(PutError::Full) => return self.check(),
                Err(error) => anyhow::bail!("compaction: {error}"),
            }
        }
        anyhow::bail!("compaction has no end")
    }

    /// Until what was free when it was looked at last allows for all that the store may take.
    async fn wait_for_room(&self, session: &Session) -> Result<()> {
        let begun = Instant::now();
        loop {
            let space = self.store.space();
            if space.disk_free_bytes + space.file_bytes > CAPACITY_BYTES + LEFT_BYTES {
                return Ok(());
            }
            ensure!(
                begun.elapsed() < PATIENCE,
                "the other file is gone, and its room is not there: {space:?}"
            );
            session.executor().sleep(REST).await;
        }
    }

    /// Somebody else takes all but [`ROOM_BYTES`]; until that is known.
    async fn take_room(&self, session: &Session, foreign: &Path) -> Result<()> {
        let begun = Instant::now();
        let mut file = fs::File::create(foreign)?;
        loop {
            // What the store gave back last may not be there yet.
            let free_bytes = ground::free_bytes(&self.folder)?;
            if free_bytes > ROOM_BYTES {
                eat(&mut file, free_bytes - ROOM_BYTES)?;
            } else if self.store.space().disk_free_bytes <= ROOM_BYTES {
                return Ok(());
            }
            ensure!(
                begun.elapsed() < PATIENCE,
                "another file took room, and nobody noticed"
            );
            session.executor().sleep(REST).await;
        }
    }

    async fn wait_for_deletes(&self, session: &Session) -> Result<()> {
        let begun = Instant::now();
        loop {
            let number = self
                .ledger
                .borrow()
                .iter()
                .find(is_there)
                .map(|(&number, _)| number);
            let number = number.context("nothing is left to delete")?;
            if self.delete(number).await? {
                return self.check();
            }
            ensure!(
                begun.elapsed() < PATIENCE,
                "a delete is refused with {LEFT_BYTES} bytes free"
            );
            session.executor().sleep(REST).await;
        }
    }

    async fn wait_for_puts(&self, session: &Session) -> Result<()> {
        let begun = Instant::now();
        while !self.put().await? {
            ensure!(
                begun.elapsed() < PATIENCE,
                "puts are refused though there is room again: {:?}",
                self.store.space()
            );
            session.executor().sleep(REST).await;
        }
        self.check()
    }
}

fn copied((&number, &known): (&u64, &Known)) -> (u64, Known) {
    (number, known)
}

fn is_there((_, known): &(&u64, &Known)) -> bool {
    **known != Known::Deleted
}

/// Runs operations until they are done or one has had [`Enough`].
async fn side_by_side<F, Fut>(session: &Session, count: u64, operation: F) -> Result<()>
where
    F: Fn(u64) -> Fut + 'static,
    Fut: Future<Output = Result<()>> + 'static,
{
    let load = Load {
        callers: CALLERS,
        count,
        limit: PATIENCE,
        is_timed: false,
        per_second: None,
    };
    match session.side_by_side(load, operation).await {
        Err(error) if !error.is::<Enough>() => Err(error),
        _ => Ok(()),
    }
}

/// Somebody else who writes until nothing is left.
struct Eater {
    thread: std::thread::JoinHandle<Result<()>>,
}

impl Eater {
    fn start(path: PathBuf) -> Self {
        Self {
            thread: std::thread::spawn(move || {
                let mut file = fs::File::create(path)?;
                eat(&mut file, u64::MAX)
            }),
        }
    }

    fn finish(self) -> Result<()> {
        let ate = self.thread.join();
        ate.unwrap_or_else(|_| Err(anyhow::anyhow!("the other file's writer panicked")))
    }
}

/// Writes so many bytes, or until nothing is left.
fn eat(file: &mut fs::File, bytes: u64) -> Result<()> {
    let bite = vec![0xa5; BITE_BYTES];
    let mut len = bite.len();
    let mut left = bytes;
    while len >= 4_096 && left > 0 {
        len = len.min(usize::try_from(left).unwrap_or(usize::MAX));
        match file.write(&bite[..len]) {
            Ok(count) => left -= count as u64,
            Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => len /= 2,
            Err(error) => return Err(error).context("the other file"),
        }
    }
    // What was taken and has no room on the disk is lost, and nobody's who stores here.
    let _ = file.sync_all();
    Ok(())
}

/// Whether a blob ends with a footer, so that it grows no more.
fn is_sealed(path: &Path) -> Result<bool> {
    let mut file = fs::File::open(path)?;
    let mut magic = [0; FOOTER_END_MAGIC.len()];
    // A file that is shorter has none.
    let end = file.seek(SeekFrom::End(-FOOTER_END_BYTES));
    Ok(end.is_ok() && file.read_exact(&mut magic).is_ok() && magic == FOOTER_END_MAGIC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_are_shared_out_among_file_systems() {
        for (rounds, count) in [(3, 2), (50, 2), (1, 2), (7, 3)] {
            let shares = (0..count).map(|at| share_of(rounds, at, count));
            assert_eq!(shares.sum::<u64>(), rounds);
        }
    }
}
