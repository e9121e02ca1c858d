//! Scrub: damage is found before a reader meets it, is told once, and costs the damaged piece only.

use std::collections::BTreeSet;

use strand_blob::disk::sim::{Failure, Fault, Op, SimDisk};
use strand_blob::{BlobId, Damage, GetError, NewPiece, ScrubCursor, StoreOptions, Stored, inspect};

use crate::support::{NOW_S, SATELLITE, World, check_same, id_of, open, piece, small_options};

/// Three records a blob.
fn options() -> StoreOptions {
    StoreOptions {
        blob_records_max: 3,
        ..small_options()
    }
}

/// Seven pieces: two sealed blobs and an open one.
fn filled() -> World {
    let world = open(&SimDisk::new(1), options(), 1);
    for key in 0..7 {
        assert_eq!(world.put(piece(key, len_of(key))), Ok(Stored::New));
    }
    world
}

fn len_of(key: u64) -> usize {
    [576, 40_000, 16_384][key as usize % 3]
}

/// A place in a record.
type Place = fn(&inspect::StoredRecord) -> u64;

/// Flips a bit at a place in the record of a piece.
fn flip(world: &World, key: u64, at: impl Fn(&inspect::StoredRecord) -> u64) {
    for (id, bytes) in world.disk.files() {
        let records = inspect::records(&bytes).unwrap();
        if let Some(record) = records.iter().find(|record| record.id == id_of(key)) {
            let offset = at(record) as usize;
            return world.disk.edit(id, |bytes| bytes[offset] ^= 8);
        }
    }
    panic!("no piece {key}");
}

#[test]
fn a_whole_store_is_scrubbed_in_bounded_steps_without_a_finding() {
    let world = filled();
    for bytes_max in [1, 20_000, 1 << 30] {
        let steps = world.scrub(bytes_max);
        let records: u64 = steps.iter().map(|step| step.records).sum();
        assert_eq!(records, 7, "{bytes_max}");
        for step in &steps {
            assert_eq!((step.damaged_records, step.damaged_headers), (0, 0));
            // One record, or as many as fit; and the two blocks of the blob header.
            let longest = 41_000;
            assert!(
                step.bytes_read <= bytes_max.max(longest) + 8_192,
                "{step:?}"
            );
        }
        assert!(bytes_max > 1 || steps.len() == 7);
    }
    assert_eq!(world.store.take_lost(), []);
}

#[test]
fn damage_anywhere_in_a_live_record_takes_the_piece_out_of_service() {
    // Header, body, last share, trailer: each in a sealed blob and in the open one.
    let places: [(Place, &str); 4] = [
        (|record| record.offset + 20, "header"),
        (|record| record.body_offset + 100, "body"),
        (
            |record| record.checksum_table_offset() - 1,
            "end of the body",
        ),
        (|record| record.trailer_checksum_offset() - 1, "trailer"),
    ];
    for key in 0..7 {
        for (place, name) in places {
            let world = filled();
            flip(&world, key, place);
            let live_before = world.store.space().live_bytes;
            let lost: Vec<_> = world
                .scrub(50_000)
                .into_iter()
                .flat_map(|step| step.lost)
                .collect();
            assert_eq!(lost.len(), 1, "{key} {name}");
            assert_eq!((lost[0].satellite, lost[0].id), (SATELLITE, id_of(key)));
            assert_eq!(world.store.take_lost(), [(SATELLITE, id_of(key))]);
            assert_eq!(world.store.take_lost(), []);
            assert!(matches!(world.piece(key), Err(GetError::Corrupt { .. })));
            assert_eq!(
                live_before - world.store.space().live_bytes,
                len_of(key) as u64
            );
            let counters = world.store.counters();
            assert_eq!((counters.pieces, counters.damaged), (6, 1));
            // A second pass finds it damaged and lost nothing.
            assert!(world.scrub(50_000).iter().all(|step| step.lost.is_empty()));
            world.check_space();
            for other in (0..7).filter(|&other| other != key) {
                check_same(&world, &piece(other, len_of(other)));
            }
            // A new copy takes its place.
            assert_eq!(world.put(piece(key, len_of(key))), Ok(Stored::New));
            check_same(&world, &piece(key, len_of(key)));
            world.check_space();
        }
    }
}

#[test]
fn a_body_with_new_checksums_is_found_by_its_root() {
    let world = filled();
    let record = inspect::records(&world.disk.files()[&BlobId(1)]).unwrap()[1];
    let range = record.body_and_trailer();
    world.disk.edit(BlobId(1), |bytes| {
        let bytes = &mut bytes[range.start as usize..range.end as usize];
        bytes[17_000] ^= 1;
        inspect::danger_recompute_checksums(&record, bytes);
    });
    let lost: Vec<_> = world
        .scrub(1 << 20)
        .into_iter()
        .flat_map(|step| step.lost)
        .collect();
    assert_eq!(lost.len(), 1);
    assert_eq!(lost[0].damage, Damage::Root);
}

#[test]
fn damage_to_what_nobody_reads_is_no_loss() {
    let world = filled();
    assert_eq!(world.delete(1), Ok(true));
    flip(&world, 1, |record| record.body_offset + 9);
    let steps = world.scrub(1 << 20);
    assert_eq!(
        steps.iter().map(|step| step.damaged_records).sum::<u64>(),
        1
    );
    assert!(steps.iter().all(|step| step.lost.is_empty()));
    assert_eq!(world.store.take_lost(), []);
}

#[test]
fn a_lost_piece_stays_away_from_compaction_and_its_blob_still_goes() {
    let world = filled();
    flip(&world, 0, |record| record.body_offset);
    assert_eq!(
        world
            .scrub(1 << 20)
            .iter()
            .map(|step| step.lost.len())
            .sum::<usize>(),
        1
    );
    assert_eq!(world.delete(1), Ok(true));
    let done = world.compact(NOW_S).unwrap();
    assert_eq!((done.moved_pieces, done.lost.len()), (1, 0));
    assert_eq!(world.piece(0).unwrap_err(), GetError::NotFound);
    check_same(&world, &piece(2, len_of(2)));
    world.check_space();
    assert_eq!(world.store.counters().damaged, 0);
}

#[test]
fn a_cursor_into_a_blob_that_is_gone_goes_on_with_the_next() {
    let world = filled();
    for key in 0..3 {
        assert_eq!(world.delete(key), Ok(true));
    }
    let cursor = ScrubCursor {
        blob: BlobId(1),
        offset: 9_000,
    };
    assert!(world.compact(NOW_S).is_some());
    let step = world.run(move |store| async move { store.scrub_step(cursor, 1 << 20).await });
    let step = step.unwrap();
    assert_eq!((step.next.blob, step.records), (BlobId(3), 3));
    assert_eq!(step.lost, []);
}

#[test]
fn one_failed_read_costs_nothing_and_a_dead_disk_no_piece() {
    let world = filled();
    for nth in 1..12 {
        let fault = Fault {
            ops: &[Op::Read],
            nth,
            failure: Failure::Eio,
            is_sticky: false,
        };
        world.disk.inject(fault);
        let lost = world.run(|store| async move {
            let mut cursor = ScrubCursor::default();
            let mut lost = 0;
            while let Some(step) = store.scrub_step(cursor, 30_000).await {
                cursor = step.next;
                lost += step.lost.len();
            }
            lost
        });
        world.disk.heal();
        assert_eq!(lost, 0, "read {nth}");
    }
    world.disk.inject(Fault {
        ops: &[Op::Read],
        nth: 1,
        failure: Failure::Eio,
        is_sticky: true,
    });
    let steps = world.scrub(30_000);
    let unreadable: Vec<_> = steps
        .iter()
        .filter_map(|step| step.unreadable.map(|_| step.blob))
        .collect();
    assert_eq!(unreadable, [BlobId(1), BlobId(2), BlobId(3)]);
    assert!(steps.iter().all(|step| step.lost.is_empty()));
    world.disk.heal();
    assert_eq!(world.store.counters().pieces, 7);
    world.check_space();
}

#[test]
fn a_blob_that_cannot_be_read_is_passed_and_costs_its_pieces_only_if_others_are_read() {
    for victim in 1..=3 {
        let world = filled();
        world.disk.fail_reads(BlobId(victim));
        let steps = world.scrub(1 << 20);
        let read: BTreeSet<_> = steps.iter().map(|step| step.blob).collect();
        assert_eq!(read.len(), 3, "passed: {steps:?}");
        let lost: Vec<_> = steps.iter().flat_map(|step| &step.lost).collect();
        if victim == 3 {
            // Its list is in memory, and each record's own read fails.
            assert_eq!(lost.len(), 1);
            assert_eq!((lost[0].id, lost[0].damage), (id_of(6), Damage::Unreadable));
            assert!(steps.iter().all(|step| step.unreadable.is_none()));
        } else {
            // Nobody knows where its records lie.
            assert!(lost.is_empty());
            let passed = steps.iter().find(|step| step.unreadable.is_some()).unwrap();
            assert_eq!((passed.blob, passed.records), (BlobId(victim), 0));
        }
        world.disk.heal();
        assert_eq!(world.store.counters().damaged, u64::from(victim == 3));
        world.check_space();
    }
}

#[test]
fn records_that_cannot_be_read_end_a_step_before_they_take_for_ever() {
    let world = open(&SimDisk::new(1), small_options(), 1);
    for key in 0..40 {
        assert_eq!(world.put(piece(key, 576)), Ok(Stored::New));
    }
    // Another blob, which is read.
    let short = NewPiece {
        expiry_s: NOW_S + 60,
        ..piece(100, 576)
    };
    assert_eq!(world.put(short), Ok(Stored::New));
    world.disk.fail_reads(BlobId(1));
    let steps = world.scrub(1 << 20);
    let records: Vec<_> = steps.iter().map(|step| step.records).collect();
    assert_eq!(records, [16, 16, 8, 1]);
    assert_eq!(world.store.counters().damaged, 40);
    world.check_space();
}

#[test]
fn a_share_that_a_reader_finds_damaged_is_told_and_the_others_are_served() {
    let world = filled();
    flip(&world, 1, |record| record.body_offset + 20_000);
    let found = world.piece(1).unwrap();
    let read = |from: u32| {
        let found = found.clone();
        world.run(move |store| async move { store.read_shares(&found, from..from + 1).await })
    };
    assert!(matches!(
        read(1),
        Err(GetError::Corrupt {
            what: Damage::Share(1),
            ..
        })
    ));
    assert!(read(0).is_ok());
    assert_eq!(world.store.take_lost(), [(SATELLITE, id_of(1))]);
    // One share is the whole piece: out of service at once.
    flip(&world, 0, |record| record.body_offset + 20);
    assert!(matches!(world.piece(0), Err(GetError::Corrupt { .. })));
    assert_eq!(world.store.take_lost(), [(SATELLITE, id_of(0))]);
    assert_eq!(world.store.counters().damaged, 1);
    world.check_space();
}
