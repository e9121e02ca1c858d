//! A network in memory and virtual time, for tests.
//!
//! Fault model: each datagram of a train is dropped with a given chance, by a choice drawn from
//! the executor's seed; what is left arrives as one train after a delay drawn between two bounds,
//! so that trains overtake each other. Datagrams for nobody vanish. A host's room to send is
//! bounded and comes back when a train arrives. A datagram may be damaged (one bit) or come twice. A host that died
//! ([`SimDatagram::die`]) has no sockets any more. Not simulated: bandwidth, ECN marks, datagrams beyond a path's size.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::BytesMut;

use super::udp::{Datagram, Outgoing, Received, SocketId};
use crate::core::notify::Notify;
use crate::core::simulated::SimExecutor;

/// How the network treats trains.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    /// Least time a train takes.
    pub delay_min: Duration,
    /// Most time it takes.
    pub delay_max: Duration,
    /// Datagrams lost of a thousand.
    pub lost_permille: u64,
    /// Datagrams damaged of a thousand.
    pub damaged_permille: u64,
    /// Trains that arrive twice of a thousand.
    pub doubled_permille: u64,
}

/// The network. Clones are the same one.
#[derive(Clone)]
pub struct SimNetwork(Rc<Network>);

/// One host's view of it.
pub struct SimDatagram {
    network: SimNetwork,
    host: Rc<Host>,
}

struct Network {
    executor: SimExecutor,
    weather: Cell<Weather>,
    next_port: Cell<u16>,
    next_socket: Cell<usize>,
    bound: RefCell<BTreeMap<SocketAddr, (SocketId, Rc<Host>)>>,
    lost_count: Cell<u64>,
    /// A payload to be filled.
    spare: Cell<Vec<u8>>,
}

struct Host {
    arrived: RefCell<VecDeque<Received>>,
    reader: RefCell<Option<Rc<Notify>>>,
    in_flight: Cell<usize>,
    has_segmentation: bool,
}

/// Trains a host may have on the way.
const ROOM: usize = 32;

impl SimNetwork {
    /// A network on `executor`'s clock and seed.
    #[must_use]
    pub fn new(executor: SimExecutor, weather: Weather) -> Self {
        Self(Rc::new(Network {
            executor,
            weather: Cell::new(weather),
            next_port: Cell::new(10_000),
            next_socket: Cell::new(0),
            bound: RefCell::default(),
            lost_count: Cell::new(0),
            spare: Cell::default(),
        }))
    }

    /// A host on the network; `has_segmentation` as [`Datagram::has_segmentation`] will say.
    #[must_use]
    pub fn host(&self, has_segmentation: bool) -> Rc<SimDatagram> {
        let host = Host {
            arrived: RefCell::default(),
            reader: RefCell::default(),
            in_flight: Cell::new(0),
            has_segmentation,
        };
        Rc::new(SimDatagram {
            network: self.clone(),
            host: Rc::new(host),
        })
    }

    /// Changes how trains sent from now on fare.
    pub fn set_weather(&self, weather: Weather) {
        self.0.weather.set(weather);
    }

    /// Datagrams lost so far.
    #[must_use]
    pub fn lost_count(&self) -> u64 {
        self.0.lost_count.get()
    }

    /// What of a train survives, datagram by datagram.
    fn survivors(&self, outgoing: &Outgoing, segment_bytes: usize) -> BytesMut {
        let network = &self.0;
        let mut survivors = BytesMut::with_capacity(outgoing.payload.len());
        for datagram in outgoing.payload.chunks(segment_bytes) {
            let weather = network.weather.get();
            if weather.lost_permille > 0 && self.happens(weather.lost_permille) {
                network.lost_count.set(network.lost_count.get() + 1);
            } else if survivors.len().is_multiple_of(segment_bytes) {
                survivors.extend_from_slice(datagram);
                if weather.damaged_permille > 0 && self.happens(weather.damaged_permille) {
                    let bit = network.executor.random() as usize % (datagram.len() * 8);
                    let at = survivors.len() - datagram.len() + bit / 8;
                    survivors[at] ^= 1 << (bit % 8);
                }
            }
        }
        survivors
    }

    fn happens(&self, permille: u64) -> bool {
        self.0.executor.random() % 1000 < permille
    }

    fn delay(&self) -> Duration {
        let weather = self.0.weather.get();
        let spread_us = (weather.delay_max - weather.delay_min).as_micros() as u64;
        let extra_us = self.0.executor.random() % (spread_us + 1);
        weather.delay_min + Duration::from_micros(extra_us)
    }
}

impl Datagram for SimDatagram {
    fn bind(&self, mut address: SocketAddr) -> io::Result<SocketId> {
        let network = &self.network.0;
        if address.port() == 0 {
            address.set_port(network.next_port.get());
            network.next_port.set(network.next_port.get() + 1);
        }
        if network.bound.borrow().contains_key(&address) {
            return Err(io::Error::from_raw_os_error(libc::EADDRINUSE));
        }
        let socket = SocketId(network.next_socket.get());
        network.next_socket.set(socket.0 + 1);
        network
            .bound
            .borrow_mut()
            .insert(address, (socket, self.host.clone()));
        Ok(socket)
    }

    fn local_address(&self, socket: SocketId) -> Option<SocketAddr> {
        let bound = self.network.0.bound.borrow();
        bound
            .iter()
            .find(|(_, (bound, _))| *bound == socket)
            .map(|(address, _)| *address)
    }

    fn unbind(&self, socket: SocketId) {
        self.network
            .0
            .bound
            .borrow_mut()
            .retain(|_, (bound, _)| *bound != socket);
    }

    fn set_reader(&self, reader: Rc<Notify>) {
        *self.host.reader.borrow_mut() = Some(reader);
    }

    fn try_receive(&self) -> Option<Received> {
        self.host.arrived.borrow_mut().pop_front()
    }

    fn send_room(&self) -> usize {
        ROOM - self.host.in_flight.get()
    }

    fn has_segmentation(&self, _socket: SocketId) -> bool {
        self.host.has_segmentation
    }

    fn send(&self, socket: SocketId, outgoing: Outgoing) {
        assert!(self.send_room() > 0, "a train without room");
        assert!(
            outgoing.payload.len() <= 65_507,
            "a train longer than UDP can carry"
        );
        let segment_bytes = outgoing
            .segment_bytes
            .map_or(outgoing.payload.len(), usize::from);
        assert!(self.host.has_segmentation || segment_bytes >= outgoing.payload.len());
        let Some(remote) = self.local_address(socket) else {
            return;
        };
        let Outgoing {
            destination, ecn, ..
        } = outgoing;
        let bytes = self.network.survivors(&outgoing, segment_bytes);
        self.recycle(outgoing.payload);
        let received = || Received {
            socket,
            remote,
            local_ip: Some(destination.ip()),
            ecn,
            datagrams: Received::cut(&bytes, segment_bytes),
        };
        let executor = &self.network.0.executor;
        executor.note(checksum(&bytes) ^ u64::from(destination.port()));
        let doubled_permille = self.network.0.weather.get().doubled_permille;
        if doubled_permille > 0 && self.network.happens(doubled_permille) {
            self.carry(destination, None, received());
        }
        self.host.in_flight.set(self.host.in_flight.get() + 1);
        let sender = Rc::clone(&self.host);
        self.carry(destination, Some(sender), received());
    }

    fn spare_payload(&self) -> Vec<u8> {
        self.network.0.spare.take()
    }

    fn recycle(&self, mut payload: Vec<u8>) {
        payload.clear();
        self.network.0.spare.set(payload);
    }
}

impl SimDatagram {
    /// Takes all sockets of this host away, as the end of its process does.
    pub fn die(&self) {
        let mut bound = self.network.0.bound.borrow_mut();
        bound.retain(|_, (_, host)| !Rc::ptr_eq(host, &self.host));
    }

    /// Brings a train to whoever listens when it arrives; then the sender has room for another.
    fn carry(&self, destination: SocketAddr, sender: Option<Rc<Host>>, mut received: Received) {
        let (network, delay) = (self.network.clone(), self.network.delay());
        let executor = network.0.executor.clone();
        executor.after(delay, move || {
            if let Some(sender) = sender {
                sender.in_flight.set(sender.in_flight.get() - 1);
                sender.alarm();
            }
            let bound = network.0.bound.borrow().get(&destination).cloned();
            if let (Some((socket, host)), false) = (bound, received.datagrams.is_empty()) {
                received.socket = socket;
                host.arrived.borrow_mut().push_back(received);
                host.alarm();
            }
        });
    }
}

/// Tells trains apart in the trace.
fn checksum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let step =
        |sum: u64, word: u64| (sum.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
    let words = words.iter().map(|word| u64::from_le_bytes(*word));
    let rest = rest.iter().map(|byte| u64::from(*byte));
    words.chain(rest).fold(bytes.len() as u64, step)
}

impl Host {
    fn alarm(&self) {
        if let Some(reader) = &*self.reader.borrow() {
            reader.notify();
        }
    }
}
