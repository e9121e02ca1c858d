//! A client's session: its grant, its ephemeral identity, the connection to the satellite and those
//! to nodes.
//!
//! [`Session::call`] is one request and its answer: it connects when needed, waits out `BUSY`, and
//! repeats a request that was lost if repeating it is harmless. Every call ends within
//! [`CALL_TIMEOUT`] (`BUSY` answers: [`BUSY_TIMEOUT`]), so that no command hangs on a dead
//! satellite. What the answers mean is the callers' business; `answer_of` only picks the variant.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use strand_protocol::grant::Grant;
use strand_protocol::path::Names;
use strand_protocol::pb::satellite_request::Verb;
use strand_protocol::pb::satellite_response::Answer;
use strand_protocol::{Code, NodeId, pb};
use strand_transport::{Connection, DialError, Dialer, Identity, SATELLITE_ALPN, StreamError};
use tokio::time::Instant;

use crate::error::CallError;
use crate::limits::{ANSWER_TIMEOUT, BUSY_TIMEOUT, CALL_TIMEOUT, SATELLITE_DIAL_TIMEOUT};
use crate::pool::NodePool;

/// Everything a client needs to work in one project.
#[derive(Debug)]
pub struct Session {
    grant: Grant,
    dialer: Arc<Dialer>,
    link: tokio::sync::Mutex<Link>,
    nodes: NodePool,
    names: Mutex<HashMap<String, Names>>,
}

#[derive(Debug, Default)]
struct Link {
    connection: Option<Connection>,
    /// Counts the connections made, so that only the one that failed is forgotten.
    generation: u64,
}

/// Whether a request may be sent again when its answer was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// It changes nothing, or the same thing twice.
    Harmless,
    /// A second one would fail, or mean something else.
    Never,
}

impl Session {
    /// A session under a new ephemeral identity. Nothing is sent yet. Needs a tokio runtime.
    ///
    /// # Errors
    ///
    /// [`CallError::Socket`] if the machine gives no UDP socket.
    pub fn open(grant: Grant) -> Result<Arc<Self>, CallError> {
        Self::over(grant, Dialer::new(Identity::generate()))
    }

    /// The same in a network that carries jumbo frames.
    ///
    /// # Errors
    ///
    /// As [`Session::open`].
    pub fn open_with_jumbo_datagrams(grant: Grant) -> Result<Arc<Self>, CallError> {
        Self::over(grant, Dialer::with_jumbo_datagrams(Identity::generate()))
    }

    fn over(grant: Grant, dialer: Result<Dialer, DialError>) -> Result<Arc<Self>, CallError> {
        let dialer = dialer.map_err(|error| CallError::Socket(error.to_string()))?;
        let dialer = Arc::new(dialer);
        Ok(Arc::new(Self {
            grant,
            nodes: NodePool::new(dialer.clone()),
            dialer,
            link: tokio::sync::Mutex::new(Link::default()),
            names: Mutex::new(HashMap::new()),
        }))
    }

    /// The grant it works under.
    #[must_use]
    pub fn grant(&self) -> &Grant {
        &self.grant
    }

    /// The identity that nodes and satellite see.
    #[must_use]
    pub fn client_id(&self) -> NodeId {
        self.dialer.node_id()
    }

    /// The nodes it talks to.
    #[must_use]
    pub fn nodes(&self) -> &NodePool {
        &self.nodes
    }

    /// Says good-bye to everybody, within a second.
    pub async fn close(&self) {
        self.dialer.close().await;
    }

    pub(crate) fn known_names(&self, bucket: &str) -> Option<Names> {
        self.names
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(bucket)
            .copied()
    }

    pub(crate) fn learn_names(&self, bucket: &str, names: Names) {
        self.names
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(bucket.to_owned(), names);
    }

    /// One request to the satellite and its answer.
    pub(crate) async fn call(&self, verb: Verb, repeat: Repeat) -> Result<Answer, CallError> {
        let name = verb_name(&verb);
        let request = pb::SatelliteRequest {
            macaroon: self.grant.macaroon.as_bytes().to_vec(),
            verb: Some(verb),
        };
        let begun = Instant::now();
        let deadline = begun + CALL_TIMEOUT;
        let mut pause = Duration::from_millis(50);
        loop {
            let (connection, generation) = self.connect(deadline).await?;
            let mut rest = deadline
                .saturating_duration_since(Instant::now())
                .max(Duration::from_millis(200));
            if repeat == Repeat::Harmless {
                // A satellite that was restarted does not know our connection, and we learn it by
                // silence only.
                rest = rest.min(ANSWER_TIMEOUT);
            }
            let answer = connection
                .call::<pb::SatelliteResponse>(
                    &request,
                    strand_protocol::limits::SATELLITE_FRAME_BYTES_MAX,
                    rest,
                )
                .await;
            let failure = match answer {
                Ok(pb::SatelliteResponse {
                    answer: Some(answer),
                }) => return Ok(answer),
                Ok(_) => {
                    return Err(CallError::BadAnswer {
                        verb: name,
                        what: "it is empty",
                    });
                }
                Err(failure) => failure,
            };
            match failure {
                StreamError::Answer {
                    code: Code::Busy,
                    retry_after_ms,
                    ..
                } if begun.elapsed() < BUSY_TIMEOUT => {
                    pause = pause.max(Duration::from_millis(retry_after_ms.into()));
                }
                StreamError::Answer { code, message, .. } => {
                    return Err(CallError::Refused {
                        verb: name,
                        code,
                        message,
                    });
                }
                StreamError::Frame(_) => {
                    return Err(CallError::BadAnswer {
                        verb: name,
                        what: "it is not of this version",
                    });
                }
                failure => {
                    self.forget(generation).await;
                    if repeat == Repeat::Never || Instant::now() + pause >= deadline {
                        let reason = failure.to_string();
                        return Err(CallError::NoAnswer {
                            address: self.address(),
                            verb: name,
                            reason,
                        });
                    }
                }
            }
            tokio::time::sleep(jittered(pause)).await;
            pause = (pause * 2).min(Duration::from_secs(2));
        }
    }

    async fn connect(&self, deadline: Instant) -> Result<(Connection, u64), CallError> {
        let mut link = self.link.lock().await;
        if let Some(connection) = &link.connection
            && !connection.is_closed()
        {
            return Ok((connection.clone(), link.generation));
        }
        loop {
            let dial = self.dialer.dial_within(
                self.grant.satellite,
                &self.grant.address,
                SATELLITE_ALPN,
                SATELLITE_DIAL_TIMEOUT,
            );
            let error = match dial.await {
                Ok(connection) => {
                    link.connection = Some(connection.clone());
                    link.generation += 1;
                    return Ok((connection, link.generation));
                }
                Err(error) => error,
            };
            let is_last = Instant::now() + SATELLITE_DIAL_TIMEOUT >= deadline;
            if is_last || !error.is_transient() {
                return Err(CallError::Unreachable {
                    address: self.address(),
                    reason: error.to_string(),
                });
            }
            tokio::time::sleep(jittered(Duration::from_millis(100))).await;
        }
    }

    /// The next call makes a new connection. Calls under way on the old one go on.
    async fn forget(&self, generation: u64) {
        let mut link = self.link.lock().await;
        if link.generation == generation {
            link.connection = None;
        }
    }

    fn address(&self) -> String {
        self.grant.address.clone()
    }
}

/// Picks the variant of an answer that its verb has to have; a `Result` with [`CallError`].
macro_rules! answer_of {
    ($answer:expr, $variant:ident, $verb:literal) => {
        match $answer {
            Ok(strand_protocol::pb::satellite_response::Answer::$variant(answer)) => Ok(answer),
            Ok(_) => Err($crate::error::CallError::BadAnswer {
                verb: $verb,
                what: "it is of another verb",
            }),
            Err(error) => Err(error),
        }
    };
}
pub(crate) use answer_of;

/// Between half of `pause` and all of it, so that many clients do not come back at once.
pub(crate) fn jittered(pause: Duration) -> Duration {
    let mut byte = [0];
    // Without randomness the full pause is as good.
    if getrandom::fill(&mut byte).is_err() {
        return pause;
    }
    pause / 2 + pause / 2 * u32::from(byte[0]) / 255
}

fn verb_name(verb: &Verb) -> &'static str {
    match verb {
        Verb::GetProject(_) => "GetProject",
        Verb::SetCheckValue(_) => "SetCheckValue",
        Verb::CreateBucket(_) => "CreateBucket",
        Verb::DeleteBucket(_) => "DeleteBucket",
        Verb::ListBuckets(_) => "ListBuckets",
        Verb::GetBucket(_) => "GetBucket",
        Verb::BeginObject(_) => "BeginObject",
        Verb::BeginSegment(_) => "BeginSegment",
        Verb::ReplacePieces(_) => "ReplacePieces",
        Verb::CommitSegment(_) => "CommitSegment",
        Verb::InlineSegment(_) => "InlineSegment",
        Verb::CommitObject(_) => "CommitObject",
        Verb::GetObject(_) => "GetObject",
        Verb::GetSegment(_) => "GetSegment",
        Verb::ListObjects(_) => "ListObjects",
        Verb::DeleteObject(_) => "DeleteObject",
        Verb::CheckIn(_) => "CheckIn",
        Verb::FetchFilter(_) => "FetchFilter",
        Verb::Ping(_) => "Ping",
        Verb::AbortObject(_) => "AbortObject",
    }
}
