//! A store on a simulated disk, and pieces to put into it: what the tests of this crate and the proofs of its users share.
//!
//! Everything here panics where it cannot go on: who calls it has a test to fail.

use std::future::Future;
use std::rc::Rc;

use blake3::hazmat::HasherExt;
use bytes::Bytes;

use crate::collect::{CollectError, CollectRequest, Collection, Wanted};
use crate::compact::Compaction;
use crate::disk::sim::SimDisk;
use crate::error::{GetError, OpenError, PutError};
use crate::piece::{NewPiece, Piece, Stored};
use crate::recover::Recovery;
use crate::scrub::{ScrubCursor, ScrubStep};
use crate::store::{Store, StoreOptions};
use crate::testing::{Executor, Knowledge, Random};

/// Whose store it is.
pub const NODE: [u8; 32] = [0x4e; 32];
/// Whose pieces they are.
pub const SATELLITE: [u8; 32] = [0x5a; 32];
/// When it is, seconds since 1970.
pub const NOW_S: u32 = 1_800_000_000;
/// Seconds of a day.
pub const DAY_S: u32 = 86_400;

/// Blobs of 256 KiB and groups of 64 KiB, so that a few pieces fill several.
pub fn small_options() -> StoreOptions {
    let mut options = StoreOptions::new(NODE, 1 << 30);
    options.blob_bytes_max = 256 << 10;
    options.group_bytes_max = 64 << 10;
    options
}

/// The id of test piece `key`.
pub fn id_of(key: u64) -> [u8; 32] {
    let mut id = [0x1d; 32];
    id[..8].copy_from_slice(&key.to_le_bytes());
    id
}

/// Body of a piece: every (key, variant, length) another one.
pub fn body_of(key: u64, variant: u64, len: usize) -> Vec<u8> {
    let mut body = vec![0; len];
    Random::new(key << 32 ^ variant << 24 ^ len as u64).fill(&mut body);
    body
}

/// A piece with this body, its hashes as docs/format.md section 4 has them.
pub fn piece_of(key: u64, body: &[u8]) -> NewPiece {
    let shares = body.chunks(16_384).enumerate().map(|(share, bytes)| {
        let mut hasher = blake3::Hasher::new();
        hasher.set_input_offset(share as u64 * 16_384);
        hasher.update(bytes).finalize_non_root()
    });
    let split = body.len() / 3;
    NewPiece {
        satellite: SATELLITE,
        id: id_of(key),
        created_s: NOW_S,
        expiry_s: 0,
        body: vec![
            Bytes::copy_from_slice(&body[..split]),
            Bytes::copy_from_slice(&body[split..]),
        ],
        crcs: crate::piece::share_crcs(body),
        share_hashes: if body.len() > 16_384 {
            shares.collect()
        } else {
            Vec::new()
        },
        root: blake3::hash(body).into(),
        path: (0..7).map(|step| [0x70 + step; 32]).collect(),
        commitment: *blake3::hash(&id_of(key)).as_bytes(),
    }
}

/// A piece of this length.
pub fn piece(key: u64, len: usize) -> NewPiece {
    piece_of(key, &body_of(key, 0, len))
}

/// A running store, its disk and its executor.
pub struct World {
    /// Runs the committer and whatever the test begins.
    pub executor: Executor,
    /// Where the files are.
    pub disk: SimDisk,
    /// The store.
    pub store: Rc<Store<SimDisk>>,
    /// What its opening found.
    pub recovery: Recovery,
}

/// Opens a store and spawns its committer.
///
/// # Errors
///
/// Those of [`Store::open`].
pub fn try_open(disk: &SimDisk, options: StoreOptions, seed: u64) -> Result<World, OpenError> {
    let executor = Executor::new(seed);
    let on = disk.clone();
    let opened = executor.run(async move {
        let mut random = Random::new(seed ^ 0x0be7);
        Store::open(on, options, NOW_S, &mut |bytes: &mut [u8]| {
            random.fill(bytes)
        })
        .await
    });
    let (store, recovery) = opened?;
    executor.spawn(Rc::clone(&store).run_commits());
    Ok(World {
        executor,
        disk: disk.clone(),
        store,
        recovery,
    })
}

/// The same, where nothing may be wrong.
pub fn open(disk: &SimDisk, options: StoreOptions, seed: u64) -> World {
    try_open(disk, options, seed).unwrap_or_else(|error| panic!("the store does not open: {error}"))
}

/// What a store would know that is opened from the blobs of this disk alone.
pub fn rebuilt(disk: &SimDisk, mut options: StoreOptions) -> Knowledge {
    options.ignores_checkpoint = true;
    let world = open(&SimDisk::from_all_files(1, disk.all_files()), options, 9);
    Knowledge::of(&world.store)
}

impl World {
    /// A new store on an empty disk.
    pub fn new(seed: u64) -> Self {
        open(&SimDisk::new(seed), small_options(), seed)
    }

    /// Runs work on the store to its end, with everything else beside it.
    pub fn run<T: 'static, F: Future<Output = T> + 'static>(
        &self,
        work: impl FnOnce(Rc<Store<SimDisk>>) -> F,
    ) -> T {
        self.executor.run(work(Rc::clone(&self.store)))
    }

    /// Stores a piece.
    ///
    /// # Errors
    ///
    /// Those of [`Store::put`].
    pub fn put(&self, piece: NewPiece) -> Result<Stored, PutError> {
        self.run(|store| async move { store.put(piece).await })
    }

    /// Deletes a piece.
    ///
    /// # Errors
    ///
    /// Those of [`Store::delete`].
    pub fn delete(&self, key: u64) -> Result<bool, PutError> {
        self.run(|store| async move { store.delete(&SATELLITE, &id_of(key), NOW_S).await })
    }

    /// Finds a piece.
    ///
    /// # Errors
    ///
    /// Those of [`Store::piece`].
    pub fn piece(&self, key: u64) -> Result<Piece, GetError> {
        self.run(|store| async move { store.piece(&SATELLITE, &id_of(key), NOW_S).await })
    }

    /// Trashes these pieces, whatever else is there.
    ///
    /// # Errors
    ///
    /// Those of [`Store::collect`].
    pub fn trash(&self, keys: &[u64], now_s: u32) -> Result<Collection, CollectError> {
        let unwanted = keys.to_vec();
        self.run(move |store| async move { collect(&store, unwanted, now_s).await })
    }

    /// Brings all trash back.
    ///
    /// # Errors
    ///
    /// Those of [`Store::restore_all`].
    pub fn restore_all(&self, now_s: u32) -> Result<u64, PutError> {
        self.run(move |store| async move { store.restore_all(&SATELLITE, now_s).await })
    }

    /// Compacts one blob.
    pub fn compact(&self, now_s: u32) -> Option<Compaction> {
        self.run(move |store| async move {
            store
                .compact(now_s)
                .await
                .unwrap_or_else(|error| panic!("compaction: {error}"))
        })
    }

    /// Scrubs the whole store, so many bytes a step.
    pub fn scrub(&self, bytes_max: u64) -> Vec<ScrubStep> {
        self.run(move |store| async move {
            let mut steps = Vec::new();
            let mut cursor = ScrubCursor::default();
            while let Some(step) = store.scrub_step(cursor, bytes_max).await {
                assert!(step.next > cursor, "a scrub goes on");
                cursor = step.next;
                steps.push(step);
            }
            steps
        })
    }

    /// The whole body, every share verified.
    ///
    /// # Errors
    ///
    /// Those of [`Store::piece`] and [`Store::read_shares`].
    pub fn body(&self, key: u64) -> Result<Vec<u8>, GetError> {
        self.run(|store| async move { read_body(&store, key, NOW_S).await })
    }

    /// Closes in order.
    pub fn close(&self) {
        self.run(|store| async move { store.close().await });
        self.executor.run_until_stalled();
    }

    /// Closes in order and opens again.
    pub fn reopen(self, options: StoreOptions, seed: u64) -> Self {
        self.close();
        open(&self.disk, options, seed)
    }

    /// Cuts the power; the disk as it is found.
    pub fn crash(self, seed: u64) -> SimDisk {
        let found = self.disk.crash(seed);
        self.executor.abandon();
        found
    }

    /// Kills the process; the disk as the next one finds it.
    pub fn kill(self, seed: u64) -> SimDisk {
        let found = self.disk.kill(seed);
        self.executor.abandon();
        found
    }

    /// Every byte of every file must have a use, once nothing is on its way.
    pub fn check_space(&self) {
        self.executor.run_until_stalled();
        let space = self.store.space();
        assert!(space.adds_up(), "{space:?}");
        assert_eq!(space.file_bytes, self.disk.blob_bytes(), "{space:?}");
        assert_eq!(space.reserved_bytes, 0, "{space:?}");
    }
}

/// A filter that lacks these pieces.
struct AllBut(Vec<[u8; 32]>);

impl Wanted for AllBut {
    fn contains(&self, piece_id: &[u8; 32]) -> bool {
        !self.0.contains(piece_id)
    }
}

/// A collection of these pieces over the whole range, with a snapshot made now.
///
/// # Errors
///
/// Those of [`Store::collect`].
pub async fn collect(
    store: &Store<SimDisk>,
    unwanted: Vec<u64>,
    now_s: u32,
) -> Result<Collection, CollectError> {
    let wanted = AllBut(unwanted.into_iter().map(id_of).collect());
    let request = CollectRequest {
        satellite: SATELLITE,
        first_id: [0; 32],
        last_id: [0xff; 32],
        snapshot_s: now_s.max(NOW_S + 1),
        wanted: &wanted,
        now_s,
    };
    store.collect(request).await
}

/// The whole body of a piece, every share verified.
///
/// # Errors
///
/// Those of [`Store::piece`] and [`Store::read_shares`].
pub async fn read_body(store: &Store<SimDisk>, key: u64, now_s: u32) -> Result<Vec<u8>, GetError> {
    let piece = store.piece(&SATELLITE, &id_of(key), now_s).await?;
    let bytes = store.read_shares(&piece, 0..piece.share_count()).await?;
    assert_eq!(bytes.len() as u64, piece.body_len);
    Ok(bytes.to_vec())
}

/// Asserts that a stored piece is the one put, field by field.
pub fn check_same(world: &World, new: &NewPiece) {
    let (satellite, id) = (new.satellite, new.id);
    let read = world.run(|store| async move {
        let found = store.piece(&satellite, &id, NOW_S).await?;
        let body = store.read_shares(&found, 0..found.share_count()).await?;
        Ok::<_, GetError>((found, body))
    });
    let (found, body) = read.unwrap_or_else(|error| panic!("{id:?}: {error}"));
    check_fields(&found, &body, new);
}

/// The same for a piece that was read.
pub fn check_fields(found: &Piece, body: &[u8], new: &NewPiece) {
    assert_eq!(body.to_vec(), new.body.concat());
    assert_eq!(found.body_len, new.body_len());
    assert_eq!((found.satellite, found.id), (new.satellite, new.id));
    assert_eq!((found.root, found.commitment), (new.root, new.commitment));
    assert_eq!(
        (&found.path, &found.share_hashes),
        (&new.path, &new.share_hashes)
    );
    assert_eq!(
        (found.created_s, found.expiry_s),
        (new.created_s, new.expiry_s)
    );
}
