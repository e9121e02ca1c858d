//! Strand's client: stores files encrypted and erasure-coded at nodes that nobody has to trust, and
//! fetches them back.
//!
//! The library behind the `uplink` command. A [`Session`] is a grant at work: one connection to the
//! satellite, one to each node, an ephemeral identity. On it: [`upload()`], [`download()`], and the
//! functions of [`listing`].
//!
//! - [`access`]: saved grants.
//! - [`session`], [`pool`]: connections.
//! - [`location`]: `st://bucket/key` and its encrypted form.
//! - [`mod@upload`], [`mod@download`]: transfers; what they decide is in [`upload::plan`] and
//!   [`download::hedge`], without I/O.
//! - [`listing`]: buckets and objects.
//! - [`error`]: one enum per operation, and exit codes.
//! - [`cli_main`]: the command itself.
//!
//! **Invariant:** no plaintext, name or key leaves this process but sealed. **Invariant:** no byte
//! is handed on that was not checked against the object's sealed header. **Invariant:** nothing
//! panics on what a peer sends.

#![deny(unsafe_code)]

pub mod access;
mod buffers;
pub mod cancel;
mod cli;
pub mod download;
pub mod error;
pub mod limits;
pub mod listing;
pub mod location;
pub mod pool;
pub mod progress;
pub mod session;
pub mod upload;

pub use access::{AccessStore, create_grant, parse_grant, parse_invitation};
pub use cancel::{Cancel, Canceller, cancel_pair};
pub use cli::cli_main;
pub use download::{ByteRange, DownloadOptions, DownloadReport, Output, download};
pub use error::Exit;
pub use location::Place;
pub use progress::{Progress, Quiet};
pub use session::Session;
pub use upload::{Input, UploadOptions, UploadReport, upload};
