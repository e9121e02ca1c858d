//! Footers that found no room: they are written once there is some.
//!
//! Only sealed blobs are compacted. On a disk that is full to the last byte, because somebody else wrote there, blobs end whose footers cannot
//! be written; were that final, what is dead in them would stay until the next opening, and the room that deletes make with it. So compaction first has
//! the committer write what is owed. A blob that owes its footer takes no group, so the footer is the same bytes in the same place: it does
//! not matter how much of it went down before.

use crate::disk::Disk;
use crate::store::Store;

impl<D: Disk> Store<D> {
    /// Has the footers written that found no room before, as far as there is some now.
    pub(crate) async fn pay_footers(&self) {
        let owing: Vec<_> = {
            let blobs = self.blobs.borrow();
            let owing = blobs.iter().flatten().filter(|blob| blob.owes_footer.get());
            owing.cloned().collect()
        };
        for blob in owing {
            let has_room = self
                .disk
                .free_bytes()
                .is_ok_and(|free| free >= blob.footer_len(0));
            if !has_room || self.check_open().is_err() {
                return;
            }
            let record_count = blob
                .log
                .borrow()
                .as_ref()
                .map_or(0, |log| log.entries.len());
            self.have_sealed(blob, record_count).await;
        }
    }
}
