//! `DeleteRequest{limit}` -> `Deleted{existed}`, durable when answered.

use strand_protocol::pb::node_response::Answer;
use strand_protocol::permit::LimitAction;
use strand_protocol::{NodeId, pb};

use super::error::{Failure, VerbError};
use super::service::{Service, seconds};
use crate::core::executor::{Clock, Executor};
use crate::stream::SendStream;

impl<D, E, C> Service<D, E, C>
where
    D: strand_blob::Disk + 'static,
    E: Executor,
    C: Clock,
{
    pub(super) async fn delete<S: SendStream>(
        &self,
        request: pb::DeleteRequest,
        peer: NodeId,
        send: &mut S,
    ) -> Result<(), Failure> {
        let store = self.opened()?;
        let now_ms = self.now_ms();
        let limit = self
            .permission()
            .check(&request.limit, peer, &[LimitAction::Delete], now_ms)
            .map_err(VerbError::from)?
            .limit;
        let mut spend = self
            .permission()
            .spend(&limit, 1, 1, now_ms)
            .map_err(VerbError::from)?;

        let existed = store
            .delete(
                limit.satellite.as_bytes(),
                limit.piece_id.as_bytes(),
                seconds(self.satellite_ms()),
            )
            .await
            .map_err(VerbError::from)?;
        spend.settle(1);
        self.answer(send, Answer::Deleted(pb::Deleted { existed }))
            .await
    }
}
