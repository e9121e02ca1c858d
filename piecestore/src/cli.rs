//! The command line: `piecestore setup`, `run`, `status`, `space`, `verify`, `scrub`, `compact`, `rebuild-index`, `move-dir`, `restore-trash`.
//!
//! [`cli_main`] is the whole program, so that others can be this program: a test network starts itself again as a node.
//! Errors are one sentence on standard error with the next step in it; exit code 1 for those, 2 for a misspelt command.

use std::ffi::OsString;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Args, Parser, Subcommand};
use strand_codec::{LEVEL_VARIABLE, Level};
use strand_protocol::NodeId;

use crate::admin::{self, AskError};
use crate::config::{self, Capacity, Config, ConfigError, HostPort, SatelliteAddress};
use crate::core::{IO_VARIABLE, IoChoice};
use crate::directory::{Choices, Directory, DirectoryError, file_system_bytes};
use crate::limits::{CONNECTION_BUDGET_BYTES_MIN, NODES_MAX, WRITE_BUDGET_BYTES_MIN};
use crate::move_dir::{self, MoveError};
use crate::offline_store::{self, OfflineError};
use crate::process::{self, Line, ProcessError, ProcessOptions};
use crate::scrub;
use crate::space::{self, SpaceError};
use crate::status::{for_people, human_bytes};
use crate::verify::{self, VerifyError};

/// A Strand storage node: stores encrypted pieces for others and never sees what is in them.
#[derive(Debug, Parser)]
#[command(
    name = "piecestore",
    version,
    arg_required_else_help = true,
    after_help = "A node is a directory on one disk. To run one:\n\
                  \n  1. Ask whoever runs the satellite for its NODEID@HOST:PORT (`satellite status` prints it).\
                  \n  2. Forward a UDP port, 7778 by default, from the router to this machine.\
                  \n  3. piecestore setup --dir /volume1/strand --satellite NODEID@HOST:PORT --capacity 2TB\
                  \n  4. piecestore run --dir /volume1/strand\
                  \n\nA process can serve many nodes: give --dir more than once, one for each disk. Keep a copy of identity.key \
                  of each: without it the pieces are lost.\n\nLogs go to standard error; RUST_LOG=debug shows more."
)]
struct Command {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make a directory into a node's: identity, settings, an empty store.
    Setup(Setup),
    /// Serve one node or several, until SIGTERM or Ctrl-C.
    Run(Run),
    /// Say how a node is that runs on this machine.
    Status(StatusOptions),
    /// Say where a node's disk space went, to the byte; works whether it runs or not.
    Space(SpaceOptions),
    /// Read everything that a stopped node has, and say what is wrong and what it costs; changes nothing.
    #[command(
        after_help = "The exit code is 0 only if nothing is wrong. Progress goes to standard error. \
                      It may be interrupted at any moment."
    )]
    Verify(VerifyOptions),
    /// Read everything that a node has stored, once and now, and say which pieces are damaged; of a running node or of a stopped one.
    #[command(
        after_help = "A running node reads everything within 30 days by itself. This does it at once: after an error of the disk, say, or \
                      a power cut. Every piece is compared with its checksums; one that fails is read again before it is believed, \
                      and is then out of service.\n\n\
                      A running node does the work itself, goes on serving, and goes on with it if this command is interrupted; \
                      its log names the damaged pieces, and the satellite hears of them. A stopped node's are printed here, and only here: scrub \
                      again once the node runs. `verify` looks at more, of a stopped node only, and changes nothing at all.\n\n\
                      The exit code is 0 only if everything was read, and no piece and no blob's header or footer is damaged. Progress goes to \
                      standard error. It may be interrupted at any moment."
    )]
    Scrub(DirectoryOptions),
    /// Give the space of deleted pieces back to the disk now, of a running node or of a stopped one.
    #[command(
        after_help = "A node does this by itself, at most half of the time; this does it at once and at full speed. Blobs of which at \
                      most 60 % is still wanted are written anew and removed, one after another; some room for one blob is needed.\n\n\
                      A running node does the work itself, and goes on if this command is interrupted. Of a stopped node nothing \
                      expires, because satellite time is not known. It may be interrupted at any moment."
    )]
    Compact(DirectoryOptions),
    /// Read the blobs of a stopped node anew, and forget what was remembered of them.
    #[command(
        after_help = "The index is a cache of what the blobs say. A node reads it from them by itself where it must; this is for when you \
                      doubt it. Pieces are not touched. It may be interrupted at any moment."
    )]
    RebuildIndex(DirectoryOptions),
    /// Move a stopped node to another disk: copies it, compares every file, and marks the old directory as moved.
    #[command(
        after_help = "Each blob is read back after it was written and compared (BLAKE3). Blocks that the old disk cannot read become zeros \
                      and cost the pieces in them alone; they are counted.\n\nThe new directory starts only after the old one has been marked, so \
                      that never both can: two nodes with one identity would lose each other's pieces. It may be interrupted at any moment; the \
                      same command goes on where it was. Until the last step the old directory is the node's and may be run."
    )]
    MoveDir(MoveOptions),
    /// Bring back everything that garbage collection put into the trash of a running node.
    #[command(
        name = "restore-trash",
        long_about = "Bring back everything that garbage collection put into the trash of a running node.\n\n\
                      The satellite says which pieces a node should hold; the others go into the trash, where they stay for 7 days. \
                      This undoes that, for when the satellite was wrong. The next collection trashes again what is still not wanted."
    )]
    RestoreTrash(RestoreOptions),
}

#[derive(Debug, Args)]
struct RestoreOptions {
    /// The node's directory.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// One JSON object: how many pieces came back.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct Setup {
    /// The node's directory, on the disk that it is to fill; made if it is not there.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// The satellite to work for.
    #[arg(long, value_name = "NODEID@HOST:PORT")]
    satellite: SatelliteAddress,
    /// Disk space to offer, everything counted: 500GB, 2TB, 1.5TiB.
    #[arg(long, value_name = "SIZE")]
    capacity: Capacity,
    /// Where to listen (UDP).
    #[arg(long, value_name = "IP:PORT", default_value = "0.0.0.0:7778", value_parser = config::parse_listen)]
    listen: SocketAddr,
    /// Under which address others reach this node, if it is not the one that it calls from.
    #[arg(long, value_name = "HOST:PORT")]
    advertise: Option<HostPort>,
}

#[derive(Debug, Args)]
struct Run {
    /// A node's directory; more than once for several nodes.
    #[arg(long, value_name = "DIR", required = true)]
    dir: Vec<PathBuf>,
    /// How many CPU cores to use; nodes are spread over them. One by default for each node, up to the machine's.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    cores: Option<u16>,
    /// Memory for pieces being received, for each core. Uploads that find it full are told to come back later.
    #[arg(long, value_name = "SIZE", default_value = "64MiB", value_parser = parse_write_buffer)]
    write_buffer: u64,
    /// Memory that connections may hold beside that, for each core: room for 3,300 that are idle or ask little, or for 250 that move
    /// large pieces. When it is short, those without a body on its way are closed for others.
    #[arg(long, value_name = "SIZE", default_value = "384MiB", value_parser = parse_connection_buffer)]
    connection_buffer: u64,
    /// Take the disks for spinning ones, whatever the kernel or node.toml (`spinning = true`) say: fewer places to append at.
    #[arg(long, conflicts_with = "no_spinning")]
    spinning: bool,
    /// Take the disks for ones that do not spin.
    #[arg(long)]
    no_spinning: bool,
    /// What to move bytes with: io_uring, plain system calls, or io_uring where the kernel and the container allow it. By default what the
    /// variable STRAND_IO says, else `auto`.
    #[arg(long, value_enum, value_name = "HOW")]
    io: Option<IoChoice>,
    /// Answer Prometheus at http://ADDRESS/metrics.
    #[arg(long, value_name = "ADDRESS", num_args = 0..=1, default_missing_value = METRICS_DEFAULT)]
    metrics: Option<SocketAddr>,
}

/// Where `--metrics` alone answers: nobody else's in the list of Prometheus' default ports, and on this machine only.
const METRICS_DEFAULT: &str = "127.0.0.1:7780";

#[derive(Debug, Args)]
struct StatusOptions {
    /// The node's directory.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// One JSON object with every counter.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct SpaceOptions {
    /// The node's directory.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// One JSON object with every figure in bytes.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct DirectoryOptions {
    /// The node's directory.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// One JSON object with every figure.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct MoveOptions {
    /// The directory to move. The node must not run.
    #[arg(value_name = "FROM")]
    from: PathBuf,
    /// Where to: a directory that is empty or not there yet.
    #[arg(value_name = "TO")]
    to: PathBuf,
    /// Remove the old directory once everything is done; also of a move that was done before.
    #[arg(long)]
    remove: bool,
    /// One JSON object with every figure.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct VerifyOptions {
    /// The node's directory. The node must not run.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// One JSON object: figures, lost pieces, faults.
    #[arg(long)]
    json: bool,
}

/// Why a command failed. Each message is one sentence with the next step in it.
#[derive(Debug, thiserror::Error)]
enum CliError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    #[error(transparent)]
    Process(#[from] ProcessError),
    #[error(transparent)]
    Ask(#[from] AskError),
    #[error("node {node_id} is not running; `piecestore run --dir {path}` starts it")]
    NotRunning { node_id: NodeId, path: PathBuf },
    #[error("the trash is still being brought back; the node's log says when that is done")]
    RestoreSlow,
    #[error("the node cannot answer: {0}")]
    Answer(String),
    #[error("{count} nodes in one process are too many; run at most {NODES_MAX} in each")]
    TooManyNodes { count: usize },
    #[error(transparent)]
    Space(#[from] SpaceError),
    #[error(transparent)]
    Verify(#[from] VerifyError),
    #[error(transparent)]
    Offline(#[from] OfflineError),
    #[error(transparent)]
    Move(#[from] MoveError),
    #[error("cannot print: {0}")]
    Print(#[from] std::io::Error),
}

/// Runs the program. `args` is what follows the program's name.
pub fn cli_main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args = std::iter::once(OsString::from("piecestore")).chain(args);
    let command = match Command::try_parse_from(args) {
        Ok(command) => command,
        Err(error) => {
            // Help goes to standard output with code 0, mistakes to standard error with code 2.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    if let Err(error) = Level::of_process() {
        let _ = print_error(&format!("{LEVEL_VARIABLE}: {error}"));
        return ExitCode::from(2);
    }
    if let Err(error) = IoChoice::of_environment() {
        let _ = print_error(&format!("{IO_VARIABLE}: {error}"));
        return ExitCode::from(2);
    }
    let is_good = |()| true;
    let result = match command.verb {
        Verb::Setup(options) => set_up(options).map(is_good),
        Verb::Run(options) => run(options).map(is_good),
        Verb::Status(options) => status(&options).map(is_good),
        Verb::Space(options) => space(&options).map(is_good),
        Verb::Compact(options) => compact(&options).map(is_good),
        Verb::RebuildIndex(options) => rebuild_index(&options).map(is_good),
        Verb::MoveDir(options) => move_dir(&options).map(is_good),
        Verb::Verify(options) => verify(&options),
        Verb::Scrub(options) => scrub(&options),
        Verb::RestoreTrash(options) => restore_trash(&options).map(is_good),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        // The command has said what is wrong.
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            let _ = print_error(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

fn set_up(options: Setup) -> Result<(), CliError> {
    let Setup {
        dir,
        satellite,
        capacity,
        listen,
        advertise,
    } = options;
    let config = Directory::set_up(
        &dir,
        Choices {
            satellite,
            capacity,
            listen,
            advertise,
        },
    )?;
    print_line(&format!(
        "node {} is set up in {}",
        config.node_id,
        dir.display()
    ))?;
    if let Ok((free, total)) = file_system_bytes(&dir)
        && capacity.bytes() > free
    {
        let (free, total) = (human_bytes(free), human_bytes(total));
        print_line(&format!(
            "note: {capacity} is more than this disk has free: {free} of {total}"
        ))?;
    }
    print_line(&format!(
        "keep a copy of {}: without it the node's pieces are lost",
        dir.join("identity.key").display()
    ))?;
    print_line(&format!(
        "next: forward UDP port {} to this machine, then `piecestore run --dir {}`",
        listen.port(),
        dir.display()
    ))
}

fn run(options: Run) -> Result<(), CliError> {
    if options.dir.len() > NODES_MAX {
        return Err(CliError::TooManyNodes {
            count: options.dir.len(),
        });
    }
    log_to_standard_error();
    let machine_cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let options = ProcessOptions {
        core_count: options
            .cores
            .map_or(machine_cores, usize::from)
            .min(options.dir.len()),
        directories: options.dir,
        write_budget_bytes: options.write_buffer,
        connection_budget_bytes: options.connection_buffer,
        spinning: match (options.spinning, options.no_spinning) {
            (false, false) => None,
            (spinning, _) => Some(spinning),
        },
        io: options
            .io
            .unwrap_or_else(|| IoChoice::of_environment().unwrap_or_default()),
        metrics: options.metrics,
    };
    process::run(&options, |line| {
        // If nobody reads the lines any more, the node serves all the same.
        let _ = match line {
            Line::Opening(line) | Line::Serving(line) => print_line(line),
            Line::Failed(line) => print_error(line),
        };
    })?;
    Ok(())
}

/// Asks the process that serves a directory; the answer as it came, and parsed.
fn ask_node(dir: &Path, question: &str) -> Result<(String, serde_json::Value), CliError> {
    // Before the socket: a directory that is none should be called so.
    let config = Config::load(dir)?;
    let json = match admin::ask(dir, question) {
        Ok(json) => json,
        Err(AskError::NotRunning(path)) => {
            return Err(CliError::NotRunning {
                node_id: config.node_id,
                path,
            });
        }
        Err(error) => return Err(error.into()),
    };
    let answer: serde_json::Value =
        serde_json::from_str(&json).map_err(|error| CliError::Answer(error.to_string()))?;
    match answer.get("error").and_then(serde_json::Value::as_str) {
        Some(error) => Err(CliError::Answer(error.to_owned())),
        None => Ok((json, answer)),
    }
}

fn restore_trash(options: &RestoreOptions) -> Result<(), CliError> {
    let (_, begun) = ask_node(&options.dir, "restore-trash")?;
    let question = format!("restored {}", begun["number"]);
    let began = Instant::now();
    let (json, answer) = loop {
        let (json, answer) = ask_node(&options.dir, &question)?;
        if answer.get("waiting").is_none() {
            break (json, answer);
        }
        if began.elapsed() > RESTORE_WAIT {
            return Err(CliError::RestoreSlow);
        }
        std::thread::sleep(RESTORE_LOOK_PERIOD);
    };
    if options.json {
        print_line(&json)
    } else {
        print_line(&format!(
            "{} pieces came back from the trash",
            answer["restored"]
        ))
    }
}

/// How long `restore-trash` waits, and how often it looks.
const RESTORE_WAIT: Duration = Duration::from_secs(3_600);
const RESTORE_LOOK_PERIOD: Duration = Duration::from_millis(100);

fn status(options: &StatusOptions) -> Result<(), CliError> {
    let (json, status) = ask_node(&options.dir, "status")?;
    if options.json {
        print_line(&json)
    } else {
        print_text(&for_people(&status))
    }
}

fn space(options: &SpaceOptions) -> Result<(), CliError> {
    let report = space::measure(&options.dir)?;
    if options.json {
        print_json(&report)
    } else {
        print_text(&report.for_people())
    }
}

/// Whether nothing is wrong.
fn verify(options: &VerifyOptions) -> Result<bool, CliError> {
    let report = verify::check(&options.dir)?;
    print_report(options.json, &report, || report.for_people())?;
    Ok(report.ok)
}

/// Whether nothing is damaged.
fn scrub(options: &DirectoryOptions) -> Result<bool, CliError> {
    let report = scrub::scrub(&options.dir)?;
    print_report(options.json, &report, || report.for_people())?;
    Ok(report.ok)
}

fn compact(options: &DirectoryOptions) -> Result<(), CliError> {
    let report = offline_store::compact(&options.dir)?;
    print_report(options.json, &report, || report.for_people())
}

fn rebuild_index(options: &DirectoryOptions) -> Result<(), CliError> {
    let report = offline_store::rebuild_index(&options.dir)?;
    print_report(options.json, &report, || report.for_people())
}

fn move_dir(options: &MoveOptions) -> Result<(), CliError> {
    let report = move_dir::move_dir(&options.from, &options.to, options.remove)?;
    print_report(options.json, &report, || report.for_people())
}

fn print_report(
    json: bool,
    report: &impl serde::Serialize,
    for_people: impl FnOnce() -> String,
) -> Result<(), CliError> {
    if json {
        print_json(report)
    } else {
        print_text(&for_people())
    }
}

fn print_json(value: &impl serde::Serialize) -> Result<(), CliError> {
    let json = serde_json::to_string(value).map_err(std::io::Error::from)?;
    print_line(&json)
}

fn parse_write_buffer(text: &str) -> Result<u64, String> {
    parse_buffer(text, WRITE_BUDGET_BYTES_MIN)
}

fn parse_connection_buffer(text: &str) -> Result<u64, String> {
    parse_buffer(text, CONNECTION_BUDGET_BYTES_MIN)
}

fn parse_buffer(text: &str, bytes_min: u64) -> Result<u64, String> {
    let bytes = config::parse_size(text)
        .ok_or_else(|| format!("{text:?} is not a size: write it like 64MiB"))?;
    if bytes < bytes_min {
        return Err(format!(
            "{text} is too small: a core needs at least {}MiB",
            bytes_min >> 20
        ));
    }
    Ok(bytes)
}

fn log_to_standard_error() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    // Another subscriber may be there already when this program runs inside another.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .try_init();
}

fn print_line(line: &str) -> Result<(), CliError> {
    print_text(&format!("{line}\n"))
}

fn print_error(line: &str) -> Result<(), CliError> {
    Ok(writeln!(std::io::stderr(), "error: {line}")?)
}

fn print_text(text: &str) -> Result<(), CliError> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Command::command().debug_assert();
    }

    #[test]
    fn a_write_buffer_must_hold_two_of_the_longest_pieces() {
        assert_eq!(parse_write_buffer("64MiB"), Ok(64 << 20));
        assert!(parse_write_buffer("8MiB").is_err());
        assert!(parse_write_buffer("lots").is_err());
    }
}
