//! The pieces of one segment while they are made: coded and hashed once, read by all sends.
//!
//! One blocking thread goes through the stripes in order; every send waits for the stripe it needs
//! next and takes its share as a slice. Data shares are slices of the sealed segment, recovery
//! shares of one buffer a stripe; nothing is copied. Recovery buffers go back to a store when the
//! last send has let go of them: a full segment needs 148 MB of them, and fresh memory costs page
//! faults each time.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;
use strand_codec::{Hash, SegmentTree, Shape, StripeCoder};
use tokio::sync::watch;

use crate::buffers::BufferStore;
use crate::limits::SEND_STRIPES;

/// One segment's shares, as they become ready.
pub(super) struct Stripes {
    shape: Shape,
    padded: Bytes,
    /// `None` until it is made, and again once only data pieces are wanted.
    recovery: Vec<Mutex<Option<Bytes>>>,
    ready: watch::Sender<Ready>,
    tree: OnceLock<SegmentTree>,
    is_cancelled: AtomicBool,
    /// Body bytes that nodes' streams have taken.
    pub(super) sent_bytes: AtomicU64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ready {
    stripe_count: u32,
    is_whole: bool,
}

impl Stripes {
    pub(super) fn new(shape: Shape, padded: Bytes) -> Arc<Self> {
        let recovery = (0..shape.share_count()).map(|_| Mutex::default()).collect();
        Arc::new(Self {
            shape,
            padded,
            recovery,
            ready: watch::Sender::new(Ready {
                stripe_count: 0,
                is_whole: false,
            }),
            tree: OnceLock::new(),
            is_cancelled: AtomicBool::new(false),
            sent_bytes: AtomicU64::new(0),
        })
    }

    pub(super) fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Codes and hashes everything. Blocking; ends early after [`Self::cancel`].
    pub(super) fn produce(&self, store: &Arc<BufferStore>) -> Result<(), String> {
        let mut coder = StripeCoder::new(&self.shape).map_err(|error| error.to_string())?;
        for stripe in 0..self.shape.share_count() {
            if self.is_cancelled.load(Ordering::Relaxed) {
                return Ok(());
            }
            let data = &self.padded[self.stripe_bytes(stripe)];
            let mut lent = store.lend(StripeCoder::recovery_len(&self.shape, stripe));
            while coder.stripe() == stripe {
                coder
                    .step(data, &mut lent)
                    .map_err(|error| error.to_string())?;
            }
            *self.recovery_of(stripe) = Some(Bytes::from_owner(lent));
            let stripe_count = stripe + 1;
            let is_last = stripe_count == self.shape.share_count();
            if stripe_count.is_multiple_of(SEND_STRIPES) || is_last {
                self.ready.send_replace(Ready {
                    stripe_count,
                    is_whole: false,
                });
            }
        }
        let roots: Vec<Hash> = coder.finish().iter().map(|tree| tree.root).collect();
        let tree = SegmentTree::new(&self.shape, &roots).map_err(|error| error.to_string())?;
        let _ = self.tree.set(tree);
        self.ready.send_modify(|ready| ready.is_whole = true);
        Ok(())
    }

    /// Stops the producer at its next stripe.
    pub(super) fn cancel(&self) {
        self.is_cancelled.store(true, Ordering::Relaxed);
    }

    /// Lets the recovery shares go: from now on only data pieces can be sent.
    pub(super) fn drop_recovery(&self) {
        for stripe in 0..self.shape.share_count() {
            *self.recovery_of(stripe) = None;
        }
    }

    /// How many stripes are made, as soon as those are more than `stripe_count`; `None` if never.
    pub(super) async fn more_than(&self, stripe_count: u32) -> Option<u32> {
        let mut ready = self.ready.subscribe();
        let is_more = |ready: &Ready| ready.stripe_count > stripe_count;
        Some(ready.wait_for(is_more).await.ok()?.stripe_count)
    }

    /// The share of a piece in a stripe that is made; `None` once recovery shares were let go.
    pub(super) fn share(&self, stripe: u32, index: u8) -> Option<Bytes> {
        if index < self.shape.required() {
            return Some(self.data_share(stripe, index));
        }
        let recovery = self.recovery_of(stripe).clone()?;
        Some(recovery.slice(StripeCoder::recovery_range(&self.shape, stripe, index)))
    }

    /// The segment's tree, as soon as all pieces are made.
    pub(super) async fn tree(&self) -> Option<&SegmentTree> {
        let mut ready = self.ready.subscribe();
        ready.wait_for(|ready| ready.is_whole).await.ok()?;
        self.tree.get()
    }

    fn recovery_of(&self, stripe: u32) -> MutexGuard<'_, Option<Bytes>> {
        self.recovery[stripe as usize]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the data shares of a stripe lie in the sealed segment.
    fn stripe_bytes(&self, stripe: u32) -> Range<usize> {
        // Stripe j begins at k times the offset that its share has in a piece: shares before it
        // have the same lengths in all pieces.
        let required = usize::from(self.shape.required());
        let start = self.shape.share_offset(stripe) as usize * required;
        start..start + self.shape.share_len(stripe) * required
    }

    fn data_share(&self, stripe: u32, index: u8) -> Bytes {
        let share_len = self.shape.share_len(stripe);
        let start = self.stripe_bytes(stripe).start + usize::from(index) * share_len;
        self.padded.slice(start..start + share_len)
    }
}

#[cfg(test)]
mod tests {
    use strand_codec::{RowPlan, commitment_of_path, root_of_share_hashes, share_hash};

    use super::*;

    async fn collect(stripes: &Stripes, index: u8) -> Vec<u8> {
        let mut piece = Vec::new();
        for stripe in 0..stripes.shape().share_count() {
            stripes.more_than(stripe).await.unwrap();
            piece.extend_from_slice(&stripes.share(stripe, index).unwrap());
        }
        piece
    }

    #[tokio::test]
    async fn pieces_fit_their_commitment_and_any_k_restore_the_data() {
        let sealed_len = strand_codec::sealed_len(300_000);
        let shape = Shape::new(4, 10, sealed_len).unwrap();
        let mut padded: Vec<u8> = (0..sealed_len).map(|at| (at % 251) as u8).collect();
        padded.resize(shape.piece_len() as usize * 4, 0);
        let stripes = Stripes::new(shape, Bytes::from(padded));
        let producer = {
            let stripes = stripes.clone();
            tokio::task::spawn_blocking(move || stripes.produce(&Arc::default()))
        };
        let mut pieces = Vec::new();
        for index in 0..10 {
            pieces.push(collect(&stripes, index).await);
        }
        producer.await.unwrap().unwrap();
        let tree = stripes.tree().await.unwrap();
        for (index, piece) in (0u8..).zip(&pieces) {
            assert_eq!(piece.len() as u64, shape.piece_len());
            let hashes: Vec<Hash> = (0..shape.share_count())
                .map(|share| {
                    let start = shape.share_offset(share) as usize;
                    share_hash(
                        shape.piece_len(),
                        share,
                        &piece[start..start + shape.share_len(share)],
                    )
                })
                .collect();
            let root = root_of_share_hashes(shape.piece_len(), &hashes).unwrap();
            assert_eq!(
                commitment_of_path(&shape, index, &root, &tree.path(index)),
                Ok(tree.commitment())
            );
        }
        let present = [1, 4, 7, 9];
        let plan = RowPlan::new(4, 10, &present, &[0, 2, 3]).unwrap();
        let mut rows = vec![vec![0; shape.piece_len() as usize]; 3];
        let sources: Vec<&[u8]> = present
            .iter()
            .map(|index| &pieces[usize::from(*index)][..])
            .collect();
        let mut targets: Vec<&mut [u8]> = rows.iter_mut().map(|row| &mut row[..]).collect();
        plan.apply(&sources, &mut targets).unwrap();
        assert!(rows[0] == pieces[0] && rows[1] == pieces[2] && rows[2] == pieces[3]);
    }

    #[test]
    fn recovery_buffers_are_used_again() {
        let store = Arc::new(BufferStore::default());
        let shape = Shape::new(2, 4, strand_codec::sealed_len(200_000)).unwrap();
        let padded = Bytes::from(vec![1; shape.piece_len() as usize * 2]);
        for _ in 0..3 {
            let stripes = Stripes::new(shape, padded.clone());
            stripes.produce(&store).unwrap();
            assert_eq!(store.free_count(), 0);
            stripes.drop_recovery();
            assert_eq!(store.free_count(), shape.share_count() as usize);
        }
    }
}
