//! The command line. Text goes to standard output, logs and errors to standard error.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use serde_json::Value;
use strand_codec::{LEVEL_VARIABLE, Level};
use strand_protocol::Scheme;
use strand_protocol::limits as shared;
use tokio::signal::unix::{SignalKind, signal};

use crate::admin::{self, AdminError, Request};
use crate::config::{self, Directory, SetupOptions};
use crate::gc::GcOptions;
use crate::run::{RunOptions, Running};
use crate::store::{MetaStore, OpenError};

/// Run a Strand satellite: the part of a network that keeps metadata and hands out permission.
///
/// It never sees a key, a name or a byte of content. To start a network:
///
///   satellite setup --dir /srv/satellite --advertise satellite.example.org:7777
///   satellite run --dir /srv/satellite
///   satellite project create photos --dir /srv/satellite
///
/// The last command prints an invitation: whoever has it owns the project. Nodes join with
/// `piecestore setup --satellite NODEID@HOST:PORT`; `run` prints that address when it is ready.
#[derive(Parser)]
#[command(name = "satellite", version, verbatim_doc_comment)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make a new satellite: its identity, its master key and its empty store.
    Setup(Setup),
    /// Run the satellite until SIGTERM or SIGINT.
    Run(Run),
    /// Manage projects.
    #[command(subcommand)]
    Project(Project),
    /// Look at nodes.
    #[command(subcommand)]
    Node(Node),
    /// Collect garbage now, and show how it went.
    ///
    /// A satellite does this by itself once a day: it walks its segments and makes for every node a
    /// filter of the pieces that the node should hold. Nodes fetch it after their next check-in and
    /// move everything else that is old enough to their trash, where it stays for 7 days.
    Gc(Gc),
    /// Show how the running satellite is doing.
    Status(Show),
}

#[derive(Args)]
struct Setup {
    /// Directory to make; it must not hold a satellite yet.
    #[arg(long, env = "STRAND_SATELLITE_DIR", value_name = "DIR")]
    dir: PathBuf,
    /// UDP address to listen on; port 0 takes any free port at each start.
    #[arg(long, default_value = "0.0.0.0:7777", value_name = "ADDRESS:PORT")]
    listen: SocketAddr,
    /// Address that nodes and clients are given. Default: the address listened on, or this
    /// machine's own where that is 0.0.0.0.
    #[arg(long, value_name = "HOST:PORT")]
    advertise: Option<String>,
    /// Pieces of each segment: required/repair/optimal/total. Default: chosen for each upload by
    /// the number of networks that nodes are on, 29/52/80/93 from 93 networks on.
    #[arg(long, value_name = "K/R/O/N")]
    scheme: Option<Scheme>,
}

#[derive(Args)]
struct Run {
    /// Directory that `setup` made.
    #[arg(long, env = "STRAND_SATELLITE_DIR", value_name = "DIR")]
    dir: PathBuf,
    /// Pieces of each segment, in place of what `setup` was told.
    #[arg(long, value_name = "K/R/O/N")]
    scheme: Option<Scheme>,
    /// Hours from one garbage collection to the next.
    #[arg(long, value_name = "HOURS", default_value = "24", value_parser = clap::value_parser!(u32).range(1..=720))]
    gc_hours: u32,
}

#[derive(Args)]
struct Gc {
    /// Only show how the last collection went.
    #[arg(long)]
    last: bool,
    #[command(flatten)]
    show: Show,
}

#[derive(Subcommand)]
enum Project {
    /// Make a project and print its invitation. It is not shown again: keep it safe.
    Create(Create),
}

#[derive(Args)]
struct Create {
    /// The project's name, for people.
    name: String,
    #[command(flatten)]
    show: Show,
}

#[derive(Subcommand)]
enum Node {
    /// List all nodes that ever checked in.
    List(Show),
}

#[derive(Args)]
struct Show {
    /// The satellite's directory.
    #[arg(long, env = "STRAND_SATELLITE_DIR", value_name = "DIR")]
    dir: PathBuf,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Runs the command line `args`, without the program's name. What the binary does, and what
/// another program does that plays a satellite.
pub fn cli_main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args = std::iter::once(OsString::from("satellite")).chain(args);
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // Help goes to standard output with code 0, mistakes to standard error with code 2.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    if let Err(error) = Level::of_process() {
        eprintln!("satellite: {LEVEL_VARIABLE}: {error}");
        return ExitCode::from(2);
    }
    match act(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("satellite: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn act(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Setup(setup) => set_up(setup),
        Command::Run(options) => {
            log_to_standard_error();
            let options = RunOptions {
                dir: options.dir,
                scheme: options.scheme,
                gc: GcOptions {
                    period: Duration::from_secs(u64::from(options.gc_hours) * 3_600),
                    ..GcOptions::default()
                },
            };
            runtime()?.block_on(run(&options))
        }
        Command::Project(Project::Create(create)) => {
            let created = runtime()?.block_on(create_project(&create.show.dir, &create.name))?;
            print(&created, create.show.json, show_project)
        }
        Command::Node(Node::List(show)) => {
            let nodes = runtime()?.block_on(ask(&show.dir, &Request::NodeList))?;
            print(&nodes, show.json, show_nodes)
        }
        Command::Gc(gc) => {
            let collected = runtime()?.block_on(collect(&gc))?;
            print(&collected, gc.show.json, show_gc)
        }
        Command::Status(show) => {
            let status = runtime()?.block_on(ask(&show.dir, &Request::Status))?;
            print(&status, show.json, show_status)
        }
    }
}

fn set_up(setup: Setup) -> anyhow::Result<()> {
    let Setup {
        dir,
        listen,
        advertise,
        scheme,
    } = setup;
    let shown = dir.display().to_string();
    let (id, advertise) = config::setup(&SetupOptions {
        dir,
        listen,
        advertise,
        scheme,
    })?;
    println!("satellite {id}@{advertise}\nstart it with: satellite run --dir {shown}");
    Ok(())
}

/// Runs a satellite until it is told to stop.
async fn run(options: &RunOptions) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let running = Running::start(options).await?;
    println!(
        "ready: {}@{}",
        running.node_id(),
        running.advertised_address()
    );
    tracing::info!(listen = %running.listen_address(), "listening");
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping");
    running.close().await;
    Ok(())
}

/// Over the admin socket if the satellite runs, else on its store.
async fn create_project(dir: &Path, name: &str) -> anyhow::Result<Value> {
    let request = Request::ProjectCreate {
        name: name.to_owned(),
    };
    let patience = tokio::time::Instant::now() + shared::BACKOFF_MAX;
    loop {
        match admin::ask(dir, &request).await {
            Err(AdminError::NotRunning) => {}
            answered => return Ok(answered?),
        }
        let directory = Directory::open(dir)?;
        anyhow::ensure!(
            !directory.advertise.ends_with(":0"),
            "the satellite has a port only while it runs: start it with `satellite run --dir {}`",
            dir.display()
        );
        match directory.open_store() {
            Ok(store) => {
                let id = directory.identity.node_id();
                let advertise = &directory.advertise;
                let created = admin::create_project(&store, id, advertise, name.to_owned()).await;
                store.close().await;
                return match created {
                    Ok(invitation) => Ok(admin::describe(&invitation)),
                    Err(refusal) => Err(anyhow::anyhow!(refusal.message)),
                };
            }
            // Just starting or just stopping.
            Err(OpenError::InUse { .. }) if tokio::time::Instant::now() < patience => {
                tokio::time::sleep(shared::BACKOFF_MIN).await;
            }
            Err(error) => return Err(config::store_error(error).into()),
        }
    }
}

async fn ask(dir: &Path, request: &Request) -> anyhow::Result<Value> {
    match admin::ask(dir, request).await {
        Err(AdminError::NotRunning) => {
            // Says what is wrong with the directory, if something is.
            Directory::open(dir)?;
            let dir = dir.display();
            anyhow::bail!(
                "no satellite is running in {dir}: start it with `satellite run --dir {dir}`"
            )
        }
        answered => Ok(answered?),
    }
}

/// Asks for a collection and waits until the satellite has made its filters.
async fn collect(options: &Gc) -> anyhow::Result<Value> {
    let dir = &options.show.dir;
    if options.last {
        return ask(dir, &Request::Gc).await;
    }
    let number = ask(dir, &Request::GcStart).await?["number"].as_u64();
    let patience = tokio::time::Instant::now() + GC_PATIENCE;
    loop {
        let state = ask(dir, &Request::Gc).await?;
        if state["ended"].as_u64() >= number {
            if let Some(error) = state["error"].as_str() {
                anyhow::bail!("garbage was not collected: {error}");
            }
            return Ok(state);
        }
        anyhow::ensure!(
            tokio::time::Instant::now() < patience,
            "the collection goes on; `satellite gc --last` shows it when it is done"
        );
        tokio::time::sleep(GC_LOOK).await;
    }
}

/// How long `gc` waits, and how often it looks.
const GC_PATIENCE: Duration = Duration::from_secs(6 * 3_600);
const GC_LOOK: Duration = Duration::from_millis(100);

fn print(value: &Value, json: bool, show: impl Fn(&Value) -> String) -> anyhow::Result<()> {
    if json {
        println!(
            "{}",
            serde_json::to_string_pretty(value).context("cannot print JSON")?
        );
    } else {
        println!("{}", show(value));
    }
    Ok(())
}

fn show_project(project: &Value) -> String {
    format!(
        "project {} ({}) was made. Its invitation, shown only now, gives all rights to it:\n\n{}",
        text(project, "name"),
        text(project, "project_id"),
        text(project, "invitation")
    )
}

fn show_nodes(value: &Value) -> String {
    let nodes = value["nodes"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let line = |node: &Value| {
        let state = match (node["online"].as_bool(), node["reachable"].as_bool()) {
            (Some(true), _) => "online",
            (_, Some(true)) => "away",
            _ => "unreachable",
        };
        format!(
            "{}  {:<11}  {:<21}  {:<18}  {:>9} free of {:>9}  seen {} s ago",
            text(node, "node_id"),
            state,
            text(node, "address"),
            text(node, "domain"),
            size(&node["free_bytes"]),
            size(&node["capacity_bytes"]),
            node["last_contact_s_ago"]
        )
    };
    let online = nodes.iter().filter(|node| node["online"] == true).count();
    let mut lines: Vec<String> = nodes.iter().map(line).collect();
    lines.push(format!("{} nodes, {online} online", nodes.len()));
    lines.join("\n")
}

fn show_gc(gc: &Value) -> String {
    let Some(last) = gc["last"].as_object() else {
        return "no garbage was collected yet".to_owned();
    };
    let nodes = gc["nodes"].as_array().map(Vec::as_slice);
    let nodes = nodes.unwrap_or_default();
    let done: Vec<&Value> = nodes.iter().filter(|node| node["done"] == true).collect();
    let sum = |field: &str| {
        let values = done.iter().filter_map(|node| node[field].as_u64());
        values.sum::<u64>()
    };
    let refused = done
        .iter()
        .filter(|node| node["refused_filters"].as_u64() > Some(0));
    format!(
        "walked     {} segments, {} pieces on {} nodes; {} lost pieces taken out\n\
         nodes      {} of {} have collected: {} pieces to the trash, {}; {} refused\n\
         reported   {} lost pieces wait for the next walk, {} pieces were read out of the trash",
        last["segments"],
        last["pieces"],
        last["nodes"],
        last["lost_pieces_taken_out"],
        done.len(),
        nodes.len(),
        sum("trashed"),
        size(&Value::from(sum("trashed_bytes"))),
        refused.count(),
        gc["lost_pieces_waiting"],
        gc["revived_pieces"],
    )
}

fn show_status(status: &Value) -> String {
    let scheme = status["scheme"].as_str().unwrap_or("none: too few nodes");
    format!(
        "satellite  {}@{}\n\
         version    {}, up {} s\n\
         nodes      {} of {} online, {} with room on {} networks\n\
         scheme     {scheme}\n\
         space      {} free of {}\n\
         content    {} projects, {} buckets, {} objects, {} segments\n\
         waiting    {} uploads, {} deletes, {} lost pieces\n\
         garbage    collected {}; {} pieces read out of the trash in 7 days\n\
         store      {}",
        text(status, "satellite"),
        text(status, "address"),
        text(status, "version"),
        status["uptime_s"],
        status["nodes_online"],
        status["nodes"],
        status["nodes_with_room"],
        status["domains_with_room"],
        size(&status["free_bytes"]),
        size(&status["capacity_bytes"]),
        status["projects"],
        status["buckets"],
        status["objects"],
        status["segments"],
        status["uploads"],
        status["deletes_waiting"],
        status["lost_pieces_waiting"],
        status["gc_last_s_ago"]
            .as_u64()
            .map_or_else(|| "never".to_owned(), |ago| format!("{ago} s ago")),
        status["revived_pieces"],
        size(&status["store_bytes"]),
    )
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or("?")
}

/// Bytes with a decimal unit.
fn size(bytes: &Value) -> String {
    let bytes = bytes.as_u64().unwrap_or(0);
    let units = [
        ("TB", 1_000_000_000_000),
        ("GB", 1_000_000_000),
        ("MB", 1_000_000),
        ("kB", 1_000),
    ];
    match units.into_iter().find(|(_, unit)| bytes >= *unit) {
        Some((name, unit)) => format!("{:.1} {name}", bytes as f64 / unit as f64),
        None => format!("{bytes} B"),
    }
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")
}

/// `RUST_LOG` says what is logged; by default what an operator wants to know.
fn log_to_standard_error() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn,satellite=info"));
    // Fails if the program that plays us logs already.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .try_init();
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn sizes_have_decimal_units() {
        assert_eq!(size(&Value::from(999)), "999 B");
        assert_eq!(size(&Value::from(1_500)), "1.5 kB");
        assert_eq!(size(&Value::from(2_000_000_000_000_u64)), "2.0 TB");
    }
}
