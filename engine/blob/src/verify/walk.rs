//! The reading of one blob: its groups, their records, and the gaps between them, judged by the rules of `recover`.

use crate::disk::Disk;
use crate::error::Damage;
use crate::footer::{FooterEnd, FooterEntry};
use crate::group::GroupHeader;
use crate::header::BlobHeader;
use crate::layout::{self, BLOB_HEADER_BYTES, BLOCK_BYTES, GROUP_HEADER_BYTES, STEP_BYTES};
use crate::record::RecordHeader;
use crate::scan::{Group, Scanner};
use crate::verify::seen::Seen;
use crate::verify::{Fault, RootHash};

/// The reading of one blob.
pub(super) struct Walk<'a, D: Disk> {
    scanner: Scanner<'a, D>,
    header: &'a BlobHeader,
    /// Then all its groups are durable.
    is_sealed: bool,
    /// Then records that cannot be read are known all the same.
    has_footer: bool,
    /// Where the last valid group claims to end.
    end: u64,
    group_count: u32,
    last_number: u64,
    records: Vec<FooterEntry>,
    seen: &'a mut Seen,
    hash: Option<&'a mut (dyn RootHash + 'static)>,
    report: &'a mut dyn FnMut(u64, usize),
}

impl<'a, D: Disk> Walk<'a, D> {
    pub(super) fn new(
        scanner: Scanner<'a, D>,
        header: &'a BlobHeader,
        has_footer: bool,
        seen: &'a mut Seen,
        hash: Option<&'a mut (dyn RootHash + 'static)>,
        report: &'a mut dyn FnMut(u64, usize),
    ) -> Self {
        Self {
            scanner,
            header,
            is_sealed: has_footer,
            has_footer,
            end: BLOB_HEADER_BYTES,
            group_count: 0,
            last_number: 0,
            records: Vec::new(),
            seen,
            hash,
            report,
        }
    }

    /// Gives the count of valid groups, the highest number and the records. `bad_footer` is where a footer should be.
    pub(super) async fn run(
        mut self,
        bad_footer: Option<FooterEnd>,
    ) -> (u32, u64, Vec<FooterEntry>) {
        let mut previous: Option<Group> = None;
        let mut at = BLOB_HEADER_BYTES;
        while at < self.scanner.len {
            let Some(header) = self.scanner.group_header(at).await else {
                at += BLOCK_BYTES as u64;
                continue;
            };
            self.group_count += 1;
            self.last_number = self.last_number.max(header.number);
            self.settle(previous.take(), at, Some(header)).await;
            previous = Some(self.scanner.walk(at, header).await);
            self.end = at.saturating_add(header.group_len);
            at = self.end;
        }
        let mut len = self.scanner.len;
        if let Some(footer) = bad_footer.filter(|footer| footer.offset >= self.end) {
            let fault = Fault::Footer;
            self.seen
                .find(self.header.blob, footer.offset, footer.len, fault);
            // Its end is written with it, after a sync of all groups.
            self.is_sealed = true;
            len = footer.offset;
        }
        self.settle(previous, len, None).await;
        self.seen.verdict.groups += u64::from(self.group_count);
        if self.scanner.has_unreadable_blocks {
            self.seen.find(self.header.blob, 0, 0, Fault::Unreadable);
        }
        (self.group_count, self.last_number, self.records)
    }

    /// Judges a group and the gap after it, now that what follows is known: the rules of `recover`.
    async fn settle(&mut self, group: Option<Group>, gap_end: u64, next: Option<GroupHeader>) {
        let (from, number) = group
            .as_ref()
            .map_or((self.end, 0), |group| (group.offset, group.header.number));
        let witness = self
            .scanner
            .witness(from, number, self.end, gap_end, next)
            .await;
        let next = witness.map(|witness| witness.header);
        if let Some(group) = group {
            let is_durable = self.is_sealed
                || next.is_some_and(|next| next.number > number && next.durable_number >= number);
            self.settle_group(group, is_durable).await;
        }
        let is_rotten =
            next.is_some_and(|next| next.number > number + 1 && next.durable_number > number);
        self.settle_gap(self.end.min(gap_end), gap_end, is_rotten)
            .await;
        (self.report)(gap_end, self.seen.verdict.findings.len());
    }

    async fn settle_group(&mut self, group: Group, is_durable: bool) {
        for (offset, record) in &group.records {
            let faults = self.check(*offset, record).await;
            if !faults.is_empty() && !is_durable {
                self.seen.verdict.torn_bytes += record.record_len();
                continue;
            }
            self.take(*offset, record, &faults);
            (self.report)(*offset, self.seen.verdict.findings.len());
        }
        for stretch in &group.damage {
            // What the footer says was there is named when it is held against the records.
            if self.has_footer && stretch.damage == Damage::RecordHeader {
                continue;
            }
            if is_durable {
                let fault = Fault::Damaged(stretch.damage);
                self.seen
                    .find(self.header.blob, stretch.offset, stretch.len, fault);
                if !self.has_footer {
                    self.seen.verdict.unknown_bytes += stretch.len;
                }
            } else {
                self.seen.verdict.torn_bytes += stretch.len;
            }
        }
    }

    /// Looks for records where no valid group is.
    async fn settle_gap(&mut self, start: u64, end: u64, is_rotten: bool) {
        if start >= end {
            return;
        }
        let bad = if is_rotten {
            start..end
        } else {
            self.scanner.filled(start, end).await
        };
        let mut missing = bad.end - bad.start;
        let mut at = self.scanner.next_record(start, end).await;
        while at < end {
            let mut next = at + STEP_BYTES as u64;
            if let Some(Ok(record)) = self.scanner.record_header(at, end).await {
                let faults = self.check(at, &record).await;
                if faults.is_empty() || is_rotten {
                    self.take(at, &record, &faults);
                }
                if faults.is_empty() {
                    next = layout::round_to_step(at + record.record_len());
                    missing = missing.saturating_sub(next - at);
                }
            }
            at = self.scanner.next_record(next, end).await;
        }
        if is_rotten {
            let fault = Fault::Damaged(Damage::Group);
            self.seen.find(self.header.blob, start, end - start, fault);
            if !self.has_footer {
                self.seen.verdict.unknown_bytes +=
                    missing.saturating_sub(GROUP_HEADER_BYTES as u64);
            }
        } else {
            self.seen.verdict.torn_bytes += missing;
        }
    }

    /// All that is wrong with a record whose header is good.
    async fn check(&mut self, offset: u64, record: &RecordHeader) -> Vec<Fault> {
        let mut faults = Vec::new();
        let hash = &mut self.hash;
        if let Some(hash) = hash {
            hash.begin(u64::from(record.body_len));
        }
        let mut look = |share, bytes: &[u8], is_good: bool| {
            if !is_good {
                faults.push(Fault::Damaged(Damage::Share(share)));
            }
            if let Some(hash) = hash {
                hash.share(bytes);
            }
        };
        match self.scanner.each_share(offset, record, &mut look).await {
            Err(damage) => faults.push(Fault::Damaged(damage)),
            Ok(Some(root)) if faults.is_empty() => {
                let found = self.hash.as_mut().map(|hash| hash.root());
                if found.is_some_and(|found| found != root) {
                    faults.push(Fault::Root);
                }
            }
            Ok(_) => {}
        }
        faults
    }

    fn take(&mut self, offset: u64, record: &RecordHeader, faults: &[Fault]) {
        for fault in faults {
            self.seen.find_in(self.header, offset, record, *fault);
        }
        self.seen
            .accept(self.header, offset, record, faults.is_empty());
        self.seen.verdict.records += 1;
        self.records.push(FooterEntry {
            offset,
            record: *record,
        });
    }
}
