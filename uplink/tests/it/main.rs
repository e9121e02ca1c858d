//! The client against a network in this process, with nodes that fail in every way a client must
//! survive.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod commands;
mod faults;
mod network;
mod node;
mod transfers;

use std::io::Write;
use std::sync::{Arc, Mutex};

use network::Network;
use strand_protocol::{Grant, KdfParams, Scheme};
use uplink::{
    ByteRange, Cancel, DownloadOptions, DownloadReport, Input, Output, Place, Quiet, Session,
    UploadOptions, UploadReport, download, upload,
};

/// Segments of 16 MiB, and ten nodes do.
const SMALL: Scheme = Scheme {
    required: 4,
    repair: 6,
    optimal: 8,
    total: 10,
};

const PASSPHRASE: &str = "a shore of sand, a thread of strand";

/// A session with the first grant, made without asking the satellite.
fn session(network: &Network) -> Arc<Session> {
    let grant =
        Grant::from_invitation(&network.invitation(), PASSPHRASE, KdfParams::default()).unwrap();
    Session::open(grant).unwrap()
}

async fn session_with_bucket(network: &Network) -> Arc<Session> {
    let session = session(network);
    let names = strand_protocol::path::Names::Sealed;
    uplink::listing::create_bucket(&session, "beach", names)
        .await
        .unwrap();
    session
}

fn place(key: &str) -> Place {
    format!("st://beach/{key}").parse().unwrap()
}

/// Bytes in which no two places look alike.
fn content(len: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64 ^ len as u64;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        // SplitMix64.
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut word = state;
        word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        bytes.extend_from_slice(&(word ^ (word >> 31)).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

async fn put(
    session: &Arc<Session>,
    key: &str,
    bytes: &[u8],
) -> Result<UploadReport, uplink::error::UploadError> {
    let input = Input::reader(
        Box::new(std::io::Cursor::new(bytes.to_vec())),
        None,
        "the test",
    );
    upload(
        session,
        &place(key),
        input,
        UploadOptions::default(),
        Arc::new(Quiet),
        Cancel::never(),
    )
    .await
}

/// Where a download goes: bytes that can still be read when the writer is gone.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

async fn get_range(
    session: &Arc<Session>,
    key: &str,
    range: Option<ByteRange>,
) -> Result<(Vec<u8>, DownloadReport), uplink::error::DownloadError> {
    let target = Shared::default();
    let output = Output::Writer(Box::new(target.clone()), "the test".to_owned());
    let options = DownloadOptions {
        range,
        ..DownloadOptions::default()
    };
    let report = download(
        session,
        &place(key),
        output,
        options,
        Arc::new(Quiet),
        Cancel::never(),
    )
    .await?;
    let bytes = std::mem::take(&mut *target.0.lock().unwrap());
    assert_eq!(report.bytes, bytes.len() as u64);
    Ok((bytes, report))
}

async fn get(
    session: &Arc<Session>,
    key: &str,
) -> Result<(Vec<u8>, DownloadReport), uplink::error::DownloadError> {
    get_range(session, key, None).await
}
