//! Strand on one machine, whole: a local network of real processes, the demo on it, and what it measures.

pub mod content;
pub mod draw;
pub mod ground;
pub mod part;
pub mod random;
pub mod report;
pub mod sample;
pub mod units;
