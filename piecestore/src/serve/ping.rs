//! `Ping{}` -> `Pong{version, node id}`: the satellite's dial-back and `status`.

use strand_protocol::pb;
use strand_protocol::pb::node_response::Answer;

use super::error::Failure;
use super::service::Service;
use crate::core::executor::{Clock, Executor};
use crate::stream::SendStream;

impl<D, E, C> Service<D, E, C>
where
    D: strand_blob::Disk + 'static,
    E: Executor,
    C: Clock,
{
    pub(super) async fn ping<S: SendStream>(&self, send: &mut S) -> Result<(), Failure> {
        let pong = pb::Pong {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node_id: self.node_id().as_bytes().to_vec(),
        };
        self.answer(send, Answer::Pong(pong)).await
    }
}
