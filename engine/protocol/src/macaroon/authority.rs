//! Whether a caveat allows an action. The only place that decides.

use super::caveat::Caveat;

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Get objects and segments.
    Read,
    /// Make buckets and objects.
    Write,
    /// List buckets and objects.
    List,
    /// Delete buckets and objects.
    Delete,
    /// Whatever every genuine macaroon may: ask about its own project, or about a bucket that it
    /// may use.
    Any,
}

/// What a request wants, as the authorisation function sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Action<'a> {
    /// What it does.
    pub operation: Operation,
    /// In which bucket; `None` for the project as a whole.
    pub bucket: Option<&'a str>,
    /// Encrypted key of the object, or encrypted prefix of the list; `None` for the bucket as a
    /// whole.
    pub key: Option<&'a [u8]>,
    /// When the object that is written expires, milliseconds since 1970; `None` for never.
    pub expires_ms: Option<u64>,
}

/// Why an action is not allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Denied {
    /// The chain does not end in the tail: forged, altered, or of a secret that is gone.
    #[error("macaroon is not genuine")]
    Forged,
    /// The operation is not in the set.
    #[error("macaroon does not allow this operation")]
    Operation,
    /// Too early.
    #[error("macaroon is not valid yet")]
    NotYet,
    /// Too late.
    #[error("macaroon has expired")]
    Expired,
    /// Another bucket, or the whole project.
    #[error("macaroon does not allow this bucket")]
    Bucket,
    /// Outside every prefix, or a whole bucket.
    #[error("macaroon does not allow this key or prefix")]
    Prefix,
    /// The object would live too long.
    #[error("macaroon allows only objects that expire sooner")]
    ObjectTtl,
}

/// # Errors
///
/// The reason why this caveat refuses.
pub(super) fn check_caveat(
    caveat: &Caveat,
    action: &Action<'_>,
    now_ms: u64,
) -> Result<(), Denied> {
    match caveat {
        Caveat::Operations(operations) => {
            allow(operations.contains(action.operation), Denied::Operation)
        }
        Caveat::NotBefore(ms) => allow(now_ms >= *ms, Denied::NotYet),
        Caveat::NotAfter(ms) => allow(now_ms <= *ms, Denied::Expired),
        Caveat::Buckets(buckets) => match action.bucket {
            Some(bucket) => allow(
                buckets.iter().any(|allowed| allowed == bucket),
                Denied::Bucket,
            ),
            None => allow(action.operation == Operation::Any, Denied::Bucket),
        },
        Caveat::Prefixes(prefixes) => check_prefixes(prefixes, action),
        Caveat::MaxObjectTtl(ttl_ms) => {
            let writes_object = action.operation == Operation::Write && action.key.is_some();
            let expires_soon = action
                .expires_ms
                .is_some_and(|ms| ms <= now_ms.saturating_add(*ttl_ms));
            allow(!writes_object || expires_soon, Denied::ObjectTtl)
        }
        Caveat::Nonce(_) => Ok(()),
    }
}

fn check_prefixes(prefixes: &[(String, Vec<u8>)], action: &Action<'_>) -> Result<(), Denied> {
    let is_any = action.operation == Operation::Any;
    let Some(bucket) = action.bucket else {
        return allow(is_any, Denied::Bucket);
    };
    let mut allowed = prefixes
        .iter()
        .filter(|(name, _)| name == bucket)
        .map(|(_, prefix)| prefix)
        .peekable();
    allow(allowed.peek().is_some(), Denied::Bucket)?;
    // Both are whole components and a component's length comes before it (or its slash after it),
    // so that a prefix of the bytes is a prefix of the components. Without a key the action is
    // about the whole bucket.
    let is_below = |prefix: &Vec<u8>| {
        action
            .key
            .map_or(prefix.is_empty(), |key| key.starts_with(prefix))
    };
    allow(
        (is_any && action.key.is_none()) || allowed.any(is_below),
        Denied::Prefix,
    )
}

fn allow(is_allowed: bool, denied: Denied) -> Result<(), Denied> {
    if is_allowed { Ok(()) } else { Err(denied) }
}
