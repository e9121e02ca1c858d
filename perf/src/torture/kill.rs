//! Kills: a process that stores on a real disk is killed at a random moment, and what it had acknowledged is looked for.
//!
//! Every second life ends at a named point instead ([`Point`]). A control kills a process whose disk answers before it writes, until something is lost.
//!
//! Each life goes on where the one before was cut off. After every kill the store is opened here: all that the last lives acknowledged, and a
//! sample of what is older, must be there bit-exact, and what was deleted must not. At the end everything is compared.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use piecestore::core::CoreExecutor;
use piecestore::disk::CoreDisk;
use strand_blob::{GetError, Store};
use strand_torture::Tally;

use super::ward::{Lie, NOW_S, OPERATIONS, Pieces, Point, options};
use crate::part::Part;
use crate::random::Random;
use crate::store::drive::{Session, on_core};

/// Longest life: with the shortest ones it is killed while it opens.
const LIFE_MS_MAX: usize = 500;

/// How long opening may take before the first line is there.
const OPEN_MAX: Duration = Duration::from_secs(60);

/// Pieces of older lives that are compared after each kill.
const SAMPLE_COUNT: usize = 1_000;

/// What is known of a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    Stored,
    /// Asked for and not answered.
    Deleting,
    Deleted,
}

/// How long a life may take to come to its point; some lives never do.
const POINT_WAIT: Duration = Duration::from_secs(2);

/// Lives of the control at most.
const CONTROL_LIVES_MAX: u64 = 10;

/// A process that stores, about to be started.
pub(super) struct Ward<'a> {
    pub(super) program: &'a Path,
    pub(super) store: &'a Path,
    pub(super) log: &'a Path,
    /// Number of its first piece.
    pub(super) first: u64,
    pub(super) point: Option<Point>,
    pub(super) lie: Option<Lie>,
}

impl Ward<'_> {
    pub(super) fn start(&self) -> Result<Part> {
        let mut command = Command::new(self.program);
        command
            .args(["part", "ward"])
            .arg(self.store)
            .arg(self.first.to_string());
        if let Some(point) = self.point {
            command.arg("--point").arg(point.argument());
        }
        if let Some(lie) = self.lie {
            command.args(["--lie", lie.name()]);
        }
        Ok(Part::start("ward", command, self.log)?)
    }

    /// Starts it and lets it store for a while.
    pub(super) fn start_and_wait(&self, random: &mut Random, is_early: bool) -> Result<Part> {
        let mut part = self.start()?;
        if !is_early {
            wait_until_open(&mut part, self.log)?;
        }
        std::thread::sleep(Duration::from_millis(random.below(LIFE_MS_MAX) as u64));
        ensure!(
            part.is_running()?,
            "the process that stores ended by itself: {}",
            part.log_tail()
        );
        Ok(part)
    }
}

/// Kills so often; `seed` draws the moments.
pub(super) fn run(folder: &Path, program: &Path, seed: u64, kills: u64) -> Result<Tally> {
    let mut tally = Tally::default();
    let mut lives = Lives::begin(folder, program, "blobs")?;
    let mut random = Random::new(seed, "kills");
    let mut reached = BTreeSet::new();
    let first_point = random.below(2 * OPERATIONS.len());
    for kill in 1..=kills {
        let number = first_point + kill as usize / 2;
        let passes = random.below(Point::passes_max(number)) as u64;
        let point = kill
            .is_multiple_of(2)
            .then(|| Point::numbered(number, passes));
        let ward = lives.ward(kill, point, None);
        if let Some(point) = point {
            if ends_there(&mut ward.start()?)? {
                reached.insert(point.name());
            }
        } else {
            // Every fourth is killed early, most while they open.
            ward.start_and_wait(&mut random, kill % 4 == 1)?.kill()?;
        }
        tally.add("kills", 1);
        let when = match point {
            Some(point) => format!("after kill {kill} ({})", point.argument()),
            None => format!("after kill {kill}"),
        };
        let replay = format!("--what kill --seed {seed} --kills {kills}");
        lives.compare(kill == kills, &when, &replay, &mut tally)?;
        if !tally.violations.is_empty() {
            break;
        }
    }
    tally.add("kill_points", reached.len() as u64);
    if kills > 0 && !loses_with_a_lie(folder, program, &mut random)? {
        let what = "a disk that answers before it writes lost nothing in kills";
        tally.violate(what, format!("--what kill --seed {seed}"));
    }
    Ok(tally)
}

/// Waits for a process that ends itself; whether it came to its point. Otherwise it is killed.
fn ends_there(part: &mut Part) -> Result<bool> {
    let begun = Instant::now();
    while part.is_running()? && begun.elapsed() < POINT_WAIT {
        std::thread::sleep(Duration::from_millis(2));
    }
    let is_there = !part.is_running()?;
    let ended = part.kill()?;
    ensure!(
        ended.signal == Some(libc::SIGKILL),
        "the process that stores ended by itself: {}",
        part.log_tail()
    );
    Ok(is_there)
}

/// The control: a process whose disk is hasty must lose something.
fn loses_with_a_lie(folder: &Path, program: &Path, random: &mut Random) -> Result<bool> {
    let mut lives = Lives::begin(folder, program, "hasty")?;
    for kill in 1..=CONTROL_LIVES_MAX {
        let ward = lives.ward(kill, None, Some(Lie::Hasty));
        ward.start_and_wait(random, false)?.kill()?;
        let mut found = Tally::default();
        lives.compare(false, "", "", &mut found)?;
        if !found.violations.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Processes that store in one folder, one after another, and what they said.
struct Lives<'a> {
    program: &'a Path,
    store: PathBuf,
    /// What the process says that runs.
    log: PathBuf,
    ledger: BTreeMap<u64, Known>,
    next: u64,
}

impl<'a> Lives<'a> {
    fn begin(folder: &Path, program: &'a Path, name: &str) -> Result<Self> {
        let store = folder.join(name);
        fs::create_dir_all(&store)?;
        Ok(Self {
            program,
            store,
            log: PathBuf::new(),
            ledger: BTreeMap::new(),
            next: 0,
        })
    }

    /// The next process.
    fn ward(&mut self, life: u64, point: Option<Point>, lie: Option<Lie>) -> Ward<'_> {
        self.log = self.store.with_extension(format!("{life}.log"));
        Ward {
            program: self.program,
            store: &self.store,
            log: &self.log,
            first: self.next,
            point,
            lie,
        }
    }

    /// Holds what the last process said against what is there.
    fn compare(&mut self, is_all: bool, when: &str, replay: &str, tally: &mut Tally) -> Result<()> {
        let before = self.next;
        self.next = read_lines(&self.log, &mut self.ledger, before)?;
        let wanted = wanted_of(&self.ledger, before, is_all);
        compare(&self.store, wanted, when, replay, tally);
        Ok(())
    }
}

pub(super) fn wait_until_open(part: &mut Part, log: &Path) -> Result<()> {
    let begun = Instant::now();
    while !fs::read_to_string(log)?.starts_with("open\n") {
        ensure!(
            begun.elapsed() < OPEN_MAX && part.is_running()?,
            "the process that stores did not open its store: {}",
            part.log_tail()
        );
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// What is compared: all that was said of pieces from `first` on, and of older ones a sample, or all.
pub(super) fn wanted_of(
    ledger: &BTreeMap<u64, Known>,
    first: u64,
    is_all: bool,
) -> Vec<(u64, Known)> {
    let step = if is_all {
        1
    } else {
        (ledger.len() / SAMPLE_COUNT).max(1)
    };
    let older = ledger.range(..first).step_by(step);
    let wanted = ledger.range(first..).chain(older);
    wanted.map(|(&number, &known)| (number, known)).collect()
}

/// Takes down what a life said; returns a number above all pieces that it can have begun.
pub(super) fn read_lines(log: &Path, ledger: &mut BTreeMap<u64, Known>, first: u64) -> Result<u64> {
    take_down(&fs::read_to_string(log)?, ledger, first)
}

/// [`read_lines`] of what was said up to some moment.
pub(super) fn take_down(said: &str, ledger: &mut BTreeMap<u64, Known>, first: u64) -> Result<u64> {
    let mut next = first;
    // A kill may cut the last line.
    let whole = said.rfind('\n').map_or("", |end| &said[..end]);
    for line in whole.lines().filter(|line| *line != "open") {
        let (what, number) = line
            .split_once(' ')
            .with_context(|| format!("`{line}` is no line of a ward"))?;
        let number: u64 = number
            .parse()
            .with_context(|| format!("`{line}` has no number"))?;
        let known = match what {
            "put" => Known::Stored,
            "deleting" => Known::Deleting,
            "deleted" => Known::Deleted,
            _ => anyhow::bail!("`{line}` is no line of a ward"),
        };
        ledger.insert(number, known);
        next = next.max(number + 1);
    }
    // Callers that were cut off had begun others.
    Ok(next + 64)
}

/// Opens the store and compares; an opening that fails is a violation as well.
pub(super) fn compare(
    store: &Path,
    wanted: Vec<(u64, Known)>,
    when: &str,
    replay: &str,
    tally: &mut Tally,
) {
    let count = wanted
        .iter()
        .filter(|(_, known)| *known == Known::Stored)
        .count();
    let folder = PathBuf::from(store);
    let compared = on_core(move |core| async move {
        let session = Box::pin(Session::open(core, &folder, options(), NOW_S)).await?;
        let pieces = Pieces::new();
        let mut wrong = Vec::new();
        for (number, known) in wanted {
            if let Some(what) = wrong_with(session.store(), &pieces, number, known).await {
                wrong.push(what);
            }
        }
        session.close().await?;
        Ok(wrong)
    });
    match compared {
        Ok(wrong) => {
            tally.add("acked_pieces_checked", count as u64);
            tally.add("lost_pieces", wrong.len() as u64);
            for what in wrong {
                tally.violate(format!("{when} {what}"), replay);
            }
        }
        Err(error) => tally.violate(format!("{when}: {error:#}"), replay),
    }
}

pub(super) async fn wrong_with(
    store: &Store<CoreDisk<CoreExecutor>>,
    pieces: &Pieces,
    number: u64,
    known: Known,
) -> Option<String> {
    let work = Arc::clone(pieces.of(number));
    let (satellite, id) = work.key(number);
    let found = match store.piece(&satellite, &id, NOW_S).await {
        Ok(piece) => store.read_shares(&piece, 0..piece.share_count()).await,
        Err(error) => Err(error),
    };
    match (found, known) {
        (Ok(_), Known::Deleted) => Some(format!(
            "piece {number} is there, and its delete was acknowledged"
        )),
        (Ok(bytes), _) if bytes != work.body(number) => {
            Some(format!("piece {number} is another than was stored"))
        }
        (Ok(_), _) | (Err(GetError::NotFound), Known::Deleting | Known::Deleted) => None,
        (Err(error), Known::Stored) => Some(format!("piece {number} was acknowledged: {error}")),
        (Err(error), _) => Some(format!("piece {number}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_that_was_acknowledged_and_is_not_there_is_a_violation() {
        let dir = tempfile::tempdir().unwrap();
        let mut tally = Tally::default();
        let wanted = [(5, Known::Deleted), (6, Known::Deleting)].to_vec();
        compare(dir.path(), wanted, "once", "", &mut tally);
        assert!(tally.violations.is_empty(), "{tally:?}");
        compare(dir.path(), vec![(7, Known::Stored)], "once", "", &mut tally);
        assert_eq!(tally.violations.len(), 1);
        assert_eq!(tally.counts["lost_pieces"], 1);
    }

    #[test]
    fn what_a_life_said_is_known_up_to_where_it_was_cut() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("life.log");
        fs::write(
            &log,
            "open\nput 7\nput 8\ndeleting 8\nput 9\ndeleting 10\ndeleted 10\nput 1",
        )
        .unwrap();
        let mut ledger = BTreeMap::new();
        assert_eq!(read_lines(&log, &mut ledger, 7).unwrap(), 11 + 64);
        let wanted = [
            (7, Known::Stored),
            (8, Known::Deleting),
            (9, Known::Stored),
            (10, Known::Deleted),
        ];
        assert_eq!(ledger, BTreeMap::from(wanted));
        fs::write(&log, "open\nput what\n").unwrap();
        assert!(read_lines(&log, &mut ledger, 7).is_err());
    }
}
