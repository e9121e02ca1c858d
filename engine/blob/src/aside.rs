//! Lists beside the index: entries of which more must be known than where they are.

use std::collections::BTreeMap;

use crate::index::{self, Entry};

/// Entries of which more must be known than where they are: few pieces, and more bytes for each.
///
/// A tree of (fingerprint, entry): some 40 bytes a piece with what is kept of it.
#[derive(Debug)]
pub(crate) struct Aside<T> {
    entries: BTreeMap<(u64, Entry), T>,
}

impl<T> Default for Aside<T> {
    fn default() -> Self {
        Self {
            entries: BTreeMap::new(),
        }
    }
}

impl<T: Copy> Aside<T> {
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Bytes that it takes in memory: 11 entries a node, which are two thirds full, and what the nodes take themselves.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.entries.len() * (size_of::<(u64, Entry)>() + size_of::<T>()) * 7 / 4
    }

    pub(crate) fn insert(&mut self, fingerprint: u64, entry: Entry, value: T) {
        self.entries.insert((fingerprint, entry), value);
    }

    pub(crate) fn remove(&mut self, fingerprint: u64, entry: Entry) -> Option<T> {
        self.entries.remove(&(fingerprint, entry))
    }

    pub(crate) fn of(&self, fingerprint: u64, entry: Entry) -> Option<T> {
        self.entries.get(&(fingerprint, entry)).copied()
    }

    /// All records that may be the piece.
    pub(crate) fn candidates(&self, fingerprint: u64) -> impl Iterator<Item = (Entry, T)> {
        self.entries
            .range((fingerprint, Entry::NONE)..=(fingerprint, Entry::LAST))
            .map(|(&(_, entry), &value)| (entry, value))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, Entry, T)> {
        self.entries
            .iter()
            .map(|(&(fingerprint, entry), &value)| (fingerprint, entry, value))
    }

    /// Those whose fingerprints belong into this table of an index.
    pub(crate) fn of_table(&self, table: usize) -> impl Iterator<Item = (u64, Entry, T)> {
        let first = index::fingerprint_of(table, 0);
        let last = index::last_fingerprint_of(table);
        self.entries
            .range((first, Entry::NONE)..=(last, Entry::LAST))
            .map(|(&(fingerprint, entry), &value)| (fingerprint, entry, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::Place;
    use crate::states::Trashed;

    #[test]
    fn a_live_piece_stays_within_its_bytes_with_a_tenth_of_them_in_the_trash() {
        let trashed = Trashed {
            since_s: 0,
            body_len: 0,
            sequence: 0,
        };
        let mut trash = Aside::default();
        for n in 1..=1_000_u64 {
            let place = Place {
                slot: 1,
                offset: 64 * n,
            };
            trash.insert(n, Entry::new(place, 928), trashed);
        }
        // The worst of the index by itself is 16.9.
        let bytes = 16.9 + trash.memory_bytes() as f64 / 10_000.0;
        assert!(bytes <= 24.0, "{bytes}");
    }
}
