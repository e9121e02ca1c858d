//! Reading a blob from front to end through one small window.
//!
//! The window moves forward and skips bodies, so a scan reads little more than the headers. A block that the disk cannot
//! read is taken as zeros: its record then fails its check like any other damage, and the rest of the blob is still found.
//! Bytes that fail a check are read once more before they count as torn or rotten: a disk that gave the bytes of another place once must not
//! have an opening forget a group for good.

use std::ops::Range;

use crate::buffer::IoBuffer;
use crate::bug::{self, Bug};
use crate::check::KeyedCheck;
use crate::disk::{Disk, DiskError};
use crate::error::Damage;
use crate::group::GroupHeader;
use crate::layout::{
    self, BLOCK_BYTES, BlobId, GROUP_HEADER_BYTES, RECORD_HEADER_BYTES, SHARE_BYTES, STEP_BYTES,
};
use crate::record::{Found, RecordHeader, Trailer};

const WINDOW_BYTES: usize = 64 * 1_024;

// The longest view, a trailer of 257 shares and 8 hashes, fits wherever in a block it begins.
const _: () = assert!(257 * 36 + 32 + 8 * 32 + 36 + BLOCK_BYTES <= WINDOW_BYTES);
const _: () = assert!(SHARE_BYTES + BLOCK_BYTES <= WINDOW_BYTES);

/// A forward reader of one blob file.
pub(crate) struct Scanner<'a, D: Disk> {
    disk: &'a D,
    file: &'a D::File,
    pub(crate) blob: BlobId,
    pub(crate) check: KeyedCheck,
    satellite_count: usize,
    /// Bytes of the file.
    pub(crate) len: u64,
    window: Option<IoBuffer>,
    start: u64,
    filled: usize,
    /// Where group headers were found that name another place, and which.
    astray: Vec<(u64, u64, GroupHeader)>,
    /// Whether the disk failed to read some block, or gave other bytes the second time.
    pub(crate) has_unreadable_blocks: bool,
}

/// A group and what was found in it.
pub(crate) struct Group {
    pub(crate) offset: u64,
    pub(crate) header: GroupHeader,
    /// Bytes of it that lie in the file.
    pub(crate) present_len: u64,
    pub(crate) records: Vec<(u64, RecordHeader)>,
    pub(crate) damage: Vec<Stretch>,
}

/// What says how far groups before it were durable.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Witness {
    pub(crate) header: GroupHeader,
    /// Where its group should end.
    pub(crate) end: u64,
}

/// Bytes that should be a record or group and are not.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stretch {
    pub(crate) offset: u64,
    pub(crate) len: u64,
    pub(crate) damage: Damage,
}

impl<'a, D: Disk> Scanner<'a, D> {
    pub(crate) fn new(
        disk: &'a D,
        file: &'a D::File,
        blob: BlobId,
        salt: [u8; 32],
        satellite_count: usize,
        len: u64,
    ) -> Self {
        let check = KeyedCheck::new(salt);
        Self {
            disk,
            file,
            blob,
            check,
            satellite_count,
            len,
            window: None,
            start: 0,
            filled: 0,
            astray: Vec::new(),
            has_unreadable_blocks: false,
        }
    }

    /// The group header at a block, if a valid one is there.
    pub(crate) async fn group_header(&mut self, offset: u64) -> Option<GroupHeader> {
        let (check, blob) = (self.check, self.blob);
        let bytes = self.view(offset, GROUP_HEADER_BYTES).await;
        let (place, header) = GroupHeader::parse_anywhere(bytes, &check, blob)?;
        if place == offset {
            return Some(header);
        }
        self.astray.push((offset, place, header));
        None
    }

    /// The group header at a block where there was none, read from the disk once more.
    pub(crate) async fn group_header_again(&mut self, offset: u64) -> Option<GroupHeader> {
        self.forget();
        let found = self.group_header(offset).await;
        self.has_unreadable_blocks |= found.is_some();
        found
    }

    /// The group header by which what lies between `from` and `gap_end` is judged: that of the valid group at `gap_end`, or one that was meant for a
    /// place before that and went astray, over what is judged.
    ///
    /// `number` is that of the group at `from`, which claims to end at `end`; `next` is the header at `gap_end`, `None` at the end of the file.
    pub(crate) async fn witness(
        &mut self,
        from: u64,
        number: u64,
        end: u64,
        gap_end: u64,
        next: Option<GroupHeader>,
    ) -> Option<Witness> {
        let mut nearest = if next.is_some() { gap_end } else { u64::MAX };
        let mut witness = next.map(|header| Witness {
            header,
            end: gap_end.saturating_add(header.group_len),
        });
        // It says all that can be said, or no group was between.
        if next.is_some_and(|next| next.durable_number > number || next.number == number + 1) {
            return witness;
        }
        //= docs/format.md#record
        let mut at = from + BLOCK_BYTES as u64;
        while at < end.min(gap_end) {
            // What lies in the gap was looked at when the next group was sought.
            let _astray = self.group_header(at).await;
            at += BLOCK_BYTES as u64;
        }
        for (at, place, header) in std::mem::take(&mut self.astray) {
            if (from..gap_end).contains(&at) && (end..nearest).contains(&place) {
                nearest = place;
                let end = place + header.group_len;
                witness = Some(Witness { header, end });
            }
        }
        witness
    }

    /// What is read next comes from the disk, and not out of the window.
    pub(crate) fn forget(&mut self) {
        if !bug::is_planted(Bug::MisreadBelieved) {
            self.filled = 0;
        }
    }

    /// A group as it was walked; if it is damaged, as it is found when its bytes are read once more.
    pub(crate) async fn walked_again(&mut self, offset: u64, group: Group) -> Group {
        if group.damage.is_empty() {
            return group;
        }
        self.forget();
        let again = self.walk(offset, group.header).await;
        let is_same = again.records.len() == group.records.len();
        self.has_unreadable_blocks |= !is_same;
        if again.records.len() >= group.records.len() {
            again
        } else {
            group
        }
    }

    /// Walks the records of a group whose header was just read.
    pub(crate) async fn walk(&mut self, offset: u64, header: GroupHeader) -> Group {
        let end = (offset + header.group_len).min(self.len);
        let mut group = Group {
            offset,
            header,
            present_len: end - offset,
            records: Vec::new(),
            damage: Vec::new(),
        };
        let mut at = offset + GROUP_HEADER_BYTES as u64;
        let mut missing = header.record_count;
        while missing > 0 {
            missing -= 1;
            match self.record_header(at, end).await {
                Some(Ok(record)) => {
                    group.records.push((at, record));
                    at = layout::round_to_step(at + record.record_len());
                }
                found => {
                    if bug::is_planted(Bug::StopsAtBadRecord) {
                        break;
                    }
                    let next = self.next_record(at + STEP_BYTES as u64, end).await;
                    // What follows the last record is zero; where several records were lost as one stretch, we
                    // come here once too often.
                    let is_padding =
                        !group.damage.is_empty() && next == end && self.is_zero(at, end).await;
                    if !is_padding {
                        let damage = if found.is_some() {
                            Damage::UnknownRecord
                        } else {
                            Damage::RecordHeader
                        };
                        group.damage.push(Stretch {
                            offset: at,
                            len: next.saturating_sub(at),
                            damage,
                        });
                    }
                    at = next;
                }
            }
            if at >= end && missing > 0 {
                if end < offset + header.group_len {
                    group.damage.push(Stretch {
                        offset: at,
                        len: 0,
                        damage: Damage::RecordHeader,
                    });
                }
                break;
            }
        }
        group
    }

    /// The record header at a step: `None` if there is none, `Err` if it is of an unknown kind or does not fit.
    pub(crate) async fn record_header(
        &mut self,
        offset: u64,
        end: u64,
    ) -> Option<Result<RecordHeader, ()>> {
        let (check, blob, satellite_count) = (self.check, self.blob, self.satellite_count);
        if offset + RECORD_HEADER_BYTES as u64 > end {
            return None;
        }
        let found = RecordHeader::parse(
            self.view(offset, RECORD_HEADER_BYTES).await,
            &check,
            blob,
            offset,
        )?;
        Some(match found {
            Found::Record(record)
                if usize::from(record.satellite_slot) < satellite_count
                    && offset + record.record_len() <= end =>
            {
                Ok(record)
            }
            _ => Err(()),
        })
    }

    /// The next step at or after `from` with a valid record header of any kind, or `end`.
    pub(crate) async fn next_record(&mut self, from: u64, end: u64) -> u64 {
        let mut at = from;
        while at < end {
            let block_end = at + BLOCK_BYTES as u64;
            if at == layout::block_of(at) && self.is_zero(at, block_end.min(end)).await {
                at = block_end;
                continue;
            }
            if self.record_header(at, end).await.is_some() {
                return at;
            }
            at += STEP_BYTES as u64;
        }
        end
    }

    /// Reads a piece record whole and checks its trailer and every share.
    pub(crate) async fn check_body(
        &mut self,
        offset: u64,
        record: &RecordHeader,
    ) -> Result<(), Damage> {
        let mut bad = None;
        let mut note = |share, _: &[u8], is_good: bool| {
            if !is_good {
                bad.get_or_insert(share);
            }
        };
        self.each_share(offset, record, &mut note).await?;
        bad.map_or(Ok(()), |share| Err(Damage::Share(share)))
    }

    /// [`check_body`](Self::check_body), and once more with bytes that are read anew if it failed.
    pub(crate) async fn check_body_twice(
        &mut self,
        offset: u64,
        record: &RecordHeader,
    ) -> Result<(), Damage> {
        if self.check_body(offset, record).await.is_ok() {
            return Ok(());
        }
        self.forget();
        let again = self.check_body(offset, record).await;
        self.has_unreadable_blocks |= again.is_ok();
        again
    }

    /// Reads a piece record whole, gives each share with whether its checksum holds, and then the root in the trailer, if it has one.
    pub(crate) async fn each_share(
        &mut self,
        offset: u64,
        record: &RecordHeader,
        each: &mut dyn FnMut(u32, &[u8], bool),
    ) -> Result<Option<[u8; 32]>, Damage> {
        if record.trailer_len() == 0 {
            return Ok(None);
        }
        let body_len = u64::from(record.body_len);
        let body_at = offset + RECORD_HEADER_BYTES as u64;
        let trailer_len = record.trailer_len() as usize;
        let trailer = self.view(body_at + body_len, trailer_len).await;
        let trailer = Trailer::parse(trailer, body_len, usize::from(record.path_len))
            .ok_or(Damage::Trailer)?;
        let mut rest = body_len;
        for (share, crc) in trailer.crcs.iter().enumerate() {
            let len = rest.min(SHARE_BYTES as u64);
            let bytes = self.view(body_at + body_len - rest, len as usize).await;
            let is_good = bytes.len() as u64 == len && crc32fast::hash(bytes) == *crc;
            each(share as u32, bytes, is_good);
            rest -= len;
        }
        Ok(trailer.root)
    }

    async fn is_zero(&mut self, from: u64, end: u64) -> bool {
        let mut at = from;
        while at < end {
            let len = (end - at).min(BLOCK_BYTES as u64) as usize;
            if self.view(at, len).await.iter().any(|&byte| byte != 0) {
                return false;
            }
            at += len as u64;
        }
        true
    }

    /// From the first block between two places that holds anything but zeros to the end of the last one; empty if there is none.
    ///
    /// Zeros were written ahead, or are what is left of a write that did not happen: nothing is torn in them.
    pub(crate) async fn filled(&mut self, start: u64, end: u64) -> Range<u64> {
        let mut filled = end..end;
        let mut at = start;
        while at < end {
            let next = (layout::block_of(at) + BLOCK_BYTES as u64).min(end);
            if !self.is_zero(at, next).await {
                filled = filled.start.min(at)..next;
            }
            at = next;
        }
        filled
    }

    /// `len` bytes at `offset`; fewer where the file ends.
    async fn view(&mut self, offset: u64, len: usize) -> &[u8] {
        let end = (offset + len as u64).min(self.len);
        if offset >= end {
            return &[];
        }
        if self.window.is_none() || offset < self.start || end > self.start + self.filled as u64 {
            self.load(layout::block_of(offset)).await;
        }
        let from = (offset - self.start) as usize;
        let to = ((end - self.start) as usize).min(self.filled);
        self.window
            .as_ref()
            .and_then(|window| window.get(from..to))
            .unwrap_or_default()
    }

    async fn load(&mut self, start: u64) {
        let window = self
            .window
            .take()
            .unwrap_or_else(|| IoBuffer::zeroed(WINDOW_BYTES));
        let (result, mut window) = self.disk.read(self.file, start, window).await;
        self.start = start;
        self.filled = match result {
            Ok(count) => count.min(window.len()),
            Err(_) => self.load_by_blocks(start, &mut window).await,
        };
        self.window = Some(window);
    }

    /// Finds the blocks that cannot be read, and takes them for zeros.
    async fn load_by_blocks(&mut self, start: u64, window: &mut IoBuffer) -> usize {
        let wanted = (self.len - start).min(window.len() as u64) as usize;
        window.fill(0);
        let mut at = 0;
        while at < wanted {
            let block = IoBuffer::zeroed(BLOCK_BYTES);
            let (result, block) = self.disk.read(self.file, start + at as u64, block).await;
            match result {
                Ok(count) => {
                    let count = count.min(BLOCK_BYTES);
                    window[at..at + count].copy_from_slice(&block[..count]);
                }
                Err(_) => self.has_unreadable_blocks = true,
            }
            at += BLOCK_BYTES;
        }
        wanted
    }
}

/// Reads one block on its own, for a blob header.
pub(crate) async fn read_block<D: Disk>(
    disk: &D,
    file: &D::File,
    offset: u64,
) -> Result<IoBuffer, DiskError> {
    let (result, mut block) = disk.read(file, offset, IoBuffer::zeroed(BLOCK_BYTES)).await;
    let count = result?.min(BLOCK_BYTES);
    block.zero_from(count);
    Ok(block)
}
