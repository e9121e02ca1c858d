//! A verb that drops what comes and sends what is wanted: what the way between network and verbs costs by itself.
//!
//! A request is the number of bytes wanted (u64, little-endian), then any bytes; the answer is how many those were, then the bytes wanted.

use bytes::Bytes;
use piecestore::stream::{RecvStream, Request, SendStream, StreamError};

/// Bytes handed to a stream at once: a node's read of a get.
const RUN_BYTES: usize = 256 << 10;

/// What is sent, over and over.
static BYTES: [u8; RUN_BYTES] = [0x5a; RUN_BYTES];

/// Answers one request. A peer that goes away is left alone.
pub(super) async fn answer<S: SendStream, R: RecvStream>(mut request: Request<S, R>) {
    let _ = try_answer(&mut request.send, &mut request.recv).await;
}

async fn try_answer<S: SendStream, R: RecvStream>(
    send: &mut S,
    recv: &mut R,
) -> Result<(), StreamError> {
    let mut wanted = read_u64(recv).await?;
    let mut count = 0;
    while let Some(bytes) = recv.chunk(usize::MAX).await? {
        count += bytes.len() as u64;
    }
    send.send(Bytes::copy_from_slice(&u64::to_le_bytes(count)))
        .await?;
    while wanted > 0 {
        let len = wanted.min(RUN_BYTES as u64);
        send.send(Bytes::from_static(&BYTES[..len as usize]))
            .await?;
        wanted -= len;
    }
    send.finish();
    Ok(())
}

/// Sends `bytes`, wants `wanted` back, and says whether both went as they should.
pub(super) async fn ask<S: SendStream, R: RecvStream>(
    send: &mut S,
    recv: &mut R,
    bytes: Bytes,
    wanted: u64,
) -> Result<bool, StreamError> {
    send.send(Bytes::copy_from_slice(&wanted.to_le_bytes()))
        .await?;
    let len = bytes.len() as u64;
    if len > 0 {
        send.send(bytes).await?;
    }
    send.finish();
    let taken = read_u64(recv).await?;
    let mut came = 0;
    while let Some(bytes) = recv.chunk(usize::MAX).await? {
        came += bytes.len() as u64;
    }
    Ok(taken == len && came == wanted)
}

async fn read_u64<R: RecvStream>(recv: &mut R) -> Result<u64, StreamError> {
    let mut bytes = [0; 8];
    let mut filled = 0;
    while filled < bytes.len() {
        let Some(chunk) = recv.chunk(bytes.len() - filled).await? else {
            return Err(StreamError::Closed);
        };
        bytes[filled..filled + chunk.len()].copy_from_slice(&chunk);
        filled += chunk.len();
    }
    Ok(u64::from_le_bytes(bytes))
}
