//! Whatever nodes do and in whatever order: the plan of a segment never commits what it must not.
//!
//! Method: a small world of nodes with a fate each plays against [`SegmentPlan`] in simulated time,
//! first by hand for the cases that design.md names, then at random. The world checks every action
//! against what really happened.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;
use strand_protocol::Scheme;

use super::plan::{Action, Patience, Refusal, SegmentPlan, Shortfall, Ticket};

const fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// What a node does with the piece it is asked to take.
#[derive(Clone, Copy, Debug)]
enum Fate {
    /// Admits after the first time, acknowledges so long after it got its body.
    Stores { admits_ms: u64, takes_ms: u64 },
    /// Says that it has no room.
    Busy { after_ms: u64 },
    /// Cannot be reached.
    Gone { after_ms: u64 },
    /// Admits, then breaks off.
    Breaks { admits_ms: u64, after_ms: u64 },
    /// Admits and never says anything again.
    Stops { admits_ms: u64 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Happening {
    Admitted,
    Receipt,
    Busy,
    Gone,
    Granted,
}

/// The end of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
enum End {
    Committed(Vec<Ticket>),
    Failed(Shortfall),
    Retreated,
}

struct World {
    plan: SegmentPlan,
    scheme: Scheme,
    /// What is to come: when, to which ticket.
    queue: BTreeSet<(Duration, Happening, u8, u16)>,
    fates: BTreeMap<(u8, u16), Fate>,
    /// Fates of further nodes, used up from the end; when empty the satellite has none.
    spare: Vec<Fate>,
    held: BTreeMap<u8, u16>,
    sent: BTreeSet<(u8, u16)>,
    cancelled: BTreeSet<(u8, u16)>,
    receipts: BTreeSet<(u8, u16)>,
    asked: Vec<u8>,
    now: Duration,
    replaced_count: usize,
    first_send: Option<(usize, Duration)>,
}

impl World {
    fn new(scheme: Scheme, fates: &[Fate], spare: &[Fate], may_retreat: bool) -> Self {
        assert!(fates.len() <= usize::from(scheme.total));
        let offered: Vec<u8> = (0u8..).zip(fates).map(|(index, _)| index).collect();
        let mut world = Self {
            plan: SegmentPlan::new(scheme, Patience::default(), &offered, may_retreat),
            scheme,
            queue: BTreeSet::new(),
            fates: BTreeMap::new(),
            spare: spare.to_vec(),
            held: BTreeMap::new(),
            sent: BTreeSet::new(),
            cancelled: BTreeSet::new(),
            receipts: BTreeSet::new(),
            asked: Vec::new(),
            now: Duration::ZERO,
            replaced_count: 0,
            first_send: None,
        };
        for (index, fate) in (0u8..).zip(fates) {
            world.ask(
                Ticket {
                    index,
                    generation: 0,
                },
                *fate,
            );
        }
        world
    }

    fn ask(&mut self, ticket: Ticket, fate: Fate) {
        self.held.insert(ticket.index, ticket.generation);
        self.fates.insert((ticket.index, ticket.generation), fate);
        let (after, happening) = match fate {
            Fate::Stores { admits_ms, .. }
            | Fate::Breaks { admits_ms, .. }
            | Fate::Stops { admits_ms } => (admits_ms, Happening::Admitted),
            Fate::Busy { after_ms } => (after_ms, Happening::Busy),
            Fate::Gone { after_ms } => (after_ms, Happening::Gone),
        };
        self.queue.insert((
            self.now + ms(after),
            happening,
            ticket.index,
            ticket.generation,
        ));
    }

    fn run(&mut self) -> End {
        loop {
            while let Some(action) = self.plan.poll(self.now) {
                if let Some(end) = self.act(action) {
                    assert_eq!(self.plan.poll(self.now), None, "nothing after the end");
                    return end;
                }
            }
            let deadline = self.plan.next_deadline(self.now);
            assert!(deadline > self.now, "time goes on");
            match self.queue.first().copied() {
                Some(next) if next.0 <= deadline => {
                    self.queue.remove(&next);
                    self.now = self.now.max(next.0);
                    self.happen(
                        next.1,
                        Ticket {
                            index: next.2,
                            generation: next.3,
                        },
                    );
                }
                _ => self.now = deadline,
            }
            assert!(self.now < Duration::from_secs(600), "a segment ends");
        }
    }

    fn happen(&mut self, happening: Happening, ticket: Ticket) {
        let key = (ticket.index, ticket.generation);
        if self.cancelled.contains(&key) {
            return;
        }
        match happening {
            Happening::Admitted => self.plan.handle_admitted(self.now, ticket),
            Happening::Receipt => {
                self.receipts.insert(key);
                self.plan.handle_receipt(self.now, ticket);
            }
            Happening::Busy => self.plan.handle_failed(ticket, Refusal::Busy),
            Happening::Gone => self.plan.handle_failed(ticket, Refusal::Gone),
            Happening::Granted => {
                let mut asked = std::mem::take(&mut self.asked);
                asked.truncate(self.spare.len());
                for ticket in self.plan.handle_replaced(self.now, &asked) {
                    // The old node's serial is void from here on.
                    self.cancelled
                        .insert((ticket.index, self.held[&ticket.index]));
                    self.replaced_count += 1;
                    let fate = self
                        .spare
                        .pop()
                        .expect("no more were granted than there are");
                    self.ask(ticket, fate);
                }
            }
        }
    }

    fn act(&mut self, action: Action) -> Option<End> {
        match action {
            Action::Send(tickets) => {
                self.first_send.get_or_insert((tickets.len(), self.now));
                for ticket in tickets {
                    let key = (ticket.index, ticket.generation);
                    assert_eq!(
                        self.held[&ticket.index], ticket.generation,
                        "only to who holds the index"
                    );
                    assert!(self.sent.insert(key), "a body is sent once");
                    match self.fates[&key] {
                        Fate::Stores { takes_ms, .. } => {
                            let at = self.now + ms(takes_ms);
                            self.queue.insert((
                                at,
                                Happening::Receipt,
                                ticket.index,
                                ticket.generation,
                            ));
                        }
                        Fate::Breaks { after_ms, .. } => {
                            let at = self.now + ms(after_ms);
                            self.queue.insert((
                                at,
                                Happening::Gone,
                                ticket.index,
                                ticket.generation,
                            ));
                        }
                        Fate::Stops { .. } => {}
                        fate => panic!("{fate:?} never admitted"),
                    }
                }
                None
            }
            Action::Cancel(tickets) => {
                for ticket in tickets {
                    let key = (ticket.index, ticket.generation);
                    assert!(
                        !self.receipts.contains(&key) || self.asked.contains(&ticket.index),
                        "done is not cancelled"
                    );
                    self.cancelled.insert(key);
                }
                None
            }
            Action::Replace(indices) => {
                assert!(self.asked.is_empty(), "one question at a time");
                assert!(!indices.is_empty());
                for index in &indices {
                    assert!(
                        !self.receipts.contains(&(*index, self.held[index])),
                        "done is not replaced"
                    );
                }
                self.asked = indices;
                self.queue
                    .insert((self.now + ms(5), Happening::Granted, 0, u16::MAX));
                None
            }
            Action::Retreat { .. } => Some(End::Retreated),
            Action::Fail(shortfall) => Some(End::Failed(shortfall)),
            Action::Commit(tickets) => {
                self.check_commit(&tickets);
                Some(End::Committed(tickets))
            }
        }
    }

    fn check_commit(&self, tickets: &[Ticket]) {
        let scheme = self.scheme;
        let least = usize::from(scheme.repair) + 1;
        assert!(
            tickets.len() >= least.min(scheme.optimal.into()),
            "at least repair + 1"
        );
        assert!(
            tickets.len() <= usize::from(scheme.optimal),
            "at most optimal"
        );
        for pair in tickets.windows(2) {
            assert!(pair[0].index < pair[1].index, "each index once, data first");
        }
        for ticket in tickets {
            let key = (ticket.index, ticket.generation);
            assert!(self.receipts.contains(&key), "with a receipt");
            assert!(!self.cancelled.contains(&key), "that still counts");
            assert_eq!(
                self.held[&ticket.index], ticket.generation,
                "from the node it was issued to last"
            );
        }
        // No data index that is done is left out for a parity one.
        let done_data = self
            .receipts
            .iter()
            .filter(|(index, generation)| {
                *index < scheme.required && self.held[index] == *generation
            })
            .filter(|key| !self.cancelled.contains(key))
            .count();
        let committed_data = tickets
            .iter()
            .filter(|ticket| ticket.index < scheme.required)
            .count();
        assert_eq!(committed_data, done_data);
    }
}

const SCHEME: Scheme = Scheme {
    required: 4,
    repair: 6,
    optimal: 8,
    total: 10,
};
const QUICK: Fate = Fate::Stores {
    admits_ms: 5,
    takes_ms: 100,
};

fn fates(special: &[(usize, Fate)]) -> Vec<Fate> {
    let mut fates = vec![QUICK; usize::from(SCHEME.total)];
    for (index, fate) in special {
        fates[*index] = *fate;
    }
    fates
}

fn indices(end: &End) -> Vec<u8> {
    match end {
        End::Committed(tickets) => tickets.iter().map(|ticket| ticket.index).collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn eight_of_ten_are_committed_data_first() {
    let mut world = World::new(SCHEME, &fates(&[]), &[], true);
    assert_eq!(indices(&world.run()), [0, 1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(world.first_send, Some((8, ms(5))));
}

#[test]
fn slow_parity_is_cancelled_and_nobody_waits_for_it() {
    let slow = Fate::Stores {
        admits_ms: 5,
        takes_ms: 9_000,
    };
    let mut world = World::new(SCHEME, &fates(&[(5, slow), (9, slow)]), &[], true);
    assert_eq!(indices(&world.run()), [0, 1, 2, 3, 4, 6, 7, 8]);
    // Node 5 is one of the first eight; the spare 8 goes when most of the others are done.
    assert!(world.now < ms(250), "{:?}", world.now);
    assert_eq!(world.plan.counts(), (0, 2));
}

#[test]
fn data_pieces_admitted_a_little_later_are_waited_for() {
    let later = Fate::Stores {
        admits_ms: 15,
        takes_ms: 100,
    };
    let mut world = World::new(SCHEME, &fates(&[(2, later)]), &[], true);
    assert_eq!(indices(&world.run()), [0, 1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(world.first_send, Some((8, ms(15))));
    assert_eq!(world.sent.len(), 8);

    let much_later = Fate::Stores {
        admits_ms: 900,
        takes_ms: 100,
    };
    let mut world = World::new(SCHEME, &fates(&[(2, much_later)]), &[], true);
    world.run();
    assert_eq!(world.first_send, Some((8, ms(25))));
}

#[test]
fn spares_send_nothing_when_all_goes_well() {
    let mut world = World::new(SCHEME, &fates(&[]), &[], true);
    world.run();
    assert_eq!(world.sent.len(), 8);
}

#[test]
fn a_spare_takes_the_place_of_a_piece_that_fails() {
    let breaks = Fate::Breaks {
        admits_ms: 5,
        after_ms: 10,
    };
    let mut world = World::new(SCHEME, &fates(&[(6, breaks)]), &[], true);
    assert_eq!(indices(&world.run()), [0, 1, 2, 3, 4, 5, 7, 8]);
    assert!(world.now < ms(150), "{:?}", world.now);
}

#[test]
fn spares_do_not_wait_for_ever() {
    let slow = Fate::Stores {
        admits_ms: 5,
        takes_ms: 15_000,
    };
    let slow_spare = Fate::Stores {
        admits_ms: 6,
        takes_ms: 15_000,
    };
    let mut fates = vec![slow; 8];
    fates.extend([slow_spare; 2]);
    let mut world = World::new(SCHEME, &fates, &[], true);
    assert_eq!(indices(&world.run()).len(), 8);
    assert_eq!(world.sent.len(), 10);
}

#[test]
fn a_late_data_piece_has_the_grace_and_then_a_new_node() {
    let a_bit_late = Fate::Stores {
        admits_ms: 5,
        takes_ms: 250,
    };
    let mut world = World::new(SCHEME, &fates(&[(2, a_bit_late)]), &[QUICK], true);
    assert_eq!(indices(&world.run()), [0, 1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(world.replaced_count, 0);

    let stopped = Fate::Stops { admits_ms: 5 };
    let mut world = World::new(SCHEME, &fates(&[(2, stopped)]), &[QUICK], true);
    let end = world.run();
    assert_eq!(indices(&end), [0, 1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(world.replaced_count, 1);
    assert!(world.now < ms(1_000), "{:?}", world.now);
}

#[test]
fn without_a_new_node_the_segment_is_committed_without_the_late_piece() {
    let mut world = World::new(
        SCHEME,
        &fates(&[(2, Fate::Stops { admits_ms: 5 })]),
        &[],
        true,
    );
    assert_eq!(indices(&world.run()), [0, 1, 3, 4, 5, 6, 7, 8]);
    assert!(world.now < ms(1_000), "{:?}", world.now);
}

#[test]
fn a_data_piece_that_breaks_off_is_replaced_at_once() {
    let breaks = Fate::Breaks {
        admits_ms: 5,
        after_ms: 20,
    };
    let mut world = World::new(SCHEME, &fates(&[(0, breaks)]), &[QUICK], true);
    assert_eq!(indices(&world.run()), [0, 1, 2, 3, 4, 5, 6, 7]);
    assert!(world.now < ms(200), "{:?}", world.now);
}

#[test]
fn dead_nodes_are_replaced_before_any_body_is_sent() {
    let gone = Fate::Gone { after_ms: 3_000 };
    let special = [(1, gone), (5, gone), (8, gone)];
    let mut world = World::new(SCHEME, &fates(&special), &[QUICK, QUICK, QUICK], true);
    assert_eq!(indices(&world.run()), [0, 1, 2, 3, 4, 6, 7, 9]);
    assert!(world.now < ms(3_300), "{:?}", world.now);
}

#[test]
fn too_few_nodes_fail_within_seconds_and_say_how_many() {
    let gone = Fate::Gone { after_ms: 3_000 };
    let special: Vec<_> = (0..7).map(|index| (index, gone)).collect();
    let mut world = World::new(SCHEME, &fates(&special), &[gone; 3], true);
    let shortfall = Shortfall {
        needed_count: 7,
        found_count: 3,
        optimal_count: 8,
    };
    assert_eq!(world.run(), End::Failed(shortfall));
    assert!(world.now < ms(8_500), "{:?}", world.now);
}

#[test]
fn repair_plus_one_are_enough_when_no_more_can_be_had() {
    let gone = Fate::Gone { after_ms: 3_000 };
    let special = [(1, gone), (5, gone), (8, gone)];
    let mut world = World::new(SCHEME, &fates(&special), &[], true);
    assert_eq!(indices(&world.run()), [0, 2, 3, 4, 6, 7, 9]);
}

#[test]
fn fewer_nodes_than_pieces_do_if_they_are_enough_to_commit() {
    let mut world = World::new(SCHEME, &[QUICK; 9], &[], true);
    assert_eq!(indices(&world.run()), [0, 1, 2, 3, 4, 5, 6, 7]);
    let mut world = World::new(SCHEME, &[QUICK; 7], &[], true);
    assert_eq!(indices(&world.run()), [0, 1, 2, 3, 4, 5, 6]);
    assert!(world.now < ms(200), "{:?}", world.now);
    let mut world = World::new(SCHEME, &[QUICK; 6], &[], true);
    let shortfall = Shortfall {
        needed_count: 7,
        found_count: 6,
        optimal_count: 8,
    };
    assert_eq!(world.run(), End::Failed(shortfall));
}

#[test]
fn busy_nodes_make_it_let_go_of_everything() {
    let busy = Fate::Busy { after_ms: 5 };
    let special = [(1, busy), (5, busy), (8, busy)];
    let mut world = World::new(SCHEME, &fates(&special), &[QUICK; 3], true);
    assert_eq!(world.run(), End::Retreated);
    assert!(world.sent.is_empty(), "no body was sent");
    assert!(world.now < ms(100), "{:?}", world.now);

    let mut world = World::new(SCHEME, &fates(&special), &[], false);
    assert_eq!(indices(&world.run()), [0, 2, 3, 4, 6, 7, 9]);
}

#[test]
fn a_stopped_process_is_noticed_by_the_others_pace() {
    let stops = Fate::Stops { admits_ms: 5 };
    let special = [(0, stops), (6, stops), (7, stops), (8, stops)];
    let mut world = World::new(SCHEME, &fates(&special), &[QUICK; 4], true);
    let end = world.run();
    assert_eq!(indices(&end).len(), 8);
    assert_eq!(indices(&end)[..4], [0, 1, 2, 3]);
    assert!(world.now < ms(2_500), "{:?}", world.now);
}

#[test]
fn a_receipt_that_comes_while_new_nodes_are_sought_in_vain_counts() {
    // Slow enough to be given up, and there while the satellite still looks for another node.
    let slow = Fate::Stores {
        admits_ms: 5,
        takes_ms: 303,
    };
    let mut world = World::new(SCHEME, &fates(&[(2, slow)]), &[], true);
    let end = world.run();
    assert_eq!(indices(&end), [0, 1, 2, 3, 4, 5, 6, 7]);
}

fn any_fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        8 => (0..3_000u64, 1..6_000u64).prop_map(|(admits_ms, takes_ms)| Fate::Stores { admits_ms, takes_ms }),
        2 => (0..100u64).prop_map(|after_ms| Fate::Busy { after_ms }),
        2 => (0..4_000u64).prop_map(|after_ms| Fate::Gone { after_ms }),
        1 => (0..100u64, 0..9_000u64).prop_map(|(admits_ms, after_ms)| Fate::Breaks { admits_ms, after_ms }),
        1 => (0..100u64).prop_map(|admits_ms| Fate::Stops { admits_ms }),
    ]
}

fn any_scheme() -> impl Strategy<Value = Scheme> {
    prop_oneof![
        Just(SCHEME),
        Just(Scheme::DEFAULT),
        Just(Scheme {
            required: 1,
            repair: 1,
            optimal: 1,
            total: 1
        }),
        Just(Scheme {
            required: 1,
            repair: 2,
            optimal: 3,
            total: 3
        }),
        Just(Scheme {
            required: 2,
            repair: 3,
            optimal: 4,
            total: 5
        }),
    ]
}

proptest! {
    #[test]
    fn whatever_nodes_do_a_commit_is_sound(
        (scheme, fates) in any_scheme().prop_flat_map(|scheme| {
            (Just(scheme), proptest::collection::vec(any_fate(), usize::from(scheme.total)))
        }),
        spare in proptest::collection::vec(any_fate(), 0..20),
        may_retreat: bool,
    ) {
        let mut world = World::new(scheme, &fates, &spare, may_retreat);
        match world.run() {
            // Checked in `check_commit`.
            End::Committed(_) => {}
            End::Failed(shortfall) => prop_assert!(shortfall.found_count < shortfall.needed_count),
            End::Retreated => {
                prop_assert!(may_retreat);
                prop_assert!(world.sent.is_empty());
            }
        }
        if let Some((count, _)) = world.first_send {
            prop_assert!(count > usize::from(scheme.repair).min(usize::from(scheme.optimal) - 1));
        }
    }

    #[test]
    fn stale_and_foreign_events_change_nothing(
        events in proptest::collection::vec((0..4u8, 0..12u8, 0..3u16, 0..5_000u64), 0..200),
    ) {
        let mut plan = SegmentPlan::new(SCHEME, Patience::default(), &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9], true);
        let mut receipts = BTreeSet::new();
        let mut sent = BTreeSet::new();
        let mut now = Duration::ZERO;
        for (kind, index, generation, at) in events {
            now = now.max(ms(at));
            let ticket = Ticket { index, generation };
            match kind {
                0 => plan.handle_admitted(now, ticket),
                1 => {
                    receipts.insert(ticket);
                    plan.handle_receipt(now, ticket);
                }
                2 => plan.handle_failed(ticket, Refusal::Gone),
                _ => {
                    plan.handle_replaced(now, &[index]);
                }
            }
            while let Some(action) = plan.poll(now) {
                match action {
                    Action::Send(tickets) => sent.extend(tickets),
                    Action::Commit(tickets) => {
                        prop_assert!(tickets.iter().all(|ticket| receipts.contains(ticket) && sent.contains(ticket)));
                    }
                    _ => {}
                }
            }
        }
    }
}
