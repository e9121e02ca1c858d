//! How much of everything a run does: the default's amounts, scaled down with the number of pieces.

use std::time::Duration;

/// The number of pieces that the amounts below are meant for.
pub(super) const PIECES_DEFAULT: u64 = 2_000_000;

/// Times that ours and raw alternate; each figure is the median.
pub(super) const ROUNDS: usize = 5;

/// Body of a full piece (docs/format.md): 64 MiB, sealed, over 29 pieces.
pub(super) const FULL_PIECE_BYTES: usize = strand_protocol::limits::FULL_PIECE_BYTES as usize;

/// Times that ours and the peers alternate.
pub(super) const PEER_ROUNDS: usize = 3;

/// A run ends by then, whatever it has done.
pub(super) const RUN_MAX: Duration = Duration::from_secs(4);

/// Longest filling of the store whose index is measured, at the default or below.
const FILL_MAX: Duration = Duration::from_secs(75);

/// Raw runs are cut to what the disk does in this time, by its calibration.
const RAW_RUN_SECONDS: f64 = 3.5;

/// Churn without compaction takes no longer: it only has to show a tail.
pub(super) const PLAIN_CHURN_MAX_S: f64 = 30.0;

/// Bulk and small rounds begin no later than so long after their first, but three are always done.
pub(super) const BULK_MAX: Duration = Duration::from_secs(80);
pub(super) const SMALL_MAX: Duration = Duration::from_secs(30);
pub(super) const ROUNDS_MIN: usize = 3;

const BULK_BYTES: u64 = 4 << 30;
const CALIBRATION_BYTES: u64 = 512 << 20;
const HOT_BYTES: u64 = 1 << 30;
const GROUPS: u64 = 3_000;
const LONE_COUNT: u64 = 400;
const CHURN_CAPACITY_BYTES: u64 = 8 << 30;
const CHURN_SECONDS: f64 = 60.0;
const PEER_RUN: Duration = Duration::from_millis(1_500);

/// Once a run of the default size has taken so long, what is left of the eight minutes goes into one round of each kind.
const HURRY_AFTER: Duration = Duration::from_secs(400);

/// Space beyond what is counted: footers, journals, the file system's own tables.
const ROOM_SPARE_BYTES: u64 = 1 << 30;

/// A churned store may outgrow its capacity by so much, if that is the sum: the bound of the whole bench is 20 GB.
const CHURN_BYTES_MAX: u64 = 17 << 30;

/// The amounts of one run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    /// Pieces of 576 bytes in the store that is opened again.
    pub(super) pieces: u64,
    /// Pieces of 2 KiB.
    pub(super) pieces_2k: u64,
    /// Bytes of a bulk run, ours or raw.
    pub(super) bulk_bytes: u64,
    /// Bytes for each shape of raw access that is tried.
    pub(super) calibration_bytes: u64,
    /// Bytes of pieces that are read again and again.
    pub(super) hot_bytes: u64,
    /// Raw groups of a round; ours writes 64 pieces for each.
    pub(super) groups: u64,
    /// Lone puts, and lone syncs, of a round.
    pub(super) lone_count: u64,
    /// Capacity of the store in which pieces come and go, and for how long they do.
    pub(super) churn_capacity_bytes: u64,
    pub(super) churn_seconds: f64,
    /// Longest run of a peer, and of ours beside it.
    pub(super) peer_run: Duration,
}

impl Plan {
    pub(super) fn new(pieces: u64) -> Self {
        let part = |amount: u64, least: u64| {
            let scaled = u128::from(amount) * u128::from(pieces) / u128::from(PIECES_DEFAULT);
            u64::try_from(scaled)
                .unwrap_or(u64::MAX)
                .clamp(least, amount)
        };
        let scale = (pieces as f64 / PIECES_DEFAULT as f64).min(1.0);
        Self {
            pieces,
            churn_capacity_bytes: part(CHURN_CAPACITY_BYTES, 256 << 20),
            churn_seconds: (CHURN_SECONDS * scale).max(3.0),
            peer_run: PEER_RUN.mul_f64(scale).max(Duration::from_millis(200)),
            pieces_2k: part(PIECES_DEFAULT / 8, 512),
            bulk_bytes: part(BULK_BYTES, 32 << 20) >> 22 << 22,
            calibration_bytes: part(CALIBRATION_BYTES, 16 << 20) >> 22 << 22,
            hot_bytes: part(HOT_BYTES, 8 << 20),
            groups: part(GROUPS, 20),
            lone_count: part(LONE_COUNT, 20),
        }
    }

    /// Most bytes on disk at any time: the filled store, a bulk run of ours beside a raw file, or pieces that come and go.
    pub(super) fn room_needed(&self) -> u64 {
        // A piece of 576 bytes takes 960 in its group, and its part of a footer and of padding.
        let filled = self.pieces.saturating_mul(1_152);
        filled
            .max(2 * self.bulk_bytes + self.bulk_bytes / 8)
            .max(self.churn_capacity_bytes + self.churn_growth_bytes())
            .saturating_add(ROOM_SPARE_BYTES)
    }

    /// What a store without compaction may grow by.
    pub(super) fn churn_growth_bytes(&self) -> u64 {
        let part = self.churn_capacity_bytes as f64 / CHURN_CAPACITY_BYTES as f64;
        ((CHURN_BYTES_MAX - CHURN_CAPACITY_BYTES) as f64 * part) as u64
    }

    /// Most bytes put a second while pieces come and go: in a small store not what a disk can do, or its whole content
    /// would change between two looks of the node.
    pub(super) fn churn_pace_max(&self) -> f64 {
        if self.churn_capacity_bytes == CHURN_CAPACITY_BYTES {
            f64::INFINITY
        } else {
            1.5 * self.churn_capacity_bytes as f64 / self.churn_seconds
        }
    }

    /// Cuts bulk runs to what a disk of that bandwidth does in a few seconds.
    pub(super) fn cut_to(&mut self, bytes_per_second: f64) {
        let bytes = (bytes_per_second * RAW_RUN_SECONDS) as u64 >> 22 << 22;
        self.bulk_bytes = self.bulk_bytes.min(bytes.max(32 << 20));
    }

    /// Longest filling: longer only if more pieces than the default were asked for.
    pub(super) fn fill_max(&self) -> Duration {
        FILL_MAX.mul_f64((self.pieces as f64 / PIECES_DEFAULT as f64).max(1.0))
    }

    /// When rounds that are still to come are cut to one.
    pub(super) fn hurry_after(&self) -> Duration {
        HURRY_AFTER + self.fill_max().saturating_sub(FILL_MAX)
    }

    /// Records of a blob: the real bound at full size, so few in a small run that some blobs are sealed.
    pub(super) fn blob_records_max(pieces: u64) -> u32 {
        u32::try_from(pieces / 4)
            .unwrap_or(u32::MAX)
            .clamp(16, 32_768)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_fits_twenty_gigabytes_and_more_pieces_only_fill_more() {
        let default = Plan::new(PIECES_DEFAULT);
        assert_eq!(default.bulk_bytes, BULK_BYTES);
        assert!(default.room_needed() < 20_000_000_000);
        let large = Plan::new(50 * PIECES_DEFAULT);
        assert_eq!(large.bulk_bytes, default.bulk_bytes);
        assert!(large.room_needed() > default.room_needed());
    }

    #[test]
    fn a_small_run_is_small_but_does_something_of_everything() {
        let mut plan = Plan::new(1);
        assert!(plan.room_needed() < 1_700_000_000);
        assert!(plan.groups > 0 && plan.lone_count > 0 && plan.pieces_2k > 0);
        plan.cut_to(1.0);
        assert_eq!(plan.bulk_bytes, 32 << 20);
    }
}
