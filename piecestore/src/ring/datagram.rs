//! Datagrams on the ring: one multishot receive per socket, sends of whole GSO trains.
//!
//! A receive stays armed for as long as buffers last; when it ends (no buffer, or the kernel's
//! own reasons) the socket is armed again at the next turn that has buffers to spare. A received
//! train keeps its buffer until the reader takes it, so a slow reader makes the kernel's socket
//! buffer fill and drop, not us grow. A send owns its bytes until it completes; where the kernel
//! refuses segmentation for a socket, that train and all later ones go out one by one.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::rc::Rc;

use bytes::BytesMut;
use io_uring::{cqueue, opcode, squeue, types};

use super::buffer::{BUFFER_GROUP, BUFFER_STRIDE, ProvidedBuffers};
use super::message::{self, CONTROL_BYTES, NAME_BYTES, RECEIVE_HEADER_BYTES, SEND_CONTROL_BYTES};
use super::socket::UdpSocket;
use super::turn::{Kind, Ring, State};
use crate::core::counters::Counters;
use crate::core::notify::Notify;

/// Names a socket of one ring. Not reused while completions of it may come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SocketId(pub usize);

/// One or several datagrams of equal length (the last may be shorter) from one peer.
#[derive(Debug)]
pub struct Received {
    /// Where they arrived.
    pub socket: SocketId,
    /// Who sent them.
    pub remote: SocketAddr,
    /// The address they were sent to.
    pub local_ip: Option<IpAddr>,
    /// The two ECN bits of the first.
    pub ecn: u8,
    /// Each in memory of its own: one that is kept, because others before it are missing, keeps nothing else.
    pub datagrams: Vec<BytesMut>,
}

/// One train to send.
#[derive(Debug)]
pub struct Outgoing {
    /// Where to.
    pub destination: SocketAddr,
    /// From which of our addresses, where the socket has several.
    pub source_ip: Option<IpAddr>,
    /// The two ECN bits.
    pub ecn: u8,
    /// Length of each datagram but the last; `None` for a single one.
    pub segment_bytes: Option<u16>,
    /// The datagrams, one after another.
    pub payload: Vec<u8>,
}

/// All sockets of a ring and their operations in flight.
pub(super) struct Datagrams {
    sockets: Vec<Option<Socket>>,
    /// The header every receive shares; read by the kernel when one is armed.
    receive_header: Box<libc::msghdr>,
    arrived: VecDeque<Arrived>,
    #[expect(
        clippy::vec_box,
        reason = "the kernel holds addresses of sends in flight"
    )]
    sends: Vec<Box<Send>>,
    idle_sends: Vec<usize>,
    spare_payloads: Vec<Vec<u8>>,
    sends_max: usize,
    reader: Option<Rc<Notify>>,
    is_alarmed: bool,
    /// The reader found no room to send and waits for some.
    is_blocked: bool,
    /// A socket waits for buffers to be armed again.
    is_starved: bool,
}

/// Errors of a socket's receive, with nothing received between them, after which it is given up.
const RECEIVE_ERRORS_MAX: u32 = 16;

struct Socket {
    udp: Rc<UdpSocket>,
    is_armed: bool,
    is_closing: bool,
    has_segmentation: bool,
    /// Since something was received last.
    receive_errors: u32,
}

/// A filled buffer that nobody has read yet.
struct Arrived {
    socket: SocketId,
    buffer: u16,
    len: usize,
}

/// One send. The kernel reads `header` and what it points to: a box, so that it stays put.
struct Send {
    header: libc::msghdr,
    vector: libc::iovec,
    name: [u8; NAME_BYTES],
    control: SendControl,
    socket: Option<(SocketId, Rc<UdpSocket>)>,
    outgoing: Outgoing,
    /// Bytes that have gone out, when a train goes one by one.
    sent_bytes: usize,
    goes_singly: bool,
}

/// Aligned as `cmsghdr` wants.
#[repr(C, align(8))]
struct SendControl([u8; SEND_CONTROL_BYTES]);

impl Ring {
    /// Opens a socket and begins to receive on it.
    ///
    /// # Errors
    ///
    /// If it cannot be bound or lacks an option that QUIC rests on.
    pub fn bind(&self, address: SocketAddr) -> io::Result<SocketId> {
        let udp = Rc::new(UdpSocket::bind(address)?);
        Ok(self.with(|state| state.datagrams.add(udp)))
    }

    /// Where a socket is bound; `None` if it was closed.
    #[must_use]
    pub fn local_address(&self, socket: SocketId) -> Option<SocketAddr> {
        self.look(|state| {
            state
                .datagrams
                .socket(socket)
                .map(|socket| socket.udp.local)
        })
    }

    /// Stops receiving on a socket and forgets it. Sends in flight go out.
    pub fn unbind(&self, socket: SocketId) {
        self.with(|state| state.cancel_receive(socket));
    }

    /// Raises `reader` whenever datagrams have arrived, and when there is room again after
    /// [`send_room`](Self::send_room) gave none.
    pub fn set_reader(&self, reader: Rc<Notify>) {
        self.look(|state| state.datagrams.reader = Some(reader));
    }

    /// The next train that has arrived, if there is one.
    #[must_use]
    pub fn try_receive(&self) -> Option<Received> {
        let (received, is_starved) = self.look(|state| {
            let mut received = None;
            while received.is_none()
                && let Some(arrived) = state.datagrams.arrived.pop_front()
            {
                received = read_arrived(&arrived, &state.buffers, &self.counters);
                state.buffers.provide(arrived.buffer);
            }
            (
                received,
                state.datagrams.is_starved && state.has_buffers_to_spare(),
            )
        });
        if is_starved {
            // A turn arms what waited for these buffers.
            self.wake_flag().notify();
        }
        received
    }

    /// How many more trains may be sent now.
    #[must_use]
    pub fn send_room(&self) -> usize {
        self.look(|state| {
            let datagrams = &mut state.datagrams;
            let room = datagrams.sends_max - datagrams.sends_in_flight();
            datagrams.is_blocked = room == 0;
            room
        })
    }

    /// Whether trains of several datagrams may be handed to [`send`](Self::send) for a socket.
    #[must_use]
    pub fn has_segmentation(&self, socket: SocketId) -> bool {
        self.look(|state| {
            state
                .datagrams
                .socket(socket)
                .is_some_and(|socket| socket.has_segmentation)
        })
    }

    /// An empty buffer for [`Outgoing::payload`], used before if possible.
    #[must_use]
    pub fn spare_payload(&self) -> Vec<u8> {
        self.look(|state| state.datagrams.spare_payloads.pop())
            .unwrap_or_default()
    }

    /// Takes back a buffer that was not sent.
    pub fn recycle(&self, mut payload: Vec<u8>) {
        self.look(|state| {
            if state.datagrams.spare_payloads.len() < state.datagrams.sends_max {
                payload.clear();
                state.datagrams.spare_payloads.push(payload);
            }
        });
    }

    /// Sends one train at the next turn. QUIC repairs what is lost, so nobody is told of errors.
    ///
    /// # Panics
    ///
    /// If [`send_room`](Self::send_room) was not asked.
    pub fn send(&self, socket: SocketId, outgoing: Outgoing) {
        self.with(|state| {
            if let Some(entry) = state.datagrams.send(socket, outgoing) {
                state.queue.push_back(entry);
            }
        });
    }
}

impl State {
    /// Arms every socket that is not, if there are buffers to spare.
    pub(super) fn arm_receives(&mut self, counters: &Counters) {
        let sockets = &self.datagrams.sockets;
        let may_arm = |socket: &Socket| !socket.is_armed && !socket.is_closing;
        self.datagrams.is_starved = sockets.iter().flatten().any(may_arm);
        if !self.datagrams.is_starved || !self.has_buffers_to_spare() {
            return;
        }
        self.datagrams.is_starved = false;
        let header: *const libc::msghdr = &raw const *self.datagrams.receive_header;
        for (index, slot) in self.datagrams.sockets.iter_mut().enumerate() {
            let Some(socket) = slot else { continue };
            if !may_arm(socket) {
                continue;
            }
            let fd = types::Fd(socket.udp.fd.as_raw_fd());
            let entry = opcode::RecvMsgMulti::new(fd, header, BUFFER_GROUP)
                .build()
                .user_data(Kind::Receive.tag(index));
            self.queue.push_back(entry);
            socket.is_armed = true;
            counters.receives_armed.add(1);
        }
    }

    /// With a few buffers only, the next train would disarm the socket again.
    fn has_buffers_to_spare(&self) -> bool {
        self.buffers.free_count() >= self.buffers.count().div_ceil(4)
    }

    pub(super) fn cancel_receives(&mut self) {
        for index in 0..self.datagrams.sockets.len() {
            self.cancel_receive(SocketId(index));
        }
    }

    fn cancel_receive(&mut self, id: SocketId) {
        let Some(slot) = self.datagrams.sockets.get_mut(id.0) else {
            return;
        };
        let Some(socket) = slot else { return };
        if socket.is_armed && !socket.is_closing {
            let entry = opcode::AsyncCancel::new(Kind::Receive.tag(id.0))
                .build()
                .user_data(Kind::Nobody.tag(0));
            self.queue.push_back(entry);
        }
        socket.is_closing = true;
        if !socket.is_armed {
            *slot = None;
        }
    }
}

impl Datagrams {
    pub(super) fn new(sends_max: usize) -> Self {
        // SAFETY: a message header is integers and pointers, for which zero is a value.
        let mut receive_header: Box<libc::msghdr> = Box::new(unsafe { std::mem::zeroed() });
        receive_header.msg_namelen = NAME_BYTES as libc::socklen_t;
        receive_header.msg_controllen = CONTROL_BYTES;
        Self {
            sockets: Vec::new(),
            receive_header,
            arrived: VecDeque::new(),
            sends: Vec::new(),
            idle_sends: Vec::new(),
            spare_payloads: Vec::new(),
            sends_max,
            reader: None,
            is_alarmed: false,
            is_blocked: false,
            is_starved: false,
        }
    }

    fn add(&mut self, udp: Rc<UdpSocket>) -> SocketId {
        let socket = Socket {
            udp,
            is_armed: false,
            is_closing: false,
            has_segmentation: true,
            receive_errors: 0,
        };
        let free = self.sockets.iter().position(Option::is_none);
        let index = free.unwrap_or_else(|| {
            self.sockets.push(None);
            self.sockets.len() - 1
        });
        self.sockets[index] = Some(socket);
        SocketId(index)
    }

    fn socket(&self, id: SocketId) -> Option<&Socket> {
        self.sockets
            .get(id.0)?
            .as_ref()
            .filter(|socket| !socket.is_closing)
    }

    fn sends_in_flight(&self) -> usize {
        self.sends.len() - self.idle_sends.len()
    }

    pub(super) fn in_flight_count(&self) -> usize {
        let armed = self
            .sockets
            .iter()
            .flatten()
            .filter(|socket| socket.is_armed)
            .count();
        armed + self.sends_in_flight()
    }

    /// The reader, if something happened that it wants to know.
    pub(super) fn take_alarm(&mut self) -> Option<Rc<Notify>> {
        std::mem::take(&mut self.is_alarmed)
            .then(|| self.reader.clone())
            .flatten()
    }

    /// A completion of a socket's receive.
    pub(super) fn received(
        &mut self,
        index: usize,
        result: Result<u32, i32>,
        flags: u32,
        buffers: &mut ProvidedBuffers,
        counters: &Counters,
    ) {
        let Some(slot) = self.sockets.get_mut(index) else {
            return;
        };
        let Some(socket) = slot else { return };
        if let Some(buffer) = cqueue::buffer_select(flags) {
            buffers.taken();
            match result {
                Ok(len) if !socket.is_closing => {
                    let len = (len as usize).min(BUFFER_STRIDE);
                    count_received(buffers.filled(buffer, len), flags, counters);
                    socket.receive_errors = 0;
                    self.arrived.push_back(Arrived {
                        socket: SocketId(index),
                        buffer,
                        len,
                    });
                    self.is_alarmed = true;
                }
                _ => buffers.provide(buffer),
            }
        }
        if !cqueue::more(flags) {
            socket.is_armed = false;
            match result {
                Err(libc::ENOBUFS) => counters.receives_starved.add(1),
                Err(errno) if !socket.is_closing => {
                    socket.receive_errors += 1;
                    tracing::warn!(errno, local = %socket.udp.local, "receive failed");
                    // Arming it for ever would keep the core from sleeping.
                    socket.is_closing = socket.receive_errors >= RECEIVE_ERRORS_MAX;
                }
                _ => {}
            }
            if socket.is_closing {
                *slot = None;
            }
        }
    }

    /// Prepares a send. `None`: the socket is gone, and the bytes with it.
    fn send(&mut self, id: SocketId, outgoing: Outgoing) -> Option<squeue::Entry> {
        let socket = self.socket(id)?;
        let (udp, has_segmentation) = (socket.udp.clone(), socket.has_segmentation);
        let index = self.idle_sends.pop().unwrap_or_else(|| {
            self.sends.push(Box::new(Send::idle()));
            self.sends.len() - 1
        });
        assert!(
            self.sends_in_flight() <= self.sends_max,
            "more sends than there is room for"
        );
        let send = &mut self.sends[index];
        send.socket = Some((id, udp));
        send.goes_singly = outgoing.segment_bytes.is_some() && !has_segmentation;
        send.sent_bytes = 0;
        send.outgoing = outgoing;
        Some(send.prepare(index))
    }

    /// A completion of a send; gives an entry if there is more of it to send.
    pub(super) fn sent(
        &mut self,
        index: usize,
        result: Result<u32, i32>,
        counters: &Counters,
    ) -> Option<squeue::Entry> {
        let send = &mut self.sends[index];
        let segment_bytes = send.outgoing.segment_bytes.map(usize::from);
        match (result, segment_bytes) {
            // No segmentation offload on this path: send singly from now on.
            (Err(libc::EIO | libc::EINVAL), Some(_)) if !send.goes_singly => {
                send.goes_singly = true;
                if let Some((id, _)) = send.socket
                    && let Some(Some(socket)) = self.sockets.get_mut(id.0)
                {
                    socket.has_segmentation = false;
                }
                return Some(send.prepare(index));
            }
            (Ok(len), Some(segment_bytes)) if !send.goes_singly => {
                let count = (len as usize).div_ceil(segment_bytes) as u64;
                counters.gso_trains_sent.add(1);
                counters.gso_datagrams_sent.add(count);
                count_sent(len, count, counters);
            }
            (Ok(len), _) => count_sent(len, 1, counters),
            (Err(_), _) => counters.sends_failed.add(1),
        }
        if send.goes_singly {
            send.sent_bytes += segment_bytes.unwrap_or(usize::MAX);
            if send.sent_bytes < send.outgoing.payload.len() {
                return Some(send.prepare(index));
            }
        }
        send.socket = None;
        let mut payload = std::mem::take(&mut send.outgoing.payload);
        payload.clear();
        self.spare_payloads.push(payload);
        self.idle_sends.push(index);
        self.is_alarmed |= std::mem::take(&mut self.is_blocked);
        None
    }
}

impl Send {
    fn idle() -> Self {
        Self {
            // SAFETY: a message header is integers and pointers, for which zero is a value.
            header: unsafe { std::mem::zeroed() },
            vector: libc::iovec {
                iov_base: std::ptr::null_mut(),
                iov_len: 0,
            },
            name: [0; NAME_BYTES],
            control: SendControl([0; SEND_CONTROL_BYTES]),
            socket: None,
            outgoing: Outgoing {
                destination: SocketAddr::from(([0, 0, 0, 0], 0)),
                source_ip: None,
                ecn: 0,
                segment_bytes: None,
                payload: Vec::new(),
            },
            sent_bytes: 0,
            goes_singly: false,
        }
    }

    /// Points the header at the bytes to send now and makes the entry.
    fn prepare(&mut self, index: usize) -> squeue::Entry {
        let outgoing = &mut self.outgoing;
        let segment_bytes = outgoing.segment_bytes.filter(|_| !self.goes_singly);
        let rest = &mut outgoing.payload[self.sent_bytes..];
        let len = match outgoing.segment_bytes {
            Some(bytes) if self.goes_singly => rest.len().min(usize::from(bytes)),
            _ => rest.len(),
        };
        self.vector = libc::iovec {
            iov_base: rest.as_mut_ptr().cast(),
            iov_len: len,
        };
        let name_len = message::write_address(outgoing.destination, &mut self.name);
        let control_len = message::write_send_control(
            outgoing.destination,
            outgoing.source_ip,
            outgoing.ecn,
            segment_bytes,
            &mut self.control.0,
        );
        self.header.msg_name = (&raw mut self.name).cast();
        self.header.msg_namelen = name_len as libc::socklen_t;
        self.header.msg_iov = &raw mut self.vector;
        self.header.msg_iovlen = 1;
        self.header.msg_control = if control_len == 0 {
            std::ptr::null_mut()
        } else {
            (&raw mut self.control).cast()
        };
        self.header.msg_controllen = control_len;
        let fd = self
            .socket
            .as_ref()
            .map_or(-1, |(_, udp)| udp.fd.as_raw_fd());
        opcode::SendMsg::new(types::Fd(fd), &raw const self.header)
            .build()
            .user_data(Kind::Send.tag(index))
    }
}

impl Received {
    /// The datagrams of a train of `bytes`, each but the last `segment_bytes` long.
    ///
    /// The copy costs a few per cent of the decryption that follows, and lets few buffers, warm in the cache, serve all sockets. If a
    /// train's datagrams shared memory, a peer could have 64 KiB kept by each datagram that it sends out of order.
    pub(crate) fn cut(bytes: &[u8], segment_bytes: usize) -> Vec<BytesMut> {
        let segment_bytes = segment_bytes.max(1);
        bytes.chunks(segment_bytes).map(BytesMut::from).collect()
    }
}

/// Reads a filled buffer.
fn read_arrived(
    arrived: &Arrived,
    buffers: &ProvidedBuffers,
    counters: &Counters,
) -> Option<Received> {
    let filled = buffers.filled(arrived.buffer, arrived.len);
    let head =
        message::parse_received(filled).filter(|head| !head.is_truncated && head.payload_bytes > 0);
    let Some(head) = head else {
        counters.datagrams_dropped.add(1);
        return None;
    };
    let payload = &filled[RECEIVE_HEADER_BYTES..RECEIVE_HEADER_BYTES + head.payload_bytes];
    Some(Received {
        socket: arrived.socket,
        remote: head.remote,
        local_ip: head.local_ip,
        ecn: head.ecn,
        datagrams: Received::cut(payload, head.segment_bytes.unwrap_or(payload.len())),
    })
}

fn count_received(filled: &[u8], flags: u32, counters: &Counters) {
    let Some(head) = message::parse_received(filled) else {
        return;
    };
    let segment_bytes = head.segment_bytes.unwrap_or(head.payload_bytes).max(1);
    let count = head.payload_bytes.div_ceil(segment_bytes).max(1) as u64;
    counters.trains_received.add(1);
    counters.datagrams_received.add(count);
    counters.bytes_received.add(head.payload_bytes as u64);
    if cqueue::more(flags) {
        counters.datagrams_received_multishot.add(count);
    }
}

fn count_sent(len: u32, count: u64, counters: &Counters) {
    counters.trains_sent.add(1);
    counters.datagrams_sent.add(count);
    counters.bytes_sent.add(u64::from(len));
}

#[cfg(test)]
mod tests;
