//! Connections and exchanges: frames and raw bytes on bidirectional streams.
//!
//! One request is one [`Exchange`]. Whatever is dropped before it was finished is reset with
//! `CANCELLED` (quinn by itself would *finish* a dropped stream, and so pass half a body off as a
//! whole one). Codes of resets and closes are those of docs/wire.md, section 3.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use quinn::{ConnectionError, ReadError, ReadExactError, VarInt, WriteError};
use strand_protocol::{Code, FrameError, NodeId, decode_frame, encode_frame, frame_len, pb};

/// A connection to a proven peer. Clones share it; the last one dropped closes it.
#[derive(Clone, Debug)]
pub struct Connection {
    inner: quinn::Connection,
    peer: NodeId,
}

/// One request and its answer: a bidirectional stream.
#[derive(Debug)]
pub struct Exchange {
    /// Towards the peer.
    pub send: SendHalf,
    /// From the peer.
    pub recv: RecvHalf,
}

/// The sending half of an exchange. Dropped unfinished, it is reset with `CANCELLED`.
#[derive(Debug)]
pub struct SendHalf {
    inner: quinn::SendStream,
    ended: bool,
}

/// The receiving half of an exchange. Dropped before its end, the peer is told `CANCELLED`.
#[derive(Debug)]
pub struct RecvHalf {
    inner: quinn::RecvStream,
    ended: bool,
}

/// Why an exchange ended early.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StreamError {
    /// The peer gave up sending.
    #[error("the peer reset the stream: {0}")]
    Reset(Code),
    /// The peer gave up receiving.
    #[error("the peer stopped the stream: {0}")]
    Stopped(Code),
    /// The peer closed the connection.
    #[error("the peer closed the connection: {0}")]
    Closed(Code),
    /// The connection was lost, or closed by this side.
    #[error("connection lost: {0}")]
    Lost(String),
    /// No answer in time, or nothing heard for the idle time-out.
    #[error("no answer in time")]
    TimedOut,
    /// The peer ended its stream where more was due.
    #[error("the peer ended the stream too early")]
    Ended,
    /// A frame that cannot be read.
    #[error("bad frame: {0}")]
    Frame(#[from] FrameError),
    /// The peer answered with an error.
    #[error("{code}: {message}")]
    Answer {
        /// What kind.
        code: Code,
        /// For people.
        message: String,
        /// How long to wait before another try, 0 = no advice.
        retry_after_ms: u32,
    },
    /// Used after it was finished or reset: a fault in this program.
    #[error("stream used after its end")]
    Misused,
}

impl StreamError {
    /// The peer's code, or the one that fits best.
    pub fn code(&self) -> Code {
        match self {
            Self::Reset(code) | Self::Stopped(code) | Self::Closed(code) => *code,
            Self::Answer { code, .. } => *code,
            Self::TimedOut => Code::Timeout,
            Self::Ended | Self::Frame(_) => Code::BadRequest,
            Self::Lost(_) | Self::Misused => Code::Internal,
        }
    }
}

/// An answer frame that may carry an error in place of its verb's answer.
pub trait Answer: prost::Message + Default {
    /// The error in it, if it is one.
    fn error(&self) -> Option<&pb::Error>;
}

impl Answer for pb::NodeResponse {
    fn error(&self) -> Option<&pb::Error> {
        match &self.answer {
            Some(pb::node_response::Answer::Error(error)) => Some(error),
            _ => None,
        }
    }
}

impl Answer for pb::SatelliteResponse {
    fn error(&self) -> Option<&pb::Error> {
        match &self.answer {
            Some(pb::satellite_response::Answer::Error(error)) => Some(error),
            _ => None,
        }
    }
}

impl Connection {
    pub(crate) fn new(inner: quinn::Connection, peer: NodeId) -> Self {
        Self { inner, peer }
    }

    /// Whose key the other end proved.
    pub fn peer(&self) -> NodeId {
        self.peer
    }

    /// Where the other end is.
    pub fn remote_address(&self) -> SocketAddr {
        self.inner.remote_address()
    }

    /// Opens an exchange; waits while the peer's limit of open streams is reached.
    ///
    /// # Errors
    ///
    /// If the connection is lost.
    pub async fn open(&self) -> Result<Exchange, StreamError> {
        let (send, recv) = self.inner.open_bi().await.map_err(lost)?;
        Ok(Exchange::new(send, recv))
    }

    /// The peer's next exchange.
    ///
    /// # Errors
    ///
    /// When the connection has ended.
    pub async fn accept_exchange(&self) -> Result<Exchange, StreamError> {
        let (send, recv) = self.inner.accept_bi().await.map_err(lost)?;
        Ok(Exchange::new(send, recv))
    }

    /// One request frame, one answer frame of at most `answer_bytes_max`, all within `timeout`.
    ///
    /// # Errors
    ///
    /// [`StreamError::Answer`] if the peer answered with an error, else as the stream failed.
    pub async fn call<A: Answer>(
        &self,
        request: &impl prost::Message,
        answer_bytes_max: usize,
        timeout: Duration,
    ) -> Result<A, StreamError> {
        let call = async {
            let mut exchange = self.open().await?;
            // A peer may answer and stop listening before it has read everything: the answer,
            // if there is one, says more than our failure to send.
            let sent = exchange.send.frame(request).await;
            exchange.send.finish();
            match (exchange.recv.answer(answer_bytes_max).await, sent) {
                (Err(StreamError::Ended), Err(sent)) => Err(sent),
                (answer, _) => answer,
            }
        };
        tokio::time::timeout(timeout, call)
            .await
            .unwrap_or(Err(StreamError::TimedOut))
    }

    /// Closes the connection at once; what was not acknowledged is lost.
    pub fn close(&self, code: Code) {
        self.inner.close(wire(code), b"");
    }

    /// Waits until the connection has ended, from whichever side.
    pub async fn closed(&self) -> StreamError {
        lost(self.inner.closed().await)
    }

    /// Whether it has ended.
    pub fn is_closed(&self) -> bool {
        self.inner.close_reason().is_some()
    }

    /// Smoothed round-trip time.
    pub fn round_trip(&self) -> Duration {
        self.inner.rtt()
    }

    /// quinn's counters of this connection.
    pub fn stats(&self) -> quinn::ConnectionStats {
        self.inner.stats()
    }
}

impl Exchange {
    fn new(send: quinn::SendStream, recv: quinn::RecvStream) -> Self {
        Self {
            send: SendHalf {
                inner: send,
                ended: false,
            },
            recv: RecvHalf {
                inner: recv,
                ended: false,
            },
        }
    }

    /// Gives up both halves.
    pub fn reset(&mut self, code: Code) {
        self.send.reset(code);
        self.recv.stop(code);
    }
}

impl SendHalf {
    /// Sends one length-prefixed message.
    ///
    /// # Errors
    ///
    /// If the peer stopped the stream or the connection was lost; so for all sends.
    pub async fn frame(&mut self, message: &impl prost::Message) -> Result<(), StreamError> {
        self.bytes(Bytes::from(encode_frame(message))).await
    }

    /// Sends raw bytes without copying them.
    ///
    /// # Errors
    ///
    /// As [`frame`](Self::frame).
    pub async fn bytes(&mut self, bytes: Bytes) -> Result<(), StreamError> {
        Ok(self.inner.write_chunk(bytes).await?)
    }

    /// Sends raw bytes without copying them; `chunks` are left empty.
    ///
    /// # Errors
    ///
    /// As [`frame`](Self::frame).
    pub async fn chunks(&mut self, chunks: &mut [Bytes]) -> Result<(), StreamError> {
        Ok(self.inner.write_all_chunks(chunks).await?)
    }

    /// Ends the stream: the peer sees its end after all bytes sent.
    pub fn finish(&mut self) {
        if !self.ended {
            self.ended = true;
            // Fails only if the stream is over already, which is what we want.
            let _ = self.inner.finish();
        }
    }

    /// Waits until the peer has acknowledged everything, or given up the stream.
    ///
    /// # Errors
    ///
    /// [`StreamError::Stopped`] if the peer gave up; else if the connection was lost.
    pub async fn delivered(&mut self) -> Result<(), StreamError> {
        match self.inner.stopped().await {
            Ok(None) => Ok(()),
            Ok(Some(code)) => Err(StreamError::Stopped(code_of(code))),
            Err(quinn::StoppedError::ConnectionLost(error)) => Err(lost(error)),
            Err(quinn::StoppedError::ZeroRttRejected) => Err(StreamError::Misused),
        }
    }

    /// Abandons the stream: the peer sees `code` in place of the rest.
    pub fn reset(&mut self, code: Code) {
        if !self.ended {
            self.ended = true;
            let _ = self.inner.reset(wire(code));
        }
    }

    /// Streams of higher priority send first; 0 at the start.
    pub fn set_priority(&mut self, priority: i32) {
        let _ = self.inner.set_priority(priority);
    }
}

impl RecvHalf {
    /// Receives one length-prefixed message of at most `bytes_max` bytes.
    ///
    /// # Errors
    ///
    /// [`StreamError::Ended`] if the stream ended before or in it.
    pub async fn frame<M: prost::Message + Default>(
        &mut self,
        bytes_max: usize,
    ) -> Result<M, StreamError> {
        let mut prefix = [0; 4];
        self.read_exact(&mut prefix).await?;
        let len = frame_len(prefix, bytes_max)?;
        // The buffer grows with what arrives: a length alone must not cost us memory.
        let mut bytes = Vec::with_capacity(len.min(FRAME_BYTES_AT_FIRST));
        while bytes.len() < len {
            let chunk = self
                .chunk(len - bytes.len())
                .await?
                .ok_or(StreamError::Ended)?;
            bytes.extend_from_slice(&chunk);
        }
        Ok(decode_frame(&bytes)?)
    }

    /// Receives an answer frame and turns an error in it into [`StreamError::Answer`].
    ///
    /// # Errors
    ///
    /// As [`frame`](Self::frame), and the peer's own.
    pub async fn answer<A: Answer>(&mut self, bytes_max: usize) -> Result<A, StreamError> {
        let answer: A = self.frame(bytes_max).await?;
        match answer.error() {
            None => Ok(answer),
            Some(error) => Err(StreamError::Answer {
                code: Code::of_error(error),
                message: error.message.clone(),
                retry_after_ms: error.retry_after_ms,
            }),
        }
    }

    /// Fills `bytes`.
    ///
    /// # Errors
    ///
    /// [`StreamError::Ended`] if the stream ended before that.
    pub async fn read_exact(&mut self, bytes: &mut [u8]) -> Result<(), StreamError> {
        Ok(self.inner.read_exact(bytes).await?)
    }

    /// The next bytes, at most `bytes_max` of them, without copying; `None` at the end.
    ///
    /// # Errors
    ///
    /// If the peer reset the stream or the connection was lost.
    pub async fn chunk(&mut self, bytes_max: usize) -> Result<Option<Bytes>, StreamError> {
        let chunk = self.inner.read_chunk(bytes_max, true).await?;
        self.ended |= chunk.is_none();
        Ok(chunk.map(|chunk| chunk.bytes))
    }

    /// Refuses what is still to come.
    pub fn stop(&mut self, code: Code) {
        if !self.ended {
            self.ended = true;
            let _ = self.inner.stop(wire(code));
        }
    }
}

impl Drop for SendHalf {
    fn drop(&mut self) {
        self.reset(Code::Cancelled);
    }
}

impl Drop for RecvHalf {
    fn drop(&mut self) {
        self.stop(Code::Cancelled);
    }
}

impl From<WriteError> for StreamError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Stopped(code) => Self::Stopped(code_of(code)),
            WriteError::ConnectionLost(error) => lost(error),
            WriteError::ClosedStream | WriteError::ZeroRttRejected => Self::Misused,
        }
    }
}

impl From<ReadError> for StreamError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Reset(code) => Self::Reset(code_of(code)),
            ReadError::ConnectionLost(error) => lost(error),
            ReadError::ClosedStream
            | ReadError::IllegalOrderedRead
            | ReadError::ZeroRttRejected => Self::Misused,
        }
    }
}

impl From<ReadExactError> for StreamError {
    fn from(error: ReadExactError) -> Self {
        match error {
            ReadExactError::FinishedEarly(_) => Self::Ended,
            ReadExactError::ReadError(error) => error.into(),
        }
    }
}

fn lost(error: ConnectionError) -> StreamError {
    match error {
        ConnectionError::ApplicationClosed(close) => StreamError::Closed(code_of(close.error_code)),
        ConnectionError::TimedOut => StreamError::TimedOut,
        other => StreamError::Lost(other.to_string()),
    }
}

pub(crate) fn wire(code: Code) -> VarInt {
    VarInt::from_u32(code.into())
}

/// A peer's code; one beyond the registry counts as its internal error.
fn code_of(code: VarInt) -> Code {
    Code::try_from(code.into_inner()).unwrap_or(Code::Internal)
}

/// Reserved for a frame before its bytes arrive; most fit.
const FRAME_BYTES_AT_FIRST: usize = 65_536;
