//! The satellite over real QUIC, with nodes that answer pings and mint receipts as real ones do.

mod cli;
mod life;
mod network;
mod nodes;
mod receipts;
