//! Records that say something of a piece: tombstones, trash and restore records; and the one way into the commit queue.

use crate::disk::Disk;
use crate::error::PutError;
use crate::header::ExpiryClass;
use crate::layout;
use crate::queue::{Item, Work};
use crate::record::Kind;
use crate::room::COMMIT_OVERHEAD_BYTES;
use crate::states::Known;
use crate::store::Store;
use crate::wait::{KeyGuard, Receiver, oneshot};

/// When a record is durable, or why it is not.
pub(crate) type Answer = Receiver<Result<(), PutError>>;

/// A record to be made durable.
pub(crate) struct Order {
    pub(crate) fingerprint: u64,
    pub(crate) satellite: [u8; 32],
    pub(crate) class: ExpiryClass,
    pub(crate) work: Work,
    pub(crate) replaced: Vec<Known>,
    pub(crate) guard: KeyGuard,
}

/// A record that says something of a piece.
pub(crate) struct Mark {
    pub(crate) kind: Kind,
    pub(crate) satellite: [u8; 32],
    pub(crate) id: [u8; 32],
    /// Satellite time.
    pub(crate) now_s: u32,
    /// The expiry class of the piece's blob.
    pub(crate) class: ExpiryClass,
    /// The piece's expiry.
    pub(crate) expiry_s: u32,
}

impl<D: Disk> Store<D> {
    /// Queues a record; the room for it is promised whether it is there or not.
    pub(crate) fn submit(&self, order: Order) -> Answer {
        let (done, answer) = oneshot();
        let mut item = Item {
            fingerprint: order.fingerprint,
            satellite: order.satellite,
            class: order.class,
            work: order.work,
            replaced: order.replaced,
            reserved_bytes: 0,
            done,
            guard: order.guard,
        };
        item.reserved_bytes = layout::round_to_step(item.record_len()) + COMMIT_OVERHEAD_BYTES;
        self.reserve_any(item.reserved_bytes);
        self.enqueue(item);
        answer
    }

    /// Queues a tombstone, a trash or a restore record.
    pub(crate) fn submit_mark(
        &self,
        fingerprint: u64,
        mark: &Mark,
        replaced: Vec<Known>,
        guard: KeyGuard,
    ) -> Answer {
        self.now_s.set(self.now_s.get().max(mark.now_s));
        self.submit(Order {
            fingerprint,
            satellite: mark.satellite,
            class: mark.class,
            work: Work::Mark {
                kind: mark.kind,
                id: mark.id,
                created_s: mark.now_s,
                expiry_s: mark.expiry_s,
            },
            replaced,
            guard,
        })
    }
}

/// What became of a queued record.
pub(crate) async fn settle(answer: Answer) -> Result<(), PutError> {
    answer.receive().await.unwrap_or(Err(PutError::Closed))
}

/// Waits for many.
pub(crate) async fn settle_all(answers: &mut Vec<Answer>) -> Result<(), PutError> {
    for answer in answers.drain(..) {
        settle(answer).await?;
    }
    Ok(())
}
