//! A network in memory and virtual time, for tests.
//!
//! Fault model: each datagram of a train is dropped with a given chance, by a choice drawn from
//! the executor's seed; what is left arrives as one train after a delay drawn between two bounds,
//! so that trains overtake each other. Datagrams for nobody vanish. A host's room to send is
//! bounded and comes back when a train arrives. Not simulated: bandwidth, ECN marks,
//! datagrams beyond a path's size, corruption (QUIC's packet protection makes it loss).

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::BytesMut;

use super::udp::{Datagram, Outgoing, Received, SocketId};
use crate::core::executor::Executor;
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
        let mut survivors = BytesMut::new();
        for datagram in outgoing.payload.chunks(segment_bytes) {
            if network.executor.random() % 1000 < network.weather.get().lost_permille {
                network.lost_count.set(network.lost_count.get() + 1);
            } else if survivors.len().is_multiple_of(segment_bytes) {
                survivors.extend_from_slice(datagram);
            }
        }
        survivors
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
        self.host.in_flight.set(self.host.in_flight.get() + 1);
        let bytes = self.network.survivors(&outgoing, segment_bytes);
        let (network, sender) = (self.network.clone(), self.host.clone());
        let delay = network.delay();
        let executor = network.0.executor.clone();
        executor.clone().spawn(async move {
            executor.sleep(delay).await;
            sender.in_flight.set(sender.in_flight.get() - 1);
            sender.alarm();
            let bound = network.0.bound.borrow().get(&outgoing.destination).cloned();
            if let (Some((socket, host)), false) = (bound, bytes.is_empty()) {
                let local_ip = Some(outgoing.destination.ip());
                let ecn = outgoing.ecn;
                let received = Received {
                    socket,
                    remote,
                    local_ip,
                    ecn,
                    segment_bytes,
                    bytes,
                };
                host.arrived.borrow_mut().push_back(received);
                host.alarm();
            }
        });
    }

    fn spare_payload(&self) -> Vec<u8> {
        Vec::new()
    }

    fn recycle(&self, _payload: Vec<u8>) {}
}

impl Host {
    fn alarm(&self) {
        if let Some(reader) = &*self.reader.borrow() {
            reader.notify();
        }
    }
}
