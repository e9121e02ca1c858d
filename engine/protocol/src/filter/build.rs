//! Making a filter: slots such that the three of every hash XOR to its fingerprint.
//!
//! Each hash names three slots. A slot that only one hash names can be set last, to whatever that
//! hash still needs; so hashes are peeled off, one whose slot is its own after another, and the
//! slots are set in the opposite order. With 12.5 % more slots than hashes this nearly always gets
//! to the end; if not, another mix places them anew.

use super::{
    CHECK_BYTES, FilterKey, FilterScope, HEADER_BYTES, MAGIC, PieceFilter, SEGMENT_LOG_MAX,
    SEGMENT_LOG_MIN, Table, check_of, fingerprint,
};
use crate::limits::{FILTER_BYTES_MAX, FILTER_PIECES_MAX};

/// Mixes tried. One fails about once in ten for a few pieces, far less often for many.
const MIXES_MAX: u32 = 128;

/// Why no filter was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// Cut the range.
    #[error("{count} pieces > {FILTER_PIECES_MAX}, the most of one filter")]
    TooMany {
        /// Distinct pieces given.
        count: usize,
    },
    /// No mix placed all hashes: try another key.
    #[error("no mix in {MIXES_MAX} places the hashes")]
    Unlucky,
    /// The range ends before it begins.
    #[error("the filter's first id lies behind its last")]
    Range,
}

impl PieceFilter {
    /// The filter that contains the ids with these hashes under `key`. Takes some 25 bytes of
    /// memory a piece while it works, and some 0.2 us of time.
    ///
    /// # Errors
    ///
    /// Too many hashes, or very bad luck.
    pub fn build(
        scope: FilterScope,
        key: FilterKey,
        mut hashes: Vec<u64>,
    ) -> Result<Self, BuildError> {
        if scope.first_id > scope.last_id {
            return Err(BuildError::Range);
        }
        hashes.sort_unstable();
        hashes.dedup();
        let count = hashes.len();
        if count > FILTER_PIECES_MAX {
            return Err(BuildError::TooMany { count });
        }
        let sized = Table::for_count(count);
        for mix in 0..MIXES_MAX {
            let table = Table { mix, ..sized };
            let Some(order) = peel(table, &hashes) else {
                continue;
            };
            let mut bytes = header(&scope, &key, table, count as u64);
            bytes.resize(HEADER_BYTES + table.slot_count(), 0);
            let slots = &mut bytes[HEADER_BYTES..];
            for Peeled { hash, slot } in order.into_iter().rev() {
                // Its own slot is still zero.
                let [a, b, c] = table.slots_of(hash);
                slots[slot as usize] = fingerprint(hash) ^ slots[a] ^ slots[b] ^ slots[c];
            }
            let check = check_of(&bytes);
            bytes.extend_from_slice(&check);
            return Ok(Self {
                bytes,
                scope,
                count: count as u64,
                key,
                table,
            });
        }
        Err(BuildError::Unlucky)
    }
}

impl Table {
    /// The paper's choice for three slots a hash: segments of 3.33-logarithmic length, and at least
    /// 1.125 slots a hash, more for few.
    fn for_count(count: usize) -> Self {
        if count == 0 {
            return Self {
                mix: 0,
                segment_log: 0,
                segment_count: 0,
            };
        }
        let ln = (count as f64).ln();
        let segment_log =
            ((ln / 3.33_f64.ln() + 2.25) as u8).clamp(SEGMENT_LOG_MIN, SEGMENT_LOG_MAX);
        // ln(1) = 0: one hash needs no more than the three segments there are at least.
        let factor = (0.875 + 0.25 * 1e6_f64.ln() / ln.max(0.5)).max(1.125);
        let wanted = (count as f64 * factor).ceil() as u32;
        Self {
            mix: 0,
            segment_log,
            segment_count: wanted.div_ceil(1 << segment_log).saturating_sub(2).max(1),
        }
    }
}

/// A hash and the slot that was its own when it was taken off.
struct Peeled {
    hash: u64,
    slot: u32,
}

/// All hashes in the order of their peeling; `None` if some always share their slots.
fn peel(table: Table, hashes: &[u64]) -> Option<Vec<Peeled>> {
    let mut named = vec![0_u8; table.slot_count()];
    // The XOR of all hashes that name a slot: the hash itself once only one does.
    let mut mixed = vec![0_u64; table.slot_count()];
    for &hash in hashes {
        let hash = table.mixed(hash);
        for slot in table.slots_of(hash) {
            named[slot] = named[slot].checked_add(1)?;
            mixed[slot] ^= hash;
        }
    }
    let mut own: Vec<u32> = (0..named.len() as u32)
        .filter(|&slot| named[slot as usize] == 1)
        .collect();
    let mut order = Vec::with_capacity(hashes.len());
    while let Some(slot) = own.pop() {
        // Its hash may have been taken off through another slot of its own.
        if named[slot as usize] != 1 {
            continue;
        }
        let hash = mixed[slot as usize];
        order.push(Peeled { hash, slot });
        for other in table.slots_of(hash) {
            named[other] -= 1;
            mixed[other] ^= hash;
            if named[other] == 1 {
                own.push(other as u32);
            }
        }
    }
    (order.len() == hashes.len()).then_some(order)
}

fn header(scope: &FilterScope, key: &FilterKey, table: Table, count: u64) -> Vec<u8> {
    let len = HEADER_BYTES + table.slot_count() + CHECK_BYTES;
    debug_assert!(len <= FILTER_BYTES_MAX);
    let mut bytes = Vec::with_capacity(len);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&[table.segment_log, 0, 0, 0]);
    bytes.extend_from_slice(scope.satellite.as_bytes());
    bytes.extend_from_slice(scope.node.as_bytes());
    bytes.extend_from_slice(&scope.snapshot_ms.to_le_bytes());
    bytes.extend_from_slice(scope.first_id.as_bytes());
    bytes.extend_from_slice(scope.last_id.as_bytes());
    bytes.extend_from_slice(&count.to_le_bytes());
    bytes.extend_from_slice(&key.0);
    bytes.extend_from_slice(&table.mix.to_le_bytes());
    bytes.extend_from_slice(&table.segment_count.to_le_bytes());
    bytes
}
