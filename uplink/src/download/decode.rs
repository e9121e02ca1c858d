//! From checked pieces to plaintext: data rows are put in order, missing ones computed at their
//! places, chunks opened.
//!
//! These are the halves of the codec's `SegmentRestorer`. Shares are checked as they arrive, long
//! before this, because a node that lies has to be replaced; and of a range rows hold only some
//! columns. Works through the stripes in order, [`DECODE_STRIPES`] at a time, so that its own memory
//! is a few megabytes whatever the segment. Blocking.

use std::collections::BTreeMap;
use std::io::Write;
use std::ops::Range;
use std::sync::mpsc;

use strand_codec::{
    CHUNK_BYTES, ChunkOpener, CodeError, Opener, PlanCache, SEALED_CHUNK_BYTES, Shape, StripeFiller,
};

use super::fetch::Row;
use crate::limits::{DECODE_STRIPES, DECODE_THREADS_MAX};

/// Why a segment could not be turned into plaintext.
#[derive(Debug, thiserror::Error)]
pub(super) enum DecodeError {
    /// The pieces are those that were uploaded, and make no sense.
    #[error("{0}")]
    Content(String),
    /// The target.
    #[error(transparent)]
    Output(#[from] std::io::Error),
}

/// The rows of a segment, and what computes those that are missing.
pub(super) struct SealedBytes {
    shape: Shape,
    rows: BTreeMap<u8, Row>,
    /// `None` if every row that is needed is there.
    filler: Option<StripeFiller>,
}

impl SealedBytes {
    /// Rows of at least the columns that will be read: every needed data row itself, or any k rows,
    /// equally long.
    pub(super) fn new(
        shape: Shape,
        mut rows: BTreeMap<u8, Row>,
        needed: &[u8],
        plans: &mut PlanCache,
    ) -> Result<Self, CodeError> {
        let is_missing = |index: &u8| !rows.contains_key(index);
        let missing: Vec<u8> = needed.iter().copied().filter(is_missing).collect();
        if missing.is_empty() {
            return Ok(Self {
                shape,
                rows,
                filler: None,
            });
        }
        // Data rows that are not needed still are equations; the first k of what is there will do.
        while rows.len() > usize::from(shape.required()) {
            rows.pop_last();
        }
        let present: Vec<u8> = rows.keys().copied().collect();
        let plan = plans.plan(shape.required(), shape.total(), &present, &missing)?;
        Ok(Self {
            shape,
            rows,
            filler: Some(StripeFiller::new(&shape, plan)?),
        })
    }

    /// Where the data shares of a stripe lie among all data shares.
    fn stripe_start(&self, stripe: u32) -> u64 {
        self.shape.share_offset(stripe) * u64::from(self.shape.required())
    }

    /// Puts the data shares of these stripes back to back, all that the rows have of them and what can be computed.
    fn restore(&self, stripes: Range<u32>, data: &mut Vec<u8>) -> Result<(), DecodeError> {
        let (required, last) = (usize::from(self.shape.required()), stripes.end - 1);
        let stripe_bytes = |stripe| required * self.shape.share_len(stripe);
        // Where nothing is put lies what was there before: no chunk is opened of it.
        data.resize(
            (stripes.len() - 1) * stripe_bytes(stripes.start) + stripe_bytes(last),
            0,
        );
        let mut data = &mut data[..];
        for stripe in stripes {
            let (of_stripe, rest) = data.split_at_mut(stripe_bytes(stripe));
            data = rest;
            self.restore_stripe(stripe, of_stripe)
                .map_err(|error| DecodeError::Content(error.to_string()))?;
        }
        Ok(())
    }

    fn restore_stripe(&self, stripe: u32, data: &mut [u8]) -> Result<(), CodeError> {
        let (start, share_len) = (
            self.shape.share_offset(stripe),
            self.shape.share_len(stripe),
        );
        // Columns of the stripe that every row has.
        let mut common = 0..share_len;
        for row in self.rows.values() {
            let held = row.held(start, share_len);
            let common_start = common.start.max(held.start);
            common = common_start..common.end.min(held.end).max(common_start);
        }
        let mut recovery = Vec::new();
        for (&index, row) in &self.rows {
            match data.chunks_exact_mut(share_len).nth(usize::from(index)) {
                Some(share) => {
                    let held = row.held(start, share_len);
                    share[held.clone()].copy_from_slice(row.columns(start, held));
                }
                None => recovery.push(row.columns(start, common.clone())),
            }
        }
        match &self.filler {
            Some(filler) => filler.fill(stripe, common, data, &recovery),
            None => Ok(()),
        }
    }
}

impl Row {
    /// Which columns of the share that begins at `start` of the piece are there.
    fn held(&self, start: u64, share_len: usize) -> Range<usize> {
        let end = self.start + self.bytes.len() as u64;
        let within = |at: u64| at.saturating_sub(start).min(share_len as u64) as usize;
        within(self.start)..within(end)
    }

    /// These columns of that share.
    fn columns(&self, start: u64, columns: Range<usize>) -> &[u8] {
        if columns.is_empty() {
            return &[];
        }
        let at = (start + columns.start as u64 - self.start) as usize;
        &self.bytes[at..at + columns.len()]
    }
}

/// Which of a segment's bytes are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    /// Plaintext bytes.
    pub(super) plain: Range<u64>,
    /// The chunks they lie in.
    pub(super) chunks: Range<u64>,
    /// The sealed bytes of these chunks.
    pub(super) sealed: Range<u64>,
}

impl Extent {
    /// The extent of these plaintext bytes of a segment; not empty, but for an empty segment.
    pub(super) fn new(plain: Range<u64>, sealed_len: u64) -> Self {
        let chunk = CHUNK_BYTES as u64;
        let sealed_chunk = SEALED_CHUNK_BYTES as u64;
        let chunk_count = sealed_len.div_ceil(sealed_chunk);
        // A whole segment includes its last chunk even where that is empty: its tag says that
        // nothing was cut off.
        let is_to_end = strand_codec::plain_len(sealed_len).is_ok_and(|len| plain.end == len);
        let last = if is_to_end {
            chunk_count
        } else {
            plain.end.div_ceil(chunk)
        };
        let chunks = plain.start / chunk..last;
        let sealed = chunks.start * sealed_chunk..(chunks.end * sealed_chunk).min(sealed_len);
        Self {
            plain,
            chunks,
            sealed,
        }
    }

    /// Stripes that hold sealed bytes of it.
    pub(super) fn stripes(&self, shape: &Shape) -> Range<u32> {
        let stripe_bytes = u64::from(shape.required()) * strand_codec::SHARE_BYTES as u64;
        let first = self.sealed.start / stripe_bytes;
        let end = self.sealed.end.div_ceil(stripe_bytes);
        first as u32..end as u32
    }

    /// For each data index that holds bytes of it: which bytes of the piece.
    pub(super) fn columns(&self, shape: &Shape) -> BTreeMap<u8, Range<u64>> {
        let mut columns: BTreeMap<u8, Range<u64>> = BTreeMap::new();
        for stripe in self.stripes(shape) {
            for index in 0..shape.required() {
                let held = shape.sealed_range(stripe, index);
                let (start, end) = (
                    held.start.max(self.sealed.start),
                    held.end.min(self.sealed.end),
                );
                if start >= end {
                    continue;
                }
                let offset = shape.share_offset(stripe);
                let (start, end) = (offset + (start - held.start), offset + (end - held.start));
                columns
                    .entry(index)
                    .and_modify(|range| range.end = end)
                    .or_insert(start..end);
            }
        }
        columns
    }
}

/// Opens the chunks of an extent and writes its plaintext. Returns how many bytes that were.
pub(super) fn write_plain(
    source: &SealedBytes,
    opener: Opener,
    extent: &Extent,
    target: &mut dyn Write,
    mut written: impl FnMut(u64),
) -> Result<u64, DecodeError> {
    let mut chunks = Chunks::new(opener, extent, source.shape.sealed_len());
    restore_in_order(source, extent.stripes(&source.shape), |start, data| {
        written(chunks.open(within(&extent.sealed, start, data), target)?);
        Ok(())
    })?;
    chunks.finish()
}

/// Restores the data shares of all these stripes and gives them to `take` in order, with the place of their first byte among all data shares.
///
/// Missing rows are computed on several threads, as many as the machine runs at once: a thread makes
/// one to three gigabytes a second, a slow processor a tenth of that.
fn restore_in_order(
    source: &SealedBytes,
    stripes: Range<u32>,
    mut take: impl FnMut(u64, &[u8]) -> Result<(), DecodeError>,
) -> Result<(), DecodeError> {
    let batch_count = (stripes.end - stripes.start).div_ceil(DECODE_STRIPES);
    let batch = |number: u32| {
        let start = stripes.start + number * DECODE_STRIPES;
        start..(start + DECODE_STRIPES).min(stripes.end)
    };
    let start_of = |number| source.stripe_start(batch(number).start);
    let thread_count = thread_count(source, batch_count);
    if thread_count == 1 {
        let mut data = Vec::new();
        for number in 0..batch_count {
            source.restore(batch(number), &mut data)?;
            take(start_of(number), &data)?;
        }
        return Ok(());
    }
    std::thread::scope(|scope| {
        // Batch b comes from thread b modulo their number, which keeps one ready at most, and gets its buffer back.
        let mut workers = Vec::new();
        for first in 0..thread_count {
            let (sender, restored) = mpsc::sync_channel::<Result<Vec<u8>, DecodeError>>(1);
            let (give_back, returned) = mpsc::channel::<Vec<u8>>();
            workers.push((restored, give_back));
            let batch = &batch;
            scope.spawn(move || {
                for number in (first..batch_count).step_by(thread_count as usize) {
                    let mut data = returned.try_recv().unwrap_or_default();
                    let done = source.restore(batch(number), &mut data).map(|()| data);
                    // The receiver is gone when another batch failed.
                    if sender.send(done).is_err() {
                        break;
                    }
                }
            });
        }
        // If a batch fails the receivers are dropped, and so end their threads, before the scope waits for these.
        let workers = workers;
        for number in 0..batch_count {
            let (restored, give_back) = &workers[(number % thread_count) as usize];
            let stopped = |_| DecodeError::Content("a decoding thread stopped".to_owned());
            let data = restored.recv().map_err(stopped)??;
            take(start_of(number), &data)?;
            // Its thread is gone after its last batch.
            let _ = give_back.send(data);
        }
        Ok(())
    })
}

/// Threads worth starting: one where nothing is computed, for then it is only copying.
fn thread_count(source: &SealedBytes, batch_count: u32) -> u32 {
    if source.filler.is_none() {
        return 1;
    }
    let available = std::thread::available_parallelism().map_or(1, usize::from);
    batch_count
        .min(u32::try_from(available).unwrap_or(1))
        .clamp(1, DECODE_THREADS_MAX)
}

/// The bytes in `range` of those that begin at `start`.
fn within<'a>(range: &Range<u64>, start: u64, bytes: &'a [u8]) -> &'a [u8] {
    let at = |end: u64| end.saturating_sub(start).min(bytes.len() as u64) as usize;
    &bytes[at(range.start)..at(range.end)]
}

/// Opens the chunks of a segment that is stored inline.
pub(super) fn write_inline(
    sealed: &[u8],
    opener: Opener,
    extent: &Extent,
    target: &mut dyn Write,
) -> Result<u64, DecodeError> {
    let mut chunks = Chunks::new(opener, extent, sealed.len() as u64);
    chunks.open(within(&extent.sealed, 0, sealed), target)?;
    chunks.finish()
}

/// Writes the plaintext of an extent as its chunks become whole.
struct Chunks<'a> {
    extent: &'a Extent,
    opener: ChunkOpener,
    plain: Vec<u8>,
    written: u64,
}

impl<'a> Chunks<'a> {
    fn new(opener: Opener, extent: &'a Extent, sealed_len: u64) -> Self {
        Self {
            extent,
            opener: ChunkOpener::new(opener, sealed_len, extent.chunks.clone()),
            plain: Vec::new(),
            written: 0,
        }
    }

    /// Opens what is whole with the next sealed bytes and writes it in one go.
    fn open(&mut self, sealed: &[u8], target: &mut dyn Write) -> Result<u64, DecodeError> {
        let plain_start = self.opener.chunks().start * CHUNK_BYTES as u64;
        self.plain.resize(self.opener.plain_count(sealed.len()), 0);
        self.opener
            .open(sealed, &mut self.plain)
            .map_err(|error| DecodeError::Content(error.to_string()))?;
        // Only the first and the last chunk can hold bytes that were not asked for.
        let wanted = within(&self.extent.plain, plain_start, &self.plain);
        if !wanted.is_empty() {
            target.write_all(wanted)?;
        }
        self.written += wanted.len() as u64;
        Ok(wanted.len() as u64)
    }

    fn finish(self) -> Result<u64, DecodeError> {
        let wanted = self.extent.plain.end - self.extent.plain.start;
        if !self.opener.chunks().is_empty() || self.written != wanted {
            let reason = format!("{} of {wanted} bytes came out", self.written);
            return Err(DecodeError::Content(reason));
        }
        Ok(self.written)
    }
}

#[cfg(test)]
mod tests;
