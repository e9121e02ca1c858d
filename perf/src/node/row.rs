//! What is compared: a list of rows, each the same work asked of two subjects.

use strand_protocol::limits::FULL_PIECE_BYTES;

use super::load::{Order, Verb};
use super::subject::Subject;

/// One comparison.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    /// What the keys of its figures begin with.
    pub(super) name: &'static str,
    /// The key of its ratio: processor time a byte of the peer, in ours.
    pub(super) ratio: &'static str,
    pub(super) ours: Subject,
    pub(super) peer: Subject,
    /// What is asked in one turn.
    pub(super) turn: Turn,
    /// Whether datagrams may be as long as jumbo frames carry.
    pub(super) is_jumbo: bool,
}

/// What one turn asks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turn {
    pub(super) verb: Verb,
    pub(super) piece_bytes: u64,
    pub(super) connections: usize,
    /// Requests of a connection at a time.
    pub(super) streams: usize,
    pub(super) count: u64,
    /// Requests begun a second; none: as soon as the one before has ended.
    pub(super) per_second: Option<f64>,
}

/// Pieces that are got again and again: together less than any page cache, and more than any processor's.
const HOT_PIECES: u64 = 64;

impl Row {
    /// The same with another number of requests in a turn, if one is given.
    pub(super) fn with_requests(mut self, count: Option<u64>) -> Self {
        self.turn.count = count.unwrap_or(self.turn.count);
        self
    }
}

impl Turn {
    /// Bytes of pieces that a turn moves.
    pub(super) fn bytes(&self) -> u64 {
        self.count * self.piece_bytes
    }

    /// What is asked before the first turn, without being counted: pieces to get, and each of them often enough to be in memory.
    pub(super) fn preparations(&self) -> Vec<Order> {
        match self.verb {
            Verb::Get => {
                let put = Self {
                    verb: Verb::Put,
                    count: HOT_PIECES,
                    per_second: None,
                    ..*self
                };
                let checked = Self {
                    count: HOT_PIECES,
                    per_second: None,
                    ..*self
                };
                let mut orders = vec![put.order(0)];
                orders.extend(vec![checked.order(0); 4]);
                orders
            }
            Verb::Put | Verb::Swap { .. } => Vec::new(),
        }
    }

    /// The order of a turn that begins with piece `first`.
    pub(super) fn order(&self, first: u64) -> Order {
        Order {
            verb: self.verb,
            piece_bytes: self.piece_bytes,
            connections: self.connections,
            streams: self.streams,
            first,
            count: self.count,
            distinct: match self.verb {
                Verb::Get => HOT_PIECES,
                Verb::Put | Verb::Swap { .. } => u64::MAX,
            },
            per_second: self.per_second,
        }
    }
}

const FULL: u64 = FULL_PIECE_BYTES;

pub(super) const fn full(verb: Verb, count: u64) -> Turn {
    Turn {
        verb,
        piece_bytes: FULL,
        connections: 8,
        streams: 2,
        count,
        per_second: None,
    }
}

/// All rows, in the order of the run.
pub(super) const ROWS: &[Row] = &[
    Row {
        name: "ingest",
        ratio: "ingest_vs_tokio_cpu",
        ours: Subject::Node,
        peer: Subject::TokioNode,
        turn: full(Verb::Put, 192),
        is_jumbo: false,
    },
    Row {
        name: "serve",
        ratio: "serve_vs_tokio_cpu",
        ours: Subject::Node,
        peer: Subject::TokioNode,
        turn: full(Verb::Get, 256),
        is_jumbo: false,
    },
    Row {
        name: "small_put",
        ratio: "small_put_vs_tokio",
        ours: Subject::Node,
        peer: Subject::TokioNode,
        turn: Turn {
            verb: Verb::Put,
            piece_bytes: 16 << 10,
            connections: 64,
            streams: 1,
            count: 8_192,
            per_second: None,
        },
        is_jumbo: false,
    },
    Row {
        name: "ingest_jumbo",
        ratio: "ingest_jumbo_vs_tokio_cpu",
        ours: Subject::Node,
        peer: Subject::TokioNode,
        turn: full(Verb::Put, 192),
        is_jumbo: true,
    },
    // What a node loses without io_uring.
    Row {
        name: "uring",
        ratio: "uring_vs_plain_cpu",
        ours: Subject::Node,
        peer: Subject::PlainNode,
        turn: full(Verb::Put, 192),
        is_jumbo: false,
    },
    // The ways alone: what comes is dropped, what goes is always the same.
    Row {
        name: "way_in",
        ratio: "way_in_vs_tokio_cpu",
        ours: Subject::Sink,
        peer: Subject::TokioSink,
        turn: full(Verb::Swap { is_back: false }, 256),
        is_jumbo: false,
    },
    Row {
        name: "way_out",
        ratio: "way_out_vs_tokio_cpu",
        ours: Subject::Sink,
        peer: Subject::TokioSink,
        turn: full(Verb::Swap { is_back: true }, 256),
        is_jumbo: false,
    },
    Row {
        name: "baseline",
        ratio: "baseline_vs_quinn_bulk",
        ours: Subject::TokioSink,
        peer: Subject::Quinn,
        turn: full(Verb::Swap { is_back: false }, 256),
        is_jumbo: false,
    },
];
