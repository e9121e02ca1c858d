//! The store on a simulated disk, from outside.
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should fail there"
)]

mod basics;
mod checkpoint;
mod clocks;
mod compact;
mod crash;
mod damage;
mod displaced;
mod faults;
mod golden;
mod group_commit;
mod independent;
mod memory;
mod model;
mod rebuild;
mod scrub;
mod sealed;
mod stillness;
mod support;
mod trash;
mod verify;
mod zeros;
