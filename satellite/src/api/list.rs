//! Listing objects.

use strand_protocol::pb::satellite_response::Answer;
use strand_protocol::{Code, check_encrypted_prefix, limits as shared, pb};

use super::authorize::ProjectAccess;
use super::{bad_key, bucket, object};
use crate::core::list::ListQuery;
use crate::core::refusal::Refusal;
use crate::state::Satellite;
use crate::store::{Entry, MetaStore};

pub(super) async fn list<S: MetaStore>(
    satellite: &Satellite<S>,
    access: &ProjectAccess,
    request: pb::ListObjects,
    now_ms: u64,
) -> Result<Answer, Refusal> {
    let bucket = bucket::find(satellite, access, &request.bucket).await?;
    check_encrypted_prefix(bucket.names, &request.prefix).map_err(bad_key)?;
    if request.after.len() > shared::ENCRYPTED_KEY_BYTES_MAX {
        return Err(Refusal::new(Code::TooLarge, "after is longer than any key"));
    }
    let entry_count_max = match request.limit as usize {
        0 => shared::LIST_ENTRIES_MAX,
        limit => limit.min(shared::LIST_ENTRIES_MAX),
    };
    let query = ListQuery {
        names: bucket.names,
        prefix: request.prefix,
        has_delimiter: request.delimiter,
        after: request.after,
        entry_count_max,
        now_ms,
    };
    let page = satellite
        .store
        .list(access.id(), request.bucket, query)
        .await?;
    let entry = |entry| match entry {
        Entry::Object(key, row) => pb::ListEntry {
            object: Some(object::message(key, row, Vec::new())),
            prefix: Vec::new(),
        },
        Entry::Prefix(prefix) => pb::ListEntry {
            object: None,
            prefix,
        },
    };
    let entries = page.entries.into_iter().map(entry).collect();
    Ok(Answer::ObjectList(pb::ObjectList {
        entries,
        more: page.has_more,
    }))
}
