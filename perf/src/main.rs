//! `strand-perf`: Strand's programs together on one machine.
//!
//! `strand-perf demo` is the demo; `strand-perf part NAME ...` is one of the programs, which is how a local network
//! re-executes this file, so that building it is enough to run everything.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use strand_codec::{LEVEL_VARIABLE, Level};
use strand_perf::codec;
use strand_perf::demo::{self, Verdict};
use strand_perf::node;
use strand_perf::store;
use strand_perf::torture;

#[derive(Debug, Parser)]
#[command(name = "strand-perf", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Store a file on a network of real processes, damage it to the limit, and get it back
    Demo(demo::Options),
    /// Measure a piece store on a real disk against what the disk can do
    Store(store::Options),
    /// Measure the byte work of the codec against the stock crates
    Codec(codec::Options),
    /// Measure what a core of a node moves between network and disk, against tokio and quinn
    Node(node::Options),
    /// Prove that the store loses nothing: simulation, crash states, faults, kills, planted bugs
    Torture(torture::Options),
    /// Be one of the programs: piecestore, satellite or uplink
    #[command(hide = true)]
    Part {
        /// Which one
        name: String,
        /// Its arguments
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
}

fn main() -> ExitCode {
    // A part sees its own arguments before any parser of ours does, `--help` included.
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|first| first == "part") {
        let name = arguments.next().unwrap_or_default();
        return part(&name.to_string_lossy(), arguments.collect());
    }
    let command = Cli::parse().command;
    if let Err(error) = Level::of_process() {
        eprintln!("strand-perf: {LEVEL_VARIABLE}: {error}");
        return ExitCode::from(2);
    }
    match command {
        Command::Demo(options) => run_demo(&options),
        Command::Store(options) => run_store(&options),
        Command::Codec(options) => run_codec(&options),
        Command::Node(options) => run_node(&options),
        Command::Torture(options) => run_torture(&options),
        Command::Part { name, arguments } => part(&name, arguments),
    }
}

fn part(name: &str, arguments: Vec<OsString>) -> ExitCode {
    match name {
        "piecestore" => piecestore::cli_main(arguments),
        "satellite" => satellite::cli_main(arguments),
        "uplink" => {
            let named = std::iter::once(OsString::from("uplink")).chain(arguments);
            // Its threads may still wait for input: leaving ends them.
            std::process::exit(uplink::cli_main(named))
        }
        "ward" => end_of(name, torture::ward_main(&arguments)),
        "subject" => end_of(name, node::subject_main(&arguments)),
        "crowd" => end_of(name, node::crowd_main(&arguments)),
        "load" => end_of(name, node::load_main(&arguments)),
        "patient" => end_of(name, torture::patient_main(&arguments)),
        _ => {
            eprintln!(
                "strand-perf: there is no part `{name}`; there are piecestore, satellite and uplink"
            );
            ExitCode::from(2)
        }
    }
}

fn end_of(name: &str, ended: anyhow::Result<()>) -> ExitCode {
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{name}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run_store(options: &store::Options) -> ExitCode {
    say(
        options.json,
        store::run(options),
        store::Figures::json,
        store::Figures::table,
    )
}

fn run_codec(options: &codec::Options) -> ExitCode {
    say(
        options.json,
        codec::run(options),
        codec::Figures::json,
        codec::Figures::table,
    )
}

fn run_node(options: &node::Options) -> ExitCode {
    say(
        options.json,
        node::run(options),
        node::Figures::json,
        node::Figures::table,
    )
}

/// Prints what was measured, or why nothing was.
fn say<T>(
    in_json: bool,
    figures: anyhow::Result<T>,
    json: fn(&T) -> serde_json::Value,
    table: fn(&T) -> String,
) -> ExitCode {
    match figures {
        Ok(figures) if in_json => println!("{}", json(&figures)),
        Ok(figures) => println!("{}", table(&figures)),
        Err(error) => return say_why(&error, in_json),
    }
    ExitCode::SUCCESS
}

fn run_torture(options: &torture::Options) -> ExitCode {
    let outcome = match torture::run(options) {
        Ok(outcome) => outcome,
        Err(error) => return say_why(&error, options.json),
    };
    if options.json {
        println!("{}", outcome.json());
    } else {
        println!("{}", outcome.table());
    }
    ExitCode::from(u8::from(!outcome.is_good()))
}

/// What could not be run at all, for people and, if wanted, for programs.
fn say_why(error: &anyhow::Error, is_json: bool) -> ExitCode {
    let reason = format!("{error:#}");
    if is_json {
        println!("{}", serde_json::json!({ "reason": reason }));
    }
    eprintln!("strand-perf: {reason}");
    ExitCode::FAILURE
}

fn run_demo(options: &demo::Options) -> ExitCode {
    let ran = std::env::current_exe()
        .map_err(anyhow::Error::from)
        .and_then(|program| demo::run(program, options));
    match ran {
        Ok(Verdict::Verified) => ExitCode::SUCCESS,
        Ok(Verdict::Failed) => ExitCode::FAILURE,
        Err(error) => {
            let reason = format!("{error:#}");
            if options.json {
                println!(
                    "{}",
                    serde_json::json!({ "verified": false, "reason": reason })
                );
            } else {
                println!("FAILED: {reason}");
            }
            ExitCode::FAILURE
        }
    }
}
