//! Dial and serve a node id: QUIC connections whose ends prove raw Ed25519 keys, and framed
//! exchanges on their streams.
//!
//! The one impure crate of the engine: it owns sockets (through quinn on tokio) and key files.
//! It knows frames, not verbs: what a request means is its callers' business. `piecestore`, which
//! drives quinn-proto by hand, uses only [`identity`](Identity), the TLS and transport
//! configurations from here.
//!
//! - [`Identity`]: key files. - [`client_crypto`], [`server_crypto`], [`peer_node_id`]: TLS.
//! - [`transport_config`]: windows, streams, time-outs. - [`Dialer`], [`Server`]: the two ends.
//! - [`Connection`], [`Exchange`]: one request is one bidirectional stream.
//!
//! **Invariant:** a [`Connection`] exists only between proven keys. **Invariant:** no wait
//! without a time-out but those for a peer's next frame or request, which end with the
//! connection's idle time-out at the latest.

mod config;
mod dial;
mod identity;
mod packets;
mod serve;
mod socket;
mod stream;
#[cfg(test)]
mod tests;
mod tls;

pub use config::{Role, announce_datagrams, transport_config};
pub use dial::{DialError, Dialer};
pub use identity::{Identity, IdentityError, read_secret, write_secret};
pub use packets::PacketProtection;
pub use serve::{AcceptError, Accepting, BindError, Server};
pub use socket::bind_udp;
pub use stream::{Answer, Connection, Exchange, RecvHalf, SendHalf, StreamError};
pub use tls::{
    NODE_ALPN, SATELLITE_ALPN, TlsError, client_crypto, peer_node_id, server_crypto,
    server_crypto_by_aws_lc,
};
