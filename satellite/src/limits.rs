//! The satellite's own bounds. Those that two programs share are in `strand_protocol::limits`.

use std::time::Duration;

use strand_protocol::limits;

/// Longest request frame that is read: a macaroon and a sealed object header, which is the
/// longest request there is (asserted in protocol), with room for the small fields.
pub(crate) const REQUEST_FRAME_BYTES_MAX: usize =
    limits::MACAROON_BYTES_MAX + limits::SEALED_HEADER_BYTES_MAX + 16_384;

const _: () = assert!(REQUEST_FRAME_BYTES_MAX <= limits::SATELLITE_FRAME_BYTES_MAX);

/// Requests read and handled at once, over all connections; one more is answered `BUSY`.
///
/// At 1.1 MiB each at worst they hold 550 MiB, ordinarily a few KiB each.
pub(crate) const REQUESTS_MAX: usize = 512;

/// Check-ins at once that dial back or wait for their turn to; one more is answered `BUSY`, so that
/// check-ins from dead addresses cannot take all of [`REQUESTS_MAX`].
pub(crate) const CHECK_INS_MAX: usize = 256;

const _: () = assert!(CHECK_INS_MAX < REQUESTS_MAX);

/// Dial-backs to nodes at once.
pub(crate) const DIAL_BACKS_MAX: usize = 32;

/// A node that was reached at its address is not dialled again for so long while it keeps
/// checking in from there.
pub(crate) const DIAL_BACK_INTERVAL_MS: u64 = 10 * 60_000;

/// Nodes that a satellite remembers; a new one beyond them is refused.
pub(crate) const NODES_MAX: usize = 100_000;

/// Write commands waiting for the store's writer; one more is answered `BUSY`.
pub(crate) const WRITES_WAITING_MAX: usize = 1_024;

/// Write commands that one durable commit takes together.
pub(crate) const WRITES_PER_COMMIT_MAX: usize = 256;

/// Buckets of one project.
pub(crate) const BUCKETS_MAX: usize = 1_000;

/// Projects of a satellite.
pub(crate) const PROJECTS_MAX: usize = 100_000;

/// Segments of one upload that are begun and not committed.
pub(crate) const PENDING_SEGMENTS_MAX: usize = 256;

/// Put limits that are issued for one segment at most, first ones and replacements together, as a
/// multiple of its total count: every index may be replaced `REPLACE_ROUNDS_MAX` times.
pub(crate) const ISSUES_PER_INDEX_MAX: usize = 1 + limits::REPLACE_ROUNDS_MAX as usize;

/// Rows that a listing reads to fill one page: expired objects are passed over until they are
/// swept away.
pub(crate) const LIST_ROWS_MAX: usize = 100_000;

/// Rows of the delete queue that one round takes.
pub(crate) const DISCARDS_PER_ROUND: usize = 64;

/// Rows of the delete queue that are looked at to find those that are due.
pub(crate) const DISCARDS_SCANNED_MAX: usize = 4_096;

/// Nodes that the delete queue talks to at once.
pub(crate) const DISCARD_NODES_MAX: usize = 16;

/// Deletes under way at one node.
pub(crate) const DISCARDS_PER_NODE_MAX: usize = 8;

const _: () = assert!(DISCARDS_PER_NODE_MAX <= limits::NODE_STREAMS_MAX as usize);

/// Tries to have a piece deleted; then garbage collection at the node has to find it.
pub(crate) const DISCARD_TRIES_MAX: u32 = 8;

/// Before the second try; doubles up to [`DISCARD_BACKOFF_MAX_MS`].
pub(crate) const DISCARD_BACKOFF_MIN_MS: u64 = 60_000;
/// Longest pause between two tries.
pub(crate) const DISCARD_BACKOFF_MAX_MS: u64 = 3_600_000;

/// Pieces that were issued and not committed are deleted only so long after: the client has just
/// cancelled them, and a delete must not overtake the put.
pub(crate) const LEFTOVER_DELAY_MS: u64 = 15_000;

/// Between two looks at the delete queue.
pub(crate) const DISCARD_INTERVAL: Duration = Duration::from_secs(2);

/// Piece hashes that garbage collection holds in memory at once: 64 MiB.
pub(crate) const GC_PIECES_MAX: u64 = 8 << 20;

/// Segments that a walk reads in a second at most, so that clients always get at the store: a hundred million in some 17 minutes.
pub(crate) const GC_SEGMENTS_PER_S_MAX: u32 = 100_000;

/// Segments that one step of a walk reads.
pub(crate) const GC_SEGMENTS_PER_STEP: usize = 256;

/// Bytes of filters that one write takes, and one filter more.
pub(crate) const GC_BYTES_PER_STEP: usize = 4 << 20;

/// Nodes whose new filters one write announces.
pub(crate) const GC_NODES_PER_STEP: usize = 256;

/// Tries of garbage collection to have a busy store do something.
pub(crate) const GC_TRIES_MAX: u32 = 12;

/// From the start to the first collection of a satellite that never had one.
pub(crate) const GC_FIRST_DELAY: Duration = Duration::from_secs(600);

/// After a collection, also one that failed, before the next is due.
pub(crate) const GC_RETRY: Duration = Duration::from_secs(3_600);

/// Filters read for nodes at once: 40 MiB at worst. One more is answered `BUSY`.
pub(crate) const FILTER_FETCHES_MAX: usize = 32;

/// Lost pieces of one node, and revived ones, that are remembered.
pub(crate) const REPORTS_PER_NODE_MAX: usize = 16_384;

/// Lost pieces of all nodes, and revived ones, that are remembered: 100 MiB while a walk looks for
/// them.
pub(crate) const REPORTS_MAX: usize = 1_000_000;

/// How long `status` counts a revived piece: as long as trash is kept.
pub(crate) const REVIVED_SHOWN_MS: u64 = 7 * 24 * 3_600_000;

const _: () = assert!(limits::REPORTED_PIECES_MAX <= REPORTS_PER_NODE_MAX);

/// Between two sweeps of stale uploads and expired objects.
pub(crate) const SWEEP_INTERVAL: Duration = Duration::from_secs(600);

/// Uploads or objects that one sweep step takes.
pub(crate) const SWEEP_STEP: usize = 256;

/// How long requests under way may go on after the satellite was told to stop.
pub(crate) const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// An admin request or answer, one line of JSON. A list of all nodes has some 400 bytes each.
pub(crate) const ADMIN_LINE_BYTES_MAX: usize = 64 << 20;

/// Admin connections at once.
pub(crate) const ADMIN_CONNECTIONS_MAX: usize = 16;

/// One admin request, answer included.
pub(crate) const ADMIN_TIMEOUT: Duration = Duration::from_secs(30);
