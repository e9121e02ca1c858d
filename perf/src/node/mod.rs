//! `strand-perf node`: what a core of a node moves between network and disk, against the same verbs on tokio and quinn.
//!
//! The node under load and the load are processes of their own, on a core each, over loopback, with datagrams of internet size and handshakes
//! inside the clock. A figure is of processor time of the node's process: on loopback the kernel does a receiver's work in the sender's name, so
//! how long a transfer took says more about the load.
//!
//! | file | noun |
//! |---|---|
//! | `row` | what is compared, one entry each |
//! | `bench` | both sides of a row in turns |
//! | `subject` | the process that is measured, and what it answers with |
//! | `trial` | what a crowd of others does to honest peers |
//! | `crowd` | the process that is that crowd |
//! | `client` | a client that a node knows, and its pieces |
//! | `load` | the process that asks, and how it is told what |
//! | `sink` | a verb that drops what comes, for what the way alone costs |
//! | `baseline` | disk and streams of the other side |
//! | `figures` | what came of it, with its bars |

mod baseline;
mod bench;
mod client;
mod crowd;
mod figures;
mod load;
mod options;
mod row;
mod sink;
mod subject;
mod trial;

pub use bench::run;
pub use crowd::crowd_main;
pub use figures::Figures;
pub use load::load_main;
pub use options::Options;
pub use subject::subject_main;
