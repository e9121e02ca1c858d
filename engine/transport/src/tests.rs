//! Both ends over loopback.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use strand_protocol::{Code, NodeId, pb};

use crate::{
    Connection, DialError, Dialer, Identity, NODE_ALPN, Role, SATELLITE_ALPN, Server, StreamError,
    tls,
};

const SECOND: Duration = Duration::from_secs(1);

/// A server on loopback that answers pings with its own id, then echoes raw bytes.
async fn start() -> (NodeId, SocketAddr, Arc<Server>) {
    let identity = Identity::generate();
    let loopback = "127.0.0.1:0".parse().unwrap();
    let server = Arc::new(
        Server::bind(&identity, loopback, NODE_ALPN, Role::NodeServer)
            .await
            .unwrap(),
    );
    let address = server.local_address().unwrap();
    let (node_id, accepting) = (identity.node_id(), server.clone());
    tokio::spawn(async move {
        while let Some(newcomer) = accepting.accept().await {
            tokio::spawn(async move {
                let Ok(connection) = newcomer.connection().await else {
                    return;
                };
                while let Ok(exchange) = connection.accept_exchange().await {
                    tokio::spawn(echo(node_id, connection.peer(), exchange));
                }
            });
        }
    });
    (node_id, address, server)
}

async fn echo(node_id: NodeId, peer: NodeId, mut exchange: crate::Exchange) {
    let request: Result<pb::NodeRequest, _> = exchange.recv.frame(1_000).await;
    let answer = match request {
        Ok(pb::NodeRequest {
            verb: Some(pb::node_request::Verb::Ping(_)),
        }) => {
            // The version field carries who the server thinks is asking.
            pb::node_response::Answer::Pong(pb::Pong {
                version: peer.to_string(),
                node_id: node_id.as_bytes().to_vec(),
            })
        }
        Ok(_) => pb::node_response::Answer::Error(Code::Unsupported.error("only pings here")),
        Err(error) => pb::node_response::Answer::Error(error.code().error(error.to_string())),
    };
    let _ = exchange
        .send
        .frame(&pb::NodeResponse {
            answer: Some(answer),
        })
        .await;
    while let Ok(Some(chunk)) = exchange.recv.chunk(65_536).await {
        if exchange.send.bytes(chunk).await.is_err() {
            return;
        }
    }
    exchange.send.finish();
}

fn ping() -> pb::NodeRequest {
    pb::NodeRequest {
        verb: Some(pb::node_request::Verb::Ping(pb::Ping {})),
    }
}

async fn dial(node_id: NodeId, address: SocketAddr) -> (Dialer, Connection) {
    let dialer = Dialer::new(Identity::generate()).unwrap();
    let connection = dialer
        .dial(node_id, &address.to_string(), NODE_ALPN)
        .await
        .unwrap();
    (dialer, connection)
}

#[tokio::test]
async fn both_ends_learn_who_the_other_is() {
    let (node_id, address, _server) = start().await;
    let (dialer, connection) = dial(node_id, address).await;
    assert_eq!(connection.peer(), node_id);
    assert_eq!(connection.remote_address(), address);
    let answer: pb::NodeResponse = connection.call(&ping(), 1_000, SECOND).await.unwrap();
    let Some(pb::node_response::Answer::Pong(pong)) = answer.answer else {
        panic!("{answer:?}")
    };
    assert_eq!(pong.version, dialer.node_id().to_string());
    assert_eq!(pong.node_id, node_id.as_bytes());
}

#[tokio::test]
async fn a_server_with_another_key_is_refused_by_name() {
    let (node_id, address, _server) = start().await;
    let wanted = Identity::generate().node_id();
    let dialer = Dialer::new(Identity::generate()).unwrap();
    let error = dialer
        .dial(wanted, &address.to_string(), NODE_ALPN)
        .await
        .unwrap_err();
    assert!(matches!(error, DialError::WrongNode { .. }), "{error:?}");
    assert_eq!(
        error.to_string(),
        format!("the server at {address} is not {wanted} (its key hashes to {node_id})")
    );
}

#[tokio::test]
async fn a_client_without_a_key_is_refused() {
    let (node_id, address, _server) = start().await;
    let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let config = quinn::ClientConfig::new(tls::keyless_client_crypto(NODE_ALPN, node_id));
    let connecting = endpoint
        .connect_with(config, address, &node_id.to_string())
        .unwrap();
    // In TLS 1.3 a client may think itself connected before the server has judged its key, so
    // the refusal shows in the handshake or right after it.
    let error = match connecting.await {
        Ok(connection) => connection.closed().await,
        Err(error) => error,
    };
    let quinn::ConnectionError::ConnectionClosed(close) = error else {
        panic!("{error:?}")
    };
    // TLS alert certificate_required.
    assert_eq!(close.error_code, quinn::TransportErrorCode::crypto(116));
}

#[tokio::test]
async fn another_protocol_is_refused_by_name() {
    let (node_id, address, _server) = start().await;
    let dialer = Dialer::new(Identity::generate()).unwrap();
    let error = dialer
        .dial(node_id, &address.to_string(), SATELLITE_ALPN)
        .await
        .unwrap_err();
    assert!(matches!(error, DialError::Protocol { .. }), "{error:?}");
    assert!(error.to_string().contains("strand-satellite/1"), "{error}");
}

#[tokio::test]
async fn silence_ends_in_a_time_out_that_says_what_to_check() {
    // A bound socket that never answers.
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    let dialer = Dialer::new(Identity::generate()).unwrap();
    let wanted = Identity::generate().node_id();
    let error = dialer
        .dial_within(wanted, &address.to_string(), NODE_ALPN, SECOND)
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("no answer from {address} within 1 s: is it running, and is UDP open?")
    );
    assert!(error.is_transient());
}

#[tokio::test]
async fn an_address_without_a_port_is_refused() {
    let dialer = Dialer::new(Identity::generate()).unwrap();
    let wanted = Identity::generate().node_id();
    let error = dialer
        .dial(wanted, "127.0.0.1", NODE_ALPN)
        .await
        .unwrap_err();
    assert!(matches!(error, DialError::Address { .. }), "{error:?}");
    assert!(error.to_string().contains("HOST:PORT"), "{error}");
}

#[tokio::test]
async fn frames_and_raw_bytes_pass_both_ways() {
    let (node_id, address, _server) = start().await;
    let (_dialer, connection) = dial(node_id, address).await;
    let mut exchange = connection.open().await.unwrap();
    exchange.send.frame(&ping()).await.unwrap();
    let answer: pb::NodeResponse = exchange.recv.answer(1_000).await.unwrap();
    assert!(matches!(
        answer.answer,
        Some(pb::node_response::Answer::Pong(_))
    ));
    // More than every window, so that both directions must be read as they are written.
    let body = Bytes::from(
        (0..12_000_000_u32)
            .map(|i| (i % 251) as u8)
            .collect::<Vec<_>>(),
    );
    let crate::Exchange { mut send, mut recv } = exchange;
    let sent = body.clone();
    let sending = tokio::spawn(async move {
        send.chunks(&mut [sent.slice(..5), sent.slice(5..)])
            .await
            .unwrap();
        send.finish();
        send.delivered().await.unwrap();
    });
    let mut returned = Vec::new();
    while let Some(chunk) = recv.chunk(usize::MAX).await.unwrap() {
        returned.extend_from_slice(&chunk);
    }
    sending.await.unwrap();
    assert!(returned == body, "{} bytes returned", returned.len());
}

#[tokio::test]
async fn an_error_in_an_answer_is_an_error_of_the_call() {
    let (node_id, address, _server) = start().await;
    let (_dialer, connection) = dial(node_id, address).await;
    let empty = pb::NodeRequest { verb: None };
    let answer = connection
        .call::<pb::NodeResponse>(&empty, 1_000, SECOND)
        .await;
    assert_eq!(
        answer.unwrap_err(),
        StreamError::Answer {
            code: Code::Unsupported,
            message: "only pings here".to_owned(),
            retry_after_ms: 0
        }
    );
}

#[tokio::test]
async fn an_oversized_frame_is_refused_by_its_length_alone() {
    let (node_id, address, _server) = start().await;
    let (_dialer, connection) = dial(node_id, address).await;
    let mut exchange = connection.open().await.unwrap();
    exchange
        .send
        .bytes(Bytes::copy_from_slice(&u32::MAX.to_le_bytes()))
        .await
        .unwrap();
    let answer = exchange.recv.answer::<pb::NodeResponse>(1_000).await;
    assert!(
        matches!(answer, Err(StreamError::Answer { .. })),
        "{answer:?}"
    );
}

#[tokio::test]
async fn a_dropped_exchange_is_reset_and_not_finished() {
    let identity = Identity::generate();
    let loopback = "127.0.0.1:0".parse().unwrap();
    let server = Server::bind(&identity, loopback, NODE_ALPN, Role::NodeServer)
        .await
        .unwrap();
    let address = server.local_address().unwrap();
    let client = tokio::spawn(async move {
        let (dialer, connection) = dial(identity.node_id(), address).await;
        let mut exchange = connection.open().await.unwrap();
        exchange
            .send
            .bytes(Bytes::from_static(b"half a body"))
            .await
            .unwrap();
        drop(exchange);
        connection.closed().await;
        dialer.close().await;
    });
    let connection = server.accept().await.unwrap().connection().await.unwrap();
    let mut exchange = connection.accept_exchange().await.unwrap();
    let end = loop {
        match exchange.recv.chunk(65_536).await {
            Ok(Some(_)) => {}
            other => break other,
        }
    };
    assert_eq!(end.unwrap_err(), StreamError::Reset(Code::Cancelled));
    server.close(Code::Shutdown).await;
    client.await.unwrap();
}

#[tokio::test]
async fn a_closing_server_says_why() {
    let (node_id, address, server) = start().await;
    let (_dialer, connection) = dial(node_id, address).await;
    // An answer proves that the server, too, has done the handshake: before that a close cannot
    // carry an application's code.
    connection
        .call::<pb::NodeResponse>(&ping(), 1_000, SECOND)
        .await
        .unwrap();
    server.close(Code::Shutdown).await;
    assert_eq!(
        connection.closed().await,
        StreamError::Closed(Code::Shutdown)
    );
    assert!(connection.is_closed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_of_newcomers_is_served() {
    // More than may shake hands before newcomers have to prove their address.
    const NEWCOMERS: usize = 3 * strand_protocol::limits::HANDSHAKES_MAX;
    let (node_id, address, server) = start().await;
    let dialer = Arc::new(Dialer::new(Identity::generate()).unwrap());
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..NEWCOMERS {
        let dialer = dialer.clone();
        tasks.spawn(async move {
            let address = address.to_string();
            let connection = dialer
                .dial_within(node_id, &address, NODE_ALPN, 20 * SECOND)
                .await?;
            let answer: Result<pb::NodeResponse, _> =
                connection.call(&ping(), 1_000, 20 * SECOND).await;
            answer.unwrap();
            Ok::<_, DialError>(connection)
        });
    }
    let connections = tasks.join_all().await;
    assert!(
        connections.iter().all(Result::is_ok),
        "{:?}",
        connections.iter().find(|c| c.is_err())
    );
    assert!(server.connection_count() >= NEWCOMERS);
}
