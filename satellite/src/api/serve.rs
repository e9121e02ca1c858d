//! Connections and exchanges: one task for each, all bounded, none waiting without an end.

use std::sync::Arc;

use strand_protocol::pb::satellite_response::Answer;
use strand_protocol::{Code, FrameError, limits as shared, pb};
use strand_transport::{Accepting, Exchange, Server, StreamError};

use super::Peer;
use crate::core::refusal::Refusal;
use crate::limits;
use crate::state::Satellite;
use crate::store::MetaStore;

/// Answers connections until the server is closed.
pub(crate) async fn serve<S: MetaStore>(satellite: Arc<Satellite<S>>, server: Arc<Server>) {
    // The transport bounds handshakes, connections, and streams of each connection.
    while let Some(newcomer) = server.accept().await {
        tokio::spawn(serve_connection(satellite.clone(), newcomer));
    }
}

async fn serve_connection<S: MetaStore>(satellite: Arc<Satellite<S>>, newcomer: Accepting) {
    let address = newcomer.remote_address();
    let connection = match newcomer.connection().await {
        Ok(connection) => connection,
        Err(error) => {
            tracing::debug!(%address, %error, "handshake failed");
            return;
        }
    };
    let peer = Peer {
        id: connection.peer(),
        address,
    };
    while let Ok(exchange) = connection.accept_exchange().await {
        tokio::spawn(serve_exchange(satellite.clone(), peer.clone(), exchange));
    }
}

async fn serve_exchange<S: MetaStore>(
    satellite: Arc<Satellite<S>>,
    peer: Peer,
    mut exchange: Exchange,
) {
    let answer = match satellite.requests.clone().try_acquire_owned() {
        Err(_) => Err(Refusal::busy("the satellite has too many requests")),
        // The permit is held until the answer is made; sending it needs no more than the stream.
        Ok(_permit) => match read(&mut exchange).await {
            Ok(Some(request)) => {
                let answer = Box::pin(super::answer(&satellite, &peer, request));
                tokio::time::timeout(shared::SATELLITE_REQUEST_TIMEOUT, answer)
                    .await
                    .unwrap_or_else(|_| {
                        Err(Refusal::new(Code::Timeout, "the satellite was too slow"))
                    })
            }
            Ok(None) => return,
            Err(refusal) => Err(refusal),
        },
    };
    let answer = answer.unwrap_or_else(|refusal| {
        tracing::debug!(peer = %peer.id, %refusal, "refused");
        Answer::Error(refusal.into())
    });
    send(&mut exchange, answer).await;
}

/// The request; `None` if the peer gave up.
async fn read(exchange: &mut Exchange) -> Result<Option<pb::SatelliteRequest>, Refusal> {
    let frame = exchange.recv.frame(limits::REQUEST_FRAME_BYTES_MAX);
    match tokio::time::timeout(shared::STALL_TIMEOUT, frame).await {
        Ok(Ok(request)) => Ok(Some(request)),
        Ok(Err(StreamError::Frame(error))) => {
            let code = match error {
                FrameError::TooLarge { .. } => Code::TooLarge,
                _ => Code::BadRequest,
            };
            Err(Refusal::new(code, error.to_string()))
        }
        Ok(Err(_)) => Ok(None),
        Err(_) => Err(Refusal::new(
            Code::Timeout,
            "the request did not arrive in time",
        )),
    }
}

/// Sends the answer; a peer that does not take it in time is cut.
async fn send(exchange: &mut Exchange, answer: Answer) {
    let response = pb::SatelliteResponse {
        answer: Some(answer),
    };
    let sending = exchange.send.frame(&response);
    match tokio::time::timeout(shared::STALL_TIMEOUT, sending).await {
        Ok(Ok(())) => exchange.send.finish(),
        Ok(Err(_)) => {}
        Err(_) => exchange.reset(Code::Timeout),
    }
}
