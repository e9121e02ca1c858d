//! The two halves of a request, over a connection's state.
//!
//! Reading gives quinn-proto's own bytes, uncopied; writing hands it ours, which it keeps until
//! they are acknowledged. Reading takes what is there in one go: each look at a stream costs two
//! table look-ups, whatever it brings.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use bytes::Bytes;
use quinn_proto::{ReadError, ReadableError, StreamId, VarInt, WriteError};
use strand_protocol::Code;

use super::connection::{Body, ConnectionCell, ConnectionState};
use crate::stream::{RecvStream, SendStream, StreamError};

/// Chunks (datagrams' worth of bytes) of an admitted body read ahead of the reader at most: some
/// 90 KB, which count as read for the peer's window. Of what was not admitted, one.
const CHUNKS_AHEAD_MAX: usize = 64;

/// The receiving half. Dropped before its end, it stops the stream with `CANCELLED`.
pub struct QuicRecv {
    cell: Rc<ConnectionCell>,
    id: StreamId,
    ahead: VecDeque<Bytes>,
    chunks_ahead_max: usize,
    body: Option<Body>,
    end: Option<Result<(), StreamError>>,
}

/// The sending half. Dropped before [`finish`](SendStream::finish), it resets the stream with
/// `CANCELLED`.
pub struct QuicSend {
    cell: Rc<ConnectionCell>,
    id: StreamId,
    body: Option<Body>,
    is_ended: bool,
}

impl QuicRecv {
    pub(super) fn new(cell: Rc<ConnectionCell>, id: StreamId) -> Self {
        Self {
            cell,
            id,
            ahead: VecDeque::new(),
            chunks_ahead_max: 1,
            body: None,
            end: None,
        }
    }

    /// Reads what is there into `ahead`. `true`: more would be sent to the peer (credit).
    fn read_ahead(&mut self, state: &mut ConnectionState) -> bool {
        let mut stream = state.proto.recv_stream(self.id);
        let mut chunks = match stream.read(true) {
            Ok(chunks) => chunks,
            Err(ReadableError::ClosedStream | ReadableError::IllegalOrderedRead) => {
                self.end = Some(Err(StreamError::Closed));
                return false;
            }
        };
        while self.ahead.len() < self.chunks_ahead_max {
            match chunks.next(usize::MAX) {
                Ok(Some(chunk)) => self.ahead.push_back(chunk.bytes),
                Ok(None) => {
                    self.end = Some(Ok(()));
                    break;
                }
                Err(ReadError::Reset(code)) => {
                    self.end = Some(Err(StreamError::Reset(code_of(code))));
                    break;
                }
                Err(ReadError::Blocked) => break,
            }
        }
        chunks.finalize().should_transmit()
    }

    /// The next `max` bytes at most of those read ahead.
    fn take(&mut self, max: usize) -> Option<Bytes> {
        let front = self.ahead.front_mut()?;
        if front.len() > max {
            Some(front.split_to(max))
        } else {
            self.ahead.pop_front()
        }
    }
}

impl RecvStream for QuicRecv {
    async fn chunk(&mut self, max: usize) -> Result<Option<Bytes>, StreamError> {
        assert!(max > 0, "a chunk of no bytes looks like the end");
        poll_fn(|context| {
            if let Some(bytes) = self.take(max) {
                return Poll::Ready(Ok(Some(bytes)));
            }
            if let Some(end) = self.end {
                return Poll::Ready(end.map(|()| None));
            }
            let cell = self.cell.clone();
            let state = &mut *cell.state.borrow_mut();
            if self.read_ahead(state) {
                cell.touch();
            }
            if let Some(bytes) = self.take(max) {
                return Poll::Ready(Ok(Some(bytes)));
            }
            if let Some(end) = self.end {
                return Poll::Ready(end.map(|()| None));
            }
            if let Some(error) = state.lost() {
                self.end = Some(Err(error));
                return Poll::Ready(Err(error));
            }
            state.readers.insert(self.id, context.waker().clone());
            Poll::Pending
        })
        .await
    }

    fn expect(&mut self, body_bytes: u64) {
        self.chunks_ahead_max = CHUNKS_AHEAD_MAX;
        self.body = self.cell.begin_body(body_bytes);
    }

    fn stop(&mut self, code: Code) {
        self.ahead.clear();
        if self.end.is_some() {
            return;
        }
        self.end = Some(Err(StreamError::Closed));
        let mut state = self.cell.state.borrow_mut();
        state.readers.remove(&self.id);
        // Fails only for a stream that is gone already.
        let _ = state.proto.recv_stream(self.id).stop(varint(code));
        self.cell.touch();
    }
}

impl Drop for QuicRecv {
    fn drop(&mut self) {
        if self.end.is_none() {
            // The end may be here unread: then there is nothing to stop.
            let cell = self.cell.clone();
            let is_credited = self.read_ahead(&mut cell.state.borrow_mut());
            if is_credited {
                cell.touch();
            }
        }
        self.stop(Code::Cancelled);
    }
}

impl QuicSend {
    pub(super) fn new(cell: Rc<ConnectionCell>, id: StreamId) -> Self {
        Self {
            cell,
            id,
            body: None,
            is_ended: false,
        }
    }
}

impl SendStream for QuicSend {
    async fn send(&mut self, bytes: Bytes) -> Result<(), StreamError> {
        if self.is_ended {
            return Err(StreamError::Closed);
        }
        let mut rest = [bytes];
        poll_fn(|context| {
            let state = &mut *self.cell.state.borrow_mut();
            while !rest[0].is_empty() {
                match state.proto.send_stream(self.id).write_chunks(&mut rest) {
                    Ok(written) if written.bytes > 0 => self.cell.touch(),
                    Ok(_) | Err(WriteError::Blocked) => {
                        if let Some(error) = state.lost() {
                            self.is_ended = true;
                            return Poll::Ready(Err(error));
                        }
                        // Being blocked is itself news for the peer (DATA_BLOCKED).
                        self.cell.touch();
                        state.writers.insert(self.id, context.waker().clone());
                        return Poll::Pending;
                    }
                    Err(WriteError::Stopped(code)) => {
                        self.is_ended = true;
                        return Poll::Ready(Err(StreamError::Stopped(code_of(code))));
                    }
                    Err(WriteError::ClosedStream) => {
                        self.is_ended = true;
                        return Poll::Ready(Err(StreamError::Closed));
                    }
                }
            }
            Poll::Ready(Ok(()))
        })
        .await
    }

    fn announce(&mut self, body_bytes: u64) {
        self.body = self.cell.begin_body(body_bytes);
    }

    fn finish(&mut self) {
        if std::mem::replace(&mut self.is_ended, true) {
            return;
        }
        let mut state = self.cell.state.borrow_mut();
        state.writers.remove(&self.id);
        // Fails only if the peer stopped the stream: then nobody wants its end.
        if state.proto.send_stream(self.id).finish().is_ok() && state.lost().is_none() {
            state.unacknowledged.insert(self.id);
        }
        self.cell.touch();
    }

    fn reset(&mut self, code: Code) {
        if std::mem::replace(&mut self.is_ended, true) {
            return;
        }
        let mut state = self.cell.state.borrow_mut();
        state.writers.remove(&self.id);
        let _ = state.proto.send_stream(self.id).reset(varint(code));
        self.cell.touch();
    }
}

impl Drop for QuicSend {
    fn drop(&mut self) {
        self.reset(Code::Cancelled);
    }
}

impl std::fmt::Debug for QuicRecv {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("QuicRecv")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for QuicSend {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("QuicSend")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

fn varint(code: Code) -> VarInt {
    VarInt::from_u32(u32::from(code))
}

/// A peer's code; those beyond 32 bits are nobody's.
fn code_of(code: VarInt) -> u32 {
    u32::try_from(code.into_inner()).unwrap_or(u32::MAX)
}
