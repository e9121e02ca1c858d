//! Datagrams by system calls: as many trains as have come with one, and one call for each that goes.
//!
//! A socket is read only while the driver asks for trains, so what it has no time for stays in the kernel's buffer, and is dropped there, as on the
//! ring. A train that a socket has no room for waits in a queue, which [`Datagram::send_room`] bounds.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::rc::Rc;

use futures_lite::future;
use quinn_udp::{BATCH_SIZE, EcnCodepoint, RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use strand_protocol::limits::TRAIN_DATAGRAMS_MAX;
use strand_transport::bind_udp;

use crate::core::counters::Counters;
use crate::core::executor::Executor;
use crate::core::notify::Notify;
use crate::core::tokio::{Tokio, WatchedSocket};
use crate::quic::Datagram;
use crate::ring::{Outgoing, Received, SocketId};

/// Trains that wait for room in the kernel's buffers, over all sockets.
const SENDS_WAITING_MAX: usize = 32;

/// The longest train: as long as UDP allows.
const TRAIN_BYTES_MAX: usize = 1 << 16;

/// Errors of a socket, with nothing received between them, after which it is given up.
const RECEIVE_ERRORS_MAX: u32 = 16;

/// The sockets of a core.
pub struct PlainDatagram {
    executor: Tokio,
    counters: Rc<Counters>,
    shared: Rc<Shared>,
}

/// What sockets' tasks see as well.
#[derive(Default)]
struct Shared {
    sockets: RefCell<Vec<Option<Rc<Socket>>>>,
    arrived: RefCell<VecDeque<Received>>,
    /// Where trains are received; empty until the first is.
    buffers: RefCell<Vec<u8>>,
    spare_payloads: RefCell<Vec<Vec<u8>>>,
    waiting_count: Cell<usize>,
    is_blocked: Cell<bool>,
    reader: RefCell<Option<Rc<Notify>>>,
}

struct Socket {
    io: WatchedSocket,
    state: UdpSocketState,
    local: SocketAddr,
    /// The kernel has said that something is there, and not yet that it was all.
    is_ready: Cell<bool>,
    /// Nothing is there any more.
    emptied: Notify,
    closed: Notify,
    receive_errors: Cell<u32>,
    waiting: RefCell<VecDeque<Outgoing>>,
}

impl PlainDatagram {
    /// No sockets yet.
    #[must_use]
    pub fn new(executor: Tokio, counters: Rc<Counters>) -> Rc<Self> {
        Rc::new(Self {
            executor,
            counters,
            shared: Rc::default(),
        })
    }

    fn socket(&self, id: SocketId) -> Option<Rc<Socket>> {
        self.shared.sockets.borrow().get(id.0)?.clone()
    }

    /// Tells the driver when there is something to read, until the socket is closed.
    fn watch(&self, socket: Rc<Socket>) {
        let shared = Rc::clone(&self.shared);
        self.executor.spawn(async move {
            let watching = async {
                while socket.io.readable().await.is_ok() {
                    socket.is_ready.set(true);
                    shared.alarm();
                    socket.emptied.notified().await;
                }
            };
            future::or(watching, socket.closed.notified()).await;
        });
    }

    /// Sends what waits, once there is room for it.
    fn send_later(&self, socket: Rc<Socket>) {
        let (shared, counters) = (Rc::clone(&self.shared), Rc::clone(&self.counters));
        self.executor.spawn(async move {
            while socket.io.writable().await.is_ok() {
                loop {
                    let next = socket.waiting.borrow_mut().pop_front();
                    let Some(outgoing) = next else { return };
                    match socket.send(&outgoing) {
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                            socket.waiting.borrow_mut().push_front(outgoing);
                            break;
                        }
                        sent => shared.sent(&counters, outgoing, &sent),
                    }
                    shared.waiting_count.set(shared.waiting_count.get() - 1);
                    if shared.is_blocked.take() {
                        shared.alarm();
                    }
                }
            }
        });
    }

    /// Takes what one socket has; false: nothing.
    fn receive(&self, id: SocketId, socket: &Socket) -> bool {
        let mut buffers = self.shared.buffers.borrow_mut();
        buffers.resize(BATCH_SIZE * TRAIN_BYTES_MAX, 0);
        let mut metas = [RecvMeta::default(); BATCH_SIZE];
        let received = {
            let mut chunks = buffers.chunks_mut(TRAIN_BYTES_MAX);
            let mut slices: [IoSliceMut<'_>; BATCH_SIZE] =
                std::array::from_fn(|_| IoSliceMut::new(chunks.next().unwrap_or_default()));
            let state = &socket.state;
            socket
                .io
                .try_read(|fd| state.recv(UdpSockRef::from(&fd), &mut slices, &mut metas))
        };
        let count = match received {
            Ok(count) => count,
            Err(error) => {
                socket.is_ready.set(false);
                if error.kind() != io::ErrorKind::WouldBlock {
                    tracing::warn!(%error, local = %socket.local, "receive failed");
                    let errors = socket.receive_errors.get() + 1;
                    socket.receive_errors.set(errors);
                    if errors >= RECEIVE_ERRORS_MAX {
                        socket.closed.notify();
                        return false;
                    }
                }
                socket.emptied.notify();
                return false;
            }
        };
        socket.receive_errors.set(0);
        let mut arrived = self.shared.arrived.borrow_mut();
        for (meta, bytes) in metas[..count].iter().zip(buffers.chunks(TRAIN_BYTES_MAX)) {
            if meta.len == 0 || meta.stride == 0 {
                self.counters.datagrams_dropped.add(1);
                continue;
            }
            self.counters.trains_received.add(1);
            let datagrams = meta.len.div_ceil(meta.stride) as u64;
            self.counters.datagrams_received.add(datagrams);
            self.counters.bytes_received.add(meta.len as u64);
            arrived.push_back(Received {
                socket: id,
                remote: meta.addr,
                local_ip: meta.dst_ip,
                ecn: meta.ecn.map_or(0, |ecn| ecn as u8),
                datagrams: Received::cut(&bytes[..meta.len], meta.stride),
            });
        }
        true
    }
}

impl Socket {
    fn send(&self, outgoing: &Outgoing) -> io::Result<()> {
        let transmit = Transmit {
            destination: outgoing.destination,
            ecn: EcnCodepoint::from_bits(outgoing.ecn),
            contents: &outgoing.payload,
            segment_size: outgoing.segment_bytes.map(usize::from),
            src_ip: outgoing.source_ip,
        };
        self.io
            .try_write(|fd| self.state.try_send(UdpSockRef::from(&fd), &transmit))
    }
}

impl Shared {
    fn alarm(&self) {
        if let Some(reader) = &*self.reader.borrow() {
            reader.notify();
        }
    }

    fn sent(&self, counters: &Counters, outgoing: Outgoing, sent: &io::Result<()>) {
        let len = outgoing.payload.len();
        match (sent, outgoing.segment_bytes.map(usize::from)) {
            (Ok(()), segment) => {
                let count = len.div_ceil(segment.unwrap_or(len).max(1)) as u64;
                counters.trains_sent.add(1);
                counters.datagrams_sent.add(count);
                counters.bytes_sent.add(len as u64);
                if segment.is_some() {
                    counters.gso_trains_sent.add(1);
                    counters.gso_datagrams_sent.add(count);
                }
            }
            (Err(_), _) => counters.sends_failed.add(1),
        }
        self.recycle(outgoing.payload);
    }

    fn recycle(&self, mut payload: Vec<u8>) {
        let mut spare = self.spare_payloads.borrow_mut();
        if spare.len() < SENDS_WAITING_MAX {
            payload.clear();
            spare.push(payload);
        }
    }
}

impl Datagram for PlainDatagram {
    fn bind(&self, address: SocketAddr) -> io::Result<SocketId> {
        let socket = bind_udp(address)?;
        let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
        let local = socket.local_addr()?;
        let socket = Rc::new(Socket {
            io: WatchedSocket::new(socket)?,
            state,
            local,
            is_ready: Cell::new(false),
            emptied: Notify::new(),
            closed: Notify::new(),
            receive_errors: Cell::new(0),
            waiting: RefCell::default(),
        });
        self.watch(Rc::clone(&socket));
        let mut sockets = self.shared.sockets.borrow_mut();
        let free = sockets.iter().position(Option::is_none);
        let index = free.unwrap_or_else(|| {
            sockets.push(None);
            sockets.len() - 1
        });
        sockets[index] = Some(socket);
        Ok(SocketId(index))
    }

    fn local_address(&self, socket: SocketId) -> Option<SocketAddr> {
        Some(self.socket(socket)?.local)
    }

    fn unbind(&self, socket: SocketId) {
        let slot = self
            .shared
            .sockets
            .borrow_mut()
            .get_mut(socket.0)
            .and_then(Option::take);
        if let Some(socket) = slot {
            socket.closed.notify();
        }
        // Its id may be another's soon.
        let mut arrived = self.shared.arrived.borrow_mut();
        arrived.retain(|received| received.socket != socket);
    }

    fn set_reader(&self, reader: Rc<Notify>) {
        *self.shared.reader.borrow_mut() = Some(reader);
    }

    fn try_receive(&self) -> Option<Received> {
        loop {
            if let Some(received) = self.shared.arrived.borrow_mut().pop_front() {
                return Some(received);
            }
            let ready = {
                let sockets = self.shared.sockets.borrow();
                let mut named = sockets.iter().enumerate();
                named.find_map(|(index, socket)| {
                    let socket = socket.as_ref().filter(|socket| socket.is_ready.get())?;
                    Some((SocketId(index), Rc::clone(socket)))
                })
            };
            let (id, socket) = ready?;
            self.receive(id, &socket);
        }
    }

    fn send_room(&self) -> usize {
        let room = SENDS_WAITING_MAX - self.shared.waiting_count.get();
        self.shared.is_blocked.set(room == 0);
        room
    }

    fn has_segmentation(&self, socket: SocketId) -> bool {
        self.socket(socket)
            .is_some_and(|socket| socket.state.max_gso_segments() >= TRAIN_DATAGRAMS_MAX)
    }

    fn send(&self, socket: SocketId, outgoing: Outgoing) {
        let Some(socket) = self.socket(socket) else {
            return;
        };
        let is_first = socket.waiting.borrow().is_empty();
        if is_first {
            match socket.send(&outgoing) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                sent => return self.shared.sent(&self.counters, outgoing, &sent),
            }
        }
        let waiting_count = self.shared.waiting_count.get() + 1;
        self.shared.waiting_count.set(waiting_count);
        socket.waiting.borrow_mut().push_back(outgoing);
        if is_first {
            self.send_later(socket);
        }
    }

    fn spare_payload(&self) -> Vec<u8> {
        self.shared
            .spare_payloads
            .borrow_mut()
            .pop()
            .unwrap_or_default()
    }

    fn recycle(&self, payload: Vec<u8>) {
        self.shared.recycle(payload);
    }
}

impl std::fmt::Debug for PlainDatagram {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("PlainDatagram")
            .finish_non_exhaustive()
    }
}
