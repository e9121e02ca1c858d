//! A log-structured store of pieces, pure over a [`Disk`].
//!
//! Pieces are appended to blobs in commit groups and acked after the sync that covers them; the index is a cache,
//! rebuilt from the blobs. The store is single-threaded, brings no runtime, and takes time and randomness
//! as arguments. Its bytes are decided by docs/format.md section 6.
//!
//! # Guarantees
//!
//! Each is kept by the code that bears its name in a comment, and noticed by the tests of `tests/it` (and of piecestore, where that is said).
//!
//! | | guarantee | kept in | test |
//! | --- | --- | --- | --- |
//! | G1 | acked means durable: an ack leaves after the sync that covers data and record | `commit`, `Store::retire` | `crash::acked_pieces_survive_every_crash`, `crash::a_piece_is_neither_visible_nor_acked_again_before_its_sync` |
//! | G2 | no holes: every acked record is found, and of others none that breaks a later one | `recover`, which reads on after damage | `crash::a_crash_at_any_moment_of_concurrent_puts_keeps_what_was_acked` |
//! | G3 | a record is served whole and bit-exact or not at all; what is uploaded never becomes a record | `read`, `Wanted::identify` and the CRCs of shares; `check` | `damage::blocks_that_moved_are_not_taken_for_what_should_be_there`, `damage::records_inside_a_body_never_become_records`, `memory::a_damaged_share_in_memory_is_never_handed_out` |
//! | G4 | a torn tail is dropped, rot is reported and costs only itself | `walk`, where a group is settled | `damage::a_torn_tail_is_dropped_without_a_report`, `damage::rot_of_durable_records_is_reported_and_costs_only_them` |
//! | G5 | the index is a cache: rebuilt from the blobs alone, and no checkpoint, whatever is wrong with it, prevents a start | `recover`, `census`, `checkpoint` | `rebuild::every_opening_finds_what_a_naive_reading_finds`, `checkpoint::no_damage_to_a_checkpoint_prevents_an_opening`, every reopening of `crash` |
//! | G6 | deletes and compaction: an old copy goes only once the new one is durable, and nothing deleted comes back | `compact`, `Store::remove` and `may_reappear` | `crash`, `compact::a_tombstone_moves_while_what_it_outranks_is_elsewhere`, `checkpoint::a_crash_at_any_moment_of_a_compaction_leaves_a_checkpoint_that_holds` |
//! | G7 | a failed sync is final | `seal`, `Store::write_failed` | `faults::a_failed_sync_poisons_until_the_store_is_opened_again` |
//! | G8 | a full disk is ordinary: puts are refused before they are taken, reads, deletes and compaction go on | `store`, `Store::check_room` | `faults::a_full_disk_refuses_puts_but_reads_and_deletes`, `faults::the_capacity_bounds_the_files` |
//! | G9 | a failed read costs that read, never the process | `read`; piecestore's `map` | `faults::a_read_that_fails_costs_that_read_only`; piecestore `disk::a_file_cut_short_under_its_map_costs_the_pieces_in_it` |
//! | G10 | what an opening reads again is bounded | `checkpoint`, `REPLAY_COST_MIN` | `checkpoint::checkpoints_come_by_themselves_before_an_opening_would_take_long`, `checkpoint::an_opening_with_a_checkpoint_reads_no_blob` |
//!
//! Beside them: a trashed piece can be read and restored for seven days and is gone afterwards, whatever is compacted or crashes
//! (`model::the_store_is_a_map_with_a_trash`); a filter that would trash too much changes nothing
//! (`trash::a_filter_that_would_trash_more_than_three_percent_changes_nothing`); a read of a trashed piece brings it back without waiting for it
//! (`trash::a_read_of_a_trashed_piece_does_not_wait_for_its_restore_record`); damage is found by a scrub, told once, and costs the damaged piece
//! only (`scrub::damage_anywhere_in_a_live_record_takes_the_piece_out_of_service`); every byte of the files has a use (`World::check_space`,
//! after nearly every step).
#![deny(unsafe_code, missing_docs)]

mod ahead;
mod aside;
mod blobs;
pub mod buffer;
pub mod bug;
mod bytes_at;
mod census;
mod check;
mod checkpoint;
mod collect;
mod commit;
mod compact;
mod counters;
pub mod disk;
mod displaced;
mod doubted;
mod early;
mod error;
mod expiry;
mod fingerprint;
mod footer;
mod fused;
mod gather;
mod group;
mod header;
mod index;
pub mod inspect;
mod known;
mod lay_out;
pub mod layout;
mod marks;
mod names;
mod outranked;
mod owed;
mod parts;
mod piece;
mod pieces;
mod poison;
mod progress;
mod queue;
mod read;
mod recent;
mod record;
mod recover;
mod recovery;
mod removal;
mod revive;
mod room;
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
mod zeros;

pub use buffer::IoBuffer;
pub use collect::{CollectError, CollectRequest, Collection, Wanted};
pub use compact::{Compaction, Traffic};
pub use counters::StoreCounters;
pub use disk::{Disk, DiskError, FailedWrite, FileId};
pub use displaced::DisplacedBlob;
pub use error::{BadPiece, Damage, GetError, OpenError, PutError};
pub use gather::Gather;
pub use layout::BlobId;
pub use names::Name;
pub use piece::{NewPiece, Piece, Stored, share_crc, share_crcs};
pub use poison::{PoisonCause, WriteOperation};
pub use progress::OpenProgress;
pub use recover::{Recovery, Rot};
pub use scrub::{LostPiece, ScrubCursor, ScrubStep};
pub use space::Space;
pub use states::TRASH_S;
pub use store::{Store, StoreOptions};
