//! What `strand-perf store` is asked for.

use std::path::PathBuf;
use std::time::Instant;

use super::peers;
use crate::narrator::Narrator;

/// Pieces that a run may be asked for.
const PIECES_ALLOWED: std::ops::RangeInclusive<u64> = 64..=100_000_000;

/// `strand-perf store`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Pieces in the store that is opened again; fewer than the default shorten everything else as well
    #[arg(long, default_value = "2M", value_parser = parse_pieces)]
    pub pieces: u64,
    /// An existing folder on the disk to be measured; it is used through a fresh folder in it
    #[arg(long)]
    pub dir: Option<PathBuf>,
    /// The program of the peers; without this it is built from perf/peers, where these sources still are
    #[arg(long, value_name = "PROGRAM", conflicts_with = "no_peers")]
    pub peers: Option<PathBuf>,
    /// Measure no other stores
    #[arg(long)]
    pub no_peers: bool,
    /// Measure these parts only; compaction needs bulk, which says how fast puts are
    #[arg(long, value_delimiter = ',', value_enum)]
    pub(super) only: Vec<Part>,
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub json: bool,
}

/// What is measured together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Part {
    /// Small pieces: disk and index for each, opening again
    Fill,
    /// Full pieces and 64 KiB pieces against the raw disk, puts and gets
    Bulk,
    /// 4 KiB pieces against plain syncs
    Small,
    /// Deletes and puts with compaction
    Compaction,
    /// Other stores
    Peers,
}

impl Options {
    pub(super) fn has(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }

    /// The peers' program, unless nobody wants it; says why there is none.
    pub(super) fn find_peers(&self, narrator: &Narrator) -> Option<PathBuf> {
        if self.no_peers || !self.has(Part::Peers) {
            return None;
        }
        let started = Instant::now();
        match peers::find(self.peers.as_deref()) {
            Ok(program) => {
                let seconds = started.elapsed().as_secs_f64();
                narrator.line(&format!(
                    "the peers are built, in {seconds:.1} s that do not count"
                ));
                Some(program)
            }
            Err(error) => {
                narrator.line(&format!("no peers are measured: {error:#}"));
                None
            }
        }
    }
}

/// Reads a number of pieces: `20000`, `500k`, `2M`.
fn parse_pieces(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(['k', 'K', 'M']);
    let factor = match &text[digits.len()..] {
        "" => 1,
        "k" | "K" => 1_000,
        "M" => 1_000_000,
        _ => 0,
    };
    digits
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(factor))
        .filter(|count| PIECES_ALLOWED.contains(count))
        .ok_or_else(|| {
            format!("`{text}` is not a number from 64 to 100M, such as 20000, 500k or 2M")
        })
}
