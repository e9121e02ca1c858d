//! Faults of a real kernel: a process stores on a [`SickDisk`], and is told what to do while the disk fails.
//!
//! A block that cannot be read costs its pieces, and is reported; a sync that fails ends writing at once and takes no read along; a lack of space is a
//! refusal; a disk that hangs holds up what asks it and nothing else; a file that is cut short under a map costs its own pieces. The process lives on
//! through all of it, which is why it is one of its own: `SIGBUS` would end it. Everything is opened again at the end and compared.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use strand_torture::Tally;

use super::fused::{Fault, HANG_MAX, SickDisk};
use super::patient::{Answer, Failed, PIECES_MAX, work};
use super::power::make_folders;
use crate::part::Part;
use crate::random::Random;
use crate::store::work::Work;

/// How long the process may take for what it is told.
const PATIENCE: Duration = Duration::from_secs(40);

/// A hang, and until when whoever does not need the disk must have its answer: before the disk goes on by itself.
const HANG: Duration = Duration::from_millis(1_500);
const BESIDE_MAX: Duration = Duration::from_secs(HANG_MAX.as_secs() / 2);

/// Pieces that are there before a fault.
const STORED: u64 = 200;

/// Truncations among which one leaves zeros where somebody reads.
const ZEROS_MET_FROM: u64 = 16;

/// Passes over all pieces after which they come from memory.
const WARM_PASSES: usize = 4;

/// How long pieces are read before a file is cut short, at most, and after.
const WATCHED_US: usize = 10_000;

/// One kind of fault on a store of its own.
struct Trial<'a> {
    disk: &'a SickDisk,
    program: &'a Path,
    folder: PathBuf,
    log: PathBuf,
    work: Work,
    random: Random,
    tally: Tally,
}

/// What goes on while the disk is sick; told how many files to cut short.
type Scenario<'a> = fn(&mut Trial<'a>, u64) -> Result<()>;

/// Goes through all faults, and cuts so many files short.
pub(super) fn run(folder: &Path, program: &Path, seed: u64, truncations: u64) -> Result<Tally> {
    let mut tally = Tally::default();
    let disk = SickDisk::mount(&folder.join("behind"), &folder.join("sick"))?;
    let scenarios: [(&str, Scenario<'_>); 5] = [
        ("a block that cannot be read", Trial::unreadable),
        ("a sync that fails", Trial::unsynced),
        ("a lack of space", Trial::full),
        ("a hang", Trial::hang),
        ("files cut short under their maps", Trial::truncated),
    ];
    for (at, (name, scenario)) in scenarios.into_iter().enumerate() {
        let store = disk.path().join(format!("{at}"));
        make_folders(disk.path(), &store)?;
        let mut trial = Trial {
            disk: &disk,
            program,
            folder: store,
            log: folder.join(format!("patient-{at}.log")),
            work: work(),
            random: Random::new(seed, name),
            tally: Tally::default(),
        };
        let hits = disk.hits();
        let done = scenario(&mut trial, truncations);
        disk.set(None);
        let done = done.and_then(|()| {
            let is_met = disk.hits() > hits || at == scenarios.len() - 1;
            ensure!(is_met, "the fault met nothing");
            Ok(())
        });
        if let Err(error) = done {
            let what = format!("on a sick disk, {name}: {error:#}");
            trial
                .tally
                .violate(what, format!("--what fuse --seed {seed}"));
        }
        tally.merge(trial.tally);
    }
    Ok(tally)
}

impl Trial<'_> {
    /// One block fails: its pieces do, and no other.
    fn unreadable(&mut self, _: u64) -> Result<()> {
        let mut patient = self.stored()?;
        let number = self.random.below(STORED as usize) as u64;
        let (name, range) = self.place_of(number)?;
        self.disk.set(Some(Fault::Read {
            name,
            range,
            errno: libc::EIO,
        }));
        // The later passes ask for it through the map as well.
        for _ in 0..WARM_PASSES {
            let answer = patient.ask(&format!("get 0 {STORED}"))?;
            let failed: Vec<_> = answer.failed.iter().map(|failed| failed.number).collect();
            ensure!(
                failed == [number] && answer.wrong.is_empty(),
                "a bad block of piece {number}: {answer:?}"
            );
            self.tally.add("acked_pieces_checked", answer.ok);
            ensure!(!answer.is_read_only, "reads that fail ended writing");
            self.tally.add("fuse_trials", 1);
        }
        let put = patient.ask(&format!("put {STORED} 8"))?;
        ensure!(put.ok == 8, "puts fail beside a bad block: {put:?}");
        self.disk.set(None);
        self.all_there(&mut patient, STORED + 8)?;
        // It is reported by whoever looks for damage.
        let (name, range) = self.place_of(number)?;
        self.disk.set(Some(Fault::Read {
            name,
            range,
            errno: libc::EIO,
        }));
        let scrubbed = patient.ask("scrub")?;
        let reported: Vec<_> = scrubbed.failed.iter().map(|failed| failed.number).collect();
        ensure!(
            reported == [number],
            "a scrub reports {reported:?} where {number} cannot be read"
        );
        self.disk.set(None);
        patient.end()?;
        let mut patient = self.start()?;
        self.all_there(&mut patient, STORED + 8)?;
        patient.end()
    }

    /// Nothing is acknowledged any more, and everything is read.
    fn unsynced(&mut self, _: u64) -> Result<()> {
        let mut patient = self.stored()?;
        self.disk.set(Some(Fault::Sync(libc::EIO)));
        let put = patient.ask(&format!("put {STORED} 8"))?;
        ensure!(put.ok == 0, "acknowledged after a sync failed: {put:?}");
        ensure!(put.is_read_only, "a sync failed, and writing goes on");
        self.all_there(&mut patient, STORED)?;
        // The disk says that all is well again: it is not to be believed.
        self.disk.set(None);
        let put = patient.ask(&format!("put {} 8", STORED + 8))?;
        ensure!(put.ok == 0 && put.is_read_only, "writing went on: {put:?}");
        self.all_there(&mut patient, STORED)?;
        patient.end()?;
        let mut patient = self.start()?;
        self.all_there(&mut patient, STORED)?;
        let put = patient.ask(&format!("put {STORED} 16"))?;
        ensure!(put.ok == 16, "nothing is stored after a restart: {put:?}");
        self.all_there(&mut patient, STORED + 16)?;
        patient.end()
    }

    /// Refused, and taken again when there is room.
    fn full(&mut self, _: u64) -> Result<()> {
        let mut patient = self.stored()?;
        for round in 0..3 {
            let first = STORED + 16 * round;
            self.disk.set(Some(Fault::Write(libc::ENOSPC)));
            let put = patient.ask(&format!("put {first} 16"))?;
            ensure!(put.ok == 0, "acknowledged and not written: {put:?}");
            ensure!(!put.is_read_only, "a lack of space ended writing");
            let is_refusal = |failed: &Failed| failed.what == "no room for the piece";
            ensure!(put.failed.iter().all(is_refusal), "{put:?}");
            self.all_there(&mut patient, first)?;
            self.disk.set(None);
            let put = patient.ask(&format!("put {first} 16"))?;
            ensure!(put.ok == 16, "not taken though there is room: {put:?}");
        }
        patient.end()?;
        let mut patient = self.start()?;
        self.all_there(&mut patient, STORED + 48)?;
        patient.end()
    }

    /// What needs the disk waits, and what does not goes on.
    fn hang(&mut self, _: u64) -> Result<()> {
        let mut patient = self.stored()?;
        self.warm(&mut patient)?;
        self.disk.set(Some(Fault::HangWrites));
        patient.ask(&format!("begin put {STORED} 8"))?;
        let asked = Instant::now();
        self.all_there(&mut patient, STORED)?;
        ensure!(
            asked.elapsed() < BESIDE_MAX,
            "reads waited {:?} for writes that hang",
            asked.elapsed()
        );
        std::thread::sleep(HANG);
        self.disk.set(None);
        let put = patient.ask("join")?;
        ensure!(put.ok == 8, "writes that hung for {HANG:?} failed: {put:?}");
        self.all_there(&mut patient, STORED + 8)?;
        patient.end()?;

        let mut patient = self.start()?;
        self.disk.set(Some(Fault::HangReads));
        patient.ask(&format!("begin get 0 {STORED}"))?;
        std::thread::sleep(HANG);
        let asked = Instant::now();
        let put = patient.ask(&format!("put {} 8", STORED + 8))?;
        ensure!(
            put.ok == 8 && asked.elapsed() < BESIDE_MAX,
            "puts waited {:?} for reads that hang: {put:?}",
            asked.elapsed()
        );
        self.disk.set(None);
        let got = patient.ask("join")?;
        ensure!(
            got.ok == STORED,
            "reads that hung for {HANG:?} failed: {got:?}"
        );
        self.all_there(&mut patient, STORED + 16)?;
        patient.end()
    }

    /// Another program cuts a blob short while its pieces are read from memory, and puts it right again.
    fn truncated(&mut self, truncations: u64) -> Result<()> {
        let mut patient = self.stored()?;
        let mut blobs = Vec::new();
        for entry in fs::read_dir(self.behind())? {
            blobs.push(entry?.file_name());
        }
        blobs.sort_unstable();
        // The last one is not sealed.
        blobs.pop();
        self.warm(&mut patient)?;
        for number in 0..truncations {
            let before = patient.ask("status")?;
            let answer = if number % 2 == 0 {
                let name = &blobs[self.random.below(blobs.len())];
                self.cut_short(&mut patient, name, None)?
            } else {
                let (number, name, zeros) = self.place_in(&blobs)?;
                let answer = self.cut_short(&mut patient, &name, Some(zeros))?;
                let is_met = answer.failed.iter().any(|failed| failed.number == number);
                self.tally.add("zeros_met", u64::from(is_met));
                answer
            };
            let from_memory = answer.shares_from_memory - before.shares_from_memory;
            self.tally.add("truncated_reads_from_memory", from_memory);
            let failed = answer.failed.len() as u64;
            self.tally.add("truncated_reads_failed", failed);
            self.tally.add("truncations", 1);
            self.tally.add("fuse_trials", 1);
            // What was damaged when it was looked at stays out of service until the blobs are read again.
            if failed > 0 {
                patient.part.kill()?;
                patient = self.start()?;
                self.warm(&mut patient)?;
            }
            self.all_there(&mut patient, STORED)?;
        }
        let met = self.tally.counts.get("zeros_met").copied();
        ensure!(
            truncations < ZEROS_MET_FROM || met.unwrap_or_default() > 0,
            "no read met zeros in memory"
        );
        patient.end()?;
        let mut patient = self.start()?;
        self.all_there(&mut patient, STORED)?;
        patient.end()
    }

    /// Cuts a blob short for a moment; what was read meanwhile. What follows the zeros is written back first: they are in memory then, inside a piece
    /// whose header and trailer are whole, and only its checksums tell them from what was stored.
    fn cut_short(
        &mut self,
        patient: &mut Patient,
        name: &OsStr,
        zeros: Option<Range<u64>>,
    ) -> Result<Answer> {
        let whole = fs::read(self.behind().join(name))?;
        let zeros = zeros.unwrap_or_else(|| {
            let cut = self.random.below(whole.len());
            cut as u64..whole.len() as u64
        });
        let (cut, end) = (zeros.start as usize, zeros.end as usize);
        // Through the mount, as another program would: the kernel takes the pages from under the map.
        let path = self.folder.join(name);
        let file = fs::OpenOptions::new().write(true).open(path)?;
        patient.tell(&format!("watch 0 {STORED}"))?;
        let pause = Duration::from_micros(self.random.below(WATCHED_US) as u64);
        std::thread::sleep(pause);
        file.set_len(cut as u64)?;
        file.write_all_at(&whole[end..], zeros.end)?;
        std::thread::sleep(pause);
        file.write_all_at(&whole[cut..end], zeros.start)?;
        let answer = patient.ask("stop")?;
        let blob = name.to_str().and_then(|name| name.split('.').next());
        let blob = blob.and_then(|stem| u64::from_str_radix(stem, 16).ok());
        ensure!(answer.wrong.is_empty(), "wrong bytes: {answer:?}");
        let mut failed = answer.failed.iter();
        let stranger = failed.find(|failed| failed.blob != blob);
        ensure!(stranger.is_none(), "{name:?} was cut, and {stranger:?}");
        Ok(answer)
    }

    /// A process whose pieces are stored.
    fn stored(&mut self) -> Result<Patient> {
        let mut patient = self.start()?;
        let put = patient.ask(&format!("put 0 {STORED}"))?;
        ensure!(put.ok == STORED, "cannot store on a good disk: {put:?}");
        Ok(patient)
    }

    fn start(&self) -> Result<Patient> {
        let mut command = Command::new(self.program);
        command.args(["part", "patient"]).arg(&self.folder);
        Patient::start(command, &self.log)
    }

    fn behind(&self) -> PathBuf {
        let name = self.folder.file_name().unwrap_or_default();
        self.disk.behind().join(name)
    }

    /// Compares the first `count` pieces.
    fn all_there(&mut self, patient: &mut Patient, count: u64) -> Result<()> {
        let answer = patient.ask(&format!("get 0 {count}"))?;
        self.tally.add("fuse_trials", 1);
        self.tally.add("acked_pieces_checked", answer.ok);
        let lost = answer.failed.len() + answer.wrong.len();
        self.tally.add("lost_pieces", lost as u64);
        ensure!(
            answer.ok == count,
            "not all of {count} are there: {answer:?}"
        );
        Ok(())
    }

    /// Reads until what is sealed comes from memory.
    fn warm(&mut self, patient: &mut Patient) -> Result<()> {
        for _ in 0..WARM_PASSES {
            self.all_there(patient, STORED)?;
        }
        let before = patient.ask("status")?;
        self.all_there(patient, STORED)?;
        let after = patient.ask("status")?;
        let from_memory = after.shares_from_memory - before.shares_from_memory;
        ensure!(
            from_memory > STORED,
            "{from_memory} shares of {STORED} pieces come from memory: no map is looked at"
        );
        Ok(())
    }

    /// A piece in one of these files, the file, and a part of the body.
    fn place_in(&mut self, names: &[OsString]) -> Result<(u64, OsString, Range<u64>)> {
        for _ in 0..STORED {
            let number = self.random.below(STORED as usize) as u64;
            let (name, range) = self.place_of(number)?;
            if names.iter().any(|known| *known == *name) {
                return Ok((number, name.into(), range));
            }
        }
        anyhow::bail!("no piece is in a sealed blob")
    }

    /// The file that a piece's body is in, and a part of the body.
    fn place_of(&self, number: u64) -> Result<(String, Range<u64>)> {
        let body = self.work.body(number);
        for entry in fs::read_dir(self.behind())? {
            let entry = entry?;
            let bytes = fs::read(entry.path())?;
            if let Some(at) = find(&bytes, body) {
                let name = entry.file_name().to_string_lossy().into_owned();
                let middle = (at + body.len() / 2) as u64;
                return Ok((name, middle..middle + 512));
            }
        }
        anyhow::bail!("piece {number} is in no file")
    }
}

/// Where `wanted` is.
fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    let starts = memchr_all(bytes, wanted.first().copied()?);
    let mut found = starts.filter(|&at| bytes[at..].starts_with(wanted));
    found.next()
}

fn memchr_all(bytes: &[u8], first: u8) -> impl Iterator<Item = usize> + '_ {
    let places = bytes.iter().enumerate();
    places
        .filter(move |&(_, &byte)| byte == first)
        .map(|(at, _)| at)
}

/// The process that stores, and what it says.
struct Patient {
    part: Part,
    told: Option<ChildStdin>,
    said: Receiver<String>,
}

impl Patient {
    fn start(command: Command, log: &Path) -> Result<Self> {
        let (part, told, output) = Part::start_piped("patient", command, log)?;
        let (sender, said) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let mut patient = Self {
            part,
            told: Some(told),
            said,
        };
        patient.hear().context("it does not open its store")?;
        Ok(patient)
    }

    fn tell(&mut self, line: &str) -> Result<()> {
        let told = self.told.as_mut().context("it was told to end")?;
        // If it is gone, what it says next tells more.
        let _ = writeln!(told, "{line}");
        Ok(())
    }

    fn ask(&mut self, line: &str) -> Result<Answer> {
        self.tell(line)?;
        self.hear().with_context(|| format!("told to `{line}`"))
    }

    fn hear(&mut self) -> Result<Answer> {
        match self.said.recv_timeout(PATIENCE) {
            Ok(line) => serde_json::from_str(&line).with_context(|| format!("it says `{line}`")),
            Err(RecvTimeoutError::Timeout) => anyhow::bail!("no answer within {PATIENCE:?}"),
            Err(RecvTimeoutError::Disconnected) => {
                let ended = self.part.wait()?;
                let (code, signal, log) = (ended.code, ended.signal, self.part.log_tail());
                anyhow::bail!("it died: exit code {code:?}, signal {signal:?}: {log}")
            }
        }
    }

    /// Lets it close its store and end.
    fn end(mut self) -> Result<()> {
        drop(self.told.take());
        let begun = Instant::now();
        while self.part.is_running()? {
            ensure!(begun.elapsed() < PATIENCE, "it does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
        let code = self.part.wait()?.code;
        let log = self.part.log_tail();
        ensure!(code == Some(0), "it ended with {code:?}: {log}");
        Ok(())
    }
}

const _: () = assert!(STORED + 48 <= PIECES_MAX);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_found_where_it_lies() {
        let bytes = b"abacabad".as_slice();
        assert_eq!(find(bytes, b"abad"), Some(4));
        assert_eq!(find(bytes, b"abae"), None);
        assert_eq!(find(bytes, b"d"), Some(7));
    }
}
