//! What can go wrong on a simulated disk, on demand.

use crate::disk::sim::{SimDisk, State};
use crate::disk::{DiskError, FileId};
use crate::layout::BLOCK_BYTES;

/// A kind of operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// [`Disk::list`](crate::Disk::list).
    List,
    /// [`Disk::create`](crate::Disk::create).
    Create,
    /// [`Disk::open`](crate::Disk::open).
    Open,
    /// [`Disk::read`](crate::Disk::read).
    Read,
    /// [`Disk::write`](crate::Disk::write).
    Write,
    /// [`Disk::sync`](crate::Disk::sync).
    Sync,
    /// [`Disk::remove`](crate::Disk::remove).
    Remove,
    /// [`Disk::named_len`](crate::Disk::named_len).
    Status,
}

/// All kinds, for [`Fault::ops`].
pub const ALL_OPS: &[Op] = &[
    Op::List,
    Op::Create,
    Op::Open,
    Op::Read,
    Op::Write,
    Op::Sync,
    Op::Remove,
    Op::Status,
];

/// How an operation fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// errno 5.
    Eio,
    /// ENOSPC.
    NoSpace,
    /// A write ends early (other operations: EIO).
    Short,
    /// EINTR: a signal came.
    Interrupted,
    /// ECANCELED: the ring was torn down, or a link before it failed.
    Cancelled,
    /// A read or write succeeds, at another place of the file (other operations succeed).
    Misdirected,
}

impl Failure {
    pub(super) fn error(self, written: u64, wanted: u64) -> DiskError {
        match self {
            Self::Short if wanted > 0 => DiskError::ShortWrite { written, wanted },
            Self::Eio | Self::Short | Self::Misdirected => DiskError::Io { errno: 5 },
            Self::NoSpace => DiskError::NoSpace,
            Self::Interrupted => DiskError::Io { errno: 4 },
            Self::Cancelled => DiskError::Io { errno: 125 },
        }
    }
}

/// An error to come.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// Which kinds count.
    pub ops: &'static [Op],
    /// Which one of these from now fails; the next is 1.
    pub nth: u64,
    /// How.
    pub failure: Failure,
    /// Whether all later ones fail as well.
    pub is_sticky: bool,
}

/// Bytes that are not what the store wrote there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Harm {
    /// The file.
    pub file: FileId,
    /// Where they begin.
    pub offset: u64,
    /// How many.
    pub len: u64,
}

impl SimDisk {
    /// What misdirected writes have hit since the last call: where they went, and where they should have gone.
    #[must_use]
    pub fn take_harms(&self) -> Vec<Harm> {
        std::mem::take(&mut self.state.borrow_mut().harms)
    }

    /// What the store wrote to a file, had every write since the disk was made gone where it should.
    #[must_use]
    pub fn meant(&self, id: impl Into<FileId>) -> Option<Vec<u8>> {
        let state = self.state.borrow();
        state.files.get(&id.into()).map(|file| file.meant.to_vec())
    }

    /// Bytes of all blobs, as reads see them.
    #[must_use]
    pub fn blob_bytes(&self) -> u64 {
        let state = self.state.borrow();
        let named = state.files.iter().filter(|(_, file)| file.has_name());
        let blobs = named.filter(|(id, _)| matches!(id, FileId::Blob(_)));
        blobs.map(|(_, file)| file.cached.len() as u64).sum()
    }

    /// Operations that an injected error has met.
    #[must_use]
    pub fn fired(&self) -> u64 {
        self.state.borrow().fired
    }

    /// Another block of the file than the one at this offset, if it has one.
    pub(super) fn another_block(&self, id: FileId, offset: u64) -> u64 {
        let state = &mut *self.state.borrow_mut();
        state.another_block(id, offset)
    }

    /// Where a write goes that goes astray.
    pub(super) fn misdirect(&self, id: FileId, offset: u64, len: usize) -> u64 {
        let state = &mut *self.state.borrow_mut();
        let target = state.another_block(id, offset);
        for offset in [offset, target] {
            state.harms.push(Harm {
                file: id,
                offset,
                len: len as u64,
            });
        }
        target
    }
}

impl State {
    fn another_block(&mut self, id: FileId, offset: u64) -> u64 {
        let blocks = self
            .files
            .get(&id)
            .map_or(0, |file| file.cached.len() / BLOCK_BYTES) as u64;
        let other = self.random.below(blocks) * BLOCK_BYTES as u64;
        if other == offset {
            offset + BLOCK_BYTES as u64
        } else {
            other
        }
    }
}
