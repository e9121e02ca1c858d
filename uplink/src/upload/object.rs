//! One object's upload: segments in a bounded pipeline, then the sealed header, then the commit.
//!
//! At most [`SEGMENTS_IN_MEMORY_MAX`] segments hold memory: one is being sent while the next is
//! read and sealed; a segment's bodies go out when the one before has optimal receipts. Whatever
//! fails, the upload is aborted at the satellite, and nothing becomes visible.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use strand_codec::{ContentKey, Hash, ObjectLeaf, inline_commitment, object_root};
use strand_protocol::object::{Location, ObjectHeader, PartEntry, seal_header};
use strand_protocol::pb::satellite_request::Verb;
use strand_protocol::{ObjectId, Scheme, pb};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinSet;

use super::plan::Patience;
use super::segment::{Context, SegmentReport, Turn, upload_pieces};
use super::source::{Body, PART_NUMBER, SealedSegment, SegmentReader};
use crate::buffers::BufferStore;
use crate::cancel::Cancel;
use crate::error::{CallError, UploadError};
use crate::limits::SEGMENTS_IN_MEMORY_MAX;
use crate::location::{Place, SealedPlace};
use crate::progress::Progress;
use crate::session::{Repeat, Session, answer_of};

/// What is uploaded.
pub struct Input {
    reader: Box<dyn Read + Send>,
    /// Its length, if known; only a hint.
    len: Option<u64>,
    name: String,
    modified_ms: Option<u64>,
}

/// How it is uploaded.
#[derive(Clone, Debug, Default)]
pub struct UploadOptions {
    /// Milliseconds since 1970 after which the object is gone; 0 = never.
    pub expires_ms: u64,
    /// Names and values that are sealed with the object.
    pub metadata: Vec<(String, Vec<u8>)>,
    /// How long to wait for what.
    pub patience: Patience,
}

/// How it went.
#[derive(Clone, Debug, serde::Serialize)]
pub struct UploadReport {
    /// Plaintext bytes.
    pub bytes: u64,
    /// `required/repair/optimal/total`.
    pub scheme: String,
    /// Whether an object of the same key was replaced.
    pub replaced_object: bool,
    /// Each segment.
    pub segments: Vec<SegmentReport>,
}

impl Input {
    /// Anything that can be read. `name` is for messages.
    #[must_use]
    pub fn reader(reader: Box<dyn Read + Send>, len: Option<u64>, name: impl Into<String>) -> Self {
        Self {
            reader,
            len,
            name: name.into(),
            modified_ms: None,
        }
    }

    /// A file.
    ///
    /// # Errors
    ///
    /// [`UploadError::Input`] if it cannot be opened, or is a directory.
    pub fn file(path: &Path) -> Result<Self, UploadError> {
        let name = path.display().to_string();
        let open = || {
            let file = File::open(path)?;
            let metadata = file.metadata()?;
            if metadata.is_dir() {
                return Err(io::Error::from(io::ErrorKind::IsADirectory));
            }
            Ok((file, metadata))
        };
        let (file, metadata) = open().map_err(|source| UploadError::Input {
            input: name.clone(),
            source,
        })?;
        let since_1970 = metadata
            .modified()
            .ok()
            .and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
        Ok(Self {
            reader: Box::new(file),
            len: metadata.is_file().then_some(metadata.len()),
            name,
            modified_ms: since_1970.and_then(|time| u64::try_from(time.as_millis()).ok()),
        })
    }

    /// The process's standard input.
    #[must_use]
    pub fn stdin() -> Self {
        Self::reader(Box::new(io::stdin()), None, "standard input")
    }
}

impl std::fmt::Debug for Input {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Input")
            .field("name", &self.name)
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

/// Stores an object. It is there as a whole when this returns `Ok`, and not at all otherwise (but
/// for [`UploadError::Unsure`]).
///
/// # Errors
///
/// [`UploadError`]; after [`Cancel`] was asked for: [`UploadError::Interrupted`].
pub async fn upload(
    session: &Arc<Session>,
    place: &Place,
    input: Input,
    options: UploadOptions,
    progress: Arc<dyn Progress>,
    cancel: Cancel,
) -> Result<UploadReport, UploadError> {
    let sealed_place = tokio::select! {
        sealed = place.seal(session) => sealed?,
        () = cancel.cancelled() => return Err(UploadError::Interrupted),
    };
    let verb = Verb::BeginObject(pb::BeginObject {
        bucket: place.bucket.clone(),
        encrypted_key: sealed_place.encrypted_key.clone(),
        expires_ms: options.expires_ms,
    });
    let begun = tokio::select! {
        begun = session.call(verb, Repeat::Harmless) => answer_of!(begun, BegunObject, "BeginObject")?,
        () = cancel.cancelled() => return Err(UploadError::Interrupted),
    };
    let stream_id = begun.stream_id.clone();
    let stored = tokio::select! {
        stored = store(session, &sealed_place, begun, input, options, progress) => stored,
        () = cancel.cancelled() => Err(UploadError::Interrupted),
    };
    if stored.is_err() {
        abort(session, stream_id).await;
    }
    stored
}

/// Best effort: what is not aborted is dropped by the satellite after a day.
async fn abort(session: &Session, stream_id: Vec<u8>) {
    let verb = Verb::AbortObject(pb::AbortObject { stream_id });
    let aborted =
        tokio::time::timeout(Duration::from_secs(2), session.call(verb, Repeat::Harmless)).await;
    tracing::debug!(ok = matches!(aborted, Ok(Ok(_))), "upload aborted");
}

struct Secrets {
    object_id: [u8; 16],
    content_key: zeroize::Zeroizing<[u8; 32]>,
}

impl Secrets {
    fn fresh() -> Result<Self, UploadError> {
        let mut secrets = Self {
            object_id: [0; 16],
            content_key: zeroize::Zeroizing::new([0; 32]),
        };
        getrandom::fill(&mut secrets.object_id)
            .and_then(|()| getrandom::fill(&mut secrets.content_key[..]))
            .map_err(|error| UploadError::Unusable(format!("no random bytes: {error}")))?;
        Ok(secrets)
    }
}

async fn store(
    session: &Arc<Session>,
    place: &SealedPlace,
    begun: pb::BegunObject,
    input: Input,
    options: UploadOptions,
    progress: Arc<dyn Progress>,
) -> Result<UploadReport, UploadError> {
    let scheme = begun.scheme.unwrap_or_default();
    let scheme =
        Scheme::try_from(scheme).map_err(|error| UploadError::Unusable(error.to_string()))?;
    let secrets = Secrets::fresh()?;
    let modified_ms = input.modified_ms;
    progress.begin(input.len);
    let context = Arc::new(Context {
        session: session.clone(),
        stream_id: begun.stream_id,
        scheme,
        patience: options.patience,
        store: Arc::new(BufferStore::default()),
        progress,
    });
    let content_key = ContentKey::new(*secrets.content_key);
    let reader = SegmentReader::new(
        input.reader,
        input.len,
        content_key,
        secrets.object_id,
        scheme,
    );
    let segment_bytes = reader.segment_bytes();
    let segments = store_segments(&context, reader, &input.name).await?;

    let plain_len = segments.iter().map(|(leaf, _)| leaf.plain_len).sum();
    let segment_count = u32::try_from(segments.len())
        .map_err(|_| UploadError::Unusable("the object has too many segments".to_owned()))?;
    let (leaves, reports): (Vec<_>, Vec<_>) = segments.into_iter().unzip();
    let header = ObjectHeader {
        object_id: ObjectId::from(secrets.object_id),
        content_key: *secrets.content_key,
        object_root: object_root(&leaves)
            .map_err(|error| UploadError::Unusable(error.to_string()))?,
        parts: vec![PartEntry {
            number: PART_NUMBER,
            plain_len,
            segment_count,
        }],
        segment_bytes,
        metadata: options.metadata,
        modified_ms,
    };
    let location = Location {
        project: session.grant().project,
        bucket: &place.place.bucket,
        encrypted_key: &place.encrypted_key,
    };
    let sealed_header = seal_header(&place.path_key, &location, &header)
        .map_err(|error| UploadError::Unusable(error.to_string()))?;
    let committed = commit(&context, place, sealed_header, plain_len).await?;
    Ok(UploadReport {
        bytes: plain_len,
        scheme: scheme.to_string(),
        replaced_object: committed.replaced,
        segments: reports,
    })
}

async fn store_segments(
    context: &Arc<Context>,
    mut reader: SegmentReader,
    input_name: &str,
) -> Result<Vec<(ObjectLeaf, SegmentReport)>, UploadError> {
    let memory = Arc::new(Semaphore::new(SEGMENTS_IN_MEMORY_MAX));
    let mut tasks: JoinSet<Result<(ObjectLeaf, SegmentReport), UploadError>> = JoinSet::new();
    let mut done = Vec::new();
    let (first, mut wait) = oneshot::channel();
    // The first segment's turn has come.
    let _ = first.send(());
    loop {
        let read = async {
            // The semaphore is never closed.
            let permit = memory.clone().acquire_owned().await.ok();
            let read = tokio::task::spawn_blocking(move || {
                let segment = reader.next();
                (reader, segment)
            });
            (permit, read.await)
        };
        tokio::pin!(read);
        let (permit, read) = loop {
            tokio::select! {
                read = &mut read => break read,
                // A segment that fails ends the upload, however long the input takes.
                Some(task) = tasks.join_next() => done.push(joined(task)?),
            }
        };
        let (returned, segment) =
            read.map_err(|_| UploadError::Unusable("the reader stopped".to_owned()))?;
        reader = returned;
        let segment = segment.map_err(|source| UploadError::Input {
            input: input_name.to_owned(),
            source,
        })?;
        let Some(segment) = segment else { break };
        let (next, next_wait) = oneshot::channel();
        let turn = Turn {
            wait,
            next: Some(next),
            permit,
        };
        wait = next_wait;
        tasks.spawn(store_segment(context.clone(), segment, turn));
    }
    while let Some(task) = tasks.join_next().await {
        done.push(joined(task)?);
    }
    done.sort_by_key(|(leaf, _)| leaf.segment_index);
    Ok(done)
}

fn joined<T>(
    task: Result<Result<T, UploadError>, tokio::task::JoinError>,
) -> Result<T, UploadError> {
    task.map_err(|error| UploadError::Unusable(format!("a segment's task stopped: {error}")))?
}

async fn store_segment(
    context: Arc<Context>,
    mut segment: SealedSegment,
    turn: Turn,
) -> Result<(ObjectLeaf, SegmentReport), UploadError> {
    let (position, plain_len) = (segment.position, segment.plain_len);
    let body = std::mem::replace(&mut segment.body, Body::Inline(bytes::Bytes::new()));
    let (commitment, report) = match body {
        Body::Inline(sealed) => upload_inline(&context, &segment, &sealed).await?,
        Body::Pieces { shape, padded } => {
            Box::pin(upload_pieces(context, segment, shape, padded, turn)).await?
        }
    };
    let leaf = ObjectLeaf {
        part_number: position.part_number,
        segment_index: position.segment_index,
        plain_len,
        commitment,
    };
    Ok((leaf, report))
}

async fn upload_inline(
    context: &Context,
    segment: &SealedSegment,
    sealed: &[u8],
) -> Result<(Hash, SegmentReport), UploadError> {
    let commitment = inline_commitment(&segment.salt, &segment.key_commitment, sealed);
    let verb = Verb::InlineSegment(pb::InlineSegment {
        stream_id: context.stream_id.clone(),
        position: u64::from(segment.position),
        plain_len: segment.plain_len,
        salt: segment.salt.to_vec(),
        key_commitment: segment.key_commitment.to_vec(),
        commitment: commitment.to_vec(),
        sealed: sealed.to_vec(),
    });
    answer_of!(
        context.session.call(verb, Repeat::Harmless).await,
        Done,
        "InlineSegment"
    )?;
    context.progress.advance(segment.plain_len);
    let report = SegmentReport {
        segment: segment.position.segment_index,
        bytes: segment.plain_len,
        inline: true,
        ..SegmentReport::default()
    };
    Ok((commitment, report))
}

async fn commit(
    context: &Context,
    place: &SealedPlace,
    sealed_header: Vec<u8>,
    plain_len: u64,
) -> Result<pb::CommittedObject, UploadError> {
    let session = &context.session;
    let verb = Verb::CommitObject(pb::CommitObject {
        stream_id: context.stream_id.clone(),
        sealed_header: sealed_header.clone(),
        plain_len,
    });
    let lost = match answer_of!(
        session.call(verb, Repeat::Harmless).await,
        CommittedObject,
        "CommitObject"
    ) {
        Ok(committed) => return Ok(committed),
        Err(error @ (CallError::NoAnswer { .. } | CallError::BadAnswer { .. })) => error,
        Err(error) => return Err(error.into()),
    };
    // Whether it was committed can be seen: no other upload has this header.
    let verb = Verb::GetObject(pb::GetObject {
        bucket: place.place.bucket.clone(),
        encrypted_key: place.encrypted_key.clone(),
        header_only: true,
    });
    match answer_of!(
        session.call(verb, Repeat::Harmless).await,
        Object,
        "GetObject"
    ) {
        Ok(object) if object.sealed_header == sealed_header => Ok(pb::CommittedObject {
            created_ms: object.created_ms,
            replaced: false,
        }),
        // It is another one, or none. The abort that follows makes sure that it stays so.
        Ok(_) => Err(lost.into()),
        Err(error) if error.code() == Some(strand_protocol::Code::NotFound) => Err(lost.into()),
        Err(_) => Err(UploadError::Unsure(lost)),
    }
}
