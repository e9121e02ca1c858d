//! Gets, checked with the verifier's side of the codec as a client would.

use strand_codec::{
    Hash, LEAF_BYTES, SHARE_BYTES, commitment_of_path, root_of_share_hashes, share_hash,
    slice_proof_len, verify_slice,
};
use strand_protocol::pb::node_request::Verb;
use strand_protocol::pb::node_response::Answer;
use strand_protocol::permit::{LimitAction, LimitFields};
use strand_protocol::{Code, pb};

use super::world::{Call, End, READ_BUDGET_BYTES, Segment, World, in_worlds};
use crate::core::executor::Executor;
use crate::limits::SEND_WAIT;
use crate::stream::RecvStream;

async fn get(world: &World, limit: Vec<u8>, first_leaf: u32, leaf_count: u32) -> Call {
    world
        .call(Verb::Get(pb::GetRequest {
            limit,
            first_leaf,
            leaf_count,
        }))
        .await
}

/// The error of a get that gives none of the piece.
async fn refusal(world: &World, limit: Vec<u8>, first_leaf: u32, leaf_count: u32) -> Code {
    get(world, limit, first_leaf, leaf_count)
        .await
        .end()
        .await
        .code()
}

/// Reads the header and checks it against the commitment; gives the root.
async fn checked_root(call: &mut Call, segment: &Segment) -> Hash {
    let end = call.end().await;
    let End::Answer(Answer::Get(header)) = end else {
        panic!("{end:?}")
    };
    let root: Hash = header.root.try_into().unwrap();
    let (path, rest) = header.path.as_chunks::<32>();
    assert!(rest.is_empty());
    assert_eq!(
        commitment_of_path(&segment.shape, segment.index, &root, path),
        Ok(segment.commitment)
    );
    root
}

async fn check_whole(world: &World, segment: &Segment) {
    let mut call = get(world, world.limit(LimitAction::Get, segment), 0, 0).await;
    let root = checked_root(&mut call, segment).await;
    let rest = call.rest().await.unwrap();
    let shares = segment.shape.share_count();
    let hash_bytes = if shares == 1 { 0 } else { shares as usize * 32 };
    let (hashes, body) = rest.split_at(hash_bytes);
    let piece_len = segment.shape.piece_len();
    if shares > 1 {
        assert_eq!(
            root_of_share_hashes(piece_len, hashes.as_chunks::<32>().0),
            Ok(root)
        );
    }
    assert_eq!(body.len() as u64, piece_len);
    for (index, share) in body.chunks(SHARE_BYTES).enumerate() {
        let expected = if shares == 1 {
            root
        } else {
            hashes.as_chunks::<32>().0[index]
        };
        assert_eq!(share_hash(piece_len, index as u32, share), expected);
    }
    assert_eq!(body, segment.body);
}

async fn check_range(world: &World, segment: &Segment, first_leaf: u32, leaf_count: u32) {
    let mut call = get(
        world,
        world.limit(LimitAction::GetAudit, segment),
        first_leaf,
        leaf_count,
    )
    .await;
    let root = checked_root(&mut call, segment).await;
    let rest = call.rest().await.unwrap();
    let piece_len = segment.shape.piece_len();
    let leaves = first_leaf..first_leaf + leaf_count;
    let (proof, bytes) = rest.split_at(32 * slice_proof_len(piece_len, leaves.clone()).unwrap());
    assert_eq!(
        verify_slice(
            piece_len,
            &root,
            leaves.clone(),
            proof.as_chunks::<32>().0,
            bytes
        ),
        Ok(())
    );
    let start = leaves.start as usize * LEAF_BYTES;
    let end = segment.body.len().min(leaves.end as usize * LEAF_BYTES);
    assert_eq!(bytes, &segment.body[start..end]);
}

#[test]
fn whole_pieces_verify_share_by_share() {
    in_worlds(async |world| {
        for (required, total, plain_len) in [
            (29, 93, 16_385),
            (4, 10, 50_000),
            (1, 3, 16_352),
            (1, 3, 16_385),
            (1, 3, 600_000),
            (1, 1, 3_000_000),
        ] {
            let segment = world.segment(required, total, plain_len);
            world.put(&segment).await;
            check_whole(&world, &segment).await;
        }
        world.assert_idle().await;
        assert_eq!(world.service.counters().errors.len(), 0);
    });
}

#[test]
fn ranges_of_leaves_verify_with_their_proof() {
    in_worlds(async |world| {
        let small = world.segment(29, 93, 16_385);
        world.put(&small).await;
        check_range(&world, &small, 0, 1).await;

        let segment = world.segment(1, 3, 700_000);
        world.put(&segment).await;
        let leaf_count = segment.shape.leaf_count();
        assert!(
            leaf_count > 2 * 16 * 16,
            "more than two runs of reads: {leaf_count}"
        );
        for (first, count) in [
            (0, 1),
            (0, 16),
            (0, leaf_count),
            (1, leaf_count - 1),
            (15, 2),
            (16, 16),
            (17, 300),
            (255, 2),
            (256, 256),
            (leaf_count - 1, 1),
            (leaf_count - 17, 17),
        ] {
            check_range(&world, &segment, first, count).await;
        }
        for _ in 0..20 {
            let first = (world.executor.random() % u64::from(leaf_count)) as u32;
            let count = 1 + (world.executor.random() % u64::from(leaf_count - first)) as u32;
            check_range(&world, &segment, first, count).await;
        }
        world.assert_idle().await;
    });
}

#[test]
fn ranges_outside_the_piece_are_bad_requests() {
    in_worlds(async |world| {
        let segment = world.segment(4, 10, 100_000);
        world.put(&segment).await;
        let leaf_count = segment.shape.leaf_count();
        for (first, count) in [
            (leaf_count, 1),
            (0, leaf_count + 1),
            (u32::MAX, 1),
            (1, u32::MAX),
            (1, 0),
        ] {
            let limit = world.limit(LimitAction::Get, &segment);
            assert_eq!(
                refusal(&world, limit, first, count).await,
                Code::BadRequest,
                "{first} {count}"
            );
        }
        world.assert_idle().await;
    });
}

#[test]
fn a_limit_pays_for_its_bytes_over_all_its_requests() {
    in_worlds(async |world| {
        let segment = world.segment(4, 10, 500_000);
        world.put(&segment).await;
        let fields = LimitFields {
            byte_count: 3 * LEAF_BYTES as u64,
            ..world.fields(LimitAction::Get, &segment)
        };
        let limit = world.mint(&fields);
        assert_eq!(
            refusal(&world, limit.clone(), 0, 4).await,
            Code::Denied,
            "more than it pays for"
        );
        assert_eq!(
            refusal(&world, limit.clone(), 0, 0).await,
            Code::Denied,
            "the whole piece"
        );
        for leaf in 0..3 {
            let mut call = get(&world, limit.clone(), leaf, 1).await;
            checked_root(&mut call, &segment).await;
            call.rest().await.unwrap();
        }
        world.settle().await;
        assert_eq!(refusal(&world, limit, 3, 1).await, Code::BadLimit, "spent");
    });
}

#[test]
fn bytes_that_were_not_sent_are_given_back() {
    in_worlds(async |world| {
        let segment = world.segment(1, 3, 2_000_000);
        world.put(&segment).await;
        let limit = world.limit(LimitAction::Get, &segment);
        // Given up after the header: less than one run has left.
        let mut call = get(&world, limit.clone(), 0, 0).await;
        checked_root(&mut call, &segment).await;
        drop(call);
        world.assert_idle().await;
        let mut call = get(&world, limit, 0, 0).await;
        checked_root(&mut call, &segment).await;
        assert!(call.rest().await.is_ok());
    });
}

#[test]
fn what_is_not_there_is_not_found() {
    in_worlds(async |world| {
        let segment = world.segment(4, 10, 50_000);
        assert_eq!(
            refusal(&world, world.limit(LimitAction::Get, &segment), 0, 0).await,
            Code::NotFound
        );
        world.put(&segment).await;
        check_whole(&world, &segment).await;
        world.delete(&segment).await;
        assert_eq!(
            refusal(&world, world.limit(LimitAction::Get, &segment), 0, 0).await,
            Code::NotFound
        );
        world.assert_idle().await;
    });
}

#[test]
fn a_limit_of_another_shape_is_refused() {
    in_worlds(async |world| {
        let segment = world.segment(4, 10, 50_000);
        world.put(&segment).await;
        let other = Segment {
            id: segment.id,
            ..world.segment(4, 10, 500_000)
        };
        assert_eq!(
            refusal(&world, world.limit(LimitAction::Get, &other), 0, 1).await,
            Code::BadLimit
        );
    });
}

#[test]
fn limits_for_other_verbs_do_not_read() {
    in_worlds(async |world| {
        let segment = world.segment(4, 10, 50_000);
        world.put(&segment).await;
        for action in [
            LimitAction::Put,
            LimitAction::Delete,
            LimitAction::PutRepair,
        ] {
            assert_eq!(
                refusal(&world, world.limit(action, &segment), 0, 0).await,
                Code::Denied
            );
        }
        for action in [
            LimitAction::Get,
            LimitAction::GetAudit,
            LimitAction::GetRepair,
        ] {
            let mut call = get(&world, world.limit(action, &segment), 0, 0).await;
            checked_root(&mut call, &segment).await;
        }
    });
}

#[test]
fn damage_found_before_the_answer_is_an_error_and_later_a_reset() {
    in_worlds(async |world| {
        let segment = world.segment(1, 3, 1_000_000);
        world.put(&segment).await;
        world.damage(&segment, 40);
        // The first run is good and leaves; the third is not.
        let mut call = get(&world, world.limit(LimitAction::Get, &segment), 0, 0).await;
        checked_root(&mut call, &segment).await;
        assert_eq!(call.rest().await, Err(Code::Corrupt));
        // What is not damaged can still be had.
        check_range(&world, &segment, 0, 16 * 16).await;
        assert_eq!(
            refusal(&world, world.limit(LimitAction::Get, &segment), 40 * 16, 1).await,
            Code::Corrupt
        );

        world.damage(&segment, 0);
        assert_eq!(
            refusal(&world, world.limit(LimitAction::Get, &segment), 0, 0).await,
            Code::Corrupt
        );
        world.assert_idle().await;
        assert!(world.service.counters().errors["CORRUPT"] >= 3);
    });
}

#[test]
fn a_reader_that_does_not_read_is_cut() {
    in_worlds(async |world| {
        let segment = world.segment(1, 3, 2_000_000);
        world.put(&segment).await;
        let mut call = get(&world, world.limit(LimitAction::Get, &segment), 0, 0).await;
        checked_root(&mut call, &segment).await;
        assert!(world.reads.usage().budget.bytes_used > 0);
        world.executor.sleep(2 * SEND_WAIT).await;
        assert_eq!(call.rest().await, Err(Code::Timeout));
        world.assert_idle().await;
    });
}

#[test]
fn memory_for_reads_is_bounded() {
    in_worlds(async |world| {
        let segment = world.segment(1, 3, 2_000_000);
        world.put(&segment).await;
        let mut calls = Vec::new();
        loop {
            let mut call = get(&world, world.limit(LimitAction::Get, &segment), 0, 0).await;
            match call.end().await {
                End::Answer(Answer::Get(_)) => calls.push(call),
                end => {
                    assert_eq!(end.code(), Code::Busy);
                    break;
                }
            }
        }
        // An eighth is for audits and repairs.
        assert_eq!(calls.len() as u64, READ_BUDGET_BYTES / 8 * 7 / (512 << 10));
        let mut call = calls.pop().unwrap();
        call.recv.stop(Code::Cancelled);
        world.settle().await;
        check_whole(&world, &segment).await;
        drop(calls);
        world.assert_idle().await;
    });
}
