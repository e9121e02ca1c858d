//! Why an operation of the store failed: one enum an operation.
//!
//! Variants say whose fault it was: the caller's (`BadPiece`), the disk's (`Corrupt`, `Disk`, `ReadOnly`) or a limit (`Full`).
//! All are `Copy + Eq`, so tests compare them whole.

use crate::disk::DiskError;
use crate::layout::BlobId;

/// Why a directory could not be opened as a store. Damage to single groups or records is not among these: it is reported
/// in [`Recovery`](crate::Recovery) and the rest is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The disk could not list, open or read a blob.
    #[error("cannot read the blobs: {0}")]
    Disk(#[from] DiskError),
    /// A blob belongs to another node.
    #[error("blob {blob} belongs to another node")]
    ForeignBlob {
        /// The blob.
        blob: BlobId,
    },
    /// A blob was written by a newer release.
    #[error("blob {blob} has format version {version} > 1")]
    NewerVersion {
        /// The blob.
        blob: BlobId,
        /// Its version.
        version: u16,
    },
    /// The checkpoint names blobs, and none of them is there. Nothing was changed.
    #[error(
        "none of the {count} blobs that the checkpoint names is there: mount the disk that they are on; to go on without \
         them, rebuild the index"
    )]
    NoBlobs {
        /// How many there should be.
        count: u64,
    },
    /// A blob was not the same when it was read again.
    #[error(
        "blob {blob} was read twice and differed: its disk is failing, or another program writes to it"
    )]
    Unsteady {
        /// The blob.
        blob: BlobId,
    },
}

/// Why a piece (or the removal of one) was not made durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PutError {
    /// The caller's piece does not have the form of one.
    #[error("bad piece: {0}")]
    BadPiece(BadPiece),
    /// A piece with this id and another root or commitment is stored already.
    #[error("another piece is stored under this id")]
    Conflict,
    /// No room: the capacity is used up or the disk is (nearly) full.
    #[error("no room for the piece")]
    Full,
    /// A write or a sync failed: nothing more is stored until the store is opened again.
    #[error("the store is read-only after a failed write or sync")]
    ReadOnly,
    /// The disk failed this operation, and only this one.
    #[error("disk: {0}")]
    Disk(#[from] DiskError),
    /// The list of a blob's records cannot be read: nobody knows what is in it until the store is opened again.
    #[error("the list of what is in {blob} cannot be read; the next start reads what it lists")]
    Unlisted {
        /// The blob.
        blob: BlobId,
    },
    /// One satellite more than a node can serve.
    #[error("a node serves at most 64 satellites")]
    TooManySatellites,
    /// The store is closed or closing.
    #[error("the store is closed")]
    Closed,
}

/// What is wrong with a piece that was offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadPiece {
    /// A piece has at least one byte and at most 257 shares.
    #[error("body of {bytes} bytes")]
    BodyLength {
        /// Its length.
        bytes: u64,
    },
    /// One CRC a share.
    #[error("{found} share CRCs != {wanted}")]
    CrcCount {
        /// How many were given.
        found: usize,
        /// How many the body calls for.
        wanted: usize,
    },
    /// One chaining value a share, none for a one-share piece.
    #[error("{found} share hashes != {wanted}")]
    ShareHashCount {
        /// How many were given.
        found: usize,
        /// How many the body calls for.
        wanted: usize,
    },
    /// A path is at most 8 hashes long.
    #[error("path of {found} hashes > 8")]
    PathLength {
        /// How many were given.
        found: usize,
    },
}

/// Why a piece or some of its bytes could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GetError {
    /// No such piece.
    #[error("no such piece")]
    NotFound,
    /// The stored bytes are damaged.
    #[error("blob {blob}, offset {offset}: {what} is damaged")]
    Corrupt {
        /// What failed its check.
        what: Damage,
        /// The blob.
        blob: BlobId,
        /// Offset of the record in the blob.
        offset: u64,
    },
    /// The disk failed the read.
    #[error("disk: {0}")]
    Disk(#[from] DiskError),
    /// The caller asked for shares that the piece does not have.
    #[error("shares {start}..{end} of a piece of {share_count}")]
    Range {
        /// First share asked for.
        start: u32,
        /// One past the last.
        end: u32,
        /// Shares of the piece.
        share_count: u32,
    },
}

/// A part of a blob that failed its check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Damage {
    /// Both copies of the blob header: nothing in the blob can be read.
    #[error("the whole blob")]
    Blob,
    /// One of two copies of the blob header.
    #[error("a blob header copy")]
    BlobHeader,
    /// A group header, or whole groups that are missing.
    #[error("a group")]
    Group,
    /// A record header.
    #[error("a record header")]
    RecordHeader,
    /// A record of a version or type that this release does not know.
    #[error("a record of unknown kind")]
    UnknownRecord,
    /// The trailer of a piece.
    #[error("a piece trailer")]
    Trailer,
    /// One share of a piece.
    #[error("share {0}")]
    Share(u32),
    /// Bytes that the checkpoint knows of, in a blob file that is shorter now or gone. Said by the opening that noticed, and not again.
    #[error("what was cut off or removed")]
    Missing,
    /// The body of a piece, though each share passes its check: it does not hash to the root.
    #[error("the root of a piece")]
    Root,
    /// A record that the disk cannot read, though it reads others of the blob.
    #[error("an unreadable record")]
    Unreadable,
}
