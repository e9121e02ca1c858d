//! The task that runs all connections of a core, in turns.
//!
//! A turn takes the trains that have arrived and hands each datagram to its connection, fires the
//! timers that are due, and then runs every connection that changed: events out, trains out, next
//! deadline. After each turn the other tasks run, so that what a batch of packets woke answers
//! in the next batch. A turn is bounded (trains taken, trains sent per connection); a
//! connection with more to say goes to the end of the list.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::Waker;
use std::time::{Duration, Instant};

use quinn_proto::{
    ConnectionError, ConnectionHandle, DatagramEvent, Dir, EcnCodepoint, Event, Incoming,
    StreamEvent, Transmit,
};
use strand_protocol::limits::{self, HANDSHAKES_MAX};
use strand_protocol::{Code, NodeId};

use super::connection::{ConnectionCell, ConnectionState, Phase, Worklist, wake_all};
use super::memory::ConnectionMemory;
use super::security::Security;
use super::stream::{QuicRecv, QuicSend};
use super::timer::{ConnectionNumber, Timers};
use super::udp::{Datagram, Outgoing, Received, SocketId};
use crate::budget::{Budget, BudgetUse, Reservation};
use crate::core::counters::Counters;
use crate::core::executor::{Executor, timeout};
use crate::core::gate::Gate;
use crate::core::notify::Notify;
use crate::limits::{HANDSHAKE_WAIT, PROVEN_HANDSHAKES_MAX, REQUESTS_MAX};
use crate::stream::{RecvStream, Request, SendStream};

/// Trains taken in one turn; the rest waits in the kernel's buffers.
const TRAINS_TAKEN_MAX: usize = 64;
/// Trains one connection may send in one turn, so that others get theirs: 256 KiB and a bit.
const TRAINS_SENT_MAX: usize = 4;
/// How long a closing driver waits for its last packets to leave.
const LAST_SENDS_WAIT: Duration = Duration::from_millis(500);

/// Answers one request; called once for each accepted stream.
pub type Handler = Rc<dyn Fn(Request<QuicSend, QuicRecv>) -> Pin<Box<dyn Future<Output = ()>>>>;

/// See the module's head. Clones are the same driver.
pub struct Driver<E> {
    pub(super) executor: E,
    pub(super) core: Rc<DriverState>,
}

/// What all nodes of a core share.
pub(super) struct DriverState {
    pub(super) datagram: Rc<dyn Datagram>,
    pub(super) worklist: Rc<Worklist>,
    pub(super) counters: Rc<Counters>,
    /// By socket.
    pub(super) nodes: RefCell<HashMap<SocketId, Rc<Node>>>,
    next_number: Cell<u64>,
    /// Requests being answered.
    requests: Gate,
    timers: RefCell<Timers>,
    /// Connections that had more to send than there was room for.
    blocked: RefCell<Vec<Rc<ConnectionCell>>>,
    is_closing: Cell<bool>,
}

/// One node's endpoint.
pub(super) struct Node {
    pub(super) socket: SocketId,
    pub(super) local: SocketAddr,
    pub(super) identity: Rc<dyn Security>,
    pub(super) proto: RefCell<quinn_proto::Endpoint>,
    pub(super) connections: RefCell<HashMap<ConnectionHandle, Rc<ConnectionCell>>>,
    pub(super) handler: Handler,
    /// Requests being answered.
    pub(super) gate: Gate,
    /// Handshakes under way.
    handshakes: Gate,
    /// Connections that peers began, oldest first; gone once they are looked at after their handshakes.
    begun: RefCell<VecDeque<(Instant, Weak<ConnectionCell>)>>,
    /// Raised when the last connection is gone.
    pub(super) emptied: Notify,
}

impl<E: Executor> Driver<E> {
    /// A driver over `datagram`, whose connections may pin `connection_bytes_max`; [`run`](Self::run) has to be spawned.
    #[must_use]
    pub fn new(
        executor: E,
        datagram: Rc<dyn Datagram>,
        counters: Rc<Counters>,
        connection_bytes_max: u64,
    ) -> Self {
        let wake = Rc::new(Notify::new());
        datagram.set_reader(wake.clone());
        let clock = executor.clone();
        let now = Box::new(move || clock.now());
        let core = DriverState {
            datagram,
            worklist: Rc::new(Worklist {
                dirty: RefCell::default(),
                wake,
                now,
                connections: RefCell::default(),
                memory: ConnectionMemory::new(Budget::new(connection_bytes_max)),
                counters: counters.clone(),
            }),
            counters,
            nodes: RefCell::default(),
            next_number: Cell::new(0),
            requests: Gate::new(),
            timers: RefCell::default(),
            blocked: RefCell::default(),
            is_closing: Cell::new(false),
        };
        Self {
            executor,
            core: Rc::new(core),
        }
    }

    /// Memory that its connections may pin.
    #[must_use]
    pub fn connection_budget(&self) -> BudgetUse {
        self.core.worklist.memory.usage()
    }

    /// Runs connections until [`close`](Self::close).
    pub async fn run(&self) {
        let core = &self.core;
        while !core.is_closing.get() {
            if self.turn() {
                self.executor.yield_now().await;
                continue;
            }
            let next = core.timers.borrow().next();
            match next {
                Some(at) => {
                    let wait = at.saturating_duration_since(self.executor.now());
                    let _ = timeout(&self.executor, wait, core.worklist.wake.notified()).await;
                }
                None => core.worklist.wake.notified().await,
            }
        }
    }

    /// Closes what endpoints have left open, gives last packets time to leave, ends the driver.
    pub async fn close(&self) {
        let core = &self.core;
        let left = in_order(&core.worklist.connections.borrow());
        for cell in left {
            cell.close(Code::Shutdown);
        }
        let deadline = self.executor.now() + LAST_SENDS_WAIT;
        while !core.worklist.dirty.borrow().is_empty() && self.executor.now() < deadline {
            self.executor.sleep(Duration::from_millis(1)).await;
        }
        let mut sockets: Vec<_> = core.nodes.take().into_keys().collect();
        sockets.sort_unstable();
        for socket in sockets {
            core.datagram.unbind(socket);
        }
        core.is_closing.set(true);
        core.worklist.wake.notify();
    }

    /// One turn; `false` if there was nothing to do.
    fn turn(&self) -> bool {
        let core = &self.core;
        let now = self.executor.now();
        let mut has_worked = false;
        for _ in 0..TRAINS_TAKEN_MAX {
            let Some(received) = core.datagram.try_receive() else {
                break;
            };
            core.handle_received(now, received);
            has_worked = true;
        }
        core.fire_timers(now);
        if core.datagram.send_room() > 0 {
            for cell in core.blocked.take() {
                cell.is_blocked.set(false);
                cell.touch();
            }
        }
        let dirty_count = core.worklist.dirty.borrow().len();
        for _ in 0..dirty_count {
            let Some(cell) = core.worklist.dirty.borrow_mut().pop_front() else {
                break;
            };
            has_worked = true;
            self.run_connection(now, &cell);
        }
        has_worked
    }

    /// Moves everything that can move on one connection.
    fn run_connection(&self, now: Instant, cell: &Rc<ConnectionCell>) {
        cell.untouch();
        let core = &self.core;
        let Some(node) = core.nodes.borrow().get(&cell.socket).cloned() else {
            return;
        };
        let mut woken = Vec::new();
        let mut requests = Vec::new();
        let mut has_more = false;
        {
            let state = &mut *cell.state.borrow_mut();
            let mut is_drained = node.exchange_events(cell.handle, state);
            core.handle_events(&node, cell, state, &mut woken, &mut requests);
            if !is_drained {
                has_more = core.send_trains(now, &node, cell, state);
                is_drained = node.exchange_events(cell.handle, state);
            }
            if is_drained {
                state.lose(ConnectionError::LocallyClosed, &mut woken);
                core.remove(&node, cell);
            } else if let Some(deadline) = state.proto.poll_timeout() {
                core.timers
                    .borrow_mut()
                    .set(cell.number, &mut state.alarm, deadline);
            }
        }
        if has_more {
            cell.touch();
        }
        wake_all(woken);
        for request in requests {
            self.start(&node, request);
        }
    }

    /// Spawns the answer to one request, unless the node is closing or the core has enough of them.
    fn start(&self, node: &Node, mut request: Request<QuicSend, QuicRecv>) {
        // A request that comes too late is dropped: reset and stopped with CANCELLED.
        let Some(pass) = node.gate.enter() else {
            return;
        };
        let requests = &self.core.requests;
        if requests.inside_count() >= REQUESTS_MAX {
            self.core.counters.requests_refused.add(1);
            request.recv.stop(Code::Busy);
            request.send.reset(Code::Busy);
            return;
        }
        let counted = requests.enter();
        self.core.counters.requests.add(1);
        let answer = (node.handler)(request);
        self.executor.spawn(async move {
            answer.await;
            drop((pass, counted));
        });
    }
}

impl DriverState {
    /// Takes a connection of quinn-proto's in.
    pub(super) fn add_connection(
        &self,
        node: &Node,
        handle: ConnectionHandle,
        proto: quinn_proto::Connection,
        memory: Option<Reservation>,
    ) -> Rc<ConnectionCell> {
        let number = ConnectionNumber(self.next_number.get());
        self.next_number.set(number.0 + 1);
        let worklist = self.worklist.clone();
        let share = memory.map(|memory| {
            let now = (worklist.now)();
            worklist.memory.share(number, memory, now)
        });
        let connections = &self.worklist.connections;
        let phase = Phase::Handshaking {
            _counted: node.handshakes.enter(),
        };
        let cell = ConnectionCell::new(number, handle, node.socket, proto, phase, share, worklist);
        connections.borrow_mut().insert(number, cell.clone());
        node.connections.borrow_mut().insert(handle, cell.clone());
        cell.touch();
        cell
    }

    /// Forgets a connection that quinn-proto has done with.
    fn remove(&self, node: &Node, cell: &ConnectionCell) {
        self.counters.connections_closed.add(1);
        self.worklist.connections.borrow_mut().remove(&cell.number);
        let mut connections = node.connections.borrow_mut();
        connections.remove(&cell.handle);
        if connections.is_empty() {
            node.emptied.notify();
        }
    }

    /// Hands each datagram of a train to its connection.
    fn handle_received(&self, now: Instant, received: Received) {
        let Some(node) = self.nodes.borrow().get(&received.socket).cloned() else {
            return;
        };
        let Received {
            remote,
            local_ip,
            datagrams,
            ..
        } = received;
        let ecn = EcnCodepoint::from_bits(received.ecn);
        // A train comes from one socket and mostly is one connection's.
        let mut last: Option<Rc<ConnectionCell>> = None;
        for datagram in datagrams {
            let mut response = Vec::new();
            let event =
                node.proto
                    .borrow_mut()
                    .handle(now, remote, local_ip, ecn, datagram, &mut response);
            match event {
                Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                    if last.as_ref().is_none_or(|cell| cell.handle != handle) {
                        last = node.connections.borrow().get(&handle).cloned();
                    }
                    if let Some(cell) = &last {
                        cell.state.borrow_mut().proto.handle_event(event);
                        cell.touch();
                    }
                }
                Some(DatagramEvent::NewConnection(incoming)) => {
                    self.handle_incoming(now, &node, incoming);
                }
                Some(DatagramEvent::Response(transmit)) => self.respond(&node, &transmit, response),
                None => {}
            }
        }
    }

    /// Accepts, defers or refuses a new connection.
    fn handle_incoming(&self, now: Instant, node: &Node, incoming: Incoming) {
        node.end_late_handshakes(now);
        let handshake_count = node.handshakes.inside_count();
        let memory = self.worklist.memory.admit();
        let is_full = memory.is_none() || handshake_count >= HANDSHAKES_MAX;
        let mut buffer = Vec::new();
        let response = if node.gate.is_closing() || handshake_count >= PROVEN_HANDSHAKES_MAX {
            self.counters.handshakes_refused.add(1);
            Some(node.proto.borrow_mut().refuse(incoming, &mut buffer))
        } else if is_full && incoming.may_retry() {
            // Nobody is closed, and little remembered, for an address that may be another's.
            self.counters.handshakes_refused.add(1);
            node.proto.borrow_mut().retry(incoming, &mut buffer).ok()
        } else if let Some(memory) = memory.or_else(|| self.memory_of_another(now)) {
            let accepted = node
                .proto
                .borrow_mut()
                .accept(incoming, now, &mut buffer, None);
            match accepted {
                Ok((handle, proto)) => {
                    let cell = self.add_connection(node, handle, proto, Some(memory));
                    let begun = (now, Rc::downgrade(&cell));
                    node.begun.borrow_mut().push_back(begun);
                    None
                }
                Err(error) => error.response,
            }
        } else {
            self.counters.handshakes_refused.add(1);
            Some(node.proto.borrow_mut().refuse(incoming, &mut buffer))
        };
        if let Some(transmit) = response {
            self.respond(node, &transmit, buffer);
        }
    }

    /// Memory for a new connection: that of one that has been quiet for longest.
    fn memory_of_another(&self, now: Instant) -> Option<Reservation> {
        let memory = &self.worklist.memory;
        let is_closed = self.worklist.dispense(memory.dispensable(now));
        is_closed.then(|| memory.admit()).flatten()
    }

    /// Sends a packet that belongs to no connection. With no room it is lost, as packets may be.
    fn respond(&self, node: &Node, transmit: &Transmit, mut payload: Vec<u8>) {
        payload.truncate(transmit.size);
        if self.datagram.send_room() > 0 {
            self.datagram
                .send(node.socket, node.outgoing(transmit, payload));
        }
    }

    /// Fires the timers that are due.
    fn fire_timers(&self, now: Instant) {
        let mut timers = self.timers.borrow_mut();
        while let Some((at, number)) = timers.pop_due(now) {
            let found = self.worklist.connections.borrow().get(&number).cloned();
            let Some(cell) = found else {
                continue;
            };
            let state = &mut *cell.state.borrow_mut();
            if !state.alarm.is_due(at) {
                continue;
            }
            match state.proto.poll_timeout() {
                Some(deadline) if deadline <= now => {
                    state.proto.handle_timeout(now);
                    cell.touch();
                }
                Some(deadline) => timers.set(number, &mut state.alarm, deadline),
                None => {}
            }
        }
    }

    /// Sends what the connection has, as far as its share of a turn and the room go.
    /// `true`: it has more.
    fn send_trains(
        &self,
        now: Instant,
        node: &Node,
        cell: &Rc<ConnectionCell>,
        state: &mut ConnectionState,
    ) -> bool {
        let datagrams_max = if self.datagram.has_segmentation(node.socket) {
            limits::train_datagrams(usize::from(state.proto.current_mtu()))
        } else {
            1
        };
        for _ in 0..TRAINS_SENT_MAX {
            if self.datagram.send_room() == 0 {
                if !cell.is_blocked.replace(true) {
                    self.blocked.borrow_mut().push(cell.clone());
                }
                return false;
            }
            let mut payload = self.datagram.spare_payload();
            let Some(transmit) = state.proto.poll_transmit(now, datagrams_max, &mut payload) else {
                self.datagram.recycle(payload);
                return false;
            };
            payload.truncate(transmit.size);
            self.datagram
                .send(node.socket, node.outgoing(&transmit, payload));
        }
        true
    }

    /// Acts on what quinn-proto has to say about a connection.
    fn handle_events(
        &self,
        node: &Node,
        cell: &Rc<ConnectionCell>,
        state: &mut ConnectionState,
        woken: &mut Vec<Waker>,
        requests: &mut Vec<Request<QuicSend, QuicRecv>>,
    ) {
        while let Some(event) = state.proto.poll() {
            match event {
                Event::Connected => {
                    let identity = state.proto.crypto_session().peer_identity();
                    match node.identity.peer_node_id(identity) {
                        Some(peer) => {
                            self.counters.handshakes.add(1);
                            state.phase = Phase::Open { peer };
                            woken.append(&mut state.openers);
                        }
                        // TLS demands a key of either side, so this is a fault of ours.
                        None => {
                            let code = quinn_proto::VarInt::from_u32(u32::from(Code::Internal));
                            state
                                .proto
                                .close((self.worklist.now)(), code, bytes::Bytes::new());
                            state.lose(ConnectionError::LocallyClosed, woken);
                        }
                    }
                }
                Event::ConnectionLost { reason } => state.lose(reason, woken),
                Event::Stream(StreamEvent::Readable { id }) => {
                    woken.extend(state.readers.remove(&id));
                }
                Event::Stream(StreamEvent::Writable { id }) => {
                    woken.extend(state.writers.remove(&id));
                }
                Event::Stream(StreamEvent::Stopped { id, .. }) => {
                    state.unacknowledged.remove(&id);
                    woken.extend(state.writers.remove(&id));
                }
                Event::Stream(StreamEvent::Finished { id }) => {
                    state.unacknowledged.remove(&id);
                }
                Event::Stream(StreamEvent::Available { .. }) => woken.append(&mut state.openers),
                Event::Stream(StreamEvent::Opened { .. })
                | Event::HandshakeDataReady
                | Event::DatagramReceived
                | Event::DatagramsUnblocked => {}
            }
        }
        let Phase::Open { peer } = state.phase else {
            return;
        };
        while let Some(id) = state.proto.streams().accept(Dir::Bi) {
            let send = QuicSend::new(cell.clone(), id);
            let recv = QuicRecv::new(cell.clone(), id);
            requests.push(Request { peer, send, recv });
        }
    }
}

impl Node {
    pub(super) fn new(
        socket: SocketId,
        local: SocketAddr,
        identity: Rc<dyn Security>,
        proto: quinn_proto::Endpoint,
        handler: Handler,
    ) -> Self {
        Self {
            socket,
            local,
            identity,
            proto: RefCell::new(proto),
            connections: RefCell::default(),
            handler,
            gate: Gate::new(),
            handshakes: Gate::new(),
            begun: RefCell::default(),
            emptied: Notify::new(),
        }
    }

    pub(super) fn node_id(&self) -> NodeId {
        self.identity.node_id()
    }

    /// Passes events between the endpoint and a connection. `true`: it is done for.
    fn exchange_events(&self, handle: ConnectionHandle, state: &mut ConnectionState) -> bool {
        let mut is_drained = false;
        while let Some(event) = state.proto.poll_endpoint_events() {
            is_drained |= event.is_drained();
            if let Some(event) = self.proto.borrow_mut().handle_event(handle, event) {
                state.proto.handle_event(event);
            }
        }
        is_drained
    }

    /// Closes connections of peers whose handshakes take too long; looked at when others come.
    fn end_late_handshakes(&self, now: Instant) {
        let mut begun = self.begun.borrow_mut();
        while let Some((since, cell)) = begun.front() {
            let is_under_way = |cell: &Rc<ConnectionCell>| {
                matches!(cell.state.borrow().phase, Phase::Handshaking { .. })
            };
            if let Some(cell) = cell.upgrade().filter(is_under_way) {
                if now.saturating_duration_since(*since) < HANDSHAKE_WAIT {
                    break;
                }
                cell.close(Code::Timeout);
            }
            begun.pop_front();
        }
    }

    fn outgoing(&self, transmit: &Transmit, payload: Vec<u8>) -> Outgoing {
        Outgoing {
            destination: transmit.destination,
            // A socket bound to one address has no choice.
            source_ip: transmit.src_ip.filter(|_| self.local.ip().is_unspecified()),
            ecn: transmit.ecn.map_or(0, |ecn| ecn as u8),
            segment_bytes: transmit
                .segment_size
                .and_then(|bytes| u16::try_from(bytes).ok()),
            payload,
        }
    }

    /// The form in which this node's socket sees an address of the other family, if it can.
    pub(super) fn reachable(&self, address: SocketAddr) -> Option<SocketAddr> {
        match (self.local, address) {
            (SocketAddr::V4(_), SocketAddr::V4(_)) | (SocketAddr::V6(_), SocketAddr::V6(_)) => {
                Some(address)
            }
            (SocketAddr::V6(_), SocketAddr::V4(v4)) => Some(SocketAddr::new(
                IpAddr::V6(v4.ip().to_ipv6_mapped()),
                v4.port(),
            )),
            (SocketAddr::V4(_), SocketAddr::V6(v6)) => {
                let ip = v6.ip().to_ipv4_mapped()?;
                Some(SocketAddr::new(IpAddr::V4(ip), v6.port()))
            }
        }
    }
}

/// All connections, oldest first: the order of a table would be another one each time.
pub(super) fn in_order<K>(connections: &HashMap<K, Rc<ConnectionCell>>) -> Vec<Rc<ConnectionCell>> {
    let mut cells: Vec<_> = connections.values().cloned().collect();
    cells.sort_unstable_by_key(|cell| cell.number);
    cells
}

impl<E: Clone> Clone for Driver<E> {
    fn clone(&self) -> Self {
        Self {
            executor: self.executor.clone(),
            core: self.core.clone(),
        }
    }
}

impl<E> std::fmt::Debug for Driver<E> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Driver").finish_non_exhaustive()
    }
}
