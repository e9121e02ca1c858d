//! A log-structured store of pieces, pure over a [`Disk`](disk::Disk).
//!
//! Pieces are appended to blobs in commit groups and acked after the sync that covers them; the index is a cache,
//! rebuilt from the blobs. The store is single-threaded, brings no runtime, and takes time and randomness
//! as arguments. Its bytes are decided by docs/format.md section 6.
#![deny(unsafe_code, missing_docs)]

pub mod buffer;
mod counters;
pub mod disk;
mod error;
mod index;
pub mod layout;
mod piece;
mod recover;
mod space;
mod store;

pub use buffer::IoBuffer;
pub use counters::StoreCounters;
pub use disk::{Disk, DiskError};
pub use error::{BadPiece, Damage, GetError, OpenError, PutError};
pub use layout::BlobId;
pub use piece::{NewPiece, Piece, Stored};
pub use recover::{Recovery, Rot};
pub use space::Space;
pub use store::{Store, StoreOptions};
