//! The bounds of one node process, each with its reason.
//!
//! What both ends of the network must agree on (frame sizes, windows, stream counts) is in `strand_protocol::limits`;
//! here is what only this program needs to know. Full always means a typed refusal to the peer, never growth.

use std::time::Duration;

use strand_protocol::limits::{
    CONNECT_TIMEOUT, DIAL_BACK_TIMEOUT, FULL_PIECE_BYTES, HANDSHAKES_MAX,
    NODE_CONNECTION_WINDOW_FIRST_BYTES, NODE_PINNED_BYTES_MAX, NODE_REQUEST_TIMEOUT,
    NODE_SEND_WINDOW_FIRST_BYTES, PIECE_BYTES_MAX, STALL_TIMEOUT,
};

/// Bytes of piece bodies that one core holds in memory for puts, over all its nodes, by default.
///
/// 28 full pieces of 2,316,416 bytes are 62 MiB.
pub const WRITE_BUDGET_BYTES: u64 = 64 << 20;

/// The least write budget that can be asked for: below it two of the longest pieces would not fit.
pub const WRITE_BUDGET_BYTES_MIN: u64 = 9 << 20;

/// Bytes read from disk and not yet handed to the network, over all gets of a core.
pub const READ_BUDGET_BYTES: u64 = 64 << 20;

/// One read of a get: 16 shares.
pub const READ_RUN_SHARES: u32 = 16;

/// What one get holds at most: the run being sent and the run being read.
pub const READ_HELD_BYTES_MAX: u64 = 2 * READ_RUN_SHARES as u64 * strand_codec::SHARE_BYTES as u64;

/// Memory that the connections of a core may pin outside admitted pieces, over all its nodes, by default: 3,300 narrow ones, or 250 wide
/// ones (docs/wire.md, section 2).
pub const CONNECTION_BUDGET_BYTES: u64 = 384 << 20;

/// The least that can be asked for.
pub const CONNECTION_BUDGET_BYTES_MIN: u64 = 24 << 20;

/// What a connection costs that nothing is in flight on: its keys, its tables, its place in ours (`strand-perf node --row idle`).
pub const IDLE_CONNECTION_BYTES: u64 = 36 << 10;

/// What a connection may pin until a long body was admitted on it.
pub const NARROW_CONNECTION_BYTES: u64 = IDLE_CONNECTION_BYTES
    + NODE_CONNECTION_WINDOW_FIRST_BYTES as u64
    + NODE_SEND_WINDOW_FIRST_BYTES as u64;

/// What it may pin from then on.
pub const WIDE_CONNECTION_BYTES: u64 = IDLE_CONNECTION_BYTES + NODE_PINNED_BYTES_MAX as u64;

/// How long a connection must have had no admitted body to be closed for another. A client keeps its connections for the next segment, and
/// looks whether they are still there when it needs them.
pub const QUIET_MIN: Duration = Duration::from_secs(10);

/// Handshakes at once with peers that have proven their address; one more is refused. Those that have not are asked to from
/// `HANDSHAKES_MAX` on.
pub const PROVEN_HANDSHAKES_MAX: usize = 8 * HANDSHAKES_MAX;

/// A handshake that takes longer makes room for others.
pub const HANDSHAKE_WAIT: Duration = DIAL_BACK_TIMEOUT;

/// Requests that a core answers at once, over all its nodes. Each is a task of some KiB.
pub const REQUESTS_MAX: usize = 4_096;

/// Bytes of hashing between two yields to the executor: some 60 us.
pub const HASH_RUN_BYTES: usize = 256 << 10;

/// Used serials one node remembers, until their limits expire. 40 bytes each: 40 MiB at the very most.
pub const USED_SERIALS_MAX: usize = 1 << 20;

/// How long the store is left alone when there was nothing to compact. Looking costs a pass over the list of blobs.
pub const UPKEEP_PAUSE: Duration = Duration::from_secs(1);

/// How long it is left alone after compaction failed, which is logged.
pub const UPKEEP_FAILED_PAUSE: Duration = Duration::from_secs(30);

/// One pass of the scrub over the whole store.
pub const SCRUB_PASS: Duration = Duration::from_secs(30 * 86_400);

/// By how much the blobs that are there when a scrub of everything begins can grow until it reads them: 16 open blobs of 1 GiB. A store
/// has 4 of them at most.
pub const SCRUB_GROWTH_BYTES_MAX: u64 = 16 << 30;

/// Lost pieces that the scrub of a stopped node names; the others are counted. Some 16 MiB.
pub const SCRUB_LOST_NAMED_MAX: usize = 65_536;

/// A scrub that the owner asked for rests a fourth of the time that each step took, so that others have their turn of the disk.
pub const SCRUB_JOB_REST_PART: u32 = 4;

/// How long a running node may take to begin a job: it looks ten times a second.
pub const JOB_BEGIN_WAIT: Duration = Duration::from_secs(10);

/// How long an opening that a job waits for may make no progress. A damaged gibibyte is read twice before more is known.
pub const OPENING_PROGRESS_WAIT: Duration = Duration::from_secs(60);

/// What one step of the scrub reads at most: a longest piece record, or a run of smaller ones.
pub const SCRUB_STEP_BYTES: u64 = 4 << 20;

/// A scrub rests at least so many times as long as it reads: at most a twentieth of the disk's time, however full the store is.
pub const SCRUB_REST_FACTOR: u32 = 19;

/// Blobs in a row of which the disk reads nothing, after which `piecestore scrub` ends: each may cost the time of a request without an answer.
pub const SCRUB_UNREADABLE_BLOBS_MAX: u32 = 3;

/// The longest rest between two steps of the scrub, however empty the store is.
pub const SCRUB_REST_MAX: Duration = Duration::from_secs(600);

/// How long this machine's clock must agree with a satellite's that has jumped, until things expire by it: time to notice that both were
/// set wrong, which would let everything expire or outlive its days in the trash.
pub const CLOCK_TRUST_WAIT: Duration = Duration::from_secs(86_400);

/// A node whose clock differs more from the satellite's lets no piece expire.
pub const CLOCK_OFFSET_MAX: Duration = Duration::from_secs(600);

/// How long the first frame of a request may take.
pub const REQUEST_WAIT: Duration = NODE_REQUEST_TIMEOUT;

/// The window over which a body's progress is judged, also the wait for its first byte (docs/wire.md, put).
pub const PACE_WINDOW: Duration = STALL_TIMEOUT;

/// Progress a body must make in each window: 4 KiB/s. 80 pieces in flight at this floor are 2.6 Mbit/s of uplink.
pub const PACE_BYTES_MIN: u64 = 40 << 10;

/// Pace below which a body loses its room to others when there is not enough. 80 pieces in flight at this pace are 10.5 Mbit/s of uplink; a
/// body at [`PACE_BYTES_MIN`] loses it within 7 s.
pub const SCARCE_BYTES_PER_S: u64 = 16 << 10;

/// Time that a body has until it is held against it: handshakes, a first window, a lost packet or two.
pub const SCARCE_GRACE: Duration = Duration::from_secs(5);

/// How long after a slow body lost its room strangers have less of it.
pub const CONTEST_TIME: Duration = Duration::from_secs(600);

/// Peers of a core whose last body was whole, that are remembered. 32 bytes each, looked through for each body.
pub const PROVEN_PEERS_MAX: usize = 1_024;

/// How long the commit frame may lag behind the last body byte: the client computes the commitment over all pieces.
pub const COMMIT_WAIT: Duration = Duration::from_secs(30);

/// How long one run (256 KiB) may take to leave: slower readers are cut.
pub const SEND_WAIT: Duration = Duration::from_secs(30);

/// How long an answer of one frame may take to leave.
pub const ANSWER_WAIT: Duration = NODE_REQUEST_TIMEOUT;

/// How long the opening of a store may take until the satellite and the owner hear that it takes its time.
pub const OPENING_GRACE: Duration = Duration::from_secs(1);

/// How long a node that is told to stop waits for the requests it has begun.
pub const DRAIN_WAIT: Duration = Duration::from_secs(20);

/// The first wait after a check-in that failed; doubles up to the period.
pub const CHECK_IN_RETRY: Duration = Duration::from_secs(1);

/// How long a check-in may take, the satellite's dial-back included.
pub const CHECK_IN_WAIT: Duration = Duration::from_secs(30);

/// Blob files that each of a process's cores keeps open, for a limit of open files: what is left of the limit when sockets, rings and
/// folders have theirs. A node has a socket, a lock, a folder twice, an admin socket and its connection; a core some 20 of its executor's.
#[must_use]
pub fn open_files_max(limit: u64, core_count: usize, node_count: usize) -> usize {
    let others = open_files_of_others(core_count, node_count);
    let left = usize::try_from(limit)
        .unwrap_or(usize::MAX)
        .saturating_sub(others);
    // Half of it: operations in flight may need more than the bound for a moment.
    (left / 2 / core_count.max(1)).clamp(OPEN_FILES_MIN, OPEN_FILES_MAX)
}

/// The least limit of open files with which a process starts.
#[must_use]
pub fn open_files_needed(core_count: usize, node_count: usize) -> u64 {
    (open_files_of_others(core_count, node_count) + 2 * OPEN_FILES_MIN * core_count) as u64
}

fn open_files_of_others(core_count: usize, node_count: usize) -> usize {
    64 + 24 * core_count + 12 * node_count
}

/// With fewer, a store of some nodes would open a file for nearly every operation.
pub const OPEN_FILES_MIN: usize = 16;

/// More would help nobody: opening a file costs some 20 us.
pub const OPEN_FILES_MAX: usize = 8_192;

/// Blobs that a store appends to at a time on a disk whose head has to go there.
pub const SPINNING_APPEND_POINTS: u8 = 2;

/// Dead bytes that compaction reads on such a disk rather than go past them: what it reads in the time of one turn.
pub const SPINNING_GAP_BYTES_MAX: u64 = 1 << 20;

/// How long work in the background waits until it looks again whether its disk is free for it.
pub const TURN_WAIT: Duration = Duration::from_millis(250);

/// How long a filter may take to arrive: 1.25 MiB at 200 kbit/s.
pub const FILTER_WAIT: Duration = Duration::from_secs(60);

/// How often a node looks for lost and revived pieces to report.
pub const GC_LOOK_PERIOD: Duration = Duration::from_secs(2);

/// Lost pieces that wait for the satellite to take them, and revived ones: 512 KiB each.
pub const REPORTS_KEPT_MAX: usize = 16_384;

/// How often a node looks whether the blobs that it appends to are still there: acks into one that another program removed are given for so
/// long at most.
pub const OPEN_BLOBS_LOOK_PERIOD: Duration = Duration::from_secs(5);

/// Nodes in one process.
pub const NODES_MAX: usize = 256;

// The half that strangers have.
const _: () = assert!(WRITE_BUDGET_BYTES_MIN / 2 >= PIECE_BYTES_MAX);
const _: () = assert!(WRITE_BUDGET_BYTES >= WRITE_BUDGET_BYTES_MIN);
const _: () =
    assert!(CONNECTION_BUDGET_BYTES_MIN >= 2 * HANDSHAKES_MAX as u64 * NARROW_CONNECTION_BYTES);
const _: () = assert!(CONNECTION_BUDGET_BYTES_MIN >= 8 * WIDE_CONNECTION_BYTES);
const _: () = assert!(READ_BUDGET_BYTES >= 32 * READ_HELD_BYTES_MAX);
const _: () = assert!(28 * FULL_PIECE_BYTES <= WRITE_BUDGET_BYTES);
const _: () =
    assert!(CHECK_IN_WAIT.as_secs() > DIAL_BACK_TIMEOUT.as_secs() + CONNECT_TIMEOUT.as_secs());
