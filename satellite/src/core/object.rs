//! Whether the segments of an upload make an object.

use strand_codec::Shape;
use strand_protocol::{Code, Position, StreamId, limits};

use super::refusal::Refusal;
use super::row::{Discard, ObjectRow, PendingObjectRow, SegmentRow};

/// A request to commit an object.
#[derive(Clone, Debug)]
pub(crate) struct ObjectOffer {
    pub(crate) stream_id: StreamId,
    pub(crate) sealed_header: Vec<u8>,
    pub(crate) plain_len: u64,
}

impl ObjectOffer {
    /// By what a commit is known when it is repeated. The segments need no place in it: a committed upload takes no more.
    //= docs/format.md#7-the-satellites-store
    pub(crate) fn content_hash(&self) -> [u8; 32] {
        let input = [&self.plain_len.to_le_bytes(), &self.sealed_header[..]].concat();
        blake3::derive_key("strand v1 committed object", &input)
    }
}

/// Why segments are not an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ObjectError {
    #[error("the upload has no segment; an empty object has one empty segment")]
    Empty,
    #[error(
        "{count} segments > {}, the most of an object",
        limits::OBJECT_SEGMENTS_MAX
    )]
    TooManySegments { count: usize },
    #[error(
        "segment {} of part {} is missing: the next one committed is segment {} of part {}",
        expected.segment_index, expected.part_number, found.segment_index, found.part_number
    )]
    Gap { expected: Position, found: Position },
    #[error("part numbers are 1 to {}, not {part_number}", limits::PART_NUMBER_MAX)]
    PartNumber { part_number: u32 },
    #[error(
        "segment {} of part {} has {plain_len} bytes; all of a part but its last have {expected}",
        position.segment_index, position.part_number
    )]
    SegmentLength {
        position: Position,
        plain_len: u64,
        expected: u64,
    },
    #[error("plain_len {claimed} is not the sum of the segments, {sum}")]
    Length { claimed: u64, sum: u64 },
}

impl From<ObjectError> for Refusal {
    fn from(error: ObjectError) -> Self {
        let code = match error {
            ObjectError::TooManySegments { .. } => Code::TooLarge,
            _ => Code::BadRequest,
        };
        Self::new(code, error.to_string())
    }
}

/// The object's row. `segments` are all committed ones of the upload, in order.
pub(crate) fn commit(
    object: &PendingObjectRow,
    segments: &[SegmentRow],
    offer: &ObjectOffer,
    now_ms: u64,
) -> Result<ObjectRow, ObjectError> {
    let sum = check_segments(segments)?;
    if sum != offer.plain_len {
        return Err(ObjectError::Length {
            claimed: offer.plain_len,
            sum,
        });
    }
    Ok(ObjectRow {
        stream_id: offer.stream_id,
        sealed_header: offer.sealed_header.clone(),
        plain_len: sum,
        piece_bytes: segments.iter().map(piece_bytes).sum(),
        segment_count: segments.len() as u32,
        created_ms: now_ms,
        expires_ms: object.expires_ms,
    })
}

/// Bytes of a segment's committed pieces.
pub(crate) fn piece_bytes(segment: &SegmentRow) -> u64 {
    segment.pieces.as_ref().map_or(0, |pieces| {
        let scheme = pieces.scheme;
        Shape::new(scheme.required, scheme.total, segment.sealed_len).map_or(0, |shape| {
            shape.piece_len() * pieces.placements.len() as u64
        })
    })
}

/// What the delete queue needs to know about a committed segment; `None` for an inline one.
pub(crate) fn discard(
    project: strand_protocol::ProjectId,
    segment: &SegmentRow,
    not_before_ms: u64,
) -> Option<Discard> {
    let pieces = segment.pieces.as_ref()?;
    Some(Discard {
        project,
        secret: pieces.secret,
        required: pieces.scheme.required,
        total: pieces.scheme.total,
        sealed_len: segment.sealed_len,
        pieces: pieces.placements.clone(),
        try_count: 0,
        not_before_ms,
    })
}

/// Parts ascend, segments of a part follow each other from 0, and all but a part's last have one
/// length, which no last one exceeds. Returns the plaintext bytes.
fn check_segments(segments: &[SegmentRow]) -> Result<u64, ObjectError> {
    if segments.len() > limits::OBJECT_SEGMENTS_MAX {
        return Err(ObjectError::TooManySegments {
            count: segments.len(),
        });
    }
    let first = segments.first().ok_or(ObjectError::Empty)?;
    let mut previous: Option<Position> = None;
    for segment in segments {
        check_follows(previous, segment.position)?;
        previous = Some(segment.position);
    }
    let is_last_of_part = |at: usize| {
        segments
            .get(at + 1)
            .is_none_or(|next| next.position.part_number != segments[at].position.part_number)
    };
    // The full length is that of any segment with a successor in its part.
    let full = (0..segments.len())
        .find(|at| !is_last_of_part(*at))
        .map(|at| segments[at].plain_len);
    for (at, segment) in segments.iter().enumerate() {
        let SegmentRow {
            position,
            plain_len,
            ..
        } = *segment;
        let is_good = match (full, is_last_of_part(at)) {
            (Some(full), false) => plain_len == full,
            (Some(full), true) => {
                plain_len <= full && (plain_len > 0 || position.segment_index == 0)
            }
            (None, _) => true,
        };
        if !is_good {
            let expected = full.unwrap_or(first.plain_len);
            return Err(ObjectError::SegmentLength {
                position,
                plain_len,
                expected,
            });
        }
    }
    Ok(segments.iter().map(|segment| segment.plain_len).sum())
}

fn check_follows(previous: Option<Position>, found: Position) -> Result<(), ObjectError> {
    let part_number = found.part_number;
    if !(1..=limits::PART_NUMBER_MAX).contains(&part_number) {
        return Err(ObjectError::PartNumber { part_number });
    }
    let expected = match previous {
        Some(previous) if previous.part_number == part_number => Position {
            segment_index: previous.segment_index.saturating_add(1),
            part_number,
        },
        // A new part: numbers may skip, segments begin at 0.
        _ => Position {
            part_number,
            segment_index: 0,
        },
    };
    if found == expected {
        Ok(())
    } else {
        Err(ObjectError::Gap { expected, found })
    }
}

#[cfg(test)]
mod tests {
    use strand_protocol::Scheme;

    use super::super::row::{NodeNumber, Pieces, Placement};
    use super::*;

    fn segment(part_number: u32, segment_index: u32, plain_len: u64) -> SegmentRow {
        SegmentRow {
            position: Position {
                part_number,
                segment_index,
            },
            plain_len,
            sealed_len: strand_codec::sealed_len(plain_len),
            salt: [0; 24],
            key_commitment: [0; 32],
            commitment: [0; 32],
            pieces: None,
        }
    }

    #[test]
    fn parts_and_segments_follow_each_other() {
        let good = [
            vec![segment(1, 0, 0)],
            vec![segment(1, 0, 5)],
            vec![segment(1, 0, 9), segment(1, 1, 9), segment(1, 2, 1)],
            // Parts may skip numbers; an empty part has one empty segment.
            vec![
                segment(2, 0, 9),
                segment(2, 1, 9),
                segment(5, 0, 0),
                segment(7, 0, 3),
            ],
        ];
        for segments in good {
            let sum: u64 = segments.iter().map(|segment| segment.plain_len).sum();
            assert_eq!(check_segments(&segments), Ok(sum));
        }
    }

    #[test]
    fn gaps_and_odd_lengths_are_refused() {
        assert_eq!(check_segments(&[]), Err(ObjectError::Empty));
        for segments in [
            vec![segment(1, 1, 5)],
            vec![segment(1, 0, 5), segment(1, 2, 5)],
            vec![segment(1, 0, 5), segment(2, 1, 5)],
        ] {
            assert!(matches!(
                check_segments(&segments),
                Err(ObjectError::Gap { .. })
            ));
        }
        for part_number in [0, limits::PART_NUMBER_MAX + 1] {
            assert_eq!(
                check_segments(&[segment(part_number, 0, 1)]),
                Err(ObjectError::PartNumber { part_number })
            );
        }
        for segments in [
            vec![segment(1, 0, 9), segment(1, 1, 8), segment(1, 2, 9)],
            vec![segment(1, 0, 9), segment(1, 1, 10)],
            vec![segment(1, 0, 9), segment(1, 1, 0)],
            vec![
                segment(1, 0, 9),
                segment(1, 1, 1),
                segment(2, 0, 8),
                segment(2, 1, 1),
            ],
        ] {
            assert!(matches!(
                check_segments(&segments),
                Err(ObjectError::SegmentLength { .. })
            ));
        }
    }

    #[test]
    fn an_object_counts_its_pieces() {
        let scheme = Scheme::new(29, 52, 80, 93).unwrap();
        let placements = (0..80)
            .map(|index| Placement {
                index,
                node: NodeNumber(index.into()),
            })
            .collect();
        let pieces = Pieces {
            scheme,
            secret: [0; 32],
            placements,
        };
        let stored = SegmentRow {
            pieces: Some(pieces),
            ..segment(1, 0, 67_108_864)
        };
        // docs/format.md, section 3: a full segment has pieces of 2,316,416 bytes.
        assert_eq!(piece_bytes(&stored), 80 * 2_316_416);
        assert_eq!(piece_bytes(&segment(1, 1, 1)), 0);
    }
}
