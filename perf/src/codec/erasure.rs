//! The erasure code, 29 + 51, against `reed-solomon-simd` at the level that it chooses.
//!
//! Both sides read the caller's shares and leave their result in the caller's shares.

use anyhow::Result;
use reed_solomon_simd::engine::DefaultEngine;
use reed_solomon_simd::rate::{LowRateDecoder, LowRateEncoder, RateDecoder, RateEncoder};
use strand_codec::{Encoder, Level, RowPlan};

use super::row::Contest;
use super::shares::Shares;

pub(super) const KIB: usize = 1 << 10;

const REQUIRED: u8 = 29;
const TOTAL: u8 = 80;
const K: usize = REQUIRED as usize;
const RECOVERY: usize = (TOTAL - REQUIRED) as usize;

/// Shares of 64 MiB of data, in whole columns.
pub(super) const SEGMENT_SHARE_BYTES: usize = (64 << 20) / K / 64 * 64;

/// All recovery shares of data shares.
pub(super) fn encode(level: Level, share_bytes: usize) -> Result<Box<dyn Contest>> {
    let engine = DefaultEngine::new();
    Ok(Box::new(Encode {
        data: Shares::random(1, K, share_bytes),
        recovery: [2, 3].map(|seed| Shares::random(seed, RECOVERY, share_bytes)),
        encoder: Encoder::with_level(level, REQUIRED, TOTAL)?,
        stock: LowRateEncoder::new(K, RECOVERY, share_bytes, engine, None)?,
    }))
}

struct Encode {
    data: Shares,
    /// Ours and the stock crate's.
    recovery: [Shares; 2],
    encoder: Encoder,
    stock: LowRateEncoder<DefaultEngine>,
}

impl Contest for Encode {
    fn user_bytes(&self) -> usize {
        self.data.byte_count()
    }

    fn ours(&mut self, repeats: u32) -> Result<()> {
        let data = self.data.slices();
        let mut recovery = self.recovery[0].slices_mut();
        for _ in 0..repeats {
            self.encoder.encode_into(&data, &mut recovery)?;
        }
        Ok(())
    }

    fn peer(&mut self, repeats: u32) -> Result<()> {
        let data = self.data.slices();
        let mut recovery = self.recovery[1].slices_mut();
        for _ in 0..repeats {
            for share in &data {
                self.stock.add_original_shard(share)?;
            }
            let result = self.stock.encode()?;
            for (share, row) in recovery.iter_mut().zip(result.recovery_iter()) {
                share.copy_from_slice(row);
            }
        }
        Ok(())
    }

    fn outputs(&self) -> [blake3::Hash; 2] {
        self.recovery.each_ref().map(Shares::hash)
    }
}

/// The first `missing` data shares from the other ones and the last recovery shares.
pub(super) fn rows(level: Level, missing: u8, share_bytes: usize) -> Result<Box<dyn Contest>> {
    let data = Shares::random(4, K, share_bytes);
    let mut recovery = Shares::random(5, RECOVERY, share_bytes);
    let mut encoder = Encoder::with_level(level, REQUIRED, TOTAL)?;
    encoder.encode_into(&data.slices(), &mut recovery.slices_mut())?;
    let present: Vec<u8> = (missing..REQUIRED).chain(TOTAL - missing..TOTAL).collect();
    let wanted: Vec<u8> = (0..missing).collect();
    let engine = DefaultEngine::new();
    Ok(Box::new(Rows {
        plan: RowPlan::with_level(level, REQUIRED, TOTAL, &present, &wanted)?,
        data,
        recovery,
        rebuilt: [6, 7].map(|seed| Shares::random(seed, wanted.len(), share_bytes)),
        stock: LowRateDecoder::new(K, RECOVERY, share_bytes, engine, None)?,
    }))
}

struct Rows {
    plan: RowPlan,
    data: Shares,
    recovery: Shares,
    /// Ours and the stock crate's.
    rebuilt: [Shares; 2],
    stock: LowRateDecoder<DefaultEngine>,
}

impl Rows {
    /// The present shares, in the plan's order.
    fn present<'a>(plan: &RowPlan, data: &'a Shares, recovery: &'a Shares) -> Vec<&'a [u8]> {
        let all = [data.slices(), recovery.slices()].concat();
        let indices = plan.present().iter();
        indices.map(|&index| all[usize::from(index)]).collect()
    }
}

impl Contest for Rows {
    fn user_bytes(&self) -> usize {
        self.data.byte_count()
    }

    fn ours(&mut self, repeats: u32) -> Result<()> {
        let present = Self::present(&self.plan, &self.data, &self.recovery);
        let mut rebuilt = self.rebuilt[0].slices_mut();
        for _ in 0..repeats {
            self.plan.apply(&present, &mut rebuilt)?;
        }
        Ok(())
    }

    fn peer(&mut self, repeats: u32) -> Result<()> {
        let present = Self::present(&self.plan, &self.data, &self.recovery);
        let mut rebuilt = self.rebuilt[1].slices_mut();
        for _ in 0..repeats {
            for (&index, share) in self.plan.present().iter().zip(&present) {
                match usize::from(index).checked_sub(K) {
                    None => self.stock.add_original_shard(usize::from(index), share)?,
                    Some(row) => self.stock.add_recovery_shard(row, share)?,
                }
            }
            let result = self.stock.decode()?;
            for (share, (_, row)) in rebuilt.iter_mut().zip(result.restored_original_iter()) {
                share.copy_from_slice(row);
            }
        }
        Ok(())
    }

    fn outputs(&self) -> [blake3::Hash; 2] {
        self.rebuilt.each_ref().map(Shares::hash)
    }
}
