//! Accepting connections for one identity on one UDP socket.
//!
//! Handshakes are bounded: past `limits::HANDSHAKES_MAX` an unproven address must first echo a
//! retry token, past [`HANDSHAKES_MAX`] newcomers are refused; so are they beyond [`CONNECTIONS_MAX`].

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::{Endpoint, EndpointConfig, ServerConfig, TokioRuntime};
use strand_protocol::{Code, limits};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::config::{Role, announce_datagrams, transport_config};
use crate::identity::Identity;
use crate::socket::bind_udp;
use crate::stream::{Connection, wire};
use crate::tls;

/// Handshakes in progress at once. One costs about 0.35 ms of this side's CPU and some 50 KB. From
/// `limits::HANDSHAKES_MAX` on, an unproven address must first echo a retry token.
const HANDSHAKES_MAX: usize = 4 * limits::HANDSHAKES_MAX;

/// Connections open at once.
const CONNECTIONS_MAX: usize = 4_096;

/// A UDP socket that answers for a node id.
pub struct Server {
    endpoint: Endpoint,
    handshakes: Arc<Semaphore>,
}

/// A connection whose handshake is still to be done.
#[derive(Debug)]
pub struct Accepting {
    incoming: quinn::Incoming,
    permit: OwnedSemaphorePermit,
}

/// Why a server could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// The address is taken, or not ours.
    #[error("cannot listen on UDP {address}: {source}")]
    Socket {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// TLS could not be set up.
    #[error(transparent)]
    Tls(#[from] tls::TlsError),
}

/// Why a handshake came to nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AcceptError {
    /// It took longer than `limits::CONNECT_TIMEOUT`.
    #[error("handshake not done in time")]
    TimedOut,
    /// The peer failed it, for example by showing no key.
    #[error("handshake failed: {0}")]
    Handshake(#[from] quinn::ConnectionError),
    /// The peer's key has no node id.
    #[error("the peer showed no usable key")]
    NoKey,
}

impl Server {
    /// Listens on `address` as `identity` for the protocol `alpn`. Needs a tokio runtime.
    ///
    /// # Errors
    ///
    /// If the address cannot be bound.
    pub async fn bind(
        identity: &Identity,
        address: SocketAddr,
        alpn: &'static [u8],
        role: Role,
    ) -> Result<Self, BindError> {
        let mut config = ServerConfig::with_crypto(tls::server_crypto(identity, alpn)?);
        config
            .transport_config(Arc::new(transport_config(role)))
            .max_incoming(HANDSHAKES_MAX);
        let endpoint = bind_udp(address)
            .and_then(|socket| {
                let runtime = Arc::new(TokioRuntime);
                let mut endpoint = EndpointConfig::default();
                announce_datagrams(&mut endpoint, role);
                Endpoint::new(endpoint, Some(config), socket, runtime)
            })
            .map_err(|source| BindError::Socket { address, source })?;
        Ok(Self {
            endpoint,
            handshakes: Arc::new(Semaphore::new(HANDSHAKES_MAX)),
        })
    }

    /// Where it listens, with the port that the system chose if 0 was asked for.
    ///
    /// # Errors
    ///
    /// If the system does not say.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.endpoint.local_addr()
    }

    /// The next newcomer; `None` once the server is closed. Finish its handshake in a task of its
    /// own, so that a slow one holds up nobody.
    pub async fn accept(&self) -> Option<Accepting> {
        loop {
            let incoming = self.endpoint.accept().await?;
            if self.endpoint.open_connections() >= CONNECTIONS_MAX {
                incoming.refuse();
                continue;
            }
            let Ok(permit) = self.handshakes.clone().try_acquire_owned() else {
                incoming.refuse();
                continue;
            };
            let is_busy =
                HANDSHAKES_MAX - self.handshakes.available_permits() > limits::HANDSHAKES_MAX;
            if is_busy && !incoming.remote_address_validated() && incoming.may_retry() {
                // Fails only where `may_retry` is false.
                let _ = incoming.retry();
                continue;
            }
            return Some(Accepting { incoming, permit });
        }
    }

    /// Connections now open, handshakes included.
    pub fn connection_count(&self) -> usize {
        self.endpoint.open_connections()
    }

    /// Closes all connections with `code`, refuses new ones, and waits until the peers were
    /// told, at most a second.
    pub async fn close(&self, code: Code) {
        self.endpoint.close(wire(code), b"");
        let _ = tokio::time::timeout(Duration::from_secs(1), self.endpoint.wait_idle()).await;
    }
}

impl Accepting {
    /// Where the newcomer says it is.
    pub fn remote_address(&self) -> SocketAddr {
        self.incoming.remote_address()
    }

    /// Completes the handshake.
    ///
    /// # Errors
    ///
    /// If the peer fails it or takes too long.
    pub async fn connection(self) -> Result<Connection, AcceptError> {
        let Self { incoming, permit } = self;
        let handshake = tokio::time::timeout(limits::CONNECT_TIMEOUT, incoming);
        let connection = handshake.await.map_err(|_| AcceptError::TimedOut)??;
        drop(permit);
        match tls::peer_node_id(connection.peer_identity()) {
            Some(peer) => Ok(Connection::new(connection, peer)),
            None => {
                connection.close(wire(Code::Denied), b"");
                Err(AcceptError::NoKey)
            }
        }
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server")
            .field("address", &self.local_address())
            .finish_non_exhaustive()
    }
}
