//! Buckets and objects as lists and single entries: make, remove, list, look at.

use strand_protocol::object::{Location, open_header};
use strand_protocol::path::{Names, PathKey, decrypt_key, decrypt_prefix};
use strand_protocol::pb::satellite_request::Verb;
use strand_protocol::{Code, pb};

use crate::download::open_header_of;
use crate::error::{CallError, HeaderError, ManageError, NameError};
use crate::limits::LIST_PAGE;
use crate::location::{Place, SealedPlace, names_of};
use crate::session::{Repeat, Session, answer_of};

/// A bucket.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct BucketEntry {
    /// Its name.
    pub name: String,
    /// Whether the satellite sees the names of its objects.
    pub plain_names: bool,
    /// Milliseconds since 1970, by the satellite's clock.
    pub created_ms: u64,
}

/// A line of a listing.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Entry {
    /// Everything below one more component.
    Prefix {
        /// Ends with a slash.
        key: String,
    },
    /// An object.
    Object {
        /// Its whole key.
        key: String,
        /// Plaintext bytes.
        bytes: u64,
        /// Bytes of its pieces at nodes.
        piece_bytes: u64,
        /// Milliseconds since 1970, by the satellite's clock.
        created_ms: u64,
        /// Milliseconds since 1970, by the uploader's clock.
        modified_ms: Option<u64>,
    },
}

/// What is known of one object.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct ObjectInfo {
    /// Its bucket.
    pub bucket: String,
    /// Its key.
    pub key: String,
    /// Plaintext bytes.
    pub bytes: u64,
    /// Bytes of its pieces at nodes; 0 if it is stored inline.
    pub piece_bytes: u64,
    /// Segments.
    pub segments: u32,
    /// Milliseconds since 1970, by the satellite's clock.
    pub created_ms: u64,
    /// Milliseconds since 1970, by the uploader's clock.
    pub modified_ms: Option<u64>,
    /// Milliseconds since 1970; 0 = never.
    pub expires_ms: u64,
    /// Names of its metadata, with their lengths.
    pub metadata: Vec<(String, usize)>,
}

/// Makes a bucket.
///
/// # Errors
///
/// [`ManageError::BucketExists`], and what can happen to any call.
pub async fn create_bucket(
    session: &Session,
    bucket: &str,
    names: Names,
) -> Result<(), ManageError> {
    let name_mode = match names {
        Names::Sealed => pb::NameMode::Sealed,
        Names::Plain => pb::NameMode::Plain,
    };
    let verb = Verb::CreateBucket(pb::CreateBucket {
        name: bucket.to_owned(),
        name_mode: name_mode.into(),
    });
    // Repeated after a lost answer it would say that the bucket exists: that is for the caller to
    // see, not to guess.
    match session.call(verb, Repeat::Never).await {
        Ok(_) => Ok(()),
        Err(error) if error.code() == Some(Code::Conflict) => Err(ManageError::BucketExists {
            bucket: bucket.to_owned(),
        }),
        Err(error) => Err(error.into()),
    }
}

/// Removes an empty bucket.
///
/// # Errors
///
/// [`ManageError::BucketNotEmpty`], [`NameError::NoBucket`], and what can happen to any call.
pub async fn delete_bucket(session: &Session, bucket: &str) -> Result<(), ManageError> {
    let verb = Verb::DeleteBucket(pb::DeleteBucket {
        name: bucket.to_owned(),
    });
    match session.call(verb, Repeat::Never).await {
        Ok(_) => Ok(()),
        Err(error) => Err(match error.code() {
            Some(Code::Conflict) => ManageError::BucketNotEmpty {
                bucket: bucket.to_owned(),
            },
            Some(Code::NotFound) => no_bucket(bucket).into(),
            _ => error.into(),
        }),
    }
}

/// The buckets this access may see, by name.
///
/// # Errors
///
/// What can happen to any call.
pub async fn list_buckets(session: &Session) -> Result<Vec<BucketEntry>, ManageError> {
    let verb = Verb::ListBuckets(pb::ListBuckets {});
    let buckets = answer_of!(
        session.call(verb, Repeat::Harmless).await,
        Buckets,
        "ListBuckets"
    )?;
    let mut entries: Vec<_> = buckets.buckets.into_iter().map(bucket_entry).collect();
    entries.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(entries)
}

/// One bucket.
///
/// # Errors
///
/// [`NameError::NoBucket`], and what can happen to any call.
pub async fn stat_bucket(session: &Session, bucket: &str) -> Result<BucketEntry, ManageError> {
    let verb = Verb::GetBucket(pb::GetBucket {
        name: bucket.to_owned(),
    });
    let answer = answer_of!(
        session.call(verb, Repeat::Harmless).await,
        Bucket,
        "GetBucket"
    );
    match answer {
        Ok(found) => Ok(bucket_entry(found)),
        Err(error) if error.code() == Some(Code::NotFound) => Err(no_bucket(bucket).into()),
        Err(error) => Err(error.into()),
    }
}

fn bucket_entry(bucket: pb::Bucket) -> BucketEntry {
    BucketEntry {
        plain_names: names_of(bucket.name_mode()) == Names::Plain,
        name: bucket.name,
        created_ms: bucket.created_ms,
    }
}

fn no_bucket(bucket: &str) -> NameError {
    NameError::NoBucket {
        bucket: bucket.to_owned(),
    }
}

/// What lies under a prefix ("" or ending with a slash), by key: one level, or everything.
///
/// # Errors
///
/// [`NameError::NoBucket`], [`NameError::NoKey`], and what can happen to any call. Names that do
/// not open are an error: the satellite altered them, or they were stored under another passphrase.
pub async fn list(
    session: &Session,
    prefix: &Place,
    is_recursive: bool,
) -> Result<Vec<Entry>, ManageError> {
    let names = prefix.names(session).await?;
    let (encrypted_prefix, from) = session
        .grant()
        .list_prefix(&prefix.bucket, names, &prefix.key)
        .map_err(|error| prefix.refusal(error))?;
    let mut entries = Vec::new();
    let mut after = Vec::new();
    loop {
        let verb = Verb::ListObjects(pb::ListObjects {
            bucket: prefix.bucket.clone(),
            prefix: encrypted_prefix.clone(),
            delimiter: !is_recursive,
            after: after.clone(),
            limit: LIST_PAGE,
        });
        let page = answer_of!(
            session.call(verb, Repeat::Harmless).await,
            ObjectList,
            "ListObjects"
        )?;
        let more = page.more;
        let mut last = Vec::new();
        for entry in page.entries {
            let opener = Opening {
                session,
                place: prefix,
                names,
                from: &from,
                encrypted_prefix: &encrypted_prefix,
            };
            let (entry, encrypted) = opener.open(entry)?;
            entries.extend(entry);
            last = encrypted;
        }
        if !more {
            break;
        }
        if last <= after {
            return Err(CallError::BadAnswer {
                verb: "ListObjects",
                what: "its pages do not go forward",
            }
            .into());
        }
        after = last;
    }
    // Encrypted order says nothing to people.
    entries.sort_by(|one, other| one.key().cmp(other.key()));
    Ok(entries)
}

struct Opening<'a> {
    session: &'a Session,
    place: &'a Place,
    names: Names,
    from: &'a PathKey,
    encrypted_prefix: &'a [u8],
}

impl Opening<'_> {
    /// The entry in plain, and its encrypted key.
    ///
    /// Sealed, the object `a/b` and the prefix `a/b/` are the same components: such an object is
    /// not below the prefix.
    fn open(&self, entry: pb::ListEntry) -> Result<(Option<Entry>, Vec<u8>), ManageError> {
        let wrong_key = || {
            ManageError::Header(HeaderError::WrongKey {
                path: format!("{}(an object below)", self.place.path()),
            })
        };
        let below = |encrypted: &[u8]| {
            encrypted
                .strip_prefix(self.encrypted_prefix)
                .map(<[u8]>::to_vec)
        };
        let Some(object) = entry.object else {
            let rest = below(&entry.prefix).ok_or_else(wrong_key)?;
            let name = decrypt_prefix(self.from, self.names, &rest).map_err(|_| wrong_key())?;
            let key = format!("{}{name}", self.place.key);
            return Ok((Some(Entry::Prefix { key }), entry.prefix));
        };
        let rest = below(&object.encrypted_key).ok_or_else(wrong_key)?;
        let name = match (rest.is_empty(), self.names) {
            (true, Names::Sealed) => return Ok((None, object.encrypted_key)),
            // The object whose name ends with the prefix's slash.
            (true, Names::Plain) => String::new(),
            (false, names) => decrypt_key(self.from, names, &rest).map_err(|_| wrong_key())?,
        };
        let key = format!("{}{name}", self.place.key);
        let entry = Entry::Object {
            modified_ms: self.modified_ms(&name, &object),
            key,
            bytes: object.plain_len,
            piece_bytes: object.piece_bytes,
            created_ms: object.created_ms,
        };
        Ok((Some(entry), object.encrypted_key))
    }

    fn modified_ms(&self, name: &str, object: &pb::Object) -> Option<u64> {
        let path_key = name
            .split('/')
            .fold(None, |above: Option<PathKey>, component| {
                Some(
                    above
                        .as_ref()
                        .unwrap_or(self.from)
                        .child(component.as_bytes()),
                )
            })?;
        let location = Location {
            project: self.session.grant().project,
            bucket: &self.place.bucket,
            encrypted_key: &object.encrypted_key,
        };
        open_header(&path_key, &location, &object.sealed_header)
            .ok()?
            .modified_ms
    }
}

impl Entry {
    /// The key, or the prefix.
    #[must_use]
    pub fn key(&self) -> &str {
        match self {
            Self::Prefix { key } | Self::Object { key, .. } => key,
        }
    }
}

/// One object, its header opened.
///
/// # Errors
///
/// [`ManageError::NoObject`], [`ManageError::Header`], and what can happen to any call.
pub async fn stat(session: &Session, place: &Place) -> Result<ObjectInfo, ManageError> {
    let sealed_place = place.seal(session).await?;
    let verb = Verb::GetObject(pb::GetObject {
        bucket: place.bucket.clone(),
        encrypted_key: sealed_place.encrypted_key.clone(),
        header_only: true,
    });
    let object = answer_of!(
        session.call(verb, Repeat::Harmless).await,
        Object,
        "GetObject"
    );
    let object = object.map_err(|error| missing_or(error, &sealed_place))?;
    let header = open_header_of(session, &sealed_place, &object.sealed_header)
        .map_err(ManageError::Header)?;
    if header.plain_len() != object.plain_len {
        let altered = HeaderError::Altered {
            path: place.path(),
            what: "its length",
        };
        return Err(ManageError::Header(altered));
    }
    Ok(ObjectInfo {
        bucket: place.bucket.clone(),
        key: place.key.clone(),
        bytes: object.plain_len,
        piece_bytes: object.piece_bytes,
        segments: object.segment_count,
        created_ms: object.created_ms,
        modified_ms: header.modified_ms,
        expires_ms: object.expires_ms,
        metadata: header
            .metadata
            .iter()
            .map(|(name, value)| (name.clone(), value.len()))
            .collect(),
    })
}

/// Removes one object.
///
/// # Errors
///
/// [`ManageError::NoObject`], and what can happen to any call.
pub async fn remove(session: &Session, place: &Place) -> Result<(), ManageError> {
    let sealed_place = place.seal(session).await?;
    let verb = Verb::DeleteObject(pb::DeleteObject {
        bucket: place.bucket.clone(),
        encrypted_key: sealed_place.encrypted_key.clone(),
    });
    match session.call(verb, Repeat::Never).await {
        Ok(_) => Ok(()),
        Err(error) => Err(missing_or(error, &sealed_place)),
    }
}

fn missing_or(error: CallError, place: &SealedPlace) -> ManageError {
    match error.code() {
        Some(Code::NotFound) => ManageError::NoObject {
            bucket: place.place.bucket.clone(),
            key: place.place.key.clone(),
        },
        _ => error.into(),
    }
}
