//! Power cuts: a process stores on a file system of its own, in an image behind a loop device, and the image is copied at a random moment.
//!
//! The copy is what a machine finds whose power failed then: all that had reached the device, and nothing that the file system
//! still held in memory. It is mounted, which replays its journal, and opened; what had been acknowledged must be there. While the image is copied the
//! process is stopped, and a copy counts only if the device was not written meanwhile, so that it is of one moment. That takes root.
//! A control does the same over a disk that never syncs, until something is lost. Cuts amid writes are in `logged`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use strand_torture::Tally;

use super::image::{Mounted, System};
use super::kill::{Known, Ward, compare, read_lines, wanted_of};
use super::logged;
use super::ward::Lie;
use crate::narrator::Narrator;
use crate::random::Random;
use crate::store::drive::checkpoint_folder;

/// Bytes of an image: sparse, and never nearly full.
const IMAGE_BYTES: u64 = 2 << 30;

/// Cuts of the control at most, after lives that acknowledged something: those that lately created a blob lose nothing, since the folder's sync
/// takes the file system's log along.
const CONTROL_CUTS_MAX: usize = 20;

/// Lives of the control at most: on a busy machine one may end before it has acknowledged anything, which proves nothing.
const CONTROL_LIVES_MAX: usize = 40;

/// Cuts so often on each of the file systems that this machine can make; `seed` draws the moments.
pub(super) fn run(
    folder: &Path,
    program: &Path,
    seed: u64,
    (cuts, cuts_by_log): (u64, u64),
    systems: &[System],
    narrator: &Narrator,
) -> Result<Tally> {
    let mut tally = Tally::default();
    for &system in systems {
        let name = system.name();
        let ground = folder.join(name);
        if cuts > 0 {
            match Mounted::make(&ground, system, IMAGE_BYTES)? {
                Ok(disk) => cut_on(&ground, &disk, program, (seed, cuts), system, &mut tally)?,
                Err(reason) => narrator.line(&format!("NO POWER CUTS on {name}: {reason}")),
            }
            fs::remove_file(ground.join("disk.img"))?;
        }
        if cuts_by_log == 0 || !tally.violations.is_empty() {
            continue;
        }
        let ground = folder.join(format!("{name}-logged"));
        let made = logged::run(&ground, program, (seed, cuts_by_log), system, &mut tally)?;
        if let Err(reason) = made {
            narrator.line(&format!("NO POWER CUTS AMID WRITES on {name}: {reason}"));
        }
    }
    Ok(tally)
}

fn cut_on(
    ground: &Path,
    disk: &Mounted,
    program: &Path,
    (seed, cuts): (u64, u64),
    system: System,
    tally: &mut Tally,
) -> Result<()> {
    let mut random = Random::new(seed, "power cuts");
    let mut lives = Lives::begin(ground, disk, program, system, "blobs")?;
    let name = system.name();
    let replay = format!("--what power --systems {name} --seed {seed}");
    for cut in 1..=cuts {
        let when = format!("after power cut {cut} on {name}");
        let is_last = cut == cuts;
        lives.cut(None, &mut random, is_last, (&when, &replay), tally)?;
        tally.add("power_cuts", 1);
        tally.add(count_name(system), 1);
        if !tally.violations.is_empty() {
            return Ok(());
        }
    }
    let mut lives = Lives::begin(ground, disk, program, system, "unsynced")?;
    let mut control_cuts = 0;
    for _ in 0..CONTROL_LIVES_MAX {
        if control_cuts == CONTROL_CUTS_MAX {
            break;
        }
        let known_count = lives.ledger.len();
        let mut found = Tally::default();
        let lie = Some(Lie::Unsynced);
        lives.cut(lie, &mut random, false, ("", ""), &mut found)?;
        if !found.violations.is_empty() {
            return Ok(());
        }
        control_cuts += usize::from(lives.ledger.len() > known_count);
    }
    let what = format!("a disk that never syncs lost nothing in power cuts on {name}");
    tally.violate(what, replay);
    Ok(())
}

/// Processes that store in one folder of an image, one after another, and what they said.
struct Lives<'a> {
    ground: &'a Path,
    disk: &'a Mounted,
    program: &'a Path,
    system: System,
    name: &'static str,
    ledger: BTreeMap<u64, Known>,
    next: u64,
}

impl<'a> Lives<'a> {
    fn begin(
        ground: &'a Path,
        disk: &'a Mounted,
        program: &'a Path,
        system: System,
        name: &'static str,
    ) -> Result<Self> {
        make_folders(disk.path(), &disk.path().join(name))?;
        Ok(Self {
            ground,
            disk,
            program,
            system,
            name,
            ledger: BTreeMap::new(),
            next: 0,
        })
    }

    /// Lets a process store, cuts the power, and looks for what it had acknowledged.
    fn cut(
        &mut self,
        lie: Option<Lie>,
        random: &mut Random,
        is_all: bool,
        (when, replay): (&str, &str),
        tally: &mut Tally,
    ) -> Result<()> {
        let log = self.ground.join(format!("{}-{}.log", self.name, self.next));
        let ward = Ward {
            program: self.program,
            store: &self.disk.path().join(self.name),
            log: &log,
            first: self.next,
            point: None,
            lie,
        };
        let mut part = ward.start_and_wait(random, false)?;
        part.signal(libc::SIGSTOP)?;
        let copy = self.ground.join("cut.img");
        self.disk.copy_to(&copy)?;
        part.kill()?;
        let before = self.next;
        self.next = read_lines(&log, &mut self.ledger, before)?;
        let found = Mounted::mount(&copy, &self.ground.join("cut"), self.system)
            .with_context(|| format!("{when}: the file system"))?;
        let wanted = wanted_of(&self.ledger, before, is_all);
        compare(&found.path().join(self.name), wanted, when, replay, tally);
        drop(found);
        Ok(fs::remove_file(&copy)?)
    }
}

/// As setup does it for a node: the folders are durable before anything is stored in them.
pub(super) fn make_folders(disk: &Path, store: &Path) -> Result<()> {
    for folder in [store.to_owned(), checkpoint_folder(store)] {
        fs::create_dir_all(&folder)?;
        fs::File::open(&folder)?.sync_all()?;
    }
    fs::File::open(disk)?.sync_all()?;
    Ok(())
}

pub(super) fn count_name(system: System) -> &'static str {
    match system {
        System::Ext4 => "power_cuts_ext4",
        System::Xfs => "power_cuts_xfs",
        System::Btrfs => "power_cuts_btrfs",
    }
}
