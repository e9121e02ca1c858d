//! Making limits: which fields, which key, how long.

use strand_codec::Shape;
use strand_protocol::{
    Limit, LimitAction, LimitFields, NodeId, ProjectId, SatelliteKeys, Serial, limits, piece_id,
};

/// How long one key of a node makes MACs before the next.
const EPOCH_MS: u64 = 30 * 24 * 3_600_000;

/// How long after a new epoch has begun limits are still made in the one before, so that every
/// node has checked in and knows the new keys.
const EPOCH_GRACE_MS: u64 = 10 * 60_000;

const _: () = assert!(EPOCH_GRACE_MS as u128 > 5 * limits::CHECK_IN_INTERVAL.as_millis());
// A receipt comes back within its limit's life, hence in the limit's epoch or the next.
const _: () = assert!(limits::UPLOAD_LIFETIME_MS + EPOCH_GRACE_MS < EPOCH_MS);

/// The epochs whose keys a node is given, the current one first.
pub(crate) fn epochs(now_ms: u64) -> [u32; 2] {
    let current = (now_ms / EPOCH_MS) as u32;
    [current, current.saturating_sub(1)]
}

/// The epoch in which a limit is made.
pub(crate) fn issue_epoch(now_ms: u64) -> u32 {
    (now_ms.saturating_sub(EPOCH_GRACE_MS) / EPOCH_MS) as u32
}

/// Makes limits for the pieces of one segment.
pub(crate) struct Issuer<'a> {
    pub(crate) keys: &'a SatelliteKeys,
    pub(crate) satellite: NodeId,
    pub(crate) project: ProjectId,
    /// Whose connection the limits are for.
    pub(crate) client: NodeId,
    pub(crate) shape: Shape,
    pub(crate) secret: &'a [u8; 32],
    pub(crate) piece_expiry_ms: u64,
    pub(crate) now_ms: u64,
}

impl Issuer<'_> {
    /// A limit for one piece at one node.
    pub(crate) fn limit(
        &self,
        action: LimitAction,
        node: NodeId,
        index: u8,
        serial: Serial,
    ) -> Vec<u8> {
        let byte_count = if action == LimitAction::Delete {
            0
        } else {
            self.shape.piece_len()
        };
        let fields = LimitFields {
            serial,
            satellite: self.satellite,
            node,
            piece_id: piece_id(self.secret, &node, index),
            action,
            byte_count,
            required: self.shape.required(),
            total: self.shape.total(),
            index,
            sealed_len: self.shape.sealed_len(),
            issued_ms: self.now_ms,
            expires_ms: self.now_ms + limits::LIMIT_LIFETIME_MS,
            piece_expiry_ms: self.piece_expiry_ms,
            client: self.client,
            epoch: issue_epoch(self.now_ms),
        };
        Limit::mint(&fields, self.project, self.keys)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_know_the_epoch_of_every_limit_around_a_change() {
        for boundary in [EPOCH_MS, 700 * EPOCH_MS] {
            for offset in [0, 1, EPOCH_GRACE_MS - 1, EPOCH_GRACE_MS, EPOCH_GRACE_MS + 1] {
                let now_ms = boundary + offset;
                assert!(epochs(now_ms).contains(&issue_epoch(now_ms)), "{offset}");
                // A node that has not checked in since just before the boundary.
                if offset < EPOCH_GRACE_MS {
                    assert!(epochs(boundary - 1).contains(&issue_epoch(now_ms)));
                }
            }
        }
    }

    #[test]
    fn a_limit_says_what_was_asked_and_verifies_under_its_nodes_key_only() {
        let keys = SatelliteKeys::new([9; 32]);
        let shape = Shape::new(4, 10, strand_codec::sealed_len(100_000)).unwrap();
        let node = NodeId::from([7; 32]);
        let issuer = Issuer {
            keys: &keys,
            satellite: [1; 32].into(),
            project: [2; 16].into(),
            client: [3; 32].into(),
            shape,
            secret: &[4; 32],
            piece_expiry_ms: 5,
            now_ms: 800 * EPOCH_MS,
        };
        let bytes = issuer.limit(LimitAction::Put, node, 6, [8; 16].into());
        let unverified = Limit::parse(&bytes).unwrap();
        let limit = unverified
            .verify(&keys.limit_key(&node, unverified.epoch()))
            .unwrap();
        assert_eq!(limit.piece_id, piece_id(&[4; 32], &node, 6));
        assert_eq!((limit.index, limit.byte_count), (6, shape.piece_len()));
        assert_eq!(limit.client, NodeId::from([3; 32]));
        assert_eq!(
            limit.expires_ms - limit.issued_ms,
            limits::LIMIT_LIFETIME_MS
        );
        assert_eq!(
            unverified.open_ticket(&keys.ticket_key()),
            Ok([2; 16].into())
        );
        let other = keys.limit_key(&NodeId::from([8; 32]), unverified.epoch());
        assert!(unverified.verify(&other).is_err());
        let delete = issuer.limit(LimitAction::Delete, node, 6, [8; 16].into());
        let unverified = Limit::parse(&delete).unwrap();
        let limit = unverified
            .verify(&keys.limit_key(&node, unverified.epoch()))
            .unwrap();
        assert_eq!((limit.action, limit.byte_count), (LimitAction::Delete, 0));
    }
}
