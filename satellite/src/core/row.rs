//! The rows of the satellite's tables, parsed: what passes between decisions and the store.

use strand_protocol::path::Names;
use strand_protocol::{NodeId, PieceId, Position, ProjectId, Scheme, Serial, StreamId};
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::address::Domain;

/// A project: who may do anything in it is decided by its macaroon secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProjectRow {
    pub(crate) id: ProjectId,
    pub(crate) name: String,
    pub(crate) salt: [u8; 32],
    pub(crate) secrets: Vec<MacaroonSecret>,
    /// Empty until the first grant sets it.
    pub(crate) check_value: Vec<u8>,
    pub(crate) created_ms: u64,
}

/// The key of one chain of macaroons.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub(crate) struct MacaroonSecret {
    pub(crate) key_id: [u8; 16],
    pub(crate) secret: [u8; 32],
}

impl std::fmt::Debug for MacaroonSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MacaroonSecret").finish_non_exhaustive()
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BucketRow {
    pub(crate) name: String,
    pub(crate) names: Names,
    pub(crate) created_ms: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ObjectRow {
    pub(crate) stream_id: StreamId,
    pub(crate) sealed_header: Vec<u8>,
    pub(crate) plain_len: u64,
    pub(crate) piece_bytes: u64,
    pub(crate) segment_count: u32,
    pub(crate) created_ms: u64,
    /// 0 = never.
    pub(crate) expires_ms: u64,
}

impl ObjectRow {
    pub(crate) fn is_expired(&self, now_ms: u64) -> bool {
        self.expires_ms != 0 && self.expires_ms <= now_ms
    }
}

/// The satellite's own short name of a node, so that a placement costs a few bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct NodeNumber(pub(crate) u32);

/// One piece of a segment, and who stores it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Placement {
    pub(crate) index: u8,
    pub(crate) node: NodeNumber,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SegmentRow {
    pub(crate) position: Position,
    pub(crate) plain_len: u64,
    pub(crate) sealed_len: u64,
    pub(crate) salt: [u8; 24],
    pub(crate) key_commitment: [u8; 32],
    pub(crate) commitment: [u8; 32],
    /// `None` for an inline segment.
    pub(crate) pieces: Option<Pieces>,
}

/// Where a segment's pieces are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pieces {
    pub(crate) scheme: Scheme,
    pub(crate) secret: [u8; 32],
    pub(crate) placements: Vec<Placement>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PendingObjectRow {
    pub(crate) project: ProjectId,
    pub(crate) bucket: String,
    pub(crate) encrypted_key: Vec<u8>,
    pub(crate) scheme: Scheme,
    pub(crate) created_ms: u64,
    /// Of the object; 0 = never.
    pub(crate) expires_ms: u64,
    /// Once the object is committed, what a repeated commit is answered.
    pub(crate) committed: Option<Committed>,
}

/// How a commit went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Committed {
    pub(crate) created_ms: u64,
    pub(crate) has_replaced: bool,
    /// Of what was committed: [`ObjectOffer::content_hash`](super::object::ObjectOffer::content_hash).
    pub(crate) content_hash: [u8; 32],
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PendingSegmentRow {
    pub(crate) secret: [u8; 32],
    pub(crate) sealed_len: u64,
    /// All that were ever issued for the segment, in order.
    pub(crate) issued: Vec<Issued>,
}

/// A put limit that was issued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Issued {
    pub(crate) index: u8,
    pub(crate) node: NodeNumber,
    pub(crate) serial: Serial,
    /// Another node was asked for this index since.
    pub(crate) is_replaced: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NodeRow {
    pub(crate) id: NodeId,
    /// `host:port`, as the node advertises itself.
    pub(crate) address: String,
    pub(crate) domain: Domain,
    pub(crate) capacity_bytes: u64,
    pub(crate) used_bytes: u64,
    pub(crate) free_bytes: u64,
    pub(crate) version: String,
    pub(crate) first_contact_ms: u64,
    pub(crate) last_contact_ms: u64,
    /// The node's clock minus ours.
    pub(crate) skew_ms: i64,
    pub(crate) is_reachable: bool,
}

/// Pieces of one segment that nodes should drop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Discard {
    pub(crate) project: ProjectId,
    pub(crate) secret: [u8; 32],
    pub(crate) required: u8,
    pub(crate) total: u8,
    pub(crate) sealed_len: u64,
    pub(crate) pieces: Vec<Placement>,
    pub(crate) try_count: u32,
    pub(crate) not_before_ms: u64,
}

/// The newest filters of a node, and how the node fared with them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct CollectionRow {
    /// 0 = none yet.
    pub(crate) run: u64,
    pub(crate) part_count: u32,
    pub(crate) snapshot_ms: u64,
    pub(crate) piece_count: u64,
    pub(crate) outcome: Option<CollectionOutcome>,
}

/// How a node's last collection went, as it says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CollectionOutcome {
    pub(crate) run: u64,
    pub(crate) examined: u64,
    pub(crate) kept: u64,
    pub(crate) trashed: u64,
    pub(crate) trashed_bytes: u64,
    pub(crate) refused_parts: u32,
    pub(crate) would_trash: u64,
    pub(crate) would_trash_of: u64,
    pub(crate) reported_ms: u64,
}

/// A complete walk over the segments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CollectionRun {
    pub(crate) run: u64,
    pub(crate) snapshot_ms: u64,
    pub(crate) ended_ms: u64,
    pub(crate) segment_count: u64,
    pub(crate) piece_count: u64,
    pub(crate) node_count: u32,
    /// Placements taken out because their nodes had lost the pieces.
    pub(crate) lost_count: u64,
}

/// A piece that its node reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reported {
    pub(crate) node: NodeNumber,
    pub(crate) piece: PieceId,
    pub(crate) reported_ms: u64,
}

/// Where a lost piece was to be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LostPlacement {
    pub(crate) stream: StreamId,
    pub(crate) position: Position,
    pub(crate) placement: Placement,
    pub(crate) piece: PieceId,
}
