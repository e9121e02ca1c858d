//! Deletes are durable when answered, and need their own limits.

use strand_blob::disk::sim::SimDisk;
use strand_protocol::pb::node_request::Verb;
use strand_protocol::pb::node_response::Answer;
use strand_protocol::permit::LimitAction;
use strand_protocol::{Code, pb};

use super::world::{End, World, in_worlds};
use crate::core::simulated::SimExecutor;

fn deleted(existed: bool) -> End {
    End::Answer(Answer::Deleted(pb::Deleted { existed }))
}

#[test]
fn a_delete_says_whether_there_was_something() {
    in_worlds(async |world| {
        let segment = world.segment(4, 10, 50_000);
        assert_eq!(world.delete(&segment).await, deleted(false));
        world.put(&segment).await;
        assert_eq!(world.delete(&segment).await, deleted(true));
        assert_eq!(world.delete(&segment).await, deleted(false));
        world.put(&segment).await;
        assert_eq!(world.delete(&segment).await, deleted(true));
        world.assert_idle().await;
    });
}

#[test]
fn a_delete_limit_works_once_and_no_other_limit_deletes() {
    in_worlds(async |world| {
        let segment = world.segment(4, 10, 50_000);
        world.put(&segment).await;
        let delete = async |limit: Vec<u8>| {
            world
                .call(Verb::Delete(pb::DeleteRequest { limit }))
                .await
                .end()
                .await
        };
        for action in [LimitAction::Put, LimitAction::Get, LimitAction::GetRepair] {
            assert_eq!(
                delete(world.limit(action, &segment)).await.code(),
                Code::Denied
            );
        }
        let limit = world.limit(LimitAction::Delete, &segment);
        assert_eq!(delete(limit.clone()).await, deleted(true));
        world.put(&segment).await;
        assert_eq!(
            delete(limit).await.code(),
            Code::BadLimit,
            "replayed on a piece that came back"
        );
    });
}

#[test]
fn a_deleted_piece_stays_deleted_after_a_crash() {
    for seed in 0..8 {
        let executor = SimExecutor::new(seed);
        let inner = executor.clone();
        executor.run(async move {
            let disk = SimDisk::new(seed);
            let world = World::new(inner.clone(), disk.clone(), 1 << 40).await;
            let segment = world.segment(4, 10, 50_000);
            world.put(&segment).await;
            assert_eq!(world.delete(&segment).await, deleted(true));
            let after = World::new(inner, disk.crash(seed), 1 << 40).await;
            assert_eq!(after.delete(&segment).await, deleted(false));
        });
    }
}
