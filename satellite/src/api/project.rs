//! The project that a macaroon is for.

use strand_protocol::pb::satellite_response::Answer;
use strand_protocol::{CHECK_VALUE_BYTES, pb};

use super::authorize::ProjectAccess;
use crate::core::refusal::Refusal;
use crate::state::Satellite;
use crate::store::MetaStore;

pub(super) fn describe(access: &ProjectAccess) -> Answer {
    let project = access.project();
    Answer::Project(pb::Project {
        project_id: project.id.as_bytes().to_vec(),
        name: project.name.clone(),
        salt: project.salt.to_vec(),
        check_value: project.check_value.clone(),
    })
}

pub(super) async fn set_check_value<S: MetaStore>(
    satellite: &Satellite<S>,
    access: &ProjectAccess,
    request: pb::SetCheckValue,
) -> Result<Answer, Refusal> {
    super::fixed::<CHECK_VALUE_BYTES>("check_value", &request.check_value)?;
    let pb::SetCheckValue {
        check_value,
        replace,
    } = request;
    satellite
        .store
        .set_check_value(access.id(), check_value, replace)
        .await?;
    Ok(Answer::Done(pb::Done {}))
}
