//! Frames: `u32 length, little-endian || protobuf message` (docs/wire.md, section 2).
//!
//! Cuts and joins bytes; reading them from a stream is the caller's. The maximum is an argument
//! because it differs by server: [`NODE_FRAME_BYTES_MAX`](crate::limits::NODE_FRAME_BYTES_MAX) and
//! [`SATELLITE_FRAME_BYTES_MAX`](crate::limits::SATELLITE_FRAME_BYTES_MAX). A caller must not
//! allocate the announced length before [`frame_len`] has accepted it.

use prost::Message;

use crate::limits::FRAME_PREFIX_BYTES;

/// Why bytes are not a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// Longer than the receiver takes.
    #[error("frame of {len} bytes > {max}")]
    TooLarge {
        /// Bytes announced.
        len: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// Not the message that was expected here.
    #[error("frame does not parse as the expected message")]
    Malformed,
}

/// The message as a frame, prefix included.
///
/// # Panics
///
/// If the message takes 4 GiB or more.
pub fn encode_frame<M: Message>(message: &M) -> Vec<u8> {
    let len = message.encoded_len();
    let prefix =
        u32::try_from(len).unwrap_or_else(|_| panic!("a frame of {len} bytes has no prefix"));
    let mut frame = Vec::with_capacity(FRAME_PREFIX_BYTES + len);
    frame.extend_from_slice(&prefix.to_le_bytes());
    message.encode_raw(&mut frame);
    frame
}

/// The message as a frame of at most `max` bytes after the prefix.
///
/// # Errors
///
/// [`FrameError::TooLarge`]: the peer would refuse it.
pub fn encode_frame_within<M: Message>(message: &M, max: usize) -> Result<Vec<u8>, FrameError> {
    let len = message.encoded_len();
    if len > max {
        return Err(FrameError::TooLarge { len, max });
    }
    Ok(encode_frame(message))
}

/// How many bytes follow this prefix.
///
/// # Errors
///
/// [`FrameError::TooLarge`] over `max`.
pub fn frame_len(prefix: [u8; FRAME_PREFIX_BYTES], max: usize) -> Result<usize, FrameError> {
    let len = usize::try_from(u32::from_le_bytes(prefix)).unwrap_or(usize::MAX);
    if len <= max {
        Ok(len)
    } else {
        Err(FrameError::TooLarge { len, max })
    }
}

/// The message in the bytes after the prefix.
///
/// # Errors
///
/// [`FrameError::Malformed`].
pub fn decode_frame<M: Message + Default>(bytes: &[u8]) -> Result<M, FrameError> {
    M::decode(bytes).map_err(|_| FrameError::Malformed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::limits::{NODE_FRAME_BYTES_MAX, SATELLITE_FRAME_BYTES_MAX};
    use crate::pb;

    fn request(limit_len: usize) -> pb::NodeRequest {
        let put = pb::PutRequest {
            limit: vec![7; limit_len],
        };
        pb::NodeRequest {
            verb: Some(pb::node_request::Verb::Put(put)),
        }
    }

    #[test]
    fn a_frame_comes_back() {
        let frame = encode_frame(&request(5));
        // Tag and length of the verb, tag and length of the limit, five bytes.
        assert_eq!(frame, [9, 0, 0, 0, 0x0a, 7, 0x0a, 5, 7, 7, 7, 7, 7]);
        let (prefix, body) = frame.split_first_chunk().unwrap();
        assert_eq!(frame_len(*prefix, NODE_FRAME_BYTES_MAX), Ok(body.len()));
        assert_eq!(decode_frame(body), Ok(request(5)));
        assert_eq!(
            decode_frame::<pb::NodeRequest>(&[]),
            Ok(pb::NodeRequest { verb: None })
        );
    }

    #[test]
    fn the_maximum_is_exact() {
        let max = NODE_FRAME_BYTES_MAX;
        let prefix = u32::try_from(max).unwrap();
        assert_eq!(frame_len(prefix.to_le_bytes(), max), Ok(max));
        assert_eq!(
            frame_len((prefix + 1).to_le_bytes(), max),
            Err(FrameError::TooLarge { len: max + 1, max })
        );
        assert!(frame_len([0xff; 4], SATELLITE_FRAME_BYTES_MAX).is_err());
        let overhead = request(max - 8).encoded_len() - (max - 8);
        assert!(encode_frame_within(&request(max - overhead), max).is_ok());
        assert_eq!(
            encode_frame_within(&request(max - overhead + 1), max),
            Err(FrameError::TooLarge { len: max + 1, max })
        );
    }

    proptest! {
        #[test]
        fn foreign_bytes_never_panic(bytes: Vec<u8>) {
            let _ = decode_frame::<pb::NodeRequest>(&bytes);
            let _ = decode_frame::<pb::SatelliteRequest>(&bytes);
            let _ = decode_frame::<pb::SatelliteResponse>(&bytes);
        }
    }
}
