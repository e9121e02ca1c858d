//! Which pieces are damaged, and how: pure, from a seed.
//!
//! Of every segment that has pieces, all but `required` are damaged, no more and no fewer. One node process is stopped;
//! its pieces are gone with it. Of the rest about half are deleted and half altered. This module only decides;
//! `damage` does it to a network.

use crate::random::Random;

/// A piece of a segment and the node that holds it, by its number in the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlacedPiece {
    /// Index of the piece in its segment; below `required` it is a data piece.
    pub index: u8,
    /// Number of the node in the local network, from 0.
    pub node: usize,
}

/// A segment that has pieces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlacedSegment {
    /// Pieces that restore the segment.
    pub required: u8,
    /// Every committed piece.
    pub pieces: Vec<PlacedPiece>,
}

/// What happens to a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It stays as it is.
    Kept,
    /// Its node's process is stopped.
    Stopped,
    /// Its node is told to delete it.
    Deleted,
    /// It is altered on disk so that its node does not notice.
    Altered,
}

/// The damage, segment by segment and piece by piece in the order of the input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draw {
    /// The seed that was used: the one asked for, or the first after it whose pattern is hard enough.
    pub seed: u64,
    /// The node process to stop; none where each process holds more than may be lost.
    pub stopped_process: Option<usize>,
    /// One list per segment.
    pub fates: Vec<Vec<Fate>>,
}

/// How many of one segment's pieces met which fate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Pieces with each fate.
    pub kept: usize,
    /// See [`Fate::Stopped`].
    pub stopped: usize,
    /// See [`Fate::Deleted`].
    pub deleted: usize,
    /// See [`Fate::Altered`].
    pub altered: usize,
    /// Damaged pieces whose index is a data index.
    pub data_lost: usize,
}

/// Seeds tried before the pattern is taken as it is. A pattern of the default scheme misses the floors about once in
/// ten thousand segments.
const SEEDS_TRIED_MAX: u64 = 1_000;

/// At least this many data pieces lost and pieces altered of 80; other counts in proportion.
const FLOOR_OF_80: usize = 10;

/// A stopped process takes 8 to 22 of 80 pieces; other counts in proportion.
const STOPPED_OF_80: (usize, usize) = (8, 22);

/// Decides what happens to every piece.
///
/// `process_of_node[n]` is the process that runs node n.
///
/// # Panics
///
/// If a segment has fewer pieces than it requires, or a piece lies at a node that no process runs.
pub fn draw(segments: &[PlacedSegment], process_of_node: &[usize], seed: u64) -> Draw {
    for segment in segments {
        assert!(
            segment.pieces.len() >= usize::from(segment.required),
            "segment is short of pieces"
        );
    }
    let mut first = None;
    for tried in 0..SEEDS_TRIED_MAX {
        let candidate = draw_once(segments, process_of_node, seed.wrapping_add(tried));
        if is_hard_enough(segments, &candidate) {
            return candidate;
        }
        first.get_or_insert(candidate);
    }
    first.expect("at least one seed was tried")
}

impl Draw {
    /// Counts the fates of one segment.
    pub fn tally(&self, segments: &[PlacedSegment], segment: usize) -> Tally {
        let mut tally = Tally::default();
        let required = segments[segment].required;
        for (piece, fate) in segments[segment].pieces.iter().zip(&self.fates[segment]) {
            match fate {
                Fate::Kept => tally.kept += 1,
                Fate::Stopped => tally.stopped += 1,
                Fate::Deleted => tally.deleted += 1,
                Fate::Altered => tally.altered += 1,
            }
            if *fate != Fate::Kept && piece.index < required {
                tally.data_lost += 1;
            }
        }
        tally
    }

    /// The least number of data pieces lost by a segment, 0 where no segment has pieces.
    pub fn data_pieces_lost(&self, segments: &[PlacedSegment]) -> usize {
        (0..segments.len())
            .map(|segment| self.tally(segments, segment).data_lost)
            .min()
            .unwrap_or(0)
    }
}

fn draw_once(segments: &[PlacedSegment], process_of_node: &[usize], seed: u64) -> Draw {
    let mut random = Random::new(seed, "damage");
    let stopped_process = choose_process(segments, process_of_node, &mut random);
    let fates = segments
        .iter()
        .map(|segment| {
            let lost = segment.pieces.len() - usize::from(segment.required);
            let mut fates = vec![Fate::Kept; segment.pieces.len()];
            let mut others = Vec::with_capacity(segment.pieces.len());
            for (position, piece) in segment.pieces.iter().enumerate() {
                if Some(process_of_node[piece.node]) == stopped_process {
                    fates[position] = Fate::Stopped;
                } else {
                    others.push(position);
                }
            }
            let stopped = segment.pieces.len() - others.len();
            random.shuffle(&mut others);
            let damaged = &others[..lost - stopped];
            // The odd one is as likely deleted as altered.
            let (deleted, altered) = damaged.split_at((damaged.len() + random.below(2)) / 2);
            for &position in deleted {
                fates[position] = Fate::Deleted;
            }
            for &position in altered {
                fates[position] = Fate::Altered;
            }
            fates
        })
        .collect();
    Draw {
        seed,
        stopped_process,
        fates,
    }
}

/// A process that holds 8 to 22 of 80 pieces of every segment, or of as many segments as can be had, but never more
/// than a segment may lose.
fn choose_process(
    segments: &[PlacedSegment],
    process_of_node: &[usize],
    random: &mut Random,
) -> Option<usize> {
    let process_count = process_of_node.iter().max().map_or(0, |last| last + 1);
    let held = |process: usize, segment: &PlacedSegment| {
        segment
            .pieces
            .iter()
            .filter(|piece| process_of_node[piece.node] == process)
            .count()
    };
    let may_stop = |process: usize| {
        segments.iter().all(|segment| {
            held(process, segment) <= segment.pieces.len() - usize::from(segment.required)
        })
    };
    let in_range = |process: usize| {
        segments
            .iter()
            .filter(|segment| stopped_range(segment).contains(&held(process, segment)))
            .count()
    };
    let best = (0..process_count)
        .filter(|&process| may_stop(process))
        .map(in_range)
        .max()?;
    if best == 0 {
        return None;
    }
    let choices: Vec<usize> = (0..process_count)
        .filter(|&process| may_stop(process) && in_range(process) == best)
        .collect();
    Some(choices[random.below(choices.len())])
}

/// How many of the segment's pieces the stopped process should hold.
fn stopped_range(segment: &PlacedSegment) -> std::ops::RangeInclusive<usize> {
    let count = segment.pieces.len();
    let least = (count * STOPPED_OF_80.0 / 80).max(1);
    let most = (count * STOPPED_OF_80.1)
        .div_ceil(80)
        .min(count - usize::from(segment.required));
    least..=most
}

fn is_hard_enough(segments: &[PlacedSegment], candidate: &Draw) -> bool {
    segments.iter().enumerate().all(|(number, segment)| {
        let floor = segment.pieces.len() * FLOOR_OF_80 / 80;
        let tally = candidate.tally(segments, number);
        // A scheme such as 1/1/1/1 may lose nothing; then nothing is asked.
        let lost = segment.pieces.len() - usize::from(segment.required);
        lost == 0 || (tally.data_lost >= floor && tally.altered >= floor)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `segment_count` segments of `stored` pieces on `node_count` nodes in five processes, as a satellite would place them.
    fn network(
        required: u8,
        stored: usize,
        node_count: usize,
        segment_count: usize,
        seed: u64,
    ) -> (Vec<PlacedSegment>, Vec<usize>) {
        let process_count = node_count.min(5);
        let process_of_node = (0..node_count)
            .map(|node| node * process_count / node_count)
            .collect();
        let mut random = Random::new(seed, "placement");
        let segments = (0..segment_count)
            .map(|_| {
                let mut nodes: Vec<usize> = (0..node_count).collect();
                random.shuffle(&mut nodes);
                let pieces = nodes[..stored]
                    .iter()
                    .enumerate()
                    .map(|(index, &node)| PlacedPiece {
                        index: index as u8,
                        node,
                    })
                    .collect();
                PlacedSegment { required, pieces }
            })
            .collect();
        (segments, process_of_node)
    }

    fn check_draw(
        required: u8,
        stored: usize,
        node_count: usize,
        seed: u64,
    ) -> (Vec<PlacedSegment>, Draw) {
        let (segments, processes) = network(required, stored, node_count, 4, seed);
        let draw = draw(&segments, &processes, seed);
        for (number, segment) in segments.iter().enumerate() {
            let tally = draw.tally(&segments, number);
            assert_eq!(tally.kept, usize::from(required), "seed {seed}");
            let halves = tally.altered.abs_diff(tally.deleted);
            assert!(halves <= 1, "seed {seed}: {tally:?}");
            for (piece, fate) in segment.pieces.iter().zip(&draw.fates[number]) {
                let is_stopped = Some(processes[piece.node]) == draw.stopped_process;
                assert_eq!(is_stopped, *fate == Fate::Stopped, "seed {seed}");
            }
        }
        (segments, draw)
    }

    #[test]
    fn the_default_demo_always_meets_its_floors() {
        for seed in 0..500 {
            let (segments, draw) = check_draw(29, 80, 110, seed);
            assert!(draw.stopped_process.is_some());
            assert!(draw.data_pieces_lost(&segments) >= 10);
            for segment in 0..segments.len() {
                let tally = draw.tally(&segments, segment);
                assert!((8..=22).contains(&tally.stopped), "seed {seed}: {tally:?}");
                assert!(tally.altered >= 10, "seed {seed}: {tally:?}");
            }
        }
    }

    #[test]
    fn small_networks_lose_exactly_what_they_may() {
        for seed in 0..200 {
            check_draw(4, 8, 10, seed);
            check_draw(2, 4, 5, seed);
            check_draw(1, 3, 3, seed);
            check_draw(1, 2, 2, seed);
            check_draw(1, 1, 1, seed);
        }
    }

    #[test]
    fn a_process_that_holds_too_much_is_not_stopped() {
        // Three of four pieces lie in one process, and only two may be lost.
        let piece = |index, node| PlacedPiece { index, node };
        let segment = PlacedSegment {
            required: 2,
            pieces: vec![piece(0, 0), piece(1, 1), piece(2, 2), piece(3, 3)],
        };
        for seed in 0..100 {
            let draw = draw(std::slice::from_ref(&segment), &[0, 0, 0, 1], seed);
            assert_eq!(draw.stopped_process, Some(1));
            assert_eq!(draw.tally(std::slice::from_ref(&segment), 0).kept, 2);
        }
    }

    #[test]
    fn one_seed_is_one_pattern() {
        let (segments, processes) = network(29, 80, 110, 4, 1);
        assert_eq!(
            draw(&segments, &processes, 9),
            draw(&segments, &processes, 9)
        );
        assert_ne!(
            draw(&segments, &processes, 9).fates,
            draw(&segments, &processes, 10).fates
        );
    }

    #[test]
    fn an_object_without_pieces_has_nothing_to_damage() {
        let draw = draw(&[], &[0, 1, 2], 1);
        assert_eq!(draw.stopped_process, None);
        assert_eq!(draw.data_pieces_lost(&[]), 0);
    }
}
