//! The other side: the verbs of a node and its store, unchanged, on what one would reach for first. A current-thread tokio, quinn with
//! aws-lc-rs, and a pool of threads for the disk.
//!
//! It is meant to be good: windows, datagrams, acknowledgements and socket buffers are the node's own, chunks are taken from a stream many at a
//! time, bodies go to the disk by the same durable vectored writes, and what is in memory is read through the same maps. `baseline_vs_quinn_bulk`
//! says whether anything was lost between quinn and the verbs.

mod disk;
mod stream;

use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use anyhow::Result;
use piecestore::stream::Request;
use strand_transport::{
    Identity, NODE_ALPN, Role, announce_datagrams, bind_udp, peer_node_id, server_crypto_by_aws_lc,
    transport_config,
};

pub(super) use self::disk::PoolDisk;
pub(super) use self::stream::{QuinnRecv, QuinnSend};

/// Answers one request; called once for each accepted stream.
pub(super) type Handler =
    Rc<dyn Fn(Request<QuinnSend, QuinnRecv>) -> Pin<Box<dyn Future<Output = ()>>>>;

/// Listens as a node does.
pub(super) fn listen(identity: &Identity, address: SocketAddr) -> Result<quinn::Endpoint> {
    let mut config =
        quinn::ServerConfig::with_crypto(server_crypto_by_aws_lc(identity, NODE_ALPN)?);
    config.transport_config(Arc::new(transport_config(Role::NodeServer)));
    let runtime = Arc::new(quinn::TokioRuntime);
    let socket = bind_udp(address)?;
    let mut endpoint = quinn::EndpointConfig::default();
    announce_datagrams(&mut endpoint, Role::NodeServer);
    Ok(quinn::Endpoint::new(
        endpoint,
        Some(config),
        socket,
        runtime,
    )?)
}

/// Accepts connections and their requests until the endpoint is closed.
pub(super) async fn serve(endpoint: quinn::Endpoint, handler: Handler) {
    while let Some(incoming) = endpoint.accept().await {
        let handler = Rc::clone(&handler);
        tokio::task::spawn_local(async move {
            // Who fails its handshake, or goes away, is no concern of the others.
            let Ok(connection) = incoming.await else {
                return;
            };
            let Some(peer) = peer_node_id(connection.peer_identity()) else {
                return;
            };
            while let Ok((send, recv)) = connection.accept_bi().await {
                let (send, recv) = (QuinnSend::new(send), QuinnRecv::new(recv));
                tokio::task::spawn_local(handler(Request { peer, send, recv }));
            }
        });
    }
}
