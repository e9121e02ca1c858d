//! The two halves of a request over quinn.

use std::collections::VecDeque;

use bytes::Bytes;
use piecestore::stream::{RecvStream, SendStream, StreamError};
use quinn::{ConnectionError, ReadError, VarInt, WriteError};
use strand_protocol::Code;

/// Chunks taken from a stream at once: each look at it takes the connection's lock.
const CHUNKS_AT_ONCE: usize = 32;

/// What the peer sends.
pub(in crate::node) struct QuinnRecv {
    inner: quinn::RecvStream,
    chunks: Vec<Bytes>,
    ahead: VecDeque<Bytes>,
    has_ended: bool,
}

/// What we send.
pub(in crate::node) struct QuinnSend {
    inner: quinn::SendStream,
    has_ended: bool,
}

impl QuinnRecv {
    pub(in crate::node) fn new(inner: quinn::RecvStream) -> Self {
        Self {
            inner,
            chunks: vec![Bytes::new(); CHUNKS_AT_ONCE],
            ahead: VecDeque::with_capacity(CHUNKS_AT_ONCE),
            has_ended: false,
        }
    }
}

impl RecvStream for QuinnRecv {
    async fn chunk(&mut self, max: usize) -> Result<Option<Bytes>, StreamError> {
        if self.ahead.is_empty() && !self.has_ended {
            let read = self.inner.read_chunks(&mut self.chunks).await;
            match read.map_err(of_read)? {
                Some(count) => {
                    let taken = self.chunks[..count].iter_mut().map(std::mem::take);
                    self.ahead.extend(taken);
                }
                None => self.has_ended = true,
            }
        }
        let Some(front) = self.ahead.front_mut() else {
            return Ok(None);
        };
        Ok(if front.len() > max {
            Some(front.split_to(max))
        } else {
            self.ahead.pop_front()
        })
    }

    fn stop(&mut self, code: Code) {
        self.ahead.clear();
        self.has_ended = true;
        // Fails only where the stream is over.
        let _ = self.inner.stop(of_code(code));
    }
}

impl QuinnSend {
    pub(in crate::node) fn new(inner: quinn::SendStream) -> Self {
        Self {
            inner,
            has_ended: false,
        }
    }
}

impl SendStream for QuinnSend {
    async fn send(&mut self, bytes: Bytes) -> Result<(), StreamError> {
        self.inner.write_chunk(bytes).await.map_err(of_write)
    }

    fn finish(&mut self) {
        self.has_ended = true;
        // Fails only where nobody wants the end.
        let _ = self.inner.finish();
    }

    fn reset(&mut self, code: Code) {
        self.has_ended = true;
        let _ = self.inner.reset(of_code(code));
    }
}

impl Drop for QuinnSend {
    fn drop(&mut self) {
        if !self.has_ended {
            self.reset(Code::Cancelled);
        }
    }
}

fn of_code(code: Code) -> VarInt {
    VarInt::from_u32(u32::from(code))
}

fn code_of(code: VarInt) -> u32 {
    u32::try_from(code.into_inner()).unwrap_or(u32::MAX)
}

fn of_read(error: ReadError) -> StreamError {
    match error {
        ReadError::Reset(code) => StreamError::Reset(code_of(code)),
        ReadError::ConnectionLost(error) => lost(&error),
        _ => StreamError::Closed,
    }
}

fn of_write(error: WriteError) -> StreamError {
    match error {
        WriteError::Stopped(code) => StreamError::Stopped(code_of(code)),
        WriteError::ConnectionLost(error) => lost(&error),
        _ => StreamError::Closed,
    }
}

fn lost(error: &ConnectionError) -> StreamError {
    match error {
        ConnectionError::TimedOut => StreamError::TimedOut,
        _ => StreamError::Closed,
    }
}
