//! Garbage collection from end to end: a real satellite, real nodes on real disks, the real client.

use std::path::Path;
use std::time::{Duration, Instant};

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde_json::Value;
use strand_perf::pieces::{Committed, CommittedPiece, CommittedSegment, Prober};
use strand_protocol::permit::{Limit, LimitFields};
use strand_protocol::{NodeId, Scheme};

use crate::support::PROGRAM;
use crate::world::{PATIENCE, World, content, now_ms};

const NODE_COUNT: usize = 6;

const OUTBOX: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("outbox");

fn scheme() -> Scheme {
    Scheme::new(2, 3, 4, 5).unwrap()
}

/// `satellite gc`: with `--last` only how it went.
fn gc(world: &World, options: &[&str]) -> Value {
    let mut command = strand_perf::local::part_command(Path::new(PROGRAM), "satellite");
    command.arg("gc").args(options).arg("--json").arg("--dir");
    command.arg(&world.layout.satellite_dir);
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Waits until what `satellite gc --last` shows is as wanted.
fn wait_until(world: &World, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    let began = Instant::now();
    loop {
        let shown = gc(world, &["--last"]);
        if is_so(&shown) {
            return shown;
        }
        assert!(
            began.elapsed() < 2 * PATIENCE,
            "not within time: {what}: {shown}"
        );
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn sum(shown: &Value, field: &str) -> u64 {
    let nodes = shown["nodes"].as_array().unwrap();
    nodes.iter().filter_map(|node| node[field].as_u64()).sum()
}

/// Lets the nodes check in now, and waits until all have worked through the newest run.
fn collect_everywhere(world: &World) -> Value {
    let nodes: Vec<NodeId> = world.layout.seats.iter().map(|seat| seat.node_id).collect();
    world.stop_nodes(nodes);
    world.start_nodes(0..NODE_COUNT);
    wait_until(world, "all nodes have collected", |shown| {
        let nodes = shown["nodes"].as_array().unwrap();
        nodes.len() == NODE_COUNT && nodes.iter().all(|node| node["done"] == true)
    })
}

/// Reads every piece of an object from its node with limits made for it now; how many came.
fn pieces_read(world: &World, prober: &Prober, committed: &Committed) -> usize {
    let keys = world.satellite_keys();
    let now_ms = now_ms();
    let mut read = 0;
    for segment in &committed.segments {
        for piece in &segment.pieces {
            let mut serial = [0; 16];
            getrandom::fill(&mut serial).unwrap();
            let fields = LimitFields {
                serial: serial.into(),
                issued_ms: now_ms,
                expires_ms: now_ms + 60_000,
                ..*piece.limit
            };
            let piece = CommittedPiece {
                limit_bytes: Limit::mint(&fields, piece.project, &keys),
                ..piece.clone()
            };
            let alone = CommittedSegment {
                pieces: vec![piece],
                ..segment.clone()
            };
            let reading = prober.read_all_pieces(&alone);
            read += usize::from(world.block_on(reading).is_ok());
        }
    }
    read
}

/// Goal: pieces that the delete queue has given up on go into the trash, those of objects do not, a piece that is read after all comes
/// back and the satellite hears of it.
/// Method: nodes are away when an object is deleted; the queue's rows are taken out of the store behind its back, as they are when their
/// tries are used up. Then garbage is collected, the trashed pieces are read with limits that are still good, and it is looked at what
/// the satellite was told.
#[test]
fn what_the_delete_queue_gave_up_on_is_trashed_and_what_somebody_reads_comes_back() {
    let mut world = World::start(NODE_COUNT, scheme());
    let session = world.session();
    let (kept, gone) = (content(1, 300_000), content(2, 300_000));
    world.put(&session, "kept", &kept).unwrap();
    world.put(&session, "gone", &gone).unwrap();
    let (prober, committed) = world.committed_for_later("gone");
    assert_eq!(pieces_read(&world, &prober, &committed), 4);
    let nodes: Vec<NodeId> = world.layout.seats.iter().map(|seat| seat.node_id).collect();
    world.stop_nodes(nodes);
    world.remove(&session, "gone");
    world.block_on(session.close());

    world.restart_satellite(|dir| assert!(empty_outbox(dir) > 0));
    world.start_nodes(0..NODE_COUNT);
    assert_eq!(
        pieces_read(&world, &prober, &committed),
        4,
        "nobody asked for their deletion"
    );
    // Created in an earlier second than the snapshot's.
    std::thread::sleep(Duration::from_millis(1_100));
    let walked = gc(&world, &[]);
    assert_eq!(
        (&walked["last"]["segments"], &walked["last"]["pieces"]),
        (&1.into(), &4.into())
    );
    let collected = collect_everywhere(&world);
    // 4 pieces, and what cancelled uploads left over; a filter contains 1 in 256 by mistake.
    let trashed = sum(&collected, "trashed");
    assert!((3..=6).contains(&trashed), "{collected}");
    assert_eq!(sum(&collected, "refused_filters"), 0);
    world.download_equals("kept", &kept);
    assert_eq!(collected["revived_pieces"], 0);

    // The trash is still there for whoever has a limit.
    assert_eq!(pieces_read(&world, &prober, &committed), 4);
    let shown = wait_until(&world, "revived pieces are reported", |shown| {
        shown["revived_pieces"].as_u64() >= Some(3)
    });
    assert!(shown["revived_pieces"].as_u64() <= Some(4));
    world.download_equals("kept", &kept);
    world.block_on(prober.close());
}

/// Goal: where a node's pieces are shared out among several filters each speaks of its own ids alone: garbage of every part goes into the
/// trash, nothing that lives does.
/// Method: as above, with filters made for two pieces each. A filter that were made for more ids than it was filled with would trash what lives there.
#[test]
fn a_node_with_several_filters_loses_only_what_none_of_them_wants() {
    const OBJECTS: u64 = 8;
    const PIECES: u64 = 4 * OBJECTS;
    let mut world = World::start(NODE_COUNT, scheme());
    let session = world.session();
    let kept = (0..OBJECTS).map(|number| (format!("kept{number}"), content(number, 100_000)));
    let kept: Vec<_> = kept.collect();
    let gone = (0..OBJECTS).map(|number| (format!("gone{number}"), content(!number, 100_000)));
    let gone: Vec<_> = gone.collect();
    for (key, bytes) in kept.iter().chain(&gone) {
        world.put(&session, key, bytes).unwrap();
    }
    let nodes: Vec<NodeId> = world.layout.seats.iter().map(|seat| seat.node_id).collect();
    world.stop_nodes(nodes);
    for (key, _) in &gone {
        world.remove(&session, key);
    }
    world.block_on(session.close());
    world.gc.part_pieces = 2;
    world.restart_satellite(|dir| assert!(empty_outbox(dir) > 0));
    world.start_nodes(0..NODE_COUNT);
    // Created in an earlier second than the snapshot's.
    std::thread::sleep(Duration::from_millis(1_100));
    let walked = gc(&world, &[]);
    let pieces = walked["last"]["pieces"].as_u64().unwrap();
    assert!((PIECES..=PIECES + OBJECTS).contains(&pieces), "{walked}");

    let collected = collect_everywhere(&world);
    for node in collected["nodes"].as_array().unwrap() {
        let filters = node["pieces"].as_u64().unwrap().div_ceil(2).max(1);
        assert_eq!(node["filters"], filters, "{collected}");
    }
    assert!(sum(&collected, "filters") >= pieces / 2);
    let several = collected["nodes"].as_array().unwrap().iter();
    let several = several.filter(|node| node["filters"].as_u64() >= Some(2));
    assert!(several.count() > NODE_COUNT / 2, "{collected}");
    // Every piece was looked at once, by the filter that it belongs to.
    let [examined, kept_pieces, trashed] =
        ["examined", "kept", "trashed"].map(|field| sum(&collected, field));
    assert_eq!(examined, kept_pieces + trashed, "{collected}");
    // Of what is in no object a filter contains 1 in 256 by mistake.
    assert!((pieces..=pieces + 3).contains(&kept_pieces), "{collected}");
    assert!(trashed >= PIECES - 3, "{collected}");
    assert_eq!(sum(&collected, "refused_filters"), 0);
    for (key, bytes) in &kept {
        let (prober, committed) = world.committed_for_later(key);
        let segments = committed.segments.iter();
        let there: usize = segments.map(|segment| segment.pieces.len()).sum();
        assert_eq!(pieces_read(&world, &prober, &committed), there, "{key}");
        world.block_on(prober.close());
        world.download_equals(key, bytes);
    }
}

/// Empties the delete queue of a satellite that does not run; how many rows it had.
fn empty_outbox(dir: &Path) -> usize {
    let database = Database::open(dir.join("meta.redb")).unwrap();
    let rows = database.begin_read().unwrap().open_table(OUTBOX).unwrap();
    let keys: Vec<Vec<u8>> = rows
        .iter()
        .unwrap()
        .map(|row| row.unwrap().0.value().to_vec())
        .collect();
    drop(rows);
    let transaction = database.begin_write().unwrap();
    {
        let mut table = transaction.open_table(OUTBOX).unwrap();
        for key in &keys {
            table.remove(key.as_slice()).unwrap();
        }
    }
    transaction.commit().unwrap();
    keys.len()
}
