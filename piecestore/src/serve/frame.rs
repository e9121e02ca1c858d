//! Frames over a stream: `u32 length, little-endian || protobuf message` (docs/wire.md section 2).

use bytes::{Bytes, BytesMut};
use strand_protocol::frame;

use crate::stream::{RecvStream, SendStream, StreamError};

/// Why a frame could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The stream gave nothing more for a reason of its own.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// The stream ended before the frame did.
    #[error("the stream ended inside a frame: {read} bytes < {wanted}")]
    Ended {
        /// Bytes of prefix or message that came.
        read: usize,
        /// Bytes that it announced.
        wanted: usize,
    },
    /// Too long, or not the message it should be.
    #[error(transparent)]
    Frame(#[from] frame::FrameError),
}

/// Reads one frame and not a byte more.
pub async fn read_frame<M, R>(recv: &mut R, bytes_max: usize) -> Result<M, FrameError>
where
    M: prost::Message + Default,
    R: RecvStream,
{
    let prefix = read_exact(recv, 4).await?;
    let mut prefix_bytes = [0; 4];
    prefix_bytes.copy_from_slice(&prefix);
    let length = frame::frame_len(prefix_bytes, bytes_max)?;
    let message = read_exact(recv, length).await?;
    Ok(frame::decode_frame(&message)?)
}

/// Sends one frame.
pub async fn send_frame<M, S>(send: &mut S, message: &M) -> Result<(), StreamError>
where
    M: prost::Message,
    S: SendStream,
{
    send.send(Bytes::from(frame::encode_frame(message))).await
}

async fn read_exact<R: RecvStream>(recv: &mut R, length: usize) -> Result<Bytes, FrameError> {
    if length == 0 {
        return Ok(Bytes::new());
    }
    let ended = |read| FrameError::Ended {
        read,
        wanted: length,
    };
    let first = recv.chunk(length).await?.ok_or_else(|| ended(0))?;
    if first.len() == length {
        return Ok(first);
    }
    // Grown by what arrives, not by what was announced.
    let mut bytes = BytesMut::from(&first[..]);
    while bytes.len() < length {
        let chunk = recv
            .chunk(length - bytes.len())
            .await?
            .ok_or_else(|| ended(bytes.len()))?;
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes.freeze())
}
