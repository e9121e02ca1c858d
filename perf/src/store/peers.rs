//! Other stores at the same durable work, in a process of their own: `perf/peers`, a crate outside the workspace.
//!
//! Its sources lie beside ours where this program was built; there cargo builds it, outside of every clock. Ours and the
//! peers take turns; a ratio is the median of the rounds' ratios to the round's best peer.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::bench::{Bench, CALLERS, Rounds, load};
use super::drive::Load;
use super::plan::PEER_ROUNDS;
use super::work::Work;
use crate::part;

/// Body of the pieces, and the figure that it gives.
const SIZES: [(usize, &str); 2] = [
    (4 << 10, "best_peer_4k_ratio"),
    (64 << 10, "best_peer_64k_ratio"),
];

/// Longest build of the peers: SQLite and an LSM tree from their sources on a busy machine.
const BUILD_MAX: Duration = Duration::from_secs(900);

/// What a round of peers may take beyond their runs: filling pools, opening, removing many small files.
const ROUND_SPARE: Duration = Duration::from_secs(60);

/// Finds or builds the peers' program.
///
/// # Errors
///
/// If its sources or cargo are not here, or it does not build.
pub(super) fn find(asked: Option<&Path>) -> Result<PathBuf> {
    if let Some(asked) = asked {
        ensure!(asked.is_file(), "{} is no file", asked.display());
        return Ok(asked.to_owned());
    }
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/Cargo.toml");
    ensure!(manifest.is_file(), "{} is not here", manifest.display());
    let mut command = Command::new("cargo");
    command
        .args(["build", "--release", "--locked", "--message-format=json"])
        .arg("--manifest-path")
        .arg(&manifest);
    let built = part::run_within("cargo", command, BUILD_MAX).context("the peers do not build")?;
    if !built.is_success() {
        let reason = built.stderr.lines().find(|line| line.starts_with("error"));
        bail!("cargo: {}", reason.unwrap_or("failed without an error"));
    }
    // A line for each artifact; the program's names its file.
    String::from_utf8_lossy(&built.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .context("cargo built no program")
}

impl Bench {
    /// Small puts against the best of the peers.
    pub(super) fn peers(&mut self, program: &Path) -> Result<()> {
        for (body_len, key) in SIZES {
            let work = Arc::new(Work::new(body_len, self.now_s));
            let mut ratios = Rounds::default();
            for round in 1..=PEER_ROUNDS {
                if round > 1 && self.started.elapsed() > self.plan.hurry_after() {
                    break;
                }
                let folder = self.new_folder("ours")?;
                let limit = self.plan.peer_run;
                let bytes_max = self.plan.bulk_bytes;
                let ours = Load {
                    limit,
                    ..load(CALLERS, (bytes_max / body_len as u64).max(1))
                };
                let put = self.put(&folder, &work, ours)?.run;
                self.remove(&folder)?;
                let folder = self.new_folder("peers")?;
                let rates = ask(program, &folder, body_len, limit, bytes_max)?;
                self.remove(&folder)?;
                let (best, rate) = rates
                    .iter()
                    .max_by(|left, right| left.1.total_cmp(&right.1))
                    .context("no peer could be measured")?;
                ratios.0.push(put.per_second() / rate);
                let others: Vec<String> = rates
                    .iter()
                    .map(|(name, rate)| format!("{name} {rate:.0}"))
                    .collect();
                self.narrator.line(&format!(
                    "peers, {} KiB, round {round} of {PEER_ROUNDS}: {:.0} puts a second, {}; best {best}",
                    body_len >> 10,
                    put.per_second(),
                    others.join(", ")
                ));
            }
            self.figures.set(key, ratios.median());
        }
        Ok(())
    }
}

/// Puts a second, by peer.
fn ask(
    program: &Path,
    folder: &Path,
    body_len: usize,
    limit: Duration,
    bytes_max: u64,
) -> Result<Vec<(String, f64)>> {
    let mut command = Command::new(program);
    command
        .arg(folder)
        .arg(body_len.to_string())
        .arg(limit.as_secs_f64().to_string())
        .arg(bytes_max.to_string());
    let ran_max = limit * 8 + ROUND_SPARE;
    let ran = part::run_within("peers", command, ran_max).context("the peers do not run")?;
    ensure!(ran.is_success(), "the peers failed: {}", ran.stderr.trim());
    let rates: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(&ran.stdout).context("the peers printed no JSON")?;
    rates
        .into_iter()
        .map(|(name, rate)| {
            let rate = rate.as_f64().with_context(|| format!("{name}: {rate}"))?;
            Ok((name, rate))
        })
        .collect()
}
