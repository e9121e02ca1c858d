//! A log-structured store of pieces, pure over a [`Disk`].
//!
//! Pieces are appended to blobs in commit groups and acked after the sync that covers them; the index is a cache,
//! rebuilt from the blobs. The store is single-threaded, brings no runtime, and takes time and randomness
//! as arguments. Its bytes are decided by docs/format.md section 6.
//!
//! What it promises, and the test in `tests/it` that would notice if it did not:
//!
//! | promise | test |
//! | --- | --- |
//! | an ack leaves after the sync that covers data and record | `crash::acked_pieces_survive_every_crash` |
//! | a record is served whole and bit-exact or not at all | the same; `damage::every_truncation_opens_with_the_pieces_before_it` |
//! | a torn tail is dropped, rot is reported and costs only itself | `damage::a_torn_tail_is_dropped_without_a_report`, `damage::rot_of_durable_records_is_reported_and_costs_only_them` |
//! | the index is rebuilt from the blobs alone | every reopening in the tests |
//! | a deleted piece does not come back | `crash`, `faults::a_piece_deleted_after_its_put_failed_does_not_come_back` |
//! | a failed sync is final | `faults::a_failed_sync_poisons_until_the_store_is_opened_again` |
//! | a full disk refuses puts; reads and deletes go on | `faults::a_full_disk_refuses_puts_but_reads_and_deletes` |
//! | a failed read costs that read | `faults::a_read_that_fails_costs_that_read_only` |
//! | uploaded bytes never become records | `damage::records_inside_a_body_never_become_records` |
//! | every byte of the files has a use | `World::check_space`, after nearly every step |
#![deny(unsafe_code, missing_docs)]

mod blobs;
pub mod buffer;
mod bug;
mod bytes_at;
mod check;
mod collect;
mod commit;
mod compact;
mod counters;
pub mod disk;
mod error;
mod expiry;
mod footer;
mod group;
mod header;
mod index;
pub mod inspect;
pub mod layout;
mod marks;
mod names;
mod piece;
mod poison;
mod read;
mod record;
mod recover;
mod revive;
mod scan;
mod scrub;
mod space;
mod states;
mod store;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod verify;
mod wait;
mod walk;

pub use buffer::IoBuffer;
pub use collect::{CollectError, CollectRequest, Collection, Wanted};
pub use compact::Compaction;
pub use counters::StoreCounters;
pub use disk::{Disk, DiskError};
pub use error::{BadPiece, Damage, GetError, OpenError, PutError};
pub use layout::BlobId;
pub use names::Name;
pub use piece::{NewPiece, Piece, Stored};
pub use poison::{PoisonCause, WriteOperation};
pub use recover::{Recovery, Rot};
pub use scrub::{LostPiece, ScrubCursor, ScrubStep};
pub use space::Space;
pub use states::TRASH_S;
pub use store::{Store, StoreOptions};
