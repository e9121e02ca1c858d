//! The nodes' own counters, summed over a network: which path the bytes took.
//!
//! Every node reports the counters of its store and of the core that runs it; nodes of one core report the same core, so
//! cores are told apart by process and index and counted once.

use std::collections::{BTreeMap, HashSet};
use std::ops::Sub;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::local::Network;

/// Sums over all nodes, or the difference of two such sums.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Datagrams that the nodes received.
    pub datagrams_received: u64,
    /// Those that a multishot receive delivered.
    pub datagrams_received_multishot: u64,
    /// Datagrams that the nodes sent.
    pub datagrams_sent: u64,
    /// Sends, of one datagram or of a train.
    pub trains_sent: u64,
    /// Sends of two or more datagrams at once.
    pub gso_trains_sent: u64,
    /// Datagrams in those.
    pub gso_datagrams_sent: u64,
    /// Bytes that went to disk through the ring.
    pub ring_write_bytes: u64,
    /// Bytes that came from disk through the ring.
    pub ring_read_bytes: u64,
    /// Body bytes of pieces stored.
    pub piece_bytes: u64,
    /// Pieces stored.
    pub pieces_stored: u64,
    /// Deletes that were made durable.
    pub tombstones: u64,
    /// Puts and deletes that were acknowledged.
    pub acks: u64,
    /// Acks that left before the sync that covers them; anything but 0 is a fault.
    pub acks_before_sync: u64,
    /// Syncs that the stores waited for.
    pub syncs: u64,
}

impl Counters {
    /// Asks every node whose process runs.
    pub fn of_network(network: &mut Network) -> Result<Self> {
        let mut by_process: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for node in 0..network.seats().len() {
            let process = network.seats()[node].process;
            if network.process(process).is_some() {
                by_process.entry(process).or_default().push(node);
            }
        }
        // A process answers one question at a time, and its cores look for questions ten times a second.
        let network = &*network;
        let answers = std::thread::scope(|scope| {
            let ask_all = |nodes: Vec<usize>| -> Result<Vec<Value>> {
                nodes
                    .into_iter()
                    .map(|node| network.node_status(node))
                    .collect()
            };
            let workers: Vec<_> = by_process
                .into_values()
                .map(|nodes| scope.spawn(move || ask_all(nodes)))
                .collect();
            let mut answers = Vec::new();
            for worker in workers {
                answers.extend(
                    worker
                        .join()
                        .unwrap_or_else(|_| bail!("a status thread panicked"))?,
                );
            }
            anyhow::Ok(answers)
        })?;
        Self::sum(&answers)
    }

    /// Share of the received datagrams that came by multishot receives; none if nothing was received.
    pub fn multishot_share(&self) -> Option<f64> {
        ratio(self.datagrams_received_multishot, self.datagrams_received)
    }

    /// Datagrams per GSO train; none if there was no train.
    pub fn gso_train_mean(&self) -> Option<f64> {
        ratio(self.gso_datagrams_sent, self.gso_trains_sent)
    }

    /// Datagrams per send, single ones included; none if nothing was sent.
    pub fn send_mean(&self) -> Option<f64> {
        ratio(self.datagrams_sent, self.trains_sent)
    }

    fn sum(answers: &[Value]) -> Result<Self> {
        let mut sum = Self::default();
        let mut cores = HashSet::new();
        for answer in answers {
            let number = |value: &Value, name: &str| {
                value
                    .as_u64()
                    .with_context(|| format!("piecestore status has no number {name}"))
            };
            let count = |name: &str| number(&answer["counters"][name], name);
            let core = (
                number(&answer["process_id"], "process_id")?,
                number(&answer["core_index"], "core_index")?,
            );
            if cores.insert(core) {
                sum.datagrams_received += count("datagrams_received")?;
                sum.datagrams_received_multishot += count("datagrams_received_multishot")?;
                sum.datagrams_sent += count("datagrams_sent")?;
                sum.trains_sent += count("trains_sent")?;
                sum.gso_trains_sent += count("gso_trains_sent")?;
                sum.gso_datagrams_sent += count("gso_datagrams_sent")?;
                sum.ring_write_bytes += count("disk_bytes_written")?;
                sum.ring_read_bytes += count("disk_bytes_read")?;
            }
            sum.piece_bytes += count("piece_bytes_stored")?;
            sum.pieces_stored += count("pieces_stored")?;
            sum.tombstones += count("tombstones")?;
            sum.acks += count("acks")?;
            sum.acks_before_sync += count("acks_before_sync")?;
            sum.syncs += count("syncs")?;
        }
        Ok(sum)
    }
}

impl Sub for Counters {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        // A restarted process counts from 0 again: then the difference says nothing, and 0 says so.
        let less = u64::saturating_sub;
        Self {
            datagrams_received: less(self.datagrams_received, before.datagrams_received),
            datagrams_received_multishot: less(
                self.datagrams_received_multishot,
                before.datagrams_received_multishot,
            ),
            datagrams_sent: less(self.datagrams_sent, before.datagrams_sent),
            trains_sent: less(self.trains_sent, before.trains_sent),
            gso_trains_sent: less(self.gso_trains_sent, before.gso_trains_sent),
            gso_datagrams_sent: less(self.gso_datagrams_sent, before.gso_datagrams_sent),
            ring_write_bytes: less(self.ring_write_bytes, before.ring_write_bytes),
            ring_read_bytes: less(self.ring_read_bytes, before.ring_read_bytes),
            piece_bytes: less(self.piece_bytes, before.piece_bytes),
            pieces_stored: less(self.pieces_stored, before.pieces_stored),
            tombstones: less(self.tombstones, before.tombstones),
            acks: less(self.acks, before.acks),
            acks_before_sync: less(self.acks_before_sync, before.acks_before_sync),
            syncs: less(self.syncs, before.syncs),
        }
    }
}

fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn answer(pid: u64, core: u64, received: u64, stored: u64) -> Value {
        json!({
            "process_id": pid,
            "core_index": core,
            "counters": {
                "datagrams_received": received, "datagrams_received_multishot": received,
                "datagrams_sent": 40, "trains_sent": 10, "gso_trains_sent": 4, "gso_datagrams_sent": 34,
                "disk_bytes_written": 4_096, "disk_bytes_read": 0,
                "piece_bytes_stored": 576, "pieces_stored": stored, "tombstones": 0, "acks": stored,
                "acks_before_sync": 0, "syncs": 1,
            },
        })
    }

    #[test]
    fn a_core_counts_once_and_each_store_counts() {
        let answers = [
            answer(1, 0, 10, 2),
            answer(1, 0, 10, 3),
            answer(1, 1, 7, 4),
            answer(2, 0, 5, 1),
        ];
        let sum = Counters::sum(&answers).unwrap();
        assert_eq!(sum.datagrams_received, 22);
        assert_eq!(sum.pieces_stored, 10);
        assert_eq!(sum.ring_write_bytes, 3 * 4_096);
        assert_eq!(sum.multishot_share(), Some(1.0));
        assert_eq!(sum.gso_train_mean(), Some(8.5));
        assert_eq!(sum.send_mean(), Some(4.0));
    }

    #[test]
    fn a_missing_counter_is_an_error_not_a_zero() {
        let mut answer = answer(1, 0, 1, 1);
        answer["counters"]["acks"] = Value::Null;
        let error = Counters::sum(&[answer]).unwrap_err();
        assert_eq!(error.to_string(), "piecestore status has no number acks");
    }

    #[test]
    fn nothing_sent_has_no_mean() {
        assert_eq!(Counters::default().gso_train_mean(), None);
    }
}
