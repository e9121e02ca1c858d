//! How a segment is cut: lengths and offsets, and nothing else.
//!
//! Plaintext is sealed in chunks of 16 KiB; the sealed bytes are cut into stripes of `k`
//! shares; piece `i` is share `i` of every stripe. Full stripes have shares of 16 KiB, the last
//! one has shares just long enough for the rest, rounded up to 64 bytes. Everything follows
//! from `(k, n, sealed_len)`, so whoever knows these three numbers never has to ask a peer for
//! a length: verifiers take all shapes from here.
//!
//! Frozen by docs/format.md section 3; `shapes_are_those_of_the_format` fails if it drifts.

use std::ops::Range;

use crate::seal::TAG_BYTES;

/// Bytes of a share in a full stripe.
pub const SHARE_BYTES: usize = 16_384;
/// Bytes of a leaf, the smallest unit a proof speaks of: one BLAKE3 chunk.
pub const LEAF_BYTES: usize = 1_024;
/// Plaintext bytes of every chunk but a segment's last.
pub const CHUNK_BYTES: usize = 16_384;
/// Sealed bytes of every chunk but a segment's last.
pub const SEALED_CHUNK_BYTES: usize = CHUNK_BYTES + TAG_BYTES;
/// Longest plaintext that is stored inline with the satellite.
pub const INLINE_BYTES_MAX: u64 = 16_384;
/// Most data shares of a stripe.
pub const REQUIRED_MAX: u8 = 64;
/// Longest piece any shape has: 4 MiB of plaintext for each of `k <= 16` data pieces, with tags.
pub const PIECE_BYTES_MAX: u64 = 4_198_464;

/// All shares are multiples of this: the columns on which the erasure code works.
pub(crate) const COLUMN_BYTES: usize = 64;

const MIB: u64 = 1 << 20;

// A share is a whole number of leaves and of columns, and a power of two of leaves, so that it
// is one subtree of its piece's hash.
const _: () = assert!((SHARE_BYTES / LEAF_BYTES).is_power_of_two());
const _: () = assert!(SHARE_BYTES.is_multiple_of(LEAF_BYTES));
const _: () = assert!(LEAF_BYTES.is_multiple_of(COLUMN_BYTES));

/// Why three numbers are not the shape of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ShapeError {
    /// No data shares, or more than the format allows.
    #[error("required count {required} is not within 1 to 64")]
    RequiredCount {
        /// The count given.
        required: u8,
    },
    /// Fewer shares in all than data shares.
    #[error("total count {total} < required count {required}")]
    TotalCount {
        /// Data shares.
        required: u8,
        /// All shares.
        total: u8,
    },
    /// No plaintext seals to this length: what is left for the last chunk is less than a tag.
    #[error("sealed length {sealed_len} leaves {last_chunk_len} bytes for the last chunk < 16")]
    SealedLen {
        /// The length given.
        sealed_len: u64,
        /// Bytes after the last full chunk.
        last_chunk_len: u64,
    },
    /// Longer than a segment of this many data shares may be.
    #[error(
        "sealed length {sealed_len} > {sealed_len_max}, the most for required count {required}"
    )]
    SegmentTooLong {
        /// The length given.
        sealed_len: u64,
        /// The longest that is allowed.
        sealed_len_max: u64,
        /// Data shares.
        required: u8,
    },
}

/// Length of the sealed bytes of `plain_len` bytes of plaintext.
///
/// Saturates at `u64::MAX`, which no shape accepts.
pub fn sealed_len(plain_len: u64) -> u64 {
    // At most 2^50 chunks for any u64, so only the final sum can overflow.
    let chunk_count = plain_len / CHUNK_BYTES as u64 + 1;
    plain_len.saturating_add(TAG_BYTES as u64 * chunk_count)
}

/// Length of the plaintext that seals to `sealed_len` bytes.
///
/// # Errors
///
/// [`ShapeError::SealedLen`] where no plaintext does.
pub fn plain_len(sealed_len: u64) -> Result<u64, ShapeError> {
    let full_chunk_count = sealed_len / SEALED_CHUNK_BYTES as u64;
    let last_chunk_len = sealed_len % SEALED_CHUNK_BYTES as u64;
    if last_chunk_len < TAG_BYTES as u64 {
        return Err(ShapeError::SealedLen {
            sealed_len,
            last_chunk_len,
        });
    }
    Ok(full_chunk_count * CHUNK_BYTES as u64 + (last_chunk_len - TAG_BYTES as u64))
}

/// Most plaintext bytes of a segment with `required` data shares: `min(64, 4 k)` MiB.
pub fn segment_bytes_max(required: u8) -> u64 {
    (4 * u64::from(required)).min(64) * MIB
}

/// How one segment is cut. Parsed once; everything past this point trusts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    required: u8,
    total: u8,
    sealed_len: u64,
    full_stripe_count: u32,
    /// Bytes of a share of the stripe after the full ones, 0 if there is none.
    last_share_len: u32,
}

/// Where a sealed byte lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cell {
    /// Number of the stripe, which is the number of the share in its piece.
    pub stripe: u32,
    /// Index of the data piece.
    pub index: u8,
    /// Offset in the share.
    pub offset: usize,
}

impl Shape {
    /// Checks the three numbers a segment is described by.
    ///
    /// Lengths of segments that are stored inline have a shape too, though no pieces of it are
    /// ever made.
    ///
    /// # Errors
    ///
    /// [`ShapeError`] names the number that is out of its range.
    pub fn new(required: u8, total: u8, sealed_len: u64) -> Result<Self, ShapeError> {
        check_counts(required, total)?;
        plain_len(sealed_len)?;
        let sealed_len_max = crate::shape::sealed_len(segment_bytes_max(required));
        if sealed_len > sealed_len_max {
            return Err(ShapeError::SegmentTooLong {
                sealed_len,
                sealed_len_max,
                required,
            });
        }
        let stripe_bytes = u64::from(required) * SHARE_BYTES as u64;
        let full_stripe_count = sealed_len / stripe_bytes;
        let rest = sealed_len % stripe_bytes;
        let last_share_len = rest
            .div_ceil(u64::from(required))
            .next_multiple_of(COLUMN_BYTES as u64);
        // sealed_len is below 2^27 by now.
        Ok(Self {
            required,
            total,
            sealed_len,
            full_stripe_count: full_stripe_count as u32,
            last_share_len: last_share_len as u32,
        })
    }

    /// Data shares of a stripe, `k`.
    pub fn required(&self) -> u8 {
        self.required
    }

    /// All shares of a stripe, which is the number of pieces, `n`.
    pub fn total(&self) -> u8 {
        self.total
    }

    /// Length of the segment's sealed bytes.
    pub fn sealed_len(&self) -> u64 {
        self.sealed_len
    }

    /// Length of the segment's plaintext.
    pub fn plain_len(&self) -> u64 {
        plain_len(self.sealed_len).expect("checked by new")
    }

    /// Length of each piece.
    pub fn piece_len(&self) -> u64 {
        u64::from(self.full_stripe_count) * SHARE_BYTES as u64 + u64::from(self.last_share_len)
    }

    /// Shares of a piece, which is the number of stripes; at least 1.
    pub fn share_count(&self) -> u32 {
        self.full_stripe_count + u32::from(self.last_share_len > 0)
    }

    /// Length of share number `share` of every piece.
    ///
    /// # Panics
    ///
    /// If the piece has no such share.
    pub fn share_len(&self, share: u32) -> usize {
        assert!(
            share < self.share_count(),
            "share {share} >= {} shares",
            self.share_count()
        );
        if share < self.full_stripe_count {
            SHARE_BYTES
        } else {
            self.last_share_len as usize
        }
    }

    /// Offset of share number `share` in its piece.
    pub fn share_offset(&self, share: u32) -> u64 {
        u64::from(share) * SHARE_BYTES as u64
    }

    /// Sealed bytes that data share `index` of a stripe holds.
    ///
    /// In the last stripe this is shorter than [`Shape::share_len`] where the share is filled
    /// up with zeros, and may be empty. It is empty for recovery shares, which hold none.
    ///
    /// # Panics
    ///
    /// If the segment has no such stripe.
    pub fn sealed_range(&self, stripe: u32, index: u8) -> Range<u64> {
        let share_len = self.share_len(stripe) as u64;
        if index >= self.required {
            return self.sealed_len..self.sealed_len;
        }
        let stripe_start = u64::from(stripe) * u64::from(self.required) * SHARE_BYTES as u64;
        let start = stripe_start + u64::from(index) * share_len;
        start.min(self.sealed_len)..(start + share_len).min(self.sealed_len)
    }

    /// Where the sealed byte at `sealed_offset` lies.
    ///
    /// # Panics
    ///
    /// If the segment has no such byte.
    pub fn cell(&self, sealed_offset: u64) -> Cell {
        assert!(
            sealed_offset < self.sealed_len,
            "{sealed_offset} >= {}",
            self.sealed_len
        );
        let stripe_bytes = u64::from(self.required) * SHARE_BYTES as u64;
        let stripe = (sealed_offset / stripe_bytes) as u32;
        let share_len = self.share_len(stripe) as u64;
        let offset = sealed_offset % stripe_bytes;
        Cell {
            stripe,
            index: (offset / share_len) as u8,
            offset: (offset % share_len) as usize,
        }
    }

    /// Hashes in the path from a piece root to the segment's tree root: `ceil(log2 n)`.
    pub fn path_len(&self) -> usize {
        path_len(self.total)
    }

    /// Leaves of a piece, the last one perhaps short.
    pub fn leaf_count(&self) -> u32 {
        self.piece_len().div_ceil(LEAF_BYTES as u64) as u32
    }
}

/// The counts alone, for callers that code without knowing a length.
pub(crate) fn check_counts(required: u8, total: u8) -> Result<(), ShapeError> {
    if required == 0 || required > REQUIRED_MAX {
        return Err(ShapeError::RequiredCount { required });
    }
    if total < required {
        return Err(ShapeError::TotalCount { required, total });
    }
    Ok(())
}

fn path_len(total: u8) -> usize {
    usize::from(total).next_power_of_two().trailing_zeros() as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of docs/format.md section 3: plain, sealed, full stripes, last share, piece.
    const EXAMPLES: &[(u64, u64, u32, u32, u64)] = &[
        (16_385, 16_417, 0, 576, 576),
        (100_000, 100_112, 0, 3_456, 3_456),
        (67_108_864, 67_174_416, 141, 6_272, 2_316_416),
    ];

    #[test]
    fn shapes_are_those_of_the_format() {
        for &(plain, sealed, full_stripe_count, last_share_len, piece_len) in EXAMPLES {
            assert_eq!(sealed_len(plain), sealed);
            assert_eq!(plain_len(sealed), Ok(plain));
            let shape = Shape::new(29, 93, sealed).unwrap();
            assert_eq!(shape.plain_len(), plain);
            assert_eq!(shape.full_stripe_count, full_stripe_count);
            assert_eq!(shape.last_share_len, last_share_len);
            assert_eq!(shape.piece_len(), piece_len);
            assert_eq!(shape.share_count(), full_stripe_count + 1);
            assert_eq!(shape.path_len(), 7);
        }
        // The inline rows, and the full segment that is followed by an inline one.
        for (plain, sealed) in [(0, 16), (1, 17), (16_384, 16_416)] {
            assert!(plain <= INLINE_BYTES_MAX);
            assert_eq!((sealed_len(plain), plain_len(sealed)), (sealed, Ok(plain)));
        }
        assert_eq!(segment_bytes_max(29), 67_108_864);
        assert_eq!(sealed_len(67_108_865 - segment_bytes_max(29)), 17);
        assert_eq!(201_326_592, 3 * segment_bytes_max(29));
    }

    /// Expansion of `optimal` stored pieces, in hundredths, as the format's table rounds it.
    #[test]
    fn expansion_stays_within_three_percent_from_100_kb_up() {
        let expansion = |plain: u64| {
            let shape = Shape::new(29, 93, sealed_len(plain)).unwrap();
            (80 * shape.piece_len()) as f64 / plain as f64
        };
        assert_eq!(format!("{:.2}", expansion(16_385)), "2.81");
        assert_eq!(format!("{:.2}", expansion(100_000)), "2.76");
        for plain in (100_000..20_000_000).step_by(997) {
            assert!(
                expansion(plain) <= 80.0 / 29.0 * 1.03,
                "{plain}: {}",
                expansion(plain)
            );
        }
    }

    #[test]
    fn data_shares_hold_each_sealed_byte_once() {
        for required in [1, 2, 3, 16, 29, 64] {
            let stripe = u64::from(required) * SHARE_BYTES as u64;
            for sealed in [
                16,
                17,
                16_417,
                stripe - 1,
                stripe,
                stripe + 17,
                2 * stripe + 12_345,
            ] {
                let Ok(shape) = Shape::new(required, required, sealed) else {
                    continue;
                };
                let mut next = 0;
                for stripe in 0..shape.share_count() {
                    for index in 0..required {
                        let range = shape.sealed_range(stripe, index);
                        assert_eq!(range.start, next);
                        assert!(range.end - range.start <= shape.share_len(stripe) as u64);
                        for offset in [range.start, range.end.saturating_sub(1)] {
                            if range.contains(&offset) {
                                let in_share = (offset - range.start) as usize;
                                let cell = Cell {
                                    stripe,
                                    index,
                                    offset: in_share,
                                };
                                assert_eq!(shape.cell(offset), cell);
                            }
                        }
                        next = range.end;
                    }
                    assert!(shape.sealed_range(stripe, required).is_empty());
                }
                assert_eq!(next, sealed);
                let last = shape.share_count() - 1;
                let end = shape.share_offset(last) + shape.share_len(last) as u64;
                assert_eq!(end, shape.piece_len());
                assert_eq!(
                    u64::from(shape.leaf_count()),
                    end.div_ceil(LEAF_BYTES as u64)
                );
            }
        }
    }

    #[test]
    fn no_piece_is_longer_than_the_bound() {
        let longest = (1..=REQUIRED_MAX).map(|required| {
            let sealed = sealed_len(segment_bytes_max(required));
            Shape::new(required, 255, sealed).unwrap().piece_len()
        });
        assert_eq!(longest.max(), Some(PIECE_BYTES_MAX));
    }

    #[test]
    fn path_length_is_the_ceiling_of_the_logarithm() {
        for (total, path_len) in [
            (1, 0),
            (2, 1),
            (3, 2),
            (4, 2),
            (5, 3),
            (93, 7),
            (128, 7),
            (255, 8),
        ] {
            assert_eq!(
                Shape::new(1, total, 17).unwrap().path_len(),
                path_len,
                "{total}"
            );
        }
    }

    #[test]
    fn impossible_numbers_are_refused_with_their_names() {
        assert_eq!(
            Shape::new(0, 93, 17),
            Err(ShapeError::RequiredCount { required: 0 })
        );
        assert_eq!(
            Shape::new(65, 93, 17),
            Err(ShapeError::RequiredCount { required: 65 })
        );
        assert_eq!(
            Shape::new(29, 28, 17),
            Err(ShapeError::TotalCount {
                required: 29,
                total: 28
            })
        );
        for (sealed_len, last_chunk_len) in [(0, 0), (15, 15), (16_400, 0), (16_415, 15)] {
            let error = ShapeError::SealedLen {
                sealed_len,
                last_chunk_len,
            };
            assert_eq!(plain_len(sealed_len), Err(error));
            assert_eq!(Shape::new(29, 93, sealed_len), Err(error));
        }
        for (required, sealed_len_max) in [(1, 4_198_416), (29, 67_174_416), (64, 67_174_416)] {
            assert!(Shape::new(required, 93, sealed_len_max).is_ok());
            for sealed_len in [sealed_len_max + 1, sealed_len_max + (16_400 << 48)] {
                let error = ShapeError::SegmentTooLong {
                    sealed_len,
                    sealed_len_max,
                    required,
                };
                assert_eq!(Shape::new(required, 93, sealed_len), Err(error));
            }
        }
        assert_eq!(
            Shape::new(29, 93, 67_174_417).unwrap_err().to_string(),
            "sealed length 67174417 > 67174416, the most for required count 29"
        );
    }

    #[test]
    fn lengths_never_overflow() {
        assert_eq!(sealed_len(u64::MAX), u64::MAX);
        for sealed in [u64::MAX, u64::MAX - 1, 1 << 63, 1 << 32] {
            if let Ok(plain) = plain_len(sealed) {
                assert_eq!(sealed_len(plain), sealed);
            }
        }
        for plain in (0..100_000).chain(u64::from(u32::MAX)..u64::from(u32::MAX) + 40_000) {
            assert_eq!(plain_len(sealed_len(plain)), Ok(plain));
        }
    }
}
