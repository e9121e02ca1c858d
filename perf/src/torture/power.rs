//! Power cuts: a process stores on a file system of its own, in an image behind a loop device, and the image is copied at a random moment.
//!
//! The copy is what a machine finds whose power failed then: all that had reached the device, and nothing that the file system
//! still held in memory. It is mounted, which replays its journal, and opened; what had been acknowledged must be there. While the image is copied the
//! process is stopped and the file system's own clock is far from its next commit, so that the copy is of one moment. That takes root.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use strand_torture::Tally;

use super::kill::{compare, read_lines, wait_until_open, wanted_of};
use crate::narrator::Narrator;
use crate::part::Part;
use crate::random::Random;
use crate::store::drive::checkpoint_folder;

/// Bytes of an image: sparse, and never nearly full.
const IMAGE_BYTES: u64 = 2 << 30;

/// Longest life before a cut.
const LIFE_MS_MAX: usize = 500;

/// Until what was on its way when the process was stopped has ended.
const SETTLE: Duration = Duration::from_millis(100);

/// File systems: what makes one, its name, and what puts off its own commits.
const SYSTEMS: [(&str, &str, &str); 2] = [
    ("mkfs.ext4", "ext4", "loop,commit=300"),
    ("mkfs.xfs", "xfs", "loop,nouuid"),
];

/// A mounted image; unmounted when this goes.
struct Mounted {
    path: PathBuf,
}

impl Mounted {
    fn new(image: &Path, path: &Path, options: &str) -> Result<Self> {
        fs::create_dir_all(path)?;
        let mut command = Command::new("mount");
        command.args(["-o", options]).arg(image).arg(path);
        finish(command)?;
        let path = path.to_owned();
        Ok(Self { path })
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let mut command = Command::new("umount");
        command.arg("-l").arg(&self.path);
        if let Err(error) = finish(command) {
            eprintln!("cannot unmount {}: {error:#}", self.path.display());
        }
    }
}

/// Whether this process may mount.
pub(super) fn is_allowed() -> bool {
    let asked = Command::new("id").arg("-u").output();
    asked.is_ok_and(|said| said.stdout.trim_ascii() == b"0")
}

/// Cuts so often on each file system that this machine can make; `seed` draws the moments.
pub(super) fn run(
    folder: &Path,
    program: &Path,
    seed: u64,
    cuts: u64,
    narrator: &Narrator,
) -> Result<Tally> {
    let mut tally = Tally::default();
    for (maker, name, options) in SYSTEMS {
        let has_maker = Command::new(maker).arg("-V").output().is_ok();
        if !has_maker {
            narrator.line(&format!(
                "no power cuts on {name}: {maker} is not installed"
            ));
            continue;
        }
        let ground = folder.join(name);
        fs::create_dir_all(&ground)?;
        let image = ground.join("disk.img");
        fs::File::create(&image)?.set_len(IMAGE_BYTES)?;
        let mut make = Command::new(maker);
        make.arg("-q").arg(&image);
        finish(make)?;
        let disk = Mounted::new(&image, &ground.join("disk"), options)?;
        cut_on(&ground, &disk, program, seed, cuts, options, &mut tally)?;
    }
    Ok(tally)
}

fn cut_on(
    ground: &Path,
    disk: &Mounted,
    program: &Path,
    seed: u64,
    cuts: u64,
    options: &str,
    tally: &mut Tally,
) -> Result<()> {
    let store = disk.path.join("blobs");
    // As setup does it for a node: the folders are durable before anything is stored in them.
    for folder in [store.clone(), checkpoint_folder(&store)] {
        fs::create_dir_all(&folder)?;
        fs::File::open(&folder)?.sync_all()?;
    }
    fs::File::open(&disk.path)?.sync_all()?;
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
        std::thread::sleep(SETTLE);
        let copy = ground.join("cut.img");
        let mut copying = Command::new("cp");
        copying
            .arg("--sparse=always")
            .arg(ground.join("disk.img"))
            .arg(&copy);
        finish(copying)?;
        part.kill()?;
        let before = next;
        next = read_lines(&log, &mut ledger, next)?;
        tally.add("power_cuts", 1);
        let found = Mounted::new(&copy, &ground.join("cut"), options)?;
        let when = format!("after power cut {cut} on {}", ground.display());
        let wanted = wanted_of(&ledger, before, cut == cuts);
        let replay = format!("--what power --seed {seed}");
        compare(&found.path.join("blobs"), wanted, &when, &replay, tally);
        drop(found);
        fs::remove_file(&copy)?;
        if !tally.violations.is_empty() {
            break;
        }
    }
    Ok(())
}

fn finish(mut command: Command) -> Result<()> {
    let name = format!("{:?}", command.get_program());
    let output = command
        .output()
        .with_context(|| format!("cannot run {name}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{name} failed: {}", said.trim());
    Ok(())
}
