//! A client that a node knows: connections over quinn, permits for pieces, and the pieces.

use std::cell::{Cell, RefCell};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use piecestore::permission::EpochKeys;
use piecestore::serve::simulated::{Permits, Segment};
use strand_codec::{Shape, sealed_len};
use strand_protocol::NodeId;
use strand_protocol::limits::{CONNECT_TIMEOUT, SEGMENT_BYTES_MAX};
use strand_protocol::permit::LimitAction;
use strand_transport::{
    Identity, NODE_ALPN, Role, announce_datagrams, bind_udp, client_crypto, transport_config,
};

use super::subject;
use crate::random::Random;

/// See the module's head.
pub(super) struct Client {
    endpoint: quinn::Endpoint,
    config: quinn::ClientConfig,
    address: SocketAddr,
    id: NodeId,
    permits: Permits,
    pub(super) keys: EpochKeys,
    random: RefCell<Random>,
    /// Handshakes that it began.
    pub(super) dialled: Cell<u64>,
}

/// Pieces of a segment, and how many of them are needed.
const TOTAL: u8 = 80;
const REQUIRED: u8 = 29;

/// Any of them: they cost the same.
const INDEX: u8 = 17;

impl Client {
    /// One of the node `node` at `address`, with an identity of its own. Needs a runtime of tokio's.
    pub(super) fn new(node: NodeId, address: SocketAddr, role: Role) -> Result<Self> {
        let identity = Identity::generate();
        let crypto = client_crypto(&identity, NODE_ALPN, node)?;
        let mut config = quinn::ClientConfig::new(crypto);
        config.transport_config(Arc::new(transport_config(role)));
        let socket = bind_udp((Ipv4Addr::UNSPECIFIED, 0).into())?;
        let mut endpoint = quinn::EndpointConfig::default();
        announce_datagrams(&mut endpoint, role);
        let runtime = Arc::new(quinn::TokioRuntime);
        let permits = subject::permits(node);
        let mut seed = [0; 8];
        getrandom::fill(&mut seed)?;
        Ok(Self {
            endpoint: quinn::Endpoint::new(endpoint, None, socket, runtime)?,
            config,
            address,
            id: identity.node_id(),
            keys: permits.epoch_keys(permits.epoch),
            permits,
            random: RefCell::new(Random::new(u64::from_le_bytes(seed), "client")),
            dialled: Cell::new(0),
        })
    }

    /// A connection, authenticated.
    pub(super) async fn connect(&self) -> Result<quinn::Connection> {
        self.dialled.set(self.dialled.get() + 1);
        let connecting = self
            .endpoint
            .connect_with(self.config.clone(), self.address, "node")?;
        Ok(tokio::time::timeout(CONNECT_TIMEOUT, connecting)
            .await
            .context("no answer to a handshake")??)
    }

    /// What the satellite would permit.
    pub(super) fn limit(&self, action: LimitAction, segment: &Segment) -> Result<Vec<u8>> {
        let mut serial = [0; 16];
        for word in serial.as_chunks_mut::<8>().0 {
            *word = self.random.borrow_mut().next().to_le_bytes();
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
        let now_ms = u64::try_from(now.as_millis())?;
        let fields = self
            .permits
            .fields(action, segment, self.id, serial, now_ms);
        Ok(self.permits.mint(&fields))
    }
}

/// A piece of such a length, always the same.
pub(super) fn segment_of(piece_bytes: u64) -> Result<Segment> {
    let mut random = Random::new(piece_bytes, "piece");
    let words = (0..piece_bytes / 8).flat_map(|_| random.next().to_le_bytes());
    let body: Bytes = words.collect();
    let shape = shape_of(piece_bytes)?;
    Ok(Segment::draw(shape, INDEX, body, || random.next()))
}

/// The shape whose pieces are so long.
fn shape_of(piece_bytes: u64) -> Result<Shape> {
    let most = u64::from(REQUIRED) * piece_bytes;
    // Each chunk of 16,384 bytes grows by 16, and there is an empty one behind full ones.
    let plain_bytes = most - most.div_ceil(16_400) * 16;
    let mut plain_bytes = plain_bytes.min(SEGMENT_BYTES_MAX);
    while sealed_len(plain_bytes) > most {
        plain_bytes -= 1;
    }
    let shape = Shape::new(REQUIRED, TOTAL, sealed_len(plain_bytes))?;
    ensure!(
        shape.piece_len() == piece_bytes,
        "no piece is {piece_bytes} bytes long"
    );
    Ok(shape)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_shape_for_each_length_of_a_row() {
        for row in super::super::row::ROWS {
            shape_of(row.turn.piece_bytes).unwrap();
        }
        assert!(shape_of(1_000).is_err());
    }
}
