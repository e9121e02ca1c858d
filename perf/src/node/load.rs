//! The process that asks: connections of a client over quinn, and requests on them side by side, as it is told on its standard input.
//!
//! Each line is an [`Order`], each answer a [`Done`], both in JSON. Connections are made for each order, inside its clock, and closed after it. The
//! first answer that is not what it should be ends the process.

use std::cell::{Cell, RefCell};
use std::ffi::OsString;
use std::io::{BufRead, Write};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use clap::Parser;
use piecestore::serve::simulated::{Refusal, Segment, put};
use piecestore::serve::{read_frame, send_frame};
use piecestore::stream::RecvStream;
use serde::{Deserialize, Serialize};
use strand_protocol::limits::{BUSY_RETRY_AFTER_MS, NODE_FRAME_BYTES_MAX};
use strand_protocol::pb::node_request::Verb as Request;
use strand_protocol::pb::node_response::Answer;
use strand_protocol::permit::LimitAction;
use strand_protocol::{Code, NodeId, PieceId, pb};
use strand_transport::Role;
use tokio::task::JoinSet;

use super::baseline::{QuinnRecv, QuinnSend};
use super::client::{Client, segment_of};
use super::sink;
use crate::{cpu, pinned};

/// What is asked of the subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Verb {
    /// Pieces are stored, each under an id of its own.
    Put,
    /// Pieces that were put are got, whole.
    Get,
    /// Bytes go to a sink, or come from it.
    Swap {
        /// Whether they come.
        is_back: bool,
    },
}

/// What to do.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Order {
    pub(super) verb: Verb,
    pub(super) piece_bytes: u64,
    pub(super) connections: usize,
    /// Requests of a connection at a time.
    pub(super) streams: usize,
    /// The number of the first piece.
    pub(super) first: u64,
    pub(super) count: u64,
    /// After so many pieces the first comes again.
    pub(super) distinct: u64,
    /// Requests begun a second, however long they take; none: as soon as the one before has ended.
    pub(super) per_second: Option<f64>,
}

/// What came of it.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Done {
    /// From before the first handshake to the last answer.
    pub(super) seconds: f64,
    /// Processor time of this process.
    pub(super) cpu_seconds: f64,
    /// Of a request, the median and the 99th of a hundred.
    pub(super) p50_us: f64,
    pub(super) p99_us: f64,
    /// Datagrams of a request, to the node and from it.
    pub(super) datagrams: [f64; 2],
    /// Answers that the node was busy; each was asked again.
    pub(super) busy: u64,
}

#[derive(Debug, Parser)]
#[command(no_binary_name = true)]
struct LoadOptions {
    node_id: NodeId,
    address: SocketAddr,
    /// The core that it stays on
    core: usize,
    /// Datagrams may be as long as jumbo frames carry
    #[arg(long)]
    jumbo: bool,
}

impl LoadOptions {
    fn role(&self) -> Role {
        if self.jumbo {
            Role::JumboClient
        } else {
            Role::Client
        }
    }
}

/// What a node advises.
const BUSY_WAIT: Duration = Duration::from_millis(BUSY_RETRY_AFTER_MS as u64);

/// A request that takes longer ends the run.
const REQUEST_WAIT: Duration = Duration::from_secs(30);

/// Runs it.
///
/// # Errors
///
/// If the subject does not answer as it should.
pub fn load_main(arguments: &[OsString]) -> Result<()> {
    let options = LoadOptions::try_parse_from(arguments)?;
    pinned::pin_to(options.core)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let local = tokio::task::LocalSet::new();
    let load = local.block_on(&runtime, async { Load::new(&options) })?;
    let load = Rc::new(load);
    for line in std::io::stdin().lock().lines() {
        let order: Order = serde_json::from_str(&line?)?;
        let done = local.block_on(&runtime, Rc::clone(&load).obey(order))?;
        let mut output = std::io::stdout().lock();
        writeln!(output, "{}", serde_json::to_string(&done)?)?;
        output.flush()?;
    }
    Ok(())
}

struct Load {
    client: Client,
    /// Of the pieces asked for last.
    segment: RefCell<Option<Segment>>,
}

/// One order under way.
struct Run {
    load: Rc<Load>,
    order: Order,
    segment: Segment,
    next: Cell<u64>,
    latencies_us: RefCell<Vec<f32>>,
    /// To the node and from it.
    datagrams: Cell<[u64; 2]>,
    busy: Cell<u64>,
    started: Instant,
}

impl Load {
    fn new(options: &LoadOptions) -> Result<Self> {
        Ok(Self {
            client: Client::new(options.node_id, options.address, options.role())?,
            segment: RefCell::default(),
        })
    }

    async fn obey(self: Rc<Self>, order: Order) -> Result<Done> {
        let run = Rc::new(Run {
            segment: self.segment_of(order.piece_bytes)?,
            load: self,
            order,
            next: Cell::new(0),
            latencies_us: RefCell::new(Vec::with_capacity(usize::try_from(order.count)?)),
            datagrams: Cell::default(),
            busy: Cell::new(0),
            started: Instant::now(),
        });
        let cpu_before = cpu::process_seconds()?;
        let mut connections = JoinSet::new();
        for _ in 0..order.connections {
            connections.spawn_local(Rc::clone(&run).connect());
        }
        while let Some(ended) = connections.join_next().await {
            ended??;
        }
        let seconds = run.started.elapsed().as_secs_f64();
        let cpu_seconds = cpu::process_seconds()? - cpu_before;
        let mut latencies = run.latencies_us.take();
        ensure!(latencies.len() as u64 == order.count, "not all was asked");
        latencies.sort_by(f32::total_cmp);
        let of_a_hundred = |part: usize| f64::from(latencies[(latencies.len() - 1) * part / 100]);
        Ok(Done {
            seconds,
            cpu_seconds,
            p50_us: of_a_hundred(50),
            p99_us: of_a_hundred(99),
            datagrams: run
                .datagrams
                .get()
                .map(|count| count as f64 / order.count as f64),
            busy: run.busy.get(),
        })
    }

    /// Pieces of such a length: their body is the same, their ids are not.
    fn segment_of(&self, piece_bytes: u64) -> Result<Segment> {
        let mut known = self.segment.borrow_mut();
        if let Some(segment) = &*known
            && segment.body.len() as u64 == piece_bytes
        {
            return Ok(segment.clone());
        }
        let segment = segment_of(piece_bytes)?;
        *known = Some(segment.clone());
        Ok(segment)
    }
}

impl Run {
    /// A connection with its requests.
    async fn connect(self: Rc<Self>) -> Result<()> {
        let connection = self.load.client.connect().await?;
        let mut callers = JoinSet::new();
        for _ in 0..self.order.streams {
            callers.spawn_local(Rc::clone(&self).call(connection.clone()));
        }
        while let Some(ended) = callers.join_next().await {
            ended??;
        }
        let (stats, [sent, received]) = (connection.stats(), self.datagrams.get());
        let sent = sent + stats.udp_tx.datagrams;
        self.datagrams
            .set([sent, received + stats.udp_rx.datagrams]);
        connection.close(0_u32.into(), b"");
        Ok(())
    }

    /// Requests one after another, until there are no more.
    async fn call(self: Rc<Self>, connection: quinn::Connection) -> Result<()> {
        loop {
            let number = self.next.get();
            if number == self.order.count {
                return Ok(());
            }
            self.next.set(number + 1);
            let due = self.order.per_second.map(|rate| number as f64 / rate);
            let due = due.map(|seconds| self.started + Duration::from_secs_f64(seconds));
            if let Some(due) = due {
                tokio::time::sleep_until(due.into()).await;
            }
            let number = self.order.first + number % self.order.distinct;
            let started = due.unwrap_or_else(Instant::now);
            let asked = async {
                while !self.ask(&connection, number).await? {
                    self.busy.set(self.busy.get() + 1);
                    tokio::time::sleep(BUSY_WAIT).await;
                }
                Ok::<_, anyhow::Error>(())
            };
            tokio::time::timeout(REQUEST_WAIT, asked)
                .await
                .context("a request took too long")??;
            let latency = started.elapsed().as_secs_f32() * 1e6;
            self.latencies_us.borrow_mut().push(latency);
        }
    }

    /// `false`: the node is busy.
    async fn ask(&self, connection: &quinn::Connection, number: u64) -> Result<bool> {
        let (send, recv) = connection.open_bi().await?;
        let (mut send, mut recv) = (QuinnSend::new(send), QuinnRecv::new(recv));
        let mut segment = self.segment.clone();
        segment.id = PieceId::from(*blake3::hash(&number.to_le_bytes()).as_bytes());
        match self.order.verb {
            Verb::Put => {
                let limit = self.load.client.limit(LimitAction::Put, &segment)?;
                let keys = &self.load.client.keys;
                match put(&mut send, &mut recv, limit, &segment, keys).await {
                    Ok(_) => {}
                    Err(Refusal::Code(Code::Busy)) => return Ok(false),
                    Err(refusal) => anyhow::bail!("a put was refused: {refusal:?}"),
                }
            }
            Verb::Get => {
                let limit = self.load.client.limit(LimitAction::Get, &segment)?;
                get(&mut send, &mut recv, limit, &segment).await?;
            }
            Verb::Swap { is_back } => {
                let (bytes, wanted) = if is_back {
                    (Bytes::new(), self.order.piece_bytes)
                } else {
                    (segment.body.clone(), 0)
                };
                let is_right = sink::ask(&mut send, &mut recv, bytes, wanted).await?;
                ensure!(is_right, "the sink counted otherwise");
            }
        }
        Ok(true)
    }
}

/// A get whose body is compared as it comes and not kept.
async fn get(
    send: &mut QuinnSend,
    recv: &mut QuinnRecv,
    limit: Vec<u8>,
    segment: &Segment,
) -> Result<()> {
    use piecestore::stream::SendStream;
    let request = pb::NodeRequest {
        verb: Some(Request::Get(pb::GetRequest {
            limit,
            first_leaf: 0,
            leaf_count: 0,
        })),
    };
    send_frame(send, &request).await?;
    send.finish();
    let response: pb::NodeResponse = read_frame(recv, NODE_FRAME_BYTES_MAX).await?;
    let Some(Answer::Get(header)) = response.answer else {
        anyhow::bail!("a get was refused: {:?}", response.answer);
    };
    ensure!(header.root == segment.tree.root, "another piece came");
    let hashes = segment.tree.share_hashes.concat();
    let (hashes, body) = (&hashes[..], &segment.body[..]);
    let mut at = 0;
    while let Some(chunk) = recv.chunk(usize::MAX).await? {
        let split = hashes.len().saturating_sub(at).min(chunk.len());
        let (first, rest) = chunk.split_at(split);
        let body_at = (at + split).saturating_sub(hashes.len());
        let is_right = hashes[at.min(hashes.len())..].starts_with(first)
            && body
                .get(body_at..)
                .is_some_and(|body| body.starts_with(rest));
        ensure!(is_right, "wrong bytes at {at}");
        at += chunk.len();
    }
    ensure!(at == hashes.len() + body.len(), "{at} bytes came");
    Ok(())
}
