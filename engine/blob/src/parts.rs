//! The parts of a checkpoint file: items written and read through one buffer, each part with a check of its own.
//!
//! A part says its place and its checkpoint's number, so that neither a stale nor a misplaced one passes. What the items mean is
//! `checkpoint`'s business. Frozen by docs/format.md section 6.

use std::ops::Range;

use crate::buffer::IoBuffer;
use crate::bug::{self, Bug};
use crate::bytes_at::{put, u16_at, u32_at, u64_at};
use crate::disk::{Disk, DiskError};
use crate::layout::{self, BLOCK_BYTES};

/// Longest part, its header included: what writing or reading a checkpoint takes of memory.
pub(crate) const PART_BYTES_MAX: usize = 1 << 20;

const MAGIC: &[u8; 4] = b"SCKP";
const VERSION: u16 = 1;
const HEADER_BYTES: usize = 64;
const HASH_AT: usize = 32;
const CHECK_CONTEXT: &str = "strand v1 checkpoint";

/// What a part's items are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PartKind {
    Head = 1,
    Index = 2,
    Dead = 3,
    Trash = 4,
    Blobs = 5,
    Rotten = 6,
    End = 7,
    Removed = 8,
}

/// Writes parts one after another.
pub(crate) struct PartWriter<'a, D: Disk> {
    disk: &'a D,
    file: &'a D::File,
    number: u64,
    /// Where the part in the buffer goes.
    offset: u64,
    kind: PartKind,
    used: usize,
    buffer: Option<IoBuffer>,
}

impl<'a, D: Disk> PartWriter<'a, D> {
    /// Begins at `offset` of a checkpoint's file.
    pub(crate) fn new(disk: &'a D, file: &'a D::File, number: u64, offset: u64) -> Self {
        Self {
            disk,
            file,
            number,
            offset,
            kind: PartKind::Head,
            used: HEADER_BYTES,
            buffer: None,
        }
    }

    /// Adds an item, or several of one length.
    pub(crate) async fn items(
        &mut self,
        kind: PartKind,
        item_len: usize,
        items: &[u8],
    ) -> Result<(), DiskError> {
        let mut rest = items;
        while !rest.is_empty() {
            let fitting = (PART_BYTES_MAX - self.used) / item_len * item_len;
            if fitting == 0 || kind != self.kind {
                self.flush().await?;
                self.kind = kind;
                continue;
            }
            let (now, later) = rest.split_at(fitting.min(rest.len()));
            let buffer = self
                .buffer
                .get_or_insert_with(|| IoBuffer::for_overwriting(PART_BYTES_MAX));
            put(buffer, self.used, now);
            self.used += now.len();
            rest = later;
        }
        Ok(())
    }

    /// Writes what is buffered. Returns where the next part goes.
    pub(crate) async fn flush(&mut self) -> Result<u64, DiskError> {
        let Some(mut buffer) = self.buffer.take().filter(|_| self.used > HEADER_BYTES) else {
            return Ok(self.offset);
        };
        let len = layout::round_to_block(self.used as u64) as usize;
        buffer[self.used..len].fill(0);
        buffer[..HEADER_BYTES].fill(0);
        put(&mut buffer, 0, MAGIC);
        put(&mut buffer, 4, &VERSION.to_le_bytes());
        put(&mut buffer, 6, &(self.kind as u16).to_le_bytes());
        put(&mut buffer, 8, &self.number.to_le_bytes());
        put(&mut buffer, 16, &self.offset.to_le_bytes());
        let content_len = (self.used - HEADER_BYTES) as u32;
        put(&mut buffer, 24, &content_len.to_le_bytes());
        let hash = hash_of(&buffer[..self.used]);
        put(&mut buffer, HASH_AT, &hash);
        let (result, buffer) = self.disk.write(self.file, self.offset, buffer, len).await;
        result?;
        self.buffer = Some(buffer);
        self.offset += len as u64;
        self.used = HEADER_BYTES;
        Ok(self.offset)
    }
}

/// Reads parts one after another.
pub(crate) struct PartReader<'a, D: Disk> {
    disk: &'a D,
    file: &'a D::File,
    number: u64,
    /// Where the next part begins.
    next: u64,
    kind: Option<PartKind>,
    /// What of the present part has not been taken, as a range of the window.
    content: Range<usize>,
    window: Option<IoBuffer>,
    start: u64,
    filled: usize,
}

impl<'a, D: Disk> PartReader<'a, D> {
    pub(crate) fn new(disk: &'a D, file: &'a D::File, number: u64) -> Self {
        Self {
            disk,
            file,
            number,
            next: 0,
            kind: None,
            content: 0..0,
            window: None,
            start: 0,
            filled: 0,
        }
    }

    /// Where the next part begins.
    pub(crate) fn offset(&self) -> u64 {
        self.next
    }

    /// The next item.
    pub(crate) async fn item(&mut self, kind: PartKind, len: usize) -> Option<&[u8]> {
        self.items(kind, len, 1).await
    }

    /// The next items, at least one and at most `count_max`; `None` if what comes is something else, or damaged.
    pub(crate) async fn items(
        &mut self,
        kind: PartKind,
        item_len: usize,
        count_max: usize,
    ) -> Option<&[u8]> {
        if self.content.is_empty() {
            self.advance().await?;
        }
        let count = (self.content.len() / item_len).min(count_max);
        if self.kind != Some(kind) || count == 0 {
            return None;
        }
        let start = self.content.start;
        self.content.start += count * item_len;
        self.window.as_ref()?.get(start..self.content.start)
    }

    /// Goes to the next part, if it is whole.
    async fn advance(&mut self) -> Option<()> {
        if !self.has(HEADER_BYTES) {
            self.load().await?;
        }
        let (kind, used) = parse(self.bytes(HEADER_BYTES)?, self.number, self.next)?;
        if !self.has(used) {
            self.load().await?;
        }
        let bytes = self.bytes(used)?;
        let is_whole = bytes[HASH_AT..HEADER_BYTES] == hash_of(bytes);
        if !is_whole && !bug::is_planted(Bug::CheckpointUnchecked) {
            return None;
        }
        let at = (self.next - self.start) as usize;
        self.kind = Some(kind);
        self.content = at + HEADER_BYTES..at + used;
        self.next += layout::round_to_block(used as u64);
        Some(())
    }

    fn has(&self, len: usize) -> bool {
        self.next >= self.start && self.next + len as u64 <= self.start + self.filled as u64
    }

    fn bytes(&self, len: usize) -> Option<&[u8]> {
        let at = (self.next - self.start) as usize;
        self.has(len)
            .then(|| self.window.as_ref()?.get(at..at + len))
            .flatten()
    }

    async fn load(&mut self) -> Option<()> {
        let window = self
            .window
            .take()
            .unwrap_or_else(|| IoBuffer::for_overwriting(PART_BYTES_MAX));
        let (result, window) = self.disk.read(self.file, self.next, window).await;
        self.start = self.next;
        self.filled = result.ok()?.min(window.len());
        self.window = Some(window);
        Some(())
    }
}

/// Kind and length of a part, from its header.
fn parse(header: &[u8], number: u64, offset: u64) -> Option<(PartKind, usize)> {
    let is_ours = &header[..4] == MAGIC
        && u16_at(header, 4) == VERSION
        && u64_at(header, 8) == number
        && u64_at(header, 16) == offset;
    let used = HEADER_BYTES + u32_at(header, 24) as usize;
    let kind = match u16_at(header, 6) {
        1 => PartKind::Head,
        2 => PartKind::Index,
        3 => PartKind::Dead,
        4 => PartKind::Trash,
        5 => PartKind::Blobs,
        6 => PartKind::Rotten,
        7 => PartKind::End,
        8 => PartKind::Removed,
        _ => return None,
    };
    (is_ours && used <= PART_BYTES_MAX).then_some((kind, used))
}

/// The hash of a part: of its header up to the hash, and of its content.
fn hash_of(part: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key(CHECK_CONTEXT);
    hasher.update(&part[..HASH_AT]);
    hasher.update(&part[HEADER_BYTES..]);
    hasher.finalize().into()
}

/// Makes the hash of each part right, as far as parts follow each other.
#[cfg(any(test, feature = "testing"))]
pub(crate) fn make_right(file: &mut [u8]) {
    let mut at = 0;
    while let Some(header) = file.get(at..at + HEADER_BYTES) {
        let used = HEADER_BYTES + u32_at(header, 24) as usize;
        let Some(part) = file.get_mut(at..at + used) else {
            break;
        };
        let hash = hash_of(part);
        put(part, HASH_AT, &hash);
        at += layout::round_to_block(used as u64) as usize;
    }
}

const _: () = assert!(PART_BYTES_MAX.is_multiple_of(BLOCK_BYTES));
