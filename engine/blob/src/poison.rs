//! The end of writing: a failed sync, or a write that failed with more than a lack of space, is final.
//!
//! After a failed sync nobody knows which pages the kernel still holds, and asking again may say "fine" about lost
//! ones. So the blob is closed for good and the store read-only until it is opened again and reads back what is really there. No
//! sync is ever repeated.

use std::cell::Cell;

use crate::disk::{DiskError, FailedWrite};
use crate::layout::BlobId;

/// What went wrong first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoisonCause {
    /// The blob that was being created, written or synced.
    pub blob: BlobId,
    /// Which of these.
    pub operation: WriteOperation,
    /// The disk's answer.
    pub error: DiskError,
}

/// An operation whose failure poisons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteOperation {
    /// Making a blob file.
    Create,
    /// Writing a group or a blob header.
    Write,
    /// Making it durable.
    Sync,
    /// Removing a blob file.
    Remove,
}

impl WriteOperation {
    /// Names the step that failed.
    pub(crate) fn check(self, result: Result<(), DiskError>) -> Result<(), FailedWrite> {
        result.map_err(|error| FailedWrite {
            operation: self,
            error,
        })
    }
}

/// The first cause, kept until the store is dropped.
#[derive(Debug, Default)]
pub(crate) struct Poison {
    cause: Cell<Option<PoisonCause>>,
}

impl Poison {
    pub(crate) fn set(&self, blob: BlobId, operation: WriteOperation, error: DiskError) {
        if self.cause.get().is_none() {
            self.cause.set(Some(PoisonCause {
                blob,
                operation,
                error,
            }));
        }
    }

    pub(crate) fn cause(&self) -> Option<PoisonCause> {
        self.cause.get()
    }
}
