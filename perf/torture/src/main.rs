//! `strand-torture`: the hunt for planted bugs, and simulated nodes by themselves. All proofs together are `strand-perf torture`.
//!
//! ```text
//! strand-torture sim --seed S [--seeds N]       whole nodes in virtual time, and how fast that was; --astray 1 lets writes go astray in each,
//!                                               --long 1 gives each a long life
//! strand-torture hunt NAME [--seconds T]        looks for the planted bug NAME, in a build with the feature `planted-bugs`
//! strand-torture hunts [--binary PATH]          hunts them all with that binary, or with one that it builds in target/torture
//! strand-torture bugs                           lists the planted bugs
//! ```
//!
//! Each prints one line of JSON. The code is 0 if nothing was violated, of a hunt if the bug was caught; 1 if not; 2 if the command is wrong.
//! `STRAND_TORTURE_TRACE=1` tells what happened in a run from a seed.

use std::path::Path;
use std::process::ExitCode;

#[cfg(feature = "node")]
use anyhow::Context;
use strand_torture::bugs;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("strand-torture: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(arguments: &[String]) -> anyhow::Result<ExitCode> {
    bugs::check_picked()?;
    let (command, rest) = arguments
        .split_first()
        .ok_or_else(|| anyhow::anyhow!("say what to do: sim, hunt, hunts or bugs"))?;
    let number = |name: &str, usual: u64| -> anyhow::Result<u64> {
        let Some(at) = rest.iter().position(|argument| argument == name) else {
            return Ok(usual);
        };
        let text = rest.get(at + 1).map_or("", String::as_str);
        text.parse()
            .map_err(|_| anyhow::anyhow!("{name} needs a number, not {text:?}"))
    };
    match command.as_str() {
        #[cfg(feature = "node")]
        "sim" => {
            strand_codec::Level::of_process().context(strand_codec::LEVEL_VARIABLE)?;
            let first = number("--seed", 0)?;
            let are_long = number("--long", 0)? > 0;
            let go_astray = number("--astray", 0)? > 0;
            let options = move |seed| strand_torture::node::NodeOptions {
                writes_go_astray: go_astray,
                ..if are_long {
                    strand_torture::node::NodeOptions::default()
                } else {
                    strand_torture::node::NodeOptions::of_seed(seed)
                }
            };
            simulate(first..first + number("--seeds", 1)?, options)
        }
        "bugs" => {
            println!("{}", serde_json::to_string(&bugs::list())?);
            Ok(ExitCode::SUCCESS)
        }
        "hunt" => {
            let name = rest.first().map_or("", String::as_str);
            let hunt = bugs::hunt(name, number("--seconds", 20)?)?;
            println!("{}", serde_json::to_string(&hunt)?);
            Ok(ExitCode::from(u8::from(!hunt.is_caught)))
        }
        "hunts" => {
            let binary = rest.iter().position(|argument| argument == "--binary");
            let hunts = match binary.and_then(|at| rest.get(at + 1)) {
                Some(binary) => bugs::hunt_all(Path::new(binary))?,
                None => bugs::build_and_hunt_all(&std::env::current_dir()?)?,
            };
            println!("{}", serde_json::to_string(&hunts)?);
            let is_good = hunts.uncaught.is_empty() && hunts.control.is_empty();
            Ok(ExitCode::from(u8::from(!is_good)))
        }
        other => anyhow::bail!("there is no command {other:?}"),
    }
}

/// Whole nodes' lives. What one finds is told at once.
#[cfg(feature = "node")]
fn simulate(
    seeds: std::ops::Range<u64>,
    options: impl Fn(u64) -> strand_torture::node::NodeOptions,
) -> anyhow::Result<ExitCode> {
    let begun = std::time::Instant::now();
    let mut all = strand_torture::Tally::default();
    for seed in seeds {
        let (tally, hash) = strand_torture::node::run(seed, &options(seed));
        if !tally.violations.is_empty() {
            eprintln!("seed {seed}, hash {hash:016x}: {:#?}", tally.violations);
        }
        all.merge(tally);
    }
    let simulated_ms = all.counts.get("sim_ms").copied().unwrap_or_default();
    let speedup = simulated_ms as f64 / 1_000.0 / begun.elapsed().as_secs_f64();
    eprintln!("{speedup:.0} times real time");
    println!("{}", serde_json::to_string(&all)?);
    Ok(ExitCode::from(u8::from(!all.violations.is_empty())))
}
