//! Connections to storage nodes: one for each node, shared by all transfers of the process.
//!
//! A node that could not be reached rests for [`DEAD_NODE_REST`]: whoever wants it in the meantime
//! learns so at once. Dials are bounded. What a node does with a request is not known here.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use strand_protocol::NodeId;
use strand_transport::{Connection, Dialer, NODE_ALPN};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::error::NodeError;
use crate::limits::{DEAD_NODE_REST, DIALS_IN_FLIGHT_MAX, NODE_DIAL_TIMEOUT};

/// The nodes this process talks to.
#[derive(Debug)]
pub struct NodePool {
    dialer: Arc<Dialer>,
    slots: Mutex<HashMap<NodeId, Arc<Slot>>>,
    dials: Semaphore,
}

#[derive(Debug, Default)]
struct Slot {
    /// Held while dialling, so that all who want the node wait for one handshake.
    state: tokio::sync::Mutex<State>,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Idle,
    Open(Connection),
    Resting {
        since: Instant,
        reason: String,
    },
}

impl NodePool {
    pub(crate) fn new(dialer: Arc<Dialer>) -> Self {
        Self {
            dialer,
            slots: Mutex::new(HashMap::new()),
            dials: Semaphore::new(DIALS_IN_FLIGHT_MAX),
        }
    }

    /// A connection to the node, an open one if there is.
    ///
    /// # Errors
    ///
    /// [`NodeError`] if it cannot be reached, or could not a moment ago.
    pub async fn connect(&self, node: NodeId, address: &str) -> Result<Connection, NodeError> {
        let error = |reason: String| NodeError {
            node,
            address: address.to_owned(),
            reason,
        };
        let slot = self.slot(node);
        let mut state = slot.state.lock().await;
        match &*state {
            State::Open(connection) if !connection.is_closed() => return Ok(connection.clone()),
            State::Resting { since, reason } if since.elapsed() < DEAD_NODE_REST => {
                return Err(error(reason.clone()));
            }
            _ => {}
        }
        let Ok(_permit) = self.dials.acquire().await else {
            return Err(error("shutting down".to_owned()));
        };
        match self
            .dialer
            .dial_within(node, address, NODE_ALPN, NODE_DIAL_TIMEOUT)
            .await
        {
            Ok(connection) => {
                *state = State::Open(connection.clone());
                Ok(connection)
            }
            Err(failure) => {
                let reason = failure.to_string();
                *state = State::Resting {
                    since: Instant::now(),
                    reason: reason.clone(),
                };
                Err(error(reason))
            }
        }
    }

    /// Lets a node rest that is connected and yet silent. Requests under way on it go on.
    pub fn rest(&self, node: NodeId, reason: &str) {
        let slot = self.slot(node);
        if let Ok(mut state) = slot.state.try_lock() {
            *state = State::Resting {
                since: Instant::now(),
                reason: reason.to_owned(),
            };
        }
    }

    fn slot(&self, node: NodeId) -> Arc<Slot> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.entry(node).or_default().clone()
    }
}
