//! The object header `SOH1`: everything a client must know to open an object, sealed under the
//! object's path key and bound to its location (docs/format.md, section 5).
//!
//! Copy, move and key rotation open a header and seal it again elsewhere; no piece is touched. The
//! satellite stores the sealed bytes and can neither open them nor give them out under another
//! name.

use std::fmt;

use zeroize::{Zeroize, Zeroizing};

use crate::cipher::{siv_open, siv_seal};
use crate::id::{ObjectId, ProjectId};
use crate::limits::{
    METADATA_BYTES_MAX, OBJECT_HEADER_BYTES_MAX, PART_ENTRY_BYTES, PART_NUMBER_MAX,
    SEALED_HEADER_BYTES_MAX, SEGMENT_BYTES_MAX,
};
use crate::path::PathKey;
use crate::tlv::{Field, OPTIONAL, Reader, TlvError, Writer, push_bytes16, push_bytes32};

const MAGIC: &[u8; 4] = b"SOH1";

const OBJECT_ID: u16 = 1;
const CONTENT_KEY: u16 = 2;
const OBJECT_ROOT: u16 = 3;
const PART_TABLE: u16 = 4;
const SEGMENT_BYTES: u16 = 5;
const METADATA: u16 = OPTIONAL | 6;
const MODIFIED: u16 = OPTIONAL | 7;

/// One part of an object; a single-part object has part 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartEntry {
    /// From 1; rising, with gaps allowed.
    pub number: u32,
    /// Plaintext bytes.
    pub plain_len: u64,
    /// Segments: `max(1, ceil(plain_len / segment_bytes))`, checked.
    pub segment_count: u32,
}

/// What the sealed header holds. The content key is zeroed when this is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct ObjectHeader {
    /// Names the content wherever it is copied to.
    pub object_id: ObjectId,
    /// Seals every segment.
    pub content_key: [u8; 32],
    /// Over the commitments of all segments of all parts.
    pub object_root: [u8; 32],
    /// At least one, numbers ascending.
    pub parts: Vec<PartEntry>,
    /// Plaintext bytes of every segment of a part but its last.
    pub segment_bytes: u64,
    /// User metadata, keys ascending, at most 2 KiB as encoded.
    pub metadata: Vec<(String, Vec<u8>)>,
    /// Milliseconds since 1970 by the client's clock.
    pub modified_ms: Option<u64>,
}

/// Where an object lives: what its header is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Location<'a> {
    /// Project.
    pub project: ProjectId,
    /// Bucket name.
    pub bucket: &'a str,
    /// Encrypted key: whole, from the bucket's top.
    pub encrypted_key: &'a [u8],
}

/// Why a header is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderError {
    /// Another path key, another location, or damaged bytes: which of them cannot be told.
    #[error("object header does not open with this key at this location")]
    Sealed,
    /// The opened bytes are no header.
    #[error("object header {0}")]
    Structure(#[from] TlvError),
    /// The part table breaks its rules.
    #[error("object header has a bad part table")]
    Parts,
    /// Metadata breaks its rules: more than 2 KiB, or keys that do not ascend.
    #[error("user metadata is over {METADATA_BYTES_MAX} bytes or its keys do not ascend")]
    Metadata,
}

impl ObjectHeader {
    /// The canonical `SOH1` bytes, unsealed.
    ///
    /// # Errors
    ///
    /// [`HeaderError::Parts`] and [`HeaderError::Metadata`] for fields that no reader would accept.
    pub fn encode(&self) -> Result<Zeroizing<Vec<u8>>, HeaderError> {
        check_parts(&self.parts, self.segment_bytes)?;
        let mut table = Vec::with_capacity(self.parts.len() * PART_ENTRY_BYTES);
        for part in &self.parts {
            table.extend_from_slice(&part.number.to_le_bytes());
            table.extend_from_slice(&part.plain_len.to_le_bytes());
            table.extend_from_slice(&part.segment_count.to_le_bytes());
        }
        let mut writer = Writer::new(MAGIC);
        writer
            .field(OBJECT_ID, self.object_id.as_bytes())
            .field(CONTENT_KEY, &self.content_key)
            .field(OBJECT_ROOT, &self.object_root)
            .field(PART_TABLE, &table)
            .field(SEGMENT_BYTES, &self.segment_bytes.to_le_bytes());
        if !self.metadata.is_empty() {
            writer.field(METADATA, &encode_metadata(&self.metadata)?);
        }
        if let Some(modified_ms) = self.modified_ms {
            writer.field(MODIFIED, &modified_ms.to_le_bytes());
        }
        Ok(Zeroizing::new(writer.finish()))
    }

    /// Reads `SOH1` bytes.
    ///
    /// # Errors
    ///
    /// Every [`HeaderError`] but `Sealed`.
    pub fn decode(bytes: &[u8]) -> Result<Self, HeaderError> {
        let mut reader = Reader::new(bytes, MAGIC, OBJECT_HEADER_BYTES_MAX)?;
        let header = Self {
            object_id: (*reader.required(OBJECT_ID)?.array()?).into(),
            content_key: *reader.required(CONTENT_KEY)?.array()?,
            object_root: *reader.required(OBJECT_ROOT)?.array()?,
            parts: decode_parts(reader.required(PART_TABLE)?)?,
            segment_bytes: reader.required(SEGMENT_BYTES)?.u64()?,
            metadata: reader
                .optional(METADATA)?
                .map_or(Ok(Vec::new()), decode_metadata)?,
            modified_ms: reader
                .optional(MODIFIED)?
                .map(|field| field.u64())
                .transpose()?,
        };
        reader.finish()?;
        check_parts(&header.parts, header.segment_bytes)?;
        Ok(header)
    }

    /// Plaintext bytes of the whole object.
    pub fn plain_len(&self) -> u64 {
        // `check_parts` refuses tables whose sum does not fit.
        self.parts
            .iter()
            .fold(0, |sum: u64, part| sum.saturating_add(part.plain_len))
    }
}

impl Drop for ObjectHeader {
    fn drop(&mut self) {
        self.content_key.zeroize();
    }
}

impl fmt::Debug for ObjectHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ObjectHeader")
            .field("object_id", &self.object_id)
            .field("content_key", &format_args!("<secret>"))
            .field("parts", &self.parts)
            .field("segment_bytes", &self.segment_bytes)
            .field("metadata", &format_args!("{} entries", self.metadata.len()))
            .field("modified_ms", &self.modified_ms)
            .finish_non_exhaustive()
    }
}

/// Seals a header under the key of the object's last component.
///
/// # Errors
///
/// As [`ObjectHeader::encode`].
pub fn seal_header(
    key: &PathKey,
    location: &Location<'_>,
    header: &ObjectHeader,
) -> Result<Vec<u8>, HeaderError> {
    let bytes = header.encode()?;
    Ok(siv_seal(&key.header_key(), &location.associated(), &bytes))
}

/// Opens a header that the satellite gave for this location.
///
/// # Errors
///
/// Any [`HeaderError`]. A header from another location, or under another key, is
/// [`HeaderError::Sealed`].
pub fn open_header(
    key: &PathKey,
    location: &Location<'_>,
    sealed: &[u8],
) -> Result<ObjectHeader, HeaderError> {
    if sealed.len() > SEALED_HEADER_BYTES_MAX {
        return Err(HeaderError::Sealed);
    }
    let bytes =
        siv_open(&key.header_key(), &location.associated(), sealed).ok_or(HeaderError::Sealed)?;
    ObjectHeader::decode(&bytes)
}

impl<'a> Location<'a> {
    fn associated(&'a self) -> [&'a [u8]; 4] {
        [
            b"strand object header v1",
            self.project.as_bytes(),
            self.bucket.as_bytes(),
            self.encrypted_key,
        ]
    }
}

fn decode_parts(field: Field<'_>) -> Result<Vec<PartEntry>, HeaderError> {
    let mut items = field.items();
    let mut parts = Vec::with_capacity(field.value.len() / PART_ENTRY_BYTES);
    while !items.is_empty() {
        parts.push(PartEntry {
            number: items.u32()?,
            plain_len: items.u64()?,
            segment_count: items.u32()?,
        });
    }
    Ok(parts)
}

fn check_parts(parts: &[PartEntry], segment_bytes: u64) -> Result<(), HeaderError> {
    if parts.is_empty() || segment_bytes == 0 || segment_bytes > SEGMENT_BYTES_MAX {
        return Err(HeaderError::Parts);
    }
    let (mut number_last, mut plain_len) = (0, 0u64);
    for part in parts {
        let segment_count = part.plain_len.div_ceil(segment_bytes).max(1);
        plain_len = plain_len
            .checked_add(part.plain_len)
            .ok_or(HeaderError::Parts)?;
        let is_good = part.number > number_last
            && part.number <= PART_NUMBER_MAX
            && u64::from(part.segment_count) == segment_count;
        if !is_good {
            return Err(HeaderError::Parts);
        }
        number_last = part.number;
    }
    Ok(())
}

fn encode_metadata(metadata: &[(String, Vec<u8>)]) -> Result<Vec<u8>, HeaderError> {
    let mut value = Vec::new();
    let is_ascending = metadata.windows(2).all(|pair| pair[0].0 < pair[1].0);
    let len: usize = metadata
        .iter()
        .map(|(key, value)| 6 + key.len() + value.len())
        .sum();
    if !is_ascending || len > METADATA_BYTES_MAX {
        return Err(HeaderError::Metadata);
    }
    for (key, data) in metadata {
        push_bytes16(&mut value, key.as_bytes());
        push_bytes32(&mut value, data);
    }
    Ok(value)
}

fn decode_metadata(field: Field<'_>) -> Result<Vec<(String, Vec<u8>)>, HeaderError> {
    // An empty list is written as no field: one encoding.
    if field.value.len() > METADATA_BYTES_MAX || field.value.is_empty() {
        return Err(HeaderError::Metadata);
    }
    let mut items = field.items();
    let mut metadata: Vec<(String, Vec<u8>)> = Vec::new();
    while !items.is_empty() {
        let key = items.bytes16()?;
        let key = items.text(key)?.to_owned();
        let value = items.bytes32()?.to_vec();
        if metadata.last().is_some_and(|(last, _)| *last >= key) {
            return Err(HeaderError::Metadata);
        }
        metadata.push((key, value));
    }
    Ok(metadata)
}

#[cfg(test)]
mod tests;
