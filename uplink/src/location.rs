//! Places in the store as people write them, `st://bucket/key`, and what they become: an encrypted
//! key and the key to its header.

use std::fmt;
use std::str::FromStr;

use strand_protocol::Code;
use strand_protocol::grant::GrantError;
use strand_protocol::path::{Names, ObjectKey, PathKey, check_bucket_name};
use strand_protocol::pb;
use strand_protocol::pb::satellite_request::Verb;

use crate::error::NameError;
use crate::session::{Repeat, Session, answer_of};

/// A bucket, or a key or prefix in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The bucket's name, checked.
    pub bucket: String,
    /// What follows the slash after the bucket; empty for the bucket itself.
    pub key: String,
}

/// An object's key in all its forms.
#[derive(Debug)]
pub(crate) struct SealedPlace {
    pub(crate) place: Place,
    pub(crate) encrypted_key: Vec<u8>,
    pub(crate) path_key: PathKey,
}

impl Place {
    /// The scheme by which places are told from local paths.
    pub const SCHEME: &'static str = "st://";

    /// The same bucket, another key.
    #[must_use]
    pub fn with_key(&self, key: impl Into<String>) -> Self {
        Self {
            bucket: self.bucket.clone(),
            key: key.into(),
        }
    }

    /// `bucket/key`, for messages.
    pub(crate) fn path(&self) -> String {
        format!("{}/{}", self.bucket, self.key)
    }

    /// Encrypts the key. Asks the satellite how the bucket names its objects, once per session.
    pub(crate) async fn seal(&self, session: &Session) -> Result<SealedPlace, NameError> {
        let key = ObjectKey::parse(&self.key).map_err(|error| self.refusal(error.into()))?;
        let names = self.names(session).await?;
        let sealed = session.grant().path_key(&self.bucket, names, &key);
        let (encrypted_key, path_key) = sealed.map_err(|error| self.refusal(error))?;
        Ok(SealedPlace {
            place: self.clone(),
            encrypted_key,
            path_key,
        })
    }

    /// What the grant says about this place: that it breaks a rule, or that there is no key for it.
    pub(crate) fn refusal(&self, error: GrantError) -> NameError {
        match error {
            GrantError::Key(error) => NameError::Refused {
                name: shortened(&self.key),
                reason: error.to_string(),
            },
            error => NameError::NoKey {
                path: self.path(),
                reason: error.to_string(),
            },
        }
    }

    /// How the bucket names its objects.
    pub(crate) async fn names(&self, session: &Session) -> Result<Names, NameError> {
        if let Some(names) = session.known_names(&self.bucket) {
            return Ok(names);
        }
        let verb = Verb::GetBucket(pb::GetBucket {
            name: self.bucket.clone(),
        });
        let answer = answer_of!(
            session.call(verb, Repeat::Harmless).await,
            Bucket,
            "GetBucket"
        );
        let bucket = answer.map_err(|error| match error.code() {
            Some(Code::NotFound) => NameError::NoBucket {
                bucket: self.bucket.clone(),
            },
            _ => NameError::Call(error),
        })?;
        let names = names_of(bucket.name_mode());
        session.learn_names(&self.bucket, names);
        Ok(names)
    }
}

pub(crate) fn names_of(mode: pb::NameMode) -> Names {
    match mode {
        pb::NameMode::Sealed => Names::Sealed,
        pb::NameMode::Plain => Names::Plain,
    }
}

impl FromStr for Place {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let rest = text
            .strip_prefix(Self::SCHEME)
            .ok_or_else(|| NameError::Location(shortened(text)))?;
        let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.is_empty() {
            return Err(NameError::Location(shortened(text)));
        }
        check_bucket_name(bucket).map_err(|error| NameError::Refused {
            name: shortened(bucket),
            reason: error.to_string(),
        })?;
        Ok(Self {
            bucket: bucket.to_owned(),
            key: key.to_owned(),
        })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}/{}", Self::SCHEME, self.bucket, self.key)
    }
}

/// A name short enough for a message.
fn shortened(name: &str) -> String {
    const CHARS_MAX: usize = 80;
    if name.chars().count() <= CHARS_MAX {
        return name.to_owned();
    }
    let start: String = name.chars().take(CHARS_MAX).collect();
    format!("{start}... ({} bytes)", name.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_split_at_the_first_slash_only() {
        let place: Place = "st://photos/2024/a//b/".parse().unwrap();
        assert_eq!(
            (place.bucket.as_str(), place.key.as_str()),
            ("photos", "2024/a//b/")
        );
        assert_eq!(place.to_string(), "st://photos/2024/a//b/");
        let bucket: Place = "st://photos".parse().unwrap();
        assert_eq!(
            (bucket.bucket.as_str(), bucket.key.as_str()),
            ("photos", "")
        );
    }

    #[test]
    fn what_is_no_place_is_refused() {
        for text in [
            "photos/a",
            "st:/photos",
            "st://",
            "st:///a",
            "st://P/a",
            "st://a/b",
            "/etc/passwd",
        ] {
            assert!(text.parse::<Place>().is_err(), "{text}");
        }
    }

    #[test]
    fn long_names_are_cut_in_messages() {
        let cut = shortened(&"ä".repeat(2_000));
        assert!(cut.len() < 250, "{cut}");
        assert!(cut.ends_with("(4000 bytes)"), "{cut}");
    }
}
