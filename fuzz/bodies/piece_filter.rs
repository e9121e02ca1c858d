//! What the fuzz target of piece filters does with its bytes. The protocol's own tests do the same with the seeds, and with much that is near
//! to them.
//!
//! The bytes are tried as a filter as they are, then with the check that they lack, so that the fields behind it are reached; at last as piece
//! ids of which a filter is made.

use strand_protocol::{FilterKey, FilterScope, PieceFilter};

/// Panics if a filter is taken that it should not be, or lacks an id that it was made of.
pub(crate) fn run(bytes: &[u8]) {
    check(bytes.to_vec());
    let check_bytes = blake3::derive_key("strand piece filter v1", bytes);
    check([bytes, &check_bytes[..16]].concat());
    build(bytes);
}

/// What is taken is canonical, and answers any question.
fn check(bytes: Vec<u8>) {
    let Ok(filter) = PieceFilter::parse(bytes.clone()) else {
        return;
    };
    assert_eq!(filter.as_bytes(), bytes);
    let scope = *filter.scope();
    assert!(scope.first_id <= scope.last_id);
    let near = blake3::hash(&bytes);
    for id in [
        *scope.first_id.as_bytes(),
        *scope.last_id.as_bytes(),
        *near.as_bytes(),
        [0; 32],
        [0xff; 32],
    ] {
        let is_wanted = filter.contains(&id);
        assert!(is_wanted || scope.covers(&id), "it speaks out of its range");
    }
}

/// No id is lost, and the bytes are taken again.
fn build(bytes: &[u8]) {
    let (ids, _) = bytes.as_chunks::<32>();
    let key = FilterKey::from(*blake3::hash(bytes).as_bytes());
    let scope = FilterScope {
        satellite: [1; 32].into(),
        node: [2; 32].into(),
        snapshot_ms: bytes.len() as u64,
        first_id: [0; 32].into(),
        last_id: [0xff; 32].into(),
    };
    let hashes: Vec<u64> = ids.iter().map(|id| key.hash(id)).collect();
    let Ok(filter) = PieceFilter::build(scope, key, hashes) else {
        return;
    };
    for id in ids {
        assert!(filter.contains(id), "a piece that is wanted is not in it");
    }
    check(filter.into_bytes());
}
