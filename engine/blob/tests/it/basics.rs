//! What a caller may rely on while nothing fails.

use strand_blob::{BadPiece, GetError, PutError, Stored};

use crate::support::{DAY_S, NOW_S, World, body_of, check_same, piece, piece_of, small_options};

/// Around one share, one block, one window, and the longest piece there is.
const LENGTHS: &[usize] = &[
    1, 63, 64, 576, 4_095, 4_096, 16_383, 16_384, 16_385, 32_768, 65_536, 100_000, 4_198_464,
];

#[test]
fn pieces_come_back_bit_exact_before_and_after_reopening() {
    let mut options = small_options();
    options.blob_bytes_max = 8 << 20;
    let mut world = World::new(1).reopen(options, 2);
    for (key, &len) in LENGTHS.iter().enumerate() {
        let mut new = piece(key as u64, len);
        new.path.truncate(key % 9);
        assert_eq!(world.put(new), Ok(Stored::New), "{len}");
    }
    for seed in 3..5 {
        for (key, &len) in LENGTHS.iter().enumerate() {
            let mut new = piece(key as u64, len);
            new.path.truncate(key % 9);
            check_same(&world, &new);
        }
        world.check_space();
        world = world.reopen(options, seed);
        assert_eq!(world.recovery.pieces, LENGTHS.len() as u64);
        assert_eq!(world.recovery.rotten, []);
        assert_eq!(world.recovery.torn_bytes, 0);
    }
}

#[test]
fn any_share_range_is_that_part_of_the_body() {
    let world = World::new(1);
    let body = body_of(1, 0, 5 * 16_384 + 100);
    world.put(piece_of(1, &body)).unwrap();
    let found = world.piece(1).unwrap();
    assert_eq!(found.share_count(), 6);
    for start in 0..6_u32 {
        for end in start + 1..=6 {
            let piece = found.clone();
            let part =
                world.run(|store| async move { store.read_shares(&piece, start..end).await });
            let wanted = &body[start as usize * 16_384..(end as usize * 16_384).min(body.len())];
            assert_eq!(part.unwrap(), wanted);
        }
    }
    #[expect(
        clippy::reversed_empty_ranges,
        reason = "a caller's mistake is answered, not a panic"
    )]
    for range in [0..0, 3..2, 0..7, 6..7] {
        let piece = found.clone();
        let (start, end) = (range.start, range.end);
        let part = world.run(|store| async move { store.read_shares(&piece, range).await });
        assert_eq!(
            part,
            Err(GetError::Range {
                start,
                end,
                share_count: 6
            })
        );
    }
}

#[test]
fn the_same_piece_again_is_acked_and_another_root_refused() {
    let world = World::new(1);
    for len in [576, 40_000] {
        let key = len as u64;
        assert_eq!(world.put(piece(key, len)), Ok(Stored::New));
        assert_eq!(world.put(piece(key, len)), Ok(Stored::Already));
        assert_eq!(
            world.put(piece_of(key, &body_of(key, 1, len))),
            Err(PutError::Conflict)
        );
        let mut other = piece(key, len);
        other.commitment[0] ^= 1;
        assert_eq!(world.put(other), Err(PutError::Conflict));
        check_same(&world, &piece(key, len));
    }
    assert_eq!(world.store.counters().pieces_stored, 2);
    assert_eq!(world.store.counters().acks_again, 2);
}

#[test]
fn one_id_of_two_satellites_is_two_pieces() {
    let world = World::new(1);
    let mut other = piece_of(1, &body_of(1, 1, 700));
    other.satellite = [0x77; 32];
    world.put(piece(1, 576)).unwrap();
    assert_eq!(world.put(other.clone()), Ok(Stored::New));
    let world = world.reopen(small_options(), 2);
    check_same(&world, &piece(1, 576));
    check_same(&world, &other);
    assert_eq!(world.delete(1), Ok(true));
    check_same(&world, &other);
}

#[test]
fn a_deleted_piece_stays_deleted_and_may_be_put_again() {
    let world = World::new(1);
    world.put(piece(1, 40_000)).unwrap();
    assert_eq!(world.delete(1), Ok(true));
    assert_eq!(world.delete(1), Ok(false));
    assert_eq!(world.piece(1).unwrap_err(), GetError::NotFound);
    let world = world.reopen(small_options(), 2);
    assert_eq!(world.piece(1).unwrap_err(), GetError::NotFound);
    assert_eq!((world.recovery.pieces, world.recovery.tombstones), (0, 1));
    let again = piece_of(1, &body_of(1, 1, 300));
    assert_eq!(world.put(again.clone()), Ok(Stored::New));
    check_same(&world.reopen(small_options(), 3), &again);
}

#[test]
fn pieces_that_expire_together_lie_together() {
    let world = World::new(1);
    for (key, life_s) in [
        (1, DAY_S),
        (2, 7 * DAY_S),
        (3, 30 * DAY_S),
        (4, 31 * DAY_S),
        (5, 0),
    ] {
        let mut new = piece(key, 576);
        new.expiry_s = if life_s == 0 { 0 } else { NOW_S + life_s };
        world.put(new).unwrap();
        assert_eq!(world.delete(key), Ok(true));
    }
    world.close();
    let classes: Vec<u8> = world.disk.files().values().map(|blob| blob[10]).collect();
    assert_eq!(classes, [0, 1, 2, 3]);
}

#[test]
fn blobs_roll_over_and_the_newest_goes_on_after_reopening() {
    let mut world = World::new(1);
    for key in 0..40 {
        world.put(piece(key, 20_000)).unwrap();
        if key % 7 == 6 {
            world = world.reopen(small_options(), key);
        }
    }
    let files = world.disk.files();
    assert!((4..=6).contains(&files.len()), "{} blobs", files.len());
    assert!(
        files
            .values()
            .all(|blob| blob.len() <= 256 << 10 && blob.len().is_multiple_of(4_096))
    );
    for key in 0..40 {
        check_same(&world, &piece(key, 20_000));
    }
    world.check_space();
}

#[test]
fn malformed_pieces_are_refused_with_the_reason() {
    let world = World::new(1);
    let refused = |new| match world.put(new) {
        Err(PutError::BadPiece(reason)) => reason,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(piece(1, 0)), BadPiece::BodyLength { bytes: 0 });
    let bytes = 257 * 16_384 + 1;
    assert_eq!(
        refused(piece(1, bytes)),
        BadPiece::BodyLength {
            bytes: bytes as u64
        }
    );
    let mut new = piece(1, 40_000);
    new.share_hashes.pop();
    assert_eq!(
        refused(new),
        BadPiece::ShareHashCount {
            found: 2,
            wanted: 3
        }
    );
    let mut new = piece(1, 576);
    new.share_hashes.push([0; 32]);
    assert_eq!(
        refused(new),
        BadPiece::ShareHashCount {
            found: 1,
            wanted: 0
        }
    );
    let mut new = piece(1, 576);
    new.path = vec![[0; 32]; 9];
    assert_eq!(refused(new), BadPiece::PathLength { found: 9 });
    assert_eq!(world.disk.files().len(), 0);
}

#[test]
fn a_closed_store_reads_and_refuses_the_rest() {
    let world = World::new(1);
    world.put(piece(1, 576)).unwrap();
    world.close();
    check_same(&world, &piece(1, 576));
    assert_eq!(world.put(piece(2, 576)), Err(PutError::Closed));
    assert_eq!(world.delete(1), Err(PutError::Closed));
    assert!(!world.store.has_room(1));
}

#[test]
fn a_node_serves_64_satellites_and_no_more() {
    let world = World::new(1);
    for satellite in 0..64 {
        let mut new = piece(1, 100);
        new.satellite = [satellite; 32];
        assert_eq!(world.put(new), Ok(Stored::New));
    }
    let mut new = piece(1, 100);
    new.satellite = [64; 32];
    assert_eq!(world.put(new), Err(PutError::TooManySatellites));
    let mut new = piece(2, 100);
    new.satellite = [63; 32];
    assert_eq!(world.put(new), Ok(Stored::New));
    let world = world.reopen(small_options(), 2);
    assert_eq!(world.recovery.pieces, 65);
    let world = world.reopen(small_options(), 3);
    world.check_space();
}
