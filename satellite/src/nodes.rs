//! The nodes as last heard of, in memory: selection and lookups never wait for the store.
//!
//! The store has the same rows; they are read once at the start and written at each check-in.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use strand_protocol::NodeId;

use crate::core::address::Domain;
use crate::core::placement::{Candidate, is_eligible};
use crate::core::row::{NodeNumber, NodeRow};

#[derive(Default)]
pub(crate) struct Nodes {
    known: RwLock<Known>,
}

#[derive(Default)]
struct Known {
    by_number: BTreeMap<NodeNumber, Entry>,
    numbers: HashMap<NodeId, NodeNumber>,
}

struct Entry {
    row: NodeRow,
    /// When its address was last dialled with success; 0 = not since the start.
    reached_ms: u64,
    /// Bytes of pieces it was asked to store since it last said how much is free.
    promised_bytes: u64,
}

impl Nodes {
    pub(crate) fn new(rows: Vec<(NodeNumber, NodeRow)>) -> Self {
        let nodes = Self::default();
        for (number, row) in rows {
            nodes.put(number, row, 0);
        }
        nodes
    }

    /// A node's newest row.
    pub(crate) fn put(&self, number: NodeNumber, row: NodeRow, reached_ms: u64) {
        let mut known = self.write();
        known.numbers.insert(row.id, number);
        known.by_number.insert(
            number,
            Entry {
                row,
                reached_ms,
                promised_bytes: 0,
            },
        );
    }

    pub(crate) fn number(&self, id: &NodeId) -> Option<NodeNumber> {
        self.read().numbers.get(id).copied()
    }

    /// Who a placement names, and where it is.
    pub(crate) fn locate(&self, number: NodeNumber) -> Option<(NodeId, String)> {
        self.read()
            .by_number
            .get(&number)
            .map(|entry| (entry.row.id, entry.row.address.clone()))
    }

    /// The row of a node, and when it was last reached.
    pub(crate) fn row(&self, id: &NodeId) -> Option<(NodeRow, u64)> {
        let known = self.read();
        let entry = known.by_number.get(known.numbers.get(id)?)?;
        Some((entry.row.clone(), entry.reached_ms))
    }

    /// Nodes that may be asked to store a piece of this length.
    pub(crate) fn candidates(&self, piece_len: u64, now_ms: u64) -> Vec<Candidate> {
        let known = self.read();
        let eligible = known.by_number.iter().filter(|(_, entry)| {
            is_eligible(
                &entry.row,
                piece_len.saturating_add(entry.promised_bytes),
                now_ms,
            )
        });
        eligible
            .map(|(number, entry)| Candidate {
                number: *number,
                id: entry.row.id,
                address: entry.row.address.clone(),
                domain: entry.row.domain,
                free_bytes: entry.row.free_bytes.saturating_sub(entry.promised_bytes),
            })
            .collect()
    }

    /// Remembers that these nodes were asked to store a piece of this length.
    pub(crate) fn promise(&self, numbers: impl IntoIterator<Item = NodeNumber>, piece_len: u64) {
        let mut known = self.write();
        for number in numbers {
            if let Some(entry) = known.by_number.get_mut(&number) {
                entry.promised_bytes = entry.promised_bytes.saturating_add(piece_len);
            }
        }
    }

    /// The failure domains of these nodes.
    pub(crate) fn domains(
        &self,
        numbers: impl IntoIterator<Item = NodeNumber>,
    ) -> BTreeSet<Domain> {
        let known = self.read();
        let domain = |number| known.by_number.get(&number).map(|entry| entry.row.domain);
        numbers.into_iter().filter_map(domain).collect()
    }

    /// All of them, by number.
    pub(crate) fn all(&self) -> Vec<(NodeNumber, NodeRow)> {
        let known = self.read();
        known
            .by_number
            .iter()
            .map(|(number, entry)| (*number, entry.row.clone()))
            .collect()
    }

    fn read(&self) -> RwLockReadGuard<'_, Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Known> {
        self.known.write().unwrap_or_else(PoisonError::into_inner)
    }
}
