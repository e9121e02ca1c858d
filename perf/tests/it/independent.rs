//! Files restored without any of our code: from raw blobs, the satellite's tables, and a passphrase.
//!
//! The three independent readers of the engine's crates, which are written from docs/format.md with stock crates alone,
//! and one of the satellite's store, put together. The network only makes the files; the reader sees its folder when
//! everything has stopped. What it needs of ours are paths and names.

#[path = "../../../engine/blob/tests/it/independent.rs"]
mod blobs;
#[path = "../../../engine/protocol/tests/it/independent.rs"]
mod names;
#[path = "../../../engine/codec/tests/it/independent.rs"]
mod segments;
mod store;

use std::collections::HashMap;
use std::path::Path;

use strand_perf::random::Random;
use strand_protocol::Scheme;

use self::segments::SegmentFacts;
use self::store::{Place, Store, StoredSegment};
use crate::support::{BUCKET, PASSPHRASE};
use crate::world::{World, content};

/// Pieces by node id and piece id.
type Pieces = HashMap<([u8; 32], [u8; 32]), blobs::RawPiece>;

/// Everything that a network leaves behind.
struct Remains {
    store: Store,
    pieces: Pieces,
}

/// Goal: public software and the document are enough to get a file back. Method: files around the boundaries (inline,
/// the first piece of 576 bytes, several stripes, a full segment and one byte) go up through the real client; all is
/// stopped; each comes back from 29 pieces drawn by a seed, and from 28 it does not.
#[test]
fn files_are_restored_from_29_raw_blobs_with_stock_crates() {
    let mut world = World::start(96, Scheme::DEFAULT);
    let session = world.session();
    let lens = [0, 1, 16_384, 16_385, 5 << 20, (64 << 20) + 1];
    for (seed, len) in (0..).zip(lens) {
        let key = format!("files/of/{len} bytes");
        world.put(&session, &key, &content(seed, len)).unwrap();
    }
    world.block_on(session.close());
    world.stop();

    let remains = Remains {
        store: Store::read(&world.layout.satellite_dir.join("meta.redb")),
        pieces: read_nodes(world.layout.seats.iter().map(|seat| seat.dir.as_path())),
    };
    for (seed, len) in (0..).zip(lens) {
        let key = format!("files/of/{len} bytes");
        let restored = remains.restore(BUCKET, &key, &mut Random::new(seed, "pieces"));
        assert!(restored == content(seed, len), "{key}: other bytes");
    }
}

impl Remains {
    /// The bytes of an object, each segment from as few pieces as will do.
    fn restore(&self, bucket: &str, key: &str, random: &mut Random) -> Vec<u8> {
        let (project, salt) = self.store.project();
        let bucket_key = names::bucket_key(&names::root_key(PASSPHRASE, &salt), bucket, 0);
        let encrypted_key = names::encrypted_key(&bucket_key, key);
        let (stream_id, sealed_header) = self.store.object(&project, bucket, &encrypted_key);
        let path_key = names::path_key(&bucket_key, key);
        let header =
            names::open_header(&path_key, &project, bucket, &encrypted_key, &sealed_header);
        let header = header.expect("the header opens");

        let stored = self.store.segments(&stream_id);
        let leaf = |segment: &StoredSegment| {
            let StoredSegment {
                part_number,
                segment_index,
                plain_len,
                commitment,
                ..
            } = *segment;
            (part_number, segment_index, plain_len, commitment)
        };
        let leaves: Vec<_> = stored.iter().map(leaf).collect();
        assert_eq!(segments::object_root(&leaves), header.object_root);
        let plain_len = stored.iter().map(|segment| segment.plain_len).sum();
        let segment_count = u32::try_from(stored.len()).unwrap();
        assert_eq!(header.parts, [(1, plain_len, segment_count)]);

        let mut plain = Vec::new();
        for segment in &stored {
            let opened = self.open(segment, header.object_id, header.content_key, random);
            assert_eq!(opened.len() as u64, segment.plain_len);
            plain.extend(opened);
        }
        plain
    }

    fn open(
        &self,
        segment: &StoredSegment,
        object_id: [u8; 16],
        content_key: [u8; 32],
        random: &mut Random,
    ) -> Vec<u8> {
        let (required, total) = match segment.place {
            Place::Inline(_) => (0, 0),
            Place::Pieces {
                required, total, ..
            } => (required, total),
        };
        let facts = SegmentFacts {
            required,
            total,
            sealed_len: usize::try_from(segment.sealed_len).unwrap(),
            content_key,
            salt: segment.salt,
            key_commitment: segment.key_commitment,
            object_id,
            part_number: segment.part_number,
            segment_index: segment.segment_index,
        };
        match &segment.place {
            Place::Inline(sealed) => {
                let commitment = segments::inline_commitment(&facts, sealed);
                assert_eq!(commitment, segment.commitment);
                segments::open(&facts, sealed)
            }
            Place::Pieces {
                secret, placements, ..
            } => {
                let mut stored = self.find(secret, placements, segment.commitment);
                random.shuffle(&mut stored);
                check_any(&facts, &stored, segment.commitment)
            }
        }
    }

    /// All committed pieces of a segment, as its nodes stored them.
    fn find(
        &self,
        secret: &[u8; 32],
        placements: &[(u8, [u8; 32])],
        commitment: [u8; 32],
    ) -> Vec<(usize, &[u8])> {
        let find = |&(index, node): &(u8, [u8; 32])| {
            let piece = &self.pieces[&(node, names::piece_id(secret, &node, index))];
            assert_eq!(piece.commitment, commitment);
            (usize::from(index), piece.body.as_slice())
        };
        placements.iter().map(find).collect()
    }
}

/// Opens a segment from the first pieces of those stored: 29 do, 28 do not. All of them are what the code says.
fn check_any(facts: &SegmentFacts, stored: &[(usize, &[u8])], commitment: [u8; 32]) -> Vec<u8> {
    assert_eq!((facts.required, stored.len()), (29, 80));
    let few = segments::try_sealed_bytes(facts, &stored[..28]).unwrap_err();
    let recovery_received_count = stored[..28].iter().filter(|piece| piece.0 >= 29).count();
    assert_eq!(
        few,
        reed_solomon_simd::Error::NotEnoughShards {
            original_count: 29,
            original_received_count: 28 - recovery_received_count,
            recovery_received_count,
        }
    );
    let sealed = segments::sealed_bytes(facts, &stored[..29]);
    let pieces = segments::all_pieces(facts, &sealed);
    assert!(stored.iter().all(|&(index, body)| pieces[index] == body));
    assert_eq!(segments::segment_commitment(facts, &pieces), commitment);
    segments::open(facts, &sealed)
}

/// The live pieces of all nodes.
fn read_nodes<'a>(dirs: impl Iterator<Item = &'a Path>) -> Pieces {
    let mut pieces = Pieces::new();
    for dir in dirs {
        let files = std::fs::read_dir(dir.join("blobs")).unwrap();
        let paths = files.map(|file| file.unwrap().path());
        let raw: Vec<_> = paths
            .filter(|path| {
                path.extension()
                    .is_some_and(|extension| extension == "blob")
            })
            .map(|path| blobs::read_blob(&std::fs::read(path).unwrap()))
            .collect();
        for piece in blobs::live_pieces(&raw) {
            pieces.insert((raw[0].node_id, piece.id), piece);
        }
    }
    pieces
}
