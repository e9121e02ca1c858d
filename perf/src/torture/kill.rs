//! Kills: a process that stores on a real disk is killed at a random moment, and what it had acknowledged is looked for.
//!
//! Each life goes on where the one before was cut off. After every kill the store is opened here: all that the last lives acknowledged, and a
//! sample of what is older, must be there bit-exact, and what was deleted must not. At the end everything is compared.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use piecestore::core::CoreExecutor;
use piecestore::disk::RingDisk;
use strand_blob::{GetError, Store};
use strand_torture::Tally;

use super::ward::{NOW_S, Pieces, options};
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

/// Kills so often; `seed` draws the moments.
pub(super) fn run(folder: &Path, program: &Path, seed: u64, kills: u64) -> Result<Tally> {
    let store = folder.join("blobs");
    fs::create_dir_all(&store)?;
    let mut tally = Tally::default();
    let mut random = Random::new(seed, "kills");
    let mut ledger = BTreeMap::new();
    let mut next = 0;
    for kill in 1..=kills {
        let log = folder.join(format!("life-{kill}.log"));
        let mut command = Command::new(program);
        command
            .args(["part", "ward"])
            .arg(&store)
            .arg(next.to_string());
        let mut part = Part::start("ward", command, &log)?;
        // Every fourth is killed early, most while they open.
        if kill % 4 != 0 {
            wait_until_open(&mut part, &log)?;
        }
        std::thread::sleep(Duration::from_millis(random.below(LIFE_MS_MAX) as u64));
        anyhow::ensure!(
            part.is_running()?,
            "the process that stores ended by itself: {}",
            part.log_tail()
        );
        part.kill()?;
        let before = next;
        next = read_lines(&log, &mut ledger, next)?;
        tally.add("kills", 1);
        let wanted = wanted_of(&ledger, before, kill == kills);
        let when = format!("after kill {kill}");
        let replay = format!("--what kill --seed {seed}");
        compare(&store, wanted, &when, &replay, &mut tally);
        if !tally.violations.is_empty() {
            break;
        }
    }
    Ok(tally)
}

pub(super) fn wait_until_open(part: &mut Part, log: &Path) -> Result<()> {
    let begun = std::time::Instant::now();
    while !fs::read_to_string(log)?.starts_with("open\n") {
        anyhow::ensure!(
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
    let said = fs::read_to_string(log)?;
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
    store: &Store<RingDisk<CoreExecutor>>,
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
