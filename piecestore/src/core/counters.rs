//! What a core counts: plain cells on the data path, read out when somebody asks.

use std::cell::Cell;
use std::ops::Add;

macro_rules! counters {
    ($($(#[doc = $doc:literal])* $name:ident,)*) => {
        /// The live counters of one core.
        #[derive(Debug, Default)]
        pub struct Counters {
            $($(#[doc = $doc])* pub $name: Count,)*
        }

        /// The counters of one core at one moment, or the sum over cores.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
        pub struct CoreCounters {
            $($(#[doc = $doc])* pub $name: u64,)*
        }

        impl CoreCounters {
            /// Each counter's name, as in its JSON, and what it counts.
            pub const NAMES: &[(&str, &str)] = &[$((stringify!($name), concat!($($doc),*)),)*];
        }

        impl Counters {
            /// All of them, now.
            #[must_use]
            pub fn read(&self) -> CoreCounters {
                CoreCounters { $($name: self.$name.get(),)* }
            }
        }

        impl Add for CoreCounters {
            type Output = Self;

            fn add(self, other: Self) -> Self {
                Self { $($name: self.$name + other.$name,)* }
            }
        }
    };
}

counters! {
    /// UDP datagrams that arrived (a GRO train counts each of its datagrams).
    datagrams_received,
    /// Those of them that an armed multishot receive delivered without being armed anew.
    datagrams_received_multishot,
    /// Receive completions: GRO trains and single datagrams.
    trains_received,
    /// Bytes in received datagrams.
    bytes_received,
    /// UDP datagrams sent.
    datagrams_sent,
    /// Sends of one train or one single datagram; `datagrams_sent / trains_sent` is the mean train.
    trains_sent,
    /// Sends of two or more datagrams at once (GSO).
    gso_trains_sent,
    /// Datagrams in those.
    gso_datagrams_sent,
    /// Bytes in sent datagrams.
    bytes_sent,
    /// Sends the kernel refused.
    sends_failed,
    /// Datagrams dropped on arrival: cut short, or without a source address.
    datagrams_dropped,
    /// Times a receive stopped because no buffer was free.
    receives_starved,
    /// Times a receive had to be armed, the first time included.
    receives_armed,
    /// Bytes written to disk.
    disk_bytes_written,
    /// Bytes read from disk.
    disk_bytes_read,
    /// Writes to disk.
    disk_writes,
    /// Reads from disk.
    disk_reads,
    /// Completed fdatasync and fsync calls.
    disk_syncs,
    /// Disk operations that took too long for their waiter.
    disk_timeouts,
    /// Entries into the kernel by the ring.
    ring_enters,
    /// Handshakes completed.
    handshakes,
    /// Connection attempts that were refused or asked to retry.
    handshakes_refused,
    /// Connections that ended.
    connections_closed,
    /// Those of them that had no admitted body for some time and were closed for another to have their memory.
    connections_dispensed,
    /// Long bodies for which there was no memory to have more in flight than of short ones.
    windows_refused,
    /// Streams that were reset at once, because the core had too many requests.
    requests_refused,
    /// Streams handed to the verbs.
    requests,
}

/// One counter.
#[derive(Debug, Default)]
pub struct Count(Cell<u64>);

impl Count {
    /// Adds `amount`.
    #[inline]
    pub fn add(&self, amount: u64) {
        self.0.set(self.0.get() + amount);
    }

    /// The count so far.
    #[must_use]
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_over_cores_add_field_by_field() {
        let counters = Counters::default();
        counters.bytes_sent.add(3);
        counters.bytes_sent.add(4);
        counters.requests.add(1);
        let sum = counters.read() + counters.read();
        assert_eq!((sum.bytes_sent, sum.requests, sum.handshakes), (14, 2, 0));
    }
}
