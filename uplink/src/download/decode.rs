//! From checked pieces to plaintext: missing data rows are computed, sealed bytes put in order,
//! chunks opened.
//!
//! Works through the stripes in order, [`DECODE_STRIPES`] at a time, so that its own memory is a
//! few megabytes whatever the segment. Columns of the code are independent: consecutive shares of a
//! piece are decoded as one run. Blocking.

use std::collections::BTreeMap;
use std::io::Write;
use std::ops::Range;
use std::sync::mpsc;

use strand_codec::{CHUNK_BYTES, Opener, RowPlan, SEALED_CHUNK_BYTES, Shape};

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

/// The sealed bytes of a segment, as far as rows of it are there or can be computed.
pub(super) struct SealedBytes {
    shape: Shape,
    rows: BTreeMap<u8, Row>,
    /// Needed data rows that have to be computed.
    missing: Vec<u8>,
}

impl SealedBytes {
    /// Rows of at least the columns that will be read: every needed data row itself, or any k rows,
    /// equally long.
    pub(super) fn new(shape: Shape, mut rows: BTreeMap<u8, Row>, needed: &[u8]) -> Self {
        let is_missing = |index: &u8| !rows.contains_key(index);
        let missing: Vec<u8> = needed.iter().copied().filter(is_missing).collect();
        // Data rows that are not needed still are equations; the first k of what is there will do,
        // data first. Low recovery rows also make the decoder's work space smaller.
        while !missing.is_empty() && rows.len() > usize::from(shape.required()) {
            rows.pop_last();
        }
        Self {
            shape,
            rows,
            missing,
        }
    }

    /// The columns of these stripes, as far as the rows reach.
    fn columns(&self, stripes: &Range<u32>) -> Range<u64> {
        let last = stripes.end - 1;
        let start = self.shape.share_offset(stripes.start);
        let end = self.shape.share_offset(last) + self.shape.share_len(last) as u64;
        let mut held = start..end;
        for row in self.rows.values() {
            held.start = held.start.max(row.start);
            held.end = held.end.min(row.start + row.bytes.len() as u64);
        }
        held
    }
}

/// Puts sealed bytes in order, some stripes at a time, and computes the rows that are missing.
struct Restorer<'a> {
    source: &'a SealedBytes,
    plan: Option<RowPlan>,
    /// The missing rows, for the columns at hand.
    computed: Vec<(u8, Vec<u8>)>,
    computed_start: u64,
}

impl<'a> Restorer<'a> {
    fn new(source: &'a SealedBytes) -> Result<Self, DecodeError> {
        let shape = &source.shape;
        let plan = if source.missing.is_empty() {
            None
        } else {
            let present: Vec<u8> = source.rows.keys().copied().collect();
            let plan = RowPlan::new(shape.required(), shape.total(), &present, &source.missing);
            Some(plan.map_err(|error| DecodeError::Content(error.to_string()))?)
        };
        let computed = source
            .missing
            .iter()
            .map(|index| (*index, Vec::new()))
            .collect();
        Ok(Self {
            source,
            plan,
            computed,
            computed_start: 0,
        })
    }

    /// Appends the sealed bytes `wanted` that lie in these stripes.
    fn restore(
        &mut self,
        stripes: Range<u32>,
        wanted: &Range<u64>,
        target: &mut Vec<u8>,
    ) -> Result<(), DecodeError> {
        self.compute(self.source.columns(&stripes))?;
        let shape = &self.source.shape;
        for stripe in stripes {
            for index in 0..shape.required() {
                let held = shape.sealed_range(stripe, index);
                let (start, end) = (held.start.max(wanted.start), held.end.min(wanted.end));
                if start >= end {
                    continue;
                }
                let column = shape.share_offset(stripe) + (start - held.start);
                let len = (end - start) as usize;
                let (row_start, bytes) = match self.source.rows.get(&index) {
                    Some(row) => (row.start, &row.bytes[..]),
                    None => {
                        let computed = self
                            .computed
                            .iter()
                            .find(|(computed, _)| *computed == index);
                        // The source was told that this row is needed: it is there or computed.
                        let Some((_, bytes)) = computed else { continue };
                        (self.computed_start, &bytes[..])
                    }
                };
                let at = (column - row_start) as usize;
                target.extend_from_slice(&bytes[at..at + len]);
            }
        }
        Ok(())
    }

    fn compute(&mut self, columns: Range<u64>) -> Result<(), DecodeError> {
        let Some(plan) = &mut self.plan else {
            return Ok(());
        };
        let len = (columns.end - columns.start) as usize;
        let rows = self.source.rows.values();
        let present: Vec<&[u8]> = rows
            .map(|row| {
                let start = (columns.start - row.start) as usize;
                &row.bytes[start..start + len]
            })
            .collect();
        self.computed_start = columns.start;
        let mut wanted: Vec<&mut [u8]> = Vec::with_capacity(self.computed.len());
        for (_, bytes) in &mut self.computed {
            bytes.resize(len, 0);
            wanted.push(bytes);
        }
        plan.apply(&present, &mut wanted)
            .map_err(|error| DecodeError::Content(error.to_string()))
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
///
/// Missing rows are computed on several threads, as many as the machine runs at once: a thread makes
/// one to three gigabytes a second, a slow processor a tenth of that. Opening and writing is in order.
pub(super) fn write_plain(
    source: &SealedBytes,
    opener: &Opener,
    extent: &Extent,
    target: &mut dyn Write,
    mut written: impl FnMut(u64),
) -> Result<u64, DecodeError> {
    let mut chunks = Chunks::new(extent, source.shape.sealed_len());
    let stripes = extent.stripes(&source.shape);
    let batch_count = (stripes.end - stripes.start).div_ceil(DECODE_STRIPES);
    let batch = |number: u32| {
        let start = stripes.start + number * DECODE_STRIPES;
        start..(start + DECODE_STRIPES).min(stripes.end)
    };
    let thread_count = thread_count(source, batch_count);
    if thread_count == 1 {
        let mut restorer = Restorer::new(source)?;
        for number in 0..batch_count {
            restorer.restore(batch(number), &extent.sealed, &mut chunks.sealed)?;
            written(chunks.open(opener, target)?);
        }
        return chunks.finish();
    }
    std::thread::scope(|scope| {
        // Batch b comes from thread b modulo their number, which keeps one ready at most.
        let mut restored = Vec::new();
        for first in 0..thread_count {
            let (sender, receiver) = mpsc::sync_channel::<Result<Vec<u8>, DecodeError>>(1);
            restored.push(receiver);
            let batch = &batch;
            scope.spawn(move || {
                let mut restorer = Restorer::new(source);
                for number in (first..batch_count).step_by(thread_count as usize) {
                    let bytes = match &mut restorer {
                        Ok(restorer) => {
                            let mut bytes = Vec::new();
                            let done = restorer.restore(batch(number), &extent.sealed, &mut bytes);
                            done.map(|()| bytes)
                        }
                        Err(error) => Err(DecodeError::Content(error.to_string())),
                    };
                    // The receiver is gone when another batch failed.
                    if sender.send(bytes).is_err() {
                        break;
                    }
                }
            });
        }
        for number in 0..batch_count {
            let bytes = restored[(number % thread_count) as usize].recv();
            let stopped = |_| DecodeError::Content("a decoding thread stopped".to_owned());
            chunks.sealed.extend_from_slice(&bytes.map_err(stopped)??);
            written(chunks.open(opener, target)?);
        }
        // Threads of a failed batch end when their receivers are dropped, before the scope waits.
        drop(restored);
        chunks.finish()
    })
}

/// Threads worth starting: one where nothing is computed, for then it is only copying.
fn thread_count(source: &SealedBytes, batch_count: u32) -> u32 {
    if source.missing.is_empty() {
        return 1;
    }
    let available = std::thread::available_parallelism().map_or(1, usize::from);
    batch_count
        .min(u32::try_from(available).unwrap_or(1))
        .clamp(1, DECODE_THREADS_MAX)
}

/// Opens the chunks of a segment that is stored inline.
pub(super) fn write_inline(
    sealed: &[u8],
    opener: &Opener,
    extent: &Extent,
    target: &mut dyn Write,
) -> Result<u64, DecodeError> {
    let mut chunks = Chunks::new(extent, sealed.len() as u64);
    chunks
        .sealed
        .extend_from_slice(&sealed[extent.sealed.start as usize..extent.sealed.end as usize]);
    chunks.open(opener, target)?;
    chunks.finish()
}

/// Sealed bytes in order, waiting until their chunk is whole.
struct Chunks<'a> {
    extent: &'a Extent,
    chunk_count: u64,
    next_chunk: u64,
    sealed_len: u64,
    sealed: Vec<u8>,
    written: u64,
}

impl<'a> Chunks<'a> {
    fn new(extent: &'a Extent, sealed_len: u64) -> Self {
        Self {
            extent,
            chunk_count: sealed_len.div_ceil(SEALED_CHUNK_BYTES as u64),
            next_chunk: extent.chunks.start,
            sealed_len,
            sealed: Vec::new(),
            written: 0,
        }
    }

    /// Opens what is whole, in place, moves the plaintext together and writes it in one go.
    fn open(&mut self, opener: &Opener, target: &mut dyn Write) -> Result<u64, DecodeError> {
        let (mut read, mut plain_end) = (0, 0);
        let first_plain = self.next_chunk * CHUNK_BYTES as u64;
        while self.next_chunk < self.extent.chunks.end {
            let is_last = self.next_chunk + 1 == self.chunk_count;
            let len = if is_last {
                (self.sealed_len - self.next_chunk * SEALED_CHUNK_BYTES as u64) as usize
            } else {
                SEALED_CHUNK_BYTES
            };
            if self.sealed.len() - read < len {
                break;
            }
            let plain = opener
                .open_chunk(self.next_chunk, is_last, &mut self.sealed[read..read + len])
                .map_err(|error| DecodeError::Content(error.to_string()))?;
            let plain_len = plain.len();
            self.sealed.copy_within(read..read + plain_len, plain_end);
            plain_end += plain_len;
            read += len;
            self.next_chunk += 1;
        }
        // Only the first and the last chunk can hold bytes that were not asked for.
        let wanted = &self.extent.plain;
        let start = wanted
            .start
            .saturating_sub(first_plain)
            .min(plain_end as u64) as usize;
        let end = wanted.end.saturating_sub(first_plain).min(plain_end as u64) as usize;
        let count = end.saturating_sub(start);
        if count > 0 {
            target.write_all(&self.sealed[start..end])?;
        }
        self.sealed.drain(..read);
        self.written += count as u64;
        Ok(count as u64)
    }

    fn finish(self) -> Result<u64, DecodeError> {
        let wanted = self.extent.plain.end - self.extent.plain.start;
        if self.next_chunk != self.extent.chunks.end || self.written != wanted {
            let reason = format!("{} of {wanted} bytes came out", self.written);
            return Err(DecodeError::Content(reason));
        }
        Ok(self.written)
    }
}
