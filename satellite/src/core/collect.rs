//! How a walk over the segments becomes filters: what may be said of which pieces, how a node's
//! ids are cut into parts, and how much is held in memory at once.

use std::collections::BTreeMap;
use std::time::Duration;

use strand_protocol::limits as shared;
use strand_protocol::{NodeId, PieceId};

use super::row::NodeNumber;
use crate::limits;

/// The moment from which on a piece is safe however the walk goes (docs/wire.md, section 5).
///
/// A piece that is wanted but was in no committed segment when the walk passed is of an upload that
/// was open when the walk began, or began later; its limits were issued after that.
pub(crate) fn snapshot_ms(began_ms: u64, oldest_upload_ms: Option<u64>, margin_ms: u64) -> u64 {
    let earliest = oldest_upload_ms.map_or(began_ms, |oldest| oldest.min(began_ms));
    earliest.saturating_sub(margin_ms)
}

/// How long a walk rests after a step that took so long: half of its time at least, and as long as its pace asks for.
pub(crate) fn rest(segment_count: usize, took: Duration) -> Duration {
    let paced = Duration::from_secs(segment_count as u64) / limits::GC_SEGMENTS_PER_S_MAX;
    took.max(paced.saturating_sub(took))
}

/// One filter to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) node: NodeNumber,
    pub(crate) id: NodeId,
    /// Which of the node's filters, from 0, of how many.
    pub(crate) part: u32,
    pub(crate) part_count: u32,
    /// Pieces that it will hold, about.
    pub(crate) piece_count: u64,
}

/// Pieces of a filter, about: a quarter fewer than it may have, since ids do not fall evenly and the walk goes on while pieces are added.
pub(crate) const PART_PIECES: u64 = shared::FILTER_PIECES_MAX as u64 * 3 / 4;

/// How much goes into what is made of the walks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    /// Pieces of a filter, about; never more than [`PART_PIECES`].
    pub(crate) part_pieces: u64,
    /// Pieces whose hashes are held in memory.
    pub(crate) pass_pieces: u64,
}

impl Sizes {
    /// How many filters a node with so many pieces gets.
    pub(crate) fn part_count(&self, piece_count: u64) -> u32 {
        let parts = piece_count.div_ceil(self.part_pieces.clamp(1, PART_PIECES));
        parts.clamp(1, shared::FILTER_PARTS_MAX.into()) as u32
    }
}

/// Which part an id belongs to: parts are even ranges of the ids' first 32 bits.
pub(crate) fn part_of(piece: PieceId, part_count: u32) -> u32 {
    let [a, b, c, d, ..] = *piece.as_bytes();
    let first = u64::from(u32::from_be_bytes([a, b, c, d]));
    ((first * u64::from(part_count)) >> 32) as u32
}

/// The first and last id of a part.
pub(crate) fn range(part: u32, part_count: u32) -> (PieceId, PieceId) {
    // The smallest first 32 bits of a part: part x 2^32 / part_count, rounded up.
    let begin = |part: u64| (part << 32).div_ceil(part_count.into());
    let first = begin(part.into()) as u32;
    let last = (begin(u64::from(part) + 1) - 1) as u32;
    let id = |bits: u32, rest: u8| {
        let mut id = [rest; 32];
        id[..4].copy_from_slice(&bits.to_be_bytes());
        PieceId::from(id)
    };
    (id(first, 0), id(last, 0xff))
}

/// All filters to be made, in passes over the segments: in each so many that their pieces' hashes
/// fit `pass_pieces`, but at least one.
pub(crate) fn passes(
    nodes: &BTreeMap<NodeNumber, NodeId>,
    counts: &BTreeMap<NodeNumber, u64>,
    sizes: Sizes,
) -> Vec<Vec<Part>> {
    let mut passes: Vec<Vec<Part>> = Vec::new();
    let mut room = 0;
    for (&node, &id) in nodes {
        let piece_count = counts.get(&node).copied().unwrap_or(0);
        let part_count = sizes.part_count(piece_count);
        let piece_count = piece_count / u64::from(part_count);
        for part in 0..part_count {
            let part = Part {
                node,
                id,
                part,
                part_count,
                piece_count,
            };
            match passes.last_mut() {
                Some(pass) if piece_count <= room => pass.push(part),
                _ => {
                    passes.push(vec![part]);
                    room = sizes.pass_pieces;
                }
            }
            room = room.saturating_sub(piece_count);
        }
    }
    passes
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: u64 = 3_600_000;

    #[test]
    fn the_snapshot_is_before_the_walk_and_before_every_open_upload() {
        let now_ms = 1_000 * HOUR_MS;
        assert_eq!(snapshot_ms(now_ms, None, HOUR_MS), 999 * HOUR_MS);
        let open = Some(980 * HOUR_MS);
        assert_eq!(snapshot_ms(now_ms, open, HOUR_MS), 979 * HOUR_MS);
        // A clock that was set back: an upload from the future moves nothing.
        let future = Some(1_001 * HOUR_MS);
        assert_eq!(snapshot_ms(now_ms, future, HOUR_MS), 999 * HOUR_MS);
        assert_eq!(snapshot_ms(5, None, 10), 0);
    }

    #[test]
    fn parts_cover_all_ids_once() {
        for part_count in [1, 2, 3, 7, 10, 1_024] {
            let mut next = [0; 32];
            for part in 0..part_count {
                let (first, last) = range(part, part_count);
                assert_eq!(first.as_bytes(), &next, "{part} of {part_count}");
                assert!(first < last);
                for id in [first, last] {
                    assert_eq!(part_of(id, part_count), part, "{part_count}");
                }
                assert!(last.as_bytes()[4..].iter().all(|&byte| byte == 0xff));
                next = *last.as_bytes();
                next[4..].fill(0);
                let bits = u32::from_be_bytes([next[0], next[1], next[2], next[3]]);
                next[..4].copy_from_slice(&bits.wrapping_add(1).to_be_bytes());
            }
            assert_eq!(next, [0; 32], "the last part ends with the last id");
        }
    }

    #[test]
    fn a_walk_takes_half_of_the_time_and_keeps_its_pace() {
        let us = Duration::from_micros;
        let step = limits::GC_SEGMENTS_PER_STEP;
        assert_eq!(step, 256);
        // 2,560 us for a step, its own time in it.
        assert_eq!(rest(step, us(0)), us(2_560));
        assert_eq!(rest(step, us(560)), us(2_000));
        assert_eq!(rest(step, us(40_000)), us(40_000));
        assert_eq!(rest(0, us(0)), us(0));
    }

    #[test]
    fn a_pass_holds_no_more_than_it_may_and_no_part_is_forgotten() {
        let nodes = (1..=4)
            .map(|number| (NodeNumber(number), [number as u8; 32].into()))
            .collect();
        let counts = BTreeMap::from([
            (NodeNumber(1), 2 * PART_PIECES),
            (NodeNumber(2), 10),
            (NodeNumber(4), PART_PIECES),
        ]);
        let sizes = Sizes {
            part_pieces: u64::MAX,
            pass_pieces: PART_PIECES + 10,
        };
        let made = passes(&nodes, &counts, sizes);
        let parts: Vec<Vec<_>> = made
            .iter()
            .map(|pass| pass.iter().map(|part| (part.node.0, part.part)).collect())
            .collect();
        assert_eq!(
            parts,
            [vec![(1, 0)], vec![(1, 1), (2, 0), (3, 0)], vec![(4, 0)]]
        );
        for pass in &made {
            let held: u64 = pass.iter().map(|part| part.piece_count).sum();
            assert!(held <= PART_PIECES + 10);
        }
        assert!(passes(&BTreeMap::new(), &counts, sizes).is_empty());
    }
}
