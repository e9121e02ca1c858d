//! QUIC for nodes: quinn-proto driven by hand on a core's ring.
//!
//! quinn-proto computes, we move its bytes: one endpoint and socket per node, one [`Driver`] for
//! all nodes of a core. What stays true: work is proportional to activity (connections that
//! changed are on a list; nothing scans them all); whole GSO trains go in and out; connections,
//! handshakes and requests are bounded, and what exceeds a bound is refused. What a request
//! *means* is left to `serve`, how datagrams travel to [`Datagram`].
//!
//! | file | noun |
//! |---|---|
//! | `driver` | the task that runs connections, and its turn |
//! | `endpoint` | one node's end: dialling, closing |
//! | `connection` | one connection's state, and the handle of a dialled one |
//! | `stream` | the two halves of a request |
//! | `memory` | what the connections of a core may pin, and which goes when it is short |
//! | `timer` | which connection's clock runs out first |
//! | `udp` | the seam to the network, and the ring behind it |
//! | `security` | the seam to cryptography, and TLS behind it |
//! | `simulated` | a network in memory, for tests |
//! | `simulated_security` | handshakes and packet protection that follow from a seed, for tests |

mod connection;
mod driver;
mod endpoint;
mod memory;
mod security;
#[cfg(any(test, feature = "testing"))]
pub mod simulated;
#[cfg(any(test, feature = "testing"))]
pub mod simulated_security;
mod stream;
#[cfg(test)]
mod tests;
mod timer;
pub mod udp;

pub use connection::Connection;
pub use driver::{Driver, Handler};
pub use endpoint::{BindError, DialError, Endpoint};
pub use security::Security;
pub use stream::{QuicRecv, QuicSend};
pub use udp::{Datagram, RingDatagram};
