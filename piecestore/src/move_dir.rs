//! `piecestore move-dir`: a stopped node's directory to another disk, every file read back and compared.
//!
//! Two directories that both could start would sign for the same pieces and lose those of the other, so the order is fixed
//! (docs/format.md section 6): blobs first, then the old directory is marked as moved, and only then the new one is given its identity and
//! its settings, without which nothing starts it. Each step is durable before the next. An interrupted move is taken up again by
//! the same command; files that were copied and compared are not copied again unless they have changed since.

use std::collections::HashMap;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Advice, fadvise};
use serde::Serialize;

use crate::config::{Config, ConfigError, FILE_NAME};
use crate::directory::{
    self, CHECKPOINTS_FOLDER, DirectoryError, IDENTITY_FILE, LOCK_FILE, MARKER_FILE, MOVED_FILE,
    MOVING_FILE, blobs_of,
};
use crate::file_names::{parse_blob_name, parse_checkpoint_name};
use crate::meter::Meter;
use crate::status::human_bytes;

/// Bytes read and written at once.
const RUN_BYTES: usize = 4 << 20;

const BLOCK_BYTES: usize = strand_blob::layout::BLOCK_BYTES;

/// A file that is being copied.
const PART_SUFFIX: &str = ".part";

/// What was moved.
#[derive(Debug, Default, Serialize)]
pub struct MoveReport {
    /// Text form.
    pub node_id: String,
    /// The old directory.
    pub from: String,
    /// The new one.
    pub to: String,
    /// Blob files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Those that an earlier run had copied already.
    pub files_before: u64,
    /// Bytes that the old disk could not read; they are zeros in the copy, and what they held is lost.
    pub unreadable_bytes: u64,
    /// Whether the old directory was removed.
    pub removed: bool,
    /// How long it took.
    pub seconds: f64,
}

/// Why a directory was not moved. Each message is one sentence; the same command goes on where it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MoveError {
    /// One of the directories.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The new place is the old one, or one lies in the other.
    #[error("{to} and {from} are the same directory or lie in one another: choose another place")]
    Within {
        /// The old directory.
        from: PathBuf,
        /// The new one.
        to: PathBuf,
    },
    /// The new place belongs to another node, or to this one already.
    #[error(
        "{path} is the directory of node {node_id} already: choose an empty one; nothing was changed"
    )]
    Occupied {
        /// The new place.
        path: PathBuf,
        /// Whose it is.
        node_id: strand_protocol::NodeId,
    },
    /// The new place holds something else.
    #[error("{0} is not empty: choose an empty directory; nothing was changed")]
    NotEmpty(PathBuf),
    /// The new place is the unfinished copy of another directory.
    #[error(
        "{0} is the unfinished copy of another directory: choose an empty one; nothing was changed"
    )]
    OtherMove(PathBuf),
    /// The node was moved to yet another place.
    #[error("{from} was moved to {to} before: nothing was changed")]
    Elsewhere {
        /// The old directory.
        from: PathBuf,
        /// Where it went.
        to: String,
    },
    /// No room.
    #[error("{path} has {free} free and the blobs need {wanted}; nothing was changed")]
    NoRoom {
        /// The new place.
        path: PathBuf,
        /// Free there.
        free: String,
        /// Still to be copied.
        wanted: String,
    },
    /// What was written is not what is read.
    #[error(
        "{0} reads back other than it was written: its disk, cable or memory is bad; the old directory is still the node's"
    )]
    ReadsBackOther(PathBuf),
    /// The operating system said no.
    #[error("cannot {what} {path}: {error}; run the command again to go on")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// How it failed.
        error: io::Error,
    },
}

impl From<ConfigError> for MoveError {
    fn from(error: ConfigError) -> Self {
        Self::Directory(error.into())
    }
}

/// One blob file to copy.
struct Source {
    name: String,
    len: u64,
    modified_ns: i128,
}

/// What the file `moving` says was copied: by name, with length and time of the original.
type Copied = HashMap<String, (u64, i128)>;

/// Moves a directory. Progress goes to standard error.
pub fn move_dir(from: &Path, to: &Path, removes: bool) -> Result<MoveReport, MoveError> {
    let config = Config::load(from)?;
    let _from_lock = directory::lock(from)?;
    let absolute_from = canonical(from)?;
    let absolute_to = canonical_to_be(to)?;
    if absolute_from.starts_with(&absolute_to) || absolute_to.starts_with(&absolute_from) {
        let (from, to) = (from.to_owned(), to.to_owned());
        return Err(MoveError::Within { from, to });
    }
    let mut report = MoveReport {
        node_id: config.node_id.to_string(),
        from: absolute_from.display().to_string(),
        to: absolute_to.display().to_string(),
        ..MoveReport::default()
    };
    let moved_to = directory::moved_to(from)?;
    if let Some(moved_to) = &moved_to
        && *moved_to != report.to
    {
        let (from, to) = (from.to_owned(), moved_to.clone());
        return Err(MoveError::Elsewhere { from, to });
    }
    let mut meter = Meter::new();
    let heading = format!(
        "strand move 1\nnode {}\nfrom {}\n",
        config.node_id, report.from
    );
    let is_complete = moved_to.is_some() && !to.join(MOVING_FILE).exists();
    let _to_lock = if is_complete {
        None
    } else {
        if moved_to.is_none() {
            directory::has_marker(from, config.node_id)?;
        }
        let copied = look_at_target(to, &heading)?;
        let sources = if moved_to.is_none() {
            sources(from)?
        } else {
            Vec::new()
        };
        check_room(&absolute_to, &sources, &copied, to)?;
        let lock = begin(to, &heading)?;
        if moved_to.is_none() {
            copy_blobs(from, to, &sources, copied, &mut report, &mut meter)?;
            mark(from, &report.to)?;
        }
        finish(from, to)?;
        Some(lock)
    };
    if removes {
        remove(from, to, &config)?;
        report.removed = true;
    }
    report.seconds = meter.end("moved");
    Ok(report)
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> MoveError {
    let path = path.to_owned();
    move |error| match error.kind() {
        io::ErrorKind::ReadOnlyFilesystem => DirectoryError::ReadOnly(path).into(),
        _ => MoveError::Io { what, path, error },
    }
}

fn canonical(path: &Path) -> Result<PathBuf, MoveError> {
    path.canonicalize().map_err(failed("find", path))
}

/// The real path of a directory that need not be there yet.
fn canonical_to_be(path: &Path) -> Result<PathBuf, MoveError> {
    if path.exists() {
        return canonical(path);
    }
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    Ok(match path.file_name() {
        Some(name) => canonical_to_be(parent)?.join(name),
        None => canonical(parent)?,
    })
}

/// What an earlier run has copied. Refuses a place that is something else; changes nothing.
fn look_at_target(to: &Path, heading: &str) -> Result<Copied, MoveError> {
    match Config::load(to) {
        // Everything is there, and the last step was not done: `moving` still is.
        Ok(config) if !to.join(MOVING_FILE).exists() => {
            let path = to.to_owned();
            let node_id = config.node_id;
            return Err(MoveError::Occupied { path, node_id });
        }
        Ok(_) | Err(ConfigError::Missing(_)) => {}
        Err(error) => return Err(error.into()),
    }
    let path = to.join(MOVING_FILE);
    match std::fs::read_to_string(&path) {
        Ok(text) => match text.strip_prefix(heading) {
            Some(lines) => Ok(lines.lines().filter_map(parse_copied).collect()),
            None => Err(MoveError::OtherMove(to.to_owned())),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let is_empty = match std::fs::read_dir(to) {
                Ok(mut entries) => {
                    entries.all(|entry| entry.is_ok_and(|entry| may_lie_there(&entry.file_name())))
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => true,
                Err(error) => return Err(failed("list", to)(error)),
            };
            if is_empty {
                Ok(Copied::new())
            } else {
                Err(MoveError::NotEmpty(to.to_owned()))
            }
        }
        Err(error) => Err(failed("read", &path)(error)),
    }
}

/// What a file system of its own has in its root, and what a run that ended at its very beginning leaves.
fn may_lie_there(name: &std::ffi::OsStr) -> bool {
    let draft = format!("{MOVING_FILE}.draft");
    name == "lost+found" || name == LOCK_FILE || name.to_str() == Some(draft.as_str())
}

fn parse_copied(line: &str) -> Option<(String, (u64, i128))> {
    // The last line may be torn: it has no end, and so no check.
    let mut words = line.split(' ');
    let (name, len, modified_ns, check) =
        (words.next()?, words.next()?, words.next()?, words.next()?);
    (check == "ok").then_some(())?;
    Some((
        name.to_owned(),
        (len.parse().ok()?, modified_ns.parse().ok()?),
    ))
}

fn modified_ns(metadata: &Metadata) -> i128 {
    i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec())
}

fn sources(from: &Path) -> Result<Vec<Source>, MoveError> {
    let blobs = blobs_of(from);
    let mut sources = Vec::new();
    for entry in std::fs::read_dir(&blobs).map_err(failed("list", &blobs))? {
        let entry = entry.map_err(failed("list", &blobs))?;
        let Some(name) = entry
            .file_name()
            .to_str()
            .filter(|name| parse_blob_name(name).is_some())
            .map(str::to_owned)
        else {
            continue;
        };
        let metadata = entry.metadata().map_err(failed("look at", &entry.path()))?;
        sources.push(Source {
            name,
            len: metadata.len(),
            modified_ns: modified_ns(&metadata),
        });
    }
    sources.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(sources)
}

fn is_copied(source: &Source, copied: &Copied, to: &Path) -> bool {
    copied.get(&source.name) == Some(&(source.len, source.modified_ns))
        && blobs_of(to)
            .join(&source.name)
            .metadata()
            .is_ok_and(|there| there.len() == source.len)
}

fn check_room(
    absolute_to: &Path,
    sources: &[Source],
    copied: &Copied,
    to: &Path,
) -> Result<(), MoveError> {
    let wanted: u64 = sources
        .iter()
        .filter(|source| !is_copied(source, copied, to))
        .map(|source| source.len)
        .sum();
    let existing = absolute_to
        .ancestors()
        .find(|path| path.exists())
        .unwrap_or(absolute_to);
    let (free, _) = directory::file_system_bytes(existing).map_err(failed("look at", existing))?;
    // What an earlier run wrote half is written over.
    let half: u64 = std::fs::read_dir(blobs_of(to))
        .map(|entries| {
            let parts = entries
                .flatten()
                .filter(|entry| entry.file_name().to_string_lossy().ends_with(PART_SUFFIX));
            parts
                .filter_map(|entry| entry.metadata().ok())
                .map(|part| part.len())
                .sum()
        })
        .unwrap_or_default();
    if wanted > free.saturating_add(half) {
        return Err(MoveError::NoRoom {
            path: to.to_owned(),
            free: human_bytes(free),
            wanted: human_bytes(wanted),
        });
    }
    Ok(())
}

/// Makes the new place into a copy under way; gives its lock.
fn begin(to: &Path, heading: &str) -> Result<File, MoveError> {
    directory::make_folder(to)?;
    let lock = directory::lock(to)?;
    let path = to.join(MOVING_FILE);
    if !path.exists() {
        directory::write_whole(&path, heading.as_bytes()).map_err(failed("write", &path))?;
    }
    directory::make_folder(&blobs_of(to))?;
    Ok(lock)
}

fn copy_blobs(
    from: &Path,
    to: &Path,
    sources: &[Source],
    copied: Copied,
    report: &mut MoveReport,
    meter: &mut Meter,
) -> Result<(), MoveError> {
    let log_path = to.join(MOVING_FILE);
    let log = OpenOptions::new().append(true).open(&log_path);
    let mut log = log.map_err(failed("open", &log_path))?;
    // Ends what a line that was torn left; empty lines say nothing.
    log.write_all(b"\n").map_err(failed("write", &log_path))?;
    let total: u64 = sources.iter().map(|source| source.len).sum();
    for source in sources {
        if is_copied(source, &copied, to) {
            report.files_before += 1;
        } else {
            let mut show = |done: u64| {
                let at = report.bytes + done;
                meter.show(|| {
                    format!(
                        "moving: {} of {}, {}",
                        human_bytes(at),
                        human_bytes(total),
                        source.name
                    )
                });
            };
            report.unreadable_bytes += copy(&blobs_of(from), &blobs_of(to), source, &mut show)?;
            let line = format!("{} {} {} ok\n", source.name, source.len, source.modified_ns);
            log.write_all(line.as_bytes())
                .map_err(failed("write", &log_path))?;
            log.sync_data().map_err(failed("sync", &log_path))?;
        }
        report.files += 1;
        report.bytes += source.len;
    }
    remove_strays(to, sources)?;
    let marker = blobs_of(to).join(MARKER_FILE);
    let text = format!("{}\n", report.node_id);
    directory::write_whole(&marker, text.as_bytes()).map_err(failed("write", &marker))?;
    for folder in [
        blobs_of(to),
        to.to_owned(),
        canonical(to)?.parent().unwrap_or(to).to_owned(),
    ] {
        directory::sync_folder(&folder).map_err(failed("sync", &folder))?;
    }
    Ok(())
}

/// Copies one file and reads the copy back; gives how many bytes could not be read.
fn copy(
    from: &Path,
    to: &Path,
    source: &Source,
    show: &mut dyn FnMut(u64),
) -> Result<u64, MoveError> {
    let source_path = from.join(&source.name);
    let part_path = to.join(format!("{}{PART_SUFFIX}", source.name));
    let original = File::open(&source_path).map_err(failed("open", &source_path))?;
    let part = OpenOptions::new()
        .create(true)
        .truncate(true)
        .read(true)
        .write(true)
        .mode(0o600)
        .open(&part_path);
    let part = part.map_err(failed("create", &part_path))?;
    let mut buffer = vec![0; RUN_BYTES];
    let mut hasher = blake3::Hasher::new();
    let (mut at, mut unreadable_bytes) = (0, 0);
    while at < source.len {
        let len = RUN_BYTES.min((source.len - at) as usize);
        let run = &mut buffer[..len];
        unreadable_bytes += read_run(&original, at, run).map_err(failed("read", &source_path))?;
        hasher.update(run);
        part.write_all_at(run, at)
            .map_err(failed("write", &part_path))?;
        at += len as u64;
        show(at);
    }
    part.sync_all().map_err(failed("sync", &part_path))?;
    // From the disk, not from memory. Where that is not to be had the comparison still finds bad memory.
    let _ = fadvise(&part, 0, None, Advice::DontNeed);
    let _ = fadvise(&original, 0, None, Advice::DontNeed);
    let mut again = blake3::Hasher::new();
    at = 0;
    while at < source.len {
        let len = RUN_BYTES.min((source.len - at) as usize);
        part.read_exact_at(&mut buffer[..len], at)
            .map_err(failed("read", &part_path))?;
        again.update(&buffer[..len]);
        at += len as u64;
    }
    if again.finalize() != hasher.finalize() {
        return Err(MoveError::ReadsBackOther(part_path));
    }
    let path = to.join(&source.name);
    std::fs::rename(&part_path, &path).map_err(failed("rename", &part_path))?;
    Ok(unreadable_bytes)
}

/// Fills a run; blocks that the disk cannot read are zeros, and counted.
fn read_run(file: &File, offset: u64, run: &mut [u8]) -> io::Result<u64> {
    match file.read_exact_at(run, offset) {
        Err(error) if error.raw_os_error() == Some(libc::EIO) => {}
        other => return other.map(|()| 0),
    }
    let mut unreadable_bytes = 0;
    for (index, block) in run.chunks_mut(BLOCK_BYTES).enumerate() {
        match file.read_exact_at(block, offset + (index * BLOCK_BYTES) as u64) {
            Err(error) if error.raw_os_error() == Some(libc::EIO) => {
                block.fill(0);
                unreadable_bytes += block.len() as u64;
            }
            other => other?,
        }
    }
    Ok(unreadable_bytes)
}

/// Removes what an earlier run copied and the node has compacted since.
fn remove_strays(to: &Path, sources: &[Source]) -> Result<(), MoveError> {
    let blobs = blobs_of(to);
    for entry in std::fs::read_dir(&blobs).map_err(failed("list", &blobs))? {
        let entry = entry.map_err(failed("list", &blobs))?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        let is_ours = parse_blob_name(name.strip_suffix(PART_SUFFIX).unwrap_or(name)).is_some();
        let is_wanted = sources
            .binary_search_by(|source| source.name.as_str().cmp(name))
            .is_ok();
        if is_ours && !is_wanted {
            std::fs::remove_file(entry.path()).map_err(failed("remove", &entry.path()))?;
        }
    }
    Ok(())
}

/// From here on the old directory does not start any more.
fn mark(from: &Path, to: &str) -> Result<(), MoveError> {
    let path = from.join(MOVED_FILE);
    directory::write_whole(&path, format!("{to}\n").as_bytes()).map_err(failed("write", &path))
}

/// From here on the new directory starts.
fn finish(from: &Path, to: &Path) -> Result<(), MoveError> {
    for name in [IDENTITY_FILE, FILE_NAME] {
        let (source, target) = (from.join(name), to.join(name));
        if target.exists() {
            continue;
        }
        let content = std::fs::read(&source).map_err(failed("read", &source))?;
        directory::write_whole(&target, &content).map_err(failed("write", &target))?;
    }
    let moving = to.join(MOVING_FILE);
    std::fs::remove_file(&moving).map_err(failed("remove", &moving))?;
    directory::sync_folder(to).map_err(failed("sync", to))
}

/// Removes what a node's directory holds, the words that refuse its start last.
fn remove(from: &Path, to: &Path, config: &Config) -> Result<(), MoveError> {
    let there = Config::load(to)?;
    if there.node_id != config.node_id {
        let (path, node_id) = (to.to_owned(), there.node_id);
        return Err(MoveError::Occupied { path, node_id });
    }
    let gone = |path: &Path| match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(error)),
        _ => Ok(()),
    };
    let blobs = blobs_of(from);
    if blobs.is_dir() {
        for source in sources(from)? {
            gone(&blobs.join(source.name))?;
        }
        gone(&blobs.join(MARKER_FILE))?;
        // It may be a mount point, or hold what is not ours.
        let _ = std::fs::remove_dir(&blobs);
    }
    let checkpoints = from.join(CHECKPOINTS_FOLDER);
    for entry in std::fs::read_dir(&checkpoints).into_iter().flatten() {
        let entry = entry.map_err(failed("read", &checkpoints))?;
        let name = entry.file_name();
        if name.to_str().and_then(parse_checkpoint_name).is_some() {
            gone(&entry.path())?;
        }
    }
    let _ = std::fs::remove_dir(&checkpoints);
    for name in [
        crate::admin::SOCKET_FILE,
        IDENTITY_FILE,
        FILE_NAME,
        MOVED_FILE,
        LOCK_FILE,
    ] {
        gone(&from.join(name))?;
    }
    let _ = std::fs::remove_dir(from);
    Ok(())
}

impl MoveReport {
    /// Lines for people.
    #[must_use]
    pub fn for_people(&self) -> String {
        let mut out = format!(
            "{} blobs with {} are in {}, each compared after it was written; start it with `piecestore run --dir {}`\n",
            self.files,
            human_bytes(self.bytes),
            self.to,
            self.to
        );
        if self.unreadable_bytes > 0 {
            let lost = human_bytes(self.unreadable_bytes);
            out += &format!(
                "the old disk could not read {lost}: `piecestore verify` names what they cost\n"
            );
        }
        out += &if self.removed {
            format!("{} was removed\n", self.from)
        } else {
            format!(
                "{} is kept and marked as moved: it does not start any more\n",
                self.from
            )
        };
        out
    }
}
