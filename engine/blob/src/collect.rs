//! Collecting garbage: pieces that their satellite no longer wants go into the trash.
//!
//! A filter says which pieces are wanted. One that would trash much is more likely wrong than right, so the pieces are counted first and
//! too many are refused, with nothing changed and no way around. What is trashed can be read and restored for 7 days.

use crate::disk::{Disk, DiskError};
use crate::error::PutError;
use crate::layout;
use crate::pieces::Found;
use crate::record::Kind;
use crate::room::{COMMIT_OVERHEAD_BYTES, Spare};
use crate::states::{self, State};
use crate::store::Store;

/// Most pieces that one filter may trash, in percent of the live pieces in its range.
const TRASH_PERCENT_MAX: u64 = 3;

/// So many may be trashed however few pieces there are.
const TRASH_FLOOR: u64 = 100;

/// Which pieces a satellite still wants.
pub trait Wanted {
    /// Whether the piece is wanted. May be wrong about one that is not, never about one that is.
    fn contains(&self, piece_id: &[u8; 32]) -> bool;
}

/// A filter, and what it is about.
#[derive(Clone, Copy)]
pub struct CollectRequest<'a> {
    /// Node id of the satellite.
    pub satellite: [u8; 32],
    /// First piece id of the range.
    pub first_id: [u8; 32],
    /// Last piece id of the range, which is part of it.
    pub last_id: [u8; 32],
    /// When the satellite looked, seconds since 1970: pieces whose limits were issued then or later are left alone.
    pub snapshot_s: u32,
    /// The filter.
    pub wanted: &'a dyn Wanted,
    /// Satellite time, seconds since 1970: from when on the 7 days count.
    pub now_s: u32,
}

/// What was collected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Collection {
    /// Live pieces of the satellite in the range.
    pub examined: u64,
    /// Those of them that stay.
    pub kept: u64,
    /// Those that went into the trash.
    pub trashed: u64,
    /// Their bodies.
    pub trashed_bytes: u64,
}

/// Why pieces were not collected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CollectError {
    /// The filter would trash too much; nothing was changed. The satellite should hear of it.
    #[error(
        "the filter would trash {would_trash} of {of} pieces, more than 100 and more than 3 in 100"
    )]
    Refused {
        /// Pieces that it would trash.
        would_trash: u64,
        /// Live pieces in its range.
        of: u64,
    },
    /// A trash record could not be stored. What was trashed before stays so; calling again goes on.
    #[error(transparent)]
    Put(#[from] PutError),
    /// The disk.
    #[error("disk: {0}")]
    Disk(#[from] DiskError),
}

impl<D: Disk> Store<D> {
    /// Trashes the pieces that a filter does not contain; returns once that is durable.
    ///
    /// Walks over the names of all pieces twice, first only to count. Runs beside puts, deletes and compaction; a piece that compaction moves
    /// meanwhile may be left for the next time. Dropping it is safe at any point, and calling it again goes on.
    ///
    /// # Errors
    ///
    /// [`CollectError::Refused`] if more than 3 % of the live pieces in the range, and more than 100, would go.
    /// [`PutError::Full`] while the room that is kept for tombstones is half used up.
    pub async fn collect(&self, request: CollectRequest<'_>) -> Result<Collection, CollectError> {
        self.check_open()?;
        self.push_revivals();
        let (mut examined, mut would_trash) = (0, 0);
        for stop in self.stops() {
            // What a blob does not tell of stays.
            for found in self
                .find(&stop, &request.satellite)
                .await
                .unwrap_or_default()
            {
                if request.is_about(&found) {
                    examined += 1;
                    would_trash += u64::from(request.is_garbage(&found));
                }
            }
        }
        if would_trash > TRASH_FLOOR && would_trash * 100 > examined * TRASH_PERCENT_MAX {
            return Err(CollectError::Refused {
                would_trash,
                of: examined,
            });
        }
        let mut done = Collection {
            examined,
            kept: examined,
            ..Collection::default()
        };
        if would_trash > 0 {
            self.trash(&request, would_trash, &mut done).await?;
        }
        Ok(done)
    }

    async fn trash(
        &self,
        request: &CollectRequest<'_>,
        count_max: u64,
        done: &mut Collection,
    ) -> Result<(), CollectError> {
        // A filter is never newer than now; a clock that says so must not shorten the 7 days to nothing.
        let now_s = request.now_s.max(request.snapshot_s);
        let record_len = layout::round_to_step(layout::RECORD_HEADER_BYTES as u64);
        let half_bytes = self.options.tombstone_reserve_bytes() / 2;
        let spare = Spare {
            capacity_bytes: half_bytes,
            disk_bytes: half_bytes,
        };
        let mut batch = self.batch();
        for stop in self.stops() {
            // What a blob does not tell of stays.
            for found in self
                .find(&stop, &request.satellite)
                .await
                .unwrap_or_default()
            {
                if !request.is_about(&found) || !request.is_garbage(&found) {
                    continue;
                }
                if done.trashed == count_max {
                    break;
                }
                self.check_room(record_len + COMMIT_OVERHEAD_BYTES, spare)?;
                let mark = found.mark(Kind::Trash, now_s);
                if batch
                    .mark(&found, &mark, |state| state == State::Live)
                    .await?
                {
                    done.trashed += 1;
                    done.kept -= 1;
                    done.trashed_bytes += found.known.body_len;
                }
            }
        }
        Ok(batch.settle().await?)
    }
}

impl CollectRequest<'_> {
    /// Whether a piece counts: live, not expired, and in the range.
    fn is_about(&self, found: &Found) -> bool {
        found.state == State::Live
            && (self.first_id..=self.last_id).contains(&found.record.id)
            && !states::is_expired(found.record.expiry_s, self.now_s)
    }

    fn is_garbage(&self, found: &Found) -> bool {
        found.record.created_s < self.snapshot_s && !self.wanted.contains(&found.record.id)
    }
}

impl std::fmt::Debug for CollectRequest<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CollectRequest")
            .field("snapshot_s", &self.snapshot_s)
            .field("now_s", &self.now_s)
            .finish_non_exhaustive()
    }
}
