//! The folder that a local network lives in: made where there is room, removed on every way out.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use strand_protocol::Scheme;

use crate::{ground, part};

/// What a network may write beyond pieces and copies of the file: logs, the satellite's tables, growth steps of blobs.
const ROOM_BEYOND_PIECES: u64 = 2 << 30;

/// Bytes that a network may write: pieces, the made file, a download, and some more.
pub fn room_needed(bytes: u64, scheme: Scheme) -> u64 {
    let pieces = bytes.saturating_mul(u64::from(scheme.total)) / u64::from(scheme.required);
    pieces
        .saturating_add(bytes.saturating_mul(2))
        .saturating_add(ROOM_BEYOND_PIECES)
}

/// A new folder: in the one asked for, else beside the program, else in the system's folder for temporary files.
///
/// Beside the program comes first because on many systems the temporary folder is memory.
pub fn make(asked: Option<&Path>, program: &Path, needed_bytes: u64) -> Result<PathBuf> {
    make_for("demo", asked, program, needed_bytes)
}

/// [`make`] for another command, whose name the folder's begins with.
pub fn make_for(
    command: &str,
    asked: Option<&Path>,
    program: &Path,
    needed_bytes: u64,
) -> Result<PathBuf> {
    let name = format!("strand-{command}-{}", std::process::id());
    if let Some(asked) = asked {
        ground::check_disk(asked, needed_bytes)?;
        return make_at(&asked.join(name));
    }
    let mut refusals = Vec::new();
    let beside = program.parent().map(Path::to_owned);
    for candidate in beside.into_iter().chain([std::env::temp_dir()]) {
        let made = ground::check_disk(&candidate, needed_bytes)
            .map_err(anyhow::Error::from)
            .and_then(|()| make_at(&candidate.join(&name)));
        match made {
            Ok(folder) => return Ok(folder),
            Err(error) => refusals.push(format!("{error:#}")),
        }
    }
    bail!("no folder for the data: {}", refusals.join("; "))
}

fn make_at(path: &Path) -> Result<PathBuf> {
    fs::create_dir(path).with_context(|| format!("cannot make {}", path.display()))?;
    fs::canonicalize(path).with_context(|| format!("cannot find {}", path.display()))
}

/// Removes the data; the logs stay if they may be needed.
pub fn remove(folder: &Path, with_logs: bool) {
    let removed = if with_logs {
        fs::remove_dir_all(folder)
    } else {
        eprintln!("the logs are in {}", folder.join("log").display());
        remove_all_but_logs(folder)
    };
    if let Err(error) = removed {
        eprintln!("cannot remove {}: {error}", folder.display());
    }
}

fn remove_all_but_logs(folder: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if !path.ends_with("log") {
            fs::remove_dir_all(path)?;
        }
    }
    Ok(())
}

/// Ends the parts, removes `folder` and leaves, on ctrl-C and on a polite kill.
pub fn leave_on_signals(folder: PathBuf) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("no runtime")?;
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            runtime.block_on(async {
                use tokio::signal::unix::{SignalKind, signal};
                let (Ok(mut interrupt), Ok(mut terminate)) = (
                    signal(SignalKind::interrupt()),
                    signal(SignalKind::terminate()),
                ) else {
                    return;
                };
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                part::kill_all();
                // A part that is just dying may still create a file: the second try gets it.
                if fs::remove_dir_all(&folder).is_err() {
                    std::thread::sleep(std::time::Duration::from_millis(200));
                    let _ = fs::remove_dir_all(&folder);
                }
                std::process::exit(130);
            });
        })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_demo_asks_for_three_and_a_half_gib() {
        let needed = room_needed(256 << 20, Scheme::DEFAULT);
        assert_eq!(needed, (256 << 20) * 93 / 29 + (512 << 20) + (2 << 30));
        assert_eq!(room_needed(u64::MAX, Scheme::DEFAULT), u64::MAX);
    }

    #[test]
    fn a_folder_is_fresh_and_goes_without_its_logs() {
        let dir = tempfile::tempdir().unwrap();
        let Ok(folder) = make(Some(dir.path()), Path::new("/nonexistent/program"), 1) else {
            // The temporary folder is memory here, which `ground` tests.
            return;
        };
        for part in ["log", "node-000"] {
            fs::create_dir(folder.join(part)).unwrap();
        }
        assert!(
            make(Some(dir.path()), Path::new("/nonexistent/program"), 1).is_err(),
            "not fresh"
        );
        remove(&folder, false);
        let left: Vec<_> = fs::read_dir(&folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(left, ["log"]);
        remove(&folder, true);
        assert!(!folder.exists());
    }
}
