//! A node's report to its satellite, and what comes back: keys, time, and whether the world can reach us.
//!
//! The call leaves through the node's own endpoint, so the satellite sees the address that others will use, and it dials
//! back to the advertised one before it selects the node. Until the first check-in has succeeded the node knows no keys
//! and refuses every limit as stale; a check-in that fails later changes nothing but the time until the next.
//!
//! [`Reporter::run`] owns the rhythm and the words for the owner; how a request travels is the [`Line`]'s.

use std::cell::RefCell;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_lite::future;
use strand_protocol::limits::{CHECK_IN_INTERVAL, CLOCK_SKEW_MS, SATELLITE_FRAME_BYTES_MAX};
use strand_protocol::pb::satellite_request::Verb;
use strand_protocol::pb::satellite_response::Answer;
use strand_protocol::{NodeId, pb};
use strand_transport::SATELLITE_ALPN;

use crate::config::{Config, HostPort};
use crate::core::executor::{Clock, Executor, timeout};
use crate::gc::{NEWS_PAUSE, Reports};
use crate::limits::{CHECK_IN_RETRY, CHECK_IN_WAIT};
use crate::permission::{EpochKeys, Permission};
use crate::quic::{DialError, Endpoint};
use crate::reach;
use crate::serve::{FrameError, read_frame, send_frame};
use crate::stream::{SendStream, StreamError};

/// Between two looks at whether a name has been resolved.
const RESOLVE_POLL: Duration = Duration::from_millis(20);

/// How a check-in reaches the satellite.
#[expect(
    async_fn_in_trait,
    reason = "a core is one thread: no future here needs Send"
)]
pub trait Line {
    /// Sends one check-in and waits for its answer.
    async fn check_in(&self, check_in: pb::CheckIn) -> Result<pb::CheckedIn, CheckInError>;

    /// Asks for one filter: the bytes of an `SPF1`, if the satellite is honest.
    async fn fetch_filter(&self, fetch: pb::FetchFilter) -> Result<Vec<u8>, CheckInError>;
}

/// The space a node reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReportedSpace {
    /// Offered by the owner.
    pub capacity_bytes: u64,
    /// Taken by the store's files.
    pub used_bytes: u64,
    /// Still to be had.
    pub free_bytes: u64,
}

/// What is known of the node's standing with its satellite.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Standing {
    /// Whether the last dial-back came through; none before the first check-in.
    pub reachable: Option<bool>,
    /// What to look at if it did not.
    pub advice: Vec<String>,
    /// Why not, or why the last check-in failed.
    pub reason: String,
    /// The address the satellite saw us at.
    pub observed: String,
    /// When the last check-in succeeded, by our clock; 0 = never.
    pub last_success_ms: u64,
    /// Check-ins that failed since then.
    pub failures: u32,
}

/// Why a check-in failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckInError {
    /// The satellite's name leads nowhere.
    #[error("cannot find the satellite's address {0}")]
    Resolve(HostPort),
    /// No connection.
    #[error("cannot reach the satellite at {address}: {error}")]
    Dial {
        /// Where it should be.
        address: SocketAddr,
        /// What happened.
        error: DialError,
    },
    /// The connection broke.
    #[error("the connection to the satellite broke: {0}")]
    Stream(#[from] StreamError),
    /// Not an answer.
    #[error("the satellite's answer is unreadable: {0}")]
    Frame(#[from] FrameError),
    /// It said no.
    #[error("the satellite refused: {0}")]
    Refused(String),
    /// An answer to something else, or keys of the wrong length.
    #[error("the satellite's answer makes no sense")]
    Nonsense,
    /// Too slow.
    #[error("the satellite did not answer within {} s", CHECK_IN_WAIT.as_secs())]
    TooSlow,
}

/// What checks in, and on whose behalf.
pub struct Reporter<'a, L, E, C> {
    /// The way to the satellite.
    pub line: &'a L,
    /// The node's settings.
    pub config: &'a Config,
    /// Where the node's socket is bound.
    pub local_address: SocketAddr,
    /// When the process started, by our clock.
    pub started_ms: u64,
    /// Takes in keys and time.
    pub permission: &'a Permission,
    /// Shown in `status`.
    pub standing: &'a RefCell<Standing>,
    /// What else the satellite is told, and tells.
    pub reports: &'a Reports,
    /// For waiting.
    pub executor: &'a E,
    /// Our wall clock.
    pub clock: &'a C,
}

impl<L: Line, E: Executor, C: Clock> Reporter<'_, L, E, C> {
    /// Checks in until it is dropped.
    pub async fn run(&self, space: impl Fn() -> ReportedSpace, random: impl Fn() -> u8) {
        let mut retry = CHECK_IN_RETRY;
        loop {
            let (wait, has_succeeded) = match self.once(space()).await {
                Ok(()) => {
                    retry = CHECK_IN_RETRY;
                    (CHECK_IN_INTERVAL, true)
                }
                Err(error) => {
                    self.failed(&error, retry);
                    let wait = retry;
                    retry = (2 * retry).min(CHECK_IN_INTERVAL);
                    (wait, false)
                }
            };
            // Up to an eighth less, so that a process' nodes and a network's do not march in step.
            let wait = wait - wait * u32::from(random()) / (8 * 256);
            let pause = NEWS_PAUSE.min(wait);
            let waited = async {
                self.executor.sleep(pause).await;
                let rest = self.executor.sleep(wait - pause);
                if has_succeeded {
                    future::or(rest, self.reports.news()).await;
                } else {
                    rest.await;
                }
            };
            // It happens once.
            future::or(waited, self.reports.until_opened()).await;
        }
    }

    async fn once(&self, space: ReportedSpace) -> Result<(), CheckInError> {
        let mut check_in = pb::CheckIn {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            advertise: self.advertise(),
            capacity_bytes: space.capacity_bytes,
            used_bytes: space.used_bytes,
            free_bytes: space.free_bytes,
            now_ms: self.permission.own_ms(self.clock.moment()),
            started_ms: self.started_ms,
            ..pb::CheckIn::default()
        };
        self.reports.fill(&mut check_in);
        let answer = timeout(self.executor, CHECK_IN_WAIT, self.line.check_in(check_in)).await;
        let answer = answer.ok_or(CheckInError::TooSlow)??;
        let keys = answer
            .keys
            .iter()
            .map(epoch_keys)
            .collect::<Option<Vec<_>>>();
        let keys = keys
            .filter(|keys| !keys.is_empty())
            .ok_or(CheckInError::Nonsense)?;
        self.permission
            .update(keys, answer.now_ms, self.clock.moment());
        self.reports.answered(&answer);
        self.succeeded(answer);
        Ok(())
    }

    /// Under which address we ask to be reached: the owner's word, else a specific address that we listen on, else what
    /// the satellite saw with our port; empty if it has not told us yet.
    fn advertise(&self) -> String {
        if let Some(advertise) = &self.config.advertise {
            return advertise.to_string();
        }
        if !self.local_address.ip().is_unspecified() {
            return self.local_address.to_string();
        }
        let observed = self.standing.borrow().observed.parse::<SocketAddr>();
        observed
            .map(|seen| SocketAddr::new(seen.ip(), self.local_address.port()).to_string())
            .unwrap_or_default()
    }

    fn succeeded(&self, answer: pb::CheckedIn) {
        let node = self.config.node_id;
        let tried = some_address(&self.advertise(), &answer.observed).to_owned();
        let advice = if answer.reachable {
            Vec::new()
        } else {
            reach::advice(self.local_address, &tried, &answer.observed)
        };
        let before = self.standing.replace(Standing {
            reachable: Some(answer.reachable),
            advice: advice.clone(),
            reason: answer.reason.clone(),
            observed: answer.observed.clone(),
            last_success_ms: self.clock.now_ms(),
            failures: 0,
        });
        if before.reachable != Some(answer.reachable) || before.failures > 0 {
            if answer.reachable {
                tracing::info!(%node, observed = %answer.observed, "checked in; the satellite reached this node");
            } else {
                tracing::warn!(
                    %node,
                    "checked in, but the satellite could not reach this node at {tried}: {}. To check: {}",
                    answer.reason,
                    advice.join("; "),
                );
            }
        }
        let skew_ms = self.permission.clock_offset_ms();
        if skew_ms.unsigned_abs() > CLOCK_SKEW_MS {
            tracing::warn!(%node, "this machine's clock is {} s off the satellite's: set it, for example with NTP", skew_ms / 1000);
        }
    }

    fn failed(&self, error: &CheckInError, wait: Duration) {
        let mut standing = self.standing.borrow_mut();
        standing.failures = standing.failures.saturating_add(1);
        standing.reason = error.to_string();
        tracing::warn!(node = %self.config.node_id, "check-in failed: {error}; next try in {} s", wait.as_secs());
    }
}

fn some_address<'a>(advertised: &'a str, observed: &'a str) -> &'a str {
    if advertised.is_empty() {
        observed
    } else {
        advertised
    }
}

fn epoch_keys(keys: &pb::NodeKeys) -> Option<EpochKeys> {
    Some(EpochKeys {
        epoch: keys.epoch,
        limit_key: <[u8; 32]>::try_from(&keys.limit_key[..]).ok()?.into(),
        receipt_key: <[u8; 32]>::try_from(&keys.receipt_key[..]).ok()?.into(),
    })
}

/// The real [`Line`]: a connection from the node's own socket for each check-in, so that a changed address is noticed.
pub struct EndpointLine<E: Executor> {
    endpoint: Endpoint<E>,
    executor: E,
    satellite: NodeId,
    address: HostPort,
}

impl<E: Executor> EndpointLine<E> {
    /// A line from `endpoint` to the satellite.
    #[must_use]
    pub fn new(endpoint: Endpoint<E>, executor: E, satellite: NodeId, address: HostPort) -> Self {
        Self {
            endpoint,
            executor,
            satellite,
            address,
        }
    }

    /// The satellite's addresses that our socket can send to.
    async fn addresses(&self) -> Result<Vec<SocketAddr>, CheckInError> {
        let local = self.endpoint.local_addr();
        let found = resolve(&self.executor, &self.address).await;
        let usable: Vec<_> = found
            .into_iter()
            .filter_map(|address| as_sent_from(local, address))
            .collect();
        if usable.is_empty() {
            Err(CheckInError::Resolve(self.address.clone()))
        } else {
            Ok(usable)
        }
    }

    /// One request over a connection of its own.
    async fn ask(&self, verb: Verb) -> Result<Answer, CheckInError> {
        let mut failure = CheckInError::Resolve(self.address.clone());
        for address in self.addresses().await? {
            let connection = match self
                .endpoint
                .dial(self.satellite, address, SATELLITE_ALPN)
                .await
            {
                Ok(connection) => connection,
                Err(error) => {
                    failure = CheckInError::Dial { address, error };
                    continue;
                }
            };
            let (mut send, mut recv) = connection.open().await?;
            let request = pb::SatelliteRequest {
                macaroon: Vec::new(),
                verb: Some(verb),
            };
            send_frame(&mut send, &request).await?;
            send.finish();
            let response: pb::SatelliteResponse =
                read_frame(&mut recv, SATELLITE_FRAME_BYTES_MAX).await?;
            return match response.answer {
                Some(Answer::Error(error)) => Err(CheckInError::Refused(error.message)),
                Some(answer) => Ok(answer),
                None => Err(CheckInError::Nonsense),
            };
        }
        Err(failure)
    }
}

impl<E: Executor> Line for EndpointLine<E> {
    async fn check_in(&self, check_in: pb::CheckIn) -> Result<pb::CheckedIn, CheckInError> {
        match self.ask(Verb::CheckIn(check_in)).await? {
            Answer::CheckedIn(answer) => Ok(answer),
            _ => Err(CheckInError::Nonsense),
        }
    }

    async fn fetch_filter(&self, fetch: pb::FetchFilter) -> Result<Vec<u8>, CheckInError> {
        match self.ask(Verb::FetchFilter(fetch)).await? {
            Answer::FilterPart(part) => Ok(part.filter),
            _ => Err(CheckInError::Nonsense),
        }
    }
}

/// Looks a name up, away from the core: the system's resolver blocks.
async fn resolve<E: Executor>(executor: &E, address: &HostPort) -> Vec<SocketAddr> {
    if let Ok(literal) = address.as_str().parse() {
        return vec![literal];
    }
    let found: Arc<Mutex<Option<Vec<SocketAddr>>>> = Arc::default();
    let name = address.as_str().to_owned();
    let slot = Arc::clone(&found);
    let look_up = move || {
        let addresses = name
            .to_socket_addrs()
            .map(Iterator::collect)
            .unwrap_or_default();
        *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(addresses);
    };
    if std::thread::Builder::new()
        .name("resolve".to_owned())
        .spawn(look_up)
        .is_err()
    {
        return Vec::new();
    }
    loop {
        if let Some(addresses) = found.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return addresses;
        }
        executor.sleep(RESOLVE_POLL).await;
    }
}

/// How `address` is written for a socket bound to `local`: a v6 socket on all addresses speaks v4 in mapped form.
fn as_sent_from(local: SocketAddr, address: SocketAddr) -> Option<SocketAddr> {
    match (local.ip(), address.ip()) {
        (IpAddr::V4(_), IpAddr::V4(_)) | (IpAddr::V6(_), IpAddr::V6(_)) => Some(address),
        (IpAddr::V6(Ipv6Addr::UNSPECIFIED), IpAddr::V4(ip)) => {
            Some(SocketAddr::new(ip.to_ipv6_mapped().into(), address.port()))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;
