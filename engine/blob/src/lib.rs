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
//! | the index is rebuilt from the blobs alone | `rebuild::every_opening_finds_what_a_naive_reading_finds` |
//! | an opening with a checkpoint knows what one without knows | every reopening of `crash`; `checkpoint` |
//! | no checkpoint, whatever is wrong with it, prevents a start | `checkpoint::no_damage_to_a_checkpoint_prevents_an_opening` |
//! | what an opening reads again is bounded | `checkpoint::checkpoints_come_by_themselves_before_an_opening_would_take_long` |
//! | a deleted piece does not come back | `crash`, `faults::a_piece_deleted_after_its_put_failed_does_not_come_back` |
//! | a failed sync is final | `faults::a_failed_sync_poisons_until_the_store_is_opened_again` |
//! | a full disk refuses puts; reads and deletes go on | `faults::a_full_disk_refuses_puts_but_reads_and_deletes` |
//! | a failed read costs that read | `faults::a_read_that_fails_costs_that_read_only` |
//! | uploaded bytes never become records | `damage::records_inside_a_body_never_become_records` |
//! | a trashed piece can be read and restored for seven days, and is gone afterwards, whatever is compacted or crashes | `model::the_store_is_a_map_with_a_trash`, `crash` |
//! | a filter that would trash too much changes nothing | `trash::a_filter_that_would_trash_more_than_three_percent_changes_nothing` |
//! | a read of a trashed piece brings it back without waiting for it | `trash::a_read_of_a_trashed_piece_does_not_wait_for_its_restore_record` |
//! | damage is found by a scrub, told once, and costs the damaged piece only | `scrub::damage_anywhere_in_a_live_record_takes_the_piece_out_of_service` |
//! | every byte of the files has a use | `World::check_space`, after nearly every step |
#![deny(unsafe_code, missing_docs)]

mod blobs;
pub mod buffer;
mod bug;
mod bytes_at;
mod census;
mod check;
mod checkpoint;
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
mod known;
pub mod layout;
mod marks;
mod names;
mod parts;
mod piece;
mod pieces;
mod poison;
mod read;
mod recent;
mod record;
mod recover;
mod revive;
mod scan;
mod scrub;
mod seal;
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
pub use compact::{Compaction, Traffic};
pub use counters::StoreCounters;
pub use disk::{Disk, DiskError, FailedWrite, FileId};
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
