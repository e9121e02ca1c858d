//! Puts: what is taken, what is refused, and what is left behind.

use std::time::Duration;

use bytes::Bytes;
use strand_blob::GetError;
use strand_blob::disk::sim::{ALL_OPS, Failure, Fault, Op, SimDisk};
use strand_protocol::pb::node_response::Answer;
use strand_protocol::permit::{LimitAction, LimitFields, Receipt};
use strand_protocol::{Code, NodeId, PieceId, pb};

use super::world::{EPOCH, End, Segment, WRITE_BUDGET_BYTES, World, in_worlds};
use crate::core::executor::{Clock, Executor, timeout};
use crate::core::simulated::SimExecutor;
use crate::stream::{RecvStream, SendStream, StreamError};

/// (k, n, plaintext bytes): 576 bytes, one short share, one full share, one more leaf, many shares, n = k, n = 1.
const SHAPES: [(u8, u8, u64); 7] = [
    (29, 93, 16_385),
    (4, 10, 50_000),
    (1, 3, 16_352),
    (1, 3, 16_385),
    (4, 10, 3_000_000),
    (2, 2, 100_000),
    (1, 1, 40_000),
];

const ADMITTED: End = End::Answer(Answer::PutAdmitted(pb::PutAdmitted {}));

async fn assert_not_stored(world: &World, segment: &Segment) {
    let found = world
        .store()
        .piece(world.satellite.as_bytes(), segment.id.as_bytes(), 0)
        .await;
    assert_eq!(found.map(|_| ()), Err(GetError::NotFound));
}

#[test]
fn pieces_of_every_shape_are_stored_and_receipted() {
    in_worlds(async |world| {
        for (required, total, plain_len) in SHAPES {
            let segment = world.segment(required, total, plain_len);
            let receipt = world.put(&segment).await;
            assert_eq!(receipt.piece_len, segment.body.len() as u64);
            assert_eq!(
                (receipt.node, receipt.piece_id, receipt.index),
                (world.node, segment.id, segment.index)
            );
            assert_eq!(
                (receipt.root, receipt.commitment),
                (segment.tree.root, segment.commitment)
            );
            assert_eq!((receipt.piece_expiry_ms, receipt.epoch), (0, EPOCH));

            let store = world.store();
            let piece = store
                .piece(world.satellite.as_bytes(), segment.id.as_bytes(), 0)
                .await
                .unwrap();
            assert_eq!(piece.path, segment.path);
            assert_eq!(piece.share_hashes, segment.tree.share_hashes);
            assert_eq!(u64::from(piece.created_s), world.executor.now_ms() / 1000);
            let stored = store
                .read_shares(&piece, 0..segment.shape.share_count())
                .await
                .unwrap();
            assert_eq!(stored, segment.body);
        }
        world.assert_idle().await;
        assert_eq!(world.store().counters().acks, SHAPES.len() as u64);
    });
}

#[test]
fn an_expiry_is_receipted_exactly_and_stored_rounded_up() {
    in_worlds(async |world| {
        let segment = world.segment(4, 10, 50_000);
        let piece_expiry_ms = world.executor.now_ms() / 1000 * 1000 + 86_400_001;
        let fields = LimitFields {
            piece_expiry_ms,
            ..world.fields(LimitAction::Put, &segment)
        };
        let end = world.put_with(world.mint(&fields), &segment).await;
        let End::Answer(Answer::PutReceipt(answer)) = end else {
            panic!("{end:?}")
        };
        let receipt = Receipt::parse(&answer.receipt).unwrap();
        let receipt = receipt
            .verify(&world.permits.keys.receipt_key(&world.node, EPOCH))
            .unwrap();
        assert_eq!(receipt.piece_expiry_ms, piece_expiry_ms);
        let store = world.store();
        let piece = store
            .piece(world.satellite.as_bytes(), segment.id.as_bytes(), 0)
            .await
            .unwrap();
        assert_eq!(u64::from(piece.expiry_s), piece_expiry_ms / 1000 + 1);
    });
}

#[test]
fn the_example_of_the_format_is_576_bytes() {
    in_worlds(async |world| {
        let segment = world.segment(29, 93, 16_385);
        assert_eq!(segment.body.len(), 576);
        assert_eq!(world.put(&segment).await.piece_len, 576);
    });
}

#[test]
fn every_bad_limit_is_refused_with_its_code() {
    type Change = fn(&World, &mut LimitFields);
    const CASES: [(&str, Change, Code); 10] = [
        (
            "other node",
            |_, limit| limit.node = NodeId::from([8; 32]),
            Code::BadLimit,
        ),
        (
            "other client",
            |_, limit| limit.client = NodeId::from([8; 32]),
            Code::BadLimit,
        ),
        (
            "other satellite",
            |_, limit| limit.satellite = NodeId::from([8; 32]),
            Code::BadLimit,
        ),
        (
            "expired",
            |world, limit| limit.expires_ms = world.executor.now_ms() - 1,
            Code::StaleLimit,
        ),
        (
            "future epoch",
            |_, limit| limit.epoch = EPOCH + 1,
            Code::StaleLimit,
        ),
        (
            "stale epoch",
            |_, limit| limit.epoch = EPOCH - 2,
            Code::StaleLimit,
        ),
        (
            "issued before start",
            |_, limit| limit.issued_ms = 1,
            Code::StaleLimit,
        ),
        (
            "wrong action",
            |_, limit| limit.action = LimitAction::Get,
            Code::Denied,
        ),
        (
            "too few bytes",
            |_, limit| limit.byte_count -= 1,
            Code::Denied,
        ),
        (
            "no such shape",
            |_, limit| limit.sealed_len = 16_401,
            Code::BadLimit,
        ),
    ];
    in_worlds(async |world| {
        let segment = world.segment(4, 10, 50_000);
        for (name, change, code) in CASES {
            let mut fields = world.fields(LimitAction::Put, &segment);
            // Time passes between the node's first check-in and the limit.
            world.executor.sleep(Duration::from_secs(1)).await;
            change(&world, &mut fields);
            let mut call = world.begin_put(world.mint(&fields)).await;
            assert_eq!(call.end().await.code(), code, "{name}");
            assert_eq!(call.send.stopped(), Some(code), "{name}");
        }
        let good = world.limit(LimitAction::Put, &segment);
        for (name, bytes) in [
            ("flipped MAC", {
                let mut bytes = good.clone();
                *bytes.last_mut().unwrap() ^= 1;
                bytes
            }),
            ("flipped byte", {
                let mut bytes = good.clone();
                bytes[20] ^= 1;
                bytes
            }),
            ("cut short", good[..good.len() - 1].to_vec()),
            ("one byte more", [&good[..], &[0]].concat()),
            ("empty", Vec::new()),
        ] {
            assert_eq!(
                world.begin_put(bytes).await.end().await.code(),
                Code::BadLimit,
                "{name}"
            );
        }
        assert_not_stored(&world, &segment).await;
        world.assert_idle().await;
        assert!(world.put_with(good, &segment).await.receipt_is_some());
    });
}

impl End {
    fn receipt_is_some(&self) -> bool {
        matches!(self, Self::Answer(Answer::PutReceipt(_)))
    }
}

#[test]
fn a_limit_of_the_epoch_before_and_a_repair_limit_are_good() {
    in_worlds(async |world| {
        let segment = world.segment(4, 10, 50_000);
        let fields = LimitFields {
            epoch: EPOCH - 1,
            ..world.fields(LimitAction::PutRepair, &segment)
        };
        assert!(
            world
                .put_with(world.mint(&fields), &segment)
                .await
                .receipt_is_some()
        );
    });
}

#[test]
fn before_its_first_check_in_a_node_finds_every_limit_stale() {
    in_worlds(async |world| {
        let segment = world.segment(4, 10, 50_000);
        let permission = crate::permission::Permission::new(world.satellite, world.node);
        let limit = world.limit(LimitAction::Put, &segment);
        let error = permission
            .check(
                &limit,
                world.client,
                &[LimitAction::Put],
                world.executor.now_ms(),
            )
            .unwrap_err();
        assert_eq!(error.code(), Code::StaleLimit);
    });
}

#[test]
fn an_acked_limit_is_used_up_and_a_failed_one_is_not() {
    in_worlds(async |world| {
        let segment = world.segment(4, 10, 50_000);
        let limit = world.limit(LimitAction::Put, &segment);

        // Given up after admission, and in the middle of the body.
        let mut call = world.begin_put(limit.clone()).await;
        assert_eq!(call.end().await, ADMITTED);
        // In use: not twice at the same time.
        assert_eq!(
            world.begin_put(limit.clone()).await.end().await.code(),
            Code::Busy
        );
        call.body(&segment.body.slice(..5_000)).await;
        call.send.reset(Code::Cancelled);
        world.assert_idle().await;

        assert!(
            world
                .put_with(limit.clone(), &segment)
                .await
                .receipt_is_some()
        );
        assert_eq!(
            world.put_with(limit.clone(), &segment).await.code(),
            Code::BadLimit,
            "replayed"
        );
        world.delete(&segment).await;
        assert_eq!(
            world.put_with(limit, &segment).await.code(),
            Code::BadLimit,
            "replayed after a delete"
        );
        assert_not_stored(&world, &segment).await;
    });
}

#[test]
fn what_is_not_the_committed_piece_is_refused_and_leaves_nothing() {
    type Change = fn(&mut Segment, &mut pb::PutCommit);
    const CASES: [(&str, Change, Code); 7] = [
        (
            "one bit of the body",
            |segment, _| {
                let mut body = segment.body.to_vec();
                body[777] ^= 1;
                segment.body = Bytes::from(body);
            },
            Code::BadPiece,
        ),
        (
            "other commitment",
            |_, commit| commit.commitment[0] ^= 1,
            Code::BadPiece,
        ),
        (
            "other path",
            |_, commit| commit.path[0] ^= 1,
            Code::BadPiece,
        ),
        (
            "short path",
            |_, commit| commit.path.truncate(32),
            Code::BadPiece,
        ),
        (
            "long path",
            |_, commit| commit.path.resize(commit.path.len() + 32, 0),
            Code::BadPiece,
        ),
        (
            "path of half a hash",
            |_, commit| commit.path.truncate(16),
            Code::BadPiece,
        ),
        (
            "short commitment",
            |_, commit| commit.commitment.truncate(31),
            Code::BadPiece,
        ),
    ];
    in_worlds(async |world| {
        for (name, change, code) in CASES {
            let good = world.segment(4, 10, 100_000);
            let mut bad = good.clone();
            let mut commit = good.commit();
            change(&mut bad, &mut commit);
            let operations = world.disk.count(Op::Write);
            let mut call = world.begin_put(world.limit(LimitAction::Put, &good)).await;
            assert_eq!(call.end().await, ADMITTED);
            call.body(&bad.body).await;
            call.frame(&commit).await;
            call.send.finish();
            assert_eq!(call.end().await.code(), code, "{name}");
            assert_not_stored(&world, &good).await;
            assert_eq!(
                world.disk.count(Op::Write),
                operations,
                "{name}: no disk I/O"
            );
        }
        world.assert_idle().await;
    });
}

#[test]
fn bodies_too_short_or_too_long_and_missing_commits_are_refused() {
    in_worlds(async |world| {
        let segment = world.segment(4, 10, 50_000);
        let start = async |bytes: Bytes| {
            let mut call = world
                .begin_put(world.limit(LimitAction::Put, &segment))
                .await;
            assert_eq!(call.end().await, ADMITTED);
            call.body(&bytes).await;
            call
        };
        let mut short = start(segment.body.slice(..segment.body.len() - 1)).await;
        short.send.finish();
        assert_eq!(short.end().await.code(), Code::BadPiece, "one byte short");

        let mut no_commit = start(segment.body.clone()).await;
        no_commit.send.finish();
        assert_eq!(
            no_commit.end().await.code(),
            Code::BadRequest,
            "no commit frame"
        );

        // The byte too many is taken for the frame's length.
        let mut long = start(Bytes::from([&segment.body[..], &[0xff; 4]].concat())).await;
        long.frame(&segment.commit()).await;
        long.send.finish();
        assert_eq!(long.end().await.code(), Code::TooLarge, "bytes too many");

        let mut trailing = start(segment.body.clone()).await;
        trailing.frame(&segment.commit()).await;
        trailing.send.send(Bytes::from_static(b"!")).await.unwrap();
        trailing.send.finish();
        assert_eq!(
            trailing.end().await.code(),
            Code::BadRequest,
            "bytes after the commit"
        );

        assert_not_stored(&world, &segment).await;
        world.assert_idle().await;
        assert_eq!(world.disk.count(Op::Write), 0);
    });
}

#[test]
fn a_reset_at_any_point_frees_the_budget_and_leaves_nothing() {
    in_worlds(async |world| {
        let segment = world.segment(4, 10, 1_000_000);
        let piece_len = segment.body.len();
        for sent in [0, 1, 16_384, 100_000, piece_len - 1, piece_len] {
            let mut call = world
                .begin_put(world.limit(LimitAction::Put, &segment))
                .await;
            assert_eq!(call.end().await, ADMITTED);
            assert_eq!(world.writes.usage().budget.bytes_used, piece_len as u64);
            call.body(&segment.body.slice(..sent)).await;
            call.send.reset(Code::Cancelled);
            world.assert_idle().await;
        }
        assert_not_stored(&world, &segment).await;
        assert_eq!(
            world.disk.count(Op::Write),
            0,
            "a cancelled upload costs no disk I/O"
        );
    });
}

#[test]
fn a_client_that_sends_no_body_is_reset_after_ten_seconds() {
    in_worlds(async |world| {
        let segment = world.segment(4, 10, 50_000);
        let mut call = world
            .begin_put(world.limit(LimitAction::Put, &segment))
            .await;
        assert_eq!(call.end().await, ADMITTED);
        let waiting_since = world.executor.elapsed();
        assert_eq!(call.end().await, End::Reset(Code::Timeout));
        assert_eq!((world.executor.elapsed() - waiting_since).as_secs(), 10);
        world.assert_idle().await;
    });
}

#[test]
fn a_body_must_keep_its_pace() {
    in_worlds(async |world| {
        let segment = world.segment(4, 10, 1_000_000);
        for (pause, is_taken) in [
            (Duration::from_millis(200), true),
            (Duration::from_secs(1), false),
        ] {
            let mut call = world
                .begin_put(world.limit(LimitAction::Put, &segment))
                .await;
            assert_eq!(call.end().await, ADMITTED);
            // 1,400 bytes a pause: 7 kB/s, then 1.4 kB/s.
            let mut rest = segment.body.clone();
            while !rest.is_empty() {
                let chunk = rest.split_to(rest.len().min(1_400));
                if call.send.send(chunk).await.is_err() {
                    break;
                }
                world.executor.sleep(pause).await;
            }
            assert_eq!(rest.is_empty(), is_taken);
            if is_taken {
                call.frame(&segment.commit()).await;
                call.send.finish();
                assert!(call.end().await.receipt_is_some());
            } else {
                assert_eq!(call.end().await, End::Reset(Code::Timeout));
            }
        }
        world.assert_idle().await;
    });
}

#[test]
fn when_room_is_scarce_slow_senders_lose_theirs_and_repairs_have_some() {
    in_worlds(async |world| {
        let slow: Vec<_> = (0..3).map(|_| world.segment(1, 3, 1_000_000)).collect();
        let mut senders = Vec::new();
        for segment in &slow {
            let mut call = world
                .begin_put(world.limit(LimitAction::Put, segment))
                .await;
            assert_eq!(call.end().await, ADMITTED);
            let (mut rest, executor) = (segment.body.clone(), world.executor.clone());
            let (send, recv) = (call.send, call.recv);
            let mut send = send;
            // 7 kB/s: more than the least pace, so that nobody minds as long as there is room.
            world.executor.spawn(async move {
                while !rest.is_empty() && send.send(rest.split_to(1_400)).await.is_ok() {
                    executor.sleep(Duration::from_millis(200)).await;
                }
            });
            senders.push(recv);
        }
        // There is all but an eighth of the room for them, and all for repairs.
        let honest = world.segment(1, 3, 1_000_000);
        let refused = world.put_with(world.limit(LimitAction::Put, &honest), &honest);
        assert_eq!(refused.await.code(), Code::Busy);
        let repaired = world.segment(1, 3, 1_000_000);
        let admitted = world.begin_put(world.limit(LimitAction::PutRepair, &repaired));
        let mut repair = admitted.await;
        assert_eq!(repair.end().await, ADMITTED);
        drop(repair);

        let began = world.executor.elapsed();
        let limit = world.limit(LimitAction::Put, &honest);
        while !world
            .put_with(limit.clone(), &honest)
            .await
            .receipt_is_some()
        {
            world.executor.sleep(Duration::from_millis(100)).await;
        }
        let waited = world.executor.elapsed() - began;
        assert!(waited < Duration::from_secs(30), "{waited:?}");
        // Now that somebody was slow, strangers have half: room for two.
        assert_eq!(world.writes.usage().cut, 2);
        let ends = senders.iter_mut().map(|recv| recv.chunk(64));
        let mut reset_count = 0;
        for end in ends {
            let end = timeout(&world.executor, Duration::from_secs(1), end).await;
            reset_count +=
                usize::from(end == Some(Err(StreamError::Reset(u32::from(Code::Timeout)))));
        }
        assert_eq!(reset_count, 2);
    });
}

#[test]
fn a_commit_that_never_comes_is_a_timeout() {
    in_worlds(async |world| {
        let segment = world.segment(4, 10, 50_000);
        let mut call = world
            .begin_put(world.limit(LimitAction::Put, &segment))
            .await;
        assert_eq!(call.end().await, ADMITTED);
        call.body(&segment.body).await;
        assert_eq!(call.end().await, End::Reset(Code::Timeout));
        world.assert_idle().await;
        assert_not_stored(&world, &segment).await;
    });
}

#[test]
fn a_full_budget_is_busy_at_once_and_room_comes_back() {
    in_worlds(async |world| {
        let segments: Vec<_> = (0..5).map(|_| world.segment(1, 3, 1_000_000)).collect();
        let piece_len = segments[0].body.len() as u64;
        // An eighth is for audits and repairs.
        let fitting = (WRITE_BUDGET_BYTES / 8 * 7 / piece_len) as usize;
        assert_eq!(fitting, 3);
        let mut calls = Vec::new();
        for segment in &segments[..fitting] {
            let mut call = world
                .begin_put(world.limit(LimitAction::Put, segment))
                .await;
            assert_eq!(call.end().await, ADMITTED);
            calls.push(call);
        }
        let limit = world.limit(LimitAction::Put, &segments[4]);
        let before = world.executor.elapsed();
        let End::Answer(Answer::Error(error)) = world.begin_put(limit.clone()).await.end().await
        else {
            panic!()
        };
        assert_eq!(Code::of_error(&error), Code::Busy);
        assert!(error.retry_after_ms > 0);
        assert_eq!(world.executor.elapsed(), before, "at once");
        drop(calls.pop());
        world.settle().await;
        assert!(
            world.put_with(limit, &segments[4]).await.receipt_is_some(),
            "the same limit, later"
        );
        drop(calls);
        world.assert_idle().await;
        assert!(world.writes.usage().budget.bytes_peak <= WRITE_BUDGET_BYTES);
    });
}

#[test]
fn a_full_node_says_so_before_the_body() {
    let executor = SimExecutor::new(1);
    let inner = executor.clone();
    executor.run(async move {
        let world = World::new(inner, SimDisk::new(1), 64 << 10).await;
        let segment = world.segment(1, 3, 1_000_000);
        let end = world
            .begin_put(world.limit(LimitAction::Put, &segment))
            .await
            .end()
            .await;
        assert_eq!(end.code(), Code::Full);
        world.assert_idle().await;
    });
}

#[test]
fn the_same_piece_again_is_acked_again_and_another_one_conflicts() {
    in_worlds(async |world| {
        let segment = world.segment(4, 10, 50_000);
        let first = world.put(&segment).await;
        let again = world.put(&segment).await;
        assert_eq!(
            (first.root, first.commitment),
            (again.root, again.commitment)
        );
        assert_ne!(first.serial, again.serial);
        assert_eq!(world.store().counters().pieces, 1);

        let other = Segment {
            id: segment.id,
            ..world.segment(4, 10, 50_000)
        };
        let end = world
            .put_with(world.limit(LimitAction::Put, &other), &other)
            .await;
        assert_eq!(end.code(), Code::Conflict);
        assert_eq!(
            world.put(&segment).await.root,
            first.root,
            "the first one is still there"
        );
        world.assert_idle().await;
    });
}

#[test]
fn the_same_id_of_two_segments_is_one_piece_per_id() {
    in_worlds(async |world| {
        let one = world.segment(4, 10, 50_000);
        let two = Segment {
            id: PieceId::from([1; 32]),
            ..one.clone()
        };
        world.put(&one).await;
        world.put(&two).await;
        assert_eq!(world.store().counters().pieces, 2);
    });
}

#[test]
fn no_receipt_leaves_before_the_sync() {
    in_worlds(async |world| {
        world.put(&world.segment(4, 10, 50_000)).await;
        world.disk.hold(Op::Sync);
        let segment = world.segment(4, 10, 50_000);
        let mut call = world
            .begin_put(world.limit(LimitAction::Put, &segment))
            .await;
        assert_eq!(call.end().await, ADMITTED);
        call.body(&segment.body).await;
        call.frame(&segment.commit()).await;
        call.send.finish();
        assert_eq!(
            timeout(&world.executor, Duration::from_secs(5), call.end()).await,
            None
        );
        world.disk.release(Op::Sync);
    });
    in_worlds(async |world| {
        // The same with the answer awaited once, because a frame half read is lost.
        world.put(&world.segment(4, 10, 50_000)).await;
        world.disk.hold(Op::Sync);
        let disk = world.disk.clone();
        let executor = world.executor.clone();
        let since = world.executor.elapsed();
        world.executor.spawn(async move {
            executor.sleep(Duration::from_secs(3)).await;
            disk.release(Op::Sync);
        });
        world.put(&world.segment(4, 10, 50_000)).await;
        assert_eq!((world.executor.elapsed() - since).as_secs(), 3);
        assert_eq!(world.store().counters().acks_before_sync, 0);
    });
}

#[test]
fn a_failed_sync_gives_no_receipt_and_closes_the_store_for_writing() {
    in_worlds(async |world| {
        let kept = world.segment(4, 10, 50_000);
        world.put(&kept).await;
        world.disk.inject(Fault {
            ops: &[Op::Sync],
            nth: 1,
            failure: Failure::Eio,
            is_sticky: false,
        });
        let lost = world.segment(4, 10, 50_000);
        let end = world
            .put_with(world.limit(LimitAction::Put, &lost), &lost)
            .await;
        assert_eq!(end.code(), Code::ReadOnly);
        let later = world.segment(4, 10, 50_000);
        let end = world
            .put_with(world.limit(LimitAction::Put, &later), &later)
            .await;
        assert_eq!(end.code(), Code::ReadOnly);
        world.assert_idle().await;
        let piece = world
            .store()
            .piece(world.satellite.as_bytes(), kept.id.as_bytes(), 0)
            .await
            .unwrap();
        assert_eq!(piece.root, kept.tree.root, "reads go on");
    });
}

#[test]
fn a_disk_that_fails_at_any_operation_never_gives_a_receipt_for_nothing() {
    for nth in 1..12 {
        let executor = SimExecutor::new(nth);
        let inner = executor.clone();
        executor.run(async move {
            let disk = SimDisk::new(nth);
            let world = World::new(inner.clone(), disk.clone(), 1 << 40).await;
            disk.inject(Fault {
                ops: ALL_OPS,
                nth,
                failure: Failure::Eio,
                is_sticky: true,
            });
            let mut acked = Vec::new();
            for _ in 0..4 {
                let segment = world.segment(4, 10, 50_000);
                if world
                    .put_with(world.limit(LimitAction::Put, &segment), &segment)
                    .await
                    .receipt_is_some()
                {
                    acked.push(segment);
                }
            }
            world.assert_idle().await;
            let after = World::new(inner, disk.crash(nth), 1 << 40).await;
            for segment in acked {
                let store = after.store();
                let piece = store
                    .piece(after.satellite.as_bytes(), segment.id.as_bytes(), 0)
                    .await
                    .unwrap();
                assert_eq!(
                    store.read_shares(&piece, 0..1).await.unwrap()[..],
                    segment.body[..16_384.min(segment.body.len())]
                );
            }
        });
    }
}

#[test]
fn acked_pieces_survive_a_crash_in_the_middle_of_many_puts() {
    for seed in 0..20 {
        let executor = SimExecutor::new(seed);
        let inner = executor.clone();
        executor.run(async move {
            let disk = SimDisk::new(seed);
            let world = World::new(inner.clone(), disk.clone(), 1 << 40).await;
            let acked = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
            for _ in 0..12 {
                let world = world.clone();
                let acked = std::rc::Rc::clone(&acked);
                inner.spawn(async move {
                    let segment = world.segment(4, 10, 20_000 + world.executor.random() % 200_000);
                    world.put(&segment).await;
                    acked.borrow_mut().push(segment);
                });
            }
            let crash_when = inner.random() % 13;
            for _ in 0..100_000 {
                if acked.borrow().len() as u64 >= crash_when {
                    break;
                }
                inner.yield_now().await;
            }
            let after = World::new(inner, disk.crash(seed), 1 << 40).await;
            let acked = acked.take();
            for segment in &acked {
                let store = after.store();
                let piece = store
                    .piece(after.satellite.as_bytes(), segment.id.as_bytes(), 0)
                    .await
                    .unwrap();
                let body = store
                    .read_shares(&piece, 0..segment.shape.share_count())
                    .await
                    .unwrap();
                assert_eq!(body, segment.body, "seed {seed}");
            }
        });
    }
}
