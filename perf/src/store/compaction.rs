//! What compaction costs who puts and gets, what it gives back, and what it writes for that.
//!
//! A store filled to 70 % of its capacity takes puts at half the pace that was measured, and as many deletes, compacted
//! as a node does it and then to the end; once more without compaction, in which it may outgrow its capacity.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use strand_blob::StoreOptions;

use super::bench::{Bench, CALLERS, load};
use super::churn::{Churn, Churned, Stock};
use super::drive::{CAPACITY_BYTES, Load, NODE_ID, Session, on_core};
use super::plan::PLAIN_CHURN_MAX_S;
use super::work::Work;

/// Bodies of the pieces that come and go.
const BODY_LEN: usize = 64 << 10;

/// Bodies in the store, in percent of its capacity.
const FILLED_PERCENT: u64 = 70;

/// Blobs of a full store at least: as the options have it at full size, and as many in a small run.
const BLOBS_MIN: u64 = 64;

/// Filling may take so long; the store is full by then or the run ends.
const FILL_MAX: Duration = Duration::from_secs(60);

/// Longest compaction without load: about once through the store.
const SETTLE_MAX: Duration = Duration::from_secs(30);

impl Bench {
    pub(super) fn compaction(&mut self) -> Result<()> {
        let capacity_bytes = self.plan.churn_capacity_bytes;
        let count = capacity_bytes * FILLED_PERCENT / 100 / BODY_LEN as u64;
        self.narrator.line("fill a store to 70 %, 64 KiB pieces");
        let work = Arc::new(Work::new(BODY_LEN, self.now_s));
        let folder = self.new_folder("churn")?;
        let fill = Load {
            limit: FILL_MAX,
            ..load(CALLERS, count)
        };
        let put = self.put_with(&folder, &work, fill, options(capacity_bytes))?;
        ensure!(
            put.run.count == count,
            "filling took longer than {FILL_MAX:?}"
        );

        let churn = Churn {
            puts_per_second: (self.put_64k_per_s / 2.0)
                .min(self.plan.churn_pace_max() / BODY_LEN as f64),
            seconds: self.plan.churn_seconds,
            puts_max: u64::MAX,
            is_compacting: true,
            settle_max: SETTLE_MAX,
        };
        let stock = Stock::new(count);
        let (with, stock) = self.churn(&folder, &work, stock, churn, capacity_bytes)?;
        let churn = Churn {
            puts_max: (self.plan.churn_growth_bytes() / BODY_LEN as u64).max(1),
            is_compacting: false,
            seconds: churn.seconds.min(PLAIN_CHURN_MAX_S),
            ..churn
        };
        let (without, _) = self.churn(&folder, &work, stock, churn, CAPACITY_BYTES)?;
        self.remove(&folder)?;

        let put_bytes = (with.puts * BODY_LEN as u64) as f64;
        let died_bytes = (with.deletes * BODY_LEN as u64) as f64;
        let put_ratio = with.put_p99_us / without.put_p99_us;
        let get_ratio = with.get_p99_us / without.get_p99_us;
        let kept = with.puts as f64 / with.seconds / churn.puts_per_second;
        let figures = &mut self.figures;
        figures.set("compaction_p99_ratio", put_ratio.max(get_ratio));
        figures.set("reclaimed_share", 1.0 - with.dead_bytes as f64 / died_bytes);
        figures.set("write_amplification", with.written_bytes as f64 / put_bytes);
        figures.set("compaction_load_kept", kept.min(1.0));
        Ok(())
    }

    fn churn(
        &mut self,
        folder: &Path,
        work: &Arc<Work>,
        stock: Stock,
        churn: Churn,
        capacity_bytes: u64,
    ) -> Result<(Churned, Stock)> {
        let how = if churn.is_compacting {
            "with"
        } else {
            "without"
        };
        self.narrator.line(&format!(
            "{:.0} puts and deletes a second for {:.0} s, {how} compaction",
            churn.puts_per_second, churn.seconds
        ));
        let (folder, work) = (folder.to_owned(), Arc::clone(work));
        let churning = move || {
            on_core(move |core| async move {
                let options = options(capacity_bytes);
                let opening = Session::open(core, &folder, options, work.now_s());
                let session = Box::pin(opening).await?;
                let churned = Box::pin(session.churn(&work, stock, churn)).await?;
                session.close().await?;
                Ok(churned)
            })
        };
        let (churned, stock) =
            self.watched("compaction", churning, |(churned, _)| churned.index_bytes)?;
        self.narrator.line(&format!(
            "{} puts in {:.1} s and {:.1} s after them; p99 of puts {:.1} ms, of gets {:.1} ms",
            churned.puts,
            churned.seconds,
            churned.settle_seconds,
            churned.put_p99_us / 1e3,
            churned.get_p99_us / 1e3
        ));
        Ok((churned, stock))
    }
}

fn options(capacity_bytes: u64) -> StoreOptions {
    let mut options = StoreOptions::new(NODE_ID, capacity_bytes);
    options.blob_bytes_max = options.blob_bytes_max.min(capacity_bytes / BLOBS_MIN);
    options
}
