//! What is asked of a store in these proofs, and the pieces that it is asked about.
//!
//! A piece is a key and one of two variants under the same id, so a second put of the key is either the same piece again or a conflict.

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use strand_blob::disk::sim::SimDisk;
use strand_blob::testing::world::{DAY_S, NOW_S, SATELLITE, body_of, collect, id_of, piece_of};
use strand_blob::{
    CollectError, GetError, Name, NewPiece, Piece, PutError, ScrubCursor, Store, Stored, Traffic,
};

/// Keys of a run.
pub(crate) const KEYS: u64 = 16;
/// Pieces of one key.
pub(crate) const VARIANTS: u64 = 2;

/// One share and several, read whole and in parts, less than a block and more than a group.
const LENGTHS: [usize; 8] = [1, 576, 4_000, 16_384, 16_385, 50_000, 140_000, 900];

/// What may be asked about a key, or of the whole store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    Put {
        variant: u64,
    },
    Delete,
    Get,
    /// A collection that wants all but this piece.
    Trash,
    /// Brings all pieces back, whatever the key is.
    RestoreAll,
    /// Scrubs the whole store, whatever the key is.
    Scrub,
    /// Compacts one blob, whatever the key is.
    Compact(Traffic),
    /// Begins to compact one blob, and drops the call after so many polls.
    DropCompaction {
        polls: u64,
    },
    /// Writes a checkpoint, whatever the key is.
    Checkpoint,
}

/// A question, asked once or twice at the same time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call {
    pub(crate) key: u64,
    pub(crate) op: Op,
    pub(crate) is_doubled: bool,
}

/// One question about a key.
pub(crate) fn ask(key: u64, op: Op) -> Call {
    Call {
        key,
        op,
        is_doubled: false,
    }
}

/// What the store said.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    Put(Result<Stored, PutError>),
    Delete(Result<bool, PutError>),
    /// The variant that was read.
    Get(Result<u64, GetError>),
    /// Pieces that failed a check.
    Compact(Result<Vec<Name>, PutError>),
    Checkpoint(Result<bool, PutError>),
    /// How many pieces went into the trash.
    Trash(Result<u64, CollectError>),
    RestoreAll(Result<u64, PutError>),
    /// Pieces that were found damaged.
    Scrub(Vec<Name>),
}

/// When the piece of a key expires; 0 = never.
pub(crate) fn expiry_of(key: u64) -> u32 {
    match key % 8 {
        2 => NOW_S + 20 * DAY_S,
        3 => NOW_S + 400 * DAY_S,
        5 => NOW_S + 5 * DAY_S,
        _ => 0,
    }
}

/// The key of a piece id.
pub(crate) fn key_of(id: &[u8; 32]) -> u64 {
    id.iter()
        .take(8)
        .rev()
        .fold(0, |key, &byte| key << 8 | u64::from(byte))
}

thread_local! {
    static PIECES: Vec<NewPiece> = (0..KEYS * VARIANTS).map(made).collect();
}

fn made(number: u64) -> NewPiece {
    let (key, variant) = (number / VARIANTS, number % VARIANTS);
    let len = LENGTHS[(key + 3 * variant) as usize % LENGTHS.len()];
    NewPiece {
        expiry_s: expiry_of(key),
        ..piece_of(key, &body_of(key, variant, len))
    }
}

/// The piece of a key.
pub(crate) fn variant_piece(key: u64, variant: u64, now_s: u32) -> NewPiece {
    let number = key * VARIANTS + variant;
    let piece = PIECES.with(|pieces| pieces.get(number as usize).cloned());
    NewPiece {
        created_s: now_s,
        ..piece.unwrap_or_else(|| made(number))
    }
}

/// The variant that was read, every field of it.
///
/// # Panics
///
/// If it is none.
fn variant_of(key: u64, found: &Piece, body: &[u8]) -> u64 {
    let variant = (0..VARIANTS).find(|&variant| {
        let runs = variant_piece(key, variant, 0).body;
        let mut rest = body;
        let is_same = runs.iter().all(|run| {
            let (head, tail) = rest.split_at(run.len().min(rest.len()));
            rest = tail;
            head == &run[..]
        });
        is_same && rest.is_empty()
    });
    let Some(variant) = variant else {
        panic!(
            "piece {key}: {} bytes were served that nobody stored",
            body.len()
        )
    };
    let new = variant_piece(key, variant, 0);
    let is_whole = found.root == new.root
        && found.commitment == new.commitment
        && found.path == new.path
        && found.share_hashes == new.share_hashes
        && found.expiry_s == new.expiry_s;
    assert!(
        is_whole,
        "piece {key}: other hashes were served than were stored"
    );
    variant
}

/// Reads a piece whole; its variant.
pub(crate) async fn read_variant(
    store: &Store<SimDisk>,
    key: u64,
    now_s: u32,
) -> Result<u64, GetError> {
    let piece = store.piece(&SATELLITE, &id_of(key), now_s).await?;
    let body = store.read_shares(&piece, 0..piece.share_count()).await?;
    Ok(variant_of(key, &piece, &body))
}

/// Asks the store.
pub(crate) async fn perform(store: Rc<Store<SimDisk>>, call: Call, now_s: u32) -> Answer {
    let key = call.key;
    match call.op {
        Op::Put { variant } => Answer::Put(store.put(variant_piece(key, variant, now_s)).await),
        Op::Delete => Answer::Delete(store.delete(&SATELLITE, &id_of(key), now_s).await),
        Op::Get => Answer::Get(read_variant(&store, key, now_s).await),
        Op::Trash => {
            let collection = collect(&store, vec![key], now_s + 1).await;
            Answer::Trash(collection.map(|done| done.trashed))
        }
        Op::RestoreAll => Answer::RestoreAll(store.restore_all(&SATELLITE, now_s).await),
        Op::Scrub => {
            let mut lost = Vec::new();
            let mut cursor = ScrubCursor::default();
            while let Some(step) = store.scrub_step(cursor, 1 << 17).await {
                assert!(step.next > cursor, "a scrub goes on");
                cursor = step.next;
                lost.extend(step.lost.iter().map(|lost| (lost.satellite, lost.id)));
            }
            Answer::Scrub(lost)
        }
        Op::Compact(traffic) => {
            let done = store.compact_in(traffic, now_s).await;
            Answer::Compact(done.map(|done| done.unwrap_or_default().lost))
        }
        Op::DropCompaction { mut polls } => {
            let mut compaction = pin!(store.compact_in(Traffic::Quiet, now_s));
            let done = poll_fn(|context| {
                if polls == 0 {
                    return Poll::Ready(Ok(None));
                }
                polls -= 1;
                compaction.as_mut().poll(context)
            });
            Answer::Compact(done.await.map(|done| done.unwrap_or_default().lost))
        }
        Op::Checkpoint => Answer::Checkpoint(store.checkpoint().await),
    }
}
