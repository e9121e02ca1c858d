//! Runs the rows: ours and the peer in turns of a few milliseconds on one core.
//!
//! A turn is long enough for the clock and short enough for a machine that changes its pace to change it for both; a
//! ratio is the median of the turns' ratios, a speed that of the median turn.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use strand_codec::Level;

use super::figures::Figures;
use super::options::Options;
use super::row::{Contest, ROWS, Row};
use crate::narrator::Narrator;
use crate::pinned;

/// Time of a turn, unless one repetition takes longer.
const TURN: Duration = Duration::from_millis(3);

/// Turns of each side at least.
const TURNS_MIN: usize = 3;

/// Turns of each side at most.
const TURNS_MAX: usize = 2_001;

/// Measures what was asked for.
///
/// # Errors
///
/// If a side fails or the two differ in a byte, the level is unknown, or no row has such a name.
pub fn run(options: &Options) -> Result<Figures> {
    let level = match options.level {
        Some(level) => level,
        None => Level::of_process()?,
    };
    let narrator = Narrator::default();
    let core = pinned::pin().context("this thread cannot be kept on one core")?;
    let cpu = pinned::name();
    narrator.line(&format!("{cpu}, core {core}, level {level}"));
    let mut figures = Figures::new(level.name(), cpu);
    let rows: Vec<&Row> = ROWS.iter().filter(|row| options.has(row.name)).collect();
    ensure!(!rows.is_empty(), "no row begins with {:?}", options.only);
    let time = Duration::from_secs_f64(options.seconds);
    for row in rows {
        narrator.line(row.name);
        let mut contest = (row.prepare)(level)?;
        measure(row, contest.as_mut(), time, &mut figures)
            .with_context(|| format!("the row {}", row.name))?;
    }
    Ok(figures)
}

fn measure(
    row: &Row,
    contest: &mut dyn Contest,
    time: Duration,
    figures: &mut Figures,
) -> Result<()> {
    // The first repetitions touch all memory and give the outputs that are compared.
    let ours = timed(|| contest.ours(1))?;
    let peer = timed(|| contest.peer(1))?;
    let [output, expected] = contest.outputs();
    ensure!(
        output == expected,
        "ours wrote {output}, {} {expected}",
        row.peer
    );
    let repeats = |once: Duration| {
        let repeats = TURN.as_secs_f64() / once.as_secs_f64().max(1e-9);
        repeats.ceil().clamp(1.0, 1e6) as u32
    };
    // What a cold repetition took says little; a turn of them, more.
    let ours = timed(|| contest.ours(repeats(ours)))? / repeats(ours);
    let peer = timed(|| contest.peer(repeats(peer)))? / repeats(peer);
    let (ours_repeats, peer_repeats) = (repeats(ours), repeats(peer));

    let (mut turns, mut peer_turns, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    let started = Instant::now();
    while turns.len() < TURNS_MIN || (started.elapsed() < time && turns.len() < TURNS_MAX) {
        let ours = timed(|| contest.ours(ours_repeats))?.as_secs_f64() / f64::from(ours_repeats);
        let peer = timed(|| contest.peer(peer_repeats))?.as_secs_f64() / f64::from(peer_repeats);
        turns.push(ours);
        peer_turns.push(peer);
        ratios.push(peer / ours);
    }
    let [output, expected] = contest.outputs();
    ensure!(
        output == expected,
        "ours wrote {output}, {} {expected}",
        row.peer
    );
    let gigabytes = contest.user_bytes() as f64 / 1e9;
    figures.set_ratio(row, median(&mut ratios));
    figures.set_speeds(
        row,
        gigabytes / median(&mut turns),
        gigabytes / median(&mut peer_turns),
    );
    figures.set_output(row, &output);
    Ok(())
}

fn timed(work: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let started = Instant::now();
    work()?;
    Ok(started.elapsed())
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every row once, and as often as turns are needed: both sides agree at every level.
    #[test]
    fn every_row_is_measured_at_every_level() {
        for level in Level::available() {
            let options = Options {
                level: Some(level),
                only: ["encode_4k", "decode_4k", "rows_3", "seal", "packet", "tree"]
                    .map(str::to_owned)
                    .to_vec(),
                seconds: 0.0,
                json: false,
            };
            let run = std::thread::spawn(move || run(&options));
            let figures = run.join().unwrap().unwrap();
            let json = figures.json();
            for key in [
                "encode_4k_vs_stock",
                "decode_4k_vs_stock",
                "rows_3_gb_per_s",
                "seal_vs_aws_lc",
                "packet_vs_aws_lc",
                "tree_vs_blake3",
            ] {
                assert!(json[key].as_f64().unwrap() > 0.0, "{key}");
            }
            assert_eq!(json["level"], level.name());
            assert!(json.get("encode_16k_vs_stock").is_none());
        }
    }

    #[test]
    fn a_row_that_is_not_there_is_an_error() {
        let options = Options {
            level: None,
            only: vec!["decoding".to_owned()],
            seconds: 0.0,
            json: false,
        };
        let run = std::thread::spawn(move || run(&options));
        assert!(run.join().unwrap().is_err());
    }
}
