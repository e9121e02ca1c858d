//! One object's download: opens its header, verifies the satellite's list of segments against it,
//! fetches and writes them in order.
//!
//! While a segment is decoded and written on a blocking thread, the next one is fetched: at most
//! two segments' pieces are in memory, 67.2 MB each at the default scheme, and whatever late or
//! lying nodes have sent of the current one.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;
use std::sync::Arc;

use strand_codec::{
    CHUNK_BYTES, ContentKey, Hash, INLINE_BYTES_MAX, ObjectLeaf, Opener, SegmentContext, Shape,
    inline_commitment, object_root,
};
use strand_protocol::object::{Location, ObjectHeader, open_header};
use strand_protocol::pb::satellite_request::Verb;
use strand_protocol::{Code, Position, Scheme, pb};
use tokio::task::JoinHandle;

use super::decode::{DecodeError, Extent, SealedBytes, write_inline, write_plain};
use super::hedge::HedgePatience;
use super::output::{Output, Sink};
use super::segment::{Context, Learned, Liar, PieceSegment, SegmentReport, fetch_segment};
use crate::buffers::BufferStore;
use crate::cancel::Cancel;
use crate::error::{CallError, DownloadError, HeaderError};
use crate::location::{Place, SealedPlace};
use crate::progress::Progress;
use crate::session::{Repeat, Session, answer_of};

/// Bytes of an object, as a person writes them: `A-B` (both included), `A-` (to the end) or `-N`
/// (the last N).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ByteRange {
    /// From one byte to another, both included.
    Inclusive(u64, u64),
    /// From a byte to the end.
    From(u64),
    /// The last so many bytes.
    Last(u64),
}

/// How it is downloaded.
#[derive(Clone, Debug, Default)]
pub struct DownloadOptions {
    /// Only these bytes.
    pub range: Option<ByteRange>,
    /// How long to wait for what.
    pub patience: HedgePatience,
}

/// How it went.
#[derive(Clone, Debug, serde::Serialize)]
pub struct DownloadReport {
    /// Plaintext bytes written.
    pub bytes: u64,
    /// Plaintext bytes of the whole object.
    pub object_bytes: u64,
    /// Nodes that lied, in all segments.
    pub liars: Vec<Liar>,
    /// Each segment that was read.
    pub segments: Vec<SegmentReport>,
}

/// Fetches an object, or a range of it, into `output`.
///
/// # Errors
///
/// [`DownloadError`]; no file has appeared then.
pub async fn download(
    session: &Arc<Session>,
    place: &Place,
    output: Output,
    options: DownloadOptions,
    progress: Arc<dyn Progress>,
    cancel: Cancel,
) -> Result<DownloadReport, DownloadError> {
    let open = async {
        let sealed_place = place.seal(session).await?;
        let object = fetch_object(session, &sealed_place).await?;
        let plain = options.range.map_or(Ok(0..object.plain_len), |range| {
            range
                .within(object.plain_len)
                .ok_or_else(|| DownloadError::RangePastEnd {
                    range: range.to_string(),
                    path: place.path(),
                    object_bytes: object.plain_len,
                })
        })?;
        Ok::<_, DownloadError>((sealed_place, object, plain))
    };
    let (sealed_place, object, plain) = tokio::select! {
        opened = open => opened?,
        () = cancel.cancelled() => return Err(DownloadError::Interrupted),
    };
    let sink = Sink::open(output)?;
    let temporary = sink.temporary();
    progress.begin(Some(plain.end - plain.start));
    let context = Context {
        session: session.clone(),
        bucket: place.bucket.clone(),
        encrypted_key: sealed_place.encrypted_key,
        stream_id: object.stream_id.clone(),
        patience: options.patience,
        store: Arc::new(BufferStore::default()),
        progress,
    };
    let fetched = tokio::select! {
        fetched = fetch_all(&context, &object, plain, sink) => fetched,
        () = cancel.cancelled() => Err(DownloadError::Interrupted),
    };
    if fetched.is_err()
        && let Some(temporary) = temporary
    {
        // The writing thread may still hold the file open: its name goes now.
        temporary.remove();
    }
    fetched
}

/// An object as its sealed header describes it.
struct Object {
    stream_id: Vec<u8>,
    header: ObjectHeader,
    plain_len: u64,
    segments: Vec<Segment>,
}

struct Segment {
    number: u32,
    position: Position,
    /// Of its first byte in the object.
    plain_start: u64,
    plain_len: u64,
    sealed_len: u64,
    salt: [u8; 24],
    key_commitment: [u8; 32],
    commitment: Hash,
    body: Body,
}

enum Body {
    /// The sealed bytes, if they came with the list.
    Inline(Vec<u8>),
    Pieces(Shape),
}

async fn fetch_object(session: &Session, place: &SealedPlace) -> Result<Object, DownloadError> {
    let verb = Verb::GetObject(pb::GetObject {
        bucket: place.place.bucket.clone(),
        encrypted_key: place.encrypted_key.clone(),
        header_only: false,
    });
    let object = answer_of!(
        session.call(verb, Repeat::Harmless).await,
        Object,
        "GetObject"
    );
    let object = object.map_err(|error| match error.code() {
        Some(Code::NotFound) => DownloadError::NoObject {
            bucket: place.place.bucket.clone(),
            key: place.place.key.clone(),
        },
        _ => error.into(),
    })?;
    let header = open_header_of(session, place, &object.sealed_header)?;
    let altered = |what| HeaderError::Altered {
        path: place.place.path(),
        what,
    };
    let segments = check_segments(&header, object.segments).map_err(altered)?;
    let plain_len = header.plain_len();
    if object.plain_len != plain_len {
        return Err(altered("its length").into());
    }
    Ok(Object {
        stream_id: object.stream_id,
        header,
        plain_len,
        segments,
    })
}

/// Opens the sealed header that the satellite gave for a place.
pub(crate) fn open_header_of(
    session: &Session,
    place: &SealedPlace,
    sealed_header: &[u8],
) -> Result<ObjectHeader, HeaderError> {
    let location = Location {
        project: session.grant().project,
        bucket: &place.place.bucket,
        encrypted_key: &place.encrypted_key,
    };
    open_header(&place.path_key, &location, sealed_header).map_err(|_| HeaderError::WrongKey {
        path: place.place.path(),
    })
}

/// The satellite's list of segments, if it is exactly the one that the header commits to.
fn check_segments(
    header: &ObjectHeader,
    listed: Vec<pb::Segment>,
) -> Result<Vec<Segment>, &'static str> {
    let expected = header.parts.iter().flat_map(|part| {
        (0..part.segment_count).map(move |segment_index| {
            let start = u64::from(segment_index) * header.segment_bytes;
            let plain_len = part
                .plain_len
                .saturating_sub(start)
                .min(header.segment_bytes);
            (
                Position {
                    part_number: part.number,
                    segment_index,
                },
                plain_len,
            )
        })
    });
    let mut listed = listed.into_iter();
    let mut segments = Vec::new();
    let mut leaves = Vec::new();
    let mut plain_start = 0;
    for (number, (position, plain_len)) in (0u32..).zip(expected) {
        let listed = listed.next().ok_or("the number of segments")?;
        let segment = check_segment(number, position, plain_start, plain_len, listed)?;
        leaves.push(ObjectLeaf {
            part_number: position.part_number,
            segment_index: position.segment_index,
            plain_len,
            commitment: segment.commitment,
        });
        plain_start += plain_len;
        segments.push(segment);
    }
    if listed.next().is_some() {
        return Err("the number of segments");
    }
    match object_root(&leaves) {
        Ok(root) if root == header.object_root => Ok(segments),
        _ => Err("a segment's commitment"),
    }
}

fn check_segment(
    number: u32,
    position: Position,
    plain_start: u64,
    plain_len: u64,
    listed: pb::Segment,
) -> Result<Segment, &'static str> {
    let sealed_len = strand_codec::sealed_len(plain_len);
    if listed.position != u64::from(position)
        || listed.plain_len != plain_len
        || listed.sealed_len != sealed_len
    {
        return Err("a segment's position or length");
    }
    let body = match listed.scheme {
        None if plain_len <= INLINE_BYTES_MAX => Body::Inline(listed.inline_sealed),
        None => return Err("a segment's scheme"),
        Some(scheme) => {
            let scheme = Scheme::try_from(scheme).map_err(|_| "a segment's scheme")?;
            let shape = Shape::new(scheme.required, scheme.total, sealed_len);
            Body::Pieces(shape.map_err(|_| "a segment's shape")?)
        }
    };
    Ok(Segment {
        number,
        position,
        plain_start,
        plain_len,
        sealed_len,
        salt: listed.salt.try_into().map_err(|_| "a segment's salt")?,
        key_commitment: listed
            .key_commitment
            .try_into()
            .map_err(|_| "a segment's key commitment")?,
        commitment: listed
            .commitment
            .try_into()
            .map_err(|_| "a segment's commitment")?,
        body,
    })
}

type Writing = JoinHandle<(Sink, Result<u64, DecodeError>)>;

async fn fetch_all(
    context: &Context,
    object: &Object,
    plain: Range<u64>,
    sink: Sink,
) -> Result<DownloadReport, DownloadError> {
    let mut reports = Vec::new();
    let mut learned = Learned::new();
    // The sink, or the thread that has it and writes the segment before.
    let mut sink = Some(sink);
    let mut writing: Option<(u32, Writing)> = None;
    let mut bytes = 0;
    for segment in &object.segments {
        let Some(extent) = segment.extent(&plain) else {
            continue;
        };
        let (job, report) = match &segment.body {
            Body::Inline(sealed) => {
                let sealed = inline_bytes(context, segment, sealed).await?;
                (Job::Inline(sealed), segment.inline_report(&extent))
            }
            Body::Pieces(shape) => {
                let wanted = PieceSegment {
                    number: segment.number,
                    position: segment.position,
                    shape: *shape,
                    commitment: segment.commitment,
                };
                let fetch = fetch_segment(context, &wanted, &extent, &mut learned);
                let (sealed, report) = Box::pin(fetch)
                    .await
                    .map_err(|error| gone_or(error, object))?;
                (Job::Pieces(Box::new(sealed)), report)
            }
        };
        reports.push(report);
        let opener = segment.opener(&object.header)?;
        if let Some((number, task)) = writing.take() {
            let (returned, written) = finish_writing(number, task).await?;
            bytes += written;
            sink = Some(returned);
        }
        let Some(mut target) = sink.take() else { break };
        let progress = context.progress.clone();
        let task = tokio::task::spawn_blocking(move || {
            let written = match job {
                Job::Inline(sealed) => {
                    let written = write_inline(&sealed, opener, &extent, &mut target);
                    progress.advance(written.as_ref().map_or(0, |count| *count));
                    written
                }
                Job::Pieces(sealed) => {
                    write_plain(&sealed, opener, &extent, &mut target, |count| {
                        progress.advance(count)
                    })
                }
            };
            let written = written.and_then(|count| {
                target.begin_sync()?;
                Ok(count)
            });
            (target, written)
        });
        writing = Some((segment.number, task));
    }
    if let Some((number, task)) = writing.take() {
        let (returned, written) = finish_writing(number, task).await?;
        bytes += written;
        sink = Some(returned);
    }
    if let Some(sink) = sink {
        let finished = tokio::task::spawn_blocking(move || sink.finish()).await;
        finished.map_err(|_| stopped())??;
    }
    Ok(DownloadReport {
        bytes,
        object_bytes: object.plain_len,
        liars: reports
            .iter()
            .flat_map(|report| report.liars.clone())
            .collect(),
        segments: reports,
    })
}

enum Job {
    Inline(Vec<u8>),
    Pieces(Box<SealedBytes>),
}

async fn finish_writing(number: u32, task: Writing) -> Result<(Sink, u64), DownloadError> {
    let (sink, written) = task.await.map_err(|_| stopped())?;
    match written {
        Ok(count) => Ok((sink, count)),
        Err(DecodeError::Output(source)) => Err(sink.error(source)),
        Err(DecodeError::Content(reason)) => Err(DownloadError::Unopenable {
            segment: number,
            reason,
        }),
    }
}

fn stopped() -> DownloadError {
    DownloadError::Output {
        output: "the target".to_owned(),
        source: std::io::Error::other("the writing thread stopped"),
    }
}

/// A segment that the satellite no longer knows: the object was replaced or removed meanwhile.
fn gone_or(error: DownloadError, object: &Object) -> DownloadError {
    match error {
        DownloadError::Call(CallError::Refused {
            code: Code::NotFound,
            ..
        }) => DownloadError::Changed {
            object_bytes: object.plain_len,
        },
        error => error,
    }
}

/// The sealed bytes of an inline segment, checked.
async fn inline_bytes(
    context: &Context,
    segment: &Segment,
    listed: &[u8],
) -> Result<Vec<u8>, DownloadError> {
    let sealed = if listed.is_empty() {
        let verb = Verb::GetSegment(pb::GetSegment {
            bucket: context.bucket.clone(),
            encrypted_key: context.encrypted_key.clone(),
            stream_id: context.stream_id.clone(),
            position: u64::from(segment.position),
        });
        let answer = answer_of!(
            context.session.call(verb, Repeat::Harmless).await,
            PieceLimits,
            "GetSegment"
        )?;
        answer.segment.unwrap_or_default().inline_sealed
    } else {
        listed.to_vec()
    };
    let commitment = inline_commitment(&segment.salt, &segment.key_commitment, &sealed);
    if commitment != segment.commitment || sealed.len() as u64 != segment.sealed_len {
        return Err(DownloadError::Unopenable {
            segment: segment.number,
            reason: "what the satellite stored is not what was uploaded".to_owned(),
        });
    }
    Ok(sealed)
}

impl Segment {
    /// The part of the wanted bytes that lies in this segment. An empty object's one segment is
    /// read as well: it is authentic or not.
    fn extent(&self, plain: &Range<u64>) -> Option<Extent> {
        let end = self.plain_start + self.plain_len;
        let wanted = plain.start.max(self.plain_start)..plain.end.min(end);
        let is_empty_object = self.plain_len == 0 && plain.is_empty();
        if wanted.start >= wanted.end && !is_empty_object {
            return None;
        }
        let within = wanted.start - self.plain_start..wanted.end - self.plain_start;
        Some(Extent::new(within, self.sealed_len))
    }

    fn opener(&self, header: &ObjectHeader) -> Result<Opener, DownloadError> {
        let key = ContentKey::new(header.content_key);
        let context = SegmentContext {
            object_id: *header.object_id.as_bytes(),
            part_number: self.position.part_number,
            segment_index: self.position.segment_index,
        };
        Opener::new(&key, &self.salt, &self.key_commitment, &context).map_err(|error| {
            DownloadError::Unopenable {
                segment: self.number,
                reason: error.to_string(),
            }
        })
    }

    fn inline_report(&self, extent: &Extent) -> SegmentReport {
        SegmentReport {
            segment: self.number,
            bytes: extent.plain.end - extent.plain.start,
            inline: true,
            ..SegmentReport::default()
        }
    }
}

impl ByteRange {
    /// The bytes it means of an object so long; `None` if it names any past the end, or none.
    #[must_use]
    pub fn within(&self, object_bytes: u64) -> Option<Range<u64>> {
        let range = match *self {
            Self::Inclusive(first, last) => first..last.checked_add(1)?,
            Self::From(first) => first..object_bytes,
            Self::Last(count) => object_bytes.checked_sub(count)?..object_bytes,
        };
        (range.start < range.end && range.end <= object_bytes).then_some(range)
    }
}

impl fmt::Display for ByteRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inclusive(first, last) => write!(f, "{first}-{last}"),
            Self::From(first) => write!(f, "{first}-"),
            Self::Last(count) => write!(f, "-{count}"),
        }
    }
}

impl FromStr for ByteRange {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WANT: &str = "a range is written A-B (both included), A- or -N, in bytes";
        let (first, last) = text.split_once('-').ok_or(WANT)?;
        let number = |text: &str| -> Result<u64, Self::Err> {
            if text.bytes().all(|byte| byte.is_ascii_digit()) {
                text.parse().map_err(|_| WANT)
            } else {
                Err(WANT)
            }
        };
        match (first, last) {
            ("", "") => Err(WANT),
            ("", count) => number(count).map(Self::Last),
            (first, "") => number(first).map(Self::From),
            (first, last) => {
                let (first, last) = (number(first)?, number(last)?);
                if first <= last {
                    Ok(Self::Inclusive(first, last))
                } else {
                    Err(WANT)
                }
            }
        }
    }
}

// Chunks of ranges are found by this length; the codec's own arithmetic uses the same.
const _: () = assert!(CHUNK_BYTES == 16_384);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_written() {
        assert_eq!("0-99".parse(), Ok(ByteRange::Inclusive(0, 99)));
        assert_eq!("5-".parse(), Ok(ByteRange::From(5)));
        assert_eq!("-7".parse(), Ok(ByteRange::Last(7)));
        for text in [
            "",
            "-",
            "5",
            "9-3",
            "a-b",
            "1-2-3",
            "+1-2",
            "99999999999999999999-",
        ] {
            assert!(text.parse::<ByteRange>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_range_past_the_end_is_none() {
        assert_eq!(ByteRange::Inclusive(0, 99).within(100), Some(0..100));
        assert_eq!(ByteRange::Inclusive(0, 100).within(100), None);
        assert_eq!(ByteRange::Inclusive(0, u64::MAX).within(100), None);
        assert_eq!(ByteRange::From(99).within(100), Some(99..100));
        assert_eq!(ByteRange::From(100).within(100), None);
        assert_eq!(ByteRange::Last(100).within(100), Some(0..100));
        assert_eq!(ByteRange::Last(101).within(100), None);
        assert_eq!(ByteRange::Last(0).within(100), None);
        assert_eq!(ByteRange::From(0).within(0), None);
    }
}
