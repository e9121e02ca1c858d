//! Blobs that another program removed, replaced or shortened while they are appended to.
//!
//! Writes to such a file go on well, and are gone with the next start. So the owner asks now and then whether the names of the few open blobs
//! still lead to them ([`Store::check_open_blobs`]), and sealing asks once more. What must stay true: a blob that was found displaced takes
//! no further group and is neither sealed nor compacted, groups on their way to it are refused, and its pieces are told as lost.
//!
//! **What this leaves open:** acks that were given between the deed and the look, at most one period of the owner's asking. Their
//! pieces are among those told as lost. A file that is cut and then grows beyond what was acked within one period is noticed only if its
//! header went too; the scrub finds the rest. Tombstones in the blob are gone as they are when a blob is removed between two runs: what they
//! deleted may come back with the next rebuild, and goes with the satellite's next filter.

use std::rc::Rc;

use crate::blobs::Blob;
use crate::disk::Disk;
use crate::error::Damage;
use crate::header::BlobHeader;
use crate::layout::{BLOCK_BYTES, BlobId};
use crate::record::Kind;
use crate::scan;
use crate::store::Store;

/// A blob that another program removed, replaced or shortened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DisplacedBlob {
    /// The blob.
    pub blob: BlobId,
    /// Pieces that are out of service for it; [`Store::take_lost`] names them.
    pub lost_pieces: u64,
}

/// Displaced blobs, each with the bytes of it that are still there.
pub(crate) type Displaced<F> = Vec<(Rc<Blob<F>>, u64)>;

impl<D: Disk> Store<D> {
    /// Looks whether the blobs that are appended to are still what their names lead to, and gives up those that are not: the next group goes
    /// into a new blob, and the pieces are out of service.
    ///
    /// Costs one look at a name and one read for each open blob, of which there are at most eight. A disk that cannot say is believed to
    /// hold what it held. To be called every few seconds; dropping the call is safe.
    pub async fn check_open_blobs(&self) -> Vec<DisplacedBlob> {
        let open = self.open_blobs.borrow().clone();
        for blob in open.iter().flatten().flatten() {
            self.find_displaced(blob).await;
        }
        let mut found = Vec::new();
        loop {
            let Some((blob, sound_len)) = self.displaced.borrow().last().cloned() else {
                return found;
            };
            let lost_pieces = self.lose_from(&blob, sound_len).await;
            let mut displaced = self.displaced.borrow_mut();
            displaced.retain(|(other, _)| other.id != blob.id);
            found.push(DisplacedBlob {
                blob: blob.id,
                lost_pieces,
            });
        }
    }

    /// Whether a blob is displaced; if so it is given up for writing. Its pieces are left to [`check_open_blobs`](Self::check_open_blobs):
    /// the committer must not wait for their locks.
    pub(crate) async fn find_displaced(&self, blob: &Rc<Blob<D::File>>) -> bool {
        // What was written before the question is asked.
        let written_len = blob.tail.get().file_len;
        let sound_len = self.sound_len(blob).await;
        if let Some(sound_len) = sound_len.filter(|&len| len < written_len)
            && !blob.is_displaced.replace(true)
        {
            for lane in self.open_blobs.borrow_mut().iter_mut().flatten() {
                lane.take_if(|open| open.id == blob.id);
            }
            let displaced = (Rc::clone(blob), sound_len);
            self.displaced.borrow_mut().push(displaced);
        }
        blob.is_displaced.get()
    }

    /// Bytes from the beginning of a blob that are still in the file of its name, its header among them. `None`: the disk cannot say.
    async fn sound_len(&self, blob: &Blob<D::File>) -> Option<u64> {
        let Some(len) = self.disk.named_len(&blob.file).await.ok()? else {
            return Some(0);
        };
        for offset in [0, BLOCK_BYTES as u64] {
            let block = scan::read_block(&self.disk, &blob.file, offset)
                .await
                .ok()?;
            if BlobHeader::parse(&block).as_ref() == Ok(&blob.header) {
                return Some(len);
            }
        }
        Some(0)
    }

    /// Takes the pieces out of service that lie behind the first so many bytes of a displaced blob; how many there were.
    async fn lose_from(&self, blob: &Blob<D::File>, sound_len: u64) -> u64 {
        let entries = match &*blob.log.borrow() {
            Some(log) => log.entries.clone(),
            None => Vec::new(),
        };
        let mut lost_count = 0;
        for entry in &entries {
            let record = &entry.record;
            if record.kind != Kind::Piece || entry.offset + record.record_len() <= sound_len {
                continue;
            }
            let (satellite, id) = (blob.satellite_of(record), record.id);
            let fingerprint = self.fingerprinter.of(&satellite, &id);
            let _guard = self.locks.lock(fingerprint).await;
            let known = blob.known(entry);
            let is_lost = self.lose(fingerprint, (satellite, id), &known, Damage::Missing);
            lost_count += u64::from(is_lost);
        }
        lost_count
    }
}
