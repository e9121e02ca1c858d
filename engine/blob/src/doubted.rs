//! Pieces of which there may be a tombstone or a trash record that the store knows nothing of, and the next opening may find: left by a write that
//! failed, or in blocks that the opening could not read. And pieces of which the store knows from what is left of a torn group, which the next opening may
//! not find, and not miss.
//!
//! What is asked of such a piece is refused or done as ever, but for one thing: who stores or deletes it must not hear that this was done already.
//! It is done anew, and outranks whatever was left.

use std::collections::BTreeSet;

use crate::names::{NAMES_MAX, Name};

/// The names of such pieces; all pieces once they are too many to be kept.
#[derive(Debug, Default)]
pub(crate) struct Doubted {
    names: BTreeSet<Name>,
    are_all: bool,
}

impl Doubted {
    /// All pieces, or none that is known of.
    pub(crate) const fn new(are_all: bool) -> Self {
        Self {
            names: BTreeSet::new(),
            are_all,
        }
    }

    pub(crate) fn contains(&self, name: &Name) -> bool {
        self.are_all || self.names.contains(name)
    }

    pub(crate) fn insert(&mut self, name: Name) {
        if self.names.len() < NAMES_MAX {
            self.names.insert(name);
        } else if !self.names.contains(&name) {
            self.are_all = true;
        }
    }

    /// A record of it is durable that outranks whatever was left.
    pub(crate) fn remove(&mut self, name: &Name) {
        self.names.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_many_names_are_all_names() {
        let mut doubted = Doubted::default();
        let other = ([2; 32], [0; 32]);
        doubted.insert(other);
        assert!(doubted.contains(&other));
        doubted.remove(&other);
        assert!(!doubted.contains(&other));
        for number in 0..NAMES_MAX {
            let mut name = ([1; 32], [0; 32]);
            name.1[..8].copy_from_slice(&number.to_le_bytes());
            doubted.insert(name);
        }
        assert!(!doubted.contains(&other));
        doubted.insert(([3; 32], [0; 32]));
        assert!(doubted.contains(&other));
        doubted.remove(&other);
        assert!(
            doubted.contains(&other),
            "it may be one of those that were not kept"
        );
    }
}
