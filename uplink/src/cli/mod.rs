//! The `uplink` command: arguments in, exit code out.
//!
//! - `args`: what can be said.
//! - `access`: making and choosing accesses.
//! - `copy`: `cp`.
//! - `manage`: everything else.
//! - `show`: progress, units, JSON.
//! - `meter`: what this process has used.
//!
//! Results go to standard output, everything else to standard error. With `--json` standard output
//! is exactly one JSON object, also for a failure: `{"error": {"exit": 3, "message": ".."}}`.

mod access;
mod args;
mod copy;
mod manage;
mod meter;
mod show;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser as _;
use strand_codec::{LEVEL_VARIABLE, Level};

use crate::access::AccessStore;
use crate::cancel::{Cancel, Canceller, cancel_pair};
use crate::error::{AccessError, DownloadError, Exit, ManageError, NameError, UploadError};
use crate::session::Session;

use args::{Args, Command};

/// Runs the command with these arguments, the first of which is the program's name. Returns the
/// exit code.
///
/// Makes its own runtime; must not be called inside one. Threads that wait for input may outlive
/// it: the caller should exit.
pub fn cli_main<I, T>(arguments: I) -> i32
where
    I: IntoIterator<Item = T>,
    T: Into<OsString> + Clone,
{
    let args = match Args::try_parse_from(arguments) {
        Ok(args) => args,
        Err(error) => {
            // Fails only if nobody reads it.
            let _ = error.print();
            return error.exit_code();
        }
    };
    start_log();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("uplink: cannot start: {error}");
            return Exit::Failure as i32;
        }
    };
    let is_json = args.json;
    let outcome = runtime.block_on(Box::pin(run(args)));
    runtime.shutdown_background();
    match outcome {
        Ok(()) => Exit::Ok as i32,
        Err(failure) => {
            eprintln!("uplink: {}", failure.message);
            if is_json {
                let error =
                    serde_json::json!({ "exit": failure.exit as i32, "message": failure.message });
                show::print_json(&serde_json::json!({ "error": error }));
            }
            failure.exit as i32
        }
    }
}

/// What a command fails with.
struct Failure {
    exit: Exit,
    message: String,
}

macro_rules! failures {
    ($($error:ty),*) => {$(
        impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                Self { exit: error.exit(), message: error.to_string() }
            }
        }
    )*};
}

failures!(
    AccessError,
    UploadError,
    DownloadError,
    ManageError,
    NameError,
    crate::error::CallError
);

impl Failure {
    fn usage(message: impl Into<String>) -> Self {
        Self {
            exit: Exit::Usage,
            message: message.into(),
        }
    }
}

async fn run(args: Args) -> Result<(), Failure> {
    Level::of_process().map_err(|error| Failure::usage(format!("{LEVEL_VARIABLE}: {error}")))?;
    let (canceller, cancel) = cancel_pair();
    let signals = tokio::spawn(watch_signals(canceller));
    let options = args.options();
    let outcome = match args.command {
        Command::Access(command) => or_interrupted(&cancel, access::run(command, &options)).await,
        Command::Cp(command) => copy::run(command, &options, cancel).await,
        command => or_interrupted(&cancel, manage::run(command, &options)).await,
    };
    signals.abort();
    outcome
}

/// Commands that change nothing half: dropping them is stopping them.
async fn or_interrupted(
    cancel: &Cancel,
    command: impl Future<Output = Result<(), Failure>>,
) -> Result<(), Failure> {
    tokio::select! {
        outcome = command => outcome,
        () = cancel.cancelled() => {
            Err(Failure { exit: Exit::Interrupted, message: "interrupted".to_owned() })
        }
    }
}

/// The first signal asks for an orderly stop, the second one ends at once.
async fn watch_signals(canceller: Canceller) {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate)) = (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
    ) else {
        return;
    };
    for count in 0.. {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        if count > 0 {
            std::process::exit(Exit::Interrupted as i32);
        }
        canceller.cancel();
    }
}

/// The session of the chosen access.
fn open_session(options: &args::Options) -> Result<std::sync::Arc<Session>, Failure> {
    let grant = AccessStore::of_user()?.load(options.access.as_deref())?;
    Ok(if options.is_jumbo {
        Session::open_with_jumbo_datagrams(grant)?
    } else {
        Session::open(grant)?
    })
}

fn start_log() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("STRAND_LOG");
    if let Ok(filter) = filter {
        // Set already when several commands run in one process.
        let _ = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(std::io::stderr)
            .try_init();
    }
}

/// For a `main` that returns.
impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as i32 as u8)
    }
}
