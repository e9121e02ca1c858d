//! Bodies of sealed blobs that are in memory: the same answers, without the disk.

use strand_blob::disk::sim::{Failure, Fault, Op, SimDisk};
use strand_blob::{BlobId, Damage, GetError};

use crate::support::{World, check_same, open, piece, small_options};

/// Small and large pieces by turns.
fn len_of(key: u64) -> usize {
    [576, 100_000][key as usize % 2]
}

/// Eight pieces in two sealed blobs, one more in an open one.
fn filled() -> World {
    let mut options = small_options();
    options.blob_records_max = 4;
    options.lanes_max = 1;
    let disk = SimDisk::new(1);
    disk.use_memory();
    let world = open(&disk, options, 1);
    for key in 0..9 {
        world.put(piece(key, len_of(key))).unwrap();
    }
    assert_eq!(world.store.counters().blobs_sealed, 2);
    world
}

#[test]
fn what_is_in_memory_is_served_though_the_disk_fails_every_read() {
    let world = filled();
    world.disk.inject(Fault {
        ops: &[Op::Read],
        nth: 1,
        failure: Failure::Eio,
        is_sticky: true,
    });
    for key in 0..8 {
        let wanted = piece(key, len_of(key)).body.concat();
        // Every other look finds its bytes in memory, two looks a piece.
        let bodies: Vec<_> = (0..64).map(|_| world.body(key)).collect();
        let served = bodies.iter().flatten().count();
        assert!((1..64).contains(&served), "{served} of 64");
        assert!(bodies.iter().flatten().all(|body| *body == wanted));
    }
    assert!(world.store.counters().shares_from_memory > 0);
    assert!(
        (0..64).all(|_| world.body(8).is_err()),
        "an open blob is not looked at"
    );
}

#[test]
fn a_damaged_share_in_memory_is_never_handed_out() {
    let world = filled();
    // The second piece of the first blob, past the first share.
    world.disk.edit(BlobId(1), |bytes| {
        let body = piece(1, len_of(1)).body.concat();
        let at = bytes
            .windows(64)
            .position(|window| *window == body[20_000..20_064]);
        bytes[at.unwrap()] ^= 1;
    });
    for _ in 0..64 {
        let error = world.body(1).unwrap_err();
        let is_share = matches!(
            error,
            GetError::Corrupt {
                what: Damage::Share(_),
                ..
            }
        );
        assert!(is_share, "{error:?}");
    }
    check_same(&world, &piece(3, len_of(3)));
}

#[test]
fn a_store_that_is_told_so_does_without_memory() {
    let world = filled();
    world.close();
    let mut options = small_options();
    options.uses_memory = false;
    let world = open(&world.disk, options, 2);
    for key in 0..9 {
        for _ in 0..8 {
            check_same(&world, &piece(key, len_of(key)));
        }
    }
    assert_eq!(world.store.counters().shares_from_memory, 0);
}
