//! Dialling node ids.
//!
//! A [`Dialer`] is one identity behind a few UDP sockets: connections go round robin over them, so
//! that a client of 93 nodes has more than one socket's buffer and more than one driver task. It
//! keeps no connections: pooling is its callers' business.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use quinn::{ConnectionError, Endpoint, EndpointConfig, TokioRuntime, TransportConfig};
use strand_protocol::{Code, NodeId, limits};

use crate::config::{Role, announce_datagrams, transport_config};
use crate::identity::Identity;
use crate::socket::bind_udp;
use crate::stream::{Connection, wire};
use crate::tls;

/// Sockets, hence driver tasks, of one dialler for each address family.
const ENDPOINT_COUNT: usize = 2;

/// How long [`Dialer::close`] waits for the last packets to leave.
const CLOSE_WAIT: Duration = Duration::from_millis(100);

/// TLS alert `no_application_protocol` (RFC 7301).
const ALERT_NO_APPLICATION_PROTOCOL: u8 = 120;

/// Makes connections under one identity.
pub struct Dialer {
    identity: Identity,
    role: Role,
    transport: Arc<TransportConfig>,
    next: AtomicUsize,
    v4: Vec<Endpoint>,
    /// Made when the first IPv6 address is dialled: many hosts have none.
    v6: OnceLock<Vec<Endpoint>>,
}

/// Why there is no connection. The text says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DialError {
    /// Not `host:port`, or a name that does not resolve.
    #[error("cannot resolve '{address}' (want HOST:PORT): {reason}")]
    Address {
        /// As given.
        address: String,
        /// What the resolver said.
        reason: String,
    },
    /// No UDP socket to be had.
    #[error("cannot open a UDP socket: {0}")]
    Socket(io::Error),
    /// Silence.
    #[error("no answer from {address} within {seconds} s: is it running, and is UDP open?")]
    NoAnswer {
        /// As given.
        address: String,
        /// How long we waited.
        seconds: u64,
    },
    /// Somebody else lives there.
    #[error("the server at {address} is not {expected} (its key hashes to {found})")]
    WrongNode {
        /// As given.
        address: String,
        /// Whom we wanted.
        expected: Box<NodeId>,
        /// Whose key was shown.
        found: Box<NodeId>,
    },
    /// The server speaks another protocol or version.
    #[error("the server at {address} does not speak {alpn}: is it of another kind or version?")]
    Protocol {
        /// As given.
        address: String,
        /// What we offered.
        alpn: String,
    },
    /// The server refuses connections: it is busy or going down.
    #[error("the server at {address} is refusing connections: try again later")]
    Refused {
        /// As given.
        address: String,
    },
    /// The handshake failed otherwise.
    #[error("cannot connect to {address}: {reason}")]
    Failed {
        /// As given.
        address: String,
        /// What the transport said.
        reason: String,
    },
    /// TLS could not be set up.
    #[error(transparent)]
    Tls(#[from] tls::TlsError),
}

impl DialError {
    /// Whether another try later may go better.
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::NoAnswer { .. } | Self::Refused { .. } | Self::Failed { .. }
        )
    }
}

impl Dialer {
    /// Opens the sockets. Must be called inside a tokio runtime, and the dialler stays with it.
    ///
    /// # Errors
    ///
    /// [`DialError::Socket`] if the system gives none.
    pub fn new(identity: Identity) -> Result<Self, DialError> {
        Self::with_role(identity, Role::Client)
    }

    /// One whose datagrams may be as long as jumbo frames carry, both ways, where the path does.
    ///
    /// # Errors
    ///
    /// As [`Dialer::new`].
    pub fn with_jumbo_datagrams(identity: Identity) -> Result<Self, DialError> {
        Self::with_role(identity, Role::JumboClient)
    }

    fn with_role(identity: Identity, role: Role) -> Result<Self, DialError> {
        let v4 = endpoints(Ipv4Addr::UNSPECIFIED.into(), role).map_err(DialError::Socket)?;
        Ok(Self {
            identity,
            role,
            transport: Arc::new(transport_config(role)),
            next: AtomicUsize::new(0),
            v4,
            v6: OnceLock::new(),
        })
    }

    /// Whom peers see.
    pub fn node_id(&self) -> NodeId {
        self.identity.node_id()
    }

    /// Connects to the node `id` at `address` (`host:port`) for the protocol `alpn`. Each address
    /// that the host resolves to is tried for `limits::CONNECT_TIMEOUT`.
    ///
    /// # Errors
    ///
    /// That of the last address tried.
    pub async fn dial(
        &self,
        id: NodeId,
        address: &str,
        alpn: &'static [u8],
    ) -> Result<Connection, DialError> {
        self.dial_within(id, address, alpn, limits::CONNECT_TIMEOUT)
            .await
    }

    /// As [`dial`](Self::dial), with a time-out of the caller's for each address.
    ///
    /// # Errors
    ///
    /// As [`dial`](Self::dial).
    pub async fn dial_within(
        &self,
        id: NodeId,
        address: &str,
        alpn: &'static [u8],
        timeout: Duration,
    ) -> Result<Connection, DialError> {
        let no_answer = || DialError::NoAnswer {
            address: address.to_owned(),
            seconds: timeout.as_secs(),
        };
        let unresolved = |reason: String| DialError::Address {
            address: address.to_owned(),
            reason,
        };
        let resolved = tokio::time::timeout(timeout, tokio::net::lookup_host(address))
            .await
            .map_err(|_| unresolved("the name service does not answer".to_owned()))?
            .map_err(|error| unresolved(error.to_string()))?;
        let mut last = unresolved("the name has no address".to_owned());
        for socket_address in resolved {
            let attempt = self.attempt(id, address, socket_address, alpn);
            match tokio::time::timeout(timeout, attempt).await {
                Ok(Ok(connection)) => return Ok(connection),
                Ok(Err(error)) => last = error,
                Err(_) => last = no_answer(),
            }
        }
        Err(last)
    }

    async fn attempt(
        &self,
        id: NodeId,
        address: &str,
        socket_address: SocketAddr,
        alpn: &'static [u8],
    ) -> Result<Connection, DialError> {
        let seen = Arc::new(OnceLock::new());
        let crypto = tls::client_crypto_witnessed(&self.identity, alpn, id, seen.clone())?;
        let mut config = quinn::ClientConfig::new(crypto);
        config.transport_config(self.transport.clone());
        let failed = |reason: String| DialError::Failed {
            address: address.to_owned(),
            reason,
        };
        let connecting = self
            .endpoint(socket_address)?
            .connect_with(config, socket_address, &id.to_string())
            .map_err(|error| failed(error.to_string()))?;
        let error = match connecting.await {
            Ok(connection) => return Ok(Connection::new(connection, id)),
            Err(error) => error,
        };
        if let Some(found) = seen.get() {
            return Err(DialError::WrongNode {
                address: address.to_owned(),
                expected: Box::new(id),
                found: Box::new(*found),
            });
        }
        Err(match error {
            ConnectionError::TimedOut => DialError::NoAnswer {
                address: address.to_owned(),
                seconds: limits::IDLE_TIMEOUT.as_secs(),
            },
            ConnectionError::ConnectionClosed(close)
                if close.error_code
                    == quinn::TransportErrorCode::crypto(ALERT_NO_APPLICATION_PROTOCOL) =>
            {
                DialError::Protocol {
                    address: address.to_owned(),
                    alpn: String::from_utf8_lossy(alpn).into_owned(),
                }
            }
            ConnectionError::ConnectionClosed(close)
                if close.error_code == quinn::TransportErrorCode::CONNECTION_REFUSED =>
            {
                DialError::Refused {
                    address: address.to_owned(),
                }
            }
            other => failed(other.to_string()),
        })
    }

    fn endpoint(&self, target: SocketAddr) -> Result<&Endpoint, DialError> {
        let endpoints = match target {
            SocketAddr::V4(_) => &self.v4,
            SocketAddr::V6(_) => match self.v6.get() {
                Some(endpoints) => endpoints,
                None => {
                    let made = endpoints(Ipv6Addr::UNSPECIFIED.into(), self.role)
                        .map_err(DialError::Socket)?;
                    self.v6.get_or_init(|| made)
                }
            },
        };
        Ok(&endpoints[self.next.fetch_add(1, Ordering::Relaxed) % endpoints.len()])
    }

    /// Closes all connections and gives the packets that say so a moment to leave.
    ///
    /// QUIC keeps a closed connection for three probe time-outs, to answer what still comes (RFC
    /// 9000 section 10.2): a second and more after a busy transfer, for which nobody waits.
    pub async fn close(&self) {
        let endpoints = self.v4.iter().chain(self.v6.get().into_iter().flatten());
        for endpoint in endpoints.clone() {
            endpoint.close(wire(Code::Ok), b"");
        }
        let idle = async {
            for endpoint in endpoints {
                endpoint.wait_idle().await;
            }
        };
        let _ = tokio::time::timeout(CLOSE_WAIT, idle).await;
    }
}

impl std::fmt::Debug for Dialer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dialer")
            .field("node_id", &self.node_id())
            .finish_non_exhaustive()
    }
}

fn endpoints(ip: IpAddr, role: Role) -> io::Result<Vec<Endpoint>> {
    let endpoint = |_| {
        let socket = bind_udp(SocketAddr::new(ip, 0))?;
        let mut config = EndpointConfig::default();
        announce_datagrams(&mut config, role);
        Endpoint::new(config, None, socket, Arc::new(TokioRuntime))
    };
    (0..ENDPOINT_COUNT).map(endpoint).collect()
}
