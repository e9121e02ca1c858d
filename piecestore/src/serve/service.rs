//! One node's answers: what its verbs share, and the way in.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use bytes::Bytes;
use strand_blob::{Disk, OpenProgress, Store};
use strand_protocol::limits::NODE_FRAME_BYTES_MAX;
use strand_protocol::pb::node_request::Verb;
use strand_protocol::pb::node_response::Answer;
use strand_protocol::{NodeId, pb};

use super::admission::Admission;
use super::error::{Failure, VerbError};
use super::frame::{FrameError, read_frame, send_frame};
use super::latency::{Latencies, VerbLatencies};
use crate::core::executor::{Clock, Executor, timeout};
use crate::limits::{ANSWER_WAIT, REQUEST_WAIT, SEND_WAIT};
use crate::permission::Permission;
use crate::stream::{RecvStream, Request, SendStream, StreamError};

/// What a node's verbs work with.
pub struct ServiceOptions<E, C> {
    /// Who we are.
    pub node_id: NodeId,
    /// How far the opening of the store is.
    pub opening: Rc<OpenProgress>,
    /// Keys, satellite time, serials.
    pub permission: Rc<Permission>,
    /// The core's memory for bodies coming in.
    pub writes: Rc<Admission>,
    /// The core's memory for bodies going out.
    pub reads: Rc<Admission>,
    /// The core's executor.
    pub executor: E,
    /// Our wall clock.
    pub clock: C,
}

/// One node, as its peers see it.
pub struct Service<D: Disk, E, C> {
    options: ServiceOptions<E, C>,
    /// Not there while it is being opened.
    store: OnceCell<Rc<Store<D>>>,
    is_draining: Cell<bool>,
    in_flight: Cell<usize>,
    counters: Cell<VerbCounts>,
    latencies: RefCell<VerbLatencies>,
    errors: RefCell<BTreeMap<&'static str, u64>>,
}

/// Requests taken and how they ended.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct RequestCounters {
    /// Requests that named the verb, whatever became of them.
    #[serde(flatten)]
    pub verbs: VerbCounts,
    /// How long they took.
    pub latency: VerbLatencies,
    /// Requests running now.
    pub in_flight: usize,
    /// Failures by the code that the peer was given.
    pub errors: BTreeMap<&'static str, u64>,
}

/// Requests by verb.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct VerbCounts {
    /// Puts.
    pub puts: u64,
    /// Gets, audits and repairs among them.
    pub gets: u64,
    /// Deletes.
    pub deletes: u64,
    /// Pings.
    pub pings: u64,
}

/// A request in flight, counted until it is dropped.
struct InFlight<'a>(&'a Cell<usize>);

impl<D, E, C> Service<D, E, C>
where
    D: Disk + 'static,
    E: Executor,
    C: Clock,
{
    /// A node that answers that it is busy, until it is given its store.
    #[must_use]
    pub fn new(options: ServiceOptions<E, C>) -> Rc<Self> {
        Rc::new(Self {
            options,
            store: OnceCell::new(),
            is_draining: Cell::new(false),
            in_flight: Cell::new(0),
            counters: Cell::default(),
            latencies: RefCell::default(),
            errors: RefCell::default(),
        })
    }

    /// From now on pieces are served from this store.
    ///
    /// # Panics
    ///
    /// If it was given one before.
    pub fn open(&self, store: Rc<Store<D>>) {
        assert!(self.store.set(store).is_ok(), "a node has one store");
    }

    /// Answers one request, to its end.
    pub async fn handle<S: SendStream, R: RecvStream>(&self, request: Request<S, R>) {
        let Request {
            peer,
            mut send,
            mut recv,
        } = request;
        let _in_flight = InFlight::new(&self.in_flight);
        let began = self.executor().now();
        let failure = match self.dispatch(peer, &mut send, &mut recv).await {
            Ok(of_verb) => {
                let took = self.executor().now().saturating_duration_since(began);
                return of_verb(&mut self.latencies.borrow_mut()).add(took);
            }
            Err(failure) => failure,
        };

        let code = failure.error().code();
        *self.errors.borrow_mut().entry(code.name()).or_default() += 1;
        tracing::debug!(node = %self.options.node_id, %peer, %code, error = %failure.error(), "request failed");
        recv.stop(code);
        match failure {
            Failure::Reset(_) => send.reset(code),
            Failure::Answer(error) => {
                if self
                    .answer(&mut send, Answer::Error(error.to_message()))
                    .await
                    .is_err()
                {
                    send.reset(code);
                }
            }
        }
    }

    /// From now on new requests are refused; those begun go on.
    pub fn drain(&self) {
        self.is_draining.set(true);
    }

    /// Requests running now.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.get()
    }

    /// What was asked and how it ended.
    #[must_use]
    pub fn counters(&self) -> RequestCounters {
        RequestCounters {
            verbs: self.counters.get(),
            latency: self.latencies.borrow().clone(),
            in_flight: self.in_flight.get(),
            errors: self.errors.borrow().clone(),
        }
    }

    /// Where the pieces are; `None` while that is being opened.
    #[must_use]
    pub fn store(&self) -> Option<&Rc<Store<D>>> {
        self.store.get()
    }

    /// The store, which is what a verb asks for first: an index that is half known must not answer for a piece (docs/format.md, section 6).
    pub(super) fn opened(&self) -> Result<&Rc<Store<D>>, VerbError> {
        self.store.get().ok_or_else(|| VerbError::Opening {
            percent: self.options.opening.percent(),
        })
    }

    /// Keys, satellite time, serials.
    #[must_use]
    pub fn permission(&self) -> &Rc<Permission> {
        &self.options.permission
    }

    pub(super) fn node_id(&self) -> NodeId {
        self.options.node_id
    }

    pub(super) fn executor(&self) -> &E {
        &self.options.executor
    }

    pub(super) fn writes(&self) -> &Rc<Admission> {
        &self.options.writes
    }

    pub(super) fn reads(&self) -> &Rc<Admission> {
        &self.options.reads
    }

    pub(super) fn now_ms(&self) -> u64 {
        self.options.clock.now_ms()
    }

    pub(super) fn satellite_ms(&self) -> u64 {
        self.permission().satellite_ms(self.now_ms())
    }

    /// Sends the answer's first frame; more follows.
    pub(super) async fn answer_more<S: SendStream>(
        &self,
        send: &mut S,
        answer: Answer,
    ) -> Result<(), Failure> {
        let response = pb::NodeResponse {
            answer: Some(answer),
        };
        sent(timeout(self.executor(), ANSWER_WAIT, send_frame(send, &response)).await)
    }

    /// Sends the answer's last frame.
    pub(super) async fn answer<S: SendStream>(
        &self,
        send: &mut S,
        answer: Answer,
    ) -> Result<(), Failure> {
        self.answer_more(send, answer).await?;
        send.finish();
        Ok(())
    }

    /// Sends bytes that follow an answer's frame.
    pub(super) async fn send_bytes<S: SendStream>(
        &self,
        send: &mut S,
        bytes: Bytes,
    ) -> Result<(), Failure> {
        sent(timeout(self.executor(), SEND_WAIT, send.send(bytes)).await)
    }

    /// Answers a request; gives where its time is to be counted.
    async fn dispatch<S: SendStream, R: RecvStream>(
        &self,
        peer: NodeId,
        send: &mut S,
        recv: &mut R,
    ) -> Result<fn(&mut VerbLatencies) -> &mut Latencies, Failure> {
        if self.is_draining.get() {
            return Err(VerbError::ShuttingDown.into());
        }
        let first = read_frame::<pb::NodeRequest, R>(recv, NODE_FRAME_BYTES_MAX);
        let request = match timeout(self.executor(), REQUEST_WAIT, first).await {
            Some(Ok(request)) => request,
            Some(Err(FrameError::Stream(error))) => return Err(Failure::Reset(error.into())),
            Some(Err(error)) => return Err(VerbError::Frame(error).into()),
            None => return Err(Failure::Reset(VerbError::Slow)),
        };
        let mut counts = self.counters.get();
        match request.verb {
            Some(Verb::Put(request)) => {
                counts.puts += 1;
                self.counters.set(counts);
                // Boxed: the widest of the verbs' futures would otherwise be every request's size.
                Box::pin(self.put(request, peer, send, recv)).await?;
                Ok(|latencies| &mut latencies.put)
            }
            Some(Verb::Get(request)) => {
                counts.gets += 1;
                self.counters.set(counts);
                Box::pin(self.get(request, peer, send)).await?;
                Ok(|latencies| &mut latencies.get)
            }
            Some(Verb::Delete(request)) => {
                counts.deletes += 1;
                self.counters.set(counts);
                Box::pin(self.delete(request, peer, send)).await?;
                Ok(|latencies| &mut latencies.delete)
            }
            Some(Verb::Ping(pb::Ping {})) => {
                counts.pings += 1;
                self.counters.set(counts);
                self.ping(send).await?;
                Ok(|latencies| &mut latencies.ping)
            }
            None => Err(VerbError::UnknownVerb.into()),
        }
    }
}

impl<'a> InFlight<'a> {
    fn new(count: &'a Cell<usize>) -> Self {
        count.set(count.get() + 1);
        Self(count)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// A send that failed or took too long leaves nobody to answer.
fn sent(result: Option<Result<(), StreamError>>) -> Result<(), Failure> {
    match result {
        Some(Ok(())) => Ok(()),
        Some(Err(error)) => Err(Failure::Reset(error.into())),
        None => Err(Failure::Reset(VerbError::Slow)),
    }
}

/// Seconds since 1970, as records carry them (until 2106).
pub(super) fn seconds(ms: u64) -> u32 {
    u32::try_from(ms / 1000).unwrap_or(u32::MAX)
}
