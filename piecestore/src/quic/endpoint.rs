//! One node's end of the network: its socket, its identity, its dial-outs.
//!
//! Dialling goes through the same socket that serves, so whoever is dialled sees the address
//! under which the node can be reached.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use quinn_proto::{ConnectionError, VarInt};
use strand_protocol::limits::{
    CONNECT_TIMEOUT, NODE_CONNECTION_WINDOW_FIRST_BYTES, NODE_SEND_WINDOW_FIRST_BYTES,
};
use strand_protocol::{Code, NodeId};
use strand_transport::{NODE_ALPN, Role, TlsError, announce_datagrams, transport_config};

use super::connection::Connection;
use super::driver::{Driver, Handler, Node, in_order};
use super::security::Security;
use crate::core::executor::{Executor, timeout};

/// How long a closing endpoint waits for its peers to acknowledge what was answered: a few probe time-outs of a slow path.
const ANSWERS_WAIT: Duration = Duration::from_secs(2);
/// How often it looks.
const ANSWERS_PERIOD: Duration = Duration::from_millis(5);
/// How long a closing endpoint waits for its handlers once their connections are closed.
const HANDLERS_WAIT: Duration = Duration::from_secs(5);
/// How long it waits for connections to drain, which takes three probe time-outs each.
const DRAIN_WAIT: Duration = Duration::from_secs(1);

/// See the module's head. Clones are the same endpoint.
pub struct Endpoint<E> {
    driver: Driver<E>,
    node: Rc<Node>,
}

/// Why a node could not be added.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// The address is taken, not ours, or the socket lacks an option.
    #[error("cannot listen on {address}: {source}")]
    Socket {
        /// What was asked for.
        address: SocketAddr,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The identity is of no use for TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// Why a peer could not be dialled.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DialError {
    /// No handshake within `limits::CONNECT_TIMEOUT`.
    #[error("no answer from {address} within {} s", CONNECT_TIMEOUT.as_secs())]
    TimedOut {
        /// Where it was dialled.
        address: SocketAddr,
    },
    /// This socket cannot reach addresses of that kind.
    #[error("{address} cannot be reached from this node's socket")]
    Unreachable {
        /// Where it should have been dialled.
        address: SocketAddr,
    },
    /// The handshake failed: another key, another protocol, or a refusal.
    #[error("connection to {address} failed: {reason}")]
    Failed {
        /// Where it was dialled.
        address: SocketAddr,
        /// What QUIC or TLS says.
        reason: ConnectionError,
    },
    /// Nothing was tried: our own configuration or state forbids it.
    #[error("cannot dial {address}: {reason}")]
    Local {
        /// Where it should have been dialled.
        address: SocketAddr,
        /// Why not.
        reason: String,
    },
}

impl<E: Executor> Driver<E> {
    /// Opens a node's socket and begins to serve on it.
    ///
    /// # Errors
    ///
    /// [`BindError`].
    pub fn add_node(
        &self,
        identity: &(impl Security + Clone + 'static),
        listen: SocketAddr,
        handler: Handler,
    ) -> Result<Endpoint<E>, BindError> {
        let mut server = identity.server_config(NODE_ALPN)?;
        let mut transport = transport_config(Role::NodeServer);
        // Until a long body was admitted.
        transport
            .receive_window(VarInt::from_u32(NODE_CONNECTION_WINDOW_FIRST_BYTES as u32))
            .send_window(NODE_SEND_WINDOW_FIRST_BYTES as u64);
        server.transport_config(Arc::new(transport));
        let socket = self
            .core
            .datagram
            .bind(listen)
            .map_err(|source| BindError::Socket {
                address: listen,
                source,
            })?;
        let local = self.core.datagram.local_address(socket).unwrap_or(listen);
        let mut config = identity.endpoint_config();
        announce_datagrams(&mut config, Role::NodeServer);
        let config = Arc::new(config);
        // The socket never fragments, so path MTU discovery may be trusted.
        let proto = quinn_proto::Endpoint::new(config, Some(Arc::new(server)), true, None);
        let node = Rc::new(Node::new(
            socket,
            local,
            Rc::new(identity.clone()),
            proto,
            handler,
        ));
        self.core.nodes.borrow_mut().insert(socket, node.clone());
        Ok(Endpoint {
            driver: self.clone(),
            node,
        })
    }
}

impl<E: Executor> Endpoint<E> {
    /// Who this node is.
    #[must_use]
    pub fn node_id(&self) -> NodeId {
        self.node.node_id()
    }

    /// Where it listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.node.local
    }

    /// Connections it has, its own dial-outs included.
    #[must_use]
    pub fn connection_count(&self) -> usize {
        self.node.connections.borrow().len()
    }

    /// Requests being answered.
    #[must_use]
    pub fn request_count(&self) -> usize {
        self.node.gate.inside_count()
    }

    /// Connects to the node `id`, and to no other, from this node's socket.
    ///
    /// # Errors
    ///
    /// [`DialError`], within `limits::CONNECT_TIMEOUT`.
    pub async fn dial(
        &self,
        id: NodeId,
        address: SocketAddr,
        alpn: &'static [u8],
    ) -> Result<Connection, DialError> {
        let core = &self.driver.core;
        let local = |reason: &dyn std::fmt::Display| DialError::Local {
            address,
            reason: reason.to_string(),
        };
        if self.node.gate.is_closing() {
            return Err(local(&"the node is closing"));
        }
        let remote = self
            .node
            .reachable(address)
            .ok_or(DialError::Unreachable { address })?;
        let config = self.node.identity.client_config(alpn, id);
        let mut config = config.map_err(|error| local(&error))?;
        config.transport_config(Arc::new(transport_config(Role::Client)));
        let now = self.driver.executor.now();
        let (handle, proto) = self
            .node
            .proto
            .borrow_mut()
            .connect(now, config, remote, &id.to_string())
            .map_err(|error| local(&error))?;
        let cell = core.add_connection(&self.node, handle, proto, None);
        // From here on giving up closes it.
        let connection = Connection::new(cell, id, remote);
        match timeout(
            &self.driver.executor,
            CONNECT_TIMEOUT,
            connection.connected(),
        )
        .await
        {
            Some(Ok(())) => Ok(connection),
            Some(Err(reason)) => Err(DialError::Failed { address, reason }),
            None => Err(DialError::TimedOut { address }),
        }
    }

    /// Whether some peer has not acknowledged all of an answer that was finished.
    fn has_unacknowledged(&self) -> bool {
        let connections = self.node.connections.borrow();
        connections
            .values()
            .any(|cell| !cell.state.borrow().unacknowledged.is_empty())
    }

    /// Refuses what is new, waits until peers have the answers that were finished, closes every connection with `code`, waits for the
    /// handlers to see it and for the last packets to leave, and frees the socket.
    pub async fn close(&self, code: Code) {
        let executor = &self.driver.executor;
        self.node.gate.begin_close();
        // CONNECTION_CLOSE ends retransmission: a receipt that was lost on the way would never arrive.
        let deadline = executor.now() + ANSWERS_WAIT;
        while self.has_unacknowledged() && executor.now() < deadline {
            executor.sleep(ANSWERS_PERIOD).await;
        }
        let open = in_order(&self.node.connections.borrow());
        for cell in open {
            cell.close(code);
        }
        if timeout(executor, HANDLERS_WAIT, self.node.gate.close())
            .await
            .is_none()
        {
            let left = self.node.gate.inside_count();
            tracing::warn!(left, "requests did not end with their connections");
        }
        let deadline = executor.now() + DRAIN_WAIT;
        while self.connection_count() > 0 && executor.now() < deadline {
            let wait = deadline - executor.now();
            let _ = timeout(executor, wait, self.node.emptied.notified()).await;
        }
        self.driver.core.datagram.unbind(self.node.socket);
        self.driver
            .core
            .nodes
            .borrow_mut()
            .remove(&self.node.socket);
    }
}

impl<E: Clone> Clone for Endpoint<E> {
    fn clone(&self) -> Self {
        Self {
            driver: self.driver.clone(),
            node: self.node.clone(),
        }
    }
}

impl<E> std::fmt::Debug for Endpoint<E> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Endpoint")
            .field("local", &self.node.local)
            .finish_non_exhaustive()
    }
}
