//! The client's bounds: times, counts and memory, with their relations asserted.

use std::time::Duration;

/// How long a call to the satellite may take in all, new connections and repeats included.
///
/// A command against a satellite that is down has to fail within 10 s.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(7);

/// How long one attempt to connect to the satellite may take.
pub const SATELLITE_DIAL_TIMEOUT: Duration = Duration::from_millis(2_500);

/// How long the answer to a harmless request is waited for before it is sent again over a new
/// connection.
pub const ANSWER_TIMEOUT: Duration = Duration::from_millis(3_500);

/// How long a satellite that answers `BUSY` is asked again.
pub const BUSY_TIMEOUT: Duration = Duration::from_secs(30);

/// How long one attempt to connect to a node may take.
pub const NODE_DIAL_TIMEOUT: Duration = Duration::from_millis(3_000);

/// A node that could not be reached is not dialled again for so long.
pub const DEAD_NODE_REST: Duration = Duration::from_secs(20);

/// Handshakes in flight at once. All nodes of a segment fit, so that dead ones do not hold up
/// living ones.
pub const DIALS_IN_FLIGHT_MAX: usize = 128;

/// How long a segment that meets only busy nodes is tried in all.
pub const RETREAT_TIMEOUT: Duration = Duration::from_secs(60);

/// First and longest pause before busy nodes are asked again; doubled each time, with jitter.
pub const RETREAT_PAUSE_MIN: Duration = Duration::from_millis(40);
/// See [`RETREAT_PAUSE_MIN`].
pub const RETREAT_PAUSE_MAX: Duration = Duration::from_secs(2);

/// After so many pauses other nodes are asked for.
pub const SAME_NODES_RETREATS_MAX: u32 = 4;

/// Segments that hold memory in an upload: one on its way, one being read. A third, that has
/// optimal receipts and waits for its last data pieces, holds its sealed bytes only.
///
/// Full segments of the default scheme: 67.2 MB sealed and 148 MB recovery on its way, 67.2 MB
/// being read, 67.2 MB settling: 350 MB.
pub const SEGMENTS_IN_MEMORY_MAX: usize = 2;

/// Bytes read from the input at a time.
pub const READ_BYTES: usize = 256 * 1024;

/// Stripes decoded at a time: 128 KiB columns, so that the fixed costs of a batch are paid rarely.
pub const DECODE_STRIPES: u32 = 8;

/// Threads that decode one segment: each holds 8 MiB of batches.
pub const DECODE_THREADS_MAX: u32 = 8;

/// Plans for computing missing pieces that a download keeps: segments that lie on the same nodes lose
/// the same pieces with them. 17 KB each with the default scheme.
pub const PLANS_MAX: usize = 16;

/// Stripes that are coded before sends are woken: 128 KiB a piece fill whole trains of datagrams.
pub const SEND_STRIPES: u32 = 8;

/// Times that permissions of one segment are fetched anew because a node refused them.
pub const LIMIT_REFRESHES_MAX: u32 = 3;

/// Keys asked for per page of a listing.
pub const LIST_PAGE: u32 = 1_000;

/// Fewest characters of a passphrase for a new grant.
pub const PASSPHRASE_CHARS_MIN: usize = strand_protocol::limits::PASSPHRASE_CHARS_MIN;

/// Fewest different characters of a passphrase for a new grant.
pub const PASSPHRASE_DISTINCT_MIN: usize = 4;

const _: () = assert!(CALL_TIMEOUT.as_millis() < 10_000);
const _: () = assert!(
    ANSWER_TIMEOUT.as_millis() + SATELLITE_DIAL_TIMEOUT.as_millis() <= CALL_TIMEOUT.as_millis()
);
const _: () = assert!(SATELLITE_DIAL_TIMEOUT.as_millis() * 2 <= CALL_TIMEOUT.as_millis());
const _: () = assert!(READ_BYTES.is_multiple_of(strand_codec::CHUNK_BYTES));
const _: () = assert!((4 << 20) % READ_BYTES == 0, "segments are whole reads");
const _: () = assert!(DECODE_STRIPES as usize * strand_codec::SHARE_BYTES >= 64 * 1024);
