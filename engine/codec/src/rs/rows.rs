//! Missing data shares from present shares.

use std::fmt;

use reed_solomon_simd::engine::DefaultEngine;
use reed_solomon_simd::rate::{LowRateDecoder, RateDecoder};

use super::error::{CodeError, check_lens};
use crate::shape::check_counts;

/// Columns decoded in one go.
///
/// The stock decoder works out the loss pattern anew in every call, 0.25 to 0.5 ms whatever the
/// length, and then transforms 64 or 128 rows, which miss the cache when long. Measured for 19
/// of 29 missing and 128 rows: 143 MB/s at 4 KiB, 231 at 16, 240 at 32 and 64, 174 at 128. Any
/// other value gives the same bytes.
const TILE_BYTES: usize = 64 * 1_024;

/// Rebuilds data shares for one pattern of present and wanted indices.
///
/// A segment's pattern rarely changes, so make the plan once and apply it to all stripes. Give
/// it 64 KiB of columns or more in a call (a piece is contiguous, so several stripes at
/// once are just longer slices): each call pays a fixed price. The plan keeps its work space, up
/// to 8 MiB for 29 of 93.
pub struct RowPlan {
    required: u8,
    present: Vec<u8>,
    wanted: Vec<u8>,
    /// `None` if nothing is wanted.
    stock: Option<Stock>,
}

struct Stock {
    decoder: LowRateDecoder<DefaultEngine>,
    recovery_count: usize,
    /// Columns the decoder is set up for.
    tile_len: usize,
}

impl RowPlan {
    /// A plan that makes the `wanted` data shares from the `present` shares.
    ///
    /// `present` are exactly `required` indices below `total`, ascending; `wanted` are distinct
    /// data indices (below `required`) that are not present, in any order.
    ///
    /// # Errors
    ///
    /// [`CodeError`] names the first index or count that breaks these rules.
    pub fn new(required: u8, total: u8, present: &[u8], wanted: &[u8]) -> Result<Self, CodeError> {
        check_counts(required, total)?;
        check_present(required, total, present)?;
        check_wanted(required, present, wanted)?;
        let stock = (!wanted.is_empty()).then(|| {
            // A recovery share does not depend on how many there are, so the decoder need only
            // know of those up to the highest that is present: often half the work space.
            let highest = *present.last().expect("required is at least 1");
            // A data share is wanted, so not all present ones are data shares.
            assert!(
                highest >= required,
                "k distinct indices below k leave none to want"
            );
            let recovery_count = usize::from(highest - required) + 1;
            let decoder = LowRateDecoder::new(
                usize::from(required),
                recovery_count,
                crate::shape::COLUMN_BYTES,
                DefaultEngine::new(),
                None,
            )
            .expect("64 + 254 shares are within the 65,536 of the code");
            Stock {
                decoder,
                recovery_count,
                tile_len: crate::shape::COLUMN_BYTES,
            }
        });
        Ok(Self {
            required,
            present: present.to_vec(),
            wanted: wanted.to_vec(),
            stock,
        })
    }

    /// Indices of the shares to give to [`RowPlan::apply`], in order.
    pub fn present(&self) -> &[u8] {
        &self.present
    }

    /// Indices of the shares that [`RowPlan::apply`] writes, in order.
    pub fn wanted(&self) -> &[u8] {
        &self.wanted
    }

    /// Rebuilds the wanted shares of any range of columns.
    ///
    /// `present` are the shares (or the same columns of them) in the order of the plan's present
    /// indices, `wanted` those to overwrite in the order of its wanted indices; all have one
    /// length, a multiple of 64.
    ///
    /// The code finds no errors: wrong bytes in give wrong bytes out. Verify shares first.
    ///
    /// # Errors
    ///
    /// [`CodeError`] if counts or lengths do not fit; nothing is written then.
    pub fn apply(&mut self, present: &[&[u8]], wanted: &mut [&mut [u8]]) -> Result<(), CodeError> {
        if present.len() != self.present.len() {
            return Err(CodeError::ShareCount {
                given_count: present.len(),
                required_count: self.required,
            });
        }
        if wanted.len() != self.wanted.len() {
            return Err(CodeError::TargetCount {
                given_count: wanted.len(),
                expected_count: self.wanted.len(),
            });
        }
        let lens = present.iter().map(|share| share.len());
        let share_len = check_lens(lens.chain(wanted.iter().map(|share| share.len())))?;
        let Some(stock) = &mut self.stock else {
            return Ok(());
        };
        for start in (0..share_len).step_by(TILE_BYTES) {
            let tile = start..(start + TILE_BYTES).min(share_len);
            stock.set_tile_len(usize::from(self.required), tile.len());
            for (&index, share) in self.present.iter().zip(present) {
                stock.add(self.required, index, &share[tile.clone()]);
            }
            let result = stock
                .decoder
                .decode()
                .expect("k distinct shares were added");
            for (&index, share) in self.wanted.iter().zip(wanted.iter_mut()) {
                let row = result
                    .restored_original(usize::from(index))
                    .expect("a wanted share is a data share that was not added");
                share[tile.clone()].copy_from_slice(row);
            }
        }
        Ok(())
    }
}

impl Stock {
    fn set_tile_len(&mut self, required_count: usize, tile_len: usize) {
        if self.tile_len != tile_len {
            self.decoder
                .reset(required_count, self.recovery_count, tile_len)
                .expect("counts were checked by new, the length by apply");
            self.tile_len = tile_len;
        }
    }

    fn add(&mut self, required: u8, index: u8, share: &[u8]) {
        let added = match index.checked_sub(required) {
            None => self.decoder.add_original_shard(usize::from(index), share),
            Some(recovery) => self
                .decoder
                .add_recovery_shard(usize::from(recovery), share),
        };
        added.expect("indices are distinct and in range");
    }
}

fn check_present(required: u8, total: u8, present: &[u8]) -> Result<(), CodeError> {
    if present.len() != usize::from(required) {
        return Err(CodeError::ShareCount {
            given_count: present.len(),
            required_count: required,
        });
    }
    if let Some(pair) = present.windows(2).find(|pair| pair[0] >= pair[1]) {
        return Err(CodeError::IndexOrder {
            index: pair[1],
            previous: pair[0],
        });
    }
    match present.last() {
        Some(&index) if index >= total => Err(CodeError::IndexOutOfRange {
            index,
            total_count: total,
        }),
        _ => Ok(()),
    }
}

fn check_wanted(required: u8, present: &[u8], wanted: &[u8]) -> Result<(), CodeError> {
    for (position, &index) in wanted.iter().enumerate() {
        if index >= required {
            return Err(CodeError::WantedNotData {
                index,
                required_count: required,
            });
        }
        if present.binary_search(&index).is_ok() {
            return Err(CodeError::WantedPresent { index });
        }
        if wanted[..position].contains(&index) {
            return Err(CodeError::WantedTwice { index });
        }
    }
    Ok(())
}

impl fmt::Debug for RowPlan {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "RowPlan({:?} from {:?})",
            self.wanted, self.present
        )
    }
}
