//! Listing with a delimiter: which keys become entries, which fold, and where to go on reading.
//!
//! A [`ListQuery`] is offered keys in byte order and says what to do with each. Everything below one
//! more component folds into one entry, and the walk then seeks past all of it: a listing costs
//! its entries, not the keys below them.

use strand_protocol::path::{Names, first_component_len};

/// What a listing asks for.
#[derive(Clone, Debug)]
pub(crate) struct ListQuery {
    pub(crate) names: Names,
    /// Whole encrypted components.
    pub(crate) prefix: Vec<u8>,
    pub(crate) has_delimiter: bool,
    /// The last entry of the page before; empty = from the start.
    pub(crate) after: Vec<u8>,
    pub(crate) entry_count_max: usize,
    pub(crate) now_ms: u64,
}

/// Where to read on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// At this key or the next one after it.
    At(Vec<u8>),
    /// After this key.
    After(Vec<u8>),
    /// There is nothing more.
    End,
}

/// What a key is in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// An entry of its own.
    Key,
    /// Folded into this prefix; read on at the start given.
    Prefix(Vec<u8>, Start),
    /// Not in the listing.
    Skip,
}

impl ListQuery {
    /// Where the first key may be.
    pub(crate) fn start(&self) -> Start {
        if self.after.is_empty() || self.after < self.prefix {
            return Start::At(self.prefix.clone());
        }
        let Some(rest) = self.after.strip_prefix(self.prefix.as_slice()) else {
            // Behind everything that has the prefix.
            return Start::End;
        };
        let is_fold = self.has_delimiter
            && match self.names {
                // The key `a` and the fold of all below `a/` have the same bytes when names are
                // sealed. Both are on one page (see `must_share_page`), so `after` means both.
                Names::Sealed => {
                    first_component_len(self.names, rest).is_ok_and(|len| len == rest.len())
                }
                Names::Plain => rest.ends_with(b"/"),
            };
        if is_fold {
            past(&self.after)
        } else {
            Start::After(self.after.clone())
        }
    }

    /// What the next key is. Keys without the prefix must not be offered.
    pub(crate) fn step(&self, key: &[u8]) -> Step {
        let Some(rest) = key.strip_prefix(self.prefix.as_slice()) else {
            return Step::Skip;
        };
        if rest.is_empty() {
            // With plain names `a/` lies below the prefix `a/` (its last component is empty);
            // with sealed names these bytes are the key `a`, which does not.
            return if self.names == Names::Plain {
                Step::Key
            } else {
                Step::Skip
            };
        }
        if !self.has_delimiter {
            return Step::Key;
        }
        // Keys were checked when they were stored; one that does not parse is shown, not hidden.
        let Ok(len) = first_component_len(self.names, rest) else {
            return Step::Key;
        };
        let is_below = match self.names {
            Names::Sealed => len < rest.len(),
            Names::Plain => rest[..len].ends_with(b"/"),
        };
        if !is_below {
            return Step::Key;
        }
        let folded = key[..self.prefix.len() + len].to_vec();
        let next = past(&folded);
        Step::Prefix(folded, next)
    }

    /// Whether an entry for `next` must follow the entry `last` on the same page, though the page
    /// is full: the two have the same bytes, so no `after` could tell them apart.
    pub(crate) fn must_share_page(&self, last: &[u8], next: &[u8]) -> bool {
        self.has_delimiter
            && self.names == Names::Sealed
            && next.len() > last.len()
            && next.starts_with(last)
    }
}

/// Behind everything that begins with `prefix`.
fn past(prefix: &[u8]) -> Start {
    let mut bytes = prefix.to_vec();
    while let Some(last) = bytes.pop() {
        if let Some(next) = last.checked_add(1) {
            bytes.push(next);
            return Start::At(bytes);
        }
    }
    Start::End
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::ops::Bound;

    use super::*;

    /// A sealed component: 16 bytes and the name, so that tests can read it.
    fn sealed(components: &[&str]) -> Vec<u8> {
        let one = |name: &&str| {
            let len = (16 + name.len()) as u16;
            [&len.to_le_bytes()[..], &[0xff; 16], name.as_bytes()].concat()
        };
        components.iter().flat_map(one).collect()
    }

    fn query(names: Names, prefix: &[u8], has_delimiter: bool) -> ListQuery {
        ListQuery {
            names,
            prefix: prefix.to_vec(),
            has_delimiter,
            after: Vec::new(),
            entry_count_max: 1_000,
            now_ms: 0,
        }
    }

    /// The whole listing in pages of `page` entries, as the store walks it: keys as they are,
    /// folds with a `>` before them.
    fn list(keys: &BTreeSet<Vec<u8>>, mut query: ListQuery, page: usize) -> Vec<Vec<u8>> {
        query.entry_count_max = page;
        let mut all = Vec::new();
        for _ in 0..100 {
            let mut entries: Vec<(bool, Vec<u8>)> = Vec::new();
            let mut start = query.start();
            let has_more = loop {
                let lower = match &start {
                    Start::At(key) => Bound::Included(key.clone()),
                    Start::After(key) => Bound::Excluded(key.clone()),
                    Start::End => break false,
                };
                let Some(key) = keys.range((lower, Bound::Unbounded)).next() else {
                    break false;
                };
                if !key.starts_with(&query.prefix) {
                    break false;
                }
                let step = query.step(key);
                if step == Step::Skip {
                    start = Start::After(key.clone());
                    continue;
                }
                let is_full = entries.len() >= query.entry_count_max;
                if is_full && !query.must_share_page(&entries.last().unwrap().1, key) {
                    break true;
                }
                match step {
                    Step::Key => {
                        entries.push((false, key.clone()));
                        start = Start::After(key.clone());
                    }
                    Step::Prefix(prefix, next) => {
                        entries.push((true, prefix));
                        start = next;
                    }
                    Step::Skip => unreachable!(),
                }
            };
            query.after = entries
                .last()
                .map(|(_, bytes)| bytes.clone())
                .unwrap_or_default();
            all.extend(entries.into_iter().map(|(is_fold, bytes)| {
                if is_fold {
                    [b">", &bytes[..]].concat()
                } else {
                    bytes
                }
            }));
            if !has_more {
                return all;
            }
        }
        panic!("a listing that does not end");
    }

    fn folded(bytes: &[u8]) -> Vec<u8> {
        [b">", bytes].concat()
    }

    #[test]
    fn plain_names_fold_at_slashes() {
        let keys: BTreeSet<Vec<u8>> = ["a", "a/", "a/b", "a/c/d", "a0", "b/c", "\u{10ffff}/x"]
            .iter()
            .map(|key| key.as_bytes().to_vec())
            .collect();
        for page in 1..8 {
            let listed = list(&keys, query(Names::Plain, b"", true), page);
            let last = folded("\u{10ffff}/".as_bytes());
            assert_eq!(
                listed,
                [
                    b"a".to_vec(),
                    folded(b"a/"),
                    b"a0".to_vec(),
                    folded(b"b/"),
                    last
                ],
                "page {page}"
            );
            let below = list(&keys, query(Names::Plain, b"a/", true), page);
            assert_eq!(
                below,
                [b"a/".to_vec(), b"a/b".to_vec(), folded(b"a/c/")],
                "page {page}"
            );
            let flat = list(&keys, query(Names::Plain, b"a/", false), page);
            assert_eq!(flat, [b"a/".to_vec(), b"a/b".to_vec(), b"a/c/d".to_vec()]);
        }
    }

    #[test]
    fn sealed_names_fold_at_components_and_share_bytes_with_a_key() {
        let keys: BTreeSet<Vec<u8>> = [
            &["a"][..],
            &["a", "b"],
            &["a", "c", "d"],
            &["b"],
            &["c", "x"],
            &["c", "y"],
        ]
        .iter()
        .map(|key| sealed(key))
        .collect();
        for page in 1..8 {
            let listed = list(&keys, query(Names::Sealed, b"", true), page);
            assert_eq!(
                listed,
                [
                    sealed(&["a"]),
                    folded(&sealed(&["a"])),
                    sealed(&["b"]),
                    folded(&sealed(&["c"]))
                ],
                "page {page}"
            );
            let below = list(&keys, query(Names::Sealed, &sealed(&["a"]), true), page);
            assert_eq!(
                below,
                [sealed(&["a", "b"]), folded(&sealed(&["a", "c"]))],
                "page {page}"
            );
            assert_eq!(list(&keys, query(Names::Sealed, b"", false), page).len(), 6);
        }
    }

    /// The listing by its definition: every key below the prefix, or the fold it falls into.
    fn naive(keys: &BTreeSet<Vec<u8>>, query: &ListQuery) -> Vec<Vec<u8>> {
        let mut all: Vec<Vec<u8>> = Vec::new();
        for key in keys {
            let entry = match query.step(key) {
                Step::Skip => continue,
                Step::Key => key.clone(),
                Step::Prefix(prefix, _) => folded(&prefix),
            };
            if all.last() != Some(&entry) {
                all.push(entry);
            }
        }
        all
    }

    /// Pages and seeks change nothing: over random trees of short names, any page size gives what
    /// a walk over every key gives.
    #[test]
    fn pages_and_seeks_agree_with_a_walk_over_every_key() {
        let mut random = crate::core::draw::seeded(7);
        let mut below = |bound| crate::core::draw::below(&mut random, bound);
        for _ in 0..300 {
            let names = if below(2) == 0 {
                Names::Plain
            } else {
                Names::Sealed
            };
            let encode = |components: &[&str]| match names {
                Names::Plain => components.join("/").into_bytes(),
                Names::Sealed => sealed(components),
            };
            let mut components = |count: usize| -> Vec<&'static str> {
                (0..count)
                    .map(|_| ["a", "b", "", "ab", "\u{7f}"][below(5)])
                    .collect()
            };
            let keys: BTreeSet<_> = (0..20)
                .map(|i| encode(&components(1 + i % 4)))
                .filter(|key| !key.is_empty())
                .collect();
            let prefix = match components(1).as_slice() {
                [""] => Vec::new(),
                one if names == Names::Plain => [&encode(one)[..], b"/"].concat(),
                one => encode(one),
            };
            for has_delimiter in [false, true] {
                let query = query(names, &prefix, has_delimiter);
                let expected = naive(&keys, &query);
                for page in [1, 2, 3, 100] {
                    assert_eq!(
                        list(&keys, query.clone(), page),
                        expected,
                        "{query:?} {page}"
                    );
                }
            }
        }
    }

    #[test]
    fn after_lies_before_inside_or_behind_the_prefix() {
        let after = |after: &[u8]| {
            ListQuery {
                after: after.to_vec(),
                ..query(Names::Plain, b"b/", true)
            }
            .start()
        };
        assert_eq!(after(b""), Start::At(b"b/".to_vec()));
        assert_eq!(after(b"a"), Start::At(b"b/".to_vec()));
        assert_eq!(after(b"b/x"), Start::After(b"b/x".to_vec()));
        assert_eq!(after(b"b/x/"), Start::At(b"b/x0".to_vec()));
        assert_eq!(after(b"c"), Start::End);
    }

    #[test]
    fn seeking_past_a_prefix_carries() {
        assert_eq!(past(&[1, 2]), Start::At(vec![1, 3]));
        assert_eq!(past(&[1, 0xff, 0xff]), Start::At(vec![2]));
        assert_eq!(past(&[0xff]), Start::End);
    }
}
