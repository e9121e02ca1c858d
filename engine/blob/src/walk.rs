//! The walk over one blob without a footer: which groups and records are valid, and which damage is torn and which rotten.
//!
//! The rules are those at the head of `recover`; docs/format.md section 6 has them whole.

use crate::blobs::Tail;
use crate::bug::{self, Bug};
use crate::disk::Disk;
use crate::error::Damage;
use crate::footer::FooterEntry;
use crate::group::GroupHeader;
use crate::header::BlobHeader;
use crate::index::Place;
use crate::layout::{self, BLOCK_BYTES, GROUP_HEADER_BYTES, STEP_BYTES};
use crate::record::RecordHeader;
use crate::recover::{Opening, Rot};
use crate::scan::{Group, Scanner, Stretch, Witness};

/// The walk over one blob.
pub(crate) struct BlobScan<'o, 'a, D: Disk> {
    pub(crate) opening: &'o mut Opening<'a, D>,
    pub(crate) scanner: Scanner<'o, D>,
    pub(crate) slot: u32,
    pub(crate) header: &'o BlobHeader,
    /// Where the last valid group claims to end.
    pub(crate) end: u64,
    /// Number of the last group before the walk.
    pub(crate) base_number: u64,
    /// The records that were accepted.
    pub(crate) entries: Vec<FooterEntry>,
}

impl<D: Disk> BlobScan<'_, '_, D> {
    /// Walks from where `tail` says that the next group goes.
    pub(crate) async fn run(mut self, mut tail: Tail) -> (Tail, Vec<FooterEntry>) {
        let mut previous: Option<Group> = None;
        let mut at = tail.append_at;
        // Where a group should begin, if the file goes on.
        let mut expected = at;
        while at < self.scanner.len {
            self.opening.reach(at);
            //= docs/format.md#record
            let mut found = self.scanner.group_header(at).await;
            if found.is_none() && at == expected {
                found = self.scanner.group_header_again(at).await;
            }
            let Some(header) = found else {
                if bug::is_planted(Bug::StopsAtBadGroup) {
                    break;
                }
                at += BLOCK_BYTES as u64;
                continue;
            };
            self.opening.report.groups += 1;
            tail.last_number = tail.last_number.max(header.number);
            tail.attested_number = tail.attested_number.max(header.durable_number);
            if header.record_count > 0 {
                tail.last_full_number = header.number;
            }
            self.settle(previous.take(), at, Some(header)).await;
            let group = self.scanner.walk(at, header).await;
            previous = Some(self.scanner.walked_again(at, group).await);
            self.end = at + header.group_len;
            at = self.end;
            expected = at;
        }
        let len = self.scanner.len;
        let last = previous.as_ref().map(|group| group.header);
        let (is_whole, astray) = self.settle(previous, len, None).await;
        if let Some(Witness { header, end }) = astray {
            // Neither its number nor its place is given to another group.
            tail.last_number = tail.last_number.max(header.number);
            self.end = self.end.max(end);
        }
        tail.file_len = len;
        tail.append_at = layout::round_to_block(len.max(self.end));
        // A torn group is never called durable: the next group must not turn it into rot.
        tail.synced_number = match last {
            Some(header) if is_whole || bug::is_planted(Bug::TornTakenForDurable) => header.number,
            Some(header) => header.durable_number.min(header.number.saturating_sub(1)),
            None => tail.synced_number,
        };
        self.opening.has_unreadable_blocks |= self.scanner.has_unreadable_blocks;
        (tail, self.entries)
    }

    /// Decides about a group and the gap after it, now that the next valid group, or that there is none, is known.
    /// Returns whether the group was whole, and by what it was judged.
    async fn settle(
        &mut self,
        group: Option<Group>,
        gap_end: u64,
        next: Option<GroupHeader>,
    ) -> (bool, Option<Witness>) {
        let (from, number) = group
            .as_ref()
            .map_or((self.end, self.base_number), |group| {
                (group.offset, group.header.number)
            });
        let witness = self
            .scanner
            .witness(from, number, self.end, gap_end, next)
            .await;
        let next = witness.map(|witness| witness.header);
        let mut is_whole = true;
        if let Some(group) = group {
            let is_durable =
                next.is_some_and(|next| next.number > number && next.durable_number >= number);
            is_whole = self.settle_group(group, is_durable).await;
        }
        // Groups whose own headers are bad leave a gap in the numbers; were the first of them durable?
        let is_rotten =
            next.is_some_and(|next| next.number > number + 1 && next.durable_number > number);
        self.settle_gap(self.end.min(gap_end), gap_end, is_rotten)
            .await;
        (is_whole, witness)
    }

    async fn settle_group(&mut self, group: Group, is_durable: bool) -> bool {
        let mut is_whole = group.damage.is_empty();
        let mut exact_len = GROUP_HEADER_BYTES as u64;
        let mut stepped_len = exact_len;
        let mut good = Vec::with_capacity(group.records.len());
        for (offset, record) in &group.records {
            // G2, G4: what may be torn counts only if it is whole; what was durable once is reported where it is not.
            let is_believed = is_durable || bug::is_planted(Bug::TornTrusted);
            if !is_believed
                && self
                    .scanner
                    .check_body_twice(*offset, record)
                    .await
                    .is_err()
            {
                self.opening.report.torn_bytes += record.record_len();
                is_whole = false;
                continue;
            }
            good.push((*offset, record));
            exact_len += record.record_len();
            stepped_len += layout::round_to_step(record.record_len());
        }
        for (offset, record) in good {
            self.accept(offset, record, !is_durable && !is_whole);
        }
        for stretch in &group.damage {
            self.note(*stretch, is_durable);
        }
        let used_len = if is_whole {
            group.present_len
        } else {
            stepped_len.min(group.present_len)
        };
        let space = &mut self.opening.census.space;
        space.overhead_bytes += GROUP_HEADER_BYTES as u64;
        space.padding_bytes += used_len - exact_len;
        space.skipped_bytes += group.present_len - used_len;
        is_whole
    }

    /// Looks for records where no valid group is.
    async fn settle_gap(&mut self, start: u64, end: u64, is_rotten: bool) {
        if start >= end {
            return;
        }
        self.scanner.forget();
        let bad = if is_rotten {
            start..end
        } else {
            self.scanner.filled(start, end).await
        };
        self.note(
            Stretch {
                offset: bad.start,
                len: bad.end - bad.start,
                damage: Damage::Group,
            },
            is_rotten,
        );
        self.opening.census.space.skipped_bytes += end - start;
        let mut at = self.scanner.next_record(start, end).await;
        while at < end {
            let mut next = at + STEP_BYTES as u64;
            if let Some(Ok(record)) = self.scanner.record_header(at, end).await {
                let len = record.record_len();
                match self.scanner.check_body(at, &record).await {
                    Ok(()) => {
                        self.accept(at, &record, !is_rotten);
                        self.opening.census.space.skipped_bytes -= len;
                        next = layout::round_to_step(at + len);
                    }
                    Err(damage) if is_rotten => self.note(
                        Stretch {
                            offset: at,
                            len,
                            damage,
                        },
                        true,
                    ),
                    Err(_) => {}
                }
            }
            at = self.scanner.next_record(next, end).await;
        }
    }

    /// Takes a record; a *loose* one is left of a torn group, and no later group calls it durable.
    fn accept(&mut self, offset: u64, record: &RecordHeader, is_loose: bool) {
        self.entries.push(FooterEntry {
            offset,
            record: *record,
        });
        let place = Place {
            slot: self.slot,
            offset,
        };
        let census = &mut self.opening.census;
        if is_loose {
            census.accept_loose(self.header, place, record);
        } else {
            census.accept(self.header, place, record);
        }
    }

    fn note(&mut self, stretch: Stretch, is_rotten: bool) {
        let Stretch {
            offset,
            len,
            damage,
        } = stretch;
        if is_rotten && !bug::is_planted(Bug::RotTakenForTorn) {
            self.opening.report.rotten.push(Rot {
                blob: self.scanner.blob,
                offset,
                len,
                damage,
            });
        } else {
            self.opening.report.torn_bytes += len;
        }
    }
}
