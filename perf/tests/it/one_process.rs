//! The network of 110 nodes in one process, on one executor: real sockets, real disks, the default scheme.

use std::collections::BTreeSet;

use strand_protocol::{NodeId, Scheme};
use uplink::Exit;

use crate::world::{World, content};

/// More than the distinct domains that 93 pieces need.
const NODE_COUNT: usize = 110;

/// Goal: what 80 nodes store comes back from any 29 of them, and from no fewer, and nothing is lost over a restart.
/// Method: 51 holders are stopped, data pieces first; then one more; then all are started again from their disks.
#[test]
fn of_110_nodes_in_one_process_51_holders_may_stop() {
    let world = World::start(NODE_COUNT, Scheme::DEFAULT);
    let session = world.session();
    let bytes = content(1, 24 << 20);
    let uploaded = world.put(&session, "object", &bytes).unwrap();
    assert_eq!(uploaded.segments[0].pieces_stored, 80);
    let report = world.download_equals("object", &bytes);
    let segment = &report.segments[0];
    assert_eq!((segment.pieces_stored, segment.data_pieces_lost), (80, 0));

    let committed = world.committed("object");
    let [segment] = committed.segments.as_slice() else {
        panic!("one segment of 24 MiB, not {}", committed.segments.len());
    };
    let mut holders: Vec<(u8, NodeId)> = segment
        .pieces
        .iter()
        .map(|piece| (piece.index, piece.node_id))
        .collect();
    holders.sort_unstable_by_key(|holder| holder.0);
    let holders: Vec<NodeId> = holders.into_iter().map(|holder| holder.1).collect();
    let distinct: BTreeSet<[u8; 3]> = holders
        .iter()
        .map(|&node_id| {
            let [a, b, c, _] = world.seat(node_id).address.ip().octets();
            [a, b, c]
        })
        .collect();
    assert_eq!(distinct.len(), 80, "each piece in a /24 of its own");

    world.stop_nodes(holders[..51].iter().copied());
    let report = world.download_equals("object", &bytes);
    // All data pieces that were stored are among the 51.
    let data_count = segment
        .pieces
        .iter()
        .filter(|piece| piece.index < 29)
        .count();
    assert!(data_count >= 20, "only {data_count} data pieces are stored");
    assert_eq!(report.segments[0].data_pieces_lost as usize, 29);
    assert_eq!(report.liars.len(), 0);

    world.stop_nodes([holders[51]]);
    let error = world.download_fails("object", &bytes);
    assert_eq!(error.exit(), Exit::Nodes, "{error}");
    assert!(
        error.to_string().contains("29 pieces are needed"),
        "{error}"
    );

    world.start_nodes(
        holders[..52]
            .iter()
            .map(|&holder| world.node_number(holder)),
    );
    let report = world.download_equals("object", &bytes);
    assert_eq!(report.segments[0].pieces_stored, 80);
}
