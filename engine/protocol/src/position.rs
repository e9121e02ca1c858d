//! Which segment of an object: `part number << 32 | segment index` (docs/format.md, section 7).

/// A segment's place in its object. Ordered as the object's bytes are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// Number of the part, from 1; a single-part object has part 1 only.
    pub part_number: u32,
    /// Index of the segment in its part, from 0.
    pub segment_index: u32,
}

impl Position {
    /// The segment after this one in the same part.
    ///
    /// `None` at the last index that fits.
    pub fn next_in_part(self) -> Option<Self> {
        let segment_index = self.segment_index.checked_add(1)?;
        Some(Self {
            segment_index,
            ..self
        })
    }
}

impl From<Position> for u64 {
    fn from(position: Position) -> Self {
        Self::from(position.part_number) << 32 | Self::from(position.segment_index)
    }
}

impl From<u64> for Position {
    fn from(position: u64) -> Self {
        let [a, b, c, d, e, f, g, h] = position.to_be_bytes();
        Self {
            part_number: u32::from_be_bytes([a, b, c, d]),
            segment_index: u32::from_be_bytes([e, f, g, h]),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn part_lies_above_index() {
        let position = Position {
            part_number: 1,
            segment_index: 2,
        };
        assert_eq!(u64::from(position), 0x0000_0001_0000_0002);
        assert_eq!(
            position.next_in_part(),
            Some(Position {
                part_number: 1,
                segment_index: 3
            })
        );
        assert_eq!(
            Position {
                part_number: 1,
                segment_index: u32::MAX
            }
            .next_in_part(),
            None
        );
    }

    proptest! {
        #[test]
        fn numbers_come_back_and_keep_the_order(one: u64, two: u64) {
            prop_assert_eq!(u64::from(Position::from(one)), one);
            prop_assert_eq!(one.cmp(&two), Position::from(one).cmp(&Position::from(two)));
        }
    }
}
