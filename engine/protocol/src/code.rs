//! The registry of error codes of docs/wire.md, section 3: one for stream resets, connection closes
//! and `Error.code`.
//!
//! Programs look at the code and at [`Code::retry`]; the message that goes with it is for people.

use std::fmt;

use crate::pb;

/// Why an exchange ended. Numbers are frozen by docs/wire.md.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
#[non_exhaustive]
pub enum Code {
    /// Normal close.
    Ok = 0,
    /// The server failed an invariant or its disk.
    Internal = 1,
    /// Malformed frame, message or value.
    BadRequest = 2,
    /// Unknown verb or version.
    Unsupported = 3,
    /// Out of room or over a limit; `retry_after_ms` says when to try again.
    Busy = 4,
    /// No disk space.
    Full = 5,
    /// No such piece, object, bucket, project or upload.
    NotFound = 6,
    /// Macaroon or limit does not allow this.
    Denied = 7,
    /// Limit malformed, for another node or client, wrong MAC, or used before.
    BadLimit = 8,
    /// Epoch unknown, or issued before the node started, or expired.
    StaleLimit = 9,
    /// Exists already with another content; bucket not empty; check value differs.
    Conflict = 10,
    /// Body, root, path or commitment do not fit.
    BadPiece = 11,
    /// The node found its copy damaged.
    Corrupt = 12,
    /// The peer was too slow.
    Timeout = 13,
    /// The client no longer wants it.
    Cancelled = 14,
    /// Frame, key, object or count over a limit.
    TooLarge = 15,
    /// Too few eligible nodes; the message says how many were needed and found.
    NoNodes = 16,
    /// The node's disk failed; nothing more is stored.
    ReadOnly = 17,
    /// A receipt does not fit the pending segment.
    BadReceipt = 18,
    /// The server is going down.
    Shutdown = 19,
}

/// What a client may do after an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Retry {
    /// The same request fails again.
    No,
    /// The same server, after a pause.
    Later,
    /// Another node at once.
    Elsewhere,
    /// With a new limit from the satellite.
    Refetch,
}

/// A number that is not in the registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("error code {0} is not in the registry")]
pub struct UnknownCode(pub u64);

impl Code {
    /// All codes, in order of their numbers.
    pub const ALL: [Self; 20] = [
        Self::Ok,
        Self::Internal,
        Self::BadRequest,
        Self::Unsupported,
        Self::Busy,
        Self::Full,
        Self::NotFound,
        Self::Denied,
        Self::BadLimit,
        Self::StaleLimit,
        Self::Conflict,
        Self::BadPiece,
        Self::Corrupt,
        Self::Timeout,
        Self::Cancelled,
        Self::TooLarge,
        Self::NoNodes,
        Self::ReadOnly,
        Self::BadReceipt,
        Self::Shutdown,
    ];

    /// What a client may do after this code.
    pub const fn retry(self) -> Retry {
        match self {
            Self::Busy | Self::NoNodes | Self::Shutdown => Retry::Later,
            Self::Internal | Self::Full | Self::Corrupt | Self::Timeout | Self::ReadOnly => {
                Retry::Elsewhere
            }
            Self::BadLimit | Self::StaleLimit => Retry::Refetch,
            Self::Ok
            | Self::BadRequest
            | Self::Unsupported
            | Self::NotFound
            | Self::Denied
            | Self::Conflict
            | Self::BadPiece
            | Self::Cancelled
            | Self::TooLarge
            | Self::BadReceipt => Retry::No,
        }
    }

    /// The name in the registry.
    pub fn name(self) -> &'static str {
        pb::ErrorCode::from(self).as_str_name()
    }

    /// The answer that ends an exchange with this code.
    pub fn error(self, message: impl Into<String>) -> pb::Error {
        self.error_after(message, 0)
    }

    /// The same, with advice how long to wait; 0 = no advice.
    pub fn error_after(self, message: impl Into<String>, retry_after_ms: u32) -> pb::Error {
        pb::Error {
            code: pb::ErrorCode::from(self).into(),
            message: message.into(),
            retry_after_ms,
        }
    }

    /// The code of an answer. A number we do not know counts as [`Code::Internal`]: a newer server
    /// refused.
    pub fn of_error(error: &pb::Error) -> Self {
        u32::try_from(error.code)
            .ok()
            .and_then(|code| Self::try_from(code).ok())
            .unwrap_or(Self::Internal)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl From<Code> for u32 {
    fn from(code: Code) -> Self {
        code as Self
    }
}

impl From<Code> for u64 {
    fn from(code: Code) -> Self {
        u32::from(code).into()
    }
}

impl TryFrom<u32> for Code {
    type Error = UnknownCode;

    fn try_from(code: u32) -> Result<Self, UnknownCode> {
        Self::try_from(u64::from(code))
    }
}

impl TryFrom<u64> for Code {
    type Error = UnknownCode;

    fn try_from(code: u64) -> Result<Self, UnknownCode> {
        let index = usize::try_from(code).map_err(|_| UnknownCode(code))?;
        Self::ALL.get(index).copied().ok_or(UnknownCode(code))
    }
}

impl From<Code> for pb::ErrorCode {
    fn from(code: Code) -> Self {
        match code {
            Code::Ok => Self::Ok,
            Code::Internal => Self::Internal,
            Code::BadRequest => Self::BadRequest,
            Code::Unsupported => Self::Unsupported,
            Code::Busy => Self::Busy,
            Code::Full => Self::Full,
            Code::NotFound => Self::NotFound,
            Code::Denied => Self::Denied,
            Code::BadLimit => Self::BadLimit,
            Code::StaleLimit => Self::StaleLimit,
            Code::Conflict => Self::Conflict,
            Code::BadPiece => Self::BadPiece,
            Code::Corrupt => Self::Corrupt,
            Code::Timeout => Self::Timeout,
            Code::Cancelled => Self::Cancelled,
            Code::TooLarge => Self::TooLarge,
            Code::NoNodes => Self::NoNodes,
            Code::ReadOnly => Self::ReadOnly,
            Code::BadReceipt => Self::BadReceipt,
            Code::Shutdown => Self::Shutdown,
        }
    }
}

impl From<pb::ErrorCode> for Code {
    fn from(code: pb::ErrorCode) -> Self {
        // Both enumerations are the registry; the test below walks it.
        u32::try_from(i32::from(code))
            .ok()
            .and_then(|code| Self::try_from(code).ok())
            .unwrap_or(Self::Internal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_are_those_of_the_registry() {
        let names = "OK INTERNAL BAD_REQUEST UNSUPPORTED BUSY FULL NOT_FOUND DENIED BAD_LIMIT STALE_LIMIT CONFLICT \
                     BAD_PIECE CORRUPT TIMEOUT CANCELLED TOO_LARGE NO_NODES READ_ONLY BAD_RECEIPT SHUTDOWN";
        for ((number, name), code) in (0u32..).zip(names.split_whitespace()).zip(Code::ALL) {
            assert_eq!(u32::from(code), number);
            assert_eq!(code.to_string(), name);
            assert_eq!(Code::try_from(number), Ok(code));
            assert_eq!(
                i32::from(pb::ErrorCode::from(code)),
                i32::try_from(number).unwrap()
            );
            assert_eq!(Code::from(pb::ErrorCode::from(code)), code);
            assert_eq!(Code::of_error(&code.error("why")), code);
        }
        assert_eq!(names.split_whitespace().count(), Code::ALL.len());
        assert_eq!(Code::try_from(20u32), Err(UnknownCode(20)));
        assert_eq!(Code::try_from(u64::MAX), Err(UnknownCode(u64::MAX)));
        assert_eq!(
            pb::ErrorCode::try_from(20),
            Err(prost::UnknownEnumValue(20))
        );
    }

    #[test]
    fn a_code_from_the_future_is_an_internal_error() {
        for code in [20, -1, i32::MAX, i32::MIN] {
            let error = pb::Error {
                code,
                message: String::new(),
                retry_after_ms: 0,
            };
            assert_eq!(Code::of_error(&error), Code::Internal);
        }
    }

    #[test]
    fn retries_are_those_of_the_registry() {
        assert_eq!(Code::Busy.retry(), Retry::Later);
        assert_eq!(Code::Full.retry(), Retry::Elsewhere);
        assert_eq!(Code::StaleLimit.retry(), Retry::Refetch);
        assert_eq!(Code::Denied.retry(), Retry::No);
    }
}
