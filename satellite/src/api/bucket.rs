//! Buckets of a project.

use strand_protocol::pb::satellite_response::Answer;
use strand_protocol::{Names, check_bucket_name, pb};

use super::authorize::ProjectAccess;
use super::bad_key;
use crate::core::refusal::Refusal;
use crate::core::row::BucketRow;
use crate::state::Satellite;
use crate::store::MetaStore;

pub(super) async fn create<S: MetaStore>(
    satellite: &Satellite<S>,
    access: &ProjectAccess,
    request: pb::CreateBucket,
    now_ms: u64,
) -> Result<Answer, Refusal> {
    check_bucket_name(&request.name).map_err(bad_key)?;
    let names = match pb::NameMode::try_from(request.name_mode) {
        Ok(pb::NameMode::Sealed) => Names::Sealed,
        Ok(pb::NameMode::Plain) => Names::Plain,
        Err(_) => return Err(Refusal::bad_request("unknown name mode")),
    };
    let bucket = BucketRow {
        name: request.name,
        names,
        created_ms: now_ms,
    };
    satellite
        .store
        .create_bucket(access.id(), bucket.clone())
        .await?;
    Ok(Answer::Bucket(message(bucket)))
}

pub(super) async fn delete<S: MetaStore>(
    satellite: &Satellite<S>,
    access: &ProjectAccess,
    request: pb::DeleteBucket,
) -> Result<Answer, Refusal> {
    satellite
        .store
        .delete_bucket(access.id(), request.name)
        .await?;
    Ok(Answer::Done(pb::Done {}))
}

pub(super) async fn list<S: MetaStore>(
    satellite: &Satellite<S>,
    access: &ProjectAccess,
) -> Result<Answer, Refusal> {
    let buckets = satellite.store.buckets(access.id()).await?;
    Ok(Answer::Buckets(pb::Buckets {
        buckets: buckets.into_iter().map(message).collect(),
    }))
}

pub(super) async fn describe<S: MetaStore>(
    satellite: &Satellite<S>,
    access: &ProjectAccess,
    request: pb::GetBucket,
) -> Result<Answer, Refusal> {
    Ok(Answer::Bucket(message(
        find(satellite, access, &request.name).await?,
    )))
}

/// The bucket, or `NOT_FOUND`.
pub(super) async fn find<S: MetaStore>(
    satellite: &Satellite<S>,
    access: &ProjectAccess,
    name: &str,
) -> Result<BucketRow, Refusal> {
    let bucket = satellite.store.bucket(access.id(), name.to_owned()).await?;
    bucket.ok_or_else(|| Refusal::not_found(format!("no bucket {name}")))
}

fn message(bucket: BucketRow) -> pb::Bucket {
    let name_mode = match bucket.names {
        Names::Sealed => pb::NameMode::Sealed,
        Names::Plain => pb::NameMode::Plain,
    };
    pb::Bucket {
        name: bucket.name,
        name_mode: name_mode.into(),
        created_ms: bucket.created_ms,
    }
}
