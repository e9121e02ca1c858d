//! Damages a network as [`crate::draw`] decided: one node process stopped, pieces deleted, pieces altered.
//!
//! Deletes go through the nodes' own delete verb, with limits minted from the satellite's master key, which only its
//! folder holds. Alterations are written into the nodes' blobs below their feet, checksums and all, so that a node
//! serves them in good faith: only the commitment, which the client checks, can tell.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::draw::{self, Draw, Fate, PlacedPiece, PlacedSegment};
use crate::local::Network;
use crate::pieces::{CommittedPiece, CommittedSegment, Prober};
use crate::random::Random;
use crate::report::DamagedPieces;
use crate::rewrite;

/// Damage that was drawn for an object's segments.
#[derive(Clone, Debug)]
pub struct Damage {
    segments: Vec<CommittedSegment>,
    placed: Vec<PlacedSegment>,
    draw: Draw,
}

impl Damage {
    /// Decides what happens to each piece.
    pub fn draw(network: &Network, segments: &[CommittedSegment], seed: u64) -> Result<Self> {
        let placed = segments
            .iter()
            .map(|segment| {
                let pieces = segment
                    .pieces
                    .iter()
                    .map(|piece| {
                        let node = network.node_number(&piece.node_id).with_context(|| {
                            format!("node {} is not of this network", piece.node_id)
                        })?;
                        Ok(PlacedPiece {
                            index: piece.index,
                            node,
                        })
                    })
                    .collect::<Result<Vec<_>>>()?;
                ensure!(
                    pieces.len() >= usize::from(segment.required),
                    "segment {:x} has {} pieces < {} required",
                    segment.position,
                    pieces.len(),
                    segment.required
                );
                Ok(PlacedSegment {
                    required: segment.required,
                    pieces,
                })
            })
            .collect::<Result<Vec<_>>>()?;
        let draw = draw::draw(&placed, &network.process_of_node(), seed);
        Ok(Self {
            segments: segments.to_vec(),
            placed,
            draw,
        })
    }

    /// The seed that decided.
    pub fn seed(&self) -> u64 {
        self.draw.seed
    }

    /// The node process to stop.
    pub fn stopped_process(&self) -> Option<usize> {
        self.draw.stopped_process
    }

    /// Pieces by kind of damage, over all segments.
    pub fn counts(&self) -> DamagedPieces {
        let mut counts = DamagedPieces::default();
        for segment in 0..self.placed.len() {
            let tally = self.draw.tally(&self.placed, segment);
            counts.stopped += tally.stopped;
            counts.deleted += tally.deleted;
            counts.altered += tally.altered;
        }
        counts
    }

    /// Data pieces lost, least over the segments.
    pub fn data_pieces_lost(&self) -> usize {
        self.draw.data_pieces_lost(&self.placed)
    }

    /// Does it: deletes and alters while all nodes run, then kills the process.
    pub async fn inflict(&self, network: &mut Network, prober: &Prober) -> Result<()> {
        for (segment, piece) in self.with_fate(Fate::Deleted) {
            let existed = prober.delete_piece(piece).await?;
            ensure!(
                existed,
                "piece {} of segment {:x} was not there to delete",
                piece.index,
                segment.position
            );
        }
        let mut altered: BTreeMap<usize, Vec<[u8; 32]>> = BTreeMap::new();
        for (_, piece) in self.with_fate(Fate::Altered) {
            let node = network
                .node_number(&piece.node_id)
                .context("a node of another network")?;
            altered
                .entry(node)
                .or_default()
                .push(*piece.piece_id.as_bytes());
        }
        let mut random = Random::new(self.draw.seed, "alter");
        for (node, piece_ids) in altered {
            let blobs = network.seats()[node].dir.join("blobs");
            let places = rewrite::find_records(&blobs, &piece_ids)?;
            for id in &piece_ids {
                let place = places
                    .get(id)
                    .with_context(|| format!("a committed piece is not in {}", blobs.display()))?;
                rewrite::alter(place, &mut random)
                    .with_context(|| format!("cannot alter a piece in {}", place.path.display()))?;
            }
        }
        if let Some(process) = self.draw.stopped_process {
            network.kill_process(process)?;
        }
        Ok(())
    }

    /// How many of the altered pieces' nodes the client named, least over the segments; 0 where nothing was altered.
    ///
    /// `client` is what `uplink --json cp` printed.
    pub fn liars_named(&self, client: &Value) -> Result<usize> {
        let mut least = None;
        for (number, segment) in self.segments.iter().enumerate() {
            let named = liars_of_segment(client, segment.position)?;
            let altered = segment
                .pieces
                .iter()
                .zip(&self.draw.fates[number])
                .filter(|(_, fate)| **fate == Fate::Altered)
                .map(|(piece, _)| piece.node_id.to_string());
            let altered: BTreeSet<String> = altered.collect();
            if let Some(innocent) = named.difference(&altered).next() {
                bail!("the client calls {innocent} a liar, which tells the truth");
            }
            let count = named.len();
            least = Some(least.map_or(count, |least: usize| least.min(count)));
        }
        Ok(least.unwrap_or(0))
    }

    fn with_fate(&self, fate: Fate) -> Vec<(&CommittedSegment, &CommittedPiece)> {
        self.segments
            .iter()
            .zip(&self.draw.fates)
            .flat_map(|(segment, fates)| {
                segment
                    .pieces
                    .iter()
                    .zip(fates)
                    .map(move |(piece, fate)| (segment, piece, fate))
            })
            .filter(|(_, _, of_piece)| **of_piece == fate)
            .map(|(segment, piece, _)| (segment, piece))
            .collect()
    }
}

/// Text forms of the node ids that the client calls liars in one segment.
fn liars_of_segment(client: &Value, position: u64) -> Result<BTreeSet<String>> {
    // A single-part object numbers its segments by the lower half of their position.
    let number = position & 0xffff_ffff;
    let segments = client["segments"]
        .as_array()
        .context("the client's JSON has no list of segments")?;
    let segment = segments
        .iter()
        .find(|segment| segment["segment"].as_u64() == Some(number))
        .with_context(|| format!("the client's JSON says nothing of segment {number}"))?;
    let liars = segment["liars"]
        .as_array()
        .context("the client's JSON has no list of liars")?;
    liars
        .iter()
        .map(|liar| {
            Ok(liar["node"]
                .as_str()
                .context("a liar without a node id")?
                .to_owned())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn liars_are_read_segment_by_segment() {
        let client = json!({"segments": [
            {"segment": 0, "liars": []},
            {"segment": 1, "liars": [{"node": "b", "index": 3, "segment": 1}, {"node": "a", "index": 4, "segment": 1}]},
        ]});
        let second = liars_of_segment(&client, 1 << 32 | 1).unwrap();
        assert_eq!(second.into_iter().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(liars_of_segment(&client, 1 << 32).unwrap().len(), 0);
        assert!(liars_of_segment(&client, 1 << 32 | 2).is_err());
    }
}
