//! `strand-torture`: the proofs of the store, one at a time, and the hunt for a planted bug.
//!
//! ```text
//! strand-torture store --seed S [--seeds N]     runs of the store from seeds
//! strand-torture sim --seed S [--seeds N]       whole nodes in virtual time, and how fast that was
//! strand-torture states [--seed S] [--seeds N]  every state that a crash could leave
//! strand-torture sweep [--every N]              a fault at every operation
//! strand-torture rot [--seed S] [--every N]     damage to bytes at rest, and forged records; --part NAME for one kind
//! strand-torture hunt NAME [--seconds T]        looks for the planted bug NAME, in a build with the feature `planted-bugs`
//! strand-torture hunts [--binary PATH]          hunts them all with that binary, or with one that it builds in target/torture
//! strand-torture bugs                           lists the planted bugs
//! ```
//!
//! Each prints one line of JSON. The code is 0 if nothing was violated, of a hunt if the bug was caught; 1 if not; 2 if the command is wrong.
//! `STRAND_TORTURE_TRACE=1` tells every step of a `store` run.

use std::path::Path;
use std::process::ExitCode;

use strand_torture::Tally;
use strand_torture::bugs;
use strand_torture::store::{forged, rot, seeds, states, sweep};

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
    let (command, rest) = arguments.split_first().ok_or_else(|| {
        anyhow::anyhow!("say what to do: store, sim, states, sweep, rot, hunt, hunts or bugs")
    })?;
    let number = |name: &str, usual: u64| -> anyhow::Result<u64> {
        let Some(at) = rest.iter().position(|argument| argument == name) else {
            return Ok(usual);
        };
        let text = rest.get(at + 1).map_or("", String::as_str);
        text.parse()
            .map_err(|_| anyhow::anyhow!("{name} needs a number, not {text:?}"))
    };
    let first = number("--seed", 0)?;
    let mut tally = Tally::default();
    match command.as_str() {
        "store" => {
            for seed in first..first + number("--seeds", 1)? {
                tally.merge(seeds::run(seed));
            }
        }
        #[cfg(feature = "node")]
        "sim" => {
            let begun = std::time::Instant::now();
            for seed in first..first + number("--seeds", 1)? {
                tally.merge(simulate(seed));
            }
            let simulated_ms = tally.counts.get("sim_ms").copied().unwrap_or_default();
            let speedup = simulated_ms as f64 / 1_000.0 / begun.elapsed().as_secs_f64();
            eprintln!("{speedup:.0} times real time");
        }
        "states" => {
            for seed in first..first + number("--seeds", 1)? {
                tally.merge(states::run(seed, states::Syncs::Honoured));
            }
        }
        "sweep" => tally = sweep::run(number("--every", 1)?, first),
        "rot" => {
            let part = rest.iter().position(|argument| argument == "--part");
            if let Some(name) = part.and_then(|at| rest.get(at + 1)) {
                tally = rot::run_part(first, name);
            } else {
                tally = rot::run_thinned(first, number("--every", 1)?);
                tally.merge(forged::run(first));
            }
        }
        "bugs" => {
            println!("{}", serde_json::to_string(&bugs::list())?);
            return Ok(ExitCode::SUCCESS);
        }
        "hunt" => {
            let name = rest.first().map_or("", String::as_str);
            let hunt = bugs::hunt(name, number("--seconds", 20)?)?;
            println!("{}", serde_json::to_string(&hunt)?);
            return Ok(ExitCode::from(u8::from(!hunt.is_caught)));
        }
        "hunts" => {
            let binary = rest.iter().position(|argument| argument == "--binary");
            let hunts = match binary.and_then(|at| rest.get(at + 1)) {
                Some(binary) => bugs::hunt_all(Path::new(binary))?,
                None => bugs::build_and_hunt_all(&std::env::current_dir()?)?,
            };
            println!("{}", serde_json::to_string(&hunts)?);
            let is_good = hunts.uncaught.is_empty() && hunts.control.is_empty();
            return Ok(ExitCode::from(u8::from(!is_good)));
        }
        other => anyhow::bail!("there is no command {other:?}"),
    }
    println!("{}", serde_json::to_string(&tally)?);
    Ok(ExitCode::from(u8::from(!tally.violations.is_empty())))
}

/// A whole node's life. What it finds is told at once.
#[cfg(feature = "node")]
fn simulate(seed: u64) -> Tally {
    let options = strand_torture::node::NodeOptions::default();
    let (tally, hash) = strand_torture::node::run(seed, &options);
    if !tally.violations.is_empty() {
        eprintln!("seed {seed}, hash {hash:016x}: {:#?}", tally.violations);
    }
    tally
}
