//! Blobs that another program removes or shortens while they are appended to: noticed, told, and given up.

use std::cell::Cell;
use std::rc::Rc;

use strand_blob::disk::sim::{Failure, Fault, Op, SimDisk};
use strand_blob::{
    BlobId, Damage, Disk, DiskError, DisplacedBlob, FileId, GetError, PutError, StoreOptions,
    Stored,
};

use crate::support::{SATELLITE, World, check_same, id_of, open, piece, small_options};

fn look(world: &World) -> Vec<(BlobId, u64)> {
    let found = world.run(|store| async move { store.check_open_blobs().await });
    let pair = |found: DisplacedBlob| (found.blob, found.lost_pieces);
    found.into_iter().map(pair).collect()
}

fn filled(count: u64) -> World {
    let world = World::new(1);
    for key in 0..count {
        assert_eq!(world.put(piece(key, 5_000)), Ok(Stored::New));
    }
    world
}

fn names(keys: std::ops::Range<u64>) -> Vec<([u8; 32], [u8; 32])> {
    keys.map(|key| (SATELLITE, id_of(key))).collect()
}

#[test]
fn a_removed_open_blob_takes_no_further_group_and_its_pieces_are_told_as_lost() {
    let world = filled(4);
    assert_eq!(look(&world), []);
    world.disk.unlink(BlobId(1));
    // Acked, and gone: nobody has looked yet.
    assert_eq!(world.put(piece(4, 5_000)), Ok(Stored::New));
    assert_eq!(look(&world), [(BlobId(1), 5)]);
    assert_eq!(world.store.take_lost(), names(0..5));
    assert!(matches!(
        world.piece(0),
        Err(GetError::Corrupt {
            what: Damage::Missing,
            ..
        })
    ));
    assert_eq!(look(&world), [], "told once");
    assert!(!world.store.is_read_only());
    assert_eq!(world.put(piece(5, 5_000)), Ok(Stored::New));
    assert_eq!(world.put(piece(0, 5_000)), Ok(Stored::New), "a new copy");
    assert!(world.disk.files().contains_key(&BlobId(2)));
    assert_eq!(look(&world), []);
    assert!(world.compact(u32::MAX).is_none(), "it is left alone");
    let disk = world.crash(3);
    let world = open(&disk, small_options(), 4);
    for key in [0, 5] {
        check_same(&world, &piece(key, 5_000));
    }
    assert_eq!(world.piece(4).unwrap_err(), GetError::NotFound);
}

#[test]
fn an_open_blob_cut_short_costs_what_was_cut_off() {
    for cut_to in [0, 4_096, 8_192 + 64, 20_000] {
        let world = filled(4);
        world.disk.edit(BlobId(1), |bytes| bytes.truncate(cut_to));
        if cut_to == 0 {
            // It grows again over the hole, beyond what was acked; its header does not come back.
            assert_eq!(world.put(piece(9, 5_000)), Ok(Stored::New));
        }
        let found = look(&world);
        let lost: Vec<_> = world.store.take_lost();
        assert_eq!(found, [(BlobId(1), lost.len() as u64)], "{cut_to}");
        // Groups of one piece are two blocks long.
        let kept = cut_to.saturating_sub(8_192) as u64 / 8_192;
        let all = if cut_to == 0 { 5 } else { 4 };
        assert_eq!(lost.len() as u64, all - kept, "{cut_to}");
        for key in 0..kept {
            check_same(&world, &piece(key, 5_000));
        }
        assert_eq!(world.put(piece(7, 5_000)), Ok(Stored::New));
        let world = open(&world.crash(1), small_options(), 2);
        check_same(&world, &piece(7, 5_000));
        for key in 0..kept {
            check_same(&world, &piece(key, 5_000));
        }
    }
}

#[test]
fn a_group_on_its_way_to_a_removed_blob_is_refused_and_not_acked() {
    let world = filled(2);
    world.disk.hold(Op::Sync);
    let answer = Rc::new(Cell::new(None));
    let (store, told) = (Rc::clone(&world.store), Rc::clone(&answer));
    world.executor.spawn(async move {
        told.set(Some(store.put(piece(2, 5_000)).await));
    });
    world.executor.run_until_stalled();
    world.disk.unlink(BlobId(1));
    assert_eq!(look(&world), [(BlobId(1), 2)]);
    assert_eq!(answer.get(), None, "on its way");
    world.disk.release(Op::Sync);
    world.executor.run_until_stalled();
    let refused = PutError::Disk(DiskError::NotFound);
    assert_eq!(answer.get(), Some(Err(refused)));
    assert_eq!(world.piece(2).unwrap_err(), GetError::NotFound);
    assert_eq!(world.put(piece(2, 5_000)), Ok(Stored::New));
    let world = open(&world.crash(1), small_options(), 2);
    check_same(&world, &piece(2, 5_000));
}

#[test]
fn sealing_notices_as_well_and_leaves_the_pieces_to_the_next_look() {
    let options = StoreOptions {
        blob_records_max: 3,
        lanes_max: 1,
        ..small_options()
    };
    let world = open(&SimDisk::new(1), options, 1);
    for key in 0..3 {
        assert_eq!(world.put(piece(key, 5_000)), Ok(Stored::New));
    }
    world.disk.unlink(BlobId(1));
    // The fourth finds it full.
    assert_eq!(world.put(piece(3, 5_000)), Ok(Stored::New));
    assert_eq!(world.store.counters().blobs_sealed, 0);
    assert_eq!(world.store.take_lost(), []);
    assert_eq!(look(&world), [(BlobId(1), 3)]);
    assert_eq!(world.store.take_lost(), names(0..3));
    check_same(&world, &piece(3, 5_000));
}

#[test]
fn a_disk_that_cannot_say_is_believed_to_hold_what_it_held() {
    let world = filled(2);
    for op in [Op::Status, Op::Read] {
        world.disk.inject(Fault {
            ops: match op {
                Op::Status => &[Op::Status],
                _ => &[Op::Read],
            },
            nth: 1,
            failure: Failure::Eio,
            is_sticky: true,
        });
        assert_eq!(look(&world), []);
        world.disk.heal();
    }
    assert_eq!(world.put(piece(2, 5_000)), Ok(Stored::New));
    for key in 0..3 {
        check_same(&world, &piece(key, 5_000));
    }
}

#[test]
fn the_simulated_disk_forgets_an_unlinked_file_only_once_it_is_closed() {
    let world = World::new(1);
    let disk = world.disk.clone();
    world.run(|_| async move {
        let id = FileId::Blob(BlobId(9));
        let file = disk.create(id).await.unwrap();
        let block = || strand_blob::IoBuffer::zeroed(4_096);
        disk.write(&file, 0, block(), 4_096).await.0.unwrap();
        assert_eq!(disk.named_len(&file).await, Ok(Some(4_096)));
        disk.edit(id, |bytes| bytes.truncate(100));
        assert_eq!(disk.named_len(&file).await, Ok(Some(100)));
        disk.unlink(id);
        assert_eq!(disk.named_len(&file).await, Ok(None));
        disk.write(&file, 0, block(), 4_096).await.0.unwrap();
        disk.sync(&file).await.unwrap();
        assert_eq!(disk.read(&file, 0, block()).await.0, Ok(4_096));
        assert!(disk.list().await.unwrap().is_empty());
        assert_eq!(disk.open(id).await.unwrap_err(), DiskError::NotFound);
        assert_eq!(disk.remove(id).await, Err(DiskError::NotFound));
        assert!(disk.crash(1).all_files().is_empty());
    });
}
