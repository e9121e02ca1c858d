//! The node against real sockets and disks.

mod disk;
mod driver;
mod node;
mod world;
