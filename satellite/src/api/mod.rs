//! Requests: read, authorise, answer.
//!
//! - [`authorize`]: the one choke point. What a verb requires is an exhaustive match there, and a
//!   handler's access argument can be made nowhere else, so no handler runs unauthorised.
//! - [`mod@serve`]: connections and exchanges. - the others: handlers, grouped by noun.

mod authorize;
mod bucket;
mod list;
mod node;
mod object;
mod project;
mod serve;
#[cfg(test)]
mod tests;
mod upload;

pub(crate) use serve::serve;

use strand_protocol::pb::satellite_request::Verb;
use strand_protocol::pb::satellite_response::Answer;
use strand_protocol::{Code, KeyError, NodeId, pb};

use self::authorize::requirement;
use crate::clock;
use crate::core::refusal::Refusal;
use crate::state::Satellite;
use crate::store::{MetaStore, StoreError};

/// Who asks, and from where.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) id: NodeId,
    pub(crate) address: std::net::SocketAddr,
}

/// Authorises a request and hands it to its verb's handler.
pub(crate) async fn answer<S: MetaStore>(
    satellite: &Satellite<S>,
    peer: &Peer,
    request: pb::SatelliteRequest,
) -> Result<Answer, Refusal> {
    let verb = request
        .verb
        .ok_or_else(|| Refusal::new(Code::Unsupported, "this satellite does not know the verb"))?;
    let now_ms = clock::now_ms();
    let required = requirement(&verb);
    let access = authorize::authorize(satellite, peer, &request.macaroon, required, now_ms).await?;
    match verb {
        Verb::Ping(_) => Ok(node::pong(satellite)),
        Verb::CheckIn(check_in) => {
            node::check_in(satellite, access.peer()?, &check_in, now_ms).await
        }
        Verb::FetchFilter(request) => node::fetch_filter(satellite, access.peer()?, &request).await,
        Verb::GetProject(_) => Ok(project::describe(access.project()?)),
        Verb::SetCheckValue(request) => {
            project::set_check_value(satellite, access.project()?, request).await
        }
        Verb::CreateBucket(request) => {
            bucket::create(satellite, access.project()?, request, now_ms).await
        }
        Verb::DeleteBucket(request) => bucket::delete(satellite, access.project()?, request).await,
        Verb::ListBuckets(_) => bucket::list(satellite, access.project()?).await,
        Verb::GetBucket(request) => bucket::describe(satellite, access.project()?, request).await,
        Verb::BeginObject(request) => {
            upload::begin_object(satellite, access.project()?, request, now_ms).await
        }
        Verb::BeginSegment(request) => {
            upload::begin_segment(satellite, access.upload()?, peer, &request, now_ms).await
        }
        Verb::ReplacePieces(request) => {
            upload::replace_pieces(satellite, access.upload()?, peer, &request, now_ms).await
        }
        Verb::CommitSegment(request) => {
            upload::commit_segment(satellite, access.upload()?, &request, now_ms).await
        }
        Verb::InlineSegment(request) => {
            upload::inline_segment(satellite, access.upload()?, request).await
        }
        Verb::CommitObject(request) => {
            upload::commit_object(satellite, access.upload()?, request, now_ms).await
        }
        Verb::AbortObject(_) => upload::abort_object(satellite, access.upload()?, now_ms).await,
        Verb::GetObject(request) => {
            object::get(satellite, access.project()?, request, now_ms).await
        }
        Verb::GetSegment(request) => {
            object::get_segment(satellite, access.project()?, peer, request, now_ms).await
        }
        Verb::ListObjects(request) => {
            list::list(satellite, access.project()?, request, now_ms).await
        }
        Verb::DeleteObject(request) => {
            object::delete(satellite, access.project()?, request, now_ms).await
        }
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Refused(refusal) => refusal,
            StoreError::Busy => Self::busy("the satellite's store is busy"),
            // What failed is for the satellite's log, not for clients.
            StoreError::Damaged { .. } | StoreError::Backend(_) => {
                tracing::error!(%error, "a request failed");
                Self::new(Code::Internal, "the satellite's store failed")
            }
        }
    }
}

/// Refuses a name, key or prefix.
fn bad_key(error: KeyError) -> Refusal {
    let code = match error {
        KeyError::TooLong { .. } | KeyError::EncryptedTooLong { .. } => Code::TooLarge,
        _ => Code::BadRequest,
    };
    Refusal::new(code, error.to_string())
}

/// A field of a fixed length.
fn fixed<const N: usize>(name: &str, bytes: &[u8]) -> Result<[u8; N], Refusal> {
    let wrong = |_| Refusal::bad_request(format!("{name} has {} bytes, not {N}", bytes.len()));
    bytes.try_into().map_err(wrong)
}
