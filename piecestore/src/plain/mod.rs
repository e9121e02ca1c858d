//! What a core's bytes go through where io_uring is not to be had: plain system calls, and threads for those that wait for a disk.
//!
//! It stands where `ring` stands, with the same bounds: [`PlainDatagram`] for datagrams, [`Pool`] for files. It costs more calls into the
//! kernel, and two changes of thread for each operation on a file.
//!
//! | file | noun |
//! |---|---|
//! | `datagram` | sockets: many trains a receive, one a send |
//! | `file` | what `ring` does with files, each on a thread while it waits |

mod datagram;
mod file;

pub use datagram::PlainDatagram;
pub use file::Pool;
