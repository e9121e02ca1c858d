//! What the satellite permits a client at a node, and what the node says it did (docs/format.md,
//! section 5).
//!
//! A *limit* lets one client put, get or delete one piece at one node. It carries a *ticket* that
//! only the satellite can mint, and a MAC under a key that the node has as well: the node verifies
//! limits but cannot make one that is paid. A *receipt* is the node's proof, after the durable
//! write, of what it stores.
//!
//! Keys of all nodes derive from one master key, so that any process of a satellite makes them
//! without a read. Whether a limit is for this node and client, fresh and unused, is the node's to
//! check: this module says only that it is genuine.

mod limit;
mod receipt;

pub use limit::{Limit, LimitAction, LimitFields, UnverifiedLimit};
pub use receipt::{Receipt, UnverifiedReceipt};

use crate::cipher::{expand, secret_keys};
use crate::id::NodeId;
use crate::tlv::TlvError;

secret_keys! {
    /// Proves limits to one node in one epoch.
    LimitKey(32);
    /// Proves receipts of one node in one epoch.
    ReceiptKey(32);
    /// Seals tickets. Never leaves the satellite.
    TicketKey(64);
}

secret_keys! {
    /// The satellite's master key, from which all its keys for limits, receipts and tickets derive.
    MasterKey(32);
}

/// All keys of a satellite for limits, receipts and tickets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SatelliteKeys {
    master: MasterKey,
    /// Derived once: every limit needs it.
    ticket: TicketKey,
}

impl SatelliteKeys {
    /// From the 32 bytes in the satellite's key file.
    pub fn new(master: [u8; 32]) -> Self {
        Self {
            ticket: expand(&master, &[b"strand v1 ticket"]).into(),
            master: master.into(),
        }
    }

    /// The key of the MACs of limits for this node.
    pub fn limit_key(&self, node: &NodeId, epoch: u32) -> LimitKey {
        expand(
            self.master.as_bytes(),
            &[b"strand v1 limit", node.as_bytes(), &epoch.to_le_bytes()],
        )
        .into()
    }

    /// The key of the MACs of receipts from this node.
    pub fn receipt_key(&self, node: &NodeId, epoch: u32) -> ReceiptKey {
        expand(
            self.master.as_bytes(),
            &[b"strand v1 receipt", node.as_bytes(), &epoch.to_le_bytes()],
        )
        .into()
    }

    /// The key of all tickets.
    pub fn ticket_key(&self) -> TicketKey {
        self.ticket.clone()
    }
}

/// Why a limit or receipt is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PermitError {
    /// Not the structure.
    #[error("permit {0}")]
    Structure(#[from] TlvError),
    /// An action that is not known.
    #[error("limit has unknown action {action}")]
    Action {
        /// The byte that was there.
        action: u8,
    },
    /// Counts or lengths that no piece has.
    #[error("permit has an impossible piece shape")]
    Shape,
    /// The MAC does not fit these bytes under this key.
    #[error("permit has a wrong MAC")]
    Mac,
    /// The ticket does not open over these bytes under this key.
    #[error("limit has a wrong ticket")]
    Ticket,
}

/// BLAKE3 keyed hash of everything before the MAC field, compared in constant time.
fn verify_mac(key: &[u8; 32], covered: &[u8], mac: &[u8; 32]) -> Result<(), PermitError> {
    // `blake3::Hash` compares in constant time.
    if blake3::keyed_hash(key, covered) == *mac {
        Ok(())
    } else {
        Err(PermitError::Mac)
    }
}

#[cfg(test)]
mod tests;
