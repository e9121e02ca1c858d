//! What keeps a node from trashing what it should not, whatever it is sent.

use strand_blob::TRASH_S;
use strand_blob::disk::sim::{Failure, Fault, Op};

use super::*;

const DAY_MS: u64 = 86_400_000;

/// Of 3,500 pieces in each of two ranges one may lose 105 and one 106.
#[test]
fn three_percent_of_a_parts_pieces_go_one_more_stays_and_no_part_pays_for_another() {
    with_world(0, 0, |world| async move {
        const PIECES: usize = 3_500;
        let now_ms = world.executor.now_ms();
        let one = new_piece(0, 5);
        let mut parts = Vec::new();
        for (range, garbage) in [((0, 99), 106), ((100, 199), 105)] {
            let id = |number: u32| {
                let mut id = [range.0; 32];
                id[1..5].copy_from_slice(&number.to_be_bytes());
                id
            };
            let wanted: Vec<_> = (0..(PIECES - garbage) as u32).map(id).collect();
            let part = filter_of(now_ms, range, &wanted, |_| {});
            let filter = PieceFilter::parse(part.clone()).unwrap();
            // Only such as it does not contain by mistake.
            let unwanted = (PIECES as u32..)
                .map(id)
                .filter(|id| !filter.contains(id))
                .take(garbage);
            for id in wanted.into_iter().chain(unwanted) {
                let piece = NewPiece { id, ..one.clone() };
                world.store.put(piece).await.unwrap();
            }
            parts.push(part);
        }
        let said = world.collect(parts).await.collected.unwrap();
        assert_eq!(
            (said.examined, said.kept, said.trashed),
            (3_500, 3_395, 105)
        );
        assert_eq!(
            (said.refused_parts, said.would_trash, said.would_trash_of),
            (1, 106, 3_500)
        );
        assert_eq!(world.store.counters().pieces, 7_000 - 105);
        assert_eq!(world.line.fetched.take(), [0, 1]);
    });
}

/// The filter is six days old when the node comes by, and the satellite's clock is minutes ahead of ours.
#[test]
fn trash_is_kept_seven_days_from_its_collection_by_the_satellites_time() {
    const AHEAD_MS: u64 = 500_000;
    with_world(10, AHEAD_MS, |world| async move {
        let trashed_s = (world.executor.now_ms() + AHEAD_MS) / 1_000;
        let old = |scope: &mut FilterScope| scope.snapshot_ms -= 6 * DAY_MS;
        let parts = vec![filter(trashed_s * 1_000, (0, 255), &[], old)];
        assert_eq!(world.collect(parts).await.collected.unwrap().trashed, 10);
        let last_s = trashed_s + u64::from(TRASH_S);
        assert_eq!(
            world.read(SATELLITE, 1, last_s + 3).await,
            Err(GetError::NotFound)
        );
        assert_eq!(world.read(SATELLITE, 1, last_s).await, Ok(()));
    });
}

#[test]
fn the_owner_gets_back_what_is_not_over_by_the_satellites_time() {
    const AHEAD_MS: u64 = 500_000;
    for (after_ms, answer) in [
        (7 * DAY_MS - 60_000, r#"{"restored":10}"#),
        (7 * DAY_MS + 1_000, r#"{"restored":0}"#),
    ] {
        with_world(10, AHEAD_MS, move |world| async move {
            let now_ms = world.executor.now_ms() + AHEAD_MS;
            let wanted =
                InFilter(PieceFilter::parse(filter(now_ms, (0, 255), &[], |_| {})).unwrap());
            let done = world.store.collect(everything(SATELLITE, now_ms, &wanted));
            assert_eq!(done.await.unwrap().trashed, 10);
            world.executor.sleep(Duration::from_millis(after_ms)).await;
            assert_eq!(world.owner_restores().await, answer);
        });
    }
}

fn everything<'a>(satellite: [u8; 32], now_ms: u64, wanted: &'a InFilter) -> CollectRequest<'a> {
    let now_s = u32::try_from(now_ms / 1_000).unwrap();
    CollectRequest {
        satellite,
        first_id: [0; 32],
        last_id: [0xff; 32],
        snapshot_s: now_s - 1,
        wanted,
        now_s,
    }
}

/// A node changes its satellite by its settings; what the one before had stored is none of the new one's business.
#[test]
fn only_the_satellites_own_pieces_are_collected_restored_and_reported() {
    const OTHER: [u8; 32] = [8; 32];
    with_world(10, 0, |world| async move {
        let now_ms = world.executor.now_ms();
        for key in 5..8 {
            let mut piece = new_piece(key, 5);
            piece.satellite = OTHER;
            world.store.put(piece).await.unwrap();
        }
        let parts = vec![filter(now_ms, (0, 255), &[], |_| {})];
        let said = world.collect(parts.clone()).await.collected.unwrap();
        assert_eq!((said.examined, said.trashed), (10, 10));
        assert_eq!(world.store.counters().pieces, 3);
        let wanted = InFilter(PieceFilter::parse(parts[0].clone()).unwrap());
        let done = world.store.collect(everything(OTHER, now_ms, &wanted));
        assert_eq!(done.await.unwrap().trashed, 3);
        for (satellite, key) in [(OTHER, 6), (SATELLITE, 2)] {
            assert_eq!(world.read(satellite, key, now_ms / 1_000).await, Ok(()));
        }
        world.work().await;
        let mut check_in = pb::CheckIn::default();
        world.reports.fill(&mut check_in);
        assert_eq!(check_in.revived, [vec![2; 32]]);
        assert_eq!(world.owner_restores().await, r#"{"restored":9}"#);
        assert_eq!(world.trashed(), 2);
    });
}

#[test]
fn a_filter_may_be_of_this_second_and_not_of_the_next() {
    for (ahead_ms, why) in [(0, ""), (1_000, "from the future")] {
        with_world(10, 0, move |world| async move {
            let now_ms = world.executor.now_ms();
            let parts = vec![filter(now_ms, (0, 255), &[], |scope| {
                scope.snapshot_ms = now_ms + ahead_ms;
            })];
            let said = world.collect(parts).await;
            assert_eq!(said.collected.is_some(), why.is_empty());
            let error = world.reports.figures().error;
            assert!(error.contains(why), "{error}");
            assert_eq!(world.trashed(), if why.is_empty() { 10 } else { 0 });
        });
    }
}

#[test]
fn a_run_of_more_filters_than_there_may_be_ends_at_the_last_that_may() {
    with_world(1, 0, |world| async move {
        let now_ms = world.executor.now_ms();
        let none = filter(now_ms, (0, 255), &[0], |_| {});
        let count = FILTER_PARTS_MAX as usize;
        let said = world.collect(vec![none; count + 1]).await;
        assert_eq!(said.collected.unwrap().kept, u64::from(FILTER_PARTS_MAX));
        assert_eq!(world.line.fetched.take().len(), count);
    });
}

#[test]
fn a_satellite_that_does_not_send_its_filter_is_not_waited_for() {
    with_world(10, 0, |world| async move {
        let now_ms = world.executor.now_ms();
        let parts = vec![filter(now_ms, (0, 255), &[], |_| {})];
        world.line.hangs.set(true);
        assert_eq!(world.collect(parts.clone()).await.collected, None);
        assert_eq!(world.reports.figures().error, "");
        world.work_for(FILTER_WAIT + GC_LOOK_PERIOD).await;
        let error = world.reports.figures().error;
        assert!(error.contains("within 60 s"), "{error}");
        world.line.hangs.set(false);
        assert_eq!(world.collect(parts).await.collected.unwrap().trashed, 10);
    });
}

/// What is trashed once the machine is awake can be had back for all of the trash's days.
#[test]
fn a_machine_that_sleeps_before_the_filter_comes_loses_no_days() {
    const ASLEEP_MS: u64 = 8 * DAY_MS;
    with_world(10, 0, |world| async move {
        let awake_ms = world.executor.now_ms() + ASLEEP_MS;
        let time = Duration::from_millis(ASLEEP_MS);
        world
            .line
            .sleeps
            .replace(Some((world.executor.clone(), time)));
        let parts = vec![filter(awake_ms - ASLEEP_MS, (0, 255), &[], |_| {})];
        assert_eq!(world.collect(parts).await.collected.unwrap().trashed, 10);
        assert!(world.executor.now_ms() >= awake_ms, "it slept");
        let last_s = awake_ms / 1_000 + u64::from(TRASH_S);
        assert_eq!(world.read(SATELLITE, 1, last_s).await, Ok(()));
    });
}

#[test]
fn a_node_whose_disk_takes_no_more_asks_for_no_filter() {
    with_world(10, 0, |world| async move {
        let now_ms = world.executor.now_ms();
        world.disk.inject(Fault {
            ops: &[Op::Sync],
            nth: 1,
            failure: Failure::Eio,
            is_sticky: false,
        });
        assert!(world.store.put(new_piece(20, 5)).await.is_err());
        assert!(world.store.is_read_only());
        let parts = vec![filter(now_ms, (0, 255), &[], |_| {})];
        assert_eq!(world.collect(parts).await.collected, None);
        assert_eq!(world.line.fetched.take(), [0; 0]);
        let error = world.reports.figures().error;
        assert_eq!(error, "nothing more is written to this disk");
        assert_eq!(world.store.counters().pieces, 10);
    });
}
