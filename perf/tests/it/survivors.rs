//! Any 29 of 93: which pieces of an object survive does not matter.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;

use strand_perf::pieces::CommittedSegment;
use strand_perf::random::Random;
use strand_perf::rewrite::{Place, find_records};
use strand_protocol::Scheme;
use uplink::Exit;

use crate::world::{World, content};

/// The default code with all of its pieces kept: done at 93, not at 80.
const ALL_KEPT: Scheme = Scheme {
    required: 29,
    repair: 52,
    optimal: 93,
    total: 93,
};

/// Pieces that are drawn so often, besides the recovery rows alone.
const DRAWS: u64 = 2;

/// Goal: the whole client restores three segments from any 29 of 93 pieces of each, and says so if there are 28. Method:
/// the others are damaged on their nodes' disks so that the nodes refuse them, and healed for the next draw. No scrub runs meanwhile: what
/// one finds damaged stays out of service.
#[test]
fn any_29_of_93_pieces_restore_three_segments() {
    let world = World::start(96, ALL_KEPT);
    let _quiet = world.hold_upkeep();
    let session = world.session();
    let bytes = content(7, (128 << 20) + 3_000_001);
    let uploaded = world.put(&session, "object", &bytes).unwrap();
    world.block_on(session.close());
    let stored: Vec<u32> = uploaded
        .segments
        .iter()
        .map(|segment| segment.pieces_stored)
        .collect();
    assert_eq!(stored, [93, 93, 93]);
    let segments: Vec<Segment> = world
        .committed("object")
        .segments
        .iter()
        .map(|segment| Segment::find(&world, segment))
        .collect();
    assert_eq!(segments.len(), 3);

    // Recovery rows alone: 29 of the 64.
    let mut random = Random::new(1, "survivors");
    let mut recovery: Vec<usize> = (29..93).collect();
    let lost = download_with(&world, &segments, &bytes, || {
        random.shuffle(&mut recovery);
        recovery[..29].to_vec()
    });
    assert_eq!(lost, [29, 29, 29]);
    for seed in 0..DRAWS {
        let mut random = Random::new(seed, "survivors");
        let mut all: Vec<usize> = (0..93).collect();
        let mut drawn = Vec::new();
        let lost = download_with(&world, &segments, &bytes, || {
            random.shuffle(&mut all);
            drawn.push(all[..29].iter().filter(|&&index| index >= 29).count());
            all[..29].to_vec()
        });
        // As many data pieces are computed as recovery pieces were drawn.
        assert!(
            lost.iter().map(|&lost| lost as usize).eq(drawn),
            "seed {seed}"
        );
    }

    segments[0].flip(28..93);
    let error = world.download_fails("object", &bytes);
    assert_eq!(error.exit(), Exit::Damaged, "{error}");
    assert!(
        error.to_string().contains("29 pieces are needed"),
        "{error}"
    );
}

/// Downloads while only the pieces that `choose` names for each segment can be read; data pieces lost in each.
fn download_with(
    world: &World,
    segments: &[Segment],
    bytes: &[u8],
    mut choose: impl FnMut() -> Vec<usize>,
) -> Vec<u32> {
    let mut hide = || -> Vec<usize> {
        let chosen = choose();
        (0..93).filter(|index| !chosen.contains(index)).collect()
    };
    let hidden: Vec<Vec<usize>> = segments.iter().map(|_| hide()).collect();
    let flip = || {
        for (segment, hidden) in segments.iter().zip(&hidden) {
            segment.flip(hidden.iter().copied());
        }
    };
    flip();
    let report = world.download_equals("object", bytes);
    flip();
    assert_eq!(
        report.liars.len(),
        0,
        "damaged pieces are refused, not served"
    );
    let lost = report
        .segments
        .iter()
        .map(|segment| segment.data_pieces_lost);
    lost.collect()
}

/// Where the pieces of a segment lie, by index.
struct Segment(Vec<Place>);

impl Segment {
    fn find(world: &World, segment: &CommittedSegment) -> Self {
        let mut places: Vec<(u8, Place)> = segment
            .pieces
            .iter()
            .map(|piece| {
                let blobs = world.seat(piece.node_id).dir.join("blobs");
                let id = *piece.piece_id.as_bytes();
                let mut found = find_records(&blobs, &[id]).unwrap();
                (piece.index, found.remove(&id).unwrap())
            })
            .collect();
        places.sort_unstable_by_key(|place| place.0);
        assert!(places.iter().map(|place| place.0).eq(0..93));
        Self(places.into_iter().map(|place| place.1).collect())
    }

    /// Flips a bit in the first share of these pieces: a node refuses such a share. Done twice it is as before.
    fn flip(&self, indices: impl IntoIterator<Item = usize>) {
        for index in indices {
            let place = &self.0[index];
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .open(&place.path)
                .unwrap();
            let offset = place.record.body_and_trailer().start;
            let mut byte = [0];
            file.read_exact_at(&mut byte, offset).unwrap();
            file.write_all_at(&[byte[0] ^ 1], offset).unwrap();
            // Nodes read past the page cache.
            file.sync_data().unwrap();
        }
    }
}
