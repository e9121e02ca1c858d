//! What nodes say.

use strand_protocol::pb;
use strand_protocol::pb::satellite_response::Answer;

use super::authorize::PeerAccess;
use crate::checkin;
use crate::core::refusal::Refusal;
use crate::gc;
use crate::state::Satellite;
use crate::store::MetaStore;

pub(super) fn pong<S: MetaStore>(satellite: &Satellite<S>) -> Answer {
    Answer::Pong(pb::Pong {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        node_id: satellite.id.as_bytes().to_vec(),
    })
}

pub(super) async fn check_in<S: MetaStore>(
    satellite: &Satellite<S>,
    access: &PeerAccess,
    request: &pb::CheckIn,
    now_ms: u64,
) -> Result<Answer, Refusal> {
    let remote = access.peer().address;
    checkin::check_in(satellite, access.id(), remote, request, now_ms)
        .await
        .map(Answer::CheckedIn)
}

pub(super) async fn fetch_filter<S: MetaStore>(
    satellite: &Satellite<S>,
    access: &PeerAccess,
    request: &pb::FetchFilter,
) -> Result<Answer, Refusal> {
    gc::fetch(satellite, access.id(), request)
        .await
        .map(Answer::FilterPart)
}
