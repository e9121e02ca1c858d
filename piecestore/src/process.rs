//! A process: cores, and nodes spread over them.
//!
//! Node i lives on core i mod N. The main thread opens every directory before anything runs, so that a mistake in one is
//! said at once; then it waits for the cores' news and for signals. SIGTERM and SIGINT end the process in an orderly
//! way: new requests are refused, begun ones finish or are refused, no ack is dropped. A second signal ends it at once,
//! which, like kill -9, loses nothing that was acked.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::admin::{self, Board, Socket};
use crate::core::{
    self, Core, CoreError, CoreExecutor, CoreOptions, CoreThread, Executor, Gate, IoChoice,
    Unsupported, timeout,
};
use crate::directory::{Directory, DirectoryError};
use crate::hardware::{DiskTurns, Hardware};
use crate::limits::{
    DRAIN_WAIT, OPENING_GRACE, READ_BUDGET_BYTES, open_files_max, open_files_needed,
};
use crate::node::{Budgets, Node, Seat};
use crate::serve::Admission;
use crate::{metrics, service_manager};

/// How often a core looks for questions and for the end.
const LOOK_PERIOD: Duration = Duration::from_millis(100);

/// How often a core that drains looks whether requests still run.
const DRAIN_PERIOD: Duration = Duration::from_millis(10);

/// What to run.
#[derive(Clone, Debug)]
pub struct ProcessOptions {
    /// One for each node.
    pub directories: Vec<PathBuf>,
    /// How many executors; at most one for each node is started.
    pub core_count: usize,
    /// Bytes of bodies coming in that each core holds.
    pub write_budget_bytes: u64,
    /// Bytes that the connections of each core may pin beside those.
    pub connection_budget_bytes: u64,
    /// Whether the disks spin; none: as each node's settings or the kernel say.
    pub spinning: Option<bool>,
    /// What its cores run on.
    pub io: IoChoice,
    /// Where Prometheus finds the figures; none: nowhere.
    pub metrics: Option<SocketAddr>,
}

/// Why a process does not run, or how it failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProcessError {
    /// io_uring was insisted on and is not to be had.
    #[error("{0}: `--io auto` runs without it")]
    Unsupported(#[from] Unsupported),
    /// A directory cannot be served.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The same directory twice.
    #[error("{0} is named twice")]
    Twice(PathBuf),
    /// The admin socket.
    #[error("cannot bind the admin socket in {path}: {error}")]
    Socket {
        /// The node's directory.
        path: PathBuf,
        /// What happened.
        error: std::io::Error,
    },
    /// The port for metrics.
    #[error("cannot answer for metrics on {address}: {error}; choose another one with `--metrics`")]
    Metrics {
        /// What was asked for.
        address: SocketAddr,
        /// What happened.
        error: std::io::Error,
    },
    /// The limit of open files.
    #[error(
        "{node_count} nodes need at least {wanted} open files and the limit is {limit}: raise it with `ulimit -n` or LimitNOFILE="
    )]
    FewFiles {
        /// How many nodes.
        node_count: usize,
        /// What they need.
        wanted: u64,
        /// What they may have.
        limit: u64,
    },
    /// Threads or signal handlers.
    #[error("cannot start: {0}")]
    Start(std::io::Error),
    /// A core's executor.
    #[error(transparent)]
    Core(#[from] CoreError),
    /// Not one node came up; each has said why.
    #[error("no node could be started")]
    NoNode,
    /// Some nodes did not come up; the others have been served.
    #[error("{failed} of {total} nodes could not be started")]
    SomeNodes {
        /// How many did not.
        failed: usize,
        /// Of how many.
        total: usize,
    },
}

/// What the owner should read at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// A node is in the network, and does not serve yet.
    Opening(String),
    /// A node serves.
    Serving(String),
    /// A node does not, and why.
    Failed(String),
}

/// What the main thread waits for.
enum News {
    /// A node has begun: its first line follows.
    Begun,
    /// A node has started, or has not, or takes its time.
    Started(Line),
    /// SIGTERM or SIGINT.
    Signal,
    /// A core has ended.
    CoreEnded,
}

/// Serves nodes until a signal. `print` is given each line for the owner's terminal.
pub fn run(options: &ProcessOptions, mut print: impl FnMut(&Line)) -> Result<(), ProcessError> {
    let settled = core::settle(options.io)?;
    let total = options.directories.len();
    let core_count = options.core_count.clamp(1, total);
    let open_files_max = open_files(core_count, total)?;
    let (seats, sockets) = open(&options.directories, options.spinning)?;
    settled.say_what_is_lost();
    let (news_sender, news) = channel();
    watch_signals(news_sender.clone()).map_err(ProcessError::Start)?;
    admin::serve(sockets).map_err(ProcessError::Start)?;
    if let Some(address) = options.metrics {
        serve_metrics(address, &seats)?;
    }

    let stop = Arc::new(AtomicBool::new(false));
    let mut seats_of_cores: Vec<Vec<Seat>> = (0..core_count).map(|_| Vec::new()).collect();
    for (index, seat) in seats.into_iter().enumerate() {
        seats_of_cores[index % core_count].push(seat);
    }
    let mut cores = Vec::with_capacity(core_count);
    for (index, seats) in seats_of_cores.into_iter().enumerate() {
        let plan = CorePlan {
            index,
            seats,
            write_budget_bytes: options.write_budget_bytes,
            stop: Arc::clone(&stop),
            news: news_sender.clone(),
        };
        // Several processes may share a machine, so the kernel places the threads.
        let options = CoreOptions {
            index,
            pin: None,
            open_files_max,
            connection_bytes_max: options.connection_budget_bytes,
            io: settled.io,
        };
        cores.push(core::start(options, |core| plan.run(core))?);
    }
    drop(news_sender);
    let failed = wait(&news, total, &mut print);
    service_manager::stopping();
    stop.store(true, Ordering::Release);
    end(cores)?;
    match failed {
        0 => Ok(()),
        failed if failed == total => Err(ProcessError::NoNode),
        failed => Err(ProcessError::SomeNodes { failed, total }),
    }
}

/// Begins to answer scrapers.
fn serve_metrics(address: SocketAddr, seats: &[Seat]) -> Result<(), ProcessError> {
    let boards = seats
        .iter()
        .map(|seat| {
            let directory = seat.directory.path().display().to_string();
            (directory, Arc::clone(&seat.board))
        })
        .collect();
    let begin = || {
        let listener = metrics::bind(address)?;
        let bound = listener.local_addr()?;
        metrics::serve(listener, boards)?;
        Ok(bound)
    };
    let bound = begin().map_err(|error| ProcessError::Metrics { address, error })?;
    tracing::info!("figures for Prometheus at http://{bound}/metrics");
    if !bound.ip().is_loopback() {
        tracing::warn!(
            "whoever reaches {bound} can read the figures: a firewall should let only the scraper"
        );
    }
    Ok(())
}

/// How many blob files each core may keep open.
fn open_files(core_count: usize, node_count: usize) -> Result<usize, ProcessError> {
    let limit = crate::ring::raise_open_files_limit();
    let wanted = open_files_needed(core_count, node_count);
    if limit < wanted {
        return Err(ProcessError::FewFiles {
            node_count,
            wanted,
            limit,
        });
    }
    Ok(open_files_max(limit, core_count, node_count))
}

/// Opens and locks every directory, finds its disk, and binds its socket.
fn open(
    paths: &[PathBuf],
    spinning: Option<bool>,
) -> Result<(Vec<Seat>, Vec<Socket>), ProcessError> {
    let mut seats: Vec<Seat> = Vec::with_capacity(paths.len());
    let mut sockets = Vec::with_capacity(paths.len());
    let turns = DiskTurns::default();
    for path in paths {
        let canonical = path.canonicalize().ok();
        if seats.iter().any(|seat| {
            seat.directory.path().canonicalize().ok() == canonical && canonical.is_some()
        }) {
            return Err(ProcessError::Twice(path.clone()));
        }
        let directory = Directory::open(path)?;
        let board = Arc::new(Board::default());
        let socket =
            Socket::bind(path, Arc::clone(&board)).map_err(|error| ProcessError::Socket {
                path: path.clone(),
                error,
            })?;
        sockets.push(socket);
        let hardware = Hardware::under(&directory.blobs());
        let says = spinning.or_else(|| directory.config().spinning);
        let is_spinning = says.or(hardware.is_spinning).unwrap_or(false);
        tracing::info!(directory = %path.display(), "{}", hardware.line(is_spinning));
        seats.push(Seat {
            directory,
            board,
            is_spinning,
            turn: turns.of(&hardware),
        });
    }
    Ok((seats, sockets))
}

/// Prints what the cores say until it is time to stop; gives how many nodes did not start.
fn wait(news: &Receiver<News>, total: usize, print: &mut impl FnMut(&Line)) -> usize {
    let (mut begun, mut serving, mut failed) = (0, 0, 0);
    while let Ok(news) = news.recv() {
        match news {
            News::Begun => {
                begun += 1;
                if begun == total {
                    service_manager::ready();
                }
            }
            News::Started(line) => {
                print(&line);
                match line {
                    Line::Opening(_) => {}
                    Line::Serving(_) => serving += 1,
                    Line::Failed(_) => failed += 1,
                }
                service_manager::status(&format!(
                    "{serving} of {total} nodes serve, {failed} could not be started"
                ));
                if failed == total {
                    break;
                }
            }
            News::Signal => {
                tracing::info!("stopping: new requests are refused, running ones may finish");
                break;
            }
            // Cores end only when told to, or by a panic that has been printed.
            News::CoreEnded => break,
        }
    }
    failed
}

fn end(cores: Vec<CoreThread<()>>) -> Result<(), ProcessError> {
    let mut result = Ok(());
    for core in cores {
        let ended = core.join();
        if result.is_ok() {
            result = ended;
        }
    }
    Ok(result?)
}

fn watch_signals(news: Sender<News>) -> std::io::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    let watch = move || {
        let mut is_stopping = false;
        for signal in signals.forever() {
            if is_stopping {
                std::process::exit(128 + signal);
            }
            is_stopping = true;
            // The main thread may be past listening: it is stopping then.
            let _ = news.send(News::Signal);
        }
    };
    std::thread::Builder::new()
        .name("signals".to_owned())
        .stack_size(128 << 10)
        .spawn(watch)?;
    Ok(())
}

/// One core's part.
struct CorePlan {
    index: usize,
    seats: Vec<Seat>,
    write_budget_bytes: u64,
    stop: Arc<AtomicBool>,
    news: Sender<News>,
}

/// Says that a core has ended, also by a panic.
struct Farewell(Sender<News>);

impl Drop for Farewell {
    fn drop(&mut self) {
        let _ = self.0.send(News::CoreEnded);
    }
}

impl CorePlan {
    async fn run(self, core: Core) {
        let farewell = Farewell(self.news);
        let executor = core.executor();
        let budgets = Budgets {
            writes: Admission::new(self.write_budget_bytes),
            reads: Admission::new(READ_BUDGET_BYTES),
        };
        let nodes: Rc<RefCell<Vec<Rc<Node>>>> = Rc::default();
        // All at once: a disk that takes minutes, or hangs, holds up nobody else's start.
        let starting = Gate::new();
        for seat in self.seats {
            let Some(pass) = starting.enter() else { break };
            let (core, budgets, nodes) = (core.clone(), budgets.clone(), Rc::clone(&nodes));
            let (news, stop) = (farewell.0.clone(), Arc::clone(&self.stop));
            executor.spawn(async move {
                let _pass = pass;
                // Told to stop before its turn came: nobody would end its opening.
                if stop.load(Ordering::Acquire) {
                    return;
                }
                let has_begun = Cell::new(false);
                let say = |line| {
                    // The main thread may be past listening: it is stopping then.
                    if !has_begun.replace(true) {
                        drop(news.send(News::Begun));
                    }
                    drop(news.send(News::Started(line)));
                };
                start_node(&core, seat, budgets, &nodes, say).await;
            });
        }
        while !self.stop.load(Ordering::Acquire) {
            executor.sleep(LOOK_PERIOD).await;
            for node in nodes.borrow().iter() {
                node.answer_admin(&core, self.index);
                node.watch_disk();
                node.begin_job(&core);
            }
        }
        // What still recovers then has promised nothing to anybody.
        nodes.borrow().iter().for_each(|node| node.stop_opening());
        timeout(&executor, DRAIN_WAIT, starting.close()).await;
        let nodes = nodes.take();
        drain(&executor, &nodes).await;
        let stopping = Gate::new();
        for node in nodes {
            let Some(pass) = stopping.enter() else { break };
            executor.spawn(async move {
                let _pass = pass;
                node.stop().await;
            });
        }
        stopping.close().await;
    }
}

/// Begins a node and opens its store; says when it serves, why it does not, and that it takes its time.
async fn start_node(
    core: &Core,
    seat: Seat,
    budgets: Budgets,
    nodes: &RefCell<Vec<Rc<Node>>>,
    say: impl Fn(Line),
) {
    let path = seat.directory.path().to_owned();
    let failed = |error| Line::Failed(format!("cannot serve {}: {error}", path.display()));
    let node = match Node::begin(core, seat, budgets) {
        Ok(node) => Rc::new(node),
        Err(error) => return say(failed(error)),
    };
    nodes.borrow_mut().push(Rc::clone(&node));
    let mut opening = pin!(node.open());
    let opened = match timeout(&core.executor(), OPENING_GRACE, opening.as_mut()).await {
        Some(opened) => opened,
        None => {
            say(Line::Opening(node.line()));
            opening.await
        }
    };
    match opened {
        Ok(true) => say(Line::Serving(node.line())),
        Ok(false) => {}
        Err(error) => {
            say(failed(error));
            nodes.borrow_mut().retain(|other| !Rc::ptr_eq(other, &node));
            node.stop().await;
        }
    }
}

/// Refuses new requests and waits for the begun ones, but not for ever.
async fn drain(executor: &CoreExecutor, nodes: &[Rc<Node>]) {
    nodes.iter().for_each(|node| node.drain());
    let began = executor.now();
    while nodes.iter().any(|node| node.in_flight() > 0) && executor.now() - began < DRAIN_WAIT {
        executor.sleep(DRAIN_PERIOD).await;
    }
}
