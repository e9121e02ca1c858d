//! One connection: quinn-proto's state, and who waits for what on it.
//!
//! Streams and handles change the state directly and put the connection on the driver's list;
//! only the driver's turn moves packets and events. A waker is kept for each stream half that
//! waits, so an event wakes exactly the task it concerns. No borrow of the state is held while
//! foreign code runs.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Instant;

use bytes::Bytes;
use quinn_proto::{ConnectionError, ConnectionHandle, Dir, StreamId, VarInt};
use strand_protocol::{Code, NodeId};

use super::stream::{QuicRecv, QuicSend};
use super::timer::{Alarm, ConnectionNumber};
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
    worklist: Rc<Worklist>,
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
}

/// How far a connection has come.
#[derive(Clone, Debug)]
pub(super) enum Phase {
    Handshaking,
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

impl ConnectionCell {
    pub(super) fn new(
        number: ConnectionNumber,
        handle: ConnectionHandle,
        socket: SocketId,
        proto: quinn_proto::Connection,
        worklist: Rc<Worklist>,
    ) -> Rc<Self> {
        let state = ConnectionState {
            proto,
            phase: Phase::Handshaking,
            alarm: Alarm::default(),
            readers: BTreeMap::new(),
            writers: BTreeMap::new(),
            openers: Vec::new(),
        };
        Rc::new(Self {
            number,
            handle,
            socket,
            state: RefCell::new(state),
            is_dirty: Cell::new(false),
            is_blocked: Cell::new(false),
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
                Phase::Handshaking => {
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
