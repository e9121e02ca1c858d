//! The additive transform that makes recovery rows from data rows.
//!
//! `rs` has the code: with `m` the power of two at or above `k`, data symbols and `m - k` zeros
//! are values of a polynomial at the points `0 .. m`, and recovery rows are its values at
//! `m, m + 1, ..`. An inverse transform takes values at `m` points to `m` coefficients in a basis
//! of polynomials made for that; a forward one goes back, at any `m` points that begin at a
//! multiple of `m`:
//!
//! ```text
//! inverse, distance d = 1, 2, .. m/2:    for each pair of rows (a, b = a + d), a in [r, r + d),
//!     row[b] ^= row[a];  row[a] ^= factor(r, d) * row[b]
//! forward, distance d = m/2, .. 2, 1:    for each such pair
//!     row[a] ^= factor(r, d) * row[b];  row[b] ^= row[a]
//! where r is a multiple of 2d, counted from the first point, and factor(r, d) = symbol r / d
//! ```
//!
//! The factor is the value at `r` of the polynomial that is zero at the points below `d` and one
//! at `d`; in the Cantor basis (`field`) it is that simple. So all factors are even symbols, and
//! below 256 as long as the points are: then a product is one of bytes, low (folded) and high
//! ones alike, half the work of GF(2^16).
//!
//! What differs in the tiers:
//!
//! 1. Tiles: a few columns go through all layers before the next ones, so that the scratch space
//!    stays in L1.
//! 2. Up to three layers, the *low* ones, run on eight rows in registers. The first three read the
//!    caller's data shares (folding them), the last three write the caller's recovery shares
//!    (unfolding them): no copies in or out. Rows between `k` and `m` come from a row of zeros;
//!    rows that nobody wants go to a sink, and are not computed at all from a group of eight on.
//! 3. The *high* layers, up to three more, run on the rows of equal place in each group of eight:
//!    the inverse layers and, while their result is in registers, the forward layers of every
//!    chunk of `m` recovery rows.
//! 4. In the inverse transform the factors of the first rows are zero: no product there.
#![cfg_attr(
    not(target_arch = "x86_64"),
    expect(
        dead_code,
        reason = "other architectures have the stock crate's engines only"
    )
)]

#[cfg(target_arch = "x86_64")]
use std::sync::OnceLock;

#[cfg(target_arch = "x86_64")]
use super::factor::{ALL_AFFINE, ALL_NIBBLES, All};
#[cfg(target_arch = "x86_64")]
use super::{Affine, Images, Nibbles, affine, nibbles, x86_64};
use crate::level::{Level, Tier};
use crate::shape::COLUMN_BYTES;

/// Layers that run at most in one pass, on rows in registers.
pub(in crate::kernels) const PASS_LAYERS: usize = 3;

/// Rows of such a pass.
pub(in crate::kernels) const PASS_ROWS: usize = 1 << PASS_LAYERS;

/// Chunks of recovery rows, if there are high layers: no fewer than 16 rows each.
pub(in crate::kernels) const CHUNKS_MAX: usize = POINTS_MAX / (2 * PASS_ROWS) - 1;

/// Points whose factors are bytes.
pub(crate) const POINTS_MAX: usize = 256;

/// Even symbols below 256, and what a group of fewer than eight rows reads and does not use.
pub(in crate::kernels) const FACTOR_COUNT: usize = POINTS_MAX / 2 + PASS_ROWS / 2 - 1;

/// Scratch bytes that a tile aims at: an L1 of 48 KiB keeps them, and the rows are long enough
/// for streams of lines from memory. Measured with those of `AHEAD_BYTES`: 16 KiB lose a tenth at
/// 16 and a third at 64 KiB, 64 KiB gain a twentieth where the products are slow.
const SCRATCH_BYTES: usize = 32 * 1_024;

/// A tile's columns: enough for a stream of lines per row, few enough for L1.
const TILE_BYTES_MAX: usize = 16 * COLUMN_BYTES;

/// Recovery bytes of one call from which on they bypass the caches: more than an L2 holds. Lines
/// then need not be read before they are written, two fifths of the traffic of 29 + 51 shares; a
/// twelfth faster at 2.2 MiB a share where that was measured (Cascade Lake, look-ups).
const STREAM_BYTES: usize = 4 * 1_024 * 1_024;

/// The form of a transform: everything but its factors and its bytes.
#[derive(Clone, Copy, Debug)]
pub(in crate::kernels) struct Plan {
    /// `m`: points of the data and its zeros; a power of two, at least 2.
    pub(in crate::kernels) point_count: usize,
    pub(in crate::kernels) low_layers: usize,
    pub(in crate::kernels) high_layers: usize,
    pub(in crate::kernels) recovery_count: usize,
    /// Chunks of `m` recovery rows that differ in scratch: without high layers none, since they
    /// come from the same coefficients.
    pub(in crate::kernels) chunk_count: usize,
    /// Rows of scratch, without those of zeros and the sink.
    pub(in crate::kernels) row_count: usize,
    /// Bytes of a scratch row; a multiple of a column.
    pub(in crate::kernels) tile_len: usize,
}

impl Plan {
    fn new(data_count: usize, recovery_count: usize) -> Self {
        let point_count = data_count.next_power_of_two();
        let layers = point_count.ilog2() as usize;
        let low_layers = layers.min(PASS_LAYERS);
        let chunk_count = match layers - low_layers {
            0 => 0,
            _ => recovery_count.div_ceil(point_count),
        };
        let row_count = point_count * chunk_count.max(1);
        let tile_len = SCRATCH_BYTES / row_count / COLUMN_BYTES * COLUMN_BYTES;
        Self {
            point_count,
            low_layers,
            high_layers: layers - low_layers,
            recovery_count,
            chunk_count,
            row_count,
            tile_len: tile_len.clamp(COLUMN_BYTES, TILE_BYTES_MAX),
        }
    }

    /// Whether the recovery shares should bypass the caches, and lie so that they can.
    pub(in crate::kernels) fn streams(&self, share_len: usize, recovery: &[&mut [u8]]) -> bool {
        let is_aligned = |share: &[u8]| share.as_ptr().addr().is_multiple_of(COLUMN_BYTES);
        recovery.len() * share_len >= STREAM_BYTES && recovery.iter().all(|share| is_aligned(share))
    }
}

/// Computes recovery rows by the transform, at levels that have one.
pub(crate) struct Transform {
    level: Level,
    plan: Plan,
    scratch: Scratch,
}

/// Whole lines of cache, so that no vector straddles two.
struct Scratch(Vec<Line>);

#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line(#[expect(dead_code, reason = "read and written as plain bytes")] [u8; COLUMN_BYTES]);

impl Transform {
    /// The transform of so many rows, or `None` at a level without one.
    ///
    /// # Panics
    ///
    /// If there is not more than one data row, if there is no recovery row or if the points of
    /// the rows do not lie below [`POINTS_MAX`].
    pub(crate) fn new(level: Level, data_count: usize, recovery_count: usize) -> Option<Self> {
        assert!(data_count > 1 && recovery_count > 0, "rows");
        assert!(
            data_count.next_power_of_two() + recovery_count <= POINTS_MAX,
            "all factors are bytes"
        );
        if level.tier() == Tier::Scalar {
            return None;
        }
        let plan = Plan::new(data_count, recovery_count);
        let bytes = (plan.row_count + 2) * plan.tile_len;
        let scratch = Scratch(vec![Line([0; COLUMN_BYTES]); bytes / COLUMN_BYTES]);
        Some(Self {
            level,
            plan,
            scratch,
        })
    }

    /// Overwrites the recovery rows.
    ///
    /// # Panics
    ///
    /// If rows are not of one length in whole columns or not as many as the transform is for.
    pub(crate) fn encode(&mut self, data: &[&[u8]], recovery: &mut [&mut [u8]]) {
        let share_len = data[0].len();
        assert!(share_len.is_multiple_of(COLUMN_BYTES), "whole columns");
        assert!(data.iter().all(|share| share.len() == share_len));
        assert!(recovery.iter().all(|share| share.len() == share_len));
        let plan = &self.plan;
        assert_eq!(data.len().next_power_of_two(), plan.point_count);
        assert_eq!(recovery.len(), plan.recovery_count);
        #[cfg(target_arch = "x86_64")]
        self.encode_rows(data, recovery);
    }

    #[cfg(target_arch = "x86_64")]
    fn encode_rows(&mut self, data: &[&[u8]], recovery: &mut [&mut [u8]]) {
        let plan = &self.plan;
        let scratch = self.scratch.0.as_mut_slice();
        // SAFETY: a slice of `Line`s is `COLUMN_BYTES` initialized bytes for each, without gaps,
        // and borrowed for as long.
        let scratch = unsafe {
            std::slice::from_raw_parts_mut(scratch.as_mut_ptr().cast::<u8>(), size_of_val(scratch))
        };
        match self.level.tier() {
            Tier::Scalar => unreachable!("no transform at this level"),
            // SAFETY: a `Level` of this tier is made only where the CPU has SSSE3.
            Tier::Ssse3 => unsafe {
                x86_64::ssse3::encode(plan, nibble_factors(), scratch, data, recovery);
            },
            // SAFETY: a `Level` of this tier is made only where the CPU has AVX2.
            Tier::Avx2 => unsafe {
                x86_64::avx2::encode(plan, nibble_factors(), scratch, data, recovery);
            },
            // SAFETY: a `Level` of this tier is made only where the CPU has AVX-512 F and BW.
            Tier::Avx512 => unsafe {
                x86_64::avx512::encode(plan, nibble_factors(), scratch, data, recovery);
            },
            // SAFETY: a `Level` of this tier is made only where the CPU has AVX2 and GFNI.
            Tier::Avx2Gfni => unsafe {
                x86_64::avx2_gfni::encode(plan, affine_factors(), scratch, data, recovery);
            },
            // SAFETY: a `Level` of this tier is made only where the CPU has AVX-512 F, BW and
            // GFNI.
            Tier::Avx512Gfni => unsafe {
                x86_64::avx512_gfni::encode(plan, affine_factors(), scratch, data, recovery);
            },
        }
    }
}

/// The factors of the transform, once for a process.
#[cfg(target_arch = "x86_64")]
fn even_factors<T: Copy>(all: &All<T>, form: fn(&Images) -> T) -> [T; FACTOR_COUNT] {
    let symbols = (0..FACTOR_COUNT).map(|half| (2 * half) as u8);
    let factors = all.of(symbols, form);
    std::array::from_fn(|half| factors[half])
}

#[cfg(target_arch = "x86_64")]
fn nibble_factors() -> &'static [Nibbles; FACTOR_COUNT] {
    static FACTORS: OnceLock<[Nibbles; FACTOR_COUNT]> = OnceLock::new();
    FACTORS.get_or_init(|| even_factors(&ALL_NIBBLES, nibbles))
}

#[cfg(target_arch = "x86_64")]
fn affine_factors() -> &'static [Affine; FACTOR_COUNT] {
    static FACTORS: OnceLock<[Affine; FACTOR_COUNT]> = OnceLock::new();
    FACTORS.get_or_init(|| even_factors(&ALL_AFFINE, affine))
}
