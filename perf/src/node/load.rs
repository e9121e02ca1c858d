//! The process that asks: connections of a client over quinn, and requests on them side by side, as it is told on its standard input.
//!
//! Each line is an [`Order`], each answer a [`Done`], both in JSON. Connections are made for each order, inside its clock, and closed after it. The
//! first answer that is not what it should be ends the process.

use std::cell::{Cell, RefCell};
use std::ffi::OsString;
use std::io::{BufRead, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use clap::Parser;
use piecestore::permission::EpochKeys;
use piecestore::serve::simulated::{Permits, Segment, put};
use piecestore::serve::{read_frame, send_frame};
use piecestore::stream::RecvStream;
use serde::{Deserialize, Serialize};
use strand_codec::{Shape, sealed_len};
use strand_protocol::limits::{CONNECT_TIMEOUT, NODE_FRAME_BYTES_MAX, SEGMENT_BYTES_MAX};
use strand_protocol::pb::node_request::Verb as Request;
use strand_protocol::pb::node_response::Answer;
use strand_protocol::permit::LimitAction;
use strand_protocol::{NodeId, PieceId, pb};
use strand_transport::{Identity, NODE_ALPN, Role, bind_udp, client_crypto, transport_config};
use tokio::task::JoinSet;

use super::baseline::{QuinnRecv, QuinnSend};
use super::{sink, subject};
use crate::random::Random;
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
}

#[derive(Debug, Parser)]
#[command(no_binary_name = true)]
struct LoadOptions {
    node_id: NodeId,
    address: SocketAddr,
    /// The core that it stays on
    core: usize,
}

/// A request that takes longer ends the run.
const REQUEST_WAIT: Duration = Duration::from_secs(30);

/// Pieces of a segment, and how many of them are needed.
const TOTAL: u8 = 80;
const REQUIRED: u8 = 29;

/// Any of them: they cost the same.
const INDEX: u8 = 17;

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
    endpoint: quinn::Endpoint,
    config: quinn::ClientConfig,
    address: SocketAddr,
    client: NodeId,
    permits: Permits,
    keys: EpochKeys,
    /// Of the pieces asked for last.
    segment: RefCell<Option<Segment>>,
    random: RefCell<Random>,
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
}

impl Load {
    fn new(options: &LoadOptions) -> Result<Self> {
        let identity = Identity::generate();
        let crypto = client_crypto(&identity, NODE_ALPN, options.node_id)?;
        let mut config = quinn::ClientConfig::new(crypto);
        config.transport_config(Arc::new(transport_config(Role::Client)));
        let socket = bind_udp((Ipv4Addr::UNSPECIFIED, 0).into())?;
        let runtime = Arc::new(quinn::TokioRuntime);
        let permits = subject::permits(options.node_id);
        let mut seed = [0; 8];
        getrandom::fill(&mut seed)?;
        Ok(Self {
            endpoint: quinn::Endpoint::new(
                quinn::EndpointConfig::default(),
                None,
                socket,
                runtime,
            )?,
            config,
            address: options.address,
            client: identity.node_id(),
            keys: permits.epoch_keys(permits.epoch),
            permits,
            segment: RefCell::default(),
            random: RefCell::new(Random::new(u64::from_le_bytes(seed), "load")),
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
        });
        let cpu_before = cpu::process_seconds()?;
        let started = Instant::now();
        let mut connections = JoinSet::new();
        for _ in 0..order.connections {
            connections.spawn_local(Rc::clone(&run).connect());
        }
        while let Some(ended) = connections.join_next().await {
            ended??;
        }
        let seconds = started.elapsed().as_secs_f64();
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
        let mut random = Random::new(piece_bytes, "piece");
        let words = (0..piece_bytes / 8).flat_map(|_| random.next().to_le_bytes());
        let body: Bytes = words.collect();
        let shape = shape_of(piece_bytes)?;
        let segment = Segment::draw(shape, INDEX, body, || random.next());
        *known = Some(segment.clone());
        Ok(segment)
    }

    fn limit(&self, action: LimitAction, segment: &Segment) -> Result<Vec<u8>> {
        let mut serial = [0; 16];
        for word in serial.as_chunks_mut::<8>().0 {
            *word = self.random.borrow_mut().next().to_le_bytes();
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
        let now_ms = u64::try_from(now.as_millis())?;
        let fields = self
            .permits
            .fields(action, segment, self.client, serial, now_ms);
        Ok(self.permits.mint(&fields))
    }
}

impl Run {
    /// A connection with its requests.
    async fn connect(self: Rc<Self>) -> Result<()> {
        let load = &self.load;
        let connecting = load
            .endpoint
            .connect_with(load.config.clone(), load.address, "node")?;
        let connection = tokio::time::timeout(CONNECT_TIMEOUT, connecting)
            .await
            .context("no answer to a handshake")??;
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
            let number = self.order.first + number % self.order.distinct;
            let started = Instant::now();
            tokio::time::timeout(REQUEST_WAIT, self.ask(&connection, number))
                .await
                .context("a request took too long")??;
            let latency = started.elapsed().as_secs_f32() * 1e6;
            self.latencies_us.borrow_mut().push(latency);
        }
    }

    async fn ask(&self, connection: &quinn::Connection, number: u64) -> Result<()> {
        let (send, recv) = connection.open_bi().await?;
        let (mut send, mut recv) = (QuinnSend::new(send), QuinnRecv::new(recv));
        let mut segment = self.segment.clone();
        segment.id = PieceId::from(*blake3::hash(&number.to_le_bytes()).as_bytes());
        match self.order.verb {
            Verb::Put => {
                let limit = self.load.limit(LimitAction::Put, &segment)?;
                let keys = &self.load.keys;
                let receipt = put(&mut send, &mut recv, limit, &segment, keys).await;
                receipt.map_err(|refusal| anyhow::anyhow!("a put was refused: {refusal:?}"))?;
            }
            Verb::Get => {
                let limit = self.load.limit(LimitAction::Get, &segment)?;
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
        Ok(())
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

/// The shape whose pieces are so long.
fn shape_of(piece_bytes: u64) -> Result<Shape> {
    let most = u64::from(REQUIRED) * piece_bytes;
    // Each chunk of 16,384 bytes grows by 16, and there is an empty one behind full ones.
    let plain_bytes = most - most.div_ceil(16_400) * 16;
    let mut plain_bytes = plain_bytes.min(SEGMENT_BYTES_MAX);
    while sealed_len(plain_bytes) > most {
        plain_bytes -= 1;
    }
    let shape = Shape::new(REQUIRED, TOTAL, sealed_len(plain_bytes))?;
    ensure!(
        shape.piece_len() == piece_bytes,
        "no piece is {piece_bytes} bytes long"
    );
    Ok(shape)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_shape_for_each_length_of_a_row() {
        for row in super::super::row::ROWS {
            shape_of(row.turn.piece_bytes).unwrap();
        }
        assert!(shape_of(1_000).is_err());
    }
}
