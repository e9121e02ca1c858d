//! The way in: first frames, unknown verbs, time-outs, shutting down.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use strand_blob::disk::sim::SimDisk;
use strand_protocol::pb::node_request::Verb;
use strand_protocol::pb::node_response::Answer;
use strand_protocol::permit::LimitAction;
use strand_protocol::{Code, pb};

use super::world::{End, World, in_worlds};
use crate::core::executor::Executor;
use crate::core::simulated::SimExecutor;
use crate::stream::SendStream;

async fn answer_to(world: &World, bytes: &'static [u8]) -> End {
    let mut call = world.open();
    call.send.send(Bytes::from_static(bytes)).await.unwrap();
    call.send.finish();
    call.end().await
}

#[test]
fn a_ping_is_answered_with_version_and_id() {
    in_worlds(async |world| {
        let end = world.call(Verb::Ping(pb::Ping {})).await.end().await;
        let End::Answer(Answer::Pong(pong)) = end else {
            panic!("{end:?}")
        };
        assert_eq!(pong.node_id, world.node.as_bytes());
        assert_eq!(pong.version, env!("CARGO_PKG_VERSION"));
        assert_eq!(world.service.counters().verbs.pings, 1);
    });
}

/// The pieces are there and every read takes its time: whoever asks meanwhile is told to come back, also for a piece that is not there.
#[test]
fn until_the_store_is_open_every_request_for_a_piece_is_busy() {
    for seed in 0..4 {
        let executor = SimExecutor::new(seed);
        let inner = executor.clone();
        executor.run(async move {
            let before = World::new(inner.clone(), SimDisk::new(seed), 1 << 30).await;
            let (stored, absent) = (before.segment(1, 3, 50_000), before.segment(1, 3, 50_000));
            before.put(&stored).await;
            before.store().close().await;
            let world = World::unopened(inner.clone(), before.disk.clone());
            let opening = world.clone();
            let is_open = Rc::new(Cell::new(false));
            let opened = Rc::clone(&is_open);
            inner.spawn(async move {
                opening.executor.sleep(Duration::from_secs(1)).await;
                opening.open_store(1 << 30).await;
                opened.set(true);
            });
            let mut rounds = 0;
            while !is_open.get() {
                let get = world.limit(LimitAction::Get, &stored);
                let whole = |limit| {
                    Verb::Get(pb::GetRequest {
                        limit,
                        first_leaf: 0,
                        leaf_count: 0,
                    })
                };
                let missing = world.limit(LimitAction::Get, &absent);
                let put = world.limit(LimitAction::Put, &absent);
                let delete = world.limit(LimitAction::Delete, &stored);
                for verb in [
                    whole(get),
                    whole(missing),
                    Verb::Put(pb::PutRequest { limit: put }),
                    Verb::Delete(pb::DeleteRequest { limit: delete }),
                ] {
                    let end = world.call(verb).await.end().await;
                    if is_open.get() {
                        break;
                    }
                    let End::Answer(Answer::Error(error)) = end else {
                        panic!("{end:?}")
                    };
                    assert_eq!(Code::of_error(&error), Code::Busy);
                    assert!(
                        error.message.starts_with("the index is being rebuilt, "),
                        "{error:?}"
                    );
                    assert!(error.retry_after_ms > 0);
                }
                let pong = world.call(Verb::Ping(pb::Ping {})).await.end().await;
                assert!(matches!(pong, End::Answer(Answer::Pong(_))), "{pong:?}");
                rounds += 1;
                inner.sleep(Duration::from_millis(100)).await;
            }
            assert!(rounds > 5);
            world.assert_idle().await;
            assert_eq!(
                world.delete(&absent).await,
                End::Answer(Answer::Deleted(pb::Deleted { existed: false }))
            );
            assert_eq!(
                world.delete(&stored).await,
                End::Answer(Answer::Deleted(pb::Deleted { existed: true }))
            );
        });
    }
}

#[test]
fn what_is_no_request_gets_the_code_that_says_why() {
    in_worlds(async |world| {
        assert_eq!(
            answer_to(&world, &[0, 0, 0, 0]).await.code(),
            Code::Unsupported,
            "no verb"
        );
        // Field 9, a verb of some later version: 0 bytes long.
        assert_eq!(
            answer_to(&world, &[2, 0, 0, 0, 0x4a, 0]).await.code(),
            Code::Unsupported,
            "unknown verb"
        );
        assert_eq!(
            answer_to(&world, &[3, 0, 0, 0, 0xff, 0xff, 0xff])
                .await
                .code(),
            Code::BadRequest,
            "no protobuf"
        );
        assert_eq!(
            answer_to(&world, &[1, 0, 1, 0]).await.code(),
            Code::TooLarge,
            "65,537 bytes"
        );
        assert_eq!(
            answer_to(&world, &[9, 0, 0, 0, 1]).await.code(),
            Code::BadRequest,
            "ends early"
        );
        assert_eq!(
            answer_to(&world, &[9, 0]).await.code(),
            Code::BadRequest,
            "ends in the prefix"
        );
        assert_eq!(
            answer_to(&world, &[]).await.code(),
            Code::BadRequest,
            "nothing"
        );
        world.assert_idle().await;
    });
}

#[test]
fn a_first_frame_that_does_not_come_is_a_timeout() {
    in_worlds(async |world| {
        let mut call = world.open();
        call.send
            .send(Bytes::from_static(&[4, 0, 0]))
            .await
            .unwrap();
        assert_eq!(call.end().await, End::Reset(Code::Timeout));
        assert_eq!(world.executor.elapsed().as_secs(), 10);
        world.assert_idle().await;
    });
}

#[test]
fn a_node_going_down_refuses_new_requests_and_ends_begun_ones() {
    in_worlds(async |world| {
        let segment = world.segment(4, 10, 50_000);
        let mut begun = world
            .begin_put(world.limit(LimitAction::Put, &segment))
            .await;
        begun.end().await;
        world.service.drain();
        assert_eq!(
            world.call(Verb::Ping(pb::Ping {})).await.end().await.code(),
            Code::Shutdown
        );
        begun.body(&segment.body).await;
        begun.frame(&segment.commit()).await;
        begun.send.finish();
        assert!(matches!(
            begun.end().await,
            End::Answer(Answer::PutReceipt(_))
        ));
        world.assert_idle().await;
    });
}

#[test]
fn requests_are_counted_by_verb_and_failure() {
    in_worlds(async |world| {
        let segment = world.segment(4, 10, 50_000);
        world.put(&segment).await;
        world.delete(&segment).await;
        let limit = world.limit(LimitAction::Get, &segment);
        let get = Verb::Get(pb::GetRequest {
            limit,
            first_leaf: 0,
            leaf_count: 0,
        });
        assert_eq!(world.call(get).await.end().await.code(), Code::NotFound);
        crate::core::executor::Executor::sleep(&world.executor, Duration::from_secs(1)).await;
        let counters = world.service.counters();
        assert_eq!(
            (
                counters.verbs.puts,
                counters.verbs.gets,
                counters.verbs.deletes
            ),
            (1, 1, 1)
        );
        assert_eq!(counters.errors.get("NOT_FOUND"), Some(&1));
        assert_eq!(counters.in_flight, 0);
    });
}
