//! Which nodes get a segment's pieces.
//!
//! At most one node of each failure domain, nodes with more free space somewhat more often: of
//! two candidates drawn at random the emptier one is taken (power of two choices), which evens
//! fill levels out without sending every upload to the newest node. Indices fall on nodes at
//! random, so that no node is always asked for data pieces.

use std::collections::{BTreeMap, BTreeSet};

use strand_protocol::{Code, NodeId, Scheme, limits};

use super::address::Domain;
use super::draw::{self, Random};
use super::refusal::Refusal;
use super::row::{NodeNumber, NodeRow};

/// Bytes that stay free on a node beyond the piece it is asked to store: room for what others
/// store between two of its check-ins.
pub(crate) const FREE_MARGIN_BYTES: u64 = 16 << 20;

const _: () = assert!(FREE_MARGIN_BYTES > 3 * limits::PIECE_BYTES_MAX);

/// A node that may be asked to store a piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) number: NodeNumber,
    pub(crate) id: NodeId,
    pub(crate) address: String,
    pub(crate) domain: Domain,
    pub(crate) free_bytes: u64,
}

/// Whether the node is up, reachable and on time.
pub(crate) fn is_online(node: &NodeRow, now_ms: u64) -> bool {
    node.is_reachable
        && now_ms.saturating_sub(node.last_contact_ms) <= limits::CHECK_IN_STALE_MS
        && node.skew_ms.unsigned_abs() <= limits::CLOCK_SKEW_MS
}

/// Whether it may be asked to store a piece of this length.
pub(crate) fn is_eligible(node: &NodeRow, piece_len: u64, now_ms: u64) -> bool {
    is_online(node, now_ms) && node.free_bytes >= piece_len + FREE_MARGIN_BYTES
}

/// Fewest pieces with which a segment may be committed.
pub(crate) fn commit_count_min(scheme: Scheme) -> u8 {
    scheme.optimal.min(scheme.repair.saturating_add(1))
}

/// Nodes for a new segment, each with its index: `total` of them, or as many as there are
/// domains, but at least enough to commit.
///
/// # Errors
///
/// `NO_NODES`, saying how many were needed and found.
pub(crate) fn place_segment(
    scheme: Scheme,
    candidates: &[Candidate],
    random: Random<'_>,
) -> Result<Vec<(u8, Candidate)>, Refusal> {
    let picked = pick(candidates, scheme.total.into(), random);
    let needed = commit_count_min(scheme);
    if picked.len() < usize::from(needed) {
        return Err(too_few(needed.into(), picked.len()));
    }
    // With fewer nodes than indices, the data indices come first.
    let mut indices: Vec<u8> = (0..scheme.total).take(picked.len()).collect();
    draw::shuffle(random, &mut indices);
    Ok(indices.into_iter().zip(picked).collect())
}

/// New nodes for some indices of a segment, data indices first if there are not enough for all.
///
/// `used` are the nodes already asked for any of its pieces, `domains` those still in use.
///
/// # Errors
///
/// `NO_NODES` if there is none at all.
pub(crate) fn replace_pieces(
    indices: &BTreeSet<u8>,
    candidates: Vec<Candidate>,
    used: &BTreeSet<NodeNumber>,
    domains: &BTreeSet<Domain>,
    random: Random<'_>,
) -> Result<Vec<(u8, Candidate)>, Refusal> {
    let is_free = |candidate: &Candidate| {
        !used.contains(&candidate.number) && !domains.contains(&candidate.domain)
    };
    let candidates: Vec<_> = candidates.into_iter().filter(is_free).collect();
    let picked = pick(&candidates, indices.len(), random);
    if picked.is_empty() {
        return Err(too_few(indices.len(), 0));
    }
    // A set counts upwards: data indices come first.
    Ok(indices.iter().copied().zip(picked).collect())
}

/// How many failure domains the candidates span.
pub(crate) fn domain_count(candidates: &[Candidate]) -> usize {
    candidates
        .iter()
        .map(|candidate| candidate.domain)
        .collect::<BTreeSet<_>>()
        .len()
}

pub(crate) fn too_few(needed: usize, found: usize) -> Refusal {
    Refusal {
        retry_after_ms: limits::CHECK_IN_INTERVAL.as_millis() as u32,
        ..Refusal::new(
            Code::NoNodes,
            format!(
                "too few storage nodes: {needed} needed on distinct networks, {found} found \
                 online with free space"
            ),
        )
    }
}

/// At most `count_max` candidates of distinct domains.
fn pick(candidates: &[Candidate], count_max: usize, random: Random<'_>) -> Vec<Candidate> {
    let mut domains: BTreeMap<Domain, Vec<&Candidate>> = BTreeMap::new();
    for candidate in candidates {
        domains.entry(candidate.domain).or_default().push(candidate);
    }
    // One node for each domain, so that a domain of many nodes is drawn no more often.
    let mut remaining: Vec<&Candidate> = domains
        .into_values()
        .map(|nodes| nodes[emptier_of_two(&nodes, random)])
        .collect();
    let mut picked = Vec::with_capacity(count_max.min(remaining.len()));
    while picked.len() < count_max && !remaining.is_empty() {
        let choice = emptier_of_two(&remaining, random);
        picked.push(remaining.swap_remove(choice).clone());
    }
    picked
}

fn emptier_of_two(nodes: &[&Candidate], random: Random<'_>) -> usize {
    let one = draw::below(random, nodes.len());
    let other = draw::below(random, nodes.len());
    if nodes[other].free_bytes > nodes[one].free_bytes {
        other
    } else {
        one
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(number: u32, domain: u8, free_bytes: u64) -> Candidate {
        Candidate {
            number: NodeNumber(number),
            id: [number as u8; 32].into(),
            address: format!("127.0.{domain}.1:7000"),
            domain: Domain::V4([127, 0, domain]),
            free_bytes,
        }
    }

    fn one_per_domain(count: u8) -> Vec<Candidate> {
        (0..count)
            .map(|domain| candidate(domain.into(), domain, 1 << 40))
            .collect()
    }

    #[test]
    fn all_indices_land_on_distinct_domains() {
        let mut random = draw::seeded(1);
        // Three nodes in each of 110 domains.
        let candidates: Vec<_> = (0..330)
            .map(|number| candidate(number, (number / 3) as u8, 1 << 40))
            .collect();
        let placed = place_segment(Scheme::DEFAULT, &candidates, &mut random).unwrap();
        let mut indices: Vec<_> = placed.iter().map(|(index, _)| *index).collect();
        assert!(!indices.is_sorted());
        indices.sort_unstable();
        assert!(indices.into_iter().eq(0..93));
        let domains: BTreeSet<_> = placed.iter().map(|(_, node)| node.domain).collect();
        assert_eq!(domains.len(), 93);
    }

    #[test]
    fn fewer_domains_than_total_get_the_data_indices() {
        let mut random = draw::seeded(2);
        let placed = place_segment(Scheme::DEFAULT, &one_per_domain(53), &mut random).unwrap();
        let indices: BTreeSet<_> = placed.iter().map(|(index, _)| *index).collect();
        assert!(indices.into_iter().eq(0..53));
    }

    #[test]
    fn too_few_domains_are_counted_in_the_refusal() {
        let mut random = draw::seeded(3);
        let refusal = place_segment(Scheme::DEFAULT, &one_per_domain(52), &mut random).unwrap_err();
        assert_eq!(refusal.code, Code::NoNodes);
        assert!(refusal.message.contains("53 needed"), "{refusal}");
        assert!(refusal.message.contains("52 found"), "{refusal}");
    }

    #[test]
    fn the_smallest_scheme_needs_one_node() {
        let scheme = Scheme::new(1, 1, 1, 1).unwrap();
        assert_eq!(commit_count_min(scheme), 1);
        let placed = place_segment(scheme, &one_per_domain(1), &mut draw::seeded(4)).unwrap();
        assert_eq!(placed.len(), 1);
    }

    #[test]
    fn emptier_nodes_are_drawn_more_often_and_full_ones_still_sometimes() {
        let mut random = draw::seeded(5);
        let mut candidates = one_per_domain(100);
        for candidate in &mut candidates[..50] {
            candidate.free_bytes = 1 << 41;
        }
        let (mut emptier, mut fuller) = (0, 0);
        for _ in 0..200 {
            for node in pick(&candidates, 10, &mut random) {
                if node.number.0 < 50 {
                    emptier += 1
                } else {
                    fuller += 1
                }
            }
        }
        // Three to one for the first draw of two halves.
        assert!(
            emptier > 2 * fuller && fuller > 300,
            "{emptier} and {fuller}"
        );
    }

    #[test]
    fn replacements_avoid_used_nodes_and_domains_and_serve_data_first() {
        let mut random = draw::seeded(6);
        let used = (0..8).map(NodeNumber).collect();
        let domains = (0..9).map(|domain| Domain::V4([127, 0, domain])).collect();
        let placed = replace_pieces(
            &[7, 2, 5].into(),
            one_per_domain(11),
            &used,
            &domains,
            &mut random,
        )
        .unwrap();
        let indices: Vec<_> = placed.iter().map(|(index, _)| *index).collect();
        assert_eq!(indices, [2, 5]);
        let nodes: BTreeSet<_> = placed.iter().map(|(_, node)| node.number.0).collect();
        assert!(nodes.into_iter().eq([9, 10]));
        let refusal = replace_pieces(&[1].into(), one_per_domain(8), &used, &domains, &mut random)
            .unwrap_err();
        assert_eq!(refusal.code, Code::NoNodes);
    }

    #[test]
    fn late_unreachable_or_misclocked_nodes_are_not_asked() {
        let now_ms = 10_000_000;
        let good = NodeRow {
            id: [1; 32].into(),
            address: "127.0.0.1:1".to_owned(),
            domain: Domain::V4([127, 0, 0]),
            capacity_bytes: 1 << 40,
            used_bytes: 0,
            free_bytes: FREE_MARGIN_BYTES + 1_000,
            version: String::new(),
            first_contact_ms: 0,
            last_contact_ms: now_ms - limits::CHECK_IN_STALE_MS,
            skew_ms: -(limits::CLOCK_SKEW_MS as i64),
            is_reachable: true,
        };
        assert!(is_eligible(&good, 1_000, now_ms));
        assert!(!is_eligible(&good, 1_001, now_ms));
        assert!(!is_eligible(&good, 1_000, now_ms + 1));
        let off = NodeRow {
            skew_ms: limits::CLOCK_SKEW_MS as i64 + 1,
            ..good.clone()
        };
        assert!(!is_eligible(&off, 1_000, now_ms));
        let hidden = NodeRow {
            is_reachable: false,
            ..good
        };
        assert!(!is_eligible(&hidden, 1_000, now_ms));
    }
}
