//! Whatever nodes do: a fetch ends with enough good pieces, or says clearly that they cannot be
//! had.
//!
//! Method: nodes with a fate each play against [`FetchPlan`] in simulated time, by hand for the
//! cases that matter and at random.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use strand_protocol::NodeId;

use super::hedge::{
    Candidate, Fault, FetchPlan, HedgePatience, NodeBook, Shortage, Standing, Step,
};

const fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// What a node does with a request for its piece.
#[derive(Clone, Copy, Debug)]
enum Fate {
    /// Gives the whole piece, from the first byte after the first time to the last after the
    /// second, in even steps.
    Gives { first_ms: u64, last_ms: u64 },
    /// Fails after so long.
    Fails { after_ms: u64, fault: Fault },
    /// Gives some of it and then nothing more.
    Stops { first_ms: u64, quiet_from_ms: u64 },
    /// Says nothing at all.
    Silent,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum End {
    Finished(Vec<u8>),
    Failed(Shortage),
}

struct World {
    plan: FetchPlan,
    fates: BTreeMap<u8, Fate>,
    started: BTreeMap<u8, Duration>,
    good: Vec<u8>,
    now: Duration,
}

impl World {
    fn new(required: u8, nodes: &[(u8, Standing, Fate)]) -> Self {
        let candidates: Vec<_> = nodes
            .iter()
            .map(|(index, standing, _)| Candidate {
                index: *index,
                standing: *standing,
            })
            .collect();
        Self {
            plan: FetchPlan::new(required, &candidates, None, HedgePatience::default()),
            fates: nodes
                .iter()
                .map(|(index, _, fate)| (*index, *fate))
                .collect(),
            started: BTreeMap::new(),
            good: Vec::new(),
            now: Duration::ZERO,
        }
    }

    fn run(&mut self) -> End {
        loop {
            if let Some(end) = self.step() {
                return end;
            }
        }
    }

    /// Does what the plan says, and lets 5 ms pass.
    fn step(&mut self) -> Option<End> {
        while let Some(step) = self.plan.poll(self.now) {
            match step {
                Step::Start(index) => {
                    assert_eq!(
                        self.started.insert(index, self.now),
                        None,
                        "a piece is started once"
                    );
                }
                Step::Finish => {
                    assert_eq!(self.plan.poll(self.now), None);
                    return Some(End::Finished(self.plan.good()));
                }
                Step::Fail(shortage) => {
                    assert_eq!(self.plan.poll(self.now), None);
                    return Some(End::Failed(shortage));
                }
            }
        }
        self.now += ms(5);
        assert!(self.now < Duration::from_secs(300), "a fetch ends");
        for index in self.plan.active() {
            self.advance(index);
        }
        None
    }

    fn advance(&mut self, index: u8) {
        let age = (self.now - self.started[&index]).as_millis() as u64;
        match self.fates[&index] {
            Fate::Gives { first_ms, last_ms } => {
                // Twenty steps from the first byte to the last.
                let step = ((last_ms - first_ms) / 20).max(5);
                if age >= first_ms && (age - first_ms) % step < 5 {
                    self.plan.handle_progress(self.now, index);
                }
                if age >= last_ms {
                    self.good.push(index);
                    self.plan.handle_good(self.now, index);
                }
            }
            Fate::Fails { after_ms, fault } => {
                if age >= after_ms {
                    self.plan.handle_bad(self.now, index, fault);
                }
            }
            Fate::Stops {
                first_ms,
                quiet_from_ms,
            } => {
                if age >= first_ms && age < quiet_from_ms {
                    self.plan.handle_progress(self.now, index);
                }
            }
            Fate::Silent => {}
        }
    }
}

const QUICK: Fate = Fate::Gives {
    first_ms: 10,
    last_ms: 100,
};

fn nodes(count: u8, special: &[(u8, Standing, Fate)]) -> Vec<(u8, Standing, Fate)> {
    let mut nodes: Vec<_> = (0..count)
        .map(|index| (index, Standing::Unknown, QUICK))
        .collect();
    for node in special {
        nodes[usize::from(node.0)] = *node;
    }
    nodes
}

#[test]
fn data_pieces_are_enough_when_all_is_well() {
    let mut world = World::new(4, &nodes(8, &[]));
    assert_eq!(world.run(), End::Finished(vec![0, 1, 2, 3]));
    assert_eq!(world.started.len(), 4);
    assert_eq!(world.plan.lost_data(world.now), [0; 0]);
    assert_eq!(world.plan.replaced_count(), 0);
}

#[test]
fn good_standing_comes_first_and_data_before_parity() {
    let special = [
        (0, Standing::Dead, QUICK),
        (1, Standing::Liar, QUICK),
        (2, Standing::Slow, QUICK),
        (6, Standing::Good, QUICK),
    ];
    let mut world = World::new(4, &nodes(8, &special));
    assert_eq!(world.run(), End::Finished(vec![3, 6, 4, 5]));
    assert_eq!(world.plan.lost_data(world.now), [0, 1, 2]);
}

#[test]
fn a_lost_piece_is_replaced_at_once() {
    let missing = Fate::Fails {
        after_ms: 10,
        fault: Fault::Missing,
    };
    let mut world = World::new(4, &nodes(8, &[(1, Standing::Unknown, missing)]));
    assert_eq!(world.run(), End::Finished(vec![0, 2, 3, 4]));
    assert!(world.now <= ms(120), "{:?}", world.now);
    assert_eq!(world.plan.replaced_count(), 1);
    assert_eq!(world.plan.lost_data(world.now), [1]);
}

#[test]
fn a_silent_node_costs_a_fraction_of_a_second() {
    let mut world = World::new(4, &nodes(8, &[(1, Standing::Unknown, Fate::Silent)]));
    assert_eq!(world.run(), End::Finished(vec![0, 2, 3, 4]));
    assert!(world.now <= ms(350), "{:?}", world.now);
    assert_eq!(world.plan.late(world.now), [1]);
}

#[test]
fn after_a_burst_of_slow_answers_silent_nodes_are_not_waited_for_as_long_again() {
    // All answer within 300 ms and are done after 2 s; three times their median would be 750 ms.
    let slow = |index: u8| Fate::Gives {
        first_ms: 200 + 25 * u64::from(index),
        last_ms: 2_000,
    };
    let mut special: Vec<_> = (0..5)
        .map(|index| (index, Standing::Unknown, slow(index)))
        .collect();
    special.push((2, Standing::Unknown, Fate::Silent));
    let mut world = World::new(4, &nodes(8, &special));
    while world.plan.late(world.now).is_empty() {
        assert!(world.now < ms(2_000), "it is never late");
        assert_eq!(world.step(), None);
    }
    assert_eq!(world.plan.late(world.now), [2]);
    assert!(
        world.now > ms(275 + 100) && world.now <= ms(275 + 150),
        "{:?}",
        world.now
    );
}

#[test]
fn a_node_stopped_in_the_middle_is_replaced() {
    let stops = Fate::Stops {
        first_ms: 10,
        quiet_from_ms: 50,
    };
    let mut world = World::new(4, &nodes(8, &[(1, Standing::Unknown, stops)]));
    assert_eq!(world.run(), End::Finished(vec![0, 2, 3, 4]));
    assert!(world.now <= ms(800), "{:?}", world.now);
    assert!(world.plan.replaced_count() > 0);
}

#[test]
fn all_quiet_at_once_for_a_moment_is_our_own_slowness() {
    // Every piece pauses for 300 ms at the same time, as when the machine is busy with something
    // else.
    let candidates: Vec<_> = (0..8)
        .map(|index| Candidate {
            index,
            standing: Standing::Good,
        })
        .collect();
    let mut plan = FetchPlan::new(4, &candidates, None, HedgePatience::default());
    while plan.poll(ms(0)).is_some() {}
    for at in (10..100).step_by(10) {
        for index in 0..4 {
            plan.handle_progress(ms(at), index);
        }
    }
    for at in (100..390).step_by(10) {
        assert_eq!(plan.poll(ms(at)), None, "at {at} ms");
    }
}

#[test]
fn liars_and_dead_nodes_are_the_last_resort_but_they_are_one() {
    let gone = Fate::Fails {
        after_ms: 20,
        fault: Fault::Gone,
    };
    let special: Vec<_> = (0..4)
        .map(|index| (index, Standing::Liar, QUICK))
        .chain((4..8).map(|index| (index, Standing::Unknown, gone)))
        .collect();
    let mut world = World::new(4, &nodes(8, &special));
    assert_eq!(world.run(), End::Finished(vec![0, 1, 2, 3]));
}

#[test]
fn one_piece_too_few_is_a_clear_failure() {
    let lied = Fate::Fails {
        after_ms: 30,
        fault: Fault::Lied,
    };
    let special: Vec<_> = (0..5)
        .map(|index| (index, Standing::Unknown, lied))
        .collect();
    let mut world = World::new(4, &nodes(8, &special));
    let shortage = Shortage {
        required_count: 4,
        good_count: 3,
        stored_count: 8,
    };
    match world.run() {
        // It fails as soon as it cannot succeed, perhaps before the good ones are whole.
        End::Failed(found) => {
            assert_eq!(
                (found.required_count, found.stored_count),
                (shortage.required_count, shortage.stored_count)
            );
            assert!(found.good_count <= shortage.good_count);
        }
        end => panic!("{end:?}"),
    }
}

#[test]
fn silence_of_all_ends_in_failure_not_in_waiting() {
    let special: Vec<_> = (0..8)
        .map(|index| (index, Standing::Unknown, Fate::Silent))
        .collect();
    let mut world = World::new(4, &nodes(8, &special));
    let shortage = Shortage {
        required_count: 4,
        good_count: 0,
        stored_count: 8,
    };
    assert_eq!(world.run(), End::Failed(shortage));
    assert!(world.now <= Duration::from_secs(20), "{:?}", world.now);
}

#[test]
fn a_refused_permission_lets_the_piece_start_again() {
    let candidates: Vec<_> = (0..4)
        .map(|index| Candidate {
            index,
            standing: Standing::Unknown,
        })
        .collect();
    let mut plan = FetchPlan::new(4, &candidates, None, HedgePatience::default());
    for index in 0..4 {
        assert_eq!(plan.poll(ms(0)), Some(Step::Start(index)));
    }
    assert_eq!(plan.poll(ms(0)), None);
    plan.handle_again(2);
    assert_eq!(plan.poll(ms(1)), Some(Step::Start(2)));
}

#[test]
fn the_book_remembers_what_matters() {
    let node = NodeId::from([1; 32]);
    let mut book = NodeBook::default();
    assert_eq!(book.standing(&node), Standing::Unknown);
    book.handle_bad(node, Fault::Missing);
    assert_eq!(
        book.standing(&node),
        Standing::Unknown,
        "a lost piece says little about the others"
    );
    book.handle_late(node);
    assert_eq!(book.standing(&node), Standing::Slow);
    book.handle_good(node);
    assert_eq!(book.standing(&node), Standing::Good);
    book.handle_bad(node, Fault::Gone);
    assert_eq!(book.standing(&node), Standing::Dead);
    book.handle_good(node);
    assert_eq!(book.standing(&node), Standing::Good);
    book.handle_bad(node, Fault::Lied);
    book.handle_good(node);
    assert_eq!(book.standing(&node), Standing::Liar, "a liar stays one");
}

fn any_fate() -> impl Strategy<Value = Fate> {
    let fault = prop_oneof![
        Just(Fault::Missing),
        Just(Fault::Damaged),
        Just(Fault::Lied),
        Just(Fault::Gone),
        Just(Fault::Refused)
    ];
    prop_oneof![
        4 => (0..2_000u64, 0..6_000u64)
            .prop_map(|(first_ms, rest)| Fate::Gives { first_ms, last_ms: first_ms + rest }),
        3 => (0..4_000u64, fault).prop_map(|(after_ms, fault)| Fate::Fails { after_ms, fault }),
        1 => (0..500u64, 0..500u64)
            .prop_map(|(first_ms, rest)| Fate::Stops { first_ms, quiet_from_ms: first_ms + rest }),
        1 => Just(Fate::Silent),
    ]
}

fn any_standing() -> impl Strategy<Value = Standing> {
    prop_oneof![
        Just(Standing::Good),
        Just(Standing::Unknown),
        Just(Standing::Slow),
        Just(Standing::Liar),
        Just(Standing::Dead)
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn enough_good_pieces_are_always_found(
        required in 1..30u8,
        nodes in proptest::collection::vec((any_standing(), any_fate()), 0..81),
    ) {
        let nodes: Vec<_> =
            (0u8..).zip(&nodes).map(|(index, (standing, fate))| (index, *standing, *fate)).collect();
        let giving = nodes.iter().filter(|(_, _, fate)| matches!(fate, Fate::Gives { .. })).count();
        let mut world = World::new(required, &nodes);
        match world.run() {
            End::Finished(good) => {
                prop_assert!(good.len() >= usize::from(required));
                prop_assert!(good.iter().all(|index| world.good.contains(index)));
            }
            End::Failed(shortage) => {
                prop_assert!(giving < usize::from(required), "{giving} of {required} nodes would have given");
                prop_assert!(shortage.good_count < shortage.required_count);
                prop_assert_eq!(shortage.stored_count, nodes.len());
            }
        }
    }
}
