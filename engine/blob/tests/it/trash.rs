//! Trash, restore, collection by filter: what is not wanted goes softly, and comes back if that was wrong.

use std::collections::BTreeMap;
use std::rc::Rc;

use strand_blob::disk::sim::SimDisk;
use strand_blob::{
    BlobId, CollectError, CollectRequest, GetError, NewPiece, PutError, StoreOptions, Stored,
    TRASH_S, Wanted, inspect, verify,
};

use crate::independent;
use crate::support::{
    DAY_S, NODE, NOW_S, SATELLITE, World, body_of, check_same, id_of, open, piece, piece_of,
    small_options,
};

/// Four records a blob.
fn options() -> StoreOptions {
    StoreOptions {
        blob_records_max: 4,
        ..small_options()
    }
}

/// When what is trashed now counts as trashed: not before the snapshot, which is a second after the pieces.
const TRASHED_S: u32 = NOW_S + 1;

fn filled(keys: std::ops::Range<u64>) -> World {
    let world = open(&SimDisk::new(1), options(), 1);
    for key in keys {
        assert_eq!(world.put(piece(key, 20_000)), Ok(Stored::New));
    }
    world
}

/// The piece as a reader at this time finds it.
fn body_at(world: &World, key: u64, now_s: u32) -> Result<u64, GetError> {
    world.run(move |store| async move {
        let found = store.piece(&SATELLITE, &id_of(key), now_s).await?;
        let body = store.read_shares(&found, 0..found.share_count()).await?;
        assert_eq!(body, piece(key, 20_000).body.concat());
        Ok(found.body_len)
    })
}

fn compact_all(world: &World, now_s: u32) {
    for _ in 0..50 {
        if world.compact(now_s).is_none() {
            return;
        }
        world.check_space();
    }
    panic!("compaction loops");
}

#[test]
fn trashed_pieces_are_kept_seven_days_and_survive_reopening() {
    //= docs/format.md#record
    //= type=test
    let world = filled(0..6);
    let done = world.trash(&[1, 2], NOW_S).unwrap();
    assert_eq!((done.examined, done.kept), (6, 4));
    assert_eq!((done.trashed, done.trashed_bytes), (2, 40_000));
    let space = world.store.space();
    assert_eq!((space.live_bytes, space.trash_bytes), (80_000, 40_000));
    let counters = world.store.counters();
    assert_eq!((counters.pieces, counters.trashed), (4, 2));
    world.check_space();
    let world = open(&world.crash(3), options(), 2);
    assert_eq!((world.recovery.pieces, world.recovery.trashed), (4, 2));
    assert_eq!(world.store.space().trash_bytes, 40_000);
    assert_eq!(
        body_at(&world, 1, TRASHED_S + TRASH_S + 1),
        Err(GetError::NotFound)
    );
    assert_eq!(body_at(&world, 1, TRASHED_S + TRASH_S), Ok(20_000));
    world.executor.run_until_stalled();
    world.check_space();
}

#[test]
fn a_trashed_piece_that_is_read_comes_back_and_is_named() {
    let world = filled(0..6);
    world.trash(&[1, 2], NOW_S).unwrap();
    assert_eq!(body_at(&world, 1, NOW_S + DAY_S), Ok(20_000));
    world.executor.run_until_stalled();
    assert_eq!(world.store.take_revived(), [(SATELLITE, id_of(1))]);
    assert_eq!(world.store.take_revived(), []);
    let world = open(&world.crash(3), options(), 2);
    assert_eq!(body_at(&world, 1, NOW_S + 9 * DAY_S), Ok(20_000));
    assert_eq!(
        body_at(&world, 2, NOW_S + 9 * DAY_S),
        Err(GetError::NotFound)
    );
    assert_eq!(world.store.take_revived(), []);
    world.check_space();
}

#[test]
fn a_read_of_a_trashed_piece_does_not_wait_for_its_restore_record() {
    use strand_blob::disk::sim::Op;
    let world = filled(0..6);
    world.trash(&[1], NOW_S).unwrap();
    world.disk.hold(Op::Sync);
    assert_eq!(body_at(&world, 1, NOW_S), Ok(20_000));
    assert_eq!(body_at(&world, 1, NOW_S), Ok(20_000));
    assert_eq!(
        world.store.take_revived(),
        [],
        "named before it was durable"
    );
    world.disk.release(Op::Sync);
    world.executor.run_until_stalled();
    assert_eq!(world.store.take_revived(), [(SATELLITE, id_of(1))]);
    assert_eq!(world.store.counters().pieces_restored, 1);
}

#[test]
fn everything_is_restored_at_once_but_what_is_over() {
    let world = filled(0..9);
    world.trash(&[1, 2, 3], NOW_S).unwrap();
    world.trash(&[4], NOW_S + 3 * DAY_S).unwrap();
    let restored = world.restore_all(NOW_S + 8 * DAY_S);
    assert_eq!(restored, Ok(1));
    assert_eq!(world.restore_all(NOW_S + 6 * DAY_S), Ok(3));
    assert_eq!(world.restore_all(NOW_S), Ok(0));
    let world = open(&world.crash(3), options(), 2);
    for key in 0..9 {
        check_same(&world, &piece(key, 20_000));
    }
    assert_eq!(world.store.space().trash_bytes, 0);
    world.check_space();
}

#[test]
fn a_put_of_a_trashed_piece_revives_it_and_another_content_is_a_conflict() {
    let world = filled(0..3);
    world.trash(&[1], NOW_S).unwrap();
    let other = piece_of(1, &body_of(1, 1, 20_000));
    assert_eq!(world.put(other.clone()), Err(PutError::Conflict));
    assert_eq!(world.put(piece(1, 20_000)), Ok(Stored::Already));
    assert_eq!(world.store.counters().trashed, 0);
    let world = open(&world.crash(7), options(), 2);
    assert_eq!((world.recovery.pieces, world.recovery.trashed), (3, 0));
    // Once its days are over it is no obstacle.
    world.trash(&[1], NOW_S).unwrap();
    let late = NewPiece {
        created_s: TRASHED_S + TRASH_S + 1,
        ..other
    };
    assert_eq!(world.put(late.clone()), Ok(Stored::New));
    check_same(&world, &late);
    world.check_space();
    check_same(&open(&world.crash(9), options(), 3), &late);
}

#[test]
fn a_trashed_piece_can_be_deleted() {
    let world = filled(0..3);
    world.trash(&[1], NOW_S).unwrap();
    assert_eq!(world.delete(1), Ok(true));
    assert_eq!(world.restore_all(NOW_S), Ok(0));
    let world = open(&world.crash(7), options(), 2);
    assert_eq!(world.restore_all(NOW_S), Ok(0));
    assert_eq!(body_at(&world, 1, NOW_S), Err(GetError::NotFound));
    world.check_space();
}

#[test]
fn compaction_takes_young_trash_along_and_leaves_the_old_behind() {
    let world = filled(0..8);
    world.trash(&[3], NOW_S).unwrap();
    for key in 0..3 {
        assert_eq!(world.delete(key), Ok(true));
    }
    let done = world.compact(NOW_S + DAY_S).unwrap();
    assert_eq!((done.moved_pieces, world.store.counters().trashed), (1, 1));
    let world = open(&world.crash(5), options(), 2);
    assert_eq!((world.recovery.pieces, world.recovery.trashed), (4, 1));
    world.check_space();
    // Days later it goes without having been written again.
    compact_all(&world, NOW_S + 9 * DAY_S);
    assert_eq!(world.store.space().trash_bytes, 0);
    for world in [world.reopen(options(), 3)] {
        assert_eq!(
            world.restore_all(NOW_S),
            Ok(u64::from(world.recovery.trashed > 0))
        );
        for key in 4..8 {
            check_same(&world, &piece(key, 20_000));
        }
        world.check_space();
    }
}

/// The trash record lies in one blob and the piece in another; whichever goes first, the piece is not live again.
#[test]
fn a_trash_record_outlives_the_piece_that_is_over() {
    // Blob 1: pieces 0 to 3. Blob 2: trash record of 3 and pieces that are deleted.
    let world = filled(0..4);
    world.trash(&[3], NOW_S).unwrap();
    for key in 10..13 {
        assert_eq!(world.put(piece(key, 20_000)), Ok(Stored::New));
    }
    for key in 10..13 {
        assert_eq!(world.delete(key), Ok(true));
    }
    for key in 20..22 {
        assert_eq!(world.put(piece(key, 20_000)), Ok(Stored::New));
    }
    let late_s = NOW_S + 9 * DAY_S;
    let done = world.compact(late_s).unwrap();
    assert!(!world.disk.files().contains_key(&BlobId(2)), "{done:?}");
    assert!(world.disk.files().contains_key(&BlobId(1)));
    let world = open(&world.crash(5), options(), 2);
    assert_eq!(body_at(&world, 3, late_s), Err(GetError::NotFound));
    assert_eq!((world.recovery.pieces, world.recovery.trashed), (5, 1));
}

/// A restore record lies in a blob that goes, trash record and piece in one that stays.
#[test]
fn a_restore_record_outlives_its_blob() {
    let world = filled(0..3);
    world.trash(&[1], NOW_S).unwrap();
    // Blob 1 is full: three pieces and the trash record. Blob 2: the restore record and three pieces that go.
    assert_eq!(world.restore_all(NOW_S), Ok(1));
    for key in 10..13 {
        assert_eq!(world.put(piece(key, 20_000)), Ok(Stored::New));
    }
    for key in 10..13 {
        assert_eq!(world.delete(key), Ok(true));
    }
    let before = world.store.counters().index_bytes;
    let done = world.compact(NOW_S).unwrap();
    assert_eq!((done.moved_marks, done.moved_tombstones), (1, 0));
    // Compaction had to ask blob 1 for its trash records, and keeps the one in mind.
    assert_eq!(world.store.counters().index_bytes, before + 16);
    assert!(!world.disk.files().contains_key(&BlobId(2)));
    let world = open(&world.crash(5), options(), 2);
    assert_eq!((world.recovery.pieces, world.recovery.trashed), (3, 0));
}

/// Where the trash record is gone, nothing is left that the restore record outranks.
#[test]
fn a_restore_record_goes_with_the_trash_record_that_it_outranks_though_its_piece_lives_on() {
    let put_and_delete = |world: &World, keys: std::ops::Range<u64>| {
        for key in keys.clone() {
            assert_eq!(world.put(piece(key, 20_000)), Ok(Stored::New));
        }
        for key in keys {
            assert_eq!(world.delete(key), Ok(true));
        }
    };
    // Blob 1: pieces 0 to 2 and 10. Blob 2: 11 and 12, the trash record of 1, piece 13. Blob 3: the restore record of 1, 14 to 16.
    let world = filled(0..3);
    for key in [10, 11, 12] {
        assert_eq!(world.put(piece(key, 20_000)), Ok(Stored::New));
    }
    world.trash(&[1], NOW_S).unwrap();
    assert_eq!(world.put(piece(13, 20_000)), Ok(Stored::New));
    assert_eq!(world.restore_all(NOW_S), Ok(1));
    for key in [14, 15, 16] {
        assert_eq!(world.put(piece(key, 20_000)), Ok(Stored::New));
    }
    for key in [14, 15, 16] {
        assert_eq!(world.delete(key), Ok(true));
    }
    // Blob 3 goes first: the restore record is needed.
    let done = world.compact(NOW_S).unwrap();
    assert!(!world.disk.files().contains_key(&BlobId(3)), "{done:?}");
    assert_eq!(done.moved_marks, 1, "{done:?}");
    // Blob 2 goes, and the trash record with it; its piece is live.
    for key in [11, 12, 13] {
        assert_eq!(world.delete(key), Ok(true));
    }
    let done = world.compact(NOW_S).unwrap();
    assert!(!world.disk.files().contains_key(&BlobId(2)), "{done:?}");
    assert_eq!(done.moved_marks, 0, "{done:?}");
    // All that is left are tombstones and the restore record, and none of them says anything.
    put_and_delete(&world, 20..26);
    compact_all(&world, NOW_S);
    for (id, bytes) in &world.disk.files() {
        let blob = independent::read_blob(bytes);
        let restore_count = blob.marks.iter().filter(|mark| !mark.is_trash).count();
        assert_eq!(restore_count, 0, "{id}");
    }
    let world = open(&world.crash(5), options(), 2);
    assert_eq!((world.recovery.pieces, world.recovery.trashed), (4, 0));
}

/// Trash and restore record lie in one blob that goes. The trash record alone would be needed, for an older piece of that name.
#[test]
fn of_the_marks_in_a_blob_only_the_newest_outlives_it() {
    // Blob 1: pieces 0 to 3. Blob 2: 1 is deleted and put again, and two more. Blob 3: the marks of 1, and two pieces that go.
    let world = filled(0..4);
    assert_eq!(world.delete(1), Ok(true));
    for key in [1, 10, 11] {
        assert_eq!(world.put(piece(key, 20_000)), Ok(Stored::New));
    }
    world.trash(&[1], NOW_S).unwrap();
    assert_eq!(world.restore_all(NOW_S), Ok(1));
    for key in [12, 13, 14] {
        assert_eq!(world.put(piece(key, 20_000)), Ok(Stored::New));
    }
    for key in [12, 13] {
        assert_eq!(world.delete(key), Ok(true));
    }
    let done = world.compact(NOW_S).unwrap();
    assert!(!world.disk.files().contains_key(&BlobId(3)), "{done:?}");
    assert_eq!(done.moved_marks, 0, "{done:?}");
    let world = open(&world.crash(5), options(), 2);
    assert_eq!((world.recovery.pieces, world.recovery.trashed), (7, 0));
}

/// A piece was over in the trash and put again; the new one expires. Nothing of the old one may come back.
#[test]
fn a_piece_that_is_dropped_leaves_a_tombstone_where_an_older_one_would_return() {
    let world = filled(0..3);
    world.trash(&[1], NOW_S).unwrap();
    // Blob 1 stays: two live pieces. Its piece 1 is over by now.
    let late_s = NOW_S + 10 * DAY_S;
    let again = |key| NewPiece {
        created_s: late_s,
        expiry_s: late_s + 40 * DAY_S,
        ..piece(key, 20_000)
    };
    for key in [1, 10, 11, 12] {
        assert_eq!(world.put(again(key)), Ok(Stored::New));
    }
    // Once more in the trash and back: the last mark says live.
    world.trash(&[1], late_s + 1).unwrap();
    assert_eq!(world.restore_all(late_s + 1), Ok(1));
    assert_eq!(world.put(piece(30, 100)), Ok(Stored::New));
    assert_eq!(world.put(piece(31, 100)), Ok(Stored::New));
    let over_s = late_s + 41 * DAY_S;
    let done = world.compact(over_s).unwrap();
    assert_eq!(done.expired_pieces, 4);
    assert!(world.disk.files().contains_key(&BlobId(1)));
    assert!(!world.disk.files().contains_key(&BlobId(2)));
    let world = open(&world.crash(5), options(), 2);
    assert_eq!(world.piece(1).unwrap_err(), GetError::NotFound);
    world.check_space();
}

struct Nothing;

impl Wanted for Nothing {
    fn contains(&self, _: &[u8; 32]) -> bool {
        false
    }
}

fn request(snapshot_s: u32) -> CollectRequest<'static> {
    CollectRequest {
        satellite: SATELLITE,
        first_id: [0; 32],
        last_id: [0xff; 32],
        snapshot_s,
        wanted: &Nothing,
        now_s: NOW_S,
    }
}

#[test]
fn a_filter_that_would_trash_more_than_three_percent_changes_nothing() {
    let mut options = options();
    options.blob_records_max = 300;
    options.blob_bytes_max = 4 << 20;
    let world = open(&SimDisk::new(1), options, 1);
    for key in 0..101 {
        assert_eq!(world.put(piece(key, 100)), Ok(Stored::New));
    }
    let before = world.disk.files();
    let refused = world.run(|store| async move { store.collect(request(NOW_S + 1)).await });
    let would_trash = 101;
    assert_eq!(
        refused,
        Err(CollectError::Refused {
            would_trash,
            of: 101
        })
    );
    assert_eq!(world.disk.files(), before);
    // A hundred are few enough whatever is there.
    let keys: Vec<u64> = (0..100).collect();
    let done = world.trash(&keys, NOW_S).unwrap();
    assert_eq!((done.trashed, done.kept), (100, 1));
    world.check_space();
}

#[test]
fn three_percent_of_many_pieces_may_go_and_one_more_may_not() {
    let mut options = options();
    options.blob_records_max = 5_000;
    options.blob_bytes_max = 16 << 20;
    let world = open(&SimDisk::new(1), options, 1);
    let store = Rc::clone(&world.store);
    world.executor.run(async move {
        for key in 0..3_500 {
            store.put(piece(key, 64)).await.unwrap();
        }
    });
    let keys: Vec<u64> = (0..106).collect();
    let refused = world.trash(&keys, NOW_S);
    assert_eq!(
        refused,
        Err(CollectError::Refused {
            would_trash: 106,
            of: 3_500
        })
    );
    assert_eq!(world.trash(&keys[..105], NOW_S).unwrap().trashed, 105);
}

#[test]
fn only_old_pieces_of_that_satellite_in_that_range_are_collected() {
    let world = filled(0..3);
    let mut other = piece(1, 500);
    other.satellite = [0x77; 32];
    world.put(other.clone()).unwrap();
    let mut young = piece(4, 500);
    young.created_s = NOW_S + 50;
    world.put(young.clone()).unwrap();
    let mut expired = piece(5, 500);
    (expired.created_s, expired.expiry_s) = (NOW_S - DAY_S, NOW_S - 1);
    world.put(expired).unwrap();
    let done = world.run(|store| async move {
        let only_first = CollectRequest {
            last_id: id_of(0),
            first_id: id_of(0),
            ..request(NOW_S + 50)
        };
        let none = CollectRequest {
            satellite: [0x99; 32],
            ..request(NOW_S + 50)
        };
        let first = store.collect(only_first).await.unwrap();
        let none = store.collect(none).await.unwrap();
        (
            first.trashed,
            none.examined,
            store.collect(request(NOW_S + 50)).await.unwrap(),
        )
    });
    assert_eq!((done.0, done.1), (1, 0));
    // Pieces 1 and 2 go; 4 is younger than the snapshot, 5 is not there any more.
    assert_eq!((done.2.examined, done.2.trashed), (3, 2));
    check_same(&world, &other);
    check_same(&world, &young);
    assert_eq!(world.store.counters().trashed, 3);
}

#[test]
fn a_collection_that_is_dropped_is_finished_by_the_next() {
    for polls in 0..60 {
        let world = filled(0..8);
        let store = Rc::clone(&world.store);
        let (stop, stopped) = (
            Rc::new(std::cell::Cell::new(false)),
            Rc::new(std::cell::Cell::new(0)),
        );
        let (flag, count) = (Rc::clone(&stop), Rc::clone(&stopped));
        world.executor.spawn(async move {
            let mut work = Box::pin(crate::support::collect(&store, vec![1, 2, 3, 4], NOW_S));
            std::future::poll_fn(|context| {
                use std::future::Future;
                count.set(count.get() + 1);
                if flag.get() {
                    return std::task::Poll::Ready(());
                }
                context.waker().wake_by_ref();
                work.as_mut().poll(context).map(|_| ())
            })
            .await;
        });
        for _ in 0..polls {
            world.executor.step();
        }
        stop.set(true);
        world.executor.run_until_stalled();
        world.check_space();
        world.trash(&[1, 2, 3, 4], NOW_S).unwrap();
        assert_eq!(world.store.counters().trashed, 4, "{polls}");
        let world = open(&world.crash(polls), options(), polls);
        assert_eq!((world.recovery.pieces, world.recovery.trashed), (4, 4));
    }
}

#[test]
fn an_expired_piece_is_not_there_by_the_satellites_time() {
    let world = open(&SimDisk::new(1), options(), 1);
    let expiring = NewPiece {
        expiry_s: NOW_S + DAY_S,
        ..piece(0, 20_000)
    };
    world.put(expiring.clone()).unwrap();
    assert_eq!(body_at(&world, 0, NOW_S + DAY_S), Ok(20_000));
    assert_eq!(
        body_at(&world, 0, NOW_S + DAY_S + 1),
        Err(GetError::NotFound)
    );
    // A node that does not know the time.
    assert_eq!(body_at(&world, 0, 0), Ok(20_000));
    let later = NewPiece {
        created_s: NOW_S + DAY_S + 1,
        expiry_s: 0,
        ..expiring
    };
    assert_eq!(world.put(later), Ok(Stored::New));
    assert_eq!(body_at(&world, 0, NOW_S + DAY_S + 1), Ok(20_000));
    world.check_space();
}

#[test]
fn expired_bytes_count_when_a_blob_is_picked() {
    let mut options = options();
    options.blob_records_max = 8;
    let world = open(&SimDisk::new(1), options, 1);
    // Half a day and twenty days, in one blob each by class; the class of seven days holds both of these.
    for key in 0..9 {
        let life_s = if key < 6 { 2 * DAY_S } else { 7 * DAY_S };
        let piece = NewPiece {
            expiry_s: NOW_S + life_s,
            ..piece(key, 20_000)
        };
        world.put(piece).unwrap();
    }
    assert_eq!(world.compact(NOW_S + DAY_S), None);
    let done = world.compact(NOW_S + 4 * DAY_S).unwrap();
    assert_eq!((done.expired_pieces, done.moved_pieces), (6, 2));
    world.check_space();
}

#[test]
fn a_blob_of_tombstones_goes_once_nothing_is_left_that_they_outrank() {
    let world = filled(0..8);
    // Two blobs of pieces. Half of each goes, so their blobs stay; a blob of four tombstones is sealed.
    for key in [0, 1, 4, 5, 2, 6] {
        assert_eq!(world.delete(key), Ok(true));
    }
    world.put(piece(20, 20_000)).unwrap();
    world.put(piece(21, 20_000)).unwrap();
    world.put(piece(22, 20_000)).unwrap();
    let before = world.store.counters().blobs_removed;
    compact_all(&world, NOW_S);
    assert!(world.store.counters().blobs_removed >= before + 3);
    for (id, bytes) in world.disk.files() {
        let records = inspect::records(&bytes).unwrap();
        assert!(
            records.iter().any(inspect::StoredRecord::is_piece),
            "blob {id} holds tombstones alone"
        );
    }
    let world = open(&world.crash(3), options(), 2);
    for key in [0, 1, 4, 5, 2, 6] {
        assert_eq!(world.piece(key).unwrap_err(), GetError::NotFound);
    }
    for key in [3, 7, 20, 21] {
        check_same(&world, &piece(key, 20_000));
    }
}

#[test]
fn verify_tells_trashed_pieces_from_the_others() {
    let world = filled(0..6);
    world.trash(&[1, 2, 3], NOW_S).unwrap();
    body_at(&world, 3, NOW_S).unwrap();
    world.close();
    let files: BTreeMap<BlobId, Vec<u8>> = world.disk.files();
    let disk = SimDisk::from_files(1, files);
    let verdict = world.run(move |_| async move {
        verify::verify(&disk, NODE, [5; 32], &mut |_: &verify::Progress| {}).await
    });
    let verdict = verdict.unwrap();
    assert!(verdict.is_good());
    assert_eq!((verdict.pieces, verdict.trashed_pieces), (6, 2));
    assert_eq!(verdict.records, 10);
}

/// A piece that compaction moves while the trash is walked over is behind the walk; its old blob may stay for a while.
#[test]
fn what_compaction_moves_meanwhile_is_restored_as_well() {
    use std::cell::Cell;
    use strand_blob::disk::sim::Op;

    let mut options = options();
    options.blob_records_max = 8;
    let world = open(&SimDisk::new(1), options, 1);
    for key in 0..6 {
        world.put(piece(key, 20_000)).unwrap();
    }
    world.trash(&[5], NOW_S).unwrap();
    for key in 0..4 {
        assert_eq!(world.delete(key), Ok(true));
    }
    let moved = world.store.counters().records_moved;
    world.disk.hold(Op::Sync);
    let store = Rc::clone(&world.store);
    world.executor.spawn(async move {
        store.compact(NOW_S).await.unwrap();
    });
    world.executor.run_until_stalled();
    let restored = Rc::new(Cell::new(None));
    let (store, answer) = (Rc::clone(&world.store), Rc::clone(&restored));
    world.executor.spawn(async move {
        answer.set(Some(store.restore_all(&SATELLITE, NOW_S).await));
    });
    world.executor.run_until_stalled();
    world.disk.hold(Op::Remove);
    world.disk.release(Op::Sync);
    world.executor.run_until_stalled();
    assert!(world.store.counters().records_moved > moved, "it was moved");
    assert_eq!(world.store.counters().blobs_removed, 0);
    assert_eq!(restored.take(), Some(Ok(1)));
    world.disk.release(Op::Remove);
    world.executor.run_until_stalled();
}
