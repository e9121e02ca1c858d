//! A core on glommio and the real ring, against plain quinn clients over loopback.
//!
//! The counters show that datagrams took the path they should: multishot receives and GSO trains.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use piecestore::core::{CoreCounters, CoreOptions, Executor, IoChoice, mailbox, probe, start};
use piecestore::quic::{Handler, QuicRecv, QuicSend};
use piecestore::stream::{RecvStream, Request, SendStream, StreamError};
use strand_protocol::{Code, NodeId};
use strand_transport::{Connection, Dialer, Identity, NODE_ALPN};

/// What the test's server does with a stream, by its first byte.
const ECHO: u8 = b'e';
/// Followed by a length (u64): sends so many bytes.
const SEND: u8 = b's';
/// Takes all there is and answers with how much it was (u64).
const TAKE: u8 = b't';
/// Takes one byte, then nothing, until the stream ends in whatever way.
const HOLD: u8 = b'h';
/// Resets its half with BUSY.
const RESET: u8 = b'r';

const BLOCK_BYTES: usize = 256 << 10;

/// Where the test's server is.
#[derive(Clone)]
struct Server {
    id: NodeId,
    address: SocketAddr,
}

/// Runs `client` on tokio against a core on another thread; gives what that core counted.
fn check<F: Future<Output = ()>>(client: impl FnOnce(Dialer, Server) -> F) -> CoreCounters {
    check_on("127.0.0.1:0", client)
}

fn check_on<F: Future<Output = ()>>(
    listen: &str,
    client: impl FnOnce(Dialer, Server) -> F,
) -> CoreCounters {
    probe().expect("this machine can run a node");
    let listen: SocketAddr = listen.parse().unwrap();
    let (tell, told) = std::sync::mpsc::channel();
    let (stop, mut stopped) = mailbox::<()>(1);
    let core = start(CoreOptions::default(), move |core| async move {
        let identity = Identity::generate();
        let endpoint = core.endpoint(&identity, listen, handler()).unwrap();
        let server = Server {
            id: endpoint.node_id(),
            address: endpoint.local_addr(),
        };
        tell.send(server).unwrap();
        stopped.next().await;
        // What the client closed drains by itself, in three probe time-outs: long on a busy machine.
        for _ in 0..1_000 {
            if endpoint.connection_count() > 0 {
                core.executor().sleep(Duration::from_millis(10)).await;
            }
        }
        endpoint.close(Code::Shutdown).await;
        assert_eq!(
            (endpoint.request_count(), endpoint.connection_count()),
            (0, 0)
        );
        core.counters()
    })
    .unwrap();
    let server = told.recv().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let dialer = Dialer::new(Identity::generate()).unwrap();
        client(dialer, server).await;
    });
    stop.send(()).unwrap();
    core.join().unwrap()
}

fn handler() -> Handler {
    Rc::new(|request| -> Pin<Box<dyn Future<Output = ()>>> { Box::pin(answer(request)) })
}

async fn answer(mut request: Request<QuicSend, QuicRecv>) {
    // A client that goes away in the middle is part of these tests.
    let _ = try_answer(&mut request).await;
}

async fn try_answer(request: &mut Request<QuicSend, QuicRecv>) -> Result<(), StreamError> {
    let (send, recv) = (&mut request.send, &mut request.recv);
    let Some(order) = recv.chunk(1).await? else {
        return Ok(());
    };
    match order[0] {
        ECHO => {
            while let Some(bytes) = recv.chunk(usize::MAX).await? {
                send.send(bytes).await?;
            }
            send.finish();
        }
        SEND => {
            let mut left = read_u64(recv).await?;
            let block = pattern(BLOCK_BYTES);
            while left > 0 {
                let len = left.min(BLOCK_BYTES as u64);
                send.send(block.slice(..len as usize)).await?;
                left -= len;
            }
            send.finish();
        }
        TAKE => {
            let mut count = 0u64;
            while let Some(bytes) = recv.chunk(usize::MAX).await? {
                count += bytes.len() as u64;
            }
            send.send(Bytes::copy_from_slice(&count.to_le_bytes()))
                .await?;
            send.finish();
        }
        HOLD => while recv.chunk(usize::MAX).await?.is_some() {},
        RESET => send.reset(Code::Busy),
        other => panic!("no such order: {other}"),
    }
    Ok(())
}

async fn read_u64(recv: &mut QuicRecv) -> Result<u64, StreamError> {
    let mut bytes = [0; 8];
    for byte in &mut bytes {
        *byte = recv.chunk(1).await?.map_or(0, |chunk| chunk[0]);
    }
    Ok(u64::from_le_bytes(bytes))
}

/// Period 251, so that a shifted or repeated block shows.
fn pattern(len: usize) -> Bytes {
    (0..len).map(|index| (index % 251) as u8).collect()
}

async fn connect(dialer: &Dialer, server: &Server) -> Connection {
    dialer
        .dial(server.id, &server.address.to_string(), NODE_ALPN)
        .await
        .unwrap()
}

/// Sends `len` bytes and reads them back; gives the hash of what came.
async fn echo(connection: &Connection, len: usize) {
    let mut exchange = connection.open().await.unwrap();
    let body = pattern(len);
    let expected = blake3::hash(&body);
    let mut send = exchange.send;
    let sender = tokio::spawn(async move {
        send.bytes(Bytes::from_static(&[ECHO])).await.unwrap();
        send.bytes(body).await.unwrap();
        send.finish();
    });
    let mut hasher = blake3::Hasher::new();
    while let Some(bytes) = exchange.recv.chunk(1 << 20).await.unwrap() {
        hasher.update(&bytes);
    }
    sender.await.unwrap();
    assert_eq!(hasher.finalize(), expected, "{len} bytes came back changed");
}

async fn fetch(connection: &Connection, len: u64) {
    let mut exchange = connection.open().await.unwrap();
    let mut order = vec![SEND];
    order.extend_from_slice(&len.to_le_bytes());
    exchange.send.bytes(order.into()).await.unwrap();
    exchange.send.finish();
    let block = pattern(BLOCK_BYTES);
    let mut at = 0u64;
    while let Some(bytes) = exchange.recv.chunk(1 << 20).await.unwrap() {
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let start = (at % BLOCK_BYTES as u64) as usize;
            let len = rest.len().min(BLOCK_BYTES - start);
            assert!(
                rest[..len] == block[start..start + len],
                "wrong bytes at {at}"
            );
            rest = &rest[len..];
            at += len as u64;
        }
    }
    assert_eq!(at, len);
}

#[test]
fn sixty_four_mebibytes_are_echoed_by_multishot_and_in_trains() {
    let counters = check(|dialer, server| async move {
        let connection = connect(&dialer, &server).await;
        echo(&connection, 64 << 20).await;
    });
    assert!(counters.bytes_received > 64 << 20);
    assert!(counters.bytes_sent > 64 << 20);
    let received = counters.datagrams_received;
    let multishot = counters.datagrams_received_multishot;
    let is_plain = IoChoice::of_environment() == Ok(IoChoice::Plain);
    assert!(
        is_plain || multishot * 100 >= received * 99,
        "{multishot} of {received} by multishot"
    );
    let train = counters.datagrams_sent as f64 / counters.trains_sent as f64;
    assert!(
        counters.gso_datagrams_sent * 10 >= counters.datagrams_sent * 8,
        "{counters:?}"
    );
    assert!(train >= 4.0, "mean train is {train:.1} datagrams");
}

#[test]
fn a_download_leaves_in_long_trains() {
    let counters = check(|dialer, server| async move {
        let connection = connect(&dialer, &server).await;
        fetch(&connection, 64 << 20).await;
    });
    let train = counters.datagrams_sent as f64 / counters.trains_sent as f64;
    assert!(train >= 8.0, "mean train is {train:.1} datagrams");
}

#[test]
fn fifty_streams_on_four_connections_do_not_mix_their_bytes() {
    let counters = check(|dialer, server| async move {
        let mut tasks = tokio::task::JoinSet::new();
        for lane in 0..4 {
            let connection = connect(&dialer, &server).await;
            for index in 0..13 {
                let connection = connection.clone();
                let len = 1 + lane * 100_000 + index * 37_777;
                tasks.spawn(async move { echo(&connection, len).await });
            }
        }
        while let Some(done) = tasks.join_next().await {
            done.unwrap();
        }
    });
    assert_eq!((counters.requests, counters.handshakes), (52, 4));
}

#[test]
fn a_hundred_clients_come_and_go() {
    let counters = check(|first, server| async move {
        drop(first);
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..10 {
            let server = server.clone();
            tasks.spawn(async move {
                let dialer = Dialer::new(Identity::generate()).unwrap();
                for _ in 0..10 {
                    let connection = connect(&dialer, &server).await;
                    echo(&connection, 5_000).await;
                    connection.close(Code::Ok);
                }
            });
        }
        while let Some(done) = tasks.join_next().await {
            done.unwrap();
        }
    });
    assert_eq!(
        (counters.handshakes, counters.connections_closed),
        (100, 100)
    );
}

#[test]
fn resets_reach_the_other_side_and_harm_no_other_stream() {
    check(|dialer, server| async move {
        let connection = connect(&dialer, &server).await;
        let mut refused = connection.open().await.unwrap();
        refused
            .send
            .bytes(Bytes::from_static(&[RESET]))
            .await
            .unwrap();
        let error = refused.recv.chunk(9).await.unwrap_err();
        assert_eq!(error.code(), Code::Busy);

        for _ in 0..40 {
            let mut held = connection.open().await.unwrap();
            held.send.bytes(Bytes::from_static(&[HOLD])).await.unwrap();
            held.send.bytes(pattern(100_000)).await.unwrap();
            held.send.reset(Code::Cancelled);
        }
        echo(&connection, 1_000_000).await;
    });
}

#[test]
fn a_client_that_disappears_ends_its_requests() {
    let counters = check(|dialer, server| async move {
        let connection = connect(&dialer, &server).await;
        for _ in 0..8 {
            let mut held = connection.open().await.unwrap();
            held.send.bytes(Bytes::from_static(&[HOLD])).await.unwrap();
            held.send.bytes(pattern(10_000)).await.unwrap();
            // Kept from resetting: the whole connection goes at once.
            std::mem::forget(held);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        connection.close(Code::Ok);
    });
    assert_eq!((counters.requests, counters.connections_closed), (8, 1));
}

#[test]
fn many_uploads_at_once_all_arrive_whole() {
    check(|dialer, server| async move {
        let dialer = Arc::new(dialer);
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..12 {
            let (dialer, server) = (dialer.clone(), server.clone());
            tasks.spawn(async move {
                let connection = connect(&dialer, &server).await;
                let mut exchange = connection.open().await.unwrap();
                exchange
                    .send
                    .bytes(Bytes::from_static(&[TAKE]))
                    .await
                    .unwrap();
                exchange.send.bytes(pattern(3_000_000)).await.unwrap();
                exchange.send.finish();
                let mut count = [0; 8];
                exchange.recv.read_exact(&mut count).await.unwrap();
                assert_eq!(u64::from_le_bytes(count), 3_000_000);
            });
        }
        while let Some(done) = tasks.join_next().await {
            done.unwrap();
        }
    });
}

#[test]
fn a_socket_on_all_addresses_of_both_families_answers_from_the_right_one() {
    check_on("[::]:0", |dialer, server| async move {
        for host in ["127.0.0.1", "127.5.6.7", "[::1]"] {
            let address = format!("{host}:{}", server.address.port());
            let connection = dialer.dial(server.id, &address, NODE_ALPN).await.unwrap();
            echo(&connection, 100_000).await;
        }
    });
}

#[test]
fn nodes_of_one_core_dial_each_other_from_their_own_sockets() {
    let core = start(CoreOptions::default(), |core| async move {
        let first = core
            .endpoint(
                &Identity::generate(),
                "127.0.0.1:0".parse().unwrap(),
                handler(),
            )
            .unwrap();
        let second = core
            .endpoint(
                &Identity::generate(),
                "127.0.0.2:0".parse().unwrap(),
                handler(),
            )
            .unwrap();
        let connection = first
            .dial(second.node_id(), second.local_addr(), NODE_ALPN)
            .await
            .unwrap();
        let (mut send, mut recv) = connection.open().await.unwrap();
        send.send(Bytes::from_static(&[TAKE])).await.unwrap();
        send.send(pattern(2_000_000)).await.unwrap();
        send.finish();
        let count = read_u64(&mut recv).await.unwrap();
        second.close(Code::Shutdown).await;
        assert!(connection.is_closed());
        first.close(Code::Shutdown).await;
        count
    });
    assert_eq!(core.unwrap().join().unwrap(), 2_000_000);
}
