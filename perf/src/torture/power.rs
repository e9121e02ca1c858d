//! Power cuts: a process stores on a file system of its own, in an image behind a loop device, and the image is copied at a random moment.
//!
//! The copy is what a machine finds whose power failed then: all that had reached the device, and nothing that the file system
//! still held in memory. It is mounted, which replays its journal, and opened; what had been acknowledged must be there. While the image is copied the
//! process is stopped, and a copy counts only if the device was not written meanwhile, so that it is of one moment. That takes root.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use strand_torture::Tally;

use super::image::{Mounted, System};
use super::kill::{compare, read_lines, wait_until_open, wanted_of};
use crate::narrator::Narrator;
use crate::part::Part;
use crate::random::Random;
use crate::store::drive::checkpoint_folder;

/// Bytes of an image: sparse, and never nearly full.
const IMAGE_BYTES: u64 = 2 << 30;

/// Longest life before a cut.
const LIFE_MS_MAX: usize = 500;

/// Cuts so often on each of the file systems that this machine can make; `seed` draws the moments.
pub(super) fn run(
    folder: &Path,
    program: &Path,
    seed: u64,
    cuts: u64,
    systems: &[System],
    narrator: &Narrator,
) -> Result<Tally> {
    let mut tally = Tally::default();
    for &system in systems {
        let name = system.name();
        let ground = folder.join(name);
        match Mounted::make(&ground, system, IMAGE_BYTES)? {
            Ok(disk) => cut_on(&ground, &disk, program, (seed, cuts), system, &mut tally)?,
            Err(reason) => narrator.line(&format!("NO POWER CUTS on {name}: {reason}")),
        }
        fs::remove_file(ground.join("disk.img"))?;
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
    let store = disk.path().join("blobs");
    make_folders(disk.path(), &store)?;
    let mut random = Random::new(seed, "power cuts");
    let mut ledger = BTreeMap::new();
    let mut next = 0;
    for cut in 1..=cuts {
        let log = ground.join(format!("life-{cut}.log"));
        let mut command = Command::new(program);
        command
            .args(["part", "ward"])
            .arg(&store)
            .arg(next.to_string());
        let mut part = Part::start("ward", command, &log)?;
        wait_until_open(&mut part, &log)?;
        std::thread::sleep(Duration::from_millis(random.below(LIFE_MS_MAX) as u64));
        ensure!(
            part.is_running()?,
            "the process that stores ended by itself: {}",
            part.log_tail()
        );
        part.signal(libc::SIGSTOP)?;
        let copy = ground.join("cut.img");
        disk.copy_to(&copy)?;
        part.kill()?;
        let before = next;
        next = read_lines(&log, &mut ledger, next)?;
        let found = Mounted::mount(&copy, &ground.join("cut"), system)
            .with_context(|| format!("after power cut {cut} on {}", system.name()))?;
        let when = format!("after power cut {cut} on {}", system.name());
        let wanted = wanted_of(&ledger, before, cut == cuts);
        let replay = format!("--what power --systems {} --seed {seed}", system.name());
        compare(&found.path().join("blobs"), wanted, &when, &replay, tally);
        drop(found);
        fs::remove_file(&copy)?;
        tally.add("power_cuts", 1);
        tally.add(count_name(system), 1);
        if !tally.violations.is_empty() {
            break;
        }
    }
    Ok(())
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

fn count_name(system: System) -> &'static str {
    match system {
        System::Ext4 => "power_cuts_ext4",
        System::Xfs => "power_cuts_xfs",
        System::Btrfs => "power_cuts_btrfs",
    }
}
