//! The one place where a request is allowed or refused.
//!
//! [`requirement`] says what each verb needs, in a match without a wildcard: a new verb does not
//! compile before somebody has decided. [`authorize`] checks it. The access types have private
//! fields and no other constructor, so a handler that takes one was authorised.

use strand_protocol::pb::satellite_request::Verb;
use strand_protocol::{Action, Code, Macaroon, NodeId, Operation, ProjectId, StreamId};

use super::Peer;
use crate::core::refusal::Refusal;
use crate::core::row::{PendingObjectRow, ProjectRow};
use crate::state::Satellite;
use crate::store::MetaStore;

/// What a verb needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Requirement<'a> {
    /// Anybody may.
    Nothing,
    /// The peer speaks for itself, with the key it proved.
    Peer,
    /// A macaroon that allows this.
    Action(Action<'a>),
    /// A macaroon that allows to write the key of this upload.
    Upload(&'a [u8]),
}

/// What was granted.
pub(super) enum Access {
    Nothing,
    Peer(PeerAccess),
    Project(ProjectAccess),
    Upload(UploadAccess),
}

/// The peer's own identity.
pub(super) struct PeerAccess {
    peer: Peer,
}

/// A project, for the action that was required.
pub(super) struct ProjectAccess {
    project: ProjectRow,
}

/// An upload that may be written. It may be committed already: the store refuses what is too late.
pub(super) struct UploadAccess {
    stream: StreamId,
    upload: PendingObjectRow,
}

/// What each verb needs.
pub(super) fn requirement(verb: &Verb) -> Requirement<'_> {
    match verb {
        Verb::Ping(_) => Requirement::Nothing,
        Verb::CheckIn(_) | Verb::FetchFilter(_) => Requirement::Peer,
        Verb::GetProject(_) => project(Operation::Any),
        // Whoever holds a shared, restricted grant must not lock out the project's passphrase.
        Verb::SetCheckValue(_) => project(Operation::Write),
        Verb::CreateBucket(request) => bucket(Operation::Write, &request.name),
        Verb::DeleteBucket(request) => bucket(Operation::Delete, &request.name),
        Verb::ListBuckets(_) => project(Operation::List),
        Verb::GetBucket(request) => bucket(Operation::Any, &request.name),
        Verb::BeginObject(request) => Requirement::Action(Action {
            expires_ms: (request.expires_ms != 0).then_some(request.expires_ms),
            ..key(Operation::Write, &request.bucket, &request.encrypted_key)
        }),
        Verb::BeginSegment(request) => Requirement::Upload(&request.stream_id),
        Verb::ReplacePieces(request) => Requirement::Upload(&request.stream_id),
        Verb::CommitSegment(request) => Requirement::Upload(&request.stream_id),
        Verb::InlineSegment(request) => Requirement::Upload(&request.stream_id),
        Verb::CommitObject(request) => Requirement::Upload(&request.stream_id),
        Verb::AbortObject(request) => Requirement::Upload(&request.stream_id),
        Verb::GetObject(request) => Requirement::Action(key(
            Operation::Read,
            &request.bucket,
            &request.encrypted_key,
        )),
        Verb::GetSegment(request) => Requirement::Action(key(
            Operation::Read,
            &request.bucket,
            &request.encrypted_key,
        )),
        Verb::ListObjects(request) => {
            Requirement::Action(key(Operation::List, &request.bucket, &request.prefix))
        }
        Verb::DeleteObject(request) => Requirement::Action(key(
            Operation::Delete,
            &request.bucket,
            &request.encrypted_key,
        )),
    }
}

/// Grants what is required, or refuses.
///
/// # Errors
///
/// `DENIED` if the macaroon is not genuine or does not allow it; `NOT_FOUND` for an upload that
/// does not exist in the macaroon's project.
pub(super) async fn authorize<S: MetaStore>(
    satellite: &Satellite<S>,
    peer: &Peer,
    macaroon: &[u8],
    requirement: Requirement<'_>,
    now_ms: u64,
) -> Result<Access, Refusal> {
    let (stream, genuine) = match requirement {
        Requirement::Nothing => return Ok(Access::Nothing),
        Requirement::Peer => return Ok(Access::Peer(PeerAccess { peer: peer.clone() })),
        Requirement::Action(action) => {
            let (project, macaroon) = open(satellite, macaroon).await?;
            allow(&project, &macaroon, &action, now_ms)?;
            return Ok(Access::Project(ProjectAccess { project }));
        }
        Requirement::Upload(stream) => {
            // First that the macaroon is genuine, so that strangers learn of no upload.
            let (project, macaroon) = open(satellite, macaroon).await?;
            let any = Action {
                operation: Operation::Any,
                bucket: None,
                key: None,
                expires_ms: None,
            };
            allow(&project, &macaroon, &any, now_ms)?;
            (stream, (project, macaroon))
        }
    };
    let (project, macaroon) = genuine;
    let stream = StreamId::try_from(stream)
        .map_err(|error| Refusal::bad_request(format!("stream id: {error}")))?;
    let upload = satellite.store.upload(stream).await?;
    let upload = upload
        .filter(|upload| upload.project == project.id)
        .ok_or_else(|| {
            Refusal::not_found("no such upload: it was committed, aborted, or is too old")
        })?;
    let action = Action {
        expires_ms: (upload.expires_ms != 0).then_some(upload.expires_ms),
        ..key(Operation::Write, &upload.bucket, &upload.encrypted_key)
    };
    allow(&project, &macaroon, &action, now_ms)?;
    Ok(Access::Upload(UploadAccess { stream, upload }))
}

impl Access {
    pub(super) fn peer(&self) -> Result<&PeerAccess, Refusal> {
        match self {
            Self::Peer(access) => Ok(access),
            _ => Err(mismatch()),
        }
    }

    pub(super) fn project(&self) -> Result<&ProjectAccess, Refusal> {
        match self {
            Self::Project(access) => Ok(access),
            _ => Err(mismatch()),
        }
    }

    pub(super) fn upload(&self) -> Result<&UploadAccess, Refusal> {
        match self {
            Self::Upload(access) => Ok(access),
            _ => Err(mismatch()),
        }
    }
}

impl PeerAccess {
    pub(super) fn peer(&self) -> &Peer {
        &self.peer
    }

    pub(super) fn id(&self) -> NodeId {
        self.peer.id
    }
}

impl ProjectAccess {
    pub(super) fn id(&self) -> ProjectId {
        self.project.id
    }

    pub(super) fn project(&self) -> &ProjectRow {
        &self.project
    }
}

impl UploadAccess {
    pub(super) fn stream(&self) -> StreamId {
        self.stream
    }

    pub(super) fn upload(&self) -> &PendingObjectRow {
        &self.upload
    }
}

/// The macaroon, parsed, and the project that it names.
async fn open<S: MetaStore>(
    satellite: &Satellite<S>,
    macaroon: &[u8],
) -> Result<(ProjectRow, Macaroon), Refusal> {
    if macaroon.is_empty() {
        return Err(Refusal::new(
            Code::Denied,
            "the request carries no macaroon",
        ));
    }
    let macaroon = Macaroon::parse(macaroon)
        .map_err(|error| Refusal::new(Code::Denied, format!("macaroon: {error}")))?;
    let project = satellite.store.project(macaroon.project()).await?;
    Ok((project.ok_or_else(not_genuine)?, macaroon))
}

fn allow(
    project: &ProjectRow,
    macaroon: &Macaroon,
    action: &Action<'_>,
    now_ms: u64,
) -> Result<(), Refusal> {
    let secret = project
        .secrets
        .iter()
        .find(|secret| secret.key_id == macaroon.key_id());
    let secret = secret.ok_or_else(not_genuine)?;
    macaroon
        .authorize(&secret.secret, action, now_ms)
        .map_err(|denied| Refusal::new(Code::Denied, denied.to_string()))
}

/// The same words for an unknown project, an unknown key and a wrong tail.
fn not_genuine() -> Refusal {
    Refusal::new(Code::Denied, strand_protocol::Denied::Forged.to_string())
}

/// `requirement` and `answer` disagree about a verb: ours to mend, and refused.
fn mismatch() -> Refusal {
    Refusal::new(Code::Internal, "the verb was not authorised")
}

fn project<'a>(operation: Operation) -> Requirement<'a> {
    Requirement::Action(Action {
        operation,
        bucket: None,
        key: None,
        expires_ms: None,
    })
}

fn bucket(operation: Operation, name: &str) -> Requirement<'_> {
    Requirement::Action(Action {
        operation,
        bucket: Some(name),
        key: None,
        expires_ms: None,
    })
}

fn key<'a>(operation: Operation, bucket: &'a str, key: &'a [u8]) -> Action<'a> {
    Action {
        operation,
        bucket: Some(bucket),
        key: Some(key),
        expires_ms: None,
    }
}
