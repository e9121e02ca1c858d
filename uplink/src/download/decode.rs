//! From checked pieces to plaintext: missing data rows are computed, sealed bytes put in order, chunks opened.
//!
//! Works through the stripes in order, [`DECODE_STRIPES`] at a time, so that its own memory is a few megabytes whatever the segment.
//! Columns of the code are independent: consecutive shares of a piece are decoded as one run. Blocking.

use std::collections::BTreeMap;
use std::io::Write;
use std::ops::Range;

use strand_codec::{CHUNK_BYTES, Opener, RowPlan, SEALED_CHUNK_BYTES, Shape};

use super::fetch::Row;
use crate::limits::DECODE_STRIPES;

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

/// The sealed bytes of a segment, as far as rows of it are there.
pub(super) struct SealedBytes {
    shape: Shape,
    rows: BTreeMap<u8, Row>,
    /// Computes the data rows that are not there; their bytes for the current columns.
    plan: Option<RowPlan>,
    computed: Vec<(u8, Vec<u8>)>,
    computed_start: u64,
}

impl SealedBytes {
    /// Rows of at least the columns that will be read: every needed data row itself, or any k rows, equally long.
    pub(super) fn new(
        shape: Shape,
        mut rows: BTreeMap<u8, Row>,
        needed: &[u8],
    ) -> Result<Self, DecodeError> {
        let missing: Vec<u8> = needed
            .iter()
            .copied()
            .filter(|index| !rows.contains_key(index))
            .collect();
        let plan = if missing.is_empty() {
            None
        } else {
            // Data rows that are not needed still are equations; the first k of what is there, data first, will do.
            while rows.len() > usize::from(shape.required()) {
                rows.pop_last();
            }
            let present: Vec<u8> = rows.keys().copied().collect();
            let plan = RowPlan::new(shape.required(), shape.total(), &present, &missing);
            Some(plan.map_err(|error| DecodeError::Content(error.to_string()))?)
        };
        let computed = missing
            .into_iter()
            .map(|index| (index, Vec::new()))
            .collect();
        Ok(Self {
            shape,
            rows,
            plan,
            computed,
            computed_start: 0,
        })
    }

    /// Computes the missing rows for these columns.
    fn compute(&mut self, columns: Range<u64>) -> Result<(), DecodeError> {
        let Some(plan) = &mut self.plan else {
            return Ok(());
        };
        let len = (columns.end - columns.start) as usize;
        let present: Vec<&[u8]> = self
            .rows
            .values()
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

    /// Appends the sealed bytes `wanted` that lie in these stripes.
    fn append(&self, stripes: Range<u32>, wanted: &Range<u64>, target: &mut Vec<u8>) {
        for stripe in stripes {
            for index in 0..self.shape.required() {
                let held = self.shape.sealed_range(stripe, index);
                let (start, end) = (held.start.max(wanted.start), held.end.min(wanted.end));
                if start >= end {
                    continue;
                }
                let column = self.shape.share_offset(stripe) + (start - held.start);
                let len = (end - start) as usize;
                let (row_start, bytes) = match self.rows.get(&index) {
                    Some(row) => (row.start, &row.bytes[..]),
                    None => {
                        let computed = self
                            .computed
                            .iter()
                            .find(|(computed, _)| *computed == index);
                        // `new` was told that this row is needed, and it is there or computed.
                        let Some((_, bytes)) = computed else { continue };
                        (self.computed_start, &bytes[..])
                    }
                };
                let at = (column - row_start) as usize;
                target.extend_from_slice(&bytes[at..at + len]);
            }
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
        // A whole segment includes its last chunk even where that is empty: its tag says that nothing was cut off.
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
    sealed: &mut SealedBytes,
    opener: &Opener,
    extent: &Extent,
    target: &mut dyn Write,
    mut written: impl FnMut(u64),
) -> Result<u64, DecodeError> {
    let mut chunks = Chunks::new(extent, sealed.shape.sealed_len());
    let stripes = extent.stripes(&sealed.shape);
    let mut stripe = stripes.start;
    while stripe < stripes.end {
        let batch = stripe..(stripe + DECODE_STRIPES).min(stripes.end);
        let columns = sealed.columns(&batch);
        sealed.compute(columns)?;
        sealed.append(batch.clone(), &extent.sealed, &mut chunks.sealed);
        written(chunks.open(opener, target)?);
        stripe = batch.end;
    }
    chunks.finish()
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
