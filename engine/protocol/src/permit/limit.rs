//! Limits `SLM1` and the ticket in them.

use std::ops::Deref;

use super::{LimitKey, PermitError, SatelliteKeys, TicketKey, verify_mac};
use crate::cipher::{siv_open, siv_seal};
use crate::id::{NodeId, PieceId, ProjectId, Serial};
use crate::limits::{PERMIT_BYTES_MAX, SCHEME_REQUIRED_MAX, SEALED_BYTES_MAX};
use crate::tlv::{Reader, Writer};

const MAGIC: &[u8; 4] = b"SLM1";

const SERIAL: u16 = 1;
const SATELLITE: u16 = 2;
const NODE: u16 = 3;
const PIECE_ID: u16 = 4;
const ACTION: u16 = 5;
const BYTE_COUNT: u16 = 6;
const SHAPE: u16 = 7;
const ISSUED: u16 = 8;
const EXPIRES: u16 = 9;
const PIECE_EXPIRY: u16 = 10;
const CLIENT: u16 = 11;
const EPOCH: u16 = 12;
const TICKET: u16 = 14;
const MAC: u16 = 15;

/// What a limit permits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum LimitAction {
    /// Store the piece.
    Put = 1,
    /// Read it.
    Get = 2,
    /// Delete it.
    Delete = 3,
    /// Read it, for an audit. A node serves it as any get.
    GetAudit = 4,
    /// Read it, to repair others.
    GetRepair = 5,
    /// Store it, repaired.
    PutRepair = 6,
}

impl LimitAction {
    /// Whether it permits to store.
    pub const fn is_put(self) -> bool {
        matches!(self, Self::Put | Self::PutRepair)
    }

    /// Whether it permits to read.
    pub const fn is_get(self) -> bool {
        matches!(self, Self::Get | Self::GetAudit | Self::GetRepair)
    }
}

impl TryFrom<u8> for LimitAction {
    type Error = PermitError;

    fn try_from(action: u8) -> Result<Self, PermitError> {
        Ok(match action {
            1 => Self::Put,
            2 => Self::Get,
            3 => Self::Delete,
            4 => Self::GetAudit,
            5 => Self::GetRepair,
            6 => Self::PutRepair,
            action => return Err(PermitError::Action { action }),
        })
    }
}

/// Everything a limit says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitFields {
    /// Names this limit; paid once.
    pub serial: Serial,
    /// Who permits.
    pub satellite: NodeId,
    /// Where.
    pub node: NodeId,
    /// Which piece.
    pub piece_id: PieceId,
    /// What.
    pub action: LimitAction,
    /// The most body bytes this limit pays for.
    pub byte_count: u64,
    /// k of the segment.
    pub required: u8,
    /// n of the segment.
    pub total: u8,
    /// The piece's index.
    pub index: u8,
    /// Sealed bytes of the segment; with k it gives the piece's length.
    pub sealed_len: u64,
    /// When the satellite made it, milliseconds since 1970.
    pub issued_ms: u64,
    /// When it ends, milliseconds since 1970.
    pub expires_ms: u64,
    /// When the piece may be dropped, milliseconds since 1970; 0 = never.
    pub piece_expiry_ms: u64,
    /// Node id of the client's transport key: a stolen limit is no use on another connection.
    pub client: NodeId,
    /// Which of the satellite's keys for this node made the MAC.
    pub epoch: u32,
}

/// A limit whose MAC was right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    fields: LimitFields,
    /// Sealed by the satellite for itself: names the project that pays.
    pub ticket: [u8; 32],
}

impl Deref for Limit {
    type Target = LimitFields;

    fn deref(&self) -> &LimitFields {
        &self.fields
    }
}

impl Limit {
    /// Makes a limit: the bytes that the client carries to the node.
    ///
    /// # Panics
    ///
    /// If the piece shape is one that [`Limit::parse`] refuses: the caller's mistake.
    pub fn mint(fields: &LimitFields, project: ProjectId, keys: &SatelliteKeys) -> Vec<u8> {
        assert_eq!(check_shape(fields), Ok(()), "{fields:?}");
        let mut writer = Writer::new(MAGIC);
        writer
            .field(SERIAL, fields.serial.as_bytes())
            .field(SATELLITE, fields.satellite.as_bytes())
            .field(NODE, fields.node.as_bytes())
            .field(PIECE_ID, fields.piece_id.as_bytes())
            .field(ACTION, &[fields.action as u8])
            .field(BYTE_COUNT, &fields.byte_count.to_le_bytes())
            .field(SHAPE, &encode_shape(fields))
            .field(ISSUED, &fields.issued_ms.to_le_bytes())
            .field(EXPIRES, &fields.expires_ms.to_le_bytes())
            .field(PIECE_EXPIRY, &fields.piece_expiry_ms.to_le_bytes())
            .field(CLIENT, fields.client.as_bytes())
            .field(EPOCH, &fields.epoch.to_le_bytes());
        let ticket = siv_seal(
            keys.ticket_key().as_bytes(),
            &[writer.as_bytes()],
            project.as_bytes(),
        );
        writer.field(TICKET, &ticket);
        let key = keys.limit_key(&fields.node, fields.epoch);
        let mac = blake3::keyed_hash(key.as_bytes(), writer.as_bytes());
        writer.field(MAC, mac.as_bytes());
        writer.finish()
    }

    /// Reads a limit. Nothing of it may be believed before [`UnverifiedLimit::verify`] but which
    /// key to take.
    ///
    /// # Errors
    ///
    /// [`PermitError::Structure`], [`PermitError::Action`], [`PermitError::Shape`].
    pub fn parse(bytes: &[u8]) -> Result<UnverifiedLimit<'_>, PermitError> {
        let mut reader = Reader::new(bytes, MAGIC, PERMIT_BYTES_MAX)?;
        let serial = (*reader.required(SERIAL)?.array()?).into();
        let satellite = (*reader.required(SATELLITE)?.array()?).into();
        let node = (*reader.required(NODE)?.array()?).into();
        let piece_id = (*reader.required(PIECE_ID)?.array()?).into();
        let action = reader.required(ACTION)?.u8()?.try_into()?;
        let byte_count = reader.required(BYTE_COUNT)?.u64()?;
        let [required, total, index, sealed_len @ ..] = *reader.required(SHAPE)?.array::<11>()?;
        let fields = LimitFields {
            serial,
            satellite,
            node,
            piece_id,
            action,
            byte_count,
            required,
            total,
            index,
            sealed_len: u64::from_le_bytes(sealed_len),
            issued_ms: reader.required(ISSUED)?.u64()?,
            expires_ms: reader.required(EXPIRES)?.u64()?,
            piece_expiry_ms: reader.required(PIECE_EXPIRY)?.u64()?,
            client: (*reader.required(CLIENT)?.array()?).into(),
            epoch: reader.required(EPOCH)?.u32()?,
        };
        let ticket = reader.required(TICKET)?;
        let mac = reader.required(MAC)?;
        reader.end()?;
        check_shape(&fields)?;
        Ok(UnverifiedLimit {
            limit: Self {
                fields,
                ticket: *ticket.array()?,
            },
            ticket_covers: &bytes[..ticket.offset],
            mac_covers: &bytes[..mac.offset],
            mac: mac.array()?,
        })
    }
}

/// A limit that anybody could have written.
#[derive(Clone, Copy, Debug)]
pub struct UnverifiedLimit<'a> {
    limit: Limit,
    ticket_covers: &'a [u8],
    mac_covers: &'a [u8],
    mac: &'a [u8; 32],
}

impl UnverifiedLimit<'_> {
    /// Whose key to take.
    pub fn satellite(&self) -> NodeId {
        self.limit.satellite
    }

    /// Which node it claims to be for.
    pub fn node(&self) -> NodeId {
        self.limit.node
    }

    /// Which epoch's key to take.
    pub fn epoch(&self) -> u32 {
        self.limit.epoch
    }

    /// The limit, if its MAC is right under this key.
    ///
    /// # Errors
    ///
    /// [`PermitError::Mac`].
    pub fn verify(&self, key: &LimitKey) -> Result<Limit, PermitError> {
        verify_mac(key.as_bytes(), self.mac_covers, self.mac)?;
        Ok(self.limit)
    }

    /// The project that the ticket names: for the satellite, before it pays.
    ///
    /// # Errors
    ///
    /// [`PermitError::Ticket`] if the ticket was not sealed under this key over exactly these
    /// fields.
    pub fn open_ticket(&self, key: &TicketKey) -> Result<ProjectId, PermitError> {
        let project = siv_open(key.as_bytes(), &[self.ticket_covers], &self.limit.ticket)
            .ok_or(PermitError::Ticket)?;
        ProjectId::try_from(project.as_slice()).map_err(|_| PermitError::Ticket)
    }
}

fn encode_shape(fields: &LimitFields) -> [u8; 11] {
    let [a, b, c, d, e, f, g, h] = fields.sealed_len.to_le_bytes();
    [
        fields.required,
        fields.total,
        fields.index,
        a,
        b,
        c,
        d,
        e,
        f,
        g,
        h,
    ]
}

fn check_shape(fields: &LimitFields) -> Result<(), PermitError> {
    let LimitFields {
        required,
        total,
        index,
        sealed_len,
        ..
    } = *fields;
    let is_good = (1..=SCHEME_REQUIRED_MAX).contains(&required)
        && required <= total
        && index < total
        && (1..=SEALED_BYTES_MAX).contains(&sealed_len);
    if is_good {
        Ok(())
    } else {
        Err(PermitError::Shape)
    }
}
