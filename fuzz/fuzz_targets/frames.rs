//! Frames as a node and a satellite receive them: a hostile prefix never drives an allocation, no message panics.
#![no_main]

use libfuzzer_sys::fuzz_target;
use strand_protocol::limits::NODE_FRAME_BYTES_MAX;
use strand_protocol::{decode_frame, frame_len, pb};

fuzz_target!(|bytes: &[u8]| {
    let Some((prefix, rest)) = bytes.split_first_chunk::<4>() else {
        return;
    };
    if let Ok(len) = frame_len(*prefix, NODE_FRAME_BYTES_MAX) {
        assert!(len <= NODE_FRAME_BYTES_MAX);
    }
    let _ = decode_frame::<pb::NodeRequest>(rest);
    let _ = decode_frame::<pb::NodeResponse>(rest);
    let _ = decode_frame::<pb::SatelliteRequest>(rest);
    let _ = decode_frame::<pb::SatelliteResponse>(rest);
});
