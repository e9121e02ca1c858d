//! Whether a segment may be committed: receipts against what was issued.
//!
//! Receipts are the upload's whole evidence. Each must carry a serial that is still current, from
//! the node and for the index it was issued to, with the piece length of the formula, and all
//! must carry one commitment. Their MACs are checked before, by whoever parses them.

use std::collections::BTreeSet;

use strand_codec::{INLINE_BYTES_MAX, Shape, inline_commitment, sealed_len};
use strand_protocol::{Code, NodeId, Position, Receipt, piece_id};

use super::placement::commit_count_min;
use super::refusal::Refusal;
use super::row::{
    Discard, NodeNumber, PendingObjectRow, PendingSegmentRow, Pieces, Placement, SegmentRow,
};

/// A request to commit a segment, its receipts' MACs checked and their nodes looked up.
#[derive(Clone, Debug)]
pub(crate) struct Offer {
    pub(crate) position: Position,
    pub(crate) plain_len: u64,
    pub(crate) sealed_len: u64,
    pub(crate) salt: [u8; 24],
    pub(crate) key_commitment: [u8; 32],
    pub(crate) commitment: [u8; 32],
    pub(crate) receipts: Vec<(NodeNumber, Receipt)>,
}

/// A request to store a segment inline.
#[derive(Clone, Debug)]
pub(crate) struct InlineOffer {
    pub(crate) position: Position,
    pub(crate) plain_len: u64,
    pub(crate) salt: [u8; 24],
    pub(crate) key_commitment: [u8; 32],
    pub(crate) commitment: [u8; 32],
    pub(crate) sealed: Vec<u8>,
}

/// Why a commit is refused. Receipts are named by their place in the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CommitError {
    #[error("sealed_len {sealed_len} is not that of the segment begun, {begun}")]
    OtherSegment { sealed_len: u64, begun: u64 },
    #[error("plain_len {plain_len} seals to {expected} bytes, not {sealed_len}")]
    Lengths {
        plain_len: u64,
        expected: u64,
        sealed_len: u64,
    },
    #[error("{found} receipts < {needed} needed")]
    TooFew { found: usize, needed: u8 },
    #[error("{found} receipts > {most}, the most for this scheme")]
    TooMany { found: usize, most: u8 },
    #[error("receipt {at}: its serial was not issued for this segment")]
    Serial { at: usize },
    #[error("receipt {at}: its piece was given to another node since")]
    Replaced { at: usize },
    #[error("receipt {at} is for index {found}, its serial for {issued}")]
    Index { at: usize, found: u8, issued: u8 },
    #[error("receipt {at}: its serial was issued to another node")]
    Node { at: usize },
    #[error("receipt {at} is for another piece")]
    Piece { at: usize },
    #[error("receipt {at}: index {index} occurs twice")]
    Twice { at: usize, index: u8 },
    #[error("receipt {at}: data indices come first, {index} comes after others")]
    Order { at: usize, index: u8 },
    #[error("receipt {at}: piece_len {found} is not {expected}")]
    Length {
        at: usize,
        found: u64,
        expected: u64,
    },
    #[error("receipt {at} carries another commitment than the segment's")]
    Commitment { at: usize },
    #[error("receipt {at}: piece expiry {found} is not the object's, {expected}")]
    Expiry {
        at: usize,
        found: u64,
        expected: u64,
    },
}

impl From<CommitError> for Refusal {
    fn from(error: CommitError) -> Self {
        let code = match error {
            CommitError::OtherSegment { .. } | CommitError::Lengths { .. } => Code::BadRequest,
            _ => Code::BadReceipt,
        };
        Self::new(code, error.to_string())
    }
}

/// The segment's row, and the pieces that were issued but are not part of it.
pub(crate) fn commit(
    object: &PendingObjectRow,
    pending: &PendingSegmentRow,
    offer: &Offer,
) -> Result<(SegmentRow, Vec<Placement>), CommitError> {
    let shape = check_lengths(object, pending, offer)?;
    check_count(object, offer.receipts.len())?;
    let mut placements = Vec::with_capacity(offer.receipts.len());
    let mut seen = BTreeSet::new();
    let mut is_past_data = false;
    for (at, (node, receipt)) in offer.receipts.iter().enumerate() {
        let index = receipt.index;
        check_issue(pending, at, *node, receipt)?;
        if !seen.insert(index) {
            return Err(CommitError::Twice { at, index });
        }
        let is_data = index < object.scheme.required;
        if is_data && is_past_data {
            return Err(CommitError::Order { at, index });
        }
        is_past_data |= !is_data;
        if receipt.piece_len != shape.piece_len() {
            let (found, expected) = (receipt.piece_len, shape.piece_len());
            return Err(CommitError::Length {
                at,
                found,
                expected,
            });
        }
        if receipt.commitment != offer.commitment {
            return Err(CommitError::Commitment { at });
        }
        if receipt.piece_expiry_ms != object.expires_ms {
            let (found, expected) = (receipt.piece_expiry_ms, object.expires_ms);
            return Err(CommitError::Expiry {
                at,
                found,
                expected,
            });
        }
        placements.push(Placement { index, node: *node });
    }
    let leftovers = issued_except(pending, &placements);
    let pieces = Pieces {
        scheme: object.scheme,
        secret: pending.secret,
        placements,
    };
    let row = SegmentRow {
        position: offer.position,
        plain_len: offer.plain_len,
        sealed_len: offer.sealed_len,
        salt: offer.salt,
        key_commitment: offer.key_commitment,
        commitment: offer.commitment,
        pieces: Some(pieces),
    };
    Ok((row, leftovers))
}

/// The row of an inline segment.
///
/// # Errors
///
/// If the lengths do not fit or the commitment is not that of the bytes.
pub(crate) fn commit_inline(offer: &InlineOffer) -> Result<SegmentRow, Refusal> {
    let InlineOffer {
        plain_len,
        salt,
        key_commitment,
        ref sealed,
        ..
    } = *offer;
    if plain_len > INLINE_BYTES_MAX {
        return Err(Refusal::new(
            Code::TooLarge,
            format!("{plain_len} bytes > {INLINE_BYTES_MAX}, the most that is stored inline"),
        ));
    }
    if sealed.len() as u64 != sealed_len(plain_len) {
        return Err(Refusal::bad_request(format!(
            "plain_len {plain_len} seals to {} bytes, not {}",
            sealed_len(plain_len),
            sealed.len()
        )));
    }
    if inline_commitment(&salt, &key_commitment, sealed) != offer.commitment {
        return Err(Refusal::bad_request(
            "the commitment is not that of the sealed bytes",
        ));
    }
    Ok(SegmentRow {
        position: offer.position,
        plain_len,
        sealed_len: sealed.len() as u64,
        salt,
        key_commitment,
        commitment: offer.commitment,
        pieces: None,
    })
}

/// Pieces that may be stored though they are in no segment.
pub(crate) fn issued_except(pending: &PendingSegmentRow, kept: &[Placement]) -> Vec<Placement> {
    let pieces = pending.issued.iter().map(|issued| Placement {
        index: issued.index,
        node: issued.node,
    });
    pieces.filter(|piece| !kept.contains(piece)).collect()
}

/// What the delete queue needs to know about pieces of a segment; `None` if there are none.
pub(crate) fn discard(
    object: &PendingObjectRow,
    pending: &PendingSegmentRow,
    pieces: Vec<Placement>,
    not_before_ms: u64,
) -> Option<Discard> {
    (!pieces.is_empty()).then_some(Discard {
        project: object.project,
        secret: pending.secret,
        required: object.scheme.required,
        total: object.scheme.total,
        sealed_len: pending.sealed_len,
        pieces,
        try_count: 0,
        not_before_ms,
    })
}

/// Whether a node of this id could have made the receipt's piece id.
fn is_piece_of(pending: &PendingSegmentRow, receipt: &Receipt) -> bool {
    let node: &NodeId = &receipt.node;
    piece_id(&pending.secret, node, receipt.index) == receipt.piece_id
}

fn check_lengths(
    object: &PendingObjectRow,
    pending: &PendingSegmentRow,
    offer: &Offer,
) -> Result<Shape, CommitError> {
    if offer.sealed_len != pending.sealed_len {
        let (sealed_len, begun) = (offer.sealed_len, pending.sealed_len);
        return Err(CommitError::OtherSegment { sealed_len, begun });
    }
    // Parsed when the segment was begun, hence the shape holds.
    let shape = Shape::new(
        object.scheme.required,
        object.scheme.total,
        pending.sealed_len,
    )
    .expect("checked when the segment was begun");
    if shape.plain_len() != offer.plain_len {
        let Offer {
            plain_len,
            sealed_len: offered,
            ..
        } = *offer;
        // Saturating: the length is the client's word.
        let expected = sealed_len(plain_len.min(u64::MAX / 2));
        return Err(CommitError::Lengths {
            plain_len,
            expected,
            sealed_len: offered,
        });
    }
    Ok(shape)
}

fn check_count(object: &PendingObjectRow, found: usize) -> Result<(), CommitError> {
    let needed = commit_count_min(object.scheme);
    let most = object.scheme.optimal;
    if found < needed.into() {
        Err(CommitError::TooFew { found, needed })
    } else if found > most.into() {
        Err(CommitError::TooMany { found, most })
    } else {
        Ok(())
    }
}

/// The receipt is for what was issued under its serial.
fn check_issue(
    pending: &PendingSegmentRow,
    at: usize,
    node: NodeNumber,
    receipt: &Receipt,
) -> Result<(), CommitError> {
    let issued = pending
        .issued
        .iter()
        .find(|issued| issued.serial == receipt.serial);
    let issued = issued.ok_or(CommitError::Serial { at })?;
    if issued.is_replaced {
        return Err(CommitError::Replaced { at });
    }
    if issued.index != receipt.index {
        return Err(CommitError::Index {
            at,
            found: receipt.index,
            issued: issued.index,
        });
    }
    if issued.node != node {
        return Err(CommitError::Node { at });
    }
    if !is_piece_of(pending, receipt) {
        return Err(CommitError::Piece { at });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use strand_protocol::Scheme;

    use super::super::row::Issued;
    use super::*;

    const SECRET: [u8; 32] = [3; 32];
    const COMMITMENT: [u8; 32] = [4; 32];
    const PLAIN_LEN: u64 = 100_000;

    fn node_id(index: u8) -> NodeId {
        [100 + index; 32].into()
    }

    fn object() -> PendingObjectRow {
        PendingObjectRow {
            project: [1; 16].into(),
            bucket: "bucket".to_owned(),
            encrypted_key: b"key".to_vec(),
            scheme: Scheme::new(4, 6, 8, 10).unwrap(),
            created_ms: 1,
            expires_ms: 77,
            committed: None,
        }
    }

    fn pending() -> PendingSegmentRow {
        let issued = |index| Issued {
            index,
            node: NodeNumber(index.into()),
            serial: [index; 16].into(),
            is_replaced: false,
        };
        PendingSegmentRow {
            secret: SECRET,
            sealed_len: sealed_len(PLAIN_LEN),
            issued: (0..10).map(issued).collect(),
        }
    }

    fn receipt(index: u8) -> (NodeNumber, Receipt) {
        let shape = Shape::new(4, 10, sealed_len(PLAIN_LEN)).unwrap();
        let receipt = Receipt {
            serial: [index; 16].into(),
            node: node_id(index),
            piece_id: piece_id(&SECRET, &node_id(index), index),
            index,
            piece_len: shape.piece_len(),
            root: [0; 32],
            commitment: COMMITMENT,
            piece_expiry_ms: 77,
            epoch: 1,
        };
        (NodeNumber(index.into()), receipt)
    }

    fn offer(indices: impl IntoIterator<Item = u8>) -> Offer {
        Offer {
            position: Position {
                part_number: 1,
                segment_index: 0,
            },
            plain_len: PLAIN_LEN,
            sealed_len: sealed_len(PLAIN_LEN),
            salt: [0; 24],
            key_commitment: [0; 32],
            commitment: COMMITMENT,
            receipts: indices.into_iter().map(receipt).collect(),
        }
    }

    fn check(change: impl FnOnce(&mut Offer)) -> CommitError {
        let mut offer = offer(0..8);
        change(&mut offer);
        commit(&object(), &pending(), &offer).unwrap_err()
    }

    #[test]
    fn eight_good_receipts_commit_and_leave_two_pieces_over() {
        let (row, leftovers) = commit(&object(), &pending(), &offer(0..8)).unwrap();
        assert_eq!(row.pieces.unwrap().placements.len(), 8);
        let indices: Vec<_> = leftovers.iter().map(|piece| piece.index).collect();
        assert_eq!(indices, [8, 9]);
    }

    #[test]
    fn repair_and_one_more_are_enough() {
        assert!(commit(&object(), &pending(), &offer([3, 1, 9, 8, 7, 6, 5])).is_ok());
        assert_eq!(
            commit(&object(), &pending(), &offer(0..6)).unwrap_err(),
            CommitError::TooFew {
                found: 6,
                needed: 7
            }
        );
    }

    #[test]
    fn bad_receipts_are_named() {
        assert_eq!(
            check(|o| o.receipts.push(receipt(8))),
            CommitError::TooMany { found: 9, most: 8 }
        );
        assert_eq!(
            check(|o| o.receipts[2].1.serial = [99; 16].into()),
            CommitError::Serial { at: 2 }
        );
        // The serial of index 9 in a receipt for index 1: replayed from another piece.
        assert_eq!(
            check(|o| o.receipts[1].1.serial = [9; 16].into()),
            CommitError::Index {
                at: 1,
                found: 1,
                issued: 9
            }
        );
        assert_eq!(
            check(|o| o.receipts[1].1.index = 5),
            CommitError::Index {
                at: 1,
                found: 5,
                issued: 1
            }
        );
        assert_eq!(
            check(|o| o.receipts[4].0 = NodeNumber(9)),
            CommitError::Node { at: 4 }
        );
        assert_eq!(
            check(|o| o.receipts[4].1.piece_id = [0; 32].into()),
            CommitError::Piece { at: 4 }
        );
        assert_eq!(
            check(|o| o.receipts[5] = receipt(4)),
            CommitError::Twice { at: 5, index: 4 }
        );
        assert_eq!(
            check(|o| o.receipts.reverse()),
            CommitError::Order { at: 4, index: 3 }
        );
        assert!(matches!(
            check(|o| o.receipts[7].1.piece_len -= 64),
            CommitError::Length { at: 7, .. }
        ));
        assert_eq!(
            check(|o| o.receipts[0].1.commitment = [5; 32]),
            CommitError::Commitment { at: 0 }
        );
        assert_eq!(
            check(|o| o.commitment = [5; 32]),
            CommitError::Commitment { at: 0 }
        );
        assert_eq!(
            check(|o| o.receipts[3].1.piece_expiry_ms = 0),
            CommitError::Expiry {
                at: 3,
                found: 0,
                expected: 77
            }
        );
        assert!(matches!(
            check(|o| o.sealed_len += 1),
            CommitError::OtherSegment { .. }
        ));
        assert!(matches!(
            check(|o| o.plain_len += 1),
            CommitError::Lengths { .. }
        ));
        assert!(matches!(
            check(|o| o.plain_len = u64::MAX),
            CommitError::Lengths { .. }
        ));
    }

    #[test]
    fn a_replaced_serial_is_not_committed_but_its_piece_is_left_over() {
        let mut pending = pending();
        pending.issued[2].is_replaced = true;
        pending.issued.push(Issued {
            index: 2,
            node: NodeNumber(50),
            serial: [50; 16].into(),
            is_replaced: false,
        });
        assert_eq!(
            commit(&object(), &pending, &offer(0..8)).unwrap_err(),
            CommitError::Replaced { at: 2 }
        );
        let mut good = offer(0..8);
        good.receipts[2].0 = NodeNumber(50);
        good.receipts[2].1.serial = [50; 16].into();
        good.receipts[2].1.node = node_id(50);
        good.receipts[2].1.piece_id = piece_id(&SECRET, &node_id(50), 2);
        let (_, leftovers) = commit(&object(), &pending, &good).unwrap();
        assert!(leftovers.contains(&Placement {
            index: 2,
            node: NodeNumber(2)
        }));
        assert_eq!(leftovers.len(), 3);
    }

    #[test]
    fn inline_segments_prove_their_commitment() {
        let sealed = vec![7; 17];
        let good = InlineOffer {
            position: Position {
                part_number: 1,
                segment_index: 0,
            },
            plain_len: 1,
            salt: [1; 24],
            key_commitment: [2; 32],
            commitment: inline_commitment(&[1; 24], &[2; 32], &sealed),
            sealed,
        };
        assert_eq!(commit_inline(&good).unwrap().pieces, None);
        let other = InlineOffer {
            sealed: vec![8; 17],
            ..good.clone()
        };
        assert_eq!(commit_inline(&other).unwrap_err().code, Code::BadRequest);
        let longer = InlineOffer {
            sealed: vec![7; 18],
            ..good.clone()
        };
        assert_eq!(commit_inline(&longer).unwrap_err().code, Code::BadRequest);
        let large = InlineOffer {
            plain_len: 16_385,
            sealed: vec![0; 16_417],
            ..good
        };
        assert_eq!(commit_inline(&large).unwrap_err().code, Code::TooLarge);
    }
}
