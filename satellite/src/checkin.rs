//! Check-ins: a node says where it is and how full; the satellite dials back before it believes.
//!
//! The dial-back goes to an address that a stranger chose, so it is restricted: an address the
//! satellite may dial ([`Reach`](crate::core::address::Reach)), resolved once and dialled as
//! resolved, a QUIC handshake that must show the node's key, one ping, a time-out, and a bound on
//! how many run at once.

use std::net::SocketAddr;
use std::time::Duration;

use strand_protocol::{NodeId, limits as shared, pb};
use strand_transport::NODE_ALPN;

use crate::core::address::Domain;
use crate::core::order;
use crate::core::refusal::Refusal;
use crate::core::row::NodeRow;
use crate::gc;
use crate::limits;
use crate::state::Satellite;
use crate::store::MetaStore;

/// The ping after the dial-back's handshake.
const PING_TIMEOUT: Duration = Duration::from_secs(4);

const _: () = assert!(
    shared::CONNECT_TIMEOUT.as_millis() + PING_TIMEOUT.as_millis()
        < shared::DIAL_BACK_TIMEOUT.as_millis()
);

/// Longest version text that is remembered.
const VERSION_BYTES_MAX: usize = 64;

pub(crate) async fn check_in<S: MetaStore>(
    satellite: &Satellite<S>,
    id: NodeId,
    remote: SocketAddr,
    request: &pb::CheckIn,
    now_ms: u64,
) -> Result<pb::CheckedIn, Refusal> {
    if request.advertise.len() > shared::ADDRESS_BYTES_MAX {
        return Err(Refusal::bad_request("the advertised address is too long"));
    }
    if request.version.len() > VERSION_BYTES_MAX {
        return Err(Refusal::bad_request("the version is too long"));
    }
    // A node that does not say where it is wants to be reached where it comes from.
    let address = match request.advertise.as_str() {
        "" => remote.to_string(),
        advertised => advertised.to_owned(),
    };
    let known = satellite.nodes.row(&id);
    let reached = reach(satellite, id, known.as_ref(), &address, now_ms).await?;
    let skew_ms = request
        .now_ms
        .cast_signed()
        .saturating_sub(now_ms.cast_signed());
    let (domain, reached_ms, reason) = match reached {
        Ok((domain, reached_ms)) => (domain, reached_ms, skew_reason(skew_ms)),
        Err(reason) => (Domain::of(remote.ip()), 0, reason),
    };
    let is_reachable = reached_ms != 0;
    let row = NodeRow {
        id,
        address: address.clone(),
        domain,
        capacity_bytes: request.capacity_bytes,
        used_bytes: request.used_bytes,
        free_bytes: request.free_bytes,
        version: request.version.clone(),
        first_contact_ms: known
            .as_ref()
            .map_or(now_ms, |(row, _)| row.first_contact_ms),
        last_contact_ms: now_ms,
        skew_ms,
        is_reachable,
    };
    let number = satellite.store.put_node(row.clone()).await?;
    satellite.nodes.put(number, row, reached_ms);
    if !reason.is_empty() {
        tracing::info!(node = %id, %address, reason, "a node checked in, not usable");
    } else if known.is_none() {
        tracing::info!(node = %id, %address, "a new node");
    }
    let told = gc::report(satellite, id, number, request, is_reachable, now_ms).await?;
    let keys = order::epochs(now_ms).map(|epoch| pb::NodeKeys {
        epoch,
        limit_key: satellite.keys.limit_key(&id, epoch).as_bytes().to_vec(),
        receipt_key: satellite.keys.receipt_key(&id, epoch).as_bytes().to_vec(),
    });
    Ok(pb::CheckedIn {
        now_ms,
        keys: keys.to_vec(),
        reachable: is_reachable,
        reason,
        observed: remote.to_string(),
        lost_taken: told.lost_taken,
        revived_taken: told.revived_taken,
        filters: told.filters,
    })
}

/// The domain of the address at which the node was reached, and when; or why it was not.
async fn reach<S: MetaStore>(
    satellite: &Satellite<S>,
    id: NodeId,
    known: Option<&(NodeRow, u64)>,
    address: &str,
    now_ms: u64,
) -> Result<Result<(Domain, u64), String>, Refusal> {
    if let Some((row, reached_ms)) = known {
        let is_fresh = now_ms.saturating_sub(*reached_ms) < limits::DIAL_BACK_INTERVAL_MS;
        if row.is_reachable && is_fresh && row.address == address {
            return Ok(Ok((row.domain, *reached_ms)));
        }
    }
    let Ok(_place) = satellite.check_ins.try_acquire() else {
        return Err(Refusal::busy("too many nodes are checking in"));
    };
    let waiting = tokio::time::timeout(shared::DIAL_BACK_TIMEOUT, satellite.dial_backs.acquire());
    let Ok(Ok(_permit)) = waiting.await else {
        return Err(Refusal::busy("too many nodes are checking in"));
    };
    let dialled = dial_back(satellite, id, address);
    let dialled = tokio::time::timeout(shared::DIAL_BACK_TIMEOUT, dialled);
    let dialled = dialled
        .await
        .unwrap_or_else(|_| Err("the dial-back took too long".to_owned()));
    Ok(dialled.map(|domain| (domain, now_ms)))
}

/// Connects to the advertised address and pings the node there.
async fn dial_back<S: MetaStore>(
    satellite: &Satellite<S>,
    id: NodeId,
    advertise: &str,
) -> Result<Domain, String> {
    let resolved = tokio::net::lookup_host(advertise)
        .await
        .map_err(|error| format!("cannot resolve '{advertise}' (want HOST:PORT): {error}"))?;
    let allowed =
        |address: &SocketAddr| address.port() != 0 && satellite.reach.allows(address.ip());
    let target = resolved.into_iter().find(allowed).ok_or_else(|| {
        format!(
            "{advertise} is no address that this satellite dials: it must be of the public internet"
        )
    })?;
    let connection = satellite
        .dialer
        .dial_within(id, &target.to_string(), NODE_ALPN, shared::CONNECT_TIMEOUT)
        .await
        .map_err(|error| error.to_string())?;
    let ping = pb::NodeRequest {
        verb: Some(pb::node_request::Verb::Ping(pb::Ping {})),
    };
    let answer: pb::NodeResponse = connection
        .call(&ping, shared::NODE_FRAME_BYTES_MAX, PING_TIMEOUT)
        .await
        .map_err(|error| format!("no answer to a ping at {target}: {error}"))?;
    match answer.answer {
        Some(pb::node_response::Answer::Pong(_)) => Ok(Domain::of(target.ip())),
        _ => Err(format!("another answer than to a ping at {target}")),
    }
}

/// Why a node is not selected though it is reachable; empty if it is.
fn skew_reason(skew_ms: i64) -> String {
    if skew_ms.unsigned_abs() <= shared::CLOCK_SKEW_MS {
        return String::new();
    }
    let side = if skew_ms < 0 { "behind" } else { "ahead" };
    format!(
        "the node's clock is {} s {side} the satellite's",
        skew_ms.unsigned_abs() / 1_000
    )
}
