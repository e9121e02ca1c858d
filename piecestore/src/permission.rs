//! Whether a limit allows what is asked, here and now.
//!
//! A limit is the satellite's word for one piece at one node, carried by a client. The node checks it alone: with the
//! keys it was given at check-in, against the key of the connection it came over, against the satellite's time, and
//! against what the same limit was used for before. This module decides; it sends nothing and reads no clock.
//!
//! What must stay true: nothing of a limit but its epoch and satellite is looked at before its MAC is checked.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use strand_protocol::permit::{Limit, LimitAction, LimitKey, PermitError, ReceiptKey};
use strand_protocol::{Code, NodeId};

use crate::core::executor::Moment;
use crate::limits::USED_SERIALS_MAX;
use crate::satellite_time::SatelliteTime;
use crate::serials::{SerialError, Serials};

/// What the satellite gives a node for one epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EpochKeys {
    /// Which epoch.
    pub epoch: u32,
    /// Checks limits.
    pub limit_key: LimitKey,
    /// Makes receipts.
    pub receipt_key: ReceiptKey,
}

/// One node's view of its satellite: keys, time, and the limits used.
#[derive(Debug)]
pub struct Permission {
    satellite: NodeId,
    node: NodeId,
    keys: RefCell<Vec<EpochKeys>>,
    time: Cell<SatelliteTime>,
    /// Satellite time of the first check-in: older limits may have been used before this process lived.
    accept_from_ms: Cell<Option<u64>>,
    serials: RefCell<Serials>,
}

/// A limit that passed every check but its serial's, and the keys of its epoch.
#[derive(Debug)]
pub struct Permitted {
    /// What the satellite allowed.
    pub limit: Limit,
    /// Makes the receipt.
    pub receipt_key: ReceiptKey,
}

/// A use of a limit: given back when dropped, except for what was settled.
#[derive(Debug)]
pub struct Spend {
    permission: Rc<Permission>,
    serial: strand_protocol::Serial,
    expires_ms: u64,
    unsettled: u64,
}

/// Why a limit is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PermissionError {
    /// Not a limit, or its MAC is wrong.
    #[error("bad limit: {0}")]
    Permit(#[from] PermitError),
    /// Another satellite's.
    #[error("the limit is of satellite {0}, which this node does not work for")]
    OtherSatellite(NodeId),
    /// Another node's.
    #[error("the limit is for node {0}")]
    OtherNode(NodeId),
    /// Issued to another connection's key.
    #[error("the limit was issued to client {0}, who is not this connection's")]
    OtherClient(NodeId),
    /// For another verb.
    #[error("the limit allows {0:?}, which is not this verb")]
    WrongAction(LimitAction),
    /// Too old.
    #[error("the limit expired: {expires_ms} < {now_ms}")]
    Expired {
        /// The limit's last millisecond.
        expires_ms: u64,
        /// Satellite time now.
        now_ms: u64,
    },
    /// The satellite's keys for this epoch are not (or no longer, or not yet) here.
    #[error("no key for epoch {0}")]
    UnknownEpoch(u32),
    /// Issued before this process began to remember serials.
    #[error("the limit was issued before this node started: {issued_ms} < {started_ms}")]
    BeforeStart {
        /// When the limit was made.
        issued_ms: u64,
        /// Satellite time of this process's first check-in.
        started_ms: u64,
    },
    /// Used before, or the set of used ones is full.
    #[error(transparent)]
    Serial(#[from] SerialError),
}

impl PermissionError {
    /// The registry's code for the client.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::WrongAction(_) => Code::Denied,
            Self::Expired { .. } | Self::UnknownEpoch(_) | Self::BeforeStart { .. } => {
                Code::StaleLimit
            }
            Self::Serial(SerialError::InUse | SerialError::Full { .. }) => Code::Busy,
            Self::Permit(_)
            | Self::OtherSatellite(_)
            | Self::OtherNode(_)
            | Self::OtherClient(_)
            | Self::Serial(SerialError::Used { .. }) => Code::BadLimit,
        }
    }
}

impl Permission {
    /// A node that has not checked in yet: every limit is stale.
    #[must_use]
    pub fn new(satellite: NodeId, node: NodeId) -> Rc<Self> {
        Rc::new(Self {
            satellite,
            node,
            keys: RefCell::new(Vec::new()),
            time: Cell::default(),
            accept_from_ms: Cell::new(None),
            serials: RefCell::new(Serials::new(USED_SERIALS_MAX)),
        })
    }

    /// Takes in a check-in's answer: the keys that count from now on, and the satellite's time as it was at our `moment`.
    pub fn update(&self, keys: Vec<EpochKeys>, satellite_ms: u64, moment: Moment) {
        self.keys.replace(keys);
        let mut time = self.time.get();
        time.learn(satellite_ms, moment);
        self.time.set(time);
        if self.accept_from_ms.get().is_none() {
            self.accept_from_ms.set(Some(satellite_ms));
        }
    }

    /// Satellite time in seconds since 1970, by which pieces expire; 0, by which none does, while it is not known well enough.
    #[must_use]
    pub fn expiry_time_s(&self, now_ms: u64) -> u32 {
        if !self.has_keys() || !self.time.get().is_trusted() {
            return 0;
        }
        u32::try_from(self.satellite_ms(now_ms) / 1000).unwrap_or(u32::MAX)
    }

    /// Satellite time at our `now_ms`.
    #[must_use]
    pub fn satellite_ms(&self, now_ms: u64) -> u64 {
        self.time.get().at(now_ms)
    }

    /// Satellite time minus ours, in milliseconds.
    #[must_use]
    pub fn clock_offset_ms(&self) -> i64 {
        self.time.get().skew_ms()
    }

    /// Our own time: that of the machine's clock at the start, or as it was corrected since.
    #[must_use]
    pub fn own_ms(&self, moment: Moment) -> u64 {
        self.time.get().own_ms(moment)
    }

    /// Whether the satellite's keys are here.
    #[must_use]
    pub fn has_keys(&self) -> bool {
        !self.keys.borrow().is_empty()
    }

    /// How many serials are remembered.
    #[must_use]
    pub fn serial_count(&self) -> usize {
        self.serials.borrow().len()
    }

    /// The satellite this node works for.
    #[must_use]
    pub fn satellite(&self) -> NodeId {
        self.satellite
    }

    /// Checks everything about a limit but whether it was used: see [`Permission::spend`].
    ///
    /// `peer` is the node id of the connection's client, `now_ms` our own clock.
    pub fn check(
        &self,
        bytes: &[u8],
        peer: NodeId,
        allowed: &[LimitAction],
        now_ms: u64,
    ) -> Result<Permitted, PermissionError> {
        let unverified = Limit::parse(bytes)?;
        if unverified.satellite() != self.satellite {
            return Err(PermissionError::OtherSatellite(unverified.satellite()));
        }
        let epoch = unverified.epoch();
        let keys = self
            .keys
            .borrow()
            .iter()
            .find(|keys| keys.epoch == epoch)
            .cloned()
            .ok_or(PermissionError::UnknownEpoch(epoch))?;
        let limit = unverified.verify(&keys.limit_key)?;

        if limit.node != self.node {
            return Err(PermissionError::OtherNode(limit.node));
        }
        if limit.client != peer {
            return Err(PermissionError::OtherClient(limit.client));
        }
        if !allowed.contains(&limit.action) {
            return Err(PermissionError::WrongAction(limit.action));
        }
        let now_ms = self.satellite_ms(now_ms);
        if limit.expires_ms < now_ms {
            return Err(PermissionError::Expired {
                expires_ms: limit.expires_ms,
                now_ms,
            });
        }
        let started_ms = self.accept_from_ms.get().unwrap_or(u64::MAX);
        if limit.issued_ms < started_ms {
            return Err(PermissionError::BeforeStart {
                issued_ms: limit.issued_ms,
                started_ms,
            });
        }
        Ok(Permitted {
            limit,
            receipt_key: keys.receipt_key,
        })
    }

    /// Uses `cost` of the `total` that a checked limit is good for.
    ///
    /// A limit that pays for one deed has cost 1 and total 1.
    pub fn spend(
        self: &Rc<Self>,
        limit: &Limit,
        cost: u64,
        total: u64,
        now_ms: u64,
    ) -> Result<Spend, PermissionError> {
        let mut serials = self.serials.borrow_mut();
        serials.drop_expired(self.satellite_ms(now_ms));
        serials.hold(limit.serial, limit.expires_ms, cost, total)?;
        Ok(Spend {
            permission: Rc::clone(self),
            serial: limit.serial,
            expires_ms: limit.expires_ms,
            unsettled: cost,
        })
    }
}

impl Spend {
    /// `amount` of what was spent is used for good.
    ///
    /// # Panics
    ///
    /// If it is more than what was spent and not settled before.
    pub fn settle(&mut self, amount: u64) {
        assert!(amount <= self.unsettled, "settled more than was spent");
        self.unsettled -= amount;
        self.permission
            .serials
            .borrow_mut()
            .settle(self.serial, self.expires_ms, amount);
    }
}

impl Drop for Spend {
    fn drop(&mut self) {
        let mut serials = self.permission.serials.borrow_mut();
        serials.give_back(self.serial, self.expires_ms, self.unsettled);
    }
}
