//! The process that others suffer from: many peers that ask nothing, next to nothing, or the same again and again.
//!
//! It says on its standard output when it is there, works until its standard input ends, and then says what came of it, each as a line of JSON.

use std::cell::Cell;
use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Parser;
use piecestore::serve::simulated::Segment;
use piecestore::serve::{read_frame, send_frame};
use piecestore::stream::SendStream;
use serde::{Deserialize, Serialize};
use strand_protocol::limits::{FULL_PIECE_BYTES, NODE_FRAME_BYTES_MAX, UDP_PAYLOAD_BYTES_MAX};
use strand_protocol::pb::node_request::Verb;
use strand_protocol::pb::node_response::Answer;
use strand_protocol::permit::LimitAction;
use strand_protocol::{NodeId, PieceId, pb};
use strand_transport::{Identity, NODE_ALPN, Role, client_crypto, transport_config};
use tokio::task::JoinSet;

use super::baseline::{QuinnRecv, QuinnSend};
use super::client::{Client, segment_of};
use crate::pinned;

/// What they do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Kind {
    /// Connect and ask nothing.
    Idle,
    /// Put long pieces at a pace that is just not too slow, each in turn, as many as are admitted.
    Slow,
    /// Connect and go, each so many times a second.
    Churn,
    /// Begin handshakes, so many a second, and never answer.
    Initials,
}

/// What became of them.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(super) struct Told {
    /// Handshakes that were begun.
    pub(super) begun: u64,
    /// Those that failed, if they were meant.
    pub(super) failed: u64,
    /// Requests that the node refused or cut.
    pub(super) refused: u64,
    /// Bodies that it admitted.
    pub(super) admitted: u64,
    /// Bytes to and from addresses that proved nothing.
    pub(super) unproven_bytes: [u64; 2],
}

#[derive(Debug, Parser)]
#[command(no_binary_name = true)]
struct CrowdOptions {
    #[arg(value_enum)]
    kind: Kind,
    count: usize,
    node_id: NodeId,
    address: SocketAddr,
    /// The core that it stays on
    core: usize,
}

/// Handshakes at once while a crowd gathers.
const GATHERED_AT_ONCE: usize = 32;

/// What a slow sender sends at a time, and how long it rests: 5,000 bytes a second, the least pace being 4,096.
const TRICKLE_BYTES: usize = 1_250;
const TRICKLE_REST: Duration = Duration::from_millis(250);

/// How long a sender that was refused waits.
const REFUSED_WAIT: Duration = Duration::from_millis(500);

/// First flights that are sent over and over.
const FLIGHTS: usize = 1_024;

/// Sockets that they are sent from.
const FLIGHT_SOCKETS: usize = 16;

/// Between two bursts of them.
const BURST_PERIOD: Duration = Duration::from_millis(10);

/// Runs it.
///
/// # Errors
///
/// If the crowd does not gather.
pub fn crowd_main(arguments: &[OsString]) -> Result<()> {
    let options = CrowdOptions::try_parse_from(arguments)?;
    pinned::pin_to(options.core)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    tokio::task::LocalSet::new().block_on(&runtime, gather(options))
}

async fn gather(options: CrowdOptions) -> Result<()> {
    let CrowdOptions { kind, count, .. } = options;
    let told = Rc::new(Cell::new(Told::default()));
    let client = Rc::new(Client::new(options.node_id, options.address, Role::Client)?);
    let mut members = JoinSet::new();
    match kind {
        Kind::Idle | Kind::Slow => {
            let mut rest = count;
            let mut connections = Vec::with_capacity(count);
            while rest > 0 {
                let mut dialling = JoinSet::new();
                for _ in 0..rest.min(GATHERED_AT_ONCE) {
                    let client = Rc::clone(&client);
                    dialling.spawn_local(async move { client.connect().await });
                }
                while let Some(connected) = dialling.join_next().await {
                    connections.push(connected??);
                    rest -= 1;
                }
            }
            let segment = segment_of(FULL_PIECE_BYTES)?;
            for (number, connection) in connections.into_iter().enumerate() {
                let (told, client, segment) = (told.clone(), client.clone(), segment.clone());
                members.spawn_local(async move {
                    match kind {
                        Kind::Slow => trickle(&client, &connection, number, &segment, &told).await,
                        _ => drop(connection.closed().await),
                    }
                    add(&told, |told| told.failed += 1);
                });
            }
        }
        Kind::Churn => {
            let (told, client) = (told.clone(), client.clone());
            members.spawn_local(async move {
                loop {
                    for _ in 0..count {
                        let (told, client) = (told.clone(), client.clone());
                        tokio::task::spawn_local(async move {
                            match client.connect().await {
                                Ok(connection) => connection.close(0_u32.into(), b""),
                                Err(_) => add(&told, |told| told.failed += 1),
                            }
                        });
                    }
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            });
        }
        Kind::Initials => {
            let flights = first_flights(options.node_id, options.address)?;
            let (told, per_burst) = (told.clone(), count * 10 / 1_000);
            let address = options.address;
            members.spawn_local(async move {
                if flood(&flights, address, per_burst, &told).await.is_err() {
                    add(&told, |told| told.failed += 1);
                }
            });
        }
    }
    say(&Told::default())?;
    tokio::task::spawn_blocking(|| {
        let mut buffer = [0; 64];
        while matches!(std::io::stdin().read(&mut buffer), Ok(1..)) {}
    })
    .await?;
    add(&told, |told| told.begun += client.dialled.get());
    say(&told.get())
}

fn say(told: &Told) -> Result<()> {
    let mut output = std::io::stdout().lock();
    writeln!(output, "{}", serde_json::to_string(told)?)?;
    Ok(output.flush()?)
}

fn add(told: &Cell<Told>, change: impl FnOnce(&mut Told)) {
    let mut now = told.get();
    change(&mut now);
    told.set(now);
}

/// Puts at a trickle on one stream of the connection, then on the next, until the connection is closed.
async fn trickle(
    client: &Client,
    connection: &quinn::Connection,
    number: usize,
    segment: &Segment,
    told: &Cell<Told>,
) {
    let mut round = 0_u64;
    while connection.close_reason().is_none() {
        let mut segment = segment.clone();
        let name = [(number as u64).to_le_bytes(), round.to_le_bytes()].concat();
        segment.id = PieceId::from(*blake3::hash(&name).as_bytes());
        round += 1;
        let sent = async {
            let (send, recv) = connection.open_bi().await?;
            let (mut send, mut recv) = (QuinnSend::new(send), QuinnRecv::new(recv));
            let limit = client.limit(LimitAction::Put, &segment)?;
            let put = pb::NodeRequest {
                verb: Some(Verb::Put(pb::PutRequest { limit })),
            };
            send_frame(&mut send, &put).await?;
            let response: pb::NodeResponse = read_frame(&mut recv, NODE_FRAME_BYTES_MAX).await?;
            if !matches!(response.answer, Some(Answer::PutAdmitted(_))) {
                anyhow::bail!("refused");
            }
            add(told, |told| told.admitted += 1);
            let mut rest = segment.body.clone();
            while !rest.is_empty() {
                send.send(rest.split_to(rest.len().min(TRICKLE_BYTES)))
                    .await?;
                tokio::time::sleep(TRICKLE_REST).await;
            }
            Ok::<_, anyhow::Error>(())
        };
        if sent.await.is_err() {
            add(told, |told| told.refused += 1);
            tokio::time::sleep(REFUSED_WAIT).await;
        }
    }
}

/// The first datagrams of handshakes.
fn first_flights(node: NodeId, address: SocketAddr) -> Result<Vec<Vec<u8>>> {
    let crypto = client_crypto(&Identity::generate(), NODE_ALPN, node)?;
    let mut config = quinn_proto::ClientConfig::new(crypto);
    config.transport_config(Arc::new(transport_config(Role::Client)));
    let endpoint_config = Arc::new(quinn_proto::EndpointConfig::default());
    let mut endpoint = quinn_proto::Endpoint::new(endpoint_config, None, true, None);
    let mut flights = Vec::with_capacity(FLIGHTS);
    for _ in 0..FLIGHTS {
        let now = Instant::now();
        let (_, mut connection) = endpoint.connect(now, config.clone(), address, "node")?;
        let mut flight = Vec::new();
        if let Some(transmit) = connection.poll_transmit(now, 1, &mut flight) {
            flight.truncate(transmit.size);
            flights.push(flight);
        }
    }
    Ok(flights)
}

/// Sends them again and again, and reads what comes of it.
async fn flood(
    flights: &[Vec<u8>],
    address: SocketAddr,
    per_burst: usize,
    told: &Cell<Told>,
) -> Result<()> {
    let mut sockets = Vec::with_capacity(FLIGHT_SOCKETS);
    for _ in 0..FLIGHT_SOCKETS {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.set_nonblocking(true)?;
        socket.connect(address)?;
        sockets.push(socket);
    }
    let mut buffer = vec![0; UDP_PAYLOAD_BYTES_MAX];
    let mut next = 0;
    let mut ticks = tokio::time::interval(BURST_PERIOD);
    loop {
        ticks.tick().await;
        let (mut sent, mut received) = (0, 0);
        for _ in 0..per_burst {
            let socket = &sockets[next / flights.len() % sockets.len()];
            // What the kernel has no room for is not sent.
            sent += socket.send(&flights[next % flights.len()]).unwrap_or(0);
            next += 1;
        }
        for socket in &sockets {
            while let Ok(len) = socket.recv(&mut buffer) {
                received += len;
            }
        }
        add(told, |told| {
            told.begun += per_burst as u64;
            told.unproven_bytes[0] += sent as u64;
            told.unproven_bytes[1] += received as u64;
        });
    }
}
