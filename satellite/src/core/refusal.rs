//! A refusal: what the satellite answers in place of what was asked.

use strand_protocol::{Code, pb};

/// A code of the registry and a sentence for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub(crate) struct Refusal {
    pub(crate) code: Code,
    pub(crate) message: String,
    /// How long to wait before another try, 0 = no advice.
    pub(crate) retry_after_ms: u32,
}

impl Refusal {
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            retry_after_ms: 0,
        }
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(Code::BadRequest, message)
    }

    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(Code::NotFound, message)
    }

    /// Out of room; worth another try soon.
    pub(crate) fn busy(message: impl Into<String>) -> Self {
        let retry_after_ms = strand_protocol::limits::BUSY_RETRY_AFTER_MS;
        Self {
            retry_after_ms,
            ..Self::new(Code::Busy, message)
        }
    }
}

impl From<Refusal> for pb::Error {
    fn from(refusal: Refusal) -> Self {
        refusal
            .code
            .error_after(refusal.message, refusal.retry_after_ms)
    }
}
