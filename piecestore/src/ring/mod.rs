//! The io_uring of a core: all datagrams and all disk bytes of its nodes go through it.
//!
//! This is the only module that names that crate, and the only one besides a line in `core::glommio`
//! with unsafe code. [`Ring`] batches submissions, one entry into the kernel a turn, and reaps completions without
//! waiting; an eventfd wakes its turning task when there is nothing to do. What stays true: an
//! operation in flight owns its memory until its completion has arrived, whoever stops waiting
//! for it; every kind of operation in flight has a bound. What datagrams and files *mean* is
//! left to `quic::udp` and `disk`.
//!
//! | file | noun |
//! |---|---|
//! | `turn` | the ring and its turning task |
//! | `datagram` | sockets: multishot receives, sends of trains |
//! | `file` | reads, writes, syncs, opens, closes and unlinks, each in its disk's queue |
//! | `buffer` | the buffers the kernel receives into |
//! | `message` | addresses and control messages as bytes |
//! | `socket` | opening a UDP socket |
//! | `probe` | whether this machine has what all this needs |
#![allow(unsafe_code, reason = "system calls and memory shared with the kernel")]

mod buffer;
mod datagram;
mod file;
mod message;
mod probe;
mod socket;
#[cfg(test)]
mod tests;
mod turn;

pub use datagram::{Outgoing, Received, SocketId};
pub use probe::{Unsupported, boot_ms, probe, raise_memory_lock_limit, raise_open_files_limit};
pub use turn::{Ring, RingOptions};
