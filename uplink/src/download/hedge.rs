//! Which pieces of a segment to fetch next, and who is slow, lying or dead: decisions only.
//!
//! [`FetchPlan`] is one segment's fetch; [`NodeBook`] is what a download has learned about nodes so
//! far. The driver in `segment.rs` owns streams and clocks, tells the plan what happened and does
//! what [`FetchPlan::poll`] says. Time is a [`Duration`] since the fetch began.
//!
//! What must stay true: a plan ends with exactly `required` or more good pieces, or with a
//! [`Shortage`], and never before every piece that could have helped was tried; a piece is started
//! once, unless the driver says that its permission was refused, not the piece.
//!
//! There is no fixed time-out per piece: a node is *late* measured by the others. It keeps running
//! when another is started in its place; whoever is whole first counts.

use std::collections::HashMap;
use std::time::Duration;

use strand_protocol::id::NodeId;

/// How much later than the others is late. One place, so that tests can shrink it.
#[derive(Clone, Copy, Debug)]
pub struct HedgePatience {
    /// Without first byte: so many times the median of the others...
    pub factor: u32,
    /// ...and at least this long; or this long after the last node answered, while bytes move.
    pub first_byte_min: Duration,
    /// The same when there is nothing yet to compare with.
    pub first_byte_blind: Duration,
    /// Quiet in the middle while others move: at least this long.
    pub quiet_min: Duration,
    /// Quiet while nobody else moves either, because they are done or because we are the slow part.
    pub quiet_blind: Duration,
    /// Nothing moved anywhere for so long, and nothing is left to start.
    pub give_up: Duration,
}

impl Default for HedgePatience {
    fn default() -> Self {
        Self {
            factor: 3,
            first_byte_min: Duration::from_millis(100),
            first_byte_blind: Duration::from_millis(600),
            quiet_min: Duration::from_millis(150),
            quiet_blind: Duration::from_millis(600),
            give_up: Duration::from_secs(15),
        }
    }
}

/// What is known about a node, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// It gave a whole, true piece last time.
    Good,
    /// Nothing is known.
    Unknown,
    /// It was late last time.
    Slow,
    /// It served bytes that did not fit the commitment.
    Liar,
    /// It could not be reached.
    Dead,
}

/// Why a piece did not come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The node does not have it.
    Missing,
    /// The node itself found its copy damaged, or its disk failed.
    Damaged,
    /// The node served bytes that do not fit the commitment.
    Lied,
    /// The node cannot be reached or broke off.
    Gone,
    /// The node refused: busy, or it does not accept our permission even when fresh.
    Refused,
}

/// A stored piece.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    /// Its index.
    pub index: u8,
    /// What is known about its node.
    pub standing: Standing,
}

/// What the driver has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Begin to fetch this piece.
    Start(u8),
    /// Enough pieces are whole: stop the rest.
    Finish,
    /// Not enough pieces can be had.
    Fail(Shortage),
}

/// How far a fetch came that could not be finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shortage {
    /// Pieces needed.
    pub required_count: usize,
    /// Pieces that came whole and true.
    pub good_count: usize,
    /// Pieces the satellite knows of.
    pub stored_count: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waiting,
    Active {
        started: Duration,
        first_byte: Option<Duration>,
        last_progress: Duration,
        gap_max: Duration,
    },
    Good {
        took: Duration,
        first_byte: Duration,
        gap_max: Duration,
    },
    Bad(Fault),
}

#[derive(Clone, Copy, Debug)]
struct Piece {
    index: u8,
    standing: Standing,
    state: State,
}

/// The fetch of one segment.
#[derive(Clone, Debug)]
pub struct FetchPlan {
    required_count: usize,
    data_count: u8,
    patience: HedgePatience,
    /// In the order in which they are tried.
    pieces: Vec<Piece>,
    typical_first_byte: Option<Duration>,
    last_progress: Duration,
    /// When a node answered last.
    last_first_byte: Duration,
    started_count: usize,
    is_over: bool,
}

impl FetchPlan {
    /// A fetch of any `required_count` of the candidates; indices below `data_count` are data.
    /// Indices are distinct. `typical_first_byte` is what nodes took in earlier segments.
    #[must_use]
    pub fn new(
        required_count: u8,
        candidates: &[Candidate],
        typical_first_byte: Option<Duration>,
        patience: HedgePatience,
    ) -> Self {
        let mut pieces: Vec<Piece> = candidates
            .iter()
            .map(|candidate| Piece {
                index: candidate.index,
                standing: candidate.standing,
                state: State::Waiting,
            })
            .collect();
        pieces
            .sort_by_key(|piece| order(piece.standing, piece.index < required_count, piece.index));
        Self {
            required_count: usize::from(required_count),
            data_count: required_count,
            patience,
            pieces,
            typical_first_byte,
            last_progress: Duration::ZERO,
            last_first_byte: Duration::ZERO,
            started_count: 0,
            is_over: false,
        }
    }

    /// Bytes of the piece arrived, checked or not.
    pub fn handle_progress(&mut self, now: Duration, index: u8) {
        self.last_progress = self.last_progress.max(now);
        let mut is_first = false;
        if let Some(piece) = self.piece(index)
            && let State::Active {
                first_byte,
                last_progress,
                gap_max,
                started,
            } = &mut piece.state
        {
            is_first = first_byte.is_none();
            if is_first {
                *first_byte = Some(now.saturating_sub(*started));
            } else {
                *gap_max = (*gap_max).max(now.saturating_sub(*last_progress));
            }
            *last_progress = now;
        }
        if is_first {
            self.last_first_byte = self.last_first_byte.max(now);
        }
    }

    /// The piece is whole and every share of it was checked.
    pub fn handle_good(&mut self, now: Duration, index: u8) {
        self.last_progress = self.last_progress.max(now);
        if let Some(piece) = self.piece(index)
            && let State::Active {
                started,
                first_byte,
                gap_max,
                ..
            } = piece.state
        {
            let took = now.saturating_sub(started);
            piece.state = State::Good {
                took,
                first_byte: first_byte.unwrap_or(took),
                gap_max,
            };
        }
    }

    /// The piece will not come.
    pub fn handle_bad(&mut self, now: Duration, index: u8, fault: Fault) {
        self.last_progress = self.last_progress.max(now);
        if let Some(piece) = self.piece(index)
            && matches!(piece.state, State::Active { .. })
        {
            piece.state = State::Bad(fault);
        }
    }

    /// The permission was refused, not the piece, and there is a fresh one: it may be started
    /// again.
    pub fn handle_again(&mut self, index: u8) {
        if let Some(piece) = self.piece(index)
            && matches!(piece.state, State::Active { .. })
        {
            piece.state = State::Waiting;
        }
    }

    /// What to do now; call again until it says `None`, then at the next event or some ten
    /// milliseconds later.
    pub fn poll(&mut self, now: Duration) -> Option<Step> {
        if self.is_over {
            return None;
        }
        let good_count = self.good().len();
        if good_count >= self.required_count {
            self.is_over = true;
            return Some(Step::Finish);
        }
        let active_count = self
            .pieces
            .iter()
            .filter(|piece| matches!(piece.state, State::Active { .. }))
            .count();
        let waiting_at = self
            .pieces
            .iter()
            .position(|piece| piece.state == State::Waiting);
        let waiting_count = self
            .pieces
            .iter()
            .filter(|piece| piece.state == State::Waiting)
            .count();
        let is_hopeless = good_count + active_count + waiting_count < self.required_count;
        let is_stuck = waiting_at.is_none() && now >= self.last_progress + self.patience.give_up;
        if is_hopeless || is_stuck {
            self.is_over = true;
            return Some(Step::Fail(Shortage {
                required_count: self.required_count,
                good_count,
                stored_count: self.pieces.len(),
            }));
        }
        let late_count = self.late(now).len();
        if good_count + active_count - late_count >= self.required_count {
            return None;
        }
        let piece = &mut self.pieces[waiting_at?];
        piece.state = State::Active {
            started: now,
            first_byte: None,
            last_progress: now,
            gap_max: Duration::ZERO,
        };
        self.started_count += 1;
        Some(Step::Start(piece.index))
    }

    /// Pieces that are whole.
    #[must_use]
    pub fn good(&self) -> Vec<u8> {
        self.indices(|state| matches!(state, State::Good { .. }))
    }

    /// Pieces under way.
    #[must_use]
    pub fn active(&self) -> Vec<u8> {
        self.indices(|state| matches!(state, State::Active { .. }))
    }

    /// Pieces under way that are late now.
    #[must_use]
    pub fn late(&self, now: Duration) -> Vec<u8> {
        let pace = self.pace();
        self.pieces
            .iter()
            .filter(|piece| self.is_late(piece, &pace, now))
            .map(|piece| piece.index)
            .collect()
    }

    /// Pieces started in the place of others.
    #[must_use]
    pub fn replaced_count(&self) -> usize {
        self.started_count.saturating_sub(self.required_count)
    }

    /// Data indices that could not be had: not stored, failed, late, or not even tried because of
    /// their node's standing.
    #[must_use]
    pub fn lost_data(&self, now: Duration) -> Vec<u8> {
        let late = self.late(now);
        (0..self.data_count)
            .filter(
                |index| match self.pieces.iter().find(|piece| piece.index == *index) {
                    None => true,
                    Some(piece) => match piece.state {
                        State::Bad(_) => true,
                        State::Active { .. } => late.contains(index),
                        State::Waiting => piece.standing >= Standing::Slow,
                        State::Good { .. } => false,
                    },
                },
            )
            .collect()
    }

    /// The median time to the first byte, for the next segment's plan.
    #[must_use]
    pub fn first_byte_median(&self) -> Option<Duration> {
        self.pace().first_byte.or(self.typical_first_byte)
    }

    fn piece(&mut self, index: u8) -> Option<&mut Piece> {
        self.pieces.iter_mut().find(|piece| piece.index == index)
    }

    fn indices(&self, matches: impl Fn(&State) -> bool) -> Vec<u8> {
        self.pieces
            .iter()
            .filter(|piece| matches(&piece.state))
            .map(|piece| piece.index)
            .collect()
    }

    fn pace(&self) -> Pace {
        let mut first_bytes = Vec::new();
        let mut gaps = Vec::new();
        let mut times = Vec::new();
        for piece in &self.pieces {
            match piece.state {
                State::Active {
                    first_byte: Some(first_byte),
                    gap_max,
                    ..
                } => {
                    first_bytes.push(first_byte);
                    gaps.push(gap_max);
                }
                State::Good {
                    took,
                    first_byte,
                    gap_max,
                } => {
                    first_bytes.push(first_byte);
                    gaps.push(gap_max);
                    times.push(took);
                }
                _ => {}
            }
        }
        let enough_count = self.required_count.div_ceil(4);
        Pace {
            first_byte: median(first_bytes, enough_count),
            gap: median(gaps, enough_count),
            took: median(times, self.required_count.div_ceil(2)),
        }
    }

    fn is_late(&self, piece: &Piece, pace: &Pace, now: Duration) -> bool {
        let State::Active {
            started,
            first_byte,
            last_progress,
            ..
        } = piece.state
        else {
            return false;
        };
        let patience = &self.patience;
        let age = now.saturating_sub(started);
        if pace
            .took
            .is_some_and(|took| age > (took * patience.factor).max(patience.quiet_min * 2))
        {
            return true;
        }
        if first_byte.is_none() {
            // A burst of handshakes makes all answers slow. Bytes that move long after the last of
            // them say that no more will come, whatever the median is.
            let moved = self
                .last_progress
                .saturating_sub(self.last_first_byte.max(started));
            if pace.first_byte.is_some() && moved > patience.first_byte_min {
                return true;
            }
            let typical = pace.first_byte.or(self.typical_first_byte);
            let limit = typical.map_or(patience.first_byte_blind, |typical| {
                (typical * patience.factor).max(patience.first_byte_min)
            });
            return age > limit;
        }
        let limit = (pace.gap.unwrap_or_default() * patience.factor).max(patience.quiet_min);
        let behind_others = self.last_progress.saturating_sub(last_progress);
        let quiet = now.saturating_sub(last_progress);
        behind_others > limit || quiet > limit.max(patience.quiet_blind)
    }
}

/// What is usual among the pieces of this fetch.
struct Pace {
    first_byte: Option<Duration>,
    gap: Option<Duration>,
    took: Option<Duration>,
}

fn median(mut values: Vec<Duration>, enough_count: usize) -> Option<Duration> {
    if values.len() < enough_count.max(1) {
        return None;
    }
    values.sort_unstable();
    values.get(values.len() / 2).copied()
}

/// Good and unknown nodes before late ones, liars and dead ones; among the former, data before
/// parity: each data piece saves a row of decoding.
fn order(standing: Standing, is_data: bool, index: u8) -> (u8, u8, u8) {
    let class = match standing {
        Standing::Good | Standing::Unknown => u8::from(!is_data),
        Standing::Slow => 2,
        Standing::Liar => 3,
        Standing::Dead => 4,
    };
    (class, standing as u8, index)
}

/// What a download has learned about nodes so far.
#[derive(Clone, Debug, Default)]
pub struct NodeBook {
    records: HashMap<NodeId, Record>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Record {
    is_liar: bool,
    is_dead: bool,
    is_late: bool,
    good_count: u32,
}

impl NodeBook {
    /// What is known about a node.
    #[must_use]
    pub fn standing(&self, node: &NodeId) -> Standing {
        match self.records.get(node) {
            None => Standing::Unknown,
            Some(record) if record.is_dead => Standing::Dead,
            Some(record) if record.is_liar => Standing::Liar,
            Some(record) if record.is_late => Standing::Slow,
            Some(record) if record.good_count > 0 => Standing::Good,
            Some(_) => Standing::Unknown,
        }
    }

    /// It gave a whole, true piece. Once a liar, always a liar: what it cost to find out is a piece
    /// each time.
    pub fn handle_good(&mut self, node: NodeId) {
        let record = self.records.entry(node).or_default();
        record.good_count += 1;
        record.is_dead = false;
        record.is_late = false;
    }

    /// A piece did not come from it.
    pub fn handle_bad(&mut self, node: NodeId, fault: Fault) {
        let record = self.records.entry(node).or_default();
        match fault {
            Fault::Lied => record.is_liar = true,
            Fault::Gone => record.is_dead = true,
            Fault::Refused => record.is_late = true,
            // A lost or damaged piece says little about the node's other pieces.
            Fault::Missing | Fault::Damaged => {}
        }
    }

    /// It was given up for being late.
    pub fn handle_late(&mut self, node: NodeId) {
        self.records.entry(node).or_default().is_late = true;
    }
}
