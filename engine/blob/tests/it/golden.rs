//! The bytes of release 1 are frozen: a directory written once must open for ever, and must be written the same today.
//!
//! `tests/golden/v1-*.blob` hold two expiry classes, one-share and longer pieces, a tombstone, a replaced piece, several groups
//! and a clean end; `v1-trash-*.blob` trash and restore records; `v1-ahead-*.blob` zeros written ahead;
//! `v1-sealed-*.blob` hold the same pieces in blobs of at most three records, the first of them sealed, and the checkpoint of that end; `v1-trash-*.ckpt` is that of the end with trash.
//! After a change of format *with a new version number*, write new files beside them:
//! `STRAND_WRITE_GOLDEN=1 cargo test -p strand-blob golden`.

use std::collections::BTreeMap;

use blake3::hazmat::HasherExt;
use strand_blob::disk::sim::SimDisk;
use strand_blob::inspect::RecordKind;
use strand_blob::{BlobId, FileId, GetError, NewPiece, StoreOptions, Stored};

use crate::independent::{self, RawBlob};
use crate::support::{
    DAY_S, NODE, NOW_S, SATELLITE, check_same, id_of, open, piece, small_options,
};

const FIRST: &[u8] = include_bytes!("../golden/v1-0000000000000001.blob");
const SECOND: &[u8] = include_bytes!("../golden/v1-0000000000000002.blob");
const SEALED: [&[u8]; 4] = [
    include_bytes!("../golden/v1-sealed-0000000000000001.blob"),
    include_bytes!("../golden/v1-sealed-0000000000000002.blob"),
    include_bytes!("../golden/v1-sealed-0000000000000003.blob"),
    include_bytes!("../golden/v1-sealed-0000000000000004.blob"),
];

const CHECKPOINT: &[u8] = include_bytes!("../golden/v1-sealed-0000000000000001.ckpt");
/// Four records a blob: pieces 1, 2, 3 and 5, then 1 and 2 trashed, 2 restored, 3 deleted, 3 of other content put again, 5 trashed.
const TRASH: [&[u8]; 3] = [
    include_bytes!("../golden/v1-trash-0000000000000001.blob"),
    include_bytes!("../golden/v1-trash-0000000000000002.blob"),
    include_bytes!("../golden/v1-trash-0000000000000003.blob"),
];

const TRASH_CHECKPOINT: &[u8] = include_bytes!("../golden/v1-trash-0000000000000001.ckpt");

/// Three records a blob: pieces 1 to 5 of up to 1,000 bytes, one after the other, each with room for two more groups written ahead. The
/// first blob is sealed behind zeros, the second ends with them.
const AHEAD: [&[u8]; 2] = [
    include_bytes!("../golden/v1-ahead-0000000000000001.blob"),
    include_bytes!("../golden/v1-ahead-0000000000000002.blob"),
];

/// What writes no zeros ahead, as the first of these files were made.
fn plain_options() -> StoreOptions {
    let mut options = small_options();
    options.ahead_bytes = 0;
    options
}

fn ahead_options() -> StoreOptions {
    let mut options = sealed_options();
    options.ahead_bytes = 16_384;
    options
}

fn ahead_files() -> BTreeMap<BlobId, Vec<u8>> {
    (1..).map(BlobId).zip(AHEAD.map(<[u8]>::to_vec)).collect()
}

fn write_ahead() -> BTreeMap<FileId, Vec<u8>> {
    let world = open(&SimDisk::new(1), ahead_options(), 1);
    for key in 1..=5 {
        assert_eq!(world.put(piece(key, 200 * key as usize)), Ok(Stored::New));
    }
    world.disk.all_files()
}

#[test]
fn golden_zeros_ahead_are_written_the_same_and_mean_nothing() {
    let golden = ahead_files().into_iter();
    let golden = golden.map(|(id, bytes)| (id.into(), bytes)).collect();
    check_written("v1-ahead", &golden, &write_ahead());
    let blobs: Vec<RawBlob> = ahead_files()
        .values()
        .map(|bytes| independent::read_blob(bytes))
        .collect();
    assert_eq!([blobs[0].is_sealed, blobs[1].is_sealed], [true, false]);
    assert_eq!(independent::live_pieces(&blobs).len(), 5);
    let world = open(&SimDisk::from_files(1, ahead_files()), ahead_options(), 2);
    let recovery = &world.recovery;
    assert_eq!(
        (recovery.pieces, recovery.torn_bytes, recovery.rotten.len()),
        (5, 0, 0)
    );
    for key in 1..=5 {
        check_same(&world, &piece(key, 200 * key as usize));
    }
    world.check_space();
}

fn trash_options() -> StoreOptions {
    let mut options = plain_options();
    options.blob_records_max = 4;
    options
}

fn trash_files() -> BTreeMap<BlobId, Vec<u8>> {
    (1..).map(BlobId).zip(TRASH.map(<[u8]>::to_vec)).collect()
}

fn write_trash() -> BTreeMap<FileId, Vec<u8>> {
    let world = open(&SimDisk::new(1), trash_options(), 1);
    for key in [1, 2, 3, 5] {
        assert_eq!(world.put(piece(key, 300 * key as usize)), Ok(Stored::New));
    }
    for key in [1, 2] {
        assert_eq!(world.trash(&[key], NOW_S + 10).unwrap().trashed, 1);
    }
    assert_eq!(world.put(piece(2, 600)), Ok(Stored::Already));
    assert_eq!(world.delete(3), Ok(true));
    assert_eq!(world.put(piece(3, 20_000)), Ok(Stored::New));
    assert_eq!(world.trash(&[5], NOW_S + 20).unwrap().trashed, 1);
    world.close();
    world.disk.all_files()
}

#[test]
fn golden_trash_is_written_the_same_and_still_opens() {
    let files = with_checkpoint(trash_files(), TRASH_CHECKPOINT);
    check_written("v1-trash", &files, &write_trash());
    for (disk, checkpoint) in [
        (SimDisk::from_files(1, trash_files()), None),
        (SimDisk::from_all_files(1, files), Some(1)),
    ] {
        let world = open(&disk, trash_options(), 2);
        assert_eq!(world.recovery.checkpoint, checkpoint);
        assert_eq!((world.recovery.pieces, world.recovery.trashed), (2, 2));
        assert_eq!(world.recovery.sealed_blobs, 2);
        check_same(&world, &piece(2, 600));
        check_same(&world, &piece(3, 20_000));
        world.check_space();
        assert_eq!(world.restore_all(NOW_S + 30), Ok(2));
        check_same(&world, &piece(1, 300));
        check_same(&world, &piece(5, 1_500));
    }
}

#[test]
fn an_independent_reader_tells_golden_trash_from_live_pieces() {
    let blobs: Vec<RawBlob> = trash_files()
        .values()
        .map(|bytes| independent::read_blob(bytes))
        .collect();
    let mut found: Vec<_> = independent::counting_pieces(&blobs)
        .into_iter()
        .map(|piece| {
            (
                piece.id,
                independent::trashed_since(&blobs, &piece),
                piece.body.len(),
            )
        })
        .collect();
    found.sort_unstable();
    let wanted = [
        (id_of(1), Some(NOW_S + 10), 300),
        (id_of(2), None, 600),
        (id_of(3), None, 20_000),
        (id_of(5), Some(NOW_S + 20), 1_500),
    ];
    assert_eq!(found, wanted);
    assert_eq!(independent::live_pieces(&blobs).len(), 2);
    let kinds = |kind| {
        let records = TRASH
            .iter()
            .flat_map(|bytes| strand_blob::inspect::records(bytes).unwrap());
        records.filter(|record| record.kind == kind).count()
    };
    assert_eq!(
        (kinds(RecordKind::Trash), kinds(RecordKind::Restore)),
        (3, 1)
    );
}

fn golden_files() -> BTreeMap<BlobId, Vec<u8>> {
    BTreeMap::from([(BlobId(1), FIRST.to_vec()), (BlobId(2), SECOND.to_vec())])
}

/// Pieces 1 to 5; piece 4 is deleted, piece 5 deleted and put again.
fn golden_pieces() -> Vec<NewPiece> {
    let mut pieces = vec![
        piece(1, 576),
        piece(2, 16_384),
        piece(3, 40_000),
        piece(4, 64),
        piece(5, 1_000),
    ];
    pieces[1].path.clear();
    pieces[2].expiry_s = NOW_S + DAY_S;
    pieces
}

/// Blobs and the checkpoint that was written when they were closed.
fn with_checkpoint(
    blobs: BTreeMap<BlobId, Vec<u8>>,
    checkpoint: &[u8],
) -> BTreeMap<FileId, Vec<u8>> {
    let mut files: BTreeMap<FileId, _> = blobs
        .into_iter()
        .map(|(id, bytes)| (id.into(), bytes))
        .collect();
    files.insert(FileId::Checkpoint(1), checkpoint.to_vec());
    files
}

fn checkpointed_files() -> BTreeMap<FileId, Vec<u8>> {
    with_checkpoint(sealed_files(), CHECKPOINT)
}

fn write_golden(options: StoreOptions) -> BTreeMap<FileId, Vec<u8>> {
    let world = open(&SimDisk::new(1), options, 1);
    for new in golden_pieces() {
        assert_eq!(world.put(new), Ok(Stored::New));
    }
    assert_eq!(world.delete(4), Ok(true));
    assert_eq!(world.delete(5), Ok(true));
    assert_eq!(world.put(golden_pieces().remove(4)), Ok(Stored::New));
    world.close();
    world.disk.all_files()
}

fn sealed_options() -> StoreOptions {
    let mut options = plain_options();
    options.blob_records_max = 3;
    options
}

fn sealed_files() -> BTreeMap<BlobId, Vec<u8>> {
    (1..).map(BlobId).zip(SEALED.map(<[u8]>::to_vec)).collect()
}

#[test]
fn golden_bytes_are_written_the_same_today() {
    let mut written = write_golden(plain_options());
    written.retain(|id, _| matches!(id, FileId::Blob(_)));
    let golden = golden_files().into_iter();
    let golden = golden.map(|(id, bytes)| (id.into(), bytes)).collect();
    check_written("v1", &golden, &written);
    check_written(
        "v1-sealed",
        &checkpointed_files(),
        &write_golden(sealed_options()),
    );
}

#[expect(
    clippy::disallowed_methods,
    reason = "the generator writes the committed files, on request only"
)]
fn check_written(
    name: &str,
    golden: &BTreeMap<FileId, Vec<u8>>,
    written: &BTreeMap<FileId, Vec<u8>>,
) {
    if std::env::var_os("STRAND_WRITE_GOLDEN").is_some() {
        for (id, bytes) in written {
            let file = match id {
                FileId::Blob(id) => format!("{id}.blob"),
                FileId::Checkpoint(number) => format!("{number:016x}.ckpt"),
            };
            let path = format!("{}/tests/golden/{name}-{file}", env!("CARGO_MANIFEST_DIR"));
            std::fs::write(path, bytes).unwrap();
        }
        return;
    }
    assert_eq!(
        written.keys().collect::<Vec<_>>(),
        golden.keys().collect::<Vec<_>>()
    );
    for (id, bytes) in golden {
        let differing = bytes
            .iter()
            .zip(&written[id])
            .position(|(golden, today)| golden != today);
        assert_eq!(
            (differing, bytes.len()),
            (None, written[id].len()),
            "{name}, {id:?}: first differing byte, length"
        );
    }
}

#[test]
fn golden_blobs_still_open() {
    for (files, options, sealed_count) in [
        (golden_files(), small_options(), 0),
        (sealed_files(), sealed_options(), 2),
    ] {
        let world = open(&SimDisk::from_files(1, files), options, 2);
        assert_eq!((world.recovery.pieces, world.recovery.tombstones), (4, 2));
        assert_eq!(world.recovery.sealed_blobs, sealed_count);
        assert_eq!(
            (world.recovery.torn_bytes, world.recovery.rotten.len()),
            (0, 0)
        );
        for (index, new) in golden_pieces().iter().enumerate() {
            if index == 3 {
                assert_eq!(world.piece(4).unwrap_err(), GetError::NotFound);
            } else {
                check_same(&world, new);
            }
        }
        world.check_space();
    }
}

#[test]
fn a_golden_checkpoint_still_opens() {
    let disk = SimDisk::from_all_files(1, checkpointed_files());
    let world = open(&disk, sealed_options(), 2);
    assert_eq!(
        (world.recovery.checkpoint, world.recovery.records_read),
        (Some(1), 0)
    );
    assert_eq!((world.recovery.pieces, world.recovery.tombstones), (4, 2));
    for (index, new) in golden_pieces().iter().enumerate() {
        if index != 3 {
            check_same(&world, new);
        }
    }
    assert_eq!(world.piece(4).unwrap_err(), GetError::NotFound);
    world.check_space();
}

#[test]
fn an_independent_reader_finds_the_same_pieces_in_sealed_blobs() {
    let read = |files: BTreeMap<BlobId, Vec<u8>>| -> Vec<RawBlob> {
        files
            .values()
            .map(|bytes| independent::read_blob(bytes))
            .collect()
    };
    let sealed = read(sealed_files());
    let seals: Vec<bool> = sealed.iter().map(|blob| blob.is_sealed).collect();
    assert_eq!(seals, [true, false, true, false]);
    let ids = |blobs: &[RawBlob]| -> BTreeMap<[u8; 32], Vec<u8>> {
        independent::live_pieces(blobs)
            .into_iter()
            .map(|piece| (piece.id, piece.body))
            .collect()
    };
    assert_eq!(ids(&sealed), ids(&read(golden_files())));
}

#[test]
fn an_independent_reader_finds_the_golden_pieces() {
    let blobs: Vec<RawBlob> = golden_files()
        .values()
        .map(|bytes| independent::read_blob(bytes))
        .collect();
    assert_eq!([blobs[0].class, blobs[1].class], [3, 0]);
    for (blob, id) in blobs.iter().zip(1..) {
        assert_eq!(
            (blob.blob_id, blob.node_id, blob.created_s),
            (id, NODE, u64::from(NOW_S))
        );
    }
    let live = independent::live_pieces(&blobs);
    assert_eq!(live.len(), 4);
    for found in live {
        let wanted = golden_pieces()
            .into_iter()
            .find(|piece| piece.id == found.id)
            .unwrap();
        assert_eq!(found.satellite, SATELLITE);
        assert_eq!(found.body, wanted.body.concat());
        assert_eq!(found.root, *blake3::hash(&found.body).as_bytes());
        assert_eq!(
            (found.root, found.commitment),
            (wanted.root, wanted.commitment)
        );
        assert_eq!(
            (&found.path, &found.share_hashes),
            (&wanted.path, &wanted.share_hashes)
        );
        assert_eq!(
            (found.created_s, found.expiry_s),
            (wanted.created_s, wanted.expiry_s)
        );
        for (share, hash) in found.share_hashes.iter().enumerate() {
            let mut hasher = blake3::Hasher::new();
            hasher.set_input_offset(share as u64 * 16_384);
            let end = found.body.len().min((share + 1) * 16_384);
            hasher.update(&found.body[share * 16_384..end]);
            assert_eq!(hasher.finalize_non_root(), *hash);
        }
    }
}

#[test]
fn the_inspector_agrees_with_the_independent_reader() {
    for bytes in golden_files().values() {
        let raw = independent::read_blob(bytes);
        let records = strand_blob::inspect::records(bytes).unwrap();
        assert_eq!(
            strand_blob::inspect::blob_id(bytes),
            Ok(BlobId(raw.blob_id))
        );
        let tombstones = records
            .iter()
            .filter(|record| record.kind == RecordKind::Tombstone);
        assert_eq!(tombstones.count(), raw.tombstones.len());
        let pieces: Vec<_> = records.iter().filter(|record| record.is_piece()).collect();
        assert_eq!(pieces.len(), raw.pieces.len());
        for (found, wanted) in pieces.iter().zip(&raw.pieces) {
            assert_eq!(
                (found.satellite, found.id, found.sequence),
                (wanted.satellite, wanted.id, wanted.sequence)
            );
            let body = &bytes[found.body_offset as usize..][..found.body_len as usize];
            assert_eq!(body, wanted.body);
            assert_eq!(
                (found.created_s, found.expiry_s),
                (wanted.created_s, wanted.expiry_s)
            );
        }
    }
}
