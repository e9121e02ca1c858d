//! The canonical TLV of docs/format.md, section 5: what everything signed, sealed or MACed is
//! written in.
//!
//! `magic || (u16 type || u32 length || value)*`, types strictly ascending by their low 15 bits,
//! ending with the bytes. Bit 15 of a type means that a reader who does not know it skips it; any
//! other unknown type refuses the whole structure. There is one encoding of a value, and readers
//! keep the exact bytes they got.
//!
//! [`Reader`] is *pulled*: a structure asks for its fields in the order of their types, so a
//! missing, repeated or disordered one cannot be overlooked. The macaroon, whose fields repeat,
//! reads [`RawFields`] itself.

pub mod text;

/// Bit of a type: readers who do not know the field skip it.
pub const OPTIONAL: u16 = 0x8000;

/// `u16(type) || u32(length)`.
pub const FIELD_HEAD_BYTES: usize = 6;

/// Why bytes are not the structure they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TlvError {
    /// Another structure, or another version of it.
    #[error("starts with {found:02x?}, not with {expected:02x?}")]
    Magic {
        /// The four bytes that were there, zero-filled.
        found: [u8; 4],
        /// The four bytes of the structure.
        expected: [u8; 4],
    },
    /// Longer than any structure of its kind.
    #[error("structure of {len} bytes > {max}")]
    TooLong {
        /// Bytes given.
        len: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// Ends inside a field.
    #[error("ends inside the field at byte {offset}")]
    Truncated {
        /// Where the field begins.
        offset: usize,
    },
    /// Types do not ascend strictly.
    #[error("field {kind:#06x} is repeated or out of order")]
    Disorder {
        /// The type that came too late.
        kind: u16,
    },
    /// A field that must be understood and is not.
    #[error("field {kind:#06x} is not known")]
    Unknown {
        /// Its type.
        kind: u16,
    },
    /// A field that must be there is not.
    #[error("field {kind:#06x} is missing")]
    Missing {
        /// Its type.
        kind: u16,
    },
    /// A value of another length than its type has.
    #[error("field {kind:#06x} of {len} bytes has another length than its type")]
    Length {
        /// Its type.
        kind: u16,
        /// Bytes given.
        len: usize,
    },
    /// A value that its type cannot have.
    #[error("field {kind:#06x} has a value that its type cannot have")]
    Value {
        /// Its type.
        kind: u16,
    },
}

/// Writes a structure field by field.
#[derive(Clone, Debug)]
pub struct Writer {
    bytes: Vec<u8>,
    kind_last: Option<u16>,
}

impl Writer {
    /// A structure with this magic and no fields.
    pub fn new(magic: &[u8; 4]) -> Self {
        Self {
            bytes: magic.to_vec(),
            kind_last: None,
        }
    }

    /// Adds a field.
    ///
    /// # Panics
    ///
    /// If types do not ascend: our own mistake.
    pub fn field(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let order = kind & !OPTIONAL;
        assert!(
            self.kind_last.is_none_or(|last| last < order),
            "field {kind:#06x} written out of order"
        );
        self.kind_last = Some(order);
        push_field(&mut self.bytes, kind, value);
        self
    }

    /// All bytes so far: what a MAC over "everything before this field" covers.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The structure.
    pub fn finish(self) -> Vec<u8> {
        self.bytes
    }
}

/// Appends one encoded field.
///
/// # Panics
///
/// If the value takes 4 GiB or more.
pub(crate) fn push_field(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let len = u32::try_from(value.len())
        .unwrap_or_else(|_| panic!("a field of {} bytes has no length", value.len()));
    bytes.extend_from_slice(&kind.to_le_bytes());
    bytes.extend_from_slice(&len.to_le_bytes());
    bytes.extend_from_slice(value);
}

/// One field as it lies in the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field<'a> {
    /// Type, bit 15 included.
    pub kind: u16,
    /// Value.
    pub value: &'a [u8],
    /// Where the field begins, counted from the magic's first byte.
    pub offset: usize,
    /// Type, length and value: what a chained MAC covers.
    pub encoded: &'a [u8],
}

impl<'a> Field<'a> {
    /// The value, if it is exactly so long.
    ///
    /// # Errors
    ///
    /// [`TlvError::Length`].
    pub fn array<const N: usize>(&self) -> Result<&'a [u8; N], TlvError> {
        self.value.try_into().map_err(|_| TlvError::Length {
            kind: self.kind,
            len: self.value.len(),
        })
    }

    /// The value as a byte.
    ///
    /// # Errors
    ///
    /// [`TlvError::Length`].
    pub fn u8(&self) -> Result<u8, TlvError> {
        self.array::<1>().map(|[byte]| *byte)
    }

    /// The value as a little-endian number.
    ///
    /// # Errors
    ///
    /// [`TlvError::Length`].
    pub fn u32(&self) -> Result<u32, TlvError> {
        self.array().map(|bytes| u32::from_le_bytes(*bytes))
    }

    /// The value as a little-endian number.
    ///
    /// # Errors
    ///
    /// [`TlvError::Length`].
    pub fn u64(&self) -> Result<u64, TlvError> {
        self.array().map(|bytes| u64::from_le_bytes(*bytes))
    }

    /// The value as text.
    ///
    /// # Errors
    ///
    /// [`TlvError::Value`] if it is not UTF-8.
    pub fn text(&self) -> Result<&'a str, TlvError> {
        str::from_utf8(self.value).map_err(|_| self.bad_value())
    }

    /// The error for a value that this field cannot have.
    pub fn bad_value(&self) -> TlvError {
        TlvError::Value { kind: self.kind }
    }

    /// Reads the value in pieces.
    pub(crate) fn items(&self) -> Items<'a> {
        Items {
            rest: self.value,
            error: self.bad_value(),
        }
    }
}

/// The fields of a structure in the order of the bytes, with no rule about their types.
#[derive(Clone, Debug)]
pub struct RawFields<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> RawFields<'a> {
    /// Checks length and magic.
    ///
    /// # Errors
    ///
    /// [`TlvError::TooLong`], [`TlvError::Magic`].
    pub fn new(bytes: &'a [u8], magic: &[u8; 4], bytes_max: usize) -> Result<Self, TlvError> {
        if bytes.len() > bytes_max {
            return Err(TlvError::TooLong {
                len: bytes.len(),
                max: bytes_max,
            });
        }
        if !bytes.starts_with(magic) {
            let mut found = [0; 4];
            let len = bytes.len().min(4);
            found[..len].copy_from_slice(&bytes[..len]);
            return Err(TlvError::Magic {
                found,
                expected: *magic,
            });
        }
        Ok(Self {
            bytes,
            offset: magic.len(),
        })
    }

    /// The next field, `None` at the end of the bytes.
    ///
    /// # Errors
    ///
    /// [`TlvError::Truncated`].
    pub fn next_field(&mut self) -> Result<Option<Field<'a>>, TlvError> {
        let offset = self.offset;
        let rest = &self.bytes[offset..];
        if rest.is_empty() {
            return Ok(None);
        }
        let truncated = TlvError::Truncated { offset };
        let ([kind_low, kind_high, len @ ..], value) = rest
            .split_first_chunk::<FIELD_HEAD_BYTES>()
            .ok_or(truncated)?;
        let len = usize::try_from(u32::from_le_bytes(*len)).map_err(|_| truncated)?;
        let value = value.get(..len).ok_or(truncated)?;
        let encoded = &rest[..FIELD_HEAD_BYTES + len];
        self.offset += encoded.len();
        let kind = u16::from_le_bytes([*kind_low, *kind_high]);
        Ok(Some(Field {
            kind,
            value,
            offset,
            encoded,
        }))
    }
}

/// Reads a structure whose types ascend. Ask for known fields in order, then call
/// [`Reader::finish`].
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    fields: RawFields<'a>,
    kind_last: Option<u16>,
    peeked: Option<Field<'a>>,
}

impl<'a> Reader<'a> {
    /// Checks length and magic.
    ///
    /// # Errors
    ///
    /// [`TlvError::TooLong`], [`TlvError::Magic`].
    pub fn new(bytes: &'a [u8], magic: &[u8; 4], bytes_max: usize) -> Result<Self, TlvError> {
        Ok(Self {
            fields: RawFields::new(bytes, magic, bytes_max)?,
            kind_last: None,
            peeked: None,
        })
    }

    /// The field of this type, which must be there. Skips unknown optional ones before it.
    ///
    /// # Errors
    ///
    /// [`TlvError::Missing`] and whatever is wrong with the fields before it.
    pub fn required(&mut self, kind: u16) -> Result<Field<'a>, TlvError> {
        self.optional(kind)?.ok_or(TlvError::Missing { kind })
    }

    /// The field of this type, if it is there. Skips unknown optional ones before it.
    ///
    /// # Errors
    ///
    /// [`TlvError::Unknown`] and whatever is wrong with the fields before it.
    pub fn optional(&mut self, kind: u16) -> Result<Option<Field<'a>>, TlvError> {
        while let Some(field) = self.peek()? {
            if field.kind == kind {
                self.peeked = None;
                return Ok(Some(field));
            }
            if field.kind & !OPTIONAL > kind & !OPTIONAL {
                return Ok(None);
            }
            self.skip_unknown(field)?;
        }
        Ok(None)
    }

    /// Skips unknown optional fields to the end.
    ///
    /// # Errors
    ///
    /// [`TlvError::Unknown`], [`TlvError::Disorder`], [`TlvError::Truncated`].
    pub fn finish(mut self) -> Result<(), TlvError> {
        while let Some(field) = self.peek()? {
            self.skip_unknown(field)?;
        }
        Ok(())
    }

    /// Demands that nothing follows, not even an optional field: for structures whose last field
    /// covers all others.
    ///
    /// # Errors
    ///
    /// [`TlvError::Unknown`], [`TlvError::Disorder`], [`TlvError::Truncated`].
    pub fn end(mut self) -> Result<(), TlvError> {
        self.peek()?
            .map_or(Ok(()), |field| Err(TlvError::Unknown { kind: field.kind }))
    }

    fn skip_unknown(&mut self, field: Field<'a>) -> Result<(), TlvError> {
        if field.kind & OPTIONAL == 0 {
            return Err(TlvError::Unknown { kind: field.kind });
        }
        self.peeked = None;
        Ok(())
    }

    fn peek(&mut self) -> Result<Option<Field<'a>>, TlvError> {
        if self.peeked.is_none() {
            let Some(field) = self.fields.next_field()? else {
                return Ok(None);
            };
            let order = field.kind & !OPTIONAL;
            if self.kind_last.is_some_and(|last| last >= order) {
                return Err(TlvError::Disorder { kind: field.kind });
            }
            self.kind_last = Some(order);
            self.peeked = Some(field);
        }
        Ok(self.peeked)
    }
}

/// Reads a value that is a list of fixed and length-prefixed items.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Items<'a> {
    rest: &'a [u8],
    error: TlvError,
}

impl<'a> Items<'a> {
    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<&'a [u8; N], TlvError> {
        let (item, rest) = self.rest.split_first_chunk().ok_or(self.error)?;
        self.rest = rest;
        Ok(item)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, TlvError> {
        self.array().map(|bytes| u32::from_le_bytes(*bytes))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, TlvError> {
        self.array().map(|bytes| u64::from_le_bytes(*bytes))
    }

    /// `u8(length) || bytes`.
    pub(crate) fn bytes8(&mut self) -> Result<&'a [u8], TlvError> {
        let [len] = *self.array()?;
        self.take(len.into())
    }

    /// `u16(length) || bytes`.
    pub(crate) fn bytes16(&mut self) -> Result<&'a [u8], TlvError> {
        let len = u16::from_le_bytes(*self.array()?);
        self.take(len.into())
    }

    /// `u32(length) || bytes`.
    pub(crate) fn bytes32(&mut self) -> Result<&'a [u8], TlvError> {
        let len = usize::try_from(self.u32()?).map_err(|_| self.error)?;
        self.take(len)
    }

    pub(crate) fn text(&self, bytes: &'a [u8]) -> Result<&'a str, TlvError> {
        str::from_utf8(bytes).map_err(|_| self.error)
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], TlvError> {
        let (item, rest) = self.rest.split_at_checked(len).ok_or(self.error)?;
        self.rest = rest;
        Ok(item)
    }
}

/// Appends `u8(length) || bytes`. The caller has bounded the length.
pub(crate) fn push_bytes8(target: &mut Vec<u8>, bytes: &[u8]) {
    let len = u8::try_from(bytes.len())
        .unwrap_or_else(|_| panic!("{} bytes do not fit a u8 length", bytes.len()));
    target.push(len);
    target.extend_from_slice(bytes);
}

/// Appends `u16(length) || bytes`. The caller has bounded the length.
pub(crate) fn push_bytes16(target: &mut Vec<u8>, bytes: &[u8]) {
    let len = u16::try_from(bytes.len())
        .unwrap_or_else(|_| panic!("{} bytes do not fit a u16 length", bytes.len()));
    target.extend_from_slice(&len.to_le_bytes());
    target.extend_from_slice(bytes);
}

/// Appends `u32(length) || bytes`. The caller has bounded the length.
pub(crate) fn push_bytes32(target: &mut Vec<u8>, bytes: &[u8]) {
    let len = u32::try_from(bytes.len())
        .unwrap_or_else(|_| panic!("{} bytes do not fit a u32 length", bytes.len()));
    target.extend_from_slice(&len.to_le_bytes());
    target.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests;
