//! Recovery shares of a stripe.

use std::fmt;

use reed_solomon_simd::engine::DefaultEngine;
use reed_solomon_simd::rate::{LowRateEncoder, RateEncoder};

use super::error::{CodeError, check_lens};
use crate::shape::check_counts;

/// Columns coded in one go.
///
/// For 29 + 64 the work space of the code is 64 rows, 512 KiB at 8 KiB; with the tile's data
/// (232 KiB) it stays inside an L2 of 1 MiB while the transforms go over it again and again.
/// Shorter tiles pay more per call, longer ones miss the cache (measured there: 1.27 GB/s,
/// 0.8 at 2 KiB, 1.1 at 16 KiB). Any other value gives the same bytes.
const TILE_BYTES: usize = 8_192;

/// Computes the recovery shares of stripes of one scheme.
///
/// Holds the work space of one tile (at most 2 MiB), so keep it and use it again.
pub struct Encoder {
    required: u8,
    total: u8,
    /// `None` if there are no recovery shares.
    stock: Option<Stock>,
}

struct Stock {
    encoder: LowRateEncoder<DefaultEngine>,
    /// Columns the encoder is set up for.
    tile_len: usize,
}

impl Encoder {
    /// An encoder for `required` data shares of `total` shares.
    ///
    /// # Errors
    ///
    /// [`CodeError::Shape`] if these are not the counts of a scheme.
    pub fn new(required: u8, total: u8) -> Result<Self, CodeError> {
        check_counts(required, total)?;
        let stock = (total > required).then(|| Stock {
            encoder: LowRateEncoder::new(
                usize::from(required),
                usize::from(total - required),
                TILE_BYTES,
                DefaultEngine::new(),
                None,
            )
            .expect("64 + 254 shares are within the 65,536 of the code"),
            tile_len: TILE_BYTES,
        });
        Ok(Self {
            required,
            total,
            stock,
        })
    }

    /// Data shares, `k`.
    pub fn required(&self) -> u8 {
        self.required
    }

    /// All shares, `n`.
    pub fn total(&self) -> u8 {
        self.total
    }

    /// Computes all recovery shares of one stripe, or of any range of its columns.
    ///
    /// `data` are the `k` data shares in index order, `recovery` the `n - k` others; all have
    /// one length, a multiple of 64. Every byte of `recovery` is overwritten. If `n = k` this
    /// only checks its arguments.
    ///
    /// # Errors
    ///
    /// [`CodeError`] if counts or lengths do not fit; nothing is written then.
    pub fn encode_into(
        &mut self,
        data: &[&[u8]],
        recovery: &mut [&mut [u8]],
    ) -> Result<(), CodeError> {
        if data.len() != usize::from(self.required) {
            return Err(CodeError::ShareCount {
                given_count: data.len(),
                required_count: self.required,
            });
        }
        let recovery_count = usize::from(self.total - self.required);
        if recovery.len() != recovery_count {
            return Err(CodeError::TargetCount {
                given_count: recovery.len(),
                expected_count: recovery_count,
            });
        }
        let lens = data.iter().map(|share| share.len());
        let share_len = check_lens(lens.chain(recovery.iter().map(|share| share.len())))?;
        if let Some(stock) = &mut self.stock {
            for start in (0..share_len).step_by(TILE_BYTES) {
                stock.encode_tile(start, TILE_BYTES.min(share_len - start), data, recovery);
            }
        }
        Ok(())
    }
}

impl Stock {
    fn encode_tile(
        &mut self,
        start: usize,
        tile_len: usize,
        data: &[&[u8]],
        recovery: &mut [&mut [u8]],
    ) {
        let tile = start..start + tile_len;
        if self.tile_len != tile_len {
            self.encoder
                .reset(data.len(), recovery.len(), tile_len)
                .expect("counts were checked by new, the length by encode_into");
            self.tile_len = tile_len;
        }
        for share in data {
            self.encoder
                .add_original_shard(&share[tile.clone()])
                .expect("as many as set up for");
        }
        let result = self.encoder.encode().expect("all data shares were added");
        for (share, row) in recovery.iter_mut().zip(result.recovery_iter()) {
            share[tile.clone()].copy_from_slice(row);
        }
    }
}

impl fmt::Debug for Encoder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Encoder({} of {})", self.required, self.total)
    }
}
