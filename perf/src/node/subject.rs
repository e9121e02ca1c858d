//! The process that is measured: a node, the same verbs on tokio, or less than either.
//!
//! It says on its standard output who it is and where, as one line of JSON, and works until its standard input ends.

use std::ffi::OsString;
use std::future::Future;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::rc::Rc;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use clap::Parser;
use piecestore::core::executor::{Clock, Executor};
use piecestore::core::tokio::Tokio;
use piecestore::core::{Core, CoreExecutor, CoreOptions, Io, mailbox, start};
use piecestore::hardware::DiskTurn;
use piecestore::limits::{CONNECTION_BUDGET_BYTES, READ_BUDGET_BYTES, WRITE_BUDGET_BYTES};
use piecestore::permission::Permission;
use piecestore::quic::{QuicRecv, QuicSend};
use piecestore::serve::simulated::Permits;
use piecestore::serve::{Admission, Service, ServiceOptions};
use piecestore::serving::{Serving, ServingOptions};
use piecestore::stream::Request;
use serde::{Deserialize, Serialize};
use strand_blob::{OpenProgress, Store, StoreOptions};
use strand_protocol::permit::SatelliteKeys;
use strand_protocol::{Code, NodeId};
use strand_transport::Identity;

use super::baseline::{self, PoolDisk};
use super::sink;
use crate::pinned;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Subject {
    /// A node: glommio, its ring, quinn-proto driven by hand.
    Node,
    /// The same node where io_uring is not to be had: tokio, system calls, threads.
    PlainNode,
    /// The same verbs and store on tokio and quinn.
    TokioNode,
    /// A node's way between network and verbs, with the sink for a verb.
    Sink,
    /// The same on tokio and quinn.
    TokioSink,
    /// quinn as in its own bulk benchmark: streams are read and dropped, nothing between.
    Quinn,
}

/// What a subject says of itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Hello {
    /// As text.
    pub(super) node_id: String,
    pub(super) address: SocketAddr,
}

#[derive(Debug, Parser)]
#[command(no_binary_name = true)]
struct SubjectOptions {
    #[arg(value_enum)]
    subject: Subject,
    /// An empty folder for its blobs
    folder: PathBuf,
    /// The core that it stays on
    core: usize,
    /// Memory that connections may pin
    #[arg(default_value_t = CONNECTION_BUDGET_BYTES)]
    connection_bytes_max: u64,
}

/// More than any disk: room is checked before the bench starts.
const CAPACITY_BYTES: u64 = 1 << 50;

/// As in a store of 64 GiB and more.
const BLOB_BYTES_MAX: u64 = 1 << 30;

const LISTEN: &str = "127.0.0.1:0";

/// Who permits, and with what: both ends of a bench know it.
pub(super) fn permits(node: NodeId) -> Permits {
    Permits {
        satellite: NodeId::from([7; 32]),
        node,
        keys: SatelliteKeys::new([9; 32]),
        epoch: 1,
    }
}

/// Runs it.
///
/// # Errors
///
/// If it cannot start.
pub fn subject_main(arguments: &[OsString]) -> Result<()> {
    let options = SubjectOptions::try_parse_from(arguments)?;
    // Before any thread is started: all of them stay there.
    pinned::pin_to(options.core)?;
    let identity = Identity::generate();
    match options.subject {
        Subject::Node | Subject::PlainNode => {
            let io = match options.subject {
                Subject::PlainNode => Io::Plain,
                _ => Io::Uring,
            };
            let connection_bytes_max = options.connection_bytes_max;
            on_core(options.core, connection_bytes_max, io, move |core, stop| {
                Box::pin(node(core, identity, options.folder, stop))
            })
        }
        Subject::Sink => {
            let connection_bytes_max = options.connection_bytes_max;
            on_core(
                options.core,
                connection_bytes_max,
                Io::Uring,
                move |core, stop| Box::pin(sink_on_core(core, identity, stop)),
            )
        }
        Subject::TokioNode => on_tokio(tokio_node(identity, options.folder)),
        Subject::TokioSink => on_tokio(tokio_sink(identity)),
        Subject::Quinn => on_tokio(quinn_bulk(identity)),
    }
}

type Ended = Pin<Box<dyn Future<Output = ()>>>;

fn on_core(
    pin: usize,
    connection_bytes_max: u64,
    io: Io,
    main: impl FnOnce(Core, Ended) -> Pin<Box<dyn Future<Output = Result<()>>>> + Send + 'static,
) -> Result<()> {
    piecestore::core::probe()?;
    let (stop, mut stopped) = mailbox::<()>(1);
    let options = CoreOptions {
        pin: Some(pin),
        io,
        connection_bytes_max,
        ..CoreOptions::default()
    };
    let core = start(options, move |core| {
        let ended = Box::pin(async move {
            stopped.next().await;
        });
        main(core, ended)
    })?;
    let told = std::thread::spawn(move || {
        wait_for_end();
        // It may have failed and be gone.
        let _ = stop.send(());
    });
    let ended = core.join()?;
    if ended.is_ok() {
        let _ = told.join();
    }
    ended
}

fn on_tokio(main: impl Future<Output = Result<()>>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    tokio::task::LocalSet::new().block_on(&runtime, main)
}

/// Blocks until standard input ends.
fn wait_for_end() {
    let mut buffer = [0; 64];
    while matches!(std::io::stdin().read(&mut buffer), Ok(1..)) {}
}

async fn told_to_end() {
    let _ = tokio::task::spawn_blocking(wait_for_end).await;
}

fn say_hello(node_id: NodeId, address: SocketAddr) -> Result<()> {
    let node_id = node_id.to_string();
    let hello = serde_json::to_string(&Hello { node_id, address })?;
    let mut output = std::io::stdout().lock();
    writeln!(output, "{hello}")?;
    Ok(output.flush()?)
}

fn store_options(node: NodeId) -> StoreOptions {
    let mut options = StoreOptions::new(*node.as_bytes(), CAPACITY_BYTES);
    options.blob_bytes_max = BLOB_BYTES_MAX;
    options
}

fn fill_random(bytes: &mut [u8]) {
    #[expect(
        clippy::expect_used,
        reason = "a machine without random numbers measures nothing"
    )]
    getrandom::fill(bytes).expect("the kernel has random numbers");
}

/// What a check-in would bring.
fn permit(permission: &Permission, node: NodeId, clock: &impl Clock) {
    let (keys, moment) = (permits(node).epoch_keys(1), clock.moment());
    permission.update(vec![keys], moment.wall_ms, moment);
}

async fn node(core: Core, identity: Identity, folder: PathBuf, ended: Ended) -> Result<()> {
    let node = identity.node_id();
    let options = ServingOptions {
        satellite: permits(node).satellite,
        writes: Admission::new(WRITE_BUDGET_BYTES),
        reads: Admission::new(READ_BUDGET_BYTES),
        turn: DiskTurn::default(),
    };
    let executor = core.executor();
    let serving = Serving::begin(core.driver(), executor, &identity, LISTEN.parse()?, options)?;
    let disk = core.disk(&folder)?;
    let mut random = fill_random;
    let opened = serving.open(disk, store_options(node), &mut random);
    ensure!(opened.await?.is_some(), "nobody stops an opening here");
    permit(serving.service().permission(), node, &executor);
    say_hello(node, serving.endpoint().local_addr())?;
    ended.await;
    serving.stop().await;
    Ok(())
}

async fn sink_on_core(core: Core, identity: Identity, ended: Ended) -> Result<()> {
    let handler = Rc::new(|request: Request<QuicSend, QuicRecv>| -> Ended {
        Box::pin(sink::answer(request))
    });
    let endpoint = core.endpoint(&identity, LISTEN.parse()?, handler)?;
    say_hello(endpoint.node_id(), endpoint.local_addr())?;
    ended.await;
    endpoint.close(Code::Shutdown).await;
    Ok(())
}

async fn tokio_node(identity: Identity, folder: PathBuf) -> Result<()> {
    let node = identity.node_id();
    let disk = PoolDisk::new(&folder);
    let executor = CoreExecutor::Tokio(Tokio::current());
    let now_s = u32::try_from(executor.now_ms() / 1_000)?;
    let mut random = fill_random;
    let opened = Store::open(disk, store_options(node), now_s, &mut random);
    let (store, _recovery) = Box::pin(opened).await.context("cannot open the store")?;
    let committed = Rc::clone(&store);
    executor.spawn(async move { committed.run_commits().await });
    let permission = Permission::new(permits(node).satellite, node);
    permit(&permission, node, &executor);
    let service = Service::new(ServiceOptions {
        node_id: node,
        opening: Rc::new(OpenProgress::default()),
        permission,
        writes: Admission::new(WRITE_BUDGET_BYTES),
        reads: Admission::new(READ_BUDGET_BYTES),
        executor,
        clock: executor,
    });
    service.open(Rc::clone(&store));
    serve_on_tokio(&identity, move |request| {
        let service = Rc::clone(&service);
        Box::pin(async move { service.handle(request).await })
    })
    .await?;
    store.close().await;
    Ok(())
}

async fn tokio_sink(identity: Identity) -> Result<()> {
    serve_on_tokio(&identity, |request| Box::pin(sink::answer(request))).await
}

async fn serve_on_tokio(
    identity: &Identity,
    handler: impl Fn(Request<baseline::QuinnSend, baseline::QuinnRecv>) -> Ended + 'static,
) -> Result<()> {
    let endpoint = baseline::listen(identity, LISTEN.parse()?)?;
    say_hello(identity.node_id(), endpoint.local_addr()?)?;
    tokio::select! {
        () = baseline::serve(endpoint.clone(), Rc::new(handler)) => {}
        () = told_to_end() => {}
    }
    Ok(())
}

/// Answers as the sink does, to requests that want nothing.
async fn quinn_bulk(identity: Identity) -> Result<()> {
    let endpoint = baseline::listen(&identity, LISTEN.parse()?)?;
    say_hello(identity.node_id(), endpoint.local_addr()?)?;
    let accepting = async {
        while let Some(incoming) = endpoint.accept().await {
            tokio::spawn(async move {
                let Ok(connection) = incoming.await else {
                    return;
                };
                while let Ok((send, recv)) = connection.accept_bi().await {
                    tokio::spawn(drain(send, recv));
                }
            });
        }
    };
    tokio::select! {
        () = accepting => {}
        () = told_to_end() => {}
    }
    Ok(())
}

async fn drain(mut send: quinn::SendStream, mut recv: quinn::RecvStream) -> Result<()> {
    let mut chunks = vec![Bytes::new(); 32];
    let mut count = 0;
    while let Some(read) = recv.read_chunks(&mut chunks).await? {
        count += chunks[..read].iter().map(Bytes::len).sum::<usize>();
    }
    let taken = (count as u64).saturating_sub(8);
    send.write_all(&taken.to_le_bytes()).await?;
    Ok(send.finish()?)
}
