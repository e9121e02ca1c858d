//! Why a request failed, and which code of docs/wire.md says so.

use strand_blob::{GetError, PutError};
use strand_codec::{ProofError, ShapeError};
use strand_protocol::limits::BUSY_RETRY_AFTER_MS;
use strand_protocol::{Code, pb};

use super::frame::FrameError;
use crate::budget::NoRoom;
use crate::permission::PermissionError;
use crate::stream::StreamError;

/// Why a verb gave up. The message is what the client's user may read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerbError {
    /// *peer*: the request's first frame, or the commit frame.
    #[error("unreadable request: {0}")]
    Frame(FrameError),
    /// *peer*: a verb from a later version, or none.
    #[error("unknown verb")]
    UnknownVerb,
    /// *limit*: the node is stopping.
    #[error("the node is going down")]
    ShuttingDown,
    /// *limit*: which pieces are here is not known yet.
    #[error("the index is being rebuilt, {percent} % read")]
    Opening {
        /// Of the blobs' bytes.
        percent: u32,
    },
    /// *caller*: the limit does not allow it.
    #[error(transparent)]
    Permission(#[from] PermissionError),
    /// *caller*: the limit's shape is none.
    #[error("bad limit: {0}")]
    Shape(ShapeError),
    /// *caller*: the limit pays for less.
    #[error("the limit pays for fewer bytes: {bytes} > {byte_count}")]
    OverByteCount {
        /// Bytes the request would move.
        bytes: u64,
        /// Bytes the limit pays for.
        byte_count: u64,
    },
    /// *limit*: memory.
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
    /// *limit*: disk.
    #[error("no space for this piece")]
    Full,
    /// *peer*: fewer bytes than the limit's shape says.
    #[error("the body ended after {bytes} bytes < {piece_len}")]
    BodyEnded {
        /// Bytes that came.
        bytes: u64,
        /// Bytes that the shape asks for.
        piece_len: u64,
    },
    /// *peer*: bytes after the commit frame.
    #[error("bytes after the commit frame")]
    TrailingBytes,
    /// *peer*: a commitment is 32 bytes.
    #[error("bad commitment: {bytes} bytes != 32")]
    CommitmentLength {
        /// Bytes that came.
        bytes: usize,
    },
    /// *peer*: a path has one hash for each level of the segment's tree.
    #[error("bad path: {bytes} bytes != 32 x {hashes}")]
    PathLength {
        /// Bytes that came.
        bytes: usize,
        /// Hashes that the shape asks for.
        hashes: usize,
    },
    /// *peer*: the body is not the piece that was committed to.
    #[error("body and path do not lead to the commitment")]
    WrongCommitment,
    /// *caller*: leaves outside the piece.
    #[error("no such leaves: {leaf_count} from {first_leaf} of {piece_leaf_count}")]
    LeafRange {
        /// First leaf asked for.
        first_leaf: u32,
        /// How many.
        leaf_count: u32,
        /// How many the piece has.
        piece_leaf_count: u32,
    },
    /// *caller*: a range of nothing.
    #[error("a range needs at least one leaf")]
    EmptyRange,
    /// *caller*: the limit speaks of another segment than the piece's.
    #[error("bad limit: its shape makes pieces of {piece_len} bytes, this one has {body_len}")]
    OtherShape {
        /// By the limit.
        piece_len: u64,
        /// As stored.
        body_len: u64,
    },
    /// *disk*, or a bug: the stored share hashes make no proof.
    #[error("no proof: {0}")]
    Proof(ProofError),
    /// *limit* or *disk*: not stored.
    #[error("{0}")]
    Put(#[from] PutError),
    /// *caller* or *disk*: not read.
    #[error("{0}")]
    Get(#[from] GetError),
    /// *peer*: slower than the least pace.
    #[error("too slow")]
    Slow,
    /// *peer*: went away.
    #[error(transparent)]
    Stream(#[from] StreamError),
}

/// How the peer learns of a failure.
#[derive(Debug)]
pub enum Failure {
    /// As an answer, which ends the exchange.
    Answer(VerbError),
    /// As a reset, because an answer has begun, or because nobody listens.
    Reset(VerbError),
}

impl VerbError {
    /// The code of docs/wire.md section 3.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Frame(FrameError::Frame(error)) => match error {
                strand_protocol::frame::FrameError::TooLarge { .. } => Code::TooLarge,
                _ => Code::BadRequest,
            },
            Self::Frame(_) | Self::TrailingBytes | Self::LeafRange { .. } | Self::EmptyRange => {
                Code::BadRequest
            }
            Self::UnknownVerb => Code::Unsupported,
            Self::ShuttingDown => Code::Shutdown,
            Self::Permission(error) => error.code(),
            Self::Shape(_) | Self::OtherShape { .. } => Code::BadLimit,
            Self::OverByteCount { .. } => Code::Denied,
            Self::Opening { .. } | Self::NoRoom(_) => Code::Busy,
            Self::Full => Code::Full,
            Self::BodyEnded { .. }
            | Self::CommitmentLength { .. }
            | Self::PathLength { .. }
            | Self::WrongCommitment => Code::BadPiece,
            Self::Proof(_) => Code::Internal,
            Self::Put(error) => code_of_put(error),
            Self::Get(error) => code_of_get(error),
            Self::Slow => Code::Timeout,
            Self::Stream(_) => Code::Cancelled,
        }
    }

    /// Advice for a retry, 0 = none.
    #[must_use]
    pub fn retry_after_ms(&self) -> u32 {
        if self.code() == Code::Busy {
            BUSY_RETRY_AFTER_MS
        } else {
            0
        }
    }

    /// The message for the peer.
    #[must_use]
    pub fn to_message(&self) -> pb::Error {
        self.code()
            .error_after(self.to_string(), self.retry_after_ms())
    }
}

impl Failure {
    /// What went wrong.
    #[must_use]
    pub fn error(&self) -> &VerbError {
        match self {
            Self::Answer(error) | Self::Reset(error) => error,
        }
    }
}

impl From<VerbError> for Failure {
    fn from(error: VerbError) -> Self {
        Self::Answer(error)
    }
}

fn code_of_put(error: &PutError) -> Code {
    match error {
        PutError::Conflict => Code::Conflict,
        PutError::Full => Code::Full,
        PutError::ReadOnly => Code::ReadOnly,
        PutError::Closed => Code::Shutdown,
        // We derive counts and lengths ourselves; what is left of a bad piece is its limit's index or path length.
        PutError::BadPiece(_) => Code::BadPiece,
        _ => Code::Internal,
    }
}

fn code_of_get(error: &GetError) -> Code {
    match error {
        GetError::NotFound => Code::NotFound,
        GetError::Corrupt { .. } => Code::Corrupt,
        _ => Code::Internal,
    }
}
