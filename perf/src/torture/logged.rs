//! Power cuts amid writes: a process stores on a file system whose device keeps a log, and any moment of the log is made again.
//!
//! What a flush covers is there; of the writes since, all, none, some, or parts are ([`Fate`]). The file system is mounted, which replays its journal,
//! and the store opened; what the process had said by then must be there. Half of the moments are those right after it said something.
//! Two controls must lose something, or the log proves nothing: a device whose flushes are not heeded, and a store that never syncs.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use strand_torture::Tally;

use super::fused::{Asked, Entry, Fate, LoggedDisk, apply, apply_in_part, flushed_count};
use super::image::{self, Memory, Mounted, System};
use super::kill::{Known, Ward, compare, take_down, wanted_of};
use super::power::{count_name, make_folders};
use super::ward::Lie;
use crate::random::Random;

/// Bytes of an image: sparse, and never nearly full.
const IMAGE_BYTES: u64 = 1 << 30;

/// Cuts of one process's log.
const CUTS_A_LIFE: u64 = 10;

/// Processes one after another on one file system.
const LIVES_A_DISK: u64 = 2;

/// Processes of a control at most, and cuts of each one's log.
const CONTROL_LIVES_MAX: usize = 5;
const CONTROL_CUTS: usize = 10;

/// What must lose something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Control {
    NoSyncs,
    NoFlushes,
}

/// Makes so many cuts; the reason, where this machine has no such file system.
pub(super) fn run(
    ground: &Path,
    program: &Path,
    (seed, cuts): (u64, u64),
    system: System,
    tally: &mut Tally,
) -> Result<std::result::Result<(), String>> {
    let mut random = Random::new(seed, "logged cuts");
    let name = system.name();
    let replay =
        format!("--what power --systems {name} --cuts 0 --cuts-by-log {cuts} --seed {seed}");
    let mut done = 0;
    while done < cuts && tally.violations.is_empty() {
        let is_first = done == 0;
        let disk = match Disk::make(ground, system)? {
            Ok(disk) => disk,
            Err(reason) => return Ok(Err(reason)),
        };
        let mut trial = Trial {
            disk: &disk,
            program,
            random: &mut random,
            replay: &replay,
            tally,
        };
        let mut lives = trial.begin("blobs")?;
        for _ in 0..LIVES_A_DISK {
            let entries = trial.live(&mut lives, None)?;
            let count = CUTS_A_LIFE.min(cuts - done);
            trial.cut(&lives, &entries, count)?;
            if !trial.tally.violations.is_empty() {
                return Ok(Ok(()));
            }
            done += count;
        }
        if is_first {
            trial.control(Control::NoSyncs)?;
            trial.control(Control::NoFlushes)?;
        }
        drop(disk);
        fs::remove_dir_all(ground)?;
    }
    Ok(Ok(()))
}

/// A file system on a device that keeps a log, and the device as it was when the log begins.
struct Disk {
    ground: PathBuf,
    system: System,
    /// Unmounted before its device goes.
    mounted: Mounted,
    logged: LoggedDisk,
    _memory: Memory,
}

impl Disk {
    fn make(ground: &Path, system: System) -> Result<std::result::Result<Self, String>> {
        // A device that waits for another one's syncs would be taken for one that hangs.
        let memory = Memory::mount(ground)?;
        let behind = ground.join("behind.img");
        if let Err(reason) = image::format(&behind, system, IMAGE_BYTES)? {
            return Ok(Err(reason));
        }
        image::copy(&behind, &ground.join("begin.img"))?;
        let logged = LoggedDisk::mount(&behind, &ground.join("logged"))?;
        let mounted = Mounted::mount(&logged.image(), &ground.join("disk"), system);
        Ok(mounted
            .map(|mounted| Self {
                ground: ground.to_owned(),
                system,
                mounted,
                logged,
                _memory: memory,
            })
            .map_err(|error| format!("{error:#}")))
    }

    fn begin(&self) -> PathBuf {
        self.ground.join("begin.img")
    }

    /// The log begins after these.
    fn advance(&self, entries: &[Entry]) -> Result<()> {
        let begin = fs::OpenOptions::new().write(true).open(self.begin())?;
        Ok(apply(entries, &begin)?)
    }
}

/// Processes that store in one folder, and what they said.
struct Lives {
    name: &'static str,
    /// But for the last one.
    ledger: BTreeMap<u64, Known>,
    /// Of the last one: its first piece, what it said, and how much of that before its device's log was taken.
    first: u64,
    said: String,
    taken_len: u64,
}

struct Trial<'a> {
    disk: &'a Disk,
    program: &'a Path,
    random: &'a mut Random,
    replay: &'a str,
    tally: &'a mut Tally,
}

impl Trial<'_> {
    fn begin(&self, name: &'static str) -> Result<Lives> {
        let path = self.disk.mounted.path();
        make_folders(path, &path.join(name))?;
        Ok(Lives {
            name,
            ledger: BTreeMap::new(),
            first: 0,
            said: String::new(),
            taken_len: 0,
        })
    }

    /// Lets a process store and kills it; what its device was asked until just before. The log begins with it.
    fn live(&mut self, lives: &mut Lives, lie: Option<Lie>) -> Result<Vec<Entry>> {
        lives.first = take_down(&lives.said, &mut lives.ledger, lives.first)?;
        self.disk.advance(&self.disk.logged.take()?)?;
        let log = self
            .disk
            .ground
            .join(format!("{}-{}.log", lives.name, lives.first));
        fs::File::create(&log)?;
        self.disk.logged.watch(&log)?;
        let ward = Ward {
            program: self.program,
            store: &self.disk.mounted.path().join(lives.name),
            log: &log,
            first: lives.first,
            point: None,
            lie,
        };
        let mut part = ward.start_and_wait(self.random, false)?;
        lives.taken_len = fs::metadata(&log)?.len();
        let entries = self.disk.logged.take()?;
        part.kill()?;
        lives.said = fs::read_to_string(&log)?;
        let is_flush = |entry: &&Entry| entry.asked == Asked::Flush;
        let flushes = entries.iter().filter(is_flush).count() as u64;
        self.tally.add("logged_flushes", flushes);
        self.tally
            .add("logged_writes", entries.len() as u64 - flushes);
        Ok(entries)
    }

    /// Cuts the power so often.
    fn cut(&mut self, lives: &Lives, entries: &[Entry], count: u64) -> Result<()> {
        let ends = self.moments(entries, count as usize);
        let mut flushed = 0;
        for end in ends {
            flushed = self.flush(entries, flushed, end)?;
            let fate = self.fate();
            let said_len = said_at(lives, entries, end);
            let name = self.disk.system.name();
            let when = format!("after a power cut amid writes ({fate:?}) on {name}");
            let mut found = Tally::default();
            let missing = self.look(
                lives,
                (&entries[flushed..end], fate),
                said_len,
                &when,
                &mut found,
            )?;
            self.tally.merge(found);
            self.tally.add("power_cuts", 1);
            self.tally.add("power_cuts_by_log", 1);
            self.tally.add(count_name(self.disk.system), 1);
            self.tally.add("logged_writes_lost", missing);
            if !self.tally.violations.is_empty() {
                return Ok(());
            }
        }
        self.disk.advance(&entries[flushed..])
    }

    /// So many moments, in their order.
    fn moments(&mut self, entries: &[Entry], count: usize) -> Vec<usize> {
        let mut ends: Vec<usize> = (0..count).map(|_| self.moment(entries)).collect();
        ends.sort_unstable();
        ends
    }

    /// Where the power is cut: before this entry. Anywhere, just before a flush, or just after the process said something.
    fn moment(&mut self, entries: &[Entry]) -> usize {
        let end = self.random.below(entries.len() + 1);
        let mut later = end.max(1)..entries.len();
        let picked = match self.random.below(3) {
            0 => later.find(|&at| entries[at].asked == Asked::Flush),
            1 => later.find(|&at| entries[at].witness_len > entries[at - 1].witness_len),
            _ => None,
        };
        picked.unwrap_or(end)
    }

    fn fate(&mut self) -> Fate {
        [Fate::Kept, Fate::Lost, Fate::Some, Fate::Torn][self.random.below(4)]
    }

    /// Makes the device as a cut left it, and looks for what had been said; how many writes are not there.
    fn look(
        &mut self,
        lives: &Lives,
        (unflushed, fate): (&[Entry], Fate),
        said_len: u64,
        when: &str,
        found: &mut Tally,
    ) -> Result<u64> {
        let copy = self.disk.ground.join("cut.img");
        image::copy(&self.disk.begin(), &copy)?;
        let file = fs::OpenOptions::new().write(true).open(&copy)?;
        let missing = apply_in_part(unflushed, fate, self.random, &file)?;
        drop(file);
        let said_len = usize::try_from(said_len).unwrap_or(usize::MAX);
        let said = &lives.said[..said_len.min(lives.said.len())];
        let mut ledger = lives.ledger.clone();
        take_down(said, &mut ledger, lives.first)?;
        let path = self.disk.ground.join("cut");
        match Mounted::mount(&copy, &path, self.disk.system) {
            Ok(mounted) => {
                let wanted = wanted_of(&ledger, lives.first, false);
                let store = mounted.path().join(lives.name);
                compare(&store, wanted, when, self.replay, found);
            }
            Err(error) => found.violate(format!("{when}: {error:#}"), self.replay),
        }
        fs::remove_file(&copy)?;
        Ok(missing)
    }

    /// A control: something must be lost, with a store that never syncs, or with a device that heeds no flush.
    fn control(&mut self, control: Control) -> Result<()> {
        let (name, lie, fate, what) = match control {
            Control::NoSyncs => {
                let what = "a store that never syncs";
                ("unsynced", Some(Lie::Unsynced), Fate::Lost, what)
            }
            Control::NoFlushes => ("unheeded", None, Fate::Some, "a device that heeds no flush"),
        };
        let mut lives = self.begin(name)?;
        for _ in 0..CONTROL_LIVES_MAX {
            let entries = self.live(&mut lives, lie)?;
            let mut flushed = 0;
            for end in self.moments(&entries, CONTROL_CUTS) {
                if control == Control::NoSyncs {
                    flushed = self.flush(&entries, flushed, end)?;
                }
                let unflushed = (&entries[flushed..end], fate);
                let mut found = Tally::default();
                self.look(
                    &lives,
                    unflushed,
                    said_at(&lives, &entries, end),
                    "",
                    &mut found,
                )?;
                if !found.violations.is_empty() {
                    return Ok(());
                }
            }
            self.disk.advance(&entries[flushed..])?;
        }
        let system = self.disk.system.name();
        let what = format!("{what} lost nothing in power cuts amid writes on {system}");
        self.tally.violate(what, self.replay);
        Ok(())
    }

    /// Has the device make durable what a cut at `end` cannot take any more; where that ends.
    fn flush(&self, entries: &[Entry], flushed: usize, end: usize) -> Result<usize> {
        let next = flushed + flushed_count(&entries[flushed..end]);
        self.disk.advance(&entries[flushed..next])?;
        Ok(next)
    }
}

/// How much had been said when this entry arrived, or at the end.
fn said_at(lives: &Lives, entries: &[Entry], at: usize) -> u64 {
    entries
        .get(at)
        .map_or(lives.taken_len, |entry| entry.witness_len)
}
