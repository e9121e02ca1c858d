//! Recovery shares of a stripe.

use std::fmt;

#[cfg(not(target_arch = "x86_64"))]
use reed_solomon_simd::engine::DefaultEngine as PortableEngine;
#[cfg(target_arch = "x86_64")]
use reed_solomon_simd::engine::NoSimd as PortableEngine;
use reed_solomon_simd::rate::{LowRateEncoder, RateEncoder};

use super::error::{CodeError, check_lens};
use super::lagrange;
use crate::kernels::{Matrix, POINTS_MAX, Transform};
use crate::level::Level;
use crate::shape::check_counts;

/// Columns that the stock encoder codes in one go.
///
/// For 29 + 64 its work space is 64 rows, 512 KiB at 8 KiB; with the tile's data (232 KiB) it
/// stays inside an L2 of 1 MiB while the transforms go over it again and again. Any other value
/// gives the same bytes.
const STOCK_TILE_BYTES: usize = 8_192;

/// Computes the recovery shares of stripes of one scheme.
///
/// Holds the work space of some columns (at most 33 KiB, or 2 MiB at the level `scalar`), so
/// keep it and use it again.
pub struct Encoder {
    required: u8,
    total: u8,
    level: Level,
    method: Method,
}

enum Method {
    /// One data share: every share is a copy of it. Or none to make.
    Copy,
    Transform(Transform),
    /// The recovery rows with points from 256 on, whose factors are not bytes, by matrix.
    TransformAndMatrix(Transform, Matrix),
    Stock(Stock),
}

struct Stock {
    encoder: LowRateEncoder<PortableEngine>,
    /// Columns the encoder is set up for.
    tile_len: usize,
}

impl Encoder {
    /// An encoder for `required` data shares of `total` shares, at the level of the process.
    ///
    /// # Errors
    ///
    /// [`CodeError::Shape`] if these are not the counts of a scheme, [`CodeError::Level`] if
    /// `STRAND_LEVEL` is wrong.
    pub fn new(required: u8, total: u8) -> Result<Self, CodeError> {
        Self::with_level(Level::of_process()?, required, total)
    }

    /// [`Encoder::new`] at a level of the caller's choice. The bytes are the same at every level.
    ///
    /// # Errors
    ///
    /// [`CodeError::Shape`] if these are not the counts of a scheme.
    pub fn with_level(level: Level, required: u8, total: u8) -> Result<Self, CodeError> {
        check_counts(required, total)?;
        Ok(Self {
            required,
            total,
            level,
            method: Method::new(level, required, total),
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

    /// The level it works at.
    pub fn level(&self) -> Level {
        self.level
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
        match &mut self.method {
            Method::Copy => {
                for share in recovery {
                    share.copy_from_slice(data[0]);
                }
            }
            Method::Transform(transform) => transform.encode(data, recovery),
            Method::TransformAndMatrix(transform, matrix) => {
                let row_count = narrow_rows(data.len(), recovery_count);
                let (narrow, wide) = recovery.split_at_mut(row_count);
                transform.encode(data, narrow);
                matrix.apply(data, wide);
            }
            Method::Stock(stock) => stock.encode(share_len, data, recovery),
        }
        Ok(())
    }
}

impl Method {
    fn new(level: Level, required: u8, total: u8) -> Self {
        let (data_count, recovery_count) = (usize::from(required), usize::from(total - required));
        if data_count == 1 || recovery_count == 0 {
            return Self::Copy;
        }
        let row_count = narrow_rows(data_count, recovery_count);
        match Transform::new(level, data_count, row_count) {
            None => Self::Stock(Stock::new(data_count, recovery_count)),
            Some(transform) if row_count == recovery_count => Self::Transform(transform),
            Some(transform) => {
                let present: Vec<u8> = (0..required).collect();
                let wanted: Vec<u8> = (required + row_count as u8..total).collect();
                let coefficients = lagrange::coefficients(required, &present, &wanted);
                let matrix = Matrix::new(level, data_count, &coefficients);
                Self::TransformAndMatrix(transform, matrix)
            }
        }
    }
}

/// Recovery rows whose points lie below 256: all, unless 33 and more of more than 225 shares are
/// required.
fn narrow_rows(data_count: usize, recovery_count: usize) -> usize {
    recovery_count.min(POINTS_MAX - data_count.next_power_of_two())
}

impl Stock {
    fn new(data_count: usize, recovery_count: usize) -> Self {
        let engine = PortableEngine::new();
        let encoder =
            LowRateEncoder::new(data_count, recovery_count, STOCK_TILE_BYTES, engine, None);
        Self {
            encoder: encoder.expect("64 + 254 shares are within the 65,536 of the code"),
            tile_len: STOCK_TILE_BYTES,
        }
    }

    fn encode(&mut self, share_len: usize, data: &[&[u8]], recovery: &mut [&mut [u8]]) {
        for start in (0..share_len).step_by(STOCK_TILE_BYTES) {
            let tile_len = STOCK_TILE_BYTES.min(share_len - start);
            self.encode_tile(start, tile_len, data, recovery);
        }
    }

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
