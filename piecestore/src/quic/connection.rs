//! One connection: quinn-proto's state, and who waits for what on it.
//!
//! Streams and handles change the state directly and put the connection on the driver's list;
//! only the driver's turn moves packets and events. A waker is kept for each stream half that
//! waits, so an event wakes exactly the task it concerns. No borrow of the state is held while
//! foreign code runs.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Instant;

use bytes::Bytes;
use quinn_proto::{ConnectionError, ConnectionHandle, Dir, StreamId, VarInt};
use strand_protocol::limits::{
    NODE_CONNECTION_WINDOW_BYTES, NODE_LONG_BODY_BYTES, NODE_SEND_WINDOW_BYTES,
};
use strand_protocol::{Code, NodeId};

use super::memory::{ConnectionMemory, Share};
use super::stream::{QuicRecv, QuicSend};
use super::timer::{Alarm, ConnectionNumber};
use crate::core::counters::Counters;
use crate::core::gate::Pass;
use crate::core::notify::Notify;
use crate::ring::SocketId;
use crate::stream::StreamError;

/// What connections reach of their driver.
pub(super) struct Worklist {
    /// Connections that changed since the driver last ran them.
    pub(super) dirty: RefCell<VecDeque<Rc<ConnectionCell>>>,
    /// Wakes the driver.
    pub(super) wake: Rc<Notify>,
    pub(super) now: Box<dyn Fn() -> Instant>,
    /// All there are.
    pub(super) connections: RefCell<HashMap<ConnectionNumber, Rc<ConnectionCell>>>,
    pub(super) memory: Rc<ConnectionMemory>,
    pub(super) counters: Rc<Counters>,
}

/// A connection as driver, streams and handles share it.
pub(super) struct ConnectionCell {
    pub(super) number: ConnectionNumber,
    pub(super) handle: ConnectionHandle,
    pub(super) socket: SocketId,
    pub(super) state: RefCell<ConnectionState>,
    is_dirty: Cell<bool>,
    /// On the driver's list of those that wait for room to send.
    pub(super) is_blocked: Cell<bool>,
    /// Of the core's memory for connections; none for those that this node dialled, which are few.
    share: Option<Share>,
    worklist: Rc<Worklist>,
}

/// An admitted body on its way.
pub(super) struct Body(Rc<ConnectionCell>);

impl Drop for Body {
    fn drop(&mut self) {
        if let Some(share) = &self.0.share {
            share.end_body((self.0.worklist.now)());
        }
    }
}

/// What is behind the cell's borrow.
pub(super) struct ConnectionState {
    pub(super) proto: quinn_proto::Connection,
    pub(super) phase: Phase,
    pub(super) alarm: Alarm,
    /// Who waits for a stream to have bytes, to take bytes.
    pub(super) readers: BTreeMap<StreamId, Waker>,
    pub(super) writers: BTreeMap<StreamId, Waker>,
    /// Who waits for a stream to open, or for the handshake.
    pub(super) openers: Vec<Waker>,
    /// Streams that were finished, of which the peer has not acknowledged everything.
    pub(super) unacknowledged: BTreeSet<StreamId>,
}

/// How far a connection has come.
#[derive(Debug)]
pub(super) enum Phase {
    /// Counted among the node's handshakes.
    Handshaking {
        _counted: Option<Pass>,
    },
    Open {
        peer: NodeId,
    },
    Lost {
        error: StreamError,
        reason: ConnectionError,
    },
}

/// A connection that this node dialled. Clones are the same one; the last to go closes it.
#[derive(Clone)]
pub struct Connection(Rc<Dialled>);

struct Dialled {
    cell: Rc<ConnectionCell>,
    peer: NodeId,
    remote: SocketAddr,
}

impl Worklist {
    /// Closes a connection that has had no body for some time, so that another one has its memory. `false`: there is none.
    pub(super) fn dispense(&self, number: Option<ConnectionNumber>) -> bool {
        let cell = number.and_then(|number| self.connections.borrow().get(&number).cloned());
        let Some((cell, share)) = cell
            .as_ref()
            .and_then(|cell| Some((cell, cell.share.as_ref()?)))
        else {
            return false;
        };
        share.retire();
        cell.close(Code::Busy);
        self.counters.connections_dispensed.add(1);
        true
    }
}

impl ConnectionCell {
    pub(super) fn new(
        number: ConnectionNumber,
        handle: ConnectionHandle,
        socket: SocketId,
        proto: quinn_proto::Connection,
        phase: Phase,
        share: Option<Share>,
        worklist: Rc<Worklist>,
    ) -> Rc<Self> {
        let state = ConnectionState {
            proto,
            phase,
            alarm: Alarm::default(),
            readers: BTreeMap::new(),
            writers: BTreeMap::new(),
            openers: Vec::new(),
            unacknowledged: BTreeSet::new(),
        };
        Rc::new(Self {
            number,
            handle,
            socket,
            state: RefCell::new(state),
            is_dirty: Cell::new(false),
            is_blocked: Cell::new(false),
            share,
            worklist,
        })
    }

    /// Puts the connection on the driver's list.
    pub(super) fn touch(self: &Rc<Self>) {
        if !self.is_dirty.replace(true) {
            self.worklist.dirty.borrow_mut().push_back(self.clone());
            self.worklist.wake.notify();
        }
    }

    /// Says that the driver runs it now.
    pub(super) fn untouch(&self) {
        self.is_dirty.set(false);
    }

    /// Says that a body of so many bytes was admitted, which is on its way until the result is dropped. If that is long, and there is memory
    /// for it, more may be in flight from now on.
    pub(super) fn begin_body(self: &Rc<Self>, body_bytes: u64) -> Option<Body> {
        let share = self.share.as_ref()?;
        share.begin_body();
        let body = Body(self.clone());
        let mut is_wider = (body_bytes >= NODE_LONG_BODY_BYTES)
            .then(|| share.widen())
            .flatten();
        if is_wider == Some(false) {
            let worklist = &self.worklist;
            let quiet = worklist.memory.dispensable_wide((worklist.now)());
            if worklist.dispense(quiet) {
                is_wider = share.widen();
            }
        }
        match is_wider {
            Some(true) => {
                let proto = &mut self.state.borrow_mut().proto;
                let window = VarInt::from_u32(NODE_CONNECTION_WINDOW_BYTES as u32);
                proto.set_receive_window(window);
                proto.set_send_window(NODE_SEND_WINDOW_BYTES as u64);
                self.touch();
            }
            Some(false) => self.worklist.counters.windows_refused.add(1),
            None => {}
        }
        Some(body)
    }

    /// Sends `CONNECTION_CLOSE` and ends everything on the connection.
    pub(super) fn close(self: &Rc<Self>, code: Code) {
        let mut woken = Vec::new();
        {
            let state = &mut *self.state.borrow_mut();
            if !state.proto.is_closed() {
                let code = VarInt::from_u32(u32::from(code));
                state.proto.close((self.worklist.now)(), code, Bytes::new());
            }
            state.lose(ConnectionError::LocallyClosed, &mut woken);
        }
        wake_all(woken);
        self.touch();
    }
}

impl ConnectionState {
    /// Ends the connection for everybody who waits on it.
    pub(super) fn lose(&mut self, reason: ConnectionError, woken: &mut Vec<Waker>) {
        if !matches!(self.phase, Phase::Lost { .. }) {
            let error = match reason {
                ConnectionError::TimedOut => StreamError::TimedOut,
                _ => StreamError::Closed,
            };
            self.phase = Phase::Lost { error, reason };
        }
        woken.extend(std::mem::take(&mut self.readers).into_values());
        woken.extend(std::mem::take(&mut self.writers).into_values());
        woken.append(&mut self.openers);
        self.unacknowledged.clear();
    }

    /// Why nothing goes any more, if so.
    pub(super) fn lost(&self) -> Option<StreamError> {
        match self.phase {
            Phase::Lost { error, .. } => Some(error),
            _ => None,
        }
    }
}

impl Connection {
    pub(super) fn new(cell: Rc<ConnectionCell>, peer: NodeId, remote: SocketAddr) -> Self {
        Self(Rc::new(Dialled { cell, peer, remote }))
    }

    /// Waits for the handshake.
    pub(super) async fn connected(&self) -> Result<(), ConnectionError> {
        poll_fn(|context| {
            let mut state = self.0.cell.state.borrow_mut();
            match &state.phase {
                Phase::Open { .. } => Poll::Ready(Ok(())),
                Phase::Lost { reason, .. } => Poll::Ready(Err(reason.clone())),
                Phase::Handshaking { .. } => {
                    state.openers.push(context.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// Opens a stream; waits while the peer allows no more of them.
    ///
    /// # Errors
    ///
    /// If the connection is closed.
    pub async fn open(&self) -> Result<(QuicSend, QuicRecv), StreamError> {
        let cell = &self.0.cell;
        let id = poll_fn(|context| {
            let mut state = cell.state.borrow_mut();
            if let Some(error) = state.lost() {
                return Poll::Ready(Err(error));
            }
            match state.proto.streams().open(Dir::Bi) {
                Some(id) => Poll::Ready(Ok(id)),
                None => {
                    state.openers.push(context.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await?;
        Ok((
            QuicSend::new(cell.clone(), id),
            QuicRecv::new(cell.clone(), id),
        ))
    }

    /// The node at the other end; proven by its key.
    #[must_use]
    pub fn peer(&self) -> NodeId {
        self.0.peer
    }

    /// Where it was dialled.
    #[must_use]
    pub fn remote_address(&self) -> SocketAddr {
        self.0.remote
    }

    /// Whether nothing goes any more.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.0.cell.state.borrow().lost().is_some()
    }

    /// Closes the connection under everything on it.
    pub fn close(&self, code: Code) {
        self.0.cell.close(code);
    }
}

impl Drop for Dialled {
    fn drop(&mut self) {
        if self.cell.state.borrow().lost().is_none() {
            self.cell.close(Code::Ok);
        }
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Connection")
            .field("peer", &self.0.peer)
            .field("remote", &self.0.remote)
            .finish_non_exhaustive()
    }
}

pub(super) fn wake_all(woken: Vec<Waker>) {
    for waker in woken {
        waker.wake();
    }
}
