//! Nodes that answer with genuine pieces, but not with the one that was asked for.
//!
//! The satellite, the client and what is served are real: every lie is made of pieces that nodes have stored and
//! acknowledged, with the roots, paths and hashes that belong to them. A liar takes over a stopped node's identity and
//! address, as a node that turned bad has them.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex};

use strand_codec::SHARE_BYTES;
use strand_perf::pieces::CommittedPiece;
use strand_perf::rewrite::find_records;
use strand_protocol::limits::NODE_FRAME_BYTES_MAX;
use strand_protocol::pb::{self, node_request::Verb, node_response::Answer};
use strand_protocol::{Code, Scheme};
use strand_transport::{Exchange, Identity, NODE_ALPN, Role, Server, StreamError};
use tokio::task::JoinHandle;
use uplink::error::DownloadError;

use crate::world::{World, content};

/// Eight pieces are stored, four restore.
const SCHEME: Scheme = Scheme {
    required: 4,
    repair: 6,
    optimal: 8,
    total: 10,
};

/// One segment; pieces of 31 shares.
const LEN: usize = 2_000_000;

/// A piece as a node sends it.
#[derive(Clone)]
struct Sent {
    root: Vec<u8>,
    path: Vec<u8>,
    hashes: Vec<u8>,
    body: Vec<u8>,
}

/// What a liar does when it is asked for its piece.
#[derive(Clone)]
enum Lie {
    Send(Sent),
    Refuse(Code),
    Silence,
}

/// The pieces of one version of an object, by index; those that were not stored are absent.
struct Version(Vec<Option<Sent>>);

/// What an honest client must notice, given the right piece, its index and other genuine pieces.
struct Case {
    name: &'static str,
    /// Whether the liar can be told from a node that lost its piece.
    is_named: bool,
    lie: fn(u8, &Genuine) -> Lie,
}

/// All that liars have to choose from.
struct Genuine {
    current: Version,
    older: Version,
    other: Version,
}

const CASES: &[Case] = &[
    Case {
        name: "another piece of the same segment",
        is_named: true,
        lie: |index, genuine| Lie::Send(genuine.current.neighbour(index)),
    },
    Case {
        name: "the piece of the object's older version",
        is_named: true,
        lie: |index, genuine| Lie::Send(genuine.older.any(index)),
    },
    Case {
        name: "the piece of another object",
        is_named: true,
        lie: |index, genuine| Lie::Send(genuine.other.any(index)),
    },
    Case {
        name: "the right root and path, all else of the older version",
        is_named: true,
        lie: |index, genuine| {
            let Sent { root, path, .. } = genuine.current.piece(index);
            let older = genuine.older.any(index);
            Lie::Send(Sent {
                root,
                path,
                ..older
            })
        },
    },
    Case {
        name: "the right hashes, the bytes of the older version",
        is_named: true,
        lie: |index, genuine| {
            let body = genuine.older.any(index).body;
            let current = genuine.current.piece(index);
            Lie::Send(Sent { body, ..current })
        },
    },
    Case {
        name: "two shares exchanged",
        is_named: true,
        lie: |index, genuine| {
            let mut sent = genuine.current.piece(index);
            exchange(&mut sent.body, SHARE_BYTES);
            Lie::Send(sent)
        },
    },
    Case {
        name: "two shares exchanged and their hashes too",
        is_named: true,
        lie: |index, genuine| {
            let mut sent = genuine.current.piece(index);
            exchange(&mut sent.body, SHARE_BYTES);
            exchange(&mut sent.hashes, 32);
            Lie::Send(sent)
        },
    },
    Case {
        name: "the last share of another piece",
        is_named: true,
        lie: |index, genuine| {
            let mut sent = genuine.current.piece(index);
            let last = sent.body.len() / SHARE_BYTES * SHARE_BYTES;
            let other = genuine.current.neighbour(index).body;
            sent.body[last..].copy_from_slice(&other[last..]);
            Lie::Send(sent)
        },
    },
    Case {
        name: "cut off within a share",
        is_named: false,
        lie: |index, genuine| {
            let mut sent = genuine.current.piece(index);
            sent.body.truncate(5 * SHARE_BYTES + 100);
            Lie::Send(sent)
        },
    },
    Case {
        name: "cut off within the hashes",
        is_named: false,
        lie: |index, genuine| {
            let mut sent = genuine.current.piece(index);
            sent.hashes.truncate(40);
            sent.body.clear();
            Lie::Send(sent)
        },
    },
    Case {
        name: "withheld",
        is_named: false,
        lie: |_, _| Lie::Refuse(Code::NotFound),
    },
];

/// Goal: whatever genuine bytes a node sends in place of the right ones, the client gives the exact object or a clear
/// error. Method: an object is stored, overwritten, and another of its length is stored beside it; then the holders of all
/// four data pieces lie, which must not matter, and one more does, which must fail.
#[test]
fn swapped_replayed_cut_and_withheld_pieces_never_become_bytes() {
    let world = World::start(10, SCHEME);
    let session = world.session();
    let store = |key: &str, seed: u64| {
        world.put(&session, key, &content(seed, LEN)).unwrap();
        let pieces = committed_pieces(&world, key);
        // Read before the satellite has an overwritten object's pieces deleted.
        (Version::read(&world, &pieces), pieces)
    };
    let (older, _) = store("object", 1);
    let (current, pieces) = store("object", 2);
    let (other, _) = store("other", 3);
    let genuine = Genuine {
        current,
        older,
        other,
    };
    world.block_on(session.close());

    // All four data pieces are held by liars, and one recovery piece by an accomplice who lies at times.
    let lying: Vec<&CommittedPiece> = pieces.iter().take(5).collect();
    let indices: Vec<u8> = lying.iter().map(|piece| piece.index).collect();
    assert_eq!(indices[..4], [0, 1, 2, 3]);
    world.stop_nodes(lying.iter().map(|piece| piece.node_id));
    let liars: Vec<Liar> = lying
        .iter()
        .map(|piece| Liar::start(&world, piece))
        .collect();

    let bytes = content(2, LEN);
    for case in CASES {
        for (liar, &index) in liars.iter().zip(&indices).take(4) {
            liar.set((case.lie)(index, &genuine));
        }
        liars[4].set(Lie::Send(genuine.current.piece(indices[4])));
        let report = world.download_equals("object", &bytes);
        assert_eq!(report.segments[0].data_pieces_lost, 4, "{}", case.name);
        let mut named: Vec<u8> = report.liars.iter().map(|liar| liar.index).collect();
        named.sort_unstable();
        let expected: &[u8] = if case.is_named { &[0, 1, 2, 3] } else { &[] };
        assert_eq!(named, expected, "{}", case.name);

        liars[4].set((case.lie)(indices[4], &genuine));
        let error = world.download_fails("object", &bytes);
        let is_counted = matches!(
            error,
            DownloadError::NotEnoughPieces {
                required_count: 4,
                stored_count: 8,
                ..
            }
        );
        assert!(is_counted, "{}: {error}", case.name);
    }
    // Silence is waited for, so only what can succeed is tried.
    for liar in &liars[..4] {
        liar.set(Lie::Silence);
    }
    liars[4].set(Lie::Send(genuine.current.piece(indices[4])));
    let report = world.download_equals("object", &bytes);
    assert_eq!(report.segments[0].data_pieces_lost, 4);
    for liar in liars {
        liar.task.abort();
    }
}

/// Exchanges the first two runs of `len` bytes.
fn exchange(bytes: &mut [u8], len: usize) {
    let (first, second) = bytes[..2 * len].split_at_mut(len);
    first.swap_with_slice(second);
}

/// The committed pieces of an object of one segment, by index.
fn committed_pieces(world: &World, key: &str) -> Vec<CommittedPiece> {
    let mut segments = world.committed(key).segments;
    assert_eq!(segments.len(), 1);
    let mut pieces = segments.remove(0).pieces;
    pieces.sort_unstable_by_key(|piece| piece.index);
    pieces
}

impl Version {
    /// As the nodes have stored them: docs/format.md, section 6.
    fn read(world: &World, pieces: &[CommittedPiece]) -> Self {
        let mut sent = vec![None; usize::from(SCHEME.total)];
        for piece in pieces {
            let id = *piece.piece_id.as_bytes();
            let blobs = world.seat(piece.node_id).dir.join("blobs");
            let place = find_records(&blobs, &[id]).unwrap().remove(&id).unwrap();
            let range = place.record.body_and_trailer();
            let mut body = vec![0; usize::try_from(range.end - range.start).unwrap()];
            let file = File::open(&place.path).unwrap();
            file.read_exact_at(&mut body, range.start).unwrap();
            let trailer = body.split_off(usize::try_from(place.record.body_len).unwrap());
            let table_len = place.record.share_count() as usize * 36;
            let (table, rest) = trailer.split_at(table_len);
            let hashes = table
                .chunks(36)
                .flat_map(|row| &row[4..])
                .copied()
                .collect();
            // Behind the path: the commitment and a CRC.
            let (root, rest) = rest.split_at(32);
            let path = rest[..rest.len() - 36].to_vec();
            sent[usize::from(piece.index)] = Some(Sent {
                root: root.to_vec(),
                path,
                hashes,
                body,
            });
        }
        Self(sent)
    }

    fn piece(&self, index: u8) -> Sent {
        self.0[usize::from(index)].clone().unwrap()
    }

    /// The piece of this index, or of the one below if it was not stored.
    fn any(&self, index: u8) -> Sent {
        let mut stored = self.0[..=usize::from(index)].iter().rev().flatten();
        stored.next().cloned().unwrap()
    }

    /// A piece of another index.
    fn neighbour(&self, index: u8) -> Sent {
        let (below, above) = self.0.split_at(usize::from(index));
        above[1..]
            .iter()
            .chain(below)
            .flatten()
            .next()
            .cloned()
            .unwrap()
    }
}

/// A node that turned bad.
struct Liar {
    lie: Arc<Mutex<Lie>>,
    task: JoinHandle<()>,
}

impl Liar {
    fn start(world: &World, piece: &CommittedPiece) -> Self {
        let seat = world.seat(piece.node_id);
        let identity = Identity::load(&seat.dir.join("identity.key")).unwrap();
        let lie = Arc::new(Mutex::new(Lie::Silence));
        let address = seat.address.into();
        let server = Server::bind(&identity, address, NODE_ALPN, Role::NodeServer);
        let server = world.block_on(server).unwrap();
        let task = world.spawn(serve(server, lie.clone()));
        Self { lie, task }
    }

    fn set(&self, lie: Lie) {
        *self.lie.lock().unwrap() = lie;
    }
}

async fn serve(server: Server, lie: Arc<Mutex<Lie>>) {
    while let Some(newcomer) = server.accept().await {
        let lie = lie.clone();
        tokio::spawn(async move {
            let Ok(connection) = newcomer.connection().await else {
                return;
            };
            while let Ok(exchange) = connection.accept_exchange().await {
                let lie = lie.lock().unwrap().clone();
                // The client may break off; that is its answer.
                tokio::spawn(async move { answer(exchange, lie).await.ok() });
            }
        });
    }
}

async fn answer(mut exchange: Exchange, lie: Lie) -> Result<(), StreamError> {
    let request: pb::NodeRequest = exchange.recv.frame(NODE_FRAME_BYTES_MAX).await?;
    let sent = match (request.verb, lie) {
        (Some(Verb::Get(pb::GetRequest { leaf_count: 0, .. })), Lie::Send(sent)) => sent,
        // Until the client goes.
        (_, Lie::Silence) => return exchange.send.delivered().await,
        (_, Lie::Refuse(code)) => return refuse(exchange, code).await,
        // The satellite has the older version's pieces deleted.
        _ => return refuse(exchange, Code::Unsupported).await,
    };
    let Sent {
        root,
        path,
        hashes,
        body,
    } = sent;
    let answer = Some(Answer::Get(pb::GetHeader { root, path }));
    exchange.send.frame(&pb::NodeResponse { answer }).await?;
    exchange.send.bytes(hashes.into()).await?;
    exchange.send.bytes(body.into()).await?;
    exchange.send.finish();
    exchange.send.delivered().await
}

async fn refuse(mut exchange: Exchange, code: Code) -> Result<(), StreamError> {
    let answer = Some(Answer::Error(code.error("as the test wants it")));
    exchange.send.frame(&pb::NodeResponse { answer }).await?;
    exchange.send.finish();
    exchange.send.delivered().await
}
