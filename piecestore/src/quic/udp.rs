//! The seam between QUIC and the network: trains of datagrams in and out.
//!
//! Both sides are non-blocking: the driver takes what has arrived, sends what there is room for,
//! and is told through a flag when either changes. Loss is legal anywhere. [`RingDatagram`] is the
//! real network, and `plain::PlainDatagram` where io_uring is not to be had; `simulated` holds the other.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use crate::core::notify::Notify;
use crate::ring::Ring;
pub use crate::ring::{Outgoing, Received, SocketId};

/// A network as the driver sees it.
pub trait Datagram {
    /// Opens a socket; port 0 takes any.
    ///
    /// # Errors
    ///
    /// If the address is taken or not ours.
    fn bind(&self, address: SocketAddr) -> io::Result<SocketId>;

    /// Where a socket is bound; `None` once closed.
    fn local_address(&self, socket: SocketId) -> Option<SocketAddr>;

    /// Closes a socket. What was sent still goes out.
    fn unbind(&self, socket: SocketId);

    /// Raises `reader` when trains arrive, and when there is room again after there was none.
    fn set_reader(&self, reader: Rc<Notify>);

    /// The next train that has arrived.
    fn try_receive(&self) -> Option<Received>;

    /// How many trains may be sent now.
    fn send_room(&self) -> usize;

    /// Whether a train may hold several datagrams.
    fn has_segmentation(&self, socket: SocketId) -> bool;

    /// Sends a train, for which there is room.
    fn send(&self, socket: SocketId, outgoing: Outgoing);

    /// An empty buffer to fill and [`send`](Self::send).
    fn spare_payload(&self) -> Vec<u8>;

    /// Takes such a buffer back unsent.
    fn recycle(&self, payload: Vec<u8>);
}

/// The real network, through a core's ring.
#[derive(Debug)]
pub struct RingDatagram(Rc<Ring>);

impl RingDatagram {
    /// Datagrams through `ring`.
    #[must_use]
    pub fn new(ring: Rc<Ring>) -> Self {
        Self(ring)
    }
}

impl Datagram for RingDatagram {
    fn bind(&self, address: SocketAddr) -> io::Result<SocketId> {
        self.0.bind(address)
    }

    fn local_address(&self, socket: SocketId) -> Option<SocketAddr> {
        self.0.local_address(socket)
    }

    fn unbind(&self, socket: SocketId) {
        self.0.unbind(socket);
    }

    fn set_reader(&self, reader: Rc<Notify>) {
        self.0.set_reader(reader);
    }

    fn try_receive(&self) -> Option<Received> {
        self.0.try_receive()
    }

    fn send_room(&self) -> usize {
        self.0.send_room()
    }

    fn has_segmentation(&self, socket: SocketId) -> bool {
        self.0.has_segmentation(socket)
    }

    fn send(&self, socket: SocketId, outgoing: Outgoing) {
        self.0.send(socket, outgoing);
    }

    fn spare_payload(&self) -> Vec<u8> {
        self.0.spare_payload()
    }

    fn recycle(&self, payload: Vec<u8>) {
        self.0.recycle(payload);
    }
}
