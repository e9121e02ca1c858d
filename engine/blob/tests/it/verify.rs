//! Reading everything: whole stores are good, and each kind of damage is named with its cost.

use std::collections::BTreeMap;

use strand_blob::disk::sim::{self, SimDisk};
use strand_blob::verify::{Fault, Verdict, verify};
use strand_blob::{BlobId, Damage, StoreOptions, Stored, inspect};

use crate::support::{World, id_of, open, piece, small_options};

const FIRST: BlobId = BlobId(1);
const GONE: u64 = 2;

type Files = BTreeMap<BlobId, Vec<u8>>;

/// Four records a blob.
fn options() -> StoreOptions {
    StoreOptions {
        blob_records_max: 4,
        ..small_options()
    }
}

/// Ten pieces of 40,000 bytes, the third of which is deleted: two sealed blobs and an open one.
fn filled() -> Files {
    let world = open(&SimDisk::new(1), options(), 1);
    for key in 0..10 {
        assert_eq!(world.put(piece(key, 40_000)), Ok(Stored::New));
    }
    assert_eq!(world.delete(GONE), Ok(true));
    world.close();
    world.disk.files()
}

fn check(files: &Files) -> Verdict {
    check_as(files, options().node_id)
}

fn check_as(files: &Files, node_id: [u8; 32]) -> Verdict {
    let world = World::new(7);
    let disk = SimDisk::from_files(1, files.clone());
    let before = disk.files();
    let seen = disk.clone();
    let verdict = world.run(move |_| async move {
        let mut progress = |now: &strand_blob::verify::Progress| {
            assert!(now.bytes_done <= now.bytes_total, "{now:?}");
        };
        verify(&disk, node_id, [5; 32], &mut progress).await
    });
    assert_eq!(seen.files(), before, "something was written");
    verdict.unwrap()
}

fn faults(verdict: &Verdict) -> Vec<Fault> {
    verdict
        .findings
        .iter()
        .map(|finding| finding.fault)
        .collect()
}

/// Where a piece's record lies in the first blob.
fn place(files: &Files, key: u64) -> inspect::StoredRecord {
    let records = inspect::records(&files[&FIRST]).unwrap();
    let record = records.into_iter().find(|record| record.id == id_of(key));
    record.unwrap()
}

fn flipped(files: &Files, offset: u64) -> Files {
    let mut files = files.clone();
    files.get_mut(&FIRST).unwrap()[offset as usize] ^= 4;
    files
}

#[test]
fn a_whole_store_is_good() {
    let files = filled();
    let verdict = check(&files);
    assert_eq!(faults(&verdict), []);
    assert_eq!((verdict.blobs, verdict.sealed_blobs), (3, 2));
    assert_eq!((verdict.records, verdict.pieces), (11, 9));
    assert_eq!((verdict.torn_bytes, verdict.unknown_bytes), (0, 0));
    let total: usize = files.values().map(Vec::len).sum();
    assert_eq!(verdict.file_bytes, total as u64);
}

#[test]
fn a_bad_share_of_a_sealed_blob_is_found_though_the_footer_vouches_for_it() {
    let files = filled();
    let record = place(&files, 1);
    let verdict = check(&flipped(&files, record.share_range(1).start));
    assert_eq!(faults(&verdict), [Fault::Damaged(Damage::Share(1))]);
    let lost = verdict.lost();
    assert_eq!(
        (lost.len(), lost[0].id, lost[0].body_len),
        (1, id_of(1), 40_000)
    );
    assert_eq!(verdict.pieces, 8);
}

#[test]
fn every_bad_share_of_a_piece_is_named() {
    let files = filled();
    let record = place(&files, 1);
    let mut files = flipped(&files, record.share_range(0).start);
    files = flipped(&files, record.share_range(2).start);
    let verdict = check(&files);
    let wanted = [0, 2].map(|share| Fault::Damaged(Damage::Share(share)));
    assert_eq!(faults(&verdict), wanted);
    assert_eq!(verdict.lost().len(), 1);
}

#[test]
fn a_bad_share_of_a_deleted_piece_costs_nothing() {
    let files = filled();
    let record = place(&files, GONE);
    let verdict = check(&flipped(&files, record.share_range(0).start));
    assert_eq!(faults(&verdict), [Fault::Damaged(Damage::Share(0))]);
    assert_eq!((verdict.lost().len(), verdict.pieces), (0, 9));
}

#[test]
fn a_lost_record_header_is_named_by_the_footer() {
    let files = filled();
    let record = place(&files, 3);
    let verdict = check(&flipped(&files, record.offset + 20));
    assert_eq!(faults(&verdict), [Fault::RecordMissing]);
    assert_eq!(verdict.findings[0].offset, record.offset);
    assert_eq!(verdict.lost()[0].id, id_of(3));
    assert_eq!((verdict.pieces, verdict.unknown_bytes), (8, 0));
}

#[test]
fn a_bad_footer_is_a_fault_that_costs_nothing() {
    let files = filled();
    let footer_at = files[&FIRST].len() as u64 - 12_288;
    let verdict = check(&flipped(&files, footer_at + 40));
    assert_eq!(faults(&verdict), [Fault::Footer]);
    assert_eq!((verdict.sealed_blobs, verdict.pieces), (1, 9));
    assert_eq!(verdict.lost(), []);
}

#[test]
fn a_lost_header_copy_a_lost_blob_and_a_foreign_one_are_told_apart() {
    let files = filled();
    let one = flipped(&files, 100);
    let verdict = check(&one);
    assert_eq!(faults(&verdict), [Fault::Damaged(Damage::BlobHeader)]);
    assert_eq!(verdict.pieces, 9);

    // The footer holds a third copy; without it all is lost.
    let both = flipped(&one, 4_096 + 100);
    assert_eq!(check(&both).pieces, 9);
    let footer_at = files[&FIRST].len() as u64 - 12_288;
    let all = flipped(&both, footer_at + 4_096 + 100);
    let verdict = check(&all);
    assert_eq!(faults(&verdict), [Fault::Damaged(Damage::Blob)]);
    assert_eq!(verdict.unknown_bytes, files[&FIRST].len() as u64 - 8_192);

    let verdict = check_as(&files, [77; 32]);
    assert_eq!(faults(&verdict), [Fault::ForeignBlob; 3]);
    assert_eq!(verdict.pieces, 0);
}

#[test]
fn a_torn_tail_is_no_fault() {
    let mut files = filled();
    let last = files.values_mut().last().unwrap();
    last.extend(std::iter::repeat_n(9, 8_192));
    let verdict = check(&files);
    assert_eq!(faults(&verdict), []);
    assert_eq!((verdict.torn_bytes, verdict.pieces), (8_192, 9));
}

#[test]
fn blocks_that_the_disk_cannot_read_are_a_fault_of_their_own() {
    let files = filled();
    let mut unreadable_count = 0;
    for nth in 1..40 {
        let disk = SimDisk::from_files(1, files.clone());
        // A run of blocks, and then the first of them on its own.
        for nth in [nth, nth + 1] {
            disk.inject(sim::Fault {
                ops: &[sim::Op::Read],
                nth,
                failure: sim::Failure::Eio,
                is_sticky: false,
            });
        }
        let verdict = World::new(7).run(move |_| async move {
            verify(&disk, options().node_id, [5; 32], &mut |_| {}).await
        });
        let verdict = verdict.unwrap();
        if faults(&verdict).contains(&Fault::Unreadable) {
            unreadable_count += 1;
            assert!(!verdict.is_good());
        }
    }
    assert!(unreadable_count >= 3, "{unreadable_count}");
}

#[test]
fn a_blob_of_a_newer_release_is_named_by_its_version() {
    let mut files = filled();
    let blob = files.get_mut(&FIRST).unwrap();
    for at in [0, 4_096] {
        blob[at + 8] = 2;
        let mut hasher = blake3::Hasher::new_derive_key("strand v1 blob header");
        hasher.update(&blob[at..at + 4_080]);
        let check: [u8; 32] = hasher.finalize().into();
        blob[at + 4_080..at + 4_096].copy_from_slice(&check[..16]);
    }
    assert_eq!(faults(&check(&files)), [Fault::NewerVersion(2)]);
}

/// Changes a sealed blob's footer and makes its hash good again, as a mistaken program would.
fn with_other_footer(change: impl Fn(&mut [u8])) -> Verdict {
    let mut files = filled();
    let blob = files.get_mut(&FIRST).unwrap();
    let salt: [u8; 32] = blob[64..96].try_into().unwrap();
    let footer_at = blob.len() - 12_288;
    let footer = &mut blob[footer_at..];
    change(footer);
    let end = footer.len() - 32;
    let hash: [u8; 32] = blake3::keyed_hash(&salt, &footer[..end]).into();
    footer[end..].copy_from_slice(&hash);
    check(&files)
}

#[test]
fn a_footer_that_counts_wrong_or_lacks_a_record_is_found_out() {
    let verdict = with_other_footer(|footer| footer[36] += 1);
    assert_eq!(faults(&verdict), [Fault::FooterCounts]);
    assert_eq!(verdict.lost(), []);
    // One entry fewer: the store would not find the last piece.
    let verdict = with_other_footer(|footer| footer[32] -= 1);
    assert_eq!(faults(&verdict), [Fault::RecordNotInFooter]);
    assert!(verdict.findings[0].piece.is_some());
}

#[test]
fn a_sequence_that_two_pieces_have_is_a_fault() {
    let mut files = filled();
    // The blob that is not sealed: a footer would repeat the sequences.
    let (_, blob) = files.iter_mut().next_back().unwrap();
    let records = inspect::records(blob).unwrap();
    let (first, second) = (records[0], records[1]);
    let salt: [u8; 32] = blob[64..96].try_into().unwrap();
    let at = second.offset as usize;
    blob[at + 64..at + 72].copy_from_slice(&first.sequence.to_le_bytes());
    let check_of = blake3::keyed_hash(&salt, &blob[at..at + 72]);
    blob[at + 72..at + 88].copy_from_slice(&check_of.as_bytes()[..16]);
    let verdict = check(&files);
    assert_eq!(faults(&verdict), [Fault::SequenceTwice(first.sequence)]);
    let offset = verdict.findings[0].offset;
    assert!([first.offset, second.offset].contains(&offset), "{offset}");
}
