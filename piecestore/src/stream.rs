//! One bidirectional stream of a request, as the verbs see it.
//!
//! The verbs know these two traits and nothing of QUIC; `quic` implements them over a connection,
//! tests over a pair of queues. Both halves belong to one task of one core, so nothing is `Send`.
//! A half that is dropped early aborts: an unfinished send side is reset, an unread receive side
//! is stopped, both with [`Code::Cancelled`].

use bytes::Bytes;
use strand_protocol::{Code, NodeId};

/// Why a stream gives nothing more. All of it is the peer's or the network's doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// The peer abandoned what it was sending; its code (docs/wire.md, section 3).
    #[error("stream reset by the peer with code {0}")]
    Reset(u32),
    /// The peer wants nothing more of what we send; its code.
    #[error("stream stopped by the peer with code {0}")]
    Stopped(u32),
    /// The connection, or our half of the stream, is closed.
    #[error("connection closed")]
    Closed,
    /// The peer went silent.
    #[error("connection timed out")]
    TimedOut,
}

/// The half that brings the peer's bytes.
#[expect(async_fn_in_trait, reason = "a core's tasks never leave their thread")]
pub trait RecvStream {
    /// The next bytes in order, at most `max` of them and at least one; `None` at the end.
    ///
    /// # Errors
    ///
    /// [`StreamError`], after which nothing more comes.
    async fn chunk(&mut self, max: usize) -> Result<Option<Bytes>, StreamError>;

    /// Says that a body of so many bytes was admitted and comes next: room for more of it in flight is worth its memory.
    fn expect(&mut self, _body_bytes: u64) {}

    /// Asks the peer to stop sending. What it has sent is dropped.
    fn stop(&mut self, code: Code);
}

/// The half that carries our bytes.
#[expect(async_fn_in_trait, reason = "a core's tasks never leave their thread")]
pub trait SendStream {
    /// Queues all of `bytes`; waits while the peer's window or our own is full.
    ///
    /// # Errors
    ///
    /// [`StreamError`], after which nothing more can be sent.
    async fn send(&mut self, bytes: Bytes) -> Result<(), StreamError>;

    /// Says that so many bytes follow.
    fn announce(&mut self, _body_bytes: u64) {}

    /// Ends the stream after what was sent. Delivery goes on without this half.
    fn finish(&mut self);

    /// Abandons the stream: the peer sees `code` in place of whatever has not reached it yet.
    fn reset(&mut self, code: Code);
}

/// One request as it is handed to the verbs: the stream and who opened it.
#[derive(Debug)]
pub struct Request<S, R> {
    /// Node id of the client's transport key.
    pub peer: NodeId,
    /// Carries the answer.
    pub send: S,
    /// Brings the request.
    pub recv: R,
}
