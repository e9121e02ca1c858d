//! How an endpoint proves who it is: the seam between QUIC and its cryptography.
//!
//! [`Identity`] is the real one, TLS with raw keys; `simulated_security` holds the other, whose every byte follows from a seed.

use std::any::Any;

use quinn_proto::{ClientConfig, EndpointConfig, ServerConfig};
use strand_protocol::NodeId;
use strand_transport::{Identity, TlsError, client_crypto, peer_node_id, server_crypto};

/// One endpoint's key, and what QUIC draws at random for it.
pub trait Security {
    /// Whose key this is.
    fn node_id(&self) -> NodeId;

    /// Reset keys, connection ids, seeds.
    fn endpoint_config(&self) -> EndpointConfig;

    /// What this end presents and demands when it is dialled for the protocol `alpn`.
    ///
    /// # Errors
    ///
    /// Only if the crypto library lacks what we ask of it.
    fn server_config(&self, alpn: &'static [u8]) -> Result<ServerConfig, TlsError>;

    /// What it presents when it dials, and that it wants `expected` and nobody else.
    ///
    /// # Errors
    ///
    /// Only if the crypto library lacks what we ask of it.
    fn client_config(
        &self,
        alpn: &'static [u8],
        expected: NodeId,
    ) -> Result<ClientConfig, TlsError>;

    /// Whom a session's `peer_identity` names; `None` before the handshake has shown it.
    fn peer_node_id(&self, identity: Option<Box<dyn Any>>) -> Option<NodeId>;
}

impl Security for Identity {
    fn node_id(&self) -> NodeId {
        Self::node_id(self)
    }

    fn endpoint_config(&self) -> EndpointConfig {
        EndpointConfig::default()
    }

    fn server_config(&self, alpn: &'static [u8]) -> Result<ServerConfig, TlsError> {
        Ok(ServerConfig::with_crypto(server_crypto(self, alpn)?))
    }

    fn client_config(
        &self,
        alpn: &'static [u8],
        expected: NodeId,
    ) -> Result<ClientConfig, TlsError> {
        Ok(ClientConfig::new(client_crypto(self, alpn, expected)?))
    }

    fn peer_node_id(&self, identity: Option<Box<dyn Any>>) -> Option<NodeId> {
        peer_node_id(identity)
    }
}
