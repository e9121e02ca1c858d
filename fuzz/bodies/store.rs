//! What the fuzz targets of the store do with their bytes. The store's own tests do the same with the seeds, and with much that is near to them.
//!
//! Whatever lies on a disk, an opening ends without a panic, every byte has a use, and what is served passes its checks. What it knows it
//! knows again at the next opening.

use strand_blob::disk::sim::SimDisk;
use strand_blob::testing::Knowledge;
use strand_blob::testing::structures;
use strand_blob::testing::world::{NOW_S, SATELLITE, id_of, small_options, try_open};
use strand_blob::{BlobId, FileId, ScrubCursor, inspect};

/// Pieces that are asked for: the seeds have some of them.
const KEYS: u64 = 6;

/// A record header and what follows it.
pub(crate) fn record(bytes: &[u8]) {
    structures::record(bytes);
}

/// A footer.
pub(crate) fn footer(bytes: &[u8]) {
    structures::footer(bytes);
}

/// A blob file, read from outside and by a store.
pub(crate) fn blob(bytes: &[u8]) {
    for record in inspect::records(bytes).unwrap_or_default() {
        assert!(record.body_and_trailer().end <= bytes.len() as u64);
    }
    open_files([(FileId::Blob(BlobId(1)), bytes.to_vec())]);
}

/// A checkpoint beside the blobs of the seed that it belongs to: as it is, and with the hashes of its parts made right.
pub(crate) fn checkpoint(bytes: &[u8]) {
    let blob = include_bytes!("../seeds/store_blob/sealed").to_vec();
    for checkpoint in [bytes.to_vec(), structures::checkpoint(bytes)] {
        open_files([
            (FileId::Blob(BlobId(1)), blob.clone()),
            (FileId::Checkpoint(1), checkpoint),
        ]);
    }
}

/// A directory: files one after another, each with what it is (a byte), its number (a byte) and its length (four bytes).
pub(crate) fn directory(bytes: &[u8]) {
    let mut files = Vec::new();
    let mut rest = bytes;
    while let Some((&[what, number, a, b, c, d], later)) = rest.split_first_chunk::<6>() {
        let len = u32::from_le_bytes([a, b, c, d]) as usize;
        let (content, later) = later.split_at(len.min(later.len()));
        let number = u64::from(number);
        let id = if what % 2 == 0 {
            FileId::Blob(BlobId(number))
        } else {
            FileId::Checkpoint(number)
        };
        files.push((id, content.to_vec()));
        rest = later;
        if files.len() == 8 {
            break;
        }
    }
    open_files(files);
}

fn open_files(files: impl IntoIterator<Item = (FileId, Vec<u8>)>) {
    let disk = SimDisk::from_all_files(1, files);
    // It says itself what it cannot open, and there is nothing to look at.
    let Ok(world) = try_open(&disk, small_options(), 1) else {
        return;
    };
    let known = Knowledge::of(&world.store);
    for key in 0..KEYS {
        let read = world.run(move |store| async move {
            let piece = store.piece(&SATELLITE, &id_of(key), NOW_S).await?;
            let bytes = store.read_shares(&piece, 0..piece.share_count()).await?;
            assert_eq!(bytes.len() as u64, piece.body_len);
            Ok::<_, strand_blob::GetError>(())
        });
        let _served_or_named = read.is_ok();
    }
    world.run(|store| async move {
        let mut cursor = ScrubCursor::default();
        while let Some(step) = store.scrub_step(cursor, 1 << 20).await {
            assert!(step.next > cursor, "a scrub goes on");
            cursor = step.next;
        }
    });
    let again = try_open(
        &SimDisk::from_all_files(1, disk.all_files()),
        small_options(),
        1,
    );
    if world.recovery.checkpoint.is_none() {
        assert!(world.store.space().adds_up(), "{:?}", world.store.space());
        assert!(again.is_ok_and(|again| Knowledge::of(&again.store) == known));
    }
}
