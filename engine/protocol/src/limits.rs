//! Every bound that two programs must agree on, with its working.
//!
//! A queue, a retry, a time-out or a length without a name here (or in its program's own limits) is
//! a bug. Relations between bounds are asserted when this file compiles. Full means `Busy` to the
//! peer, never growth.

use std::time::Duration;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;
const MINUTE_MS: u64 = 60_000;
const HOUR_MS: u64 = 60 * MINUTE_MS;

// Frames and structures.

/// Bytes of a frame's length prefix.
pub const FRAME_PREFIX_BYTES: usize = 4;
/// Longest message to or from a node.
pub const NODE_FRAME_BYTES_MAX: usize = 64 * KIB;
/// Longest message to or from a satellite.
pub const SATELLITE_FRAME_BYTES_MAX: usize = 4 * MIB;
/// Longest sealed structure but the object header.
pub const STRUCTURE_BYTES_MAX: usize = 64 * KIB;
/// Longest object header before sealing.
pub const OBJECT_HEADER_BYTES_MAX: usize = MIB;
/// What AES-SIV adds.
pub const SIV_BYTES: usize = 16;
/// Longest sealed object header.
pub const SEALED_HEADER_BYTES_MAX: usize = OBJECT_HEADER_BYTES_MAX + SIV_BYTES;
/// Longest macaroon.
pub const MACAROON_BYTES_MAX: usize = 16 * KIB;
/// Most caveats of a macaroon.
pub const CAVEATS_MAX: usize = 64;
/// A limit: 4 of magic, 14 fields with 6 of type and length each, and
/// 16 + 32 + 32 + 32 + 1 + 8 + 11 + 8 + 8 + 8 + 32 + 4 + 32 + 32 = 256 of values.
pub const LIMIT_BYTES: usize = 4 + 14 * 6 + 256;
/// A receipt: 4 of magic, 10 fields with 6 each, and 16 + 32 + 32 + 1 + 8 + 32 + 32 + 8 + 4 + 32 =
/// 197 of values.
pub const RECEIPT_BYTES: usize = 4 + 10 * 6 + 197;
/// A limit or receipt with reserved fields in use may be so long, no longer.
pub const PERMIT_BYTES_MAX: usize = 1_024;

/// Room in a frame for tags, lengths and the small fields beside its one big part.
const FRAME_SLACK_BYTES: usize = 8 * KIB;

const _: () = assert!(LIMIT_BYTES <= PERMIT_BYTES_MAX && RECEIPT_BYTES <= PERMIT_BYTES_MAX);
const _: () = assert!(PERMIT_BYTES_MAX + FRAME_SLACK_BYTES <= NODE_FRAME_BYTES_MAX);
const _: () = assert!(MACAROON_BYTES_MAX <= STRUCTURE_BYTES_MAX);
const _: () = assert!(STRUCTURE_BYTES_MAX + OBJECT_HEADER_BYTES_MAX < SATELLITE_FRAME_BYTES_MAX);
// The longest request with receipts: a macaroon and 255 of them.
const _: () = assert!(
    MACAROON_BYTES_MAX + 255 * PERMIT_BYTES_MAX + FRAME_SLACK_BYTES <= SATELLITE_FRAME_BYTES_MAX
);
// The longest request of all: a macaroon and a sealed header.
const _: () = assert!(
    MACAROON_BYTES_MAX + SEALED_HEADER_BYTES_MAX + FRAME_SLACK_BYTES <= SATELLITE_FRAME_BYTES_MAX
);

// Names, metadata, lists.

/// Longest object key as the user gives it.
pub const OBJECT_KEY_BYTES_MAX: usize = 1_280;
/// Longest encrypted key. A sealed component costs 18 bytes beside its own, so 1,280 bytes fit with
/// up to 159 components: 1,280 - 158 slashes + 159 x 18 = 3,984; 160 give 4,001.
pub const ENCRYPTED_KEY_BYTES_MAX: usize = 4_000;
/// `u16(length)` and the synthetic IV of a sealed component.
pub const SEALED_COMPONENT_OVERHEAD_BYTES: usize = 2 + SIV_BYTES;
/// Shortest bucket name.
pub const BUCKET_NAME_BYTES_MIN: usize = 3;
/// Longest bucket name.
pub const BUCKET_NAME_BYTES_MAX: usize = 63;
/// Longest name of a project.
pub const PROJECT_NAME_BYTES_MAX: usize = 255;
/// Longest `host:port`: a DNS name of 253 bytes, a colon, five digits, rounded up.
pub const ADDRESS_BYTES_MAX: usize = 262;
/// User metadata of one object, as encoded.
pub const METADATA_BYTES_MAX: usize = 2 * KIB;
/// Highest part number, and most parts of an object (S3's).
pub const PART_NUMBER_MAX: u32 = 10_000;
/// A part's row in the object header.
pub const PART_ENTRY_BYTES: usize = 4 + 8 + 4;
/// Most segments of one object that come back in one answer: 16,384 full ones are 1 TiB. A
/// satellite refuses more.
pub const OBJECT_SEGMENTS_MAX: usize = 16_384;
/// A `Segment` message without inline bytes, with its tag: 3 + 3 x 11 + 26 + 2 x 34 + 14 + 3 = 147.
pub const SEGMENT_MESSAGE_BYTES_MAX: usize = 160;
/// Most entries of one list answer.
pub const LIST_ENTRIES_MAX: usize = 1_000;
/// One list entry: a sealed header and an encrypted key.
const LIST_ENTRY_BYTES_MAX: usize =
    SEALED_HEADER_BYTES_MAX + ENCRYPTED_KEY_BYTES_MAX + FRAME_SLACK_BYTES;
/// A list answer of so many bytes takes no further entry and says `more`: the entry that crosses it
/// still fits the frame.
pub const LIST_BYTES_MAX: usize =
    SATELLITE_FRAME_BYTES_MAX - LIST_ENTRY_BYTES_MAX - FRAME_SLACK_BYTES;

const _: () = assert!(1_280 - 158 + 159 * SEALED_COMPONENT_OVERHEAD_BYTES == 3_984);
const _: () =
    assert!(OBJECT_KEY_BYTES_MAX + SEALED_COMPONENT_OVERHEAD_BYTES <= ENCRYPTED_KEY_BYTES_MAX);
// The sealed bytes of the longest single component still fit its u16 length.
const _: () = assert!(OBJECT_KEY_BYTES_MAX + SIV_BYTES <= u16::MAX as usize);
// The longest prefix caveat fits a macaroon.
const _: () = assert!(ENCRYPTED_KEY_BYTES_MAX + BUCKET_NAME_BYTES_MAX + 128 <= MACAROON_BYTES_MAX);
const _: () = assert!(
    PART_NUMBER_MAX as usize * PART_ENTRY_BYTES + METADATA_BYTES_MAX + FRAME_SLACK_BYTES
        <= OBJECT_HEADER_BYTES_MAX
);
// With one inline segment in the answer; further ones, of further parts, are asked for one by one.
const _: () = assert!(
    OBJECT_SEGMENTS_MAX * SEGMENT_MESSAGE_BYTES_MAX
        + SEALED_HEADER_BYTES_MAX
        + ENCRYPTED_KEY_BYTES_MAX
        + INLINE_SEALED_BYTES_MAX
        + FRAME_SLACK_BYTES
        <= SATELLITE_FRAME_BYTES_MAX
);
// An ordinary list answer, 1,000 entries of 1,280-byte keys in some ten components and 600 bytes of
// header, is not cut.
const _: () = assert!(LIST_ENTRIES_MAX * (1_500 + 600 + 64) <= LIST_BYTES_MAX);

// Segments and pieces.

/// Largest `required` of a scheme.
pub const SCHEME_REQUIRED_MAX: u8 = 64;
/// Most plaintext of a segment: `min(64, 4k)` MiB.
pub const SEGMENT_BYTES_MAX: u64 = 64 * MIB as u64;
/// Most sealed bytes of a segment: 64 MiB and 16 for each of its 4,097 chunks, the last of which is
/// empty.
pub const SEALED_BYTES_MAX: u64 = SEGMENT_BYTES_MAX + 16 * (SEGMENT_BYTES_MAX / 16_384 + 1);
/// Most plaintext of an inline segment.
pub const INLINE_BYTES_MAX: usize = 16 * KIB;
/// Most sealed bytes of an inline segment: two chunks, the second empty.
pub const INLINE_SEALED_BYTES_MAX: usize = INLINE_BYTES_MAX + 2 * 16;
/// A piece of a full segment at the default scheme: 141 shares of 16,384 and one of 6,272.
pub const FULL_PIECE_BYTES: u64 = 141 * 16_384 + 6_272;
/// The longest piece of any scheme: k = 1 to 16, 4 MiB each: 256 shares of 16,384 and one of 4,160.
pub const PIECE_BYTES_MAX: u64 = 256 * 16_384 + 4_160;
/// Most siblings of a piece's path: ceil(log2(255)).
pub const PATH_HASHES_MAX: usize = 8;

/// `piece_len` of docs/format.md for a full segment of a scheme, only to show the two numbers
/// above.
const fn full_piece_bytes(required: u64) -> u64 {
    let four_k = 4 * required * MIB as u64;
    let plain = if four_k < SEGMENT_BYTES_MAX {
        four_k
    } else {
        SEGMENT_BYTES_MAX
    };
    let sealed = plain + 16 * (plain / 16_384 + 1);
    let rest = sealed % (16_384 * required);
    sealed / (16_384 * required) * 16_384 + rest.div_ceil(required).next_multiple_of(64)
}

const _: () = assert!(SEALED_BYTES_MAX == 67_174_416);
const _: () = assert!(full_piece_bytes(29) == FULL_PIECE_BYTES && FULL_PIECE_BYTES == 2_316_416);
const _: () = {
    let mut required = 1;
    let mut longest = 0;
    while required <= SCHEME_REQUIRED_MAX as u64 {
        if full_piece_bytes(required) > longest {
            longest = full_piece_bytes(required);
        }
        required += 1;
    }
    assert!(longest == PIECE_BYTES_MAX);
};
// A put's last frame carries commitment and path.
const _: () = assert!((1 + PATH_HASHES_MAX) * 32 + FRAME_SLACK_BYTES <= NODE_FRAME_BYTES_MAX);

// Garbage collection.

/// Most pieces of one piece filter. A node with more gets several filters, by range of ids.
pub const FILTER_PIECES_MAX: usize = 1 << 20;
/// Longest piece filter: 208 bytes and 9 bits for each of [`FILTER_PIECES_MAX`] pieces, rounded up
/// to whole segments: 1,179,856.
pub const FILTER_BYTES_MAX: usize = 5 * MIB / 4;
/// Most filters of one node: a billion pieces.
pub const FILTER_PARTS_MAX: u32 = 1_024;
/// Most lost and most revived pieces that one check-in names.
pub const REPORTED_PIECES_MAX: usize = 1_024;

const _: () = assert!(FILTER_BYTES_MAX + FRAME_SLACK_BYTES <= SATELLITE_FRAME_BYTES_MAX);
const _: () = assert!(FILTER_PIECES_MAX + FILTER_PIECES_MAX / 8 + 208 <= FILTER_BYTES_MAX);
// Two lists of ids, with tag and length each, in one request.
const _: () =
    assert!(2 * REPORTED_PIECES_MAX * (32 + 2) + FRAME_SLACK_BYTES <= SATELLITE_FRAME_BYTES_MAX);

// Passphrases.

/// Fewest characters of a passphrase.
pub const PASSPHRASE_CHARS_MIN: usize = 8;
/// Fewest Argon2id passes.
pub const ARGON2_PASSES_MIN: u32 = 3;
/// Least Argon2id memory.
pub const ARGON2_MEMORY_KIB_MIN: u32 = 65_536;
/// Most Argon2id passes a reader of a foreign grant runs.
pub const ARGON2_PASSES_MAX: u32 = 64;
/// Most Argon2id memory a reader of a foreign grant fills: 4 GiB.
pub const ARGON2_MEMORY_KIB_MAX: u32 = 4 << 20;
/// Most Argon2id lanes.
pub const ARGON2_LANES_MAX: u32 = 64;

// Time.

/// To a connection, handshake included; then the peer counts as down.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A node waits so long for the first body byte after it admitted a put; then it frees the room.
pub const ADMISSION_TIMEOUT: Duration = Duration::from_secs(10);
/// A stream that gives no byte in either direction for so long is given up by whoever waits.
pub const STALL_TIMEOUT: Duration = Duration::from_secs(10);
/// One request to a satellite, answer included.
pub const SATELLITE_REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// One small request to a node (delete, ping), answer included.
pub const NODE_REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// From the end of a put's body to its receipt: a group commit on a slow disk under load.
pub const RECEIPT_TIMEOUT: Duration = Duration::from_secs(30);
/// The satellite's dial-back to a node that checks in, connection included.
pub const DIAL_BACK_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two check-ins of a node.
pub const CHECK_IN_INTERVAL: Duration = Duration::from_secs(60);
/// A node that has not checked in for so long is not selected.
pub const CHECK_IN_STALE_MS: u64 = 5 * MINUTE_MS;
/// From a limit's issue to its end. A slow client renews.
pub const LIMIT_LIFETIME_MS: u64 = HOUR_MS;
/// An upload that is not committed by then is dropped.
pub const UPLOAD_LIFETIME_MS: u64 = 24 * HOUR_MS;
/// Clocks this far apart still work together; a node further off is not selected.
pub const CLOCK_SKEW_MS: u64 = 10 * MINUTE_MS;

const _: () = assert!(CONNECT_TIMEOUT.as_millis() < DIAL_BACK_TIMEOUT.as_millis());
const _: () = assert!(DIAL_BACK_TIMEOUT.as_millis() < SATELLITE_REQUEST_TIMEOUT.as_millis());
const _: () = assert!(CHECK_IN_STALE_MS as u128 > 2 * CHECK_IN_INTERVAL.as_millis());
// Admission, a body at the slowest pace that is no stall, and the receipt lie well inside a limit,
// by clocks that differ.
const _: () = assert!(
    (ADMISSION_TIMEOUT.as_millis() + STALL_TIMEOUT.as_millis() + RECEIPT_TIMEOUT.as_millis())
        as u64
        + 2 * CLOCK_SKEW_MS
        < LIMIT_LIFETIME_MS
);
const _: () = assert!(LIMIT_LIFETIME_MS < UPLOAD_LIFETIME_MS);

// Retries.

/// Tries of one request to the satellite.
pub const SATELLITE_TRIES_MAX: u32 = 4;
/// Rounds in which failed pieces of one segment are given new nodes.
pub const REPLACE_ROUNDS_MAX: u32 = 8;
/// Tries to have a whole segment admitted, all pieces released in between.
pub const ADMISSION_TRIES_MAX: u32 = 12;
/// First pause before a retry; doubles, with jitter from the caller.
pub const BACKOFF_MIN: Duration = Duration::from_millis(50);
/// Longest pause before a retry.
pub const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// What a node advises when its write budget is full.
pub const BUSY_RETRY_AFTER_MS: u32 = 100;

const _: () = assert!(BACKOFF_MIN.as_millis() <= BUSY_RETRY_AFTER_MS as u128);
const _: () = assert!(BUSY_RETRY_AFTER_MS as u128 <= BACKOFF_MAX.as_millis());

// QUIC.

/// A connection without any packet for so long is gone.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// A quiet connection that is still wanted sends a packet so often: two may be lost.
pub const KEEP_ALIVE: Duration = Duration::from_secs(10);

const _: () = assert!(2 * KEEP_ALIVE.as_millis() < IDLE_TIMEOUT.as_millis());

/// What one stream may have in flight to a node.
pub const NODE_STREAM_WINDOW_BYTES: usize = 256 * KIB;
/// What one peer may have in flight to a node, over all its streams, once a long body was admitted:
/// 5 MB/s to each node at 50 ms, times the 80 nodes that an upload writes to.
pub const NODE_CONNECTION_WINDOW_BYTES: usize = 256 * KIB;
/// What it may have in flight before that.
pub const NODE_CONNECTION_WINDOW_FIRST_BYTES: usize = 64 * KIB;
/// What a node keeps for one peer until it is acknowledged, once a long answer was admitted: 7.5
/// MB/s to each node at 50 ms, times the 29 and more nodes that a download reads from.
pub const NODE_SEND_WINDOW_BYTES: usize = 384 * KIB;
/// What it keeps before that.
pub const NODE_SEND_WINDOW_FIRST_BYTES: usize = 16 * KIB;
/// Bodies so long get the larger windows.
pub const NODE_LONG_BODY_BYTES: u64 = 32 * KIB as u64;
/// What one peer can pin in a node outside admitted pieces, by neither sending on nor acknowledging.
pub const NODE_PINNED_BYTES_MAX: usize = 3 * MIB / 2;
/// What a stream that is kept out of order holds beside its bytes, until quinn-proto copies it
/// together: that, or one and a half times its bytes, whichever is more.
const STREAM_WASTE_BYTES_MAX: usize = 32 * KIB;
/// Requests of one peer at once at a node.
pub const NODE_STREAMS_MAX: u32 = 16;
/// Handshakes at once at a server; from then on a source address has to prove itself (Retry).
pub const HANDSHAKES_MAX: usize = 64;

const _: () = assert!(NODE_STREAM_WINDOW_BYTES <= NODE_CONNECTION_WINDOW_BYTES);
const _: () = assert!(NODE_CONNECTION_WINDOW_FIRST_BYTES <= NODE_CONNECTION_WINDOW_BYTES);
const _: () = assert!(
    NODE_CONNECTION_WINDOW_BYTES * 5 / 2
        + (NODE_STREAMS_MAX as usize - 1) * STREAM_WASTE_BYTES_MAX
        + NODE_SEND_WINDOW_BYTES
        <= NODE_PINNED_BYTES_MAX
);
const _: () = assert!(NODE_FRAME_BYTES_MAX + FRAME_PREFIX_BYTES <= NODE_STREAM_WINDOW_BYTES);

/// What one stream may have in flight to a client.
pub const CLIENT_STREAM_WINDOW_BYTES: usize = 2 * MIB;
/// What one server may have in flight to a client.
pub const CLIENT_CONNECTION_WINDOW_BYTES: usize = 4 * MIB;
/// What a client keeps for one server until it is acknowledged: no node takes more.
pub const CLIENT_SEND_WINDOW_BYTES: usize = NODE_CONNECTION_WINDOW_BYTES;

const _: () = assert!(CLIENT_STREAM_WINDOW_BYTES >= NODE_SEND_WINDOW_BYTES);
const _: () = assert!(CLIENT_STREAM_WINDOW_BYTES <= CLIENT_CONNECTION_WINDOW_BYTES);

/// What one stream may have in flight to a satellite: a whole frame.
pub const SATELLITE_STREAM_WINDOW_BYTES: usize = SATELLITE_FRAME_BYTES_MAX + 64 * KIB;
/// What one client may have in flight to a satellite.
pub const SATELLITE_CONNECTION_WINDOW_BYTES: usize = 8 * MIB;
/// What a satellite keeps for one client until it is acknowledged: a whole answer.
pub const SATELLITE_SEND_WINDOW_BYTES: usize = SATELLITE_FRAME_BYTES_MAX + 64 * KIB;
/// Requests of one client at once at a satellite.
pub const SATELLITE_STREAMS_MAX: u32 = 64;

const _: () =
    assert!(SATELLITE_FRAME_BYTES_MAX + FRAME_PREFIX_BYTES <= SATELLITE_STREAM_WINDOW_BYTES);
const _: () = assert!(SATELLITE_STREAM_WINDOW_BYTES <= SATELLITE_CONNECTION_WINDOW_BYTES);

/// One-way streams: nobody opens any.
pub const UNI_STREAMS_MAX: u32 = 0;

/// Datagrams before the path is known.
pub const DATAGRAM_BYTES_INITIAL: u16 = 1_200;
/// Datagrams at most, unless path MTU discovery is asked to find more: 1,500 - 40 of IPv6 - 8 of
/// UDP.
pub const DATAGRAM_BYTES_MAX: u16 = 1_452;
/// Datagrams at most where jumbo frames are asked for: 9,000, less headers and some for tunnels.
pub const DATAGRAM_BYTES_JUMBO: u16 = 8_900;
/// The longest UDP payload over IPv4: 65,535 - 20 - 8. One send or receive holds no more.
pub const UDP_PAYLOAD_BYTES_MAX: usize = 65_507;
/// Most datagrams the kernel splits from one send.
pub const TRAIN_DATAGRAMS_MAX: usize = 64;

/// How many datagrams of this length one send may hold: `min(64, 65,507 / datagram)`; more is
/// EMSGSIZE.
///
/// # Panics
///
/// If the length is 0.
pub const fn train_datagrams(datagram_bytes: usize) -> usize {
    let fit = UDP_PAYLOAD_BYTES_MAX / datagram_bytes;
    if fit < TRAIN_DATAGRAMS_MAX {
        fit
    } else {
        TRAIN_DATAGRAMS_MAX
    }
}

const _: () = assert!(DATAGRAM_BYTES_INITIAL <= DATAGRAM_BYTES_MAX);
const _: () = assert!(train_datagrams(DATAGRAM_BYTES_MAX as usize) == 45);
const _: () = assert!(train_datagrams(DATAGRAM_BYTES_INITIAL as usize) == 54);
const _: () = assert!(train_datagrams(1_000) == TRAIN_DATAGRAMS_MAX);

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::pb;

    fn scheme() -> pb::Scheme {
        pb::Scheme {
            required: 64,
            repair: 255,
            optimal: 255,
            total: 255,
        }
    }

    fn segment(inline_len: usize) -> pb::Segment {
        pb::Segment {
            position: u64::MAX,
            plain_len: u64::MAX,
            sealed_len: u64::MAX,
            salt: vec![1; 24],
            key_commitment: vec![1; 32],
            commitment: vec![1; 32],
            scheme: (inline_len == 0).then(scheme),
            inline_sealed: vec![1; inline_len],
            piece_count: if inline_len == 0 { 255 } else { 0 },
        }
    }

    fn object(segments: Vec<pb::Segment>) -> pb::Object {
        pb::Object {
            encrypted_key: vec![1; ENCRYPTED_KEY_BYTES_MAX],
            stream_id: vec![1; 16],
            sealed_header: vec![1; SEALED_HEADER_BYTES_MAX],
            plain_len: u64::MAX,
            piece_bytes: u64::MAX,
            segment_count: u32::MAX,
            created_ms: u64::MAX,
            expires_ms: u64::MAX,
            segments,
        }
    }

    #[test]
    fn the_largest_object_answer_fits_a_frame() {
        let one = object(vec![segment(0)]).encoded_len() - object(Vec::new()).encoded_len();
        assert!(one <= SEGMENT_MESSAGE_BYTES_MAX, "{one}");
        let mut segments = vec![segment(0); OBJECT_SEGMENTS_MAX - 1];
        segments.push(segment(INLINE_SEALED_BYTES_MAX));
        let answer = pb::satellite_response::Answer::Object(object(segments));
        let len = pb::SatelliteResponse {
            answer: Some(answer),
        }
        .encoded_len();
        assert!(len <= SATELLITE_FRAME_BYTES_MAX, "{len}");
    }

    #[test]
    fn the_entry_that_crosses_the_list_bound_still_fits_a_frame() {
        let list = |count| pb::ObjectList {
            entries: vec![
                pb::ListEntry {
                    object: Some(object(Vec::new())),
                    prefix: Vec::new()
                };
                count
            ],
            more: true,
        };
        let entry = list(1).encoded_len() - list(0).encoded_len();
        let answer = pb::satellite_response::Answer::ObjectList(list(0));
        let overhead = pb::SatelliteResponse {
            answer: Some(answer),
        }
        .encoded_len()
            + 8;
        assert!(
            LIST_BYTES_MAX + entry + overhead <= SATELLITE_FRAME_BYTES_MAX,
            "{entry}"
        );
    }

    #[test]
    fn the_largest_segment_answer_and_commit_fit_a_frame() {
        let limit = pb::PieceLimit {
            index: 255,
            node_id: vec![1; 32],
            address: "a".repeat(ADDRESS_BYTES_MAX),
            limit: vec![1; PERMIT_BYTES_MAX],
        };
        let limits = pb::PieceLimits {
            limits: vec![limit; 255],
            segment: Some(segment(0)),
        };
        assert!(limits.encoded_len() + 8 <= SATELLITE_FRAME_BYTES_MAX);
        let commit = pb::CommitSegment {
            stream_id: vec![1; 16],
            position: u64::MAX,
            plain_len: u64::MAX,
            sealed_len: u64::MAX,
            salt: vec![1; 24],
            key_commitment: vec![1; 32],
            commitment: vec![1; 32],
            receipts: vec![vec![1; PERMIT_BYTES_MAX]; 255],
        };
        let request = pb::SatelliteRequest {
            macaroon: vec![1; MACAROON_BYTES_MAX],
            verb: Some(pb::satellite_request::Verb::CommitSegment(commit)),
        };
        assert!(request.encoded_len() <= SATELLITE_FRAME_BYTES_MAX);
    }

    #[test]
    fn a_train_is_one_send() {
        for datagram in [1, 512, 1_023, 1_024, 1_200, 1_452, 8_900, 65_507] {
            let count = train_datagrams(datagram);
            assert!((1..=TRAIN_DATAGRAMS_MAX).contains(&count));
            assert!(count * datagram <= UDP_PAYLOAD_BYTES_MAX);
            assert!(count == TRAIN_DATAGRAMS_MAX || (count + 1) * datagram > UDP_PAYLOAD_BYTES_MAX);
        }
    }
}
