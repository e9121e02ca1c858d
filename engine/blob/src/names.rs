//! Bounded lists of piece names that wait for somebody to fetch them.

use std::collections::VecDeque;

/// Names kept until they are taken; 88 bytes each at most.
pub(crate) const NAMES_MAX: usize = 4_096;

/// A piece's name: satellite and piece id.
pub type Name = ([u8; 32], [u8; 32]);

/// Names and what there is to say of each, the oldest first, none twice.
#[derive(Debug)]
pub(crate) struct Names<T> {
    names: VecDeque<(Name, T)>,
    /// Names that found no place.
    pub(crate) overflow_count: u64,
}

impl<T> Default for Names<T> {
    fn default() -> Self {
        Self {
            names: VecDeque::new(),
            overflow_count: 0,
        }
    }
}

impl<T> Names<T> {
    pub(crate) fn push(&mut self, name: Name, what: T) {
        if self.names.iter().any(|(known, _)| *known == name) {
            return;
        }
        if self.names.len() < NAMES_MAX {
            self.names.push_back((name, what));
        } else {
            self.overflow_count += 1;
        }
    }

    pub(crate) fn take(&mut self) -> Vec<(Name, T)> {
        std::mem::take(&mut self.names).into()
    }
}
