//! Planted bugs: faults switched on by name, to prove that the tests would notice them.
//!
//! Only with the feature `planted-bugs`, which no crate enables; without it [`is_planted`] is constant and the faulty branches
//! are not in the program. Each of these must FAIL, and `.ci/run` fails if it does not:
//!
//! ```text
//! STRAND_BUG=ack-before-sync   cargo test -p strand-blob --features planted-bugs
//! STRAND_BUG=index-before-data cargo test -p strand-blob --features planted-bugs
//! ```
//!
//! * `ack-before-sync`: puts and deletes are answered once the group is written, before the sync that covers it.
//! * `index-before-data`: a piece enters the index before its group is written, so that it is
//!   served, and acknowledged again, while a crash can still take it away.

/// Whether the bug of this name is switched on.
#[cfg(feature = "planted-bugs")]
pub(crate) fn is_planted(name: &str) -> bool {
    std::env::var("STRAND_BUG").is_ok_and(|planted| planted == name)
}

/// Whether the bug of this name is switched on: never.
#[cfg(not(feature = "planted-bugs"))]
pub(crate) const fn is_planted(_name: &str) -> bool {
    false
}
