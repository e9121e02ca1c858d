//! The bytes of a commit group, and what stays to be done for each of its records.
//!
//! A group is laid out in one buffer. The body of a long piece that has a group for itself stays where it is: only the blocks that it shares
//! with headers and trailer are made. Formats: docs/format.md section 6.

use bytes::Bytes;

use crate::blobs::{Blob, Claim};
use crate::buffer::IoBuffer;
use crate::disk::Disk;
use crate::error::PutError;
use crate::footer::FooterEntry;
use crate::gather::Gather;
use crate::group::GroupPlan;
use crate::index::{Entry, Place};
use crate::layout::{self, BLOCK_BYTES, LONE_BODY_AT, RECORD_HEADER_BYTES};
use crate::piece::NewPiece;
use crate::queue::{Batch, Item, Work};
use crate::record::{self, Kind, RecordHeader};
use crate::states::Known;
use crate::store::Store;
use crate::wait::{KeyGuard, Sender};

/// A record that was laid out: all that is needed once it is durable. The group's bytes have its body by now.
pub(crate) struct Placed {
    pub(crate) fingerprint: u64,
    pub(crate) entry: Entry,
    pub(crate) footer_entry: FooterEntry,
    pub(crate) is_moved: bool,
    pub(crate) body_len: u64,
    /// Record header and trailer.
    pub(crate) overhead_bytes: u64,
    pub(crate) replaced: Vec<Known>,
    pub(crate) reserved_bytes: u64,
    pub(crate) done: Sender<Result<(), PutError>>,
    pub(crate) guard: Option<KeyGuard>,
}

impl Item {
    fn header(&self, satellite_slot: u8, sequence: u64) -> RecordHeader {
        match &self.work {
            Work::Put(piece) => RecordHeader {
                kind: Kind::Piece,
                path_len: piece.path.len() as u8,
                satellite_slot,
                body_len: piece.body_len() as u32,
                id: piece.id,
                created_s: piece.created_s,
                expiry_s: piece.expiry_s,
                sequence,
            },
            &Work::Mark {
                kind,
                id,
                created_s,
                expiry_s,
            } => RecordHeader {
                kind,
                path_len: 0,
                satellite_slot,
                body_len: 0,
                id,
                created_s,
                expiry_s,
                sequence,
            },
            Work::Move { record, .. } => RecordHeader {
                satellite_slot,
                ..*record
            },
        }
    }

    pub(crate) fn record_len(&self) -> u64 {
        self.header(0, 0).record_len()
    }

    fn is_moved(&self) -> bool {
        matches!(self.work, Work::Move { .. })
    }

    /// The piece whose body may be written from where it lies, and that body.
    fn body_in_place(&self) -> Option<(&NewPiece, &Bytes)> {
        match &self.work {
            Work::Put(piece) => piece.body_in_place().map(|body| (piece, body)),
            _ => None,
        }
    }

    /// Lays out its record, for `offset` in `blob`; `out` is exactly that long.
    fn encode_into<F>(&self, header: &RecordHeader, blob: &Blob<F>, offset: u64, out: &mut [u8]) {
        let (head, rest) = out.split_at_mut(RECORD_HEADER_BYTES);
        header.encode_into(&blob.check, blob.id, offset, head);
        match &self.work {
            Work::Put(piece) => record::encode_body_and_trailer(piece, rest),
            Work::Move { rest: moved, .. } => rest.copy_from_slice(moved),
            Work::Mark { .. } => {}
        }
    }

    /// What stays to be done once its record, which lies at `offset` of the blob in `slot`, is durable.
    fn placed(self, record: RecordHeader, slot: u32, offset: u64) -> Placed {
        let (place, record_len) = (Place { slot, offset }, record.record_len());
        Placed {
            fingerprint: self.fingerprint,
            entry: Entry::new(place, record_len),
            footer_entry: FooterEntry { offset, record },
            is_moved: self.is_moved(),
            body_len: u64::from(record.body_len),
            overhead_bytes: record_len - u64::from(record.body_len),
            replaced: self.replaced,
            reserved_bytes: self.reserved_bytes,
            done: self.done,
            guard: Some(self.guard),
        }
    }
}

/// The bytes of a group of `group_len` bytes with this piece alone, whose body stays where it is but for what shares a block with something
/// else. `head` is the first block, with both headers.
fn around(piece: &NewPiece, body: &Bytes, mut head: IoBuffer, group_len: usize) -> Gather {
    let first_len = BLOCK_BYTES - LONE_BODY_AT;
    let middle_len = (body.len() - first_len) / BLOCK_BYTES * BLOCK_BYTES;
    let middle = body.slice(first_len..first_len + middle_len);
    let last = &body[first_len + middle_len..];
    head[LONE_BODY_AT..].copy_from_slice(&body[..first_len]);
    let mut tail = IoBuffer::for_overwriting(group_len - BLOCK_BYTES - middle_len);
    tail[..last.len()].copy_from_slice(last);
    let trailer_len = layout::trailer_len(body.len() as u64, piece.path.len()) as usize;
    record::encode_trailer(piece, &mut tail[last.len()..][..trailer_len]);
    tail.zero_from(last.len() + trailer_len);
    Gather::around(head, middle, tail)
}

impl<D: Disk> Store<D> {
    /// Gives each record its sequence and place, and lays out the group's bytes.
    pub(crate) fn lay_out(
        &self,
        blob: &Blob<D::File>,
        claim: &Claim,
        batch: Batch,
    ) -> (Gather, Vec<Placed>) {
        let record_count = batch.plan.record_count();
        let mut plan = GroupPlan::new();
        let number = |item: &Item| {
            let before = plan.end();
            let at = plan.push(item.record_len());
            (before, at, self.header_of(blob, item))
        };
        let numbered: Vec<_> = batch.items.iter().map(number).collect();
        assert_eq!(
            plan.group_len(),
            claim.len,
            "a group's plan and its records disagree"
        );
        let lone = match &batch.items[..] {
            [item] => item.body_in_place(),
            _ => None,
        };
        let head_len = if lone.is_some() {
            BLOCK_BYTES
        } else {
            claim.written_len() as usize
        };
        let mut head = IoBuffer::for_overwriting(head_len);
        let header = claim.group_header(record_count);
        header.encode_into(&blob.check, blob.id, claim.offset, &mut head);
        let bytes = if let Some((piece, body)) = lone {
            let (_, at, header) = &numbered[0];
            let offset = claim.offset + at;
            header.encode_into(&blob.check, blob.id, offset, &mut head[*at as usize..]);
            around(piece, body, head, claim.len as usize)
        } else {
            for ((before, at, header), item) in numbered.iter().zip(&batch.items) {
                head[*before as usize..*at as usize].fill(0);
                let out = &mut head[*at as usize..][..header.record_len() as usize];
                item.encode_into(header, blob, claim.offset + at, out);
            }
            head.zero_from(plan.end() as usize);
            head.into()
        };
        let placed = numbered
            .into_iter()
            .zip(batch.items)
            .map(|((_, at, header), item)| item.placed(header, blob.slot, claim.offset + at))
            .collect();
        (bytes, placed)
    }

    /// The header of an item's record in this blob, with the next sequence unless it is moved.
    fn header_of(&self, blob: &Blob<D::File>, item: &Item) -> RecordHeader {
        #[expect(
            clippy::expect_used,
            reason = "blob_for chose a blob whose table has every satellite of the batch"
        )]
        let satellite_slot = blob
            .satellite_slot(&item.satellite)
            .expect("a blob that knows the satellite");
        let sequence = self.next_sequence.get();
        if !item.is_moved() {
            self.next_sequence.set(sequence + 1);
        }
        item.header(satellite_slot, sequence)
    }
}
