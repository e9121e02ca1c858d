//! What a running satellite is made of.

use std::sync::Arc;
use std::time::Instant;

use strand_protocol::{NodeId, SatelliteKeys, Scheme};
use strand_transport::Dialer;
use tokio::sync::Semaphore;

use crate::core::address::Reach;
use crate::gc::Gc;
use crate::limits;
use crate::nodes::Nodes;
use crate::store::MetaStore;

/// Shared by all tasks of a running satellite.
pub(crate) struct Satellite<S> {
    pub(crate) id: NodeId,
    /// `host:port` in invitations.
    pub(crate) advertise: String,
    pub(crate) keys: SatelliteKeys,
    /// For every upload, in place of the one that the number of domains gives.
    pub(crate) scheme: Option<Scheme>,
    pub(crate) store: S,
    pub(crate) nodes: Nodes,
    /// For dial-backs and deletes, under the satellite's own identity.
    pub(crate) dialer: Dialer,
    pub(crate) reach: Reach,
    /// A permit for each check-in that dials back or is about to.
    pub(crate) check_ins: Semaphore,
    /// A permit for each dial-back under way.
    pub(crate) dial_backs: Semaphore,
    /// A permit for each filter that is being read for a node.
    pub(crate) filter_fetches: Semaphore,
    pub(crate) gc: Gc,
    /// A permit for each request under way.
    pub(crate) requests: Arc<Semaphore>,
    pub(crate) started: Instant,
}

impl<S: MetaStore> Satellite<S> {
    /// Ready to answer, with the nodes that the store knows.
    pub(crate) async fn new(
        dialer: Dialer,
        advertise: String,
        keys: SatelliteKeys,
        scheme: Option<Scheme>,
        reach: Reach,
        store: S,
    ) -> Result<Self, crate::store::StoreError> {
        let nodes = Nodes::new(store.nodes().await?);
        Ok(Self {
            id: dialer.node_id(),
            advertise,
            keys,
            scheme,
            store,
            nodes,
            dialer,
            reach,
            check_ins: Semaphore::new(limits::CHECK_INS_MAX),
            dial_backs: Semaphore::new(limits::DIAL_BACKS_MAX),
            filter_fetches: Semaphore::new(limits::FILTER_FETCHES_MAX),
            gc: Gc::default(),
            requests: Arc::new(Semaphore::new(limits::REQUESTS_MAX)),
            started: Instant::now(),
        })
    }
}
