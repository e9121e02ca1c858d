//! A log-structured store of pieces, pure over a [`Disk`](disk::Disk).
//!
//! Pieces are appended to blobs in commit groups and acked after the sync that covers them; the index is a cache,
//! rebuilt from the blobs. The store is single-threaded, brings no runtime, and takes time and randomness
//! as arguments. Its bytes are decided by docs/format.md section 6.
#![deny(unsafe_code, missing_docs)]

mod blobs;
pub mod buffer;
mod bug;
mod bytes_at;
mod check;
mod commit;
mod counters;
pub mod disk;
mod error;
mod group;
mod header;
mod index;
pub mod inspect;
pub mod layout;
mod piece;
mod poison;
mod read;
mod record;
mod recover;
mod scan;
mod space;
mod store;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod wait;

pub use buffer::IoBuffer;
pub use counters::StoreCounters;
pub use disk::{Disk, DiskError};
pub use error::{BadPiece, Damage, GetError, OpenError, PutError};
pub use layout::BlobId;
pub use piece::{NewPiece, Piece, Stored};
pub use poison::{PoisonCause, WriteOperation};
pub use recover::{Recovery, Rot};
pub use space::Space;
pub use store::{Store, StoreOptions};
