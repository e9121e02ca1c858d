//! The store: what a node calls.

use std::marker::PhantomData;
use std::ops::Range;
use std::rc::Rc;

use bytes::Bytes;

use crate::counters::StoreCounters;
use crate::disk::Disk;
use crate::error::{GetError, OpenError, PutError};
use crate::piece::{NewPiece, Piece, Stored};
use crate::recover::Recovery;
use crate::space::Space;

/// How a store behaves. Nothing of it is on disk.
#[derive(Clone, Copy, Debug)]
pub struct StoreOptions {
    /// Whose directory this is.
    pub node_id: [u8; 32],
    /// Most bytes that the blob files may take together.
    pub capacity_bytes: u64,
    /// A blob that would grow beyond this is closed and another one begun.
    pub blob_bytes_max: u64,
    /// A commit group takes no further record once it is this long.
    pub group_bytes_max: usize,
}

impl StoreOptions {
    /// Blobs of 1 GiB, groups of 8 MiB.
    #[must_use]
    pub fn new(node_id: [u8; 32], capacity_bytes: u64) -> Self {
        Self { node_id, capacity_bytes, blob_bytes_max: 1 << 30, group_bytes_max: 8 << 20 }
    }
}

/// One node's pieces on one disk.
#[derive(Debug)]
pub struct Store<D: Disk> {
    disk: PhantomData<D>,
}

impl<D: Disk> Store<D> {
    /// Opens the directory: rebuilds the index from the blobs.
    ///
    /// # Errors
    ///
    /// If the disk cannot be read, or a blob is another node's or a newer release's.
    #[expect(clippy::unused_async, reason = "signature first")]
    pub async fn open(
        _disk: D,
        _options: StoreOptions,
        _now_s: u32,
        _random: &mut dyn FnMut(&mut [u8]),
    ) -> Result<(Rc<Self>, Recovery), OpenError> {
        todo!()
    }

    /// Runs group commits until [`close`](Self::close); the owner spawns it once on its executor.
    pub async fn run_commits(self: Rc<Self>) {
        todo!()
    }

    /// Finishes what is queued, attests the last groups, and ends [`run_commits`](Self::run_commits).
    pub async fn close(&self) {
        todo!()
    }

    /// Whether a piece of this body length would be taken now.
    pub fn has_room(&self, _body_len: u64) -> bool {
        todo!()
    }

    /// Whether a failed write or sync made the store read-only.
    pub fn is_read_only(&self) -> bool {
        todo!()
    }

    /// Stores a piece; returns once it is durable.
    ///
    /// # Errors
    ///
    /// See [`PutError`].
    pub async fn put(&self, _piece: NewPiece) -> Result<Stored, PutError> {
        todo!()
    }

    /// Finds a piece: reads and verifies header and trailer.
    ///
    /// # Errors
    ///
    /// See [`GetError`].
    pub async fn piece(&self, _satellite: &[u8; 32], _id: &[u8; 32]) -> Result<Piece, GetError> {
        todo!()
    }

    /// Reads shares of a piece, the CRC of each one checked.
    ///
    /// # Errors
    ///
    /// See [`GetError`].
    pub async fn read_shares(&self, _piece: &Piece, _shares: Range<u32>) -> Result<Bytes, GetError> {
        todo!()
    }

    /// Removes a piece; returns once that is durable. False: there was none.
    ///
    /// # Errors
    ///
    /// See [`PutError`].
    pub async fn delete(&self, _satellite: &[u8; 32], _id: &[u8; 32], _now_s: u32) -> Result<bool, PutError> {
        todo!()
    }

    /// Where the bytes went.
    pub fn space(&self) -> Space {
        todo!()
    }

    /// What was done since the store was opened.
    pub fn counters(&self) -> StoreCounters {
        todo!()
    }
}
