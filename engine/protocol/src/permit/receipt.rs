//! Receipts `SRC1`: a node's proof to the satellite that a piece is durable.

use super::{PermitError, ReceiptKey, verify_mac};
use crate::id::{NodeId, PieceId, Serial};
use crate::limits::{PERMIT_BYTES_MAX, PIECE_BYTES_MAX};
use crate::tlv::{Reader, Writer};

const MAGIC: &[u8; 4] = b"SRC1";

const SERIAL: u16 = 1;
const NODE: u16 = 2;
const PIECE_ID: u16 = 3;
const INDEX: u16 = 4;
const PIECE_LEN: u16 = 5;
const ROOT: u16 = 6;
const COMMITMENT: u16 = 7;
const PIECE_EXPIRY: u16 = 8;
const EPOCH: u16 = 9;
const MAC: u16 = 15;

/// What a node says it stores. Made after the durable write, and after the node checked the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The limit's.
    pub serial: Serial,
    /// Who stores.
    pub node: NodeId,
    /// What.
    pub piece_id: PieceId,
    /// The piece's index, from the limit.
    pub index: u8,
    /// Bytes of the piece.
    pub piece_len: u64,
    /// Root of the piece, computed by the node.
    pub root: [u8; 32],
    /// Commitment of the segment, to which root and path led.
    pub commitment: [u8; 32],
    /// From the limit, milliseconds since 1970; 0 = none.
    pub piece_expiry_ms: u64,
    /// Which of the satellite's keys for this node made the MAC.
    pub epoch: u32,
}

impl Receipt {
    /// The receipt's bytes under this key.
    pub fn mint(&self, key: &ReceiptKey) -> Vec<u8> {
        let mut writer = Writer::new(MAGIC);
        writer
            .field(SERIAL, self.serial.as_bytes())
            .field(NODE, self.node.as_bytes())
            .field(PIECE_ID, self.piece_id.as_bytes())
            .field(INDEX, &[self.index])
            .field(PIECE_LEN, &self.piece_len.to_le_bytes())
            .field(ROOT, &self.root)
            .field(COMMITMENT, &self.commitment)
            .field(PIECE_EXPIRY, &self.piece_expiry_ms.to_le_bytes())
            .field(EPOCH, &self.epoch.to_le_bytes());
        let mac = blake3::keyed_hash(key.as_bytes(), writer.as_bytes());
        writer.field(MAC, mac.as_bytes());
        writer.finish()
    }

    /// Reads a receipt. Nothing of it may be believed before [`UnverifiedReceipt::verify`] but
    /// which key to take.
    ///
    /// # Errors
    ///
    /// [`PermitError::Structure`], [`PermitError::Shape`].
    pub fn parse(bytes: &[u8]) -> Result<UnverifiedReceipt<'_>, PermitError> {
        let mut reader = Reader::new(bytes, MAGIC, PERMIT_BYTES_MAX)?;
        let receipt = Self {
            serial: (*reader.required(SERIAL)?.array()?).into(),
            node: (*reader.required(NODE)?.array()?).into(),
            piece_id: (*reader.required(PIECE_ID)?.array()?).into(),
            index: reader.required(INDEX)?.u8()?,
            piece_len: reader.required(PIECE_LEN)?.u64()?,
            root: *reader.required(ROOT)?.array()?,
            commitment: *reader.required(COMMITMENT)?.array()?,
            piece_expiry_ms: reader.required(PIECE_EXPIRY)?.u64()?,
            epoch: reader.required(EPOCH)?.u32()?,
        };
        let mac = reader.required(MAC)?;
        reader.end()?;
        if !(1..=PIECE_BYTES_MAX).contains(&receipt.piece_len) {
            return Err(PermitError::Shape);
        }
        Ok(UnverifiedReceipt {
            receipt,
            mac_covers: &bytes[..mac.offset],
            mac: mac.array()?,
        })
    }
}

/// A receipt that anybody could have written.
#[derive(Clone, Copy, Debug)]
pub struct UnverifiedReceipt<'a> {
    receipt: Receipt,
    mac_covers: &'a [u8],
    mac: &'a [u8; 32],
}

impl UnverifiedReceipt<'_> {
    /// Whose key to take.
    pub fn node(&self) -> NodeId {
        self.receipt.node
    }

    /// Which epoch's key to take.
    pub fn epoch(&self) -> u32 {
        self.receipt.epoch
    }

    /// Which limit it claims to answer.
    pub fn serial(&self) -> Serial {
        self.receipt.serial
    }

    /// The receipt, if its MAC is right under this key.
    ///
    /// # Errors
    ///
    /// [`PermitError::Mac`].
    pub fn verify(&self, key: &ReceiptKey) -> Result<Receipt, PermitError> {
        verify_mac(key.as_bytes(), self.mac_covers, self.mac)?;
        Ok(self.receipt)
    }
}
